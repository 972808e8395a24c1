"""The classical engines: projections against their definitions, steps against the papers' formulas."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import checkpoint
from phaseloom.fitting.loop import Progress, fit
from phaseloom.fitting.optimizers import groups
from phaseloom.fitting.outcome import StopReason
from phaseloom.physics.detect import intensity, project_modulus
from phaseloom.ptycho import batches, noise, objects, optimizers, scans
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.optimizers import engines
from phaseloom.ptycho.optimizers.engines import best_steps
from phaseloom.ptycho.optimizers.exit_waves import WaveModel
from phaseloom.reconstruction import check
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from tests.laws.conftest import in_double

RATES = {"object": 1.0, "probe": 1.0}
ENGINES = [getattr(engines, name) for name in engines.__all__]
PIES = [engines.epie, engines.rpie, engines.mpie]
IN_ORDER = [torch.tensor([number]) for number in range(6)]
WINDOW = (7, 6)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


FAR = Geometry(wavelength=1.0, shape=WINDOW, angle=(1 / 7, 1 / 6))
NEAR = Geometry(wavelength=1e-3, shape=WINDOW, angle=(1e-3, 1e-3), distance=1e3, focus=float("inf"))


def experiment(*, whole=False, modes=2, slices=1, seed=0, masked=False, background=None, geometry=FAR):
    """A model in double precision, six patterns of what it was, and waves that are wrong in both parts.

    Positions are a jittered raster, on whole pixels if ``whole``.
    """
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid([0.0, 2.0], [0.0, 2.0, 4.0], indexing="ij"), -1).reshape(-1, 2)
    places = (places + (0 if whole else rng.uniform(-0.4, 0.4, places.shape))) * geometry.pixel
    mask = np.ones(WINDOW, bool)
    if masked:
        mask[2, 3] = mask[5, 1] = False
    counts = np.ones((6, *WINDOW))
    data = {"counts": counts, "positions": places, "geometry": geometry, "mask": mask}
    scan = Scan4D(**data, background=background)
    thing = objects.pixels(scans.canvas(scan), slices=slices, thickness=3.0)
    probe = 30 * draw(modes, *WINDOW, seed=seed + 1)
    model = in_double(Ptychography.of(scan, object=thing, probe=Probe(probe, scan.geometry)))
    with torch.no_grad():
        truth = torch.polar(
            0.8 + 0.2 * draw(*thing.wave.shape, seed=3).abs().clamp(max=1),
            0.5 * draw(*thing.wave.shape, seed=4).real,
        )
        model.object.set_transmission(truth)
        patterns = model.detector.display(model(torch.arange(6))).numpy()
    return replace(scan, counts=patterns.astype(np.float32)), model


def disturb(model, amount=0.1, seed=9):
    """The same model with other object and modes."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.object.wave += amount * draw(*other.object.wave.shape, seed=seed)
        other.probe.relative += amount * draw(*other.probe.relative.shape, seed=seed + 1)
    return other


def bound(make, scan, model, rates=RATES, **knobs):
    engine = make(groups({name: model.parts()[name] for name in rates}, rates), **knobs)
    likelihood = Likelihood(model, scan, noise.amplitude)
    engine.bind(model, likelihood)
    return engine, likelihood


def run(make, scan, model, order=IN_ORDER, epochs=1, **knobs):
    """Some epochs with the same batches; the history of losses."""
    engine, likelihood = bound(make, scan, model, **knobs)
    progress = Progress(model, engine)
    list(fit(likelihood, lambda number: order, progress, epochs=epochs))
    return progress


def parts_of(model):
    return model.object.transmission().detach().clone(), model.probe.modes().detach().clone()


def assert_same(one, other, rtol=1e-9):
    for a, b in zip(parts_of(one), parts_of(other), strict=True):
        assert torch.allclose(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


def size_of_change(one, other):
    return max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(parts_of(one), parts_of(other), strict=True)
    )


