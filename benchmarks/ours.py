"""Phaseloom in the race, through its public recipes; one setting for every case.

python -m benchmarks.ours case.npz settings.json out.json
"""

import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from benchmarks import record
from benchmarks.score import phases

__all__ = ["SETTINGS", "reconstruct"]

SETTINGS = {
    "object": {"kind": "complex"},
    "rates": {},
    "start": "none",
}
"""Laid over what the case says (geometry, optics, slices, modes); the same for all cases."""


def tree(path, case, settings):
    """The recipe of a case as a tree of plain values."""
    slices = len(case["obj_phase"])
    thing = {"slices": slices} | ({"thickness": f"{float(case['dz'])} A"} if slices > 1 else {})
    optics = {
        "semiangle": f"{float(case['conv_angle'])} mrad",
        "defocus": f"{-float(case['C10']) - settings['off']} A",
        "modes": len(case["probe"]),
    }
    chosen = SETTINGS | settings.get("tree", {})
    still = settings.get("still", ())
    known = ("affine",) if "positions" in still else ()  # a map of all positions moves them too
    rates = chosen["rates"] | dict.fromkeys((*still, *known), 0.0)
    return chosen | {
        "file": str(path),
        "read": {"npz": {"positions": "pos_nominal_px"}},
        "object": {"pixels": thing | chosen["object"]},
        "probe": {"focused": optics},
        "rates": rates,
        "epochs": settings["epochs"],
        "seed": settings["seed"],
    }


def state(job, dx):
    """Phase of each slice on the case's pixel, and positions on it; coarse levels are interpolated."""
    result = job.result()
    pixel = np.asarray(result.pixel)
    places = (np.asarray(result.positions) - np.asarray(result.origin)) / dx
    return finer(phases(result.object), pixel / dx), places


def finer(stack, factors):
    """Images on a grid finer by the factors (y, x), by cubic splines; the first pixels coincide."""
    if np.allclose(factors, 1):
        return stack
    shape = [int((n - 1) * f) + 1 for n, f in zip(stack.shape[-2:], factors, strict=True)]
    grid = np.meshgrid(*(np.arange(n) / f for n, f in zip(shape, factors, strict=True)), indexing="ij")
    return np.stack([map_coordinates(image, grid, order=3, mode="nearest") for image in stack])


def reconstruct(case, settings, watch):
    """Run a job epoch by epoch, as long as it wants to or may."""
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "case.npz")
        np.savez(path, **{name: value for name, value in case.items() if name not in HIDDEN})
        watch.born = record.now()
        job = Job.begin(Reconstruct.of(tree(path, case, settings)))
        watch.updates = len(job.recipe.batch(job.training, job.recipe.seed, job.scan.positions)(1))
        watch.begin()
        for _ in job:
            watch(lambda: state(job, float(case["dx"])))
        watch.ended = job.progress.stopped


HIDDEN = ("obj_phase", "probe", "pos_px", "meas_clean")
"""What a program must not see."""


if __name__ == "__main__":
    record.main("ours", reconstruct, "phaseloom")
