"""Training from simulated sets on disk: ours and the seed's five files."""

import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.retrieval.ground_truth import crop_as_seed, resample_to_steps
from phaseloom.retrieval.recipe import Train
from phaseloom.retrieval.trainer import RetrievalTraining
from phaseloom.retrieval.training_samples import (
    StoredSamples,
    TrainingScan,
    ViewDistribution,
    cut_views,
    draw_views,
)
from phaseloom.simulation import samples
from phaseloom.simulation.experiment import Experiment, compute_image_shape
from phaseloom.simulation.scan import simulate_scan
from phaseloom.simulation.specimens import Specimen


def sample(experiment, number):
    """Random atoms of an element of their own."""
    rng = np.random.default_rng(number)
    size = (4.0, *experiment.box)
    return simulate_scan(
        Specimen(
            numbers=np.full(40, 6 + number),
            places=rng.uniform(0, 1, (40, 3)) * size,
            size=size,
            family="test",
            name=str(number),
        ),
        experiment,
        seed=number,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("set")
    for number in range(12):
        made = sample(Experiment(scan=(12, 13)), number)
        samples.write(made, place / f"{number:06d}.h5", number=number, seed=0)
    return place


def test_views_of_a_set_are_those_of_its_samples_in_memory(folder):
    stored = StoredSamples(folder, 0.15, "exact")
    index = stored.seen[2]
    memory = TrainingScan.of(samples.read(folder / f"{index:06d}.h5"))
    these = draw_views(5, [0], (12, 13), ViewDistribution(window=(6, 6), clean=1.0), seed=(3,))
    one, other = cut_views({0: stored[2]}, these), cut_views({0: memory}, these)
    torch.testing.assert_close(one.patterns, other.patterns, atol=2e-6, rtol=2e-3)
    torch.testing.assert_close(one.phase, other.phase)


def test_seen_and_unseen_share_no_material(folder):
    stored = StoredSamples(folder, 0.4, "exact")
    seen, unseen = ({stored[n].group for n in side} for side in (range(20), range(-20, 0)))
    assert seen
    assert unseen
    assert not seen & unseen


def test_a_network_trains_from_a_set(folder, tmp_path):
    knobs = {"stored": str(folder), "scans": 8, "unseen": 2, "views": 8, "epochs": 2, "window": [10, 10]}
    training = RetrievalTraining.begin(Train.of(knobs), tmp_path / "run")
    assert [epoch.number for epoch in training] == [1, 2]
    assert training.finish()[0].exists()


def test_a_folder_without_samples_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no sample"):
        StoredSamples(tmp_path, 0.15, "exact")


def test_a_cell_is_cut_exactly_or_by_the_rule_of_the_seed(tmp_path):
    cell = Experiment(scan=(50, 50), pixel=100 / 256, cell=256, window=32, bin=1, detector=8)
    for number in range(2):
        made = sample(cell, number)
        samples.write(made, tmp_path / f"{number:06d}.h5", number=number, seed=0)
    raw = torch.from_numpy(samples.read(tmp_path / "000000.h5").phase)
    exact, rounded = StoredSamples(tmp_path, 0.0, "exact")[0], StoredSamples(tmp_path, 0.0, "seed")[0]
    assert exact.phase.shape == compute_image_shape((50, 50))
    these = draw_views(
        1, [0], (50, 50), ViewDistribution(window=(14, 14), clean=1.0, turned=False), seed=(1,)
    )
    row, col = these.corners[0].tolist()
    torch.testing.assert_close(cut_views({0: rounded}, these).phase[0], crop_as_seed(raw, row, col))
    whole = resample_to_steps(raw, cell)
    there = whole[5 * row : 5 * row + 76, 5 * col : 5 * col + 76]
    torch.testing.assert_close(cut_views({0: exact}, these).phase[0], there)
