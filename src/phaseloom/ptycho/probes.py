"""What illuminates the object, and first guesses of it."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import centred, cornered, fit_window, shift, to_real
from phaseloom.physics.optics import probe_wave
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.units import Angle, Length

__all__ = ["auto", "focused", "from_file", "from_patterns", "stored"]


class Probe(nn.Module):
    """Incoherent modes in the middle of their window; ``forward`` moves them by part of a pixel.

    The parameter is kept relative to its first peak so that one rate serves every dose.

    Attributes:
        relative: complex ``(mode, y, x)``, modes divided by ``scale``; a parameter.
        scale: peak modulus of the first guess, in square roots of counts.
    """

    scale: Tensor

    def __init__(self, modes: Complex[Tensor, "mode y x"]):
        super().__init__()
        scale = modes.abs().max()
        self.register_buffer("scale", scale)
        self.relative = nn.Parameter(modes / scale)

    def modes(self) -> Complex[Tensor, "mode y x"]:
        """The modes in square roots of counts."""
        return self.relative * self.scale

    def forward(self, rest: Float[Tensor, "b 2"]) -> Complex[Tensor, "b mode y x"]:
        """The modes moved by a remaining shift (y, x) in pixels for each pattern."""
        return shift(self.modes()[None], rest[:, None])


def auto(scan: Scan4D, /, *, modes: int | None = None) -> Probe:
    """The probe that came with the data, else one from the patterns.

    Args:
        scan: the data.
        modes: incoherent modes; default two in the far field, one in the near field.
    """
    if scan.probe is not None:
        return stored(scan, modes=modes)
    return from_patterns(scan, modes=modes)


def from_patterns(scan: Scan4D, /, *, defocus: Length = 0.0, modes: int | None = None) -> Probe:
    """A probe whose far (or near) field has the mean pattern's amplitude and a flat phase.

    Args:
        scan: the data.
        defocus: angstrom; positive: the focus lies behind the object (under-focus).
        modes: incoherent modes; default two in the far field, one in the near field.
    """
    mean = torch.from_numpy(np.maximum(_clean_mean(scan), 0.0)).sqrt()
    geometry = scan.geometry
    if geometry.near:
        flight = torch.tensor(-geometry.flight, dtype=torch.float64)
        kernel = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight)
        wave = fly(mean.to(torch.complex128), kernel)
    else:
        wave = centred(to_real(cornered(mean).to(torch.complex128)))
    return _built(scan, defocused(wave, geometry, defocus), modes)


def focused(
    scan: Scan4D,
    /,
    *,
    semiangle: Angle,
    defocus: Length = 0.0,
    astigmatism: Length = 0.0,
    astigmatism_angle: Angle = 0.0,
    spherical: Length = 0.0,
    modes: int | None = None,
    soft: bool = False,
) -> Probe:
    """A probe from optics: an aperture of a convergence semiangle, and aberrations.

    Args:
        scan: the data; its counts give the power.
        semiangle: radian.
        defocus: angstrom; positive: under-focus.
        astigmatism: C12, angstrom, along ``astigmatism_angle`` (radian from +x to +y).
        astigmatism_angle: see there.
        spherical: C30, angstrom.
        modes: incoherent modes; default two in the far field, one in the near field.
        soft: spread the aperture's edge over one pixel.
    """
    if not all(map(math.isfinite, (defocus, astigmatism, astigmatism_angle, spherical))):
        raise BadInput("probe: focused", None, "has an aberration that is not finite")
    if not 0 < semiangle < math.pi / 2:
        raise BadInput("probe: focused.semiangle", semiangle, "must lie between 0 and 1.57 rad")
    named = {"defocus": defocus, "C12": astigmatism, "phi12": astigmatism_angle, "C30": spherical}
    geometry = scan.geometry
    reach = min(n * a for n, a in zip(geometry.shape, geometry.angle, strict=True)) / 2
    if not geometry.near and semiangle > reach:
        fix = f"rad is larger than the detector's half width of {reach:.4g} rad: check the angle per pixel"
        raise BadInput("probe: focused.semiangle", semiangle, fix)
    wave = probe_wave(
        geometry.shape,
        geometry.pixel,
        wavelength=geometry.wavelength,
        semiangle=semiangle,
        aberrations=named,
        soft=soft,
        dtype=torch.complex128,
    )
    return _built(scan, wave, modes)


def stored(scan: Scan4D, /, *, defocus: Length = 0.0, modes: int | None = None) -> Probe:
    """The probe that came with the data, propagated by a defocus if wanted.

    Raises:
        BadInput: the file holds none.
    """
    if scan.probe is None:
        raise BadInput("probe: stored", None, "the data file holds no probe: use from_patterns or focused")
    wave = torch.from_numpy(np.asarray(scan.probe, np.complex128))
    return _built(scan, defocused(wave, scan.geometry, defocus), modes)


def from_file(scan: Scan4D, /, *, path: Path, defocus: Length = 0.0, modes: int | None = None) -> Probe:
    """A probe from a ``.npy`` array or from a result of ours, padded or cropped to the window.

    Raises:
        BadInput: not a complex array of two or three axes.
    """
    array = _probe_array(Path(path))
    if array.ndim not in (2, 3) or not np.iscomplexobj(array):
        fix = "is not a complex array (y, x) or (mode, y, x)"
        raise BadInput("probe: from_file.path", f"{path} with {array.dtype}{array.shape}", fix)
    wave = torch.from_numpy(array.astype(np.complex128))
    wave = fit_window(wave.reshape(-1, *wave.shape[-2:]), scan.geometry.shape)
    return _built(scan, defocused(wave, scan.geometry, defocus), modes)


def defocused(
    wave: Complex[Tensor, "*mode y x"], geometry: Geometry, defocus: float, /
) -> Complex[Tensor, "*mode y x"]:
    """The wave at the object when it is moved upstream of the focus by ``defocus`` angstrom."""
    if defocus == 0:
        return wave
    if not math.isfinite(defocus):
        raise BadInput("probe: defocus", defocus, "must be finite")
    flight = torch.tensor(-defocus, dtype=torch.float64)
    return fly(
        wave, angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight).to(wave.dtype)
    )


def _probe_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise BadInput("probe: from_file.path", str(path), "does not exist")
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except ValueError as error:
            raise BadInput("probe: from_file.path", str(path), "is not a plain numpy array") from error
    import h5py

    try:
        with h5py.File(path) as file:
            return np.asarray(file["probe"])
    except (OSError, KeyError) as error:
        raise BadInput("probe: from_file.path", str(path), "holds no data set 'probe'") from error


def _clean_mean(scan: Scan4D) -> np.ndarray:
    mean = scan.mean_pattern() - (0.0 if scan.background is None else scan.background)
    if scan.flat is not None:
        mean = mean / np.where(scan.flat > 0, scan.flat, 1)
    return np.where(scan.mask, mean, np.median(mean[scan.mask]) if scan.geometry.near else 0.0)


def _built(scan: Scan4D, wave: Tensor, modes: int | None) -> Probe:
    """Give the guess the counts of the data and the wanted number of modes."""
    count = modes if modes is not None else (1 if scan.geometry.near else 2)
    if count < 1:
        raise BadInput("probe: modes", count, "must be at least 1")
    stack = wave.reshape(-1, *wave.shape[-2:])[:count]
    if len(stack) < count:
        stack = torch.cat([stack, _subdominant(stack[0], count - len(stack))])
    total = torch.as_tensor(np.maximum(_clean_mean(scan), 0).sum())
    power = stack.abs().square().sum()
    if not float(total) > 0 or not float(power) > 0:
        raise BadInput("scan.counts", None, "hold no intensity that a probe could have")
    return Probe((stack * torch.sqrt(total / power)).to(torch.complex64))


def _subdominant(wave: Tensor, count: int, share: float = 0.02) -> Tensor:
    """Weak copies of a mode, tilted by Hermite-like polynomials and made orthogonal to it."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in wave.shape]
    intensity = wave.abs().square()
    power = intensity.sum()
    y, x = torch.meshgrid(*axes, indexing="ij")
    y, x = y - (y * intensity).sum() / power, x - (x * intensity).sum() / power
    spread = torch.sqrt(((y**2 + x**2) * intensity).sum() / power) + 1e-9
    orders = [(i - j, j) for i in range(1, 1 + count) for j in range(i + 1)][:count]
    window = torch.exp(-((y**2 + x**2) / (3 * spread) ** 2))
    extra = [wave * window * (y / spread) ** a * (x / spread) ** b for a, b in orders]
    stack = torch.stack([wave, *extra])
    q, _ = torch.linalg.qr(stack.flatten(1).T)
    return (q.T[1:] * torch.sqrt(share * power)).reshape(count, *wave.shape)
