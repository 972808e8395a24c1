"""What the page costs a run that it watches, and whether its memory grows.

    python -m benchmarks.page --out benchmarks/results/page-DATE.json

The same run alone, with the page of its folder open, watched by a browser, and with a page that is killed
in the middle (SIGKILL): CPU seconds of the run's own process an epoch, and whether objects, probes and
positions are the same bits. A run that is steered, and repeated from its ``run.yaml``. A run of
``--epochs`` short epochs that a browser watches all the time: resident memory of page and browser. Time and
bytes until the page shows an object of 2048 x 2048 pixels.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.record import machine
from phaseloom.data.formats import native
from phaseloom.result import load
from phaseloom.runs.control import CommandReader, send_command
from phaseloom.simulation import simulate

__all__ = ["main", "measure_cost", "measure_memory", "measure_picture"]

BEAM = {"energy": 80e3, "semiangle": 0.03, "defocus": 150.0}
PROBE = {"focused": {"semiangle": "30 mrad", "defocus": "15 nm"}}


def write_inputs(folder: Path, *, window: int, side: int, epochs: int) -> Path:
    """A scan and a recipe for it; the path of the recipe."""
    folder.mkdir(parents=True)
    step, pixel = 1.2, 0.25
    positions = simulate.raster((side, side), step, jitter=0.05, seed=1) + window * pixel / 2 + 2
    extent = int((side * step + window * pixel + 6) / pixel)
    truth = simulate.atoms((extent, extent), pixel, peak=0.4, seed=2)
    scan, _ = simulate.electron_scan(truth, pixel, positions, **BEAM, window=window, dose=1e5)
    native.write(scan, folder / "scan.h5")
    tree = {"file": "scan.h5", "probe": PROBE, "start": "none", "epochs": epochs, "patience": None, "seed": 3}
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    return folder / "run.yaml"


def begin(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own."""
    words = [sys.executable, "-m", "phaseloom", "reconstruct", str(recipe), "--out", str(out), "--quiet"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def count_epochs(out: Path) -> int:
    """Epochs of which a run has left the line."""
    events = out / "events.jsonl"
    return events.read_text().count('"number"') if events.is_file() else 0


def follow(run: subprocess.Popen[bytes], out: Path, epochs: int, middle: Any = lambda: None) -> float:
    """CPU seconds of an epoch, from the end of the first tenth of them to that of the ninth."""
    process = psutil.Process(run.pid)
    marks: list[tuple[int, float]] = []
    done_middle = False
    while run.poll() is None:
        number = count_epochs(out)
        if number >= epochs // 10:
            marks.append((number, sum(process.cpu_times()[:2])))
        if number >= epochs // 2 and not done_middle:
            done_middle = True
            middle()
        if number >= 0.9 * epochs:
            break
        time.sleep(0.2)
    run.wait()
    (first, early), (last, late) = marks[0], marks[-1]
    return (late - early) / (last - first)


@contextmanager
def serve(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The page of a folder: its process and its address with the token."""
    log = root.parent / f"{root.name}.log"
    words = [sys.executable, "-m", "phaseloom", "web", str(root), "--no-browser"]
    with open(log, "wb") as output:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        while not (found := re.search(r"page: (\S+)", log.read_text())):
            time.sleep(0.1)
        time.sleep(1.0)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


@contextmanager
def browse(address: str) -> Iterator[Any]:
    """A browser on the page, on its tab that watches."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_role("button", name="List again").wait_for()
        page.locator(".bk-tab", has_text=re.compile("^Watch$")).click()
        yield page
        browser.close()


def watch(page: Any, run: str) -> None:
    """Choose a run to be watched."""
    page.get_by_label("Run", exact=True).select_option(run)


def measure_cost(folder: Path, epochs: int) -> dict[str, Any]:
    """The same run alone, with a page, watched, with a page that is killed; steered, and repeated."""
    recipe = write_inputs(folder / "data", window=64, side=16, epochs=epochs)
    root = recipe.parent
    costs: dict[str, float] = {}

    def go(name: str, middle: Any = lambda: None) -> Path:
        out = root / "runs" / name
        costs[name] = follow(begin(recipe, out), out, epochs, middle)
        print(name, f"{costs[name]:.4f} CPU s an epoch", flush=True)
        return out

    alone = go("alone")
    go("again")
    with serve(root) as (server, address):
        used = psutil.Process(server.pid)
        before = sum(used.cpu_times()[:2])
        go("page")
        server_idle = sum(used.cpu_times()[:2]) - before
        with browse(address) as page:
            out = root / "runs" / "watched"
            before = sum(used.cpu_times()[:2])
            run = begin(recipe, out)
            while not count_epochs(out):
                time.sleep(0.1)
            watch(page, "runs/watched")
            costs["watched"] = follow(run, out, epochs)
            server_busy = sum(used.cpu_times()[:2]) - before
            page.get_by_role("status").filter(has_text="ended").first.wait_for()
    with serve(root) as (server, address), browse(address):
        go("killed page", lambda: server.send_signal(signal.SIGKILL))
    names = ("again", "page", "watched", "killed page")
    return {
        "epochs": epochs,
        "CPU s an epoch": costs,
        "CPU s to look for commands after an epoch": measure_look(alone),
        "CPU s of the page while nobody looks": server_idle,
        "CPU s of the page while a browser watches": server_busy,
        "same bits as alone": {name: is_same(alone, root / "runs" / name) for name in names},
        **measure_steering(recipe, alone, epochs),
    }


def measure_look(folder: Path, looks: int = 20_000) -> float:
    """CPU seconds that a run takes after an epoch to look for commands: all that a page can ask of it."""
    reader = CommandReader(folder)
    before = time.process_time()
    for _ in range(looks):
        reader.has_new()
    return (time.process_time() - before) / looks


def is_same(one: Path, two: Path) -> bool:
    """Whether two runs have found the same bits."""
    first, second = load(one / "result.h5"), load(two / "result.h5")
    names = ("object", "probe", "positions")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def measure_steering(recipe: Path, alone: Path, epochs: int) -> dict[str, bool]:
    """Whether a run that is steered from another process repeats to the same bits from its folder."""
    steered = alone.with_name("steered")
    run = begin(recipe, steered)
    while count_epochs(steered) < epochs // 4:
        time.sleep(0.05)
    for command, settings in (("pause", {}), ("set", {"rates.object": 0.15}), ("resume", {})):
        send_command(steered, command, settings)
    run.wait()
    repeated = alone.with_name("repeated")
    begin(steered / "run.yaml", repeated).wait()
    return {
        "steered differs from alone": not is_same(alone, steered),
        "steered repeats to the same bits": is_same(steered, repeated),
    }


def measure_picture(folder: Path, side: int = 2048) -> dict[str, float]:
    """Seconds and bytes from the choice of a run to the last large message, for an object of many pixels."""
    recipe = write_inputs(folder / "data", window=32, side=4, epochs=2)
    run = recipe.parent / "runs" / "large"
    begin(recipe, run).wait()
    small = load(run / "result.h5")
    phase = np.random.default_rng(1).normal(0, 0.3, (1, side, side)).astype(np.float32)
    ends = np.array([[0.0, 0.0], [side - 1.0, side - 1.0]]) * small.pixel + small.origin
    positions = np.linspace(*ends, len(small.positions))
    large = replace(
        small,
        object=np.exp(1j * phase),
        coverage=np.ones((side, side), np.float32),
        positions=positions,
        positions_start=positions,
        grid=None,
        uncertainty=None,
        halves=None,
    )
    large.save(run / "result.h5")
    frames: list[tuple[float, int]] = []
    with serve(recipe.parent) as (_, address), browse(address) as page:
        page.on(
            "websocket",
            lambda socket: socket.on(
                "framereceived", lambda data: frames.append((time.monotonic(), len(data)))
            ),
        )
        page.reload()
        page.get_by_role("button", name="List again").wait_for()
        page.locator(".bk-tab", has_text=re.compile("^Watch$")).click()
        page.wait_for_timeout(3000)
        frames.clear()
        began = time.monotonic()
        watch(page, "runs/large")
        page.wait_for_timeout(6000)
    large_ones = [when for when, size in frames if size > 20_000]
    return {
        "seconds": round(max(large_ones) - began, 2) if large_ones else float("nan"),
        "bytes": sum(size for _, size in frames),
    }


def measure_memory(folder: Path, epochs: int) -> dict[str, Any]:
    """Resident memory of page and browser over a long run of short epochs, in MB.

    The browser collects its garbage before each reading; ``heap MB`` and ``nodes`` are those of the page.
    """
    recipe = write_inputs(folder / "data", window=24, side=5, epochs=epochs)
    out = recipe.parent / "runs" / "long"
    rows: list[dict[str, float]] = []
    with serve(recipe.parent) as (server, address):
        run = begin(recipe, out)
        while not count_epochs(out):
            time.sleep(0.1)
        with browse(address) as page:
            watch(page, "runs/long")
            tools = page.context.new_cdp_session(page)
            for domain in ("HeapProfiler", "Performance"):
                tools.send(f"{domain}.enable")
            began = time.monotonic()
            while run.poll() is None:
                page.wait_for_timeout(5000)
                tools.send("HeapProfiler.collectGarbage")
                told = tools.send("Performance.getMetrics")["metrics"]
                metrics = {one["name"]: one["value"] for one in told}
                family = psutil.Process().children(recursive=True)
                chrome = [one for one in family if "chrom" in one.name()]
                row = {
                    "seconds": round(time.monotonic() - began),
                    "epoch": count_epochs(out),
                    "page MB": round(psutil.Process(server.pid).memory_info().rss / 1e6, 1),
                    "browser MB": round(sum(one.memory_full_info().pss for one in chrome) / 1e6, 1),
                    "heap MB": round(metrics["JSHeapUsedSize"] / 1e6, 1),
                    "nodes": metrics["Nodes"],
                }
                if not rows or row["seconds"] - rows[-1]["seconds"] >= 30:
                    rows.append(row)
                    print(row, flush=True)
            page.get_by_role("status").filter(has_text="ended").first.wait_for()
            shown = page.get_by_role("status").first.inner_text()
    return {"epochs": epochs, "status at the end": shown, "memory": rows}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10_000)
    parser.add_argument("--cost-epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        cost = measure_cost(Path(folder) / "cost", arguments.cost_epochs)
        picture = measure_picture(Path(folder) / "large")
        print(picture, flush=True)
        memory = measure_memory(Path(folder) / "long", arguments.epochs)
    found = {"date": str(date.today()), "machine": machine(), "cost": cost, "picture of 2048 x 2048": picture}
    found["memory"] = memory
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(cost, indent=1))


if __name__ == "__main__":
    main()
