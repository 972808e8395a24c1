"""What a PtyRAD file says, said in our words: every setting has its counterpart or a note."""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from phaseloom.compat.ptyrad import translate_project
from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.spec import to_yaml
from phaseloom.units import LENGTH, electron_wavelength
from tests.ptyrad import LEAST

SECTIONS = ("model_params", "loss_params", "constraint_params", "recon_params", "hypertune_params")


def ours(**changes: Any) -> tuple[dict[str, Any], list[str]]:
    """Our tree of a small PtyRAD file, sure to be a recipe that can be written down and read again."""
    sections = {key: changes.pop(key) for key in SECTIONS if key in changes}
    tree, notes = translate_project({"init_params": LEAST | changes} | sections, Path("."))
    recipe = Reconstruct.of(tree)
    assert Reconstruct.of(recipe.to_full_tree()).to_full_tree() == recipe.to_full_tree()
    assert to_yaml(tree)
    return tree, notes


def steps(tree: dict[str, Any]) -> dict[str, Any]:
    """The steps of ``prepare`` by name."""
    pairs = [(step, {}) if isinstance(step, str) else next(iter(step.items())) for step in tree["prepare"]]
    return dict(pairs)


def test_defaults_are_those_of_ptyrad():
    tree, notes = ours()
    assert notes == []
    ((name, knobs),) = tree["read"].items()
    assert (name, knobs["shape"], knobs["gap"], knobs["grid"]) == ("raw", [72, 128, 128], 1024, [8, 9])
    assert list(steps(tree)) == ["expect", "calibrate", "normalise", "jitter"]
    assert steps(tree)["expect"] == {"pattern": [128, 128]}
    assert tree["object"] == {"pixels": {"slices": 6, "thickness": "2 A", "kind": "amplitude and phase"}}
    assert tree["optimizer"]["adam"]["betas"] == (0.9, 0.999)
    assert tree["rates"] == {
        **{"affine": 0.0, "weights": 0.0, "amplitude": 5e-4, "phase": 5e-4, "probe": 1e-4},
        "positions": 5e-4,
    }
    assert [next(iter(p)) for p in tree["projections"]] == [
        *("orthogonal", "power", "lateral_blur", "depth_blur", "still"),
    ]
    assert (tree["holdout"], tree["patience"], tree["shape"]) == (0, None, "constant")


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("dx", 0.15),
        ("dk", 1 / (128 * 0.15)),
        ("kMax", 1 / 0.3),
        ("da", 1e3 * electron_wavelength(80e3) / (128 * 0.15)),
        ("angleMax", 1e3 * electron_wavelength(80e3) / 0.3),
        ("n_alpha", 1e3 * electron_wavelength(80e3) / 0.3 / 24.9),
        ("RBF", 24.9e-3 / (electron_wavelength(80e3) / (128 * 0.15))),
    ],
)
def test_every_calibration_means_the_same_pixel(mode: str, value: float):
    tree, _ = ours(meas_calibration={"mode": mode, "value": value})
    assert "calibrate" not in steps(tree)
    angle = float(tree["read"]["raw"]["angle"].split()[0]) * 1e-3
    assert electron_wavelength(80e3) / (128 * angle) == pytest.approx(0.15, rel=1e-9)


def test_the_disk_calibrates_before_anything_is_cut():
    tree, _ = ours(meas_crop=[[0, 4], None, [10, 100], None], meas_flipT=[1, 0, 1])
    wanted = ["expect", "flip", "transpose", "calibrate", "region", "window", "normalise", "jitter"]
    assert list(steps(tree)) == wanted
    assert steps(tree)["flip"] == {"axis": "y", "about": "detector"}
    assert steps(tree)["calibrate"] == {"by": "half maximum area", "semiangle": "24.9 mrad"}
    assert steps(tree)["region"] == {"rows": [0, 4], "columns": [0, 9]}
    assert steps(tree)["window"] == {"rows": [10, 100], "columns": [0, 128]}


