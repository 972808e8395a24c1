"""Predictions of many scans, spread over processes or a cluster; what is there already is left alone."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from phaseloom.errors import BadInput
from phaseloom.recipes import predict
from phaseloom.recipes._spread import crew, one_thread, spread
from phaseloom.recipes.reconstruct import Reconstruct

__all__ = ["missing", "predictions"]


def missing(recipes: Sequence[Reconstruct], folder: Path, /) -> list[Reconstruct]:
    """Those whose prediction is not in the folder yet.

    Raises:
        BadInput: two scans of one name, whose predictions would share a folder.
    """
    names: dict[str, Path] = {}
    for recipe in recipes:
        if other := names.get(recipe.file.stem):
            fix = "would share a folder: name each scan once, and scans of one name in calls of their own"
            raise BadInput("predict scans", f"{other} and {recipe.file}", fix)
        names[recipe.file.stem] = recipe.file
    return [one for one in recipes if not (folder / one.file.stem / "prediction.h5").is_file()]


def predictions(
    recipes: Sequence[Reconstruct],
    folder: Path,
    /,
    *,
    model: str,
    dose: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> Iterator[tuple[Path, str]]:
    """Predict the scans whose prediction is missing; yields each file with a sentence where it could not be.

    Predictions are written whole or not at all, so a run may be stopped and called again.

    Args:
        recipes: of the scans.
        folder: a folder for each scan in it, by the name of its file.
        model: a network's file, or the name of one of the package.
        dose: electrons in a pattern; default: from the patterns.
        workers: processes; none takes every processor.
        scheduler: address of a Dask scheduler, whose workers see files and folder by the same names.

    Raises:
        BadInput: as of `missing`, or a scheduler that does not answer.
    """
    left = missing(recipes, folder)
    work = partial(_predicted, folder=folder.resolve(), model=model, dose=dose)
    trees = [recipe.model_copy(update={"file": recipe.file.resolve()}) for recipe in left]
    with crew(workers, scheduler) as (team, ahead), closing(spread(work, trees, team, ahead)) as done:
        for recipe, said in done:
            yield recipe.file, said


def _predicted(recipe: Reconstruct, *, folder: Path, model: str, dose: float | None) -> str:
    """Predict and write; a sentence when it cannot be."""
    try:
        with one_thread():
            outcome = predict.predicted(recipe, model=model, dose=dose)
    except BadInput as problem:
        return str(problem)
    predict.write(outcome, folder / recipe.file.stem)
    return "; ".join(f"WARN {warning}" for warning in outcome.warnings)
