"""The command itself, and how it ends: in one sentence when something was wrong."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer

from phaseloom.errors import BadInput

__all__ = ["app", "main"]

app = typer.Typer(
    name="phaseloom",
    help="From diffraction patterns to phase images. Start with `phaseloom look FILE`, "
    "then `phaseloom reconstruct FILE`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: a mistake ends in one sentence and exit code 2, or 1 for a plugin's; no traceback."""
    with _sentences(), _one_voice():
        sys.exit(app(standalone_mode=False) or 0)


_USAGE: Any = typer.BadParameter.__base__
"""What Typer raises when a command line is not understood, wherever it keeps it."""


_LOST = re.compile("connection closed|connection reset|broken pipe|timed out|remote process", re.IGNORECASE)
"""What a lost connection between processes is called by the libraries that keep it."""


def _other() -> str:
    """The number of this process where it is not the first of several."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else rank


def _speaker() -> str:
    """Who complains."""
    return f"phaseloom, process {_other()}" if _other() else "phaseloom"


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes only the first one prints; complaints are everybody's."""
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
        sys.stderr.write("phaseloom: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except RuntimeError as problem:
        if not (os.environ.get("WORLD_SIZE", "1") != "1" and _LOST.search(str(problem))):
            raise
        fix = "which printed the reason, or was killed; continue what was saved with --resume"
        sys.stderr.write(f"{_speaker()}: ends, for another process has ended, {fix}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # what connects the processes would wait, or complain, for others that are gone
    except OSError as problem:
        sys.stderr.write(f"phaseloom: {problem.filename or 'file'}: {problem.strerror or problem}\n")
        sys.exit(2)


def _explain(problem: Any) -> None:
    """Say what was wrong with a command line; without any words, show the help."""
    if len(sys.argv) < 2:
        problem.show()
        return
    command = problem.ctx.command_path if problem.ctx else "phaseloom"
    sys.stderr.write(f"phaseloom: {' '.join(problem.format_message().split())} See {command} --help\n")
