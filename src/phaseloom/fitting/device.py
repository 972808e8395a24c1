"""Where to compute."""

import torch
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team

__all__ = ["choose_device", "device_of"]


def choose_device(name: str, /) -> str:
    """The device of a recipe's ``device``: ``auto`` is a GPU where there is one, each process its own.

    Raises:
        BadInput: a GPU that is not there, or a CPU for processes that meet on GPUs.

    Example:
        >>> choose_device("cpu")
        'cpu'
    """
    has_gpu = torch.cuda.is_available()
    processes = team()
    if name == "cuda" and not has_gpu:
        raise BadInput("device", "cuda", "is not available: write device: cpu")
    if processes.world_size > 1 and name == "cpu" and not processes.device.startswith("cpu"):
        fix = "is not where the processes communicate: write auto, or hide the GPUs from them"
        raise BadInput("device", "cpu", fix)
    if processes.world_size > 1:
        return processes.device
    return "cuda" if has_gpu and name != "cpu" else "cpu"


def device_of(net: nn.Module, /) -> torch.device:
    """The device of a network; that of one without numbers is the CPU.

    Example:
        >>> device_of(nn.Identity())
        device(type='cpu')
    """
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
