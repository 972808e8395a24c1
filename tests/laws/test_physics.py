"""Laws of wave physics. A new operator is one line in one of the tables."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from phaseloom.physics.detect import intensity
from phaseloom.physics.fourier import (
    fit_window,
    frequencies,
    ramp,
    shift,
    shift_to_centre,
    shift_to_corner,
    to_real,
    to_reciprocal,
)
from phaseloom.physics.modes import orthogonalise, powers
from phaseloom.physics.optics import (
    aberration_change,
    aberration_polynomial,
    coefficients,
    electron_wavelength,
    interaction,
    photon_wavelength,
    probe_wave,
    to_cartesian,
    to_polar,
)
from phaseloom.physics.patches import gather, scatter
from phaseloom.physics.propagate import (
    angular_spectrum,
    far_field,
    fly,
    fresnel,
    fresnel_scaling,
    multislice,
    tilt_ramp,
)

WAVELENGTH = 0.0418
PIXEL = (0.31, 0.27)
SHAPES = [(8, 8), (7, 9), (6, 11), (1, 5)]
COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}

sides = st.integers(1, 17)
amounts = st.floats(-9, 9, allow_nan=False)
distances = st.floats(-300, 300, allow_nan=False)


def noise(*shape, seed=0, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def flown(kernel):
    def build(shape, real):
        h = kernel(shape, PIXEL, WAVELENGTH, torch.tensor(37.3, dtype=real))
        return (lambda wave: fly(wave, h)), (lambda wave: fly(wave, h.conj()))

    return build


def moved(shape, real):
    amount = torch.tensor([[1.37, -2.81]], dtype=real)
    return (lambda wave: shift(wave, amount)), (lambda wave: shift(wave, -amount))


def tilted(shape, real):
    h = tilt_ramp(shape, PIXEL, torch.tensor(12.0, dtype=real), torch.tensor([0.03, -0.02], dtype=real))
    return (lambda wave: fly(wave, h)), (lambda wave: fly(wave, h.conj()))


UNITARY = {
    "fourier": lambda shape, real: (to_reciprocal, to_real),
    "far field": lambda shape, real: (far_field, to_real),
    "order": lambda shape, real: (shift_to_centre, shift_to_corner),
    "fresnel": flown(fresnel),
    "angular spectrum": flown(angular_spectrum),
    "shift": moved,
    "tilt": tilted,
}


def resized(before, after):
    return (lambda wave: fit_window(wave, after)), (lambda wave: fit_window(wave, before)), (2, *before)


def cut(count, slices, window):
    corner = torch.tensor([[0, 0], [3, 1], [2, 4], [3, 1]])[:count]
    field = (9, 11)
    return (
        (lambda wave: gather(wave, corner, window)),
        (lambda windows: scatter(windows, corner, field)),
        (*slices, *field),
    )


def decaying():
    """Flight with evanescent waves: not unitary, yet its adjoint flies with the conjugate kernel."""
    h = angular_spectrum((6, 7), (0.3, 0.4), 1.0, torch.tensor(0.2, dtype=torch.float64))
    return (lambda wave: fly(wave, h)), (lambda wave: fly(wave, h.conj())), (2, 6, 7)


ADJOINT = {
    "gather": cut(4, (3,), (5, 4)),
    "gather without slices": cut(3, (), (6, 7)),
    "gather one": cut(1, (2,), (9, 11)),
    "crop even to odd": resized((8, 10), (5, 7)),
    "crop odd to even": resized((9, 7), (4, 6)),
    "pad even to odd": resized((4, 6), (9, 11)),
    "crop and pad": resized((9, 4), (6, 7)),
    "evanescent flight": decaying(),
} | {name: (*build((6, 7), torch.float64), (2, 6, 7)) for name, build in UNITARY.items()}


def inner(a, b):
    return torch.vdot(a.flatten(), b.flatten())


def largest(difference, of):
    return (difference.abs().max() / of.abs().max()).item()


class TestUnitary:
    @pytest.mark.parametrize("real", [torch.float64, torch.float32], ids=["double", "single"])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("name", UNITARY)
    def test_keeps_power_and_is_undone_by_its_inverse(self, name, shape, real):
        there, back = UNITARY[name](shape, real)
        wave = noise(1, *shape, dtype=COMPLEX[real])
        tolerance = 1e-12 if real == torch.float64 else 1e-5
        seen = there(wave)
        assert seen.dtype == wave.dtype
        assert seen.abs().square().sum().item() == pytest.approx(
            wave.abs().square().sum().item(), rel=tolerance
        )
        assert largest(back(seen) - wave, wave) < tolerance

    @given(sides, sides, distances)
    def test_fresnel_flight_keeps_power_in_any_window(self, y, x, z):
        wave = noise(2, y, x)
        kernel = fresnel((y, x), PIXEL, WAVELENGTH, torch.tensor(z, dtype=torch.float64))
        assert fly(wave, kernel).abs().square().sum().item() == pytest.approx(
            wave.abs().square().sum().item()
        )

    def test_evanescent_waves_decay_whichever_way_they_fly(self):
        for z in (-2.0, 2.0):
            kernel = angular_spectrum((16, 16), (0.2, 0.2), 1.0, torch.tensor(z))
            assert kernel.abs().max() <= 1 + 1e-6
            assert kernel[0, 8].abs() < 1e-6


class TestAdjoint:
    @pytest.mark.parametrize("name", ADJOINT)
    def test_dot_products_agree(self, name):
        there, back, shape = ADJOINT[name]
        x = noise(*shape)
        y = noise(*there(x).shape, seed=1)
        assert abs(inner(y, there(x)) - inner(back(y), x)).item() < 1e-10 * abs(inner(y, y)).item()

    @pytest.mark.parametrize("name", ADJOINT)
    def test_autograd_knows_the_adjoint(self, name):
        there, back, shape = ADJOINT[name]
        x = noise(*shape).requires_grad_()
        seen = there(x)
        y = noise(*seen.shape, seed=1)
        (pulled,) = torch.autograd.grad(seen, x, y)
        torch.testing.assert_close(pulled, back(y), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("name", ADJOINT)
    def test_functional_transforms_know_it_too(self, name):
        there, back, shape = ADJOINT[name]
        seen, pull = torch.func.vjp(there, noise(*shape))
        y = noise(*seen.shape, seed=1)
        torch.testing.assert_close(pull(y)[0], back(y), rtol=1e-10, atol=1e-10)

    @given(sides, sides, sides, sides)
    def test_padding_is_undone_by_cropping(self, y, x, more_y, more_x):
        wave = noise(1, y, x)
        padded = fit_window(wave, (y + more_y, x + more_x))
        assert torch.equal(fit_window(padded, (y, x)), wave)
        assert padded[0, (y + more_y) // 2, (x + more_x) // 2] == wave[0, y // 2, x // 2]


class TestComposition:
    @pytest.mark.parametrize("kernel", [fresnel, angular_spectrum])
    @given(sides, sides, distances, distances)
    def test_flight_adds_up(self, kernel, y, x, first, second):
        def over(z):
            return kernel((y, x), PIXEL, WAVELENGTH, torch.tensor(z, dtype=torch.float64))

        wave = noise(1, y, x)
        there = fly(fly(wave, over(first)), over(second))
        torch.testing.assert_close(there, fly(wave, over(first + second)), rtol=0, atol=1e-9)

    @given(sides, sides, st.lists(amounts, min_size=4, max_size=4))
    def test_shifts_add_up_in_odd_and_even_windows(self, y, x, steps):
        first, second = torch.tensor(steps, dtype=torch.float64).reshape(2, 1, 2)
        wave = noise(1, y, x)
        twice = shift(shift(wave, first), second)
        torch.testing.assert_close(twice, shift(wave, first + second), rtol=0, atol=1e-10)

    @given(sides, sides, st.integers(-5, 5), st.integers(-5, 5))
    def test_whole_pixels_roll_the_wave(self, y, x, down, right):
        wave = noise(1, y, x)
        there = shift(wave, torch.tensor([[down, right]], dtype=torch.float64))
        torch.testing.assert_close(there, wave.roll((down, right), (-2, -1)), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_slices_without_distance_are_one_slice(self, shape):
        wave, slices = noise(2, 3, *shape), noise(2, 4, *shape, seed=1)
        kernel = angular_spectrum(shape, PIXEL, WAVELENGTH, torch.tensor(0.0, dtype=torch.float64))
        one = multislice(wave, slices.prod(1, keepdim=True), None)
        torch.testing.assert_close(multislice(wave, slices, kernel), one, rtol=1e-10, atol=1e-10)

    def test_each_gap_may_have_its_own_kernel(self):
        wave, empty = noise(1, 2, 7, 8), torch.ones(1, 3, 7, 8, dtype=torch.complex128)
        gaps = fresnel((7, 8), PIXEL, WAVELENGTH, torch.tensor([11.0, 31.0], dtype=torch.float64))
        whole = fresnel((7, 8), PIXEL, WAVELENGTH, torch.tensor(42.0, dtype=torch.float64))
        torch.testing.assert_close(multislice(wave, empty, gaps), fly(wave, whole), rtol=0, atol=1e-10)

    def test_empty_slices_are_free_flight(self):
        wave, empty = noise(2, 2, 9, 6), torch.ones(2, 4, 9, 6, dtype=torch.complex128)
        step, whole = (
            angular_spectrum((9, 6), PIXEL, WAVELENGTH, torch.tensor(z, dtype=torch.float64))
            for z in (15, 45)
        )
        torch.testing.assert_close(multislice(wave, empty, step), fly(wave, whole), rtol=0, atol=1e-10)

    @given(st.integers(1, 5), st.integers(2, 9), st.integers(3, 9))
    def test_orthogonalised_modes_are_the_same_light(self, count, y, x):
        modes = noise(count, y, x)
        sorted_ = orthogonalise(modes)
        torch.testing.assert_close(intensity(sorted_[None]), intensity(modes[None]), rtol=1e-9, atol=1e-9)
        overlap = torch.einsum("ayx,byx->ab", sorted_, sorted_.conj())
        assert (overlap - overlap.diag().diag()).abs().max() < 1e-9 * overlap.abs().max()
        assert (powers(sorted_).diff() <= 1e-12).all()
        assert powers(sorted_).sum().item() == pytest.approx(1)

    def test_orthogonalised_modes_give_the_same_patterns(self):
        modes, slices = noise(3, 7, 8), noise(2, 3, 7, 8, seed=1)
        kernel = angular_spectrum((7, 8), PIXEL, WAVELENGTH, torch.tensor(15.0, dtype=torch.float64))
        before, after = (
            intensity(far_field(multislice(m.expand(2, -1, -1, -1), slices, kernel)))
            for m in (modes, orthogonalise(modes))
        )
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def experiment(probe, object_, place, *, pixel=PIXEL, distance=15.0):
    """Patterns ``(b, y, x)`` of an object at real positions of the window's middle."""
    shape = (probe.shape[-2], probe.shape[-1])
    middle = torch.tensor([n // 2 for n in shape])
    whole = place.round().long()
    kernel = angular_spectrum(shape, pixel, WAVELENGTH, torch.tensor(distance, dtype=place.dtype))
    wave = shift(probe[None], (place - whole)[:, None])
    return intensity(far_field(multislice(wave, gather(object_, whole - middle, shape), kernel)))


class TestEnergy:
    @given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 13), st.integers(2, 13), st.integers(0, 99))
    def test_a_phase_object_loses_no_electron(self, slices, modes, y, x, seed):
        object_ = torch.polar(
            *(f(noise(slices, y + 6, x + 6, seed=seed).real) for f in (torch.ones_like, lambda p: p))
        )
        place = torch.tensor([[0.0, 0.0], [1.37, 3.81], [4.49, 2.51]], dtype=torch.float64)
        place = place + torch.tensor([y // 2, x // 2])
        probe = noise(modes, y, x, seed=seed + 1)
        patterns = experiment(probe, object_, place)
        expected = probe.abs().square().sum().expand(3)
        torch.testing.assert_close(patterns.sum((-2, -1)), expected, rtol=1e-10, atol=0)


class TestSymmetry:
    place = torch.tensor([[4.2, 6.9], [5.61, 5.0], [7.5, 8.38]], dtype=torch.float64)

    def test_a_global_phase_is_not_seen(self):
        probe, object_ = noise(2, 7, 9), noise(3, 13, 15, seed=1)
        turned = experiment(probe * np.exp(0.7j), object_ * np.exp(-2.1j), self.place)
        torch.testing.assert_close(turned, experiment(probe, object_, self.place), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("shape", [(6, 9), (7, 8), (8, 8)], ids=str)
    def test_transposing_everything_transposes_the_pattern(self, shape):
        probe, object_ = noise(2, *shape), noise(3, 13, 15, seed=1)
        turned = experiment(probe.mT, object_.mT, self.place.flip(-1), pixel=PIXEL[::-1])
        torch.testing.assert_close(turned, experiment(probe, object_, self.place).mT, rtol=1e-10, atol=1e-10)

    def test_the_conjugate_inverse_twin_is_not_told_apart(self):
        """A single slice and odd windows; thick objects break the twin."""
        probe, object_ = noise(2, 7, 9), noise(1, 13, 15, seed=1)
        turned = torch.tensor([12, 14]) - self.place
        twin = experiment(probe.conj().flip(-2, -1), object_.conj().flip(-2, -1), turned)
        torch.testing.assert_close(twin, experiment(probe, object_, self.place), rtol=1e-10, atol=1e-10)

    def test_mirrored_flight_has_the_same_twin(self):
        """Conjugation turns the beam around: it flies the negative distance."""
        wave = noise(1, 7, 9)
        there, back = (
            fresnel((7, 9), PIXEL, WAVELENGTH, torch.tensor(z, dtype=torch.float64)) for z in (20, -20)
        )
        torch.testing.assert_close(fly(wave, there).conj(), fly(wave.conj(), back), rtol=0, atol=1e-10)


class TestPrecision:
    def test_single_and_double_agree(self):
        probe, object_ = noise(3, 16, 15), torch.exp(1j * noise(4, 22, 21, seed=1).real)
        place = torch.tensor([[8.3, 8.8], [10.01, 12.49]], dtype=torch.float64)
        double = experiment(probe, object_, place)
        single = experiment(probe.to(torch.complex64), object_.to(torch.complex64), place.float())
        assert single.dtype == torch.float32
        assert largest(single.sqrt() - double.sqrt(), double.sqrt()) < 2e-6

    @pytest.mark.parametrize("kernel", [fresnel, angular_spectrum])
    @pytest.mark.parametrize(("wavelength", "pixel", "distance"), [(0.0418, 0.15, 15.0), (1.4, 900.0, 2e7)])
    def test_distance_is_differentiable_in_single_precision(self, kernel, wavelength, pixel, distance):
        wave, wanted = noise(1, 32, 32), noise(1, 32, 32, seed=1).abs()
        slopes = []
        for real in (torch.float64, torch.float32):
            z = torch.tensor(distance, dtype=real, requires_grad=True)
            there = fly(wave.to(COMPLEX[real]), kernel((32, 32), (pixel, pixel), wavelength, z))
            loss = (there.abs() - wanted.to(real)).square().sum()
            slopes.append(torch.autograd.grad(loss, z)[0].item())
        assert slopes[1] == pytest.approx(slopes[0], rel=1e-4)


def real(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def over(kernel, shape=(4, 5), pixel=PIXEL, wavelength=WAVELENGTH):
    return lambda z: kernel(shape, pixel, wavelength, z)


CORNER = torch.tensor([[0, 1], [2, 0], [2, 0]])
GRADIENTS = {
    "shift": (shift, lambda: (noise(2, 4, 5), real([0.3, -1.2], [2.5, 0.0]))),
    "ramp": (lambda s: ramp(s, (4, 5)), lambda: (real([0.3, -1.2]),)),
    "fresnel": (over(fresnel), lambda: (real(10.0, -3.0),)),
    "angular spectrum": (over(angular_spectrum), lambda: (real(10.0, -3.0),)),
    "evanescent waves": (
        over(angular_spectrum, pixel=(0.3, 0.3), wavelength=1.0),
        lambda: (real(0.2, -0.1),),
    ),
    "tilt": (
        lambda z, tilt: tilt_ramp((4, 5), PIXEL, z, tilt),
        lambda: (real(10.0)[0].detach().requires_grad_(), real(0.02, -0.03)),
    ),
    "multislice": (multislice, lambda: (noise(2, 2, 3, 4), noise(2, 3, 3, 4, seed=1), noise(3, 4, seed=2))),
    "gather": (lambda field: gather(field, CORNER, (3, 4)), lambda: (noise(2, 5, 6),)),
    "scatter": (lambda windows: scatter(windows, CORNER, (5, 6)), lambda: (noise(3, 2, 3, 4),)),
    "intensity": (intensity, lambda: (noise(2, 2, 3, 4),)),
    "fit window": (lambda wave: fit_window(wave, (3, 7)), lambda: (noise(1, 4, 5),)),
}


class TestGradient:
    @pytest.mark.parametrize("name", GRADIENTS)
    def test_autograd_agrees_with_differences(self, name):
        function, values = GRADIENTS[name]
        assert torch.autograd.gradcheck(function, [value.requires_grad_() for value in values()])

    @pytest.mark.parametrize("name", ["gather", "scatter", "shift", "multislice"])
    def test_so_does_the_second_derivative(self, name):
        function, values = GRADIENTS[name]
        assert torch.autograd.gradgradcheck(function, [value.requires_grad_() for value in values()])


class TestAnalytic:
    @pytest.mark.parametrize(
        ("energy", "wavelength"), [(300e3, 0.0196875), (80e3, 0.0417572), (200e3, 0.0250793)]
    )
    def test_electron_wavelengths(self, energy, wavelength):
        assert electron_wavelength(energy) == pytest.approx(wavelength, rel=2e-6)

    def test_slow_electrons_are_those_of_de_broglie(self):
        assert electron_wavelength(1.0) == pytest.approx(12.2643, rel=1e-5)

    def test_photon_wavelength(self):
        assert photon_wavelength(12398.42) == pytest.approx(1.0, rel=1e-6)

    @pytest.mark.parametrize(
        ("energy", "sigma"), [(100e3, 0.9244e-3), (200e3, 0.7288e-3), (300e3, 0.6526e-3)]
    )
    def test_interaction_parameter(self, energy, sigma):
        """Values of Kirkland, Advanced Computing in Electron Microscopy, table 5.1 (rad per V angstrom)."""
        assert interaction(energy) == pytest.approx(sigma, rel=2e-4)

    def test_a_gaussian_beam_spreads_as_it_should(self):
        waist, z, pixel, n = 6.0, 400.0, (0.8, 1.1), (127, 96)
        y, x = ((torch.arange(m, dtype=torch.float64) - m // 2) * d for m, d in zip(n, pixel, strict=True))
        square = y[:, None] ** 2 + x**2
        beam = torch.exp(-square / waist**2).to(torch.complex128)
        there = fly(beam[None], fresnel(n, pixel, 0.5, torch.tensor(z, dtype=torch.float64)))[0]
        q = 1 + 1j * z * 0.5 / (math.pi * waist**2)
        assert largest(there - torch.exp(-square / (waist**2 * q)) / q, there) < 1e-6

    @pytest.mark.parametrize("kernel", [fresnel, angular_spectrum])
    def test_a_square_aperture_gives_fresnel_integrals(self, kernel):
        """Goodman, Introduction to Fourier Optics, section 4.5.1; pixels blur the sharp edge."""
        n, half, wavelength, z = 512, 60, 0.02, 20_000.0
        r = np.arange(n) - n // 2
        hole = torch.as_tensor((abs(r) <= half).astype(complex))
        flight = kernel((n, n), (1.0, 1.0), wavelength, torch.tensor(z, dtype=torch.float64))
        there = fly((hole[:, None] * hole)[None], flight)[0]
        scale = math.sqrt(2 / (wavelength * z))
        (s1, c1), (s2, c2) = (special.fresnel(scale * (edge - r)) for edge in (-half - 0.5, half + 0.5))
        line = np.exp(-1j * np.pi / 4) / np.sqrt(2) * ((c2 - c1) + 1j * (s2 - s1))
        error = there.numpy() - np.outer(line, line)
        assert np.abs(error).max() < 0.04
        assert np.sqrt((np.abs(error) ** 2).mean()) < 0.01

    def test_a_focused_probe_is_an_airy_disk(self):
        wavelength, semiangle, pixel = 0.0418, 0.025, 0.04
        wave = probe_wave(
            (512, 511), (pixel, pixel), wavelength=wavelength, semiangle=semiangle, dtype=torch.complex128
        )
        profile = wave[256].abs().square().numpy()
        r = (np.arange(511) - 255) * pixel
        argument = 2 * np.pi * semiangle / wavelength * np.where(r == 0, 1e-9, r)
        airy = (2 * special.j1(argument) / argument) ** 2
        assert np.abs(profile / profile.max() - airy).max() < 0.01
        dark = np.argmin(profile[255 : 255 + round(1.5 / pixel)]) * pixel
        assert dark == pytest.approx(0.6098 * wavelength / semiangle, abs=pixel)

    @pytest.mark.parametrize("c", [-80.0, 55.0])
    def test_defocus_is_flight_from_the_focus(self, c):
        optics = {"wavelength": WAVELENGTH, "semiangle": 0.02, "dtype": torch.complex128}
        focus = probe_wave((33, 40), PIXEL, **optics)
        kernel = fresnel((33, 40), PIXEL, WAVELENGTH, torch.tensor(c, dtype=torch.float64))
        for aberrations in ({"C10": c}, {"defocus": -c}, {"C1": c}):
            wave = probe_wave((33, 40), PIXEL, aberrations=aberrations, **optics)
            torch.testing.assert_close(wave, fly(focus[None], kernel)[0], rtol=0, atol=1e-12)

    def test_an_underfocused_probe_focuses_behind_the_entrance(self):
        wave = probe_wave(
            (64, 64), PIXEL, wavelength=WAVELENGTH, semiangle=0.02, aberrations={"defocus": 100.0}
        )
        peaks = [
            fly(wave[None], fresnel((64, 64), PIXEL, WAVELENGTH, torch.tensor(z))).abs().max().item()
            for z in (-100.0, 0.0, 50.0, 100.0, 150.0)
        ]
        assert np.argmax(peaks) == 3

    @pytest.mark.parametrize(
        ("turn", "along"), [(0.0, (0, 1)), (90.0, (1, 0)), (45.0, (1, 1)), (-45.0, (-1, 1))]
    )
    def test_astigmatism_lies_along_its_angle(self, turn, along):
        """With C10 = C12 the line that is out of focus lies along phi12, from +x (column) to +y (row)."""
        named = {"C10": 90.0, "C12": 90.0, "phi12": math.radians(turn)}
        wave = probe_wave((65, 65), (0.3, 0.3), wavelength=WAVELENGTH, semiangle=0.02, aberrations=named)
        light = wave.abs().square().double()
        r = torch.arange(65, dtype=torch.float64) - 32
        near = (r.abs() < 20).double()
        light = light * near[:, None] * near
        y, x = r[:, None].expand(65, 65), r.expand(65, 65)
        spread = {
            (v, u): (light * (v * y + u * x) ** 2 / (v * v + u * u)).sum()
            for v, u in [along, (along[1], -along[0])]
        }
        assert spread[along] > 2 * spread[(along[1], -along[0])]

    def test_aberrations_survive_their_cartesian_form(self):
        polar = {"C10": -30.0, "C12": 12.0, "phi12": 0.4, "C21": 300.0, "phi21": -1.2, "C30": 1e5}
        back = to_polar(to_cartesian(polar))
        assert {k: back[k] for k in polar} == pytest.approx(polar)
        assert coefficients(to_cartesian(polar)) == pytest.approx(back)

    def test_a_cone_beam_is_a_parallel_one_with_magnification(self):
        """A spherical wave on an object against `fresnel_scaling`, by numbers."""
        n, focus, distance = 256, 200.0, 200.0
        magnification, flight = fresnel_scaling(focus, distance)
        assert (magnification, flight) == (2.0, 100.0)
        r = torch.arange(n, dtype=torch.float64) - n // 2
        y, x = r[:, None], r[None]
        thing = torch.exp(-((y - 4) ** 2 + x**2) / 60) + 0.5j * torch.exp(-(y**2 + (x + 9) ** 2) / 80)
        sphere = torch.exp(1j * math.pi * (y**2 + x**2) / focus)
        cone, parallel = (
            fly(wave[None], fresnel((n, n), (1.0, 1.0), 1.0, torch.tensor(z, dtype=torch.float64)))[0]
            .abs()
            .square()
            for wave, z in ((thing * sphere, distance), (thing.to(torch.complex128), flight))
        )
        inside = slice(n // 2 - 60, n // 2 + 60)
        magnified = cone[8::2, 8::2][n // 4 - 4 - 60 : n // 4 - 4 + 60, n // 4 - 4 - 60 : n // 4 - 4 + 60]
        torch.testing.assert_close(magnified * magnification**2, parallel[inside, inside], rtol=0, atol=1e-6)

    def test_a_tilted_flight_moves_the_wave_against_the_lean(self):
        tilt, z = torch.tensor([0.05, -0.02], dtype=torch.float64), torch.tensor(20.0, dtype=torch.float64)
        wave = noise(1, 9, 8)
        amount = -z * torch.tan(tilt) / torch.tensor(PIXEL, dtype=torch.float64)
        leaned = fly(wave, tilt_ramp((9, 8), PIXEL, z, tilt))
        torch.testing.assert_close(leaned, shift(wave, amount[None]), rtol=0, atol=1e-10)

    def test_exact_and_paraxial_flight_differ_in_the_fourth_order_only(self):
        z = torch.tensor(50.0, dtype=torch.float64)
        exact, paraxial = (k((32, 32), (0.5, 0.5), WAVELENGTH, z) for k in (angular_spectrum, fresnel))
        y, x = frequencies((32, 32), (0.5, 0.5), like=z)
        fourth = -math.pi * WAVELENGTH**3 * z / 4 * (y**2 + x**2) ** 2
        torch.testing.assert_close((exact / paraxial).angle(), fourth, rtol=0, atol=3e-5)

    def test_two_beams_share_the_power_as_in_a_thin_grating(self):
        """A sinusoidal phase of amplitude a sends J_n(a)^2 into order n."""
        x = torch.arange(32, dtype=torch.float64)
        grating = torch.exp(0.8j * torch.cos(2 * math.pi * 3 * x / 32)).expand(1, 1, 5, 32)
        flat = torch.ones(1, 1, 5, 32, dtype=torch.complex128) / math.sqrt(160)
        orders = intensity(far_field(multislice(flat, grating, None)))[0, 0, [0, 3, 6, 9]]
        np.testing.assert_allclose(orders.numpy(), special.jv(range(4), 0.8) ** 2, atol=1e-8)


@pytest.mark.parametrize("name", ["C10", "C12b", "C21a", "C23b", "C30", "C34a", "C45b", "C50", "C56a"])
def test_the_change_of_an_aberration_is_that_between_two_places(name):
    k, q = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    value = {name: 10 / 0.02 ** int(name[1])}
    after, before = (aberration_polynomial(*one.unbind(-1), 0.02, value) for one in (k + q[:, None], k))
    assert float((after - before).abs().max()) > 0.1
    assert torch.allclose(aberration_change(k, q, 0.02, value), after - before, rtol=1e-9, atol=1e-9)
