"""Reconstructions of scans that are still being taken, on data of the simulated detector (numpy alone)."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import phaseloom as pl
from benchmarks.detector import DETECTOR_PIXEL, DISTANCE, WAVELENGTH, simulate
from phaseloom.data.growing.feed import Announcement, FeedEnd, FrameBlock
from phaseloom.data.growing.growing_scan import GrowingScan
from phaseloom.errors import BadInput
from phaseloom.fitting.outcome import StopReason
from phaseloom.ptycho.canvas import canvas
from phaseloom.reconstruction.live import growth as growths
from phaseloom.reconstruction.live import resolution
from phaseloom.reconstruction.live.carry_over import carry_model, enlarge_canvas
from phaseloom.reconstruction.live.dose import DoseVerdict
from phaseloom.reconstruction.live.growing_image import GrowingImage
from phaseloom.runs.control import send_command

RECIPE = {"start": "none", "probe": {"from_patterns": {"defocus": "6.4 mm"}}, "epochs": 6}


@pytest.fixture(scope="module")
def taken():
    """A small scan as it is when all of it is there, and the simulation that it is of."""
    simulated = simulate((9, 10), window=32, step=3.0, photons=3e4, seed=2)
    geometry = pl.Geometry(
        wavelength=WAVELENGTH * 1e10,
        shape=(32, 32),
        angle=DETECTOR_PIXEL / DISTANCE,
        distance=DISTANCE * 1e10,
    )
    positions = simulated.positions * 1e10
    return pl.Scan4D(counts=simulated.frames, positions=positions, geometry=geometry, grid=simulated.grid)


class Feed:
    """A detector that brings patterns in parts, whenever it is asked; `pauses` raise at a part's turn."""

    name = "feed"
    file = None
    format = "auto"

    def __init__(self, scan, parts, end=FeedEnd.COMPLETE, announced=True, raises=()):
        self.setup = {}
        self.scan = scan
        self.parts = list(parts)
        self.last = end
        self.end = None
        self.raises = dict(raises)
        self.asked = 0
        count = len(scan) if announced else None
        places = scan.positions if announced else None
        one = scan.select(np.arange(1))
        self.announcement = Announcement(one, count, places, scan.grid if announced else None)

    def announce(self):
        return self.announcement

    def take(self):
        self.asked += 1
        if self.asked in self.raises:
            raise self.raises[self.asked]
        if not self.parts:
            self.end = self.last
            return []
        numbers = np.asarray(self.parts.pop(0))
        return [FrameBlock(numbers, self.scan.counts[numbers], self.scan.positions[numbers])]

    def report(self):
        return []

    def close(self):
        self.end = self.end or FeedEnd.ENDED


def in_parts(count, first, each):
    return [np.arange(first), *(np.arange(a, min(a + each, count)) for a in range(first, count, each))]


def follow(scan, parts, directory=None, first=30, **feed):
    growing = GrowingScan(Feed(scan, parts, **feed))
    return pl.Job.follow(pl.Reconstruct.of(RECIPE), growing, directory, first=first)


def lines(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.medium
def test_patterns_join_and_the_run_ends_as_that_of_the_whole_scan(taken, tmp_path):
    whole = pl.reconstruct(pl.Reconstruct.of({**RECIPE, "levels": 0}), scan=taken)
    job = follow(taken, in_parts(90, 30, 20), tmp_path / "run")
    seen = []
    for epoch in job:
        seen.append((epoch.number, len(job.training) + len(job.holdout)))
        if job.growth is not None:
            assert f"{seen[-1][1]} of 90, " in job._repr_html_()
            here = len(job.growth.growing)
            assert repr(job.growth.growing).startswith(f"GrowingScan(feed: {here} of 90 patterns; ")
    counts = [count for _, count in seen]
    assert counts == sorted(counts)
    assert counts[0] < 90
    assert "of 90, 0 behind" not in job._repr_html_()
    assert counts[-4:] == [90] * 4
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert job.growth is None
    result = job.ended
    assert result.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=0.05)
    assert result.object.shape == whole.object.shape  # the canvas was planned for the whole raster
    assert result.grid == (9, 10)
    grown = [event["growth"] for event in lines(tmp_path / "run") if "growth" in event]
    assert [one["patterns"] for one in grown] == counts[: len(grown)]
    assert (tmp_path / "run" / "direct.png").stat().st_size > 100


