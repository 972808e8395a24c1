"""Objects of one material, fitted to holograms of an independent numpy simulation."""

import dataclasses
from collections import deque

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known, run_case
from benchmarks.near_field_scans import NearFieldCase, SimulatedHolograms, draw_case, simulate_case
from benchmarks.near_field_scoring import find_lit, score_object
from phaseloom.calibration import one_material
from phaseloom.calibration.hologram_start import make_hologram_image, start_from_holograms, widen_window
from phaseloom.calibration.one_material import SlowDetails, fit_one_material, measure_slow_details
from phaseloom.data.scan import Scan4D
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.reconstruction.level import Level, fit_level
from phaseloom.reconstruction.protocol import Job

SMALL = {"side": 64, "places": 7, "step": 5.0, "counts": 1500.0, "fresnel": 0.1, "specimen": "cells"}
SMALL |= {"source": 0.0, "blur": 0.3, "position_error": 0.2, "fills": False, "phase": 0.8}
SMALL |= {"distance_error": 0.0, "pixel": 1500.0, "magnification": 1.0, "background": 0.0}


def simulated(**changes: object) -> tuple[NearFieldCase, SimulatedHolograms]:
    """A scan of 49 holograms."""
    case = draw_case(52, **{**SMALL, **changes})
    return case, simulate_case(case)


@pytest.mark.medium
@pytest.mark.parametrize(("absorption", "least", "most"), [(0.0, 0.0, 0.02), (0.1, 0.05, 0.2)])
def test_the_ratio_of_a_material_and_slow_details_come_back(
    absorption: float, least: float, most: float
) -> None:
    case, scan = simulated(absorption=absorption)
    data = read_known(case, scan)
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 20}), scan=data)
    assert least <= job.recorded.found["holograms"]["ratio"] <= most
    assert run_case(data, case, scan.truth, {"epochs": 20})["low"] > 0.9


def test_patterns_held_out_are_not_looked_at() -> None:
    case, scan = simulated(absorption=0.02)
    data = read_known(case, scan)
    spoiled = scan.counts.astype(np.float32)
    spoiled[40:] = 1000 * np.random.default_rng(3).random(spoiled[40:].shape)
    ratios = []
    for counts in (data.counts, spoiled):
        settings = {"start": "none", "probe": {"from_patterns": {}}, "epochs": 2}
        job = pl.Job.begin(pl.Reconstruct.of(settings), scan=data)
        level = job.finest
        level.likelihood.measured.rows = counts
        level.likelihood.measured.in_memory = None
        found = fit_one_material(
            level.model, level.likelihood, level.scan.window, patterns=np.arange(40), rounds=(4,)
        )
        ratios.append((found.ratio, float(found.phase.abs().sum()), found.losses[-1]))
    assert ratios[0] == ratios[1]
    assert found.losses[-1] < found.losses[0]


def test_a_phase_object_keeps_a_ratio_of_zero() -> None:
    case, scan = simulated(absorption=0.0)
    settings = {"start": "none", "object": {"pixels": {"kind": "phase"}}, "epochs": 2}
    job = pl.Job.begin(pl.Reconstruct.of(settings), scan=read_known(case, scan))
    level = job.finest
    found = fit_one_material(level.model, level.likelihood, level.scan.window, ratio=0.0, rounds=(3,))
    assert found.ratio == 0
    np.testing.assert_allclose(level.model.object.transmission().detach().abs(), 1, atol=1e-5)


def test_a_beam_that_fills_the_detector_gets_a_wider_window() -> None:
    recipe = pl.Reconstruct.of({"epochs": 2})
    for fills in (True, False):
        case, scan = simulated(absorption=0.02, fills=fills)
        data: Scan4D = read_known(case, scan)
        changed, wide, said = widen_window(recipe, data)
        assert ("enlarge" in [step.name for step in changed.prepare]) is fills
        assert bool(said) is fills
        assert (min(wide.window.shape) >= 64 + 16) is fills
        again = dataclasses.replace(data, modelled=wide.window)
        assert widen_window(recipe, again)[2] == []


