"""The quick way through the experiment is the plain one, to rounding, and touches only what it must."""

import copy
import math
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics import fused_kernels as passes
from phaseloom.physics.adjoint import differentiate_divergence, far_waves, misfit
from phaseloom.physics.cache import TensorCache
from phaseloom.physics.fourier import shift
from phaseloom.physics.patches import clear_boxes, gather, group_windows, merge_boxes
from phaseloom.physics.propagate import angular_spectrum, far_field, multislice, tilt_ramp
from phaseloom.physics.windowed_transmission import (
    DeviceWindows,
    TransmissionCache,
    cut_windows,
    transmission,
)
from phaseloom.ptycho import detectors, noise, propagators, scans
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject
from tests.laws.conftest import in_double

KINDS = ["complex", "amplitude and phase", "phase"]
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
NEAR = {torch.float32: 1e-5, torch.float64: 1e-12}
FIELD = (23, 27)
CORNER = torch.tensor([[0, 1], [3, 4], [10, 9], [3, 4]])
APART = torch.tensor([[0, 1], [150, 4], [10, 190], [152, 7]])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def made(kind, slices=2, field=FIELD, real=torch.float64, lead=()):
    phase = draw(*lead, slices, *field, seed=1, dtype=real)
    amplitude = 1 + 0.1 * draw(*lead, slices, *field, seed=2, dtype=real)
    leaves = {
        "complex": (torch.polar(amplitude, phase),),
        "amplitude and phase": (amplitude, phase),
        "phase": (phase,),
    }
    return tuple(leaf.requires_grad_() for leaf in leaves[kind])


def whole(leaves):
    if leaves[0].is_complex():
        return leaves[0]
    *amplitude, phase = leaves
    return torch.polar(amplitude[0] if amplitude else torch.ones_like(phase), phase)


def slow(modes, rest, leaves, corner, kernels):
    windows = gather(whole(leaves), corner, (modes.shape[-2], modes.shape[-1]))
    return far_field(multislice(shift(modes[None], rest[:, None]), windows, kernels or None))


def inputs(modes, shape, slices, count, real=torch.float64, *, each=False):
    waves = draw(modes, *shape, dtype=COMPLEX[real]).requires_grad_()
    rest = (0.3 * draw(count, 2, seed=3, dtype=real)).requires_grad_()
    lead = (count, 1) if each else ()
    kernels = [
        draw(*lead, *shape, seed=4 + gap, dtype=COMPLEX[real]).requires_grad_() for gap in range(slices - 1)
    ]
    return waves, rest, kernels


def close(a, b, tolerance):
    assert a.dtype == b.dtype
    assert (a - b).abs().max().item() <= tolerance * b.abs().max().item()


