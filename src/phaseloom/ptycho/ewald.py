"""A detector's pixels on the Ewald sphere: patterns of tilted samples, or at angles that are not small."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.physics import tilted_detector as oblique
from phaseloom.physics.fourier import cornered, ramp, to_real

__all__ = ["Ewald", "Mapping", "mapped"]

Mapping = Literal["flat", "lens", "none"]
"""A flat detector, one in the back focal plane of a lens, or frequencies proportional to places."""

FELT = 0.1
"""Pixels by which a mapping moves some pixel, from which on it is applied without being asked for.

With a known probe 0.16 made the error of an object a quarter larger (docs/geometry.md).
"""


class Ewald(nn.Module):
    """Waves on a detector's pixels, from those on the regular grid of a Fourier transform.

    They are known between its pixels, for the window ends: they are transformed to a finer grid, and
    interpolated on that (`phaseloom.physics.tilted_detector.interpolation`).

    Attributes:
        shape: pixels (y, x).
        taper: of the window, by which interpolation is exact in it.
        turn: what brings the middle of the window to the corner, on the finer grid.
        pixels, weights: on the finer grid, see `phaseloom.physics.tilted_detector.interpolation`.
    """

    taper: Tensor
    turn: Tensor
    pixels: Tensor
    weights: Tensor

    def __init__(self, places: Float[np.ndarray, "y x 2"], share: Float[np.ndarray, "y x"]):
        super().__init__()
        self.shape = (share.shape[0], share.shape[1])
        pixels, weights, taper = oblique.interpolation(places, share**0.5, self.shape)
        middle = torch.tensor([-(n // 2) for n in self.shape], dtype=torch.float64)
        rows, columns = ramp(middle, self._fine)
        self.register_buffer("taper", taper.float(), persistent=False)
        self.register_buffer("turn", (rows * columns).to(torch.complex64), persistent=False)
        self.register_buffer("pixels", cornered(pixels), persistent=False)
        self.register_buffer("weights", cornered(weights).float(), persistent=False)

    @property
    def _fine(self) -> tuple[int, int]:
        return oblique.FINER * self.shape[0], oblique.FINER * self.shape[1]

    def forward(self, wave: Complex[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y x"]:
        """Waves of which the squared modulus is what pixels see, zero frequency in the corner as before."""
        window = (to_real(wave) * self.taper).reshape(-1, *self.shape)
        between = torch.fft.fft2(window, s=self._fine, norm="ortho") * self.turn.to(wave.dtype)
        seen = oblique.remapped(between, self.pixels, self.weights.to(wave.real.dtype))
        return seen.reshape(wave.shape)


def mapped(scan: Scan4D, kind: Mapping | None, /) -> tuple[Ewald | None, Bool[Tensor, "v u"] | None]:
    """The mapping of a scan's detector, and the modelled pixels of which it knows the intensity.

    By default a tilted sample has that of a flat detector, where it moves a pixel by `FELT`.
    """
    one = scan.window
    if kind == "none" or one.near or (kind is None and not one.tilted):
        return None, None
    places, share = oblique.ewald(one.shape, one.angle, one.basis, one.normal, lens=kind == "lens")
    if kind is None:
        plain = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in one.shape), indexing="ij"), -1)
        if abs(places - plain).max() < FELT:
            return None, None
    first, last = -(np.array(one.shape) // 2), (np.array(one.shape) - 1) // 2
    inside = ((places >= first - 1e-9) & (places <= last + 1e-9)).all(-1)
    return Ewald(places, share), cornered(torch.as_tensor(inside & (share > 0)))
