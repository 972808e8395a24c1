"""Short fits with other steps tell a wrong step of photons, and what they make of a verdict."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.start_search import draw_probe, draw_scan, draw_thickness, record
from phaseloom.data.scan import Scan4D
from phaseloom.fitting.outcome import Verdict
from phaseloom.reconstruction import evidence
from phaseloom.reconstruction.evidence import STEPS, Evidence, StepTest, doubt_steps, try_steps
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

SEED = 802
"""Polygons by a pinhole, 169 patterns of 64 x 64: runs with wrong steps had been *converged*."""


def run(factor: float) -> Job:
    torch.set_num_threads(1)
    scan = draw_scan(SEED)[0]
    job = Job.begin(Reconstruct.of({"device": "cpu"}), scan=replace(scan, positions=factor * scan.positions))
    for _ in job:
        pass
    return job


@pytest.mark.medium
@pytest.mark.parametrize(("factor", "better"), [(1.0, None), (1.25, 0.8), (0.85, 1.1)])
def test_a_wrong_step_is_told_with_the_one_that_is_better(factor, better):
    job = run(factor)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    result = job.result()
    assert job.evidence.steps is not None
    assert job.evidence.steps.better == better
    assert (result.verdict_code == "converged") == (better is None)
    assert ("short fits with steps" in result.verdict) == (better is not None)
    for name, value in job.model.state_dict().items():
        assert torch.equal(value, before[name])


LEFT = (0.2, 0.14, 0.1, 0.15, 0.22)


def steps(*left: float) -> StepTest:
    return StepTest(dict(zip(STEPS, left, strict=True)))


@pytest.mark.parametrize(
    ("left", "better"),
    [
        (LEFT, None),
        ((0.05, 0.07, 0.1, 0.15, 0.22), 0.8),
        ((0.22, 0.15, 0.1, 0.07, 0.09), 1.1),
        ((0.2, 0.14, 0.1, 0.095, 0.22), None),  # hardly better
        (
            (0.12, 0.13, 0.1, 0.08, 0.2),
            None,
        ),  # better by noise: its neighbour is worse than on the other side
    ],
)
def test_another_step_is_better_if_it_leaves_less_and_its_side_does(left, better):
    assert steps(*left).better == better


def test_the_doubt_names_the_factor_and_the_fix():
    assert not doubt_steps(steps(*LEFT))
    (doubt,) = doubt_steps(steps(0.05, 0.07, 0.1, 0.15, 0.22))
    assert doubt.verdict is Verdict.DOUBTFUL
    assert "steps -20 % as long leave 50% less" in doubt.sentence
    assert "prepare: scale: {factor: 0.8}" in doubt.sentence
    assert Evidence(steps=steps(0.05, 0.07, 0.1, 0.15, 0.22)).find_doubts() == (doubt,)


def test_other_scans_are_not_tried(monkeypatch):
    monkeypatch.setattr(evidence, "_fit_shortly", lambda *given: pytest.fail("was tried"))
    scan = draw_scan(SEED)[0]
    recipe = Reconstruct.of({"device": "cpu", "start": "none"})
    model = Job.begin(recipe, scan=scan).model
    others = [
        replace(scan, geometry=replace(scan.geometry, beam="electron")),
        scan.select(np.arange(60)),
        replace(scan, scan_numbers=np.arange(169) // 90),
    ]
    for other in others:
        assert try_steps(recipe, other, model) is None
    engine = Reconstruct.of({"device": "cpu", "optimizer": "epie"})
    assert try_steps(engine, scan, model) is None


ALONG = {(0, 0.87): 0.12, (0, 1.15): 0.2, (1, 0.87): 0.2, (1, 1.15): 0.15}


@pytest.mark.parametrize(
    ("along", "better"),
    [
        (ALONG, None),
        (ALONG | {(0, 0.87): 0.05}, (0, 0.87)),
        (ALONG | {(1, 1.15): 0.06}, (1, 1.15)),
        (ALONG | {(0, 0.87): 0.08, (0, 1.15): 0.09}, None),  # shorter and longer alike: noise
        (ALONG | {(0, 0.87): 0.095}, None),  # hardly better
        ({}, None),
    ],
)
def test_a_step_along_one_axis_is_better_if_its_opposite_is_not(along, better):
    found = replace(steps(*LEFT), along=along)
    assert found.better_axis == better
    doubts = doubt_steps(found)
    assert bool(doubts) == (better is not None)
    if better == (0, 0.87):
        assert "along y alone leave 50% less" in doubts[0].sentence
        assert "scale: {factor: [0.87, 1.0]}" in doubts[0].sentence
    if better == (1, 1.15):
        assert "scale: {factor: [1.0, 1.15]}" in doubts[0].sentence


@pytest.mark.parametrize(("moving", "is_better"), [(None, False), (0.9, False), (2.0, False), (0.4, True)])
def test_a_beam_that_moves_is_better_by_far_or_not_at_all(moving, is_better):
    found = replace(steps(*LEFT), moving=moving)
    assert found.is_motion_better == is_better
    doubts = doubt_steps(found)
    assert bool(doubts) == is_better
    assert not is_better or "state a fly scan (fly: 1" in doubts[0].sentence


@pytest.mark.medium
def test_one_axis_of_the_stage_that_is_too_long_is_named():
    """The picture was stretched, and *converged*."""
    torch.set_num_threads(1)
    scan = draw_scan(SEED)[0]
    job = Job.begin(
        Reconstruct.of({"device": "cpu"}), scan=replace(scan, positions=scan.positions * (1.15, 1))
    )
    for _ in job:
        pass
    result = job.result()
    assert result.verdict_code == "doubtful"
    assert "-13 % as long along y alone" in result.verdict


@pytest.mark.medium
@pytest.mark.parametrize("moves", [True, False])
def test_a_fly_scan_that_is_not_said_to_be_one_is_doubted(moves):
    """Its picture was blurred, and *converged*, as nearly all that differs between patterns is explained."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(5)
    truth = np.exp((1j - 0.1) * draw_thickness(rng, "discs", 140))
    probe, _, _ = draw_probe(rng, "plain", 64)
    corners = np.indices((10, 10)).reshape(2, -1).T * 6.0 + 8
    corners = corners.reshape(10, 10, 2)
    corners[1::2] = corners[1::2, ::-1]
    way = np.zeros_like(corners)
    way[..., 1] = 6.0 * (-1) ** np.arange(10)[:, None]
    corners, way = corners.reshape(-1, 2), way.reshape(-1, 2)
    moments = (np.arange(8) + 0.5) / 8 - 0.5 if moves else np.zeros(1)
    light = 3e5 / len(moments), 0.0
    counts = sum(record(rng, probe, truth, corners + moment * way, light) for moment in moments)
    geometry = replace(draw_scan(SEED)[0].geometry, shape=(64, 64))
    scan = Scan4D(counts=counts, positions=(corners + 32) * geometry.pixel, geometry=geometry)
    job = Job.begin(Reconstruct.of({"device": "cpu"}), scan=scan)
    for _ in job:
        pass
    result = job.result()
    assert job.evidence.steps is not None
    assert job.evidence.steps.moving is not None
    assert job.evidence.steps.is_motion_better == moves
    assert ("state a fly scan" in result.verdict) == moves
    assert (result.verdict_code == "doubtful") == moves
