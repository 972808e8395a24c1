"""Dual-resolution restoration of images: networks, losses, pairs, training, application, evaluation.

Modules in reading order: `pairs` (where training pairs come from, how they are normalised and cropped),
`networks`, `losses` and `weighting`, `train` (recipe, objective, training), `apply` and `apply_result` (to
images, files and reconstructions), `baselines`, `evaluate`, `figures`. Names are imported on first use.

Example:
    >>> from phaseloom import restoration
    >>> net, kind, card = restoration.load_restorer("underwater")
    >>> type(net).__name__, kind.name
    ('TwoScaleUNet', 'photograph')
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseloom.restoration import (
        apply,
        apply_result,
        baselines,
        evaluate,
        figures,
        losses,
        networks,
        pairs,
        train,
        weighting,
    )
    from phaseloom.restoration.apply import load_restorer, restore_files, restore_image
    from phaseloom.restoration.apply_result import restore_phase
    from phaseloom.restoration.evaluate import evaluate_restorer
    from phaseloom.restoration.networks import phaseformer
    from phaseloom.restoration.pairs import image_kinds
    from phaseloom.restoration.pairs.folders import ImagePairs, Pair
    from phaseloom.restoration.pairs.noise2noise import PairRecipe, make_pairs
    from phaseloom.restoration.pairs.underwater import simulate_pairs
    from phaseloom.restoration.train import Restore, RestorerTraining

_HOMES = {
    "apply": ["load_restorer", "restore_files", "restore_image"],
    "apply_result": ["restore_phase"],
    "evaluate": ["evaluate_restorer"],
    "pairs.folders": ["ImagePairs", "Pair"],
    "pairs.noise2noise": ["PairRecipe", "make_pairs"],
    "pairs.underwater": ["simulate_pairs"],
    "train": ["Restore", "RestorerTraining"],
}
"""Modules and the public names that live in them."""

_MODULES = ["apply", "apply_result", "baselines", "evaluate", "figures", "losses", "networks", "pairs"]
_MODULES += ["networks.phaseformer", "pairs.image_kinds", "train", "weighting"]
"""Modules that are public as a whole, under their last name."""

__all__ = ["ImagePairs", "Pair", "PairRecipe", "Restore", "RestorerTraining", "apply", "apply_result"]
__all__ += ["baselines", "evaluate", "evaluate_restorer", "figures", "image_kinds", "load_restorer", "losses"]
__all__ += ["make_pairs", "networks", "pairs", "phaseformer", "restore_files", "restore_image"]
__all__ += ["restore_phase", "simulate_pairs", "train", "weighting"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for module in _MODULES:
        if module.rpartition(".")[2] == name:
            return importlib.import_module(f"{__name__}.{module}")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