class TestModulus:
    def test_is_idempotent_and_imposes_what_was_measured(self):
        wave, target = draw(3, 2, 5, 4), draw(3, 5, 4, seed=1).abs()
        there = project_modulus(wave, target)
        assert torch.allclose(intensity(there), target)
        assert torch.allclose(project_modulus(there, target), there)

    def test_changes_the_least(self):
        """No other waves of that intensity are nearer, not of a thousand, far or close by."""
        wave, target = draw(1, 3, 4, 4), 1 + draw(1, 4, 4, seed=1).abs()
        there = project_modulus(wave, target)
        least = (there - wave).abs().square().sum()
        for seed in range(1000):
            other = there + (0.01 if seed % 2 else 3.0) * draw(1, 3, 4, 4, seed=seed)
            other = other * (target / intensity(other)).sqrt()[:, None]
            assert (other - wave).abs().square().sum() >= least - 1e-12

    def test_masked_and_dark_pixels_keep_their_waves(self):
        wave, target = draw(1, 2, 3, 4), torch.full((1, 3, 4), 2.0, dtype=torch.float64)
        wave[..., 0, 1] = 0
        mask = torch.ones(3, 4, dtype=torch.bool)
        mask[2, 2] = False
        there = project_modulus(wave, target, mask)
        assert torch.equal(there[..., 2, 2], wave[..., 2, 2])
        assert torch.equal(there[..., 0, 1], wave[..., 0, 1])
        assert not torch.equal(there[..., 1, 1], wave[..., 1, 1])


class TestExperiment:
    @pytest.mark.parametrize("slices", [1, 3])
    def test_its_waves_are_those_of_the_model(self, slices):
        scan, model = experiment(slices=slices)
        with torch.no_grad():
            view = WaveModel(model, Likelihood(model, scan))
            lit = view.light(torch.tensor([4, 1]))
            seen = view.measure(lit)
            assert torch.allclose(seen.seen, model.wave(lit.patterns))
            assert torch.allclose(seen.now, seen.target)
            assert float(seen.terms["noise"]) < 1e-10

    def test_its_loss_is_that_of_the_likelihood(self):
        scan, model = experiment(masked=True, background=np.full(WINDOW, 3.0))
        likelihood = Likelihood(model, scan)
        model = disturb(model)
        likelihood.model = model
        index = torch.tensor([0, 3, 5])
        with torch.no_grad():
            view = WaveModel(model, likelihood)
            found = view.measure(view.light(index)).terms["noise"]
            assert torch.allclose(found, likelihood(index)["noise"])

    @pytest.mark.parametrize("near", [False, True])
    def test_the_way_back_is_the_inverse_of_the_way_there(self, near):
        _, model = experiment(geometry=NEAR if near else FAR)
        if not near:
            with torch.no_grad():
                model.propagator.descan += 0.3 * draw(6, 2).real
        wave, rest, index = draw(2, 2, *model.propagator.shape), draw(2, 2, seed=1).real, torch.tensor([0, 3])
        with torch.no_grad():
            there = model.propagator.to_detector(wave, rest, index)
            assert not torch.allclose(there, torch.fft.fft2(wave, norm="ortho"))
            assert torch.allclose(model.propagator.from_detector(there, rest, index), wave)

    def test_shifting_back_is_the_adjoint_of_moving_the_probe(self):
        scan, model = experiment()
        view = WaveModel(model, Likelihood(model, scan))
        lit = view.light(torch.arange(6))
        other = draw(*lit.leaving.shape, seed=5)
        with torch.no_grad():
            left = (other.conj() * model.probe(lit.rest, None, lit.patterns)).sum()
            right = (view.shift_back(other, lit).conj() * model.probe.modes()).sum()
        assert torch.allclose(left, right)


class TestFixedPoint:
    @pytest.mark.parametrize(
        ("make", "slices", "geometry"),
        [
            *((make, 1, place) for make in ENGINES for place in (FAR, NEAR)),
            *((make, 2, FAR) for make in PIES),
        ],
    )
    def test_a_perfect_object_and_probe_stay(self, make, slices, geometry):
        scan, model = experiment(slices=slices, background=np.full(WINDOW, 2.0), geometry=geometry)
        before = copy.deepcopy(model)
        progress = run(make, scan, model, epochs=3)
        assert_same(model, before, rtol=1e-5)  # counts are in single precision
        assert progress.history[-1]["loss"] < 1e-10

    @pytest.mark.parametrize("make", ENGINES)
    def test_a_disturbed_one_is_found_again(self, make):
        scan, model = experiment(modes=1)
        model = disturb(model, 0.05)
        progress = run(make, scan, model, epochs=60)
        first, last = progress.history[0]["loss"], progress.history[-1]["loss"]
        assert last < 0.05 * first

    def test_a_probe_without_a_rate_stays(self):
        scan, model = experiment()
        model = disturb(model)
        for make in ENGINES:
            other = copy.deepcopy(model)
            run(make, scan, other, rates={"object": 1.0})
            assert torch.equal(other.probe.modes(), model.probe.modes())
            assert not torch.equal(other.object.wave, model.object.wave)

    def test_an_object_that_moves_later_stays_until_then(self):
        scan, model = experiment()
        for make in ENGINES:
            other = disturb(model)
            begin = other.object.wave.detach().clone()
            engine, likelihood = bound(make, scan, other)
            engine.param_groups[0]["start"] = 2
            for epoch in fit(likelihood, lambda number: IN_ORDER, Progress(other, engine), epochs=2):
                assert torch.equal(other.object.wave, begin) == (epoch.number < 2)


