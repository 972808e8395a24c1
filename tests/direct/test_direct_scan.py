"""A direct image of a scan with the faults of a detector, from Python and from the command line."""

import json
import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates, shift

from phaseloom.data import prepare
from phaseloom.data.descan import measure_deflections
from phaseloom.data.formats import native
from phaseloom.data.scan import Scan4D
from phaseloom.direct.bright_field import measure_centres_of_mass
from phaseloom.direct.figures import plot_direct_image
from phaseloom.direct.fit import STEP_TOLERANCE, are_pixels_coarse, fit_optics, refine_optics
from phaseloom.direct.recipe import DirectResult
from phaseloom.direct.reconstruct import (
    PHOTON_NOTE,
    _describe_explained_share,
    find_resolution,
    reconstruct_scan,
)
from phaseloom.direct.solve import DirectMethod
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics
from phaseloom.errors import BadInput
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts.first_image import make_first_image
from phaseloom.simulation import simulate

PIXEL, WINDOW, GRID, STEP, SEMIANGLE = 0.2, 64, (32, 32), 0.6, 0.022
TURN = math.radians(-31)


def simulate_scan(seed: int, defocus: float, electrons: float) -> tuple[Scan4D, np.ndarray]:
    """A scan as it should have been read, and the phase at its places, blurred to what it can show."""
    positions = simulate.raster(GRID, STEP)
    positions += 8.0 - positions.min(0)
    side = int((positions.max() + 8.0) / PIXEL) + 2
    phase = simulate.atoms((side, side), PIXEL, peak=0.25, seed=seed)
    beam = {"energy": 80e3, "semiangle": SEMIANGLE, "defocus": defocus, "window": WINDOW, "dose": electrons}
    scan, _ = simulate.electron_scan(phase, PIXEL, positions, **beam)
    truth = np.angle(np.asarray(phase)) if np.iscomplexobj(np.asarray(phase)) else np.asarray(phase)
    blurred = gaussian_filter(truth.reshape(side, side), 0.45 / PIXEL)
    # places in the simulated field are those of its own frame
    at = map_coordinates(blurred, positions.T / PIXEL, order=1).reshape(GRID)
    return replace(scan, grid=GRID, oriented=False, probe=None), at


def spoil(scan: Scan4D, seed: int = 0) -> Scan4D:
    """Transposed, turned, 1 % too small a step, bad pixels, descan of 2 pixels, a beam that fades."""
    rng = np.random.default_rng(seed)
    counts = np.asarray(scan.counts, np.float64)
    rows = np.arange(len(scan)) // GRID[1] / GRID[0] - 0.5
    moved = [shift(one, (2 * row, 0), order=1) for one, row in zip(counts, rows, strict=True)]
    counts = np.maximum(np.stack(moved), 0)
    counts = rng.poisson(counts * np.linspace(1.05, 0.95, len(scan))[:, None, None]).astype(np.float32)
    counts[:, 30, 31] = 0
    counts[:, 10, 40] = 50 * counts.mean()
    spoilt = replace(scan, counts=np.swapaxes(counts, 1, 2).copy())
    return prepare.scale(prepare.rotate(spoilt, angle=-TURN), factor=1 / 1.01)


@pytest.mark.parametrize(("defocus", "electrons"), [(120.0, 1e5), (-90.0, 2e4), (150.0, 3e3)])
def test_an_image_and_its_optics_come_from_a_spoilt_scan(defocus, electrons):
    scan, truth = simulate_scan(1, defocus, electrons)
    found = reconstruct_scan(spoil(scan))
    optics = found.optics
    assert optics.orientation == 4
    assert math.remainder(float(optics.rotation) - TURN, 2 * math.pi) == pytest.approx(0, abs=math.radians(1))
    assert optics.defocus == pytest.approx(defocus, abs=8)
    assert sorted(map(tuple, found.survey.bad.hot.tolist())) == [(40, 10)]
    assert found.survey.descan is not None
    inside = (slice(3, -3), slice(3, -3))
    seen = found.image.phase.numpy()[inside]
    assert np.corrcoef(seen.ravel(), truth[inside].ravel())[0, 1] > 0.75


