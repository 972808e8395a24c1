"""From the wave on the detector to the counts that are expected there."""

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.physics.detect import intensity
from phaseloom.physics.fourier import centred, cornered

__all__ = ["counting"]


class Detector(nn.Module):
    """Counts ``weight * sum |wave|^2 * flat + background``.

    Attributes:
        weights: ``(n,)`` relative intensity of each shot; a parameter.
        root: ``(y, x)`` square root of the background, so that it stays positive, relative to
            ``scale``; a parameter. At zero its slope is zero: to refine one, start it above.
        scale: square root of the mean counts of a pixel.
        flat: ``(y, x)`` efficiency of each pixel.
        mask: ``(y, x)`` True where a pixel is compared.
        near: patterns are stored as seen; else with zero frequency in the corner.
    """

    flat: Tensor
    mask: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        weights: Float[Tensor, " n"],
        root: Float[Tensor, "y x"],
        flat: Float[Tensor, "y x"],
        mask: Bool[Tensor, "y x"],
        scale: float,
        near: bool,
    ):
        super().__init__()
        self.weights, self.root = nn.Parameter(weights), nn.Parameter(root / scale)
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("flat", flat)
        self.register_buffer("mask", mask)
        self.near = near

    def forward(
        self, wave: Complex[Tensor, "b mode y x"], index: Int[Tensor, " b"]
    ) -> Float[Tensor, "b y x"]:
        """Expected counts of a batch."""
        weight = self.weights[index, None, None]
        return weight * intensity(wave) * self.flat + self.background()

    def background(self) -> Float[Tensor, "y x"]:
        """Expected counts without beam."""
        return (self.root * self.scale).square()

    def arrange(self, counts: Tensor) -> Tensor:
        """Measured patterns, centred as in files, in the order of this detector."""
        return counts if self.near else cornered(counts)

    def display(self, counts: Tensor) -> Tensor:
        """Inverse of `arrange`."""
        return counts if self.near else centred(counts)


def counting(scan: Scan4D, /) -> Detector:
    """The detector of a scan: its mask, background, flat field and shot weights."""
    shape, near = scan.geometry.shape, scan.geometry.near

    def of(array: np.ndarray | None, default: float) -> Tensor:
        full = np.full(shape, default) if array is None else array
        tensor = torch.as_tensor(np.ascontiguousarray(full))
        return tensor if near else cornered(tensor)

    weights = np.ones(len(scan)) if scan.weights is None else scan.weights
    return Detector(
        weights=torch.as_tensor(np.asarray(weights), dtype=torch.float32),
        root=of(scan.background, 0.0).clamp(min=0).sqrt().float(),
        flat=of(scan.flat, 1.0).float(),
        mask=of(scan.mask, 1.0).bool(),
        scale=float(np.sqrt(max(scan.mean_pattern(most=200)[scan.mask].mean(), 1e-6))),
        near=near,
    )
