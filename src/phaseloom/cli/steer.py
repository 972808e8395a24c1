"""Commands on runs under way: steer one, open the page that follows all of a folder."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, parse_settings
from phaseloom.errors import BadInput, nearest

__all__ = ["steer", "web"]

SECONDS_TO_WAIT = 60.0
"""Time that ``--wait`` waits for an answer by default; a run answers after the epoch under way."""

ARGUMENTS = {
    "set": "PATH=VALUE ...",
    "on": "PART",
    "off": "PART",
    "back": "EPOCH",
    "branch": "NEW",
}
"""What commands take; the others take nothing."""


@app.command()
def steer(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="folder of a run, on this machine or another")
    ],
    command: Annotated[
        str,
        typer.Argument(help="status, pause, resume, stop, save, set, on, off, back or branch"),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="set: PATH=VALUE ...; on, off: PART; back: EPOCH; branch: NEW, the new run folder"
        ),
    ] = None,
    settings: Set = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="wait for the answer and print it")] = False,
    seconds: Annotated[float, typer.Option(min=0.0, help="how long --wait waits at most")] = SECONDS_TO_WAIT,
    epoch: Annotated[
        int | None, typer.Option(min=1, help="branch: of which kept snapshot; default: the last one")
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="branch: run the new one at once")] = False,
) -> None:
    """Steer a run: pause, resume, stop, save, set, on, off, back, branch; or print its status.

    The run takes a command at the end of the epoch under way.
    """
    from phaseloom.runs.control import COMMANDS, require_run_folder, send_command
    from phaseloom.runs.state import require_not_ended

    given = arguments or []
    require_run_folder(folder)
    if command not in ("status", *COMMANDS):
        raise BadInput("steer", command, f"is not a command: {nearest(command, ('status', *COMMANDS))}")
    _check_arguments(command, given, settings, epoch=epoch, start=start)
    _require_kind_of_run(folder, command)
    if command == "status":
        _print_status(folder)
    elif command == "branch":
        _branch(folder, Path(given[0]), parse_settings(settings or []), epoch, start=start)
    else:
        changes = parse_settings([*given, *(settings or [])]) if command == "set" else None
        target: dict[str, Any] = {"name": given[0]} if command in ("on", "off") else {}
        target |= {"epoch": _read_epoch(given[0])} if command == "back" else {}
        require_not_ended(folder, command)
        identifier = send_command(folder, command, changes, **target)
        _print_answer(folder, command, identifier, seconds if wait else None)


def _check_arguments(
    command: str, given: list[str], settings: list[str] | None, *, epoch: int | None, start: bool
) -> None:
    """Refuse arguments that a command does not take, and its lack of those that it needs."""
    wanted = ARGUMENTS.get(command, "")
    count = len(given) + len(settings or []) if command == "set" else len(given)
    if (count == 0) == bool(wanted) or (count > 1 and command != "set"):
        fix = f"takes {wanted}" if wanted else "takes nothing more"
        raise BadInput(f"steer {command}", " ".join(given) or None, fix)
    if settings and command not in ("set", "branch"):
        raise BadInput(f"steer {command}", "--set", "goes with set and branch alone")
    if (epoch is not None or start) and command != "branch":
        raise BadInput(f"steer {command}", "--epoch and --start", "go with branch alone")


COMMANDS_OF_TRAININGS = ("status", "pause", "resume", "stop", "save")


def _require_kind_of_run(folder: Path, command: str) -> None:
    """Refuse commands that only a reconstruction takes at once: a paused training answers when it goes on."""
    if command in COMMANDS_OF_TRAININGS:
        return
    from phaseloom.documents import load_yaml

    if "model" in load_yaml(folder / "run.yaml"):  # a section of trainings alone
        taken = ", ".join(COMMANDS_OF_TRAININGS)
        fix = f"is for reconstructions; a training of a network takes {taken}: begin one with other settings"
        raise BadInput(f"steer {command}", None, fix)


def _read_epoch(text: str) -> int:
    if not text.isdecimal():
        raise BadInput("steer back", text, "is not the number of an epoch")
    return int(text)


def _print_answer(folder: Path, command: str, identifier: str, seconds: float | None) -> None:
    """Say what was sent, or wait for the answer; one that is refused ends the program with its sentence."""
    from phaseloom.runs.control import wait_for_answer
    from phaseloom.runs.state import is_held

    if seconds is None:
        under_way = "the run takes it after the epoch under way"
        left = "nobody works on the run: it takes it when it is resumed"
        typer.echo(f"sent: {command} ({identifier}); {under_way if is_held(folder) else left}")
        return
    answer = wait_for_answer(folder, identifier, seconds=seconds)
    if answer is None:
        fix = "the run takes it after its epoch, or when it is resumed: phaseloom steer RUN status"
        raise BadInput(f"steer {command}", f"no answer in {seconds:g} s;", fix)
    if not answer.accepted:
        place, _, fix = answer.reason.partition(": ")
        raise BadInput(place, None, fix) if fix else BadInput(f"steer {command}", None, answer.reason)
    typer.echo(f"accepted after epoch {answer.epoch}{': ' if answer.reason else ''}{answer.reason}")


def _branch(folder: Path, new: Path, settings: dict[str, Any], epoch: int | None, *, start: bool) -> None:
    """Make a branch here: neither the run nor its process takes part in it."""
    from phaseloom.reconstruction.steering.branch import branch_run

    made = branch_run(folder, new, settings, epoch=epoch)
    if not start:
        typer.echo(f"made: {made}\nrun it with: phaseloom reconstruct --resume {shlex.quote(str(made))}")
        return
    from phaseloom.cli.reconstruct import run
    from phaseloom.reconstruction.protocol import Job

    run(Job.resume(made), quiet=False)


def _print_status(folder: Path) -> None:
    """How far a run has come, and its commands with their answers."""
    from phaseloom.runs.control import read_answers, read_commands, read_events

    answers = read_answers(folder)
    typer.echo(_describe_progress(folder, list(read_events(folder))))
    for one in read_commands(folder):
        words = " ".join(
            [
                one.command,
                *(f"{path}={value}" for path, value in one.settings.items()),
                *([one.name] if one.name else []),
                *([str(one.epoch)] if one.epoch is not None else []),
            ]
        )
        answer = answers.get(one.id)
        if answer is None:
            typer.echo(f"  {one.id}  {words}: not answered yet")
        else:
            verdict = "accepted" if answer.accepted else "refused"
            typer.echo(f"  {one.id}  {words}: {verdict} after epoch {answer.epoch}. {answer.reason}".rstrip())


def _describe_progress(folder: Path, events: list[dict[str, Any]]) -> str:
    """A line on the last epoch, and whether the run waits, has ended or was killed."""
    from phaseloom.runs.state import RunStatus, find_state

    epochs = [event for event in events if "number" in event]
    if not epochs:
        return "no epoch is done yet"
    last = epochs[-1]
    line = f"epoch {last['number']}, loss {last['loss']:.4g}"
    if last.get("holdout") is not None:
        line += f", hold-out {last['holdout']:.4g}"
    if last.get("stopped"):
        return f"{line}; ended: {last['stopped']}"
    ends = {
        RunStatus.PAUSED: "; paused",
        RunStatus.KILLED: "; killed: it goes on from its last snapshot when it is resumed",
    }
    return line + ends.get(find_state(folder, events), "")


@app.command()
def web(
    folder: Annotated[Path, typer.Argument(help="folder with data and runs")] = Path(),
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 0,
    address: Annotated[
        str, typer.Option(help="of the interface; others than this machine's own need PHASELOOM_WEB_TOKEN")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open it in the browser")] = True,
) -> None:
    """Open the page on a folder: look at data, start runs, watch, steer and compare them, in a browser.

    The page answers this machine alone, and only with the token of the printed address. From elsewhere use
    an SSH tunnel: ssh -L 5006:localhost:5006 MACHINE, with --port 5006 --no-browser there.
    """
    import webbrowser

    from phaseloom import plugins

    open_folder: Any = plugins.target("phaseloom.cli", "open_folder")
    page = open_folder(folder, port=port, address=address)
    typer.echo(f"page: {page.address}\nend it with Ctrl-C; runs go on without it")
    if browser:
        webbrowser.open(page.address)
    try:
        page.run()
    finally:
        _print_dropped(folder, page.list_waiting())


def _print_dropped(folder: Path, waiting: list[str]) -> None:
    """Say which jobs had not begun when the page ended, and how each is begun without it."""
    if waiting:
        place = shlex.quote(str(folder.resolve()))
        typer.echo("\n".join([f"jobs that had not begun, to be begun in {place} by:", *waiting]), err=True)