def test_patterns_grow_and_shrink_in_ptyrads_order():
    tree, notes = ours(
        meas_crop=[None, None, [4, 124], [4, 124]],
        meas_pad={"padding_type": "linear_ramp", "target_Npix": 200, "value": 0.1},
        meas_resample={"mode": "precompute", "scale_factors": [1.5, 1.25]},
        simu_Npix=300,
        simu_match_mode="resample",
    )
    found = steps(tree)
    assert found["pad"] == {"to": [200, 200], "fill": "ramp", "value": pytest.approx(0.01), "lazy": True}
    assert found["resample"] == {"to": [250, 250], "lazy": True}
    assert list(found)[-1] == "enlarge"
    assert found["enlarge"] == {"to": [300, 300], "match": "resample"}
    assert tree["detector"] == {"counting": {"collect": "bilinear"}}
    assert any("both axes" in note for note in notes)
    assert any("zero frequency stays" in note for note in notes)


def test_padding_that_is_off_does_nothing():
    tree, _ = ours(meas_pad={"mode": None}, meas_resample={"mode": None}, simu_Npix=128)
    assert not {"pad", "resample", "enlarge"} & set(steps(tree))


def test_the_dose_is_counted_per_pattern():
    tree, _ = ours(meas_add_poisson_noise={"unit": "e_per_Ang2", "value": 1e4}, random_seed=7)
    assert steps(tree)["poisson"]["dose"] == pytest.approx(1e4 * 0.43**2)
    assert steps(tree)["poisson"]["seed"] == 7


@pytest.mark.parametrize(
    ("name", "reader", "knobs"),
    [
        ("a.h5", "hdf5", {"dataset": "entry/data"}),
        ("a.hdf5", "hdf5", {"dataset": "entry/data"}),
        ("a.zarr", "zarr", {"dataset": "entry.data"}),
        ("a.tiff", "tif", {}),
        ("a.npy", "npy", {}),
    ],
)
def test_files_are_known_by_their_endings(name: str, reader: str, knobs: dict[str, Any]):
    given = {"path": name, "key": "entry.data", "selection": [[0, 4], None, 3, [5]]}
    tree, _ = ours(meas_params=given, meas_source="hdf5", meas_permute=[1, 0, 2], meas_reshape=[-1, 128, 128])
    found = tree["read"][reader]
    assert found["permute"] == [1, 0, 2]
    assert found["reshape"] == [-1, 128, 128]
    assert found["selection"] == [[0, 4, None], None, [3, 4], [None, 5, None]]
    assert knobs.items() <= found.items()


def test_matlab_files_are_read_as_ptyrad_reads_them(tmp_path: Path):
    from scipy.io import savemat

    savemat(tmp_path / "old.mat", {"dp": np.ones(3)})
    with h5py.File(tmp_path / "new.mat", "w") as file:
        file["dp"] = np.ones(3)
    for name, reader, knob in (("old.mat", "mat", "key"), ("new.mat", "hdf5", "dataset")):
        tree, notes = ours(meas_params={"path": str(tmp_path / name), "key": "dp"})
        assert tree["read"][reader][knob] == "dp"
        assert notes == []


def test_paths_are_those_of_the_working_folder_else_of_the_file(tmp_path: Path):
    (tmp_path / "there").mkdir()
    for name in ("scan.npy", "there/scan.npy", "there/other.npy"):
        (tmp_path / name).touch()
    init = {"init_params": LEAST | {"meas_params": {"path": "scan.npy"}}}
    assert translate_project(init, tmp_path / "there")[0]["file"] == str(tmp_path / "scan.npy")
    init = {"init_params": LEAST | {"meas_params": {"path": "other.npy"}}}
    assert translate_project(init, tmp_path / "there")[0]["file"] == str(tmp_path / "there/other.npy")


def test_simulated_positions_are_turned_and_jittered():
    tree, _ = ours(pos_scan_flipT=[1, 0, 0], pos_scan_affine=[1.02, 0.01, 3, -1], pos_scan_rand_std=0.3)
    found = steps(tree)
    assert found["scale"] == {"factor": [-1.0, 1.0]}
    assert found["affine"] == {"scale": 1.02, "asymmetry": 0.01, "rotation": "3 deg", "shear": "-1 deg"}
    assert found["jitter"] == {"std": 0.3, "seed": 0}


