"""Simulated scans in memory, made when they are first asked for, by several processes if there are."""

from collections.abc import Iterable
from concurrent.futures import Executor, Future
from typing import Any, Protocol

from phaseloom.retrieval.training_samples import Scene
from phaseloom.simulation.scan import Sample

__all__ = ["Maker", "Pool"]


class Maker(Protocol):
    """Whatever makes the sample of a number, always the same."""

    def __call__(self, number: int, /) -> Sample:
        """Make it."""
        ...


class Pool:
    """Scenes by their numbers.

    Attributes:
        make: the sample of a number; with processes, something that can be pickled.
        processes: an executor, or ``None``: everything is made where it is asked for.
    """

    def __init__(self, make: Maker, processes: Executor | None = None):
        self.make, self.processes = make, processes
        self.known: dict[int, Scene] = {}
        self.coming: dict[int, Future[Any]] = {}

    def __getitem__(self, number: int) -> Scene:
        """The scene of a number."""
        if number not in self.known:
            future = self.coming.pop(number, None)
            sample = self.make(number) if future is None else future.result()
            self.known[number] = Scene.of(sample)
        return self.known[number]

    def hold(self, numbers: Iterable[int], /) -> None:
        """Keep these of those in memory, and let go of all others."""
        self.known = {number: self.known[number] for number in numbers if number in self.known}

    def close(self) -> None:
        """Send the processes home; what they have not begun is made here if it is asked for."""
        if self.processes is not None:
            self.processes.shutdown(wait=True, cancel_futures=True)
        self.processes, self.coming = None, {}

    def expect(self, numbers: Iterable[int], /) -> None:
        """Let processes begin with those that are not there, while others work."""
        if self.processes is None:
            return
        for number in numbers:
            if number not in self.known and number not in self.coming:
                self.coming[number] = self.processes.submit(self.make, number)
