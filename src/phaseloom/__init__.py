"""Phaseloom turns diffraction patterns into phase images.

Everything public is listed in ``__init__.pyi`` and is imported on first use, so that ``import phaseloom``
costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
