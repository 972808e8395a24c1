"""PtyRAD projects run as they are: tiny ones of every kind, from file to result."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from phaseloom.compat import ptyrad
from phaseloom.compat.ptyrad import translate_project
from phaseloom.export import ptyrad as exported
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate
from phaseloom.units import electron_wavelength
from tests.ptyrad import make_project

GRID, SIZE, PIXEL, STEP = (9, 7), 32, 0.2, 0.5
ON = {"start_iter": 1}
OFF = {"start_iter": None}


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    positions = simulate.raster(GRID, STEP) + 4.2
    phase = simulate.atoms((64, 64), PIXEL, slices=2, seed=1)
    scan, _ = simulate.electron_scan(
        phase,
        PIXEL,
        positions,
        energy=80e3,
        semiangle=25e-3,
        defocus=20.0,
        thickness=8.0,
        window=SIZE,
        dose=1e5,
    )
    return np.asarray(scan.counts)


@pytest.fixture
def folder(tmp_path: Path, counts: np.ndarray) -> Path:
    np.save(tmp_path / "scan.npy", counts)
    return tmp_path


def project(init: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A small PtyRAD project on ``scan.npy``."""
    recon = {"NITER": 2, "BATCH_SIZE": {"size": 16}}
    return make_project(GRID, SIZE, PIXEL, STEP, recon, init_params=init or {}, **sections)


def begun(tree: dict[str, Any], folder: Path) -> Job:
    """The job of a project, not yet run."""
    ours, _ = translate_project(tree, folder)
    return Job.begin(Reconstruct.of(ours | {"device": "cpu"}))


def run(tree: dict[str, Any], folder: Path) -> Job:
    job = begun(tree, folder)
    losses = [epoch.loss for epoch in job]
    assert len(losses) == tree["recon_params"]["NITER"], job.progress.stopped
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    return job


def saved(job: Job, folder: Path) -> str:
    """A run as PtyRAD's own model file."""
    return exported(job.result(), folder).name


def test_a_single_slice(folder: Path):
    job = run(project({"obj_Nlayer": 1}), folder)
    assert tuple(job.model.object.phase.shape[:2]) == (1, 1)
    assert job.model.object.gaps == ()


def test_several_slices_start_where_ptyrad_starts(folder: Path, counts: np.ndarray):
    job = begun(project(), folder)
    assert job.model.object.gaps == (8.0,)
    assert job.model.scan.canvas.pixel == pytest.approx((PIXEL, PIXEL))
    mean = counts.mean(0) / counts.mean(0).max()
    power = job.model.probe.modes().abs().square().sum().item()
    assert power == pytest.approx(mean.sum(), rel=1e-4)
    assert job.progress.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    run(project(), folder)


@pytest.mark.parametrize(
    ("loss", "constraint"),
    [
        ({}, {"objp_postiv": ON | {"relax": 0.0}, "obja_thresh": ON}),
        ({"loss_sparse": {"state": True}}, {"objp_postiv": ON}),
        ({"loss_single": {"state": False}, "loss_poissn": {"state": True}}, {}),
        ({"loss_pacbed": {"state": True}}, {"mirrored_amp": ON, "obj_rblur": OFF}),
        ({}, {"kr_filter": ON | {"radius": 0.5}, "kz_filter": ON, "kr_thresh": ON, "complex_ratio": ON}),
        (
            {},
            {"probe_mask_k": ON | {"radius": 0.5}, "probe_mask_r": ON | {"z_steps": 5}, "obj_z_recenter": ON},
        ),
    ],
    ids=["positivity", "sparsity", "poisson", "mirrored", "filters", "probe"],
)
def test_losses_and_constraints(folder: Path, loss: dict[str, Any], constraint: dict[str, Any]):
    job = begun(project(loss_params=loss, constraint_params=constraint), folder)
    losses = [epoch.loss for epoch in job]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    if "objp_postiv" in constraint:
        assert job.model.object.phase.min() >= 0


