"""The verbs of restoration: data, training by file or by the guide's flags, judgement, use."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from phaseloom.compat import phaseformer
from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.plot import style as canvas
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration import apply_result
from phaseloom.restoration.apply import STAMP
from phaseloom.restoration.filter_result import FILTER_STAMP
from phaseloom.restoration.networks.phaseformer import narrow, recommended
from phaseloom.restoration.pairs import image_kinds as tasks
from phaseloom.restoration.pairs import underwater
from phaseloom.restoration.pairs.folders import ImagePairs
from phaseloom.restoration.pairs.images import read_image
from phaseloom.restoration.train import Restore
from phaseloom.result import load
from phaseloom.simulation import simulate

TINY = '{"recommended": {"widths": [4, 8], "blocks": [1, 1], "heads": [1, 2], "refine": 0}}'

Said = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Pictures of few pixels: they are drawn, not looked at."""
    save = canvas.save
    monkeypatch.setattr(canvas, "save", lambda figure, path: save(figure, path, dpi=20))
    monkeypatch.setattr("phaseloom.plot.save", lambda figure, path: save(figure, path, dpi=20))


@pytest.fixture(scope="module")
def sea(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sea"
    underwater.save_pairs(folder, size=32, train=6, test=3, seed=1)
    return folder


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> Path:
    """Networks that change nothing: of three channels, and of a phase."""
    folder = tmp_path_factory.mktemp("nets")
    sizes = {"widths": (4, 8), "blocks": (1, 1), "heads": (1, 2), "refine": 0}
    pretrained.save_network(recommended(channels_in=3, channels_out=3, **sizes), folder / "sea.safetensors")
    phase = recommended(**sizes)
    pretrained.save_network(phase, folder / "phase.safetensors", {"task": "phase"})
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory) -> Path:
    """A reconstruction in its folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tree = {"file": str(files.native), "probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A"}}}
    job = Job.begin(Reconstruct.of({**tree, "epochs": 4, "device": "cpu"}), folder)
    for _ in job:
        pass
    return folder


@pytest.fixture(scope="module")
def atoms_run(tmp_path_factory) -> Path:
    """A reconstruction of few electrons, of a field that has a spectrum."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    positions = simulate.raster((14, 15), 1.3, seed=0)
    positions += 6.0 - positions.min(0)
    truth = simulate.atoms((130, 132), 0.25, peak=0.6, spacing=3.0, seed=1)
    optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 60.0, "window": 24}
    scan, _ = simulate.electron_scan(truth, 0.25, positions, **optics, dose=3e3)
    file = folder.parent / "scan.h5"
    native.write(scan, file)
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "60 A"}}
    tree = {"file": str(file), "probe": probe, "start": "none", "epochs": 3, "levels": 0, "device": "cpu"}
    job = Job.begin(Reconstruct.of(tree), folder)
    for _ in job:
        pass
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of a training, by the first test that asks."""
    return tmp_path_factory.mktemp("trained") / "run"


class TestTraining:
    def test_the_flags_of_the_guide_train_judge_and_keep(self, phaseloom, sea, folder):
        words = ["--dataset_path", sea, "--batch_size", 2, "--test_batch_size", 8, "--niter", 0]
        words += ["--niter_decay", 1, "--lr", 0.001, "--beta1", 0.5, "--threads", 2, "--seed", 123]
        more = ["--set", f"model={TINY}", "--set", "crops=16", "--out", folder, "--quiet"]
        said = phaseloom("restore", "train", *words, *more)
        assert not said.code, said.err
        assert "--test_batch_size is not needed" in said.out
        for name in ("gray world", "stretch", "colour matrix", "network", "UIQM", "UCIQE", "SSIM"):
            assert name in said.out, name
        assert {"net.safetensors", "curves.png", "before_after.png", "events.jsonl"} <= {
            path.name for path in folder.iterdir()
        }
        card = pretrained.load_card(folder)
        assert card["epochs"] == 2
        assert card["scores"]["pairs"] == 3
        assert "linear_decay" in card["recipe"]

    def test_a_run_that_is_done_goes_on_with_nothing(self, phaseloom, folder):
        said = phaseloom("restore", "train", "--resume", folder, "--quiet")
        assert not said.code, said.err
        assert "all 2 epochs were done" in said.out
        said = phaseloom("restore", "train", "--resume", folder, "--lr", 0.1)
        assert "goes on as the run began" in said.err

    def test_the_events_hold_decibels_and_not_a_number_less_them(self, folder):
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        for event in events:
            assert event["state"]["psnr"] == pytest.approx(100 - event["holdout"])
            assert 5 < event["state"]["psnr"] < 40

    def test_it_is_judged_and_used(self, phaseloom, sea, folder, tmp_path):
        said = phaseloom("restore", "eval", "--data", sea, "--model", folder, "--out", tmp_path / "scores")
        assert not said.code, said.err
        scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
        assert scores == pretrained.load_card(folder)["scores"]
        said = phaseloom("restore", "apply", sea / "test" / "input", "-m", folder, "--out", tmp_path / "out")
        assert not said.code, said.err
        assert len([*(tmp_path / "out" / "finer").iterdir()]) == 3


@pytest.mark.medium
def test_the_command_of_the_guide_trains_its_network_and_prints_lines_into_a_file(phaseloom, sea, tmp_path):
    words = ["--dataset_path", sea, "--batch_size", 8, "--niter", 0, "--niter_decay", 1, "--lr", 0.001]
    said = phaseloom("restore", "train", *words, "--set", "crops=16", "--out", tmp_path / "run")
    assert not said.code, said.err
    assert "phaseformer, 1,779,189 parameters" in said.out
    assert "model=narrow" in said.out
    lines = [line for line in said.out.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    for word in ("Loss ", "Avg_Loss ", "LR ", "PSNR ", "SSIM "):
        assert word in lines[0]
    assert "LR 1.00e-03 " in lines[0]  # of the network: the weights of losses have a rate of their own
    recipe = Restore.from_path(tmp_path / "run" / "run.yaml")
    assert recipe.model.name == "phaseformer"


def train_tiny(phaseloom, data: Path, out: Path, *more: object) -> SimpleNamespace:
    """Two epochs by the guide's flags, without the test pairs."""
    words = ["--dataset_path", data, "--batch_size", 2, "--niter", 1, "--niter_decay", 0, "--quiet"]
    return phaseloom(
        "restore",
        "train",
        *words,
        *("--set", f"model={TINY}", "--set", "crops=16", "--set", "shape=constant", *more, "--out", out),
    )


