"""Pairs to learn restoration from, of scans alone: what few of their counts show, and what the others show.

For each count of a scan the toss of a coin says whether it is in the input (`prepare.thin`, binomial
thinning). Both parts of Poisson counts are independent Poisson counts, those of a shorter and of a longer
exposure, and both are turned into an image in the same way. So neither a truth nor a simulation is needed: a
scan of high dose teaches what one of low dose lacks.

**The target holds the rest of the counts**, not all of them: so the noise of both is independent, and a
network cannot learn to keep any (Noise2Noise). With ``target: all``, as usually done, the noise of the input
is also in the target, at its share of the counts, which teaches to keep so much of it. The target is noisy
in either case, and an error against it holds the target's own noise.

**Both images of a pair lie on the same pixels.** Beam, orientation and defocus are settled once, on all of
the counts. A predicted phase, an integrated one and images of detectors are bound to the raster of the scan:
nothing can drift. Of ptychography positions are found on all of the counts, and held; the probe is found by
each part for itself and may take the object with it, so the target is moved onto the input by what their
cross-correlation says, and both are cut to what they share. Inputs are never interpolated.

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
from phaseloom.data.counts import loaded
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import fresh, whole
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.weight_files import find
from phaseloom.metrics.phase import find_shift, remove_ramp, shifted
from phaseloom.ptycho.probe_guesses import optics_of
from phaseloom.reconstruction.half_data_frc import splittable
from phaseloom.reconstruction.job import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.pairs.folders import Image, Pair
from phaseloom.retrieval.prediction import measured, predict
from phaseloom.retrieval.preprocessing import trusted
from phaseloom.simulation.experiment import PER_STEP
from phaseloom.spec import Written, to_yaml
from phaseloom.virtual.recipe import Virtual, virtual

__all__ = ["Thin", "Thinned", "drawn", "pairs", "save", "source"]

log = logging.getLogger(__name__)

Part = Literal["train", "test"]

Share = Annotated[float, Field(gt=0, lt=1)]

UNITS = {"phase": "radian", "virtual_detector": "counts"}

PLACES = ("positions", "affine", "rotation", "scale", "lines", "heights", "height_scale")
"""Parts of a reconstruction that move its field: found on all of the counts, then held."""

ASIDE = 8
"""Pixels that two reconstructions may lie beside one another, at most."""

NO_COUNTS = "is no number of counts, so they cannot be parted: leave out steps of prepare that scale or blend"

KEPT = 2**30
"""Bytes of counts up to which they are read once, and not pattern by pattern for every part."""

LIKE = 0.3
"""Correlation of input and target below which there is hardly anything to learn from."""


class Thin(Written):
    """How pairs of images are made of scans.

    Attributes:
        files: scans, or parameter files of scans, whose optics and preparation hold for both images of a
            pair; counts, which must be single quanta, are parted after ``prepare``.
        scan: what a parameter file would say of those that are none: ``read``, ``prepare``; ``probe`` for
            reconstruct and predict, ``semiangle`` for the others.
        task: ``phase``, one channel in radian; ``virtual_detector``, what bright field, dark fields and
            further rings or segments of the parameter file see, a channel each, in counts of the whole dose:
            they are divided by the share, so that input and target have one unit.
        by: how phases are found: ``reconstruct``, by ptychography as the parameter file says; ``predict``, by
            a network; ``integrate``, from centres of mass, which needs no probe but a raster.
        model: of ``predict``: a network's file, or the name of one that comes with the package.
        share: of the counts in the input; of several, each pair has one by chance: for any of these doses.
        draws: pairs of each scan, each by a coin of its own.
        target: ``rest``, of the counts that are not in the input; ``all``, of all, see above.
        test: share of the scans whose pairs are for ``test``: one at least, never all; none of a single scan.
        seed: of everything that is drawn.

    Example:
        >>> Thin.of({"files": ["a.h5", "b.h5"], "by": "integrate", "share": [0.05, 0.2]}).draws
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

    @property
    def way(self) -> str:
        """What turns counts into an image."""
        return self.by if self.task == "phase" else "detect"


