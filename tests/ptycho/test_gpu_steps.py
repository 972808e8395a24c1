"""Steps by the kernels of a GPU are those that are made one by one; the kernels run on the processor here."""

from functools import partial

import pytest
import torch

from phaseloom.physics.gpu.source import plan_kernels
from phaseloom.ptycho import noise
from phaseloom.ptycho.newton import on_gpu
from tests.emulated_gpu import COMPILER, EmulatedKernels
from tests.ptycho.test_compiled_steps import make_scan, run

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    made = {}

    def load(shape, device):
        if shape not in made:
            made[shape] = None if plan_kernels(shape) is None else EmulatedKernels(shape, folder)
        return made[shape]

    return load


@pytest.fixture(autouse=True)
def _emulated(kernels, monkeypatch):
    monkeypatch.setattr(on_gpu, "load_kernels", kernels)


def assert_same(scan, tolerance=2e-4, **knobs):
    """In single precision, to rounding that some updates have amplified."""
    shared = {"dtype": torch.float32, **knobs}
    found, _ = run(scan, together=True, steps_of=on_gpu.GpuSteps, **shared)
    known, _ = run(scan, together=False, **shared | {"dtype": torch.float64})
    for a, b in zip(found, known, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_steps_are_those_that_are_made_one_by_one(slices, modes):
    assert_same(make_scan(), slices=slices, modes=modes, epochs=2)


@pytest.mark.parametrize(
    "knobs",
    [
        {"size": 7},
        {"start": 2},
        {"held": True},
        {"divergence": noise.amplitude},
        {"divergence": partial(noise.poisson, limit=3.0), "background": 2.0},
    ],
    ids=["size", "start", "held", "amplitude", "poisson"],
)
def test_the_same_holds_for_what_a_fit_may_ask_for(knobs):
    assert_same(make_scan(masked=True), epochs=2, **knobs)


@pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 2)])
def test_phases_move_as_they_do_one_by_one(slices, modes):
    names = ("phase", "probe", "positions", "affine")
    assert_same(make_scan(), kind="phase", slices=slices, modes=modes, names=names, epochs=2)


def test_windows_that_lie_apart_move_what_they_see_alone():
    """Rectangles of the plain path reach beyond windows, where momentum goes on."""
    scan = make_scan(step=25.0)
    shared = {"dtype": torch.float32, "epochs": 2}
    found, _ = run(scan, together=True, steps_of=on_gpu.GpuSteps, **shared)
    known, _ = run(scan, together=False, **shared)
    torch.testing.assert_close(found[0], known[0], rtol=0.03, atol=0)
    assert (found[1] - known[1]).norm() < 0.1 * (known[1] - known[1].mean()).norm()


def test_what_kernels_do_not_know_is_left_to_others():
    assert plan_kernels((34, 34)) is None
    found, _ = run(make_scan(), together=True, steps_of=on_gpu.GpuSteps, dtype=torch.float32)
    assert found[0].isfinite().all()
    with pytest.raises(AssertionError):
        run(make_scan(), together=True, steps_of=on_gpu.GpuSteps, pieces=2, dtype=torch.float32)
