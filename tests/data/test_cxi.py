"""CXI files keep what was measured, there and back, for photons, electrons and near fields."""

import logging
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom import samples
from phaseloom.data import formats
from phaseloom.data.formats import cxi, native
from phaseloom.data.scan import Geometry, Scan4D

RNG = np.random.default_rng(5)
DETECTOR = "entry_1/instrument_1/detector_1"


def full_scan(**changes: object) -> Scan4D:
    geometry = Geometry(wavelength=1.41, shape=(7, 8), angle=(4e-5, 3e-5), distance=1.92e10)
    mask = np.ones((7, 8), bool)
    mask[2, 3] = False
    scan = Scan4D(
        counts=RNG.poisson(5.0, (6, 7, 8)).astype(np.uint16),
        positions=RNG.normal(0, 1e4, (6, 2)),
        geometry=geometry,
        mask=mask,
        background=RNG.random((7, 8)),
        flat=RNG.random((7, 8)) + 0.5,
        weights=RNG.random(6) + 0.5,
        heights=RNG.normal(0, 1e5, 6),
        probe=RNG.normal(size=(2, 7, 8)) + 1j * RNG.normal(size=(2, 7, 8)),
        grid=(2, 3),
        metadata={"title": "Siemens star", "sample": "gold"},
    )
    return replace(scan, **changes)  # type: ignore[arg-type]


def electrons() -> Geometry:
    return Geometry(wavelength=0.0418, shape=(7, 8), angle=(1e-3, 2e-3), beam="electron")


GEOMETRIES = {
    "far field": full_scan().geometry,
    "electrons": electrons(),
    "near field": replace(full_scan().geometry, focus=3.65e7),
    "parallel beam": replace(full_scan().geometry, focus=np.inf),
    "detector turned": replace(full_scan().geometry, basis=((0.6, 0.8), (-0.8, 0.6), (0.0, 0.0))),
}


def same(one: Scan4D, two: Scan4D) -> None:
    for name in ("mask", "background", "flat", "weights", "probe"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.counts[np.arange(6)], two.counts[np.arange(6)])
    assert one.counts.dtype == two.counts.dtype
    np.testing.assert_allclose(two.positions, one.positions, rtol=1e-6)
    np.testing.assert_allclose(two.heights, one.heights, rtol=1e-6)  # type: ignore[arg-type]
    assert (one.grid, one.oriented, one.metadata) == (two.grid, two.oriented, two.metadata)


@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_cxi_file_gives_back_what_was_written(kind: str, lazy: bool, tmp_path: Path) -> None:
    scan = full_scan(geometry=GEOMETRIES[kind], oriented=False)
    cxi.write(scan, tmp_path / "a.cxi")
    back = cxi.read(tmp_path / "a.cxi", lazy=lazy)
    same(scan, back)
    assert isinstance(back.counts, np.ndarray) is not lazy
    one, two = scan.geometry, back.geometry
    assert (one.beam, one.shape, one.near) == (two.beam, two.shape, two.near)
    np.testing.assert_allclose([two.wavelength, *two.angle], [one.wavelength, *one.angle], rtol=1e-6)
    np.testing.assert_allclose(two.basis, one.basis, atol=1e-12)
    assert two.distance == (None if one.distance is None else pytest.approx(one.distance))
    assert two.focus == (None if one.focus is None else pytest.approx(one.focus))


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_our_own_file_loses_nothing(kind: str, tmp_path: Path) -> None:
    scan = full_scan(geometry=GEOMETRIES[kind])
    native.write(scan, tmp_path / "a.h5")
    back = formats.read(tmp_path / "a.h5")
    same(scan, back)
    assert scan.geometry == back.geometry
    assert not isinstance(back.counts, np.ndarray)
    assert scan.digest() == back.digest()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    cxi.write(full_scan(), tmp_path / "a.cxi")
    with pytest.raises(TypeError):
        cxi.write(full_scan(background=np.full((7, 8), None)), tmp_path / "a.cxi")
    assert len(cxi.read(tmp_path / "a.cxi")) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["a.cxi"]


def test_others_find_what_they_expect(tmp_path: Path) -> None:
    scan = full_scan()
    cxi.write(scan, tmp_path / "a.cxi")
    with h5py.File(tmp_path / "a.cxi") as file:
        assert file["cxi_version"][()] == 160
        entry, detector = file["entry_1"], file[DETECTOR]
        assert entry["instrument_1/source_1/wavelength"][()] == pytest.approx(1.41e-10)
        assert entry["instrument_1/source_1/energy"][()] == pytest.approx(1.98644586e-25 / 1.41e-10)
        assert detector["data"].attrs["axes"] == "translation:y:x"
        assert detector["data"].compression == "gzip"
        assert detector["mask"].dtype == np.uint32
        assert detector["mask"][2, 3] == 1
        assert detector["x_pixel_size"][()] == pytest.approx(3e-5 * 1.92)
        np.testing.assert_allclose(detector["basis_vectors"][:, 0], [0, -4e-5 * 1.92, 0])
        assert entry["data_1"].get("data", getlink=True).path == f"/{DETECTOR}/data"
        # the sample moves against the beam, and rows of the object run against laboratory y
        np.testing.assert_allclose(entry["data_1/translation"][:, 1], scan.positions[:, 0] * 1e-10)
        np.testing.assert_allclose(entry["data_1/translation"][:, 0], scan.positions[:, 1] * 1e-10)
        np.testing.assert_allclose(entry["data_1/translation"][:, 2], -scan.heights * 1e-10)


