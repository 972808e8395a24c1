"""Predict the phase of a scan with a trained network, or refuse a scan that it was not trained for."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.calibration.raster import MIN_NOTED_DEVIATION, Raster, fill_empty_places, find_raster
from phaseloom.data import calibrate
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import mirror_through_zero
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.networks.end_to_end import make_scan_network
from phaseloom.retrieval.networks.linear import ScanRecovery
from phaseloom.retrieval.networks.unrolled import UnrolledRecovery
from phaseloom.retrieval.preprocessing import NOISELESS_DOSE, PatternPreprocessor, mask_bad_pixels
from phaseloom.retrieval.unrolled_input import recover_phase
from phaseloom.simulation.experiment import PIXELS_PER_STEP, Experiment, encode_conditions

__all__ = ["Prediction", "filter_source", "measure_semiangle", "predict"]

# Input numbers of networks for the optics and the dose (`phaseloom.simulation.experiment.told`).
OPTICS_NAMES = ("defocus", "step", "Cs", "C12a", "C12b", "C21a", "C21b", "dose")
# How far these may be off where a card says nothing.
DEFAULT_TOLERANCE = (0.1, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, math.inf)
PROBES_AT_ONCE = 2**13  # probes that are read together if the network encodes each by itself
# Share by which a semiangle may differ from the disk in the patterns before there is a note.
MAX_SEMIANGLE_DEVIATION = 0.08
MIN_CENTRE_ERRORS = 2.0  # standard errors beyond the middle from which on the centre of the disk is believed
MIN_NOTED_OFFSET = 0.3  # detector pixels that a disk lies beside the middle, from which on there is a note
MIN_STEPS_TO_COMPARE = 15  # of an image along each side, to tell what is the same in all of them
MIN_NOTED_REPEATED_SHARE = (
    0.1  # of a phase's power that repeats with the steps, from which on there is a note
)
MIN_DISK_CONTRAST = 2.0  # times that the bright disk is brighter than what lies around it, at least
MAX_STRIDE = 12  # times finer than the model's, beyond which a scan's unit is doubted rather than its step
# Electrons in a pattern that a network is told of at most: beyond, what a simulation leaves out of a
# microscope is more than counting noise. Of 3e4 to noiseless the best for scans of
# benchmarks/foreign_scans.py.
MAX_TOLD_DOSE = 3e5
LOW_NOISE_DOSE = 3e5  # electrons in a pattern from which on noise hardly shows
SOURCE_MARGIN = 10.0  # angstrom by which a phase is mirrored beyond its edges
MAX_SOURCE_GAIN = 1.5
"""By which a source may be undone at any frequency at most. Of 1.25 to 5 the best for 21 foreign scans."""
MIN_ELECTRONS_FOR_SOURCE = 3e4
"""Electrons in a pattern from which on a source is undone: at 1e4 the noise grew by more than errors fell."""
# Shares of a stated dose that patterns sum to on average where their counts are electrons.
MIN_SHARE_OF_DOSE, MAX_SHARE_OF_DOSE = 0.3, 1.5
OTHER_MODEL_ADVICE = "take another model, or --model fitted, which fits one to this probe in about a minute"


@dataclass(frozen=True, eq=False)
class Prediction:
    """A predicted phase, and where it lies.

    Attributes:
        phase: ``(y, x)`` radian; its mean is zero, for no pattern tells a constant.
        pixel: (y, x), angstrom.
        origin: position (y, x) of the middle of pixel ``[0, 0]`` in the frame of the scan, angstrom.
        notes: what was rescaled or assumed, in sentences.
        told: the eight input numbers for the optics (`phaseloom.simulation.experiment.told`).
        semiangle: that was taken, radian.
        aberrations: that were taken, angstrom and radian.
        model: name of the network.
        rotation: of the image's rows and columns against the axes of the scan's frame, radian from rows
            towards columns: pixel ``[i, j]`` lies at ``origin`` plus ``(i, j)`` pixels, turned by it.
        offset: (y, x) pixels by which zero angle was found beyond the middle of the detector.
        error: ``(y, x)`` standard error, radian, a constant apart; ``None`` of networks that do not tell.
        source_size: of the source whose blur was undone, angstrom; 0: none was.
    """

    phase: np.ndarray
    pixel: tuple[float, float]
    origin: tuple[float, float]
    notes: tuple[str, ...]
    told: tuple[float, ...]
    semiangle: float
    aberrations: Mapping[str, float]
    model: str
    rotation: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)
    error: np.ndarray | None = None
    source_size: float = 0.0

    def blur_by_source(self) -> np.ndarray:
        """The phase ``(y, x)`` as patterns show it where the source is not undone."""
        return filter_source(self.phase, self.pixel, self.source_size, undo=False)

    def align(self) -> "Prediction":
        """The same on rows and columns along the scan's frame, by cubic splines; nearest values beyond."""
        if self.rotation == 0.0:
            return self
        ends = np.array([(i, j) for i in (0, self.phase.shape[0] - 1) for j in (0, self.phase.shape[1] - 1)])
        corners = ends * self.pixel @ _make_turn(self.rotation)
        low, high = corners.min(0), corners.max(0)
        counts = np.ceil((high - low) / self.pixel).astype(int) + 1
        origin = (self.origin[0] + float(low[0]), self.origin[1] + float(low[1]))
        lines = [low[axis] + np.arange(counts[axis]) * self.pixel[axis] for axis in (0, 1)]
        places = np.stack(np.meshgrid(*lines, indexing="ij"), -1) + self.origin
        return replace(self, phase=self.sample(places), origin=origin, rotation=0.0)

    def sample(self, places: np.ndarray, /) -> np.ndarray:
        """The phase at places ``(*any, 2)`` in the scan's frame, angstrom, by cubic splines."""
        from scipy.ndimage import map_coordinates

        index = (np.asarray(places) - self.origin) @ _make_turn(self.rotation).T / self.pixel
        values = map_coordinates(
            self.phase.astype(np.float64), np.moveaxis(index, -1, 0), order=3, mode="nearest"
        )
        return values.astype(np.float32)


