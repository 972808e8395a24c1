"""What a model lacks: additions to it, tried one at a time from the simplest, judged by patterns held out.

A new addition is one function of a job in `LADDER`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.calibration.orientations import select_nearest
from phaseloom.data.diagnostics import find_constant_level
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.reconstruction import protocol
from phaseloom.reconstruction.level import count_epochs_on_all, is_explained
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import DEFAULT_RATES, Reconstruct
from phaseloom.spec import knobs

__all__ = ["LADDER", "Attempt", "Improvement", "improve"]

Proposal = Callable[[Job], Mapping[str, Any] | None]
"""Settings that add to the model of a job, addressed as in a parameter file; ``None``: it has them."""

HELD_OUT_SHARE = 0.15
"""Of the patterns of an attempt, more than a run holds out: attempts differ by little."""

MIN_STANDARD_ERRORS = 3.0
MIN_RELATIVE_GAIN = 0.005
"""What an addition has to gain on patterns held out, in standard errors of the paired differences and as a
share of the loss. Numbers that each pattern has for itself gain less than that by fitting noise."""

MIN_BACKGROUND = 0.002
"""Share of the counts that a background has to be. Where few patterns leave an object noisy, 0.02 % in the
dark pixels improved predictions of a scan without a background."""

MAX_PATTERNS_FOR_MEAN = 500
MIN_PATTERNS = 60
MIN_EPOCHS = 30
"""Of an attempt, if none are asked for: of models that have not settled the more pliable one does better."""

MIN_SHARE_OF_RIVALS = 0.8
"""Of the best gain of a round, from which another addition is named as one that may be meant."""

MODE_COUNTS = (1, 2, 3, 4, 6, 8)
BLURS = (0.35, 0.7)
"""Standard deviations of the detector's point spread that are tried, pixels."""

MIN_LOSS_OF_FALSE_MINIMUM = 3.0
EPOCHS_OF_MPIE = 120
"""Loss of what is learned, in units of shot noise, from which on another optimizer is tried on photons, and
for how long: mPIE left the false minimum of one sample after 50 to 90 epochs."""

NEWTON_RATE = 0.2
"""Share of a Newton step for parts that do not move by default."""

MAX_EXCESS_OVER_RUN = 1.5
MIN_EXCESS = 0.1
"""Excess over shot noise of a short run, over that of the run itself (which counts as 0.1 at least), from
which on short runs have not settled."""

GOOD_LOSS = 1.1
"""Loss on patterns held out, in units of shot noise, below which little is left to be explained."""