def test_a_real_near_field_scan_has_its_published_magnification() -> None:
    sample = samples.near_field()
    scan = cxi.read(sample, focus=3.65e7)
    assert scan.counts.shape == (200, 100, 100)
    assert scan.geometry.pixel[0] == pytest.approx(55e4 / (1 + 1.12 / 3.65e-3), rel=1e-5)
    assert scan.geometry.magnification == pytest.approx(307.8, abs=0.1)
    assert scan.geometry.energy == pytest.approx(12658, abs=1)
    assert int((~scan.mask).sum()) == 5
    assert scan.heights is None


def rewritten(tmp_path: Path, **members: object) -> Path:
    """A written file whose detector has other members."""
    plain = full_scan(background=None, flat=None, weights=None, heights=None, probe=None)
    cxi.write(plain, tmp_path / "a.cxi")
    with h5py.File(tmp_path / "a.cxi", "a") as file:
        for name, value in members.items():
            if name in file[DETECTOR]:
                del file[DETECTOR][name]
            file[DETECTOR][name] = value
    return tmp_path / "a.cxi"


def test_pixels_that_are_not_a_number_are_masked_and_empty(tmp_path: Path, caplog) -> None:
    data = np.ones((6, 7, 8), np.float32)
    data[3, 1, 1], data[2, 4, 4] = np.nan, -3
    path = rewritten(tmp_path, data=data)
    for lazy in (False, True):
        with caplog.at_level(logging.WARNING):
            scan = cxi.read(path, lazy=lazy)
        counts = scan.counts[np.arange(6)]
        assert not scan.mask[1, 1]
        assert scan.mask[4, 4]
        assert (counts[3, 1, 1], counts[2, 4, 4], counts.sum()) == (0, 0, 6 * 56 - 2)
    assert "negative" in caplog.text
    assert "not finite" in caplog.text


@pytest.mark.parametrize(("dtype", "marker"), [(np.int32, -1), (np.uint32, 2**32 - 1)])
def test_a_detectors_mark_for_no_value_is_masked(dtype: type, marker: int, tmp_path: Path) -> None:
    data = np.ones((6, 7, 8), dtype)
    data[:, 0, 5] = marker
    scan = cxi.read(rewritten(tmp_path, data=data))
    assert not scan.mask[0, 5]
    assert scan.mask.sum() == 54


def test_dark_patterns_are_averaged_without_their_gaps(tmp_path: Path) -> None:
    dark = np.stack([np.full((7, 8), 1.0), np.full((7, 8), 3.0)])
    dark[0, 0, 0] = np.nan
    background = cxi.read(rewritten(tmp_path, data_dark=dark)).background
    assert background is not None
    assert (background[0, 0], background[1, 1]) == (3, 2)


def test_intensities_become_relative_weights(tmp_path: Path) -> None:
    weights = cxi.read(rewritten(tmp_path, intensities=np.arange(1.0, 7) * 1e9)).weights
    np.testing.assert_allclose(weights, np.arange(1, 7) / 3.5)


def test_the_second_entry_is_another_scan(tmp_path: Path) -> None:
    path = rewritten(tmp_path)
    with h5py.File(path, "a") as file:
        file.copy("entry_1", "entry_2")
        file["entry_2/instrument_1/source_1/wavelength"][()] = 2e-10
    assert cxi.read(path, entry=2).geometry.wavelength == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["illumination", "probe", "data_illumination"])
def test_a_probe_of_the_windows_size_is_taken(name: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path)
    with h5py.File(path, "a") as file:
        file[f"entry_1/instrument_1/source_1/{name}"] = np.full((7, 8), 1j, np.complex64)
    probe = cxi.read(path).probe
    assert probe is not None
    assert probe.shape == (1, 7, 8)
    assert cxi.read(path, probe=False).probe is None


def test_a_probe_of_another_size_is_left(tmp_path: Path) -> None:
    path = rewritten(tmp_path)
    with h5py.File(path, "a") as file:
        file["entry_1/instrument_1/source_1/probe"] = np.ones((9, 9), np.complex64)
    assert cxi.read(path).probe is None
