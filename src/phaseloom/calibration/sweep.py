"""The automatic start: which defocus, and which orientation of the detector, explains the data best.

A reconstruction that starts with the wrong curvature of the probe gets stuck, and files rarely say how
far the object was from the focus. A few cheap epochs on a few neighbouring patterns tell: every
candidate is tried shortly, the better ones longer.

Of the eight ways to lay a detector against a scan only four can be told apart: turning the scan by
180 degrees is undone by the conjugate, inverted object and probe, which give the same patterns. The
sweep therefore never turns by 180 degrees, unless the sign of the defocus is stated or the probe of the file
fits one twin only, which decides; else the sign of the phase follows what the file says. Holograms of a near
field have no such twin: all eight are tried.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from phaseloom.calibration.orientations import ORIENTATIONS, TWIN_OF, TWINS, max_defocus, select_nearest
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.fitting.loop import Progress, fit
from phaseloom.fitting.newton import GaussNewton
from phaseloom.metrics.parabola import find_vertex
from phaseloom.ptycho import batches, noise, objects, scans
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.multigrid import MAX_LIGHT_LEFT_OUT, has_empty_outer_half
from phaseloom.ptycho.newton.preparation import prepare_newton_steps
from phaseloom.spec import Call, knobs
from phaseloom.units import LENGTH, Length

__all__ = ["Start", "half_angle", "sweep"]

MIN_MARGIN_OF_CLEAR_START = 1.2
"""Margin of a start above which its rivals do clearly worse."""

MAX_LOSS_RATIO_OF_STATED_DEFOCUS = 2.0
"""A stated defocus is kept unless its loss exceeds the best one's by this factor.

Few epochs flatter a wide beam, whose patterns overlap more: near focus, wrong values had the lower loss by
factors up to 1.6.
"""

MAX_LOSS_RATIO_OF_OTHER_ORIENTATION = 0.97
"""A changed orientation is believed when its loss is below this share of the given one's."""

MAX_UNEXPLAINED_BY_STORED_PROBE = 0.6
"""Loss over that of the mean pattern, below which the probe of a file is believed to be about right."""

MAX_LOSS_RATIO_OF_STORED_PROBE = 1.1
"""The probe of a file is not focused again unless its loss exceeds that of another focus by this factor."""

PROBES_OF_ANY_PIXEL = ("focused", "from_patterns", "stored")
"""First guesses that are the same wave on wider pixels."""


@dataclass(frozen=True)
class Start:
    """What a sweep found.

    Attributes:
        defocus: angstrom, of the best candidate.
        orientation: a key of `ORIENTATIONS`.
        loss: of the best candidate after its last rung, 1 being shot noise.
        margin: loss of the best other candidate in the last rung over ``loss``; 1: undecided.
        tried: every candidate with its orientation, defocus, epochs and last loss.
        tells_sign: whether the probe of the file fits one of two twins only: that decides the phase's sign.
        unexplained: ``loss`` over that of the mean pattern; 0: not known.
    """

    defocus: float
    orientation: str
    loss: float
    margin: float
    tried: list[dict[str, Any]]
    tells_sign: bool = False
    unexplained: float = 0.0

    def steps(self) -> tuple[Call, ...]:
        """What has to be done to the scan."""
        room = "phaseloom.data.prepare"
        return tuple(Call(room, name, given) for name, given in (ORIENTATIONS | TWINS)[self.orientation])

    def lines(self, *, sign_is_known: bool) -> list[str]:
        """What was found, in sentences.

        Args:
            sign_is_known: whether the file or a lens with a stated defocus decides the sign of the phase.
        """
        rivals = (
            "clear"
            if self.margin > MIN_MARGIN_OF_CLEAR_START
            else "close: neighbouring candidates do as well"
        )
        if self.margin < 1:
            longest = max(one["epochs"] for one in self.tried)
            best = min((one for one in self.tried if one["epochs"] == longest), key=lambda one: one["loss"])
            other = f"{_describe_focus(best['defocus'])}, detector {best['orientation']}"
            rivals = f"kept, though a loss lower by {100 * (1 - self.margin):.0f} % was found in "
            rivals += f"{longest} epochs with: {other}"
        values = [one["defocus"] for one in self.tried]
        if len(set(values)) > 2 and self.defocus in (min(values), max(values)):
            rivals = "at the end of the range that was searched: the focus may lie farther away (start: "
            rivals += "{sweep: {span: ...}}), or the beam be wider than its window (prepare: pad)"
        place = _describe_focus(self.defocus)
        lines = [f"start: {place}, detector {self.orientation}; {rivals} (margin {self.margin:.2f})"]
        if not (sign_is_known or self.tells_sign):
            lines.append(
                "  nothing says how the detector lies: the sign of the phase is a guess (docs/calibration.md)"
            )
        if self.orientation != "as given":
            lines.append(
                f"  the patterns had to be {self.orientation} against the positions: check the file's axes"
            )
        return lines


