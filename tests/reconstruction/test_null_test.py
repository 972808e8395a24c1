"""Whether places matter, the sign of the phase of a run, and what both make of its verdict."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.calibration.twin_of_run import judge_twin_of_run
from phaseloom.data import prepare
from phaseloom.direct.twin import TwinEvidence
from phaseloom.fitting.outcome import Verdict
from phaseloom.reconstruction import evidence
from phaseloom.reconstruction.evidence import (
    Comparison,
    Evidence,
    NullTest,
    doubt_places,
    doubt_twin,
    shuffle_places,
)
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

PIXEL = 0.2
GRID = (16, 17)
DEFOCUS = 80.0

RIGHT = Comparison(False, 0.01, 1.01, 80.0, 5.0, agreement=0.6, gain=5e3, depth_of_focus=46.0)


@pytest.fixture(scope="module")
def scan():
    positions = simulate.raster(GRID, 0.5)
    positions += 8.0 - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + 8.0) / PIXEL))
    truth = simulate.atoms((size[0], size[1]), PIXEL, peak=0.3, seed=4)
    beam = {"energy": 80e3, "semiangle": 0.03, "defocus": DEFOCUS, "window": 64, "dose": 1e5}
    return replace(simulate.electron_scan(truth, PIXEL, positions, **beam)[0], grid=GRID)


def run(scan, defocus: float = DEFOCUS, epochs: int = 12) -> Job:
    probe = {"focused": {"semiangle": "30 mrad", "defocus": f"{defocus} A", "modes": 1}}
    tree = {"probe": probe, "start": "none", "levels": 0, "preset": "none", "epochs": epochs}
    job = Job.begin(Reconstruct.of(tree), scan=scan)
    for _ in job:
        pass
    return job


@pytest.fixture(scope="module")
def right(scan) -> Job:
    return run(scan)


@pytest.fixture
def of_any_length(monkeypatch):
    """Let small runs be tested too."""
    monkeypatch.setattr(evidence, "MAX_WORK_OF_NULL", 1.0)


def test_right_places_leave_less_than_exchanged_ones(right, of_any_length):
    before = {name: value.clone() for name, value in right.model.state_dict().items()}
    state = torch.get_rng_state()
    found = shuffle_places(right.recipe, right.scan, right.model, 12)
    assert found.patterns == 256
    assert found.explained > 0.7
    assert found.left < 0.5
    assert not doubt_places(found)
    after = right.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert found == shuffle_places(right.recipe, right.scan, right.model, 12)


@pytest.mark.medium
def test_places_of_other_patterns_are_no_better_than_any(scan, of_any_length):
    order = np.random.default_rng(1).permutation(len(scan))
    job = run(replace(scan, positions=scan.positions[order], grid=None))
    found = shuffle_places(job.recipe, job.scan, job.model, 12)
    assert found.left > 0.8
    (doubt,) = doubt_places(found)
    assert doubt.verdict is Verdict.DOUBTFUL
    assert "exchanged" in doubt.sentence
    assert "exchanged" in job.result().verdict


def test_it_costs_at_most_a_tenth_of_the_run(right):
    assert shuffle_places(right.recipe, right.scan, right.model, 12) is None  # 21 patterns would be left
    work = 2 * evidence.EPOCHS_OF_NULL * evidence.MAX_PATTERNS_OF_NULL
    assert work <= 0.1 * 20 * 2000


def test_patterns_of_noise_alone_tell_nothing(scan, of_any_length):
    mean = np.broadcast_to(scan.mean_pattern() * 1e-2, scan.counts.shape)
    empty = replace(scan, counts=np.random.default_rng(0).poisson(mean).astype(np.float32))
    job = run(empty, epochs=2)
    assert shuffle_places(job.recipe, job.scan, job.model, 12) is None


def test_the_phase_of_a_run_tells_its_twin(scan, right):
    turned = prepare.flip(prepare.flip(scan, axis="y"), axis="x")
    twin = run(turned, -DEFOCUS)
    for job, sign in ((right, 1), (twin, -1)):
        found = judge_twin_of_run(job.scan, job.model, semiangle=0.03)
        assert found.is_clear
        assert found.sign == sign
        assert abs(found.dark_field) > 8
    assert right.result().verdict_code in ("converged", "still_falling")
    result = twin.result()
    assert result.verdict_code == "wrong_start"
    assert "dark field" in result.verdict
    assert judge_twin_of_run(replace(scan, grid=None), right.model, semiangle=0.03).dark_field is None


@pytest.mark.parametrize(
    ("direct", "of_run", "sign"),
    [
        (TwinEvidence(0.0, -7.0), TwinEvidence(8.0, 7.2), 1),  # the run decides
        (TwinEvidence(0.0, -7.0), TwinEvidence(0.5, 0.5), -1),
        (TwinEvidence(11.3, -7.0), TwinEvidence(0.0, 0.0), 1),  # as clear peaks contradict: both together
        (TwinEvidence(0.0, None), TwinEvidence(-4.0, None), 0),
        (TwinEvidence(-2.0, -2.4), TwinEvidence(-3.7, -1.1), -1),  # what none decides, all do
        (TwinEvidence(-4.2, 0.4), TwinEvidence(0.4, 2.0), 0),
        (TwinEvidence(3.5, None), None, 1),
    ],
)
def test_a_clear_run_overrules_a_direct_image(direct, of_run, sign):
    assert direct.combine(of_run).sign == sign


def test_doubts_about_a_run_have_an_order():
    twin = TwinEvidence(-9.0, -20.0)
    null = NullTest(0.3, 0.25, 200)
    good = NullTest(0.9, 0.25, 200)
    assert Evidence(RIGHT, None, good).find_doubts() == ()
    assert [one.verdict for one in Evidence(RIGHT, None, null).find_doubts()] == [Verdict.DOUBTFUL]
    assert "twin" in Evidence(RIGHT, twin, null).find_doubts()[0].sentence
    assert len(Evidence(RIGHT, twin, null).find_doubts()) == 1
    same = replace(RIGHT, agreement=0.9)
    assert Evidence(same, None, null).find_doubts() == ()  # the direct image shows the same
    assert not doubt_twin(TwinEvidence(12.0, -20.0))  # peaks contradict
    assert [one.verdict for one in doubt_twin(TwinEvidence(0.0, -6.0))] == [Verdict.DOUBTFUL]
    assert [one.verdict for one in doubt_twin(TwinEvidence(-1.0, -4.0))] == [Verdict.DOUBTFUL]
    assert not doubt_twin(TwinEvidence(1.0, -4.0))
    assert not doubt_twin(TwinEvidence(-14.0, None))  # peaks alone had the wrong sign
    assert Evidence().find_doubts() == ()


@pytest.mark.parametrize(
    ("twin", "verdicts"),
    [
        (None, [Verdict.DOUBTFUL]),
        (TwinEvidence(0.5, 1.0), [Verdict.DOUBTFUL]),
        (TwinEvidence(-2.0, -4.0), [Verdict.DOUBTFUL]),
        (TwinEvidence(14.4, -1.3), [Verdict.DOUBTFUL]),  # holes of a lattice taken for pits
        (TwinEvidence(9.0, None), [Verdict.DOUBTFUL]),
        (TwinEvidence(4.0, 3.5), []),
        (TwinEvidence(0.0, 6.0), []),  # the phase of the run decides, though that of the start did not
        (TwinEvidence(0.0, -9.0), [Verdict.WRONG_START]),
    ],
)
def test_a_run_whose_twin_nothing_decided_is_doubtful(twin, verdicts):
    same = replace(RIGHT, agreement=0.9)  # of the better twin, so that it says nothing of the sign
    doubts = Evidence(same, twin, None, is_twin_open=True).find_doubts()
    assert [one.verdict for one in doubts] == verdicts
    assert all("twin" in one.sentence for one in doubts)


def test_a_step_that_explains_less_than_another_is_doubtful():
    same = replace(RIGHT, agreement=0.9)
    (doubt,) = Evidence(same, suggested_step=0.88).find_doubts()
    assert doubt.verdict is Verdict.DOUBTFUL
    assert "a step -12 % as long" in doubt.sentence
    assert not Evidence(same, suggested_step=0.88).is_confirmed
    assert Evidence(same, suggested_step=0.97).find_doubts() == ()  # the run has moved towards it
    twin = TwinEvidence(0.0, -9.0)
    assert [one.verdict for one in Evidence(same, twin, suggested_step=0.88).find_doubts()] == [
        Verdict.WRONG_START
    ]


def test_what_a_calibration_left_undecided_reaches_the_verdict(scan):
    probe = {"focused": {"semiangle": "30 mrad", "defocus": f"{DEFOCUS} A", "modes": 1}}
    tree = {"probe": probe, "start": "none", "levels": 0, "preset": "none", "epochs": 8}
    found = {"calibrate": {"twin": "as given"}, "undecided": ["twin"], "suggested_step": 0.9}
    recipe = Reconstruct.of({**tree, "found": found})
    job = Job.begin(recipe, scan=replace(scan, grid=None))
    for _ in job:
        pass
    assert job.evidence.is_twin_open
    assert job.evidence.suggested_step == 0.9
    assert not run(scan, epochs=8).evidence.is_twin_open


def test_positions_stay_where_nothing_of_the_object_is_seen(scan, caplog):
    rng = np.random.default_rng(0)
    few = replace(scan, counts=rng.poisson(2e-3 * np.asarray(scan.counts)).astype(np.float32))
    job = run(few, epochs=8)
    assert np.array_equal(job.model.scan.angstrom(), Job.begin(job.recipe, scan=few).model.scan.angstrom())
    assert {change.part for change in job.recipe.changes} == {"positions", "affine"}
    assert all(change.rate == 0 for change in job.recipe.changes)
    assert "positions stay as given; rates: {positions: 1" in caplog.text
    assert job.progress.history[4]["explained"] is None


def test_positions_of_a_stated_rate_move_and_those_of_a_seen_object_too(scan, right):
    rng = np.random.default_rng(0)
    few = replace(scan, counts=rng.poisson(2e-3 * np.asarray(scan.counts)).astype(np.float32))
    probe = {"focused": {"semiangle": "30 mrad", "defocus": f"{DEFOCUS} A", "modes": 1}}
    tree = {"probe": probe, "start": "none", "levels": 0, "preset": "none", "epochs": 7}
    job = Job.begin(Reconstruct.of({**tree, "rates": {"positions": 1.0}}), scan=few)
    for _ in job:
        pass
    assert {change.part for change in job.recipe.changes} == {"affine"}
    assert right.recipe.changes == ()
    share, error = right.progress.history[9]["explained"]
    assert share > 0.7
    assert error < 0.2
    assert right.ended is None or right.ended.metrics["explained"] == share


def test_batches_of_a_large_run_do_not_spoil_the_test(right, of_any_length):
    """The batches of a run on thousands of patterns would leave two updates in an epoch of the test."""
    batch = replace(right.recipe.batch, values={**right.recipe.batch.values, "size": 169})
    large = right.recipe.model_copy(update={"batch": batch})
    assert shuffle_places(large, right.scan, right.model, 12).left < 0.15  # 0.30 with two


def test_lines_that_move_in_the_run_stay_in_the_test(right, of_any_length):
    moving = right.recipe.model_copy(update={"rates": {**right.recipe.rates, "lines": 0.5}})
    assert shuffle_places(moving, right.scan, right.model, 12).left < 0.5