@dataclass(frozen=True)
class Attempt:
    """A short run of a model, compared with the model that the round began with.

    Attributes:
        name: what was added or left out.
        settings: what was added, addressed as in a parameter file.
        loss: mean over the patterns held out, 1 being shot noise; ``None``: the run failed.
        gain: how much lower the loss is than that of the model to compare with, mean over the same patterns.
        error: its standard error.
        helps: whether the gain is clear.
        seconds: CPU time.
        problem: why the run failed, or why what it found is not believed.
        addition: its name in `LADDER`.
        rivals: other additions of the same round that gained nearly as much.
        evidence: what of the data asks for it where patterns held out do not.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss: float | None = None
    gain: float = 0.0
    error: float = 0.0
    helps: bool = False
    seconds: float = 0.0
    problem: str = ""
    addition: str = ""
    rivals: tuple[str, ...] = ()
    evidence: str = ""

    @property
    def is_harmful(self) -> bool:
        """Whether it clearly makes predictions worse, or cannot be run."""
        return self.loss is None or self.gain < -MIN_STANDARD_ERRORS * self.error

    def __str__(self) -> str:
        """One line of a table."""
        if self.loss is None:
            return f"{self.name:24s} could not be run: {self.problem}"
        line = f"{self.name:24s} {self.loss:9.4f}"
        if self.error:
            line += f"  {-self.gain:+9.4f} +- {self.error:.4f}  {'helps' if self.helps else '-':5s}"
        remark = self.problem or self.evidence
        return f"{line}  {self.seconds:6.1f} CPU s{'  ' * bool(remark)}{remark}"


@dataclass(frozen=True)
class Improvement:
    """What `improve` found.

    Attributes:
        recipe: of the whole run, with all that helped.
        attempts: in the order in which they were made; the first is the model as it was.
        kept: those whose additions the recipe has.
        final: the one of the model with all of these.
        patterns: in an attempt.
        held_out: of these.
        explained: share of the differences between the patterns held out that the model with all of these
            explains, and its standard error; ``None``: they differ by noise alone.
        is_complete: whether all was tried; Ctrl-C ends the search, not what it has found.
        loss_of_run: that of patterns held out by the run itself; ``None``: it was not made, or held none out.
    """

    recipe: Reconstruct
    attempts: tuple[Attempt, ...]
    kept: tuple[Attempt, ...]
    final: Attempt
    patterns: int
    held_out: int
    explained: tuple[float, float] | None = None
    is_complete: bool = True
    loss_of_run: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether a short run of the model as it is comes about as far as the run, where that is known."""
        first = self.attempts[0].loss
        if self.loss_of_run is None or first is None:
            return True
        return first - 1 < MAX_EXCESS_OVER_RUN * max(self.loss_of_run - 1, MIN_EXCESS)

    @property
    def shows_object(self) -> bool:
        """Whether patterns held out show anything of the object; if not, losses hardly tell models apart."""
        return is_explained(self.explained)

    @property
    def is_doubtful(self) -> bool:
        """Whether what helped may not help the run itself."""
        return not (self.shows_object and self.is_settled)

    def lines(self) -> list[str]:
        """What helped and what it costs, what did not, and what is left, in sentences."""
        first, last = self.attempts[0], self.final
        assert first.loss is not None
        assert last.loss is not None
        known = {attempt.addition for attempt in self.kept}
        others = dict.fromkeys(one.addition for one in self.attempts if one.addition not in known | {""})
        tried = ", ".join(others)
        out = [] if self.is_complete else ["interrupted: what was found until then follows"]
        if self.kept:
            cost = last.seconds / max(first.seconds, 1e-9)
            names = ", ".join(_name_with_rivals(attempt) for attempt in self.kept)
            change = f"from {first.loss:.3f} to {last.loss:.3f} times shot noise on patterns held out"
            out.append(f"helped: {names}: {change}, at {cost:.1f} times the CPU time")
        if tried:
            out.append(f"did not help: {tried}" if self.kept else f"nothing helped: {tried}")
        if not self.shows_object:
            out.append(
                "doubtful: patterns held out show nothing of the object, so the comparisons say little: the "
                "probe alone fits their mean, whatever the model lacks. First find orientation, "
                "defocus and step (phaseloom calibrate), take more patterns or epochs, or count longer"
            )
        if not self.is_settled:
            out.append(
                f"doubtful: the model as it is comes to {first.loss:.3f} in a short run, but to "
                f"{self.loss_of_run:.3f} in the run itself: additions may help here that only settle sooner; "
                "take more --epochs or --patterns"
            )
        elif last.loss > GOOD_LOSS:
            out.append(
                f"left: {last.loss:.2f} times shot noise. What was tried does not explain it: look at "
                "defocus, positions, orientation, thickness, and the calibration of the counts"
            )
        return out


def change_optimizer(job: Job) -> Mapping[str, Any] | None:
    """Momentum-accelerated PIE, of photons that Newton steps leave far above the noise.

    The model is the same; small steps in random order leave false minima that Newton steps stay in.
    """
    recipe, last = job.recipe, job.progress.history[-1:]
    loss = last[0]["terms"].get("noise", 0.0) if last else 0.0
    geometry = job.finest.scan.geometry
    if recipe.optimizer.name != "gauss_newton" or geometry.beam != "photon" or geometry.near:
        return None
    if loss < MIN_LOSS_OF_FALSE_MINIMUM or recipe.penalties:
        return None
    return {
        "optimizer": "mpie",
        "epochs": EPOCHS_OF_MPIE,
        "levels": 1 if recipe.levels is None else recipe.levels,
        "rates": {"object": 1.0, "probe": 1.0},
        "shape": "constant",
        "batch": {"random": {"size": 1}},
    }


