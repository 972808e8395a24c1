"""Verbs of reconstructions."""

import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import (
    PARAMETER_FILES,
    DataFile,
    Set,
    check_picture_name,
    load_recipe,
    load_recipe_with_folder,
    lock_output,
    lock_resumed,
    new_run_folder,
    parameter_tree,
    parse_settings,
    translated_tree,
)
from phaseloom.cli.runner import (
    echo_lines,
    offer_final_steps,
    offer_resume,
    print_progress,
    run_epochs,
)
from phaseloom.errors import BadInput, WriteFailed

__all__ = ["run"]

EPOCHS_BETWEEN_ADVICE = 10


@app.command()
def check(file: DataFile, settings: Set = None) -> None:
    """Read a parameter file and its data, and print the memory and time of a run, without running it."""
    from phaseloom.reconstruction.check import estimate_run

    needs = estimate_run(load_recipe(file, settings))
    for name, value in needs.lines.items():
        typer.echo(f"{name:28s} {value}")
    echo_lines(needs.warnings, start="WARN ")


@app.command()
def reconstruct(
    file: DataFile,
    settings: Set = None,
    *,
    out: Annotated[Path | None, typer.Option(help="run folder; default: runs/DATE-NAME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="FILE is a run folder: continue it")] = False,
    halves: Annotated[
        bool,
        typer.Option("--halves", help="also reconstruct two halves of the counts, to measure the resolution"),
    ] = False,
    draws: Annotated[
        int,
        typer.Option(
            min=0, help="continue the fit on so many draws of counts from its model, to measure the error bar"
        ),
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no bar or lines of progress")] = False,
) -> None:
    """Reconstruct a phase image from a data file, a parameter file, or again from a result."""
    from phaseloom.reconstruction.half_data_frc import check_splittable
    from phaseloom.reconstruction.protocol import Job

    if resume:
        if settings or out:
            fix = f"does not go with --resume: start anew from {file}/run.yaml"
            raise BadInput("reconstruct", " ".join(settings or [str(out)]), fix)
        job = Job.resume(lock_resumed(file))
    else:
        recipe, runs = load_recipe_with_folder(file, settings)
        typer.echo(
            f"reading {recipe.require_file()}"
            + ("" if recipe.start.name == "none" else " and finding the start (seconds to minutes)")
        )
        folder = new_run_folder(out, recipe.title or recipe.file.stem, runs)
        with print_progress(quiet=quiet):
            job = Job.begin(recipe, folder, check=check_splittable if halves else None)
        if note := job.scan.metadata.get("detector pixel"):
            typer.echo(f"detector pixel: {note}")
    run(job, quiet=quiet, halves=halves, draws=draws)


@app.command()
def watch(  # noqa: PLR0913 - one option for each thing that a source leaves open
    source: Annotated[
        str,
        typer.Argument(
            help="address of a detector's stream (tcp://host:port), a file that gets longer, or a folder "
            "that frames are added to"
        ),
    ],
    settings: Set = None,
    *,
    recipe: Annotated[
        Path | None, typer.Option(help="parameter file, such as the run.yaml of an earlier scan")
    ] = None,
    setup: Annotated[
        Path | None,
        typer.Option(help="YAML file with what the source does not say: energy, distance, positions ..."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; default: runs/DATE-NAME")] = None,
    first: Annotated[
        int | None, typer.Option(min=20, help="patterns to begin with; default: a tenth, 64 at least")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="resolution that the dose has to suffice for, e.g. '20 nm': measured by halves"),
    ] = None,
    silence: Annotated[
        float, typer.Option(min=0.1, help="seconds without a pattern after which the scan is over")
    ] = 30.0,
    patience: Annotated[
        float, typer.Option(min=0.1, help="seconds that the first pattern is waited for")
    ] = 300.0,
    subscribe: Annotated[
        bool, typer.Option("--subscribe", help="the stream publishes (PUB) rather than pushes")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no bar or lines of progress")] = False,
) -> None:
    """Reconstruct a scan while it is taken: patterns join as they come.

    Ctrl-C ends the growth: what has come is kept, and the run is resumed as any other.
    """
    from phaseloom.data.growing import open_growing
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.units import LENGTH

    target = None if until is None else LENGTH.parse(until, "--until")
    own = Reconstruct.of({}).with_settings(parse_settings(settings or []))
    chosen = own if recipe is None else load_recipe(recipe, settings)
    knobs = {} if setup is None else _load_setup(setup)
    is_file = "://" not in source
    if is_file and chosen.read is not None:
        knobs = {**chosen.read.values, **knobs}
    folder = new_run_folder(out, chosen.title or Path(source).stem or "live")
    is_there = not is_file or Path(source).exists()
    typer.echo(
        f"waiting for {source}"
        + ("" if is_there else f", which does not exist yet, for {patience:g} s at most (--patience)")
    )
    how = {"silence": silence, "patience": patience, "subscribe": subscribe}
    how |= {"format": chosen.read.name} if is_file and chosen.read is not None else {}
    with open_growing(source, setup=knobs, **how) as growing:
        number = growing.announcement.count
        said = "a scan whose number of patterns is not known" if number is None else f"{number} patterns"
        typer.echo(f"{source} announces {said}; Ctrl-C ends the growth and keeps what has come")
        job = Job.follow(chosen, growing, folder, first=first)
        run(job, quiet=quiet, report=_GrowthReport(job, target))


class _GrowthReport:
    """Lines on a scan that grows, each printed once: what is missing, and whether the dose suffices."""

    def __init__(self, job: Any, target: float | None):
        self.job = job
        self.growing = job.growth.growing
        self.target = target
        self.printed: set[str] = set()
        self.kinds: set[str] = set()
        self.is_over = False

    def __call__(self, epoch: Any, print_line: Callable[[str], Any]) -> None:
        """After an epoch."""
        growth = self.job.growth
        if growth is None:
            self._print_end(print_line)
            return
        for line in self.growing.describe() if self.growing.end is None else ():
            kind = line.lstrip("0123456789 ").split(" (")[0]
            if kind not in self.kinds:  # numbers in it grow; the last ones are logged at the end
                self.kinds.add(kind)
                print_line(f"WARN {line}")
        self._judge_resolution(growth, print_line)
        if growth.dose is not None and growth.dose.verdict not in self.printed:
            self.printed.add(growth.dose.verdict)
            print_line(f"dose: {growth.dose}")

    def describe(self) -> str:
        """How many patterns are here, for the progress bar."""
        growth = self.job.growth
        if growth is None:
            return ""
        count = self.growing.announcement.count
        planned = "" if count is None else f" of {count}"
        behind = growth.count_behind()
        return f"{growth.count}{planned} patterns" + (f", {behind} behind" if behind else "") + ", "

    def _judge_resolution(self, growth: Any, print_line: Callable[[str], Any]) -> None:
        from phaseloom.reconstruction.live.resolution import is_check_due, judge_resolution

        if self.target is None or not is_check_due(self.job):
            return
        try:
            growth.dose = judge_resolution(self.job, self.target)
        except BadInput as problem:  # too small a field as yet, or counts that cannot be split
            if str(problem) not in self.printed:
                self.printed.add(str(problem))
                print_line(f"WARN --until: {problem}")
            return
        self.printed.add(growth.dose.verdict)
        print_line(f"dose: {growth.dose}")

    def _print_end(self, print_line: Callable[[str], Any]) -> None:
        if self.is_over:
            return
        self.is_over = True  # what was wrong with the scan is logged when the growth ends
        print_line(f"the scan is over: {len(self.growing)} patterns are here, the last epochs follow")


def _load_setup(path: Path) -> dict[str, Any]:
    """What a file says of an experiment."""
    from phaseloom.documents import load_yaml

    if not path.is_file():
        raise BadInput("--setup", str(path), "does not exist: write lines such as 'energy: 8 keV' into it")
    found = load_yaml(path)
    positions = found.get("positions")
    if isinstance(positions, str) and (path.parent / positions).is_file():
        found["positions"] = str((path.parent / positions).resolve())
    return found


@app.command()
def calibrate(
    file: DataFile,
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="parameter file to write, with a picture beside it")] = Path(
        "calibrated.yaml"
    ),
) -> None:
    """Calibrate orientation, rotation, defocus, step, pixel angle and slices; write a parameter file."""
    from phaseloom import plot
    from phaseloom.calibration.figures import landscape
    from phaseloom.files import write_text
    from phaseloom.fitting.distributed import team
    from phaseloom.reconstruction import protocol
    from phaseloom.reconstruction.recipe import Reconstruct

    picture = out.with_suffix(".png")
    _require_new_parameter_file(lock_output(out, is_file=True), picture)
    recipe = load_recipe(file, settings)
    typer.echo(f"reading {recipe.require_file()} and estimating its calibration")
    done = protocol.calibrate(recipe, recipe.scan())
    if not team().is_main:
        return
    for line in done.lines():
        typer.echo(line)
    tree = {name: value for name, value in done.recipe.to_tree().items() if name != "preset"}
    calibrated = Reconstruct.of({**tree, "file": str(recipe.file.resolve())})
    write_text(out, calibrated.to_text(defaults=False))
    plot.save(landscape(done.tried.get("estimate_orientation", [])), picture)
    typer.echo(
        f"written: {out}\nwritten: {picture}\nrun it with: phaseloom reconstruct {shlex.quote(str(out))}"
    )


@app.command()
def improve(
    file: Annotated[
        Path, typer.Argument(help="folder of a run, its result.h5 or run.yaml, or data as of reconstruct")
    ],
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="parameter file to write, if something helps")] = Path(
        "improved.yaml"
    ),
    patterns: Annotated[int, typer.Option(min=60, help="of an attempt, at most: those in the middle")] = 400,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="of an attempt; default: those of the run, 30 at least")
    ] = None,
) -> None:
    """Find what a model lacks (background, modes, weights, blur ...), judged by patterns held out."""
    from phaseloom.data.folder_survey import is_store
    from phaseloom.files import write_text
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.runs.control import require_run_folder
    from phaseloom.search.improve import improve as find_additions

    _require_new_parameter_file(lock_output(out, is_file=True))
    if file.is_dir() and not is_store(file):
        file = require_run_folder(file) / "run.yaml"
    recipe = load_recipe(file, settings)
    loss = None if settings else _read_holdout_loss(file)
    typer.echo(f"reading {recipe.require_file()}; each line is a short run, judged by patterns held out")
    found = find_additions(
        Job.begin(recipe), patterns=patterns, epochs=epochs, loss_of_run=loss, report=typer.echo
    )
    echo_lines(found.lines())
    if found.kept:
        improved = found.recipe.model_copy(update={"file": recipe.file.resolve()})
        write_text(out, improved.to_text(defaults=False))
        to_run = "to try what is doubtful" if found.is_doubtful else "run it with"
        typer.echo(f"written: {out}\n{to_run}: phaseloom reconstruct {shlex.quote(str(out))}")
    if not found.is_complete:
        raise KeyboardInterrupt


