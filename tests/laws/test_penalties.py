"""Laws of penalties: differentiable everywhere, zero where nothing is wrong, the same for any batch."""

import inspect
from functools import partial

import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.ptycho import noise, penalties

CALLS = {name: getattr(penalties, name) for name in penalties.__all__}
CASES = CALLS | {
    "relative_gaussian 0.2": partial(penalties.relative_gaussian, power=0.2),
    "relative_poisson 0.5": partial(penalties.relative_poisson, power=0.5),
    "sparse 2": partial(penalties.sparse, order=2.0),
    "sparse 1.5": partial(penalties.sparse, order=1.5),
    "similarity, coarse": partial(penalties.similarity, scale=(1.0, 0.5, 0.5)),
    "similarity, sharp": partial(penalties.similarity, blur=None, of="phase"),
    "tv, anisotropic": partial(penalties.tv, how="anisotropic"),
}
PARTS = ("model", "counts", "amplitude", "phase", "occupancy")
SHAPES = [(2, 2, 3, 5, 4), (3, 1, 1, 4, 7), (1, 3, 2, 1, 2)]

every = pytest.mark.parametrize("name", CASES)
any_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
of_counts = pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("relative", "pacbed"))])


def drawn(shape=SHAPES[0], dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, modes, _, height, width = shape
    model = 5 * torch.rand(batch, height, width, generator=generator, dtype=torch.float64)
    parts = {
        "model": model,
        "counts": torch.poisson(model, generator=generator),
        "amplitude": 1 + 0.1 * torch.randn(*shape, generator=generator, dtype=torch.float64),
        "phase": 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64),
        "occupancy": torch.softmax(torch.arange(modes, dtype=torch.float64), 0),
    }
    return {name: value.to(dtype) for name, value in parts.items()}


def asked(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]


def value(name, parts, **knobs):
    return CASES[name](*(parts[one] for one in asked(CASES[name])), **knobs)


class TestEvery:
    @every
    def test_asks_for_what_there_is(self, name):
        assert set(asked(CASES[name])) <= set(PARTS)

    @every
    @any_shape
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_one_finite_number_in_the_precision_given(self, name, shape, dtype):
        found = value(name, drawn(shape, dtype))
        assert found.shape == ()
        assert found.dtype == dtype
        assert found.isfinite()

    @every
    @any_shape
    def test_autograd_agrees_with_differences(self, name, shape):
        parts = drawn(shape)
        inputs = [parts[one].requires_grad_(one != "counts") for one in asked(CASES[name])]
        assert torch.autograd.gradcheck(CASES[name], inputs)

    @every
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("perfect", [False, True])
    def test_gradient_is_finite_at_the_start_and_in_the_dark(self, name, dtype, perfect):
        """No phase, equal modes, dark pixels; and patterns that agree."""
        parts = drawn(dtype=dtype)
        flat = {"phase": 0 * parts["phase"], "amplitude": torch.ones_like(parts["amplitude"])}
        parts |= flat | {"counts": 0 * parts["counts"], "model": parts["model"].clone()}
        parts["model"][0], parts["counts"][0, 0] = 0, 3
        parts["occupancy"] = torch.full((2,), 0.5, dtype=dtype)
        if perfect:
            parts["counts"] = parts["model"].clone()
        inputs = [one for one in asked(CASES[name]) if one != "counts"]
        for one in inputs:
            parts[one].requires_grad_()
        found = value(name, parts)
        found.backward()
        assert found.isfinite()
        assert all(parts[one].grad is None or parts[one].grad.isfinite().all() for one in inputs)

    @every
    def test_weight_is_a_factor(self, name):
        parts = drawn()
        unit = value(name, parts, weight=1.0).item()
        assert value(name, parts, weight=2.5).item() == pytest.approx(2.5 * unit)
        assert value(name, parts, weight=0.0).item() == 0
        assert unit != 0

    @every
    def test_does_not_depend_on_the_size_of_the_batch(self, name):
        """The same patterns and windows twice are a batch of the same value, but for the spread of modes."""
        parts = drawn()
        twice = {
            one: part if one == "occupancy" else part.repeat(2, *[1] * (part.ndim - 1))
            for one, part in parts.items()
        }
        assert value(name, twice).item() == pytest.approx(value(name, parts).item())


class TestCounts:
    @of_counts
    def test_least_at_the_truth(self, name):
        """Along a scale, and where every pixel may move: not for powers that are not the likelihood's."""
        parts = drawn()
        parts["counts"] = parts["model"]
        best = value(name, parts).item()
        if name == "relative_poisson 0.5":
            return
        for factor in (0.9, 1.1):
            assert value(name, parts | {"model": factor * parts["model"]}).item() > best
        assert value(name, parts | {"model": parts["model"].flip(-1)}).item() > best

    @pytest.mark.parametrize("name", ["relative_gaussian", "relative_gaussian 0.2", "pacbed"])
    def test_does_not_depend_on_the_unit_of_counts(self, name):
        parts = drawn()
        scaled = {one: 1e3 * parts[one] for one in ("model", "counts")}
        assert value(name, scaled).item() == pytest.approx(value(name, parts).item())

    def test_gradient_of_poisson_does_not_depend_on_the_unit(self):
        grads = []
        for unit in (1.0, 1e3):
            parts = {one: unit * drawn()[one] for one in ("model", "counts")}
            parts["model"].requires_grad_()
            value("relative_poisson", parts, floor=0.0).backward()
            grads.append(unit * parts["model"].grad)
        torch.testing.assert_close(grads[0], grads[1])

    def test_pacbed_sees_only_the_mean_pattern(self):
        parts = drawn((4, 1, 1, 5, 6))
        assert value("pacbed", parts | {"model": parts["counts"].flip(0)}).item() < 1e-12

    def test_the_order_of_pixels_does_not_matter(self):
        """Zero frequency in the corner or in the middle."""
        for name in CASES:
            parts = drawn()
            rolled = {one: parts[one].roll((2, 1), (-2, -1)) for one in ("model", "counts")}
            if "counts" in asked(CASES[name]):
                assert value(name, rolled).item() == pytest.approx(value(name, parts).item())

    def test_without_a_likelihood_noise_is_none(self):
        parts = drawn()
        model = parts["model"].requires_grad_()
        left = noise.none(model, parts["counts"])
        assert left.shape == model.shape
        assert not left.any()
        left.sum().backward()
        assert not model.grad.any()


