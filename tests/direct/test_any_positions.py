"""Direct images of scans that are no raster, against rasters, direct sums and the true weak object."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.direct import grid as grids
from phaseloom.direct.bright_field import BrightField, Spectrum
from phaseloom.direct.conjugate_gradients import MixedEquations
from phaseloom.direct.grid import ImageGrid, choose_image_grid, compute_window, measure_cells
from phaseloom.direct.nonuniform import sample_positions, transform_nonuniform
from phaseloom.direct.solve import reconstruct_image
from phaseloom.direct.transfer import LinearOptics, compute_columns
from phaseloom.errors import BadInput
from phaseloom.physics.optics import aberration_polynomial

SIZE, PIXEL = 48, 0.6  # of the true object, which repeats
WAVELENGTH = 0.0418
RADIUS = 0.4  # of the aperture, cycles per angstrom
ABERRATIONS = {"C10": -250.0, "C12a": 30.0, "C12b": -20.0}
OPTICS = LinearOptics(WAVELENGTH, RADIUS * WAVELENGTH, ABERRATIONS)
STEP = 0.8
HIGHEST = 0.55  # of the true object, below half a cycle per step
BORDER = 0.06
ONE_AXIS = np.fft.fftfreq(SIZE, PIXEL)
K = np.stack(np.meshgrid(ONE_AXIS, ONE_AXIS, indexing="ij"), -1)
LENGTH = np.linalg.norm(K, axis=-1)
DISK = LENGTH <= RADIUS


def make_phase(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE))
    field = np.fft.ifft2(np.fft.fft2(noise) * (HIGHEST > LENGTH) * (LENGTH > 0)).real
    return 1e-2 * field / field.std()


def sample_phase(phase: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The true phase at any places."""
    spectrum = np.fft.fft2(phase).ravel() / phase.size
    return (np.exp(2j * math.pi * (places @ K.reshape(-1, 2).T)) @ spectrum).real


