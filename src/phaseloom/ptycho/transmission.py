"""Transmission of thin slices on a grid of pixels: the object of most experiments."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.physics.patches import gather
from phaseloom.physics.windowed_transmission import Glass, Mosaic, mosaic
from phaseloom.ptycho import canvas_windows as placed
from phaseloom.ptycho.scans import Canvas

__all__ = ["Kind", "PixelObject", "gaps_of", "shares"]

Kind = Literal["complex", "amplitude and phase", "phase"]


class PixelObject(nn.Module):
    """Transmission of thin slices on a grid of pixels, in one state or several.

    ``forward(corner)`` cuts the windows ``(b, state, slice, y, x)`` of a batch. States are mutually
    incoherent: the object spends a share ``occupancy`` of the time in each (thermal vibration, say).

    Attributes:
        wave: complex transmission ``(state, slice, y, x)`` (kind ``complex``).
        amplitude, phase: its modulus and phase in radian (kind ``amplitude and phase``).
        phase: radian, modulus fixed at one (kind ``phase``).
        gaps: distances between neighbouring slices, angstrom.
        canvas: where the pixels lie.
        occupancy: share of each state; they add to one.
    """

    occupancy: Tensor

    def __init__(
        self,
        start: Complex[Tensor, "state slice y x"],
        kind: Kind,
        gaps: tuple[float, ...],
        canvas: Canvas,
        occupancy: Float[Tensor, " state"] | None = None,
    ):
        super().__init__()
        self.kind, self.gaps, self.canvas, self.window = kind, gaps, canvas, canvas.window
        share = torch.full((len(start),), 1 / len(start)) if occupancy is None else occupancy
        self.register_buffer("occupancy", share)
        self._glass = Glass()
        if kind == "complex":
            self.wave = nn.Parameter(start)
        else:
            self.phase = nn.Parameter(start.angle())
        if kind == "amplitude and phase":
            self.amplitude = nn.Parameter(start.abs())

    @property
    def thickness(self) -> float:
        """Mean distance between neighbouring slices, angstrom."""
        return float(np.mean(self.gaps)) if self.gaps else 0.0

    @property
    def cell(self) -> float:
        """Area of what is free on its own, square angstrom: of a pixel."""
        return self.canvas.pixel[0] * self.canvas.pixel[1]

    def transmission(self) -> Complex[Tensor, "state slice y x"]:
        """The whole object as a complex transmission."""
        if self.kind == "complex":
            return self.wave
        modulus = self.amplitude if self.kind == "amplitude and phase" else torch.ones_like(self.phase)
        return torch.polar(modulus, self.phase)

    def cut(
        self, corner: Int[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b state slice y x"], Float[Tensor, "b state slice y x"]]:
        """Amplitude and phase of the windows with the given top-left pixels."""
        if self.kind == "complex":
            wave = gather(self.wave, corner, self.window)
            return wave.abs(), wave.angle()
        phase = gather(self.phase, corner, self.window)
        free = self.kind == "amplitude and phase"
        return gather(self.amplitude, corner, self.window) if free else torch.ones_like(phase), phase

    def mosaic(self, corner: Int[Tensor, "b 2"]) -> Mosaic:
        """The windows of an object of one state, as `phaseloom.physics.adjoint.far_waves` wants them."""
        leaves = {"complex": ("wave",), "phase": ("phase",)}.get(self.kind, ("amplitude", "phase"))
        return mosaic(tuple(getattr(self, name) for name in leaves), corner, self.window, glass=self._glass)

    def forward(self, corner: Int[Tensor, "b 2"]) -> Complex[Tensor, "b state slice y x"]:
        """Windows of the object with the given top-left pixels."""
        if self.kind == "complex":
            return gather(self.wave, corner, self.window)
        return torch.polar(*self.cut(corner))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined: ``object``, or ``amplitude`` and ``phase``."""
        if self.kind == "complex":
            return {"object": [self.wave]}
        return {name: [parameter] for name, parameter in self.named_parameters()}

    def bend(self, light: Float[Tensor, "slice y x"]) -> Float[Tensor, "slice y x"]:
        """What a light on the canvas bends the loss by, along each number of the object."""
        return light

    @torch.no_grad()
    def put(self, wave: Complex[Tensor, "state slice y x"]) -> None:
        """Take over a complex transmission; phases stay on their branch."""
        if self.kind == "complex":
            self.wave.copy_(wave)
            return
        self.phase += (wave * torch.polar(torch.ones_like(self.phase), -self.phase)).angle()
        if self.kind == "amplitude and phase":
            self.amplitude.copy_(wave.abs())

    @torch.no_grad()
    def lay(
        self,
        wave: Complex[Tensor | np.ndarray, "*slices y x"],
        /,
        *,
        at: placed.Place,
        pixel: tuple[float, float] | None = None,
    ) -> None:
        """Take over a known transmission where it lies in the frame of the scan; around it nothing changes.

        Args:
            wave: ``(y, x)`` for all slices and states, ``(slice, y, x)`` or ``(state, slice, y, x)``.
            at: position (y, x) of its middle pixel ``[N // 2, N // 2]``, angstrom; a window at a position
                of the scan is what the beam saw there.
            pixel: of the array (y, x), angstrom; default: that of the canvas. Between pixels cubic splines
                are taken.

        Raises:
            BadInput: a place off the canvas.

        Example:
            >>> from phaseloom.ptycho.objects import pixels
            >>> thing = pixels(Canvas((40, 40), (16, 16), (2.0, 2.0), (-30.0, 10.0)))
            >>> thing.lay(torch.full((3, 3), 1j), at=(0.0, 40.0))
            >>> thing.wave[0, 0, 13:18, 15].imag.tolist()
            [0.0, 1.0, 1.0, 1.0, 0.0]
        """
        self.put(placed.laid(self.transmission(), torch.as_tensor(wave), self.canvas, at=at, pixel=pixel))

    @torch.no_grad()
    def under(
        self, at: placed.Place, /, *, shape: tuple[int, int] | None = None
    ) -> Complex[Tensor, "state slice y x"]:
        """The transmission around a position (y, x) of the scan, angstrom, which is at ``[N // 2, N // 2]``.

        Between pixels cubic splines are taken. ``shape`` is that of a pattern unless given.

        Raises:
            BadInput: the window leaves the canvas.
        """
        size = shape or (self.window[0], self.window[1])
        return placed.under(self.transmission(), self.canvas, at=at, shape=size).clone()


