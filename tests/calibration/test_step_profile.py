"""A step that is stated wrongly is found by fits that hold it; what counts do not show is left as stated.

Patterns are made with numpy alone: a square lattice with vacancies, which the raster does not fold.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from phaseloom.calibration import estimators
from phaseloom.calibration.state import CalibrationState, ShortRun
from phaseloom.calibration.step_profile import SPACING, profile_step, refine_profile
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.fitting.outcome import Verdict
from phaseloom.reconstruction.evidence import Evidence
from phaseloom.reconstruction.protocol import run_in_memory
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.units import electron_wavelength

SEMIANGLE, WINDOW, DEFOCUS, STEP, GRID = 0.02, 48, 100.0, 0.9, 16


def make_lattice_scan(electrons, *, stated=1.0, seed=3):
    """A scan of a lattice 3.9 angstrom wide, with a step that is stated so many times as long as it is."""
    rng = np.random.default_rng(seed)
    wavelength = electron_wavelength(200e3)
    unit = 1.7e-3
    pixel = wavelength / (unit * WINDOW)
    size = int((GRID * STEP) / pixel) + WINDOW + 8
    y, x = np.indices((size, size)) * pixel
    turn = math.radians(20)
    phase = np.zeros((size, size))
    for a in range(-12, 13):
        for b in range(-12, 13):
            if rng.uniform() < 0.05:
                continue
            at = (
                3.9 * np.array([a, b]) @ [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
            )
            middle = at + size * pixel / 2
            phase += 0.25 * np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (2 * 0.45**2))
    f = np.fft.fftfreq(WINDOW, pixel)
    k = np.hypot(f[:, None], f) * wavelength
    edge = 1 / (1 + np.exp((k - SEMIANGLE) / (0.02 * SEMIANGLE)))  # not that of this package
    beam = edge * np.exp(1j * math.pi / wavelength * DEFOCUS * k**2)
    raster = (np.indices((GRID, GRID)).reshape(2, -1).T - (GRID - 1) / 2) * STEP
    counts = np.zeros((len(raster), WINDOW, WINDOW))
    for number, place in enumerate(raster / pixel + size / 2):
        whole = np.round(place).astype(int)
        part = (place - whole) * pixel
        ramp = np.exp(-2j * math.pi * (f[:, None] * part[0] + f * part[1]))
        wave = np.fft.fftshift(np.fft.ifft2(beam * ramp))
        row, column = whole - WINDOW // 2
        wave = wave * np.exp(1j * phase[row : row + WINDOW, column : column + WINDOW])
        counts[number] = np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2)
    counts = rng.poisson(counts * electrons / counts.sum((1, 2)).mean())
    geometry = Geometry(wavelength=wavelength, shape=(WINDOW, WINDOW), angle=(unit, unit), beam="electron")
    return Scan4D(counts=counts, positions=raster * stated, geometry=geometry, grid=(GRID, GRID))


def start_state(**known):
    recipe = Reconstruct.of({"probe": {"focused": {"semiangle": "20 mrad"}}})
    state = CalibrationState(recipe, semiangle=SEMIANGLE, defocus=DEFOCUS, soft=True, run=run_in_memory)
    return replace(state, **known)


def test_a_profile_finds_its_minimum_wherever_it_began():
    for truth in (-0.12, -0.03, 0.0, 0.04, 0.11):
        found = profile_step(lambda shift, at=truth: (1 + (shift - at) ** 2, 1.1 + 2 * (shift - at) ** 2))
        assert found.minimum == pytest.approx(truth, abs=1e-9)
        assert found.error == pytest.approx(0, abs=1e-9)
        assert found.depth == pytest.approx(SPACING**2)


def test_a_profile_knows_that_noise_wants_different_steps():
    """What is learned from noise makes patterns held out worse."""
    found = profile_step(lambda shift: (1 + (shift - 0.02) ** 2, 1 + (shift + 0.02) ** 2))
    assert found.minimum == pytest.approx(0, abs=1e-9)
    assert found.error == pytest.approx(0.02)


def test_a_profile_without_a_minimum_in_reach_has_none():
    tried = []

    def fit(shift):
        tried.append(shift)
        return 1 - shift, 1 - shift

    found = profile_step(fit)
    assert found.minimum is None
    assert found.depth == 0
    assert math.isinf(found.error)
    assert max(tried) < 0.2


def test_finer_fits_correct_a_minimum_with_unequal_sides():
    def fit(shift):
        loss = 4 * shift**2 if shift < 0 else shift**2
        return 1 + loss, 1 + loss

    coarse = profile_step(fit)
    fine = refine_profile(coarse, fit)
    assert abs(fine.minimum) < 0.6 * abs(coarse.minimum)
    assert len(fine.points) == 5


def replace_fits(monkeypatch, loss):
    """Short fits with these losses (learned, held out) by the step that they hold."""

    def run(few, state, **knobs):
        assert "scale" not in knobs["rates"]
        learned, held = loss(state.step)
        return ShortRun(state, learned, held, None)

    monkeypatch.setattr(estimators, "run_short", run)


@pytest.mark.parametrize(
    ("learned", "held", "taken"),
    [
        (0.92, 0.925, True),  # both want the same other step
        (0.92, 1.02, False),  # they contradict each other
        (1.003, 0.998, False),  # both want the one stated
    ],
)
def test_another_step_is_taken_if_patterns_seen_and_held_out_want_it(monkeypatch, learned, held, taken):
    replace_fits(monkeypatch, lambda step: (1 + 4 * (step - learned) ** 2, 1.02 + 4 * (step - held) ** 2))
    found = estimators.estimate_step(make_lattice_scan(1e3), start_state())
    assert found.state.step == (pytest.approx((learned + held) / 2, abs=0.002) if taken else 1.0)
    (told,) = found.estimates
    assert ("the stated step is wrong" in told.note) is taken


@pytest.mark.parametrize(
    ("linear", "middle", "step"),
    [
        (1.009, 1.003, 1.0),  # nearer to the one stated than to that of the linear model
        (1.009, 1.007, 1.009),
        (1.009, None, 1.0),  # not shown: as stated
        (1.05, None, 1.05),  # the linear model has shown that the one stated is wrong altogether
    ],
)
def test_a_step_is_that_stated_unless_fits_prefer_that_of_the_linear_model(monkeypatch, linear, middle, step):
    depth = 0.0 if middle is None else 4.0
    replace_fits(monkeypatch, lambda one: 2 * (1.02 + depth * (one - (middle or 1.0)) ** 2,))
    found = estimators.estimate_step(make_lattice_scan(1e3), start_state(step=linear, defocus=80.0)).state
    assert found.step == step
    assert found.defocus == pytest.approx(80.0 * step / linear)


def test_a_step_is_named_but_not_taken_for_less_than_what_the_model_lacks(monkeypatch):
    replace_fits(monkeypatch, lambda step: (1.2 + 4 * (step - 0.92) ** 2, 1.3 + 4 * (step - 0.92) ** 2))
    found = estimators.estimate_step(make_lattice_scan(1e3), start_state())
    assert found.state.step == 1.0
    assert not found.estimates[0].decided
    assert found.state.doubted_step == pytest.approx(0.92, abs=0.002)
    (doubt,) = Evidence(doubted_step=found.state.doubted_step).find_doubts()
    assert doubt.verdict is Verdict.DOUBTFUL
    assert f"{found.state.doubted_step:.4g} times the one stated" in doubt.sentence


def test_a_stated_step_that_the_model_can_hardly_judge_is_not_doubted(monkeypatch):
    replace_fits(monkeypatch, lambda step: (1.2 + 4 * (step - 1.02) ** 2, 1.3 + 4 * (step - 1.02) ** 2))
    assert estimators.estimate_step(make_lattice_scan(1e3), start_state()).state.doubted_step is None


@pytest.mark.parametrize(
    ("held", "modes"),
    [
        ({1: 0.8856, 6: 0.8831}, 1),
        ({1: 0.8856, 6: 0.8781}, 6),
        ({1: 1.3, 6: 1.1}, 6),
        ({1: 1.3, 6: 1.25}, 1),
        ({1: 1.01, 6: 0.99}, 6),
        ({1: 1.01, 6: 1.006}, 1),
    ],
)
def test_a_source_must_explain_more_than_what_its_modes_learn_from_noise(monkeypatch, held, modes):
    """The first losses are those of a coherent source: losses below 1 have no excess to take a share of."""
    sizes = {}

    def run(few, state, **knobs):
        sizes[knobs["modes"]] = state.source_size
        return ShortRun(state, 1.0, held[knobs["modes"]], None)

    monkeypatch.setattr(estimators, "run_short", run)
    scan = make_lattice_scan(1e3)
    found = estimators.estimate_modes(scan, start_state()).state
    resolution = scan.geometry.wavelength / (2 * start_state().semiangle)
    assert found.modes == modes
    assert sizes == {1: 0.0, 6: pytest.approx(estimators.SOURCE_TO_TRY * resolution)}
    assert found.source_size == (sizes[6] if modes == 6 else 0.0)
    stated = found.recipe(scan).probe.values.get("source_size")
    assert stated == (pytest.approx(sizes[6], rel=1e-6) if modes == 6 else None)


@pytest.mark.parametrize(("found", "modes"), [(1, 1), (3, 3), (6, 3), (None, 1)])
def test_fits_have_no_more_modes_than_a_source_needs(monkeypatch, found, modes):
    seen = []

    def run(few, state, **knobs):
        seen.append(knobs["modes"])
        return ShortRun(state, 1.0, 1.0, None)

    monkeypatch.setattr(estimators, "run_short", run)
    estimators.estimate_step(make_lattice_scan(1e3), start_state(modes=found))
    assert set(seen) == {modes}


def test_the_step_of_an_unknown_orientation_is_not_looked_for(monkeypatch):
    replace_fits(monkeypatch, lambda step: (math.nan, math.nan))
    state = start_state(certain=False)
    assert estimators.estimate_step(make_lattice_scan(1e3), state).state is state


@pytest.mark.medium
@pytest.mark.parametrize("stated", [0.92, 1.0, 1.08])
def test_the_step_of_a_lattice_that_is_not_folded_is_found(stated):
    """A fit that moved the step found it, called it undecided, and the run was converged 7 % too large."""
    scan = make_lattice_scan(1e5, stated=stated)
    found = estimators.estimate_step(scan, start_state())
    assert found.state.step * stated == pytest.approx(1.0, abs=0.015)
    assert found.estimates[0].decided
