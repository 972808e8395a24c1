"""Which first object a run takes, on patterns of a numpy experiment, with starts that are right or wrong."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho.objects import remove_slow_variations
from phaseloom.reconstruction import warm_start
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts.start_race import (
    AS_GIVEN,
    FLAT,
    SMOOTH,
    RaceResult,
    choose,
    describe_choice,
    find_block,
    measure_beam_width,
)
from phaseloom.spec import Call

WAVELENGTH = 0.0418  # 80 keV
WINDOW = 32
ANGLE = 3.0e-3  # radian in a pixel
SEMIANGLE = 0.021
DEFOCUS = 120.0
DOSE = 3e4
TREE: dict[str, Any] = {
    "probe": {"focused": {"semiangle": "21 mrad", "defocus": "120 A", "modes": 1}},
    "start": "none",
    "preset": "none",
    "device": "cpu",
    "epochs": 6,
}


def make_probe() -> np.ndarray:
    """Of unit power, in the middle of its window; positive defocus is under-focus."""
    angle = np.fft.fftfreq(WINDOW, 1 / WINDOW) * ANGLE
    square = angle[:, None] ** 2 + angle**2
    wave = (square <= SEMIANGLE**2) * np.exp(1j * np.pi / WAVELENGTH * DEFOCUS * square)
    probe = np.fft.fftshift(np.fft.ifft2(wave))
    return probe / np.sqrt((abs(probe) ** 2).sum())


def make_scan(places: int = 14, *, seed: int = 0, step: float = 1.2) -> tuple[Scan4D, np.ndarray]:
    """A scan of atoms with Poisson noise, and the transmission on its canvas."""
    rng = np.random.default_rng(seed)
    pixel = WAVELENGTH / (WINDOW * ANGLE)
    index = np.stack(np.meshgrid(*[np.arange(places)] * 2, indexing="ij"), -1).reshape(-1, 2)
    positions = np.round(index * step / pixel) * pixel
    geometry = Geometry(wavelength=WAVELENGTH, shape=(WINDOW, WINDOW), angle=(ANGLE, ANGLE), beam="electron")
    empty = np.zeros((len(positions), WINDOW, WINDOW), np.float32)
    scan = Scan4D(counts=empty, positions=positions, geometry=geometry, grid=(places, places))
    bright = replace(scan, counts=empty + 1)
    room = Reconstruct.of(TREE).settle(bright)[0].build_model(bright).object.canvas
    y, x = (
        origin + size * np.arange(n)
        for origin, size, n in zip(room.origin, room.pixel, room.shape, strict=True)
    )
    phase = np.zeros(room.shape)
    for at in rng.uniform(-2, places * step + 2, (3 * places, 2)):
        phase += 0.5 * np.exp(-((y[:, None] - at[0]) ** 2 + (x - at[1]) ** 2) / 0.5)
    thing, probe = np.exp(1j * phase), make_probe()
    for number, place in enumerate(positions):
        top, left = (
            round((p - o) / s) - WINDOW // 2 for p, o, s in zip(place, room.origin, room.pixel, strict=True)
        )
        wave = np.fft.fft2(probe * thing[top : top + WINDOW, left : left + WINDOW]) / WINDOW
        empty[number] = rng.poisson(DOSE * np.fft.fftshift(abs(wave) ** 2))
    return scan, thing


@pytest.fixture(scope="module")
def case() -> SimpleNamespace:
    scan, thing = make_scan()
    return SimpleNamespace(scan=scan, thing=thing)


def begin(case, wave: np.ndarray, folder, name: str = "given", **more: Any) -> Job:
    """A run from a stored object."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.npy"
    np.save(path, wave.astype(np.complex64))
    tree = {**TREE, "object": {"from_file": {"path": str(path)}}, **more}
    return Job.begin(Reconstruct.of(tree), scan=case.scan)


def transmission(job: Job) -> torch.Tensor:
    return job.model.object.transmission().detach().clone()


def is_like(job: Job, wave: np.ndarray) -> bool:
    """Whether an object begins as stored; its canvas may be wider by a pixel."""
    rows, columns = wave.shape
    return bool(np.allclose(transmission(job)[0, 0, :rows, :columns].numpy(), wave, atol=1e-5))


