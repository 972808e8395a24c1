"""Samples for training: simulated or stored scans, and the windows that are cut from them with new counts."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from phaseloom.data.orientations import turned
from phaseloom.errors import BadInput
from phaseloom.retrieval.ground_truth import Geometry, crop_as_seed, resample_to_steps
from phaseloom.simulation.experiment import PER_STEP, Experiment, image_shape, told
from phaseloom.simulation.samples import SampleSet
from phaseloom.simulation.scan import Sample
from phaseloom.simulation.specimens import held_out

__all__ = ["LANE_COUNT", "NOISELESS_DOSE", "SampleMaker", "SamplePool", "StoredSamples", "TrainingScan"]
__all__ += ["ViewBatch", "ViewDistribution", "ViewSelection", "cut_views", "draw_counts", "draw_views"]
__all__ += ["make_scan", "select_lane"]

NOISELESS_DOSE = 1e7  # electrons per pattern that stand for no counting noise
LANE_COUNT = 8  # ways in which the scenes of a draw are parted, see `select_lane`


@dataclass(frozen=True)
class TrainingScan:
    """A simulated scan in memory.

    Attributes:
        roots: square roots of the fractions of the beam ``(rows, columns, y, x)``, in half precision.
        phase: ``(y, x)`` radian.
        experiment: that made it.
        group: of its material.
        geometry: where the truth of a window lies (`phaseloom.retrieval.ground_truth`); by the seed's rule
            the phase is that of the whole cell.
    """

    roots: Any
    phase: Tensor
    experiment: Experiment
    group: str
    geometry: Geometry = "exact"

    @classmethod
    def of(cls, sample: Sample, /) -> "TrainingScan":
        """A sample without counting noise, or with that of its own dose, which then stays the same."""
        roots = torch.from_numpy(sample.patterns).clamp(min=0).sqrt().half()
        return make_scan(roots, torch.from_numpy(sample.phase), sample.experiment, sample.group)


@dataclass(frozen=True)
class ViewDistribution:
    """What is drawn for every view.

    Attributes:
        window: probes (rows, columns).
        doses: electrons per pattern, lowest and highest of a log-uniform draw.
        clean: share of views without counting noise.
        turned: flips and transposes too; right for round probes only.

    Raises:
        BadInput: doses that are no range, or a window without a step.
    """

    window: tuple[int, int]
    doses: tuple[float, float] = (1e3, 1e6)
    clean: float = 0.3
    turned: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.doses[0] <= self.doses[1] < np.inf:
            fix = "is not a range of electrons per pattern: write [lowest, highest]"
            raise BadInput("train: doses", list(self.doses), fix)
        if min(self.window) < 2:
            raise BadInput("train: window", list(self.window), "must be 2 by 2 probes at least")


@dataclass(frozen=True)
class ViewSelection:
    """Views that were chosen and are yet to be cut: all that is random in them.

    Attributes:
        scenes: their numbers.
        corners: first probe ``(n, 2)`` of each window.
        turns: 0 to 7: 1 flips rows, 2 columns, 4 transposes, in this order.
        doses: electrons per pattern; `NOISELESS_DOSE` or more: no noise is drawn.
        seeds: of the counts of each.
        window: probes (rows, columns).
    """

    scenes: np.ndarray
    corners: np.ndarray
    turns: np.ndarray
    doses: np.ndarray
    seeds: np.ndarray
    window: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, part: slice) -> "ViewSelection":
        """Some of them."""
        arrays = ("scenes", "corners", "turns", "doses", "seeds")
        return replace(self, **{name: getattr(self, name)[part] for name in arrays})

    def split(self, size: int, /) -> "tuple[Picked, ...]":
        """The same in pieces."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True)
class ViewBatch:
    """What a network is given, and what it should say.

    Attributes:
        patterns: ``(n, rows, columns, y, x)`` fractions of the beam.
        optics: ``(n, 8)``, see `phaseloom.simulation.experiment.told`.
        coordinates: ``(n, 2)`` of the first probe from that of its scan, angstrom.
        phase: ``(n, y, x)`` radian.
        experiments: one for each.
    """

    patterns: Tensor
    optics: Tensor
    coordinates: Tensor
    phase: Tensor
    experiments: tuple[Experiment, ...]

    def to(self, device: torch.device | str, /) -> "ViewBatch":
        """The same on a device."""
        names = ("patterns", "optics", "coordinates", "phase")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def draw_views(
    count: int,
    numbers: Sequence[int],
    shape: tuple[int, int],
    choice: ViewDistribution,
    /,
    *,
    seed: tuple[int, ...],
) -> ViewSelection:
    """Draw views at random.

    Args:
        count: how many.
        numbers: of the scenes to draw from.
        shape: probes (rows, columns) of the scenes.
        choice: what else is drawn.
        seed: numbers that tell this draw from all others.

    Raises:
        BadInput: scans smaller than a window.
    """
    if min(s - w for s, w in zip(shape, choice.window, strict=True)) < 0:
        fix = f"is smaller than a window of {choice.window[0]} x {choice.window[1]}: scan more probes"
        raise BadInput("train: a scan", f"{shape[0]} x {shape[1]}", fix)
    rng = np.random.default_rng(seed)
    rooms = [s - w + 1 for s, w in zip(shape, choice.window, strict=True)]
    lanes = [select_lane(numbers, place) for place in range(LANE_COUNT)]
    shares = rng.random(count)
    low, high = np.log(choice.doses)
    doses = np.exp(rng.uniform(low, high, count))
    doses[rng.random(count) < choice.clean] = NOISELESS_DOSE
    return ViewSelection(
        scenes=np.array(
            [one[int(share * len(one))] for one, share in zip(cycle(lanes), shares, strict=False)]
        ),
        corners=np.stack([rng.integers(0, room, count) for room in rooms], 1),
        turns=rng.integers(0, 8 if choice.window[0] == choice.window[1] else 4, count) * choice.turned,
        doses=doses,
        seeds=rng.integers(2**62, size=count),
        window=choice.window,
    )


