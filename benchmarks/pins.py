"""Every verb once, on small data: are the numbers that it writes still the same bits?

    python -m benchmarks.pins record pins.json
    python -m benchmarks.pins check pins.json            # a table; exit code 1 if anything differs
    python -m benchmarks.pins check pins.json --only electron search

Each case runs `python -m phaseloom ...` in a folder of its own, on one thread, and uses nothing but the
command line and the imports that are promised to stay (`phaseloom`, `phaseloom.compat.cdtools`). Then every
array of every HDF5, npz, npy, tif and safetensors file, the numbers of JSON, CSV and YAML files, the losses
in `events.jsonl` and the exit codes are compared with those of the record. Times, dates, versions, paths
and text are not compared. Bits are those of one machine with one build of torch: `facts` in the record says
which. `results/pins-7233886.json` was recorded by commit 7233886, before all modules were moved.

Where a rearrangement gives a data set, an attribute or a key another name, a line in `RENAMED` says so.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

__all__ = ["CASES", "check", "record"]

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "src/phaseloom/samples/petra_near_field.cxi"

RENAMED: dict[str, str] = {}
"""Names in the record (a part of a field, as a regular expression) and what stands there now."""

NOT_PINNED = re.compile(
    r"seconds|version|finished|machine|\bdate|\btime|_times|iter_t|path|\bfile|digest|bytes|threads"
    r"|provenance\.(?!seed)|history\[|geometry\.|@experiment\."
)
"""Fields that differ from run to run or from machine to machine, and copies of what stands elsewhere."""

SKIPPED = {"in", "snapshot.h5", "run.yaml", "base.yaml", "search.yaml", "asked.json"}
"""Folders and files that are not compared: input of a case, snapshots, parameter files of runs, and
`asked.json`, which holds the date of a file."""

CLOSE = 1e-6
"""Relative difference up to which arrays are said to agree."""

ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


# What is written down of an array


def summary(array: Any) -> list[Any]:
    """Digest of dtype, shape and bytes; dtype and shape; mean, rms and three values."""
    array = np.ascontiguousarray(array)
    kind = f"{array.dtype.str}{list(array.shape)}".replace(" ", "")
    digest = hashlib.sha256(kind.encode() + array.tobytes()).hexdigest()[:16]
    flat = array.ravel()
    if array.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    flat = flat.astype(np.float64)
    if not flat.size:
        return [digest, kind]
    finite = flat[np.isfinite(flat)]
    rms = np.sqrt(np.mean(finite**2)) if finite.size else 0.0
    mean = finite.mean() if finite.size else 0.0
    some = flat[[0, flat.size // 3, 2 * flat.size // 3]]
    return [digest, kind, *(float(f"{value:.9g}") for value in (mean, rms, *some))]


def compare_fields(old: Any, new: Any) -> str:
    """How two summaries, or exact texts, agree: "equal", "close" or what differs."""
    if old == new:
        return "equal"
    if isinstance(old, dict) or isinstance(new, dict):
        return f"{old} -> {new}"
    if old[0] == new[0]:
        return "equal"
    if old[1].strip("<>|=")[:1] != new[1].strip("<>|=")[:1] or len(old) != len(new):
        return f"{old[1]} -> {new[1]}"
    if old[1][old[1].index("[") :] != new[1][new[1].index("[") :]:
        return f"{old[1]} -> {new[1]}"
    scale = max(abs(old[3]), 1e-300) if len(old) > 3 else 1.0
    before, after = np.array(old[2:]), np.array(new[2:])
    if np.allclose(after, before, rtol=0, atol=CLOSE * scale, equal_nan=True):
        return "close"
    return f"{old[1]} mean, rms, values {old[2:]} -> {new[2:]}"


# What is read of a folder

Field = tuple[str, Any]


def fields(folder: Path) -> Iterator[Field]:
    """All that is pinned of a case's folder, each array with its place."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        reader = READERS.get(path.suffix)
        if reader is None or not path.is_file() or SKIPPED & set(parts):
            continue
        for place, value in reader(path):
            name = f"{path.relative_to(folder).as_posix()}:{place}"
            if not NOT_PINNED.search(place):
                yield name, value


def read_hdf5(path: Path) -> Iterator[Field]:
    """Data sets and attributes; of text that is JSON its numbers."""
    found: list[Field] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.extend(of_value(name, item[()]))
        for key, value in item.attrs.items():
            found.extend(of_value(f"{name}@{key}", value))

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    yield from found


def of_value(name: str, value: Any) -> Iterator[Field]:
    """A numeric array as it is, JSON as its numbers, other text not at all."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        if value[:1] in ("{", "["):
            try:
                yield from of_json(json.loads(value), name)
            except ValueError:
                return
        return
    array = np.asarray(value)
    if array.dtype.kind in "biufc":
        yield name, array


def of_json(tree: Any, name: str = "") -> Iterator[Field]:
    """Numbers of a tree, one array for each path; places in lists are not part of a path."""
    found: defaultdict[str, list[float]] = defaultdict(list)

    def walk(node: Any, place: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{place}.{key}" if place else str(key))
        elif isinstance(node, list):
            for value in node:
                walk(value, f"{place}[]")
        elif isinstance(node, bool | int | float):
            found[place].append(float(node))

    walk(tree, name)
    for place, numbers in found.items():
        yield place, np.array(numbers)


def read_json(path: Path) -> Iterator[Field]:
    yield from of_json(json.loads(path.read_text()))


def read_lines(path: Path) -> Iterator[Field]:
    """The course of a run; losses are written down as they are."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    yield from of_json(lines)
    for name in ("loss", "holdout"):
        yield f"exact {name}", {"exact": [repr(line[name]) for line in lines if name in line]}


def read_npz(path: Path) -> Iterator[Field]:
    with np.load(path, allow_pickle=False) as file:
        yield from ((name, file[name]) for name in file.files if file[name].dtype.kind in "biufc")


