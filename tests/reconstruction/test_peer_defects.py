"""What was found broken in PtyRAD 1.0.0, each as a sentence that holds here."""

import json

import numpy as np
import pytest
import torch
from scipy import fft

from phaseloom.compat import ptyrad
from phaseloom.data import prepare
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.ptycho import batches, penalties, projections
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

PIXELS = {"pixels": {"slices": 2, "thickness": "8 A", "kind": "amplitude and phase"}}
OPTICS = {"semiangle": "40 mrad", "defocus": "60 A", "modes": 2}


@pytest.fixture
def tree(files):
    """A short run of the tiny electron scan."""
    short = {"file": str(files.native), "start": "none", "epochs": 2, "holdout": 0.0, "patience": None}
    return short | {"object": PIXELS, "probe": {"focused": OPTICS}}


def finished(tree):
    job = Job.begin(Reconstruct.of(tree))
    for _ in job:
        pass
    return job


def stack(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestOptimisers:
    def test_lbfgs_runs_from_python_and_reports_the_loss_of_all_patterns(self, tree):
        job = finished(tree | {"optimizer": "lbfgs", "rates": {"positions": 0, "affine": 0, "weights": 0}})
        losses = [event["loss"] for event in job.progress.history]
        everything = sum(
            job.level.likelihood(part)["noise"].item() * len(part)
            for part in torch.arange(len(job.scan)).split(8)
        ) / len(job.scan)
        assert losses[1] < losses[0]
        assert everything <= losses[-1] * 1.01

    @pytest.mark.parametrize("name", [name for name in optimizers.__all__ if name != "lbfgs"])
    def test_every_one_that_is_offered_runs(self, tree, name):
        rates = {"amplitude": 1e-3, "phase": 1e-3, "probe": 1e-3, "positions": 1e-3}
        job = finished(tree | {"optimizer": name, "rates": rates})
        assert np.isfinite(job.progress.history[-1]["loss"])

    @pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
    def test_a_scheduler_that_a_file_cannot_describe_is_refused_in_words(self, name, tmp_path):
        with pytest.raises(BadInput, match=name):
            ptyrad.translate_project(
                project(model_params={"scheduler_params": {"name": name, "configs": {}}}), tmp_path
            )


def project(**sections):
    init = {"probe_kv": 80, "probe_conv_angle": 24.9, "meas_Npix": 32, "obj_Nlayer": 1, "pos_N_scan_slow": 5}
    init |= {"pos_N_scan_fast": 5, "pos_scan_step_size": 0.4, "obj_slice_thickness": 2.0}
    init |= {"meas_params": {"path": "scan.npy"}} | sections.pop("init_params", {})
    return {"init_params": init, **sections}


class TestConstraints:
    def test_the_cosine_threshold_has_the_right_inverse(self):
        amplitude, phase = 1 + 0.1 * stack(1, 2, 9, 11), stack(1, 2, 9, 11, seed=1)
        kept = projections.strongest_cosines(amplitude, phase, keep=1.0)
        for before, after in zip((amplitude, phase), kept, strict=True):
            torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
        known = fft.dctn(phase.numpy()[0, 0], norm="ortho")
        assert np.isfinite(known).all()

    def test_the_ratio_of_logarithms_survives_amplitudes_that_have_none(self):
        amplitude = torch.tensor([0.0, -0.2, 0.7, 1.0]).reshape(1, 1, 2, 2)
        out = projections.complex_ratio(amplitude, torch.full_like(amplitude, 0.1))
        assert all(torch.isfinite(part).all() for part in out)

    def test_similarity_of_a_single_mode_is_no_nan(self):
        phase = stack(2, 1, 2, 6, 6).requires_grad_(True)
        loss = penalties.similarity(torch.ones_like(phase), phase, torch.ones(1))
        loss.backward()
        assert loss.item() == 0
        assert torch.isfinite(phase.grad).all()

    def test_an_even_kernel_is_refused_before_the_first_epoch(self, tree):
        with pytest.raises(BadInput, match="taps"):
            Job.begin(Reconstruct.of(tree | {"projections": [{"lateral_blur": {"taps": 4}}]}))


class TestInput:
    def test_a_pixel_that_is_no_number_is_masked(self):
        counts = np.ones((25, 24, 24), np.float32)
        counts[3:6, 4, 5] = np.inf
        np.save("bad.npy", counts)
        knobs = {"energy": "80 keV", "pixel": "0.2 A", "step": "0.45 A", "grid": [5, 5]}
        scan = Reconstruct.of({"file": "bad.npy", "read": {"npy": knobs}}).scan()
        assert scan.mask.sum() == scan.mask.size - 1
        assert not scan.mask[4, 5]

    @pytest.mark.parametrize("kind", ["random", "sparse", "compact"])
    def test_a_batch_may_be_larger_than_the_scan(self, kind):
        places = np.random.default_rng(0).uniform(size=(7, 2))
        made = getattr(batches, kind)(np.arange(7), 0, places, size=100)(1)
        assert [len(batch) for batch in made] == [7]

    def test_the_shape_of_a_simulated_object_may_be_given(self, tmp_path):
        given = project(init_params={"obj_source": "simu", "obj_params": [1, 1, 80, 80]})
        ours, _ = ptyrad.translate_project(given, tmp_path)
        assert Reconstruct.of(ours).object.name == "pixels"

    def test_an_x_ray_file_becomes_a_run(self, tmp_path):
        xray = {"probe_illum_type": "xray", "beam_kev": 8.8, "probe_dRn": 5e-8, "probe_Rn": 9e-5}
        xray |= {"probe_D_H": 6e-5, "probe_D_FZP": 5.8e-2, "probe_Ls": 1e-3}
        xray |= {"pos_scan_step_size": 1e-7, "meas_calibration": {"mode": "dx", "value": 1e-8}}
        given = project(init_params=xray)
        for key in ("probe_kv", "probe_conv_angle"):
            given["init_params"].pop(key)
        given["init_params"]["obj_slice_thickness"] = 1e-6
        ours, _ = ptyrad.translate_project(given, tmp_path)
        assert next(iter(ours["probe"])) == "zone_plate"
        Reconstruct.of(ours)


class TestState:
    def test_resuming_neither_jitters_nor_maps_positions_again(self, tree, tmp_path):
        job = finished(tree | {"prepare": [{"affine": {"rotation": "5 deg"}}, {"jitter": {"std": 0.15}}]})
        job.result().save("first.h5")
        again = Job.begin(Reconstruct.of(tree | {"prepare": [{"positions": {"path": "first.h5"}}]}))
        np.testing.assert_allclose(again.model.scan.angstrom(), job.model.scan.angstrom(), atol=1e-5)

    def test_a_setting_of_the_pixel_changes_the_pixel(self, files):
        """PtyRAD's search writes it under a name that nothing reads."""
        sizes = []
        for pixel in ("0.2 A", "0.21 A"):
            recipe = Reconstruct.of({"file": str(files.native), "prepare": [{"calibrate": {"pixel": pixel}}]})
            sizes.append(recipe.scan().geometry.pixel[0])
        assert sizes == pytest.approx([0.2, 0.21])

    def test_one_run_leaves_nothing_to_the_next(self, tree):
        straight = finished(tree).result()
        finished(
            tree
            | {"prepare": [{"rotate": {"angle": "5 deg"}}], "propagator": {"exact": {"tilt": ["3 mrad", 0]}}}
        )
        np.testing.assert_array_equal(finished(tree).result().object, straight.object)

    def test_results_of_mixed_objects_have_a_contrast(self, tree):
        mixed = {"pixels": {**PIXELS["pixels"], "modes": 2}}
        result = finished(tree | {"object": mixed}).result()
        assert result.object.ndim == 3
        assert np.isfinite(result.phase[result.coverage_mask].std())

    def test_a_snapshot_holds_no_patterns(self, files, tree, tmp_path):
        job = Job.begin(Reconstruct.of(tree), tmp_path / "run")
        for _ in job:
            pass
        job.result().save(tmp_path / "run" / "result.h5")
        held = sum(p.numel() * p.element_size() for p in job.model.parameters())
        assert (tmp_path / "run" / "snapshot.h5").stat().st_size < 8 * held + 100_000
        json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])

    def test_a_template_that_sets_one_knob_keeps_the_constraint(self, tmp_path):
        """In PtyRAD ``obj_rblur: {std: 0.8}`` alone switches the blur off; here that is at least told."""
        _, notes = ptyrad.translate_project(project(constraint_params={"obj_rblur": {"std": 0.8}}), tmp_path)
        assert any("obj_rblur" in note for note in notes)


def test_sixteen_constraints_have_their_counterparts():
    wanted = {
        "aperture",
        "support",
        "orthogonal",
        "power",
        "lateral_blur",
        "depth_blur",
        "low_pass",
        "missing_wedge",
    }
    wanted |= {"strongest_cosines", "complex_ratio", "mirrored_amplitude", "recentre", "bounded_amplitude"}
    wanted |= {"positive", "still", "smooth_tilts"}
    assert wanted <= set(projections.__all__)
    assert len(wanted) == 16
    assert "affine" in prepare.__all__
