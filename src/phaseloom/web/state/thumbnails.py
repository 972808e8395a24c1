"""Small pictures of runs, as PNG in the text of a page."""

from pathlib import Path

from phaseloom.errors import BadInput
from phaseloom.plot.cards import encode_png
from phaseloom.web.state.run_images import find_newest, open_images

__all__ = ["ThumbnailCache"]

SIDE = 96
MAX_KEPT = 500


class ThumbnailCache:
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
        return encode_png(open_images(path).phase().values, side=SIDE)
    except (BadInput, OSError):
        return ""
