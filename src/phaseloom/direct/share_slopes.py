"""The share that a weak object explains, with its slopes in numbers of the optics, for hundreds of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.explained import RIDGE
from phaseloom.direct.transfer import LinearOptics
from phaseloom.physics.engine.misfit import list_compile_errors
from phaseloom.physics.fused_kernels import has_numba
from phaseloom.physics.optics import tabulate_aberration_change

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ShareSlopes"]

NUMBERS = ("rotation", "step", "semiangle", "focal_spread", "source_size")
"""What may move besides aberrations; the rest stays as it is in the optics."""


@dataclass(frozen=True, eq=False)
class ShareSlopes:
    """`phaseloom.direct.explained.measure_explained_share` and its slopes, by the chain rule written out.

    A graph of operations, made for each point and followed backwards, costs four times what the compiled
    kernel takes. Here its slopes, in phases and frequencies, are summed to those of the numbers.

    Attributes:
        optics: what does not move.
        amplitude: whether the object has one.
        edge: width of the rim of the aperture, cycles per angstrom.
        names: of the aberrations.
        powers: ``(monomial, 2)`` of angles (y, x).
        table: ``(coefficient, monomial of q, monomial of k)``.
        frequency: ``(frequency, 2)``, in the frame of the stated positions.
        k: ``(2, pixel)``.
        of_k: ``(monomial, pixel)``.
        root: ``(pixel,)`` of the counts.
        changes: ``(frequency, 2, pixel)`` real and imaginary part, times ``root``.
    """

    optics: LinearOptics
    amplitude: bool
    edge: float
    names: tuple[str, ...]
    powers: NDArray[np.int64]
    table: NDArray[np.float64]
    frequency: NDArray[np.float64]
    k: NDArray[np.float64]
    of_k: NDArray[np.float64]
    root: NDArray[np.float64]
    changes: NDArray[np.float64]

    @classmethod
    def of(
        cls, spectrum: Spectrum, optics: LinearOptics, moving: Sequence[str], /, *, amplitude: bool
    ) -> ShareSlopes | None:
        """For a spectrum and names of aberrations and `NUMBERS` that move; ``None``: there is no kernel.

        Args:
            spectrum: on the processor, of double precision.
            optics: plain numbers; where others move from.
            moving: names, such as ``C12a``, ``rotation``.
            amplitude: whether the object has one.
        """
        aberrations = {"C10": 0.0, **optics.aberrations, **{n: 0.0 for n in moving if n not in NUMBERS}}
        found = tabulate_aberration_change(tuple(aberrations), optics.wavelength)
        k = optics.orient_pixels(spectrum.place)
        is_known = k.dtype == torch.float64 and k.device.type == "cpu" and len(optics.depths) == 1
        can_move = {name[0] == "C" or name in NUMBERS for name in moving} <= {True}
        if found is None or not is_known or not can_move or not has_numba():
            return None
        powers, table = found
        root = spectrum.counts.sqrt()
        changes = torch.view_as_real(spectrum.values * root).movedim(-1, 1).contiguous().numpy()
        angles = optics.wavelength * np.ascontiguousarray(k.numpy().T)
        return cls(
            optics,
            amplitude,
            spectrum.edge,
            tuple(aberrations),
            powers,
            table,
            spectrum.frequency.numpy(),
            angles / optics.wavelength,
            np.ascontiguousarray(_raise(angles, powers)),
            root.numpy(),
            changes,
        )

    def __call__(self, moved: Mapping[str, float], /) -> tuple[float, dict[str, float]] | None:
        """The share where numbers are these, and its slope in each; ``None``: the kernel does not compile.

        Args:
            moved: numbers by name, in place of those of the optics.
        """
        from phaseloom.physics.engine.side_bands import explain_changes

        optics = self.optics
        numbers = {name: float(moved.get(name, getattr(optics, name))) for name in NUMBERS}
        values = [float(moved.get(name, optics.aberrations.get(name, 0.0))) for name in self.names]
        values[self.names.index("C10")] += float(optics.depths[0])
        shared = np.tensordot(values, self.table, 1)
        q = self._turn_frequencies(numbers)
        angles = optics.wavelength * q.T
        of_q = _raise(angles, self.powers).T
        sign = (-1.0) ** self.powers.sum(1)
        turns = np.stack([-(of_q * sign) @ shared, of_q @ shared])
        lens = [numbers["semiangle"] / optics.wavelength, self.edge, numbers["focal_spread"]]
        given = np.array([*lens, numbers["source_size"], optics.wavelength])
        slopes = np.empty_like(turns), np.empty_like(q), np.empty(3)
        known = self.k, given, self.root, self.changes, RIDGE, self.amplitude
        try:
            power = explain_changes(turns, self.of_k, q, *known, *slopes)
        except list_compile_errors():
            return None
        energy = float(np.square(self.changes).sum())
        found = self._sum_slopes(slopes, shared, (angles, of_q, sign), numbers)
        return power / energy, {name: value / energy for name, value in found.items()}

    def _turn_frequencies(self, numbers: Mapping[str, float]) -> NDArray[np.float64]:
        """As `LinearOptics.turn_frequencies`."""
        c = np.cos(numbers["rotation"])
        s = np.sin(numbers["rotation"])
        row, column = self.frequency.T
        return np.stack([row * c - column * s, row * s + column * c], -1) / numbers["step"]

    def _sum_slopes(
        self,
        slopes: tuple[np.ndarray, np.ndarray, np.ndarray],
        shared: np.ndarray,
        waves: tuple[np.ndarray, np.ndarray, np.ndarray],
        numbers: Mapping[str, float],
    ) -> dict[str, float]:
        """Slopes in numbers from those in phases of both bands, frequencies and lens."""
        (before, after), by_q, by_lens = slopes
        angles, of_q, sign = waves
        by_shared = of_q.T @ after - sign[:, None] * (of_q.T @ before)
        by_powers = after @ shared.T - (before @ shared.T) * sign
        y, x = (
            direct + self.optics.wavelength * (by_powers * _differentiate(angles, self.powers, axis).T).sum(1)
            for axis, direct in enumerate(by_q.T)
        )
        row, column = angles / self.optics.wavelength
        found = dict(zip(self.names, np.tensordot(self.table, by_shared).tolist(), strict=True))
        found["rotation"] = float(x @ row - y @ column)
        found["step"] = -float(y @ row + x @ column) / numbers["step"]
        found["semiangle"] = float(by_lens[0]) / self.optics.wavelength
        found["focal_spread"] = float(by_lens[1])
        found["source_size"] = float(by_lens[2])
        return found


def _raise(angles: NDArray[np.float64], powers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Monomials ``(monomial, place)`` of angles (y, x)."""
    ladder = [np.ones_like(angles)]
    for _ in range(int(powers.max())):
        ladder.append(ladder[-1] * angles)
    steps = np.stack(ladder)
    return steps[powers[:, 0], 0] * steps[powers[:, 1], 1]


def _differentiate(angles: NDArray[np.float64], powers: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    """Slopes of monomials ``(monomial, place)`` in one of the two angles."""
    less = powers.copy()
    less[:, axis] = np.maximum(less[:, axis] - 1, 0)
    return powers[:, axis, None] * _raise(angles, less)
