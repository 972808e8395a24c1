"""The default run: how few updates it takes, that it is steady, and what it costs in counts, not seconds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cases, ours
from benchmarks.score import score
from phaseloom.ptycho import scans
from phaseloom.reconstruction.level import Level
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.memory import Ledger

SMALL = replace(cases.CASES["S"], scan=(14, 14))
DEEP = replace(cases.CASES["M"], scan=(6, 6), slices=2, modes=2)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def begun(
    case: cases.Case,
    folder: Path,
    *,
    off: float = 40.0,
    seed: int = 0,
    epochs: int = 20,
    run: Path | None = None,
    **tree: Any,
) -> tuple[Job, Mapping[str, Any]]:
    """A job on a simulated scan that starts from the nominal raster and a defocused probe; and the truth."""
    truth = cases.made(case, object_seed=seed, noise_seed=seed)
    path = folder / f"{seed}.npz"
    np.savez(path, **{name: value for name, value in truth.items() if name not in ours.HIDDEN})
    settings = {"off": off, "epochs": epochs, "seed": seed, "still": (), "tree": tree}
    return Job.begin(Reconstruct.of(ours.tree(path, truth, settings)), run), truth


def judged(job: Job, truth: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of the job as it stands."""
    return score(*ours.state(job, float(truth["dx"])), truth["obj_phase"], truth["pos_px"])


def finished(job: Job, truth: Mapping[str, Any]) -> dict[str, Any]:
    """Errors at the end; no loss on the way may be other than a number."""
    for epoch in job:
        assert np.isfinite(epoch.loss)
    return judged(job, truth)


class TestUpdates:
    @pytest.mark.medium
    def test_a_good_image_takes_few_updates(self, tmp_path):
        job, truth = begun(SMALL, tmp_path)
        errors, updates, reached = [], 0, {}
        for epoch in job:
            errors.append(judged(job, truth)["error"])
            updates += epoch.updates
            reached |= {mark: updates for mark in (0.2, 0.1) if errors[-1] < mark and mark not in reached}
        assert reached[0.2] <= 110
        assert reached[0.1] <= 130
        assert errors[-1] < 0.03

    @pytest.mark.medium
    def test_all_patterns_are_learned_from_at_the_end(self, tmp_path):
        job, _ = begun(SMALL, tmp_path)
        held = [epoch.holdout is not None for epoch in job]
        assert held == [True] * 18 + [False] * 2
        assert job.result().metrics["hold-out"] == job.progress.history[17]["holdout"]


class TestCosts:
    def test_a_batch_needs_few_bytes(self, tmp_path):
        job, _ = begun(DEEP, tmp_path, levels=0)
        index = torch.arange(8)
        likelihood = job.level.likelihood
        for _ in range(2):  # what is kept from batch to batch is there the second time
            with Ledger() as ledger:
                torch.stack(list(likelihood(index).values())).sum().backward()
            job.progress.optimizer.zero_grad()
        waves = 8 * DEEP.modes * DEEP.pixels**2 * 8
        assert ledger.most < waves * (DEEP.slices + 4)

    def test_work_for_a_batch_does_not_grow_with_the_canvas(self, tmp_path):
        job, _ = begun(SMALL, tmp_path)
        needs = []
        for border in (8, 400):
            room = scans.canvas(job.scan, border=border)
            stage = Level.of(job.recipe, job.scan, job.recipe.build_model(job.scan, room))
            stage.before[0](stage.progress)
            needs.append([batch_bytes(stage) for _ in range(3)][-1])
        assert needs[1] < 1.05 * needs[0]


def batch_bytes(stage: Level) -> int:
    """Bytes that a batch and its step make anew."""
    optimizer = stage.progress.optimizer
    for group in optimizer.param_groups:
        group["lr"], group["size"] = group["base"], 8
    with Ledger() as ledger:
        optimizer.zero_grad()
        torch.stack(list(stage.likelihood(torch.arange(40, 48)).values())).sum().backward()
        optimizer.step()
    return ledger.most


@pytest.mark.parametrize(
    ("case", "epochs", "size"),
    [(SMALL, 40, 16), (SMALL, 2, 8), (replace(SMALL, slices=2, dz=10.0), 40, 8)],
)
def test_a_batch_of_one_slice_has_twice_the_patterns_unless_updates_are_few(tmp_path, case, epochs, size):
    # a wide beam: few patterns light the field
    job, _ = begun(replace(case, C10=-300.0), tmp_path, off=0.0, epochs=epochs)
    assert job.recipe.batch.values["size"] == size


