"""Pty-chi 2.2.0, through its tasks: least-squares maximum likelihood (LSQML) or Adam on its autodiff model.

    python -m benchmarks.peers.ptychi case.npz settings.json out.json

Settings: ``engine`` lsqml or adam; rates of ``object``, ``probe``, ``positions`` (for LSQML factors on
its own best steps, 1 by default; for Adam that of the probe is relative to its peak); ``batch``; for
LSQML ``momentum`` and the ``batching`` (random, uniform, compact). ``device`` is cpu if nothing else is said;
on a GPU its patterns lie there too.
"""

import logging
import os
from pathlib import Path

import numpy as np
import torch

from benchmarks import record
from benchmarks.cases import first_probe
from benchmarks.score import phases

__all__ = ["reconstruct"]

ANGSTROM = 1e-10


def options(case, settings, peak):
    """Its tree of options; ``peak`` is the probe's largest amplitude."""
    from ptychi import api

    lsqml = settings["engine"] == "lsqml"
    tree = api.LSQMLOptions() if lsqml else api.AutodiffPtychographyOptions()
    parts = (tree.object_options, tree.probe_options, tree.probe_position_options)
    for part, name in zip(parts, ("object", "probe", "positions"), strict=True):
        part.optimizable = bool(settings["rates"][name])
        natural = peak if name == "probe" and not lsqml else 1.0
        part.step_size = natural * settings["rates"][name] or 1.0
        part.optimizer = api.Optimizers.SGD if lsqml else api.Optimizers.ADAM
    tree.data_options.wavelength_m = float(case["wavelength"]) * ANGSTROM
    tree.object_options.pixel_size_m = float(case["dx"]) * ANGSTROM
    slices = len(case["obj_phase"])
    if slices > 1:
        tree.object_options.slice_spacings_m = [float(case["dz"]) * ANGSTROM] * (slices - 1)
    run = tree.reconstructor_options
    run.num_epochs, run.batch_size = settings["epochs"], settings["batch"]
    on_card = settings.get("device", "cpu") != "cpu"
    run.default_device, run.random_seed = api.Devices.GPU if on_card else api.Devices.CPU, settings["seed"]
    tree.data_options.save_data_on_device = on_card
    if lsqml:
        run.momentum_acceleration_gain = settings.get("momentum", 0.0)
        run.batching_mode = api.BatchingModes[settings.get("batching", "random").upper()]
    return tree


def task(case, settings):
    """A task from nominal positions, a flat object and the first probe."""
    from ptychi.api.task import PtychographyTask

    places = (case["pos_nominal_px"] - case["pos_nominal_px"].mean(0)).astype(np.float32)
    size = case["meas"].shape[-1]
    shape = [int(n) + size + 16 for n in np.ceil(np.ptp(places, axis=0))]
    probe = first_probe(case, settings["off"]) * np.float32(np.sqrt(case["dose"]) / size)
    return PtychographyTask(
        options(case, settings, float(np.abs(probe).max())),
        diffraction_data=case["meas"],
        object_data=torch.ones([len(case["obj_phase"]), *shape], dtype=torch.complex64),
        probe_data=torch.as_tensor(probe)[None],
        probe_position_x_px=places[:, 1],
        probe_position_y_px=places[:, 0],
    )


def state(run):
    """Phase of each slice, and positions, whose zero is the middle of the object."""
    found = run.get_data_to_cpu("object", as_numpy=True)
    places = run.get_data_to_cpu("probe_positions", as_numpy=True)
    return phases(found), places + np.array(found.shape[-2:]) / 2


def reconstruct(case, settings, watch):
    """Run its task epoch by epoch."""
    torch.manual_seed(settings["seed"])
    run = task(case, settings)
    watch.begin()
    try:
        while True:
            run.run(1)
            watch(lambda: state(run))
    finally:
        torch.set_default_device(None)  # its task sets a default


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    record.stand_in(Path(__file__).with_name("stubs"))
    record.main("ptychi", reconstruct, "ptychi")
