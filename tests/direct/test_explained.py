"""The share of changes that an object explains, and its slopes by the implicit solution."""

import math
from dataclasses import replace

import pytest
import torch

from phaseloom.direct import explained
from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.explained import compute_explained_share, measure_explained_share
from phaseloom.direct.share_slopes import NUMBERS, ShareSlopes
from phaseloom.direct.transfer import LinearOptics, compute_columns

NAMES = ("C10", "C12a", "C21b", "rotation", "step", "focal_spread", "semiangle", "angle")
OPTICS = LinearOptics(
    0.02,
    0.012,
    {"C10": -300.0, "C12a": 60.0, "C21b": 4e4},
    orientation=4,
    rotation=0.3,
    step=1.03,
    focal_spread=20.0,
    source_size=0.15,
)


@pytest.fixture
def spectrum() -> Spectrum:
    random = torch.Generator().manual_seed(3)
    place = torch.rand(60, 2, generator=random, dtype=torch.float64) * 0.8 - 0.4
    frequency = torch.rand(25, 2, generator=random, dtype=torch.float64) * 0.6
    counts = 1 + torch.rand(60, generator=random, dtype=torch.float64)
    waves = compute_columns(OPTICS, place, frequency, edge=0.05)
    objects = torch.randn(25, 2, generator=random, dtype=torch.complex128)
    noise = torch.randn(25, 60, generator=random, dtype=torch.complex128)
    return Spectrum((waves @ objects[..., None])[..., 0] + noise, frequency, place, counts, 0.05)


def place_numbers(values: torch.Tensor) -> LinearOptics:
    numbers = dict(zip(NAMES, values, strict=True))
    coefficients = {name: numbers.pop(name) for name in NAMES if name in OPTICS.aberrations}
    return replace(OPTICS, aberrations=coefficients, **numbers)


@pytest.mark.parametrize("amplitude", [False, True])
def test_slopes_are_those_of_finite_differences(spectrum, amplitude):
    start = torch.tensor([-290.0, 70.0, 5e4, 0.33, 1.02, 25.0, 0.0121, 1.01], dtype=torch.float64)
    scale = torch.tensor([10.0, 10.0, 1e4, 0.05, 0.02, 5.0, 1e-4, 0.01], dtype=torch.float64)

    def share(moves: torch.Tensor) -> torch.Tensor:
        return measure_explained_share(spectrum, place_numbers(start + scale * moves), amplitude=amplitude)

    moves = torch.zeros(len(NAMES), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(share(moves), moves)
    step = 1e-5 * torch.eye(len(NAMES), dtype=torch.float64)
    wanted = torch.stack([(share(one) - share(-one)) / 2e-5 for one in step])
    assert slope.abs().min() > 1e-6
    assert torch.allclose(slope, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("amplitude", [False, True])
def test_both_ways_explain_the_same(spectrum, amplitude):
    shares = [
        compute_explained_share(spectrum, OPTICS, amplitude=amplitude),
        measure_explained_share(spectrum, OPTICS, amplitude=amplitude).item(),
    ]
    assert math.isclose(*shares, rel_tol=1e-12)
    assert 0 < shares[0] < 1


def test_an_object_with_depth_is_refused(spectrum):
    with pytest.raises(ValueError, match="one plane"):
        measure_explained_share(spectrum, replace(OPTICS, depths=(0.0, 10.0)))


@pytest.mark.parametrize("amplitude", [False, True])
@pytest.mark.parametrize("edge", [0.0, 0.05])
@pytest.mark.parametrize("blur", [{}, {"focal_spread": 20.0}, {"source_size": 0.15}])
def test_the_compiled_share_and_its_slopes_are_those_of_pytorch(spectrum, monkeypatch, amplitude, edge, blur):
    pytest.importorskip("numba", reason="the compiled share needs numba")
    seen = replace(spectrum, edge=edge)
    bare = replace(OPTICS, focal_spread=0.0, source_size=0.0)
    names = ("C10", "C12a", "C21b", "rotation", "step", *(("semiangle",) if edge else ()), *blur)

    def measure() -> tuple[torch.Tensor, torch.Tensor]:
        values = {**bare.aberrations, "rotation": 0.3, "step": 1.03, "semiangle": 0.012, **blur}
        numbers = {n: torch.tensor(values[n], dtype=torch.float64, requires_grad=True) for n in names}
        bent = {n: numbers[n] for n in bare.aberrations}
        others = {n: one for n, one in numbers.items() if n not in bent}
        share = measure_explained_share(seen, replace(bare, aberrations=bent, **others), amplitude=amplitude)
        return share.detach(), torch.stack(torch.autograd.grad(share, list(numbers.values())))

    share, slope = measure()
    monkeypatch.setenv("PHASELOOM_NUMBA", "0")
    wanted, slope_wanted = measure()
    assert slope_wanted.abs().min() > 0
    torch.testing.assert_close(share, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, slope_wanted, rtol=1e-9, atol=1e-13)


def test_the_kernel_is_used_where_there_is_one(spectrum, monkeypatch):
    pytest.importorskip("numba", reason="the compiled share needs numba")
    monkeypatch.setattr(explained, "compute_bands", lambda *_, **__: pytest.fail("used PyTorch"))
    measure_explained_share(spectrum, OPTICS)


@pytest.mark.parametrize("amplitude", [False, True])
@pytest.mark.parametrize("way", [0, 3, 4])
def test_slopes_written_out_are_those_of_the_graph(spectrum, amplitude, way):
    """Of all numbers that may move, also of one that the optics do not name, by the same kernel."""
    pytest.importorskip("numba")
    names = ("C10", "C12a", "C21b", "C23a", *NUMBERS)
    optics = replace(OPTICS, orientation=way, centre=(0.01, -0.02))
    moved: dict[str, float] = dict(
        zip(names, [-290.0, 70.0, 5e4, -3e4, 0.33, 1.02, 0.0121, 25.0, 0.2], strict=True)
    )
    point = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in moved.items()
    }
    aberrations = {name: one for name, one in point.items() if name not in NUMBERS}
    there = replace(optics, aberrations=aberrations, **{name: point[name] for name in NUMBERS})
    wanted = measure_explained_share(spectrum, there, amplitude=amplitude)
    slopes = torch.autograd.grad(wanted, tuple(point.values()))
    kernel = ShareSlopes.of(spectrum, optics, names, amplitude=amplitude)
    assert kernel is not None
    found = kernel(moved)
    assert found is not None
    assert found[0] == pytest.approx(wanted.item(), rel=1e-12)
    for name, slope in zip(names, slopes, strict=True):
        assert found[1][name] == pytest.approx(slope.item(), rel=1e-9), name


def test_slopes_of_what_the_kernel_does_not_know_are_left_to_the_graph(spectrum):
    assert ShareSlopes.of(spectrum, OPTICS, ("C10", "angle"), amplitude=False) is None
    thick = replace(OPTICS, depths=(0.0, 10.0))
    assert ShareSlopes.of(spectrum, thick, ("C10",), amplitude=False) is None
