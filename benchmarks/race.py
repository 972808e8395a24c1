"""Time to a good image, ours against the others: sweep, race, table.

    python -m benchmarks.race sweep --runs 16 --cases S thick --programs ptyrad "ptychi lsqml"
    python -m benchmarks.race run --objects 3 --draws 3 --first 301
    python -m benchmarks.race table

``sweep`` tries rates of the peers on one tuning object (object 0, noise 0) and freezes the best: the
one that reaches the race's target soonest in CPU seconds, else the one that comes lowest. ``run`` takes the
frozen settings, and ours, to objects and noise draws that nothing was tuned on. ``table`` writes medians
and spreads. One thread each; the environments are those of ``benchmarks/peers/install.py``.
"""

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks import cases, record
from benchmarks.contest import PROGRAMS, RACES

ROOT = Path(__file__).parents[1]
FROZEN = Path(__file__).with_name("frozen.json")
ONE = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
ALONE = ONE | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "MPLBACKEND": "Agg"}
OF_RACE = ("epochs", "off", "seed", "still", "cpu_limit", "every")
BESIDE = ("scaled", "rmse", "slices", "positions")


def course(program, case, settings, environments):
    """Record of one run in the program's own environment, or None if it fell over."""
    if program == "ours":
        python, module = sys.executable, "benchmarks.ours"
    else:
        name = PROGRAMS[program]["environment"]
        python, module = environments / name / "bin" / "python", f"benchmarks.peers.{name}"
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "settings.json"), Path(folder, "out.json")
        given.write_text(json.dumps(settings))
        done = subprocess.run(
            [python, "-m", module, case.resolve(), given, out],
            check=False,
            cwd=ROOT,
            env=os.environ | ALONE,
            capture_output=True,
            text=True,
        )
        if out.exists():
            return json.loads(out.read_text())
    print(done.stderr[-2000:], file=sys.stderr)
    return None


def summary(found, race):
    """A record in few numbers: when it passed each mark, how low it came, what it cost."""
    rows, key = found["epochs"], race["measure"]
    rows = [row for row in rows if np.isfinite(row[key])]
    out = {"ended": found["ended"], "marks": {}}
    for mark in race["marks"]:
        passed = next((row for row in rows if row[key] <= mark), None)
        out["marks"][str(mark)] = passed and {name: passed[name] for name in ("cpu_s", "epoch", "updates")}
    if rows:
        best = min(rows, key=lambda row: row[key])
        out |= {"best": best[key], "best_epoch": best["epoch"], "last": rows[-1][key]}
        out |= {"error": min(row["error"] for row in rows)}
        out |= {name: best[name] for name in BESIDE} | {"last_positions": rows[-1]["positions"]}
        out["best_scaled"] = min(row["scaled"] for row in rows)
        out["epoch_s"] = round(found["cpu_s"] / rows[-1]["epoch"], 4)
    return out | {name: found[name] for name in ("warm_up_s", "set_up_s", "peak_mb")}


def rank(short, race):
    """What a sweep minimises: CPU seconds to the target, or if it is not reached the lowest error."""
    passed = race["target"] and short["marks"][str(race["target"])]
    return (0, passed["cpu_s"]) if passed else (1, short.get("best", float("inf")))


def placed(values, base):
    """Settings from values under dotted names."""
    out = copy.deepcopy(base)
    for name, value in values.items():
        inner = out
        *path, last = name.split(".")
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return out


def common(race):
    """Settings that every program is given in a race."""
    return {"epochs": race["epochs"], "off": race["off"], "seed": 0, "still": race.get("still", [])}


def candidates(program, race, given, judged):
    """Settings to try, one by one: the program's own, the start, then steps on the grid.

    ``judged`` is filled by the caller with ``(rank, values)``; two of three steps go one place along one
    or two axes from the best so far, the third is drawn from the whole grid.
    """
    known = PROGRAMS[program]
    draw, grid = random.Random(program), known["grid"]
    deep = cases.CASES[race["case"]].slices > 1
    tried = [known["deep" if deep and "deep" in known else "start"]]
    if not given.skip_own:
        yield None
    yield tried[0]
    for number in range(given.runs - 2):
        for _ in range(200):
            values = {name: draw.choice(all_of) for name, all_of in grid.items()}
            if number % 3 < 2 and judged:
                values = dict(min(judged, key=lambda one: one[0])[1])
                for name in draw.sample(list(grid), draw.choice((1, 2))):
                    at = grid[name].index(values[name]) + draw.choice((-1, 1))
                    values[name] = grid[name][min(max(at, 0), len(grid[name]) - 1)]
            if values not in tried:
                break
        tried.append(values)
        yield values


