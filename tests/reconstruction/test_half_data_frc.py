"""Every pair of parts of a reconstruction runs two epochs with Newton steps, or is refused in a sentence."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

torch.set_num_threads(1)

LENS = {"semiangle": "40 mrad", "defocus": "60 A"}
THICK = {"slices": 2, "thickness": "10 A"}
PARTS: dict[str, dict[str, Any]] = {
    "modes": {"probe": {"focused": {**LENS, "modes": 2}}},
    "support": {"probe": {"limited": {"radius": "2 A", "semiangle": "45 mrad", "spectrum": True}}},
    "OPRP": {"probe": {"relaxed": {"basis": 3, "modes": 2}}},
    "aberrations": {"probe": {"aberrated": LENS}},
    "pupil": {"probe": {"pupil": LENS}},
    "defocus rate": {"rates": {"defocus": 0.1}},
    "slices": {"object": {"pixels": THICK}},
    "states": {"object": {"pixels": {"modes": 2}}},
    "thick states of phase": {"object": {"pixels": {**THICK, "modes": 2, "kind": "phase"}}},
    "amplitude and phase": {"object": {"pixels": {"kind": "amplitude and phase"}}},
    "paraxial": {"propagator": "fresnel"},
    "finite pixels": {"detector": {"counting": {"area": True}}},
    "blur": {"detector": {"counting": {"blur": 0.5}}},
    "saturation": {"detector": {"counting": {"saturation": 1e4}}},
    "larger grid": {"prepare": [{"enlarge": {"to": [32, 32], "match": "resample"}}]},
    "shifts": {"rates": {"descan": 0.1, "shift": 0.1}},
    "background": {"rates": {"background": 0.2, "weights": 0.1}},
    "scan errors": {"rates": {"rotation": 0.1, "scale": 0.1}},
    "Adam": {"optimizer": "adam"},
    "Poisson": {"noise": "poisson"},
    "smooth": {"penalties": [{"smooth_depth": {"weight": 0.1}}]},
    "two grids": {"levels": 1},
}


@pytest.fixture
def plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {**tree, "epochs": 2, "levels": 0}


def together(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    joined = {**one, **two}
    if "rates" in one and "rates" in two:
        joined["rates"] = {**one["rates"], **two["rates"]}
    return joined


PAIRS = [pair for pair in combinations(PARTS, 2) if set(PARTS[pair[0]]) & set(PARTS[pair[1]]) <= {"rates"}]
"""Two of the same part cannot be had together."""

REFUSED = {frozenset({"aberrations", "defocus rate"}), frozenset({"pupil", "defocus rate"})}


@pytest.mark.medium
@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_a_pair_runs_or_is_refused(plain: dict[str, Any], pair: tuple[str, str]) -> None:
    tree = {**plain, **together(PARTS[pair[0]], PARTS[pair[1]])}
    if frozenset(pair) in REFUSED:
        with pytest.raises(BadInput, match="among its aberrations"):
            Job.begin(Reconstruct.of(tree), None)
        return
    job = Job.begin(Reconstruct.of(tree), None)
    for _ in job:
        pass
    history = job.progress.history
    assert len(history) == 2
    assert np.isfinite([epoch["loss"] for epoch in history]).all()
    assert all(value.isfinite().all() for value in job.level.model.state_dict().values())
    if "Adam" not in pair:
        assert history[1]["loss"] < 3 * history[0]["loss"]
