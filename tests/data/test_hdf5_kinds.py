"""Kinds of HDF5 files: written from their layouts, recognised by content, read to the same patterns."""

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.counts import load_counts
from phaseloom.data.formats.header import MissingValues
from phaseloom.data.formats.kinds import KINDS
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from tests.data import hdf5_files as files
from tests.data.hdf5_files import CASES, Case

GRID = (3, 5)
RNG = np.random.default_rng(7)
SMALL = RNG.integers(1, 60, (15, 4, 4)).astype(np.uint16)
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "2 A", "grid": list(GRID)}
IDS = [f"{case.kind}{Path(case.file).suffix}" for case in CASES]


def knobs_of(case: Case) -> dict[str, object]:
    """What a user has to state of a file."""
    return {name: KNOBS[name] for name in case.missing}


def patterns_of(scan: Scan4D) -> np.ndarray:
    return load_counts(scan.counts)


@pytest.fixture(params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    found = request.param
    found.write(tmp_path / found.file, SMALL, GRID)
    return replace(found, file=str(tmp_path / found.file))


def test_every_kind_has_a_file_here() -> None:
    assert {case.kind for case in CASES} == {kind.name for kind in KINDS}


def test_a_kind_is_recognised_and_gives_patterns_and_what_it_states(case: Case) -> None:
    scan = formats.read(case.file, knobs=knobs_of(case))
    np.testing.assert_allclose(patterns_of(scan), SMALL, rtol=1e-12)
    if case.kind != "nsls2_amplitudes":
        assert scan.counts.dtype == np.uint16
    np.testing.assert_allclose(scan.counts[np.array([14, 3, 3])], SMALL[[14, 3, 3]], rtol=1e-12)
    assert not isinstance(scan.counts, np.ndarray)
    np.testing.assert_array_equal(load_counts(pickle.loads(pickle.dumps(scan.counts))), patterns_of(scan))
    if case.energy is not None:
        assert scan.geometry.energy == pytest.approx(case.energy, rel=1e-5)
    if case.angle is not None:
        assert scan.geometry.angle == pytest.approx(case.angle, rel=1e-3)
    if case.step is not None:
        places = scan.positions.reshape(*GRID, 2)
        assert places[1, 1] - places[0, 0] == pytest.approx(case.step, rel=1e-6)
        assert places[1, 0] - places[0, 0] == pytest.approx((case.step[0], 0), abs=1e-6)
    for name, text in case.texts.items():
        assert scan.metadata[name] == text
    kind = next(kind for kind in KINDS if kind.name == case.kind)
    assert scan.metadata["kind of file"] == kind.title
    assert scan.geometry.beam == (kind.beam or "electron")


def test_what_is_missing_is_said_at_once(case: Case) -> None:
    if not case.missing:
        assert len(formats.read(case.file)) == 15
        return
    with pytest.raises(MissingValues) as caught:
        formats.read(case.file)
    assert tuple(caught.value.missing) == case.missing
    assert len(str(caught.value)) < 900


def test_knobs_win_over_the_file(case: Case) -> None:
    scan = formats.read(case.file, knobs={**KNOBS, "energy": "60 keV"})
    assert scan.geometry.energy == pytest.approx(60e3)
    assert scan.geometry.angle == pytest.approx((1e-3, 1e-3))
    assert scan.positions[6].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(3, 5), (6, 4)])
@pytest.mark.parametrize(
    "case", [CASES[0], CASES[4], CASES[6], CASES[8], CASES[9], CASES[10]], ids=lambda c: c.file
)
def test_electron_counts_of_all_types_and_shapes(
    dtype: str, shape: tuple, case: Case, tmp_path: Path
) -> None:
    patterns = RNG.integers(0, 200, (15, *shape)).astype(dtype)
    path = case.write(tmp_path / case.file, patterns, GRID)
    scan = formats.read(path, knobs=knobs_of(case))
    assert scan.counts.dtype == dtype
    np.testing.assert_array_equal(patterns_of(scan), patterns)


def test_a_detector_before_the_scan_is_put_behind_it(tmp_path: Path) -> None:
    patterns = RNG.integers(0, 200, (15, 3, 4)).astype(np.uint8)
    path = files.write_emd(tmp_path / "a.emd", patterns, GRID, flipped=True)
    scan = formats.read(path)
    np.testing.assert_array_equal(patterns_of(scan), patterns)
    assert scan.grid == GRID
    assert scan.geometry.angle == pytest.approx(files.MRAD)


