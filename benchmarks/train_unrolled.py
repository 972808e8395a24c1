"""Train the network for scans of any probe, `phaseloom.retrieval.networks.unrolled`.

    python -m benchmarks.train_unrolled --seconds 525 --workers 7 --out FOLDER  # on a GPU; hours on CPUs
    python -m benchmarks.train_unrolled --seconds 455 --start FOLDER/net.pt --lr 8e-4 --out FOLDER
    python -m benchmarks.train_unrolled --write net.safetensors --start FOLDER/net.pt    # 16-bit weights

Scans are made anew for every step. Specimens are those of `phaseloom.simulation.specimens.prototypes`, of the
side for training and without the compounds that `benchmarks.foreign_scans` judges by: crystals, glasses,
particles on glass; some weaker than their atoms, and smooth fields and balls that no atoms make. Each scan
has a beam, a detector and faults of its own: `Beam` has the optics as the network is told and as they were.
Patterns are simulated in one to three slices on pixels of two thirds and in windows of twice those that the
network works with, then binned.

Lengths count in pixels of the network, a fifth of the wavelength over the semiangle; angles in semiangles.
"""

import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import machine
from phaseloom.errors import BadInput
from phaseloom.learning.weight_files import save_network
from phaseloom.physics import atoms
from phaseloom.physics.optics import electron_wavelength, interaction
from phaseloom.retrieval.networks.unrolled import PIXELS_PER_UNIT, ThinScans, UnrolledRecovery, unrolled
from phaseloom.retrieval.unrolled_input import encode_scan
from phaseloom.simulation import specimens

BOX = 72.0
"""Angstrom: the periodic box of a specimen."""

BAND = 1.75
"""Semiangles over the wavelength that a true phase keeps."""

SIZES = [54, 60, 64, 72, 80, 90, 96, 108, 120, 128, 144, 160, 180, 192, 216, 240, 256]
"""Half of the network's pixels to a box: numbers with quick transforms."""

JUDGED = [
    *("Sr Ti O", "Ga N", "Ti Ni", "Zr O", "Mg O", "Si", "Fe", "Ti O", "Al O", "Si O", "Fe S", "La Al O"),
    *("Cd Te", "Mo S", "Ti", "Cu", "C", "B N", "W Se", "Au", "Pt", "Ag"),
]
"""Elements of the materials of `benchmarks.testbed.foreign`, never trained on."""

KINDS = (  # probes along a side; steps; share of batches; windows and how often
    (26, (0.2, 0.5), 0.25, {32: 0.2, 40: 0.2, 48: 0.25, 64: 0.22, 96: 0.13}),
    (18, (0.5, 1.15), 0.55, {32: 0.2, 40: 0.2, 48: 0.25, 64: 0.22, 96: 0.13}),
    (14, (1.0, 2.0), 0.2, {48: 0.3, 64: 0.4, 96: 0.3}),
)
ENERGIES = {30e3: 0.05, 60e3: 0.19, 80e3: 0.19, 120e3: 0.19, 200e3: 0.19, 300e3: 0.19}
KEPT_BATCHES = 24
FINE_PIXELS = 3  # of the simulation's window, twice as wide, to one of the network's
LIT = 0.45  # of the usual illumination, that a pixel has where errors count


@dataclass(frozen=True)
class Atoms:
    """A specimen: ``places`` (z, y, x) angstrom, atomic ``numbers``, ``thickness``."""

    places: np.ndarray
    numbers: np.ndarray
    thickness: float