def test_flips_of_the_raster_are_those_of_numpy():
    from phaseloom.data import prepare
    from phaseloom.data.scan import Geometry, Scan4D

    raster = np.indices((3, 4)).reshape(2, -1).T * np.array([1.0, 2.0])
    raster -= raster.mean(0)
    geometry = Geometry(wavelength=0.04, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
    for flips in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 1]):
        tree, _ = ours(pos_scan_flipT=flips, pos_scan_rand_std=None)
        scan = Scan4D(counts=np.ones((12, 4, 4)), positions=raster, geometry=geometry)
        for step in tree["prepare"]:
            ((name, knobs),) = step.items()
            if name in ("scale", "rotate"):
                values = {"angle": math.pi / 2} if name == "rotate" else knobs
                scan = getattr(prepare, name)(scan, **values)
        wanted = np.flip(raster.reshape(3, 4, 2), np.nonzero(flips)[0]).reshape(-1, 2)
        np.testing.assert_allclose(scan.positions, wanted, atol=1e-12)


@pytest.mark.parametrize("source", ["PtyRAD", "PtyShv", "py4DSTEM"])
def test_loaded_positions_are_left_as_they_are(source: str):
    tree, notes = ours(pos_source=source, pos_params="model.hdf5", pos_scan_affine=[1, 0, 5, 0])
    assert list(steps(tree))[-1] == "positions"
    assert not {"affine", "jitter"} & set(steps(tree))
    assert len(notes) == 2


def test_aberrations_and_the_shift_of_the_probe():
    lenses = {"defocus": 50, "C21a": 30, "C21b": 40, "Cs": 1e4}
    tree, _ = ours(probe_aberrations=lenses, probe_z_shift=20, probe_pmode_max=1)
    focused = tree["probe"]["focused"]
    assert focused["defocus"] == "30 A"
    assert focused["aberrations"] == {"C21": "50 A", "phi21": "53.13 deg", "C30": "10000 A"}
    assert focused["modes"] == 1
    assert focused["relative"] is False
    _, notes = ours(probe_aberrations={"C70": 1e6})
    assert "C70" in notes[0]


def test_modes_share_the_power_as_in_ptyrad():
    tree, _ = ours(probe_pmode_max=3, probe_pmode_init_pows=[0.05])
    assert tree["probe"]["focused"]["shares"] == pytest.approx([1 / 1.1, 0.05 / 1.1, 0.05 / 1.1])
    tree, notes = ours(probe_pmode_max=3, probe_pmode_init_pows=[0.9, 0.07, 0.03])
    assert tree["probe"]["focused"]["shares"] == [0.9, 0.07, 0.03]
    assert "smallest" in notes[0]


def test_an_x_ray_probe_is_a_zone_plate_in_metres():
    xray = {"probe_illum_type": "xray", "beam_kev": 8.8, "probe_Rn": 90e-6, "probe_dRn": 50e-9}
    xray |= {"probe_D_H": 60e-6, "probe_D_FZP": 150e-6, "probe_Ls": 1e-3, "pos_scan_step_size": 1e-7}
    xray |= {"meas_calibration": {"mode": "dx", "value": 2e-8}, "obj_slice_thickness": 1e-6}
    xray |= {"probe_z_shift": 1e-4}
    tree, _ = ours(**xray)
    plate = {
        key: LENGTH.parse(text) for key, text in tree["probe"]["zone_plate"].items() if "m" in str(text)[-1:]
    }
    focal = plate["diameter"] * plate["outermost_zone"]
    assert focal == pytest.approx(2 * 90e4 * 50e1 * 1.0, rel=1e-9)
    assert LENGTH.parse(tree["probe"]["zone_plate"]["defocus"]) == pytest.approx(-1.1e7)
    assert LENGTH.parse(tree["read"]["raw"]["step"]) == pytest.approx(1000)
    assert LENGTH.parse(tree["object"]["pixels"]["thickness"]) == pytest.approx(1e4)
    assert tree["read"]["raw"]["beam"] == "photon"
    with pytest.raises(BadInput, match="needs an electron probe"):
        ours(**xray | {"meas_calibration": {"mode": "fitRBF"}})


