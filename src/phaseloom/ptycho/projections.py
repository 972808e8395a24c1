"""What is imposed on a part after an epoch: each a function of a tensor, applied by the loop.

The name of its first parameter, ``probe`` or ``object``, says which part it is given.

A new one is one function here and its name in ``__all__``.
"""

import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.modes import orthogonalise

__all__ = ["bounded", "orthogonal"]


def orthogonal(probe: Complex[Tensor, "mode y x"], /) -> Complex[Tensor, "mode y x"]:
    """Modes made orthogonal, strongest first; every pattern stays as it is."""
    return orthogonalise(probe)


def bounded(object: Complex[Tensor, "slice y x"], /, *, most: float = 1.0) -> Complex[Tensor, "slice y x"]:
    """Transmission whose modulus exceeds ``most`` brought back to it: matter does not amplify."""
    if not most > 0:
        raise BadInput("projections: bounded.most", most, "must be above 0")
    modulus = object.abs().clamp(min=1e-12)
    return object * torch.clamp(most / modulus, max=1.0)
