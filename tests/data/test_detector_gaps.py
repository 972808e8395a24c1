"""Gaps between modules and beam stops that no mask tells: found where nothing is counted though it is lit."""

import numpy as np
import pytest

from phaseloom.calibration.calibrate import mask_bad_pixels
from phaseloom.data.bad_pixels import find_bad_pixels
from phaseloom.data.diagnostics import inspect
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction.recipe import Reconstruct

SIZE = 64
Y, X = np.indices((SIZE, SIZE)) - SIZE // 2
RADIUS = np.hypot(Y, X)
FALL_OFF = 1 / (1 + (RADIUS / 8) ** 3)
STOP = (RADIUS < 6) | ((np.abs(X) < 2) & (Y > 0))


def scan_of(counts: np.ndarray, *, beam: str = "photon") -> Scan4D:
    wavelength = 1.5 if beam == "photon" else 0.02
    geometry = Geometry(wavelength=wavelength, shape=(SIZE, SIZE), angle=(1e-3, 1e-3), beam=beam)  # pyright: ignore
    places = np.indices((6, 10)).reshape(2, -1).T * 50.0
    return Scan4D(counts=counts, positions=places, geometry=geometry)


def draw(mean: np.ndarray, *, photons: float, seed: int = 0, patterns: int = 60) -> np.ndarray:
    """Speckle that moves from pattern to pattern, under a mean pattern of so many photons."""
    generator = np.random.default_rng(seed)
    speckle = generator.exponential(size=(patterns, SIZE, SIZE))
    return generator.poisson(photons * mean / mean.sum() * speckle).astype(np.uint32)


@pytest.mark.parametrize("photons", [1e3, 1e5])
@pytest.mark.parametrize("beam", ["photon", "electron"])
@pytest.mark.parametrize("axis", [1, 2])
def test_columns_and_rows_between_modules_are_dead(photons, beam, axis):
    counts = draw(FALL_OFF, photons=photons)
    wanted = np.zeros((SIZE, SIZE), bool)
    np.moveaxis(wanted, axis - 1, 0)[38:43] = True
    bad = find_bad_pixels(scan_of(np.where(wanted, 0, counts), beam=beam))
    np.testing.assert_array_equal(bad.gaps, wanted)
    np.testing.assert_array_equal(bad.mask, ~wanted)
    name = "columns 38 to 42" if axis == 2 else "rows 38 to 42"
    assert name in bad.lines()[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_stop_and_its_wire_are_dead(seed):
    counts = draw(FALL_OFF, photons=1e5, seed=seed)
    bad = find_bad_pixels(scan_of(np.where(STOP, 0, counts)))
    assert not (bad.gaps & ~STOP).any()
    assert (bad.gaps & STOP)[:-3].sum() == STOP[:-3].sum()


def test_look_names_the_rows_and_columns_of_a_gap():
    counts = draw(FALL_OFF, photons=1e4)
    counts[:, :, 38:42] = 0
    found = next(one for one in inspect(scan_of(counts)) if one.name == "dead pixels")
    assert found.level == "warn"
    assert "columns 38 to 41" in found.value


DISK = (RADIUS < 12).astype(float)
RING = ((RADIUS < 16) & (RADIUS > 6)).astype(float)
STREAKS = np.exp(-np.abs(Y) / 1.5 - np.abs(X) / 12) + np.exp(-np.abs(X) / 1.5 - np.abs(Y) / 12)
LATTICE = sum((np.hypot(Y - 20 * i, X - 20 * j) < 6).astype(float) for i in (-1, 0, 1) for j in (-1, 0, 1))
NATURE = {
    "far field": FALL_OFF,
    "steep far field": np.exp(-RADIUS / 3),
    "narrow far field": np.exp(-(RADIUS**2) / 18),
    "disk": DISK,
    "disk with a dark field": DISK + 1e-5,
    "ring with little inside": RING + 1e-3 * FALL_OFF,
    "streaks": STREAKS,
    "disks of a crystal": LATTICE,
    "off the middle": np.roll(FALL_OFF, (20, -17), (0, 1)),
}


OF_BEAMS = [(name, beam) for beam in ("photon", "electron") for name in NATURE]
OF_BEAMS.remove(("disks of a crystal", "photon"))  # the field between bright disks looks like a stop


@pytest.mark.parametrize(("name", "beam"), OF_BEAMS)
@pytest.mark.parametrize("photons", [3, 100, 1e4, 1e6])
def test_where_no_light_falls_nothing_is_called_dead(name, photons, beam):
    for seed in range(3):
        assert not find_bad_pixels(
            scan_of(draw(NATURE[name], photons=photons, seed=seed), beam=beam)
        ).gaps.any()


def test_all_zero_patterns_have_no_gap():
    assert not find_bad_pixels(scan_of(np.zeros((60, SIZE, SIZE), np.uint32))).gaps.any()


def test_a_run_masks_a_beam_stop_though_it_covers_the_middle():
    scan = scan_of(np.where(STOP, 0, draw(FALL_OFF, photons=1e5)))
    recipe, masked, found = mask_bad_pixels(Reconstruct.of({}), scan)
    assert not masked.mask[SIZE // 2, SIZE // 2]
    assert "without a count" in str(found[0].value)
    np.testing.assert_array_equal(recipe.prepare[-1](scan).mask, masked.mask)


def test_a_run_masks_a_gap_and_not_a_pixel_that_may_be_the_beam():
    counts = draw(FALL_OFF, photons=1e4)
    counts[:, :, 38:42] = 0
    counts[:, SIZE // 2 + 3, SIZE // 2 + 3] = 60000
    scan = scan_of(counts)
    recipe, masked, _ = mask_bad_pixels(Reconstruct.of({}), scan)
    wanted = np.ones((SIZE, SIZE), bool)
    wanted[:, 38:42] = False
    np.testing.assert_array_equal(masked.mask, wanted)
    np.testing.assert_array_equal(recipe.prepare[-1](scan).mask, wanted)


def test_of_electrons_a_gap_through_the_bright_disk_is_found_at_few_counts():
    counts = draw(DISK + 1e-4, photons=30)
    counts[:, 35:38] = 0
    bad = find_bad_pixels(scan_of(counts, beam="electron"))
    assert np.flatnonzero(bad.gaps.any(1)).tolist() == [35, 36, 37]
