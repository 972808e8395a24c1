"""quantem 0.1.10: Adam on its autograd model.

    python -m benchmarks.peers.quantem case.npz settings.json out.json

Settings: rates of ``object``, ``probe`` (relative to its peak), ``positions`` (pixels); ``batch``; ``kind``
complex, pure_phase or potential.
"""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np

from benchmarks import record
from benchmarks.cases import first_probe
from benchmarks.score import phases

__all__ = ["reconstruct"]


def dataset(case, settings):
    """Its data on the nominal raster, unrotated."""
    from quantem.core.datastructures.dataset4dstem import Dataset4dstem
    from quantem.diffractive_imaging.dataset_models import PtychographyDatasetRaster

    size, grid = case["meas"].shape[-1], (int(case["n_slow"]), int(case["n_fast"]))
    data = Dataset4dstem.from_array(
        array=case["meas"].reshape(*grid, size, size),
        sampling=(float(case["scan_step"]),) * 2 + (float(case["dk"]),) * 2,
        units=("A", "A", "A^-1", "A^-1"),
    )
    free = bool(settings["rates"]["positions"])
    made = PtychographyDatasetRaster.from_dataset4dstem(data, learn_descan=False, learn_scan_positions=free)
    made.preprocess(
        com_fit_function="none",
        plot_rotation=False,
        plot_com=False,
        probe_energy=float(case["kv"]) * 1e3,
        force_com_rotation=0,
        force_com_transpose=False,
    )
    return made


def model(case, settings):
    """Its whole model from the probe that all programs start from."""
    from quantem.diffractive_imaging.detector_models import DetectorPixelated
    from quantem.diffractive_imaging.object_models import ObjectPixelated
    from quantem.diffractive_imaging.probe_models import ProbePixelated
    from quantem.diffractive_imaging.ptychography import Ptychography

    probe = first_probe(case, settings["off"]) * np.float32(np.sqrt(case["dose"]))
    optics = {"energy": float(case["kv"]) * 1e3, "semiangle_cutoff": float(case["conv_angle"])}
    slices = len(case["obj_phase"])
    made = Ptychography.from_models(
        dset=dataset(case, settings),
        obj_model=ObjectPixelated.from_uniform(
            num_slices=slices,
            slice_thicknesses=float(case["dz"]) if slices > 1 else None,
            obj_type=settings["kind"],
        ),
        probe_model=ProbePixelated.from_array(
            num_probes=len(probe),
            probe_params=optics | {"C10": float(case["C10"]) + settings["off"]},
            probe_array=np.fft.ifftshift(probe, axes=(-2, -1)),
        ),
        detector_model=DetectorPixelated(),
        rng=settings["seed"],
        verbose=False,
    )
    made.preprocess(obj_padding_px=(16, 16))
    return made


def state(made):
    """Phase of each slice, and positions of the windows' centres."""
    found = made.obj_model.obj.detach().numpy()
    places = made.dset.scan_positions_px.detach().numpy()
    return (phases(found) if np.iscomplexobj(found) else found), places


def reconstruct(case, settings, watch):
    """Run it epoch by epoch."""
    with contextlib.redirect_stdout(io.StringIO()):
        made = model(case, settings)
    rates = settings["rates"]
    peak = float(made.probe_model.probe.detach().abs().max())
    steps = {
        "object": {"type": "adam", "lr": rates["object"]},
        "probe": {"type": "adam", "lr": rates["probe"] * peak},
    }
    if rates["positions"]:
        steps["dataset"] = {"type": "adam", "lr": rates["positions"]}
    more = {"reset": True, "optimizer_params": steps}
    watch.begin()
    while True:
        with contextlib.redirect_stdout(io.StringIO()):
            made.reconstruct(num_iters=1, batch_size=settings["batch"], device="cpu", **more)
        more = {}
        watch(lambda: state(made))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    record.stand_in(Path(__file__).with_name("stubs"))
    record.main("quantem", reconstruct, "quantem")
