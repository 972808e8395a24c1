"""Laws of the loss and of the steps that a reconstruction takes: what patterns alone do not show."""

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics import fused_kernels
from phaseloom.physics.adjoint import far_waves, misfit
from phaseloom.physics.windowed_transmission import cut_windows
from phaseloom.ptycho import detectors, noise, objects, probes, scans
from phaseloom.ptycho import likelihood as likelihood_module
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from tests.laws.conftest import in_double

SHAPE = (8, 9)
PLACES = np.array([[0.0, 0.0], [1.4, 2.8], [3.2, 0.7], [2.6, 4.3], [4.1, 1.9]])
TILTED = (0.4, -0.4, 0.83)
EVERYWHERE = (slice(None), slice(None))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def measure(*, normal=(0.0, 0.0, 1.0), masked=()) -> Scan4D:
    """A scan with Poisson counts of a random speckle; some pixels are not trusted and hold nonsense."""
    random = np.random.default_rng(7)
    geometry = Geometry(wavelength=0.8, shape=SHAPE, angle=(0.05, 0.05), normal=normal)
    counts = random.poisson(random.gamma(2.0, 15.0, (len(PLACES), *SHAPE))).astype(float)
    mask = np.ones(SHAPE, bool)
    for y, x in masked:
        mask[y, x] = False
        counts[:, y, x] = 1e6
    return Scan4D(counts=counts, positions=PLACES * geometry.pixel, geometry=geometry, mask=mask)


def build(scan: Scan4D, *, slices: int = 1, kind: objects.Kind = "complex", **knobs) -> Ptychography:
    """A model with an object that is not flat."""
    canvas = scans.canvas(scan, border=3)
    start = objects.pixels(canvas, slices=slices, thickness=5.0, kind=kind)
    wave = torch.randn(1, slices, *canvas.shape, dtype=torch.complex64, generator=torch.manual_seed(3))
    start.set_transmission(1 + 0.2 * wave)
    return Ptychography.of(scan, object=start, detector=detectors.counting(scan, **knobs))


class TestLoss:
    """The loss is the divergence of the patterns that the model shows, whatever the detector does."""

    DETECTORS = (
        {},
        {"blur": 0.7},
        {"area": True},
        {"saturation": 30.0},
        {"ewald": "flat"},
        {"ewald": "lens"},
    )

    @pytest.mark.parametrize("knobs", DETECTORS, ids=str)
    @pytest.mark.parametrize("divergence", [noise.amplitude, noise.poisson])
    def test_it_and_its_gradient_are_those_of_the_patterns(self, knobs, divergence):
        scan = measure(normal=TILTED if "ewald" in knobs else (0.0, 0.0, 1.0), masked=[(2, 3)])
        model = in_double(build(scan, **knobs))
        index = torch.tensor([3, 0, 4])
        counts = Likelihood(model, scan).measured[index].double()
        leaves = [*model.object.parameters(), model.detector.weights]
        shown = (divergence(model(index), counts) * model.detector.mask).sum()
        total = model.misfit(index, counts, divergence)
        assert total.item() == pytest.approx(shown.item(), rel=1e-10)
        slopes = (torch.autograd.grad(one, leaves) for one in (total, shown))
        for found, known in zip(*slopes, strict=True):
            assert (found - known).abs().max() <= 1e-9 * known.abs().max()

    @pytest.mark.parametrize("kind", ["flat", "lens"])
    def test_it_knows_where_pixels_lie_on_the_ewald_sphere(self, kind):
        scan, index = measure(normal=TILTED), torch.arange(len(PLACES))
        with torch.no_grad():
            model = build(scan, ewald=kind)
            scan = replace(scan, counts=model.detector.display(model(index)).numpy())
            right = Likelihood(model, scan)(index)["noise"]
            model.detector = detectors.counting(scan, ewald="none")
            wrong = Likelihood(model, scan)(index)["noise"]
        assert right < 1e-3 * wrong

    @pytest.mark.parametrize("masked", [[], [(0, 0), (4, 4), (7, 8)]], ids=["all trusted", "some masked"])
    def test_that_of_the_mean_pattern_counts_trusted_pixels_alone(self, masked):
        scan = measure(masked=masked)
        likelihood = Likelihood(build(scan), scan)
        counts = np.asarray(scan.counts)
        each = (np.sqrt(counts.mean(0) + 0.01) - np.sqrt(counts + 0.01)) ** 2
        known = (each * scan.mask).sum() / (len(counts) * likelihood.floor)
        assert likelihood.mean_pattern_loss == pytest.approx(known, rel=1e-5)

    def test_what_shot_noise_leaves_is_worked_out_once_for_the_same_patterns_and_anew_for_others(
        self, monkeypatch
    ):
        scan = measure()
        other = replace(scan, counts=np.asarray(scan.counts) + 1)
        apart = replace(scan, mask=scan.mask & (np.arange(scan.mask.size).reshape(scan.mask.shape) > 0))
        monkeypatch.setattr(likelihood_module, "_KNOWN_FLOORS", {})
        asked = []
        measure_noise = noise.shot_noise
        monkeypatch.setattr(noise, "shot_noise", lambda *given: asked.append(1) or measure_noise(*given))
        floors = [Likelihood(build(one), one).floor for one in (scan, scan, other, apart)]
        floors.append(Likelihood(build(scan), scan, noise.poisson).floor)
        assert len(asked) == 4
        assert floors[0] == floors[1]
        assert len(set(floors)) == 4


