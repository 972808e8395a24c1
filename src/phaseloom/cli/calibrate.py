"""The verb that finds how a scan lies and what its optics were."""

from pathlib import Path
from typing import Annotated

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, recipe_of
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
    """Find orientation, rotation, defocus, step, angle of a pixel and slices; write a parameter file."""
    from phaseloom import plot
    from phaseloom.calibration.figures import landscape
    from phaseloom.files import whole
    from phaseloom.fitting.distributed import team
    from phaseloom.reconstruction import protocol
    from phaseloom.spec import to_yaml

    picture = _free(out)
    recipe = recipe_of(file, settings)
    typer.echo(f"reading {recipe.there()} and estimating its calibration")
    done = protocol.calibrate(recipe, recipe.scan())
    if not team().is_main:
        return
    for line in done.lines():
        typer.echo(line)
    tree = {name: value for name, value in done.recipe.given().items() if name != "preset"}
    with whole(out) as short:
        short.write_text(to_yaml({**tree, "file": str(recipe.file.resolve())}), encoding="utf-8")
    plot.save(landscape(done.tried.get("estimate_orientation", [])), picture)
    typer.echo(f"written: {out}\nwritten: {picture}\nrun it with: phaseloom reconstruct {out}")


def _free(out: Path) -> Path:
    """The name of the picture beside a parameter file, if neither is there."""
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput("--out", out.name, "is no .yaml: give it this ending")
    for path in (out, picture := out.with_suffix(".png")):
        if path.exists():
            raise BadInput("--out", str(path), "exists already: name a new file")
    return picture
