"""A search under way: trials in this process or in several, one after the other as they end."""

import math
import re
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.plot.style import average_blocks
from phaseloom.search import pruners
from phaseloom.search import report as found
from phaseloom.search.parameter_paths import at
from phaseloom.search.recipe import Plan, engine
from phaseloom.search.trials import Trial

__all__ = ["Searching", "joined"]

MAX_EQUAL_FAILURES = 3
"""Trials that fail for one reason, before any is done, after which no more are begun."""

HEAVY_FILES = ("result.h5", pretrained.NETWORK_FILE, "picture.npz")
"""What only the best trials keep."""

PICTURE_PIXELS = 320
"""Along an edge of a picture that is kept of a trial."""


class Searching:
    """A search that is watched, stopped and resumed.

    Iterating runs it, and yields each trial as it ends (`phaseloom.search.report.Tried`). What is killed is
    gone on with by `phaseloom.search.recipe.Plan.at` of its folder.

    Attributes:
        plan: see `phaseloom.search.recipe`.
    """

    def __init__(self, plan: Plan):
        self.plan = plan

    def __iter__(self) -> Iterator[found.Tried]:
        search, told = self.plan.search, engine()
        until = None if search.seconds is None else time.monotonic() + search.seconds
        yield from _part(self.plan, "trials", until)
        best = found.ranked(found.tried(self.plan, "trials"))[: search.finals]
        if self.plan.size and best and (until is None or time.monotonic() < until):
            told.tickets(self.plan.opened("finals"), {one.number: one.drawn for one in best})
            yield from _part(self.plan, "finals", until)

    def left(self) -> list[Path]:
        """Write what was found; errors as of `phaseloom.search.report.left`."""
        return found.left(self.plan)


def joined(folder: Path | str, /) -> Iterator[found.Tried]:
    """Help with the search of a folder, from this process, as long as there is something to do."""
    plan = Plan.at(folder)
    for part in ("trials", "finals") if plan.size else ("trials",):
        yield from _alone(plan, part, wait=False)


def _part(plan: Plan, part: str, until: float | None) -> Iterator[found.Tried]:
    """All trials of a part; those of this machine's processes, then what they may have left."""
    ended = found.tried(plan, part)
    with closing(_ending(plan, part, until, {one.number for one in ended})) as more:
        for one in more:
            yield one
            ended.append(one)
            _hopeless(ended)


def _ending(plan: Plan, part: str, until: float | None, known: set[int]) -> Generator[found.Tried]:
    """Those that are not known yet, as they end."""
    if plan.search.workers > 1:
        with closing(_together(plan, part, until, known)) as ended:
            for one in ended:
                known.add(one.number)
                yield one
    yield from _alone(plan, part, wait=True, until=until, known=known)


def _hopeless(ended: Sequence[found.Tried]) -> None:
    """Stop where every trial will fail as all before did.

    Raises:
        BadInput: an objective that is none of these runs; or three trials that failed for one reason, before
            any was done.
    """
    reasons = [re.sub(r"[\d.]+", "", one.reason) for one in ended if one.state == "failed"]
    asked = next((one.reason for one in ended if one.wrong_objective), None)
    alike = len(reasons) >= MAX_EQUAL_FAILURES and len({*reasons}) == 1 and len(reasons) == len(ended)
    if alike or (asked and len(reasons) == len(ended)):
        fix = f"failed, because: {asked or ended[-1].reason}"
        raise BadInput("search", f"{len(ended)} trial{'s' * (len(ended) > 1)}", fix)


