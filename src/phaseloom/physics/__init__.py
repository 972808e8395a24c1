"""Wave physics: pure functions of tensors, with no state, no files and no devices of their own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
