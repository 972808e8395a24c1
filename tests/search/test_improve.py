"""What a model lacks is found by patterns held out, and nothing is added that the data do not ask for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.data.counts import load_counts
from phaseloom.errors import BadInput
from phaseloom.fitting.outcome import Stop, StopReason
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.search import improve as module
from phaseloom.search.improve import LADDER, Attempt, improve
from phaseloom.simulation import simulate

PIXEL = 0.2
OPTICS = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e5}
PROBE = {"focused": {"semiangle": "30 mrad", "defocus": "6 nm", "modes": 1}}
SETTINGS = {"probe": PROBE, "start": "none", "epochs": 12}


def make_scan(*, source=0.0, background=0.0, wobble=0.0, grid=(12, 12)):
    """Electrons on atoms, from a source of four points; a dark current is added, and doses vary."""
    positions = simulate.raster(grid, 0.6) + 5.0
    truth = simulate.atoms((90, 90), PIXEL, peak=0.3, seed=4)
    rng = np.random.default_rng(6)
    scan: Any = None
    counts = np.zeros((len(positions), OPTICS["window"], OPTICS["window"]), int)
    for number, shift in enumerate(((-1, -1), (-1, 1), (1, -1), (1, 1))):
        point = {**OPTICS, "dose": OPTICS["dose"] / 4, "seed": number}
        scan, _ = simulate.electron_scan(truth, PIXEL, positions + source * np.array(shift), **point)
        counts += load_counts(scan.counts).astype(int)
    dose = rng.uniform(1 - wobble, 1, len(counts))[:, None, None]
    counts = rng.binomial(counts, dose) + rng.poisson(background, counts.shape)
    return replace(scan, counts=counts.astype(np.uint32), positions=positions, probe=None)


def find(scan, **changes):
    torch.set_num_threads(1)
    return improve(Job.begin(Reconstruct.of(SETTINGS | changes), scan=scan))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scan", "wanted"),
    [
        ({}, []),
        ({"source": 0.25}, ["modes"]),
        ({"background": 4.0, "wobble": 0.2}, ["background", "weights"]),
    ],
    ids=["nothing", "finite source", "background and doses"],
)
def test_what_the_patterns_lack_is_found_and_nothing_else(scan, wanted):
    found = find(make_scan(**scan))
    assert sorted(attempt.addition for attempt in found.kept) == sorted(wanted)
    assert found.final.loss == pytest.approx(1.0, abs=0.15)
    whole = found.recipe.to_tree()
    assert whole["epochs"] == SETTINGS["epochs"]
    assert whole.get("holdout", 0.05) == 0.05
    assert ("background" in whole["rates"]) is ("background" in wanted)
    assert (whole["probe"]["focused"]["modes"] > 1) is ("modes" in wanted)
    lines = found.lines()
    assert lines[0].startswith("helped: " if wanted else "nothing helped: ")


NOTHING: Any = None


def run_script(monkeypatch, losses):
    """A climb in which runs end as told: losses of 40 patterns by the names of additions."""
    scatter = np.random.default_rng(0).normal(0, 0.01, 40)

    class Stand:
        def __init__(self, has):
            self.has = has

    def run(name, settings, before, scan):
        value = losses["".join(sorted(settings))]
        job: Any = Stand(settings)
        return module._Run(Attempt(name, loss=value, seconds=1.0), torch.from_numpy(value + scatter), job)

    def once(path):
        return lambda job: None if path in job.has else {path: 1}

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "LADDER", {name: once(name) for name in "abc"})
    climb = module._Climb(NOTHING, NOTHING, lambda line: None)
    climb.add_what_helps()
    climb.leave_out_each()
    return climb


def test_an_addition_that_later_ones_make_superfluous_is_left_out(monkeypatch):
    """``a`` gains most at first, standing in for ``b`` and ``c``: with both it gains nothing."""
    losses = {"": 2.0, "a": 1.4, "b": 1.5, "c": 1.6, "ab": 1.2, "ac": 1.3, "abc": 1.0, "bc": 1.0}
    climb = run_script(monkeypatch, losses)
    assert list(climb.kept) == ["b", "c"]
    assert climb.now.attempt.loss == 1.0


def test_additions_that_all_help_stay_and_rivals_are_named(monkeypatch):
    losses = {"": 2.0, "a": 1.5, "b": 1.45, "c": 2.5, "ab": 1.0, "abc": 0.998}
    climb = run_script(monkeypatch, losses)
    assert list(climb.kept) == ["b", "a"]
    assert climb.kept["b"].rivals == ("a",)
    tried = [attempt.name for attempt in climb.attempts]
    assert tried == ["as it is", "a", "b", "c", "a", "without b"]  # c was harmful


def test_an_interruption_keeps_what_was_found(monkeypatch):
    """Ctrl-C within the fifth run: the background that the first round kept is in the recipe."""
    made = []
    run = module._run

    def stop_at_the_fifth(name, *rest):
        made.append(name)
        if len(made) == 5:
            raise KeyboardInterrupt
        return run(name, *rest)

    monkeypatch.setattr(module, "_run", stop_at_the_fifth)
    ladder = {name: LADDER[name] for name in ("background", "weights")}
    monkeypatch.setattr(module, "LADDER", ladder)
    scan = make_scan(grid=(8, 8), background=10.0, wobble=0.3)
    found = improve(Job.begin(Reconstruct.of(SETTINGS), scan=scan), epochs=12)
    assert not found.is_complete
    assert found.kept
    assert found.lines()[0].startswith("interrupted")
    assert set(found.recipe.to_tree()["rates"]) > {one.addition for one in found.kept}


def test_a_run_that_is_interrupted_is_not_taken_for_one_that_ended(monkeypatch):
    monkeypatch.setattr(module, "LADDER", {})
    interrupt = Job.__iter__

    def stop_after_three(self):
        for epoch in interrupt(self):
            yield epoch
            if epoch.number == 3:
                self.progress.stop = Stop(StopReason.INTERRUPTED, "interrupted after epoch 3")
                return

    monkeypatch.setattr(Job, "__iter__", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        improve(Job.begin(Reconstruct.of(SETTINGS), scan=make_scan(grid=(8, 8))), epochs=12)


@pytest.mark.parametrize(
    ("gain", "scatter", "helps"),
    [(0.1, 0.05, True), (0.1, 0.5, False), (0.004, 0.001, False), (-0.1, 0.05, False)],
    ids=["clear", "within the scatter", "less than half a per cent", "worse"],
)
def test_an_addition_is_judged_by_paired_differences(gain, scatter, helps):
    """Patterns differ by more than the gain: each is compared with itself."""
    rng = np.random.default_rng(1)
    before = torch.from_numpy(1 + rng.uniform(0, 1, 60) - 0.5)
    noise = torch.from_numpy(rng.normal(0, scatter, 60))
    judged = module._compare(Attempt("more"), before, before - gain - (noise - noise.mean()))
    assert judged.gain == pytest.approx(gain)
    assert judged.helps is helps


def test_a_background_of_hardly_any_counts_is_not_believed():
    """Few patterns of a scan without a background are predicted better with 0.02 % of one."""
    job = Job.begin(Reconstruct.of(SETTINGS | {"rates": {"background": 0.2}}), scan=make_scan(grid=(8, 8)))
    mean = float(job.scan.mean_pattern().mean())
    detector = job.model.detector
    for share, doubts in ((0.001, True), (0.01, False)):
        with torch.no_grad():
            now = detector.background()
            factor = share * mean / float(now.mean())
            monkey = now * factor
        detector.background = lambda value=monkey: value
        assert bool(module._find_doubt("background", job)) is doubts
        assert not module._find_doubt("modes", job)


def test_every_addition_is_refused_or_changes_the_model():
    """What is proposed can be set; what the model has is not proposed again."""
    job = Job.begin(
        Reconstruct.of(SETTINGS | {"object": {"pixels": {"kind": "phase"}}, "rates": {"positions": 0}}),
        scan=make_scan(grid=(8, 8)),
    )
    for name, propose in LADDER.items():
        addition = propose(job)
        if name == "changing probe":
            assert addition is None
            continue
        assert addition is not None, name
        changed = job.recorded.with_settings(addition)
        again = propose(Job(changed, job.finest.scan, None, None))
        assert again is None or (name in ("modes", "blur") and again != addition), name


def test_few_patterns_and_no_noise_model_are_refused():
    with pytest.raises(BadInput, match=r"25 patterns .*60 or more"):
        find(make_scan(grid=(5, 5)))
    with pytest.raises(BadInput, match="noise model"):
        find(make_scan(grid=(8, 8)), noise="none", penalties=[{"relative_gaussian": {}}])