def filter_source(
    phase: np.ndarray,
    pixel: tuple[float, float],
    size: float,
    /,
    *,
    undo: bool,
    max_gain: float = MAX_SOURCE_GAIN,
) -> np.ndarray:
    """A phase whose blur by a source is undone, or put back.

    Patterns of a source of finite size are means over places, so that a weak phase comes out damped by
    ``exp(-2 pi^2 size^2 q^2)`` at the spatial frequency ``q``.

    Args:
        phase: ``(y, x)``; it goes on mirrored beyond its edges.
        pixel: (y, x), angstrom.
        size: standard deviation of the source along each axis, angstrom.
        undo: or put back.
        max_gain: by which any frequency is multiplied, or divided, at most.

    Example:
        >>> wave = np.tile(np.cos(2 * np.pi * np.arange(40) / 10), (40, 1)).astype(np.float32)
        >>> found = filter_source(wave, (0.4, 0.4), 0.5, undo=True)
        >>> round(float(found[20, 20] / wave[20, 20]), 1)
        1.4
    """
    if size == 0.0:
        return phase
    margins = [min(math.ceil(SOURCE_MARGIN / one), n - 1) for one, n in zip(pixel, phase.shape, strict=True)]
    wide = np.pad(phase.astype(np.float64), [(n, n) for n in margins], mode="reflect")
    rows, columns = np.fft.fftfreq(wide.shape[0], pixel[0]), np.fft.rfftfreq(wide.shape[1], pixel[1])
    square = rows[:, None] ** 2 + columns**2
    gain = np.exp(np.minimum(2 * (math.pi * size) ** 2 * square, math.log(max_gain)))
    spectrum = np.fft.rfft2(wide) * (gain if undo else 1 / gain)
    inner = tuple(slice(n, n + count) for n, count in zip(margins, phase.shape, strict=True))
    return np.fft.irfft2(spectrum, wide.shape)[inner].astype(phase.dtype)