@dataclass(frozen=True, eq=False)
class Thinned:
    """A pair for a part of the data set, the names of its channels, and how it was drawn.

    Attributes:
        told: ``scene``, the name of its scan; ``file``, ``share``, ``seed`` of the coin, ``counts`` of a
            pattern in the input; ``pixel`` (y, x), angstrom; ``shift`` (y, x) pixels by which the target was
            moved; ``likeness``, correlation of input and target.
    """

    part: Part
    pair: Pair
    channels: tuple[str, ...]
    told: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Eye:
    """A scan whose counts are to be parted, and what makes an image ``(channel, y, x)`` of a share of them.

    All that is settled is settled on all of the counts. Images may be ``loose``: beside one another.
    """

    scan: Scan4D
    see: Callable[[Scan4D, float], NDArray[np.floating]]
    channels: tuple[str, ...]
    pixel: tuple[float, float]
    loose: bool = False


def source(recipe: Thin, path: Path, /) -> Reconstruct | Virtual:
    """What a file of a scan says, or a parameter file, as far as it is needed to look at it."""
    kind = Reconstruct if recipe.way in ("reconstruct", "predict") else Virtual
    if path.suffix in (".yaml", ".yml") or not recipe.scan:
        return kind.from_path(path)
    return kind.of({**recipe.scan, "file": str(path)}).rooted(Path.cwd())


def pairs(recipe: Thin, /) -> Iterator[Thinned]:
    """All pairs of all scans, one at a time.

    Whether counts can be parted is looked at in all files first.

    Raises:
        BadInput: no file, one that cannot be read or is given twice, counts that are not whole numbers from
            zero up, a scan that cannot be looked at in this way, or channels that differ.
    """
    sources = _sources(recipe)
    held, known = _held(recipe, len(sources)), None
    for number, one in enumerate(sources):
        for made in drawn(recipe, one, number=number, part="test" if number in held else "train"):
            known = known or made
            if made.channels != known.channels:
                theirs, ours = ", ".join(known.channels), ", ".join(made.channels)
                fix = f"but {known.told['scene']} has {theirs}: give each kind of scan a data set of its own"
                raise BadInput(f"{one.file.name}: channels", ours, fix)
            yield made


def drawn(
    recipe: Thin,
    one: Reconstruct | Virtual,
    scan: Scan4D | None = None,
    /,
    *,
    number: int = 0,
    part: Part = "train",
) -> Iterator[Thinned]:
    """The pairs of one scan.

    Args:
        recipe: of the pairs; its ``files`` do not matter.
        one: what is known of the scan, as `source` gives it.
        scan: in memory, in place of the file; it is prepared as ``one`` says.
        number: of the scan, part of the seed and of the names.
        part: that the pairs are for.

    Raises:
        BadInput: see `pairs`.
    """
    scene = f"{number:03d}_{one.file.stem.replace(' ', '_')}"
    with _named(one):
        eye = _WAYS[recipe.way](recipe, one, scan)
        if np.prod(eye.scan.counts.shape) * eye.scan.counts.dtype.itemsize < KEPT:
            eye = replace(eye, scan=replace(eye.scan, counts=loaded(eye.scan.counts)))
    for draw in range(recipe.draws):
        rng = np.random.default_rng((recipe.seed, 37, number, draw))
        share, seed = float(rng.choice(np.atleast_1d(recipe.share))), int(rng.integers(2**31))
        with _named(one):
            images, told = _parted(recipe, eye, share, seed)
        told = {"scene": scene, "file": one.file.name, "share": share, "seed": seed, **told}
        pair = Pair(f"{scene}_{draw:02d}", *images)
        if told["likeness"] < LIKE:
            log.warning("%s: input and target hardly agree (correlation %.2f)", pair.name, told["likeness"])
        yield Thinned(part, pair, eye.channels, told)


