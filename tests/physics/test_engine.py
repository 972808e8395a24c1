"""The compiled experiment is the plain one, to rounding, and its transforms are those of NumPy."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics.adjoint import far_waves, misfit
from phaseloom.physics.engine.misfit import PixelNoise, compiled_misfit
from phaseloom.physics.fused_kernels import has_numba
from phaseloom.physics.windowed_transmission import cut_windows
from phaseloom.ptycho import noise
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography

pytest.importorskip("numba")

from phaseloom.physics.engine import lanes, transforms

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
NEAR = {torch.float32: 2e-5, torch.float64: 1e-12}
CORNER = torch.tensor([[0, 1], [3, 4], [10, 9], [3, 4]])
APART = torch.tensor([[0, 1], [250, 4], [10, 290], [252, 7]])
DIVERGENCES = {
    "amplitude": partial(noise.amplitude, floor=0.02),
    "poisson": partial(noise.poisson, floor=0.02, limit=8.0),
    "poisson without limit": partial(noise.poisson, limit=float("inf")),
}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def make_leaves(kind, slices, field, real):
    phase = draw(slices, *field, seed=1, dtype=real)
    amplitude = 1 + 0.1 * draw(slices, *field, seed=2, dtype=real)
    leaves = {
        "complex": (torch.polar(amplitude, phase),),
        "amplitude and phase": (amplitude, phase),
        "phase": (phase,),
    }
    return tuple(leaf.requires_grad_() for leaf in leaves[kind])


def make_inputs(slices, modes, shape, real, *, fields):
    """Everything but the object, by name."""
    generator = torch.Generator().manual_seed(1)
    counts = torch.poisson(20 * draw(4, *shape, seed=7, dtype=real).square(), generator=generator)
    counts[0, 0, :5] = 9000.0
    angles = [draw(*shape, seed=20 + gap, dtype=real) for gap in range(slices - 1)]
    return {
        "modes": (3 * draw(modes, *shape, dtype=COMPLEX[real])).requires_grad_(),
        "rest": (0.3 * draw(4, 2, seed=3, dtype=real)).requires_grad_(),
        "kernels": [torch.polar(torch.ones_like(angle), angle) for angle in angles],
        "counts": counts,
        "weight": (1 + 0.1 * draw(4, seed=6, dtype=real)).requires_grad_(),
        "fields": {
            "background": draw(*shape, seed=8, dtype=real).square().requires_grad_(),
            "flat": 1 + 0.1 * draw(*shape, seed=9, dtype=real),
            "mask": draw(*shape, seed=10) > -1,
        }
        if fields
        else {},
    }


def run(given, leaves, corner, divergence, *, compiled):
    """Loss and all gradients."""
    modes, rest, weight = given["modes"], given["rest"], given["weight"]
    mosaic = cut_windows(leaves, corner, tuple(modes.shape[-2:]))
    if compiled:
        form = noise.find_compiled_form(divergence)
        loss = compiled_misfit(
            modes, rest, mosaic, given["kernels"], given["counts"], weight, form, **given["fields"]
        )
        assert loss is not None
    else:
        wave = far_waves(modes, rest, mosaic, given["kernels"])
        loss = misfit(wave, given["counts"], weight, noise.with_slope(divergence), **given["fields"])
    wanted = [modes, rest, weight, *leaves]
    wanted += [given["fields"]["background"]] if given["fields"] else []
    return [loss.detach(), *torch.autograd.grad(0.7 * loss, wanted)]


def assert_close(found, known, tolerance):
    for a, b in zip(found, known, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max().item() <= tolerance * b.abs().max().item()


class TestTransforms:
    @pytest.mark.parametrize("count", [16, 32, 48, 64, 80, 96, 128, 144, 240])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_are_those_of_numpy_and_their_transpose(self, count, dtype):
        axis = transforms.make_axis(count, np.dtype(dtype))
        assert axis is not None
        many = lanes.LANE_BYTES // np.dtype(dtype).itemsize
        rng = np.random.default_rng(count)
        x, y = (rng.normal(size=(count, many)) + 1j * rng.normal(size=(count, many)) for _ in range(2))
        seen = transform_columns(x, axis, dtype, back=False)
        known = np.fft.fft(x, axis=0)[axis.order]
        tolerance = 10 * np.finfo(dtype).eps * abs(known).max()
        assert abs(seen - known).max() <= tolerance
        assert np.isclose((abs(seen) ** 2).sum(), count * (abs(x) ** 2).sum(), rtol=1e-5)
        assert (
            abs(transform_columns(seen.conj(), axis, dtype, back=True).conj() / count - x).max() < tolerance
        )
        forth, back = (seen * y).sum(), (x * transform_columns(y, axis, dtype, back=True)).sum()
        assert np.isclose(forth, back, rtol=1e-4)

    @pytest.mark.parametrize("count", [8, 15, 50, 56, 112])
    def test_other_lengths_have_none(self, count):
        assert transforms.make_axis(count, np.dtype(np.float32)) is None


@pytest.importorskip("numba").njit(
    error_model="numpy"
)  # no cache: it would not see changes of the transforms
def transform_flat(re, im, step, stages, cosine, sine, back):
    axis = transforms.locate_axis(stages, cosine, sine)
    if back:
        transforms.transform_back(lanes.address(re), lanes.address(im), 0, step, axis)
    else:
        transforms.transform(lanes.address(re), lanes.address(im), 0, step, axis)


def transform_columns(x, axis, dtype, *, back):
    re, im = (part.astype(dtype).ravel() for part in (x.real, x.imag))
    transform_flat(re, im, x.shape[1], *axis[:3], back)
    return (re + 1j * im).reshape(x.shape)


class TestCompiledMisfit:
    @pytest.mark.parametrize("real", COMPLEX, ids=str)
    @pytest.mark.parametrize("kind", ["complex", "amplitude and phase", "phase"])
    @pytest.mark.parametrize("fields", [False, True], ids=["bare", "fields"])
    @pytest.mark.parametrize(
        ("slices", "modes", "shape"), [(1, 1, (16, 16)), (1, 3, (32, 48)), (3, 2, (48, 80)), (2, 3, (64, 16))]
    )
    @pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)
    def test_is_that_of_the_plain_path(self, slices, modes, shape, fields, kind, real, divergence):
        given = make_inputs(slices, modes, shape, real, fields=fields)
        leaves = make_leaves(kind, slices, (shape[0] + 20, shape[1] + 18), real)
        results = [run(given, leaves, CORNER, divergence, compiled=own) for own in (True, False)]
        assert_close(*results, NEAR[real])

    @pytest.mark.parametrize("kind", ["complex", "amplitude and phase", "phase"])
    def test_windows_may_lie_apart(self, kind):
        given = make_inputs(2, 2, (16, 32), torch.float64, fields=False)
        leaves = make_leaves(kind, 2, (280, 330), torch.float64)
        divergence = DIVERGENCES["poisson"]
        results = [run(given, leaves, APART, divergence, compiled=own) for own in (True, False)]
        assert_close(*results, 1e-12)

    def test_gradients_agree_with_differences(self):
        given = make_inputs(2, 2, (16, 16), torch.float64, fields=True)
        leaves = make_leaves("complex", 2, (36, 34), torch.float64)
        found = run(given, leaves, CORNER, DIVERGENCES["amplitude"], compiled=True)
        values = [given["modes"], given["rest"], given["weight"], *leaves, given["fields"]["background"]]
        for place, (value, gradient) in enumerate(zip(values, found[1:], strict=True)):
            along = draw(*value.shape, seed=30 + place, dtype=value.dtype)
            losses = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    value.add_(along, alpha=step)
                losses.append(run(given, leaves, CORNER, DIVERGENCES["amplitude"], compiled=True)[0].item())
                with torch.no_grad():
                    value.sub_(along, alpha=step)
            slope = (gradient.conj() * along).real.sum().item()
            assert slope == pytest.approx(0.7 * (losses[0] - losses[1]) / 2e-6, rel=1e-6)

    @pytest.mark.parametrize("left_out", ["modes", "rest", "weight", "object"])
    def test_any_gradient_may_be_left_out(self, left_out):
        given = make_inputs(2, 2, (16, 16), torch.float64, fields=False)
        leaves = make_leaves("phase", 2, (36, 34), torch.float64)
        every = {**{name: given[name] for name in ("modes", "rest", "weight")}, "object": leaves[0]}
        every[left_out].requires_grad_(False)
        known = dict(zip(every, run_moving(given, leaves, every, compiled=False), strict=True))
        found = dict(zip(every, run_moving(given, leaves, every, compiled=True), strict=True))
        assert found.pop(left_out) is None
        known.pop(left_out)
        assert_close(found.values(), known.values(), 1e-12)

    @pytest.mark.parametrize("shape", [(14, 14), (16, 56), (24, 32)])
    def test_other_windows_are_left_to_the_plain_path(self, shape):
        given = make_inputs(1, 1, shape, torch.float32, fields=False)
        mosaic = cut_windows(make_leaves("phase", 1, (60, 80), torch.float32), CORNER, shape)
        parts = given["modes"], given["rest"], mosaic, [], given["counts"], given["weight"]
        assert compiled_misfit(*parts, PixelNoise("poisson", 0.01, 20.0)) is None

    def test_refined_flights_are_left_to_the_plain_path(self):
        given = make_inputs(2, 1, (16, 16), torch.float64, fields=False)
        given["kernels"][0].requires_grad_()
        mosaic = cut_windows(make_leaves("phase", 2, (40, 40), torch.float64), CORNER, (16, 16))
        parts = given["modes"], given["rest"], mosaic, given["kernels"], given["counts"], given["weight"]
        assert compiled_misfit(*parts, PixelNoise("poisson", 0.01, 20.0)) is None


def run_moving(given, leaves, every, *, compiled):
    """Gradients of the parts that want one, by backward; ``None`` of the others."""
    for part in every.values():
        part.grad = None
    modes, rest, weight = given["modes"], given["rest"], given["weight"]
    mosaic = cut_windows(leaves, CORNER, (16, 16))
    divergence = DIVERGENCES["poisson"]
    if compiled:
        form = noise.find_compiled_form(divergence)
        loss = compiled_misfit(modes, rest, mosaic, given["kernels"], given["counts"], weight, form)
    else:
        wave = far_waves(modes, rest, mosaic, given["kernels"])
        loss = misfit(wave, given["counts"], weight, noise.with_slope(divergence))
    loss.backward()
    return [None if part.grad is None else part.grad.clone() for part in every.values()]


def make_model(side):
    geometry = Geometry(wavelength=0.02, shape=(side, side), angle=(1e-3, 1e-3))
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 20 * geometry.pixel[0], (12, 2))
    scan = Scan4D(counts=rng.poisson(3.0, (12, side, side)), positions=places, geometry=geometry)
    return scan, Ptychography.of(scan)


class TestModel:
    @pytest.mark.parametrize("side", [32, 30])
    def test_loss_and_gradients_are_those_of_the_plain_model(self, side):
        scan, model = make_model(side)
        likelihood = Likelihood(model, scan, noise.poisson)
        results = []
        for own in (True, False):
            model.use_custom_adjoint = own
            model.zero_grad()
            loss = likelihood(torch.tensor([2, 5, 7]))["noise"]
            loss.backward()
            parts = (model.object.wave, model.probe.relative)
            results.append([loss.detach(), *(part.grad.clone() for part in parts)])
        assert_close(*results, 1e-4)

    def test_the_same_batch_gives_the_same_bits(self):
        scan, model = make_model(32)
        likelihood = Likelihood(model, scan, noise.poisson)
        found = []
        for _ in range(3):
            model.zero_grad()
            likelihood(torch.tensor([2, 5, 7]))["noise"].backward()
            found.append(model.object.wave.grad.clone())
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@pytest.mark.medium
def test_without_numba_nothing_is_compiled():
    code = "import sys; sys.modules['numba'] = None; sys.modules['llvmlite'] = None\n"
    code += "from phaseloom.physics.engine.misfit import _load_kernels\nassert _load_kernels() is None"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_engine_that_does_not_compile_is_left_out(monkeypatch, caplog):
    from numba.core.errors import TypingError

    from phaseloom.physics.engine import misfit as module

    def fail(*given):
        raise TypingError("no such type")

    given = make_inputs(1, 1, (32, 32), torch.float32, fields=False)
    leaves = make_leaves("complex", 1, (60, 60), torch.float32)
    mosaic = cut_windows(leaves, CORNER, (32, 32))
    form = PixelNoise("poisson", 0.01, 20.0)
    words = (given["modes"], given["rest"], mosaic, [], given["counts"], given["weight"], form)
    assert compiled_misfit(*words) is not None
    monkeypatch.setattr(module, "_BROKEN", set())
    with monkeypatch.context() as patch:
        patch.setattr(module._CompiledMisfit, "apply", fail)
        assert compiled_misfit(*words) is None
    assert "left out" in caplog.text
    assert compiled_misfit(*words) is None  # it is not tried again


def test_kernels_that_would_be_interpreted_are_not_used(monkeypatch):
    import numba

    assert has_numba()
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert not has_numba()