@pytest.mark.parametrize("compressed", [False, True])
def test_archives_of_swift_compressed_or_not(compressed: bool, tmp_path: Path) -> None:
    path = files.write_ndata(tmp_path / "a.ndata1", SMALL, GRID, compressed=compressed)
    assert formats.guess(path) == "ndata"
    np.testing.assert_array_equal(patterns_of(formats.read(path)), SMALL)


@pytest.mark.parametrize("cut", [10, 300, 700])
def test_a_cut_archive_is_refused_in_a_sentence(cut: int, tmp_path: Path) -> None:
    path = files.write_ndata(tmp_path / "a.ndata1", SMALL, GRID)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadInput, match="is not a whole archive"):
        formats.read(path)


def test_images_of_velox_are_not_taken_for_patterns(tmp_path: Path) -> None:
    path = files.write_velox(tmp_path / "a.emd", SMALL, GRID, unit="m")
    with pytest.raises(BadInput, match="images and not diffraction patterns"):
        formats.read(path, knobs=KNOBS)


def test_topspin_files_of_several_measurements(tmp_path: Path) -> None:
    path = files.write_topspin(tmp_path / "a.app5", SMALL, GRID, session=True)
    scan = formats.read(path, knobs={"energy": "200 keV"})
    assert scan.grid == GRID
    with h5py.File(path, "a") as file:
        del file[f"0f000000-0000-0000-0000-000000000001/{files.GUID}/12"]
    assert formats.read(path, knobs={"energy": "200 keV"}).grid == (2, 5)


# Masters of DECTRIS