def save(recipe: Thin, folder: Path, /, *, each: Callable[[Thinned], Any] = lambda made: None) -> Path:
    """Write a data set as `phaseloom.restoration.pairs.folders` reads it, 32-bit ``.npy``, with
    ``meta.json``.

    It is written pair by pair: what is done stays if a later scan fails.

    Args:
        recipe: of the pairs.
        folder: new or empty.
        each: is told of every pair when it is written.

    Returns:
        ``meta.json``: ``task``, ``unit``, ``channels``, the text of the ``recipe``, and under ``pairs`` how
        each was drawn, see `Thinned`, by its path from ``folder`` without ``input`` or ``gt``.

    Raises:
        BadInput: a folder that holds something; and as of `pairs`.
    """
    folder = fresh(folder, "pairs: folder")
    told: dict[str, Any] = {"task": recipe.task, "unit": UNITS[recipe.task], "channels": []}
    told |= {"recipe": to_yaml(recipe.resolved()), "pairs": {}}
    for made in pairs(recipe):
        name = f"{made.pair.name}.npy"
        for place, image in {"input": made.pair.input, "gt": made.pair.target}.items():
            with whole(folder / made.part / place / name) as short:
                np.save(short, image)
        told["channels"] = list(made.channels)
        told["pairs"][f"{made.part}/{name}"] = dict(made.told)
        with whole(folder / "meta.json") as short:
            short.write_text(json.dumps(told, indent=1), encoding="utf-8")
        each(made)
    return folder / "meta.json"


def _sources(recipe: Thin) -> list[Reconstruct | Virtual]:
    """What the files say, each of which has been looked into."""
    if not recipe.files:
        raise BadInput("files", None, "names no scan: give files of scans, or parameter files of scans")
    found = [source(recipe, path) for path in recipe.files]
    places = [one.there().resolve() for one in found]
    if twice := [place for number, place in enumerate(places) if place in places[:number]]:
        fix = "is given twice, so it could be learned from and examined with: give it once, with more draws"
        raise BadInput("files", str(twice[0]), fix)
    for one in found:
        with _named(one):
            splittable(one.scan())
            if isinstance(one, Virtual):
                _steps(one.all())
    return found


def _held(recipe: Thin, count: int) -> set[int]:
    """Numbers of the scans that are for the test."""
    kept = min(max(1, round(recipe.test * count)), count - 1)
    order = np.random.default_rng((recipe.seed, 41)).permutation(count)
    return {int(number) for number in order[:kept]}


@contextmanager
def _named(one: Reconstruct | Virtual) -> Iterator[None]:
    """What is wrong with a scan, said with its name."""
    try:
        yield
    except MissingExtra:
        raise
    except BadInput as problem:
        place, fix = problem.place, problem.fix
        if place == "halves of the counts":
            place, fix = "counts", NO_COUNTS
        raise BadInput(f"{one.file.name}: {place}", problem.value, fix) from problem


def _parted(recipe: Thin, eye: _Eye, share: float, seed: int) -> tuple[tuple[Image, Image], dict[str, Any]]:
    """Input and target of one coin, and what was done."""
    few = prepare.thin(eye.scan, which=0, share=share, seed=seed)
    most = eye.scan
    if recipe.target == "rest":
        most = prepare.thin(eye.scan, which=1, share=share, seed=seed)
    if eye.loose:  # what leaves out blank patterns must leave out the same ones
        lit = _lit(few) & _lit(most)
        if not lit.any():
            raise BadInput("share", share, "of the counts leaves no pattern with any: take more")
        few, most = few.select(lit), most.select(lit)
    rest = 1 - share if recipe.target == "rest" else 1.0
    before, after = eye.see(few, share), eye.see(most, rest)
    before, after, shift = _registered(before, after) if eye.loose else (before, after, (0.0, 0.0))
    told: dict[str, Any] = {
        "counts": float(few.mean_pattern().sum()),
        "pixel": list(eye.pixel),
        "shift": list(shift),
    }
    told["likeness"] = float(np.mean([_likeness(*both) for both in zip(before, after, strict=True)]))
    return (before.astype(np.float32), after.astype(np.float32)), told


def _lit(scan: Scan4D) -> NDArray[np.bool_]:
    """Which patterns hold a count."""
    parts = [np.arange(start, min(start + 256, len(scan))) for start in range(0, len(scan), 256)]
    return np.concatenate([(scan.counts[index] * scan.mask).any((1, 2)) for index in parts])