def _make_turn(angle: float) -> np.ndarray:
    """Turns rows of (y, x) from the row axis towards the column axis."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, sine], [-sine, cosine]])


def predict(
    net: nn.Module,
    card: Mapping[str, Any],
    scan: Scan4D,
    optics: BeamOptics | None = None,
    /,
    *,
    dose: float | None = None,
    at_once: int = PROBES_AT_ONCE,
    min_electrons_for_source: float = MIN_ELECTRONS_FOR_SOURCE,
) -> Prediction:
    """Predict the phase of a scan with a network.

    Patterns are brought onto the detector of the network's experiment in units of the semiangle, their disk
    to its middle, cut at the angles that its training saw, and turned with their raster. A scan that is a
    whole number of times finer is parted into scans of the right step, whose phases are averaged. Hot and
    dead pixels are masked, few empty places of the raster filled with the mean of their neighbours.

    What is the same in all steps of the scan is left out of the phase: where the probe or the detector differ
    a little from those of the training, all patterns do so alike, and a network makes it a lattice of the
    scan's own. As much is left as the specimen has at frequencies beside those of the scan; one whose lattice
    fits into the steps exactly loses that part of it.

    Args:
        net: as of `phaseloom.learning.weight_files.load_network`; patches of a network for windows are joined
            by their weighted mean.
        card: its card: ``experiment``, and if it has them ``tolerance``, ``doses`` and ``name``.
        scan: the data; patterns and positions on the same axes, not mirrored.
        optics: of the beam.
        dose: electrons of the beam in a pattern; patterns that sum to something else are scaled. ``None``:
            from the patterns.
        at_once: probes whose patterns are read together, to save memory.
        min_electrons_for_source: in a pattern, from which on the blur by a stated source is undone.

    Raises:
        BadInput: a scan that this network was not trained for, the first difference by its name.
    """
    net = make_scan_network(net)
    optics = optics or BeamOptics()
    _require_electrons(scan)
    if isinstance(net, UnrolledRecovery):
        return _predict_any_probe(net, card, scan, optics, dose)
    experiment = _read_experiment(card)
    scan, data_notes = _clean_counts(scan, dose)
    scan, lattice, fill_notes = fill_empty_places(scan, find_raster(scan))
    disk = _Disk.of(scan)
    beam, notes = _describe_experiment(scan, disk, optics, experiment)
    every = _find_stride(lattice, beam, experiment, _read_tolerance(card)[1])
    beam = replace(beam, step=math.sqrt(math.prod(lattice.step) * math.prod(every)))
    _require_agreement(beam, experiment, _read_tolerance(card))
    way = {"offset": disk.offset, "rotation": lattice.rotation}
    view = PatternPreprocessor.of(scan, experiment, beam.semiangle, net, dose=dose, **way)
    numbers, more = _make_optics_numbers(beam, view, card)
    pixel = (lattice.step[0] * every[0] / PIXELS_PER_STEP, lattice.step[1] * every[1] / PIXELS_PER_STEP)
    phase, repeated = _ScanReader(net, view, numbers, at_once).predict_whole(lattice, every)
    if repeated > MIN_NOTED_REPEATED_SHARE:
        share = f"{100 * repeated:.0f} % of the phase's power repeats with the steps of the scan"
        more.append(f"{share} and is left out: it is as that of a probe unlike the model's")
    electrons = view.beam if view.electrons else math.inf
    source = optics.source_size if electrons >= min_electrons_for_source else 0.0
    phase = filter_source(phase, pixel, source, undo=True)
    all_notes = [
        *data_notes,
        *fill_notes,
        *notes,
        *_list_notes(scan, lattice, every, beam, experiment),
        *view.notes,
        *more,
        _describe_source(optics.source_size, source, electrons),
    ]
    first = lattice.turn(np.asarray(lattice.first) - PIXELS_PER_STEP * np.asarray(pixel))
    return Prediction(
        phase=(phase - phase.mean(dtype=np.float64)).astype(np.float32),
        pixel=pixel,
        origin=(float(first[0]), float(first[1])),
        notes=tuple(all_notes),
        told=tuple(numbers.tolist()),
        semiangle=beam.semiangle,
        aberrations=dict(beam.aberrations),
        model=str(card.get("name") or type(net).__name__),
        rotation=lattice.rotation,
        offset=disk.offset,
        source_size=source,
    )


def _predict_any_probe(
    net: UnrolledRecovery, card: Mapping[str, Any], scan: Scan4D, optics: BeamOptics, dose: float | None
) -> Prediction:
    """The same of the network that reads scans of any probe, at any positions."""
    scan, data_notes = _clean_counts(scan, dose)
    disk = _Disk.of(scan)
    angle, notes = _find_semiangle(scan, disk, optics.semiangle)
    _require_disk(scan, angle)
    found = recover_phase(net, scan, optics, angle, offset=disk.offset, dose=dose)
    phase = found.phase - found.phase.mean(dtype=np.float64)
    if optics.source_size:
        notes.append(f"the blur by a source of {optics.source_size:.3g} A is left: the network guesses it")
    return Prediction(
        phase=phase.astype(np.float32),
        pixel=found.pixel,
        origin=found.origin,
        notes=(*data_notes, *notes, *_list_unknowns(scan), *found.notes),
        told=found.conditions,
        semiangle=angle,
        aberrations=dict(optics.aberrations),
        model=str(card.get("name") or "unrolled"),
        offset=disk.offset,
        error=found.error,
    )


def _describe_source(stated: float, undone: float, electrons: float) -> str:
    """What was done about the size of the source: patterns do not tell it from a weaker phase."""
    if not stated:
        return (
            "a point source is assumed: a wider one makes the phase too weak; state probe.focused.source_size"
        )
    if not undone:
        return (
            f"the blur by the source is left: {electrons:.3g} electrons in a pattern are too few to undo it"
        )
    return f"the blur by a source of {stated:.3g} A is undone, by {MAX_SOURCE_GAIN:g} times at most"


def _read_experiment(card: Mapping[str, Any]) -> Experiment:
    """The experiment on a card."""
    given = card.get("experiment")
    if not isinstance(given, Mapping):
        fix = "does not say which experiment it was trained for, so nothing can be predicted with it"
        raise BadInput("model", str(card.get("name", "")) or None, fix)
    fields: dict[str, Any] = {**given}
    if "scan" in fields:
        fields["scan"] = tuple(fields["scan"])
    try:
        return Experiment(**fields)
    except TypeError as problem:
        fix = f"was trained for an experiment that this version does not know ({problem}): train it again"
        raise BadInput("model", str(card.get("name", "")) or None, fix) from problem


def _read_tolerance(card: Mapping[str, Any]) -> tuple[float, ...]:
    """How far each number may be off: a list, or by name; without a limit where nothing stands."""
    given = card.get("tolerance") or {}
    if isinstance(given, Mapping):
        given = [given.get(name, usual) for name, usual in zip(OPTICS_NAMES, DEFAULT_TOLERANCE, strict=True)]
    return tuple(_read_limit(value) for value in given)


def _require_electrons(scan: Scan4D) -> None:
    """Refuse scans for which there are no networks."""
    if scan.geometry.beam != "electron":
        raise BadInput("scan", scan.geometry.beam + "s", "are not what networks are trained for: electrons")
    if scan.geometry.near or scan.geometry.has_tilted_sample:
        what = "a near field" if scan.geometry.near else "a tilted sample"
        raise BadInput("scan", what, "is not what networks are trained for: a far field, head on")


def _clean_counts(scan: Scan4D, dose: float | None) -> tuple[Scan4D, list[str]]:
    """A scan without bad pixels, in electrons where a dose is stated that its patterns do not sum to."""
    scan, notes = mask_bad_pixels(scan)
    if dose is None or not 0 < dose < math.inf:  # others are refused where they are used
        return scan, notes
    total = float(_compute_mean_pattern(scan).sum())
    if not total > 0 or MIN_SHARE_OF_DOSE < total / dose < MAX_SHARE_OF_DOSE:
        return scan, notes
    unit = total / dose
    weights = np.ones(len(scan)) if scan.weights is None else scan.weights
    note = f"patterns sum to {total:.3g}, not to a dose of {dose:.3g} electrons"
    return replace(scan, weights=weights * unit), [*notes, f"{note}: taken as {unit:.3g} for an electron"]


@dataclass(frozen=True)
class _Disk:
    """The bright disk of the mean pattern, as far as it is seen.

    Attributes:
        radius: pixels, or none.
        offset: (y, x) pixels by which it lies beyond the middle of the detector.
        problem: why it was not found, or an empty text.
    """

    radius: float | None
    offset: tuple[float, float]
    problem: str = ""

    @classmethod
    def of(cls, scan: Scan4D) -> "_Disk":
        mean = _compute_mean_pattern(scan)
        try:
            disk = calibrate.fit_disk(mean, mask=scan.mask)
        except BadInput as problem:
            return cls(None, (0.0, 0.0), str(problem))
        y, x = (found - n // 2 for found, n in zip(disk.centre, mean.shape, strict=True))
        away = math.hypot(y, x)
        sure = MIN_CENTRE_ERRORS * math.hypot(*disk.centre_error) < away < disk.radius
        return cls(disk.radius, (float(y), float(x)) if sure else (0.0, 0.0))

    def measure_semiangle(self, scan: Scan4D) -> float | None:
        """Radian, or none."""
        return None if self.radius is None else self.radius * math.sqrt(math.prod(scan.geometry.angle))


def _describe_experiment(
    scan: Scan4D, disk: _Disk, optics: BeamOptics, model: Experiment
) -> tuple[Experiment, list[str]]:
    """The experiment of the scan, as far as networks take it as input, and what was assumed."""
    angle, notes = _find_semiangle(scan, disk, optics.semiangle)
    _require_disk(scan, angle)
    wavelength = scan.geometry.wavelength
    aberrations = dict(optics.aberrations)
    if not {"defocus", "C10", "C1"} & set(aberrations):
        aberrations["defocus"] = float(encode_conditions(model)[0]) * wavelength / angle**2
        notes.append(f"defocus is not given: assumed {aberrations['defocus']:.4g} A, as of the model")
    pixel = wavelength / angle / 20  # any that carries the aperture: it is not told
    energy = scan.geometry.energy
    optic = {"energy": energy, "semiangle": angle, "aberrations": aberrations}
    return replace(model, pixel=pixel, dose=None, jitter=0.0, **optic), notes


def measure_semiangle(scan: Scan4D, given: float | None = None, /) -> float:
    """The semiangle that is given, or that of the bright disk, radian; errors as of `predict`."""
    return _find_semiangle(scan, _Disk.of(scan), given)[0]


def _find_semiangle(scan: Scan4D, disk: _Disk, given: float | None) -> tuple[float, list[str]]:
    """The semiangle, and notes from comparing it with the patterns."""
    if given is not None and not 0 < given < math.pi / 2:
        raise BadInput("semiangle", given, "must lie between 0 and 1.57 rad")
    measured = disk.measure_semiangle(scan)
    if measured is None:
        if given is None:
            fix = f"is not given and cannot be measured ({disk.problem}): write probe: {{focused: ...}}"
            raise BadInput("semiangle", None, fix)
        return given, []
    notes = []
    if math.hypot(*disk.offset) > MIN_NOTED_OFFSET:
        y, x = disk.offset
        notes.append(f"the disk lies ({y:.2f}, {x:.2f}) pixels beside the middle, which is corrected")
    if given is None:
        notes.append(f"semiangle is not given: taken as {1e3 * measured:.4g} mrad, that of the disk")
    elif abs(measured / given - 1) > MAX_SEMIANGLE_DEVIATION:
        notes.append(
            f"the disk looks like {1e3 * measured:.3g} mrad, not {1e3 * given:.3g}: check the calibration"
        )
    return (measured if given is None else given), notes


def _require_disk(scan: Scan4D, angle: float) -> None:
    """Refuse patterns that are as bright around the disk as in it."""
    mean = _compute_mean_pattern(scan)
    ways = zip(mean.shape, scan.geometry.angle, strict=True)
    y, x = ((np.arange(n) - n // 2) * one / angle for n, one in ways)
    away = np.hypot(y[:, None], x)
    inside = mean[away < 0.7]
    around = mean[(away > 1.3) & (away < 2)]
    if min(inside.size, around.size) and np.median(inside) <= MIN_DISK_CONTRAST * max(np.median(around), 0):
        what = f"no bright disk of {1e3 * angle:.3g} mrad"
        fix = "is in the patterns, which are nearly as bright around it: check calibration and semiangle"
        raise BadInput("scan", what, fix)


def _compute_mean_pattern(scan: Scan4D) -> np.ndarray:
    """The mean pattern, masked pixels as those across, or dark."""
    mean = scan.mean_pattern(most=500) - (0.0 if scan.background is None else scan.background)
    mean = np.where(scan.mask, mean, 0.0)
    return np.where(scan.mask, mean, mirror_through_zero(torch.from_numpy(mean)).numpy())


def _find_stride(lattice: Raster, beam: Experiment, model: Experiment, tolerance: float) -> tuple[int, int]:
    """How many times finer than the model's the steps are (y, x)."""
    unit = beam.wavelength / beam.semiangle
    wanted = float(encode_conditions(model)[1])
    times = [max(1, round(wanted * unit / step)) for step in lattice.step]
    for step, count in zip(lattice.step, times, strict=True):
        if abs(count * step / unit - wanted) > tolerance or count > MAX_STRIDE:
            more = "or a whole number of times finer"
            more += f", such as {wanted * unit / count:.4g} A" if 1 < count <= MAX_STRIDE else ""
            raise _make_refusal("step", (step, wanted * unit, tolerance * unit), beam, f" {more}")
    return times[0], times[1]


