"""A run that begins with the object of an earlier one lies as that one lay, or says why not."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.reconstruction.protocol import Job, reconstruct
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

TREE = {"probe": {"focused": {"semiangle": "30 mrad", "defocus": "60 A", "modes": 1}}, "start": "none"}
TREE |= {"preset": "none", "levels": 0, "epochs": 1}
TURNED = [{"rotate": {"angle": "20 deg"}}, {"scale": {"factor": 1.01}}]


@pytest.fixture(scope="module")
def scan() -> Scan4D:
    truth = simulate.atoms((64, 64), 0.2, seed=1)
    beam = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e5}
    found = simulate.electron_scan(truth, 0.2, simulate.raster((6, 6), 0.6) + 3.5, **beam)[0]
    return replace(found, oriented=False)


@pytest.fixture(scope="module")
def turned(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("earlier") / "result.h5"
    reconstruct(Reconstruct.of({**TREE, "prepare": TURNED}), scan=scan).save(path)
    return {**TREE, "object": {"from_file": {"path": str(path)}}}


def test_an_object_of_a_turned_detector_is_refused_where_nothing_says_how_this_one_lies(turned, scan):
    with pytest.raises(BadInput, match=r"rotate: .*scale: \{factor: 1\.01.*add these steps to prepare"):
        Job.begin(Reconstruct.of(turned), scan=scan)


@pytest.mark.parametrize("steps", [TURNED, [{"rotate": {"angle": "0 deg"}}]])
def test_it_is_taken_where_steps_say_it(turned, scan, steps):
    Job.begin(Reconstruct.of({**turned, "prepare": steps}), scan=scan)


def test_it_is_taken_where_the_file_says_it(turned, scan):
    Job.begin(Reconstruct.of(turned), scan=replace(scan, oriented=True))


def test_an_object_of_a_detector_that_was_not_turned_is_taken(scan, tmp_path):
    path = tmp_path / "result.h5"
    reconstruct(Reconstruct.of(TREE), scan=scan).save(path)
    Job.begin(Reconstruct.of({**TREE, "object": {"from_file": {"path": str(path)}}}), scan=scan)


def test_a_prediction_of_a_turned_detector_is_refused_the_same_way(scan, tmp_path):
    path = tmp_path / "prediction.h5"
    with h5py.File(path, "w") as file:
        file.attrs["phaseloom_prediction"] = 1
        file["phase"], file["pixel"], file["origin"] = np.zeros((8, 8)), (0.2, 0.2), (0.0, 0.0)
        file["recipe"] = Reconstruct.of({**TREE, "prepare": TURNED}).to_text(defaults=False)
    tree = {**TREE, "object": {"from_file": {"path": str(path)}}}
    with pytest.raises(BadInput, match=r"prediction.h5.* was found after .*rotate: "):
        Job.begin(Reconstruct.of(tree), scan=scan)
    Job.begin(Reconstruct.of({**tree, "prepare": TURNED}), scan=scan)