def _together(plan: Plan, part: str, until: float | None, known: set[int]) -> Generator[found.Tried]:
    """Trials of several processes, as they end."""
    spawn, count = get_context("spawn"), plan.search.workers
    left = None if until is None else until - time.monotonic()
    threads = max(1, torch.get_num_threads() // count)
    halt = spawn.Event()
    given = (str(plan.folder), part, threads, left, halt)
    team = [spawn.Process(target=_worker, args=given) for _ in range(count)]
    for process in team:
        process.start()
    seen = set(known)
    try:
        while any(process.is_alive() for process in team):
            yield from _new(plan, part, seen)
            team[0].join(engine().POLL_SECONDS)
        yield from _new(plan, part, seen)
    finally:
        halt.set()
        for process in team:
            process.join()


def _new(plan: Plan, part: str, seen: set[int]) -> Iterator[found.Tried]:
    for one in found.tried(plan, part):
        if one.number not in seen:
            seen.add(one.number)
            yield one


def _worker(folder: str, part: str, threads: int, seconds: float | None, halt: Any) -> None:
    """A process of a search; it begins no trial after its parent has ended, or told it so."""
    torch.set_num_threads(threads)
    until = None if seconds is None else time.monotonic() + seconds
    try:
        trials = _alone(Plan.at(folder), part, wait=False, until=until, halt=halt)
        deque(trials, maxlen=0)
    except KeyboardInterrupt:
        return


def _orphaned() -> bool:
    parent = parent_process()
    return parent is not None and not parent.is_alive()


def _alone(
    plan: Plan,
    part: str,
    *,
    wait: bool,
    until: float | None = None,
    known: set[int] | None = None,
    halt: Any = None,
) -> Iterator[found.Tried]:
    """Trials that this process does; and with ``known`` whatever else has ended meanwhile."""
    study, asking = plan.opened(part), engine().Asking(plan.folder)
    assert plan.search.pruner is not None
    study.pruner = plan.search.pruner(plan.epochs) if part == "trials" else pruners.none()
    worker = _Worker(plan, part, study, asking)
    seen = set(known or ())
    numbers = engine().worked(
        study,
        worker,
        asking,
        wait=wait,
        until=until,
        going=lambda: not _orphaned() and not (halt and halt.is_set()),
    )
    for number in numbers:
        if known is None:
            yield from (one for one in found.tried(plan, part) if one.number == number)
        else:
            yield from _new(plan, part, seen)
    if known is not None:
        yield from _new(plan, part, seen)


class _Worker:
    """What a process does with a trial of Optuna."""

    def __init__(self, plan: Plan, part: str, study: Any, asking: Any):
        self.plan, self.part, self.study, self.asking = plan, part, study, asking

    def __call__(self, trial: Any) -> float:
        """The value of a trial; why there is none is left in its attributes."""
        try:
            return self._value(trial)
        except KeyboardInterrupt:
            trial.set_user_attr("reason", "interrupted")
            raise
        except engine().TRIAL_FAILURES as problem:
            ours = isinstance(problem, BadInput)
            reason = str(problem) if ours else f"{type(problem).__name__}: {problem}"
            trial.set_user_attr("reason", " ".join(reason.split()))
            trial.set_user_attr("wrong objective", ours and problem.place.startswith("objective"))
            raise

    def _value(self, trial: Any) -> float:
        if "ticket" not in trial.user_attrs:
            raise RuntimeError("one too many")
        seed = int(np.random.SeedSequence([self.plan.search.seed, trial.number]).generate_state(1)[0])
        self.study.sampler = self.plan.search.sampler(seed, self.plan.search.seed)
        drawn = self.plan.space.draw(trial)
        if (same := _same(self.study, trial)) is not None:
            trial.set_user_attr("reason", f"the same as {same.number}")
            return _copied(trial, same)
        recipe = self.plan.put(drawn, self.part)
        if warm := _warm(self.plan, self.part):
            trial.set_user_attr("warm", warm)
            recipe = recipe.put(warm)
        self.asking.leave()
        folder = self.plan.folder / self.part / f"{trial.number:04d}"
        run = self.plan.kind(recipe, folder)
        _changed(self.plan, recipe, run, drawn)
        _run(self.plan, run, trial)
        return _ended(self.plan, run, folder)


def _same(study: Any, trial: Any) -> Any:
    """An earlier trial of the same values: every run is seeded, so that it would come to the same."""
    states = engine().TrialState
    alike = [
        one
        for one in study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED, states.RUNNING))
        if one.number != trial.number and one.params == trial.params
    ]
    return next(iter(alike), None)


