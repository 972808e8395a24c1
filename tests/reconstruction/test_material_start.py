"""The start of a near-field run: absorption is decided by epochs with a free object; own numpy holograms."""

import numpy as np
import pytest

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known
from benchmarks.near_field_scans import draw_case, simulate_case
from phaseloom.data.prepare import enlarge
from phaseloom.direct.holograms import HologramImage
from phaseloom.ptycho import multigrid
from phaseloom.reconstruction.starts.distance_profile import profile_distance
from phaseloom.reconstruction.starts.material_start import HologramStart, choose_start

STAR = {"side": 64, "places": 6, "step": 5.0, "counts": 500.0, "fresnel": 0.07, "specimen": "star"}
STAR |= {"source": 0.3, "blur": 0.3, "position_error": 0.3, "fills": False, "phase": 1.5}
STAR |= {"distance_error": 0.0, "pixel": 1500.0, "magnification": 1.0, "background": 0.0, "diffuser": 1.2}

WEAK = {**STAR, "counts": 70.0, "fresnel": 0.14, "specimen": "particles", "absorption": 0.1}
"""A scan whose starts differ in the power of their images by more than in what they explain."""


def start(ratio: float, loss: float, image: HologramImage | None = None) -> HologramStart:
    return HologramStart(image, ratio, loss)  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "taken"), [(0.99, 0.1), (0.999, 0.01), (1.2, 0.01)])
def test_more_absorption_is_taken_only_where_it_explains_clearly_more(loss: float, taken: float) -> None:
    assert choose_start([start(0.01, 1.0), start(0.1, loss)]).ratio == taken


def test_a_start_that_was_not_tried_is_taken_alone() -> None:
    assert choose_start([HologramStart(None, 0.04)]).ratio == 0.04  # type: ignore[arg-type]


@pytest.mark.medium
def test_a_star_with_absorption_begins_with_absorption() -> None:
    case = draw_case(71, **STAR, absorption=0.1)
    scan = read_known(case, simulate_case(case))
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 2}), scan=scan)
    assert job.recorded.found["holograms"]["ratio"] == 0.1  # from 0.01 its image correlates by 0.3 to 0.8


@pytest.mark.medium
def test_few_counts_do_not_prefer_the_start_whose_image_has_more_power(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = draw_case(71, **WEAK)
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 6}), scan=read_known(case, simulate_case(case)))
    assert job.recorded.found["holograms"]["ratio"] == 0.1  # 0.01 was taken, its prior being weaker
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
