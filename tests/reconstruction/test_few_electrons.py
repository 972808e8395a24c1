"""Few electrons, a finite source: the prior leaves the object its contrast, the error bar covers its error.

Scans are drawn here with numpy alone: a random phase whose power is known, a beam averaged over its source.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.recipe import DirectResult
from phaseloom.direct.reconstruct import reconstruct_scan
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts.first_image import estimate_object_power
from phaseloom.result import Provenance

WAVELENGTH = 0.0250793  # angstrom, 200 kV
SEMIANGLE = 25e-3
DEFOCUS = 150.0
STEP = 1.2  # more than twice what the aperture resolves: the direct image is finer than the scan
SIDE = 20
WINDOW = 48
ANGLE = SEMIANGLE / 12
PIXEL = WAVELENGTH / ANGLE / WINDOW
MARGIN = WINDOW // 2 + 4
LOWEST = 0.08


@dataclass(frozen=True)
class Specimen:
    """A phase, and its power by frequency."""

    phase: np.ndarray
    height: float

    def power(self, frequency):
        """Radian squared angstrom squared: that of blobs and of atoms of a width."""
        blobs = 12 / (1 + (frequency / LOWEST) ** 4)
        return self.height * (blobs + 1) * np.exp(-((frequency / 0.5) ** 4))


def make_specimen(seed, height):
    """A normal random phase of that power on the pixels of the patterns, and its first place."""
    count = int(STEP * (SIDE - 1) / PIXEL) + 2 * MARGIN
    frequency = np.fft.fftfreq(count, PIXEL)
    power = Specimen(np.zeros(0), height).power(np.hypot(frequency[:, None], frequency[None]))
    noise = np.random.default_rng(seed).normal(size=(count, count))
    phase = np.fft.ifft2(np.fft.fft2(noise) * np.sqrt(power) / PIXEL).real
    return Specimen(phase, height)


@cache
def make_means(seed, height, source):
    """Expected patterns of one electron each, positions in angstrom, and the specimen."""
    specimen = make_specimen(seed, height)
    wave = np.exp(1j * specimen.phase)
    f = np.fft.fftfreq(WINDOW, PIXEL)
    square = f[:, None] ** 2 + f[None] ** 2
    pupil = (np.sqrt(square) * WAVELENGTH < SEMIANGLE) * np.exp(1j * np.pi * WAVELENGTH * DEFOCUS * square)
    nodes, shares = hermegauss(3) if source else (np.zeros(1), np.ones(1))
    shares = shares / shares.sum()
    grid = (np.arange(SIDE) * STEP)[:, None] + np.zeros(SIDE)
    positions = np.stack([grid.ravel(), grid.T.ravel()], 1)
    patterns = np.zeros((len(positions), WINDOW, WINDOW))
    for index, place in enumerate(positions / PIXEL + MARGIN):
        corner = np.round(place).astype(int) - WINDOW // 2
        window = wave[corner[0] : corner[0] + WINDOW, corner[1] : corner[1] + WINDOW]
        for y, one in zip(nodes, shares, strict=True):
            for x, other in zip(nodes, shares, strict=True):
                rest = (place - corner) * PIXEL + np.array([y, x]) * source
                ramp = np.exp(-2j * np.pi * f * rest[0])[:, None] * np.exp(-2j * np.pi * f * rest[1])
                exit_wave = np.fft.ifft2(pupil * ramp) * window
                patterns[index] += one * other * abs(np.fft.fft2(exit_wave)) ** 2
    patterns /= patterns.sum((1, 2)).mean()
    return np.fft.fftshift(patterns, axes=(1, 2)), positions, specimen


def draw_scan(seed, height, source, electrons):
    patterns, positions, specimen = make_means(seed, height, source)
    counts = np.random.default_rng(seed + 1).poisson(patterns * electrons).astype(np.float32)
    geometry = Geometry(wavelength=WAVELENGTH, shape=(WINDOW, WINDOW), angle=(ANGLE, ANGLE), beam="electron")
    return Scan4D(counts=counts, positions=positions, geometry=geometry, grid=(SIDE, SIDE)), specimen


def run(scan, source, prior):
    focused = {"semiangle": f"{SEMIANGLE} rad", "defocus": f"{DEFOCUS} A"}
    focused |= {"source_size": f"{source} A", "modes": 5} if source else {"modes": 1}
    tree = {
        "probe": {"focused": focused},
        "object_prior": prior,
        "found": {"calibrate": {"defocus": "known"}},
        "rates": {"object": 0.2, "probe": 0.4},
        "epochs": 20,
        "preset": "none",
    }
    job = Job.begin(Reconstruct.of(tree), scan=scan)
    for _ in job:
        pass
    return job.result()


def compare(result, specimen):
    """Correlation, contrast over that of the truth, and error over sigma, inside of the scan."""
    phase = np.angle(result.object)[0]
    first = np.round(np.asarray(result.origin) / np.asarray(result.pixel)).astype(int)
    inside = slice(6, int(STEP * (SIDE - 1) / PIXEL) - 6)
    here = tuple(slice(inside.start - n, inside.stop - n) for n in first)
    there = slice(inside.start + MARGIN, inside.stop + MARGIN)
    wave = np.exp(1j * phase[here])
    found = np.angle(wave * wave.mean().conj())
    known = specimen.phase[there, there]
    plane = np.stack([np.ones(found.size), *(one.ravel() for one in np.indices(found.shape))], 1)
    found, known = (
        one.ravel() - plane @ np.linalg.lstsq(plane, one.ravel(), rcond=None)[0] for one in (found, known)
    )
    sigma = np.sqrt((result.uncertainty.sigma[0][here] ** 2).mean())
    contrast = found @ known / (known @ known)
    return np.corrcoef(found, known)[0, 1], contrast, (found - known).std() / sigma


@pytest.mark.parametrize("upsample", [1, 2, 3])
def test_the_power_of_an_object_is_that_of_its_phase_however_fine_the_image(upsample):
    scan, specimen = draw_scan(1, 5e-4, 0.0, 1e6)
    optics = {"semiangle": SEMIANGLE, "aberrations": {"defocus": DEFOCUS}, "fit": False}
    found = reconstruct_scan(scan, upsample=upsample, **optics)
    image = DirectResult(found, scan, Provenance.now(seed=0, data=scan.digest(), file="scan"))
    power = estimate_object_power(image)
    seen = np.array([0.25, 0.3, 0.35])
    ratio = power.evaluate(seen) / specimen.power(seen)
    # a raster that shows less than there is folds the rest of it into what it shows
    assert (ratio > 0.5).all()
    assert (ratio < (2 if upsample > 1 else 4)).all()


def test_below_the_first_ring_that_is_seen_power_rises_as_that_of_the_object():
    scan, specimen = draw_scan(2, 1e-3, 0.0, 2e3)
    optics = {"semiangle": SEMIANGLE, "aberrations": {"defocus": DEFOCUS}, "fit": False}
    found = reconstruct_scan(scan, **optics)
    image = DirectResult(found, scan, Provenance.now(seed=0, data=scan.digest(), file="scan"))
    power = estimate_object_power(image)
    low, high = np.array([0.06]), np.array([0.2])
    rise = power.evaluate(low) / power.evaluate(high)
    assert 0.3 < rise[0] / (specimen.power(low) / specimen.power(high))[0] < 4


@pytest.mark.medium
@pytest.mark.parametrize("source", [0.0, 0.2])
def test_the_prior_of_few_electrons_shows_more_and_keeps_contrast(source):
    scan, specimen = draw_scan(3, 1.5e-3, source, 2e3)
    free, held = (compare(run(scan, source, prior), specimen) for prior in ("none", "direct"))
    assert held[0] > free[0] + 0.1
    assert held[1] > 0.6 * free[1]  # what a Wiener filter of this power takes


@pytest.mark.medium
@pytest.mark.parametrize("electrons", [1e3, 5e3])
def test_the_error_bar_of_an_object_held_by_a_prior_covers_its_error(electrons):
    scan, specimen = draw_scan(4, 1.5e-3, 0.2, electrons)
    result = run(scan, 0.2, "direct")
    assert 0.5 < compare(result, specimen)[2] < 1.5
    assert "prior" in result.uncertainty.reasons