def test_a_batch_of_a_small_scan_stays_small(tmp_path):
    job, _ = begun(replace(SMALL, scan=(8, 8), C10=-300.0), tmp_path, off=0.0)
    assert job.recipe.batch.values["size"] == 8


class TestScoreOfStrongPhase:
    """The benchmark's score, on images whose answer is known."""

    @staticmethod
    def phase():
        y, x = np.mgrid[:64, :63]
        return 4 + 4 * np.sin(y / 9) * np.cos(x / 11) + 0.1 * np.sin(y * 1.1 + x * 0.7)

    def test_shift_ramp_and_wraps_do_not_count(self):
        score_phase = pytest.importorskip("benchmarks.strong_phase", exc_type=ImportError).score_phase
        y, x = np.indices((64, 63))
        found = np.exp(1j * (np.roll(self.phase(), (1, -2), (0, 1)) + 0.05 * y - 0.03 * x + 2))
        correlation, error = score_phase(found, self.phase())
        assert correlation > 0.999
        assert error < 0.02

    def test_another_image_is_wrong(self):
        score_phase = pytest.importorskip("benchmarks.strong_phase", exc_type=ImportError).score_phase
        correlation, error = score_phase(np.exp(1j * self.phase()[::-1]), self.phase())
        assert correlation < 0.9
        assert error > 0.5


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_on_two_grids_resumes_to_the_same_bits(tmp_path, stop):
    straight, _ = begun(DEEP, tmp_path, epochs=4)
    kept = [epoch.loss for epoch in straight]
    job, _ = begun(DEEP, tmp_path, epochs=4, run=tmp_path / "run")
    for _ in zip(range(stop), job, strict=False):
        pass
    again = Job.resume(tmp_path / "run")
    assert again.level is not again.finest or stop > 2
    for _ in again:
        pass
    assert [event["loss"] for event in again.progress.history] == kept
    np.testing.assert_array_equal(again.result().object, straight.result().object)


def test_one_epoch_is_done_on_the_grid_of_the_data(tmp_path):
    job, _ = begun(DEEP, tmp_path, epochs=1)
    (epoch,) = job
    assert job.level is job.finest
    assert job.progress.stopped == "one epoch done"
    assert epoch.number == 1


@pytest.mark.medium
def test_a_slow_probe_does_not_drive_positions_away(tmp_path):
    job, truth = begun(SMALL, tmp_path, rates={"probe": 0.02})
    nominal = score(
        np.zeros_like(truth["obj_phase"]), truth["pos_nominal_px"], truth["obj_phase"], truth["pos_px"]
    )
    assert finished(job, truth)["positions"] < nominal["positions"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_smooth_phase_of_eight_radian_is_found_in_few_electrons(seed):
    strong_phase = pytest.importorskip("benchmarks.strong_phase", exc_type=ImportError)
    found = strong_phase.measure_run("smooth", 1e4, seed)
    assert found["loss"] < 1.1
    assert found["correlation"] > 0.98


@pytest.mark.slow
class TestNoCaseDiverges:
    SEEDS = range(10)

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("off", [0.0, 40.0])
    def test_of_one_slice(self, tmp_path, seed, off):
        found = finished(*begun(cases.CASES["S"], tmp_path, seed=seed, off=off))
        assert found["error"] < 0.03
        assert found["positions"] < 0.06

    @pytest.mark.parametrize("seed", SEEDS)
    def test_of_few_electrons(self, tmp_path, seed):
        assert finished(*begun(replace(cases.CASES["S"], dose=1e4), tmp_path, seed=seed))["scaled"] < 0.2

    @pytest.mark.parametrize("seed", SEEDS)
    def test_of_four_slices(self, tmp_path, seed):
        job, truth = begun(
            cases.CASES["thick"], tmp_path, seed=seed, off=30.0, rates={"positions": 0, "affine": 0}
        )
        assert finished(job, truth)["rmse"] < 0.06

    @pytest.mark.parametrize(("size", "epochs", "most"), [(32, 20, 0.03), (128, 64, 0.03), (256, 256, 0.06)])
    def test_of_any_batch(self, tmp_path, size, epochs, most):
        job, truth = begun(cases.CASES["S"], tmp_path, batch={"random": {"size": size}}, epochs=epochs)
        assert finished(job, truth)["error"] < most
