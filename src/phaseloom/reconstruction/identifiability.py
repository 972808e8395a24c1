"""Whether patterns of a single place tell what is sought."""

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import BandlimitedObject
from phaseloom.ptycho.scans import measure_height_sensitivity
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.units import LENGTH

__all__ = ["warn_of_ambiguity"]

MIN_PLANES_FOR_COMPLEX_OBJECT = 4
"""Planes below which a complex object of pixels stays open (measured: docs/axial.md)."""


def warn_of_ambiguity(recipe: Reconstruct, scan: Scan4D, model: Ptychography, semiangle: float, /) -> str:
    """A sentence on what patterns without steps to the side leave open; empty where nothing is.

    Args:
        recipe: with the rates.
        scan: the data.
        model: of them, before the first step.
        semiangle: of the cone that holds 95 % of the probe, radian.
    """
    if (np.ptp(scan.positions, axis=0) >= scan.window.pixel).any():
        return ""
    free = bool(recipe.rate_of("probe")) and isinstance(model.probe, Probe)
    unit = measure_height_sensitivity(model.probe.modes(), scan.window)
    heights = np.zeros(1) if scan.heights is None or model.heights is None else scan.heights
    count = len(np.unique((heights / (0.1 * unit)).round()))
    if (
        recipe.rate_of("object")
        and count < MIN_PLANES_FOR_COMPLEX_OBJECT
        and (free or not _is_determined(scan, model, semiangle))
    ):
        text = f"{count} plane{'s leave' if count > 1 else ' leaves'} the object ambiguous at one place"
        return f"planes: {text}, whatever the loss. {_remedy(scan, model, unit)}"
    if not free:
        return ""
    text = f"a free probe is not determined by {count} plane{'s' * (count > 1)} without lateral steps"
    better = "freeze a known one (rates: probe: 0), or step to the side"
    lens = "" if scan.geometry.near else "use probe: aberrated or pupil, "
    fix = f"{lens}{better}"
    return f"planes: {text}. {fix[0].upper()}{fix[1:]}."


def _is_determined(scan: Scan4D, model: Ptychography, semiangle: float) -> bool:
    """Whether one pattern of a known probe shows the object.

    It does if the object is nothing but phase, and in a far field if it has at most half as many numbers as
    there are pixels, and the probe detail as fine as its own.
    """
    one = scan.window
    thing = model.object
    if one.near or thing.kind == "phase":
        return thing.kind == "phase"
    if not isinstance(thing, BandlimitedObject):
        return False
    finest = [g * p / n for g, p, n in zip(thing.canvas.shape, one.pixel, thing.grid, strict=True)]
    numbers = float(np.prod([n * p / q for n, p, q in zip(one.shape, one.pixel, finest, strict=True)]))
    return 2 * numbers <= scan.mask.sum() and 2 * semiangle * min(finest) >= one.wavelength


def _remedy(scan: Scan4D, model: Ptychography, unit: float) -> str:
    apart = f"{LENGTH.show(float(f'{unit:.3g}'))} or more apart and modelled"
    phase = "an object of phase alone (kind: phase)"
    if scan.geometry.near:
        return f"Take 8 heights, {apart}, {phase} and a known probe, or steps to the side."
    if isinstance(model.object, BandlimitedObject):
        wide = LENGTH.show(float(f"{1.5 * max(scan.window.pixel):.3g}"))
        few = f"object pixels of {wide} or more and a known probe with detail as fine"
        return f"Take {few}, or 8 planes, {apart}, or steps to the side."
    return f"Take 8, {apart}, {phase} and a known probe, or steps to the side."
