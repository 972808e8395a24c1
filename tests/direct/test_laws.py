"""The linear model against brute force: every pattern of a periodic scan computed by FFT."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.fit import climb
from phaseloom.direct.solve import build_normal_equations, reconstruct_image
from phaseloom.direct.transfer import LinearOptics, compute_columns, orientation_matrix
from phaseloom.physics.optics import aberration_polynomial

SIZE = 32
PIXEL = 0.5
WAVELENGTH = 0.02
RADIUS = 0.36  # of the aperture, cycles per angstrom
ABERRATIONS = {
    "C10": -420.0,
    "C12a": 130.0,
    "C12b": -80.0,
    "C21a": 60_000.0,
    "C21b": 20_000.0,
    "C23a": 9_000.0,
}
OPTICS = LinearOptics(WAVELENGTH, RADIUS * WAVELENGTH, ABERRATIONS)


def frequencies() -> np.ndarray:
    f = np.fft.fftfreq(SIZE, PIXEL)
    return np.stack(np.meshgrid(f, f, indexing="ij"), -1)


def make_probe(optics: LinearOptics, defocus_by: float = 0.0) -> np.ndarray:
    k = torch.from_numpy(frequencies())
    chi = aberration_polynomial(k[..., 0], k[..., 1], WAVELENGTH, optics.aberrations).numpy()
    length = np.linalg.norm(frequencies(), axis=-1)
    chi = chi + math.pi * WAVELENGTH * defocus_by * length**2
    far = (length <= RADIUS) * np.exp(-1j * chi)
    return np.fft.ifft2(far, norm="ortho") / np.sqrt((length <= RADIUS).sum())


def make_field(seed: int, highest: float = 0.7) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE))
    length = np.linalg.norm(frequencies(), axis=-1)
    field = np.fft.ifft2(np.fft.fft2(noise) * (length < highest) * (length > 0)).real
    return field / field.std()


def scan(probe: np.ndarray, transmission: np.ndarray) -> np.ndarray:
    """Patterns ``(row, column, y, x)``, zero frequency in the corner."""
    shifts = [(i, j) for i in range(SIZE) for j in range(SIZE)]
    waves = np.stack([np.roll(probe, move, (0, 1)) * transmission for move in shifts])
    return (np.abs(np.fft.fft2(waves, norm="ortho")) ** 2).reshape(SIZE, SIZE, SIZE, SIZE)


def spectrum_of(patterns: np.ndarray) -> Spectrum:
    """That of all pixels in the disk, without binning or borders."""
    disk = np.linalg.norm(frequencies(), axis=-1) <= RADIUS
    inside = patterns[:, :, disk].reshape(SIZE, SIZE, -1)
    counts = inside.mean((0, 1))
    changes = torch.from_numpy(np.moveaxis(inside / counts - 1, -1, 0))
    values = (torch.fft.rfft2(changes) / SIZE).flatten(1).T
    index = torch.cartesian_prod(torch.fft.fftfreq(SIZE), torch.fft.rfftfreq(SIZE)).double() / PIXEL
    place = torch.from_numpy(frequencies()[disk])
    counts = torch.ones(len(place), dtype=torch.float64)
    shape = (SIZE, SIZE // 2 + 1)
    return Spectrum(values, index, place, counts, 0.0, shape, (SIZE, SIZE))


def transform(field: np.ndarray) -> torch.Tensor:
    return (torch.fft.rfft2(torch.from_numpy(field)) / SIZE).flatten()


def below_nyquist(data: Spectrum, highest: float = 0.68) -> torch.Tensor:
    length = data.frequency.norm(dim=-1)
    return torch.nonzero((length > 0.05) & (length < highest))[:, 0]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def fields() -> tuple[np.ndarray, np.ndarray]:
    return make_field(1) * 1e-3, make_field(2) * 1e-3


@pytest.fixture(scope="module")
def data(fields) -> Spectrum:
    phase, loss = fields
    return spectrum_of(scan(make_probe(OPTICS), 1 + 1j * phase - loss))


def test_columns_predict_the_patterns_of_a_weak_object(data, fields):
    seen = data.select(below_nyquist(data))
    columns = compute_columns(OPTICS, seen.place, seen.frequency)
    there = below_nyquist(data)
    objects = torch.stack([transform(field)[there] for field in fields], -1)
    assert relative((columns @ objects[..., None])[..., 0], seen.values) < 3e-3


def test_least_squares_return_phase_and_amplitude_in_radian(data, fields):
    there = below_nyquist(data)
    high = there[data.frequency[there].norm(dim=-1) > 0.4]  # below, both look the same in most pixels
    found = build_normal_equations(OPTICS, data.select(high)).solve()
    assert relative(found[:, 0], transform(fields[0])[high]) < 5e-3
    assert relative(found[:, 1], transform(fields[1])[high]) < 5e-3


def test_a_weak_phase_comes_back_within_a_percent_and_does_not_leak():
    phase = make_field(3) * 0.01
    seen = spectrum_of(scan(make_probe(OPTICS), np.exp(1j * phase)))
    there = below_nyquist(seen, highest=0.9 * 2 * RADIUS)
    found = build_normal_equations(OPTICS, seen.select(there)).solve()
    wanted = transform(phase)[there]
    gain = torch.vdot(wanted, found[:, 0]) / wanted.norm() ** 2
    assert abs(gain - 1) < 0.01
    assert float(found[:, 1].norm() / found[:, 0].norm()) < 0.1  # second order of the phase included
    image = reconstruct_image(OPTICS, seen, method="wiener").phase
    assert np.corrcoef(image.flatten(), phase.flatten())[0, 1] > 0.98


@pytest.mark.parametrize("depth", [-150.0, 200.0])
def test_planes_downstream_have_positive_depth(depth):
    phase = make_field(4) * 1e-3
    # the wave that reaches a plane downstream has the C10 of the entrance plus the way
    seen = spectrum_of(scan(make_probe(OPTICS, depth), np.exp(1j * phase)))
    there = below_nyquist(seen)
    thick = LinearOptics(WAVELENGTH, OPTICS.semiangle, ABERRATIONS, depths=(depth,))
    right = build_normal_equations(thick, seen.select(there), amplitude=False)
    wrong = build_normal_equations(OPTICS, seen.select(there), amplitude=False)
    assert float(right.explained().sum() / right.energy.sum()) > 0.9999
    assert float(wrong.explained().sum() / wrong.energy.sum()) < 0.9
    assert relative(right.solve()[:, 0], transform(phase)[there]) < 5e-3


@pytest.mark.parametrize("way", range(8))
def test_all_orientations_and_a_turned_scan_explain_the_same(data, way):
    """A detector read in another way, and stated positions that are turned and scaled."""
    there = below_nyquist(data)
    angle = 0.7
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    lay = torch.from_numpy(orientation_matrix(way))
    stated = torch.from_numpy(turn.T / 1.03)  # stated positions, as rows: true @ this
    other = Spectrum(
        data.values[there],
        data.frequency[there] @ torch.linalg.inv(stated).T,
        data.place @ torch.linalg.inv(lay) / 1.02 + torch.tensor([0.01, -0.02]),
        data.counts,
        0.0,
    )
    optics = LinearOptics(
        WAVELENGTH,
        OPTICS.semiangle * 1.0001,  # the rim rounds
        ABERRATIONS,
        orientation=way,
        rotation=angle,
        step=1.03,
        angle=1.02,
        centre=(0.01, -0.02),
    )
    plain = compute_columns(OPTICS, data.place, data.frequency[there])
    assert relative(compute_columns(optics, other.place, other.frequency), plain) < 0.02
    equations = build_normal_equations(optics, other)
    assert float(equations.explained().sum() / equations.energy.sum()) > 0.999


def test_the_twin_explains_as_much_with_the_opposite_phase(data):
    there = below_nyquist(data)
    one = build_normal_equations(OPTICS, data.select(there), amplitude=False)
    two = build_normal_equations(OPTICS.get_twin(), data.select(there), amplitude=False)
    torch.testing.assert_close(two.explained(), one.explained(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(two.solve(), -one.solve(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_equations_are_the_adjoint_of_the_columns(data, dtype):
    there = below_nyquist(data)[::7]
    place = data.place.to(dtype)
    frequency = data.frequency[there].to(dtype)
    optics = LinearOptics(
        WAVELENGTH, OPTICS.semiangle, {**ABERRATIONS, "C30": 1e6, "C34b": -2e6},
        source_size=0.3, focal_spread=40.0, depths=(-40.0, 40.0), orientation=5, rotation=0.3,
    )  # fmt: skip
    columns = compute_columns(optics, place, frequency, edge=0.05)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(there), 4, generator=generator, dtype=columns.dtype)
    y = torch.randn(len(there), len(place), generator=generator, dtype=columns.dtype)
    counts = torch.rand(len(place), generator=generator, dtype=dtype) + 0.5
    seen = Spectrum(y, frequency, place, counts, 0.05)
    equations = build_normal_equations(optics, seen)
    forward = torch.vdot(((columns @ x[..., None])[..., 0] * counts).flatten(), y.flatten())
    backward = torch.vdot(x.flatten(), equations.right.flatten())
    bound = 1e-6 if dtype == torch.float32 else 1e-12
    assert abs(forward - backward) < bound * float(x.norm() * equations.right.norm())
    square = torch.vdot(x.flatten(), (equations.matrix @ x[..., None]).flatten())
    norm = ((columns @ x[..., None])[..., 0].abs().square() * counts).sum()
    assert abs(square - norm) < 10 * bound * float(norm)


def test_gradients_of_what_is_explained_are_those_of_differences(data):
    there = below_nyquist(data)[::5]

    def explained(values: torch.Tensor) -> torch.Tensor:
        c10, c12, turn, step, row, size = values
        optics = LinearOptics(
            WAVELENGTH, OPTICS.semiangle, {**ABERRATIONS, "C10": c10, "C12a": c12},
            rotation=turn, step=step, centre=(row, 0.0), source_size=size,
        )  # fmt: skip
        equations = build_normal_equations(optics, seen, amplitude=False)
        return equations.explained().sum() / equations.energy.sum()

    seen = data.select(there)
    seen = Spectrum(seen.values, seen.frequency, seen.place, seen.counts, 0.06)
    start = torch.tensor([-300.0, 60.0, 0.05, 1.01, 0.01, 0.2], dtype=torch.float64, requires_grad=True)
    unit = torch.tensor([1e-2, 1e-2, 1e-5, 1e-5, 1e-6, 1e-4], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(explained(start), start)
    for number in range(len(start)):
        move = torch.zeros_like(start)
        move[number] = unit[number]
        rise = (explained(start.detach() + move) - explained(start.detach() - move)) / (2 * unit[number])
        assert float(gradient[number]) == pytest.approx(float(rise), rel=1e-3, abs=1e-6), number


def test_a_spread_of_focus_is_found():
    """Patterns of beams of several defoci, added."""
    spread = 30.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    transmission = np.exp(0.01j * make_field(3))
    patterns = sum(
        weight / weights.sum() * scan(make_probe(OPTICS, spread * node), transmission)
        for node, weight in zip(nodes, weights, strict=True)
    )
    data = spectrum_of(patterns)
    data = data.select(torch.nonzero(below_nyquist(data))[:, 0])
    names = ("C10", "focal_spread")
    start = replace(OPTICS, aberrations={**OPTICS.aberrations}, focal_spread=10.0)
    found = climb(data, start, names, amplitude=True)
    assert abs(found.focal_spread) == pytest.approx(spread, rel=0.05)
    assert found.aberrations["C10"] == pytest.approx(OPTICS.aberrations["C10"], abs=2)
