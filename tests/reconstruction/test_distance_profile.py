"""The distance of holograms by fits at several distances: own numpy holograms, where rings mislead."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known
from benchmarks.near_field_scans import draw_case, simulate_case
from phaseloom.calibration.near_field import estimate_near_field, set_near_field
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.reconstruction.starts.distance_profile import (
    DistanceProfile,
    FoundDistance,
    choose_among,
    choose_distance,
    choose_ratio,
    combine_ranges,
    find_distance,
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
    known = FoundDistance.of(falling, 1.0, (0.98, 0.9, 1.1))
    assert (known.flight, known.limits) == (1.0, (0.9, 1.1))  # what was known stays
    assert "do not tell them apart" in known.line()
    assert FoundDistance.of(falling, 1.0, None).limits is None
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
    found = choose_distance(pl.Reconstruct.of({}), scan, None)
    assert found is not None
    assert found.limits is not None
    assert found.profile.is_clear
    assert found.flight == pytest.approx(flight, rel=0.08)
    assert found.limits[0] < flight < found.limits[1]


@pytest.mark.medium
def test_absorption_does_not_move_the_distance() -> None:
    flight, scan = simulated(absorption=0.1, fresnel=0.1, counts=1000.0)
    found = choose_distance(pl.Reconstruct.of({}), scan, None)
    assert found is not None
    assert found.profile.ratio == 0.1
    assert found.flight == pytest.approx(flight, rel=0.06)  # with 0.01 a tenth and more


@pytest.mark.medium
def test_a_weak_object_at_few_counts_does_not() -> None:
    _, scan = simulated(phase=0.2, counts=60.0, specimen="cells", fresnel=0.3)
    found = choose_distance(pl.Reconstruct.of({}), scan, None)
    assert found is not None
    assert not found.profile.is_clear
    assert not estimate_near_field(scan).is_shown


@pytest.mark.parametrize(
    ("losses", "ratio"),
    [
        ({0.01: 1.0, 0.03: 0.998, 0.1: 0.9975}, 0.01),  # an illumination that is not right yet
        ({0.01: 1.0, 0.03: 0.99, 0.1: 0.988}, 0.03),
        ({0.01: 1.0, 0.03: 0.99, 0.1: 0.98}, 0.1),
        ({0.01: 1.0, 0.03: 1.01, 0.1: 0.98}, 0.1),
        ({0.03: 1.0, 0.1: 1.2}, 0.03),
        ({0.0: 1.0}, 0.0),
    ],
)
def test_more_absorption_is_taken_only_where_it_explains_clearly_more(losses, ratio) -> None:
    assert choose_ratio(losses) == ratio


def test_the_range_takes_in_ratios_that_are_not_told_apart() -> None:
    ranges = {0.01: (0.9, 1.1), 0.03: None, 0.1: (1.1, 1.4)}
    profiles = {ratio: DistanceProfile(np.ones(1), np.ones((1, 1)), ratio) for ratio in ranges}
    found = [FoundDistance(1.0, limits, profiles[ratio]) for ratio, limits in ranges.items()]
    near = choose_among(found, {0.01: 1.0, 0.03: 0.999, 0.1: 1.002})
    assert (near.profile.ratio, near.limits) == (0.01, (0.9, 1.4))
    assert choose_among(found, {0.01: 1.0, 0.03: 0.999, 0.1: 1.02}).limits == (0.9, 1.1)
    assert choose_among(found, {0.01: 1.0, 0.03: 0.9, 0.1: 0.9}).limits is None  # taken without a range
