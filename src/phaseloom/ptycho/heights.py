"""Where the beam's focus stood along its axis, and how far its wave flies from there to the object."""

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.propagate import angular_spectrum

__all__ = ["Heights", "matter"]

BINS = 9
"""Planes that stand for all heights where only the light on the object is asked for."""


class Heights(nn.Module):
    """Positions of the beam along its axis: what was written down plus what was refined.

    The probe of a model is the wave that falls on the object at the mean height. Moved downstream by ``h``
    (or the object upstream), the optics have flown less far to it: the wave on the object is the probe
    flown by ``-h``. A near detector stands still while the object moves: it is ``h`` farther away then. A
    common move is a defocus of the probe, and is left to that.

    Attributes:
        start: ``(n,)`` heights as measured, less their mean, angstrom.
        unit: depth of focus of the probe, angstrom.
        offsets: ``(n,)`` refined move of each, in units of ``unit``; a parameter.
        stretch: error of the scale, as the move of the farthest in units of ``unit``; a parameter.
        middle: mean of the heights as measured, angstrom.
    """

    start: Tensor

    def __init__(self, start: Float[Tensor, " n"], geometry: Geometry, unit: float, middle: float = 0.0):
        super().__init__()
        self.geometry, self.unit, self.middle = geometry, unit, middle
        self.register_buffer("start", start)
        self.offsets = nn.Parameter(torch.zeros_like(start), requires_grad=False)
        self.stretch = nn.Parameter(start.new_zeros(()), requires_grad=False)

    @classmethod
    def of(cls, scan: Scan4D, unit: float) -> "Heights":
        """The heights of a scan, for a probe with a depth of focus of ``unit``.

        Raises:
            BadInput: no heights; a cone beam, in which every height has a magnification of its own.
        """
        if scan.heights is None:
            raise BadInput("axial", True, "but the file holds no positions along the beam: leave it out")
        if scan.geometry.near and np.isfinite(scan.geometry.focus or 0):
            fix = (
                "is a cone beam, where each height has a magnification of its own: only a parallel one (inf)"
            )
            raise BadInput("axial: focus", scan.geometry.focus, f"{fix} or a far field can be modelled")
        middle = float(scan.heights.mean())
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
        one = self.geometry
        return angular_spectrum(one.shape, one.pixel, one.wavelength, -self.refined()[index])[:, None]

    @torch.no_grad()
    def planes(self) -> list[tuple[Complex[Tensor, "y x"], Int[Tensor, " _"]]]:
        """A few flights, and the patterns for which each stands: near enough for the light on the object."""
        now = self.refined()
        edges = torch.linspace(float(now.min()), float(now.max()) + 1e-3, BINS + 1, device=now.device)
        bins = torch.bucketize(now, edges[1:-1])
        one, out = self.geometry, list[tuple[Tensor, Tensor]]()
        for number in bins.unique():
            members = torch.nonzero(bins == number)[:, 0]
            height = now[members].mean()
            out.append((angular_spectrum(one.shape, one.pixel, one.wavelength, -height), members))
        return out

    @torch.no_grad()
    def angstrom(self) -> np.ndarray:
        """Refined heights in the frame of the scan, angstrom ``(n,)``."""
        return self.refined().cpu().double().numpy() + self.middle


def matter(scan: Scan4D, unit: float, /) -> bool:
    """Whether heights can be modelled, and differ by so much of the depth of focus that patterns tell."""
    parallel = not scan.geometry.near or bool(np.isinf(scan.geometry.focus or 0))
    return scan.heights is not None and parallel and float(np.ptp(scan.heights)) > 0.1 * unit
