"""The command line application; errors end it with a message of one sentence."""

import atexit
import gc
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from phaseloom.errors import BadInput
from phaseloom.version import __version__

__all__ = ["app", "is_other_process", "main", "output_locks"]

app = typer.Typer(
    name="phaseloom",
    help="From diffraction patterns to phase images. Start with `phaseloom look FILE`, "
    "then `phaseloom reconstruct FILE`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


output_locks: list[Any] = []
"""The locks of what a command writes, which it holds to its end."""


CODE_OF_CTRL_C = 130

OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Python's 700 makes it go 600 times through what libraries define while they are imported, which stays."""

WAITS_OF_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how threads wait for each other."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phaseloom {__version__}")
        raise typer.Exit


@app.callback()
def _choose_command(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """From diffraction patterns to phase images."""


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="folder that runs will be written to")] = Path("runs"),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="mend what loses nothing: damaged caches, missing folders of caches")
    ] = False,
) -> None:
    """Examine the installation: versions, devices, threads, extras, compiled kernels, the folder of runs.

    Each problem is a sentence with its fix. Exit code 1 if something would stop a run.
    """
    from phaseloom.doctor import diagnose, mend

    found = diagnose(folder)
    if fix:
        for line in mend(found):
            typer.echo(line, err=as_json)
        found = diagnose(folder)
    typer.echo(found.to_json() if as_json else "\n".join(found.lines()))
    if not found.can_run:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: an error prints one sentence, no traceback.

    Exit code 2 for input that cannot be used; 1 for a failure of a plugin, of memory or of the program, whose
    traceback is kept in a file.
    """
    from phaseloom.runs.interrupts import interrupt_on_signals
    from phaseloom.runs.lock import release_all

    _let_threads_sleep()
    try:
        with _seldom_collected(), interrupt_on_signals(), _sentences(), _one_voice():
            code = app(standalone_mode=False) or 0
            if code == CODE_OF_CTRL_C:  # what newer Typer makes of an interruption, whatever the signal
                raise KeyboardInterrupt
            sys.exit(code)
    finally:
        output_locks.clear()
        release_all()


def _let_threads_sleep() -> None:
    """Have PyTorch's threads sleep while they wait, before its library reads this from the environment.

    By default they spin. On cores that other programs use as well, a reconstruction of 14 s took 86 to 127 s.
    """
    if not any(name in os.environ for name in WAITS_OF_OPENMP):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Search for unused cycles of objects less often, and not at all when the process ends.

    On a small scan these searches were 0.9 of 8.5 CPU seconds: a third in imports, the rest at the end, where
    each object of each library would be looked at once more before the memory is given back as a whole.
    """
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)


_USAGE: Any = typer.BadParameter.__base__
"""The base class of Typer's errors about the command line."""


_ALLOCATION = re.compile("can(no|')t allocate memory|out of memory|failed to map segment", re.IGNORECASE)
"""Messages of PyTorch, and of the loader of libraries, when there is not enough memory."""

_LOST = re.compile("connection closed|connection reset|broken pipe|timed out|remote process", re.IGNORECASE)
"""Messages of the communication libraries when a connection between processes is lost."""


def is_other_process() -> bool:
    """Whether this is not the first of several processes."""
    return bool(_other())


def _other() -> str:
    """Rank of this process; empty for the first one."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else rank


def _speaker() -> str:
    """Prefix of error messages."""
    return f"phaseloom, process {_other()}" if _other() else "phaseloom"


@contextmanager
def _one_voice() -> Iterator[None]:
    """Print to stdout in the first process only; all processes report errors."""
    if not _other():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except BadInput as problem:
        sys.stderr.write(f"{_speaker()}: {problem}\n")
        sys.exit(problem.code)
    except _USAGE as problem:
        _explain(problem)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        from phaseloom.runs.interrupts import exit_code

        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write("phaseloom: interrupted\n")
        sys.exit(exit_code())
    except BrokenPipeError:
        sys.exit(141)
    except Exception as problem:  # whatever it is: a user never sees a bare traceback
        if isinstance(problem, OSError) and problem.strerror:
            sys.stderr.write(f"phaseloom: {problem.filename or 'output'}: {problem.strerror}\n")
            sys.exit(2)
        _end_failed(problem)


def _end_failed(problem: Exception) -> NoReturn:
    """Exit code 1 and a sentence for what is no mistake of the user."""
    is_spread = os.environ.get("WORLD_SIZE", "1") != "1"
    if isinstance(problem, RuntimeError) and is_spread and _LOST.search(str(problem)):
        fix = "which printed the reason, or was killed; continue what was saved with --resume"
        sys.stderr.write(f"{_speaker()}: stopped because another process has ended, {fix}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the process group would wait for processes that have ended
    if isinstance(problem, MemoryError) or _ALLOCATION.search(str(problem)):
        fix = "close other programs, raise the limit (ulimit), or take less of the data (prepare: crop, bin)"
        sys.stderr.write(f"{_speaker()}: there is not enough memory: {fix}\n")
    else:
        _report_mistake(problem)
    sys.exit(1)


ERROR_FILE = "phaseloom-error.log"
"""Where the traceback of a mistake of the program is kept, in the current folder."""


def _report_mistake(problem: Exception) -> None:
    """One sentence on a mistake of the program, and a file with what its authors need to know."""
    said = " ".join(f"{type(problem).__name__}: {problem}".split())[:200]
    kept = _keep_traceback(problem)
    where = f"the details are in {kept}" if kept else "the details could not be written to a file"
    fix = f"this is a mistake of the program, please report it; {where}"
    sys.stderr.write(f"{_speaker()}: failed ({said}): {fix}\n")


def _keep_traceback(problem: Exception) -> Path | None:
    """The file that a traceback was added to, in the current folder or that of temporary files."""
    import datetime
    import platform
    import tempfile

    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = f"phaseloom {__version__}, Python {platform.python_version()}, {platform.platform()}, {when}"
    text = "".join(traceback.format_exception(problem))
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            with (folder / ERROR_FILE).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{about}\n{' '.join(sys.argv)}\n{text}\n")
            return folder / ERROR_FILE
    return None


def _explain(problem: Any) -> None:
    """Print the error of a command line; without arguments, print the help."""
    if len(sys.argv) < 2:
        problem.show()
        return
    command = problem.ctx.command_path if problem.ctx else "phaseloom"
    said = _describe_value(problem) or " ".join(problem.format_message().split())
    sys.stderr.write(f"phaseloom: {said.rstrip('.')}. See {command} --help\n")


def _describe_value(problem: Any) -> str:
    """A sentence on a value that does not have the type of its option; Typer's own is in pydantic's terms."""
    if not hasattr(problem.__cause__, "errors"):
        return ""
    from phaseloom.findings import describe_error

    first = problem.__cause__.errors()[0]
    name = max(problem.param.opts, key=len)
    if first["type"] == "value_error":
        return f"{name}: {first['ctx']['error']}"
    return str(BadInput(name, first["input"], describe_error(first)))