def add_background(job: Job) -> Mapping[str, Any] | None:
    """Counts without beam, a number for each pixel."""
    return None if job.recipe.rate_of("background") else {"rates.background": _choose_rate(job, "background")}


def add_modes(job: Job) -> Mapping[str, Any] | None:
    """More incoherent modes of the probe; one that changes from pattern to pattern has them."""
    probe, now = job.recipe.probe, len(job.model.probe.modes())
    more = next((count for count in MODE_COUNTS if count > now), None)
    if more is None or probe.name == "relaxed" or "modes" not in knobs(probe.room, probe.name):
        return None
    return {f"probe.{probe.name}.modes": more}


def add_weights(job: Job) -> Mapping[str, Any] | None:
    """The intensity of each pattern."""
    return None if job.recipe.rate_of("weights") else {"rates.weights": _choose_rate(job, "weights")}


def add_positions(job: Job) -> Mapping[str, Any] | None:
    """Errors of the positions."""
    if job.recipe.rate_of("positions"):
        return None
    return {"rates.positions": _choose_rate(job, "positions", newton=1.0)}


def add_absorption(job: Job) -> Mapping[str, Any] | None:
    """The amplitude of an object that had a phase alone."""
    thing = job.recipe.object
    if thing.values.get("kind") != "phase":
        return None
    return {f"object.{thing.name}.kind": "complex"}


def add_blur(job: Job) -> Mapping[str, Any] | None:
    """The point spread of the detector; in a near field fitted, as it stands for the source's size, too."""
    if job.scan.geometry.near:
        return None if job.recipe.rate_of("blur") else {"rates.blur": _choose_rate(job, "blur")}
    detector = job.recipe.detector
    if detector.name != "counting" or detector.values.get("transfer") is not None:
        return None
    now = float(detector.values.get("blur") or 0.0)
    wider = next((blur for blur in BLURS if blur > now), None)
    return None if wider is None else {"detector.counting.blur": wider}


def add_finer_pixels(job: Job) -> Mapping[str, Any] | None:
    """Pixels half as wide as the detector's, of a near field, for details finer than these."""
    scan = job.finest.scan
    if not scan.geometry.near or scan.modelled is not None:
        return None
    finer = {"enlarge": {"to": [2 * n for n in scan.geometry.shape], "match": "resample"}}
    return {"prepare": [*job.recorded.to_tree().get("prepare", []), finer]}


def add_one_material(job: Job) -> Mapping[str, Any] | None:
    """Details of the absorption tied to those of the phase, of a near field: half as many unknowns."""
    projections = job.recipe.projections
    is_tied = any(call.name == "one_material" for call in projections)
    if not job.scan.geometry.near or job.model.object.kind != "complex" or is_tied:
        return None
    return {"projections": [*job.recorded.to_tree().get("projections", []), {"one_material": {}}]}


def add_changing_probe(job: Job) -> Mapping[str, Any] | None:
    """A probe that changes from pattern to pattern; one from optics stays what it is."""
    probe = job.recipe.probe
    if probe.name not in ("from_patterns", "stored"):
        return None
    modes = len(job.model.probe.modes())
    relaxed = {"basis": modes + 2, "modes": modes}
    if defocus := probe.to_tree()[probe.name].get("defocus"):
        relaxed["defocus"] = defocus
    return {"probe": {"relaxed": relaxed}}


def add_second_slice(job: Job) -> Mapping[str, Any] | None:
    """A second slice, half a depth of focus behind the first: whether an object of electrons is thick."""
    thing, probe = job.recipe.object, job.recipe.probe
    semiangle = probe.values.get("semiangle")
    if job.scan.geometry.beam != "electron" or thing.name != "pixels" or not semiangle:
        return None
    if int(thing.values.get("slices", 1)) > 1:
        return None
    depth = job.scan.geometry.wavelength / float(semiangle) ** 2
    return {"object.pixels.slices": 2, "object.pixels.thickness": f"{depth / 2:.4g} A"}


LADDER: dict[str, Proposal] = {
    "mpie": change_optimizer,
    "background": add_background,
    "modes": add_modes,
    "weights": add_weights,
    "positions": add_positions,
    "absorption": add_absorption,
    "blur": add_blur,
    "finer pixels": add_finer_pixels,
    "one material": add_one_material,
    "changing probe": add_changing_probe,
    "second slice": add_second_slice,
}
"""Additions by name, from the simplest."""


