"""The images of a run that a page has seen, few enough to be kept in memory."""

import numpy as np

from phaseloom.plot.style import average_blocks
from phaseloom.web.state.run_images import Field

__all__ = ["ImageHistory"]

MAX_IMAGES = 40
SIDE_KEPT = 256


class ImageHistory:
    """Small images by their epochs, evenly thinned when there are too many.

    Example:
        >>> history = ImageHistory()
        >>> for epoch in range(1, 101):
        ...     history.add(epoch, Field(np.zeros((4, 4)), (1.0, 1.0), (0.0, 0.0)))
        >>> len(history) <= 40, history.epochs[0], history.epochs[-1]
        (True, 1, 100)
    """

    def __init__(self) -> None:
        self._images: list[tuple[int, Field]] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(self, epoch: int, image: Field) -> None:
        """Keep an image; one of the same epoch takes the place of the last."""
        fold = max(1, max(image.values.shape) // SIDE_KEPT)
        few = average_blocks(image.values, fold).astype(np.float16)
        pixel = (image.pixel[0] * fold, image.pixel[1] * fold)
        self._images = [one for one in self._images if one[0] != epoch]
        self._images.append((epoch, Field(few, pixel, image.corner, image.in_pixels)))
        if len(self._images) > MAX_IMAGES:
            self._images = [*self._images[:-1:2], self._images[-1]]

    @property
    def epochs(self) -> list[int]:
        """Epochs of the images, in their order."""
        return sorted(epoch for epoch, _ in self._images)

    def find(self, epoch: int, /) -> Field | None:
        """The image of an epoch; ``None``: it was not seen."""
        return next((image for known, image in reversed(self._images) if known == epoch), None)
