"""A raster without its blank patterns is calibrated as one with all of them."""

from dataclasses import replace

import numpy as np
import pytest

from phaseloom.calibration.calibrate import is_calibration_due
from phaseloom.calibration.raster import complete_raster, find_completed
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction import protocol
from phaseloom.reconstruction.recipe import Reconstruct

GRID = (9, 8)


@pytest.fixture
def scan() -> Scan4D:
    """Disks on an electron raster, none like another."""
    y, x = np.indices((24, 24)) - 12
    disk = 1.0 * (np.hypot(y, x) < 6)
    counts = np.random.default_rng(1).poisson(200 * np.broadcast_to(disk, (72, 24, 24))).astype(np.float32)
    geometry = Geometry(wavelength=0.025, shape=(24, 24), angle=(3e-3, 3e-3), beam="electron")
    positions = np.indices(GRID).reshape(2, -1).T * np.array([1.5, 1.4])
    return Scan4D(counts=counts, positions=positions, geometry=geometry, grid=GRID, oriented=False)


def test_blank_places_hold_the_mean_of_their_neighbours(scan) -> None:
    number = 3 * GRID[1] + 4
    lit = np.delete(np.arange(len(scan)), [number])
    whole = complete_raster(scan.select(lit))
    assert whole.grid == GRID
    np.testing.assert_allclose(whole.positions, scan.positions, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(whole.counts[lit]), scan.counts[lit])
    filled = np.asarray(whole.counts[np.array([number])])[0]
    square = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    beside = [number + GRID[1] * row + column for row, column in square]
    np.testing.assert_allclose(filled, scan.counts[beside].mean(0), atol=1e-4)


@pytest.mark.parametrize("missing", [[26], [*range(32, 36)], [0, 71]])
def test_gaps_of_a_turned_raster_are_filled_where_they_were(scan, missing) -> None:
    """In the order of the scan, however it is turned, and with a pattern at a corner missing."""
    turned = prepare.rotate(scan, angle=0.6)
    lit = np.delete(np.arange(len(scan)), missing)
    part = turned.select(lit)
    whole = complete_raster(part)
    if len(missing) > 0.05 * len(scan):
        assert whole is part
        assert find_completed(part) is None
        return
    assert whole.grid == GRID
    np.testing.assert_allclose(whole.positions, turned.positions, atol=1e-6)
    np.testing.assert_array_equal(find_completed(part), lit)
    np.testing.assert_array_equal(np.asarray(whole.counts[lit]), scan.counts[lit])


def test_whole_rasters_and_positions_that_are_none_come_back_as_they_are(scan) -> None:
    assert complete_raster(scan) is scan
    moved = replace(scan, grid=None, positions=np.random.default_rng(2).uniform(0, 12, (72, 2)))
    assert complete_raster(moved) is moved
    half = scan.select(np.arange(0, 72, 2))
    assert complete_raster(half) is half


def test_a_calibration_is_due_with_blank_patterns_as_without(scan, monkeypatch) -> None:
    recipe = Reconstruct.of({"probe": {"focused": {"semiangle": "18 mrad"}}})
    lit = np.delete(np.arange(len(scan)), [20, 47])
    assert is_calibration_due(recipe, scan)
    assert not is_calibration_due(recipe, scan.select(lit))
    seen: list[Scan4D] = []

    def stop(recipe: Reconstruct, scan: Scan4D) -> None:
        seen.append(scan)
        raise KeyboardInterrupt

    monkeypatch.setattr(protocol, "calibrate", stop)
    with pytest.raises(KeyboardInterrupt):
        protocol.calibrate_scan(recipe, scan.select(lit))
    assert seen[0].grid == GRID
