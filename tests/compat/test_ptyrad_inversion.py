"""`run_inversion` and the names of PtyRAD's tutorial: what the context says counts, or is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from phaseloom.compat import ptyrad
from phaseloom.compat.ptyrad import forward, reconstruction, translate_project, utils
from phaseloom.data.importers import read
from phaseloom.errors import BadInput
from phaseloom.physics.filters import blur
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.simulation import simulate
from tests.ptyrad import make_project

GRID, SIZE, PIXEL, STEP = (6, 5), 24, 0.25, 0.6
EPOCHS = 3
LATE = {
    "obja": {"start_iter": 1, "lr": 5e-4},
    "objp": {"start_iter": 1, "lr": 5e-4},
    "probe": {"start_iter": 2, "lr": 1e-4},
    "probe_pos_shifts": {"start_iter": 2, "lr": 5e-4},
    "obj_tilts": {"start_iter": 2, "lr": 1e-4},
    "slice_thickness": {"start_iter": 3, "end_iter": 4, "lr": 1e-3},
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    phase = simulate.atoms((56, 56), PIXEL, slices=2, seed=1)
    beam = {"energy": 80e3, "semiangle": 25e-3, "defocus": 20.0, "thickness": 8.0, "window": SIZE}
    scan, _ = simulate.electron_scan(phase, PIXEL, simulate.raster(GRID, STEP) + 4.2, **beam, dose=1e5)
    return np.asarray(scan.counts)


@pytest.fixture
def folder(tmp_path: Path, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    np.save(tmp_path / "scan.npy", counts)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def project(init: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A small PtyRAD project on ``scan.npy``."""
    recon = {"NITER": EPOCHS, "BATCH_SIZE": {"size": 8}, "output_dir": "out", "SAVE_ITERS": 2}
    return make_project(
        GRID, SIZE, PIXEL, STEP, recon, init_params={"random_seed": 3} | (init or {}), **sections
    )


def loaded(tree: dict[str, Any], gpuid: Any = "cpu") -> dict[str, Any]:
    """The context of a project."""
    Path("params.json").write_text(json.dumps(tree))
    return ptyrad.load_and_preprocess_data("params.json", gpuid=gpuid)


def job_of(tree: dict[str, Any], folder: Path) -> Job:
    """The same project as the command line runs it, to its end."""
    ours, _ = translate_project(tree, folder)
    job = Job.begin(Reconstruct.of(ours | {"device": "cpu", "mask": "none"}))
    assert len(list(job)) == EPOCHS
    return job


def losses(model: Any) -> list[float]:
    return [loss for _, loss in model.loss_iters]


def test_parts_that_start_later_move_as_they_do_from_the_command_line(folder: Path):
    tree = project(model_params={"update_params": LATE})
    job = job_of(tree, folder)
    model = ptyrad.run_inversion(loaded(tree))["model"]
    # Adam makes whole steps of the rounding errors of gradients that are zero at the flat start
    assert losses(model) == pytest.approx([event["loss"] for event in job.progress.history], rel=2e-4)
    flight = job.model.propagator
    assert flight.distances()[0].item() != 8.0
    assert model.opt_slice_thickness.item() == pytest.approx(flight.distances()[0].item(), abs=1e-5)
    assert flight.tilt.abs().max() > 0
    assert model.opt_obj_tilts.abs().max() > 0
    torch.testing.assert_close(model.get_complex_probe_view(), job.model.probe.modes(), rtol=0.01, atol=1e-3)
    start = loaded(tree)["init_variables"]
    for name, step in {"probe": 5e-4, "probe_pos_shifts": 2e-4}.items():
        now = {"probe": model.get_complex_probe_view(), "probe_pos_shifts": model.opt_probe_pos_shifts}[name]
        assert np.abs(now.detach().numpy() - start[name]).max() > step


