"""A study of Optuna that many processes work on: where it is stored, its tickets, which processes are alive.

A ticket is a trial that waits. There are as many as were ordered, so that no two processes do the same one
and none does one too many. A process that works on one touches a file every few seconds, which names it. A
trial whose process has died on this machine waits again under its own number, at once, so that a search that
was killed ends as one that was not. Where a process of another machine is silent for long, it is taken for
dead, and the next process that asks does its trial under another number: it may still be at work.
"""

import contextlib
import gc
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from phaseloom.errors import BadInput, WriteFailed
from phaseloom.files import make_folder, name_failures, write_text
from phaseloom.runs.lock import Holder
from phaseloom.search.samplers import without_warnings
from phaseloom.search.space import Space
from phaseloom.search.study_lock import NamedFileLock

__all__ = [
    "TRIAL_FAILURES",
    "AskLock",
    "Heartbeat",
    "enqueue_tickets",
    "list_past_trials",
    "make_tickets",
    "open_study",
    "run_trials",
]

log = logging.getLogger(__name__)

TRIAL_FAILURES = (ValueError, RuntimeError, MemoryError, ArithmeticError, OSError)
"""What ends a trial and not the search."""

DEFAULT_TRIAL_COUNT = 30
"""Trials of a search that does not say how many, unless it is a grid."""

MAX_RETRIES = 1
"""How often the trial of a process that fell silent is done once more."""

MAX_DEATHS = 10
"""How often processes may die on a trial in the same epoch: then it kills them, by its memory perhaps."""

MAX_GRID_POINTS = 100_000
"""Combinations of a grid that are counted at all."""

MAX_LOCK_SECONDS = 60
"""Age at which the lock of a process is taken away: far above what any sampler takes to choose values."""

SECONDS_BEFORE_COLLECTION = 2.0
"""Seconds of a trial after which its memory is collected at once, which takes a third of a second itself."""

POLL_SECONDS = 0.2
"""Seconds between two looks at what others do."""


