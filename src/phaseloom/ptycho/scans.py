"""Where the beam was: positions of the windows on the object, heights along the axis, their refinement."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.tiles import Tiling
from phaseloom.physics.cache import TensorCache, is_constant
from phaseloom.physics.filters import interpolate_windows
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.physics.tilted_planes import tilted_kernel
from phaseloom.ptycho import probes
from phaseloom.ptycho.canvas import Canvas, canvas, cone_beam_curvature, measure_cone_margin
from phaseloom.ptycho.illumination import measure_focal_depth

__all__ = ["Canvas", "Heights", "Positions", "canvas", "depth_of_focus", "estimate_motion"]
__all__ += ["heights_matter", "measure_height_sensitivity", "project_to_heights", "put_canvas_in_tiles"]


class PositionMap(NamedTuple):
    """Positions as ``fixed + (turned + affine / reach) arm``; see `Positions`.

    Attributes:
        arm: ``(n, 2)`` from the middle of the scan, object pixels.
        fixed: ``(n, 2)`` the middle, with the shift of each line.
        turned: ``(2, 2)`` rotation and scale.
        reach: how far the farthest position lies from the middle.
    """

    arm: Float[Tensor, "n 2"]
    fixed: Float[Tensor, "n 2"]
    turned: Float[Tensor, "2 2"]
    reach: float


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
        motion: ``(n, 2)`` way of the beam during each exposure, object pixels, of which the position is the
            middle; ``None``: the beam stood still.

    Source:
        Guizar-Sicairos & Fienup 2008, doi 10.1364/OE.16.007264.
    """

    start: Tensor
    motion: Tensor | None
    step: float = 1.0

    def __init__(
        self,
        start: Float[Tensor, "n 2"],
        canvas: Canvas,
        grid: tuple[int, int] | None = None,
        motion: Float[Tensor, "n 2"] | None = None,
    ):
        super().__init__()
        self.register_buffer("motion", motion, persistent=False)
        self.canvas = canvas
        self.grid = grid
        self.register_buffer("start", start)
        self.offsets = nn.Parameter(torch.zeros_like(start))
        self.affine = nn.Parameter(start.new_zeros(2, 2))
        self.turn = nn.Parameter(start.new_zeros(()))
        self.stretch = nn.Parameter(start.new_zeros(()))
        self.lines = nn.Parameter(start.new_zeros(grid[0] if grid else 0, 2))
        self._positions_cache: TensorCache[Tensor] = TensorCache()
        self._rotation_cache: TensorCache[Tensor] = TensorCache()
        self._lever_arms_cache: TensorCache[tuple[Tensor, Tensor, Tensor]] = TensorCache()
        self._bounds_cache: TensorCache[tuple[Tensor, Tensor, Tensor]] = TensorCache()

    @classmethod
    def of(cls, scan: Scan4D, canvas: Canvas, fly: float | None = None) -> "Positions":
        """Positions of a scan on its canvas; of a fly scan see `estimate_motion`."""
        pixels = (scan.positions - np.array(canvas.origin)) / np.array(canvas.pixel)
        motion = None
        if fly:
            moved = estimate_motion(scan.positions, fly) / np.array(canvas.pixel)
            motion = torch.as_tensor(moved, dtype=torch.float32)
        return cls(torch.as_tensor(pixels, dtype=torch.float32), canvas, scan.grid, motion)

    def moments(self) -> list[float]:
        """Moments of an exposure, as shares of its way from the middle: no more than a pixel apart.

        Each stands for the same part of the exposure; a beam that stands still has one.
        """
        if self.motion is None:
            return [0.0]
        longest = float(self.motion.norm(dim=1).max())
        count = max(MIN_MOMENTS, math.ceil(longest / MAX_PIXELS_BETWEEN_MOMENTS))
        return [(number + 0.5) / count - 0.5 for number in range(count)]

    @torch.no_grad()
    def reset(self) -> None:
        """Put all positions back to where they were measured."""
        for parameter in self.parameters():
            parameter.zero_()

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by name."""
        return {
            "positions": [self.offsets],
            "affine": [self.affine],
            "rotation": [self.turn],
            "scale": [self.stretch],
            "lines": [self.lines] if self.grid else [],
        }

    def current_positions(self) -> Float[Tensor, "n 2"]:
        """All positions as they are now, object pixels of the canvas."""
        return torch.add(self._common_positions(), self.offsets, alpha=self.step)

    def _common_positions(self) -> Float[Tensor, "n 2"]:
        """Positions before each one's own shift; computed once while the scan's calibration stands still."""
        sources = (self.start, self.affine, self.turn, self.stretch, self.lines)
        return (
            self._positions_cache.get(self._map_positions, *sources)
            if is_constant(*sources)
            else self._map_positions()
        )

    def _map_positions(self) -> Float[Tensor, "n 2"]:
        arm, reach, middle = self._lever_arms_cache.get(lambda: _lever_arms(self.start), self.start)
        moved = torch.addmm(middle, arm, self.linear_map(reach).T)
        if self.grid is None:
            return moved
        return moved + self.lines.repeat_interleave(self.grid[1], dim=0)

    def linear_map(self, reach: Tensor) -> Float[Tensor, "2 2"]:
        """The map of the positions about their middle, whose farthest one lies ``reach`` pixels away."""
        sources = (reach, self.turn, self.stretch)
        still = is_constant(*sources)
        aspect = self.canvas.pixel[1] / self.canvas.pixel[0]
        turned = (
            self._rotation_cache.get(lambda: _rotation_and_scale(*sources, aspect), *sources)
            if still
            else None
        )
        return (_rotation_and_scale(*sources, aspect) if turned is None else turned) + self.affine / reach

    def forward(self, index: Int[Tensor, " b"]) -> tuple[Int[Tensor, "b 2"], Float[Tensor, "b 2"]]:
        """Corner of the window and remaining shift of the probe for each pattern."""
        own = self.offsets.index_select(0, index)
        place = torch.add(self._common_positions().index_select(0, index), own, alpha=self.step)
        half, low, high = self.bounds()
        if self.canvas.tiling is not None:
            low, high = low[index], high[index]
        corner = (place.detach().round() - half).long().clamp(min=low, max=high)
        return corner, place - (corner + half)

    @torch.no_grad()
    def split_map(self) -> "PositionMap":
        """What positions are made of, apart from the affine map and each one's own shift."""
        arm, reach, middle = self._lever_arms_cache.get(lambda: _lever_arms(self.start), self.start)
        fixed = middle.expand_as(self.start).clone()
        if self.grid is not None:
            fixed += self.lines.repeat_interleave(self.grid[1], dim=0)
        return PositionMap(
            arm.contiguous(), fixed, self.linear_map(reach) - self.affine / reach, float(reach)
        )

    def bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Half a window, and the first and last corner whose window lies on the canvas.

        Of an object in tiles, those of each pattern: its process holds no more.
        """
        return self._bounds_cache.get(self._make_bounds, self.start)

    def _make_bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        half = self.start.new_tensor(self.canvas.window) // 2
        device = self.start.device
        if (tiling := self.canvas.tiling) is not None:
            first, last = tiling.bounds()
            return half, torch.as_tensor(first, device=device), torch.as_tensor(last, device=device)
        room = [n - w for n, w in zip(self.canvas.shape, self.canvas.window, strict=True)]
        return half, torch.zeros(2, dtype=torch.long, device=device), torch.tensor(room, device=device)

    @torch.no_grad()
    def free_corners(self) -> Int[np.ndarray, "n 2"]:
        """Corners of all windows, as far as the canvas holds them."""
        half = np.array(self.canvas.window) // 2
        room = np.array(self.canvas.shape) - np.array(self.canvas.window)
        place = self.current_positions().cpu().numpy()
        return (place.round().astype(int) - half).clip(0, room)

    def hold_tiles(self, tiling: Tiling | None) -> None:
        """Keep windows in what processes hold from now on; ``None``: on the canvas."""
        self.canvas = replace(self.canvas, tiling=tiling)
        self._bounds_cache = TensorCache()

    @torch.no_grad()
    def count_outside(self) -> int:
        """Number of positions that have moved beyond the edge of the canvas."""
        _, rest = self(torch.arange(len(self.start), device=self.start.device))
        return int((rest.abs() > 0.5 + 1e-3).any(1).sum())

    def angstrom(self) -> np.ndarray:
        """Refined positions in the frame of the scan, angstrom ``(n, 2)``."""
        pixels = self.current_positions().detach().cpu().double().numpy()
        return pixels * np.array(self.canvas.pixel) + np.array(self.canvas.origin)


def put_canvas_in_tiles(room: Canvas, scan: Scan4D, /, *, count: int, rank: int) -> Canvas:
    """A canvas of which each of some processes holds what its patterns see (`phaseloom.fitting.tiles`).

    Args:
        room: the canvas of the scan.
        scan: the data.
        count: number of processes.
        rank: of this one.

    Raises:
        BadInput: too few patterns for so many processes.
    """
    corner = Positions.of(scan, room).free_corners()
    return replace(room, tiling=Tiling.of(corner, room.window, room.shape, count=count, rank=rank))


MIN_MOMENTS = 3
"""Moments of an exposure that the beam moves in, at least."""

MAX_PIXELS_BETWEEN_MOMENTS = 1.0
"""Object pixels that the beam moves between two moments. On a way of 4 pixels with 4 moments, patterns of the
simulated detector differ from those with 24 by less than a tenth of the noise of 3e4 photons."""

MAX_STEP_OF_LINE = 1.5
"""Steps, in units of the median, above which the beam goes to the next line, or a pattern is missing."""

MIN_COSINE_OF_LINE = 0.5
"""Of the angle between steps that belong to one line."""


def estimate_motion(positions: Float[np.ndarray, "n 2"], share: float, /) -> Float[np.ndarray, "n 2"]:
    """Way of the beam during each exposure of a fly scan, in the unit of the positions.

    It is a share of the way to the neighbours along the scan line, which are told by the length and the
    direction of the steps: jumps to the next line, turns of a raster that is scanned to and fro, and gaps of
    lost patterns do not count. A pattern without a neighbour takes the way of the nearest one in time.

    Args:
        positions: in the order in which they were taken, of the middle of each exposure.
        share: of the time from one pattern to the next in which the shutter is open, 0 to 1.

    Raises:
        BadInput: positions of which no two are on one line, or a share that is not possible.

    Example:
        >>> line = np.stack([np.zeros(4), np.arange(4.0)], 1)
        >>> raster = np.concatenate([line, line[::-1] + (1.0, 0.0)])  # to and fro
        >>> estimate_motion(raster, 0.5)[[0, 3, 4, 7], 1].tolist()
        [0.5, 0.5, -0.5, -0.5]
    """
    if not 0 <= share <= 1:
        raise BadInput("fly", share, "must be a share of the way to the next position, from 0 to 1")
    steps = np.diff(np.asarray(positions, float), axis=0)
    length = np.hypot(*steps.T)
    unit = steps / np.maximum(length, 1e-12)[:, None]
    follows = np.sum(unit[1:] * unit[:-1], axis=1) > MIN_COSINE_OF_LINE
    on_line = (np.append(follows, False) | np.insert(follows, 0, False))[: len(steps)]
    usual = np.median(length) if len(length) else 0.0
    on_line &= (length <= MAX_STEP_OF_LINE * usual) & (length > 0)
    if not on_line.any():
        fix = "needs positions along lines, in the order in which they were taken: leave it out"
        raise BadInput("fly", share, fix)
    weight = on_line.astype(float)[:, None]
    total = np.zeros_like(positions, float)
    count = np.zeros((len(positions), 1))
    for part in (slice(None, -1), slice(1, None)):
        total[part] += weight * steps
        count[part] += weight
    known = np.flatnonzero(count[:, 0])
    nearest = known[np.abs(np.arange(len(positions))[:, None] - known).argmin(1)]
    return share * (total / np.maximum(count, 1))[nearest]


def _lever_arms(start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions about their middle, how far the farthest one lies, and the middle."""
    middle = start.mean(0)
    arm = start - middle
    return arm, arm.abs().max().clamp(min=1e-6), middle