@pytest.mark.medium
def test_a_run_that_grew_is_resumed_repeated_and_read_as_any_other(taken, tmp_path):
    folder = tmp_path / "run"
    job = follow(taken, in_parts(90, 30, 20), folder)
    for _ in job:
        if job.growth is None:
            break
    at = job.progress.epoch
    again = pl.Job.resume(folder)
    assert again.progress.epoch == at
    assert again.recipe.file.name == "scan.h5"
    assert np.array_equal(again.holdout, job.holdout)
    ended = [one.number for one in again]
    assert ended[-1] == again.recipe.epochs
    assert pl.load(folder / "result.h5").history[-1]["number"] == ended[-1]
    assert again.scan.grid == (9, 10)
    assert len(pl.read(folder / "scan.h5")) == 90


@pytest.mark.medium
@pytest.mark.parametrize("at", [1, 2, 4])
def test_nothing_is_lost_by_an_interruption_while_patterns_are_waited_for(taken, tmp_path, at):
    folder = tmp_path / "run"
    job = follow(taken, in_parts(90, 40, 10), folder, raises={2 + at: KeyboardInterrupt()})
    numbers = [epoch.number for epoch in job]
    assert job.progress.stop.reason is StopReason.INTERRUPTED
    here = len(pl.read(folder / "scan.h5"))
    assert here == 50 + 10 * (at - 1)
    again = pl.Job.resume(folder)
    assert again.progress.epoch == job.progress.epoch >= len(numbers)
    if again.progress.epoch:
        before = job.model.object.transmission().detach()
        assert np.array_equal(again.model.object.transmission().detach(), before)
    assert [epoch.number for epoch in again][-1] == again.recipe.epochs
    assert len(again.scan) == here


@pytest.mark.medium
def test_the_recipe_of_a_run_that_grew_serves_the_next_one(taken, tmp_path):
    for _ in follow(taken, in_parts(90, 30, 20), tmp_path / "one"):
        pass
    recipe = pl.Reconstruct.from_path(tmp_path / "one" / "run.yaml")
    growing = GrowingScan(Feed(taken, in_parts(90, 45, 45)))
    with pytest.raises(BadInput, match="exists already"):
        pl.Job.follow(recipe, growing, tmp_path / "one", first=30)
    growing = GrowingScan(Feed(taken, in_parts(90, 45, 45)))
    job = pl.Job.follow(recipe, growing, tmp_path / "two", first=30)
    for _ in job:
        pass
    assert job.growth is None
    assert job.recipe.epochs <= job.recipe.found["live"]["epochs"] + 6
    assert job.recipe.file == (tmp_path / "two" / "scan.h5").resolve()


def test_patterns_that_are_blank_where_they_are_modelled_are_left_out_at_the_end(taken):
    counts = taken.counts.copy()
    counts[[3, 50]] = 0
    counts[[3, 50], 0, 0] = 9  # outside of the crop
    growing = GrowingScan(Feed(replace(taken, counts=counts), in_parts(90, 30, 30)))
    recipe = pl.Reconstruct.of({**RECIPE, "epochs": 2, "prepare": [{"crop": {"to": [24, 24]}}]})
    job = pl.Job.follow(recipe, growing, first=30)
    for _ in job:
        pass
    assert len(job.scan) == 88
    assert max(*job.holdout, *job.training) == 87