def _require_agreement(beam: Experiment, model: Experiment, tolerance: tuple[float, ...]) -> None:
    """Refuse the first number in which a scan is not what the model was trained for."""
    angle = beam.semiangle
    length = beam.wavelength
    units = [length / angle**2, length / angle, 4 * length / angle**4]
    units += [length / angle**2] * 2 + [length / angle**3] * 2
    rows = zip(
        OPTICS_NAMES, units, encode_conditions(beam), encode_conditions(model), tolerance, strict=False
    )
    for name, unit, here, there, most in rows:
        if abs(float(here) - float(there)) > most:
            raise _make_refusal(name, (float(here) * unit, float(there) * unit, most * unit), beam)


def _make_refusal(
    name: str, lengths: tuple[float, float, float], beam: Experiment, more: str = ""
) -> BadInput:
    """What is, what should be and how far it may be off, in one sentence."""
    here, there, most = lengths
    where = f"at {1e3 * beam.semiangle:.3g} mrad and {beam.energy / 1e3:.3g} keV"
    fix = f"but {where} this model was trained for {there:.4g} A +- {most:.2g} A{more}: {OTHER_MODEL_ADVICE}"
    return BadInput(name, f"{here:.4g} A,", fix)


def _make_optics_numbers(
    beam: Experiment, view: PatternPreprocessor, card: Mapping[str, Any]
) -> tuple[Tensor, list[str]]:
    """The input for the optics, the dose clamped to the range of the training."""
    doses = card.get("doses")
    lowest, highest = (math.inf, math.inf) if doses is None else (_read_limit(value) for value in doses)
    found = view.beam if view.electrons else math.inf
    numbers = encode_conditions(beam, max(min(found, highest, MAX_TOLD_DOSE), min(lowest, NOISELESS_DOSE)))
    notes = []
    if found < min(0.99 * lowest, LOW_NOISE_DOSE):
        least = "patterns without noise" if math.isinf(lowest) else f"{lowest:.3g} electrons or more"
        notes.append(f"{found:.3g} electrons in a pattern are few for this model, trained for {least}")
    return torch.from_numpy(numbers), notes


