"""Dual-resolution restoration of images: networks, losses, pairs, training, application, evaluation.

Modules in reading order: `pairs` (where training pairs come from, how they are normalised and cropped),
`networks`, `losses` and `weighting`, `train` (recipe, objective, training), `apply` and `apply_result` (to
images, files and reconstructions), `half_phases`, `half_data_filter`, `filter_result` and
`half_data_network` (by halves of the counts), `baselines`, `evaluate`, `figures`. Names are imported on
first use.

Example:
    >>> from phaseloom import restoration
    >>> net, kind, card = restoration.load_restorer("underwater")
    >>> type(net).__name__, kind.name
    ('TwoScaleUNet', 'photograph')
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
