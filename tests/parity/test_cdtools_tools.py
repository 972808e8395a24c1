"""The rooms of ``CDTools.tools`` give CDTools' own numbers; where they do not, a test says why."""

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from phaseloom.compat import cdtools as CDTools
from phaseloom.errors import BadInput

pytest.importorskip("cdtools")
theirs = pytest.importorskip("cdtools.tools")
ours = CDTools.tools

SHAPES = [(8, 6), (7, 9), (12, 5)]
BASIS = np.array([[0, -2e-8], [-3e-8, 0], [0, 0]])
OBLIQUE = np.array([[1e-9, -2e-8], [-3e-8, 4e-9], [2e-9, 1e-8]])


def draw(*shape, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=shape) + 1j * random.normal(size=shape)


def wave(*shape, seed=0):
    return torch.from_numpy(draw(*shape, seed=seed))


def same(ours, theirs, tolerance=1e-10):
    one, two = (
        x.detach().resolve_conj().numpy() if isinstance(x, torch.Tensor) else x for x in (ours, theirs)
    )
    np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


def both(room, name):
    return getattr(getattr(ours, room), name), getattr(getattr(theirs, room), name)


def test_names_are_there_or_say_what_to_use():
    rooms = ["analysis", "propagators", "interactions", "measurements", "losses", "initializers"]
    for room in [*rooms, "image_processing", "plotting", "data"]:
        for name in getattr(theirs, room).__all__:
            assert callable(getattr(getattr(ours, room), name)), name
    with pytest.raises(AttributeError, match="did you mean 'calc_frc'"):
        _ = ours.analysis.calc_fcr
    with pytest.raises(AttributeError, match="did you mean 'losses'"):
        _ = ours.loses
    with pytest.raises(BadInput, match="poisson_plus_fixed_nll: is not available"):
        _ = ours.losses.poisson_plus_fixed_nll


# --- propagators


@pytest.mark.parametrize("lens", [False, True])
def test_high_angles_are_read_where_theirs_are(lens):
    """Of a tilted sample and an oblong detector, with leading axes of the wave."""
    detector = torch.tensor([[0, -2e-3], [-3e-3, 0], [0, 0]], dtype=torch.float64)
    sample = torch.tensor([[0, -8e-8], [-6e-8, 0], [0, -3e-8]], dtype=torch.float64)
    one, two = both("propagators", "generate_high_NA_k_intensity_map")
    arguments = (sample, detector, (24, 30), 0.3, 1e-9)
    (places, share), (wanted, shares) = one(*arguments, lens=lens), two(*arguments, lens=lens)
    same(places, wanted, 1e-5)
    same(share, shares, 1e-5)
    wave = torch.randn(2, 3, 24, 30, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    read, other = both("propagators", "high_NA_far_field")
    for some in (wave, wave[0], wave[0, 0]):
        same(read(some, places, share), other(some, wanted, shares), 1e-4)


def test_kernels_have_gradients_of_pixel_wavelength_and_distance():
    given = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.7, 0.6], 1.1, 3.0)]

    def kernel(*optics):
        part = ours.propagators.generate_angular_spectrum_propagator((6, 5), *optics, dtype=torch.complex128)
        return torch.view_as_real(part)

    assert torch.autograd.gradcheck(kernel, given)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["far_field", "inverse_far_field"])
def test_far_fields(name, shape):
    one, two = both("propagators", name)
    same(one(wave(2, *shape)), two(wave(2, *shape)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("z", "bandlimit"), [(3e-7, None), (-3e-7, None), (5e-7, 0.7)])
def test_angular_spectra(shape, z, bandlimit):
    """The pixels are below half a wavelength in one direction, so some waves are evanescent."""
    one, two = both("propagators", "generate_angular_spectrum_propagator")
    arguments = (shape, (3e-8, 2e-8), 4.7e-8, z)
    kernel = one(*arguments, bandlimit=bandlimit)
    assert kernel.dtype == torch.complex64
    exact = two(*arguments, bandlimit=bandlimit, dtype=torch.complex128)
    same(one(*arguments, bandlimit=bandlimit, dtype=torch.complex128), exact, 1e-9)
    same(kernel, exact, 1e-5)
    fly, flown = both("propagators", "near_field")
    same(fly(wave(2, *shape), exact), flown(wave(2, *shape), exact))
    back, undone = both("propagators", "inverse_near_field")
    same(back(wave(2, *shape), exact), undone(wave(2, *shape), exact))


CARRIERS = [{}, {"propagation_vector": [0.1, -0.2, 1.0]}, {"propagate_along_offset": True}]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("basis", [BASIS, OBLIQUE])
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("sign", [1, -1])
def test_generalised_angular_spectra(shape, basis, carrier, sign):
    one, two = both("propagators", "generate_generalized_angular_spectrum_propagator")
    offset = sign * np.array([2e-8, -5e-8, 4e-7])
    arguments = (shape, torch.from_numpy(basis), 5e-8, offset)
    same(one(*arguments, **carrier), two(*arguments, **carrier), 1e-8)


def test_a_generalised_kernel_has_their_gradient():
    def slope(propagator):
        offset = torch.tensor([2e-8, -5e-8, 4e-7], dtype=torch.float64, requires_grad=True)
        kernel = propagator((6, 5), torch.from_numpy(OBLIQUE), 5e-8, offset)
        (kernel * wave(6, 5)).real.sum().backward()
        return offset.grad

    one, two = both("propagators", "generate_generalized_angular_spectrum_propagator")
    assert slope(one).abs().min() > 0
    same(slope(one) / slope(two), np.ones(3), 1e-8)


# --- interactions


NORMALS = [torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.3, -0.2, 0.9])]


