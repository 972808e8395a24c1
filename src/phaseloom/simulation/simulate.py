"""Scans with a known truth: specimen, probe, scan and dose make a `Scan4D`."""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import detect, optics, patches, propagate
from phaseloom.physics.filters import SINC_TAPS, interpolate_windows
from phaseloom.physics.fourier import shift, shift_to_centre
from phaseloom.physics.propagate import multislice

__all__ = ["atoms", "axial_scan", "electron_scan", "mixed_probe", "raster"]


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
            width = rng.uniform(0.25, 0.4)
            height = peak * rng.uniform(0.6, 1)
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
    wave = optics.probe_wave((window, window), (pixel, pixel), dtype=torch.complex128, **options)
    probe = mixed_probe(wave, modes)
    slices = torch.polar(torch.ones(phase.shape, dtype=torch.float64), torch.as_tensor(phase))
    geometry = _far_field_geometry(probe, pixel, wavelength, "electron", None)
    places = torch.as_tensor(positions / pixel)
    counts = _draw_counts(probe, slices, places, pixel, wavelength, thickness=thickness, dose=dose, seed=seed)
    return Scan4D(counts=counts, positions=positions, geometry=geometry), probe.numpy()


def axial_scan(  # noqa: PLR0913 - an experiment has as many numbers
    transmission: np.ndarray,
    pixel: float,
    positions: np.ndarray,
    heights: np.ndarray,
    probe: np.ndarray,
    /,
    *,
    wavelength: float,
    dose: float,
    thickness: float = 0.0,
    distance: float | None = None,
    focus: float | None = None,
    beam: Literal["photon", "electron"] = "photon",
    seed: int = 0,
) -> Scan4D:
    """A scan along the beam, or along it and across, of a known object, with counting noise.

    Where the optics stand further downstream by ``h``, the probe has flown less far: it is flown by ``-h``.
    In a near field the detector is farther away by as much. In a cone beam a pattern's window has pixels of
    ``1 - h / focus`` times those of the object, and flights in them are ``h / (1 - h / focus)`` long.

    Args:
        transmission: complex ``(slice, y, x)`` or ``(y, x)``; pixel ``[0, 0]`` is the origin of positions.
        pixel: angstrom, square; in a cone beam that of the pattern at the mean height.
        positions: ``(n, 2)`` angstrom, all the same in a scan along the beam alone.
        heights: ``(n,)`` of the optics along the beam, downstream, angstrom.
        probe: complex ``(mode, y, x)`` or ``(y, x)`` on the entrance face at the mean height, in a window
            that is also that of the patterns, without the cone beam's curvature; its power is scaled to the
            dose.
        wavelength: angstrom.
        dose: counts per pattern.
        thickness: between slices, angstrom.
        distance: object to detector at the mean height, angstrom; in a far field only if files shall hold it.
        focus: of a near field: focus to object at the mean height, angstrom, ``inf`` for a parallel beam.
        beam: of photons or electrons.
        seed: of the counts.

    Returns:
        The scan with its heights and the true modes, in square roots of counts, as its probe.

    Raises:
        BadInput: heights that do not go with positions, positions that leave the object, or slices in a cone
            beam.

    Example:
        >>> wave = np.exp(-np.add.outer(*[(np.arange(16) - 8.0) ** 2] * 2) / 8 + 0j)
        >>> where = np.full((3, 2), 8.0)
        >>> height = np.array([-1e3, 0.0, 1e3])
        >>> scan = axial_scan(np.ones((16, 16)), 1.0, where, height, wave, wavelength=0.1, dose=1e4)
        >>> scan.counts.shape, scan.heights.tolist(), scan.probe.shape
        ((3, 16, 16), [-1000.0, 0.0, 1000.0], (1, 16, 16))
    """
    positions = np.asarray(positions, np.float64)
    heights = np.asarray(heights, np.float64)
    if heights.shape != positions.shape[:1]:
        fix = f"must be one for each of {len(positions)} positions"
        raise BadInput("simulate: heights", heights.shape, fix)
    modes = torch.as_tensor(np.asarray(probe, np.complex128))
    modes = modes.reshape(-1, *modes.shape[-2:])
    modes = modes / modes.abs().square().sum().sqrt()
    slices = torch.as_tensor(np.asarray(transmission, np.complex128))
    slices = slices.reshape(-1, *slices.shape[-2:])
    moves = torch.as_tensor(heights - heights.mean())
    places = torch.as_tensor(positions / pixel)
    geometry = _far_field_geometry(modes, pixel, wavelength, beam, distance)
    near = None
    if focus is not None:
        geometry = near = _near_field_geometry(geometry, pixel, focus)
        if len(slices) > 1 and math.isfinite(focus):
            raise BadInput("simulate: transmission", len(slices), "slices in a cone beam: give a single one")
    knobs: dict[str, Any] = {"thickness": thickness, "dose": dose, "seed": seed}
    counts = _draw_counts(modes, slices, places, pixel, wavelength, moves=moves, near=near, **knobs)
    guess = (math.sqrt(dose) * modes).numpy()
    return Scan4D(counts=counts, positions=positions, geometry=geometry, heights=heights, probe=guess)


