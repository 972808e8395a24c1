"""Dark speckle of holograms is not a dead pixel, and a dead pixel in speckle is one: own numpy holograms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from phaseloom.data.bad_pixels import find_bad_pixels
from phaseloom.data.scan import Geometry, Scan4D

SIDE = 64
DEAD = [(0, 40), (20, 31), (45, 12), (46, 50), (47, 50)]


def fly(wave: np.ndarray, fresnel: float) -> np.ndarray:
    """Paraxial free flight; Fresnel number of a pixel."""
    square = np.fft.fftfreq(len(wave))[:, None] ** 2 + np.fft.fftfreq(len(wave))[None] ** 2
    return np.fft.ifft2(np.fft.fft2(wave) * np.exp(-1j * np.pi / fresnel * square))


def holograms(seed: int, grain: float, *, counts: float | None, strength: float = 0.4) -> Scan4D:
    """49 holograms behind a strong diffuser, whose speckle has exact zeros; without counts, no noise."""
    rng = np.random.default_rng(seed)

    def smooth(shape: tuple[int, int], width: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.normal(size=shape), width, mode="wrap")
        return noise / noise.std()

    size = 2 * SIDE
    beam = fly(np.exp(4j * smooth((size, size), 2 * grain)), 0.02)
    thing = np.exp(-1j * strength * smooth((size + 64, size + 64), 4))
    places = np.indices((7, 7)).reshape(2, -1).T * 5 + rng.integers(0, 3, (49, 2))
    middle = slice(SIDE // 2, -SIDE // 2)
    light = [abs(fly(beam * thing[y : y + size, x : x + size], 0.1)) ** 2 for y, x in places]
    expected = np.array(light)[:, middle, middle]
    expected = expected / expected.mean() * (counts or 1.0)
    seen = expected if counts is None else rng.poisson(expected).astype(float)
    near = Geometry(wavelength=1.0, shape=(SIDE, SIDE), angle=(1e-6, 1e-6), distance=1e10, focus=np.inf)
    return Scan4D(counts=seen, positions=1e4 * places, geometry=near)


@pytest.mark.parametrize("counts", [None, 0.5, 5.0, 60.0, 3000.0])
@pytest.mark.parametrize("grain", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_dark_speckle_is_not_dead(seed: int, grain: float, counts: float | None) -> None:
    assert find_bad_pixels(holograms(seed, grain, counts=counts)).dead.tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_dark_speckle_that_no_object_moves_is_not_dead(seed: int) -> None:
    assert find_bad_pixels(holograms(seed, 3.0, counts=200.0, strength=0.0)).dead.tolist() == []


@pytest.mark.parametrize("counts", [5.0, 60.0, 3000.0])
@pytest.mark.parametrize("seed", range(3))
def test_dead_pixels_in_speckle_are_found(seed: int, counts: float) -> None:
    scan = holograms(seed, 8.0, counts=counts, strength=0.3)
    light = ndimage.minimum_filter(scan.mean_pattern(), 5)
    dark = [(y, x) for y, x in DEAD if light[y, x] > 0.5 * counts]
    spoilt = np.array(scan.counts)
    for y, x in dark:
        spoilt[:, y, x] = 0
    found = find_bad_pixels(replace(scan, counts=spoilt)).dead.tolist()
    assert sorted(map(tuple, found)) == sorted(dark)


@pytest.mark.parametrize("rows", [[30], [30, 31]])
def test_dead_rows_are_found(rows: list[int]) -> None:
    y, x = np.indices((SIDE, SIDE)) / SIDE
    level = 100 * (1 + 0.5 * np.cos(9 * y + 4 * x))
    counts = np.random.default_rng(1).poisson(np.broadcast_to(level, (20, SIDE, SIDE))).astype(float)
    counts[:, rows] = 0
    scan = replace(holograms(0, 8.0, counts=5.0), counts=counts, positions=np.zeros((20, 2)))
    assert find_bad_pixels(scan).dead.tolist() == [[row, column] for row in rows for column in range(SIDE)]


def test_a_pixel_that_is_dark_in_some_patterns_only_is_not_dead() -> None:
    counts = np.random.default_rng(2).poisson(50.0, (40, SIDE, SIDE)).astype(float)
    counts[:36, 20, 20] = 0  # it counts in four of forty
    counts[:, 30, 30] = 0
    scan = replace(holograms(0, 8.0, counts=5.0), counts=counts, positions=np.zeros((40, 2)))
    assert find_bad_pixels(scan).dead.tolist() == [[30, 30]]


def test_a_dark_pixel_that_the_flat_field_explains_is_not_dead() -> None:
    flat = np.ones((SIDE, SIDE))
    flat[12, 17] = 0.1
    counts = np.random.default_rng(3).poisson(50.0 * np.broadcast_to(flat, (40, SIDE, SIDE))).astype(float)
    counts[:, 30, 30] = 0
    scan = replace(holograms(0, 8.0, counts=5.0), counts=counts, positions=np.zeros((40, 2)))
    assert find_bad_pixels(scan).dead.tolist() == [[12, 17], [30, 30]]
    assert find_bad_pixels(replace(scan, flat=flat)).dead.tolist() == [[30, 30]]
