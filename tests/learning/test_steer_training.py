"""A training that is steered: it pauses, stops as if all epochs were done, and its record repeats it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.embedding.train import Autoencode, AutoencoderTraining
from phaseloom.runs.control import CommandQueue, read_answers, read_events, send_command

SMALL = {"recommended": {"latent_dim": 3, "width": 8, "head_channels": 2}}


@pytest.fixture
def recipe(tmp_path) -> Autoencode:
    torch.set_num_threads(1)
    y, x = np.mgrid[:10, :10] / 9
    rate = 2 + 20 * np.exp(-((np.mgrid[:16, :16] - 8) ** 2).sum(0) / 20) * (1 + x * y).reshape(-1, 1, 1)
    counts = np.random.default_rng(0).poisson(rate).astype(np.uint16)
    np.save(tmp_path / "scan.npy", counts.reshape(10, 10, 16, 16))
    (tmp_path / "scan.npy.yaml").write_text("{energy: 200 keV, angle: 1 mrad, step: 2 A}")
    tree = {"file": str(tmp_path / "scan.npy"), "model": SMALL, "block": 2, "epochs": 4, "device": "cpu"}
    return Autoencode.of(tree)


def drive(training: AutoencoderTraining, script: dict[int, list[str]]) -> AutoencoderTraining:
    for epoch in training:
        for verb in script.get(epoch.number, ()):
            assert training.directory is not None
            send_command(training.directory, verb)
    return training


def assert_same(one: AutoencoderTraining, other: AutoencoderTraining) -> None:
    assert [e["loss"] for e in one.progress.history] == [e["loss"] for e in other.progress.history]
    assert one.progress.stop == other.progress.stop
    ours, theirs = one.net.state_dict(), other.net.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def answers(folder: Path) -> list[tuple[str, int, bool]]:
    return [(one.command, one.epoch, one.accepted) for one in read_answers(folder).values()]


@pytest.mark.medium
def test_it_stops_saves_and_is_repeated_by_its_record(recipe, tmp_path):
    script = {1: ["pause", "resume", "save", "set"], 2: ["stop"]}
    training = drive(AutoencoderTraining.begin(recipe, tmp_path / "run"), script)
    assert [event["number"] for event in training.progress.history] == [1, 2]
    assert training.progress.stop.reason == "requested"
    assert (tmp_path / "run/snapshots/000001.h5").is_file()
    told = [("pause", 1, True), ("resume", 1, True), ("save", 1, True), ("set", 1, False), ("stop", 2, True)]
    assert answers(tmp_path / "run") == told
    refused = [one.reason for one in read_answers(tmp_path / "run").values() if not one.accepted]
    assert refused[0].endswith("it takes pause, resume, stop, save")
    assert sum("number" in event for event in read_events(tmp_path / "run")) == 2
    again = AutoencoderTraining.begin(Autoencode.from_path(tmp_path / "run/run.yaml"))
    assert_same(drive(again, {}), training)
    assert_same(drive(AutoencoderTraining.resume(tmp_path / "run"), {}), training)


@pytest.mark.medium
def test_a_stop_before_its_answer_is_followed_and_answered_once(recipe, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(queue: CommandQueue, answer: Any) -> None:
        raise Killed

    monkeypatch.setattr(CommandQueue, "answer", kill)
    with pytest.raises(Killed):
        drive(AutoencoderTraining.begin(recipe, tmp_path / "run"), {2: ["stop"]})
    monkeypatch.undo()
    training = drive(AutoencoderTraining.resume(tmp_path / "run"), {})
    assert len(training.progress.history) == 2
    drive(AutoencoderTraining.resume(tmp_path / "run"), {})
    assert answers(tmp_path / "run") == [("stop", 2, True)]
