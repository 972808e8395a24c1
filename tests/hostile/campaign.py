"""The hostile campaign: thousands of damaged files, junk knobs and command lines, and a table of what came.

    python -m tests.hostile.campaign --seconds 3600 --counts counts.json
    python -m tests.hostile.campaign --table counts.json   # into docs/damaged.md
    python -m tests.hostile.campaign --case "own: run/result.h5" 123

A case is made from its group and its number alone. Cases in process run in children of one process each of
500, so that one that is killed, or hangs, is known by its number.
"""

import argparse
import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile import groups, materials
from tests.hostile.fork_server import ForkServer
from tests.hostile.oracle import FAILURES, MAX_MEMORY, MAX_SECONDS, Verdict

BATCH = 250
DOCS = Path(__file__).resolve().parents[2] / "docs" / "damaged.md"
MARKS = ("<!-- counts of the campaign -->", "<!-- end -->")
CORPUS = Path(__file__).with_name("corpus") / "cases.json"


class Campaign:
    """Materials, groups and counts of a campaign in a folder."""

    def __init__(self, folder: Path, *, commands: bool = True):
        self.folder = folder
        self.materials = folder / "materials"
        self.server = ForkServer()
        logging.disable(logging.CRITICAL)
        if not self.materials.is_dir():
            self._make_materials()
        self.in_process = [
            *groups.reader_groups(folder / "whole"),
            *groups.knob_groups(),
            *groups.text_groups(self.materials),
            *groups.own_file_groups(self.materials),
        ]
        self.commands = groups.command_groups() if commands else []

    def _make_materials(self) -> None:
        self.materials.mkdir(parents=True)
        materials.make_own_files(self.materials)

        def run(argv: list[str]) -> None:
            outcome = self.server.run(argv, self.materials, seconds=120)
            if outcome.code:
                raise RuntimeError(f"{argv}: {outcome.err}")

        materials.add_images(self.materials, run)

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
        self.server.close()

    def run_one(self, name: str, number: int) -> tuple[Verdict, str]:
        """One case by its group and number."""
        for group in self.commands:
            if group.name == name:
                return group.run(number, self._scratch(), self.materials, self.server)
        group = next(one for one in self.in_process if one.name == name)
        found = list(self.run_batch(group, number, number + 1))
        return found[0][1:]

    def run_batch(self, group: groups.Group, start: int, stop: int) -> Iterator[tuple[int, Verdict, str]]:
        """Cases of a group in children; one that dies is judged, and the next child goes on behind it."""
        while start < stop:
            scratch = self._scratch()
            log = scratch.with_name(f"{scratch.name}.jsonl")
            log.write_text("")
            pid = os.fork()
            if pid == 0:
                _run_child(group, start, stop, scratch, log)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            for line in log.read_text().splitlines():
                number, verdict, why = json.loads(line)
                start = number + 1
                yield number, Verdict(verdict), why
            if status:
                is_hang = status in (-signal.SIGPROF, -signal.SIGALRM, -signal.SIGXCPU)
                yield start, Verdict.HANG if is_hang else Verdict.SIGNAL, f"exit {status}"
                start += 1

    def run_commands(
        self, group: groups.CommandGroup, start: int, stop: int
    ) -> Iterator[tuple[int, Verdict, str]]:
        """Cases of a group, each in a child of the fork server."""
        for number in range(start, stop):
            yield number, *group.run(number, self._scratch(), self.materials, self.server)

    def _scratch(self) -> Path:
        scratch = self.folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        return scratch


def _run_child(group: groups.Group, start: int, stop: int, folder: Path, log: Path) -> None:
    """Judge cases one by one, and note each; never returns."""
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        data = _read_status("VmData") + 3 * 2**29
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
        os.chdir(folder)
        warnings.simplefilter("ignore")
        with log.open("a") as file:
            for number in range(start, stop):
                verdict, why = _judge(group, number, folder)
                file.write(json.dumps([number, verdict, why]) + "\n")
                file.flush()
                groups.empty(folder)
        code = 0
    finally:
        os._exit(code)


