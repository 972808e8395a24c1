"""Trained networks in files: list, find, load and save them; training loop and shared layers.

Public names are imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
