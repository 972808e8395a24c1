"""Filter the phase of a reconstruction by what two reconstructions from half of its counts agree on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.reconstruction.half_data_frc import run_quietly
from phaseloom.reconstruction.protocol import Job
from phaseloom.restoration.apply_result import RestoredPhase, compare_with_patterns
from phaseloom.restoration.half_data_filter import SPREAD, FilterName, check_filter, filter_by_halves
from phaseloom.restoration.half_phases import reconstruct_half_phases
from phaseloom.result import load

__all__ = ["FILTER_STAMP", "filter_phase"]

FILTER_STAMP = "filtered by the agreement of two halves of the counts"
"""Mark of every filtered phase: nothing was learned from other images."""


def filter_phase(
    path: Path,
    /,
    *,
    method: FilterName | str = "wiener",
    spread: float = SPREAD,
    drive: Callable[[Job], Any] = run_quietly,
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
    measured = result.phase[result.window]
    halves = reconstruct_half_phases(path, result, drive=drive)
    filtered = filter_by_halves(measured, *halves, method=method, spread=spread)
    change = np.zeros(result.object.shape[-2:])
    change[result.window] = filtered - measured
    misfits, notes = compare_with_patterns(result, change, path)
    return RestoredPhase(measured, filtered, None, result.pixel, misfits, notes, FILTER_STAMP)
