"""Newton steps: curvatures against their definition, and steps that know no units."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.fitting import newton, optimizers
from phaseloom.fitting.loop import Progress, fit
from phaseloom.ptycho import batches, noise, objects, probes, scans
from phaseloom.ptycho import multigrid as levels
from phaseloom.ptycho.curvature import (
    Curvature,
    ScannedArea,
    count_crossings,
    incident_waves,
    sum_illumination,
)
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.simulation import simulate

RATES = {"object": 0.2, "probe": 0.4}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def experiment(slices=1, modes=1, kind="complex", seed=0, window=16, dose=1e5, steps=(6, 6)):
    """A scan of atoms, and a model that starts from the right probe and a flat object."""
    pixel, step = 0.25, 0.7
    margin = (window // 2 + 4) * pixel
    positions = simulate.raster(steps, step, jitter=0.05, seed=seed)
    positions += margin - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + margin) / pixel).astype(int))
    truth = simulate.atoms(size, pixel, slices=slices, peak=0.4, seed=seed)
    optics = {"energy": 80e3, "semiangle": 25e-3, "defocus": 60.0, "thickness": 10.0}
    scan, _ = simulate.electron_scan(truth, pixel, positions, **optics, window=window, dose=dose, seed=seed)
    scan = replace(scan, grid=steps)
    thing = objects.pixels(scans.canvas(scan), slices=slices, thickness=10.0, kind=kind)
    return scan, Ptychography.of(
        scan, object=thing, probe=probes.focused(scan, semiangle=25e-3, defocus=60.0, modes=modes)
    )


def run(scan, model, epochs=3, rates=None, size=6, noise_=noise.amplitude, momentum=None):
    """Some epochs of the whole, as a recipe does it."""
    optimizer = optimizers.gauss_newton(optimizers.groups(model.parts(), rates or RATES), momentum=momentum)
    likelihood = Likelihood(model, scan, noise_)
    curvature = Curvature(model, likelihood)

    def prepare(progress):
        optimizer.set_rules(curvature(progress.history), curvature.momentum)

    progress = Progress(model, optimizer)
    order = batches.random(np.arange(len(scan)), 0, size=size)
    for _ in fit(likelihood, order, progress, epochs=epochs, before=[prepare]):
        pass
    return progress


def amplitudes(model, index):
    """Square roots of the expected counts."""
    return model(index).clamp(min=1e-12).sqrt()


def slope(model, parameter, place, index, step=1e-3):
    """Derivative of the amplitudes along one number."""
    with torch.no_grad():
        flat = parameter.view(-1)
        kept, seen = flat[place].clone(), []
        for sign in (1, -1):
            flat[place] = kept + sign * step
            seen.append(amplitudes(model, index))
        flat[place] = kept
    return (seen[0] - seen[1]) / (2 * step)


class TestCurvature:
    def test_light_is_the_sum_of_the_beams_where_they_fell(self):
        _, model = experiment(slices=3)
        ((waves, _),) = incident_waves(model)
        expected = np.zeros((3, *model.scan.canvas.shape))
        corners, _ = model.scan(torch.arange(36))
        for y, x in corners.tolist():
            expected[:, y : y + 16, x : x + 16] += waves.abs().square().sum(1).numpy()
        np.testing.assert_allclose(
            sum_illumination(model, incident_waves(model)).numpy(), expected, atol=1e-4 * expected.max()
        )

    @pytest.mark.parametrize("slices", [1, 3])
    def test_the_bound_of_a_pixel_holds(self, slices):
        """Step one never exceeds the Newton step of a pixel moved by itself."""
        scan, model = experiment(slices=slices, kind="phase")
        with torch.no_grad():
            model.object.phase += 0.2 * torch.rand_like(model.object.phase)
        likelihood = Likelihood(model, scan)
        rule = Curvature(model, likelihood)([])[model.object.phase]
        index, lit = torch.arange(36), sum_illumination(model, incident_waves(model))
        for slice_ in range(slices):
            place = int(lit[slice_].argmax()) + slice_ * lit[0].numel()
            true = 2 * slope(model, model.object.phase, place, index).square().sum() / (36 * likelihood.floor)
            ones = torch.ones_like(model.object.phase)
            bend = 1 / rule(model.object.phase, ones, 36, 1.0, (slice(None), slice(None))).view(-1)[place]
            assert true < bend < 25 * slices * true

    def test_positions_bend_as_patterns_change(self):
        """The estimate is within a factor of three of the truth for every pattern, and right on average."""
        scan, model = experiment(kind="phase", dose=1e8, window=32)
        with torch.no_grad():
            model.scan.start.round_()  # no window jumps to the next pixel under a small move
            truth = simulate.atoms(tuple(model.scan.canvas.shape), 0.25, peak=0.4, seed=0)
            model.object.phase += torch.as_tensor(truth, dtype=torch.float32)
            given = incident_waves(model), ScannedArea.of(model)
            found = Curvature(model, Likelihood(model, scan))._position_curvatures(*given)
        index = torch.arange(36)
        both = []
        for axis in (0, 1):
            with torch.no_grad():
                seen = []
                for sign in (1, -1):
                    model.scan.offsets[:, axis] += sign * 0.02
                    seen.append(amplitudes(model, index))
                    model.scan.offsets[:, axis] -= sign * 0.02
            both.append((seen[0] - seen[1]) / 0.04)
        true = torch.stack([both[axis].square().sum((1, 2)) for axis in (0, 1)], 1)
        ratio = found.diagonal(dim1=1, dim2=2) / true
        assert ratio.min() > 1 / 3
        assert ratio.max() < 3
        assert 0.6 < ratio.mean() < 1.7

    def test_a_thickness_bends_as_patterns_change(self):
        scan, model = experiment(slices=2, kind="phase")
        with torch.no_grad():
            model.object.phase += 0.5 * torch.rand_like(model.object.phase)
        model.propagator.stretch.requires_grad_()
        likelihood = Likelihood(model, scan)
        curvature = Curvature(model, likelihood)
        rule = curvature([{"loss": 1.0}])[model.propagator.stretch]
        change = slope(model, model.propagator.stretch, 0, torch.arange(36)).square().sum() / 36
        true = curvature.scale * change
        step = rule(model.propagator.stretch, torch.full((1,), 1e-3 * float(true)), 6, 1.0, None)
        assert float(step) == pytest.approx(1e-3, rel=0.1)

    def test_nothing_but_object_and_probe_moves_while_the_patterns_are_not_explained(self):
        scan, model = experiment(slices=2)
        model.propagator.stretch.requires_grad_()
        rules = Curvature(model, Likelihood(model, scan))([])
        for parameter in (model.scan.offsets, model.scan.affine, model.propagator.stretch):
            assert not rules[parameter](parameter, torch.ones_like(parameter), 6, 1.0, None).any()

    def test_crossings_are_few_for_a_wide_beam(self):
        _, narrow = experiment(steps=(6, 6))
        _, wider = experiment(steps=(12, 12))
        assert count_crossings(wider) > 1.5 * count_crossings(narrow) > 1


class TestNoUnits:
    def test_a_dose_changes_nothing_but_the_noise(self):
        """Expected counts in place of drawn ones, a thousand times as many: the same object."""
        found = []
        for factor in (1.0, 1e3):
            scan, model = experiment(dose=1e7)
            scan = replace(scan, counts=np.asarray(scan.counts) * factor)
            model = Ptychography.of(scan, probe=probes.focused(scan, semiangle=25e-3, defocus=60.0))
            run(scan, model, noise_=_root)
            found.append(model.object.transmission().detach())
        assert (found[0] - found[1]).abs().max() < 1e-3

    def test_a_unit_of_length_changes_nothing(self):
        found = []
        for unit in (1.0, 10.0):
            scan, _ = experiment()
            geometry = replace(scan.geometry, wavelength=scan.geometry.wavelength * unit)
            scan = replace(scan, positions=scan.positions * unit, geometry=geometry)
            probe = probes.focused(scan, semiangle=25e-3, defocus=60.0 * unit)
            model = Ptychography.of(scan, probe=probe)
            run(scan, model, rates={**RATES, "positions": 1.0, "affine": 0.1})
            found.append(model.object.transmission().detach())
        assert (found[0] - found[1]).abs().max() < 1e-4

    def test_threads_change_nothing(self):
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            scan, model = experiment()
            run(scan, model, rates={**RATES, "positions": 1.0})
            found.append(model.object.transmission().detach())
        assert (found[0] - found[1]).abs().max() < 1e-4


def _root(model, counts):
    """Amplitudes without a floor, which would be a unit."""
    return ((model + 1e-12).sqrt() - counts.sqrt()).square()


class TestSteps:
    def test_one_setting_serves_thin_and_thick(self):
        for slices, kind in ((1, "complex"), (3, "phase"), (3, "amplitude and phase")):
            scan, model = experiment(slices=slices, kind=kind, window=32)
            rates = {name: 0.4 if name == "probe" else 0.2 for name in (*model.object.parts(), "probe")}
            progress = run(scan, model, epochs=8, rates=rates)
            assert progress.history[-1]["loss"] < 1.4
            assert progress.history[0]["loss"] > 2

    def test_momentum_is_that_of_nesterov(self):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = optimizers.gauss_newton(optimizers.groups({"x": [parameter]}, {"x": 0.5}), momentum=0.5)

        class Plain:
            momentum = True

            def __call__(self, value, gradient, size, rate, where):
                return rate * gradient

        optimizer.set_rules({parameter: Plain()}, 0.9)
        seen, x, v = [], 0.0, 0.0
        for gradient in (1.0, -2.0, 0.5):
            parameter.grad = torch.tensor([gradient])
            optimizer.step()
            d = -0.5 * gradient
            v = 0.5 * v + d
            x += d + 0.5 * v
            seen.append((parameter.item(), x))
        np.testing.assert_allclose(*zip(*seen, strict=True), rtol=1e-6)

    def test_what_has_no_curvature_moves_as_adam_would(self):
        ours, theirs = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
        newton = optimizers.gauss_newton(optimizers.groups({"x": [ours]}, {"x": 0.1}))
        adam = optimizers.adam(optimizers.groups({"x": [theirs]}, {"x": 0.1}))
        for step in range(5):
            ours.grad = torch.arange(4.0) - step
            theirs.grad = torch.arange(4.0) - step
            newton.step()
            adam.step()
        torch.testing.assert_close(ours, theirs)

    def test_only_what_a_batch_touched_moves(self):
        parameter = torch.nn.Parameter(torch.zeros(1, 40, 40))
        parameter.touched = [(0, 8, 0, 8), (4, 12, 4, 12), (30, 36, 2, 9)]
        parameter.grad = torch.zeros(1, 40, 40)
        for top, bottom, left, right in parameter.touched:
            parameter.grad[:, top:bottom, left:right] = 1
        expected = parameter.grad.clone()

        class Plain:
            momentum = True

            def __call__(self, value, gradient, size, rate, where):
                return rate * gradient

        optimizer = optimizers.gauss_newton(optimizers.groups({"x": [parameter]}, {"x": 1.0}), momentum=0.0)
        optimizer.set_rules({parameter: Plain()}, 0.0)
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), -expected)
        optimizer.zero_grad()
        assert not parameter.grad.any()
        assert parameter.touched == []

    def test_a_brake_halves_accelerated_steps(self):
        _, model = experiment()
        optimizer = optimizers.gauss_newton(optimizers.groups(model.parts(), RATES))
        assert [optimizer.halve_steps() for _ in range(8)] == [True] * 6 + [False] * 2
        assert optimizer.param_groups[0]["brake"] == 1 / 64

    def test_a_brake_bounds_rates_and_leaves_those_alone_that_have_fallen_below(self):
        point = torch.nn.Parameter(torch.ones(3))

        class Plain:
            momentum = True

            def __call__(self, value, gradient, size, rate, where):
                return rate * gradient

        optimizer = optimizers.gauss_newton(optimizers.groups({"x": [point]}, {"x": 0.8}), momentum=0.0)
        optimizer.set_rules({point: Plain()}, 0.0)
        optimizer.halve_steps()
        for rate, expected in ((0.8, 0.4), (0.6, 0.4), (0.2, 0.2)):
            before = point.detach().clone()
            point.grad, optimizer.param_groups[0]["lr"] = torch.ones(3), rate
            optimizer.step()
            torch.testing.assert_close(before - point.detach(), torch.full((3,), expected))

    @pytest.mark.parametrize("excess", [1.0, 12.0, 30.0])
    def test_an_epoch_whose_steps_diverge_is_done_again_with_shorter_ones(self, excess):
        """A curvature that is too small by a factor: steps go beyond the minimum, farther each time."""
        point = torch.nn.Parameter(torch.zeros(1, 1))
        optimizer = optimizers.gauss_newton(optimizers.groups({"x": [point]}, {"x": 1.0}), momentum=0.0)
        progress = Progress(torch.nn.ParameterList([point]), optimizer)
        rule = newton.diagonal(2.0 / excess)
        epochs = list(
            fit(
                lambda batch: {"noise": (point - 1).square().sum() + 0 * batch.sum()},
                lambda number: [torch.arange(4)] * 6,
                progress,
                epochs=3,
                before=[lambda progress: progress.optimizer.set_rules({point: rule}, 0.0)],
            )
        )
        assert epochs[0].loss <= 3.0
        assert abs(point.item() - 1) < 0.1
        assert optimizer.param_groups[0]["brake"] <= 2 / excess * 1.001 or excess == 1

    def test_positions_wait_for_images_where_batches_are_few(self):
        scan, model = experiment()
        rules = Curvature(model, Likelihood(model, scan))([{"loss": 1.0}, {"loss": 1.0}])
        rule, index = rules[model.scan.offsets], torch.zeros(36, 2)
        gradient = torch.full((36, 2), 1e-9)
        moves = [float(rule(index, gradient, size, 1.0, None).abs().sum()) / size for size in (1, 2, 18, 36)]
        assert moves[1] == pytest.approx(moves[0])
        assert moves[2] == pytest.approx(moves[0] / 8)
        assert moves[3] == pytest.approx(moves[0] / 16)

    def test_the_flight_is_believed_less_than_positions(self):
        scan, model = experiment(slices=3)
        curvature = Curvature(model, Likelihood(model, scan))
        stretch = model.propagator.stretch.requires_grad_(True)
        one = torch.full_like(stretch, 1e-9)
        moves = []
        for loss in (1.0, 2.0):
            rules = curvature([{"loss": loss}, {"loss": loss}])
            gap = rules[stretch](stretch, one, 6, 1.0, None)
            place = rules[model.scan.offsets](model.scan.offsets, torch.full((36, 2), 1e-9), 6, 1.0, None)
            moves.append([float(gap.abs().sum()), float(place.abs().sum())])
        assert moves[1][0] == pytest.approx(0.1 * moves[0][0], rel=1e-3)
        assert moves[1][1] == pytest.approx(0.8 * moves[0][1], rel=1e-3)

    def test_a_background_is_found_where_all_else_is_known(self):
        """From half of the root mean count, in a tenth of the time that a step of one per cent would take."""
        scan, model = experiment(dose=1e4)
        with torch.no_grad():
            index = torch.arange(36)
            counts = model.detector.display(model(index) + 3.0).numpy()
            model.detector.start_background(0.5)
        scan = replace(scan, counts=counts)
        run(scan, model, epochs=20, rates={"background": 0.5})
        found = model.detector.background().detach()
        assert found.mean() == pytest.approx(3.0, rel=0.02)
        assert found.std() < 0.2


class TestLevels:
    def test_a_finer_grid_goes_on_where_the_coarser_one_was(self):
        """The patterns that both grids have in common are the same."""
        scan, fine = experiment(window=128, kind="complex")
        coarse_scan = levels.coarsen_scan(scan, fine)
        assert coarse_scan is not None
        thing = objects.pixels(levels.halve_canvas(fine.scan.canvas))
        probe = probes.focused(coarse_scan, semiangle=25e-3, modes=1)
        rough = Ptychography.of(coarse_scan, object=thing, probe=probe)
        levels.transfer_parameters(fine, rough)
        run(coarse_scan, rough, epochs=2, rates={**RATES, "positions": 1.0})
        levels.transfer_parameters(rough, fine)
        index = torch.arange(36)
        with torch.no_grad():
            many, few = fine.detector.display(fine(index)), rough.detector.display(rough(index))
        inner = many[:, 32:96, 32:96]
        assert (inner - few).abs().sum() < 0.03 * few.abs().sum()
        assert (many.sum() - inner.sum()) < 0.02 * many.sum()
        torch.testing.assert_close(
            fine.scan.current_positions(), 2 * rough.scan.current_positions(), atol=1e-3, rtol=0
        )

    def test_an_oblong_object_keeps_its_values_on_a_finer_grid(self):
        generator = torch.Generator().manual_seed(0)
        wave = torch.polar(torch.ones(1, 1, 20, 6), torch.rand(1, 1, 20, 6, generator=generator))
        finer = levels._resample_transmission(wave, (39, 12))
        assert finer.shape == (1, 1, 39, 12)
        torch.testing.assert_close(finer[..., ::2, ::2], wave, rtol=0, atol=1e-5)
        torch.testing.assert_close(levels._resample_transmission(finer, (20, 6)), wave, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("outside", "is_coarse"), [(5e-3, True), (2e-2, False)])
    def test_there_is_no_coarser_grid_where_light_would_be_lost(self, outside, is_coarse):
        scan, model = experiment(window=128)
        counts = np.asarray(scan.counts).astype(float)
        counts[:, :32] = counts[:, 96:] = 0
        counts[:, 32:96, :32] = counts[:, 32:96, 96:] = 0
        counts[:, :4] = outside * counts.sum() / counts[:, :4].size
        spread = replace(scan, counts=counts)
        assert (levels.coarsen_scan(spread, model) is not None) is is_coarse
        assert not levels.has_empty_outer_half(spread)  # for short runs whose losses are compared


class TestCalm:
    def test_few_electrons_make_steps_short_in_proportion(self):
        scan, model = experiment(dose=50.0)
        few = Curvature(model, Likelihood(model, scan))._limit_noise(4.0)
        more = Curvature(model, Likelihood(model, replace(scan, counts=10 * scan.counts)))._limit_noise(4.0)
        assert 0 < few < 0.1
        assert more == pytest.approx(10 * few, rel=1e-4)

    def test_counts_that_are_not_whole_tell_nothing_of_electrons(self):
        scan, model = experiment(dose=50.0)
        scan = replace(scan, counts=scan.counts * np.float32(0.37))
        assert Curvature(model, Likelihood(model, scan))._limit_noise(4.0) == np.inf


class TestFarFromTheObject:
    """What steps do while the model has much of the light elsewhere."""

    @staticmethod
    def rules(noise_=noise.poisson, losses=(), dose=1e5, elsewhere=False):
        """Rules after epochs of such losses; ``elsewhere``: counts that fall where the model has none."""
        scan, model = experiment(dose=dose)
        if elsewhere:
            scan = replace(scan, counts=np.roll(np.asarray(scan.counts), 6, -1))
        history = [{"loss": loss, "terms": {"noise": loss, "tv": 0.1}, "holdout": None} for loss in losses]
        return Curvature(model, Likelihood(model, scan, noise_))(history), model

    @staticmethod
    def move(rules, parameter):
        """Size of the step of a parameter for a gradient of ones."""
        whole = (slice(None), slice(None))
        step = rules[parameter](parameter, torch.ones_like(parameter), 1, 0.2, whole)
        return float(step.abs().amin())

    def test_few_electrons_do_not_shorten_steps(self):
        steps = []
        for loss in (2.9, 3.1):
            rules, model = self.rules(losses=[50.0, loss], dose=50.0)
            steps.append(self.move(rules, model.object.wave))
        assert steps[1] > 1.5 * steps[0]

    def test_the_loss_before_the_first_step_counts(self):
        near, model = self.rules(dose=50.0)
        shorter = self.move(near, model.object.wave)
        far, model = self.rules(dose=50.0, elsewhere=True)
        assert self.move(far, model.object.wave) > 1.5 * shorter
