"""A search under way: trials in this process or in several, one after the other as they end."""

import logging
import math
import re
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.errors import BadInput
from phaseloom.files import whole_buffer
from phaseloom.learning import weight_files as pretrained
from phaseloom.plot.style import average_blocks
from phaseloom.renames import renamed_attribute
from phaseloom.runs.folder import SNAPSHOT_NAME
from phaseloom.runs.interrupts import interrupt_on_signals
from phaseloom.runs.lock import OutputLock
from phaseloom.runs.parameter_paths import get_parameter
from phaseloom.search import pruners, report
from phaseloom.search.recipe import Plan, load_engine
from phaseloom.search.report import TrialRecord
from phaseloom.search.trials import Trial

__all__ = ["Searching", "join_search"]

log = logging.getLogger(__name__)

MAX_EQUAL_FAILURES = 3
"""Trials that fail for one reason, before any is done, after which no more are begun."""

HEAVY_FILES = ("result.h5", pretrained.NETWORK_FILE, "picture.npz")
"""What only the best trials keep."""

PICTURE_PIXELS = 320
"""Along an edge of a picture that is kept of a trial."""


class Searching:
    """A search that is watched, stopped and resumed.

    Iterating runs it, and yields each trial as it ends (`phaseloom.search.report.TrialRecord`). A search that
    was killed is resumed by `phaseloom.search.recipe.Plan.at` of its folder.

    Attributes:
        plan: see `phaseloom.search.recipe`.
    """

    def __init__(self, plan: Plan):
        self.plan = plan

    def __iter__(self) -> Iterator[TrialRecord]:
        with OutputLock(self.plan.folder):
            yield from self._run()

    def _run(self) -> Iterator[TrialRecord]:
        search = self.plan.search
        until = None if search.seconds is None else time.monotonic() + search.seconds
        yield from _run_part(self.plan, "trials", until)
        best = report.rank_trials(report.list_trials(self.plan, "trials"))[: search.finals]
        if self.plan.size and best and (until is None or time.monotonic() < until):
            tickets = {one.number: one.params for one in best}
            load_engine().enqueue_tickets(self.plan.open_study("finals"), tickets)
            yield from _run_part(self.plan, "finals", until)

    def write_report(self) -> list[Path]:
        """Write what was found; errors as of `phaseloom.search.report.write_report`."""
        return report.write_report(self.plan)

    left = renamed_attribute("left", "write_report")


def join_search(folder: Path | str, /) -> Iterator[TrialRecord]:
    """Help with the search of a folder, from this process, as long as there is something to do."""
    plan = Plan.at(folder)
    for part in report.list_parts(plan):
        for number in _run_here(plan, part, wait=False):
            yield from (one for one in report.list_trials(plan, part) if one.number == number)


def _run_part(plan: Plan, part: str, until: float | None) -> Iterator[TrialRecord]:
    """All trials of a part as they end, in this process or in any other."""
    ended = report.list_trials(plan, part)
    known = {one.number for one in ended}
    with closing(_run_everywhere(plan, part, until)) as steps:
        for _ in steps:
            for one in report.list_trials(plan, part):
                if one.number not in known:
                    known.add(one.number)
                    yield one
                    ended.append(one)
                    if why := _find_why_hopeless(ended):
                        raise BadInput(
                            "search", f"{len(ended)} trial{'s' * (len(ended) > 1)}", f"failed, because: {why}"
                        )


def _run_everywhere(plan: Plan, part: str, until: float | None) -> Generator[None]:
    """The processes of this machine, then what they may have left; a step where trials may have ended."""
    if plan.search.workers > 1:
        yield from _run_in_processes(plan, part, until)
    for _ in _run_here(plan, part, wait=True, until=until):
        yield
    yield


def _find_why_hopeless(ended: Sequence[TrialRecord]) -> str:
    """Why every trial will fail as all before did; empty where one need not.

    An objective that is none of these runs; or three trials that failed for one reason, before any was done.
    """
    reasons = [re.sub(r"[\d.]+", "", one.reason) for one in ended if one.state == "failed"]
    if not reasons or len(reasons) < len(ended):
        return ""
    if len(reasons) >= MAX_EQUAL_FAILURES and len({*reasons}) == 1:
        return ended[-1].reason
    return next((one.reason for one in ended if one.wrong_objective), "")


