"""Patterns in a TIFF stack, mapped into memory where the file allows it, else read page by page; or in a
series of TIFF files of one pattern each.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from phaseloom.data.formats.files import READ_ERRORS, require_file
from phaseloom.data.formats.header import About
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra

__all__ = ["ABOUT", "is_single_image", "list_files", "read", "read_image"]

ABOUT = About(
    files=".tif .tiff; a series of one pattern each",
    reading="batch by batch",
    states="nothing",
    compared="tifffile",
)

log = logging.getLogger(__name__)

MAX_FILES_CHECKED = 32
"""Files of a series whose shape is compared at once; the others are compared when they are read."""

NUMBERED_NAME = re.compile(r"(.*?)(\d+)(\.tiff?)", re.IGNORECASE)


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    series: str | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of the first series of images in the file.

    A file of one pattern whose name ends in a number stands for all files beside it whose names differ in
    that number only, in the order of the numbers. A remark tells how many these are.

    Args:
        path: the file.
        **setup: see `Setup`.
        series: files beside it that are one scan, one pattern each, as ``"scan_*.tif"``; numbers in their
            names are ordered as numbers, the first one first.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> import tifffile
        >>> tifffile.imwrite("stack.tif", np.ones((6, 8, 8), np.uint16))
        >>> len(read("stack.tif", energy=80e3, angle=1e-3, step=0.4, grid=(2, 3)))
        6
    """
    path = require_file(path)
    if series is not None:
        return build_scan(path, FileSeries.of(_match_files(path, series)), setup)
    files = list_files(path)
    if not files:
        return build_scan(path, _open_series(path), setup)
    source = FileSeries.of(files)
    _describe_series(path, files)
    return build_scan(path, source, setup)


def is_single_image(path: Path, /) -> bool:
    """Whether a TIFF file holds one image of one number per pixel."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        try:
            file.pages[1]
        except IndexError:
            return len(file.series[0].shape) == 2
        return False


def list_files(path: Path, /) -> list[Path]:
    """The files of one pattern each that are read together with one of them; none where there is only one.

    Example:
        >>> import tifffile
        >>> for number in (1, 2, 10):
        ...     tifffile.imwrite(f"scan_{number}.tif", np.ones((8, 8), np.uint16))
        >>> [file.name for file in list_files(Path("scan_2.tif"))]
        ['scan_1.tif', 'scan_2.tif', 'scan_10.tif']
    """
    own = NUMBERED_NAME.fullmatch(path.name)
    if own is None:
        return []
    try:
        if not is_single_image(path):
            return []
    except (ImportError, *READ_ERRORS):  # the reader itself says what is wrong
        return []
    stem, _, ending = own.groups()
    numbers: dict[int, Path] = {}
    for entry in sorted(os.scandir(path.parent), key=lambda entry: entry.name):
        other = NUMBERED_NAME.fullmatch(entry.name)
        if other is not None and (other[1], other[3]) == (stem, ending):
            numbers.setdefault(int(other[2]), path.parent / entry.name)
    return [numbers[number] for number in sorted(numbers)] if len(numbers) > 1 else []


def _describe_series(path: Path, files: Sequence[Path]) -> None:
    """Tell which files are read as one scan, and which numbers between the first and the last none has."""
    parts = [NUMBERED_NAME.fullmatch(file.name) for file in files]
    numbers = [int(part[2]) for part in parts if part is not None]
    warn(log, "%s: read as one scan with all %d files from %s on", path.name, len(files), files[0].name)
    lost = numbers[-1] - numbers[0] + 1 - len(numbers)
    if lost:
        first = next(a + 1 for a, b in pairwise(numbers) if b != a + 1)
        text = "%s: %d numbers between the first and the last file are missing, the first of them is %d"
        warn(log, text, path.name, lost, first)


def _match_files(path: Path, series: str) -> list[Path]:
    """The files beside one that a pattern of names matches, in the order of their numbers."""
    place = f"{path.name}: series"
    if not series or "/" in series or "\\" in series:
        raise BadInput(place, series, "is not a pattern of names beside the file: write '*.tif'")
    files = [one for one in path.parent.glob(series) if one.suffix.lower() in (".tif", ".tiff")]
    if not files:
        raise BadInput(place, series, "matches no TIFF file beside this one: write '*.tif'")
    return sorted(files, key=lambda one: [int(k) if k.isdigit() else k for k in re.split(r"(\d+)", one.name)])


@dataclass(frozen=True)
class FileSeries:
    """Files of one pattern each: those that are asked for are read."""

    files: Sequence[Path]
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, files: Sequence[Path]) -> "FileSeries":
        """Look at the first file, and compare others with it without reading all.

        Raises:
            BadInput: a file that holds no single pattern, or one of another shape.
        """
        first = read_image(files[0])
        series = cls(files, (len(files), *first.shape), first.dtype)
        for number in np.unique(np.linspace(0, len(files) - 1, MAX_FILES_CHECKED).astype(int)):
            series.read_pattern(number)
        return series

    def read_pattern(self, number: int) -> np.ndarray:
        """One pattern ``(y, x)``, of the shape and type of the first."""
        image = read_image(self.files[number])
        if image.shape != self.shape[1:] or image.dtype != self.dtype:
            first = f"{' x '.join(map(str, self.shape[1:]))} pixels of {self.dtype} of {self.files[0].name}"
            fix = f"is not {first}: move it away, or name the files of the scan with series: 'scan_*.tif'"
            value = f"{' x '.join(map(str, image.shape))} pixels of {image.dtype}"
            raise BadInput(self.files[number].name, value, fix)
        return image

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        numbers = range(*block[0].indices(len(self.files)))
        return np.stack([self.read_pattern(number)[block[1:]] for number in numbers])


def read_image(path: Path) -> np.ndarray:
    """The only image of a file."""
    tifffile = _import_tifffile(path)
    try:
        image = tifffile.imread(path)
    except (tifffile.TiffFileError, *READ_ERRORS) as error:
        raise BadInput(path.name, None, "is not a whole TIFF file: copy it again") from error
    if image.ndim != 2:
        fix = "is not one pattern (y, x), as files of a series are: read a stack without series"
        raise BadInput(path.name, f"shape {image.shape}", fix)
    return image


def _import_tifffile(path: Path) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtra(f"{path.name}: tif", "tifffile", "formats") from error
    return tifffile


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
    tifffile = _import_tifffile(path)
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
