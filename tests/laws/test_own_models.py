"""What a model of one's own may lean on: a misfit in our units, Newton steps, windows laid by position."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import phaseloom as pl
from phaseloom.fitting.newton import GaussNewton, diagonal
from phaseloom.physics.propagate import transmit
from phaseloom.ptycho import batches, illumination, noise, objects, probes, scans
from phaseloom.ptycho.objects import bandlimited
from tests.laws.test_newton import experiment


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Centred(nn.Module):
    """The built-in model as if it were somebody's own: patterns as in files."""

    def __init__(self, inner: pl.Ptychography):
        super().__init__()
        self.inner = inner

    def forward(self, index):
        return self.inner.detector.display(self.inner(index))


class TestMisfit:
    @pytest.mark.parametrize("divergence", [noise.amplitude, noise.gaussian, noise.poisson])
    def test_it_is_the_likelihood_of_the_same_patterns(self, divergence):
        scan, model = experiment(modes=2)
        mask = np.ones(scan.geometry.shape, bool)
        mask[3:5, :7] = False
        scan = replace(scan, mask=mask)
        model = pl.Ptychography.of(scan, object=model.object, probe=model.probe)
        some, losses, slopes = torch.tensor([7, 0, 3]), [], []
        for objective in (
            pl.Likelihood(model, scan, divergence),
            pl.Misfit(Centred(model), scan, divergence),
        ):
            loss = objective(some)["noise"]
            (slope,) = torch.autograd.grad(loss, model.object.wave)
            losses.append(loss.item())
            slopes.append(slope)
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        # transforms of both round differently, which dark pixels show most: by 1e-4 of the largest
        torch.testing.assert_close(*slopes, rtol=1e-3, atol=2e-4 * float(slopes[0].abs().max()))

    def test_its_floor_is_public(self):
        scan, model = experiment()
        mask = torch.as_tensor(scan.mask)
        counts = torch.as_tensor(scan.counts[np.arange(len(scan))]).float()
        wanted = pl.shot_noise(noise.poisson, counts, mask)
        assert pl.Misfit(model, scan, noise.poisson).floor == pytest.approx(wanted)

    def test_the_loop_takes_it_and_holds_patterns_out(self):
        scan, model = experiment()
        own = Centred(model)
        optimizer = pl.optimizers.adam(
            pl.optimizers.groups({"object": [model.object.wave]}, {"object": 0.02})
        )
        order, held = batches.random(range(4, len(scan)), size=8), [torch.arange(4)]
        epochs = list(
            pl.fit(pl.Misfit(own, scan), order, pl.Progress(own, optimizer), epochs=3, holdout=held)
        )
        assert epochs[-1].loss < epochs[0].loss
        assert epochs[-1].holdout is not None

    def test_lazy_counts_are_read_by_the_batch(self, monkeypatch):
        monkeypatch.setattr("phaseloom.ptycho.likelihood.MAX_FLOAT_BYTES", 0)
        scan, model = experiment()
        read = []

        class Counted(np.ndarray):
            def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
                read.append(len(index))
                return np.asarray(super().__getitem__(index))

        misfit = pl.Misfit(Centred(model), scan)
        lazy = pl.Misfit(
            Centred(model), replace(scan, counts=scan.counts[np.arange(len(scan))].view(Counted))
        )
        read.clear()
        some = torch.tensor([5, 2])
        assert lazy(some)["noise"].item() == misfit(some)["noise"].item()
        assert read == [2]

    @pytest.mark.parametrize(
        "given", [torch.ones(1, 16, 16), torch.ones(3, 16, 16) + 0j, torch.ones(3, 8, 8)]
    )
    def test_patterns_that_would_be_broadcast_are_refused(self, given):
        class Wrong(nn.Module):
            def forward(self, index):
                return given

        scan, _ = experiment()
        with pytest.raises(
            pl.BadInput, match=r"Misfit: model: .* does not have one pattern for each index: let forward"
        ):
            pl.Misfit(Wrong(), scan)(torch.arange(3))


class TestDiagonal:
    @pytest.mark.parametrize("shape", [(), (5,), (4, 5), (2, 3, 4)])
    def test_a_whole_step_reaches_the_minimum_of_a_parabola(self, shape):
        generator = torch.Generator().manual_seed(1)
        bend, goal = (torch.rand(shape, generator=generator) + 0.5 for _ in range(2))
        value = nn.Parameter(torch.zeros(shape))
        optimizer = GaussNewton([{"params": [value], "name": "value", "lr": 1.0}])
        optimizer.rules = {value: diagonal(bend, momentum=False)}
        (0.5 * bend * (value - goal).square()).sum().backward()
        optimizer.step()
        torch.testing.assert_close(value.detach(), goal)

    def test_of_complex_numbers_too(self):
        value = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        optimizer = GaussNewton([{"params": [value], "name": "value", "lr": 1.0}])
        optimizer.rules = {value: diagonal(2.0, momentum=False)}
        (value - (1 - 2j)).abs().square().sum().backward()
        optimizer.step()
        torch.testing.assert_close(value.detach(), torch.full((3,), 1 - 2j))

    def test_a_rate_is_a_share_and_momentum_repeats_it(self):
        moved = []
        for momentum in (False, True):
            value = nn.Parameter(torch.zeros(()))
            optimizer = GaussNewton([{"params": [value], "name": "value", "lr": 0.25}])
            optimizer.rules = {value: diagonal(1.0, momentum=momentum)}
            (0.5 * (value - 1).square()).backward()
            optimizer.step()
            moved.append(value.item())
        assert moved == pytest.approx([0.25, 0.25 * 1.9])

    @pytest.mark.parametrize("bend", [0.0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0]), 1j])
    def test_what_is_no_curvature_is_refused(self, bend):
        with pytest.raises(pl.BadInput, match=r"newton\.diagonal: bend: .* is not a curvature: make all"):
            diagonal(bend)


