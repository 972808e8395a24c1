"""Direct methods against brute force: parallax, centre of mass, deconvolution, images finer than a scan."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.direct import methods
from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.solve import (
    build_normal_equations,
    list_aliases,
    reconstruct_image,
)
from phaseloom.direct.transfer import LinearOptics, compute_columns, orientation_matrix, turn_matrix
from phaseloom.errors import BadInput
from phaseloom.metrics.resolution import ring_correlation

SIZE = 24
PIXEL = 0.5
WAVELENGTH = 0.02
RADIUS = 0.36  # of the aperture, cycles per angstrom
ABERRATIONS = {"C10": -420.0, "C12a": 130.0, "C12b": -80.0, "C21a": 60_000.0, "C21b": 20_000.0}
OPTICS = LinearOptics(WAVELENGTH, RADIUS * WAVELENGTH, ABERRATIONS)
IN_FOCUS = LinearOptics(WAVELENGTH, RADIUS * WAVELENGTH)
TO_FOURTH_ORDER = {**ABERRATIONS, "C23a": 9_000.0, "C30": 1e6, "C32b": -6e5, "C34a": 3e5, "C34b": -2e6}
ONE_AXIS = np.fft.fftfreq(SIZE, PIXEL)
DOSE = 1e12  # electrons per pattern: nothing to speak of is noise
K = np.stack(np.meshgrid(ONE_AXIS, ONE_AXIS, indexing="ij"), -1)
LENGTH = np.linalg.norm(K, axis=-1)


def compute_probe(aberrations: dict[str, float]) -> np.ndarray:
    """Written out from the formulas of the conventions, not by the package."""
    row, column = np.moveaxis(WAVELENGTH * K, -1, 0)
    square = row**2 + column**2
    chi = aberrations.get("C10", 0.0) * square / 2
    chi += aberrations.get("C12a", 0.0) * (column**2 - row**2) / 2
    chi += aberrations.get("C12b", 0.0) * row * column
    chi += square * (aberrations.get("C21a", 0.0) * column + aberrations.get("C21b", 0.0) * row) / 3
    far = (LENGTH <= RADIUS) * np.exp(-2j * math.pi / WAVELENGTH * chi)
    return np.fft.ifft2(far, norm="ortho") / np.linalg.norm(far)


def make_field(seed: int, highest: float) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE))
    field = np.fft.ifft2(np.fft.fft2(noise) * (highest > LENGTH) * (LENGTH > 0)).real
    return field / field.std()


def scan(probe: np.ndarray, transmission: np.ndarray, step: int = 1) -> np.ndarray:
    """Patterns ``(row, column, y, x)``, zero frequency in the corner."""
    shifts = [(i, j) for i in range(0, SIZE, step) for j in range(0, SIZE, step)]
    waves = np.stack([np.roll(probe, move, (0, 1)) * transmission for move in shifts])
    patterns = np.abs(np.fft.fft2(waves, norm="ortho")) ** 2
    return patterns.reshape(SIZE // step, SIZE // step, SIZE, SIZE)


def spectrum_of(patterns: np.ndarray, used: np.ndarray | None = None) -> Spectrum:
    """That of all pixels in the disk, or of others, without binning or borders."""
    used = LENGTH <= RADIUS if used is None else used
    inside = patterns[:, :, used]
    grid = (inside.shape[0], inside.shape[1])
    counts = inside.mean((0, 1))
    changes = torch.from_numpy(np.moveaxis(inside / counts - 1, -1, 0))
    values = (torch.fft.rfft2(changes) / math.sqrt(math.prod(grid))).flatten(1).T
    unit = PIXEL * SIZE / grid[0]
    index = torch.cartesian_prod(torch.fft.fftfreq(grid[0]), torch.fft.rfftfreq(grid[1])).double() / unit
    shape = (grid[0], grid[1] // 2 + 1)
    place = torch.from_numpy(K[used])
    return Spectrum(values, index, place, torch.from_numpy(counts * DOSE), 0.0, shape, grid)


def correlate(found: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.corrcoef(found.numpy().ravel(), wanted.ravel())[0, 1])


@pytest.fixture(scope="module")
def phase() -> np.ndarray:
    return make_field(1, 0.6) * 1e-2


@pytest.fixture(scope="module")
def data(phase) -> Spectrum:
    return spectrum_of(scan(compute_probe(ABERRATIONS), np.exp(1j * phase)))


@pytest.mark.parametrize("upsample", [1, 2, 3])
@pytest.mark.parametrize("way", range(8))
def test_normal_equations_of_aliases_are_the_adjoint_of_the_forward_model(way, upsample):
    optics = LinearOptics(
        WAVELENGTH, OPTICS.semiangle, TO_FOURTH_ORDER, orientation=way, rotation=0.4, step=1.02, angle=0.97
    )
    generator = torch.Generator().manual_seed(way)
    rows, columns = 5, 7
    index = torch.cartesian_prod(torch.fft.fftfreq(rows), torch.fft.rfftfreq(columns)).double()
    frequency = index @ torch.tensor([[0.9, 0.1], [-0.2, 0.7]], dtype=torch.float64)
    place = RADIUS * (torch.rand(31, 2, generator=generator, dtype=torch.float64) - 0.5)
    counts = torch.rand(31, generator=generator, dtype=torch.float64) + 0.5
    y = torch.randn(len(index), 31, generator=generator, dtype=torch.complex128)
    seen = Spectrum(y, frequency, place, counts, 0.05, (rows, columns // 2 + 1), (rows, columns))
    aliases, _ = list_aliases(seen, upsample)
    x = torch.randn(len(index), upsample**2, 2, generator=generator, dtype=torch.complex128)
    forward = torch.zeros_like(y)
    for tile in range(upsample**2):
        here = compute_columns(optics, place, aliases[:, tile], edge=0.05)
        forward += here[..., 0] * x[:, tile, None, 0] + here[..., 1] * x[:, tile, None, 1]
    equations = build_normal_equations(optics, seen, aliases=aliases)
    ahead = torch.vdot((forward * counts).flatten(), y.flatten())
    back = torch.vdot(x.flatten(), equations.right.flatten())
    assert abs(ahead - back) < 1e-12 * float(x.norm() * equations.right.norm())
    energy = (forward.abs().square() * counts).sum()
    square = torch.vdot(x.flatten(), (equations.matrix @ x.flatten(1)[..., None]).flatten())
    assert abs(square - energy) < 1e-12 * float(energy)


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (4, 7)])
@pytest.mark.parametrize("upsample", [2, 3])
def test_aliases_add_up_to_what_the_coarse_grid_sees(grid, upsample):
    fine = np.random.default_rng(0).standard_normal((grid[0] * upsample, grid[1] * upsample))
    index = torch.cartesian_prod(torch.fft.fftfreq(grid[0]), torch.fft.rfftfreq(grid[1])).double()
    one = torch.ones(1, 2, dtype=torch.float64)
    none = torch.zeros(len(index), 1, dtype=torch.complex128)
    raster = Spectrum(none, index, one, one[0, :1], 0.0, (grid[0], grid[1] // 2 + 1), grid)
    frequency, place = list_aliases(raster, upsample)
    coarse = np.fft.rfft2(fine[::upsample, ::upsample]).ravel()
    sums = np.fft.fft2(fine)[place[..., 0], place[..., 1]].sum(1) / upsample**2
    np.testing.assert_allclose(sums, coarse, atol=1e-10)
    cycles = torch.remainder(frequency * upsample * torch.tensor(grid), torch.tensor(grid) * upsample**2)
    expected = torch.remainder(place * upsample, torch.tensor(grid) * upsample**2)
    torch.testing.assert_close(cycles, expected.to(cycles.dtype))


@pytest.mark.parametrize("method", ["wiener", "least_squares"])
def test_half_the_scan_shows_a_weak_object_as_well_as_the_full_scan(data, phase, method):
    half = spectrum_of(scan(compute_probe(ABERRATIONS), np.exp(1j * phase), step=2))
    full = reconstruct_image(OPTICS, data, method=method)
    fine = reconstruct_image(OPTICS, half, method=method, upsample=2)
    assert fine.phase.shape == full.phase.shape
    assert correlate(full.phase, phase) > 0.9999
    assert correlate(fine.phase, phase) > 0.9999
    gain = float((fine.phase.numpy() * phase).sum() / (phase**2).sum())
    assert gain == pytest.approx(1, abs=0.01)
    assert fine.explained > 0.99
    # what the scan alone can show of it, at its own places
    assert correlate(reconstruct_image(OPTICS, half, method=method).phase, phase[::2, ::2]) < 0.95


def test_parallax_beats_the_plain_sum_and_its_image_has_the_right_sign():
    phase = make_field(2, 0.3) * 1e-2
    seen = spectrum_of(scan(compute_probe(ABERRATIONS), np.exp(1j * phase)))
    aligned = reconstruct_image(OPTICS, seen, method="parallax")
    q = torch.from_numpy(K)
    even = (methods.compute_chi(OPTICS, q) + methods.compute_chi(OPTICS, -q)) / 2
    transfer = torch.sin(even).abs().numpy()
    expected = np.fft.ifft2(np.fft.fft2(phase) * transfer).real
    assert correlate(aligned.phase, expected) > 0.9
    plain = reconstruct_image(replace(OPTICS, aberrations={}), seen, method="parallax")
    assert abs(correlate(plain.phase, expected)) < 0.5
    raw = reconstruct_image(OPTICS, seen, method="parallax", flip=False)
    signed = np.fft.ifft2(np.fft.fft2(phase) * torch.sin(even).numpy()).real
    assert correlate(raw.phase, signed) > 0.9
    opposite = {name: -value for name, value in ABERRATIONS.items()}
    away = reconstruct_image(replace(OPTICS, aberrations=opposite), seen, method="parallax", flip=False)
    assert correlate(away.phase, signed) < 0.5


def test_parallax_images_may_be_finer_than_the_scan(phase):
    half = spectrum_of(scan(compute_probe(ABERRATIONS), np.exp(1j * phase), step=2))
    full = spectrum_of(scan(compute_probe(ABERRATIONS), np.exp(1j * phase)))
    fine = reconstruct_image(OPTICS, half, method="parallax", upsample=2)
    wanted = reconstruct_image(OPTICS, full, method="parallax")
    assert correlate(fine.phase, wanted.phase.numpy()) > 0.8
    finest = reconstruct_image(OPTICS, full, method="parallax", upsample=2)  # up to 2 cycles per angstrom
    index = np.fft.fftfreq(2 * SIZE, PIXEL / 2)
    beyond = np.hypot(index[:, None], index) > 2 * RADIUS  # nothing passes the aperture
    power = np.abs(np.fft.fft2(finest.phase.numpy()))
    assert power[beyond].max() < 1e-9 * power.max()


def test_the_transfer_of_dpc_is_that_of_the_probe_and_near_one_at_low_frequencies(phase):
    probe = compute_probe({})
    seen = spectrum_of(scan(probe, np.exp(1j * phase * 0.1)))
    image = reconstruct_image(IN_FOCUS, seen, method="dpc", high_pass=math.inf).phase
    ratio = np.fft.fft2(image.numpy())[0, 1:4] / np.fft.fft2(phase * 0.1)[0, 1:4]
    blur = np.fft.fft2(np.abs(probe) ** 2)[0, 1:4]
    np.testing.assert_allclose(ratio, blur.conj(), atol=0.02)
    assert abs(ratio[0] - 1) < 0.2
    period = 1 / K[0, 2, 1]
    filtered = reconstruct_image(IN_FOCUS, seen, method="dpc", high_pass=period).phase
    kept = np.fft.fft2(filtered.numpy())[0, 2] / np.fft.fft2(image.numpy())[0, 2]
    assert kept == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", ["dpc", "parallax", "wdd"])
@pytest.mark.parametrize("way", range(8))
def test_orientation_rotation_and_step_change_no_image(data, way, method):
    angle = 0.7
    turn = torch.from_numpy(turn_matrix(angle))
    lay = torch.from_numpy(orientation_matrix(way))
    stated = turn.T / 1.03  # stated positions, as rows: true @ this
    # the detector axes are turned too, so that pixels stay on a grid
    other = replace(
        data,
        frequency=data.frequency @ torch.linalg.inv(stated).T,
        place=data.place @ torch.linalg.inv(lay) / 1.02,
    )
    optics = replace(OPTICS, orientation=way, rotation=angle, step=1.03, angle=1.02)
    wider = {"semiangle": OPTICS.semiangle * 1.0001}  # the rim rounds
    plain = reconstruct_image(replace(OPTICS, **wider), data, method=method).phase
    turned = reconstruct_image(replace(optics, **wider), other, method=method).phase
    torch.testing.assert_close(turned, plain, rtol=0, atol=1e-6 * float(plain.abs().max()))


@pytest.mark.parametrize("method", ["dpc", "parallax", "wdd", "ssb", "obf"])
def test_the_twin_has_the_opposite_phase(data, method):
    one = reconstruct_image(OPTICS, data, method=method).phase
    two = reconstruct_image(OPTICS.get_twin(), data, method=method).phase
    torch.testing.assert_close(two, -one, rtol=0, atol=0.02 * float(one.abs().max()))


def test_deconvolution_returns_a_strong_object():
    phase = make_field(3, 0.3) * 0.5
    patterns = scan(compute_probe(ABERRATIONS), np.exp(1j * phase))
    everything = spectrum_of(patterns, patterns.mean((0, 1)) > 1e-9)
    exact = reconstruct_image(OPTICS, everything, method="wdd", ridge=1e-8).phase.numpy()
    blurred = np.angle(np.fft.ifft2(np.fft.fft2(np.exp(1j * phase)) * (LENGTH < 2 * RADIUS)))
    assert correlate(torch.from_numpy(exact), blurred) > 0.999
    assert np.abs(exact - blurred).max() < 0.05 * np.abs(blurred).max()
    linear = reconstruct_image(OPTICS, spectrum_of(patterns), method="least_squares").phase
    disk_only = reconstruct_image(OPTICS, spectrum_of(patterns), method="wdd", ridge=1e-3).phase
    assert correlate(disk_only, blurred) > correlate(linear, blurred)


def test_half_sets_share_the_object_but_no_electron(data, phase):
    one, two = methods.split_checkerboard(data)
    assert len(one.place) + len(two.place) == len(data.place)
    nearest = torch.cdist(one.place, one.place).fill_diagonal_(math.inf).min()
    assert float(nearest) == pytest.approx(math.sqrt(2) / (SIZE * PIXEL))
    patterns = scan(compute_probe(ABERRATIONS), np.exp(1j * phase))
    noisy = np.random.default_rng(0).poisson(patterns * 3e4).astype(float)
    seen = spectrum_of(noisy + 1e-9)
    seen = replace(seen, counts=seen.counts / DOSE)
    image = reconstruct_image(OPTICS, seen, method="obf", halves=True)
    assert image.halves is not None
    curve = ring_correlation(*(half.numpy() for half in image.halves), window="none")
    frequency = curve.frequency / PIXEL
    noise = (frequency > 0.62) & (frequency < 2 * RADIUS)
    assert curve.value[2:6].min() > 0.5
    assert abs(curve.value[noise]).max() < 0.35


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"upsample": 0}, "upsample"),
        ({"upsample": 5}, "upsample"),
        ({"method": "dpc", "upsample": 2}, "upsample"),
        ({"method": "wdd", "ridge": 0.0}, "ridge"),
        ({"method": "dpc", "high_pass": -1.0}, "high_pass"),
    ],
)
def test_options_that_make_no_sense_are_refused(data, options, place):
    with pytest.raises(BadInput, match=place):
        reconstruct_image(OPTICS, data, **options)
