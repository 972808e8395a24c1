"""The command that makes virtual detector images of a scan."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, load_own_recipe, parse_settings, warn_of_bad_pixels
from phaseloom.cli.runner import check_new, echo_lines
from phaseloom.errors import BadInput

if TYPE_CHECKING:
    from phaseloom.virtual.recipe import VirtualImages

__all__ = ["direct", "read_numbers", "require_new_file", "virtual"]


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
        typer.Option(
            help="wiener, least_squares (radian); obf, matched_filter, ssb, parallax, dpc, wdd (not radian)"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="file to write, .h5, with a picture beside it")] = Path(
        "direct.h5"
    ),
) -> None:
    """Make a phase image in seconds, without iteration; find orientation, rotation, step and aberrations."""
    from phaseloom import plot
    from phaseloom.direct import recipe as protocol
    from phaseloom.direct.figures import plot_direct_image

    picture = require_new_file(out)
    given: dict[str, Any] = {"semiangle": semiangle, "method": method}
    given["aberrations"] = None if defocus is None else {"defocus": defocus}
    changed = parse_settings(settings or []) | {name: v for name, v in given.items() if v is not None}
    recipe = load_own_recipe(protocol.Direct, file, changed)
    typer.echo(f"reading {recipe.require_file()}")
    result = protocol.reconstruct_recipe(recipe, recipe.scan_with_blanks())
    echo_lines(result.found.lines(), "  ")
    typer.echo(f"written: {result.write(out)}")
    plot.save(plot_direct_image(result), picture)
    typer.echo(f"written: {picture}")


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
        int | None, typer.Option(help="number of segments of the bright field, as of a DPC detector")
    ] = None,
    out: Annotated[Path, typer.Option(help="file to write, .h5, with a picture beside it")] = Path(
        "images.h5"
    ),
) -> None:
    """Make virtual detector images: bright and dark fields, deflections, integrated phase, radial profile."""
    from phaseloom import plot
    from phaseloom.virtual import recipe as protocol
    from phaseloom.virtual.figures import plot_virtual_images

    picture = require_new_file(out)
    given: dict[str, Any] = {"semiangle": semiangle, "segments": segments}
    given["centre"] = None if centre is None else read_numbers("--centre", centre, 2)
    given["annuli"] = [read_numbers("--annulus", text, 2) for text in annulus] if annulus else None
    changed = parse_settings(settings or []) | {name: v for name, v in given.items() if v is not None}
    recipe = load_own_recipe(protocol.Virtual, file, changed)
    typer.echo(f"reading {recipe.require_file()}")
    scan = recipe.scan_with_blanks()
    found = protocol.make_virtual_images(recipe, scan)
    typer.echo(f"semi-angle: {1e3 * found.beam.semiangle:.4g} mrad")
    echo_lines((*found.notes, *warn_of_bad_pixels(scan)), "  - ")
    echo_lines(_list_arrays(found))
    typer.echo(f"written: {found.write(out)}")
    plot.save(plot_virtual_images(scan, found.survey), picture)
    typer.echo(f"written: {picture}")


def require_new_file(out: Path) -> Path:
    """The picture that goes beside an HDF5 file, if neither exists yet."""
    if out.suffix not in (".h5", ".hdf5"):
        raise BadInput("--out", out.name, "is not an .h5 file: give it this ending")
    picture = out.with_suffix(".png")
    check_new(out, picture)
    return picture


def read_numbers(place: str, text: str, count: int) -> list[float]:
    """Some numbers with commas between them."""
    try:
        found = [float(number) for number in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count:
        word, example = {2: ("two", "1.5,2.5"), 4: ("four", "0,10,0,20")}[count]
        raise BadInput(place, text, f"is not {word} numbers with commas between them, e.g. {example}")
    return found


def _list_arrays(found: "VirtualImages") -> Iterator[str]:
    """A line for each array in the file."""
    yield f"{'data set':<22}{'shape':<16}{'units':<18}{'mean':>10}  angles (mrad)"
    for name, (values, attributes) in found.tables().items():
        ring = ""
        if "inner" in attributes:
            ring = f"{1e3 * attributes['inner']:.4g} to {1e3 * attributes['outer']:.4g}"
        known = values[values == values]  # noqa: PLR0124 - without NaN
        mean = f"{known.mean():.4g}" if known.size and name != "positions" else ""
        shape = " x ".join(map(str, values.shape))
        yield f"{name:<22}{shape:<16}{attributes['units']:<18}{mean:>10}  {ring}".rstrip()
