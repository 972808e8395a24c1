"""phaser (phaserEM 0.3.1) on JAX: its gradient engine with Adam, or its LSQML.

    python -m benchmarks.peers.phaser case.npz settings.json out.json

Settings: ``engine`` adam or lsqml; rates of ``object``, ``probe``, ``positions`` (Adam: that of the probe
relative to its peak, that of positions in pixels; LSQML: factors on its steps, and of the positions'
steepest descent, that of the object for 1e4 counts in a pattern); ``batch``; ``noise`` anscombe or poisson
(the gradient of ``amplitude`` is not finite where the model has no light). Compiling is most of the warm-up.
"""

import logging
import sys
import types

import numpy as np

from benchmarks import record
from benchmarks.cases import first_probe
from benchmarks.score import phases

__all__ = ["reconstruct"]


def source(case):
    """Its raw data as a hook wants them; patterns with their centre in the corner."""
    from phaser.utils.num import Sampling

    size, grid = case["meas"].shape[-1], (int(case["n_slow"]), int(case["n_fast"]))
    patterns = np.fft.ifftshift(case["meas"], axes=(-2, -1)).reshape(*grid, size, size)
    focused = {"type": "focused", "conv_angle": float(case["conv_angle"]), "defocus": 0.0}
    return {
        "patterns": patterns.astype(np.float32),
        "mask": np.ones((size, size), np.float32),
        "sampling": Sampling((size, size), sampling=(float(case["dx"]),) * 2),
        "wavelength": float(case["wavelength"]),
        "scan_hook": {"type": "raster", "shape": grid, "step_size": (float(case["scan_step"]),) * 2},
        "probe_hook": focused,
        "tilt_hook": None,
        "seed": 0,
    }


def gradient(case, settings, peak):
    """Its engine of gradients with Adam."""
    rates = settings["rates"]
    steps = {"object": rates["object"], "probe": rates["probe"] * peak}
    if rates["positions"]:
        steps["positions"] = rates["positions"] * float(case["dx"])
    noise = settings.get("noise", "anscombe")
    return {
        "type": "gradient",
        "noise_model": {"type": noise, **({"eps": 0.1} if noise == "poisson" else {})},
        "solvers": {k: {"type": "adam", "learning_rate": v, "nesterov": True} for k, v in steps.items()},
        "regularizers": [],
    }


def conventional(case, settings):
    """Its LSQML. Its best step of the object falls with the counts, so that the factor has to grow."""
    rates = settings["rates"]
    factor = rates["object"] * float(case["dose"]) / 1e4
    moving = {"type": "steepest_descent", "step_size": rates["positions"]}
    solver = {"type": "lsqml", "beta_object": factor, "beta_probe": rates["probe"]}
    return {
        "type": "conventional",
        "noise_model": {"type": "amplitude"},
        "solver": solver,
        **({"position_solver": moving} if rates["positions"] else {}),
    }


def plan(case, settings, peak):
    """Its plan of one engine."""
    from phaser.plan import ReconsPlan

    engine = gradient(case, settings, peak) if settings["engine"] == "adam" else conventional(case, settings)
    engine |= {
        "probe_modes": len(case["probe"]),
        "niter": settings["epochs"],
        "grouping": settings["batch"],
        "update_positions": bool(settings["rates"]["positions"]),
        "group_constraints": [],
        "iter_constraints": [],
        "buffer_n_groups": None,
        "calc_error": False,
        "bwlim_frac": None,
    }
    slices = len(case["obj_phase"])
    deep = {"slices": {"n": slices, "total_thickness": float(case["dz"]) * slices}} if slices > 1 else {}
    tree = {"name": "race", "backend": "jax", "raw_data": "benchmarks_source:load", "engines": [engine]}
    return ReconsPlan.from_data(tree | deep)


def state(now):
    """Phase of each slice, and positions in pixels of the object."""
    from phaser.utils.num import to_numpy

    frame = now.object.sampling
    places = (to_numpy(now.scan.data).reshape(-1, 2) - frame.corner) / frame.sampling
    return phases(to_numpy(now.object.data)), places


def observer(watch):
    """Listens to its iterations."""
    import jax
    from phaser.observer import Observer

    class Listening(Observer):
        def start_engine(self, *_args):
            watch.begin()

        def update_iteration(self, now, *_args):
            jax.block_until_ready((now.object.data, now.probe.data, now.scan.data))
            watch(lambda: state(now))

    return Listening()


def reconstruct(case, settings, watch):
    """Run its plan from the probe that all programs start from."""
    import jax.numpy as jnp
    from phaser.execute import execute_engine, initialize_reconstruction

    module = types.ModuleType("benchmarks_source")
    module.load = lambda _args, props: source(case)
    sys.modules["benchmarks_source"] = module
    probe = first_probe(case, settings["off"]) * np.float32(np.sqrt(case["dose"]))
    made = plan(case, settings, float(np.abs(probe).max()))
    prepared = initialize_reconstruction(made, override_observers=observer(watch), seed=settings["seed"])
    prepared.state.probe.data = jnp.asarray(probe)
    execute_engine(prepared, made.engines[0])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    record.main("phaser", reconstruct, "phaserEM", compiles=True)