def draw_atoms(seed: int) -> Atoms:
    """The specimen of a seed: crystal, glass, thin crystal, or a particle on glass."""
    rng = np.random.default_rng([seed, 78])
    judged = {frozenset(one.split()) for one in JUDGED}

    def draw(**wanted: Any) -> Any:
        while True:
            try:
                found = specimens.prototypes((BOX, BOX), rng, part="train", **wanted)
            except BadInput:  # no atom in the box
                continue
            if frozenset(found.group.split(":")[-1].split("-")) not in judged:
                return found

    kind = rng.choice(4, p=[0.55, 0.17, 0.13, 0.15])
    if kind == 0:
        made = draw(thickness=(3.0, 22.0), edges=0.35)
    elif kind == 1:
        made = draw(thickness=(3.0, 20.0), edges=0.6, families=["amorphous"])
    else:
        thickness, edges = ((2.0, 6.0), 0.35) if kind == 2 else ((4.0, 16.0), 1.0)
        made = draw(thickness=thickness, edges=edges, axes="low index" if kind == 2 else "mixed")
    places, numbers, thickness = made.places, made.numbers, made.thickness
    if kind == 3:
        film = draw(thickness=(3.0, 12.0), edges=0.15, families=["amorphous"])
        places = np.concatenate([places, film.places + np.array([thickness, 0, 0])])
        numbers = np.concatenate([numbers, film.numbers])
        thickness += film.thickness
    return Atoms(places.astype(np.float32), numbers.astype(np.int64), float(thickness))


@dataclass(frozen=True)
class Beam:
    """Optics in units of semiangle and wavelength: ``semiangle^2 C / wavelength`` and its like."""

    defocus: float
    astigmatism: tuple[float, float] = (0.0, 0.0)
    coma: tuple[float, float] = (0.0, 0.0)
    spherical: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, kind: int, most: float) -> "Beam":
        """As the network is told."""
        likely = rng.random()
        if likely < 0.3:
            defocus = rng.uniform(-most, most)
        else:
            defocus = rng.uniform(0, most) if rng.random() < 0.5 else rng.uniform(0.3, min(2.0, most))
        if kind == 2 and abs(defocus) < 1.2:
            defocus = math.copysign(rng.uniform(1.2, max(most, 1.3)), defocus)
        if kind == 1 and abs(defocus) < 0.35 and rng.random() < 0.7:
            defocus = rng.uniform(0.35, 2)
        spherical = rng.uniform(-0.5, 0.5) if rng.random() < 0.3 else 0.0
        astigmatism = rng.normal(0, 0.15, 2) if rng.random() < 0.3 else (0.0, 0.0)
        coma = rng.normal(0, 0.15, 2) if rng.random() < 0.15 else (0.0, 0.0)
        return cls(defocus, tuple(astigmatism), tuple(coma), spherical)

    def spoil(self, rng: np.random.Generator) -> "Beam":
        """As it was: a little beside what is told."""
        off = rng.normal(0, 1, 6) * (0.02 + 0.02 * abs(self.defocus), 0.02, 0.02, 0.03, 0.03, 0.03)
        return Beam(
            self.defocus + off[0],
            (self.astigmatism[0] + off[1], self.astigmatism[1] + off[2]),
            (self.coma[0] + off[3], self.coma[1] + off[4]),
            self.spherical + off[5],
        )

    def make_wave(self, window: int, angle: float, device: str, radius: float = 1.0) -> Tensor:
        """The probe in the middle of a window whose detector pixels see ``angle`` semiangles."""
        line = torch.fft.fftfreq(window, 1 / window, device=device) * angle
        y, x = line[:, None], line[None]
        square = y**2 + x**2
        chi = math.pi * (2 * self.spherical * square - self.defocus) * square
        chi = chi + math.pi * (self.astigmatism[0] * (x**2 - y**2) + self.astigmatism[1] * 2 * x * y)
        chi = chi + (2 * math.pi / 3) * square * (self.coma[0] * x + self.coma[1] * y)
        disk = ((1 - square.sqrt() / radius) / angle + 0.5).clamp(0, 1)
        wave = torch.polar(disk, -chi)
        return torch.fft.fftshift(torch.fft.ifft2(wave / wave.abs().square().sum().sqrt(), norm="ortho"))


@dataclass(frozen=True)
class Field:
    """A specimen on the pixels of a scan.

    Attributes:
        waves: ``(slice, y, x)`` transmissions on pixels of the simulation, periodic.
        truth: ``(y, x)`` phase on pixels of the network, periodic, radian.
        flight: Fresnel number of a slice: ``wavelength thickness / box^2``.
    """

    waves: Tensor
    truth: Tensor
    flight: float


