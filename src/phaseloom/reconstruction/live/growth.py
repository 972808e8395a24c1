"""Patterns that join a reconstruction under way, and its end as an ordinary run when no more come.

While a scan grows, each epoch learns from all new patterns and from as many earlier ones as a fixed time
allows, at the rates of a first epoch. When the scan is over, a share of the epochs of an ordinary run follows
on all patterns, with rates that fall: the run is an ordinary one from then on, which is resumed, repeated and
steered like others (decision 039).
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from phaseloom.data import formats
from phaseloom.data.counts import SelectedCounts
from phaseloom.data.formats import native
from phaseloom.data.growing.growing_scan import GrowingScan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, WriteFailed
from phaseloom.fitting.loop import Epoch, Progress
from phaseloom.fitting.schedule import evaluate_shape
from phaseloom.ptycho.canvas import Canvas, canvas
from phaseloom.reconstruction.level import Level, fit_patterns, set_batch_size, split_patterns
from phaseloom.reconstruction.live.carry_over import carry_model, carry_optimizer, enlarge_canvas, share_parts
from phaseloom.reconstruction.live.dose import DoseJudgement, judge_dose
from phaseloom.reconstruction.live.growing_image import GrowingImage
from phaseloom.reconstruction.recipe import RateChange, Reconstruct
from phaseloom.reconstruction.run_folder import hash_setup
from phaseloom.reconstruction.steering.commands import Steerable
from phaseloom.runs.folder import forget_snapshots_after
from phaseloom.runs.scan_recipe import IN_MEMORY, digest_of_scan, find_lit_patterns
from phaseloom.spec import Call

__all__ = ["RECORD_NAME", "Growable", "Growth", "count_first_patterns", "find_held_out"]
__all__ += ["require_all_patterns"]

log = logging.getLogger(__name__)

SECONDS_OF_EPOCH = 2.0
"""That an epoch takes at most, however many patterns there are, while others come."""

MIN_SHARE_OF_EARLIER = 1.0
"""Earlier patterns that an epoch learns from too, for each new one, also where that takes longer."""

SHARE_OF_FINAL_EPOCHS = 0.5
"""Of the epochs of an ordinary run, that follow at least when all patterns are there: as many as an average
pattern lacks of them."""

SECONDS_OF_REST = 0.5
"""That new patterns are waited for at once, when the fit has nothing else to do."""

SHARE_OF_TIME_FOR_IMAGE = 0.05
"""Of the time, that drawing the direct image may take."""

MIN_FIRST_PATTERNS = 64
"""Patterns that a run begins with at least."""

FAR = 1_000_000
"""Epochs that shapes reckon with while nobody knows how many there will be."""

RECORD_NAME = "scan.h5"
"""The file in the folder of a run that patterns without a file of their own are written into."""


class Growable(Steerable, Protocol):
    """The reconstruction that patterns join; see `phaseloom.reconstruction.protocol.Job`."""

    holdout: np.ndarray
    growth: "Growth | None"


class Growth:
    """The part of a run in which patterns come.

    Args:
        job: begun with the patterns that were there first.
        growing: where patterns come from.
        batch: how patterns are grouped, as the user said it: sizes grow with the scan.
        build_finest: builds a level of a recipe and a scan as an ordinary run begins with it.

    Attributes:
        image: the direct image so far.
        dose: whether the patterns so far suffice; ``None`` before the first judgement.
        learned: place of the first pattern that no epoch has learned from.
        passes: how often an average pattern was learned from.
        checked: patterns at the last judgement of the resolution.
    """

    def __init__(
        self,
        job: Growable,
        growing: GrowingScan,
        /,
        *,
        batch: Call,
        build_finest: Callable[[Reconstruct, Scan4D], Level],
    ):
        self.growing = growing
        self.batch = batch
        self.build_finest = build_finest
        self.epochs = job.recorded.epochs
        self.image = GrowingImage()
        self.dose: DoseJudgement | None = None
        self.learned = 0
        self.passes = 0.0
        self.count = 0
        self.checked = 0
        self.room = _plan_canvas(job, growing)
        self.order = np.random.default_rng((job.recorded.seed, 11))
        self._seconds_per_pattern = 0.0
        self._image_is_due = 0.0

    def prepare_epoch(self, job: Growable, /) -> bool:
        """Take in patterns that have come; whether there is something to learn from now.

        When no more come, the job becomes an ordinary one.
        """
        resting = self.passes >= self.epochs and self.count == len(self.growing)
        self.growing.update(wait=SECONDS_OF_REST if resting else 0.0)
        if self.growing.end is not None and len(self.growing) == self.count:
            self.conclude(job)
            return True
        if len(self.growing) > self.count:
            self._take_in(job)
        return self.passes < self.epochs

    def fit(self, job: Growable, /) -> Iterator[Epoch]:
        """An epoch on the patterns that are here."""
        index, learned = self._choose(job.training)
        began = time.monotonic()
        number = job.progress.epoch + 1
        job.progress.best = None  # of fewer patterns
        changes: Callable[[], Sequence[RateChange]] = lambda: job.recipe.changes  # noqa: E731
        recipe = job.recipe.model_copy(update={"patience": None})
        shape = recipe.shape.partial()
        pace: dict[str, Any] = {"epochs": number, "horizon": number + FAR}
        pace["shape"] = lambda *_: evaluate_shape(shape, 1, self.epochs)
        for epoch in fit_patterns(job.level, recipe, (index, job.holdout), changes, **pace):
            self._seconds_per_pattern = (time.monotonic() - began) / max(len(index), 1)
            self.learned = learned
            self.passes = (
                self.passes * (self.count - len(index)) + (self.passes + 1) * len(index)
            ) / self.count
            yield epoch

    def record_epoch(self, job: Growable, event: dict[str, Any], /) -> None:
        """Add to the event of an epoch how many patterns there were, and judge the dose."""
        if "explained" in event:
            found = event["explained"]
            noise = event["holdout"] if job.level.likelihood.has_noise_model else None
            self.dose = judge_dose(self.count, len(job.holdout), found, noise)
        self.growing.update()  # what came during the epoch is behind
        event["growth"] = self.describe()
        self._draw_image(job)

    def describe(self) -> dict[str, Any]:
        """How many patterns came, wait and are missing, and what is known of the dose."""
        here = vars(self.growing.arrivals)
        found = {name: value for name, value in here.items() if value}
        found |= {"patterns": self.count, "behind": self.count_behind()}
        return found if self.dose is None else found | {"dose": self.dose.to_event()}

    def list_facts(self) -> dict[str, str]:
        """How many patterns there are, and what is wrong with others, as words for people."""
        announced = self.growing.arrivals.announced
        planned = "" if announced is None else f" of {announced}"
        found = {"patterns": f"{self.count}{planned}, {self.count_behind()} behind"}
        found |= {"missing": "; ".join(said)} if (said := self.growing.describe()) else {}
        return found if self.dose is None else found | {"dose": str(self.dose)}

    def count_behind(self) -> int:
        """Patterns that are here and that no epoch has learned from yet."""
        return len(self.growing) - self.learned

    def conclude(self, job: Growable, /) -> None:
        """Make the job an ordinary one on the patterns that are here: nothing of it says how they came.

        Its snapshot, recipe and data are those of a run that can be resumed.
        """
        stop = job.progress.stop
        order = self.growing.finish()
        raw = self.growing.scan()
        scan = job.recorded.scan(raw)
        numbers = self.growing.numbers
        if len(scan) < len(raw):  # some are saturated, or hold counts outside of what is modelled only
            lit = find_lit_patterns(job.recorded.scan_with_blanks(raw), job.recorded.file.name)
            order = order[lit]
            numbers = numbers[lit]
        self._split(job, numbers)
        recipe = self._make_final_recipe(job, raw, scan)
        level = self.build_finest(recipe, scan)
        carry_model(job.level.model, level.model, order)
        _carry_progress(job.progress, level.progress)
        level.progress.stop = stop
        level.progress.coarse_epochs = level.progress.epoch
        job.recorded = recipe.model_copy(update={"batch": set_batch_size(recipe, level)})
        job.recipe = job.recorded
        job.level = level
        job.levels = [level]
        job.growth = None
        job.save_recipe()
        if job.directory is not None:
            forget_snapshots_after(job.directory, 0)
        if job.progress.epoch:
            job.save_snapshot()
        self._draw_image(job, last=True)
        for line in self.growing.describe():
            log.warning("%s: %s", self.growing.feed.name, line)

    def _take_in(self, job: Growable) -> None:
        """A level of all patterns that are here, with what the one before has found."""
        scan = job.recorded.scan_with_blanks(self.growing.scan())
        self.room = enlarge_canvas(self.room, scan)
        recipe = job.recipe.model_copy(update={"batch": self.batch})
        model = recipe.build_model(scan, self.room).to(job.level.model.scan.start.device)
        share_parts(job.level.model, model)
        level = Level.of(recipe, scan, model)
        carry_model(job.level.model, model, np.arange(len(scan)))
        carry_optimizer(job.level, level)
        _carry_progress(job.progress, level.progress)
        level.progress.coarse_epochs = level.progress.epoch  # losses of fewer patterns do not compare
        before = self.count
        self.count = len(scan)
        self.passes *= before / self.count
        job.recipe = recipe.model_copy(
            update={"batch": set_batch_size(recipe, level), "epochs": job.progress.epoch + self.epochs}
        )
        job.recorded = job.recorded.model_copy(update={"epochs": job.recipe.epochs})
        level.recipe = job.recipe
        job.level = level
        job.levels = [level]
        self._split(job, self.growing.numbers[: self.count])
        self.image.update(scan)

    def _split(self, job: Growable, numbers: np.ndarray) -> None:
        """Patterns to learn from and held out: the same ones by their numbers as long as the scan grows."""
        held = find_held_out(
            numbers, self.growing.arrivals.announced, job.recorded.holdout, job.recorded.seed
        )
        job.holdout = np.flatnonzero(held)
        job.training = np.flatnonzero(~held)

    def _make_final_recipe(self, job: Growable, raw: Scan4D, scan: Scan4D) -> Reconstruct:
        """The recipe of the ordinary run: data, epochs and patterns held out as they are now."""
        recipe = job.recorded
        arrivals = {name: value for name, value in vars(self.growing.arrivals).items() if value}
        end = str(self.growing.end or "interrupted")
        found = {**recipe.found, "data": digest_of_scan(scan), "setup": hash_setup(scan)}
        found["live"] = {"epochs": job.progress.epoch, "planned": self.epochs, "end": end, **arrivals}
        if not np.array_equal(job.holdout, split_patterns(len(scan), recipe.holdout, recipe.seed)[1]):
            found["holdout"] = job.holdout.tolist()
        file = self._find_file(job, raw)
        final = max(1, round(SHARE_OF_FINAL_EPOCHS * self.epochs), math.ceil(self.epochs - self.passes))
        epochs = {"epochs": job.progress.epoch + final, "batch": self.batch, "found": found}
        return recipe.model_copy(update=file | epochs)

    def _find_file(self, job: Growable, raw: Scan4D) -> dict[str, Any]:
        """Where patterns are read from again: their own file if it gives the same, else that of the run."""
        feed = self.growing.feed
        if feed.file is not None and _reads_the_same(feed.file, feed.format, feed.setup, raw):
            read = None if feed.format == "auto" and not feed.setup else (feed.format, feed.setup)
            return {"file": feed.file.resolve(), "read": _call_reader(feed.file, read)}
        if job.directory is None:
            return {"file": IN_MEMORY, "read": None}
        path = job.directory / RECORD_NAME
        if not path.exists():
            native.write(raw, path)
        return {"file": path.resolve(), "read": None}

    def _choose(self, training: np.ndarray) -> tuple[np.ndarray, int]:
        """Patterns of an epoch, the new ones and others as time allows, and how many are not new after it."""
        fresh = training[training >= self.learned]
        known = training[training < self.learned]
        if not self._seconds_per_pattern:
            return training, self.count
        most = max(1, int(SECONDS_OF_EPOCH / self._seconds_per_pattern))
        learned = self.count if len(fresh) <= most else int(fresh[most])
        fresh = fresh[:most]
        rest = max(most - len(fresh), int(MIN_SHARE_OF_EARLIER * len(fresh)))
        some = known if rest >= len(known) else self.order.choice(known, rest, replace=False)
        return np.sort(np.concatenate([some, fresh])), learned

    def _draw_image(self, job: Growable, *, last: bool = False) -> None:
        """Write the direct image into the folder, from time to time, and at the end."""
        now = time.monotonic()
        if job.directory is None or (now < self._image_is_due and not last):
            return
        try:
            self.image.save(job.directory / "direct.png")
        except WriteFailed as problem:  # a run does not end for a picture
            log.warning("%s", problem)
        self._image_is_due = time.monotonic() + (time.monotonic() - now) / SHARE_OF_TIME_FOR_IMAGE


def find_held_out(numbers: np.ndarray, announced: int | None, share: float, seed: int, /) -> np.ndarray:
    """Which patterns are held out: as in a scan that is whole, where it is known how many will come.

    Example:
        >>> held = find_held_out(np.arange(40), 40, 0.1, 0)
        >>> np.array_equal(np.flatnonzero(held), split_patterns(40, 0.1, 0)[1])
        True
        >>> int(find_held_out(np.arange(4000), None, 0.1, 0).sum())
        400
    """
    if announced is not None:
        return np.isin(numbers, split_patterns(announced, share, seed)[1])
    mixed = (numbers.astype(np.uint64) * np.uint64(11400714819323198485) + np.uint64(seed)) >> np.uint64(32)
    return np.asarray(mixed < np.uint64(share * 2**32))


def _plan_canvas(job: Growable, growing: GrowingScan) -> Canvas:
    """Room for all positions that are announced, as the run's preparation lays them."""
    raw = growing.scan()
    positions = growing.announced_positions()
    if len(positions) <= len(raw):
        return job.level.model.object.canvas
    stand_in = SelectedCounts(raw.counts, np.arange(len(positions)) % len(raw))
    parts: dict[str, Any] = {"weights": None, "heights": None, "grid": growing.announcement.grid}
    planned = replace(raw, counts=stand_in, positions=positions, **parts)
    return canvas(job.recorded.scan_with_blanks(planned))


