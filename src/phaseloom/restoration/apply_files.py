"""Image files through a restorer: what goes out is of the kind that came in, and says what was done to it.

Images of a PNG, JPEG or BMP come back as PNG of 8 bits (16 of 16 bits), TIFF and .npy with their numbers and
order of axes, floating-point ones in 32 bits. The stamp stands in PNG and TIFF, and for all of them in
``restored.json`` beside.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.learning.weight_files import fingerprint
from phaseloom.restoration.apply import STAMP, Mended, mended, restorer
from phaseloom.restoration.pairs.folders import Image
from phaseloom.restoration.pairs.images import SUFFIXES, depth, like, picture, written
from phaseloom.version import __version__

__all__ = ["Applied", "apply", "listed"]

KINDS = {".tif": ".tif", ".tiff": ".tif", ".npy": ".npy"}
"""Endings that files keep; all others are photographs, and become PNG."""


@dataclass(frozen=True, eq=False)
class Applied:
    """An image that was restored.

    Attributes:
        source: its file.
        low: file of the restored image.
        high: the same on finer pixels, or ``None``.
        change: root mean square of what was changed, over the standard deviation of the input.
    """

    source: Path
    low: Path
    high: Path | None
    change: float


def listed(given: Sequence[Path], /) -> list[Path]:
    """The images among files and folders, folders in the order of names.

    Raises:
        BadInput: nothing there, a file that is no image, or two whose restored files would have one name.
    """
    found = [image for path in given for image in _inside(path)]
    names: dict[str, Path] = {}
    for path in found:
        other = names.setdefault(_named(path), path)
        if other is not path:
            fix = "would both be written to one name: restore them into folders of their own"
            raise BadInput("restore apply", f"{other} and {path}", fix)
    if not found:
        raise BadInput("restore apply", None, "needs images: give files, or a folder of them")
    return found


def apply(
    files: Sequence[Path], model: Path | str, out: Path, /, *, tile: int = 256, overlap: int = 64
) -> Iterator[Applied]:
    """Restore images one after another; what is done is kept, whatever happens to the next.

    Args:
        files: see `listed`.
        model: file or folder of a network, or the name of one that comes with the package.
        out: folder: restored images in ``restored``, finer ones in ``finer``; none is written over.
        tile: pixels along an edge of what the network is shown at once.
        overlap: pixels that neighbouring tiles share.

    Raises:
        BadInput: a folder that holds something, a model that restores nothing, or an image that cannot be
            restored, with its name.
    """
    if (out / "restored").exists():
        raise BadInput("--out", str(out), "holds restored images: name a new folder")
    net, task, card = restorer(model)
    said: dict[str, Any] = {
        "stamp": STAMP,
        "model": str(model),
        "weights": fingerprint(model),
        "task": task.name,
        "tile": tile,
        "overlap": overlap,
        "trained by": card.get("recipe", ""),
        "version": __version__,
        "images": {},
    }
    for file in files:
        image = picture(file)
        try:
            found = mended(net, task, image, tile=tile, overlap=overlap)
        except BadInput as problem:
            raise BadInput(str(file), None, str(problem)) from problem
        yield _kept(found, image, file, out, said)


def _inside(path: Path) -> list[Path]:
    """An image, or those of a folder."""
    if path.is_dir():
        inside = [one for one in sorted(path.iterdir()) if one.suffix.lower() in SUFFIXES]
        if not inside:
            raise BadInput(str(path), None, f"holds no image: put {', '.join(SUFFIXES)} into it")
        return inside
    if not path.exists():
        raise BadInput(str(path), None, "does not exist: give images, or a folder of them")
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(str(path), None, f"is no image: give one of {', '.join(SUFFIXES)}")
    return [path]


def _kept(found: Mended, image: Image, file: Path, out: Path, said: dict[str, Any]) -> Applied:
    """Write a restored image, and the list of all so far."""
    name, stamp = _named(file), f"{STAMP}; by {said['model']} ({said['weights']}) from {file.name}"
    low, high = out / "restored" / name, out / "finer" / name
    for path, part in ((low, found.low), (high, found.high)):
        if part is not None:
            kept = part if path.suffix == ".png" else like(file, part)
            written(path, kept, bits=depth(file), stamp=stamp)
    spread = float(image.std()) or 1.0
    done = Applied(file, low, None if found.high is None else high, float(np.std(found.low - image) / spread))
    said["images"][str(file)] = {
        "restored": str(low.relative_to(out)),
        "finer": None if done.high is None else str(high.relative_to(out)),
        "change over spread": done.change,
    }
    with whole(out / "restored.json") as path:
        path.write_text(json.dumps(said, indent=1), encoding="utf-8")
    return done


def _named(path: Path) -> str:
    return path.stem + KINDS.get(path.suffix.lower(), ".png")
