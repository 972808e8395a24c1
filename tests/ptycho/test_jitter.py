"""Positions move as far as their Fisher information allows against the jitter of all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.ptycho import probes, scans
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.jitter import estimate_jitter, fit_affine_part, well_determined_share
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import pixels
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

FREELY = {"optimizer": {"gauss_newton": {"position_prior": False}}}


def alternate(best, information, epochs):
    """Variance of the jitter after epochs that alternate between it and the shifts that it allows."""
    shifts = best
    variance = torch.tensor(0.0)
    for _ in range(epochs):
        variance = estimate_jitter(shifts, information)
        shifts = well_determined_share(information, variance) * best
    return float(variance)


def draw_shifts(jitter, count=4000):
    """Best shifts of positions with some jitter, and their Fisher information."""
    rng = np.random.default_rng(0)
    information = rng.uniform(10.0, 40.0, (count, 2))
    best = rng.normal(0, jitter, (count, 2)) + rng.normal(0, information**-0.5)
    return torch.as_tensor(best), torch.as_tensor(information)


@pytest.mark.parametrize("jitter", [0.1, 0.2, 1.0])
def test_the_variance_of_the_jitter_is_found(jitter):
    best, information = draw_shifts(jitter)
    found = alternate(best, information, 200)
    deviation = (2 / best.numel()) ** 0.5 * (jitter**2 + float((1 / information).mean()))
    assert abs(found - jitter**2) < 4 * deviation


def test_without_jitter_its_variance_vanishes():
    best, information = draw_shifts(0.0)
    assert alternate(best, information, 200) < 0.03 / float(information.mean())


def test_many_electrons_leave_shifts_as_they_are():
    best, information = draw_shifts(0.3)
    variance = estimate_jitter(best, 1e6 * information)
    assert float(well_determined_share(1e6 * information, variance).min()) > 0.999


def test_an_affine_map_is_no_jitter():
    places = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 50
    shifts = places @ torch.tensor([[0.02, -0.01], [0.03, 0.01]]) + torch.tensor([1.0, -2.0])
    torch.testing.assert_close(fit_affine_part(shifts, places), shifts, atol=1e-4, rtol=1e-4)


def make_scan(dose, jitter, *, side=8, seed=0):
    """A scan of atoms whose positions are believed to be on their raster, and their true jitter in pixels."""
    pixel = 0.25
    nominal = simulate.raster((side, side), 0.7)
    nominal = nominal + 5.0 - nominal.min(0)
    shift = np.random.default_rng(seed).normal(0, jitter, nominal.shape)
    size = tuple(int(n) for n in np.ceil((nominal.max(0) + 5.0) / pixel).astype(int))
    truth = simulate.atoms(size, pixel, peak=0.4, seed=seed)
    optics = {"energy": 80e3, "semiangle": 25e-3, "defocus": 60.0, "window": 24}
    scan, _ = simulate.electron_scan(truth, pixel, nominal + pixel * shift, **optics, dose=dose, seed=seed)
    return replace(scan, positions=nominal, grid=(side, side)), shift


def reconstruct(scan, folder=None, **settings):
    """A job with the right optics."""
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "60 A"}}
    tree = {"file": "in memory", "probe": probe, "object": {"pixels": {"kind": "phase"}}, "start": "none"}
    recipe = Reconstruct.of(tree | {"epochs": 12, "holdout": 0.0, "device": "cpu"} | settings)
    return Job.begin(recipe, folder, scan=scan)


def position_error(job, scan, shift):
    """Rms distance of positions from the true ones in pixels, after an affine fit."""
    found = torch.as_tensor(job.model.scan.angstrom() - scan.positions) / 0.25 - torch.as_tensor(shift)
    return float(
        (found - fit_affine_part(found, torch.as_tensor(scan.positions))).square().sum(1).mean().sqrt()
    )


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_few_electrons_do_not_drive_positions_away(jitter):
    scan, shift = make_scan(200.0, jitter)
    errors = []
    for settings in ({}, FREELY):
        job = reconstruct(scan, **settings)
        nominal = position_error(job, scan, shift)
        for _ in job:
            pass
        errors.append(position_error(job, scan, shift))
    assert errors[0] < 1.02 * nominal + 0.05
    assert errors[0] < errors[1] / 2


def test_many_electrons_move_positions_as_without_a_prior():
    scan, shift = make_scan(1e7, 0.4)
    errors = []
    for settings in ({}, FREELY):
        job = reconstruct(scan, **settings)
        for _ in job:
            pass
        errors.append(position_error(job, scan, shift))
    assert errors[0] < 1.02 * errors[1] + 1e-3


def test_the_stationary_shift_is_the_shrunken_one():
    """Where gradient and prior cancel, shifts are F / (F + 1 / s^2) of the best ones; see `Curvature`."""
    scan, _ = make_scan(1e4, 0.0)
    canvas = scans.canvas(scan)
    probe = probes.focused(scan, semiangle=25e-3, defocus=60.0)
    model = Ptychography.of(scan, object=pixels(canvas, kind="phase"), probe=probe)
    truth = simulate.atoms(tuple(canvas.shape), 0.25, peak=0.4, seed=0)
    own = model.scan.offsets
    best = 0.3 * torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.object.phase += torch.as_tensor(truth, dtype=torch.float32)
        own.copy_(best)
    curvature = Curvature(model, Likelihood(model, scan))
    history = [{"loss": 1.0}]
    rule = curvature(history)[own]
    free = Curvature(model, Likelihood(model, scan), position_prior=False)(history)[own]
    tiny = torch.full_like(own, 1e-12)
    with torch.no_grad():
        # at the best shifts the gradient vanishes: the step is that of the prior alone
        step = rule(own, tiny, 4, 1.0, None)
        columns = [free(own, 1e-12 * row.expand_as(own), 4, 1.0, None) / 4e-12 for row in torch.eye(2)]
        bends = torch.linalg.inv(torch.stack(columns, -1))
    information = 4 * bends / curvature.scale
    centre = fit_affine_part(best, model.scan.start)
    excess = curvature._measure_excess_noise(history)
    variance = estimate_jitter(best - centre, torch.linalg.eigvalsh(information / excess))
    whole = information / excess + torch.eye(2) / variance.float()
    wanted = (torch.linalg.inv(whole) @ (best - centre)[:, :, None])[:, :, 0] / variance.float()
    torch.testing.assert_close(step, wanted.clamp(-0.2, 0.2), atol=2e-4, rtol=2e-2)


def test_a_resumed_run_repeats_the_straight_one(tmp_path):
    scan, _ = make_scan(300.0, 0.2)
    straight = reconstruct(scan, tmp_path / "straight", epochs=6)
    for _ in straight:
        pass
    broken = reconstruct(scan, tmp_path / "broken", epochs=6)
    for epoch in broken:
        if epoch.number == 3:
            break
    resumed = Job.resume(tmp_path / "broken", scan=scan)
    for _ in resumed:
        pass
    assert bool(resumed.model.scan.offsets.any())
    assert torch.equal(straight.model.scan.offsets, resumed.model.scan.offsets)
