"""Laws of probes within a support, of probes that change from pattern to pattern, of pixels with an area."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.detect import integrate_pixels, intensity
from phaseloom.physics.modes import orthogonalise
from phaseloom.ptycho import detectors, probes
from phaseloom.ptycho.illumination import Probe, Support
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe

torch.set_num_threads(1)

SHAPES = st.tuples(st.integers(5, 12), st.integers(5, 12))


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def geometry(shape=(12, 10)):
    angle = tuple(1.0 / (n * 2.0) for n in shape)
    return Geometry(wavelength=1.0, shape=shape, angle=angle)


def scanned(count=5, shape=(12, 10)):
    places = np.random.default_rng(1).uniform(0, 8, (count, 2))
    return Scan4D(counts=np.ones((count, *shape)), positions=places, geometry=geometry(shape))


class TestSupport:
    @given(SHAPES, st.booleans(), st.booleans(), st.integers(0, 2))
    def test_free_is_the_adjoint_of_forward(self, shape, disk, spectrum, cut):
        band = (shape[0] - cut, shape[1] - 2 * cut)
        support = Support(shape, radius=(3.0, 2.5) if disk else None, band=band, spectrum=spectrum).double()
        free, wave = noise(2, *band, seed=1), noise(2, *shape, seed=2)
        ours = torch.vdot(support(free).flatten(), wave.flatten())
        assert torch.allclose(ours, torch.vdot(free.flatten(), support.free(wave).flatten()))

    @given(SHAPES, st.booleans(), st.integers(0, 2))
    def test_without_a_disk_no_power_is_lost_and_numbers_come_back(self, shape, spectrum, cut):
        band = (shape[0] - cut, shape[1] - 2 * cut)
        support = Support(shape, band=band, spectrum=spectrum)
        free = noise(2, *band)
        assert torch.allclose(support(free).abs().square().sum(), free.abs().square().sum())
        assert torch.allclose(support.free(support(free)), free)

    def test_a_band_holds_only_waves_within_the_angle(self):
        scan = scanned(shape=(32, 24))
        semiangle = 0.12
        probe = probes.limited(scan, semiangle=semiangle, modes=1)
        with torch.no_grad():
            probe.relative.copy_(torch.randn_like(probe.relative))
        light = torch.fft.fft2(probe.modes().detach()[0]).abs()
        y, x = (torch.fft.fftfreq(n, 2.0) for n in (32, 24))
        outside = (y.abs()[:, None] > semiangle) | (x.abs()[None] > semiangle)
        assert light[outside].max() < 1e-5 * light.max()
        assert light[~outside].min() > 1e-4 * light.max()

    def test_a_disk_stays_dark_outside_whatever_the_steps(self):
        probe = probes.limited(scanned(shape=(16, 16)), radius=8.0, modes=2)
        probe.set_modes(torch.randn(2, 16, 16, dtype=torch.complex64))
        y, x = (torch.arange(16) - 8.0 for _ in range(2))
        outside = torch.hypot(y[:, None], x[None]) >= 4
        assert not probe.modes()[:, outside].any()
        assert bool(probe.modes()[:, ~outside].abs().min() > 0)

    def test_pixels_and_plane_waves_are_the_same_probe(self):
        scan = scanned()
        one, two = (probes.limited(scan, spectrum=s, modes=2).modes().detach() for s in (False, True))
        assert torch.allclose(one, two, atol=1e-5 * float(one.abs().max()))

    @pytest.mark.parametrize("knobs", [{"radius": 1e-9}, {"radius": -1.0}, {"semiangle": 0.0}])
    def test_no_light_is_refused(self, knobs):
        if knobs == {"radius": 1e-9}:
            probes.limited(scanned(), **knobs)  # the pixel in the middle is left
        else:
            with pytest.raises(BadInput, match="must be above zero"):
                probes.limited(scanned(), **knobs)

    def test_what_leaves_no_light_is_refused(self):
        dark = torch.zeros(1, 12, 10, dtype=torch.complex64)
        dark[0, 0, 0] = 1
        with pytest.raises(BadInput, match="leaves the probe no light"):
            Probe(dark, geometry(), support=Support((12, 10), radius=(2.0, 2.0)))


def relaxed(count=5, modes=2, basis=3, seed=0, support=None):
    return RelaxedProbe(
        noise(basis, 12, 10, seed=seed),
        geometry(),
        noise(count, modes, basis, seed=seed + 1),
        support=support,
    ).double()


class TestRelaxed:
    def test_patterns_are_mixtures_of_the_basis(self):
        probe, index = relaxed(), torch.tensor([3, 1])
        known = torch.einsum("nmk,kyx->nmyx", probe.mixture[index], probe.basis())
        assert torch.allclose(probe.modes_of(index), known)

    def test_unit_mixtures_are_a_plain_probe(self):
        scan = scanned()
        plain = Probe(noise(2, 12, 10).to(torch.complex64), scan.window)
        unity = torch.eye(2, dtype=torch.complex64).repeat(len(scan), 1, 1)
        mixed = RelaxedProbe(plain.modes().detach(), scan.window, unity)
        index = torch.arange(len(scan))
        seen = [Ptychography.of(scan, probe=one)(index).detach() for one in (plain, mixed)]
        assert torch.allclose(*seen, rtol=1e-4, atol=1e-4 * float(seen[0].max()))

    def test_the_mean_state_has_the_mean_intensity_and_is_orthogonal(self):
        probe = relaxed(count=40)
        modes = probe.modes().detach()
        mean = probe.modes_of(torch.arange(40)).abs().square().sum(1).mean(0)
        assert torch.allclose(modes.abs().square().sum(0), mean, rtol=1e-4)
        gram = modes.flatten(1) @ modes.flatten(1).mH
        assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-8 * float(gram.abs().max()))
        power = gram.diagonal().real
        assert bool((power.diff() <= 0).all())

    @pytest.mark.parametrize("modes", [1, 2, 3])
    def test_tidying_changes_no_pattern(self, modes):
        probe, index = relaxed(modes=modes), torch.arange(5)
        before = probe.modes_of(index).detach()
        light = before.abs().square().sum(1)
        state = torch.einsum("nmyx,nmvu->nyxvu", before, before.conj())
        probe.orthogonalise()
        after = probe.modes_of(index).detach()
        assert torch.allclose(after.abs().square().sum(1), light, rtol=1e-8)
        assert torch.allclose(torch.einsum("nmyx,nmvu->nyxvu", after, after.conj()), state, atol=1e-9)
        assert torch.allclose(probe.basis().abs(), probe.modes().abs(), rtol=1e-4, atol=1e-4)
        own = torch.einsum("nmyx,nkyx->nmk", after, after.conj())
        off = own - torch.diag_embed(own.diagonal(dim1=1, dim2=2))
        assert float(off.abs().max()) < 1e-9 * float(own.abs().max())

    def test_a_mode_that_no_pattern_has_yet_is_not_lost(self):
        probe = relaxed(modes=1, basis=2)
        with torch.no_grad():
            probe.mixture.zero_()[:, 0, 0] = 1
        before = probe.modes_of(torch.arange(5)).detach()
        probe.orthogonalise()
        assert torch.allclose(probe.modes_of(torch.arange(5)).abs(), before.abs(), rtol=1e-6, atol=1e-9)
        assert bool(probe.basis()[1].detach().any())

    def test_put_gives_the_mean_state_that_was_asked_for(self):
        probe = relaxed()
        wanted = orthogonalise(probe.modes().detach() * (1 + 0.1 * noise(12, 10, seed=7)))
        probe.set_modes(wanted)
        got = probe.modes().detach()
        assert torch.allclose(got.abs().square().sum(0), wanted.abs().square().sum(0), rtol=1e-3)

    def test_slopes_of_a_misfit_agree_with_differences(self):
        scan = scanned()
        model = Ptychography.of(scan, probe=relaxed()).double()
        index = torch.tensor([0, 3])

        def misfit(mixture, relative):
            probe = torch.func.functional_call(
                model, {"probe.mixture": mixture, "probe.relative": relative}, (index,)
            )
            return probe.square().sum()

        start = (model.probe.mixture.detach().clone(), model.probe.relative.detach().clone())
        for value in start:
            value.requires_grad_()
        assert torch.autograd.gradcheck(misfit, start, fast_mode=True, atol=1e-3)

    def test_more_modes_than_the_basis_has_are_refused(self):
        with pytest.raises(BadInput, match=r"relaxed.modes: 4 must lie between 1 and the 3"):
            probes.relaxed(scanned(), modes=4)


class TestArea:
    """`integrate_pixels` against a direct sum over points within each pixel."""

    @pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 11)])
    def test_far_pixels_collect_what_falls_on_them(self, shape):
        exit_ = noise(1, 1, *shape)
        found = integrate_pixels(torch.fft.fft2(exit_))[0]
        assert torch.allclose(found, _averaged(exit_[0, 0], shape), rtol=1e-3)

    def test_near_pixels_collect_what_falls_on_them(self):
        shape = (7, 9)
        wave = noise(1, 1, *shape)
        spectrum = torch.fft.fftshift(torch.fft.fft2(wave))[0, 0] / math.prod(shape)
        known = _averaged(torch.flip(spectrum, (0, 1)), shape)  # the inverse transform, by a mirrored one
        found = integrate_pixels(wave, near=True)[0]
        assert torch.allclose(found, known, rtol=1e-3)

    def test_a_smooth_pattern_is_left_alone(self):
        exit_ = torch.zeros(1, 1, 16, 16, dtype=torch.complex128)
        exit_[..., 7:9, 8] = 1
        wave = torch.fft.fft2(exit_)
        assert torch.allclose(integrate_pixels(wave), intensity(wave), rtol=0.02, atol=0.02)

    def test_states_and_their_shares_count(self):
        wave, share = noise(2, 3, 2, 8, 8), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
        each = torch.stack([integrate_pixels(wave[:, n]) for n in range(3)], 1)
        assert torch.allclose(integrate_pixels(wave, share), (share[:, None, None] * each).sum(1))

    def test_a_detector_of_wide_pixels_lowers_the_contrast_of_speckle(self):
        scan = scanned(4, (12, 10))
        probe = noise(1, 12, 10).to(torch.complex64)
        seen = [
            Ptychography.of(
                scan, probe=Probe(probe, scan.window), detector=detectors.counting(scan, area=area)
            )(torch.arange(4)).detach()
            for area in (False, True)
        ]
        assert float(seen[1].std()) < 0.9 * float(seen[0].std())
        assert float(seen[1].mean()) == pytest.approx(float(seen[0].mean()), rel=0.15)


def _averaged(exit_, shape, points=41):
    """Mean of ``|F exit|^2`` over the area of each pixel, by the midpoint rule."""
    rows, columns = shape
    at = (torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5
    y = (torch.arange(rows)[:, None] + at).flatten() / rows
    x = (torch.arange(columns)[:, None] + at).flatten() / columns
    down = torch.exp(-2j * math.pi * y[:, None] * torch.arange(rows))
    right = torch.exp(-2j * math.pi * x[:, None] * torch.arange(columns))
    fine = (down @ exit_ @ right.T).abs().square()
    return fine.view(rows, points, columns, points).mean((1, 3))
