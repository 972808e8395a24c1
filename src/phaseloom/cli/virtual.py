"""The verb that sees a scan through virtual detectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, settings_of, warn_of_bad_pixels
from phaseloom.errors import BadInput

if TYPE_CHECKING:
    from phaseloom.virtual.recipe import Images

__all__ = ["virtual"]


@app.command()
def virtual(
    file: DataFile,
    settings: Set = None,
    *,
    semiangle: Annotated[
        str | None,
        typer.Option(help="of the beam, e.g. '21 mrad'; default: that of the disk of the mean pattern"),
    ] = None,
    centre: Annotated[
        str | None, typer.Option(help="pixel ROW,COLUMN of the beam; default: that of the disk")
    ] = None,
    annulus: Annotated[
        list[str] | None,
        typer.Option(help="a further ring FROM,TO in semi-angles, e.g. 1.5,2.5; may be repeated"),
    ] = None,
    segments: Annotated[
        int | None, typer.Option(help="cut the bright field into so many, as a DPC detector")
    ] = None,
    out: Annotated[Path, typer.Option(help="file to write, .h5, with a picture beside it")] = Path(
        "images.h5"
    ),
) -> None:
    """Show a scan as a STEM does: bright and dark fields, deflections, integrated phase, radial profile."""
    from phaseloom import plot
    from phaseloom.virtual import recipe as protocol
    from phaseloom.virtual.figures import virtual_images

    picture = _free(out)
    given: dict[str, Any] = {"semiangle": semiangle, "segments": segments}
    given["centre"] = None if centre is None else _pair("--centre", centre)
    given["annuli"] = [_pair("--annulus", text) for text in annulus] if annulus else None
    told = settings_of(settings or []) | {name: value for name, value in given.items() if value is not None}
    recipe = protocol.Virtual.from_path(file, told)
    typer.echo(f"reading {recipe.there()}")
    scan = recipe.all()
    found = protocol.virtual(recipe, scan)
    typer.echo(f"semi-angle: {1e3 * found.beam.semiangle:.4g} mrad")
    for note in (*found.notes, *warn_of_bad_pixels(scan)):
        typer.echo(f"  - {note}")
    _list(found)
    typer.echo(f"written: {found.write(out)}")
    plot.save(virtual_images(scan, found.survey), picture)
    typer.echo(f"written: {picture}")


def _free(out: Path) -> Path:
    """The name of the picture beside a file, if neither is there."""
    if out.suffix not in (".h5", ".hdf5"):
        raise BadInput("--out", out.name, "is no .h5: give it this ending")
    for path in (out, picture := out.with_suffix(".png")):
        if path.exists():
            raise BadInput("--out", str(path), "exists already: name a new file")
    return picture


def _pair(place: str, text: str) -> list[float]:
    """Two numbers with a comma between them."""
    try:
        first, second = (float(number) for number in text.split(","))
    except ValueError:
        raise BadInput(place, text, "is not two numbers with a comma between them, e.g. 1.5,2.5") from None
    return [first, second]


def _list(found: "Images") -> None:
    """A line for each array that is written."""
    typer.echo(f"{'data set':<22}{'shape':<16}{'units':<18}{'mean':>10}  angles (mrad)")
    for name, (values, told) in found.tables().items():
        ring = f"{1e3 * told['inner']:.4g} to {1e3 * told['outer']:.4g}" if "inner" in told else ""
        known = values[values == values]  # noqa: PLR0124 - without NaN
        mean = f"{known.mean():.4g}" if known.size and name != "positions" else ""
        shape = " x ".join(map(str, values.shape))
        typer.echo(f"{name:<22}{shape:<16}{told['units']:<18}{mean:>10}  {ring}".rstrip())
