"""The panes without a server: what their widgets hold after they were used."""

import gc
import json
import re
import shutil
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("panel", reason="needs the extra 'web'")

import panel as pn
from bokeh.model import Model as BokehModel
from param.parameterized import Watcher

from phaseloom.data.formats import native
from phaseloom.embedding.embeddings import ScanEmbedding
from phaseloom.result import Provenance
from phaseloom.runs.control import read_commands
from phaseloom.web.panes.catalogue import CataloguePane
from phaseloom.web.panes.compare import ComparePane
from phaseloom.web.panes.desk import Desk
from phaseloom.web.panes.files import FilesPane
from phaseloom.web.panes.outputs import LatentsCard
from phaseloom.web.panes.start import StartPane
from phaseloom.web.panes.steer import SteerPart
from phaseloom.web.panes.watch import WatchPane
from phaseloom.web.record import write_record
from phaseloom.web.state.job_queue import JobQueue
from phaseloom.web.state.outputs import LatentView

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def desk(tmp_path):
    """The desk of a folder, whose jobs print their command and end."""
    root = tmp_path / "shown"
    root.mkdir()
    queue = JobQueue(root, command=("echo",))
    yield Desk(root, queue)
    for job in queue.jobs:
        if job.process is not None:
            job.process.wait()


@pytest.fixture
def run(desk, finished):
    """A run that has ended, in the folder of the desk."""
    return shutil.copytree(finished.directory, desk.root / "runs" / "a")


def press(button):
    button.clicks += 1


def test_empty_tables_are_of_text_so_that_a_browser_shows_what_comes(desk):
    for table in (StartPane(desk).jobs, ComparePane(desk).settings):
        assert set(map(str, table.value.dtypes)) == {"object"}


class TestSteer:
    @pytest.fixture
    def steer(self, desk, run):
        """The part of a run that was left after its first epoch."""
        first, *_ = (run / "events.jsonl").read_text().splitlines()
        (run / "events.jsonl").write_text(first + "\n")
        part = SteerPart(desk)
        part.open(run)
        return part

    def test_the_setting_that_is_sent_is_the_one_that_is_shown(self, steer, run):
        for path in ("rates.object", "rates.probe", "rates.nonsense"):
            steer.path.value, steer.value.value = path, "0.1"
            press(steer.change)
        assert [one.settings for one in read_commands(run)] == [
            {"rates.object": 0.1},
            {"rates.probe": 0.1},
            {"rates.nonsense": 0.1},
        ]

    def test_a_known_setting_is_written_where_settings_are_typed(self, steer):
        steer.known.value = "rates.positions"
        assert (steer.path.value, steer.known.value) == ("rates.positions", "")

    def test_without_a_setting_nothing_is_sent(self, steer, desk, run):
        steer.path.value, steer.value.value = " ", "0.1"
        press(steer.change)
        assert "needs a setting and its value" in desk.message.object
        assert read_commands(run) == []

    def test_a_run_that_has_ended_is_sent_nothing(self, desk, run):
        part = SteerPart(desk)
        part.open(run)
        part.path.value, part.value.value = "rates.object", "0.1"
        press(part.change)
        assert "the run has ended after epoch 4" in desk.message.object
        assert read_commands(run) == []


