"""The start of a near-field reconstruction: its distance and magnification, its object and its illumination.

A fit of holograms hardly finds details wider than their fringes, whose contrast vanishes with ``sin(pi
wavelength z f^2)``: from a flat object it ends with the edges of things. It begins with the direct image
instead.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float
from scipy import ndimage

from phaseloom.calibration.near_field import (
    MIN_CORRELATION,
    MIN_CORRELATION_OF_FEW_COUNTS,
    NearFieldEstimate,
    compare_orientations,
    estimate_near_field,
    set_near_field,
)
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.direct.holograms import (
    USUAL_RATIO,
    HologramImage,
    integrate_displacement,
    invert_contrast,
    reconstruct_holograms,
)
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.guesses import build_probe, enlarge_wave
from phaseloom.ptycho.projections.object_prior import ObjectPower
from phaseloom.spec import Call

__all__ = ["IMAGE_RATIOS", "change_ratio", "has_hologram_start", "has_one_height", "is_hologram_scan"]
__all__ += ["is_one_material_due", "make_hologram_image", "make_hologram_images", "measure_agreement"]
__all__ += ["measure_power", "search_near_field", "set_distance", "start_from_holograms", "widen_window"]

log = logging.getLogger(__name__)

MIN_PATTERNS = 9
"""Below which illumination and object are not told apart."""

MAX_HEIGHT_SPREAD = 0.05
MAX_HEIGHT_SPREAD_OF_IMAGE = 1.5
"""Of positions along the beam over the effective distance: above the first, holograms at the mean distance do
not tell it; above the second, of a parallel beam, their direct image is no start."""

MIN_EDGE_LIGHT = 0.15
"""Light at the detector's weakest edge over bright light, from which on a beam fills it."""

SHARE_OF_SPREAD = 0.8
MIN_MARGIN = 8
"""Pixels around such a detector: a share of ``wavelength z / pixel^2``, over which twice the finest fringes
reach, and some at least."""

PATTERNS_OF_EDGE = 50

MIN_RATIO_OF_PRIOR = 0.03
"""Of ``beta / delta``, with which the prior of a run expects the modulus at least."""

MIN_RATIO_OF_IMAGE = 0.01
"""Of ``beta / delta`` of a direct image, of an object without absorption as well: with zero its slow details,
whose contrast vanishes, are noise of many radian (a star of 1.3 had 19)."""

IMAGE_RATIOS = (0.01, 0.1)
"""Of the direct images to begin with. A linear inversion with the lower one overstates slow details of strong
phases, whose contrast vanishes: of a star of 1.3 radian the loss was 8.3 after 16 epochs, and 2.3 from the
higher one; of weak phases the lower one has the lower loss."""

LIT = 0.3
"""Share of typical light from which on images are compared."""


def has_hologram_start(recipe: Any, scan: Scan4D, /) -> bool:
    """Whether a run begins with a hologram image: a near field, the automatic start, nothing of it given."""
    own_probe = recipe.probe.name == "from_patterns" or (recipe.probe.name == "auto" and scan.probe is None)
    plain = recipe.object.name == "pixels" and int(recipe.object.values.get("slices") or 1) == 1
    return recipe.start.name == "sweep" and own_probe and plain and is_hologram_scan(scan)


def is_hologram_scan(scan: Scan4D, /) -> bool:
    """Whether a direct image of holograms can be made: a near field of several patterns, at heights not too
    different.
    """
    if not scan.geometry.near:
        return False
    is_cone = not math.isinf(scan.geometry.focus or math.inf)  # whose pixel changes with the height
    most = MAX_HEIGHT_SPREAD if is_cone else MAX_HEIGHT_SPREAD_OF_IMAGE
    return len(scan) >= MIN_PATTERNS and _measure_height_spread(scan) < most


def has_one_height(scan: Scan4D, /) -> bool:
    """Whether the distance of a near field can be looked for by its holograms: they are at one height."""
    return _measure_height_spread(scan) < MAX_HEIGHT_SPREAD


