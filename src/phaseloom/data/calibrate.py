"""The bright-field disk of a convergent beam: its size in pixels tells what angle a pixel sees."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phaseloom.data.counts import Counts, compute_mean
from phaseloom.errors import BadInput

__all__ = ["Disk", "fit_disk", "half_maximum_radius", "mean_for_disk"]

MAX_PATTERNS_FOR_DISK = 500
MAX_VALUES_OF_SMALL_SCAN = 2**22
"""Patterns that show a disk, and values of a scan all of which are read."""

RIM_SECTORS = 16
"""Pieces of the rim that are left out in turn; their disagreement is the uncertainty."""

INNER_RADIUS = 0.6
OUTER_RADIUS = 1.4
"""The ring around the rim that is fitted, in radii of the disk."""

MODEL_ERROR = 0.01
"""Pixels by which a radius errs at least: noiseless disks with a sharp rim were off by so much."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Disk:
    """A disk as a pattern shows it; lengths in detector pixels, each with its standard error.

    Attributes:
        radius: mean of the half axes.
        radius_error: standard error.
        centre: (y, x).
        centre_error: standard errors (y, x).
        width: standard deviation of the rim's blur.
        distortion: half the difference of the half axes over their mean: 0 for a circle.
        distortion_error: standard error.
        axis: direction of the long axis in radian, from the row axis towards the column axis.
    """

    radius: float
    radius_error: float
    centre: tuple[float, float]
    centre_error: tuple[float, float]
    width: float
    distortion: float
    distortion_error: float
    axis: float

    @property
    def clear(self) -> bool:
        """Whether there clearly is one: a sharp rim, round."""
        return self.width < 0.15 * self.radius and self.distortion < 0.1

    def off(self, shape: tuple[int, ...], /) -> tuple[float, float]:
        """Pixels (y, x) by which it lies off ``[N // 2, N // 2]``; zero where that is within its error."""
        y, x = (middle - n // 2 for middle, n in zip(self.centre, shape, strict=True))
        sure = max(abs(y), abs(x)) >= max(0.4, 3 * max(self.centre_error))
        return (y, x) if sure else (0.0, 0.0)


def fit_disk(mean: np.ndarray, /, *, mask: np.ndarray | None = None) -> Disk:
    """Fit an elliptic disk with a blurred rim to a mean pattern.

    Inside and outside may vary smoothly (a polynomial each); only the rim decides. The errors are those
    of a jackknife over sixteen sectors of the rim, so they hold for counting noise as for whatever else
    makes the rim uneven, such as diffraction from the specimen. A texture that is the same all
    around is not seen by it. That of the radius also holds how far a rim moves by what blurs it: the spread
    of a detector moves a curved rim inwards by ``width^2 / (2 radius)``, which the fit takes back, the soft
    edge of an aperture does not, and patterns do not tell which it is (`benchmarks.calibration_errors`).

    Args:
        mean: ``(y, x)`` mean pattern.
        mask: True where a pixel can be trusted.

    Raises:
        BadInput: no disk that lies well within the detector.

    Example:
        >>> y, x = np.indices((40, 41))
        >>> disk = fit_disk(1.0 * (np.hypot(y - 20.3, x - 19.5) < 9.2))
        >>> bool(abs(disk.radius - 9.2) < 0.1), bool(abs(disk.centre[0] - 20.3) < 0.1)
        (True, True)
    """
    mean = np.asarray(mean, np.float64)
    good = np.isfinite(mean) & (True if mask is None else mask)
    return _fit_trusted(mean.shape, np.where(good, mean, 0.0).tobytes(), good.tobytes())


def mean_for_disk(counts: Counts, /) -> np.ndarray:
    """Mean pattern in which a disk is looked for: of some patterns, of all of a small scan.

    Whoever reads all patterns then asks `fit_disk` for the same disk, which is fitted once.

    Args:
        counts: of which at most `MAX_PATTERNS_FOR_DISK` are read, or `MAX_VALUES_OF_SMALL_SCAN` values.
    """
    most = MAX_VALUES_OF_SMALL_SCAN // math.prod(counts.shape[1:])
    return compute_mean(counts, most=max(MAX_PATTERNS_FOR_DISK, most))


@lru_cache(maxsize=16)
def _fit_trusted(shape: tuple[int, ...], values: bytes, trusted: bytes) -> Disk:
    """`fit_disk` of the bytes of its arrays: a calibration asks for the same disk many times."""
    mean = np.frombuffer(values, np.float64).reshape(shape)
    good = np.frombuffer(trusted, bool).reshape(shape)
    start = _first_guess(mean, good)
    rim = _Rim.of(mean, good, start)
    best = rim.fit(start)
    rim = _Rim.of(mean, good, best)
    best = rim.fit(best)
    rim.check(best, mean.shape)
    error = rim.errors(best)
    radius, y, x, first, second, width = _unpack_fit(best)
    return Disk(
        radius=radius,
        radius_error=math.hypot(error[0], _bend_rim(width, radius), MODEL_ERROR),
        centre=(y, x),
        centre_error=(error[1], error[2]),
        width=width,
        distortion=math.hypot(first, second),
        distortion_error=math.hypot(error[3], error[4]) / math.sqrt(2),
        axis=0.5 * math.atan2(second, first),
    )


def half_maximum_radius(mean: np.ndarray, /) -> float:
    """Radius in pixels of a circle with the area in which a mean pattern exceeds half its maximum.

    Example:
        >>> y, x = np.indices((40, 40))
        >>> round(half_maximum_radius(1.0 * (np.hypot(y - 20, x - 20) < 9)), 1)
        8.9
    """
    return math.sqrt(float((mean > mean.max() / 2).sum()) / math.pi)


@dataclass(frozen=True)
class _Rim:
    """Pixels around the rim of a disk: where they are and what they hold."""

    y: Floats
    x: Floats
    counts: Floats
    sector: NDArray[np.int64]

    @classmethod
    def of(cls, mean: Floats, good: NDArray[np.bool_], about: Floats) -> "_Rim":
        axes: Floats = np.indices(mean.shape).astype(np.float64)
        y = axes[0]
        x = axes[1]
        away = np.hypot(y - about[1], x - about[2]) / about[0]
        here = good & (away > INNER_RADIUS) & (away < OUTER_RADIUS)
        turn = np.arctan2(x[here] - about[2], y[here] - about[1]) / (2 * np.pi)
        sector = (np.floor(turn * RIM_SECTORS).astype(np.int64)) % RIM_SECTORS
        scale = max(float(mean[here].max(initial=0.0)), 1e-300)
        return cls(y[here], x[here], mean[here] / scale, sector)

    def errors(self, best: Floats) -> list[float]:
        """Standard errors by leaving out one sector after the other."""
        parameters = np.array([_unpack_fit(self.without(number).fit(best)) for number in range(RIM_SECTORS)])
        return (np.sqrt(RIM_SECTORS - 1) * parameters.std(axis=0)).tolist()

    def without(self, number: int) -> "_Rim":
        """The rim without one sector."""
        keep = self.sector != number
        return _Rim(self.y[keep], self.x[keep], self.counts[keep], self.sector[keep])

    def fit(self, start: Floats) -> Floats:
        """Radius, centre (y, x), two terms of distortion and log of the width, by least squares."""
        from scipy.optimize import least_squares

        if len(self.counts) < 40:
            raise BadInput("calibrate", None, "finds no disk: too few pixels lie around its rim")
        models: dict[bytes, _RimModel] = {}

        def model(values: Floats) -> "_RimModel":
            key = values.tobytes()
            if key not in models:
                models.clear()
                models[key] = _RimModel.of(self, values)
            return models[key]

        return least_squares(
            lambda values: model(values).rest,
            start,
            jac=lambda values: model(values).slopes(),  # pyright: ignore[reportArgumentType]
            x_scale=[1, 1, 1, 0.02, 0.02, 0.5],
            max_nfev=200,
        ).x

    def check(self, found: Floats, shape: tuple[int, ...]) -> None:
        """Refuse what cannot be a disk: beyond the detector, or with a rim that is none."""
        radius, y, x, *_, width = _unpack_fit(found)
        room = min(y, x, shape[0] - 1 - y, shape[1] - 1 - x)
        inside = np.hypot(self.y - y, self.x - x) < radius
        both = inside.any() and not inside.all()
        step = self.counts[inside].mean() - self.counts[~inside].mean() if both else 0.0
        if not (2 <= radius <= room + 1 and width < 0.5 * radius and step > 0.1):
            fix = "is not a disk within the detector: give the angle of a pixel instead"
            raise BadInput("calibrate", f"a radius of {radius:.4g} pixels", fix)


@dataclass(frozen=True, eq=False)
class _RimModel:
    """What a disk explains of the pixels around its rim.

    Attributes:
        rest: counts that smooth levels inside and outside of the rim cannot explain.
        basis: ``(pixel, level)`` what the levels may be.
        normal: ``basis^T basis``, with a little on its diagonal.
        step: by which the levels inside exceed those outside, at each pixel.
        rim: slope of the share of a pixel that lies inside, in each of the numbers of the disk.
    """

    rest: Floats
    basis: Floats
    normal: Floats
    step: Floats
    rim: Floats

    @classmethod
    def of(cls, ring: _Rim, values: Floats) -> "_RimModel":
        from scipy.special import erfc

        radius, y, x, first, second, width = _unpack_fit(values)
        v = (ring.y - y) / radius
        u = (ring.x - x) / radius
        away = np.maximum(np.hypot(v, u), 1e-9)
        cosine = (v**2 - u**2) / away**2
        sine = 2 * u * v / away**2
        edge = 1 + (first * cosine + second * sine)
        distance = (away - edge) * radius + _bend_rim(width, radius)
        depth = distance / (width * math.sqrt(2))
        inside = 0.5 * erfc(depth)
        terms = np.stack([np.ones_like(v), v, u, v * v, u * v, u * u])
        basis = np.concatenate([terms * inside, terms[:3] * (1 - inside)]).T
        normal = basis.T @ basis
        normal += 1e-12 * np.trace(normal) * np.eye(9)
        heights = np.linalg.solve(normal, basis.T @ ring.counts)
        turn = 2 * (second * cosine - first * sine) / away**2  # of the edge with the direction
        along_y = -v / away - turn * u
        along_x = -u / away + turn * v
        along_radius = math.copysign(1.0, values[0]) * (-edge - width**2 / (2 * radius**2))
        along_width = (width / radius - distance / width) * (width - 0.25) * (values[5] < 5.0)
        moves = np.stack([along_radius, along_y, along_x, -radius * cosine, -radius * sine, along_width])
        rim = -np.exp(-(depth**2)) / (math.sqrt(2 * math.pi) * width) * moves
        step = heights[:6] @ terms - heights[6:] @ terms[:3]
        return cls(ring.counts - basis @ heights, basis, normal, step, rim.T)

    def slopes(self) -> Floats:
        """Slopes of the rest in the numbers of the disk, as if the levels stood still where they can follow.

        Levels are fitted, so of a change only what they cannot take up is left (variable projection, L.
        Kaufman 1975, doi 10.1007/BF01932995). That they are polynomials of places in units of the disk does
        not matter: its moves take one such polynomial to another.
        """
        change = -self.step[:, None] * self.rim
        return change - self.basis @ np.linalg.solve(self.normal, self.basis.T @ change)


def _bend_rim(width: float, radius: float) -> float:
    """By how much a blur in two dimensions moves a curved rim inwards."""
    return width**2 / (2 * radius)


def _unpack_fit(values: Floats) -> tuple[float, float, float, float, float, float]:
    """Radius, centre, distortions and width; the rim of a pixelled disk is never sharper than a pixel."""
    radius, y, x, first, second, width = (float(value) for value in values)
    return abs(radius), y, x, first, second, 0.25 + math.exp(min(width, 5.0))


def _label(image: Any) -> tuple[NDArray[np.int64], int]:
    from scipy.ndimage import label

    found: Any = label(image)
    return found


def _find_holes(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bad pixels that hang together and do not reach the edge of the detector."""
    parts, _ = _label(bad)
    rim = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return bad & ~np.isin(parts, rim[rim > 0])


def _first_guess(mean: Floats, good: NDArray[np.bool_]) -> Floats:
    """Area and middle of what exceeds half of a typical bright pixel, holes and specks mended."""
    from scipy.ndimage import binary_fill_holes, median_filter

    smooth: Floats = median_filter(mean, 3)
    if not smooth.max() > 0:
        raise BadInput("calibrate", None, "finds no disk: the mean pattern is dark")
    bright: NDArray[np.bool_] = smooth > 0.5 * np.median(smooth[smooth > 0.5 * np.percentile(smooth, 99.9)])
    parts, count = _label(binary_fill_holes(bright | _find_holes(~good)))
    sizes = [float(smooth[parts == number].sum()) for number in range(1, count + 1)]
    body = parts == 1 + int(np.argmax(sizes)) if sizes else bright
    places = np.argwhere(body).mean(axis=0)
    return np.array([math.sqrt(body.sum() / math.pi), *places.tolist(), 0.0, 0.0, math.log(0.5)])
