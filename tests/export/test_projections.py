"""Projections for tomography: phases of a phantom of balls, whose line integrals are known."""

import h5py
import numpy as np
import pytest

import phaseloom as pl
from phaseloom.errors import BadInput
from phaseloom.export.projections import gather_projections, write_projections
from phaseloom.result import Result

pytest.importorskip("skimage")

BALLS = [(0.0, 12.0, -5.0, 8.0, 0.35), (-6.0, -9.0, 7.0, 6.0, 0.5), (5.0, 3.0, 12.0, 4.0, -0.6)]
"""Rows y, x, z of middles, radii (pixels), phase per pixel of way."""

SIDE = (48, 80)
PIXEL = (50.0, 50.0)


def project(angle, shape=SIDE, shift=(0.0, 0.0), *, soft=False):
    """Line integrals along the beam of the balls turned about the vertical axis, radian."""
    y, x = np.indices(shape).astype(float)
    y = y - shape[0] // 2 + shift[0]
    x = x - shape[1] // 2 + shift[1]
    turn = np.deg2rad(angle)
    phase = np.zeros(shape)
    for row, column, depth, radius, strength in BALLS:
        at = column * np.cos(turn) + depth * np.sin(turn)
        square = (y - row) ** 2 + (x - at) ** 2
        ball = 2 * np.sqrt(np.maximum(radius**2 - square, 0))
        phase += strength * (2 * radius * np.exp(-2 * square / radius**2) if soft else ball)
    return phase


def make_result(angle, seed, *, shift=(0.0, 0.0), pixel=PIXEL, slices=1, soft=False):
    """A result whose phase has a ramp, a constant, wraps, a canvas of its own and unlit corners."""
    rng = np.random.default_rng(seed)
    margin = rng.integers(10, 16, 2)
    shape = (SIDE[0] + 2 * margin[0], SIDE[1] + 2 * margin[1])
    y, x = np.indices(shape)
    ramp = rng.uniform(-0.2, 0.2) * y + rng.uniform(-0.2, 0.2) * x + rng.uniform(-3, 3)
    wave = np.exp(1j * (project(angle, shape, shift, soft=soft) + ramp)) * 0.9
    object_ = np.stack([wave, *[np.ones(shape, complex)] * (slices - 1)])
    places = np.indices((9, 9)).reshape(2, -1).T / 8 * (SIDE[0] - 1, SIDE[1] - 1)
    middle = np.array(shape) // 2
    origin = tuple((np.array(shift) - middle) * np.array(pixel))
    corner = middle - np.array(SIDE) // 2
    geometry = pl.Geometry(wavelength=1.5, shape=(16, 16), angle=1.5 / 16 / 50)
    coverage = np.zeros(shape)
    coverage[corner[0] - 8 : corner[0] + SIDE[0] + 8, corner[1] - 8 : corner[1] + SIDE[1] + 8] = 100
    positions = (places + corner) * np.array(pixel) + np.array(origin)
    return Result(
        object=object_,
        probe=np.ones((1, 16, 16), complex),
        positions=positions,
        positions_start=positions,
        pixel=pixel,
        origin=origin,
        coverage=coverage,
        geometry=geometry,
    )


ANGLES = np.arange(0, 180, 4.0)


def test_phases_are_unwrapped_and_lie_on_one_field_without_ramps():
    known = {"soft": True}
    results = [make_result(a, seed, slices=1 + seed % 2, **known) for seed, a in enumerate(ANGLES[:6])]
    assert project(0.0, soft=True).max() > np.pi  # it wraps
    found = gather_projections(results, ANGLES[:6], air=300.0)
    assert found.phase.shape[1:] == SIDE
    for angle, phase in zip(ANGLES[:6], found.phase, strict=True):
        assert np.abs(phase - project(angle, soft=True)).max() < 0.05
    assert (found.jumps < 1e-3).all()
    assert found.origin == (-24 * 50.0, -40 * 50.0)


