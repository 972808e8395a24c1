"""Simulated film of polar domains with ground-truth labels, to test methods that cluster patterns.

The specimen is a perovskite whose cations are displaced along one of four directions, domain by domain, and
beside it vacuum. Its thickness and its orientation change slowly over the field, as they do in a real film,
and change the patterns more than the polarisation does.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import atoms, detect, optics, patches, propagate
from phaseloom.physics.fourier import shift_to_centre
from phaseloom.physics.propagate import multislice
from phaseloom.simulation.simulate import raster
from phaseloom.units import electron_wavelength

__all__ = ["LabelledScan", "polar_film"]

BEAM_ENERGY = 200e3  # eV
BEAM_SEMIANGLE = 3.5e-3  # radian; disks do not touch
WAVE_PIXEL = 0.373  # angstrom
WAVE_WINDOW = 96  # pixels; reflections to 22 mrad are kept
# Of the detector, among the pixels of the waves' transform.
DETECTOR_PIXELS = slice(WAVE_WINDOW // 2 - 32, WAVE_WINDOW // 2 + 32)
# Atomic number, place along the edges, and displacement along the polarisation, angstrom.
CELL_ATOMS = (
    (38, 0.0, 0.0, 0.0),
    (22, 0.5, 0.5, 0.2),
    (8, 0.5, 0.5, -0.3),
    (8, 0.0, 0.5, -0.3),
    (8, 0.5, 0.0, -0.3),
)

LATTICE_CONSTANT = 3.905  # angstrom
CELLS_PER_SLICE = 3  # cells along the beam in a slice of the thickest part
SLICE_COUNT = 8
# Polarisation (y, x) of each label: none in vacuum, then up, right, down, left.
POLARISATION_DIRECTIONS = np.array([[0.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
DOMAIN_SIZE = 60.0  # of a domain, angstrom
PROBES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A simulated scan with its ground truth.

    Attributes:
        scan: counts.
        expected: ``(n, y, x)`` counts without shot noise.
        labels: ``(n,)`` 0 in vacuum, 1 to 4 for a polarisation up, right, down, left.
        thickness: ``(n,)`` angstrom; zero in vacuum.
    """

    scan: Scan4D
    expected: np.ndarray
    labels: np.ndarray
    thickness: np.ndarray


