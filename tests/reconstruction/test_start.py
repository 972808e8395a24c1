"""The automatic start leaves alone what it cannot judge."""

from dataclasses import replace

import numpy as np

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
