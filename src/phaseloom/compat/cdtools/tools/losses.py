"""CDTools' ``tools.losses``: ``(measured, modelled, mask)`` to a number, and normalisers for an epoch.

Counts have any shape; a mask is True where they count.
"""

import torch
from torch import Tensor

from phaseloom.compat.cdtools.tools._shared import missing

__all__ = [
    "AmplitudeMSENormalizer",
    "IntensityMSENormalizer",
    "SimplePoissonNLLNormalizer",
    "amplitude_mse",
    "intensity_mse",
    "poisson_nll",
]

__getattr__ = missing(
    "losses", __all__, {"poisson_plus_fixed_nll": "nor is it in CDTools; see phaseloom.ptycho.noise"}
)


def amplitude_mse(
    intensities: Tensor, sim_intensities: Tensor, mask: Tensor | None = None, use_sum: bool = False
) -> Tensor:
    """Mean, or with ``use_sum`` the sum, of squared differences of roots of counts."""
    measured, modelled = _select_pixels(intensities, sim_intensities, mask)
    return _reduce((modelled.sqrt() - measured.sqrt()).square(), use_sum)


def intensity_mse(
    intensities: Tensor, sim_intensities: Tensor, mask: Tensor | None = None, use_sum: bool = False
) -> Tensor:
    """Mean, or with ``use_sum`` the sum, of squared differences of counts."""
    measured, modelled = _select_pixels(intensities, sim_intensities, mask)
    return _reduce((modelled - measured).square(), use_sum)


def poisson_nll(
    intensities: Tensor,
    sim_intensities: Tensor,
    mask: Tensor | None = None,
    eps: float = 1e-6,
    subtract_min: bool = False,
) -> Tensor:
    """Sum of ``model - counts log(model)``: the negative log-likelihood up to what the model cannot change.

    ``eps`` is added to modelled counts; ``subtract_min`` takes off the value of a model equal to the counts.
    """
    measured, modelled = _select_pixels(intensities, sim_intensities, mask)
    expected = modelled + eps
    loss = (expected - torch.xlogy(measured, expected)).sum()
    return loss - (measured - torch.xlogy(measured, measured)).nansum() if subtract_min else loss


class AmplitudeMSENormalizer:
    """Turns a sum over an epoch into a mean: counts the pixels during the first one.

    Attributes:
        num_pix: pixels of an epoch so far.
        first_pass_complete: the count is final.
    """

    def __init__(self):
        self.first_pass_complete = False
        self.num_pix = 0

    def accumulate(self, patterns: Tensor, mask: Tensor | None = None) -> None:
        """Count the pixels of a batch, unless the first epoch is over."""
        if not self.first_pass_complete:
            self.num_pix += int(patterns.numel() if mask is None else mask.expand_as(patterns).sum())

    def normalize_loss(self, loss: Tensor) -> Tensor:
        """The sum divided by the number of pixels; ends the first epoch."""
        self.first_pass_complete = True
        return loss / self.num_pix


class IntensityMSENormalizer(AmplitudeMSENormalizer):
    """`AmplitudeMSENormalizer` under the name that belongs to `intensity_mse`."""


class SimplePoissonNLLNormalizer:
    """Turns a Poisson loss into one that is about 1 where only shot noise is left.

    The least value is taken off, and the rest divided by half the number of pixels with a count or more.
    """

    def __init__(self):
        self.first_pass_complete = False
        self.sum_nonzero: Tensor | int = 0
        self.offset: Tensor | int = 0
        self.normalization: Tensor | float = 0.0

    def accumulate(self, patterns: Tensor, mask: Tensor | None = None) -> None:
        """Take a batch into offset and count, unless the first epoch is over."""
        if self.first_pass_complete:
            return
        self.offset = self.offset + poisson_nll(patterns, patterns, mask=mask)
        lit = patterns >= 1
        self.sum_nonzero = self.sum_nonzero + (lit if mask is None else lit & mask).sum()

    def normalize_loss(self, loss: Tensor) -> Tensor:
        """The loss above its least value, in units of what shot noise gives; ends the first epoch."""
        if not self.first_pass_complete:
            self.normalization = 0.5 * self.sum_nonzero
            self.first_pass_complete = True
        return (loss - self.offset) / self.normalization


def _select_pixels(measured: Tensor, modelled: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pixels that count, the measured ones (of any type of number) in the model's precision."""
    measured = measured.to(modelled.dtype)
    if mask is None:
        return measured, modelled
    return measured.masked_select(mask), modelled.masked_select(mask)


def _reduce(square: Tensor, use_sum: bool) -> Tensor:
    return square.sum() if use_sum else square.mean()
