"""The verb that prints what a run should cite."""

from pathlib import Path
from typing import Annotated

import typer

from phaseloom.cli.command import app


@app.command()
def cite(
    run: Annotated[
        Path, typer.Argument(help="a run folder, a result.h5, a direct image or a parameter file")
    ],
    *,
    text: Annotated[bool, typer.Option("--text", help="a list of references; default: BibTeX")] = False,
) -> None:
    """Print what a run should cite: Phaseloom, and the methods that the run used."""
    from phaseloom import citations

    found = citations.cite(run)
    if text:
        typer.echo("\n".join(one.to_text() for one in found))
    else:
        typer.echo("\n\n".join(one.to_bibtex() for one in found))
