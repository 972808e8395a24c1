"""From coarse to fine: the same experiment on a grid of pixels twice as wide, and back.

In the far field, cropping the detector to its inner half doubles the pixel of object and probe and leaves all
else as it was. An epoch then costs a quarter, and what it finds carries over, as long as hardly any light
falls on the half that is left out. In the near field the pixels of the object are those of the detector; a
model with finer ones (`phaseloom.data.prepare.enlarge`) begins on these: from a flat object it does not find
its way.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.data.prepare import crop
from phaseloom.data.scan import Scan4D
from phaseloom.physics.fourier import (
    fit_spectrum,
    fit_window,
    shift_to_centre,
    shift_to_corner,
    to_real,
    to_reciprocal,
)
from phaseloom.ptycho.canvas import Canvas
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography

__all__ = ["coarsen_scan", "count_finer_grids", "halve_canvas", "has_empty_outer_half"]
__all__ += ["model_detector_pixels", "transfer_parameters"]

MAX_LIGHT_OUTSIDE = 1e-3
"""Share of the light outside of the inner half of the detector, with which that is as good as the whole."""

MAX_LIGHT_LEFT_OUT = 1e-2
"""The same, with which it shows a coarse object: finer epochs see the rest."""

MIN_PATTERN_SIDE = 64
"""Pixels of a pattern below which nothing is gained."""


def coarsen_scan(scan: Scan4D, model: Ptychography, /) -> Scan4D | None:
    """The scan on pixels twice as wide; ``None`` where that would lose light or is not possible.

    It is possible with a probe of free pixels: in a far field that is modelled on the detector's own
    pixels, by the inner half of the detector, and in a near field that is modelled on finer ones.
    """
    shape = scan.geometry.shape
    free = type(model.probe) is Probe and model.probe.support is None
    if scan.geometry.near:
        return _double_modelled_pixels(scan) if free and count_finer_grids(scan) else None
    plain = free and model.propagator.onward is None and model.detector.response is None
    coarse = plain and has_empty_outer_half(scan, at_most=MAX_LIGHT_LEFT_OUT)
    return crop(scan, to=(shape[0] // 2, shape[1] // 2)) if coarse else None


def count_finer_grids(scan: Scan4D, /) -> int:
    """How often the pixels of a near field's model can be doubled until they are those of the detector."""
    if scan.modelled is None or not scan.geometry.near:
        return 0
    factors = np.divide(scan.modelled.shape, scan.geometry.shape)
    is_finer = np.allclose(np.multiply(scan.modelled.angle, factors), scan.geometry.angle)
    count = round(float(np.log2(factors[0])))
    return count if is_finer and bool((factors == 2**count).all()) else 0


def _double_modelled_pixels(scan: Scan4D) -> Scan4D:
    """The scan with a model of half as many pixels on each axis, at least those of the detector."""
    assert scan.modelled is not None
    coarse = scan.modelled.bin(2)
    return replace(scan, modelled=None if coarse.shape == scan.geometry.shape else coarse)


def model_detector_pixels(scan: Scan4D, /) -> Scan4D:
    """A near field that is modelled on finer pixels than the detector's, on those of the detector."""
    while count_finer_grids(scan):
        scan = _double_modelled_pixels(scan)
    return scan


def has_empty_outer_half(scan: Scan4D, /, *, at_most: float = MAX_LIGHT_OUTSIDE) -> bool:
    """Whether hardly any light falls outside of the inner half of the detector, and that half is enough.

    Args:
        scan: of which the mean pattern is judged.
        at_most: share of the light.
    """
    shape = scan.geometry.shape
    if scan.modelled is not None or any(n % 4 or n // 2 < MIN_PATTERN_SIDE for n in shape):
        return False
    light = np.where(scan.mask, scan.mean_pattern(most=200), 0).clip(min=0)
    rows, columns = (slice(n // 4, n - n // 4) for n in shape)
    return bool(light[rows, columns].sum() >= (1 - at_most) * light.sum())


def halve_canvas(canvas: Canvas, /) -> Canvas:
    """The canvas in pixels twice as wide; its first pixel stays where it is."""
    pixel = (2 * canvas.pixel[0], 2 * canvas.pixel[1])
    shape = (-(-canvas.shape[0] // 2), -(-canvas.shape[1] // 2))
    window = (canvas.window[0] // 2, canvas.window[1] // 2)
    return Canvas(shape, window, pixel, canvas.origin, canvas.middle)


@torch.no_grad()
def transfer_parameters(source: Ptychography, target: Ptychography, /) -> None:
    """Take over all that one model has found into another of the same scan on a finer or coarser grid."""
    target.object.set_transmission(
        _resample_transmission(source.object.transmission(), target.object.canvas.shape)
    )
    window = (target.object.canvas.window[0], target.object.canvas.window[1])
    target.probe.set_modes(fit_spectrum(source.probe.modes(), window))
    factor = source.object.canvas.pixel[0] / target.object.canvas.pixel[0]
    for name, parameters in source.scan.parts().items():
        for there, here in zip(target.scan.parts()[name], parameters, strict=True):
            there.copy_(factor * here)
    for room in ("propagator", "detector", "heights"):
        ours, theirs = (getattr(one, room) or torch.nn.Module() for one in (target, source))
        found = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            if name == "root":
                _transfer_background(source, target)
            else:
                parameter.copy_(found[name])


def _transfer_background(source: Ptychography, target: Ptychography) -> None:
    """What was found of the background where both detectors have pixels."""
    here = source.detector
    there = target.detector
    found = shift_to_centre(here.root * here.scale)
    known = shift_to_centre(torch.ones_like(here.root))
    shape = (there.root.shape[-2], there.root.shape[-1])
    kept = shift_to_corner(fit_window(known, shape)) > 0
    value = shift_to_corner(fit_window(found, shape)) / there.scale
    there.root.copy_(torch.where(kept, value, there.root))


def _resample_transmission(
    wave: Complex[Tensor, "state slice y x"], shape: tuple[int, int]
) -> Complex[Tensor, "state slice v u"]:
    """Every second pixel, or twice as many by padding the spectrum; the first pixel stays the first."""
    if shape[0] < wave.shape[-2]:
        return wave[..., ::2, ::2]
    double = (2 * wave.shape[-2], 2 * wave.shape[-1])
    spectrum = fit_window(shift_to_centre(to_reciprocal(wave - 1)), double)
    return (1 + 2 * to_real(shift_to_corner(spectrum)))[..., : shape[0], : shape[1]]
