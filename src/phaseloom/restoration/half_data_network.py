"""Restore a phase by a network that is shown what two halves of its counts agree on.

Beside the phase of all counts the network takes what `phaseloom.restoration.half_data_filter` leaves of it
with a wide and with a narrow neighbourhood: so it knows which detail the data support, whatever the
specimen. Each of its three outputs restores one of these; their mean is the restored phase.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseloom.restoration.apply import RestoredImage, restore_image
from phaseloom.restoration.half_data_filter import filter_by_halves
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.image_kinds import ImageKind

__all__ = ["HALF_DATA_INPUT", "restore_by_halves", "stack_filtered"]

HALF_DATA_INPUT = "filtered by halves"
"""What the card of such a network says under ``input``."""

SPREADS = (6.0, 1.5)
"""Neighbourhoods of the filters, see `filter_by_halves`: the network was trained with these."""


def stack_filtered(image: ArrayLike, first: ArrayLike, second: ArrayLike, /) -> NDArray[np.float32]:
    """Input ``(3, y, x)`` of the network: an image, and it filtered by halves, wide and narrow.

    Args:
        image: ``(y, x)`` of all counts, radian.
        first: of one half of the counts, on the same pixels.
        second: of the other half.

    Raises:
        BadInput: as of `filter_by_halves`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> stack_filtered(*rng.normal(size=(3, 32, 40))).shape
        (3, 32, 40)
    """
    filtered = [filter_by_halves(image, first, second, spread=spread) for spread in SPREADS]
    return np.stack([np.asarray(image, float), *filtered]).astype(np.float32)


def restore_by_halves(
    net: Restorer,
    kind: ImageKind,
    image: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    /,
    *,
    tile: int = 256,
    overlap: int = 64,
) -> RestoredImage:
    """Restore a phase; arguments as of `stack_filtered` and `phaseloom.restoration.apply.restore_image`.

    Raises:
        BadInput: as of these, and a network that takes other channels.
    """
    found = restore_image(net, kind, stack_filtered(image, first, second), tile=tile, overlap=overlap)
    high = None if found.high is None else found.high.mean(0, keepdims=True)
    return RestoredImage(found.low.mean(0, keepdims=True), high)
