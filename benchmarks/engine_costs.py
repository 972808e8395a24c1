"""What each piece of an epoch of the compiled engine costs: CPU microseconds a pattern.

    python -m benchmarks.engine_costs --out benchmarks/results/engine-costs-DATE.json

Kernels are called by themselves, again and again on one pattern, so that all of it lies in the cache as it
does in a batch; a whole call of a batch, and whole epochs, follow. The floor is four transforms for each mode
and slice, by this engine and, where pyFFTW is installed, by FFTW (in place, patient; only a yardstick).
Medians of several turns; the quickest in brackets beside them in the file.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, no_type_check
from unittest import mock

import numba
import numpy as np
import torch

from benchmarks.cases import CASES, made
from benchmarks.ours import HIDDEN, tree
from benchmarks.record import machine
from phaseloom.physics.engine import kernels, lanes, steps, transforms
from phaseloom.physics.engine.misfit import lay_out_waves
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["price_kernels", "price_run"]

TURNS = 15
EPOCHS = {"S": 24, "M": 3, "thick": 16}
ROW = 200
"""Pixels of the object from row to row."""


@no_type_check
def _repeat_piece(  # noqa: C901, PLR0915, PLR0917 - one switch: all pieces are compiled together
    piece, many, layout, axes, work, ramps, frequencies, places, noise
):
    """One piece of the work on a wave, again and again."""
    height, width, width_of_lanes, step, back = layout
    down = transforms.locate_axis(*axes[0])
    right = transforms.locate_axis(*axes[1])
    planes = kernels.locate_planes(work, 1, 1, layout)
    incident, far, beam, slope, other, strip, seen = planes
    rows = lanes.address(ramps[0]), lanes.address(ramps[1])
    columns = lanes.address(ramps[2]), lanes.address(ramps[3])
    turn = lanes.address(frequencies[0]), lanes.address(frequencies[1])
    none = np.zeros(0, work.dtype)
    glass = np.ones(2 * ROW * ROW, work.dtype)
    sink = lanes.address(np.zeros(2 * ROW * ROW, work.dtype)), 0, ROW, work.dtype.type(-1)
    window = lanes.address(glass)
    kernels.fill_ramp(0.3, places[0], height, ramps[0], ramps[1])
    kernels.fill_ramp(-0.2, places[1], width, ramps[2], ramps[3])
    total = 0.0
    for _ in range(many):
        if piece == 0:  # a transform, from space to reciprocal space
            re, im = incident, lanes.advance(incident, height * step)
            to_re, to_im = far, lanes.advance(far, width * back)
            for x in range(0, width, width_of_lanes):
                transforms.transform(re, im, x, step, down)
                transforms.transpose_strip(
                    re, im, x, step, to_re, to_im, x * back, back, height, width_of_lanes
                )
            for y in range(0, height, width_of_lanes):
                transforms.transform(to_re, to_im, y, back, right)
        elif piece == 1:
            kernels.fill_ramp(0.3, places[0], height, ramps[0], ramps[1])
            kernels.fill_ramp(-0.2, places[1], width, ramps[2], ramps[3])
        elif piece == 2:
            kernels._light_window(beam, rows, columns, strip, incident, layout, right)
        elif piece == 3:
            kernels._pass_slice(incident, window, 2 * ROW, strip, far, layout, down)
        elif piece in (4, 5):
            for at in range(0, 2 * width * back, width_of_lanes):
                lanes.store(far, at, lanes.load(beam, at))  # or slopes of slopes were taken
            if piece == 5:
                total += kernels._meet_detector(
                    far,
                    other,
                    seen,
                    1,
                    work.dtype.type(1),
                    (none, none, none),
                    none,
                    noise,
                    layout,
                    (1, True, False),
                    right,
                )[0]
        elif piece == 6:
            kernels._leave_slice(other, incident, window, 2 * ROW, sink, kernels.COMPLEX, far, layout, down)
        elif piece == 7:
            total += kernels._leave_beam(far, beam, rows, columns, slope, turn, layout, right)[0]
    return total


repeat_piece: Callable[..., Any] = numba.njit(error_model="numpy")(_repeat_piece)
"""Compiled, and not kept on disk, where a change of the kernels would not be noticed."""

PIECES = (
    "transform, space to reciprocal space",
    "ramps of the shift",
    "mode times ramps, half a transform",
    "half a transform, transmission, half a transform",
    "a copy of a wave",
    "half a transform, likelihood, half a transform back",
    "half a transform back, gradient of the object, half a transform",
    "half a transform, gradients of mode and shift",
)


def measure(call: Callable[[], object], many: int) -> tuple[float, float]:
    """Median and least microseconds of one of ``many`` repetitions in a call."""
    call()
    found = []
    for _ in range(TURNS):
        began = time.thread_time()
        call()
        found.append(1e6 * (time.thread_time() - began) / many)
    return statistics.median(found), min(found)


def price_kernels(side: int) -> dict[str, list[float]]:
    """Microseconds of each piece for one wave of ``side x side`` in single precision."""
    layout = lay_out_waves((side, side), torch.float32)
    assert layout is not None
    draw = np.random.default_rng(0)
    work = draw.uniform(0.5, 1.5, layout.count_numbers(1, 1)).astype(np.float32)
    many = max(1, 2_000_000 // side**2)
    found = {}
    for number, name in enumerate(PIECES):
        room = torch.from_numpy(work).clone().numpy()  # begins with a cache line, as workspaces do
        given = (layout.sizes, layout.axes, room, layout.make_ramps(), layout.frequencies, layout.places)
        # waves that grow without bound would be priced as infinities: they are made anew each time

        def once(number: int = number, room: np.ndarray = room, given: Any = given) -> None:
            room[:] = work
            repeat_piece(number, many, *given, (kernels.POISSON, 0.01, 20.0, 1.0))

        found[name] = [round(value, 2) for value in measure(once, many)]
    slopes, copied = (found[PIECES[number]] for number in (5, 4))
    found[PIECES[5]] = [round(a - b, 2) for a, b in zip(slopes, copied, strict=True)]
    with suppress(ImportError):
        import pyfftw

        array = pyfftw.empty_aligned((side, side), "complex64")
        plan = pyfftw.FFTW(array, array, axes=(0, 1), flags=("FFTW_PATIENT",), threads=1)
        array[:] = 0
        found["transform by FFTW"] = _price_transform(plan.execute, many)
    wave = torch.randn(1, side, side, dtype=torch.complex64)
    found["transform by torch"] = _price_transform(lambda: torch.fft.fft2(wave), many)
    return found


def _price_transform(call: Callable[[], object], many: int) -> list[float]:
    """Microseconds of a transform of another library."""
    return [round(value, 2) for value in measure(lambda: [call() for _ in range(many)], many)]


def price_run(name: str, seed: int) -> dict[str, float]:
    """Microseconds a pattern of epochs of a case, and of the compiled calls in them."""
    case = made(CASES[name], object_seed=seed, noise_seed=seed + 1000)
    inside: list[float] = []

    def timed(*given: object) -> int:
        began = time.process_time()
        done = call(*given)
        inside[-1] += time.process_time() - began
        return done

    call = steps.step_batches
    with TemporaryDirectory() as folder, mock.patch.object(steps, "step_batches", timed):
        path = Path(folder, "case.npz")
        np.savez(path, **{key: value for key, value in case.items() if key not in HIDDEN})
        settings = {"off": CASES[name].defocus_start, "epochs": EPOCHS[name], "seed": 0}
        job = Job.begin(Reconstruct.of(tree(path, case, {**settings, "tree": {"levels": 0}})))
        whole = []
        running = iter(job)
        while True:
            inside.append(0.0)
            began = time.process_time()
            if next(running, None) is None:
                break
            whole.append(time.process_time() - began)
    patterns = len(case["meas"])
    parts = {"an epoch": whole[1:], "compiled calls in it": inside[1 : len(whole)]}
    parts["the rest of it"] = [a - b for a, b in zip(*parts.values(), strict=True)]
    return {key: round(1e6 * statistics.median(value) / patterns, 2) for key, value in parts.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=931)
    parser.add_argument("--cases", nargs="+", default=["S", "M"], choices=list(EPOCHS))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {"date": str(date.today()), "machine": machine(), "threads": 1}
    for side in sorted({CASES[name].pixels for name in asked.cases}):
        found[f"kernels, {side} x {side}"] = price_kernels(side)
        print(json.dumps({side: found[f"kernels, {side} x {side}"]}, indent=1), flush=True)
    for name in asked.cases:
        found[f"run, {name}"] = price_run(name, asked.seed)
        print(json.dumps({name: found[f"run, {name}"]}, indent=1), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
