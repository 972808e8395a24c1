"""What one batch costs over the bare Fourier transforms it cannot do without.

    python benchmarks/floor.py                 # the table, on one thread
    python benchmarks/floor.py --quick         # fewer repetitions

The floor is ``4 x slices x modes`` transforms per pattern by the same library, unscaled and in pieces of
the same size. Each row is forward, backward to object, probe and positions, and nothing else; all rows of
a case are measured in turns in one process, and the quickest turn counts, so that ratios mean something on
a busy machine. Counts of transforms come from the dispatcher.
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics.patches import clear_boxes, merge_boxes
from phaseloom.ptycho import objects, scans
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes import Probe

CASES = {"S": (64, 1, 1, 24, 3.6), "M": (128, 6, 4, 12, 8.0)}
"""Window, slices, modes, positions along a side, object pixels between them."""

KINDS = ("phase", "complex", "amplitude and phase")


class Counted(TorchDispatchMode):
    """Counts two-dimensional transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.transforms = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "_fft_" in str(func):
            self.transforms += args[0].numel() // (args[0].shape[-1] * args[0].shape[-2])
        return func(*args, **(kwargs or {}))


def experiment(case: str, kind: str, border: int | None = None) -> tuple[Ptychography, Likelihood]:
    """A model of a scan with counts that another object made."""
    size, slices, modes, side, step = CASES[case]
    draw = np.random.default_rng(0)
    pixel, wavelength = 0.2, 0.02
    grid = np.stack(np.meshgrid(*[np.arange(side) * step] * 2, indexing="ij"), -1).reshape(-1, 2)
    angle = (wavelength / (size * pixel),) * 2
    geometry = Geometry(wavelength=wavelength, shape=(size, size), angle=angle, beam="electron")
    counts = draw.poisson(1e6 / size**2, (len(grid), size, size)).astype(np.uint16)
    positions = (grid + draw.normal(0, 0.25, grid.shape)) * pixel
    scan = Scan4D(counts=counts, positions=positions, geometry=geometry)
    room = scans.canvas(scan, border=border)
    thing = objects.pixels(room, slices=slices, thickness=10.0 if slices > 1 else 0.0, kind=kind)
    with torch.no_grad():
        start = 0.2 * torch.rand(1, slices, *room.shape)
        thing.set_transmission(torch.polar(torch.ones_like(start), start))
    r = torch.arange(size) - size / 2
    beam = (
        torch.exp(-(r[:, None] ** 2 + r**2) / (size / 6) ** 2) * (1 + 0.1 * torch.randn(modes, size, size))
        + 0j
    )
    beam = beam * (1e6 / beam.abs().square().sum()).sqrt()
    model = Ptychography.of(scan, object=thing, probe=Probe(beam, geometry))
    model.requires_grad_(False)
    for part in (*model.object.parts().values(), model.probe.parts()["probe"], [model.scan.offsets]):
        for parameter in part:
            parameter.requires_grad_(True)
    return model, Likelihood(model, scan)


def pieces(count: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    """Random pieces of a scan."""
    return list(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).split(size))[
        : max(1, count // size)
    ]


def step(likelihood: Likelihood, index: torch.Tensor) -> None:
    """Forward and backward of one piece."""
    for parameter in likelihood.model.parameters():
        if getattr(parameter, "touched", None) is None:
            parameter.grad = None
        else:
            clear_boxes(parameter.grad, merge_boxes(parameter.touched, parameter.shape[-2:]))
            parameter.touched.clear()
    likelihood(index)["noise"].backward()


def bare(case: str, size: int) -> Callable[[], None]:
    """The transforms of a piece and nothing else."""
    window, slices, modes, *_ = CASES[case]
    wave = torch.randn(size, modes, window, window, dtype=torch.complex64)

    def run() -> None:
        for _ in range(2 * slices):
            torch.fft.fft2(wave)
            torch.fft.ifft2(wave, norm="forward")

    return run


def quickest(calls: dict[str, Callable[[], None]], turns: int, repeat: int) -> dict[str, float]:
    """Seconds of each call, the best of all turns; a turn does them all."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(turns + 1):
        for name, call in calls.items():
            began = time.thread_time()
            for _ in range(repeat):
                call()
            if turn:
                best[name] = min(best[name], (time.thread_time() - began) / repeat)
    return best


def through(likelihood: Likelihood, batches: list[torch.Tensor], *, swift: bool = True) -> Callable[[], None]:
    """One piece after the other."""
    at = iter(range(10**9))

    def run() -> None:
        likelihood.model.use_custom_adjoint = swift
        step(likelihood, batches[next(at) % len(batches)])

    return run


def transforms(likelihood: Likelihood, index: torch.Tensor) -> int:
    """How many a piece takes."""
    with Counted() as counted:
        step(likelihood, index)
    return counted.transforms


def table(case: str, sizes: list[int], turns: int) -> None:
    """Rows of one case."""
    window, slices, modes, side, _ = CASES[case]
    print(f"{case}: {side**2} patterns {window}^2, {slices} slices, {modes} modes")
    for size in sizes:
        repeat = max(1, (256 if case == "S" else 4) // size)
        calls = {"bare transforms": bare(case, size)}
        for kind in KINDS:
            _, likelihood = experiment(case, kind)
            batches = pieces(side**2, size)
            for parameter in (p for part in likelihood.model.object.parts().values() for p in part):
                parameter.touched, parameter.grad = [], torch.zeros_like(parameter)
            calls[kind] = through(likelihood, batches)
            extra = transforms(likelihood, batches[0]) - 4 * slices * modes * size
            if kind == KINDS[0]:
                calls[kind + ", plain"] = through(likelihood, batches, swift=False)
                print(f"  pieces of {size}: 4 x slices x modes transforms per pattern, and {extra} per piece")
        found = quickest(calls, turns, repeat)
        floor = found["bare transforms"]
        for name, seconds in found.items():
            print(f"    {name:24s}{1e6 * seconds / size:9.1f} us/pattern {seconds / floor:6.2f} x floor")


def canvases(turns: int) -> None:
    """The same positions on canvases of different sizes."""
    print("S on a larger canvas, same positions, pieces of 32")
    calls = {}
    for border in (None, 300, 725):
        model, likelihood = experiment("S", "phase", border)
        parameter = model.object.phase
        parameter.touched = []
        parameter.grad = torch.zeros_like(parameter)
        batches = pieces(576, 32)
        at = iter(range(10**9))

        def run(likelihood=likelihood, parameter=parameter, batches=batches, at=at) -> None:
            likelihood(batches[next(at) % len(batches)])["noise"].backward()
            parameter.touched.clear()

        calls[f"{model.scan.canvas.shape[0]} pixels"] = run
    for name, seconds in quickest(calls, turns, 8).items():
        print(f"    {name:24s}{1e6 * seconds / 32:9.1f} us/pattern")


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", choices=[*CASES, "canvas"], default=None)
    chosen = parser.parse_args()
    turns = 4 if chosen.quick else 15
    if chosen.case in (None, "S"):
        table("S", [16, 32, 64, 128], turns)
    if chosen.case in (None, "M"):
        table("M", [4, 8, 16], turns)
    if chosen.case in (None, "canvas"):
        canvases(turns)


if __name__ == "__main__":
    main()
