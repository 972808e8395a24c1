"""What a file does not say about a scan, estimated from its patterns: orientation, optics, step, slices."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