@pytest.fixture
def small_sea(tmp_path) -> Path:
    underwater.save_pairs(tmp_path / "sea", size=24, train=6, test=2, seed=1)
    shutil.rmtree(tmp_path / "sea" / "test")
    return tmp_path / "sea"


def test_a_run_is_resumed_with_its_data_set_where_that_is_now(phaseloom, small_sea, tmp_path):
    assert not train_tiny(phaseloom, small_sea, tmp_path / "run").code
    assert not train_tiny(phaseloom, small_sea, tmp_path / "straight", "--set", "epochs=4").code
    recipe = tmp_path / "run" / "run.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 4"))
    moved = tmp_path / "elsewhere" / "LSUI"
    shutil.copytree(small_sea, moved)
    small_sea.rename(tmp_path / "away")
    said = phaseloom("restore", "train", "--resume", tmp_path / "run", "--quiet")
    assert said.code == 2
    said = phaseloom("restore", "train", "--resume", tmp_path / "run", "--dataset_path", moved, "--quiet")
    assert not said.code, said.err
    assert Restore.from_path(recipe).data == (moved,)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        for name in ("run", "straight")
    ]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


def test_a_run_is_not_resumed_with_other_data(phaseloom, small_sea, tmp_path):
    assert not train_tiny(phaseloom, small_sea, tmp_path / "run").code
    underwater.save_pairs(tmp_path / "other", size=24, train=6, test=2, seed=2)
    said = phaseloom("restore", "train", "--resume", tmp_path / "run", "--dataset_path", tmp_path / "other")
    assert said.code == 2
    assert "holds other pairs than the run began with" in said.err
    said = phaseloom("restore", "train", "--resume", tmp_path / "none.pth", "--dataset_path", small_sea)
    assert said.code == 2
    assert "holds no run.yaml: name the folder of a training" in said.err


