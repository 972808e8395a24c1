"""How holograms lie against the positions: all eight ways, in an independent numpy simulation."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known, run_case
from benchmarks.near_field_scans import NearFieldCase, SimulatedHolograms, draw_case, simulate_case
from phaseloom.calibration.hologram_start import search_near_field
from phaseloom.calibration.near_field import compare_orientations
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D

SMALL = {"side": 64, "places": 6, "step": 5.0, "counts": 1500.0, "fresnel": 0.08, "specimen": "particles"}
SMALL |= {"source": 0.3, "blur": 0.4, "position_error": 0.3, "fills": False, "absorption": 0.02, "phase": 0.8}
SMALL |= {"distance_error": 0.05, "pixel": 1500.0}
AXES = np.array([[0.0, 1.0], [1.0, 0.0]])
FLIPS = [np.diag([y, x]) for y in (1.0, -1.0) for x in (1.0, -1.0)]
WAYS = [*FLIPS, *(flip @ AXES for flip in FLIPS)]


@cache
def simulated(magnification: float, **changes: float) -> tuple[NearFieldCase, SimulatedHolograms]:
    """A scan of 36 holograms."""
    case = draw_case(61, **{**SMALL, "magnification": magnification, "focus_error": 0.0, **changes})
    return case, simulate_case(case)


def misread(case: NearFieldCase, scan: SimulatedHolograms, way: np.ndarray) -> Scan4D:
    """The scan with its positions read along other axes."""
    known = {**scan.known, "positions": scan.known["positions"] @ way.T}
    return prepare.mask(read_known(case, SimulatedHolograms(scan.counts, known, scan.truth)), outliers=True)


@pytest.mark.parametrize("magnification", [1.0, 60.0])
@pytest.mark.parametrize("way", WAYS)
def test_each_of_eight_orientations_is_found(way: np.ndarray, magnification: float) -> None:
    data = misread(*simulated(magnification), way)
    recipe, turned, _, lines = search_near_field(pl.Reconstruct.of({}), data)
    is_right = bool((way == np.eye(2)).all())
    assert ("as given" in lines[0]) is is_right
    again = compare_orientations(turned)
    assert again.best == "as given"
    assert again.is_clear
    assert again.correlations["as given"] > 0.5
    assert max(v for k, v in again.correlations.items() if k != "as given") < 0.2
    repeated = data
    for step in recipe.prepare:
        repeated = step(repeated)
    np.testing.assert_array_equal(repeated.counts, turned.counts)


def test_few_counts_leave_the_orientation_as_given_and_say_so() -> None:
    data = misread(*simulated(1.0, counts=0.05), WAYS[3])
    recipe, _, _, lines = search_near_field(pl.Reconstruct.of({}), data)
    assert "the holograms do not show it" in lines[0]
    assert not [step for step in recipe.prepare if step.name in ("flip", "transpose")]


def test_a_faint_object_shows_orientation_and_magnification_through_the_noise() -> None:
    case, scan = simulated(60.0, counts=250.0, phase=0.4, focus_error=-0.12)
    data = misread(case, scan, WAYS[1])
    assert abs(data.geometry.pixel[0] / case.pixel - 1) > 0.1
    _, turned, found, _ = search_near_field(pl.Reconstruct.of({}), data)
    assert found.is_oriented
    assert turned.geometry.pixel[0] == pytest.approx(case.pixel, rel=0.02)


def test_a_scan_along_one_line_is_not_mirrored() -> None:
    case, scan = simulated(1.0)
    data = misread(case, scan, np.eye(2))
    order = np.arange(len(data))[::6]  # one column: its mirror image has the same steps
    line = replace(data.select(order), positions=data.positions[order] * [1.0, 0.0])
    assert not compare_orientations(line).is_clear


@pytest.mark.medium
def test_a_run_with_reversed_positions_is_as_right_as_one_without() -> None:
    case, scan = simulated(1.0)
    row = run_case(misread(case, scan, WAYS[3]), case, scan.truth, {"epochs": 20})
    assert row["correlation"] > 0.85
