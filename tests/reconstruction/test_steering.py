"""A run that is steered while it goes on: what it does, what it refuses, and that its record repeats it."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.steering.branch import branch_run
from phaseloom.reconstruction.steering.settings import complete_settings, find_settings_at
from phaseloom.result import Result
from phaseloom.runs.control import (
    CommandQueue,
    read_answers,
    read_commands,
    read_events,
    send_command,
)
from tests.reconstruction.test_engine import DEEP, begun

Script = Mapping[int, Sequence[tuple[Any, ...]]]
"""Commands by the epoch after which they are sent: verb, settings, keywords."""


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def six(tree) -> dict[str, Any]:
    return {**tree, "epochs": 6, "shape": "constant", "holdout": 0.2}


def send(folder: Path, verb: str, settings: Mapping[str, Any] | None = None, /, **keywords: Any) -> str:
    return send_command(folder, verb, settings, **keywords)


def drive(job: Job, script: Script = {}, until: int | None = None) -> Job:  # noqa: B006 - never changed
    """Run a job and send each command of the script once, after the first epoch of its number."""
    left = {epoch: list(commands) for epoch, commands in script.items()}
    for epoch in job:
        for verb, settings, keywords in left.pop(epoch.number, ()):
            assert job.directory is not None
            send(job.directory, verb, settings, **keywords)
        if epoch.number == until:
            break
    return job


def steered(tree: Mapping[str, Any], folder: Path, script: Script) -> Job:
    return drive(Job.begin(Reconstruct.of(tree), folder), script)


def assert_same(one: Job, other: Job) -> None:
    """Histories, ends and all numbers of the models are the same, to the bit."""
    for name in ("number", "loss", "holdout", "rates"):
        assert [e[name] for e in one.progress.history] == [e[name] for e in other.progress.history]
    assert one.progress.stop == other.progress.stop
    ours, theirs = (job.model.state_dict() for job in (one, other))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def assert_record_repeats(job: Job) -> None:
    """The parameter file of a run, run again, comes to the same bits."""
    assert job.directory is not None
    assert_same(drive(Job.begin(Reconstruct.from_path(job.directory / "run.yaml"))), job)


def answers(folder: Path) -> list[tuple[str, int, bool]]:
    return [(one.command, one.epoch, one.accepted) for one in read_answers(folder).values()]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "names no setting: give one"),
    ({"objekt": 3}, "there is no 'objekt'; did you mean 'object'?"),
    ({"object.pixels.slices": 3}, "object.pixels.slices cannot be changed in a run: begin a new one"),
    ({"holdout": 0.1}, "holdout cannot be changed in a run"),
    ({"rates.objekt": 0.1}, "objekt is not a part of a model: did you mean 'object'?"),
    ({"rates.background": 0.1}, "rates.background rests in this run"),
    ({"rates.object": -1}, "-1"),
    ({"rates.object": "quick"}, "must be a number"),
    ({"rates.object": None}, "must be a number"),
    ({"epochs": 2}, "2 must be above the 2 that are done: stop ends the run"),
    ({"epochs": 2.5}, "must be a whole number"),
    ({"noise": "amplitude"}, "this run keeps poisson, of which values can be changed"),
    ({"noise.poisson.limit": -3}, "limit"),
    ({"shape": {"cosine": {"floor": 7}}}, "must lie between 0 and 1"),
    ({"batch.random.size": 0}, "size"),
    ({"penalties": [{"sparse": {"wait": 1}}]}, "there is no 'wait'; did you mean 'weight'?"),
    ({"penalties.sparse.weight": 1}, "sparse is not there: it has none"),
    ({"projections": [{"positive": {}, "start": 0}]}, "must be a whole number of epochs"),
    ({"steered": []}, "steered cannot be changed in a run"),
    ({"rates": 3}, "rates"),
    ({"": 3}, "there is no ''"),
    ({"rates.": 3}, "is not a part of a model"),
    ({"rates.object.rate.more": 3}, "rates.object"),
]
"""Settings that a run under way cannot take, and what it says."""


class TestSet:
    def test_a_rate_holds_from_the_next_epoch_on(self, six, tmp_path):
        script = {2: [("set", {"rates.object": 0.05, "rates.positions": 0.5}, {})]}
        job = steered(six, tmp_path / "run", script)
        rates = [event["rates"] for event in job.progress.history]
        assert [one["object"] for one in rates] == [0.2, 0.2, 0.05, 0.05, 0.05, 0.05]
        assert [one["positions"] for one in rates] == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
        (answer,) = read_answers(tmp_path / "run").values()
        assert (answer.accepted, answer.epoch, answer.reason) == (True, 2, "holds from epoch 3 on")
        assert answer.settings == {"rates.object": 0.05, "rates.positions.rate": 0.5}
        assert_record_repeats(job)

    def test_all_that_can_be_changed_at_once_is_and_repeats(self, six, tmp_path):
        first = {
            "penalties": [{"sparse": {"weight": 0.1}}],
            "projections": ["recentre", {"orthogonal": {}, "every": 2}],
            "noise.poisson.limit": 5.0,
            "batch": {"sparse": {}},
            "shape": {"cosine": {"floor": 0.2}},
            "epochs": 8,
            "patience": None,
            "rates.positions.shape": "cosine",
            "title": "other",
        }
        script = {2: [("set", first, {})], 4: [("set", {"penalties.sparse.weight": 0.3}, {})]}
        job = steered(six, tmp_path / "run", script)
        history = job.progress.history
        assert len(history) == 8
        assert [sorted(event["terms"]) for event in history[1:3]] == [["noise"], ["noise", "sparse"]]
        assert job.recipe.batch.values["size"] == 8
        assert job.recipe.penalties[0].values["weight"] == 0.3
        assert job.recorded.penalties == ()
        assert history[7]["rates"]["object"] < history[3]["rates"]["object"] < 0.2
        assert Result.load(tmp_path / "run/result.h5").title == "other"
        assert_record_repeats(job)

    @pytest.mark.medium
    def test_it_follows_a_run_to_the_finer_grid(self, tmp_path):
        job, _ = begun(DEEP, tmp_path, epochs=4, shape="constant", run=tmp_path / "run")
        drive(job, {1: [("set", {"rates.object": 0.01, "epochs": 6}, {})]})
        assert len(job.levels) == 2
        assert [event["number"] for event in job.progress.history] == [1, 2, 3, 4, 5, 6]
        assert [e["rates"]["object"] for e in job.progress.history[1:]] == [
            pytest.approx(0.01 * factor) for factor in (1, 1, 1, 0.5, 0.5)
        ]
        assert_record_repeats(job)

    def test_what_cannot_be_is_refused_and_changes_nothing(self, six, tmp_path):
        script = {2: [("set", settings, {}) for settings, _ in REFUSED]}
        job = steered(six | {"epochs": 3}, tmp_path / "run", script)
        found = read_answers(tmp_path / "run").values()
        assert not any(answer.accepted or "\n" in answer.reason for answer in found)
        lacking = [(said, one.reason) for (_, said), one in zip(REFUSED, found, strict=True)]
        assert [pair for pair in lacking if pair[0] not in pair[1]] == []
        assert job.recorded.steered == ()
        assert_same(job, drive(Job.begin(Reconstruct.of(six | {"epochs": 3}))))


class TestSwitch:
    def test_a_part_rests_and_moves_again_at_its_rate(self, six, tmp_path):
        script = {
            1: [("off", None, {"name": "probe"}), ("off", None, {"name": "positions"})],
            3: [("on", None, {"name": "probe"}), ("on", None, {"name": "positions"})],
        }
        job = steered(six, tmp_path / "run", script)
        rates = [event["rates"] for event in job.progress.history]
        assert [one.get("probe") for one in rates] == [0.4, None, None, 0.4, 0.4, 0.4]
        assert [one.get("positions") for one in rates] == [1.0, None, None, 1.0, 1.0, 1.0]
        assert_record_repeats(job)

    def test_what_is_no_part_or_has_no_rate_is_refused(self, six, tmp_path):
        script = {1: [("off", None, {"name": "prob"}), ("off", None, {}), ("on", None, {"name": "tilts"})]}
        steered(six | {"epochs": 2}, tmp_path / "run", script)
        reasons = [answer.reason for answer in read_answers(tmp_path / "run").values()]
        assert "prob is not a part: did you mean 'probe'?" in reasons[0]
        assert "is not a part" in reasons[1]
        assert "tilts has no rate in this run" in reasons[2]


class TestStop:
    def test_it_ends_the_run_as_if_all_epochs_were_done(self, six, tmp_path):
        job = steered(six, tmp_path / "run", {3: [("stop", None, {})]})
        assert job.progress.stop.reason == "requested"
        assert str(job.progress.stop).startswith("stopped after epoch 3 on request")
        found = Result.load(tmp_path / "run/result.h5")
        assert len(found.history) == 3
        assert found.stop_reason == "requested"
        assert list(read_events(tmp_path / "run"))[-1]["command"] == "stop"
        assert_record_repeats(job)

    def test_a_stopped_run_stays_so(self, six, tmp_path):
        job = steered(six, tmp_path / "run", {3: [("stop", None, {})]})
        before = (tmp_path / "run/result.h5").stat().st_mtime_ns
        again = drive(Job.resume(tmp_path / "run"))
        assert_same(again, job)
        send(tmp_path / "run", "set", {"epochs": 20})
        drive(Job.resume(tmp_path / "run"))
        assert answers(tmp_path / "run") == [("stop", 3, True), ("set", 3, False)]
        assert before <= (tmp_path / "run/result.h5").stat().st_mtime_ns


class TestPause:
    def test_a_run_waits_until_it_is_resumed(self, six, tmp_path):
        job = Job.begin(Reconstruct.of(six | {"epochs": 3}), tmp_path / "run")
        times = []
        for epoch in job:
            times.append(time.monotonic())
            if epoch.number == 1:
                send(tmp_path / "run", "pause")
                threading.Timer(0.8, send, (tmp_path / "run", "resume")).start()
        assert times[1] - times[0] > 0.8
        assert answers(tmp_path / "run") == [("pause", 1, True), ("resume", 1, True)]
        assert job.recorded.steered == ()
        assert_same(job, drive(Job.begin(Reconstruct.of(six | {"epochs": 3}))))

    def test_a_paused_run_takes_commands(self, six, tmp_path):
        script = {1: [("pause", None, {}), ("set", {"rates.object": 0.1}, {}), ("stop", None, {})]}
        job = steered(six, tmp_path / "run", script)
        assert len(job.progress.history) == 1
        assert [accepted for *_, accepted in answers(tmp_path / "run")] == [True, True, True]
        assert_record_repeats(job)

    def test_an_interruption_ends_the_waiting(self, six, tmp_path, monkeypatch):
        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("phaseloom.runs.control.time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            steered(six, tmp_path / "run", {1: [("pause", None, {})]})
        job = drive(Job.resume(tmp_path / "run"))
        assert_same(job, drive(Job.begin(Reconstruct.of(six))))

    def test_resume_without_a_pause_is_refused(self, six, tmp_path):
        steered(six | {"epochs": 2}, tmp_path / "run", {1: [("resume", None, {})]})
        (answer,) = read_answers(tmp_path / "run").values()
        assert "the run is not paused" in answer.reason


class TestBack:
    def test_a_run_goes_back_to_a_snapshot_that_was_kept(self, six, tmp_path):
        script = {
            2: [("save", None, {}), ("set", {"rates.object": 0.01}, {})],
            4: [("back", None, {"epoch": 2}), ("set", {"rates.probe": 0.1}, {})],
        }
        job = steered(six, tmp_path / "run", script)
        assert [event["number"] for event in job.progress.history] == [1, 2, 3, 4, 5, 6]
        rates = [event["rates"] for event in job.progress.history]
        assert [one["object"] for one in rates] == 6 * [0.2]
        assert [one["probe"] for one in rates] == [0.4, 0.4, 0.1, 0.1, 0.1, 0.1]
        assert (tmp_path / "run/snapshots/000002.h5").is_file()
        told = [event["number"] for event in read_events(tmp_path / "run") if "number" in event]
        assert told == [1, 2, 3, 4, 5, 6]
        assert_record_repeats(job)

    @pytest.mark.medium
    def test_snapshots_are_kept_on_request(self, six, tmp_path):
        job = steered(six | {"snapshots": 2}, tmp_path / "run", {5: [("back", None, {"epoch": 2})]})
        kept = sorted(path.name for path in (tmp_path / "run/snapshots").iterdir())
        assert kept == ["000002.h5", "000004.h5", "000006.h5"]
        assert_same(job, drive(Job.begin(Reconstruct.of(six))))

    @pytest.mark.medium
    def test_it_goes_back_to_a_coarser_grid(self, tmp_path):
        job, _ = begun(DEEP, tmp_path, epochs=4, run=tmp_path / "run")
        drive(job, {1: [("save", None, {})], 3: [("back", None, {"epoch": 1})]})
        straight, _ = begun(DEEP, tmp_path, epochs=4)
        assert_same(job, drive(straight))

    def test_an_epoch_that_was_not_kept_is_refused(self, six, tmp_path):
        script = {
            1: [("back", None, {"epoch": 1}), ("save", None, {}), ("back", None, {"epoch": 5})],
            2: [("back", None, {})],
        }
        steered(six | {"epochs": 3}, tmp_path / "run", script)
        reasons = [answer.reason for answer in read_answers(tmp_path / "run").values()]
        assert reasons[0] == "steer back: epoch: 1 has no snapshot that was kept; none is: save keeps one"
        assert reasons[2] == "steer back: epoch: 5 has no snapshot that was kept; those of 1 are"
        assert "none has no snapshot" in reasons[3]


class TestBranch:
    def test_a_branch_goes_on_alone_and_its_record_repeats_it(self, six, tmp_path):
        script = {
            1: [("set", {"rates.object": 0.1}, {})],
            3: [("branch", {"rates.probe": 0.05}, {"name": "new"})],
        }
        job = steered(six, tmp_path / "run", script)
        plain = drive(Job.begin(Reconstruct.of(six), tmp_path / "plain"), {1: script[1]})
        assert_same(job, plain)
        branch = drive(Job.resume(tmp_path / "new"))
        rates = [event["rates"] for event in branch.progress.history]
        assert [one["object"] for one in rates] == [0.2, *5 * [0.1]]
        assert [one["probe"] for one in rates] == [*3 * [0.4], *3 * [0.05]]
        assert branch.recorded.found["branch"] == {"run": str((tmp_path / "run").resolve()), "epoch": 3}
        assert_record_repeats(branch)

    @pytest.mark.parametrize("end", ["done", "stopped"])
    def test_one_of_a_run_that_has_ended_goes_on(self, six, tmp_path, end):
        script = {3: [("stop", None, {})]} if end == "stopped" else {}
        job = steered(six | {"holdout": 0.3}, tmp_path / "run", script)
        assert job.is_over()
        new = branch_run(tmp_path / "run", tmp_path / "new", {"epochs": 9, "rates.object": 0.1})
        branch = drive(Job.resume(new))
        assert len(branch.progress.history) == 9
        assert_record_repeats(branch)

    @pytest.mark.medium
    def test_one_of_an_earlier_epoch_has_none_of_the_later_commands(self, six, tmp_path):
        script = {2: [("set", {"rates.object": 0.1}, {})], 4: [("set", {"rates.probe": 0.1}, {})]}
        steered(six | {"snapshots": 3}, tmp_path / "run", script)
        branch = drive(Job.resume(branch_run(tmp_path / "run", tmp_path / "new", epoch=3)))
        assert [e["rates"]["object"] for e in branch.progress.history] == [0.2, 0.2, *4 * [0.1]]
        assert [e["rates"]["probe"] for e in branch.progress.history] == 6 * [0.4]
        assert_record_repeats(branch)

    def test_what_cannot_be_branched_is_refused_and_leaves_no_run(self, six, tmp_path):
        steered(six, tmp_path / "run", {})
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").write_text("")
        for said, new, settings, epoch in (
            ("epochs: 6 are all done: give the branch more of them", "a", {}, None),
            ("epoch: 2 has no snapshot that was kept; kept are: none", "b", {"epochs": 9}, 2),
            ("object cannot be changed", "c", {"epochs": 9, "object": "pixels"}, None),
            ("is not empty: name a new folder", "full", {"epochs": 9}, None),
        ):
            with pytest.raises(BadInput, match=said):
                branch_run(tmp_path / "run", tmp_path / new, settings, epoch=epoch)
            assert not (tmp_path / new / "run.yaml").exists()
        with pytest.raises(BadInput, match=r"holds no run\.yaml"):
            branch_run(tmp_path / "nowhere", tmp_path / "d")

    @pytest.mark.parametrize("name", ["../out", "/tmp/out", "..", "", None, "a/b"])
    def test_a_command_makes_folders_beside_the_run_alone(self, six, tmp_path, name):
        folder = tmp_path / "deep" / "run"
        keywords = {} if not name else {"name": name}
        steered(six | {"epochs": 2}, folder, {1: [("branch", None, keywords)]})
        (answer,) = read_answers(folder).values()
        assert "is not a plain name" in answer.reason
        assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_record_is_followed_by_a_job_that_its_program_leaves_and_enters_again(six, tmp_path):
    job = steered(six, tmp_path / "run", {2: [("set", {"rates.object": 0.05}, {})]})
    again = Job.begin(Reconstruct.from_path(tmp_path / "run/run.yaml"))
    for until in (1, 2, 3, None):
        drive(again, until=until)
    assert_same(again, job)


class Killed(BaseException):
    """The end of a process."""


class TestKill:
    @pytest.mark.medium
    @pytest.mark.parametrize("verb", ["set", "off", "stop", "back", "save"])
    def test_between_command_and_answer(self, six, tmp_path, monkeypatch, verb):
        """The command is followed once, and answered once, by the process that goes on."""
        command = {
            "set": ("set", {"rates.object": 0.05}, {}),
            "off": ("off", None, {"name": "probe"}),
            "stop": ("stop", None, {}),
            "back": ("back", None, {"epoch": 1}),
            "save": ("save", None, {}),
        }[verb]
        script = {1: [("save", None, {})], 3: [command]}
        straight = steered(six, tmp_path / "straight", script)
        answer = CommandQueue.answer

        def kill(queue: CommandQueue, given: Any) -> None:
            if given.epoch == 3:
                raise Killed
            answer(queue, given)

        monkeypatch.setattr(CommandQueue, "answer", kill)
        with pytest.raises(Killed):
            steered(six, tmp_path / "run", script)
        monkeypatch.undo()
        job = drive(Job.resume(tmp_path / "run"))
        assert_same(job, straight)
        assert [(c, a) for c, _, a in answers(tmp_path / "run")] == [("save", True), (verb, True)]
        assert job.recorded.steered == tuple(
            own.model_copy(update={"id": one.id, "epoch": one.epoch})
            for own, one in zip(straight.recorded.steered, job.recorded.steered, strict=True)
        )

    def test_a_command_to_a_run_that_is_not_under_way_is_taken_when_it_goes_on(self, six, tmp_path):
        drive(Job.begin(Reconstruct.of(six), tmp_path / "run"), until=2)
        sent = send(tmp_path / "run", "set", {"rates.object": 0.05})
        job = drive(Job.resume(tmp_path / "run"))
        assert [e["rates"]["object"] for e in job.progress.history] == [0.2, 0.2, *4 * [0.05]]
        assert read_answers(tmp_path / "run")[sent].epoch == 2

    def test_lines_again_and_garbage_change_nothing(self, six, tmp_path, caplog):
        job = Job.begin(Reconstruct.of(six | {"epochs": 4}), tmp_path / "run")
        for epoch in job:
            if epoch.number == 1:
                send(tmp_path / "run", "set", {"rates.object": 0.05})
                line = (tmp_path / "run/control.jsonl").read_text()
            with (tmp_path / "run/control.jsonl").open("a") as file:
                file.write(line)
                file.write(
                    "\x00 nonsense {\n" + json.dumps({"id": f"x{epoch.number}", "command": "go"}) + "\n"
                )
        assert [(c, a) for c, _, a in answers(tmp_path / "run")] == [
            *[("set", True), ("go", False), ("go", False), ("go", False)],
            ("go", False),
        ]
        assert len(job.recorded.steered) == 1
        assert "hold no command" in caplog.text


WRITER = """
import json, os, random, sys, time
path, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
rng = random.Random(seed)
valid = [("set", {"rates.object": 0.1 + seed / 100}), ("set", {"batch.random.size": 4 + seed}), ("save", {})]
wrong = [("set", {"object": seed}), ("fly", {}), ("back", {"epoch": seed})]
until = time.monotonic() + seconds
number = 0
while time.monotonic() < until:
    number += 1
    verb, settings = rng.choice(valid + wrong)
    line = json.dumps({"id": f"{seed}-{number}", "command": verb, "settings": settings}).encode()
    garbage = [os.urandom(40), line[: rng.randrange(len(line))], b"[[[", b"null", b""]
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, rng.choice(garbage) + b"\\n" + line + b"\\n")
    os.close(file)
    time.sleep(0.3 * rng.random())