def test_masters_with_bitshuffle_and_lz4(tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    patterns = RNG.integers(0, 1 << 20, (15, 4, 6)).astype(np.uint32)
    path = files.write_master(tmp_path / "s_master.h5", patterns, filters=True)
    scan = formats.read(path, knobs={"grid": list(GRID), "step": "2 A"})
    assert scan.counts.dtype == np.uint32
    np.testing.assert_array_equal(patterns_of(scan), patterns)
    np.testing.assert_array_equal(np.argwhere(~scan.mask), [[0, 5]])


def test_a_missing_filter_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_master(tmp_path / "s_master.h5", SMALL, filters=True)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(BadInput, match=r"pip install 'phaseloom\[formats\]'"):
        formats.read(path, knobs=KNOBS)


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_gaps_of_a_detector_are_masked_without_a_pixel_mask(bits: int, tmp_path: Path) -> None:
    patterns = RNG.integers(0, 1000, (15, 4, 6)).astype(np.uint32)
    patterns[:, 2] = (1 << bits) - 1
    patterns[3, 0, 0] = (1 << bits) - 1
    path = files.write_master(tmp_path / "s_master.h5", patterns, bits=bits)
    with h5py.File(path, "a") as file:
        del file["entry/instrument/detector/detectorSpecific/pixel_mask"]
    scan = formats.read(path, knobs={"grid": list(GRID), "step": "2 A"})
    np.testing.assert_array_equal(~scan.mask, (np.arange(4) == 2)[:, None] & np.ones((4, 6), bool))


def test_an_interrupted_scan_of_linked_files_has_the_rows_that_exist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.write_master(tmp_path / "s_master.h5", SMALL, per_file=4)
    (tmp_path / "s_data_000004.h5").unlink()
    with caplog.at_level(logging.WARNING):
        scan = formats.read(path, knobs={"grid": list(GRID), "step": "2 A"})
    assert scan.grid == (2, 5)
    np.testing.assert_array_equal(patterns_of(scan), SMALL[:10])
    assert "data_000004 links to /entry/data/data in s_data_000004.h5, which is not there" in caplog.text
    assert "2 whole rows are used" in caplog.text
    setup = scan.metadata["setup"]
    assert "grid: [3, 5]" in setup
    assert "selection" not in setup
    (tmp_path / "s_data_000002.h5").write_bytes(b"\x89HDF\r\n\x1a\n cut")
    np.savetxt(tmp_path / "places.csv", np.zeros((4, 2)), delimiter=",")
    scan = formats.read(path, knobs={"positions": "places.csv"})
    np.testing.assert_array_equal(patterns_of(scan), SMALL[:4])
    (tmp_path / "s_data_000001.h5").unlink()
    with pytest.raises(BadInput, match=r"links to /entry/data/data in s_data_000001.h5, .* copy it beside"):
        formats.read(path, knobs=KNOBS)


def test_linked_files_of_different_shapes_are_refused(tmp_path: Path) -> None:
    path = files.write_master(tmp_path / "s_master.h5", SMALL)
    with h5py.File(tmp_path / "s_data_000002.h5", "w") as file:
        file["entry/data/data"] = np.zeros((4, 5, 4), np.uint16)
    with pytest.raises(BadInput, match=r"data_000002: has patterns of \(5, 4\)"):
        formats.read(path, knobs=KNOBS)


def test_pixels_that_are_not_square_give_two_angles(tmp_path: Path) -> None:
    path = files.write_master(tmp_path / "s_master.h5", SMALL)
    with h5py.File(path, "a") as file:
        file["entry/instrument/detector/x_pixel_size"][()] = 150e-6
    scan = formats.read(path, knobs={"grid": list(GRID), "step": "2 A"})
    assert scan.geometry.angle == pytest.approx((37.5e-6, 75e-6))
    assert scan.geometry.distance == pytest.approx(2e10)


# Values that cannot be


@pytest.mark.parametrize(
    ("value", "units", "energy"),
    [
        (8.8, None, 8800.0),
        (8800.0, None, 8800.0),
        (8.8, "keV", 8800.0),
        (8.8, "eV", 8.8),
        (1.41e-15, "J", 8800.0),
        (1.41e-15, None, 8800.0),
        (-8.8, "keV", 8800.0),
        (1e9, "keV", None),
        (8.8, "furlong", None),
        (np.nan, "keV", None),
        (0.0, None, None),
    ],
)
def test_energies_are_plausible_or_asked_for(
    value: float, units: str | None, energy: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.write_nanomax(tmp_path / "a.h5", SMALL, GRID)
    with h5py.File(path, "a") as file:
        data = file["entry/snapshots/pre_scan/energy"]
        data[()] = value
        if units:
            data.attrs["units"] = units
    if energy is not None:
        scan = formats.read(path, knobs={"angle": "0.04 mrad"})
        assert scan.geometry.energy == pytest.approx(energy, rel=1e-2)
        return
    with caplog.at_level(logging.WARNING), pytest.raises(MissingValues) as caught:
        formats.read(path, knobs={"angle": "0.04 mrad"})
    assert list(caught.value.missing) == ["energy"]
    assert value == 0 or np.isnan(value) or "is not" in caplog.text


def test_an_energy_of_electrons_without_a_unit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = files.write_arina(tmp_path / "s_master.h5", SMALL, GRID)
    with h5py.File(path, "a") as file:
        energy = file["entry/instrument/detector/detectorSpecific/photon_energy"]
        energy[()] = 200.0
        del energy.attrs["units"]
    with caplog.at_level(logging.WARNING):
        scan = formats.read(path, knobs={name: KNOBS[name] for name in ("angle", "grid", "step")})
    assert scan.geometry.energy == pytest.approx(200e3)
    assert "200 without a unit is taken as 200000 eV" in caplog.text


def test_a_broken_link_is_a_sentence(tmp_path: Path) -> None:
    path = files.write_nanomax(tmp_path / "a.h5", SMALL, GRID)
    with h5py.File(path, "a") as file:
        del file["entry/measurement/pseudo/y"]
        file["entry/measurement/pseudo/y"] = h5py.ExternalLink("motors.h5", "/y")
    with pytest.raises(BadInput, match=r"pseudo/y: is a link to /y in motors.h5, which is missing here"):
        formats.read(path, knobs=KNOBS)


def test_numbers_of_any_other_file_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(15 * 16 * 2))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "dp", (15, 4, 4), "u2", external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        )
    with pytest.raises(BadInput, match=r"keeps its numbers in .*secret, which is not HDF5"):
        formats.read(tmp_path / "a.h5", knobs=KNOBS)


def test_a_table_that_declares_billions_of_numbers_is_not_read(tmp_path: Path) -> None:
    path = files.write_nanomax(tmp_path / "a.h5", SMALL, GRID)
    with h5py.File(path, "a") as file:
        del file["entry/measurement/pseudo/y"]
        file.create_dataset("entry/measurement/pseudo/y", (1000, 1000, 1000), "f4", chunks=(1, 1000, 1000))
    with pytest.raises(BadInput, match="is not plausible: positions and masks"):
        formats.read(path, knobs=KNOBS)