class Heartbeat:
    """Finds trials whose process has died: a file of each trial is touched while somebody works on it.

    Optuna has heartbeats for data bases only. These serve a journal as well, for every process of a search
    sees its folder. Ages are read off the clock of the disk, which all machines share.
    """

    def __init__(self, folder: Path, part: str, silence: int):
        self.folder = folder / "signs" / part
        self.silence = silence
        make_folder(self.folder)

    def sign(self, number: int) -> Path:
        """Write this process into the file of a trial; the file."""
        file = self.folder / str(number)
        write_text(file, Holder.here().to_text())
        return file

    @contextlib.contextmanager
    def beat(self, number: int) -> Iterator[None]:
        """Touch the file of a trial four times in each silence that is allowed."""
        file = self.sign(number)
        ended = threading.Event()

        def touch_file() -> None:
            while not ended.wait(max(1, self.silence // 4)):
                with contextlib.suppress(OSError):  # a full disk is told by what is written to it
                    file.touch()

        thread = threading.Thread(target=touch_file, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def take_back_trials(self, study: optuna.Study) -> None:
        """Let the trials of dead processes wait again; those of silent ones fail, and are put back once.

        The caller has the right to ask: a process signs a trial before it lets others ask, so that one
        without a sign is of a process that died in between.
        """
        clock = self.folder / "clock"
        with name_failures(clock):
            clock.touch()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            file = self.folder / str(trial.number)
            if not file.exists() or _is_dead(file):
                _take_back(study, trial)
                continue
            if clock.stat().st_mtime - file.stat().st_mtime <= self.silence:
                continue
            with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another process was quicker
                study.tell(trial.number, state=TrialState.FAIL)
                retry = without_warnings(RetryHeartbeatStaleTrialCallback, MAX_RETRIES)
                retry(study, study.trials[trial.number])


def _is_dead(file: Path) -> bool:
    """Whether the process of a sign has ended for sure, on this machine."""
    holder = Holder.read(file)
    return holder is not None and holder.is_dead


def _take_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let a trial wait again, with its values, unless its process died too often without a new epoch."""
    epoch = max(trial.intermediate_values, default=0)
    before, deaths = trial.user_attrs.get("deaths", (epoch, 0))
    deaths = deaths + 1 if before == epoch else 1
    with contextlib.suppress(UpdateFinishedTrialError):
        study._storage.set_trial_user_attr(trial._trial_id, "deaths", (epoch, deaths))
        if deaths < MAX_DEATHS:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            return
        reason = f"{deaths} processes died on it in epoch {epoch + 1}: perhaps it takes too much memory"
        study._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


class AskLock:
    """The right to ask for a trial: one process at a time has it, so that none asks for what another has."""

    def __init__(self, folder: Path):
        self.lock = NamedFileLock(str(folder / "asking"), grace_period=MAX_LOCK_SECONDS)
        self.is_held = False

    def __enter__(self) -> "AskLock":
        self.lock.acquire()
        self.is_held = True
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others ask."""
        if self.is_held:
            self.is_held = False
            with contextlib.suppress(RuntimeError):  # taken away, see MAX_LOCK_SECONDS
                self.lock.release()


def open_study(url: str | None, folder: Path, name: str, /, *, fresh: bool = False) -> optuna.Study:
    """The study of a name: in the journal of a folder, or in a data base.

    Raises:
        BadInput: a data base that cannot be opened, or a fresh study that is there already.
    """
    storage = _open_storage(url, folder / "study.journal")
    exists = any(one.study_name == name for one in storage.get_all_studies())
    if fresh and exists:
        raise BadInput("storage", name, "is a study that is there already: give another study name")
    with _without_log():
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=not fresh)


def _open_storage(url: str | None, journal: Path) -> BaseStorage:
    if url is None:
        lock = NamedFileLock(str(journal))
        _drop_half_line(journal, lock)
        return JournalStorage(_Journal(str(journal), lock))
    try:
        return RDBStorage(url)
    except Exception as problem:  # whatever a driver of a data base raises
        raise BadInput("storage", url.split("@")[-1], _explain_storage_error(problem)) from problem


class _Journal(JournalFileBackend):
    """Optuna's journal, whose file is named where a disk refuses it."""

    def __init__(self, path: str, lock: NamedFileLock):
        with name_failures(path):
            super().__init__(path, lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines; errors as of `phaseloom.files.whole`."""
        with name_failures(self._file_path):
            super().append_logs(logs)


def _drop_half_line(journal: Path, lock: NamedFileLock) -> None:
    """Drop half a line that a crash has left at the end: nobody could read what is written behind it."""
    if not journal.exists() or journal.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock.acquire()
    try:
        text = journal.read_bytes()
        with open(journal, "r+b") as file:
            file.truncate(text.rfind(b"\n") + 1)
    finally:
        lock.release()


def _explain_storage_error(problem: Exception) -> str:
    """Why a data base cannot be opened, and what helps where that is known."""
    module = getattr(problem.__cause__ or problem.__context__, "name", None)
    if module:
        return f"needs the module {module}: install the driver of that data base"
    return f"cannot be opened: {' '.join(str(problem).split())[:160]}"


def make_tickets(
    space: Space, count: int | None, /, *, grid: bool, seed: int
) -> dict[int, Mapping[str, Any] | None]:
    """The tickets of a search by their numbers: with parameters on a grid, else without.

    Args:
        space: what is searched.
        count: of trials; default: 30, or all combinations of a grid.
        grid: each ticket is a combination of values.
        seed: of their order.

    Raises:
        BadInput: a grid that is not finite, or too large.
    """
    if not grid:
        return dict.fromkeys(range(DEFAULT_TRIAL_COUNT if count is None else count))
    points = list(itertools.islice(space.list_combinations(), MAX_GRID_POINTS + 1))
    if len(points) > MAX_GRID_POINTS:
        raise BadInput(
            "sampler: grid", f"more than {MAX_GRID_POINTS}", "are too many combinations: take larger steps"
        )
    order = np.random.default_rng(seed).permutation(len(points))[:count]
    return {number: points[int(place)] for number, place in enumerate(order)}


def enqueue_tickets(study: optuna.Study, wanted: Mapping[int, Mapping[str, Any] | None], /) -> None:
    """Add those that are not there yet."""
    present = {one.user_attrs.get("ticket") for one in study.get_trials(deepcopy=False)}
    for number, params in wanted.items():
        if number in present:
            continue
        if params is None:
            study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs={"ticket": number}))
        else:
            study.enqueue_trial(dict(params), user_attrs={"ticket": number})


def run_trials(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    ask_lock: AskLock,
    heartbeat: Heartbeat,
    /,
    *,
    wait: bool,
    until: float | None = None,
    may_start: Callable[[], bool] = lambda: True,
) -> Iterator[int]:
    """Do one trial after the other while there are tickets; numbers of those that are done.

    Args:
        study: whose tickets.
        objective: the value of a trial; releases ``ask_lock`` when the trial has its parameters.
        ask_lock: the right to ask.
        heartbeat: of the processes of the search.
        wait: for what others still do: it may come back.
        until: monotonic time after which no trial is started.
        may_start: asked before each trial: whether to go on.
    """
    while (until is None or time.monotonic() < until) and may_start():
        with ask_lock, _without_log():
            heartbeat.take_back_trials(study)
            waiting = bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
            number = _run_trial(study, objective, heartbeat) if waiting else None
        if number is not None:
            yield number
        if waiting:
            continue
        if not wait or not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            return
        time.sleep(POLL_SECONDS)


def _run_trial(
    study: optuna.Study, objective: Callable[[optuna.Trial], float], heartbeat: Heartbeat
) -> int | None:
    """One trial; ``None`` where others had taken this process for dead, and have done it.

    A trial that is interrupted, or whose results do not fit on the disk, waits again.
    """
    began = time.monotonic()
    trial = study.ask()
    try:
        with heartbeat.beat(trial.number):
            value, state = _evaluate(objective, trial)
        study.tell(trial, value, state)
    except UpdateFinishedTrialError:
        log.warning("trial %s: it took so long that others have done it", trial.number)
        return None
    except (KeyboardInterrupt, WriteFailed):
        with contextlib.suppress(UpdateFinishedTrialError, OSError):  # or by its sign, when this process ends
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        raise
    if time.monotonic() - began > SECONDS_BEFORE_COLLECTION:
        gc.collect()
    return trial.number


def _evaluate(
    objective: Callable[[optuna.Trial], float], trial: optuna.Trial
) -> tuple[float | None, TrialState]:
    """The value of a trial, and how it ended."""
    try:
        return objective(trial), TrialState.COMPLETE
    except optuna.TrialPruned:
        return None, TrialState.PRUNED
    except WriteFailed:
        raise
    except TRIAL_FAILURES:
        return None, TrialState.FAIL


def list_past_trials(study: optuna.Study, /) -> list[FrozenTrial]:
    """Trials with a value, given up, or failed."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [one for one in study.get_trials(deepcopy=False, states=ended) if "ticket" in one.user_attrs]


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Optuna without its log, which reports failures with a traceback."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
