"""Forms of parameter files: made from the signatures, both ways, and what is run with them."""

import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from phaseloom.cli.describe import recipe_of
from phaseloom.errors import BadInput
from phaseloom.spec import knobs, modules_of_calls
from phaseloom.web.state import forms
from phaseloom.web.state.job_queue import JobQueue, slurm_script
from phaseloom.web.state.scan_view import ScanView, list_folder
from phaseloom.web.state.start import PRESETS, check_file, merge_preset, prepare_order


class TestForms:
    @pytest.mark.parametrize("verb", forms.VERBS_WITH_FORMS)
    def test_every_setting_of_every_verb_has_a_field(self, verb):
        sections = {one.name: one for one in forms.list_sections(verb)}
        assert set(sections) == set(recipe_of(verb).model_fields) - forms.HIDDEN
        for name, room in modules_of_calls(recipe_of(verb)).items():
            for choice in sections[name].choices:
                fields = {one.name: one for one in forms.list_knobs(room, choice)}
                assert set(fields) == set(knobs(room, choice))

    def test_sections_have_help_units_ranges_and_choices(self):
        sections = {one.name: one for one in forms.list_sections("reconstruct")}
        assert all(one.help for one in sections.values())
        assert sections["epochs"].field.range == "1 to 10000000"
        assert sections["holdout"].field.range == "0 or more, below 0.9"
        assert sections["device"].field.choices == ("auto", "cpu", "cuda")
        assert sections["object"].default == "pixels"
        focused = {one.name: one for one in forms.list_knobs("phaseloom.ptycho.probes", "focused")}
        assert focused["semiangle"].required
        assert focused["semiangle"].unit == "rad, mrad, µrad, deg"
        assert "under-focus" in focused["defocus"].help
        assert focused["soft"].kind == "boolean"

    def test_form_and_text_are_two_ways_to_one_tree(self):
        tree = forms.set_value({"file": "a.cxi"}, "25 mrad", "probe", "focused", "semiangle")
        tree = forms.set_value(tree, 4, "probe", "focused", "modes")
        tree = forms.set_value(tree, 30, "epochs")
        assert forms.load_tree(forms.show_tree(tree)) == tree
        assert forms.get_value(tree, "probe", "focused", "modes") == 4
        tree = forms.set_value(tree, None, "probe", "focused", "modes")
        assert tree["probe"] == {"focused": {"semiangle": "25 mrad"}}
        assert forms.set_value(tree, None, "epochs") == {"file": "a.cxi", "probe": tree["probe"]}
        assert "stop" in forms.set_value({"p": {"q": {"a": 1}, "stop": 3}}, 2, "p", "q", "a")["p"]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("epochs: 0", "epochs: 0 must be at least 1"),
            ("probe: {focused: {semiangle: 25}}", "25 is not an angle"),
            ("epoch: 3", "did you mean 'epochs'"),
            ("a: [", "is not YAML"),
            ("- 1", "must hold 'name: value' lines"),
            ("title: " + "x" * 200_000, "too many"),
            ("!!python/object/apply:os.system ['true']", "is a tag"),
        ],
    )
    def test_what_is_wrong_is_told_in_a_sentence(self, text, reason, tmp_path):
        with pytest.raises(BadInput, match=reason):
            forms.parse_form(text, "reconstruct", tmp_path)

    @pytest.mark.parametrize("preset", PRESETS["reconstruct"])
    def test_presets_are_valid_and_keep_the_data(self, preset, tmp_path):
        tree = merge_preset({"file": "a.cxi", "epochs": 3}, PRESETS["reconstruct"][preset])
        assert tree["file"] == "a.cxi"
        forms.parse_form(forms.show_tree(tree), "reconstruct", tmp_path)


class TestOrders:
    def order(self, root, text, verb="reconstruct", **more):
        _, recipe = forms.parse_form(text, verb, root)
        return prepare_order(root, verb, recipe, text, **more)

    def test_an_order_is_a_file_and_a_command(self, files, tmp_path):
        (tmp_path / "scan.h5").write_bytes(files.native.read_bytes())
        order = self.order(tmp_path, "file: scan.h5\nepochs: 3\n", name="my run!")
        assert order.words == ("reconstruct", str(order.parameters), "--out", str(order.folder), "--quiet")
        assert order.folder.parent == tmp_path / "runs"
        assert order.folder.name.endswith("-my_run")
        tree = yaml.safe_load(order.parameters.read_text())
        assert (tree["file"], tree["epochs"]) == (str(tmp_path / "scan.h5"), 3)
        assert self.order(tmp_path, "file: scan.h5", name="my run!").folder != order.folder

    def test_data_outside_of_the_folder_are_refused(self, files, tmp_path):
        with pytest.raises(BadInput, match="is not in the folder of this page"):
            self.order(tmp_path, f"file: {files.native}")
        (tmp_path / "link.h5").symlink_to(files.native)
        with pytest.raises(BadInput, match="is not in the folder of this page"):
            self.order(tmp_path, "file: link.h5")

    @pytest.mark.parametrize(
        ("verb", "text", "words"),
        [
            ("train", "stage: patches", ("train", "patches")),
            ("simulate", "count: 2", ("simulate",)),
            ("direct", "method: ssb", ("direct",)),
            ("pairs", "{}", ("restore", "pairs")),
        ],
    )
    def test_other_verbs_have_commands_too(self, verb, text, words, tmp_path):
        order = self.order(tmp_path, text, verb)
        assert order.words[: len(words)] == words
        assert order.words[len(words)] == str(order.parameters)

    def test_a_script_for_slurm_quotes_what_it_names(self, tmp_path):
        script = slurm_script(["reconstruct", "a b.yaml"], tmp_path / "c d", name="x; rm", gpu=True)
        assert "phaseloom reconstruct 'a b.yaml'" in script
        assert "--job-name='x; rm'" in script
        assert "--gres=gpu:1" in script

    @pytest.mark.medium
    def test_a_check_tells_memory_and_time_or_why_not(self, files, tmp_path, tree):
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(tree))
        facts, _ = check_file(file)
        assert dict(facts)["patterns"].startswith("25 of 24x24")
        assert "seconds per epoch" in dict(facts)
        file.write_text("file: nothing.h5\n")
        with pytest.raises(BadInput, match="does not exist"):
            check_file(file)


