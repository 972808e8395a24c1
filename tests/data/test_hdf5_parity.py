"""HDF5 files read by rosettasciio and by our reader; large ones; and the same picture from every order."""

import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from tests.data import hdf5_files as files
from tests.data.hdf5_files import CASES, ELECTRON_CASES, Case

GRID = (3, 5)
PATTERNS = np.random.default_rng(3).integers(0, 200, (15, 4, 6)).astype(np.uint16)
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "1 A"}


def theirs(name: str, path: Path, **how: Any) -> dict[str, Any]:
    return pytest.importorskip(f"rsciio.{name}").file_reader(str(path), **how)[0]


def ours(path: Path, **knobs: object) -> tuple[np.ndarray, Any]:
    scan = formats.read(path, knobs=knobs)
    assert scan.grid == GRID
    return scan.counts[np.arange(15)].reshape(*GRID, *scan.counts.shape[1:]), scan


@pytest.mark.parametrize(
    ("reader", "kind", "how", "knobs"),
    [
        ("hspy", "a.hspy", {}, {}),
        ("zspy", "a.zspy", {}, {}),
        ("emd", "emd", {"dataset_path": "data/scan/data"}, {}),
        ("topspin", "topspin", {"show_progressbar": False}, {"energy": "200 keV"}),
        ("arina", "arina", {"navigation_shape": (3, 5)}, {**KNOBS, "grid": list(GRID)}),
    ],
)
def test_patterns_and_axes_are_those_of_rosettasciio(
    reader: str, kind: str, how: dict, knobs: dict, tmp_path: Path
) -> None:
    case = next(case for case in ELECTRON_CASES if kind in (case.kind, case.file))
    square = PATTERNS[..., :4]
    path = case.write(tmp_path / case.file, square if reader == "arina" else PATTERNS, GRID)
    entry = theirs(reader, path, **how)
    mine, scan = ours(path, **knobs)
    data = np.asarray(entry["data"])
    axes = {
        axis.get("index_in_array", n): (axis["scale"], axis["units"]) for n, axis in enumerate(entry["axes"])
    }
    if reader == "emd":  # which has the axes of NCEM's files in the order of Fortran
        data = data.T
        axes = {3 - n: axis for n, axis in axes.items()}
    np.testing.assert_array_equal(data, mine)
    if reader == "arina":  # which knows no steps, and patterns of squares only
        return
    units = {"nm": 10.0, "mrad": 1e-3, "mrads": 1e-3}
    step = scan.positions.reshape(*GRID, 2)[1, 1]
    assert [axes[n][0] * units[axes[n][1].strip("[]").replace("_", "")] for n in (0, 1)] == pytest.approx(
        step.tolist()
    )
    found = sorted(axes[n][0] * units[axes[n][1].strip("[]")] for n in (2, 3))
    assert found == pytest.approx(sorted(scan.geometry.angle))


def test_files_that_rosettasciios_writer_made(tmp_path: Path) -> None:
    module = pytest.importorskip("rsciio.hspy")
    axes = []
    for number, (size, units) in enumerate(zip((3, 5, 4, 6), ("nm", "nm", "1/nm", "1/nm"), strict=True)):
        axes.append(
            {
                "_type": "UniformDataAxis", "name": f"a{number}", "size": size, "scale": 0.1 * (number + 1),
                "offset": 0.0, "units": units, "navigate": number < 2, "index_in_array": number,
                "is_binned": False,
            }
        )  # fmt: skip
    signal = {
        "data": PATTERNS.reshape(*GRID, 4, 6),
        "axes": axes,
        "metadata": {
            "Acquisition_instrument": {"TEM": {"beam_energy": 80.0, "camera_length": 120.0}},
            "General": {"title": "grain µ", "date": "2024-01-02", "time": "03:04:05"},
            "Signal": {"signal_type": "electron_diffraction"},
            "_HyperSpy": {"Folding": {"unfolded": False}},
        },
        "original_metadata": {"a": {"b": 1}},
        "attributes": {"_lazy": False, "ragged": False},
        "learning_results": {},
        "tmp_parameters": {},
        "models": {},
        "package_info": {"package": "hyperspy", "package_version": "2.4"},
        "package": "hyperspy",
        "package_version": "2.4",
    }
    path = tmp_path / "s.hspy"
    module.file_writer(str(path), signal)
    mine, scan = ours(path)
    np.testing.assert_array_equal(mine, PATTERNS.reshape(*GRID, 4, 6))
    assert scan.geometry.energy == pytest.approx(80e3)
    wavelength = scan.geometry.wavelength
    assert scan.geometry.angle == pytest.approx((0.03 * wavelength, 0.04 * wavelength))
    assert scan.positions.reshape(*GRID, 2)[1, 1].tolist() == pytest.approx([1.0, 2.0])
    assert scan.metadata["title"] == "grain µ"
    assert scan.metadata["camera length"] == "120.0 mm"


