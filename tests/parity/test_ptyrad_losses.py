"""Penalties against the five loss terms of PtyRAD 1.0.0, computed by it on random input."""

from pathlib import Path

import numpy as np
import pytest
import torch

from phaseloom.ptycho import penalties

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "ptyrad_reference.npz")


def golden(name):
    return torch.as_tensor(GOLDEN[name])


def windows(name):
    field, size = golden(name), golden("fwd/in_probe").shape[-1]
    corners = GOLDEN["fwd/in_crop_pos"].tolist()
    return torch.stack([field[..., y : y + size, x : x + size] for y, x in corners])


def given():
    return {
        "model": golden("fwd/patterns"),
        "counts": golden("fwd/in_meas"),
        "amplitude": windows("fwd/in_obja"),
        "phase": windows("fwd/in_objp"),
        "occupancy": golden("fwd/in_omode_occu"),
    }


CASES = {
    "loss/loss_single": ("relative_gaussian", ("model", "counts"), {}),
    "loss/loss_poissn": ("relative_poisson", ("model", "counts"), {}),
    "loss/loss_pacbed": ("pacbed", ("model", "counts"), {}),
    "loss/loss_sparse": ("sparse", ("phase", "occupancy"), {}),
    "loss/loss_sparse_l2_w1": ("sparse", ("phase", "occupancy"), {"weight": 1.0, "order": 2.0}),
    "loss/loss_simlar": (
        "similarity",
        ("amplitude", "phase", "occupancy"),
        {"scale": (1.0, 0.5, 0.5)},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_is_that_of_ptyrad(name, dtype):
    call, parts, knobs = CASES[name]
    value = getattr(penalties, call)(*(given()[part].to(dtype) for part in parts), **knobs)
    assert value.dtype == dtype
    assert value.item() == pytest.approx(GOLDEN[name].item(), rel=2e-6)


def test_patterns_of_tilted_objects_too():
    """PtyRAD's loss when every position has its own tilt, from which it takes gradients."""
    model = golden("fwd/patterns_tilt_each").double()
    value = penalties.relative_gaussian(model, golden("fwd/in_meas").double()).item()
    assert value == pytest.approx(GOLDEN["grad/loss_single"].item(), rel=2e-6)
