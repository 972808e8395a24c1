"""Laws of what patterns cannot tell: the tilt of an object and its shear."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.propagate import angular_spectrum
from phaseloom.physics.slices import estimate_lean, shear_slices
from phaseloom.ptycho import detectors, projections, propagators, scans
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.projections.apply import bind_projection, describe_setting
from phaseloom.simulation import simulate
from tests.laws.conftest import in_double

SHAPE, PIXEL, WAVELENGTH = (47, 44), (0.41, 0.37), 0.0418
PLACES = np.array([[0.0, 0.0], [1.37, 0.81], [0.19, 1.72]])
GAPS = (11.0, 17.0)
TILTS = [(3e-3, 0.0), (-2e-3, 5e-3)]


def axes(shape):
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - n // 2 for n in shape), indexing="ij")


def smooth(shape, width, seed, count=1):
    """Complex fields without fine detail."""
    generator = torch.Generator().manual_seed(seed)
    wave = torch.randn(count, *shape, dtype=torch.complex128, generator=generator)
    y, x = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape)
    keep = torch.exp(-2 * (math.pi * width) ** 2 * (y[:, None] ** 2 + x**2))
    wave = torch.fft.ifft2(torch.fft.fft2(wave) * keep)
    return wave / wave.abs().square().mean().sqrt()


def spot(shape, width):
    y, x = axes(shape)
    return torch.exp(-(y**2 + x**2) / (2 * width**2))


def experiment(tilt=(0.0, 0.0), *, states=2, each=False):
    """Two modes, three slices, all of them smooth and dark at the edge of the window, in double precision."""
    angle = (WAVELENGTH / (SHAPE[0] * PIXEL[0]), WAVELENGTH / (SHAPE[1] * PIXEL[1]))
    geometry = Geometry(wavelength=WAVELENGTH, shape=SHAPE, angle=angle, beam="electron")
    scan = Scan4D(counts=np.ones((3, *SHAPE)), positions=PLACES * PIXEL, geometry=geometry)
    room = scans.canvas(scan, border=2)
    phase = torch.stack([smooth(room.shape, 2.0, seed, states).real for seed in range(3)], 1)
    table = torch.tensor([tilt], dtype=torch.float64)
    if each:
        table = table * torch.tensor([[1.0], [0.3], [-0.5]], dtype=torch.float64)
    model = Ptychography(
        object=PixelObject(torch.polar(torch.ones_like(phase), 0.4 * phase), "complex", GAPS, room),
        probe=Probe(spot(SHAPE, 3.0) * smooth(SHAPE, 3.0, 9, 2), geometry),
        scan=scans.Positions.of(scan, room),
        propagator=propagators.FreeFlight(scan, GAPS, angular_spectrum, table),
        detector=detectors.counting(scan),
    )
    in_double(model).propagator.tilt.data = 1e3 * table
    return model, scan


@torch.no_grad()
def patterns(model):
    return model(torch.arange(len(PLACES)))


def apart(one, other):
    return float((one - other).abs().max() / other.abs().max())


class TestTiltAndShear:
    @pytest.mark.parametrize("tilt", TILTS)
    def test_give_the_same_patterns(self, tilt):
        tilted, _ = experiment(tilt)
        sheer, _ = experiment()
        plain = patterns(sheer)
        with torch.no_grad():
            sheer.object.wave.copy_(shear_slices(sheer.object.wave, GAPS, PIXEL, torch.tensor(tilt).double()))
        assert apart(patterns(tilted), plain) > 5e-3
        assert apart(patterns(sheer), patterns(tilted)) < 3e-6

    def test_the_other_way_round_do_not(self):
        tilted, _ = experiment(TILTS[0])
        sheer, _ = experiment()
        with torch.no_grad():
            sheer.object.wave.copy_(shear_slices(sheer.object.wave, GAPS, PIXEL, -torch.tensor(TILTS[0])))
        assert apart(patterns(sheer), patterns(tilted)) > 5e-3

    @pytest.mark.parametrize("share", [1.0, 0.5])
    @pytest.mark.parametrize("each", [False, True])
    def test_are_exchanged_by_upright_without_a_trace_in_the_patterns(self, each, share):
        model, scan = experiment(TILTS[1], each=each)
        before, tilts = patterns(model), model.propagator.tilts().clone()
        bind_projection(
            partial(projections.upright, share=share), model, describe_setting(model, scan), "upright"
        )()
        change = model.propagator.tilts() - tilts
        assert change.abs().max() > 1e-4
        torch.testing.assert_close(change, change[:1].expand_as(change), rtol=1e-3, atol=1e-9)
        assert apart(patterns(model), before) < 3e-6


def columnar(slices=4, shape=(96, 90), pixel=0.2, noise=0.0):
    one = torch.tensor(simulate.atoms(shape, pixel, peak=0.4, seed=2))
    stack = one.expand(slices, -1, -1)
    generator = torch.Generator().manual_seed(1)
    return stack + noise * torch.randn(stack.shape, dtype=torch.float64, generator=generator)


class TestLean:
    @pytest.mark.parametrize("way", [(3e-3, 0.0), (-7e-3, 8e-3), (2e-4, -1e-3)])
    @pytest.mark.parametrize("gaps", [(15.0, 15.0, 15.0), (20.0, 9.0, 16.0)])
    def test_of_columns_is_what_they_were_sheared_by(self, gaps, way):
        wanted = torch.tensor(way, dtype=torch.float64)
        stack = shear_slices(columnar(), gaps, (0.2, 0.2), wanted)
        found = estimate_lean(stack, gaps, (0.2, 0.2))
        assert (found - wanted).abs().max() < 1e-5

    def test_is_told_through_noise_and_by_single_precision(self):
        gaps, wanted = (15.0, 15.0, 15.0), torch.tensor([4e-3, -3e-3])
        stack = shear_slices(columnar(noise=0.03).float(), gaps, (0.2, 0.2), wanted)
        found = estimate_lean(stack, gaps, (0.2, 0.2))
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() < 1.5e-4

    def test_of_several_states_is_their_common_one(self):
        gaps, wanted = (15.0, 15.0, 15.0), torch.tensor([4e-3, -3e-3], dtype=torch.float64)
        states = torch.stack([columnar(noise=0.02), columnar().roll(7, -1)])
        found = estimate_lean(shear_slices(states, gaps, (0.2, 0.2), wanted), gaps, (0.2, 0.2))
        assert (found - wanted).abs().max() < 1e-4

    def test_of_a_single_slice_or_of_nothing_is_none(self):
        assert estimate_lean(torch.rand(1, 1, 6, 5), (), (1.0, 1.0)).tolist() == [0, 0]
        assert estimate_lean(torch.zeros(1, 3, 6, 5), (1.0, 2.0), (1.0, 1.0)).tolist() == [0, 0]


class TestUpright:
    where = projections.Setting((0.2, 0.2), WAVELENGTH, (15.0, 20.0, 15.0))

    def thing(self, way):
        lean = torch.tensor(way, dtype=torch.float64)
        return torch.exp(1j * shear_slices(columnar(), self.where.thickness, (0.2, 0.2), lean))[None]

    def test_leaves_upright_columns_and_their_tilt_alone(self):
        thing = self.thing([0.0, 0.0])
        straight, tilts = projections.upright(thing, torch.full((1, 2), 2e-3), self.where)
        assert (tilts - 2e-3).abs().max() < 1e-6
        assert (straight - thing).abs().max() < 1e-3

    def test_adds_what_columns_leaned_by_to_the_tilt_of_every_pattern(self):
        tilts = torch.tensor([[1e-3, 2e-3], [0.0, -1e-3]])
        straight, found = projections.upright(self.thing([3e-3, -4e-3]), tilts, self.where)
        assert (found - tilts - torch.tensor([3e-3, -4e-3])).abs().max() < 1e-5
        phase = straight.angle()[0]
        assert (phase - phase[:1]).abs().max() < 1e-2

    def test_in_halves_comes_to_the_same(self):
        thing, tilts = self.thing([3e-3, 1e-3]), torch.zeros(1, 2)
        for _ in range(8):
            thing, tilts = projections.upright(thing, tilts, self.where, share=0.5)
        assert (tilts - torch.tensor([3e-3, 1e-3])).abs().max() < 3e-5

    def test_leaves_a_single_slice_alone(self):
        thing, tilts = self.thing([0.0, 0.0])[:, :1], torch.full((1, 2), 2e-3)
        same, kept = projections.upright(thing, tilts, replace(self.where, thickness=()))
        assert same is thing
        assert kept is tilts

    @pytest.mark.parametrize("knobs", [{"share": 1.5}, {"most": 0.0}])
    def test_refuses_numbers_without_a_meaning(self, knobs):
        with pytest.raises(BadInput, match="upright"):
            projections.upright(self.thing([0.0, 0.0]), torch.zeros(1, 2), self.where, **knobs)
