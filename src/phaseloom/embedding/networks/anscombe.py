"""Anscombe transform: counts to values of order one with uniform noise, and back."""

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from phaseloom.errors import BadInput

__all__ = ["AnscombeScale", "invert_anscombe", "stabilise_counts"]

MIN_STABILISED_COUNT = 2 * math.sqrt(3 / 8)  # what no counts become


class AnscombeScale(nn.Module):
    """The `stabilise_counts` transform of counts, less one mean and over one spread of all pixels.

    The mean is one number and not an image, so patterns of any size are taken, and a bright disc stays
    brighter than what is around it.

    Attributes:
        mean, std: scalars; zero and one until `calibrate`.

    Example:
        >>> scale, scans = AnscombeScale(), torch.poisson(torch.full((4, 1, 16, 16), 5.0))
        >>> scale.calibrate(scans)
        >>> round(float(scale(scans).std()), 2)
        1.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, patterns: Real[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """Counts to stabilised values."""
        return (stabilise_counts(patterns) - self.mean) / self.std

    def inverse(self, values: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """Stabilised values, free of noise as from a network, to expected counts."""
        return invert_anscombe(values * self.std + self.mean)

    @torch.no_grad()
    def calibrate(self, patterns: Real[Tensor, "*batch y x"]) -> None:
        """Take mean and spread from the patterns of the training, counts.

        Raises:
            BadInput: patterns that are not finite, or all the same.
        """
        values = stabilise_counts(patterns).double()
        mean = values.mean()
        std = values.std(correction=0)
        if not torch.isfinite(mean):
            raise BadInput("patterns", float(mean), "is their mean: mask what is not a finite number")
        if not std > 0:
            raise BadInput("patterns", None, "are all the same: calibrate with patterns of specimens")
        self.mean.copy_(mean)
        self.std.copy_(std)


def stabilise_counts(patterns: Real[Tensor, "*batch y x"], /) -> Float[Tensor, "*batch y x"]:
    """``2 sqrt(n + 3/8)``: the variance of counts above about four becomes one.

    What noise of a detector left below zero counts as nothing.

    Source: Anscombe 1948, doi 10.1093/biomet/35.3-4.246.

    Example:
        >>> stabilise_counts(torch.poisson(torch.full((500, 500), 20.0))).var().item().__round__(1)
        1.0
    """
    values = patterns if patterns.is_floating_point() else patterns.float()
    return 2 * (values.clamp_min(0) + 3 / 8).sqrt()


def invert_anscombe(values: Float[Tensor, "*batch y x"], /) -> Float[Tensor, "*batch y x"]:
    """Rate whose counts have this mean after `stabilise_counts`: the exact unbiased inverse, closed form.

    For a single count it is not the inverse: a mean of roots is less than the root of a mean, and the output
    of a network is a mean. ``(D / 2)^2 - 3/8`` would be too small by a quarter of a count.

    Args:
        values: means of transformed counts; below ``2 sqrt(3/8)``, nothing.

    Source: Mäkitalo & Foi 2011, doi 10.1109/TIP.2010.2056693 and, the closed form, 10.1109/TIP.2011.2121085.

    Example:
        >>> mean = stabilise_counts(torch.poisson(torch.full((500, 500), 3.0))).mean()
        >>> invert_anscombe(mean[None, None]).item().__round__(1)
        3.0
    """
    d = values.clamp_min(MIN_STABILISED_COUNT)
    root = math.sqrt(3 / 2)
    rate = d**2 / 4 + root / 4 / d - 11 / 8 / d**2 + 5 / 8 * root / d**3 - 1 / 8
    return rate.clamp_min(0)
