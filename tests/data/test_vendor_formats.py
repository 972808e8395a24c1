"""Files of detectors and microscopes, written byte by byte from their layouts, read to the same patterns."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.counts import load_counts
from phaseloom.data.diagnostics import inspect
from phaseloom.data.formats import sidecar
from phaseloom.data.formats.header import MissingValues
from phaseloom.data.formats.setup import Setup
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from tests.data import vendor_files as files

SLOW, FAST = 3, 5
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "0.5 A"}
RNG = np.random.default_rng(7)
SMALL = RNG.integers(1, 60, (SLOW * FAST, 4, 4)).astype(np.uint16)


def patterns_of(scan: Scan4D) -> np.ndarray:
    return scan.counts[np.arange(len(scan))]


def read(path: Path, **knobs: object) -> Scan4D:
    return formats.read(path, knobs={**KNOBS, **knobs})


@pytest.mark.parametrize("name", files.WRITERS)
def test_every_format_is_recognised_and_gives_the_same_raster(name: str, tmp_path: Path) -> None:
    path = files.WRITERS[name](tmp_path, SMALL, (SLOW, FAST))
    assert formats.guess(path) == name
    grid = {"grid": [SLOW, FAST]} if name in ("seq", "timepix3") else {}
    scan = read(path, **grid)
    assert scan.grid == (SLOW, FAST)
    np.testing.assert_array_equal(patterns_of(scan)[:, :4, :4], SMALL)
    assert patterns_of(scan).sum() == SMALL.sum()
    np.testing.assert_array_equal(scan.counts[np.array([14, 3, 3])], patterns_of(scan)[[14, 3, 3]])
    assert not isinstance(scan.counts, np.ndarray)
    again = pickle.loads(pickle.dumps(scan.counts))
    np.testing.assert_array_equal(load_counts(again), load_counts(scan.counts))
    assert scan.metadata["original header"]


@pytest.mark.parametrize("name", files.WRITERS)
def test_every_format_reads_only_the_selected_part(name: str, tmp_path: Path) -> None:
    path = files.WRITERS[name](tmp_path, SMALL, (SLOW, FAST))
    grid = {"grid": [SLOW, FAST]} if name in ("seq", "timepix3") else {}
    scan = read(path, selection="1:, ::2, :3, 1:4", **grid)
    wanted = SMALL.reshape(SLOW, FAST, 4, 4)[1:, ::2, :3, 1:4]
    assert scan.grid == wanted.shape[:2]
    np.testing.assert_array_equal(patterns_of(scan), wanted.reshape(-1, 3, 3))


@pytest.mark.parametrize("name", files.WRITERS)
def test_every_format_says_all_that_is_missing_at_once(name: str, tmp_path: Path) -> None:
    path = files.WRITERS[name](tmp_path, SMALL, (SLOW, FAST))
    if name == "blockfile":
        assert formats.read(path).geometry.energy == pytest.approx(200e3)
        return
    with pytest.raises(MissingValues) as caught:
        formats.read(path)
    wanted = {"energy", "angle", "step"} - ({"energy"} if name == "tvips" else set())
    assert set(caught.value.missing) == wanted | ({"grid"} if name in ("seq", "timepix3") else set())
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("name", files.WRITERS)
def test_a_truncated_scan_is_cut_to_whole_rows_with_a_warning(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.WRITERS[name](tmp_path, SMALL, (SLOW, FAST))
    target = {
        "empad": path.with_suffix(".raw"),
        "tvips": tmp_path / "a_001.tvips",
        "raw_csr": tmp_path / "values.dat",
    }.get(name, path)
    if name == "stempy":
        pytest.skip("HDF5 files are whole or are refused")
    content = target.read_bytes()
    lost = {"timepix3": len(content) // 20 + 1, "empad": 1030}.get(name, 17)  # EMPAD: more than the footer
    target.write_bytes(content[:-lost])
    grid = {"grid": [SLOW, FAST]} if name in ("seq", "timepix3") else {}
    with caplog.at_level(logging.WARNING):
        scan = read(path, **grid)
    assert caplog.records
    assert scan.grid is not None
    rows = scan.grid[0]
    assert rows == (SLOW if name == "timepix3" else SLOW - 1)
    np.testing.assert_array_equal(patterns_of(scan)[: 2 * FAST, :4, :4], SMALL[: 2 * FAST])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("shape", [(3, 5), (4, 2)])
def test_merlin_counts_of_all_types(dtype: str, shape: tuple, tmp_path: Path) -> None:
    top = np.iinfo(dtype).max
    patterns = RNG.integers(0, top, (SLOW * FAST, *shape), dtype=dtype)
    scan = read(files.write_mib(tmp_path / "a.mib", patterns), grid=[SLOW, FAST])
    assert scan.counts.dtype == dtype
    np.testing.assert_array_equal(patterns_of(scan), patterns)
    assert scan.metadata["dwell time"] == "0.000500 s"


@pytest.mark.parametrize("bits", [1, 6, 12, 24])
@pytest.mark.parametrize(("layout", "shape"), [("1x1", (3, 128)), ("2x2", (6, 128)), ("4x1G", (3, 256))])
def test_merlin_raw_frames_of_all_depths_and_layouts(
    bits: int, layout: str, shape: tuple, tmp_path: Path
) -> None:
    patterns = RNG.integers(0, 1 << bits, (6, *shape)).astype(np.uint32)
    scan = read(files.write_raw_mib(tmp_path / "a.mib", patterns, bits, layout=layout), grid=[2, 3])
    assert scan.counts.dtype == {1: "u1", 6: "u1", 12: "u2", 24: "u4"}[bits]
    np.testing.assert_array_equal(patterns_of(scan), patterns)


def test_merlin_drops_frames_of_the_flyback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = RNG.integers(0, 99, (SLOW, FAST + 2, 3, 4)).astype(np.uint16)
    notes = {"ScanX": FAST, "ScanY": SLOW, "Frames per Trigger (Number)": FAST + 2}
    path = files.write_mib(tmp_path / "a.mib", rows.reshape(-1, 3, 4), hdr=notes)
    scan = read(path)
    assert scan.grid == (SLOW, FAST)
    np.testing.assert_array_equal(patterns_of(scan), rows[:, :FAST].reshape(-1, 3, 4))
    assert not caplog.records
    path.with_suffix(".hdr").unlink()
    np.testing.assert_array_equal(
        patterns_of(read(path, grid=[SLOW, FAST], flyback=2)), rows[:, :FAST].reshape(-1, 3, 4)
    )


def test_merlin_takes_rows_of_frames_per_trigger(tmp_path: Path) -> None:
    notes = {"Frames in Acquisition (Number)": SLOW * FAST, "Frames per Trigger (Number)": FAST}
    path = files.write_mib(tmp_path / "a.mib", SMALL, hdr=notes)
    assert read(path).grid == read(path.with_suffix(".hdr")).grid == (SLOW, FAST)


def test_merlin_adds_or_chooses_exposures(tmp_path: Path) -> None:
    frames = RNG.integers(0, 256, (SLOW, FAST, 3, 2, 4)).astype(np.uint8)
    notes = {"ScanX": FAST, "ScanY": SLOW, "Frames per Trigger (Number)": 3}
    path = files.write_mib(tmp_path / "a.mib", frames.reshape(-1, 2, 4), hdr=notes)
    scan = read(path)
    assert scan.counts.dtype == np.uint16
    np.testing.assert_array_equal(patterns_of(scan), frames.sum(2).reshape(-1, 2, 4))
    np.testing.assert_array_equal(patterns_of(read(path, exposure=1)), frames[:, :, 1].reshape(-1, 2, 4))
    with pytest.raises(BadInput, match="exposure: 3 is not there: the file holds 3 frames"):
        read(path, exposure=3)


def test_merlin_joins_files_whose_frames_continue_one_another(tmp_path: Path) -> None:
    files.write_mib(tmp_path / "s1.mib", SMALL[:8])
    files.write_mib(tmp_path / "s2.mib", SMALL[8:], first=9)
    files.write_mib(tmp_path / "s3.mib", SMALL, first=1)  # another scan
    scan = read(tmp_path / "s1.mib", grid=[SLOW, FAST])
    np.testing.assert_array_equal(patterns_of(scan), SMALL)
    np.testing.assert_array_equal(scan.counts[np.array([9, 7, 8])], SMALL[[9, 7, 8]])


OLD_XML = """<timestamp isoformat="2021-12-15T10:11:12"/><software_version>0.51 211118</software_version>
<pix_x>5</pix_x><pix_y>3</pix_y>
<scan_parameters mode="search"><scan_resolution_x>64</scan_resolution_x>
<scan_resolution_y>64</scan_resolution_y></scan_parameters>
<scan_parameters mode="acquire"><scan_resolution_x>5</scan_resolution_x>
<scan_resolution_y>3</scan_resolution_y></scan_parameters>
<iom_measurements><source.get_voltage>300000.0</source.get_voltage>
<optics.get_cameralength>0.3</optics.get_cameralength>
<calibrated_diffraction_angle>0.0005</calibrated_diffraction_angle>
<optics.get_full_scan_field_of_view>[5e-09, 6e-09]</optics.get_full_scan_field_of_view></iom_measurements>"""
NEW_XML = """<software_version>1.2.2</software_version>
<scan_parameters mode="acquire"><scan_resolution_x>5</scan_resolution_x>
<scan_resolution_y>3</scan_resolution_y></scan_parameters><iom_measurements><full_scan_field_of_view><x>3.6e-09</x><y>3.6e-09</y>
<scale_factor>0.72</scale_factor></full_scan_field_of_view><high_voltage>300000</high_voltage></iom_measurements>"""


@pytest.mark.parametrize(("inside", "step"), [(OLD_XML, (20.0, 10.0)), (NEW_XML, (10.0, 10.0))])
@pytest.mark.parametrize("opened", [".raw", ".xml"])
def test_empad_states_the_experiment_in_old_and_new_files(
    inside: str, step: tuple, opened: str, tmp_path: Path
) -> None:
    patterns = RNG.random((SLOW * FAST, 128, 128)).astype(np.float32)
    path = files.write_empad(tmp_path / "scan_x5_y3.raw", patterns, inside).with_suffix(opened)
    assert formats.guess(path) == "empad"
    scan = formats.read(path, knobs={} if inside is OLD_XML else {"angle": "0.5 mrad"})
    assert scan.grid == (SLOW, FAST)
    assert scan.geometry.energy == pytest.approx(300e3)
    assert scan.geometry.angle == pytest.approx((5e-4, 5e-4))
    assert scan.positions[FAST + 1] == pytest.approx(step)
    np.testing.assert_array_equal(patterns_of(scan), patterns)
    assert "from the file" in scan.metadata["setup"]
    assert "scan_resolution_x" in scan.metadata["original header"]


def test_empad_uses_the_share_of_the_field_that_was_scanned(tmp_path: Path) -> None:
    inside = OLD_XML.replace('mode="acquire">', 'mode="acquire"><scan_size>0.5</scan_size>')
    path = files.write_empad(tmp_path / "s.raw", np.ones((15, 128, 128)), inside)
    assert formats.read(path).positions[FAST + 1] == pytest.approx((10.0, 5.0))


def test_empad_takes_the_raster_that_fits_the_frames(tmp_path: Path) -> None:
    inside = OLD_XML.replace(">5<", ">7<").replace(">3<", ">2<")
    path = files.write_empad(tmp_path / "scan_x5_y3.raw", np.ones((15, 128, 128)), inside)
    assert formats.read(path).grid == (3, 5)


def test_empad_masks_pixels_that_are_not_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    patterns = np.ones((15, 128, 128), np.float32)
    patterns[4, 7, 9] = np.nan
    scan = formats.read(files.write_empad(tmp_path / "s.raw", patterns, OLD_XML))
    assert np.argwhere(~scan.mask).tolist() == [[7, 9]]
    assert np.isfinite(patterns_of(scan)).all()
    assert "1 pixels are not finite" in caplog.text


def test_merlin_masks_saturated_gaps(tmp_path: Path) -> None:
    patterns = SMALL.copy()
    patterns[:, 2] = 65535
    assert not read(files.write_mib(tmp_path / "a.mib", patterns), grid=[SLOW, FAST]).mask[2].any()


def test_an_empad_xml_without_its_raw_file_names_it(tmp_path: Path) -> None:
    path = files.write_empad(tmp_path / "s.raw", np.ones((15, 128, 128)), OLD_XML)
    path.with_suffix(".raw").unlink()
    with pytest.raises(BadInput, match=r"s\.xml: s\.raw is not beside it"):
        formats.read(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_block_files_state_energy_step_angle_and_raster(bits: int, tmp_path: Path) -> None:
    top = 1 << bits
    patterns = RNG.integers(0, top, (SLOW * FAST, 3, 3)).astype(np.uint16)
    patterns[:, 1, 1] = 3
    scan = formats.read(files.write_blo(tmp_path / "a.blo", patterns, (SLOW, FAST), bits=bits))
    assert scan.grid == (SLOW, FAST)
    assert scan.geometry.energy == pytest.approx(200e3)
    assert scan.positions[FAST + 1].tolist() == [20.0, 25.0]
    assert scan.geometry.angle[0] == pytest.approx(0.2 / 150)
    assert scan.metadata["scan rotation"] == "90 deg"
    assert scan.metadata["date"].startswith("2023-03-15T12:00")
    np.testing.assert_array_equal(patterns_of(scan), patterns)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("version", [1, 2])
def test_tvips_of_both_versions_in_several_files(version: int, dtype: str, tmp_path: Path) -> None:
    patterns = RNG.integers(0, 200, (SLOW * FAST, 3, 5)).astype(dtype)
    path = files.write_tvips(tmp_path / "a", patterns, version=version, split=(4, 9))
    for part in ("a_000.tvips", "a_002.tvips"):
        scan = formats.read(tmp_path / part, knobs={"angle": "1 mrad", "step": "1 A", "grid": [SLOW, FAST]})
        np.testing.assert_array_equal(patterns_of(scan), patterns)
    assert scan.geometry.energy == pytest.approx(200e3)
    assert scan.counts.dtype == dtype
    assert scan.metadata["date"].startswith("2023-11-14")
    with pytest.raises(BadInput, match="grid"):
        formats.read(path, knobs={"angle": "1 mrad", "step": "1 A"})


def test_tvips_begins_where_the_rotator_does(tmp_path: Path) -> None:
    patterns = RNG.integers(0, 200, (SLOW * FAST + 6, 3, 5)).astype(np.uint8)
    turn = np.zeros(len(patterns), int)
    turn[4:-2] = np.arange(1, SLOW * FAST + 1)
    path = files.write_tvips(tmp_path / "a", patterns, rotator=turn, split=(7,))
    with pytest.raises(MissingValues, match="the scan has 15 frames from number 4"):
        read(path)
    scan = read(path, grid=[SLOW, FAST])
    np.testing.assert_array_equal(patterns_of(scan), patterns[4:-2])
    places = np.zeros((len(patterns), 2))
    slow, fast = np.divmod(np.arange(SLOW * FAST), FAST)
    places[4:-2] = np.column_stack([fast, slow])
    scan = read(files.write_tvips(tmp_path / "b", patterns, rotator=turn, places=places))
    assert scan.grid == (SLOW, FAST)
    np.testing.assert_array_equal(patterns_of(scan), patterns[4:-2])


def test_tvips_of_a_snake_has_every_second_row_turned(tmp_path: Path) -> None:
    patterns = RNG.integers(0, 200, (SLOW, FAST, 3, 5)).astype(np.uint8)
    wound = patterns.copy()
    wound[1::2] = wound[1::2, ::-1]
    path = files.write_tvips(tmp_path / "a", wound.reshape(-1, 3, 5))
    scan = read(path, grid=[SLOW, FAST], snake=True)
    np.testing.assert_array_equal(patterns_of(scan), patterns.reshape(-1, 3, 5))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize(("version", "last"), [(3, True), (5, False)])
def test_sequences_of_all_types(dtype: str, version: int, last: bool, tmp_path: Path, caplog) -> None:
    patterns = RNG.integers(0, 200, (SLOW * FAST, 3, 5)).astype(dtype)
    path = files.write_seq(tmp_path / "a.seq", patterns, version=version, last=last)
    scan = read(path, grid=[SLOW, FAST])
    assert scan.counts.dtype == dtype
    np.testing.assert_array_equal(patterns_of(scan), patterns)
    assert not caplog.records
    assert scan.metadata["dwell time"].startswith("0.0025 s")


def test_a_sequence_takes_references_and_bad_pixels_beside_it(tmp_path: Path) -> None:
    path = files.write_seq(tmp_path / "a.seq", SMALL)
    files.write_mrc(tmp_path / "a.seq.dark.mrc", np.full((4, 4), 2.0))
    files.write_mrc(tmp_path / "a.seq.gain.mrc", np.full((4, 4), 0.5))
    (tmp_path / "a.seq.Config.Metadata.xml").write_text(
        '<C><BadPixelMap Columns="4" Rows="4"><Defect Row="3"/><Defect Columns="0-1"/>'
        '<Defect Row="1" Column="3"/></BadPixelMap><BadPixelMap Columns="8" Rows="8"/></C>'
    )
    scan = read(path, grid=[SLOW, FAST])
    assert scan.background is not None
    assert scan.flat is not None
    assert (scan.background == 2).all()
    assert (scan.flat == 2).all()
    wanted = np.ones((4, 4), bool)
    wanted[3], wanted[:, :2], wanted[1, 3] = False, False, False
    np.testing.assert_array_equal(scan.mask, wanted)
    files.write_mrc(tmp_path / "a.seq.dark.mrc", np.full((5, 4), 2.0))
    assert read(path, grid=[SLOW, FAST]).background is None


def test_frms6_is_unfolded_and_less_its_dark_frames(tmp_path: Path) -> None:
    patterns = RNG.integers(100, 4000, (SLOW * FAST, 4, 6)).astype(np.uint16)
    dark = RNG.integers(0, 40, (7, 4, 6)).astype(np.uint16)
    path = files.write_frms6(tmp_path / "a", patterns, dark=dark, grid="5x3", split=(4, 9))
    level = dark.mean(0).astype(np.float32)
    scan = read(path)
    assert scan.grid == (SLOW, FAST)
    np.testing.assert_allclose(patterns_of(scan), patterns - level)
    kept = read(tmp_path / "a_002.frms6", dark="keep")
    assert kept.counts.dtype == np.uint16
    np.testing.assert_array_equal(patterns_of(kept), patterns)
    assert kept.metadata["dwell time"] == "1000 us"


def test_frms6_of_binned_rows_has_square_pixels(tmp_path: Path) -> None:
    patterns = RNG.integers(100, 4000, (SLOW * FAST, 4, 8)).astype(np.uint16)
    path = files.write_frms6(tmp_path / "a", patterns, grid="5x3", binning=2, count=False)
    np.testing.assert_array_equal(patterns_of(read(path)), patterns.reshape(15, 4, 4, 2).sum(3))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_stempy_adds_the_frames_of_a_place(version: int, tmp_path: Path) -> None:
    patterns = RNG.integers(0, 3, (SLOW * FAST, 3, 5)).astype(np.uint16)
    patterns[6] = 0
    scan = read(files.write_stempy(tmp_path / "a.h5", patterns, (SLOW, FAST), version=version))
    assert scan.grid == (SLOW, FAST)
    assert scan.counts.dtype == np.uint8
    np.testing.assert_array_equal(patterns_of(scan), patterns)


def test_stempy_of_an_interrupted_scan_has_fewer_rows(tmp_path: Path, caplog) -> None:
    scan = read(files.write_stempy(tmp_path / "a.h5", SMALL[:10], (SLOW, FAST)))
    assert scan.grid == (2, FAST)
    assert "2 of 3 rows" in caplog.text


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4"])
def test_sparse_rows_of_all_types(dtype: str, tmp_path: Path) -> None:
    patterns = (RNG.integers(0, 4, (SLOW * FAST, 3, 5)) * 7).astype(dtype)
    scan = read(files.write_raw_csr(tmp_path / "a.toml", patterns, (SLOW, FAST)))
    assert scan.counts.dtype == dtype
    np.testing.assert_array_equal(patterns_of(scan), patterns)
    flat = read(files.write_raw_csr(tmp_path / "a.toml", patterns, (SLOW * FAST,)), grid=[FAST, SLOW])
    assert flat.grid == (FAST, SLOW)


def test_sparse_rows_do_not_lead_outside_of_their_folder(tmp_path: Path) -> None:
    path = files.write_raw_csr(tmp_path / "a.toml", SMALL, (SLOW, FAST))
    for name in ("../values.dat", "/etc/passwd"):
        path.write_text(path.read_text().replace("values.dat", name))
        with pytest.raises(BadInput, match="is not the name of a file in this folder"):
            read(path)
        path.write_text(path.read_text().replace(name, "values.dat"))


@pytest.mark.parametrize("flyback", [0, 2])
@pytest.mark.parametrize("start", [5000, (1 << 34) - 6000], ids=["plain", "over the end of the clock"])
def test_timepix3_puts_hits_into_rows_that_pulses_begin(flyback: int, start: int, tmp_path: Path) -> None:
    path = files.write_tpx3(tmp_path / "a.tpx3", SMALL, (SLOW, FAST), flyback=flyback, start=start)
    for knobs in ({"dwell": "1562.5 ns"}, {}):
        scan = read(path, grid=[SLOW, FAST], flyback=flyback, **knobs)
        np.testing.assert_array_equal(patterns_of(scan)[:, :4, :4], SMALL)
        assert scan.counts.shape == (15, 256, 256)
    assert scan.metadata["dwell time"] == "1.5625e-06 s"


@pytest.mark.parametrize(
    ("knobs", "remark"),
    [
        ({"grid": [SLOW, FAST]}, None),
        ({"grid": [SLOW, FAST], "dwell": "1562.5 ns"}, None),
        ({"grid": [SLOW + 1, FAST]}, f"has {SLOW} pulses that begin rows, but grid has {SLOW + 1} rows"),
        ({"grid": [SLOW - 1, FAST]}, f"has {SLOW} pulses that begin rows, but grid has {SLOW - 1} rows"),
        (
            {"grid": [SLOW, FAST + 2], "dwell": "1562.5 ns"},
            f"the time of {FAST} places, but grid has {FAST + 2}: check dwell, grid",
        ),
        ({"grid": [SLOW, FAST], "dwell": "300 ns"}, "check dwell, grid"),
        ({"grid": [1, SLOW * FAST], "dwell": "1562.5 ns", "sync": "none"}, None),
    ],
)
def test_timepix3_tells_a_raster_that_contradicts_its_pulses(
    knobs: dict, remark: str | None, tmp_path: Path
) -> None:
    path = files.write_tpx3(tmp_path / "a.tpx3", SMALL, (SLOW, FAST))
    remarks = read(path, **knobs).metadata.get("remarks", "")
    assert (remarks == "") if remark is None else (remark in remarks)


def test_timepix3_tells_a_lost_pulse_of_a_row(tmp_path: Path) -> None:
    path = files.write_tpx3(tmp_path / "a.tpx3", np.concatenate([SMALL, SMALL]), (2 * SLOW, FAST))
    words = np.frombuffer(path.read_bytes(), "<u8").copy()
    pulses = np.flatnonzero(words >> np.uint64(60) == 6)
    words[pulses[2]] = 0x5 << 60  # a word of another kind
    path.write_bytes(words.tobytes())
    remarks = read(path, grid=[2 * SLOW, FAST]).metadata["remarks"]
    assert f"has {2 * SLOW - 1} pulses that begin rows" in remarks
    assert "1 pulses of rows come late" in remarks


def test_timepix3_without_pulses_needs_a_dwell_time(tmp_path: Path) -> None:
    path = files.write_tpx3(tmp_path / "a.tpx3", SMALL, (SLOW, FAST), pulses=False)
    with pytest.raises(MissingValues) as caught:
        formats.read(path, knobs={"grid": [SLOW, FAST], "energy": "200 keV"})
    assert set(caught.value.missing) == {"angle", "step", "dwell"}
    scan = read(path, grid=[SLOW, FAST], dwell="1562.5 ns")
    np.testing.assert_array_equal(patterns_of(scan)[:, :4, :4], SMALL)
    assert formats.read(path, knobs={**KNOBS, "grid": [SLOW, FAST], "dwell": "1562.5 ns", "sync": "none"})


def test_timepix3_hits_of_one_electron_are_joined(tmp_path: Path) -> None:
    hits = [(100, 10, 20, 5), (110, 11, 20, 100), (115, 11, 21, 5), (120, 90, 20, 9), (700, 11, 20, 9)]
    words = [(0, files.tpx3_hit(*hit)) for hit in hits]
    (tmp_path / "a.tpx3").write_bytes(files.tpx3_chunks(words))
    knobs = {"grid": [1, 1], "dwell": "10 us", "sync": "none"}
    joined = read(tmp_path / "a.tpx3", cluster="100 ns", **knobs)
    assert {tuple(at): joined.counts[0][tuple(at)] for at in np.argwhere(joined.counts[0]).tolist()} == {
        (20, 11): 2,
        (20, 90): 1,
    }
    assert read(tmp_path / "a.tpx3", **knobs).counts[0].sum() == 5


def test_timepix3_of_four_chips_has_a_gap(tmp_path: Path) -> None:
    words = [(chip, files.tpx3_hit(100 * chip, 3, 5)) for chip in (0, 1, 2, 3)]
    (tmp_path / "a.tpx3").write_bytes(files.tpx3_chunks(words))
    scan = read(tmp_path / "a.tpx3", grid=[1, 1], dwell="10 us", sync="none")
    places = np.argwhere(scan.counts[0]).tolist()
    assert places == [[5, 3], [5, 263], [510, 252], [510, 512]]
    assert not scan.mask[256:260].any()
    assert scan.mask.sum() == 512 * 512


def test_a_fields_plan_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    path = files.write_mib(tmp_path / "a.mib", SMALL)
    with pytest.raises(BadInput, match="needs rows of 64 frames, but the file holds 15"):
        read(path, grid=[64, 64])
    with pytest.raises(BadInput, match="is not a raster"):
        read(path, grid=[-1, 5])


def test_frames_beyond_the_raster_are_left_out_with_a_warning(tmp_path: Path, caplog) -> None:
    scan = read(files.write_mib(tmp_path / "a.mib", SMALL), grid=[2, 7])
    np.testing.assert_array_equal(patterns_of(scan), SMALL[:14])
    assert "1 frames more than the raster 2x7" in caplog.text


def test_a_raster_that_cannot_hold_the_frames_is_an_error(tmp_path: Path) -> None:
    path = files.write_mib(tmp_path / "a.mib", SMALL)
    with pytest.raises(BadInput, match=r"2x5 cannot hold the 15 frames .* grid: \[3, 5\] would") as caught:
        read(path, grid=[2, FAST])
    assert "selection: '0:2'" in str(caught.value)
    scan = read(path, grid=[3, FAST], selection="0:2")
    np.testing.assert_array_equal(patterns_of(scan), SMALL[:10])
    with pytest.raises(BadInput, match=r"grid: \[3, 5\] with selection: ':, :4' .* flyback: 1"):
        read(path, grid=[3, 4])
    np.testing.assert_array_equal(patterns_of(read(path, grid=[3, 4], flyback=1))[4:8], SMALL[5:9])
    np.testing.assert_array_equal(patterns_of(read(path, grid=[3, 5], selection=":, :4"))[4:8], SMALL[5:9])
    with pytest.raises(BadInput, match="2x4 with 1 frames of flyback cannot hold the 15 frames"):
        read(path, grid=[2, 4], flyback=1)


@pytest.mark.parametrize("name", ["merlin", "empad", "blockfile", "seq", "frms6"])
def test_a_raster_that_is_too_small_is_an_error_for_every_detector(name: str, tmp_path: Path) -> None:
    path = files.WRITERS[name](tmp_path, SMALL, (SLOW, FAST))
    with pytest.raises(BadInput, match="cannot hold the 15 frames"):
        read(path, grid=[2, 2])


def test_tvips_cameras_go_on_after_a_scan_but_its_length_is_known(tmp_path: Path, caplog) -> None:
    patterns = RNG.integers(0, 200, (SLOW * FAST + 12, 3, 5)).astype(np.uint8)
    turn = np.zeros(len(patterns), int)
    turn[4 : 4 + SLOW * FAST] = np.arange(1, SLOW * FAST + 1)
    path = files.write_tvips(tmp_path / "a", patterns, rotator=turn)
    np.testing.assert_array_equal(patterns_of(read(path, grid=[SLOW, FAST])), patterns[4:19])
    assert not caplog.records
    with pytest.raises(BadInput, match="cannot hold the 15 frames"):
        read(path, grid=[2, FAST])
    path = files.write_tvips(tmp_path / "b", patterns, version=1)
    assert read(path, grid=[SLOW, FAST]).grid == (SLOW, FAST)
    assert "12 frames more than the raster" in caplog.text


def test_a_side_car_of_an_interrupted_file_states_the_raster_that_was_planned(tmp_path: Path) -> None:
    notes = {"ScanX": FAST, "ScanY": SLOW}
    path = files.write_mib(tmp_path / "a.mib", SMALL[:12], hdr=notes)
    with pytest.raises(MissingValues) as caught:
        formats.read(path)
    assert caught.value.known["grid"] == (SLOW, FAST)
    sidecar.write(path, read(path), Setup.__annotations__)
    assert "grid: [3, 5]  # from the file" in sidecar.name_of(path).read_text()
    files.write_mib(path, SMALL)
    assert formats.read(path).grid == (SLOW, FAST)


def test_what_is_wrong_with_a_file_is_a_finding(tmp_path: Path) -> None:
    path = files.write_mib(tmp_path / "a.mib", SMALL)
    finding = inspect(read(path, grid=[4, FAST]))[0]
    assert (finding.name, finding.level) == ("file", "warn")
    assert "holds 15 frames, less than the raster 4x5: 3 whole rows are used" in finding.value
    assert inspect(read(path, grid=[SLOW, FAST]))[0].name == "counts"


def test_positions_need_no_raster(tmp_path: Path) -> None:
    np.save(tmp_path / "places.npy", RNG.random((SLOW * FAST, 2)))
    path = files.write_mib(tmp_path / "a.mib", SMALL)
    scan = formats.read(path, knobs={"energy": "200 keV", "angle": "1 mrad", "positions": "places.npy"})
    assert len(scan) == SLOW * FAST
    assert scan.grid is None


@pytest.mark.parametrize("name", files.WRITERS)
def test_a_side_car_completes_a_file(name: str, tmp_path: Path) -> None:
    path = files.WRITERS[name](tmp_path, SMALL, (SLOW, FAST))
    text = "energy: 60 keV\npixel: 0.2 A\nstep: 0.5 A\n"
    text += "grid: [3, 5]\n" if name in ("seq", "timepix3") else ""
    path.with_name(f"{path.name}.phaseloom.yaml").write_text(text)
    scan = formats.read(path)
    assert scan.geometry.energy == pytest.approx(60e3)
    assert scan.geometry.pixel == pytest.approx((0.2, 0.2))


def test_merlin_headers_without_the_bit_depth_of_later_versions(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 900, (6, 8, 10)).astype(">u2")
    with (tmp_path / "old.mib").open("wb") as file:
        for number, frame in enumerate(frames, 1):
            head = f"MQ1,{number:06d},00384,01,0010,0008,U16,   1x1,01,2013-05-03 10:11:12.0,"
            head += "0.001,0,0,0,1.2E+2,5.11E+2,"
            file.write(head.encode().ljust(384, b"\0") + frame.tobytes())
    knobs = {"energy": 80e3, "angle": 1e-3, "step": 1.0, "grid": (2, 3)}
    np.testing.assert_array_equal(patterns_of(formats.read(tmp_path / "old.mib", knobs=knobs)), frames)


def test_a_damaged_merlin_header_is_told_by_its_field(tmp_path: Path) -> None:
    path = files.write_mib(tmp_path / "s.mib", np.ones((4, 8, 8), np.uint16))
    whole = path.read_bytes()
    for field, damage in {
        "sensor layout": (b"   1x1", b"   1?1"),
        "rows": (b",0008,U16", b",00o8,U16"),
    }.items():
        path.write_bytes(whole.replace(*damage))
        with pytest.raises(BadInput, match=f"{field} of the frame header: .* copy the file again"):
            formats.read(path)
