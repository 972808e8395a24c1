"""Whether fewer transforms would pay: what each way saves of an epoch, and what it does to the image.

    python -m benchmarks.fewer_transforms --out benchmarks/results/fewer-transforms-DATE.json

Three ways, on S and M of `benchmarks.cases` on their own grid:

*Snapped*: shifts of the probe are whole parts of a pixel; patterns of a batch with the same one share its
wave in real space. A probe that moves needs new waves for each batch, so it counts how many a batch has.
*Narrow*: rows of the spectrum outside a band are neither transformed nor written: of the probe (a lens
has none outside of its aperture), or of the wave between slices. *Cropped* takes patterns, and with them all
waves, on a smaller grid. *Real*: how much of the power of each transformed wave is imaginary, whatever its
phase as a whole; a transform of real numbers costs half of a complex one at best.

Prices are CPU microseconds of kernels (`benchmarks.fewer_kernels`, checked against the engine's own) beside
those of an epoch. Images are of runs of the engine with that change in its numbers and no other: errors by
epoch, medians over objects.
"""

import argparse
import json
import statistics
import subprocess
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import numba
import numpy as np
import torch

from benchmarks.cases import CASES, aperture_probe, first_probe, made, wavelength
from benchmarks.engine_costs import measure, price_run
from benchmarks.fewer_kernels import PIECES, Bench, check_held, check_narrow
from benchmarks.ours import HIDDEN, state, tree
from benchmarks.record import machine
from benchmarks.score import score
from phaseloom.physics.engine import steps
from phaseloom.physics.engine.lanes import advance, load, store
from phaseloom.physics.engine.misfit import lay_out_waves
from phaseloom.ptycho.newton import arrays
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["count_shared_shifts", "measure_imaginary_share", "price_pieces", "run_case"]

EPOCHS = {"S": 30, "M": 10}
TURNS = 16
SNAPS = (1, 2, 4, 8)
MARKS = {"S": (0.1, 0.06, 0.03), "M": (0.3, 0.15, 0.1)}
APERTURES = (1.3, 2.0)
"""Radius of the spectrum of a probe that is kept, in radii of the aperture."""
TIGHT = 1.02
"""The same of a lens, with the soft edge of its aperture."""
BANDS = (2 / 3, 0.6)
"""Radius of the band of waves between slices over that of the detector's edge."""


def count_rows(name: str, apertures: float) -> int:
    """Highest row of a probe's spectrum whose radius is so many apertures."""
    case = CASES[name]
    radius = case.semiangle * 1e-3 / wavelength(case.kv) * case.pixels * case.dx
    return int(apertures * radius)


