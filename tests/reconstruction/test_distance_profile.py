"""The distance of holograms by fits at several distances: own numpy holograms, where rings mislead."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known
from benchmarks.near_field_scans import draw_case, simulate_case
from phaseloom.calibration.hologram_start import widen_window
from phaseloom.calibration.near_field import estimate_near_field, set_near_field
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.reconstruction.starts.distance_profile import (
    RATIOS,
    _Trials,
    combine_ranges,
    find_distance,
    profile_distance,
)

STAR = {"side": 64, "places": 6, "step": 5.0, "counts": 400.0, "fresnel": 0.1, "specimen": "star"}
STAR |= {"source": 0.3, "blur": 0.4, "position_error": 0.3, "fills": False, "absorption": 0.0, "phase": 1.5}
STAR |= {"distance_error": 0.14, "pixel": 1500.0, "magnification": 1.0, "background": 0.0, "diffuser": 1.2}


@cache
def simulated(**changes: object) -> tuple[float, Scan4D]:
    """The true effective distance and a scan whose distance is stated wrongly."""
    case = draw_case(71, **{**STAR, **changes})
    return case.flight, prepare.mask(read_known(case, simulate_case(case)), outliers=True)


def parabola(minimum: float, depth: float, scatter: float = 0.0):
    """Losses of 30 patterns with a minimum, and with errors that patterns do not share."""
    rng = np.random.default_rng(5)
    slopes = scatter * rng.normal(size=30)

    def measure(flight: float) -> np.ndarray:
        away = np.log(flight / minimum)
        return 1 + depth * away**2 + slopes * away

    return measure


@pytest.mark.parametrize("stated", [0.55, 0.85, 1.0, 1.15, 1.8])
def test_the_range_grows_until_the_minimum_lies_within(stated: float) -> None:
    found = find_distance(parabola(1.0, 2.0), stated)
    assert found.is_clear
    best, low, high = found.find_minimum()
    assert best == pytest.approx(1.0, rel=0.01)
    assert low < 1 < high


def test_the_end_of_the_range_is_never_clear() -> None:
    falling = find_distance(lambda z: 2 - 0.5 * np.log(z) + np.zeros(10), 1.0)
    assert not falling.is_clear
    assert "do not tell them apart" in falling.line()
    assert falling.flights[-1] > 1.8


def test_losses_that_hardly_differ_are_not_clear_and_cost_no_more_fits() -> None:
    flat = find_distance(parabola(1.3, 0.02), 1.0)
    assert not flat.is_clear
    assert len(flat.flights) == 3


def test_patterns_that_disagree_widen_the_range() -> None:
    ranges = [find_distance(parabola(1.0, 2.0, scatter), 1.02).find_minimum() for scatter in (0.0, 2.0)]
    widths = [np.log(high / low) for _, low, high in ranges]
    assert widths[1] > 1.5 * widths[0]


def test_the_range_holds_the_truth_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        slopes = np.random.default_rng(seed).normal(0, 0.5, 30)  # errors that pixels of a pattern share
        found = find_distance(lambda z, own=slopes: 1 + 2.0 * np.log(z) ** 2 + own * np.log(z), 1.05)
        _, low, high = found.find_minimum()
        hits += low < 1 < high
    assert hits > 180


def test_estimates_are_combined_where_their_ranges_meet() -> None:
    assert combine_ranges((1.1, 1.0, 1.2), (0.7, 0.6, 0.8))[0] == 1.1
    assert 1.0 < combine_ranges((1.1, 1.0, 1.21), (1.0, 0.95, 1.053))[0] < 1.05


@pytest.mark.medium
@pytest.mark.parametrize("error", [-0.14, 0.14])
def test_a_strong_phase_object_shows_its_distance(error: float) -> None:
    flight, scan = simulated()
    scan = replace(scan, geometry=set_near_field(scan.geometry, scan.geometry.pixel[0], flight * (1 + error)))
    found = profile_distance(pl.Reconstruct.of({}), scan)
    assert found is not None
    assert found.is_clear
    best, low, high = found.find_minimum()
    assert best == pytest.approx(flight, rel=0.08)
    assert low < flight < high


@pytest.mark.medium
def test_a_direct_image_that_explains_little_does_not_mislead() -> None:
    """From one with a ratio that is too low for strong phases the minimum was 15 % long."""
    case = draw_case(19741)
    scan = prepare.mask(read_known(case, simulate_case(case)), outliers=True)
    right = set_near_field(scan.geometry, case.pixel, case.flight * 1.05)
    found = profile_distance(pl.Reconstruct.of({}), replace(scan, geometry=right))
    assert found is not None
    assert found.is_clear
    assert found.find_minimum()[0] == pytest.approx(case.flight, rel=0.08)


@pytest.mark.medium
def test_a_weak_object_at_few_counts_does_not() -> None:
    _, scan = simulated(phase=0.2, counts=60.0, specimen="cells", fresnel=0.3)
    found = profile_distance(pl.Reconstruct.of({}), scan)
    assert found is not None
    assert not found.is_clear
    assert not estimate_near_field(scan).is_shown


class KnownTrials(_Trials):
    """Fits whose losses are known by ratio; those that were asked for."""

    def __init__(self, losses: dict[float, float]):
        self.losses = losses
        self.asked: list[float] = []

    def measure(self, flight: float, ratio: float) -> np.ndarray:
        self.asked.append(ratio)
        return np.full(30, self.losses[ratio])


@pytest.mark.parametrize(
    ("losses", "found", "tried"),
    [
        ((1.2, 1.0, 1.1, 1.3), 0.01, 3),
        ((1.0, 1.1, 1.2, 1.3), 0.0, 3),
        ((1.3, 1.2, 1.1, 1.0), 0.1, 4),
        ((1.3, 1.2, 1.0, 1.1), 0.03, 4),
    ],
)
def test_ratios_are_tried_to_where_both_neighbours_are_worse(losses, found, tried) -> None:
    trials = KnownTrials(dict(zip(RATIOS, losses, strict=True)))
    assert trials.find_ratio(1e7, 0.01) == found
    assert len(set(trials.asked)) == tried
    assert trials.measure_margin(1e7, found) == pytest.approx(0.1, abs=0.001)


def test_a_ratio_is_kept_where_no_fit_serves() -> None:
    trials = KnownTrials(dict.fromkeys(RATIOS, np.inf))
    assert trials.find_ratio(1e7, 0.01) == 0.01
    assert trials.measure_margin(1e7, 0.01) == 0


@pytest.mark.medium
@pytest.mark.parametrize("absorption", [0.0, 0.1])
def test_the_ratio_of_cells_under_a_beam_that_fills_the_detector_is_found(absorption: float) -> None:
    """Their slow details hardly show, and losses of the counts alone prefer more absorption."""
    changes = {"specimen": "cells", "fills": True, "counts": 2000.0, "phase": 1.2, "distance_error": 0.0}
    _, scan = simulated(**changes, absorption=absorption)
    recipe, wide, _ = widen_window(pl.Reconstruct.of({}), scan)
    found = profile_distance(recipe, wide)
    assert found is not None
    assert found.ratio == absorption
