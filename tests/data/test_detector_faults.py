"""Bad pixels and descan: found from counts, and carried along by every step of `prepare`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import phaseloom as pl
from phaseloom.data import prepare
from phaseloom.data.bad_pixels import find_bad_pixels, find_clipping
from phaseloom.data.descan import fit_descan
from phaseloom.data.diagnostics import inspect
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

GEOMETRY = Geometry(wavelength=0.02, shape=(40, 40), angle=(1e-3, 1e-3), beam="electron")
SLOPES = np.array([[0.25, -0.1], [0.05, 0.2]])
"""Pixels of shift (row, column) for each position unit along rows and along columns."""


def moving_disk(dose: float = 400.0, slopes: np.ndarray = SLOPES, seed: int | None = 0) -> Scan4D:
    """A disk of radius 7 with a soft rim that moves over the detector as the scan goes on."""
    places = np.stack(np.indices((9, 9)), -1).reshape(-1, 2).astype(float)
    y, x = np.indices((40, 40))
    patterns = []
    for row, column in (places - 4) @ slopes:
        away = np.hypot(y - 20 - row, x - 20 - column)
        patterns.append(dose * np.clip(7.5 - away, 0, 1))
    counts = np.stack(patterns)
    if seed is not None:
        counts = np.random.default_rng(seed).poisson(counts).astype(float)
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, grid=(9, 9))


def test_descan_is_measured_to_a_fiftieth_of_a_pixel():
    scan = moving_disk()
    found = prepare.descan(scan).descan
    assert found is not None
    np.testing.assert_allclose(found, (scan.positions - 4) @ SLOPES, atol=0.02)


def test_a_bad_pixel_does_not_pull_the_descan():
    scan = moving_disk()
    counts = scan.counts.copy()
    counts[:, 12, 22] = 5e4
    counts[:, 20, 24] = 0
    spoilt = Scan4D(counts=counts, positions=scan.positions, geometry=GEOMETRY, grid=(9, 9))
    masked = prepare.mask(spoilt, outliers=True)
    assert np.argwhere(~masked.mask).tolist() == [[12, 22], [20, 24]]
    found = prepare.descan(masked).descan
    assert found is not None
    np.testing.assert_allclose(found, (scan.positions - 4) @ SLOPES, atol=0.06)


@pytest.mark.parametrize("seed", range(10))
def test_a_disk_that_stays_has_no_descan(seed):
    assert prepare.descan(moving_disk(dose=20.0, slopes=np.zeros((2, 2)), seed=seed)).descan is None


@pytest.mark.parametrize(
    "step",
    [
        prepare.transpose,
        lambda scan: prepare.flip(scan, axis="y"),
        lambda scan: prepare.flip(scan, axis="x"),
        lambda scan: prepare.bin(scan, factor=2),
        lambda scan: prepare.crop(scan, to=(32, 36)),
        lambda scan: prepare.resample(scan, factor=(1.5, 2.0)),
        prepare.center,
        lambda scan: scan.select(np.arange(9, 72)),
    ],
)
def test_steps_carry_the_descan_as_they_carry_the_patterns(step):
    scan = moving_disk(seed=None)
    before = step(prepare.descan(scan)).descan
    after = prepare.descan(step(scan)).descan
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(before - before.mean(0), after, atol=0.02)


def test_a_finer_model_has_a_descan_in_its_own_pixels():
    scan = prepare.descan(moving_disk())
    finer = prepare.enlarge(scan, to=(80, 60), match="resample")
    np.testing.assert_allclose(finer.descan, scan.descan * [2.0, 1.5])
    np.testing.assert_array_equal(prepare.enlarge(scan, to=(80, 60)).descan, scan.descan)


def test_descan_of_a_near_field_is_refused():
    near = Geometry(wavelength=1.0, shape=(40, 40), angle=(1e-3, 1e-3), distance=1e7, focus=1e5)
    scan = Scan4D(counts=np.ones((4, 40, 40)), positions=np.eye(4)[:, :2], geometry=near)
    with pytest.raises(BadInput, match="far-field"):
        prepare.descan(scan)


@pytest.mark.parametrize("dose", [0.05, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("seed", range(5))
def test_good_pixels_are_not_called_bad(dose, seed):
    assert find_bad_pixels(moving_disk(dose=dose, seed=seed)).mask.all()


@pytest.mark.parametrize("dose", [1.0, 30.0, 1e4])
def test_hot_and_dead_pixels_are_found_wherever_they_lie(dose):
    scan = moving_disk(dose=dose, slopes=np.zeros((2, 2)))
    counts = scan.counts.copy()
    hot = [(0, 0), (5, 30), (20, 18), (33, 33)]
    for row, column in hot:
        counts[:, row, column] += 10 * dose
    counts[:, 17, 20] = 0
    bad = find_bad_pixels(Scan4D(counts=counts, positions=scan.positions, geometry=GEOMETRY))
    assert [tuple(one) for one in bad.hot.tolist()] == hot
    assert bad.dead.tolist() == [[17, 20]]


def test_a_model_takes_a_transposed_descan():
    scan = prepare.transpose(prepare.descan(moving_disk()))
    model = Reconstruct.of({"probe": {"focused": {"semiangle": "7 mrad"}}}).build_model(scan)
    np.testing.assert_allclose(model.propagator.deflections(), scan.descan, atol=1e-6)


def test_a_disk_is_centred_in_spite_of_a_background():
    scan = moving_disk(slopes=np.zeros((2, 2)))
    rolled = np.roll(scan.counts, (-3, 4), (1, 2)) + 100.0
    off = Scan4D(counts=rolled, positions=scan.positions, geometry=GEOMETRY, grid=(9, 9))
    by_disk = prepare.center(off, by="disk")
    by_mass = prepare.center(off)
    assert by_disk.mean_pattern()[20 - 7 : 20 + 8, 20 - 7 : 20 + 8].min() < by_disk.mean_pattern()[20, 20] / 2
    np.testing.assert_array_equal(by_disk.counts[:, 13:27, 13:27], scan.counts[:, 13:27, 13:27] + 100)
    assert (by_mass.counts[:, 13:27, 13:27] != scan.counts[:, 13:27, 13:27] + 100).any()
    with pytest.raises(BadInput, match="mass or disk"):
        prepare.center(off, by="middle")


def list_places(grid):
    return np.indices(grid).reshape(2, -1).T


def make_deflections(grid, seed, *, wobble):
    """Centres of mass of a raster: those of a random object, a plane, and a shift of each line."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    own = np.stack([gaussian_filter(rng.normal(size=grid), 1) for _ in "yx"], -1)
    own *= 0.2 / own.std()
    lines = wobble * rng.normal(size=(grid[0], 1, 2))
    rows, columns = np.indices(grid)
    plane = np.stack([0.03 * rows, -0.02 * columns], -1)
    places = np.stack([rows, columns], -1).reshape(-1, 2) * 0.5
    return (own + lines + plane).reshape(-1, 2), (plane + lines).reshape(-1, 2), places