def _read_holdout_loss(file: Path) -> float | None:
    """The loss of patterns held out by the run whose parameter file or result this is, if it has ended."""
    from phaseloom.result import Result

    path = file if file.suffix == ".h5" else file.with_name("result.h5")
    if file.name not in ("run.yaml", "result.h5") or not path.is_file():
        return None
    return Result.load(path).metrics.get("hold-out")


def _require_new_parameter_file(out: Path, *beside: Path) -> None:
    """Refuse to overwrite a parameter file, or what comes beside it."""
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput("--out", out.name, "is not a .yaml file: give it this ending")
    for path in (out, *beside):
        if path.exists():
            raise BadInput("--out", str(path), "exists already: name a new file")


@app.command()
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="a parameter file of PtyRAD (.yaml, .toml, .json), or an older one of ours, of a search too"
        ),
    ],
    out: Annotated[Path, typer.Option(help="where to write ours")] = Path("run.yaml"),
) -> None:
    """Write a parameter file of PtyRAD, or an older one of ours, with the names of settings of today.

    What differs is printed. Of a PtyRAD file with hypertune_params a search file is written too, beside the
    other.
    """
    from phaseloom.compat import ptyrad
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.spec import to_yaml

    if file.suffix not in PARAMETER_FILES:
        endings = " ".join(PARAMETER_FILES)
        fix = f"is not a parameter file ({endings}): phaseloom export converts data and results"
        raise BadInput(str(file), None, fix)
    theirs = parameter_tree(file)
    tree = translated_tree(theirs, file)
    if tree is None:
        _write_in_current_names(theirs, file, out)
        return
    beside = out.with_name(f"{out.stem}-search.yaml")
    searches = None
    if (theirs.get("hypertune_params") or {}).get("if_hypertune"):
        tree, searches, notes = ptyrad.translate_search(theirs, file.parent)
        for note in notes:
            typer.echo(f"  - {note}")
        _require_new(beside)
    _write_new(out, Reconstruct.of(tree).to_text(defaults=False))
    typer.echo(f"run it with: phaseloom reconstruct {shlex.quote(str(out))}")
    if searches:
        _write_new(beside, to_yaml(searches))
        typer.echo(f"search with: phaseloom search {out} {beside}")