def improve(
    job: Job,
    /,
    *,
    patterns: int = 400,
    epochs: int | None = None,
    loss_of_run: float | None = None,
    report: Callable[[str], Any] = lambda line: None,
) -> Improvement:
    """Find what the model of a run lacks, by short runs on a part of its patterns.

    The model as it is, then with each addition of `LADDER`, is fitted from its beginning to the patterns
    nearest to the middle of the scan. An addition helps where the loss of patterns that were never learned
    from falls by more than three standard errors (differences are taken pattern by pattern) and by half a per
    cent. The one that gains most is kept (of those within a standard error, the one with the fewest numbers),
    and all are tried again with it, until none helps. In the end each is left out once, and stays out where
    the others make up for it. A wrong geometry or focus is not looked for.

    Args:
        job: before or after its run; it is not changed.
        patterns: at most so many in an attempt.
        epochs: of an attempt; default: those of the run, and 30 at least. Where attempts have not settled,
            additions seem to help that only settle sooner.
        loss_of_run: that of patterns held out by the run as it ended; default: of the job, if it has run.
        report: is given a line after each attempt.

    Raises:
        BadInput: fewer than 60 patterns, counts that are compared by no noise model, or a model that fails as
            it is.

    Example:
        >>> from phaseloom.simulation import simulate
        >>> truth = simulate.atoms((64, 64), 0.2, peak=0.2, seed=1)
        >>> beam = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e5}
        >>> scan, _ = simulate.electron_scan(truth, 0.2, simulate.raster((8, 8), 0.5) + 5.0, **beam)
        >>> probe = {"focused": {"semiangle": "30 mrad", "defocus": "6 nm", "modes": 1}}
        >>> job = Job.begin(Reconstruct.of({"probe": probe, "start": "none"}), scan=scan)
        >>> found = improve(job, epochs=2)
        >>> found.patterns, found.attempts[0].name
        (64, 'as it is')
    """
    scan = select_nearest(job.finest.scan, patterns)
    if len(scan) < MIN_PATTERNS:
        fix = f"are too few to judge models by: {MIN_PATTERNS} or more are needed"
        raise BadInput("improve", f"{len(scan)} patterns", fix)
    if not job.finest.likelihood.has_noise_model:
        raise BadInput("improve", "noise: none", "leaves nothing to judge models by: take a noise model")
    recipe = job.recorded.model_copy(
        update={
            "epochs": epochs or max(job.recorded.epochs, MIN_EPOCHS),
            "holdout": HELD_OUT_SHARE,
            "patience": None,
            "outputs": (),
            "changes": (),
            "steered": (),
            "snapshots": 0,
        }
    )
    climb = _Climb(recipe, scan, report)
    is_complete = True
    try:
        climb.add_what_helps()
        climb.leave_out_each()
    except KeyboardInterrupt:
        is_complete = False
    kept = tuple(climb.kept.values())
    improved = job.recorded.with_settings(_join(kept)) if kept else job.recorded
    return Improvement(
        improved,
        tuple(climb.attempts),
        kept,
        climb.now.attempt,
        patterns=len(scan),
        held_out=len(climb.now.losses),
        explained=climb.now.explained,
        is_complete=is_complete,
        loss_of_run=job.progress.holdout_loss if loss_of_run is None else loss_of_run,
    )


@dataclass(frozen=True)
class _Run:
    """An attempt that ended, with the loss of each pattern held out, and what it explains of them.

    ``numbers`` are those that its model fits.
    """

    attempt: Attempt
    losses: Tensor
    job: Job
    explained: tuple[float, float] | None = None
    numbers: int = 0


