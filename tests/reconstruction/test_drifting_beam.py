"""A beam that changes during the scan is followed by a relaxed probe, and by no probe that stays the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.ptycho import probes
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

PIXEL, WINDOW, GRID, DOSE = 0.2, 32, (10, 10), 1e5
LENS = {"semiangle": 0.04, "defocus": 60.0, "modes": 1}
STILL = {"semiangle": "40 mrad", "defocus": "60 A", "modes": 1}


def drifting():
    """A scan in which astigmatism comes and goes, with its object and the beam's own mixtures."""
    torch.set_num_threads(1)
    margin = (WINDOW // 2 + 3) * PIXEL
    positions = simulate.raster(GRID, 0.5, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), PIXEL, peak=0.5, seed=2)
    optics = {"energy": 80e3, "semiangle": 0.04, "defocus": 60.0, "window": WINDOW}
    scan, _ = simulate.electron_scan(truth, PIXEL, positions, dose=DOSE, **optics)
    two = [probes.focused(scan, **LENS, astigmatism=c).modes().detach()[0] for c in (0.0, 40.0)]
    turn = 0.6 + 0.6 * torch.sin(torch.linspace(-4, 4, len(scan)))
    mixture = torch.stack([torch.cos(turn), torch.sin(turn)], -1)[:, None].to(torch.complex64)
    model = Ptychography.of(scan, probe=RelaxedProbe(torch.stack(two), scan.window, mixture))
    room = model.object.canvas
    top, left = (round(-start / PIXEL) for start in room.origin)
    known = torch.as_tensor(np.exp(1j * truth)).reshape(-1, *truth.shape[-2:]).prod(0)
    laid = torch.nn.functional.pad(known, (left, 0, top, 0), value=1.0)
    laid = torch.nn.functional.pad(
        laid, (0, room.shape[1] - laid.shape[1], 0, room.shape[0] - laid.shape[0]), value=1.0
    )
    model.object.set_transmission(laid[None, None].to(torch.complex64))
    with torch.no_grad():
        expected = model.detector.display(model(torch.arange(len(scan))))
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(0))
    return replace(scan, counts=counts.numpy().astype(np.uint16)), laid, model


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    scan, truth, model = drifting()
    path = tmp_path_factory.mktemp("drift") / "scan.h5"
    native.write(scan, path)
    return path, truth, model


def reconstructed(case, probe, epochs=20):
    path, truth, model = case
    job = Job.begin(
        Reconstruct.of({"file": str(path), "probe": probe, "start": "none", "epochs": epochs, "levels": 0})
    )
    for _ in job:
        pass
    lit = torch.as_tensor(model.coverage() > 0.3 * model.coverage().max())
    found = job.model.object.transmission().detach()[0, 0][lit]
    true = truth[lit].to(found.dtype)
    alike = float(torch.vdot(found, true).abs() / found.norm() / true.norm())
    return job, 1 - alike, job.progress.history[-1]["loss"]


def test_a_relaxed_probe_follows_the_beam(case):
    frozen, still, stuck = reconstructed(case, {"focused": STILL})
    job, error, loss = reconstructed(case, {"relaxed": {"basis": 2, "defocus": "60 A"}})
    assert loss < stuck / 2
    assert error < still / 2

    result = job.result()
    assert result.opr_weights.shape == (100, 1, 2)
    modes = torch.einsum("nmk,kyx->nmyx", torch.as_tensor(result.opr_weights), torch.as_tensor(result.probe))
    own = job.model.probe.modes_of(torch.arange(100)).detach()
    factor = float((own.abs().square().sum() / modes.abs().square().sum()).sqrt())
    assert torch.allclose(factor * modes.abs(), own.abs(), atol=1e-3 * float(own.abs().max()))

    assert likeness(case, own[:, 0]) > 0.95
    assert likeness(case, frozen.model.probe.modes().detach()) < 0.9


def test_a_result_is_gone_on_from(case, tmp_path):
    path, _, _ = case
    first, _, loss = reconstructed(case, {"relaxed": {"basis": 2, "defocus": "60 A"}}, epochs=8)
    first.result().save(tmp_path / "first.h5")
    tree = {
        "file": str(path),
        "start": "none",
        "epochs": 2,
        "levels": 0,
        "prepare": [{"positions": {"path": str(tmp_path / "first.h5")}}],
        "object": {"from_file": {"path": str(tmp_path / "first.h5")}},
        "probe": {"relaxed": {"path": str(tmp_path / "first.h5")}},
    }
    again = Job.begin(Reconstruct.of(tree))
    index = torch.arange(100)
    with torch.no_grad():
        one, other = first.model(index), again.model(index)
    weights = first.model.detector.weights.detach()[:, None, None]
    assert torch.allclose(one / weights, other, atol=2e-3 * float(one.max()))
    for _ in again:
        pass
    assert again.progress.history[0]["loss"] < 1.5 * loss
    with pytest.raises(BadInput, match="has weights of 100 patterns, but there are 90"):
        probes.relaxed(first.scan.select(np.arange(90)), path=tmp_path / "first.h5")


def likeness(case, beams):
    """Median overlap of beams with the true one of each pattern."""
    true = case[2].probe.modes_of(torch.arange(100)).detach()[:, 0].flatten(1)
    found = beams.flatten(1)
    overlap = (true.conj() * found).sum(1).abs() / true.norm(dim=1) / found.norm(dim=1)
    return float(overlap.median())


def test_a_beam_that_stays_the_same_loses_little_by_the_freedom(tmp_path):
    scan, _, _ = drifting()
    calm = simulate.atoms((66, 66), PIXEL, peak=0.5, seed=2)
    same, _ = simulate.electron_scan(
        calm, PIXEL, scan.positions, energy=80e3, semiangle=0.04, defocus=60.0, window=WINDOW, dose=DOSE
    )
    native.write(same, tmp_path / "scan.h5")
    losses = []
    for probe in (
        {"focused": STILL},
        {"relaxed": {"basis": 2, "defocus": "60 A"}},
    ):
        tree = {"file": str(tmp_path / "scan.h5"), "probe": probe, "start": "none", "epochs": 12, "levels": 0}
        job = Job.begin(Reconstruct.of(tree))
        for _ in job:
            pass
        held = [epoch["holdout"] for epoch in job.progress.history if epoch.get("holdout")]
        losses.append(held[-1])
    assert losses[1] < 1.1 * losses[0]