class TestFarWaves:
    @pytest.mark.parametrize("real", COMPLEX, ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("each", [False, True], ids=["one kernel", "a kernel each"])
    @pytest.mark.parametrize(
        ("slices", "modes", "shape"), [(1, 1, (8, 8)), (1, 3, (7, 9)), (3, 2, (8, 5)), (4, 1, (6, 6))]
    )
    def test_are_those_of_the_plain_composition(self, slices, modes, shape, each, kind, real):
        leaves = made(kind, slices, real=real)
        waves, rest, kernels = inputs(modes, shape, slices, len(CORNER), real, each=each)
        weight = draw(len(CORNER), modes, *shape, seed=9, dtype=COMPLEX[real])
        results = []
        for quick in (True, False):
            if quick:
                seen = far_waves(waves, rest, cut_windows(leaves, CORNER, shape), kernels)
            else:
                seen = slow(waves, rest, leaves, CORNER, kernels)
            loss = (seen * weight).real.sum() + seen.abs().square().sum()
            results.append([seen, *torch.autograd.grad(loss, [waves, rest, *kernels, *leaves])])
        for fast, plain in zip(*results, strict=True):
            close(fast, plain, NEAR[real])

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradients_agree_with_differences(self, kind):
        leaves = made(kind, field=(9, 10))
        waves, rest, kernels = inputs(2, (4, 5), 2, 2)
        corner = torch.tensor([[0, 1], [3, 4]])

        def seen(waves, rest, kernel, *leaves):
            return far_waves(waves, rest, cut_windows(leaves, corner, (4, 5)), [kernel])

        assert torch.autograd.gradcheck(seen, (waves, rest, *kernels, *leaves))

    @pytest.mark.parametrize("wanted", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)], ids=str)
    def test_any_one_gradient_may_be_asked_for(self, wanted):
        waves, rest, kernels = inputs(2, (6, 7), 2, len(CORNER))
        parts = [waves, rest, *made("amplitude and phase")]
        for part, want in zip(parts, wanted, strict=True):
            part.requires_grad_(bool(want))
        waves, rest, *leaves = parts
        far_waves(waves, rest, cut_windows(tuple(leaves), CORNER, (6, 7)), kernels).abs().sum().backward()
        (asked,) = (part for part, want in zip(parts, wanted, strict=True) if want)
        slope = torch.autograd.grad(slow(waves, rest, leaves, CORNER, kernels).abs().sum(), asked)[0]
        close(asked.grad, slope, 1e-12)
        assert [part.grad is not None for part in parts] == [bool(want) for want in wanted]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("corner", [CORNER, APART], ids=["together", "apart"])
    def test_light_is_what_falls_on_each_slice(self, corner, kind):
        field = (170, 210)
        leaves = made(kind, 3, field)
        waves, rest, kernels = inputs(2, (6, 7), 3, len(corner))
        light = torch.zeros(3, *field, dtype=torch.float64)
        far_waves(waves, rest, cut_windows(leaves, corner, (6, 7)), kernels, light=light)
        known = torch.zeros_like(light)
        glass = gather(whole(leaves), corner, (6, 7))
        for number, (y, x) in enumerate(corner.tolist()):
            wave = shift(waves, rest[number].expand(2, 2))
            for slice_ in range(3):
                known[slice_, y : y + 6, x : x + 7] += wave.abs().square().sum(0).detach()
                if slice_ < 2:
                    wave = torch.fft.ifft2(torch.fft.fft2(wave * glass[number, slice_]) * kernels[slice_])
        close(light, known, 1e-12)

    @pytest.mark.parametrize("kind", KINDS)
    def test_windows_by_index_are_windows(self, kind):
        """What runs on other devices, here on a CPU."""
        waves, rest, kernels = inputs(2, (6, 7), 3, len(CORNER))
        results = []
        for way in (DeviceWindows, None):
            leaves, light = made(kind, 3), torch.zeros(3, *FIELD, dtype=torch.float64)
            glass = way(leaves, CORNER, (6, 7)) if way else cut_windows(leaves, CORNER, (6, 7))
            seen = far_waves(waves, rest, glass, kernels, light=light)
            results.append([light, seen, *torch.autograd.grad(seen.abs().sum(), [waves, rest, *leaves])])
        for indexed, known in zip(*results, strict=True):
            close(indexed, known, 1e-12)

    @pytest.mark.parametrize("kind", KINDS)
    def test_compiled_passes_are_those_of_torch(self, kind, monkeypatch):
        pytest.importorskip("numba")
        waves, rest, kernels = inputs(2, (6, 7), 3, len(CORNER), torch.float32)
        results = []
        for loops in (passes._compile_kernels, lambda: None):
            monkeypatch.setattr(passes, "_compile_kernels", loops)
            assert (passes.get_compiled_kernels(waves) is None) == (loops() is None)
            leaves, light = made(kind, 3, real=torch.float32), torch.zeros(3, *FIELD)
            seen = far_waves(waves, rest, cut_windows(leaves, CORNER, (6, 7)), kernels, light=light)
            total = misfit(seen, torch.ones(4, 6, 7), torch.ones(4), noise.with_slope(noise.amplitude))
            results.append([light, seen, total, *torch.autograd.grad(total, [waves, rest, *leaves])])
        for quick, known in zip(*results, strict=True):
            close(quick, known, 1e-5)

    def test_an_amplitude_of_zero_has_a_gradient(self):
        amplitude, phase = made("amplitude and phase")
        with torch.no_grad():
            amplitude.zero_()
        waves, rest, kernels = inputs(1, (6, 7), 2, len(CORNER))
        far_waves(
            waves, rest, cut_windows((amplitude, phase), CORNER, (6, 7)), kernels[:1]
        ).real.sum().backward()
        assert amplitude.grad.isfinite().all()

    def test_an_object_changed_before_the_way_back_is_noticed(self):
        (phase,) = made("phase")
        waves, rest, kernels = inputs(1, (6, 7), 2, len(CORNER))
        seen = far_waves(waves, rest, cut_windows((phase,), CORNER, (6, 7)), kernels)
        with torch.no_grad():
            phase += 1
        with pytest.raises(RuntimeError, match="inplace"):
            seen.abs().sum().backward()