@pytest.mark.medium
def test_the_sign_of_a_stated_defocus_decides_between_twins():
    scan, _ = simulate_scan(2, 120.0, 1e5)
    right = reconstruct_scan(scan, aberrations={"defocus": 50.0})
    wrong = reconstruct_scan(scan, aberrations={"defocus": -50.0})
    assert right.optics.defocus == pytest.approx(-wrong.optics.defocus)
    torch.testing.assert_close(right.image.phase, -wrong.image.phase)
    assert "stated defocus" in right.notes[-1]


@pytest.mark.medium
def test_patterns_without_an_object_gain_nothing():
    scan, _ = simulate_scan(1, 120.0, 1e5)
    mean = np.broadcast_to(scan.mean_pattern(), scan.counts.shape)
    for seed in range(3):
        empty = replace(scan, counts=np.random.default_rng(seed).poisson(mean).astype(np.float32))
        spectrum = survey_disk(empty).measure(empty).transform()
        fit = fit_optics(spectrum, LinearOptics(scan.geometry.wavelength, SEMIANGLE), largest_defocus=250.0)
        assert fit.gain < 50


@pytest.mark.parametrize("method", list(DirectMethod))
def test_every_method_shows_the_object(method):
    scan, truth = simulate_scan(3, 100.0, 1e6)
    found = reconstruct_scan(scan, aberrations={"defocus": 100.0}, method=method, fit=False)
    inside = (slice(3, -3), slice(3, -3))
    seen = found.image.phase.numpy()[inside]
    assert np.corrcoef(seen.ravel(), truth[inside].ravel())[0, 1] > 0.6
    assert (found.image.amplitude is None) != method.is_in_radian


def test_resolution_by_half_sets_follows_the_dose():
    periods = []
    for electrons in (1e5, 3e3, 30.0):
        scan, _ = simulate_scan(3, 100.0, electrons)
        found = reconstruct_scan(scan, aberrations={"defocus": 100.0}, fit=False)
        assert found.correlation is not None
        periods.append(find_resolution(found.correlation))
        assert any(line.startswith("resolution: ") for line in found.lines())
    assert periods[0] == pytest.approx(2 * STEP)
    assert 2 * STEP < periods[1] < 3 * STEP
    assert math.isinf(periods[2])


def test_centres_of_mass_are_those_of_trusted_pixels_without_descan():
    scan, _ = simulate_scan(1, 120.0, 1e7)
    where = {"centre": (32.0, 32.0), "radius": survey_disk(scan).disk.radius}
    unit = np.asarray(scan.geometry.angle) / scan.geometry.wavelength
    plain = measure_centres_of_mass(scan, mask=scan.mask, **where)
    moved = measure_deflections(scan, **where)
    np.testing.assert_allclose(plain.mean(0), (moved - moved.mean(0)) * unit, atol=1e-5)
    assert np.corrcoef(plain[0, :, 0], plain[1, :, 0])[0, 1] > 0.3
    dead = scan.mask.copy()
    dead[30:34, 25] = False
    spoilt = np.where(dead, scan.counts, 1e6)
    masked = measure_centres_of_mass(replace(scan, counts=spoilt), mask=dead, **where).mean(0)
    assert np.abs(masked - plain.mean(0)).max() < 0.3 * np.abs(plain.mean(0)).max()
    rolled = np.stack([np.roll(one, n % 2, 0) for n, one in enumerate(np.asarray(scan.counts))])
    descan = np.stack([np.arange(len(scan)) % 2, np.zeros(len(scan))], 1)
    followed = measure_centres_of_mass(replace(scan, counts=rolled), mask=scan.mask, descan=descan, **where)
    np.testing.assert_allclose(followed.mean(0), plain.mean(0), atol=0.05 * np.abs(plain).max())


