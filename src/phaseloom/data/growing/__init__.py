"""Scans that are still being taken: files that get longer, folders that fill, frames over a socket."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