def test_what_was_set_by_hand_is_modelled(folder: Path):
    context = loaded(project())
    variables = context["init_variables"]
    rng = np.random.default_rng(1)
    variables["slice_thickness"] = 12.0
    variables["obj_tilts"] = np.array([[20.0, -10.0]], np.float32)
    variables["probe_pos_shifts"] = variables["probe_pos_shifts"] + np.float32(0.4)
    variables["crop_pos"] = np.maximum(variables["crop_pos"] - 1, 0)
    variables["probe"] = 1.1 * variables["probe"]
    phase = 0.2 * rng.standard_normal(variables["obj"].shape)
    variables["obj"] = np.exp(1j * phase).astype(np.complex64)
    model = ptyrad.PtychoAD(variables, context["params"]["model_params"], device="cpu")
    assert model.opt_slice_thickness.item() == 12.0
    np.testing.assert_array_equal(model.opt_probe_pos_shifts.detach(), variables["probe_pos_shifts"])
    index = np.array([0, 7, 20])
    with torch.no_grad():
        expected = by_the_formula(variables, index)
        torch.testing.assert_close(model(index), expected, rtol=1e-3, atol=1e-5 * float(expected.max()))
    stays = {name: {"start_iter": 1, "lr": 1e-12} for name in ("objp",)}
    context["params"]["model_params"]["update_params"] = LATE | stays
    ran = ptyrad.run_inversion(context)["model"]
    first = ptyrad.PtychoAD(variables, context["params"]["model_params"], device="cpu")
    measured = torch.as_tensor(variables["measurements"])
    with torch.no_grad():
        error = (
            first(np.arange(30)).sqrt() - measured.sqrt()
        ).square().mean().sqrt() / measured.sqrt().mean()
    assert losses(ran)[0] == pytest.approx(float(error), rel=0.05)
    assert ran.opt_slice_thickness.item() == pytest.approx(12.0, abs=0.1)
    assert ran.dz_iters[-1] == (3, ran.opt_slice_thickness.item())
    assert [number for number, _ in ran.avg_tilt_iters] == [1, 2, 3]
    np.testing.assert_allclose(ran.avg_tilt_iters[0][1], [20, -10])


def by_the_formula(variables: dict[str, Any], index: np.ndarray) -> torch.Tensor:
    """Patterns by section 3 of the tutorial, in numpy and in double precision."""
    patterns = []
    for number in index:
        place = variables["crop_pos"][number] + variables["probe_pos_shifts"][number].astype(float)
        corner = np.round(place).astype(int)
        rows, columns = (slice(at, at + SIZE) for at in corner)
        f = np.fft.fftfreq(SIZE)
        ramp = np.exp(-2j * np.pi * (f[:, None] * (place - corner)[0] + f[None] * (place - corner)[1]))
        waves = np.fft.ifft2(np.fft.fft2(variables["probe"].astype(complex)) * ramp)
        ky, kx = np.meshgrid(f / variables["dx"], f / variables["dx"], indexing="ij")
        z, wavelength = variables["slice_thickness"], variables["lambd"]
        k = 2 * np.pi / wavelength
        kernel = np.exp(1j * z * (np.sqrt(k**2 - (2 * np.pi) ** 2 * (ky**2 + kx**2)) - k))
        tilt = np.tan(1e-3 * variables["obj_tilts"][0])
        kernel = kernel * np.exp(2j * np.pi * z * (ky * tilt[0] + kx * tilt[1]))
        first, second = variables["obj"][0][:, rows, columns]
        leaving = second * np.fft.ifft2(kernel * np.fft.fft2(first * waves))
        patterns.append(np.fft.fftshift((np.abs(np.fft.fft2(leaving, norm="ortho")) ** 2).sum(0)))
    return torch.as_tensor(np.stack(patterns), dtype=torch.float32)