def test_deflections_are_in_the_frame_of_the_stated_positions():
    scan, _ = simulate_scan(1, 120.0, 1e7)
    other = replace(scan, counts=np.swapaxes(np.asarray(scan.counts), 1, 2).copy())
    other = prepare.rotate(other, angle=-TURN)
    along_lines = []
    for one, fit in ((scan, False), (other, True)):
        found = reconstruct_scan(one, aberrations={"defocus": 120.0}, method="dpc", fit=fit)
        line = one.positions[1] - one.positions[0]
        assert found.deflection is not None
        along_lines.append(found.deflection @ (line / np.linalg.norm(line)))
    assert np.corrcoef(*along_lines)[0, 1] > 0.98
    assert np.std(along_lines[1]) == pytest.approx(np.std(along_lines[0]), rel=0.05)


def test_an_image_finer_than_the_scan_begins_at_the_same_place():
    scan, truth = simulate_scan(3, 100.0, 1e6)
    found = reconstruct_scan(scan, aberrations={"defocus": 100.0}, fit=False, upsample=2)
    assert found.image.phase.shape == (2 * GRID[0], 2 * GRID[1])
    fine = found.positions.reshape(*found.image.phase.shape, 2)
    np.testing.assert_allclose(fine[::2, ::2].reshape(-1, 2), scan.positions, atol=1e-6)
    np.testing.assert_allclose(fine[1, 1] - fine[0, 0], STEP / 2, atol=1e-6)
    inside = (slice(3, -3), slice(3, -3))
    seen = found.image.phase.numpy()[::2, ::2][inside]
    assert np.corrcoef(seen.ravel(), truth[inside].ravel())[0, 1] > 0.85


def test_what_is_no_raster_has_optics_too():
    scan, _ = simulate_scan(1, 120.0, 1e5)
    keep = np.random.default_rng(0).permutation(len(scan))
    mixed = scan.select(np.sort(keep[:900]))
    spectrum = survey_disk(mixed).measure(mixed).transform()
    fit = fit_optics(spectrum, LinearOptics(scan.geometry.wavelength, SEMIANGLE), largest_defocus=250.0)
    assert abs(fit.optics.defocus) == pytest.approx(120.0, abs=10)


