"""Trainings: they learn, stop, resume to the same bits, keep materials apart, and leave a network behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.networks.end_to_end import EndToEnd
from phaseloom.retrieval.prediction import predict
from phaseloom.retrieval.recipe import HELD_OUT_SHARE, SampleSimulator, Train
from phaseloom.retrieval.trainer import RetrievalTraining, save_figures, train_retrieval
from phaseloom.retrieval.training_samples import SamplePool
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.specimens import is_held_out

BASE: dict[str, Any] = {
    "microscope": {"fixed": {"scan": [16, 16]}},
    "scans": 4,
    "unseen": 2,
    "window": [10, 10],
    "views": 8,
    "batch": 4,
    "epochs": 3,
    "clean": 1.0,
    "shape": "constant",
    "device": "cpu",
}
TINY = {**BASE, "model": {"tiny": {"components": 24, "width": 8, "depth": 1}}}
NET = {"small": {"window": 10, "depth": 1, "width": 32, "heads": 4, "channels": 4}}
SMALL = {**BASE, "model": NET, "views": 4, "batch": 2}
STITCH = {**BASE, "stage": "stitching", "window": [16, 16], "stitching": {"residual": {"width": 8}}}
OPTICS = BeamOptics(semiangle=0.02, aberrations={"defocus": 90.0})


def run(tree: dict[str, Any], folder: Path | None = None) -> RetrievalTraining:
    training = RetrievalTraining.begin(Train.of(tree), folder)
    for _ in training:
        pass
    return training


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def past(training: RetrievalTraining) -> list[dict[str, Any]]:
    return [{name: event[name] for name in event if name != "seconds"} for event in training.progress.history]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks of the three steps and of none, each trained for an epoch."""
    base = tmp_path_factory.mktemp("stages")
    files = {"patches": base / "1" / "net.safetensors", "stitched": base / "2" / "net.safetensors"}
    run({**SMALL, "epochs": 1}, base / "1").finish()
    run({**STITCH, "epochs": 1, "views": 4}, base / "2").finish()
    return files


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RetrievalTraining:
    training = run({**TINY, "views": 24}, tmp_path_factory.mktemp("tiny") / "run")
    training.finish()
    return training


def test_training_lowers_the_loss_of_materials_never_seen(tiny):
    before = RetrievalTraining.begin(tiny.recipe)
    with torch.no_grad():
        losses = [before.objective(piece)["contrast"] for piece in before.list_holdout_batches()]
    assert tiny.progress.history[-1]["holdout"] < 0.97 * float(torch.stack(losses).mean())
    assert tiny.progress.history[-1]["loss"] < tiny.progress.history[0]["loss"]
    assert not same(before.net, tiny.net)


def test_a_training_leaves_what_is_needed_to_look_at_it_and_repeat_it(tiny):
    names = {path.name for path in tiny.directory.iterdir()}
    assert names >= {"run.yaml", "events.jsonl", "snapshot.h5", "net.safetensors"}
    events = [json.loads(line) for line in (tiny.directory / "events.jsonl").read_text().splitlines()]
    assert [event["number"] for event in events] == [1, 2, 3]
    again = Train.from_path(tiny.directory / "run.yaml")
    assert again.to_full_tree() == tiny.recipe.to_full_tree()
    assert [path.name for path in save_figures(tiny)] == ["curves.png", "unseen.png"]
    assert all(path.stat().st_size > 1000 for path in save_figures(tiny))


def test_the_card_says_what_the_network_is_for_and_how_good_it_is(tiny):
    card = pretrained.load_card(tiny.directory / "net.safetensors")
    assert Experiment(**{**card["experiment"], "scan": (16, 16)}) == Experiment(scan=(16, 16))
    assert card["tolerance"]["defocus"] == pytest.approx(0.1)
    assert card["doses"] == [1e3, None]
    assert card["epochs"] == 3
    assert set(card["scores"]) == {"noiseless", "100000", "10000", "3000"}
    errors = [card["scores"][dose]["nmse"] for dose in ("noiseless", "10000", "3000")]
    assert errors == sorted(errors)
    assert card["scores"]["noiseless"]["correlation"] > 0.7
    assert yaml.safe_load(card["recipe"])["scans"] == 4


