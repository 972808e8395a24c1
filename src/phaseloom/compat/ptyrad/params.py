"""``ptyrad.params`` of PtyRAD's tutorial: parameter files and their check."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.schema import check_tree
from phaseloom.documents import parse_json, parse_toml, parse_yaml, read_text, require_plain
from phaseloom.errors import BadInput

__all__ = ["PtyRADParams", "load"]


def load(path: Path | str, /) -> dict[str, Any]:
    r"""The tree of a parameter file in YAML, TOML or JSON.

    Raises:
        BadInput: a file of another kind, one that cannot be read, or one that holds no sections.

    Example:
        >>> _ = Path("p.toml").write_text('[init_params]\nprobe_kv = 80')
        >>> load("p.toml")
        {'init_params': {'probe_kv': 80}}
    """
    name = Path(path).name
    suffix = Path(path).suffix.lower()
    if suffix == ".py":
        raise BadInput(name, None, "is a program, and a file must not run code: save its settings as .yaml")
    readers = {".yaml": parse_yaml, ".yml": parse_yaml, ".toml": parse_toml, ".json": parse_json}
    if suffix not in readers:
        raise BadInput(
            name, None, "is not a parameter file: its name must end in .yaml, .yml, .toml or .json"
        )
    tree = readers[suffix](read_text(Path(path)), name)
    if not isinstance(tree, Mapping):
        raise BadInput(name, tree, "must hold sections such as init_params")
    return dict(require_plain(tree, name))


class PtyRADParams:
    """A PtyRAD parameter set, checked and with its defaults: sections in, sections out.

    Attributes:
        notes: what had to be understood, in words.
    """

    def __init__(self, **sections: Any):
        self._tree, self.notes = check_tree(sections)

    def model_dump(self) -> dict[str, Any]:
        """The full tree, as plain dicts."""
        return json.loads(json.dumps(self._tree))