def test_a_shift_of_each_line_is_found():
    grid = (40, 48)
    found, true, places = make_deflections(grid, 1, wobble=0.15)
    with_lines = fit_descan(found, places, list_places(grid))
    plane = fit_descan(found, places)
    errors = [(one - true - (one - true).mean(0)).std() for one in (plane, with_lines)]
    assert errors[0] == pytest.approx(0.15, rel=0.25)
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("seed", range(4))
def test_an_object_alone_shifts_no_line(seed):
    grid = (40, 48)
    found, _, places = make_deflections(grid, seed, wobble=0.0)
    assert np.array_equal(fit_descan(found, places, list_places(grid)), fit_descan(found, places))


def test_shifts_of_lines_are_found_in_spite_of_missing_and_blank_patterns():
    """A blank line had switched all of them off: a raster with a gap was taken for none."""
    grid = (40, 48)
    found, true, places = make_deflections(grid, 1, wobble=0.15)
    kept = np.ones(len(found), bool)
    kept[17 * 48 : 18 * 48] = False
    kept[[5, 700]] = False
    whole = fit_descan(found, places, list_places(grid))
    part = fit_descan(found[kept], places[kept], list_places(grid)[kept])
    blank = fit_descan(np.where(kept[:, None], found, np.nan), places, list_places(grid))
    np.testing.assert_allclose(part, blank[kept], atol=1e-12)
    off = np.abs(part - whole[kept]).reshape(-1, 2)
    assert np.median(off) < 0.01
    errors = [(one - true[kept] - (one - true[kept]).mean(0)).std() for one in (part, whole[kept])]
    assert errors[0] < 1.1 * errors[1]


