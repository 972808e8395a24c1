"""Verbs of data files: look at them, write them for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, check_picture_name, load_recipe, parse_settings
from phaseloom.cli.runner import check_new, echo_lines
from phaseloom.errors import BadInput

if TYPE_CHECKING:
    from phaseloom.export.sources import Exportable
    from phaseloom.result import Result

__all__ = ["export", "look"]

_MARK = {"good": "ok  ", "note": "    ", "warn": "WARN", "bad": "BAD "}


@app.command()
def look(
    file: DataFile,
    settings: Set = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="where to write the picture; default: FILE.look.png here, scan.npy.look.png"),
    ] = None,
) -> None:
    """Print what a data file holds (shape, units, overlap, dose, faults, advice) and draw it.

    Of a result print its verdict and draw its report; of a direct image, a prediction or virtual images draw
    these.
    """
    target = check_picture_name(picture or Path(f"{file.name}.look.png"))
    if settings or not _look_at_known(file, target):
        _look_at_scan(file, settings, target)
    typer.echo(f"picture: {target}")


def _look_at_scan(file: Path, settings: list[str] | None, target: Path) -> None:
    """Print findings on a scan and draw it."""
    from phaseloom import plot
    from phaseloom.data.diagnostics import inspect

    scan = load_recipe(file, settings).scan()
    findings = inspect(scan)
    for finding in findings:
        typer.echo(f"{_MARK[finding.level]} {finding.name:22s} {finding.value}")
        if finding.advice and finding.level in ("warn", "bad"):
            typer.echo(f"    {finding.advice}")
    plot.save(plot.scan_overview(scan, findings), target)


def _look_at_known(file: Path, target: Path) -> bool:
    """Draw a result or other images of ours; whether it was one."""
    from phaseloom import plot
    from phaseloom.export import files
    from phaseloom.plot.images import signal_images
    from phaseloom.result import Result

    if not files.is_exportable(file):
        return False
    source = files.load(file)
    if isinstance(source, Result):
        _print_result(source)
        plot.save(plot.report(source), target)
        return True
    typer.echo(source.title)
    for signal in source.signals:
        sides = " x ".join(f"{axis.step:.4g}" for axis in signal.axes)
        typer.echo(
            f"  {signal.name:22s} {' x '.join(map(str, signal.shape)):14s} {signal.unit:7s} pixel {sides} A"
        )
    echo_lines((line for line in source.process.get("notes", "").splitlines() if line), start="  ")
    plot.save(signal_images(source), target)
    return True


def _print_result(result: "Result") -> None:
    """Print the verdict of a result and its advice."""
    from phaseloom.reconstruction import result_builder

    echo_lines(result_builder.summary_lines(result))
    echo_lines(result.advice, start="WARN ")


@app.command()
def export(
    file: Annotated[
        Path,
        typer.Argument(help="result.h5, its run folder, direct.h5, prediction.h5, images.h5, or a scan"),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="file to write; its ending chooses the format: .nxs .cxi .emd .hspy .mrc .tif"),
    ] = None,
    settings: Set = None,
    *,
    to: Annotated[
        str, typer.Option("--to", help="format; `phaseloom describe outputs` lists all; default: by ending")
    ] = "auto",
    of: Annotated[
        str | None, typer.Option(help="which image, for mrc and tiff: phase, amplitude, sigma, ...")
    ] = None,
) -> None:
    """Write a result, a scan or an image for other programs: NeXus, CXI, EMD, HyperSpy, MRC, TIFF, ptychodus.

    Settings (-s) are knobs of the format, or of reading where they begin with read. or prepare.
    """
    from phaseloom.export import files

    if out is None and to == "auto":
        fix = "is missing: name a file, such as phase.mrc, or a format and a folder, --to stacks images"
        raise BadInput("export: OUT", None, fix)
    target = Path() if out is None else out
    changes = parse_settings(settings or [])
    knobs = {name: value for name, value in changes.items() if not _is_of_reading(name)}
    knobs |= {} if of is None else {"of": of}
    name = files.choose_format(target, to)
    if not (target.is_dir() or name in FORMATS_OF_FOLDERS):
        check_new(target)
    source = _load(file, [text for text in settings or [] if _is_of_reading(text.partition("=")[0].strip())])
    echo_lines(files.write(source, target, format=name, knobs=knobs), start="written: ")


FORMATS_OF_FOLDERS = ("figures", "stacks")
"""Formats of several files, which go into a folder."""


def _is_of_reading(name: str) -> bool:
    return name.partition(".")[0] in ("read", "prepare", "file")


def _load(file: Path, settings: list[str]) -> "Exportable":
    """A result, images of another file of ours, or a scan as its recipe reads and prepares it."""
    from phaseloom.export import files
    from phaseloom.reconstruction.compare import find_result

    file = file if file.suffix == ".zarr" else find_result(file)
    if files.is_exportable(file) and not settings:
        return files.load(file)
    return load_recipe(file, settings).scan_with_blanks()