def _read_limit(value: float | None) -> float:
    """A number of a card; JSON has no infinity, so nothing stands for it."""
    return math.inf if value is None else float(value)


def _list_notes(
    scan: Scan4D, lattice: Raster, every: tuple[int, int], beam: Experiment, model: Experiment
) -> Iterator[str]:
    """What was done to the scan, and what may be wrong with it."""
    scale = (beam.wavelength / beam.semiangle) / (model.wavelength / model.semiangle)
    if abs(scale - 1) > 0.01:
        wider = beam.semiangle / model.semiangle
        yield f"lengths are {scale:.3g} times the model's, angles {wider:.3g} times"
    if every != (1, 1):
        yield f"the scan is {every[0]} x {every[1]} times finer than the model's: parted and averaged"
    if lattice.rotation:
        turn = math.degrees(lattice.rotation)
        yield f"the raster is turned by {turn:.3g} degrees against the detector: patterns are turned with it"
    if lattice.astray > MIN_NOTED_DEVIATION:
        yield f"positions are up to {lattice.astray:.2g} steps off their raster, which is overlooked"
    yield from _list_unknowns(scan)
    if scan.descan is not None and np.abs(scan.descan).max(initial=0) > 0.5:
        yield "patterns are known to be shifted (descan), which is not corrected: --model unrolled does"