class TestTouched:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("corner", [CORNER, APART], ids=["together", "apart"])
    def test_adds_the_dense_gradient_where_it_says(self, corner, kind):
        field = (170, 210)
        waves, rest, kernels = inputs(2, (6, 7), 2, len(corner))
        dense, touched = (made(kind, 2, field, lead=(1,)) for _ in range(2))
        for leaf in touched:
            leaf.touched, leaf.grad = [], torch.ones_like(leaf)
        places = [id(leaf.grad) for leaf in touched]
        for leaves in (dense, touched):
            far_waves(waves, rest, cut_windows(leaves, corner, (6, 7)), kernels).abs().sum().backward()
        assert [id(leaf.grad) for leaf in touched] == places
        for leaf, known in zip(touched, dense, strict=True):
            close(leaf.grad - 1, known.grad, 1e-12)
            clear_boxes(leaf.grad, leaf.touched)
            assert (known.grad[leaf.grad != 0] == 0).all()
            area = sum((b - a) * (d - c) for a, b, c, d in leaf.touched)
            assert area <= (4 if corner is APART else 6) * 6 * 7 * 2

    def test_so_does_the_plain_way(self):
        leaf, known = (made("phase", 2)[0] for _ in range(2))
        leaf.touched, leaf.grad = [], torch.zeros_like(leaf)
        for one in (leaf, known):
            gather(one, CORNER, (6, 7)).square().sum().backward()
        assert torch.equal(leaf.grad, known.grad)
        clear_boxes(leaf.grad, leaf.touched)
        assert not leaf.grad.any()


class TestBoxes:
    def test_hold_their_windows_and_little_else(self):
        random = np.random.default_rng(0)
        for span in (20, 100, 2000):
            places = random.integers(0, span, (40, 2))
            boxes, member = group_windows(places, (12, 9))
            for (y, x), box in zip(places.tolist(), (boxes[number] for number in member), strict=True):
                assert box[0] <= y
                assert y + 12 <= box[1]
                assert box[2] <= x
                assert x + 9 <= box[3]
            assert sum((b - a) * (d - c) for a, b, c, d in boxes) <= 40 * 12 * 9
            assert sorted(set(member)) == list(range(len(boxes)))

    @pytest.mark.parametrize("span", [10, 60, 150, 1000])
    @pytest.mark.parametrize("count", [1, 2, 40])
    def test_disjoint_ones_cover_the_union_once(self, span, count):
        random = np.random.default_rng(count)
        shape = (span + 30, span + 20)
        corner, size = random.integers(-5, span, (count, 2)), random.integers(5, 30, (count, 2))
        boxes = [(y, y + h, x, x + w) for (y, x), (h, w) in zip(corner.tolist(), size.tolist(), strict=True)]
        seen, wanted = np.zeros(shape, int), np.zeros(shape, bool)
        for top, bottom, left, right in boxes:
            wanted[max(top, 0) : bottom, max(left, 0) : right] = True
        found = merge_boxes(boxes, shape)
        for top, bottom, left, right in found:
            assert 0 <= top < bottom <= shape[0]
            assert 0 <= left < right <= shape[1]
            seen[top:bottom, left:right] += 1
        assert seen.max() == 1
        assert seen[wanted].all()
        assert seen.sum() <= 1.5 * sum((h + 30) * (w + 30) for h, w in size)
        assert len(found) <= 2 * count

    def test_lone_ones_stay_as_they_are(self):
        boxes = [(0, 10, 0, 10), (20, 31, 3, 9)]
        assert merge_boxes(boxes, (50, 50)) == boxes
        assert merge_boxes([], (50, 50)) == []


