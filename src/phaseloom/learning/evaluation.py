"""The card of a trained network: scores of its held-out samples, and what every card holds besides."""

from pathlib import Path
from typing import Any

from torch import nn

from phaseloom.learning.weight_files import NETWORK_FILE, save_network
from phaseloom.spec import Recipe
from phaseloom.version import __version__

__all__ = ["make_card", "save_with_card"]


def make_card(recipe: Recipe, scores: Any, /, *, epochs: int, **facts: Any) -> dict[str, Any]:
    """The card of a network, as JSON can hold it.

    Args:
        recipe: of the training, written out with every default.
        scores: on samples that were held out; a mapping by method or dose.
        epochs: of the training.
        facts: what else a user of the network must know, such as its data and their scale.
    """
    known = {"recipe": recipe.to_text(), "scores": scores, "epochs": epochs}
    return {**facts, **known, "version": __version__}


def save_with_card(net: nn.Module, card: dict[str, Any], directory: Path | None, /) -> Path | None:
    """Write a network with its card into the folder of its training, if it has one; the file."""
    return None if directory is None else save_network(net, directory / NETWORK_FILE, card)
