"""The start of a near-field reconstruction: its distance and magnification, its object and its illumination.

A fit of holograms hardly finds details wider than their fringes, whose contrast vanishes with ``sin(pi
wavelength z f^2)``: from a flat object it ends with the edges of things. It begins with the direct image
instead.
"""

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from phaseloom.calibration.near_field import NearFieldEstimate, estimate_near_field
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.direct.holograms import HologramImage, reconstruct_holograms
from phaseloom.errors import BadInput
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.guesses import build_probe, enlarge_wave
from phaseloom.ptycho.projections.object_prior import ObjectPower
from phaseloom.spec import Call

__all__ = ["has_hologram_start", "measure_agreement", "measure_power", "search_near_field"]
__all__ += ["start_from_holograms"]

log = logging.getLogger(__name__)

MIN_PATTERNS = 9
"""Below which illumination and object are not told apart."""

MAX_HEIGHT_SPREAD = 0.05
"""Of positions along the beam over the effective distance; above it one hologram does not stand for all."""

LIT = 0.3
"""Share of typical light from which on images are compared."""


def has_hologram_start(recipe: Any, scan: Scan4D, /) -> bool:
    """Whether a run begins with a hologram image: a near field, the automatic start, nothing of it given."""
    own_probe = recipe.probe.name == "from_patterns" or (recipe.probe.name == "auto" and scan.probe is None)
    plain = recipe.object.name == "pixels" and int(recipe.object.values.get("slices") or 1) == 1
    if not (scan.geometry.near and recipe.start.name == "sweep" and own_probe and plain):
        return False
    spread = 0.0 if scan.heights is None else float(np.ptp(scan.heights))
    return len(scan) >= MIN_PATTERNS and spread < MAX_HEIGHT_SPREAD * abs(scan.geometry.flight)


def search_near_field(recipe: Any, scan: Scan4D, /) -> tuple[Any, Scan4D, NearFieldEstimate]:
    """The recipe and the scan with the geometry that the holograms show, and what was found."""
    found = estimate_near_field(scan)
    for line in found.lines():
        log.info("near field: %s", line)
    if not found.is_changed:
        return recipe, scan, found
    values = {"distance": found.geometry.distance, "focus": found.geometry.focus}
    step = Call(prepare.__name__, "near_field", values)
    before = [*recipe.prepare]
    later = [before.pop()] if before and before[-1].name == "enlarge" else []
    return recipe.model_copy(update={"prepare": (*before, step, *later)}), step(scan), found


@torch.no_grad()
def start_from_holograms(model: Ptychography, scan: Scan4D, /) -> HologramImage | None:
    """Give a model the direct image and the illumination of its scan; ``None`` where there are none."""
    try:
        image = reconstruct_holograms(_on_detector(scan))
    except BadInput as problem:
        log.warning("near field: no direct image to begin with: %s", problem)
        return None
    there = model.object.transmission()
    wave = _place(image, model).to(there)
    model.object.set_transmission(wave.expand_as(there))
    probe = model.probe
    if type(probe) is Probe:
        geometry = scan.geometry
        flight = torch.tensor(-geometry.flight, dtype=torch.float64)
        kernel = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight)
        light = torch.as_tensor(np.sqrt(image.holograms.illumination)).to(torch.complex128)
        modes = probe.modes()
        guess = build_probe(scan, enlarge_wave(fly(light, kernel), scan), len(modes))
        probe.set_modes(guess.modes().to(modes))
    return image


@torch.no_grad()
def measure_agreement(model: Ptychography, image: HologramImage, /) -> float:
    """Correlation of the phase of a model with a direct image where the object is well lit."""
    wave = model.object.transmission().prod(1)[0].cpu()
    known = _place(image, model).angle().numpy()
    light = model.coverage()
    lit = np.asarray(ndimage.binary_erosion(light > LIT * np.percentile(light[light > 0], 90), iterations=4))
    if lit.sum() < 100:
        return math.nan
    level = wave[torch.as_tensor(lit)].mean()
    phase = torch.angle(wave * torch.conj(level)).numpy()
    places = np.argwhere(lit)
    design = np.column_stack([places, np.ones(len(places))])
    values = [np.extract(lit, one) for one in (phase, known)]
    first, second = (one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in values)
    return float(np.corrcoef(first, second)[0, 1])


def measure_power(image: HologramImage, /) -> ObjectPower:
    """Power of the phase of a direct image by frequency, the prior of the object of a run."""
    return ObjectPower.of_phase(image.phase, image.holograms.taper(), image.holograms.canvas.pixel)


def _on_detector(scan: Scan4D) -> Scan4D:
    return replace(scan, modelled=None, heights=None)


def _place(image: HologramImage, model: Ptychography) -> Tensor:
    """The transmission of a direct image on the pixels of a model's object."""
    own, room = image.holograms.canvas, model.object.canvas
    grids = zip(room.origin, room.pixel, room.shape, own.origin, own.pixel, strict=True)
    at = [(origin + pixel * np.arange(n) - first) / step for origin, pixel, n, first, step in grids]
    phase = image.phase * image.holograms.taper()
    where = np.meshgrid(*at, indexing="ij")
    phase = ndimage.map_coordinates(phase, where, order=3, mode="constant")
    return torch.as_tensor(np.exp((1j + image.ratio) * phase))
