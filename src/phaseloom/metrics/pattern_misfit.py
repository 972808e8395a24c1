"""How much of what differs from pattern to pattern a model of the specimen explains."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["MIN_COUNTS_OF_ELECTRONS", "PatternMisfit", "measure_pattern_misfit"]

# Counts in a pattern below which they are not taken for electrons, so without counting noise.
MIN_COUNTS_OF_ELECTRONS = 50
# Standard errors by which patterns must differ from each other before a model can be judged.
MIN_STANDARD_ERRORS = 5.0
# Of the mean intensity, added to that of each pixel where it is weighted: dark pixels hold noise only.
DARK_PIXEL_SHARE = 0.1


@dataclass(frozen=True)
class PatternMisfit:
    """Residuals of modelled patterns, and the share of the differences between patterns that they explain.

    The mean of all patterns is subtracted, measured and modelled, so that neither the rim of the disk nor an
    uneven detector counts as the object's. Residuals are root mean squares over the root mean square of the
    mean pattern, pixels weighted by the inverse of its counts, less what counting noise adds.

    Attributes:
        predicted: residual of the model.
        flat: residual without an object, for which all patterns are the same.
        patterns: number of patterns compared.
        explained: ``1 - predicted^2 / flat^2``, below zero if the model is worse than none; ``None`` where
            patterns do not differ by more than counting noise.
        error: standard error of ``explained`` from counting noise.
    """

    predicted: float
    flat: float
    patterns: int
    explained: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        """As a line of a report."""
        if self.explained is None:
            return f"misfit unknown: {self.patterns} patterns differ from each other by counting noise only"
        text = f"misfit {self.predicted:.2g} (flat object {self.flat:.2g})"
        unsure = "" if not self.error or self.error < 0.05 else f" +- {100 * self.error:.0f}"
        part = f"{100 * self.explained:.0f}{unsure} %" if self.explained > 0 else "nothing"
        return f"{text}: explains {part} of what differs from pattern to pattern"


def _select_pixels(patterns: Tensor, good: np.ndarray) -> np.ndarray:
    """Pixels of patterns in double precision."""
    flat = patterns.detach().cpu().double().flatten(1).numpy()
    return flat if len(good) == flat.shape[1] else flat[:, good]


def measure_pattern_misfit(
    pieces: Iterable[tuple[Tensor, Tensor]],
    background: Tensor,
    mask: np.ndarray,
    over: Callable[[Tensor], Tensor] = lambda sums: sums,
    /,
) -> PatternMisfit:
    """Compare modelled patterns with measured ones, a few at a time: nothing but sums of them is kept.

    Args:
        pieces: counts of the model and measured ones, ``(n, y, x)`` each; one factor for all of the model is
            fitted, and patterns of few counts are taken as free of noise.
        background: ``(y, x)`` counts without beam.
        mask: ``(y, x)`` pixels that count.
        over: makes sums over all patterns of those over the patterns of this process.

    Example:
        >>> y, x = np.indices((8, 8))
        >>> true = torch.from_numpy(np.stack([1e4 + 1e3 * np.sin(x + n + y * n) for n in range(9)]))
        >>> rest = torch.zeros(8, 8), np.ones((8, 8), bool)
        >>> measure_pattern_misfit([(0.1 * true[:4], true[:4]), (0.1 * true[4:], true[4:])], *rest).explained
        1.0
        >>> measure_pattern_misfit([(true.flip(0), true)], *rest).explained < 0.5
        True
    """
    good = np.flatnonzero(mask)
    flat_background = background.double().expand(mask.shape).flatten().numpy()
    dark = torch.from_numpy(flat_background[good])
    found = np.zeros((6, len(good)))
    for expected, measured in pieces:
        counts, model = (_select_pixels(one, good) for one in (measured, expected))
        model = model - flat_background[good]
        found[0] += len(counts)
        found[1:3] += counts.sum(0), model.sum(0)
        for place, (one, other) in enumerate(((counts, counts), (counts, model), (model, model)), 3):
            found[place] += np.einsum("np,np->p", one, other)
    sums = torch.from_numpy(found)
    sums = over(sums)
    number = int(sums[0].max())
    mean, modelled, square, mixed, modelled_square = sums[1:] / number
    scale = (mean - dark).sum() / modelled.sum().clamp(min=1e-300)
    mean_light = (mean - dark).clamp(min=0)
    weight = 1 / (mean.clamp(min=0) + DARK_PIXEL_SHARE * mean.mean().clamp(min=1e-300))
    change = (square - mean**2).clamp(min=0)
    agreement = mixed - mean * modelled
    modelled_change = (modelled_square - modelled**2).clamp(min=0)
    rest = (change - 2 * scale * agreement + scale**2 * modelled_change).clamp(min=0)
    noisy = float(mean.sum()) >= MIN_COUNTS_OF_ELECTRONS
    noise = float((weight * mean).sum()) * (number - 1) if noisy else 0.0
    spread = math.sqrt(number * float((weight**2 * (2 * mean**2 + mean)).sum())) if noisy else 0.0
    left = number * float((weight * rest).sum()) - noise
    left_flat = number * float((weight * change).sum()) - noise
    total = number * float((weight * mean_light**2).sum())
    predicted, flat = (math.sqrt(max(value, 0.0) / max(total, 1e-300)) for value in (left, left_flat))
    if left_flat <= max(MIN_STANDARD_ERRORS * spread, 1e-12 * total):
        return PatternMisfit(predicted, flat, number)
    return PatternMisfit(predicted, flat, number, min(1 - left / left_flat, 1.0), spread / left_flat)