def _rotation_and_scale(reach: Tensor, turn: Tensor, stretch: Tensor, aspect: float) -> Float[Tensor, "2 2"]:
    """Rotation and scale as a map of pixels whose sides have a ratio ``aspect`` (x over y)."""
    angle = turn / reach
    factor = 1 + stretch / reach
    c = factor * torch.cos(angle)
    s = factor * torch.sin(angle)
    return torch.stack([torch.stack([c, -s * aspect]), torch.stack([s / aspect, c])])


HEIGHT_BINS = 9
"""Planes that stand for all heights where only the light on the object is asked for."""

MIN_FOCUS_DISTANCE = 0.05
"""Distance from the focus of a cone beam below which an object is not brought, as a share of the mean."""

MAX_KERNEL_BYTES = 2**26
"""Bytes that kernels of heights which stand still may take, for not being made again."""


class Heights(nn.Module):
    """Positions of the beam along its axis: what was written down plus what was refined.

    The probe of a model is the wave that falls on the object at the mean height. Moved downstream by ``h``
    (or the object upstream), the optics have flown less far to it: the wave on the object is the probe
    flown by ``-h``. A near detector stands still while the object moves: it is ``h`` farther away then. A
    common move is a defocus of the probe, and is left to that. On a tilted surface heights follow from where
    the beam lands too (`phaseloom.physics.tilted_planes.project_beam`).

    In a near field with a **cone beam** the source stands ``f`` before the object at the mean height and
    ``f - h`` at height ``h``. Seen from the source under equal angles, probe and detector have one grid at
    all heights; the pixel of the object's window is ``1 - h / f`` times that of the mean plane, and flights
    are ``h / (1 - h / f)`` long (Fresnel scaling theorem; Robisch et al. 2015, doi
    10.1088/1367-2630/17/7/073033). The object stays on the pixels of the mean plane, and its windows are
    interpolated (`phaseloom.physics.filters.interpolate_windows`). Windows are centred on the optical axis.

    Attributes:
        start: ``(n,)`` heights as measured, less their mean, angstrom.
        unit: depth of focus of the probe, angstrom; see `measure_height_sensitivity`.
        offsets: ``(n,)`` refined move of each, in units of ``unit``; a parameter.
        stretch: error of the scale, as the move of the farthest in units of ``unit``; a parameter.
        middle: mean of the heights as measured, angstrom.
        fan: ``1 / f`` of a cone beam, else 0.
    """

    start: Tensor

    def __init__(self, start: Float[Tensor, " n"], geometry: Geometry, unit: float, middle: float = 0.0):
        super().__init__()
        self.geometry = geometry
        self.unit = unit
        self.middle = middle
        self.cone_curvature = cone_beam_curvature(geometry)
        self.register_buffer("start", start)
        self.offsets = nn.Parameter(torch.zeros_like(start), requires_grad=False)
        self.stretch = nn.Parameter(start.new_zeros(()), requires_grad=False)
        self._kernel_cache: TensorCache[Tensor] = TensorCache()

    @classmethod
    def of(cls, scan: Scan4D, unit: float) -> "Heights":
        """The heights of a scan, for a probe with a depth of focus of ``unit``.

        Raises:
            BadInput: no heights; in a cone beam, heights at which the object would be in its focus or on the
                detector.
        """
        if scan.heights is None:
            raise BadInput("axial", True, "but the file holds no positions along the beam: leave it out")
        middle = float(scan.heights.mean())
        if fan := cone_beam_curvature(scan.geometry):
            ratio = 1 - fan * (scan.heights - middle)
            behind = scan.geometry.distance or 0.0
            if ratio.min() < MIN_FOCUS_DISTANCE or (behind + scan.heights - middle).min() <= 0:
                fix = "put the object into the focus of the cone beam or on the detector: check their unit"
                raise BadInput("axial: heights", f"{np.ptp(scan.heights):g} A apart", fix)
        return cls(torch.as_tensor(scan.heights - middle, dtype=torch.float32), scan.window, unit, middle)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by name; nothing is until it gets a rate."""
        return {"heights": [self.offsets], "height_scale": [self.stretch]}

    def current_heights(self) -> Float[Tensor, " n"]:
        """All heights as they are now, less the mean of those measured, angstrom."""
        reach = self.start.abs().max().clamp(min=1e-6)
        return self.start * (1 + self.stretch * self.unit / reach) + self.offsets * self.unit

    def forward(self, index: Int[Tensor, " b"]) -> Complex[Tensor, "b 1 y x"]:
        """Kernels of the flights from where the probe is known to the object."""
        sources = (self.start, self.offsets, self.stretch)
        size = 2 * self.start.element_size() * len(self.start) * math.prod(self.geometry.shape)
        if size <= MAX_KERNEL_BYTES and is_constant(*sources):
            return self._kernel_cache.get(lambda: self._kernels(self.current_heights()), *sources)[index]
        return self._kernels(self.current_heights()[index])

    def _kernels(self, heights: Float[Tensor, " b"]) -> Complex[Tensor, "b 1 y x"]:
        return _flight_kernels(self.geometry, -heights / self.pixel_ratio(heights))[:, None]

    def pixel_ratio(self, heights: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Pixel of the object's window at heights, in pixels of the object."""
        return 1 - self.cone_curvature * heights

    def resample_windows(
        self,
        windows: Complex[Tensor, "b state slice v u"],
        rest: Float[Tensor, "b 2"],
        index: Int[Tensor, " b"],
    ) -> tuple[Complex[Tensor, "b state slice y x"], Float[Tensor, "b 2"]]:
        """Windows and what remains of positions, in the pixels of each pattern's own plane."""
        if not self.cone_curvature:
            return windows, rest
        ratio = self.pixel_ratio(self.current_heights()[index])
        return interpolate_windows(windows, self.geometry.shape, ratio), rest / ratio[:, None]

    def widen_canvas(self, canvas: Canvas) -> Canvas:
        """The canvas with windows wide enough for every height."""
        return replace(canvas, window=_widen_window(canvas.window, self))

    @torch.no_grad()
    def incident_modes(
        self, modes: Complex[Tensor, "mode y x"]
    ) -> list[tuple[Complex[Tensor, "mode v u"], Int[Tensor, " _"]]]:
        """Modes on the object at a few heights, each with the patterns for which it stands."""
        now = self.current_heights()
        out = list[tuple[Tensor, Tensor]]()
        edges = torch.linspace(float(now.min()), float(now.max()) + 1e-3, HEIGHT_BINS + 1, device=now.device)
        bins = torch.bucketize(now, edges[1:-1])
        for number in bins.unique():
            members = torch.nonzero(bins == number)[:, 0]
            height = now[members].mean()[None]
            there = fly(modes, self._kernels(height)[0].to(modes.dtype))
            out.append((project_to_heights(self, there[None], height)[0], members))
        return out

    @torch.no_grad()
    def fly_to_mean_height(self, modes: Complex[Tensor, "mode y x"]) -> Complex[Tensor, "mode y x"]:
        """The modes of a model at the mean of the heights as they are now."""
        return fly(modes, self._kernels(self.current_heights().mean()[None])[0].to(modes.dtype))

    @torch.no_grad()
    def angstrom(self) -> np.ndarray:
        """Refined heights in the frame of the scan, angstrom ``(n,)``."""
        return self.current_heights().cpu().double().numpy() + self.middle


