"""Predict the phase of scans from their parameter files, check it against the patterns, and write it."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from phaseloom import plot
from phaseloom.calibration.raster import complete_raster
from phaseloom.calibration.twin_of_run import judge_twin_of_run
from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.known_files import describe_scan
from phaseloom.data.own_files.members import Member, read_members
from phaseloom.data.prepare import enlarge, flip, scale, thin, transpose
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole_buffer, whole_hdf5, write_text
from phaseloom.learning import weight_files as pretrained
from phaseloom.metrics.pattern_misfit import PatternMisfit, measure_pattern_misfit
from phaseloom.plot import style as canvas
from phaseloom.ptycho import objects, probes, scans
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.guesses import BeamOptics, read_beam_optics
from phaseloom.ptycho.projections.object_prior import ObjectPower
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Provenance
from phaseloom.retrieval.evaluate import RIM_PIXELS
from phaseloom.retrieval.fitted_networks import FITTED, choose_network, identify_network
from phaseloom.retrieval.networks.linear import LinearRecovery
from phaseloom.retrieval.prediction import MIN_ELECTRONS_FOR_SOURCE, Prediction, predict
from phaseloom.retrieval.preprocessing import mask_bad_pixels
from phaseloom.runs.parallel_map import map_unordered, one_thread, worker_pool
from phaseloom.spec import to_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MIN_EXPLAINED_SHARE",
    "FailedPrediction",
    "ScanPrediction",
    "check_prediction",
    "check_settings",
    "describe_warnings",
    "find_missing",
    "measure_misfit",
    "measure_noise",
    "measure_repeatability",
    "plot_prediction",
]
__all__ += ["predict_missing", "predict_scan", "read_warnings", "write_prediction"]

log = logging.getLogger(__name__)

REQUEST_FILE = "asked.json"  # scan, model and settings of a prediction; written last, when it is complete
MAX_CHECKED_PATTERNS = 1000  # patterns that the prediction is compared with
MAX_PATTERNS_WITH_RIM = 25  # patterns up to which those at the rim of a scan are taken too
MAX_CHECKED_PIXELS = 2**24  # pixels of all of them, at most
MAX_SEMIANGLES = 1.5  # semiangles up to which patterns are compared
# Share explained, and correlation of the predictions from halves of the electrons, below which a prediction
# should be doubted: of foreign scans (benchmarks/foreign_scans.py, 121 of `calibrate`) that reach both,
# `tiny` has a correlation above 0.9 in 95 %, and 95 % of those above 0.95 reach them. The linear estimate
# needs more, and gets 93 %.
MIN_EXPLAINED_SHARE = 0.85
MIN_REPEATABILITY = 0.88
MIN_EXPLAINED_SHARE_OF_LINEAR = 0.88
MIN_REPEATABILITY_OF_LINEAR = 0.95
# Standard errors by which a phase that goes against the dark field is doubted. Of 12 right foreign scans the
# lowest is 10.9 along it; of twins with a correlation below -0.7, -7.9 to -11.9, and two of -2.0 and 5.6.
MIN_ERRORS_AGAINST_DARK_FIELD = 3.0

MAX_BLOCK_FOR_SETTINGS = 16  # rows and columns of the raster that settings are compared on
MIN_ERRORS_OF_SETTINGS = 3.0  # standard errors by which another one has to explain more
PATTERNS_AT_ONCE = 64  # patterns that are modelled together
MIN_PIXELS_OF_SPECTRUM = 16  # of a side of an image, rims left out, to tell noise by frequency
MIN_PROBE_WINDOW = 48  # pixels of the window of the probe, at least
MIN_MODEL_SEMIANGLES = 3.5  # semiangles that the model reaches over, at least, from edge to edge


ORIENTATION = "the detector in another orientation"
STEP_FIX = "check the step and the defocus, which act alike; phaseloom calibrate finds both"
OTHER_SETTINGS: dict[tuple[str, str], Callable[[Scan4D], Scan4D]] = {
    (ORIENTATION, "check it, and try prepare: [transpose]"): transpose,
    (ORIENTATION, "check it, and try prepare: [{flip: {axis: x}}]"): partial(flip, axis="x"),
    (ORIENTATION, "check it, and try prepare: [{flip: {axis: y}}]"): partial(flip, axis="y"),
    ("steps 8 % shorter", STEP_FIX): partial(scale, factor=0.92),
    ("steps 8 % longer", STEP_FIX): partial(scale, factor=1.08),
}
"""What may be wrong, and what to do about it, by the change that makes another scan of the present one."""


@dataclass(frozen=True, eq=False)
class ScanPrediction:
    """A prediction, its misfit and its provenance.

    Attributes:
        prediction: see `phaseloom.retrieval.prediction.Prediction`.
        misfit: against the data, or ``None`` where they cannot be modelled.
        card: of the network.
        recipe: that the data were read by.
        provenance: see `phaseloom.result.Provenance`.
        warnings: why the prediction should be doubted, in sentences.
        repeatability: see `measure_repeatability`.
        facts: of the scan (`phaseloom.data.known_files.describe_scan`).
        noise: by spatial frequency, see `measure_noise`.
    """

    prediction: Prediction
    misfit: PatternMisfit | None
    card: Mapping[str, Any]
    recipe: Reconstruct
    provenance: Provenance
    warnings: list[str] = field(default_factory=list)
    repeatability: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, Sequence[float]] | None = None


def predict_scan(
    recipe: Reconstruct,
    /,
    *,
    model: str | Path,
    dose: float | None = None,
    said: Callable[[str], None] = log.info,
) -> ScanPrediction:
    """Predict the phase of the data of a recipe, of which file, preparation and probe are used.

    Args:
        recipe: as for a reconstruction.
        model: a network's file, the name of one that comes with the package, or ``"fitted"`` for one that is
            fitted to the probe of the scan (`phaseloom.retrieval.fitted_networks.fit_network`).
        dose: electrons of the beam in a pattern; default: from the patterns.
        said: called with a line before what takes long.

    Raises:
        BadInput: no such model, or data that it was not trained for.
    """
    scan = recipe.scan()
    optics = read_beam_optics(recipe.probe)
    path = choose_network(model, scan, optics, said=said)
    net = pretrained.load_network(path)
    card = pretrained.load_card(path)
    card = {**card, "name": card.get("name") or (model if model == FITTED else path.stem)}
    said(f"predicting {len(scan)} patterns: with all electrons, with either half of them, and checks")
    prediction = predict(net, card, scan, optics, dose=dose)
    halves = predict_halves(net, card, scan, optics, dose=dose)
    again = None if halves is None else correlate_halves(*halves)
    noise = None if halves is None else measure_noise(*halves)
    found, doubts = check_prediction(prediction, scan, again, linear=isinstance(net, LinearRecovery))
    doubts = doubts or check_settings(net, card, scan, optics, dose=dose)
    made = Provenance.now(seed=recipe.seed, data=scan.digest(), file=recipe.file.name)
    return ScanPrediction(prediction, found, card, recipe, made, doubts, again, describe_scan(scan), noise)


def measure_repeatability(
    net: nn.Module,
    card: Mapping[str, Any],
    scan: Scan4D,
    optics: BeamOptics | None = None,
    /,
    *,
    dose: float | None = None,
) -> float | None:
    """The correlation of the phases that a network predicts from two halves of the electrons.

    What both halves show is not counting noise; a phase from all electrons has about twice their ratio of
    signal to noise. ``None`` where counts cannot be halved, as they are not whole numbers of electrons.

    Arguments and errors as of `phaseloom.retrieval.prediction.predict`.
    """
    halves = predict_halves(net, card, scan, optics, dose=dose)
    return None if halves is None else correlate_halves(*halves)


def predict_halves(
    net: nn.Module,
    card: Mapping[str, Any],
    scan: Scan4D,
    optics: BeamOptics | None = None,
    /,
    *,
    dose: float | None = None,
) -> tuple[Prediction, Prediction] | None:
    """The predictions from two halves of the electrons, or ``None`` where counts cannot be halved.

    Arguments and errors as of `phaseloom.retrieval.prediction.predict`.
    """
    half: dict[str, Any] = {"dose": None if dose is None else dose / 2}
    half["min_electrons_for_source"] = MIN_ELECTRONS_FOR_SOURCE / 2
    try:
        first, second = (predict(net, card, thin(scan, which=one), optics, **half) for one in (0, 1))
    except BadInput:
        return None
    return first, second


def correlate_halves(first: Prediction, second: Prediction, /) -> float | None:
    """See `measure_repeatability`; the blur by a source is put back, for it was undone in noise as well."""
    inner = [_without_rim(one.blur_by_source()).ravel() for one in (first, second)]
    if inner[0].size == 0 or min(float(part.std()) for part in inner) == 0.0:
        return None
    return float(np.corrcoef(np.stack(inner))[0, 1])


def measure_noise(first: Prediction, second: Prediction, /) -> dict[str, list[float]] | None:
    """Counting noise of a prediction by spatial frequency, from those of two halves of the electrons.

    Half of the difference of both has the noise of their mean, and so about that of the prediction from all
    electrons. What both share is not seen: slow variations that a network takes from the wrong parabola
    of a descan, say, repeat. ``None`` of images too small to tell.

    Returns:
        ``frequency`` of rings, cycles per angstrom; ``phase`` and ``noise``, root mean squares of the phase
        (with its noise) and of the noise that the frequencies of a ring have, radian.
    """
    inner = [_without_rim(one.phase).astype(np.float64) for one in (first, second)]
    if min(inner[0].shape) < MIN_PIXELS_OF_SPECTRUM:
        return None
    taper = np.outer(*(np.hanning(n) for n in inner[0].shape))
    images = {"phase": (inner[0] + inner[1]) / 2, "noise": (inner[0] - inner[1]) / 2}
    powers = {name: ObjectPower.of_phase(one, taper, first.pixel) for name, one in images.items()}
    frequency = np.array(powers["phase"].frequency)
    area = 2 * math.pi * frequency * frequency[0]
    rings = {name: np.sqrt(np.array(power.density) * area) for name, power in powers.items()}
    return {"frequency": frequency.tolist(), **{name: one.tolist() for name, one in rings.items()}}


def _without_rim(phase: np.ndarray) -> np.ndarray:
    return phase[RIM_PIXELS:-RIM_PIXELS, RIM_PIXELS:-RIM_PIXELS]


@torch.no_grad()
def measure_misfit(
    prediction: Prediction, scan: Scan4D, /, *, most: int = MAX_CHECKED_PATTERNS
) -> PatternMisfit:
    """Compare a prediction with the patterns around the middle of its scan, and no object with them.

    Hot and dead pixels are left out, as in the prediction, and so are angles beyond one and a half
    semiangles: most of what scatters there is finer than a predicted phase can be.

    Args:
        prediction: of the scan.
        scan: the data.
        most: patterns that are compared.

    Raises:
        BadInput: a beam that the detector cannot hold.
    """
    scan, _ = mask_bad_pixels(scan)
    few = scan.select(_select_inner(scan, most))
    few = replace(few, counts=np.asarray(few.counts[np.arange(len(few))], np.float32))
    shift = np.asarray(prediction.offset) + (0.0 if few.descan is None else few.descan)
    few = replace(few, descan=np.broadcast_to(shift, (len(few), 2)).copy())
    few = _enlarge_detector(few, prediction.semiangle)
    model = _make_model(prediction.align(), few)
    measured = torch.from_numpy(few.counts)
    parts = torch.arange(len(few)).split(PATTERNS_AT_ONCE)
    pieces = ((model.detector.display(model(part)), measured[part]) for part in parts)
    bare = model.detector.display(model.detector.background())
    within = _find_within(few.geometry, MAX_SEMIANGLES * prediction.semiangle)
    return measure_pattern_misfit(pieces, bare, few.mask & within)


def write_prediction(outcome: ScanPrediction, folder: Path, /) -> list[Path]:
    """Leave ``prediction.h5``, ``prediction.png``, and with tifffile ``prediction.tif`` in a folder."""
    import importlib.util

    paths = [folder / "prediction.h5", folder / "prediction.png"]
    _write_h5(outcome, paths[0])
    plot.save(plot_prediction(outcome.prediction), paths[1])
    if importlib.util.find_spec("tifffile") is not None:
        paths.append(folder / "prediction.tif")
        _write_tiff(outcome.prediction, paths[2])
    return paths


def plot_prediction(prediction: Prediction, /) -> "Figure":
    """The phase with scale bar and colour bar."""
    figure = canvas.new_figure(6.4, 5.2)
    axes = figure.subplots()
    phase = prediction.phase
    low, high = canvas.limits(phase)
    look = {"title": f"Phase, predicted by {prediction.model}", "cmap": "viridis", "vmin": low, "vmax": high}
    artist = canvas.image(axes, phase, pixel=prediction.pixel, **look)
    canvas.colour_bar(axes, artist, "phase (rad)")
    return figure


def check_prediction(
    prediction: Prediction, scan: Scan4D, repeatability: float | None, /, *, linear: bool = False
) -> tuple[PatternMisfit | None, list[str]]:
    """The misfit, and warnings that follow from it and from the repeatability.

    Args:
        prediction: of the scan.
        scan: the data.
        repeatability: see `measure_repeatability`.
        linear: whether the network is the linear estimate, of which more is asked.
    """
    least = MIN_REPEATABILITY_OF_LINEAR if linear else MIN_REPEATABILITY
    share = MIN_EXPLAINED_SHARE_OF_LINEAR if linear else MIN_EXPLAINED_SHARE
    noisy = []
    found, doubts = _check_misfit(prediction, scan, share)
    is_misfit = bool(doubts) and found is not None and found.explained is not None
    if repeatability is not None and repeatability < least and not is_misfit:
        part = f"agree by {repeatability:.2f} only"
        fix = "too few electrons for this specimen: add up scans, or reconstruct"
        noisy = [f"predictions from halves of the electrons {part}: {fix}"]
    return found, [*doubts, *_check_twin(prediction, scan), *noisy]


def check_settings(
    net: nn.Module,
    card: Mapping[str, Any],
    scan: Scan4D,
    optics: BeamOptics | None = None,
    /,
    *,
    dose: float | None = None,
) -> list[str]:
    """A warning where predictions explain more of the patterns with another orientation or step.

    Orientations are those of a detector mirrored or transposed, steps 8 % shorter or longer. Wrong ones may
    explain nine tenths; the right ones explain more. Large scans are compared by a block of their raster,
    those without a raster not at all.

    Arguments as of `phaseloom.retrieval.prediction.predict`.
    """
    block = _select_block(scan)
    if block is None:
        return []

    def explain(part: Scan4D) -> tuple[float, float] | None:
        """Share explained and its standard error."""
        try:
            found = measure_misfit(predict(net, card, part, optics, dose=dose), part)
        except BadInput:
            return None
        if found.explained is None or found.error is None:
            return None
        return found.explained, found.error

    here = explain(block)
    if here is None:
        return []
    for (where, fix), change in OTHER_SETTINGS.items():
        there = explain(change(block))
        if there and there[0] - here[0] > MIN_ERRORS_OF_SETTINGS * math.hypot(here[1], there[1]):
            more = f"{100 * there[0]:.0f} % instead of {100 * here[0]:.0f} %"
            return [f"patterns are explained better with {where} ({more}): {fix}"]
    return []


def _select_block(scan: Scan4D) -> Scan4D | None:
    """The middle of a raster, or a whole small scan; ``None`` of large ones without a raster."""
    most = MAX_BLOCK_FOR_SETTINGS
    if len(scan) <= most**2:
        return scan
    if scan.grid is None or math.prod(scan.grid) != len(scan):
        return None
    index = np.arange(len(scan)).reshape(scan.grid)
    rows, columns = (slice(max(0, (n - most) // 2), max(0, (n - most) // 2) + most) for n in scan.grid)
    part = index[rows, columns]
    return replace(scan.select(part.ravel()), grid=(part.shape[0], part.shape[1]))


@torch.no_grad()
def _check_twin(prediction: Prediction, scan: Scan4D) -> list[str]:
    """What to doubt where the phase is low although matter scatters there: the misfit of twins is alike.

    Networks make atoms peaks of either twin, so the dark field alone is asked.
    """
    scan, _ = mask_bad_pixels(complete_raster(scan))
    model = _make_model(prediction.align(), _enlarge_detector(scan, prediction.semiangle))
    dark = judge_twin_of_run(scan, model, semiangle=prediction.semiangle).dark_field
    if dark is None or dark > -MIN_ERRORS_AGAINST_DARK_FIELD:
        return []
    wrong = f"the phase is low where the dark field is bright (correlation {dark:.1f} standard errors)"
    fix = "as in its twin: check the sign of the defocus, and whether the detector is turned by 180 degrees"
    return [f"{wrong}, {fix}"]


def _check_misfit(
    prediction: Prediction, scan: Scan4D, least: float
) -> tuple[PatternMisfit | None, list[str]]:
    """The misfit, and what to doubt for it."""
    try:
        found = measure_misfit(prediction, scan)
    except BadInput as problem:
        return None, [f"the prediction cannot be compared with the data: {problem}"]
    fix = "check optics, orientation of the detector, descan, unit of the positions, and that counts are "
    fix += "electrons; a thick specimen, or phases above a radian, cannot be explained"
    if found.explained is None or found.error is None:
        return found, ["too few counts or too thin an object: the prediction cannot be checked"]
    if found.explained + 3 * found.error <= 0:
        none = "the prediction explains the patterns no better than no object: discard it"
        return found, [f"{none}; {fix}"]
    if found.explained + 3 * found.error < least:
        part = f"{100 * max(found.explained, 0):.0f} %"
        return found, [f"the prediction explains only {part} of what differs from pattern to pattern: {fix}"]
    return found, []


def _make_model(prediction: Prediction, scan: Scan4D) -> Ptychography:
    """The experiment with the predicted phase as its object, extended beyond its edges.

    A phase whose blur by the source was undone has it again, under a point source: eight modes would do the
    same for more.
    """
    probe = probes.focused(
        scan, semiangle=prediction.semiangle, aberrations=dict(prediction.aberrations), modes=1, soft=True
    )
    specimen = objects.pixels(scans.canvas(scan), kind="phase")
    window = zip(specimen.canvas.window, specimen.canvas.pixel, prediction.pixel, strict=True)
    margins = [math.ceil(count * size / pixel) + 1 for count, size, pixel in window]
    phase = np.pad(prediction.blur_by_source(), [(n, n) for n in margins], mode="edge")
    axes = zip(prediction.origin, prediction.pixel, phase.shape, margins, strict=True)
    centre = [origin + pixel * (count // 2 - margin) for origin, pixel, count, margin in axes]
    wave = torch.polar(torch.ones(phase.shape), torch.from_numpy(phase))
    specimen.place_window(wave, at=centre, pixel=prediction.pixel)
    return Ptychography.of(scan, object=specimen, probe=probe)


def _select_inner(scan: Scan4D, most: int) -> np.ndarray:
    """The half of the patterns that is farthest from the rim of the scan: what is beyond is not predicted."""
    low = scan.positions.min(0)
    high = scan.positions.max(0)
    away = np.abs(2 * scan.positions - low - high) / np.maximum(high - low, 1e-9)
    count = min(
        most,
        max(MAX_PATTERNS_WITH_RIM, len(scan) // 2),
        max(100, MAX_CHECKED_PIXELS // math.prod(scan.geometry.shape)),
    )
    return np.sort(np.argsort(away.max(1).round(6), kind="stable")[:count])


def _enlarge_detector(scan: Scan4D, semiangle: float) -> Scan4D:
    """The scan modelled up to angles that the object scatters to, in a window that the beam fits into."""
    if scan.modelled is not None:
        return scan
    shape = scan.geometry.shape
    reach = min(n * angle for n, angle in zip(shape, scan.geometry.angle, strict=True))
    wider = math.ceil(MIN_MODEL_SEMIANGLES * semiangle / reach)
    finer = -(-MIN_PROBE_WINDOW // min(shape))
    rows, columns = (max(wider, finer) * n for n in shape)
    if wider > 1:
        return enlarge(scan, to=(rows, columns), match="crop")
    return enlarge(scan, to=(rows, columns), match="resample") if finer > 1 else scan


def _find_within(geometry: Geometry, angle: float) -> np.ndarray:
    """Which detector pixels see less than an angle."""
    y, x = ((np.arange(n) - n // 2) * a for n, a in zip(geometry.shape, geometry.angle, strict=True))
    return np.hypot(y[:, None], x) <= angle


def _write_h5(outcome: ScanPrediction, path: Path) -> None:

    made = outcome.prediction
    with whole_hdf5(path) as file:
        phase = file.create_dataset("phase", data=made.phase, compression="gzip")
        phase.attrs["units"] = "radian"
        for name in ("pixel", "origin"):
            file.create_dataset(name, data=getattr(made, name)).attrs["units"] = "angstrom"
        file.create_dataset("rotation", data=made.rotation).attrs["units"] = "radian"
        if made.error is not None:
            file.create_dataset("error", data=made.error, compression="gzip").attrs["units"] = "radian"
        file["told"] = made.told
        for name, values in (outcome.noise or {}).items():
            ring = file.create_dataset(f"by_frequency/{name}", data=values)
            ring.attrs["units"] = "1/angstrom" if name == "frequency" else "radian"
        file.attrs["phaseloom_prediction"] = 1
        file.attrs["model"] = made.model
        file.attrs["semiangle"] = made.semiangle
        file.attrs["source_size"] = made.source_size
        for name, value in {
            "aberrations": dict(made.aberrations),
            "card": dict(outcome.card),
            "notes": list(made.notes),
            "warnings": outcome.warnings,
            "repeatability": outcome.repeatability,
            "misfit": None if outcome.misfit is None else asdict(outcome.misfit),
            "provenance": asdict(outcome.provenance),
            **outcome.facts,
        }.items():
            file[name] = json.dumps(value)
        file["recipe"] = outcome.recipe.to_text(defaults=False)


def _write_tiff(prediction: Prediction, path: Path) -> None:
    """32-bit float with its pixel size, as ImageJ reads it."""
    import tifffile

    resolution = (10 / prediction.pixel[1], 10 / prediction.pixel[0])
    with whole_buffer(path) as buffer:
        tifffile.imwrite(
            buffer, prediction.phase, imagej=True, resolution=resolution, metadata={"unit": "nm"}
        )


def find_missing(
    recipes: Sequence[Reconstruct], folder: Path, /, *, model: str, dose: float | None = None
) -> list[Reconstruct]:
    """Those whose prediction is not in the folder yet, or not whole.

    Args:
        recipes: of the scans.
        folder: see `predict_missing`, as the rest.
        model: as of `predict_scan`.
        dose: electrons in a pattern.

    Raises:
        BadInput: two scans of one name, whose predictions would share a folder; a folder that holds the
            prediction of another scan, of data that have changed since, or by another model or settings.
    """
    return _find_missing(recipes, folder, {"model": identify_network(model), "dose": dose})


def read_warnings(path: Path, /) -> list[str]:
    """The warnings on a prediction that is in a file."""
    with open_hdf5(path) as file:
        return read_members(file, (Member("warnings", "json", form=list[str]),), path.name)["warnings"]


def _find_missing(recipes: Sequence[Reconstruct], folder: Path, by: dict[str, Any]) -> list[Reconstruct]:
    """The same, of a network that is known by its hash."""
    names: dict[str, Path] = {}
    for recipe in recipes:
        if other := names.get(recipe.file.stem):
            fix = "would share a folder: name each scan once, and give scans of one name an --out each"
            raise BadInput("predict scans", f"{other} and {recipe.file}", fix)
        names[recipe.file.stem] = recipe.file
    return [
        one for one in recipes if not _is_complete(folder / one.file.stem, {**_describe_input(one), **by})
    ]


def _is_complete(folder: Path, request: dict[str, Any]) -> bool:
    """Whether the prediction of a scan is there and whole.

    Raises:
        BadInput: it is another one.
    """
    if not ((folder / REQUEST_FILE).is_file() and (folder / "prediction.h5").is_file()):
        return False
    stored = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    differ = [name for name, value in request.items() if stored.get(name) != value]
    if differ:
        fix = f"holds a prediction of another value of {', '.join(differ)}: name another --out, or remove it"
        raise BadInput("predict scans", str(folder), fix)
    return True


def _describe_input(recipe: Reconstruct) -> dict[str, Any]:
    """What a prediction is of."""
    file = recipe.file.resolve()
    settings = {name: value for name, value in recipe.to_tree().items() if name not in ("file", "title")}
    data = file.stat() if file.exists() else None
    return {
        "file": str(file),
        "data": None if data is None or file.is_dir() else [data.st_size, data.st_mtime_ns],
        "settings": to_yaml(settings),
    }


class FailedPrediction(str):
    """The sentence on a scan that could not be predicted; other sentences are warnings on those that were."""


def predict_missing(
    recipes: Sequence[Reconstruct],
    folder: Path,
    /,
    *,
    model: str,
    dose: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> Iterator[tuple[Path, str]]:
    """Predict the scans whose prediction is missing; yields each file with warnings, or a `FailedPrediction`.

    Predictions are written whole or not at all, so a run may be stopped and called again.

    Args:
        recipes: of the scans.
        folder: a folder for each scan in it, by the name of its file.
        model: as of `predict_scan`.
        dose: electrons in a pattern; default: from the patterns.
        workers: processes; none takes every processor.
        scheduler: address of a Dask scheduler, whose workers see files and folder by the same names.

    Raises:
        BadInput: as of `find_missing`, or a scheduler that does not answer.
    """
    by = {"model": identify_network(model), "dose": dose}
    left = _find_missing(recipes, folder, by)
    work = partial(_predict_one, folder=folder.resolve(), model=model, by=by)
    trees = [recipe.model_copy(update={"file": recipe.file.resolve()}) for recipe in left]
    with (
        worker_pool(workers, scheduler) as (team, ahead),
        closing(map_unordered(work, trees, team, ahead)) as done,
    ):
        for recipe, message in done:
            yield recipe.file, message


def _predict_one(recipe: Reconstruct, *, folder: Path, model: str, by: dict[str, Any]) -> str:
    """Predict and write; a sentence when it cannot be."""
    try:
        with one_thread():
            outcome = predict_scan(recipe, model=model, dose=by["dose"])
    except BadInput as problem:
        return FailedPrediction(problem)
    write_prediction(outcome, folder / recipe.file.stem)
    write_text(
        folder / recipe.file.stem / REQUEST_FILE, json.dumps({**_describe_input(recipe), **by}, indent=1)
    )
    return describe_warnings(outcome.warnings)


def describe_warnings(warnings: Sequence[str], /) -> str:
    """Warnings of one prediction in a line."""
    return "; ".join(f"WARN {warning}" for warning in warnings)
