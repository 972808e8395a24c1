"""Layouts of folders of image pairs: that of this package, of LSUI and of UIEB.

- own: ``train/input``, ``train/gt``, ``test/input``, ``test/gt``, optionally ``gt_hr``;
- LSUI (doi 10.1109/TIP.2023.3276332): ``input`` and ``GT``;
- UIEB (doi 10.1109/TIP.2019.2955241): ``raw-890`` and ``reference-890``, also ``raw`` and ``reference``;
  ``challenging-60``, which has no references, is not read.

LSUI and UIEB do not say which pairs are for testing. Here a tenth is, by a hash of the name, so that a pair
is on the same side wherever the folder is and whatever else is in it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PairFolders", "find_pair_folders", "has_side", "is_test_name"]

TEST_SHARE = 0.1
"""Of the pairs of a data set that does not say which are for testing."""

PUBLIC_LAYOUTS = (("input", "gt"), ("raw-890", "reference-890"), ("raw", "reference"))
"""Folders of inputs and targets, without regard to case."""


@dataclass(frozen=True)
class PairFolders:
    """Where the images of one side of a data set are.

    Attributes:
        input: folder of the inputs.
        target: folder of the targets.
        fine: folder of the targets on finer pixels, or ``None``.
        side: which pairs of the folders belong to it, ``train`` or ``test``; ``None``: all.
    """

    input: Path
    target: Path
    fine: Path | None = None
    side: str | None = None

    def select(self, names: Iterable[str], /) -> list[str]:
        """The names without suffix that are on this side."""
        return [name for name in names if self.side is None or is_test_name(name) == (self.side == "test")]


def find_pair_folders(folder: Path, side: str, /) -> PairFolders:
    """The folders of one side of a data set; those of the own layout if there is none."""
    own = folder / side
    if not own.is_dir() and (public := _find_public(folder)) is not None:
        return PairFolders(*public, side=side)
    fine = own / "gt_hr"
    return PairFolders(own / "input", own / "gt", fine if fine.is_dir() else None)


def has_side(folder: Path, side: str, /) -> bool:
    """Whether a data set has such a side."""
    return (folder / side).is_dir() or _find_public(folder) is not None


def is_test_name(name: str, /) -> bool:
    """Whether a pair of LSUI or UIEB is for testing, by its name without suffix.

    Example:
        >>> sum(is_test_name(str(number)) for number in range(1000))
        104
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < TEST_SHARE * 2**64


def _find_public(folder: Path) -> tuple[Path, Path] | None:
    """Folders of inputs and targets of a public data set."""
    if not folder.is_dir():
        return None
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    for names in PUBLIC_LAYOUTS:
        if all(name in inside for name in names):
            return inside[names[0]], inside[names[1]]
    return None
