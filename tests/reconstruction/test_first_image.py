"""The direct image of an electron scan: before the first epoch, and as the start of the object."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.metrics.phase import remove_ramp
from phaseloom.ptycho.scans import canvas
from phaseloom.reconstruction import protocol
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts.first_image import make_first_image, place_on_canvas
from phaseloom.reconstruction.warm_start import describe_direct_start
from phaseloom.simulation import simulate

PIXEL = 0.2
GRID = (16, 17)
DEFOCUS = 80.0


@pytest.fixture(scope="module")
def case():
    """A weak object, the scan of it and a calibrated recipe."""
    positions = simulate.raster(GRID, 0.5)
    positions += 8.0 - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + 8.0) / PIXEL))
    truth = simulate.atoms((size[0], size[1]), PIXEL, peak=0.2, seed=4)
    beam = {"energy": 80e3, "semiangle": 0.03, "defocus": DEFOCUS, "window": 48, "dose": 1e6}
    scan, _ = simulate.electron_scan(truth, PIXEL, positions, **beam)
    probe = {"focused": {"semiangle": "30 mrad", "defocus": f"{DEFOCUS} A", "modes": 1}}
    recipe = Reconstruct.of(
        {"probe": probe, "start": "none", "epochs": 2, "found": {"calibrate": {"x": "y"}}}
    )
    return truth, replace(scan, grid=GRID), recipe


def test_the_first_image_shows_the_object(case):
    truth, scan, recipe = case
    image = make_first_image(recipe, scan)
    rows, columns = np.round(scan.positions / PIXEL).astype(int).T
    known = truth.sum(0)[rows, columns].reshape(GRID)[3:-3, 3:-3]
    seen = image.found.image.phase.numpy()[3:-3, 3:-3]
    assert np.corrcoef(seen.ravel(), known.ravel())[0, 1] > 0.9
    assert image.found.fit is None  # a calibrated recipe has its optics


def test_the_first_image_lies_where_the_object_lies(case):
    truth, scan, recipe = case
    model = recipe.settle(scan)[0].build_model(scan)
    wave = place_on_canvas(make_first_image(recipe, scan), model.object)
    assert wave.shape == model.object.transmission().shape
    room = canvas(scan)
    first = np.round(np.array(room.origin) / PIXEL).astype(int)
    rows, columns = (
        slice(int((low - origin) / PIXEL) + 6, int((high - origin) / PIXEL) - 6)
        for low, high, origin in zip(scan.positions.min(0), scan.positions.max(0), room.origin, strict=True)
    )
    seen = wave.angle()[0].sum(0).numpy()[rows, columns]
    shifted = truth.sum(0)[rows.start + first[0] :, columns.start + first[1] :]
    known = shifted[: seen.shape[0], : seen.shape[1]]
    agreement = [
        np.corrcoef(remove_ramp(np.roll(seen, (a, b), (0, 1))).ravel(), remove_ramp(known).ravel())[0, 1]
        for a in (-2, 0, 2)
        for b in (-2, 0, 2)
    ]
    assert np.argmax(agreement) == 4
    assert agreement[4] > 0.7


def test_a_calibrated_run_begins_with_the_direct_image_if_its_loss_falls(case, tmp_path):
    _, scan, recipe = case
    empty = Job.begin(recipe.model_copy(update={"found": {}}), scan=scan)
    job = Job.begin(recipe, tmp_path / "run", scan=scan)
    # `find_start` keeps what a calibration found
    direct = job.recipe.found["direct"]
    assert direct["taken"]
    assert direct["predicted"] < min(direct["conjugate"], direct["empty"])
    assert "direct image taken as given" in job.start_lines()[-1]
    assert direct["trial"]["losses"]["as given"] < direct["trial"]["losses"]["flat"]
    assert torch.equal(empty.model.object.transmission(), torch.ones_like(empty.model.object.transmission()))
    again = Job.resume(tmp_path / "run", scan=scan)
    assert torch.equal(again.model.object.transmission(), job.model.object.transmission())


def test_a_run_makes_one_direct_image(case, monkeypatch):
    _, scan, recipe = case
    made = []
    monkeypatch.setattr(protocol, "make_first_image", lambda *a: made.append(a) or make_first_image(*a))
    job = Job.begin(recipe, scan=scan)
    assert job.first_image is job.first_image
    assert len(made) == 1


def test_a_direct_image_of_patterns_in_disorder_is_not_taken(case):
    _, scan, recipe = case
    order = np.random.default_rng(0).permutation(len(scan))
    job = Job.begin(recipe, scan=replace(scan, counts=np.asarray(scan.counts)[order]))
    direct = job.recipe.found["direct"]
    assert not direct["taken"]
    assert "not taken" in describe_direct_start(**direct)
    assert torch.equal(job.model.object.transmission(), torch.ones_like(job.model.object.transmission()))


def test_scans_without_a_raster_or_of_photons_have_no_first_image(case):
    _, scan, recipe = case
    assert make_first_image(recipe, replace(scan, grid=None)) is None
    photons = replace(scan, geometry=replace(scan.geometry, beam="photon"))
    assert make_first_image(recipe, photons) is None