def test_descan_of_a_scan_without_its_blank_patterns_is_that_with_them():
    scan = moving_disk(slopes=np.array([[0.05, 0.0], [0.0, -0.04]]))
    counts = np.asarray(scan.counts).copy()
    counts[27:36] = 0
    counts[3] = 0
    blank = Scan4D(counts=counts, positions=scan.positions, geometry=GEOMETRY, grid=(9, 9))
    lit = np.flatnonzero(counts.any((1, 2)))
    found = prepare.descan(blank).descan
    part = prepare.descan(blank.select(lit)).descan
    np.testing.assert_allclose(part, found[lit] - found[lit].mean(0), atol=1e-3)


def spoil(scan: Scan4D) -> Scan4D:
    counts = np.asarray(scan.counts).copy()
    counts[:, 12, 22] = 5e4
    return replace(scan, counts=counts)


def begin(scan: Scan4D, **settings: object) -> Job:
    probe = {"focused": {"semiangle": "7 mrad", "defocus": "1 um"}}
    return Job.begin(Reconstruct.of({"probe": probe, "start": "none", "epochs": 1, **settings}), scan=scan)


def test_a_run_masks_bad_pixels_of_electrons_and_says_so():
    job = begin(spoil(moving_disk()))
    assert np.argwhere(~job.scan.mask).tolist() == [[12, 22]]
    assert "1 hot pixel at (row, column) (12, 22)" in job.start_lines()[0]


@pytest.mark.parametrize("settings", [{"mask": "none"}, {"prepare": [{"mask": {"outliers": False}}]}])
def test_bad_pixels_are_kept_where_a_recipe_says_so(settings):
    job = begin(spoil(moving_disk()), **settings)
    assert job.scan.mask.all()
    assert "mask" not in job.recipe.found


def test_a_resumed_run_masks_the_same_pixels(tmp_path):
    scan = spoil(moving_disk())
    probe = {"focused": {"semiangle": "7 mrad", "defocus": "1 um"}}
    recipe = Reconstruct.of({"probe": probe, "start": "none", "epochs": 1})
    job = Job.begin(recipe, tmp_path / "run", scan=scan)
    again = Job.resume(tmp_path / "run", scan=scan)
    np.testing.assert_array_equal(again.scan.mask, job.scan.mask)
    assert not again.scan.mask.all()


def drifting(change: float, dose: float = 50.0, seed: int = 0) -> tuple[Scan4D, np.ndarray]:
    """A disk that gets brighter line by line, and by how much."""
    scan = moving_disk(dose=1.0, slopes=np.zeros((2, 2)), seed=None)
    true = 1 + change * np.linspace(-0.5, 0.5, 81)
    counts = np.random.default_rng(seed).poisson(dose * true[:, None, None] * scan.counts)
    return replace(scan, counts=counts.astype(np.uint16)), true


def test_a_beam_that_drifts_is_measured_to_a_few_per_mille():
    scan, true = drifting(0.1)
    found = prepare.weights(scan, drift=True).weights
    assert found is not None
    middle = slice(18, 63)  # the filter levels off at the ends
    np.testing.assert_allclose(found[middle], true[middle], atol=0.006)
    assert found.mean() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_a_steady_beam_has_no_weights(seed):
    assert prepare.weights(drifting(0.0, dose=3.0, seed=seed)[0], drift=True).weights is None


def test_weights_need_a_run_or_the_drift():
    scan, _ = drifting(0.1)
    for arguments in ({}, {"path": Path("run.h5"), "drift": True}):
        with pytest.raises(BadInput, match="either path"):
            prepare.weights(scan, **arguments)