class TestMisfit:
    NOISES = (
        noise.amplitude,
        noise.poisson,
        noise.gaussian,
        partial(noise.amplitude, floor=0.3),
        partial(noise.poisson, floor=0.2),
        partial(noise.poisson, limit=0.5),
        partial(noise.poisson, limit=math.inf),
        partial(noise.gaussian, power=0.5),
        lambda model, counts: (model - counts).abs().pow(1.5),
    )

    @pytest.mark.parametrize("real", COMPLEX, ids=str)
    @pytest.mark.parametrize("modes", [1, 3])
    @pytest.mark.parametrize("number", range(len(NOISES)))
    def test_is_that_of_the_expected_counts(self, number, modes, real):
        divergence = self.NOISES[number]
        wave = draw(4, modes, 5, 6, dtype=COMPLEX[real]).requires_grad_()
        weight, background = draw(4, seed=1, dtype=real).exp(), draw(5, 6, seed=2, dtype=real).exp()
        weight, background = weight.requires_grad_(), background.requires_grad_()
        flat, mask = draw(5, 6, seed=3, dtype=real).exp(), draw(5, 6, seed=4) > 0
        counts = torch.poisson(5 * torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))).to(real)
        model = weight[:, None, None] * wave.abs().square().sum(1) * flat + background
        plain = (divergence(model, counts) * mask).sum()
        fast = misfit(
            wave, counts, weight, noise.with_slope(divergence), background=background, flat=flat, mask=mask
        )
        leaves = [wave, weight, background]
        close(fast, plain, NEAR[real])
        slopes = (torch.autograd.grad(3 * total, leaves) for total in (fast, plain))
        for a, b in zip(*slopes, strict=True):
            close(a, b, 3 * NEAR[real])

    def test_gradients_agree_with_differences(self):
        wave, weight = draw(2, 2, 3, 4, dtype=torch.complex128), draw(2, seed=1).exp()
        background = draw(3, 4, seed=2).exp()
        counts = draw(2, 3, 4, seed=3).exp()

        def total(wave, weight, background):
            return misfit(wave, counts, weight, noise.with_slope(noise.poisson), background=background)

        given = [value.requires_grad_() for value in (wave, weight, background)]
        assert torch.autograd.gradcheck(total, given)

    def test_a_slope_by_formula_is_that_of_autograd(self):
        model, counts, mask = draw(4, 5).exp(), draw(4, 5, seed=1).exp(), draw(4, 5, seed=2) > 0
        for divergence in self.NOISES:
            formula = noise.with_slope(divergence)(model, counts, mask)
            for a, b in zip(formula, differentiate_divergence(divergence)(model, counts, mask), strict=True):
                close(a, b, 1e-12)


