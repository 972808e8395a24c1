"""Reciprocal lattices: the reduced basis, the lattice of some peaks, and the symmetry of its metric.

A basis is ``(2, 2)``: its columns are two vectors (row, column) in pixels of the detector.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

__all__ = ["build_turn", "find_lattice", "list_orders", "list_symmetries", "measure_turn", "reduce_basis"]
__all__ += ["select_common_lattice"]

MAX_PEAKS = 24  # that a lattice must explain
MAX_PEAKS_OF_PAIRS = 10  # the nearest of them, that pairs are tried of
MIN_ANGLE = 0.35  # sine of the angle of two vectors that span a lattice
MIN_HITS = 5
MAX_FLAW = 0.06  # of a basis that is turned into itself: strain that hides a symmetry
METRIC_TOLERANCE = 0.04
COST_OF_MISS = 3.0


def build_turn(degrees: float, /) -> np.ndarray:
    """The matrix on (row, column) that turns from columns (x) towards rows (y), clockwise on a screen."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, s], [-s, c]])


def measure_turn(matrix: np.ndarray, /) -> np.ndarray:
    """Degrees of matrices ``(..., 2, 2)``, of the rotation that is nearest to them."""
    return np.degrees(
        np.arctan2(matrix[..., 0, 1] - matrix[..., 1, 0], matrix[..., 0, 0] + matrix[..., 1, 1])
    )


def reduce_basis(basis: np.ndarray, /) -> np.ndarray:
    """The two shortest vectors of a lattice (Gauss), at 60 to 120 degrees, the second one clockwise.

    Example:
        >>> reduce_basis(np.array([[0.0, 5.0], [4.0, 9.0]])).tolist()
        [[0.0, 5.0], [4.0, 1.0]]
    """
    a, b = basis.T
    while True:
        if a @ a > b @ b:
            a, b = b, a
        turns = round(float(a @ b) / float(a @ a))
        if turns == 0:
            break
        b = b - turns * a
    # (row, column): the determinant of (x, y) is that of (column, row)
    return np.stack([a, b if a[1] * b[0] - a[0] * b[1] > 0 else -b], 1)


def list_orders(basis: np.ndarray, reach: float, /) -> np.ndarray:
    """Orders ``(m, 2)`` of all lattice points within a distance, without zero, the nearest first."""
    most = int(np.ceil(reach * np.abs(np.linalg.inv(basis)).sum(1).max())) + 1
    orders = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    length = np.linalg.norm(orders @ basis.T, axis=1)
    kept = np.argsort(length, kind="stable")
    return orders[kept][(length[kept] > 0) & (length[kept] <= reach)]


def find_lattice(places: np.ndarray, /, *, tolerance: float, least: float) -> tuple[np.ndarray, float] | None:
    """The lattice about zero that explains peaks at best, and by how much more than chance.

    Each pair of the nearest peaks is tried as a basis. A peak near a lattice point counts by the odds that it
    is there by chance, so a denser lattice must explain more peaks.

    Args:
        places: ``(m, 2)`` from the direct beam, pixels, the strongest first.
        tolerance: pixels between a peak and its lattice point.
        least: length of the shortest vector.

    Returns:
        A reduced basis, fitted to its peaks; ``None`` where no lattice explains five of them.
    """
    best: tuple[np.ndarray, float] | None = None
    few = places[:MAX_PEAKS]
    few = few[np.linalg.norm(few, axis=1) > least]
    nearest = few[np.argsort(np.linalg.norm(few, axis=1), kind="stable")[:MAX_PEAKS_OF_PAIRS]]
    for first, second in combinations(nearest, 2):
        basis = np.stack([first, second], 1)
        lengths = np.linalg.norm(basis, axis=0)
        if abs(np.linalg.det(basis)) < MIN_ANGLE * lengths.prod():
            continue
        basis = reduce_basis(basis)
        if np.linalg.norm(basis[:, 0]) < least:
            continue
        hit = np.zeros(len(few), bool)
        for _ in range(2):
            orders = np.rint(few @ np.linalg.inv(basis).T)
            hit = (np.linalg.norm(few - orders @ basis.T, axis=1) < tolerance) & orders.any(1)
            basis = np.linalg.lstsq(orders[hit], few[hit], rcond=None)[0].T
        hits = int(hit.sum())
        chance = np.pi * tolerance**2 / abs(np.linalg.det(basis))
        if hits < MIN_HITS or chance >= 0.5:
            continue
        gain = float(hits * -np.log(chance) - COST_OF_MISS * (len(few) - hits))
        if best is None or gain > best[1] + 1e-9:
            best = (reduce_basis(basis), gain)
    return best


def select_common_lattice(found: list[tuple[np.ndarray, float]], /) -> np.ndarray:
    """Of lattices with their weights the basis whose lengths and angle most of them share.

    Lattices may be turned against each other. The orientation is that of the most supported one.
    """
    metrics = np.array([_measure_metric(basis) for basis, _ in found])
    weights = np.array([weight for _, weight in found])
    scale = metrics[:, :2].mean(1)
    alike = np.abs(metrics[:, None] - metrics).max(-1) < 2 * METRIC_TOLERANCE * scale[:, None]
    best = int((alike @ weights).argmax())
    mean = np.average(metrics[alike[best]], axis=0, weights=weights[alike[best]])
    a, b, mixed = np.sqrt(mean[0]), np.sqrt(mean[1]), mean[2]
    gamma = np.arccos(np.clip(mixed / (a * b), -1, 1))
    basis = np.array([[0.0, b * np.sin(gamma)], [a, b * np.cos(gamma)]])
    return build_turn(float(measure_turn(found[best][0] @ np.linalg.inv(basis)))) @ basis


def list_symmetries(basis: np.ndarray, /) -> np.ndarray:
    """Integer matrices ``(m, 2, 2)`` that relabel a lattice after a rotation into itself, with 180 degrees.

    Two for an oblique lattice, four for a square one, six for a hexagonal one; small strain does not count.

    Example:
        >>> [len(list_symmetries(np.array(one))) for one in ([[0, 4.0], [5.0, 1]], [[0, 4.1], [4.0, 0]])]
        [2, 4]
    """
    numbers = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 4, indexing="ij"), -1).reshape(-1, 2, 2)
    numbers = numbers[np.rint(np.linalg.det(numbers)) == 1]
    moved = basis @ numbers @ np.linalg.inv(basis)
    turns = np.stack([build_turn(float(one)) for one in measure_turn(moved)])
    return numbers[np.abs(moved - turns).max((1, 2)) < MAX_FLAW]


def _measure_metric(basis: np.ndarray) -> tuple[float, float, float]:
    """Squares of the lengths, and the scalar product without a sign: obtuse and acute are one lattice."""
    a, b = basis.T
    return float(a @ a), float(b @ b), float(a @ b)
