"""Holograms of an independent numpy simulation: distance, magnification, direct image, start of a run."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known, run_case
from benchmarks.near_field_scans import NearFieldCase, SimulatedHolograms, draw_case, simulate_case
from phaseloom.calibration.hologram_start import _place_phase, make_hologram_images, measure_agreement
from phaseloom.calibration.near_field import estimate_near_field, guess_focus, set_near_field
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.holograms import reconstruct_holograms
from phaseloom.errors import BadInput
from phaseloom.reconstruction.run_folder import hash_setup

SMALL = {"side": 64, "places": 7, "step": 5.0, "counts": 1500.0, "fresnel": 0.06, "specimen": "particles"}
SMALL |= {"source": 0.0, "blur": 0.3, "position_error": 0.2, "fills": False, "absorption": 0.02, "phase": 0.8}
SMALL |= {"distance_error": 0.14, "pixel": 1500.0}


@cache
def simulated(seed: int, magnification: float) -> tuple[NearFieldCase, SimulatedHolograms]:
    """A scan of 49 holograms whose distances are stated wrongly."""
    wrong = {"magnification": magnification, "focus_error": -0.13 if magnification > 1 else 0.0}
    case = draw_case(seed, **SMALL, **wrong)
    return case, simulate_case(case)


def stated(seed: int, magnification: float) -> Scan4D:
    """The scan as it is handed over, without hot pixels."""
    return prepare.mask(read_known(*simulated(seed, magnification)), outliers=True)


@pytest.mark.parametrize("magnification", [1.0, 60.0])
def test_the_distance_comes_back_from_the_rings(magnification: float) -> None:
    case, _ = simulated(51, magnification)
    found = estimate_near_field(stated(51, magnification))
    assert found.geometry.flight == pytest.approx(case.flight, rel=0.09)
    assert found.geometry.pixel[0] == pytest.approx(case.pixel, rel=0.02)
    assert found.geometry.detector_pixel == pytest.approx((case.pixel * case.magnification,) * 2, rel=1e-6)


def test_the_focus_is_guessed_from_the_shifts_of_holograms() -> None:
    case, scan = simulated(51, 60.0)
    right = {**scan.known, "distance": case.distance}
    data = read_known(case, SimulatedHolograms(scan.counts, right, scan.truth))
    known = prepare.mask(data, outliers=True)
    assert guess_focus(known) == pytest.approx(case.focus, rel=0.03)
    assert guess_focus(stated(51, 1.0)) == np.inf


@pytest.mark.parametrize(("wide", "detail"), [(12.0, 3.0), (9.0, 2.5)])
def test_a_narrow_beam_makes_pixels_no_larger(wide: float, detail: float) -> None:
    """Shadows, moved without diffraction; pixels had come out 4 and 5 % too large."""
    rng = np.random.default_rng(0)
    shadow = ndimage.gaussian_filter(rng.normal(size=(256, 256)), detail)
    y, x = np.indices((64, 64)) - 32.0
    light = 200 * np.exp(-(y**2 + x**2) / (2 * wide**2))
    places = 4.0 * (np.indices((7, 7)).reshape(2, -1).T - 3) + rng.normal(0, 0.3, (49, 2))
    seen = [ndimage.map_coordinates(shadow, [y + 128 + v, x + 128 + u], order=3) for v, u in places]
    counts = rng.poisson(light * np.exp(0.3 / shadow.std() * np.array(seen))).astype(np.float32)
    pitch = 13e4 / 4.75e9
    cone = Geometry(wavelength=1.24, shape=(64, 64), angle=(pitch, pitch), distance=4.75e9, focus=2.5e8)
    scan = Scan4D(counts=counts, positions=places * np.array(cone.pixel), geometry=cone)
    assert estimate_near_field(scan).scale == pytest.approx(1, abs=0.012)


def test_the_focus_of_petra_is_guessed_without_being_stated() -> None:
    scan = pl.read(pl.samples.near_field(), knobs={"focus": "inf"})
    assert guess_focus(scan) == pytest.approx(3.65e7, rel=0.02)


def test_a_direct_image_of_holograms_is_that_of_the_object() -> None:
    case, scan = simulated(51, 1.0)
    right = {**scan.known, "distance": case.distance}
    data = prepare.mask(read_known(case, SimulatedHolograms(scan.counts, right, scan.truth)), outliers=True)
    image = reconstruct_holograms(data)
    room = image.holograms.canvas
    places = np.indices(image.phase.shape).reshape(2, -1).T * np.array(room.pixel) + np.array(room.origin)
    offset = scan.truth["positions"].mean(0) - data.positions.mean(0)
    at = np.round((places + offset) / scan.truth["pixel"]).astype(int)
    known = np.angle(scan.truth["object"])[tuple(at.T.clip(0, len(scan.truth["object"]) - 1))]
    lit = image.holograms.taper() > 0.9
    assert np.corrcoef(known.reshape(image.phase.shape)[lit], image.phase[lit])[0, 1] > 0.85


def test_a_phase_is_compared_with_the_direct_image_like_it_beyond_pi() -> None:
    scan = stated(51, 1.0)
    model = pl.Reconstruct.of({"start": "none"}).settle(scan)[0].build_model(scan)
    images = make_hologram_images(scan)
    span = max(np.ptp(one.phase * one.holograms.taper()) for one in images)
    strong = [replace(one, phase=one.phase * 5.5 / span) for one in images]
    flat = replace(strong[0], phase=np.zeros_like(strong[0].phase))
    model.object.set_transmission(torch.exp(1j * torch.as_tensor(_place_phase(strong[0], model)))[None, None])
    alone = measure_agreement(model, strong[:1])
    assert alone > 0.99
    with np.errstate(invalid="ignore"):
        assert measure_agreement(model, [*strong[:1], flat]) == alone
    assert measure_agreement(model, strong) == alone
    assert measure_agreement(model, strong[2:]) < alone


def test_a_far_field_has_no_hologram_image() -> None:
    far = pl.read(pl.samples.far_field())
    for refused in (reconstruct_holograms, estimate_near_field):
        with pytest.raises(BadInput, match="state its focus"):
            refused(far)


def test_a_geometry_keeps_its_detector_when_distances_change() -> None:
    one = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-4, 2e-4), distance=1e10, focus=1e8)
    other = set_near_field(one, 1.2 * one.pixel[0], 0.8 * one.flight)
    assert other.detector_pixel == pytest.approx(one.detector_pixel)
    assert other.flight == pytest.approx(0.8 * one.flight)


@pytest.mark.medium
def test_a_run_begins_with_the_direct_image_and_the_distances_found() -> None:
    case, scan = simulated(51, 60.0)
    data = read_known(case, scan)
    found = run_case(data, case, scan.truth, {"epochs": 20})
    given = run_case(data, case, scan.truth, {"epochs": 20, "start": "none"})
    assert found["correlation"] > 0.85
    assert found["correlation"] > given["correlation"] + 0.1
    assert given["verdict"] != "converged"  # its phase is not that of the direct image
    assert abs(found["distance_error"]) < 0.09


@pytest.mark.medium
def test_a_run_that_found_its_distances_can_be_repeated() -> None:
    case, scan = simulated(51, 60.0)
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 2}), scan=read_known(case, scan))
    assert "near_field" in [step.name for step in job.recorded.prepare]
    assert any("effective distance" in line for line in job.start_lines())
    said = job.recorded.found["holograms"]
    assert said["flight"] == job.scan.geometry.flight
    low, high = said["flight_range"]
    assert low < said["flight"] < high
    list(job)
    assert job.result().geometry.flight == pytest.approx(case.flight, rel=0.09)


def test_distances_corrected_twice_are_the_same_data_as_corrected_once() -> None:
    """Else runs that found magnification, then distance, could not be resumed: they are rounded otherwise."""
    data = read_known(*simulated(51, 60.0))
    known = data.geometry
    assert known.distance is not None
    assert known.focus is not None
    differing = 0
    for factor in np.linspace(0.87, 1.16, 30):
        last = {"distance": known.distance * factor**2, "focus": known.focus * factor}
        once = prepare.near_field(data, **last)
        twice = prepare.near_field(
            prepare.near_field(data, distance=known.distance * factor, focus=known.focus), **last
        )
        assert hash_setup(twice) == hash_setup(once)
        differing += hash_setup(twice, digits=None) != hash_setup(once, digits=None)
    assert differing > 0
    other = prepare.near_field(data, distance=known.distance * (1 + 1e-6), focus=known.focus)
    assert hash_setup(other) != hash_setup(data)