class _Climb:
    """The model as it stands, with the additions that it has, and all that was tried."""

    def __init__(self, recipe: Reconstruct, scan: Scan4D, report: Callable[[str], Any]):
        self.recipe = recipe
        self.scan = scan
        self.report = report
        self.kept: dict[str, Attempt] = {}
        self.attempts: list[Attempt] = []
        first = _run("as it is", {}, recipe, scan)
        if isinstance(first, Attempt):
            raise BadInput("improve", None, f"the model as it is fails: {first.problem}")
        self.now = self._record(first, first.attempt)

    def add_what_helps(self) -> None:
        """Round by round: try every addition, keep the one that gains most, until none helps.

        Of those that gain as much to within a standard error, the one with the fewest numbers is kept: what a
        more pliable one has beyond it, the next round tells.
        What makes predictions clearly worse is not tried again.
        """
        names = list(LADDER)
        while names:
            tried = [found for name in names if (found := self._try(name)) is not None]
            names = [one.attempt.addition for one in tried if one.attempt.helps or not one.attempt.is_harmful]
            helpful = [one for one in tried if one.attempt.helps]
            if not helpful:
                return
            best = _choose_simplest(helpful)
            enough = MIN_SHARE_OF_RIVALS * best.attempt.gain
            others = [one.attempt for one in helpful if one is not best]
            rivals = tuple(other.name for other in others if other.gain > enough)
            self.now = replace(best, attempt=replace(best.attempt, rivals=rivals))
            self.kept[best.attempt.addition] = self.now.attempt
            self.report(f"kept: {_name_with_rivals(self.now.attempt)}")

    def leave_out_each(self) -> None:
        """Leave out the additions that later ones made superfluous."""
        if "changing probe" in self.kept:
            self.kept.pop("modes", None)  # it has them
        for name in list(self.kept)[:-1]:
            if self.kept[name].evidence or _find_evidence(name, self.scan):
                continue
            others = {other: attempt for other, attempt in self.kept.items() if other != name}
            found = _run(f"without {name}", _join(others.values()), self.recipe, self.scan)
            if isinstance(found, Attempt):
                continue
            helped = _compare(found.attempt, found.losses, self.now.losses)
            found = self._record(found, replace(found.attempt, gain=-helped.gain, error=helped.error))
            if not helped.helps:
                self.kept, self.now = others, found
                self.report(f"left out: {name}")

    def _try(self, name: str) -> _Run | None:
        """The model with one more addition; ``None`` where it has that, or cannot be run with it."""
        addition = LADDER[name](self.now.job)
        if addition is None:
            return None
        title = _describe_addition(name, addition)
        found = _run(title, {**_join(self.kept.values()), **addition}, self.recipe, self.scan)
        own = {"settings": addition, "addition": name}
        if isinstance(found, Attempt):
            self.attempts.append(replace(found, **own))
            self.report(str(found))
            return None
        attempt = replace(_compare(found.attempt, self.now.losses, found.losses), **own)
        if attempt.helps and (doubt := _find_doubt(name, found.job)):
            attempt = replace(attempt, helps=False, problem=doubt)
        is_refuted = attempt.is_harmful and is_explained(self.now.explained)
        if not attempt.helps and not is_refuted and (evidence := _find_evidence(name, self.scan)):
            attempt = replace(attempt, helps=True, evidence=evidence, problem="")
        return self._record(found, attempt)

    def _record(self, run: _Run, attempt: Attempt) -> _Run:
        self.attempts.append(attempt)
        self.report(str(attempt))
        return replace(run, attempt=attempt)


def _join(attempts: Iterable[Attempt]) -> dict[str, Any]:
    """The settings of several additions."""
    return {path: value for attempt in attempts for path, value in attempt.settings.items()}


def _name_with_rivals(attempt: Attempt) -> str:
    if attempt.evidence:
        return f"{attempt.name} ({attempt.evidence})"
    if not attempt.rivals:
        return attempt.name
    return f"{attempt.name} (or {' or '.join(attempt.rivals)}: the patterns hardly tell which)"


def _describe_addition(name: str, settings: Mapping[str, Any]) -> str:
    """The name of an addition with its number, where it has one."""
    value = next(iter(settings.values()))
    if name == "mpie":
        return f"optimizer mpie, {EPOCHS_OF_MPIE} epochs"
    if name == "modes":
        return f"{value} modes"
    if name == "second slice":
        return f"second slice at {settings['object.pixels.thickness']}"
    return f"blur of {value} pixels" if name == "blur" and "rates.blur" not in settings else name


