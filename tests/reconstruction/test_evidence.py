"""What a direct image says against a run."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from phaseloom.calibration.raster import find_completed
from phaseloom.data import calibrate, prepare
from phaseloom.data.scan import Scan4D
from phaseloom.direct import survey
from phaseloom.errors import BadInput
from phaseloom.fitting.outcome import Verdict
from phaseloom.reconstruction import preflight, result_builder
from phaseloom.reconstruction.evidence import (
    Comparison,
    compare_with_direct_image,
    doubt_open_twin,
    doubt_positions,
    find_doubts,
    is_confirmed,
)
from phaseloom.reconstruction.half_data_frc import reconstruct_halves
from phaseloom.reconstruction.protocol import Job, run_in_memory
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

PIXEL = 0.2
GRID = (16, 17)
DEFOCUS = 80.0
DEPTH_OF_FOCUS = 0.0418 / 0.03**2

GOOD = Comparison(
    transposed=False,
    rotation=0.01,
    step=1.01,
    stated=80.0,
    defocus=5.0,
    agreement=0.6,
    gain=5e3,
    depth_of_focus=46.0,
)


@pytest.fixture(scope="module")
def scan():
    """A weak object on a raster, oriented as it should be."""
    positions = simulate.raster(GRID, 0.5)
    positions += 8.0 - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + 8.0) / PIXEL))
    truth = simulate.atoms((size[0], size[1]), PIXEL, peak=0.2, seed=4)
    beam = {"energy": 80e3, "semiangle": 0.03, "defocus": DEFOCUS, "window": 48, "dose": 1e5}
    return replace(simulate.electron_scan(truth, PIXEL, positions, **beam)[0], grid=GRID)


def recipe(defocus: float = DEFOCUS, **settings) -> Reconstruct:
    probe = {"focused": {"semiangle": "30 mrad", "defocus": f"{defocus} A", "modes": 1}}
    return Reconstruct.of({"probe": probe, "start": "none", "levels": 0, **settings})


@pytest.mark.parametrize(
    ("changed", "verdict", "says"),
    [
        ({}, None, ""),
        ({"transposed": True}, Verdict.WRONG_START, "transposed"),
        ({"rotation": 0.3}, Verdict.WRONG_START, "turned by 17.2 degrees"),
        ({"defocus": -160.0}, Verdict.WRONG_START, "opposite sign of the defocus"),
        ({"defocus": -100.0}, Verdict.WRONG_START, "-10 nm more defocus"),
        ({"step": 0.85}, Verdict.WRONG_START, "-15 % as long"),
        ({"agreement": 0.1}, Verdict.DOUBTFUL, "correlation 0.10"),
        ({"agreement": -0.9}, None, ""),  # its twin
        ({"agreement": 0.9, "defocus": -100.0}, None, ""),  # made up for by the probe
        # both images lie along the scan and agree, however the detector is turned
        ({"agreement": 0.9, "rotation": -0.3}, Verdict.WRONG_START, "turned by -17.2 degrees"),
        ({"agreement": 0.9, "transposed": True}, Verdict.WRONG_START, "transposed"),
        ({"agreement": 0.9, "step": 0.85}, None, ""),  # held by what was stated, and may be noise
        (
            {"agreement": 0.9, "step": 0.85, "contradicts_step": True},
            Verdict.WRONG_START,
            "but for its scale",
        ),
        ({"agreement": 0.1, "gain": 40.0}, None, ""),  # a direct image that knows nothing
        ({"stated": None, "defocus": None, "transposed": None}, None, ""),
    ],
)
def test_what_a_comparison_says(changed, verdict, says):
    doubts = find_doubts(replace(GOOD, **changed))
    assert [one.verdict for one in doubts] == ([verdict] if verdict else [])
    assert all(says in one.sentence for one in doubts)
    assert not (doubts and is_confirmed(replace(GOOD, **changed)))


GEOMETRIES = [
    (lambda scan: scan, DEFOCUS, ""),
    (prepare.transpose, DEFOCUS, "transposed"),
    (lambda scan: prepare.rotate(scan, angle=math.radians(15)), DEFOCUS, "turned by -1"),
    (lambda scan: scan, -DEFOCUS, "opposite sign"),
    (lambda scan: scan, DEFOCUS + 3 * DEPTH_OF_FOCUS, "more defocus"),
]
"""What is done to a scan, the defocus that a run takes, and what a comparison says of it."""


@pytest.mark.parametrize(("spoil", "defocus", "says"), GEOMETRIES)
def test_a_wrong_geometry_is_named(scan, spoil, defocus, says):
    job = Job.begin(recipe(defocus, epochs=1), scan=spoil(scan))
    found = compare_with_direct_image(job.recipe, job.model, job.first_image)
    # before the first epoch there is no image to compare
    causes = [one.sentence for one in find_doubts(replace(found, agreement=0.6))]
    assert bool(causes) == bool(says)
    assert not says or says in causes[0]


@pytest.mark.parametrize(("spoil", "defocus", "says"), GEOMETRIES)
def test_a_wrong_geometry_is_named_without_some_patterns_too(scan, spoil, defocus, says):
    """A blank pattern had left runs without the witness."""
    lit = np.delete(np.arange(len(scan)), [20, 75, 76])
    job = Job.begin(recipe(defocus, epochs=1), scan=spoil(scan).select(lit))
    assert job.first_image is not None
    numbers = find_completed(job.scan)
    np.testing.assert_array_equal(numbers, lit)
    found = compare_with_direct_image(job.recipe, job.model, job.first_image, numbers=numbers)
    causes = [one.sentence for one in find_doubts(replace(found, agreement=0.6))]
    assert bool(causes) == bool(says)
    assert not says or says in causes[0]


@pytest.mark.medium
def test_the_verdict_sees_the_direct_image_and_the_dark_field_without_some_patterns(scan):
    lit = np.delete(np.arange(len(scan)), [20, 75, 76])
    jobs = [Job.begin(recipe(epochs=10), scan=one) for one in (scan, scan.select(lit))]
    for job in jobs:
        for _ in job:
            pass
    whole, part = (result_builder.gather_evidence(job) for job in jobs)
    assert part.direct is not None
    assert part.direct.agreement == pytest.approx(whole.direct.agreement, abs=0.05)
    assert part.twin is not None
    assert part.twin.skewness == pytest.approx(whole.twin.skewness, rel=0.2)
    assert (part.twin.dark_field is None) == (whole.twin.dark_field is None)
    assert jobs[1].result().verdict_code in ("converged", "still_falling")


def test_a_raster_with_gaps_that_no_file_states_is_compared_with_its_direct_image_too(scan):
    lit = np.delete(np.arange(len(scan)), [20, 75, 76])
    given = replace(scan.select(lit), raster_places=None)
    job = Job.begin(recipe(epochs=1), scan=given)
    assert job.first_image is not None
    numbers = find_completed(job.scan)
    assert numbers is not None
    np.testing.assert_allclose(job.first_image.scan.positions[numbers], given.positions)
    found = compare_with_direct_image(job.recipe, job.model, job.first_image, numbers=numbers)
    assert find_doubts(replace(found, agreement=0.6)) == ()


def test_positions_in_another_order_are_doubted_and_those_of_a_drifting_raster_are_not(scan):
    rng = np.random.default_rng(0)
    (doubt,) = doubt_positions(replace(scan, positions=rng.permutation(scan.positions)))
    assert "do not follow the raster of 16 x 17" in doubt.sentence
    drift = 2.0 * (np.arange(len(scan)) / len(scan)) ** 2
    moved = prepare.rotate(scan, angle=0.4).positions + drift[:, None] + rng.normal(0, 0.3, (len(scan), 2))
    assert doubt_positions(replace(scan, positions=moved)) == ()
    assert doubt_positions(replace(scan, grid=None, positions=rng.permutation(scan.positions))) == ()
    lit = np.delete(np.arange(len(scan)), [20])
    (doubt,) = doubt_positions(replace(scan, positions=rng.permutation(scan.positions)).select(lit))
    assert "do not follow the raster of 16 x 17" in doubt.sentence


@pytest.mark.medium
def test_the_verdict_of_a_transposed_run_says_so_and_that_of_a_right_one_stands(scan):
    right = Job.begin(recipe(epochs=10), scan=scan)
    wrong = Job.begin(recipe(epochs=10), scan=prepare.transpose(scan))
    for job in (right, wrong):
        for _ in job:
            pass
    good, bad = (job.result() for job in (right, wrong))
    assert good.verdict_code in ("converged", "still_falling")
    assert bad.verdict_code == "wrong_start"
    assert bad.verdict.startswith("wrong start: the direct image wants the detector transposed")
    assert right.progress.history[-1]["verdict"] == good.verdict_code


def test_short_runs_of_a_calibration_make_no_direct_image_and_no_verdict(scan, monkeypatch):
    monkeypatch.setattr(Job, "_direct_image", property(lambda job: pytest.fail("made a direct image")))
    monkeypatch.setattr(result_builder, "judge_run", lambda *_: pytest.fail("judged a run"))
    job = run_in_memory(recipe(epochs=8), scan.select(np.arange(40)))
    assert len(job.progress.history) == 8


def test_halves_make_no_direct_image(scan, monkeypatch):
    """Two runs of which only the images are read."""
    job = Job.begin(recipe(epochs=8), scan=scan)
    monkeypatch.setattr(Job, "_direct_image", property(lambda job: pytest.fail("made a direct image")))
    assert all(len(one.history) == 8 for one in reconstruct_halves(job))


def test_an_open_twin_names_settings_that_can_be_stated_together():
    """The defocus alone, which it named, is refused."""
    (doubt,) = doubt_open_twin(None)
    stated = {"semiangle": "25 mrad", "defocus": "-12 nm"}
    assert all(f"probe.focused.{name}" in doubt.sentence for name in stated)
    assert Reconstruct.of({"file": "scan.h5", "probe": {"focused": stated}}).probe is not None
    with pytest.raises(BadInput, match="semiangle"):
        Reconstruct.of({"file": "scan.h5", "probe": {"focused": {"defocus": "-12 nm"}}})


def test_a_short_run_is_that_of_a_job_without_a_hash_of_its_data(scan, monkeypatch):
    """Blank patterns are left out of both."""
    few = scan.select(np.arange(40))
    few = replace(few, counts=few.counts * (np.arange(40) != 7)[:, None, None])
    whole = Job.begin(recipe(epochs=3, mask="none").with_usual_noise(), scan=few)
    whole.run_epochs()
    monkeypatch.setattr(Scan4D, "digest", lambda scan: pytest.fail("made a hash"))
    short = run_in_memory(recipe(epochs=3, mask="none"), few)
    losses = [[row["loss"] for row in job.progress.history] for job in (whole, short)]
    assert losses[0] == losses[1]
    assert len(short.scan) == 39


def test_one_disk_is_fitted_for_the_checks_of_a_small_scan_and_its_direct_image(monkeypatch):
    """Of more patterns than a mean of a large one is made of."""
    read = []
    truth = simulate.atoms((120, 120), 0.2, peak=0.2, seed=3)
    optics = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e5}
    scan, _ = simulate.electron_scan(truth, 0.2, simulate.raster((24, 24), 0.5) + 4.0, **optics)
    fit = calibrate.fit_disk
    for room in (preflight, survey):
        monkeypatch.setattr(room, "fit_disk", lambda mean, mask: read.append(mean) or fit(mean, mask=mask))
    probe = {"focused": {"semiangle": "30 mrad", "defocus": "6 nm", "modes": 1}}
    stated = Reconstruct.of({"probe": probe, "start": "none", "levels": 0})
    job = Job.begin(stated, scan=replace(scan, grid=(24, 24)))
    preflight.warn_before_run(job, started=False)
    assert job.first_image is not None
    assert len(read) == 2
    np.testing.assert_array_equal(*read)
    assert len(scan) > calibrate.MAX_PATTERNS_FOR_DISK


@pytest.mark.parametrize(
    ("found", "epochs", "is_early"),
    [
        ({}, 7, True),
        ({}, 8, False),
        ({"start": {"taken": "flat"}}, 7, True),
        ({"start": {"taken": "without slow variations"}}, 2, False),
        ({"start": {"taken": "as given"}}, 1, True),
        ({"direct": {"taken": False}}, 7, True),
        ({"direct": {"taken": True}}, 5, False),
    ],
)
def test_runs_that_begin_with_an_image_are_looked_at_early(found, epochs, is_early):
    job = SimpleNamespace(
        recipe=SimpleNamespace(found=found), progress=SimpleNamespace(history=[{}] * epochs)
    )
    assert result_builder._is_early(job) is is_early
