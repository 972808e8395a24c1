"""Laws of the assembled experiment."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import shift_to_corner
from phaseloom.physics.propagate import angular_spectrum
from phaseloom.ptycho import detectors, propagators, scans
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.noise import amplitude
from phaseloom.ptycho.objects import PixelObject
from tests.laws.conftest import in_double

PIXEL = (0.31, 0.27)
PLACES = np.array([[0.0, 0.0], [1.37, 2.81], [3.19, 0.72], [2.6, 4.3]])
KINDS = ["complex", "amplitude and phase", "phase"]


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def far(shape):
    wavelength = 0.0418
    angle = tuple(wavelength / (n * d) for n, d in zip(shape, PIXEL, strict=True))
    return Geometry(wavelength=wavelength, shape=shape, angle=angle, beam="electron")


def near(shape):
    return Geometry(wavelength=1.0, shape=shape, angle=(1e-4, 1e-4), distance=1e6, focus=math.inf)


def scanned(shape=(6, 6), *, geometry=far, places=PLACES, **more):
    there = geometry(shape)
    counts = np.ones((len(places), *shape))
    return Scan4D(counts=counts, positions=np.asarray(places) * there.pixel, geometry=there, **more)


def experiment(
    scan, *, slices=2, modes=2, kind="complex", thickness=10.0, object_=None, probe=None, states=1, tilt=None
):
    """A model in double precision from random parts."""
    room, geometry = scans.canvas(scan, border=3), scan.window
    start = torch.polar(*fields((states, slices), room.shape, kind)) if object_ is None else object_[None]
    gaps = tuple(thickness * (1 + 0.1 * number) for number in range(start.shape[1] - 1))
    lean = torch.zeros(1, 2) if tilt is None else torch.as_tensor(tilt)
    share = torch.linspace(1, 2, states, dtype=torch.float64)
    model = Ptychography(
        object=PixelObject(start, kind, gaps, room, share / share.sum()),
        probe=Probe(noise(modes, *geometry.shape, seed=2) if probe is None else probe, geometry),
        scan=scans.Positions.of(scan, room),
        propagator=propagators.FreeFlight(scan, gaps, angular_spectrum, lean),
        detector=detectors.counting(scan),
    )
    return in_double(model)


def fields(stack, shape, kind):
    wave = noise(*stack, *shape, seed=1)
    return (torch.ones_like(wave.real) if kind == "phase" else 1 + 0.1 * wave.real), 0.4 * wave.imag


def all_of(model):
    return torch.arange(len(model.scan.start))


def patterns(model):
    with torch.no_grad():
        return model(all_of(model))


def same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


class TestGradient:
    @pytest.mark.parametrize("geometry", [far, near])
    @pytest.mark.parametrize("kind", KINDS)
    def test_of_every_parameter_agrees_with_differences(self, kind, geometry):
        background = np.full((6, 6), 0.3)
        model = experiment(scanned(geometry=geometry, background=background), kind=kind, states=2)
        movable = [id(p) for part in model.parts().values() for p in part]
        for name, parameter in model.named_parameters():
            if id(parameter) not in movable:
                continue
            assert torch.autograd.gradcheck(
                lambda value, name=name: functional_call(model, {name: value}, torch.tensor([2, 0, 1])),
                parameter.detach().clone().requires_grad_(),
                fast_mode=True,
            ), name

    def test_of_the_loss_reaches_every_parameter(self):
        scan = scanned(background=np.full((6, 6), 0.3), grid=(2, 2))
        model = experiment(scan).requires_grad_(True)
        Likelihood(model, scan)(all_of(model))["noise"].backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())

    def test_parts_name_every_parameter_once(self):
        model = experiment(scanned(grid=(2, 2)))
        named = [id(p) for part in model.parts().values() for p in part]
        assert sorted(named) == sorted(id(p) for p in model.parameters())


class TestSymmetry:
    @pytest.mark.parametrize("factor", [2.0, 0.3j, -1.7 + 0.4j])
    def test_what_the_probe_gains_the_object_may_lose(self, factor):
        scan = scanned()
        model, scaled = experiment(scan), experiment(scan)
        with torch.no_grad():
            scaled.probe.relative *= factor**2
            scaled.object.wave /= factor
        same(patterns(scaled), patterns(model))

    @pytest.mark.parametrize("step", [(1, 2), (-2, 1)])
    def test_object_and_scan_may_move_together(self, step):
        scan = scanned()
        model, moved = experiment(scan), experiment(scan)
        with torch.no_grad():
            moved.object.wave.copy_(model.object.wave.roll(step, (-2, -1)))
            moved.scan.start += torch.tensor(step)
        same(patterns(moved), patterns(model))

    def test_by_part_of_a_pixel_the_probe_may_move_instead(self):
        from phaseloom.physics.fourier import shift

        scan = scanned()
        model, moved = experiment(scan), experiment(scan)
        step = torch.tensor([0.11, -0.13], dtype=torch.float64)
        with torch.no_grad():
            model.scan.offsets += step
            moved.probe.relative.copy_(shift(moved.probe.relative, step[None]))
        corners = [m.scan(all_of(m))[0] for m in (model, moved)]
        assert torch.equal(*corners)
        same(patterns(moved), patterns(model))

    def test_kinds_of_object_agree_about_a_phase_object(self):
        scan = scanned()
        room = scans.canvas(scan, border=3)
        start = torch.exp(0.4j * noise(2, *room.shape).real)
        first, *others = (patterns(experiment(scan, kind=kind, object_=start)) for kind in KINDS)
        for other in others:
            same(other, first)

    def test_an_amplitude_is_kept_by_the_kinds_that_have_one(self):
        scan = scanned()
        room = scans.canvas(scan, border=3)
        start = torch.polar(*fields((2,), room.shape, "complex"))
        one, two = (patterns(experiment(scan, kind=kind, object_=start)) for kind in KINDS[:2])
        same(two, one)


class TestPositions:
    @pytest.mark.parametrize("step", [(2.3, -1.6), (-0.7, 0.9)])
    def test_more_than_a_pixel_moves_the_window(self, step):
        scan = scanned()
        refined, started = experiment(scan), experiment(scan)
        step = torch.tensor(step, dtype=torch.float64)
        with torch.no_grad():
            refined.scan.offsets[1] += step
            started.scan.start[1] += step
        assert not torch.equal(refined.scan(all_of(refined))[0], experiment(scan).scan(all_of(refined))[0])
        same(patterns(refined), patterns(started))

    @pytest.mark.parametrize("geometry", [far, near])
    def test_no_pattern_jumps_where_the_window_does(self, geometry):
        """Half a pixel rounds either way; a beam that fits its window must not notice."""
        places = [[0.0, 0.0], [2.499999, 1.3], [2.500001, 1.3], [2.3, 3.499999], [2.3, 3.500001], [6.0, 6.0]]
        r = torch.arange(24, dtype=torch.float64) - 12
        beam = torch.exp(-(r[:, None] ** 2 + r**2) / 8)[None] + 0j
        model = experiment(scanned((24, 24), geometry=geometry, places=places), probe=beam, thickness=1.0)
        corner, _ = model.scan(all_of(model))
        assert (corner[1] != corner[2]).any()
        assert (corner[3] != corner[4]).any()
        seen = patterns(model)
        same(seen[1], seen[2], tolerance=1e-3)
        same(seen[3], seen[4], tolerance=1e-3)

    def test_the_rest_is_at_most_half_a_pixel(self):
        _, rest = experiment(scanned()).scan(torch.arange(4))
        assert rest.abs().max() <= 0.5

    def test_an_affine_map_is_a_set_of_shifts(self):
        scan = scanned()
        mapped, shifted = experiment(scan), experiment(scan)
        with torch.no_grad():
            mapped.scan.affine += torch.tensor([[0.4, -0.3], [0.2, 0.9]], dtype=torch.float64)
            shifted.scan.offsets += mapped.scan.current_positions() - mapped.scan.start
        assert shifted.scan.offsets.abs().max() > 0.5
        same(patterns(mapped), patterns(shifted))

    def test_an_affine_map_is_told_in_pixels_of_the_farthest_position(self):
        """Row first: ``[0, 1]`` moves rows by how far a position lies along columns."""
        model = experiment(scanned())
        with torch.no_grad():
            model.scan.affine[0, 1] += 0.8
            step = model.scan.current_positions() - model.scan.start
        arm = model.scan.start - model.scan.start.mean(0)
        same(step, torch.stack([0.8 * arm[:, 1] / arm.abs().max(), 0 * arm[:, 0]], 1))

    def test_an_affine_map_leaves_the_middle_of_the_scan(self):
        model = experiment(scanned())
        with torch.no_grad():
            model.scan.affine += torch.tensor([[0.4, -0.3], [0.2, 0.9]], dtype=torch.float64)
        same(model.scan.current_positions().mean(0), model.scan.start.mean(0))

    @pytest.mark.parametrize("far_away", [1000.0, -1000.0, 12.0])
    def test_off_the_canvas_they_stay_finite(self, far_away):
        model = experiment(scanned())
        with torch.no_grad():
            model.scan.offsets += far_away
        seen = model(all_of(model))
        seen.sum().backward()
        assert seen.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_they_come_back_in_the_frame_of_the_scan(self):
        scan = scanned()
        np.testing.assert_allclose(Ptychography.of(scan).scan.angstrom(), scan.positions, atol=1e-5)


class TestDetector:
    def test_weights_flat_and_background_are_as_documented(self):
        random = np.random.default_rng(3)
        weights, flat = random.uniform(0.5, 2, 4), random.uniform(0.5, 1, (6, 5))
        background = random.uniform(0, 3, (6, 5))
        bare = patterns(experiment(scanned((6, 5))))
        seen = patterns(experiment(scanned((6, 5), weights=weights, flat=flat, background=background)))
        flat, background = (shift_to_corner(torch.as_tensor(a)) for a in (flat, background))
        same(seen, torch.as_tensor(weights)[:, None, None] * bare * flat + background, tolerance=1e-6)

    def test_a_full_pixel_shows_no_more_and_pulls_at_nothing(self):
        scan = scanned((6, 5))
        plain = patterns(experiment(scan)).detach()
        most = float(plain.flatten().sort().values[-20])
        model = experiment(scan)
        model.detector.saturation = most
        same(patterns(model).detach(), plain.clamp(max=most), tolerance=1e-6)
        index, counts = torch.arange(4), plain.clamp(max=most)
        left = model.misfit(index, counts, amplitude)
        left.backward()
        assert float(left.detach()) < 1e-8
        assert all(p.grad is None or not bool(p.grad.abs().max() > 1e-3) for p in model.parameters())

    @pytest.mark.parametrize("saturation", [0.0, -3.0, float("nan")])
    def test_a_saturation_that_is_none_is_refused(self, saturation):
        with pytest.raises(BadInput, match="saturation"):
            detectors.counting(scanned((6, 5)), saturation=saturation)

    def test_weights_follow_the_index(self):
        model = experiment(scanned(weights=np.array([1.0, 2.0, 3.0, 4.0])))
        index = torch.tensor([3, 1])
        same(model(index), patterns(model)[index])

    @pytest.mark.parametrize("geometry", [far, near])
    def test_display_undoes_arrange(self, geometry):
        detector = detectors.counting(scanned((5, 6), geometry=geometry))
        counts = torch.rand(3, 5, 6)
        assert torch.equal(detector.display(detector.arrange(counts)), counts)

    def test_an_unscattered_beam_falls_on_the_middle_of_a_file(self):
        scan = scanned((7, 6))
        flat = torch.ones(1, *scans.canvas(scan, border=3).shape, dtype=torch.complex128)
        plane = torch.ones(1, 7, 6, dtype=torch.complex128)
        model = experiment(scan, object_=flat, probe=plane)
        pattern = model.detector.display(patterns(model))[0]
        assert pattern.argmax() == 3 * 6 + 3

    def test_masked_pixels_leave_the_loss_alone(self):
        mask = np.ones((6, 6), bool)
        mask[1, 2] = False
        clean, spoilt = scanned(mask=mask), scanned(mask=mask)
        spoilt.counts[:, 1, 2] = 1e8
        losses = []
        for scan in (clean, spoilt):
            torch.manual_seed(0)
            losses.append(Likelihood(experiment(scan), scan)(torch.arange(4))["noise"].item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class TestNearField:
    @pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
    def test_behind_a_phase_object_no_photon_is_lost(self, shape):
        model = experiment(scanned(shape, geometry=near), kind="phase", slices=1)
        seen = patterns(model).sum((-2, -1))
        same(seen, model.probe.modes().detach().abs().square().sum().expand(4))

    def test_a_flat_object_shows_the_flown_probe(self):
        from phaseloom.physics.propagate import fly

        """At any real position: detector and beam stand still while the sample moves."""
        scan = scanned((7, 8), geometry=near)
        flat = torch.ones(1, *scans.canvas(scan, border=3).shape, dtype=torch.complex128)
        model = experiment(scan, object_=flat, modes=1)
        geometry = scan.geometry
        kernel = angular_spectrum(
            geometry.shape, geometry.pixel, geometry.wavelength, torch.tensor(1e6, dtype=torch.float64)
        )
        expected = fly(model.probe.modes().detach(), kernel).abs().square()
        same(patterns(model), expected.expand(4, -1, -1))

    def test_a_cone_beam_flies_the_effective_distance(self):
        cone = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-4, 1e-4), distance=3e6, focus=1e6)
        assert cone.magnification == pytest.approx(4)
        assert cone.flight == pytest.approx(0.75e6)
        assert cone.pixel == pytest.approx((75.0, 75.0))


class TestShapes:
    @pytest.mark.parametrize("geometry", [far, near])
    @pytest.mark.parametrize("shape", [(6, 6), (5, 7), (8, 5)], ids=str)
    @pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 2)])
    def test_odd_and_oblong_windows_and_batches_of_one(self, shape, geometry, slices, modes):
        model = experiment(scanned(shape, geometry=geometry), slices=slices, modes=modes)
        whole = patterns(model)
        assert whole.shape == (4, *shape)
        for one in range(4):
            same(model(torch.tensor([one]))[0], whole[one])

    @pytest.mark.parametrize("geometry", [far, near])
    def test_first_guesses_make_a_model_of_any_scan(self, geometry):
        scan = scanned((7, 10), geometry=geometry)
        model = Ptychography.of(scan)
        seen = patterns(model)
        assert seen.isfinite().all()
        assert seen.sum().item() == pytest.approx(4 * 70, rel=1e-4)

    def test_coverage_counts_every_electron(self):
        model = experiment(scanned())
        assert model.coverage().sum() == pytest.approx(
            4 * model.probe.modes().abs().square().sum().item(), rel=1e-6
        )

    def test_the_loss_of_the_truth_is_one(self):
        scan = scanned((16, 16), places=np.random.default_rng(0).uniform(0, 9, (40, 2)))
        model = experiment(scan)
        with torch.no_grad():
            model.probe.relative *= 10
            counts = torch.poisson(patterns(model), generator=torch.Generator().manual_seed(0))
        measured = Scan4D(
            counts=model.detector.display(counts).numpy(), positions=scan.positions, geometry=scan.geometry
        )
        likelihood = Likelihood(model, measured)
        assert likelihood(torch.arange(40))["noise"].item() == pytest.approx(1, abs=0.06)
        assert likelihood.measure_residuals()["amplitude"] == pytest.approx(0.25, abs=0.02)
        assert likelihood.measure_residuals()["poisson"] == pytest.approx(1, abs=0.06)


class TestStates:
    """Mutually incoherent states of the object."""

    def test_patterns_add_by_their_shares(self):
        scan = scanned()
        model = experiment(scan, states=2)
        with torch.no_grad():
            seen = patterns(model)
            parts = []
            for state, share in enumerate(model.object.occupancy):
                one = experiment(scan, object_=model.object.wave[state].clone())
                parts.append(share * patterns(one))
        same(seen, sum(parts))

    def test_equal_states_are_one(self):
        scan = scanned()
        model = experiment(scan, states=2)
        with torch.no_grad():
            model.object.wave[1] = model.object.wave[0]
        same(patterns(model), patterns(experiment(scan, object_=model.object.wave[0].detach().clone())))


class TestTilt:
    def test_one_for_each_pattern_agrees_with_one_for_all(self):
        scan, tilt = scanned(), torch.tensor([[3e-3, -5e-3]], dtype=torch.float64)
        each = experiment(scan, tilt=tilt.repeat(4, 1), slices=3)
        same(patterns(each), patterns(experiment(scan, tilt=tilt, slices=3)))

    def test_of_one_pattern_leaves_the_others_alone(self):
        scan = scanned()
        tilt = torch.zeros(4, 2, dtype=torch.float64)
        tilt[2] = torch.tensor([4e-3, -2e-3])
        bent, straight = patterns(experiment(scan, tilt=tilt)), patterns(experiment(scan))
        same(bent[[0, 1, 3]], straight[[0, 1, 3]])
        assert (bent[2] - straight[2]).abs().max() > 1e-3 * straight.max()

    def test_leaning_columns_are_moved_slices(self):
        """A tilt is the same as an object whose next slice lies ``z tan(tilt)`` further along the axis."""
        scan = scanned((16, 16), places=[[0.0, 0.0], [2.0, 3.0]])
        r = torch.arange(16, dtype=torch.float64) - 8
        beam = torch.exp(-(r[:, None] ** 2 + r**2) / 6)[None] + 0j
        room, gap = scans.canvas(scan, border=3), 10.0
        y, x = (torch.arange(n, dtype=torch.float64) for n in room.shape)
        first = torch.exp(0.3j * torch.exp(-((y[:, None] - 12) ** 2 + (x - 13) ** 2) / 8))
        second = torch.exp(0.4j * torch.exp(-((y[:, None] - 11) ** 2 + (x - 12) ** 2) / 8))
        lean = math.atan(2 * PIXEL[0] / gap)
        tilted = torch.stack([first, second])
        moved = torch.stack([first, second.roll(2, 0)])
        a = experiment(scan, object_=tilted, probe=beam, thickness=gap, tilt=[[lean, 0.0]])
        b = experiment(scan, object_=moved, probe=beam, thickness=gap)
        same(patterns(a), patterns(b), tolerance=2e-3)
        back = experiment(scan, object_=tilted, probe=beam, thickness=gap, tilt=[[-lean, 0.0]])
        assert (patterns(back) - patterns(b)).abs().max() > 0.02 * patterns(b).max()


class TestFlight:
    def test_relative_thickness_is_a_longer_gap(self):
        scan = scanned()
        stretched, long = experiment(scan, slices=3), experiment(scan, slices=3, thickness=12.0)
        with torch.no_grad():
            stretched.propagator.stretch += 0.2
        same(patterns(stretched), patterns(long))

    @pytest.mark.parametrize("part", ["shift", "descan"])
    def test_patterns_move_by_whole_pixels(self, part):
        model, moved = experiment(scanned()), experiment(scanned())
        with torch.no_grad():
            getattr(moved.propagator, part).add_(torch.tensor([2.0, -1.0], dtype=torch.float64))
        same(patterns(moved), patterns(model).roll((2, -1), (-2, -1)))


class TestLines:
    def test_each_moves_its_own_positions(self):
        model = experiment(scanned(grid=(2, 2)))
        with torch.no_grad():
            model.scan.lines[1] += torch.tensor([0.3, -0.2], dtype=torch.float64)
            step = model.scan.current_positions() - model.scan.start
        same(step, torch.tensor([[0, 0], [0, 0], [0.3, -0.2], [0.3, -0.2]], dtype=torch.float64))

    def test_turn_and_stretch_are_what_they_say(self):
        model = experiment(scanned())
        arm = model.scan.start - model.scan.start.mean(0)
        reach = arm.abs().max()
        with torch.no_grad():
            model.scan.turn += 0.1 * reach
            model.scan.stretch += 0.05 * reach
            now = model.scan.current_positions() - model.scan.start.mean(0)
        c, s = 1.05 * math.cos(0.1), 1.05 * math.sin(0.1)
        pixel = torch.tensor(scanned().geometry.pixel, dtype=torch.float64)
        known = (arm * pixel) @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64) / pixel
        same(now, known)


class TestEnlarged:
    """Patterns modelled on more pixels than the detector has."""

    def test_wider_keeps_the_middle(self):
        from dataclasses import replace

        scan = scanned((6, 5))
        wide = replace(scan, modelled=scan.geometry.crop((10, 9)))
        model = experiment(wide)
        wave = model.propagator(
            model.probe(model.scan(all_of(model))[1])[:, None],
            model.object(model.scan(all_of(model))[0]),
            model.scan(all_of(model))[1],
            all_of(model),
        )
        whole = torch.fft.fftshift(wave.abs().square().sum((1, 2)), dim=(-2, -1))
        same(model.detector.display(patterns(model)), whole.detach()[:, 2:8, 2:7])

    @pytest.mark.parametrize("collect", ["area", "bilinear"])
    def test_finer_pixels_keep_the_counts(self, collect):
        from dataclasses import replace

        scan = scanned((6, 6))
        own = scan.geometry
        fine = replace(own, shape=(12, 12), angle=(own.angle[0] / 2, own.angle[1] / 2))
        response = detectors.counting(replace(scan, modelled=fine), collect=collect).response
        light = torch.zeros(1, 12, 12)
        light[0, :4, :4] = torch.rand(4, 4)
        assert response(light).sum().item() == pytest.approx(light.sum().item(), rel=1e-5)

    def test_checkpoints_that_call_the_response_sight_are_read(self):
        from dataclasses import replace

        scan = scanned((6, 6))
        own = scan.geometry
        fine = replace(own, shape=(12, 12), angle=(own.angle[0] / 2, own.angle[1] / 2))
        detector = detectors.counting(replace(scan, modelled=fine))
        state = {
            name.replace("response", "sight"): value + 1 for name, value in detector.state_dict().items()
        }
        assert "sight.rows" in state
        detector.load_state_dict(state)
        assert torch.equal(detector.state_dict()["response.rows"], state["sight.rows"])

    def test_area_keeps_zero_frequency_where_it_is(self):
        from dataclasses import replace

        scan = scanned((6, 6))
        own = scan.geometry
        fine = replace(own, shape=(12, 12), angle=(own.angle[0] / 2, own.angle[1] / 2))
        light = torch.zeros(1, 12, 12)
        light[0, 0, 0] = 1.0
        seen = detectors.counting(replace(scan, modelled=fine)).response(light)[0]
        assert seen[0, 0] == 1