def read_npy(path: Path) -> Iterator[Field]:
    yield "", np.load(path, allow_pickle=False)


def read_tif(path: Path) -> Iterator[Field]:
    import tifffile

    yield "", tifffile.imread(path)


def read_safetensors(path: Path) -> Iterator[Field]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for key in sorted(file.keys()):
            yield key, file.get_tensor(key).float().numpy()
        for key, value in (file.metadata() or {}).items():
            yield from of_value(f"card.{key}", value)


def read_table(path: Path) -> Iterator[Field]:
    """Columns of numbers."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    for name in rows[0] if rows else ():
        try:
            yield name, np.array([float(row[name]) if row[name] else np.nan for row in rows])
        except ValueError:
            continue


def read_yaml(path: Path) -> Iterator[Field]:
    """Numbers, with their units, in the order of their size in letters: keys may get other names."""
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?( [^\W\d].*)?")
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key in node:
                if key != "found":
                    walk(node[key])
        elif isinstance(node, list):
            for value in node:
                walk(value)
        elif isinstance(node, int | float) or (isinstance(node, str) and number.fullmatch(node)):
            found.append(str(node))

    walk(yaml.safe_load(path.read_text()))
    yield "numbers", {"exact": sorted(found)}


READERS: dict[str, Callable[[Path], Iterator[Field]]] = {
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".cxi": read_hdf5,
    ".npz": read_npz,
    ".npy": read_npy,
    ".tif": read_tif,
    ".json": read_json,
    ".jsonl": read_lines,
    ".safetensors": read_safetensors,
    ".csv": read_table,
    ".yaml": read_yaml,
}


# How a case runs


class Run:
    """The folder of a case, and the command line in it; what the case is given lies in `in/`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.codes: list[int] = []
        self.extra: dict[str, Any] = {}
        (folder / "in").mkdir()

    def __call__(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end and keep its exit code."""
        done = self._finish(self._command(*words))
        self.codes.append(done.returncode)
        self._log(words, done.stdout + done.stderr)
        return done

    def interrupted(self, folder: str, *words: object, lines: int = 1) -> None:
        """Run a verb until so many epochs are in the folder's `events.jsonl`, and interrupt it there.

        Where it stops is chance; where a resumed run ends must not be.
        """
        process = subprocess.Popen(
            self._command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._where()
        )
        events, late = self.folder / folder / "events.jsonl", time.monotonic() + 300
        while process.poll() is None and time.monotonic() < late:
            if events.is_file() and events.read_bytes().count(b"\n") >= lines:
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.005)
        process.wait()
        count = events.read_bytes().count(b"\n") if events.is_file() else 0
        self._log(words, f"interrupted after {count} epochs, code {process.returncode}\n")

    def inside(self, name: str) -> None:
        """Run a function of this file in a process of its own, in the folder."""
        command = [sys.executable, str(Path(__file__).resolve()), "inside", name]
        done = self._finish(command)
        self.codes.append(done.returncode)
        self._log(("inside", name), done.stdout + done.stderr)

    def write(self, name: str, tree: Any) -> None:
        (self.folder / "in" / name).write_text(yaml.safe_dump(tree, sort_keys=False))

    def text_numbers(self, name: str, text: str) -> None:
        """Pin numbers with a decimal point that a verb says and leaves in no file."""
        found = re.findall(r"(?<![\w.])[-+−]?\d+\.\d+(?:e[-+]?\d+)?", text)
        self.extra[f"{name}:numbers"] = {"exact": found}

    def _command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "phaseloom", *map(str, words)]

    def _finish(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, check=False, capture_output=True, text=True, **self._where())

    def _where(self) -> dict[str, Any]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("PHASELOOM")}
        environment = given | ENVIRONMENT | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT / "src")}
        return {"cwd": self.folder, "env": environment}

    def _log(self, words: tuple[object, ...], text: str) -> None:
        with open(self.folder / "log.txt", "a") as file:
            file.write(f"$ {' '.join(map(str, words))}\n{text}\n")


# Data, by numpy alone

ELECTRONS = {"energy": "80 keV", "pixel": "0.2 A", "step": "0.45 A"}
FOCUSED = {"focused": {"semiangle": "40 mrad", "defocus": "60 A", "modes": 1}}
WAVELENGTH, PIXEL, WINDOW = 0.041757, 0.2, 24


def film(
    grid: tuple[int, int], window: int = WINDOW, dose: float = 1e5, step: float = 0.45, seed: int = 3
) -> np.ndarray:
    """Counts (row, column, y, x) of a thin film of atoms under a defocused probe of 40 mrad."""
    rng = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(window, PIXEL)
    squared = frequency[:, None] ** 2 + frequency**2
    inside = WAVELENGTH * np.sqrt(squared) <= 0.04
    spectrum = inside * np.exp(1j * np.pi * WAVELENGTH * 60.0 * squared)
    spectrum *= window * np.sqrt(dose) / np.linalg.norm(spectrum)
    size = [int(np.ceil(n * step / PIXEL)) + window + 4 for n in grid]
    y, x = np.indices(size) * PIXEL
    phase = np.zeros(size)
    for centre in rng.uniform(0, np.array(size) * PIXEL, (size[0] * size[1] // 40, 2)):
        phase += 0.5 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * 0.35**2))
    counts = np.empty((*grid, window, window), np.uint16)
    for row, column in np.ndindex(grid):
        place = np.array([row, column]) * step / PIXEL + window // 2 + 1
        whole = np.round(place).astype(int)
        ramps = [np.exp(-2j * np.pi * np.fft.fftfreq(window) * rest) for rest in place - whole]
        wave = np.fft.fftshift(np.fft.ifft2(spectrum * ramps[0][:, None] * ramps[1]))
        top, left = whole - window // 2
        far = np.fft.fft2(wave * np.exp(1j * phase[top : top + window, left : left + window]), norm="ortho")
        counts[row, column] = rng.poisson(np.fft.fftshift(np.abs(far) ** 2))
    return counts


def electrons(run: Run, grid: tuple[int, int] = (6, 6), step: float = 0.45, **knobs: Any) -> dict[str, Any]:
    """A scan in `in/scan.npy`, and the tree of a parameter file for it."""
    np.save(run.folder / "in" / "scan.npy", film(grid, step=step, **knobs))
    run.write("scan.npy.yaml", ELECTRONS | {"step": f"{step} A"})
    return {"file": "scan.npy", "probe": FOCUSED, "start": "none", "epochs": 3, "device": "cpu"}


def disks(run: Run, grid: tuple[int, int] = (16, 16)) -> None:
    """Patterns of a disk that wanders and changes its strength, in `in/disks.npy`; labels beside."""
    y, x = (n / (grid[0] - 1) for n in np.mgrid[: grid[0], : grid[1]])
    v, u = np.mgrid[:16, :16] - 8
    centre = np.stack([np.sin(5 * x), np.cos(4 * y)], -1).reshape(-1, 2, 1, 1)
    away = np.hypot(v - 3 * centre[:, 0], u - 3 * centre[:, 1])
    rate = (20 + 10 * x * y).reshape(-1, 1, 1) / (1 + np.exp(3 * (away - 3)))
    counts = np.random.default_rng(0).poisson(rate).astype(np.uint16)
    np.save(run.folder / "in" / "disks.npy", counts.reshape(*grid, 16, 16))
    np.save(run.folder / "in" / "labels.npy", (x > 0.5).astype(np.int64).ravel())
    run.write("disks.npy.yaml", {"energy": "200 keV", "angle": "1 mrad", "step": "2 A"})


# The cases

CASES: dict[str, Callable[[Run], None]] = {}
INSIDE: dict[str, Callable[[], None]] = {}


def case(function: Callable[[Run], None]) -> Callable[[Run], None]:
    CASES[function.__name__] = function
    return function


def inside(function: Callable[[], None]) -> Callable[[], None]:
    INSIDE[function.__name__] = function
    return function


@case
def near_field(run: Run) -> None:
    """The X-ray scan of the package: looked at, reconstructed for two epochs."""
    shutil.copy(SAMPLE, run.folder / "in" / "near.cxi")
    run("look", "in/near.cxi")
    settings = ["start=none", "epochs=2", "read.cxi.focus=3.65 mm", "noise=poisson", "rates.background=0.2"]
    words = [word for setting in settings for word in ("-s", setting)]
    run("reconstruct", "in/near.cxi", *words, "--out", "run", "-q")


@case
def electron(run: Run) -> None:
    """A first guess that is found, halves, and what can be done with a result."""
    tree = electrons(run, (9, 10), step=0.9)
    probe = {"focused": {"semiangle": "40 mrad", "defocus": "75 A", "modes": 2}}
    outputs = [{"stacks": {"of": ["phase"]}}, {"ptyrad": {}}]
    del tree["start"]
    run.write("run.yaml", tree | {"probe": probe, "epochs": 6, "outputs": outputs})
    run("reconstruct", "in/run.yaml", "--out", "run", "-q", "--halves")
    run("reconstruct", "run/result.h5", "-s", "epochs=2", "--out", "again", "-q")
    done = run("compare", "run/result.h5", "again/result.h5")
    run.text_numbers("compare", done.stdout)


@case
def adam(run: Run) -> None:
    """Two slices, two modes, rates by hand, penalties, projections, changes; interrupted and gone on with."""
    probe = {"focused": {"semiangle": "40 mrad", "defocus": "60 A", "modes": 2}}
    rates = {"object": 0.02, "probe": {"rate": 0.01, "start": 2, "shape": {"exponential": {"factor": 0.8}}}}
    tree = electrons(run) | {
        "object": {"pixels": {"slices": 2, "thickness": "4 A", "kind": "amplitude and phase"}},
        "probe": probe,
        "optimizer": {"adam": {"momentum": 0.8, "memory": 0.98}},
        "rates": rates | {"positions": 0.01, "thickness": 0.01},
        "penalties": [{"sparse": {"weight": 0.05}}, {"smooth_depth": {"weight": 0.1}}],
        "projections": ["orthogonal", {"positive": {"relax": 0.1}, "start": 2, "every": 2}],
        "changes": [{"epoch": 3, "part": "positions", "rate": 0.0}],
        "batch": {"compact": {"size": 12}},
        "shape": "one_cycle",
        "epochs": 16,
        "seed": 7,
    }
    run.write("run.yaml", tree)
    run("check", "in/run.yaml")
    run.interrupted("run", "reconstruct", "in/run.yaml", "--out", "run", "-q", lines=4)
    run("reconstruct", "run", "--resume", "-q")


@case
def ptyrad(run: Run) -> None:
    """A parameter file of PtyRAD: run as it is, and converted with its search."""
    np.save(run.folder / "in" / "scan.npy", film((6, 6)).reshape(36, WINDOW, WINDOW))
    init = {"probe_kv": 80, "probe_conv_angle": 40, "probe_aberrations": {"C10": -60}, "meas_Npix": WINDOW}
    init |= {"pos_N_scan_slow": 6, "pos_N_scan_fast": 6, "pos_scan_step_size": 0.45, "probe_pmode_max": 2}
    init |= {"obj_Nlayer": 2, "obj_slice_thickness": 4, "meas_params": {"path": "scan.npy"}}
    init |= {"meas_calibration": {"mode": "dx", "value": PIXEL}}
    constraint = {"objp_postiv": {"start_iter": 1, "relax": 0.0}, "kz_filter": {"start_iter": 1}}
    low_high = {"low": -90, "high": -30}
    tune = {"C10": {"state": True, "suggest": "float", "kwargs": low_high}}
    tune |= {"plr": {"state": True, "suggest": "float", "kwargs": {"low": 1e-5, "high": 1e-3, "log": True}}}
    tree = {
        "init_params": init,
        "recon_params": {"NITER": 2, "BATCH_SIZE": {"size": 12}},
        "loss_params": {"loss_sparse": {"state": True}, "loss_pacbed": {"state": True}},
        "constraint_params": constraint,
    }
    run.write("plain.yaml", tree)
    run.write("tuned.yaml", tree | {"hypertune_params": {"if_hypertune": True, "tune_params": tune}})
    run("reconstruct", "in/plain.yaml", "-s", "device=cpu", "--out", "run", "-q")
    run("convert", "in/tuned.yaml", "--out", "converted.yaml")


@case
def describe(run: Run) -> None:
    """Every section, every choice, of every parameter file; in one process, as only codes are pinned."""
    run.inside("describe_all")


SECTIONS = {
    "reconstruct": (
        "file read prepare object probe propagator detector noise penalties start rates changes optimizer "
        "shape projections batch outputs epochs axial levels holdout patience seed device preset title"
    ),
    "train": "stage model stitching specimen microscope losses optimizer shape doses joint geometry",
    "autoencoder": "model losses optimizer shape block halves",
    "virtual": "semiangle centre annuli segments level",
    "restorer": "data task model losses weighting optimizer shape crops scales",
    "pairs": "files scan task by share draws target",
    "simulate": "specimen microscope count layout",
    "search": "over sampler pruner objective trials finals warm",
}


@inside
def describe_all() -> None:
    import contextlib
    import runpy

    def call(*words: str) -> str:
        sys.argv = ["phaseloom", *words]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                runpy.run_module("phaseloom", run_name="__main__")
            except SystemExit as end:
                if end.code:
                    raise
        return said.getvalue()

    call("describe")
    choices = 0
    for of, sections in SECTIONS.items():
        call("describe", "--of", of)
        for section in sections.split():
            text = call("describe", section, "--of", of)
            if text.startswith(f"{section}: one of"):
                names = [line.split()[0] for line in text.splitlines()[1:]]
                for name in names:
                    call("describe", section, name, "--of", of)
                choices += len(names)
    print(choices, "choices")


TWO = {"object": {"pixels": {"slices": 2, "thickness": "4 A", "kind": "amplitude and phase"}}}
SMALL_RATES = {"object": 0.02, "probe": 0.02, "positions": 0.02}

FLAVOURS: dict[str, dict[str, Any]] = {
    "default": {},
    "found": {"start": {"sweep": {"steps": 5, "rungs": [2, 4]}}, "epochs": 2},
    "levels": {"levels": 1, "epochs": 4},
    "thin object": {"object": {"pixels": {"kind": "phase"}}},
    "states": {"object": {"pixels": {"modes": 2, "occupancies": [0.7, 0.3]}}},
    "four slices": {
        "object": {"pixels": {"slices": 4, "thickness": "3 A"}},
        "rates": {"thickness": 0.1, "tilts": 0.1},
    },
    "bandlimited": {"object": {"bandlimited": {"pixel": "0.4 A"}}},
    "aberrated": {
        "probe": {"aberrated": {"semiangle": "40 mrad", "defocus": "65 A", "aberrations": {"C12": "5 A"}}}
    },
    "soft probe": {
        "probe": {
            "focused": {
                "semiangle": "40 mrad",
                "defocus": "6 nm",
                "astigmatism": "3 A",
                "spherical": "1 um",
                "modes": 3,
                "shares": [0.8, 0.15, 0.05],
                "soft": True,
            }
        }
    },
    "from patterns": {"probe": {"from_patterns": {"defocus": "60 A", "modes": 2}}},
    "limited": {"probe": {"limited": {"radius": "2 A", "semiangle": "45 mrad", "spectrum": True}}},
    "pupil": {"probe": {"pupil": {"semiangle": "40 mrad", "defocus": "60 A"}}},
    "relaxed": {"probe": {"relaxed": {"basis": 3, "modes": 1, "defocus": "60 A"}}},
    "fresnel": {**TWO, "propagator": {"fresnel": {"tilt": ["2 mrad", "-1 mrad"]}}},
    "tilts of each": {**TWO, "propagator": {"exact": {"each": True}}, "rates": {"tilts": 0.2}},
    "blurred": {"detector": {"counting": {"blur": 0.5, "area": True, "saturation": 5000}}},
    "ewald": {"detector": {"counting": {"ewald": "lens"}}},
    "background": {"rates": {"background": 0.2, "weights": 0.2, "descan": 0.1}},
    "moving scan": {"rates": {"affine": 0.1, "defocus": 0.1, "lines": 0.1}},
    "gaussian": {"noise": "gaussian"},
    "amplitude": {"noise": {"amplitude": {"floor": 0.02}}},
    "compact": {"batch": {"compact": {"size": 9}}},
    "sparse": {"batch": {"sparse": {"size": 9, "accumulate": 2}}},
    "accumulated": {"batch": {"random": {"size": 6, "accumulate": 3}}, "holdout": 0.2, "seed": 5},
}
"""Parameter files that differ from that of `electrons` in the sections given."""

PENALTIES: dict[str, Any] = {
    "pacbed": {},
    "quadratic": {"about": "zero"},
    "relative_gaussian": {},
    "relative_poisson": {},
    "similarity": {},
    "smooth_depth": {},
    "sparse": {},
    "tv": {"how": "isotropic"},
}
PROJECTIONS: dict[str, Any] = {
    "aperture": {"radius": 0.4},
    "bounded": {"most": 1.0},
    "bounded_amplitude": {"relax": 0.1},
    "complex_ratio": {},
    "depth_blur": {"std": 0.7},
    "lateral_blur": {},
    "low_pass": {"radius": 0.4},
    "mirrored_amplitude": {},
    "missing_wedge": {},
    "orthogonal": {},
    "positive": {},
    "power": {},
    "recentre": {},
    "still": {"relax": 0.5},
    "strongest_cosines": {"keep": 0.5},
    "support": {"steps": 11},
    "upright": {},
}
OPTIMIZERS = ["adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "lbfgs"]
OPTIMIZERS += ["nadam", "radam", "rmsprop", "rprop", "sgd", "gauss_newton"]
SHAPES: dict[str, Any] = {
    "constant": {},
    "cosine": {"floor": 0.1, "hold": 0.2},
    "cosine_annealing": {"epochs": 4},
    "cyclic": {"up": 2},
    "exponential": {},
    "late": {},
    "linear": {},
    "linear_decay": {"hold": 2, "decay": 3},
    "multi_step": {"after": [2, 3]},
    "one_cycle": {},
    "plateau": {"patience": 1, "factor": 0.5},
    "polynomial": {"power": 2.0},
    "step": {"every": 2},
    "warm_restarts": {"epochs": 2},
    "warm_up": {},
}
PREPARED: dict[str, list[Any]] = {
    "affine": [{"affine": {"scale": 1.02, "asymmetry": 0.01, "rotation": "1 deg", "shear": "0.5 deg"}}],
    "bin": [{"bin": {"factor": 2}}],
    "calibrate": [{"calibrate": {"semiangle": "41 mrad"}}],
    "center": ["center"],
    "crop": [{"crop": {"to": [20, 20]}}],
    "detector blur": [{"detector_blur": {"std": 0.5}}],
    "enlarge": [{"enlarge": {"to": [28, 28]}}],
    "flip": [{"flip": {"axis": "y"}}],
    "half": [{"half": {"which": 0}}],
    "jitter": [{"jitter": {"std": 0.05, "seed": 3}}],
    "mask": [{"mask": {"radius": 11.0}}],
    "nonnegative": [{"nonnegative": {"how": "clip"}}],
    "normalise": ["normalise"],
    "pad": [{"pad": {"to": [28, 28], "fill": "none"}}],
    "poisson": [{"poisson": {"dose": 2e4, "seed": 4}}],
    "region": [{"region": {"every": [1, 2]}}],
    "resample": [{"resample": {"factor": 1.5}}],
    "rotate": [{"rotate": {"angle": "5 deg"}}],
    "scale": [{"scale": {"factor": 1.1}}],
    "select": [{"select": {"start": 3, "every": 2}}],
    "source size": [{"source_size": {"std": "0.1 A"}}],
    "thin": [{"thin": {"which": 0, "share": 0.3}}],
    "transpose": ["transpose"],
    "window": [{"window": {"rows": [1, 23], "columns": [0, 22]}}],
    "without": [{"without": {"numbers": [3, 8]}}],
}


@case
def flavours(run: Run) -> None:
    """Choices of a parameter file one by one, from a program: `pl.Job.begin(pl.Reconstruct.of(tree))`."""
    run.write("run.yaml", electrons(run))
    run.inside("run_flavours")


def run_in_process(trees: dict[str, dict[str, Any]]) -> None:
    """Run parameter files in this process, and keep what they come to in one file."""
    import torch

    import phaseloom as pl

    torch.set_num_threads(1)
    base = yaml.safe_load(Path("in/run.yaml").read_text())
    base["file"] = "in/scan.npy"
    found: dict[str, Any] = {}
    for key, tree in trees.items():
        try:
            job = pl.Job.begin(pl.Reconstruct.of(base | tree))
            epochs = list(job)
            result = job.result()
        except pl.BadInput as problem:
            print(f"FAILED {key}: {problem}")
            continue
        found[f"{key}/losses"] = np.array([epoch.loss for epoch in epochs])
        for part in (
            "object",
            "probe",
            "positions",
            "tilts",
            "weights",
            "background",
            "descan",
            "object_modes",
        ):
            array = getattr(result, part, None)
            if array is not None and (part in ("object", "probe", "positions") or np.ptp(array) > 0):
                found[f"{key}/{part}"] = array
        found[f"{key}/scalars"] = np.array([result.thickness, *result.pixel, *result.origin])
        if key.startswith("prepare"):
            found[f"{key}/counts"] = job.scan.mean_pattern()
    np.savez("flavours.npz", **found)


@inside
def run_flavours() -> None:
    trees = {f"penalty {name}": TWO | {"penalties": [{name: knobs}]} for name, knobs in PENALTIES.items()}
    slow = TWO | {"optimizer": "adam", "rates": SMALL_RATES, "epochs": 2}
    for name, knobs in PROJECTIONS.items():
        trees[f"projection {name}"] = slow | {"projections": [{name: knobs}]}
    each = {"propagator": {"exact": {"each": True}}, "rates": SMALL_RATES | {"tilts": 0.1}}
    trees["projection smooth_tilts"] = slow | each | {"projections": ["smooth_tilts"]}
    for name in OPTIMIZERS:
        trees[f"optimizer {name}"] = {"optimizer": name, "rates": SMALL_RATES, "epochs": 2}
    for name, knobs in SHAPES.items():
        trees[f"shape {name}"] = {"shape": {name: knobs}, "epochs": 5}
    for name, steps in PREPARED.items():
        trees[f"prepare {name}"] = {"prepare": steps, "epochs": 1}
    run_in_process(FLAVOURS | trees)


@case
def readers(run: Run) -> None:
    """One scan in every format, as `pl.read` has it."""
    electrons(run, (4, 5))
    run.inside("write_and_read")


@inside
def write_and_read() -> None:
    import scipy.io
    import tifffile
    import zarr

    import phaseloom as pl

    counts = np.load("in/scan.npy")
    place = Path("in")
    np.savez(place / "scan.npz", counts=counts)
    scipy.io.savemat(place / "scan.mat", {"counts": counts})
    tifffile.imwrite(place / "scan.tif", counts.reshape(20, WINDOW, WINDOW))
    zarr.save(str(place / "scan.zarr"), counts)
    with h5py.File(place / "scan.hdf5", "w") as file:
        file["data/patterns"] = counts
    counts.astype("<f4").tofile(place / "scan.raw")
    np.savetxt(place / "places.csv", np.random.default_rng(1).uniform(0, 9, (20, 2)), delimiter=",")
    known = ELECTRONS | {"grid": [4, 5]}
    more: dict[str, dict[str, Any]] = {
        "scan.npy": ELECTRONS,
        "scan.npz": ELECTRONS,
        "scan.mat": known | {"key": "counts"},
        "scan.tif": known | {"rotation": "12 deg"},
        "scan.zarr": ELECTRONS,
        "scan.hdf5": ELECTRONS | {"dataset": "data/patterns", "selection": "0:3, :, 2:-2, 2:-2"},
        "scan.raw": known | {"shape": [4, 5, WINDOW, WINDOW]},
    }
    found = {}
    for name, knobs in more.items():
        scan = pl.read(place / name, knobs=knobs)
        found[f"{name}/counts"] = np.asarray(scan.counts[:])
        found[f"{name}/positions"] = scan.positions
        found[f"{name}/angle"] = np.array(scan.geometry.angle)
    scan = pl.read(SAMPLE)
    found |= {"near/mean": scan.mean_pattern(), "near/positions": scan.positions, "near/probe": scan.probe}
    np.savez("read.npz", **{key: value for key, value in found.items() if value is not None})


@case
def simulate(run: Run) -> None:
    """Samples of both microscopes, with phonons and counts."""
    scan = {"scan": [4, 5], "window": 32, "detector": 12}
    run.write("fixed.yaml", {"count": 2, "seed": 7, "microscope": {"fixed": scan | {"phonons": 2}}})
    varied = {"scan": [4, 4], "window": 48, "detector": 12, "dose": [1e4, 1e5], "jitter": ["0.1 A", "0.2 A"]}
    run.write("varied.yaml", {"count": 2, "seed": 3, "microscope": {"varied": varied}})
    run("simulate", "in/fixed.yaml", "--out", "fixed", "--workers", 1, "-q")
    run("simulate", "in/varied.yaml", "--out", "varied", "--workers", 1, "-q")


@case
def virtual(run: Run) -> None:
    """Images of detectors, deflections and profiles."""
    disks(run)
    words = ["--semiangle", "3.2 mrad", "--annulus", "1.2,2.0", "--segments", 4]
    run("virtual", "in/disks.npy", *words, "--out", "images.h5")
    run("virtual", "in/disks.npy", "-s", "level=false", "--out", "plain.h5")


@case
def predict(run: Run) -> None:
    """Both networks of the package on a simulated scan, and a reconstruction that begins with one."""
    run("simulate", "--out", "set", "--count", 1, "--seed", 5, "--workers", 1, "-q",
        "-s", "microscope.fixed.scan=[14, 15]", "-s", "microscope.fixed.dose=1e6")  # fmt: skip
    with h5py.File(run.folder / "set/000000.h5") as file:
        angle = json.loads(file.attrs["experiment"])
        np.save(run.folder / "in" / "scan.npy", np.asarray(file["patterns"]).astype(np.float32))
    assert angle["energy"] == 80e3
    pixel = 0.0417572 / (angle["window"] * (angle["pixel"] or 0.4)) * angle["bin"]
    run.write("scan.npy.yaml", {"energy": "80 keV", "angle": f"{1e3 * pixel:.6f} mrad", "step": "2 A"})
    optics = ["-s", "probe.focused.semiangle=20 mrad", "-s", "probe.focused.defocus=90 A"]
    run("predict", "scan", "in/scan.npy", "-m", "tiny", *optics, "--out", "tiny")
    run("predict", "scans", "in/scan.npy", "-m", "linear", *optics, "--out", "many")
    more = ["-s", "object.predicted.model=tiny", "-s", "start=none", "-s", "epochs=2", "-s", "device=cpu"]
    run("reconstruct", "in/scan.npy", *optics, *more, "--out", "run", "-q")


LESSONS: dict[str, Any] = {
    "microscope": {"fixed": {"scan": [16, 16]}},
    "scans": 4,
    "unseen": 2,
    "views": 8,
    "batch": 4,
    "epochs": 2,
    "clean": 0.5,
    "device": "cpu",
}
SMALL_NET = {"small": {"depth": 1, "width": 32, "heads": 4, "channels": 4}}
TINY_NET = {"tiny": {"components": 24, "width": 8, "depth": 1}}


@case
def train_linear(run: Run) -> None:
    tree = {"model": {"linear": {"components": 20}}, "scans": 6, "unseen": 2}
    run.write("train.yaml", tree | {"microscope": LESSONS["microscope"]})
    run("train", "linear", "in/train.yaml", "--out", "run")


@case
def train_patches(run: Run) -> None:
    """Trained with every loss, interrupted and gone on with."""
    losses = ["contrast", "edges", "rings", {"physics": {"probes": 2}, "start": 2}]
    more = {"model": TINY_NET, "losses": losses, "epochs": 6, "fresh": 0.25, "seed": 3, "window": [14, 14]}
    run.write("train.yaml", LESSONS | more)
    run.interrupted("run", "train", "patches", "in/train.yaml", "--out", "run", "-q")
    run("train", "patches", "run", "--resume", "-q")


@case
def train_retrieval(run: Run) -> None:
    """The three steps one after the other."""
    tree = {"model": SMALL_NET, "stitching": {"residual": {"width": 8}}, "views": 4, "batch": 2, "epochs": 1}
    joint = {"rate": 1e-4, "seed": 1, "epochs": 1}
    run.write("train.yaml", LESSONS | tree | {"joint": joint})
    run("train", "retrieval", "in/train.yaml", "--out", "run", "-q")


@case
def autoencoder(run: Run) -> None:
    """Trained, interrupted, gone on with; latents, groups of them; the components alone."""
    disks(run)
    net = {"recommended": {"latent_dim": 3, "width": 8, "head_channels": 2}}
    tree = {"file": "disks.npy", "model": net, "block": 4, "epochs": 6, "device": "cpu", "seed": 1}
    run.write("train.yaml", tree | {"losses": ["squares", {"decorrelated": {"weight": 0.02}}]})
    run.interrupted("run", "train", "autoencoder", "in/train.yaml", "--out", "run", "-q")
    run("train", "autoencoder", "run", "--resume", "-q")
    words = ["-s", "model.pca.latent_dim=3", "-s", "block=4", "-s", "device=cpu"]
    run("train", "autoencoder", "in/disks.npy", *words, "--out", "pca", "-q")
    run("embed", "in/disks.npy", "--model", "run", "--out", "embeddings.h5")
    run("embed", "in/disks.npy", "--model", "pca", "--out", "components.npz")
    more = ["--scan", "in/disks.npy", "--model", "run", "--labels", "in/labels.npy", "--seeds", 2]
    run("latents", "embeddings.h5", *more, "--out", "groups")
    run("latents", "components.npz", "--clusters", 3, "--raw", "--seeds", 2, "--out", "raw")


TINY_RESTORER = '{"recommended": {"widths": [4, 8], "blocks": [1, 1], "heads": [1, 2], "refine": 0}}'


@case
def restore(run: Run) -> None:
    """Pairs of photographs, a network of them, its scores and its use; the run file's way, resumed."""
    run("restore", "demo-data", "sea", "--train", 6, "--test", 3, "--size", 32, "--seed", 1)
    words = ["--dataset_path", "sea", "--batch_size", 2, "--niter", 0, "--niter_decay", 1, "--seed", 123]
    small = ["--set", f"model={TINY_RESTORER}", "--set", "crops=16"]
    run("restore", "train", *words, *small, "--out", "flags", "--quiet")
    run("restore", "eval", "--data", "sea", "--model", "flags", "--out", "scores")
    run(
        "restore",
        "apply",
        "sea/test/input",
        "-m",
        "flags",
        "--out",
        "restored",
        "--tile",
        32,
        "--overlap",
        16,
    )


@case
def restore_phases(run: Run) -> None:
    """Pairs of phases and of images of detectors from scans, a restorer of them, a result restored."""
    scans = []
    for number in range(3):
        tree = electrons(run, (8, 9), step=0.9, dose=4e5, seed=number)
        for name in ("scan.npy", "scan.npy.yaml"):
            (run.folder / "in" / name).rename(run.folder / "in" / f"{number}{name}")
        run.write(f"{number}.yaml", tree | {"file": f"{number}scan.npy"})
        scans.append(f"in/{number}.yaml")
    words = ["--share", 0.3, "--draws", 2]
    run("restore", "pairs", *scans, *words, "--task", "phase", "--by", "reconstruct", "--out", "phases")
    beam = ["--set", "scan.semiangle=40 mrad", "--task", "virtual_detector"]
    run("restore", "pairs", "in/0scan.npy", "in/1scan.npy", *words, *beam, "--out", "detectors")
    more = {
        "data": ["../phases"],
        "model": json.loads(TINY_RESTORER),
        "epochs": 6,
        "crops": 16,
        "device": "cpu",
    }
    run.write("train.yaml", more | {"weighting": "softmax", "losses": ["charbonnier", "gradient"]})
    run.interrupted("net", "train", "restorer", "in/train.yaml", "--out", "net", "-q")
    run("train", "restorer", "net", "--resume", "-q")
    run("reconstruct", "in/0.yaml", "--out", "run", "-q")
    run("restore", "apply", "run", "-m", "net", "--out", "restored")


@case
def search(run: Run) -> None:
    """Trials by a grid and by a model, with finals; more of them in a folder that is there."""
    run.write("run.yaml", electrons(run) | {"holdout": 0.2})
    grid = {"over": {"probe.focused.defocus": ["40 A", "60 A", "80 A"]}, "sampler": "grid", "epochs": 2}
    run.write("grid.yaml", grid | {"finals": 1})
    over = {"rates.object": {"low": 0.05, "high": 0.3, "log": True}, "optimizer": ["gauss_newton", "adam"]}
    run.write("tpe.yaml", {"over": over, "sampler": {"tpe": {"startup": 1}}, "trials": 2, "seed": 3})
    run("search", "in/run.yaml", "in/grid.yaml", "--workers", 1, "--out", "grid", "-q")
    run("search", "in/run.yaml", "in/tpe.yaml", "--workers", 1, "--out", "tpe", "-q")
    run("search", "--resume", "tpe", "--trials", 4, "-q")


@case
def calibrate(run: Run) -> None:
    """What the file does not say is found: orientation, defocus, step."""
    tree = electrons(run, (6, 6), step=0.6, dose=1e6)
    probe = {"focused": {"semiangle": "40 mrad", "defocus": "75 A"}}
    run.write("run.yaml", tree | {"probe": probe, "prepare": ["transpose"], "epochs": 2})
    run("calibrate", "in/run.yaml", "--out", "calibrated.yaml")


@case
def demo(run: Run) -> None:
    run("demo", "--out", "demo", "-q")


@case
def cdtools(run: Run) -> None:
    """A script written for CDTools, on the sample of the package."""
    shutil.copy(SAMPLE, run.folder / "in" / "near.cxi")
    run.inside("run_cdtools")


@inside
def run_cdtools() -> None:
    import torch

    from phaseloom.compat import cdtools as CDTools

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = CDTools.datasets.Ptycho2DDataset.from_cxi("in/near.cxi")
    model = CDTools.models.FancyPtycho.from_dataset(
        dataset, n_modes=2, near_field=True, propagation_distance=3.65e-3, units="um"
    )
    losses = list(model.Adam_optimize(2, dataset, lr=0.02, batch_size=20))
    model.translation_offsets.requires_grad = False
    losses += list(model.Adam_optimize(1, dataset, lr=0.005, batch_size=50))
    model.tidy_probes()
    found = {"losses": np.array(losses), "probe": model.probe, "obj": model.obj, "weights": model.weights}
    found |= {"offsets": model.translation_offsets, "places": model.corrected_translations(dataset)}
    arrays = {name: torch.as_tensor(value).detach().numpy() for name, value in found.items()}
    np.savez("cdtools.npz", **arrays)
    model.save_to_h5("results.h5", dataset)


# Record and check


def facts() -> dict[str, str]:
    """What bits depend on besides the code."""
    import torch

    model = ""
    if Path("/proc/cpuinfo").is_file():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else ""
    versions = {
        name: metadata.version(name) for name in ("torch", "numpy", "scipy", "numba", "h5py", "optuna")
    }
    return {
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "processor": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def run_case(name: str, keep: Path | None) -> dict[str, Any]:
    """A case from its data to its fields."""
    with tempfile.TemporaryDirectory(prefix="pins-") as scratch:
        folder = (keep or Path(scratch)) / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = Run(folder)
        CASES[name](run)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {
            place: value if isinstance(value, dict) else summary(value) for place, value in fields(folder)
        }
        log = (folder / "log.txt").read_text()
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"exit": run.codes, "fields": found | run.extra, "seconds": round(seconds, 1), "log": log}


def record(path: Path, names: list[str], keep: Path | None = None) -> int:
    """Write down what the code of now comes to."""
    whole = json.loads(path.read_text()) if path.is_file() and set(names) != set(CASES) else {"cases": {}}
    for name in names:
        done = run_case(name, keep)
        log = done.pop("log")
        whole["cases"][name] = done
        bad = f"  EXIT CODES {done['exit']}\n{log}" if any(done["exit"]) else ""
        failed = re.findall("FAILED .*", log)
        print(
            f"{name:16s} {len(done['fields']):5d} fields {done['seconds']:7.1f} s{bad}", *failed, sep="\n  "
        )
    whole["facts"] = facts()
    whole["seconds"] = round(sum(one["seconds"] for one in whole["cases"].values()), 1)
    path.write_text(to_text(whole))
    print(f"{whole['seconds']} CPU seconds, {path.stat().st_size / 1e3:.0f} kB")
    return 0


def to_text(whole: dict[str, Any]) -> str:
    """JSON with a line for each field."""
    lines = ["{", f'"facts": {json.dumps(whole["facts"])},', f'"seconds": {whole["seconds"]},', '"cases": {']
    for number, (name, one) in enumerate(whole["cases"].items()):
        head = f'"{name}": {{"exit": {one["exit"]}, "seconds": {one["seconds"]}, "fields": {{'
        body = [
            f"{json.dumps(place)}: {json.dumps(value, separators=(',', ':'))}"
            for place, value in one["fields"].items()
        ]
        end = "}}" + ("," if number + 1 < len(whole["cases"]) else "")
        lines += [head, ",\n".join(body), end]
    return "\n".join([*lines, "}", "}"]) + "\n"


def rename(place: str) -> str:
    """Where a field of the record stands now."""
    for old, new in RENAMED.items():
        place = re.sub(old, new, place)
    return place


def check(path: Path, names: list[str], keep: Path | None = None, *, close: bool = False) -> int:
    """Run again, compare, and say what differs; 1 if anything does, with ``close`` by more than 1e-6."""
    whole = json.loads(path.read_text())
    now = facts()
    for name, value in whole["facts"].items():
        if now.get(name) != value:
            print(f"note: {name} is {now.get(name)}, and was {value} in the record: bits may differ")
    wrong = 0
    print(f"{'case':16s} {'equal':>6s} {'1e-6':>6s} {'DIFFERENT':>10s} {'missing':>8s} {'new':>5s} {'s':>7s}")
    for name in names:
        if name not in whole["cases"]:
            print(f"{name:16s} is not in the record")
            wrong += 1
            continue
        counts = print_case(name, whole["cases"][name], run_case(name, keep))
        wrong += counts[1] + (0 if close else counts[0])
    print("all as recorded" if not wrong else f"{wrong} differences")
    return 1 if wrong else 0


def print_case(name: str, old: dict[str, Any], new: dict[str, Any]) -> tuple[int, int]:
    """A line of the table with what differs under it; how many fields are close, and how many differ."""
    then = {rename(place): value for place, value in old["fields"].items()}
    now = new["fields"]
    close: list[str] = []
    different: list[str] = []
    missing = [place for place in then if place not in now]
    for place in then.keys() & now.keys():
        verdict = compare_fields(then[place], now[place])
        if verdict == "close":
            close.append(place)
        elif verdict != "equal":
            different.append(f"{place}: {verdict}")
    if old["exit"] != new["exit"]:
        different.append(f"exit codes: {old['exit']} -> {new['exit']}\n{new['log']}")
    equal = len(then) - len(missing) - len(close) - len([one for one in different if "exit codes" not in one])
    extra = len(now.keys() - then.keys())
    counts = (
        f"{equal:6d} {len(close):6d} {len(different):10d} {len(missing):8d} {extra:5d} {new['seconds']:7.1f}"
    )
    print(f"{name:16s} {counts}")
    for word, places in (("1e-6", close), ("DIFFERENT", different), ("missing", missing)):
        for place in sorted(places)[:20]:
            print(f"    {word:9s} {place}")
        if len(places) > 20:
            print(f"    {word:9s} ... and {len(places) - 20} more")
    return len(close), len(different) + len(missing)


def main() -> int:
    parser = argparse.ArgumentParser(description="What every verb comes to, bit by bit.")
    parser.add_argument("what", choices=["record", "check", "inside"])
    parser.add_argument("file", help="the record, .json")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(CASES), help="these cases")
    parser.add_argument(
        "--keep", type=Path, help="a folder for the files of the cases; default: none is kept"
    )
    parser.add_argument("--close", action="store_true", help="check: 1e-6 is enough, for another machine")
    given = parser.parse_args()
    if given.what == "inside":
        warnings.simplefilter("ignore")
        INSIDE[given.file]()
        return 0
    keep = given.keep.resolve() if given.keep else None
    names = given.only or list(CASES)
    if given.what == "record":
        return record(Path(given.file), names, keep)
    return check(Path(given.file), names, keep, close=given.close)


if __name__ == "__main__":
    sys.exit(main())
