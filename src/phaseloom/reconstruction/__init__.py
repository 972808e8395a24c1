"""Ptychographic reconstruction: the recipe of a run, its protocol, and what is said of the result."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
