"""Counts, made numbers whose noise is equally strong everywhere, and rates again."""

import pytest
import torch

from phaseloom.embedding.networks.anscombe import (
    MIN_STABILISED_COUNT,
    AnscombeScale,
    invert_anscombe,
    stabilise_counts,
)
from phaseloom.errors import BadInput


def poisson(rate: float, *shape: int) -> torch.Tensor:
    return torch.poisson(torch.full(shape, rate), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rate", [0.1, 0.5, 2.0, 10.0, 300.0])
def test_the_mean_of_transformed_counts_comes_back_as_their_rate(rate):
    mean = stabilise_counts(poisson(rate, 500, 500)).double().mean()
    assert invert_anscombe(mean[None, None].float()).item() == pytest.approx(rate, rel=0.02, abs=0.02)


@pytest.mark.parametrize("rate", [4.0, 30.0, 1000.0])
def test_noise_is_as_strong_at_any_rate(rate):
    assert stabilise_counts(poisson(rate, 300, 300)).std().item() == pytest.approx(1, abs=0.03)


def test_nothing_comes_back_as_nothing_and_less_too():
    values = torch.tensor([[MIN_STABILISED_COUNT, MIN_STABILISED_COUNT - 1, -50.0]], requires_grad=True)
    found = invert_anscombe(values)
    assert found.abs().max() < 1e-6
    found.sum().backward()
    assert torch.isfinite(values.grad).all()


def test_the_way_back_rises():
    assert (invert_anscombe(torch.linspace(MIN_STABILISED_COUNT, 40, 4000)[None]).diff() > 0).all()


def test_a_calibrated_scale_gives_mean_zero_and_spread_one_and_goes_back():
    scale, rates = (
        AnscombeScale(),
        200 * torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(1)) + 20,
    )
    scale.calibrate(rates)
    values = scale(rates)
    assert values.mean().abs() < 1e-6
    assert values.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(scale.inverse(values), rates + 0.25, atol=0.02, rtol=0)


def test_whole_numbers_and_noise_below_zero_are_taken():
    assert stabilise_counts(torch.tensor([[3, 0]])).dtype == torch.float32
    assert stabilise_counts(torch.tensor([[-2.0]])).item() == pytest.approx(MIN_STABILISED_COUNT)


def test_a_scale_refuses_what_says_nothing():
    with pytest.raises(BadInput, match="all the same"):
        AnscombeScale().calibrate(torch.ones(2, 1, 4, 4))
    with pytest.raises(BadInput, match="not a finite number"):
        AnscombeScale().calibrate(torch.tensor([[1.0, torch.nan]]))
