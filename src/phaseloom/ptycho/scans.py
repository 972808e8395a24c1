"""Where the beam was: positions of the windows on the object, and their refinement."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.cache import Kept, constant
from phaseloom.ptycho.axial import spread

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
        middle: mean of all positions, angstrom (y, x).
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    pixel: tuple[float, float]
    origin: tuple[float, float]
    middle: tuple[float, float] | None = None


def canvas(scan: Scan4D, /, *, border: int | None = None) -> Canvas:
    """Room for every window of a scan and a border for positions that move.

    Args:
        scan: the data.
        border: pixels on each side; default: 8 and 4 % of the scanned field, so that a wrong step or
            rotation can be corrected.

    Raises:
        BadInput: positions so far apart that their unit must be wrong.
    """
    geometry = scan.window
    pixel = np.array(geometry.pixel)
    low, high = scan.positions.min(0) / pixel, scan.positions.max(0) / pixel
    margin = border if border is not None else 8 + min(64, int(0.04 * (high - low).max()))
    margin += spread(geometry, scan.heights)
    shape = np.ceil(high - low).astype(int) + np.array(geometry.shape) + 2 * margin + 1
    room, windows = float(shape[0]) * float(shape[1]), len(scan) * float(np.prod(geometry.shape))
    if room > SPARSEST * windows + 1e6:
        fix = f"object pixels are too many for {len(scan)} windows: check the units of positions and pixel"
        raise BadInput("scan.positions", f"{shape[0]} x {shape[1]}", fix)
    first = low - np.array(geometry.shape) // 2 - margin
    place = tuple((first * pixel).tolist())
    middle = tuple(scan.positions.mean(0).tolist())
    return Canvas((int(shape[0]), int(shape[1])), geometry.shape, geometry.pixel, place, middle)


class Positions(nn.Module):
    """Beam positions in object pixels: what was written down plus what was refined.

    ``forward(index)`` gives the top-left pixel of each window, and the rest, within half a pixel, by
    which the probe itself is moved. Windows follow positions however far they move, up to the edge of
    the canvas.

    Errors of the scan's calibration move all positions together. Each is kept as the shift in pixels
    that it gives the farthest position, so that one rate serves scans of every size.

    Attributes:
        offsets: ``(n, 2)`` refined shift of each position, in units of ``step`` (y, x); a parameter.
        step: object pixels per unit of ``offsets``.
        affine: ``(2, 2)`` any linear map: scale, shear and rotation; a parameter.
        turn: rotation alone, from the row axis towards the column axis; a parameter.
        stretch: common scale alone; a parameter.
        lines: ``(slow, 2)`` shift of each line of a raster; a parameter, empty without a raster.
        start: ``(n, 2)`` positions as measured, object pixels of the canvas.
    """

    start: Tensor
    step: float = 1.0

    def __init__(self, start: Float[Tensor, "n 2"], canvas: Canvas, grid: tuple[int, int] | None = None):
        super().__init__()
        self.canvas, self.grid = canvas, grid
        self.register_buffer("start", start)
        self.offsets = nn.Parameter(torch.zeros_like(start))
        self.affine = nn.Parameter(start.new_zeros(2, 2))
        self.turn = nn.Parameter(start.new_zeros(()))
        self.stretch = nn.Parameter(start.new_zeros(()))
        self.lines = nn.Parameter(start.new_zeros(grid[0] if grid else 0, 2))
        self._mapped: Kept[Tensor] = Kept()
        self._turns: Kept[Tensor] = Kept()
        self._arms: Kept[tuple[Tensor, Tensor, Tensor]] = Kept()
        self._bounds: Kept[tuple[Tensor, Tensor]] = Kept()

    @classmethod
    def of(cls, scan: Scan4D, canvas: Canvas) -> "Positions":
        """Positions of a scan on its canvas."""
        pixels = (scan.positions - np.array(canvas.origin)) / np.array(canvas.pixel)
        return cls(torch.as_tensor(pixels, dtype=torch.float32), canvas, scan.grid)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by name."""
        return {
            "positions": [self.offsets],
            "affine": [self.affine],
            "rotation": [self.turn],
            "scale": [self.stretch],
            "lines": [self.lines] if self.grid else [],
        }

    def refined(self) -> Float[Tensor, "n 2"]:
        """All positions as they are now, object pixels of the canvas."""
        return torch.add(self._shared(), self.offsets, alpha=self.step)

    def _shared(self) -> Float[Tensor, "n 2"]:
        """Positions before each one's own shift; computed once while the scan's calibration stands still."""
        sources = (self.start, self.affine, self.turn, self.stretch, self.lines)
        return self._mapped.of(self._map, *sources) if constant(*sources) else self._map()

    def _map(self) -> Float[Tensor, "n 2"]:
        arm, reach, middle = self._arms.of(lambda: _arms(self.start), self.start)
        moved = torch.addmm(middle, arm, self.linear(reach).T)
        if self.grid is None:
            return moved
        return moved + self.lines.repeat_interleave(self.grid[1], dim=0)

    def linear(self, reach: Tensor) -> Float[Tensor, "2 2"]:
        """The map of the positions about their middle, whose farthest one lies ``reach`` pixels away."""
        sources = (reach, self.turn, self.stretch)
        still = constant(*sources)
        aspect = self.canvas.pixel[1] / self.canvas.pixel[0]
        turned = self._turns.of(lambda: _turned(*sources, aspect), *sources) if still else None
        return (_turned(*sources, aspect) if turned is None else turned) + self.affine / reach

    def forward(self, index: Int[Tensor, " b"]) -> tuple[Int[Tensor, "b 2"], Float[Tensor, "b 2"]]:
        """Corner of the window and remaining shift of the probe for each pattern."""
        own = self.offsets.index_select(0, index)
        place = torch.add(self._shared().index_select(0, index), own, alpha=self.step)
        half, room = self._bounds.of(self._bound, self.start)
        corner = (place.detach().round() - half).long().clamp(min=torch.zeros_like(room), max=room)
        return corner, place - (corner + half)

    def _bound(self) -> tuple[Tensor, Tensor]:
        """Half a window, and the last corner whose window lies on the canvas."""
        half = self.start.new_tensor(self.canvas.window) // 2
        room = [n - w for n, w in zip(self.canvas.shape, self.canvas.window, strict=True)]
        return half, torch.tensor(room, device=self.start.device)

    @torch.no_grad()
    def outside(self) -> int:
        """Number of positions that have moved beyond the edge of the canvas."""
        _, rest = self(torch.arange(len(self.start), device=self.start.device))
        return int((rest.abs() > 0.5 + 1e-3).any(1).sum())

    def angstrom(self) -> np.ndarray:
        """Refined positions in the frame of the scan, angstrom ``(n, 2)``."""
        pixels = self.refined().detach().cpu().double().numpy()
        return pixels * np.array(self.canvas.pixel) + np.array(self.canvas.origin)


def _arms(start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions about their middle, how far the farthest one lies, and the middle."""
    middle = start.mean(0)
    arm = start - middle
    return arm, arm.abs().max().clamp(min=1e-6), middle


def _turned(reach: Tensor, turn: Tensor, stretch: Tensor, aspect: float) -> Float[Tensor, "2 2"]:
    """Rotation and scale as a map of pixels whose sides have a ratio ``aspect`` (x over y)."""
    angle, factor = turn / reach, 1 + stretch / reach
    c, s = factor * torch.cos(angle), factor * torch.sin(angle)
    return torch.stack([torch.stack([c, -s * aspect]), torch.stack([s / aspect, c])])
