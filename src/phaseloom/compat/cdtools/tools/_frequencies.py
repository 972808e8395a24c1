"""Curves over spatial frequency in CDTools' bins, on `phaseloom.metrics.spectral`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from phaseloom.compat.cdtools.tools._shared import alike, middle, plain, steps_of, tensor
from phaseloom.errors import BadInput
from phaseloom.metrics import spectral

__all__ = [
    "calc_consistency_prtf",
    "calc_deconvolved_cross_correlation",
    "calc_frc",
    "calc_generalized_frc",
]

Curve = tuple[Any, Any, Any]


def calc_frc(  # noqa: PLR0917 -- CDTools' arguments
    im1: Any,
    im2: Any,
    basis: Any,
    im_slice: Any = None,
    nbins: int | None = None,
    snr: float = 1.0,
    limit: str = "side",
) -> Curve:
    """Complex Fourier ring correlation of two images in bands of equal width.

    Args:
        im1: ``(y, x)``.
        im2: the same shape.
        basis: of the images, ``(xyz, 2)``.
        im_slice: what of them to compare; default: all.
        nbins: how many bands; default: an eighth of the longer side.
        snr: of the threshold.
        limit: ``"side"`` or ``"corner"`` of the Fourier plane.

    Returns:
        Lower edges of the bands, correlation (NaN in an empty band), threshold.
    """
    cut = np.s_[:, :] if im_slice is None else im_slice
    one, two = plain(im1)[cut], plain(im2)[cut]
    parts = _bands(one, basis, nbins or max(one.shape) // 8, limit)
    found = spectral.band_correlation(one, two, parts)
    curve = (parts.edges[:-1], found, spectral.snr_threshold(parts.counts, snr))
    edges, found, threshold = (alike(values, im1, im2) for values in curve)
    return edges, found, threshold


def calc_generalized_frc(  # noqa: PLR0917 -- CDTools' arguments
    fields_1: Any,
    fields_2: Any,
    basis: Any,
    im_slice: Any = None,
    nbins: int | None = None,
    snr: float = 1.0,
    limit: str = "side",
) -> Curve:
    """`calc_frc` of two sets of incoherent modes ``(mode, y, x)``: root of the fidelity in each band.

    The threshold is that of `calc_frc` (CDTools writes ``2 snr`` for ``2 sqrt(snr)`` here), the last band
    holds its upper edge, and ``nbins`` has the default a quarter of the longer side, which fails there.
    """
    cut = np.s_[..., :, :] if im_slice is None else im_slice
    one, two = plain(fields_1)[cut], plain(fields_2)[cut]
    parts = _bands(one, basis, nbins or max(one.shape[-2:]) // 4, limit)
    found = spectral.band_fidelity(one, two, parts)
    curve = (parts.edges[:-1], found, spectral.snr_threshold(parts.counts, snr))
    edges, found, threshold = (alike(values, fields_1, fields_2) for values in curve)
    return edges, found, threshold


def calc_consistency_prtf(
    synth_obj: Any, objects: Sequence[Any], basis: Any, obj_slice: Any = None, nbins: int | None = None
) -> tuple[Any, Any]:
    """Power of a mean object over that of each single one in bands up to the corner, averaged over objects.

    A ratio of intensities; `phaseloom.metrics.ensembles.prtf` is the usual one, of magnitudes.

    Returns:
        Lower edges of the bands and the ratio, NaN in an empty band.
    """
    cut = middle(objects[0].shape) if obj_slice is None else obj_slice
    mean = plain(synth_obj)[cut]
    parts = _bands(mean, basis, nbins or max(mean.shape) // 4, "corner")
    wanted, *single = (
        parts.total(np.abs(np.fft.fft2(image)) ** 2) for image in (mean, *(plain(o)[cut] for o in objects))
    )
    lit = [np.where(power > 0, power, np.nan) for power in single]
    ratio = np.mean([wanted / power for power in lit], axis=0)
    return alike(parts.edges[:-1], objects[0]), alike(ratio, objects[0])


def calc_deconvolved_cross_correlation(im1: Any, im2: Any, im_slice: Any = None) -> Any:
    """Phase correlation ``(y, x)``, complex, zero shift in the corner: its peak lays the second on the first.

    Frequencies that one image does not hold count nothing; CDTools divides zero by zero there.

    Args:
        im1: ``(y, x)``.
        im2: the same shape.
        im_slice: what of them to compare; default: the middle quarter.
    """
    cut = middle(im1.shape) if im_slice is None else im_slice
    first, second = (torch.fft.fft2(tensor(im)[cut]) for im in (im1, im2))
    cross = first * second.conj()
    size = cross.abs()
    even = torch.where(size > 0, cross / torch.where(size > 0, size, 1), torch.zeros_like(cross))
    return alike(torch.fft.ifft2(even), im1, im2)


def _bands(image: np.ndarray, basis: Any, count: int, limit: str) -> spectral.Bands:
    limit = str(limit).lower().strip()
    if limit not in ("side", "corner"):
        raise BadInput("calc_frc.limit", limit, "is unknown: write side or corner")
    y, x = image.shape[-2:]
    return spectral.bands((y, x), count=int(count), pixel=steps_of(basis), limit=limit)
