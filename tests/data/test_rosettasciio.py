"""The same bytes read by rosettasciio and by our readers; and files that only rosettasciio reads."""

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.formats.kinds.axes import StoredAxis
from phaseloom.data.formats.vendor import rosettasciio
from phaseloom.errors import BadInput, MissingExtra
from tests.data import vendor_files as files

SLOW, FAST = 3, 5
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "0.5 A"}
RNG = np.random.default_rng(3)


def theirs(name: str, path: Path, **how: Any) -> dict[str, Any]:
    reader = pytest.importorskip(f"rsciio.{name}")
    return reader.file_reader(str(path), **how)[0]


def ours(path: Path, **knobs: object) -> np.ndarray:
    scan = formats.read(path, knobs={**KNOBS, **knobs})
    assert scan.grid is not None
    return scan.counts[np.arange(len(scan))].reshape(*scan.grid, *scan.counts.shape[1:])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_merlin_is_theirs_with_rows_the_other_way(dtype: str, tmp_path: Path) -> None:
    patterns = RNG.integers(0, 99, (SLOW * FAST, 4, 6)).astype(dtype)
    notes = {"Frames in Acquisition (Number)": 15, "Frames per Trigger (Number)": FAST}
    path = files.write_mib(tmp_path / "a.mib", patterns, hdr=notes)
    got = theirs("quantumdetector", path)["data"]
    np.testing.assert_array_equal(ours(path), got[:, :, ::-1])


def test_empad_is_theirs(tmp_path: Path) -> None:
    patterns = RNG.random((SLOW * FAST, 128, 128)).astype(np.float32)
    inside = "<pix_x>5</pix_x><pix_y>3</pix_y><iom_measurements>"
    inside += "<optics.get_full_scan_field_of_view>[6e-09, 6e-09]</optics.get_full_scan_field_of_view>"
    path = files.write_empad(tmp_path / "scan_x5_y3.raw", patterns, inside + "</iom_measurements>")
    entry = theirs("empad", path)
    np.testing.assert_array_equal(ours(path), entry["data"])
    scan = formats.read(path, knobs={"energy": "200 keV", "angle": "1 mrad"})
    wanted = [axis["scale"] * {"nm": 10, "Å": 1}[axis["units"]] for axis in entry["axes"] if axis["navigate"]]
    assert scan.positions[FAST + 1].tolist() == pytest.approx(wanted)


def test_block_files_are_theirs(tmp_path: Path) -> None:
    patterns = RNG.integers(0, 255, (SLOW * FAST, 4, 4)).astype(np.uint8)
    path = files.write_blo(tmp_path / "a.blo", patterns, (SLOW, FAST))
    entry = theirs("blockfile", path)
    np.testing.assert_array_equal(ours(path), entry["data"])
    scan = formats.read(path)
    assert [axis["scale"] * 10 for axis in entry["axes"][:2]] == scan.positions[FAST + 1].tolist()


def test_tvips_is_theirs(tmp_path: Path) -> None:
    """Of version 2: their reader of version 1 asks for longer headers of frames than it has."""
    patterns = RNG.integers(0, 255, (SLOW * FAST, 4, 4)).astype(np.uint16)
    path = files.write_tvips(tmp_path / "a", patterns)
    entry = theirs("tvips", path, scan_shape=(SLOW, FAST))
    np.testing.assert_array_equal(ours(path, grid=[SLOW, FAST]), np.asarray(entry["data"]))


def write_mrc_stack(path: Path, stack: np.ndarray) -> Path:
    n, height, width = stack.shape
    head = np.zeros(256, "<i4")
    head[:4] = width, height, n, 6
    head[7:10] = width, height, n
    head.view("<f4")[10:13] = width, height, n
    head.view("<f4")[13:16] = 90
    head[16:19] = 1, 2, 3
    head.view("u1")[208:212] = np.frombuffer(b"MAP ", "u1")
    head.view("u1")[212:216] = [0x44, 0x44, 0, 0]
    path.write_bytes(head.tobytes() + stack.astype("<u2").tobytes())
    return path


