"""What can be exported, and where it goes."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import Signal, Signals, find_raster_order, signals_of_scan
from phaseloom.errors import BadInput
from phaseloom.result import Result

__all__ = ["Exportable", "arrange_raster", "choose_image", "require_result", "resolve_path", "to_signals"]

Exportable = Result | Scan4D | Signals
"""A reconstruction, a scan, or the images of another file (`phaseloom.export.load`)."""


def arrange_raster(source: Exportable, /) -> Exportable:
    """A scan with the ``grid`` of its positions, where they are a raster that nobody states; else as it is.

    Patterns of a scan that turns at the end of each row are put in the order of the raster.
    """
    if not isinstance(source, Scan4D) or source.grid is not None:
        return source
    order = find_raster_order(source.positions)
    if order is None:
        return source
    flat = order.ravel()
    scan = source if (np.diff(flat) == 1).all() else source.select(flat)
    return replace(scan, grid=(order.shape[0], order.shape[1]))


def to_signals(source: Exportable, /) -> Signals:
    """The images of whatever is exported."""
    if isinstance(source, Result):
        return source.signals()
    return signals_of_scan(source) if isinstance(source, Scan4D) else source


def require_result(source: Exportable, place: str, /) -> Result:
    """A reconstruction, or a sentence that says what a format needs.

    Raises:
        BadInput: something else.
    """
    if isinstance(source, Result):
        return source
    kind = "a scan" if isinstance(source, Scan4D) else f"of kind '{source.kind}'"
    fix = f"is {kind}, and this format holds reconstructions: give a result.h5, or choose emd, hspy or nexus"
    raise BadInput(place, "the input", fix)


def resolve_path(path: str | os.PathLike[str], name: str, /) -> Path:
    """A file, or the usual name in a folder."""
    path = Path(path)
    return path / name if path.is_dir() else path


def choose_image(signals: Signals, of: str | None, place: str, /) -> Signal:
    """The signal of a name, or the first; patterns are refused.

    Raises:
        BadInput: no such signal, or a scan, whose patterns fit no image file.
    """
    if signals.kind == "scan":
        fix = "is a scan, and this format holds images: choose cxi, emd, hspy or nexus"
        raise BadInput(place, "the input", fix)
    return signals.signals[0] if of is None else signals.find(of, place)
