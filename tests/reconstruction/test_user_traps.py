"""What a new user ran into, each as a sentence that must stay true."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import phaseloom as pl
from phaseloom.calibration.orientations import ORIENTATIONS, TWINS
from phaseloom.data.diagnostics import Finding
from phaseloom.data.formats import cxi, native
from phaseloom.errors import BadInput
from phaseloom.fitting.outcome import Stop, StopReason
from phaseloom.reconstruction import preflight
from phaseloom.reconstruction.preflight import warn_before_run
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.result_builder import judge_run
from phaseloom.reconstruction.start import sweep
from phaseloom.result import Provenance
from phaseloom.spec import Call
from tests.cli.test_cli import write_dark

OPTICS = {"semiangle": 0.02, "defocus": 150.0}
OPTICS_IN_FILES = {"semiangle": "20 mrad", "defocus": "150 A"}


def electrons(defocus=150.0, seed=0):
    """Scan of a lopsided specimen with stated optics."""
    pixel, window = 0.4, 32
    places = pl.simulate.raster((7, 7), 1.6, jitter=0.05) + (window // 2 + 3) * pixel
    truth = pl.simulate.atoms((70, 70), pixel, peak=0.5, spacing=4.0, seed=seed)
    truth = truth * (np.indices((70, 70)).sum(0) > 66)
    return pl.simulate.electron_scan(
        truth, pixel, places, energy=80e3, semiangle=0.02, defocus=defocus, window=window, dose=1e6
    )[0]


def test_a_cxi_file_without_basis_vectors_is_of_unknown_orientation():
    cxi.write(electrons(), Path("a.cxi"))
    with h5py.File("a.cxi", "a") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        del detector["basis_vectors"]
        del detector.attrs["phaseloom_oriented"]
    assert not pl.read("a.cxi").oriented


@pytest.mark.slow
@pytest.mark.parametrize("way", ["as given", "flipped", "flipped left to right", "turned by 180 degrees"])
def test_a_stated_defocus_tells_all_eight_orientations_apart(way):
    scan = replace(electrons(), oriented=False)
    for name, knobs in reversed((ORIENTATIONS | TWINS)[way]):
        scan = getattr(pl.prepare, name)(scan, **knobs)
    found = sweep(scan, Call("phaseloom.ptycho.probes", "focused", OPTICS), steps=3, patterns=36)
    assert found.orientation == way


def test_a_stated_defocus_stays_when_it_is_right():
    found = sweep(electrons(), Call("phaseloom.ptycho.probes", "focused", OPTICS), patterns=36)
    assert found.defocus == 150.0


def test_blank_frames_are_left_out_and_named(caplog):
    scan = electrons()
    counts = np.array(scan.counts)
    counts[[3, 10]] = 0
    native.write(replace(scan, counts=counts), Path("a.h5"))
    assert len(pl.Reconstruct.of({"file": "a.h5"}).scan()) == len(scan) - 2
    assert "2 of 49 patterns are blank and were left out: 3, 10" in caplog.text


def test_a_frame_of_nan_costs_that_frame_only(caplog):
    scan = electrons()
    counts = np.array(scan.counts, np.float32)
    counts[5] = np.nan
    cxi.write(replace(scan, counts=counts), Path("a.cxi"))
    read = pl.Reconstruct.of({"file": "a.cxi"}).scan()
    assert len(read) == len(scan) - 1
    assert read.mask.all()


def test_no_counts_at_all_is_a_sentence():
    scan = electrons()
    native.write(replace(scan, counts=np.zeros_like(scan.counts)), Path("a.h5"))
    with pytest.raises(pl.BadInput, match="no counts at all"):
        pl.Reconstruct.of({"file": "a.h5"}).scan()


def test_positions_a_thousand_times_too_far_are_refused_at_once():
    scan = electrons()
    native.write(replace(scan, positions=scan.positions * 1000), Path("a.h5"))
    with pytest.raises(pl.BadInput, match="check the units of positions"):
        pl.Job.begin(pl.Reconstruct.of({"file": "a.h5"}))


def test_values_that_are_not_counts_are_named():
    scan = electrons()
    scaled = replace(scan, counts=np.array(scan.counts) / 37.3)
    assert {f.name: f.level for f in pl.inspect(scaled)}["counts"] == "warn"


def test_a_setting_of_the_reader_goes_with_its_side_car():
    scan = electrons()
    np.save("a.npy", scan.counts)
    Path("a.npy.yaml").write_text("energy: 80 keV\npixel: 0.4 A\nstep: 1.6 A\ngrid: [7, 7]\n")
    recipe = pl.Reconstruct.from_path("a.npy", {"read.npy.rotation": "12 deg"})
    turned, plain = recipe.scan(), pl.read("a.npy")
    assert not np.allclose(turned.positions, plain.positions)
    assert turned.geometry == plain.geometry


def test_a_lopsided_specimen_does_not_tilt_its_ground():
    from phaseloom.metrics.phase import remove_ramp

    y, x = np.indices((60, 60)) / 60
    letter = np.where((x < 0.3) & (y > 0.2), -0.8, 0.0)
    flat = remove_ramp(letter + 0.5 * y - 0.3 * x, robust=True)
    ground = flat[letter == 0]
    assert np.ptp(ground) < 0.02


class TestElectrons:
    """Found by readers who had only the documents."""

    def test_a_rotation_is_rigid_on_pixels_that_are_not_square(self):
        from phaseloom.ptycho.scans import Canvas, Positions

        places = torch.tensor([[10.0, 10.0], [10.0, 40.0], [30.0, 10.0], [30.0, 40.0]])
        canvas = Canvas((60, 60), (8, 8), (0.2, 0.5), (0.0, 0.0))
        scan = Positions(places, canvas)
        before = scan.angstrom()
        with torch.no_grad():
            scan.turn += 3.0
        after = scan.angstrom()
        near = [np.linalg.norm(p[1:] - p[:1], axis=1) for p in (before, after)]
        np.testing.assert_allclose(near[1], near[0], rtol=1e-5)

    def test_a_transfer_curve_never_makes_counts_negative(self):
        from phaseloom.physics.detect import apply_transfer

        sharp = torch.zeros(1, 16, 16)
        sharp[0, 3, 4] = 100.0
        y, x = torch.fft.fftfreq(16)[:, None], torch.fft.rfftfreq(16)[None]
        assert apply_transfer(sharp, (torch.hypot(y, x) < 0.2).float()).min() >= 0

    def test_a_rise_of_both_losses_is_no_overfitting(self):
        from phaseloom.fitting.loop import Progress, _early_stop
        from phaseloom.fitting.outcome import StopReason

        model = torch.nn.Linear(1, 1)
        rows = [{"number": n + 1, "loss": 1 + 0.1 * n, "holdout": 1 + 0.1 * n} for n in range(8)]
        progress = Progress(model, torch.optim.SGD(model.parameters()), history=rows, best=(1, 1.0, {}))
        assert _early_stop(progress, 3, settling=False) is None
        for row in rows:
            row["loss"] = 1 - 0.1 * row["number"]
        assert _early_stop(progress, 3, settling=False).reason is StopReason.OVERFITTING

    @pytest.mark.parametrize(("last", "is_overfitting"), [(6.28, False), (6.2, True)])
    def test_a_loss_that_only_scatters_is_no_overfitting(self, last, is_overfitting):
        """Near-field holograms of PETRA III, whose steps are long until their rates fall."""
        from phaseloom.fitting.loop import Progress, _early_stop
        from phaseloom.fitting.outcome import StopReason

        model = torch.nn.Linear(1, 1)
        losses = [7.2, 6.29, 6.39, 6.34, 6.38, last]
        rows = [{"number": n + 1, "loss": loss, "holdout": 6 + 0.2 * n} for n, loss in enumerate(losses)]
        rows[1]["holdout"] = 5.6
        progress = Progress(model, torch.optim.SGD(model.parameters()), history=rows, best=(2, 5.6, {}))
        stop = _early_stop(progress, 3, settling=False)
        assert (stop is not None and stop.reason is StopReason.OVERFITTING) is is_overfitting

    def test_an_object_that_no_memory_could_hold_is_refused(self, tree):
        thick = {"object": {"pixels": {"slices": 10**9, "thickness": "1 A"}}}
        with pytest.raises(BadInput, match="GiB of memory"):
            Job.begin(Reconstruct.of(tree | thick))

    def test_a_key_that_stands_twice_is_refused(self):
        from phaseloom.spec import load_yaml

        Path("twice.yaml").write_text("file: a.h5\nepochs: 3\nepochs: 4\n")
        with pytest.raises(BadInput, match=r"^twice\.yaml: line 3: epochs stands twice, in line 2 too"):
            load_yaml(Path("twice.yaml"))

    def test_the_size_of_patterns_is_held_against_ptyrads(self, files):
        from phaseloom.data import prepare

        with pytest.raises(BadInput, match="the patterns are 24 x 24"):
            prepare.expect(files.scan, pattern=(64, 64))

    def test_shifts_and_background_survive_a_restart(self, files, tree):
        moved = tree | {"rates": {"descan": 0.02, "background": 0.02}, "epochs": 3, "start": "none"}
        job = Job.begin(Reconstruct.of(moved))
        for _ in job:
            pass
        job.result().save("first.h5")
        steps = [{"positions": {"path": "first.h5"}}, {"weights": {"path": "first.h5"}}]
        start = {"object": {"from_file": {"path": "first.h5"}}, "probe": {"from_file": {"path": "first.h5"}}}
        again = Job.begin(Reconstruct.of(moved | start | {"prepare": steps}))
        left = [one.level.likelihood.measure_residuals()["amplitude"] for one in (job, again)]
        assert left[1] == pytest.approx(left[0], rel=1e-3)

    @pytest.mark.medium
    @pytest.mark.parametrize("modes", [1, 2, 4])
    def test_few_patterns_with_a_dark_level_do_not_explode(self, tmp_path, modes):
        """Steps that are too long for what a model cannot explain are made shorter; the loss was 1e13."""
        write_dark(tmp_path)
        optics = {"semiangle": "25 mrad", "defocus": "80 A", "modes": modes}
        recipe = {"file": str(tmp_path / "dark.h5"), "start": "none", "epochs": 8}
        job = Job.begin(Reconstruct.of(recipe | {"probe": {"focused": optics}}))
        losses = [epoch.loss for epoch in job]
        assert len(losses) == 8
        assert losses[-1] < losses[0]


def test_bright_patterns_are_named_once_by_their_numbers_in_the_file(caplog):
    scan = electrons()
    counts = np.array(scan.counts)
    counts[[3, 10]] = 0
    counts[20] *= 8
    counts[30] = 65535
    native.write(replace(scan, counts=counts), Path("a.h5"))
    settings = {"start": "none", "epochs": 1, "probe.focused": OPTICS_IN_FILES}
    job = Job.begin(Reconstruct.from_path("a.h5", settings))
    assert len(job.scan) == 46
    assert "without: {numbers: [20]}" in caplog.text
    assert "1 of 49 patterns are saturated (one value in all pixels) and were left out: 30" in caplog.text
    assert not [line for line in warn_before_run(job) if line.startswith("bright")]


def test_a_rate_of_no_part_is_refused_before_anything_is_read():
    with pytest.raises(BadInput, match="rates: objekt is not a part of the model: did you mean 'object'"):
        pl.Reconstruct.of({"file": "missing.npy", "rates": {"objekt": 1}})


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_run_that_masks_bad_pixels_does_not_ask_to_mask_them(is_masked, monkeypatch):
    found = Finding("dead pixels", "1", "warn", "Mask them yourself.")  # at the edge of what is one
    monkeypatch.setattr(preflight, "inspect", lambda scan: [found])
    masks = {"prepare": [{"mask": {"outliers": True}}]} if is_masked else {"mask": "none"}
    recipe = {"start": "none", "epochs": 1, "probe": {"focused": OPTICS_IN_FILES}, **masks}
    said = warn_before_run(Job.begin(Reconstruct.of(recipe), scan=electrons()))
    assert [line for line in said if line.startswith("dead pixels")] == ([] if is_masked else said[:1])


def test_results_of_other_data_are_told_so_when_their_pixels_differ():
    from phaseloom.reconstruction.compare import compare_results

    made = Provenance(versions={}, seed=0, data="x", file="a.npy", machine="", finished="")
    first = SimpleNamespace(pixel=(0.5, 0.5), provenance=made)
    second = SimpleNamespace(pixel=(0.7, 0.7), provenance=made)
    with pytest.raises(BadInput, match="are different object pixels: reconstruct both on the same"):
        compare_results(first, second)
    second.provenance = replace(made, file="b.npy")
    with pytest.raises(BadInput, match=r"of different files, a\.npy and b\.npy: compare results of one scan"):
        compare_results(first, second)


def test_a_run_that_breaks_down_names_bright_patterns_before_rates():
    scan = electrons()
    bright = np.array(scan.counts)
    bright[20] *= 8
    recipe = {"start": "none", "epochs": 1, "probe": {"focused": OPTICS_IN_FILES}}
    for counts, said in ((scan.counts, "lower the rates"), (bright, "first leave out the patterns")):
        job = Job.begin(Reconstruct.of(recipe), scan=replace(scan, counts=counts))
        job.progress.stop = Stop(StopReason.NOT_FINITE, "the loss is not finite in epoch 1")
        assert said in str(judge_run(job))