def test_an_mrc_stack_is_read_lazily_by_the_optional_package(tmp_path: Path) -> None:
    pytest.importorskip("rsciio")
    stack = RNG.integers(0, 999, (SLOW * FAST, 4, 6)).astype(np.uint16)
    path = write_mrc_stack(tmp_path / "a.mrc", stack)
    assert formats.guess(path) == "rosettasciio"
    np.testing.assert_array_equal(ours(path, grid=[SLOW, FAST]).reshape(stack.shape), stack)
    scan = formats.read(path, knobs={**KNOBS, "grid": [SLOW, FAST]})
    assert not isinstance(scan.counts, np.ndarray)
    assert scan.metadata["original header"]


def test_axes_are_told_by_their_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rsciio")
    data = RNG.integers(0, 99, (4, 6, SLOW, FAST)).astype(np.uint16)
    shape = dict(zip(range(4), data.shape, strict=True))
    scales = [0.2, 0.2, 0.1, 0.15]
    units = ["1/nm", "nm^-1", "nm", "nm"]
    axes = [
        {"size": shape[n], "scale": scales[n], "units": units[n], "navigate": n < 2, "index_in_array": n}
        for n in range(4)
    ]
    entry = {"data": data, "axes": axes, "metadata": {}, "original_metadata": {"a": {"kV": 80.0}}}
    entry["mapping"] = {"a.kV": ("Acquisition_instrument.TEM.beam_energy", None)}
    monkeypatch.setattr(rosettasciio, "_load", lambda path, module: [entry])
    (tmp_path / "a.dm4").write_bytes(b"x")
    scan = formats.read(tmp_path / "a.dm4")
    assert scan.grid == (SLOW, FAST)
    assert scan.positions[FAST + 1] == pytest.approx((1.0, 1.5))
    assert scan.geometry.energy == pytest.approx(80e3)
    assert scan.geometry.angle == pytest.approx((0.02 * scan.geometry.wavelength,) * 2)
    np.testing.assert_array_equal(scan.counts[np.arange(15)], data.transpose(2, 3, 0, 1).reshape(15, 4, 6))


@pytest.mark.parametrize(
    ("unit", "frequency", "angle"),
    [
        ("1/nm", 0.2, None),
        ("1 / nm", 0.2, None),
        ("nm^-1", 0.2, None),
        ("1/Å", 2.0, None),
        ("nm⁻¹", 0.2, None),
        ("mrad", None, 2e-3),
        ("nm", None, None),
        ("", None, None),
        ("px", None, None),
    ],
)
def test_units_of_detector_axes(unit: str, frequency: float | None, angle: float | None) -> None:
    axis = StoredAxis(4, 2.0, unit, False)
    assert axis.frequency == (None if frequency is None else pytest.approx(frequency))
    assert axis.angle == (None if angle is None else pytest.approx(angle))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["a.dm4", "a.ser", "a.prz", "a.mrc", "a.dm3"])
def test_garbage_is_one_sentence(name: str, tmp_path: Path) -> None:
    pytest.importorskip("rsciio")
    (tmp_path / name).write_bytes(RNG.bytes(3000))
    with pytest.raises(BadInput, match=f"{name}: .*(cannot be read by rosettasciio|dataset)"):
        formats.read(tmp_path / name, knobs=KNOBS)
    gc.collect()  # some of their readers leave the file open, which would be a warning in a later test


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rsciio", None)
    (tmp_path / "a.dm4").write_bytes(b"x")
    with pytest.raises(MissingExtra, match=r"pip install 'phaseloom\[rosettasciio\]'"):
        formats.read(tmp_path / "a.dm4", knobs=KNOBS)


def test_an_unknown_reader_is_named(tmp_path: Path) -> None:
    pytest.importorskip("rsciio")
    (tmp_path / "a.dm4").write_bytes(b"x")
    with pytest.raises(BadInput, match="did you mean 'DigitalMicrograph'"):
        formats.read(tmp_path / "a.dm4", knobs={**KNOBS, "reader": "DigitalMicrogaph"})
