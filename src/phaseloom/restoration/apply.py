"""Apply a trained restorer to images, in their own unit, and to image files.

Files of PNG, JPEG or BMP are written as PNG of 8 bits (16 of 16 bits), TIFF and .npy with their dtype and
order of axes, floating-point ones in 32 bits. An alpha channel is kept as it is. The stamp is stored in PNG
and TIFF, and for all files in ``restored.json``.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.errors import BadInput
from phaseloom.files import write_text
from phaseloom.learning import weight_files
from phaseloom.restoration.baselines import upsample_bilinear
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs import image_kinds
from phaseloom.restoration.pairs.folders import Image, format_channels
from phaseloom.restoration.pairs.image_kinds import ImageKind
from phaseloom.restoration.pairs.images import (
    SUFFIXES,
    convert_like,
    read_bit_depth,
    read_with_alpha,
    write_image,
)
from phaseloom.restoration.tiles import restore_in_tiles
from phaseloom.version import __version__

__all__ = ["STAMP", "RestoredFile", "RestoredImage", "list_images", "load_restorer", "restore_files"]
__all__ += ["restore_image"]

STAMP = "restored, prior-dependent"
"""Mark of every restored image: part of its content was learned, not measured."""

OUTPUT_SUFFIXES = {".tif": ".tif", ".tiff": ".tif", ".npy": ".npy"}
"""Suffixes that files keep; all others are photographs, and become PNG."""


@dataclass(frozen=True, eq=False)
class RestoredImage:
    """A restored image, in the unit of the measured one.

    Attributes:
        low: ``(channel, y, x)`` on the measured pixels.
        high: ``(channel, 2y, 2x)`` on pixels half as wide, or ``None`` for a network without that output; for
            display: detail finer than the pixels was learned from other images.
    """

    low: Image
    high: Image | None


@dataclass(frozen=True, eq=False)
class RestoredFile:
    """A restored image file.

    Attributes:
        source: file of the input.
        low: file of the restored image.
        high: the same on finer pixels, or ``None``.
        change: root mean square of the change, over the standard deviation of the input.
    """

    source: Path
    low: Path
    high: Path | None
    change: float


def restore_image(
    net: Restorer, kind: ImageKind, image: Any, /, *, tile: int = 256, overlap: int = 64
) -> RestoredImage:
    """Restore an image.

    Args:
        net: trained on such images; it is set to evaluation mode.
        kind: of the image; its normalisation is applied, and inverted on the output.
        image: ``(channel, y, x)``.
        tile: pixels along an edge of the network's input, see `phaseloom.restoration.tiles`.
        overlap: pixels that neighbouring tiles share.

    Raises:
        BadInput: channels that are not the network's, values that are not finite, or tiles out of range.

    Example:
        >>> from phaseloom.restoration.networks.phaseformer import narrow
        >>> y, x = np.mgrid[:20, :30]
        >>> image = (3.0 + 0.1 * x + np.sin(y)).astype(np.float32)[None]
        >>> found = restore_image(narrow(), image_kinds.phase(), image)
        >>> found.high.shape, bool(np.allclose(found.low, image, atol=1e-4))
        ((1, 40, 60), True)
    """
    image = np.asarray(image)
    wanted = net.plan.channels_in
    if image.ndim != 3 or len(image) != wanted or not image.size:
        fix = f"is not an image (channel, y, x) of {format_channels(wanted)}, as the network takes them"
        raise BadInput("restore", f"shape {image.shape}", fix)
    normalisation = kind.fit_normalisation(image)
    net.eval()
    images = torch.from_numpy(normalisation.apply(image))[None]
    low, high = restore_in_tiles(net, images, tile=tile, overlap=overlap)

    def finish(part: torch.Tensor) -> Image:
        values = normalisation.invert(part[0].float().numpy())
        return values if kind.value_range is None else np.clip(values, *kind.value_range, out=values)

    return RestoredImage(finish(low), None if high is None else finish(high))


def load_restorer(path: Path | str, /) -> tuple[Restorer, ImageKind, dict[str, Any]]:
    """A trained restorer with its kind of images and its model card.

    Args:
        path: file or folder of a network, or the name of one that comes with the package.

    Raises:
        BadInput: no network there, or one of another kind.
    """
    if Path(path).suffix in (".pth", ".pt", ".ckpt"):
        fix = "was saved by another program, and holds no layers of this one: train anew"
        raise BadInput("--model", str(path), fix)
    file = weight_files.find_network(path, "restoration")
    net = weight_files.load_network(file)
    card = weight_files.load_card(file)
    if not isinstance(net, Restorer):
        fix = "restores no images: name a network of phaseloom restore train"
        raise BadInput("--model", str(path), f"holds a {type(net).__name__}, which {fix}")
    name = str(card.get("task", "photograph"))
    if name not in image_kinds.__all__:
        raise BadInput("--model", str(path), f"was made for {name}, which this version does not know")
    return net, getattr(image_kinds, name)(), card


def list_images(given: Sequence[Path], /) -> list[Path]:
    """The images among files and folders, folders in the order of names.

    Raises:
        BadInput: nothing there, a file that is not an image, or two whose restored files would have one name.
    """
    found = [image for path in given for image in _expand(path)]
    names: dict[str, Path] = {}
    for path in found:
        other = names.setdefault(_output_name(path), path)
        if other is not path:
            fix = "would both be written to one name: restore them into folders of their own"
            raise BadInput("restore apply", f"{other} and {path}", fix)
    if not found:
        raise BadInput("restore apply", None, "needs images: give files, or a folder of them")
    return found


def restore_files(
    files: Sequence[Path], model: Path | str, out: Path, /, *, tile: int = 256, overlap: int = 64
) -> Iterator[RestoredFile]:
    """Restore image files one after another; finished files stay if a later one fails.

    Args:
        files: see `list_images`.
        model: file or folder of a network, or the name of one that comes with the package.
        out: folder: restored images in ``restored``, finer ones in ``finer``; nothing is overwritten.
        tile: pixels along an edge of the network's input.
        overlap: pixels that neighbouring tiles share.

    Raises:
        BadInput: a folder that is not empty, a model that is not a restorer, or an image that cannot be
            restored, with its name.
    """
    if (out / "restored").exists():
        raise BadInput("--out", str(out), "holds restored images: name a new folder")
    net, kind, card = load_restorer(model)
    if "input" in card:
        fix = "restores phases with two more runs on half of the counts each: give run folders, not images"
        raise BadInput("--model", str(model), fix)
    report: dict[str, Any] = {
        "stamp": STAMP,
        "model": str(model),
        "weights": weight_files.hash_network(model),
        "task": kind.name,
        "tile": tile,
        "overlap": overlap,
        "trained by": card.get("recipe", ""),
        "version": __version__,
        "images": {},
    }
    for file in files:
        image, alpha = read_with_alpha(file)
        try:
            found = restore_image(net, kind, image, tile=tile, overlap=overlap)
        except BadInput as problem:
            raise BadInput(str(file), None, str(problem)) from problem
        change = _measure_change(found.low, image)
        found = _add_alpha(found, alpha)
        yield _write_restoration(found, change, file, out, report)


def _expand(path: Path) -> list[Path]:
    """An image, or those of a folder."""
    if path.is_dir():
        inside = [one for one in sorted(path.iterdir()) if one.suffix.lower() in SUFFIXES]
        if not inside:
            raise BadInput(str(path), None, f"holds no image: put {', '.join(SUFFIXES)} into it")
        return inside
    if not path.exists():
        raise BadInput(str(path), None, "does not exist: give images, or a folder of them")
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(str(path), None, f"is not an image: give one of {', '.join(SUFFIXES)}")
    return [path]


def _output_name(path: Path) -> str:
    return path.stem + OUTPUT_SUFFIXES.get(path.suffix.lower(), ".png")


def _measure_change(restored: Image, image: Image) -> float:
    """Root mean square of a change without its mean, over the standard deviation of the image."""
    return float(np.std(restored - image) / (float(image.std()) or 1.0))


def _add_alpha(found: RestoredImage, alpha: Image | None) -> RestoredImage:
    """The alpha channel of a photograph, which is not restored, behind the restored colours."""
    if alpha is None:
        return found
    high = None if found.high is None else np.concatenate([found.high, upsample_bilinear(alpha)])
    return RestoredImage(np.concatenate([found.low, alpha]), high)


def _write_restoration(
    found: RestoredImage, change: float, file: Path, out: Path, report: dict[str, Any]
) -> RestoredFile:
    """Write a restored image, and the report of all so far."""
    name = _output_name(file)
    low = out / "restored" / name
    high = None if found.high is None else out / "finer" / name
    stamp = f"{STAMP}; by {report['model']} ({report['weights']}) from {file.name}"
    for path, part in ((low, found.low), (high, found.high)):
        if path is not None and part is not None:
            values = part if path.suffix == ".png" else convert_like(file, part)
            write_image(path, values, bits=read_bit_depth(file), stamp=stamp)
    report["images"][str(file)] = {
        "restored": str(low.relative_to(out)),
        "finer": None if high is None else str(high.relative_to(out)),
        "change over spread": change,
    }
    write_text(out / "restored.json", json.dumps(report, indent=1))
    return RestoredFile(file, low, high, change)
