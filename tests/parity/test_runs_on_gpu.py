"""Runs on a GPU find what they find on the processor: losses of every epoch, and the phase.

    make test-gpu

No GPU, no test: continuous integration has none.
"""

from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from tests.conftest import electrons, holograms

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ELECTRONS = {"start": "none", "probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A"}}}
SLICES = {"object": {"pixels": {"slices": 3, "thickness": "30 A"}}}

RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "phase": {"object": {"pixels": {"kind": "phase"}}},
    "slices": SLICES,
    "modes": {"probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A", "modes": 3}}},
    "states": {"object": {"pixels": {"modes": 2}}},
    "adam": {"optimizer": "adam"},
    "lbfgs": {"optimizer": "lbfgs"},
    "rpie": {"optimizer": "rpie"},
    "tilt": SLICES | {"rates": {"tilts": 1.0, "thickness": 1.0}},
    "background": {"rates": {"background": 0.1, "weights": 0.1}},
    "penalty": {"penalties": {"tv": {}}},
    "poisson": {"noise": "poisson"},
    "levels": {"levels": 1},
    "sweep": {"start": "sweep", "probe": "auto"},
}


def run(scan: Scan4D, device: str, settings: dict[str, Any], folder: Any) -> Job:
    given = {"device": device, "epochs": 4, "levels": 0, "outputs": []} | settings
    job = Job.begin(Reconstruct.of(given), folder, scan=scan)
    for _ in job:
        pass
    return job


def compare(scan: Scan4D, settings: dict[str, Any], tmp_path: Any, *, loss: float, phase: float) -> None:
    folders = [tmp_path / "on processor", tmp_path / "on card"]
    both = zip(("cpu", "cuda"), folders, strict=True)
    processor, card = (run(scan, device, settings, folder) for device, folder in both)
    ours = [event["loss"] for event in card.result().history]
    theirs = [event["loss"] for event in processor.result().history]
    np.testing.assert_allclose(ours, theirs, rtol=loss)
    a, b = (one.result().phase - one.result().phase.mean() for one in (card, processor))
    assert np.linalg.norm(a - b) < phase * np.linalg.norm(b)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_electrons(name: str, tmp_path: Any) -> None:
    compare(electrons(), ELECTRONS | RUNS[name], tmp_path, loss=2e-2, phase=8e-2)


def test_a_run_of_holograms(tmp_path: Any) -> None:
    compare(holograms(), {"start": "none"}, tmp_path, loss=2e-2, phase=8e-2)


def test_a_run_that_goes_on_is_that_of_one_piece(tmp_path: Any) -> None:
    scan, settings = electrons(), ELECTRONS | {"device": "cuda", "epochs": 4, "levels": 0}
    whole = run(scan, "cuda", settings, tmp_path / "whole")
    job = Job.begin(Reconstruct.of(settings), tmp_path / "parts", scan=scan)
    steps = iter(job)
    next(steps)
    next(steps)
    steps.close()
    again = Job.resume(tmp_path / "parts", scan=scan)
    for _ in again:
        pass
    np.testing.assert_allclose(again.result().phase, whole.result().phase, atol=1e-4)


def test_a_direct_image_and_a_calibration(tmp_path: Any) -> None:
    scan = electrons()
    compare(scan, {"preset": "calibrate"}, tmp_path, loss=5e-2, phase=5e-2)
