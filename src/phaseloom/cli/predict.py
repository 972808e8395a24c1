"""Verbs that predict with a trained network."""

from pathlib import Path
from typing import Annotated

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, folder, recipe_of
from phaseloom.errors import BadInput

__all__ = ["verbs"]

verbs = typer.Typer(
    help="Predict a phase with a trained network, in seconds and without iterations.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(verbs, name="predict")


@verbs.callback()
def _room() -> None:
    """Predict a phase with a trained network, in seconds and without iterations."""


@verbs.command()
def scan(
    file: DataFile,
    settings: Set = None,
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help="a network of the package by name, or its file")
    ] = "tiny",
    dose: Annotated[
        float | None,
        typer.Option(help="electrons of the beam in a pattern; default: from the brightest patterns"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default: runs/DATE-NAME")] = None,
) -> None:
    """Predict the phase of a 4D-STEM scan, or say why this network cannot."""
    from phaseloom.retrieval import predict_scans as predict

    recipe = recipe_of(file, settings)
    if out is not None and (out / "prediction.h5").exists():
        raise BadInput("--out", str(out), "holds a prediction already: name a new folder")
    target = folder(out, f"{recipe.title or recipe.file.stem}-predicted")
    typer.echo(f"reading {recipe.there()}")
    outcome = predict.predicted(recipe, model=model, dose=dose)
    rows, columns = outcome.prediction.phase.shape
    typer.echo(f"phase: {rows} x {columns} pixels of {outcome.prediction.pixel[0]:.4g} A, by {model}")
    for note in outcome.prediction.notes:
        typer.echo(f"  - {note}")
    if outcome.misfit is not None:
        typer.echo(str(outcome.misfit))
    for warning in outcome.warnings:
        typer.echo(f"WARN {warning}")
    for path in predict.write(outcome, target):
        typer.echo(f"written: {path}")


@verbs.command()
def scans(
    files: Annotated[list[Path], typer.Argument(help="scans, or their parameter files")],
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="folder; a folder for each scan in it")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="a network of the package by name, or its file")
    ] = "tiny",
    dose: Annotated[float | None, typer.Option(help="electrons of the beam in a pattern")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: every processor")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="address of a Dask scheduler whose workers see files and folder, too")
    ] = None,
) -> None:
    """Predict many scans, the same settings for all; what is there already is left alone."""
    from phaseloom.fitting.distributed import team
    from phaseloom.retrieval import predict_scans as predict_many

    team().alone("predict scans")
    recipes = [recipe_of(file, settings) for file in files]
    left = predict_many.missing(recipes, out, model=model, dose=dose)
    if len(left) < len(recipes):
        typer.echo(f"{len(recipes) - len(left)} of {len(recipes)} predictions are there already")
    lost = 0
    given = {"model": model, "dose": dose, "workers": workers, "scheduler": scheduler}
    for file, said in predict_many.predictions(recipes, out, **given):
        done = not said or said.startswith("WARN")
        lost += not done
        typer.echo(f"{file.name}: {f'done {said}'.strip() if done else said.removeprefix(f'{file.name}: ')}")
    if lost:
        raise BadInput("predict scans", f"{lost} of {len(left)} scans", "could not be predicted: see above")
