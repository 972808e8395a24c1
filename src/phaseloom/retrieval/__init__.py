"""Phase retrieval by neural networks: train them on simulated scans, and predict the phase of measured ones.

In reading order: `networks` (recovery of patches, stitching, end to end; linear and tiny for whole scans);
`losses`, `objectives`, `training_samples`, `recipe`, `trainer` and `linear_fit` for training; `raster`,
`preprocessing`, `prediction` and `predict_scans` for measured scans; `evaluate` for scores. Public names are
imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