def _describe_focus(defocus: float) -> str:
    side = "behind" if defocus > 0 else "before"
    return f"focus {LENGTH.show(abs(defocus), digits=4)} {side} the object" if defocus else "at the focus"


@dataclass(eq=False)
class _Candidate:
    orientation: str
    defocus: float
    scan: Scan4D
    build: Callable[[Scan4D, float], Ptychography]
    progress: Progress | None = None
    likelihood: Likelihood | None = None
    before: list[Callable[[Progress], None]] = field(default_factory=list)
    loss: float = math.inf

    def advance(self, epochs: int, seed: int) -> None:
        """Some more epochs; the optimiser goes on where it was."""
        if self.progress is None or self.likelihood is None:
            model = self.build(self.scan, self.defocus)
            optimizer = GaussNewton(optimizers.groups(model.parts(), {"object": 0.2, "probe": 0.4}))
            self.likelihood = Likelihood(model, self.scan, noise.amplitude)
            self.before = prepare_newton_steps(model, self.likelihood, optimizer, braked=True, eased=False)
            self.progress = Progress(model, optimizer)
        order = batches.random(np.arange(len(self.scan)), seed, size=8)
        last = self.progress.epoch + epochs
        for epoch in fit(self.likelihood, order, self.progress, before=self.before, epochs=last):
            self.loss = epoch.loss if math.isfinite(epoch.loss) else math.inf

    def measure_unexplained(self) -> float:
        """Its loss over that of a model that knows the mean pattern alone."""
        assert self.likelihood is not None
        return self.loss / max(self.likelihood.mean_pattern_loss, 1e-30)

    def as_row(self) -> dict[str, Any]:
        """What it was and what it came to."""
        epochs = self.progress.epoch if self.progress else 0
        known = {"orientation": self.orientation, "defocus": self.defocus}
        return known | {"epochs": epochs, "loss": self.loss}


def sweep(
    scan: Scan4D,
    probe: Call,
    seed: int = 0,
    /,
    *,
    span: Length | None = None,
    steps: int = 13,
    orientations: bool | None = None,
    patterns: int = 64,
    rungs: tuple[int, ...] = (5, 10, 15),
) -> Start | None:
    """Try defocus values on either side of the probe's own, and orientations, and keep the best.

    Args:
        scan: the data.
        probe: call of a first guess with a knob ``defocus``; one without is left alone.
        seed: of the order of patterns.
        span: farthest defocus tried, angstrom; default: all that the window can hold when the probe
            does not state a defocus, two depths of focus around it when it does.
        steps: defocus values.
        orientations: try the detector transposed and flipped too; default: when the file does not say
            how it lies.
        patterns: how many, around the middle of the scan.
        rungs: epochs after which three quarters of the candidates are given up; the best of each orientation
            stays.

    Returns:
        What was found; ``None`` where there is nothing to try.
    """
    if steps < 1 or patterns < 4:
        raise BadInput(
            "start: sweep", f"steps {steps}, patterns {patterns}", "needs 1 step and 4 patterns at least"
        )
    if min(rungs, default=0) < 1:
        raise BadInput("start: sweep.rungs", list(rungs), "must be one or more numbers of epochs from 1 up")
    few = _select_few(scan, patterns, crops=probe.name in PROBES_OF_ANY_PIXEL)
    turn = (not scan.oriented) if orientations is None else orientations
    base = float(probe.values.get("defocus", 0.0))
    ways = ([*ORIENTATIONS] + [*TWINS] * (base != 0 or scan.geometry.near)) if turn else ["as given"]
    values = _defocus_values(scan, probe, base, span, steps)
    if len(ways) * len(values) == 1:
        return None

    def build(data: Scan4D, defocus: float) -> Ptychography:
        single = {"modes": 1} if "modes" in knobs(probe.room, probe.name) else {}
        wanted = {**probe.values, **single} | ({"defocus": defocus} if len(values) > 1 else {})
        room = scans.canvas(data)
        guess = replace(probe, values=wanted)(data)
        return Ptychography.of(data, object=objects.pixels(room), probe=guess)

    if probe.name == "stored" and len(values) > 1:
        eight = {**ORIENTATIONS, **TWINS} if turn else ways
        stored = [_Candidate(way, base, _orient_scan(few, way), build) for way in eight]
        if near := _search_near_stored_probe(stored, rungs[:2], seed, values[1] - values[0]):
            return near
    turned = {way: _orient_scan(few, way) for way in ways}
    all_ = [_Candidate(way, value, turned[way], build) for way in ways for value in values]
    last = _race(all_, rungs, seed, base)
    found = _decide(all_, last, base)
    if base != 0 or found.defocus not in values[1:-1]:
        return found
    return _refine_defocus(found, all_, values[1] - values[0], seed)


