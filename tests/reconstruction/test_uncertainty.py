"""The error bar of the phase: its flags, its file, its draws."""

from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from phaseloom import export, plot
from phaseloom.errors import BadInput
from phaseloom.fitting.outcome import Verdict
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.result_builder import summary_lines
from phaseloom.reconstruction.uncertainty import (
    Draws,
    LowerBound,
    NoMap,
    _list_priors,
    add_draws,
    describe_cells,
    draw_results,
    estimate_uncertainty,
)
from phaseloom.reconstruction.warm_start import describe_object_prior
from phaseloom.result import Result, Uncertainty


def begun(files, tree, scan=None, **changes):
    """A job before its first epoch."""
    recipe = Reconstruct.of({**tree, **changes})
    return Job.begin(recipe, scan=scan if scan is not None else files.scan)


def ended(*arguments, **changes):
    """The same after a few epochs."""
    job = begun(*arguments, **changes)
    for _ in job:
        pass
    return job


def reasons(*arguments, **changes):
    """Codes after a few epochs."""
    job = ended(*arguments, **changes)
    return set(estimate_uncertainty(job).reasons) - {LowerBound.MODEL_ERROR}  # four epochs are few


class TestFlags:
    def test_a_defocused_probe_with_many_electrons_has_none(self, files, tree):
        assert not reasons(files, tree)

    def test_a_focused_probe(self, files, tree):
        optics = {"semiangle": "40 mrad", "defocus": "0 A", "modes": 1}
        assert reasons(files, tree, probe={"focused": optics}) == {LowerBound.FOCUSED_PROBE}

    def test_a_wide_beam_of_few_cells_is_smooth_and_not_focused(self):
        """Said of a near field whose beam is 80 pixels wide."""
        y, x = torch.meshgrid(torch.arange(64) - 32.0, torch.arange(64) - 32.0, indexing="ij")
        for width, word in ((20.0, "smooth"), (0.8, "focused")):
            wave = torch.exp(-(y**2 + x**2) / (2 * width**2)).to(torch.complex64)
            model = SimpleNamespace(incident_modes=lambda wave=wave: [(wave[None], None)])
            cells, clause = describe_cells(model)
            assert cells < 10
            assert clause.startswith(f"the probe is {word} ({cells:.2g} resolution cells)")

    def test_words_on_a_prior_fit_photons_too(self):
        assert "electrons" not in describe_object_prior({"frequency": [0.1], "power": [1.0]})
        job = SimpleNamespace(
            recipe=SimpleNamespace(penalties=(), projections=()), level=SimpleNamespace(power=object())
        )
        assert _list_priors(job) == ["object_prior with a power that few counts tell"]

    def test_background_above_two_hundredths_of_a_count(self, files, tree):
        few, many = (replace(files.scan, background=np.full((24, 24), level)) for level in (0.01, 0.03))
        assert not reasons(files, tree, few)
        assert reasons(files, tree, many) == {LowerBound.BACKGROUND}

    def test_a_run_that_has_not_converged(self, files, tree):
        found = estimate_uncertainty(ended(files, tree), verdict=Verdict.STILL_FALLING)
        assert LowerBound.NOT_CONVERGED in found.reasons
        assert "still falling" in str(found)

    def test_slices_closer_than_the_depth_of_focus(self, files, tree):
        near, far = (
            {"object": {"pixels": {"slices": 2, "thickness": thickness}}} for thickness in ("8 A", "200 A")
        )
        assert reasons(files, tree, **near) == {LowerBound.CLOSE_SLICES}
        assert LowerBound.CLOSE_SLICES not in reasons(files, tree, **far)

    def test_a_penalty_or_projection_with_a_weight(self, files, tree):
        both = {"pixels": {"kind": "amplitude and phase"}}
        assert reasons(files, tree, penalties=[{"tv": {"weight": 0.1}}]) == {LowerBound.PRIOR}
        assert reasons(files, tree, object=both, projections=["positive"]) == {LowerBound.PRIOR}
        assert not reasons(files, tree, penalties=[{"tv": {"weight": 0.0}}], projections=["orthogonal"])

    def test_a_loss_above_that_of_noise_is_a_model_error_and_scales(self, files, tree):
        job = begun(files, tree)
        job.progress.history = 3 * [{"loss": 4.0, "terms": {"noise": 4.0}, "holdout": None}]
        found = estimate_uncertainty(job)
        assert LowerBound.MODEL_ERROR in found.reasons
        assert found.excess == 2.0
        assert "scaled by the root of the loss" in str(found)
        np.testing.assert_allclose(found.scaled, 2 * found.sigma)

    def test_amplitudes_of_bright_patterns(self, files, tree):
        bright = replace(files.scan, counts=(100 * files.scan.counts + 100).astype(np.float32))
        assert LowerBound.AMPLITUDE_LIKELIHOOD in reasons(files, tree, bright, noise="amplitude")

    def test_few_electrons(self, files, tree):
        rng = np.random.default_rng(3)
        thin = replace(files.scan, counts=rng.binomial(files.scan.counts.astype(int), 0.01))
        assert LowerBound.FEW_ELECTRONS in reasons(files, tree, thin)

    def test_a_beam_of_several_modes(self, files, tree):
        optics = {"semiangle": "30 mrad", "defocus": "60 A", "modes": 3}
        even, odd = (
            {"focused": optics | {"shares": shares}} for shares in ([0.7, 0.2, 0.1], [0.98, 0.01, 0.01])
        )
        still = {"rates": {"probe": 0.0}}
        assert LowerBound.SOURCE in reasons(files, tree, probe=even, **still)
        assert LowerBound.SOURCE not in reasons(files, tree, probe=odd, **still)

    def test_a_source_and_a_blurred_object_are_the_same_for_weak_phases(self):
        """What `LowerBound.SOURCE` rests on: patterns differ in second order only."""
        rng = np.random.default_rng(1)
        spectrum = np.fft.fft2(rng.normal(size=(32, 32)))
        f = np.fft.fftfreq(32)
        radius = np.hypot(f[:, None], f)
        beam = np.fft.ifft2((radius < 0.15) * np.exp(40j * radius**2))
        phase = np.fft.ifft2(spectrum * (radius < 0.25)).real
        moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
        blurred = np.mean([np.roll(phase, move, (0, 1)) for move in moves], 0)

        def expose(image):
            return np.abs(np.fft.fft2(beam * np.exp(1j * image))) ** 2

        off = []
        for strength in (1e-3, 1e-2):
            averaged = np.mean([expose(strength * np.roll(phase, move, (0, 1))) for move in moves], 0)
            one = expose(strength * blurred)
            changes = np.abs(one - expose(0 * phase)).max()
            off.append(np.abs(averaged - one).max() / changes)
        assert off[0] < 1e-2
        assert off[1] == pytest.approx(10 * off[0], rel=0.2)  # the rest grows with the phase

    def test_a_detector_cut_to_less_than_the_grid_leaves_frequencies_open(self, files, tree):
        found = reasons(files, tree, prepare=[{"enlarge": {"to": [72, 72], "match": "crop"}}])
        assert LowerBound.UNMEASURED_FREQUENCIES in found