def test_a_propagator_of_ones_own_is_used(folder: Path):
    context = loaded(project())
    variables, params = context["init_variables"], context["params"]["model_params"]
    variables["obj"] = np.exp(0.3j * np.random.default_rng(0).random(variables["obj"].shape))
    plain = ptyrad.PtychoAD(variables, params, device="cpu")
    variables["H"] = np.ones_like(variables["H"])
    model = ptyrad.PtychoAD(variables, params, device="cpu")
    variables |= {"H": None, "slice_thickness": 1e-6}
    thin = ptyrad.PtychoAD(variables, params, device="cpu")
    index = np.arange(4)
    with torch.no_grad():
        torch.testing.assert_close(model(index), thin(index), rtol=1e-4, atol=1e-6)
        assert (model(index) - plain(index)).abs().max() > 1e-3
    assert torch.equal(model.H, torch.ones_like(model.H))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("slice_thicknes", 12.0, "there is no 'slice_thicknes'; did you mean 'slice_thickness'"),
        ("length_unit", "m", "give lengths in Ang"),
        ("obj", None, "is missing"),
        ("obj", np.ones((54, 52)), "is not the shape of"),
        ("probe_pos_shifts", np.zeros((29, 2)), r"must have the shape \(30, 2\)"),
        ("obj_tilts", np.zeros((7, 2)), r"must have the shape \(1, 2\) or \(30, 2\)"),
        ("N_scans", 31, "contradicts measurements"),
        ("meas_Npix", 25, "contradicts measurements"),
        ("simu_Npix", 25, "contradicts probe"),
        ("dk", 1.0, "contradicts dx and probe"),
        ("H", np.ones((3, 3)), "must have the shape of the probe"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_refused(folder: Path, name: str, value: Any, sentence: str):
    context = loaded(project())
    context["init_variables"][name] = value
    with pytest.raises(BadInput, match=sentence):
        ptyrad.run_inversion(context)


def test_settings_that_no_longer_count_are_refused(folder: Path):
    context = loaded(project())
    context["params"]["init_params"]["obj_slice_thickness"] = 12.0
    with pytest.raises(BadInput, match="obj_slice_thickness was changed after the data were made ready"):
        ptyrad.run_inversion(context)
    context = loaded(project({"obj_Nlayer": 1}))
    context["init_variables"]["obj_tilts"] = np.array([[5.0, 0.0]])
    with pytest.raises(BadInput, match="not felt by an object of one slice"):
        ptyrad.run_inversion(context)
    context = loaded(project(model_params={"update_params": LATE}))
    context["init_variables"]["H"] = np.ones_like(context["init_variables"]["H"])
    with pytest.raises(BadInput, match="cannot follow a thickness that is refined"):
        ptyrad.run_inversion(context)


def test_a_loss_and_a_constraint_of_ones_own_count(folder: Path):
    context = loaded(project(model_params={"update_params": {"objp": {"start_iter": 1, "lr": 1e-3}}}))
    asked: list[int] = []

    def loss_fn(predicted, measured, windows, occupancy):
        asked.append(len(predicted))
        assert predicted.shape == measured.shape
        assert windows.shape == (len(predicted), 1, 2, SIZE, SIZE, 2)
        return (windows[..., 1] - 0.25).square().mean(), []

    def constraint_fn(model, number):
        model.opt_obja.detach().fill_(1 + number / 100)

    context |= {"loss_fn": loss_fn, "constraint_fn": constraint_fn}
    context["params"]["recon_params"]["NITER"] = 2
    results = ptyrad.run_inversion(context)
    model = results["model"]
    assert sum(asked) == 2 * 30
    assert losses(model)[1] < losses(model)[0]
    assert model.opt_objp[0, :, 20:30, 20:30].min() > 0
    assert torch.equal(model.opt_obja, torch.full_like(model.opt_obja, 1.02))
    rates = {group["name"]: group["lr"] for group in results["optimizer"].param_groups}
    assert rates["objp"] == 1e-3


def test_patterns_are_padded_and_windows_blurred_on_the_fly(folder: Path):
    context = loaded(project({"simu_Npix": 36, "simu_match_mode": "crop"}))
    variables, params = context["init_variables"], context["params"]["model_params"]
    edge = (36 - SIZE) // 2
    variables["on_the_fly_meas_padded"] = np.full((1, 36, 36), 1e-3, np.float32)
    variables["on_the_fly_meas_padded_idx"] = [edge, edge + SIZE, edge, edge + SIZE]
    variables["obj"] = np.exp(0.5j * np.random.default_rng(0).random(variables["obj"].shape))
    index = np.array([3, 4])
    model = ptyrad.PtychoAD(variables, params, device="cpu")
    padded = model.get_measurements(index)
    assert model(index).shape == padded.shape == (2, 36, 36)
    np.testing.assert_array_equal(padded[:, edge:-edge, edge:-edge], variables["measurements"][index])
    assert padded[:, 0].eq(1e-3).all()
    blurred = ptyrad.PtychoAD(variables, params | {"obj_preblur_std": 1.5}, device="cpu")
    with torch.no_grad():
        windows = blurred.get_obj_patches(index)
        assert windows[..., 1].std() < 0.6 * model.get_obj_patches(index)[..., 1].std()
        kernels, waves = blurred.get_propagators(index), blurred.get_probes(index)
        expected = forward.multislice_forward_model_vec_all(windows, waves, kernels, model.omode_occu)
        torch.testing.assert_close(blurred(index), expected, rtol=1e-4, atol=1e-6)
    ran = ptyrad.run_inversion(context)["model"]
    assert losses(ran)[-1] < losses(ran)[0]


@pytest.mark.parametrize("several", [False, True], ids=["one probe mode", "three object modes"])
def test_the_forward_model_is_that_of_the_module(folder: Path, several: bool):
    init = {"obj_omode_max": 3, "tilt_params": {"tilt_type": "each", "init_tilts": [[3.0, -5.0]]}}
    context = loaded(project(init if several else {"probe_pmode_max": 1}))
    variables = context["init_variables"]
    variables["obj"] = np.exp(0.5j * np.random.default_rng(0).random(variables["obj"].shape))
    model = ptyrad.PtychoAD(variables, context["params"]["model_params"], device="cpu")
    index = torch.tensor([1, 5, 6])
    with torch.no_grad():
        probe = utils.imshift_batch(
            model.get_complex_probe_view(), model.opt_probe_pos_shifts[index], model.shift_probes_grid
        )
        torch.testing.assert_close(probe, model.get_probes(index), rtol=1e-4, atol=1e-6)
        windows = model.get_obj_patches(index)
        kernels = model.get_propagators(index)
        assert len(kernels) == (3 if several else 1)
        there = model.H_fixed_tilts_full[index] if several else model.H[None]
        torch.testing.assert_close(kernels, there, rtol=1e-4, atol=1e-5)
        expected = forward.multislice_forward_model_vec_all(windows, probe, kernels, model.omode_occu)
        torch.testing.assert_close(model(index), expected, rtol=1e-4, atol=1e-6)


def test_the_run_leaves_the_files_of_a_run_from_the_command_line(folder: Path):
    results = ptyrad.run_inversion(loaded(project(recon_params={"save_result": ["model"], "postfix": "r1"})))
    there = results["output_path"]
    assert there == Path("out/scan_r1")
    assert sorted(path.name for path in there.glob("*.hdf5")) == ["model_iter0003.hdf5"]
    assert [path.name for path in (there / "epochs/0002").iterdir()] == ["model_iter0002.hdf5"]
    with h5py.File(there / "model_iter0003.hdf5") as file:
        phase = np.asarray(file["optimizable_tensors/objp"])
    core = results["model"].core
    expected = core.object.phase.detach().numpy()
    np.testing.assert_allclose(phase - phase.mean(), expected - expected.mean(), atol=1e-4)
    result = Result.load(there / "result.h5")
    assert [event["loss"] for event in result.history] == losses(results["model"])
    lines = (there / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3]
    ptyrad.evaluate_results(results)
    (text,) = there.glob("*ptyrad_log.txt")
    assert "Iter: 3, Total Loss: " in text.read_text()


def test_acc_gives_an_accelerator_that_takes_the_same_steps(folder: Path):
    pytest.importorskip("accelerate")
    context = loaded(project(recon_params={"SAVE_ITERS": None}), gpuid="acc")
    assert context["device"] is None
    assert context["accelerator"].num_processes == 1
    model = ptyrad.run_inversion(context)["model"]
    other = ptyrad.run_inversion(loaded(project(recon_params={"SAVE_ITERS": None})))["model"]
    if not torch.cuda.is_available():
        assert losses(model) == losses(other)
    context["accelerator"] = SimpleNamespace(
        device=context["accelerator"].device, mixed_precision="fp16", gradient_accumulation_steps=1
    )
    with pytest.raises(BadInput, match=r"accelerator\.mixed_precision: fp16 is not supported"):
        ptyrad.run_inversion(context)
    context["accelerator"].mixed_precision = "no"
    context["accelerator"].gradient_accumulation_steps = 2
    with pytest.raises(BadInput, match=r"BATCH_SIZE\.grad_accumulation"):
        ptyrad.run_inversion(context)
    with pytest.raises(BadInput, match="name a device"):
        ptyrad.run_inversion(context | {"accelerator": None})


DATA = Path(__file__).parents[1] / "data"
TUTORIAL = {
    section: (DATA / f"ptyrad_tutorial_{section}.txt").read_text()
    for section in ("preprocessing", "inversion", "evaluation")
}
"""Code of PtyRAD's tutorial, sections 4.3, 6.2.4 and 7.3, word for word."""


def run_tutorial(monkeypatch: pytest.MonkeyPatch, section: str = "inversion") -> dict[str, Any]:
    """The names of a section's code, run as it is but for the name of the package it imports."""
    vision = ModuleType("torchvision.transforms.functional")
    vars(vision)["gaussian_blur"] = lambda patterns, kernel_size, sigma: blur(
        patterns, (-2, -1), std=sigma, taps=kernel_size
    )
    for name in ("torchvision", "torchvision.transforms"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, vision.__name__, vision)
    names: dict[str, Any] = {}
    exec(TUTORIAL[section].replace("from ptyrad.", "from phaseloom.compat.ptyrad."), names)
    return names


def test_the_tutorial_runs_from_its_first_line_to_its_last(folder: Path, monkeypatch: pytest.MonkeyPatch):
    written = {name: run_tutorial(monkeypatch, name) for name in TUTORIAL}
    tree = project(
        {"tilt_params": {"init_tilts": [[2.0, -1.0]]}},
        constraint_params={"objp_postiv": {"freq": 1}},
        recon_params={"save_result": ["model"]},
    )
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    context = written["preprocessing"]["load_and_preprocess_data"]("params.yaml")
    assert context["params"]["constraint_params"]["objp_postiv"]["step"] == 1
    results = written["inversion"]["run_inversion"](context)
    written["evaluation"]["evaluate_results"](results)
    model = results["model"]
    assert losses(model)[-1] < losses(model)[0]
    assert model.opt_objp.min() >= 0
    (log,) = results["output_path"].glob("*ptyrad_log.txt")
    assert "### Evaluation & Cleanup ###" in log.read_text()


@pytest.mark.parametrize("gpuid", ["cpu", "acc"])
def test_the_class_and_the_run_of_the_tutorial_run_as_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gpuid: str
):
    written = run_tutorial(monkeypatch)
    limits = {"objp_postiv": {"start_iter": 1, "relax": 0.0}, "fix_probe_int": {"start_iter": 1}}
    moves = {name: {"start_iter": 1, "lr": 5e-4} for name in ("obja", "objp", "probe_pos_shifts")}
    moves["probe"] = {"start_iter": 2, "lr": 1e-3}
    tree = project(
        model_params={"update_params": moves},
        constraint_params=limits,
        recon_params={"save_result": ["model"]},
    )
    results = written["run_inversion"](loaded(tree, gpuid))
    model = results["model"]
    assert type(model) is written["PtychoAD"]
    assert len(model.loss_iters) == EPOCHS
    assert losses(model)[-1] < losses(model)[0]
    assert model.opt_objp.min() >= 0
    power = model.get_complex_probe_view().abs().square().sum()
    assert power.item() == pytest.approx(model.probe_int_sum.item(), rel=1e-5)
    saved = read(results["output_path"] / "model_iter0003.hdf5")
    assert saved.probe is not None
    assert np.abs(saved.probe[0]).max() > 0
    if gpuid == "cpu":
        context = loaded(tree)
        theirs_at_first = torch.view_as_real(torch.as_tensor(context["init_variables"]["probe"]))
        ours = ptyrad.run_inversion(context)["model"]
        assert losses(model) == pytest.approx(losses(ours), rel=2e-4)
        moved = (ours.opt_probe - theirs_at_first).norm()
        # steps of Adam are as long where a gradient is rounding; 0.102 on one processor
        assert (model.opt_probe - ours.opt_probe).norm() < 0.2 * moved


