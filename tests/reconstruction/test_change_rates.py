"""A run in the hands of a program: data from memory, rates changed on the way, pictures while it goes on."""

import contextlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import phaseloom as pl
from phaseloom.cli import reconstruct as cli
from phaseloom.reconstruction.half_data_frc import halves
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from tests.reconstruction.test_engine import DEEP, begun


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def run(job: Job, until: int | None = None) -> Job:
    for epoch in job:
        if epoch.number == until:
            break
    return job


@pytest.fixture
def plain(tree) -> dict[str, Any]:
    """The parameter file without its file."""
    return {name: value for name, value in tree.items() if name != "file"}


class TestInMemory:
    def test_a_scan_in_memory_gives_what_its_file_gives(self, files, tree, plain):
        found = run(Job.begin(Reconstruct.of(plain), scan=files.scan)).result()
        told = run(Job.begin(Reconstruct.of(tree))).result()
        np.testing.assert_array_equal(found.object, told.object)
        known = found.provenance, told.provenance
        assert [one.data for one in known if one] == 2 * [files.scan.digest()]
        assert [one.file for one in known if one] == ["in memory", "scan.h5"]

    def test_it_is_prepared_as_the_recipe_says(self, files, plain):
        job = Job.begin(Reconstruct.of({**plain, "prepare": [{"crop": {"to": [20, 20]}}]}), scan=files.scan)
        assert job.scan.geometry.shape == (20, 20)

    def test_the_file_of_the_recipe_is_not_read(self, files, plain):
        tree = {**plain, "file": "nowhere.npy", "read": {"npy": {"energy": "9 keV"}}}
        job = Job.begin(Reconstruct.of(tree), scan=files.scan)
        assert str(job.recipe.file) == "in memory"
        assert job.recipe.read is None

    def test_it_resumes_to_the_same_bits(self, files, plain, tmp_path):
        recipe = Reconstruct.of(plain)
        straight = run(Job.begin(recipe, scan=files.scan))
        run(Job.begin(recipe, tmp_path / "run", scan=files.scan), until=2)
        again = run(Job.resume(tmp_path / "run", scan=files.scan))
        assert [e["number"] for e in again.progress.history] == [1, 2, 3, 4]
        np.testing.assert_array_equal(again.result().object, straight.result().object)

    def test_other_data_are_refused(self, files, plain, tmp_path):
        run(Job.begin(Reconstruct.of(plain), tmp_path / "run", scan=files.scan), until=1)
        with pytest.raises(
            pl.BadInput, match=r"run: holds a run on a scan in memory: give that again, Job\.res"
        ):
            Job.resume(tmp_path / "run")
        other = replace(files.scan, counts=files.scan.counts + 1)
        with pytest.raises(pl.BadInput, match="file: in memory has changed since the run began"):
            Job.resume(tmp_path / "run", scan=other)
        geometry = replace(files.scan.geometry, wavelength=2 * files.scan.geometry.wavelength)
        for wrong in ({"geometry": geometry}, {"weights": np.full(len(files.scan), 2.0)}):
            with pytest.raises(pl.BadInput, match="in memory has changed in its geometry, probe or weights"):
                Job.resume(tmp_path / "run", scan=replace(files.scan, **wrong))

    def test_a_recipe_of_such_a_run_asks_for_its_data(self, files, plain, tmp_path):
        job = Job.begin(Reconstruct.of(plain), scan=files.scan)
        (tmp_path / "again.yaml").write_text(job.to_text())
        again = Reconstruct.from_path(tmp_path / "again.yaml")
        with pytest.raises(pl.BadInput, match=r"file: in memory is where a program had the data: hand them"):
            Job.begin(again)
        np.testing.assert_array_equal(
            run(Job.begin(again, scan=files.scan)).result().object, run(job).result().object
        )

    def test_a_recipe_without_a_file_says_so(self, plain):
        with pytest.raises(pl.BadInput, match="file: is missing: write it"):
            Job.begin(Reconstruct.of(plain))


def steered(job: Job) -> Job:
    """The object slower from epoch 2, the probe frozen from epoch 3, positions until epoch 3."""
    for epoch in job:
        if epoch.number == 1:
            job.rate("object", 0.05)
            job.rate("positions", 0.5, stop=3)
        if epoch.number == 2:
            job.rate("probe", 0)
    return job


