"""Every example for electrons runs from its file on simulated data and does what it says."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.data.formats import native
from phaseloom.reconstruction.compare import compare_with_truth
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

EXAMPLES = Path(__file__).parents[2] / "examples" / "electrons"
CASES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
PIXEL, WINDOW, GRID, GAP = 0.2, 32, (10, 10), 12.0
BEST = {"single_slice": 0.85, "crop_patterns": 0.75, "pad_patterns": 0.75, "resample_patterns": 0.8}
"""Least correlation with the truth where the model differs from the experiment; else `GOOD`."""
GOOD = 0.85


def specimen(slices):
    """Slices of one lattice, positions and the true phases."""
    margin = (WINDOW // 2 + 6) * PIXEL
    positions = simulate.raster(GRID, 0.5)
    positions += margin - positions.min(0)
    size = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    truth = simulate.atoms((int(size[0]), int(size[1])), PIXEL, slices=slices, peak=0.25, seed=2)
    return positions, truth


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data that the examples name, and an earlier run of the multislice one."""
    where = tmp_path_factory.mktemp("electrons")
    positions, truth = specimen(3)
    optics = {"energy": 80e3, "semiangle": 0.03, "defocus": 80.0, "window": WINDOW, "modes": 2, "dose": 1e6}
    scan, _ = simulate.electron_scan(truth, PIXEL, positions, thickness=GAP, **optics)
    native.write(simulate_grid(scan), where / "scan.h5")
    with h5py.File(where / "large.h5", "w") as file:
        stack = scan.counts.reshape(*GRID, WINDOW, WINDOW).astype(np.uint16)
        file.create_dataset("counts", data=stack, chunks=(1, 5, WINDOW, WINDOW))
    np.save(where / "truth.npy", truth)
    for path in EXAMPLES.glob("*.yaml"):
        shutil.copy(path, where / path.name)
    done(where, "multislice", out=where / "earlier", settings={"epochs": 8}).result().save(
        where / "earlier" / "result.h5"
    )
    return where


def simulate_grid(scan):
    return replace(scan, grid=GRID)


def done(where, case, *, out=None, settings=None):
    """A finished job of an example."""
    job = Job.begin(Reconstruct.from_path(where / f"{case}.yaml", settings), out)
    for _ in job:
        pass
    return job


def correlation(result, folder, *, anywhere=False):
    """With the true summed phase in the scanned field."""
    truth = np.load(folder / "truth.npy")
    if anywhere:  # another frame: positions of a plain array start at zero
        shift = truth_frame()
        result = replace(
            result, origin=tuple(np.array(result.origin) + shift), positions=result.positions + shift
        )
    return compare_with_truth(result, truth).error.pearson


def truth_frame():
    positions, _ = specimen(1)
    return positions.min(0) - simulate.raster(GRID, 0.5).min(0)


@pytest.fixture(scope="module")
def runs(folder):
    """Results by case, each run once."""
    known = {}

    def of(case):
        if case not in known:
            known[case] = done(folder, case, out=folder / f"run-{case}")
        return known[case]

    return of


@pytest.mark.medium
@pytest.mark.parametrize("case", CASES)
def test_example_runs_and_finds_the_specimen(runs, folder, case):
    job = runs(case)
    result = job.result()
    losses = [event["loss"] for event in result.history]
    assert min(losses[1:]) < losses[0]  # the last epoch learns from patterns held out before
    if case in BEST and case != "single_slice":
        assert np.isfinite(result.object).all()
        return
    assert correlation(result, folder, anywhere=case == "streaming") > BEST.get(case, GOOD)


def test_positive_phases(runs):
    assert runs("positivity").model.object.phase.min() >= 0


def test_amplitudes_within_the_threshold(runs):
    amplitude = runs("amplitude_threshold").model.object.amplitude
    assert amplitude.min() >= 0.98
    assert amplitude.max() <= 1.02


def test_a_sparse_object_has_less_phase(runs, folder):
    """Against the same run without the penalty."""
    free = done(folder, "sparsity", settings={"penalties": []}).model.object.phase
    assert runs("sparsity").model.object.phase.abs().mean() < 0.97 * free.abs().mean()


def test_padding_and_resampling_change_the_number_of_slices(runs):
    assert runs("pad_vacuum").model.object.phase.shape[1] == 6
    assert runs("resample_depth").model.object.phase.shape[1] == 6
    deep = [
        sum(runs(case).model.object.gaps) / slices
        for case, slices in (("multislice", 2), ("resample_depth", 5))
    ]
    assert deep[1] == pytest.approx(deep[0] / 2, rel=0.05)


def test_streamed_patterns_stay_integers_in_the_file(runs):
    counts = runs("streaming").scan.counts
    assert not isinstance(counts, np.ndarray)
    assert counts.dtype == np.uint16


def test_outputs_are_written(runs, folder):
    from phaseloom.reconstruction import result_builder as outcome

    job = runs("mixed_object")
    made = outcome.write_outputs(job, job.result())
    assert any(path.suffix == ".tif" for path in made)
    assert any(path.suffix == ".hdf5" for path in made)
    assert job.result().object_modes.shape[0] == 2


def test_resuming_is_exact(runs, folder):
    """Starting from a result changes nothing: no jitter, no second affine map, no interpolation."""
    from phaseloom.result import load

    earlier = load(folder / "earlier" / "result.h5")
    job = Job.begin(Reconstruct.from_path(folder / "resume.yaml"), None)
    np.testing.assert_allclose(job.model.scan.angstrom(), earlier.positions, atol=1e-5)
    rows, columns = earlier.window
    first = np.round((np.array(earlier.origin) - job.model.scan.canvas.origin) / earlier.pixel).astype(int)
    mine = job.model.object.transmission().detach().numpy()[0]
    mine = mine[
        :, rows.start + first[0] : rows.stop + first[0], columns.start + first[1] : columns.stop + first[1]
    ]
    np.testing.assert_allclose(mine, earlier.object[:, rows, columns], atol=1e-5)
    left = job.level.likelihood.measure_residuals()["amplitude"]
    assert left == pytest.approx(earlier.metrics["amplitude error"], rel=1e-3)