def test_what_the_tutorial_reads_of_its_class_ours_has_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    written = run_tutorial(monkeypatch)["PtychoAD"]
    context = loaded(project({"tilt_params": {"init_tilts": [[3.0, -5.0]]}}))
    arguments = (context["init_variables"], context["params"]["model_params"], "cpu")
    theirs, ours = written(*arguments), ptyrad.PtychoAD(*arguments)
    every = [*vars(theirs), *theirs._parameters, *theirs._buffers, *vars(written)]
    names = {name for name in every if name not in vars(torch.nn.Module()) and not name.startswith("__")}
    assert not {name for name in names if not hasattr(ours, name)}
    for name in ("H", "lambd", "dx", "dk", "crop_pos", "omode_occu", "slice_thickness", "probe_int_sum"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5, msg=name)
    for name in ("rpy_grid", "rpx_grid", "shift_probes_grid", "N_scan_slow", "N_scan_fast", "opt_probe"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6, msg=name)
    for name in ("start_iter", "end_iter", "lr_params", "random_seed", "length_unit", "tilt_obj"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.k == pytest.approx(float(theirs.k))
    index = torch.arange(5)
    with torch.no_grad():
        shown = theirs(index)
        torch.testing.assert_close(ours(index), shown, rtol=0.02, atol=2e-3 * float(shown.max()))


def test_iterations_begin_and_end_parts(folder: Path):
    context = loaded(project(model_params={"update_params": LATE}))
    model = ptyrad.PtychoAD(context["init_variables"], context["params"]["model_params"], device="cpu")
    assert model.compilation_iters == [1, 2, 3, 4]
    assert {name for name, one in model.optimizable_tensors.items() if one.requires_grad} == {"obja", "objp"}
    assert [group["lr"] for group in model.optimizable_params] == [5e-4, 5e-4, 1e-4, 1e-3, 1e-4, 5e-4]


def test_a_script_shows_on_the_terminal_what_its_log_holds(folder: Path, capsys: pytest.CaptureFixture[str]):
    context = loaded(project())
    results = ptyrad.run_inversion(context)
    ptyrad.evaluate_results(results)
    shown = capsys.readouterr().out.splitlines()
    (file,) = results["output_path"].glob("*ptyrad_log.txt")
    assert [line.split(" ", 2)[2] for line in file.read_text().splitlines()] == shown
    assert [line.split(",")[0] for line in shown if line.startswith("Iter")] == [
        "Iter: 1",
        "Iter: 2",
        "Iter: 3",
    ]
    assert any(line.startswith("PyTorch ") for line in shown)  # what it ran on
    utils.vprint("after the end")
    assert not capsys.readouterr().out


def test_lines_are_kept_from_the_terminal_if_asked(capsys: pytest.CaptureFixture[str]):
    logger = utils.CustomLogger(log_file=None)
    utils.vprint("one")
    utils.vprint("two", verbose=False)
    logger.close()
    assert capsys.readouterr().out == "one\n"


def test_batches_of_a_loader_and_of_a_list(folder: Path):
    context = loaded(project(recon_params={"SAVE_ITERS": None, "NITER": 1}))
    params, initializer = context["params"], context["initializer"]

    def run(make: Any) -> list[float]:
        model = ptyrad.PtychoAD(context["init_variables"], params["model_params"], device="cpu")
        optimizer = reconstruction.create_optimizer(model.optimizer_params, model.optimizable_params)
        indices, batches, folder = reconstruction.prepare_recon(model, initializer, params)
        functions = (context["loss_fn"], context["constraint_fn"])
        loop = (model, initializer, params, optimizer, *functions)
        reconstruction.recon_loop(*loop, indices, make(indices, batches), folder)
        return losses(model)

    assert run(lambda indices, batches: list(batches)) == run(lambda indices, batches: batches)
    loader = run(
        lambda indices, batches: torch.utils.data.DataLoader(
            reconstruction.IndicesDataset(indices), batch_size=8, shuffle=True
        )
    )
    assert np.isfinite(loader).all()
    with pytest.raises(BadInput, match="hold patterns that are not among indices"):
        run(lambda indices, batches: [[0, 1], [99]])


def test_a_module_without_one_of_the_names_is_refused(folder: Path):
    with pytest.raises(BadInput, match="Linear lacks one of PtyRAD's names"):
        loaded(project(constraint_params={"objp_postiv": {"start_iter": 1}}))["constraint_fn"](
            torch.nn.Linear(2, 2), 1
        )


SEVERAL = """
import json, os, sys
import torch
from phaseloom.compat import ptyrad
from phaseloom.compat.ptyrad import reconstruction as tutorial

torch.set_num_threads(1)
context = ptyrad.load_and_preprocess_data("params.json", gpuid="acc")
acc = context["accelerator"]
params = context["params"]
ran = ptyrad.run_inversion(context)
model = ptyrad.PtychoAD(context["init_variables"], params["model_params"], device=acc.device)
optimizer = tutorial.create_optimizer(model.optimizer_params, model.optimizable_params)
indices, _, _ = tutorial.prepare_recon(model, context["initializer"], params)
data = tutorial.IndicesDataset(indices)
loader = acc.prepare(torch.utils.data.DataLoader(data, batch_size=4, shuffle=True))
wrapped, optimizer = acc.prepare(model, optimizer)
functions = (context["loss_fn"], context["constraint_fn"])
loop = (wrapped, context["initializer"], params, optimizer, *functions, indices, loader, None)
tutorial.recon_loop(*loop, acc=acc)
losses = [[loss for _, loss in one.loss_iters] for one in (ran["model"], model)]
phases = [float(one.opt_objp.detach().abs().sum()) for one in (ran["model"], model)]
with open(f"rank{acc.process_index}.json", "w") as file:
    json.dump({"count": acc.num_processes, "losses": losses, "phases": phases}, file)
ptyrad.evaluate_results(ran)
"""


@pytest.mark.medium
def test_two_processes_share_batches_by_the_accelerator(folder: Path):
    pytest.importorskip("accelerate")
    tree = project(recon_params={"save_result": ["model"]})
    alone = ptyrad.run_inversion(
        loaded(tree | {"recon_params": tree["recon_params"] | {"output_dir": "one"}})
    )
    Path("params.json").write_text(json.dumps(tree))
    Path("several.py").write_text(SEVERAL)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*start, "several.py"], env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads(Path(f"rank{number}.json").read_text()) for number in (0, 1)]
    assert ranks[0] == ranks[1]  # to the last bit
    assert ranks[0]["count"] == 2
    # the losses have roots of means over patterns, which are not means of those of halves
    assert ranks[0]["losses"][0] == pytest.approx(losses(alone["model"]), rel=2e-3)
    assert ranks[0]["losses"][1][-1] < ranks[0]["losses"][1][0]
    assert ranks[0]["phases"][1] > 0
    names = sorted(path.name for path in Path("out/scan").iterdir() if path.suffix != ".txt")
    assert names == ["epochs", "events.jsonl", "model_iter0003.hdf5", "result.h5"]
