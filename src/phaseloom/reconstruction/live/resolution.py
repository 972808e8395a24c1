"""The resolution that the patterns so far allow, by two reconstructions of half of their counts each."""

from phaseloom.reconstruction.half_data_frc import halves
from phaseloom.reconstruction.live.dose import DoseJudgement, DoseVerdict
from phaseloom.reconstruction.protocol import Job

__all__ = ["is_check_due", "judge_resolution"]

EPOCHS_OF_HALF = 10
"""Epochs of the reconstruction of a half; 2 of the 20 of a run change little any more."""

MIN_PATTERNS = 200
"""Patterns from which a resolution is measured."""

GROWTH_BETWEEN_CHECKS = 1.5
"""Patterns at a check over those at the one before: all checks cost no more than three of the last."""


def is_check_due(job: Job, /) -> bool:
    """Whether enough patterns have come since the last judgement of the resolution, or all of them have."""
    growth = job.growth
    if growth is None or growth.count < MIN_PATTERNS:
        return False
    last = growth.checked
    complete = growth.count == growth.growing.announcement.count
    return growth.count > last and (complete or growth.count >= GROWTH_BETWEEN_CHECKS * last)


def judge_resolution(job: Job, target: float, /) -> DoseJudgement:
    """Reconstruct two halves of the counts of the patterns so far, and compare them by rings (half-bit).

    It takes as long as twice `EPOCHS_OF_HALF` epochs on all patterns; those that come meanwhile wait.
    See `phaseloom.reconstruction.half_data_frc` for what the comparison does not see.

    Args:
        job: under way, while its scan grows.
        target: full period to be reached, angstrom.

    Raises:
        BadInput: counts that are not whole numbers, or too small a field.
        KeyboardInterrupt: interrupted.
    """
    if job.growth is not None:
        job.growth.checked = job.growth.count
    update = {
        "epochs": EPOCHS_OF_HALF,
        "outputs": (),
        "steered": (),
        "changes": (),
        "batch": job.recipe.batch,
    }
    recipe = job.recorded.model_copy(update=update)
    found = halves(Job(recipe, job.scan, None, None)).correlation.resolution()
    verdict = DoseVerdict.RESOLVED if found <= target else DoseVerdict.NOT_RESOLVED
    return DoseJudgement(verdict, len(job.scan), resolution=found, target=target)
