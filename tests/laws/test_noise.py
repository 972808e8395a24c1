"""Laws of noise models. A new one joins by its name in ``noise.__all__``."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import poisson as law

from phaseloom.ptycho import noise
from phaseloom.ptycho.noise import mean_divergence, shot_noise

MODELS = {name: getattr(noise, name) for name in noise.__all__ if name != "none"}
MODELS |= {
    "gaussian 0.5": partial(noise.gaussian, power=0.5),
    "gaussian 0.25": partial(noise.gaussian, power=0.25),
}
LOOSE = {"poisson": 0.05, "gaussian 0.25": 0.18}

every = pytest.mark.parametrize("name", MODELS)


def drawn(rate, seed=0):
    return torch.poisson(rate, generator=torch.Generator().manual_seed(seed))


def levels(*values):
    return torch.tensor(values, dtype=torch.float64)


class TestDivergence:
    @every
    def test_is_never_negative(self, name):
        model, counts = torch.meshgrid(
            levels(0, 1e-3, 0.1, 1, 7.3, 1e4), levels(0, 1, 2, 9, 1e4), indexing="ij"
        )
        assert (MODELS[name](model, counts) >= 0).all()

    @every
    def test_vanishes_at_equality(self, name):
        """But for the floor that keeps dark pixels finite."""
        counts = levels(0, 0.3, 1, 2, 50, 1e5)
        assert MODELS[name](counts, counts).max() < 1.1e-4
        assert MODELS[name](counts, counts)[-1] < 1e-8

    @every
    def test_keeps_shape_and_precision(self, name):
        for dtype in (torch.float32, torch.float64):
            left = MODELS[name](torch.rand(2, 3, 4).to(dtype), torch.ones(2, 3, 4, dtype=dtype))
            assert left.shape == (2, 3, 4)
            assert left.dtype == dtype

    @every
    def test_autograd_agrees_with_differences(self, name):
        model = levels(0.2, 1.0, 3.7, 40.0, 1.1).requires_grad_()
        counts = levels(0.0, 1.0, 2.0, 55.0, 0.0)
        assert torch.autograd.gradcheck(lambda m: MODELS[name](m, counts), model)

    @every
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_gradient_is_finite_in_the_dark(self, name, dtype):
        model = torch.tensor([0.0, 0.0, 1.0, 1e-20, 0.0], dtype=dtype, requires_grad=True)
        counts = torch.tensor([0.0, 5.0, 0.0, 1.0, 1e6], dtype=dtype)
        left = MODELS[name](model, counts)
        left.sum().backward()
        assert left.isfinite().all()
        assert model.grad.isfinite().all()


class TestLeastAtTheTruth:
    @every
    @pytest.mark.parametrize("rate", [100.0, 1e3])
    def test_on_average_over_drawn_counts(self, name, rate):
        counts = drawn(torch.full((200_000,), rate, dtype=torch.float64))
        factors = np.linspace(0.9, 1.1, 41)
        means = [MODELS[name](torch.full_like(counts, rate * f), counts).mean().item() for f in factors]
        assert factors[np.argmin(means)] == pytest.approx(1, abs=0.0051)

    @pytest.mark.parametrize("name", ["poisson", "gaussian"])
    @pytest.mark.parametrize("rate", [0.05, 0.7, 4.0])
    def test_score_averages_to_zero_even_for_few_counts(self, name, rate):
        n = np.arange(80)
        model = torch.full((80,), rate, dtype=torch.float64, requires_grad=True)
        chance = torch.as_tensor(law.pmf(n, rate))
        (chance * MODELS[name](model, torch.as_tensor(n, dtype=torch.float64))).sum().backward()
        assert abs(model.grad.sum().item()) < 2e-4 / rate

    def test_poisson_is_half_the_deviance(self):
        model, counts = levels(3.0, 0.5), levels(5.0, 2.0)
        exact = law.logpmf([5, 2], [5.0, 2.0]) - law.logpmf([5, 2], [3.0, 0.5])
        np.testing.assert_allclose(noise.poisson(model, counts, floor=0.0).numpy(), exact, rtol=1e-12)
        np.testing.assert_allclose(noise.poisson(model, counts, floor=0.0, limit=math.inf), exact, rtol=1e-12)

    @pytest.mark.parametrize("rate", [0.02, 0.3, 2.0, 20.0, 1e3, 1e5])
    def test_limited_poisson_is_the_deviance_of_all_counts_that_noise_gives(self, rate):
        counts = drawn(torch.full((200_000,), rate, dtype=torch.float64))
        model = torch.full_like(counts, rate)
        whole = noise.poisson(model, counts, limit=math.inf)
        assert torch.equal(noise.poisson(model, counts), whole)

    @pytest.mark.parametrize("n", [30.0, 1e4])
    def test_limited_poisson_goes_on_smoothly_and_no_steeper_than_amplitudes(self, n):
        counts = levels(n, n)
        edge = 200 / n + math.sqrt(400 / n)
        at_limit = n * math.exp(-edge)
        model = at_limit * torch.tensor([1 - 1e-6, 1 + 1e-6], dtype=torch.float64)
        left = noise.poisson(model.requires_grad_(), counts, floor=0.0)
        assert float(left.detach().diff()) == pytest.approx(0, abs=1e-4 * n)
        slopes = torch.autograd.grad(left.sum(), model)[0]
        assert float(slopes[0]) == pytest.approx(float(slopes[1]), rel=1e-4)
        dark = (at_limit * torch.tensor([1e-8, 1e-6], dtype=torch.float64)).requires_grad_()
        noise.poisson(dark, counts, floor=0.0).sum().backward()
        roots = (dark.grad * dark.detach().sqrt()).tolist()
        assert roots[0] == pytest.approx(roots[1], rel=0.01)  # as 1 / sqrt(model), not as 1 / model

    def test_half_power_is_the_amplitude(self):
        model, counts = levels(3.0, 0.5, 0.0), levels(5.0, 2.0, 4.0)
        half = noise.gaussian(model, counts, power=0.5)
        np.testing.assert_allclose(half.numpy(), noise.amplitude(model, counts, floor=0.0).numpy(), atol=5e-3)


class TestShotNoise:
    """The loss at the truth is one, whatever the model and the dose."""

    mask = torch.ones(20, 20, dtype=torch.bool)

    def at_truth(self, name, rate):
        counts = drawn(rate.float())
        left = MODELS[name](rate, counts.double())
        return left.sum().item() / len(rate) / shot_noise(MODELS[name], counts, self.mask)

    @every
    @pytest.mark.parametrize("rate", [0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 3.0, 10.0, 100.0, 1e4])
    def test_for_constant_rates(self, name, rate):
        loss = self.at_truth(name, torch.full((400, 20, 20), rate, dtype=torch.float64))
        assert loss == pytest.approx(1, abs=LOOSE.get(name, 0.05))

    @every
    @pytest.mark.parametrize("mean", [0.03, 0.1, 0.3, 1.0, 3.0, 30.0, 1e3])
    def test_for_speckle(self, name, mean):
        generator = torch.Generator().manual_seed(1)
        rate = mean * torch.empty(400, 20, 20, dtype=torch.float64).exponential_(generator=generator)
        assert self.at_truth(name, rate) == pytest.approx(1, abs=0.25)

    @every
    def test_for_bright_and_dark_pixels_together(self, name):
        rate = torch.logspace(-2, 4, 20, dtype=torch.float64).expand(400, 20, 20).contiguous()
        assert self.at_truth(name, rate) == pytest.approx(1, abs=LOOSE.get(name, 0.05))

    @every
    def test_masked_pixels_do_not_count(self, name):
        counts = drawn(torch.full((40, 20, 20), 3.0))
        spoilt = counts.clone()
        spoilt[:, 5, 7] = 1e9
        mask = self.mask.clone()
        mask[5, 7] = False
        assert shot_noise(MODELS[name], spoilt, mask) == shot_noise(MODELS[name], counts, mask)

    @every
    def test_whole_counts_are_numbered_and_others_summed_alike(self, name):
        rate = torch.logspace(-1, 5, 20, dtype=torch.float64).expand(40, 20, 20).contiguous()
        counts = drawn(rate.float()).double()
        sums = [noise._sum_expected_divergence(MODELS[name], counts.reshape(40, -1)) for counts in (counts,)]
        sums.append(sum(float(noise._expected_divergence(MODELS[name], few).sum()) for few in counts))
        assert sums[0] == pytest.approx(sums[1], rel=1e-12)
        below, above = (shot_noise(MODELS[name], counts + shift, self.mask) for shift in (0.0, 1e-9))
        assert below == pytest.approx(above, rel=1e-6)

    @every
    def test_mean_divergence_is_the_mean_over_poisson_counts(self, name):
        rate = levels(0.02, 0.15)
        counts = torch.arange(20, dtype=torch.float64)
        exact = [
            (
                torch.as_tensor(law.pmf(counts.numpy(), r)) * MODELS[name](torch.full_like(counts, r), counts)
            ).sum()
            for r in rate.tolist()
        ]
        torch.testing.assert_close(mean_divergence(MODELS[name], rate), torch.stack(exact), rtol=1e-6, atol=0)


@pytest.mark.parametrize("floor", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("limit", [1.0, 20.0, 100.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_a_deviance_is_the_same_with_and_without_gradients(floor, limit, scale):
    """Without them only pixels that may lie beyond the limit are continued as amplitudes."""
    draw = torch.Generator().manual_seed(7)
    model = scale * torch.rand(3, 5000, generator=draw, dtype=torch.float64) ** 8
    counts = torch.poisson(3 * scale * torch.rand(model.shape, generator=draw).double(), generator=draw)
    plain = noise.poisson(model, counts, floor=floor, limit=limit)
    wanted = noise.poisson(model.clone().requires_grad_(), counts, floor=floor, limit=limit).detach()
    torch.testing.assert_close(plain, wanted, rtol=1e-12, atol=0.0)
    beyond = noise.poisson(model, counts, floor=floor, limit=float("inf"))
    assert scale < 1 or limit > 1 or bool((beyond - plain > 1).any())
