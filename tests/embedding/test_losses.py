"""The first design's loss as its formulas say, finite where they are not; better ways to ask the same."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phaseloom.embedding.losses import (
    ContrastiveLoss,
    DivergenceLoss,
    compute_seed_loss,
    cosine,
    count_dead_latents,
    decorrelation,
    poisson_deviance,
    variance_hinge,
)
from phaseloom.errors import BadInput

SPREAD = (variance_hinge, decorrelation, cosine, ContrastiveLoss(0.2), DivergenceLoss())


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.3, 1.0])
def test_similarity_is_what_a_loop_over_pairs_finds(margin):
    z = drawn(7, 5)
    found = [
        max(0.0, float(functional.cosine_similarity(z[i], z[j], dim=0)) - margin)
        for i in range(7)
        for j in range(i + 1, 7)
    ]
    assert ContrastiveLoss(margin)(z).item() == pytest.approx(sum(found) / len(found), abs=1e-6)


def test_divergence_is_what_a_loop_over_latents_finds():
    z = drawn(7, 5) * torch.tensor([1e-4, 1e-2, 1.0, 10.0, 0.0])
    found = []
    for column in z.double().T:
        mean = sum(column) / 7
        found.append(1 / (sum((value - mean) ** 2 for value in column) / 6 + 1e-8))
    assert DivergenceLoss()(z).item() == pytest.approx(float(sum(found) / 5), rel=1e-5)


def test_the_whole_is_the_weighted_sum_of_its_parts():
    x, x_hat, z = drawn(4, 1, 6, 6), drawn(4, 1, 6, 6, seed=1), drawn(4, 3, seed=2)
    parts = compute_seed_loss(x, x_hat, z, lambda_act=0.1, lambda_sim=0.2, lambda_div=0.3)
    assert list(parts) == ["total", "mse", "act", "sim", "div"]
    assert parts["mse"].item() == pytest.approx(float(((x - x_hat) ** 2).sum() / x.numel()), rel=1e-5)
    assert parts["act"].item() == pytest.approx(float(z.abs().sum() / z.numel()), rel=1e-5)
    wanted = parts["mse"] + 0.1 * parts["act"] + 0.2 * parts["sim"] + 0.3 * parts["div"]
    torch.testing.assert_close(parts["total"], wanted)


def test_no_pair_costs_anything_at_the_default_margin():
    assert ContrastiveLoss()(drawn(9, 4)).item() == 0
    assert ContrastiveLoss()(torch.ones(9, 4)).item() < 1e-6


@pytest.mark.parametrize("loss", SPREAD)
@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_patterns_cost_nothing(loss, count):
    z = drawn(count, 4).requires_grad_()
    value = loss(z)
    value.backward()
    assert value.item() == 0
    assert not z.grad.any()


@pytest.mark.parametrize("loss", SPREAD)
@pytest.mark.parametrize("size", [0.0, 1e-10, 1e-6, 1e-4, 1e-2, 1e3])
def test_gradients_are_finite_for_dead_and_faint_and_strong_latents(loss, size):
    z = (size * drawn(6, 4)).requires_grad_()
    loss(z).backward()
    assert torch.isfinite(z.grad).all()


def test_divergence_is_no_steeper_below_its_limit_than_at_it():
    def steepness(size: float) -> float:
        z = (size * drawn(32, 4)).requires_grad_()
        DivergenceLoss()(z).backward()
        return float(z.grad.abs().max())

    assert steepness(1e-3) < steepness(1e-2)
    assert steepness(6e-5) < steepness(1e-2)


def test_the_gradient_of_divergence_is_that_of_its_formula_above_the_limit():
    z = drawn(8, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(DivergenceLoss(), z)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_loses_nothing(kind):
    x, x_hat, z = drawn(4, 1, 6, 6), drawn(4, 1, 6, 6, seed=1), drawn(4, 3, seed=2).to(kind)
    wanted = compute_seed_loss(x, x_hat, z.float())
    z[:, 0] = 0
    with torch.autocast("cpu", dtype=kind):
        found = compute_seed_loss(x, x_hat.to(kind), z.requires_grad_())
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in found.values())
    assert found["mse"].item() == pytest.approx(wanted["mse"].item(), rel=1e-2)
    found["total"].backward()
    assert torch.isfinite(z.grad).all()


def test_a_loss_refuses_what_does_not_belong_together():
    with pytest.raises(BadInput, match=r"must have the shape of x, \(2, 1, 4, 4\)"):
        compute_seed_loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5), torch.zeros(2, 3))
    with pytest.raises(BadInput, match="latents of these 2 patterns"):
        compute_seed_loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.zeros(3, 3))


def test_latents_that_spread_enough_cost_no_hinge():
    z = drawn(50, 4)
    assert variance_hinge(10 * z).item() == 0
    assert variance_hinge(0 * z, gamma=2.0).item() == pytest.approx(2 - 0.01)


def test_covariance_counts_between_latents_and_not_within():
    z = drawn(400, 3)
    same = torch.cat([z, z[:, :1]], 1)
    found = torch.cov(same.T)
    off = float((found - torch.diag(found.diagonal())).square().sum()) / 4
    assert decorrelation(same).item() == pytest.approx(off, rel=1e-4)
    assert decorrelation(same) > 10 * decorrelation(z)


def test_opposite_patterns_are_as_alike_as_equal_ones_to_the_squared_cosine():
    z = torch.tensor([[1.0, 2.0], [-2.0, -4.0], [2.0, -1.0]])
    assert cosine(z).item() == pytest.approx(1 / 3, abs=1e-6)


def test_the_deviance_is_least_at_the_measured_rate_and_finite_at_none():
    counts = torch.tensor([0.0, 1.0, 7.0])
    rate = counts.clone().requires_grad_()
    poisson_deviance(rate, counts).backward()
    assert torch.isfinite(rate.grad).all()
    assert poisson_deviance(counts, counts).item() == pytest.approx(0, abs=1e-5)
    wanted = 2 * (0.5 + (math.log(1 / 0.5) - 0.5) + (7 * math.log(7 / 9) + 2)) / 3
    assert poisson_deviance(torch.tensor([0.5, 0.5, 9.0]), counts).item() == pytest.approx(wanted, rel=1e-5)


def test_dead_latents_are_counted():
    z = drawn(5, 6)
    z[:, 1], z[:, 4] = 0, 3.0
    assert count_dead_latents(z) == 2
    assert count_dead_latents(z[:1]) == 6
