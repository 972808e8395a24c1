"""Transforms of the counts: what is trusted, how counts are scaled, blurred or drawn."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from phaseloom.data.bad_pixels import find_bad_pixels
from phaseloom.data.counts import Counts, compute_counts, map_counts, split_indices
from phaseloom.data.prepare._shared import float_dtype, require_number
from phaseloom.data.prepare._shared import make_example as _example  # noqa: F401 - for the examples
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.units import Length

__all__ = ["detector_blur", "mask", "nonnegative", "normalise", "poisson", "source_size", "thin"]


def mask(
    scan: Scan4D,
    /,
    *,
    path: Path | None = None,
    mask_ones: Literal["good", "bad"] | None = None,
    saturated: float | None = None,
    radius: float | None = None,
    beamstop: float | None = None,
    outliers: bool = False,
    gaps: bool = False,
) -> Scan4D:
    """Mark more pixels as not to be trusted.

    Args:
        scan: the scan.
        path: an ``.npy``, ``.csv`` or ``.txt`` file ``(y, x)``, not zero where a pixel is good.
        mask_ones: what the pixels are that are not zero in that file; default: as for ``mask`` of a reader.
        saturated: pixels that reach this many counts in any pattern.
        radius: pixels farther than this from zero frequency, in pixels.
        beamstop: pixels nearer than this to zero frequency, in pixels.
        outliers: hot and dead pixels, found from the counts (`phaseloom.data.bad_pixels`), those in ``gaps``
            among them.
        gaps: whole rows, columns and connected areas without a count between pixels that have many.

    Raises:
        BadInput: a file that does not fit, or no pixel left.

    Example:
        >>> int(mask(_example(), radius=1).mask.sum())
        5
    """
    good = scan.mask.copy()
    if path is not None:
        good &= _read_mask(path, scan, mask_ones)
    if saturated is not None:
        good &= _find_highest_counts(scan) < saturated
    y, x = (np.arange(n) - n // 2 for n in scan.geometry.shape)
    away = np.hypot(y[:, None], x[None, :])
    if radius is not None:
        good &= away <= radius
    if beamstop is not None:
        good &= away >= beamstop
    if outliers or gaps:
        found = find_bad_pixels(scan)
        good &= found.mask if outliers else ~found.gaps
    if not good.any():
        raise BadInput("mask", None, "leaves no pixel: loosen saturated, radius or beamstop")
    return replace(scan, mask=good)


def _read_mask(path: Path, scan: Scan4D, ones: Literal["good", "bad"] | None) -> np.ndarray:
    from phaseloom.data.formats.quantities.masks import interpret_mask
    from phaseloom.data.formats.quantities.tables import read_table

    stored = read_table(Path(path))
    place = f"mask.path: {path}"
    mean = lambda: scan.mean_pattern(most=MAX_PATTERNS_FOR_MASK)  # noqa: E731
    return interpret_mask(stored, Path(path).name, place, scan.geometry.shape, ones=ones, mean=mean)


MAX_PATTERNS_FOR_MASK = 200
"""Patterns whose counts decide what the ones of a mask are."""


def _find_highest_counts(scan: Scan4D) -> np.ndarray:
    highest = np.zeros(scan.geometry.shape)
    for start in range(0, len(scan), 64):
        stack = scan.counts[np.arange(start, min(start + 64, len(scan)))]
        highest = np.maximum(highest, stack.max(0))
    return highest


def nonnegative(
    scan: Scan4D,
    /,
    *,
    how: Literal["clip", "clip below", "subtract minimum", "subtract"] = "clip",
    value: float = 0.0,
) -> Scan4D:
    """Make counts that are not negative of values that are (read with ``negative: keep``).

    Args:
        scan: the scan.
        how: ``clip`` sets what is negative to zero, ``clip below`` all that is below ``value``;
            ``subtract minimum`` takes the lowest value of all patterns away if it is negative, and
            ``subtract`` takes ``value`` away; what is left below zero is set to zero.
        value: in the file's units.

    Raises:
        BadInput: a value that is not finite.

    Example:
        >>> nonnegative(_example(), how="subtract", value=0.25).counts[0, 0, 0]
        np.float64(0.75)
    """
    require_number(value, "nonnegative.value")
    ways = ("clip", "clip below", "subtract minimum", "subtract")
    if how not in ways:
        raise BadInput("nonnegative.how", how, f"is not known: write one of {', '.join(ways)}")
    if how == "subtract minimum":
        lows = [float((scan.counts[index] * scan.mask).min()) for index in split_indices(scan.counts)]
        value = min(0.0, *lows)
    lift = value if how.startswith("subtract") else 0.0
    level = value if how == "clip below" else 0.0
    move = partial(_subtract_and_clip, lift=lift, level=level)
    background = scan.background
    if background is not None:
        background = np.maximum(background - lift, 0)
    return replace(scan, counts=map_counts(scan.counts, move), background=background)


MAX_DOSE = 1e15
"""Mean counts per pattern that can be drawn: a few times as many fit into no integer."""


def normalise(
    scan: Scan4D,
    /,
    *,
    by: Literal["mean at one", "max at one", "sum to one", "divide"] = "mean at one",
    value: float | None = None,
) -> Scan4D:
    """Divide all patterns by one number, so that the mean pattern has a mean, maximum or sum of one.

    Background and probe follow. What is left are no longer counts: the noise model's idea of shot noise
    is then off by that number, so do it only to compare with programs that need it.

    Raises:
        BadInput: ``divide`` without a positive ``value``, or patterns without counts.

    Example:
        >>> normalise(_example(), by="sum to one").counts[0].sum()
        np.float64(1.0)
    """
    ways = {"mean at one": np.mean, "max at one": np.max, "sum to one": np.sum}
    if by == "divide":
        number = require_number(np.nan if value is None else value, "normalise.value", above=0)
    elif value is not None:
        raise BadInput("normalise.value", value, "is used by by: divide alone: write that, or leave it out")
    elif by in ways:
        number = float(ways[by](_require_mean_pattern(scan, "normalise")[scan.mask]))
    else:
        raise BadInput("normalise.by", by, f"is not known: write divide or one of {', '.join(ways)}")
    return _replace_counts(scan, map_counts(scan.counts, partial(_divide, number=number)), 1 / number)


def poisson(
    scan: Scan4D, /, *, dose: float | None = None, per_area: float | None = None, seed: int = 0
) -> Scan4D:
    """Draw counts as if the scan had been taken with another dose: what would fewer electrons give?

    The patterns are taken for expectations, so they should be simulated or hold many counts.
    Each pattern has a random stream of its own: the same seed gives the same counts, read in any order.

    Args:
        scan: the scan.
        dose: mean counts per pattern.
        per_area: counts per square angstrom, see `Scan4D.area_per_pattern`; instead of ``dose``.
        seed: of the draw.

    Raises:
        BadInput: neither or both doses, a dose that is not positive, or patterns without counts.

    Example:
        >>> noisy = poisson(_example(), dose=20.0)
        >>> noisy.counts.dtype, bool(2 < noisy.counts[0].sum() < 50)
        (dtype('uint8'), True)
    """
    if dose is not None and per_area is None:
        wanted = require_number(dose, "poisson.dose", above=0)
    elif per_area is not None and dose is None:
        wanted = require_number(per_area, "poisson.per_area", above=0) * _require_area_per_pattern(scan)
    else:
        raise BadInput("poisson", None, "needs one of dose (counts per pattern) and per_area (per A^2)")
    if wanted > MAX_DOSE:
        raise BadInput("poisson", f"{wanted:.3g} counts per pattern", f"must be at most {MAX_DOSE:.0e}")
    factor = wanted / float(_require_mean_pattern(scan, "poisson")[scan.mask].sum())
    dtype = _smallest_dtype(wanted)
    draw = partial(_draw_poisson, scan.counts, seed=seed, factor=factor, most=np.iinfo(dtype).max)
    return _replace_counts(scan, compute_counts(scan.counts, draw, dtype), factor)


def thin(scan: Scan4D, /, *, which: Literal[0, 1], share: float = 0.5, seed: int = 0) -> Scan4D:
    """One of two parts of the counts: the toss of a coin says for each count in which one it is.

    The parts of Poisson counts are independent Poisson counts (binomial thinning), of a share of the dose;
    both add up to the counts exactly. Untrusted pixels are zero. Each pattern has a random stream of its
    own: the same seed gives the same parts, read in any order.

    Args:
        scan: with counts that are single quanta.
        which: the first part or the second.
        share: of the counts that is in the first part; the rest is in the second.
        seed: of the coin.

    Raises:
        BadInput: a part other than 0 and 1, a share that leaves one empty; counts that are not whole numbers
            from zero up, when read.

    Example:
        >>> first, second = (thin(_example(), which=which).counts for which in (0, 1))
        >>> bool((first + second == 1).all()), bool(60 < first.sum() < 130)
        (True, True)
    """
    if which not in (0, 1):
        raise BadInput("thin.which", which, "is not a half of the counts: choose 0 or 1")
    if not 0 < share < 1:
        raise BadInput("thin.share", share, "leaves one part empty: write a number between 0 and 1")
    draw = partial(_draw_binomial, scan.counts, seed=seed, mask=scan.mask, which=which, share=share)
    counts = compute_counts(scan.counts, draw, scan.counts.dtype)
    return _replace_counts(scan, counts, 1 - share if which else share)


def detector_blur(scan: Scan4D, /, *, std: float) -> Scan4D:
    """Blur every pattern by a Gaussian of ``std`` detector pixels; masked pixels do not spread.

    Raises:
        BadInput: a width that is not positive.

    Example:
        >>> detector_blur(_example(), std=0.7).counts[0].sum().round(4)
        np.float64(64.0)
    """
    require_number(std, "detector_blur.std", above=0)
    blur = partial(_blur, std=std, mask=None if scan.mask.all() else scan.mask)
    background = None if scan.background is None else blur(scan.background[None])[0]
    return replace(scan, counts=map_counts(scan.counts, blur), background=background)


def source_size(scan: Scan4D, /, *, std: Length) -> Scan4D:
    """Blur along the scan by a Gaussian of ``std``: what a source of finite size would have measured.

    Every pattern becomes a weighted mean of its neighbours on the raster, mirrored at its edges.

    Raises:
        BadInput: a width that is not positive, or a scan without a raster.

    Example:
        >>> source_size(replace(_example(), grid=(3, 1)), std=1.0).counts[1, 0, 0].round(6)
        np.float64(1.0)
    """
    from scipy.ndimage import gaussian_filter1d

    require_number(std, "source_size.std", above=0)
    if scan.grid is None:
        raise BadInput("source_size", None, "needs a raster: say the grid when reading")
    weights = []
    for n, step in zip(scan.grid, _raster_steps(scan, scan.grid), strict=True):
        mix = gaussian_filter1d(np.eye(n), std / step, axis=0, mode="reflect") if n > 1 else np.ones((1, 1))
        weights.append(np.where(mix > 1e-6, mix, 0.0))
    dtype = float_dtype(scan.counts.dtype)
    blend = partial(_blend_neighbours, scan.counts, slow=weights[0], fast=weights[1], dtype=dtype)
    return replace(scan, counts=compute_counts(scan.counts, blend, dtype))


def _draw_poisson(counts: Counts, number: int, *, seed: int, factor: float, most: int) -> np.ndarray:
    stream = np.random.default_rng((seed, number))
    return np.minimum(stream.poisson(np.maximum(counts[np.array([number])][0] * factor, 0)), most)


def _draw_binomial(
    stack: Counts, number: int, *, seed: int, mask: np.ndarray, which: int, share: float
) -> np.ndarray:
    stream = np.random.default_rng((seed, 11, number))  # 11: another stream than that of poisson
    counts = np.where(mask, stack[np.array([number])][0], 0)
    bad = (counts < 0) | (counts != np.rint(counts)) | ~(counts < 2**53)
    if bad.any():
        raise BadInput(
            "halves of the counts",
            counts[bad][0].item(),
            "is not a whole number of counts, so it cannot be split: leave out steps of prepare that scale "
            "or blend, or compare halves of the patterns (prepare: [{half: {which: 0}}])",
        )
    first = stream.binomial(counts.astype(np.int64), share)
    return counts - first if which else first


def _blend_neighbours(
    counts: Counts, number: int, *, slow: np.ndarray, fast: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    """A pattern mixed with its neighbours on the raster by a matrix for each scan axis."""
    row, column = divmod(number, len(fast))
    weights = np.outer(slow[row], fast[column]).ravel()
    near = np.flatnonzero(weights)
    weights = (weights[near] / weights[near].sum()).astype(dtype)
    return np.tensordot(weights, counts[near].astype(dtype, copy=False), 1)


def _require_mean_pattern(scan: Scan4D, place: str) -> np.ndarray:
    mean = np.where(scan.mask, scan.mean_pattern(), 0.0)
    if not (np.isfinite(mean).all() and mean.sum() > 0):
        raise BadInput(place, None, "finds no counts in the good pixels: check mask and data")
    return mean


def _replace_counts(scan: Scan4D, counts: Counts, factor: float) -> Scan4D:
    """Other counts, ``factor`` times as bright, with the background and the probe that belong to them."""
    probe = None if scan.probe is None else (scan.probe * np.sqrt(factor)).astype(scan.probe.dtype)
    background = None if scan.background is None else scan.background * factor
    return replace(scan, counts=counts, background=background, probe=probe)


def _divide(stack: np.ndarray, number: float) -> np.ndarray:
    return stack.astype(float_dtype(stack.dtype), copy=False) / float_dtype(stack.dtype).type(number)


def _subtract_and_clip(stack: np.ndarray, lift: float, level: float) -> np.ndarray:
    kind = stack.dtype
    if kind.kind != "f" and lift != 0:
        kind = np.promote_types(kind, np.int32) if float(lift).is_integer() else float_dtype(kind)
    lowered = np.maximum(stack.astype(kind, copy=False) - kind.type(lift), 0)
    return np.where(lowered < level, 0, lowered).astype(kind, copy=False)


def _blur(stack: np.ndarray, std: float, mask: np.ndarray | None) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    kind = float_dtype(stack.dtype)
    blur = partial(gaussian_filter, sigma=(0, std, std), mode="reflect", output=kind)
    if mask is None:
        return blur(stack.astype(kind, copy=False))
    share = blur(mask[None].astype(kind))
    spread = blur(np.where(mask, stack, 0).astype(kind))
    return np.where(share > 1e-6, spread / np.maximum(share, 1e-6), 0).astype(kind)


def _smallest_dtype(dose: float) -> np.dtype:
    """The smallest type for patterns of a mean dose, even where some are four times as bright."""
    most = 4 * dose + 10 * np.sqrt(4 * dose)
    return np.min_scalar_type(int(min(most, 2**32 - 1)))


def _raster_steps(scan: Scan4D, grid: tuple[int, int]) -> tuple[float, float]:
    """Mean steps of a raster (slow, fast), angstrom; infinite along an axis of one."""
    places = scan.positions.reshape(*grid, 2)
    steps = []
    for axis in (0, 1):
        away = np.diff(places, axis=axis).reshape(-1, 2)
        steps.append(float(np.hypot(*away.mean(0))) if len(away) else np.inf)
    if min(steps) <= 0:
        raise BadInput("scan.positions", None, "do not move along the raster: check grid and positions")
    return steps[0], steps[1]


def _require_area_per_pattern(scan: Scan4D) -> float:
    """Area of the object for each pattern, square angstrom."""
    area = scan.area_per_pattern
    if area is None:
        raise BadInput("poisson.per_area", None, "needs positions that move: give dose instead")
    return area