def _draw_counts(
    probe: torch.Tensor,
    slices: torch.Tensor,
    places: torch.Tensor,
    pixel: float,
    wavelength: float,
    *,
    thickness: float,
    dose: float,
    seed: int,
    moves: torch.Tensor | None = None,
    near: Geometry | None = None,
) -> np.ndarray:
    """Counts of patterns at places in pixels, the probe moved downstream by what is given for each."""
    shape = _window_shape(probe)
    moves = torch.zeros(len(places), dtype=torch.float64) if moves is None else moves
    fan = 0.0 if near is None or near.focus is None else 1 / near.focus
    ratio = 1 - fan * moves
    wide = shape
    if fan:
        more = 2 * (math.ceil(max(shape) / 2 * (float(ratio.max()) - 1)) + SINC_TAPS)
        wide = (shape[0] + more, shape[1] + more)
    corner = places.round().long() - torch.tensor(wide) // 2
    room = torch.tensor(slices.shape[-2:]) - torch.tensor(wide)
    if bool((corner < 0).any() or (corner > room).any()):
        raise BadInput("simulate: positions", None, "leave the specimen: keep half a window from its edges")

    def flight(distance: torch.Tensor) -> torch.Tensor:
        return propagate.angular_spectrum(shape, (pixel, pixel), wavelength, distance)

    kernel = flight(torch.tensor(thickness, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    counts = np.empty((len(places), *shape), np.uint32)
    for index in torch.arange(len(places)).split(16):
        beam = probe[None]
        away = moves[index] / ratio[index]
        if moves.any():
            beam = propagate.fly(beam, flight(-away)[:, None])
        rest = ((places[index] - places[index].round()) / ratio[index, None])[:, None]
        windows = patches.gather(slices, corner[index], wide)
        windows = interpolate_windows(windows, shape, ratio[index]) if fan else windows
        leaving = multislice(shift(beam, rest), windows, kernel)
        if near is None:
            expected = dose * shift_to_centre(detect.intensity(propagate.far_field(leaving)))
        else:
            there = shift(propagate.fly(leaving, flight(near.flight + away)[:, None]), -rest)
            expected = dose * detect.intensity(there)
        counts[index.numpy()] = detect.draw_counts(expected, generator=generator).numpy()
    return counts


def _far_field_geometry(
    probe: torch.Tensor,
    pixel: float,
    wavelength: float,
    beam: Literal["photon", "electron"],
    distance: float | None,
) -> Geometry:
    """The far field behind a window of square pixels."""
    shape = _window_shape(probe)
    angle = (wavelength / (shape[0] * pixel), wavelength / (shape[1] * pixel))
    return Geometry(wavelength=wavelength, shape=shape, angle=angle, beam=beam, distance=distance)


def _near_field_geometry(geometry: Geometry, pixel: float, focus: float) -> Geometry:
    """The near field of an object pixel, seen from a focus."""
    there = replace(geometry, focus=focus)
    angle = pixel * abs(there.magnification) / (there.distance or 1.0)
    return replace(there, angle=(angle, angle))


def _window_shape(probe: torch.Tensor) -> tuple[int, int]:
    return int(probe.shape[-2]), int(probe.shape[-1])