def test_earlier_runs_are_starts():
    init = {f"{part}_source": "PtyRAD" for part in ("obj", "probe", "tilt")}
    init |= {f"{part}_params": "model.hdf5" for part in ("obj", "probe", "tilt")}
    tree, _ = ours(**init, probe_z_shift=-20, obj_z_pad={"pad_layers": [2, None]}, obj_omode_max=2)
    path = str(Path("model.hdf5").absolute())
    probe = {"path": path, "modes": 4, "forward": "-20 A", "relative": False}
    assert tree["probe"] == {"from_file": probe}
    assert tree["propagator"] == {"exact": {"tilts": path}}
    found = tree["object"]["from_file"]
    assert (found["pad"], found["fill"], found["modes"]) == ([2, 0], "vacuum", 2)


@pytest.mark.parametrize(
    ("mode", "value", "slices", "thickness"),
    [
        ("scale_Nlayer", 2, 12, "1 A"),
        ("scale_slice_thickness", 3, 2, "6 A"),
        ("target_Nlayer", 4, 4, "3 A"),
        ("target_slice_thickness", 1.5, 8, "1.5 A"),
    ],
)
def test_depth_is_resampled(mode: str, value: float, slices: int, thickness: str):
    tree, _ = ours(obj_z_resample={"mode": mode, "value": value})
    pixels = tree["object"]["pixels"]
    assert (pixels["slices"], pixels["thickness"]) == (slices, thickness)
    file = {"obj_source": "PtyRAD", "obj_params": "model.hdf5", "obj_z_pad": {"pad_layers": [3, 3]}}
    tree, _ = ours(obj_z_resample={"mode": "scale_Nlayer", "value": 2}, **file)
    found = tree["object"]["from_file"]
    assert (found["slices"], found["pad"], found["thickness"]) == (12, [6, 6], "1 A")


def test_object_modes_and_a_stated_shape():
    occupancy = {"occu_type": "custom", "init_occu": [0.7, 0.3]}
    tree, _ = ours(obj_omode_max=2, obj_omode_init_occu=occupancy)
    assert tree["object"]["pixels"]["occupancies"] == [0.7, 0.3]
    tree, notes = ours(obj_params=[3, 4, 500, 500])
    assert (tree["object"]["pixels"]["modes"], tree["object"]["pixels"]["slices"]) == (3, 4)
    assert "rows and columns" in notes[0]


def test_tilts_are_in_milliradian():
    tree, _ = ours(tilt_params={"tilt_type": "each", "init_tilts": [[1, -2.5]]})
    assert tree["propagator"] == {"exact": {"tilt": ["1 mrad", "-2.5 mrad"], "each": True}}
    assert ours()[0]["propagator"] == "exact"
    tree, _ = ours(tilt_source="file", tilt_params={"path": "tilts.npy"})
    assert tree["propagator"] == {"exact": {"tilts": str(Path("tilts.npy").absolute())}}
    with h5py.File("tilts.h5", "w") as file:
        file["a/tilt"] = [[3.0, 4.0]]
    tree, _ = ours(tilt_source="file", tilt_params={"path": "tilts.h5", "key": "a.tilt"})
    assert tree["propagator"] == {"exact": {"tilt": ["3 mrad", "4 mrad"], "each": False}}
    with pytest.raises(BadInput, match="differ from position"):
        ours(tilt_params={"tilt_type": "each", "init_tilts": [[1, 2], [3, 4]]})


def test_rates_begin_and_end_as_in_ptyrad():
    updates = {
        "obja": {"start_iter": 3, "lr": 1e-3, "end_iter": 10},
        "objp": {"start_iter": 1, "lr": 2e-3, "end_iter": None},
        "probe": {"start_iter": None, "lr": 1e-4},
        "probe_pos_shifts": {"start_iter": 5, "lr": 1e-3, "end_iter": 5},
        "obj_tilts": {"start_iter": 1, "lr": 1e-4},
        "slice_thickness": {"start_iter": 2, "lr": 0.01},
    }
    tree, notes = ours(model_params={"update_params": updates})
    assert tree["rates"] == {
        "affine": 0.0,
        "weights": 0.0,
        "amplitude": {"rate": 1e-3, "start": 3, "stop": 9},
        "phase": 2e-3,
        "probe": 0.0,
        "positions": 0.0,
        "tilts": 1e-4,
        "thickness": {"rate": 0.005, "start": 2},
    }
    assert any("update_params.probe stays fixed" in note for note in notes)
    _, notes = ours(
        obj_Nlayer=1, model_params={"update_params": {"slice_thickness": updates["slice_thickness"]}}
    )
    assert any("a single slice has no depth" in note for note in notes)