class TestRefusals:
    def test_an_unknown_likelihood(self, files, tree):
        found = estimate_uncertainty(begun(files, tree, noise="gaussian"))
        assert found.sigma is None
        assert found.missing_code == NoMap.NO_NOISE_MODEL
        assert str(found).startswith("phase: no error bar, as ")

    def test_a_bias_that_is_not_known(self, files, tree, monkeypatch):
        monkeypatch.setattr("phaseloom.ptycho.curvature.STEPS_OF_CONTRAST", 0)
        found = estimate_uncertainty(ended(files, tree, noise="amplitude"))
        assert found.missing_code == NoMap.BIASED_LIKELIHOOD
        assert "not known by how much" in str(found)

    def test_counts_that_are_not_whole(self, files, tree):
        job = begun(files, tree, replace(files.scan, counts=0.3 * files.scan.counts))
        assert estimate_uncertainty(job).missing_code == NoMap.COUNTS_NOT_WHOLE
        with pytest.raises(BadInput, match="not whole"):
            draw_results(job)

    def test_before_the_first_epoch_there_is_none(self, files, tree):
        assert estimate_uncertainty(begun(files, tree)).missing_code == NoMap.NO_EPOCH

    @pytest.mark.parametrize("optimizer", ["gauss_newton", "adam", "epie", "raar", "lsq_ml"])
    def test_after_one_epoch_or_two_there_is_none(self, files, tree, optimizer):
        settings = {} if optimizer in ("gauss_newton", "adam") else {"rates": {}, "penalties": []}
        settings |= {"optimizer": optimizer, "object": {"pixels": {"kind": "complex"}}}
        for epochs in (1, 2):
            found = estimate_uncertainty(ended(files, tree, epochs=epochs, **settings))
            assert found.missing_code == NoMap.FEW_EPOCHS
            assert f"{epochs} epoch" in found.missing
        assert estimate_uncertainty(ended(files, tree, epochs=3, **settings)).sigma is not None


