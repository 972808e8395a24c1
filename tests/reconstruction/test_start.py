"""The automatic start leaves alone what it cannot judge."""

from dataclasses import replace

import numpy as np
import pytest

from phaseloom.calibration.sweep import Start
from phaseloom.reconstruction.start import sweep
from phaseloom.retrieval.recipe import SampleSimulator, Train
from phaseloom.spec import call


def test_a_stated_defocus_near_focus_is_not_given_up_for_a_wider_beam():
    """Steps as wide as the probe: patterns hardly overlap, and those of a wider beam are sooner explained."""
    recipe = Train.of({"microscope": {"fixed": {"scan": [10, 10], "defocus": "90 A"}}})
    sample = SampleSimulator(recipe.specimen, recipe.microscope, 5)(1)
    fractions = sample.patterns.reshape(-1, *sample.patterns.shape[2:]).clip(min=0)
    counts = np.random.default_rng(0).poisson(1e5 * fractions).astype(np.float32)
    probe = call("phaseloom.ptycho.probes", {"focused": {"semiangle": "20 mrad", "defocus": "90 A"}}, "probe")
    found = sweep(replace(sample.scan(), counts=counts), probe, 0, steps=7, orientations=False)
    assert found is not None
    losses = {round(one["defocus"]): one["loss"] for one in found.tried}
    assert losses[160] < 0.7 * losses[90]  # else this shows nothing
    assert found.defocus == 90.0


@pytest.mark.parametrize(("defocus", "says"), [(-30.0, "at the end of the range"), (10.0, "clear")])
def test_a_best_value_at_the_end_of_the_range_is_not_called_clear(defocus, says):
    tried = [
        {"orientation": "as given", "defocus": value, "epochs": 12, "loss": 1.0 + (value != defocus)}
        for value in (-30.0, -10.0, 10.0, 30.0)
    ]
    (line,) = Start(defocus, "as given", 1.0, 2.0, tried).lines(sign_is_known=True)
    assert says in line
    assert ("clear" in line) == (says == "clear")


def test_a_rival_with_a_lower_loss_is_named():
    tried = [
        {"orientation": "as given", "defocus": 90.0, "epochs": 12, "loss": 1.0},
        {"orientation": "transposed", "defocus": 120.0, "epochs": 12, "loss": 0.9},
        {"orientation": "as given", "defocus": 100.0, "epochs": 3, "loss": 0.5},
    ]
    (line,) = Start(100.0, "as given", 1.0, 0.9, tried).lines(sign_is_known=True)
    assert "kept, though a loss lower by 10 % was found in 12 epochs with: focus 12 nm behind" in line
    assert "detector transposed" in line