def _run_in_processes(plan: Plan, part: str, until: float | None) -> Generator[None]:
    """Run trials in several processes; a step each time that it is worth looking at the study."""
    spawn = get_context("spawn")
    count = plan.search.workers
    seconds = None if until is None else until - time.monotonic()
    threads = max(1, torch.get_num_threads() // count)
    halt = spawn.Event()
    arguments = (str(plan.folder), part, threads, seconds, halt)
    processes = [spawn.Process(target=_run_worker, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            yield
            processes[0].join(load_engine().POLL_SECONDS)
        yield
    finally:
        halt.set()
        for process in processes:
            process.join()


def _run_worker(folder: str, part: str, threads: int, seconds: float | None, halt: Any) -> None:
    """A process of a search; it begins no trial after its parent has ended, or halted it."""
    torch.set_num_threads(threads)
    until = None if seconds is None else time.monotonic() + seconds
    with suppress(KeyboardInterrupt), interrupt_on_signals():
        deque(_run_here(Plan.at(folder), part, wait=False, until=until, halt=halt), maxlen=0)


def _has_lost_parent() -> bool:
    parent = parent_process()
    return parent is not None and not parent.is_alive()


def _run_here(
    plan: Plan, part: str, *, wait: bool, until: float | None = None, halt: Any = None
) -> Iterator[int]:
    """Numbers of the trials that this process does."""
    engine = load_engine()
    study = plan.open_study(part)
    assert plan.search.pruner is not None
    study.pruner = plan.search.pruner(plan.epochs) if part == "trials" else pruners.none()
    ask_lock = engine.AskLock(plan.folder)
    for number in engine.run_trials(
        study,
        _Objective(plan, part, study, ask_lock),
        ask_lock,
        engine.Heartbeat(plan.folder, part, plan.search.silence),
        wait=wait,
        until=until,
        may_start=lambda: not _has_lost_parent() and not (halt and halt.is_set()),
    ):
        yield number
        if not wait and _find_why_hopeless(report.list_trials(plan, part)):  # else the reader stops it
            return


class _Objective:
    """The value of a trial of Optuna, from the run of its recipe."""

    def __init__(self, plan: Plan, part: str, study: Any, ask_lock: Any):
        self.plan = plan
        self.part = part
        self.study = study
        self.ask_lock = ask_lock

    def __call__(self, trial: Any) -> float:
        """Run a trial; why it has no value is left in its attributes."""
        try:
            return self._run(trial)
        except KeyboardInterrupt:
            trial.set_user_attr("reason", "interrupted")
            raise
        except load_engine().TRIAL_FAILURES as problem:
            ours = isinstance(problem, BadInput)
            reason = str(problem) if ours else f"{type(problem).__name__}: {problem}"
            trial.set_user_attr("reason", " ".join(reason.split()))
            trial.set_user_attr("wrong objective", ours and problem.place.startswith("objective"))
            raise

    def _run(self, trial: Any) -> float:
        if "ticket" not in trial.user_attrs:
            raise RuntimeError("one too many")
        seed = int(np.random.SeedSequence([self.plan.search.seed, trial.number]).generate_state(1)[0])
        self.study.sampler = self.plan.search.sampler(seed, self.plan.search.seed)
        params = self.plan.space.suggest(trial)
        if (same := _find_duplicate(self.study, trial)) is not None:
            trial.set_user_attr("reason", f"the same as {same.number}")
            return _copy_value(trial, same)
        recipe = self.plan.make_recipe(params, self.part)
        if warm := _find_warm_start(self.plan, self.part):
            trial.set_user_attr("warm", warm)
            recipe = recipe.with_settings(warm)
        self.ask_lock.release()
        folder = self.plan.folder / self.part / f"{trial.number:04d}"
        run = _open_run(self.plan, recipe, folder, trial)
        _refuse_overridden(recipe, run, params)
        _run_epochs(self.plan, run, trial)
        return _finish_trial(self.plan, run, folder)


def _open_run(plan: Plan, recipe: Any, folder: Path, trial: Any) -> Trial:
    """The run of a trial: gone on with, where its process died and all of its epochs were reported.

    Otherwise it begins anew, and what there was of it is removed.
    """
    reported = max(_reported_values(trial), default=0)
    if (folder / "run.yaml").is_file() and (folder / SNAPSHOT_NAME).is_file() and reported:
        try:
            run = plan.kind(recipe, folder, resume=True)
        except BadInput as problem:
            log.info("%s: begun anew, for %s", folder, problem)
        else:
            if run.run.progress.epoch == reported:
                return run
    shutil.rmtree(folder, ignore_errors=True)
    return plan.kind(recipe, folder)


def _reported_values(trial: Any) -> Mapping[int, float]:
    """Values by epoch, of this attempt and of those that died before."""
    return trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values


def _find_duplicate(study: Any, trial: Any) -> Any:
    """An earlier trial of the same values: every run is seeded, so that it would come to the same."""
    states = load_engine().TrialState
    others = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    alike = (one for one in others if one.number != trial.number and one.params == trial.params)
    return next(alike, None)


def _copy_value(trial: Any, same: Any) -> float:
    """The value that another trial came to, or the same end."""
    if same.state.name == "COMPLETE":
        return same.value
    for step, value in same.intermediate_values.items():
        trial.report(value, step)
    raise load_engine().optuna.TrialPruned


def _find_warm_start(plan: Plan, part: str) -> dict[str, Any]:
    """Settings by which a trial begins with what the best one so far has found."""
    done = report.rank_trials(report.list_trials(plan, part)) if plan.search.warm else []
    if not done:
        return {}
    folder = plan.folder / part / f"{done[0].number:04d}"
    has_weights = "weights" in type(plan.base).model_fields
    file = folder / (pretrained.NETWORK_FILE if has_weights else "result.h5")
    if not file.is_file():
        return {}
    if has_weights:
        return {"weights": str(file)}
    searched = {knob.path.split(".")[0] for knob in plan.space.knobs}
    out: dict[str, Any] = {}
    for section in {"object", "probe"} - searched:
        kind = {key: value for key, value in getattr(plan.base, section).values.items() if key == "kind"}
        out[section] = {"from_file": {"path": str(file), **kind}}
    return out | ({"compare_starts": False} if "object" in out else {})  # what is asked for is not judged


def _refuse_overridden(recipe: Any, run: Trial, params: Mapping[str, Any]) -> None:
    """Refuse a trial in which something else has decided on a knob: it would look like a result.

    What the file leaves open (``auto``, or nothing) is decided by the run.
    """
    ordered = recipe.to_full_tree()
    settled = run.run.recipe.to_full_tree()
    for path in params:
        wanted = get_parameter(ordered, path)
        actual = get_parameter(settled, path)
        if isinstance(wanted, dict | list) or wanted in (None, "auto") or wanted == actual:
            continue
        fix = f"was asked for, but the run has {actual}: something in the run file overrides it"
        raise BadInput(f"over: {path}", wanted, fix)


def _run_epochs(plan: Plan, run: Trial, trial: Any) -> None:
    """All epochs, each reported; a trial may be given up after one."""
    known = _reported_values(trial)  # of an attempt that died: the pruner let it pass there
    last = max(known, default=0)
    with closing(run.epochs()) as epochs:
        for epoch in epochs:
            value = None if plan.objective.each is None else plan.objective.each(run, epoch)
            if value is None:
                continue
            if epoch.number not in known:
                trial.report(float(value), epoch.number)
            is_new = epoch.number >= last
            if is_new and epoch.number < run.run.recipe.epochs and trial.should_prune():
                _remove_snapshot(run)
                trial.set_user_attr("reason", f"given up after epoch {epoch.number}")
                raise load_engine().optuna.TrialPruned
    stop = run.run.progress.stop
    if stop.is_interrupted:
        raise KeyboardInterrupt
    if stop.is_breakdown:
        raise ArithmeticError(str(stop))


def _finish_trial(plan: Plan, run: Trial, folder: Path) -> float:
    """The value of a run at its end; its result and its picture are left in its folder."""
    value = plan.objective.final(run)
    if not math.isfinite(value):
        raise ArithmeticError(f"{plan.objective.name} is {value}")
    run.collect_numbers()
    if (picture := run.make_picture()) is not None:
        image, pixel = picture
        fold = max(1, max(image.shape) // PICTURE_PIXELS)
        values = average_blocks(image, fold).astype(np.float32)
        with whole_buffer(folder / "picture.npz") as buffer:
            np.savez(buffer, image=values, pixel=pixel * fold)
    _remove_snapshot(run)
    if not plan.search.warm:
        _remove_results(plan, folder, value)
    return value


def _remove_snapshot(run: Trial) -> None:
    """Remove what only a run that is resumed needs."""
    if run.run.directory is not None:
        (run.run.directory / "snapshot.h5").unlink(missing_ok=True)


def _remove_results(plan: Plan, folder: Path, value: float) -> None:
    """Remove the large files of all but the best trials, with one that has just ended in a folder."""
    done = report.rank_trials(report.list_trials(plan, folder.parent.name))
    ranks = sorted([*((one.value, one.number) for one in done), (value, int(folder.name))])
    for _, number in ranks[plan.search.keep :]:
        for name in HEAVY_FILES:
            (folder.parent / f"{number:04d}" / name).unlink(missing_ok=True)