def star(shape=(11, 9)) -> torch.Tensor:
    """A smooth transmission that has no symmetry."""
    y, x = (torch.arange(n) - n // 2 for n in shape)
    bump = torch.exp(-((y[:, None] - 0.6) ** 2 + (x + 0.3) ** 2) / 9)
    return torch.polar(1 - 0.2 * bump, 0.7 * bump)


class TestPlaces:
    CANVAS = scans.Canvas((40, 37), (16, 16), (2.0, 3.0), (-30.0, 10.0))

    @pytest.mark.parametrize("kind", ["complex", "amplitude and phase"])
    def test_what_is_laid_is_found_again(self, kind):
        thing = objects.pixels(self.CANVAS, kind=kind, slices=2, thickness=5.0)
        place = (-30.0 + 14 * 2.0, 10.0 + 20 * 3.0)
        thing.place_window(star(), at=place)
        found = thing.read_window(place, shape=(11, 9))
        torch.testing.assert_close(found, star().expand(1, 2, 11, 9))
        around = thing.transmission().clone()
        around[..., 14 - 5 : 14 + 6, 20 - 4 : 20 + 5] = 1
        torch.testing.assert_close(around, torch.ones_like(around))

    def test_each_slice_and_state_may_have_its_own(self):
        thing = objects.pixels(self.CANVAS, slices=2, thickness=5.0, modes=2)
        own = torch.stack([star(), star().conj(), star().abs() + 0j, star() ** 2]).reshape(2, 2, 11, 9)
        thing.place_window(own.numpy(), at=(0.0, 40.0))
        torch.testing.assert_close(thing.read_window((0.0, 40.0), shape=(11, 9)), own)

    def test_between_pixels_it_moves_by_what_was_asked(self):
        thing, fine = objects.pixels(self.CANVAS), star((21, 21))
        place = (0.9, 61.1)
        thing.place_window(fine, at=place)
        torch.testing.assert_close(
            thing.read_window(place, shape=(9, 9))[0, 0], fine[6:15, 6:15], atol=2e-2, rtol=0
        )
        moved = thing.read_window((place[0] + 2.0, place[1] - 3.0), shape=(9, 9))[0, 0]
        torch.testing.assert_close(moved, fine[7:16, 5:14], atol=2e-2, rtol=0)

    def test_other_pixels_are_interpolated(self):
        thing, fine = objects.pixels(self.CANVAS), star((41, 41))
        thing.place_window(fine, at=(0.0, 40.0), pixel=(1.0, 1.5))
        torch.testing.assert_close(thing.read_window((0.0, 40.0), shape=(9, 9))[0, 0], fine[12:29:2, 12:29:2])

    def test_a_window_at_a_position_is_what_the_beam_sees_there(self):
        scan, model = experiment()
        canvas = model.object.canvas
        model.object.place_window(star((41, 40)), at=scan.positions.mean(0))
        model.scan.start.copy_(model.scan.start.round())  # where no window has to be interpolated
        places = model.scan.angstrom()
        corner, _ = model.scan(torch.arange(len(scan)))
        seen = model.object(corner)
        for number in (0, 8, 35):
            torch.testing.assert_close(model.object.read_window(places[number]), seen[number])
        assert seen.shape[-2:] == canvas.window

    def test_a_larger_array_is_cut_at_the_canvas(self):
        thing = objects.pixels(self.CANVAS)
        thing.place_window(torch.full((400, 400), 1j), at=(0.0, 40.0))
        assert bool((thing.wave == 1j).all())

    def test_a_band_limited_object_keeps_what_it_can(self):
        thing = bandlimited(self.CANVAS, pixel=3.0)
        thing.place_window(star((21, 21)), at=(0.0, 40.0))
        found = thing.read_window((0.0, 40.0), shape=(21, 21))[0, 0]
        assert float((found - star((21, 21))).abs().square().mean().sqrt()) < 0.1

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (
                lambda o: o.place_window(star(), at=(1e4, 0.0)),
                r"object\.place_window: at: .* lies off the canvas",
            ),
            (
                lambda o: o.place_window(star(), at=(0.0, 40.0), pixel=(0.0, 1.0)),
                r"place_window: pixel: .* two lengths",
            ),
            (
                lambda o: o.read_window((-30.0, 40.0)),
                r"read_window: at: .* 16 x 16 pixels that leaves",
            ),
        ],
    )
    def test_places_off_the_canvas_are_refused(self, call, said):
        with pytest.raises(pl.BadInput, match=said):
            call(objects.pixels(self.CANVAS))


class TestDepthOfFocus:
    def test_it_is_that_of_the_stored_probe(self):
        scan, model = experiment()
        wave = model.probe.modes().detach()
        known = replace(scan, probe=wave.numpy())
        wanted = illumination.measure_focal_depth(wave, scan.geometry)
        assert pl.depth_of_focus(known) == pytest.approx(wanted)

    def test_else_of_the_first_guess(self):
        scan, _ = experiment()
        guess = probes.auto(scan).modes()
        assert pl.depth_of_focus(scan) == pytest.approx(illumination.measure_focal_depth(guess, scan.window))


def test_one_slice_is_passed_by_every_wave_of_a_batch():
    wave, slice_ = torch.randn(3, 2, 5, 4) + 0j, torch.randn(1, 5, 4) + 0j
    torch.testing.assert_close(transmit(wave, slice_), transmit(wave, slice_.expand(3, 5, 4)))