def test_more_positions_than_patterns_are_cut_and_fewer_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.write_ptylab(tmp_path / "a.h5", SMALL, GRID)
    with h5py.File(path, "a") as file:
        places = file["encoder"][()]
        del file["encoder"]
        file["encoder"] = np.vstack([places, places])
    assert len(formats.read(path)) == 15
    assert "interrupted scan" in caplog.text
    with h5py.File(path, "a") as file:
        del file["encoder"]
        file["encoder"] = places[:7]
    with pytest.raises(BadInput, match="7 rows but there are 15 patterns"):
        formats.read(path)


def test_a_kind_can_be_chosen_or_switched_off(tmp_path: Path) -> None:
    path = files.write_hspy(tmp_path / "a.h5", SMALL, GRID)
    with pytest.raises(MissingValues):
        formats.read(path, knobs={"kind": "none"})
    with pytest.raises(BadInput, match="kind: hyperspy is not a kind of file"):
        formats.read(path, knobs={"kind": "hyperspy"})
    with pytest.raises(BadInput, match="has no patterns where NSLS-II"):
        formats.read(path, knobs={"kind": "nsls2"})


def test_a_file_that_no_kind_knows_stays_plain(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mine"] = SMALL.reshape(*GRID, 4, 4)
        file["mine"].attrs["operator"] = "A. Person"
    scan = formats.read(tmp_path / "a.h5", knobs={name: KNOBS[name] for name in ("energy", "angle", "step")})
    assert scan.metadata["original header"] == "mine@operator: A. Person"
    assert "kind of file" not in scan.metadata


def test_a_near_field_of_ptypy_asks_for_its_focus(tmp_path: Path) -> None:
    path = files.write_ptyd(tmp_path / "a.ptyd", np.ones((15, 4, 4)), (3, 5), propagation="nearfield")
    with pytest.raises(MissingValues, match="near fields, by a mark in the file"):
        formats.read(path)
    assert formats.read(path, knobs={"focus": "inf"}).geometry.near


@pytest.mark.parametrize("name", ["a.hspy", "a.emd", "a.h5", "a.npy"])
def test_of_a_time_series_the_selection_of_one_time_is_a_scan(name, tmp_path):
    series = np.random.default_rng(0).integers(0, 99, (5, 3, 4, 8, 6)).astype(np.uint16)
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, series)
    else:
        with h5py.File(path, "w") as file:
            write_series(file, name, series)
    knobs = {"energy": "200 keV", "angle": "1 mrad", "step": "1 nm"}
    knobs = {"energy": "200 keV"} if name in ("a.hspy", "a.emd") else knobs
    with pytest.raises(BadInput, match=r"shape \(5, 3, 4, 8, 6\) has 5 axes.*selection: '0:1, :, :, :, :'"):
        formats.read(path, knobs=knobs)
    scan = formats.read(path, knobs={**knobs, "selection": "2:3"})
    assert scan.grid == (3, 4)
    np.testing.assert_array_equal(scan.counts[np.arange(12)], series[2].reshape(12, 8, 6))
    assert scan.positions[-1].tolist() == pytest.approx([20, 30])
    assert scan.geometry.angle == pytest.approx((1e-3, 1e-3))
    with pytest.raises(BadInput, match=r"shape \(3, 3, 4, 8, 6\) has 5 axes"):
        formats.read(path, knobs={**knobs, "selection": "1:4"})


def write_series(file: h5py.File, name: str, series: np.ndarray) -> None:
    """Five axes as HyperSpy, NCEM's programs, or nobody describes them."""
    axes = [(2.0, "s"), (1.0, "nm"), (1.0, "nm"), (1.0, "mrad"), (1.0, "mrad")]
    if name == "a.h5":
        file["series"] = series
        return
    if name == "a.emd":
        group = file.create_group("data/series")
        group.attrs["emd_group_type"] = 1
        group["data"] = series
        for number, (step, units) in enumerate(axes, 1):
            group[f"dim{number}"] = np.arange(series.shape[number - 1]) * step
            group[f"dim{number}"].attrs["units"] = units
        return
    file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
    group = file.create_group("Experiments/series")
    group["data"] = series
    for number, (step, units) in enumerate(axes):
        axis = group.create_group(f"axis-{number}")
        axis.attrs["scale"], axis.attrs["units"], axis.attrs["navigate"] = step, units, number < 3