class TestModel:
    @pytest.mark.parametrize("real", COMPLEX, ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("each", [False, True], ids=["upright", "tilts of their own"])
    @pytest.mark.parametrize(("slices", "modes", "shape"), [(1, 1, (8, 8)), (3, 2, (7, 10))])
    def test_loss_and_gradients_are_those_of_the_plain_way(self, slices, modes, shape, each, kind, real):
        results = []
        for swift in (True, False):
            model, likelihood = experiment(shape, slices, modes, kind, real, each=each)
            model.use_custom_adjoint = swift
            model.illumination_sum = torch.zeros(slices, *model.scan.canvas.shape, dtype=real)
            assert model.supports_fast_path() == swift
            terms = likelihood(torch.tensor([5, 0, 3]))
            terms["noise"].backward()
            named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            results.append({"loss": terms["noise"].detach(), "light": model.illumination_sum, **named})
        assert results[0].keys() == results[1].keys()
        assert {"scan.offsets", "probe.relative", "detector.weights", "detector.root"} <= results[0].keys()
        for name in results[0].keys() - {"scan.affine", "scan.turn", "scan.stretch"}:  # sums that cancel
            close(results[0][name], results[1][name], 10 * NEAR[real])

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 2)])
    def test_takes_no_transform_too_many(self, kind, slices, modes):
        _, likelihood = experiment((8, 8), slices, modes, kind, torch.float32)
        found = []
        for size in (2, 6):
            with Counted() as counted:
                likelihood(torch.arange(size))["noise"].backward()
            found.append(counted.transforms)
        assert found[1] - found[0] == 4 * 4 * slices * modes
        assert found[0] - 2 * 4 * slices * modes == 2 * modes

    @pytest.mark.parametrize(("modes", "shape", "many"), [(1, (64, 64), 128), (4, (128, 128), 8)])
    def test_pieces_fill_the_caches(self, modes, shape, many):
        _, likelihood = experiment(shape, 1, modes, "phase", torch.float32)
        assert likelihood.best_piece_size == many

    def test_a_batch_in_pieces_leaves_the_same_gradient(self):
        slopes = []
        for pieces in ([[4, 1, 2, 0]], [[4, 1], [2, 0]]):
            model, likelihood = experiment((8, 8), 3, 2, "phase", torch.float64)
            for piece in pieces:
                (likelihood(torch.tensor(piece))["noise"] * len(piece) / 4).backward()
            slopes.append(model.object.phase.grad)
        close(*slopes, 1e-12)

    @pytest.mark.parametrize("part", ["stretch", "tilt"])
    def test_the_flight_between_slices_has_the_gradient_of_the_plain_way(self, part):
        slopes = []
        for swift in (True, False):
            model, likelihood = experiment((8, 8), 3, 2, "phase", torch.float64)
            model.use_custom_adjoint = swift
            getattr(model.propagator, part).requires_grad_(True)
            likelihood(torch.arange(3))["noise"].backward()
            slopes.append(getattr(model.propagator, part).grad)
        assert model.supports_fast_path() is False
        close(*slopes, 1e-10)

    @pytest.mark.parametrize("part", ["shift", "descan"])
    def test_what_is_refined_of_the_flight_to_the_detector_takes_the_plain_way(self, part):
        model, likelihood = experiment((8, 8), 2, 2, "phase", torch.float64)
        getattr(model.propagator, part).requires_grad_(True)
        assert not model.supports_fast_path()
        likelihood(torch.arange(3))["noise"].backward()
        assert getattr(model.propagator, part).grad.abs().max() > 0

    @pytest.mark.parametrize("states", [1, 2])
    def test_the_plain_way_lights_the_slices_too(self, states):
        model, _ = experiment((8, 8), 2, 2, "phase", torch.float64)
        if states == 2:
            model.object.phase = torch.nn.Parameter(model.object.phase.detach().repeat(2, 1, 1, 1))
            model.object.occupancy = torch.tensor([0.3, 0.7], dtype=torch.float64)
        lights = []
        for swift in (True, False):
            model.use_custom_adjoint, model.illumination_sum = (
                swift,
                torch.zeros(2, *model.scan.canvas.shape, dtype=torch.float64),
            )
            model(torch.arange(4))
            lights.append(model.illumination_sum)
        close(*lights, 1e-12)
        assert lights[0].sum().item() == pytest.approx(8 * model.probe.modes().abs().square().sum().item())


class TestNothingStale:
    """What is kept from one batch to the next follows the parameters."""

    CHANGES: ClassVar = {
        "object": lambda model: model.object.phase.mul_(1.5),
        "part of the object": lambda model: model.object.phase[..., 9, 9].add_(0.5),
        "thickness": lambda model: model.propagator.stretch.add_(0.2),
        "tilt": lambda model: model.propagator.tilt.add_(3.0),
        "shift": lambda model: model.propagator.shift.add_(0.4),
        "descan": lambda model: model.propagator.descan.add_(0.4),
        "affine": lambda model: model.scan.affine.add_(0.3),
        "rotation": lambda model: model.scan.turn.add_(0.3),
        "scale": lambda model: model.scan.stretch.add_(0.3),
        "start": lambda model: model.scan.start.add_(0.3),
        "positions": lambda model: model.scan.offsets.add_(0.3),
        "probe": lambda model: model.probe.relative.mul_(1.1),
        "background": lambda model: model.detector.root.add_(0.2),
        "flat": lambda model: model.detector.flat.mul_(0.7),
        "mask": lambda model: model.detector.mask[:3].fill_(False),
        "weights": lambda model: model.detector.weights.mul_(0.7),
    }

    @pytest.mark.parametrize("name", CHANGES)
    def test_after_a_change_in_place(self, name):
        """A copy made after the change has kept nothing."""
        model, likelihood = experiment((8, 8), 2, 2, "phase", torch.float64, bare=True)
        model.propagator.has_tilt = True
        index = torch.tensor([4, 1, 2])
        with torch.no_grad():
            before = likelihood(index)["noise"]
            self.CHANGES[name](model)
            after = likelihood(index)["noise"]
            new = copy.copy(likelihood)
            new.model = copy.deepcopy(model)
            known = new(index)["noise"]
        assert abs(after - before) > 1e-6 * before
        close(after, known, 1e-12)

    def test_in_another_precision(self):
        model, likelihood = experiment((8, 8), 2, 2, "phase", torch.float32, bare=True)
        index = torch.tensor([4, 1, 2])
        with torch.no_grad():
            single = likelihood(index)["noise"]
            in_double(model)
            double = likelihood(index)["noise"]
        assert double.dtype == torch.float64
        assert double.item() == pytest.approx(single.item(), rel=1e-4)
        assert double.item() != single.item()

    def test_what_autograd_looks_for_is_never_kept(self):
        kept, source = TensorCache(), torch.ones(2, requires_grad=True)
        kept.get(lambda: 1, source)
        assert kept.get(lambda: 2, source) == 2

    def test_glass_grows_to_what_batches_share(self):
        glass, (leaf,) = TransmissionCache(), (torch.nn.Parameter(made("phase", 1, (40, 40))[0].detach()),)
        for box in [(0, 20, 0, 20), (2, 22, 1, 21), (1, 21, 0, 20)]:
            wave, around = glass.get_box((leaf,), box)
            assert torch.equal(wave, transmission((leaf,), around))
        assert around == (0, 22, 0, 21)


