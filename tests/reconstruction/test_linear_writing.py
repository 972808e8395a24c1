"""A run writes as much per epoch after many epochs as after few: no history within every snapshot."""

import json

import pytest
import torch

from phaseloom.fitting import checkpoint
from phaseloom.fitting.loop import Progress
from phaseloom.reconstruction import run_folder
from phaseloom.reconstruction.run_folder import save_epoch

EPOCHS = 10_000


def make_progress(epoch: int) -> Progress:
    model = torch.nn.Linear(2, 2)
    event = {
        "loss": 0.123456789,
        "terms": {"amplitude": 0.123456789},
        "holdout": 0.2,
        "rates": {"object": 1.0},
    }
    history = [{"number": number + 1, **event} for number in range(epoch)]
    return Progress(model, torch.optim.SGD(model.parameters(), lr=0.1), epoch=epoch, history=history)


@pytest.fixture(autouse=True)
def model_without_pixels(monkeypatch):
    """The model of these tests is no ptychography: viewers are told nothing of it."""
    monkeypatch.setattr(run_folder, "_describe_model", lambda model: {})


def test_bytes_per_epoch_do_not_grow(tmp_path):
    progress = make_progress(EPOCHS)
    events = progress.history
    sizes = {}
    total = 0
    for epoch in (*range(1, 31), *range(EPOCHS - 9, EPOCHS + 1)):
        progress.epoch = epoch
        progress.history = events[:epoch]
        before = (tmp_path / "events.jsonl").stat().st_size if epoch > 1 else 0
        save_epoch(progress, tmp_path, coarsening=1.0)
        line = (tmp_path / "events.jsonl").stat().st_size - before
        sizes[epoch] = (tmp_path / "snapshot.h5").stat().st_size + line
        total += sizes[epoch]
    assert sizes[EPOCHS] < sizes[1] + 100
    print(f"bytes an epoch: {sizes[1]} in the first, {sizes[EPOCHS]} in epoch {EPOCHS}")


def test_the_whole_history_comes_back_from_the_lines(tmp_path):
    progress = make_progress(7)
    for epoch in range(1, 8):
        part = Progress(progress.model, progress.optimizer, epoch, progress.history[:epoch])
        save_epoch(part, tmp_path, coarsening=1.0)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    (tmp_path / "events.jsonl").write_text("\n".join(lines[:6]) + "\n" + lines[6][:20])  # killed in its line
    again = make_progress(0)
    checkpoint.load(again, tmp_path / "snapshot.h5", events=tmp_path / "events.jsonl")
    assert again.history == progress.history
    assert [json.loads(line)["number"] for line in lines] == list(range(1, 8))