def _copied(trial: Any, same: Any) -> float:
    """The value that another trial came to, or the same end."""
    if same.state.name == "COMPLETE":
        return same.value
    if same.state.name == "RUNNING":
        raise RuntimeError(f"the same as {same.number}, which is still under way")
    for step, value in same.intermediate_values.items():
        trial.report(value, step)
    raise engine().optuna.TrialPruned


def _warm(plan: Plan, part: str) -> dict[str, Any]:
    """Settings by which a trial begins with what the best one so far has found."""
    done = found.ranked(found.tried(plan, part)) if plan.search.warm else []
    if not done:
        return {}
    folder = plan.folder / part / f"{done[0].number:04d}"
    name = pretrained.NETWORK_FILE if "weights" in type(plan.base).model_fields else "result.h5"
    if not (folder / name).is_file():
        return {}
    if name == pretrained.NETWORK_FILE:
        return {"weights": str(folder / name)}
    searched = {knob.path.split(".")[0] for knob in plan.space.knobs}
    out: dict[str, Any] = {}
    for section in {"object", "probe"} - searched:
        kept = {key: value for key, value in getattr(plan.base, section).values.items() if key == "kind"}
        out[section] = {"from_file": {"path": str(folder / name), **kept}}
    return out


def _changed(plan: Plan, recipe: Any, run: Trial, drawn: Mapping[str, Any]) -> None:
    """Refuse a trial in which something else has decided on a knob: it would look like a result.

    What the file leaves open (``auto``, or nothing) is decided by the run.
    """
    asked, runs = recipe.resolved(), run.run.recipe.resolved()
    for path in drawn:
        wanted, there = at(asked, path), at(runs, path)
        if isinstance(wanted, dict | list) or wanted in (None, "auto") or wanted == there:
            continue
        fix = f"was asked for, but the run has {there}: something in the run file overrides it"
        raise BadInput(f"over: {path}", wanted, fix)


def _run(plan: Plan, run: Trial, trial: Any) -> None:
    """All epochs, each reported; a trial may be given up after one."""
    with closing(run.epochs()) as epochs:
        for epoch in epochs:
            value = None if plan.objective.each is None else plan.objective.each(run, epoch)
            if value is None:
                continue
            trial.report(float(value), epoch.number)
            if epoch.number < run.run.recipe.epochs and trial.should_prune():
                _tidy(run, ())
                trial.set_user_attr("reason", f"given up after epoch {epoch.number}")
                raise engine().optuna.TrialPruned
    stop = run.run.progress.stop
    if stop.is_interrupted:
        raise KeyboardInterrupt
    if stop.is_breakdown:
        raise ArithmeticError(str(stop))


def _ended(plan: Plan, run: Trial, folder: Path) -> float:
    """The value of a run at its end; its result and its picture are left in its folder."""
    value = plan.objective.final(run)
    if not math.isfinite(value):
        raise ArithmeticError(f"{plan.objective.name} is {value}")
    run.numbers()
    if (picture := run.picture()) is not None:
        image, pixel = picture
        fold = max(1, max(image.shape) // PICTURE_PIXELS)
        np.savez(
            folder / "picture.npz", image=average_blocks(image, fold).astype(np.float32), pixel=pixel * fold
        )
    _tidy(run, ())
    if not plan.search.warm:
        _forget(plan, folder, value)
    return value


def _tidy(run: Trial, more: tuple[str, ...]) -> None:
    """Without what only a run that goes on needs."""
    if run.run.directory is not None:
        for name in ("snapshot.h5", *more):
            (run.run.directory / name).unlink(missing_ok=True)


def _forget(plan: Plan, folder: Path, value: float) -> None:
    """Let go of the results of all but the best trials."""
    done = [(one.value, one.number) for one in found.tried(plan, folder.parent.name)]
    ranks = sorted(
        [(number, name) for number, name in done if number is not None] + [(value, int(folder.name))]
    )
    for _, number in ranks[plan.search.keep :]:
        for name in HEAVY_FILES:
            (folder.parent / f"{number:04d}" / name).unlink(missing_ok=True)
