"""Networks that restore images.

`phaseformer` has all builders; `unet` and `phase_attention` are what they are built of, `agssf1` is the older
model, `vgg` compares images by features.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
