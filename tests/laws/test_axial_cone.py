"""Laws of positions along a cone beam, whose magnification goes with them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho import noise, scans
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.probes import Probe
from phaseloom.ptycho.scans import Heights
from phaseloom.simulation import simulate
from tests.laws.conftest import in_double

FOCUS, BEHIND, PIXEL, N = 1e7, 4e7, 500.0, 64
"""Focus to object, object to detector, object pixel: angstrom; the wavelength is 1 A, the magnification 5."""

HEIGHTS = FOCUS * np.array([0.2, -0.25, 0.05, 0.0])
"""Their mean is nought: the object's window shrinks to 0.8 and grows to 1.25 of itself."""

PLACES = np.array([[0.0, 0.0], [1.37, 2.81], [3.19, 0.72], [2.6, 4.3]]) * PIXEL


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def cone(focus=FOCUS, shape=(N, N)):
    magnification = 1.0 if math.isinf(focus) else (focus + BEHIND) / focus
    angle = PIXEL * magnification / BEHIND
    return Geometry(wavelength=1.0, shape=shape, angle=(angle, angle), distance=BEHIND, focus=focus)


def beam(y, x, away):
    """A Gaussian beam whose waist lies a fifth of the way behind the focus, at a distance from the focus."""
    q = away - 0.2 * FOCUS - 8e5j
    return np.exp(1j * np.pi * (y[:, None] ** 2 + x**2) / q) / q * 1e9


def thing(y, x):
    """Two smooth blobs that shift the phase and absorb, at any place."""
    out = np.zeros((len(y), len(x)), complex)
    for a, b, wide, high in ((300.0, -900.0, 1100.0, 0.8 + 0.1j), (-1200.0, 1500.0, 1500.0, -0.5 + 0.05j)):
        out += 1j * high * np.exp(-((y[:, None] - a) ** 2 + (x - b) ** 2) / (2 * wide**2))
    return np.exp(out)


def grid(count, step):
    return (np.arange(count) - count // 2) * step


def seen(height, place):
    """A pattern by Fresnel's integral from the object to the detector, on 600 x 600 points, in numpy."""
    away, behind = FOCUS - height, BEHIND + height
    r, pixel = grid(600, 90.0), cone().detector_pixel[0]
    wave = beam(r, r, away) * thing(r + place[0], r + place[1])
    flight = np.exp(1j * np.pi * (grid(N, pixel)[:, None] - r) ** 2 / behind) * 90.0 / np.sqrt(behind)
    return np.abs(flight @ wave @ flight.T) ** 2 * pixel**2


def model_of(scan, *, transmission=None, probe=None):
    """In double precision, with the object and the probe of the simulation unless others are given."""
    room = scans.canvas(scan)
    y, x = (np.arange(n) * p + o for n, p, o in zip(room.shape, room.pixel, room.origin, strict=True))
    wave = torch.as_tensor((thing(y, x) if transmission is None else transmission(room))[None, None])
    r = grid(N, PIXEL)
    light = beam(r, r, FOCUS) * np.exp(-1j * np.pi * (r[:, None] ** 2 + r**2) / FOCUS) * PIXEL
    model = Ptychography.of(
        scan,
        object=PixelObject(wave, "complex", (), room, torch.ones(1)),
        probe=Probe(torch.as_tensor(light[None]) if probe is None else probe, scan.geometry),
        axial=scan.heights is not None,
    )
    return in_double(model)


def scanned(heights=HEIGHTS, *, geometry=None, places=PLACES):
    there = geometry or cone()
    return Scan4D(
        counts=np.ones((len(places), *there.shape)), positions=places, geometry=there, heights=heights
    )


def noisy(*shape, seed=0):
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def patterns(model):
    with torch.no_grad():
        return model(torch.arange(len(model.scan.start)))


def test_patterns_are_those_of_a_direct_integral():
    """Object, beam and magnification from first principles; positions lie between the pixels."""
    found = patterns(model_of(scanned())).numpy()
    wanted = np.array([seen(h, p) for h, p in zip(HEIGHTS, PLACES, strict=True)])
    flat = patterns(model_of(scanned(None))).numpy()
    errors = [np.abs(one - wanted).max((1, 2)) / wanted.max((1, 2)) for one in (found, flat)]
    assert errors[0].max() < 5e-4
    assert errors[1][:2].min() > 0.1  # without heights


def test_equal_heights_are_none_at_all():
    probe = noisy(1, N, N)
    one, other = (
        model_of(
            scanned(h), probe=probe, transmission=lambda room: 1 + 0.1 * noisy(*room.shape, seed=1).numpy()
        )
        for h in (np.full(4, 3e5), None)
    )
    with torch.no_grad():  # canvases differ in their margins
        y, x = np.round((np.array(other.scan.canvas.origin) - one.scan.canvas.origin) / PIXEL).astype(int)
        height, width = other.object.wave.shape[-2:]
        other.object.wave.copy_(one.object.wave[..., y : y + height, x : x + width])
    torch.testing.assert_close(patterns(one), patterns(other), rtol=1e-10, atol=1e-10)


def test_a_far_focus_is_a_parallel_beam():
    probe, heights = noisy(1, N, N), HEIGHTS * 1e-2
    one, other = (
        model_of(
            scanned(heights, geometry=cone(focus)),
            probe=probe,
            transmission=lambda room: thing(
                *(np.arange(n) * PIXEL + o for n, o in zip(room.shape, room.origin, strict=True))
            ),
        )
        for focus in (1e16, math.inf)
    )
    torch.testing.assert_close(patterns(one), patterns(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 41), (33, 36)])
