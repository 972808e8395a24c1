"""The sixteen convolutions of VGG19, up to the fifth level's last one, to compare images by their features.

Weights are the user's own file: torchvision's ``vgg19-dcbb9e9d.pth`` or the same tensors as safetensors. Its
names, ``features.0.weight`` to ``features.34.bias``, are the names here. Nothing is unpickled but tensors.

Source: Simonyan & Zisserman 2015, arXiv 1409.1556, configuration E.
"""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phaseloom.errors import BadInput

__all__ = ["VGG19", "random", "stored"]

WIDTHS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
"""Channels of each convolution, level by level; between levels maps are halved."""

SMALLEST = 16
"""Pixels along an edge that leave one for the fifth level."""


class VGG19(nn.Module):
    """Images to what the last convolution, ``conv5_4``, finds in them, before it is rectified.

    It takes images of three channels as they are: whoever wants ImageNet's mean taken off does so before. It
    is never trained; gradients go through it to the image.

    Example:
        >>> net = random()
        >>> net(torch.rand(1, 3, 40, 32)).shape, sum(value.numel() for value in net.state_dict().values())
        (torch.Size([1, 512, 2, 2]), 20024384)
    """

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for widths in WIDTHS:
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1, device="meta"), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-2])

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b 512 v u"]:
        """Features on a sixteenth of the pixels along each axis.

        Raises:
            BadInput: images of fewer than sixteen pixels along an edge.
        """
        if min(images.shape[-2:]) < SMALLEST:
            fix = f"pixels are too few for VGG19: give {SMALLEST} or more along each edge"
            raise BadInput("nets: vgg19", tuple(images.shape[-2:]), fix)
        return self.features(images)


def stored(path: Path | str, /) -> VGG19:
    """The network of a file of weights; what the file holds besides (``classifier.*``) is left aside.

    Args:
        path: a ``.pth`` of torchvision's, which may only hold tensors, or ``.safetensors``.

    Raises:
        BadInput: no such file, one that is damaged or holds more than tensors, or weights of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput("nets: vgg19", str(path), "does not exist: name torchvision's vgg19-dcbb9e9d.pth")
    found = _safe(path) if path.suffix == ".safetensors" else _unpickled(path)
    return _filled(found, str(path))


def random(*, seed: int = 0) -> VGG19:
    """The network with random weights, the same for a seed: for trials where no file is at hand.

    It is a weak stand-in. Random features tell texture and contrast apart a little, and know nothing of what
    matters to an eye: to them a mirrored image of waves is closer to the true one than a blurred one is.

    Args:
        seed: of the weights, normal with variance ``2 / fan in`` (He et al. 2015, arXiv 1502.01852).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in VGG19().state_dict().items():
        drawn = torch.zeros(value.shape)
        if value.ndim == 4:
            drawn = drawn.normal_(0, math.sqrt(2 / value[0].numel()), generator=generator)
        weights[name] = drawn
    return _filled(weights, "random")


def _filled(found: Mapping[str, Any], path: str) -> VGG19:
    """The network with weights that have been checked, never to be moved."""
    net, weights = VGG19(), {}
    for name, wanted in net.state_dict().items():
        value = found.get(name)
        if not isinstance(value, Tensor):
            fix = f"lacks {name}: it is no file of VGG19 without batch norms under torchvision's names"
            raise BadInput("nets: vgg19", path, fix)
        if value.shape != wanted.shape:
            fix = f"has {name} of shape {tuple(value.shape)}, where VGG19 has {tuple(wanted.shape)}"
            raise BadInput("nets: vgg19", path, fix)
        weights[name] = value.float()
    if not all(value.isfinite().all() for value in weights.values()):
        raise BadInput("nets: vgg19", path, "holds weights that are not finite: fetch the file again")
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


def _safe(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise BadInput("nets: vgg19", str(path), "is damaged, or no file of safetensors") from problem


def _unpickled(path: Path) -> Mapping[str, Any]:
    """Tensors by name; a file that would run code is refused by the loader."""
    wrong = BadInput("nets: vgg19", str(path), "is damaged, or holds more than tensors by their names")
    broken = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (*broken, AttributeError) as problem:
        raise wrong from problem
    if not isinstance(found, Mapping):
        raise wrong
    return found