def _write_in_current_names(tree: dict[str, Any], file: Path, out: Path) -> None:
    """Write a parameter file of ours anew; the log names every setting that has another name today."""
    from phaseloom.cli.describe import VERBS, find_owner
    from phaseloom.search.trials import find_kind, find_verb

    if "over" in tree:
        from phaseloom.search.recipe import Search

        _write_new(out, Search.of(tree).to_text(defaults=False))
        typer.echo(f"search with: phaseloom search RUN.yaml {out}")
        return
    owner = find_owner(tree)
    recipe: Any = find_kind(tree, str(file)).recipe.of(tree) if owner is None else owner[1].of(tree)
    if out.parent.resolve() != file.parent.resolve():
        recipe = recipe.with_paths_from(file.parent.resolve())
    _write_new(out, recipe.to_text(defaults=False))
    words = (
        f"{find_verb(recipe)} {out}"
        if owner is None
        else VERBS[owner[0]].format(file=out, stage=tree.get("stage"))
    )
    typer.echo(f"run it with: phaseloom {words}")


def _write_new(path: Path, text: str) -> None:
    from phaseloom.files import write_text

    _require_new(lock_output(path, is_file=True))
    write_text(path, text)
    typer.echo(f"written: {path}")


def _require_new(path: Path) -> None:
    if path.exists():
        raise BadInput("--out", str(path), "exists already: name another file")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="a result.h5")],
    second: Annotated[Path, typer.Argument(help="another result.h5 of the same object")],
    picture: Annotated[Path, typer.Option(help="where to write the picture")] = Path("compare.png"),
    difference: Annotated[
        Path | None, typer.Option(help="also write the difference of the phases (.tif .h5 .mrc ...)")
    ] = None,
) -> None:
    """Compare two results: resolution by ring correlation, phase difference, settings that differ."""
    from phaseloom.reconstruction.compare import compare as compare_results

    if difference is not None:
        _require_new(difference)
    echo_lines(compare_results(first, second, check_picture_name(picture), difference))


