"""Scans of tike's tests: the automatic run beside pty-chi and CDTools, each from the probe in the file.

    python -m benchmarks.tike_samples OUT.json --simulated setup.npz --truth object.npy --star star.npz \
        --environment FOLDER

The files are those of ``tests/data`` of github.com/AdvancedPhotonSource/tike (BSD, not in this repository):
``siemens-star-small.npz.bz2``, decompressed, and ``ptycho_setup.pickle.lzma``, whose arrays are saved by
``numpy.savez(..., data=, scan=, probe=)`` and whose object is the truth. ``FOLDER/bin/python`` has pty-chi
2.2.0 and CDTools 0.3.2. Every run is a process of its own with one thread; the clock has model and epochs,
not imports nor scores. Of the simulated scan the score is the correlation of the complex object with the
truth over the scanned field, after a shift, a constant and a ramp of the phase; of the star the mean square
error of amplitudes, of all patterns, from those that a model gives.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import machine, one_thread, stand_in
from benchmarks.score import correlate_objects

ROOT = Path(__file__).parents[1]
ENERGY, PIXEL = 8.8e3, 28.18e-9
"""Of no consequence: the files are in pixels."""

WAVELENGTH = 1.2398419843e-6 / ENERGY
AROUND = 20
BEAM = 16
"""Pixels of the probe of the simulated scan, whose places are its corners."""

Yields = tuple[Iterator[Any], Callable[[], tuple[np.ndarray, np.ndarray]], Callable[[], np.ndarray]]

ARMS: dict[str, dict[str, Any]] = {
    "ours, automatic": {"program": "ours"},
    "ours, automatic, 100 epochs": {"program": "ours", "epochs": 100, "only": "simulated"},
    "ours, automatic, 300 epochs": {"program": "ours", "epochs": 300, "only": "simulated"},
    "ours, six modes, background, intensities": {
        "program": "ours",
        "only": "star",
        "tree": {"probe": {"stored": {"modes": 6}}, "rates": {"background": 0.2, "weights": 0.2}},
    },
    "pty-chi LSQML": {"program": "ptychi", "epochs": {"simulated": 300, "star": 20}, "modes": 2},
    "CDTools Adam": {"program": "cdtools", "epochs": {"simulated": 300, "star": 20}, "modes": 2},
}
"""What is run."""


def load(path: Path, arm: dict[str, Any]) -> dict[str, np.ndarray]:
    """Patterns with the zero frequency in the middle, places in pixels, and modes on the window."""
    with np.load(path) as file:
        data, places = (file[name].reshape(-1, *file[name].shape[-2:]) for name in ("data", "scan"))
        waves = file["probe"].reshape(-1, *file["probe"].shape[-2:])
    data = np.fft.fftshift(data, axes=(-2, -1))
    gap = (data.shape[-1] - waves.shape[-1]) // 2
    waves = np.pad(waves, [(0, 0), (gap, gap), (gap, gap)])
    waves = waves * np.sqrt(data.sum((1, 2)).mean() / (np.abs(waves) ** 2).sum())
    rest = arm.get("modes", len(waves)) - len(waves)
    if rest > 0:  # further modes with a tenth of the amplitude, as slopes of the first
        row, column = np.indices(waves.shape[-2:]) - waves.shape[-1] / 2
        more = [waves[0] * slope / 200 for slope in (row, column)][:rest]
        waves = np.concatenate([waves, more])
    return {"data": data, "places": places.reshape(-1, 2)[: len(data)].astype(float), "probe": waves}


def begin_ours(path: Path, scan: dict[str, np.ndarray], arm: dict[str, Any]) -> Yields:
    """A job: epochs, object with its corner of the first window, patterns."""
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    read = {"npz": {"energy": f"{ENERGY} eV", "pixel": f"{PIXEL * 1e9} nm"}}
    epochs = {"epochs": arm["epochs"]} if "epochs" in arm else {}
    tree = {"file": str(path), "device": "cpu", "read": read, **epochs, **arm.get("tree", {})}
    job = Job.begin(Reconstruct.of(tree))
    half = scan["data"].shape[-1] // 2

    def found() -> tuple[np.ndarray, np.ndarray]:
        result = job.result()
        places = (np.asarray(result.positions) - np.asarray(result.origin)) / np.asarray(result.pixel)
        return np.prod(result.object, axis=0), (places - half - scan["places"]).mean(0)

    def patterns() -> np.ndarray:
        with torch.no_grad():
            rows = torch.arange(len(scan["data"])).split(32)
            return torch.cat([job.model.detector.display(job.model(one)) for one in rows]).numpy()

    return iter(job), found, patterns


def begin_ptychi(path: Path, scan: dict[str, np.ndarray], arm: dict[str, Any]) -> Yields:
    """LSQML with the settings of pty-chi's own test; positions are refined on the star only."""
    from ptychi import api
    from ptychi.api.task import PtychographyTask

    options = api.LSQMLOptions()
    parts = (options.object_options, options.probe_options, options.probe_position_options)
    for part in parts:
        part.optimizable, part.optimizer, part.step_size = True, api.Optimizers.SGD, 1.0
    parts[2].optimizable = path.stem.startswith("siemens")
    options.object_options.pixel_size_m = PIXEL
    options.object_options.build_preconditioner_with_all_modes = True
    options.data_options.wavelength_m = WAVELENGTH
    run = options.reconstructor_options
    run.num_epochs, run.batch_size, run.default_device = arm["epochs"], 32, api.Devices.CPU
    run.noise_model, run.random_seed = api.NoiseModels.GAUSSIAN, 0
    middle = (scan["places"].min(0) + scan["places"].max(0)) / 2
    places = (scan["places"] - middle).astype(np.float32)
    size = scan["data"].shape[-1]
    shape = [int(np.ceil(span)) + size + 2 * AROUND for span in np.ptp(scan["places"], axis=0)]
    task = PtychographyTask(
        options,
        diffraction_data=scan["data"].astype(np.float32),
        object_data=torch.ones([1, *shape], dtype=torch.complex64),
        probe_data=torch.as_tensor(scan["probe"].astype(np.complex64))[None],
        probe_position_x_px=places[:, 1],
        probe_position_y_px=places[:, 0],
    )

    def epochs() -> Iterator[int]:
        for number in range(arm["epochs"]):
            task.run(1)
            yield number

    def found() -> tuple[np.ndarray, np.ndarray]:
        object = task.get_data_to_cpu("object", as_numpy=True)[0]
        now = task.get_data_to_cpu("probe_positions", as_numpy=True)
        corner = (np.array(object.shape) - size) / 2
        return object, (now + corner - scan["places"]).mean(0)

    def patterns() -> np.ndarray:
        with torch.no_grad():
            rows = torch.arange(len(scan["data"])).split(32)
            found = torch.cat([task.reconstructor.forward_model(one) for one in rows]).numpy()
            return np.fft.fftshift(found, axes=(-2, -1))  # it gives the zero frequency in the corner

    return epochs(), found, patterns