@pytest.mark.parametrize("normal", NORMALS)
@pytest.mark.parametrize("basis", [BASIS, OBLIQUE])
def test_translations_and_pixels(basis, normal):
    grid, moves = torch.from_numpy(basis), 1e-7 * wave(5, 3).real
    one, two = both("interactions", "translations_to_pixel")
    pixels = one(grid, moves, surface_normal=normal)
    same(pixels, two(grid, moves, surface_normal=normal), 1e-6)
    same(one(grid, moves[0]), two(grid, moves[0]))
    back = ours.interactions.pixel_to_translations(grid, pixels, surface_normal=normal)
    same(back[:, :2], moves[:, :2], 1e-12)
    assert not back[:, 2].any()


def test_pixels_to_translations_are_theirs():
    one, two = both("interactions", "pixel_to_translations")
    grid = torch.from_numpy(BASIS)
    same(one(grid, wave(4, 2).real) * 1e8, two(grid, wave(4, 2).real) * 1e8, 1e-6)


def test_projections_to_a_tilted_sample():
    one, two = both("interactions", "project_translations_to_sample")
    moves = 1e-7 * wave(5, 3).real
    for given in (moves, moves[1]):
        for found, wanted in zip(
            one(torch.from_numpy(OBLIQUE), given), two(torch.from_numpy(OBLIQUE), given), strict=True
        ):
            assert found.shape == wanted.shape
            same(found, wanted, 1e-8)


