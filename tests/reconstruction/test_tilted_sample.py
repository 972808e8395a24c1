"""A sample at 30 degrees to the beam, over a field in which the focus passes through it and more.

The patterns are made without the package: plane waves of a pupil summed up where they meet the surface, and
the wave that leaves it summed up at the frequencies that each pixel of a flat detector sees.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.data.formats import cxi
from phaseloom.data.prepare import tilt_sample
from phaseloom.data.scan import LAB_BASIS, Geometry, Scan4D
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

N, WAVE, DOSE = 48, 10.0, 1e6
EDGE = 40
"""Pixels of the specimen around the first window."""

NUMBERS = np.stack(np.meshgrid(*[np.arange(N) - N // 2] * 2, indexing="ij"), -1).reshape(-1, 2)
K = 2 * math.pi / WAVE


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Setup:
    """A surface that leans back along x, and optics that are the same in pixels, whatever their angles.

    Attributes:
        tilt: radian.
        pixel: of the object as the beam sees it, angstrom; smaller ones take wider angles.
        places: rows and columns of the scan.
    """

    tilt: float = math.radians(30)
    pixel: float = 100.0
    places: tuple[int, int] = (7, 30)

    @property
    def angle(self) -> float:
        """Of a detector's pixel, radian."""
        return WAVE / (N * self.pixel)

    @property
    def aperture(self) -> float:
        """Semiangle of the beam."""
        return 4 / self.pixel

    @property
    def focus(self) -> float:
        """From the focus to the middle of the field, angstrom."""
        return 1.8 * self.pixel**2

    @property
    def grid(self) -> np.ndarray:
        """Steps on the surface: seen along the beam a square grid, rows along -y and columns along -x."""
        return self.pixel * np.array([[0, -1, 0], [-1, 0, math.tan(self.tilt)]]).T

    @property
    def normal(self) -> list[float]:
        """Of the surface."""
        return [math.sin(self.tilt), 0.0, math.cos(self.tilt)]

    def beam(self) -> np.ndarray:
        """Wave vectors of a pupil's plane waves, less that of the axis."""
        across = -K * self.angle * NUMBERS[np.hypot(*NUMBERS.T) * self.angle < self.aperture][:, ::-1]
        return np.column_stack([across, np.sqrt(K**2 - (across**2).sum(1)) - K])

    def seen(self) -> np.ndarray:
        """From the wave on the surface to the pixels of a flat detector, each in a direction of its own."""
        way = np.column_stack([-self.angle * NUMBERS[:, ::-1], np.ones(N * N)])
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        return np.exp(-1j * K * (way - [0, 0, 1]) @ (NUMBERS @ self.grid.T).T) * way[:, 2:] ** 1.5 / N


@dataclass(frozen=True)
class Truth:
    """What was simulated: the scan as files tell it without the tilt, and what it hides."""

    scan: Scan4D
    specimen: np.ndarray
    heights: np.ndarray


def specimen(shape: tuple[int, int]) -> np.ndarray:
    """Blots of phase and absorption a few pixels wide."""
    rng = np.random.default_rng(5)
    y, x = (np.fft.fftfreq(n)[s] for n, s in zip(shape, (np.s_[:, None], np.s_[None]), strict=True))
    low = np.exp(-2 * (math.pi * 2.0) ** 2 * (y**2 + x**2))
    blots = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * low).real
    blots /= blots.std()
    return (1 - 0.1 / (1 + np.exp(-4 * blots))) * np.exp(0.4j * blots)