def _run(name: str, settings: Mapping[str, Any], before: Reconstruct, scan: Scan4D) -> _Run | Attempt:
    """A short run until all patterns are learned from; an attempt alone if it failed."""
    began = time.process_time()
    try:
        recipe = before.with_settings(settings) if settings else before
        if "prepare" in settings:
            scan = recipe.prepare[-1](scan)
        job = Job(recipe, scan, None, None)
        job.wants_evidence = False
        if "holograms" in job.recorded.found:
            job.take_first_image()
        last = job.recorded.epochs - count_epochs_on_all(job.recorded)
        with _without_advice():
            for epoch in job:
                if epoch.number == last:
                    break
        losses = _measure_held_out(job)
    except BadInput as problem:
        return Attempt(name, problem=str(problem))
    if job.progress.stop.is_interrupted:
        raise KeyboardInterrupt
    if not bool(losses.isfinite().all()):
        return Attempt(name, problem="no loss that is a number")
    seconds = time.process_time() - began
    attempt = Attempt(name, loss=float(losses.mean()), seconds=seconds)
    return _Run(attempt, losses, job, job.measure_explained(), _count_numbers(job))


def _count_numbers(job: Job) -> int:
    """How many numbers a run fits, of all parts with a rate."""
    groups = job.progress.optimizer.param_groups
    return sum(one.numel() * (1 + one.is_complex()) for group in groups for one in group["params"])


def _choose_simplest(helpful: list[_Run]) -> _Run:
    """Of the runs within a standard error of the best gain, the one with the fewest numbers.

    This is the one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees, 3.4.3).
    """
    best = max(helpful, key=lambda one: one.attempt.gain)
    least = best.attempt.gain - best.attempt.error
    return min((one for one in helpful if one.attempt.gain >= least), key=lambda one: one.numbers)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Log no advice on a run that is an attempt: nobody would change its parameter file."""
    before = protocol.log.level
    protocol.log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        protocol.log.setLevel(before)


@torch.no_grad()
def _measure_held_out(job: Job) -> Tensor:
    """The loss of each pattern held out, with its own position as settled."""
    likelihood = job.level.likelihood
    index = torch.as_tensor(job.holdout)
    return torch.stack([likelihood(one)["noise"].detach().double().cpu() for one in index.split(1)])


def _compare(attempt: Attempt, before: Tensor, after: Tensor) -> Attempt:
    """An attempt with its gain, pattern by pattern."""
    gains = before - after
    gain, error = float(gains.mean()), float(gains.std() / len(gains) ** 0.5)
    helps = gain > MIN_STANDARD_ERRORS * error and gain > MIN_RELATIVE_GAIN * float(before.mean())
    return replace(attempt, gain=gain, error=error, helps=helps)


@torch.no_grad()
def _find_doubt(name: str, job: Job) -> str:
    """Why an addition is not believed although predictions are better; empty: nothing speaks against it."""
    if name != "background":
        return ""
    share = float(job.model.detector.background().mean()) / max(float(job.scan.mean_pattern().mean()), 1e-30)
    return "" if share > MIN_BACKGROUND else f"{share:.2%} of the counts are too few to be believed"


def _find_evidence(name: str, scan: Scan4D) -> str:
    """What asks for an addition although predictions are no better; empty: nothing does.

    A probe that may move takes over the dark part of the mean pattern: where patterns differ by little more
    than noise, they are predicted as well without a background. But scattering falls with the angle.
    """
    if name != "background" or scan.geometry.near:
        return ""
    patterns = min(len(scan), MAX_PATTERNS_FOR_MEAN)
    mean = scan.mean_pattern(most=patterns) - (0.0 if scan.background is None else scan.background)
    level = find_constant_level(np.where(scan.mask, mean, 0.0), scan.mask, patterns=patterns)
    if level is None or not level.is_clear:
        return ""
    return (
        f"all pixels beyond the bright part have {level.least:.2g} counts or more, {level.share:.0%} of all"
    )


def _choose_rate(job: Job, part: str, newton: float = NEWTON_RATE) -> float:
    return newton if job.recipe.optimizer.name == "gauss_newton" else DEFAULT_RATES.get(part, 0.02)
