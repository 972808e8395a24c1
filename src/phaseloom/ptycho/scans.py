"""Where the beam was: positions of the windows on the object, and their refinement."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["Canvas", "Positions", "canvas"]

SPARSEST = 2.0
"""Object pixels per pixel of all windows together; more is taken for a mistake in a unit."""


@dataclass(frozen=True)
class Canvas:
    """The object array that a scan needs: its size and where its first pixel lies.

    Attributes:
        shape: object pixels (y, x).
        window: pixels of the probe (y, x).
        pixel: angstrom (y, x).
        origin: position in angstrom (y, x) of the centre of object pixel ``[0, 0]``.
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    pixel: tuple[float, float]
    origin: tuple[float, float]


def canvas(scan: Scan4D, /, *, border: int = 8) -> Canvas:
    """Room for every window of a scan and ``border`` pixels for positions that move.

    Raises:
        BadInput: positions so far apart that their unit must be wrong.
    """
    geometry = scan.geometry
    pixel = np.array(geometry.pixel)
    low, high = scan.positions.min(0) / pixel, scan.positions.max(0) / pixel
    shape = np.ceil(high - low).astype(int) + np.array(geometry.shape) + 2 * border + 1
    room, windows = float(shape[0]) * float(shape[1]), len(scan) * float(np.prod(geometry.shape))
    if room > SPARSEST * windows + 1e6:
        fix = f"object pixels are too many for {len(scan)} windows: check the units of positions and pixel"
        raise BadInput("scan.positions", f"{shape[0]} x {shape[1]}", fix)
    first = low - np.array(geometry.shape) // 2 - border
    place = tuple((first * pixel).tolist())
    return Canvas((int(shape[0]), int(shape[1])), geometry.shape, geometry.pixel, place)


class Positions(nn.Module):
    """Beam positions in object pixels: what was written down plus what was refined.

    ``forward(index)`` gives the top-left pixel of each window, and the rest, within half a pixel, by
    which the probe itself is moved.

    Attributes:
        offsets: ``(n, 2)`` refined shift of each position, object pixels (y, x); a parameter.
        affine: ``(2, 2)`` common scale, shear and rotation, as the shift in pixels that it gives the
            farthest position: errors of the scan's calibration move together; a parameter.
        start: ``(n, 2)`` positions as measured, object pixels of the canvas.
    """

    start: Tensor

    def __init__(self, start: Float[Tensor, "n 2"], canvas: Canvas):
        super().__init__()
        self.canvas = canvas
        self.register_buffer("start", start)
        self.offsets = nn.Parameter(torch.zeros_like(start))
        self.affine = nn.Parameter(start.new_zeros(2, 2))

    @classmethod
    def of(cls, scan: Scan4D, canvas: Canvas) -> "Positions":
        """Positions of a scan on its canvas."""
        pixels = (scan.positions - np.array(canvas.origin)) / np.array(canvas.pixel)
        return cls(torch.as_tensor(pixels, dtype=torch.float32), canvas)

    def refined(self) -> Float[Tensor, "n 2"]:
        """All positions as they are now, object pixels of the canvas."""
        arm = self.start - self.start.mean(0)
        arm = arm / arm.abs().max().clamp(min=1e-6)
        return self.start + arm @ self.affine.T + self.offsets

    def forward(self, index: Int[Tensor, " b"]) -> tuple[Int[Tensor, "b 2"], Float[Tensor, "b 2"]]:
        """Corner of the window and remaining shift of the probe for each pattern."""
        place = self.refined()[index]
        window = torch.tensor(self.canvas.window, device=place.device)
        room = torch.tensor(self.canvas.shape, device=place.device) - window
        corner = torch.round(place.detach()).long() - window // 2
        corner = torch.minimum(corner.clamp(min=0), room)
        return corner, place - (corner + window // 2)

    def angstrom(self) -> np.ndarray:
        """Refined positions in the frame of the scan, angstrom ``(n, 2)``."""
        pixels = self.refined().detach().cpu().double().numpy()
        return pixels * np.array(self.canvas.pixel) + np.array(self.canvas.origin)
