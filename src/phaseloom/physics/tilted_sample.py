"""Where a beam meets a surface that is not perpendicular to it, and the object's grid there.

The beam travels along ``+z``. The sample is a plane with the unit normal ``n``; the detector has unit
vectors of rows and columns, the columns of a table ``basis`` ``(3, 2)``, and is seen from the sample in
the direction ``o = columns x rows``, so that ``o = z`` for rows along ``-y`` and columns along ``-x``.
Lengths are in angstrom. `docs/geometry.md` has the derivations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from phaseloom.errors import BadInput

__all__ = ["Numbers", "grid_steps", "mirror_normal", "outgoing_direction", "project_beam"]
__all__ += ["restore_beam"]

BEAM_DIRECTION = np.array([0.0, 0.0, 1.0])
"""Direction in which the beam travels."""

MIN_GRAZING_SINE = 1e-3
"""Sine of the angle between a direction and the surface below which nothing is projected."""

Numbers = Sequence[Any] | np.ndarray
"""A vector, or a table in rows."""


def outgoing_direction(basis: Numbers, /) -> Float[np.ndarray, "3"]:
    """Direction from the sample to the middle of a detector.

    Example:
        >>> outgoing_direction([[0, -1], [-1, 0], [0, 0]]).tolist()
        [0.0, 0.0, 1.0]
    """
    rows, columns = np.asarray(basis, np.float64).T
    across = np.cross(columns, rows)
    return across / np.linalg.norm(across) + 0.0


def mirror_normal(basis: Numbers, /) -> Float[np.ndarray, "3"]:
    """Normal of the surface that reflects the beam into the middle of a detector, downstream.

    Raises:
        BadInput: the detector is in the beam.

    Example:
        >>> mirror_normal([[0, 0], [-1, 0], [0, 1]]).round(4).tolist()
        [-0.7071, 0.0, 0.7071]
    """
    normal = BEAM_DIRECTION - outgoing_direction(basis)
    if np.linalg.norm(normal) < MIN_GRAZING_SINE:
        raise BadInput("geometry.basis", None, "puts the detector in the beam: nothing is reflected there")
    return normal / np.linalg.norm(normal)


def grid_steps(basis: Numbers, pixel: tuple[float, float], normal: Numbers, /) -> Float[np.ndarray, "3 2"]:
    """Steps of rows and columns of the object's grid on the surface, angstrom.

    The grid conjugate to the detector lies across the outgoing direction, its pixels ``wavelength /
    (number x angle)`` wide; seen from the detector, the one on the surface looks the same.

    Raises:
        BadInput: the detector sees the surface from its edge.

    Example:
        >>> grid_steps([[0, -1], [-1, 0], [0, 0]], (2.0, 1.0), (0, 0.6, 0.8)).round(3).T.tolist()
        [[0.0, -2.0, 1.5], [-1.0, 0.0, 0.0]]
    """
    across = np.linalg.pinv(np.asarray(basis, np.float64)).T * np.asarray(pixel)
    return (
        _project_along(
            across.T, outgoing_direction(basis), np.asarray(normal, np.float64), "geometry.basis"
        ).T
        + 0.0
    )


def project_beam(
    beam: Float[np.ndarray, "n 3"], basis: Numbers, normal: Numbers, /
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Where beams meet the surface, and how far before that their optics stand.

    Args:
        beam: motion of the beam against the sample (x, y, z), angstrom.
        basis: unit vectors of the detector's rows and columns.
        normal: of the surface.

    Returns:
        Positions (row, column) as the detector sees them, one pixel per step of the grid of `grid_steps`, and
        heights: the beam's wave on the surface is that of its middle flown by ``-height``. For a sample
        across the beam these are the projections on ``basis`` and ``z``.

    Raises:
        BadInput: the beam runs along the surface.

    Example:
        >>> there = project_beam(np.array([[0.0, -3.0, 1.0]]), [[0, -1], [-1, 0], [0, 0]], (0, 0.6, 0.8))
        >>> [one.round(3).tolist() for one in there]
        [[[3.0, 0.0]], [-1.25]]
    """
    table = np.asarray(basis, np.float64)
    if tuple(normal) == (0, 0, 1):
        return beam @ table, beam[:, 2]
    there = _project_along(beam, BEAM_DIRECTION, np.asarray(normal, np.float64), "geometry.normal")
    return there @ table, (beam - there)[:, 2]


def restore_beam(
    positions: Float[np.ndarray, "n 2"],
    heights: Float[np.ndarray, " n"],
    basis: Numbers,
    normal: Numbers,
    /,
) -> Float[np.ndarray, "n 3"]:
    """Inverse of `project_beam`: motion of the beam against the sample (x, y, z).

    Example:
        >>> frame = [[0, -1], [-1, 0], [0, 0]], (0, 0.6, 0.8)
        >>> restore_beam(np.array([[3.0, 0.0]]), np.array([-1.25]), *frame).round(3).tolist()
        [[0.0, -3.0, 1.0]]
    """
    rows = np.asarray(basis, np.float64).T
    if tuple(normal) == (0, 0, 1):
        return np.linalg.solve(np.vstack([rows, BEAM_DIRECTION]), np.column_stack([positions, heights]).T).T
    there = np.column_stack([positions, np.zeros(len(positions))])
    return np.linalg.solve(np.vstack([rows, normal]), there.T).T + heights[:, None] * BEAM_DIRECTION + 0.0


def _project_along(points: np.ndarray, direction: np.ndarray, normal: np.ndarray, place: str) -> np.ndarray:
    """Points moved along a direction onto the plane through the origin."""
    sine = float(normal @ direction)
    if abs(sine) < MIN_GRAZING_SINE:
        fix = f"runs along the surface with the normal {normal.round(4).tolist()}: nothing can be projected"
        raise BadInput(place, direction.round(4).tolist(), fix)
    return points - np.outer(points @ normal / sine, direction)
