"""Small files under the names that pages use, and what keeps a page's commands short."""

import io
import re
import shlex
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import yaml

import phaseloom as pl
from benchmarks import detector
from phaseloom import cli
from phaseloom.data.formats import cxi, native
from phaseloom.data.scan import Geometry, Scan4D, wavelength_of
from phaseloom.runs.lock import release_all
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import simulate_scan
from tests.conftest import holograms
from tests.data import hdf5_files, vendor_files
from tests.docs.pages import ALL, ROOT

PIXEL, WINDOW, STEP, GRID = 0.3, 24, 0.7, (6, 6)
RECIPE = {
    "file": "scan.cxi",
    "probe": {"focused": {"semiangle": "25 mrad", "defocus": "0 A"}},
    "start": "none",
    "preset": "none",
    "epochs": 2,
}
BEAM = "probe={focused: {semiangle: 25 mrad, defocus: 0 A}}"


def _simulate_electrons(grid: tuple[int, int], window: int, step: float, defocus: float) -> Scan4D:
    margin = (window // 2 + 2) * PIXEL
    places = pl.simulate.raster(grid, step, jitter=0.03) + margin
    side = int(np.ceil((places.max() + margin) / PIXEL)) + 4
    truth = pl.simulate.atoms((side, side), PIXEL)
    beam = {"energy": 80e3, "semiangle": 0.025, "defocus": defocus, "window": window, "dose": 1e5}
    scan, _ = pl.simulate.electron_scan(truth, PIXEL, places, **beam)
    return replace(scan, grid=grid)


@cache
def electrons() -> Scan4D:
    """A scan of 36 patterns in focus: 80 keV, 25 mrad."""
    return _simulate_electrons(GRID, WINDOW, STEP, 0.0)


@cache
def raster() -> Scan4D:
    """A scan that direct methods and calibrations can work with: 256 patterns, 10 nm of under-focus."""
    return _simulate_electrons((16, 16), 48, 0.9, 100.0)


@cache
def sparse_raster(semiangle: float = 0.020, defocus: float = 90.0) -> Scan4D:
    """A scan with the steps of the networks of the package, 2 angstrom."""
    optics = {"semiangle": semiangle, "aberrations": {"defocus": defocus}, "dose": 1e5}
    experiment = Experiment(scan=(14, 14), **optics)
    return simulate_scan(specimens.prototypes(experiment.box, np.random.default_rng(20)), experiment).scan()


@cache
def make_disks() -> Scan4D:
    """Nanobeam patterns of a crystal, 5 x 6 places, whose disks do not overlap."""
    y, x = np.indices((56, 56))
    rate = sum(
        np.exp(-np.hypot(h, k)) / (1 + np.exp((np.hypot(y - 28 - 12 * h, x - 28 - 13 * k) - 3) / 0.3))
        for h in range(-2, 3)
        for k in range(-2, 3)
    )
    counts = np.random.default_rng(0).poisson(20 * rate, (30, 56, 56))
    geometry = Geometry(wavelength=0.025, shape=(56, 56), angle=(5e-4, 5e-4), beam="electron")
    places = np.indices((5, 6)).reshape(2, -1).T * 20.0
    return Scan4D(counts=counts, positions=places, geometry=geometry, grid=(5, 6))


@cache
def photons() -> Scan4D:
    """A far-field scan of the simulated detector: 8 keV, 2 m."""
    made = detector.simulate((8, 9), window=32, step=3.0, photons=3e4, seed=2)
    geometry = Geometry(
        wavelength=1.5498, shape=(32, 32), angle=(3.75e-5, 3.75e-5), distance=2e10, beam="photon"
    )
    return Scan4D(counts=made.frames, positions=made.positions * 1e10, geometry=geometry, grid=(8, 9))


def _at_energy(scan: Scan4D, energy: float) -> Scan4D:
    """The same patterns, as if taken at another energy in eV."""
    return replace(scan, geometry=replace(scan.geometry, wavelength=wavelength_of(energy)))


def _counts() -> np.ndarray:
    return np.asarray(electrons().counts).astype(np.uint16)


def _write_params(path: Path) -> None:
    """A parameter file of PtyRAD with its data."""
    np.save(path.with_name("scan.npy"), _counts())
    init = {"probe_kv": 80, "probe_conv_angle": 25, "meas_Npix": WINDOW, "meas_params": {"path": "scan.npy"}}
    init |= {"pos_N_scan_slow": 6, "pos_N_scan_fast": 6, "pos_scan_step_size": 0.7, "obj_Nlayer": 1}
    init |= {"obj_slice_thickness": 1.0, "meas_calibration": {"mode": "dx", "value": PIXEL}}
    recon = {"NITER": 2, "SAVE_ITERS": None}
    path.write_text(yaml.safe_dump({"init_params": init, "recon_params": recon}))


def _write_recipe(path: Path) -> None:
    if not path.with_name("scan.cxi").exists():
        cxi.write(electrons(), path.with_name("scan.cxi"))
    path.write_text(yaml.safe_dump({**RECIPE, "holdout": 0.2}))


def _write_calibration(path: Path) -> None:
    native.write(raster(), path.with_name("raster.h5"))
    tree = {"file": "raster.h5", "probe": {"focused": {"semiangle": "25 mrad"}}, "epochs": 2}
    path.write_text(yaml.safe_dump(tree))


def _write_search(path: Path) -> None:
    over = {"probe.focused.defocus": {"low": "-20 A", "high": "20 A"}}
    path.write_text(yaml.safe_dump({"over": over, "trials": 1, "finals": 0, "silence": 2}))


def _write_run(path: Path) -> None:
    """A run folder of three epochs, with its data beside the sandbox's other files."""
    if not Path("scan.cxi").exists():
        cxi.write(electrons(), Path("scan.cxi"))
    call(["reconstruct", "scan.cxi", *shlex.split(QUICK), "-s", BEAM, "--out", str(path)])


def _write_wide_run(path: Path) -> None:
    """The same of 256 patterns."""
    native.write(raster(), Path("raster.h5"))
    beam = "probe={focused: {semiangle: 25 mrad, defocus: 10 nm}}"
    call(["reconstruct", "raster.h5", *shlex.split(QUICK), "-s", beam, "--out", str(path)])


def _write_run_under_way(path: Path) -> None:
    """A run that was cut off after two of a hundred epochs, of which each was kept."""
    cxi.write(electrons(), Path("scan.cxi"))
    tree = {**RECIPE, "epochs": 100, "snapshots": 1, "penalties": [{"sparse": {"weight": 0.1}}]}
    for epoch in pl.Job.begin(pl.Reconstruct.of(tree), path):
        if epoch.number == 2:
            break
    release_all()


@contextmanager
def run_under_way(path: Path) -> Iterator[None]:
    """A run that goes on in a thread, until the end of the block."""
    cxi.write(electrons(), Path("scan.cxi"))
    job, is_over = pl.Job.begin(pl.Reconstruct.of({**RECIPE, "epochs": 10_000}), path), threading.Event()

    def follow() -> None:
        for _ in job:
            if is_over.wait(0.01):
                break

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=30)
        release_all()


