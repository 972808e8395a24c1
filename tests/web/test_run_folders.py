"""What the page reads of run folders: events, images, facts, notes, differences, without Panel."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.plot.object import ObjectField
from phaseloom.result import Result
from phaseloom.runs.control import send_command
from phaseloom.runs.lock import Holder
from phaseloom.web.state.catalogue import describe_state, find_runs, read_facts
from phaseloom.web.state.commands import list_commands
from phaseloom.web.state.comparison import compare_runs, sample_line, tabulate_settings
from phaseloom.web.state.events import EventLog, thin_history
from phaseloom.web.state.notes import MAX_TAGS, Notes, read_notes, save_notes
from phaseloom.web.state.progress import describe_progress, estimate_time_left, judge_losses
from phaseloom.web.state.run_images import Field, find_newest, open_images
from phaseloom.web.state.run_model import RunModel
from phaseloom.web.state.thumbnails import ThumbnailCache


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished.directory, tmp_path / "runs" / "a")


def epoch(number: int, **more) -> str:
    return json.dumps({"number": number, "loss": 2.0 / number, "seconds": 3.0, **more}) + "\n"


class TestEvents:
    def test_only_what_is_new_is_read(self, tmp_path):
        (tmp_path / "events.jsonl").write_text(epoch(1))
        log = EventLog(tmp_path)
        assert log.read()
        assert not log.read()
        with open(tmp_path / "events.jsonl", "a") as file:
            file.write(epoch(2))
        assert log.read()
        assert [one["number"] for one in log.epochs] == [1, 2]

    def test_half_a_line_waits_for_its_other_half(self, tmp_path):
        line = epoch(2)
        (tmp_path / "events.jsonl").write_text(epoch(1) + line[:9])
        log = EventLog(tmp_path)
        log.read()
        assert len(log.epochs) == 1
        (tmp_path / "events.jsonl").write_text(epoch(1) + line)
        log.read()
        assert log.last["number"] == 2

    @pytest.mark.parametrize("text", [epoch(1), epoch(1) + epoch(2, holdout=1.0) + epoch(3)])
    def test_a_file_that_was_written_anew_is_read_from_its_start(self, tmp_path, text):
        path = tmp_path / "events.jsonl"
        path.write_text(epoch(1) + epoch(2))
        log = EventLog(tmp_path)
        log.read()
        path.unlink()
        (tmp_path / "other").write_text(text)
        (tmp_path / "other").rename(path)
        log.read()
        assert [one["number"] for one in log.epochs] == list(range(1, text.count("\n") + 1))

    def test_lines_that_are_no_events_are_left_out(self, tmp_path):
        (tmp_path / "events.jsonl").write_text('nonsense\n[1]\n{"event": "steered", "id": "x"}\n' + epoch(1))
        log = EventLog(tmp_path)
        log.read()
        assert (len(log.events), len(log.epochs)) == (2, 1)

    def test_epochs_share_what_is_the_same(self, tmp_path):
        """A page watches a run for thousands of epochs."""
        rates = {"object": 0.2, "probe": 0.4, "positions": 1.0}
        said = [
            {"number": n, "loss": 1 / n, "rates": rates, "state": {"mode powers": [n]}}
            for n in range(1, 1001)
        ]
        (tmp_path / "events.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in said))
        log = EventLog(tmp_path)
        log.read()
        assert [one["loss"] for one in log.epochs] == [1 / n for n in range(1, 1001)]
        assert all(one["rates"] is log.last["rates"] for one in log.epochs)
        assert log.last == said[-1]
        assert log.epochs[0] == {key: value for key, value in said[0].items() if key != "state"}
        assert len({id(key) for one in log.epochs for key in one}) == 4

    def test_no_file_is_no_news(self, tmp_path):
        assert not EventLog(tmp_path).read()

    def test_ten_thousand_epochs_become_few_points(self):
        few = thin_history([{"number": n} for n in range(1, 10_001)])
        assert len(few) <= 1500
        assert (few[0]["number"], few[-1]["number"]) == (1, 10_000)


class TestImages:
    def test_a_result_shows_the_phase_of_the_result(self, run):
        images = open_images(run / "result.h5")
        result = Result.load(run / "result.h5")
        assert np.allclose(images.phase().values, result.phase[result.window], atol=1e-5)
        assert images.epoch is None

    def test_a_snapshot_shows_the_same_as_the_result(self, run):
        snapshot = open_images(run / "snapshot.h5")
        result = open_images(run / "result.h5")
        assert snapshot.epoch == 4
        assert np.allclose(snapshot.positions, result.positions, atol=1e-4)
        assert snapshot.pixel == pytest.approx(result.pixel)
        assert snapshot.corner == pytest.approx(result.corner)
        one, two = snapshot.phase(0).values, result.phase(0).values
        assert np.sqrt(np.mean((one - two) ** 2)) < 0.02 * np.std(two)
        power = [np.sum(np.abs(one.probe) ** 2) for one in (snapshot, result)]
        assert snapshot.probe.shape == result.probe.shape
        assert power[0] > 0

    def test_the_place_of_the_field_is_that_of_the_beam(self, run):
        field = open_images(run / "result.h5").phase()
        positions = Result.load(run / "result.h5").positions
        low, high = (
            np.array(field.corner),
            np.array(field.corner) + np.array(field.values.shape) * field.pixel,
        )
        assert (positions.min(0) >= low).all()
        assert (positions.max(0) <= high).all()

    def test_the_plane_wave_that_is_removed_is_that_of_the_figures(self, run):
        images = replace(open_images(run / "result.h5"), ready=None)
        ours = images.phase().values
        field = ObjectField.of(Result.load(run / "result.h5"))
        inner = [slice(max(field.box[0].start, 0), None)]  # only contrast is compared: boxes differ
        assert np.std(ours) == pytest.approx(np.nanstd(field.phase()[tuple(inner)]), rel=0.25)

    def test_a_later_snapshot_comes_before_an_older_result(self, run):
        assert find_newest(run).name == "result.h5"
        (run / "snapshot.h5").touch()
        assert find_newest(run).name == "snapshot.h5"
        (run / "result.h5").unlink()
        (run / "snapshot.h5").unlink()
        assert find_newest(run) is None

    def test_a_snapshot_of_an_older_version_has_no_lengths(self, run):
        import h5py

        with h5py.File(run / "snapshot.h5", "a") as file:
            tree = json.loads(file["state"].asstr()[()])
            tree["pairs"] = [pair for pair in tree["pairs"] if pair[0] != "facts"]
            del file["state"]
            file["state"] = json.dumps(tree)
        images = open_images(run / "snapshot.h5")
        assert images.in_pixels
        assert images.probe is None
        assert images.phase().values.size > 9

    @pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
    def test_a_damaged_file_is_refused_in_a_sentence(self, tmp_path, content):
        (tmp_path / "result.h5").write_bytes(content)
        with pytest.raises(BadInput):
            open_images(tmp_path / "result.h5")

    def test_thumbnails_are_made_again_when_a_run_has_gone_on(self, run):
        thumbnails = ThumbnailCache()
        first = thumbnails.get(run)
        assert first.startswith("data:image/png;base64,")
        (run / "result.h5").unlink()
        (run / "snapshot.h5").unlink()
        assert thumbnails.get(run) == ""


class TestCatalogue:
    def test_runs_are_found_and_told(self, run):
        (found,) = find_runs(run.parent.parent)
        facts = read_facts(found)
        assert (facts.kind, facts.state, facts.epoch, facts.epochs) == ("reconstruction", "ended", 4, 4)
        assert facts.loss > 0
        assert facts.metrics["loss"] > 0
        assert facts.verdict

    def test_links_to_folders_elsewhere_are_not_followed(self, run, tmp_path):
        root = tmp_path / "shown"
        root.mkdir()
        (root / "link").symlink_to(run, target_is_directory=True)
        assert find_runs(root) == []

    def test_a_folder_with_only_a_recipe_is_no_run(self, tmp_path):
        (tmp_path / "run.yaml").write_text("epochs: 3\n")
        assert find_runs(tmp_path) == []

    def test_a_damaged_recipe_does_not_hide_a_run(self, run):
        (run / "run.yaml").write_text("{")
        assert read_facts(run).kind == "unreadable"

    def test_states_follow_from_events(self, tmp_path):
        answer = {"event": "steered", "id": "x", "accepted": True}
        texts = {
            "running": epoch(1),
            "paused": epoch(1) + json.dumps({**answer, "command": "pause"}) + "\n",
            "ended": epoch(1, stop_reason="all_epochs"),
            "stopped": epoch(1, stop_reason="interrupted"),
        }
        texts["paused "] = texts["paused"] + json.dumps({**answer, "command": "set"}) + "\n"
        texts["running "] = texts["paused"] + json.dumps({**answer, "command": "resume"}) + "\n"
        for state, text in texts.items():
            (tmp_path / "events.jsonl").write_text(text)
            log = EventLog(tmp_path)
            log.read()
            assert describe_state(log) == state.strip()

    def test_a_run_whose_process_is_gone_was_killed(self, tmp_path):
        (tmp_path / "events.jsonl").write_text(epoch(1))
        log = EventLog.read_all(tmp_path)
        gone = asdict(replace(Holder.here(), began=1.0))  # its number belongs to another process now
        (tmp_path / ".phaseloom.lock").write_text(json.dumps(gone))
        assert describe_state(log) == "killed"
        assert "it goes on from its last snapshot when it is resumed" in describe_progress(log, {}, "killed")
        (tmp_path / ".phaseloom.lock").write_text(json.dumps(asdict(Holder.here())))
        assert describe_state(log) == "running"

    def test_epochs_are_those_that_a_command_asked_for(self, run):
        text = "steered:\n- {epoch: 2, command: set, settings: {epochs: 60}}\n"
        plain = (run / "run.yaml").read_text().replace("steered: []\n", "")
        (run / "run.yaml").write_text(plain + text)
        assert read_facts(run).epochs == 60
        (run / "run.yaml").write_text(plain + "steered: 3\n")
        assert read_facts(run).epochs == 4

    def test_notes_stay_beside_the_run_and_change_nothing_of_it(self, run):
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        save_notes(run, Notes(("good", "thin"), "left: vacuum\nright: Au"))
        assert read_notes(run) == Notes(("good", "thin"), "left: vacuum\nright: Au")
        after = {path.name: path.read_bytes() for path in run.iterdir()}
        assert after.keys() - before.keys() == {"notes.yaml"}
        assert {name: after[name] for name in before} == before

    def test_notes_are_refused_where_no_run_is_or_when_they_are_too_long(self, run, tmp_path):
        with pytest.raises(BadInput, match="not the folder of a run"):
            save_notes(tmp_path, Notes())
        with pytest.raises(BadInput, match="too many"):
            save_notes(run, Notes(tuple(map(str, range(MAX_TAGS + 1)))))

    def test_damaged_notes_are_none(self, run):
        (run / "notes.yaml").write_text("tags: 3\ntext: [")
        assert read_notes(run) == Notes()


class TestCommands:
    def test_a_command_to_a_run_that_has_ended_waits_for_nothing(self, run):
        send_command(run, "pause")
        (row,) = list_commands(run)
        assert row.answer == "not answered: the run has ended"


class TestProgress:
    def test_time_to_go_is_that_of_the_last_epochs(self, tmp_path):
        (tmp_path / "events.jsonl").write_text("".join(epoch(n) for n in range(1, 5)))
        log = EventLog(tmp_path)
        log.read()
        assert estimate_time_left(log, 10) == pytest.approx(18.0)
        assert estimate_time_left(log, None) is None
        assert "18 s to go" in describe_progress(log, {"epochs": 10}, "running")
        assert "to go" not in describe_progress(log, {"epochs": 10}, "ended")

    def test_the_end_is_told_with_its_reason(self, tmp_path):
        why = "converged; the result is that of epoch 1, whose hold-out loss is the lowest"
        (tmp_path / "events.jsonl").write_text(epoch(2, stop_reason="converged", stopped=why))
        log = EventLog.read_all(tmp_path)
        assert describe_progress(log, {"epochs": 9}, "ended").endswith(f"; {why}")

    def test_before_the_first_epoch(self, tmp_path):
        assert "before the first epoch" in describe_progress(EventLog(tmp_path), {}, "not begun")

    def test_the_verdict_from_losses_is_that_of_the_same_rules(self, run):
        log = EventLog(run)
        log.read()
        from phaseloom.web.state.catalogue import read_recipe

        assert judge_losses(log, read_recipe(run)).split(":")[0] in Result.load(run / "result.h5").verdict

    def test_losses_of_two_noise_models_are_not_judged_together(self, tmp_path):
        losses = [9.0 * 0.2**n + 1.48 for n in range(6)] + [1.9 * 0.99**n for n in range(6)]
        for since in (0, 6):
            rates = {"object": 1.0}
            more = [
                {"loss": loss, "rates": rates, "incomparable_epochs": since * (n > 5)}
                for n, loss in enumerate(losses)
            ]
            text = "".join(epoch(n, **one) for n, one in enumerate(more, 1))
            (tmp_path / "events.jsonl").write_text(text)
            said = judge_losses(EventLog.read_all(tmp_path), {"noise": "poisson", "rates": {"object": 1}})
            assert said.startswith("steps too long") == (since == 0)


class TestComparison:
    def test_a_run_is_equal_to_itself(self, run, tmp_path):
        other = shutil.copytree(run, tmp_path / "runs" / "b")
        assert tabulate_settings([run, other]) == []
        (other / "run.yaml").write_text((run / "run.yaml").read_text().replace("epochs: 4", "epochs: 9"))
        assert tabulate_settings([run, other]) == [{"setting": "epochs", "0": "4", "1": "9"}]

    def test_commands_are_told_in_words(self, run, tmp_path):
        other = shutil.copytree(run, tmp_path / "runs" / "b")
        told = ["{epoch: 2, command: set, settings: {epochs: 60}}", "{epoch: 4, command: back, to: 3}"]
        text = "\n- ".join(["steered:", *told]) + "\n"
        (other / "run.yaml").write_text((run / "run.yaml").read_text().replace("steered: []\n", "") + text)
        (row,) = tabulate_settings([run, other])
        assert row["1"] == "after epoch 2: set epochs = 60; after epoch 4: back to 3"

    def test_a_field_too_small_to_be_compared_is_refused(self, run):
        with pytest.raises(BadInput, match="too little of the field"):
            compare_runs(run, run)

    def test_a_line_off_the_field_has_no_values(self):
        field = Field(np.ones((4, 5)), (2.0, 3.0), (10.0, 20.0))
        length, values = sample_line(field, (11.0, 21.5), (11.0, 33.5), count=5)
        assert length[-1] == pytest.approx(12.0)
        assert np.nan_to_num(values, nan=-1)[0] == 1
        _, off = sample_line(field, (0.0, 0.0), (1.0, 1.0))
        assert np.isnan(off).all()


class TestModel:
    def test_a_modelled_pattern_is_near_the_measured_one_and_nothing_is_written(self, run):
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        model = RunModel(run)
        pair = model.compare_pattern(7)
        assert pair.measured.shape == pair.modelled.shape
        assert pair.modelled.sum() == pytest.approx(pair.measured.sum(), rel=0.2)
        assert model.find_nearest(tuple(model.job.model.scan.angstrom()[7])) == 7
        assert model.judge()
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    def test_a_run_without_a_snapshot_is_refused_in_a_sentence(self, run):
        (run / "snapshot.h5").unlink()
        with pytest.raises(BadInput, match=r"no snapshot\.h5"):
            RunModel(run)