def test_object_modes_tilts_and_thickness_are_refined(folder: Path):
    updates = {
        "obj_tilts": {"start_iter": 1, "lr": 1e-3},
        "slice_thickness": {"start_iter": 2, "lr": 1e-2},
    }
    init = {
        "obj_omode_max": 2,
        "obj_omode_init_occu": {"occu_type": "custom", "init_occu": [0.75, 0.25]},
        "tilt_params": {"tilt_type": "each", "init_tilts": [[1.0, -2.0]]},
    }
    losses = {"loss_simlar": {"state": True}}
    constraints = {"tilt_smooth": ON}
    tree = project(
        init, model_params={"update_params": updates}, loss_params=losses, constraint_params=constraints
    )
    job = begun(tree, folder)
    assert job.model.propagator.tilt.shape == (63, 2)
    assert job.model.propagator.tilt[0].tolist() == pytest.approx([1.0, -2.0])
    assert job.model.object.occupancy.tolist() == pytest.approx([0.75, 0.25])
    epochs = list(job)
    assert "thickness" not in epochs[0].rates
    assert epochs[1].rates["thickness"] == pytest.approx(1e-2 / 8)
    assert job.model.propagator.stretch.item() != 0


def test_a_run_goes_on_from_its_model_file_without_moving_its_positions(folder: Path):
    first = run(project({"pos_scan_affine": [1.0, 0.0, 5.0, 0.0]}), folder)
    name = saved(first, folder)
    again = {key: name for key in ("probe_params", "obj_params", "pos_params")}
    again |= {key: "PtyRAD" for key in ("probe_source", "obj_source", "pos_source")}
    again["pos_scan_affine"] = [1.0, 0.0, 5.0, 0.0]
    ours, notes = translate_project(project(again), folder)
    assert any("affine" in note for note in notes)
    job = Job.begin(Reconstruct.of(ours | {"device": "cpu"}))
    moved = job.model.scan.angstrom() - first.model.scan.angstrom()
    assert np.ptp(moved, axis=0).max() < 1e-3
    index = torch.arange(4)
    with torch.no_grad():
        old, new = first.model(index), job.model(index)
    assert float((old - new).norm() / old.norm()) < 0.02
    losses = [epoch.loss for epoch in job]
    assert losses[0] < first.progress.history[-1]["loss"] * 1.05


def test_vacuum_is_padded_and_depth_resampled(folder: Path):
    name = saved(run(project(), folder), folder)
    source = {"obj_source": "PtyRAD", "obj_params": name}
    padded = begun(project(source | {"obj_z_pad": {"pad_layers": [2, 1]}, "probe_z_shift": -16}), folder)
    assert padded.model.object.phase.shape[1] == 5
    assert padded.model.object.phase[0, 0].abs().max() == 0
    finer = begun(project(source | {"obj_z_resample": {"mode": "scale_Nlayer", "value": 2}}), folder)
    assert finer.model.object.gaps == pytest.approx((4.0,) * 3)
    several = begun(project(source | {"obj_omode_max": 2}), folder)
    assert several.model.object.occupancy.tolist() == [0.5, 0.5]
    cropped = begun(project(source | {"obj_z_crop": [0, 1]}), folder)
    assert cropped.model.object.phase.shape[1] == 1


def test_patterns_are_cropped_padded_and_resampled(folder: Path):
    init = {
        "meas_crop": [[1, 9], None, [4, 28], [4, 28]],
        "meas_pad": {"padding_type": "power", "target_Npix": 36},
        "meas_resample": {"scale_factors": [1.5, 1.5]},
    }
    job = begun(project(init), folder)
    assert len(job.scan) == 8 * 7
    assert job.scan.geometry.shape == (54, 54)
    assert job.scan.geometry.pixel == pytest.approx((PIXEL * 32 / 36,) * 2)
    assert job.scan.mask.all()
    run(project(init), folder)


@pytest.mark.parametrize("match", ["crop", "resample"])
def test_patterns_are_modelled_on_a_larger_grid(folder: Path, match: str):
    init = {"simu_Npix": 48, "simu_match_mode": match}
    job = run(project(init, model_params={"detector_blur_std": 0.7}), folder)
    assert job.model.probe.modes().shape[-2:] == (48, 48)


def test_perfect_patterns_are_made_real(folder: Path):
    init = {
        "meas_add_source_size": 0.3,
        "meas_add_detector_blur": 0.5,
        "meas_add_poisson_noise": {"unit": "total_e_per_pattern", "value": 500},
        "meas_remove_neg_values": {"mode": "clip_value", "value": 2, "force": True},
        "pos_scan_flipT": [1, 0, 1],
        "meas_flipT": [1, 1, 1],
        "random_seed": 3,
    }
    job = begun(project(init), folder)
    assert job.scan.mean_pattern().max() == pytest.approx(1, rel=0.05)
    assert np.ptp(job.scan.positions, axis=0) == pytest.approx([3.0, 4.0], abs=0.3)


