"""Filter the phase of a reconstruction by what two reconstructions from half of its counts agree on."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import find_shift, remove_ramp, shift_image
from phaseloom.reconstruction.half_data_frc import reconstruct_halves
from phaseloom.reconstruction.protocol import Job
from phaseloom.restoration.apply_result import RestoredPhase, compare_with_patterns
from phaseloom.restoration.half_data_filter import (
    MIN_SIDE,
    SPREAD,
    FilterName,
    check_filter,
    filter_by_halves,
)
from phaseloom.result import Result, load

__all__ = ["FILTER_STAMP", "filter_phase"]

FILTER_STAMP = "filtered by the agreement of two halves of the counts"
"""Mark of every filtered phase: nothing was learned from other images."""

MAX_SHIFT = 8
"""Pixels by which the reconstruction of a half may be shifted, at most: its probe is refined by itself."""


def filter_phase(
    path: Path,
    /,
    *,
    method: FilterName | str = "wiener",
    spread: float = SPREAD,
    drive: Callable[[Job], Any] = lambda job: deque(job, maxlen=0),
) -> RestoredPhase:
    """Filter the phase of a run; it costs two more runs of as many epochs.

    Args:
        path: folder of the run, with its patterns where they were.
        method: name of the filter, see `phaseloom.restoration.half_data_filter`.
        spread: of ``wiener``, see there.
        drive: runs the job of a half to its end; default: in silence.

    Raises:
        BadInput: no run there, patterns that cannot be read or split, or a filter as of `check_filter`.
        KeyboardInterrupt: one of the runs was interrupted.
    """
    check_filter(method, spread)
    if not (path / "result.h5").is_file():
        fix = "is not the folder of a finished run: give one that holds run.yaml, snapshot.h5 and result.h5"
        raise BadInput("restore filter", str(path), fix)
    result = load(path / "result.h5")
    window = result.window
    measured = result.phase[window]
    if min(measured.shape) < MIN_SIDE:
        rows, columns = measured.shape
        fix = f"is too small for a spectrum: a field needs {MIN_SIDE} pixels at least along each axis"
        raise BadInput("restore filter", f"{rows} x {columns} pixels", fix)
    parts = reconstruct_halves(Job.load(path), drive=drive)
    level = remove_ramp(measured)
    first, second = (_lay_on(level, part, result) for part in parts)
    filtered = filter_by_halves(measured, first, second, method=method, spread=spread)
    change = np.zeros(result.object.shape[-2:])
    change[window] = filtered - measured
    misfits, notes = compare_with_patterns(result, change, path)
    return RestoredPhase(measured, filtered, None, result.pixel, misfits, notes, FILTER_STAMP)


def _lay_on(level: np.ndarray, part: Result, result: Result) -> np.ndarray:
    """Phase of a half in the window of the whole, without its plane, moved onto it."""
    pixel = np.array(result.pixel)
    offset = np.round((np.array(part.origin) - np.array(result.origin)) / pixel).astype(int)
    window = tuple(
        slice(side.start - int(n), side.stop - int(n)) for side, n in zip(result.window, offset, strict=True)
    )
    phase = part.phase[window]
    if phase.shape != level.shape:
        fix = "do not cover the field of the run: reconstruct it anew"
        raise BadInput("restore filter", "halves", fix)
    phase = remove_ramp(phase)
    return shift_image(phase, find_shift(phase, level, max_shift=MAX_SHIFT, rounds=3))
