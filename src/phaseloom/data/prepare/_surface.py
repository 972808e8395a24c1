"""How the sample's surface lies against the beam."""

from dataclasses import replace
from typing import Literal

import numpy as np

from phaseloom.data.prepare._shared import example as _example  # noqa: F401 - for the examples
from phaseloom.data.scan import ACROSS, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import tilted_sample as surface

__all__ = ["tilt_sample"]


def tilt_sample(
    scan: Scan4D,
    /,
    *,
    normal: tuple[float, float, float] | None = None,
    scattering: Literal["transmission", "reflection"] | None = None,
) -> Scan4D:
    """Say how the sample's surface lies: positions are projected on it, and heights follow.

    Positions are then those that the detector sees of the points that the beam hits, and the object's grid is
    an oblique one on the surface, with the steps ``geometry.steps`` (docs/geometry.md). Corrections of the
    scan come before this.

    Args:
        scan: the scan.
        normal: of the surface in the laboratory's frame (x, y, z), of any length; the beam travels along z.
        scattering: instead of a normal: ``transmission``, a surface across the beam; ``reflection``, one that
            reflects the beam into the middle of the detector.

    Raises:
        BadInput: not one of the two, a surface along the beam or seen from its edge, or a near field.

    Example:
        >>> tilted = tilt_sample(_example(), normal=(0.0, 0.6, 0.8))
        >>> tilted.positions[:, 0].tolist(), tilted.heights.round(3).tolist()
        ([0.0, 1.0, 2.0], [0.0, -0.75, -1.5])
    """
    if (normal is None) == (scattering is None):
        raise BadInput("tilt_sample", None, "needs one of normal and scattering")
    old = scan.geometry
    if scattering is not None:
        normal = ACROSS if scattering == "transmission" else tuple(surface.mirror(old.basis).tolist())
    lying = normal if normal is not None else ACROSS
    along = np.zeros(len(scan)) if scan.heights is None else scan.heights
    beam = surface.departed(scan.positions, along, old.basis, old.normal)
    geometry = replace(old, normal=lying)
    surface.steps(old.basis, old.pixel, geometry.normal)
    positions, heights = surface.landed(beam, old.basis, geometry.normal)
    return replace(
        scan,
        positions=positions,
        heights=heights if np.ptp(heights) > 1e-3 else None,
        geometry=geometry,
        modelled=None if scan.modelled is None else replace(scan.modelled, normal=lying),
    )
