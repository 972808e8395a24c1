"""Initial object of a reconstruction from the prediction of a network."""

from pathlib import Path

import torch

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.ptycho.objects import Kind, PixelObject, remove_slow_variations
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.ptycho.scans import Canvas
from phaseloom.retrieval.fitted_networks import choose_network
from phaseloom.retrieval.prediction import predict
from phaseloom.units import Length

__all__ = ["predict_object"]


def predict_object(
    canvas: Canvas,
    scan: Scan4D,
    optics: BeamOptics,
    /,
    *,
    model: str | Path = "tiny",
    dose: float | None = None,
    kind: Kind = "complex",
    longest_period: Length | None = None,
) -> PixelObject:
    """Initial object with the phase that a trained network predicts from the patterns; one slice in vacuum.

    A reconstruction compares it with a flat object (`phaseloom.reconstruction.starts.start_race`).

    Args:
        canvas: see `phaseloom.ptycho.scans.canvas`.
        scan: the patterns.
        optics: of the beam, as far as it is known.
        model: a network that comes with the package, by name, the file of one, or ``fitted``
            (`phaseloom.retrieval.fitted_networks.fit_network`).
        dose: electrons of the beam in a pattern; default: from the patterns.
        kind: see `phaseloom.ptycho.objects.pixels`.
        longest_period: angstrom; slower variations of the phase, which patterns hardly determine, are left
            out. Default: all are kept.

    Raises:
        BadInput: no such network, or a scan that it was not trained for.
    """
    if longest_period is not None and not longest_period > 0:
        raise BadInput("object: predicted.longest_period", longest_period, "must be above zero")
    path = choose_network(model, scan, optics)
    card = {"name": path.stem, **pretrained.load_card(path)}
    prediction = predict(pretrained.load_network(path), card, scan, optics, dose=dose).align()
    phase = torch.from_numpy(prediction.phase)
    vacuum = torch.ones(1, 1, *canvas.shape, dtype=torch.complex64)
    start = PixelObject(vacuum, kind, (), canvas)
    axes = zip(prediction.origin, phase.shape, prediction.pixel, strict=True)
    centre = tuple(origin + (count // 2) * pixel for origin, count, pixel in axes)
    start.place_window(torch.polar(torch.ones_like(phase), phase), at=centre, pixel=prediction.pixel)
    if longest_period is not None:
        wave = remove_slow_variations(start.transmission(), canvas.pixel, longest_period)
        start.set_transmission(wave)
    return start