def test_a_block_that_is_not_finite_makes_no_hot_pixels():
    counts = moving_disk(slopes=np.zeros((2, 2))).counts.copy()
    counts[:, 14:24, 14:24] = np.nan
    counts[:, 17, 26] = 0
    bad = find_bad_pixels(Scan4D(counts=counts, positions=np.zeros((81, 2)), geometry=GEOMETRY))
    assert bad.hot.tolist() == []
    assert bad.dead.tolist() == [[17, 26]]


def test_a_beam_that_is_one_pixel_wide_is_not_a_hot_pixel_but_one_in_a_disk_is():
    y, x = np.indices((40, 40))
    beam = np.broadcast_to(1e4 / (1 + np.hypot(y - 20, x - 19) ** 4), (81, 40, 40))
    assert find_bad_pixels(replace(moving_disk(), counts=beam)).mask.all()
    counts = moving_disk(slopes=np.zeros((2, 2))).counts.copy()
    counts[:, 20, 19] = 5e4
    assert find_bad_pixels(replace(moving_disk(), counts=counts)).hot.tolist() == [[20, 19]]


@pytest.mark.parametrize("dose", [30.0, 400.0, 1e4])
def test_clipped_counts_are_found_with_their_level(dose):
    scan = moving_disk(dose=dose)
    found = find_clipping(replace(scan, counts=scan.counts.clip(max=dose)))
    assert found is not None
    assert found.level == dose
    assert found.values == (scan.counts >= dose).sum()
    np.testing.assert_allclose(found.share, (scan.counts >= dose).mean(0))


@pytest.mark.parametrize("dose", [0.02, 0.5, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("seed", range(4))
def test_counts_that_end_by_chance_are_not_clipped(dose, seed):
    assert find_clipping(moving_disk(dose=dose, seed=seed)) is None


def test_no_mask_contradicts_a_step_that_masks():
    with pytest.raises(BadInput, match="remove that step"):
        Reconstruct.of({"mask": "none", "prepare": [{"mask": {"outliers": True}}]})
    assert Reconstruct.of({"mask": "none", "prepare": [{"mask": {"radius": 9}}]}).mask == "none"


def test_a_run_says_in_which_coordinates_bad_pixels_are():
    scan = spoil(moving_disk())
    assert "prepare" not in begin(scan).start_lines()[0].replace("by prepare: mask", "")
    line = begin(scan, prepare=["transpose"]).start_lines()[0]
    assert "(22, 12)" in line
    assert "after the other steps of prepare" in line


def test_a_yes_where_a_name_is_expected_is_explained():
    with pytest.raises(BadInput, match=r"write 'auto', 'direct' or 'none' \(yes, no, on and off"):
        Reconstruct.of({"object_prior": True})
    with pytest.raises(BadInput) as refused:
        Reconstruct.of({"object_prior": "sure"})
    assert "yes" not in str(refused.value)


def test_few_counts_in_many_patterns_are_no_bad_pixels():
    counts = np.random.default_rng(3).poisson(0.01, (20_000, 24, 24)).astype(np.uint8)
    scan = Scan4D(counts=counts, positions=np.zeros((20_000, 2)), geometry=_geometry(24))
    assert find_bad_pixels(scan).lines() == []
    few = scan.mean_pattern(most=500)
    assert find_bad_pixels(scan, mean=few, patterns=500).lines() == []
    assert find_bad_pixels(scan, mean=few).lines() == [], "its noise is taken for less than it is"


def test_the_beam_of_a_star_is_no_hot_pixel_and_no_other_pixel_is():
    scan = pl.read(pl.samples.far_field())
    assert find_bad_pixels(scan).hot.tolist() == []
    assert [one.value.split()[0] for one in inspect(scan) if one.name == "hot pixels"] == ["0"]


def _geometry(pixels: int) -> Geometry:
    return Geometry(wavelength=0.02, shape=(pixels, pixels), angle=(1e-3, 1e-3), beam="electron")
