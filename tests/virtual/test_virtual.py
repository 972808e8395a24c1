"""Virtual detectors: what they hold, what they leave out, and where beams go."""

from dataclasses import replace
from itertools import pairwise

import h5py
import numpy as np
import pytest

from phaseloom.data.counts import ArrangedCounts, HDF5Source
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.simulation import simulate
from phaseloom.virtual.annuli import (
    STANDARD_RINGS,
    VirtualDetector,
    describe_cut_ring,
    make_annulus,
    make_segments,
    make_standard_detectors,
)
from phaseloom.virtual.figures import plot_virtual_images, save_stem_visualization
from phaseloom.virtual.images import (
    arrange_on_grid,
    average_groups,
    compute_profiles,
    find_beam,
    integrate_phase,
    measure_scan,
    subtract_plane,
)
from phaseloom.virtual.radial import compute_disk_share, compute_radial_profile

GEOMETRY = Geometry(wavelength=0.025, shape=(13, 10), angle=(1e-3, 1.4e-3), beam="electron")
CENTRE = (5.3, 5.8)
GRID = (3, 5)


def scanned(seed: int = 0, dtype=np.uint16, **more) -> Scan4D:
    places = np.stack(np.indices(GRID), -1).reshape(-1, 2) * [2.0, 3.0]
    counts = np.random.default_rng(seed).poisson(7, (15, *GEOMETRY.shape)).astype(dtype)
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, grid=GRID, **more)


def tiles(centre=CENTRE) -> list[VirtualDetector]:
    """Detectors that tile the plane."""
    edges = [0, 2.2e-3, 4.7e-3, np.inf]
    rings = [make_annulus(GEOMETRY, a, b, name=f"{a}", centre=centre) for a, b in pairwise(edges[1:])]
    return [*make_segments(GEOMETRY, 0, edges[1], count=3, turn=0.4, centre=centre), *rings]


