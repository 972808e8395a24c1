"""Laws of the noise model that a run has while it is far from the counts."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.fitting.outcome import Verdict
from phaseloom.ptycho import noise
from phaseloom.reconstruction.level import Level
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.result_builder import judge_run
from phaseloom.simulation import simulate


@pytest.fixture(scope="module")
def scan() -> Scan4D:
    truth = simulate.atoms((64, 64), 0.2, peak=0.8, seed=1)
    beam = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e5}
    return simulate.electron_scan(truth, 0.2, simulate.raster((10, 10), 0.5) + 3.5, **beam)[0]


def begin(scan: Scan4D, slices: int = 1, **more) -> Job:
    thing = {"slices": slices} | ({"thickness": "5 A"} if slices > 1 else {})
    probe = {"focused": {"semiangle": "30 mrad", "defocus": "6 nm"}}
    tree = {"probe": probe, "object": {"pixels": thing}, "start": "none", "levels": 0, "holdout": 0.1}
    return Job.begin(Reconstruct.of({"epochs": 12, **tree, **more}), scan=scan)


def choose(level: Level, *losses: float) -> float | None:
    """Counts under the fraction of the next epoch, after epochs of such losses."""
    level.progress.history = [{"loss": loss, "holdout": loss, "terms": {"noise": loss}} for loss in losses]
    level.choose_noise(level.progress)
    return noise.find_floor(level.likelihood.divergence)


def test_the_floor_is_one_count_until_an_epoch_comes_near_the_noise(scan: Scan4D) -> None:
    level = begin(scan).level
    assert choose(level) == 1.0
    assert choose(level, 30.0, 1.5) == 1.0
    assert choose(level, 30.0, 1.5, 1.19) == 0.01
    assert choose(level, 30.0, 1.5, 1.19, 1.6) == 0.01  # for good


def test_a_run_far_from_the_noise_ends_in_the_units_that_were_asked_for(scan: Scan4D) -> None:
    level = begin(scan).level
    assert choose(level, *[30.0] * 5) == 1.0
    assert choose(level, *[30.0] * 6) == 0.01
    level.recipe = level.recipe.model_copy(update={"epochs": 100})  # continued for longer
    assert choose(level, *[30.0] * 7) == 0.01


def test_several_slices_compare_amplitudes_until_then(scan: Scan4D) -> None:
    level = begin(scan, slices=2).level
    choose(level, 30.0)
    assert noise.is_amplitude(level.likelihood.divergence)
    counts = torch.as_tensor(np.asarray(scan.counts[:])).double()
    mask = torch.ones(32, 32, dtype=torch.bool)
    assert level.likelihood.floor == pytest.approx(noise.shot_noise(noise.amplitude, counts, mask), rel=1e-3)
    choose(level, 30.0, 1.1)
    assert noise.find_compiled_form(level.likelihood.divergence) == noise.find_compiled_form(noise.poisson)


def test_a_near_field_keeps_the_usual_noise_model(scan: Scan4D) -> None:
    level = begin(scan).level
    level.model.detector.near = True
    assert choose(level, 30.0) == 0.01


@pytest.mark.parametrize(("loss", "share"), [(1.19, 1.0), (30.0, 0.25)])
def test_steps_are_a_quarter_where_the_usual_noise_model_begins_far_from_the_counts(
    scan: Scan4D, loss: float, share: float
) -> None:
    level = begin(scan).level
    groups = level.progress.optimizer.param_groups
    choose(level, *[30.0] * 5)
    assert {group["brake"] for group in groups} == {1.0}
    choose(level, *[30.0] * 5, loss)
    assert {group["brake"] for group in groups} == {share}
    choose(level, *[30.0] * 5, loss, 30.0)
    assert {group["brake"] for group in groups} == {share}  # once


def test_a_loss_that_rises_with_the_noise_model_is_no_fault_of_the_steps(scan: Scan4D) -> None:
    job = begin(scan)
    rates = {"object": 1.0, "probe": 1.0}
    losses = [9.0 * 0.2**n + 1.48 for n in range(6)] + [1.9 * 0.99**n for n in range(6)]
    job.progress.history = [
        {"number": n, "loss": loss, "holdout": None, "terms": {"noise": loss}, "rates": rates}
        for n, loss in enumerate(losses, 1)
    ]
    job.progress.epoch = 12
    assert judge_run(job).verdict is Verdict.STEPS_TOO_LONG
    job.progress.other_noise_epochs = 6
    assert judge_run(job).verdict is not Verdict.STEPS_TOO_LONG


def test_losses_of_two_noise_models_are_not_compared(scan: Scan4D) -> None:
    level = begin(scan).level
    level.progress.best = (2, 0.5, {})
    choose(level, 30.0, 1.19)
    assert level.progress.best is None
    assert level.progress.comparable_epochs == []
    level.progress.best = (3, 1.3, {})
    choose(level, 30.0, 1.19, 1.3)
    assert level.progress.best == (3, 1.3, {})
    assert [event["loss"] for event in level.progress.comparable_epochs] == [1.3]


def test_the_loss_at_the_noise_is_one_for_both(scan: Scan4D) -> None:
    level = begin(scan).level
    choose(level)
    early = level.likelihood.floor
    choose(level, 1.0)
    counts = torch.as_tensor(np.asarray(scan.counts[:])).double()
    mask = torch.ones(32, 32, dtype=torch.bool)
    assert early == pytest.approx(noise.shot_noise(partial(noise.poisson, floor=1.0), counts, mask), rel=1e-3)
    assert level.likelihood.floor == pytest.approx(noise.shot_noise(noise.poisson, counts, mask), rel=1e-3)


@pytest.mark.parametrize(
    "more",
    [
        {"slices": 2, "optimizer": {"gauss_newton": {"early_floor": 0}}},
        {"noise": "amplitude"},
        {"noise": {"poisson": {"floor": 2.0}}},
        {"optimizer": {"gauss_newton": {"early_floor": 0}}},
    ],
)
def test_the_usual_noise_model_stays(scan: Scan4D, more: dict) -> None:
    level = begin(scan, **more).level
    usual = noise.find_floor(level.likelihood.divergence)
    assert choose(level, 30.0) == usual


def test_counts_that_are_not_whole_keep_the_usual_noise_model(scan: Scan4D) -> None:
    part = replace(scan, counts=np.asarray(scan.counts[:]) * np.float32(0.37))
    assert choose(begin(part).level, 30.0) == 0.01


def test_a_resumed_run_goes_on_with_the_same_bits(scan: Scan4D, tmp_path) -> None:
    straight = begin(scan)
    straight.run_epochs()
    probe = {"focused": {"semiangle": "30 mrad", "defocus": "6 nm"}}
    tree = {"probe": probe, "start": "none", "levels": 0, "holdout": 0.1, "epochs": 12}
    tree["object"] = {"pixels": {"slices": 1}}
    job = Job.begin(Reconstruct.of(tree), tmp_path / "run", scan=scan)
    near = next(n for n, e in enumerate(straight.progress.history, 1) if e["loss"] < 1.2)
    assert 1 < near < 12
    for epoch in job:
        if epoch.number == near:  # the next epoch is the first of the usual noise model
            break
    del job
    again = Job.resume(tmp_path / "run", scan=scan)
    again.run_epochs()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_floor_below_zero_is_refused() -> None:
    with pytest.raises(BadInput, match="early_floor"):
        optimizers.gauss_newton([{"params": [torch.zeros(1)], "name": "object", "lr": 0.1}], early_floor=-1.0)
