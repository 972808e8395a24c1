"""Pairs of images to learn restoration from: as measured, as it should be, and perhaps on finer pixels.

A data set is a folder ``train`` and a folder ``test``, each with ``input``, ``gt`` (what should come out) and
perhaps ``gt_hr`` (the same on twice as many rows and columns); files belong together by their names without
suffix. Arrays are ``(channel, y, x)`` in the unit of the files: 0 to 1 of photographs, anything of
floating-point TIFF and .npy.

Pairs that show the same thing, such as crops of one photograph or draws of one scan, are not each other's
judges. A file ``meta.json`` beside ``train`` and ``test`` may say which: ``{"pairs": {"train/0001.png":
{"scene": "harbour"}}}``, by the names of the input files; and under ``task`` what the images are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput
from phaseloom.restoration.pairs.images import SUFFIXES, picture

__all__ = ["Image", "ImagePairs", "Pair", "Part", "channels", "parted"]

Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pair:
    """An image as it was measured, and as it should be.

    Attributes:
        name: that messages call it by.
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
        parts = {"input": self.input, "target": self.target, "fine": self.fine}
        for part, image in parts.items():
            if image is not None:
                self._check(part, image)

    def _check(self, part: str, image: Image) -> None:
        place, factor, given = f"pair {self.name}: {part}", 2 if part == "fine" else 1, np.shape(image)
        if len(given) != 3 or 0 in given:
            raise BadInput(place, given, "must have the axes (channel, y, x)")
        if given[0] != len(self.input):
            fix = f"but the input has {len(self.input)}: save both with the same channels"
            raise BadInput(place, f"{channels(given[0])}", fix)
        wanted = tuple(factor * size for size in self.size)
        if given[1:] != wanted:
            twice = " exactly twice the input," if factor == 2 else " those of the input,"
            fix = f"must be{twice} {wanted[0]} x {wanted[1]}: crop or resample it"
            raise BadInput(place, f"{given[1]} x {given[2]} pixels", fix)
        bad = np.size(image) - int(np.isfinite(image).sum())
        if bad:
            raise BadInput(place, f"{bad} of {np.size(image)} values", "are not finite: repair the image")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of input and target."""
        return self.input.shape[1], self.input.shape[2]


@dataclass(frozen=True)
class ImagePairs(Sequence[Pair]):
    """Pairs in files: their names are known, their images are read when they are asked for.

    Attributes:
        names: of the pairs; of several data sets with the folder in front.
        files: input, target and fine target (or ``None``) of each.
        scenes: what each pair shows, in a word; default: each something of its own.
        task: what the images are (`phaseloom.restoration.pairs.image_kinds`), if all data sets say the same.
    """

    names: tuple[str, ...]
    files: tuple[tuple[Path, Path, Path | None], ...]
    scenes: tuple[str, ...] | None = None
    task: str | None = None

    @classmethod
    def of(
        cls, folders: Path | str | Sequence[Path | str], /, *, part: Literal["train", "test"] = "train"
    ) -> ImagePairs:
        """The pairs of one data set or of several, in the order of folders and names.

        Args:
            folders: that hold ``train`` and ``test``.
            part: which of the two.

        Raises:
            BadInput: a folder that is missing or holds no pair, files without partner, two of one name, or a
                ``meta.json`` that cannot be read.
        """
        folders = [folders] if isinstance(folders, Path | str) else list(folders)
        if not folders:
            raise BadInput("pairs", None, "need the folder of a data set")
        names, files, scenes, tasks = [], [], [], set()
        for folder in folders:
            found = _listed(Path(folder) / part)
            names += [name if len(folders) == 1 else f"{folder}: {name}" for name in found]
            files += found.values()
            known, task = _told(Path(folder))
            _all_there(known, found, Path(folder), part)
            places = (f"{part}/{before.name}" for before, _, _ in found.values())
            scenes += [f"{folder}: {known.get(place, place)}" for place in places]
            tasks.add(task)
        return cls(tuple(names), tuple(files), tuple(scenes), tasks.pop() if len(tasks) == 1 else None)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> ImagePairs: ...
    def __getitem__(self, index: int | slice) -> Pair | ImagePairs:
        """Read a pair; a slice is not read yet.

        Raises:
            BadInput: a file that cannot be read, or images that are no pair, see `Pair`.
        """
        if isinstance(index, slice):
            scenes = None if self.scenes is None else self.scenes[index]
            return ImagePairs(self.names[index], self.files[index], scenes, self.task)
        before, after, fine = self.files[index]
        return Pair(
            self.names[index], picture(before), picture(after), None if fine is None else picture(fine)
        )


@dataclass(frozen=True)
class Part(Sequence[Pair]):
    """Some of many pairs, read when they are asked for.

    Attributes:
        pairs: all of them.
        numbers: of those that belong here.
    """

    pairs: Sequence[Pair]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Part: ...
    def __getitem__(self, index: int | slice) -> Pair | Part:
        """A pair; a slice is not read yet."""
        if isinstance(index, slice):
            return Part(self.pairs, self.numbers[index])
        return self.pairs[self.numbers[index]]


def parted(
    pairs: Sequence[Pair],
    /,
    *,
    validation: float = 0.05,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> tuple[Part, Part]:
    """Pairs to learn from, and pairs to choose by what was learned; nothing is read.

    Args:
        pairs: two at least.
        validation: share of pairs, or of groups, that is kept for validation: at least one, never all.
        seed: of the draw.
        groups: one word for each pair; pairs of one word, such as crops of one photograph, stay together.

    Raises:
        BadInput: a share that is none, a seed below zero, too few pairs or groups to part, or not one group
            for each pair.

    Example:
        >>> pair = Pair("flat", np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))
        >>> [len(part) for part in parted([pair] * 40)]
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
    kept = min(max(1, round(validation * len(kinds))), len(kinds) - 1)
    chosen = {kinds[number] for number in np.random.default_rng(seed).permutation(len(kinds))[:kept]}
    sides = [tuple(n for n, word in enumerate(words) if (word in chosen) == side) for side in (False, True)]
    return Part(pairs, sides[0]), Part(pairs, sides[1])


