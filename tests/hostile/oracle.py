"""What may come of a case: a sentence or a result; and what must never come."""

import re
import signal
from enum import StrEnum
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.hostile.fork_server import Outcome

MAX_MEMORY = 2**30
MAX_SECONDS = 10.0
MAX_SENTENCE = 1200

JARGON = re.compile(
    "pydantic|<class|Input should|validation error|NoneType|object at 0x|synchronously"
    "|numpy\\.(?!save)|torch\\.[A-Z]|buf = "
)
BREAKDOWN = re.compile("broke down|nothing was learned|not enough memory")
"""Ends with code 1 that are no mistake of the program."""

IMAGES = ("object", "probe", "phase", "latents", "positions")
"""Members of written files that must be finite."""


class Verdict(StrEnum):
    """What came of a case."""

    ACCEPTED = "accepted"
    REFUSED = "one sentence"
    TRACEBACK = "traceback"
    WORDS = "not a sentence"
    CODE = "exit code"
    HANG = "over 10 s"
    MEMORY = "over 1 GB"
    SIGNAL = "signal"
    NOT_FINITE = "not finite"
    OUTSIDE = "outside"


GOOD = (Verdict.ACCEPTED, Verdict.REFUSED)
FAILURES = tuple(one for one in Verdict if one not in GOOD)


def is_sentence(text: str) -> bool:
    """Whether an error is one line of plain words."""
    return bool(text) and "\n" not in text and len(text) < MAX_SENTENCE and not JARGON.search(text)


def judge_command(outcome: Outcome, folder: Path, outer: Path) -> tuple[Verdict, str]:
    """The verdict on a command that ran in ``folder``, deep below ``outer``, and why."""
    said = outcome.err.strip().splitlines()
    last = said[-1] if said else ""
    if outcome.timed_out or outcome.code == -signal.SIGXCPU:
        return Verdict.HANG, last
    if outcome.has_traceback or "mistake of the program" in outcome.err:
        return Verdict.TRACEBACK, last + _read_log(folder)
    if outcome.code < 0:
        return Verdict.SIGNAL, str(outcome.code)
    if outcome.memory > MAX_MEMORY:
        return Verdict.MEMORY, f"{outcome.memory / 1e9:.2f} GB: {last}"
    if touched := _list_outside(folder, outer):
        return Verdict.OUTSIDE, touched
    if outcome.code == 0:
        spoiled = find_spoiled(folder)
        return (Verdict.NOT_FINITE, spoiled) if spoiled else (Verdict.ACCEPTED, "")
    if outcome.code not in (1, 2) or (outcome.code == 1 and not BREAKDOWN.search(outcome.out + outcome.err)):
        return Verdict.CODE, f"{outcome.code}: {last}"
    own = [line for line in said if line.startswith("phaseloom")]
    is_good = outcome.code == 1 or (len(own) == 1 and own[0] == last and is_sentence(last))
    return (Verdict.REFUSED if is_good else Verdict.WORDS), last


def _read_log(folder: Path) -> str:
    log = folder / "phaseloom-error.log"
    return f"\n{log.read_text()}" if log.is_file() else ""


def _list_outside(folder: Path, outer: Path) -> str:
    """What a case left between its folder and ``outer``."""
    inner = folder
    found = []
    while inner != outer:
        found += [str(one) for one in inner.parent.iterdir() if one != inner]
        inner = inner.parent
    return ", ".join(found)


def find_spoiled(folder: Path) -> str:
    """A file below ``folder/out`` whose images are not finite."""
    for path in sorted((folder / "out").rglob("*.h5")) if (folder / "out").is_dir() else []:
        try:
            with h5py.File(path) as file:
                for name in IMAGES:
                    stored: Any = file.get(name)
                    if isinstance(stored, h5py.Dataset) and not np.isfinite(np.asarray(stored)).all():
                        return f"{path.name}: {name}"
        except OSError as problem:
            return f"{path.name}: {problem}"
    return ""