def polar_film(
    *,
    grid: tuple[int, int] = (64, 64),
    step: float = 4.0,
    pixels: int = 64,
    dose: float = 3e4,
    mistilt: float = 1.5e-3,
    seed: int = 0,
) -> LabelledScan:
    """Nanobeam patterns of a polar film: 200 kV, 3.5 mrad, a wedge from 33 to 94 angstrom, beside vacuum.

    Args:
        grid: probes (rows, columns).
        step: between them, angstrom.
        pixels: of the square detector, whose range is 22 mrad to either side: 32 or 64 of them.
        dose: electrons per pattern.
        mistilt: standard deviation of the orientation along each axis, radian.
        seed: of domains, orientations and counts.

    Raises:
        BadInput: another number of pixels.

    Example:
        >>> film = polar_film(grid=(3, 4), pixels=32)
        >>> film.scan.counts.shape, film.labels.shape
        ((12, 32, 32), (12,))
    """
    if pixels not in (32, 64):
        raise BadInput("polar_film: pixels", pixels, "is not 32 or 64")
    rng = np.random.default_rng(seed)
    places = raster(grid, step)
    places = places - places.min(0)
    margin = WAVE_WINDOW // 2 * WAVE_PIXEL + LATTICE_CONSTANT
    field = places.max(0) + 2 * margin
    labels, phase = _make_film(field, rng)
    share = 0.35 + 0.65 * places[:, 1] / max(places[:, 1].max(), step)
    tilts = _draw_smooth(grid, rng) * mistilt
    corner = torch.from_numpy(np.rint((places + margin) / WAVE_PIXEL).astype(np.int64) - WAVE_WINDOW // 2)
    expected = (
        _simulate_patterns(phase, corner, torch.from_numpy(share), torch.from_numpy(tilts), pixels) * dose
    )
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    counts = detect.draw_counts(expected, generator=generator).numpy().astype(np.uint16)
    wavelength = electron_wavelength(BEAM_ENERGY)
    angle = wavelength / (WAVE_WINDOW * WAVE_PIXEL) * (64 // pixels)
    geometry = Geometry(wavelength=wavelength, shape=(pixels, pixels), angle=(angle, angle), beam="electron")
    here = labels(places + margin)
    thick = np.where(here > 0, share * CELLS_PER_SLICE * SLICE_COUNT * LATTICE_CONSTANT, 0.0)
    scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=grid)
    return LabelledScan(scan, expected.numpy(), here, thick)


class _DomainMap:
    """Which label a place has: that of the nearest centre of a domain, beyond a wavy edge none."""

    def __init__(self, field: np.ndarray, rng: np.random.Generator):
        count = max(8, math.ceil(float(np.prod(field)) / DOMAIN_SIZE**2))
        self.centres = rng.uniform(0, field, (count, 2))
        self.labels = rng.permutation(np.arange(count) % 4) + 1
        self.edge = 0.12 * field[0] + rng.uniform(-5, 5)
        self.wave = rng.uniform(0, 2 * np.pi)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        far = ((places[:, None] - self.centres) ** 2).sum(-1)
        edge = self.edge + 8 * np.sin(places[:, 1] / 30 + self.wave)
        return np.where(places[:, 0] < edge, 0, self.labels[far.argmin(1)])


def _make_film(field: np.ndarray, rng: np.random.Generator) -> tuple[_DomainMap, Tensor]:
    """The map of labels, and the phase ``(y, x)`` of a slice of the thickest part, radian."""
    labels = _DomainMap(field, rng)
    shape = tuple(int(n) for n in np.ceil(field / WAVE_PIXEL))
    rows, columns = (np.arange(0, n * WAVE_PIXEL - LATTICE_CONSTANT, LATTICE_CONSTANT) for n in shape)
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    corners = corners[labels(corners + LATTICE_CONSTANT / 2) > 0]
    along = POLARISATION_DIRECTIONS[labels(corners + LATTICE_CONSTANT / 2)]
    where = np.concatenate(
        [corners + LATTICE_CONSTANT * np.array([y, x]) + off * along for _, y, x, off in CELL_ATOMS]
    )
    kinds = np.repeat([number for number, *_ in CELL_ATOMS], len(corners))
    volts = atoms.project_potential(
        torch.from_numpy(where).float(),
        torch.from_numpy(kinds),
        (shape[0], shape[1]),
        (WAVE_PIXEL, WAVE_PIXEL),
        vibration=0.09,
        band=2 / 3,
    )
    return labels, CELLS_PER_SLICE * optics.interaction(BEAM_ENERGY) * volts


def _draw_smooth(grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Two numbers for each probe, that change slowly, of standard deviation one."""
    out = np.stack([gaussian_filter(rng.normal(size=grid), 8, mode="wrap") for _ in range(2)], -1)
    return (out / out.std((0, 1))).reshape(-1, 2)


def _simulate_patterns(phase: Tensor, corner: Tensor, share: Tensor, tilts: Tensor, pixels: int) -> Tensor:
    """Patterns ``(n, y, x)`` of so many pixels each way, shares of the beam."""
    size = (WAVE_WINDOW, WAVE_WINDOW)
    pixel = (WAVE_PIXEL, WAVE_PIXEL)
    wavelength = electron_wavelength(BEAM_ENERGY)
    probe = optics.probe_wave(
        size, pixel, wavelength=wavelength, semiangle=BEAM_SEMIANGLE, aberrations={}, dtype=torch.complex64
    )
    band = _make_band_limit(size)
    weights = detect.area_weights(64, pixels)
    out = torch.empty(len(corner), pixels, pixels)
    for index in torch.arange(len(corner)).split(PROBES_AT_ONCE):
        thin = patches.gather(phase, corner[index], size) * share[index, None, None].float()
        slices = torch.polar(torch.ones_like(thin), thin)[:, None].expand(-1, SLICE_COUNT, -1, -1)
        gap = share[index] * CELLS_PER_SLICE * LATTICE_CONSTANT
        kernel = propagate.fresnel(size, pixel, wavelength, gap)
        kernel = kernel * propagate.tilt_ramp(size, pixel, gap, tilts[index]) * band
        leaving = multislice(
            probe[None, None].expand(len(index), 1, -1, -1),
            slices,
            [kernel[:, None].to(torch.complex64)] * (SLICE_COUNT - 1),
        )
        intensity = shift_to_centre(detect.intensity(propagate.far_field(leaving)))[
            :, DETECTOR_PIXELS, DETECTOR_PIXELS
        ]
        out[index] = weights @ intensity @ weights.T
    return out


def _make_band_limit(size: tuple[int, int]) -> Tensor:
    """Two thirds of the frequencies along each axis, which products do not fold back."""
    y, x = (torch.fft.fftfreq(n).abs() <= 1 / 3 for n in size)
    return (y[:, None] & x).float()
