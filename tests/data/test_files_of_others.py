"""What a microscopist met with files of other programs: mistakes that were silent, mended or told."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.formats.header import MissingValues
from phaseloom.data.formats.quantities.near_field import describe_near_field
from phaseloom.data.scan import Geometry
from phaseloom.errors import BadInput
from tests.data import vendor_files

PATTERNS = np.arange(12 * 8 * 6, dtype=np.uint16).reshape(12, 8, 6) % 50
KNOBS = {"energy": 200e3, "angle": 1e-3, "step": 1.2}


@pytest.mark.parametrize(("repeats", "noise"), [(1, 0.0), (2, 0.0), (2, 50.0), (3, 200.0)])
def test_places_that_are_measured_again_do_not_hide_a_near_field(repeats, noise):
    """Neighbours 5 um apart; encoders that jitter by 5 to 20 nm."""
    geometry = Geometry(wavelength=1.55, shape=(256, 256), angle=(37.5e-6, 37.5e-6), distance=2e10)
    places = np.repeat(np.indices((12, 14)).reshape(2, -1).T * 50_000.0, repeats, axis=0)
    places += np.random.default_rng(1).normal(0, noise, places.shape) if noise else 0.0
    assert describe_near_field(geometry, places) is not None


def test_a_beam_that_stood_still_does_not_hide_a_near_field():
    geometry = Geometry(wavelength=1.55, shape=(256, 256), angle=(37.5e-6, 37.5e-6), distance=2e10)
    places = np.indices((12, 14)).reshape(2, -1).T * 50_000.0
    places[60:] = places[60]
    assert describe_near_field(geometry, places) is not None


@pytest.mark.parametrize("lost", [0, 1, 5, 9])
def test_a_lost_frame_of_merlin_is_named(lost, tmp_path, caplog):
    path = tmp_path / "a.mib"
    vendor_files.write_mib(path, PATTERNS)
    size = path.stat().st_size // 12
    data = path.read_bytes()
    path.write_bytes(data[: (lost + 1) * size] + data[(lost + 2) * size :] if lost else data)
    with caplog.at_level(logging.WARNING):
        formats.read(path, knobs={**KNOBS, "grid": [1, 11 if lost else 12]})
    said = [one.getMessage() for one in caplog.records if "frames missing" in one.getMessage()]
    assert len(said) == (1 if lost else 0)
    assert not lost or f"the first with number {lost + 2}" in said[0]


def test_a_grid_that_holds_all_frames_leaves_none_for_a_flyback(tmp_path, caplog):
    header = {"Frames per Trigger (Number)": 4, "Frames in Acquisition (Number)": 12}
    path = vendor_files.write_mib(tmp_path / "a.mib", PATTERNS, hdr=header)
    scan = formats.read(path, knobs={**KNOBS, "grid": [4, 3]})
    assert scan.grid == (4, 3)
    np.testing.assert_array_equal(scan.counts[np.arange(12)], PATTERNS)
    assert "interrupted" not in caplog.text
    with_flyback = formats.read(path, knobs={**KNOBS, "flyback": 1})
    assert with_flyback.grid == (3, 3)
    np.testing.assert_array_equal(with_flyback.counts[np.arange(9)], PATTERNS[[0, 1, 2, 4, 5, 6, 8, 9, 10]])


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">f4", ">f8", ">u2"])
def test_counts_in_the_other_byte_order_are_counts(dtype, tmp_path):
    expected = PATTERNS.astype(int)
    np.save(tmp_path / "a.npy", PATTERNS.astype(dtype))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["patterns"] = PATTERNS.astype(dtype)
    for name in ("a.npy", "a.h5"):
        scan = formats.read(tmp_path / name, knobs={**KNOBS, "grid": [3, 4]})
        np.testing.assert_array_equal(scan.counts[np.arange(12)], expected)


def test_a_virtual_data_set_without_one_of_its_files_is_refused(tmp_path):
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["data"] = PATTERNS[:6]
    layout = h5py.VirtualLayout((12, 8, 6), np.uint16)
    for number, name in enumerate(("one.h5", "two.h5")):
        layout[6 * number : 6 * number + 6] = h5py.VirtualSource(name, "data", shape=(6, 8, 6))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("patterns", layout)
    with pytest.raises(BadInput, match=r"two\.h5, not there: put the files into the same folder"):
        formats.read(tmp_path / "all.h5", knobs={**KNOBS, "grid": [3, 4]})
    (tmp_path / "two.h5").write_bytes((tmp_path / "one.h5").read_bytes())
    scan = formats.read(tmp_path / "all.h5", knobs={**KNOBS, "grid": [3, 4]})
    np.testing.assert_array_equal(scan.counts[np.array([0, 6])], PATTERNS[[0, 0]])


@pytest.mark.parametrize(("units", "factor"), [("nm", 10.0), ("mm", 1e7), (None, 1.0), ("furlong", None)])
def test_positions_of_hdf5_have_the_unit_that_they_state(units, factor, tmp_path):
    rows, columns = np.indices((3, 4)).reshape(2, -1).astype(float)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["patterns"], file["y"], file["x"] = PATTERNS, rows, columns
        for name in ("y", "x") if units else ():
            file[name].attrs["units"] = units
    knobs = {"energy": 200e3, "angle": 1e-3, "positions": ["y", "x"]}
    if factor is None:
        with pytest.raises(BadInput, match="is not one unit of length: write positions_unit"):
            formats.read(tmp_path / "a.h5", knobs=knobs)
        return
    scan = formats.read(tmp_path / "a.h5", knobs=knobs)
    assert np.ptp(scan.positions, axis=0) == pytest.approx([2 * factor, 3 * factor])


def test_the_xml_of_the_same_name_is_that_of_an_empad_file(tmp_path):
    raw = np.zeros((4, 130, 128), "<f4")
    (tmp_path / "s.raw").write_bytes(raw.tobytes())
    text = (
        '<root><raw_file filename="s.raw"/><pix_x value="2"/><pix_y value="2"/>'
        "<iom_measurements><calibrated_pixelsize>{}</calibrated_pixelsize></iom_measurements></root>"
    )
    (tmp_path / "a_old.xml").write_text(text.format("2e-3"))
    (tmp_path / "b_old.xml").write_text(text.format("3e-3"))
    with pytest.raises(BadInput, match=r"a_old\.xml, b_old\.xml name it"):
        formats.read(tmp_path / "s.raw", knobs={**KNOBS, "grid": [2, 2]})
    (tmp_path / "s.xml").write_text(text.format("1e-3"))
    assert len(formats.read(tmp_path / "s.raw", knobs={**KNOBS, "grid": [2, 2]})) == 4


def test_a_mask_that_is_no_number_marks_bad_pixels(tmp_path):
    np.save(tmp_path / "a.npy", PATTERNS)
    mask = np.ones((8, 6))
    mask[2, 3] = np.nan
    np.save(tmp_path / "m.npy", mask)
    scan = formats.read(tmp_path / "a.npy", knobs={**KNOBS, "grid": [3, 4], "mask": "m.npy"})
    assert (~scan.mask).sum() == 1
    assert not scan.mask[2, 3]


def test_a_spreadsheet_with_decimal_commas_is_a_table(tmp_path):
    np.save(tmp_path / "a.npy", PATTERNS[:2])
    (tmp_path / "p.csv").write_text("y (nm);x (nm)\n0,5;1,0\n0,5;2,25\n")
    knobs = {"energy": 200e3, "angle": 1e-3, "positions": "p.csv"}
    assert formats.read(tmp_path / "a.npy", knobs=knobs).positions.tolist() == [[5.0, 10.0], [5.0, 22.5]]


def test_an_archive_of_one_array_needs_no_key(tmp_path):
    np.savez(tmp_path / "a.npz", anything=PATTERNS)
    assert len(formats.read(tmp_path / "a.npz", knobs={**KNOBS, "grid": [3, 4]})) == 12


@pytest.fixture
def bare_cxi(tmp_path) -> Path:
    """A file without energy and distance."""
    with h5py.File(tmp_path / "a.cxi", "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"] = PATTERNS
        detector["x_pixel_size"] = detector["y_pixel_size"] = 75e-6
        places = np.indices((3, 4)).reshape(2, -1).T * 1e-7
        file["entry_1/sample_1/geometry_1/translation"] = np.column_stack([places[:, ::-1], np.zeros(12)])
        file["entry_1/data_1/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")
    return tmp_path / "a.cxi"


def test_what_a_cxi_file_lacks_can_be_given(bare_cxi):
    with pytest.raises(BadInput, match=r"energy too: write energy: 8 keV|write distance: 2 m"):
        formats.read(bare_cxi, knobs={})
    scan = formats.read(bare_cxi, knobs={"energy": 8e3, "distance": 2e10, "field": "far"})
    assert scan.geometry.wavelength == pytest.approx(1.5498, rel=1e-3)
    assert scan.geometry.angle == pytest.approx((37.5e-6, 37.5e-6))


def test_an_energy_that_contradicts_the_wavelength_is_told(bare_cxi, caplog):
    with h5py.File(bare_cxi, "a") as file:
        source = file.create_group("entry_1/instrument_1/source_1")
        source["energy"], source["wavelength"] = 8e3 * 1.602176634e-19, 1e-10
        file["entry_1/instrument_1/detector_1/distance"] = 2.0
    with caplog.at_level(logging.WARNING):
        scan = formats.read(bare_cxi, knobs={"field": "far"})
    assert scan.geometry.wavelength == pytest.approx(1.0)
    assert "but the wavelength beside it is 1 A" in caplog.text


def test_a_near_field_with_jitter_in_a_file_is_asked_for(bare_cxi):
    rng = np.random.default_rng(0)
    places = np.repeat(np.indices((3, 2)).reshape(2, -1).T * 5e-6, 2, axis=0) + rng.normal(0, 5e-9, (12, 2))
    with h5py.File(bare_cxi, "a") as file:
        file["entry_1/sample_1/geometry_1/translation"][:] = np.column_stack([places[:, ::-1], np.zeros(12)])
        file["entry_1/instrument_1/detector_1/distance"] = 2.0
        file["entry_1/instrument_1/detector_1/x_pixel_size"][...] = 750e-6  # few pixels, a large detector
        file["entry_1/instrument_1/detector_1/y_pixel_size"][...] = 750e-6
    with pytest.raises(MissingValues, match="focus"):
        formats.read(bare_cxi, knobs={"energy": 8e3})


@pytest.mark.parametrize(
    ("ending", "start", "wanted"),
    [
        (".npz.bz2", b"BZh9", "is compressed: decompress it first (bunzip2 --keep a.npz.bz2)"),
        (".h5.gz", b"\x1f\x8b\x08", "is compressed: decompress it first (gunzip --keep a.h5.gz)"),
        (".pickle.lzma", b"\xfd7zXZ\x00", "is compressed: decompress it first (unxz --keep a.pickle.lzma)"),
        (".pickle", b"\x80\x04", "is a pickle, which is not opened, as it can run code: save its arrays"),
    ],
)
def test_compressed_files_and_pickles_say_what_to_do(tmp_path, ending, start, wanted):
    path = tmp_path / f"a{ending}"
    path.write_bytes(start + bytes(100))
    with pytest.raises(BadInput) as raised:
        formats.guess(path)
    assert wanted in str(raised.value)