@app.command()
def split(
    run: Annotated[Path, typer.Argument(help="a run of joined scans, or its result.h5")],
    *,
    out: Annotated[Path | None, typer.Option(help="folder; default: that of the result")] = None,
) -> None:
    """Part the result of joined scans (prepare: join) into one result for each scan."""
    from phaseloom.reconstruction.compare import find_result
    from phaseloom.result import Result

    path = find_result(run)
    folder = path.parent if out is None else out
    parts = Result.load(path).split()
    targets = [folder / f"scan-{number}.h5" for number in range(len(parts))]
    for target in targets:
        _require_new(target)
    for part, target in zip(parts, targets, strict=True):
        part.save(target)
        typer.echo(f"written: {target}")


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


@app.command()
def describe(
    section: Annotated[str | None, typer.Argument(help="a section of the parameter file, e.g. probe")] = None,
    name: Annotated[str | None, typer.Argument(help="a choice in it, e.g. focused")] = None,
    *,
    of: Annotated[str, typer.Option(help="whose file: reconstruct, train, autoencoder, ...")] = "reconstruct",
) -> None:
    """List the settings of the parameter file, the choices of one, or the knobs of a choice."""
    from phaseloom.cli.describe import describe as describe_section

    typer.echo(describe_section(section, name, of=of))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for what is made")] = Path("runs/demo"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no bar or lines of progress")] = False,
) -> None:
    """Reconstruct a real X-ray scan that comes with the package, and a simulated electron scan."""
    from phaseloom.cli import demo as protocol

    for title, job in protocol.begin_jobs(lock_output(out, taken="is a file: name a folder")):
        typer.echo(f"\n{title}")
        echo_lines(protocol.compare_direct_image(job))
        result = run(job, quiet=quiet)
        echo_lines(protocol.compare_with_truth(job, result))


