"""Probes, wavelengths and flight mean what abTEM means by them.

abTEM's arrays run ``(x, y)`` and ours ``(y, x)``. Its propagator is cut off at two thirds of the largest
frequency: flight is compared inside that band.
"""

import math
import warnings

import numpy as np
import pytest
import torch

from phaseloom.physics.fourier import frequencies
from phaseloom.physics.optics import electron_wavelength, interaction, probe_wave
from phaseloom.physics.propagate import fly, fresnel

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    abtem = pytest.importorskip("abtem")
    from abtem.core.energy import energy2sigma, energy2wavelength


ENERGY, SEMIANGLE = 80e3, 25.3
ABERRATIONS = {
    "in focus": {},
    "defocus": {"C10": -120.0},
    "astigmatism": {"C10": 60.0, "C12": 45.0, "phi12": 0.6},
    "coma": {"C21": 900.0, "phi21": -0.4},
    "three-fold": {"C23": 700.0, "phi23": 0.9},
    "spherical": {"C10": -80.0, "C30": 2e5},
    "third order": {"C32": 5e4, "phi32": 0.3, "C34": 6e4, "phi34": -0.7},
    "high orders": {"C41": 1e6, "phi41": 0.2, "C45": 1e6, "phi45": 0.5, "C50": 1e8, "C56": 4e7, "phi56": 0.1},
}
ABERRATIONS["all"] = {name: value for named in ABERRATIONS.values() for name, value in named.items()}


@pytest.fixture(autouse=True)
def double():
    with abtem.config.set({"precision": "float64"}):
        yield


def theirs(shape, pixel, aberrations):
    probe = abtem.Probe(
        energy=ENERGY,
        semiangle_cutoff=SEMIANGLE,
        gpts=shape[::-1],
        sampling=pixel[::-1],
        aberrations=aberrations,
        soft=False,
    )
    return probe.build(lazy=False)


def unit(wave):
    wave = np.asarray(wave).squeeze().T
    return wave / np.linalg.norm(wave)


@pytest.mark.parametrize(("shape", "pixel"), [((64, 64), (0.2, 0.2)), ((48, 60), (0.25, 0.21))], ids=str)
@pytest.mark.parametrize("name", ABERRATIONS)
def test_probes_agree(name, shape, pixel):
    expected = unit(theirs(shape, pixel, ABERRATIONS[name]).array)
    wave = probe_wave(
        shape,
        pixel,
        wavelength=electron_wavelength(ENERGY),
        semiangle=SEMIANGLE * 1e-3,
        aberrations=ABERRATIONS[name],
        dtype=torch.complex128,
    ).numpy()
    overlap = np.vdot(expected, wave)
    np.testing.assert_allclose(wave, expected * overlap / abs(overlap), atol=1e-6)
    assert abs(np.angle(overlap)) < 1e-6


@pytest.mark.parametrize("energy", [20e3, 80e3, 200e3, 300e3])
def test_wavelength_and_interaction_agree(energy):
    assert electron_wavelength(energy) == pytest.approx(energy2wavelength(energy), rel=1e-7)
    assert interaction(energy) == pytest.approx(energy2sigma(energy), rel=1e-6)


@pytest.mark.parametrize("distance", [15.0, -70.0])
def test_flights_agree_inside_their_band(distance):
    from abtem.multislice import FresnelPropagator

    shape, pixel = (48, 60), (0.25, 0.21)
    waves = theirs(shape, pixel, {"C10": 30.0, "C12": 20.0, "phi12": 0.4})
    here = torch.as_tensor(np.asarray(waves.array).squeeze().T.copy(), dtype=torch.complex128)
    there = np.asarray(FresnelPropagator().propagate(waves, distance).array).squeeze().T
    kernel = fresnel(shape, pixel, electron_wavelength(ENERGY), torch.tensor(distance, dtype=torch.float64))
    ours = fly(here[None], kernel)[0].numpy()
    y, x = frequencies(shape, pixel, like=kernel.real)
    inside = (torch.sqrt(y**2 + x**2) < 0.64 / (2 * max(pixel))).numpy()
    a, b = (np.fft.fft2(wave) * inside for wave in (ours, there))
    assert math.isclose(np.linalg.norm(a), np.linalg.norm(np.fft.fft2(ours)), rel_tol=1e-9)
    np.testing.assert_allclose(a, b, atol=1e-6 * abs(a).max())
