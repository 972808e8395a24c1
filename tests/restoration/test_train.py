"""Trainings of restorers: where they begin, what they keep of an epoch, how they go on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from phaseloom.errors import BadInput
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.train import Restore, RestorerTraining, TrainingPairs

TINY = {"recommended": {"widths": [4, 8], "blocks": [1, 1], "heads": [1, 2], "refine": 0}}


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Stripes of one direction, under noise."""
    rng, x = np.random.default_rng(0), np.arange(32)
    out = []
    for number in range(12):
        clean = np.broadcast_to(0.5 + 0.3 * np.sin(x / 2 + number), (1, 32, 32))
        noisy = clean + rng.normal(0, 0.1, clean.shape)
        out.append(Pair(str(number), noisy, clean))
    return out


def recipe(**changes) -> Restore:
    known = {"model": TINY, "crops": 16, "epochs": 3, "batch": 4, "each": 4, "rate": 3e-3, "device": "cpu"}
    return Restore.of({**known, "validation": 0.2, **changes})


def begun(pairs, *folder, **changes) -> RestorerTraining:
    return RestorerTraining.begin(recipe(**changes), *folder, pairs=pairs)


def test_it_begins_as_the_identity_and_learns(pairs):
    training = begun(pairs, epochs=6, rate=1e-2)
    judges = training.list_holdout_batches()
    with torch.no_grad():
        start = np.mean([float(training.objective(one)["decibels"]) for one in judges])
    noise = np.mean([((p.input.clip(0, 1) - p.target) ** 2).mean() for p in training.pairs[1]])
    assert 100 - start == pytest.approx(-10 * np.log10(noise), abs=0.2)
    epochs = list(training)
    assert epochs[-1].holdout < start - 2


@pytest.mark.parametrize("weighting", ["uncertainty", "softmax", "softmax_frozen"])
def test_every_weight_is_kept_with_every_epoch(pairs, weighting, tmp_path):
    training = begun(pairs, tmp_path / "run", weighting=weighting, epochs=2)
    list(training)
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    states = [json.loads(line)["state"] for line in lines]
    names = {f"{branch}.{loss}" for branch in ("low", "high") for loss in training.objective.losses}
    assert all(names | {"low", "high"} == set(state["weights"]) for state in states)
    assert (states[0]["weights"] == states[1]["weights"]) == (weighting == "softmax_frozen")
    assert set(states[1]["losses"]) == {"low", "high"}


def test_an_interrupted_training_ends_as_one_that_was_not(pairs, tmp_path, monkeypatch):
    whole = begun(pairs, tmp_path / "whole")
    list(whole)
    folder = tmp_path / "part"
    monkeypatch.setattr(Restore, "list_training_pairs", lambda self: TrainingPairs(pairs))
    for _ in begun(pairs, folder):
        break
    again = RestorerTraining.resume(folder)
    assert again.progress.epoch == 1
    list(again)
    for name, value in whole.progress.model.state_dict().items():
        torch.testing.assert_close(again.progress.model.state_dict()[name], value, rtol=0, atol=0)


def test_pieces_of_a_batch_are_the_batch(pairs):
    ends = []
    for pieces in (None, 2):
        training = begun(pairs, pieces=pieces, weighting="softmax_frozen", epochs=1)
        list(training)
        ends.append(training.net.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-5)


def test_a_batch_that_is_not_finite_is_skipped_and_named(pairs, caplog):
    training = begun(pairs, epochs=1)
    cut = training.objective.batch

    def spoiled(these):
        batch = cut(these)
        bad = these.epoch and 5 in these.draws
        return replace(batch, input=batch.input * torch.nan) if bad else batch

    training.objective.batch = spoiled
    assert len(list(training)) == 1
    named = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(named) == 1
    assert "of epoch 1" in named[0]
    assert all(torch.isfinite(value).all() for value in training.net.parameters())


def test_the_weights_of_losses_neither_decay_nor_count_for_the_clip(pairs):
    groups = begun(pairs).progress.optimizer.param_groups
    assert [group["name"] for group in groups] == ["net", "weights"]
    assert (groups[1]["weight_decay"], groups[1]["clip"], groups[1]["lr"]) == (0.0, False, 1e-2)


@pytest.mark.parametrize("data", [["set"], "set"])
def test_a_recipe_names_its_data_relative_to_its_file(tmp_path, data):
    for part in ("train", "test"):
        for side in ("input", "gt"):
            (tmp_path / "set" / part / side).mkdir(parents=True)
            np.save(tmp_path / "set" / part / side / "a.npy", np.zeros((1, 16, 16), np.float32))
    (tmp_path / "restore.yaml").write_text(yaml.safe_dump({"data": data}))
    found = Restore.from_path(tmp_path / "restore.yaml")
    assert found.pairs("test").names == ("a",)
    with pytest.raises(BadInput, match="names no data set"):
        recipe().pairs("train")


def test_crops_read_by_threads_are_the_same(pairs):
    ends = [[*begun(pairs, threads=threads, epochs=1)][-1].loss for threads in (0, 3)]
    assert ends[0] == ends[1]


def test_validation_holds_out_scenes_and_not_pairs(pairs):
    scenes = [str(number % 3) for number in range(len(pairs))]
    training = RestorerTraining.begin(recipe(), pairs=pairs, scenes=scenes)
    sides = [{int(pair.name) % 3 for pair in side} for side in training.pairs]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {0, 1, 2}


def test_a_network_takes_the_channels_of_the_data(pairs):
    coloured = [Pair(p.name, np.repeat(p.input, 3, 0), np.repeat(p.target, 3, 0)) for p in pairs]
    training = begun(coloured)
    assert training.net.plan.channels_in == training.net.plan.channels_out == 3
    assert training.recipe.model.values["channels_in"] == 3


def test_a_phase_is_learned_whatever_its_plane_and_its_strength(pairs):
    y, x = np.mgrid[:32, :32]

    def other(image):
        return 7 * image + 3 - 0.2 * y + 0.5 * x

    tilted = [Pair(p.name, other(p.input), other(p.target)) for p in pairs]
    ends = [[*begun(some, task="phase", epochs=1)][-1].holdout for some in (pairs, tilted)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)


def test_epochs_keep_loss_and_similarity(pairs, tmp_path):
    list(begun(pairs, tmp_path / "run", epochs=2))
    states = [
        json.loads(line)["state"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    ]
    assert all(0 < state["ssim"] < 1 for state in states)
    assert all(np.isfinite(state["loss"]) for state in states)