@pytest.mark.parametrize("mode", ["full", "sub", "center"])
@pytest.mark.parametrize("group", ["random", "sparse", "compact", "hilbert", "fps"])
def test_batches_and_parts_of_a_scan(folder: Path, mode: str, group: str):
    recon = {"INDICES_MODE": {"mode": mode}, "GROUP_MODE": group, "NITER": 1}
    recon["BATCH_SIZE"] = {"size": 4, "grad_accumulation": 2}
    job = begun(project(recon_params=recon), folder)
    assert len(job.scan) == {"full": 63, "sub": pytest.approx(12, abs=8), "center": 4 * 3}[mode]
    assert [epoch.number for epoch in job] == [1]


def test_the_bright_field_disk_calibrates(folder: Path):
    job = begun(project({"meas_calibration": {"mode": "fitRBF"}}), folder)
    assert job.scan.geometry.pixel == pytest.approx((PIXEL, PIXEL), rel=0.1)


def test_streamed_data_give_the_same_run(folder: Path, counts: np.ndarray):
    with h5py.File(folder / "scan.h5", "w") as file:
        file["entry/data"] = counts.reshape(*GRID, SIZE, SIZE)
    init = {"meas_params": {"path": "scan.h5", "key": "entry.data"}, "meas_reshape": [-1, SIZE, SIZE]}
    one = run(project(init, model_params={"preload_data": False}), folder)
    other = run(project(), folder)
    assert one.progress.history[-1]["loss"] == pytest.approx(other.progress.history[-1]["loss"], rel=1e-4)


def test_every_kind_of_file_gives_the_same_patterns(folder: Path, counts: np.ndarray):
    tifffile, savemat = pytest.importorskip("tifffile"), pytest.importorskip("scipy.io").savemat
    wanted = begun(project(), folder).scan.mean_pattern()
    frames = np.zeros((63, SIZE + 2, SIZE), np.float32)
    frames[:, :SIZE] = counts
    frames.tofile(folder / "scan.raw")
    tifffile.imwrite(folder / "scan.tif", counts.astype(np.float32))
    savemat(folder / "old.mat", {"dp": counts.astype(float)})
    with h5py.File(folder / "new.mat", "w") as file:
        file["dp"] = counts
    kinds = [
        {"path": "scan.raw", "gap": 2 * SIZE * 4},
        {"path": "scan.tif"},
        {"path": "old.mat", "key": "dp"},
        {"path": "new.mat", "key": "dp"},
    ]
    for given in kinds:
        found = begun(project({"meas_params": given}), folder).scan.mean_pattern()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_an_x_ray_project_runs(folder: Path):
    wavelength = 12.398419843320026 / 8.8
    pixel = 2e-8
    init = {
        "probe_illum_type": "xray",
        "beam_kev": 8.8,
        "probe_Rn": 90e-6,
        "probe_dRn": 50e-9,
        "probe_D_H": 60e-6,
        "probe_D_FZP": 180e-6,
        "probe_Ls": 0.2e-3,
        "meas_calibration": {"mode": "dx", "value": pixel},
        "pos_scan_step_size": 5e-8,
        "obj_Nlayer": 1,
        "obj_slice_thickness": 1e-6,
    }
    job = begun(project(init), folder)
    geometry = job.scan.geometry
    assert geometry.beam == "photon"
    assert geometry.wavelength == pytest.approx(wavelength)
    assert geometry.pixel == pytest.approx((200.0, 200.0))
    assert [epoch.number for epoch in job] == [1, 2]


@pytest.mark.parametrize("name", ["AdamW", "RMSprop", "SGD", "RAdam", "Adafactor", "LBFGS"])
def test_optimisers(folder: Path, name: str):
    job = begun(project(model_params={"optimizer_params": {"name": name}}), folder)
    assert [epoch.number for epoch in job] == [1, 2], job.progress.stopped