@dataclass
class Drawer:
    """Draws batches of scans.

    Attributes:
        pool: specimens.
        device: of PyTorch.
        seed: of everything that is drawn.
    """

    pool: list[Atoms]
    device: str
    seed: int
    rng: np.random.Generator = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.generator = torch.Generator(device=self.device).manual_seed(self.seed)

    @torch.no_grad()
    def draw(self, most: int, patterns: int) -> tuple[ThinScans, Tensor]:
        """At most so many scans of so many patterns of 64 x 64 pixels, and their true phases."""
        rng = self.rng
        kind = int(rng.choice(len(KINDS), p=[one[2] for one in KINDS]))
        side, steps, _, windows = KINDS[kind]
        window = int(rng.choice(list(windows), p=list(windows.values())))
        count = max(2, min(most, int(patterns * 4096 / (side * window) ** 2)))
        size = math.ceil((side - 1) * PIXELS_PER_UNIT * steps[1] * 1.03 + window + 10)
        common = {
            "kind": kind,
            "side": side,
            "window": window,
            "size": size + -size % 8,
            "slices": int(rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3])),
            "spread": rng.random() < 0.3,
        }
        each = [self._draw_scan(number, **common) for number in range(count)]
        scans, truth = zip(*each, strict=True)
        joined = {
            name: torch.cat([getattr(one, name) for one in scans])
            for name in ("patterns", "mask", "probes", "places", "scan", "dose", "conditions")
        }
        return ThinScans(**joined, shape=scans[0].shape), torch.stack(truth)

    def _draw_scan(
        self, number: int, *, kind: int, side: int, window: int, size: int, slices: int, spread: bool
    ) -> tuple[ThinScans, Tensor]:
        rng, device = self.rng, self.device
        energy = float(rng.choice(list(ENERGIES), p=list(ENERGIES.values())))
        length = electron_wavelength(energy)
        pixel = math.exp(rng.uniform(math.log(0.14), math.log(0.7)))
        semiangle = min(max(length / (PIXELS_PER_UNIT * pixel), 0.005), 0.045)
        pixel = length / (PIXELS_PER_UNIT * semiangle)
        half = min(SIZES, key=lambda n: abs(math.log(2 * n * pixel / BOX)))
        pixel = BOX / (2 * half)
        angle = length / (window * pixel) / semiangle  # of a detector pixel
        told = Beam.draw(rng, kind, min((window / PIXELS_PER_UNIT - 3) / 2, 8.0))
        true = told.spoil(rng) if rng.random() < 0.7 else told
        radius = 1 + (rng.normal(0, 0.01) if rng.random() < 0.5 else 0)
        specimen = self._draw_field(half, slices, energy, BAND * semiangle / length)
        step = min(max(rng.uniform(*KINDS[kind][1]), 0.1), 0.45 * (2 * abs(told.defocus) + 1.3))
        grid, nominal, places = self._draw_places(side, step * length / semiangle / pixel, window, size)
        moved = self._draw_descan(grid)
        probe = true.make_wave(FINE_PIXELS * window, angle / 2, device, radius)
        clean = bin_patterns(self._diffract(specimen, probe, places, moved / angle, spread), window)
        dose = 10 ** rng.uniform(2.7, 6.5) if rng.random() < 0.85 else 1e7
        mask, reach = self._draw_mask(window, angle)
        scans = ThinScans(
            patterns=self._count(clean, dose),
            mask=mask[None],
            probes=told.make_wave(window, angle, device)[None],
            places=torch.from_numpy(nominal).float().to(device),
            scan=torch.full((side * side,), number, device=device),
            shape=(size, size),
            dose=torch.tensor([dose], dtype=torch.float32, device=device),
            conditions=torch.tensor([encode_scan(told.defocus, step, dose, reach)], device=device),
        )
        line = torch.arange(size, device=device) % (2 * half)
        return scans, specimen.truth[line][:, line]

    def _draw_field(self, half: int, slices: int, energy: float, band: float) -> Field:
        """A specimen at a random place: atoms, a field of no atoms, or both."""
        rng, device = self.rng, self.device
        fine, coarse = 3 * half, 2 * half
        drawn = self.pool[rng.integers(len(self.pool))]
        places = torch.from_numpy(drawn.places).to(device)
        shake = rng.uniform(0, 0.05) * torch.randn(
            places[:, 1:].shape, generator=self.generator, device=device
        )
        across = places[:, 1:] + shake + torch.tensor(rng.uniform(0, BOX, 2), device=device).float()
        numbers = torch.from_numpy(drawn.numbers).to(device)
        which = atoms.assign_slices(places[:, 0], max(drawn.thickness, 1e-3), slices)
        strength = interaction(energy)
        if rng.random() < 0.4:
            strength *= math.exp(rng.uniform(math.log(0.25), 0))
        spectra = strength * project_spectra(
            across, numbers, which, slices=slices, count=fine, vibration=rng.uniform(0.04, 0.12)
        )
        kind = rng.random()
        if kind < 0.3:
            smooth = self._draw_smooth(fine, band) / slices
            spectra = smooth + (spectra if kind > 0.18 else 0 * spectra)
        phases = torch.fft.irfft2(spectra, s=(fine, fine), norm="forward")
        waves = torch.fft.fft2(torch.polar(torch.ones_like(phases), phases))
        frequency = torch.fft.fftfreq(fine, BOX / fine, device=device)
        waves = torch.fft.ifft2(waves * (torch.hypot(frequency[:, None], frequency) <= fine / BOX / 3))
        total = spectra.sum(0)
        kept = torch.cat([total[:half], total[fine - half :]])[:, : half + 1].clone()
        y, x = frequencies(coarse, device)
        kept[half] = kept[:, half] = 0
        truth = torch.fft.irfft2(kept * (torch.hypot(y, x) <= band), s=(coarse, coarse), norm="forward")
        flight = electron_wavelength(energy) * drawn.thickness / slices / BOX**2
        return Field(waves, truth, flight)

    def _draw_smooth(self, fine: int, band: float) -> Tensor:
        """Spectrum of a random field, or of balls and disks, as thickness and fields of no atoms make."""
        rng, device = self.rng, self.device
        y, x = frequencies(fine, device)
        k = torch.hypot(y, x)
        edge = math.exp(rng.uniform(math.log(0.06), math.log(1.2))) * band / BAND
        power = torch.exp(-((k / edge) ** 2)) * (k + 1 / BOX) ** (-rng.uniform(0, 2))
        power[0, 0] = 0
        noise = torch.randn(fine, fine, generator=self.generator, device=device)
        phase = torch.fft.irfft2(torch.fft.rfft2(noise) * power, s=(fine, fine))
        phase = phase / phase.std() * math.exp(rng.uniform(math.log(0.04), math.log(0.8)))
        if rng.random() < 0.4:
            line = torch.arange(fine, device=device) * (BOX / fine)
            phase = 0.3 * phase * (rng.random() < 0.5)
            for _ in range(int(rng.integers(1, 12))):
                radius = rng.uniform(2, 16)
                dy, dx = ((line - centre + BOX / 2) % BOX - BOX / 2 for centre in rng.uniform(0, BOX, 2))
                depth = (radius**2 - dy[:, None] ** 2 - dx**2).clamp(min=0)
                ball = depth.sqrt() if rng.random() < 0.7 else (depth > 0) * radius / 2
                phase = phase + rng.uniform(0.006, 0.12) * ball
        blur = torch.exp(-2 * (math.pi * 0.15 * k) ** 2)
        return torch.fft.rfft2(phase, norm="forward") * blur

    def _draw_places(
        self, side: int, step: float, window: int, size: int
    ) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """The raster in halves of its width, its nominal places and the true ones, pixels."""
        rng = self.rng
        line = np.arange(side) - (side - 1) / 2
        grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        turn = rng.uniform(-math.pi, math.pi) if rng.random() < 0.25 else 0.0
        if step * (side - 1) * (abs(math.cos(turn)) + abs(math.sin(turn))) + window + 8 > size:
            turn = rng.choice([0, math.pi / 2, math.pi]) if turn else 0.0
        cosine, sine = math.cos(turn), math.sin(turn)
        away = step * grid @ np.array([[cosine, sine], [-sine, cosine]]) + rng.uniform(-0.5, 0.5, 2)
        true = away
        if rng.random() < 0.7:
            true = true + rng.normal(0, rng.uniform(0, 0.06) * PIXELS_PER_UNIT, away.shape)
        if rng.random() < 0.4:
            true = true * (1 + rng.normal(0, 0.006))
        places = torch.from_numpy(true + size / 2).float().to(self.device)
        return grid / line[-1], away + size / 2, places

    def _draw_descan(self, grid: np.ndarray) -> Tensor:
        """Shifts ``(pattern, 2)`` of the patterns, semiangles."""
        rng = self.rng
        moved = np.zeros_like(grid)
        if rng.random() < 0.5:
            moved = moved + rng.normal(0, 0.025, 2)
        if rng.random() < 0.4:
            moved = moved + grid @ rng.uniform(-0.04, 0.04, (2, 2))
        return torch.from_numpy(moved).float().to(self.device)

    def _diffract(
        self, specimen: Field, probe: Tensor, places: Tensor, moved: Tensor, spread: bool
    ) -> Tensor:
        """Patterns on the fine detector, moved by so many pixels of the coarse one."""
        n, fine, device = len(probe), specimen.waves.shape[-1], self.device
        wide = self.rng.uniform(0.04, 0.2) * PIXELS_PER_UNIT if spread else 0.0
        sources = [(wide, wide), (-wide, -wide), (wide, -wide), (-wide, wide)] if spread else [(0.0, 0.0)]
        frequency = torch.fft.fftfreq(n, device=device)
        line = torch.arange(n, device=device) - n // 2
        k = torch.fft.fftfreq(n, 1 / fine, device=device)
        square = k[:, None] ** 2 + k**2
        flight = torch.polar(torch.ones_like(square), -math.pi * specimen.flight * square)
        flight = flight * (square.sqrt() <= fine / 3)
        turns = 2 * moved[:, :, None] * line / n
        descan = [torch.polar(torch.ones_like(one), 2 * math.pi * one) for one in turns.unbind(1)]
        total = torch.zeros(len(places), n, n, device=device)
        for source in sources:
            where = (places + torch.tensor(source, device=device)) * (FINE_PIXELS / 2)
            corner = where.round()
            turn = -2 * math.pi * (where - corner)[:, :, None] * frequency
            ramps = [torch.polar(torch.ones_like(one), one) for one in turn.unbind(1)]
            beam = torch.fft.ifft2(torch.fft.fft2(probe) * ramps[0][:, :, None] * ramps[1][:, None])
            rows, columns = ((corner[:, axis].long()[:, None] + line) % fine for axis in (0, 1))
            for number, wave in enumerate(specimen.waves):
                beam = torch.fft.ifft2(torch.fft.fft2(beam) * flight) if number else beam
                beam = beam * wave[rows[:, :, None], columns[:, None]]
            beam = beam * descan[0][:, :, None] * descan[1][:, None]
            total += torch.fft.fft2(beam, norm="ortho").abs().square()
        return total / len(sources)

    def _draw_mask(self, window: int, angle: float) -> tuple[Tensor, float]:
        """Pixels that are measured, and the semiangles that the detector sees."""
        rng = self.rng
        line = torch.fft.fftfreq(window, 1 / window, device=self.device) * angle
        away = torch.hypot(line[:, None], line)
        reach = rng.uniform(1.25, 2.0) if rng.random() < 0.5 else 2.0
        if rng.random() < 0.5:
            mask = (torch.maximum(line.abs()[:, None], line.abs()) <= reach) & (away <= 2.0)
        else:
            mask = away <= reach
        mask = mask.float()
        if rng.random() < 0.3:
            bad = rng.integers(0, window, (int(rng.integers(1, 6)), 2))
            mask[bad[:, 0], bad[:, 1]] = 0
        return mask, reach

    def _count(self, clean: Tensor, dose: float) -> Tensor:
        """Fractions of a beam that is not known to a percent, with background, drift and counting noise."""
        rng = self.rng
        mean = clean * (1 + rng.normal(0, 0.012))
        if rng.random() < 0.2:
            mean = mean + rng.uniform(0, 0.01) / mean[0].numel()
        if rng.random() < 0.3:
            drift = torch.linspace(-1, 1, len(mean), device=self.device)
            mean = mean * (1 + rng.uniform(0, 0.05) * drift[:, None, None])
        return mean if dose >= 1e7 else torch.poisson(mean * dose, generator=self.generator) / dose


