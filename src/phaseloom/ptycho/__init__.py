"""The differentiable experiment: a model assembled from parts."""

__all__ = [
    "batches",
    "detectors",
    "model",
    "noise",
    "objects",
    "probes",
    "projections",
    "propagators",
    "scans",
]