def test_constraints_keep_their_order_and_times():
    constraints = {
        "objp_postiv": {"start_iter": 1, "step": 2, "end_iter": 20, "relax": 0.1},
        "probe_mask_k": {"start_iter": 5, "radius": 0.3},
        "obj_rblur": {"start_iter": 1, "obj_type": "phase", "kernel_size": 4, "std": 0.6},
        "probe_mask_r": {"start_iter": 1, "z_range": [-100, 50]},
        "pos_recenter": {"start_iter": 9, "end_iter": 9},
    }
    tree, notes = ours(constraint_params=constraints)
    assert tree["projections"] == [
        {"aperture": {"radius": 0.3, "width": 0.05, "share": 0.95}, "start": 5},
        {"support": {"radius": 0.95, "order": 6, "share": 0.95, "depths": ["-100 A", "50 A"], "steps": 101}},
        {"orthogonal": {}},
        {"power": {}},
        {"lateral_blur": {"of": "phase", "std": 0.6, "taps": 5}},
        {"depth_blur": {"of": "both", "std": 1.0, "taps": 5}},
        {"positive": {"relax": 0.1}, "every": 2, "stop": 19},
    ]
    assert any("made odd" in note for note in notes)


def test_losses_are_penalties():
    losses = {
        "loss_single": {"state": False},
        "loss_poissn": {"state": True, "eps": 1e-5},
        "loss_pacbed": {"state": True},
        "loss_sparse": {"state": True, "weight": 0.2, "ln_order": 2},
        "loss_simlar": {"state": True, "obj_type": "phase", "blur_std": 0},
    }
    tree, _ = ours(loss_params=losses, obj_omode_max=2)
    assert tree["noise"] == "none"
    assert tree["penalties"] == [
        {"relative_poisson": {"weight": 1.0, "power": 1.0, "floor": 1e-5}},
        {"pacbed": {"weight": 0.5, "power": 0.2}},
        {"sparse": {"weight": 0.2, "order": 2}},
        {"similarity": {"weight": 0.1, "blur": None, "scale": [1.0, 1.0, 1.0], "of": "phase"}},
    ]
    tree, notes = ours(loss_params=losses)
    assert len(tree["penalties"]) == 3
    assert "compares object modes" in notes[0]


@pytest.mark.parametrize(
    ("mode", "name", "ordering"),
    [
        ("random", "random", None),
        ("compact", "compact", None),
        ("sparse", "sparse", "auto"),
        ("fps", "sparse", "farthest"),
        ("hilbert", "sparse", "hilbert"),
    ],
)
def test_batches(mode: str, name: str, ordering: str | None):
    recon = {"GROUP_MODE": mode, "BATCH_SIZE": {"size": 8, "grad_accumulation": 3}}
    tree, _ = ours(recon_params=recon)
    assert tree["batch"][name]["size"] == 8
    assert tree["batch"][name]["accumulate"] == 3
    assert tree["batch"][name].get("ordering") == ordering


def test_parts_of_the_scan():
    centre = {"INDICES_MODE": {"mode": "center", "subscan_slow": 4, "subscan_fast": None}}
    tree, _ = ours(recon_params=centre)
    assert steps(tree)["region"] == {"rows": [2, 6], "columns": [2, 6]}
    tree, notes = ours(recon_params={"INDICES_MODE": {"mode": "sub"}})
    assert steps(tree)["region"] == {"every": [2, 3]}
    assert "INDICES_MODE" in notes[0]
    with pytest.raises(BadInput, match="does not fit a scan"):
        ours(recon_params={"INDICES_MODE": {"mode": "center", "subscan_slow": 40}})