class TestModes:
    @any_shape
    def test_one_mode_is_like_itself(self, shape):
        """Zero, with a gradient that is zero."""
        parts = drawn((shape[0], 1, *shape[2:]))
        inputs = [parts[one].requires_grad_() for one in asked(penalties.similarity)]
        found = penalties.similarity(*inputs)
        found.backward()
        assert found.item() == 0
        assert all(not one.grad.any() for one in inputs)

    def test_equal_modes_cost_nothing_and_different_ones_do(self):
        phase = drawn()["phase"]
        alike, half = phase[:, :1].expand_as(phase), torch.full((2,), 0.5, dtype=torch.float64)
        assert penalties.similarity(alike + 1, alike, half).item() < 1e-12
        assert penalties.similarity(phase + 1, phase, half).item() > 1e-3

    def test_blurring_and_averaging_forgive_fine_differences(self):
        parts = drawn((1, 2, 1, 12, 12))
        sharp, blurred, coarse = (
            value("similarity", parts, of="phase", **knobs).item()
            for knobs in ({"blur": None}, {"blur": 2.0}, {"blur": 2.0, "scale": (1.0, 0.25, 0.25)})
        )
        assert sharp > blurred > coarse > 0

    def test_parts_add(self):
        parts = drawn()
        one, other, both = (value("similarity", parts, of=of).item() for of in ("amplitude", "phase", "both"))
        assert both == pytest.approx(one + other)

    def test_sparse_weighs_modes_by_occupancy(self):
        parts = drawn()
        parts["phase"][:, 1] = 0
        first = penalties.sparse(parts["phase"][:, :1], torch.ones(1, dtype=torch.float64)).item()
        parts["occupancy"] = torch.tensor([0.3, 0.7], dtype=torch.float64)
        assert value("sparse", parts).item() == pytest.approx(0.3 * first)


class TestSmoothness:
    @pytest.mark.parametrize("how", ["isotropic", "anisotropic"])
    def test_flat_phase_varies_nowhere(self, how):
        assert penalties.tv(torch.full((1, 2, 3, 5, 4), 0.7), how=how).item() == 0

    def test_isotropic_variation_is_that_of_the_slope(self):
        y, x = torch.meshgrid(torch.arange(40.0).double(), torch.arange(50.0).double(), indexing="ij")
        inner = 39 * 49 / (40 * 50)
        slope = penalties.tv((0.3 * y + 0.4 * x)[None, None, None], weight=1.0, floor=1e-9).item()
        edges = (39 * 0.3 + 49 * 0.4) / 2000
        assert slope == pytest.approx(0.5 * inner + edges)
        both = penalties.tv((0.3 * y + 0.4 * x)[None, None, None], weight=1.0, how="anisotropic", floor=1e-9)
        assert both.item() == pytest.approx((0.3 * 39 * 50 + 0.4 * 40 * 49) / 2000)

    def test_a_border_costs_its_height_however_sharp(self):
        steps = torch.linspace(0, 1, 9, dtype=torch.float64)
        wide = steps.repeat_interleave(1).expand(1, 1, 1, 3, 9)
        sharp = (steps > 0.5).double().expand(1, 1, 1, 3, 9)
        assert penalties.tv(wide, floor=1e-9).item() == pytest.approx(penalties.tv(sharp, floor=1e-9).item())
        assert penalties.smooth_depth(wide.movedim(-1, 2)) < penalties.smooth_depth(sharp.movedim(-1, 2))

    @pytest.mark.parametrize("slices", [1, 4])
    def test_equal_slices_are_coupled_for_nothing(self, slices):
        phase = drawn()["phase"][:, :, :1].expand(-1, -1, slices, -1, -1).clone().requires_grad_()
        found = penalties.smooth_depth(phase)
        found.backward()
        assert found.item() == 0
        assert not phase.grad.any()


WRONG = [
    ("relative_gaussian", {"power": 0.0}),
    ("relative_gaussian", {"weight": -1.0}),
    ("relative_poisson", {"floor": -1.0}),
    ("pacbed", {"power": float("nan")}),
    ("sparse", {"order": 0.5}),
    ("similarity", {"blur": 0.0}),
    ("similarity", {"taps": 4}),
    ("tv", {"floor": 0.0}),
    ("smooth_depth", {"weight": float("inf")}),
]


@pytest.mark.parametrize(("name", "knobs"), WRONG)
def test_a_senseless_knob_is_named(name, knobs):
    (knob,) = knobs
    with pytest.raises(BadInput, match=rf"penalties: {name}\.{knob}: .* must be"):
        value(name, drawn(), **knobs)
