"""Paths that a browser names: always inside of one folder, links resolved."""

import re
from pathlib import Path

from phaseloom.errors import BadInput

__all__ = ["OutsideRoot", "name_folder", "resolve_inside", "show_inside"]

MAX_PATH_LENGTH = 4096


class OutsideRoot(BadInput):
    """A path that leads out of the folder that is shown, or to nothing: HTTP 404."""


def resolve_inside(root: Path, text: str, /) -> Path:
    """A file or folder inside of a root, after all links.

    Args:
        root: an existing folder.
        text: relative to it; empty: the root itself.

    Raises:
        OutsideRoot: it leads elsewhere (``../``, an absolute path, a link), or nothing is there.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "a").mkdir()
        >>> resolve_inside(root, "a").name
        'a'
        >>> resolve_inside(root, "../..")
        Traceback (most recent call last):
        phaseloom.web.paths.OutsideRoot: path: ../.. is not in the folder of this page
    """
    missing = OutsideRoot("path", text[:200], "is not in the folder of this page")
    if len(text) > MAX_PATH_LENGTH or "\0" in text:
        raise missing
    base = root.resolve()
    try:
        path = (base / text).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise missing from None
    if not path.is_relative_to(base):
        raise missing
    return path


def name_folder(text: str, /) -> str:
    """The name of a new folder: letters of any language, digits, ``-``, ``_`` and ``.``; others become ``_``.

    Example:
        >>> name_folder("Lauf \N{LATIN SMALL LETTER A WITH DIAERESIS} 1.5/2"), name_folder("../..")
        ('Lauf_\N{LATIN SMALL LETTER A WITH DIAERESIS}_1.5_2', '')
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("_.")[:40]


def show_inside(root: Path, path: Path, /) -> str:
    """A path as the page names it, relative to the root.

    Example:
        >>> show_inside(Path("/data"), Path("/data/runs/a"))
        'runs/a'
    """
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
