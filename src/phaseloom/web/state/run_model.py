"""The model of a run as its last snapshot has it: for patterns beside measured ones, and for a verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.plot.scan import detector_step
from phaseloom.reconstruction import result_builder
from phaseloom.reconstruction.protocol import Job
from phaseloom.units import LENGTH

__all__ = ["PatternPair", "RunModel"]


@dataclass(frozen=True, eq=False)
class PatternPair:
    """A measured pattern and the one that the model expects.

    Attributes:
        index: of the pattern.
        measured, modelled: counts ``(y, x)``.
        residual: their difference in standard deviations of the counts; NaN where a pixel is not trusted.
        step: of the detector (y, x), radian, or angstrom where ``is_length``.
        is_length: whether pixels are lengths (a near field).
    """

    index: int
    measured: np.ndarray
    modelled: np.ndarray
    residual: np.ndarray
    step: tuple[float, float]
    is_length: bool


class RunModel:
    """A run that is only looked at: its data are read, its model is built, nothing is written.

    Attributes:
        job: see `phaseloom.reconstruction.protocol.Job`.
        stamp: time of the snapshot, by which a later one is told.
    """

    def __init__(self, folder: Path):
        snapshot = folder / "snapshot.h5"
        if not snapshot.is_file():
            raise BadInput(folder.name, None, "has no snapshot.h5: its model cannot be built again")
        self.stamp = snapshot.stat().st_mtime_ns
        self.job: Any = Job.load(folder)

    def compare_pattern(self, index: int, /) -> PatternPair:
        """A pattern as measured and as modelled."""
        scan = self.job.scan
        measured = np.asarray(scan.counts[np.array([index])][0], float)
        modelled = np.asarray(self.job.model.pattern(index), float)
        residual = (measured - modelled) / np.sqrt(np.maximum(modelled, 0) + 1)
        step, dimension = detector_step(scan.geometry)
        masked = np.where(scan.mask, residual, np.nan)
        return PatternPair(index, measured, modelled, masked, step, dimension is LENGTH)

    def judge(self) -> str:
        """The verdict as it would be now, from losses alone."""
        return str(result_builder.judge_run(self.job))

    def find_nearest(self, place: tuple[float, float], /) -> int:
        """The pattern taken nearest to a place (y, x), angstrom."""
        return int(np.hypot(*(self.job.model.scan.angstrom() - place).T).argmin())
