"""Doors for people who come from other programs: their files and their names for our work."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
