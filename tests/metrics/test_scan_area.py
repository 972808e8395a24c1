"""The area of a position is that of a raster's cell, and does not depend on how a scan is turned or told."""

import numpy as np
import pytest

from phaseloom.metrics.scan_area import measure_area_per_position, measure_hull

STEPS = np.array([0.43, 0.71])


def raster(slow: int, fast: int) -> np.ndarray:
    return np.indices((slow, fast)).reshape(2, -1).T * STEPS


def turned(places: np.ndarray, angle: float) -> np.ndarray:
    sine, cosine = np.sin(angle), np.cos(angle)
    return places @ np.array([[cosine, sine], [-sine, cosine]])


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2])
@pytest.mark.parametrize(("slow", "fast"), [(2, 3), (7, 5), (30, 40)])
def test_a_raster_has_the_area_of_its_cell_however_it_is_turned(slow: int, fast: int, angle: float) -> None:
    places = turned(raster(slow, fast), angle)
    assert measure_area_per_position(places, grid=(slow, fast)) == pytest.approx(STEPS.prod())
    # told as free positions, whose steps are taken for equal ones at the border
    assert measure_area_per_position(places) == pytest.approx(STEPS.prod(), rel=0.3 / min(slow, fast))


def test_free_positions_of_a_square_raster_have_its_cell_exactly() -> None:
    places = turned(np.indices((6, 9)).reshape(2, -1).T * 0.4, 0.4)
    assert measure_area_per_position(places) == pytest.approx(0.16)


def test_a_part_of_a_scan_has_the_area_of_the_whole() -> None:
    places = np.random.default_rng(0).uniform(0, 50, (4000, 2))
    inner = places[np.abs(places - 25).max(1) < 12]
    assert measure_area_per_position(inner) == pytest.approx(measure_area_per_position(places), rel=0.1)
    assert measure_area_per_position(places) == pytest.approx(50**2 / 4000, rel=0.03)


def test_two_shots_at_each_place_have_half_the_area() -> None:
    places = raster(20, 20)
    twice = measure_area_per_position(np.concatenate([places, places]))
    assert twice == pytest.approx(STEPS.prod() / 2, rel=0.03)


def test_a_line_has_the_square_of_its_step() -> None:
    places = turned(np.arange(9.0)[:, None] * np.array([0.5, 0.0]), 0.7)
    for grid in (None, (9, 1), (1, 9)):
        assert measure_area_per_position(places, grid=grid) == pytest.approx(0.25)


def test_positions_that_do_not_move_have_no_area() -> None:
    assert measure_area_per_position(np.zeros((5, 2))) is None
    assert measure_area_per_position(np.ones((1, 2))) is None
    assert measure_area_per_position(np.zeros((6, 2)), grid=(2, 3)) is None


def test_the_hull_of_a_rectangle_is_the_rectangle() -> None:
    assert measure_hull(turned(raster(3, 3), 0.2)) == pytest.approx((0.86 * 1.42, 2 * (0.86 + 1.42)))
