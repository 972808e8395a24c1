"""The verb that examines the installation; it needs no package but the one that reads the command line."""

from pathlib import Path
from typing import Annotated

import typer

from phaseloom.cli.command import app


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="folder that runs will be written to")] = Path("runs"),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="mend what loses nothing: damaged caches, missing folders of caches")
    ] = False,
) -> None:
    """Examine the installation: versions, devices, threads, extras, compiled kernels, the folder of runs.

    Each problem is a sentence with its fix. Exit code 1 if something would stop a run.
    """
    from phaseloom.doctor import diagnose, mend

    found = diagnose(folder)
    if fix:
        for line in mend(found):
            typer.echo(line, err=as_json)
        found = diagnose(folder)
    typer.echo(found.to_json() if as_json else "\n".join(found.lines()))
    if not found.can_run:
        raise typer.Exit(1)
