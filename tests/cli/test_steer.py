"""The verb that steers a run."""

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.control import read_commands
from phaseloom.runs.lock import Holder


@pytest.fixture
def run(tree, tmp_path) -> Path:
    """A run that was left after its second epoch."""
    torch.set_num_threads(1)
    for epoch in Job.begin(Reconstruct.of(tree), tmp_path / "run"):
        if epoch.number == 2:
            break
    return tmp_path / "run"


def test_what_is_sent_is_listed_with_its_answer(phaseloom, run):
    sent = phaseloom("steer", run, "set", "rates.object=0.1").out
    assert "nobody works on the run: it takes it when it is resumed" in sent
    assert "sent: off" in phaseloom("steer", run, "off", "probe").out
    assert "sent: back" in phaseloom("steer", run, "back", "1").out
    assert [one.command for one in read_commands(run)] == ["set", "off", "back"]
    status = phaseloom("steer", run, "status").out
    assert status.startswith("epoch 2, loss ")
    assert status.count("not answered yet") == 3
    list(Job.resume(run))
    status = phaseloom("steer", run, "status").out.splitlines()
    assert "epoch 4" in status[0]
    assert "ended: all 4 epochs done" in status[0]
    assert "set rates.object=0.1: accepted after epoch 2. holds from epoch 3 on" in status[1]
    assert "off probe: accepted" in status[2]
    assert "back 1: refused after epoch 2. steer back: epoch: 1 has no snapshot" in status[3]


def test_wait_prints_the_answer_or_ends_with_the_reason(phaseloom, run):
    thread = threading.Timer(0.2, lambda: list(Job.resume(run)))
    thread.start()
    found = phaseloom("steer", run, "set", "rates.object=0.1", "--wait", "--seconds", "30")
    thread.join()
    assert (found.code, found.out) == (0, "accepted after epoch 2: holds from epoch 3 on\n")


def test_a_run_that_does_not_answer_in_time_is_told(phaseloom, run):
    found = phaseloom("steer", run, "pause", "--wait", "--seconds", "0.1")
    assert found.code == 2
    assert "no answer in 0.1 s; the run takes it after its epoch" in found.err


def test_a_run_that_has_ended_is_sent_nothing_that_it_would_not_take(phaseloom, run):
    list(Job.resume(run))
    for words in (["pause"], ["set", "epochs=9"], ["stop", "--wait"]):
        found = phaseloom("steer", run, *words)
        assert found.code == 2
        assert "comes too late: the run has ended after epoch 4; a branch can go on from there" in found.err
    assert read_commands(run) == []
    assert "nobody works on the run: it takes it when it is resumed" in phaseloom("steer", run, "save").out


def test_what_a_training_cannot_take_is_refused_at_once(phaseloom, tmp_path):
    """It was sent, and refused when the paused training went on, perhaps the next day."""
    training = tmp_path / "training"
    training.mkdir()
    (training / "run.yaml").write_text("{file: scan.h5, model: {recommended: {latent_dim: 3}}, epochs: 4}")
    for words in (["set", "rate=0.1"], ["off", "probe"], ["back", "1"], ["branch", tmp_path / "new"]):
        found = phaseloom("steer", training, *words)
        assert found.code == 2
        assert f"steer {words[0]}: is for reconstructions; a training of a network takes status" in found.err
    assert read_commands(training) == []
    assert "sent: pause" in phaseloom("steer", training, "pause").out


def test_a_killed_run_takes_commands_when_it_is_resumed(phaseloom, run):
    gone = asdict(replace(Holder.here(), began=1.0))  # its number belongs to another process now
    (run / ".phaseloom.lock").write_text(json.dumps(gone))
    assert "it takes it when it is resumed" in phaseloom("steer", run, "pause").out
    assert "killed: it goes on from its last snapshot" in phaseloom("steer", run, "status").out


def test_a_refusal_is_a_sentence_of_the_program(phaseloom, run):
    thread = threading.Timer(0.2, lambda: list(Job.resume(run)))
    thread.start()
    found = phaseloom("steer", run, "set", "object=pixels", "--wait", "--seconds", "30")
    thread.join()
    assert found.code == 2
    assert found.err.startswith("phaseloom: steer: object cannot be changed in a run: begin a new one")


def test_a_branch_needs_no_run_under_way(phaseloom, run, tmp_path):
    said = phaseloom("steer", run, "branch", tmp_path / "new", "--set", "epochs=6").out
    assert f"run it with: phaseloom reconstruct --resume {tmp_path / 'new'}" in said
    job = Job.resume(tmp_path / "new")
    assert (job.recipe.epochs, job.progress.epoch) == (6, 2)
    assert not (run / "control.jsonl").exists()
    said = phaseloom("steer", run, "branch", tmp_path / "started", "--start").out
    assert "verdict:" in said
    assert (tmp_path / "started" / "result.h5").is_file()
    (tmp_path / "file").write_text("precious")
    for taken in ("new", "file"):
        said = phaseloom("steer", run, "branch", tmp_path / taken, "--set", "epochs=6").err
        assert said == f"phaseloom: branch: {tmp_path / taken} is not empty: name a new folder\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "fly is not a command: choose one of status, pause"),
        (["paus"], "did you mean 'pause'?"),
        (["pause", "now"], "steer pause: now takes nothing more"),
        (["set"], "steer set: takes PATH=VALUE"),
        (["set", "rates.object"], "rates.object is not PATH=VALUE"),
        (["off"], "steer off: takes PART"),
        (["back", "last"], "last is not the number of an epoch"),
        (["branch"], "steer branch: takes NEW"),
        (["pause", "--set", "epochs=3"], "--set goes with set and branch alone"),
        (["stop", "--start"], "go with branch alone"),
    ],
)
def test_wrong_words_are_refused_and_send_nothing(phaseloom, tmp_path, words, said):
    run = tmp_path
    (run / "run.yaml").write_text("epochs: 20")
    found = phaseloom("steer", run, *words)
    assert found.code == 2
    assert said in found.err
    assert found.err.count("\n") == 1
    assert not (run / "control.jsonl").exists()


def test_a_folder_without_a_run_is_refused(phaseloom, tmp_path):
    assert "holds no run.yaml: name the folder of a run" in phaseloom("steer", tmp_path, "pause").err
