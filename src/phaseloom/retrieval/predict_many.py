"""Predictions of many scans, spread over processes or a cluster; what is there already is left alone."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.learning.weight_files import fingerprint
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval import predict
from phaseloom.runs.parallel_map import map_unordered, one_thread, worker_pool
from phaseloom.spec import to_yaml

__all__ = ["missing", "predictions"]

ASKED = "asked.json"
"""What a prediction is of and how it was made, written last: a folder without it is not finished."""


def missing(
    recipes: Sequence[Reconstruct], folder: Path, /, *, model: str, dose: float | None = None
) -> list[Reconstruct]:
    """Those whose prediction is not in the folder yet, or not whole.

    Args:
        recipes: of the scans.
        folder: see `predictions`, as the rest.
        model: a network's file, or the name of one of the package.
        dose: electrons in a pattern.

    Raises:
        BadInput: two scans of one name, whose predictions would share a folder; a folder that holds the
            prediction of another scan, of data that have changed since, or by another model or settings.
    """
    return _missing(recipes, folder, {"model": fingerprint(model), "dose": dose})


def _missing(recipes: Sequence[Reconstruct], folder: Path, by: dict[str, Any]) -> list[Reconstruct]:
    """The same, of a network that is known by its hash."""
    names: dict[str, Path] = {}
    for recipe in recipes:
        if other := names.get(recipe.file.stem):
            fix = "would share a folder: name each scan once, and give scans of one name an --out each"
            raise BadInput("predict scans", f"{other} and {recipe.file}", fix)
        names[recipe.file.stem] = recipe.file
    return [one for one in recipes if not _there(folder / one.file.stem, {**_of(one), **by})]


def _there(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether the prediction of a scan is there and whole.

    Raises:
        BadInput: it is another one.
    """
    if not ((folder / ASKED).is_file() and (folder / "prediction.h5").is_file()):
        return False
    told = json.loads((folder / ASKED).read_text(encoding="utf-8"))
    differ = [name for name, value in asked.items() if told.get(name) != value]
    if differ:
        fix = f"is there already with another {', '.join(differ)}: name another --out, or remove that folder"
        raise BadInput("predict scans", str(folder), fix)
    return True


def _of(recipe: Reconstruct) -> dict[str, Any]:
    """What a prediction is of."""
    file = recipe.file.resolve()
    settings = {name: value for name, value in recipe.given().items() if name not in ("file", "title")}
    data = file.stat() if file.exists() else None
    return {
        "file": str(file),
        "data": None if data is None or file.is_dir() else [data.st_size, data.st_mtime_ns],
        "settings": to_yaml(settings),
    }


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
    by = {"model": fingerprint(model), "dose": dose}
    left = _missing(recipes, folder, by)
    work = partial(_predicted, folder=folder.resolve(), model=model, by=by)
    trees = [recipe.model_copy(update={"file": recipe.file.resolve()}) for recipe in left]
    with (
        worker_pool(workers, scheduler) as (team, ahead),
        closing(map_unordered(work, trees, team, ahead)) as done,
    ):
        for recipe, said in done:
            yield recipe.file, said


def _predicted(recipe: Reconstruct, *, folder: Path, model: str, by: dict[str, Any]) -> str:
    """Predict and write; a sentence when it cannot be."""
    try:
        with one_thread():
            outcome = predict.predicted(recipe, model=model, dose=by["dose"])
    except BadInput as problem:
        return str(problem)
    predict.write(outcome, folder / recipe.file.stem)
    with whole(folder / recipe.file.stem / ASKED) as short:
        short.write_text(json.dumps({**_of(recipe), **by}, indent=1), encoding="utf-8")
    return "; ".join(f"WARN {warning}" for warning in outcome.warnings)