"""
"""A program of anybody's: it writes commands that are good, bad, and no commands at all."""


@pytest.mark.medium
def test_ten_programs_that_write_at_once_leave_a_run_that_its_record_repeats(six, tmp_path):
    job = Job.begin(Reconstruct.of(six | {"epochs": 12}), tmp_path / "run")
    path = str(tmp_path / "run/control.jsonl")
    writers = [
        subprocess.Popen([sys.executable, "-S", "-c", WRITER, path, str(seed), "1.0"]) for seed in range(10)
    ]
    for epoch in job:
        if epoch.number == 10:
            assert [writer.wait() for writer in writers] == 10 * [0]
    sent = [line.id for line in read_commands(tmp_path / "run")]
    found = read_answers(tmp_path / "run")
    told = [event["id"] for event in read_events(tmp_path / "run") if event.get("event") == "steered"]
    assert len(told) == len({*told}) == len(found)
    assert {*sent} <= {*found}
    assert {True, False} == {answer.accepted for answer in found.values()}
    assert all(answer.reason for answer in found.values())
    assert len(job.recorded.steered) == sum(a.accepted and a.command == "set" for a in found.values())
    assert_record_repeats(job)


def random_script(seed: int, epochs: int) -> dict[int, list[tuple[Any, ...]]]:
    """Commands of all kinds, some of which will be refused."""
    rng = random.Random(seed)
    kinds = [
        lambda: ("set", {"rates.object": rng.choice([0.05, 0.1, 0.3])}, {}),
        lambda: ("set", {"penalties": [{"sparse": {"weight": rng.choice([0.01, 0.1])}}]}, {}),
        lambda: ("set", {"batch.random.size": rng.choice([4, 8, 12])}, {}),
        lambda: ("set", {"epochs": rng.choice([3, 6, 7, 8])}, {}),
        lambda: ("set", {"noise.poisson.limit": rng.choice([3.0, 20.0])}, {}),
        lambda: ("set", {"projections": rng.choice([[], ["recentre"]])}, {}),
        lambda: ("off", None, {"name": rng.choice(["probe", "positions", "object", "affine"])}),
        lambda: ("on", None, {"name": rng.choice(["probe", "positions", "object", "affine"])}),
        lambda: ("save", None, {}),
        lambda: ("back", None, {"epoch": rng.randint(1, 4)}),
        lambda: ("pause", None, {}),
    ]
    script = dict[int, list[tuple[Any, ...]]]()
    for epoch in range(1, epochs):
        chosen = [kind() for kind in rng.choices(kinds, k=rng.choice([0, 1, 1, 2, 3]))]
        paused = [("resume", None, {})] if any(verb == "pause" for verb, *_ in chosen) else []
        script[epoch] = chosen + paused
    if seed % 3 == 2:
        script[epochs - 1].append(("stop", None, {}))
    return script


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(6))
def test_any_steered_run_is_repeated_by_its_record_and_by_pieces(six, tmp_path, seed):
    script = random_script(seed, 6)
    job = steered(six, tmp_path / "run", script)
    assert_record_repeats(job)
    pieces = Job.begin(Reconstruct.of(six), tmp_path / "pieces")
    left = dict(script)
    for _ in range(30):  # killed after every epoch
        for epoch in pieces:
            for verb, settings, keywords in left.pop(epoch.number, ()):
                send(tmp_path / "pieces", verb, settings, **keywords)
            break
        else:
            break
        pieces = Job.resume(tmp_path / "pieces")
    assert_same(pieces, job)
    assert answers(tmp_path / "pieces") == answers(tmp_path / "run")


def test_settings_are_found_by_epoch_and_recorded_as_they_are_meant():
    recipe = Reconstruct.of({"file": "a.h5", "batch": {"random": {"size": 9}}, "rates": {"object": 0.1}})
    assert complete_settings(recipe, {"batch": "sparse"}) == {"batch": {"sparse": {"size": 9}}}
    assert complete_settings(recipe, {"rates": {"object": 1, "probe": {"rate": 2}}}) == {
        "rates.object": 1,
        "rates.probe.rate": 2,
    }
    told = [
        {"epoch": 2, "command": "off", "settings": {"rates.object": 0}},
        {"epoch": 5, "command": "back", "to": 2},
        {"epoch": 3, "command": "set", "settings": {"rates.object": 0.3}},
    ]
    recipe = recipe.with_settings({"steered": told})
    assert find_settings_at(recipe, 2).rate_of("object") == 0.1
    found = find_settings_at(recipe, 3)
    assert found.rate_of("object") == 0.3
    assert [(one.epoch, one.rate) for one in found.changes] == [(4, 0.3)]
