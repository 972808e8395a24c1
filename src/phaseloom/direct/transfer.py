"""The linear model of a scan: how a weak object changes the pixels of the bright-field disk.

An object ``exp(i phase - amplitude)`` of small phase and amplitude changes the intensity of detector pixel
``k`` over the scan. Relative to that of the empty disk, and Fourier transformed over the scan (``Q``),

``G(k, Q) = i (t1 - t2) phase(Q) - (t1 + t2) amplitude(Q)``

``t1 = A(k - Q) exp(i chi(k) - i chi(k - Q))``, ``t2 = A(k + Q) exp(i chi(k + Q) - i chi(k))``,

with the pupil ``A exp(-i chi)`` of `phaseloom.physics.optics`. Everything that an instrument does to the data
is in these columns: the patterns themselves are never turned, shifted or interpolated.

Source: Rodenburg, McCallum & Nellist 1993, doi 10.1016/0304-3991(93)90105-7; depth and partial coherence:
Nellist & Rodenburg 1994, doi 10.1016/0304-3991(94)90092-2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.physics.optics import aberration_change, aberration_polynomial, coefficients, to_cartesian

__all__ = [
    "LinearOptics",
    "SideBands",
    "compute_aperture",
    "compute_bands",
    "compute_chi",
    "compute_columns",
    "orientation_matrix",
    "turn_matrix",
    "turn_phase",
]

Number = float | Tensor


def orientation_matrix(way: int, /) -> np.ndarray:
    """What turns detector coordinates (row, column), as row vectors, in one of eight ways: ``k @ matrix``.

    Args:
        way: a sum of 1, rows in reverse, 2, columns in reverse, and 4, both exchanged, done last
            (as in `phaseloom.data.orientations`).

    Example:
        >>> (np.array([[1.0, 2.0]]) @ orientation_matrix(5)).tolist()
        [[2.0, -1.0]]
    """
    mirror = np.diag([-1.0 if way & 1 else 1.0, -1.0 if way & 2 else 1.0])
    return mirror @ np.array([[0.0, 1.0], [1.0, 0.0]]) if way & 4 else mirror


def turn_matrix(angle: float, /) -> np.ndarray:
    """What turns row vectors (row, column) from the row axis towards the column axis: ``q @ matrix``.

    Args:
        angle: radian.

    Example:
        >>> (np.array([[1.0, 0.0]]) @ turn_matrix(math.pi / 2)).round(9).tolist()
        [[0.0, 1.0]]
    """
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


@dataclass(frozen=True, eq=False)
class LinearOptics:
    """Optics and geometry of the linear model; each number may be a tensor that asks for gradients.

    Attributes:
        wavelength: angstrom.
        semiangle: of the aperture, radian.
        aberrations: cartesian Krivanek coefficients (``C10, C12a, C12b, C21a ...``), angstrom, where the
            object is (of a thick one: in the middle of its depth); ``C10 = -defocus``.
        orientation: how the detector lies, one of eight ways: see `orientation_matrix`.
        rotation: by which positions have to be turned to the detector so laid, radian, from the row axis
            towards the column axis.
        step: factor on all positions.
        angle: factor on what a detector pixel sees.
        centre: of the disk against the place that was taken for it, (row, column), cycles per angstrom.
        source_size: standard deviation of the source on the object along each axis, angstrom.
        focal_spread: standard deviation of the focus, angstrom.
        depths: of the planes of the object along the beam from where the aberrations hold, angstrom; one for
            a thin object.

    Example:
        >>> optics = LinearOptics.of(wavelength=0.0197, semiangle=0.02, aberrations={"defocus": 100.0})
        >>> optics.aberrations["C10"]
        -100.0
    """

    wavelength: float
    semiangle: Number
    aberrations: Mapping[str, Number] = field(default_factory=dict)
    orientation: int = 0
    rotation: Number = 0.0
    step: Number = 1.0
    angle: Number = 1.0
    centre: tuple[Number, Number] = (0.0, 0.0)
    source_size: Number = 0.0
    focal_spread: Number = 0.0
    depths: tuple[Number, ...] = (0.0,)

    @classmethod
    def of(
        cls, *, wavelength: float, semiangle: float, aberrations: Mapping[str, float] | None = None
    ) -> LinearOptics:
        """Optics with aberrations of any names that `phaseloom.physics.optics.coefficients` understands.

        Args:
            wavelength: angstrom.
            semiangle: radian.
            aberrations: angstrom and radian.
        """
        return cls(wavelength, semiangle, to_cartesian(coefficients(aberrations or {})))

    @property
    def defocus(self) -> float:
        """Angstrom; positive: under-focus."""
        return -float(self.aberrations.get("C10", 0.0))

    def get_twin(self) -> LinearOptics:
        """What explains the patterns as well, by the opposite phase: the scan turned by 180 degrees."""
        opposite = {name: -value for name, value in self.aberrations.items()}
        return replace(self, rotation=self.rotation + math.pi, aberrations=opposite)

    def orient_pixels(self, place: Float[Tensor, "pixel 2"], /) -> Float[Tensor, "pixel 2"]:
        """Detector places as they would be had the detector been laid and calibrated as it should be."""
        centre = torch.stack([torch.as_tensor(one, dtype=place.dtype) for one in self.centre])
        lay = torch.as_tensor(orientation_matrix(self.orientation), dtype=place.dtype)
        return (place - centre.to(place.device)) @ lay.to(place.device) * self.angle

    def turn_frequencies(self, frequency: Float[Tensor, "frequency 2"], /) -> Float[Tensor, "frequency 2"]:
        """Frequencies of the scan as stated in the frame of the detector."""
        angle = torch.as_tensor(self.rotation, dtype=frequency.dtype)
        c = torch.cos(angle)
        s = torch.sin(angle)
        row, column = frequency.unbind(-1)
        return torch.stack([row * c - column * s, row * s + column * c], -1) / self.step


def compute_columns(
    optics: LinearOptics,
    place: Float[Tensor, "pixel 2"],
    frequency: Float[Tensor, "frequency 2"],
    /,
    *,
    edge: float = 0.0,
    amplitude: bool = True,
) -> Complex[Tensor, "frequency pixel column"]:
    """What each detector pixel does at each frequency of the scan for one radian of phase (and amplitude).

    Columns are the phase of each plane, then the amplitude of each plane.

    Args:
        optics: see `LinearOptics`.
        place: of detector pixels about the middle of the disk, cycles per angstrom (row, column), as they
            were read; all inside of the disk.
        frequency: of the scan, cycles per angstrom (row, column), in the frame of the stated positions.
        edge: width over which the rim of the aperture is spread, cycles per angstrom: that of a pixel.
        amplitude: with columns of the amplitude.

    Example:
        >>> optics = LinearOptics.of(wavelength=0.02, semiangle=0.02)
        >>> place, frequency = torch.zeros(1, 2), torch.tensor([[0.3, 0.0]])
        >>> compute_columns(optics, place, frequency).flatten().tolist()  # in focus: no phase contrast
        [0j, (-2-0j)]
    """
    bands = compute_bands(optics, place, frequency, edge=edge)
    sides = [bands.compute_waves(number) for number in range(len(optics.depths))]
    phases = [1j * (t1 - t2) for t1, t2 in sides]
    amplitudes = [-(t1 + t2) for t1, t2 in sides] if amplitude else []
    return torch.stack([*phases, *amplitudes], -1)


class SideBands(NamedTuple):
    """The two waves that meet the direct one at each pixel: ``t1`` and ``t2`` of the model.

    Attributes:
        before: ``(frequency, pixel)`` size of ``t1``.
        after: that of ``t2``.
        first: for each plane ``(frequency, pixel)`` phase of ``t1``, radian.
        second: that of ``t2``.
    """

    before: Float[Tensor, "frequency pixel"]
    after: Float[Tensor, "frequency pixel"]
    first: tuple[Float[Tensor, "frequency pixel"], ...]
    second: tuple[Float[Tensor, "frequency pixel"], ...]

    def compute_waves(
        self, plane: int, /
    ) -> tuple[Complex[Tensor, "frequency pixel"], Complex[Tensor, "frequency pixel"]]:
        """``t1`` and ``t2`` of a plane."""
        return self.before * turn_phase(self.first[plane]), self.after * turn_phase(self.second[plane])


def compute_bands(
    optics: LinearOptics,
    place: Float[Tensor, "pixel 2"],
    frequency: Float[Tensor, "frequency 2"],
    /,
    *,
    edge: float = 0.0,
) -> SideBands:
    """What of `compute_columns` depends on the optics.

    Args:
        optics: see `LinearOptics`.
        place: as there, and the others.
        frequency: of the scan.
        edge: of the aperture.
    """
    k = optics.orient_pixels(place)
    q = optics.turn_frequencies(frequency)
    along = 2 * q @ k.T
    square = q.square().sum(-1)[:, None]
    inside = k.square().sum(-1)[None] + square
    before = _limit(optics, inside - along, edge)
    after = _limit(optics, inside + along, edge)
    if isinstance(optics.focal_spread, Tensor) or optics.focal_spread:
        # lengths of the excitation errors, per angstrom: what defocus and depth multiply
        before = before * _blur_focus(optics, optics.wavelength / 2 * (along - square))
        after = after * _blur_focus(optics, optics.wavelength / 2 * (along + square))
    if isinstance(optics.source_size, Tensor) or optics.source_size:
        left = torch.exp(-2 * math.pi**2 * optics.source_size**2 * square)
        before, after = before * left, after * left
    first, second = [], []
    for depth in optics.depths:  # a plane deeper by some length is one more in focus by it
        there = {**optics.aberrations, "C10": optics.aberrations.get("C10", 0.0) + depth}
        first.append(-aberration_change(k, -q, optics.wavelength, there))
        second.append(aberration_change(k, q, optics.wavelength, there))
    return SideBands(before, after, tuple(first), tuple(second))


def turn_phase(angle: Float[Tensor, "*place"], /) -> Complex[Tensor, "*place"]:
    """``exp(i angle)``, in a third of the time that `torch.polar` takes.

    Example:
        >>> turn_phase(torch.tensor([0.0, math.pi / 2])).imag.tolist()
        [0.0, 1.0]
    """
    return torch.complex(torch.cos(angle), torch.sin(angle))


def compute_chi(optics: LinearOptics, k: Float[Tensor, "*place 2"], /) -> Float[Tensor, "*place"]:
    """Aberration phase at places in the frame of `LinearOptics.orient_pixels`, radian.

    Args:
        optics: for wavelength and aberrations.
        k: cycles per angstrom (row, column).
    """
    row, column = k.unbind(-1)
    return aberration_polynomial(row, column, optics.wavelength, optics.aberrations)


def compute_aperture(
    optics: LinearOptics, k: Float[Tensor, "*place 2"], edge: float, /
) -> Float[Tensor, "*place"]:
    """The aperture, 0 to 1.

    Args:
        optics: for wavelength and semi-angle.
        k: cycles per angstrom (row, column).
        edge: width over which the rim is spread, cycles per angstrom.
    """
    return _limit(optics, k.square().sum(-1), edge)


def _limit(optics: LinearOptics, square: Tensor, edge: float) -> Tensor:
    """The aperture where the square of a frequency is so much."""
    limit = optics.semiangle / optics.wavelength
    radius = square.clamp_min(1e-30).sqrt()
    if not edge:
        return (radius <= limit).to(square.dtype)
    return ((limit - radius) / edge + 0.5).clamp(0, 1)


def _blur_focus(optics: LinearOptics, away: Float[Tensor, "frequency pixel"]) -> Tensor:
    """What a spread of focus leaves of a band."""
    return torch.exp(-2 * math.pi**2 * optics.focal_spread**2 * away.square())
