"""Where to compute."""

import torch

from phaseloom.errors import BadInput

__all__ = ["chosen"]


def chosen(name: str, /) -> str:
    """The device of a recipe's ``device``: ``auto`` is a GPU where there is one.

    Raises:
        BadInput: a GPU that is not there.

    Example:
        >>> chosen("cpu")
        'cpu'
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise BadInput("device", "cuda", "is not there: write device: cpu")
    return ("cuda" if there else "cpu") if name == "auto" else name
