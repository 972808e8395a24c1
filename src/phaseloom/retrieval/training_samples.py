"""Training samples: simulated or stored scans, and the windows that are cut from them with new counts."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from phaseloom.data.orientations import orient_patterns
from phaseloom.errors import BadInput
from phaseloom.retrieval.ground_truth import Geometry, crop_as_seed, resample_to_steps
from phaseloom.retrieval.preprocessing import NOISELESS_DOSE
from phaseloom.simulation.experiment import (
    PIXELS_PER_STEP,
    Experiment,
    compute_image_shape,
    encode_conditions,
)
from phaseloom.simulation.samples import SampleSet
from phaseloom.simulation.scan import Sample
from phaseloom.simulation.specimens import is_held_out

__all__ = ["LANE_COUNT", "NOISELESS_DOSE", "SampleMaker", "SamplePool", "StoredSamples", "TrainingScan"]
__all__ += ["ViewBatch", "ViewDistribution", "ViewSelection", "cut_views", "draw_counts", "draw_views"]
__all__ += ["make_scan", "select_lane"]

LANE_COUNT = 8  # parts that the scans of a draw are divided into, see `select_lane`
MAX_SCANS_IN_MEMORY = 64  # stored scans whose phases are cached; patterns never are


@dataclass(frozen=True)
class TrainingScan:
    """A simulated scan.

    Attributes:
        roots: square roots of the fractions of the beam ``(rows, columns, y, x)``, in half precision.
        phase: ``(y, x)`` radian.
        experiment: of the simulation.
        group: of its material.
        geometry: place of the truth of a window (`phaseloom.retrieval.ground_truth`); with ``seed``, the
            phase is that of the whole cell.
    """

    roots: Any
    phase: Tensor
    experiment: Experiment
    group: str
    geometry: Geometry = "exact"

    @classmethod
    def of(cls, sample: Sample, /) -> "TrainingScan":
        """A sample without counting noise, or with the fixed noise of its own dose."""
        roots = torch.from_numpy(sample.patterns).clamp(min=0).sqrt().half()
        return make_scan(roots, torch.from_numpy(sample.phase), sample.experiment, sample.group)


def make_scan(
    roots: Any, phase: Tensor, experiment: Experiment, group: str, /, *, geometry: Geometry = "exact"
) -> TrainingScan:
    """A scan from a sample; the phase of a periodic cell is resampled to a fifth of a step.

    Args:
        roots: square roots of the patterns: a tensor, or an object that reads one when it is indexed.
        phase: of the image, or of the whole cell.
        experiment: of the simulation.
        group: of its material.
        geometry: ``seed`` keeps the phase of a cell, from which windows are then cut by the seed's rule.
    """
    if experiment.cell is None:
        return TrainingScan(roots, phase, experiment, group)
    if geometry == "exact":
        phase = resample_to_steps(phase, experiment)
    return TrainingScan(roots, phase, experiment, group, geometry)


class SampleMaker(Protocol):
    """Makes the sample of a number, always the same."""

    def __call__(self, number: int, /) -> Sample:
        """Make it."""
        ...


class SamplePool:
    """Scans by their numbers, simulated when they are needed, or ahead by other processes.

    Attributes:
        make: the sample of a number; must be picklable if there are processes.
        processes: an executor, or ``None``: everything is made in this process.
    """

    def __init__(self, make: SampleMaker, processes: Executor | None = None):
        self.make = make
        self.processes = processes
        self.known: dict[int, TrainingScan] = {}
        self.coming: dict[int, Future[Any]] = {}

    def __getitem__(self, number: int) -> TrainingScan:
        """The scan of a number."""
        if number not in self.known:
            future = self.coming.pop(number, None)
            sample = self.make(number) if future is None else future.result()
            self.known[number] = TrainingScan.of(sample)
        return self.known[number]

    def hold(self, numbers: Iterable[int], /) -> None:
        """Keep these in memory and drop all others."""
        self.known = {number: self.known[number] for number in numbers if number in self.known}

    def expect(self, numbers: Iterable[int], /) -> None:
        """Start making those that are missing, in other processes."""
        if self.processes is None:
            return
        for number in numbers:
            if number not in self.known and number not in self.coming:
                self.coming[number] = self.processes.submit(self.make, number)

    def close(self) -> None:
        """Shut the processes down; samples that are asked for later are made in this one."""
        if self.processes is not None:
            self.processes.shutdown(wait=True, cancel_futures=True)
        self.processes = None
        self.coming = {}


@dataclass(frozen=True)
class StoredPatterns:
    """Square roots of the patterns of a stored sample; only the indexed ones are read."""

    samples: SampleSet
    index: int

    def __getitem__(self, part: Any) -> Tensor:
        """Roots of patterns of some rows and columns of the scan."""
        rows, columns = part if isinstance(part, tuple) else (part, slice(None))
        fractions = self.samples.patterns(self.index, rows, columns)
        return torch.from_numpy(np.sqrt(np.maximum(fractions, 0)))

    def float(self) -> Tensor:
        """All of them."""
        return self[:, :]


class StoredSamples:
    """Scans of a folder by their numbers, with the interface of `SamplePool`; negative ones are held out.

    Attributes:
        samples: the files.
        seen, unseen: indices of the samples for training and of those of held-out materials.
    """

    geometry: Geometry

    def __init__(self, folder: Path, share: float, geometry: Geometry):
        self.samples = SampleSet(folder)
        self.geometry = geometry
        groups = [self.samples.group(index) for index in range(len(self.samples))]
        apart = [is_held_out(group, share) for group in groups]
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
        """The scan of a number, which starts again from the first after the last."""
        side = self.unseen if number < 0 else self.seen
        place = (-1 - number if number < 0 else number) % len(side)
        if number not in self.known:
            if len(self.known) >= MAX_SCANS_IN_MEMORY:
                self.known.clear()
            self.known[number] = self._read(side[place])
        return self.known[number]

    def _read(self, index: int) -> TrainingScan:
        experiment = self.samples.experiment(index)
        phase = torch.from_numpy(self.samples.phase(index))
        group = self.samples.group(index)
        return make_scan(
            StoredPatterns(self.samples, index), phase, experiment, group, geometry=self.geometry
        )

    def hold(self, numbers: Iterable[int], /) -> None:
        """Nothing to do: patterns stay in their files."""

    def expect(self, numbers: Iterable[int], /) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do: files are open only while they are read."""


