"""Whether a smooth phase of 8 rad is found: ten objects, three doses, with and without detail on top.

    python -m benchmarks.strong_phase --out benchmarks/results/strong-phase-DATE.json

Case S of 20 x 20 patterns. The phase is a random field, blurred by 8 pixels, that spans 8 rad in the scan's
box: where it is steep it wraps within the beam. ``detail`` adds the atoms of S, of 0.8 rad. Positions start
nominal, 0.25 pixels off, the beam 40 angstrom out of focus; all other settings are the defaults. A run is
right if the phase, unwrapped, correlates with the truth by more than 0.99 after shift, constant and ramp are
removed, and the loss is below 1.5 times shot noise. Seeds 0 to 2 were for tuning, 3 to 9 judge.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import fourier_shift, gaussian_filter
from skimage.restoration import unwrap_phase

from benchmarks import cases
from benchmarks.bound import find_commit
from benchmarks.ours import HIDDEN, tree
from benchmarks.record import machine, rounded
from benchmarks.score import _flat, positions_error
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["KINDS", "make_case", "measure_run", "score_phase"]

SPAN = 8.0
"""Radian between the lowest and the highest phase in the scan's box."""

BLUR = 8.0
"""Pixels, standard deviation, by which white noise is blurred."""

KINDS = ("smooth", "detail")
INNER = (slice(8, -8), slice(8, -8))
"""What is compared of the scan's box."""

MIN_CORRELATION = 0.99
MAX_LOSS = 1.5


def make_case(kind: str, dose: float, seed: int) -> dict:
    """The arrays of a case, the same names as those of `benchmarks.cases`."""
    case = replace(cases.CASES["S"], scan=(20, 20), dose=dose)

    def draw_phase(case, shape, rng):
        field = gaussian_filter(rng.normal(size=shape), BLUR, mode="wrap")
        room = case.pixels // 2 + 4
        inner = field[room:-room, room:-room]
        field = (field - inner.min()) * (SPAN / np.ptp(inner))
        return field[None] + (cases.atoms(case, shape, rng) if kind == "detail" else 0.0)

    cases.SPECIMENS["strong"] = draw_phase
    return cases.made(replace(case, specimen="strong"), object_seed=seed, noise_seed=seed)


def score_phase(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Correlation of the unwrapped phase with the truth, and the error mod 2 pi, rms in radian.

    Arguments: complex object ``(y, x)`` and true phase on the same pixels, but for a shift of up to 3. The
    shift, a constant and a ramp are taken out.
    """
    known = np.exp(1j * truth)
    wave = _shift_onto(found / np.abs(found).clip(1e-6), known)[INNER]
    known = known[INNER]
    gap = _remove_ramp(wave * known.conj())
    phase = _flat(unwrap_phase(np.angle(gap * known)))
    correlation = np.corrcoef(phase.ravel(), _flat(truth[INNER]).ravel())[0, 1]
    return float(correlation), float(np.sqrt((np.angle(gap) ** 2).mean()))


def _shift_onto(wave: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The wave moved, by up to 3 pixels, to where it agrees best with the known one."""
    whole = itertools.product(range(-3, 4), repeat=2)
    best = max(whole, key=lambda shift: _agreement(np.roll(wave, shift, (0, 1)), known))
    for reach in (0.5, 0.1):
        steps = np.linspace(-reach, reach, 7)
        near = [(best[0] + y, best[1] + x) for y in steps for x in steps]
        best = max(near, key=lambda shift: _agreement(_move(wave, shift), known))
    return _move(wave, best)


def _move(wave: np.ndarray, shift: Sequence[float]) -> np.ndarray:
    wide = np.pad(wave, 16, mode="reflect")
    return np.fft.ifft2(fourier_shift(np.fft.fft2(wide), shift))[16:-16, 16:-16]


def _agreement(wave: np.ndarray, known: np.ndarray) -> float:
    """Mean of the ratio without constant and ramp of its phase: one where the waves are the same."""
    return float(np.abs(_remove_ramp((wave * known.conj())[INNER]).mean()))


def _remove_ramp(gap: np.ndarray) -> np.ndarray:
    """A unit wave without constant and ramp of its phase: peak of the spectrum, then the plane that fits."""
    spectrum = np.abs(np.fft.fft2(gap, [4 * n for n in gap.shape]))
    place = np.unravel_index(spectrum.argmax(), spectrum.shape)
    y, x = (np.exp(-2j * np.pi * p * np.arange(n) / (4 * n)) for p, n in zip(place, gap.shape, strict=True))
    gap = gap * (y[:, None] * x)
    rest = np.angle(gap * np.exp(-1j * np.angle(gap.sum())))
    return np.exp(1j * _flat(rest))


def measure_run(kind: str, dose: float, seed: int, **settings) -> dict:
    """One run by the defaults, but for settings that are given."""
    data = make_case(kind, dose, seed)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "case.npz")
        np.savez(path, **{name: value for name, value in data.items() if name not in HIDDEN})
        plain = {"epochs": 20, "off": 40.0, "seed": 0}
        job = Job.begin(Reconstruct.of(tree(path, data, plain) | {"preset": "none"} | settings))
        for _ in job:
            pass
        result = job.result()
    places = (np.asarray(result.positions) - np.asarray(result.origin)) / data["dx"]
    field, truth = _cut_box(np.asarray(result.object)[0], places, data)
    correlation, error = score_phase(field, truth)
    last = job.progress.history[-1]
    loss = last["terms"].get("noise", last["loss"])
    return rounded(
        {
            **{"kind": kind, "dose": dose, "seed": seed, "settings": settings},
            **{"loss": loss, "correlation": correlation, "rms_mod_2pi": error},
            "positions": positions_error(places, data["pos_px"]),
            "right": bool(correlation > MIN_CORRELATION and loss < MAX_LOSS),
            "losses": [event["loss"] for event in job.progress.history],
            "cpu_s": time.process_time() - began,
        }
    )


def _cut_box(image: np.ndarray, places: np.ndarray, data: dict) -> tuple[np.ndarray, np.ndarray]:
    """An image and the true phase in the box of the scan."""
    offset = np.round((places - data["pos_px"]).mean(0)).astype(int)
    low = np.ceil(data["pos_px"].min(0)).astype(int)
    high = np.floor(data["pos_px"].max(0)).astype(int) + 1
    truth = data["obj_phase"].sum(0)[low[0] : high[0], low[1] : high[1]]
    low, high = low + offset, high + offset
    return image[low[0] : high[0], low[1] : high[1]], truth


def main() -> None:
    """Measure kinds, doses and seeds, and write them down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--dose", type=float, nargs="+", default=[1e4, 1e5, 1e6])
    parser.add_argument("--seed", type=int, nargs="+", default=range(10))
    parser.add_argument("--set", type=json.loads, default={}, help="settings, as JSON")
    default = Path(f"benchmarks/results/strong-phase-{date.today()}.json")
    parser.add_argument("--out", type=Path, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    about = {"date": f"{date.today()}", "machine": machine(), "commit": find_commit(), "threads": 1}
    rows = []
    for kind, dose, seed in itertools.product(given.kind, given.dose, given.seed):
        rows.append(measure_run(kind, dose, seed, **given.set))
        print({name: value for name, value in rows[-1].items() if name != "losses"}, flush=True)
        given.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
