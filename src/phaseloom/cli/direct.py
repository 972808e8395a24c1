"""The command that makes a direct image."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, parse_settings
from phaseloom.cli.runner import check_new, echo_lines
from phaseloom.errors import BadInput

__all__ = ["direct"]


@app.command()
def direct(
    file: DataFile,
    settings: Set = None,
    *,
    semiangle: Annotated[
        str | None,
        typer.Option(help="of the aperture, e.g. '21 mrad'; default: that of the disk of the mean pattern"),
    ] = None,
    defocus: Annotated[
        str | None,
        typer.Option(help="about, e.g. '10 nm', positive: under-focus; its sign decides that of the phase"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="wiener or least_squares (radian); obf, matched_filter, ssb (not radian)"),
    ] = None,
    out: Annotated[Path, typer.Option(help="file to write, .h5, with a picture beside it")] = Path(
        "direct.h5"
    ),
) -> None:
    """Make a phase image in seconds, without iteration; find orientation, rotation, step and aberrations."""
    from phaseloom import plot
    from phaseloom.direct import recipe as protocol
    from phaseloom.direct.figures import plot_direct_image

    if out.suffix not in (".h5", ".hdf5"):
        raise BadInput("--out", out.name, "is not an .h5 file: give it this ending")
    picture = out.with_suffix(".png")
    check_new(out, picture)
    given: dict[str, Any] = {"semiangle": semiangle, "method": method}
    given["aberrations"] = None if defocus is None else {"defocus": defocus}
    changed = parse_settings(settings or []) | {name: v for name, v in given.items() if v is not None}
    recipe = protocol.Direct.from_path(file, changed)
    typer.echo(f"reading {recipe.require_file()}")
    result = protocol.reconstruct_recipe(recipe, recipe.scan_with_blanks())
    echo_lines(result.found.lines(), "  ")
    typer.echo(f"written: {result.write(out)}")
    plot.save(plot_direct_image(result), picture)
    typer.echo(f"written: {picture}")