def _judge(group: groups.Group, number: int, folder: Path) -> tuple[Verdict, str]:
    before = _read_status("VmRSS")
    highest = _read_status("VmHWM")
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        verdict, why = group.run(number, folder)
    except Exception:
        verdict, why = Verdict.TRACEBACK, traceback.format_exc()[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    now = _read_status("VmHWM")
    if now > highest + 2**27:  # a new height: of this case, and not to be that of the next one
        Path("/proc/self/clear_refs").write_text("5")
    if now > highest and now - before > MAX_MEMORY:
        return Verdict.MEMORY, f"{(now - before) / 1e9:.2f} GB: {why}"
    return verdict, why


def _read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def run(arguments: argparse.Namespace) -> int:
    """Take batches of all groups in turn until the time is over; the number of failures."""
    counts: dict[str, dict[str, int]] = {}
    if arguments.counts.is_file():
        counts = json.loads(arguments.counts.read_text())
    end = time.monotonic() + arguments.seconds
    failed = 0
    with _open(arguments) as campaign:
        turn = 0
        while time.monotonic() < end:
            for group in (*campaign.in_process, *campaign.commands):
                if time.monotonic() > end or not group.name.startswith(tuple(arguments.only)):
                    continue
                row = counts.setdefault(group.name, {})
                first = sum(row.values())
                if isinstance(group, groups.CommandGroup):
                    batch = campaign.run_commands(group, first, first + arguments.commands)
                else:
                    batch = campaign.run_batch(group, first, first + arguments.batch)
                for number, verdict, why in batch:
                    row[verdict] = row.get(verdict, 0) + 1
                    if verdict in FAILURES:
                        failed += 1
                        _note(arguments.found, group.name, number, verdict, why)
                arguments.counts.write_text(json.dumps(counts, indent=1))
            turn += 1
    print(f"{sum(sum(row.values()) for row in counts.values())} cases, {failed} failures now")
    return failed


def _open(arguments: argparse.Namespace) -> Campaign:
    return Campaign(arguments.folder or Path(tempfile.mkdtemp(prefix="hostile-")))


def _note(path: Path, *what: Any) -> None:
    with path.open("a") as file:
        file.write(json.dumps(what) + "\n")
    print(*what, file=sys.stderr, flush=True)


def write_table(counts: dict[str, dict[str, int]], path: Path = DOCS) -> None:
    """Put the counts into the page between its marks."""
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    path.write_text(f"{head}{MARKS[0]}\n{format_table(counts)}\n{MARKS[1]}{tail}", encoding="utf-8")


def format_table(counts: dict[str, dict[str, int]]) -> str:
    """Rows of groups (readers of HDF5 kinds together), columns of verdicts.

    Example:
        >>> print(format_table({"own: a": {"accepted": 2, "one sentence": 3}}).splitlines()[2])
        | own: a | 5 | 3 | 2 | 0 |
    """
    rows: dict[str, dict[str, int]] = {}
    for name, found in counts.items():
        label = (
            "reader: HDF5 of microscopes, programs, beamlines" if name.startswith("reader: HDF5") else name
        )
        row = rows.setdefault(label, {})
        for verdict, count in found.items():
            row[verdict] = row.get(verdict, 0) + count
    lines = ["| input | cases | one sentence | accepted | failures |", "|---|---|---|---|---|"]
    total = [0, 0, 0, 0]
    for name, row in sorted(rows.items()):
        bad = {verdict: count for verdict, count in row.items() if verdict in FAILURES and count}
        numbers = [
            sum(row.values()),
            row.get(Verdict.REFUSED, 0),
            row.get(Verdict.ACCEPTED, 0),
            sum(bad.values()),
        ]
        total = [a + b for a, b in zip(total, numbers, strict=True)]
        shown = ", ".join(f"{count} {verdict}" for verdict, count in bad.items()) or "0"
        lines.append(f"| {name} | {numbers[0]:,} | {numbers[1]:,} | {numbers[2]:,} | {shown} |")
    lines.append(f"| **all** | {total[0]:,} | {total[1]:,} | {total[2]:,} | {total[3]} |")
    return "\n".join(lines)


def main() -> None:
    """The command line; the exit code is 1 where anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--counts", type=Path, default=Path("counts.json"))
    parser.add_argument("--found", type=Path, default=Path("found.jsonl"))
    parser.add_argument("--folder", type=Path, help="for materials, which are kept; default: a new one")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names of groups")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--commands", type=int, default=8, help="cases of a group of commands in a turn")
    parser.add_argument("--table", type=Path, help="counts to be put into docs/damaged.md")
    parser.add_argument("--case", nargs=2, metavar=("GROUP", "NUMBER"))
    arguments = parser.parse_args()
    if arguments.table:
        write_table(json.loads(arguments.table.read_text()))
    elif arguments.case:
        with _open(arguments) as campaign:
            print(*campaign.run_one(arguments.case[0], int(arguments.case[1])), sep="\n")
    else:
        sys.exit(1 if run(arguments) else 0)


if __name__ == "__main__":
    main()