@torch.no_grad()
def project_to_heights(
    one: Heights, wave: Complex[Tensor, "b *some y x"], heights: Float[Tensor, " b"], /
) -> Complex[Tensor, "b *some v u"]:
    """Waves on the planes of heights, in windows and pixels of the object; their power stays what it was."""
    if not one.cone_curvature:
        return wave
    ratio = one.pixel_ratio(heights)
    there = interpolate_windows(wave, _widen_window(one.geometry.shape, one), 1 / ratio)
    return there / ratio.view(-1, *[1] * (wave.ndim - 1))


def measure_height_sensitivity(modes: Complex[Tensor, "mode y x"], geometry: Geometry, /) -> float:
    """How far a height has to move for patterns to tell: the depth of focus of the probe, angstrom.

    In a near field the object's own waves spread as well: it is that of details of four pixels, if less.
    """
    focus = measure_focal_depth(modes, geometry)
    return min(focus, (4 * max(geometry.pixel)) ** 2 / geometry.wavelength) if geometry.near else focus


def heights_matter(scan: Scan4D, unit: float, /) -> bool:
    """Whether heights differ by so much of the depth of focus that patterns tell."""
    return scan.heights is not None and float(np.ptp(scan.heights)) > 0.1 * unit


def _flight_kernels(one: Geometry, distance: Float[Tensor, "*batch"]) -> Complex[Tensor, "*batch y x"]:
    """Flights along the beam of a wave that is known on the sample's surface."""
    if one.has_tilted_sample:
        return tilted_kernel(one.shape, one.steps, one.wavelength, distance)
    return angular_spectrum(one.shape, one.pixel, one.wavelength, distance)