def _list_unknowns(scan: Scan4D) -> Iterator[str]:
    """What a file does not say."""
    if not scan.oriented:
        yield "the file does not say how the detector lies against the scan: taken as it is"


@dataclass(frozen=True, eq=False)
class _ScanReader:
    """A network with its input for the optics, and the preprocessed scan."""

    net: nn.Module
    view: PatternPreprocessor
    numbers: Tensor
    at_once: int

    def predict_whole(self, lattice: Raster, every: tuple[int, int]) -> tuple[np.ndarray, float]:
        """The phase of a scan, the mean of those of its parts; share of its power that was left out."""
        images = {}
        shares = []
        for at in product(range(every[0]), range(every[1])):
            images[at], share = _remove_repeated(self.predict_part(lattice.part(every, at)))
            shares.append(share)
        whole = images[0, 0] if len(images) == 1 else _merge_images(images, every, lattice.index.shape)
        return whole, float(np.mean(shares))

    @torch.no_grad()
    def predict_part(self, index: np.ndarray) -> np.ndarray:
        """The image of the patterns of an index, which are read in pieces where the network allows it."""
        net = self.net
        device = next(self.net.parameters(), self.numbers).device
        numbers = self.numbers[None].to(device)
        if not isinstance(net, ScanRecovery):
            return net(self.view.patterns(index)[None].to(device), numbers)[0].cpu().numpy()
        rows = max(1, self.at_once // index.shape[1])
        parts = [index[start : start + rows] for start in range(0, len(index), rows)]
        each = [net.components(self.view.patterns(part)[None].to(device)) for part in parts]
        return net.draw(torch.cat(each, 2), numbers)[0].cpu().numpy()


def _remove_repeated(image: np.ndarray) -> tuple[np.ndarray, float]:
    """An image without what is the same in all of its steps, and the share of its power that this was."""
    from scipy.ndimage import uniform_filter

    n = PIXELS_PER_STEP
    if min(image.shape) < MIN_STEPS_TO_COMPARE * n:
        return image, 0.0
    fine = image - uniform_filter(image, 2 * n + 1, mode="nearest")  # slow parts are not the same anywhere
    rows, columns = (m // n - 2 for m in image.shape)
    steps = fine[n : n * (rows + 1), n : n * (columns + 1)].reshape(rows, n, columns, n)
    spectrum = np.fft.fft2(steps - steps.mean((1, 3), keepdims=True), axes=(0, 2))
    near = [spectrum[i, :, j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    usual = float(np.mean(np.abs(near) ** 2) / max(float(np.mean(np.abs(spectrum[0, :, 0]) ** 2)), 1e-30))
    # what the specimen has at the frequencies of the scan is about what it has beside them
    step = max(0.0, 1 - usual) * spectrum[0, :, 0].real / (rows * columns)
    repeats = [m // n + 1 for m in image.shape]
    lattice = np.tile(step, repeats)[: image.shape[0], : image.shape[1]].astype(image.dtype)
    return image - lattice, float(lattice.var() / max(float(image.var()), 1e-30))


def _merge_images(
    images: Mapping[tuple[int, int], np.ndarray], every: tuple[int, int], scan: tuple[int, ...]
) -> np.ndarray:
    """Images of interleaved rasters on the grid of the first, by cubic splines, each less its mean."""
    from scipy.ndimage import map_coordinates

    pairs = zip(scan, every, strict=True)
    shape = [PIXELS_PER_STEP * (n - 1) // k + 2 * PIXELS_PER_STEP + 1 for n, k in pairs]
    total = np.zeros(shape)
    cover = np.zeros(shape)
    for at, image in images.items():
        ways = zip(shape, at, every, image.shape, strict=True)
        where = [(np.arange(n) - PIXELS_PER_STEP * a / k, size) for n, a, k, size in ways]
        inside = [(place >= 0) & (place <= size - 1) for place, size in where]
        box = np.ix_(*inside)
        places = np.meshgrid(*(p[one] for (p, _), one in zip(where, inside, strict=True)), indexing="ij")
        resampled = map_coordinates(image.astype(np.float64), places, order=3, mode="nearest")
        inner = resampled[PIXELS_PER_STEP:-PIXELS_PER_STEP, PIXELS_PER_STEP:-PIXELS_PER_STEP]
        total[box] += resampled - inner.mean()
        cover[box] += 1
    return (total / np.maximum(cover, 1)).astype(np.float32)
