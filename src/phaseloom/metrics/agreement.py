"""How well a phase image agrees with the truth on the same pixels, but for the constant of a phase."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput
from phaseloom.metrics.image import psnr, ssim

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True)
class Agreement:
    """What `agreement` finds.

    Attributes:
        nmse: squared error over the variance of the truth, 0 at best, 1 for a flat image.
        correlation: of both, Pearson's.
        psnr: decibel, the peak being the truth's range.
        ssim: structural similarity, the same peak.
    """

    nmse: float
    correlation: float
    psnr: float
    ssim: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"CC {self.correlation:.4f}  NMSE {self.nmse:.4f}  PSNR {self.psnr:.1f} dB  SSIM {self.ssim:.3f}"
        )

    @classmethod
    def mean(cls, found: "list[Agreement]", /) -> "Agreement":
        """Of several images, each counting the same."""
        table = [asdict(one) for one in found]
        return cls(**{name: float(np.mean([row[name] for row in table])) for name in table[0]})


def agreement(image: ArrayLike, truth: ArrayLike, /, *, rim: int = 0) -> Agreement:
    """Compare a phase image with the truth.

    Nothing is fitted but the constant: scale, ramp and place count as errors.

    Args:
        image: ``(y, x)`` radian.
        truth: ``(y, x)`` radian, not constant.
        rim: pixels at each edge that are left out.

    Raises:
        BadInput: other shapes, a truth that is the same everywhere, or a rim that leaves nothing.

    Example:
        >>> true = np.sin(np.arange(20.0))[:, None] * np.ones(20)
        >>> agreement(true + 3, true).nmse < 1e-12, agreement(np.zeros((20, 20)), true).nmse
        (True, 1.0)
    """
    values, wanted = (np.asarray(part, np.float64) for part in (image, truth))
    if values.shape != wanted.shape or values.ndim != 2:
        raise BadInput(
            "agreement", values.shape, f"must be an image of the shape of the truth, {wanted.shape}"
        )
    if not 0 <= 2 * rim < min(values.shape):
        raise BadInput("agreement: rim", rim, f"leaves nothing of {values.shape} pixels: take a narrower one")
    inner = tuple(slice(rim, size - rim) for size in values.shape)
    values, wanted = (part[inner] - part[inner].mean() for part in (values, wanted))
    power, norm = float((wanted**2).sum()), float(np.linalg.norm(values))
    if not power > 0:
        raise BadInput(
            "agreement", None, "has a truth that is the same everywhere: nothing can agree with it"
        )
    correlation = float((values * wanted).sum() / (norm * power**0.5)) if norm > 0 else 0.0
    error = float(((values - wanted) ** 2).sum()) / power
    return Agreement(error, correlation, psnr(values, wanted), ssim(values, wanted))
