"""Partly coherent beams: a source of finite size and a spread of focus as few incoherent modes.

Every point of the source, at every instant, makes a coherent beam of its own; patterns are the sum of
theirs. A Gaussian source and a Gaussian spread of focus are replaced by the nodes of a quadrature, and the
beams of these by the strongest of their orthogonal modes.

Source: Thibault & Menzel 2013, doi 10.1038/nature11806 (modes); Nellist & Rodenburg 1994,
doi 10.1016/0304-3991(94)90092-2 (partial coherence in scanning microscopy).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.physics.fourier import frequencies

__all__ = ["beam_states", "mix_beams"]

NODES_PER_AXIS = 4
"""Of a Gauss-Hermite quadrature. Patterns of a random object were right to 0.1 to 1 % for sources up to 0.2
``wavelength / semiangle`` and one depth of focus of spread, to 3 % for a source of 0.3; three nodes err by
three times as much."""


def beam_states(
    source_size: Tensor, focal_spread: Tensor, /
) -> tuple[Float[Tensor, " state"], Float[Tensor, "state 3"]]:
    """Weights and places (row, column, defocus; angstrom) of the beams of a source and a spread of focus.

    Args:
        source_size: standard deviation on the object along each axis, angstrom.
        focal_spread: standard deviation of the focus, angstrom.

    Example:
        >>> weights, places = beam_states(torch.tensor(0.4), torch.tensor(0.0))
        >>> len(weights), round(float((weights * places[:, 0] ** 2).sum()), 3)
        (16, 0.16)
    """
    points, shares = np.polynomial.hermite_e.hermegauss(NODES_PER_AXIS)
    nodes = source_size.new_tensor(points)
    weight = source_size.new_tensor(shares / shares.sum())
    alone = source_size.new_zeros(1), source_size.new_ones(1)
    lines = [(nodes, weight) if bool(size) else alone for size in (source_size, source_size, focal_spread)]
    grid = torch.meshgrid(*(line for line, _ in lines), indexing="ij")
    share = torch.meshgrid(*(line for _, line in lines), indexing="ij")
    places = torch.stack([one.flatten() for one in grid], -1)
    weights = torch.stack(share).prod(0).flatten()
    return weights, places * torch.stack([source_size, source_size, focal_spread])


def mix_beams(
    pupil: Complex[Tensor, "y x"],
    pixel: tuple[float, float],
    /,
    *,
    wavelength: float,
    source_size: Tensor,
    focal_spread: Tensor,
    count: int,
) -> Complex[Tensor, "mode y x"]:
    """The strongest orthogonal modes of a partly coherent beam, as pupils with the power of the given one.

    Differentiable in the pupil and both sizes. Which combinations of beams are strong counts as a constant:
    with all modes kept, patterns do not depend on it.

    Args:
        pupil: of the coherent beam, zero frequency in the corner.
        pixel: of the window in real space, angstrom.
        wavelength: angstrom.
        source_size: see `beam_states`; angstrom.
        focal_spread: see `beam_states`; angstrom.
        count: of modes; those that are weaker are left out.

    Example:
        >>> pupil = (torch.fft.fftfreq(16).abs() < 0.2).outer(torch.fft.fftfreq(16).abs() < 0.2) + 0j
        >>> sizes = {"source_size": torch.tensor(0.5), "focal_spread": torch.tensor(0.0)}
        >>> modes = mix_beams(pupil, (0.5, 0.5), wavelength=0.02, **sizes, count=3)
        >>> [round(float(one.abs().square().sum() / pupil.abs().square().sum()), 2) for one in modes]
        [0.54, 0.23, 0.23]
    """
    weights, places = beam_states(source_size, focal_spread)
    y, x = frequencies((pupil.shape[-2], pupil.shape[-1]), pixel, like=weights)
    turns = y * places[:, 0, None, None] + x * places[:, 1, None, None]
    turns = turns - 0.5 * wavelength * (y.square() + x.square()) * places[:, 2, None, None]
    lit = pupil.detach().abs().flatten().nonzero()[:, 0]
    coherent = pupil.flatten()[lit]
    roots = weights[:, None].sqrt().expand(-1, len(lit))
    states = torch.polar(roots, -2 * math.pi * turns.flatten(1)[:, lit]) * coherent
    gram = states.detach() @ states.detach().mH
    strongest = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :count]
    modes = strongest.mH @ states
    out = modes.new_zeros(len(modes), pupil.numel())
    out[:, lit] = modes * (coherent.norm() / modes.norm())
    return out.view(-1, *pupil.shape)