def price_pieces(side: int, highest: int) -> dict[str, Any]:
    """Microseconds of the pieces, with rows up to ``highest``: the least of several turns through all."""
    bench = Bench(side, highest)
    many = max(1, 4_000_000 // side**2)
    spent: dict[str, list[float]] = {name: [] for name in PIECES}
    for turn in range(TURNS):
        for number, name in enumerate(PIECES):
            began = time.thread_time()
            bench.run(number, many)
            if turn:  # the first one compiles
                spent[name].append(1e6 * (time.thread_time() - began) / many)
    found = {name: round(min(several), 2) for name, several in spent.items()}
    middle = {name: round(statistics.median(several), 2) for name, several in spent.items()}
    return {"rows": 2 * highest + 1, "rows kept": bench.band.kept, **found, "medians": middle}


def count_shared_shifts(job: Job, positions: np.ndarray) -> dict[str, float]:
    """Distinct snapped shifts over patterns, mean over the batches of an epoch, by parts of a pixel."""
    rest = positions - np.round(positions)
    batches = list(job.recipe.batch(job.training, job.recipe.seed, job.scan.positions)(1))
    found: dict[str, float] = {"patterns in a batch": float(np.mean([len(one) for one in batches]))}
    for parts in SNAPS:
        # half a pixel to either side is the same shift of two windows, and two waves
        each = np.rint(rest * parts).astype(int)
        distinct = [len(np.unique(each[np.asarray(one)], axis=0)) / len(one) for one in batches]
        found[f"1/{parts}"] = round(float(np.mean(distinct)), 3)
    return found


def price_snapped(
    pieces: dict[str, Any], shared: dict[str, float], epoch: float, modes: int
) -> dict[str, Any]:
    """Microseconds of a pattern that snapping saves, and their share of an epoch."""
    plain, held, make, bring = (pieces[PIECES[n]] for n in (0, 2, 3, 4))
    out: dict[str, Any] = {}
    for parts in SNAPS:
        saved = modes * (plain - held - shared[f"1/{parts}"] * (make + bring))
        at_rest = modes * (plain - held)
        out[f"1/{parts}"] = {
            "saved": round(saved, 2),
            "of an epoch": round(saved / epoch, 3),
            "of an epoch, all waves made before": round(at_rest / epoch, 3),
        }
    return out


@contextmanager
def snap(parts: int) -> Iterator[None]:
    """Shifts of probes are whole parts of a pixel."""

    @numba.njit(error_model="numpy")
    def place(batch, positions, corners, rests):  # type: ignore[no-untyped-def]
        plain(batch, positions, corners, rests)
        for i in range(len(batch)):
            for a in range(2):
                rests[i, a] = np.rint(rests[i, a] * parts) / parts

    plain = steps.place_batch
    with _rebuilt_steps(place_batch=place):
        yield


@contextmanager
def _rebuilt_steps(**other: Any) -> Iterator[None]:
    """The compiled steps with other kernels in them."""
    code = steps.step_batches.py_func.__code__  # type: ignore[attr-defined]
    changed = types.FunctionType(code, {**vars(steps), **other})
    with mock.patch.object(steps, "step_batches", numba.njit(error_model="numpy", nogil=True)(changed)):
        yield


def keep_disk(side: int, radius: float) -> np.ndarray:
    """One within so many rows of the origin of a spectrum, in the order of an FFT."""
    q = np.fft.fftfreq(side) * side
    return (np.hypot(q[:, None], q) <= radius).astype(np.float32)


@contextmanager
def limit_probe(name: str, apertures: float) -> Iterator[None]:
    """Modes, and their gradients, within a disk of reciprocal space."""
    side = CASES[name].pixels
    layout = lay_out_waves((side, side), torch.float32)
    assert layout is not None
    inside = layout.arrange(torch.from_numpy(keep_disk(side, apertures * count_rows(name, 1000) / 1000)))
    lanes = layout.sizes[2]
    begin, end = steps.begin_batch, steps.end_batch

    @numba.njit(error_model="numpy")
    def limit(planes, n_modes):  # type: ignore[no-untyped-def]
        mask = steps_address(inside)
        for j in range(2 * n_modes):
            plane = advance(planes, j * len(inside))
            for at in range(0, len(inside), lanes):
                store(plane, at, load(plane, at) * load(mask, at))

    @numba.njit(error_model="numpy")
    def begin_limited(planes, modes, n_modes, *given):  # type: ignore[no-untyped-def]
        begin(planes, modes, n_modes, *given)
        limit(planes[2], n_modes)

    @numba.njit(error_model="numpy")
    def end_limited(planes, modes, n_modes, *given):  # type: ignore[no-untyped-def]
        limit(planes[3], n_modes)
        end(planes, modes, n_modes, *given)

    steps_address = steps.address
    with _rebuilt_steps(begin_batch=begin_limited, end_batch=end_limited):
        yield


@contextmanager
def limit_flights(name: str, share: float) -> Iterator[None]:
    """Waves between slices within a disk of reciprocal space."""
    side = CASES[name].pixels
    inside = torch.from_numpy(keep_disk(side, share * side / 2))
    plain = arrays.gather_flights

    def gather(layout: Any, model: Any) -> Any:
        real, imag = plain(layout, model)
        mask = layout.arrange(inside)
        return real * mask, imag * mask

    with mock.patch.object(arrays, "gather_flights", gather):
        yield


def crop(case: dict[str, Any], side: int) -> dict[str, Any]:
    """The same scan on the inner part of the detector."""
    before = case["meas"].shape[-1]
    first = before // 2 - side // 2
    inner = slice(first, first + side)
    shorter = {key: case[key] * side / before for key in ("pos_nominal_px",)}
    return case | shorter | {"meas": case["meas"][:, inner, inner], "dx": case["dx"] * before / side}


@lru_cache(maxsize=2)
def make_case(name: str, seed: int) -> dict[str, Any]:
    """An object with a noise draw of its own."""
    return made(CASES[name], object_seed=seed, noise_seed=seed + 1000)


class Course(NamedTuple):
    """Errors after each epoch, and the median of its CPU seconds."""

    errors: list[float]
    seconds: float


def run_case(name: str, seed: int, side: int | None = None) -> Course:
    """A run on the finest grid; its patterns are cropped to a ``side``."""
    case = make_case(name, seed)
    with TemporaryDirectory() as folder:
        path = Path(folder, "case.npz")
        given = crop(case, side) if side else case
        np.savez(path, **{key: value for key, value in given.items() if key not in HIDDEN})
        settings = {"off": CASES[name].defocus_start, "epochs": EPOCHS[name], "seed": 0}
        job = Job.begin(Reconstruct.of(tree(path, given, {**settings, "tree": {"levels": 0}})))
        errors = []
        seconds = []
        began = time.process_time()
        for _ in job:
            seconds.append(time.process_time() - began)
            phase, positions = state(job, float(case["dx"]))
            errors.append(score(phase, positions, case["obj_phase"], case["pos_px"])["error"])
            began = time.process_time()
    return Course(errors, statistics.median(seconds[1:]))


def list_changes(name: str) -> dict[str, Any]:
    """What is changed in a run, by name."""
    changes: dict[str, Any] = {"as it is": nullcontext}
    if CASES[name].slices > 1:
        for share in BANDS[-1:]:  # the wider one saves too little to be judged
            changes[f"slices in {share:.2f} of the band"] = partial(limit_flights, name, share)
        return changes  # snapping and a band of the probe touch few of its transforms
    for parts in SNAPS:
        changes[f"snapped to 1/{parts}"] = partial(snap, parts)
    for radius in (TIGHT, *APERTURES):
        changes[f"probe in {radius} apertures"] = partial(limit_probe, name, radius)
    return changes


def judge(name: str, seeds: list[int]) -> dict[str, Any]:
    """Errors of runs by change."""
    found = {}
    smaller = CASES[name].pixels * 3 // 4
    for change, begin in (list_changes(name) | {f"cropped to {smaller}": nullcontext}).items():
        side = smaller if change.startswith("cropped") else None
        with begin():
            runs = [run_case(name, seed, side) for seed in seeds]
        found[change] = _summarise(name, runs)
        print(json.dumps({name: {change: found[change]}}), flush=True)
    return found


def _summarise(name: str, runs: list[Course]) -> dict[str, Any]:
    """Medians over objects, and the lowest error and epochs to marks of each."""
    lowest = [min(one.errors) for one in runs]
    marks = {
        str(mark): [next((n + 1 for n, e in enumerate(one.errors) if e <= mark), None) for one in runs]
        for mark in MARKS[name]
    }
    epochs = zip(*(one.errors for one in runs), strict=False)
    return {
        "lowest": round(statistics.median(lowest), 4),
        "of each": [round(value, 4) for value in lowest],
        "by epoch": [round(statistics.median(some), 4) for some in epochs],
        "epochs to": marks,
        "CPU s of an epoch": round(statistics.median(one.seconds for one in runs), 4),
    }


def measure_imaginary_share(name: str, seed: int, patterns: int = 32) -> dict[str, dict[str, float]]:
    """Share of the power of the waves of S that is imaginary after the best turn of the whole wave.

    0 is a real wave, a half one whose phases are of every direction. Waves are those that the four transforms
    of a pattern begin or end with in real space, at the start of a run, for the probe as it is and in focus.
    """
    case = made(CASES[name], object_seed=seed, noise_seed=seed + 1000)
    known = CASES[name]
    n = known.pixels
    q = np.fft.fftfreq(n)
    starts = {
        "out of focus": first_probe(case, known.defocus_start)[0],
        "in focus": aperture_probe(n, known.dx, known.kv, known.semiangle, 0.0),
    }
    objects = {"phases": np.exp(1j * case["obj_phase"][0]), "absorption alone": np.exp(-case["obj_phase"][0])}
    found: dict[str, dict[str, float]] = {}
    for (focus, probe), (kind, through) in ((a, b) for a in starts.items() for b in objects.items()):
        shares: dict[str, list[float]] = {}
        for place, counts in list(zip(case["pos_px"], case["meas"], strict=True))[:patterns]:
            whole = np.round(place).astype(int)
            y, x = np.exp(-2j * np.pi * np.outer(place - whole, q))
            wave = np.fft.ifft2(np.fft.fft2(probe) * (y[:, None] * x)) * np.sqrt(known.dose)
            top, left = whole - n // 2
            window = through[top : top + n, left : left + n]
            far = np.fft.fft2(wave * window, norm="ortho")
            slope = 1 - np.fft.ifftshift(counts) / (np.abs(far) ** 2 + 0.01)
            back = np.fft.ifft2(slope * far, norm="ortho")
            waves = {
                "incident": wave,
                "exit": wave * window,
                "gradient of the exit wave": back,
                "gradient of the incident wave": back * window.conj(),
            }
            for part, one in waves.items():
                share = 0.5 * (1 - abs((one**2).sum()) / (np.abs(one) ** 2).sum())
                shares.setdefault(part, []).append(float(share))
        found[f"{focus}, {kind}"] = {part: round(float(np.mean(v)), 3) for part, v in shares.items()}
    return found


def price_case(name: str, seed: int) -> dict[str, Any]:
    """All prices of a case."""
    known = CASES[name]
    epoch = price_run(name, seed)
    case = made(known, object_seed=seed, noise_seed=seed + 1000)
    with TemporaryDirectory() as folder:
        path = Path(folder, "case.npz")
        np.savez(path, **{key: value for key, value in case.items() if key not in HIDDEN})
        settings = {"off": known.defocus_start, "epochs": 1, "seed": 0, "tree": {"levels": 0}}
        job = Job.begin(Reconstruct.of(tree(path, case, settings)))
        shared = count_shared_shifts(job, case["pos_px"])
    whole = epoch["an epoch"]
    pieces = {f"{r} apertures": price_pieces(known.pixels, count_rows(name, r)) for r in (TIGHT, *APERTURES)}
    first = pieces[f"{TIGHT} apertures"]
    found: dict[str, Any] = {"epoch": epoch, "distinct shifts over patterns": shared, "probe": pieces}
    found["snapped"] = price_snapped(first, shared, whole, known.modes)
    found["probe in a band, of an epoch"] = {
        key: round(known.modes * (one[PIECES[0]] - one[PIECES[1]]) / whole, 3) for key, one in pieces.items()
    }
    if known.slices > 1:
        bands = {f"{share:.2f}": price_pieces(known.pixels, int(share * known.pixels / 2)) for share in BANDS}
        gaps = known.modes * (known.slices - 1)
        found["slices"] = bands
        found["slices in a band, of an epoch"] = {
            key: round(gaps * (one[PIECES[5]] - one[PIECES[6]]) / whole, 3) for key, one in bands.items()
        }
    smaller = known.pixels * 3 // 4
    sides = {side: measure(lambda side=side: _transform(side), 100)[0] for side in (known.pixels, smaller)}
    found["transform of torch, complex"] = {str(side): round(value, 2) for side, value in sides.items()}
    found["transform of torch, real"] = round(measure(lambda: _transform(known.pixels, real=True), 100)[0], 2)
    return found


def _transform(side: int, *, real: bool = False) -> None:
    wave = torch.ones(1, side, side, dtype=torch.float32 if real else torch.complex64)
    for _ in range(100):
        torch.fft.rfft2(wave) if real else torch.fft.fft2(wave)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1941, 1942, 1943])
    parser.add_argument("--cases", nargs="+", default=["S", "M"], choices=list(EPOCHS))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    found: dict[str, Any] = {"date": str(date.today()), "machine": machine(), "threads": 1}
    found["commit"] = commit.stdout.strip()
    if asked.out and asked.out.exists():
        found |= json.loads(asked.out.read_text())
    for name, part in list_parts(asked.cases, asked.seeds).items():
        if name not in found:
            found[name] = part()
            print(json.dumps({name: found[name]}, indent=1), flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(found, indent=1) + "\n")


def list_parts(cases: list[str], seeds: list[int]) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; what a file has already is left as it is."""
    parts: dict[str, Callable[[], Any]] = {
        "largest difference from the engine's kernels, double precision": lambda: {
            "held": max(check_held(side) for side in (64, 128)),
            "narrow": max(check_narrow(64, 15), check_narrow(128, 42)),
        },
        "imaginary share, S": partial(measure_imaginary_share, "S", seeds[0]),
    }
    parts |= {f"prices, {name}": partial(price_case, name, seeds[0]) for name in cases}
    some = {"S": seeds, "M": seeds[:1]}
    return parts | {f"images, {name}": partial(judge, name, some[name]) for name in cases}


if __name__ == "__main__":
    main()
