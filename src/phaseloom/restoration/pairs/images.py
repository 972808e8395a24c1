"""Read and write image files unchanged: grey, colours or any channels, 8 bits, 16 bits or floating point."""

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import whole_buffer

__all__ = ["SUFFIXES", "convert_like", "read_bit_depth", "read_image", "write_image"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")
"""Suffixes of image files."""

LARGEST_VALUES = {"b1": 1, "u1": 255, "u2": 65535}
"""Largest value of the integer types of image files, by numpy's kind and bytes."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PILLOW_MODES = ("1", "L", "I;16", "I;16B", "I;16L", "P", "RGB", "RGBA", "LA")
"""Pixel modes that are read."""


def read_image(path: Path, /) -> np.ndarray:
    """An image file as float32 ``(channel, y, x)``.

    Integers of 8 and 16 bits are divided by the largest value of their type, so that black is 0 and white 1;
    floating-point numbers stay as they are, whatever their range. Photographs are rotated by their EXIF
    orientation. A .npy holds ``(y, x)`` or ``(channel, y, x)``.

    Args:
        path: of a PNG, JPEG, BMP, TIFF or .npy.

    Raises:
        BadInput: a file that is damaged, transparent, of complex numbers or integers without a scale, of
            other axes, or would lose bits.
        MissingExtra: a TIFF without tifffile.
    """
    reader = {".npy": _read_npy, ".tif": _read_tiff, ".tiff": _read_tiff}.get(
        path.suffix.lower(), _read_pillow
    )
    try:
        values = reader(path)
    except BadInput:
        raise
    except Exception as problem:  # readers raise many kinds of exceptions on damaged files
        fix = f"cannot be read ({type(problem).__name__}): replace it by an undamaged image file"
        raise BadInput(str(path), None, fix) from problem
    if values.ndim not in (2, 3) or not values.size:
        raise BadInput(str(path), f"shape {values.shape}", "is not an image (y, x) or (channel, y, x)")
    return np.ascontiguousarray(_to_unit(values, path).reshape(-1, *values.shape[-2:]))


def read_bit_depth(path: Path, /) -> int:
    """Bits of a grey value in a PNG: 16, or 8 of every other file."""
    with path.open("rb") as file:
        head = file.read(25)
    return 16 if head[:8] == PNG_SIGNATURE and head[24] == 16 else 8


def convert_like(path: Path, image: np.ndarray, /) -> np.ndarray:
    """Channels ``(channel, y, x)`` in the dtype and the order of axes of a TIFF or a .npy.

    Integers are rounded and clipped; floating-point numbers stay float32.
    """
    if path.suffix.lower() == ".npy":
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        dtype = values.dtype
        axes = "YX" if values.ndim == 2 else "CYX"
    else:
        with _import_tifffile(path).TiffFile(path) as file:
            series: Any = file.series[0]
            dtype = np.dtype(series.dtype)
            axes = series.axes
    largest = LARGEST_VALUES.get(f"{dtype.kind}{dtype.itemsize}")
    if largest is not None:
        image = np.round(image.clip(0, 1) * largest).astype(dtype)
    if len(axes) == 2:
        return image[0]
    return np.moveaxis(image, 0, -1) if axes.endswith("S") else image


def write_image(path: Path, image: np.ndarray, /, *, bits: int = 8, stamp: str = "") -> None:
    """Save one or three channels ``(channel, y, x)`` of 0 to 1 as a PNG, clipped; any array as TIFF or .npy.

    Args:
        path: its suffix decides the format.
        image: to save.
        bits: of a grey value in a PNG of one channel; colours have 8.
        stamp: description to store in the file; not stored in a .npy.

    Raises:
        MissingExtra: a TIFF without tifffile.
    """
    with whole_buffer(path) as buffer:
        if path.suffix == ".npy":
            np.save(buffer, image, allow_pickle=False)
        elif path.suffix == ".tif":
            photometric = "rgb" if image.ndim == 3 and image.shape[-1] == 3 else "minisblack"
            _import_tifffile(path).imwrite(buffer, image, description=stamp, photometric=photometric)
        else:
            _write_png(buffer, image, bits, stamp)


def _write_png(file: BinaryIO, image: np.ndarray, bits: int, stamp: str) -> None:
    from PIL import Image, PngImagePlugin

    values = np.clip(image, 0, 1)
    if bits == 16 and len(image) == 1:
        levels = np.round(values[0] * 65535).astype(np.uint16)
    else:
        levels = np.moveaxis(np.round(values * 255).astype(np.uint8), 0, -1)
        levels = levels[..., 0] if levels.shape[-1] == 1 else levels
    description = PngImagePlugin.PngInfo()
    if stamp:
        description.add_text("Description", stamp)
    Image.fromarray(levels).save(file, "PNG", pnginfo=description)


def _import_tifffile(path: Path) -> Any:
    try:
        import tifffile
    except ImportError as problem:
        raise MissingExtra(f"{path.name}: tif", "tifffile", "formats") from problem
    return tifffile


def _to_unit(values: np.ndarray, path: Path) -> np.ndarray:
    """Integers divided by the largest value of their type, as float32."""
    kind = values.dtype.kind
    if kind == "f":
        return values.astype(np.float32)
    largest = LARGEST_VALUES.get(f"{kind}{values.dtype.itemsize}")
    if largest is None:
        fix = "has no largest value: save float32 in the unit you want"
        if kind == "c":
            fix = "is not a real image: save its phase, or real and imaginary part as channels"
        raise BadInput(str(path), f"of {values.dtype}", fix)
    return values.astype(np.float32) / np.float32(largest)


def _read_npy(path: Path) -> np.ndarray:
    values = np.load(path, allow_pickle=False)
    if values.ndim == 3 and values.shape[-1] <= 4 < values.shape[0]:
        fix = "looks like (y, x, channel): save it as (channel, y, x)"
        raise BadInput(str(path), f"shape {values.shape}", fix)
    return values


def _read_tiff(path: Path) -> np.ndarray:
    with _import_tifffile(path).TiffFile(path) as file:
        series: Any = file.series[0]
        values = series.asarray()
        axes = series.axes
    if values.ndim == 3 and axes.endswith("S"):  # samples of a pixel next to one another
        values = np.moveaxis(values, -1, 0)
    return values


def _read_pillow(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    _refuse_deep_colours(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images and odd metadata
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode not in PILLOW_MODES:
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


def _refuse_deep_colours(path: Path) -> None:
    """Refuse a PNG of more than one channel of 16 bits, of which Pillow would silently keep 8."""
    with path.open("rb") as file:
        head = file.read(26)
    if head[:8] == PNG_SIGNATURE and head[24] == 16 and head[25] != 0:
        fix = "of which only 8 could be read: save it as a TIFF or .npy"
        raise BadInput(str(path), "16 bits per colour", fix)
