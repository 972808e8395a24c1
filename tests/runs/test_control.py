"""Lines of commands to a run: sent by anybody, read once, and garbage between them."""

import json
import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from phaseloom.errors import BadInput
from phaseloom.runs.control import (
    COMMANDS,
    BadCommand,
    Command,
    CommandReader,
    read_answers,
    read_commands,
    send_command,
    wait_for_answer,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "run.yaml").write_text("epochs: 20\n")
    return tmp_path


def append(folder: Path, text: bytes, name: str = "control.jsonl") -> None:
    with open(folder / name, "ab") as file:
        file.write(text)


def test_what_is_sent_is_read_in_order(folder):
    sent = [
        send_command(folder, "set", {"rates.object": 0.5}),
        send_command(folder, "off", name="probe"),
        send_command(folder, "back", epoch=3),
    ]
    found = read_commands(folder)
    assert [one.id for one in found] == sent
    assert [one.command for one in found] == ["set", "off", "back"]
    assert (found[0].settings, found[1].name, found[2].epoch) == ({"rates.object": 0.5}, "probe", 3)
    assert found[0].time.endswith("+00:00")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_line_is_an_object_with_id_time_and_command(folder, command):
    found = send_command(folder, command)
    (line,) = (folder / "control.jsonl").read_text().split()
    assert json.loads(line) == {"id": found, "time": json.loads(line)["time"], "command": command}


def test_what_cannot_be_sent_is_said(folder, tmp_path):
    for said, run in (
        ("pouse is not a command: did you mean 'pause'?", lambda: send_command(folder, "pouse")),
        ("holds no run.yaml", lambda: send_command(tmp_path / "nowhere", "pause")),
        ("bytes are too many", lambda: send_command(folder, "set", {"title": 5000 * "a"})),
        ("cannot be sent", lambda: send_command(folder, "set", {"title": object()})),
        ("cannot be sent: epoch: -1", lambda: send_command(folder, "back", epoch=-1)),
    ):
        with pytest.raises(BadInput, match=said):
            run()
    assert not (folder / "control.jsonl").exists()


def test_a_reader_reads_each_line_once_and_waits_for_its_end(folder):
    reader = CommandReader(folder)
    assert reader.read_new() == []
    send_command(folder, "pause")
    assert len(reader.read_new()) == 1
    append(folder, b'{"id": "a", "command"')
    assert reader.read_new() == []
    assert not reader.has_new()
    append(folder, b': "stop"}\n')
    assert [one.id for one in reader.read_new()] == ["a"]
    assert reader.read_new() == []


def test_garbage_is_named_once_and_hides_no_command(folder, caplog):
    append(folder, b'\xff\x00 nonsense\n[1, 2]\n{"id": 3}\n{"command": "pause"}\nnull\nunfinished')
    sent = send_command(folder, "pause")
    append(folder, b"[" * 100_000 + b"\n" + b'{"id": "' + b"a" * 500 + b'", "command": "pause"}\n')
    with caplog.at_level(logging.WARNING):
        found = CommandReader(folder).read_new()
    assert [one.id for one in found] == [sent]
    assert len(caplog.records) == 1
    assert "ignored 8 lines that hold no command" in caplog.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"command": "dance"}, "command: dance"),
        ({"command": "set", "settings": 3}, "settings: 3"),
        ({"command": "back", "epoch": "last"}, "epoch: last"),
        ({"command": "pause", "other": 1}, "other: 1"),
        ({}, "command"),
    ],
)
def test_a_line_with_an_identifier_is_refused_with_a_reason(folder, line, said):
    append(folder, json.dumps({"id": "a", **line}).encode() + b"\n")
    (found,) = CommandReader(folder).read_new()
    assert isinstance(found, BadCommand)
    assert found.id == "a"
    assert said in found.reason


def test_megabytes_without_an_end_of_line_are_passed_over(folder):
    append(folder, b"a" * 3_000_000)
    sent = send_command(folder, "pause")
    reader = CommandReader(folder)
    seen = [one for _ in range(6) for one in reader.read_new()]
    assert [one.id for one in seen] == [sent]


def _send_some(folder: Path, seed: int) -> None:
    for number in range(20):
        send_command(folder, "set", {"rates.object": 0.001 * number, "title": f"{seed}-{number}" + 900 * "x"})
        append(folder, os.urandom(30) + b"\n")


@pytest.mark.medium
def test_processes_lose_no_command(folder):
    fork = multiprocessing.get_context("spawn")
    processes = [fork.Process(target=_send_some, args=(folder, seed)) for seed in range(4)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    found = read_commands(folder)
    assert len({one.id for one in found}) == 80
    for seed in range(4):
        own = [one for one in found if one.settings["title"].startswith(f"{seed}-")]
        assert [one.settings["rates.object"] for one in own] == [0.001 * number for number in range(20)]


def test_answers_are_found_by_identifier_among_epochs(folder):
    assert read_answers(folder) == {}
    lines = [{"number": 1}, {"event": "steered", "id": "a", "epoch": 1, "command": "pause", "accepted": True}]
    lines[1]["time"] = "2026-11-24T20:00:00+00:00"
    append(
        folder,
        b"".join(json.dumps(line).encode() + b"\n" for line in lines) + b'{"event": "st',
        "events.jsonl",
    )
    assert read_answers(folder)["a"].accepted
    assert wait_for_answer(folder, "a") == read_answers(folder)["a"]
    assert wait_for_answer(folder, "b", seconds=0.01) is None
    assert isinstance(Command(id="a", command="pause"), Command)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_control_file_that_is_none_is_not_followed_and_ends_no_run(tmp_path, kind, caplog):
    (tmp_path / "run.yaml").write_text("epochs: 20")
    target = tmp_path / "target"
    target.write_text("precious")
    control = tmp_path / "control.jsonl"
    control.symlink_to(target) if kind == "link" else os.mkfifo(control)
    with pytest.raises(BadInput, match="is a link, a folder or a pipe"):
        send_command(tmp_path, "pause")
    assert target.read_text() == "precious"
    reader = CommandReader(tmp_path)
    assert [reader.read_new() for _ in range(3)] == [[], [], []]
    assert caplog.text.count("is a link, a folder or a pipe") == 1
