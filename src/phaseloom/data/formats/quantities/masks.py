"""Masks of a user's own: whether ones are good pixels or bad, by what is stated, the name, or the counts."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from phaseloom.data.remarks import warn
from phaseloom.errors import BadInput

__all__ = ["MaskOnes", "interpret_mask"]

log = logging.getLogger(__name__)

MaskOnes = Literal["good", "bad"]
"""What the pixels that are not zero in a mask are."""

WORDS_FOR_BAD = ("bad", "dead", "hot", "invalid", "defect", "broken", "noisy", "untrusted")
"""Beginnings of words in the name of a mask whose ones are pixels to leave out."""

PERCENTILE_OF_CAP = 99.0
"""Of the mean pattern, above which pixels count no more: hot pixels do not outweigh the others."""


def interpret_mask(
    stored: np.ndarray,
    name: str,
    place: str,
    shape: tuple[int, int],
    /,
    *,
    ones: MaskOnes | None = None,
    mean: Callable[[], np.ndarray],
) -> np.ndarray:
    """Good pixels ``(y, x)`` of a mask that a user names; one line is said wherever ones may be bad pixels.

    What ``ones`` states is followed. Otherwise ones are good, unless the name says that they are not
    (``badpix``, ``dead_pixels``), or they cover less than half of the detector and the other pixels hold
    more than half of the counts. A name that says bad is not believed where bad pixels would hold both.

    Args:
        stored: ``(y, x)``; not a number counts as bad whatever ones are.
        name: of the file or the array.
        place: where the name is written, for messages.
        shape: of a pattern.
        ones: what ones are, if that is stated.
        mean: gives the mean pattern; called only where the counts decide.

    Raises:
        BadInput: the shape of another detector, or more than two values.

    Example:
        >>> interpret_mask(np.eye(2), "badpix", "mask", (2, 2), mean=lambda: np.ones((2, 2))).tolist()
        [[False, True], [True, False]]
    """
    marked, known = _find_marked(stored, place, shape)
    if ones is not None:
        return (marked if ones == "good" else ~marked) & known
    word = _find_word(name)
    share = marked.mean()
    if word is None and (share >= 0.5 or not marked.any()):
        return marked & known
    held = _share_of_counts(mean(), marked) if marked.any() else 0.0
    holds_most = share > 0.5 and held > 0.5
    are_bad = held < 0.5 if word is None else not holds_most
    reason = f"its name says {word!r}" if word else "by the counts"
    if word and not are_bad:
        reason = f"though its name says {word!r}, by the counts"
    read, other = ("bad", "good") if are_bad else ("good", "bad")
    text = (
        "%s: ones are read as %s pixels, %s (they cover %.2g %% of the detector and hold %.2g %% of the "
        "counts); if they are %s, write mask_ones: %s"
    )
    warn(log, text, place, read, reason, 100 * share, 100 * held, other, other)
    return (~marked if are_bad else marked) & known


def _find_marked(stored: np.ndarray, place: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that are not zero, and those that are numbers."""
    if stored.shape != shape or stored.dtype.kind not in "biuf":
        fix = f"does not fit the patterns: make it {shape}, True = good"
        raise BadInput(place, f"shape {stored.shape}", fix)
    known = np.ones(shape, bool)
    if stored.dtype.kind == "f":
        known = ~np.isnan(stored)
        stored = np.nan_to_num(stored, nan=0.0)
    if stored.dtype.kind != "b" and len(values := np.unique(stored)) > 2:
        fix = "is not a mask: give 0 where a pixel is bad, and one other value where it is good"
        raise BadInput(place, f"{len(values)} different values", fix)
    return stored.astype(bool), known


def _find_word(name: str) -> str | None:
    """The word in the last part of a name by which ones are bad.

    Example:
        >>> _find_word("measurement/eiger/bad_pixel_mask"), _find_word("hotel/mask"), _find_word("photons")
        ('bad', None, None)
    """
    last = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", Path(name).name).lower()
    words = re.split(r"[^a-z]+", last)
    if {"not", "no", "good"} & set(words):
        return None
    forms = [re.compile(rf"{word}(pix\w*|px|s|ive|mask)?$") for word in WORDS_FOR_BAD]
    pairs = zip(WORDS_FOR_BAD, forms, strict=True)
    return next((word for word, form in pairs if any(form.match(each) for each in words)), None)


def _share_of_counts(mean: np.ndarray, marked: np.ndarray) -> float:
    """Share of the counts in the pixels that are marked; pixels above a cap count as much as the cap."""
    values = np.nan_to_num(np.maximum(mean, 0))
    values = np.minimum(values, np.percentile(values, PERCENTILE_OF_CAP)) if (values > 0).any() else values
    if not values.any():  # a few pixels hold all counts
        values = np.nan_to_num(np.maximum(mean, 0))
    return float(values[marked].sum() / max(values.sum(), 1e-30))
