"""Plain arrays become scans when the user says how they were taken."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom import spec
from phaseloom.data import formats
from phaseloom.data.formats import arrays, hdf5, npy, npz, raw
from phaseloom.data.formats.setup import DEFAULTS, Setup
from phaseloom.data.scan import wavelength_of
from phaseloom.errors import BadInput

COUNTS = np.random.default_rng(1).poisson(3.0, (2, 3, 4, 6)).astype(np.uint16)
KNOBS = {"energy": 80e3, "angle": 1e-3, "step": (0.4, 0.5)}


def every_format(folder: Path):
    np.save(folder / "a.npy", COUNTS)
    np.savez(folder / "a.npz", data=COUNTS)
    COUNTS.tofile(folder / "a.raw")
    with h5py.File(folder / "a.h5", "w") as file:
        file["scan/frames"] = COUNTS
    return {
        "npy": npy.read(folder / "a.npy", **KNOBS),
        "npz": npz.read(folder / "a.npz", **KNOBS),
        "raw": raw.read(folder / "a.raw", **KNOBS, shape=COUNTS.shape, dtype="uint16"),
        "hdf5": hdf5.read(folder / "a.h5", **KNOBS),
    }


def test_all_formats_read_the_same_raster(tmp_path: Path) -> None:
    for name, scan in every_format(tmp_path).items():
        np.testing.assert_array_equal(scan.counts[np.arange(6)], COUNTS.reshape(6, 4, 6), err_msg=name)
        np.testing.assert_allclose(scan.positions[[1, 3]], [[0, 0.5], [0.4, 0]])
        assert (scan.grid, scan.oriented, scan.counts.dtype) == ((2, 3), False, np.uint16)
        assert isinstance(scan.counts, np.ndarray) is (name == "npz")
        assert scan.geometry.wavelength == pytest.approx(0.0417572, rel=1e-5)
        assert scan.select(np.array([4, 1])).counts[np.array([0])].tolist() == [COUNTS[1, 1].tolist()]


def test_electrons_are_relativistic_and_photons_are_not() -> None:
    assert wavelength_of(300e3, "electron") == pytest.approx(0.01968749, rel=1e-6)
    assert wavelength_of(12398.42, "photon") == pytest.approx(1.0, rel=1e-6)


def test_the_sampling_can_be_said_in_three_ways(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 8, 8)))
    ways = [
        {"angle": 2e-3},
        {"pixel": wavelength_of(80e3, "electron") / (8 * 2e-3)},
        {"distance": 1e10, "detector_pixel": 2e7},
    ]
    for way in ways:
        scan = npy.read(tmp_path / "a.npy", energy=80e3, step=1.0, grid=(1, 1), **way)
        assert scan.geometry.angle == pytest.approx((2e-3, 2e-3))


def test_a_hologram_has_a_focus(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 8, 8)))
    knobs = {
        "distance": "1 m",
        "detector_pixel": "50 um",
        "focus": "1 mm",
        "beam": "photon",
        "energy": "9 keV",
    }
    scan = formats.read(tmp_path / "a.npy", knobs={**knobs, "step": "1 um", "grid": [1, 1]})
    assert scan.geometry.pixel[0] == pytest.approx(5e5 / 1001)


def test_positions_come_from_tables_in_many_units(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 8, 8)))
    (tmp_path / "p.csv").write_text("# row, column\n0, 1\n2.5, 3\n")
    np.save(tmp_path / "p.npy", np.array([[0, 1], [2.5, 3]]))
    for name in ("p.csv", "p.npy"):
        scan = npy.read(tmp_path / "a.npy", energy=80e3, angle=1e-3, positions=name, positions_unit="nm")
        assert scan.positions.tolist() == [[0, 10], [25, 30]]
    scan = npy.read(tmp_path / "a.npy", energy=80e3, pixel=0.2, positions="p.npy", positions_unit="px")
    np.testing.assert_allclose(scan.positions, [[0, 0.2], [0.5, 0.6]])


def test_rotation_turns_rows_towards_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 1, 8, 8)))
    scan = npy.read(tmp_path / "a.npy", energy=80e3, angle=1e-3, step=1.0, rotation=np.pi / 2)
    np.testing.assert_allclose(scan.positions[1], [0, 1], atol=1e-12)


@pytest.mark.parametrize("last", [True, False])
def test_raw_patterns_may_have_a_header_and_gaps(last: bool, tmp_path: Path) -> None:
    frames = b"".join(frame.tobytes() + bytes(7) for frame in COUNTS.reshape(6, 4, 6))
    (tmp_path / "a.raw").write_bytes(bytes(5) + (frames if last else frames[:-7]))
    scan = raw.read(tmp_path / "a.raw", **KNOBS, shape=COUNTS.shape, dtype="<u2", offset=5, gap=7)
    np.testing.assert_array_equal(scan.counts[np.arange(6)], COUNTS.reshape(6, 4, 6))


def test_raw_patterns_may_be_in_fortran_order(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(COUNTS.tobytes(order="F"))
    scan = raw.read(tmp_path / "a.raw", **KNOBS, shape=COUNTS.shape, dtype="<u2", order="F")
    np.testing.assert_array_equal(scan.counts[np.arange(6)], COUNTS.reshape(6, 4, 6))


def test_a_simulated_archive_needs_no_knobs(tmp_path: Path) -> None:
    true, nominal = np.array([[4.5, 5.0], [4.0, 7.2]]), np.array([[4.0, 5.0], [4.0, 7.0]])
    wavelength = wavelength_of(80e3, "electron")
    np.savez(
        tmp_path / "data_XS.npz",
        **{"meas": np.ones((2, 8, 8), np.float32), "pos_px": true, "pos_nominal_px": nominal},
        **{"dx": 0.3, "wavelength": wavelength, "kv": 80.0, "C10": -60.0, "conv_angle": 25.0},
        **{"n_slow": 1, "n_fast": 2},
    )
    scan = formats.read(tmp_path / "data_XS.npz")
    np.testing.assert_allclose(scan.positions, true * 0.3)
    assert scan.geometry.pixel == pytest.approx((0.3, 0.3))
    assert (scan.grid, scan.metadata["C10"]) == ((1, 2), "-60.0 A")
    scan = formats.read(tmp_path / "data_XS.npz", knobs={"positions": "pos_nominal_px"})
    np.testing.assert_allclose(scan.positions, nominal * 0.3)


def test_an_hdf5_file_may_hold_positions_and_mask(tmp_path: Path) -> None:
    good = np.ones((4, 6), bool)
    good[0, 0] = False
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"], file["where"], file["good"] = (
            COUNTS.reshape(6, 4, 6),
            np.arange(12.0).reshape(6, 2),
            good,
        )
    knobs = {
        "energy": "80 keV",
        "angle": "1 mrad",
        "positions": "where",
        "positions_unit": "um",
        "mask": "good",
    }
    scan = formats.read(tmp_path / "a.h5", knobs=knobs)
    assert scan.positions[1].tolist() == [2e4, 3e4]
    np.testing.assert_array_equal(scan.mask, good)


def test_a_sidecar_says_what_an_array_does_not(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COUNTS)
    (tmp_path / "a.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: [0.4 A, 50 pm], beam: electron}")
    scan = formats.read(tmp_path / "a.npy")
    np.testing.assert_allclose(scan.positions[-1], [0.4, 1.0])


@pytest.mark.parametrize(
    ("name", "members", "format_"),
    [
        ("a.h5", {"entry_1/instrument_1/x": 1}, "cxi"),
        ("a.h5", {"x": 1}, "hdf5"),
        ("odd.thing", {"x": 1}, "hdf5"),
    ],
)
def test_hdf5_files_are_told_by_what_is_in_them(
    name: str, members: dict, format_: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / name, "w") as file:
        for member, value in members.items():
            file[member] = value
    assert formats.guess(tmp_path / name) == format_


@pytest.mark.parametrize("name", ["hdf5", "mat", "npy", "npz", "raw", "tif", "zarr"])
def test_every_reader_of_arrays_shows_the_whole_setup(name: str) -> None:
    knobs = spec.knobs("phaseloom.data.formats", name)
    own_defaults = {"positions_unit": None} if name == "npz" else {}
    assert list(knobs)[: len(DEFAULTS)] == list(Setup.__annotations__) == list(DEFAULTS)
    for knob, default in {**DEFAULTS, **own_defaults}.items():
        assert knobs[knob].default is default
        assert f"\n        {knob}: " in (spec.function_of("phaseloom.data.formats", name).__doc__ or "")


def test_an_unknown_keyword_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COUNTS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'anlge'"):
        npy.read(tmp_path / "a.npy", **KNOBS, anlge=1e-3)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_few_values_that_are_not_finite_cost_no_pixel(tmp_path, caplog, lazy):
    rng = np.random.default_rng(3)
    truth = rng.poisson(20 * np.exp(-np.indices((16, 18)).sum(0) / 9), (20, 25, 16, 18)).astype(np.float32)
    counts = truth.copy()
    lost = rng.random(counts.shape) < 0.001
    counts[lost] = rng.choice([np.nan, np.inf], lost.sum())
    counts[:, ::4, 3, 4] = np.nan  # a quarter of the patterns: such a pixel is masked
    counts[2, 3] = np.nan  # a lost frame
    assert lost.any((0, 1)).mean() > 0.3  # of the pixels
    np.save(tmp_path / "a.npy", counts)
    scan = formats.read(tmp_path / "a.npy", knobs={"energy": 80e3, "angle": 1e-3, "step": 1.0}, lazy=lazy)
    assert np.argwhere(~scan.mask).tolist() == [[3, 4]]
    read = np.asarray(scan.counts[:]).reshape(counts.shape)
    assert np.isfinite(read).all()
    kept = np.isfinite(counts)
    np.testing.assert_array_equal(read[kept], counts[kept])
    np.testing.assert_array_equal(read, np.rint(read))  # counts are whole numbers
    assert not read[2, 3].any()
    lost[2, 3] = lost[..., 3, 4] = False
    gap = read[lost] - truth[lost]  # by the mean of the pixel: off by counting noise alone
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(gap.size)
    assert gap.std() < 1.3 * np.sqrt(truth[lost].mean())
    assert "replaced by the mean of their pixel" in caplog.text


def test_a_value_that_stands_for_a_lost_one_is_as_bright_as_its_pattern(tmp_path):
    counts = np.ones((100, 6, 7), np.float32)
    counts[40] = 3
    counts[40, 2, 1] = np.nan
    np.save(tmp_path / "a.npy", counts)
    knobs = {"energy": 80e3, "angle": 1e-3, "step": 1.0, "grid": (10, 10)}
    scan = formats.read(tmp_path / "a.npy", knobs=knobs)
    assert np.asarray(scan.counts[40:41])[0, 2, 1] == pytest.approx(3, rel=0.05)


def test_a_value_that_is_not_finite_is_found_in_any_pattern_of_a_stack_in_its_file(tmp_path, caplog):
    counts = np.full((32, 40, 4, 5), 5, np.float32)
    counts[20, 3, 2, 1] = np.nan
    np.save(tmp_path / "one.npy", counts)
    scan = formats.read(tmp_path / "one.npy", knobs={"energy": 80e3, "angle": 1e-3, "step": 1.0}, lazy=True)
    assert "a value that is not finite was replaced by the mean of its pixel" in caplog.text
    assert np.asarray(scan.counts[803:804])[0, 2, 1] == pytest.approx(5)


def test_values_that_are_not_finite_beyond_the_survey_are_named_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(arrays, "MAX_BYTES_TO_JUDGE", 0)
    counts = np.full((32, 40, 4, 5), 5, np.float32)
    counts[20, [3, 6], 2, 1] = np.nan  # patterns 803 and 806, which are not among the 500
    np.save(tmp_path / "one.npy", counts)
    scan = formats.read(tmp_path / "one.npy", knobs={"energy": 80e3, "angle": 1e-3, "step": 1.0}, lazy=True)
    caplog.clear()
    np.testing.assert_allclose(np.asarray(scan.counts[800:812]), 5)
    assert scan.counts[800:810].shape == (10, 4, 5)
    assert scan.mask.all()
    assert caplog.text.count("replaced by the mean of their pixel") == 1


def test_two_side_cars_are_told_and_counts_are_no_mask(tmp_path, caplog):
    np.save(tmp_path / "s.npy", np.ones((2, 3, 8, 8)))
    np.save(tmp_path / "m.npy", np.arange(64).reshape(8, 8))
    for name in ("s.npy.phaseloom.yaml", "s.npy.yaml"):
        (tmp_path / name).write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
    formats.read(tmp_path / "s.npy")
    assert "s.npy.phaseloom.yaml is read beside s.npy; s.npy.yaml is not" in caplog.text
    with pytest.raises(BadInput, match=r"64 different values is not a mask"):
        formats.read(tmp_path / "s.npy", knobs={"mask": "m.npy"})


def test_a_member_that_is_not_numbers_is_refused_with_those_that_are(tmp_path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["scan7/note"] = "x"
        file["scan7/frames"] = np.ones((2, 3, 8, 8), np.uint16)
    for name, said in {"scan7/note": "is not numeric", "scan7": "is not a data set"}.items():
        with pytest.raises(BadInput, match=f"a.h5: {name}: {said}: did you mean 'scan7/frames'"):
            formats.read(path, knobs={"dataset": name})