@dataclass(frozen=True)
class ViewDistribution:
    """What is drawn for every view.

    Attributes:
        window: probes (rows, columns).
        doses: electrons per pattern, lowest and highest of a log-uniform draw.
        clean: share of views without counting noise.
        turned: flips and transposes too; for round probes only.

    Raises:
        BadInput: doses that are not a range, or a window without a step.
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
    """All that is random in some views, before they are cut; arrays ``(n,)``.

    Attributes:
        scenes: numbers of their scans.
        corners: first probe ``(n, 2)`` of each window.
        turns: 0 to 7: 1 flips rows, 2 columns, 4 transposes, in this order.
        doses: electrons per pattern; no noise is drawn from `NOISELESS_DOSE` on.
        seeds: of the counts.
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

    def split(self, size: int, /) -> "tuple[ViewSelection, ...]":
        """The same in pieces."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True)
class ViewBatch:
    """Input of a network, and the true phase.

    Attributes:
        patterns: ``(n, rows, columns, y, x)`` fractions of the beam.
        optics: ``(n, 8)``, see `phaseloom.simulation.experiment.told`.
        coordinates: ``(n, 2)`` of the first probe from that of its scan, angstrom.
        phase: ``(n, y, x)`` radian.
        experiments: one for each view.
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
        count: of the views.
        numbers: of the scans to draw from.
        shape: probes (rows, columns) of the scans.
        choice: distribution of everything else.
        seed: numbers that identify this draw.

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
    scans = [lane[int(share * len(lane))] for lane, share in zip(cycle(lanes), shares, strict=False)]
    return ViewSelection(
        scenes=np.array(scans),
        corners=np.stack([rng.integers(0, room, count) for room in rooms], 1),
        turns=rng.integers(0, 8 if choice.window[0] == choice.window[1] else 4, count) * choice.turned,
        doses=doses,
        seeds=rng.integers(2**62, size=count),
        window=choice.window,
    )


