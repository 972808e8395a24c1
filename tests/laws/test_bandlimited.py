"""An object of coarse pixels: interpolation, its adjoint, and the same patterns as those of fine pixels."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.fitting.loop import Progress, fit
from phaseloom.ptycho import batches, detectors, objects, scans
from phaseloom.ptycho.bandlimited_start import spectral_start
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import BandlimitedObject, PixelObject, bandlimited, make_start, resample_field
from tests.laws.conftest import in_double

PAIRS = [((8, 8), (16, 16)), ((7, 7), (16, 16)), ((8, 6), (15, 13)), ((5, 9), (13, 10)), ((1, 4), (3, 4))]
KINDS = ["complex", "amplitude and phase", "phase"]
PLACES = np.array([[0.0, 0.0], [1.37, 2.81], [3.19, 0.72], [2.6, 4.3]])


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def wave(shape, frequency):
    """A plane wave that is one in the middle pixel."""
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape)
    return torch.polar(
        torch.ones(shape, dtype=y.dtype), 2 * torch.pi * (frequency[0] * y[:, None] + frequency[1] * x)
    )


def scanned(shape=(12, 10), places=PLACES, counts=None):
    geometry = Geometry(wavelength=1.4, shape=shape, angle=(4e-5, 5e-5), distance=2e10)
    counts = np.ones((len(places), *shape)) if counts is None else counts
    return Scan4D(counts=counts, positions=np.asarray(places) * geometry.pixel, geometry=geometry)


def experiment(scan, grid, *, kind="complex", states=1, gaps=(), modes=2, seed=1):
    """A model in double precision from random parts."""
    room = scans.canvas(scan, border=2)
    start = noise(states, len(gaps) + 1, *grid, seed=seed)
    start = torch.polar(1 + 0.1 * start.real, 0.4 * start.imag)
    share = torch.linspace(1, 2, states, dtype=torch.float64)
    thing = BandlimitedObject(start, kind, gaps, room, share / share.sum())
    probe = Probe(noise(modes, *scan.window.shape, seed=2), scan.window)
    return in_double(Ptychography.of(scan, object=thing, probe=probe, detector=detectors.counting(scan)))


@pytest.mark.parametrize(("few", "many"), PAIRS)
def test_what_the_coarse_grid_can_hold_is_interpolated_exactly(few, many):
    for frequency in [(0, 0), (few[0] // 2 - (few[0] + 1) % 2, 1 if few[1] > 2 else 0), (-(few[0] // 2), -1)]:
        torch.testing.assert_close(resample_field(wave(few, frequency), many), wave(many, frequency))


@given(st.integers(0, 99), *(st.integers(1, 12) for _ in range(4)))
def test_interpolation_keeps_the_mean_and_can_be_undone(seed, y, x, more_y, more_x):
    field = noise(2, y, x, seed=seed)
    fine = resample_field(field, (y + more_y, x + more_x))
    torch.testing.assert_close(fine.mean((-2, -1)), field.mean((-2, -1)))
    torch.testing.assert_close(resample_field(fine, (y, x)), field)


@given(st.integers(0, 99), *(st.integers(1, 12) for _ in range(4)))
def test_the_adjoint_of_finer_is_coarser_times_the_ratio_of_pixels(seed, y, x, more_y, more_x):
    few, many = (y, x), (y + more_y, x + more_x)
    field, other = noise(*few, seed=seed), noise(*many, seed=seed + 1)
    there = torch.vdot(other.flatten(), resample_field(field, many).flatten())
    back = many[0] * many[1] / (y * x) * resample_field(other, few)
    torch.testing.assert_close(there, torch.vdot(back.flatten(), field.flatten()))


@pytest.mark.parametrize(("few", "many"), PAIRS)
def test_the_exit_wave_is_that_of_cdtools(few, many):
    pytest.importorskip("cdtools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cdtools.tools.interactions import RPI_interaction
    probe, field = noise(*many, seed=3), noise(2, *few, seed=4)
    torch.testing.assert_close(probe * resample_field(field, many), RPI_interaction(probe, field))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("grid", "states", "gaps"), [((7, 9), 1, ()), ((8, 8), 3, ()), ((9, 6), 2, (40.0,))])
def test_patterns_are_those_of_an_object_of_fine_pixels(kind, grid, states, gaps):
    scan, index = scanned(), torch.arange(4)
    model = experiment(scan, grid, kind=kind, states=states, gaps=gaps)
    coarse = model.object
    with torch.no_grad():
        seen = model(index)
        model.object = PixelObject(coarse.transmission(), "complex", gaps, coarse.canvas, coarse.occupancy)
        torch.testing.assert_close(seen, model(index), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(7, 8), (6, 9)])
def test_gradients_are_finite_differences(kind, grid):
    scan = scanned()
    model = experiment(scan, grid, kind=kind, states=2)
    counts, index = torch.rand(4, 12, 10, dtype=torch.float64) + 5, torch.arange(4)
    model.zero_grad()
    loss = lambda: (model(index).sqrt() - counts.sqrt()).square().sum()  # noqa: E731
    loss().backward()
    for parameter in model.object.parameters():
        way = noise(*parameter.shape, seed=5)
        way = way if parameter.is_complex() else way.real
        slope = (parameter.grad.conj() * way).sum().real
        with torch.no_grad():
            parameter.add_(way, alpha=1e-6)
            above = loss()
            parameter.sub_(way, alpha=2e-6)
            below = loss()
        torch.testing.assert_close(slope, (above - below) / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grid", [(5, 7), (8, 8), (11, 9)])
def test_the_bend_is_the_diagonal_of_the_curvature(grid):
    room = scans.Canvas((11, 12), (11, 12), (1.0, 1.0), (0.0, 0.0))
    thing = BandlimitedObject(make_start("uniform", (1, 1, *grid)), "complex", (), room)
    light = torch.rand(1, 11, 12, generator=torch.Generator().manual_seed(1))
    ratio, numbers = 11 * 12 / (grid[0] * grid[1]), grid[0] * grid[1]
    units = torch.eye(numbers, dtype=torch.complex128).view(numbers, *grid)
    whole = ratio * resample_field(light.double() * resample_field(units, room.shape), grid)
    diagonal = whole.flatten(1).diagonal().real.view(1, *grid)
    torch.testing.assert_close(thing.curvature(light).double(), diagonal, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(thing.curvature(torch.full((1, 1, 1), 2.0)), torch.full((1, 1, 1), 2 * ratio))


def test_newton_steps_find_an_object_of_coarse_pixels_from_a_scan():
    places = 3.0 * np.stack(np.meshgrid(range(4), range(4), indexing="ij"), -1).reshape(-1, 2)
    scan = scanned((16, 16), places + np.random.default_rng(0).uniform(-1, 1, places.shape))
    truth = experiment(scan, (14, 15), modes=1)
    with torch.no_grad():
        truth.probe.relative.mul_(100)
        counts = truth.detector.display(truth(torch.arange(len(scan)))).numpy()
    scan = scanned((16, 16), scan.positions / scan.geometry.pixel, counts)
    model = experiment(scan, (14, 15), modes=1)
    model.probe.load_state_dict(truth.probe.state_dict())
    wanted = truth.object.transmission().detach()
    model.object.set_transmission(torch.ones_like(wanted))
    model.requires_grad_(False)
    model.object.requires_grad_(True)
    optimizer = optimizers.gauss_newton(optimizers.groups(model.object.parts(), {"object": 0.5}))
    likelihood = Likelihood(model, scan)
    curvature = Curvature(model, likelihood)

    def prepare(progress):
        optimizer.set_rules(curvature(progress.history), curvature.momentum)

    order = batches.random(np.arange(len(scan)), 0, size=5)
    progress = Progress(model, optimizer)
    losses = [one.loss for one in fit(likelihood, order, progress, epochs=20, before=[prepare])]
    lit = torch.as_tensor(model.coverage() > 0.1 * model.coverage().max())
    found = model.object.transmission().detach()[..., lit]
    assert losses[-1] < 5e-3 * losses[0]
    assert (found - wanted[..., lit]).norm() < 0.05 * wanted[..., lit].norm()


def test_it_takes_over_a_transmission_on_either_grid():
    thing = BandlimitedObject(make_start("random", (2, 1, 6, 5), 1), "complex", (), scans.canvas(scanned()))
    fine, coarse = thing.transmission().detach(), thing.coarse().detach().clone()
    thing.set_transmission(make_start("random", (2, 1, 6, 5), 2))
    assert (thing.coarse() - coarse).abs().max() > 0.1
    thing.set_transmission(fine)
    torch.testing.assert_close(thing.coarse().detach(), coarse)
    torch.testing.assert_close(thing.transmission().detach(), fine)


def test_beyond_its_support_it_is_zero():
    support = torch.zeros(4, 4)
    support[1:3, 1:3] = 1
    room = scans.Canvas((8, 8), (8, 8), (1.0, 1.0), (0.0, 0.0))
    thing = BandlimitedObject(make_start("uniform", (1, 1, 4, 4)), "phase", (), room, support=support)
    torch.testing.assert_close(thing.transmission()[0, 0, ::2, ::2].abs(), support)


def test_a_parameter_file_finds_it_by_name():
    assert objects.bandlimited is bandlimited
    room = scans.Canvas((41, 40), (16, 16), (1.0, 2.0), (0.0, 0.0))
    assert bandlimited(room, pixel=2.5, modes=2, slices=2, thickness=9.0).wave.shape == (2, 2, 16, 32)
    assert bandlimited(room, pixel=1.0).grid == (41, 40)
    for pixel in (0.0, 0.9, 11.0, float("nan"), float("inf")):
        with pytest.raises(
            BadInput, match=r"bandlimited\.pixel: .* must lie between the probe's pixel, 1, and"
        ):
            bandlimited(room, pixel=pixel)
    with pytest.raises(BadInput, match=r"\(42, 3\) must have no more pixels than its canvas, \(41, 40\)"):
        BandlimitedObject(make_start("uniform", (1, 1, 42, 3)), "complex", (), room)


def test_the_spectral_start_is_the_leading_eigenvector():
    scan = scanned((9, 8), PLACES[:2])
    model = experiment(scan, (4, 3), modes=2).float()
    model.probe.relative.data = model.probe.relative.data.to(torch.complex64)
    model.object.wave.data = model.object.wave.data.to(torch.complex64)
    index = torch.arange(2)
    counts = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    columns = []
    for unit in torch.eye(12, dtype=torch.complex64).view(12, 1, 1, 4, 3):
        with torch.no_grad():
            model.object.set_transmission(unit)
            columns.append(model.wave(index).flatten(1, -3))
    matrix = torch.stack(columns, -1)
    heavy = torch.einsum("bmyxi,byx,bmyxj->ij", matrix.conj(), counts.to(matrix), matrix)
    leading = torch.linalg.eigh(heavy)[1][:, -1]
    found = spectral_start(model, counts, index, steps=300)
    alike = torch.vdot(leading, found.flatten()).abs() / found.norm()
    assert alike > 1 - 1e-4
    with torch.no_grad():
        model.object.set_transmission(found)
        torch.testing.assert_close(model(index).sum(), counts.sum(), rtol=1e-4, atol=0)
    with pytest.raises(BadInput, match="needs a band-limited object of one slice"):
        spectral_start(Ptychography.of(scan), counts, index)


def test_the_spectral_start_is_that_of_the_detector_at_hand():
    scan = scanned((9, 8), PLACES[:2])
    model = experiment(scan, (4, 3), modes=2)
    counts = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    index = torch.arange(2)

    def agreement(start):
        with torch.no_grad():
            model.object.set_transmission(start / start.norm())
            return (counts * model(index)).sum().item()

    points = spectral_start(model, counts, index, steps=300)
    model.detector = detectors.counting(scan, area=True).double()
    areas = spectral_start(model, counts, index, steps=300)
    assert agreement(areas) > agreement(points) * (1 + 1e-4)


def test_the_spectral_start_expects_the_counts_of_a_detector_of_uneven_gain():
    scan = scanned((9, 8), PLACES[:2])
    model = experiment(scan, (4, 3), modes=2)
    counts = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    index = torch.arange(2)
    model.detector.flat = torch.linspace(0.25, 4.0, 72, dtype=torch.float64).view(9, 8)
    with torch.no_grad():
        model.object.set_transmission(spectral_start(model, counts, index, steps=30))
        torch.testing.assert_close(model(index).sum(), counts.sum(), rtol=1e-4, atol=0)


def test_a_random_start_has_phases_all_around_the_circle():
    phase = make_start("random", (1, 1, 64, 64), 3).angle()
    counts, _ = np.histogram(phase.numpy(), bins=8, range=(-np.pi, np.pi))
    assert counts.min() > 0.7 * counts.mean()


def test_its_cell_holds_the_area_of_its_own_pixels():
    room = scans.Canvas((40, 40), (16, 16), (1.0, 2.0), (0.0, 0.0))
    assert objects.pixels(room).cell == 2.0
    assert bandlimited(room, pixel=4.0).cell == pytest.approx(16.0)
