"""Reconstructions of halves of the data, or of two scans, made comparable: trends removed, laid on another.

A phase ramp and an exponential growth of the object across the field go to the probe (growth to the weights
of the shots as well) without a change of any pattern. Here both are taken from the object itself, inside a
window where it is to be trusted; `ensembles.standardise` takes the ramp from the probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import _find_peak, find_shift, shift_image

__all__ = ["StandardSet", "find_phase_slope", "fit_growth", "standardise_set", "trade_trends"]

Pair = tuple[float, float]


@dataclass(frozen=True, eq=False)
class StandardSet:
    """Reconstructions of one scene in one gauge and one place.

    Attributes:
        objects: ``(y, x)`` each.
        probes: each shaped as it came; they give up ramp and growth but are not moved.
        growths: (y, x) that was taken from each object, 1 / pixel.
        shifts: (y, x) pixels by which each object was moved.
    """

    objects: tuple[np.ndarray, ...]
    probes: tuple[np.ndarray, ...]
    growths: tuple[Pair, ...]
    shifts: tuple[Pair, ...]


def find_phase_slope(object: ArrayLike, /) -> Pair:
    """Phase step (y, x) per pixel, radian, of the plane wave that an object holds most of.

    The highest peak of the Fourier transform, found anywhere (ramps may wrap) and refined to the digits
    that a maximum has, about 1e-5 of a Fourier pixel.

    Args:
        object: ``(y, x)``, complex; most of it near one phase once the ramp is gone.

    Raises:
        BadInput: not an image, or nothing in it.

    Example:
        >>> y, x = np.mgrid[:20, :31]
        >>> [round(step, 5) for step in find_phase_slope(np.exp(1j * (0.7 * y - 2.5 * x)))]
        [0.7, -2.5]
    """
    from scipy.optimize import minimize

    values = _check_image("phase_slope", object).astype(complex)
    values = values / np.abs(values).sum()
    peak = _find_peak(np.fft.ifftshift(values), None, signed=False)
    unit = [2 * np.pi / size for size in values.shape]

    def missing(place: np.ndarray) -> float:
        rows, columns = (
            np.exp(1j * p * u * np.arange(size)) for p, u, size in zip(place, unit, values.shape, strict=True)
        )
        return 1 - float(abs(rows @ values @ columns) ** 2)

    place = minimize(missing, peak, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-15}).x
    y, x = (float(-p * u) for p, u in zip(place, unit, strict=True))
    return y, x


def fit_growth(object: ArrayLike, /) -> Pair:
    """Rate (y, x) per pixel of the exponential ``c exp(g . r)`` nearest to the modulus, least squares.

    Args:
        object: ``(y, x)``, real or complex.

    Raises:
        BadInput: not an image, or nothing in it.

    Example:
        >>> y, x = np.mgrid[:20, :31]
        >>> [round(rate, 6) for rate in fit_growth(3 * np.exp(0.02 * y - 0.01 * x + 1j * y))]
        [0.02, -0.01]
    """
    from scipy.optimize import least_squares

    size = np.abs(_check_image("growth", object)).astype(float)
    size = size / size.max()
    axes = [np.arange(n) / max(n - 1, 1) for n in size.shape]
    place = np.stack([np.ones(size.size), *(a.ravel() for a in np.meshgrid(*axes, indexing="ij"))], 1)
    level = np.log(np.maximum(size.ravel(), 1e-6))
    start = np.linalg.lstsq(place * size.ravel()[:, None], level * size.ravel(), rcond=None)[0]

    def evaluate(rates: np.ndarray) -> np.ndarray:
        return np.exp(np.minimum(place @ rates, 50.0))

    def differentiate(rates: np.ndarray) -> np.ndarray:
        return place * evaluate(rates)[:, None]

    jac: Any = differentiate
    found = least_squares(lambda rates: evaluate(rates) - size.ravel(), start, jac).x
    y, x = (float(rate / max(n - 1, 1)) for rate, n in zip(found[1:], size.shape, strict=True))
    return y, x


def trade_trends(
    object: ArrayLike, probe: ArrayLike, /, *, slope: Pair = (0.0, 0.0), rate: Pair = (0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Take a ramp and a growth from the object and give them to the probe.

    The object is multiplied by ``exp(-(rate + i slope) . r)`` and the probe by its inverse, ``r`` from
    pixel [0, 0]. A shot at pixel ``p`` keeps its pattern if its exit wave is multiplied by
    ``exp(rate . p)`` (its weight, where there are weights).

    Args:
        object: ``(..., y, x)``, complex.
        probe: ``(..., y, x)``, complex.
        slope: radian per pixel (y, x).
        rate: 1 / pixel (y, x).

    Example:
        >>> object, probe = trade_trends(np.ones((4, 5)), np.ones((3, 3)), slope=(0.1, 0.2), rate=(0.3, 0.0))
        >>> bool(np.allclose(object[1:4, 2:5] * probe, np.exp(-0.3 - 0.1j - 0.4j)))
        True
    """
    step = [complex(g, s) if any(slope) else g for g, s in zip(rate, slope, strict=True)]

    def multiply_trend(values: np.ndarray, sign: int) -> np.ndarray:
        rows, columns = (sign * np.arange(n) * s for n, s in zip(values.shape[-2:], step, strict=True))
        kind = np.result_type(values, np.complex64 if any(slope) else np.float32)
        return (values * np.exp(np.add.outer(rows, columns))).astype(kind)

    return multiply_trend(np.asarray(object), -1), multiply_trend(np.asarray(probe), 1)


