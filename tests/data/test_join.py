"""Scans that are joined: what belongs to each pattern stays with it, and what cannot be one is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phaseloom.data import prepare
from phaseloom.data.counts import JoinedCounts, MappedCounts
from phaseloom.data.formats import native
from phaseloom.data.prepare import enlarge
from phaseloom.data.prepare import join as join_scans
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput

GEOMETRY = Geometry(wavelength=1.2, shape=(8, 10), angle=(1e-4, 1e-4), distance=1e10)
PIXEL = np.array(GEOMETRY.pixel)


def make_scan(count: int, *, seed: int = 0, level: float = 100.0, **more) -> Any:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(level, (count, 8, 10)).astype(np.float32)
    return Scan4D(
        counts=counts, positions=rng.uniform(0, 50 * PIXEL[0], (count, 2)), geometry=GEOMETRY, **more
    )


def join(scan: Any, **given) -> Any:
    return join_scans(scan, **given)


def put(scan: Scan4D, folder, name: str = "other.h5"):
    native.write(scan, folder / name)
    return folder / name


def test_patterns_and_positions_of_one_object_stay_as_they_are(tmp_path):
    first, other = make_scan(3), make_scan(5, seed=1)
    both = join(first, path=put(other, tmp_path), share="object", offset=(7.0, -9.0))
    np.testing.assert_array_equal(both.counts, np.concatenate([first.counts, other.counts]))
    np.testing.assert_allclose(both.positions[3:], other.positions + np.array([7.0, -9.0]))
    np.testing.assert_array_equal(both.positions[:3], first.positions)
    np.testing.assert_allclose(both.scan_offsets, [[0, 0], [7, -9]])
    assert both.scan_numbers.tolist() == [0] * 3 + [1] * 5


def test_objects_of_one_probe_lie_beside_each_other_by_whole_pixels(tmp_path):
    first, other = make_scan(4), make_scan(4, seed=1)
    both = join(first, path=put(other, tmp_path))
    third = join(both, path=tmp_path / "other.h5")
    for scan, numbers in ((both, (0, 1)), (third, (1, 2))):
        left, right = (scan.positions[scan.scan_numbers == number, 1] for number in numbers)
        assert right.min() - left.max() >= 2 * GEOMETRY.shape[1] * PIXEL[1] - 1e-6
    move = both.positions[4:] - other.positions
    np.testing.assert_allclose(move, move[:1] + 0 * move)
    np.testing.assert_allclose(move[0] / PIXEL, np.round(move[0] / PIXEL), atol=1e-6)
    np.testing.assert_allclose(both.scan_offsets[1], move[0])
    assert third.scan_numbers.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_weights_bring_the_brightness_of_scans_together(tmp_path):
    dim, bright = make_scan(40, level=50.0), make_scan(10, seed=1, level=300.0, weights=np.full(10, 2.0))
    both = join(dim, path=put(bright, tmp_path))
    level = np.asarray(both.counts).sum((1, 2)) / both.weights
    assert np.ptp([level[:40].mean(), level[40:].mean()]) < 0.02 * level.mean()
    assert both.weights[40:].mean() / both.weights[:40].mean() == pytest.approx(6, rel=0.02)
    assert both.weights.mean() == pytest.approx(1, rel=0.02)


def test_bad_pixels_of_either_are_bad_and_backgrounds_are_averaged(tmp_path):
    masks = [np.ones((8, 10), bool) for _ in range(2)]
    masks[0][1, 2] = masks[1][3, 4] = False
    first = make_scan(3, mask=masks[0], background=np.full((8, 10), 4.0))
    other = make_scan(1, seed=1, mask=masks[1], descan=np.ones((1, 2)))
    both = join(first, path=put(other, tmp_path))
    np.testing.assert_array_equal(both.mask, masks[0] & masks[1])
    np.testing.assert_allclose(both.background, 3.0)
    if both.descan is not None:  # of files that keep it
        assert both.descan.shape == (4, 2)


def test_numbers_follow_a_choice_of_patterns(tmp_path):
    both = join(make_scan(3), path=put(make_scan(3, seed=1), tmp_path))
    assert both.select(np.array([5, 0])).scan_numbers.tolist() == [1, 0]


def test_lazy_patterns_stay_lazy(tmp_path):
    first = make_scan(3)
    lazy = replace(
        first, counts=MappedCounts(first.counts, lambda one: 2 * one, (3, 8, 10), first.counts.dtype)
    )
    other = make_scan(2, seed=1)
    both = join(lazy, path=put(other, tmp_path))
    assert isinstance(both.counts, JoinedCounts)
    found = both.counts[np.array([4, 0, 2])]
    np.testing.assert_array_equal(
        found, np.stack([other.counts[1], 2 * first.counts[0], 2 * first.counts[2]])
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"geometry": replace(GEOMETRY, wavelength=1.21)}, r"10\.2466 keV, unlike 10\.332.*share: object"),
        ({"geometry": replace(GEOMETRY, angle=(1.1e-4, 1.1e-4))}, r"pixels \(radian\)"),
        ({"geometry": replace(GEOMETRY, beam="electron")}, "another beam"),
        ({"heights": np.zeros(3)}, "positions along the beam"),
    ],
)
def test_scans_of_other_experiments_are_refused(other, words, tmp_path):
    path = put(replace(make_scan(3, seed=1), **other), tmp_path)
    with pytest.raises(BadInput, match=rf"join\.path: other\.h5.*{words}"):
        join(make_scan(3), path=path)


def test_other_sizes_offsets_side_by_side_and_enlarged_scans_are_refused(tmp_path):
    path = put(make_scan(3, seed=1), tmp_path)
    cut = replace(make_scan(3), counts=np.ones((3, 8, 8)), geometry=GEOMETRY.crop((8, 8)), mask=None)
    with pytest.raises(BadInput, match=r"\(8, 10\) pixels but those of the first scan \(8, 8\).* first step"):
        join(cut, path=path)
    with pytest.raises(BadInput, match=r"join\.offset.* write share: object"):
        join(make_scan(3), path=path, offset=(1.0, 0.0))
    with pytest.raises(BadInput, match="before enlarge"):
        join(enlarge(make_scan(3), to=(16, 20), match="crop"), path=path)
    with pytest.raises(BadInput, match=r"lie .* apart, so that they share no place"):
        join(make_scan(3), path=path, share="object", offset=(1e7, 0.0))
    dark = put(replace(make_scan(3), background=np.full((8, 10), 1e3)), tmp_path, "dark.h5")
    with pytest.raises(BadInput, match="brighter than their background"):
        join(make_scan(3), path=dark)


@pytest.mark.parametrize(
    ("step", "given"),
    [
        ("scale", {"factor": (-2.0, 0.5)}),
        ("rotate", {"angle": 0.3}),
        ("affine", {"scale": 1.1, "shear": 0.1}),
    ],
)
def test_offsets_follow_a_later_change_of_all_positions(step, given, tmp_path):
    """Else `split` took the offset of before from positions that had been turned."""
    first, other = make_scan(4), make_scan(5, seed=1)
    change = getattr(prepare, step)
    both = change(join(first, path=put(other, tmp_path), share="object", offset=(700.0, -900.0)), **given)
    alone = change(other, **given).positions
    own = both.positions[4:] - both.scan_offsets[1]
    np.testing.assert_allclose(own - own[0], alone - alone[0])
    if step != "affine":  # which is about the mean of all
        np.testing.assert_allclose(own, alone)
    plain = change(first, **given)
    assert plain.scan_offsets is None


def put_energy(folder, wavelength: float):
    scan = replace(make_scan(3, seed=1), geometry=replace(GEOMETRY, wavelength=wavelength))
    return put(scan, folder, f"{wavelength}.h5")


def test_wavelengths_of_one_object_are_kept_and_the_shortest_gives_the_pixels(tmp_path):
    first = make_scan(3)
    longer = join(first, path=put_energy(tmp_path, 1.32), share="object")
    shorter = join(longer, path=put_energy(tmp_path, 1.08), share="object")
    again = join(shorter, path=put_energy(tmp_path, 1.3201), share="object")
    assert again.scan_wavelengths.tolist() == [1.2, 1.32, 1.08, 1.32]  # the last one is the second again
    assert longer.geometry == first.geometry
    assert again.geometry.wavelength == 1.08
    np.testing.assert_allclose(again.window.pixel, 0.9 * PIXEL)
    field = np.multiply(again.window.pixel, again.window.shape)  # as wide as that of the longest
    assert (field >= 1.1 * PIXEL * GEOMETRY.shape).all()
    np.testing.assert_array_equal(again.positions[:3], first.positions)


def test_the_ratio_of_wavelengths_is_that_of_all_scans(tmp_path):
    both = join(make_scan(3), path=put_energy(tmp_path, 1.5), share="object")
    with pytest.raises(BadInput, match=r"up to a ratio of 1\.5"):
        join(both, path=put_energy(tmp_path, 0.95), share="object")


def test_wavelengths_that_agree_within_a_thousandth_are_one(tmp_path):
    both = join(make_scan(3), path=put_energy(tmp_path, 1.2011), share="object")
    assert both.scan_wavelengths is None
    assert both.window == GEOMETRY


@pytest.mark.parametrize(
    ("first", "other", "words"),
    [
        ({}, {"wavelength": 1.9}, "up to a ratio of 1.5: check the energies"),
        ({"beam": "electron"}, {"beam": "electron"}, "not fitted together with electrons"),
        ({"focus": 1e8}, {"focus": 1e8}, "in far fields of samples across the beam only"),
        ({"normal": (0.1, 0.0, 1.0)}, {"normal": (0.1, 0.0, 1.0)}, "of samples across the beam only"),
    ],
)
def test_energies_that_cannot_be_fitted_together_are_refused(first, other, words, tmp_path):
    scan = replace(make_scan(3), geometry=replace(GEOMETRY, **first))
    geometry = replace(GEOMETRY, **({"wavelength": 1.3} | other))
    path = put(replace(make_scan(3, seed=1), geometry=geometry), tmp_path)
    with pytest.raises(BadInput, match=rf"join\.path: other\.h5: has .* keV.*{words}"):
        join(scan, path=path, share="object")
