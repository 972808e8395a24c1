"""Patterns in a TIFF stack, mapped into memory where the file allows it, else read page by page."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from phaseloom.data.formats.files import READ_ERRORS, require_file
from phaseloom.data.formats.header import About
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra

__all__ = ["ABOUT", "read"]

ABOUT = About(
    files=".tif .tiff",
    reading="batch by batch",
    states="nothing",
    compared="tifffile",
)


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of the first series of images in the file.

    Args:
        path: the file.
        **setup: see `Setup`.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> import tifffile
        >>> tifffile.imwrite("stack.tif", np.ones((6, 8, 8), np.uint16))
        >>> len(read("stack.tif", energy=80e3, angle=1e-3, step=0.4, grid=(2, 3)))
        6
    """
    path = require_file(path)
    return build_scan(path, _open_series(path), setup)


@dataclass(frozen=True)
class Pages:
    """A stack whose images are compressed: the pages that are asked for are read."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        import tifffile

        lead = self.shape[:-2]
        numbers = np.arange(int(np.prod(lead))).reshape(lead)[block[:-2]]
        try:
            with tifffile.TiffFile(self.path) as file:
                images = [file.pages.get(int(number)).asarray()[block[-2:]] for number in numbers.ravel()]
        except (tifffile.TiffFileError, *READ_ERRORS) as error:
            raise BadInput(
                self.path.name, None, "has an image that is damaged: copy the file again"
            ) from error
        if any(image.shape != images[0].shape for image in images):
            raise BadInput(
                self.path.name, None, "has images of several sizes: write them to files of their own"
            )
        return np.stack(images).reshape(*numbers.shape, *images[0].shape)


def _open_series(path: Path) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtra(f"{path.name}: tif", "tifffile", "formats") from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape = tuple(series.shape)
            dtype = series.dtype
            if series.axes.endswith("S"):
                fix = "is a coloured picture: write counts, one per pixel"
                raise BadInput(path.name, f"shape {shape}", fix)
            if series.dataoffset is not None:
                return tifffile.memmap(path, mode="r", series=0)
            if dtype is not None and len(series.pages) == int(np.prod(shape[:-2])):
                return Pages(path, shape, dtype)
            return series.asarray()
    except BadInput:
        raise
    except (tifffile.TiffFileError, *READ_ERRORS) as error:
        raise BadInput(path.name, None, "is not a whole TIFF file: copy it again") from error
