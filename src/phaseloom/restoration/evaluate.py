"""Evaluate a restorer beside baselines without a network, over pairs that it has not seen.

All are scored on the same pixels with the same measures. Photographs have a peak of 1 and are compared as a
whole; of other images each channel is compared by itself, with the range of its target as the peak, and
channels have the same weight. Of phases the best fitting plane is removed from both sides first, because it
is arbitrary: a ramp on either changes no score. Values beyond the possible range are clipped. A score that
does not exist for a pair, such as SSIM of images smaller than its window, is left out of that pair; if no
pair has it, it is left out of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phaseloom import plot
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.learning.evaluation import make_card, save_with_card
from phaseloom.learning.figures import plot_losses
from phaseloom.metrics.colour import uciqe, uiqm
from phaseloom.metrics.image import psnr, ssim
from phaseloom.metrics.phase import remove_ramp
from phaseloom.restoration.apply import RestoredImage, restore_image
from phaseloom.restoration.baselines import ColourMatrix, Denoiser, gray_world, stretch, upsample_bilinear
from phaseloom.restoration.figures import plot_pairs
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.folders import Pair, format_channels
from phaseloom.restoration.pairs.image_kinds import ImageKind
from phaseloom.restoration.train import MIN_SIDE_FOR_SSIM, RestorerTraining

__all__ = ["Evaluation", "evaluate_restorer", "evaluate_training", "save_figures"]

Floats = NDArray[np.floating]
Method = Callable[[Floats], Floats]
Scores = dict[str, float]
Table = dict[str, Scores]

NETWORK = "network"

COLUMNS = {
    "psnr": ("PSNR (dB)", ".2f"),
    "psnr_deviation": ("deviation", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "nmse": ("NMSE", ".4f"),
    "uiqm": ("UIQM", ".3f"),
    "uciqe": ("UCIQE", ".3f"),
}
"""Scores by name: title and format in a table."""

DENOISERS = {
    "gaussian": "gaussian",
    "total_variation": "total variation",
    "nonlocal_means": "non-local means",
}

MAX_FIT_PAIRS = 24
"""Pairs to which the strength of a denoiser is fitted at most."""

MAX_FIT_SIDE = 128
"""Pixels along an edge of the centres of these pairs."""

MIN_SIDE_FOR_UIQM = 10
"""Pixels along an edge that the windows of UIQM need."""

MIN_TARGET_RANGE = 1e-6
"""Range, in parts of the largest value, up to which a target shows nothing but rounding errors."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of methods, means over pairs.

    Scores by name: ``psnr`` in decibel and ``psnr_deviation``, its standard deviation from pair to pair,
    ``ssim``, and for colours ``uiqm`` and ``uciqe``, which use no target and may prefer what is further from
    it, for others ``nmse``, the squared error over the square of the target about its mean.

    Attributes:
        low: scores by method, on the pixels of the input.
        high: the same on pixels half as wide, of pairs with a fine target; may be empty.
        pairs: number of pairs.
        fine: number of pairs on finer pixels.
        notes: what was left out, in sentences.

    Example:
        >>> scores = Evaluation({"input": {"psnr": 20.0}, "network": {"psnr": 24.5}}, {}, pairs=1)
        >>> scores.gain
        (4.5, 'input')
    """

    low: Table
    high: Table
    pairs: int
    fine: int = 0
    notes: tuple[str, ...] = ()

    @property
    def gain(self) -> tuple[float, str]:
        """Decibels of the network less those of the best other method, and the name of that method."""
        others = {name: row["psnr"] for name, row in self.low.items() if name != NETWORK}
        best = max(others, key=others.__getitem__)
        own = self.low[NETWORK]["psnr"]
        return (0.0 if own == others[best] else own - others[best]), best

    def lines(self) -> list[str]:
        """Tables for a terminal, then the gain and the notes."""
        out = _format_table(f"on the pixels of the input, {_format_count(self.pairs)}", self.low)
        if self.high:
            out += ["", *_format_table(f"on pixels half as wide, {_format_count(self.fine)}", self.high)]
        gain, best = self.gain
        side = "above" if gain >= 0 else "below"
        return [*out, "", f"network: {abs(gain):.2f} dB {side} the best of the others, {best}", *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values; infinite numbers, which JSON does not have, are ``None``."""
        gain, best = self.gain
        return {
            "pairs": self.pairs,
            "fine": self.fine,
            "low": {name: _finite_or_none(row) for name, row in self.low.items()},
            "high": {name: _finite_or_none(row) for name, row in self.high.items()},
            "gain": {**_finite_or_none({"psnr": gain}), "over": best},
            "notes": list(self.notes),
        }


