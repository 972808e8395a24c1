"""What comes of training a restorer: scores of pairs that it has never seen, pictures, the network's card."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom import plot
from phaseloom.fitting.loop import Epoch
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.figures import curves
from phaseloom.restoration.apply import mended
from phaseloom.restoration.evaluate import Rating, rated, shown
from phaseloom.restoration.figures import before_after
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.objective import BEST
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.pairs.image_kinds import Task
from phaseloom.restoration.train import Restoring
from phaseloom.spec import to_yaml
from phaseloom.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "finished", "pictures", "told"]

MOST = 4
"""Pairs in a picture."""


def finished(training: Restoring, /) -> tuple[Path | None, dict[str, Any], Rating | None]:
    """Judge a training by its test pairs, here and nowhere else, and write its network with a card.

    Args:
        training: at its end.

    Returns:
        The file, if the training has a folder; the card; and the scores, if the data have a test part.

    Raises:
        BadInput: test pairs that cannot be read.
    """
    recipe, rating = training.recipe, None
    card: dict[str, Any] = {
        "task": recipe.kind().name,
        "recipe": to_yaml(recipe.resolved()),
        "scores": None,
        "pairs": [len(side) for side in training.pairs],
        "epochs": training.progress.epoch,
        "weights": training.weighting.weights,
        "version": __version__,
    }
    path = None if training.directory is None else training.directory / pretrained.FILE
    if path is not None:
        pretrained.save(training.net, path, card)  # whatever the test pairs are like
    if tests := recipe.tests():
        rating = rated(training.net, recipe.kind(), tests, learned=recipe.pairs("train"))
        card["scores"] = rating.as_dict()
        if path is not None:
            pretrained.save(training.net, path, card)
    return path, card, rating


def pictures(training: Restoring, /) -> list[Path]:
    """Figures of a training in its folder: its course, and some of its test pairs before and after."""
    if training.directory is None:
        return []
    paths = [training.directory / "curves.png"]
    plot.save(curves(training.progress.history), paths[0])
    if tests := training.recipe.tests():
        paths.append(training.directory / "before_after.png")
        plot.save(figure(training.net, training.recipe.kind(), tests), paths[1])
    return paths


def told(training: Restoring, epoch: Epoch, /) -> str:
    """An epoch for a progress bar: loss of its last batch and of all, rate, how close validation comes."""
    last = training.progress.history[-1]
    state, rate = last.get("state", {}), max(last["rates"].values(), default=0.0)
    losses = f"Loss {state.get('loss', epoch.loss):.4f} Avg_Loss {epoch.loss:.4f}"
    alike = "" if state.get("ssim") is None else f" SSIM {state['ssim']:.3f}"
    return f"{losses} LR {rate:.2e} PSNR {BEST - (epoch.holdout or 0.0):.2f}{alike}"


def figure(net: Restorer, task: Task, pairs: Sequence[Pair], /, *, most: int = MOST) -> "Figure":
    """Some pairs, evenly over all of them, before and after.

    Args:
        net: that restores.
        task: what the images are restored as.
        pairs: to choose from.
        most: rows.
    """
    numbers = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int))
    rows: dict[str, Any] = {}
    for one in (pairs[int(number)] for number in numbers):
        rows |= shown(task, one, mended(net, task, one.input))
    return before_after([*rows.values()], [*rows])
