"""What a run needs is told before it runs, and what would go wrong with it; a sound run is left in peace."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from phaseloom.data import simulate
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.recipes import _memory, foresight
from phaseloom.recipes.check import estimate, outlook
from phaseloom.recipes.job import Job
from phaseloom.recipes.reconstruct import Reconstruct

PIXEL, WINDOW, ENERGY = 0.2, 64, 80e3


def electrons(*, step: float = 0.6, dose: float = 1e6, defocus: float = 100.0) -> Scan4D:
    """As in the demonstration: a thick crystal of atoms, one scan of 64 patterns."""
    margin = (WINDOW // 2 + 6) * PIXEL
    positions = simulate.raster((8, 8), step, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), PIXEL, slices=6, peak=0.25, seed=2)
    knobs: dict[str, Any] = {"energy": ENERGY, "semiangle": 0.025, "defocus": defocus, "modes": 2}
    return simulate.electron_scan(truth, PIXEL, positions, thickness=12.0, dose=dose, **knobs)[0]


SOUND = electrons()
SETTINGS: dict[str, Any] = {
    "file": "scan.h5",
    "object": {"pixels": {"slices": 6, "thickness": "12 A", "kind": "phase"}},
    "probe": {"focused": {"semiangle": "25 mrad", "defocus": "100 A", "modes": 2}},
    "start": "none",
}


def warned(scan: Scan4D = SOUND, /, **changes: Any) -> list[str]:
    return foresight.of(Job(Reconstruct.of({**SETTINGS, **changes}), scan, None, None))


def sliced(count: int, gap: str, **knobs: Any) -> dict[str, Any]:
    return {"pixels": {"slices": count, "thickness": gap, "kind": "phase", **knobs}}


def focused(**knobs: Any) -> dict[str, Any]:
    return {"focused": {"semiangle": "25 mrad", "defocus": "100 A", "modes": 2, **knobs}}


def dark(scan: Scan4D, by: float) -> Scan4D:
    counts = np.random.default_rng(3).binomial(np.asarray(scan.counts).astype(int), by)
    return replace(scan, counts=counts.astype(np.float32))


def moved(scan: Scan4D, by: int) -> Scan4D:
    return replace(scan, counts=np.roll(np.asarray(scan.counts), by, 1))


def cropped(scan: Scan4D, to: int) -> Scan4D:
    """Fewer pixels of the detector, so less angle and larger pixels of the object."""
    first = (WINDOW - to) // 2
    counts = np.asarray(scan.counts)[:, first : first + to, first : first + to]
    geometry = replace(scan.geometry, shape=(to, to))
    return replace(scan, counts=counts, geometry=geometry, mask=np.ones((to, to), bool))


def hazy(scan: Scan4D) -> Scan4D:
    """A tenth of the counts far out."""
    extra = np.zeros((WINDOW, WINDOW))
    y, x = np.indices(extra.shape) - WINDOW // 2
    extra[np.hypot(y, x) > 24] = 0.1 * float(np.asarray(scan.counts)[0].sum()) / 2200
    return replace(scan, counts=(np.asarray(scan.counts) + extra.round()).astype(np.float32))


def test_a_sound_run_is_left_in_peace() -> None:
    assert warned() == []


@pytest.mark.parametrize(
    ("kind", "scan", "changes"),
    [
        ("window", SOUND, {"probe": focused(defocus="280 A")}),
        ("window", SOUND, {"object": sliced(6, "60 A")}),
        ("overlap", replace(SOUND, positions=SOUND.positions * 8), {}),
        ("overlap", SOUND, {"probe": focused(defocus="0 A", modes=1), "prepare": []}),
        ("semiangle", SOUND, {"probe": focused(semiangle="21 mrad")}),
        ("detector", cropped(SOUND, 16), {"object": "pixels"}),
        ("dose", dark(SOUND, 2e-4), {}),
        ("probe modes", dark(SOUND, 1e-3), {}),
        ("free numbers", SOUND.select(np.arange(8)), {"object": sliced(6, "12 A", kind="complex", modes=3)}),
        ("flight", SOUND, {"object": sliced(2, "70 A")}),
        ("band", hazy(SOUND), {}),
        ("slices", SOUND, {"object": sliced(20, "2 A")}),
        ("slices", SOUND, {"object": sliced(2, "200 A")}),
        ("orientation", replace(SOUND, oriented=False), {}),
        ("centre", moved(SOUND, 3), {}),
    ],
)
def test_what_will_go_wrong_is_said_with_a_number_and_a_remedy(
    kind: str, scan: Scan4D, changes: dict[str, Any]
) -> None:
    said = [line for line in warned(scan, **changes) if line.startswith(f"{kind}: ")]
    assert len(said) == 1, warned(scan, **changes)
    assert any(letter.isdigit() for letter in said[0]) or kind == "orientation"
    assert said[0].endswith(".")
    assert said[0].count(". ") >= 1