def _measure_height_spread(scan: Scan4D) -> float:
    """Range of positions along the beam over the effective distance."""
    return 0.0 if scan.heights is None else float(np.ptp(scan.heights)) / abs(scan.geometry.flight)


def search_near_field(recipe: Any, scan: Scan4D, /) -> tuple[Any, Scan4D, NearFieldEstimate, list[str]]:
    """The recipe and the scan with the orientation and geometry that holograms show, and what was found."""
    way = compare_orientations(scan)
    steps = [*way.steps()]
    for step in steps:
        scan = step(scan)
    least = MIN_CORRELATION_OF_FEW_COUNTS if way.is_clear else MIN_CORRELATION
    found = replace(estimate_near_field(scan, least=least), is_oriented=way.is_clear)
    lines = [way.line(), *found.lines()]
    for line in lines:
        log.info("near field: %s", line)
    recipe = _insert_steps(recipe, steps)
    if found.is_changed:
        values = {"distance": found.geometry.distance, "focus": found.geometry.focus}
        step = Call(prepare.__name__, "near_field", values)
        recipe, scan = _insert_steps(recipe, [step]), step(scan)
    return recipe, replace(scan, oriented=scan.oriented or way.is_clear), found, lines


def set_distance(recipe: Any, scan: Scan4D, flight: float, /) -> tuple[Any, Scan4D]:
    """The recipe and the scan with another effective distance, in angstrom; the object's pixel stays."""
    found = set_near_field(scan.geometry, scan.geometry.pixel[0], flight)
    values = {"distance": found.distance, "focus": found.focus}
    step = Call(prepare.__name__, "near_field", values)
    return _insert_steps(recipe, [step]), step(scan)


def _insert_steps(recipe: Any, steps: Sequence[Call]) -> Any:
    """The recipe with more steps of `prepare`, before an enlarged window; distances once."""
    names = [step.name for step in steps]
    before = [one for one in recipe.prepare if not (one.name == "near_field" and one.name in names)]
    later = [before.pop()] if steps and before and before[-1].name == "enlarge" else []
    return recipe.model_copy(update={"prepare": (*before, *steps, *later)})


def widen_window(recipe: Any, scan: Scan4D, /) -> tuple[Any, Scan4D, list[str]]:
    """Model a beam that fills the detector on a window with room for what comes from outside, and say so."""
    shape = scan.geometry.shape
    if scan.modelled is not None or _measure_edge_light(scan) < MIN_EDGE_LIGHT:
        return recipe, scan, []
    geometry = scan.geometry
    spread = geometry.wavelength * abs(geometry.flight) / min(geometry.pixel) ** 2  # pixels
    margin = math.ceil(min(max(SHARE_OF_SPREAD * spread, MIN_MARGIN), min(shape) / 7))
    to = tuple(int(scipy.fft.next_fast_len(n + 2 * margin) or n) for n in shape)
    step = Call(prepare.__name__, "enlarge", {"to": [*to]})
    text = f"the beam fills the detector: modelled on {to[0]} x {to[1]} pixels (prepare: enlarge)"
    log.info("near field: %s", text)
    return recipe.model_copy(update={"prepare": (*recipe.prepare, step)}), step(scan), [text]


def _measure_edge_light(scan: Scan4D) -> float:
    """Counts along the weakest edge of the detector over those of a bright place."""
    few = np.linspace(0, len(scan) - 1, min(len(scan), PATTERNS_OF_EDGE)).astype(int)
    mean = np.where(scan.mask, np.asarray(scan.counts[few], np.float64).mean(0), np.nan)
    edges = (mean[:3], mean[-3:], mean[:, :3], mean[:, -3:])
    with np.errstate(invalid="ignore"):
        light = [float(np.nanmedian(edge)) for edge in edges if np.isfinite(edge).any()]
    return min(light, default=0.0) / max(float(np.nanpercentile(mean, 90)), 1e-30)


