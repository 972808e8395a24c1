"""The verb that searches for the knobs of a run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, folder, foreign, settings_of
from phaseloom.errors import BadInput

__all__ = ["search"]


@app.command()
def search(  # noqa: PLR0913 - each an option of the command line
    file: Annotated[
        Path,
        typer.Argument(help="run.yaml, a training file, or data; with --resume or --join a search's folder"),
    ],
    over: Annotated[Path | None, typer.Argument(help="search.yaml: which knobs, and how")] = None,
    settings: Set = None,
    *,
    trials: Annotated[int | None, typer.Option(help="how many in all")] = None,
    seconds: Annotated[float | None, typer.Option(help="after which no trial is begun")] = None,
    workers: Annotated[int | None, typer.Option(help="processes of this machine")] = None,
    storage: Annotated[
        str | None, typer.Option(help="URL of a data base; default: a file in the folder")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the search; default: runs/DATE-NAME-search")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="FILE is the folder of a search: go on")] = False,
    join: Annotated[
        bool, typer.Option("--join", help="FILE is the folder of a search: help with it")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no line for each trial")] = False,
) -> None:
    """Search for knobs of a reconstruction or a training: many trials, the best file, and a report."""
    from phaseloom.fitting.distributed import team
    from phaseloom.search.recipe import Plan
    from phaseloom.search.runner import Searching, joined

    team().alone("search")
    given = {"trials": trials, "seconds": seconds, "workers": workers, "storage": storage}
    if join:
        _nothing(over, settings, out, *given.values())
        done = [_told(one, quiet=quiet) for one in joined(file)]
        typer.echo(f"helped with {len(done)} trials: nothing is left to do")
        return
    if resume:
        _nothing(over, settings, out, storage)
        plan = Plan.at(file, trials=trials, seconds=seconds, workers=workers)
    else:
        plan = _begun(file, over, settings or [], out, given)
    count = len(plan.space.knobs)
    typer.echo(f"{count} knob{'s' * (count > 1)}, {plan.objective.name} is made small: {plan.folder}")
    _driven(Searching(plan), quiet=quiet)


def _begun(
    file: Path, over: Path | None, settings: list[str], out: Path | None, given: dict[str, Any]
) -> Any:
    """A new search."""
    from phaseloom.documents import load_yaml
    from phaseloom.search.recipe import Plan, Search
    from phaseloom.search.trials import read

    if over is None:
        raise BadInput("search", str(file), "needs a second file that says what is searched: search.yaml")
    if file.suffix in (".yaml", ".yml") and "over" in load_yaml(file):
        raise BadInput("search", str(file), "says what is searched: give the run file first, then this one")
    wanted = Search.from_path(over, {name: value for name, value in given.items() if value is not None})
    if (tree := foreign(file)) is not None:
        from phaseloom.reconstruction.recipe import Reconstruct

        base = Reconstruct.of(tree)
        base = base.put(settings_of(settings)) if settings else base
    else:
        base = read(file, settings_of(settings))[1]
    return Plan.begin(base, wanted, folder(out, f"{wanted.title or file.stem}-search"))


def _driven(searching: Any, *, quiet: bool) -> None:
    """All trials, then what they came to."""
    from phaseloom.search import report as found
    from phaseloom.search.trials import verb

    plan = searching.plan
    try:
        for one in searching:
            _told(one, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo(f"go on with: phaseloom search --resume {plan.folder}")
        raise typer.Abort from None
    files = searching.left()
    for path, share in found.importance(plan).items():
        typer.echo(f"matters: {path:40s} {100 * share:.0f} %")
    best = found.best(plan)
    typer.echo(f"best: {best}")
    for doubt in found.doubts(plan):
        typer.echo(f"WARN {doubt}")
    for path in files:
        typer.echo(f"written: {path}")
    typer.echo(f"run it with: phaseloom {verb(plan.base)} {plan.folder / 'best.yaml'}")


def _told(one: Any, *, quiet: bool) -> None:
    if not quiet:
        typer.echo(str(one))


def _nothing(*given: Any) -> None:
    """Refuse what belongs to a new search."""
    if wrong := [one for one in given if one]:
        said = " ".join(str(one) for one in wrong)
        raise BadInput("search", said, "is for a new search: a folder goes on as it was begun")
