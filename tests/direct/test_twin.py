"""Which twin a direct image shows: dark field, skewness, and what neither decides."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.direct.reconstruct import reconstruct_scan
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics, compute_aperture, compute_chi
from phaseloom.direct.twin import (
    TwinEvidence,
    choose_twin,
    compute_skewness,
    correlate_with_dark_field,
    judge_twin,
    measure_dark_field,
)
from phaseloom.simulation import simulate

GRID = (32, 32)
STEP = 0.6
PIXEL = 0.2
SEMIANGLE = 0.022
ENERGY = 80e3


def simulate_scan(phase: np.ndarray, defocus: float, electrons: float = 1e5) -> Scan4D:
    beam = {"energy": ENERGY, "semiangle": SEMIANGLE, "defocus": defocus, "window": 64}
    places = simulate.raster(GRID, STEP) + 8.0
    scan, _ = simulate.electron_scan(phase, PIXEL, places, **beam, dose=electrons)
    return replace(scan, grid=GRID)


def optics(defocus: float) -> LinearOptics:
    return LinearOptics.of(wavelength=0.04176, semiangle=SEMIANGLE, aberrations={"defocus": defocus})


def film_with_holes(seed: int = 0) -> np.ndarray:
    """A rough film whose phase has pits and no peaks: its skewness misleads."""
    side = 190
    rough = simulate.atoms((side, side), PIXEL, peak=0.25, seed=seed, spacing=1.1)
    rng = np.random.default_rng(seed)
    row, column = np.indices((side, side)) * PIXEL
    holes = np.zeros((side, side))
    for centre in rng.uniform(8, 30, (6, 2)):
        distance = np.hypot(row - centre[0], column - centre[1])
        holes = np.maximum(holes, 1 / (1 + np.exp((distance - 1.6) / 0.2)))
    return rough * (1 - holes)


@pytest.fixture(scope="module", params=[-120.0, 0.0, 120.0])
def of_atoms(request) -> tuple[Scan4D, np.ndarray, float]:
    """A scan of atoms, the true phase at its places, and its defocus."""
    side = int(8 / PIXEL + GRID[0] * STEP / PIXEL + 70)
    phase = simulate.atoms((side, side), PIXEL, peak=0.25, seed=1)
    index = np.round((simulate.raster(GRID, STEP) + 8.0) / PIXEL).astype(int)
    at = np.squeeze(phase)[index[:, 0], index[:, 1]].reshape(GRID)
    return simulate_scan(phase, request.param), at, request.param


def test_the_dark_field_is_bright_where_the_phase_is_at_any_defocus(of_atoms):
    scan, phase, defocus = of_atoms
    dark = measure_dark_field(scan, survey_disk(scan))
    assert dark is not None
    assert correlate_with_dark_field(scan, optics(defocus), phase, dark) > 5


def test_a_twin_has_the_opposite_correlation(of_atoms):
    scan, phase, defocus = of_atoms
    dark = measure_dark_field(scan, survey_disk(scan))
    one = optics(defocus)
    right = correlate_with_dark_field(scan, one, phase, dark)
    assert correlate_with_dark_field(scan, one.get_twin(), -phase, dark) == pytest.approx(-right, rel=0.01)


def test_an_asymmetric_probe_moves_the_image_as_it_does_the_dark_field():
    """With coma, a transfer of the wrong direction would blur to the other side."""
    side = 190
    phase = np.zeros((1, side, side))
    phase[0, 88, 88] = 4.0
    scan = simulate_scan(phase, 0.0)
    coma = LinearOptics.of(wavelength=0.04176, semiangle=SEMIANGLE, aberrations={"C21": 6e3, "phi21": 0.0})
    line = np.fft.fftfreq(64, PIXEL)
    k = torch.from_numpy(np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2))
    pupil = torch.polar(compute_aperture(coma, k, 0.0), -compute_chi(coma, k)).reshape(64, 64).numpy()
    intensity = np.abs(np.fft.ifft2(pupil)) ** 2
    where = np.round((9.6 - simulate.raster(GRID, STEP)) / PIXEL).astype(int)
    dark = intensity[where[:, 0] % 64, where[:, 1] % 64] * (np.abs(where) < 32).all(1)
    peak = np.zeros(GRID)
    peak[16, 16] = 1.0
    ours = correlate_with_dark_field(scan, coma, peak, dark.reshape(GRID))
    other = correlate_with_dark_field(scan, coma, peak, dark.reshape(GRID)[::-1, ::-1])
    assert ours > 28  # of 32, the root of the number of places
    assert ours > other + 3


def drop_numbers(text: str) -> str:
    return re.sub(r"[\d.]+", "", text)


def test_a_film_with_holes_is_told_by_its_dark_field():
    scan = simulate_scan(film_with_holes(), 100.0)
    found = reconstruct_scan(scan, semiangle=SEMIANGLE, aberrations={"defocus": 100.0}, fit=False)
    phase = found.image.phase.double().numpy()
    evidence = judge_twin(scan, found.survey, found.optics, phase)
    assert evidence.dark_field > 5
    assert evidence.sign == 1
    assert "dark field" in evidence.describe()
    upside_down = judge_twin(scan, found.survey, found.optics.get_twin(), -phase)
    assert upside_down.sign == -1
    # of the twin that is chosen, up to rounding
    assert drop_numbers(upside_down.describe()) == drop_numbers(evidence.describe())
    assert -upside_down.dark_field == pytest.approx(evidence.dark_field, rel=0.01)
    assert -upside_down.skewness == pytest.approx(evidence.skewness, rel=0.01)


@pytest.mark.parametrize(
    ("skewness", "dark_field", "sign"),
    [
        (4.0, None, 1),
        (-4.0, None, -1),
        (2.0, None, 0),
        (-4.0, 20.0, 1),  # the dark field decides alone
        (-9.0, 7.0, 0),  # clear pits contradict
        (-5.5, 20.0, 1),  # the stronger one
        (4.0, -2.7, 0),  # both are weak and contradict each other
        (4.5, 0.0, 1),
        (2.5, 2.5, 1),
        (-2.5, -2.5, -1),
        (0.0, 4.0, 0),
    ],
)
def test_both_kinds_of_evidence_are_weighed(skewness, dark_field, sign):
    evidence = TwinEvidence(skewness, dark_field)
    assert evidence.sign == sign
    assert evidence.describe().startswith("nothing") == (sign == 0)


@pytest.mark.parametrize(
    ("skewness", "dark_field", "is_safe"),
    [
        (50.0, None, False),
        (14.0, -1.3, False),
        (8.3, -3.9, False),
        (0.5, 3.5, True),
        (-0.5, 3.5, False),
        (-4.0, 20.0, True),
        (-9.0, 7.0, False),
        (-9.0, -3.5, True),
    ],
)
def test_peaks_alone_are_a_guess(skewness, dark_field, is_safe):
    assert TwinEvidence(skewness, dark_field).is_safe == is_safe
    assert TwinEvidence(-skewness, dark_field and -dark_field).is_safe == is_safe


@pytest.mark.parametrize(
    ("skewness", "dark_field", "said"),
    [
        (
            8.0,
            -2.4,
            "atoms are peaks of the phase (skewness 8.0 standard errors), though the dark field is "
            "opposite to the phase (correlation -2.4 standard errors)",
        ),
        (
            -8.0,
            2.4,
            "atoms are peaks of the phase (skewness 8.0 standard errors), though the dark field is "
            "opposite to the phase (correlation -2.4 standard errors)",
        ),
        (
            3.0,
            4.0,
            "the dark field follows the phase (correlation 4.0 standard errors) and atoms are peaks of "
            "the phase (skewness 3.0 standard errors)",
        ),
        (0.1, None, "nothing"),
    ],
)
def test_a_witness_against_the_twin_that_was_chosen_is_not_told_as_one_for_it(skewness, dark_field, said):
    """It read "the dark field follows the phase (correlation -2.4 standard errors)"."""
    assert TwinEvidence(skewness, dark_field).describe() == said


def test_a_detector_that_ends_with_the_disk_has_no_dark_field(of_atoms):
    scan, _, _ = of_atoms
    survey = survey_disk(scan)
    row, column = np.indices(survey.mask.shape)
    radius = np.hypot(row - survey.disk.centre[0], column - survey.disk.centre[1])
    assert measure_dark_field(scan, replace(survey, mask=radius < 1.1 * survey.disk.radius)) is None


def test_images_finer_than_the_scan_are_compared_at_its_places(of_atoms):
    scan, phase, defocus = of_atoms
    fine = np.repeat(np.repeat(phase, 2, 0), 2, 1)
    survey = survey_disk(scan)
    coarse = judge_twin(scan, survey, optics(defocus), phase)
    assert judge_twin(scan, survey, optics(defocus), fine).dark_field == pytest.approx(coarse.dark_field)


def test_a_stated_defocus_decides_without_a_look_at_the_dark_field(of_atoms):
    scan, _, _ = of_atoms
    found = reconstruct_scan(scan, semiangle=SEMIANGLE, aberrations={"defocus": 120.0}, fit=False)

    def judge() -> TwinEvidence:
        raise AssertionError

    kept, image, note = choose_twin(found.optics, found.image, stated=-100.0, judge=judge)
    assert kept.defocus == 120.0
    assert "stated defocus" in note
    turned, negative, _ = choose_twin(found.optics, found.image, stated=100.0, judge=judge)
    assert turned.defocus == -120.0
    assert bool((negative.phase == -image.phase).all())


def test_without_evidence_the_phase_may_be_upside_down(of_atoms):
    scan, _, _ = of_atoms
    found = reconstruct_scan(scan, semiangle=SEMIANGLE, aberrations={"defocus": 120.0}, fit=False)
    choose = partial(choose_twin, found.optics, found.image, stated=None)
    for judge in (None, lambda: TwinEvidence(0.5, 0.5)):
        _, image, note = choose(judge=judge)
        assert image is found.image
        assert "upside down" in note


def test_pits_are_negative_skewness():
    image = np.zeros((16, 16))
    image[5, 5] = 1
    assert compute_skewness(image) == pytest.approx(-compute_skewness(-image))
    assert compute_skewness(image) > 1