def settled(program, race, values):
    """Whole settings of a run; ``None`` for the program's own."""
    known = PROGRAMS[program]
    base = copy.deepcopy(known["base"]) | common(race)
    out = base | copy.deepcopy(known["first"]) if values is None else placed(values, base)
    out["rates"].update(dict.fromkeys(out["still"], 0.0))
    return out


def swept(program, race, given):
    """All runs of a sweep on the tuning object, in short, and the whole record of the best."""
    case = cases.written(given.into, race["case"], dose=race["dose"])
    judged, out, best = [], [], None
    for values in candidates(program, race, given, judged):
        settings = settled(program, race, values) | given.limits
        found = course(program, case, settings, given.environments)
        if found is None:
            out.append({"settings": settings, "ended": "fell over"})
            continue
        short = summary(found, race)
        out.append({"settings": settings, **short})
        if best is None or rank(short, race) < rank(summary(best, race), race):
            best = found
        if values is not None:
            judged.append((rank(short, race), values))
        print(f"  {short.get('best')} {settings}", flush=True)
    return {"runs": out, "best": best and compact(best)}


def compact(found):
    """A record with its epochs as rows of a table."""
    rows = found["epochs"]
    columns = list(rows[0]) if rows else []
    return found | {"columns": columns, "epochs": [[row[name] for name in columns] for row in rows]}


def sweep(given):
    """Try rates; keep every run's numbers and freeze the best settings."""
    for name in given.cases:
        for program in given.programs:
            if program == "ours":
                continue
            print(f"{name}: {program}", flush=True)
            made = swept(program, RACES[name], given)
            file = given.results / f"sweep {name} {program}.json".replace(" ", "_")
            file.write_text(json.dumps({"race": name, "program": program, **about(), **made}) + "\n")
            freeze(given.frozen, name, program, made["best"])


def freeze(file, name, program, best):
    """Add the settings of the best run to the file of frozen settings."""
    frozen = json.loads(file.read_text()) if file.exists() else {}
    if best is not None:
        chosen = {key: value for key, value in best["settings"].items() if key not in OF_RACE}
        frozen.setdefault(name, {})[program] = chosen
    file.write_text(json.dumps(frozen, indent=1) + "\n")


def run(given):
    """The race itself, on objects and draws that no sweep has seen."""
    frozen = json.loads(given.frozen.read_text())
    for name in given.cases:
        race, rows = RACES[name], []
        for number in range(given.objects * given.draws):
            which, draw = given.first + number // given.draws, number % given.draws
            seeds = {"object_seed": which, "noise_seed": cases.noise_seed(which, given.first, draw)}
            case = cases.written(given.into, race["case"], dose=race["dose"], **seeds)
            for program in given.programs:
                known = {} if program == "ours" else frozen.get(race.get("settings", name), {}).get(program)
                settings = None if known is None else known | common(race)
                found = settings and course(program, case, settings, given.environments)
                if found:
                    rows.append({"program": program, **seeds, **summary(found, race)})
                    rows[-1]["versions"] = found["versions"]
                    print(f"{name} {seeds} {program}: {rows[-1].get('best')}", flush=True)
            case.unlink()
        file = given.results / f"race {name}.json".replace(" ", "_")
        file.write_text(json.dumps({"race": name, **about(), "runs": rows}) + "\n")
    table(given)


def about():
    """When, where and of which commit."""
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {"date": f"{date.today()}", "commit": asked.stdout.strip(), "machine": record.machine()}


def middle(values):
    """Median of values of which None was never reached, as text."""
    return f"{np.median([np.inf if v is None else v for v in values]):.3g}"


def spread(values):
    """Median, and smallest to largest, of values of which None was never reached."""
    known = sorted(v for v in values if v is not None)
    if 2 * len(known) <= len(values):
        return f"never ({len(known)} of {len(values)})" if known else "-"
    end = f"{known[-1]:.3g}" if len(known) == len(values) else "never"
    return f"{middle(values)} ({known[0]:.3g} to {end})"


