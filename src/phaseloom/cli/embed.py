"""The verb that says each pattern by a few numbers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, settings_of
from phaseloom.errors import BadInput

__all__ = ["embed"]

STRANGE = 3.0
"""Median misfit above which a network does not know the patterns."""

NAMED = 8
"""Unusual patterns that are named in print; the file holds all."""


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
    """Embed every pattern of a scan by an autoencoder: latents, misfits, counts and places in a file.

    The scan is read and prepared as in its parameter file; the settings of a training hold for its own scan.
    """
    from phaseloom.embedding import embed as protocol
    from phaseloom.runs.scan_recipe import ScanRecipe

    if protocol.writable(out).exists():
        raise BadInput("--out", str(out), "exists already: name a new file")
    recipe = ScanRecipe.from_path(file, settings_of(settings or []))
    typer.echo(f"reading {recipe.there()}")
    found = protocol.embed(recipe, model)
    count, latents = found.latents.shape
    typer.echo(f"latents: {latents} of {count} patterns")
    usual = sorted(found.misfit)[count // 2]
    typer.echo(f"misfit:  median {usual:.3g} (1: nothing but shot noise is left)")
    if usual > STRANGE:
        typer.echo("WARN: this is not what the network learned from, or it is spoiled: see phaseloom look")
    typer.echo(f"written: {found.write(out)}")
    _unusual(found, recipe, out)


def _unusual(found: Any, recipe: Any, out: Path) -> None:
    """Name the patterns that stand out, and say how to leave them out."""
    import yaml

    from phaseloom.embedding.embeddings import THRESHOLD

    numbers = found.unusual()
    said = f"unusual: {len(numbers)} patterns, more than {THRESHOLD:g} robust spreads from their neighbours"
    typer.echo(said)
    usual = sorted(found.totals)[len(found) // 2]
    for number in numbers[:NAMED]:
        share = 100 * found.totals[number] / usual
        typer.echo(
            f"  pattern {number}: misfit {found.misfit[number]:.3g}, counts {share:.0f} % of the median"
        )
    if beside := found.together(numbers):
        typer.echo(
            f"  {beside} of them lie side by side: a region of the specimen, perhaps; look at its map first"
        )
    if len(numbers) > NAMED:
        typer.echo(f"  and {len(numbers) - NAMED} more: 'unusual' in {out}")
    if len(numbers):
        steps = [*recipe.given().get("prepare", []), {"without": {"path": str(out.resolve())}}]
        line = yaml.safe_dump({"prepare": steps}, default_flow_style=True, width=10**6).strip()
        typer.echo(f"to leave them out, write in the parameter file:\n{line[1:-1]}")