def test_the_network_reads_a_scan_that_it_has_never_seen(tiny):
    path = tiny.directory / "net.safetensors"
    sample = tiny.pool.make(-2)
    found = predict(pretrained.load_network(path), pretrained.load_card(path), sample.scan(), OPTICS)
    inner = (slice(8, -8), slice(8, -8))
    assert np.corrcoef(found.phase[inner].ravel(), sample.phase[inner].ravel())[0, 1] > 0.7


@pytest.mark.parametrize("tree", [{**TINY, "clean": 0.3, "shape": "one_cycle"}, {**SMALL, "fresh": 0.5}])
def test_an_interrupted_training_goes_on_to_the_same_bits(tree, tmp_path):
    straight = run(tree, tmp_path / "straight")
    for _ in RetrievalTraining.begin(Train.of(tree), tmp_path / "broken"):
        break
    torch.rand(3)
    resumed = RetrievalTraining.resume(tmp_path / "broken")
    assert resumed.progress.epoch == 1
    for _ in resumed:
        pass
    assert past(resumed) == past(straight)
    assert same(resumed.net, straight.net)
    texts = [(tmp_path / name / "events.jsonl").read_text().count("\n") for name in ("straight", "broken")]
    assert texts == [3, 3]


@pytest.mark.slow
def test_a_training_that_died_before_its_first_snapshot_begins_anew(tmp_path):
    straight = run({**TINY, "epochs": 1})
    RetrievalTraining.begin(Train.of({**TINY, "epochs": 1}), tmp_path / "new")
    resumed = RetrievalTraining.resume(tmp_path / "new")
    for _ in resumed:
        pass
    assert same(resumed.net, straight.net)


