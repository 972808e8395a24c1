"""The sixteen convolutions of VGG19, up to the last one of the fifth level, to compare images by features.

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

__all__ = ["VGG19", "load_vgg", "random_vgg"]

LEVEL_WIDTHS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
"""Channels of each convolution, level by level; between levels maps are halved."""

MIN_PIXELS = 16
"""Pixels along an edge that leave one for the fifth level."""

UNREADABLE_PICKLES = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""Errors of torch.load for files that are damaged or hold more than tensors."""


class VGG19(nn.Module):
    """Images to the output of the last convolution, ``conv5_4``, before its ReLU.

    Images have three channels and are used as they are: subtract ImageNet's mean before, if you want that.
    Never trained; gradients go through it to the image.

    Example:
        >>> net = random_vgg()
        >>> net(torch.rand(1, 3, 40, 32)).shape, sum(value.numel() for value in net.state_dict().values())
        (torch.Size([1, 512, 2, 2]), 20024384)
    """

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for widths in LEVEL_WIDTHS:
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1, device="meta"), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-2])

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b 512 v u"]:
        """Features on a sixteenth of the pixels along each axis."""
        if min(images.shape[-2:]) < MIN_PIXELS:
            fix = f"pixels are too few for VGG19: give {MIN_PIXELS} or more along each edge"
            raise BadInput("vgg19", tuple(images.shape[-2:]), fix)
        return self.features(images)


def load_vgg(path: Path | str, /) -> VGG19:
    """The network with the weights of a file; other tensors in it (``classifier.*``) are ignored.

    Args:
        path: a ``.pth`` of torchvision's, which may only hold tensors, or ``.safetensors``.

    Raises:
        BadInput: no such file, one that is damaged or holds more than tensors, or weights of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput("vgg19", str(path), "does not exist: name torchvision's vgg19-dcbb9e9d.pth")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    return _build(read(path), str(path))


def random_vgg(*, seed: int = 0) -> VGG19:
    """The network with random weights, the same for a seed: for trials without a file of weights.

    A weak substitute: random features distinguish texture and contrast a little, but not perceived quality.
    By them a mirrored image of waves is closer to the true one than a blurred one is.

    Args:
        seed: of the weights, normal with variance ``2 / fan in`` (He et al. 2015, arXiv 1502.01852).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in VGG19().state_dict().items():
        weights[name] = torch.zeros(value.shape)
        if value.ndim == 4:
            weights[name].normal_(0, math.sqrt(2 / value[0].numel()), generator=generator)
    return _build(weights, "random")


def _build(found: Mapping[str, Any], path: str) -> VGG19:
    """The network with checked weights, frozen."""
    net = VGG19()
    weights = {}
    for name, wanted in net.state_dict().items():
        value = found.get(name)
        if not isinstance(value, Tensor):
            fix = f"lacks {name}: not a file of VGG19 without batch norms under torchvision's names"
            raise BadInput("vgg19", path, fix)
        if value.shape != wanted.shape:
            fix = f"has {name} of shape {tuple(value.shape)}, where VGG19 has {tuple(wanted.shape)}"
            raise BadInput("vgg19", path, fix)
        weights[name] = value.float()
    if not all(value.isfinite().all() for value in weights.values()):
        raise BadInput("vgg19", path, "holds weights that are not finite: fetch the file again")
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise BadInput("vgg19", str(path), "is damaged, or not a file of safetensors") from problem


def _read_pickle(path: Path) -> Mapping[str, Any]:
    """Tensors by name; torch's loader refuses a file that would run code."""
    fix = "is damaged, or holds more than tensors by their names"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE_PICKLES as problem:
        raise BadInput("vgg19", str(path), fix) from problem
    if not isinstance(found, Mapping):
        raise BadInput("vgg19", str(path), fix)
    return found
