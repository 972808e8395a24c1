"""The command that calibrates a scan."""

from pathlib import Path
from typing import Annotated

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, load_recipe
from phaseloom.errors import BadInput

__all__ = ["calibrate"]


@app.command()
def calibrate(
    file: DataFile,
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="parameter file to write, with a picture beside it")] = Path(
        "calibrated.yaml"
    ),
) -> None:
    """Calibrate orientation, rotation, defocus, step, pixel angle and slices; write a parameter file."""
    from phaseloom import plot
    from phaseloom.calibration.figures import landscape
    from phaseloom.files import whole
    from phaseloom.fitting.distributed import team
    from phaseloom.reconstruction import protocol
    from phaseloom.reconstruction.recipe import Reconstruct

    picture = _free(out)
    recipe = load_recipe(file, settings)
    typer.echo(f"reading {recipe.require_file()} and estimating its calibration")
    done = protocol.calibrate(recipe, recipe.scan())
    if not team().is_main:
        return
    for line in done.lines():
        typer.echo(line)
    tree = {name: value for name, value in done.recipe.to_tree().items() if name != "preset"}
    calibrated = Reconstruct.of({**tree, "file": str(recipe.file.resolve())})
    with whole(out) as short:
        short.write_text(calibrated.to_text(defaults=False), encoding="utf-8")
    plot.save(landscape(done.tried.get("estimate_orientation", [])), picture)
    typer.echo(f"written: {out}\nwritten: {picture}\nrun it with: phaseloom reconstruct {out}")


def _free(out: Path) -> Path:
    """Path of the picture beside a parameter file; refuse to overwrite either."""
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput("--out", out.name, "is not a .yaml file: give it this ending")
    for path in (out, picture := out.with_suffix(".png")):
        if path.exists():
            raise BadInput("--out", str(path), "exists already: name a new file")
    return picture
