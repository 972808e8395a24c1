"""The direct image of an electron scan: shown before the first epoch, and a start of the object."""

import math

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.calibration.raster import complete_raster
from phaseloom.data.scan import Scan4D
from phaseloom.direct.explained import fit_device
from phaseloom.direct.recipe import DirectResult
from phaseloom.direct.reconstruct import reconstruct_scan
from phaseloom.errors import BadInput
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.projections.object_prior import ObjectPower
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Provenance

__all__ = [
    "compute_stated_defocus",
    "estimate_object_power",
    "has_direct_image",
    "make_first_image",
    "place_on_canvas",
]

PROBES_FROM_OPTICS = ("focused", "aberrated")
"""First guesses of a probe that state its semi-angle and defocus."""


def has_direct_image(scan: Scan4D, /) -> bool:
    """Whether a scan may have a direct image: electrons in the far field, on a raster with few gaps."""
    return _find_raster(scan) is not None


def _find_raster(scan: Scan4D) -> Scan4D | None:
    """The scan with its gaps filled, if it may have a direct image."""
    if scan.geometry.beam != "electron" or scan.geometry.near:
        return None
    whole = complete_raster(scan)
    return None if whole.grid is None else whole


def make_first_image(recipe: Reconstruct, scan: Scan4D, /) -> DirectResult | None:
    """A phase image without iteration, with fitted optics, or with those of a recipe that was calibrated.

    Args:
        recipe: settled, of the run.
        scan: as the run models it; few patterns may be missing (`complete_raster`).

    Returns:
        the image, or ``None``: not electrons, not a raster, a near field, or no bright disk.
    """
    whole = _find_raster(scan)
    if whole is None:
        return None
    values = recipe.probe.values
    stated = recipe.probe.name in PROBES_FROM_OPTICS
    aberrations = (
        {**(values.get("aberrations") or {}), "defocus": values.get("defocus", 0.0)} if stated else {}
    )
    if not stated or "calibrate" not in recipe.found:
        fit = True
    else:
        fit = False
        aberrations["defocus"] += _depth_of_middle(recipe)
    token = fit_device.set(recipe.device)
    try:
        found = reconstruct_scan(
            whole,
            semiangle=values.get("semiangle") if stated else None,
            aberrations=aberrations,
            fit=fit,
        )
    except BadInput:
        return None
    finally:
        fit_device.reset(token)
    made = Provenance.now(seed=recipe.seed, data=whole.digest(), file=recipe.file.name)
    return DirectResult(found, whole, made)


def compute_stated_defocus(recipe: Reconstruct, /) -> float | None:
    """Defocus that a recipe states, at the middle of its object, angstrom; ``None``: the probe has none.

    Args:
        recipe: of the run.
    """
    if recipe.probe.name not in PROBES_FROM_OPTICS:
        return None
    return float(recipe.probe.values.get("defocus") or 0.0) + _depth_of_middle(recipe)


def _depth_of_middle(recipe: Reconstruct) -> float:
    """What the defocus at the first slice lacks of that in the middle of the object, angstrom."""
    thing = recipe.object.values
    gaps = thing.get("thickness") or 0.0
    count = int(thing.get("slices") or 1)
    return -(sum(gaps) if isinstance(gaps, list | tuple) else (count - 1) * float(gaps)) / 2


def estimate_object_power(image: DirectResult, /) -> ObjectPower | None:
    """Power of the phase as the direct image of a raster shows it; ``None`` where it shows nothing."""
    rings = sorted(image.found.image.rings)
    if not rings:
        return None
    place = abs(float(np.linalg.det(image.found.grid.steps))) * float(image.found.optics.step) ** 2
    place *= image.found.image.upsample**2  # rings are in units of the scan's own places
    table = [(one.frequency, place * one.power) for one in rings]
    frequency, density = (tuple(float(f"{v:.4g}") for v in column) for column in zip(*table, strict=True))
    return ObjectPower(frequency, density)


def place_on_canvas(image: DirectResult, thing: PixelObject, /) -> Complex[Tensor, "state slice y x"]:
    """The phase of a direct image on the pixels of an object, shared among its slices; one beyond the scan.

    Args:
        image: in radian, a place of the image for each place of the scan.
        thing: the object.
    """
    from scipy.ndimage import map_coordinates

    grid = image.found.grid
    state = thing.transmission()
    room = thing.canvas
    rows, columns = (
        origin + pixel * np.arange(n)
        for origin, pixel, n in zip(room.origin, room.pixel, room.shape, strict=True)
    )
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    index = grid.index(places)
    phase = image.found.image.phase.double().numpy()
    fade = np.outer(*(np.sin(math.pi * (np.arange(n) + 0.5) / n) ** 0.25 for n in grid.shape))
    smooth = map_coordinates(
        (phase - np.median(phase)) * fade, index.transpose(2, 0, 1), order=3, mode="constant"
    )
    each = torch.as_tensor(smooth / state.shape[1], dtype=state.real.dtype)
    return torch.polar(torch.ones_like(each), each).expand_as(state).to(state.device)