def slow_phase_error(job: Job, truth: dict) -> float:
    """Rms error of the phase of the illumination on the detector, smooth over 4 pixels, radian."""
    geometry = job.scan.window
    flight = torch.tensor(geometry.flight, dtype=torch.float64)
    kernel = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight)
    wave = fly(job.model.probe.modes()[0].detach().to(kernel.dtype), kernel).numpy()
    edge = (len(wave) - len(truth["wave"])) // 2
    wave = wave[edge : len(wave) - edge, edge : len(wave) - edge]
    product = wave * truth["wave"].conj()
    smooth = ndimage.gaussian_filter(product.real, 4) + 1j * ndimage.gaussian_filter(product.imag, 4)
    y, x = (np.indices(wave.shape) - wave.shape[0] / 2) / wave.shape[0]

    def flatten(slopes: np.ndarray) -> np.ndarray:
        turned = smooth * np.exp(1j * (slopes[0] * y + slopes[1] * x))
        return turned * np.exp(-1j * np.angle(turned.sum()))

    def measure(slopes: np.ndarray) -> float:
        return -abs(flatten(slopes).sum())

    begin = min(np.indices((9, 9)).reshape(2, -1).T * 3.0 - 12, key=measure)
    found = optimize.minimize(measure, begin, method="Nelder-Mead")
    lit = abs(truth["wave"]) > 0.4 * np.percentile(abs(truth["wave"]), 90)
    return float(np.angle(flatten(found.x))[lit].std())


@pytest.mark.medium
@pytest.mark.parametrize("fills", [True, False])
def test_the_slow_phase_of_the_illumination_moves_with_the_object(fills: bool) -> None:
    case, scan = simulated(absorption=0.0, fills=fills, diffuser=1.2, specimen="random")
    settings = {"start": "none", "epochs": 2} | (
        {"prepare": [{"enlarge": {"to": [84, 84]}}]} if fills else {}
    )
    job = pl.Job.begin(pl.Reconstruct.of(settings), scan=read_known(case, scan))
    image = make_hologram_image(job.scan, 0.01)
    assert image is not None
    start_from_holograms(job.model, job.scan, image)
    short = job.recipe.model_copy(update={"epochs": 16, "patience": None})
    deque(fit_level(Level.of(short, job.scan, job.model), short, (job.training, job.holdout), 16), maxlen=0)
    before = slow_phase_error(job, scan.truth)
    fit_one_material(job.model, job.finest.likelihood, job.scan.window, ratio=0.01)
    assert slow_phase_error(job, scan.truth) < 0.96 * before


def test_counts_and_absorption_show_slow_details() -> None:
    def measure(scale: float, ratio: float) -> SlowDetails:
        case, scan = simulated(absorption=0.02, counts=60.0)
        data = read_known(case, scan)
        data = dataclasses.replace(data, counts=np.round(scale * data.counts))
        job = pl.Job.begin(pl.Reconstruct.of({"start": "none", "epochs": 2}), scan=data)
        image = make_hologram_image(job.scan, 0.02)
        assert image is not None
        start_from_holograms(job.model, job.scan, image)
        before = job.model.object.transmission().clone()
        found = measure_slow_details(job.model, job.finest.likelihood, job.scan.window, ratio)
        torch.testing.assert_close(job.model.object.transmission(), before, rtol=0, atol=0)
        return found

    few, many = measure(1.0, 0.0), measure(100.0, 0.0)
    assert 0 < few.correlation < many.correlation <= 1
    assert few.period is not None
    assert many.period is None or many.period > few.period
    absorbing = measure(1.0, 0.1)
    assert few.correlation < absorbing.correlation


Fit = tuple[np.ndarray, tuple[float, ...], Job, SimulatedHolograms]


