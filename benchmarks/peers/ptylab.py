"""PtyLab's own simulated sample, and its mPIE on it, in an environment with PtyLab 0.3.7.

    python benchmarks/peers/ptylab.py make FOLDER --seed 1       # simu.hdf5 and truth.npz
    python benchmarks/peers/ptylab.py run FOLDER --epochs 350    # ptylab.npz: object, positions, CPU seconds

Settings are those of its example script, without autofocus and l2 regularisation.
"""

import argparse
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np


def make(folder: Path, seed: int) -> None:
    """The file that its generator writes, and the object and the positions that it does not write."""
    from PtyLab.io import generateSimulationData as generator

    found: dict[str, Any] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code.co_name == "generate_simu_hdf5":
            local = frame.f_locals
            found.update(object=local["object_"], positions=local["positions"])

    np.random.seed(seed)  # noqa: NPY002 - its generator draws from it
    sys.setprofile(look)
    generator.generate_simu_hdf5(folder / "simu.hdf5")
    sys.setprofile(None)
    np.savez(folder / "truth.npz", **found)


def run(folder: Path, epochs: int) -> None:
    """Its mPIE from a round probe with the curvature of its example."""
    import PtyLab
    from PtyLab import Engines

    np.random.seed(0)  # noqa: NPY002
    data, model, params, monitor, _ = PtyLab.easyInitialize(
        folder / "simu.hdf5", operationMode="CPM", dummyMonitor=True
    )
    model.npsm = model.nosm = model.nlambda = model.nslice = 1
    model.initialProbe, model.initialObject = "circ", "ones"
    model.initializeObjectProbe()
    square = model.Xp**2 + model.Yp**2
    model.probe = model.probe * np.exp(1j * np.pi / (model.wavelength * model.zo * 2) * square)
    params.positionOrder, params.propagatorType = "random", "Fraunhofer"
    params.intensityConstraint, params.gpuSwitch = "standard", False
    params.fftshiftSwitch = params.couplingSwitch = params.orthogonalizationSwitch = False
    params.probePowerCorrectionSwitch, params.comStabilizationSwitch = True, 10
    params.probeSmoothenessSwitch, params.probeSmoothnessAleph, params.probeSmoothenessWidth = True, 1e-2, 10
    engine = Engines.mPIE(model, data, params, monitor)
    engine.numIterations = epochs
    began = time.process_time()
    engine.reconstruct()
    found = {"object": np.squeeze(np.asarray(model.object)), "positions": np.asarray(model.positions)}
    np.savez(folder / "ptylab.npz", **found, cpu_s=time.process_time() - began)


def main() -> None:
    """Make the sample, or reconstruct it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["make", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=350)
    given = parser.parse_args()
    if given.what == "make":
        make(given.folder, given.seed)
    else:
        run(given.folder, given.epochs)


if __name__ == "__main__":
    main()
