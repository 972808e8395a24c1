"""A list of things to do, spread over processes of this machine or a Dask cluster, done in any order."""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from phaseloom.errors import BadInput, MissingExtra

__all__ = ["map_unordered", "one_thread", "set_up_worker", "worker_pool"]

MAX_TASKS_ON_CLUSTER = 1000
"""Things that are handed to a cluster at once: whoever works there is never without."""

Thing = TypeVar("Thing")


def set_up_worker() -> None:
    """A helper of one process: one thread, no part in a team, and it is the caller who is interrupted."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def worker_pool(workers: int | None, scheduler: str | None) -> Iterator[tuple[futures.Executor | None, int]]:
    """Who does the work, and how many things they are given ahead; nobody else for one worker.

    Args:
        workers: processes, each with one thread; 1 works in this one; none takes every processor.
        scheduler: address of a Dask scheduler.

    Raises:
        BadInput: no workers, or a scheduler that does not answer.
        MissingExtra: a scheduler without the package ``distributed``.
    """
    if workers is not None and workers < 1:
        raise BadInput("workers", workers, "must be 1 at least")
    allowed = getattr(os, "sched_getaffinity", None)
    workers = workers or (len(allowed(0)) if allowed else os.cpu_count() or 1)
    if scheduler is not None:
        with _client(scheduler) as client:
            yield client.get_executor(pure=False), MAX_TASKS_ON_CLUSTER
    elif workers == 1:
        yield None, 1
    else:
        pool = futures.ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=set_up_worker
        )
        try:
            yield pool, 2 * workers
        finally:
            pool.shutdown(cancel_futures=True)


def map_unordered(
    work: Callable[[Thing], str], things: Sequence[Thing], team: futures.Executor | None, ahead: int, /
) -> Generator[tuple[Thing, str], None, None]:
    """Each thing as it is done, and what was said of it; when the caller stops, the rest is given up.

    Args:
        work: to do; other processes must be able to import it.
        things: to do it with.
        team: of a `worker_pool`.
        ahead: see there.

    Raises:
        BadInput: a process was lost.
    """
    if team is None:
        yield from ((thing, work(thing)) for thing in things)
        return
    waiting: dict[futures.Future[str], Thing] = {}
    left = iter(things)
    try:
        while True:
            for thing in islice(left, ahead - len(waiting)):
                waiting[team.submit(work, thing)] = thing
            if not waiting:
                return
            for future in futures.wait(waiting, return_when=futures.FIRST_COMPLETED).done:
                thing = waiting.pop(future)
                yield thing, future.result()
    except BrokenProcessPool as problem:
        fix = "lost a process, perhaps for want of memory: call again, with fewer workers"
        raise BadInput("workers", None, fix) from problem
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, as in every other process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _client(scheduler: str) -> Any:
    try:
        from dask.distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError as problem:
        raise MissingExtra("--scheduler", "the package distributed", "cluster") from problem
    try:
        return Client(scheduler, timeout=20)
    except Exception as problem:  # whatever comes of an address where no scheduler is
        fix = f"does not answer ({type(problem).__name__}): is it running, and the address right?"
        raise BadInput("--scheduler", scheduler, fix) from problem
