"""The verb that says each pattern by a few numbers."""

from pathlib import Path
from typing import Annotated

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, settings_of
from phaseloom.errors import BadInput

__all__ = ["embed"]


@app.command()
def embed(
    file: DataFile,
    settings: Set = None,
    *,
    model: Annotated[
        Path, typer.Option("--model", "-m", help="an autoencoder's file, or the folder of its run")
    ],
    out: Annotated[Path, typer.Option(help="file to write, .h5 or .npz")] = Path("embeddings.h5"),
) -> None:
    """Embed every pattern of a scan by an autoencoder: latents, misfits and places in a file.

    The scan is read and prepared as in its parameter file; the settings of a training hold for its own scan.
    """
    from phaseloom.recipes import embed as protocol
    from phaseloom.recipes.scanned import Scanned

    if protocol.writable(out).exists():
        raise BadInput("--out", str(out), "exists already: name a new file")
    recipe = Scanned.from_path(file, settings_of(settings or []))
    typer.echo(f"reading {recipe.there()}")
    found = protocol.embed(recipe, model)
    count, latents = found.latents.shape
    worst = [int(number) for number in found.misfit.argsort()[::-1][:5]]
    typer.echo(f"latents: {latents} of {count} patterns")
    typer.echo(f"misfit:  median {sorted(found.misfit)[count // 2]:.3g}; largest in patterns {worst}")
    typer.echo(f"written: {found.write(out)}")
