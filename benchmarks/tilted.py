"""Samples that lean against the beam: with the places of pixels on the Ewald sphere, and without.

    python -m benchmarks.tilted [--only 45 ...] [--out benchmarks/results/tilted-2026-11-21]

The experiment is that of tests/reconstruction/test_tilted_sample.py at several tilts and widths of the
detector, its optics the same in pixels. The field
along the lean is as long as heights of a depth of focus allow.
"""

import math
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import tabulated
from phaseloom.physics import tilted_planes as oblique
from tests.reconstruction import test_tilted_sample as cases

KINDS = ("flat", "none")


def setup(degrees, pixel):
    """About 210 places over heights of a depth of focus or so."""
    tilt = math.radians(degrees)
    columns = max(6, round(30 * min(1.0, math.tan(math.radians(30)) / math.tan(tilt) * pixel / 100)))
    return cases.Setup(tilt, pixel, (round(210 / columns), columns))


def moved(one):
    """Largest displacement of a pixel, and that of a pixel at the root mean square, in pixels."""
    places, _ = oblique.ewald((cases.N, cases.N), (one.angle, one.angle), cases.LAB_BASIS, one.normal)
    away = places - cases.NUMBERS.reshape(places.shape)
    weight = cases.measured(one).scan.counts.mean(0)
    square = (away**2).sum(-1)
    return {
        "most_px": float(abs(away).max()),
        "lit_px": float(np.sqrt((weight * square).sum() / weight.sum())),
    }


def row(degrees, pixel, *, probe):
    """Errors with and without, the probe free or known."""
    one = setup(degrees, pixel)
    found = moved(one)
    for kind in KINDS:
        rates = {"positions": 0, "affine": 0} | ({} if probe == "free" else {"probe": 0})
        prepare = [{"tilt_sample": {"normal": one.normal}}]
        knobs = {"prepare": prepare, "detector": {"counting": {"ewald": kind}}, "rates": rates}
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            done = cases.run(Path(folder), one, **knobs)
        last = done.progress.history[-1]
        found |= {
            kind: cases.error(done, cases.measured(one)),
            f"{kind}_loss": last["loss"],
            f"{kind}_cpu_s": time.process_time() - began,
            f"{kind}_compared": float(done.model.detector.mask.float().mean()),
        }
    return found


def rows():
    """By name: tilt, half the width of the detector, probe."""
    wanted = [
        (5, 100),
        (10, 100),
        (20, 100),
        (30, 100),
        (30, 50),
        (30, 25),
        (45, 100),
        (45, 50),
        (60, 200),
        (60, 100),
        (60, 50),
    ]
    for probe in ("free", "known"):
        for degrees, pixel in wanted:
            half = 1e3 * cases.N / 2 * cases.Setup(pixel=pixel).angle
            name = f"{degrees} degrees, {half:.0f} mrad, probe {probe}"
            yield name, lambda d=degrees, p=pixel, probe=probe: row(d, float(p), probe=probe)


def table(found):
    """In Markdown."""
    lines = [
        "| | most, px | where light is, px | flat | none | s flat | s none |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = ("most_px", "lit_px", "flat", "none", "flat_cpu_s", "none_cpu_s")
    lines += [f"| {n} | " + " | ".join(f"{r[k]:.3g}" for k in keys) + " |" for n, r in found.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tabulated("tilted", __doc__, "Samples that lean against the beam", dict(rows()), table)