def evaluate_restorer(
    net: Restorer,
    kind: ImageKind,
    pairs: Sequence[Pair],
    /,
    *,
    learned: Sequence[Pair] = (),
    tile: int = 256,
    overlap: int = 64,
) -> Evaluation:
    """Scores of a network and of the baselines, over pairs that are read one after another.

    Args:
        net: trained for the kind.
        kind: of the images.
        pairs: unseen by the network and by the other methods.
        learned: training pairs, to which a colour matrix, or the strengths of denoisers, are fitted.
        tile: pixels along an edge of the network's input.
        overlap: pixels that neighbouring tiles share.

    Raises:
        BadInput: no pair, pairs of other channels than the network's, targets that are all constant if their
            range is the peak, learned pairs without any error, or tiles out of range.

    Example:
        >>> from phaseloom.restoration.pairs.image_kinds import photograph
        >>> from phaseloom.restoration.networks.phaseformer import narrow
        >>> image = np.random.default_rng(0).random((3, 16, 20), np.float32)
        >>> pair = Pair("noise", image, image[::-1])
        >>> scores = evaluate_restorer(narrow(channels_in=3, channels_out=3), photograph(), [pair])
        >>> list(scores.low), scores.low["network"] == scores.low["input"]
        (['input', 'gray world', 'stretch', 'network'], True)
    """
    if not len(pairs):
        raise BadInput("rating", None, "has no pair to judge by: give one at least")
    _check_channels(net, pairs[0])
    methods, notes = _fit_methods(net, kind, learned)
    low = ScoreTable(kind)
    high = ScoreTable(kind)
    restore = partial(restore_image, net, kind, tile=tile, overlap=overlap)
    for number in range(len(pairs)):  # no pair is kept while the next one is read
        _score_pair(_check_channels(net, pairs[number]), methods, restore, low, high)
    flat = len(pairs) - low.pairs
    if flat == len(pairs):
        raise BadInput("rating", None, "has targets that are the same everywhere: nothing is judged by them")
    if flat:
        notes.append(f"{_format_count(flat)} left out: the target is the same everywhere")
    return Evaluation(low.means(), high.means(), low.pairs, high.pairs, tuple(notes))


def evaluate_training(training: RestorerTraining, /) -> tuple[Path | None, dict[str, Any], Evaluation | None]:
    """Score a finished training by its test pairs, which nothing else uses, and write its network and card.

    Returns:
        The file, if the training has a folder; the card; and the scores, if the data have a test part.

    Raises:
        BadInput: test pairs that cannot be read.
    """
    recipe = training.recipe
    facts = {
        "task": recipe.kind().name,
        "pairs": [len(side) for side in training.pairs],
        "weights": training.weighting.weights,
    }
    card = make_card(recipe, None, epochs=training.progress.epoch, **facts)
    path = save_with_card(training.net, card, training.directory)  # unreadable test pairs lose no network
    scores = None
    if tests := recipe.list_test_pairs():
        scores = evaluate_restorer(training.net, recipe.kind(), tests, learned=recipe.pairs("train"))
        card["scores"] = scores.as_dict()
        save_with_card(training.net, card, training.directory)
    return path, card, scores