def begin_cdtools(path: Path, scan: dict[str, np.ndarray], arm: dict[str, Any]) -> Yields:
    """Adam at 0.02 for the first half and 0.005 for the second, as in both stages of its example."""
    import cdtools

    size = scan["data"].shape[-1]
    pitch = WAVELENGTH / (size * PIXEL)  # of a detector in one metre
    moves = np.zeros((len(scan["places"]), 3), np.float32)
    moves[:, :2] = -scan["places"][:, ::-1] * PIXEL
    basis = np.array([[0, -pitch], [-pitch, 0], [0, 0]], np.float32)
    geometry = {"distance": np.float32(1.0), "basis": basis, "corner": None}
    data = cdtools.datasets.Ptycho2DDataset(
        moves, scan["data"], wavelength=np.float32(WAVELENGTH), detector_geometry=geometry
    )
    knobs = {"n_modes": len(scan["probe"]), "obj_padding": AROUND, "loss": "amplitude mse"}
    model = cdtools.models.FancyPtycho.from_dataset(data, **knobs)
    probe = torch.as_tensor(scan["probe"].astype(np.complex64))
    model.probe_norm.data = probe[0].abs().max()
    model.probe.data = probe / model.probe_norm
    model.weights.requires_grad = False
    half = arm["epochs"] // 2

    def epochs() -> Iterator[Any]:
        settings = {"thread": False, "calculation_width": 16}
        yield from model.Adam_optimize(half, data, lr=0.02, batch_size=10, **settings)
        yield from model.Adam_optimize(arm["epochs"] - half, data, lr=0.005, batch_size=50, **settings)

    def found() -> tuple[np.ndarray, np.ndarray]:
        return model.obj.detach().numpy(), AROUND - scan["places"].min(0)

    def patterns() -> np.ndarray:
        with torch.no_grad():
            rows = torch.arange(len(data)).split(16)
            return torch.cat([model.forward(one, data.translations[one]) for one in rows]).numpy()

    return epochs(), found, patterns


