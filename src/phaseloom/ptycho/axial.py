"""Where the beam's focus stood along its axis, and how far its wave flies from there to the object."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.cache import Kept, constant
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.physics.resample import TAPS, sampled
from phaseloom.physics.tilted_detector import spectrum
from phaseloom.ptycho.illumination import depth_of_focus

if TYPE_CHECKING:
    from phaseloom.ptycho.scans import Canvas

__all__ = ["Heights", "depth", "fallen", "matter", "spread"]

BINS = 9
"""Planes that stand for all heights where only the light on the object is asked for."""

NEAREST = 0.05
"""Distance from the focus of a cone beam below which an object is not brought, as a share of the mean."""

STORED = 2**26
"""Bytes that kernels of heights which stand still may take, for not being made again."""


class Heights(nn.Module):
    """Positions of the beam along its axis: what was written down plus what was refined.

    The probe of a model is the wave that falls on the object at the mean height. Moved downstream by ``h``
    (or the object upstream), the optics have flown less far to it: the wave on the object is the probe
    flown by ``-h``. A near detector stands still while the object moves: it is ``h`` farther away then. A
    common move is a defocus of the probe, and is left to that. On a tilted surface heights follow from where
    the beam lands too (`phaseloom.physics.tilted_sample.landed`).

    In a near field with a **cone beam** the source stands ``f`` before the object at the mean height and
    ``f - h`` at height ``h``. Seen from the source under equal angles, probe and detector have one grid at
    all heights; the pixel of the object's window is ``1 - h / f`` times that of the mean plane, and flights
    are ``h / (1 - h / f)`` long (Fresnel scaling theorem; Robisch et al. 2015, doi
    10.1088/1367-2630/17/7/073033). The object stays on the pixels of the mean plane, and its windows are
    interpolated (`phaseloom.physics.resample.sampled`). Windows are centred on the optical axis.

    Attributes:
        start: ``(n,)`` heights as measured, less their mean, angstrom.
        unit: depth of focus of the probe, angstrom; see `depth`.
        offsets: ``(n,)`` refined move of each, in units of ``unit``; a parameter.
        stretch: error of the scale, as the move of the farthest in units of ``unit``; a parameter.
        middle: mean of the heights as measured, angstrom.
        fan: ``1 / f`` of a cone beam, else 0.
    """

    start: Tensor

    def __init__(self, start: Float[Tensor, " n"], geometry: Geometry, unit: float, middle: float = 0.0):
        super().__init__()
        self.geometry, self.unit, self.middle, self.fan = geometry, unit, middle, _fan(geometry)
        self.register_buffer("start", start)
        self.offsets = nn.Parameter(torch.zeros_like(start), requires_grad=False)
        self.stretch = nn.Parameter(start.new_zeros(()), requires_grad=False)
        self._all: Kept[Tensor] = Kept()

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
        if fan := _fan(scan.geometry):
            ratio, behind = 1 - fan * (scan.heights - middle), scan.geometry.distance or 0.0
            if ratio.min() < NEAREST or (behind + scan.heights - middle).min() <= 0:
                fix = "put the object into the focus of the cone beam or on the detector: check their unit"
                raise BadInput("axial: heights", f"{np.ptp(scan.heights):g} A apart", fix)
        return cls(torch.as_tensor(scan.heights - middle, dtype=torch.float32), scan.window, unit, middle)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined, by name; nothing is until it gets a rate."""
        return {"heights": [self.offsets], "height_scale": [self.stretch]}

    def refined(self) -> Float[Tensor, " n"]:
        """All heights as they are now, less the mean of those measured, angstrom."""
        reach = self.start.abs().max().clamp(min=1e-6)
        return self.start * (1 + self.stretch * self.unit / reach) + self.offsets * self.unit

    def forward(self, index: Int[Tensor, " b"]) -> Complex[Tensor, "b 1 y x"]:
        """Kernels of the flights from where the probe is known to the object."""
        sources = (self.start, self.offsets, self.stretch)
        size = 2 * self.start.element_size() * len(self.start) * math.prod(self.geometry.shape)
        if size <= STORED and constant(*sources):
            return self._all.of(lambda: self._kernels(self.refined()), *sources)[index]
        return self._kernels(self.refined()[index])

    def _kernels(self, heights: Float[Tensor, " b"]) -> Complex[Tensor, "b 1 y x"]:
        return _flights(self.geometry, -heights / self.ratio(heights))[:, None]

    def ratio(self, heights: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Pixel of the object's window at heights, in pixels of the object."""
        return 1 - self.fan * heights

    def seen(
        self,
        windows: Complex[Tensor, "b state slice v u"],
        rest: Float[Tensor, "b 2"],
        index: Int[Tensor, " b"],
    ) -> tuple[Complex[Tensor, "b state slice y x"], Float[Tensor, "b 2"]]:
        """Windows and what remains of positions, in the pixels of each pattern's own plane."""
        if not self.fan:
            return windows, rest
        ratio = self.ratio(self.refined()[index])
        return sampled(windows, self.geometry.shape, ratio), rest / ratio[:, None]

    def room(self, canvas: "Canvas") -> "Canvas":
        """The canvas with windows wide enough for every height."""
        return replace(canvas, window=_wide(canvas.window, self))

    @torch.no_grad()
    def incident(
        self, modes: Complex[Tensor, "mode y x"]
    ) -> list[tuple[Complex[Tensor, "mode v u"], Int[Tensor, " _"]]]:
        """Modes on the object at a few heights, each with the patterns for which it stands."""
        now, out = self.refined(), list[tuple[Tensor, Tensor]]()
        edges = torch.linspace(float(now.min()), float(now.max()) + 1e-3, BINS + 1, device=now.device)
        bins = torch.bucketize(now, edges[1:-1])
        for number in bins.unique():
            members = torch.nonzero(bins == number)[:, 0]
            height = now[members].mean()[None]
            there = fly(modes, self._kernels(height)[0].to(modes.dtype))
            out.append((fallen(self, there[None], height)[0], members))
        return out

    @torch.no_grad()
    def level(self, modes: Complex[Tensor, "mode y x"]) -> Complex[Tensor, "mode y x"]:
        """The modes of a model at the mean of the heights as they are now."""
        return fly(modes, self._kernels(self.refined().mean()[None])[0].to(modes.dtype))

    @torch.no_grad()
    def angstrom(self) -> np.ndarray:
        """Refined heights in the frame of the scan, angstrom ``(n,)``."""
        return self.refined().cpu().double().numpy() + self.middle


@torch.no_grad()
def fallen(
    one: Heights, wave: Complex[Tensor, "b *some y x"], heights: Float[Tensor, " b"], /
) -> Complex[Tensor, "b *some v u"]:
    """Waves on the planes of heights, in windows and pixels of the object; their power stays what it was."""
    if not one.fan:
        return wave
    ratio = one.ratio(heights)
    there = sampled(wave, _wide(one.geometry.shape, one), 1 / ratio)
    return there / ratio.view(-1, *[1] * (wave.ndim - 1))


def depth(modes: Complex[Tensor, "mode y x"], geometry: Geometry, /) -> float:
    """How far a height has to move for patterns to tell: the depth of focus of the probe, angstrom.

    In a near field the object's own waves spread as well: it is that of details of four pixels, if less.
    """
    focus = depth_of_focus(modes, geometry)
    return min(focus, (4 * max(geometry.pixel)) ** 2 / geometry.wavelength) if geometry.near else focus


def matter(scan: Scan4D, unit: float, /) -> bool:
    """Whether heights differ by so much of the depth of focus that patterns tell."""
    return scan.heights is not None and float(np.ptp(scan.heights)) > 0.1 * unit


def spread(geometry: Geometry, heights: np.ndarray | None, /) -> int:
    """Object pixels on each side that windows need at heights of a cone beam, besides their own."""
    fan = 0.0 if heights is None else _fan(geometry)
    if heights is None or not fan:
        return 0
    most = float((1 - fan * (heights - heights.mean())).max()) - 1
    return math.ceil(max(geometry.shape) / 2 * most) + TAPS


def _fan(geometry: Geometry) -> float:
    return 1 / geometry.focus if geometry.near and geometry.focus else 0.0


def _flights(one: Geometry, distance: Float[Tensor, "*batch"]) -> Complex[Tensor, "*batch y x"]:
    """Flights along the beam of a wave that is known on the sample's surface."""
    if one.tilted:
        return spectrum(one.shape, one.steps, one.wavelength, distance)
    return angular_spectrum(one.shape, one.pixel, one.wavelength, distance)


def _wide(shape: tuple[int, int], heights: Heights) -> tuple[int, int]:
    more = 2 * spread(heights.geometry, heights.start.cpu().numpy())
    return shape[0] + more, shape[1] + more
