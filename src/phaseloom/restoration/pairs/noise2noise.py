"""Noise2Noise pairs of scans: images from a share of the counts, and from the remaining counts.

A random number for each count decides whether it belongs to the input (`prepare.thin`, binomial thinning).
Both parts of Poisson counts are independent Poisson counts, those of a shorter and of a longer exposure, and
both are converted to an image in the same way. Neither ground truth nor a simulation is needed: a scan of
high dose teaches what one of low dose lacks.

**The target holds the remaining counts**, not all of them: so the noise of both is independent, and a network
cannot learn to keep any (Noise2Noise). With ``target: all``, as usually done, the noise of the input is also
in the target, at its share of the counts, which teaches to keep that much of it. The target is noisy in
either case, and an error against it includes the target's own noise.

**Both images of a pair lie on the same pixels.** Beam, orientation and defocus are determined once, on all of
the counts. A predicted phase, an integrated one and images of detectors are on the raster of the scan and
cannot drift. For ptychography positions are refined on all of the counts, then fixed; the probe is refined by
each part and may shift the object, so the target is registered to the input by cross-correlation, and both
are cropped to their overlap. Inputs are never interpolated.

Source:
    J. Lehtinen et al., Noise2Noise, ICML 2018, arXiv:1803.04189.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from phaseloom.data import prepare
from phaseloom.data.counts import load_counts
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import fresh, whole_buffer, write_text
from phaseloom.learning import weight_files
from phaseloom.metrics.phase import find_shift, remove_ramp, shift_image
from phaseloom.ptycho.probes.guesses import read_beam_optics
from phaseloom.reconstruction.half_data_frc import check_splittable
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.pairs.folders import Image, Pair, Side
from phaseloom.retrieval.prediction import measure_semiangle, predict
from phaseloom.retrieval.preprocessing import mask_bad_pixels
from phaseloom.simulation.experiment import PIXELS_PER_STEP
from phaseloom.spec import Written
from phaseloom.virtual.recipe import Virtual, make_virtual_images

__all__ = ["PairRecipe", "ScanPair", "make_pairs", "make_pairs_of_scan", "read_source", "save_pairs"]

log = logging.getLogger(__name__)

Floats = NDArray[np.floating]

Share = Annotated[float, Field(gt=0, lt=1)]

UNITS = {"phase": "radian", "virtual_detector": "counts"}

FIELD_MOVING_PARTS = ("positions", "affine", "rotation", "scale", "lines", "heights", "height_scale")
"""Parts of a reconstruction that move its field: refined on all of the counts, then fixed."""

MAX_REGISTRATION_SHIFT = 8
"""Pixels by which two reconstructions may be shifted against one another, at most."""

MAX_BYTES_IN_MEMORY = 2**30
"""Bytes of counts up to which they are read once, and not pattern by pattern for every part."""

MIN_CORRELATION = 0.3
"""Correlation of input and target below which there is hardly anything to learn."""

PATTERNS_PER_CHUNK = 256
"""Patterns that are searched for counts at a time."""


class PairRecipe(Written):
    """How pairs of images are made of scans.

    Attributes:
        files: scans, or parameter files of scans, whose optics and preparation hold for both images of a
            pair; counts, which must be single quanta, are split after ``prepare``.
        scan: what a parameter file would say, for files that are scans: ``read``, ``prepare``; ``probe`` for
            reconstruct and predict, ``semiangle`` for the others.
        task: ``phase``, one channel in radian; ``virtual_detector``, images of bright field, dark fields and
            further rings or segments of the parameter file, a channel each, in counts of the whole dose:
            they are divided by the share, so that input and target have one unit.
        by: method for phases: ``reconstruct``, ptychography as the parameter file says; ``predict``, a
            network; ``integrate``, from centres of mass, which needs no probe but a raster.
        model: of ``predict``: a network's file, or the name of one that comes with the package.
        share: of the counts in the input; of several, each pair has a random one: for any of these doses.
        draws: pairs of each scan, each split at random.
        target: ``rest``, of the counts that are not in the input; ``all``, of all, see above.
        test: share of the scans whose pairs are for ``test``: one at least, never all; none of a single scan.
        seed: of all random numbers.

    Example:
        >>> PairRecipe.of({"files": ["a.h5", "b.h5"], "by": "integrate", "share": [0.05, 0.2]}).draws
        4
    """

    files: tuple[Path, ...] = ()
    scan: Mapping[str, Any] = Field(default_factory=dict)
    task: Literal["phase", "virtual_detector"] = "phase"
    by: Literal["reconstruct", "predict", "integrate"] = "reconstruct"
    model: Path = Path("linear")
    share: Share | Annotated[tuple[Share, ...], Field(min_length=1)] = 0.1
    draws: int = Field(4, ge=1, strict=True)
    target: Literal["rest", "all"] = "rest"
    test: Share = 0.25
    seed: int = Field(0, ge=0, lt=2**62, strict=True)


@dataclass(frozen=True, eq=False)
class ScanPair:
    """A pair of a scan.

    Attributes:
        part: side of the data set.
        pair: the images.
        channels: names of the channels.
        told: ``scene``, the name of its scan; ``file``, ``share``, ``seed`` of the split, ``counts`` of a
            pattern in the input; ``pixel`` (y, x), angstrom; ``shift`` (y, x) pixels by which the target was
            moved; ``likeness``, correlation of input and target.
    """

    part: Side
    pair: Pair
    channels: tuple[str, ...]
    told: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Imaging:
    """A scan to split, and the conversion of its counts to an image, with parameters from all of the counts.

    Attributes:
        scan: with all counts.
        image: from a scan and its share of the counts to ``(channel, y, x)``.
        channels: their names.
        pixel: (y, x), angstrom.
        register: whether images may be shifted against one another, and blank patterns are left out.
    """

    scan: Scan4D
    image: Callable[[Scan4D, float], Floats]
    channels: tuple[str, ...]
    pixel: tuple[float, float]
    register: bool = False


def read_source(recipe: PairRecipe, path: Path, /) -> Reconstruct | Virtual:
    """Parameters of a scan, from its parameter file, or for a scan from the recipe."""
    needs_probe = recipe.task == "phase" and recipe.by != "integrate"
    kind = Reconstruct if needs_probe else Virtual
    if path.suffix in (".yaml", ".yml") or not recipe.scan:
        return kind.from_path(path)
    return kind.of({**recipe.scan, "file": str(path)}).with_paths_from(Path.cwd())


def make_pairs(recipe: PairRecipe, /) -> Iterator[ScanPair]:
    """All pairs of all scans, one at a time.

    All files are checked first: whether their counts can be split.

    Raises:
        BadInput: no file, one that cannot be read or is given twice, counts that are not whole numbers from
            zero up, a scan that does not suit the method, or channels that differ.
    """
    sources = _read_sources(recipe)
    count = len(sources)
    tests = min(max(1, round(recipe.test * count)), count - 1)
    tested = np.random.default_rng((recipe.seed, 41)).permutation(count)[:tests]
    first = None
    for number, source in enumerate(sources):
        part = "test" if number in tested else "train"
        for made in make_pairs_of_scan(recipe, source, number=number, part=part):
            first = first or made
            if made.channels != first.channels:
                known = f"{first.told['scene']} has {', '.join(first.channels)}"
                fix = f"but {known}: give each kind of scan a data set of its own"
                raise BadInput(f"{source.file.name}: channels", ", ".join(made.channels), fix)
            yield made


def make_pairs_of_scan(
    recipe: PairRecipe,
    source: Reconstruct | Virtual,
    scan: Scan4D | None = None,
    /,
    *,
    number: int = 0,
    part: Side = "train",
) -> Iterator[ScanPair]:
    """The pairs of one scan.

    Args:
        recipe: of the pairs; its ``files`` are ignored.
        source: parameters of the scan, as of `read_source`.
        scan: in memory, in place of the file; it is prepared as ``source`` says.
        number: of the scan, part of the seed and of the names.
        part: side of the data set.

    Raises:
        BadInput: see `make_pairs`.
    """
    scene = f"{number:03d}_{source.file.stem.replace(' ', '_')}"
    prepare_imaging = _METHODS[recipe.by if recipe.task == "phase" else "detect"]
    with _errors_with_file(source):
        imaging = prepare_imaging(recipe, source, scan)
        counts = imaging.scan.counts
        if np.prod(counts.shape) * counts.dtype.itemsize < MAX_BYTES_IN_MEMORY:
            imaging = replace(imaging, scan=replace(imaging.scan, counts=load_counts(counts)))
    for draw in range(recipe.draws):
        rng = np.random.default_rng((recipe.seed, 37, number, draw))
        share = float(rng.choice(np.atleast_1d(recipe.share)))
        seed = int(rng.integers(2**31))
        with _errors_with_file(source):
            before, after, details = _split_and_image(recipe, imaging, share, seed)
        details = {"scene": scene, "file": source.file.name, "share": share, "seed": seed, **details}
        pair = Pair(f"{scene}_{draw:02d}", before, after)
        correlation = details["likeness"]
        if correlation < MIN_CORRELATION:
            log.warning("%s: input and target hardly agree (correlation %.2f)", pair.name, correlation)
        yield ScanPair(part, pair, imaging.channels, details)


def save_pairs(
    recipe: PairRecipe, folder: Path, /, *, each: Callable[[ScanPair], Any] = lambda made: None
) -> Path:
    """Write a data set as `phaseloom.restoration.pairs.folders` reads it, 32-bit ``.npy``.

    It is written pair by pair: finished pairs stay if a later scan fails.

    Args:
        recipe: of the pairs.
        folder: new or empty.
        each: called with every pair after it is written.

    Returns:
        ``meta.json``: ``task``, ``unit``, ``channels``, the text of the ``recipe``, and under ``pairs`` the
        parameters of each, see `ScanPair`, by its path from ``folder`` without ``input`` or ``gt``.

    Raises:
        BadInput: a folder that is not empty; and as of `make_pairs`.
    """
    folder = fresh(folder, "pairs: folder")
    meta: dict[str, Any] = {"task": recipe.task, "unit": UNITS[recipe.task], "channels": []}
    meta |= {"recipe": recipe.to_text(), "pairs": {}}
    for made in make_pairs(recipe):
        name = f"{made.pair.name}.npy"
        for side, image in {"input": made.pair.input, "gt": made.pair.target}.items():
            with whole_buffer(folder / made.part / side / name) as buffer:
                np.save(buffer, image)
        meta["channels"] = list(made.channels)
        meta["pairs"][f"{made.part}/{name}"] = dict(made.told)
        write_text(folder / "meta.json", json.dumps(meta, indent=1))
        each(made)
    return folder / "meta.json"


def _read_sources(recipe: PairRecipe) -> list[Reconstruct | Virtual]:
    """Parameters of all files, checked."""
    if not recipe.files:
        raise BadInput("files", None, "names no scan: give files of scans, or parameter files of scans")
    sources = [read_source(recipe, path) for path in recipe.files]
    places = [source.require_file().resolve() for source in sources]
    if twice := [place for number, place in enumerate(places) if place in places[:number]]:
        fix = "is given twice, so it could be in training and in test: give it once, with more draws"
        raise BadInput("files", str(twice[0]), fix)
    for source in sources:
        with _errors_with_file(source):
            check_splittable(source.scan())
            if isinstance(source, Virtual):
                _raster_steps(source.scan_with_blanks())
    return sources


@contextmanager
def _errors_with_file(source: Reconstruct | Virtual) -> Iterator[None]:
    """Add the name of the file to errors."""
    try:
        yield
    except MissingExtra:
        raise
    except BadInput as problem:
        place = problem.place
        fix = problem.fix
        if place == "halves of the counts":
            place = "counts"
            fix = "is not a number of counts, so they cannot be split"
            fix += ": leave out steps of prepare that scale or blend"
        raise BadInput(f"{source.file.name}: {place}", problem.value, fix) from problem


def _split_and_image(
    recipe: PairRecipe, imaging: _Imaging, share: float, seed: int
) -> tuple[Image, Image, dict[str, Any]]:
    """Input and target of one random split, and its parameters."""
    few = prepare.thin(imaging.scan, which=0, share=share, seed=seed)
    most = imaging.scan
    rest = 1.0
    if recipe.target == "rest":
        most = prepare.thin(imaging.scan, which=1, share=share, seed=seed)
        rest = 1 - share
    if imaging.register:  # reconstructions leave out blank patterns: both must leave out the same ones
        has_counts = _find_counts(few) & _find_counts(most)
        if not has_counts.any():
            raise BadInput("share", share, "of the counts leaves no pattern with any: take more")
        few = few.select(has_counts)
        most = most.select(has_counts)
    before = imaging.image(few, share)
    after = imaging.image(most, rest)
    shift = (0.0, 0.0)
    if imaging.register:
        before, after, shift = _register(before, after)
    details: dict[str, Any] = {
        "counts": float(few.mean_pattern().sum()),
        "pixel": list(imaging.pixel),
        "shift": list(shift),
        "likeness": float(np.mean([_correlate(*both) for both in zip(before, after, strict=True)])),
    }
    return before.astype(np.float32), after.astype(np.float32), details


def _find_counts(scan: Scan4D) -> NDArray[np.bool_]:
    """Which patterns hold a count."""
    starts = range(0, len(scan), PATTERNS_PER_CHUNK)
    chunks = [np.arange(start, min(start + PATTERNS_PER_CHUNK, len(scan))) for start in starts]
    return np.concatenate([(scan.counts[index] * scan.mask).any((1, 2)) for index in chunks])


def _register(before: Floats, after: Floats) -> tuple[Floats, Floats, tuple[float, float]]:
    """An image, another one moved onto it, both cropped to their overlap, and the shift."""
    reference = remove_ramp(before[0])
    shift = find_shift(remove_ramp(after[0]), reference, max_shift=MAX_REGISTRATION_SHIFT, rounds=3)
    edges = np.ceil(np.abs(shift)).astype(int)
    crop = [slice(edge, n - edge) for edge, n in zip(edges, after.shape[1:], strict=True)]
    moved = np.stack([shift_image(one, shift) for one in after])
    return before[:, *crop], moved[:, *crop], shift


def _correlate(one: Floats, two: Floats) -> float:
    """Correlation of two images without their planes; 0 if one is constant."""
    a, b = (remove_ramp(image).ravel() for image in (one, two))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else 0.0


def _prepare_reconstruction(recipe: PairRecipe, source: Any, scan: Scan4D | None) -> _Imaging:
    """Ptychography: start and positions from all of the counts, then the same run for each part."""
    job = Job.begin(source.model_copy(update={"outputs": ()}), scan=scan)
    check_splittable(job.finest.scan)
    if any(job.recipe.rate_of(name) for name in FIELD_MOVING_PARTS):
        _run(job)
    full = job.finest.scan
    rates = job.recipe.rates
    if len(job.progress.history):
        full = replace(full, positions=job.model.scan.angstrom())
    fixed = {name: 0.0 for name in FIELD_MOVING_PARTS if name in rates}
    changes = tuple(change for change in source.changes if change.part not in FIELD_MOVING_PARTS)
    update = {"prepare": (), "outputs": (), "rates": {**rates, **fixed}, "changes": changes}
    settled = job.recipe.model_copy(update=update)

    def image(part: Scan4D, share: float) -> Floats:
        result = _run(Job.begin(settled, scan=part)).result()
        return result.phase[result.window][None]

    return _Imaging(full, image, ("phase",), job.finest.model.scan.canvas.pixel, register=True)


def _run(job: Job) -> Job:
    """Run a job to its end."""
    deque(job, maxlen=0)
    if job.progress.stop.is_interrupted:
        raise KeyboardInterrupt
    return job


def _prepare_prediction(recipe: PairRecipe, source: Any, scan: Scan4D | None) -> _Imaging:
    """A network; images cover the field between the first probe and the last."""
    path = weight_files.find_network(recipe.model, "retrieval")
    net = weight_files.load_network(path)
    card = weight_files.load_card(path)
    full, _ = mask_bad_pixels(source.scan(scan))
    optics = read_beam_optics(source.probe)
    optics = replace(optics, semiangle=measure_semiangle(full, optics.semiangle))
    inner = slice(PIXELS_PER_STEP, -PIXELS_PER_STEP)

    def image(part: Scan4D, share: float) -> Floats:
        return predict(net, card, part, optics).phase[None, inner, inner]

    return _Imaging(full, image, ("phase",), predict(net, card, full, optics).pixel)


def _prepare_detectors(recipe: PairRecipe, source: Any, scan: Scan4D | None) -> _Imaging:
    """Virtual detectors, or the phase integrated from them, with the beam of all of the counts."""
    full: Scan4D = source.scan_with_blanks(scan)
    steps = _raster_steps(full)
    found = make_virtual_images(source, full)
    beam = {"semiangle": f"{float(found.beam.semiangle)!r} rad", "centre": found.survey.centre}
    settled = source.model_copy(update=beam)
    names = tuple(detector.name for detector in found.survey.detectors)

    def image(part: Scan4D, share: float) -> Floats:
        images = make_virtual_images(settled, part)
        if recipe.task == "virtual_detector":
            return np.stack([images.survey.image(name) for name in names]) / share
        assert images.phase is not None
        return images.phase[None]

    return _Imaging(full, image, ("phase",) if recipe.task == "phase" else names, steps)


def _raster_steps(scan: Scan4D) -> tuple[float, float]:
    """Steps of the raster along its rows and columns, angstrom."""
    if scan.grid is None or np.prod(scan.grid) != len(scan):
        fix = "needs a raster: give the grid when reading, or choose by: reconstruct"
        raise BadInput("positions", None, fix)
    positions = scan.positions.reshape(*scan.grid, 2)
    moves = (np.diff(positions, axis=axis).reshape(-1, 2) for axis in (0, 1))
    down, along = (float(np.linalg.norm(move.mean(0))) if len(move) else 0.0 for move in moves)
    return down, along


_METHODS: dict[str, Callable[[PairRecipe, Any, Scan4D | None], _Imaging]] = {
    "reconstruct": _prepare_reconstruction,
    "predict": _prepare_prediction,
    "integrate": _prepare_detectors,
    "detect": _prepare_detectors,
}
