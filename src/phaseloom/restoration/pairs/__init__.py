"""Pairs of a degraded and a good image: where they come from and how they are cut.

`folders` reads them from files, `noise2noise` makes them of scans, `underwater` simulates them; `image_kinds`
normalises and `crops` cuts them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
