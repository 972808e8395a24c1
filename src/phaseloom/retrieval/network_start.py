"""An object that a network has read from the patterns, for a reconstruction to start from."""

from pathlib import Path

import torch

from phaseloom.data.scan import Scan4D
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.weight_files import find
from phaseloom.ptycho.object_models import Kind, PixelObject
from phaseloom.ptycho.probe_guesses import Optics
from phaseloom.ptycho.scans import Canvas
from phaseloom.retrieval.prediction import predict

__all__ = ["predicted"]


def predicted(
    canvas: Canvas,
    scan: Scan4D,
    optics: Optics,
    /,
    *,
    model: str | Path = "tiny",
    dose: float | None = None,
    kind: Kind = "complex",
) -> PixelObject:
    """The phase that a trained network reads from the patterns, as a start; one slice, vacuum around.

    A reconstruction takes it only if it explains the patterns better than no object.

    Args:
        canvas: see `phaseloom.ptycho.scans.canvas`.
        scan: the patterns.
        optics: of the beam, as far as it is known.
        model: a network that comes with the package, by name, or the file of one.
        dose: electrons of the beam in a pattern; default: from the patterns.
        kind: see `phaseloom.ptycho.objects.pixels`.

    Raises:
        BadInput: no such network, or a scan that it was not trained for.
    """
    path = find(model)
    card = {"name": path.stem, **pretrained.card(path)}
    seen = predict(pretrained.load(path), card, scan, optics, dose=dose)
    phase = torch.from_numpy(seen.phase)
    start = torch.ones(1, 1, *canvas.shape, dtype=torch.complex64)
    thing = PixelObject(start, kind, (), canvas)
    rows, columns = phase.shape
    middle = tuple(o + (n // 2) * p for o, n, p in zip(seen.origin, (rows, columns), seen.pixel, strict=True))
    thing.lay(torch.polar(torch.ones_like(phase), phase), at=middle, pixel=seen.pixel)
    return thing
