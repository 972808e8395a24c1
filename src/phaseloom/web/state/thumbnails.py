"""Small pictures of runs, as PNG in the text of a page."""

import base64
import io
from pathlib import Path

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.plot.style import average_blocks, limits
from phaseloom.web.state.run_images import find_newest, open_images

__all__ = ["Thumbnails", "encode_png"]

SIDE = 96
MAX_KEPT = 500


class Thumbnails:
    """Pictures of runs by their folders; one is made again when the run has gone on."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, str]] = {}

    def get(self, folder: Path) -> str:
        """The address of a picture that holds it; empty: the run has none."""
        path = find_newest(folder)
        if path is None:
            return ""
        stamp = path.stat().st_mtime_ns
        known = self._known.get(folder)
        if known is None or known[0] != stamp:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            known = self._known[folder] = (stamp, _draw(path))
        return known[1]


def _draw(path: Path) -> str:
    try:
        return encode_png(open_images(path).phase().values)
    except (BadInput, OSError):
        return ""


def encode_png(values: np.ndarray, /, *, side: int = SIDE, colours: str = "viridis") -> str:
    """An image ``(y, x)`` as the address of a PNG that holds it, no more than some pixels a side.

    Example:
        >>> encode_png(np.eye(4))[:22]
        'data:image/png;base64,'
    """
    from matplotlib import image

    fold = -(-max(values.shape) // side)
    few = average_blocks(values, fold) if min(values.shape) >= fold else values
    low, high = limits(few)
    buffer = io.BytesIO()
    image.imsave(buffer, np.nan_to_num(few, nan=low), format="png", cmap=colours, vmin=low, vmax=high)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