@pytest.mark.slow
@pytest.mark.parametrize("tree", [TINY, SMALL])
def test_a_batch_in_pieces_steps_as_the_whole(tree):
    one = {**tree, "views": 4, "batch": 4, "epochs": 1, "optimizer": {"sgd": {}}, "clip": None, "rate": 1e-2}
    whole, pieces = run(one), run({**one, "pieces": 2})
    uneven = run({**one, "pieces": 3})
    start = RetrievalTraining.begin(Train.of(one)).net.state_dict()
    moved = 0.0
    for name, value in whole.net.state_dict().items():
        for other in (pieces, uneven):
            torch.testing.assert_close(other.net.state_dict()[name], value, atol=1e-5, rtol=1e-4)
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-4
    assert pieces.progress.history[0]["loss"] == pytest.approx(whole.progress.history[0]["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tree", [TINY, SMALL])
def test_half_of_the_precision_learns_the_same_roughly(tree):
    full, half = run(tree), run({**tree, "precision": "bfloat16"})
    losses = [training.progress.history[-1]["holdout"] for training in (full, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] != losses[0]
    assert all(torch.isfinite(value).all() for value in half.net.state_dict().values())
    assert all(value.dtype == torch.float32 for value in half.net.parameters())


@pytest.mark.slow
def test_three_steps_follow_one_another(stages, tmp_path):
    weights = {name: str(path) for name, path in stages.items()}
    tree = {**SMALL, **weights, "stage": "end-to-end", "window": [16, 16], "epochs": 1}
    tree["stitching"] = STITCH["stitching"]
    training = RetrievalTraining.begin(Train.of(tree), tmp_path / "3")
    assert isinstance(training.net, EndToEnd)
    assert same(training.net.recovery, pretrained.load_network(stages["patches"]))
    assert same(training.net.stitching, pretrained.load_network(stages["stitched"]))
    (epoch,) = training
    assert set(epoch.terms) == {"contrast", "patches"}
    path, card = training.finish()
    assert not same(training.net.recovery, pretrained.load_network(stages["patches"]))
    assert np.isfinite(card["scores"]["noiseless"]["nmse"])
    again = pretrained.load_network(path)
    sample = training.pool.make(-1)
    assert predict(again, card, sample.scan(), OPTICS).phase.shape == (86, 86)
    onward = RetrievalTraining.begin(Train.of({**tree, "weights": str(path)}))
    assert same(onward.net, again)


@pytest.mark.slow
def test_stitching_learns_from_spoiled_truth_and_begins_as_the_overlap():
    training = RetrievalTraining.begin(Train.of({**STITCH, "epochs": 2}))
    with torch.no_grad():
        first = float(training.objective(training.list_holdout_batches()[0])["contrast"])
    assert 0 < first < 0.3  # the truth was spoiled, but not beyond what overlaps mend
    for _ in training:
        pass
    assert training.progress.history[-1]["holdout"] < 0.3


@pytest.mark.medium
def test_the_second_step_ends_with_its_scores(phaseloom):
    tree = {**STITCH, "epochs": 1, "scans": 1, "unseen": 1, "views": 2, "batch": 2}
    ended = phaseloom("train", "stitching", written(tree), "--out", "two", "-q")
    assert ended.code == 0, ended.err
    scores = pretrained.load_card(Path("two"))["scores"]
    assert set(scores) == {"true", "spoiled"}
    assert scores["true"]["correlation"] > scores["spoiled"]["correlation"] > 0.5
    assert scores["true"]["nmse"] < 0.01  # it began as the overlap, which joins true patches exactly
    assert scores["spoiled"]["nmse"] > 0.01
    table = ended.out.split("unseen materials:")[1]
    for word in (
        "patches",
        "CC",
        "NMSE",
        "PSNR",
        "SSIM",
        "true",
        "spoiled",
        f"{scores['true']['psnr']:7.1f}",
    ):
        assert word in table


def test_a_small_window_can_be_trained_and_judged(tmp_path):
    net = {"small": {**NET["small"], "window": 5}}
    training = run({**SMALL, "model": net, "window": None, "epochs": 1}, tmp_path / "new")
    path, card = training.finish()
    assert path.is_file()
    assert np.isfinite(card["scores"]["noiseless"]["nmse"])


def making(seed: int = 0, **specimen: Any) -> SampleSimulator:
    recipe = Train.of(
        {**BASE, "specimen": {"prototypes": specimen}, "microscope": {"fixed": {"scan": [2, 2]}}}
    )
    return SampleSimulator(recipe.specimen, recipe.microscope, seed)


def test_materials_that_judge_are_never_learned_from():
    make = making()
    for number in range(40):
        assert not is_held_out(make(number).group, HELD_OUT_SHARE)
    for number in range(1, 41):
        assert is_held_out(make(-number).group, HELD_OUT_SHARE)


def test_the_sample_of_a_number_is_the_same_in_any_order():
    make = making()
    first = [make(number) for number in (3, -1, 1)]
    again = [making()(number) for number in (1, 3, -1)]
    for sample, other in zip(first, (again[1], again[2], again[0]), strict=True):
        np.testing.assert_array_equal(sample.patterns, other.patterns)
        np.testing.assert_array_equal(sample.phase, other.phase)
    assert not np.array_equal(make(1).phase, make(-1).phase)
    assert not np.array_equal(make(1).phase, making(seed=1)(1).phase)


def test_samples_have_no_noise_of_their_own():
    recipe = Train.of({**BASE, "microscope": {"fixed": {"scan": [2, 2], "dose": 1000.0}}})
    assert SampleSimulator(recipe.specimen, recipe.microscope, 0)(0).experiment.dose is None


def test_a_specimen_without_materials_of_a_side_is_refused():
    side = "train" if is_held_out("bcc:Fe", HELD_OUT_SHARE) else "held out"
    number = 0 if side == "train" else -1
    with pytest.raises(BadInput, match="prototypes"):
        making(families=["bcc"], only=["Fe"])(number)


def test_old_scans_are_let_go_of_as_new_ones_come():
    training = RetrievalTraining.begin(Train.of({**TINY, "fresh": 0.5, "epochs": 3}))
    assert [list(training.list_scan_numbers(epoch)) for epoch in (1, 2, 3)] == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
    ]
    training.pool[0]
    training.batches(2)
    assert {-1, -2, 2, 3} <= set(training.pool.known) <= {-1, -2, 2, 3, 4, 5}


@pytest.mark.slow
def test_processes_make_the_same_scans(tmp_path):
    tree = {**TINY, "fresh": 0.5, "epochs": 2}
    inline, apart = run(tree), run({**tree, "workers": 1})
    assert isinstance(apart.pool, SamplePool)
    assert apart.pool.processes is None  # sent home
    assert set(apart.pool.known) == set(inline.pool.known)
    for number, scene in inline.pool.known.items():
        assert torch.equal(apart.pool.known[number].roots, scene.roots)
    assert same(apart.net, inline.net)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "linear"}, "is solved, not trained: use phaseloom train linear"),
        ({"window": [17, 10]}, "smaller than a window of 17 x 10"),
        ({"window": [1, 10]}, "2 by 2 probes at least"),
        ({"doses": [1e5, 1e3]}, r"write \[lowest, highest\]"),
        ({"doses": [0, 1e3]}, r"write \[lowest, highest\]"),
        ({"model": NET, "window": [12, 12]}, "this network takes 10 x 10"),
        ({"microscope": {"fixed": {"scan": [16, 16], "detector": 32}}}, r"\(32, 32\) pixels each"),
        ({"stage": "end-to-end"}, "needs no stitching, so train it as patches"),
        ({"stage": "stitching", "stitching": "overlap", "window": [16, 16]}, "has no parameters to train"),
        ({"losses": [{"physics": {"weight": 1.0}}]}, "take larger views"),
    ],
)
def test_what_does_not_go_together_is_said_before_a_folder_is_begun(change, said, tmp_path):
    with pytest.raises(BadInput, match=said) as found:
        RetrievalTraining.begin(Train.of({**TINY, **change}), tmp_path / "new")
    assert "\n" not in str(found.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("stage", "knob", "file"),
    [
        ("patches", "weights", "stitched"),
        ("stitching", "weights", "patches"),
        ("end-to-end", "weights", "patches"),
        ("end-to-end", "patches", "stitched"),
        ("end-to-end", "stitched", "patches"),
    ],
)
def test_weights_of_another_step_are_refused(stage, knob, file, stages):
    tree = {**SMALL, "stage": stage, "window": [16, 16], knob: str(stages[file])}
    with pytest.raises(BadInput, match=f"train: {knob}.*is wanted"):
        Train.of(tree).network()


