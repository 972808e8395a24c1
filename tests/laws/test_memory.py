"""What a scan costs in memory: its file once, in the file's own type, or next to nothing when streamed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

N, SIZE = 1600, 256  # 200 MiB of uint16
MEASURE = """
import json, os, sys, threading
os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np, h5py, tifffile, zarr, scipy.io, torch
import phaseloom.data.prepare
from phaseloom.data import formats
from phaseloom.data.counts import split_indices
from phaseloom.data.formats import cxi, hdf5, mat, native, npy, npz, raw, tif
from phaseloom.data.formats import zarr as zarr_format

path, knobs, steps = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])

def private():
    "Bytes that are this process's own: pages of mapped files can be dropped by the system at any time."
    text = open("/proc/self/status").read()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024

peak, stop = 0, threading.Event()
def watch():
    global peak
    while not stop.wait(0.002):
        peak = max(peak, private())

np.fft.fft(np.ones(8))
before = private()
watcher = threading.Thread(target=watch)
watcher.start()
scan = formats.read(path, knobs=knobs)
loaded = private() - before
for name, values in steps:
    scan = getattr(phaseloom.data.prepare, name)(scan, **values)
total = 0
for index in split_indices(scan.counts):
    total += int(scan.counts[index].sum(dtype=np.int64))
stop.set()
watcher.join()
print(json.dumps({"peak": max(peak, private()) - before, "loaded": loaded, "total": total,
                  "dtype": str(scan.counts.dtype), "shape": list(scan.counts.shape)}))
"""
WRITE = """
import sys
import numpy as np, h5py, tifffile, zarr, scipy.io
kind, path, n, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
data = (np.arange(size * size, dtype=np.uint32) % 251).astype(np.uint16).reshape(1, size, size).repeat(n, 0)
if kind == "npy":
    np.save(path, data)
elif kind == "npz":
    np.savez(path, counts=data)
elif kind == "raw":
    data.tofile(path)
elif kind == "h5":
    with h5py.File(path, "w") as file:
        file["frames"] = data
elif kind == "tif":
    tifffile.imwrite(path, data, photometric="minisblack")
elif kind == "packed.tif":
    tifffile.imwrite(path, data, photometric="minisblack", compression="zlib", compressionargs={"level": 1})
elif kind == "zarr":
    array = zarr.create_array(path, shape=data.shape, dtype=data.dtype, chunks=(16, size, size))
    array[...] = data
elif kind == "mat":
    scipy.io.savemat(path, {"dp": data})
elif kind == "73.mat":
    with h5py.File(path, "w", userblock_size=512) as file:
        file["dp"] = data.transpose(0, 2, 1)
elif kind == "float.npz":
    data = data.astype(np.float32)
    data[3, 4, 5], data[7, 8, 9] = np.nan, -4
    np.savez(path, counts=data)
elif kind == "cxi":
    from phaseloom.data.formats import cxi
    from phaseloom.data.scan import Geometry, Scan4D
    geometry = Geometry(wavelength=1.0, shape=(size, size), angle=(1e-5, 1e-5), distance=1e10)
    where = np.indices((40, n // 40)).reshape(2, -1).T * 1.0
    cxi.write(Scan4D(counts=data, positions=where, geometry=geometry), path)
"""
FILE = N * SIZE * SIZE * 2
PATTERN = sum(k % 251 for k in range(SIZE * SIZE))
ROOM = 60_000_000
"""Bytes for one piece in work and for what the libraries keep."""

KNOBS = {"energy": "80 keV", "angle": "1 mrad", "step": "0.4 A", "grid": [40, N // 40]}


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def measured(kind: str, folder: Path, steps: list | None = None, **knobs: object) -> dict:
    path = folder / f"scan.{kind}"
    run(WRITE, kind, str(path), str(N), str(SIZE))
    told = {} if kind == "cxi" else {**KNOBS, **knobs}
    return json.loads(run(MEASURE, str(path), json.dumps(told), json.dumps(steps or [])).splitlines()[-1])


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")

RAW = {"shape": [N, SIZE, SIZE], "dtype": "uint16"}
STREAMED: dict[str, dict] = {"npy": {}, "raw": RAW, "h5": {}, "tif": {}, "packed.tif": {}, "zarr": {}}
STREAMED |= {"73.mat": {"permute": [2, 0, 1]}}


LONG = ("packed.tif", "zarr", "73.mat")


@pytest.mark.parametrize("kind", ["npz", pytest.param("mat", marks=pytest.mark.slow), "cxi"])
def test_what_is_loaded_costs_its_file_once(kind: str, tmp_path: Path) -> None:
    cost = measured(kind, tmp_path)
    assert cost["dtype"] == "uint16"
    assert cost["total"] == N * PATTERN
    assert cost["peak"] < 1.1 * FILE + ROOM


@pytest.mark.slow
def test_broken_values_are_mended_in_place(tmp_path: Path) -> None:
    cost = measured("float.npz", tmp_path)
    assert cost["dtype"] == "float32"
    assert cost["peak"] < 1.1 * 2 * FILE + ROOM


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in LONG)) for k in STREAMED])
def test_what_is_streamed_costs_next_to_nothing(kind: str, tmp_path: Path) -> None:
    cost = measured(kind, tmp_path, **STREAMED[kind])
    assert cost["dtype"] == "uint16"
    assert cost["total"] == N * PATTERN
    assert cost["peak"] < 0.1 * FILE + ROOM


STEPS = [
    ["window", {"rows": [8, 248], "columns": [0, 240]}],
    ["flip", {"axis": "y"}],
    ["pad", {"to": [256, 256], "fill": "edge", "lazy": True}],
    ["bin", {"factor": 2}],
]


@pytest.mark.parametrize("kind", ["h5", "npy"])
def test_streaming_goes_on_through_every_step(kind: str, tmp_path: Path) -> None:
    cost = measured(kind, tmp_path, STEPS, selection="::2", grid=[20, 40])
    assert cost["shape"] == [N // 2, 128, 128]
    assert cost["peak"] < 0.25 * FILE + ROOM


@pytest.mark.slow
def test_padding_a_loaded_scan_when_read_costs_nothing_more(tmp_path: Path) -> None:
    cost = measured("npz", tmp_path, [["pad", {"to": [512, 512], "fill": "constant", "lazy": True}]])
    assert cost["shape"] == [N, 512, 512]
    assert cost["peak"] < 1.1 * FILE + 2 * ROOM
