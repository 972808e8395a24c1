"""Image files in and out as they are: grey, colours or any channels, 8 bits, 16 bits or floating point."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import whole

__all__ = ["SUFFIXES", "picture", "written"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")
"""Files that are images."""

DEPTHS = {"b": 1, "u1": 255, "u2": 65535}
"""Largest value of the kinds of whole numbers that files of images hold."""

MODES = ("1", "L", "I;16", "I;16B", "I;16L", "P", "RGB", "RGBA", "LA")
"""Kinds of pixels that are read, in the words of Pillow."""


def picture(path: Path, /) -> np.ndarray:
    """An image file as float32 ``(channel, y, x)``.

    Whole numbers of 8 and 16 bits are divided by the largest that they can hold, so that black is 0 and white
    1; floating-point numbers stay as they are, whatever their range. Photographs are turned as their camera
    was held. A .npy holds ``(y, x)`` or ``(channel, y, x)``.

    Args:
        path: of a PNG, JPEG, BMP, TIFF or .npy.

    Raises:
        BadInput: a file that is damaged, transparent, of complex numbers or integers without a scale, of
            other axes, or would lose bits.
        MissingExtra: a TIFF without tifffile.
    """
    reader = {".npy": _array, ".tif": _tiff, ".tiff": _tiff}.get(path.suffix.lower(), _photograph)
    try:
        values = reader(path)
    except BadInput:
        raise
    except Exception as problem:  # whatever a reader says of a file that it does not understand
        said = f"cannot be read ({type(problem).__name__}): replace it by a whole image file"
        raise BadInput(str(path), None, said) from problem
    if values.ndim not in (2, 3) or not values.size:
        raise BadInput(str(path), f"shape {values.shape}", "is no image (y, x) or (channel, y, x)")
    return np.ascontiguousarray(_scaled(values, path).reshape(-1, *values.shape[-2:]))


def written(path: Path, image: np.ndarray, /) -> None:
    """Save one or three channels ``(channel, y, x)`` of 0 to 1 as a PNG of 8 bits; values are clipped."""
    from PIL import Image

    levels = np.moveaxis(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), 0, -1)
    with whole(path) as short:
        Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(short, "PNG")


def _scaled(values: np.ndarray, path: Path) -> np.ndarray:
    kind = values.dtype.kind
    if kind == "f":
        return values.astype(np.float32)
    largest = DEPTHS.get("b" if kind == "b" else f"{kind}{values.dtype.itemsize}")
    if largest is None:
        fix = "has no largest value: save float32 in the unit you want"
        fix = (
            "is no real image: save its phase, or real and imaginary part as channels" if kind == "c" else fix
        )
        raise BadInput(str(path), f"of {values.dtype}", fix)
    return values.astype(np.float32) / np.float32(largest)


def _array(path: Path) -> np.ndarray:
    values = np.load(path, allow_pickle=False)
    if values.ndim == 3 and values.shape[-1] <= 4 < values.shape[0]:
        fix = "looks like (y, x, channel): save it as (channel, y, x)"
        raise BadInput(str(path), f"shape {values.shape}", fix)
    return values


def _tiff(path: Path) -> np.ndarray:
    try:
        import tifffile
    except ImportError as problem:
        raise MissingExtra(f"{path.name}: tif", "tifffile", "formats") from problem
    with tifffile.TiffFile(path) as file:
        series: Any = file.series[0]
        values, axes = series.asarray(), series.axes
    if values.ndim == 3 and axes.endswith("S"):  # samples of a pixel next to one another
        values = np.moveaxis(values, -1, 0)
    return values


def _photograph(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    _keep_bits(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images and odd metadata
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode not in MODES:
                fix = "must be grey or RGB: convert it, or save a TIFF or .npy"
                raise BadInput(str(path), f"pixels of mode {image.mode}", fix)
            if image.mode == "P":
                image = image.convert("RGBA")
            values = np.asarray(image)
    if image.mode in ("RGBA", "LA"):
        if values[..., -1].min() < 255:
            raise BadInput(str(path), None, "has transparent pixels: save it without an alpha channel")
        values = values[..., 0] if image.mode == "LA" else values[..., :3]
    return values if values.ndim == 2 else np.moveaxis(values, -1, 0)


def _keep_bits(path: Path) -> None:
    """Refuse a PNG of more than one channel of 16 bits, of which Pillow would keep 8 without a word."""
    with path.open("rb") as file:
        head = file.read(26)
    if head[:8] == b"\x89PNG\r\n\x1a\n" and head[24] == 16 and head[25] != 0:
        fix = "of which only 8 could be read: save it as a TIFF or .npy"
        raise BadInput(str(path), "16 bits per colour", fix)