def test_the_right_object_is_taken_and_the_run_says_by_how_much(case, tmp_path):
    job = begin(case, case.thing, tmp_path)
    start = job.recipe.found["start"]
    assert start["taken"] == AS_GIVEN
    assert start["held_out"] > 5
    assert start["losses"][AS_GIVEN] < 0.8 * start["losses"][FLAT]
    assert job.recipe.object.name == "from_file"
    (line,) = [line for line in job.start_lines() if line.startswith("start:")]
    assert "object of the file taken as given" in line
    assert "standard errors below flat" in line
    assert is_like(job, case.thing)


def test_a_run_with_a_given_object_says_where_the_detector_lies_too(case, tmp_path):
    lines = begin(case, case.thing, tmp_path, start="sweep").start_lines()
    assert "focus 12 nm behind the object, detector as given" in lines[0]
    assert "object of the file taken as given" in lines[-1]


def test_a_wrong_object_is_left_out_and_the_run_is_that_without_it(case, tmp_path):
    wrong = np.exp(1j * np.random.default_rng(1).normal(0, 1.0, case.thing.shape))
    job = begin(case, wrong, tmp_path, epochs=3)
    assert job.recipe.found["start"]["taken"] == FLAT
    assert "left out, a flat object taken" in job.start_lines()[-1]
    plain = Job.begin(Reconstruct.of({**TREE, "epochs": 3}), scan=case.scan)
    assert job.recipe.object.to_tree() == {"pixels": {"kind": "complex"}}
    for one, other in zip(job, plain, strict=True):
        assert (one.loss, one.holdout) == (other.loss, other.holdout)
    assert torch.equal(transmission(job), transmission(plain))


def test_a_start_can_be_forced(case, tmp_path):
    wrong = np.exp(1j * np.random.default_rng(1).normal(0, 1.0, case.thing.shape))
    job = begin(case, wrong, tmp_path, compare_starts=False)
    assert "start" not in job.recipe.found
    assert is_like(job, wrong)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_run_that_is_interrupted_goes_on_to_the_same_bits(case, tmp_path, is_right):
    wave = case.thing if is_right else case.thing.conj()
    np.save(tmp_path / "given.npy", wave.astype(np.complex64))
    tree = {**TREE, "epochs": 3, "object": {"from_file": {"path": str(tmp_path / "given.npy")}}}
    straight = Job.begin(Reconstruct.of(tree), tmp_path / "straight", scan=case.scan)
    assert (straight.recipe.found["start"]["taken"] == AS_GIVEN) == is_right
    first = transmission(straight)
    before = Job.begin(Reconstruct.of(tree), tmp_path / "before", scan=case.scan)
    before._lock.release()
    begun = Job.resume(tmp_path / "before", scan=case.scan)
    assert torch.equal(transmission(begun), first)
    for _ in straight:
        pass
    for _ in begun:
        break
    resumed = Job.resume(tmp_path / "before", scan=case.scan)
    for _ in resumed:
        pass
    assert torch.equal(transmission(resumed), transmission(straight))
    assert yaml.safe_load((tmp_path / "before" / "run.yaml").read_text())["found"]["start"]["losses"]


def test_a_prediction_is_taken_without_its_slow_variations(case, tmp_path):
    """A prediction whose fine detail is right, with a slow error as large as the specimen."""
    level = Job.begin(Reconstruct.of(TREE), scan=case.scan).finest
    y, x = np.indices(case.thing.shape) / max(case.thing.shape)
    slow = 1.5 * np.cos(2 * np.pi * y) * np.cos(3 * np.pi * x)
    wave = torch.from_numpy((case.thing * np.exp(1j * slow)).astype(np.complex64))
    level.model.object.set_transmission(wave.expand_as(level.model.object.transmission()))
    call = Call(level.recipe.object.room, "predicted", {"model": "tiny"})
    recipe = level.recipe.model_copy(update={"object": call})
    settled = warm_start.settle_start(level, recipe, np.arange(0, len(case.scan), 20), given=())
    assert settled.found["start"]["taken"] == SMOOTH
    period = settled.object.values["longest_period"]
    assert period == pytest.approx(2 * measure_beam_width(level.model), rel=0.01)
    wanted = remove_slow_variations(wave, level.model.object.canvas.pixel, period)
    torch.testing.assert_close(level.model.object.transmission()[0, 0], wanted, atol=1e-6, rtol=0)
    assert level.power is not None  # noise is held down by the power of what was predicted
    assert level.power.to_table() == settled.found["power"]


