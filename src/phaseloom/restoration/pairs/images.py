"""Image files in and out as they are: grey, colours or any channels, 8 bits, 16 bits or floating point."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import whole

__all__ = ["SUFFIXES", "depth", "like", "picture", "written"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")
"""Files that are images."""

DEPTHS = {"b": 1, "u1": 255, "u2": 65535}
"""Largest value of the kinds of whole numbers that files of images hold."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""What a PNG begins with."""

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


def depth(path: Path, /) -> int:
    """Bits of a grey value in a PNG: 16, or 8 of everything else."""
    with path.open("rb") as file:
        head = file.read(25)
    return 16 if head[:8] == SIGNATURE and head[24] == 16 else 8


def like(path: Path, image: np.ndarray, /) -> np.ndarray:
    """Channels ``(channel, y, x)`` in the numbers and the order of axes that a TIFF or a .npy has.

    Whole numbers are rounded and clipped; floating-point numbers have 32 bits.
    """
    kind, flat, last = _kind(path)
    if kind.kind in "iub":
        largest = DEPTHS["b" if kind.kind == "b" else f"{kind.kind}{kind.itemsize}"]
        image = np.round(image.clip(0, 1) * largest).astype(kind)
    return image[0] if flat else np.moveaxis(image, 0, -1) if last else image


def _kind(path: Path) -> tuple[np.dtype, bool, bool]:
    """Numbers of a file, whether it has no axis of channels, and whether that is the last one."""
    if path.suffix.lower() == ".npy":
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        return values.dtype, values.ndim == 2, False
    with _tifffile(path).TiffFile(path) as file:
        series: Any = file.series[0]
        return np.dtype(series.dtype), len(series.shape) == 2, series.axes.endswith("S")


def written(path: Path, image: np.ndarray, /, *, bits: int = 8, stamp: str = "") -> None:
    """Save one or three channels ``(channel, y, x)`` of 0 to 1 as a PNG, clipped; any array as TIFF or .npy.

    Args:
        path: its ending says which.
        image: to save.
        bits: of a grey value in a PNG of one channel; colours have 8.
        stamp: words to keep in the file; a .npy has no place for them.

    Raises:
        MissingExtra: a TIFF without tifffile.
    """
    with whole(path) as short:
        if path.suffix == ".npy":
            with short.open("wb") as file:
                np.save(file, image, allow_pickle=False)
        elif path.suffix == ".tif":
            look = "rgb" if image.ndim == 3 and image.shape[-1] == 3 else "minisblack"
            _tifffile(path).imwrite(short, image, description=stamp, photometric=look)
        else:
            _drawn(image, bits).save(short, "PNG", pnginfo=_information(stamp))


def _drawn(image: np.ndarray, bits: int) -> Any:
    """A picture of the channels."""
    from PIL import Image

    values = np.clip(image, 0, 1)
    if bits == 16 and len(image) == 1:
        return Image.fromarray(np.round(values[0] * 65535).astype(np.uint16))
    levels = np.moveaxis(np.round(values * 255).astype(np.uint8), 0, -1)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def _information(stamp: str) -> Any:
    """Words for a PNG."""
    from PIL import PngImagePlugin

    if not stamp:
        return None
    words = PngImagePlugin.PngInfo()
    words.add_text("Description", stamp)
    return words


def _tifffile(path: Path) -> Any:
    try:
        import tifffile
    except ImportError as problem:
        raise MissingExtra(f"{path.name}: tif", "tifffile", "formats") from problem
    return tifffile


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
    with _tifffile(path).TiffFile(path) as file:
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
    if head[:8] == SIGNATURE and head[24] == 16 and head[25] != 0:
        fix = "of which only 8 could be read: save it as a TIFF or .npy"
        raise BadInput(str(path), "16 bits per colour", fix)