def test_the_functions_of_the_tutorial_reconstruct(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    tree = project(recon_params={"output_dir": "out", "postfix": "r1"})
    Path("params.json").write_text(json.dumps(tree))
    context = ptyrad.load_and_preprocess_data("params.json", gpuid="cpu")
    variables = context["init_variables"]
    assert variables["obj"].shape[:2] == (1, 2)
    assert variables["lambd"] == pytest.approx(electron_wavelength(80e3))
    results = ptyrad.run_inversion(context)
    model = results["model"]
    assert len(model.loss_iters) == 2
    assert model.loss_iters[1][1] < model.loss_iters[0][1]
    assert (results["output_path"] / "result.h5").is_file()
    ptyrad.evaluate_results(results)
    assert list(results["output_path"].glob("*ptyrad_log.txt"))


def test_the_module_of_the_tutorial_models_what_the_core_does(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    tree = project({"tilt_params": {"init_tilts": [[2.0, -1.0]]}})
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    context = ptyrad.load_and_preprocess_data("params.yaml", gpuid="cpu")
    params, variables = context["params"], context["init_variables"]
    model = ptyrad.PtychoAD(variables, params["model_params"], device="cpu")
    core = begun(tree, folder).model
    index = np.array([0, 7, 62])
    with torch.no_grad():
        expected = core.detector.display(core(torch.as_tensor(index)))
        torch.testing.assert_close(model(index), expected, rtol=2e-4, atol=1e-6)
    assert model.get_measurements(index).shape == (3, SIZE, SIZE)
    assert model.get_probes(index).shape == (3, 2, SIZE, SIZE)
    assert model.get_obj_patches(index).shape == (3, 1, 2, SIZE, SIZE, 2)
    assert model.get_propagators(index).shape == (1, SIZE, SIZE)
    assert model.opt_probe.shape == (2, SIZE, SIZE, 2)
    assert float(model.opt_slice_thickness) == pytest.approx(8.0)
    total, losses = context["loss_fn"](
        model(index), model.get_measurements(index), model.get_obj_patches(index), torch.ones(1)
    )
    assert total.item() == pytest.approx(sum(float(loss.detach()) for loss in losses))
    total.backward()
    assert model.opt_objp.grad.abs().max() > 0
    optimizer = torch.optim.Adam(model.optimizable_params)
    optimizer.step()
    context["constraint_fn"](model, 1)
    assert model.opt_probe_pos_shifts.mean(0).abs().max() < 1e-5
    model.clear_cache()
    assert model._current_object_patches is None


def test_the_command_line_knows_a_ptyrad_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from typer.testing import CliRunner

    from phaseloom.cli import app

    monkeypatch.chdir(folder)
    Path("params.yaml").write_text(yaml.safe_dump(project({"probe_defocus": 20, "probe_aberrations": None})))
    said = CliRunner().invoke(app, ["convert", "params.yaml", "--out", "run.yaml"])
    assert said.exit_code == 0, said.output
    assert "probe_defocus" in said.output
    recipe = Reconstruct.from_path("run.yaml")
    assert recipe.probe.values["defocus"] == pytest.approx(20)
    said = CliRunner().invoke(app, ["reconstruct", "params.yaml", "--out", "one", "--quiet"])
    assert said.exit_code == 0, said.output
    assert Path("one/result.h5").is_file()
    assert Path("one/model_iter0002.hdf5").is_file()


@pytest.mark.medium
def test_a_walkthrough_continues_from_what_its_first_file_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """PtyRAD names the folder of a run by its settings, so later files of a series name it so."""
    from typer.testing import CliRunner

    from phaseloom.cli import app

    monkeypatch.chdir(folder)

    def run_file(name: str, init: dict[str, Any]) -> str:
        recon = {"NITER": 1, "output_dir": "output/walkthrough/", "prefix": name, "save_result": ["model"]}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(project(init, recon_params=recon)))
        said = CliRunner().invoke(app, ["reconstruct", f"{name}.yaml", "--quiet"])
        assert said.exit_code == 0, said.output
        return said.output

    named = "output/walkthrough/01_first_full_N63_dp32_random16_p2_2slice/model_iter0001.hdf5"
    keys = ("probe", "obj", "pos")
    later = {f"{key}_params": named for key in keys} | {f"{key}_source": "PtyRAD" for key in keys}
    run_file("00_other", {})
    run_file("01_first", {})
    output = run_file("04_resume", later)
    assert not Path("runs").exists()
    assert len(list(Path("output/walkthrough").glob("*/result.h5"))) == 3
    (taken,) = Path("output/walkthrough").glob("*01_first*/model_iter0001.hdf5")
    assert f"{taken} is taken" in " ".join(output.split())
    assert "00_other" not in output