def epie_by_hand(scan, model, alpha=1.0, beta=1.0, regularise=(1.0, 1.0)):
    """One epoch of the papers' formulas in numpy, on whole pixels, one pattern after the other."""
    thing = model.object.wave.detach().numpy()[0, 0].copy()
    probe = model.probe.modes().detach().numpy().copy()
    corner, rest = model.scan(torch.arange(6))
    assert float(rest.detach().abs().max()) < 1e-6
    height, width = WINDOW
    for pattern, (y, x) in zip(scan.counts, corner.tolist(), strict=True):
        root = np.sqrt(np.fft.ifftshift(pattern))
        window = thing[y : y + height, x : x + width].copy()
        wave = probe * window
        far = np.fft.fft2(wave, norm="ortho")
        norm = np.sqrt((abs(far) ** 2).sum(0))
        change = np.fft.ifft2(far * root / norm, norm="ortho") - wave
        light = (abs(probe) ** 2).sum(0)
        square = abs(window) ** 2
        under_object = (1 - regularise[0]) * light + regularise[0] * light.max()
        under_probe = (1 - regularise[1]) * square + regularise[1] * square.max()
        thing[y : y + height, x : x + width] += alpha * (probe.conj() * change).sum(0) / under_object
        probe = probe + beta * window.conj() * change / under_probe
    return thing, probe


class TestPIE:
    @pytest.mark.parametrize("modes", [1, 3])
    def test_epie_is_the_formula_of_the_paper(self, modes):
        scan, model = experiment(whole=True, modes=modes)
        model = disturb(model)
        thing, probe = epie_by_hand(scan, model, alpha=0.9, beta=0.6)
        run(engines.epie, scan, model, alpha=0.9, beta=0.6)
        assert np.allclose(model.object.wave.detach()[0, 0], thing)
        assert np.allclose(model.probe.modes().detach(), probe)

    def test_rpie_is_the_formula_of_the_paper(self):
        scan, model = experiment(whole=True)
        model = disturb(model)
        thing, probe = epie_by_hand(scan, model, regularise=(0.2, 0.7))
        run(engines.rpie, scan, model, alpha=0.2, beta=0.7)
        assert np.allclose(model.object.wave.detach()[0, 0], thing)
        assert np.allclose(model.probe.modes().detach(), probe)

    @pytest.mark.parametrize("slices", [1, 2])
    def test_rpie_with_full_regularisation_is_epie(self, slices):
        scan, model = experiment(slices=slices)
        first, second = disturb(model), disturb(model)
        run(engines.epie, scan, first)
        run(engines.rpie, scan, second, alpha=1.0, beta=1.0)
        assert_same(first, second)
        assert size_of_change(first, model) > 1e-3

    def test_mpie_without_momentum_is_rpie(self):
        scan, model = experiment()
        first, second, third = disturb(model), disturb(model), disturb(model)
        run(engines.rpie, scan, first, epochs=2)
        run(engines.mpie, scan, second, epochs=2, gamma=1.0, eta=0.0, T=4)
        run(engines.mpie, scan, third, epochs=2, gamma=1.0, eta=0.5, T=4)
        assert_same(first, second)
        assert size_of_change(first, third) > 1e-3

    def test_mpie_leaps_along_what_its_updates_did(self):
        """Three leaps of one number each, written out: v <- eta v + (x - x_T), x <- x + eta v."""
        scan, model = experiment(modes=1)
        model = disturb(model)
        plain = copy.deepcopy(model)
        order = [torch.tensor([0]), torch.tensor([4])]
        velocity = torch.zeros_like(plain.object.wave)
        for _ in range(3):
            before = plain.object.wave.detach().clone()
            run(engines.rpie, scan, plain, order=order, rates={"object": 1.0})
            with torch.no_grad():
                velocity = 0.6 * velocity + plain.object.wave - before
                plain.object.wave += 0.6 * velocity
        knobs = {"gamma": 1.0, "eta": 0.6, "T": 2}
        run(engines.mpie, scan, model, order=order, epochs=3, rates={"object": 1.0}, **knobs)
        assert_same(model, plain)

    def test_a_batch_is_the_mean_of_its_patterns_where_all_overlap(self):
        """The same pattern twice in a batch is the pattern once: updates and intensities are both doubled."""
        scan, model = experiment()
        first, second = disturb(model), disturb(model)
        run(engines.rpie, scan, first, order=[torch.tensor([3])])
        run(engines.rpie, scan, second, order=[torch.tensor([3, 3])])
        assert_same(first, second)

    def test_a_batch_in_pieces_is_the_whole_batch(self):
        scan, model = experiment()
        first, second = disturb(model), disturb(model)
        run(engines.epie, scan, first, order=[torch.tensor([3, 1, 2])])
        run(engines.epie, scan, second, order=[(torch.tensor([3]), torch.tensor([1, 2]))])
        assert_same(first, second)

    def test_two_slices_are_updated_from_the_last_to_the_first(self):
        """3PIE written out for one pattern in numpy."""
        scan, model = experiment(whole=True, slices=2, modes=1)
        model = disturb(model)
        kernel = model.propagator.gap_kernels(torch.tensor([0]))[0].detach().numpy().reshape(WINDOW)
        (y, x), _ = (value[2].tolist() for value in model.scan(torch.arange(6)))
        inside = (slice(y, y + WINDOW[0]), slice(x, x + WINDOW[1]))
        thing, probe = model.object.wave.detach().numpy()[0].copy(), model.probe.modes().detach().numpy()[0]
        first, second = thing[0][inside].copy(), thing[1][inside].copy()
        incident = np.fft.ifft2(np.fft.fft2(probe * first) * kernel)
        leaving = incident * second
        far = np.fft.fft2(leaving, norm="ortho")
        measured = np.sqrt(np.fft.ifftshift(scan.counts[2]))
        change = np.fft.ifft2(far * measured / abs(far), norm="ortho") - leaving
        thing[1][inside] += incident.conj() * change / (abs(incident) ** 2).max()
        change = second.conj() * change / (abs(second) ** 2).max()
        change = np.fft.ifft2(np.fft.fft2(change) * kernel.conj())
        thing[0][inside] += probe.conj() * change / (abs(probe) ** 2).max()
        probe = probe + first.conj() * change / (abs(first) ** 2).max()
        run(engines.epie, scan, model, order=[torch.tensor([2])])
        assert np.allclose(model.object.wave.detach()[0], thing)
        assert np.allclose(model.probe.modes().detach()[0], probe)

    def test_the_object_moves_down_the_slope_of_the_amplitude_misfit(self):
        """PIE is a gradient step: its change has the direction of autograd's."""
        scan, model = experiment(whole=True, modes=2)
        model = disturb(model)
        likelihood = Likelihood(model, scan, lambda seen, counts: (seen.sqrt() - counts.sqrt()).square())
        model.requires_grad_(False)
        model.object.wave.requires_grad_(True)
        likelihood(torch.tensor([4]))["noise"].backward()
        slope = model.object.wave.grad.clone()
        before = model.object.wave.detach().clone()
        run(engines.epie, scan, model, order=[torch.tensor([4])])
        change = model.object.wave.detach() - before
        cosine = -(slope.conj() * change).real.sum() / (slope.norm() * change.norm())
        assert float(cosine) > 1 - 1e-6