BEGIN = {"ours": begin_ours, "ptychi": begin_ptychi, "cdtools": begin_cdtools}


def correlate(
    found: np.ndarray, offset: np.ndarray, truth: np.ndarray, places: np.ndarray, size: int
) -> float:
    """Correlation over the field that windows of a probe of ``size`` pixels see."""
    field = np.floor(places.min(0)).astype(int), np.ceil(places.max(0)).astype(int) + size
    return correlate_objects(found, np.round(offset).astype(int), truth, field, most=4, size=256)


def import_program(name: str) -> None:
    """Imports, which are not in the clock."""
    if name == "ours":
        import phaseloom.reconstruction.protocol  # noqa: F401
    elif name == "ptychi":
        stand_in(Path(__file__).parent / "peers" / "stubs")
        import ptychi.api.task  # noqa: F401
    else:
        import cdtools  # noqa: F401


def run_one(name: str, which: str, path: Path, truth: Path) -> dict[str, Any]:
    """CPU seconds and scores of one arm, along its epochs."""
    warnings.filterwarnings("ignore")
    one_thread()
    arm = dict(ARMS[name])
    arm["epochs"] = arm["epochs"][which] if isinstance(arm.get("epochs"), dict) else arm.get("epochs", 20)
    torch.manual_seed(0)
    import_program(arm["program"])
    scan = load(path, arm)
    known = np.load(truth)[0] if which == "simulated" else None
    spent = -time.process_time()
    epochs, found, patterns = BEGIN[arm["program"]](path, scan, arm)
    spent += time.process_time()
    rows: list[dict[str, float]] = []
    every = max(1, arm["epochs"] // 20)
    while True:
        started = time.process_time()
        ended = next(epochs, epochs) is epochs
        spent += time.process_time() - started
        if ended:
            break
        number = (rows[-1]["epoch"] if rows else 0) + 1
        row = {"epoch": number, "cpu_s": round(spent, 2)}
        if number % every == 0 or number == arm["epochs"]:
            if known is not None:
                gap = (scan["data"].shape[-1] - BEAM) // 2
                object, offset = found()
                row["correlation"] = round(correlate(object, offset + gap, known, scan["places"], BEAM), 4)
            else:
                error = np.sqrt(np.maximum(patterns(), 0)) - np.sqrt(scan["data"])
                row["loss"] = round(float((error**2).mean()), 5)
        rows.append(row)
    return {"arm": name, "scan": which, "epochs": rows, "cpu_s": round(spent, 2), **rows[-1]}


def main() -> None:
    """Run all, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--simulated", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--star", type=Path)
    parser.add_argument("--environment", type=Path, help="of pty-chi and CDTools")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SCAN"), help="one run, as JSON")
    given = parser.parse_args()
    if given.one:
        name, which = given.one
        print(json.dumps(run_one(name, which, getattr(given, which), given.truth)))
        return
    rows: list[dict[str, Any]] = []
    for which, name in ((which, name) for which in ("simulated", "star") for name in ARMS):
        if ARMS[name].get("only", which) != which or getattr(given, which) is None:
            continue
        own = ARMS[name]["program"] == "ours"
        python = sys.executable if own else str(given.environment / "bin" / "python")
        call = [python, "-m", "benchmarks.tike_samples", str(given.out), "--one", name, which]
        for flag in ("simulated", "truth", "star"):
            call += [f"--{flag}", str(getattr(given, flag))] if getattr(given, flag) else []
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
        done = subprocess.run(call, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(name, which, done.stderr[-1500:], flush=True)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(name, which, {key: rows[-1].get(key) for key in ("cpu_s", "correlation", "loss")}, flush=True)
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        known = {"commit": commit, "machine": f"{machine()}, one thread, shared", "runs": rows}
        given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
