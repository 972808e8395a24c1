"""Transforms of a scan keep the physics: geometry, counts and probe stay one experiment."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput


def far(probe: np.ndarray) -> np.ndarray:
    """Pattern of a probe, centred, unitary."""
    axes = (-2, -1)
    wave = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes), norm="ortho"), axes)
    return (abs(wave) ** 2).sum(0)


def smooth_probe(shape: tuple[int, int]) -> np.ndarray:
    """Two modes, off centre and tilted, without symmetry, small in both spaces."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    tilt = np.exp(0.2j * (y[:, None] * 0.7 - x[None, :]))
    one = np.exp(-((y[:, None] - 0.6) ** 2 / 5 + (x[None, :] + 0.8) ** 2 / 7)) * tilt
    return np.stack([one, 0.5 * one * (y[:, None] + 0.3 * x[None, :])])


def example(shape: tuple[int, int] = (24, 25), *, near: bool = False) -> Scan4D:
    """Empty-beam patterns of the probe that is in the scan."""
    focus = 1e8 if near else None
    geometry = Geometry(wavelength=1.4, shape=shape, angle=(3e-5, 4e-5), distance=1e10, focus=focus)
    probe = smooth_probe(shape)
    pattern = (abs(probe) ** 2).sum(0) if near else far(probe)
    mask = np.ones(shape, bool)
    mask[1, 2] = False
    return Scan4D(
        counts=np.stack([pattern] * 3) * [[[1.0]], [[2.0]], [[3.0]]],
        positions=np.array([[0.3, 1.0], [2.0, 0.0], [5.0, -1.0]]),
        geometry=geometry,
        mask=mask,
        background=pattern * 0.1,
        flat=1 + 0.1 * np.random.default_rng(0).random(shape),
        probe=probe,
    )


ALL: dict[str, Callable[[Scan4D], Scan4D]] = {
    "crop": lambda scan: prepare.crop(scan, to=(20, 19)),
    "pad": lambda scan: prepare.pad(scan, to=(31, 30)),
    "bin by 2": lambda scan: prepare.bin(scan, factor=2),
    "bin by 3": lambda scan: prepare.bin(scan, factor=3),
    "flip y": lambda scan: prepare.flip(scan, axis="y"),
    "flip x": lambda scan: prepare.flip(scan, axis="x"),
    "transpose": prepare.transpose,
    "rotate": lambda scan: prepare.rotate(scan, angle=0.3),
    "scale": lambda scan: prepare.scale(scan, factor=(1.1, -1.0)),
    "mask": lambda scan: prepare.mask(scan, radius=8, beamstop=1, saturated=1e9),
    "select": lambda scan: prepare.select(scan, start=1),
    "half": lambda scan: prepare.half(scan, which=1),
    "center": prepare.center,
}
FAR_ONLY = ("center",)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(24, 25), (25, 24)])
@pytest.mark.parametrize("near", [False, True])
def test_lazy_and_loaded_patterns_agree(
    name: str, shape: tuple[int, int], near: bool, tmp_path: Path
) -> None:
    if near and name in FAR_ONLY:
        return
    scan = example(shape, near=near)
    native.write(scan, tmp_path / "a.h5")
    now, later = ALL[name](scan), ALL[name](native.read(tmp_path / "a.h5"))
    assert not isinstance(later.counts, np.ndarray)
    np.testing.assert_array_equal(now.counts[np.arange(len(now))], later.counts[np.arange(len(now))])
    assert now.counts.dtype == later.counts.dtype
    assert now.geometry == later.geometry
    assert now.geometry.near == near