@pytest.mark.medium
def test_an_epoch_that_is_interrupted_is_undone_and_the_rest_is_kept(taken, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    job = follow(taken, in_parts(90, 40, 20), folder)
    steps = iter(job)
    next(steps)
    next(steps)
    kept = job.model.object.transmission().detach().clone()
    monkeypatch.setattr(type(job.progress.optimizer), "step", interrupt)
    monkeypatch.setattr("phaseloom.ptycho.newton.compiled.CompiledSteps.__call__", interrupt)
    assert list(steps) == []
    assert job.progress.stop.is_interrupted
    monkeypatch.undo()
    again = pl.Job.resume(folder)
    assert again.progress.epoch == 2
    assert len(again.scan) >= 60
    assert again.model.object.transmission().shape[-1] <= kept.shape[-1]
    assert [epoch.number for epoch in again][-1] == again.recipe.epochs


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_of_a_run_that_was_killed_while_its_scan_grew_the_patterns_are_there(taken, tmp_path):
    folder = tmp_path / "run"
    job = follow(taken, in_parts(90, 30, 20), folder)
    steps = iter(job)
    next(steps)
    steps.close()  # no word of an end is written
    with pytest.raises(BadInput, match=r"was killed while its scan grew; what came is there: .* scan\.h5"):
        pl.Job.resume(folder)
    assert np.array_equal(pl.read(folder / "scan.h5").counts[np.arange(50)], taken.counts[:50])


@pytest.mark.medium
@pytest.mark.parametrize("end", [FeedEnd.SILENT, FeedEnd.ENDED])
def test_a_scan_that_ends_half_way_ends_as_a_run_on_what_came(taken, tmp_path, end, caplog):
    folder = tmp_path / "run"
    lost = [np.setdiff1d(np.arange(40), [7, 8]), np.arange(40, 55)]
    job = follow(taken, lost, folder, end=end)
    for _ in job:
        pass
    result = job.ended
    assert len(result.positions) == 53
    assert result.grid is None
    # the canvas is that of the patterns that came
    assert result.object.shape[-2:] == canvas(job.scan).shape
    assert result.history[-1]["loss"] < 2.0
    found = job.recipe.found["live"]
    assert (found["end"], found["announced"], found["arrived"]) == (end.value, 90, 53)
    assert "lost" in caplog.text
    again = pl.Job.resume(folder)
    assert np.array_equal(again.holdout, job.holdout)
    assert again.is_over()


@pytest.mark.medium
def test_patterns_out_of_order_and_twice_give_the_run_of_the_sorted_scan(taken, tmp_path):
    order = np.random.default_rng(5).permutation(90)
    parts = [order[:40], order[35:70], order[70:]]
    job = follow(taken, parts, tmp_path / "run")
    for _ in job:
        pass
    assert np.array_equal(job.scan.counts, taken.counts)
    assert job.scan.grid == (9, 10)
    assert job.ended.history[-1]["loss"] < 1.5
    read = pl.read(tmp_path / "run" / "scan.h5")
    assert read.digest() == taken.digest()


def test_positions_keep_what_was_found_of_them_when_patterns_join_and_are_sorted(taken):
    job = follow(taken, in_parts(90, 20, 20), first=20)
    steps = iter(job)
    next(steps)
    with torch.no_grad():
        job.model.scan.offsets[:] = np.pi * torch.arange(120.0).view(60, 2)
        job.model.scan.stretch.fill_(0.5)
        before = job.model.scan.linear_map((job.model.scan.start - job.model.scan.start.mean(0)).abs().max())
    order = np.arange(90)[::-1].copy()
    whole = pl.Reconstruct.of(RECIPE).build_model(taken.select(order))
    arrival = np.array([int(np.flatnonzero(order[k] == np.arange(90))[0]) for k in range(90)])
    carry_model(job.model, whole, arrival)
    start = whole.scan.start
    after = whole.scan.linear_map((start - start.mean(0)).abs().max())
    assert np.allclose(after.detach(), before.detach(), atol=1e-6)
    assert np.allclose(whole.scan.offsets.detach()[order.argsort()[:60]], job.model.scan.offsets.detach())
    assert not whole.scan.offsets[order.argsort()[60:]].any()


def test_the_object_does_not_move_when_its_canvas_is_enlarged(taken):
    small = taken.select(np.arange(40))
    room = canvas(small)
    wide = enlarge_canvas(room, taken)
    assert enlarge_canvas(wide, taken) is wide
    assert enlarge_canvas(room, small) is room
    recipe = pl.Reconstruct.of(RECIPE)
    one = recipe.build_model(small, room)
    rng = np.random.default_rng(0)
    wave = one.object.transmission()
    one.object.set_transmission(wave * torch.as_tensor(np.exp(1j * rng.normal(0, 1, wave.shape))).to(wave))
    two = recipe.build_model(taken, wide)
    carry_model(one, two, np.arange(90))
    index = torch.arange(40)
    assert np.allclose(one(index).detach(), two(index).detach(), rtol=1e-4, atol=1e-3)


@pytest.mark.medium
def test_a_scan_of_unknown_extent_enlarges_its_object(taken):
    job = follow(taken, in_parts(90, 30, 15), announced=False, end=FeedEnd.ENDED)
    shapes = []
    job_began = job.model.object.transmission().shape[-2]
    for _ in job:
        shapes.append(job.model.object.transmission().shape[-2:])
    heights = [shape[0] for shape in shapes]
    assert job_began < heights[0]
    assert shapes[-1] == canvas(taken.select(np.arange(90))).shape
    assert job.progress.history[-1]["loss"] < 1.5


def test_an_epoch_takes_no_longer_than_its_time_allows_and_says_how_far_it_is_behind(taken, monkeypatch):
    job = follow(taken, in_parts(90, 30, 20))
    steps = iter(job)
    next(steps)
    job.growth._seconds_per_pattern = growths.SECONDS_OF_EPOCH / 8  # 4 patterns a second
    job.growth.learned = 40
    index, learned = job.growth._choose(job.training)
    assert len(index) <= 16  # the eight of its time, and as many earlier ones as new ones
    assert np.isin(job.training[(job.training >= 40) & (job.training < learned)], index).all()
    assert 40 < learned < job.growth.count
    job.growth.learned = learned
    assert job.growth.count_behind() == len(job.growth.growing) - learned > 0
    steps.close()


def test_commands_hold_while_the_scan_grows_and_stop_ends_it(taken, tmp_path):
    folder = tmp_path / "run"
    job = follow(taken, in_parts(90, 40, 10), folder)
    steps = iter(job)
    next(steps)
    send_command(folder, "set", {"rates.object": 0.01})
    next(steps)
    epoch = next(steps)
    assert epoch.rates["object"] == pytest.approx(0.01)
    send_command(folder, "back", epoch=1)
    send_command(folder, "stop")
    assert len(list(steps)) <= 1
    assert job.progress.stop.is_requested
    assert len(job.ended.positions) == len(pl.read(folder / "scan.h5")) >= 60
    refused = [
        line
        for line in lines(folder)
        if "wait for its end" in json.dumps(line) or "no snapshot" in json.dumps(line)
    ]
    assert refused


def test_the_dose_is_judged_while_patterns_come(taken):
    job = follow(taken, in_parts(90, 30, 5))
    verdicts = []
    for _ in job:
        if job.growth is not None and job.growth.dose is not None:
            verdicts.append(job.growth.dose.verdict)
    assert verdicts  # of a scan of 90 patterns 4 are held out: too few to judge by
    assert set(verdicts) == {DoseVerdict.TOO_FEW}


def test_a_preparation_that_leaves_out_patterns_is_refused(taken):
    recipe = pl.Reconstruct.of({**RECIPE, "prepare": [{"select": {"every": 2}}]})
    growing = GrowingScan(Feed(taken, in_parts(90, 90, 10)))
    with pytest.raises(BadInput, match="leaves out patterns, which is not possible while they come"):
        pl.Job.follow(recipe, growing)


def test_the_direct_image_of_a_growing_scan_is_that_of_the_whole(taken):
    image = GrowingImage()
    for count in (40, 71, 90):
        image.update(taken.select(np.arange(count)))
    whole = GrowingImage()
    whole.update(taken)
    assert np.allclose(image.light, taken.counts.sum((1, 2)))
    assert np.allclose(image.deflection, whole.deflection)
    assert np.array_equal(image.phase(), whole.phase())


def test_the_direct_image_shows_the_phase_of_the_object():
    simulated = simulate((30, 30), window=32, step=4.0, photons=1e6, seed=4)
    geometry = pl.Geometry(wavelength=WAVELENGTH * 1e10, shape=(32, 32), angle=DETECTOR_PIXEL / DISTANCE)
    positions = simulated.positions * 1e10
    scan = pl.Scan4D(counts=simulated.frames, positions=positions, geometry=geometry, grid=(30, 30))
    image = GrowingImage()
    image.update(scan)
    places = np.round(simulated.positions / simulated.pixel + 4 + 16).astype(int)
    # as the probe blurs it
    power = np.abs(simulated.probe) ** 2 / np.sum(np.abs(simulated.probe) ** 2)
    phase = np.angle(simulated.object)
    blurred = np.array([np.sum(power * phase[y - 16 : y + 16, x - 16 : x + 16]) for y, x in places])
    y, x = (simulated.positions / np.ptp(simulated.positions, axis=0)).T
    smooth = np.stack([np.ones_like(y), y, x, y * y, x * y, x * x], 1)  # which DPC takes off
    seen, true = (v - smooth @ np.linalg.lstsq(smooth, v)[0] for v in (image.phase().ravel(), blurred))
    assert np.corrcoef(seen, true)[0, 1] > 0.9
    assert image.transmission().shape == (30, 30)


@pytest.mark.medium
def test_a_resolution_is_judged_by_halves_of_what_came(monkeypatch):
    made = simulate((16, 16), window=32, step=3.0, photons=3e4, seed=2)
    geometry = pl.Geometry(wavelength=WAVELENGTH * 1e10, shape=(32, 32), angle=DETECTOR_PIXEL / DISTANCE)
    taken = pl.Scan4D(counts=made.frames, positions=made.positions * 1e10, geometry=geometry, grid=made.grid)
    monkeypatch.setattr(resolution, "MIN_PATTERNS", 140)
    job = follow(taken, in_parts(256, 60, 40))
    due = []
    for _ in job:
        if resolution.is_check_due(job):
            due.append(job.growth.count)
            job.growth.dose = resolution.judge_resolution(job, 1e5 if len(due) == 1 else 1.0)
            verdict = DoseVerdict.RESOLVED if len(due) == 1 else DoseVerdict.NOT_RESOLVED
            assert job.growth.dose.verdict is verdict
            assert "halves of the counts agree to" in str(job.growth.dose)
    assert due[0] >= 140
    assert due[-1] == 256
    assert all(later >= 1.5 * before or later == 256 for before, later in pairwise(due))