def _write_direct(path: Path) -> None:
    native.write(raster(), Path("raster.h5"))
    call(["direct", "raster.h5", "--semiangle", "25 mrad", "--out", str(path)])


def _write_angles(path: Path) -> None:
    made = detector.simulate((8, 9), window=64, step=4.0, photons=3e4, seed=2)
    geometry = Geometry(
        wavelength=1.5498, shape=(64, 64), angle=(3.75e-5, 3.75e-5), distance=2e10, beam="photon"
    )
    scan = Scan4D(counts=made.frames, positions=made.positions * 1e10, geometry=geometry, grid=(8, 9))
    native.write(scan, Path("projection.h5"))
    for number in range(2):
        beam = "probe={from_patterns: {defocus: 6.4 mm}}"
        words = ["reconstruct", "projection.h5", *shlex.split(QUICK), "-s", beam]
        call([*words, "--out", f"projection{number}"])
    path.write_text("0, projection0\n60, projection1\n")


def _write_folder(path: Path) -> None:
    path.mkdir()
    native.write(electrons(), path / "scan.h5")
    cxi.write(photons(), path / "photons.cxi")


def _write_frames(path: Path) -> None:
    path.mkdir(parents=True)
    for number, pattern in enumerate(np.asarray(photons().counts)):
        np.save(path / f"frame_{number:04d}.npy", pattern)