@pytest.mark.parametrize("name", ["crop", "pad", "flip y", "flip x", "transpose"])
@pytest.mark.parametrize("shape", [(24, 25), (25, 24), (24, 24)])
@pytest.mark.parametrize("near", [False, True])
def test_the_probe_follows_the_pattern(name: str, shape: tuple[int, int], near: bool) -> None:
    scan = ALL[name](example(shape, near=near))
    assert scan.probe is not None
    predicted = (abs(scan.probe) ** 2).sum(0) if near else far(scan.probe)
    np.testing.assert_allclose(predicted, scan.counts[0], atol=1e-10)
    np.testing.assert_allclose(scan.background, scan.counts[0] * 0.1, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("shape", [(24, 24), (25, 27)])
@pytest.mark.parametrize("about", ["zero frequency", "detector"])
def test_a_binned_probe_predicts_the_binned_pattern(factor: int, shape: tuple[int, int], about) -> None:
    scan = prepare.bin(example(shape), factor=factor, about=about)
    assert scan.probe is not None
    predicted = far(scan.probe)
    counts = scan.counts[0]
    assert np.corrcoef(predicted.ravel(), counts.ravel())[0, 1] > 0.98
    middle = [np.average(np.arange(n), weights=predicted.sum(1 - a)) for a, n in enumerate(counts.shape)]
    wanted = [np.average(np.arange(n), weights=counts.sum(1 - a)) for a, n in enumerate(counts.shape)]
    np.testing.assert_allclose(middle, wanted, atol=0.1)


@pytest.mark.parametrize("n", range(6, 14))
@pytest.mark.parametrize("size", range(2, 14))
def test_zero_frequency_stays_in_the_middle(n: int, size: int) -> None:
    geometry = Geometry(wavelength=1.0, shape=(n, n), angle=(1e-5, 1e-5))
    counts = np.zeros((1, n, n))
    counts[0, n // 2, n // 2] = 7
    scan = Scan4D(counts=counts, positions=np.zeros((1, 2)), geometry=geometry)
    new = prepare.crop(scan, to=(size, size)) if size <= n else prepare.pad(scan, to=(size, size))
    assert new.counts[0, size // 2, size // 2] == 7
    if size <= n // 2:
        binned = prepare.bin(scan, factor=size)
        assert binned.counts[0, (n // size) // 2, (n // size) // 2] == 7
    for axis in ("y", "x"):
        assert prepare.flip(scan, axis=axis).counts[0, n // 2, n // 2] == 7


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("near", [False, True])
def test_flipping_or_transposing_twice_changes_nothing(axis, near: bool) -> None:
    scan = example(near=near)
    twice = prepare.flip(prepare.flip(scan, axis=axis), axis=axis)
    np.testing.assert_array_equal(twice.counts, scan.counts)
    np.testing.assert_array_equal(twice.mask, scan.mask)
    back = prepare.transpose(prepare.transpose(scan))
    np.testing.assert_array_equal(back.counts, scan.counts)
    assert back.geometry == scan.geometry


def test_the_object_pixel_follows_the_detector() -> None:
    scan = example((24, 24))
    y = scan.geometry.pixel[0]
    assert prepare.crop(scan, to=(12, 24)).geometry.pixel[0] == pytest.approx(2 * y)
    assert prepare.pad(scan, to=(48, 24)).geometry.pixel[0] == pytest.approx(y / 2)
    assert prepare.bin(scan, factor=2).geometry.pixel[0] == pytest.approx(y)
    near = example((24, 24), near=True)
    assert prepare.bin(near, factor=2).geometry.pixel[0] == pytest.approx(2 * near.geometry.pixel[0])
    assert prepare.crop(near, to=(12, 12)).geometry.pixel == near.geometry.pixel


def test_blocks_about_the_detector_begin_at_its_first_pixel() -> None:
    scan = example((25, 27))
    binned = prepare.bin(scan, factor=2, about="detector")
    whole = np.asarray(scan.counts)[:, :24, :26].reshape(-1, 12, 2, 13, 2).sum((2, 4))
    np.testing.assert_allclose(binned.counts, whole)


def test_binning_keeps_the_counts_even_of_bytes() -> None:
    scan = replace(example((24, 24)), counts=np.full((1, 24, 24), 255, np.uint8), positions=np.zeros((1, 2)))
    binned = prepare.bin(scan, factor=4)
    assert binned.counts[0].sum() == 255 * 24 * 24
    assert not binned.mask[0, 0]


def test_unmeasured_pixels_are_masked() -> None:
    assert prepare.pad(example(), to=(30, 30)).mask.sum() == 24 * 25 - 1


def test_a_displaced_pattern_is_centred_and_the_probe_tilted() -> None:
    scan = example((24, 24))
    probe = np.asarray(scan.probe) * np.exp(2j * np.pi * (3 * (np.arange(24) - 12) / 24))[:, None]
    counts = np.stack([far(probe)] * 3)
    moved = prepare.center(replace(scan, counts=counts, probe=probe, mask=np.ones((24, 24), bool)))
    centre = [np.average(np.arange(24), weights=moved.counts[0].sum(1 - axis)) for axis in (0, 1)]
    np.testing.assert_allclose(centre, 12, atol=0.51)
    assert moved.probe is not None
    np.testing.assert_allclose(far(moved.probe)[moved.mask], moved.counts[0][moved.mask], atol=1e-9)
    assert not moved.mask.all()


def test_halves_share_no_pattern_and_follow_the_seed() -> None:
    scan = example().select(np.array([0, 1, 2, 0, 1, 2, 0]))
    scan = replace(scan, positions=np.arange(14.0).reshape(7, 2))
    one, two = prepare.half(scan, which=0, seed=4), prepare.half(scan, which=1, seed=4)
    rows = sorted([*one.positions[:, 0], *two.positions[:, 0]])
    assert rows == scan.positions[:, 0].tolist()
    assert prepare.half(scan, which=0, seed=4).positions.tolist() == one.positions.tolist()


def test_masks_are_read_from_a_file(tmp_path: Path) -> None:
    good = np.ones((24, 25))
    good[5, 5] = 0
    np.save(tmp_path / "m.npy", good)
    assert prepare.mask(example(), path=str(tmp_path / "m.npy")).mask.sum() == 24 * 25 - 2
    assert prepare.mask(example(), saturated=float(example().counts.max())).mask.sum() == 24 * 25 - 2


REFUSED: dict[str, Callable[[Scan4D], Scan4D]] = {
    "crop larger": lambda scan: prepare.crop(scan, to=(99, 9)),
    "crop to nothing": lambda scan: prepare.crop(scan, to=(0, 9)),
    "crop to half a pixel": lambda scan: prepare.crop(scan, to=(2.5, 9)),  # type: ignore[arg-type]
    "pad smaller": lambda scan: prepare.pad(scan, to=(9, 9)),
    "bin by zero": lambda scan: prepare.bin(scan, factor=0),
    "bin by too much": lambda scan: prepare.bin(scan, factor=13),
    "bin about nothing": lambda scan: prepare.bin(scan, factor=2, about="centre"),  # pyright: ignore[reportArgumentType]
    "flip z": lambda scan: prepare.flip(scan, axis="z"),  # type: ignore[arg-type]
    "rotate without end": lambda scan: prepare.rotate(scan, angle=np.inf),
    "scale to zero": lambda scan: prepare.scale(scan, factor=0.0),
    "mask everything": lambda scan: prepare.mask(scan, radius=-1),
    "select nothing": lambda scan: prepare.select(scan, start=9),
    "select backwards": lambda scan: prepare.select(scan, every=-1),
    "a third half": lambda scan: prepare.half(scan, which=2),  # type: ignore[arg-type]
    "centre darkness": lambda scan: prepare.center(replace(scan, counts=np.zeros((3, 24, 25)))),
    "centre a hologram": lambda scan: prepare.center(example(near=True)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        REFUSED[name](example())
    assert "\n" not in str(caught.value)
