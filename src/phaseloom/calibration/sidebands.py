"""What a thin object would make of the bright-field disk: a quick judge of defocus and of how a scan lies.

A weak phase object scatters each of its spatial frequencies into two bands on the detector, of known phase.
How much of what changes in the disk from pattern to pattern such bands explain needs no iteration, so that
thousands of defocus values and directions of the scan can be tried. Strong and thick objects are explained
in part only, mostly still best where the truth is.

Source: Rodenburg, McCallum & Nellist, Ultramicroscopy 48 (1993) 304, doi 10.1016/0304-3991(93)90105-7.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Complex, Float

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["Sidebands", "sidebands"]

MAX_PIXELS_IN_DISK = 200
"""Detector pixels in the disk that are looked at, about."""

Frame = Float[np.ndarray, "2 2"]


@dataclass(frozen=True, eq=False)
class Sidebands:
    """Changes in the bright-field disk over a scan, by spatial frequency.

    Attributes:
        spectrum: of the relative change of each pixel ``(frequency, pixel)``.
        frequency: of the scan ``(frequency, 2)``, cycles per angstrom along (row, column).
        place: of the pixels ``(pixel, 2)``, cycles per angstrom.
        wavelength: angstrom.
        edge: of the disk, cycles per angstrom.
    """

    spectrum: Complex[np.ndarray, "frequency pixel"]
    frequency: Float[np.ndarray, "frequency 2"]
    place: Float[np.ndarray, "pixel 2"]
    wavelength: float
    edge: float

    def strongest(self, count: int, /, highest: float = math.inf) -> "Sidebands":
        """The frequencies below ``highest`` that hold most of the change."""
        low = np.flatnonzero(np.hypot(*self.frequency.T) <= highest)
        power = np.square(np.abs(self.spectrum[low])).sum(1)
        kept = np.sort(low[np.argsort(-power, kind="stable")[:count]])
        return replace(self, spectrum=self.spectrum[kept], frequency=self.frequency[kept])

    def explained_share(self, frame: Frame, defocus: Float[np.ndarray, " d"], /) -> Float[np.ndarray, " d"]:
        """Share of the change that a weak phase object explains, for each defocus.

        Args:
            frame: takes frequencies of the scan to those of the detector: ``frequency @ frame``.
            defocus: angstrom; positive: under-focus.
        """
        there = self.frequency @ frame
        along = there @ self.place.T
        square = np.square(there).sum(1)[:, None]
        inside = np.square(self.place).sum(1)
        lower, upper = (inside + sign * 2 * along + square < self.edge**2 for sign in (-1, 1))
        total = np.square(np.abs(self.spectrum)).sum()
        out = np.empty(len(defocus))
        for number, one in enumerate(defocus):
            turn = -1j * math.pi * self.wavelength * one
            bend = np.exp(turn * square)
            bands = 1j * np.exp(2 * turn * along) * (lower / bend - upper * bend)
            most = np.square(np.abs(bands)).sum(1)
            found = np.square(np.abs((bands.conj() * self.spectrum).sum(1)))
            out[number] = (found[most > 0] / most[most > 0]).sum() / total
        return out


def sidebands(scan: Scan4D, semiangle: float, /) -> Sidebands:
    """The changes in the disk of a far-field scan, at the frequencies of its raster or of as many places.

    Args:
        scan: positions may lie anywhere; a raster costs no less.
        semiangle: of the disk, radian.

    Raises:
        BadInput: a disk of so few pixels that nothing can be told, or patterns that are all alike.

    Example:
        >>> from phaseloom.simulation import simulate
        >>> positions = simulate.raster((8, 8), 0.7) + 7.0
        >>> truth = simulate.atoms((100, 100), 0.2, peak=0.2, seed=1)
        >>> beam = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e6}
        >>> scan, _ = simulate.electron_scan(truth, 0.2, positions, **beam)
        >>> bands = sidebands(scan, 0.03)
        >>> [bool(share > 0.3) for share in bands.explained_share(np.eye(2), np.array([60.0, -60.0]))]
        [True, False]
    """
    one = scan.geometry
    edge = semiangle / scan.geometry.wavelength
    sizes = zip(one.shape, one.angle, strict=True)
    y, x = ((np.arange(n) - n // 2) * a / one.wavelength for n, a in sizes)
    away = np.hypot(y[:, None], x[None])
    disk = np.argwhere((away < edge * (1 - 0.5 * max(one.angle) / semiangle)) & scan.mask)
    if len(disk) < 12:
        fix = "pixels lie in the bright-field disk: say the semi-angle, or the angle of a pixel, rightly"
        raise BadInput("calibrate", f"{len(disk)}", fix)
    disk = disk[:: max(1, len(disk) // MAX_PIXELS_IN_DISK)]
    counts = np.stack([pattern[disk[:, 0], disk[:, 1]] for pattern in _each(scan)]).astype(np.float64)
    mean = counts.mean(0)
    changes = counts[:, mean > 0] / mean[mean > 0] - 1
    if not np.square(changes).sum() > 0:
        raise BadInput("calibrate", None, "finds nothing that changes in the bright-field disk")
    place = np.stack([y[disk[:, 0]], x[disk[:, 1]]], 1)[mean > 0]
    frequency = _frequencies(scan)
    high = np.hypot(*frequency.T)
    frequency = frequency[(high > 0) & (high < 2 * edge)]
    arm = scan.positions - scan.positions.mean(0)
    spectrum = np.exp(-2j * math.pi * frequency @ arm.T) @ changes
    return Sidebands(spectrum, frequency, place, one.wavelength, edge)


def _each(scan: Scan4D) -> Iterator[np.ndarray]:
    """The patterns one after the other, read in pieces."""
    for start in range(0, len(scan), 64):
        yield from np.asarray(scan.counts[np.arange(start, min(start + 64, len(scan)))])


def _frequencies(scan: Scan4D) -> Float[np.ndarray, "frequency 2"]:
    """Frequencies that a scan can tell apart, up to those of its density, in the frame of its positions."""
    low = scan.positions.min(0)
    high = scan.positions.max(0)
    field = np.maximum(high - low, 1e-9)
    across = np.maximum(2, np.round(np.sqrt(len(scan) * field / field[::-1]))).astype(int)
    wide = field * across / np.maximum(across - 1, 1)
    axes = (np.fft.fftfreq(n, w / n) for n, w in zip(across.tolist(), wide.tolist(), strict=True))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
