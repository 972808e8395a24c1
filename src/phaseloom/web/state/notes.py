"""Tags and notes on a run, in ``notes.yaml`` of its folder: nothing else reads that, so no run changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseloom.documents import load_yaml, to_yaml
from phaseloom.errors import BadInput
from phaseloom.files import write_text

__all__ = ["Notes", "read_notes", "save_notes"]

MAX_NOTE_LENGTH = 10_000
MAX_TAGS = 20


@dataclass(frozen=True)
class Notes:
    """What a user wrote about a run.

    Attributes:
        tags: short words.
        text: any text.
    """

    tags: tuple[str, ...] = ()
    text: str = ""


def read_notes(folder: Path, /) -> Notes:
    """The notes of a run; none where there are none, or where the file is damaged."""
    try:
        tree = load_yaml(folder / "notes.yaml")
    except (BadInput, OSError):
        return Notes()
    tags = tree.get("tags") if isinstance(tree, dict) else None
    tags = tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()
    return Notes(tags, str(tree.get("text", "")) if isinstance(tree, dict) else "")


def save_notes(folder: Path, notes: Notes, /) -> None:
    """Write the notes of a run.

    Raises:
        BadInput: too long, or not a run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "run.yaml").write_text("")
        >>> save_notes(folder, Notes(("good",), "thin part"))
        >>> read_notes(folder)
        Notes(tags=('good',), text='thin part')
    """
    if not any((folder / name).is_file() for name in ("run.yaml", "search.yaml")):
        raise BadInput("notes", folder.name, "is not the folder of a run")
    if len(notes.text) > MAX_NOTE_LENGTH or len(notes.tags) > MAX_TAGS:
        fix = f"are too many: write {MAX_NOTE_LENGTH} characters and {MAX_TAGS} tags at most"
        raise BadInput("notes", f"{len(notes.text)} characters and {len(notes.tags)} tags", fix)
    write_text(folder / "notes.yaml", to_yaml({"tags": list(notes.tags), "text": notes.text}))


def split_tags(text: str, /) -> Sequence[str]:
    """Tags of a line, separated by commas, each once.

    Example:
        >>> split_tags("good, thin ,good")
        ('good', 'thin')
    """
    return tuple(dict.fromkeys(tag for part in text.split(",") if (tag := part.strip()[:40])))