def test_vacuum_keeps_all_light(shape):
    scan = scanned(geometry=cone(shape=shape))
    model = model_of(scan, probe=noisy(2, *shape), transmission=lambda room: np.ones(room.shape, complex))
    power = model.probe.modes().detach().abs().square().sum()
    torch.testing.assert_close(patterns(model).sum((1, 2)), power.expand(4), rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("name", ["heights.offsets", "heights.stretch", "scan.offsets", "object.wave"])
def test_gradients_agree_with_differences(name):
    model, index = model_of(scanned(HEIGHTS * 0.3)), torch.tensor([2, 0, 3])
    model.heights.unit = 1e4
    weight = torch.rand(3, N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    start = dict(model.named_parameters())[name].detach().clone().requires_grad_()
    along = noisy(*start.shape, seed=6)
    along = along if start.is_complex() else along.real
    step = 1e-2 if name.startswith("heights") else 1e-3

    def value(at):
        return (weight * functional_call(model, {name: at}, index)).sum()

    (gradient,) = torch.autograd.grad(value(start), start)
    with torch.no_grad():
        a, b = (value(start + k * step * along) - value(start - k * step * along) for k in (1, 2))
    slope = float((gradient.conj() * along).real.sum())
    assert float((8 * a - b) / (12 * step)) == pytest.approx(slope, rel=1e-6)


def test_light_on_the_object_is_where_it_falls():
    """Coverage sums to the light of all patterns; the beam is wider farther from the focus."""
    model = model_of(scanned(places=np.tile(PLACES[:1], (4, 1))))
    power = float(model.probe.modes().detach().abs().square().sum())
    assert model.coverage().sum() == pytest.approx(4 * power, rel=1e-3)
    y = np.arange(model.scan.canvas.window[0])
    widths = {}
    for modes, members in model.incident_modes():
        light = modes.abs().square().sum((0, 2)).numpy()
        mean = (y * light).sum() / light.sum()
        widths[int(members[0])] = np.sqrt(((y - mean) ** 2 * light).sum() / light.sum())
    assert widths[0] < 0.9 * widths[3] < 0.9 * 0.9 * widths[1]


def test_light_of_batches_lies_where_the_coverage_does():
    model = model_of(scanned(places=np.round(PLACES / PIXEL) * PIXEL))
    model.illumination_sum = torch.zeros(1, *model.scan.canvas.shape, dtype=torch.float64)
    patterns(model)
    coverage = torch.as_tensor(model.coverage()).double()
    torch.testing.assert_close(
        model.illumination_sum[0], coverage, rtol=0.0, atol=1e-5 * float(coverage.max())
    )


@pytest.mark.parametrize(("far", "modelled"), [(0.05, False), (1.0, True)])
def test_heights_of_a_beam_without_structure_are_told_by_the_fringes_of_the_object(far, modelled):
    """Its own depth of focus is endless; that of details of four pixels is 0.4 mm here."""
    scan = scanned(np.array([-1.0, 1.0, 0.0, 0.0]) * far * 4e6, geometry=cone(math.inf))
    flat = torch.ones(1, N, N, dtype=torch.complex64)
    model = Ptychography.of(scan, probe=Probe(flat, scan.geometry))
    assert (model.heights is not None) == modelled
    assert model.heights is None or model.heights.unit == pytest.approx(4e6)


def test_a_simulated_scan_is_that_of_its_model():
    y = grid(140, PIXEL) + 70 * PIXEL
    r = grid(N, PIXEL)
    light = beam(r, r, FOCUS) * np.exp(-1j * np.pi * (r[:, None] ** 2 + r**2) / FOCUS)
    where, heights = PLACES + 68 * PIXEL, HEIGHTS + 3e6
    optics = {"wavelength": 1.0, "dose": 1e9, "distance": BEHIND, "focus": FOCUS}
    scan = simulate.axial_scan(thing(y - 70 * PIXEL, y - 70 * PIXEL), PIXEL, where, heights, light, **optics)
    assert scan.geometry.pixel == pytest.approx((PIXEL, PIXEL))
    model = model_of(
        scan,
        probe=torch.as_tensor(scan.probe),
        transmission=lambda room: thing(
            *(np.arange(n) * PIXEL + o - 70 * PIXEL for n, o in zip(room.shape, room.origin, strict=True))
        ),
    )
    found = model.detector.display(patterns(model)).numpy()
    assert np.abs(np.sqrt(found) - np.sqrt(scan.counts)).max() < 4


def test_an_error_of_one_height_asks_for_a_step_back():
    scan = scanned()
    model = model_of(scan)
    counts = patterns(model).numpy() * 1e3
    model = model_of(replace(scan, counts=counts), probe=model.probe.modes().detach() * 1e3**0.5)
    model.requires_grad_(False)
    model.heights.unit = 2e5
    model.heights.offsets.requires_grad_()
    likelihood = Likelihood(model, replace(scan, counts=counts), noise.amplitude)
    rule = Curvature(model, likelihood)([{"loss": 1.0}])[model.heights.offsets]
    with torch.no_grad():
        model.heights.offsets[1] += 0.03
    (gradient,) = torch.autograd.grad(likelihood(torch.arange(4))["noise"], model.heights.offsets)
    step = rule(model.heights.offsets, gradient, 4, 1.0, None)
    assert 1 / 3 < float(step[1]) / 0.03 < 3


@pytest.mark.parametrize("far", [0.99 * FOCUS, -1.01 * BEHIND])
def test_heights_beyond_the_focus_or_the_detector_are_refused(far):
    scan = scanned(np.array([far, -far / 3, -far / 3, -far / 3]))
    with pytest.raises(BadInput, match="into the focus of the cone beam or on the detector"):
        Heights.of(scan, 1.0)


def test_slices_are_refused():
    scan = scanned()
    room = scans.canvas(scan)
    thick = PixelObject(torch.ones(1, 2, *room.shape, dtype=torch.complex64), "complex", (9.0,), room)
    with pytest.raises(BadInput, match="give the object one slice"):
        Ptychography.of(scan, object=thick, axial=True)
