"""Read and write image files unchanged: grey, colours or any channels, 8 bits, 16 bits or floating point.

Pillow reads and writes 8 bits of each colour only. Of a PNG of 16 bits its decoder is asked twice, for the
upper bytes and for the lower ones; such a PNG is written here.
"""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import whole_buffer

__all__ = ["SUFFIXES", "convert_like", "read_bit_depth", "read_image", "read_with_alpha", "write_image"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")
"""Suffixes of image files."""

LARGEST_VALUES = {"b1": 1, "u1": 255, "u2": 65535}
"""Largest value of the integer types of image files, by numpy's kind and bytes."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOUR_BYTES = {2: ("RGB;16B", "RGB;16L"), 6: ("RGBA;16B", "RGBA;16L")}
"""Raw modes of Pillow that give the upper and the lower bytes of 16 bits, by the colour type of a PNG."""

PNG_COLOUR_TYPES = {2: 4, 3: 2, 4: 6}
"""Colour type of a PNG by its channels."""

UNASSOCIATED_ALPHA = 2
"""Extra sample of a TIFF: transparency that colours were not multiplied by."""

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
    image, alpha = read_with_alpha(path)
    if alpha is not None:
        raise BadInput(str(path), None, "has transparent pixels: save it without an alpha channel")
    return image


def read_with_alpha(path: Path, /) -> tuple[np.ndarray, np.ndarray | None]:
    """An image file as `read_image` gives it, and its alpha channel ``(1, y, x)``, 0 to 1.

    The alpha channel is ``None`` where there is none or nothing is transparent. Only PNG, and TIFF with
    unassociated alpha, have one.

    Raises:
        BadInput, MissingExtra: as of `read_image`.
    """
    reader = {".npy": _read_npy, ".tif": _read_tiff, ".tiff": _read_tiff}.get(
        path.suffix.lower(), _read_pillow
    )
    try:
        values, has_alpha = reader(path)
    except BadInput:
        raise
    except Exception as problem:  # readers raise many kinds of exceptions on damaged files
        fix = f"cannot be read ({type(problem).__name__}): replace it by an undamaged image file"
        raise BadInput(str(path), None, fix) from problem
    if values.ndim not in (2, 3) or not values.size:
        raise BadInput(str(path), f"shape {values.shape}", "is not an image (y, x) or (channel, y, x)")
    image = np.ascontiguousarray(_to_unit(values, path).reshape(-1, *values.shape[-2:]))
    if not has_alpha:
        return image, None
    alpha = image[-1:]
    return image[:-1], (alpha.copy() if alpha.min() < 1 else None)


def read_bit_depth(path: Path, /) -> int:
    """Bits of a grey value or a colour in a PNG: 16, or 8 of every other file."""
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
    """Save one to four channels ``(channel, y, x)`` of 0 to 1 as a PNG, clipped; any array as TIFF or .npy.

    The second or fourth channel of a PNG is its alpha channel.

    Args:
        path: its suffix decides the format.
        image: to save.
        bits: of a value in a PNG, 8 or 16.
        stamp: description to store in the file; not stored in a .npy.

    Raises:
        MissingExtra: a TIFF without tifffile.
    """
    with whole_buffer(path) as buffer:
        if path.suffix == ".npy":
            np.save(buffer, image, allow_pickle=False)
        elif path.suffix == ".tif":
            colours = image.ndim == 3 and image.shape[-1] in (3, 4)
            knobs: dict[str, Any] = {"photometric": "rgb" if colours else "minisblack"}
            if colours and image.shape[-1] == 4:
                knobs["extrasamples"] = ["unassalpha"]
            _import_tifffile(path).imwrite(buffer, image, description=stamp, **knobs)
        else:
            _write_png(buffer, image, bits, stamp)


def _write_png(file: BinaryIO, image: np.ndarray, bits: int, stamp: str) -> None:
    from PIL import Image, PngImagePlugin

    if bits == 16 and len(image) > 1:
        _write_deep_png(file, image, stamp)
        return
    largest, dtype = (65535, np.uint16) if bits == 16 else (255, np.uint8)
    levels = np.empty((*image.shape[1:], len(image)), dtype)
    for number, channel in enumerate(image):  # a large image is not held twice in floating point
        levels[..., number] = np.round(np.clip(channel, 0, 1) * largest)
    description = PngImagePlugin.PngInfo()
    if stamp:
        description.add_text("Description", stamp)
    Image.fromarray(levels[..., 0] if len(image) == 1 else levels).save(file, "PNG", pnginfo=description)


def _write_deep_png(file: BinaryIO, image: np.ndarray, stamp: str) -> None:
    """Write colours of 16 bits, which Pillow cannot, each row as its difference from the one above."""
    channels, rows, columns = image.shape
    packer = zlib.compressobj(6)
    above = np.zeros(2 * columns * channels, np.uint8)
    parts = []
    for row in range(rows):
        values = np.round(np.clip(image[:, row].T, 0, 1) * 65535).astype(">u2")
        line = np.frombuffer(values.tobytes(), np.uint8)
        parts.append(packer.compress(b"\x02" + (line - above).tobytes()))
        above = line
    parts.append(packer.flush())
    head = struct.pack(">IIBBBBB", columns, rows, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    text = [(b"tEXt", b"Description\0" + stamp.encode("latin-1", "replace"))] if stamp else []
    file.write(PNG_SIGNATURE)
    for kind, data in ((b"IHDR", head), *text, *((b"IDAT", part) for part in parts if part), (b"IEND", b"")):
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


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


def _read_npy(path: Path) -> tuple[np.ndarray, bool]:
    values = np.load(path, allow_pickle=False)
    if values.ndim == 3 and values.shape[-1] <= 4 < values.shape[0]:
        fix = "looks like (y, x, channel): save it as (channel, y, x)"
        raise BadInput(str(path), f"shape {values.shape}", fix)
    return values, False


def _read_tiff(path: Path) -> tuple[np.ndarray, bool]:
    with _import_tifffile(path).TiffFile(path) as file:
        series: Any = file.series[0]
        page: Any = series.keyframe
        try:
            values = series.asarray()
        except ValueError as problem:
            if "imagecodecs" not in str(problem):
                raise
            fix = "needs the package imagecodecs to be read: pip install imagecodecs, or save it uncompressed"
            raise BadInput(str(path), f"compression {page.compression.name}", fix) from problem
        axes = series.axes
        extra = tuple(int(sample) for sample in page.extrasamples)
    if values.ndim == 3 and axes.endswith("S"):  # samples of a pixel next to one another
        values = np.moveaxis(values, -1, 0)
    return values, values.ndim == 3 and axes != "YX" and extra == (UNASSOCIATED_ALPHA,)


def _read_pillow(path: Path) -> tuple[np.ndarray, bool]:
    if planes := _find_deep_planes(path):
        (upper, mode), (lower, _) = (_open_pillow(path, raw_mode) for raw_mode in planes)
        values = upper.astype(np.uint16) << 8 | lower
    else:
        values, mode = _open_pillow(path)
    return (values if values.ndim == 2 else np.moveaxis(values, -1, 0)), mode in ("RGBA", "LA")


def _open_pillow(path: Path, raw_mode: str | None = None) -> tuple[np.ndarray, str]:
    """Pixels and mode of an image, turned as its EXIF says; of a raw mode in place of that of the file."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images and odd metadata
        with Image.open(path) as file:
            if raw_mode is not None:
                file.tile = [tile._replace(args=raw_mode) for tile in file.tile]
            image = ImageOps.exif_transpose(file)
            if image.mode not in PILLOW_MODES:
                fix = "must be grey or RGB: convert it, or save a TIFF or .npy"
                raise BadInput(str(path), f"pixels of mode {image.mode}", fix)
            if image.mode == "P":
                image = image.convert("RGBA")
            return np.asarray(image), image.mode


def _find_deep_planes(path: Path) -> tuple[str, ...]:
    """Raw modes of the bytes of a PNG with colours of 16 bits, of which Pillow would silently keep 8."""
    with path.open("rb") as file:
        head = file.read(29)
    if len(head) < 29 or head[:8] != PNG_SIGNATURE or head[24] != 16 or head[25] == 0:
        return ()
    if head[25] not in COLOUR_BYTES or head[28]:
        what = "interlaced" if head[28] else "grey with transparency"
        fix = "of which only 8 could be read: save it as a TIFF or .npy, or neither interlaced nor so"
        raise BadInput(str(path), f"16 bits, {what},", fix)
    return COLOUR_BYTES[head[25]]
