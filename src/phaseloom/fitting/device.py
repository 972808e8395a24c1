"""Where to compute."""

import torch
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team

__all__ = ["chosen", "of"]


def chosen(name: str, /) -> str:
    """The device of a recipe's ``device``: ``auto`` is a GPU where there is one, each process its own.

    Raises:
        BadInput: a GPU that is not there, or a CPU for processes that meet on GPUs.

    Example:
        >>> chosen("cpu")
        'cpu'
    """
    there, us = torch.cuda.is_available(), team()
    if name == "cuda" and not there:
        raise BadInput("device", "cuda", "is not there: write device: cpu")
    if us.count > 1 and name == "cpu" and not us.device.startswith("cpu"):
        raise BadInput(
            "device", "cpu", "is not where the processes meet: write auto, or hide the GPUs from them"
        )
    if us.count > 1:
        return us.device
    return "cuda" if there and name != "cpu" else "cpu"


def of(net: nn.Module, /) -> torch.device:
    """The device of a network; that of one without numbers is the CPU.

    Example:
        >>> of(nn.Identity())
        device(type='cpu')
    """
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