def test_folders_that_hold_a_run_or_none_are_refused(tiny, tmp_path):
    with pytest.raises(BadInput, match="holds a run: name a new folder, or resume it"):
        RetrievalTraining.begin(tiny.recipe, tiny.directory)
    with pytest.raises(BadInput, match=r"holds no run\.yaml"):
        RetrievalTraining.resume(tmp_path / "nothing")


def written(tree: dict[str, Any]) -> str:
    Path("train.yaml").write_text(yaml.safe_dump(tree))
    return "train.yaml"


def test_a_network_is_trained_on_the_command_line(phaseloom):
    sets = [f"{name}={json.dumps(value)}" for name, value in TINY.items() if name != "model"]
    given = [part for text in sets for part in ("--set", text)]
    ended = phaseloom("train", "patches", *given, "--set", "model.tiny.width=8", "--out", "new", "-q")
    assert ended.code == 0, ended.err
    assert "unseen materials:" in ended.out
    assert "noiseless" in ended.out
    assert f"network: {Path('new') / 'net.safetensors'}" in ended.out
    assert {path.name for path in Path("new").glob("*.png")} == {"curves.png", "unseen.png"}
    assert pretrained.load_network(Path("new")).recipe[1]["width"] == 8
    again = phaseloom("train", "patches", *given, "--out", "new")
    assert (again.code, "exists already" in again.err) == (2, True)