def test_epochs_are_kept_on_request_and_can_be_used_and_gone_back_to(phaseloom, small_sea, tmp_path):
    run = tmp_path / "run"
    said = train_tiny(phaseloom, small_sea, run, "--set", "epochs=3", "--set", "snapshots=2")
    assert not said.code, said.err
    assert [path.name for path in sorted((run / "snapshots").iterdir())] == [
        "000002.h5",
        "000002.safetensors",
    ]
    net = pretrained.load_network(run / "snapshots" / "000002.safetensors")
    last = pretrained.load_network(run)
    assert not all(torch.equal(a, b) for a, b in zip(net.parameters(), last.parameters(), strict=True))
    assert pretrained.load_card(run / "snapshots" / "000002.safetensors")["epochs"] == 2
    images = ["restore", "apply", small_sea / "train" / "input", "--out", tmp_path / "restored"]
    said = phaseloom(*images, "--model", run / "snapshots" / "000002.safetensors")
    assert not said.code, said.err
    before = (run / "events.jsonl").read_text().splitlines()
    said = phaseloom("restore", "train", "--resume", run / "snapshots" / "000002.h5", "--quiet")
    assert not said.code, said.err
    after = (run / "events.jsonl").read_text().splitlines()
    assert after[:1] == before[:1]
    assert [json.loads(line)["number"] for line in after] == [1, 2, 3]
    assert json.loads(after[2])["loss"] == json.loads(before[2])["loss"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"epoch_count": 5}, "--resume continues schedule"),
        ({"niter": -1}, "0 or more"),
    ],
)
def test_flags_that_would_do_harm_are_refused(flags, said):
    with pytest.raises(BadInput, match=said):
        phaseformer.translate_flags(flags)


def test_every_policy_is_a_shape_that_exists():
    for policy in ("lambda", "step", "plateau", "cosine", "onecycle"):
        recipe = Restore.of(phaseformer.translate_schedule(policy, 2, 3))
        assert recipe.epochs == 6
        recipe.shape.partial()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"a": torch.zeros(1_783_800)}, "two outputs"),
        ({"state_dict": {"a": torch.zeros(2_530_193)}}, "one output"),
        ({"a": torch.zeros(7)}, "weights of 7 numbers"),
        (Evil(), "whole pickled program"),
        ([1], "holds no weights"),
    ],
)
def test_old_checkpoints_are_recognised_and_refused(phaseloom, tmp_path, monkeypatch, held, said):
    monkeypatch.chdir(tmp_path)
    torch.save(held, tmp_path / "netG_model_epoch_12.pth")
    ended = phaseloom("restore", "train", "--resume", tmp_path / "netG_model_epoch_12.pth")
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "evil").exists()


def test_pairs_are_made_of_scans_and_say_what_they_are(phaseloom, files, tmp_path):
    scan = prepare.poisson(files.scan, dose=1e5, seed=0)
    native.write(replace(scan, grid=(5, 5)), tmp_path / "scan.h5")
    words = ["--task", "virtual_detector", "--share", 0.2, "--draws", 2, "--out", tmp_path / "pairs"]
    said = phaseloom("restore", "pairs", tmp_path / "scan.h5", *words)
    assert not said.code, said.err
    assert "what was drawn" in said.out
    pairs = ImagePairs.of(tmp_path / "pairs")
    assert (len(pairs), pairs.task, len({*pairs.scenes})) == (2, "virtual_detector", 1)


