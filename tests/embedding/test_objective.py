"""How patterns are shown to an autoencoder: whole, in halves, turned, in either precision."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.embedding.losses import squares
from phaseloom.embedding.networks import autoencoder
from phaseloom.embedding.objective import AutoencoderObjective, PatternPresentation
from phaseloom.embedding.train import Autoencode, AutoencoderTraining
from phaseloom.errors import BadInput

GEOMETRY = Geometry(wavelength=0.025, shape=(18, 16), angle=(1e-3, 1e-3), beam="electron")
ALL = np.arange(144)


@pytest.fixture(scope="module")
def scan() -> Scan4D:
    """A disk whose strength and side change."""
    rng, (v, u) = np.random.default_rng(0), np.mgrid[:18, :16]
    away = np.hypot(v - 9, u - 8)
    rate = rng.uniform(2, 6, (144, 1, 1)) * (1 + rng.uniform(-0.9, 0.9, (144, 1, 1)) * (u - 8) / 8)
    places = np.stack(np.mgrid[:12, :12], -1).reshape(-1, 2) * 3.0
    counts = rng.poisson(0.2 + rate * (away < 5)).astype(np.uint16)
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY)


def drawing(scan: Scan4D, **manner) -> AutoencoderObjective:
    net = autoencoder.recommended(latent_dim=2, width=4, head_channels=2)
    objective = AutoencoderObjective(
        net, scan, {"squares": squares}, ALL, manner=PatternPresentation(**manner)
    )
    objective.begin()
    return objective


def test_halves_add_up_and_know_nothing_of_each_other(scan):
    flat = replace(scan, counts=np.random.default_rng(1).poisson(6.0, scan.counts.shape))
    one, other = drawing(flat, halves=True).read_input_and_target(ALL)
    torch.testing.assert_close((one + other)[:, 0], torch.from_numpy(flat.counts).float())
    assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.02  # 0.006 of chance


def test_halves_of_a_pattern_do_not_hang_on_its_company_but_on_the_epoch(scan):
    objective = drawing(scan, halves=True)
    some = objective.read_input_and_target(np.array([3, 50]))[0]
    torch.testing.assert_close(objective.read_input_and_target(ALL)[0][[3, 50]], some)
    assert (objective.read_input_and_target(np.array([3, 50]), epoch=1)[0] != some).any()


def test_halves_ask_for_whole_counts(scan):
    with pytest.raises(BadInput, match="not whole numbers of electrons"):
        drawing(replace(scan, counts=scan.counts / 3), halves=True)


def test_a_network_of_halves_expects_the_counts_of_whole_patterns(scan):
    latents, expected = drawing(scan, halves=True).reconstruct(ALL)
    assert latents.shape == (144, 2)
    sums = expected.sum((1, 2, 3)).numpy(), scan.counts.sum((1, 2))
    assert sums[0].mean() == pytest.approx(sums[1].mean(), rel=0.03)


def test_turns_come_in_training_only_and_take_the_mask_along(scan):
    mask = np.ones((18, 16), bool)
    mask[2, 3] = False
    spoiled = scan.counts.copy()
    spoiled[:, 2, 3] = 60000
    objective = drawing(replace(scan, counts=spoiled, mask=mask), turned=True)
    with torch.no_grad():
        asked = objective(ALL[:32])["squares"]
        objective.epoch = 5
        assert objective(ALL[:32])["squares"] == asked
    seen = []
    objective.losses = {"kept": lambda drawn: seen.append(drawn) or drawn.again.sum()}
    for objective.epoch in range(3):
        objective(ALL[:32])
    for drawn in seen:
        assert len({tuple(one.nonzero()[0].tolist()) for one in ~drawn.good}) == 4
        assert float((drawn.counts * drawn.good).max()) < 60000
        assert ((~drawn.good).sum((1, 2, 3)) == 1).all()
    objective(ALL[7:9])  # a pattern is turned alike in any company
    torch.testing.assert_close(seen[-1].counts, seen[-2].counts[7:9])


def test_half_precision_draws_nearly_the_same(scan):
    full, half = drawing(scan), drawing(scan, precision="bfloat16")
    half.net.load_state_dict(full.net.state_dict())
    one, other = full.reconstruct(ALL)[1], half.reconstruct(ALL)[1]
    assert other.dtype == torch.float32
    assert (one - other).abs().max() < 0.05 * one.max()
    losses = half(ALL[:32])["squares"]
    losses.backward()
    assert torch.isfinite(losses)


def test_a_training_that_spoils_the_start_ends_with_the_start(scan):
    recipe = Autoencode.of(
        {
            "model": {"recommended": {"latent_dim": 2, "width": 4}},
            "block": 3,
            "rate": 3.0,
            "epochs": 2,
            "device": "cpu",
        }
    )
    training = AutoencoderTraining.begin(recipe, scan=scan)
    start = {name: value.clone() for name, value in training.net.state_dict().items()}
    epochs = list(training)
    assert training.progress.best[1] < epochs[-1].holdout
    assert "epoch 0" in training.progress.stopped
    for name, value in training.net.state_dict().items():
        torch.testing.assert_close(value, start[name])