PLACES = torch.tensor([[0.2, 1.7], [3.0, 2.5], [1.49, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_exit_waves(shape):
    obj, probe, modes = wave(20, 19), wave(*shape, seed=1), wave(2, *shape, seed=2)
    one, two = both("interactions", "ptycho_2D_round")
    same(one(probe, obj, PLACES), two(probe, obj, PLACES))
    same(one(probe, obj, PLACES[0]), two(probe, obj, PLACES[0]))
    same(one(modes, obj, PLACES, multiple_modes=True), two(modes, obj, PLACES, multiple_modes=True))
    one, two = both("interactions", "ptycho_2D_linear")
    for shift_probe in (True, False):
        same(one(probe, obj, PLACES, shift_probe), two(probe, obj, PLACES, shift_probe))
    one, two = both("interactions", "ptycho_2D_sinc")
    for back in (False, True):
        same(one(modes, obj, PLACES, shift_back_ew=back), two(modes, obj, PLACES, shift_back_ew=back), 1e-6)
        given = {"multiple_modes": False, "shift_back_ew": back}
        same(one(probe, obj, PLACES, **given), two(probe, obj, PLACES, **given), 1e-6)
    objects = wave(2, 20, 19, seed=3)
    same(one(modes, objects, PLACES), two(modes, objects, PLACES), 1e-6)


def test_an_object_of_coarse_pixels():
    one, two = both("interactions", "ptycho_2D_round")
    arguments = (wave(8, 12), wave(20, 19), PLACES)
    same(one(*arguments, upsample_obj=True), two(*arguments, upsample_obj=True))


@pytest.mark.parametrize(("fine", "coarse"), [((9, 12), (4, 7)), ((8, 10), (5, 6))])
def test_randomised_probe_imaging(fine, coarse):
    one, two = both("interactions", "RPI_interaction")
    same(one(wave(*fine), wave(*coarse)), two(wave(*fine), wave(*coarse)))
    same(one(wave(*fine), wave(3, *coarse)), two(wave(*fine), wave(3, *coarse)))


def test_a_window_beyond_the_object_is_refused():
    with pytest.raises(BadInput, match="reach beyond the object of 9x9"):
        ours.interactions.ptycho_2D_round(wave(5, 5), wave(9, 9), torch.tensor([[0.0, 5.0]]))


# --- measurements and losses


@pytest.mark.parametrize("shape", [(8, 6), (6, 10)])
@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("saturation", [None, 1.5])
def test_counts(shape, oversampling, saturation):
    knobs = {"oversampling": oversampling, "saturation": saturation, "epsilon": 0.01}
    knobs |= {"detector_slice": np.s_[1:3, 0:2]}
    one, two = both("measurements", "intensity")
    same(one(wave(3, *shape), **knobs), two(wave(3, *shape), **knobs))
    same(one(wave(*shape), **knobs), two(wave(*shape), **knobs))
    sums = one_sum, two_sum = both("measurements", "incoherent_sum")
    same(one_sum(wave(3, 2, *shape), **knobs), two_sum(wave(3, 2, *shape), **knobs))
    same(one_sum(wave(2, *shape), **knobs), two_sum(wave(2, *shape), **knobs))
    one, two = both("measurements", "quadratic_background")
    qe, dark = wave(2, 2).real.abs(), wave(2, 2, seed=1).real
    found, wanted = (
        f(wave(3, 2, *shape), dark, measurement=m, qe_mask=qe, **knobs)
        for f, m in zip((one, two), sums, strict=True)
    )
    same(found, wanted)
    same(one(wave(3, *shape), dark, **knobs), two(wave(3, *shape), dark, **knobs))


@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
def test_pixels_of_finite_size_collect_what_falls_on_their_area(shape):
    """Against a plain sum over many points in each pixel, for a wave that fills the window."""
    exit_wave, many = wave(*shape), 9
    fine = np.zeros(tuple(many * n for n in shape), complex)
    corner = [many * n // 2 - n // 2 for n in shape]
    fine[tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))] = exit_wave
    power = many**2 * np.abs(theirs.propagators.far_field(torch.from_numpy(fine)).numpy()) ** 2
    start = [many * n // 2 - many * (n // 2) - many // 2 for n in shape]
    rolled = np.roll(power, [-s for s in start], (0, 1))
    wanted = rolled.reshape(shape[0], many, shape[1], many).mean((1, 3))
    field = theirs.propagators.far_field(exit_wave)
    found = ours.measurements.intensity(field, simulate_finite_pixels=True, epsilon=0)
    same(found, wanted, 0.02 * wanted.mean())
    points = ours.measurements.intensity(field, epsilon=0)
    assert abs(np.asarray(points) - wanted).max() > 0.3 * wanted.mean()


def test_pixels_of_finite_size_are_nearly_theirs():
    y, x = torch.meshgrid(torch.arange(32) - 16.0, torch.arange(32) - 16.0, indexing="ij")
    field = theirs.propagators.far_field(torch.exp(-(y**2 + (x - 2) ** 2) / 30 + 0.2j * y)[None])
    one, two = both("measurements", "incoherent_sum")
    found, wanted = (f(field, simulate_finite_pixels=True) for f in (one, two))
    same(found, wanted, 0.02 * float(wanted.max()))


@pytest.mark.parametrize("masked", [False, True])
def test_losses(masked):
    counts, model = wave(4, 7, 5).real.abs().mul(3).round(), wave(4, 7, 5, seed=1).real.abs()
    mask = wave(7, 5, seed=2).real > 0 if masked else None
    for name in ("amplitude_mse", "intensity_mse"):
        one, two = both("losses", name)
        for use_sum in (False, True):
            same(one(counts, model, mask, use_sum), two(counts, model, mask, use_sum))
    one, two = both("losses", "poisson_nll")
    for subtract in (False, True):
        same(one(counts, model, mask, subtract_min=subtract), two(counts, model, mask, subtract_min=subtract))
    same(one(counts.to(torch.uint16), model, mask), two(counts, model, mask))


@pytest.mark.parametrize(
    "name", ["AmplitudeMSENormalizer", "IntensityMSENormalizer", "SimplePoissonNLLNormalizer"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_normalisers(name, masked):
    counts = wave(6, 7, 5).real.abs().mul(3).round()
    mask, found = wave(7, 5).real > 0 if masked else None, []
    for make in both("losses", name):
        normaliser = make()
        for _ in range(2):
            normaliser.accumulate(counts[:4], mask)
            normaliser.accumulate(counts[4:], mask)
            found.append(normaliser.normalize_loss(torch.tensor(123.0, dtype=torch.float64)))
    same(found[:2], found[2:])


# --- a model that somebody wrote


class SomebodysPtycho(torch.nn.Module):
    """Written against ``cdtools.tools`` alone, which is given to it."""

    def __init__(self, tools, dataset):
        super().__init__()
        self.tools = tools
        geometry, shape = dataset.detector_geometry, dataset.patterns.shape[-2:]
        self.basis = tools.initializers.exit_wave_geometry(
            geometry["basis"], shape, dataset.wavelength, geometry["distance"]
        )
        pixels = tools.interactions.translations_to_pixel(self.basis, dataset.translations)
        size, self.corner = tools.initializers.calc_object_setup(shape, pixels, padding=2)
        first = tools.initializers.SHARP_style_probe(dataset, propagation_distance=2e-6)
        rest = first.flip(0).mul(0.1)
        self.probe = torch.nn.Parameter(torch.stack([first, rest]))
        self.obj = torch.nn.Parameter(wave(*size).to(torch.complex64))
        self.background = torch.nn.Parameter(torch.full(tuple(shape), 0.1))
        self.offset = torch.nn.Parameter(torch.full((len(pixels), 2), 0.3))
        self.loss = partial(tools.losses.amplitude_mse, use_sum=True)

    def forward(self, index, translations):
        pixels = self.tools.interactions.translations_to_pixel(self.basis, translations)
        places = pixels - self.corner + self.offset[index]
        waves = self.tools.interactions.ptycho_2D_sinc(self.probe, self.obj, places)
        field = self.tools.propagators.far_field(waves)
        count = self.tools.measurements.incoherent_sum
        return self.tools.measurements.quadratic_background(field, self.background, measurement=count)


def experiment(shape=(16, 13), shots=9):
    """Patterns of a scan as a dataset of CDTools has them."""
    random = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.arange(n) - n // 2.0 for n in shape), indexing="ij")
    spot = torch.exp(-(y**2 + x**2) / 8 + 0.05j * y)
    scene = torch.exp(1j * torch.rand(shots, *shape, generator=random))
    patterns = 1e3 * theirs.propagators.far_field(spot * scene).abs() ** 2
    geometry = {"basis": torch.tensor([[0, -4e-5], [-3e-5, 0], [0, 0]]), "distance": 0.05}
    moves = 6e-7 * torch.rand(shots, 3, generator=random) * torch.tensor([1.0, 1.0, 0.0])

    class Data(SimpleNamespace):
        def __len__(self):
            return shots

        def __getitem__(self, index):
            if index == shots:
                raise IndexError
            return (index, moves[index]), patterns[index]

    mask, dark = torch.ones(shape, dtype=torch.bool), torch.full(shape, 0.01)
    mask[2, 3] = False
    return Data(
        wavelength=torch.tensor(1e-9),
        detector_geometry=geometry,
        patterns=patterns,
        translations=moves,
        mask=mask,
        background=dark,
    )


@pytest.mark.parametrize("shape", [(16, 13), (11, 14)])
def test_a_model_somebody_wrote_has_the_loss_and_the_gradients_that_it_has_there(shape):
    data, found = experiment(shape), []
    for tools in (ours, theirs):
        model = SomebodysPtycho(tools, data)
        index = torch.arange(4)
        modelled = model(index, data.translations[:4])
        loss = model.loss(data.patterns[:4], modelled, data.mask)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for one, two in zip(*found, strict=True):
        assert torch.isfinite(torch.view_as_real(one) if one.is_complex() else one).all()
        same(one, two, 2e-4 * float(two.abs().max()))
    assert all(one.abs().max() > 0 for one in found[0])


# --- initializers

OLD = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
"""CDTools calls numpy in ways that it will not have much longer."""


@pytest.mark.parametrize("shape", SHAPES)
def test_geometry_of_an_exit_wave(shape):
    one, two = both("initializers", "exit_wave_geometry")
    for basis in (BASIS, OBLIQUE):
        grid = torch.from_numpy(basis)
        same(one(grid, shape, 2e-9, 0.3) * 1e6, two(grid, shape, 2e-9, 0.3) * 1e6, 1e-6)


@pytest.mark.parametrize("padding", [0, 3])
def test_room_for_an_object(padding):
    one, two = both("initializers", "calc_object_setup")
    moves = 10 * wave(7, 2).real
    (size, corner), wanted = one((8, 5), moves, padding), two((8, 5), moves, padding)
    assert size == wanted[0]
    same(corner, wanted[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_gaussians(shape):
    one, two = both("initializers", "gaussian")
    knobs = {"amplitude": 2j, "center": (2.2, 3.0), "curvature": [0.1, -0.2]}
    same(one(shape, [1.5, 2.5]), two(shape, [1.5, 2.5]), 1e-6)
    same(one(shape, (1.5, 2.5), **knobs), two(shape, (1.5, 2.5), **knobs), 1e-6)


@OLD
def test_gaussian_beams():
    data, spacing = experiment((32, 30)), np.array([[0, -5e-9], [-5e-9, 0], [0, 0]])
    one, two = both("initializers", "gaussian_probe")
    data.wavelength = 1e-9
    waist = one(data, spacing, (32, 30), 2.5e-8)
    same(waist, two(data, spacing, (32, 30), 2.5e-8), 1e-4)
    far = one(data, spacing, (32, 30), (2e-8, 2.5e-8), propagation_distance=2e-6)
    same(far, two(data, spacing, (32, 30), (2e-8, 2.5e-8), propagation_distance=2e-6), 1e-4)


@OLD
def test_a_gaussian_beam_flies_as_waves_do():
    """CDTools' distance has the other sign than that of its own propagator, and so has ours."""
    data, spacing = experiment((64, 60)), np.array([[0, -5e-9], [-5e-9, 0], [0, 0]])
    kernel = theirs.propagators.generate_angular_spectrum_propagator((64, 60), (5e-9, 5e-9), 1e-9, 2e-6)
    data.wavelength, overlaps = 1e-9, []
    for make in both("initializers", "gaussian_probe"):
        flown = theirs.propagators.near_field(make(data, spacing, (64, 60), 2.5e-8), kernel)
        for distance in (-2e-6, 2e-6):
            there = make(data, spacing, (64, 60), 2.5e-8, propagation_distance=distance)
            overlaps.append(float((flown.conj() * there).sum().abs() / flown.norm() / there.norm()))
    assert min(overlaps[::2]) > 0.999
    assert max(overlaps[1::2]) < 0.9


@pytest.mark.parametrize("shape", [(16, 12), (15, 18)])
@pytest.mark.parametrize("distance", [None, 3e-7])
@pytest.mark.parametrize("oversampling", [1, 2])
def test_probes_from_patterns(shape, distance, oversampling):
    one, two = both("initializers", "SHARP_style_probe")
    found, wanted = (f(experiment(shape), distance, oversampling) for f in (one, two))
    same(found, wanted, 2e-4 * float(wanted.abs().max()))


def test_probes_from_near_patterns():
    one, two = both("initializers", "SHARP_style_near_field_probe")
    same(one(experiment(), torch.conj), two(experiment(), torch.conj), 1e-4)
    same(one(experiment((8, 6)), torch.conj, 2), two(experiment((8, 6)), torch.conj, 2), 1e-4)


@pytest.mark.parametrize("distance", [None, 3e-7])
def test_probes_of_an_aperture(distance):
    one, two = both("initializers", "STEM_style_probe")
    arguments = (experiment(), (16, 13), np.s_[:, :], 3.0, distance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = two(*arguments)
    same(one(*arguments), wanted, 2e-4 * float(wanted.abs().max()))


def test_spectral_guesses_are_theirs_up_to_a_phase():
    """Of an odd object in an even window theirs has a ramp, for it pads otherwise than its interaction."""
    probe, scene = (
        wave(12, 11).to(torch.complex64),
        torch.exp(1j * wave(6, 5, seed=1).real).to(torch.complex64),
    )
    pattern = theirs.propagators.far_field(theirs.interactions.RPI_interaction(probe, scene)).abs() ** 2
    one, two = both("initializers", "RPI_spectral_init")
    dark = torch.full((12, 11), 0.01)
    mask = torch.ones(12, 11)
    mask[3, 4] = 0
    found, wanted = (f(pattern, probe, (6, 5), 2, mask, dark) for f in (one, two))
    wanted = wanted[wanted.norm(dim=(1, 2)).argsort(descending=True)]
    overlap = (found.conj() * wanted).sum((1, 2))
    same(found * (overlap / overlap.abs())[:, None, None], wanted, 1e-2 * float(wanted.abs().max()))


@pytest.mark.parametrize("circular", [True, False])
def test_weaker_modes_are_theirs_up_to_their_power(circular):
    one, two = both("initializers", "generate_subdominant_modes")
    found, wanted = one(wave(9, 12), 4, circular), two(wave(9, 12), 4, circular)
    power = found.abs().square().sum((1, 2))
    same(power, wave(9, 12).abs().square().sum().expand(4))
    same(found / found.abs().amax((1, 2), True), wanted / wanted.abs().amax((1, 2), True))


# --- image processing


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures(shape):
    image = wave(*shape)
    for name in ("centroid", "centroid_sq"):
        one, two = both("image_processing", name)
        same(one(image.real.abs()), two(image.real.abs()), 1e-6)
    same(one(wave(3, *shape), comp=True), two(wave(3, *shape), comp=True), 1e-6)
    one, two = both("image_processing", "sinc_subpixel_shift")
    same(one(image, (0.3, -1.7)), two(image, (0.3, -1.7)), 1e-6)
    one, two = both("image_processing", "convolve_1d")
    for dim in (0, 1):
        kernel = wave(shape[dim], seed=1)
        same(one(image, kernel, dim), two(image, kernel, dim))
        same(one(image, kernel, dim, False), two(image, kernel, dim, False))
    one, two = both("image_processing", "find_pixel_shift")
    moved = image.roll((2, -1), (0, 1))
    assert one(moved, image).tolist() == two(moved, image).tolist() == [2, -1]


@pytest.mark.parametrize("shape", [(8, 6), (12, 10)])
def test_finer_grids_and_centres(shape):
    one, two = both("image_processing", "fourier_upsample")
    for knobs in ({}, {"upsample_factor": 3}, {"preserve_mean": True}):
        same(one(wave(2, *shape), **knobs), two(wave(2, *shape), **knobs))
    y, x = (torch.arange(n, dtype=torch.float64) for n in (24, 20))
    spot = torch.exp(-((y[:, None] - 9.3) ** 2 + (x - 11.6) ** 2) / 6) + 0j
    one, two = both("image_processing", "center")
    for power in (True, False):
        same(one(spot, use_power=power), two(spot, use_power=power), 1e-4)


def test_a_hann_window():
    """Theirs confuses the sides of an oblong image."""
    one, two = both("image_processing", "hann_window")
    image = draw(9, 9)
    same(one(image), two(image))
    edges = one(np.ones((8, 5)))
    assert not np.concatenate([edges[0], edges[-1], edges[:, 0], edges[:, -1]]).round(12).any()
    assert two(np.ones((8, 5)))[-1].any()


@pytest.mark.parametrize("shape", [(40, 36), (41, 35)])
@pytest.mark.parametrize("resolution", [10, 50])
def test_shifts(shape, resolution):
    """Theirs interpolates a piece of the correlation: within two of its steps, or 0.1 pixel."""
    image = wave(*shape)
    moved = theirs.image_processing.sinc_subpixel_shift(image, (3.3, -5.7))
    one, two = both("image_processing", "find_shift")
    found = one(moved, image, resolution=resolution)
    assert (found - torch.tensor([3.3, -5.7])).abs().max() < 1e-6
    assert (found - two(moved, image, resolution=resolution)).abs().max() < max(2 / resolution, 0.1)


# --- analysis


def test_products_and_modes():
    """Up to a phase for each mode."""
    one, two = both("analysis", "product_svd")
    given = torch.from_numpy(draw(9, 3)), torch.from_numpy(draw(3, 20, seed=1))
    found, wanted = one(*given), two(*given)
    same(found[1], wanted[1])
    same(found[0] * found[1] @ found[2], wanted[0] * wanted[1] @ wanted[2])
    one, two = both("analysis", "orthogonalize_probes")
    for weights in (None, draw(3, 3), draw(9, 3), draw(2, 3)):
        new, rewritten = one(draw(3, 7, 5), weights, return_reexpressed_weights=True)
        old = two(draw(3, 7, 5), weights)
        turn = np.einsum("myx,myx->m", old, new.conj())
        same(new * (turn / abs(turn))[:, None, None], old)
        light = draw(3, 7, 5) if weights is None else np.tensordot(weights, draw(3, 7, 5), 1)
        same(np.tensordot(rewritten, new, 1), light)
    line = one(torch.from_numpy(draw(3, 8)), n_probe_dims=1)
    same(line.abs(), two(torch.from_numpy(draw(3, 8)), n_probe_dims=1).abs())


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("weights", [None, wave(4, 3, seed=3)])
def test_powers_of_modes(ordered, weights):
    one, two = both("analysis", "calc_mode_power_fractions")
    knobs = {"weight_matrix": weights, "assume_preorthogonalized": ordered}
    same(one(wave(3, 7, 5), **knobs), two(wave(3, 7, 5), **knobs))


def test_entropies():
    """Theirs takes the trace of a single matrix out too late."""
    one, two = both("analysis", "calc_vn_entropy")
    full = np.stack([m @ m.conj().T for m in draw(4, 3, 3)])
    same(one(full), two(full))
    unit = full[0] / np.trace(full[0]).real
    same(one(unit), two(unit))
    same(one(full[0]), one(unit))
    assert abs(two(full[0]) - two(unit)) > 0.1
    assert np.isfinite(one(np.outer(draw(5), draw(5).conj())))


@pytest.mark.parametrize("normalize", [False, True])
def test_errors_of_waves(normalize):
    one, two = both("analysis", "calc_rms_error")
    for align in (True, False):
        knobs = {"align_phases": align, "normalize": normalize}
        same(
            one(draw(3, 7, 5), draw(3, 7, 5, seed=1), **knobs),
            two(draw(3, 7, 5), draw(3, 7, 5, seed=1), **knobs),
        )
    one, two = both("analysis", "calc_generalized_rms_error")
    for shape in ((2, 7, 5), (4, 2, 7, 5)):
        a, b = draw(*shape), draw(*shape, seed=1)
        same(one(a, b, normalize=normalize), two(a, b, normalize=normalize))
    same(one(draw(2, 9), draw(3, 9), dims=1), two(draw(2, 9), draw(3, 9), dims=1))
    one, two = both("analysis", "calc_fidelity")
    for a, b in ((draw(2, 7, 5), draw(3, 7, 5)), (draw(4, 2, 7, 5), draw(4, 3, 7, 5))):
        same(one(a, b), two(a, b), 1e-9)


@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
@pytest.mark.parametrize("shape", [(40, 33), (31, 48)])
@pytest.mark.parametrize("limit", ["side", "corner"])
@pytest.mark.parametrize("kind", [np.real, np.asarray])
def test_ring_correlations(shape, limit, kind):
    scene = draw(*shape)
    one, two = both("analysis", "calc_frc")
    a, b = (kind(scene + 0.7 * draw(*shape, seed=s)) for s in (1, 2))
    for knobs in ({}, {"nbins": 6, "snr": 0.4}, {"im_slice": np.s_[3:30, 2:31]}):
        for found, wanted in zip(
            one(a, b, BASIS, limit=limit, **knobs), two(a, b, BASIS, limit=limit, **knobs), strict=True
        ):
            same(found, wanted, 1e-9)
    found = one(torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(BASIS))
    assert all(isinstance(part, torch.Tensor) for part in found)


def test_ring_correlations_of_modes():
    """Theirs leaves the last edge out of the last band, and has another threshold."""
    from cdtools.tools.analysis.analysis import calc_generalized_frc as two

    one = ours.analysis.calc_generalized_frc
    a, b = draw(2, 24, 21), draw(2, 24, 21) + 0.5 * draw(2, 24, 21, seed=1)
    found, wanted = one(a, b, BASIS, nbins=5), two(a, b, BASIS, nbins=5)
    same(found[0], wanted[0])
    same(found[1][:-1], wanted[1][:-1].astype(float), 1e-6)
    same(found[1][-1], wanted[1][-1], 0.02)


@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_transfer_functions():
    repeats = [draw(48, 40) + 0.5 * draw(48, 40, seed=s) for s in range(3)]
    one, two = both("analysis", "calc_consistency_prtf")
    for knobs in ({}, {"obj_slice": np.s_[5:40, 3:38], "nbins": 7}):
        for found, wanted in zip(
            one(np.mean(repeats, 0), repeats, BASIS, **knobs),
            two(np.mean(repeats, 0), repeats, BASIS, **knobs),
            strict=True,
        ):
            same(found, wanted, 1e-4)


def test_cross_correlations():
    one, two = both("analysis", "calc_deconvolved_cross_correlation")
    same(one(draw(40, 33), draw(40, 33, seed=1)), two(draw(40, 33), draw(40, 33, seed=1)))
    every = np.s_[:, :]
    same(one(wave(9, 8), wave(9, 8, seed=1), every), two(wave(9, 8), wave(9, 8, seed=1), every))
    with np.errstate(invalid="ignore"):
        assert np.isfinite(one(np.eye(4)[:1].repeat(4, 0), np.ones((4, 4)), every)).all()


def repeated(count=3, shape=(64, 56), window=(36, 34)):
    """Reconstructions of one scene, each in its own gauge, with a little noise."""
    random = np.random.default_rng(7)
    scene = (1 + 0.3 * random.uniform(-1, 1, shape)) * np.exp(1j * random.uniform(-1, 1, shape))
    v, u = (np.arange(n) - n // 2 for n in window)
    spot = np.exp(-np.add.outer(v**2, u**2) / 30 + 0.05j * v[:, None] ** 2)
    probe = np.stack([spot, 0.1 * v[:, None] * spot])
    objects = [
        np.exp(0.3j * i) * np.roll(scene, (i, -i), (0, 1)) + 0.05 * draw(*shape, seed=i) for i in range(count)
    ]
    probes = [np.roll(probe, (i, -i), (1, 2)) + 0.003 * draw(2, *window, seed=i) for i in range(count)]
    scaled = [(1 + i) * np.exp(1j * i) * p for i, p in enumerate(probes)]
    return scaled, [o / (1 + i) for i, o in enumerate(objects)]


@pytest.mark.parametrize("ramp", [False, True])
def test_standard_reconstructions(ramp):
    probes, objects = repeated()
    one, two = both("analysis", "standardize")
    for probe in (probes[1], probes[1][0]):
        for found, wanted in zip(
            one(probe, objects[1], correct_ramp=ramp), two(probe, objects[1], correct_ramp=ramp), strict=True
        ):
            assert found.shape == wanted.shape
            same(found, wanted, 1e-2 if ramp else 1e-4)


@pytest.mark.parametrize("use_probe", [False, True])
def test_mean_reconstructions(use_probe):
    probes, objects = repeated()
    one, two = both("analysis", "synthesize_reconstructions")
    knobs = {"obj_slice": np.s_[4:60, 4:52], "use_probe": use_probe}
    found, wanted = one(probes, objects, **knobs), two(probes, objects, **knobs)
    assert len(found[2]) == len(wanted[2]) == 3
    same(found[0], wanted[0], 0.1)
    same(found[1], wanted[1], 0.1)


def test_ramps():
    """Theirs is led astray by a ramp of more than a Fourier pixel."""
    probes, objects = repeated(1)
    y, x = np.mgrid[:64, :56]
    cut, gentle = np.s_[8:50, 5:50], objects[0] * np.exp(0.03j * y - 0.02j * x)
    one, two = both("analysis", "remove_phase_ramp")
    found, wanted = one(gentle, cut, probe=probes[0]), two(gentle, cut, probe=probes[0])
    same(found[0], wanted[0], 1e-3)
    same(found[1], wanted[1], 1e-3)
    steep = objects[0] * np.exp(1.3j * y - 0.8j * x)
    turned = one(steep, cut) * found[0].conj()
    same(turned / abs(turned), np.full(turned.shape, (turned / abs(turned)).mean()), 1e-3)


def test_growth():
    probes, objects = repeated(1)
    y, x = np.mgrid[:64, :56]
    grown, cut = objects[0] * np.exp(0.01 * y - 0.006 * x), np.s_[8:50, 5:50]
    moves = 1e-6 * draw(6, 3).real
    knobs = {"probe": probes[0], "weights": np.ones(6), "translations": moves, "basis": BASIS}
    one, two = both("analysis", "remove_amplitude_exponent")
    found, wanted = one(grown, cut, **knobs), two(grown, cut, **knobs)
    for each, other in zip(found, wanted, strict=True):
        same(each, other, 5e-3 * abs(other).max())
    same(one(grown, cut), found[0])


def results(objects, probes):
    shared = {"translations": 1e-7 * draw(5, 3).real, "background": np.zeros((36, 34)), "wavelength": 1e-9}
    shared |= {"obj_basis": BASIS, "probe_basis": BASIS, "weights": np.ones(5)}
    return [{"obj": o, "probe": p} | shared for o, p in zip(objects, probes, strict=True)]


def test_sets_of_halves():
    """Theirs aligns to 0.1 pixel by moduli, here exact, for the shifts are whole."""
    probes, objects = repeated()
    one, two = both("analysis", "standardize_reconstruction_set")
    given, knobs = results(objects, probes), {"window": np.s_[4:52, 4:52], "nbins": 10}
    found, wanted = one(*given, **knobs), two(*given, **knobs)
    assert found.keys() == wanted.keys()
    for key in ("frc_freqs", "frc_threshold", "translations_half_1", "wavelength"):
        same(found[key], wanted[key], 1e-9)
    same(np.abs(found["frc"]), np.abs(wanted["frc"]), 0.05)
    inner = np.s_[8:-8, 8:-8]
    for key in ("obj_half_1", "obj_half_2", "obj_full"):
        same(found[key][inner], wanted[key][inner], 0.15)
    assert np.abs(found["obj_half_1"] - 3 * found["obj_full"])[inner].mean() < 0.15
    with pytest.raises(BadInput, match="half_2\\['weights'\\]: is missing"):
        one(given[0], {k: v for k, v in given[1].items() if k != "weights"}, given[2])


def test_sets_of_halves_that_grow():
    probes, objects = repeated()
    grown = objects[0] * np.exp(0.01 * np.mgrid[:64, :56][0])
    given = results([grown, *objects[1:]], probes)
    found = ours.analysis.standardize_reconstruction_set(*given, correct_amplitude_exponent=True, nbins=10)
    assert np.ptp(np.log(found["weights_half_1"])) > 5 * np.ptp(np.log(found["weights_half_2"]))


def test_pairs_of_scans():
    probes, objects = repeated(2)
    one, two = both("analysis", "standardize_reconstruction_pair")
    given, knobs = results(objects, probes), {"window": np.s_[4:52, 4:52], "nbins": 10, "probe_nbins": 5}
    before = given[1]["probe"].copy()
    found = one(*given, **knobs)
    same(given[1]["probe"], before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = two(*given, **knobs)
    assert found.keys() == wanted.keys()
    same(np.abs(found["frc"]), np.abs(wanted["frc"]), 0.05)
    same(found["probe_nrms_error"], wanted["probe_nrms_error"], 0.05)
    same(found["probe_nmse"], wanted["probe_nmse"], 0.02)
    same(found["probe_freqs"], wanted["probe_freqs"])


def test_spectra_of_a_scan():
    one, two = both("analysis", "calc_spectral_info")
    for found, wanted in zip(one(experiment(), nbins=6), two(experiment(), nbins=6), strict=True):
        same(found, wanted, 1e-5 * np.abs(wanted).max())
    line = experiment()
    line.translations[:, 1] = 0
    with pytest.warns(UserWarning, match="enclose no area"):
        found = one(line, nbins=6)
    same(found[0], (line.mask * line.patterns.mean(0)).numpy(), 1e-3)


# --- plotting


@pytest.fixture
def pyplot():
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_units_and_colours():
    one, two = both("plotting", "get_units_factor")
    for unit in ("m", "cm", "mm", "um", "$\\mu$m", "nm", "A", "pm"):
        assert one(unit) == two(unit)
    with pytest.raises(BadInput, match="mile is not known"):
        one("mile")
    one, two = both("plotting", "colorize")
    same(one(draw(7, 5), use_cmocean=False), two(draw(7, 5), use_cmocean=False))
    colours = one(draw(7, 5), amplitude_scaling=np.sqrt)
    assert colours.shape == (7, 5, 3)
    assert 0 <= colours.min() < colours.max() <= 1


@pytest.mark.parametrize("name", ["amplitude", "phase", "real", "imag", "colorized"])
def test_images_of_waves_lie_on_their_basis(pyplot, name):
    one, two = both("plotting", f"plot_{name}")
    figure = one(draw(8, 6), basis=BASIS, units="nm", title="A wave")
    axes = figure.axes[0]
    assert axes.get_title() == "A wave"
    assert axes.get_xlabel() == "X (nm)"
    theirs = pyplot.figure()
    two(draw(8, 6), fig=theirs, basis=BASIS, units="nm", title="A wave")
    same(axes.get_xlim(), theirs.axes[0].get_xlim(), 1e-6)
    same(axes.get_ylim(), theirs.axes[0].get_ylim(), 1e-6)
    if name != "colorized":
        same(axes.images[0].get_array(), theirs.axes[0].images[0].get_array())
    figure.canvas.draw()


@pytest.mark.parametrize("view", ["ortho", np.array([[0.0, -1], [-1, 0], [0, 0]])])
def test_oblique_pixels_are_drawn_oblique(pyplot, view):
    one, two = both("plotting", "plot_amplitude")
    figures = [
        f(draw(8, 6), fig=pyplot.figure(), basis=OBLIQUE, units="nm", view_basis=view) for f in (one, two)
    ]
    for limits in ("get_xlim", "get_ylim"):
        same(*(getattr(figure.axes[0], limits)() for figure in figures), 1e-6)
    points = [f.axes[0].images[0].get_transform().transform([[3, 4]]) for f in figures]
    inside = [f.axes[0].transData.inverted().transform(p) for f, p in zip(figures, points, strict=True)]
    same(*inside, 1e-6)


def test_a_stack_is_stepped_through_and_keeps_its_place(pyplot):
    stack = np.arange(6.0).reshape(2, 3, 1, 1) * np.ones((4, 5))
    figure = ours.plotting.plot_real(torch.from_numpy(stack), title="Modes")
    for key in ("down", "right"):
        press(figure, key)
    assert figure.axes[0].images[0].get_array()[0, 0] == 4
    assert figure.axes[0].get_title() == "Modes [1, 1]"
    answering = len(figure.canvas.callbacks.callbacks["key_press_event"])
    assert ours.plotting.plot_real(10 * stack, fig=figure) is figure
    assert figure.axes[0].images[0].get_array()[0, 0] == 40
    press(figure, "left")
    assert figure.axes[0].images[0].get_array()[0, 0] == 30
    assert len(figure.canvas.callbacks.callbacks["key_press_event"]) == answering


def press(figure, key):
    from matplotlib.backend_bases import KeyEvent

    figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, key))


def test_phases_have_cyclic_colours(pyplot):
    figure = ours.plotting.plot_phase(draw(8, 6), cmap="phase")
    assert figure.axes[0].images[0].get_clim() == (-np.pi, np.pi)
    assert figure.axes[0].images[0].get_cmap() == ours.plotting.cmocean_phase


def test_maps_of_a_scan(pyplot):
    moves = 1e-6 * torch.rand(9, 3)
    figure = ours.plotting.plot_translations(moves, units="um")
    same(figure.axes[0].lines[0].get_xdata(), 1e6 * moves[:, 0], 1e-6)
    assert figure.axes[0].xaxis_inverted()
    ours.plotting.plot_translations(moves, fig=figure, units="um", clear_fig=False)
    assert len(figure.axes[0].lines) == 2
    assert figure.axes[0].xaxis_inverted()
    figure = ours.plotting.plot_nanomap(moves, np.arange(9.0), units="nm", convention="sample")
    same(figure.axes[0].collections[0].get_offsets(), -1e9 * moves[:, :2], 1e-3)
    figure.canvas.draw()


def test_a_map_with_images_answers_to_keys_and_clicks(pyplot):
    moves, images = (
        1e-6 * np.random.default_rng(0).normal(size=(9, 3)),
        np.arange(9.0)[:, None, None] * np.ones((4, 5)),
    )
    knobs = {"values": np.arange(9.0), "basis": BASIS, "image_units": "nm"}
    figure = ours.plotting.plot_nanomap_with_images(moves, lambda index: images[index], **knobs)
    press(figure, "right")
    assert figure.axes[1].images[0].get_array()[0, 0] == 1
    figure.canvas.callbacks.process("pick_event", SimpleNamespace(ind=[5]))
    assert figure.axes[1].images[0].get_array()[0, 0] == 5
    sizes = figure.axes[0].collections[0].get_sizes()
    assert sizes.argmax() == 5
    figure.canvas.draw()


# --- data


def fill(tools, path):
    import datetime

    rest = {
        "name": "star",
        "mass": 2.0,
        "orientation": np.array([[1.0, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]]),
    }
    with tools.data.create_cxi(path) as file:
        when = datetime.datetime(2024, 5, 1, 12, 30)
        tools.data.add_entry_info(
            file, {"title": "a test", "start_time": when, "polarization_states": [1, 2]}
        )
        tools.data.add_sample_info(file, rest)
        tools.data.add_source(file, 2e-9)
        tools.data.add_detector(file, 0.4, 1e3 * BASIS, corner=np.array([1e-3, 2e-3, 0.4]))
        tools.data.add_mask(file, np.arange(12).reshape(4, 3) != 5)
        tools.data.add_qe_mask(file, np.full((4, 3), 0.9, np.float32))
        tools.data.add_dark(file, np.arange(24.0).reshape(2, 4, 3))
        tools.data.add_data(file, torch.arange(60.0).reshape(5, 4, 3) - 1, axes=["translation", "y", "x"])
        tools.data.add_ptycho_translations(file, 1e-6 * np.arange(15.0).reshape(5, 3))
        tools.data.add_shot_to_shot_info(file, np.arange(1.0, 6.0), "intensities")


NAMES = ["entry_info", "sample_info", "wavelength", "detector_geometry", "mask", "qe_mask", "dark", "data"]
NAMES += ["ptycho_translations"]


def equal(one, two):
    if isinstance(two, dict):
        assert one.keys() == two.keys()
        for key in two:
            equal(one[key], two[key])
    elif isinstance(two, tuple):
        for a, b in zip(one, two, strict=True):
            equal(a, b)
    elif isinstance(two, np.ndarray | np.floating):
        same(one, two, 1e-6 * float(np.abs(two).max() or 1))
        assert np.asarray(one).dtype.kind == np.asarray(two).dtype.kind
    else:
        assert one == two


@OLD
@pytest.mark.parametrize("writer", [ours, theirs])
@pytest.mark.parametrize("name", NAMES)
def test_items_of_a_file_are_read_alike_whoever_wrote_it(tmp_path, writer, name):
    import h5py

    fill(writer, tmp_path / "a.cxi")
    one, two = both("data", f"get_{name}")
    with h5py.File(tmp_path / "a.cxi") as file:
        equal(one(file), two(file))
        field = ours.data.get_shot_to_shot_info(file, "intensities")
        equal(field, theirs.data.get_shot_to_shot_info(file, "intensities"))


def test_nested_dictionaries(tmp_path):
    nest = {"a": 1.5, "b": {"c": np.arange(3), "d": "text"}, "e": torch.ones(2, dtype=torch.complex64)}
    for writer, reader in ((ours, theirs), (theirs, ours), (ours, ours)):
        writer.data.nested_dict_to_h5(tmp_path / "nest.h5", nest)
        back = reader.data.h5_to_nested_dict(tmp_path / "nest.h5")
        assert back["b"]["d"] == "text"
        same(back["b"]["c"], np.arange(3))
        same(back["e"], np.ones(2))
    turned = ours.data.nested_dict_to_torch(nest)
    assert turned["a"].item() == 1.5
    assert turned["b"]["d"] == "text"
    assert isinstance(turned["b"]["c"], torch.Tensor)
    assert isinstance(ours.data.nested_dict_to_numpy(nest)["e"], np.ndarray)
    conjugate = ours.data.nested_dict_to_numpy({"x": torch.ones(2, dtype=torch.complex64).conj()})
    same(conjugate["x"], np.ones(2))
    with pytest.raises(BadInput, match="is not a number, array"):
        ours.data.nested_dict_to_h5(tmp_path / "bad.h5", {"f": print})
