"""4D-STEM autoencoders: patterns encoded into a few latents, and what can be seen in these.

In reading order: `networks`; `losses`, `objective`, `block_split`, `train` and `evaluate` for training;
`embeddings` for the latents of a scan; `latents` and `figures` for their analysis. Public names are imported
on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseloom.embedding import losses, networks
    from phaseloom.embedding.embeddings import ScanEmbedding, denoise, embed, embed_patterns, load_autoencoder
    from phaseloom.embedding.evaluate import finish_training
    from phaseloom.embedding.latents import LatentReport, find_clusters, generate_patterns, write_report
    from phaseloom.embedding.summary import show
    from phaseloom.embedding.train import Autoencode, AutoencoderTraining

_HOMES = {
    "embeddings": ["ScanEmbedding", "denoise", "embed", "embed_patterns", "load_autoencoder"],
    "evaluate": ["finish_training"],
    "latents": ["LatentReport", "find_clusters", "generate_patterns", "write_report"],
    "summary": ["show"],
    "train": ["Autoencode", "AutoencoderTraining"],
}
__all__ = ["Autoencode", "AutoencoderTraining", "LatentReport", "ScanEmbedding", "denoise", "embed"]
__all__ += ["embed_patterns", "find_clusters", "finish_training", "generate_patterns", "load_autoencoder"]
__all__ += ["losses", "networks", "show", "write_report"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in ("losses", "networks"):
        return importlib.import_module(f"{__name__}.{name}")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
