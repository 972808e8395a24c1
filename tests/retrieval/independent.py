"""A scan that this package did not make: a phase object and a probe with numpy's FFT alone."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from phaseloom.data.scan import Geometry, Scan4D

WAVELENGTH = 0.0417571  # angstrom, of 80 keV
SEMIANGLE = 0.020
DEFOCUS = 90.0  # angstrom, under-focus
STEP = 2.0
PIXEL = 0.25  # of the object, angstrom
WINDOW = 128  # pixels of a wave: 1.305 mrad a sample, to 83 mrad


@dataclass(frozen=True)
class Detector:
    """Where and how patterns are recorded.

    Attributes:
        pixels: along each side.
        angle: of a pixel, radian.
        offset: (y, x) pixels by which zero angle lies beyond ``n // 2``.
        rotation: of the scan against it, radian from rows towards columns.
    """

    pixels: int = 32
    angle: float = 2.4e-3
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0


@cache
def make_phase(size: int, seed: int = 0) -> np.ndarray:
    """Atoms as Gaussians on a turned lattice of two kinds, with vacancies and an edge; radian, periodic."""
    rng = np.random.default_rng(seed)
    y, x = (np.fft.fftfreq(size, PIXEL) for _ in range(2))
    turn = 0.3
    basis = 3.7 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    index = np.stack(np.meshgrid(*[np.arange(-60, 60)] * 2, indexing="ij"), -1).reshape(-1, 2)
    spectrum = np.zeros((size, size), complex)
    for strength, shift in ((6.0, (0.0, 0.0)), (2.5, (0.5, 0.5))):
        places = (index + shift) @ basis
        inside = (np.abs(places - size * PIXEL / 2) < size * PIXEL / 2).all(1)
        inside &= rng.uniform(size=len(places)) > 0.05
        inside &= places @ (0.8, 0.6) < 0.85 * size * PIXEL
        places = places[inside] + rng.normal(0, 0.05, (inside.sum(), 2))
        down, along = (
            np.exp(-2j * np.pi * np.outer(k, at)) for k, at in ((y, places[:, 0]), (x, places[:, 1]))
        )
        spectrum += strength * down @ along.T
    damping = np.exp(-2 * (np.pi * 0.35) ** 2 * (y[:, None] ** 2 + x**2))
    return np.fft.ifft2(spectrum * damping).real / PIXEL**2 * 0.1


@cache
def record(
    detector: Detector, scan: int = 16, electrons: float | None = None, *, noise: int = 1
) -> tuple[Scan4D, np.ndarray]:
    """The scan, and the phase on five pixels to a step from one step before the first probe, to 0.83 1/A."""
    size = int(np.ceil((1.5 * STEP * scan + WINDOW * PIXEL) / PIXEL))
    phase = make_phase(size)
    line = STEP * (np.arange(scan) - (scan - 1) / 2)
    nominal = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    cosine, sine = np.cos(detector.rotation), np.sin(detector.rotation)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    k = np.fft.fftfreq(WINDOW, PIXEL)
    square = k[:, None] ** 2 + k**2
    # positive defocus is under-focus: chi = -pi wavelength defocus k^2, the wave exp(-i chi)
    lens = (np.sqrt(square) * WAVELENGTH <= SEMIANGLE) * np.exp(1j * np.pi * WAVELENGTH * DEFOCUS * square)
    lens /= np.sqrt((np.abs(lens) ** 2).sum())
    transmission = np.exp(1j * phase)
    shares = _share_pixels(detector)
    counts = np.empty((scan**2, detector.pixels, detector.pixels), np.float32)
    for number, place in enumerate(nominal @ turn + size * PIXEL / 2):
        corner = np.floor(place / PIXEL).astype(int) - WINDOW // 2
        rest = place - corner * PIXEL
        ramp = np.exp(-2j * np.pi * (k[:, None] * rest[0] + k * rest[1]))
        wave = np.fft.ifft2(lens * ramp, norm="ortho")
        wave = wave * transmission[corner[0] : corner[0] + WINDOW, corner[1] : corner[1] + WINDOW]
        far = np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2
        counts[number] = shares[0] @ far @ shares[1].T
    if electrons is not None:
        counts = np.random.default_rng(noise).poisson(electrons * counts.clip(0)).astype(np.float32)
    geometry = Geometry(
        wavelength=WAVELENGTH, shape=counts.shape[1:], angle=(detector.angle,) * 2, beam="electron"
    )
    positions = nominal @ turn
    return Scan4D(counts=counts, positions=positions, geometry=geometry), _sample(phase, scan, turn)


def _share_pixels(detector: Detector) -> list[np.ndarray]:
    """Which part of each sample of a wave falls on each detector pixel."""
    unit = WAVELENGTH / (WINDOW * PIXEL)
    fine = (np.arange(WINDOW) - WINDOW // 2) * unit
    out = []
    for offset in detector.offset:
        middle = (np.arange(detector.pixels) - detector.pixels // 2 - offset) * detector.angle
        low = np.maximum(middle[:, None] - detector.angle / 2, fine - unit / 2)
        high = np.minimum(middle[:, None] + detector.angle / 2, fine + unit / 2)
        out.append(np.clip(high - low, 0, None) / unit)
    return out


def _sample(phase: np.ndarray, scan: int, turn: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    k = np.fft.fftfreq(len(phase), PIXEL)
    smooth = np.fft.ifft2(np.fft.fft2(phase) * (np.hypot(k[:, None], k) < 0.83)).real
    line = STEP * (np.arange(5 * (scan - 1) + 11) / 5 - 1 - (scan - 1) / 2)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1) @ turn + len(phase) * PIXEL / 2
    return map_coordinates(smooth, np.moveaxis(places, -1, 0) / PIXEL, order=3, mode="grid-wrap")
