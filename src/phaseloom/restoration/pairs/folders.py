"""Pairs of images for training restorers: as measured, as wanted, and optionally on finer pixels.

A data set is a folder ``train`` and a folder ``test``, each with ``input``, ``gt`` (the target) and
optionally ``gt_hr`` (the target on twice as many rows and columns); files belong together by their names
without suffix. Folders of LSUI and UIEB are read as they are (`phaseloom.restoration.pairs.layouts`).
Arrays are ``(channel, y, x)`` in the unit of the files: 0 to 1 of photographs, anything of floating-point
TIFF and .npy.

Pairs that show the same scene, such as crops of one photograph or draws of one scan, must stay on one side of
the validation split. A file ``meta.json`` beside ``train`` and ``test`` may name the scenes: ``{"pairs":
{"train/0001.png": {"scene": "harbour"}}}``, by the names of the input files; and under ``task`` the kind of
the images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput
from phaseloom.restoration.pairs.images import SUFFIXES, read_image
from phaseloom.restoration.pairs.layouts import PairFolders, find_pair_folders

__all__ = ["Image", "ImagePairs", "Pair", "PairSubset", "Side", "format_channels", "hash_files"]
__all__ += ["split_pairs"]

Image = NDArray[np.float32]

Side = Literal["train", "test"]
"""Side of a data set."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An image as it was measured, and as it should be.

    Attributes:
        name: for messages.
        input: ``(channel, y, x)``.
        target: the same shape.
        fine: ``(channel, 2 y, 2 x)``, the target on pixels half as wide, or ``None``.

    Raises:
        BadInput: an array of other axes, sizes or channels that differ, a fine target that is not exactly
            twice as large, or values that are not finite.

    Example:
        >>> Pair("flat", np.zeros((1, 4, 6)), np.ones((1, 4, 6)), np.ones((1, 8, 12))).size
        (4, 6)
    """

    name: str
    input: Image
    target: Image
    fine: Image | None = None

    def __post_init__(self) -> None:
        self._check("input", self.input)
        self._check("target", self.target)
        if self.fine is not None:
            self._check("fine", self.fine, factor=2)

    def _check(self, part: str, image: Image, factor: int = 1) -> None:
        place = f"pair {self.name}: {part}"
        shape = np.shape(image)
        if len(shape) != 3 or 0 in shape:
            raise BadInput(place, shape, "must have the axes (channel, y, x)")
        if shape[0] != len(self.input):
            fix = f"but the input has {len(self.input)}: save both with the same channels"
            raise BadInput(place, format_channels(shape[0]), fix)
        rows, columns = (factor * size for size in self.size)
        if shape[1:] != (rows, columns):
            relation = "exactly twice the input" if factor == 2 else "those of the input"
            fix = f"must be {relation}, {rows} x {columns}: crop or resample it"
            raise BadInput(place, f"{shape[1]} x {shape[2]} pixels", fix)
        bad = np.size(image) - int(np.isfinite(image).sum())
        if bad:
            raise BadInput(place, f"{bad} of {np.size(image)} values", "are not finite: repair the image")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of input and target."""
        return self.input.shape[1], self.input.shape[2]


@dataclass(frozen=True)
class ImagePairs(Sequence[Pair]):
    """Pairs in files: names are known, images are read on access.

    Attributes:
        names: of the pairs; for several data sets with the folder in front.
        files: input, target and fine target (or ``None``) of each.
        scenes: what each pair shows, in a word; default: every pair a scene of its own.
        task: kind of the images (`phaseloom.restoration.pairs.image_kinds`), if all data sets agree.
    """

    names: tuple[str, ...]
    files: tuple[tuple[Path, Path, Path | None], ...]
    scenes: tuple[str, ...] | None = None
    task: str | None = None

    @classmethod
    def of(cls, folders: Path | str | Sequence[Path | str], /, *, part: Side = "train") -> ImagePairs:
        """The pairs of one data set or of several, in the order of folders and names.

        Args:
            folders: that hold ``train`` and ``test``, or of LSUI or UIEB.
            part: which of the two.

        Raises:
            BadInput: a folder that is missing or holds no pair, files without partner, two of one name, or a
                ``meta.json`` that cannot be read.
        """
        folders = [folders] if isinstance(folders, Path | str) else list(folders)
        if not folders:
            raise BadInput("pairs", None, "need the folder of a data set")
        names: list[str] = []
        files: list[tuple[Path, Path, Path | None]] = []
        scenes: list[str] = []
        tasks: set[str | None] = set()
        for place, folder in enumerate(folders):
            found = _list_pairs(find_pair_folders(Path(folder), part))
            keys = [f"{part}/{source.name}" for source, _, _ in found.values()]
            known, task = _read_meta(Path(folder), part, keys)
            names += [name if len(folders) == 1 else f"{folder}: {name}" for name in found]
            files += found.values()
            scenes += [f"{place}: {known.get(key, key)}" for key in keys]  # also where a data set was moved
            tasks.add(task)
        return cls(tuple(names), tuple(files), tuple(scenes), tasks.pop() if len(tasks) == 1 else None)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> ImagePairs: ...
    def __getitem__(self, index: int | slice) -> Pair | ImagePairs:
        """Read a pair; slices are not read yet.

        Raises:
            BadInput: a file that cannot be read, or images that do not fit together, see `Pair`.
        """
        if isinstance(index, slice):
            scenes = None if self.scenes is None else self.scenes[index]
            return ImagePairs(self.names[index], self.files[index], scenes, self.task)
        source, target, fine = self.files[index]
        finer = None if fine is None else read_image(fine)
        return Pair(self.names[index], read_image(source), read_image(target), finer)


