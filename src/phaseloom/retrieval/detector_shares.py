"""Shares of a detector's pixels in those of a network: scaled, turned, shifted, cut to a band of angles."""

import math

import numpy as np
import torch
from scipy import sparse

from phaseloom.physics.atoms import smooth_edge
from phaseloom.simulation.experiment import BAND_EDGE, BAND_TAPER, Experiment

__all__ = ["compute_band", "compute_overlaps", "compute_shares"]

POINTS_PER_PIXEL = 4  # along an edge of a pixel, on which the edge of the band is sampled
POINTS_PER_TURNED_PIXEL = 8  # along an edge of the wider of both pixels, for a detector that is turned


def compute_overlaps(many: int, few: int, ratio: float, offset: float = 0.0, /) -> np.ndarray:
    """Shares ``(few, many)`` of pixels in others ``ratio`` times as wide, zero at ``n // 2`` of both.

    Args:
        many: pixels that are shared out.
        few: pixels that get them.
        ratio: width of these.
        offset: pixels by which zero of the many lies beyond ``many // 2``.

    Example:
        >>> compute_overlaps(5, 3, 1.5).tolist()
        [[0.75, 0.75, 0.0, 0.0, 0.0], [0.0, 0.25, 1.0, 0.25, 0.0], [0.0, 0.0, 0.0, 0.75, 0.75]]
        >>> compute_overlaps(5, 1, 1.0, 0.5).tolist()
        [[0.0, 0.0, 0.5, 0.5, 0.0]]
    """
    coarse = ((np.arange(few) - few // 2) * ratio)[:, None]
    fine = (np.arange(many) - many // 2 - offset)[None]
    low = np.maximum(coarse - ratio / 2, fine - 0.5)
    return np.clip(np.minimum(coarse + ratio / 2, fine + 0.5) - low, 0, None)


def compute_shares(
    shape: tuple[int, int],
    experiment: Experiment,
    ratio: tuple[float, float],
    /,
    *,
    offset: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
) -> sparse.csr_array:
    """Shares ``(few, many)`` of the pixels of a detector, row by row, in those of an experiment's detector.

    Args:
        shape: of the detector.
        experiment: whose detector gets the counts.
        ratio: widths (y, x) of its pixels, in pixels of the detector.
        offset: (y, x) pixels by which zero angle lies beyond ``n // 2`` on the detector.
        rotation: of the experiment's axes against those of the detector, from rows towards columns.

    Example:
        >>> shares = compute_shares((30, 30), Experiment(), (1.0, 1.0))
        >>> shares.shape, float(shares.sum())
        ((576, 900), 576.0)
        >>> turned = compute_shares((30, 30), Experiment(), (1.0, 1.0), rotation=0.3)
        >>> round(float(turned[12 * 24 + 12].sum()), 2)
        1.0
    """
    few = experiment.detector_shape
    if rotation == 0.0:
        ways = zip(shape, few, ratio, offset, strict=True)
        rows, columns = (sparse.csr_array(compute_overlaps(*way)) for way in ways)
        return sparse.csr_array(sparse.kron(rows, columns, format="csr"))
    points = max(2, math.ceil(POINTS_PER_TURNED_PIXEL / min(*ratio, POINTS_PER_TURNED_PIXEL / 2)))
    part = (np.arange(points) + 0.5) / points - 0.5
    axes = [
        ((np.arange(n)[:, None] + part).ravel() - n // 2 - off) / size
        for n, off, size in zip(shape, offset, ratio, strict=True)
    ]
    y, x = np.meshgrid(*axes, indexing="ij")
    cosine, sine = math.cos(rotation), math.sin(rotation)
    row = np.floor(cosine * y + sine * x + 0.5).astype(int) + few[0] // 2
    column = np.floor(cosine * x - sine * y + 0.5).astype(int) + few[1] // 2
    line, along = (np.repeat(np.arange(n), points) for n in shape)
    source = line[:, None] * shape[1] + along
    inside = (row >= 0) & (row < few[0]) & (column >= 0) & (column < few[1])
    target = (row * few[1] + column)[inside]
    share = np.full(len(target), 1.0 / points**2)
    size = (math.prod(few), math.prod(shape))
    return sparse.csr_array(sparse.coo_array((share, (target, source[inside])), shape=size))


def compute_band(
    shape: tuple[int, int],
    experiment: Experiment,
    ratio: tuple[float, float] = (1.0, 1.0),
    /,
    *,
    offset: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Shares ``(y, x)`` of pixels that lie within the band of an experiment's waves.

    Patterns of a simulation end there, so a network trained on them has seen nothing of larger angles. What
    it sees of a detector that reaches farther has to end there too.

    Args:
        shape: of the detector.
        experiment: that was simulated.
        ratio: widths (y, x) of its detector pixels, in pixels of the detector.
        offset: (y, x) pixels by which zero angle lies beyond ``n // 2``.

    Example:
        >>> band = compute_band((24, 24), Experiment())
        >>> float(band[12, 12]), float(band[12, 0]), bool(0 < band[12, 1] < 1)
        (1.0, 0.0, True)
    """
    part = (np.arange(POINTS_PER_PIXEL) + 0.5) / POINTS_PER_PIXEL - 0.5
    nyquist = 0.5 * experiment.wavelength / experiment.spacing / experiment.angle
    y, x = (
        ((np.arange(n)[:, None] + part).ravel() - n // 2 - off) / size
        for n, off, size in zip(shape, offset, ratio, strict=True)
    )
    away = torch.from_numpy(np.hypot(y[:, None], x) / nyquist)
    fine = smooth_edge(away, BAND_EDGE - BAND_TAPER, BAND_TAPER).square().numpy()
    blocks = fine.reshape(shape[0], POINTS_PER_PIXEL, shape[1], POINTS_PER_PIXEL)
    return blocks.mean((1, 3))
