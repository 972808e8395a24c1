"""How far a network restores images, beside what needs no network, over pairs that it has not seen.

All are judged on the same pixels with the same measures. Photographs have a peak of 1 and are compared as a
whole; of anything else each channel is compared by itself, its target's range as the peak, and channels count
the same. Of phases the plane that fits best is taken off both sides first, because it is arbitrary: a ramp on
either changes no score. Values beyond those that there can be are clipped. A score that cannot be had of a
pair, such as SSIM of images smaller than its window, is left out of that pair; where no pair has it, the
table does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.metrics.colour import uciqe, uiqm
from phaseloom.metrics.image import psnr, ssim
from phaseloom.metrics.phase import remove_ramp
from phaseloom.restoration.apply import Mended, mended
from phaseloom.restoration.baselines import ColourMatrix, Denoiser, gray_world, stretch, upsampled
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.folders import Pair, channels
from phaseloom.restoration.pairs.image_kinds import Task

__all__ = ["Rating", "rated", "shown"]

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
"""Scores by name: how a table heads and writes them."""

DENOISERS = {"gaussian": "gaussian", "total_variation": "total variation"}
DENOISERS |= {"nonlocal_means": "non-local means"}

FEW, SIDE = 24, 128
"""Pairs, and pixels along an edge of their middles, that the strength of a denoiser is fitted to at most."""

SSIM_LEAST, UIQM_LEAST = 11, 10
"""Pixels along an edge that a window of these measures takes."""

FLAT = 1e-6
"""Range, in parts of the largest value, up to which a target shows nothing but the rounding of its values."""


@dataclass(frozen=True)
class Rating:
    """Scores of methods, means over pairs.

    Scores by name: ``psnr`` in decibel and ``psnr_deviation``, its standard deviation from pair to pair,
    ``ssim``, and ``uiqm`` and ``uciqe`` of colours, which ask for no target and may prefer what is further
    from it, or else ``nmse``, the squared error over the square of the target about its mean.

    Attributes:
        low: scores by method, on the pixels of the input.
        high: the same on pixels half as wide, of pairs whose target there is known; may be empty.
        pairs: how many were judged by.
        fine: how many of them on finer pixels.
        notes: what was left out, in sentences.

    Example:
        >>> rating = Rating({"input": {"psnr": 20.0}, "network": {"psnr": 24.5}}, {}, pairs=1)
        >>> rating.gain
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
        best, mine = max(others, key=others.__getitem__), self.low[NETWORK]["psnr"]
        return (0.0 if mine == others[best] else mine - others[best]), best

    def lines(self) -> list[str]:
        """Tables for a terminal, in the order in which methods were asked, the gain and the notes."""
        out = _table(f"on the pixels of the input, {_count(self.pairs)}", self.low)
        if self.high:
            out += ["", *_table(f"on pixels half as wide, {_count(self.fine)}", self.high)]
        gain, best = self.gain
        side = "above" if gain >= 0 else "below"
        return [*out, "", f"network: {abs(gain):.2f} dB {side} the best of the others, {best}", *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values; an infinite number, which JSON does not know, is ``None``."""
        gain, best = self.gain
        return {
            "pairs": self.pairs,
            "fine": self.fine,
            "low": {name: _plain(row) for name, row in self.low.items()},
            "high": {name: _plain(row) for name, row in self.high.items()},
            "gain": {**_plain({"psnr": gain}), "over": best},
            "notes": list(self.notes),
        }


def rated(
    net: Restorer,
    task: Task,
    pairs: Sequence[Pair],
    /,
    *,
    learned: Sequence[Pair] = (),
    tile: int = 256,
    overlap: int = 64,
) -> Rating:
    """Scores of a network and of what it must beat, over pairs that are read one after another.

    Args:
        net: trained for the task.
        task: what the images are restored as.
        pairs: that neither the network nor the other methods have seen.
        learned: that a matrix of colours, or the strengths of denoisers, are fitted to: the training's.
        tile: pixels along an edge of what the network is shown at once.
        overlap: pixels that neighbouring tiles share.

    Raises:
        BadInput: no pair, pairs of other channels than the network's, targets that are the same everywhere
            where their range is the peak, learned pairs without any error, or tiles that cannot be.

    Example:
        >>> from phaseloom.restoration.pairs.image_kinds import photograph
        >>> from phaseloom.restoration.networks.phaseformer import narrow
        >>> image = np.random.default_rng(0).random((3, 16, 20), np.float32)
        >>> pair = Pair("noise", image, image[::-1])
        >>> rating = rated(narrow(channels_in=3, channels_out=3), photograph(), [pair])
        >>> list(rating.low), rating.low["network"] == rating.low["input"]
        (['input', 'gray world', 'stretch', 'network'], True)
    """
    if not len(pairs):
        raise BadInput("rating", None, "has no pair to judge by: give one at least")
    _fitting(net, pairs[0])
    methods, notes = _methods(net, task, learned)
    restore, low, high = partial(mended, net, task, tile=tile, overlap=overlap), Scored(task), Scored(task)
    for number in range(len(pairs)):
        _judge(_fitting(net, pairs[number]), methods, restore, low, high)
    flat = len(pairs) - low.pairs
    if flat == len(pairs):
        raise BadInput("rating", None, "has targets that are the same everywhere: nothing is judged by them")
    if flat:
        notes.append(f"{_count(flat)} left out: the target is the same everywhere")
    return Rating(low.means(), high.means(), low.pairs, high.pairs, tuple(notes))


def shown(task: Task, pair: Pair, found: Mended, /) -> dict[str, dict[str, Floats]]:
    """Rows of `phaseloom.restoration.figures.before_after` by name: colours as such, other channels one by
    one.

    Planes of phases are taken off, as where they are judged.

    Args:
        task: what the image was restored as.
        pair: that was restored.
        found: its restoration.

    Example:
        >>> from phaseloom.restoration.pairs.image_kinds import phase
        >>> flat = np.zeros((2, 4, 5), np.float32)
        >>> rows = shown(phase(), Pair("film", flat, flat), Mended(flat, None))
        >>> {name: list(row) for name, row in rows.items()}["film, channel 1"]
        ['input', 'network', 'target']
    """
    known = {"input": pair.input, NETWORK: found.low, "network, finer": found.high, "target": pair.target}
    images = {name: image for name, image in known.items() if image is not None}
    if _colours(task, len(pair.input)):
        return {pair.name: images}
    if task.own:
        images = {name: _flattened(image) for name, image in images.items()}
    count = len(pair.input)
    names = [pair.name] if count == 1 else [f"{pair.name}, channel {number}" for number in range(count)]
    return {row: {name: image[n] for name, image in images.items()} for n, row in enumerate(names)}


class Scored:
    """Scores of methods as they come in, pair by pair.

    Attributes:
        task: that says how images are compared.
        values: numbers of all pairs, by method and score.
    """

    def __init__(self, task: Task):
        self.task = task
        self.values: dict[str, dict[str, list[float]]] = {}

    @property
    def pairs(self) -> int:
        """Those that the network has scores of."""
        return len(self.values.get(NETWORK, {}).get("psnr", ()))

    def add(self, name: str, image: Floats, target: Floats, /) -> None:
        """Compare ``(channel, y, x)`` with its target, if that shows anything."""
        rows = self.values.setdefault(name, {})
        for score, value in _scores(image, target, self.task).items():
            rows.setdefault(score, []).append(value)

    def means(self) -> Table:
        """Over pairs; methods without any score are left out."""
        return {name: _mean(rows) for name, rows in self.values.items() if rows}


def _judge(
    pair: Pair,
    methods: Mapping[str, Method],
    restore: Callable[[Floats], Mended],
    low: Scored,
    high: Scored,
) -> None:
    """Scores of one pair."""
    found = restore(pair.input)
    for image in (found.low, found.high):
        if image is not None and not np.isfinite(image).all():
            fix = "is restored to values that are not finite: the network is broken, train it anew"
            raise BadInput("rating", pair.name, fix)
    for name, method in methods.items():
        low.add(name, method(pair.input), pair.target)
    low.add(NETWORK, found.low, pair.target)
    if pair.fine is not None and found.high is not None:
        high.add("bilinear of the input", upsampled(pair.input), pair.fine)
        high.add("bilinear of the network", upsampled(found.low), pair.fine)
        high.add(NETWORK, found.high, pair.fine)


def _mean(rows: Mapping[str, Sequence[float]]) -> Scores:
    """Means of scores, and the standard deviation of the decibels where pairs are several."""
    out = {name: fmean(values) for name, values in rows.items()}
    decibels, mean = rows["psnr"], out["psnr"]
    if len(decibels) > 1 and math.isfinite(mean):
        off = math.fsum((value - mean) ** 2 for value in decibels)
        out["psnr_deviation"] = math.sqrt(off / (len(decibels) - 1))
    return {name: out[name] for name in COLUMNS if name in out}


def _scores(image: Floats, target: Floats, task: Task) -> Scores:
    """Of one image ``(channel, y, x)``; none where ranges are the peaks and no channel has one."""
    if task.within is not None:
        return _bounded(np.clip(image, *task.within), target, task)
    floors = FLAT * np.abs(target).max((1, 2))
    if task.own:
        image, target = _flattened(image), _flattened(target)
    kept = np.flatnonzero(np.ptp(target, (1, 2)) > floors)
    rows = [_agreement(image[n], target[n], float(np.ptp(target[n]))) for n in kept]
    return {name: fmean(row[name] for row in rows) for name in (rows[0] if rows else ())}


def _bounded(image: Floats, target: Floats, task: Task) -> Scores:
    """Of one image as a whole, clipped to where its values can be."""
    low, high = task.within or (0.0, 1.0)
    out = _agreement(image, target, high - low)
    if not _colours(task, len(image)):
        return out
    out.pop("nmse", None)
    if min(image.shape[1:]) >= UIQM_LEAST:
        out["uiqm"] = uiqm(image)
    return out | {"uciqe": uciqe(image)}


def _agreement(image: Floats, target: Floats, peak: float) -> Scores:
    """With the target, of any axes that end in rows and columns."""
    out = {"psnr": psnr(image, target, peak=peak)}
    if min(image.shape[-2:]) >= SSIM_LEAST:
        out["ssim"] = ssim(image, target, peak=peak)
    spread = float(np.square(target - target.mean(dtype=np.float64)).sum())
    if spread > 0:
        out["nmse"] = float(np.square(image - target.astype(np.float64)).sum() / spread)
    return out


def _methods(net: Restorer, task: Task, learned: Sequence[Pair]) -> tuple[dict[str, Method], list[str]]:
    """What needs no network, fitted, by name; and what was left out."""
    known: dict[str, Method] = {"input": lambda image: image}
    colours = _colours(task, net.plan.channels_in)
    if colours:
        known |= {"gray world": gray_world, "stretch": stretch}
    if not len(learned):
        missing = "the colour matrix is" if colours else f"{_listed(DENOISERS)} are"
        return known, [f"{missing} left out: there are no learned pairs to fit to"]
    if colours:
        known["colour matrix"] = ColourMatrix.fit(_fitting(net, pair) for pair in learned)
        return known, []
    numbers = np.linspace(0, len(learned) - 1, min(len(learned), FEW)).round().astype(int)
    found, lacking = _denoisers([_middle(task, _fitting(net, learned[int(n)])) for n in numbers])
    methods = {DENOISERS[name]: partial(_levelled, task, denoiser) for name, denoiser in found.items()}
    return known | methods, [lacking] if lacking else []


def _denoisers(few: Sequence[Pair]) -> tuple[dict[str, Denoiser], str]:
    """Each at its best strength; and what those that are not installed need."""
    found, lacking, why = {}, [], ""
    for name in DENOISERS:
        try:
            found[name] = Denoiser.fit(name, few)
        except MissingExtra as problem:
            lacking.append(name)
            why = problem.fix
    return found, f"{_listed(lacking)} are left out: it {why}" if lacking else ""


def _levelled(task: Task, denoiser: Denoiser, image: Floats) -> Floats:
    """An image through a denoiser on the level that its strength was fitted on."""
    level = task.level(image)
    return level.given(denoiser(level.taken(image)))


def _middle(task: Task, pair: Pair) -> Pair:
    """Of a pair on its level: enough for one strength."""
    rows, columns = (slice(max(0, (n - SIDE) // 2), max(0, (n - SIDE) // 2) + SIDE) for n in pair.size)
    level = task.levelled(pair)
    return Pair(pair.name, level.input[:, rows, columns].copy(), level.target[:, rows, columns].copy())


def _fitting(net: Restorer, pair: Pair) -> Pair:
    """A pair, if its channels are the network's."""
    given = len(pair.input)
    for side, wanted in (("takes", net.plan.channels_in), ("gives", net.plan.channels_out)):
        if given != wanted:
            fix = f"but the network {side} {wanted}: give pairs like those that it was trained on"
            raise BadInput(f"rating: {pair.name}", f"has {channels(given)}", fix)
    return pair


def _colours(task: Task, count: int) -> bool:
    """Whether images are photographs in red, green and blue."""
    return task.within == (0.0, 1.0) and count == 3


def _flattened(image: Floats) -> Floats:
    """Channels without the planes that fit them best."""
    return np.stack([remove_ramp(one) for one in image])


def _plain(row: Scores) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _table(title: str, rows: Table) -> list[str]:
    """A title with the names of scores, and a line for each method."""
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    wide = max(map(len, (title, *rows)))
    out = [title.ljust(wide) + "".join(f"{COLUMNS[name][0]:>11s}" for name in names)]
    for method, row in rows.items():
        cells = [_cell(row[name], COLUMNS[name][1]) if name in row else "-" for name in names]
        out.append(method.ljust(wide) + "".join(f" {cell:>10s}" for cell in cells))
    return out


def _cell(value: float, style: str) -> str:
    """A score in at most ten letters."""
    return format(value, style if abs(value) < 1e4 else ".3g")


def _count(pairs: int) -> str:
    return f"{pairs} pair" + "s" * (pairs != 1)


def _listed(methods: Sequence[str] | Mapping[str, str]) -> str:
    """Names in words: one, two and three."""
    *most, last = (DENOISERS[name] for name in methods)
    return f"{', '.join(most)} and {last}" if most else last