class TestFiles:
    def test_of_a_file_that_cannot_be_read_nothing_older_is_shown(self, desk, files):
        shutil.copy(files.native, desk.root / "scan.h5")
        (desk.root / "wrong.h5").write_text("not HDF5")
        pane = FilesPane(desk)
        pane.entries.value = "scan.h5"
        press(pane.open)
        assert pane.findings.object
        assert not pane.direct.make.disabled
        pane.entries.value = "wrong.h5"
        press(pane.open)
        assert desk.message.alert_type == "danger"
        assert (pane.findings.object, pane.maps.objects, pane.detector.objects) == ("", [], [])
        assert pane.direct.make.disabled
        assert pane.start.disabled

    def test_new_files_are_listed_by_themselves_and_the_choice_stays(self, desk):
        for name in ("a.npy", "c.npy"):
            (desk.root / name).touch()
        pane = FilesPane(desk)
        pane.entries.value = "c.npy"
        (desk.root / "b.npy").touch()
        pane.update()
        assert pane.entries.options == ["a.npy", "c.npy"]
        pane._listed = time.monotonic() - 6
        pane.update()
        assert pane.entries.options == ["a.npy", "b.npy", "c.npy"]
        assert pane.entries.value == "c.npy"
        (desk.root / "c.npy").unlink()
        pane._listed = 0.0
        pane.update()
        assert pane.entries.value == "a.npy"

    def open_file(self, desk, name):
        """The pane after a file of the folder was opened."""
        pane = FilesPane(desk)
        pane.entries.value = name
        press(pane.open)
        assert desk.message.object == ""
        assert pane.right.objects == [pane.outputs.view]
        return pane

    def read_texts(self, pane):
        """What the headings and lines of the shown part say."""
        return " ".join(str(one.object) for one in pane.outputs.view.select(pn.pane.HTML))

    def read_titles(self, pane):
        """Titles of the shown figures, in order."""
        return [one.object.title.text for one in pane.outputs.view.select(pn.pane.Bokeh)]

    def test_a_prediction_is_shown_and_a_scan_after_it(self, desk, files):
        phase = np.linspace(-1, 1, 30).reshape(5, 6)
        with h5py.File(desk.root / "prediction.h5", "w") as file:
            file.attrs["phaseloom_prediction"] = 1
            file["phase"], file["pixel"], file["origin"] = phase, [0.4, 0.4], [0.0, 1.0]
        pane = self.open_file(desk, "prediction.h5")
        assert len(self.read_titles(pane)) == 1
        shutil.copy(files.native, desk.root / "scan.h5")
        pane.entries.options = ["scan.h5"]
        pane.entries.value = "scan.h5"
        press(pane.open)
        assert pane.outputs.view.objects == []
        assert len(pane.right.objects) == 2
        assert pane.findings.object

    def test_a_photograph_is_shown(self, desk):
        Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(desk.root / "sea.png")
        assert self.read_titles(self.open_file(desk, "sea.png")) == ["sea.png: 4 x 5"]

    def test_restored_images_are_shown_beside_their_inputs(self, desk):
        for folder, edge in (("", 4), ("restored", 4), ("finer", 8)):
            (desk.root / folder).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((edge, edge, 3), np.uint8)).save(desk.root / folder / "a.png")
        one = {"restored": "restored/a.png", "finer": "finer/a.png", "change over spread": 0.125}
        outside = {"restored": "../../../etc/passwd", "finer": None, "change over spread": 0.0}
        report = {"images": {"a.png": one, "/etc/hostname": outside}}
        (desk.root / "restored.json").write_text(json.dumps(report))
        pane = self.open_file(desk, "restored.json")
        assert self.read_titles(pane) == ["before: 4 x 4", "restored: 4 x 4", "finer: 8 x 8"]
        assert "changed by 0.125 of the spread" in self.read_texts(pane)
        choice = pane.outputs.view.select(pn.widgets.Select)[0]
        choice.value = "/etc/hostname"
        assert "is not in the folder of this page" in desk.message.object

    def test_a_damaged_report_is_a_sentence(self, desk):
        (desk.root / "restored.json").write_text('{"images": [1]}')
        pane = FilesPane(desk)
        pane.entries.value = "restored.json"
        press(pane.open)
        assert "is not a report of phaseloom restore apply" in desk.message.object

    @pytest.fixture
    def embedding(self, desk, files):
        """Latents that tell the first half of a scan from the second one."""
        scan = files.scan
        half = (np.arange(len(scan)) >= len(scan) // 2).astype(np.float32)
        numbers = np.ones(len(scan))
        made = Provenance.now(seed=0, data=scan.digest(), file="scan.h5")
        latents = np.stack([half, half], 1)
        found = ScanEmbedding(latents, numbers, numbers, scan.positions, None, made)
        found.write(desk.root / "e.h5")
        return found

    def test_a_cluster_that_is_clicked_shows_its_mean_pattern(self, desk, files, embedding):
        (desk.root / "data").mkdir()
        shutil.copy(files.native, desk.root / "data" / "scan.h5")
        view = LatentView(desk.root / "e.h5", desk.root)
        part = LatentsCard(desk, view)
        part.count.value = 2
        last = len(embedding) - 1
        part._choose_place((0.1 * embedding.positions[last, 1], 0.1 * embedding.positions[last, 0]))
        label = part.cluster.value
        members = np.flatnonzero(embedding.latents[:, 0] == 1)
        assert f"{len(members)} patterns" in part.words.object
        expected = np.asarray(files.scan.counts[members]).mean(0)
        np.testing.assert_allclose(view.average_patterns(part._labels)[label], expected)
        assert part.figures.objects[2].object.title.text == f"Mean pattern of cluster {label}"
        part._choose_latents((0.0, 0.0))
        assert part.cluster.value == 1 - label

    def test_a_scan_that_is_not_there_or_another_one_is_told(self, desk, files, embedding):
        part = LatentsCard(desk, LatentView(desk.root / "e.h5", desk.root))
        part.cluster.value = 0
        assert "scan.h5 is not in the folder of the page" in part.words.object
        native.write(replace(files.scan, positions=files.scan.positions + 1), desk.root / "scan.h5")
        part.cluster.value = 1
        assert "is not the scan of these embeddings" in part.words.object


class TestWatch:
    def test_runs_that_appear_are_offered_and_the_choice_stays(self, desk, run):
        pane = WatchPane(desk)
        pane.run.value = "runs/a"
        shutil.copytree(run, desk.root / "runs" / "b")
        pane.list_runs()
        assert set(pane.run.options) == {"runs/a", "runs/b"}
        assert pane.run.value == "runs/a"
        shutil.copytree(run, desk.root / "runs" / "c")
        for _ in range(20):
            pane.update()
        assert "runs/c" in pane.run.options

    def test_without_a_run_buttons_say_so(self, desk):
        pane = WatchPane(desk)
        for button, word in ((pane.now, "update"), (pane.patterns.show, "pattern")):
            press(button)
            assert desk.message.object == f"{word}: needs a run: choose one"
        assert pane.export.disabled

    def test_the_status_says_why_a_run_ended(self, desk, run):
        pane = WatchPane(desk)
        pane.open(run)
        assert "ended: epoch 4 of 4" in pane.status.object
        assert "all 4 epochs done" in pane.status.object

    def test_looking_at_a_run_that_moves_leaves_nothing_behind(self, desk, run):
        pane = WatchPane(desk)
        pane.open(run)
        images = pane._images

        def look(epochs):
            for epoch in epochs:
                pane._show(replace(images, epoch=epoch))
            gc.collect()
            return sum(issubclass(type(one), Watcher | BokehModel) for one in gc.get_objects())

        before = look(range(10, 50))  # as many images as are kept
        assert look(range(50, 150)) < before + 20
        assert pane.epoch.slider.name == "History: now"

    def test_an_epoch_that_was_chosen_stays_while_others_come_and_go(self, desk, run):
        pane = WatchPane(desk)
        pane.open(run)
        images = pane._images
        for epoch in (10, 11, 12):
            pane._show(replace(images, epoch=epoch))
        assert pane.epoch.value is None
        pane.epoch.slider.value = pane.epoch._epochs.index(11)
        assert pane.epoch.slider.name == "History: epoch 11"
        assert "epoch 11" in pane._title("phase")
        for epoch in range(13, 20):
            pane._show(replace(images, epoch=epoch))
        assert pane.epoch.value == 11
        pane.epoch.slider.value = pane.epoch.slider.end
        assert pane.epoch.value is None
        assert "epoch 19" in pane._title("phase")


class TestRuns:
    def test_new_runs_are_listed_by_themselves_and_ticks_and_typed_notes_stay(self, desk, run):
        pane = CataloguePane(desk)
        pane.table.selection = [0]
        pane.text.value = "not saved yet"
        shutil.copytree(run, desk.root / "runs" / "b")
        pane.update()
        assert list(pane.table.value["run"]) == ["runs/a"]
        pane._listed = time.monotonic() - 6
        pane.update()
        assert set(pane.table.value["run"]) == {"runs/a", "runs/b"}
        assert pane._chosen() == [run]
        assert pane.text.value == "not saved yet"

    def test_a_list_without_news_leaves_the_table_alone(self, desk, run):
        pane = CataloguePane(desk)
        before = pane.table.value
        pane.list_runs()
        assert pane.table.value is before

    @pytest.fixture
    def search(self, desk):
        """What a search leaves besides its trials."""
        folder = desk.root / "runs" / "find"
        (folder / "trials").mkdir(parents=True)
        (folder / "search.yaml").write_text("trials: 3\n")
        (folder / "base.yaml").write_text("epochs: 2\n")
        (folder / "report.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        head = "part,number,state,hold-out loss,rates.object,seconds,epochs,reason\n"
        rows = "trials,0,done,1.5,0.1,2.0,4,\ntrials,1,failed,,0.2,1.0,0,no\ntrials,2,done,1.2,0.3,2.0,4,\n"
        (folder / "trials.csv").write_text(head + rows)
        return folder

    def test_a_search_is_listed_with_its_best_value_and_its_report(self, desk, search):
        pane = CataloguePane(desk)
        row = pane.table.value.iloc[0]
        assert (row["run"], row["kind"], row["state"]) == ("runs/find", "search", "ended")
        assert (row["epoch"], row["loss"], row["time"]) == ("3 of 3 trials", 1.2, "5 s")
        pane.table.selection = [0]
        assert pane.training.figure.value == "report.png"
        assert pane.watch.disabled
        pane.tags.value = "good, good"
        press(pane.save)
        assert (search / "notes.yaml").is_file()
        assert pane.table.value.iloc[0]["tags"] == "good"

    def test_a_damaged_search_is_listed_all_the_same(self, desk, search):
        (search / "search.yaml").write_text("[")
        (search / "trials.csv").write_text("part\n1")
        assert CataloguePane(desk).table.value.iloc[0]["kind"] == "search"
        assert "runs/find" not in WatchPane(desk).run.options


class TestMessages:
    def test_a_message_goes_with_the_next_thing_that_a_user_does(self, desk):
        wrong = desk.attempt(lambda: 1 / 0)
        wrong()
        assert desk.message.visible
        desk.attempt_quietly(lambda: None)()
        assert desk.message.visible
        desk.attempt(lambda: None)()
        assert not desk.message.visible

    def test_a_message_stays_when_its_own_action_changes_more(self, desk):
        def save():
            desk.tell("saved")
            desk.attempt(lambda: None)()

        desk.attempt(save)()
        assert desk.message.object == "saved"


def test_an_exported_run_names_no_other_file(run, desk):
    CataloguePane(desk)  # its table has scripts and style sheets that the page's server sends
    text = write_record(run)
    assert not [one for one in ("static/extensions", "cdn.holoviz.org") if one in text]
    assert re.findall(r"<(?:script|link)[^>]*(?:src|href)=\S+", text) == []


def test_patterns_are_labelled_by_the_scale_that_is_shown(desk, files):
    shutil.copy(files.native, desk.root / "scan.h5")
    pane = FilesPane(desk)
    pane.entries.value = "scan.h5"
    press(pane.open)
    label = pane._pattern_view._bar_of_values
    assert label.title == "log10(1 + 10 counts)"
    pane.kind.value = "one"
    assert label.title == "log10(1 + counts)"
    pane.logarithmic.value = False
    assert label.title == "counts"


class TestStart:
    def test_a_file_that_is_not_there_is_refused(self, desk, files):
        pane = StartPane(desk)
        pane.text.value = "file: nothing.h5\n"
        assert "does not exist" in pane.problem.object
        assert pane.run.disabled
        shutil.copy(files.native, desk.root / "scan.h5")
        pane.text.value = "file: scan.h5\n"
        assert "the form is complete" in pane.problem.object
        assert not pane.run.disabled

    def test_an_empty_search_says_what_it_lacks(self, desk):
        pane = StartPane(desk)
        pane.verb.value = "search"
        assert "in the section over" in pane.problem.object
        pane.text.value = "over: {rates.object: {low: 0.1, high: 0.3}}\n"
        assert "name the parameter file that is searched" in pane.problem.object
        assert pane.run.disabled
        pane.searched.value = "run.yaml"
        assert not pane.run.disabled

    def test_jobs_that_end_with_the_page_are_listed(self, desk):
        for _ in range(2):
            desk.queue.add(["look", "a b.h5"], desk.root / "runs" / "a")
        desk.queue.jobs[-1].state = "waiting"  # the first may have ended at once
        assert desk.queue.list_waiting() == ["phaseloom look 'a b.h5'"]


def test_a_branch_may_have_a_name_of_any_language(desk, run):
    part = SteerPart(desk)
    part.open(run)
    part.branch_name.value, part.branch_settings.value = "Lauf \u00e4 1", "{epochs: 6}"
    press(part.branch)
    assert (run.parent / "Lauf_\u00e4_1" / "run.yaml").is_file()
    part.branch_name.value = ".."
    press(part.branch)
    assert "use letters, digits" in desk.message.object