class TestSteps:
    @pytest.mark.parametrize(("kind", "name"), [("complex", "wave"), ("amplitude and phase", "amplitude")])
    def test_slices_without_a_gradient_come_nearer_to_a_modulus_of_one(self, kind, name):
        """A step goes a share ``0.1 * rate`` of the way; the phase stays."""
        scan = measure()
        scan = replace(scan, counts=np.asarray(scan.counts) + 0.5)  # not whole: no rate is lowered for dose
        model = build(scan, slices=2, kind=kind)
        value = getattr(model.object, name)
        rule = Curvature(model, Likelihood(model, scan))([])[value]
        with torch.no_grad():
            after = value - rule(value, torch.zeros_like(value), len(PLACES), 0.5, EVERYWHERE)
        assert torch.allclose(after.abs() - 1, (1 - 0.1 * 0.5) * (value.abs() - 1), atol=1e-6)
        assert torch.allclose(after.sgn(), value.sgn(), atol=1e-6)

    def test_a_single_slice_without_a_gradient_stays(self):
        scan = measure()
        model = build(scan)
        rule = Curvature(model, Likelihood(model, scan))([])[model.object.wave]
        step = rule(model.object.wave, torch.zeros_like(model.object.wave), 5, 0.5, EVERYWHERE)
        assert not step.any()


class TestStates:
    def test_a_default_share_of_the_time_is_the_same_for_each(self):
        canvas = scans.canvas(measure(), border=3)
        start = torch.ones(3, 1, *canvas.shape, dtype=torch.complex64)
        assert objects.PixelObject(start, "complex", (), canvas).occupancy.tolist() == pytest.approx(
            [1 / 3] * 3
        )

    def test_equal_states_shine_as_brightly_as_one(self):
        scan = measure()
        canvas = scans.canvas(scan, border=3)
        start = torch.ones(2, 1, *canvas.shape, dtype=torch.complex64)
        patterns = [
            Ptychography.of(scan, object=objects.PixelObject(start[:states], "phase", (), canvas))
            for states in (1, 2)
        ]
        one, two = (model(torch.arange(2)).detach() for model in patterns)
        assert torch.allclose(one, two, rtol=1e-5)


class TestCompiledKernels:
    """They are taken where they can be: a silent fall back to torch costs most of the speed."""

    USED: ClassVar = {
        "complex": {
            "apply_ramps",
            "multiply_windows",
            "add_illumination",
            "amplitude_misfit",
            "scale_conjugate",
            "backpropagate_to_wave",
            "backpropagate_ramps",
        },
        "phase": {
            "apply_ramps",
            "multiply_windows",
            "add_illumination",
            "amplitude_misfit",
            "scale_conjugate",
            "backpropagate_to_phase",
            "backpropagate_ramps",
        },
    }

    def count(self, monkeypatch, run) -> set[str]:
        """Names of the compiled kernels that a calculation takes."""
        kernels, called = fused_kernels._compile_kernels(), set()
        assert kernels is not None

        def counted(name, kernel):
            def call(*arguments):
                called.add(name)
                return kernel(*arguments)

            return call

        recorded = SimpleNamespace(**{name: counted(name, kernel) for name, kernel in vars(kernels).items()})
        monkeypatch.setattr(fused_kernels, "_compile_kernels", lambda: recorded)
        run()
        return called

    @pytest.mark.parametrize("kind", USED)
    def test_loss_and_gradient_of_a_batch_take_all_of_them(self, kind, monkeypatch):
        pytest.importorskip("numba")
        draw = torch.Generator().manual_seed(0)
        modes = torch.randn(2, 6, 7, dtype=torch.complex64, generator=draw, requires_grad=True)
        rest = torch.zeros(3, 2, requires_grad=True)
        corner = torch.tensor([[0, 1], [3, 4], [5, 5]])
        phase = torch.rand(1, 14, 15, generator=draw)
        leaf = (phase if kind == "phase" else torch.polar(torch.ones_like(phase), phase)).requires_grad_()
        flat, mask = torch.ones(6, 7), torch.ones(6, 7, dtype=torch.bool)

        def run():
            waves = far_waves(modes, rest, cut_windows((leaf,), corner, (6, 7)), light=torch.zeros(1, 14, 15))
            judge = noise.with_slope(noise.amplitude)
            misfit(waves, torch.ones(3, 6, 7), torch.ones(3), judge, flat=flat, mask=mask).backward()

        assert self.count(monkeypatch, run) == self.USED[kind]

    def test_so_does_any_other_divergence(self, monkeypatch):
        pytest.importorskip("numba")
        waves = torch.ones(3, 2, 6, 7, dtype=torch.complex64, requires_grad=True)

        def run():
            misfit(waves, torch.ones(3, 6, 7), torch.ones(3), noise.with_slope(noise.poisson)).backward()

        assert self.count(monkeypatch, run) == {"sum_intensity", "scale_conjugate"}


def test_a_probe_of_few_plane_waves_takes_newton_steps():
    """Complex numbers are never taken for the few real ones whose curvature comes from differences."""
    scan = measure()
    probe = probes.limited(scan, semiangle=0.12, spectrum=True, modes=1)
    assert probe.relative.numel() <= 64
    model = Ptychography.of(scan, probe=probe)
    steps = Curvature(model, Likelihood(model, scan))([{"loss": 1.0}])
    gradient = torch.ones_like(probe.relative)
    assert steps[probe.relative](probe.relative, gradient, 5, 0.4, EVERYWHERE).isfinite().all()
