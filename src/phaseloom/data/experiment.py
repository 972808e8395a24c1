"""What happens to a specimen in the microscope: probe, scan, detector and dose, and what is seen then."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.data.specimens import Specimen
from phaseloom.errors import BadInput
from phaseloom.physics import atoms, detect, optics, patches, propagate
from phaseloom.physics.fourier import centred, frequencies, shift, to_real, to_reciprocal
from phaseloom.physics.scatter import multislice

__all__ = ["PER_STEP", "Experiment", "Sample", "collected", "diffracted", "image_shape", "projected"]
__all__ += ["simulated", "told", "transmitted", "vacuum"]

PER_STEP = 5
"""Object pixels in a step of the scan: with a whole number every probe stands on a pixel."""

BAND, TAPER = 2 / 3, 0.02
"""Part of the Nyquist frequency that waves keep, so that products do not fold back, and its soft edge."""

AT_ONCE = 2**19
"""Pixels of the windows that are computed together: more fall out of a processor's cache."""


def image_shape(scan: tuple[int, int], /) -> tuple[int, int]:
    """Pixels of the image of a scan of (rows, columns) probes, the first of which stands at pixel (5, 5).

    Example:
        >>> image_shape((50, 50)), image_shape((14, 14))
        ((256, 256), (76, 76))
    """
    rows, columns = (PER_STEP * (n - 1) + 2 * PER_STEP + 1 for n in scan)
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
        for name in ("step", "energy", "semiangle", "window", "bin"):
            if not getattr(self, name) > 0:
                raise BadInput(f"experiment: {name}", getattr(self, name), "must be above zero")
        if min(self.scan) < 2:
            raise BadInput("experiment: scan", list(self.scan), "must be 2 by 2 probes at least")
        if self.jitter > self.step / 2:
            raise BadInput("experiment: jitter", self.jitter, "must be half a step at most")
        if self.dose is not None and not self.dose > 0:
            raise BadInput("experiment: dose", self.dose, "must be electrons per pattern, or left out")
        _fits(self)

    @cached_property
    def wavelength(self) -> float:
        """Angstrom."""
        return optics.electron_wavelength(self.energy)

    @property
    def spacing(self) -> float:
        """Pixel of the potential, angstrom."""
        return self.step / PER_STEP if self.pixel is None else self.pixel

    @property
    def image(self) -> tuple[int, int]:
        """Pixels of the image (y, x)."""
        return image_shape(self.scan) if self.cell is None else (self.cell, self.cell)

    @property
    def margin(self) -> int:
        """Pixels around the image that windows reach into; none in a periodic cell."""
        return 0 if self.cell is not None else self.window // 2 + PER_STEP

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
        first = 0.0 if self.cell is not None else PER_STEP * self.spacing
        axes = [first + self.step * torch.arange(n, dtype=torch.float64) for n in self.scan]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        wander = self.jitter * torch.randn(places.shape, dtype=torch.float64, generator=generator)
        return places + wander.clamp(-self.step / 2, self.step / 2)

    def probe(self) -> Tensor:
        """Incoherent modes ``(mode, y, x)`` of the probe, of unit power in all."""
        shape, pixel = (self.window, self.window), (self.spacing, self.spacing)
        modes = []
        for weight, more in _nodes(self.focal_spread):
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
        return _spread(torch.stack(modes), self.source_size / self.spacing)


@dataclass(frozen=True)
class Sample:
    """A simulated scan with its truth.

    Attributes:
        patterns: ``(rows, columns, y, x)`` fractions of the beam, with counting noise if the experiment has.
        phase: ``(y, x)`` radian, interaction parameter times thermally averaged projected potential in the
            band of the waves; the first probe stands at pixel (5, 5), in a periodic cell at (0, 0).
        positions: true places ``(n, 2)`` of the probes, angstrom.
        experiment: that made it.
        specimen: its name.
        group: family and elements, by which sets are split.
        thickness: angstrom.
    """

    patterns: np.ndarray
    phase: np.ndarray
    positions: np.ndarray
    experiment: Experiment
    specimen: str
    group: str
    thickness: float

    def scan(self) -> Scan4D:
        """The scan as a measurement would give it: counts (of 1e6 electrons if there is no noise)."""
        dose = self.experiment.dose or 1e6
        counts = self.patterns.reshape(-1, *self.patterns.shape[2:]) * np.float32(dose)
        nominal = replace(self.experiment, jitter=0.0).positions(torch.Generator()).numpy()
        rows, columns = self.experiment.scan
        angle, wavelength = self.experiment.angle, self.experiment.wavelength
        shape = self.experiment.detector_shape
        geometry = Geometry(wavelength=wavelength, shape=shape, angle=(angle, angle), beam="electron")
        return Scan4D(counts=counts, positions=nominal, geometry=geometry, grid=(rows, columns))


