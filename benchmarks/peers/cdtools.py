"""CDTools (cdtools-py 0.3.2): Adam on its FancyPtycho or MultislicePtycho.

    python -m benchmarks.peers.cdtools case.npz settings.json out.json

Settings: rates of ``object``, ``probe`` (relative to its peak), ``positions`` (pixels); ``batch``;
``device`` is cpu if nothing else is said, and the patterns lie on it too.
"""

import warnings

import numpy as np
import torch

from benchmarks import record
from benchmarks.cases import first_probe
from benchmarks.score import phases

__all__ = ["reconstruct"]

ANGSTROM, AROUND = 1e-10, 8


def dataset(case):
    """Its data: a detector in one metre whose axes run against those of the object."""
    import cdtools

    size = case["meas"].shape[-1]
    pixel = float(case["wavelength"] * case["dk"])
    places = np.zeros((len(case["meas"]), 3), np.float32)
    places[:, :2] = -case["pos_nominal_px"][:, ::-1] * float(case["dx"]) * ANGSTROM
    basis = np.array([[0, -pixel], [-pixel, 0], [0, 0]], np.float32)
    assert abs(pixel * size * float(case["dx"]) - float(case["wavelength"])) < 1e-6
    return cdtools.datasets.Ptycho2DDataset(
        places,
        case["meas"],
        wavelength=np.float32(case["wavelength"] * ANGSTROM),
        detector_geometry={"distance": np.float32(1.0), "basis": basis, "corner": None},
    )


def model(case, settings, data):
    """Its model from the probe that all programs start from."""
    import cdtools

    slices, modes = len(case["obj_phase"]), len(case["probe"])
    more = {"n_modes": modes, "obj_padding": AROUND, "loss": "amplitude mse"}
    if slices > 1:
        thickness = float(case["dz"]) * ANGSTROM
        made = cdtools.models.MultislicePtycho.from_dataset(data, dz=thickness, nz=slices, **more)
    else:
        made = cdtools.models.FancyPtycho.from_dataset(data, **more)
    probe = torch.as_tensor(first_probe(case, settings["off"])) * float(case["dose"]) ** 0.5
    made.probe_norm.data = probe[0].abs().max()
    made.probe.data = (probe / made.probe_norm).to(torch.complex64)
    made.obj.data = torch.ones_like(made.obj)
    made.weights.requires_grad = False
    return made


def state(made, nominal, size):
    """Phase of each slice, and positions of the windows' centres."""
    found = made.obj.detach().cpu().numpy()
    offsets = made.translation_offsets.detach().cpu().numpy() * float(made.translation_scale)
    return phases(found.reshape(-1, *found.shape[-2:])), nominal - nominal.min(
        0
    ) + AROUND + size // 2 + offsets


def reconstruct(case, settings, watch):
    """Run its Adam, epoch by epoch."""
    import cdtools

    torch.manual_seed(settings["seed"])
    data = dataset(case)
    made = model(case, settings, data)
    rates = settings["rates"]
    made.translation_offsets.requires_grad = bool(rates["positions"])
    made.background.requires_grad = False
    made.to(device=settings.get("device", "cpu"))
    data.to(device=settings.get("device", "cpu"))
    factors = {
        "obj": rates["object"],
        "probe": rates["probe"],
        "translation_offsets": rates["positions"],
    }
    running = cdtools.reconstructors.AdamReconstructor(made, data)
    course = running.optimize(
        settings["epochs"],
        lr=1.0,
        lr_factors=factors,
        batch_size=settings["batch"],
        calculation_width=settings["batch"],
        thread=False,
    )
    watch.begin()
    for _ in course:
        watch(lambda: state(made, case["pos_nominal_px"], case["meas"].shape[-1]))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    record.main("cdtools", reconstruct, "cdtools-py")
