"""A run that is killed twenty times loses an epoch each time at most, and never leaves half a file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from phaseloom.files import LOCK_NAME
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result, is_result
from phaseloom.spec import load_yaml

KILLS, EPOCHS = 20, 100_000

PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from phaseloom.reconstruction.protocol import Job
folder = Path(sys.argv[1])
job = Job.resume(folder)
print("ready", job.progress.epoch, flush=True)
for epoch in job:
    if epoch.number % 5 == 0:
        job.result().save(folder / "result.h5")
    print(epoch.number, flush=True)
"""


def state(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """Epoch of the snapshot and the whole lines of events; every file must open."""
    assert load_yaml(folder / "run.yaml")["epochs"] == EPOCHS
    if (folder / "result.h5").exists():
        assert np.isfinite(Result.load(folder / "result.h5").object).all()
    for stray in folder.glob(".*"):
        assert ".tmp" in stray.name or stray.name == LOCK_NAME
        assert stray.name not in ("run.yaml", "snapshot.h5", "result.h5", "events.jsonl")
    lines = (folder / "events.jsonl").read_text().split("\n")[:-1]
    events = [json.loads(line) for line in lines]
    if not (folder / "snapshot.h5").exists():
        return 0, events
    with h5py.File(folder / "snapshot.h5") as file:
        tree = dict(json.loads(file["state"].asstr()[()])["pairs"])
        assert len(file["tensors"]) > 0
    return tree["epoch"], events


def killed(folder: Path, wait: float) -> tuple[int, int]:
    """Resume in another process, kill it after a while; where it began and what it said last."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        first = process.stdout.readline().split()
        assert first[:1] == ["ready"], "the run must be able to go on"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait)
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().split("\n")[:-1]
    assert process.returncode == -signal.SIGKILL
    return int(first[1]), int(said[-1]) if said else int(first[1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_twenty_kills_lose_an_epoch_each_at_most(tree, tmp_path):
    folder = tmp_path / "run"
    settings = {"epochs": EPOCHS, "patience": None, "shape": "constant", "projections": ["orthogonal"]}
    settings["rates"] = {"affine": 0}  # which waits for half of the epochs, however many they are
    next(iter(Job.begin(Reconstruct.of(tree | settings), folder)))
    before, waits = 1, np.random.default_rng(0).uniform(0, 2, KILLS)
    for wait in waits:
        began, said = killed(folder, wait)
        assert began == before, "a run goes on from its last snapshot"
        epoch, events = state(folder)
        assert epoch >= said, "an epoch that was told of is safe"
        assert [event["number"] for event in events] == list(range(1, len(events) + 1))
        assert epoch - 1 <= len(events) <= epoch, "events and snapshot differ by one epoch at most"
        before = epoch
    assert before > KILLS
    assert_like_a_straight_run(folder, tree | settings | {"epochs": 30})


def assert_like_a_straight_run(folder: Path, tree: dict[str, Any]) -> None:
    """The first epochs are those of a run left in peace, until that learns from all patterns."""
    history = Job.resume(folder).progress.history
    straight = Job.begin(Reconstruct.of(tree))
    for _ in straight:
        pass
    count = min(len(history), 27)
    assert [e["loss"] for e in history[:count]] == [e["loss"] for e in straight.progress.history[:count]]


def test_a_half_written_file_is_taken_for_nothing(tree, tmp_path):
    job = Job.begin(Reconstruct.of(tree), tmp_path / "run")
    next(iter(job))
    for name in (".snapshot.123.tmp.h5", ".result.123.tmp.h5"):
        (tmp_path / "run" / name).write_bytes(b"\x89HDF half")
    assert not is_result(tmp_path / "run" / ".result.123.tmp.h5")
    again = Job.resume(tmp_path / "run")
    assert again.progress.epoch == 1
    assert sum(1 for _ in again) == 3