def _registered(
    before: NDArray[np.floating], after: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating], tuple[float, float]]:
    """An image, another one moved onto it, both cut to what they share, and by how much it was moved."""
    shift = find_shift(remove_ramp(after[0]), remove_ramp(before[0]), max_shift=ASIDE, rounds=3)
    edges = np.ceil(np.abs(shift)).astype(int)
    cut = [slice(edge, n - edge) for edge, n in zip(edges, after.shape[1:], strict=True)]
    moved = np.stack([shifted(one, shift) for one in after])
    return before[:, *cut], moved[:, *cut], shift


def _likeness(one: NDArray[np.floating], two: NDArray[np.floating]) -> float:
    """Correlation of two images, planes aside; 0 where one is the same everywhere."""
    a, b = (remove_ramp(image).ravel() for image in (one, two))
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 0 else 0.0


def _reconstructed(recipe: Thin, one: Any, scan: Scan4D | None) -> _Eye:
    """By ptychography: start and positions found on all of the counts, then the same run for each part."""
    job = Job.begin(one.model_copy(update={"outputs": ()}), scan=scan)
    splittable(job.full.scan)
    if any(job.recipe.rate_of(name) for name in PLACES):
        _driven(job)
    found, rates = job.full.scan, job.recipe.rates
    if len(job.progress.history):
        found = replace(found, positions=job.model.scan.angstrom())
    held = {name: 0.0 for name in PLACES if name in rates}
    changes = tuple(change for change in one.changes if change.part not in PLACES)
    update = {"prepare": (), "outputs": (), "rates": {**rates, **held}, "changes": changes}
    settled = job.recipe.model_copy(update=update)

    def see(part: Scan4D, share: float) -> NDArray[np.floating]:
        result = _driven(Job.begin(settled, scan=part)).result()
        return result.phase[result.window][None]

    return _Eye(found, see, ("phase",), job.full.model.scan.canvas.pixel, loose=True)


def _driven(job: Job) -> Job:
    """A job that has come to its end, in silence."""
    deque(job, maxlen=0)
    if job.progress.stopped.startswith("interrupted"):
        raise KeyboardInterrupt
    return job


def _predicted(recipe: Thin, one: Any, scan: Scan4D | None) -> _Eye:
    """By a network, between the first probe and the last."""
    path = find(recipe.model)
    net, card = pretrained.load(path), pretrained.card(path)
    scan, _ = trusted(one.scan(scan))
    optics = optics_of(one.probe)
    optics = replace(optics, semiangle=measured(scan, optics.semiangle))
    inner = slice(PER_STEP, -PER_STEP)

    def see(part: Scan4D, share: float) -> NDArray[np.floating]:
        return predict(net, card, part, optics).phase[None, inner, inner]

    return _Eye(scan, see, ("phase",), predict(net, card, scan, optics).pixel)


def _detected(recipe: Thin, one: Any, given: Scan4D | None) -> _Eye:
    """By virtual detectors, whose beam is that of all of the counts."""
    scan: Scan4D = one.all(given)
    steps, found = _steps(scan), virtual(one, scan)
    beam = {"semiangle": f"{float(found.beam.semiangle)!r} rad", "centre": found.survey.centre}
    settled = one.model_copy(update=beam)
    phased = recipe.task == "phase"
    names = ("phase",) if phased else tuple(detector.name for detector in found.survey.detectors)

    def see(part: Scan4D, share: float) -> NDArray[np.floating]:
        images = virtual(settled, part)
        if not phased:
            return np.stack([images.survey.image(name) for name in names]) / share
        assert images.phase is not None
        return images.phase[None]

    return _Eye(scan, see, names, steps)


def _steps(scan: Scan4D) -> tuple[float, float]:
    """Steps of the raster along its rows and columns, angstrom."""
    if scan.grid is None or np.prod(scan.grid) != len(scan):
        fix = "needs a raster: say the grid when reading, or take by: reconstruct"
        raise BadInput("positions", None, fix)
    places = scan.positions.reshape(*scan.grid, 2)
    moves = (np.diff(places, axis=axis).reshape(-1, 2) for axis in (0, 1))
    down, along = (float(np.linalg.norm(move.mean(0))) if len(move) else 0.0 for move in moves)
    return down, along


_WAYS: dict[str, Callable[[Thin, Any, Scan4D | None], _Eye]]
_WAYS = {"reconstruct": _reconstructed, "predict": _predicted, "integrate": _detected, "detect": _detected}
