"""The command that encodes each pattern into a few latents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, parse_settings
from phaseloom.cli.runner import check_new, echo_lines

__all__ = ["embed"]

MAX_MEDIAN_MISFIT = 3.0
"""Median misfit above which a warning says that the network does not fit these patterns."""

MAX_PRINTED_PATTERNS = 8
"""Unusual patterns that are printed; the file holds all."""


@app.command()
def embed(
    file: DataFile,
    settings: Set = None,
    *,
    model: Annotated[Path, typer.Option("--model", "-m", help="file or run folder of an autoencoder")],
    out: Annotated[Path, typer.Option(help="file to write, .h5 or .npz")] = Path("embeddings.h5"),
) -> None:
    """Encode every pattern of a scan by an autoencoder: latents, misfits, counts and positions in a file.

    The scan is read and prepared as in its parameter file; settings of the training do not apply to it.
    """
    from phaseloom.embedding import embeddings as protocol
    from phaseloom.runs.scan_recipe import ScanRecipe

    check_new(protocol.require_writable(out))
    recipe = ScanRecipe.from_path(file, parse_settings(settings or []))
    typer.echo(f"reading {recipe.require_file()}")
    found = protocol.embed(recipe, model)
    count, latents = found.latents.shape
    typer.echo(f"latents: {latents} of {count} patterns")
    median = sorted(found.misfit)[count // 2]
    typer.echo(f"misfit:  median {median:.3g} (1: nothing but shot noise is left)")
    if median > MAX_MEDIAN_MISFIT:
        typer.echo("WARN: the network was not trained on such patterns, or they are faulty: phaseloom look")
    typer.echo(f"written: {found.write(out)}")
    echo_lines(_describe_unusual(found, recipe, out))


def _describe_unusual(found: Any, recipe: Any, out: Path) -> Iterator[str]:
    """The unusual patterns, and the setting that leaves them out."""
    import yaml

    from phaseloom.embedding.embeddings import OUTLIER_THRESHOLD

    numbers = found.unusual()
    far = f"more than {OUTLIER_THRESHOLD:g} robust spreads from their neighbours"
    yield f"unusual: {len(numbers)} patterns, {far}"
    median = sorted(found.totals)[len(found) // 2]
    for number in numbers[:MAX_PRINTED_PATTERNS]:
        share = f"{100 * found.totals[number] / median:.0f} % of the median"
        yield f"  pattern {number}: misfit {found.misfit[number]:.3g}, counts {share}"
    if beside := found.together(numbers):
        fix = "a region of the specimen, perhaps; look at its map first"
        yield f"  {beside} of them lie side by side: {fix}"
    if len(numbers) > MAX_PRINTED_PATTERNS:
        yield f"  and {len(numbers) - MAX_PRINTED_PATTERNS} more: 'unusual' in {out}"
    if len(numbers):
        steps = [*recipe.to_tree().get("prepare", []), {"without": {"path": str(out.resolve())}}]
        line = yaml.safe_dump({"prepare": steps}, default_flow_style=True, width=10**6).strip()
        yield f"to leave them out, write in the parameter file:\n{line[1:-1]}"
