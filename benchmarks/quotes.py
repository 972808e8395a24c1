"""Numbers of pages that are read from the results of benchmarks.

A number is followed by a comment that names its file and its place there:
``0.53<!-- race/table S/runs/program=ours/best/median -->``. The file is one of ``results``, without ending.
A step of the place is a key, or the index of an entry; in a list of entries ``key=value`` keeps those with
that value, a key reads it from each, ``:0`` the first of each, ``abs`` drops signs, and ``median, mean,
deviation, min, max, sum, count`` end it. A last ``*100`` is a factor. A number keeps the digits that it is
written with.

    python -m benchmarks.quotes            # what differs
    python -m benchmarks.quotes --write    # write the numbers of the files
"""

import argparse
import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUOTE = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)(?=\**<!-- (\S+) ([^>]+?) -->)")
ENDS: dict[str, Callable[[Any], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
    "deviation": statistics.stdev,
    "min": min,
    "max": max,
    "sum": sum,
    "count": len,
}


@lru_cache
def load(name: str) -> Any:
    """A file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def look_up(name: str, place: str) -> float:
    """The number at a place of a file.

    Raises:
        KeyError: no such place.
    """
    value: Any = load(name)
    for step in place.split("/"):
        value = _follow(value, step)
    if isinstance(value, list | dict | str) or value is None:
        raise KeyError(f"{name} {place}: is not one number")
    return float(value)


def _follow(value: Any, step: str) -> Any:
    if step.startswith("*"):
        return float(value) * float(step[1:])
    if isinstance(value, list):
        return _follow_list(value, step)
    if step in ENDS and step not in value:
        return ENDS[step](list(value.values()))
    return value[step]


def _follow_list(entries: Sequence[Any], step: str) -> Any:
    if step in ENDS:
        return ENDS[step](entries)
    if step == "abs":
        return [abs(one) for one in entries]
    if step.startswith(":"):
        return [one[int(step[1:])] for one in entries]
    if step.isdigit() and not (entries and isinstance(entries[0], dict) and step in entries[0]):
        return entries[int(step)]
    key, equals, wanted = step.partition("=")
    if not equals:
        return [math.inf if one == math.inf else one.get(step, math.inf) for one in entries]
    kept = [one for one in entries if str(one.get(key)) == wanted]
    if not kept:
        raise KeyError(step)
    return kept


def regenerate(text: str) -> str:
    """A page with the numbers of its files."""
    return QUOTE.sub(_write_number, text)


def _write_number(found: re.Match[str]) -> str:
    written, name, place = found.groups()
    digits = len(written.partition(".")[2])
    shown = f"{look_up(name, place):,.{digits}f}"
    return shown if "," in written else shown.replace(",", "")


def list_pages() -> list[Path]:
    """Pages that may quote."""
    return [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def list_decisions() -> list[Path]:
    """Decisions, which quote what they were taken for."""
    return sorted((ROOT / "docs" / "decisions").glob("*.md"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    differing = 0
    for page in [*list_pages(), *list_decisions()]:
        text = page.read_text(encoding="utf-8")
        for line, new in zip(text.splitlines(), regenerate(text).splitlines(), strict=True):
            if line != new:
                differing += 1
                print(f"{page.relative_to(ROOT)}\n- {line}\n+ {new}")
        if write:
            page.write_text(regenerate(text), encoding="utf-8")
    return 1 if differing and not write else 0


if __name__ == "__main__":
    raise SystemExit(main())
