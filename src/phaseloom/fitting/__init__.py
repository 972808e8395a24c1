"""One loop for physics and networks: it yields epochs and leaves the rest to its caller."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
