"""Phase retrieval by neural networks: train them on simulated scans, and predict the phase of measured ones.

In reading order: `networks` (recovery of patches, stitching, end to end; linear and tiny for whole scans);
`losses`, `objectives`, `training_samples`, `recipe`, `trainer` and `linear_fit` for training; `raster`,
`preprocessing`, `prediction` and `predict_scans` for measured scans; `evaluate` for scores. Public names are
imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseloom.retrieval import losses, networks
    from phaseloom.retrieval.evaluate import evaluate_network
    from phaseloom.retrieval.linear_fit import fit_linear_network
    from phaseloom.retrieval.predict_scans import (
        ScanPrediction,
        predict_missing,
        predict_scan,
        write_prediction,
    )
    from phaseloom.retrieval.prediction import Prediction, predict
    from phaseloom.retrieval.recipe import Train
    from phaseloom.retrieval.trainer import RetrievalTraining, save_figures, train_retrieval

_HOMES = {
    "evaluate": ["evaluate_network"],
    "linear_fit": ["fit_linear_network"],
    "predict_scans": ["ScanPrediction", "predict_missing", "predict_scan", "write_prediction"],
    "prediction": ["Prediction", "predict"],
    "recipe": ["Train"],
    "trainer": ["RetrievalTraining", "save_figures", "train_retrieval"],
}
__all__ = ["Prediction", "RetrievalTraining", "ScanPrediction", "Train", "evaluate_network"]
__all__ += ["fit_linear_network", "losses", "networks", "predict", "predict_missing", "predict_scan"]
__all__ += ["save_figures", "train_retrieval", "write_prediction"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in ("losses", "networks"):
        return importlib.import_module(f"{__name__}.{name}")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
