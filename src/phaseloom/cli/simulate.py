"""The command that simulates scans."""

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, parse_settings
from phaseloom.cli.runner import echo_lines, offer_resume, run_steps
from phaseloom.errors import BadInput

__all__ = ["simulate"]


@app.command()
def simulate(  # noqa: PLR0913 - a verb has as many options
    file: Annotated[
        Path | None,
        typer.Argument(help="parameter file: specimen, microscope, count, seed; default: all defaults"),
    ] = None,
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="folder of the samples; existing samples are kept")],
    count: Annotated[int | None, typer.Option(help="number of samples")] = None,
    first: Annotated[int | None, typer.Option(help="number of the first sample")] = None,
    seed: Annotated[int | None, typer.Option(help="random seed")] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="ours: a file per sample; seed: simulation_data1.h5, ... of 700 samples each"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: every processor")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="address of a Dask scheduler whose workers share the folder")
    ] = None,
    start_id: Annotated[int | None, typer.Option("--start_id", hidden=True)] = None,
    end_id: Annotated[int | None, typer.Option("--end_id", hidden=True)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> None:
    """Simulate scans of crystals with their true phases, for training and evaluation.

    The same command continues an interrupted run; several machines may share a folder.
    """
    from phaseloom.simulation import recipe as protocol

    first, count = _read_range(first, count, start_id, end_id)
    given = {"first": first, "count": count, "seed": seed, "layout": layout}
    changed = {name: value for name, value in given.items() if value is not None}
    recipe = protocol.Simulate.from_path(file, parse_settings(settings or []) | changed)
    missing = len(protocol.list_missing(recipe, out))
    begin = time.monotonic()
    if missing < recipe.count:
        typer.echo(f"{recipe.count - missing} of {recipe.count} samples are there already")
    samples = protocol.simulate(recipe, out, workers=workers, scheduler=scheduler)
    done, _ = run_steps(samples, total=missing, unit="sample", quiet=quiet)
    echo_lines(_summarise(out, done, time.monotonic() - begin))
    if done < missing:
        typer.echo("interrupted")
        offer_resume(_format_command(out, recipe, workers, scheduler))


def _read_range(
    first: int | None, count: int | None, start: int | None, end: int | None
) -> tuple[int | None, int | None]:
    """First number and count; ``--start_id`` and ``--end_id`` (included) are another way to give them."""
    if start is None and end is None:
        return first, count
    if start is None or end is None or end < start:
        raise BadInput("--start_id", start, f"needs an --end_id from there on, not {end}")
    if first is not None or count is not None:
        raise BadInput("--start_id", start, "is another form of --first and --count: leave these out")
    return start, end - start + 1


def _summarise(folder: Path, done: int, seconds: float) -> list[str]:
    from phaseloom.simulation.samples import SampleSet

    try:
        found = SampleSet(folder)
    except BadInput:  # stopped before the first one
        return []
    size = sum(path.stat().st_size for path in folder.rglob("[!.]*.h5"))
    rows, columns = found.experiment(0).scan
    return [
        f"samples:  {len(found)} in {folder}, {done} of them now",
        f"patterns: {len(found) * rows * columns}",
        f"size:     {size / 1e6:.4g} MB, {size / 1e6 / len(found):.3g} MB a sample",
        f"seconds:  {seconds:.1f}" + (f", {seconds / done:.2g} a sample" if done else ""),
    ]


def _format_command(out: Path, recipe: Any, workers: int | None, scheduler: str | None) -> str:
    """The command that resumes."""
    others = [f"--workers {workers}" if workers else "", f"--scheduler {scheduler}" if scheduler else ""]
    words = ["phaseloom", "simulate", str(out / "run.yaml"), "--out", str(out)]
    line = f"{shlex.join(words)} --first {recipe.first} --count {recipe.count}"
    return " ".join([line, *(text for text in others if text)])
