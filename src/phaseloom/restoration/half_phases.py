"""Phases of a run from each half of its counts, on the pixels of the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import find_shift, remove_ramp, shift_image
from phaseloom.reconstruction.half_data_frc import reconstruct_halves, run_quietly
from phaseloom.reconstruction.protocol import Job
from phaseloom.restoration.half_data_filter import MIN_SIDE
from phaseloom.result import Result

__all__ = ["reconstruct_half_phases"]

MAX_SHIFT = 8
"""Pixels by which the reconstruction of a half may be shifted, at most: its probe is refined by itself."""


def reconstruct_half_phases(
    folder: Path, result: Result, /, *, drive: Callable[[Job], Any] = run_quietly
) -> tuple[np.ndarray, np.ndarray]:
    """Phases ``(y, x)`` without their planes, moved onto that of the run, in its window.

    It costs two more runs of as many epochs.

    Args:
        folder: of the run, with its patterns where they were.
        result: of the run.
        drive: runs the job of a half to its end.

    Raises:
        BadInput: no run there, a field that is too small, patterns that cannot be read or split.
        KeyboardInterrupt: one of the runs was interrupted.
    """
    if not (folder / "run.yaml").is_file() or not (folder / "snapshot.h5").is_file():
        fix = "is not the folder of a finished run: give one that holds run.yaml, snapshot.h5 and result.h5"
        raise BadInput("halves of the counts", str(folder), fix)
    level = remove_ramp(result.phase[result.window])
    if min(level.shape) < MIN_SIDE:
        rows, columns = level.shape
        fix = f"is too small for a spectrum: a field needs {MIN_SIDE} pixels at least along each axis"
        raise BadInput("halves of the counts", f"{rows} x {columns} pixels", fix)
    first, second = reconstruct_halves(Job.load(folder), drive=drive)
    return _lay_on(level, first, result), _lay_on(level, second, result)


def _lay_on(level: np.ndarray, part: Result, result: Result) -> np.ndarray:
    """Phase of a half in the window of the whole, without its plane, moved onto it."""
    offset = (np.array(part.origin) - np.array(result.origin)) / np.array(result.pixel)
    window = tuple(
        slice(side.start - round(n), side.stop - round(n))
        for side, n in zip(result.window, offset.tolist(), strict=True)
    )
    phase = part.phase[window]
    if phase.shape != level.shape:
        raise BadInput("halves of the counts", None, "do not cover the field of the run: reconstruct it anew")
    phase = remove_ramp(phase)
    return shift_image(phase, find_shift(phase, level, max_shift=MAX_SHIFT, rounds=3))
