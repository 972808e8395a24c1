"""The canvas of an object: its pixels in the frame of a scan, and windows at positions on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.tiles import Tiling
from phaseloom.physics.filters import SINC_TAPS

__all__ = ["Canvas", "canvas"]

MAX_OBJECT_TO_WINDOW_PIXELS = 2.0
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
        tiling: which process holds which pixels; ``None``: each holds all of them.
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    pixel: tuple[float, float]
    origin: tuple[float, float]
    middle: tuple[float, float] | None = None
    tiling: Tiling | None = field(default=None, compare=False, repr=False)

    @property
    def held_shape(self) -> tuple[int, int]:
        """Object pixels (y, x) that this process holds."""
        return self.shape if self.tiling is None else self.tiling.size

    @property
    def held_corner(self) -> tuple[int, int]:
        """The first of them (y, x)."""
        return (0, 0) if self.tiling is None else (self.tiling.box[0], self.tiling.box[2])


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
    low = scan.positions.min(0) / pixel
    high = scan.positions.max(0) / pixel
    margin = border if border is not None else 8 + min(64, int(0.04 * (high - low).max()))
    margin += measure_cone_margin(geometry, scan.heights)
    shape = np.ceil(high - low).astype(int) + np.array(geometry.shape) + 2 * margin + 1
    room = float(shape[0]) * float(shape[1])
    windows = len(scan) * float(np.prod(geometry.shape))
    if room > MAX_OBJECT_TO_WINDOW_PIXELS * windows + 1e6:
        fix = f"object pixels are too many for {len(scan)} windows: check the units of positions and pixel"
        raise BadInput("scan.positions", f"{shape[0]} x {shape[1]}", fix)
    first = low - np.array(geometry.shape) // 2 - margin
    place = tuple((first * pixel).tolist())
    middle = tuple(scan.positions.mean(0).tolist())
    return Canvas((int(shape[0]), int(shape[1])), geometry.shape, geometry.pixel, place, middle)


def measure_cone_margin(geometry: Geometry, heights: np.ndarray | None, /) -> int:
    """Object pixels on each side that windows need at heights of a cone beam, besides their own."""
    fan = 0.0 if heights is None else cone_beam_curvature(geometry)
    if heights is None or not fan:
        return 0
    most = float((1 - fan * (heights - heights.mean())).max()) - 1
    return math.ceil(max(geometry.shape) / 2 * most) + SINC_TAPS


def cone_beam_curvature(geometry: Geometry, /) -> float:
    """``1 / focus`` of a near field behind a cone beam, else 0, per angstrom."""
    return 1 / geometry.focus if geometry.near and geometry.focus else 0.0


Place = Sequence[float] | np.ndarray
"""A position (y, x), angstrom."""

MAX_PIXEL_MISMATCH = 1e-3
"""Pixels by which a place may miss a pixel's middle and still be that pixel."""


def lay_window(
    whole: Complex[Tensor, "state slice v u"],
    wave: Complex[Tensor, "*some y x"],
    canvas: Canvas,
    /,
    *,
    at: Place,
    pixel: tuple[float, float] | None = None,
) -> Complex[Tensor, "state slice v u"]:
    """The object with a window in place of what was there; see `PixelObject.place_window`."""
    _check_window(wave, at)
    steps = _check_pixel(pixel if pixel is not None else canvas.pixel, "object.place_window: pixel")
    grids = zip(at, steps, wave.shape[-2:], canvas.origin, canvas.pixel, canvas.shape, strict=True)
    places = [
        (origin + np.arange(many) * own - where) / step + count // 2
        for where, step, count, origin, own, many in grids
    ]
    inside = [
        (p > -MAX_PIXEL_MISMATCH) & (p < n - 1 + MAX_PIXEL_MISMATCH)
        for p, n in zip(places, wave.shape[-2:], strict=True)
    ]
    if not all(one.any() for one in inside):
        raise BadInput(
            "object.place_window: at", tuple(at), "lies off the canvas: give angstrom in the scan's frame"
        )
    rows, columns = (slice(int(one.argmax()), int(one.argmax() + one.sum())) for one in inside)
    out = whole.clone()
    seen = [place[one] for place, one in zip(places, inside, strict=True)]
    out[..., rows, columns] = _interpolate(wave, *seen).to(out)
    return out


def read_window(
    whole: Complex[Tensor, "state slice v u"],
    canvas: Canvas,
    /,
    *,
    at: Place,
    shape: tuple[int, int],
) -> Complex[Tensor, "state slice y x"]:
    """The window of the object at a position; see `phaseloom.ptycho.objects.PixelObject.read_window`."""
    _check_position(at, "object.read_window: at")
    if len(shape) != 2 or not all(isinstance(count, (int, np.integer)) and count > 0 for count in shape):
        raise BadInput(
            "object.read_window: shape", tuple(shape), "must be two numbers of pixels above zero (y, x)"
        )
    grids = zip(at, shape, canvas.origin, canvas.pixel, strict=True)
    places = [(where - origin) / own + np.arange(count) - count // 2 for where, count, origin, own in grids]
    for place, many in zip(places, canvas.shape, strict=True):
        if place[0] < -MAX_PIXEL_MISMATCH or place[-1] > many - 1 + MAX_PIXEL_MISMATCH:
            fix = f"needs a window of {shape[0]} x {shape[1]} pixels that leaves the canvas"
            raise BadInput("object.read_window: at", tuple(at), fix)
    return _interpolate(whole, *places)


def _check_position(at: Place, place: str) -> None:
    if np.shape(at) != (2,) or not np.isfinite(np.asarray(at, float)).all():
        raise BadInput(place, np.asarray(at).tolist(), "must be two numbers (y, x), angstrom")


def _check_window(wave: Tensor, at: Place) -> None:
    _check_position(at, "object.place_window: at")
    if wave.ndim not in (2, 3, 4) or not wave.numel():
        fix = "must have the axes (y, x), (slice, y, x) or (state, slice, y, x)"
        raise BadInput("object.place_window: wave", tuple(wave.shape), fix)
    if not bool(torch.isfinite(wave).all()):
        raise BadInput("object.place_window: wave", None, "holds values that are not finite: repair them")


def _check_pixel(pixel: Sequence[float], place: str) -> tuple[float, float]:
    if not all(np.isfinite(step) and step > 0 for step in pixel):
        raise BadInput(place, tuple(pixel), "must be two lengths above zero, angstrom (y, x)")
    return pixel[0], pixel[1]


def _interpolate(wave: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """A wave at places counted in its pixels: pixels themselves, or by cubic splines between them."""
    from scipy.ndimage import map_coordinates

    whole = [np.round(places) for places in (rows, columns)]
    gaps = [np.abs(near - places).max() for near, places in zip(whole, (rows, columns), strict=True)]
    if max(gaps) < MAX_PIXEL_MISMATCH:
        sizes = zip(whole, wave.shape[-2:], strict=True)
        y, x = (torch.as_tensor(near.clip(0, n - 1).astype(int), device=wave.device) for near, n in sizes)
        return wave[..., y[:, None], x]
    grid = np.meshgrid(rows, columns, indexing="ij")
    flat = wave.detach().cpu().numpy().reshape(-1, *wave.shape[-2:])
    parts = [
        [map_coordinates(part, grid, order=3, mode="nearest") for part in (one.real, one.imag)]
        for one in flat
    ]
    values = np.stack([real + 1j * imag for real, imag in parts]).reshape(*wave.shape[:-2], *grid[0].shape)
    return torch.as_tensor(values, dtype=wave.dtype, device=wave.device)
