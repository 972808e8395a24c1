"""Far fields of one object at several energies: the model is the physics, computed here by NumPy alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.propagate import far_field, matrix_transform
from phaseloom.ptycho import objects, probes, scans
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.propagators import EnergyFlight, FreeFlight

SHAPE, ANGLE = (16, 18), (1e-4, 1.1e-4)
WAVELENGTHS = np.array([1.55, 1.41, 1.55])
NUMBERS = np.array([0, 0, 1, 2, 1])


def make_scan(wavelengths: Any = WAVELENGTHS, seed: int = 0) -> Scan4D:
    rng = np.random.default_rng(seed)
    shortest = float(np.min(wavelengths))
    geometry = Geometry(wavelength=shortest, shape=SHAPE, angle=ANGLE, distance=1e10)
    positions = rng.uniform(0, 6 * geometry.pixel[0], (len(NUMBERS), 2))
    known: Any = {"scan_numbers": NUMBERS, "scan_wavelengths": np.asarray(wavelengths)}
    counts = rng.poisson(50.0, (len(NUMBERS), *SHAPE)).astype(np.float32)
    return Scan4D(counts=counts, positions=positions, geometry=geometry, **known)


def make_model(scan: Scan4D, *, modes: int = 2) -> Any:
    thing = objects.pixels(scans.canvas(scan), kind="amplitude and phase")
    model = Ptychography.of(scan, object=thing, probe=probes.of_each_scan(scan, modes=modes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        thing.phase.copy_(10 * torch.rand(thing.phase.shape, generator=generator) - 5)  # more than a turn
        thing.amplitude.copy_(0.3 + 0.7 * torch.rand(thing.phase.shape, generator=generator))
    return model


@pytest.mark.parametrize(("count", "places", "stretch"), [(8, 9, 1.1), (9, 12, 1.27), (6, 6, 1.0)])
def test_a_matrix_transform_is_the_sum_over_places(count, places, stretch):
    rng = np.random.default_rng(0)
    wave = rng.normal(size=places) + 1j * rng.normal(size=places)
    found = matrix_transform(count, places, stretch).numpy() @ wave
    for k in range(-(count // 2), (count + 1) // 2):
        terms = [
            w * np.exp(-2j * np.pi * k * (x - places // 2) / (count * stretch)) for x, w in enumerate(wave)
        ]
        assert found[k] == pytest.approx(sum(terms) / np.sqrt(count * stretch), abs=1e-12)


def test_a_matrix_transform_keeps_power_and_its_adjoint_brings_waves_back():
    x = torch.arange(26) - 13
    spot = torch.exp(-(x**2) / 8.0 + 0.3j * x).to(torch.complex128)
    there = matrix_transform(20, 26, 1.3)
    seen = there @ spot
    assert seen.abs().square().sum().item() == pytest.approx(spot.abs().square().sum().item(), rel=1e-4)
    torch.testing.assert_close(there.mH @ seen, spot, atol=1e-3, rtol=0)


def test_patterns_are_those_of_the_power_of_the_object_at_the_angles_of_the_detector():
    scan = make_scan()
    model = make_model(scan)
    of_phase, of_absorption = 1.12, 0.4
    with torch.no_grad():
        model.propagator.ratios.copy_(torch.tensor([[of_phase, of_absorption]]))
        found = model(torch.arange(5)).numpy()
        weights = model.detector.weights.tolist()
    height, width = scan.window.shape
    amplitude, phase = (one.detach().numpy()[0, 0] for one in (model.object.amplitude, model.object.phase))
    places, rest = (one.detach() for one in model.scan(torch.arange(5)))
    for n in range(5):
        longer = NUMBERS[n] != 1
        powers = (of_phase, of_absorption) if longer else (1.0, 1.0)
        y, x = places[n].tolist()
        cut = (slice(y, y + height), slice(x, x + width))
        window = amplitude[cut] ** powers[1] * np.exp(1j * powers[0] * phase[cut])
        beam = model.probe(rest[n : n + 1], None, torch.tensor([n]))[0].detach().numpy()
        expected = np.zeros(SHAPE)
        wavelength = 1.55 if longer else 1.41
        waves = []
        for count, angle, pixel, side in zip(SHAPE, ANGLE, scan.window.pixel, (height, width), strict=True):
            angles = (np.arange(count) - count // 2) * angle
            step = 2 * np.pi * pixel / wavelength * (np.arange(side) - side // 2)
            waves.append(np.exp(-1j * np.outer(angles, step)) * np.sqrt(angle * pixel / wavelength))
        for mode in beam:
            expected += abs(waves[0] @ (mode * window) @ waves[1].T) ** 2
        np.testing.assert_allclose(np.fft.fftshift(found[n]), expected * weights[n], rtol=2e-3, atol=1e-3)


def test_at_equal_wavelengths_it_is_the_far_field():
    scan = make_scan(np.full(3, 1.41))
    model = make_model(scan)
    assert isinstance(model.propagator, EnergyFlight)
    plain = make_model(replace(scan, scan_wavelengths=None))
    assert type(plain.propagator) is FreeFlight
    index = torch.tensor([4, 0, 3])
    torch.testing.assert_close(model(index), plain(index), rtol=1e-4, atol=1e-3)
    assert model.parts()["energies"][0].numel() == 0


def test_ratios_begin_with_those_of_the_wavelength_and_equal_energies_have_one():
    model = make_model(make_scan())
    ratio = 1.55 / 1.41
    torch.testing.assert_close(model.propagator.ratios.detach(), torch.tensor([[ratio, ratio**3]]))
    assert model.propagator.numbers.tolist() == [1, 1, 0, 1, 0]
    assert not {"shift", "descan"} & set(model.parts())


def test_patterns_do_not_depend_on_the_order_of_a_batch():
    model = make_model(make_scan())
    whole = model(torch.arange(5)).detach()
    mixed = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(model(mixed).detach(), whole[mixed], rtol=1e-4, atol=1e-3)


def test_gradients_are_those_of_differences():
    flight: Any = make_model(make_scan()).propagator.double()
    flight.ratios.requires_grad_(True)
    generator = torch.Generator().manual_seed(2)
    shape = (3, 1, 1, *flight.shape)
    amplitude, phase = (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.2 for _ in range(2))
    beam = torch.randn(3, 1, 1, *flight.shape, generator=generator, dtype=torch.complex128)
    index, rest = torch.tensor([2, 0, 4]), torch.zeros(3, 2, dtype=torch.float64)
    weight = torch.rand(3, 1, 1, *SHAPE, generator=generator, dtype=torch.float64)

    def loss(ratios: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            flight.ratios.copy_(ratios)
        seen = flight(beam, flight.transmit(one, other, index), rest, index)
        return (weight * seen.abs().square()).sum()

    inputs = flight.ratios.detach().clone(), amplitude.requires_grad_(), phase.requires_grad_()
    value = loss(*inputs)
    value.backward()
    assert flight.ratios.grad is not None
    assert amplitude.grad is not None
    assert phase.grad is not None
    for source, gradient in (
        (inputs[0], flight.ratios.grad),
        (amplitude, amplitude.grad),
        (phase, phase.grad),
    ):
        direction = torch.randn(source.shape, generator=generator, dtype=torch.float64)
        step = 1e-5
        with torch.no_grad():
            moved = [
                loss(*(one + sign * step * direction if one is source else one for one in inputs))
                for sign in (1, -1)
            ]
        slope = (moved[0] - moved[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-6)


def test_guesses_of_probes_have_the_size_that_they_have_at_their_own_wavelength():
    scan = make_scan()
    both = probes.of_each_scan(scan, defocus_values=[3e5, 3e5, 3e5], modes=1)
    for number, n in ((0, 0), (1, 2)):
        own = replace(
            scan.select(np.flatnonzero(number == NUMBERS)), scan_numbers=None, scan_wavelengths=None
        )
        own = replace(own, geometry=replace(own.geometry, wavelength=float(WAVELENGTHS[number])))
        alone = probes.from_patterns(own, defocus=3e5, modes=1).modes().detach()
        found = both.modes_of(torch.tensor([n]))[0].detach()
        stretch = WAVELENGTHS[number] / 1.41
        matrices = [matrix_transform(a, b, stretch) for a, b in zip(SHAPE, scan.window.shape, strict=True)]
        seen = matrices[0].to(found.dtype) @ found @ matrices[1].to(found.dtype).mT
        wanted = far_field(torch.fft.ifftshift(alone, dim=(-2, -1)))
        near = (seen - wanted).abs().square().sum() / wanted.abs().square().sum()
        assert float(near) < 0.02  # but for what a flat beam has beyond the window


def test_several_slices_and_enlarged_patterns_are_refused():
    scan = make_scan()
    thick = objects.pixels(scans.canvas(scan), slices=2, thickness=10.0)
    with pytest.raises(BadInput, match="object: slices: 2 cannot be fitted at several energies"):
        Ptychography.of(scan, object=thick, probe=probes.of_each_scan(scan))
    moved = replace(scan, descan=np.ones((5, 2)))
    with pytest.raises(BadInput, match="not supported with scans of several energies: remove that step"):
        Ptychography.of(moved, probe=probes.of_each_scan(scan))


def test_an_amplitude_below_zero_is_a_dark_pixel_that_comes_back():
    """Without its slope there one that a long step had thrown off stayed wrong (3 of 8 simulated pairs)."""
    flight = make_model(make_scan()).propagator
    amplitude = torch.full((2, 1, 1, 3, 3), -0.7, requires_grad=True)
    seen = flight.transmit(amplitude, torch.zeros(2, 1, 1, 3, 3), torch.tensor([0, 2]))
    assert bool((seen.abs() < 0.1).all())
    seen.real.sum().backward()
    assert amplitude.grad is not None
    assert bool((amplitude.grad > 0.2).all())
