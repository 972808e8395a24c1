"""An image through a trained restorer, in its own unit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.weight_files import find
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs import image_kinds as tasks
from phaseloom.restoration.pairs.folders import Image, channels
from phaseloom.restoration.pairs.image_kinds import Task
from phaseloom.restoration.tiles import tiled

__all__ = ["STAMP", "Mended", "mended", "restorer"]

STAMP = "restored, prior-dependent"
"""What every restored image is marked with: what it shows was learned, and not all of it measured."""


@dataclass(frozen=True, eq=False)
class Mended:
    """A restored image, in the unit of the one that was measured.

    Attributes:
        low: ``(channel, y, x)`` on the pixels that were measured.
        high: ``(channel, 2y, 2x)`` on pixels half as wide, or ``None`` of a network without that output; for
            eyes: what is finer than the pixels was learned from other images.
    """

    low: Image
    high: Image | None


def mended(net: Restorer, task: Task, image: Any, /, *, tile: int = 256, overlap: int = 64) -> Mended:
    """Restore an image.

    Args:
        net: trained on such images; it is asked in evaluation mode.
        task: what of the image's values is arbitrary: taken off first, and put back.
        image: ``(channel, y, x)``.
        tile: pixels along an edge of what the network is shown at once, see `phaseloom.restoration.tiles`.
        overlap: pixels that neighbouring tiles share.

    Raises:
        BadInput: channels that are not the network's, values that are not finite, or tiles that cannot be.

    Example:
        >>> from phaseloom.restoration.networks.phaseformer import narrow
        >>> y, x = np.mgrid[:20, :30]
        >>> image = (3.0 + 0.1 * x + np.sin(y)).astype(np.float32)[None]
        >>> found = mended(narrow(), tasks.phase(), image)
        >>> found.high.shape, bool(np.allclose(found.low, image, atol=1e-4))
        ((1, 40, 60), True)
    """
    image, wanted = np.asarray(image), net.plan.channels_in
    if image.ndim != 3 or len(image) != wanted or not image.size:
        said = f"shape {image.shape}"
        raise BadInput("restore", said, f"is no image (channel, y, x) of {channels(wanted)}, as it learned")
    level = task.level(image)
    shown = torch.from_numpy(level.taken(image))[None]
    net.eval()
    low, high = tiled(net, shown, tile=tile, overlap=overlap)
    parts = [None if part is None else level.given(part[0].float().numpy()) for part in (low, high)]
    if task.within is not None:
        parts = [None if part is None else part.clip(*task.within) for part in parts]
    assert parts[0] is not None
    return Mended(parts[0], parts[1])


def restorer(path: Path | str, /) -> tuple[Restorer, Task, dict[str, Any]]:
    """A trained restorer with its task and its card.

    Args:
        path: file or folder of a network, or the name of one that comes with the package.

    Raises:
        BadInput: no network there, or one that restores nothing.
    """
    if Path(path).suffix in (".pth", ".pt", ".ckpt"):
        fix = "was saved by another program, and holds no layers of this one: train anew"
        raise BadInput("--model", str(path), fix)
    file = find(path)
    net, card = pretrained.load(file), pretrained.card(file)
    if not isinstance(net, Restorer):
        fix = "restores no images: name a network of phaseloom restore train"
        raise BadInput("--model", str(path), f"holds a {type(net).__name__}, which {fix}")
    name = str(card.get("task", "photograph"))
    if name not in tasks.__all__:
        raise BadInput("--model", str(path), f"was made for {name}, which this version does not know")
    return net, getattr(tasks, name)(), card
