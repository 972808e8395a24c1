"""The model against a naive simulator written from the conventions alone."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics.optics import electron_wavelength, probe_wave
from phaseloom.ptycho import detectors, propagators, scans
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject

_found = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(_found)
_found.loader.exec_module(naive)

ENERGY, SEMIANGLE, DEFOCUS, PIXEL, GAP = 80e3, 0.025, 60.0, (0.3, 0.27), 15.0


def truth(shape, slices, modes):
    """Positions in object pixels, phases ``(slice, y, x)`` and modes of about 1e4 electrons."""
    random = np.random.default_rng(5)
    rows, columns = np.meshgrid(np.arange(4) * 2.1, np.arange(5) * 1.9, indexing="ij")
    places = np.stack([rows.ravel(), columns.ravel()], 1) + random.normal(0, 0.4, (20, 2))
    places += np.array(shape) // 2 - places.min(0).clip(max=0) + 1
    extent = np.ceil(places.max(0)).astype(int) + np.array(shape)
    phases = 0.3 * random.normal(size=(slices, *extent))
    wavelength = naive.wavelength(ENERGY)
    main = naive.probe(shape, PIXEL, wavelength, SEMIANGLE, c10=-DEFOCUS)
    light = np.stack([main * np.exp(2j * np.pi * random.uniform(size=shape) * 0.2 * m) for m in range(modes)])
    return places, phases, 1e2 * light * np.sqrt(0.5 ** np.arange(modes))[:, None, None]


def assembled(places, phases, light, *, kind, precise):
    """The model of the truth, from parts."""
    shape = light.shape[1:]
    wavelength = electron_wavelength(ENERGY)
    angle = tuple(wavelength / (n * d) for n, d in zip(shape, PIXEL, strict=True))
    geometry = Geometry(wavelength=wavelength, shape=shape, angle=angle, beam="electron")
    scan = Scan4D(counts=np.ones((len(places), *shape)), positions=places * PIXEL, geometry=geometry)
    room = scans.Canvas(phases.shape[1:], shape, PIXEL, (0.0, 0.0))
    wave, real = (torch.complex128, torch.float64) if precise else (torch.complex64, torch.float32)
    gaps = (GAP,) * (len(phases) - 1)
    model = Ptychography(
        object=PixelObject(torch.as_tensor(np.exp(1j * phases)).to(wave)[None], kind, gaps, room),
        probe=Probe(torch.as_tensor(light).to(wave), geometry),
        scan=scans.Positions(torch.as_tensor(places, dtype=real), room),
        propagator=propagators.exact(scan, gaps),
        detector=detectors.counting(scan),
    )
    if precise:
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.double() if tensor.dtype == torch.float32 else tensor
    return model


def misfit(model, expected):
    with torch.no_grad():
        seen = model.detector.display(model(torch.arange(len(expected)))).double().numpy()
    return np.sqrt(((np.sqrt(seen) - np.sqrt(expected)) ** 2).sum() / expected.sum())


@pytest.mark.parametrize(("precise", "tolerance"), [(False, 2e-6), (True, 1e-10)], ids=["single", "double"])
@pytest.mark.parametrize(
    ("shape", "slices", "modes", "kind"),
    [((32, 32), 1, 1, "complex"), ((32, 32), 6, 4, "phase"), ((25, 32), 3, 2, "complex")],
    ids=["thin", "thick", "odd"],
)
def test_model_gives_the_patterns_of_a_naive_simulator(shape, slices, modes, kind, precise, tolerance):
    places, phases, light = truth(shape, slices, modes)
    wavelength = naive.wavelength(ENERGY)
    expected = np.stack([naive.pattern(light, phases, place, PIXEL, wavelength, GAP) for place in places])
    assert misfit(assembled(places, phases, light, kind=kind, precise=precise), expected) < tolerance


@pytest.mark.parametrize("shape", [(32, 32), (31, 40)], ids=str)
def test_probe_is_that_of_a_naive_simulator(shape):
    wavelength = naive.wavelength(ENERGY)
    expected = naive.probe(shape, PIXEL, wavelength, SEMIANGLE, c10=-DEFOCUS, c30=1e5)
    wave = probe_wave(
        shape,
        PIXEL,
        wavelength=electron_wavelength(ENERGY),
        semiangle=SEMIANGLE,
        aberrations={"defocus": DEFOCUS, "Cs": 1e5},
        dtype=torch.complex128,
    )
    np.testing.assert_allclose(wave.numpy(), expected, atol=1e-9)


def test_wavelength_is_that_of_the_si_constants():
    for energy in (1e3, 80e3, 300e3):
        assert electron_wavelength(energy) == pytest.approx(naive.wavelength(energy), rel=1e-9)