def all_waves(model):
    """All patterns in the light of the probe."""
    with torch.no_grad():
        scan, _ = experiment()
        return WaveModel(model, Likelihood(model, scan)).light(torch.arange(6))


def overlap(model, waves):
    """The least-squares object of waves with the model's probe, then its probe, by dense solvers."""
    model = copy.deepcopy(model)
    lit = all_waves(model)
    shape = model.object.wave.shape[-2:]
    modes = lit.waves[0].shape[1]
    pixels = np.arange(np.prod(shape)).reshape(shape)
    windows = [pixels[y : y + WINDOW[0], x : x + WINDOW[1]].ravel() for y, x in lit.corner.tolist()]
    rows, right = [], []
    for pattern, numbers in enumerate(windows):
        for mode in range(modes):
            block = np.zeros((numbers.size, pixels.size), complex)
            block[np.arange(numbers.size), numbers] = lit.waves[0][pattern, mode].numpy().ravel()
            rows.append(block)
            right.append(waves[pattern, mode].numpy().ravel())
    matrix = np.concatenate(rows)
    lit_pixels = np.abs(matrix).sum(0) > 0
    found = np.linalg.lstsq(matrix[:, lit_pixels], np.concatenate(right), rcond=None)[0]
    thing = model.object.wave.detach().numpy()[0, 0].ravel().copy()
    thing[lit_pixels] = found
    with torch.no_grad():
        model.object.wave[0, 0] = torch.as_tensor(thing.reshape(shape))
    probe = np.empty((modes, np.prod(WINDOW)), complex)
    matrix = np.concatenate([np.diag(thing[numbers]) for numbers in windows])
    for mode in range(modes):
        right = np.concatenate([waves[pattern, mode].numpy().ravel() for pattern in range(6)])
        probe[mode] = np.linalg.lstsq(matrix, right, rcond=None)[0]
    with torch.no_grad():
        model.probe.set_modes(torch.as_tensor(probe.reshape(modes, *WINDOW)))
    return model