class TestRates:
    def test_a_rate_holds_from_the_next_epoch_on(self, tree):
        job = steered(Job.begin(Reconstruct.of({**tree, "shape": "constant"})))
        rates = [event["rates"] for event in job.progress.history]
        assert [one.get("object") for one in rates] == [0.2, 0.05, 0.05, 0.05]
        assert [one.get("probe") for one in rates] == [0.4, 0.4, None, None]
        assert [one.get("positions") for one in rates] == [1.0, 0.5, 0.5, None]

    def test_a_frozen_part_rests_and_may_move_again(self, tree):
        one_noise = {"optimizer": {"gauss_newton": {"early_floor": 0}}}
        job = Job.begin(Reconstruct.of(tree | one_noise))
        seen = []
        for epoch in job:
            seen.append(job.model.probe.modes().detach().clone())
            job.rate("probe", 0 if epoch.number == 1 else 0.3)
        moved = [bool((a != b).any()) for a, b in pairwise(seen)]
        assert moved == [False, True, True]

    def test_it_survives_a_change_of_grid(self, tmp_path):
        job, _ = begun(DEEP, tmp_path, epochs=4, shape="constant")
        pixels = []
        for epoch in job:
            pixels.append(job.model.object.canvas.pixel[0])
            if epoch.number == 1:
                job.rate("object", 0.01)
        assert len(set(pixels)) == 2
        assert [event["rates"]["object"] for event in job.progress.history[1:]] == [
            pytest.approx(0.01 * factor) for factor in (1, 0.5, 0.5)
        ]

    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_a_resumed_run_makes_it_too_to_the_same_bits(self, tree, tmp_path, stop):
        straight = steered(Job.begin(Reconstruct.of(tree)))
        job = Job.begin(Reconstruct.of(tree), tmp_path / "run")
        for epoch in job:
            if epoch.number == 1:
                job.rate("object", 0.05)
                job.rate("positions", 0.5, stop=3)
            if epoch.number == 2:
                job.rate("probe", 0)
            if epoch.number == stop:
                break
        again = Job.resume(tmp_path / "run")
        for epoch in again:
            if epoch.number == 2 and stop < 2:
                again.rate("probe", 0)
        assert [e["loss"] for e in again.progress.history] == [e["loss"] for e in straight.progress.history]
        np.testing.assert_array_equal(again.result().object, straight.result().object)

    def test_the_recipe_of_its_result_repeats_it(self, tree, tmp_path):
        job = steered(Job.begin(Reconstruct.of(tree)))
        job.result().save(tmp_path / "result.h5")
        recipe = Reconstruct.from_path(tmp_path / "result.h5")
        assert recipe.changes == job.recipe.changes
        again = run(Job.begin(recipe))
        np.testing.assert_array_equal(again.result().object, job.result().object)

    def test_halves_make_it_too(self, tree):
        seen = []
        with contextlib.suppress(pl.BadInput):  # of a field too small to be compared
            halves(steered(Job.begin(Reconstruct.of(tree))), drive=lambda half: seen.append(run(half)))
        assert len(seen) == 2
        assert all("probe" not in half.progress.history[-1]["rates"] for half in seen)

    def test_that_of_an_object_is_that_of_amplitude_and_phase(self, tree):
        node = {"pixels": {"kind": "amplitude and phase"}}
        job = Job.begin(Reconstruct.of({**tree, "object": node, "shape": "constant"}))
        job.rate("object", 0.07)
        epoch = next(iter(job))
        assert epoch.rates["amplitude"] == epoch.rates["phase"] == 0.07

    @pytest.mark.parametrize(
        ("part", "value", "stop", "said"),
        [
            ("objekt", 0.1, None, "objekt is not a part of a model: did you mean 'object'?"),
            ("background", 0.1, None, "background rests in this run, which has prepared nothing for it"),
            ("object", -0.1, None, "-0.1 must be at least 0"),
            ("object", float("nan"), None, "nan must be"),
            ("object", 0.1, 1, "stop: 1 lies before epoch: 2"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, tree, part, value, stop, said):
        job = run(Job.begin(Reconstruct.of(tree)), until=1)
        with pytest.raises(pl.BadInput) as caught:
            job.rate(part, value, stop=stop)
        assert said in str(caught.value)
        assert not job.recipe.changes


class TestPictures:
    def test_images_are_those_of_the_result(self, finished):
        images, result = finished.images(), finished.result()
        for name in ("object", "probe"):
            np.testing.assert_allclose(images[name], getattr(result, name), rtol=1e-4, atol=1e-6)
        peak = result.coverage.max()
        np.testing.assert_allclose(images["coverage"], result.coverage, rtol=1e-4, atol=1e-5 * peak)
        assert images["pixel"] == result.pixel
        assert images["history"] == result.history

    def test_they_model_no_pattern(self, finished, monkeypatch):
        monkeypatch.setattr(finished.model, "forward", None)
        finished.images()

    def test_live_draws_them(self, finished, tmp_path):
        import matplotlib.pyplot as plt

        live = pl.plot.Live(finished.images)
        live.draw()
        assert len(live.figure.axes) >= 4
        plt.close(live.figure)

    def test_a_pattern_is_that_of_the_model_as_files_have_it(self, finished):
        model, scan = finished.model, finished.scan
        found = model.pattern(7)
        with torch.no_grad():
            every = model.detector.display(model(torch.arange(len(scan)))).numpy()
        np.testing.assert_allclose(found, every[7], rtol=1e-5, atol=1e-6)
        assert np.corrcoef(found.ravel(), scan.counts[7].ravel())[0, 1] > 0.8

    def test_compare_takes_it(self, finished):
        import matplotlib.pyplot as plt

        view = pl.plot.compare(finished.scan, finished.model.pattern, index=3)
        assert view.index == 3
        plt.close(view.figure)


def test_a_path_is_still_the_first_thing_after_a_recipe(tree, tmp_path):
    assert Job.begin(Reconstruct.of(tree), Path(tmp_path / "a")).directory == tmp_path / "a"


class TestFolder:
    def test_a_loop_that_ends_leaves_the_result_and_one_that_breaks_does_not(self, tree, tmp_path):
        job = run(Job.begin(Reconstruct.of({**tree, "epochs": 3}), str(tmp_path / "run")), until=2)
        assert not (tmp_path / "run" / "result.h5").exists()
        assert job.ended is None
        job = run(Job.resume(str(tmp_path / "run")))
        assert len(pl.Result.load(tmp_path / "run" / "result.h5").history) == 3
        before = (tmp_path / "run" / "result.h5").stat().st_mtime_ns
        for again in (job, Job.resume(tmp_path / "run")):
            run(again)
            assert again.ended is None
        assert (tmp_path / "run" / "result.h5").stat().st_mtime_ns == before

    def test_the_command_line_looks_at_the_patterns_once_for_a_result(self, tree, tmp_path, monkeypatch):
        job, asked, ask = Job.begin(Reconstruct.of({**tree, "epochs": 1}), tmp_path / "run"), [], Job.result
        monkeypatch.setattr(Job, "result", lambda self: asked.append(1) or ask(self))
        assert cli.run(job, quiet=True) is job.ended
        assert len(asked) == 1

    def test_a_folder_with_a_run_is_not_begun_again(self, tree, tmp_path):
        made = Reconstruct.of({**tree, "epochs": 1})
        Job.begin(made, tmp_path / "run")
        with pytest.raises(pl.BadInput, match=r"run exists already: name a new folder, or use Job\.resume"):
            Job.begin(made, tmp_path / "run")

    def test_what_is_given_in_the_wrong_place_is_told(self, tree, files, tmp_path):
        made = Reconstruct.of({**tree, "epochs": 1})
        (tmp_path / "file").write_text("")
        begin: Any = Job.begin
        for said, given, named in (
            ("file exists already", (made, tmp_path / "file"), {}),
            ("recipe: dict is not a recipe: make one, Reconstruct.of", (tree,), {}),
            ("directory: a scan goes by its name", (made, files.scan), {}),
            ("scan: ndarray is not a scan", (made,), {"scan": files.scan.counts}),
            ("directory: int is not the path", (made, 3), {}),
        ):
            with pytest.raises(pl.BadInput, match=said):
                begin(*given, **named)