def save_figures(training: RestorerTraining, /) -> list[Path]:
    """Figures of a training in its folder: its losses, and some of its test pairs before and after."""
    if training.directory is None:
        return []
    figures = {"curves.png": plot_losses(training.progress.history)}
    if tests := training.recipe.list_test_pairs():
        figures["before_after.png"] = plot_pairs(training.net, training.recipe.kind(), tests)
    for name, figure in figures.items():
        plot.save(figure, training.directory / name)
    return [training.directory / name for name in figures]


@dataclass
class ScoreTable:
    """Scores of methods, accumulated pair by pair."""

    kind: ImageKind
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Number of pairs with scores of the network."""
        return len(self.values.get(NETWORK, {}).get("psnr", ()))

    def add(self, name: str, image: Floats, target: Floats, /) -> None:
        """Compare ``(channel, y, x)`` with its target, unless that is constant."""
        rows = self.values.setdefault(name, {})
        for score, value in _compare(image, target, self.kind).items():
            rows.setdefault(score, []).append(value)

    def means(self) -> Table:
        """Over pairs; methods without any score are left out."""
        return {name: _mean_scores(rows) for name, rows in self.values.items() if rows}


def _score_pair(
    pair: Pair,
    methods: Mapping[str, Method],
    restore: Callable[[Floats], RestoredImage],
    low: ScoreTable,
    high: ScoreTable,
) -> None:
    found = restore(pair.input)
    for image in (found.low, found.high):
        if image is not None and not np.isfinite(image).all():
            fix = "is restored to values that are not finite: the network is broken, train it anew"
            raise BadInput("rating", pair.name, fix)
    for name, method in methods.items():
        low.add(name, method(pair.input), pair.target)
    low.add(NETWORK, found.low, pair.target)
    if pair.fine is not None and found.high is not None:
        high.add("bilinear of the input", upsample_bilinear(pair.input), pair.fine)
        high.add("bilinear of the network", upsample_bilinear(found.low), pair.fine)
        high.add(NETWORK, found.high, pair.fine)


def _mean_scores(rows: Mapping[str, Sequence[float]]) -> Scores:
    """Means of scores, and the standard deviation of the decibels of several pairs."""
    out = {name: fmean(values) for name, values in rows.items()}
    decibels = rows["psnr"]
    mean = out["psnr"]
    if len(decibels) > 1 and math.isfinite(mean):
        squares = math.fsum((value - mean) ** 2 for value in decibels)
        out["psnr_deviation"] = math.sqrt(squares / (len(decibels) - 1))
    return {name: out[name] for name in COLUMNS if name in out}


def _compare(image: Floats, target: Floats, kind: ImageKind) -> Scores:
    """Scores of one image ``(channel, y, x)``; none if ranges are the peaks and all channels are constant."""
    if kind.value_range is not None:
        return _compare_in_range(np.clip(image, *kind.value_range), target, kind)
    floors = MIN_TARGET_RANGE * np.abs(target).max((1, 2))
    if kind.separate_planes:
        image, target = (np.stack([remove_ramp(one) for one in side]) for side in (image, target))
    peaks = np.ptp(target, (1, 2))
    rows = [_agreement(image[n], target[n], float(peaks[n])) for n in np.flatnonzero(peaks > floors)]
    return {name: fmean(row[name] for row in rows) for name in (rows[0] if rows else ())}


def _compare_in_range(image: Floats, target: Floats, kind: ImageKind) -> Scores:
    """Scores of one image as a whole, clipped to its possible range."""
    low, high = kind.value_range or (0.0, 1.0)
    out = _agreement(image, target, high - low)
    if kind.is_colour(len(image)):
        out.pop("nmse", None)
        if min(image.shape[1:]) >= MIN_SIDE_FOR_UIQM:
            out["uiqm"] = uiqm(image)
        out["uciqe"] = uciqe(image)
    return out


def _agreement(image: Floats, target: Floats, peak: float) -> Scores:
    """Scores with a target, of any axes that end in rows and columns."""
    out = {"psnr": psnr(image, target, peak=peak)}
    if min(image.shape[-2:]) >= MIN_SIDE_FOR_SSIM:
        out["ssim"] = ssim(image, target, peak=peak)
    spread = float(np.square(target - target.mean(dtype=np.float64)).sum())
    if spread > 0:
        out["nmse"] = float(np.square(image - target.astype(np.float64)).sum() / spread)
    return out


def _fit_methods(
    net: Restorer, kind: ImageKind, learned: Sequence[Pair]
) -> tuple[dict[str, Method], list[str]]:
    """Baselines by name, fitted; and notes of those left out."""
    methods: dict[str, Method] = {"input": lambda image: image}
    if kind.is_colour(net.plan.channels_in):
        methods |= {"gray world": gray_world, "stretch": stretch}
        if not len(learned):
            return methods, ["the colour matrix is left out: there are no learned pairs to fit to"]
        methods["colour matrix"] = ColourMatrix.fit(_check_channels(net, pair) for pair in learned)
        return methods, []
    if not len(learned):
        return methods, [f"{_join_names(DENOISERS)} are left out: there are no learned pairs to fit to"]
    numbers = np.linspace(0, len(learned) - 1, min(len(learned), MAX_FIT_PAIRS)).round().astype(int)
    few = [_crop_centre(kind.normalise_pair(_check_channels(net, learned[int(n)]))) for n in numbers]
    missing: list[str] = []
    fix = ""
    for name, title in DENOISERS.items():
        try:
            methods[title] = partial(_denoise, kind, Denoiser.fit(name, few))
        except MissingExtra as problem:
            missing.append(name)
            fix = problem.fix
    return methods, [f"{_join_names(missing)} are left out: it {fix}"] if missing else []


def _denoise(kind: ImageKind, denoiser: Denoiser, image: Floats) -> Floats:
    """Denoise an image in the normalisation to which the strength was fitted."""
    normalisation = kind.fit_normalisation(image)
    return normalisation.invert(denoiser(normalisation.apply(image)))


def _crop_centre(pair: Pair) -> Pair:
    """The centre of a pair: enough for one strength."""
    starts = [max(0, (count - MAX_FIT_SIDE) // 2) for count in pair.size]
    rows, columns = (slice(start, start + MAX_FIT_SIDE) for start in starts)
    return Pair(pair.name, pair.input[:, rows, columns].copy(), pair.target[:, rows, columns].copy())


def _check_channels(net: Restorer, pair: Pair) -> Pair:
    """A pair, if its channels are the network's."""
    given = len(pair.input)
    for side, wanted in (("takes", net.plan.channels_in), ("gives", net.plan.channels_out)):
        if given != wanted:
            fix = f"but the network {side} {wanted}: give pairs like those that it was trained on"
            raise BadInput(f"rating: {pair.name}", f"has {format_channels(given)}", fix)
    return pair


def _finite_or_none(row: Scores) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _format_table(title: str, rows: Table) -> list[str]:
    """A title with the names of scores, and a line for each method; scores have at most ten letters."""
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    width = max(map(len, (title, *rows)))
    out = [title.ljust(width) + "".join(f"{COLUMNS[name][0]:>11s}" for name in names)]
    for method, row in rows.items():
        cells = [
            format(row[name], COLUMNS[name][1] if abs(row[name]) < 1e4 else ".3g") if name in row else "-"
            for name in names
        ]
        out.append(method.ljust(width) + "".join(f" {cell:>10s}" for cell in cells))
    return out


def _format_count(pairs: int) -> str:
    return f"{pairs} pair" + "s" * (pairs != 1)


def _join_names(methods: Sequence[str] | Mapping[str, str]) -> str:
    """Names in words: one, two and three."""
    *most, last = (DENOISERS[name] for name in methods)
    return f"{', '.join(most)} and {last}" if most else last
