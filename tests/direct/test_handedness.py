"""Whether the detector is mirrored, by the curl of the centre of mass."""

import math
from dataclasses import replace

import numpy as np
import pytest

from phaseloom.data import prepare
from phaseloom.direct.checks import handedness
from phaseloom.direct.checks.handedness import (
    Handedness,
    fit_optics_and_hand,
    judge_handedness,
    measure_handedness,
)
from phaseloom.direct.reconstruct import reconstruct_scan
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics
from phaseloom.simulation import simulate

SHAPE = (18, 23)


def make_gradient(steps: np.ndarray, seed: int = 0) -> np.ndarray:
    """The gradient of a smooth random phase at the places of a raster."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.indices(SHAPE), -1) @ steps
    field = np.zeros((*SHAPE, 2))
    for _ in range(30):
        wave = rng.uniform(-1.2, 1.2, 2)
        field += np.sin(places @ wave + rng.uniform(0, 6))[..., None] * wave
    return field


@pytest.mark.parametrize("degrees", [0, 33, 90, 215])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_gradient_keeps_its_hand_however_it_is_turned(degrees, mirror):
    steps = np.array([[1.0, 0.2], [-0.1, 1.4]])
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    field = make_gradient(steps) @ np.array([[c, s], [-s, c]])
    field = field[..., ::-1] if mirror else field
    found = judge_handedness(np.stack([field, field]), steps)
    assert found.sign == (-1 if mirror else 1)
    right, wrong = sorted([found.as_given, found.mirrored])
    assert right < 0.05  # what the ends of the raster leave
    assert wrong > 0.2


def test_noise_decides_nothing():
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert judge_handedness(rng.normal(size=(2, *SHAPE, 2)), np.eye(2)).sign == 0
    assert judge_handedness(np.zeros((2, *SHAPE, 2)), np.eye(2)).sign == 0


def test_the_error_is_what_noise_makes_of_the_difference():
    rng = np.random.default_rng(2)
    steps = np.eye(2)
    field = make_gradient(steps)
    pure = judge_handedness(np.stack([field, field]), steps)
    found = [judge_handedness(field + rng.normal(0, 4, (2, *SHAPE, 2)), steps) for _ in range(100)]
    differences = np.array([one.mirrored - one.as_given for one in found])
    errors = np.array([one.error for one in found])
    assert differences.mean() == pytest.approx(pure.mirrored - pure.as_given, abs=0.1)
    assert 1 < np.median(errors) / differences.std() < 3


def make_scan(electrons: float = 1e5):
    grid, step, pixel = (24, 24), 0.6, 0.2
    positions = simulate.raster(grid, step)
    positions += 8.0 - positions.min(0)
    side = int((positions.max() + 8.0) / pixel) + 2
    phase = simulate.atoms((side, side), pixel, peak=1.2, seed=4)
    beam = {"energy": 80e3, "semiangle": 0.022, "defocus": 60.0, "window": 64, "dose": electrons}
    scan, _ = simulate.electron_scan(phase, pixel, positions, **beam)
    return replace(scan, grid=grid, oriented=False, probe=None)


@pytest.mark.parametrize("mirror", [False, True])
def test_strong_atoms_tell_the_hand_whatever_the_rotation(mirror):
    scan = prepare.rotate(make_scan(), angle=math.radians(40))
    scan = prepare.transpose(scan) if mirror else scan  # positions stay
    assert measure_handedness(scan, survey_disk(scan)).sign == (-1 if mirror else 1)


def fit_with_curl(scan, curl, monkeypatch):
    monkeypatch.setattr(handedness, "measure_handedness", lambda *_: curl)
    survey = survey_disk(scan)
    optics = LinearOptics(scan.geometry.wavelength, 0.022)
    spectrum = survey.measure(scan).transform()
    return fit_optics_and_hand(scan, survey, spectrum, optics, largest_defocus=200.0)


@pytest.mark.parametrize("orientation", [0, 4])
def test_a_clear_curl_overrules_the_linear_model(orientation, monkeypatch):
    as_given = Handedness(as_given=0.1, mirrored=0.4, error=0.01)
    curl = Handedness(0.4, 0.1, 0.01) if orientation else as_given
    fit, note = fit_with_curl(make_scan(), curl, monkeypatch)
    assert fit.optics.orientation == orientation
    assert bool(note) == (orientation == 4)  # the linear model is right by itself


@pytest.mark.medium
def test_only_electrons_on_a_raster_are_asked_for_their_curl(monkeypatch):
    scan = make_scan()
    against = Handedness(0.4, 0.1, 0.01)
    for other in (
        replace(scan, grid=None),
        replace(scan, geometry=replace(scan.geometry, beam="photon")),
    ):
        assert fit_with_curl(other, against, monkeypatch)[0].optics.orientation == 0
    assert fit_with_curl(scan, Handedness(0.4, 0.1, 0.1), monkeypatch)[0].optics.orientation == 0


@pytest.mark.medium
def test_the_report_says_what_overruled_the_fit(monkeypatch):
    monkeypatch.setattr(handedness, "measure_handedness", lambda *_: Handedness(0.4, 0.1, 0.01))
    assert handedness.HANDEDNESS_NOTE in reconstruct_scan(make_scan()).lines()