class TestWaveProjections:
    @pytest.mark.parametrize("make", [engines.difference_map, engines.raar])
    def test_the_overlap_projection_solves_the_least_squares_problem(self, make):
        scan, model = experiment(whole=True)
        model = disturb(model)
        engine, _ = bound(make, scan, model)
        lit = all_waves(model)
        waves = lit.leaving + 3 * draw(*lit.leaving.shape, seed=6)
        wanted = overlap(model, waves)
        with torch.no_grad():
            engine._find_parts(
                [(torch.arange(4), waves[:4]), (torch.arange(4, 6), waves[4:])], ["object", "probe"]
            )
        assert_same(model, wanted, rtol=1e-7)

    @pytest.mark.parametrize(
        ("make", "knobs"),
        [
            (engines.raar, {"beta": 0.6}),
            (engines.raar, {"beta": 1.0}),
            (engines.difference_map, {}),
            (engines.difference_map, {"beta": 0.7}),
            (engines.difference_map, {"beta": -1.0}),
        ],
    )
    def test_three_epochs_are_the_maps_of_the_papers(self, make, knobs):
        """Projections by dense solvers, and the map as the paper writes it, on the waves of all patterns."""
        scan, model = experiment(whole=True)
        model = disturb(model, 0.3)
        plain = copy.deepcopy(model)
        beta = knobs.get("beta", 1.0)
        lit = all_waves(plain)
        roots = torch.as_tensor(np.fft.ifftshift(np.sqrt(scan.counts), axes=(1, 2)))
        wave = lit.leaving
        state = [plain]

        def modulus(one):
            far = torch.fft.fft2(one, norm="ortho")
            norm = far.abs().square().sum(1, keepdim=True).sqrt()
            return torch.fft.ifft2(far * roots[:, None] / norm, norm="ortho")

        def consistent(one):
            state[0] = overlap(state[0], one)
            return all_waves(state[0]).leaving

        for _ in range(3):
            if make is engines.raar:
                measured = modulus(wave)
                wave = beta * (wave + consistent(2 * measured - wave) - measured) + (1 - beta) * measured
            else:
                known = all_waves(state[0]).leaving  # the overlap projection of the waves as they are
                first = modulus((1 + 1 / beta) * known - wave / beta)
                second = known if beta == 1 else consistent((1 - 1 / beta) * modulus(wave) + wave / beta)
                wave = wave + beta * (first - second)
                consistent(wave)
        run(make, scan, model, order=[torch.arange(4), torch.arange(4, 6)], epochs=3, **knobs)
        assert_same(model, state[0], rtol=1e-6)

    def test_raar_of_one_is_the_difference_map_of_minus_one(self):
        """With a known probe both are averaged alternating reflections: the same waves in every epoch."""
        scan, model = experiment()
        iterates = []
        for make, beta in ((engines.raar, 1.0), (engines.difference_map, -1.0)):
            one = disturb(model, 0.3)
            engine, likelihood = bound(make, scan, one, beta=beta, rates={"object": 1.0})
            found = []
            for _ in fit(likelihood, lambda number: IN_ORDER, Progress(one, engine), epochs=4):
                own = 0 if engine.settles else engine.overlap * all_waves(one).leaving
                found.append(engine._state()["waves"] + own)
            iterates.append(found)
        for first, second in zip(*iterates, strict=True):
            assert torch.allclose(first, second)
        assert not torch.allclose(iterates[0][0], iterates[0][3], rtol=1e-2)

    def test_batches_do_not_change_the_step(self):
        scan, model = experiment()
        for make in (engines.difference_map, engines.raar):
            first, second = disturb(model), disturb(model)
            run(make, scan, first, epochs=3)
            run(make, scan, second, order=[torch.tensor([5, 0, 2, 1]), torch.tensor([3, 4])], epochs=3)
            assert_same(first, second)

    def test_a_pattern_that_joins_late_begins_with_the_wave_of_the_model(self):
        scan, model = experiment()
        for make in (engines.difference_map, engines.raar):
            other = disturb(model)
            engine, likelihood = bound(make, scan, other)
            order = lambda number: IN_ORDER[:4] if number < 3 else IN_ORDER  # noqa: E731
            progress = Progress(other, engine)
            list(fit(likelihood, order, progress, epochs=2))
            assert engine._state()["known"].tolist() == [1, 1, 1, 1, 0, 0]
            list(fit(likelihood, order, progress, epochs=40))
            assert progress.history[-1]["loss"] < 0.1 * progress.history[2]["loss"]


