"""Scans with a known truth: specimen, probe, scan and dose make a `Scan4D`."""

import numpy as np
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import detect, optics, patches, propagate
from phaseloom.physics.fourier import centred, shift
from phaseloom.physics.scatter import multislice

__all__ = ["atoms", "electron_scan", "mixed_probe", "raster"]


def atoms(
    shape: tuple[int, int],
    pixel: float,
    /,
    *,
    slices: int = 1,
    peak: float = 0.3,
    spacing: float = 2.2,
    seed: int = 0,
) -> np.ndarray:
    """Phases ``(slice, y, x)`` in radian of round atoms on a disturbed lattice, turned slice by slice.

    Args:
        shape: pixels (y, x).
        pixel: angstrom.
        slices: each gets a lattice of its own.
        peak: largest phase of an atom, radian.
        spacing: of the lattice, angstrom.
        seed: of the disturbance.

    Example:
        >>> atoms((40, 50), 0.2, slices=2).shape
        (2, 40, 50)
    """
    rng = np.random.default_rng(seed)
    size = np.array(shape) * pixel
    y, x = (np.arange(n) * pixel for n in shape)
    phase = np.zeros((slices, *shape))
    steps = np.arange(-2 * size.max(), 2 * size.max(), spacing)
    lattice = np.stack(np.meshgrid(steps, steps * np.sqrt(3) / 2, indexing="ij"), -1).reshape(-1, 2)
    for number in range(slices):
        angle = rng.uniform(0, np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        places = lattice @ turn + size / 2 + rng.normal(0, 0.1, lattice.shape)
        inside = ((places > -2) & (places < size + 2)).all(1)
        for at in places[inside]:
            width, height = rng.uniform(0.25, 0.4), peak * rng.uniform(0.6, 1)
            profile = [np.exp(-0.5 * ((axis - c) / width) ** 2) for axis, c in zip((y, x), at, strict=True)]
            phase[number] += height * np.outer(*profile)
    return phase


def raster(grid: tuple[int, int], step: float, /, *, jitter: float = 0.0, seed: int = 0) -> np.ndarray:
    """Positions ``(n, 2)`` of a raster, rows slow, with a normal error of ``jitter`` per axis."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.arange(n) * step for n in grid), indexing="ij"), -1).reshape(-1, 2)
    return places + rng.normal(0, 1, places.shape) * jitter


def mixed_probe(wave: torch.Tensor, modes: int, /, *, share: float = 0.05) -> torch.Tensor:
    """A wave of unit power with weaker, orthogonal modes: Hermite-like copies of it, ``share`` each."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in wave.shape]
    y, x = torch.meshgrid(*axes, indexing="ij")
    factors = [torch.ones_like(y), y, x, y * x, y**2 - x**2, y**2 + x**2][:modes]
    if modes > len(factors):
        raise BadInput("simulate: modes", modes, f"must be at most {len(factors)}")
    basis, _ = torch.linalg.qr(torch.stack([(wave * f).flatten() for f in factors], 1))
    power = torch.tensor([1 - share * (modes - 1)] + [share] * (modes - 1), dtype=torch.float64)
    return (basis.T * power.sqrt()[:, None]).reshape(modes, *wave.shape)


def electron_scan(  # noqa: PLR0913 - an experiment has as many numbers
    phase: np.ndarray,
    pixel: float,
    positions: np.ndarray,
    /,
    *,
    energy: float,
    semiangle: float,
    defocus: float = 0.0,
    thickness: float = 0.0,
    window: int = 64,
    modes: int = 1,
    dose: float = 1e6,
    seed: int = 0,
) -> tuple[Scan4D, np.ndarray]:
    """A scan of thin slices of known phase by a probe of known optics, with counting noise.

    Args:
        phase: ``(slice, y, x)`` radian; pixel ``[0, 0]`` is the origin of positions.
        pixel: angstrom, square.
        positions: ``(n, 2)`` angstrom.
        energy: eV.
        semiangle: radian.
        defocus: angstrom, positive is under-focus.
        thickness: between slices, angstrom.
        window: pixels of probe and pattern.
        modes: incoherent modes.
        dose: electrons per pattern.
        seed: of the counts.

    Returns:
        The scan, and the true modes ``(mode, y, x)`` of unit power.
    """
    wavelength = optics.electron_wavelength(energy)
    options = {"wavelength": wavelength, "semiangle": semiangle, "aberrations": {"defocus": defocus}}
    wave = optics.probe_wave((window, window), (pixel, pixel), dtype=torch.complex128, **options)  # type: ignore[arg-type]
    probe = mixed_probe(wave, modes)
    place = torch.as_tensor(positions / pixel)
    corner = place.round().long() - window // 2
    room = torch.tensor(phase.shape[-2:]) - window
    if bool((corner < 0).any() or (corner > room).any()):
        raise BadInput("simulate: positions", None, "leave the specimen: keep half a window from its edges")
    slices = torch.polar(torch.ones(phase.shape, dtype=torch.float64), torch.as_tensor(phase))
    distance = torch.tensor(thickness, dtype=torch.float64)
    kernel = propagate.angular_spectrum((window, window), (pixel, pixel), wavelength, distance)
    generator = torch.Generator().manual_seed(seed)
    counts = np.empty((len(place), window, window), np.uint32)
    for index in torch.arange(len(place)).split(16):
        moved = shift(probe[None], (place[index] - place[index].round())[:, None])
        leaving = multislice(moved, patches.gather(slices, corner[index], (window, window)), kernel)
        expected = dose * centred(detect.intensity(propagate.far_field(leaving)))
        counts[index.numpy()] = detect.draw(expected, generator=generator).numpy()
    angle = wavelength / (window * pixel)
    geometry = Geometry(wavelength=wavelength, shape=(window, window), angle=(angle, angle), beam="electron")
    return Scan4D(counts=counts, positions=positions, geometry=geometry), probe.numpy()
