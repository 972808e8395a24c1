"""Free flight between parallel planes on any grid, along any direction: tilted planes, shifted windows.

`propagate.angular_spectrum` is the case of an upright grid, a flight along its normal and a window that
stays where it is.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.errors import BadInput

__all__ = ["advance", "oblique"]


def oblique(
    shape: tuple[int, int],
    basis: Float[Tensor, "3 2"],
    wavelength: float,
    offset: Float[Tensor, " 3"],
    along: Float[Tensor, " 3"] | None = None,
    /,
) -> Complex[Tensor, "y x"]:
    """Kernel that takes a wave from one plane to a parallel one whose grid is moved by a vector.

    The wave is a carrier ``exp(i k p . r)`` times an envelope on the grid ``r = basis @ (row, column)``.
    For a frequency ``q`` of the envelope in the plane, ``K = k p + q`` in the plane and the normal part of
    the wave vector is ``kn = sqrt(k^2 - |K|^2)``, so the envelope at the offset ``d`` is multiplied by
    ``exp(i d . (q + n (kn - k p . n)))``. As in `propagate` the difference is written without cancellation,
    ``kn - k p.n = -(|q|^2 + 2 k p . q) / (kn + k p.n)``. Evanescent waves decay in either direction.

    Args:
        shape: window (y, x).
        basis: step between rows, step between columns, ``(xyz, 2)``; any length, oblique too. Its dtype
            is that of the kernel.
        wavelength: in the same unit.
        offset: from the first plane's grid to the second's, (x, y, z).
        along: direction ``p`` of the carrier; default: the normal of the planes on the side of the offset.

    Returns:
        Zero frequency in the corner; for `propagate.fly`. Differentiable in all vectors.

    Raises:
        BadInput: rows and columns are parallel, or the carrier runs in the plane.

    Example:
        >>> from phaseloom.physics.propagate import angular_spectrum
        >>> upright = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
        >>> kernel = oblique((6, 5), upright, 0.5, torch.tensor([0.0, 0.0, 40.0]))
        >>> same = angular_spectrum((6, 5), (3.0, 2.0), 0.5, torch.tensor(40.0))
        >>> bool(torch.allclose(kernel, same, atol=1e-4))
        True
    """
    turn, loss = advance(shape, basis, wavelength, offset, along)
    return torch.polar(torch.exp(-loss), turn)


def advance(
    shape: tuple[int, int],
    basis: Float[Tensor, "3 2"],
    wavelength: float,
    offset: Float[Tensor, " 3"],
    along: Float[Tensor, " 3"] | None = None,
    /,
) -> tuple[Float[Tensor, "y x"], Float[Tensor, "y x"]]:
    """By how much each frequency of `oblique` turns, and how far it decays, in radian and as an exponent.

    Both go with the length of the offset, so that flights by many lengths share a table.

    Example:
        >>> upright = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
        >>> turn, loss = advance((6, 5), upright, 0.5, torch.tensor([0.0, 0.0, 40.0]))
        >>> float(turn[0, 0]), bool((turn <= 0).all()), float(loss.max())
        (0.0, True, 0.0)
    """
    normal = torch.linalg.cross(basis[:, 0], basis[:, 1])
    area = normal.norm()
    if not area > 1e-6 * basis.norm(dim=0).prod():
        raise BadInput("oblique.basis", basis.tolist(), "has parallel rows and columns: give two directions")
    normal = normal / area
    side = normal @ (offset if along is None else along)
    normal = torch.where(side < 0, -normal, normal)
    carrier = normal if along is None else along / along.norm()
    k, cosine = 2 * math.pi / wavelength, carrier @ normal
    if not cosine > 1e-6:
        raise BadInput("oblique.along", carrier.tolist(), "runs in the plane: the wave would never arrive")
    q = _plane_waves(shape, basis)
    flat = k * (carrier - cosine * normal)
    gained = (q.square().sum(0) + 2 * torch.einsum("i,iyx->yx", flat, q)) / k**2
    square = cosine**2 - gained
    flies, one, depth = square > 0, torch.ones_like(square), offset @ normal
    root = torch.where(flies, square, one).sqrt()
    change = torch.where(flies, -gained / (root + cosine), -cosine)
    loss = torch.where(flies, 0.0, k * depth.abs() * torch.where(flies, one, -square).sqrt())
    return torch.einsum("i,iyx->yx", offset, q) + k * depth * change, loss


def _plane_waves(shape: tuple[int, int], basis: Tensor) -> Float[Tensor, "3 y x"]:
    """Wave vectors in the plane that fit a grid, radian per unit length."""
    y, x = (2 * math.pi * torch.fft.fftfreq(n, dtype=basis.dtype, device=basis.device) for n in shape)
    inverse = torch.linalg.pinv(basis).transpose(0, 1)
    return inverse[:, 0, None, None] * y[:, None] + inverse[:, 1, None, None] * x