class TestLSQML:
    def test_its_steps_make_the_linearised_misfit_least(self):
        change, first, second = draw(3, 2, 4, 5), draw(3, 2, 4, 5, seed=1), draw(3, 2, 4, 5, seed=2)
        a, b = best_steps(change, (first, second))

        def misfit(da=0.0, db=0.0):
            left = change - (a + da)[:, None, None, None] * first - (b + db)[:, None, None, None] * second
            return left.abs().square().sum((1, 2, 3))

        for da, db in [(1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (0.1, 0.2), (-0.3, 0.1)]:
            assert bool((misfit(da, db) > misfit()).all())

    def test_a_direction_that_is_the_other_or_nothing_gets_no_step(self):
        change, first = draw(2, 1, 3, 3), draw(2, 1, 3, 3, seed=1)
        alone = (first.conj() * change).real.sum((1, 2, 3)) / first.abs().square().sum((1, 2, 3))
        for second in (torch.zeros_like(first), 2 * first):
            a, b = best_steps(change, (first, second))
            assert torch.allclose(a, alone)
            assert float(b.abs().max()) == 0
        a, b = best_steps(change, (torch.zeros_like(first), first))
        assert float(a.abs().max()) == 0
        assert torch.allclose(b, alone)

    def test_a_batch_is_the_mean_of_its_patterns(self):
        """The same pattern twice is the pattern once: directions and steps are those of one."""
        scan, model = experiment()
        first, second = disturb(model), disturb(model)
        run(engines.lsq_ml, scan, first, order=[torch.tensor([3])])
        run(engines.lsq_ml, scan, second, order=[torch.tensor([3, 3])])
        assert_same(first, second)

    def test_one_pattern_written_out(self):
        """The formulas of the paper in numpy, for a batch of one pattern on whole pixels."""
        scan, model = experiment(whole=True, modes=1)
        model = disturb(model)
        (y, x), _ = (value[1].tolist() for value in model.scan(torch.arange(6)))
        inside = (slice(y, y + WINDOW[0]), slice(x, x + WINDOW[1]))
        thing, probe = (
            model.object.wave.detach().numpy()[0, 0].copy(),
            model.probe.modes().detach().numpy()[0],
        )
        window = thing[inside].copy()
        far = np.fft.fft2(probe * window, norm="ortho")
        measured = np.sqrt(np.fft.ifftshift(scan.counts[1]))
        change = np.fft.ifft2(far * measured / abs(far), norm="ortho") - probe * window
        light, square = abs(probe) ** 2, abs(window) ** 2
        of_object = probe.conj() * change / (light + 0.2 * light.max())
        of_probe = window.conj() * change / (square + 0.2 * square.max())
        first, second = (of_object * probe).ravel(), (of_probe * window).ravel()
        matrix = np.stack([np.concatenate([v.real, v.imag]) for v in (first, second)], 1)
        wanted = np.concatenate([change.real.ravel(), change.imag.ravel()])
        a, b = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        thing[inside] += 0.5 * a * light / (light + 0.2 * light.max()) * of_object
        probe = probe + 0.5 * b * of_probe
        run(engines.lsq_ml, scan, model, order=[torch.tensor([1])], beta=0.5, delta=0.2)
        assert np.allclose(model.object.wave.detach()[0, 0], thing)
        assert np.allclose(model.probe.modes().detach()[0], probe)


class TestModesAndMasks:
    @pytest.mark.parametrize("make", ENGINES)
    def test_a_second_mode_without_power_changes_nothing(self, make):
        scan, one = experiment(modes=1)
        one = disturb(one)
        two = copy.deepcopy(one)
        dark = torch.cat([one.probe.modes().detach(), torch.zeros(1, *WINDOW, dtype=torch.complex128)])
        two.probe = in_double(Probe(dark, scan.geometry))
        run(make, scan, one, epochs=3)
        run(make, scan, two, epochs=3)
        assert torch.allclose(two.object.wave, one.object.wave)
        assert torch.allclose(two.probe.modes()[:1], one.probe.modes())
        assert float(two.probe.modes()[1].detach().abs().max()) < 1e-9

    @pytest.mark.parametrize("make", ENGINES)
    def test_what_stands_in_masked_pixels_does_not_matter(self, make):
        scan, model = experiment(masked=True)
        spoiled = scan.counts.copy()
        spoiled[:, ~scan.mask] = 1e6
        first, second, third = disturb(model), disturb(model), disturb(model)
        run(make, scan, first, epochs=2)
        run(make, replace(scan, counts=spoiled), second, epochs=2)
        unmasked = replace(scan, counts=spoiled, mask=np.ones(WINDOW, bool))
        third.detector.mask.fill_(True)
        run(make, unmasked, third, epochs=2)
        assert_same(first, second)
        assert size_of_change(third, first) > 1e-3

    @pytest.mark.parametrize("make", ENGINES)
    def test_weights_and_flat_field_are_those_of_the_model(self, make):
        """Brighter shots and a flat field are part of the model: the truth stays a fixed point."""
        scan, model = experiment()
        with torch.no_grad():
            model.detector.weights.copy_(torch.linspace(0.5, 2, 6))
            flat = torch.linspace(0.5, 1.5, 42, dtype=torch.float64).reshape(WINDOW)
            flat[0, 2] = 0
            model.detector.flat.copy_(flat)
            counts = model.detector.display(model(torch.arange(6))).numpy().astype(np.float32)
        before = copy.deepcopy(model)
        run(make, replace(scan, counts=counts), model, epochs=2)
        assert_same(model, before, rtol=1e-5)


class TestCheckpoints:
    @pytest.mark.parametrize("make", ENGINES)
    def test_a_resumed_fit_gives_the_same_bits(self, make, tmp_path):
        scan, model = experiment()
        order = batches.random(np.arange(6), 0, size=1)
        knobs = {"T": 5} if make is engines.mpie else {}

        def fresh():
            one = disturb(model)
            engine, likelihood = bound(make, scan, one, **knobs)
            return one, Progress(one, engine), likelihood

        straight, progress, likelihood = fresh()
        list(fit(likelihood, order, progress, epochs=5))
        _, progress, likelihood = fresh()
        list(fit(likelihood, order, progress, epochs=2))
        checkpoint.save(progress, tmp_path / "snapshot.h5")
        again, progress, likelihood = fresh()
        checkpoint.load(progress, tmp_path / "snapshot.h5")
        list(fit(likelihood, order, progress, epochs=5))
        for a, b in zip(parts_of(again), parts_of(straight), strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("make", [engines.difference_map, engines.raar])
    def test_an_epoch_that_is_broken_off_leaves_nothing(self, make):
        scan, model = experiment()
        order = [IN_ORDER[3], IN_ORDER[0]]
        results = []
        for breaks in (False, True):
            one = disturb(model)
            engine, likelihood = bound(make, scan, one)
            progress = Progress(one, engine)
            list(fit(likelihood, lambda number: order, progress, epochs=1))
            if breaks:
                stop = KeyboardInterrupt()
                update = engine.update
                engine.update = lambda batch, moving, update=update, stop=stop: _raise_after(
                    update, batch, stop
                )
                assert not list(fit(likelihood, lambda number: order, progress, epochs=2))
                engine.update = update
            list(fit(likelihood, lambda number: order, progress, epochs=2))
            results.append(one)
        assert_same(*results)

    def test_steps_that_leave_no_numbers_are_undone(self):
        """Losses are those before the steps: the model of the last epoch was not finite, and was kept."""
        scan, model = experiment()
        engine, likelihood = bound(engines.difference_map, scan, model)
        progress = Progress(model, engine)
        list(fit(likelihood, lambda number: IN_ORDER, progress, epochs=1))
        before = parts_of(model)
        finish = engine.finish_epoch

        def blow_up(moving):
            finish(moving)
            with torch.no_grad():
                model.object.wave[0, 0, 3, 3] = torch.nan

        engine.finish_epoch = blow_up
        assert not list(fit(likelihood, lambda number: IN_ORDER, progress, epochs=2))
        assert progress.stop.reason == StopReason.NOT_FINITE
        assert "object is not finite" in str(progress.stop)
        for now, then in zip(parts_of(model), before, strict=True):
            assert torch.equal(now, then)


def _raise_after(update, batch, problem):
    update(batch, ["object", "probe"])
    raise problem


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"object": {"pixels": {"kind": "phase"}}}, "complex pixels"),
            ({"object": {"pixels": {"modes": 2}}}, "one state"),
            ({"rates": {"positions": 1.0}}, "cannot be moved by"),
            ({"penalties": [{"sparse": {"weight": 0.1}}]}, "needs gradients"),
            ({"detector": {"counting": {"blur": 1.0}}}, "without blur"),
            ({"probe": {"aberrated": {"semiangle": "40 mrad", "defocus": "60 A"}}}, "probe of pixels"),
        ],
    )
    @pytest.mark.parametrize("name", engines.__all__)
    def test_what_an_engine_cannot_do_is_one_sentence(self, files, name, change, words):
        tree = {"file": "in memory", "probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A"}}}
        tree |= {"optimizer": {name: {}}, "start": "none", "preset": "none", "epochs": 1} | change
        with pytest.raises(BadInput, match=words) as caught:
            Job.begin(Reconstruct.of(tree), scan=files.scan)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)

    @pytest.mark.parametrize("name", ["difference_map", "raar", "lsq_ml"])
    def test_several_slices_are_for_pie(self, name):
        scan, model = experiment(slices=2)
        with pytest.raises(BadInput, match="write slices: 1"):
            bound(getattr(engines, name), scan, model)

    @pytest.mark.parametrize("thickness", [{}, {"thickness": "20 A"}])
    @pytest.mark.parametrize("name", engines.__all__)
    def test_slices_are_refused_before_their_thickness_is_asked_for(self, files, name, thickness):
        tree = {"file": "in memory", "probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A"}}}
        tree |= {"optimizer": {name: {}}, "start": "none", "preset": "none", "epochs": 1}
        recipe = Reconstruct.of(tree | {"object": {"pixels": {"slices": 2, **thickness}}})
        takes_them = name in ("epie", "rpie", "mpie")
        if takes_them and thickness:
            Job.begin(recipe, scan=files.scan)
            return
        words = "above zero when there are several" if takes_them else f"{name}.*2 slices.*take epie, rpie or"
        with pytest.raises(BadInput, match=words):
            Job.begin(recipe, scan=files.scan)

    @pytest.mark.parametrize("name", engines.__all__)
    def test_the_class_of_an_engine_is_that_which_is_made(self, name):
        _, model = experiment()
        engine = getattr(engines, name)(groups({"object": model.parts()["object"]}, {"object": 1.0}))
        assert type(engine) is engines.CLASSES[name]
        assert set(engines.CLASSES) == set(engines.__all__)

    @pytest.mark.parametrize(
        ("name", "knobs"),
        [
            ("epie", {"alpha": 3.0}),
            ("rpie", {"beta": -0.1}),
            ("mpie", {"eta": 1.0}),
            ("mpie", {"T": 0}),
            ("difference_map", {"beta": 0.0}),
            ("raar", {"beta": 0.0}),
            ("lsq_ml", {"delta": -1.0}),
        ],
    )
    def test_values_out_of_range(self, name, knobs):
        with pytest.raises(BadInput, match=name):
            getattr(engines, name)([], **knobs)

    def test_clipped_gradients(self):
        scan, model = experiment()
        engine, likelihood = bound(engines.epie, scan, model)
        with pytest.raises(BadInput, match="clip"):
            list(fit(likelihood, lambda number: IN_ORDER, Progress(model, engine), epochs=1, clip=1.0))

    def test_networks_have_no_engines(self):
        from phaseloom.spec import names

        assert set(engines.__all__) <= set(names(optimizers.__name__))
        assert not set(engines.__all__) & set(names("phaseloom.fitting.optimizers"))