class TestMap:
    @pytest.mark.parametrize(
        "changes",
        [
            {"probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A", "modes": 2}}},
            {"probe": {"relaxed": {"basis": 3, "modes": 1}}},
            {"object": {"pixels": {"modes": 2}}},
            {"object": {"pixels": {"kind": "phase"}}},
            {"object": {"bandlimited": {"pixel": "0.4 A"}}},
            {"detector": {"counting": {"blur": 0.5, "saturation": 1e4}}},
        ],
        ids=["modes", "OPR", "states", "phase", "coarse", "blur"],
    )
    def test_every_kind_of_model_has_one(self, files, tree, changes):
        job = ended(files, tree, **changes)
        found = estimate_uncertainty(job)
        assert found.sigma.shape[-2:] == job.model.scan.canvas.shape
        assert 0 < found.mean < found.pixel < 0.2

    def test_a_near_field_has_one(self, files):
        tree = {"file": str(files.near), "start": "none", "noise": "poisson", "epochs": 3}
        job = Job.begin(Reconstruct.of(tree))
        for _ in job:
            pass
        assert 0 < estimate_uncertainty(job).pixel < 1

    def test_amplitudes_of_few_counts_have_one_that_holds_their_bias(self, files, tree):
        rng = np.random.default_rng(3)
        thin = replace(files.scan, counts=rng.binomial(files.scan.counts.astype(int), 0.004))
        assert 0.1 < thin.counts.mean() < 1
        biased, fair = (
            ended(files, tree, thin, noise=noise, epochs=20) for noise in ("amplitude", "poisson")
        )
        found = estimate_uncertainty(biased)
        assert found.pixel > estimate_uncertainty(fair).pixel
        assert "of the contrast" in found.reasons[LowerBound.AMPLITUDE_BIAS]
        faded = [np.angle(one.result().object[0])[12:-12, 12:-12].std() for one in (biased, fair)]
        assert faded[0] < faded[1]  # what the bar has to hold

    def test_four_times_the_dose_halves_it(self, files, tree):
        counts = files.scan.counts.astype(int)
        one, four = (
            estimate_uncertainty(ended(files, tree, replace(files.scan, counts=n * counts))).pixel
            for n in (1, 4)
        )
        assert one / four == pytest.approx(2, rel=0.1)  # the floor of the likelihood is the same

    def test_it_is_the_same_twice_and_changes_nothing(self, files, tree):
        job = ended(files, tree)
        before = [parameter.clone() for parameter in job.model.parameters()]
        state = torch.get_rng_state()
        one, two = estimate_uncertainty(job), estimate_uncertainty(job)
        np.testing.assert_array_equal(one.sigma, two.sigma)
        assert all(torch.equal(a, b) for a, b in zip(before, job.model.parameters(), strict=True))
        assert torch.equal(state, torch.get_rng_state())