@cache
def measured(setup: Setup = Setup()) -> Truth:
    """Its patterns; columns run along x, in which the surface falls back."""
    rng, (height, width) = np.random.default_rng(2), setup.places
    places = np.stack(np.meshgrid(np.arange(height) * 5.0, np.arange(width) * 4.0, indexing="ij"), -1)
    places = places.reshape(-1, 2) + rng.uniform(-1, 1, (height * width, 2))
    places -= places.min(0)
    assert np.allclose(setup.normal @ setup.grid, 0)
    hit, vectors, fly = places @ setup.grid.T, setup.beam(), setup.seen()
    waves = np.exp(1j * (NUMBERS @ setup.grid.T) @ vectors.T)
    matter = specimen(tuple((np.ceil(places.max(0)) + N + 2 * EDGE).astype(int)))
    counts = np.empty((len(places), N, N))
    for number, (place, point) in enumerate(zip(places, hit, strict=True)):
        whole = np.rint(place).astype(int)
        # from the focus, which stays in a plane across the beam while the stage moves across it
        start = setup.grid @ whole - [*point[:2], hit[:, 2].mean() - setup.focus]
        rows, columns = (slice(w + EDGE, w + EDGE + N) for w in whole)
        wave = (waves @ np.exp(1j * vectors @ start)) * matter[rows, columns].ravel()
        counts[number] = (np.abs(fly @ wave) ** 2).reshape(N, N)
    counts = rng.poisson(counts * DOSE / counts.sum((1, 2)).mean()).astype(np.float32)
    optics = {"wavelength": WAVE, "angle": (setup.angle, setup.angle), "basis": LAB_BASIS}
    geometry = Geometry(shape=(N, N), distance=1e9, **optics)
    probe = (waves @ np.exp(1j * vectors[:, 2] * setup.focus)).reshape(1, N, N)
    probe *= math.sqrt(DOSE) / np.linalg.norm(probe)
    where = places * setup.pixel
    return Truth(Scan4D(counts=counts, positions=where, geometry=geometry, probe=probe), matter, -hit[:, 2])


def error(found: Job, truth: Truth) -> float:
    """Of the object where the beam passed, relative, but for a factor and a ramp."""
    model = found.model
    thing = model.object.transmission()[0, 0].detach().numpy()
    first = (
        np.rint(np.array(model.object.canvas.origin) / model.object.canvas.pixel).astype(int) + EDGE + N // 2
    )
    rows, columns = (slice(a, a + n) for a, n in zip(first, thing.shape, strict=True))
    true, light = truth.specimen[rows, columns], model.coverage()
    weight = light * (light > 0.1 * light.max())
    y, x = np.indices(thing.shape)
    for _ in range(3):
        ratio = weight * true * thing.conj()
        turn = [
            np.angle((ratio[1:] * ratio[:-1].conj()).sum()),
            np.angle((ratio[:, 1:] * ratio[:, :-1].conj()).sum()),
        ]
        thing = thing * np.exp(1j * (turn[0] * y + turn[1] * x))
    thing = thing * (weight * true * thing.conj()).sum() / (weight * abs(thing) ** 2).sum()
    return math.sqrt(
        (weight * abs(thing - true) ** 2).sum() / (weight * abs(true - true[weight > 0].mean()) ** 2).sum()
    )


def run(folder: Path, setup: Setup = Setup(), **changes: Any) -> Job:
    """A reconstruction whose probe begins with that of the middle of the field."""
    cxi.write(measured(setup).scan, folder / "scan.cxi")
    tree: dict[str, Any] = {"file": str(folder / "scan.cxi"), "start": "none", "holdout": 0, "epochs": 30}
    tree |= {"probe": {"stored": {"modes": 1}}, "rates": {"positions": 0, "affine": 0}, "levels": 0}
    done = Job.begin(Reconstruct.of({**tree, **changes}))
    for _ in done:
        pass
    return done


def test_heights_follow_from_the_tilt():
    truth = measured()
    told = tilt_sample(truth.scan, normal=tuple(Setup().normal))
    assert np.allclose(told.positions, truth.scan.positions)
    assert np.allclose(told.heights, truth.heights)
    assert np.ptp(truth.heights) > WAVE / Setup().aperture ** 2


@pytest.mark.slow
def test_a_tilt_that_is_known_is_reconstructed_and_one_that_is_not_blurs(tmp_path):
    truth = measured()
    told = {"prepare": [{"tilt_sample": {"normal": Setup().normal}}]}
    known, unknown = (error(run(tmp_path, **knobs), truth) for knobs in (told, {}))
    assert known < 0.06
    assert unknown > 2 * known
