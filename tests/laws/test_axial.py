"""Laws of positions along the beam."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.ptycho import detectors, noise, propagators, scans
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.scans import Heights, measure_height_sensitivity
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.simulation import simulate
from tests.laws.conftest import in_double

PLACES = np.array([[0.0, 0.0], [1.37, 2.81], [3.19, 0.72], [2.6, 4.3]])
SHAPES = [(7, 10), (8, 5), (9, 9)]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def far(shape):
    wavelength, pixel = 0.0418, (0.31, 0.27)
    angle = tuple(wavelength / (n * d) for n, d in zip(shape, pixel, strict=True))
    return Geometry(wavelength=wavelength, shape=shape, angle=angle, beam="electron")


def near(shape):
    return Geometry(wavelength=1.0, shape=shape, angle=(1e-4, 1.2e-4), distance=1e6, focus=math.inf)


SOME = {far: np.array([14.0, -22.0, 3.0, 5.0]), near: np.array([1.5e5, -2e5, 1e4, 4e4])}
"""Heights whose mean is nought, and which bend the probe by a few radian."""

GEOMETRIES = pytest.mark.parametrize("geometry", [far, near])


def scanned(shape=(7, 10), geometry=far, heights=None, places=PLACES):
    there = geometry(shape)
    counts, positions = np.ones((len(places), *shape)), np.asarray(places) * there.pixel
    return Scan4D(counts=counts, positions=positions, geometry=there, heights=heights)


def experiment(scan, *, slices=2, modes=2, unit=10.0, probe=None, kind="complex"):
    """A model in double precision from random parts, with heights where the scan has them."""
    room, gaps = scans.canvas(scan, border=3), tuple(8.0 + number for number in range(slices - 1))
    wave = random(1, slices, *room.shape, seed=1)
    size = torch.ones_like(wave.real) if kind == "phase" else 1 + 0.1 * wave.real
    light = random(modes, *scan.geometry.shape, seed=2) if probe is None else probe
    model = Ptychography(
        object=PixelObject(torch.polar(size, 0.4 * wave.imag), kind, gaps, room, torch.ones(1)),
        probe=Probe(light, scan.geometry),
        scan=scans.Positions.of(scan, room),
        propagator=propagators.FreeFlight(scan, gaps, angular_spectrum, torch.zeros(1, 2)),
        detector=detectors.counting(scan),
        heights=None if scan.heights is None else Heights.of(scan, unit),
    )
    return in_double(model)


def patterns(model):
    with torch.no_grad():
        return model(torch.arange(len(model.scan.start)))


def same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def spectrum(geometry, distance):
    """The kernel ``exp(i z (kz - k))`` from its definition."""
    y, x = (np.fft.fftfreq(n, d) for n, d in zip(geometry.shape, geometry.pixel, strict=True))
    k = 2 * np.pi / geometry.wavelength
    return np.exp(1j * distance * (np.sqrt(k**2 - (2 * np.pi * y[:, None]) ** 2 - (2 * np.pi * x) ** 2) - k))


def moved(shape, step):
    """Factor that moves a wave by ``(y, x)`` pixels."""
    y, x = (np.fft.fftfreq(n) for n in shape)
    return np.exp(-2j * np.pi * (y[:, None] * step[0] + x * step[1]))


def expected(model, geometry, heights):
    """``|F[O . A(-h) P]|^2``, or ``|A(L + h)[O . A(-h) P]|^2``, pattern by pattern, in numpy alone."""
    slices = model.object.transmission().detach().numpy()[0]
    modes, gaps = model.probe.modes().detach().numpy(), model.propagator.gaps.numpy()
    corners, rests = (one.detach().numpy() for one in model.scan(torch.arange(len(heights))))
    height, width = geometry.shape
    out = []
    for (top, left), rest, h in zip(corners, rests, heights, strict=True):
        kernel = spectrum(geometry, -h) * moved(geometry.shape, rest)
        wave = np.fft.ifft2(np.fft.fft2(modes) * kernel)
        for one, gap in zip(slices, [0.0, *gaps], strict=True):
            wave = np.fft.ifft2(np.fft.fft2(wave) * spectrum(geometry, gap))
            wave = wave * one[top : top + height, left : left + width]
        leaving = np.fft.fft2(wave, norm="ortho")
        if geometry.near:
            kernel = spectrum(geometry, geometry.distance + h) * moved(geometry.shape, -rest)
            leaving = np.fft.ifft2(leaving * kernel, norm="ortho")
        out.append((np.abs(leaving) ** 2).sum(0))
    return torch.as_tensor(np.array(out))


def framed(thing, room):
    """An object whose first pixel is the origin of positions, as the only state on a canvas."""
    top, left = np.round(-np.array(room.origin) / room.pixel).astype(int)
    height, width = room.shape
    wide = np.pad(thing, [(0, 0), (max(top, 0), height), (max(left, 0), width)], constant_values=1)
    y, x = max(-top, 0), max(-left, 0)
    return wide[None, :, y : y + height, x : x + width]


class TestPatterns:
    @GEOMETRIES
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 2)])
    def test_equal_an_independent_formula(self, geometry, shape, slices, modes):
        scan = scanned(shape, geometry, SOME[geometry])
        model = experiment(scan, slices=slices, modes=modes)
        same(patterns(model), expected(model, scan.geometry, scan.heights))

    @GEOMETRIES
    def test_only_differences_of_heights_are_felt(self, geometry):
        one, other = (scanned(geometry=geometry, heights=SOME[geometry] + far) for far in (0.0, 1e6))
        same(patterns(experiment(one)), patterns(experiment(other)))

    @GEOMETRIES
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_at_one_height_are_those_without_heights(self, geometry, shape):
        level, plain = scanned(shape, geometry, np.full(4, 3e4)), scanned(shape, geometry)
        same(patterns(experiment(level)), patterns(experiment(plain)))

    @GEOMETRIES
    def test_of_a_phase_object_hold_the_same_light_at_any_height(self, geometry):
        model = experiment(scanned(geometry=geometry, heights=SOME[geometry]), kind="phase")
        power = model.probe.modes().detach().abs().square().sum()
        same(patterns(model).sum((-2, -1)), power.expand(4))

    def test_are_those_of_a_probe_that_was_flown_to_the_first_slice(self):
        scan = scanned(heights=SOME[far])
        model, plain = experiment(scan, slices=3), experiment(replace(scan, heights=None), slices=3)
        for number, height in enumerate(SOME[far]):
            with torch.no_grad():
                kernel = torch.as_tensor(spectrum(scan.geometry, -height))
                plain.probe.set_modes(fly(model.probe.modes(), kernel))
            same(patterns(plain)[number], patterns(model)[number])

    @GEOMETRIES
    def test_follow_the_index(self, geometry):
        model = experiment(scanned(geometry=geometry, heights=SOME[geometry]))
        index = torch.tensor([3, 1])
        same(model(index), patterns(model)[index])

    def test_all_moved_together_are_those_of_another_defocus(self):
        """The optics further downstream by ``h`` are a probe with ``h`` more of under-focus."""
        lifted, blurred = (experiment(scanned(heights=SOME[far])) for _ in range(2))
        with torch.no_grad():
            lifted.heights.offsets += 0.7
            blurred.probe.focus += 0.7 * lifted.heights.unit / blurred.probe.unit
        assert (patterns(lifted) - patterns(experiment(scanned(heights=SOME[far])))).abs().max() > 0.1
        same(patterns(lifted), patterns(blurred))

    def test_of_a_simulated_scan_are_those_of_its_model(self):
        """Two lateral positions off the pixels, three heights, two slices, two modes, an oblong window."""
        rng = np.random.default_rng(0)
        wave = random(2, 12, 9, seed=4).numpy()
        thing = np.exp(0.3j * rng.normal(size=(2, 20, 22)))
        where = (
            np.array([[10.3, 9.0], [8.0, 11.2], [10.3, 9.0]]) * 0.3
        )  # the first pixel is on the canvas's grid
        scan = simulate.axial_scan(
            thing, 0.3, where, np.array([9.0, -4.0, -11.0]), wave, wavelength=0.0418, dose=1e9, thickness=7.0
        )
        room = scans.canvas(scan, border=6)
        whole = framed(thing, room)
        model = Ptychography(
            object=PixelObject(torch.as_tensor(whole), "complex", (7.0,), room, torch.ones(1)),
            probe=Probe(torch.as_tensor(scan.probe), scan.geometry),
            scan=scans.Positions.of(scan, room),
            propagator=propagators.exact(scan, (7.0,)),
            detector=detectors.counting(scan),
            heights=Heights.of(scan, 10.0),
        )
        seen = model.detector.display(patterns(model)).numpy()
        assert np.abs(np.sqrt(seen) - np.sqrt(scan.counts)).max() < 4  # shot noise is a half

    @pytest.mark.parametrize(
        ("where", "heights", "said"),
        [(8.0, [0.0, 1.0], "one for each of 3 positions"), (11.0, [0.0, 1.0, 2.0], "keep half a window")],
    )
    def test_of_a_scan_that_cannot_be_are_refused(self, where, heights, said):
        wave, knobs = np.ones((16, 16)), {"wavelength": 0.1, "dose": 1e4}
        with pytest.raises(BadInput, match=said):
            simulate.axial_scan(
                np.ones((16, 16)), 1.0, np.full((3, 2), where), np.array(heights), wave, **knobs
            )


class TestHeights:
    @GEOMETRIES
    def test_flights_there_and_back_are_one(self, geometry):
        scan = scanned(geometry=geometry, heights=SOME[geometry])
        there, back = (Heights.of(one, 1.0).double() for one in (scan, replace(scan, heights=-scan.heights)))
        index = torch.arange(4)
        same(there(index) * back(index), torch.ones(4, 1, 7, 10, dtype=torch.complex128), tolerance=1e-12)
        wave = random(4, 2, 7, 10)
        same(fly(fly(wave, there(index)), back(index)), wave, tolerance=1e-12)

    @GEOMETRIES
    @pytest.mark.parametrize("name", ["heights.offsets", "heights.stretch"])
    def test_gradients_agree_with_differences(self, geometry, name):
        unit = {far: 10.0, near: 1e5}[geometry]
        model = experiment(scanned(geometry=geometry, heights=SOME[geometry]), unit=unit)
        at, index = dict(model.named_parameters())[name], torch.tensor([2, 0, 3])
        weight = torch.rand(3, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

        def seen(value):
            return (weight * functional_call(model, {name: value}, index)).sum()

        start = (at.detach() + 0.1).requires_grad_()
        (gradient,) = torch.autograd.grad(seen(start), start)
        with torch.no_grad():
            steps = 1e-4 * torch.eye(start.numel(), dtype=torch.float64).view(-1, *start.shape)
            moves = torch.stack(
                [
                    8 * (seen(start + s) - seen(start - s)) - seen(start + 2 * s) + seen(start - 2 * s)
                    for s in steps
                ]
            )
        same(gradient.reshape(-1), moves / 12e-4, tolerance=1e-6)

    def test_a_scale_moves_the_farthest_by_a_unit(self):
        heights = Heights.of(scanned(heights=SOME[far]), 10.0).double()
        with torch.no_grad():
            heights.stretch += 0.5
        move = heights.current_heights().detach().numpy() - SOME[far]
        np.testing.assert_allclose(move, 5 * SOME[far] / 22)

    def test_come_back_in_the_frame_of_the_scan(self):
        scan = scanned(heights=SOME[far] + 123.0)
        np.testing.assert_allclose(Heights.of(scan, 10.0).angstrom(), scan.heights)

    def test_without_any_are_refused_with_a_sentence(self):
        with pytest.raises(BadInput, match="the file holds no positions along the beam"):
            Ptychography.of(scanned(), axial=True)
        assert Ptychography.of(scanned()).heights is None

    def test_less_than_a_tenth_of_the_depth_of_focus_is_modelled_if_asked(self):
        scan = scanned()
        unit = measure_height_sensitivity(Ptychography.of(scan).probe.modes(), scan.geometry)
        little, more = (
            replace(scan, heights=share * unit * np.array([0, 0.2, 1, 0.6])) for share in (0.09, 0.11)
        )
        assert Ptychography.of(little).heights is None
        assert Ptychography.of(little, axial=True).heights is not None
        assert Ptychography.of(more).heights is not None
        assert Ptychography.of(more, axial=False).heights is None


def planes(count=8, repeats=1, size=32):
    """A scan of one place in planes a depth of focus apart, with hardly any noise."""
    y, x = np.mgrid[:size, :size] - size // 2
    pupil = (np.hypot(y, x) < size / 5) * np.exp(0.02j * (y**2 + x**2) + 0.01j * x * y)
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))
    thing = np.exp(0.6j * simulate.atoms((size, size), 0.25, peak=1.0, seed=3)[0])
    unit = 0.0418 / (size / 5 * 0.0418 / (size * 0.25)) ** 2
    heights = np.tile(np.linspace(-1.75, 1.75, count) * unit, repeats)
    where = np.full((len(heights), 2), size // 2 * 0.25)
    return simulate.axial_scan(thing, 0.25, where, heights, probe, wavelength=0.0418, dose=1e9), thing


def explained(count=8, repeats=1):
    """Its model with the true object and probe, and a likelihood, the heights being free."""
    scan, thing = planes(count, repeats)
    room = scans.canvas(scan)
    whole = framed(thing[None], room).astype(np.complex64)
    model = Ptychography.of(
        scan,
        object=PixelObject(torch.as_tensor(whole), "complex", (), room, torch.ones(1)),
        probe=Probe(torch.as_tensor(scan.probe.astype(np.complex64)), scan.geometry),
    )
    model.requires_grad_(False)
    model.heights.offsets.requires_grad_()
    return model, Likelihood(model, scan, noise.amplitude)


def newton(model, likelihood, which, by):
    """The step at rate one that an error of one height asks for, from the gradient of a batch of eight."""
    rule = Curvature(model, likelihood)([{"loss": 1.0}])[model.heights.offsets]
    with torch.no_grad():
        model.heights.offsets[which] += by
    loss = likelihood(torch.arange(8))["noise"]
    (gradient,) = torch.autograd.grad(loss, model.heights.offsets)
    with torch.no_grad():
        model.heights.offsets[which] -= by
    return rule(model.heights.offsets, gradient, 8, 1.0, None)


class TestCurvature:
    @pytest.mark.parametrize("which", [0, 3, 6])
    @pytest.mark.parametrize("by", [0.02, -0.03])
    def test_one_height_goes_back_to_where_it_was(self, which, by):
        step = newton(*explained(), which, by)
        assert 1 / 3 < float(step[which]) / by < 3
        step[which] = 0
        assert step.abs().max() < 0.1 * abs(by)

    def test_the_number_of_patterns_does_not_matter(self):
        few, many = (newton(*explained(repeats=repeats), 3, 0.03) for repeats in (1, 10))
        assert len(many) == 80
        assert float(many[3]) == pytest.approx(float(few[3]), rel=0.05)


@pytest.fixture
def tree(tmp_path):
    native.write(planes()[0], tmp_path / "scan.h5")
    return {
        "file": str(tmp_path / "scan.h5"),
        "probe": {"stored": {"modes": 1}},
        "start": "none",
        "rates": {"object": 1.0, "probe": 0.0, "positions": 0.0, "affine": 0.0, "heights": 1.0},
        "holdout": 0,
        "epochs": 6,
    }


def run(job):
    for _ in job:
        pass
    return job


class TestRun:
    def test_a_result_keeps_heights(self, tree, tmp_path):
        job = run(Job.begin(Reconstruct.of(tree), tmp_path / "a"))
        job.result().save(tmp_path / "a/result.h5")
        read = Result.load(tmp_path / "a/result.h5")
        np.testing.assert_array_equal(read.heights, job.model.heights.angstrom())
        np.testing.assert_allclose(read.heights_start, job.scan.heights)
        assert np.ptp(read.heights - read.heights_start) > 0

    @pytest.mark.parametrize("stop", [1, 4])
    def test_a_run_resumes_to_the_same_bits(self, tree, tmp_path, stop):
        straight = run(Job.begin(Reconstruct.of(tree), tmp_path / "straight"))
        for epoch in Job.begin(Reconstruct.of(tree), tmp_path / "broken"):
            if epoch.number == stop:
                break
        resumed = run(Job.resume(tmp_path / "broken"))
        for (name, x), (_, y) in zip(
            straight.model.state_dict().items(), resumed.model.state_dict().items(), strict=True
        ):
            assert torch.equal(x, y), name
        np.testing.assert_array_equal(straight.result().heights, resumed.result().heights)

    def test_usual_rates_do_no_harm_where_all_patterns_are_of_one_place(self, tree):
        """No map of the positions is felt there, so that its curvature has no inverse."""
        job = run(Job.begin(Reconstruct.of(tree | {"rates": {"affine": 0.1, "rotation": 0.1}, "epochs": 4})))
        assert np.isfinite([event["loss"] for event in job.progress.history]).all()

    @pytest.mark.parametrize("name", ["heights", "height_scale"])
    def test_a_rate_without_heights_is_refused(self, tree, name):
        asked = tree | {"axial": False, "rates": {"probe": 0.0, name: 0.2}}
        with pytest.raises(BadInput, match="no positions along the beam are modelled"):
            Job.begin(Reconstruct.of(asked))

    @pytest.mark.parametrize("optimizer", [optimizers.adam, optimizers.gauss_newton])
    def test_only_parts_with_a_rate_move(self, optimizer):
        model, _ = explained()
        groups = optimizers.groups(model.parts(), {"heights": 0.1, "height_scale": 0.1})
        assert {id(p) for g in optimizer(groups).param_groups for p in g["params"]} == {
            id(model.heights.offsets),
            id(model.heights.stretch),
        }