def fit_from_image(scale: float, *rounds: int) -> Fit:
    """Phase and losses of a fit from the direct image, of few counts or of a share of them."""
    case, scan = simulated(absorption=0.02, counts=60.0)
    data = read_known(case, scan)
    data = dataclasses.replace(data, counts=scale * data.counts)
    job = pl.Job.begin(pl.Reconstruct.of({"start": "none", "epochs": 2}), scan=data)
    image = make_hologram_image(job.scan, 0.02)
    assert image is not None
    start_from_holograms(job.model, job.scan, image)
    knobs = {"ratio": 0.02, "rounds": rounds or (40,)}
    found = fit_one_material(job.model, job.finest.likelihood, job.scan.window, **knobs)
    return found.phase.numpy(), found.losses, job, scan


def correlate_with_truth(fit: Fit) -> float:
    phase, _, job, scan = fit
    room = job.model.object.canvas
    places = (job.scan.positions - np.array(room.origin)) / np.array(room.pixel)
    lit = find_lit(np.asarray(job.model.coverage()))
    return score_object(np.exp((1j + 0.02) * phase), places, scan.truth, lit)["correlation"]


def test_the_power_of_the_phase_holds_down_what_few_counts_do_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts, share = (correlate_with_truth(fit_from_image(scale)) for scale in (1.0, 1e-4))
    monkeypatch.setattr(one_material._MaterialFit, "_penalise", lambda _, phase, __: 0 * phase.sum())
    free, free_share = (correlate_with_truth(fit_from_image(scale)) for scale in (1.0, 1e-4))
    assert counts > free + 0.005
    assert share > free_share - 0.01  # values that are no counts are not drowned by it


def test_a_round_takes_the_power_of_its_prior_from_the_image_before() -> None:
    phase, losses, *_ = fit_from_image(1.0, 8, 6)
    _, first, again, _ = fit_from_image(1.0, 8)
    knobs = {"ratio": 0.02, "rounds": (6,)}
    then = fit_one_material(again.model, again.finest.likelihood, again.scan.window, **knobs)
    np.testing.assert_allclose(then.phase, phase, atol=1e-3)
    np.testing.assert_allclose(then.losses, losses, rtol=1e-4)
    assert losses[0] != pytest.approx(first[-1], rel=1e-3)  # the same image, with another prior


@pytest.mark.medium
@pytest.mark.parametrize("fills", [True, False])
def test_the_phase_of_the_illumination_is_fitted_on_its_own_scale(
    fills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one scale with the amplitude it hardly moves, and fits stop far above their minimum."""
    case, scan = simulated(absorption=0.0, fills=fills, diffuser=1.2)
    settings = {"start": "none", "epochs": 2} | (
        {"prepare": [{"enlarge": {"to": [84, 84]}}]} if fills else {}
    )

    def fit() -> one_material.OneMaterial:
        job = pl.Job.begin(pl.Reconstruct.of(settings), scan=read_known(case, scan))
        image = make_hologram_image(job.scan, 0.01)
        assert image is not None
        start_from_holograms(job.model, job.scan, image)
        return fit_one_material(job.model, job.finest.likelihood, job.scan.window, ratio=0.0, rounds=(60,))

    own = fit()
    measure = one_material._MaterialFit._scale_illumination
    one_scale = lambda fit, *a: torch.full_like(measure(fit, *a), float(measure(fit, a[0], 1.0, a[2]).min()))  # noqa: E731
    monkeypatch.setattr(one_material._MaterialFit, "_scale_illumination", one_scale)
    one = fit()
    assert min(own.losses) - own.penalties[-1] < min(one.losses) - one.penalties[-1] - 0.003


@pytest.mark.parametrize(("penalties", "is_smoothed"), [((0.05, 0.02), True), ((0.05, 0.049), False)])
def test_a_fit_that_only_pleases_its_prior_says_so(penalties: tuple[float, float], is_smoothed: bool) -> None:
    losses = (1.05, 1.01) if is_smoothed else (1.05, 1.02)
    fit = one_material.OneMaterial(torch.zeros(2, 2), 0.0, losses, penalties)
    assert fit.is_smoothed is is_smoothed
