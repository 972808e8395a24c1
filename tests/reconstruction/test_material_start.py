"""The start of a near-field run, an object of one material: own numpy holograms."""

import numpy as np
import pytest

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known, run_case
from benchmarks.near_field_scans import draw_case, simulate_case
from phaseloom.calibration.hologram_start import make_hologram_image
from phaseloom.data.prepare import enlarge
from phaseloom.ptycho import multigrid
from phaseloom.reconstruction.starts.distance_profile import profile_distance

STAR = {"side": 64, "places": 6, "step": 5.0, "counts": 500.0, "fresnel": 0.07, "specimen": "star"}
STAR |= {"source": 0.3, "blur": 0.3, "position_error": 0.3, "fills": False, "phase": 1.5}
STAR |= {"distance_error": 0.0, "pixel": 1500.0, "magnification": 1.0, "background": 0.0, "diffuser": 1.2}

WEAK = {**STAR, "counts": 70.0, "fresnel": 0.14, "specimen": "particles", "absorption": 0.1}
"""A scan of few counts, whose images differ in their power by more than in what they explain."""


@pytest.mark.medium
def test_a_star_with_absorption_begins_with_absorption() -> None:
    case = draw_case(71, **STAR, absorption=0.1)
    scan = read_known(case, simulate_case(case))
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 2}), scan=scan)
    assert job.recorded.found["holograms"]["ratio"] == 0.1  # from 0.01 its image correlates by 0.3 to 0.8


def test_the_direct_image_of_an_object_without_absorption_is_no_noise_of_many_radian() -> None:
    case = draw_case(71, **STAR, absorption=0.0)
    scan = read_known(case, simulate_case(case))
    image = make_hologram_image(scan, 0.0)
    assert image is not None
    assert np.ptp(image.phase) < 4 * STAR["phase"]  # 30 radian with no absorption at all


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["phase", "complex"])
def test_a_strong_star_without_absorption_under_a_beam_that_fills_the_detector_is_right(kind: str) -> None:
    case = draw_case(72, **{**STAR, "fills": True, "diffuser": 0.9}, absorption=0.0)
    simulated = simulate_case(case)
    settings = {"epochs": 10, "object": {"pixels": {"kind": kind}}}
    row = run_case(read_known(case, simulated), case, simulated.truth, settings)
    assert row["correlation"] > 0.9


@pytest.mark.medium
def test_few_counts_do_not_prefer_the_ratio_whose_image_has_more_power(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = draw_case(71, **WEAK)
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 6}), scan=read_known(case, simulate_case(case)))
    assert job.recorded.found["holograms"]["ratio"] > 0.01
    for _ in job:
        pass
    # two patterns held out show nothing of the object, but all holograms shift with the positions
    assert "positions stay as given" not in caplog.text
    assert not job.recipe.changes


@pytest.mark.medium
def test_distances_are_looked_for_on_the_pixels_of_the_detector() -> None:
    case = draw_case(71, **STAR, absorption=0.0)
    scan = read_known(case, simulate_case(case))
    fine = enlarge(scan, to=(128, 128), match="resample")
    assert multigrid.model_detector_pixels(fine).modelled is None
    recipe = pl.Reconstruct.of({"epochs": 2})
    coarse, finer = (profile_distance(recipe, one) for one in (scan, fine))
    assert coarse is not None
    assert finer is not None
    np.testing.assert_allclose(finer.losses.mean(1), coarse.losses.mean(1), rtol=0.02)
