"""Commands that predict with a trained network."""

from pathlib import Path
from typing import Annotated

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, load_recipe, lock_output, new_folder
from phaseloom.cli.runner import echo_lines
from phaseloom.errors import BadInput

__all__ = ["verbs"]

verbs = typer.Typer(
    help="Predict a phase with a trained network, in seconds and without iterations.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(verbs, name="predict")

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="a network of the package by name, its file, or 'fitted': fitted to the probe of the scan",
    ),
]


@verbs.callback()
def _room() -> None:
    """Predict a phase with a trained network, in seconds and without iterations."""


@verbs.command()
def scan(
    file: DataFile,
    settings: Set = None,
    *,
    model: Model = "unrolled",
    dose: Annotated[
        float | None,
        typer.Option(help="electrons per pattern; default: from the brightest patterns"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default: runs/DATE-NAME")] = None,
) -> None:
    """Predict the phase of a 4D-STEM scan, or report why the network does not fit it."""
    from phaseloom.retrieval import predict_scans as predict

    recipe = load_recipe(file, settings)
    target = new_folder(out, f"{recipe.title or recipe.file.stem}-predicted")
    if (target / "prediction.h5").exists():
        raise BadInput("--out", str(out), "holds a prediction already: name a new folder")
    typer.echo(f"reading {recipe.require_file()}")
    outcome = predict.predict_scan(recipe, model=model, dose=dose, said=typer.echo)
    rows, columns = outcome.prediction.phase.shape
    typer.echo(f"phase: {rows} x {columns} pixels of {outcome.prediction.pixel[0]:.4g} A, by {model}")
    echo_lines(outcome.prediction.notes, "  - ")
    if outcome.misfit is not None:
        typer.echo(str(outcome.misfit))
    echo_lines(outcome.warnings, "WARN ")
    echo_lines(predict.write_prediction(outcome, target), "written: ")


@verbs.command()
def scans(
    files: Annotated[list[Path], typer.Argument(help="scans, or their parameter files")],
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="folder for the results, with a subfolder for each scan")],
    model: Model = "unrolled",
    dose: Annotated[float | None, typer.Option(help="electrons per pattern")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: every processor")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="address of a Dask scheduler whose workers share files and folder")
    ] = None,
) -> None:
    """Predict many scans with the same settings; predictions that exist already are kept."""
    from phaseloom.fitting.distributed import team
    from phaseloom.retrieval import predict_scans as predict_many

    team().require_single_process("predict scans")
    recipes = [load_recipe(file, settings) for file in files]
    missing = predict_many.find_missing(recipes, lock_output(out), model=model, dose=dose)
    if len(missing) < len(recipes):
        typer.echo(f"{len(recipes) - len(missing)} of {len(recipes)} predictions are there already")
        for name in (one.file.name for one in recipes if one not in missing):
            kept = predict_many.read_warnings(out / Path(name).stem / "prediction.h5")
            typer.echo(f"{name}: kept {predict_many.describe_warnings(kept)}".strip())
    failed = 0
    given = {"model": model, "dose": dose, "workers": workers, "scheduler": scheduler}
    for file, message in predict_many.predict_missing(recipes, out, **given):
        done = not isinstance(message, predict_many.FailedPrediction)
        failed += not done
        line = f"done {message}".strip() if done else message.removeprefix(f"{file.name}: ")
        typer.echo(f"{file.name}: {line}")
    if failed:
        fix = "could not be predicted: see above"
        raise BadInput("predict scans", f"{failed} of {len(missing)} scans", fix)