def gaps_of(slices: int, thickness: float | Sequence[float], place: str) -> tuple[float, ...]:
    """One distance for each gap."""
    if slices < 1:
        raise BadInput(f"{place}.slices", slices, "must be at least 1")
    many = list(thickness) if isinstance(thickness, Sequence) else [float(thickness)] * (slices - 1)
    if len(many) == slices and slices > 1:
        many = many[:-1]  # thicknesses of slices: the last one has no flight behind it
    if len(many) != slices - 1:
        fix = f"gives {len(many)} distances, but {slices} slices have {slices - 1} gaps"
        raise BadInput(f"{place}.thickness", thickness, fix)
    if not all(math.isfinite(gap) and gap > 0 for gap in many):
        raise BadInput(f"{place}.thickness", thickness, "must be above zero when there are several slices")
    return tuple(many)


def shares(count: int, given: Any, place: str) -> Tensor:
    """Shares of states that add to one; all the same unless given."""
    if count < 1:
        raise BadInput("object: modes", count, "must be at least 1")
    share = torch.full((count,), 1 / count) if given is None else torch.tensor(list(given))
    if len(share) != count or not bool((share > 0).all() and share.isfinite().all()):
        raise BadInput(place, given, f"must be {count} positive numbers, one for each state")
    return (share / share.sum()).float()
