"""Verbs of data files: look at them, fetch them, write them for other programs."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import (
    DataFile,
    Set,
    check_picture_name,
    is_parameter_file,
    load_recipe,
    lock_output,
    parse_settings,
)
from phaseloom.cli.runner import check_new, echo_lines
from phaseloom.errors import BadInput

if TYPE_CHECKING:
    from phaseloom.data.download import RemoteFile
    from phaseloom.data.folder_survey import FileFacts
    from phaseloom.data.formats.header import MissingValues
    from phaseloom.data.scan import Scan4D
    from phaseloom.export.sources import Exportable
    from phaseloom.result import Result
    from phaseloom.runs.scan_recipe import ScanRecipe

__all__ = ["export", "get", "look"]

_MARK = {"good": "ok  ", "note": "    ", "warn": "WARN", "bad": "BAD "}

MAX_NOTE_WIDTH = 100


@app.command()
def look(
    file: DataFile,
    settings: Set = None,
    *,
    picture: Annotated[
        Path | None,
        typer.Option(help="where to write the picture; default: FILE.look.png here, scan.npy.look.png"),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="of a folder: a page with thumbnails, in one file")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="of a folder: a picture of thumbnails")
    ] = None,
    write_sidecar: Annotated[
        bool,
        typer.Option(
            "--write-sidecar", help="write FILE.phaseloom.yaml: what is known, and what is missing to fill in"
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a side-car that exists")] = False,
) -> None:
    """Print what a data file holds (shape, units, overlap, dose, faults, advice) and draw it.

    Of a result print its verdict and draw its report; of a direct image, a prediction or virtual images draw
    these. Of a folder list every file that can be opened, and why others cannot.
    """
    from phaseloom.data import formats
    from phaseloom.data.formats.header import MissingValues

    if _is_folder(file):
        if settings or write_sidecar:
            given = " ".join([*(settings or []), *(["--write-sidecar"] if write_sidecar else [])])
            raise BadInput("look", given, "does not go with a folder: look at one of its files")
        _look_at_folder(file, html, figure or picture)
        return
    if html or figure:
        raise BadInput("look", str(html or figure), "is of a folder: leave --html and --figure out")
    target = check_picture_name(picture or Path(f"{file.name}.look.png"))
    if not settings and _look_at_known(file, target):
        typer.echo(f"picture: {target}")
        return
    recipe = _load_scan_recipe(file, settings)
    data = file if recipe is None else recipe.require_file()
    try:
        # without blank patterns left out, as all are read to find those
        scan = formats.read(file) if recipe is None else recipe.scan_with_blanks()
    except MissingValues as problem:
        echo_lines([problem.holds] if problem.holds else [], start=f"{data.name} holds ")
        if not write_sidecar:
            raise
        _write_sidecar(data, problem, overwrite)
        typer.echo(f"fill in: {', '.join(problem.missing)}")
        return
    _look_at_scan(scan, target)
    typer.echo(f"picture: {target}")
    if write_sidecar:
        _write_sidecar(data, scan, overwrite)


def _load_scan_recipe(file: Path, settings: list[str] | None) -> "ScanRecipe | None":
    """How a scan is read; the recipe of a reconstruction, with PyTorch, only where settings are of one."""
    if is_parameter_file(file):
        return load_recipe(file, settings)
    if not settings:
        return None
    from phaseloom.runs.scan_recipe import ScanRecipe

    changes = parse_settings(settings)
    if {path.split(".")[0] for path in changes} <= set(ScanRecipe.model_fields):
        return ScanRecipe.from_path(file, changes)
    return load_recipe(file, settings)


def _is_folder(file: Path) -> bool:
    """Whether it is a folder, and not a Zarr store."""
    if not file.is_dir():
        return False
    from phaseloom.data.folder_survey import is_store

    return not is_store(file)


def _write_sidecar(file: Path, content: "MissingValues | Scan4D", overwrite: bool) -> None:
    """Write the side-car of a data file, and say so."""
    from phaseloom.data.formats import guess, sidecar
    from phaseloom.data.formats.setup import Setup

    if guess(file) in ("native", "simulated"):
        # its setup is that of the file that it was made from
        fix = "is a scan of Phaseloom, which states everything itself: it needs no side-car"
        raise BadInput("--write-sidecar", file.name, fix)
    target = sidecar.write(file, content, Setup.__annotations__, overwrite=overwrite)
    typer.echo(f"side-car: {target}")


def _look_at_scan(scan: "Scan4D", target: Path) -> None:
    """Print what the file says and what is found in the patterns, and draw them."""
    from phaseloom import plot
    from phaseloom.data.diagnostics import describe_scans, inspect

    for name, text in scan.metadata.items():
        if name not in ("original header", "remarks"):
            typer.echo(f"{_MARK['note']} {name:22s} {'; '.join(text.strip().splitlines())}")
    for name, text in describe_scans(scan).items():
        typer.echo(f"{_MARK['note']} {name:22s} {text}")
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


def _look_at_folder(folder: Path, html: Path | None, figure: Path | None) -> None:
    """Print a line for each file, and write the page and the picture."""
    from tqdm import tqdm

    from phaseloom import plot
    from phaseloom.data.folder_survey import MAX_DEPTH, MAX_FILES, survey_folder
    from phaseloom.files import write_text
    from phaseloom.plot.folder_page import draw_folder, write_folder_page

    if figure is not None:
        check_picture_name(figure)
    found = survey_folder(folder, thumbnails=bool(html or figure))
    files = list(tqdm(found, unit="file", disable=None, leave=False, file=sys.stderr))
    if not files:
        raise BadInput("look", str(folder), f"holds no data, also {MAX_DEPTH} folders below: name another")
    _print_table(files, folder)
    opened = sum(one.is_open for one in files)
    typer.echo(f"{opened} of {len(files)} files can be opened as they are")
    if len(files) == MAX_FILES:
        typer.echo(f"only the first {MAX_FILES} files are listed: look at the folders below one by one")
    if html is not None:
        write_text(html, write_folder_page(files, folder))
        typer.echo(f"page: {html}")
    if figure is not None:
        plot.save(draw_folder(files, folder), figure)
        typer.echo(f"picture: {figure}")


def _print_table(files: list["FileFacts"], folder: Path) -> None:
    """Columns as wide as their widest text; notes are cut."""
    from phaseloom.plot.folder_page import COLUMNS, format_row

    rows = [COLUMNS, *(format_row(one, folder) for one in files)]
    rows = [(*row[:-1], row[-1][:MAX_NOTE_WIDTH]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def export(
    file: Annotated[
        Path,
        typer.Argument(help="result.h5, its run folder, direct.h5, prediction.h5, images.h5, or a scan"),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="file to write; its ending chooses the format: .nxs .h5 .cxi .emd .hspy .mrc .tif"
        ),
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
    if target.is_dir() or name in FORMATS_OF_FOLDERS:
        lock_output(target)
    else:
        check_new(target)
    source = _load(file, [text for text in settings or [] if _is_of_reading(text.partition("=")[0].strip())])
    echo_lines(files.write(source, target, format=name, knobs=knobs), start="written: ")


@app.command()
def projections(
    table: Annotated[
        Path,
        typer.Argument(help="text file with a line 'ANGLE, RUN' for each projection: degrees, run folder"),
    ],
    out: Annotated[Path, typer.Argument(help="NXtomo file to write, .nxs or .h5")],
    *,
    air: Annotated[
        str | None, typer.Option(help="width of empty field at the left and right edges, e.g. '200 nm'")
    ] = None,
) -> None:
    """Write phases of several results for tomography: unwrapped, without ramps, on one field, with angles."""
    from phaseloom.export.projections import gather_projections, write_projections
    from phaseloom.reconstruction.compare import find_result
    from phaseloom.result import load
    from phaseloom.units import LENGTH

    if out.suffix not in (".nxs", ".h5"):
        raise BadInput("OUT", out.name, "is not a NeXus file: give it the ending .nxs or .h5")
    check_new(out)
    rows = _read_angles(table)
    results = [load(find_result(run)) for _, run in rows]
    width = 0.0 if air is None else LENGTH.parse(air, "--air")
    found = gather_projections(results, [angle for angle, _ in rows], air=width)
    write_projections(found, out, title=table.stem)
    count, height, columns = found.phase.shape
    typer.echo(f"written: {out} ({count} projections of {height} x {columns} pixels)")
    for (angle, run), share in zip(rows, found.jumps, strict=True):
        if share > MAX_SHARE_OF_JUMPS:
            typer.echo(f"WARN {run} at {angle:g} degrees: the phase could not be unwrapped everywhere")


MAX_SHARE_OF_JUMPS = 1e-3
"""Of neighbouring pixels, from which a phase is not unwrapped everywhere."""


def _read_angles(table: Path) -> list[tuple[float, Path]]:
    """Angles and runs of the lines of a file; runs are relative to it."""
    if not table.is_file():
        raise BadInput(str(table), None, "does not exist: write lines 'ANGLE, RUN' into it")
    rows = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        angle, comma, run = (part.strip() for part in text.partition(","))
        try:
            rows.append((float(angle), table.parent / run))
        except ValueError:
            comma = ""
        if not comma or not run:
            fix = "is not 'ANGLE, RUN', such as '12.5, runs/scan7'"
            raise BadInput(f"{table.name}: line {number}", text, fix)
    if not rows:
        raise BadInput(table.name, None, "holds no line 'ANGLE, RUN'")
    return rows


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


@app.command()
def get(
    name: Annotated[str | None, typer.Argument(help="of the list that `phaseloom get` prints")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="folder; default: NAME")] = None,
    only: Annotated[str | None, typer.Option(help="only files of such names, e.g. '*.mib'")] = None,
    files: Annotated[bool, typer.Option("--files", help="list the files of the scan, fetch nothing")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> None:
    """Fetch a public scan by its name; without a name list them. A download that was cut off is continued."""
    from phaseloom.data import public_scans
    from phaseloom.units import format_bytes

    if name is None:
        if out or only or files:
            raise BadInput("get", None, "needs the name of a scan: phaseloom get lists them")
        _print_scans()
        return
    scan = public_scans.find_scan(name)
    chosen = public_scans.choose_files(public_scans.list_files(scan), only)
    licence = scan.licence or "not known here: see its page"
    typer.echo(f"{name}: {scan.about}\nhttps://doi.org/{scan.doi}, licence {licence}")
    for file in chosen if files else []:
        size = "size not known" if file.size is None else format_bytes(file.size)
        typer.echo(f"  {file.name}  {size}  {file.checksum or 'checksum not known'}")
    if files:
        return
    folder = lock_output(out or Path(name))
    for file in chosen:
        if (folder / file.name).exists() and len(chosen) > 1:
            typer.echo(f"is there already: {folder / file.name}")
            continue
        path, check = _download_with_bar(file, folder, quiet=quiet)
        typer.echo(f"fetched: {path} ({check})")
    typer.echo(f"look at it with: phaseloom look {shlex.quote(str(folder))}")


def _download_with_bar(file: "RemoteFile", folder: Path, *, quiet: bool) -> tuple[Path, str]:
    """Fetch a file behind a bar of its bytes; the file, and how it was verified."""
    from tqdm import tqdm

    from phaseloom.data.download import download

    look = {"unit": "B", "unit_scale": True, "desc": file.name, "file": sys.stderr}
    with tqdm(total=file.size, disable=True if quiet else None, **look) as bar:

        def report(have: int, total: int | None) -> None:
            bar.total = total
            bar.update(have - bar.n)

        return download(file, folder, report=report)


def _print_scans() -> None:
    """The list, a scan in two lines."""
    from phaseloom.data.public_scans import PUBLIC_SCANS
    from phaseloom.units import format_bytes

    width = max(len(name) for name in PUBLIC_SCANS)
    for name, scan in PUBLIC_SCANS.items():
        size = "not known" if scan.size is None else format_bytes(scan.size)
        licence = scan.licence or "not known"
        typer.echo(f"{name:{width}s}  size {size:9s}  licence {licence:9s}  https://doi.org/{scan.doi}")
        typer.echo(f"{'':{width}s}  {scan.about}")
    typer.echo("fetch one with: phaseloom get NAME")