def test_a_training_takes_the_task_of_its_data_and_crops_that_fit(phaseloom, tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for side in ("input", "gt"):
            (tmp_path / "set" / part / side).mkdir(parents=True)
            for number in range(3):
                np.save(tmp_path / "set" / part / side / f"{number}.npy", rng.normal(9e4, 50, (2, 21, 26)))
    names = [f"{part}/{number}.npy" for part in ("train", "test") for number in range(3)]
    told = {"task": "virtual_detector", "pairs": {name: {"scene": name} for name in names}}
    (tmp_path / "set" / "meta.json").write_text(json.dumps(told))
    words = ["--set", f"data=[{tmp_path / 'set'}]", "--set", f"model={TINY}", "--set", "epochs=1", "--quiet"]
    said = phaseloom("train", "restorer", *words, "--out", tmp_path / "run")
    assert not said.code, said.err
    card = pretrained.load_card(tmp_path / "run")
    assert card["task"] == "virtual_detector"
    assert "nmse" in card["scores"]["low"]["network"]
    assert Restore.from_path(tmp_path / "run" / "run.yaml").crops == 16


def test_test_pairs_that_cannot_be_read_lose_no_network(phaseloom, tmp_path):
    underwater.save_pairs(tmp_path / "sea", size=24, train=4, test=2)
    (tmp_path / "sea" / "test" / "gt" / "00001_coffee.png").write_bytes(b"no picture")
    words = ["--set", f"data=[{tmp_path / 'sea'}]", "--set", f"model={TINY}", "--set", "epochs=1", "--quiet"]
    said = phaseloom("train", "restorer", *words, "--out", tmp_path / "run")
    assert said.code == 2
    assert "00001_coffee.png" in said.err
    assert pretrained.load_card(tmp_path / "run")["scores"] is None


class TestApplying:
    def images(self, folder: Path) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        folder.mkdir()
        levels = rng.integers(0, 65536, (20, 31)).astype(np.uint16)
        Image.fromarray(levels).save(folder / "grey.png")
        floats = rng.normal(1e4, 3, (20, 31)).astype(np.float32)
        tifffile.imwrite(folder / "float.tif", floats)
        np.save(folder / "array.npy", floats)
        return {"grey.png": levels / 65535, "float.tif": floats, "array.npy": floats}

    def test_what_comes_in_goes_out_in_its_kind_and_unit_and_is_stamped(self, phaseloom, nets, tmp_path):
        known = self.images(tmp_path / "in")
        out = tmp_path / "out"
        said = phaseloom("restore", "apply", tmp_path / "in", "-m", nets / "phase.safetensors", "--out", out)
        assert not said.code, said.err
        for name, image in known.items():
            found = read_image(out / "restored" / name)[0]
            np.testing.assert_allclose(found, image, rtol=2e-6, atol=1e-4)
            assert read_image(out / "finer" / name).shape == (1, 40, 62)
        told = json.loads((out / "restored.json").read_text())
        assert told["stamp"] == STAMP
        assert len(told["images"]) == 3
        with Image.open(out / "restored" / "grey.png") as file:
            assert STAMP in file.info["Description"]
        with tifffile.TiffFile(out / "restored" / "float.tif") as file:
            assert STAMP in file.pages[0].description

    def test_whole_numbers_and_axes_are_kept(self, phaseloom, nets, tmp_path):
        rng = np.random.default_rng(2)
        (tmp_path / "in").mkdir()
        counts = rng.integers(0, 65535, (20, 31)).astype(np.uint16)
        np.save(tmp_path / "in" / "counts.npy", counts)
        out = tmp_path / "out"
        said = phaseloom("restore", "apply", tmp_path / "in", "-m", nets / "phase.safetensors", "--out", out)
        assert not said.code, said.err
        found = np.load(out / "restored" / "counts.npy")
        assert (found.dtype, found.shape) == (counts.dtype, counts.shape)
        assert abs(found.astype(int) - counts).max() <= 1
        colours = rng.integers(0, 255, (20, 31, 3)).astype(np.uint8)
        tifffile.imwrite(tmp_path / "colours.tif", colours, photometric="rgb")
        words = ["-m", nets / "sea.safetensors", "--out", tmp_path / "colours"]
        said = phaseloom("restore", "apply", tmp_path / "colours.tif", *words)
        assert not said.code, said.err
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "colours" / "restored" / "colours.tif"), colours
        )
        assert tifffile.imread(tmp_path / "colours" / "finer" / "colours.tif").shape == (40, 62, 3)

    def test_what_is_no_photograph_is_refused(self, phaseloom, nets, tmp_path):
        np.save(tmp_path / "a.npy", np.full((3, 16, 16), 81.0, np.float32))
        ended = phaseloom(
            "restore", "apply", tmp_path / "a.npy", "-m", nets / "sea.safetensors", "--out", tmp_path / "out"
        )
        assert ended.code == 2
        assert "must lie within 0 to 1" in ended.err

    def test_tiles_of_an_identity_are_no_change(self, phaseloom, nets, tmp_path):
        image = np.random.default_rng(1).uniform(size=(3, 40, 60)).astype(np.float32)
        np.save(tmp_path / "a.npy", image)
        words = ["-m", nets / "sea.safetensors", "--out", tmp_path / "out", "--tile", 32, "--overlap", 16]
        said = phaseloom("restore", "apply", tmp_path / "a.npy", *words)
        assert not said.code, said.err
        np.testing.assert_allclose(np.load(tmp_path / "out" / "restored" / "a.npy"), image, atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "said"),
        [("none.png", "does not exist"), ("sea.safetensors", "is not an image"), (".", "holds no image")],
    )
    def test_what_is_no_image_is_said(self, phaseloom, nets, tmp_path, name, said):
        ended = phaseloom(
            "restore", "apply", nets / name, "-m", nets / "sea.safetensors", "--out", tmp_path / "o"
        )
        assert ended.code == 2
        assert said in ended.err

    def test_two_files_of_one_name_and_other_channels_are_refused(self, phaseloom, nets, tmp_path):
        image = np.zeros((2, 16, 16), np.float32)
        np.save(tmp_path / "a.npy", image)
        (tmp_path / "b").mkdir()
        np.save(tmp_path / "b" / "a.npy", image)
        words = ["-m", nets / "sea.safetensors", "--out", tmp_path / "out"]
        ended = phaseloom("restore", "apply", tmp_path / "a.npy", tmp_path / "b", *words)
        assert "one name" in ended.err
        ended = phaseloom("restore", "apply", tmp_path / "a.npy", *words)
        assert "a.npy" in ended.err
        assert "3 channels" in ended.err

    def test_a_network_of_another_kind_is_no_restorer(self, phaseloom, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((1, 16, 16), np.float32))
        ended = phaseloom("restore", "apply", tmp_path / "a.npy", "-m", "linear", "--out", tmp_path / "out")
        assert ended.code == 2
        assert "restores no images" in ended.err


