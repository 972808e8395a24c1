"""What the beam passes through."""

import math
from typing import Literal

import torch
from jaxtyping import Complex, Int
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.physics.patches import gather
from phaseloom.ptycho.scans import Canvas
from phaseloom.units import Length

__all__ = ["pixels"]

Kind = Literal["complex", "amplitude and phase", "phase"]


class PixelObject(nn.Module):
    """Transmission of one or more thin slices on a grid of pixels.

    ``forward(corner)`` cuts the windows ``(b, slice, y, x)`` of a batch.

    Attributes:
        wave: complex transmission (kind ``complex``).
        amplitude, phase: its modulus and phase in radian (kind ``amplitude and phase``).
        phase: radian, modulus fixed at one (kind ``phase``).
        thickness: distance between neighbouring slices, angstrom.
    """

    def __init__(
        self, start: Complex[Tensor, "slice y x"], kind: Kind, thickness: float, window: tuple[int, int]
    ):
        super().__init__()
        self.kind, self.thickness, self.window = kind, thickness, window
        if kind == "complex":
            self.wave = nn.Parameter(start)
        else:
            self.phase = nn.Parameter(start.angle())
        if kind == "amplitude and phase":
            self.amplitude = nn.Parameter(start.abs())

    def transmission(self) -> Complex[Tensor, "slice y x"]:
        """The whole object as a complex transmission."""
        if self.kind == "complex":
            return self.wave
        modulus = self.amplitude if self.kind == "amplitude and phase" else torch.ones_like(self.phase)
        return torch.polar(modulus, self.phase)

    def forward(self, corner: Int[Tensor, "b 2"]) -> Complex[Tensor, "b slice y x"]:
        """Windows of the object with the given top-left pixels."""
        return gather(self.transmission(), corner, self.window)


def pixels(
    canvas: Canvas, /, *, slices: int = 1, thickness: Length = 0.0, kind: Kind = "complex"
) -> PixelObject:
    """A flat object of pixels: transmission one everywhere.

    Args:
        canvas: see `phaseloom.ptycho.scans.canvas`.
        slices: number of slices along the beam.
        thickness: distance between neighbouring slices, angstrom.
        kind: ``complex`` leaves amplitude and phase free together; ``amplitude and phase`` gives each
            its own rate; ``phase`` fixes the amplitude at one.

    Raises:
        BadInput: no slices, or several without a distance between them.

    Example:
        >>> room = Canvas((40, 40), (16, 16), (1.0, 1.0), (0.0, 0.0))
        >>> pixels(room, slices=2, thickness=10.0, kind="phase").phase.shape
        torch.Size([2, 40, 40])
    """
    if slices < 1:
        raise BadInput("object: pixels.slices", slices, "must be at least 1")
    if slices > 1 and not (math.isfinite(thickness) and thickness > 0):
        raise BadInput(
            "object: pixels.thickness", thickness, "must be above zero when there are several slices"
        )
    start = torch.ones(slices, *canvas.shape, dtype=torch.complex64)
    return PixelObject(start, kind, thickness, canvas.window)