def frequencies(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Of a box's half spectrum, cycles per angstrom."""
    y = torch.fft.fftfreq(count, BOX / count, device=device)
    return y[:, None], torch.fft.rfftfreq(count, BOX / count, device=device)[None]


def project_spectra(
    across: Tensor, numbers: Tensor, which: Tensor, *, slices: int, count: int, vibration: float
) -> Tensor:
    """Half spectra ``(slice, y, x)`` of projected potentials, volt angstrom."""
    y, x = frequencies(count, str(across.device))
    k = torch.hypot(y, x)
    smear = torch.exp(-2 * (math.pi * vibration * k) ** 2) * (atoms.VOLT_AREA / BOX**2)
    orders = [(k_axis * BOX).round().reshape(-1) for k_axis in (y, x)]
    knots = np.linspace(0, float(k.max()) + 1e-3, 4096)
    out = torch.zeros(slices, *k.shape, dtype=torch.complex64, device=across.device)
    for number in numbers.unique().tolist():
        table = torch.from_numpy(atoms.scattering_factor(number, knots)).to(k)
        place = k / float(knots[1])
        low = place.long().clamp(max=len(knots) - 2)
        factor = torch.lerp(table[low], table[low + 1], place - low) * smear
        for index in range(slices):
            some = across[(numbers == number) & (which == index)] / BOX
            cycles = [some[:, axis, None] * orders[axis] for axis in (0, 1)]
            turns = [-2 * math.pi * (one - one.round()) for one in cycles]
            rows, columns = (torch.polar(torch.ones_like(one), one) for one in turns)
            out[index] += (rows.T @ columns) * factor
    return out


def bin_patterns(fine: Tensor, window: int) -> Tensor:
    """Two by two pixels around each even one, zero angle in the corner, cut to a window."""
    n = fine.shape[-1]
    centre = 2 * torch.fft.fftfreq(window, 1 / window, device=fine.device).round().long()
    for axis in (-2, -1):
        near = [fine.index_select(axis, (centre + shift) % n) for shift in (-1, 0, 1)]
        fine = near[1] + (near[0] + near[2]) / 2
    return fine


def measure_loss(net: UnrolledRecovery, scans: ThinScans, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of all steps, and the error of each scan after the last: a share of the contrast.

    Steps count more the later they are. What the network expects of its errors is fitted by their likelihood.
    """
    light = scans.illuminate()
    at = scans.places.round().long()
    usual = light[scans.scan, at[:, 0], at[:, 1]].view(len(scans), -1).median(1).values
    lit = (light > LIT * usual[:, None, None]).float()
    area = lit.sum((-2, -1))

    def average(field: Tensor) -> Tensor:
        return (field * lit).sum((-2, -1)) / area

    contrast = average((truth - average(truth)[:, None, None]).square()) + 0.01**2
    total = truth.new_zeros(())
    share = contrast
    for number, (phase, spread) in enumerate(net.iterate(scans)):
        wrong = phase - truth
        wrong = wrong - average(wrong)[:, None, None]
        share = average(wrong.square()) / contrast
        total = total + ((number + 1) / net.steps) ** 1.5 * share.clamp(max=20).add(0.003).sqrt().mean()
        if number == net.steps - 1:
            unlikely = spread + 0.5 * wrong.detach().square() * torch.exp(-2 * spread)
            total = total + 0.05 * average(unlikely).mean()
    return total, share.detach().sqrt()


def keep_drawing(pool: list[Atoms], device: str, seed: int, size: tuple[int, int], queue: Any) -> None:
    """In a process of its own: put batches into a queue, amplitudes in 16 bits."""
    torch.set_num_threads(1)
    drawer = Drawer(pool, device, seed)
    while True:
        scans, truth = drawer.draw(*size)
        queue.put((replace(scans, patterns=scans.patterns.sqrt().half()).to("cpu"), truth.cpu()))


def feed(given: argparse.Namespace, pool: list[Atoms], device: str) -> Any:
    """Batches without an end: each is used some times, beside those of a while before."""
    size = (given.batch, given.patterns)
    if not given.workers:
        drawer = Drawer(pool, device, given.seed)
        while True:
            yield drawer.draw(*size)
    torch.multiprocessing.set_sharing_strategy("file_system")
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=2 * given.workers)
    for worker in range(given.workers):
        order = (pool, device, 1000 * given.seed + worker, size, queue)
        context.Process(target=keep_drawing, args=order, daemon=True).start()
    rng = np.random.default_rng(given.seed)
    kept: list[tuple[ThinScans, Tensor]] = []
    for number in range(2**62):
        if number % given.repeat == 0 or (not queue.empty() and len(kept) < KEPT_BATCHES):
            kept = [*kept[-KEPT_BATCHES + 1 :], queue.get(timeout=600)]
            scans, truth = kept[-1]
        else:
            scans, truth = kept[rng.integers(len(kept))]
        scans = scans.to(device)
        yield replace(scans, patterns=scans.patterns.float().square()), truth.to(device)


def train(given: argparse.Namespace) -> None:
    """Train for so many seconds, and keep the running mean of the weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ProcessPoolExecutor(os.cpu_count()) as team:
        seeds = range(given.first, given.first + given.specimens)
        pool = list(team.map(draw_atoms, seeds, chunksize=16))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    net = unrolled(seed=given.seed).to(device)
    if given.start:
        net.load_state_dict(torch.load(given.start, map_location=device))
    mean = {name: weight.clone() for name, weight in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=given.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    began, errors = time.time(), []
    for number, (scans, truth) in enumerate(feed(given, pool, device)):
        past = (time.time() - began) / given.seconds
        if past >= 1:
            break
        rate = given.lr * min(1, past / 0.02 + 0.02) * (0.5 + 0.5 * math.cos(math.pi * past))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, error = measure_loss(net, scans, truth)
        optimizer.zero_grad()
        loss.backward()
        slope = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        if torch.isfinite(slope):
            optimizer.step()
        old = min(0.999, (1 + number) / (10 + number))
        with torch.no_grad():
            for name, weight in net.state_dict().items():
                mean[name].lerp_(weight, 1 - old)
        errors += error.tolist()
        if number % 100 == 99:
            row = {"step": number + 1, "s": time.time() - began, "median error": float(np.median(errors))}
            print(json.dumps(row), flush=True)
            errors = []
            torch.save(mean, given.out / "net.pt")
    torch.save(mean, given.out / "net.pt")
    print(json.dumps(machine()))


def main() -> None:
    """Train, or write a network's file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--specimens", type=int, default=7000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first specimen")
    parser.add_argument("--seconds", type=float, default=525)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patterns", type=int, default=6000, help="of 64 x 64 pixels, in a batch")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scans")
    parser.add_argument("--repeat", type=int, default=2, help="times that a batch is used")
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--write", type=Path, help="network file to write, in place of training")
    given = parser.parse_args()
    if not given.write:
        train(given)
        return
    net = unrolled()
    net.load_state_dict(torch.load(given.start, map_location="cpu"))
    save_network(net.half(), given.write, CARD)


CARD = {
    "task": "phase retrieval",
    "about": "phases of thin specimens from scans of electrons with any probe, at any positions",
    "trained": (
        "5000 and 7000 simulated specimens (phaseloom.simulation.specimens.prototypes), scans drawn anew for "
        "2600 and 2400 steps of up to 16 scans, 525 s on an H200 and 455 s on an H100, 2026-11-27; the first "
        "without particles on glass, smooth fields and weakened specimens"
    ),
    "range": (
        "semiangle^2 defocus / wavelength -8 to 8, semiangle step / wavelength 0.1 to 2.2, 30 to 300 keV, "
        "5 to 45 mrad, 500 electrons in a pattern to none of noise, detectors to 1.25 semiangles and more, "
        "a percent of error in optics and positions"
    ),
    "fails": (
        "phases of a radian and more, thick specimens, lattices finer than 0.57 wavelength / semiangle, "
        "beams near focus with steps as wide as they are; slow variations come out weak"
    ),
    "license": "as phaseloom",
}
"""What the file says of itself; scores are in benchmarks/results."""

if __name__ == "__main__":
    main()
