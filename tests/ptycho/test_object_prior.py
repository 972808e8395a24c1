"""The power of an object holds down what few electrons cannot tell, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.metrics.phase import remove_ramp
from phaseloom.ptycho import probes
from phaseloom.ptycho.curvature import incident_waves, sum_illumination
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import pixels
from phaseloom.ptycho.projections.object_prior import MIN_SHARE_OF_LIGHT, ObjectPower, apply_object_prior
from phaseloom.ptycho.scans import canvas
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

PIXEL = 0.25
GRID = (20, 20)
OPTICS = {"energy": 80e3, "semiangle": 25e-3, "defocus": 120.0, "window": 32}


def make_scan(dose, seed=0):
    """A scan of weak atoms, and its truth."""
    positions = simulate.raster(GRID, 0.6)
    positions += 5.0 - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + 5.0) / PIXEL))
    truth = simulate.atoms((size[0], size[1]), PIXEL, peak=0.15, seed=seed)
    scan, _ = simulate.electron_scan(truth, PIXEL, positions, **OPTICS, dose=dose, seed=seed)
    return replace(scan, grid=GRID), truth


def make_model(dose, **more):
    scan, _ = make_scan(dose)
    probe = probes.focused(scan, semiangle=25e-3, defocus=120.0)
    return Ptychography.of(scan, object=pixels(canvas(scan), **more), probe=probe)


def measure_noise(model):
    light = sum_illumination(model, incident_waves(model))[0]
    scanned = light > MIN_SHARE_OF_LIGHT * light.max()
    return 1 / (4 * float(light[scanned].mean())), scanned


def test_between_rings_power_is_a_power_law_and_beyond_it_falls():
    power = ObjectPower((0.1, 0.2, 0.4, 0.8), (8.0, 4.0, 2.0, 1.0))
    np.testing.assert_allclose(power.evaluate(np.array([0.15, 0.3])), [8 * 0.1 / 0.15, 4 * 0.2 / 0.3])
    beyond = power.evaluate(np.array([0.8, 1.6, 3.2]))
    assert beyond[0] / beyond[1] == pytest.approx(beyond[1] / beyond[2])
    assert beyond[0] / beyond[1] >= 4 - 1e-9  # never less than the square of the frequency
    assert ObjectPower.of(power.to_table()) == power


def test_a_modulus_of_less_power_is_held_down_by_more_and_the_phase_is_not():
    model, other = make_model(200.0), make_model(200.0)
    noise, scanned = measure_noise(model)
    flat = ((0.01, 10.0), (0.3 * noise * PIXEL**2,) * 2)
    draw = np.random.default_rng(4)
    shape = model.object.wave.shape
    wave = torch.as_tensor(np.exp(0.02 * draw.normal(size=shape) + 0.05j * draw.normal(size=shape)))
    for one, power in ((model, ObjectPower(*flat)), (other, ObjectPower(*flat, modulus=0.01))):
        one.object.set_transmission(wave.to(torch.complex64))
        apply_object_prior(one, power)
    usual, held = (one.object.wave.detach()[..., scanned] for one in (model, other))
    np.testing.assert_allclose(held.angle(), usual.angle(), atol=1e-5)
    assert held.abs().log().std() < 0.1 * usual.abs().log().std()
    power = ObjectPower((0.1, 0.2), (4.0, 1.0), 0.01)
    assert ObjectPower.of(power.to_table()) == power


def test_the_fall_beyond_the_rings_is_that_of_the_outer_ones():
    frequency = np.array([0.1, 0.5, 0.6, 0.7, 0.8, 0.9])
    power = ObjectPower(tuple(frequency), tuple(frequency**-5.0))
    np.testing.assert_allclose(power.evaluate(np.array([1.8])), 1.8**-5.0)


@pytest.mark.parametrize("kind", ["phase", "complex", "amplitude and phase"])
@pytest.mark.parametrize("slices", [1, 3])
def test_each_frequency_keeps_its_share_of_signal_over_signal_and_noise(kind, slices):
    model = make_model(200.0, kind=kind, slices=slices, thickness=20.0 * (slices > 1))
    noise, scanned = measure_noise(model)
    thing = model.object
    rows, columns = thing.canvas.shape
    power = ObjectPower((0.01, 10.0), (0.3 * noise * PIXEL**2,) * 2)
    row = torch.arange(rows)[:, None] / rows
    wave = torch.cos(2 * torch.pi * 3 * row).expand(rows, columns)
    part = thing.wave if kind == "complex" else thing.phase
    with torch.no_grad():
        part.copy_((1e-3 * wave).expand_as(part))
    before = part.detach().clone()
    apply_object_prior(model, power, excess=2.0)
    mean = before[..., scanned].mean(-1)[..., None, None]
    torch.testing.assert_close(part.detach() - mean, (before - mean) * 0.3 / 4.3, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("advance", [0.3, 1.0, 5.0])
def test_epochs_of_any_length_end_at_the_most_likely_object(advance):
    model = make_model(200.0, kind="phase")
    noise, scanned = measure_noise(model)
    part = model.object.phase
    power = ObjectPower((0.01, 10.0), (0.5 * noise * PIXEL**2,) * 2)
    rows, columns = model.object.canvas.shape
    row = torch.arange(rows)[:, None] / rows
    best = (1e-3 * torch.cos(2 * torch.pi * 3 * row).expand(rows, columns)).expand_as(part)
    for _ in range(int(20 / advance) + 5):
        with torch.no_grad():
            part.copy_(best + (part - best) * np.exp(-advance / 2))  # where patterns tell all that they can
        apply_object_prior(model, power, advance=advance)
    found = (part.detach() - part.detach()[..., scanned].mean()).flatten()
    wanted = (best - best[..., scanned].mean()).flatten()
    assert float(found @ wanted / (wanted @ wanted)) == pytest.approx(0.5 / 2.5, rel=0.02)


def test_many_electrons_change_nothing():
    model = make_model(1e9, kind="phase")
    with torch.no_grad():
        model.object.phase.normal_(generator=torch.Generator().manual_seed(0))
    before = model.object.phase.detach().clone()
    apply_object_prior(model, ObjectPower((0.1, 10.0), (1.0, 1.0)))
    torch.testing.assert_close(model.object.phase.detach(), before, atol=1e-4, rtol=1e-4)


def test_an_object_far_stronger_than_its_prior_stays_as_it_is():
    model = make_model(200.0, kind="phase")
    noise, _ = measure_noise(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.object.phase.normal_(generator=generator).mul_(100 * noise**0.5)
    before = model.object.phase.detach().clone()
    apply_object_prior(model, ObjectPower((0.1, 10.0), (1e-6 * noise, 1e-6 * noise)))
    assert float((model.object.phase.detach() - before).square().mean() / before.square().mean()) < 1e-4


def run(scan, prior, **more):
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "12 nm", "modes": 1}}
    tree = {"probe": probe, "object": {"pixels": {"kind": "phase"}}, "start": "none", "epochs": 12}
    job = Job.begin(Reconstruct.of({**tree, "object_prior": prior, **more}), scan=scan)
    for _ in job:
        pass
    return job


def score(job, truth):
    """Correlation inside the scan; the canvas begins a known number of pixels off the truth."""
    phase = job.model.object.phase.detach().sum((0, 1)).numpy()
    first = np.round(np.array(job.model.scan.canvas.origin) / PIXEL).astype(int)
    inside = slice(24, 60)
    seen = remove_ramp(phase[inside, inside])
    known = remove_ramp(truth.sum(0)[24 + first[0] : 60 + first[0], 24 + first[1] : 60 + first[1]])
    return np.corrcoef(seen.ravel(), known.ravel())[0, 1]


def test_few_electrons_show_more_with_the_prior_and_many_no_less():
    for dose, gain in ((300.0, 0.05), (1e6, -0.01)):
        scan, truth = make_scan(dose)
        free, held = (score(run(scan, prior), truth) for prior in ("none", "direct"))
        assert held > free + gain, dose


def test_the_recipe_keeps_the_power_and_a_stated_one_is_used_again(tmp_path):
    scan, _ = make_scan(300.0)
    assert "power" not in run(scan, "auto", epochs=1).recipe.found  # nothing was calibrated
    job = run(scan, "direct", epochs=2)
    table = job.recipe.found["power"]
    assert len(table["frequency"]) == len(table["density"]) > 0
    assert job.level.power == ObjectPower.of(table)
    text = job.to_text()
    (tmp_path / "run.yaml").write_text(text)
    assert Reconstruct.from_path(tmp_path / "run.yaml").found["power"] == table


@pytest.mark.parametrize("grid", [None, GRID])
def test_without_a_direct_image_there_is_no_prior(grid):
    scan, _ = make_scan(300.0)
    photons = replace(scan, geometry=replace(scan.geometry, beam="photon"))
    job = run(replace(scan, grid=None) if grid is None else photons, "direct", epochs=1)
    assert "power" not in job.recipe.found
    assert job.level.power is None