def half_angle(scan: Scan4D, /, share: float = 0.95) -> float:
    """Half-angle in radian of the cone that holds a share of the counts."""
    mean = np.where(scan.mask, scan.mean_pattern(most=200), 0).clip(min=0)
    axes = [(np.arange(n) - n // 2) * a for n, a in zip(mean.shape, scan.geometry.angle, strict=True)]
    radius = np.hypot(axes[0][:, None], axes[1][None])
    order = np.argsort(radius, axis=None)
    inside = np.cumsum(mean.flat[order])
    return float(radius.flat[order][np.searchsorted(inside, share * inside[-1])])


def _defocus_values(scan: Scan4D, probe: Call, base: float, span: float | None, steps: int) -> list[float]:
    movable = "defocus" in knobs(probe.room, probe.name)
    if scan.geometry.near or not movable or steps == 1:
        return [base]
    aperture = probe.values.get("semiangle") or half_angle(scan)
    farthest = 0.9 * max_defocus(scan.geometry, aperture)
    depth = scan.geometry.wavelength / aperture**2
    width = span if span is not None else (farthest if base == 0 else min(farthest, 2 * depth))
    values = base + np.linspace(-width, width, steps)
    return [float(f"{value:.15g}") for value in values]  # what a parameter file can hold


def _select_few(scan: Scan4D, count: int, *, crops: bool) -> Scan4D:
    """Patterns around the middle, in memory; without the outer half of the detector where it is dark."""
    few = select_nearest(scan, count)
    few = replace(few, counts=np.asarray(few.counts[np.arange(len(few))]))
    if crops and not scan.geometry.near and has_empty_outer_half(few, at_most=MAX_LIGHT_LEFT_OUT):
        few = prepare.crop(few, to=(few.geometry.shape[0] // 2, few.geometry.shape[1] // 2))
    return few


def _orient_scan(scan: Scan4D, way: str) -> Scan4D:
    for name, given in (ORIENTATIONS | TWINS)[way]:
        scan = getattr(prepare, name)(scan, **given)
    return scan


def _race(all_: Sequence[_Candidate], rungs: tuple[int, ...], seed: int, base: float) -> list[_Candidate]:
    """Successive halving by four; the survivors of the last rung, best first. What was stated stays in."""
    left = list(all_)
    state = torch.random.get_rng_state()
    for number, epochs in enumerate(rungs):
        for candidate in left:
            candidate.advance(epochs, seed)
        left.sort(key=lambda candidate: candidate.loss)
        if number < len(rungs) - 1:
            kept = left[: max(3, len(left) // 4)]
            firsts = {candidate.orientation: candidate for candidate in reversed(left)}
            kept += [] if len(firsts) == len(left) else firsts.values()
            left = [c for c in left if c in kept or (base != 0 and c.defocus == base)]
    torch.random.set_rng_state(state)
    return left


def _refine_defocus(found: Start, all_: Sequence[_Candidate], step: float, seed: int) -> Start:
    """The defocus between the steps: half a step to either side, and where a parabola has its vertex."""
    known = {(candidate.orientation, candidate.defocus): candidate for candidate in all_}
    middle = known[found.orientation, found.defocus]
    assert middle.progress is not None
    sides = [
        _Candidate(middle.orientation, middle.defocus + part * step / 2, middle.scan, middle.build)
        for part in (-1, 1)
    ]
    state = torch.random.get_rng_state()
    for side in sides:
        side.advance(middle.progress.epoch, seed)
    torch.random.set_rng_state(state)
    defocus = _find_vertex(sides[0], middle, sides[1])
    return replace(found, defocus=defocus, tried=found.tried + [side.as_row() for side in sides])


def _find_vertex(lower: _Candidate, middle: _Candidate, upper: _Candidate) -> float:
    """Defocus at the vertex of the parabola through the logarithms of three losses, or at the lower end."""
    below, at, above = (math.log(max(one.loss, 1e-30)) for one in (lower, middle, upper))
    move = float(find_vertex(below, at, above))
    return float(f"{middle.defocus + max(-1.0, min(1.0, move)) * (upper.defocus - middle.defocus):.6g}")


def _search_near_stored_probe(
    stored: Sequence[_Candidate], rungs: tuple[int, ...], seed: int, step: float
) -> Start | None:
    """The orientation, of all eight, that fits the probe of the file, then the defocus from it downhill.

    Returns:
        ``None`` where that probe explains little, or two orientations alike.
    """
    last = _race(stored, rungs, seed, 0.0)
    best = _prefer_orientation_as_given(stored, last[0])
    twin = next((one for one in last if one.orientation == TWIN_OF[best.orientation]), None)
    has_sign = twin is None or twin.loss > MIN_MARGIN_OF_CLEAR_START * best.loss
    if twin is not None and not has_sign and best.orientation in TWINS:
        best, twin = twin, best
    rivals = [one.loss / best.loss for one in last if one not in (best, twin)]
    if min(rivals, default=math.inf) < MIN_MARGIN_OF_CLEAR_START:
        return None
    if best.measure_unexplained() > MAX_UNEXPLAINED_BY_STORED_PROBE:
        return None
    line, lowest = {0: best}, 0
    state = torch.random.get_rng_state()
    while missing := [place for place in (lowest - 1, lowest + 1) if place not in line]:
        for place in missing:
            line[place] = _Candidate(best.orientation, best.defocus + place * step, best.scan, best.build)
            line[place].advance(sum(rungs), seed)
        lowest = min(line, key=lambda place: line[place].loss)
    torch.random.set_rng_state(state)
    is_kept = best.loss < MAX_LOSS_RATIO_OF_STORED_PROBE * line[lowest].loss
    found = best if is_kept else line[lowest]
    defocus = best.defocus if is_kept else _find_vertex(line[lowest - 1], found, line[lowest + 1])
    tried = [*stored, *(one for place, one in line.items() if place)]
    margin = min(one.loss for one in tried if one is not found) / found.loss
    rows = [one.as_row() for one in tried]
    left = found.measure_unexplained()
    return Start(defocus, found.orientation, found.loss, margin, rows, tells_sign=has_sign, unexplained=left)


def _decide(all_: Sequence[_Candidate], last: list[_Candidate], base: float) -> Start:
    best = _prefer_orientation_as_given(all_, last[0])
    stated = [c for c in last if base != 0 and c.defocus == base]
    if (
        stated
        and (kept := _prefer_orientation_as_given(stated, stated[0])).loss
        < MAX_LOSS_RATIO_OF_STATED_DEFOCUS * best.loss
    ):
        best = kept
    others = [candidate.loss for candidate in last if candidate is not best]
    tried = [candidate.as_row() for candidate in all_]
    margin = min(others, default=math.inf) / best.loss
    left = best.measure_unexplained()
    return Start(best.defocus, best.orientation, best.loss, margin, tried, unexplained=left)


def _prefer_orientation_as_given(all_: Sequence[_Candidate], best: _Candidate) -> _Candidate:
    """The best one, unless the best as given is nearly as good."""
    given = [candidate for candidate in all_ if candidate.orientation == "as given"]
    own = min(given, key=lambda candidate: candidate.loss, default=best)
    return own if best.loss > MAX_LOSS_RATIO_OF_OTHER_ORIENTATION * own.loss else best
