"""The command that searches for settings of a run."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import (
    PARAMETER_FILES,
    Set,
    lock_resumed,
    new_folder,
    parameter_tree,
    parse_settings,
    translated_tree,
)
from phaseloom.cli.runner import echo_lines, offer_resume, run_steps
from phaseloom.errors import BadInput

__all__ = ["search"]


@app.command()
def search(  # noqa: PLR0913 - each an option of the command line
    file: Annotated[
        Path,
        typer.Argument(
            help="run.yaml, a training file, or data; with --resume or --join the folder of a search"
        ),
    ],
    over: Annotated[Path | None, typer.Argument(help="search.yaml: the settings to search, and how")] = None,
    settings: Set = None,
    *,
    trials: Annotated[int | None, typer.Option(help="number of trials in all")] = None,
    seconds: Annotated[float | None, typer.Option(help="time after which no trial is started")] = None,
    workers: Annotated[int | None, typer.Option(help="processes on this machine")] = None,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database; default: a file in the folder")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the search; default: runs/DATE-NAME-search")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the search in the folder FILE")] = False,
    join: Annotated[bool, typer.Option("--join", help="help with the search in the folder FILE")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no line for each trial")] = False,
) -> None:
    """Search for settings of a reconstruction or a training: many trials, the best file, and a report."""
    from phaseloom.fitting.distributed import team
    from phaseloom.search.recipe import Plan
    from phaseloom.search.runner import Searching, join_search

    team().require_single_process("search")
    given = {"trials": trials, "seconds": seconds, "workers": workers, "storage": storage}
    if join:
        _refuse(over, settings, out, *given.values())
        count, finished = _run_trials(join_search(file), quiet=quiet)
        if not finished:
            raise KeyboardInterrupt
        typer.echo(f"{count} trials run here: the search is complete")
        return
    if resume:
        _refuse(over, settings, out, storage)
        plan = Plan.at(lock_resumed(file), trials=trials, seconds=seconds, workers=workers)
    else:
        plan = _begin(file, over, settings or [], out, given)
    count = len(plan.space.knobs)
    typer.echo(f"{count} knob{'s' * (count > 1)}, objective {plan.objective.name}: {plan.folder}")
    searching = Searching(plan)
    _, finished = _run_trials(searching, quiet=quiet)
    if not finished:
        offer_resume(f"phaseloom search --resume {shlex.quote(str(plan.folder))}")
    echo_lines(_finish(searching))


def _begin(
    file: Path, over: Path | None, settings: list[str], out: Path | None, given: dict[str, Any]
) -> Any:
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.search.recipe import Plan, Search
    from phaseloom.search.trials import read

    if over is None:
        raise BadInput("search", str(file), "needs a second file with the settings to search: search.yaml")
    tree = parameter_tree(file) if file.suffix in PARAMETER_FILES else {}
    if "over" in tree:
        raise BadInput("search", str(file), "is a search file: give the run file first, then this one")
    wanted = Search.from_path(over, {name: value for name, value in given.items() if value is not None})
    changes = parse_settings(settings)
    ours = translated_tree(tree, file) if tree else None
    base = read(file, changes)[1] if ours is None else Reconstruct.of(ours).with_settings(changes)
    return Plan.begin(base, wanted, new_folder(out, f"{wanted.title or file.stem}-search"))


def _run_trials(trials: Any, *, quiet: bool) -> tuple[int, bool]:
    """Run all trials and print a line for each."""
    return run_steps(trials, quiet=True, report=None if quiet else lambda trial, _: typer.echo(str(trial)))


def _finish(searching: Any) -> Iterator[str]:
    """Write the best file and the report."""
    from phaseloom.search import report
    from phaseloom.search.trials import find_verb

    plan = searching.plan
    files = searching.write_report()
    for path, share in report.compute_importance(plan).items():
        yield f"importance: {path:40s} {100 * share:.0f} %"
    yield f"best: {report.find_best_trial(plan)}"
    for doubt in report.find_doubts(plan):
        yield f"WARN {doubt}"
    for path in files:
        yield f"written: {path}"
    yield f"run it with: phaseloom {find_verb(plan.base)} {plan.folder / 'best.yaml'}"


def _refuse(*given: Any) -> None:
    """Refuse settings of a new search."""
    if wrong := [str(one) for one in given if one]:
        raise BadInput(
            "search", " ".join(wrong), "is for a new search: a continued search keeps its settings"
        )