def select_lane(numbers: Sequence[int], place: int, /) -> Sequence[int]:
    """Scenes that the view at a place of a draw may be of: processes that share a draw hold their lanes only.

    Few scenes have no lanes: all may be drawn at any place, or some would be drawn more often than others.

    Example:
        >>> select_lane(range(200), 3)[:3], select_lane(range(200), 11)[:3], select_lane([5, 6, 7], 0)
        ([3, 11, 19], [3, 11, 19], [5, 6, 7])
    """
    if len(numbers) < LANE_COUNT**2:
        return numbers
    return [number for number in numbers if number % LANE_COUNT == place % LANE_COUNT]


def cut_views(scenes: Sequence[TrainingScan], these: ViewSelection, /) -> ViewBatch:
    """Cut, turn and count the views that were picked; ``scenes`` are looked up by their numbers.

    Example:
        >>> roots, experiment = torch.ones(6, 5, 4, 4).half() / 4, Experiment(scan=(6, 5))
        >>> scene = TrainingScan(roots, torch.zeros(36, 31), experiment, "")
        >>> few = draw_views(3, [0], (6, 5), ViewDistribution(window=(4, 4)), seed=(0,))
        >>> seen = cut_views([scene], few)
        >>> seen.patterns.shape, seen.phase.shape
        (torch.Size([3, 4, 4, 4, 4]), torch.Size([3, 26, 26]))
    """
    parts = []
    numbers = []
    phases = []
    chosen = [scenes[number] for number in these.scenes]
    columns = (these.turns, these.doses, these.seeds)
    for scene, (row, col), turn, dose, seed in zip(chosen, these.corners, *columns, strict=True):
        patterns, phase = _cut_window(scene, int(row), int(col), these.window)
        patterns, phase = _turn_view(patterns, phase, int(turn))
        parts.append(draw_counts(patterns, dose, torch.Generator().manual_seed(int(seed))))
        numbers.append(told(scene.experiment, dose))
        phases.append(phase)
    steps = torch.tensor([scene.experiment.step for scene in chosen], dtype=torch.float32)
    return ViewBatch(
        patterns=torch.stack(parts),
        optics=torch.from_numpy(np.stack(numbers)),
        coordinates=torch.as_tensor(these.corners, dtype=torch.float32) * steps[:, None],
        phase=torch.stack(phases),
        experiments=tuple(scene.experiment for scene in chosen),
    )


def draw_counts(fractions: Tensor, dose: float, generator: torch.Generator, /) -> Tensor:
    """Fractions of the beam with the counting noise of a dose."""
    if dose >= NOISELESS_DOSE:
        return fractions
    return torch.poisson(fractions * dose, generator=generator) / dose


def make_scan(
    roots: Any, phase: Tensor, experiment: Experiment, group: str, /, *, geometry: Geometry = "exact"
) -> TrainingScan:
    """A scene of a phase as samples hold it; that of a periodic cell is put on pixels of a fifth of a step.

    Args:
        roots: square roots of the patterns: a tensor, or what reads one when it is indexed.
        phase: of the image, or of the whole cell.
        experiment: that made it.
        group: of its material.
        geometry: ``seed`` leaves the phase of a cell, from which windows are then cut by the seed's rule.
    """
    exact = experiment.cell is not None and geometry == "exact"
    rule: Geometry = "exact" if experiment.cell is None else geometry
    return TrainingScan(
        roots, resample_to_steps(phase, experiment) if exact else phase, experiment, group, rule
    )


