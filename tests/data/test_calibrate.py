"""The bright-field disk is found to a tenth of a pixel, and the error is as large as told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import erfc

from phaseloom import read
from phaseloom.data import calibrate, prepare
from phaseloom.data.calibrate import Disk, fit_disk, half_maximum_radius
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput

OVER = 4


def disk(
    shape: tuple[int, int],
    radius: float,
    centre: tuple[float, float],
    *,
    blur: float = 0.6,
    ellipse: tuple[float, float] = (0.0, 0.0),
    texture: float = 0.0,
    tails: float = 0.03,
    spots: float = 0.0,
    dose: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """A mean pattern with a disk of known radius: textured inside, with tails and faint disks around it."""
    rng = np.random.default_rng(seed)
    y, x = ((np.arange(n * OVER) + 0.5) / OVER - 0.5 - c for n, c in zip(shape, centre, strict=True))
    y, x = y[:, None], x[None]
    away = np.hypot(y, x) + 1e-9
    edge = radius * (1 + (ellipse[0] * (y**2 - x**2) + ellipse[1] * 2 * x * y) / away**2)
    image = np.where(away < edge, 1.0, 0.0)
    waves = [(rng.normal(0, 2.5 / radius, 2), rng.uniform(0, 2 * np.pi)) for _ in range(12)]
    rough = sum(np.cos(q[0] * y + q[1] * x + phase) for q, phase in waves)
    image = image * (1 + texture * rough / np.sqrt(6)) + tails * np.exp(-away / (2 * radius))
    for turn in np.arange(6) * np.pi / 3 + 0.3:
        place = 2.6 * radius * np.array([np.cos(turn), np.sin(turn)])
        image = image + spots * (np.hypot(y - place[0], x - place[1]) < radius)
    image = image.reshape(shape[0], OVER, shape[1], OVER).mean((1, 3))
    image = np.clip(gaussian_filter(image, blur), 0, None)
    return image if dose is None else rng.poisson(image / image.sum() * dose).astype(float)


CASES: dict[str, dict] = {
    "clean": {"dose": 1e5},
    "textured": {"dose": 1e6, "texture": 0.15},
    "crystal": {"dose": 1e5, "texture": 0.15, "spots": 0.06},
    "sharp": {"dose": 1e5, "blur": 0.01, "tails": 0.0},
    "blurred": {"dose": 1e6, "blur": 1.0},
}


def found(case: str, radius: float, number: int) -> tuple[Disk, float, np.ndarray]:
    rng = np.random.default_rng(number)
    centre = 33 + rng.uniform(-4, 4, 2)
    true = radius + rng.uniform(-0.5, 0.5)
    image = disk((67, 66), true, tuple(centre), seed=number, **CASES[case])
    return fit_disk(image), true, centre


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("radius", [9.0, 17.0])
def test_the_radius_is_found_and_its_error_is_honest(case: str, radius: float) -> None:
    results = [found(case, radius, number) for number in range(8)]
    errors = np.array([disk.radius - true for disk, true, _ in results])
    told = np.array([disk.radius_error for disk, _, _ in results])
    assert abs(errors).max() < 0.1
    assert (abs(errors) < 2.5 * told).mean() >= 0.75
    assert told.max() < 0.15
    away = [np.hypot(*(np.array(disk.centre) - centre)) for disk, _, centre in results]
    assert max(away) < 0.3


@pytest.mark.medium
def test_told_errors_cover_the_truth_as_often_as_they_should() -> None:
    results = [found(case, 12.0, 100 + number) for case in ("clean", "crystal") for number in range(20)]
    pull = np.array([(disk.radius - true) / disk.radius_error for disk, true, _ in results])
    assert 0.6 < np.sqrt((pull**2).mean()) < 1.6
    assert (abs(pull) < 2).mean() > 0.8
    assert (abs(pull) < 1).mean() < 0.95


def soft_disk(true: float, centre: np.ndarray, soft: float, rng: np.random.Generator) -> np.ndarray:
    """What pixels count of a disk whose edge falls off along the radius, half of it at the radius."""
    y, x = (np.indices((48 * OVER, 48 * OVER)) + 0.5) / OVER - 0.5
    edge = 0.5 * erfc((np.hypot(y - centre[0], x - centre[1]) - true) / (soft * np.sqrt(2)))
    image = edge.reshape(48, OVER, 48, OVER).mean((1, 3))
    return rng.poisson(1e4 * image).astype(float)


def test_told_errors_cover_an_aperture_with_a_soft_edge() -> None:
    """It does not move as the rim of a blurred disk does, and no pattern tells which it is."""
    pulls, told = [], []
    for number in range(16):
        rng = np.random.default_rng(number)
        true, soft = rng.uniform(5, 18), rng.uniform(0.2, 1.2)
        fit = fit_disk(soft_disk(true, 23.5 + rng.uniform(-2, 2, 2), soft, rng))
        pulls.append(abs(fit.radius - true) / fit.radius_error)
        told.append(fit.radius_error)
    assert (np.array(pulls) < 2).mean() >= 0.9
    assert np.median(told) < 0.06


def test_the_fit_is_far_better_than_the_area_above_half_the_maximum() -> None:
    results = [found("crystal", 17.0, number) for number in range(6)]
    images = []
    for number, (_, true, centre) in enumerate(results):
        images.append(
            half_maximum_radius(disk((67, 66), true, tuple(centre), seed=number, **CASES["crystal"]))
        )
    area = np.sqrt(np.mean([(r - true) ** 2 for r, (_, true, _) in zip(images, results, strict=True)]))
    fit = np.sqrt(np.mean([(disk.radius - true) ** 2 for disk, true, _ in results]))
    assert fit < 0.1
    assert fit < area / 5


@pytest.mark.parametrize("ellipse", [(0.03, 0.0), (-0.03, 0.0), (0.0, 0.04), (0.02, -0.02)])
def test_an_ellipse_is_told_from_a_circle(ellipse: tuple[float, float]) -> None:
    result = fit_disk(disk((70, 71), 18.3, (33.2, 36.9), ellipse=ellipse, dose=1e6, texture=0.05))
    size = float(np.hypot(*ellipse))
    assert result.distortion == pytest.approx(size, abs=max(0.004, 3 * result.distortion_error))
    turn = (result.axis - 0.5 * np.arctan2(ellipse[1], ellipse[0]) + np.pi / 2) % np.pi - np.pi / 2
    assert abs(turn) < 0.1
    assert result.radius == pytest.approx(18.3, abs=0.1)


def test_masked_pixels_do_not_matter() -> None:
    image = disk((64, 64), 14.4, (30.3, 33.1), dose=1e6, texture=0.1)
    mask = np.ones((64, 64), bool)
    mask[28:34], mask[:, 40] = False, False
    broken = np.where(mask, image, 1e9)
    broken[5, 5], mask[5, 5] = np.nan, False
    assert fit_disk(broken, mask=mask).radius == pytest.approx(14.4, abs=0.1)


def geometry(shape: tuple[int, int] = (64, 64), **more) -> Geometry:
    return Geometry(wavelength=0.0197, shape=shape, angle=(1e-3, 1e-3), beam="electron", **more)


def scan(shape: tuple[int, int] = (64, 64), **more) -> Scan4D:
    rng = np.random.default_rng(0)
    mean = disk(shape, 14.4, (30.3, 33.1), texture=0.1)
    counts = rng.poisson(mean * 40, (30, *shape)).astype(np.uint16)
    return Scan4D(counts=counts, positions=rng.random((30, 2)), geometry=geometry(shape, **more))


def test_a_scan_is_calibrated_by_its_disk() -> None:
    before = scan(distance=1e10)
    after = prepare.calibrate(before, semiangle=25e-3)
    assert after.geometry.angle[0] == pytest.approx(25e-3 / 14.4, rel=0.01)
    assert after.geometry.detector_pixel == pytest.approx(before.geometry.detector_pixel)
    assert "bright-field disk of 14." in after.metadata["calibration"]
    np.testing.assert_array_equal(after.counts, before.counts)
    np.testing.assert_array_equal(after.positions, before.positions)
    area = prepare.calibrate(before, semiangle=25e-3, by="half maximum area")
    assert area.geometry.angle[0] == pytest.approx(25e-3 / 14.4, rel=0.1)


def test_every_way_to_say_the_calibration_agrees() -> None:
    before = scan((64, 48))
    truth = prepare.calibrate(before, angle=1.7e-3)
    wavelength, semiangle = 0.0197, 24e-3
    assert truth.geometry.angle == (1.7e-3, 1.7e-3)
    by = {
        "frequency": prepare.calibrate(before, frequency=1.7e-3 / wavelength),
        "radius": prepare.calibrate(before, radius=semiangle / 1.7e-3, semiangle=semiangle),
    }
    for name, other in by.items():
        assert other.geometry.angle == pytest.approx(truth.geometry.angle), name
    square = scan((64, 64))
    truth = prepare.calibrate(square, angle=1.7e-3)
    by = {
        "pixel": prepare.calibrate(square, pixel=truth.geometry.pixel[0]),
        "highest": prepare.calibrate(square, highest=1 / (2 * truth.geometry.pixel[0])),
        "maximum": prepare.calibrate(square, maximum=32 * 1.7e-3),
        "semiangles": prepare.calibrate(square, semiangles=32 * 1.7e-3 / semiangle, semiangle=semiangle),
    }
    for name, other in by.items():
        assert other.geometry.angle == pytest.approx(truth.geometry.angle), name
    oblong = prepare.calibrate(before, pixel=0.2)
    assert oblong.geometry.pixel == pytest.approx((0.2, 0.2))


def test_a_calibration_of_lazy_patterns_reads_no_more_than_the_mean(tmp_path) -> None:
    from phaseloom.data.formats import native

    native.write(scan(), tmp_path / "a.h5")
    later = prepare.calibrate(native.read(tmp_path / "a.h5"), semiangle=25e-3)
    assert not isinstance(later.counts, np.ndarray)
    assert later.geometry == prepare.calibrate(scan(), semiangle=25e-3).geometry


REFUSED = {
    "nothing said": {},
    "two numbers": {"pixel": 0.2, "angle": 1e-3},
    "a negative pixel": {"pixel": -0.2},
    "an infinite angle": {"angle": np.inf},
    "a radius without a semiangle": {"radius": 12.0},
    "semiangles without a semiangle": {"semiangles": 2.0},
    "a semiangle of zero": {"semiangle": 0.0},
    "an unknown way": {"semiangle": 1e-3, "by": "eye"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="calibrate"):
        prepare.calibrate(scan(), **REFUSED[name])


def disk_file(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npy"
    mean = disk((48, 44), 11.3, (23.4, 21.7), dose=3e5)
    np.save(path, np.random.default_rng(2).poisson(np.tile(mean / 30, (30, 1, 1)).reshape(5, 6, 48, 44)))
    return path


def test_a_file_without_the_angle_of_a_pixel_takes_it_from_the_semiangle(tmp_path: Path) -> None:
    """As `docs/howto-missing-metadata.md` promises; before, the angle was asked for all the same."""
    knobs = {"energy": "80 keV", "step": "0.4 A", "semiangle": "22 mrad"}
    found = read(disk_file(tmp_path), knobs=knobs)
    assert found.geometry.angle == pytest.approx((22e-3 / 11.3,) * 2, rel=0.005)
    said = found.metadata["detector pixel"]
    assert "semiangle 22 mrad" in said
    assert "pixels" in said
    assert "semiangle: 22 mrad" in found.metadata["setup"]
    assert "angle: 1." not in found.metadata["setup"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"angle": "1 mrad"}, "semiangle: 22 mrad gives the angle of a pixel, and so does angle"),
        ({"pixel": "0.2 A"}, "so does pixel"),
        ({"distance": "1 m", "detector_pixel": "55 um"}, "so does detector_pixel"),
        ({"focus": "1 mm"}, "cannot define a near field"),
        ({"semiangle": "-2 mrad"}, "must be a positive number"),
    ],
)
def test_a_semiangle_beside_another_sampling_is_refused(tmp_path: Path, more: dict, reason: str) -> None:
    knobs = {"energy": "80 keV", "step": "0.4 A", "semiangle": "22 mrad"} | more
    with pytest.raises(BadInput, match=reason):
        read(disk_file(tmp_path), knobs=knobs)


def test_a_semiangle_without_a_disk_is_refused_with_what_to_give(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones((3, 3, 40, 40)))
    knobs = {"energy": "80 keV", "step": "0.4 A", "semiangle": "22 mrad"}
    with pytest.raises(BadInput, match=r"flat.npy: semiangle: 22 mrad .*give the angle of a pixel instead"):
        read(tmp_path / "flat.npy", knobs=knobs)


NO_DISKS = {
    "darkness": np.zeros((40, 40)),
    "an even ground": np.ones((40, 40)),
    "noise": np.random.default_rng(0).poisson(5.0, (40, 40)).astype(float),
    "a disk larger than the detector": disk((40, 40), 24.0, (20.0, 20.0)),
    "a disk over the edge": disk((40, 40), 12.0, (4.0, 20.0)),
    "a gentle hill": np.exp(-np.hypot(*(np.indices((60, 60)) - 30.0)) / 8),
    "a cone": np.maximum(0, 1 - np.hypot(*(np.indices((32, 32)) - 16.0)) / 12),
    "a single pixel": np.eye(40)[:, :1] @ np.eye(40)[20:21] * 100,
    "NaN": np.full((40, 40), np.nan),
}


@pytest.mark.parametrize("name", NO_DISKS)
def test_what_is_no_disk_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="disk"):
        fit_disk(NO_DISKS[name])


def test_a_hologram_has_no_disk() -> None:
    near = replace(scan(), geometry=replace(geometry(), distance=1e9, focus=1e7))
    with pytest.raises(BadInput, match="far-field"):
        prepare.calibrate(near, angle=1e-3)


def test_a_mask_around_the_detector_is_no_part_of_the_disk():
    y, x = np.indices((32, 32))
    away = np.hypot(y - 16, x - 16)
    free, ringed = (fit_disk(1.0 * (away < 6.2), mask=mask) for mask in (None, away < 10.5))
    assert abs(ringed.radius - free.radius) < 1e-6


def test_slopes_of_the_rim_are_those_of_what_it_leaves_unexplained():
    image = disk((40, 41), 9.2, (20.3, 19.5), ellipse=(0.02, -0.01), texture=0.1, dose=1e5)
    start = np.array([9.3, 20.1, 19.7, 0.01, -0.02, -0.5])
    ring = calibrate._Rim.of(image, np.ones(image.shape, bool), start)
    model = calibrate._RimModel.of(ring, start)
    slopes = model.slopes()
    for number, move in enumerate(1e-5 * np.eye(6)):
        ahead, behind = (calibrate._RimModel.of(ring, start + sign * move).rest for sign in (1, -1))
        change = (ahead - behind) / 2e-5
        assert change @ model.rest == pytest.approx(slopes[:, number] @ model.rest, rel=1e-6)  # of the loss
        seen = change - model.basis @ np.linalg.lstsq(model.basis, change, rcond=None)[0]
        np.testing.assert_allclose(slopes[:, number], seen, atol=1e-6 * np.abs(seen).max())
