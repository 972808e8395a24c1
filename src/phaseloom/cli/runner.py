"""Run steps with a progress bar, handle interruptions, print the final lines."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer

from phaseloom.cli.files import lock_output, lock_resumed
from phaseloom.errors import BadInput

__all__ = [
    "check_new",
    "echo_lines",
    "get_resumed_folder",
    "offer_final_steps",
    "offer_resume",
    "print_progress",
    "run_epochs",
    "run_steps",
    "run_training",
]

Step = TypeVar("Step")

SECONDS_BETWEEN_LINES = 15.0
"""Between two lines of progress at the least: reports come every few seconds, so that 30 hardly pass."""


class _LinePrinter(logging.Handler):
    """Prints reports of steps, the first of them after some seconds, and leaves out those between."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.began = self.printed = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = now
            typer.echo(f"{now - self.began:.0f} s: {record.getMessage()}")


@contextmanager
def print_progress(*, quiet: bool) -> Iterator[None]:
    """Print a plain line now and then of what a long step is doing and how far it is, unless ``quiet``."""
    from phaseloom.fitting.distributed import team
    from phaseloom.runs.progress_lines import log

    if quiet or not team().is_main:
        yield
        return
    printer = _LinePrinter()
    level = log.level
    log.addHandler(printer)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(printer)
        log.setLevel(level)


def run_steps(
    steps: Iterable[Step],
    /,
    *,
    total: int | None = None,
    done: int = 0,
    unit: str = "step",
    quiet: bool = False,
    describe: Callable[[Step], str] | None = None,
    report: Callable[[Step, Callable[[str], Any]], None] | None = None,
) -> tuple[int, bool]:
    """Run steps with a progress bar until their end or an interruption.

    Args:
        steps: a generator, or an object whose iterator is one; it is closed at the end.
        total: number of steps, for the bar.
        done: how many of them were done before.
        unit: what a step is called.
        quiet: no bar.
        describe: the text beside the bar after a step.
        report: called with each step and a function that prints a line above the bar.

    Returns:
        How many steps were done now, and whether they were not interrupted.
    """
    from tqdm import tqdm

    count = 0
    with tqdm(total=total, initial=done, disable=True if quiet else None, unit=unit, file=sys.stderr) as bar:
        try:
            with closing(iter(steps)) as iterator:  # pyright: ignore[reportArgumentType]
                for step in iterator:
                    count += 1
                    if describe is not None:
                        bar.set_postfix_str(describe(step))
                    bar.update()
                    if report is not None:
                        report(step, bar.write)
        except KeyboardInterrupt:
            return count, False
    return count, True


def run_epochs(
    job: Any,
    /,
    *,
    quiet: bool,
    describe: Callable[[Any], str] | None = None,
    report: Callable[[Any, Callable[[str], Any]], None] | None = None,
) -> bool:
    """Run the epochs of a reconstruction or a training; only the first of several processes has a bar.

    An interruption is noted in ``job.progress.stopped``, unless no epoch was left: it then came in the final
    steps, and the fit has ended as it would have without it.

    Returns:
        Whether it was not interrupted.
    """
    from phaseloom.fitting.distributed import team

    _, finished = run_steps(
        job,
        total=job.recipe.epochs,
        done=job.progress.epoch,
        unit="epoch",
        quiet=quiet or not team().is_main,
        describe=describe,
        report=report,
    )
    if not finished and not job.is_over():
        from phaseloom.fitting.outcome import Stop

        job.progress.stop = Stop.after_interruption(job.progress.epoch)
    return finished


def run_training(
    training: Any,
    /,
    finish: Callable[[Any], Iterator[str]],
    *,
    again: str,
    quiet: bool,
    describe: Callable[[Any], str] | None = None,
) -> None:
    """Train to the end, then call ``finish``, which saves the network; the first process prints its lines.

    Without a terminal, which a bar needs, every epoch is a line of its own, unless ``quiet``.

    After an interruption the command ``again``, which resumes, is printed instead, and `typer.Abort` raised.
    """
    from phaseloom.fitting.distributed import team

    in_lines = not quiet and team().is_main and not sys.stderr.isatty()

    def print_epoch(epoch: Any, print_line: Callable[[str], Any]) -> None:
        if in_lines:
            text = "" if describe is None else f": {describe(epoch)}"
            typer.echo(f"epoch {epoch.number} of {training.recipe.epochs}{text}, {epoch.seconds:.1f} s")
            sys.stdout.flush()

    finished = run_epochs(training, quiet=quiet, describe=describe, report=print_epoch)
    if team().is_main:
        stopped = training.progress.stopped or f"all {training.progress.epoch} epochs were done before"
        typer.echo(f"stopped: {stopped}")
    if training.progress.stop.is_interrupted:  # in every process: nobody waits for one that has left
        offer_resume(again)
    with offer_final_steps(again):
        lines = finish(training)  # in every process: a network's scores may be computed by all together
        if team().is_main:
            echo_lines(lines)
        else:
            list(lines)
    team().barrier()
    if not finished:
        raise typer.Abort


@contextmanager
def offer_final_steps(again: str, /) -> Iterator[None]:
    """Where the steps that follow the last epoch are interrupted, print the command that does them."""
    from phaseloom.fitting.distributed import team

    try:
        yield
    except KeyboardInterrupt:
        if team().is_main:
            typer.echo("all epochs are done and kept, but the final steps were interrupted")
        offer_resume(again)


def offer_resume(again: str, /) -> None:
    """Print the command that resumes (in the first process), and abort."""
    from phaseloom.fitting.distributed import team

    if team().is_main:
        typer.echo(f"go on with: {again}")
    raise typer.Abort


def echo_lines(lines: Iterable[object], /, start: str = "") -> None:
    """Print lines with a common prefix."""
    for line in lines:
        typer.echo(f"{start}{line}")


def get_resumed_folder(file: Path | None, settings: list[str] | None, out: Path | None, /) -> Path:
    """The folder of a training to resume; settings of a new run are refused."""
    if file is None:
        raise BadInput("train", "--resume", "needs the folder of a run")
    if settings or out:
        fix = "takes the folder of a run and nothing else: to train longer, change epochs in its run.yaml"
        raise BadInput("train", "--resume", fix)
    return lock_resumed(file)


def check_new(*paths: Path, what: str = "file") -> None:
    """Refuse to overwrite files; of the first this command is the only writer to its end."""
    lock_output(paths[0], is_file=True)
    for path in paths:
        if path.exists():
            raise BadInput("--out", str(path), f"exists already: name a new {what}")