def standardise_set(
    reconstructions: Sequence[tuple[ArrayLike, ArrayLike]],
    /,
    *,
    reference: int = -1,
    window: Any = np.s_[:, :],
    ramp: bool = True,
    grown: bool = False,
    phase: bool = True,
) -> StandardSet:
    """Several reconstructions without trends, laid on one of them, ready for a Fourier correlation.

    Slope and growth of each object are found in the window and go to its probe; the sum over the window
    gets phase zero; then each object is moved onto the reference to 0.01 pixel. The complex objects are
    compared, so a phase object does as well as an absorbing one.

    Args:
        reconstructions: pairs of object ``(y, x)`` and probe ``(..., y, x)``; objects of one shape.
        reference: which of them the others are laid on.
        window: slices of the object, where it is to be trusted.
        ramp: remove the phase ramp.
        grown: remove the exponential growth.
        phase: remove the constant phase.

    Raises:
        BadInput: none, shapes differ, or the window holds nothing.

    Example:
        >>> y, x = np.mgrid[:40, :42]
        >>> object, probe = np.exp(1j * np.cos(x) * np.sin(y / 2)), np.ones((8, 8))
        >>> found = standardise_set([(object * np.exp(1 + 0.2j * y), probe), (object, probe)])
        >>> bool(np.allclose(found.objects[0], np.e * found.objects[1], atol=1e-3))
        True
    """
    pairs = [(np.asarray(object), np.asarray(probe)) for object, probe in reconstructions]
    if len({object.shape for object, _ in pairs}) != 1:
        raise BadInput("standard_set", len(pairs), "reconstructions must be at least one, all of one shape")
    none: Pair = (0.0, 0.0)
    slopes = [find_phase_slope(object[window]) if ramp else none for object, _ in pairs]
    rates = [fit_growth(object[window]) if grown else none for object, _ in pairs]
    even = [trade_trends(*p, slope=s, rate=r) for p, s, r in zip(pairs, slopes, rates, strict=True)]
    if phase:
        even = [(object * np.exp(-1j * np.angle(object[window].sum())), probe) for object, probe in even]
    fixed = even[reference][0]
    shifts: list[Pair] = [
        none if object is fixed else find_shift(object[window], fixed[window], rounds=3) for object, _ in even
    ]
    objects = [o if o is fixed else shift_image(o, s) for (o, _), s in zip(even, shifts, strict=True)]
    return StandardSet(tuple(objects), tuple(probe for _, probe in even), tuple(rates), tuple(shifts))


def _check_image(place: str, object: ArrayLike) -> np.ndarray:
    values = np.asarray(object)
    if values.ndim != 2 or not values.any() or not np.isfinite(values).all():
        raise BadInput(place, values.shape, "must be a finite image (y, x) with something in it")
    return values