def simulated(specimen: Specimen, experiment: Experiment, /, *, seed: int = 0) -> Sample:
    """The patterns of a specimen in an experiment, and the phase that they come from.

    Args:
        specimen: whose box is that of the experiment.
        experiment: see `Experiment`.
        seed: of thermal motion, position errors and counts.

    Raises:
        BadInput: a specimen of another size.
    """
    generator = torch.Generator().manual_seed(seed)
    if not np.allclose(specimen.size[1:], experiment.box, atol=1e-3):
        fix = f"must be the box of the experiment, {experiment.box} A"
        raise BadInput("simulate: specimen", specimen.size[1:], fix)
    positions = experiment.positions(generator)
    waves = transmitted(specimen, experiment, generator)
    patterns = diffracted(waves, positions, experiment, thickness=specimen.thickness)
    if experiment.dose is not None:
        patterns = detect.draw(patterns * experiment.dose, generator=generator) / experiment.dose
    phase = projected(specimen, experiment)
    return Sample(
        patterns=patterns.reshape(*experiment.scan, *patterns.shape[1:]).numpy(),
        phase=phase.numpy(),
        positions=positions.numpy(),
        experiment=experiment,
        specimen=specimen.name,
        group=specimen.group,
        thickness=specimen.thickness,
    )


def vacuum(experiment: Experiment, /) -> Tensor:
    """Pattern ``(y, x)`` without a specimen, as fractions of the beam.

    Example:
        >>> round(vacuum(Experiment(scan=(2, 2))).sum().item(), 3)
        1.0
    """
    waves = propagate.far_field(experiment.probe())
    return collected(detect.intensity(waves[None]), experiment)[0]


def collected(pattern: Tensor, experiment: Experiment, /) -> Tensor:
    """What the detector makes of intensities ``(n, y, x)`` with zero frequency in the corner."""
    few, size = experiment.window // experiment.bin, experiment.detector_shape[0]
    if few == size == experiment.window:
        return centred(pattern)
    table = detect.area_weights(experiment.window, few).to(pattern)
    first = few // 2 - size // 2
    table = torch.fft.ifftshift(table[first : first + size], dim=1)
    return table @ pattern @ table.T


def told(experiment: Experiment, /, dose: float | None = None) -> np.ndarray:
    """The eight numbers without a unit that networks are told of a probe and a dose.

    ``a^2 df / l``, ``a step / l``, ``a^4 Cs / 4 l``, ``a^2 C12 / l`` and ``a^3 C21 / l`` with their two
    components each, ``a`` the semiangle and ``l`` the wavelength, then ``log10(dose / 1e4) / 3``, where no
    counting noise is a dose of 1e7. Two experiments with the same numbers give the same patterns, up to the
    size of a pixel and the strength of the object.

    Args:
        experiment: see `Experiment`.
        dose: electrons per pattern, instead of the experiment's.

    Example:
        >>> told(Experiment()).astype(float).round(2).tolist()
        [0.86, 0.96, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    given = optics.to_cartesian(optics.coefficients(experiment.aberrations))
    angle, length = experiment.semiangle, experiment.wavelength
    dose = dose or experiment.dose or 1e7
    numbers = [-(angle**2) * given.get("C10", 0.0) / length, angle * experiment.step / length]
    numbers.append(angle**4 * given.get("C30", 0.0) / (4 * length))
    numbers += [angle**2 * given.get(name, 0.0) / length for name in ("C12a", "C12b")]
    numbers += [angle**3 * given.get(name, 0.0) / length for name in ("C21a", "C21b")]
    return np.array([*numbers, math.log10(dose / 1e4) / 3], np.float32)


def projected(specimen: Specimen, experiment: Experiment, /) -> Tensor:
    """Phase ``(y, x)`` of the average specimen in the image, radian, in the band of the waves."""
    blur, band = experiment.vibration, BAND - TAPER / 2
    whole = _potential(specimen.places[:, 1:], specimen.numbers, experiment, blur, band=band)
    rows, columns = experiment.image
    edge = experiment.margin
    return (optics.interaction(experiment.energy) * whole)[edge : edge + rows, edge : edge + columns]


def transmitted(specimen: Specimen, experiment: Experiment, generator: torch.Generator, /) -> Tensor:
    """Transmissions ``(instant, slice, y, x)`` of the whole field, in the band of the waves."""
    places, numbers = torch.as_tensor(specimen.places), specimen.numbers
    thick, limit = specimen.thickness, experiment.slice_thickness
    count = 1 if limit is None else max(1, math.ceil(thick / limit - 1e-9))
    strength, still = optics.interaction(experiment.energy), experiment.phonons == 0
    instants = []
    for _ in range(max(1, experiment.phonons)):
        now = places if still else atoms.displaced(places, experiment.vibration, generator=generator)
        which = atoms.slabs(places[:, 0], max(thick, 1e-6), count)
        blur = experiment.vibration if still else 0.0
        each = [_potential(now[which == n, 1:], numbers[which == n], experiment, blur) for n in range(count)]
        phase = strength * torch.stack(each)
        instants.append(_banded(torch.polar(torch.ones_like(phase), phase), experiment.spacing))
    return torch.stack(instants)


def diffracted(
    waves: Tensor, positions: Tensor, experiment: Experiment, /, *, thickness: float = 0.0
) -> Tensor:
    """Patterns ``(n, y, x)`` behind transmissions, fractions of the beam, averaged over instants.

    Args:
        waves: ``(instant, slice, y, x)``, of the whole field or of a periodic cell.
        positions: ``(n, 2)`` angstrom from the first pixel of the image.
        experiment: its probe and detector.
        thickness: of all slices together, angstrom.
    """
    size, beam = (experiment.window, experiment.window), experiment.probe()
    places = positions / experiment.spacing + experiment.margin
    if experiment.cell is not None:
        waves, places = _tiled(waves, experiment.window), places + experiment.window
    corner = places.round().long() - experiment.window // 2
    rest = (places - places.round()).float()
    kernel = _flight(experiment, thickness / waves.shape[1]) if waves.shape[1] > 1 else None
    band = _disk(size, experiment.spacing).square() / len(waves)
    out = torch.empty(len(positions), *experiment.detector_shape)
    for index in torch.arange(len(positions)).split(max(1, AT_ONCE // experiment.window**2)):
        still = bool(rest[index].abs().max() < 1e-6)
        lit = beam[None].expand(len(index), -1, -1, -1)
        lit = lit if still else shift(lit, rest[index, None])
        total = torch.zeros(len(index), *size)
        for slices in waves:
            leaving = multislice(lit, patches.gather(slices, corner[index], size), kernel)
            total += detect.intensity(propagate.far_field(leaving))
        out[index] = collected(total * band, experiment)
    return out


def _fits(experiment: Experiment) -> None:
    """The probe's aperture lies within the band of the waves, and the detector within the window."""
    limit = BAND * experiment.wavelength * 0.5 / experiment.spacing
    if experiment.semiangle > limit:
        fix = f"is beyond the {1e3 * limit:.3g} mrad that pixels of {experiment.spacing:.3g} A carry: "
        raise BadInput(
            "experiment: semiangle", f"{1e3 * experiment.semiangle:.4g} mrad", fix + "take a finer pixel"
        )
    if experiment.window % experiment.bin:
        raise BadInput(
            "experiment: bin", experiment.bin, f"must divide the window of {experiment.window} pixels"
        )
    if (
        experiment.detector is not None
        and not 2 <= experiment.detector <= experiment.window // experiment.bin
    ):
        fix = f"must lie between 2 and the {experiment.window // experiment.bin} pixels of the binned window"
        raise BadInput("experiment: detector", experiment.detector, fix)