def scan(phase: np.ndarray, positions: np.ndarray) -> BrightField:
    """Every pattern by an FFT of the exit wave, the beam shifted by a phase ramp; every fourth pixel kept."""
    chi = aberration_polynomial(
        torch.from_numpy(K[..., 0]), torch.from_numpy(K[..., 1]), WAVELENGTH, ABERRATIONS
    ).numpy()
    far = DISK * np.exp(-1j * chi) / math.sqrt(DISK.sum())
    kept = np.zeros_like(DISK)
    kept[::2, ::2] = DISK[::2, ::2]
    changes = []
    for some in np.array_split(positions, max(1, len(positions) // 128)):
        ramps = np.exp(-2j * math.pi * np.einsum("ijc,nc->nij", K, some))
        waves = np.fft.ifft2(far * ramps, norm="ortho") * np.exp(1j * phase)
        changes.append(np.abs(np.fft.fft2(waves, norm="ortho")[:, kept]) ** 2)
    patterns = np.concatenate(changes)
    counts = patterns.mean(0)
    return BrightField(patterns / counts - 1, counts * 1e12, K[kept], (0.0, 0.0), positions, None)


def make_raster(count: int) -> np.ndarray:
    return np.indices((count, count)).reshape(2, -1).T * STEP + 1.0


def make_spiral(count: int) -> np.ndarray:
    """Archimedes' spiral with as many places on an area as the raster."""
    angle = 2 * np.sqrt(math.pi * (np.arange(count) + 0.5))
    return STEP * angle[:, None] / (2 * math.pi) * np.stack([np.cos(angle), np.sin(angle)], 1) + 13.0


def correlate_inside(bright: BrightField, phase: np.ndarray, method: str = "least_squares") -> float:
    """With the truth, where neither border nor gap is near."""
    spectrum = bright.transform(border=BORDER)
    image = reconstruct_image(OPTICS, spectrum, method=method, border=BORDER).phase.numpy()
    assert spectrum.image_grid is not None
    places = spectrum.image_grid.places()
    _, window = compute_window(bright.positions, spectrum.image_grid, 0.16)
    inside = window.ravel() > 0.9
    assert inside.sum() > 100
    return float(np.corrcoef(image.ravel()[inside], sample_phase(phase, places[inside]))[0, 1])


@pytest.mark.parametrize("shape", [(7, 9), (12, 5), (16, 16)])
def test_the_nonuniform_transform_is_the_direct_sum(shape):
    rng = np.random.default_rng(0)
    index = rng.uniform(-1, np.array(shape) + 1, (50, 2))
    values = rng.standard_normal((50, 3))
    rows = np.round(np.fft.fftfreq(shape[0]) * shape[0])
    wanted = [
        [np.exp(-2j * math.pi * (index @ [row / shape[0], column / shape[1]])) @ values]
        for row in rows
        for column in range(shape[1] // 2 + 1)
    ]
    found = transform_nonuniform(values, index, shape)
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=1e-7)


@pytest.mark.parametrize("shape", [(6, 8), (7, 5)])
def test_frequencies_mix_as_sums_over_positions_do(shape):
    rng = np.random.default_rng(1)
    grid = ImageGrid(np.array([1.0, 2.0]), np.array([[0.5, 0.1], [-0.1, 0.7]]), shape)
    positions = rng.uniform(0, np.array(shape) - 1, (40, 2)) @ grid.steps + grid.first
    sampling = sample_positions(np.ones((40, 1)), positions, grid, border=0.1)[0]
    used = torch.nonzero(sampling.find_distinct())[:, 0]
    column = used % (shape[1] // 2 + 1)
    x = torch.from_numpy(rng.standard_normal((len(used), 2)) + 1j * rng.standard_normal((len(used), 2)))
    q = grid.frequencies()[used]
    waves = torch.exp(2j * math.pi * (torch.from_numpy(positions - grid.first) @ q.T))
    field = (waves * torch.where(column == 0, 1.0, 2.0) @ x).real
    wanted = waves.conj().T @ field.to(x.dtype) / 40
    torch.testing.assert_close(sampling.mix_frequencies(x, used), wanted, atol=1e-8, rtol=0)


def make_equations() -> tuple[MixedEquations, torch.Generator]:
    rng = np.random.default_rng(2)
    grid = ImageGrid(np.zeros(2), 0.8 * np.eye(2), (7, 9))
    positions = rng.uniform(0, 1, (60, 2)) * [4.8, 6.4]
    sampling, values, _ = sample_positions(rng.standard_normal((60, 12)), positions, grid, border=0.1)
    place = torch.from_numpy(RADIUS * rng.uniform(-0.7, 0.7, (12, 2)))
    spectrum = Spectrum(
        torch.from_numpy(values),
        grid.frequencies(),
        place,
        torch.from_numpy(rng.uniform(0.5, 1.5, 12)),
        0.05,
        (7, 5),
        (7, 9),
        sampling=sampling,
        image_grid=grid,
    )
    used = torch.arange(1, 35)
    return MixedEquations.of(OPTICS, spectrum, used), torch.Generator().manual_seed(0)


def test_normal_equations_of_any_positions_are_self_adjoint_and_adjoint_to_the_data():
    equations, generator = make_equations()
    spectrum, used, sampling = equations.spectrum, equations.used, equations.sampling
    x, y = (torch.randn(len(used), 2, generator=generator, dtype=torch.complex128) for _ in range(2))
    ahead = equations.multiply(x, equations.apply(y))
    assert ahead == pytest.approx(equations.multiply(equations.apply(x), y), rel=1e-9)
    assert equations.multiply(x, equations.apply(x)) > 0
    # the right side against data: <A x, y> = <x, A^H y>, for the data that an object makes
    columns = compute_columns(OPTICS, spectrum.place, spectrum.frequency[used], edge=spectrum.edge)
    seen = torch.einsum("fkc,fc->fk", columns, x)
    data = torch.zeros_like(sampling.values)
    data[used] = sampling.mix_frequencies(seen, used)
    other = replace(equations, spectrum=replace(spectrum, sampling=replace(sampling, values=data)))
    torch.testing.assert_close(other.right(), equations.apply(x), atol=1e-9, rtol=1e-9)
    fit = other.measure(x)
    assert float(fit.left.sum()) < 1e-12 * float(fit.energy.sum())


@pytest.mark.parametrize("method", ["least_squares", "wiener", "obf", "ssb", "parallax", "dpc", "wdd"])
def test_a_raster_taken_for_any_positions_has_the_same_image(method, monkeypatch):
    positions = make_raster(15)
    turned = positions @ np.array([[0.9, 0.2], [-0.1, 1.1]])
    bright = replace(scan(make_phase(1), turned), grid=(15, 15))
    noise = np.random.default_rng(0).standard_normal(bright.changes.shape)
    deflection = np.random.default_rng(1).standard_normal((2, 225, 2))
    bright = replace(
        bright,
        changes=bright.changes + 1e-2 * noise,
        counts=np.full(len(bright.counts), 1e4),
        deflection=deflection if method == "dpc" else None,
    )
    images = []
    for jitter in (grids.MAX_JITTER, -1.0):
        monkeypatch.setattr(grids, "MAX_JITTER", jitter)
        spectrum = bright.transform(border=BORDER)
        assert (spectrum.sampling is None) == (jitter >= 0)
        images.append(reconstruct_image(OPTICS, spectrum, method=method, border=BORDER, halves=True))
    one, two = images
    torch.testing.assert_close(two.phase, one.phase, rtol=0, atol=1e-4 * float(one.phase.abs().max()))
    assert two.explained == pytest.approx(one.explained, rel=1e-3)
    assert one.halves is not None
    assert two.halves is not None
    for first, second in zip(one.halves, two.halves, strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=1e-4 * float(first.abs().max()))


@pytest.mark.parametrize("method", ["least_squares", "wiener"])
@pytest.mark.parametrize("kind", ["raster", "jittered", "jittered raster", "missing", "spiral"])
def test_any_positions_show_a_weak_object_as_a_raster_does(kind, method):
    phase = make_phase(1)
    rng = np.random.default_rng(0)
    positions = make_raster(30)
    grid = (30, 30) if "raster" in kind else None
    if "jittered" in kind:
        positions = positions + STEP * rng.uniform(-0.3, 0.3, positions.shape)
    if kind == "missing":
        positions = positions[rng.random(len(positions)) > 0.2]
    if kind == "spiral":
        positions = make_spiral(900)
    bright = replace(scan(phase, positions), grid=grid)
    assert correlate_inside(bright, phase, method) > 0.99


def test_jitter_that_is_known_is_not_mistaken_for_the_raster():
    phase = make_phase(1)
    places = make_raster(30)
    positions = places + STEP * np.random.default_rng(0).uniform(-0.3, 0.3, places.shape)
    bright = replace(scan(phase, positions), grid=(30, 30))
    known = correlate_inside(bright, phase)
    ignored = correlate_inside(replace(bright, positions=places), phase)
    assert 1 - known < 0.8 * (1 - ignored)


def test_a_montage_has_no_image_in_its_gap():
    phase = make_phase(2)
    positions = make_raster(24)
    two = np.concatenate([positions, positions + np.array([0.0, 28.8])])
    bright = scan(phase, two)
    spectrum = bright.transform(border=BORDER)
    assert spectrum.image_grid is not None
    image = reconstruct_image(OPTICS, spectrum, border=BORDER).phase.reshape(-1)
    apart = np.abs(spectrum.image_grid.places()[:, None] - two).max(-1).min(1)
    assert (image[apart > 3 * STEP] == 0).all()
    assert correlate_inside(bright, phase) > 0.99


def test_cells_of_a_raster_are_alike_and_repeated_positions_share_one():
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    inside = np.zeros((8, 8), bool)
    inside[2:-2, 2:-2] = True
    cells = measure_cells(make_raster(8) @ turn)
    np.testing.assert_allclose(cells[inside.ravel()], STEP**2, rtol=1e-6)
    twice = np.concatenate([make_raster(8), make_raster(8)[:10]])
    np.testing.assert_allclose(measure_cells(twice), np.repeat([0.5, 1.0, 0.5], [10, 54, 10]) * STEP**2)


@pytest.mark.parametrize(
    ("positions", "grid", "reason"),
    [
        (np.outer(np.arange(40), [1.0, 2.0]), None, "on one line"),
        (np.zeros((40, 2)), None, "on one line"),
        (np.random.default_rng(0).permutation(make_raster(8)), (8, 8), "do not follow the raster of 8 x 8"),
        (np.concatenate([make_raster(4), make_raster(4) + 500.0]), None, "cut the scan"),
    ],
)
def test_positions_without_an_image_are_refused(positions, grid, reason):
    with pytest.raises(BadInput, match=reason):
        choose_image_grid(positions, grid)