@pytest.mark.parametrize(
    "name",
    [
        *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "LBFGS", "Nadam", "RAdam"),
        *("RMSprop", "Rprop", "SGD"),
    ],
)
def test_every_optimiser_has_a_counterpart(name: str):
    import torch

    tree, _ = ours(model_params={"optimizer_params": {"name": name}})
    ((mine, knobs),) = tree["optimizer"].items()
    assert mine == name.lower()
    recipe = Reconstruct.of(tree)
    group = {"name": "phase", "base": 1e-3, "start": 1, "stop": None, "shape": None}
    built = recipe.optimizer([{"params": [torch.nn.Parameter(torch.ones(2, 3))], "lr": 1e-3, **group}])
    theirs = getattr(torch.optim, "NAdam" if name == "Nadam" else name)(
        [torch.nn.Parameter(torch.ones(2, 3))], lr=1e-3
    )
    if name != "LBFGS":
        assert {key: built.defaults[key] for key in theirs.defaults if key != "lr"} == {
            key: value for key, value in theirs.defaults.items() if key != "lr"
        }
    else:
        assert knobs == {"history_size": 100, "max_iter": 20, "line_search_fn": "strong_wolfe"}


def test_settings_of_an_optimiser():
    configs = {"betas": ["0.8", 0.95], "eps": "1e-9", "amsgrad": True, "foreach": True}
    tree, notes = ours(model_params={"optimizer_params": {"name": "Adam", "configs": configs}})
    wanted = {
        "betas": [0.8, 0.95],
        "eps": 1e-9,
        "weight_decay": 0,
        "amsgrad": True,
        "decoupled_weight_decay": False,
    }
    assert tree["optimizer"] == {"adam": wanted}
    assert "foreach" in notes[0]
    with pytest.raises(BadInput, match="there is no 'beta'; did you mean 'betas'"):
        ours(model_params={"optimizer_params": {"configs": {"beta": 1}}})
    for name in ("Muon", "SparseAdam"):
        with pytest.raises(BadInput, match="cannot move these parts"):
            ours(model_params={"optimizer_params": {"name": name}})


SCHEDULES = {
    "StepLR": {"step_size": 3, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 5], "gamma": 0.5},
    "ConstantLR": {},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 6, "power": 2},
    "CosineAnnealingLR": {"T_max": 6},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-3, "step_size_up": 3, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 1e-3, "total_steps": 8},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore")
def test_schedules_give_pytorchs_rates(name: str):
    import torch

    from phaseloom.fitting.schedule import evaluate_shape

    parameters = {"scheduler_params": {"name": name, "configs": SCHEDULES[name]}}
    tree, _ = ours(model_params=parameters, recon_params={"NITER": 8})
    shape = Reconstruct.of(tree).shape.partial()
    phase = tree["rates"]["phase"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=5e-4)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **SCHEDULES[name])
    for epoch in range(1, 9):
        theirs = optimizer.param_groups[0]["lr"]
        assert phase * evaluate_shape(shape, epoch, 8) == pytest.approx(theirs, rel=1e-6, abs=1e-12), epoch
        optimizer.step()
        if epoch < 8:
            scheduler.step()


def test_schedules_that_need_what_a_file_cannot_hold():
    with pytest.raises(BadInput, match="needs a function"):
        ours(model_params={"scheduler_params": {"name": "LambdaLR"}})
    with pytest.raises(BadInput, match="step_size: is missing"):
        ours(model_params={"scheduler_params": {"name": "StepLR"}})
    tree, notes = ours(
        model_params={"optimizer_params": {"name": "LBFGS"}, "scheduler_params": {"name": "ExponentialLR"}}
    )
    assert tree["shape"] == "constant"
    assert any("LBFGS has no schedule" in note for note in notes)


def test_plateaus_are_counted_alike():
    parameters = {
        "scheduler_params": {"name": "ReduceLROnPlateau", "configs": {"patience": 2, "min_lr": 5e-5}}
    }
    tree, _ = ours(model_params=parameters)
    assert tree["shape"]["plateau"] == {
        **{"factor": 0.1, "patience": 2, "threshold": 1e-4, "threshold_mode": "rel", "cooldown": 0},
        "floor": pytest.approx(0.1),
    }


def test_steps_of_batches_are_turned_into_epochs():
    scheduler = {"name": "StepLR", "configs": {"step_size": 18}, "step_unit": "batch"}
    tree, notes = ours(model_params={"scheduler_params": scheduler}, recon_params={"BATCH_SIZE": {"size": 8}})
    assert tree["shape"] == {"step": {"step_size": 2, "gamma": 0.1}}
    assert "whole epochs" in notes[-1]


