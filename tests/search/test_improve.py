"""What a model lacks is found by patterns held out, and nothing is added that the data do not ask for."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.near_field_acceptance import read_known
from benchmarks.near_field_scans import draw_case, simulate_case
from phaseloom.data.counts import load_counts
from phaseloom.data.scan import Geometry, Scan4D
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


def spoil(*, dose=1e4, share=0.29, source=0.3, seed=5):
    """Own simulation: a background of a share of the counts, a finite source and a hot pixel."""
    pixels, wavelength, semiangle, defocus, step = 48, 0.025079, 0.02, 120.0, 1.2
    angle = 4 * semiangle / pixels
    pixel = wavelength / angle / pixels
    rng = np.random.default_rng(seed)
    k = np.fft.fftfreq(pixels, pixel)
    theta = wavelength * np.hypot(k[:, None], k)
    aperture = (theta <= semiangle) * np.exp(1j * np.pi / wavelength * defocus * theta**2)
    size = int(16 * step / pixel) + pixels + 24
    rows = np.arange(size) * pixel
    phase = np.zeros((size, size))
    for y, x in rng.uniform(0, size * pixel, (int(0.12 * (size * pixel) ** 2), 2)):
        atom = [np.exp(-((rows - middle) ** 2) / (2 * 0.35**2)) for middle in (y, x)]
        phase += 0.5 * rng.uniform(0.4, 1) * np.outer(*atom)
    positions = np.stack(np.indices((16, 16)), -1).reshape(-1, 2) * step
    patterns = []
    for place in positions:
        pattern = 0.0
        for shift in source * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]):
            at = place + shift + 36 * pixel
            corner = np.round(at / pixel).astype(int)
            rest = at - corner * pixel
            ramp = np.exp(-2j * np.pi * (k[:, None] * rest[0] + k * rest[1]))
            probe = np.fft.fftshift(np.fft.ifft2(aperture * ramp))
            first, last = corner - pixels // 2, corner + pixels // 2
            window = np.exp(1j * phase[first[0] : last[0], first[1] : last[1]])
            pattern = pattern + np.fft.fftshift(np.abs(np.fft.fft2(probe * window)) ** 2)
        patterns.append(pattern)
    expected = np.stack(patterns)
    expected *= dose / expected.sum((1, 2)).mean()
    counts = rng.poisson(expected + share / (1 - share) * dose / pixels**2)
    counts[:, 10, 30] += int(1000 * dose / pixels**2)
    geometry = Geometry(wavelength=wavelength, shape=(pixels, pixels), angle=(angle, angle), beam="electron")
    return Scan4D(counts=counts, positions=positions, geometry=geometry, grid=(16, 16), oriented=False)


@pytest.mark.slow
def test_a_background_is_found_beside_a_finite_source_and_a_hot_pixel(monkeypatch):
    """A calibrated run of few electrons, in which patterns held out show nothing of the object."""
    monkeypatch.setattr(module, "LADDER", {name: LADDER[name] for name in ("background", "weights")})
    torch.set_num_threads(1)
    settings = {"probe": {"focused": {"semiangle": "20 mrad", "defocus": "12 nm"}}, "epochs": 30}
    job = Job.begin(Reconstruct.of(settings), scan=spoil())
    assert not job.scan.mask[10, 30]
    found = improve(job)
    assert [attempt.addition for attempt in found.kept] == ["background"]
    assert not found.shows_object
    assert any(line.startswith("doubtful: patterns held out show nothing") for line in found.lines())


def judge_background(monkeypatch, scan, *, gain, explained):
    """A climb on a scan in which a background changes the loss by so much, by fifty standard errors."""
    scatter = np.random.default_rng(0).normal(0, 0.01, 40)

    def run(name, settings, before, scan):
        losses = torch.from_numpy(1.0 - gain * bool(settings) + scatter)
        job: Any = None
        return module._Run(Attempt(name, loss=1.0), losses, job, explained)

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "_find_doubt", lambda name, job: "")
    monkeypatch.setattr(module, "LADDER", {"background": lambda job: {"rates.background": 0.02}})
    climb = module._Climb(NOTHING, scan, lambda line: None)
    climb._try("background")
    return climb.attempts[-1]


@pytest.mark.parametrize(
    ("share", "gain", "explained", "helps"),
    [
        (
            0.29,
            -0.02,
            None,
            True,
        ),  # nothing of the object is seen, so losses do not refute what the dark shows
        (0.29, -0.02, (0.3, 0.2), True),
        (0.29, 0.0, (0.5, 0.01), True),
        (0.29, -0.02, (0.5, 0.01), False),
        (0.0, 0.0, None, False),
        (0.0, 0.02, (0.5, 0.01), True),
    ],
)
def test_the_dark_part_of_the_detector_asks_for_a_background(monkeypatch, share, gain, explained, helps):
    attempt = judge_background(monkeypatch, spoil_without_source(share), gain=gain, explained=explained)
    assert attempt.helps is helps
    assert bool(attempt.evidence) is (helps and gain <= 0)


def spoil_without_source(share):
    """The same with a mask on the hot pixel, as a run has it."""
    scan = spoil(share=share, source=0.0)
    mask = scan.mask.copy()
    mask[10, 30] = False
    return replace(scan, mask=mask)


def test_what_says_little_is_said_to_say_little():
    attempt = Attempt("as it is", loss=1.0)
    told = {"recipe": NOTHING, "attempts": (attempt,), "kept": (), "final": attempt}
    sure = module.Improvement(**told, patterns=100, held_out=15, explained=(0.5, 0.01))
    assert sure.shows_object
    assert not any(line.startswith("doubtful") for line in sure.lines())
    assert not sure.is_doubtful
    for share in (None, (0.1, 0.1), (-0.2, 0.01)):
        doubtful = replace(sure, explained=share)
        assert any(line.startswith("doubtful") for line in doubtful.lines())
        assert doubtful.is_doubtful


@pytest.mark.parametrize(
    ("short", "run", "settled"),
    [(1.82, 1.10, False), (1.08, 1.02, True), (1.16, 1.02, False), (3.1, 2.5, True), (9.0, None, True)],
)
def test_short_runs_that_come_less_far_than_the_run_itself_are_doubted(short, run, settled):
    attempt = Attempt("as it is", loss=short)
    told = {"recipe": NOTHING, "attempts": (attempt,), "kept": (), "final": attempt, "loss_of_run": run}
    found = module.Improvement(**told, patterns=100, held_out=15, explained=(0.5, 0.01))
    assert found.is_settled is settled
    assert any("settle sooner" in line for line in found.lines()) is not settled
    assert found.is_doubtful is not settled


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


def test_of_equal_gains_the_one_with_fewer_numbers_is_kept(monkeypatch):
    """A flickering flux was explained by a probe that changes from pattern to pattern."""
    rng = np.random.default_rng(0)
    draws = {name: torch.from_numpy(rng.normal(0, 0.05, 40)) for name in ("", "a", "b", "ab")}
    losses = {"": 1.07, "a": 1.0280, "b": 1.0300, "ab": 1.0279}
    numbers = {"": 100, "a": 900, "b": 120, "ab": 1000}

    def run(name, settings, before, scan):
        has = "".join(sorted(settings))
        each = losses[has] + draws[""] * (has == "") + 0.1 * draws[has]
        job: Any = SimpleNamespace(has=settings)
        return module._Run(Attempt(name, loss=float(each.mean()), seconds=1.0), each, job, None, numbers[has])

    def once(path):
        return lambda job: None if path in job.has else {path: 1}

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "LADDER", {name: once(name) for name in "ab"})
    climb = module._Climb(NOTHING, NOTHING, lambda line: None)
    climb.add_what_helps()
    assert list(climb.kept) == ["b"]
    assert climb.kept["b"].rivals == ("a",)
    losses["b"] = 1.05  # now it is clearly the lesser
    again = module._Climb(NOTHING, NOTHING, lambda line: None)
    again.add_what_helps()
    assert next(iter(again.kept)) == "a"


def test_a_probe_that_changes_is_not_asked_for_more_modes_than_its_basis_has():
    job = Job.begin(
        Reconstruct.of(SETTINGS | {"probe": {"relaxed": {"basis": 3, "modes": 1}}}), scan=make_scan()
    )
    assert module.add_modes(job) is None


def test_a_run_counts_the_numbers_that_it_fits():
    still = {"rates": {"positions": 0, "affine": 0}}
    first, more = (
        Job.begin(Reconstruct.of(SETTINGS | still | {"rates": still["rates"] | rates}), scan=make_scan())
        for rates in ({}, {"weights": 0.2})
    )
    assert module._count_numbers(more) - module._count_numbers(first) == len(first.finest.scan)


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


def test_what_is_told_as_kept_is_kept_when_the_next_moment_is_an_interruption(monkeypatch):
    def interrupt(line):
        if line.startswith("kept: "):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "LADDER", {"background": LADDER["background"]})
    scan = make_scan(grid=(8, 8), background=10.0, wobble=0.3)
    found = improve(Job.begin(Reconstruct.of(SETTINGS), scan=scan), epochs=12, report=interrupt)
    assert not found.is_complete
    assert [one.addition for one in found.kept] == ["background"]


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
        if name in ("mpie", "changing probe", "finer pixels", "one material"):
            assert addition is None
            continue
        assert addition is not None, name
        changed = job.recorded.with_settings(addition)
        again = propose(Job(changed, job.finest.scan, None, None))
        assert again is None or (name in ("modes", "blur") and again != addition), name


def test_near_fields_are_tried_on_finer_pixels():
    case = draw_case(5, side=48, places=5, fills=False)
    scan = read_known(case, simulate_case(case))
    job = Job.begin(Reconstruct.of({"epochs": 2, "start": "none"}), scan=scan)
    addition = LADDER["finer pixels"](job)
    assert addition is not None
    found = module._run("finer pixels", addition, job.recorded, job.finest.scan)
    assert isinstance(found, module._Run)
    assert found.job.finest.scan.window.shape == (96, 96)
    assert LADDER["finer pixels"](found.job) is None


def test_near_fields_are_tried_with_one_material():
    case = draw_case(5, side=48, places=5, fills=False)
    scan = read_known(case, simulate_case(case))
    settings = {"epochs": 2, "start": "none", "projections": ["orthogonal"]}
    job = Job.begin(Reconstruct.of(settings), scan=scan)
    addition = LADDER["one material"](job)
    assert addition is not None
    found = module._run("one material", addition, job.recorded, job.finest.scan)
    assert isinstance(found, module._Run)
    assert [call.name for call in found.job.recipe.projections] == ["orthogonal", "one_material"]
    assert LADDER["one material"](found.job) is None
    settings["object"] = {"pixels": {"kind": "phase"}}
    assert LADDER["one material"](Job.begin(Reconstruct.of(settings), scan=scan)) is None


def test_few_patterns_and_no_noise_model_are_refused():
    with pytest.raises(BadInput, match=r"25 patterns .*60 or more"):
        find(make_scan(grid=(5, 5)))
    with pytest.raises(BadInput, match="noise model"):
        find(make_scan(grid=(8, 8)), noise="none", penalties=[{"relative_gaussian": {}}])


@pytest.mark.medium
def test_attempts_give_no_advice_of_their_own(caplog):
    """Where nothing shows the object a run says how positions are moved; of an attempt nobody could do it."""
    y, x = np.indices((16, 16)) - 8
    counts = np.random.default_rng(0).poisson(40.0 * (np.hypot(y, x) < 5), (64, 16, 16)).astype(np.uint16)
    geometry = Geometry(wavelength=0.0418, shape=(16, 16), angle=(5e-3, 5e-3), beam="electron")
    places = np.indices((8, 8)).reshape(2, -1).T * 0.6
    scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=(8, 8))
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "6 nm", "modes": 1}}
    recipe = Reconstruct.of(
        {"probe": probe, "start": "none", "preset": "none", "epochs": 12, "holdout": 0.15, "patience": None}
    )
    for _ in Job.begin(recipe, scan=scan):
        pass
    assert "positions stay as given" in caplog.text
    caplog.clear()
    assert isinstance(module._run("as it is", {}, recipe, scan), module._Run)
    assert caplog.text == ""


def test_a_second_slice_is_named_with_its_depth():
    addition = {"object.pixels.slices": 2, "object.pixels.thickness": "43.1 A"}
    assert module._describe_addition("second slice", addition) == "second slice at 43.1 A"


def make_photons():
    """Photons on random phases, which a run of two epochs does not explain."""
    rng = np.random.default_rng(0)
    geometry = Geometry(wavelength=1.0, shape=(32, 32), angle=(1e-4, 1e-4), distance=1e10, beam="photon")
    y, x = np.indices((32, 32)) - 16
    probe = np.exp(-((np.hypot(y, x) / 7) ** 4))
    thing = np.exp(1j * rng.uniform(-3, 3, (80, 80)))
    places = np.array([(4 * a, 4 * b) for a in range(8) for b in range(8)])
    waves = np.array([thing[a : a + 32, b : b + 32] * probe for a, b in places])
    light = np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(1, 2))) ** 2
    counts = rng.poisson(1e5 * light / light.sum((1, 2), keepdims=True)).astype(np.uint32)
    return Scan4D(counts=counts, positions=places / (1e-4 * 32), geometry=geometry)


def run_photons(**changes):
    torch.set_num_threads(1)
    probe = {"from_patterns": {"defocus": "0 A"}}
    job = Job.begin(
        Reconstruct.of({"probe": probe, "start": "none", "epochs": 2} | changes), scan=make_photons()
    )
    for _ in job:
        pass
    return job


def test_photons_far_above_the_noise_are_tried_with_mpie():
    job = run_photons()
    assert job.progress.history[-1]["terms"]["noise"] > module.MIN_LOSS_OF_FALSE_MINIMUM
    settings = LADDER["mpie"](job)
    assert settings is not None
    tried = Job.begin(job.recorded.with_settings({**settings, "epochs": 1}), scan=make_photons())
    for _ in tried:
        pass
    assert tried.recipe.optimizer.name == "mpie"
    assert LADDER["mpie"](tried) is None


def test_mpie_is_not_tried_where_it_has_nothing_to_mend(monkeypatch):
    assert LADDER["mpie"](run_photons(penalties=[{"sparse": {"weight": 0.1}}])) is None
    monkeypatch.setattr(module, "MIN_LOSS_OF_FALSE_MINIMUM", 1e9)
    assert LADDER["mpie"](run_photons()) is None
