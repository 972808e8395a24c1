"""What runs of all systems share: recipes of scans, run folders, memory, parallel work."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
