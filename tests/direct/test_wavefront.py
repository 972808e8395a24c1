"""The phase of an illumination by how it displaces holograms: own numpy holograms, nothing of the package."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.near_field_acceptance import read_known
from benchmarks.near_field_scans import SimulatedHolograms, draw_case, simulate_case
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.direct.holograms import (
    follow_displacement,
    integrate_displacement,
    separate_illumination,
    separate_scan,
)
from phaseloom.ptycho.canvas import Canvas

SMALL = {"side": 64, "places": 7, "step": 5.0, "counts": 1500.0, "fresnel": 0.06, "specimen": "cells"}
SMALL |= {"source": 0.0, "blur": 0.3, "position_error": 0.2, "absorption": 0.02, "phase": 1.0}
SMALL |= {"pixel": 1500.0, "magnification": 1.0, "distance_error": 0.0, "flat_error": 0.005}


def smooth(rng: np.random.Generator, shape: tuple[int, int], width: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.normal(size=shape), width)
    return noise / noise.std()


@pytest.mark.parametrize("strength", [0.0, 0.8])
def test_a_displaced_hologram_is_found_with_its_displacement(strength: float) -> None:
    rng = np.random.default_rng(3)
    truth = 0.3 * smooth(rng, (100, 101), 1.5)
    moved = strength * np.stack([smooth(rng, (60, 61), 6.0) for _ in range(2)])
    where = np.indices((60, 61), dtype=float)
    design = np.stack([np.ones(60 * 61), *where.reshape(2, -1)], 1)
    linear = np.linalg.lstsq(design, moved.reshape(2, -1).T, rcond=None)[0]
    moved -= (design @ linear).T.reshape(moved.shape)  # what wrong steps and distances make, too
    places = np.indices((7, 7)).reshape(2, -1).T * 6.0 + rng.uniform(0, 3, (49, 2))
    beam = 1e4 * np.exp(0.3 * smooth(rng, (60, 61), 3.0))
    light = [ndimage.map_coordinates(truth, where + moved + p[:, None, None], order=3) for p in places]
    counts = rng.poisson(beam * np.exp(np.stack(light))).astype(float)
    room = Canvas((100, 101), (60, 61), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    mask = np.ones((60, 61), bool)
    plain = separate_illumination(counts, np.round(places).astype(int), room, mask)
    found = follow_displacement(plain, counts, places, mask)
    assert found.displacement is not None
    inside = (slice(None), slice(4, -4), slice(4, -4))
    error = (found.displacement - moved)[inside]
    assert np.sqrt((error**2).mean()) < 0.15 * max(strength, 1)
    lit = found.taper() > 0.9
    agreement = [np.corrcoef(one.hologram[lit], truth[lit])[0, 1] for one in (plain, found)]
    assert agreement[1] > 0.97
    assert agreement[1] > agreement[0] - 1e-3


@cache
def simulated(diffuser: float, fills: bool) -> tuple[np.ndarray, Scan4D]:
    """The wave on the detector without an object, and the scan."""
    case = draw_case(51, **SMALL, diffuser=diffuser, fills=fills)
    bare = simulate_case(case)
    data = prepare.mask(
        read_known(case, SimulatedHolograms(bare.counts, bare.known, bare.truth)), outliers=True
    )
    return bare.truth["wave"], data


@pytest.mark.parametrize("fills", [True, False])
@pytest.mark.parametrize("diffuser", [0.8, 1.6])
def test_the_phase_of_a_diffuser_is_found(diffuser: float, fills: bool) -> None:
    wave, scan = simulated(diffuser, fills)
    own = separate_scan(scan)
    amplitude = np.sqrt(own.illumination)
    phase = integrate_displacement(own, scan.geometry)

    def agree(phase: np.ndarray) -> float:
        guess = amplitude * np.exp(1j * phase)
        return float(abs(np.vdot(guess, wave)) / np.linalg.norm(guess) / np.linalg.norm(wave))

    assert agree(phase) > agree(0 * phase) + 0.1
    assert agree(-phase) < agree(0 * phase)