def _potential(
    places: np.ndarray | Tensor, numbers: np.ndarray, experiment: Experiment, blur: float, band: float = 1.0
) -> Tensor:
    """Projected potential of the field in single precision, its phases made in double."""
    rows, columns = (n + 2 * experiment.margin for n in experiment.image)
    pixel = (experiment.spacing, experiment.spacing)
    where = torch.as_tensor(np.asarray(places), dtype=torch.float32)
    kinds = torch.as_tensor(np.asarray(numbers), dtype=torch.int64)
    return atoms.potential(
        where, kinds, (rows, columns), pixel, table=experiment.table, vibration=blur, band=band
    )


def _banded(waves: Tensor, spacing: float) -> Tensor:
    """Waves without the frequencies that products would fold back."""
    return to_real(to_reciprocal(waves) * _disk((waves.shape[-2], waves.shape[-1]), spacing))


def _disk(shape: tuple[int, int], spacing: float) -> Tensor:
    """The band of the waves, zero frequency in the corner."""
    y, x = frequencies(shape, (spacing, spacing), like=torch.zeros(1))
    nyquist = 0.5 / spacing
    return atoms.smooth_edge(torch.hypot(y, x), (BAND - TAPER) * nyquist, TAPER * nyquist)


def _tiled(waves: Tensor, around: int) -> Tensor:
    """A periodic cell with as many pixels of its copies around it."""
    rows, columns = (torch.arange(-around, n + around) % n for n in waves.shape[-2:])
    return waves[..., rows, :][..., columns]


def _flight(experiment: Experiment, distance: float) -> Tensor:
    """Free flight between slices, in the band of the waves."""
    size, pixel = (experiment.window, experiment.window), (experiment.spacing, experiment.spacing)
    far = torch.tensor(distance, dtype=torch.float64)
    kernel = propagate.fresnel(size, pixel, experiment.wavelength, far)
    return kernel.to(torch.complex64) * _disk(size, experiment.spacing)


def _nodes(spread: float) -> Iterator[tuple[float, float]]:
    """Weights and values of a normal distribution: five points of Gauss and Hermite, or one."""
    if spread <= 0:
        yield 1.0, 0.0
        return
    places, weights = np.polynomial.hermite_e.hermegauss(5)
    for place, weight in zip(places, weights / weights.sum(), strict=True):
        yield float(weight), float(spread * place)


def _spread(modes: Tensor, source: float) -> Tensor:
    """Modes seen from points of a source of normal brightness, its standard deviation in pixels."""
    if source <= 0:
        return modes
    points = [(w * v, (a, b)) for w, a in _nodes(source) for v, b in _nodes(source)]
    moved = [math.sqrt(weight) * shift(modes, torch.tensor([place] * len(modes))) for weight, place in points]
    return torch.cat(moved)