def test_the_command_writes_image_picture_and_optics(tmp_path, phaseloom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan, _ = simulate_scan(1, 120.0, 1e5)
    native.write(scan, tmp_path / "scan.h5")
    ended = phaseloom("direct", "scan.h5", "--defocus", "10 nm", "--out", "image.h5")
    assert not ended.code, ended.err
    assert "defocus: 1" in ended.out
    assert (tmp_path / "image.png").is_file()
    with h5py.File(tmp_path / "image.h5") as file:
        assert file["phase"].shape == GRID
        assert file["phase"].attrs["units"] == "radian"
        optics = json.loads(file["optics"][()])
    assert -optics["C10"] == pytest.approx(120.0, abs=8)
    assert phaseloom("direct", "scan.h5", "--out", "image.h5").code == 2
    wrong = phaseloom("direct", "scan.h5", "--method", "wdd2", "--out", "b.h5")
    assert wrong.code == 2
    assert "method" in wrong.err
    assert "single_sideband" not in wrong.err
    assert phaseloom("direct", "scan.h5", "--semiangle", "-3 mrad", "--out", "b.h5").code == 2
    for text, reason in (
        ("aberrations={C12: 3}", "C12"),
        ("aberrations={C99: 3 nm}", "C99"),
        ("pixels=3", "too few"),
        ("upsample=7", "from 1 to 4"),
        ("ridge=0", "between 0 and 1"),
        ("high_pass=5", "not a length"),
    ):
        wrong = phaseloom("direct", "scan.h5", "--set", text, "--out", "b.h5")
        assert wrong.code == 2
        assert reason in wrong.err


def test_the_command_writes_deflections_and_finer_images(tmp_path, phaseloom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan, _ = simulate_scan(1, 120.0, 1e5)
    native.write(scan, tmp_path / "scan.h5")
    known = ("--defocus", "12 nm", "--set", "fit=false")
    dpc = ("--set", "method=dpc", "--set", "high_pass=3 nm", "--out", "dpc.h5")
    ended = phaseloom("direct", "scan.h5", *known, *dpc)
    assert not ended.code, ended.err
    with h5py.File(tmp_path / "dpc.h5") as file:
        assert file["deflection"].shape == (*GRID, 2)
        assert file["phase"].attrs["units"] == "arbitrary"
        assert 1e-6 < np.std(file["deflection"]) < SEMIANGLE
        assert file["ring_correlation"].shape[1] == 2
    finer = ("--set", "method=parallax", "--set", "upsample=3", "--out", "fine.h5")
    ended = phaseloom("direct", "scan.h5", *known, *finer)
    assert not ended.code, ended.err
    with h5py.File(tmp_path / "fine.h5") as file:
        assert file["phase"].shape == (3 * GRID[0], 3 * GRID[1])
        assert len(file["image_positions"]) == file["phase"].size
    refused = phaseloom("direct", "scan.h5", "--set", "method=dpc", "--set", "upsample=2", "--out", "b.h5")
    assert refused.code == 2
    assert "dpc" in refused.err


def test_scans_that_have_no_direct_image_are_refused(tmp_path):
    scan, _ = simulate_scan(1, 120.0, 1e5)
    near = replace(scan.geometry, distance=1e9, focus=math.inf)
    with pytest.raises(BadInput, match="near field"):
        reconstruct_scan(replace(scan, geometry=near))
    dark = replace(scan, counts=np.zeros_like(np.asarray(scan.counts)))
    with pytest.raises(BadInput, match="dark"):
        reconstruct_scan(dark)


def small_scan(grid: tuple[int, int], shape: tuple[int, int]) -> Scan4D:
    """A raster of weak atoms on an object of some shape."""
    phase = simulate.atoms(shape, 0.2, peak=0.2, seed=1)
    beam = {"energy": 80e3, "semiangle": 0.022, "defocus": 100.0, "window": 48, "dose": 1e5}
    scan, _ = simulate.electron_scan(phase, 0.2, simulate.raster(grid, 0.6) + 8.0, **beam)
    return replace(scan, grid=grid)


def test_blank_patterns_count_as_unchanged():
    scan = small_scan((16, 16), (128, 128))
    counts = np.asarray(scan.counts).copy()
    counts[[50, 130]] = 0
    whole, spoilt = (reconstruct_scan(one) for one in (scan, replace(scan, counts=counts)))
    assert spoilt.optics.defocus == pytest.approx(whole.optics.defocus, abs=3)
    assert "2 of 256 patterns are blank" in "\n".join(spoilt.lines())
    assert "blank" not in "\n".join(whole.lines())


def test_a_single_line_is_refused():
    line = small_scan((1, 40), (96, 220))
    with pytest.raises(BadInput, match="1 x 40 are too narrow for a direct image"):
        reconstruct_scan(line)
    probe = {"focused": {"semiangle": "22 mrad", "defocus": "10 nm"}}
    recipe = Reconstruct.of({"probe": probe, "start": "none", "epochs": 1})
    assert make_first_image(recipe, line) is None
    with pytest.raises(BadInput, match="on one line"):
        Job.begin(recipe.model_copy(update={"preset": "calibrate"}), scan=line)


def test_positions_in_another_order_are_refused():
    scan = small_scan((16, 16), (128, 128))
    shuffled = replace(scan, positions=np.random.default_rng(0).permutation(scan.positions))
    with pytest.raises(BadInput, match="direct: positions"):
        reconstruct_scan(shuffled)


@pytest.mark.medium
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_step_stated_wrongly_is_within_its_error(seed):
    scan, _ = simulate_scan(seed, 120.0, 1e5)
    off = prepare.scale(scan, factor=1.02)
    spectrum = survey_disk(off).measure(off).transform()
    fit = fit_optics(spectrum, LinearOptics(scan.geometry.wavelength, SEMIANGLE), largest_defocus=250.0)
    assert abs(1.02 * float(fit.optics.step) - 1) < 3 * fit.errors["step"] + 1e-3
    assert fit.errors["step"] <= STEP_TOLERANCE
    assert abs(abs(fit.optics.defocus) - 120.0) < 3 * fit.errors["C10"]


@pytest.mark.medium
@pytest.mark.parametrize("factor", [0.75, 1.0, 1.2])
def test_a_step_that_is_wrong_altogether_is_found_and_said(factor):
    scan, _ = simulate_scan(1, 120.0, 1e5)
    found = reconstruct_scan(prepare.scale(scan, factor=factor), semiangle=SEMIANGLE)
    assert found.fit.is_step_free == (factor != 1)
    assert factor * float(found.optics.step) == pytest.approx(1, abs=0.03)
    assert abs(found.optics.defocus) == pytest.approx(120, abs=5)
    said = [line for line in found.lines() if "stated step" in line]
    assert len(said) == (factor != 1)


@pytest.mark.medium
@pytest.mark.parametrize(("seed", "factor"), [(1, 1.1), (2, 0.9), (1, 1.0), (2, 1.03)])
def test_a_step_that_may_be_wrong_is_named(seed, factor):
    scan, _ = simulate_scan(seed, 120.0, 1e5)
    found = reconstruct_scan(prepare.scale(scan, factor=factor), semiangle=SEMIANGLE)
    assert not found.fit.is_step_free
    named = found.fit.suggested_step
    said = [line for line in found.lines() if "(prepare: scale)" in line]
    if abs(factor - 1) < 0.05:
        assert named is None
        assert not said
    else:
        assert factor * named == pytest.approx(1, abs=0.03)
        assert f"{100 * (named - 1):+.0f} %" in said[0]


@pytest.mark.parametrize(
    ("share", "line"),
    [
        (0.42, "explains 42.0% of the changes"),
        (1.03, "explains all changes in the disk"),
        (1.19, "the values may not be single electrons"),
        (math.nan, "no single frequency"),
    ],
)
def test_no_object_is_said_to_explain_more_than_all(share, line):
    said = _describe_explained_share(share)
    assert line in said
    assert "119" not in said
    assert said.endswith("disk") == (share <= 1.05)


def test_direct_images_of_photons_say_what_they_are_made_for():
    scan, _ = simulate_scan(3, 100.0, 1e6)
    photons = replace(scan, geometry=replace(scan.geometry, beam="photon"))
    known = {"aberrations": {"defocus": 100.0}, "fit": False}
    assert PHOTON_NOTE in reconstruct_scan(photons, **known).lines()
    assert PHOTON_NOTE not in reconstruct_scan(scan, **known).lines()


@pytest.mark.medium
def test_a_large_defocus_is_refined_on_fine_pixels():
    phase = simulate.atoms((128, 128), 0.4, peak=0.2, seed=1)
    beam = {"energy": 80e3, "semiangle": SEMIANGLE, "defocus": 400.0, "window": 64, "dose": 3e3}
    scan, _ = simulate.electron_scan(phase, 0.4, simulate.raster(GRID, STEP) + 13.0, **beam)
    scan = replace(scan, grid=GRID, oriented=False, probe=None)
    survey = survey_disk(scan)
    optics = LinearOptics(scan.geometry.wavelength, SEMIANGLE, angle=SEMIANGLE / survey.semiangle(scan))
    coarse = survey.measure(scan, pixels=100).transform()
    found = fit_optics(coarse, optics, largest_defocus=500.0)
    assert are_pixels_coarse(coarse, found.optics)
    fine = refine_optics(survey.measure(scan, pixels=500).transform(), found)
    names = ("C12a", "C12b")
    before, after = (math.hypot(*(one.optics.aberrations[n] for n in names)) for one in (found, fine))
    assert after < min(6.0, before)
    assert abs(abs(fine.optics.defocus) - 400.0) < 10


def test_patterns_that_are_copies_of_one_are_refused():
    scan = small_scan((8, 8), (104, 104))
    alike = np.broadcast_to(scan.mean_pattern().round(), np.shape(scan.counts)).copy()
    with pytest.raises(BadInput, match="are all patterns copies of one"):
        reconstruct_scan(replace(scan, counts=alike))


def test_axes_of_scan_and_detector_that_are_exchanged_are_refused():
    scan = small_scan((16, 16), (128, 128))
    counts = np.asarray(scan.counts).reshape(16, 16, 48, 48).transpose(2, 3, 0, 1).reshape(-1, 16, 16)
    geometry = replace(scan.geometry, shape=(16, 16))
    positions = simulate.raster((48, 48), 0.6)
    wrong = replace(
        scan,
        counts=counts,
        geometry=geometry,
        positions=positions,
        grid=(48, 48),
        mask=np.ones((16, 16), bool),
    )
    with pytest.raises(BadInput, match="are the axes in the order"):
        reconstruct_scan(wrong)


@pytest.mark.parametrize(("factor", "doubted"), [(1, False), (10, True)])
def test_a_step_in_another_unit_is_doubted(factor, doubted):
    scan = small_scan((8, 8), (104, 104))
    found = reconstruct_scan(prepare.scale(scan, factor=factor), aberrations={"defocus": 100.0}, fit=False)
    assert any("check its unit" in line for line in found.lines()) == doubted


@pytest.mark.parametrize("grid", [(6, 6), (5, 24)])
def test_small_and_narrow_rasters_have_an_image(grid):
    scan = small_scan(grid, (104, 176))
    found = reconstruct_scan(scan, aberrations={"defocus": 100.0}, fit=False)
    assert found.image.phase.shape == grid
    assert bool(found.image.phase.isfinite().all())


@pytest.mark.medium
def test_the_command_makes_an_image_of_a_scan_without_raster(tmp_path, phaseloom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan, _ = simulate_scan(1, 120.0, 1e5)
    keep = np.random.default_rng(0).random(len(scan)) > 0.2
    native.write(replace(scan.select(np.flatnonzero(keep)), grid=None), tmp_path / "scan.h5")
    ended = phaseloom("direct", "scan.h5", "--defocus", "12 nm", "--set", "fit=false", "--out", "image.h5")
    assert not ended.code, ended.err
    assert "32 x 32 pixels of 60 pm" in ended.out
    assert (tmp_path / "image.png").is_file()
    with h5py.File(tmp_path / "image.h5") as file:
        assert file["phase"].shape == GRID
        assert len(file["image_positions"]) == file["phase"].size
        assert len(file["positions"]) == keep.sum()


def test_the_figure_has_no_empty_panels():
    """An image without an amplitude left a hole where that of others is, and one without halves another."""
    scan, _ = simulate_scan(3, 100.0, 1e4)
    found = reconstruct_scan(scan)
    phase = replace(found, image=replace(found.image, amplitude=None), correlation=None)
    both = replace(phase, image=replace(found.image, amplitude=found.image.phase))
    for one, count in ((both, 5), (phase, 4)):
        figure = plot_direct_image(DirectResult(one, scan, None))  # pyright: ignore[reportArgumentType]
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert len(panels) == count
        assert all(axes.images or axes.lines or axes.texts for axes in panels)
