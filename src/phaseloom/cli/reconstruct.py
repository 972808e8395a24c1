"""Verbs of reconstructions, and verbs that look."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, drawable, foreign, place, recipe_of
from phaseloom.errors import BadInput

__all__ = ["run"]

_MARK = {"good": "ok  ", "note": "    ", "warn": "WARN", "bad": "BAD "}


@app.command()
def look(
    file: DataFile,
    settings: Set = None,
    picture: Annotated[
        Path | None, typer.Option(help="where to write the picture; default: FILE.png here")
    ] = None,
) -> None:
    """Say what is in a data file: shape, units, overlap, dose, faults, advice; and draw it.

    Of a result, say how far it may be trusted, and draw its report.
    """
    from phaseloom import plot
    from phaseloom.data.diagnostics import inspect

    target = drawable(picture or Path(f"{file.stem}.look.png"))
    if not settings and file.suffix in (".h5", ".hdf5") and _told_of_result(file, target):
        return
    scan = recipe_of(file, settings).scan()
    findings = inspect(scan)
    for finding in findings:
        typer.echo(f"{_MARK[finding.level]} {finding.name:22s} {finding.value}")
        if finding.advice and finding.level in ("warn", "bad"):
            typer.echo(f"    {finding.advice}")
    plot.save(plot.scan_overview(scan, findings), target)
    typer.echo(f"picture: {target}")


@app.command()
def check(file: DataFile, settings: Set = None) -> None:
    """Read a parameter file and its data, and say what a run would need, without running it."""
    from phaseloom.reconstruction.check import outlook

    seen = outlook(recipe_of(file, settings))
    for name, value in seen.lines.items():
        typer.echo(f"{name:28s} {value}")
    for line in seen.warnings:
        typer.echo(f"WARN {line}")


@app.command()
def reconstruct(
    file: DataFile,
    settings: Set = None,
    *,
    out: Annotated[Path | None, typer.Option(help="run folder; default: runs/DATE-NAME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="FILE is a run folder: go on with it")] = False,
    halves: Annotated[
        bool, typer.Option("--halves", help="then two more runs, on half of the counts each: the resolution")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> None:
    """Reconstruct a phase image from a data file, a parameter file, or again from a result."""
    from phaseloom.reconstruction.half_data_frc import splittable
    from phaseloom.reconstruction.protocol import Job

    if resume:
        if settings or out:
            fix = f"does not go with --resume: start anew from {file}/run.yaml"
            raise BadInput("reconstruct", " ".join(settings or [str(out)]), fix)
        job = Job.resume(file)
    else:
        recipe = recipe_of(file, settings)
        typer.echo(
            f"reading {recipe.there()}" + ("" if recipe.start.name == "none" else " and finding the start")
        )
        folder = place(out, recipe.title or recipe.file.stem)
        job = Job.begin(recipe, folder, check=splittable if halves else None)
    run(job, quiet=quiet, halves=halves)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="a parameter file of PtyRAD: .yaml, .toml or .json")],
    out: Annotated[Path, typer.Option(help="where to write ours")] = Path("run.yaml"),
) -> None:
    """Write the parameter file of another program as one of ours, and say what cannot be honoured.

    Of a file with hypertune_params a search file is written too, beside the other.
    """
    from phaseloom.compat import ptyrad
    from phaseloom.files import whole
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.spec import to_yaml

    tree = foreign(file)
    if tree is None:
        raise BadInput(str(file), None, "is not a PtyRAD parameter file")
    beside = out.with_name(f"{out.stem}-search.yaml")
    theirs, searches = ptyrad.load(file), None
    if (theirs.get("hypertune_params") or {}).get("if_hypertune"):
        tree, searches, notes = ptyrad.translate_search(theirs, file.parent)
        for note in notes:
            typer.echo(f"  - {note}")
    for path in (out, beside) if searches else (out,):
        if path.exists():
            raise BadInput("--out", str(path), "exists already: name another file")
    with whole(out) as short:
        short.write_text(to_yaml(Reconstruct.of(tree).given()), encoding="utf-8")
    typer.echo(f"written: {out}\nrun it with: phaseloom reconstruct {out}")
    if searches:
        with whole(beside) as short:
            short.write_text(to_yaml(searches), encoding="utf-8")
        typer.echo(f"written: {beside}\nsearch with: phaseloom search {out} {beside}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="a result.h5")],
    second: Annotated[Path, typer.Argument(help="another result.h5 of the same object")],
    picture: Annotated[Path, typer.Option(help="where to write the picture")] = Path("compare.png"),
) -> None:
    """Compare two results: resolution by ring correlation, phase difference, settings that differ."""
    from phaseloom.reconstruction.compare import compare as compared

    for line in compared(first, second, drawable(picture)):
        typer.echo(line)


@app.command()
def describe(
    section: Annotated[str | None, typer.Argument(help="a section of the parameter file, e.g. probe")] = None,
    name: Annotated[str | None, typer.Argument(help="a choice in it, e.g. focused")] = None,
    *,
    of: Annotated[str, typer.Option(help="whose file: reconstruct, train, autoencoder, ...")] = "reconstruct",
) -> None:
    """List the settings of the parameter file, the choices of one, or the knobs of a choice."""
    from phaseloom.cli.describe import describe as described

    typer.echo(described(section, name, of=of))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for what is made")] = Path("runs/demo"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> None:
    """Reconstruct a real X-ray scan that comes with the package, and a simulated electron scan."""
    from phaseloom.cli import demo as protocol

    for title, job in protocol.jobs(out):
        typer.echo(f"\n{title}")
        result = run(job, quiet=quiet)
        for line in protocol.verdict(job, result):
            typer.echo(line)


def run(job: Any, *, quiet: bool, halves: bool = False) -> Any:
    """Drive a job to its end with a progress bar, and leave result and report in its folder."""
    from phaseloom.fitting.distributed import team
    from phaseloom.reconstruction import result_builder as outcome

    for line in [*_doubts(job), *_start_lines(job)]:
        typer.echo(line)
    said = _drive(job, quiet=quiet)
    result = _save(job, job.ended or job.result())
    if halves and team().broadcast(bool(result.history) and not job.progress.stop.is_interrupted):
        result = _save(job, _halved(job, result, quiet=quiet))
    if not team().is_main:
        team().barrier()
        return result
    for line in outcome.summary_lines(result):
        typer.echo(line)
    for path in outcome.write_outputs(job, result):
        typer.echo(f"written: {path}")
    typer.echo(f"stopped: {result.stopped}")
    _print_new_advice(result.advice, said, typer.echo)
    typer.echo(f"result:  {job.directory / 'result.h5'}\nreport:  {job.directory / 'report.png'}")
    team().barrier()
    if job.progress.stop.is_without_epochs:
        raise typer.Exit(1)
    if job.progress.stop.is_interrupted:
        typer.echo(f"go on with: phaseloom reconstruct --resume {job.directory}")
        raise typer.Abort
    return result


def _save(job: Any, result: Any) -> Any:
    """Write a result with its figures into the folder of its run, in one of the processes."""
    from phaseloom.fitting.distributed import team

    if team().is_main:
        job.save(result)
    return result


def _halved(job: Any, result: Any, *, quiet: bool) -> Any:
    """The result with the ring correlation of halves, or as it was if that came to nothing."""
    from dataclasses import replace

    from phaseloom.reconstruction.half_data_frc import halves

    typer.echo("halves: two more runs, on half of the counts each")
    try:
        return replace(result, halves=halves(job, drive=lambda half: _drive(half, quiet=quiet)).correlation)
    except KeyboardInterrupt:
        typer.echo("halves: interrupted, so the result is without them")
    except BadInput as problem:
        typer.echo(f"halves: {problem}")
    return result


def _told_of_result(file: Path, target: Path) -> bool:
    """Print the verdict of a result and draw its report; False when the file is not a result."""
    from phaseloom import plot
    from phaseloom.reconstruction import result_builder as outcome
    from phaseloom.result import Result, is_result

    if not is_result(file):
        return False
    result = Result.load(file)
    for line in [*outcome.summary_lines(result), *(f"WARN {sentence}" for sentence in result.advice)]:
        typer.echo(line)
    plot.save(plot.report(result), target)
    typer.echo(f"picture: {target}")
    return True


def _drive(job: Any, *, quiet: bool) -> set[str]:
    """All epochs behind a progress bar, of one process; what was advised on the way."""
    from tqdm import tqdm

    from phaseloom.fitting.distributed import team
    from phaseloom.fitting.outcome import Stop

    quiet = quiet or not team().is_main
    said: set[str] = set()
    done, total = job.progress.epoch, job.recipe.epochs
    with tqdm(
        total=total, initial=done, disable=True if quiet else None, unit="epoch", file=sys.stderr
    ) as bar:
        try:
            for epoch in job:
                held = "" if epoch.holdout is None else f", hold-out {epoch.holdout:.3f}"
                bar.set_postfix_str(f"loss {epoch.loss:.3f}{held}")
                bar.update()
                if epoch.number % 10 == 0 and epoch.number < total:
                    said = _print_new_advice(job.advice(), said, bar.write)
        except KeyboardInterrupt:
            job.progress.stop = Stop.after_interruption(job.progress.epoch)
    return said


def _doubts(job: Any) -> list[str]:
    """What `check` would warn of, before any time is spent."""
    from phaseloom.reconstruction import preflight as foresight

    return [f"WARN {line}" for line in foresight.warn_before_run(job, started=job.start is not None)]


def _print_new_advice(advice: list[Any], known: set[str], say: Any) -> set[str]:
    """Print advice whose code was not printed before, and return the codes printed so far."""
    for one in advice:
        if one.code not in known:
            say(f"WARN {one}")
            known.add(one.code)
    return known


def _start_lines(job: Any) -> list[str]:
    found, worth = job.start, job.recipe.found.get("start")
    if rungs := job.recipe.found.get("calibrate"):
        return [f"{name:12s} {told}" for name, told in rungs.items()]
    if worth is not None:
        return [_worth(**worth)]
    if found is None:
        return []
    from phaseloom.units import LENGTH

    side = "behind" if found.defocus > 0 else "before"
    place = (
        "at the focus" if found.defocus == 0 else f"focus {LENGTH.show(abs(found.defocus))} {side} the object"
    )
    sure = "clear" if found.margin > 1.2 else "close: neighbouring candidates do as well"
    sure = f"another does better by {100 * (1 - found.margin):.0f} %" if found.margin < 1 else sure
    lines = [f"start: {place}, detector {found.orientation}; {sure} (margin {found.margin:.2f})"]
    if not job.scan.oriented and job.recipe.probe.name != "focused":
        lines.append(
            "  the file does not say how the detector lies: the sign of the phase is a guess (see docs)"
        )
    if found.orientation != "as given":
        lines.append(
            f"  the patterns had to be {found.orientation} against the positions: check the file's axes"
        )
    return lines


def _worth(*, predicted: float, conjugate: float, empty: float) -> str:
    """What became of a predicted object."""
    losses = f"(loss {predicted:.4g}, without {empty:.4g})"
    if conjugate < min(predicted, empty):
        fix = "its conjugate explains the patterns better: is the detector turned by 180 degrees?"
        return f"WARN start: predicted object left out, {fix} {losses}"
    if predicted < empty:
        return f"start: predicted object taken as the start {losses}"
    return f"WARN start: predicted object left out: it explains the patterns no better than none {losses}"
