"""Filters by two halves: what both show stays, what only one shows goes, and what is rare is not lost."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from phaseloom.errors import BadInput
from phaseloom.restoration.apply_result import PatternMisfits
from phaseloom.restoration.half_data_filter import HALF_DATA_FILTERS, filter_by_halves

METHODS = tuple(HALF_DATA_FILTERS)
SPACING = 6.0
SIDE = 90


def lattice(
    side: int = SIDE, empty: tuple[int, ...] = (), offset: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Peaks on a square lattice, some of them missing, and the places of all."""
    line = np.arange(offset, side, SPACING)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side))
    for number, (row, column) in enumerate(places):
        if number not in empty:
            image += np.exp(-((y - row) ** 2 + (x - column) ** 2) / 3)
    return image, places


def measured(truth: np.ndarray, noise: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image and its halves, with white noise of a standard deviation in the image."""
    rng = np.random.default_rng(seed)
    first, second = truth + np.sqrt(2) * noise * rng.standard_normal((2, *truth.shape))
    return (first + second) / 2, first, second


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(image - truth)[8:-8, 8:-8].mean())


@pytest.mark.parametrize("method", METHODS)
def test_every_filter_lowers_the_error_of_a_noisy_lattice(method):
    truth, _ = lattice()
    image, first, second = measured(truth, 0.4)
    filtered = filter_by_halves(image, first, second, method=method)
    assert error(filtered, truth) < 0.7 * error(image, truth)


def test_a_stationary_image_is_filtered_nearly_as_well_as_by_the_true_spectra():
    rng = np.random.default_rng(3)
    side = 96
    errors: dict[float, list[float]] = {1.5: [], 6.0: []}
    ideal = []
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij"))
    shape = np.exp(-((frequencies / 0.08) ** 2))
    for seed in range(4):
        truth = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * shape).real
        noise = truth.std()
        truth = truth - truth.mean()
        image, first, second = measured(truth, noise, seed=seed)
        weight = shape**2 / (shape**2 + noise**2)
        best = np.fft.ifft2(np.fft.fft2(image) * weight).real
        ideal.append(error(best, truth))
        for spread, found in errors.items():
            found.append(error(filter_by_halves(image, first, second, spread=spread), truth))
    assert np.mean(errors[1.5]) < 1.9 * np.mean(ideal)
    assert np.mean(errors[6.0]) < 1.6 * np.mean(ideal)


@pytest.mark.parametrize("method", METHODS)
def test_of_noise_alone_little_is_left(method):
    image, first, second = measured(np.zeros((SIDE, SIDE)), 1.0, seed=5)
    filtered = filter_by_halves(image, first, second, method=method)
    assert filtered.std() < 0.3 * image.std()


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_noise_stays_as_it_is(method):
    truth, _ = lattice()
    image, first, second = measured(truth, 1e-5)
    np.testing.assert_allclose(filter_by_halves(image, first, second, method=method), truth, atol=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_unit_and_plane_are_those_of_the_image(method):
    truth, _ = lattice()
    image, first, second = measured(truth, 0.3)
    plane = 5.0 + 0.02 * np.arange(SIDE)[:, None] - 0.01 * np.arange(SIDE)
    plain = filter_by_halves(image, first, second, method=method)
    other = filter_by_halves(1e3 * image + plane, 1e3 * first, 1e3 * second + 2, method=method)
    # the search for a strength ends at a tenth of it, the filters themselves are linear in the unit
    np.testing.assert_allclose(other - plane, 1e3 * plain, atol=1e3 * 0.02)


def test_a_vacancy_is_kept_by_a_wide_neighbourhood_and_filled_by_a_narrow_one():
    empty = (67, 112, 158)
    truth, places = lattice(empty=empty)
    knobs: dict[str, dict] = {"default": {}, "narrow": {"spread": 1.5}, "wide": {"spread": 12.0}}
    depths: dict[str, list[float]] = {name: [] for name in knobs}
    for seed in range(6):
        image, first, second = measured(truth, 0.35, seed=seed)
        for name, found in depths.items():
            filtered = filter_by_halves(image, first, second, **knobs[name])
            for number in empty:
                row, column = places[number].astype(int)
                around = [filtered[row + n, column + m] for n, m in ((6, 0), (-6, 0), (0, 6), (0, -6))]
                peak = np.mean(around) - filtered[row + 3, column + 3]
                found.append(float((np.mean(around) - filtered[row, column]) / peak))
    shown = {name: float(np.mean(found)) for name, found in depths.items()}
    assert shown["narrow"] < 0.4
    assert shown["default"] > 0.7
    assert shown["wide"] > 0.85


def test_beside_a_lattice_no_lattice_appears():
    truth, _ = lattice()
    truth[:, SIDE // 2 :] = 0
    leaks = []
    for seed in range(4):
        image, first, second = measured(truth, 0.3, seed=seed)
        filtered = filter_by_halves(image, first, second)
        number = round(40 / SPACING) / 40
        wave = np.exp(-2j * np.pi * np.arange(40) * number)[:, None] * np.hanning(40)[:, None]
        sides = [
            np.abs((wave * filtered[20:60, columns]).sum(0)).mean()
            for columns in (slice(8, 36), slice(55, 84))
        ]
        leaks.append(sides[1] / sides[0])
    assert np.mean(leaks) < 0.25


def test_a_large_image_is_filtered_in_tiles_without_seams():
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.standard_normal((260, 310)), 2)
    quiet = measured(truth, 1e-5)
    np.testing.assert_allclose(filter_by_halves(*quiet), truth, atol=2e-3)
    noisy = measured(truth, truth.std())
    whole = filter_by_halves(*noisy)
    assert error(whole, truth) < 0.35 * error(noisy[0], truth)
    jumps = np.abs(np.diff(whole - gaussian_filter(whole, 3), axis=1)).mean(0)
    assert jumps.max() < 2 * np.median(jumps)


@pytest.mark.parametrize(
    ("sentence", "change"),
    [
        ("is not a filter: choose one of wiener", {"method": "weiner"}),
        ("must be between 0.5 and 20", {"spread": 0.0}),
        ("are different sizes", {"shape": (40, 41)}),
        ("is not an image", {"shape": (12, 40)}),
        ("are not finite", {"value": np.nan}),
        ("are equal: they must come from different counts", {"equal": True}),
    ],
)
def test_what_cannot_be_filtered_is_a_sentence(sentence, change):
    image, first, second = measured(np.zeros((40, 40)), 1.0)
    if "shape" in change:
        first = np.zeros(change["shape"])
        second = first if min(change["shape"]) < 16 else second
    if "value" in change:
        image[3, 4] = change["value"]
    if "equal" in change:
        second = first
    knobs = {key: value for key, value in change.items() if key in ("method", "spread")}
    with pytest.raises(BadInput, match=sentence):
        filter_by_halves(image, first, second, **knobs)


@pytest.mark.parametrize(("restored", "warned"), [(1.011, False), (1.42, True)])
def test_a_phase_that_the_patterns_contradict_is_not_recommended(restored, warned):
    text = str(PatternMisfits(1.010, restored, 6.08))
    assert ("keep the one as reconstructed" in text) is warned