def select_lane(numbers: Sequence[int], place: int, /) -> Sequence[int]:
    """Scans that the view at a place of a draw may be of, so that each of several processes needs only some.

    A few scans are not divided: some would be drawn more often than others.

    Example:
        >>> select_lane(range(200), 3)[:3], select_lane(range(200), 11)[:3], select_lane([5, 6, 7], 0)
        ([3, 11, 19], [3, 11, 19], [5, 6, 7])
    """
    if len(numbers) < LANE_COUNT**2:
        return numbers
    return [number for number in numbers if number % LANE_COUNT == place % LANE_COUNT]


def cut_views(scans: Sequence[TrainingScan], selection: ViewSelection, /) -> ViewBatch:
    """Cut the selected views from scans, turn them and draw their counts; scans are indexed by their numbers.

    Example:
        >>> roots, experiment = torch.ones(6, 5, 4, 4).half() / 4, Experiment(scan=(6, 5))
        >>> scan = TrainingScan(roots, torch.zeros(36, 31), experiment, "")
        >>> few = draw_views(3, [0], (6, 5), ViewDistribution(window=(4, 4)), seed=(0,))
        >>> batch = cut_views([scan], few)
        >>> batch.patterns.shape, batch.phase.shape
        (torch.Size([3, 4, 4, 4, 4]), torch.Size([3, 26, 26]))
    """
    chosen = [scans[number] for number in selection.scenes]
    parts = []
    optics = []
    phases = []
    columns = (selection.corners, selection.turns, selection.doses, selection.seeds)
    for scan, (row, col), turn, dose, seed in zip(chosen, *columns, strict=True):
        patterns, phase = _cut_window(scan, int(row), int(col), selection.window)
        patterns, phase = _turn_view(patterns, phase, int(turn))
        parts.append(draw_counts(patterns, dose, torch.Generator().manual_seed(int(seed))))
        optics.append(encode_conditions(scan.experiment, dose))
        phases.append(phase)
    steps = torch.tensor([scan.experiment.step for scan in chosen], dtype=torch.float32)
    return ViewBatch(
        patterns=torch.stack(parts),
        optics=torch.from_numpy(np.stack(optics)),
        coordinates=torch.as_tensor(selection.corners, dtype=torch.float32) * steps[:, None],
        phase=torch.stack(phases),
        experiments=tuple(scan.experiment for scan in chosen),
    )


def draw_counts(fractions: Tensor, dose: float, generator: torch.Generator, /) -> Tensor:
    """Fractions of the beam with the counting noise of a dose."""
    if dose >= NOISELESS_DOSE:
        return fractions
    return torch.poisson(fractions * dose, generator=generator) / dose


def _cut_window(scan: TrainingScan, row: int, col: int, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Patterns of a window, and the phase under it."""
    roots = scan.roots[row : row + window[0], col : col + window[1]].float()
    if scan.geometry == "seed":
        return roots.square(), crop_as_seed(scan.phase, row, col)
    height, width = compute_image_shape(window)
    top = PIXELS_PER_STEP * row
    left = PIXELS_PER_STEP * col
    return roots.square(), scan.phase[top : top + height, left : left + width]


def _turn_view(patterns: Tensor, phase: Tensor, turn: int) -> tuple[Tensor, Tensor]:
    """Scan, patterns and phase flipped together; zero frequency stays in place."""
    for bit, axis in ((1, 0), (2, 1)):
        if turn & bit:
            patterns = patterns.flip(axis)
            phase = phase.flip(axis)
    if turn & 4:
        patterns = patterns.transpose(0, 1)
        phase = phase.T
    return orient_patterns(patterns, turn), phase