class TestPhases:
    def test_a_phase_that_is_not_changed_has_the_misfit_of_the_run(self, run):
        found = apply_result.restore_phase(narrow(), tasks.phase(), run)
        assert found.misfits is not None
        assert found.misfits.restored == pytest.approx(found.misfits.measured, rel=1e-3)
        assert found.misfits.empty > 1.2 * found.misfits.measured
        np.testing.assert_allclose(found.restored, found.measured, atol=1e-4)

    def test_a_phase_that_is_spoiled_has_a_larger_misfit(self, run):
        net = narrow()
        torch.nn.init.normal_(net.heads.last.weight, std=0.3)
        found = apply_result.restore_phase(net, tasks.phase(), run)
        assert found.misfits is not None
        assert found.misfits.restored > 1.05 * found.misfits.measured

    def test_results_are_restored_from_the_command_line(self, phaseloom, nets, run, tmp_path):
        words = ["-m", nets / "phase.safetensors", "--out", tmp_path / "out"]
        alone = tmp_path / "alone.h5"
        alone.write_bytes((run / "result.h5").read_bytes())
        said = phaseloom("restore", "apply", run, alone, *words)
        assert not said.code, said.err
        assert said.out.count("misfit of the patterns: ") == 1
        assert said.out.count("no run beside the result") == 1
        with h5py.File(tmp_path / "out" / "00_run.h5") as file:
            assert file.attrs["stamp"] == STAMP
            assert file["restored"].attrs["stamp"] == STAMP
            assert file["measured"].attrs["stamp"] == "as reconstructed"
            assert file["finer"].shape == tuple(2 * n for n in file["restored"].shape)

    def test_halves_are_correlated_as_measured_and_as_restored(self):
        rng = np.random.default_rng(0)
        clean, noise = gaussian_filter(rng.normal(size=(64, 64)), 2), 0.1 * rng.normal(size=(2, 64, 64))
        halves = [
            apply_result.RestoredPhase(clean + one, gaussian_filter(clean + one, 1), None, (0.5, 0.5), None)
            for one in noise
        ]
        before, after = apply_result.correlate_halves(*halves)
        assert before.resolution() > 2 * 0.5
        assert after.frequency[-1] == before.frequency[-1]

    def test_two_halves_must_be_two_results(self, phaseloom, nets, run, tmp_path):
        words = ["-m", nets / "phase.safetensors", "--out", tmp_path / "out", "--halves"]
        ended = phaseloom("restore", "apply", run, *words)
        assert "needs two results" in ended.err

    def test_two_halves_must_be_of_one_scan_and_of_different_counts(self, phaseloom, nets, run, tmp_path):
        words = ["-m", nets / "phase.safetensors", "--out", tmp_path / "out", "--halves"]
        same, other = tmp_path / "same.h5", tmp_path / "other.h5"
        same.write_bytes((run / "result.h5").read_bytes())
        ended = phaseloom("restore", "apply", run, same, *words)
        assert ended.code == 2
        assert f"same.h5 is of the same counts as {run}" in ended.err
        whole = load(run / "result.h5")
        replace(whole, pixel=(0.7, 0.7), provenance=None).save(other)
        ended = phaseloom("restore", "apply", run, other, *words)
        assert ended.code == 2
        assert "has 25 patterns and pixels of 0.7 A" in ended.err

    def test_more_runs_are_announced_once_nothing_is_refused(self, phaseloom, run, tmp_path):
        ended = phaseloom("restore", "filter", run, "--out", tmp_path / "out", "--method", "wener")
        assert ended.code == 2
        assert "two more runs" not in ended.out + ended.err

    def test_a_phase_wants_a_network_of_phases(self, phaseloom, nets, run, tmp_path):
        ended = phaseloom("restore", "apply", run, "-m", nets / "sea.safetensors", "--out", tmp_path / "out")
        assert ended.code == 2
        assert "this is a phase" in ended.err

    @pytest.mark.medium
    def test_a_run_is_filtered_by_two_more_runs_on_half_of_its_counts(self, phaseloom, atoms_run, tmp_path):
        said = phaseloom("restore", "filter", atoms_run, "--out", tmp_path / "out", "-q")
        assert not said.code, said.err
        assert "misfit of the patterns: " in said.out
        with h5py.File(tmp_path / "out" / "00_run.h5") as file:
            assert file.attrs["stamp"] == file["restored"].attrs["stamp"] == FILTER_STAMP
            assert file["measured"].attrs["stamp"] == "as reconstructed"
            assert "finer" not in file
            measured, restored = (np.asarray(file[name]) for name in ("measured", "restored"))
        assert 0.01 < np.std(restored - measured) / np.std(measured) < 1

    @pytest.mark.medium
    def test_the_network_of_low_dose_restores_a_run_by_halves(self, phaseloom, atoms_run, tmp_path):
        said = phaseloom("restore", "apply", atoms_run, "-m", "low_dose", "--out", tmp_path / "out", "-q")
        assert not said.code, said.err
        assert "misfit of the patterns: " in said.out
        with h5py.File(tmp_path / "out" / "00_run.h5") as file:
            assert file.attrs["stamp"] == STAMP
            assert file["restored"].shape == file["measured"].shape

    def test_what_cannot_be_filtered_is_said(self, phaseloom, run, tmp_path):
        for words, said in (
            ([run / "result.h5"], "is not the folder of a finished run"),
            ([run, "--method", "median"], "nonlocal_means"),
            ([run, "--spread", "0"], "must be between 0.5 and 20"),
            ([run], "is too small for a spectrum"),
        ):
            ended = phaseloom("restore", "filter", *words, "--out", tmp_path / str(len(said)), "-q")
            assert ended.code == 2
            assert said in ended.err
