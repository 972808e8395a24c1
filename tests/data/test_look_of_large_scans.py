"""What `look` reads of a scan: a bounded part, and the same findings by faster sums."""

from dataclasses import replace

import numpy as np
import pytest

from phaseloom.data.diagnostics import MIN_PATTERNS_READ, _complete_power, _ScanSurvey, inspect
from phaseloom.data.scan import Scan4D
from phaseloom.plot.scan import scan_overview
from tests.conftest import electrons


def findings_of(scan: Scan4D) -> dict[str, str]:
    return {one.name: one.value for one in inspect(scan)}


def test_blank_patterns_are_counted_without_reading_all() -> None:
    scan = electrons()
    counts = np.asarray(scan.counts).copy()
    counts[3:5] = 0
    assert findings_of(replace(scan, counts=counts))["blank"] == f"2 of {len(scan)} patterns"
    assert "blank" not in findings_of(scan)


@pytest.mark.parametrize("shape", [(7, 8), (8, 7), (5, 5), (6, 4)])
def test_the_power_of_half_of_the_frequencies_is_completed(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape)
    half = np.abs(np.fft.rfft2(image)) ** 2
    np.testing.assert_allclose(_complete_power(half, shape[1]), np.abs(np.fft.fft2(image)) ** 2)


def test_many_shots_at_each_place_do_not_hide_the_step() -> None:
    scan = electrons()
    index = np.repeat(np.arange(len(scan)), 12)
    assert _ScanSurvey(scan.select(index)).step == pytest.approx(_ScanSurvey(scan).step)
    still = replace(scan, positions=np.zeros((len(scan), 2)))
    assert _ScanSurvey(still).step == 0


class Counted:
    """Patterns that are made when they are asked for, and counted."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, int, int]):
        self.shape = shape
        self.most = 0
        self.read = 0

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        self.most = max(self.most, len(index))
        self.read += len(index)
        return np.ones((len(index), *self.shape[1:]), np.uint8)


def test_of_large_patterns_few_are_read_and_few_at_once() -> None:
    counts = Counted((900, 1024, 512))
    scan = electrons()
    geometry = replace(scan.geometry, shape=(1024, 512))
    places = np.indices((30, 30)).reshape(2, -1).T * 1.0
    large = Scan4D(counts=counts, positions=places, geometry=geometry, grid=(30, 30))  # pyright: ignore
    inspect(large)
    assert counts.read == 2 * MIN_PATTERNS_READ
    assert counts.most <= 8
    counts.read = 0
    figure = scan_overview(large)
    assert counts.read == 64  # every fourth row and column of 30
    titles = [axes.get_title(loc=side) for axes in figure.axes for side in ("left", "center")]
    assert any("64 of 900 read" in title for title in titles)


@pytest.mark.parametrize("jitter", [0.0, 0.03, 0.3])
@pytest.mark.parametrize(
    "axes",
    [
        ((1.0, 0.0), (0.0, 1.0)),
        ((2.0, 0.3), (-0.1, 0.7)),
        ((1.0, 0.0), (0.9, 0.3)),
        ((0.6, 0.8), (3.0, -2.0)),
    ],
)
def test_the_step_of_a_raster_is_that_of_its_neighbours_in_space(jitter: float, axes: tuple) -> None:
    rng = np.random.default_rng(0)
    shorter = min(np.linalg.norm(axis) for axis in axes)
    places = np.indices((9, 14)).reshape(2, -1).T @ np.array(axes)
    places = places + rng.uniform(-1, 1, places.shape) * jitter * shorter
    scan = electrons()
    counts = np.ones((len(places), *scan.geometry.shape))
    raster = Scan4D(counts=counts, positions=places, geometry=scan.geometry, grid=(9, 14))
    free = replace(raster, grid=None)
    assert _ScanSurvey(raster).step == pytest.approx(_ScanSurvey(free).step, rel=1e-9)