def test_without_air_the_plane_is_the_one_that_most_pixels_are_on():
    found = gather_projections([make_result(0.0, 1), make_result(20.0, 2)], [0.0, 20.0])
    assert np.abs(found.phase[1] - project(20.0)).max() < 0.1


def test_fields_that_lie_between_pixels_are_brought_to_those_of_the_first():
    one, two = make_result(0.0, 1, soft=True), make_result(0.0, 2, shift=(0.3, -0.45), soft=True)
    found = gather_projections([one, two], [0.0, 0.0], air=300.0)
    inner = (slice(4, -4), slice(4, -4))
    error = found.phase[0][inner] - found.phase[1][inner]
    assert np.sqrt(np.mean(error**2)) < 0.03
    assert found.phase.shape[1] >= SIDE[0] - 1


def test_a_tomogram_of_what_was_written_shows_the_balls(tmp_path):
    from skimage.transform import iradon

    results = [make_result(angle, seed) for seed, angle in enumerate(ANGLES)]
    path = write_projections(gather_projections(results, ANGLES, air=300.0), tmp_path / "balls.nxs")
    with h5py.File(path) as file:  # as tomopy's readers do
        entry = file[file.attrs["default"]]
        assert entry["definition"][()] == b"NXtomo"
        assert entry["instrument/detector/data"].shape == (len(ANGLES), *SIDE)
        assert not entry["instrument/detector/image_key"][()].any()
        assert entry["instrument/detector/x_pixel_size"][()] == pytest.approx(5e-9)
        angles = entry["data/rotation_angle"][()]
        assert entry["data/rotation_angle"].attrs["units"] == "deg"
        stack = entry["data/data"][()]
    row = SIDE[0] // 2 - 6  # through the middle of the second ball
    slice_ = iradon(stack[:, row].T, theta=angles, filter_name="ramp", circle=True)
    middle = SIDE[1] // 2
    z, x = np.indices(slice_.shape) - middle
    inside = np.hypot(x + 9, -z - 7) < 4
    near = np.hypot(x + 9, z - 7) < 4
    strength = slice_[inside].mean() if slice_[inside].mean() > slice_[near].mean() else slice_[near].mean()
    assert strength == pytest.approx(0.5, rel=0.1)
    empty = np.hypot(x, z) < 36
    empty &= np.hypot(x + 9, -z - 7) > 9
    empty &= np.hypot(x + 9, z - 7) > 9
    empty &= np.hypot(x - 12, abs(z) - 5) > 11
    assert abs(slice_[empty].mean()) < 0.02


def test_what_does_not_fit_is_one_sentence():
    one = make_result(0.0, 1)
    with pytest.raises(BadInput, match="must be a number of degrees for each of 1 results"):
        gather_projections([one], [0.0, 1.0])
    with pytest.raises(BadInput, match="result 1 has other pixels than the first one"):
        gather_projections([one, make_result(1.0, 2, pixel=(51.0, 51.0))], [0.0, 1.0])
    with pytest.raises(BadInput, match="is all that the results share"):
        gather_projections([one, make_result(1.0, 2, shift=(40.0, 0.0))], [0.0, 1.0])
    with pytest.raises(BadInput, match="take at least 2, and a third at most"):
        gather_projections([one], [0.0], air=1e5)


def test_the_verb_writes_what_a_table_names(tmp_path, phaseloom):
    for seed, angle in enumerate((0, 10)):
        make_result(float(angle), seed).save(tmp_path / f"run{angle}" / "result.h5")
    table = tmp_path / "balls.csv"
    table.write_text("# angle, run\n0, run0\n10, run10/result.h5\n")
    ended = phaseloom("projections", table, tmp_path / "out.nxs", "--air", "30 nm")
    assert not ended.code, ended.err
    assert "2 projections of 48 x 80 pixels" in ended.out
    table.write_text("0 run0\n")
    ended = phaseloom("projections", table, tmp_path / "other.nxs")
    assert ended.code == 2
    assert "line 1: 0 run0 is not 'ANGLE, RUN'" in ended.err
