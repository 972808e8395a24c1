"""Least squares for scans of any positions, whose frequencies mix, by conjugate gradients.

Positions off a raster make one system of equations of all frequencies. The equations of a raster, a small
system for each frequency, are near enough to it that a few steps are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.nonuniform import NonuniformSampling
from phaseloom.direct.transfer import LinearOptics, compute_columns

__all__ = ["DataResidual", "MixedEquations"]

MAX_STEPS = 10
"""Steps of conjugate gradients."""

TOLERANCE = 1e-4
"""Share of the preconditioned residual at which steps end."""

MAX_ELEMENTS_AT_ONCE = 4_000_000
"""Columns that are computed at once: frequencies times pixels."""

MAX_ELEMENTS_KEPT = 30_000_000
"""The same that are kept from step to step: half a gigabyte of complex128."""


class DataResidual(NamedTuple):
    """What an object leaves of the data, in units of counting noise.

    Attributes:
        energy: ``(frequency,)`` what is to be explained.
        left: ``(frequency,)`` what is not.
    """

    energy: Float[Tensor, " frequency"]
    left: Float[Tensor, " frequency"]


@dataclass(frozen=True, eq=False)
class MixedEquations:
    """The normal equations of a scan of any positions, applied without being built.

    Attributes:
        optics: the model.
        spectrum: with its `NonuniformSampling`.
        used: frequencies that the object has.
        columns: of the model in pieces of pixels, if they are few enough to be kept.
    """

    optics: LinearOptics
    spectrum: Spectrum
    used: Int[Tensor, " frequency"]
    columns: tuple[Tensor, ...] | None

    @classmethod
    def of(
        cls, optics: LinearOptics, spectrum: Spectrum, used: Int[Tensor, " frequency"], /
    ) -> MixedEquations:
        """The equations, with their columns where memory allows."""
        made = cls(optics, spectrum, used, None)
        if len(used) * len(spectrum.place) > MAX_ELEMENTS_KEPT:
            return made
        return cls(optics, spectrum, used, tuple(part for _, part in made._list_columns()))

    @property
    def sampling(self) -> NonuniformSampling:
        """Of the positions."""
        assert self.spectrum.sampling is not None
        return self.spectrum.sampling

    def right(self) -> Complex[Tensor, "frequency column"]:
        """Columns times data."""
        return sum(
            (
                torch.einsum(
                    "fkc,fk->fc", columns.conj(), self.sampling.values[self.used][:, pixels] * counts
                )
                for pixels, counts, columns in self._pieces()
            ),
            torch.zeros((), dtype=self.spectrum.values.dtype),
        )

    def apply(self, values: Complex[Tensor, "frequency column"], /) -> Complex[Tensor, "frequency column"]:
        """The normal equations times an object."""
        out = torch.zeros_like(values)
        for _, counts, columns in self._pieces():
            seen = torch.einsum("fkc,fc->fk", columns, values)
            mixed = self.sampling.mix_frequencies(seen, self.used)
            out += torch.einsum("fkc,fk->fc", columns.conj(), mixed * counts)
        return out

    def measure(self, values: Complex[Tensor, "frequency column"], /) -> DataResidual:
        """Energy and what is left of it, by frequency."""
        energy = torch.zeros_like(self.spectrum.frequency[self.used, 0])
        left = torch.zeros_like(energy)
        for pixels, counts, columns in self._pieces():
            seen = torch.einsum("fkc,fc->fk", columns, values)
            data = self.sampling.values[self.used][:, pixels]
            energy += data.abs().square() @ counts
            left += (data - self.sampling.mix_frequencies(seen, self.used)).abs().square() @ counts
        return DataResidual(energy, left)

    def multiply(self, one: Tensor, other: Tensor, /) -> float:
        """Inner product of two real objects by half of their frequencies."""
        _, columns = self.spectrum.grid or (0, 0)
        column = self.used % (columns // 2 + 1)
        twice = torch.where(column == 0, 1.0, 2.0).to(self.spectrum.counts.dtype)
        return float((one.conj() * other).real.sum(-1) @ twice)

    def solve(
        self,
        prior: Float[Tensor, "frequency column"],
        precondition: Callable[[Tensor], Tensor],
        start: Complex[Tensor, "frequency column"],
        /,
        *,
        steps: int = MAX_STEPS,
    ) -> Complex[Tensor, "frequency column"]:
        """The object that explains most, less what the prior costs.

        Args:
            prior: is added to the diagonal; infinite: a component that stays 0.
            precondition: solves the equations of a raster with this prior.
            start: an object to begin with.
            steps: at most so many.
        """
        shown = torch.isfinite(prior)
        finite = torch.where(shown, prior, torch.zeros_like(prior))
        right = self.right()
        values = torch.where(shown, start, torch.zeros_like(start))
        residual = torch.where(shown, right - self.apply(values) - finite * values, torch.zeros_like(right))
        direction = torch.zeros_like(values)
        first = before = 0.0
        for _ in range(steps):
            moved = precondition(residual)
            slope = self.multiply(residual, moved)
            first = first or self.multiply(right, precondition(right))
            if slope <= TOLERANCE**2 * first:
                break
            direction = moved + (slope / before if before else 0.0) * direction
            before = slope
            bent = torch.where(shown, self.apply(direction) + finite * direction, torch.zeros_like(right))
            length = slope / self.multiply(direction, bent)
            values = values + length * direction
            residual = residual - length * bent
        return values

    def _pieces(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Pixels, their counts and columns."""
        pieces = self._list_columns() if self.columns is None else self._list_kept()
        for pixels, columns in pieces:
            yield pixels, self.spectrum.counts[pixels], columns

    def _list_columns(self) -> Iterator[tuple[slice, Tensor]]:
        for pixels in self._list_pixels():
            place = self.spectrum.place[pixels]
            frequency = self.spectrum.frequency[self.used]
            yield pixels, compute_columns(self.optics, place, frequency, edge=self.spectrum.edge)

    def _list_kept(self) -> Iterator[tuple[slice, Tensor]]:
        assert self.columns is not None
        return zip(self._list_pixels(), self.columns, strict=True)

    def _list_pixels(self) -> list[slice]:
        size = max(1, MAX_ELEMENTS_AT_ONCE // max(1, self.sampling.mixing.numel()))
        return [slice(first, first + size) for first in range(0, len(self.spectrum.place), size)]
