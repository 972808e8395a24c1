"""PtyRAD 1.0.0, through its parameters and its solver.

    python -m benchmarks.peers.ptyrad case.npz settings.json out.json

Settings: rates of ``object`` (amplitude and phase), ``probe``, ``positions``; ``batch``; ``blur`` keeps
the program's default blurs of the object (0.4 pixel in a slice, 1 slice in depth), else only those
constraints stay that do not smooth: orthogonal modes, constant probe power, centred positions. ``device``
is cpu if nothing else is said, and ``compiled`` turns its ``torch.compile`` on.
"""

import logging
from pathlib import Path

import numpy as np
import torch

from benchmarks import record
from benchmarks.cases import first_probe

__all__ = ["reconstruct"]


def corners(case):
    """Nominal positions as the program wants them: corners of the windows on its own canvas."""
    from ptyrad.init.initializer import Initializer

    nominal = case["pos_nominal_px"] - case["pos_nominal_px"].mean(0)
    size = (case["meas"].shape[-1],) * 2
    return nominal + Initializer._compute_obj_extent_and_center_shift(nominal, size)[1]


def start(case, settings):
    """Its ``init_params``."""
    slices = len(case["obj_phase"])
    return {
        "probe_kv": float(case["kv"]),
        "probe_conv_angle": float(case["conv_angle"]),
        "probe_source": "custom",
        "probe_params": first_probe(case, settings["off"]),
        "probe_pmode_max": len(case["probe"]),
        "meas_Npix": case["meas"].shape[-1],
        "meas_calibration": {"mode": "dx", "value": float(case["dx"])},
        "meas_source": "custom",
        "meas_params": case["meas"].astype(np.float32).copy(),
        "pos_N_scan_slow": int(case["n_slow"]),
        "pos_N_scan_fast": int(case["n_fast"]),
        "pos_scan_step_size": float(case["scan_step"]),
        "pos_source": "custom",
        "pos_params": corners(case),
        "pos_scan_rand_std": 0.0,
        "obj_Nlayer": slices,
        "obj_slice_thickness": float(case["dz"]) if slices > 1 else 1.0,
        "random_seed": settings["seed"],
    }


def parameters(case, settings):
    """The whole tree of its parameters."""
    from ptyrad.params import PtyRADParams

    rates = settings["rates"]
    rates = {
        "obja": rates["object"],
        "objp": rates["object"],
        "probe": rates["probe"],
        "probe_pos_shifts": rates["positions"],
    }
    moving = {name: {"start_iter": 1 if rate else None, "lr": rate} for name, rate in rates.items()}
    sharp = (
        {} if settings.get("blur") else {name: {"start_iter": None} for name in ("obj_rblur", "obj_zblur")}
    )
    tree = {
        "init_params": start(case, settings),
        "model_params": {"update_params": moving, "optimizer_params": {"name": "Adam", "configs": {}}},
        "constraint_params": sharp,
        "recon_params": {
            "NITER": settings["epochs"],
            "BATCH_SIZE": {"size": settings["batch"], "grad_accumulation": 1},
            "GROUP_MODE": "random",
            "SAVE_ITERS": None,
            "copy_params": False,
            "compiler_configs": {"enable": settings.get("compiled", False)},
            "convergence_monitor": None,
        },
    }
    return PtyRADParams(**tree).model_dump()


def state(model):
    """Phase, averaged over object modes, and centres of the windows."""
    phase = model.opt_objp.detach().cpu().numpy().mean(0)
    places = (model.crop_pos + model.opt_probe_pos_shifts.detach()).cpu().numpy()
    return phase, places + model.opt_probe.shape[-2] // 2


def reconstruct(case, settings, watch):
    """Run its solver, listening to each of its iterations."""
    from ptyrad.solver import PtyRADSolver, reconstruction

    step = reconstruction.recon_step

    def watched(batches, grad_accumulation, model, *more, **named):
        if not watch.done:
            watch.begin()
        losses = step(batches, grad_accumulation, model, *more, **named)
        watch(lambda: state(model))
        return losses

    reconstruction.recon_step = watched
    try:
        device = torch.device(settings.get("device", "cpu"))
        solver = PtyRADSolver(parameters(case, settings), device=device, seed=settings["seed"])
        solver.run()
    finally:
        reconstruction.recon_step = step


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    record.stand_in(Path(__file__).with_name("stubs"))
    record.main("ptyrad", reconstruct, "ptyrad")