class TestFiles:
    def test_a_result_keeps_it(self, finished, tmp_path):
        result = finished.result()
        known = replace(result.uncertainty, drawn=2 * result.sigma, draws=8, drawn_pixel=0.1, drawn_mean=0.05)
        replace(result, uncertainty=known).save(tmp_path / "a.h5")
        again = Result.load(tmp_path / "a.h5").uncertainty
        np.testing.assert_array_equal(again.sigma, result.sigma)
        np.testing.assert_array_equal(again.drawn, known.drawn)
        assert str(again) == str(known)
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["sigma"].attrs["units"] == "rad"
            assert file["sigma"].attrs["kappa"] == known.kappa

    def test_a_reason_for_none_is_kept_too(self, finished, tmp_path):
        none = Uncertainty(missing="counts are not whole", missing_code="counts_not_whole")
        replace(finished.result(), uncertainty=none).save(tmp_path / "a.h5")
        again = Result.load(tmp_path / "a.h5")
        assert again.sigma is None
        assert again.uncertainty.missing_code == "counts_not_whole"

    def test_a_file_of_an_earlier_version_has_none(self, finished, tmp_path):
        finished.result().save(tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5", "a") as file:
            del file["sigma"], file["uncertainty"]
        old = Result.load(tmp_path / "a.h5")
        assert old.sigma is None
        assert old.uncertainty is None
        assert not any("error bar" in line for line in summary_lines(old))
        assert "earlier version" in plot.object_sigma(old).texts[0].get_text()
        with pytest.raises(BadInput, match="sigma"):
            export.stacks(old, tmp_path, of=("sigma",))

    @pytest.mark.medium
    def test_it_is_printed_drawn_and_exported(self, finished, tmp_path):
        result = finished.result()
        assert summary_lines(result)[-1].startswith("error bar: phase ±")
        finished.save(result)
        assert (finished.directory / "sigma.png").is_file()
        (path,) = export.stacks(result, tmp_path, of=("sigma",))
        assert path.name == "sigma_slices_crop.tif"
        result.save(tmp_path / "a.cxi")
        with h5py.File(tmp_path / "a.cxi") as file:
            assert file["entry_1/image_1/sigma_phase"].shape == result.sigma.shape


@pytest.fixture(scope="module")
def drawn(finished):
    return draw_results(finished, count=3, epochs=2)


class TestDraws:
    def test_they_scatter_about_as_the_map_says(self, finished, drawn):
        """A small scan, and few epochs: within a factor; benchmarks/uncertainty.py has the numbers."""
        assert 0.5 < drawn.pixel / finished.result().uncertainty.pixel < 2

    def test_a_derived_number_has_an_error(self, drawn):
        value, sigma = drawn.measure(lambda thing: np.angle(thing)[0][drawn.core].std())
        assert 0 < sigma < 0.3 * value

    def test_the_run_is_the_same_afterwards(self, finished, drawn):
        again = draw_results(finished, count=3, epochs=2)
        np.testing.assert_array_equal(again.objects, drawn.objects)

    def test_they_stand_beside_the_map(self, finished, drawn):
        both = add_draws(finished.result().uncertainty, drawn)
        assert both.draws == 3
        assert "3 draws: ±" in str(both)

    def test_one_draw_is_refused(self, finished):
        with pytest.raises(BadInput, match="too few"):
            draw_results(finished, count=1)

    def test_few_electrons_are_refused(self, files, tree):
        rng = np.random.default_rng(3)
        thin = replace(files.scan, counts=rng.binomial(files.scan.counts.astype(int), 0.01))
        with pytest.raises(BadInput, match="too few to draw from"):
            draw_results(ended(files, tree, thin))

    def test_constant_ramp_and_shift_are_no_error(self):
        y, x = np.mgrid[:40, :40]
        phase = 0.3 * np.exp(-((y - 20) ** 2 + (x - 17) ** 2) / 18)
        moved = 0.3 * np.exp(-((y - 20.05) ** 2 + (x - 17) ** 2) / 18)
        from phaseloom.reconstruction.uncertainty import _remove_gauge

        core = np.ones((40, 40), bool)
        core[[0, -1]] = core[:, [0, -1]] = False
        other = np.exp(1j * (moved + 0.2 + 0.01 * y))[None]
        left = np.angle(_remove_gauge(other, np.exp(1j * phase)[None], core) * np.exp(-1j * phase))
        assert np.abs(left[0][core]).max() < 1e-3


def test_draws_of_a_constant_scatter_are_found():
    rng = np.random.default_rng(0)
    objects = np.exp(0.02j * rng.normal(size=(40, 1, 32, 32)))
    found = Draws(np.ones((1, 32, 32), complex), objects, np.ones((32, 32), bool))
    assert found.pixel == pytest.approx(0.02, rel=0.03)
    assert found.mean == pytest.approx(0.0045, rel=0.05)  # at the border fewer pixels are averaged


@pytest.mark.medium
def test_the_command_line_draws(phaseloom, files, tree, tmp_path):
    words = ["probe.focused.semiangle=40 mrad", "probe.focused.defocus=6 nm", "start=none", "epochs=3"]
    sets = [part for word in words for part in ("--set", word)]
    said = phaseloom("reconstruct", files.native, *sets, "--draws", 2, "--out", tmp_path / "run", "-q")
    assert said.code == 0
    assert "2 draws: ±" in said.out
    assert Result.load(tmp_path / "run" / "result.h5").uncertainty.draws == 2