def same(one, other) -> None:
    for name in ("values", "total", "deflection", "mean", "highest", "spread"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("radius", [0.3e-3, 2.35e-3, 3.5e-3])
@pytest.mark.parametrize("centre", [CENTRE, (6.0, 5.0), (6.5, 4.5)])
def test_a_disk_has_its_area_and_each_pixel_its_share(radius, centre):
    share = compute_disk_share(GEOMETRY, radius, centre=centre)
    assert share.sum() * 1.4e-6 == pytest.approx(np.pi * radius**2, rel=1e-12)
    fine = (np.arange(200) + 0.5) / 200 - 0.5
    y = ((np.arange(13)[:, None] + fine).ravel() - centre[0]) * 1e-3
    x = ((np.arange(10)[:, None] + fine).ravel() - centre[1]) * 1.4e-3
    points = (np.hypot(y[:, None], x) < radius).reshape(13, 200, 10, 200).mean((1, 3))
    np.testing.assert_allclose(share, points, atol=0.004)


def test_a_disk_cut_by_the_edge_of_the_detector_or_around_it_is_still_exact():
    share = compute_disk_share(GEOMETRY, 2e-3, centre=(-0.5, 4.5))
    assert share.sum() * 1.4e-6 == pytest.approx(np.pi * 2e-3**2 / 2, rel=1e-12)
    assert (compute_disk_share(GEOMETRY, np.inf) == 1).all()
    assert (compute_disk_share(GEOMETRY, 1.0) == 1).all()


def test_detectors_that_tile_the_plane_add_up_to_all_counts():
    found = measure_scan(scanned(), tiles(), centre=CENTRE)
    np.testing.assert_allclose(found.values.sum(0), scanned().counts.sum((1, 2)), rtol=1e-13)
    np.testing.assert_array_equal(found.total, scanned().counts.sum((1, 2)))
    assert (found.trusted == 1).all()


def test_with_untrusted_pixels_they_add_up_to_the_counts_of_the_others():
    good = np.random.default_rng(3).random(GEOMETRY.shape) > 0.2
    scan = scanned(dtype=np.float32)
    scan.counts[:, ~good] = np.nan
    found = measure_scan(replace(scan, mask=good), tiles(), centre=CENTRE)
    wanted = np.where(good, scan.counts, 0).sum((1, 2))
    np.testing.assert_allclose((found.values * found.trusted[:, None]).sum(0), wanted, rtol=1e-12)
    assert np.isfinite(found.mean).all()


def test_even_light_gives_a_masked_detector_the_counts_of_a_whole_one():
    good = np.random.default_rng(3).random(GEOMETRY.shape) > 0.3
    scan = replace(scanned(), counts=np.full((15, *GEOMETRY.shape), 4.0), mask=good)
    ring = make_annulus(GEOMETRY, 1e-3, 4e-3, centre=CENTRE)
    found = measure_scan(scan, [ring])
    np.testing.assert_allclose(found.values[0], 4 * ring.weights.sum(), rtol=1e-12)
    assert found.trusted[0] < 0.9


def test_images_are_linear_in_counts_and_exact_by_hand():
    one, other = scanned(0, float), scanned(1, float)
    both = replace(one, counts=2 * one.counts + 3 * other.counts)
    first, second, sums = (measure_scan(s, tiles(), centre=CENTRE) for s in (one, other, both))
    np.testing.assert_allclose(sums.values, 2 * first.values + 3 * second.values, rtol=1e-12)
    hand = np.zeros(GEOMETRY.shape)
    hand[2:4, 5] = 1
    image = measure_scan(one, [VirtualDetector("hand", hand)]).image("hand")
    np.testing.assert_array_equal(image, one.counts[:, 2:4, 5].sum(1).reshape(GRID))


def test_background_and_efficiency_are_taken_out():
    scan, rng = scanned(dtype=float), np.random.default_rng(5)
    flat, background = rng.uniform(0.5, 1.5, GEOMETRY.shape), rng.uniform(0, 3, GEOMETRY.shape)
    stored = replace(scan, counts=scan.counts * flat + background, flat=flat, background=background)
    same(measure_scan(stored, tiles(), centre=CENTRE), measure_scan(scan, tiles(), centre=CENTRE))


def test_segments_share_a_round_pattern_equally_and_are_named_by_direction():
    even = Geometry(wavelength=0.02, shape=(9, 9), angle=(1e-3, 1e-3), beam="electron")
    for turn in (0.0, np.pi / 4, 0.3):
        weights = [one.weights for one in make_segments(even, 0.5e-3, 3.3e-3, turn=turn)]
        np.testing.assert_allclose([w.sum() for w in weights], weights[0].sum(), rtol=1e-12)
        np.testing.assert_allclose(sum(weights), make_annulus(even, 0.5e-3, 3.3e-3).weights, atol=1e-15)
    down_right, down_left, up_left, up_right = make_segments(even, 0, 3e-3)
    spots = [down_right.weights[5, 5], down_left.weights[5, 3], up_left.weights[3, 3], up_right.weights[3, 5]]
    assert spots == [1, 1, 1, 1]


def test_a_pattern_moved_by_a_pixel_moves_its_centre_of_mass_by_that_pixels_angle():
    scan = scanned(dtype=float)
    scan.counts[:, [0, -1]] = 0
    scan.counts[:, :, [0, -1]] = 0
    moved = replace(scan, counts=np.roll(scan.counts, (1, -1), (1, 2)))
    move = measure_scan(moved, []).deflection - measure_scan(scan, []).deflection
    np.testing.assert_allclose(move, np.tile([1e-3, -1.4e-3], (15, 1)), rtol=1e-9)
    away = measure_scan(scan, [], centre=CENTRE).deflection - measure_scan(scan, []).deflection
    np.testing.assert_allclose(away, np.tile([0.7e-3, -0.8 * 1.4e-3], (15, 1)), rtol=1e-9)


def test_the_centre_of_mass_may_be_taken_within_a_detector():
    scan = scanned()
    within = VirtualDetector("row", np.arange(13)[:, None] == 7 + np.zeros(10))
    found = measure_scan(scan, [], within=within)
    np.testing.assert_allclose(found.deflection[:, 0], 1e-3, rtol=1e-9)
    assert np.isnan(measure_scan(replace(scan, counts=0 * scan.counts), []).deflection).all()


def test_a_phase_that_rises_moves_the_beam_by_wavelength_over_two_pi_times_its_slope():
    pixel, slope = 0.5, 2 * np.pi / 16 * np.array([1, -2])  # whole pixels of a window of 16 angstrom
    y, x = np.indices((60, 60)) * pixel
    places = np.stack(np.meshgrid([9.0, 12.2], [10.0, 13.0, 17.5], indexing="ij"), -1).reshape(-1, 2)
    knobs = {"energy": 200e3, "semiangle": 12e-3, "window": 32, "dose": 1e7}
    scan, _ = simulate.electron_scan((slope[0] * y + slope[1] * x)[None], pixel, places, **knobs)
    wanted = scan.geometry.wavelength / (2 * np.pi) * slope
    found = measure_scan(scan, []).deflection
    np.testing.assert_allclose(found, np.tile(wanted, (6, 1)), atol=1.5e-5)
    flat = integrate_phase(found, places, (2, 3), wavelength=scan.geometry.wavelength)
    true = places @ slope
    np.testing.assert_allclose(flat.ravel(), true - true.mean(), atol=0.03)


def test_integrated_deflections_are_the_phase_of_a_weak_object_blurred_by_the_probe():
    pixel = 0.4
    y, x = np.indices((64, 70)) * pixel
    blob = 0.3 * np.exp(-((y - 12) ** 2 + (x - 15) ** 2) / 2 / 2.5**2)
    places = np.stack(np.indices((9, 11)), -1).reshape(-1, 2) * 1.2 + [7.0, 8.0]
    knobs = {"energy": 200e3, "semiangle": 15e-3, "window": 32, "dose": 1e8}
    scan, _ = simulate.electron_scan(blob[None], pixel, places, **knobs)
    found = integrate_phase(
        measure_scan(scan, []).deflection, places, (9, 11), wavelength=scan.geometry.wavelength
    )
    true = blob[tuple(np.rint(places / pixel).astype(int).T)].reshape(9, 11)
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.99
    assert np.ptp(found) == pytest.approx(np.ptp(true), rel=0.25)


def test_any_phase_is_found_on_a_raster_turned_against_the_detector():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    places = (np.stack(np.indices((6, 7)), -1).reshape(-1, 2) * [1.5, 2.0]) @ turn
    true = 0.02 * places[:, 0] ** 2 - 0.3 * places[:, 1] + 0.01 * places[:, 0] * places[:, 1]
    slope = np.stack([0.04 * places[:, 0] + 0.01 * places[:, 1], -0.3 + 0.01 * places[:, 0]], 1)
    found = integrate_phase(0.02 / (2 * np.pi) * slope, places, (6, 7), wavelength=0.02)
    np.testing.assert_allclose(found.ravel(), true - true.mean(), atol=1e-12)
    with pytest.raises(BadInput, match="needs a raster"):
        integrate_phase(slope, places, None, wavelength=0.02)


def test_a_plane_is_taken_off_whatever_the_order_and_lost_patterns_stay_lost():
    rng = np.random.default_rng(0)
    places, bump = rng.uniform(0, 40, (20, 2)), rng.normal(size=(20, 2))
    plane = [3.0, 1.0] + places @ np.array([[0.2, 0.1], [-0.3, 0.5]])
    bump[4] = np.nan
    np.testing.assert_allclose(subtract_plane(plane + bump, places), subtract_plane(bump, places), atol=1e-12)
    assert np.isnan(subtract_plane(bump, places)).all(1).nonzero()[0].tolist() == [4]
    line = places * [0.0, 1.0]
    np.testing.assert_allclose(subtract_plane(2 + line[:, 1:], line), 0, atol=1e-12)


@pytest.mark.parametrize("bytes_", [1, 3000, 10**9])
def test_pieces_do_not_matter(monkeypatch, bytes_):
    whole = measure_scan(scanned(), tiles(), centre=CENTRE)
    monkeypatch.setattr("phaseloom.data.counts.BYTES_PER_PIECE", bytes_)
    same(measure_scan(scanned(), tiles(), centre=CENTRE), whole)
    counts = scanned().counts.astype(float)
    np.testing.assert_allclose(whole.mean, counts.mean(0), rtol=1e-13)
    np.testing.assert_allclose(whole.spread, counts.std(0), rtol=1e-12)
    np.testing.assert_array_equal(whole.highest, counts.max(0))


def test_a_scan_in_a_file_gives_the_same_and_so_does_a_memory_map(tmp_path):
    scan = scanned()
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = scan.counts.reshape(*GRID, *GEOMETRY.shape)
    np.save(tmp_path / "scan.npy", scan.counts)
    lazy = ArrangedCounts.of(HDF5Source.of(tmp_path / "scan.h5", "data"))
    for counts in (lazy, np.load(tmp_path / "scan.npy", mmap_mode="r")):
        other = replace(scan, counts=counts)
        same(measure_scan(other, tiles(), centre=CENTRE), measure_scan(scan, tiles(), centre=CENTRE))
        np.testing.assert_array_equal(compute_profiles(other).mean, compute_profiles(scan).mean)


def test_off_a_raster_each_pattern_has_a_value_at_its_place():
    order = np.random.default_rng(1).permutation(15)[:11]
    whole, some = measure_scan(scanned(), tiles()), measure_scan(scanned().select(order), tiles())
    np.testing.assert_array_equal(some.image("segment 2"), whole.image("segment 2").ravel()[order])
    np.testing.assert_array_equal(some.positions, whole.positions[order])
    assert some.grid is None
    assert whole.image("segment 2").shape == GRID == arrange_on_grid(whole.deflection, GRID).shape[:2]
    with pytest.raises(BadInput, match="did you mean 'segment 1'"):
        whole.image("segmen1")


@pytest.mark.parametrize("angle", [(1e-3, 1e-3), (1e-3, 1.3e-3)])
def test_a_round_pattern_is_its_own_profile_without_variance(angle):
    geometry = Geometry(wavelength=0.02, shape=(41, 38), angle=angle, beam="electron")
    y, x = ((np.arange(n) - c) * a for n, c, a in zip((41, 38), (20.3, 18.6), angle, strict=True))
    away = np.hypot(y[:, None], x)
    pattern = np.stack([5 + 400 * away, 100 * np.exp(-0.5 * (away / 8e-3) ** 2)])
    profile = compute_radial_profile(pattern, geometry, centre=(20.3, 18.6))
    full = profile.pixels > 8
    wanted = np.stack([5 + 400 * profile.angle, 100 * np.exp(-0.5 * (profile.angle / 8e-3) ** 2)])
    np.testing.assert_allclose(profile.mean[0], wanted[0], rtol=1e-12)
    assert profile.variance[0].max() < 1e-20
    np.testing.assert_allclose(profile.mean[1, full], wanted[1, full], atol=0.2)
    assert np.sqrt(profile.variance[1, full]).max() < 0.2


def test_rings_tile_the_detector_and_show_the_variance_over_the_azimuth():
    scan, good = scanned(dtype=float), np.random.default_rng(3).random(GEOMETRY.shape) > 0.2
    scan.counts[:, ~good] = np.nan
    profile = compute_radial_profile(scan.counts, GEOMETRY, centre=CENTRE, mask=good)
    held = np.nansum(profile.mean * profile.pixels, -1)
    np.testing.assert_allclose(held, scan.counts[:, good].sum(1), rtol=1e-9)
    assert profile.share.max() <= 1 + 1e-12
    even = Geometry(wavelength=0.02, shape=(65, 65), angle=(1e-3, 1e-3), beam="electron")
    y, x = np.indices((65, 65)) - 32
    twofold = 10 + 2 * np.cos(2 * np.arctan2(y, x))
    assert compute_radial_profile(twofold, even).variance[10:30] == pytest.approx(2.0, rel=0.03)


def test_profiles_of_all_patterns_are_those_of_each():
    scan = scanned()
    each, mean = (
        compute_profiles(scan, centre=CENTRE),
        compute_radial_profile(scan.counts.mean(0), GEOMETRY, centre=CENTRE),
    )
    one = compute_radial_profile(scan.counts[6], GEOMETRY, centre=CENTRE)
    np.testing.assert_allclose(each.mean[6], one.mean, rtol=1e-12)
    np.testing.assert_allclose(each.variance[6], one.variance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(each.mean.mean(0), mean.mean, rtol=1e-12)


def test_groups_have_the_mean_of_their_patterns(monkeypatch):
    monkeypatch.setattr("phaseloom.data.counts.BYTES_PER_PIECE", 3000)
    labels = np.arange(15) % 4 - 1
    names, mean, many = average_groups(scanned(), labels)
    assert (names.tolist(), many.tolist()) == ([0, 1, 2], [4, 4, 3])
    for name, pattern in zip(names, mean, strict=True):
        np.testing.assert_allclose(pattern, scanned().counts[labels == name].mean(0), rtol=1e-12)
    with pytest.raises(BadInput, match="name no group"):
        average_groups(scanned(), np.full(15, -1))
    with pytest.raises(BadInput, match="a whole number for each of 15"):
        average_groups(scanned(), labels / 2)


def test_standard_detectors_are_in_units_of_the_semi_angle_and_say_what_is_missing():
    wide = Geometry(wavelength=0.02, shape=(40, 40), angle=(1e-3, 1e-3), beam="electron")
    detectors, notes = make_standard_detectors(wide, 4e-3)
    assert [one.name for one in detectors] == list(STANDARD_RINGS)
    assert (detectors[2].inner, detectors[2].outer) == (4e-3, 12e-3)
    assert len(notes) == 1
    assert notes[0].endswith("whole rings only to 19.5 mrad, so it ends where the detector ends")
    corners = make_standard_detectors(wide, 7.5e-3)[1]
    assert "lies in its corners alone" in corners[-1]
    assert "% of this one" in corners[0]
    assert describe_cut_ring(wide, make_annulus(wide, 0, 19.5e-3)) == ()
    few, notes = make_standard_detectors(wide, 12e-3)
    assert [one.name for one in few] == ["BF", "ABF", "ADF"]
    assert "HAADF is left out: it begins at 36 mrad" in notes[-1]
    good = np.hypot(*(np.indices((40, 40)) - 20)) < 10
    assert "HAADF is left out" in make_standard_detectors(wide, 4e-3, mask=good)[1][-1]


def test_mistakes_are_sentences():
    scan = scanned()
    with pytest.raises(BadInput, match="is out of reach: the detector's farthest corner is at"):
        make_annulus(GEOMETRY, 50e-3, np.inf)
    with pytest.raises(BadInput, match="the inner one first"):
        make_annulus(GEOMETRY, 3e-3, 2e-3)
    with pytest.raises(BadInput, match="is not a positive angle"):
        make_standard_detectors(GEOMETRY, np.nan)
    with pytest.raises(BadInput, match="holds no trusted pixel"):
        measure_scan(scan, [VirtualDetector("dark", np.zeros(GEOMETRY.shape))])
    with pytest.raises(BadInput, match="does not fit patterns of"):
        measure_scan(scan, [VirtualDetector("other", np.ones((4, 4)))])
    with pytest.raises(BadInput, match="have one name twice"):
        measure_scan(scan, [make_annulus(GEOMETRY, 0, 2e-3)] * 2)
    with pytest.raises(BadInput, match="two segments at least"):
        make_segments(GEOMETRY, 0, 2e-3, count=1)
    with pytest.raises(BadInput, match="not a width of a ring"):
        compute_radial_profile(scan.counts, GEOMETRY, width=0.0)
    with pytest.raises(BadInput, match="row and column of the beam"):
        measure_scan(scan, [], centre=(3.0, np.nan))
    near = replace(GEOMETRY, distance=1e9, focus=1e7)
    with pytest.raises(BadInput, match="need far-field patterns"):
        make_annulus(near, 0, 1e-3)


def disks() -> Scan4D:
    """Disks of 6.2 pixels around (15.4, 16.7) that wander a little."""
    rng, grid = np.random.default_rng(0), (4, 5)
    geometry = Geometry(wavelength=0.025, shape=(32, 33), angle=(2e-3, 2e-3), beam="electron")
    y, x = np.indices((32, 33))
    shares = compute_disk_share(geometry, 12.4e-3, centre=(15.4, 16.7))
    tail = 0.02 * np.exp(-np.hypot(y - 15.4, x - 16.7) / 6)
    counts = rng.poisson(200 * (shares + tail) * rng.uniform(0.8, 1, (20, 1, 1))).astype(np.uint16)
    places = np.stack(np.indices(grid), -1).reshape(-1, 2) * 3.0
    return Scan4D(counts=counts, positions=places, geometry=geometry, grid=grid)


def test_the_beam_is_found_by_its_disk_or_taken_as_given():
    found = find_beam(disks())
    assert found.semiangle == pytest.approx(12.4e-3, rel=0.02)
    assert found.centre == pytest.approx((15.4, 16.7), abs=0.1)
    assert "pixels" in found.notes[0]
    assert "mrad" in found.notes[0]
    given = find_beam(disks(), semiangle=20e-3)
    assert (given.semiangle, given.centre) == (20e-3, found.centre)
    assert "which is not the 20 mrad given" in given.notes[-1]
    spot = replace(scanned(), counts=np.pad(np.ones((15, 1, 1)), ((0, 0), (3, 9), (2, 7))))
    assert find_beam(spot, semiangle=3e-3).centre == (6.0, 5.0)
    assert "no disk was found" in find_beam(spot, semiangle=3e-3).notes[0]
    assert find_beam(spot, semiangle=3e-3, centre=(4, 5)).centre == (4, 5)
    with pytest.raises(BadInput, match="no disk tells it"):
        find_beam(spot)


def test_a_figure_shows_each_image_and_what_was_drawn_below_it(tmp_path):
    scan = disks()
    figure = save_stem_visualization(scan, tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    titles = [axes.get_title() for axes in figure.axes]
    assert [t.split(" ")[0] for t in titles if t][:4] == list(STANDARD_RINGS)
    both = save_stem_visualization(scan, tmp_path / "two.png", drawn=replace(scan, counts=scan.counts * 0.9))
    titles = [axes.get_title() for axes in both.axes]
    assert sum(title.endswith(", drawn") for title in titles) == 5
    with pytest.raises(BadInput, match="are not those of the scan"):
        save_stem_visualization(scan, tmp_path / "no.png", drawn=scan.select(np.arange(3)))
    for given in ({"scan": scan.counts}, {"scan": scan, "drawn": scan.counts}):
        with pytest.raises(BadInput, match=r"ndarray \(.*\) has no geometry: make a scan of it"):
            save_stem_visualization(given["scan"], tmp_path / "no.png", drawn=given.get("drawn"))
    loose = scan.select(np.arange(7)[::-1])
    found = measure_scan(loose, make_segments(scan.geometry, 0, 12e-3, count=6))
    assert len(plot_virtual_images(loose, found).axes) > 8


@pytest.fixture
def files(tmp_path):
    scan = disks()
    counts = scan.counts.reshape(4, 5, 32, 33).copy()
    counts[1, 2] = 0  # a lost frame keeps its place
    np.save(tmp_path / "scan.npy", counts)
    (tmp_path / "scan.npy.yaml").write_text("{energy: 200 keV, angle: 2 mrad, step: 3 A}")
    return tmp_path / "scan.npy"


def test_the_command_finds_the_beam_and_writes_images_with_their_angles(phaseloom, files):
    ended = phaseloom("virtual", files, "--annulus", "1.2,1.9", "--segments", "4", "--out", "images.h5")
    assert ended.code == 0, ended.err
    assert "semi-angle: 12." in ended.out
    assert "radius of 6." in ended.out
    assert "1 of 20 patterns hold no counts" in ended.out
    with h5py.File("images.h5") as file:
        assert file["images/ADF"].shape == file["phase"].shape == (4, 5)
        assert file["images/BF"].attrs["units"] == "counts"
        ring = file["images/1.2-1.9"].attrs
        assert ring["outer"] / file.attrs["semiangle"] == pytest.approx(1.9)
        assert set(file["images"]) >= {"BF", "ABF", "segment 4", "total"}
        parts = sum(file[f"images/segment {k}"][()] for k in (1, 2, 3, 4))
        np.testing.assert_allclose(parts, file["images/BF"][()], rtol=1e-9)
        assert np.isnan(file["deflection/measured"][1, 2]).all()
        assert np.isfinite(file["phase"][()]).all()
        assert file["positions"].attrs["units"] == "angstrom"
        assert file["radial/mean"].shape == file["radial/angle"].shape
    assert files.with_name("images.png").read_bytes()[:4] == b"\x89PNG"
    assert "exists already" in phaseloom("virtual", files).err


def test_the_command_takes_a_parameter_file_and_refuses_what_cannot_be(phaseloom, files):
    text = "{file: scan.npy, prepare: [{crop: {to: [24, 24]}}], semiangle: 12 mrad}"
    files.with_name("run.yaml").write_text(text)
    ended = phaseloom("virtual", "run.yaml", "--centre", "11.4,12.2", "--out", "a.h5")
    assert ended.code == 0, ended.err
    assert "HAADF is left out" in ended.out
    with h5py.File("a.h5") as file:
        assert file["patterns/mean"].shape == (24, 24)
        assert file.attrs["centre"].tolist() == [11.4, 12.2]
    for words, said in (
        (("--semiangle", "21"), "is not an angle"),
        (("--centre", "5"), "is not two numbers"),
        (("--annulus", "9,10"), "is out of reach"),
        (("--out", "a.npz"), "give it this ending"),
    ):
        wrong = phaseloom("virtual", files, *(words if "--out" in words else (*words, "--out", "b.h5")))
        assert (wrong.code, said in wrong.err) == (2, True), wrong.err
