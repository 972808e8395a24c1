"""Real scans reach the quality that they allow, with nothing set by hand."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from skimage.filters import threshold_otsu

from phaseloom import samples
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

STAR = samples.far_field()
NEAR = {"file": str(samples.near_field()), "read": {"cxi": {"focus": "3.65 mm"}}, "noise": "poisson"}
NEAR |= {"start": "none"}  # from an empty object


@pytest.mark.slow
def test_the_siemens_star_is_found_without_probe_or_defocus():
    tree = {"file": str(STAR), "read": {"cxi": {"probe": False}}, "epochs": 60}
    job = Job.begin(Reconstruct.of(tree))
    assert job.start.orientation == "as given"
    assert -1.1e7 < job.start.defocus < -0.4e7
    for _ in job:
        pass
    result = job.result()
    assert result.metrics["amplitude error"] <= 0.240
    phase = result.phase[result.window]
    spokes = binary_erosion(phase < threshold_otsu(phase), iterations=3)
    free = binary_erosion(phase > threshold_otsu(phase), iterations=3)
    assert np.median(phase[spokes]) - np.median(phase[free]) == pytest.approx(-0.97, abs=0.08)


def test_the_near_field_star_falls_fast():
    job = Job.begin(Reconstruct.of({**NEAR, "rates": {"background": 0.2}, "epochs": 12, "patience": None}))
    losses = [epoch.loss for epoch in job]
    assert losses[0] > 35
    assert losses[-1] < 9


@pytest.mark.slow
def test_the_near_field_star_reaches_its_loss():
    job = Job.begin(Reconstruct.of({**NEAR, "rates": {"background": 0.2}, "epochs": 40}))
    for _ in job:
        pass
    assert job.result().metrics["Poisson deviance"] <= 5.5


@pytest.mark.medium
def test_refined_positions_do_not_snap_to_pixels():
    job = Job.begin(Reconstruct.of({**NEAR, "epochs": 15, "patience": None}))
    for _ in job:
        pass
    places = job.model.scan.current_positions().detach().numpy()
    assert np.std(places - np.round(places)) > 0.2
