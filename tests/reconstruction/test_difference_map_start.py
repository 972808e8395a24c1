"""A start that stays far from the noise is tried with the probe and the object of a difference map."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.start_search import ANGLE, WAVELENGTH, draw_scan, focus_probe, score_object
from benchmarks.values_in_any_unit import set_unit
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics.fourier import to_reciprocal
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts import difference_map_start
from phaseloom.reconstruction.starts.difference_map_start import BOTH, FLAT, describe_difference_map

SEED = 705
"""A diffuser, a detector of 64 pixels: its search ends at 3.4 times noise, its run in a wrong minimum."""


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def run(recipe, scan, **knobs):
    job = Job.begin(recipe, scan=scan, **knobs)
    for _ in job:
        pass
    return job


@pytest.fixture(scope="module")
def drawn():
    return draw_scan(SEED)


@pytest.fixture(scope="module")
def job(drawn):
    torch.set_num_threads(1)
    return run(Reconstruct.of({"device": "cpu"}), drawn[0])


@pytest.mark.medium
class TestARunFarFromTheNoise:
    def test_ends_right_with_it_and_wrong_without(self, drawn, job, monkeypatch):
        scan, _, truth, places = drawn
        assert job.recorded.found["difference_map"]["taken"] != FLAT
        assert score_object(job.result(), scan, truth, places) > 0.95
        assert job.result().metrics["loss"] < 1.1
        assert any("difference map" in line for line in job.start_lines())
        monkeypatch.setattr(difference_map_start, "DUE_LOSS", np.inf)
        without = run(Reconstruct.of({"device": "cpu"}), scan)
        assert "difference_map" not in without.recorded.found
        assert score_object(without.result(), scan, truth, places) < 0.5

    def test_is_repeated_and_resumed_to_the_same_bits(self, drawn, job, tmp_path):
        recipe = job.recorded.model_copy(update={"epochs": 2, "levels": 0})
        first = run(recipe, drawn[0])
        assert first.start is None  # nothing is looked for again
        again = run(Reconstruct.of({**recipe.to_tree(), "file": "in memory"}), drawn[0])
        assert torch.equal(first.model.probe.modes(), again.model.probe.modes())
        kept = tmp_path / "run"
        with Job.begin(recipe, kept, scan=drawn[0])._lock:
            pass  # killed before its first epoch
        resumed = Job.resume(kept, scan=drawn[0])
        for _ in resumed:
            pass
        assert torch.equal(first.model.probe.modes(), resumed.model.probe.modes())


@pytest.mark.medium
def test_a_start_close_to_the_noise_is_left_alone(job, monkeypatch):
    level, start = job.finest, job.start
    assert not difference_map_start.is_difference_map_due(level, replace(start, loss=1.9))
    assert difference_map_start.is_difference_map_due(level, replace(start, loss=2.1, unexplained=0.0))
    assert not difference_map_start.is_difference_map_due(level, None)
    monkeypatch.setattr(level.likelihood, "counts_are_whole", False)  # a dark level was taken off
    for loss, is_due in ((0.01, True), (1.2, False), (3.0, True)):
        left = replace(start, loss=loss, unexplained=0.2)
        assert difference_map_start.is_difference_map_due(level, left) == is_due


@pytest.mark.medium
@pytest.mark.parametrize(("seed", "is_due"), [(905, True), (901, False)])
def test_values_that_are_not_counts_have_no_unit(seed, is_due, monkeypatch):
    """A start that leaves 15 % of what differs between patterns is far off, one that leaves 1 % is not."""
    scan = draw_scan(seed, noisy=False)[0]
    tried = []
    monkeypatch.setattr(difference_map_start, "run_difference_map", lambda *_: tried.append(True))
    for factor in (1e-4, 1.0, 1e6):  # but for those that look like counts
        tried.clear()
        Job.begin(Reconstruct.of({"device": "cpu"}), scan=set_unit(scan, factor))
        assert bool(tried) == is_due, factor


@pytest.mark.medium
def test_a_probe_that_wandered_comes_back(job):
    """Object and probe may move together: patterns stay the same, and places of the image would not."""
    model = copy.deepcopy(job.model)
    start = model.probe.modes().detach().clone()
    with torch.no_grad():
        model.probe.set_modes(3 * start.roll((2, -3), (-2, -1)))
        model.object.set_transmission(model.object.transmission().roll((2, -3), (-2, -1)) / 3)
    modes, wave = difference_map_start._settle(model, start)
    scale = float(job.model.median_modulus()[0])
    assert torch.allclose(modes, scale * start, rtol=0.02, atol=0.02 * float(start.abs().max()))
    lit = torch.as_tensor(job.model.coverage() > 0.3 * job.model.coverage().max())
    wanted = job.model.object.transmission() / scale
    assert torch.allclose(wave[..., lit], wanted[..., lit], atol=0.03)


@pytest.mark.medium
@pytest.mark.parametrize(("aperture", "grids"), [(0.3, 2), (0.8, 1)])
def test_half_of_the_detector_that_is_empty_costs_nothing(aperture, grids, monkeypatch):
    """The map sees pixels twice as wide; the run takes over what it found on its own."""
    q = (np.arange(128) - 64) * ANGLE
    edge = aperture * 64 * ANGLE
    probe = focus_probe(q[:, None] ** 2 + q**2 < edge**2, 0.0)
    pattern = 1e5 * abs(np.fft.fftshift(np.fft.fft2(probe, norm="ortho"))) ** 2
    pixel = WAVELENGTH / (128 * ANGLE)
    scan = Scan4D(
        counts=np.random.default_rng(0).poisson(pattern, (16, 128, 128)).astype(np.float32),
        positions=np.indices((4, 4)).reshape(2, -1).T * 2.0 * pixel,
        geometry=Geometry(wavelength=WAVELENGTH, shape=(128, 128), angle=(ANGLE, ANGLE), beam="photon"),
        probe=(316 * probe).astype(np.complex64)[None],
        oriented=True,
    )
    job = Job.begin(Reconstruct.of({"device": "cpu", "start": "none"}), scan=scan)
    seen = []

    def find(level, recipe):
        modes = level.model.probe.modes()
        seen.append(modes.shape[-1])
        return 1j * modes, (0.5 + 0.5j) * torch.ones_like(level.model.object.transmission())

    monkeypatch.setattr(difference_map_start, "run_difference_map", find)
    monkeypatch.setattr(difference_map_start, "choose", lambda comparison: BOTH)
    before = to_reciprocal(job.model.probe.modes().detach())
    recipe = difference_map_start.use_difference_map(job.level, job.recorded, job.holdout)
    assert recipe.found["difference_map"]["taken"] == BOTH
    assert seen == [128 // grids]
    after = to_reciprocal(job.model.probe.modes().detach())
    assert after.shape == before.shape
    inner = before.abs() > 0.1 * before.abs().max()
    assert torch.allclose(after[inner], 1j * before[inner], atol=0.01 * float(before.abs().max()))
    wave = job.model.object.transmission()[0, 0]
    assert torch.allclose(wave[20:60, 20:60], torch.tensor(0.5 + 0.5j), atol=0.1)


def test_the_sentence_says_what_was_taken_and_why():
    losses = {"flat": 52.41, "probe": 78.83, "probe and object": 4.281}
    text = describe_difference_map({"taken": "probe and object", "losses": losses, "epochs": 5})
    assert text.startswith("start: far from the noise; begins with probe and object of a difference map")
    assert "52.41 as found" in text
    assert "4.281 with its probe and object" in text
    text = describe_difference_map({"taken": FLAT, "losses": losses, "epochs": 5})
    assert "begins as found, not with a difference map" in text


@pytest.mark.medium
@pytest.mark.parametrize(
    "settings",
    [
        {"compare_starts": False},
        {"probe": {"relaxed": {"basis": 2}}},
        {"detector": {"counting": {"blur": 0.5}}},
    ],
)
def test_what_engines_cannot_do_begins_as_found(drawn, settings):
    """A model that no engine takes would have ended a run that had begun without one."""
    job = Job.begin(Reconstruct.of({"device": "cpu", **settings}), scan=drawn[0])
    assert job.start is not None
    assert "difference_map" not in job.recorded.found