def test_an_interrupted_training_goes_on_on_the_command_line(phaseloom):
    recipe = Train.of(TINY)
    for _ in RetrievalTraining.begin(recipe, "broken"):
        break
    ended = phaseloom("train", "patches", "--resume", "broken", "-q")
    assert ended.code == 0, ended.err
    assert same(pretrained.load_network(Path("broken")), run(TINY).net)
    more = phaseloom("train", "patches", "--resume", "broken", "--set", "epochs=9")
    assert (more.code, "nothing else: to train longer, change epochs in its run.yaml" in more.err) == (
        2,
        True,
    )
    none = phaseloom("train", "patches", "--resume", "elsewhere")
    assert (none.code, "holds no run.yaml" in none.err) == (2, True)
    assert "Traceback" not in more.err + none.err


@pytest.mark.slow
def test_all_three_steps_run_on_the_command_line(phaseloom):
    tree = {**SMALL, "window": None, "epochs": 1, "stitching": STITCH["stitching"], "joint": {"rate": 3e-5}}
    ended = phaseloom("train", "retrieval", written(tree), "--out", "all", "-q")
    assert ended.code == 0, ended.err
    nets = [
        pretrained.load_network(Path("all") / name) for name in ("1-patches", "2-stitching", "3-end-to-end")
    ]
    assert isinstance(nets[2], EndToEnd)
    assert nets[2].recovery.recipe == nets[0].recipe
    recipes = [Train.from_path(path) for path in sorted(Path("all").glob("*/run.yaml"))]
    assert [recipe.stage for recipe in recipes] == ["patches", "stitching", "end-to-end"]
    assert [recipe.rate for recipe in recipes] == [1e-3, 1e-3, 3e-5]
    assert recipes[2].patches == Path("all").resolve() / "1-patches" / "net.safetensors"


@pytest.mark.slow
def test_all_three_steps_go_on_where_they_were_stopped(phaseloom, monkeypatch):
    tree = {**SMALL, "window": None, "epochs": 1, "stitching": STITCH["stitching"]}
    with monkeypatch.context() as patched:
        patched.setattr(
            RetrievalTraining, "__iter__", interrupted_at("stitching", RetrievalTraining.__iter__)
        )
        stopped = phaseloom("train", "retrieval", written(tree), "--out", "all", "-q")
    assert stopped.code == 130
    assert "go on with: phaseloom train retrieval --resume all" in stopped.out
    before = (Path("all") / "1-patches" / "net.safetensors").stat().st_mtime_ns
    ended = phaseloom("train", "retrieval", "all", "--resume", "-q")
    assert ended.code == 0, ended.err
    assert (Path("all") / "1-patches" / "net.safetensors").stat().st_mtime_ns == before
    assert isinstance(pretrained.load_network(Path("all") / "3-end-to-end"), EndToEnd)
    again = phaseloom("train", "retrieval", written(tree), "--out", "all", "-q")
    assert (again.code, "use --resume to go on with it" in again.err) == (2, True)


@pytest.mark.slow
def test_all_three_stages_are_trained_and_resumed_in_python(tmp_path):
    recipe = Train.of({**SMALL, "window": None, "epochs": 1, "stitching": STITCH["stitching"]})
    for training, _ in train_retrieval(recipe, tmp_path / "all"):
        assert training.recipe.stage == "patches"
        break  # stopped before the first network is written
    with pytest.raises(BadInput, match="name a new folder"):
        next(train_retrieval(recipe, tmp_path / "all"))
    stages = [training.recipe.stage for training, _ in train_retrieval(None, tmp_path / "all")]
    assert stages == ["stitching", "end-to-end"]
    assert (tmp_path / "all" / "1-patches" / "net.safetensors").exists()
    assert isinstance(pretrained.load_network(tmp_path / "all" / "3-end-to-end"), EndToEnd)
    with pytest.raises(BadInput, match=r"holds no train.yaml"):
        next(train_retrieval(None, tmp_path))