class Counted(TorchDispatchMode):
    """Counts two-dimensional transforms."""

    def __init__(self):
        super().__init__()
        self.transforms = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_fft_" in str(func):
            self.transforms += args[0].numel() // (args[0].shape[-1] * args[0].shape[-2])
        return func(*args, **(kwargs or {}))


def experiment(shape, slices, modes, kind, real, *, each=False, bare=False):
    """A scan of six patterns with a mask, a flat field and a background."""
    wavelength, pixel = 0.0418, (0.31, 0.27)
    angle = tuple(wavelength / (n * d) for n, d in zip(shape, pixel, strict=True))
    geometry = Geometry(wavelength=wavelength, shape=shape, angle=angle, beam="electron")
    random = np.random.default_rng(0)
    full = np.ones(shape)
    mask = np.ones(shape, bool) if bare else random.uniform(size=shape) > 0.2
    scan = Scan4D(
        counts=random.poisson(3.0, (6, *shape)).astype(float),
        positions=random.uniform(0, 6, (6, 2)) * pixel,
        geometry=geometry,
        mask=mask,
        flat=full if bare else random.uniform(0.5, 1, shape),
        background=0 * full if bare else random.uniform(0.1, 0.4, shape),
        weights=random.uniform(0.8, 1.2, 6),
    )
    room = scans.canvas(scan, border=3)
    start = torch.polar(1 + 0.1 * draw(1, slices, *room.shape), 0.5 * draw(1, slices, *room.shape, seed=1))
    gaps = tuple(10.0 + gap for gap in range(slices - 1))
    tilt = 1e-3 * draw(6, 2, seed=5) if each else torch.zeros(1, 2)
    model = Ptychography(
        object=PixelObject(start, kind, gaps, room),
        probe=Probe(draw(modes, *shape, dtype=torch.complex128, seed=2), geometry),
        scan=scans.Positions.of(scan, room),
        propagator=propagators.FreeFlight(scan, gaps, angular_spectrum, tilt),
        detector=detectors.counting(scan),
    )
    likelihood = Likelihood(in_double(model), scan)
    return in_double(model, real), likelihood


def test_tilted_kernels_fly_as_they_should():
    """Broadcast shapes of the propagator's own kernels go through."""
    one, each = (
        tilt_ramp((6, 7), (0.3, 0.3), torch.tensor(10.0, dtype=torch.float64), 1e-2 * draw(n, 2))
        for n in (1, 4)
    )
    waves, rest, _ = inputs(2, (6, 7), 2, 4)
    for kernel in (one[0], each[:, None]):
        known = slow(waves, rest, made("phase"), CORNER, [kernel])
        close(far_waves(waves, rest, cut_windows(made("phase"), CORNER, (6, 7)), [kernel]), known, 1e-12)
