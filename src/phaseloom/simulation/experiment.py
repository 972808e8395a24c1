"""A simulated experiment: probe, scan, detector and dose, everything but the specimen."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics import atoms, detect, optics, propagate
from phaseloom.physics.fourier import frequencies, shift, shift_to_centre

__all__ = [
    "BAND_EDGE",
    "BAND_TAPER",
    "PIXELS_PER_STEP",
    "Experiment",
    "band_limit",
    "collect_on_detector",
    "compute_far_intensity",
    "compute_image_shape",
    "compute_vacuum_pattern",
    "encode_conditions",
]

PIXELS_PER_STEP = 5
"""Object pixels in a step of the scan: with a whole number every probe stands on a pixel."""

BAND_EDGE = 2 / 3
"""Part of the Nyquist frequency that waves keep, so that products do not fold back."""

BAND_TAPER = 0.02
"""Width of the band's soft edge, within it, in the same unit."""


def compute_image_shape(scan: tuple[int, int], /) -> tuple[int, int]:
    """Pixels of the image of a scan of (rows, columns) probes, the first of which stands at pixel (5, 5).

    Example:
        >>> compute_image_shape((50, 50)), compute_image_shape((14, 14))
        ((256, 256), (76, 76))
    """
    rows, columns = (PIXELS_PER_STEP * (n - 1) + 2 * PIXELS_PER_STEP + 1 for n in scan)
    return rows, columns


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A 4D-STEM experiment: everything but the specimen.

    Attributes:
        scan: probes (rows, columns).
        step: between them, angstrom.
        energy: eV.
        semiangle: of convergence, radian.
        aberrations: any names of `phaseloom.physics.optics.coefficients`, angstrom and radian.
        focal_spread: standard deviation of the defocus (chromatic), angstrom.
        source_size: standard deviation of the source on the specimen, angstrom.
        pixel: of the potential, angstrom; ``None``: a fifth of the step.
        window: pixels of the probe's window.
        cell: pixels of a periodic cell that the scan starts in the corner of; ``None``: a field around
            the scan that no window leaves.
        bin: pixels of the transform in one of the detector.
        detector: pixels of the detector, its middle part; ``None``: all.
        slice_thickness: largest thickness of a slice, angstrom; ``None``: one slice whatever the thickness.
        phonons: instants of thermal motion that are averaged; 0: none, a specimen of average potential.
        vibration: rms displacement of the atoms along each axis, angstrom.
        jitter: rms error of the positions along each axis, angstrom, at most a step.
        dose: electrons per pattern; ``None``: no counting noise.
        table: of the scattering factors.

    Raises:
        BadInput: numbers that no experiment has.

    Example:
        >>> small = Experiment(scan=(4, 5))
        >>> small.image, small.detector_shape, round(small.angle * 1e3, 3)
        ((26, 31), (24, 24), 3.262)
    """

    scan: tuple[int, int] = (50, 50)
    step: float = 2.0
    energy: float = 80e3
    semiangle: float = 0.020
    aberrations: Mapping[str, float] = field(default_factory=lambda: {"defocus": 90.0})
    focal_spread: float = 0.0
    source_size: float = 0.0
    pixel: float | None = None
    window: int = 64
    cell: int | None = None
    bin: int = 2
    detector: int | None = 24
    slice_thickness: float | None = None
    phonons: int = 0
    vibration: float = 0.1
    jitter: float = 0.0
    dose: float | None = None
    table: atoms.Table = "lobato"

    def __post_init__(self) -> None:
        _require_positive(self)
        if min(self.scan) < 2:
            raise BadInput("experiment: scan", list(self.scan), "must be 2 by 2 probes at least")
        if self.jitter > self.step / 2:
            raise BadInput("experiment: jitter", self.jitter, "must be half a step at most")
        if self.dose is not None and not self.dose > 0:
            raise BadInput("experiment: dose", self.dose, "must be electrons per pattern, or left out")
        _require_consistent(self)

    @cached_property
    def wavelength(self) -> float:
        """Angstrom."""
        return optics.electron_wavelength(self.energy)

    @property
    def spacing(self) -> float:
        """Pixel of the potential, angstrom."""
        return self.step / PIXELS_PER_STEP if self.pixel is None else self.pixel

    @property
    def image(self) -> tuple[int, int]:
        """Pixels of the image (y, x)."""
        return compute_image_shape(self.scan) if self.cell is None else (self.cell, self.cell)

    @property
    def margin(self) -> int:
        """Pixels around the image that windows reach into; none in a periodic cell."""
        return 0 if self.cell is not None else self.window // 2 + PIXELS_PER_STEP

    @property
    def box(self) -> tuple[float, float]:
        """Specimen that is wanted, (y, x) angstrom."""
        rows, columns = ((n + 2 * self.margin) * self.spacing for n in self.image)
        return rows, columns

    @property
    def detector_shape(self) -> tuple[int, int]:
        """Detector pixels (y, x)."""
        size = self.detector or self.window // self.bin
        return size, size

    @property
    def angle(self) -> float:
        """Radian per detector pixel."""
        return self.wavelength * self.bin / (self.window * self.spacing)

    def positions(self, generator: torch.Generator, /) -> Tensor:
        """True places ``(n, 2)`` of the probes, angstrom from the first pixel of the image."""
        first = 0.0 if self.cell is not None else PIXELS_PER_STEP * self.spacing
        axes = [first + self.step * torch.arange(n, dtype=torch.float64) for n in self.scan]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        wander = self.jitter * torch.randn(places.shape, dtype=torch.float64, generator=generator)
        return places + wander.clamp(-self.step / 2, self.step / 2)

    def probe(self) -> Tensor:
        """Incoherent modes ``(mode, y, x)`` of the probe, of unit power in all."""
        shape = (self.window, self.window)
        pixel = (self.spacing, self.spacing)
        modes = []
        for weight, more in _gauss_hermite_nodes(self.focal_spread):
            given = optics.coefficients(self.aberrations)
            given["C10"] = given.get("C10", 0.0) - more
            wave = optics.probe_wave(
                shape,
                pixel,
                wavelength=self.wavelength,
                semiangle=self.semiangle,
                aberrations=given,
                soft=True,
            )
            modes.append(math.sqrt(weight) * wave)
        return _spread_over_source(torch.stack(modes), self.source_size / self.spacing)


def compute_vacuum_pattern(experiment: Experiment, /) -> Tensor:
    """Pattern ``(y, x)`` without a specimen, as fractions of the beam.

    Example:
        >>> round(compute_vacuum_pattern(Experiment(scan=(2, 2))).sum().item(), 3)
        1.0
    """
    return collect_on_detector(compute_far_intensity(experiment.probe()[None], experiment), experiment)[0]


def compute_far_intensity(leaving: Tensor, experiment: Experiment, /) -> Tensor:
    """Intensity ``(n, y, x)`` far behind waves ``(n, mode, y, x)``, in their band; zero in the corner."""
    shape = (leaving.shape[-2], leaving.shape[-1])
    disk = band_limit(shape, experiment.spacing).square().to(leaving.device)
    return detect.intensity(propagate.far_field(leaving)) * disk


def collect_on_detector(pattern: Tensor, experiment: Experiment, /) -> Tensor:
    """Bin and crop to detector pixels the intensities ``(n, y, x)`` with zero frequency in the corner."""
    few = experiment.window // experiment.bin
    size = experiment.detector_shape[0]
    if few == size == experiment.window:
        return shift_to_centre(pattern)
    table = detect.area_weights(experiment.window, few).to(pattern)
    first = few // 2 - size // 2
    table = torch.fft.ifftshift(table[first : first + size], dim=1)
    return table @ pattern @ table.T


def encode_conditions(experiment: Experiment, /, dose: float | None = None) -> np.ndarray:
    """The eight dimensionless numbers that describe a probe and a dose to a network.

    ``a^2 df / l``, ``a step / l``, ``a^4 Cs / 4 l``, ``a^2 C12 / l`` and ``a^3 C21 / l`` with their two
    components each, ``a`` the semiangle and ``l`` the wavelength, then ``log10(dose / 1e4) / 3``, where no
    counting noise is a dose of 1e7. Two experiments with the same numbers give the same patterns, up to the
    size of a pixel and the strength of the object.

    Args:
        experiment: see `Experiment`.
        dose: electrons per pattern, instead of the experiment's.

    Example:
        >>> encode_conditions(Experiment()).astype(float).round(2).tolist()
        [0.86, 0.96, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    given = optics.to_cartesian(optics.coefficients(experiment.aberrations))
    angle = experiment.semiangle
    length = experiment.wavelength
    dose = dose or experiment.dose or 1e7
    numbers = [-(angle**2) * given.get("C10", 0.0) / length, angle * experiment.step / length]
    numbers.append(angle**4 * given.get("C30", 0.0) / (4 * length))
    numbers += [angle**2 * given.get(name, 0.0) / length for name in ("C12a", "C12b")]
    numbers += [angle**3 * given.get(name, 0.0) / length for name in ("C21a", "C21b")]
    return np.array([*numbers, math.log10(dose / 1e4) / 3], np.float32)


def _require_positive(experiment: Experiment) -> None:
    """Refuse numbers below what they may be."""
    for name in ("step", "energy", "semiangle", "window", "bin"):
        if not getattr(experiment, name) > 0:
            raise BadInput(f"experiment: {name}", getattr(experiment, name), "must be above zero")
    for name in ("focal_spread", "source_size", "phonons", "vibration", "jitter"):
        if not 0 <= getattr(experiment, name) < math.inf:
            raise BadInput(f"experiment: {name}", getattr(experiment, name), "must be zero or above")
    if experiment.slice_thickness is not None and not experiment.slice_thickness > 0:
        fix = "must be above zero; leave it out for one slice"
        raise BadInput("experiment: slice_thickness", experiment.slice_thickness, fix)


def _require_consistent(experiment: Experiment) -> None:
    """The probe's aperture lies within the band of the waves, and the detector within the window."""
    limit = BAND_EDGE * experiment.wavelength * 0.5 / experiment.spacing
    if experiment.semiangle > limit:
        fix = f"is beyond the {1e3 * limit:.3g} mrad that pixels of {experiment.spacing:.3g} A carry: "
        raise BadInput(
            "experiment: semiangle", f"{1e3 * experiment.semiangle:.4g} mrad", fix + "take a finer pixel"
        )
    if experiment.window % experiment.bin:
        fix = f"must divide the window of {experiment.window} pixels"
        raise BadInput("experiment: bin", experiment.bin, fix)
    if (
        experiment.detector is not None
        and not 2 <= experiment.detector <= experiment.window // experiment.bin
    ):
        fix = f"must lie between 2 and the {experiment.window // experiment.bin} pixels of the binned window"
        raise BadInput("experiment: detector", experiment.detector, fix)


def band_limit(shape: tuple[int, int], spacing: float, /) -> Tensor:
    """The band of the waves, zero frequency in the corner."""
    y, x = frequencies(shape, (spacing, spacing), like=torch.zeros(1))
    nyquist = 0.5 / spacing
    return atoms.smooth_edge(torch.hypot(y, x), (BAND_EDGE - BAND_TAPER) * nyquist, BAND_TAPER * nyquist)


def _gauss_hermite_nodes(spread: float) -> Iterator[tuple[float, float]]:
    """Weights and values of a normal distribution: five points of Gauss and Hermite, or one."""
    if spread <= 0:
        yield 1.0, 0.0
        return
    places, weights = np.polynomial.hermite_e.hermegauss(5)
    for place, weight in zip(places, weights / weights.sum(), strict=True):
        yield float(weight), float(spread * place)


def _spread_over_source(modes: Tensor, source: float) -> Tensor:
    """Modes seen from points of a source of normal brightness, its standard deviation in pixels."""
    if source <= 0:
        return modes
    points = [
        (w * v, (a, b)) for w, a in _gauss_hermite_nodes(source) for v, b in _gauss_hermite_nodes(source)
    ]
    moved = [math.sqrt(weight) * shift(modes, torch.tensor([place] * len(modes))) for weight, place in points]
    return torch.cat(moved)
