"""Patterns in a ``.npy`` file, mapped into memory; the geometry comes from knobs or a side-car."""

import os
from typing import Unpack

from phaseloom.data.formats.arrays import load_npy
from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D

__all__ = ["ABOUT", "read"]

ABOUT = About(
    files=".npy",
    reading="batch by batch",
    states="nothing",
    compared="numpy",
)


@accept_setup()
def read(path: str | os.PathLike[str], /, **setup: Unpack[Setup]) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` as `numpy.save` wrote them.

    Args:
        path: the file.
        **setup: see `Setup`.

    Raises:
        BadInput: what is missing or does not fit. Pickled objects are never loaded.

    Example:
        >>> np.save("raster.npy", np.ones((2, 3, 8, 8), np.uint16))
        >>> scan = read("raster.npy", energy=80e3, angle=1e-3, step=0.4)
        >>> scan.grid, scan.positions[-1].tolist()
        ((2, 3), [0.4, 0.8])
    """
    path = require_file(path)
    return build_scan(path, load_npy(path, lazy=True), setup)