def test_series_of_velox_are_those_of_rosettasciio(tmp_path: Path) -> None:
    path = files.write_velox(tmp_path / "a.emd", PATTERNS, GRID)
    mine, _ = ours(path, step="1 A")
    np.testing.assert_array_equal(mine.reshape(PATTERNS.shape), PATTERNS)


# Large files

TEN_GIGABYTES = 10_000_000_000


def write_sparse(folder: Path, name: str) -> Path:
    """Files that declare ten gigabytes in chunks of which two are written."""
    frames = TEN_GIGABYTES // (2 * 256 * 256)
    side = int(frames**0.5)
    if name == "hspy":
        path = files.write_hspy(folder / "a.hspy", np.ones((1, 256, 256), "u2"), (1, 1))
        key, shape = "Experiments/scan/data", (side, side, 256, 256)
    elif name == "nxmx":
        path = files.write_master(folder / "a_master.h5", np.ones((4, 256, 256), "u2"), per_file=2)
        key, shape = "entry/data/data", (frames // 2, 256, 256)
    else:
        path, key, shape = folder / "a.h5", "frames", (side, side, 256, 256)
        h5py.File(path, "w").close()
    targets = [path] if name != "nxmx" else sorted(folder.glob("a_data_*.h5"))
    for target in targets:
        with h5py.File(target, "a") as file:
            if key in file:
                del file[key]
            chunks = (*(1,) * (len(shape) - 2), 256, 256)
            data = file.create_dataset(key, shape, "u2", chunks=chunks)
            data[(0,) * (len(shape) - 2)] = data[tuple(n - 1 for n in shape[:-2])] = 3
    return path


@pytest.mark.medium
@pytest.mark.parametrize("name", ["plain", "hspy", "nxmx"])
def test_ten_gigabytes_are_opened_at_once(name: str, tmp_path: Path) -> None:
    path = write_sparse(tmp_path, name)
    knobs: dict[str, object] = {**KNOBS}
    if name == "nxmx":
        knobs |= {"grid": [2, TEN_GIGABYTES // (2 * 256 * 256) // 2], "field": "far"}
    formats.read(path, knobs=knobs)  # imports
    seconds = []
    for _ in range(3):
        start = time.process_time()
        formats.read(path, knobs=knobs)
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    scan = formats.read(path, knobs=knobs)
    assert scan.counts[np.array([0, len(scan) - 1])].sum() == 2 * 3 * 256 * 256
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert int(np.prod(scan.counts.shape)) * 2 > 0.99 * TEN_GIGABYTES
    assert os.path.getsize(path) < 20_000_000
    assert min(seconds) < 2  # of one processor, which others may share: reading them would take 10
    assert peak < 200_000_000


# The same picture


def moments(counts: np.ndarray) -> np.ndarray:
    """Centre of mass (y, x) of the patterns of a raster of 6 x 8."""
    y, x = np.indices(counts.shape[1:])
    total = counts.sum((1, 2))
    return np.stack([(counts * axis).sum((1, 2)) / total for axis in (y, x)]).reshape(2, 6, 8)


@pytest.mark.medium
@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind}-{case.file}" for case in CASES])
def test_a_simulated_scan_comes_back_as_the_same_picture(case: Case, simulated: Any, tmp_path: Path) -> None:
    """Rows, columns and the order of the scan all count; positions go along with them."""
    patterns = np.asarray(simulated.counts).round().astype(np.uint16)
    path = case.write(tmp_path / case.file, patterns, (6, 8))
    knobs = {"energy": "200 keV", "angle": "1 mrad", "step": "1 A", "grid": [6, 8]}
    scan = formats.read(path, knobs={name: knobs[name] for name in case.missing})
    found = moments(scan.counts[np.arange(48)])
    np.testing.assert_allclose(found, moments(patterns), rtol=1e-6)
    assert np.ptp(found, axis=(1, 2)).min() > 0.01
    assert not any(np.allclose(found, other) for other in (found[:, ::-1], found[:, :, ::-1], found[::-1]))
    places = scan.positions.reshape(6, 8, 2)
    assert (np.diff(places[..., 0], axis=0) > 0).all()
    assert (np.diff(places[..., 1], axis=1) > 0).all()
    assert np.abs(np.diff(places[..., 1], axis=0)).max() < 1e-3
