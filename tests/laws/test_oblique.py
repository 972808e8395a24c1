"""Laws of samples that are tilted against the beam: what lands where, how waves fly, what pixels see."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.data.formats import cxi
from phaseloom.data.prepare import enlarge, tilt_sample
from phaseloom.data.scan import LAB_BASIS, Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import tilted_planes as oblique
from phaseloom.physics import tilted_planes as surface
from phaseloom.physics.propagate import angular_spectrum
from phaseloom.ptycho import detectors, probes
from phaseloom.ptycho.model import Ptychography

torch.set_num_threads(1)

WAVE = 1.3


def turned(angle: float, roll: float = 0.0) -> np.ndarray:
    """Basis of a detector that sees the sample at an angle in the xz plane, rolled about its own axis."""
    c, s = math.cos(angle), math.sin(angle)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    spin = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    return about_y @ np.asarray(LAB_BASIS) @ spin


def lying(angle: float) -> tuple[float, float, float]:
    """Normal of a surface that is turned in the xz plane."""
    return (math.sin(angle), 0.0, math.cos(angle))


CASES = {
    "across": (turned(0.0), (0.0, 0.0, 1.0)),
    "transmission at 35 degrees": (turned(0.0, 0.3), (0.4, -0.4, 0.83)),
    "reflection at 10 degrees grazing": (turned(math.radians(20)), lying(math.radians(-80))),
    "a Bragg peak off the mirror": (turned(math.radians(50), -0.2), lying(math.radians(-60))),
    "a detector of parallelograms": (
        turned(0.2) @ np.array([[1.0, 0.3], [0.0, math.sqrt(0.91)]]),
        lying(0.6),
    ),
}


def case(name: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    basis, normal = CASES[name]
    return basis, Geometry(wavelength=1.0, shape=(2, 2), angle=(1.0, 1.0), normal=normal).normal


@pytest.mark.parametrize("name", CASES)
def test_where_a_beam_lands_tells_where_it_was(name):
    basis, normal = case(name)
    beam = np.random.default_rng(1).normal(0, 500, (6, 3))
    positions, heights = surface.project_beam(beam, basis, normal)
    assert np.allclose(surface.restore_beam(positions, heights, basis, normal), beam, atol=1e-9)
    steps = surface.grid_steps(basis, (2.0, 3.0), normal)
    assert np.allclose(normal @ steps, 0, atol=1e-12)
    there = positions / (2.0, 3.0) @ steps.T
    assert np.allclose(there @ normal, 0, atol=1e-8)
    assert np.allclose(beam - there, heights[:, None] * [0, 0, 1], atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_the_grid_is_conjugate_to_the_pixels(name):
    basis, normal = case(name)
    geometry = Geometry(wavelength=WAVE, shape=(5, 7), angle=(1e-3, 2e-3), basis=tuple(map(tuple, basis)))
    geometry = replace(geometry, normal=normal)
    wanted = np.diag([1 / 5, 1 / 7])
    assert np.allclose((basis * geometry.angle).T @ geometry.steps / WAVE, wanted, atol=1e-12)


def test_a_sample_across_the_beam_is_the_plain_case():
    shape, pixel = (9, 12), (2.0, 3.0)
    far = torch.tensor([700.0, -300.0], dtype=torch.float64)
    grid = surface.grid_steps(LAB_BASIS, pixel, (0, 0, 1))
    assert np.allclose(grid, np.asarray(LAB_BASIS) * pixel)
    for length in (WAVE, 8.5):
        plain = angular_spectrum(shape, pixel, length, far / length**2)
        assert (oblique.tilted_kernel(shape, grid, length, far / length**2) - plain).abs().max() < 1e-12
    places, share = oblique.ewald(shape, (1e-6, 1e-6), LAB_BASIS, (0, 0, 1))
    assert np.allclose(places, np.stack(np.indices(shape), -1) - [4, 6], atol=1e-9)
    assert np.allclose(share, 1)


def test_what_is_not_tilted_is_modelled_as_before():
    scan = some_scan((0.0, 0.0, -3.0))
    assert scan.geometry == replace(scan.geometry, normal=(0, 0, 1))
    assert not scan.geometry.has_tilted_sample
    model = Ptychography.of(scan)
    assert model.heights is None
    assert model.detector.ewald is None
    assert tilt_sample(scan, normal=(0, 0, 1)).positions.tobytes() == scan.positions.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_waves_on_a_surface_fly_as_waves_in_space_do(name):
    basis, normal = case(name)
    shape, far = (24, 20), 5000.0
    grid = surface.grid_steps(basis, (25.0, 30.0), normal)
    dual = np.linalg.pinv(grid)
    k, total = 2 * math.pi / WAVE, {0.0: 0j, far: 0j}
    points = np.stack(np.indices(shape), -1) @ grid.T
    for numbers, strength in {(0, 1): 1.0, (3, -2): 0.7j, (-2, 5): -0.4, (6, 7): 0.5 - 1j}.items():
        inside = 2 * math.pi * (np.array(numbers) / shape) @ dual
        start = np.array([0, 0, k]) + inside
        lift = start @ normal
        vector = start + (np.sqrt(lift**2 + k**2 - start @ start) - lift) * np.array(normal)
        assert math.isclose(np.linalg.norm(vector), k, rel_tol=1e-12)
        for z, so_far in total.items():
            path = points + np.array([0, 0, z])
            total[z] = so_far + strength * np.exp(1j * (path @ vector - k * path[..., 2]))
    kernel = oblique.tilted_kernel(shape, grid, WAVE, torch.tensor(far, dtype=torch.float64))
    flown = torch.fft.ifft2(torch.fft.fft2(torch.as_tensor(total[0.0])) * kernel).numpy()
    assert abs(flown - total[far]).max() < 1e-8 * abs(total[far]).max()


@pytest.mark.parametrize("name", CASES)
def test_flights_keep_the_power_and_add_up(name):
    basis, normal = case(name)
    grid = surface.grid_steps(basis, (40.0, 50.0), normal)
    there, back, twice = oblique.tilted_kernel(
        (8, 9), grid, WAVE, torch.tensor([2e3, -2e3, 4e3], dtype=torch.float64)
    )
    assert torch.allclose(there.abs(), torch.ones(8, 9, dtype=torch.float64))
    assert (there * back - 1).abs().max() < 1e-12
    assert (there * there - twice).abs().max() < 1e-9


def summed(grid: np.ndarray, sources: np.ndarray, pixels: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Spherical waves of the points of a grid, which shine as one wave towards ``front``, at pixels."""
    k = 2 * math.pi / WAVE
    points = (np.stack(np.indices(sources.shape), -1) - np.array(sources.shape) // 2) @ grid.T
    emitted = (sources * np.exp(1j * k * points @ front)).ravel()
    far = pixels.reshape(-1, 3)
    paths = np.linalg.norm(far[:, None] - points.reshape(-1, 3), axis=-1)
    waves = np.exp(1j * k * (paths - np.linalg.norm(far, axis=-1)[:, None])) / paths
    return (waves @ emitted).reshape(pixels.shape[:-1])


@pytest.mark.parametrize("name", CASES)
def test_pixels_see_what_spherical_waves_sum_up_to(name):
    basis, normal = case(name)
    shape, angle, distance = (10, 8), (2e-2, 3e-2), 3e9
    pixel = tuple(WAVE / (n * a) for n, a in zip(shape, angle, strict=True))
    grid, rng = surface.grid_steps(basis, pixel, normal), np.random.default_rng(3)
    sources = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    m = np.stack(np.indices(shape), -1) - np.array(shape) // 2
    pixels = distance * (surface.outgoing_direction(basis) + m * angle @ basis.T)
    direct = summed(grid, sources, pixels, surface.outgoing_direction(basis))
    places, share = oblique.ewald(shape, angle, basis, normal)
    waves = np.exp(-2j * math.pi * np.einsum("yxi,vui->yxvu", places / shape, m))
    model = np.einsum("yxvu,vu->yx", waves, sources)
    cosine = np.cbrt(share)
    lit = share > 0
    assert lit.mean() > 0.5
    wanted = model / distance * cosine
    assert abs(direct - wanted)[lit].max() < 2e-4 * abs(direct).max()
    # a flat detector collects the flux across it, one more cosine
    assert np.allclose((abs(direct) ** 2 * cosine)[lit], (abs(model / distance) ** 2 * share)[lit], rtol=0.02)


@pytest.mark.parametrize("lens", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_mapping_moves_light_and_loses_none(name, lens):
    """The area that a pixel covers in frequency is the solid angle that it takes, seen from the surface."""
    basis, normal = case(name)
    angle, shape = (1e-3, 1.3e-3), (61, 61)
    places, _ = oblique.ewald(shape, angle, basis, normal, lens=lens)
    (a, b), (c, d) = ((x[..., 0], x[..., 1]) for x in np.gradient(places, axis=(0, 1)))
    jacobian = (a * d - b * c)[1:-1, 1:-1]
    m = (np.stack(np.indices(shape), -1) - 30) * angle @ basis.T
    front = surface.outgoing_direction(basis)
    way = m + front * (np.sqrt(1 - (m**2).sum(-1, keepdims=True)) if lens else 1.0)
    length = np.linalg.norm(way, axis=-1)
    toward, upward = way @ front / length, way @ normal / length
    solid = (1 / toward if lens else toward**3)[1:-1, 1:-1]
    assert np.allclose(jacobian, solid * upward[1:-1, 1:-1] / (front @ normal), rtol=1e-3)


@pytest.mark.parametrize(("radius", "most"), [(5, 1.5e-3), (40, 1.5e-3)])
@pytest.mark.parametrize("name", CASES)
def test_patterns_are_those_of_the_exact_sum_at_the_places_of_pixels(name, radius, most):
    """Of noise in half the window, and of noise that fills it; 0.0009 and 0.0007 at most when written."""
    basis, normal = case(name)
    geometry = Geometry(wavelength=WAVE, shape=(20, 22), angle=(3e-3, 4e-3), basis=tuple(map(tuple, basis)))
    geometry = replace(geometry, normal=normal)
    scan = Scan4D(counts=np.ones((1, 20, 22)), positions=np.zeros((1, 2)), geometry=geometry)
    rng = np.random.default_rng(0)
    wave = rng.normal(size=(2, 20, 22)) + 1j * rng.normal(size=(2, 20, 22))
    wave *= np.hypot(*(np.indices((20, 22)) - np.array([10, 11])[:, None, None])) < radius
    detector = detectors.counting(scan, ewald="flat")
    far = torch.fft.fft2(torch.as_tensor(wave), norm="ortho")[None].to(torch.complex64)
    seen = detector.display(detector(far, torch.tensor([0])) * detector.mask)[0].detach().numpy()
    places, share = oblique.ewald(geometry.shape, geometry.angle, basis, normal)
    m = np.stack(np.indices((20, 22)), -1) - (10, 11)
    waves = np.exp(-2j * math.pi * np.einsum("yxi,vui->yxvu", places / (20, 22), m))
    exact = (abs(np.einsum("yxvu,mvu->myx", waves, wave)) ** 2).sum(0) * share / 440
    exact = exact * detector.display(detector.mask[None])[0].numpy()
    assert np.sqrt(((seen - exact) ** 2).sum() / (exact**2).sum()) < most


def test_a_grating_diffracts_where_the_grating_equation_says():
    """Orders of a grating on a surface at 12 degrees grazing, against the plain model, which is far off."""
    grazing = math.radians(12)
    basis, normal = turned(2 * grazing), lying(grazing - math.pi / 2)
    geometry = Geometry(wavelength=WAVE, shape=(96, 96), angle=(2e-3, 2e-3), basis=tuple(map(tuple, basis)))
    geometry = replace(geometry, normal=normal)
    assert np.allclose(abs(surface.mirror_normal(basis) @ np.array(geometry.normal)), 1)
    lines = np.array([0.11, 0.16])
    y, x = np.indices((96, 96)) - 48
    window = np.exp(-(y**2 + x**2) / (2 * 14.0**2))
    wave = torch.as_tensor(window * np.exp(2j * math.pi * (lines[0] * y + lines[1] * x)))[None, None]
    counts, where = np.ones((1, 96, 96)), np.zeros((1, 2))
    scan = Scan4D(counts=counts, positions=where, geometry=geometry)
    found = {}
    for kind in ("none", "flat"):
        detector = detectors.counting(scan, ewald=kind)
        seen = detector.display(detector(torch.fft.fft2(wave).to(torch.complex64), torch.tensor([0])))[0]
        seen = seen.detach().numpy() ** 2
        found[kind] = np.array([(g * seen).sum() for g in np.indices((96, 96))]) / seen.sum() - 48
    # in the surface the wave vector gains that of the grating; its length stays
    dual = np.linalg.pinv(geometry.steps)
    inside = surface.outgoing_direction(basis) + WAVE * lines @ dual
    n = np.array(geometry.normal)
    inside -= (inside @ n) * n
    way = inside - math.sqrt(1 - inside @ inside) * n
    front = surface.outgoing_direction(basis)
    pixel = (way / (way @ front)) @ basis / geometry.angle
    assert abs(found["flat"] - pixel).max() < 0.1
    assert abs(found["none"] - pixel).max() > 1.0


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_gradients_of_flights_and_of_remapped_patterns():
    basis, normal = case("transmission at 35 degrees")
    grid = surface.grid_steps(basis, (25.0, 30.0), normal)
    z = torch.tensor([30.0], dtype=torch.float64, requires_grad=True)
    wave = torch.randn(5, 4, dtype=torch.complex128)
    assert torch.autograd.gradcheck(lambda d: (oblique.tilted_kernel((5, 4), grid, WAVE, d) * wave).abs(), z)
    places, share = oblique.ewald((5, 4), (0.1, 0.1), basis, normal)
    pixels, weights, _ = oblique.interpolation(places, share, (5, 4))
    pattern = torch.rand(2, 10, 8, dtype=torch.float64, requires_grad=True)
    for one in (pattern, torch.randn(2, 10, 8, dtype=torch.complex128, requires_grad=True)):
        assert torch.autograd.gradcheck(
            lambda p: oblique.remap_pixels(p, pixels, weights), one, check_forward_ad=True
        )
        assert torch.autograd.gradgradcheck(lambda p: oblique.remap_pixels(p, pixels, weights), one)


def some_scan(normal: tuple[float, float, float], *, count: int = 9, side: int = 16) -> Scan4D:
    geometry = Geometry(wavelength=WAVE, shape=(side, side), angle=(6e-3, 6e-3), distance=1e9)
    where = np.random.default_rng(0).uniform(-40, 40, (count, 2))
    patterns = np.random.default_rng(1).poisson(20, (count, side, side))
    scan = Scan4D(counts=patterns, positions=where, geometry=geometry)
    return tilt_sample(scan, normal=normal)


def test_a_tilted_scan_keeps_its_motion_in_files(tmp_path):
    scan = some_scan((0.0, 0.5, 0.8))
    before = cxi.compute_sample_motion(scan.positions, scan.heights, scan.geometry)
    cxi.write(scan, tmp_path / "tilted.cxi")
    again = cxi.read(tmp_path / "tilted.cxi")
    assert again.geometry.normal == pytest.approx(scan.geometry.normal)
    assert np.allclose(again.positions, scan.positions, atol=1e-6)
    assert np.allclose(again.heights, scan.heights, atol=1e-6)
    flat = tilt_sample(again, scattering="transmission")
    assert np.allclose(
        cxi.compute_sample_motion(flat.positions, flat.heights, flat.geometry), before, atol=1e-18
    )
    assert flat.heights is None


def test_an_orientation_is_two_directions_on_the_sample(tmp_path):
    import h5py

    scan = some_scan((0.0, 0.0, 1.0))
    cxi.write(scan, tmp_path / "turned.cxi")
    with h5py.File(tmp_path / "turned.cxi", "a") as file:
        file["entry_1/sample_1/geometry_1/orientation"] = np.array([0.8, 0, -0.6, 0, 1, 0])
    assert cxi.read(tmp_path / "turned.cxi").geometry.normal == pytest.approx((0.6, 0, 0.8))


def test_what_cannot_be_is_said():
    scan = some_scan((0.0, 0.0, 1.0))
    with pytest.raises(BadInput, match="normal"):
        tilt_sample(scan, normal=(1.0, 0.0, 0.0))
    with pytest.raises(BadInput, match="in the beam"):
        tilt_sample(scan, scattering="reflection")
    with pytest.raises(BadInput, match="near field"):
        replace(scan.geometry, focus=math.inf, normal=(0.0, 0.5, 0.8))
    sideways = replace(scan, geometry=replace(scan.geometry, basis=tuple(map(tuple, turned(math.pi / 2)))))
    with pytest.raises(BadInput, match="runs along the surface"):
        tilt_sample(sideways, normal=(0.0, 0.5, 0.5))


@pytest.mark.parametrize("match", ["crop", "resample"])
def test_a_larger_grid_reaches_pixels_that_a_tilt_moves_out(match):
    scan = some_scan((0.6, 0.0, 0.8), side=32)
    counted = detectors.counting(scan, ewald="flat").mask
    larger = detectors.counting(enlarge(scan, to=(64, 64), match=match), ewald="flat")
    assert 0.5 < counted.float().mean() < 1
    assert bool(larger.mask.all()) == (match == "crop")
    model = Ptychography.of(enlarge(scan, to=(64, 64), match=match))
    assert model(torch.tensor([0, 3])).shape == (2, 32, 32)
    assert isinstance(model.probe, probes.Illumination)
