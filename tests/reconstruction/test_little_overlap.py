"""Scans whose beams hardly overlap: no pattern can be judged by the others."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import cases, ours
from benchmarks.score import score
from phaseloom.reconstruction.level import MIN_PATTERNS_ON_PLACE, count_patterns_on_place
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.result_builder import judge_run


def make_job(folder, *, step: float, scan: tuple[int, int], dose: float = 1e6, **settings):
    """A job on a scan of `benchmarks.cases`, which has nothing of ours, and the truth."""
    case = cases.made(replace(cases.CASES["S37"], step=step, scan=scan, dose=dose), object_seed=11)
    path = folder / f"step-{step}.npz"
    np.savez(path, **{name: value for name, value in case.items() if name not in ours.HIDDEN})
    chosen = {"off": 40.0, "epochs": 40, "seed": 0, "tree": settings}
    return Job.begin(Reconstruct.of(ours.tree(path, case, chosen))), case


@pytest.mark.parametrize(("step", "is_held_out"), [(0.5, True), (2.1, True), (3.15, False), (8.0, False)])
def test_patterns_are_held_out_where_others_see_the_same(tmp_path, step, is_held_out, caplog):
    job, _ = make_job(tmp_path, step=step, scan=(6, 6))
    assert (len(job.holdout) > 0) == is_held_out
    assert (count_patterns_on_place(job.model) > MIN_PATTERNS_ON_PLACE) == is_held_out
    assert ("overlap so little" in caplog.text) != is_held_out
    # the probe that a run begins with may be focused though the beam is wide
    assert ("the probe that the run begins with" in caplog.text) != is_held_out
    assert (f"{count_patterns_on_place(job.model):.2g} patterns see a place" in caplog.text) != is_held_out
    assert (job.recorded.holdout > 0) == is_held_out  # a run that repeats or resumes it does the same


def test_what_the_recipe_says_of_patterns_held_out_is_done(tmp_path):
    job, _ = make_job(tmp_path, step=3.15, scan=(6, 6), holdout=0.1)
    assert len(job.holdout) == 4


def test_beams_apart_are_alone_and_many_on_one_place_are_many(tmp_path):
    apart, _ = make_job(tmp_path, step=20.0, scan=(3, 3))
    assert count_patterns_on_place(apart.model) == pytest.approx(1, abs=0.02)
    close, _ = make_job(tmp_path, step=0.01, scan=(3, 3))
    assert count_patterns_on_place(close.model) == pytest.approx(9, rel=0.05)


@pytest.mark.medium
@pytest.mark.parametrize(("dose", "verdict"), [(1e6, "converged"), (1e4, "doubtful")])
def test_44_percent_overlap_show_the_object_to_many_electrons(tmp_path, dose, verdict):
    """Of few electrons the run follows noise, and no pattern held out could tell: it must not say converged.

    A raster so wide folds the object's details, and its direct image once called the good one a wrong start.
    """
    job, case = make_job(tmp_path, step=2.8, scan=(12, 12), dose=dose)
    for _ in job:
        pass
    phase, places = ours.state(job, float(case["dx"]))
    error = score(phase, places, case["obj_phase"], case["pos_px"])["error"]
    assert error < 0.2 if verdict == "converged" else error > 0.3
    assert job.first_image is not None
    assert not job.first_image.found.is_folded  # its places are as fine as the aperture resolves
    assert judge_run(job).verdict == verdict