def _carry_progress(source: Progress, target: Progress) -> None:
    """The epochs that were done."""
    target.epoch = source.epoch
    target.history = source.history


def _reads_the_same(path: Path, format: str, setup: dict[str, Any], scan: Scan4D) -> bool:
    """Whether a file, read as one that is whole, gives a scan."""
    try:
        return formats.read(path, format=format, knobs=setup).digest() == scan.digest()
    except (BadInput, OSError):
        return False


def _call_reader(path: Path, how: tuple[str, dict[str, Any]] | None) -> Call | None:
    """The call of a reader in a recipe."""
    if how is None:
        return None
    name = formats.guess(path) if how[0] == "auto" else how[0]
    return Reconstruct.of({"read": {name: how[1]}}).read


def count_first_patterns(announced: int | None, /) -> int:
    """Patterns to begin with: a tenth of those announced, and `MIN_FIRST_PATTERNS` at least."""
    return (
        MIN_FIRST_PATTERNS if announced is None else min(announced, max(MIN_FIRST_PATTERNS, announced // 10))
    )


def require_all_patterns(recipe: Reconstruct, growing: GrowingScan, /) -> None:
    """Refuse a preparation that leaves out patterns of a scan that grows.

    Raises:
        BadInput: it does.
    """
    left = len(recipe.scan_with_blanks(growing.scan()))
    if left != len(growing):
        fix = "leaves out patterns, which is not possible while they come: select them in a later run"
        raise BadInput("prepare", f"{left} of {len(growing)}", fix)