def lines(name, made):
    """Table of one race in Markdown: medians, in brackets the smallest and the largest."""
    marks = [str(mark) for mark in RACES[name]["marks"]]
    heads = [f"to {mark}: CPU s / epochs / updates" for mark in marks]
    beside = ["best error", "best scaled", "rmse rad", "slices", "positions px", "s per epoch", "peak MB"]
    yield f"## {name}, marks of {RACES[name]['measure']}\n"
    yield f"{made['date']}, commit {made['commit']}, {made['machine']}\n"
    yield "| " + " | ".join(["program", "runs", *heads, *beside]) + " |"
    yield "|---" * (2 + len(heads) + len(beside)) + "|"
    for program in dict.fromkeys(row["program"] for row in made["runs"]):
        rows = [row for row in made["runs"] if row["program"] == program]
        cells = [program, str(len(rows)), *(passing([row["marks"][mark] for row in rows]) for mark in marks)]
        keys = ("error", "best_scaled", "rmse", "slices", "last_positions", "epoch_s", "peak_mb")
        cells += [spread([row.get(key) for row in rows]) for key in keys]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def passing(passed):
    """Cell of a mark: CPU seconds with their spread, epochs, updates."""
    seconds = spread([p and p["cpu_s"] for p in passed])
    if not seconds[0].isdigit():
        return seconds
    return " / ".join([seconds, *(middle([p and p[part] for p in passed]) for part in ("epoch", "updates"))])


def sweep_lines(folder):
    """Table of the sweeps in a folder: the chosen run of each."""
    yield "## Sweeps, on the tuning object\n"
    heads = ["race", "program", "runs", "settings", "CPU s / epochs to marks", "best", "lowest of all runs"]
    yield "| " + " | ".join([*heads, "s per epoch", "peak MB"]) + " |"
    yield "|---" * 9 + "|"
    for file in sorted(folder.glob("sweep_*.json")):
        made = json.loads(file.read_text())
        name, runs = made["race"], [one for one in made["runs"] if "best" in one]
        if not runs:
            continue
        best = min(runs, key=lambda one: rank(one, RACES[name]))
        marks = "; ".join(
            f"{mark}: " + (f"{at['cpu_s']:.3g} / {at['epoch']}" if at else "never")
            for mark, at in best["marks"].items()
        )
        chosen = {key: value for key, value in best["settings"].items() if key not in OF_RACE}
        count = str(len(made["runs"]))
        numbers = [best["best"], min(one["best"] for one in runs), best["epoch_s"], best["peak_mb"]]
        cells = [name, made["program"], count, json.dumps(chosen).replace('"', ""), marks, *map(str, numbers)]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def table(given):
    """Medians and spreads of all races in the folder, as Markdown and JSON."""
    text, whole = ["# Race\n"], {}
    for name in RACES:
        file = given.results / f"race {name}.json".replace(" ", "_")
        if file.exists():
            whole[name] = json.loads(file.read_text())
            text += lines(name, whole[name])
    if list(given.results.glob("sweep_*.json")):
        text += sweep_lines(given.results)
    (given.results / "table.md").write_text("\n".join(text))
    if whole:
        (given.results / "table.json").write_text(json.dumps(whole) + "\n")
    print("\n".join(text))


def main():
    """Sweep, run or table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["sweep", "run", "table"])
    parser.add_argument("--cases", nargs="+", choices=list(RACES), default=["S", "S low dose", "M", "thick"])
    parser.add_argument(
        "--programs", nargs="+", choices=["ours", *PROGRAMS], default=["ours", *PROGRAMS], metavar="PROGRAM"
    )
    parser.add_argument("--runs", type=int, default=16, help="of each sweep")
    parser.add_argument("--skip-own", action="store_true", help="sweep without the program's defaults")
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument(
        "--first", type=int, default=101, help="seed of the first object: new ones at each race"
    )
    parser.add_argument("--epochs", type=int, help="instead of those of the race, in sweeps")
    parser.add_argument("--cpu-limit", type=float, help="of one run in a sweep, CPU seconds")
    parser.add_argument("--environments", type=Path, default=ROOT / ".bench")
    parser.add_argument("--into", type=Path, default=ROOT / "runs" / "cases", help="folder of the cases")
    parser.add_argument("--frozen", type=Path, default=FROZEN, help="file of the settings that sweeps chose")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / f"{date.today()}")
    given = parser.parse_args()
    limits = {"epochs": given.epochs, "cpu_limit": given.cpu_limit}
    given.limits = {name: value for name, value in limits.items() if value}
    given.results.mkdir(parents=True, exist_ok=True)
    {"sweep": sweep, "run": run, "table": table}[given.what](given)


if __name__ == "__main__":
    main()
