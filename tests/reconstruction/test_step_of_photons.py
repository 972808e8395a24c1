"""Short fits with other steps tell a wrong step of photons, and what they make of a verdict."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.start_search import draw_scan
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