def _widen_window(shape: tuple[int, int], heights: Heights) -> tuple[int, int]:
    more = 2 * measure_cone_margin(heights.geometry, heights.start.cpu().numpy())
    return shape[0] + more, shape[1] + more


def depth_of_focus(scan: Scan4D, /) -> float:
    """``wavelength / angle^2`` of the cone that holds 95 % of a scan's beam, angstrom.

    In a near field it is that of details of four pixels, if less.

    The beam is the probe that came with the data, else the first guess of one. Errors of heights and of the
    distance to the focus are natural in units of this; `Ptychography` models heights that differ by a tenth.

    Example:
        >>> import numpy as np
        >>> import phaseloom as pl
        >>> wave = pl.physics.optics.probe_wave((64, 64), (1.0, 1.0), wavelength=0.02, semiangle=2e-3)
        >>> geometry = pl.Geometry(wavelength=0.02, shape=(64, 64), angle=(0.02 / 64, 0.02 / 64))
        >>> data = {"counts": np.ones((1, 64, 64)), "positions": np.zeros((1, 2)), "geometry": geometry}
        >>> scan = pl.Scan4D(**data, probe=wave.numpy()[None])
        >>> 4500 < pl.depth_of_focus(scan) < 5600  # 0.02 / (2e-3)^2 = 5000
        True
    """
    if scan.probe is None:
        return measure_height_sensitivity(probes.auto(scan).modes(), scan.window)
    return measure_height_sensitivity(torch.as_tensor(scan.probe), scan.geometry)
