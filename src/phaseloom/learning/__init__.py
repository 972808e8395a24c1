"""Trained networks in files: list, find, load and save them; training loop and shared layers.

Public names are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseloom.learning.trainer import NetworkTraining
    from phaseloom.learning.weight_files import (
        find_network,
        list_shipped,
        load_card,
        load_network,
        save_network,
    )

_HOMES = {
    "trainer": ["NetworkTraining"],
    "weight_files": ["find_network", "list_shipped", "load_card", "load_network", "save_network"],
}
__all__ = ["NetworkTraining", "find_network", "list_shipped", "load_card", "load_network", "save_network"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
