"""Amplitudes from compiled kernels are those of the model."""

import pytest
import torch

from phaseloom.ptycho import noise
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.illumination import AberratedProbe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.newton.amplitudes import CompiledAmplitudes
from tests.ptycho.test_compiled_steps import make_model, make_scan

pytest.importorskip("numba")


def sort_pixels(patterns):
    return patterns.flatten(1).sort(1).values


@pytest.mark.parametrize(
    "parts",
    [
        {"modes": 2},
        {"slices": 3, "kind": "phase", "lens": "sharp"},
        {"lens": "soft"},
    ],
    ids=["modes", "slices of phases", "lens"],
)
def test_amplitudes_are_those_of_the_model(parts):
    model = make_model(make_scan(masked=True), **parts)
    model.detector.start_background(3.0)
    with torch.no_grad():
        model.detector.weights.mul_(torch.linspace(0.8, 1.2, len(model.detector.weights)))
        model.scan.offsets.normal_(generator=torch.Generator().manual_seed(1))
    index = torch.tensor([3, 8, 30])
    amplitudes = CompiledAmplitudes(model)
    for _ in range(2):
        found = amplitudes(index)
        known = model(index).detach().clamp(min=0).sqrt() * model.detector.mask
        assert torch.allclose(sort_pixels(found), sort_pixels(known), rtol=1e-9)
        with torch.no_grad():  # what was kept is made anew
            model.object.set_transmission(model.object.transmission() * torch.tensor(0.3j).exp())
            for number in model.probe.parameters() if "lens" in parts else ():
                number.add_(0.1)


def test_order_of_pixels_is_the_same_in_all_patterns():
    model = make_model(make_scan())
    index = torch.tensor([3, 8, 30])
    found = CompiledAmplitudes(model)(index).flatten(1)
    known = model(index).detach().sqrt().flatten(1)
    order = found[0].argsort()[known[0].argsort().argsort()]
    assert torch.allclose(found[:, order], known, rtol=1e-9)


def test_models_of_two_precisions_are_left_to_pytorch():
    model = make_model(make_scan())
    model.scan.start = model.scan.start.float()
    assert CompiledAmplitudes(model)(torch.tensor([1])) is None


def test_coefficients_that_are_not_refined_are_not_stepped_and_change_no_curvature(monkeypatch):
    scan = make_scan()
    rules = []
    for skips in (True, False):
        model = make_model(scan, lens="sharp", dtype=torch.float32)
        model.probe.bend.requires_grad_(True)
        if not skips:
            monkeypatch.setattr(AberratedProbe, "fixed_numbers", lambda self: {})
        counted = CountedCalls(CompiledAmplitudes(model))
        curvature = Curvature(model, Likelihood(model, scan, noise.poisson))
        curvature._compiled_amplitudes = counted
        rules.append((counted, curvature([{"loss": 2.0}])[model.probe.bend]))
    (few, skipped), (all_, stepped) = rules
    assert few.done == 1 + 3  # as it is; defocus and both parts of the astigmatism
    assert all_.done == 1 + 4
    assert torch.allclose(
        skipped.inverse, stepped.inverse, rtol=1e-3, atol=1e-3 * stepped.inverse.abs().max()
    )
    assert skipped.inverse.diagonal().min() > 0


class CountedCalls:
    def __init__(self, call):
        self.call = call
        self.done = 0

    def __call__(self, *given):
        self.done += 1
        return self.call(*given)
