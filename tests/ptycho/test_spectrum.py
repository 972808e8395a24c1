"""Beams of several wavelengths: patterns by sums over the wave at each frequency, without a grid."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import shift_to_centre
from phaseloom.ptycho import detectors

SIDE, ANGLE = 24, 2e-4
GEOMETRY = Geometry(wavelength=1.2, shape=(SIDE, SIDE), angle=(ANGLE, ANGLE), distance=1e10)


def make_scan(**more) -> Any:
    known = {"counts": np.ones((2, SIDE, SIDE)), "positions": np.zeros((2, 2)), "geometry": GEOMETRY}
    return Scan4D(**(known | more))


def make_wave(seed: int = 0) -> np.ndarray:
    """An exit wave in the middle of its window, dark at the rim."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    envelope = np.exp(-(y**2 + x**2) / (2 * 3.0**2))
    return envelope * np.exp(0.5j * rng.normal(size=envelope.shape)).astype(np.complex128)


def sum_far_field(wave: np.ndarray, ratio: float) -> np.ndarray:
    """Intensity on the detector's pixels at a wavelength, by the definition of the transform."""
    places = np.arange(SIDE) - SIDE // 2
    table = np.exp(-2j * np.pi * np.outer(places / ratio, places) / SIDE)
    return np.abs(table @ wave @ table.T / SIDE) ** 2 / ratio**2


def see(detector: Any, wave: np.ndarray) -> np.ndarray:
    far = np.fft.fft2(wave, norm="ortho")
    batch = torch.from_numpy(np.stack([far, far])[:, None])
    return shift_to_centre(detector.double()(batch, torch.arange(2))).detach().numpy()[0]


def test_a_table_of_energies_adds_the_patterns_of_each(tmp_path):
    energy = GEOMETRY.energy
    rows = [(0.97 * energy, 1.0), (energy, 3.0), (1.02 * energy, 2.0)]
    np.savetxt(tmp_path / "spectrum.csv", rows, delimiter=",")
    detector: Any = detectors.counting(make_scan(), spectrum=tmp_path / "spectrum.csv")
    wave = make_wave()
    wanted = sum(n / 6 * sum_far_field(wave, energy / e) for e, n in rows)
    known = shift_to_centre(detector.mask).numpy()
    assert known[2:-2, 2:-2].all()
    assert not known.all()  # at the rim other wavelengths see beyond the grid
    np.testing.assert_allclose(see(detector, wave)[known], wanted[known], rtol=0, atol=3e-3 * wanted.max())


@pytest.mark.parametrize("bandwidth", [0.01, 0.1])
def test_a_bandwidth_is_a_gaussian_spectrum(bandwidth):
    """Beside a fine sum over the same Gaussian."""
    detector: Any = detectors.counting(make_scan(), bandwidth=bandwidth)
    wave = make_wave(1)
    offset = np.linspace(-2, 2, 201)
    shares = np.exp(-4 * np.log(2) * offset**2)
    wanted = sum(n * sum_far_field(wave, 1 + bandwidth * at) for n, at in zip(shares, offset, strict=True))
    wanted /= shares.sum()
    known = shift_to_centre(detector.mask).numpy()
    np.testing.assert_allclose(see(detector, wave)[known], wanted[known], rtol=0, atol=4e-3 * wanted.max())


def test_a_narrow_band_is_one_wavelength_and_photons_are_kept():
    wave = make_wave(2)
    plain = see(detectors.counting(make_scan()), wave)
    narrow: Any = detectors.counting(make_scan(), bandwidth=1e-6)
    known = shift_to_centre(narrow.mask).numpy()
    np.testing.assert_allclose(see(narrow, wave)[known], plain[known], rtol=0, atol=3e-3 * plain.max())
    smooth = np.exp(-(np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE // 2)) ** 2) / 18).astype(complex)
    wide = see(detectors.counting(make_scan(), bandwidth=0.1), smooth)
    assert wide.sum() == pytest.approx((abs(smooth) ** 2).sum(), rel=0.01)


def test_the_slope_of_a_misfit_agrees_with_a_difference():
    detector: Any = detectors.counting(make_scan(), bandwidth=0.1).double()
    far = torch.from_numpy(np.fft.fft2(make_wave(3), norm="ortho"))[None, None]
    move = torch.from_numpy(np.fft.fft2(make_wave(4), norm="ortho"))[None, None]
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = detector(far + step * move, torch.tensor([0])).sqrt().sum()
    (slope,) = torch.autograd.grad(loss, step)
    sides = [float(detector(far + s * move, torch.tensor([0])).detach().sqrt().sum()) for s in (-1e-5, 1e-5)]
    assert float(slope) == pytest.approx((sides[1] - sides[0]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"bandwidth": 0.5}, r"bandwidth: 0\.5 must lie between 0 and 0\.2"),
        ({"bandwidth": -0.1}, "must lie between"),
        ({"rows": "12000,1\n11000,-1\n"}, "energy in eV, and photons"),
        ({"rows": "12000,1\n"}, "energy in eV, and photons"),
        ({"rows": "10332,1\n3000,1\n"}, "3000 eV is too far from the energy of the scan"),
        ({"rows": "10332,1\n10000,1\n", "bandwidth": 0.1}, "two spectra"),
        ({"rows": "10.3,1\n10.0,1\n"}, "are these keV"),
        ({"rows": "12000,1\n12500,1\n"}, "is the mean of the spectrum"),
    ],
)
def test_what_is_no_spectrum_is_refused(knobs, words, tmp_path):
    if (rows := knobs.pop("rows", None)) is not None:
        (tmp_path / "table.csv").write_text(rows)
        knobs["spectrum"] = tmp_path / "table.csv"
    with pytest.raises(BadInput, match=words):
        detectors.counting(make_scan(), **knobs)


def test_near_fields_and_missing_tables_are_refused(tmp_path):
    near = make_scan(geometry=replace(GEOMETRY, focus=1e8))
    with pytest.raises(BadInput, match="far fields of samples across the beam only"):
        detectors.counting(near, bandwidth=0.01)
    with pytest.raises(BadInput, match="does not exist"):
        detectors.counting(make_scan(), spectrum=tmp_path / "none.csv")