def _cut_window(scene: TrainingScan, row: int, col: int, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Patterns of a window, and the phase under it."""
    height, width = image_shape(window)
    roots = scene.roots[row : row + window[0], col : col + window[1]].float()
    if scene.geometry == "seed":
        return roots.square(), crop_as_seed(scene.phase, row, col)
    top = PER_STEP * row
    left = PER_STEP * col
    return roots.square(), scene.phase[top : top + height, left : left + width]


def _turn_view(patterns: Tensor, phase: Tensor, turn: int) -> tuple[Tensor, Tensor]:
    """Scan, patterns and phase flipped together; zero frequency stays where it was."""
    for bit, axis in ((1, 0), (2, 1)):
        if turn & bit:
            patterns = patterns.flip(axis)
            phase = phase.flip(axis)
    if turn & 4:
        patterns = patterns.transpose(0, 1)
        phase = phase.T
    return turned(patterns, turn), phase


class SampleMaker(Protocol):
    """Whatever makes the sample of a number, always the same."""

    def __call__(self, number: int, /) -> Sample:
        """Make it."""
        ...


class SamplePool:
    """Scenes by their numbers.

    Attributes:
        make: the sample of a number; with processes, something that can be pickled.
        processes: an executor, or ``None``: everything is made where it is asked for.
    """

    def __init__(self, make: SampleMaker, processes: Executor | None = None):
        self.make = make
        self.processes = processes
        self.known: dict[int, TrainingScan] = {}
        self.coming: dict[int, Future[Any]] = {}

    def __getitem__(self, number: int) -> TrainingScan:
        """The scene of a number."""
        if number not in self.known:
            future = self.coming.pop(number, None)
            sample = self.make(number) if future is None else future.result()
            self.known[number] = TrainingScan.of(sample)
        return self.known[number]

    def hold(self, numbers: Iterable[int], /) -> None:
        """Keep these of those in memory, and let go of all others."""
        self.known = {number: self.known[number] for number in numbers if number in self.known}

    def close(self) -> None:
        """Send the processes home; what they have not begun is made here if it is asked for."""
        if self.processes is not None:
            self.processes.shutdown(wait=True, cancel_futures=True)
        self.processes = None
        self.coming = {}

    def expect(self, numbers: Iterable[int], /) -> None:
        """Let processes begin with those that are not there, while others work."""
        if self.processes is None:
            return
        for number in numbers:
            if number not in self.known and number not in self.coming:
                self.coming[number] = self.processes.submit(self.make, number)


MAX_SCANS_IN_MEMORY = 64  # scenes whose phases are kept in memory; patterns never are


@dataclass(frozen=True)
class StoredPatterns:
    """Square roots of the patterns of a sample: an index reads what it asks for."""

    samples: SampleSet
    index: int

    def __getitem__(self, part: Any) -> Tensor:
        """Roots of patterns of some rows and columns of the scan."""
        rows, cols = part if isinstance(part, tuple) else (part, slice(None))
        fractions = self.samples.patterns(self.index, rows, cols)
        return torch.from_numpy(np.sqrt(np.maximum(fractions, 0)))

    def float(self) -> Tensor:
        """All of them."""
        return self[:, :]


class StoredSamples:
    """Scenes of a folder by their numbers; those of negative ones are of materials that training never sees.

    Attributes:
        samples: the files.
        seen, unseen: indices of the samples of either side.
    """

    geometry: Geometry

    def __init__(self, folder: Path, share: float, geometry: Geometry):
        self.samples = SampleSet(folder)
        self.geometry = geometry
        groups = [self.samples.group(index) for index in range(len(self.samples))]
        apart = [held_out(group, share) for group in groups]
        if not any(apart):
            first = min(round(0.85 * len(groups)), len(groups) - 1)
            apart = [index >= first for index in range(len(groups))]
        self.seen = [index for index, held in enumerate(apart) if not held]
        self.unseen = [index for index, held in enumerate(apart) if held]
        if not self.seen or not self.unseen:
            fix = "holds too few samples to part them into seen and unseen: simulate more"
            raise BadInput("train: stored", str(folder), fix)
        self.known: dict[int, TrainingScan] = {}

    def __getitem__(self, number: int) -> TrainingScan:
        """The scene of a number, which counts on from the first when all are through."""
        side = self.unseen if number < 0 else self.seen
        place = (-1 - number if number < 0 else number) % len(side)
        if number not in self.known:
            if len(self.known) >= MAX_SCANS_IN_MEMORY:
                self.known.clear()
            self.known[number] = self._scene(side[place])
        return self.known[number]

    def _scene(self, index: int) -> TrainingScan:
        experiment = self.samples.experiment(index)
        phase = torch.from_numpy(self.samples.phase(index))
        group = self.samples.group(index)
        return make_scan(
            StoredPatterns(self.samples, index), phase, experiment, group, geometry=self.geometry
        )

    def close(self) -> None:
        """Nothing: files are open only while they are read."""

    def hold(self, numbers: Iterable[int], /) -> None:
        """Nothing: files hold what there is."""

    def expect(self, numbers: Iterable[int], /) -> None:
        """Nothing either."""
