"""Simulated scans against abTEM on the same potential; its axes run (x, y), ours (y, x)."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.physics import atoms, optics
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import diffract, transmit
from phaseloom.simulation.specimens import Specimen

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    abtem = pytest.importorskip("abtem")

CELL, PIXELS = 25.6, 64
PERIODIC = Experiment(
    scan=(5, 4),
    step=2.0,
    pixel=CELL / PIXELS,
    cell=PIXELS,
    window=PIXELS,
    bin=1,
    detector=None,
    aberrations={"defocus": 90.0, "C12": 30.0, "phi12": 0.4, "C21": 300.0, "phi21": -0.3},
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def few_atoms(thickness=4.0):
    """An asymmetric handful of atoms."""
    places = np.array(
        [[0.5, 3.1, 5.2], [1.0, 12.3, 7.7], [3.0, 12.9, 20.1], [2.0, 21.4, 11.1], [0.1, 0.2, 25.5]]
    )
    numbers = np.array([38, 22, 8, 79, 14])
    return Specimen(numbers=numbers, places=places, size=(thickness, CELL, CELL), family="test", name="few")


def theirs(potential, experiment):
    """Patterns (n, y, x) of abTEM behind slices (slice, x, y) of our potential, in its band."""
    with abtem.config.set({"precision": "float64"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thing = abtem.PotentialArray(potential, slice_thickness=4.0 / len(potential), extent=(CELL, CELL))
        polar = optics.coefficients(experiment.aberrations)
        probe = abtem.Probe(
            energy=experiment.energy, semiangle_cutoff=1e3 * experiment.semiangle, aberrations=polar
        )
        probe.grid.match(thing)
        positions = experiment.positions(torch.Generator()).numpy()[:, ::-1]
        scan = abtem.CustomScan(positions)
        found = probe.scan(thing, scan=scan, detectors=abtem.PixelatedDetector(max_angle=None), lazy=False)
        return found.array.transpose(0, 2, 1)


def test_patterns_are_those_of_abtem_on_the_same_potential():
    places, numbers = torch.as_tensor(few_atoms().places[:, 1:]), torch.as_tensor(few_atoms().numbers)
    spacing = (PERIODIC.spacing, PERIODIC.spacing)
    volts = atoms.project_potential(places, numbers, (PIXELS, PIXELS), spacing)
    ours = diffract(
        transmit(few_atoms(), replace(PERIODIC, vibration=0.0), torch.Generator()),
        PERIODIC.positions(torch.Generator()),
        PERIODIC,
    ).numpy()
    want = theirs(volts.numpy().T[None], PERIODIC)
    assert want.shape == ours.shape
    assert np.linalg.norm(ours - want) / np.linalg.norm(want) < 1e-5


def test_an_unlike_table_is_an_unlike_potential():
    """Kirkland's and Lobato's tables differ by 0.7 % (RMS) and both are abTEM's."""
    places, numbers = torch.tensor([[12.8, 12.8]], dtype=torch.float64), torch.tensor([38])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for table, name in (("lobato", "LobatoParametrization"), ("kirkland", "KirklandParametrization")):
            k = np.linspace(0.0, 3.0, 31)
            theirs = getattr(abtem.parametrizations, name)().scattering_factor("Sr")(k**2)
            np.testing.assert_allclose(atoms.scattering_factor(38, k, table=table), theirs, rtol=1e-6)
    one, other = (
        atoms.project_potential(places, numbers, (64, 64), (0.4, 0.4), table=table)
        for table in ("lobato", "kirkland")
    )
    assert 1e-3 < ((one - other).norm() / one.norm()).item() < 2e-2


def test_slices_and_flight_are_those_of_abtem():
    thick = replace(PERIODIC, slice_thickness=2.0, vibration=0.0)
    volts = []
    few = few_atoms()
    for number in (0, 1):
        inside = np.floor(few.places[:, 0] / 2.0).astype(int) == number
        where, kinds = torch.as_tensor(few.places[inside, 1:]), torch.as_tensor(few.numbers[inside])
        volts.append(atoms.project_potential(where, kinds, (PIXELS, PIXELS), (0.4, 0.4)).numpy().T)
    ours = diffract(
        transmit(few, thick, torch.Generator()), thick.positions(torch.Generator()), thick, thickness=4.0
    ).numpy()
    want = theirs(np.stack(volts), thick)
    assert np.linalg.norm(ours - want) / np.linalg.norm(want) < 1e-5
