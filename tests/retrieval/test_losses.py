"""Losses of a predicted phase: nothing at the truth, blind to the constant, and never bought off."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.retrieval.losses import PredictedBatch, contrast, edges, physics, rings
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import simulate_scan
from phaseloom.simulation.specimens import Specimen

IMAGES: list[Callable[..., Tensor]] = [contrast, edges, rings]
EVERY: list[Callable[..., Tensor]] = [*IMAGES, physics]
EXPERIMENT = Experiment(scan=(8, 9), window=32, bin=1)


@pytest.fixture(scope="module")
def seen() -> PredictedBatch:
    """The truth of two weak specimens, and the patterns that they gave."""
    samples = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        places = rng.uniform(0, 1, (120, 3)) * (2.0, *EXPERIMENT.box)
        specimen = Specimen(np.full(120, 22), places, (2.0, *EXPERIMENT.box))
        samples.append(simulate_scan(specimen, EXPERIMENT))
    phase = torch.from_numpy(np.stack([sample.phase for sample in samples]))
    patterns = torch.from_numpy(np.stack([sample.patterns for sample in samples]))
    return PredictedBatch(phase, phase, patterns, (EXPERIMENT, EXPERIMENT))


def at(seen: PredictedBatch, image: Tensor) -> PredictedBatch:
    return replace(seen, image=image)


@pytest.mark.parametrize("loss", IMAGES)
def test_the_truth_costs_nothing(loss, seen):
    assert loss(seen, weight=1.0) == 0
    assert loss(at(seen, seen.phase + 0.01 * torch.randn_like(seen.phase)), weight=1.0) > 1e-5


def test_the_truth_gives_the_patterns_that_were_seen(seen):
    assert physics(seen, weight=1.0) < 0.03
    assert physics(at(seen, 0 * seen.phase), weight=1.0) > 0.5
    assert physics(at(seen, -seen.phase), weight=1.0) > 0.5
    assert physics(at(seen, seen.phase.roll(2, -1)), weight=1.0) > 0.3


@pytest.mark.parametrize("loss", EVERY)
def test_a_constant_is_not_felt(loss, seen):
    wrong = 0.7 * seen.phase + 0.02 * torch.randn_like(seen.phase)
    lifted = at(seen, wrong + torch.tensor([2.0, -0.5])[:, None, None])
    torch.testing.assert_close(loss(lifted), loss(at(seen, wrong)), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("loss", EVERY)
def test_nothing_is_gained_by_an_image_that_vanishes_or_grows(loss, seen):
    halves, flat, grown = (loss(at(seen, scale * seen.phase), weight=1.0) for scale in (0.5, 0.0, 6.0))
    assert flat > 0.3
    assert grown > flat > halves


@pytest.mark.parametrize("loss", EVERY)
def test_a_weight_is_a_factor(loss, seen):
    flat = at(seen, 0 * seen.phase)
    torch.testing.assert_close(loss(flat, weight=3.0), 3 * loss(flat, weight=1.0))


@pytest.mark.parametrize("loss", EVERY)
def test_a_batch_costs_the_mean_of_its_views(loss, seen):
    flat = at(seen, 0.3 * seen.phase)
    parts = [
        PredictedBatch(
            flat.image[n : n + 1], flat.phase[n : n + 1], flat.patterns[n : n + 1], flat.experiments[:1]
        )
        for n in range(2)
    ]
    torch.testing.assert_close(loss(flat), torch.stack([loss(part) for part in parts]).mean())


@pytest.mark.parametrize("loss", [contrast, edges])
def test_light_specimens_count_as_heavy_ones(loss, seen):
    strong = PredictedBatch(50 * 0.3 * seen.phase, 50 * seen.phase, seen.patterns, seen.experiments)
    stronger = PredictedBatch(100 * 0.3 * seen.phase, 100 * seen.phase, seen.patterns, seen.experiments)
    torch.testing.assert_close(loss(strong), loss(stronger), rtol=0.02, atol=0)
    empty = PredictedBatch(
        0 * seen.phase + 1e-3 * torch.randn_like(seen.phase), 0 * seen.phase, seen.patterns, ()
    )
    assert torch.isfinite(loss(empty))


@pytest.mark.parametrize("loss", IMAGES)
def test_the_rim_that_no_probe_reaches_is_not_judged(loss, seen):
    spoiled = seen.phase.clone()
    spoiled[:, :3] += 1.0
    spoiled[:, :, -3:] -= 2.0
    assert loss(at(seen, spoiled), weight=1.0) < 1e-9


@pytest.mark.parametrize("loss", IMAGES)
def test_gradients_are_those_of_the_value(loss):
    generator = torch.Generator().manual_seed(3)
    phase = torch.randn(2, 15, 13, dtype=torch.float64, generator=generator)
    image = 0.5 * torch.randn(2, 15, 13, dtype=torch.float64, generator=generator)
    image.requires_grad_()
    if loss is rings:  # its transform runs in single precision
        _agrees(lambda one: loss(PredictedBatch(one, phase, one, ()), weight=1.0, count=4), image)
        return
    assert torch.autograd.gradcheck(lambda one: loss(PredictedBatch(one, phase, one, ())), image)


def test_the_gradient_of_the_patterns_is_that_of_the_value(seen):
    few = PredictedBatch(seen.image[:1], seen.phase[:1], seen.patterns[:1], seen.experiments[:1])
    image = (0.5 * few.phase + 0.02 * torch.randn_like(few.phase)).requires_grad_()
    _agrees(lambda one: physics(replace(few, image=one)), image)


def _agrees(value: Callable[[Tensor], Tensor], image: Tensor) -> None:
    """Slope along random directions against differences, where only single precision is to be had."""
    (gradient,) = torch.autograd.grad(value(image), image)
    for seed in range(3):
        way = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)
        with torch.no_grad():
            step = 3e-2 * image.std() / way.std()
            slope = (value(image + step * way) - value(image - step * way)) / (2 * step)
        along = (gradient * way).sum()
        assert abs(float(slope - along)) < 0.03 * float(gradient.norm() * way.norm()) / image.numel() ** 0.5


@pytest.mark.parametrize("loss", EVERY)
def test_the_gradient_leads_towards_the_truth(loss, seen):
    image = (0.5 * seen.phase).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at(seen, image)), image)
    assert torch.isfinite(gradient).all()
    assert (gradient * seen.phase).sum() < 0


def test_every_probe_whose_window_lies_in_the_image_can_be_asked(seen):
    flat = at(seen, 0 * seen.phase)
    few, all_ = physics(flat, weight=1.0, probes=1), physics(flat, weight=1.0, probes=99)
    assert few != all_
    spoiled = seen.patterns.clone()
    spoiled[:, :2] = spoiled[:, -2:] = spoiled[:, :, :2] = spoiled[:, :, -2:] = 0.0
    beyond = replace(seen, patterns=spoiled)  # their windows leave the image
    assert physics(beyond, weight=1.0, probes=99) == physics(seen, weight=1.0, probes=99)


def test_views_too_small_for_a_window_are_refused_in_a_sentence(seen):
    small = PredictedBatch(
        seen.image[:, :31, :31], seen.phase[:, :31, :31], seen.patterns[:, :5, :5], seen.experiments
    )
    with pytest.raises(BadInput, match="31 pixels, and a probe's window has 32: take larger views"):
        physics(small)