def run(
    job: Any, *, quiet: bool, halves: bool = False, draws: int = 0, report: _GrowthReport | None = None
) -> Any:
    """Run a reconstruction to its end, print its verdict, and write result and report into its folder.

    Of a scan that grows, ``report`` prints what becomes of it after every epoch.
    """
    from phaseloom.fitting.distributed import team
    from phaseloom.reconstruction import preflight

    echo_lines(preflight.warn_before_run(job, started=job.start is not None), start="WARN ")
    echo_lines(job.start_lines())
    _save_first_image(job)
    again = f"phaseloom reconstruct --resume {shlex.quote(str(job.directory))}"
    printed_codes, finished = _run_with_advice(job, quiet=quiet, growth=report)
    is_cut = not finished and job.is_over()  # in the steps after the last epoch, which are short
    with offer_final_steps(again):
        if is_cut:
            typer.echo(
                f"{job.progress.stop}: the final steps (verdict, error bar, report) are finished first"
            )
            deque(job, maxlen=0)
        result = _save(job, job.ended or job.result())
    is_whole = finished and bool(result.history) and not job.progress.stop.is_interrupted
    if halves and team().broadcast(is_whole):
        result = _save(job, _add_half_data_frc(job, result, quiet=quiet))
    if draws and team().broadcast(is_whole):
        result = _save(job, _add_draws(job, result, draws))
    if team().is_main:
        _print_summary(job, result, printed_codes)
    team().barrier()
    if job.progress.stop.is_without_epochs:
        raise typer.Exit(1)
    if is_cut:
        raise typer.Abort
    if job.progress.stop.is_interrupted and team().is_main:
        offer_resume(again)
    return result


def _save_first_image(job: Any) -> None:
    """Draw the direct image of an electron scan into the folder of a run that begins."""
    from phaseloom import plot
    from phaseloom.direct.figures import plot_direct_image
    from phaseloom.fitting.distributed import team

    if job.directory is None or job.progress.epoch or not team().is_main:
        return
    image = job.first_image
    if image is None:
        return
    try:
        plot.save(plot_direct_image(image), job.directory / "direct.png")
    except WriteFailed as problem:  # a run does not end for a picture
        echo_lines([str(problem)], start="WARN ")
        return
    typer.echo(f"direct image, before any epoch: {job.directory / 'direct.png'}")