def interrupted_at(stage: str, iterate: Any) -> Any:
    """Epochs that are interrupted in a step."""

    def epochs(training: RetrievalTraining) -> Any:
        if training.recipe.stage == stage:
            raise KeyboardInterrupt
        yield from iterate(training)

    return epochs


def test_a_folder_that_cannot_be_gone_on_with_is_named(phaseloom, tmp_path):
    run({**TINY, "epochs": 1}, tmp_path / "one")
    other = phaseloom("train", "stitching", tmp_path / "one", "--resume")
    assert "a training of patches continues with: phaseloom train patches --resume" in other.err
    (tmp_path / "one" / "snapshot.h5").unlink()
    with pytest.raises(BadInput, match="has lost its snapshot"):
        RetrievalTraining.resume(tmp_path / "one")
    (tmp_path / "one" / "run.yaml").write_text("{file: scan.npy}")
    with pytest.raises(BadInput, match="is not a run of this kind of training"):
        RetrievalTraining.resume(tmp_path / "one")


def test_a_run_that_has_ended_says_so_when_it_is_resumed(phaseloom, tmp_path):
    run({**TINY, "epochs": 1}, tmp_path / "one")
    assert "all 1 epochs were done before" in phaseloom("train", "patches", tmp_path / "one", "--resume").out


def test_ctrl_c_while_a_network_is_evaluated_says_that_all_epochs_are_done(phaseloom, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RetrievalTraining, "finish", interrupted)
    ended = phaseloom("train", "patches", written({**TINY, "epochs": 1}), "--out", tmp_path / "one", "-q")
    assert ended.code == 130
    assert "stopped: one epoch done" in ended.out
    assert "all epochs are done and kept, but the final steps were interrupted\n" in ended.out
    assert f"go on with: phaseloom train patches --resume {tmp_path / 'one'}" in ended.out


@pytest.mark.parametrize(
    ("joint", "said"),
    [({"stage": "patches"}, "joint: stage is the same in all steps"), ({"ratte": 1}, "did you mean 'rate'")],
)
def test_settings_of_the_third_step_are_refused_before_the_first(phaseloom, joint, said):
    ended = phaseloom("train", "retrieval", written({**SMALL, "joint": joint}), "--out", "all", "-q")
    assert (ended.code, said in ended.err) == (2, True), ended.err
    assert not Path("all").exists()


def test_a_loss_is_there_from_its_start_and_the_first_one_always():
    knobs = {"scans": 4, "unseen": 2, "views": 4, "epochs": 2, "microscope": {"fixed": {"scan": [14, 14]}}}
    late = {"losses": ["contrast", {"edges": {}, "start": 2}]}
    training = RetrievalTraining.begin(Train.of({**knobs, **late}))
    assert [sorted(epoch.terms) for epoch in training] == [["contrast"], ["contrast", "edges"]]
    with pytest.raises(BadInput, match="it judges"):
        RetrievalTraining.begin(Train.of({**knobs, "losses": [{"contrast": {}, "start": 2}]}))


def test_paths_of_a_file_are_relative_to_its_folder_and_those_of_settings_to_the_place_of_work(tmp_path):
    (tmp_path / "deep").mkdir()
    for place in (tmp_path / "deep" / "weights", tmp_path / "here"):
        place.touch()
    (tmp_path / "deep" / "train.yaml").write_text("patches: weights\n")
    recipe = Train.from_path(tmp_path / "deep" / "train.yaml", {"stitched": "here"})
    assert recipe.patches == tmp_path / "deep" / "weights"
    assert recipe.stitched == tmp_path / "here"