def test_files_at_the_end_of_a_run():
    recon = {"save_result": ["model", "objp", "probe", "probe_prop"]}
    recon["result_modes"] = {"obj_dim": [2, 4], "FOV": ["full", "crop"], "bit": ["raw", "16"]}
    tree, notes = ours(recon_params=recon)
    assert tree["outputs"][0] == {"ptyrad": {}, "start": 10, "every": 10}
    assert tree["outputs"][1] == {
        "stacks": {"of": ["phase", "probe"], "dimensions": [2, 4], "bits": "raw", "crop": False},
        "start": 10,
        "every": 10,
    }
    assert len(tree["outputs"]) == 5
    assert "probe_prop" in notes[0]
    assert ours(recon_params={"SAVE_ITERS": None})[0]["outputs"] == []


@pytest.mark.parametrize(
    ("level", "power"),
    [({"mode": "max_total_ints"}, "brightest"), ({"mode": "target_intensity", "value": 12.5}, 12.5)],
)
def test_the_power_of_the_probe(level, power):
    tree, notes = ours(probe_normalization=level)
    assert tree["probe"]["focused"]["power"] == power
    assert not any("probe_normalization" in note for note in notes)


def test_what_cannot_be_honoured_is_said():
    tree, notes = ours(
        hypertune_params={"if_hypertune": True},
        meas_export=True,
        probe_permute=[1, 2, 0],
        model_params={"optimizer_params": {"load_state": "m.hdf5"}},
        recon_params={"output_dir": "out", "compiler_configs": {"enable": True}, "selected_figs": ["all"]},
    )
    told = " ".join(notes)
    for key in (
        *("hypertune_params", "meas_export", "probe_permute", "load_state"),
        *("output_dir", "compiler_configs", "selected_figs"),
    ):
        assert key in told
    assert tree["epochs"] == 200


def test_a_loss_that_needs_a_negative_baseline_keeps_the_values():
    tree, notes = ours(meas_remove_neg_values={"mode": "subtract_min"})
    assert tree["read"]["raw"]["negative"] == "keep"
    assert steps(tree)["nonnegative"] == {"how": "subtract minimum"}
    assert "in any case" in notes[0]


def values(kind: Any) -> list[Any]:
    """Some values that a kind of setting takes."""
    import typing

    from pydantic import TypeAdapter, ValidationError

    def words(kind: Any) -> list[Any]:
        if typing.get_origin(kind) is typing.Literal:
            return list(typing.get_args(kind))
        return [word for inner in typing.get_args(kind) for word in words(inner)]

    pool: list[Any] = [None, True, False, 0, 1, 2, 5, 0.5, 64, 256, [1, 2], [0, 4], [1.5, 1.5], [0, 1, 1]]
    pool += [[1.0, 0.01, 2.0, 1.0], [-1, 128, 128], [[0, 4], None, [4, 124], [4, 124]], [0.02], [2, 3, 0, 1]]
    kept = []
    for value in pool + words(kind):
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError:
            continue
        kept.append(value)
    return kept


@pytest.mark.medium
@pytest.mark.parametrize("section", ["init_params", *SECTIONS[:4]])
def test_every_value_of_every_setting_becomes_a_recipe_or_a_sentence(section: str):
    from typing import get_type_hints

    from phaseloom.compat.ptyrad.schema import SECTIONS as MODELS
    from phaseloom.compat.ptyrad.settings import Settings, find_group

    def settings(group: type[Settings], place: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
        found = []
        hints = get_type_hints(group, include_extras=True)
        for name, field in group.model_fields.items():
            inner = find_group(field.annotation)
            found += settings(inner, (*place, name)) if inner else [((*place, name), hints[name])]
        return found

    made = 0
    for place, kind in settings(MODELS[section], ()):
        for value in values(kind)[:8]:
            tree: dict[str, Any] = {"init_params": dict(LEAST)}
            part = tree.setdefault(section, {})
            for name in place[:-1]:
                part = part.setdefault(name, {"start_iter": 1} if section == "constraint_params" else {})
            part[place[-1]] = value
            try:
                ours_, _ = translate_project(tree, Path("."))
            except BadInput:
                continue
            Reconstruct.of(ours_)
            made += 1
    assert made > len(MODELS[section].model_fields)