def _run_with_advice(job: Any, *, quiet: bool, growth: _GrowthReport | None = None) -> tuple[set[str], bool]:
    """Run all epochs behind a progress bar, or with a line now and then where there is no terminal for it.

    Returns:
        Codes of the advice printed, and whether the run came to its end.
    """
    from phaseloom.runs.progress_lines import report_progress

    printed_codes: set[str] = set()

    def describe_losses(epoch: Any) -> str:
        holdout = "" if epoch.holdout is None else f", hold-out {epoch.holdout:.3f}"
        patterns = "" if growth is None else growth.describe()
        return f"{patterns}loss {epoch.loss:.3f}{holdout}"

    def report_advice(epoch: Any, print_line: Callable[[str], Any]) -> None:
        if growth is not None:
            growth(epoch, print_line)
        if epoch.number % EPOCHS_BETWEEN_ADVICE == 0 and epoch.number < job.recipe.epochs:
            _print_new_advice(job.advice(), printed_codes, print_line)
        report_progress(f"epoch {epoch.number} of {job.recipe.epochs}, {describe_losses(epoch)}")

    with print_progress(quiet=quiet or sys.stderr.isatty()):  # a terminal has the bar
        finished = run_epochs(job, quiet=quiet, describe=describe_losses, report=report_advice)
    return printed_codes, finished


def _save(job: Any, result: Any) -> Any:
    """Write a result with its figures into the folder of its run, in one of the processes."""
    from phaseloom.fitting.distributed import team

    if team().is_main:
        job.save(result)
    return result


def _add_half_data_frc(job: Any, result: Any, *, quiet: bool) -> Any:
    """The result with the ring correlation of two half-data runs, or unchanged where these fail."""
    from phaseloom.reconstruction.half_data_frc import halves

    def run_half(half: Any) -> None:
        if not _run_with_advice(half, quiet=quiet)[1]:
            raise KeyboardInterrupt

    typer.echo("halves: two more runs, on half of the counts each")
    try:
        found = halves(job, drive=run_half)
        return replace(result, halves=found.correlation)
    except KeyboardInterrupt:
        typer.echo("halves: interrupted, so the result is without them")
    except BadInput as problem:
        typer.echo(f"halves: {problem}")
    return result


def _add_draws(job: Any, result: Any, count: int) -> Any:
    """The result with the error bar of draws, or unchanged where these fail."""
    from phaseloom.reconstruction.uncertainty import add_draws, draw_results

    typer.echo(f"draws: {count} times a few epochs, on counts drawn from the model")
    try:
        drawn = draw_results(job, count=count, seed=job.recipe.seed)
        return replace(result, uncertainty=add_draws(result.uncertainty, drawn))
    except KeyboardInterrupt:
        typer.echo("draws: interrupted, so the result is without them")
    except BadInput as problem:
        typer.echo(f"draws: {problem}")
    return result


def _print_summary(job: Any, result: Any, printed_codes: set[str]) -> None:
    """Print the verdict of a run, the files that it left, and the advice that is new."""
    from phaseloom.reconstruction import result_builder

    echo_lines(result_builder.summary_lines(result))
    echo_lines(result_builder.write_outputs(job, result), start="written: ")
    typer.echo(f"stopped: {result.stopped}")
    _print_new_advice(result.advice, printed_codes, typer.echo)
    typer.echo(f"result:  {job.directory / 'result.h5'}\nreport:  {job.directory / 'report.png'}")


def _print_new_advice(
    advice: Iterable[Any], printed_codes: set[str], print_line: Callable[[str], Any]
) -> None:
    """Print advice whose code was not printed before, and add its code."""
    for one in advice:
        if one.code not in printed_codes:
            print_line(f"WARN {one}")
            printed_codes.add(one.code)