MAKERS: dict[str, Callable[[Path], object]] = {
    "scan.cxi": lambda path: cxi.write(electrons(), path),
    "scan.h5": lambda path: native.write(electrons(), path),
    "scan.npy": lambda path: np.save(path, _counts()),
    "scan.mib": lambda path: vendor_files.write_mib(path, _counts()),
    "scan.ptyd": lambda path: hdf5_files.write_ptyd(path, np.asarray(photons().counts), (8, 9)),
    "datacube.h5": lambda path: hdf5_files.write_py4dstem(path, np.asarray(raster().counts), (16, 16)),
    "holograms.cxi": lambda path: cxi.write(holograms(), path),
    "run.yaml": _write_recipe,
    "search.yaml": _write_search,
    "params.yaml": _write_params,
    "direct.h5": _write_direct,
    "angles.csv": _write_angles,
    "DATA": _write_folder,
    "RUN": _write_run,
    "runs/a": _write_run,
    "runs/scan": _write_run,
    "runs/DATE-scan": _write_run,
    "runs/20261121-101500-scan": _write_run,
    "runs/2026-11-25-scan": _write_run,
    "result.h5": lambda path: (_write_run(Path("finished")), shutil.copy("finished/result.h5", path)),
    "improved.yaml": _write_recipe,
    "data/scan6.h5": lambda path: native.write(photons(), path),
    "data/scan7_master.h5": lambda path: native.write(photons(), path),
    "data/scan7/": _write_frames,
}
"""What writes a file or folder of a name that pages use."""

OTHERS: dict[str, dict[str, Callable[[Path], object]]] = {
    "docs/howto-slices-modes.md": {"runs/DATE-scan": _write_wide_run},
    "docs/howto-beamtime.md": {
        "energy1.cxi": lambda path: cxi.write(photons(), path),
        "energy2.cxi": lambda path: cxi.write(_at_energy(photons(), 8.8e3), path),
        "left.cxi": lambda path: cxi.write(photons(), path),
        "right.cxi": lambda path: cxi.write(photons(), path),
    },
    "docs/engines.md": {"simu.hdf5": lambda path: native.write(photons(), path)},
    "docs/scaling.md": {"train.yaml": lambda path: shutil.copy(ROOT / "examples" / "train_small.yaml", path)},
    "docs/howto-near-field.md": {"scan.cxi": MAKERS["holograms.cxi"]},
    "docs/steering.md": {"RUN": _write_run_under_way},
    "docs/direct.md": {"scan.h5": lambda path: native.write(raster(), path)},
    "docs/calibration.md": {"run.yaml": _write_calibration},
    "docs/autoencoder.md": {"scan.h5": lambda path: native.write(raster(), path)},
    "docs/strain.md": {"film.h5": lambda path: native.write(make_disks(), path)},
    "docs/learned.md": {"scan.h5": lambda path: native.write(sparse_raster(), path)},
    "docs/restoration.md": {
        f"scan{number}.h5": lambda path: native.write(sparse_raster(), path) for number in range(1, 5)
    },
}
"""The same where a page means another kind of scan by the name."""


def call(words: list[str]) -> str:
    """Run a command line in this process; what it prints.

    Raises:
        AssertionError: it ends with another code than 0.
    """
    said, code = io.StringIO(), 0
    with patch.object(sys, "argv", ["phaseloom", *words]), redirect_stdout(said), redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    assert code == 0, f"{shlex.join(words)}: code {code}\n{said.getvalue()[-3000:]}"
    return said.getvalue()