def test_without_patterns_held_out_those_that_were_fitted_judge_with_a_margin(case, tmp_path):
    right = begin(case, case.thing, tmp_path, "right", holdout=0).recipe.found["start"]
    assert right["taken"] == AS_GIVEN
    assert right["held_out"] == 0
    flat = begin(case, np.exp(1j * np.full(case.thing.shape, 0.01)), tmp_path, "flat", holdout=0)
    assert flat.recipe.found["start"]["taken"] == FLAT


def test_of_a_few_patterns_the_start_is_taken_and_said_not_to_be_compared(tmp_path):
    scan, thing = make_scan(2)
    job = begin(SimpleNamespace(scan=scan), thing, tmp_path, epochs=1)
    assert job.recipe.found["start"]["taken"] == AS_GIVEN
    assert "too few patterns to compare" in job.start_lines()[-1]


def test_a_richer_start_has_to_be_better_than_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(1, 0.1, 40)
    equal = {FLAT: noise, "other": noise + rng.normal(0, 0.01, 40)}
    assert choose(RaceResult(equal, 5, 100, is_held_out=True)) == FLAT
    better = {FLAT: noise, "other": noise - 0.02 + rng.normal(0, 0.01, 40)}
    assert choose(RaceResult(better, 5, 100, is_held_out=True)) == "other"
    assert choose(RaceResult(better, 5, 100, is_held_out=False)) == FLAT  # 2 % of what was fitted is no proof
    failed = {FLAT: noise, "other": np.full(40, np.inf)}
    assert choose(RaceResult(failed, 5, 100, is_held_out=True)) == FLAT


def test_what_was_not_compared_says_so():
    assert "too few patterns" in describe_choice("prediction", {"taken": AS_GIVEN})


@pytest.mark.parametrize(
    ("errors", "said"), [(2.0, "2 standard errors below"), (-1.49, "1.49 standard errors above")]
)
def test_a_start_that_is_no_better_is_not_called_below(errors, said):
    found = {"taken": AS_GIVEN, "losses": {FLAT: 1.291, AS_GIVEN: 1.301}, "epochs": 3, "held_out": 20}
    assert f"{said} flat" in describe_choice("direct image", {**found, "errors": errors})


def test_a_block_is_made_of_neighbours():
    index = np.stack(np.meshgrid(*[np.arange(9.0)] * 2, indexing="ij"), -1).reshape(-1, 2)
    block = index[find_block(index, 25)]
    assert block.min() == 2
    assert block.max() == 6


def test_the_beam_is_as_wide_as_its_disk(case):
    """Geometric optics: a disk of twice semiangle times defocus, blurred by the aperture."""
    recipe = Reconstruct.of(
        {**TREE, "probe": {"focused": {"semiangle": "21 mrad", "defocus": "150 A", "modes": 1}}}
    )
    width = measure_beam_width(recipe.settle(case.scan)[0].build_model(case.scan))
    assert width == pytest.approx(2 * 0.021 * 150, rel=0.25)


def test_slow_variations_go_and_fast_ones_stay_also_where_phases_wrap():
    n = 96
    x = torch.arange(n) * 0.5
    fast = 0.3 * torch.cos(2 * torch.pi * x / 2.0)[None].expand(n, n)
    slow = 4.0 * torch.cos(2 * torch.pi * x / 24.0)[:, None].expand(n, n)
    wave = torch.polar(torch.ones(n, n), fast + slow)
    left = remove_slow_variations(wave, (0.5, 0.5), 4.0).angle()
    assert (left - fast).abs().max() < 0.3
    assert (
        remove_slow_variations(torch.polar(torch.ones(n, n), fast), (0.5, 0.5), 8.0)
        .angle()
        .sub(fast)
        .abs()
        .max()
        < 1e-3
    )


def test_a_period_is_above_zero(case):
    tree = {**TREE, "object": {"predicted": {"model": "tiny", "longest_period": "0 A"}}}
    with pytest.raises(BadInput, match=r"longest_period.*must be above zero"):
        Job.begin(Reconstruct.of(tree), scan=case.scan)
