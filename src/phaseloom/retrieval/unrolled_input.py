"""Bring a scan to the unrolled network: fractions of the beam, its probe, places in pixels of the object."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import detect
from phaseloom.physics.fourier import shift_to_corner
from phaseloom.physics.optics import coefficients, probe_wave
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.networks.unrolled import PIXELS_PER_UNIT, ThinScans, UnrolledRecovery
from phaseloom.retrieval.preprocessing import NOISELESS_DOSE, estimate_dose, find_good_pixels, read_counts
from phaseloom.retrieval.unrolled_error import calibrate_error

__all__ = ["RecoveredPhase", "encode_scan", "recover_phase"]

MAX_REACH = 2.0  # semiangles that are read of a detector at most
MIN_WINDOW, MAX_WINDOW = 32, 96  # pixels of windows in the training
UNITS_AROUND_PROBE = 3.0  # of the window, in wavelengths over the semiangle, beside a defocused probe's width
MIN_UNITS_AROUND_PROBE = 1.2  # the same below which a detector is refused
MAX_DEFOCUS = 8.0  # semiangle^2 defocus / wavelength in the training
MAX_STEP = 2.2  # semiangle step / wavelength
MIN_REACH = 1.15  # semiangles that a detector has to see
MIN_PATTERNS = 9
MIN_COVER = 0.99  # of a binned pixel that has to be measured
READ_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class RecoveredPhase:
    """What the unrolled network recovers, on the area of the probes.

    Attributes:
        phase: ``(y, x)`` radian.
        error: ``(y, x)`` standard error, radian: `phaseloom.retrieval.unrolled_error.calibrate_error`.
        pixel: (y, x) angstrom.
        origin: position (y, x) of the middle of pixel ``[0, 0]``, angstrom in the frame of the scan.
        conditions: the four numbers that the network was told.
        notes: what was assumed.
    """

    phase: np.ndarray
    error: np.ndarray
    pixel: tuple[float, float]
    origin: tuple[float, float]
    conditions: tuple[float, ...]
    notes: tuple[str, ...]


@torch.no_grad()
def recover_phase(
    net: UnrolledRecovery,
    scan: Scan4D,
    optics: BeamOptics,
    semiangle: float,
    /,
    *,
    offset: tuple[float, float] = (0.0, 0.0),
    dose: float | None = None,
) -> RecoveredPhase:
    """Recover the phase of a scan of any probe.

    Positions may lie anywhere. Detector pixels are binned where they are much finer than the probe needs, and
    read up to two semiangles.

    Args:
        net: the network.
        scan: patterns and positions on the same axes.
        optics: of the beam, with a defocus.
        semiangle: radian.
        offset: (y, x) pixels by which zero angle lies beyond ``n // 2`` on the detector.
        dose: electrons of the beam in a pattern; ``None``: from the patterns.

    Raises:
        BadInput: no defocus, too few patterns, or optics and detectors beyond those of the training.
    """
    named = coefficients(optics.aberrations)
    if "C10" not in named:
        fix = "is not given: write probe: {focused: {defocus: ...}}, or let phaseloom calibrate find it"
        raise BadInput("defocus", None, fix)
    unit = scan.geometry.wavelength / semiangle
    layout = _Layout(scan, semiangle, -named["C10"] * semiangle / unit, offset)
    _require_range(scan, layout, unit)
    probe = layout.build_probe(optics)
    good = find_good_pixels(scan)
    mask = layout.build_mask(good)
    seen = float((mask * torch.fft.fftshift(torch.fft.fft2(probe, norm="ortho")).abs().square()).sum())
    beam, electrons, notes = estimate_dose(scan, good, max(seen, 0.5), dose)
    count = beam if electrons else NOISELESS_DOSE
    reach = min(float(layout.angle[mask > 0].max()), MAX_REACH)
    conditions = encode_scan(layout.defocus, layout.step / unit, count, reach)
    scans = ThinScans(
        patterns=layout.read(good) / beam,
        mask=shift_to_corner(mask)[None],
        probes=probe[None],
        places=torch.from_numpy(layout.places).float(),
        scan=torch.zeros(len(scan), dtype=torch.long),
        shape=layout.shape,
        dose=torch.tensor([count], dtype=torch.float32),
        conditions=torch.tensor([conditions], dtype=torch.float32),
        descan=None if scan.descan is None else torch.from_numpy(scan.descan / np.array(layout.bins)).float(),
    )
    device = net.length.device
    scans = scans.to(device)
    phase, expected = net(scans)
    error = calibrate_error(scans, phase, expected)
    rows, columns = layout.find_area()
    origin = [
        (low + area.start) * size
        for low, area, size in zip(layout.low, (rows, columns), layout.pixel, strict=True)
    ]
    return RecoveredPhase(
        phase=phase[0, rows, columns].cpu().numpy(),
        error=error[0, rows, columns].cpu().numpy(),
        pixel=layout.pixel,
        origin=(float(origin[0]), float(origin[1])),
        conditions=conditions,
        notes=notes,
    )


def encode_scan(
    defocus: float, step: float, dose: float, reach: float, /
) -> tuple[float, float, float, float]:
    """The numbers by which the network knows a scan besides its physics.

    Args:
        defocus: ``semiangle^2 defocus / wavelength``.
        step: ``semiangle step / wavelength``.
        dose: electrons of the beam in a pattern.
        reach: semiangles that the detector sees.

    Example:
        >>> encode_scan(1.0, 0.5, 1e4, 2.0)
        (0.2, 0.5, 0.0, 1.0)
    """
    return defocus / 5, step, math.log10(min(max(dose, 100.0), NOISELESS_DOSE) / 1e4) / 3, reach / 2


@dataclass(frozen=True, eq=False)
class _Layout:
    """How detector pixels and positions become those of the network.

    Attributes:
        scan: the data.
        semiangle: radian.
        defocus: ``semiangle^2 defocus / wavelength``.
        offset: (y, x) detector pixels by which zero angle lies beyond the middle.
    """

    scan: Scan4D
    semiangle: float
    defocus: float
    offset: tuple[float, float]

    @cached_property
    def bins(self) -> tuple[int, int]:
        """Detector pixels (y, x) in a pixel of the network, as many as leave room for the probe."""
        needed = max(MIN_WINDOW, PIXELS_PER_UNIT * (2 * abs(self.defocus) + UNITS_AROUND_PROBE))
        fine = [PIXELS_PER_UNIT * self.semiangle / angle for angle in self.scan.geometry.angle]
        rows, columns = (max(1, int(n / min(needed, MAX_WINDOW))) for n in fine)
        return rows, columns

    @cached_property
    def window(self) -> tuple[int, int]:
        """Pixels of a window, even, so that one of the object is about a fifth of the unit of length."""
        ways = zip(self.scan.geometry.angle, self.bins, strict=True)
        rows, columns = (2 * max(4, round(PIXELS_PER_UNIT * self.semiangle / a / k / 2)) for a, k in ways)
        return rows, columns

    @cached_property
    def pixel(self) -> tuple[float, float]:
        """Angstrom."""
        ways = zip(self.window, self.scan.geometry.angle, self.bins, strict=True)
        rows, columns = (self.scan.geometry.wavelength / (n * a * k) for n, a, k in ways)
        return rows, columns

    @cached_property
    def angle(self) -> Tensor:
        """Angles of the network's detector ``(y, x)``, semiangles, zero in the middle."""
        ways = zip(self.window, self.scan.geometry.angle, self.bins, strict=True)
        y, x = ((torch.arange(n) - n // 2) * (a * k / self.semiangle) for n, a, k in ways)
        return torch.hypot(y[:, None], x)

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """Shares of detector rows, and columns, in those of the network."""
        tables = []
        ways = zip(self.scan.geometry.shape, self.window, self.bins, self.offset, strict=True)
        for many, few, k, offset in ways:
            place = torch.arange(few * k) - few * k // 2 + many // 2 + round(offset)
            there = (place >= 0) & (place < many)
            table = torch.zeros(few, many)
            table[:, place[there]] = detect.area_weights(few * k, few)[:, there]
            tables.append(table)
        return tables[0], tables[1]

    def build_mask(self, good: np.ndarray) -> Tensor:
        """The network's pixels ``(y, x)`` that are measured and read, zero angle in the middle."""
        rows, columns = self._tables
        cover = rows @ torch.from_numpy(good.astype(np.float32)) @ columns.T / math.prod(self.bins)
        return ((cover > MIN_COVER) & (self.angle <= MAX_REACH)).float()

    def read(self, good: np.ndarray) -> Tensor:
        """Counts ``(pattern, y, x)`` on the network's detector, zero angle in the corner."""
        rows, columns = self._tables
        index = np.arange(len(self.scan))
        parts = np.array_split(index, -(-len(index) // READ_AT_ONCE))
        counts = (torch.from_numpy(read_counts(self.scan, good, part)) for part in parts)
        return shift_to_corner(torch.cat([rows @ some @ columns.T for some in counts]))

    def build_probe(self, optics: BeamOptics) -> Tensor:
        """The wave of the beam, with a ramp for the part of a pixel that the disk lies beside the middle."""
        wave = probe_wave(
            self.window,
            self.pixel,
            wavelength=self.scan.geometry.wavelength,
            semiangle=self.semiangle,
            aberrations=optics.aberrations,
            soft=True,
        )
        for axis, (n, k, offset) in enumerate(zip(self.window, self.bins, self.offset, strict=True)):
            turns = (offset - round(offset)) / k * (torch.arange(n) - n // 2) / n
            ramp = torch.polar(torch.ones(n), 2 * math.pi * turns)
            wave = wave * (ramp[:, None] if axis == 0 else ramp)
        return wave

    @cached_property
    def step(self) -> float:
        """Median distance of a position to the next, angstrom."""
        positions = self.scan.positions
        return float(np.median(KDTree(positions).query(positions, k=2)[0][:, 1]))

    @cached_property
    def low(self) -> tuple[float, float]:
        """Position of pixel ``[0, 0]`` of the whole object, pixels."""
        first = np.floor(self.scan.positions.min(0) / self.pixel) - np.array(self.window) // 2 - 2
        return float(first[0]), float(first[1])

    @cached_property
    def places(self) -> np.ndarray:
        """Positions ``(n, 2)``, pixels of the whole object."""
        return self.scan.positions / np.array(self.pixel) - self.low

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Pixels of the whole object, into which all windows fit."""
        rows, columns = (np.ceil(self.places.max(0)) + np.array(self.window) // 2 + 2).astype(int).tolist()
        return rows, columns

    def find_area(self) -> tuple[slice, slice]:
        """Pixels between the probes, and a step around."""
        around = self.step / np.array(self.pixel)
        first = np.floor(self.places.min(0) - around).clip(0).astype(int)
        last = np.minimum(np.ceil(self.places.max(0) + around).astype(int) + 1, self.shape)
        return slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))


def _require_range(scan: Scan4D, layout: _Layout, unit: float) -> None:
    """Refuse what the training had nothing of."""
    if len(scan) < MIN_PATTERNS:
        raise BadInput(
            "scan", f"{len(scan)} patterns", f"are too few for this model: {MIN_PATTERNS} at least"
        )
    most = MAX_DEFOCUS * unit / layout.semiangle
    if abs(layout.defocus) > MAX_DEFOCUS:
        fix = (
            f"is beyond the {most:.3g} A that this model was trained for with this beam: reconstruct instead"
        )
        raise BadInput("defocus", f"{layout.defocus * unit / layout.semiangle:.4g} A", fix)
    if layout.step > MAX_STEP * unit:
        fix = f"is beyond the {MAX_STEP * unit:.3g} A that this model was trained for with this beam"
        raise BadInput("step", f"{layout.step:.4g} A", fix + ": reconstruct instead")
    pixel = max(scan.geometry.angle)
    largest = scan.geometry.wavelength / (unit * (2 * abs(layout.defocus) + MIN_UNITS_AROUND_PROBE))
    largest = min(largest, pixel * min(layout.window) / (MIN_WINDOW - 4))
    if pixel > largest:
        fix = f"is too coarse for the width of this probe, which needs {1e3 * largest:.3g} mrad or less: bin "
        fix += "less, or take a longer camera length"
        raise BadInput("detector pixel", f"{1e3 * pixel:.3g} mrad", fix)
    reach = min(n // 2 * a for n, a in zip(scan.geometry.shape, scan.geometry.angle, strict=True))
    if reach < MIN_REACH * layout.semiangle:
        fix = f"misses what this model reads: it has to see {1e3 * MIN_REACH * layout.semiangle:.3g} mrad"
        raise BadInput("detector", f"a reach of {1e3 * reach:.3g} mrad", fix)