@dataclass(frozen=True)
class PairSubset(Sequence[Pair]):
    """Some of many pairs, read on access.

    Attributes:
        pairs: all of them.
        numbers: of those in the subset.
    """

    pairs: Sequence[Pair]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        """Read a pair; slices are not read yet."""
        if isinstance(index, slice):
            return PairSubset(self.pairs, self.numbers[index])
        return self.pairs[self.numbers[index]]


def hash_files(pairs: ImagePairs, /) -> str:
    """A hash of the names and sizes of the files of pairs, in their order, wherever their folders are."""
    digest = hashlib.blake2b(digest_size=16)
    for files in pairs.files:
        for file in files:
            size = 0 if file is None else file.stat().st_size
            digest.update(f"{file and file.name}\n{size}\n".encode())
    return digest.hexdigest()


def split_pairs(
    pairs: Sequence[Pair], /, *, validation: float = 0.05, seed: int = 0, groups: Sequence[str] | None = None
) -> tuple[PairSubset, PairSubset]:
    """Split pairs into training and validation; nothing is read.

    Args:
        pairs: two at least.
        validation: share of pairs, or of groups, for validation: at least one, never all.
        seed: of the draw.
        groups: one word for each pair; pairs of one word, such as crops of one photograph, stay together.

    Raises:
        BadInput: a share out of range, a seed below zero, too few pairs or groups, or not one group for each
            pair.

    Example:
        >>> pair = Pair("flat", np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))
        >>> [len(part) for part in split_pairs([pair] * 40)]
        [38, 2]
    """
    if not 0 < validation < 1:
        raise BadInput("pairs: validation", validation, "must be a share between 0 and 1, such as 0.05")
    if seed < 0:
        raise BadInput("pairs: seed", seed, "must be a whole number, 0 or more")
    words = [str(number) for number in range(len(pairs))] if groups is None else list(groups)
    if len(words) != len(pairs):
        raise BadInput("pairs: groups", f"{len(words)} groups", f"but there are {len(pairs)} pairs")
    kinds = sorted(set(words))
    if len(kinds) < 2:
        what = "pairs to part" if groups is None else "scenes in all pairs"
        raise BadInput("pairs", f"{len(kinds)} {what}", "are too few: training and validation need one each")
    count = min(max(1, round(validation * len(kinds))), len(kinds) - 1)
    chosen = {kinds[number] for number in np.random.default_rng(seed).permutation(len(kinds))[:count]}
    learned = tuple(n for n, word in enumerate(words) if word not in chosen)
    judging = tuple(n for n, word in enumerate(words) if word in chosen)
    return PairSubset(pairs, learned), PairSubset(pairs, judging)


def format_channels(count: int, /) -> str:
    """A count of channels in words.

    Example:
        >>> format_channels(1), format_channels(3)
        ('1 channel', '3 channels')
    """
    return f"{count} channel" + "s" * (count != 1)


def _list_pairs(folders: PairFolders) -> dict[str, tuple[Path, Path, Path | None]]:
    """Input, target and fine target of one side of a data set, by their names without suffix."""
    folder = folders.input.parent
    places = (folders.input, folders.target, *([folders.fine] if folders.fine else []))
    sides = {place.name: _list_stems(place) for place in places}
    shared = sorted(set.intersection(*(set(side) for side in sides.values())))
    single = [side[stem].name for side in sides.values() for stem in sorted({*side} - {*shared})]
    if single:
        shown = ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
        one = len(single) == 1
        lack = "lacks" if one else "lack"
        each = "it" if one else "them"
        fix = f"{lack} a partner of their name in {' or '.join(sides)} ({shown}): add it, or remove {each}"
        raise BadInput(str(folder), f"{len(single)} file" + "s" * (len(single) > 1), fix)
    if not shared:
        names = f"{folders.input.name} and {folders.target.name}"
        raise BadInput(str(folder), None, f"holds no pair: put {', '.join(SUFFIXES)} into {names}")
    inputs, targets, *fine = sides.values()
    kept = folders.select(shared)
    if not kept:
        fix = f"for {folders.side} are not there: a tenth of the names, by chance, is for the test; give more"
        raise BadInput(str(folder), "pairs", fix)
    return {stem: (inputs[stem], targets[stem], fine[0].get(stem) if fine else None) for stem in kept}


def _list_stems(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        fix = "does not exist: a data set has train/input, train/gt, test/input and test/gt, or input and GT"
        fix += " (LSUI), or raw-890 and reference-890 (UIEB)"
        raise BadInput("pairs", str(folder), fix)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise BadInput(str(folder), f"{found[path.stem].name} and {path.name}", "share a name: keep one")
        found[path.stem] = path
    return found


def _read_meta(folder: Path, part: Side, keys: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """Scene of each input file and kind of the images from ``meta.json``.

    Names that match no file are refused: a slip would let a scene onto both sides.
    """
    path = folder / "meta.json"
    if not path.is_file():
        return {}, None
    try:
        meta = json.loads(path.read_text("utf-8"))
        scenes = {name: str(one["scene"]) for name, one in meta["pairs"].items()}
        task = meta.get("task")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        fix = 'does not say {"pairs": {"train/NAME": {"scene": ...}}}: correct or remove it'
        raise BadInput(str(path), None, fix) from problem
    if missing := sorted(name for name in scenes if name.startswith(f"{part}/") and name not in keys):
        fix = f"is not an input file: write {part}/NAME with its suffix, or remove it"
        raise BadInput(str(path), missing[0], fix)
    return scenes, task