class TestRuns:
    @pytest.mark.parametrize("name", engines.__all__)
    def test_a_run_from_a_parameter_file_resumes_to_the_same_bits(self, files, name, tmp_path):
        tree = {"file": str(files.native), "optimizer": {name: {}}, "start": "none", "preset": "none"}
        tree |= {"probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A"}}, "epochs": 4}
        straight = Job.begin(Reconstruct.of(tree), tmp_path / "straight")
        list(straight)
        halted = Job.begin(Reconstruct.of(tree), tmp_path / "halted")
        for epoch in halted:
            if epoch.number == 2:
                break
        resumed = Job.resume(tmp_path / "halted")
        list(resumed)
        assert resumed.recipe.shape.name == "constant"
        assert resumed.recipe.rates == {"object": 1.0, "probe": 1.0}
        assert resumed.recipe.batch.values.get("size") == (
            None if name == "lsq_ml" else 64 if name in ("raar", "difference_map") else 1
        )
        first, second = straight.result(), resumed.result()
        assert np.array_equal(first.object, second.object)
        assert np.array_equal(first.probe, second.probe)
        losses = [event["loss"] for event in straight.progress.history]
        assert losses == [event["loss"] for event in resumed.progress.history]
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize("name", ["difference_map", "raar"])
    def test_check_counts_the_waves_that_are_kept(self, files, name):
        tree = {"file": str(files.native), "optimizer": name, "start": "none", "preset": "none"}
        tree |= {"probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A", "modes": 3}}}
        job = Job(Reconstruct.of(tree).settle(files.scan)[0], files.scan, None, None)
        needs = check._rehearse(job, job.finest)
        waves = 8 * 25 * 3 * 24 * 24
        assert waves <= needs.steps < 1.01 * waves + 1000
        assert needs.copies >= 2 * waves