class TestQueue:
    def wait(self, queue: JobQueue) -> None:
        until = time.monotonic() + 20
        while not queue.is_idle and time.monotonic() < until:
            queue.advance()
            time.sleep(0.02)

    @pytest.fixture
    def queue(self, tmp_path):
        return JobQueue(tmp_path, (sys.executable, "-c"))

    def test_one_job_at_a_time_on_each_device(self, queue, tmp_path):
        slow = "import time; print('begun', flush=True); time.sleep(0.3)"
        first = queue.add([slow], tmp_path / "a")
        second = queue.add(["print('second')"], tmp_path / "b")
        other = queue.add([slow], tmp_path / "c", device="cuda")
        assert (first.state, second.state, other.state) == ("running", "waiting", "running")
        self.wait(queue)
        assert (first.state, second.state, other.state) == ("done", "done", "done")
        assert second.read_log() == "second"

    def test_a_job_that_fails_does_not_stop_the_next(self, queue, tmp_path):
        failed = queue.add(["raise SystemExit('no such file')"], tmp_path / "a")
        after = queue.add(["pass"], tmp_path / "b")
        self.wait(queue)
        assert (failed.state, failed.code, after.state) == ("failed", 1, "done")
        assert "no such file" in failed.read_log()

    def test_jobs_are_cancelled_before_and_while_they_run(self, queue, tmp_path):
        running = queue.add(["import time; time.sleep(30)"], tmp_path / "a")
        waiting = queue.add(["pass"], tmp_path / "b")
        queue.cancel(waiting.number)
        assert waiting.state == "cancelled"
        time.sleep(0.3)
        queue.cancel(running.number)
        self.wait(queue)
        assert running.state == "failed"
        with pytest.raises(BadInput):
            queue.find(99)

    def test_a_job_outlives_the_page(self, tmp_path):
        code = (
            "import sys, pathlib; from phaseloom.web.state.job_queue import JobQueue\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "queue = JobQueue(folder, (sys.executable, '-c'))\n"
            "work = 'import time, pathlib; time.sleep(0.5); pathlib.Path(\"left\").touch()'\n"
            "queue.add([work], folder / 'a')\n"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        until = time.monotonic() + 20
        while not (tmp_path / "left").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert (tmp_path / "left").exists()


class TestScans:
    def test_rings_and_shapes_add_what_is_in_them(self, files):
        view = ScanView(files.native)
        whole = view.ring_map(0.0, 2 * view.reach)
        assert whole.values.sum() == pytest.approx(float(view.scan.counts[:].sum()))
        assert whole.image is None  # positions are no raster
        inner = view.ring_map(0.0, 0.25 * view.reach).values
        outer = view.ring_map(0.25 * view.reach, 2 * view.reach).values
        assert inner + outer == pytest.approx(whole.values)
        side = view.step[0] * view.scan.mask.shape[0]
        outline = np.array([0, 0, side / 2, side / 2]), np.array([0, side, side, 0])
        half = view.polygon(*outline)
        assert half.sum() == half.size / 2
        assert view.mask_map(half).values.sum() == pytest.approx(float(view.scan.counts[:][:, half].sum()))

    def test_a_near_field_is_looked_at_in_lengths(self, files):
        view = ScanView(files.near)
        assert view.is_length
        assert view.mean.shape == (16, 16)
        assert view.findings

    def test_the_nearest_pattern_is_found(self, files):
        view = ScanView(files.native)
        assert view.find_nearest(tuple(view.scan.positions[11])) == 11
        assert view.pattern(11).sum() == view.scan.counts[11:12].sum()

    def test_shapes_without_pixels_are_refused(self, files):
        view = ScanView(files.native)
        with pytest.raises(BadInput, match="no trusted pixel"):
            view.mask_map(view.scan.mask & False)
        with pytest.raises(BadInput, match="are not an inner"):
            view.ring_map(2.0, 1.0)

    def test_folders_are_listed_without_hidden_files(self, tmp_path):
        for name in ("b", "A"):
            (tmp_path / name).mkdir()
        for name in ("z.h5", ".hidden"):
            (tmp_path / name).touch()
        assert list_folder(tmp_path) == (["A", "b"], ["z.h5"])