QUICK = "-q -s epochs=3 -s start=none -s preset=none"
TRAIN = (
    "-q -s epochs=1 -s microscope.fixed.scan=[14,14] -s scans=2 -s unseen=1 -s views=4 -s batch=2 "
    "-s workers=1 -s precision=float32 -s 'model={small: {width: 16, depth: 1, heads: 2, channels: 2}}'"
)
KEEP_SHORT = (
    (r"reconstruct .*--resume", "-q"),
    (r"reconstruct params.yaml", "-q"),
    (r"reconstruct .*--draws", f"{QUICK} --draws 2"),
    (r"reconstruct ", QUICK),
    (r"watch ", "-q --silence 2 -s epochs=2 -s start=none -s 'probe={from_patterns: {defocus: 6.4 mm}}'"),
    (r"improve ", "--patterns 60 --epochs 1"),
    (r"search .*--resume", "-q --trials 2"),
    (r"search --join", "-q"),
    (r"search ", "-q --trials 1 --workers 1"),
    (r"train autoencoder", "-s epochs=1 -s block=4"),
    (r"train linear", "-s scans=3 -s unseen=1 -s views=8"),
    (r"train (patches|stitching|end-to-end|retrieval) train.yaml", TRAIN),
    (r"simulate simulate.yaml", "--count 1 --workers 1 -s microscope.varied.scan=[14,14]"),
    (r"simulate ", "--count 1 --workers 1 -s microscope.fixed.scan=[14,14]"),
    (r"restore demo-data", "--train 6 --test 2 --size 48"),
    (r"restore train", "-s epochs=1 -s model=narrow -s crops=32 -s batch=2"),
)
"""What is put behind a command, by the first pattern that it begins with: shorter, and otherwise as shown."""

DETECTOR = "tcp://127.0.0.1:9999"
STAND_INS = (
    ("tcp://detector:9999", DETECTOR),
    ("/data/", "data/"),
    ("benchmarks/detector.yaml", str(ROOT / "benchmarks" / "detector.yaml")),
)
"""Names of a user's own machines and folders, and what stands for them."""


def write_named_files(page: str) -> None:
    """Write blocks of parameter files whose first line is the name of a file, and what they name."""
    for block in ALL:
        name = re.match(r"# (\S+\.yaml)\n", block.text)
        if block.page == page and block.language == "yaml" and name:
            Path(name[1]).write_text(block.text)
            tree = yaml.safe_load(block.text)
            joined = [step["join"]["path"] for step in tree.get("prepare", []) if "join" in step]
            make_files(page, [name for name in (tree.get("file"), *joined) if name])


def make_files(page: str, words: list[str]) -> None:
    """Make what the words of a command name, where it is not there yet."""
    makers = MAKERS | OTHERS.get(page, {})
    given = [word for before, word in zip(["", *words], words, strict=False) if before != "--out"]
    for name in sorted(makers, key=len, reverse=True):
        is_named = any(word == name or word.startswith(f"{name}/") for word in given)
        if is_named and not Path(name).exists():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            makers[name](Path(name))


def start_detector() -> tuple[threading.Thread, str]:
    """A thread that sends the frames of a scan; it, and the address that it sends from."""
    scan = detector.simulate((8, 9), window=32, step=3.0, photons=3e4, seed=2)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{one.getsockname()[1]}"
    thread = threading.Thread(target=detector.send, args=(address, scan), kwargs={"rate": 200.0}, daemon=True)
    thread.start()
    return thread, address


def run_line(page: str, line: str) -> str:
    """Run a line of a shell block; what it prints."""
    for name, own in STAND_INS:
        line = line.replace(name, own)
    line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line)
    line = re.sub(r"^torchrun\b.* -m phaseloom\.cli ", "phaseloom ", line)  # several processes: tests/fitting
    if line.startswith("python -m benchmarks.detector "):  # is started with the line that listens
        return ""
    program, *words = shlex.split(line, comments=True)
    assert program == "phaseloom", f"{line}: no test runs {program}; say why, or which one does"
    make_files(page, words)
    extra = next((more for key, more in KEEP_SHORT if re.match(key, " ".join(words))), "")
    if DETECTOR not in words:
        return call([*words, *shlex.split(extra)])
    thread, address = start_detector()
    try:
        return call([address if word == DETECTOR else word for word in words] + shlex.split(extra))
    finally:
        thread.join(timeout=30)


def list_lines(text: str) -> list[str]:
    """Commands of a block, continued lines as one."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
