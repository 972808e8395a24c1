"""What docs/restoration.md says of Phaseformer's training guide, where no other test shows it."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from phaseloom.learning.gating import PhaseGate
from phaseloom.metrics.image import psnr, ssim
from phaseloom.restoration.baselines import upsample_bilinear
from phaseloom.restoration.networks.phaseformer import phaseformer
from phaseloom.restoration.pairs.crops import stack_pairs
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.pairs.underwater import simulate_pairs
from phaseloom.restoration.weighting import softmax_frozen


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [sight.pair for sight in simulate_pairs(4, size=48, invented=0.0, seed=3)]


def test_a_target_blown_up_holds_nothing_that_the_target_lacks(pairs):
    for pair in pairs:
        blurred = stack_pairs([Pair(pair.name, pair.input, pair.target)]).fine[0].numpy()
        np.testing.assert_array_equal(blurred, upsample_bilinear(pair.target))
        assert pair.fine is not None
        assert psnr(blurred, pair.fine, peak=1) < 45
    best = np.mean([psnr(upsample_bilinear(pair.target), np.asarray(pair.fine), peak=1) for pair in pairs])
    assert best < 35  # a network that learns such targets to perfection comes no closer to the scene


def test_its_similarity_was_that_of_a_volume_and_does_not_compare(pairs):
    metrics = pytest.importorskip("skimage.metrics")

    def apart(image, target):
        volumes = [np.moveaxis(one, 0, -1) for one in (image, target)]
        theirs = metrics.structural_similarity(*volumes, data_range=1, win_size=3)  # colours as a third axis
        return theirs - ssim(image, target, peak=1)

    smooth = [gaussian_filter(pair.target, (0, 1, 1)) for pair in pairs]
    blurred = [gaussian_filter(one, (0, 1, 1)) for one in smooth]
    assert any(apart(one, two) > 0.01 for one, two in zip(blurred, smooth, strict=True))
    assert any(apart(pair.input, pair.target) < -0.1 for pair in pairs)  # noise: the other way


def test_its_gate_halves_whatever_comes():
    gate, maps = PhaseGate(16), torch.randn(2, 16, 64, 64) + 3
    ratio = (gate(maps) / maps).detach()
    assert abs(ratio - 0.5).max() < 1e-3


def test_its_weights_of_losses_are_no_parameters_that_learn():
    weighting = softmax_frozen(["charbonnier", "perceptual", "gradient", "similarity"], ["low", "high"])
    assert not weighting.groups(1e-3)
    first = weighting.weights
    losses = {name: torch.rand((), requires_grad=True) for name in weighting.names}
    weighting({"low": losses, "high": losses}).backward()
    assert weighting.weights == first


def test_its_network_has_both_outputs_and_no_image_added():
    net = phaseformer(seed=1)
    low, high = net(torch.zeros(1, 3, 32, 40))
    assert (tuple(low.shape), tuple(high.shape)) == ((1, 3, 32, 40), (1, 3, 64, 80))
    assert not low.any()
