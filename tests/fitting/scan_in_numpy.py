"""A multislice scan computed by NumPy alone, with faults of an instrument, in a file of this package."""

from pathlib import Path

import numpy as np

from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D

WAVELENGTH = 0.0418
"""Of 80 keV, angstrom."""

PIXEL = 0.25
WINDOW = 24
GAP = 12.0
"""Between two slices, angstrom."""


def make_probe(defocus: float, semiangle: float = 0.03) -> np.ndarray:
    """Two modes of a defocused aperture, the middle at ``[N // 2, N // 2]``, of power one together."""
    axis = np.fft.fftfreq(WINDOW, PIXEL)
    square = axis[:, None] ** 2 + axis[None] ** 2
    soft = np.clip((semiangle / WAVELENGTH - np.sqrt(square)) * WINDOW * PIXEL + 0.5, 0, 1)
    pupil = soft * np.exp(1j * np.pi * WAVELENGTH * defocus * square)
    first = np.fft.fftshift(np.fft.ifft2(pupil))
    second = np.fft.fftshift(np.fft.ifft2(pupil * axis[None] * 0.6))
    modes = np.stack([first, second * 0.4 * np.linalg.norm(first) / np.linalg.norm(second)])
    return modes / np.linalg.norm(modes)


def make_slices(shape: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """Slices with Gaussian atoms of either sign at random places, which absorb a little."""
    draw = np.random.default_rng(seed)
    y, x = np.indices(shape)
    out = np.zeros((count, *shape))
    for one in out:
        for row, column in draw.uniform((0, 0), shape, (shape[0] * shape[1] // 60, 2)):
            top, left = max(int(row) - 6, 0), max(int(column) - 6, 0)
            part = (slice(top, int(row) + 7), slice(left, int(column) + 7))
            one[part] += draw.uniform(-0.1, 0.4) * np.exp(
                -((y[part] - row) ** 2 + (x[part] - column) ** 2) / 5
            )
    return np.exp((1j - 0.05) * out)


def make_scan(
    path: Path,
    *,
    lines: tuple[int, int] = (10, 14),
    slices: int = 1,
    dose: float = 2e4,
    defocus: float = 250.0,
    error: float = 0.0,
    grid: bool = True,
) -> np.ndarray:
    """Write a scan: a jittered raster, or without ``grid`` its places in random order; returns the slices.

    Counts are Poisson's, with half a count of dark level, a dead row that is masked, shots of changing
    intensity, and positions in the file that are off by ``error`` pixels (rms).
    """
    draw = np.random.default_rng(5)
    step = 4.0
    places = np.stack(np.meshgrid(*(np.arange(n) * step for n in lines), indexing="ij"), -1).reshape(-1, 2)
    places = places + draw.uniform(-0.7, 0.7, places.shape) + WINDOW // 2 + 4
    if not grid:
        places = places[draw.permutation(len(places))]
    shape = tuple((places.max(0) + WINDOW // 2 + 6).astype(int).tolist())
    truth = make_slices((shape[0], shape[1]), slices, seed=6)
    modes = make_probe(defocus)
    axis = np.fft.fftfreq(WINDOW, PIXEL)
    square = axis[:, None] ** 2 + axis[None] ** 2
    flight = np.exp(-1j * np.pi * WAVELENGTH * GAP * square)
    ramp = np.fft.fftfreq(WINDOW)
    mask = np.ones((WINDOW, WINDOW), bool)
    mask[3] = False
    counts = []
    for place in places:
        corner = np.round(place).astype(int) - WINDOW // 2
        rest = place - np.round(place)
        shift = np.exp(-2j * np.pi * (ramp[:, None] * rest[0] + ramp[None] * rest[1]))
        wave = np.fft.ifft2(np.fft.fft2(modes) * shift)
        for number, one in enumerate(truth):
            wave = wave * one[corner[0] : corner[0] + WINDOW, corner[1] : corner[1] + WINDOW]
            if number < len(truth) - 1:
                wave = np.fft.ifft2(np.fft.fft2(wave) * flight)
        far = np.fft.fftshift((abs(np.fft.fft2(wave, norm="ortho")) ** 2).sum(0))
        counts.append(draw.poisson(dose * draw.uniform(0.9, 1.1) * far + 0.5) * mask)
    geometry = Geometry(
        wavelength=WAVELENGTH, shape=(WINDOW, WINDOW), angle=(WAVELENGTH / (WINDOW * PIXEL),) * 2
    )
    told = (places + error * draw.normal(size=places.shape)) * PIXEL
    scan = Scan4D(
        counts=np.array(counts, np.uint16),
        positions=told,
        geometry=geometry,
        mask=mask,
        grid=lines if grid else None,
        probe=(modes * np.sqrt(dose)).astype(np.complex64),
    )
    native.write(scan, path)
    return truth
