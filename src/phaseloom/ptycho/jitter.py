"""Jitter of beam positions: how far few electrons allow each position to move.

A position's shift is found from its own pattern, with a variance of one over its Fisher information ``F``.
Where electrons are few, that is more than the jitter itself, and free positions are worse than nominal ones.
Taken as normal with a variance ``s^2`` that is learned from all positions (empirical Bayes), the jitter most
probable after the measurement is ``F / (F + 1 / s^2)`` of the shift that fits the pattern best. With many
electrons that is the whole shift; without jitter ``s^2`` falls epoch by epoch, and positions return to where
they were said to be.

What moves positions together is no jitter: an affine map of them is left free.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["estimate_jitter", "fit_affine_part", "well_determined_share"]

ITERATIONS = 30
"""Steps to the variance; each halves the error of its logarithm."""

NUMBERS_OF_MAP_PER_AXIS = 3
"""Numbers of an affine map along each axis: it fits as many positions whatever their jitter."""


def fit_affine_part(offsets: Float[Tensor, "n 2"], places: Float[Tensor, "n 2"], /) -> Float[Tensor, "n 2"]:
    """The part of shifts that is an affine map of the places: least squares."""
    centred = places - places.mean(0)
    design = torch.cat([torch.ones_like(centred[:, :1]), centred / centred.abs().max().clamp(min=1e-6)], 1)
    wide = design.double()
    solution = torch.linalg.pinv(wide.T @ wide, hermitian=True) @ (wide.T @ offsets.double())
    return (wide @ solution).to(offsets)


def well_determined_share(information: Float[Tensor, "n k"], variance: Tensor | float, /) -> Tensor:
    """``F / (F + 1 / s^2)``: share of the best fitting shift that a prior of some variance leaves.

    Example:
        >>> well_determined_share(torch.tensor([[1.0, 3.0]]), torch.tensor(1.0)).tolist()
        [[0.5, 0.75]]
    """
    return information * variance / (information * variance + 1)


def estimate_jitter(shifts: Float[Tensor, "n 2"], information: Float[Tensor, "n 2"], /) -> Tensor:
    """Variance of the jitter along each axis for which these shifts are the most probable ones.

    ``s^2 = mean(shift^2) / mean(F / (F + 1 / s^2))`` (MacKay 1992, doi 10.1162/neco.1992.4.3.415). If epochs
    alternate between this and the shifts that it allows, ``s^2`` ends where the marginal likelihood has its
    maximum: at ``mean(best shift^2 - 1 / F)`` for equal ``F``, or at zero. Too large an ``F``, of a noisy
    object, makes it too small, never too large.

    Args:
        shifts: from which `fit_affine_part` has been taken away.
        information: of each pattern about its position along two axes at right angles.
    """
    freedom = max(1, len(shifts) - NUMBERS_OF_MAP_PER_AXIS)
    square = float(shifts.double().square().sum() / (2 * freedom))
    known = information.double().cpu()
    variance = square
    for _ in range(ITERATIONS):
        # the plain iteration would jump to and fro where F s^2 is small
        share = max(float(well_determined_share(known, variance).mean()), 1e-30)
        variance = math.sqrt(variance * square / share)
    return shifts.new_tensor(variance, dtype=torch.float64)