def channels(count: int, /) -> str:
    """A count of channels in words.

    Example:
        >>> channels(1), channels(3)
        ('1 channel', '3 channels')
    """
    return f"{count} channel" + "s" * (count != 1)


def _listed(folder: Path) -> dict[str, tuple[Path, Path, Path | None]]:
    """The files of a data set's part by their names: input, target and fine target."""
    sides = {"input": _stems(folder / "input"), "gt": _stems(folder / "gt")}
    if (folder / "gt_hr").is_dir():
        sides["gt_hr"] = _stems(folder / "gt_hr")
    everything = set().union(*sides.values())
    shared = sorted(everything.intersection(*sides.values()))
    single = [sides[side][stem].name for side in sides for stem in sorted({*sides[side]} - {*shared})]
    if single:
        shown = ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
        fix = f"lack a partner of their name in {' or '.join(sides)} ({shown}): add it, or take them away"
        raise BadInput(str(folder), f"{len(single)} file" + "s" * (len(single) > 1), fix)
    if not shared:
        raise BadInput(str(folder), None, f"holds no pair: put {', '.join(SUFFIXES)} into input and gt")
    return {
        stem: (sides["input"][stem], sides["gt"][stem], sides.get("gt_hr", {}).get(stem)) for stem in shared
    }


def _told(folder: Path) -> tuple[dict[str, str], str | None]:
    """What each file of a data set shows, as its ``meta.json`` says, and what the images are."""
    path = folder / "meta.json"
    if not path.is_file():
        return {}, None
    try:
        told = json.loads(path.read_text("utf-8"))
        return {name: str(one["scene"]) for name, one in told["pairs"].items()}, told.get("task")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        fix = 'does not say {"pairs": {"train/NAME": {"scene": ...}}}: mend it, or take it away'
        raise BadInput(str(path), None, fix) from problem


def _all_there(known: dict[str, str], found: dict[str, Any], folder: Path, part: str) -> None:
    """Refuse a list of scenes that names what is not there: a slip would let a scene onto both sides."""
    there = {f"{part}/{before.name}" for before, _, _ in found.values()}
    if lost := sorted(name for name in known if name.startswith(f"{part}/") and name not in there):
        fix = f"is no input file: write {part}/NAME with its ending, or take it away"
        raise BadInput(str(folder / "meta.json"), lost[0], fix)


def _stems(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        fix = "does not exist: a data set has train/input, train/gt, test/input and test/gt"
        raise BadInput("pairs", str(folder), fix)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise BadInput(str(folder), f"{found[path.stem].name} and {path.name}", "share a name: keep one")
        found[path.stem] = path
    return found