def make_hologram_image(scan: Scan4D, /, ratio: float = USUAL_RATIO) -> HologramImage | None:
    """The direct image of a scan, with ``beta / delta``; ``None``, and a warning, where there is none.

    Args:
        scan: holograms.
        ratio: ``beta / delta``; less than `MIN_RATIO_OF_IMAGE` counts as that.
    """
    try:
        return reconstruct_holograms(_on_detector(scan), ratio=max(ratio, MIN_RATIO_OF_IMAGE))
    except BadInput as problem:
        log.warning("near field: no direct image to begin with: %s", problem)
        return None


def change_ratio(image: HologramImage, scan: Scan4D, ratio: float, /) -> HologramImage:
    """The direct image of a scan with another ratio, from the holograms that it has."""
    return invert_contrast(image.holograms, _on_detector(scan), max(ratio, MIN_RATIO_OF_IMAGE))


def make_hologram_images(scan: Scan4D, /, ratio: float = USUAL_RATIO) -> tuple[HologramImage, ...]:
    """The direct images with a ratio and with `IMAGE_RATIOS`; empty where none can be made.

    Args:
        scan: holograms.
        ratio: ``beta / delta`` of the first.
    """
    first = make_hologram_image(scan, ratio)
    return () if first is None else (first, *(change_ratio(first, scan, one) for one in IMAGE_RATIOS))


@torch.no_grad()
def start_from_holograms(model: Ptychography, scan: Scan4D, image: HologramImage, /) -> None:
    """Give a model a direct image and the illumination of its scan."""
    there = model.object.transmission()
    wave = torch.as_tensor(np.exp((1j + image.ratio) * _place_phase(image, model))).to(there)
    model.object.set_transmission(wave.expand_as(there))
    probe = model.probe
    if type(probe) is Probe:
        geometry = scan.geometry
        flight = torch.tensor(-geometry.flight, dtype=torch.float64)
        kernel = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight)
        wavefront = np.exp(1j * integrate_displacement(image.holograms, geometry))
        light = torch.as_tensor(np.sqrt(image.holograms.illumination) * wavefront)
        modes = probe.modes()
        guess = build_probe(scan, enlarge_wave(fly(light, kernel), scan), len(modes))
        probe.set_modes(guess.modes().to(modes))


def is_one_material_due(model: Ptychography, /) -> bool:
    """Whether `phaseloom.calibration.one_material` serves: a free probe, one state, one process."""
    is_plain = type(model.probe) is Probe and len(model.object.occupancy) == 1
    return is_plain and team().world_size == 1


@torch.no_grad()
def measure_agreement(model: Ptychography, images: Sequence[HologramImage], /) -> float:
    """Correlation of the phase of a model, where the object is well lit, with the direct image like it most.

    Args:
        model: of the run.
        images: direct images with several ratios: one that is too low overstates slow details of strong
            phases (a star of 1.3 radian correlates by 0.48 and 0.88).
    """
    return float(np.fmax.reduce([_measure_agreement(model, image) for image in images]))


def _measure_agreement(model: Ptychography, image: HologramImage) -> float:
    wave = model.object.transmission().prod(1)[0].cpu()
    known = _place_phase(image, model)
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
    power = ObjectPower.of_phase(image.phase, image.holograms.taper(), image.holograms.canvas.pixel)
    return replace(power, modulus=float(f"{max(image.ratio, MIN_RATIO_OF_PRIOR) ** 2:.4g}"))


def _on_detector(scan: Scan4D) -> Scan4D:
    return replace(scan, modelled=None, heights=None)


def _place_phase(image: HologramImage, model: Ptychography) -> Float[np.ndarray, "v u"]:
    """The phase of a direct image, of any size, on the pixels of a model's object."""
    own, room = image.holograms.canvas, model.object.canvas
    grids = zip(room.origin, room.pixel, room.shape, own.origin, own.pixel, strict=True)
    at = [(origin + pixel * np.arange(n) - first) / step for origin, pixel, n, first, step in grids]
    phase = image.phase * image.holograms.taper()
    where = np.meshgrid(*at, indexing="ij")
    return ndimage.map_coordinates(phase, where, order=3, mode="constant")
