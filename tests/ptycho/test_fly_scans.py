"""Fly scans: a beam that moves while the shutter is open."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import phaseloom as pl
from benchmarks.detector import DETECTOR_PIXEL, DISTANCE, WAVELENGTH, SimulatedScan, simulate
from benchmarks.live import measure_error
from phaseloom.errors import BadInput
from phaseloom.ptycho.scans import estimate_motion


def as_scan(made: SimulatedScan) -> pl.Scan4D:
    side = made.frames.shape[1]
    geometry = pl.Geometry(wavelength=WAVELENGTH * 1e10, shape=(side, side), angle=DETECTOR_PIXEL / DISTANCE)
    positions = made.positions * 1e10
    return pl.Scan4D(counts=made.frames, positions=positions, geometry=geometry, grid=made.grid)


@pytest.fixture(scope="module")
def scan() -> pl.Scan4D:
    return as_scan(simulate((3, 5), window=24, step=3.0, seed=1))


def random_model(scan, **knobs):
    torch.manual_seed(2)
    parts = {
        "object": pl.objects.pixels(pl.ptycho.canvas.canvas(scan)),
        "probe": pl.probes.from_patterns(scan),
    }
    model = pl.Ptychography.of(scan, **parts, **knobs).double()
    with torch.no_grad():
        wave = model.object.transmission()
        model.object.set_transmission(
            wave * torch.polar(1 - 0.2 * torch.rand(wave.shape), torch.randn(wave.shape))
        )
        model.probe.set_modes(model.probe.modes() * (1 + 0.3 * torch.randn(model.probe.modes().shape)))
    return model


def test_a_beam_that_moves_by_nothing_is_a_step_scan(scan):
    index = torch.arange(len(scan))
    still = random_model(scan)
    moving = random_model(scan, fly=1e-12)
    assert still.scan.motion is None
    assert moving.scan.motion is not None
    assert torch.allclose(still(index), moving(index), rtol=1e-5, atol=1e-8)
    assert random_model(scan, fly=0.0).scan.motion is None


def test_a_pattern_is_the_mean_of_those_at_its_moments(scan):
    index = torch.arange(len(scan))
    moving = random_model(scan, fly=0.8)
    moments = moving.scan.moments()
    assert len(moments) >= 3
    assert np.isclose(sum(moments), 0)
    still = random_model(scan)
    place, rest = still.scan(index)
    seen = [
        still.detector(
            still.detector_wave(still.object(place), place, rest + at * moving.scan.motion[index], index),
            index,
            still.object.occupancy,
        )
        for at in moments
    ]
    assert torch.allclose(moving(index), torch.stack(seen).mean(0), rtol=1e-6)


def test_the_way_is_along_the_line_and_not_to_the_next_one():
    y, x = np.indices((4, 6)).astype(float)
    there = np.stack([y.ravel(), x.ravel()], 1)
    assert np.allclose(estimate_motion(there, 1.0), (0, 1))
    snake = np.stack([y, np.where(y % 2, 5 - x, x)], -1).reshape(-1, 2)
    moved = estimate_motion(snake, 0.5).reshape(4, 6, 2)
    assert np.allclose(moved[::2], (0, 0.5))
    assert np.allclose(moved[1::2], (0, -0.5))
    turned = there @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    assert np.allclose(estimate_motion(turned, 1.0), (-0.8, 0.6))
    lost = np.delete(there, [8, 20], axis=0)
    assert np.allclose(estimate_motion(lost, 1.0), (0, 1))
    angle = np.sqrt(np.arange(4, 200)) * 1.2
    spiral = np.stack([angle * np.sin(angle), angle * np.cos(angle)], 1)
    way = estimate_motion(spiral, 1.0)[1:-1]
    assert np.allclose(way, (spiral[2:] - spiral[:-2]) / 2)


@pytest.mark.parametrize(("positions", "share"), [(np.zeros((4, 2)), 0.5), (np.zeros((1, 2)), 0.5)])
def test_positions_without_a_line_are_refused(positions, share):
    with pytest.raises(BadInput, match=r"fly: 0\.5 needs positions along lines"):
        estimate_motion(positions, share)


def test_a_near_field_an_engine_and_a_share_above_one_are_refused(scan):
    near = replace(scan.geometry, distance=1e9, focus=float("inf"))
    with pytest.raises(BadInput, match=r"fly: 0\.5 is not supported in the near field"):
        pl.Ptychography.of(replace(scan, geometry=near), fly=0.5)
    with pytest.raises(BadInput, match="fly"):
        pl.Reconstruct.of({"fly": 1.5})
    recipe = pl.Reconstruct.of({"fly": 1.0, "start": "none", "optimizer": "epie", "rates": {"positions": 0}})
    with pytest.raises(BadInput, match="has no beam that moves"):
        pl.reconstruct(recipe, scan=scan)


@pytest.mark.medium
def test_a_fly_scan_is_explained_better_by_a_beam_that_moves():
    made = simulate((10, 12), window=32, step=5.0, photons=1e5, seed=3, slide=(0.0, 5.0))
    taken = as_scan(made)
    settings = {"start": "none", "probe": {"from_patterns": {"defocus": "6.4 mm"}}, "epochs": 12}
    settings |= {"rates": {"positions": 0, "affine": 0}}
    ends = {}
    for fly in (None, 1.0):
        job = pl.Job.begin(pl.Reconstruct.of({**settings, "fly": fly}), scan=taken)
        for _ in job:
            pass
        held = [event["holdout"] for event in job.progress.history if event["holdout"] is not None]
        ends[fly] = held[-1], job
    assert ends[1.0][0] < 0.9 * ends[None][0]
    errors = {fly: measure_error(job, made.object, window=32, border=20) for fly, (_, job) in ends.items()}
    assert errors[1.0] < 0.9 * errors[None]
