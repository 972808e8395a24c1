"""A study of Optuna that many processes work on: where it is kept, its tickets, who is still alive.

A ticket is a trial that waits. There are as many as were asked for, so that no two processes do the same one
and none does one too many. A process that works on one gives a sign of life; whose signs cease is taken for
dead, and what it had is done once more, by whoever comes next.
"""

import contextlib
import gc
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from phaseloom.errors import BadInput
from phaseloom.search.space import Space

__all__ = ["TRIAL_FAILURES", "Asking", "asked", "finished", "opened", "tickets", "worked"]

log = logging.getLogger(__name__)

TRIAL_FAILURES = (ValueError, RuntimeError, MemoryError, ArithmeticError, OSError)
"""What ends a trial and not the search."""

MAX_RETRIES = 1
"""How often what a dead process had is done once more."""

MAX_GRID_POINTS = 100_000
"""Combinations of a grid that are counted at all."""

SECONDS_BEFORE_COLLECTION = 2.0
"""Seconds of a trial after which its memory is collected at once, which takes a third of a second itself."""

POLL_SECONDS = 0.2
"""Seconds between two looks at what others do."""


# Optuna recognises a storage with signs of life by this base class, which it exports nowhere in public; its
# public RDBStorage has them too, but SQLite is not safe on the shared disks of a cluster.
class Signs(JournalStorage, BaseHeartbeat):
    """A journal with signs of life: a file of each trial, touched while somebody works on it.

    What is old is told by the clock of the disk, which all machines share.
    """

    def __init__(self, file: Path, silence: int, stale: Callable[[Any, FrozenTrial], None]):
        self.silence, self.stale, self.signs = silence, stale, file.parent / "signs"
        self.signs.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(str(file))
        _healed(file, lock)
        super().__init__(JournalFileBackend(str(file), lock))

    def record_heartbeat(self, trial_id: int) -> None:
        """Give a sign."""
        (self.signs / str(trial_id)).touch()

    def get_heartbeat_interval(self) -> int:
        """Seconds from one sign to the next."""
        return max(1, self.silence // 4)

    def get_heartbeat_stale_trial_callback(self) -> Callable[[Any, FrozenTrial], None]:
        """What becomes of the trial of a dead process."""
        return self.stale

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        clock = self.signs / "clock"
        clock.touch()
        return [one._trial_id for one in running if self._age(one._trial_id, clock) > self.silence]

    def _age(self, trial: int, clock: Path) -> float:
        """Seconds since the last sign; that of a process that died before its first one begins now."""
        sign = self.signs / str(trial)
        if not sign.exists():
            sign.touch()
        return clock.stat().st_mtime - sign.stat().st_mtime


def _healed(file: Path, lock: JournalFileOpenLock) -> None:
    """Drop half a line that a crash has left at the end of a journal: nobody could read on behind it."""
    if not file.exists() or file.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock.acquire()
    try:
        text = file.read_bytes()
        with open(file, "r+b") as journal:
            journal.truncate(text.rfind(b"\n") + 1)
    finally:
        lock.release()


class Asking:
    """The right to ask for a trial: one process at a time has it, so that none asks for what another has."""

    def __init__(self, folder: Path):
        self.lock, self.held = JournalFileOpenLock(str(folder / "asking"), grace_period=60), False

    def __enter__(self) -> "Asking":
        self.lock.acquire()
        self.held = True
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Let others ask."""
        if self.held:
            self.held = False
            with contextlib.suppress(RuntimeError):  # taken away after a minute
                self.lock.release()


def opened(url: str | None, folder: Path, name: str, /, *, silence: int, fresh: bool = False) -> optuna.Study:
    """The study of a name: in the journal of a folder, or in a data base.

    Raises:
        BadInput: a data base that cannot be opened, or a fresh study that is there already.
    """
    storage = _storage(url, folder, silence)
    there = any(one.study_name == name for one in storage.get_all_studies())
    if fresh and there:
        raise BadInput("storage", name, "is a study that is there already: give another study name")
    with _silent():
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=not fresh)


def _storage(url: str | None, folder: Path, silence: int) -> BaseStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        stale = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)
        if url is None:
            return Signs(folder / "study.journal", silence, stale)
        try:
            return RDBStorage(
                url,
                heartbeat_interval=max(1, silence // 4),
                grace_period=silence,
                heartbeat_stale_trial_callback=stale,
            )
        except Exception as problem:  # whatever a driver of a data base raises
            raise BadInput("storage", url.split("@")[-1], _refused(problem)) from problem


def _refused(problem: Exception) -> str:
    """Why a data base cannot be opened, and what helps where that is known."""
    lost = getattr(problem.__cause__ or problem.__context__, "name", None)
    if lost:
        return f"needs the module {lost}: install the driver of that data base"
    return f"cannot be opened: {' '.join(str(problem).split())[:160]}"


def asked(
    space: Space, count: int | None, /, *, grid: bool, seed: int
) -> dict[int, Mapping[str, Any] | None]:
    """The tickets of a search by their numbers: with values on a grid, else without.

    Args:
        space: what is searched.
        count: of trials; default: 30, or all combinations of a grid.
        grid: each ticket is a combination of values.
        seed: of their order.

    Raises:
        BadInput: a grid that is not finite, or too large.
    """
    if not grid:
        return dict.fromkeys(range(30 if count is None else count))
    points = list(itertools.islice(space.grid(), MAX_GRID_POINTS + 1))
    if len(points) > MAX_GRID_POINTS:
        raise BadInput(
            "sampler: grid", f"more than {MAX_GRID_POINTS}", "are too many combinations: take larger steps"
        )
    order = np.random.default_rng(seed).permutation(len(points))[:count]
    return {number: points[int(place)] for number, place in enumerate(order)}


def tickets(study: optuna.Study, wanted: Mapping[int, Mapping[str, Any] | None], /) -> None:
    """Add those that are not there yet."""
    there = {one.user_attrs.get("ticket") for one in study.get_trials(deepcopy=False)}
    for number, values in wanted.items():
        if number in there:
            continue
        if values is None:
            study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs={"ticket": number}))
        else:
            study.enqueue_trial(dict(values), user_attrs={"ticket": number})


def worked(
    study: optuna.Study,
    one: Callable[[optuna.Trial], float],
    asking: Asking,
    /,
    *,
    wait: bool,
    until: float | None = None,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[int]:
    """Do one trial after the other while there are tickets; numbers of those that are done.

    Args:
        study: whose tickets.
        one: a trial; it leaves ``asking`` when it has its values.
        asking: the right to ask.
        wait: for what others still do: it may come back.
        until: monotonic time after which none is begun.
        going: asked before each trial: whether to go on.
    """
    while (until is None or time.monotonic() < until) and going():
        with asking, _silent():
            waits = bool(_numbers(study, TrialState.WAITING))
            number = _tried(study, one) if waits else None
        if number is not None:
            yield number
        if waits:
            continue
        if not wait or not _numbers(study, TrialState.RUNNING):
            return
        time.sleep(POLL_SECONDS)
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)


def _tried(study: optuna.Study, one: Callable[[optuna.Trial], float]) -> int | None:
    """One trial; ``None`` where others had taken this process for dead, and have done it."""
    numbers: list[int] = []

    def noted(trial: optuna.Trial) -> float:
        numbers.append(trial.number)
        return one(trial)

    began = time.monotonic()
    try:
        study.optimize(noted, n_trials=1, catch=TRIAL_FAILURES)
    except UpdateFinishedTrialError:
        log.warning("trial %s: it took so long that others have done it", *numbers)
        return None
    except KeyboardInterrupt:
        _put_back(study, numbers)
        raise
    if time.monotonic() - began > SECONDS_BEFORE_COLLECTION:
        gc.collect()
    return numbers[0]


def _put_back(study: optuna.Study, numbers: Sequence[int]) -> None:
    """A ticket for what was interrupted, with the values that it had."""
    for number in numbers:
        trial = study.trials[number]
        attributes = {"ticket": trial.user_attrs.get("ticket")}
        study.enqueue_trial(trial.params, user_attrs=attributes)


def _numbers(study: optuna.Study, state: TrialState) -> list[int]:
    return [one.number for one in study.get_trials(deepcopy=False, states=(state,))]


def finished(study: optuna.Study, /) -> list[FrozenTrial]:
    """Trials that somebody has ended."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [one for one in study.get_trials(deepcopy=False, states=ended) if "ticket" in one.user_attrs]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Optuna without its log, which tells of failures with a traceback."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
