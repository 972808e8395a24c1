"""How much of a picture would come out again: two reconstructions from half of the counts each."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from phaseloom.data import prepare
from phaseloom.data.counts import load_counts
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.resolution import RingCorrelation, register, ring_correlation
from phaseloom.ptycho.model import is_in_tiles
from phaseloom.reconstruction.compare import crop_to_common_field
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.spec import Call

__all__ = ["Halves", "check_splittable", "halves", "reconstruct_halves", "run_quietly"]


@dataclass(frozen=True, eq=False)
class Halves:
    """Two results from half of the counts each, and their ring correlation.

    Attributes:
        results: of the halves.
        correlation: with frequencies in 1 / angstrom.
    """

    results: tuple[Result, Result]
    correlation: RingCorrelation


def run_quietly(job: Job, /) -> None:
    """Run a job to its end, in silence."""
    deque(job, maxlen=0)


def halves(one: Job | Reconstruct, /, *, drive: Callable[[Job], Any] = run_quietly) -> Halves:
    """Split the counts in two, reconstruct each half by the same settled recipe, and correlate.

    It costs two more runs of as many epochs. The shot noise of both is independent, with half of the
    dose each (`phaseloom.data.prepare.thin`). Where the curve is high, structure comes out again
    whatever the noise; its fall below the threshold is the resolution that the dose allows. What both
    halves share is not seen: a wrong defocus, a periodic artefact of the raster, a model that lacks
    something. Counts must be single quanta: of a detector that gives 100 for each electron, the halves
    share the electrons' noise, and agree too well.

    Args:
        one: a job, before or after its run, or a recipe, whose start is then settled on all of the counts.
        drive: runs a job to its end; default: in silence.

    Raises:
        BadInput: counts that are not whole numbers, or too small a field.
        KeyboardInterrupt: one of the runs was interrupted.
    """
    first, second = reconstruct_halves(one, drive=drive)
    images = register(*crop_to_common_field(first, second), max_shift=8)
    return Halves((first, second), ring_correlation(*images, pixel=first.pixel))


def reconstruct_halves(
    one: Job | Reconstruct, /, *, drive: Callable[[Job], Any] = run_quietly
) -> tuple[Result, Result]:
    """The results of `halves` without their correlation; arguments and errors as there."""
    job = one if isinstance(one, Job) else Job.begin(one)
    if is_in_tiles(job.model):
        raise BadInput("halves", "tiles", "are not correlated yet: resume the run with one process")
    check_splittable(job.finest.scan)
    return _reconstruct_half(job, 0, drive), _reconstruct_half(job, 1, drive)


def check_splittable(scan: Scan4D, /) -> None:
    """Split some patterns, to refuse before a run what could not be split after it.

    Raises:
        BadInput: counts that are not whole numbers from zero up.
    """
    some = scan.select(np.unique(np.linspace(0, len(scan) - 1, 16).astype(int)))
    load_counts(prepare.thin(some, which=0).counts)


def _reconstruct_half(job: Job, which: Literal[0, 1], drive: Callable[[Job], Any]) -> Result:
    """The result of one half, without a folder; its recipe says what was split."""
    thin = Call(prepare.__name__, "thin", {"which": which, "seed": job.recipe.seed})
    recipe = job.recorded.model_copy(update={"prepare": (*job.recorded.prepare, thin), "outputs": ()})
    half = Job(recipe, thin(job.finest.scan), None, None)
    half.wants_evidence = False  # nobody reads its verdict
    drive(half)
    if half.progress.stop.is_interrupted:
        raise KeyboardInterrupt
    return half.result()
