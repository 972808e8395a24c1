"""Laws of probes: of pixels, of optics, and on grids larger than the detector."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from phaseloom.data.prepare import enlarge
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.fitting.loop import Progress, fit
from phaseloom.physics.optics import probe_wave
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.ptycho import batches, probes
from phaseloom.ptycho.illumination import AberratedProbe, Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.simulation import simulate

WAVELENGTH, PIXEL, SEMIANGLE = 0.0418, 0.25, 0.03


def scanned(shape=(24, 20), counts=None):
    angle = tuple(WAVELENGTH / (n * PIXEL) for n in shape)
    geometry = Geometry(wavelength=WAVELENGTH, shape=shape, angle=angle, beam="electron")
    counts = np.random.default_rng(0).poisson(50, (4, *shape)) if counts is None else counts
    return Scan4D(counts=counts, positions=np.eye(4)[:, :2], geometry=geometry)


def lens(polar=None, *, modes=3, refine=("C10", "C12", "C21", "C30"), shape=(24, 20)):
    shares = torch.tensor([0.9, 0.06, 0.04] if modes == 3 else [1.0], dtype=torch.float64)
    probe = AberratedProbe(
        scanned(shape).geometry, SEMIANGLE, polar or {"C10": -60.0}, refine=refine, shares=shares, power=100.0
    )
    return probe.double()


class TestAberrated:
    def test_slopes_agree_with_differences(self):
        probe = lens({"C10": -60.0, "C12": 20.0, "phi12": 0.3, "C21": 300.0, "phi21": 1.0})
        for name, parameter in probe.named_parameters():
            assert torch.autograd.gradcheck(
                lambda value, name=name: torch.view_as_real(_modes(probe, {name: value})),
                parameter.detach().clone().requires_grad_(),
                fast_mode=True,
                atol=1e-4,
            ), name

    def test_its_first_mode_is_that_of_the_same_lens(self):
        polar = {"C10": -60.0, "C12": 20.0, "phi12": 0.3, "C21": 300.0, "phi21": 1.0, "C30": 1e4}
        ours = lens(polar, modes=1).modes()[0].detach()
        known = probe_wave(
            (24, 20),
            (PIXEL, PIXEL),
            wavelength=WAVELENGTH,
            semiangle=SEMIANGLE,
            aberrations=polar,
            soft=True,
            dtype=torch.complex128,
        )
        torch.testing.assert_close(ours / 10, known, rtol=0, atol=1e-7)

    def test_modes_are_orthogonal_with_the_wanted_powers(self):
        flat = lens().modes().detach().flatten(1)
        gram = (flat @ flat.mH).abs()
        torch.testing.assert_close(gram, torch.diag(torch.tensor([90.0, 6.0, 4.0], dtype=torch.float64)))

    def test_a_step_of_one_is_a_radian_at_the_edge(self):
        probe = lens(refine=("C10",))
        before = probe.aberrations()["C10"]
        with torch.no_grad():
            probe.bend[probe.names.index("C10")] += 1.0
        change = probe.aberrations()["C10"] - before
        assert math.pi / WAVELENGTH * change * SEMIANGLE**2 == pytest.approx(1)

    def test_what_is_not_refined_stays(self):
        probe = lens({"C10": -60.0, "C30": 1e4}, refine=("C10",))
        with torch.no_grad():
            probe.bend += 1.0
        assert probe.aberrations()["C30"] == pytest.approx(1e4)

    def test_it_cannot_be_given_other_waves(self):
        with pytest.raises(BadInput, match="follows from optics"):
            lens().set_modes(lens().modes())

    def test_it_finds_defocus_and_astigmatism(self):
        """From patterns of a known lens, started 40 A and a whole astigmatism beside."""
        positions = simulate.raster((6, 6), 0.8, jitter=0.05, seed=1) + 5.0
        truth = simulate.atoms((60, 60), PIXEL, peak=0.4, seed=3)
        optics = {"energy": 80e3, "semiangle": SEMIANGLE, "defocus": 100.0, "window": 32, "dose": 1e5}
        scan, _ = simulate.electron_scan(truth, PIXEL, positions, **optics)
        guess = probes.aberrated(
            scan,
            semiangle=SEMIANGLE,
            defocus=140.0,
            aberrations={"C12": 15.0},
            refine=["C10", "C12"],
            soft=False,
        )
        model = Ptychography.of(scan, probe=guess)
        moving = optimizers.groups(model.parts(), {"object": 0.03, "probe": 0.05})
        progress = Progress(model, optimizers.adam(moving))
        for _ in fit(Likelihood(model, scan), batches.random(np.arange(36), size=6), progress, epochs=25):
            pass
        found = guess.aberrations()
        assert found["C10"] == pytest.approx(-100, abs=4)
        assert found["C12"] == pytest.approx(0, abs=4)


class TestPartlyCoherent:
    """A source of finite size and a spread of focus, as modes of `aberrated` and `focused`."""

    SIZES = (0.3, 15.0)

    def probe(self, *, count=64, refine=("C10", "source_size", "focal_spread"), sizes=SIZES):
        knobs = {"refine": refine, "shares": torch.ones(count) / count, "power": 100.0, "coherence": sizes}
        return AberratedProbe(scanned().geometry, SEMIANGLE, {"C10": -60.0, "C12": 20.0}, **knobs).double()

    def exit_patterns(self, modes):
        """Patterns behind an object that no symmetry helps."""
        random = np.random.default_rng(4).normal(size=(24, 20))
        thing = torch.polar(torch.ones(24, 20, dtype=torch.float64), torch.from_numpy(random) / 2)
        return torch.fft.fft2(modes * thing, norm="ortho").abs().square().sum(0)

    def dense_average(self):
        """The same by a sum over a fine grid of sources and defoci, which shares nothing with it."""
        source, spread = self.SIZES
        line = np.linspace(-3.5, 3.5, 15)
        total = 0.0
        out = torch.zeros(24, 20, dtype=torch.float64)
        y, x = (torch.from_numpy(np.fft.fftfreq(n, PIXEL)) for n in (24, 20))
        for z in line:
            polar = {"C10": -60.0 - spread * z, "C12": 20.0}
            optics = {"wavelength": WAVELENGTH, "semiangle": SEMIANGLE, "aberrations": polar, "soft": True}
            wave = probe_wave((24, 20), (PIXEL, PIXEL), **optics, dtype=torch.complex128)
            for a in line:
                for b in line:
                    turn = torch.exp(-2j * math.pi * source * (a * y[:, None] + b * x[None]))
                    moved = torch.fft.ifft2(torch.fft.fft2(wave) * turn)
                    weight = math.exp(-(a * a + b * b + z * z) / 2)
                    out += weight * self.exit_patterns(moved[None])
                    total += weight
        return 100 * out / total

    def test_patterns_are_those_of_a_dense_average_over_source_and_focus(self):
        wanted = self.dense_average()
        ours = self.exit_patterns(self.probe().modes().detach())
        coherent = self.exit_patterns(self.probe(sizes=(0.0, 0.0), refine=("C10",), count=1).modes().detach())
        assert float((ours - wanted).norm() / wanted.norm()) < 0.01
        assert float((coherent - wanted).norm() / wanted.norm()) > 0.1

    def test_patterns_of_eight_modes_are_right_to_two_per_cent(self):
        whole = self.exit_patterns(self.probe().modes().detach())
        few = self.exit_patterns(self.probe(count=8).modes().detach())
        assert float((few - whole).norm() / whole.norm()) < 0.02

    def test_no_blur_is_the_coherent_beam(self):
        still = self.probe(sizes=(0.0, 0.0), refine=("C10",), count=1)
        assert still.blur is None
        assert still.coherence() == (0.0, 0.0)
        torch.testing.assert_close(
            still.modes()[0], lens({"C10": -60.0, "C12": 20.0}, modes=1).modes()[0], rtol=0, atol=1e-9
        )

    @pytest.mark.parametrize("name", ["blur", "bend", "roots", "edge"])
    def test_slopes_of_patterns_agree_with_differences(self, name):
        """With all modes kept, patterns do not depend on which combination of beams is a mode."""
        probe = self.probe()
        parameter = getattr(probe, name)
        generator = torch.Generator().manual_seed(2)
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        weight = torch.rand(24, 20, generator=generator, dtype=torch.float64)

        def loss():
            return (self.exit_patterns(probe.modes()) * weight).sum()

        parameter.requires_grad_()
        (slope,) = torch.autograd.grad(loss(), parameter)
        step = 1e-4
        with torch.no_grad():
            parameter += step * way
            above = float(loss())
            parameter -= 2 * step * way
            below = float(loss())
        assert float((slope * way).sum()) == pytest.approx((above - below) / (2 * step), rel=2e-4)

    def test_the_total_is_the_power_of_the_beam(self):
        assert float(self.probe(count=5).modes().detach().abs().square().sum()) == pytest.approx(100)

    def test_a_free_probe_begins_with_the_same_modes(self):
        knobs = {"semiangle": SEMIANGLE, "defocus": 60.0, "source_size": 0.4, "focal_spread": 25.0}
        free = probes.focused(scanned(), **knobs).modes().detach()
        bound = probes.aberrated(scanned(), **knobs, soft=False).modes().detach()
        assert len(free) == len(bound) == 8
        ours, theirs = (self.exit_patterns(one.to(torch.complex128)) for one in (free, bound))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.max()))

    @pytest.mark.parametrize("make", [probes.focused, probes.aberrated])
    @pytest.mark.parametrize("knobs", [{"source_size": -0.1}, {"focal_spread": math.inf}])
    def test_implausible_sizes_are_refused(self, make, knobs):
        with pytest.raises(BadInput, match=next(iter(knobs))):
            make(scanned(), semiangle=SEMIANGLE, **knobs)

    def test_shares_and_sizes_exclude_each_other(self):
        with pytest.raises(BadInput, match="leave out one or the other"):
            probes.aberrated(scanned(), semiangle=SEMIANGLE, source_size=0.3, modes=2, shares=[0.9, 0.1])


def _modes(probe, values):
    class Shell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = probe

        def forward(self):
            return self.inner.modes()

    return functional_call(Shell(), {f"inner.{name}": value for name, value in values.items()}, ())


class TestPixels:
    @pytest.mark.parametrize("relative", [True, False])
    def test_power_is_that_of_the_mean_pattern(self, relative):
        scan = scanned()
        probe = probes.focused(scan, semiangle=SEMIANGLE, defocus=80.0, modes=3, relative=relative)
        power = probe.modes().detach().abs().square().sum().item()
        assert power == pytest.approx(scan.mean_pattern().sum(), rel=1e-5)
        assert float(probe.scale) == (
            1.0 if not relative else pytest.approx(probe.modes().abs().max().item())
        )

    @pytest.mark.parametrize(
        ("shares", "powers"),
        [
            (None, [1 / 1.04, 0.02 / 1.04, 0.02 / 1.04]),
            ([0.1], [0.8, 0.1, 0.1]),
            ([0.9, 0.07, 0.03], [0.9, 0.07, 0.03]),
        ],
    )
    def test_modes_have_the_wanted_shares(self, shares, powers):
        probe = probes.focused(scanned(), semiangle=SEMIANGLE, modes=3, shares=shares)
        each = probe.modes().detach().abs().square().sum((-2, -1))
        np.testing.assert_allclose(each / each.sum(), powers, rtol=1e-4)

    def test_a_refined_focus_is_a_flight(self):
        scan = scanned()
        probe = probes.focused(scan, semiangle=SEMIANGLE, defocus=80.0, modes=2)
        plain = probe.modes().detach()
        with torch.no_grad():
            probe.focus += 0.3
        assert probe.unit == pytest.approx(WAVELENGTH / SEMIANGLE**2, rel=0.2)
        kernel = angular_spectrum((24, 20), (PIXEL, PIXEL), WAVELENGTH, torch.tensor(-0.3 * probe.unit))
        torch.testing.assert_close(probe.modes().detach(), fly(plain, kernel), rtol=1e-4, atol=1e-4)

    def test_defocus_adds_up(self):
        scan = scanned((64, 64))
        near, far = (probes.focused(scan, semiangle=SEMIANGLE, defocus=z, modes=1) for z in (50.0, 80.0))
        with torch.no_grad():
            near.focus += 30.0 / near.unit
        a, b = near.modes().detach(), far.modes().detach()
        phase = torch.vdot(a.flatten(), b.flatten())
        assert (phase.abs() / b.abs().square().sum()).item() == pytest.approx(1, abs=1e-4)

    def test_forward_is_the_opposite_of_defocus(self, tmp_path):
        scan = scanned((64, 64))
        wave = probes.focused(scan, semiangle=SEMIANGLE, defocus=80.0, modes=1).modes().detach().numpy()
        np.save("probe.npy", wave)
        moved = probes.from_file(scan, path=tmp_path / "probe.npy", forward=30.0)
        known = probes.focused(scan, semiangle=SEMIANGLE, defocus=50.0, modes=1).modes().detach()
        overlap = torch.vdot(moved.modes().detach().flatten(), known.flatten()).abs()
        assert overlap.item() == pytest.approx(known.abs().square().sum().item(), rel=1e-3)

    def test_putting_modes_gives_them_back(self):
        probe = probes.focused(scanned(), semiangle=SEMIANGLE, modes=2)
        with torch.no_grad():
            probe.focus += 0.2
            new = torch.randn(2, 24, 20, dtype=torch.complex64)
            probe.set_modes(new)
        torch.testing.assert_close(probe.modes().detach(), new, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shares", [[0.5, 0.6, 0.1, 0.1], [0.0], [-1.0], []])
    def test_shares_that_cannot_be_are_refused(self, shares):
        with pytest.raises(BadInput, match="shares"):
            probes.focused(scanned(), semiangle=SEMIANGLE, modes=3, shares=shares)


class TestZonePlate:
    def test_its_far_field_is_a_ring(self):
        geometry = Geometry(wavelength=1.4, shape=(64, 64), angle=(4e-5, 4e-5), distance=2e10)
        scan = Scan4D(counts=np.ones((2, 64, 64)), positions=np.eye(2) * 1e3, geometry=geometry)
        probe = probes.zone_plate(
            scan, diameter=1e6, outermost_zone=700.0, beamstop=4e5, defocus=1e5, modes=1
        )
        far = torch.fft.fftshift(torch.fft.fft2(probe.modes().detach()[0]).abs())
        edge = 1.4 / (2 * 700.0) / 4e-5
        y, x = torch.meshgrid(*[torch.arange(64) - 32.0] * 2, indexing="ij")
        radius = torch.hypot(y, x)
        lit, stop, dark = (
            far[(radius > 0.45 * edge) & (radius < 0.9 * edge)],
            far[radius < 0.3 * edge],
            far[radius > edge + 2],
        )
        assert stop.max() < 1e-3 * lit.mean()
        assert dark.max() < 1e-3 * lit.mean()
        assert lit.std() < 1e-3 * lit.mean()

    def test_a_stop_larger_than_the_plate_is_refused(self):
        with pytest.raises(BadInput, match="ring"):
            probes.zone_plate(scanned(), diameter=1e4, outermost_zone=100.0, beamstop=2e4)


class TestEnlarged:
    @pytest.mark.parametrize("match", ["crop", "resample"])
    def test_every_first_guess_fills_the_larger_grid(self, match):
        own = np.ones((1, 24, 24), complex)
        scan = enlarge(replace(scanned((24, 24)), probe=own), to=(36, 36), match=match)
        guesses = [
            probes.from_patterns(scan),
            probes.stored(scan),
            probes.focused(scan, semiangle=SEMIANGLE, defocus=50.0),
            probes.aberrated(scan, semiangle=SEMIANGLE, defocus=50.0),
        ]
        for probe in guesses:
            assert probe.modes().shape[-2:] == (36, 36)
            assert Ptychography.of(scan, probe=probe)(torch.tensor([0, 1])).shape == (2, 24, 24)

    def test_a_lens_is_the_same_on_both_grids(self):
        """Enlarging the range of angles changes neither the beam nor its middle."""
        scan = scanned((24, 24))
        small = probes.focused(scan, semiangle=SEMIANGLE, defocus=50.0, modes=1)
        wide = probes.focused(enlarge(scan, to=(48, 48)), semiangle=SEMIANGLE, defocus=50.0, modes=1)
        torch.testing.assert_close(
            wide.modes()[0, ::2, ::2].detach() * 2, small.modes()[0].detach(), rtol=1e-3, atol=1e-3
        )


def test_probes_of_files_need_a_geometry():
    assert isinstance(probes.stored(replace(scanned(), probe=np.ones((24, 20), complex))), Probe)
