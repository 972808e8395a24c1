"""The rungs of a calibration, from what is cheap and far-sighted to what is precise.

Each takes a scan as it was read and what is known so far, and gives what it found, with a margin and what it
tried (`phaseloom.calibration.state`). A better estimator of a quantity takes the place of one.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from phaseloom.calibration.refine import FINE, fitted, held
from phaseloom.calibration.sidebands import Sidebands, sidebands
from phaseloom.calibration.state import TWIN, Finding, Known, Step, Trial, middle, short
from phaseloom.data.calibrate import fitted_disk
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_ramp
from phaseloom.reconstruction.start import ORIENTATIONS, reach
from phaseloom.units import ANGLE, LENGTH

__all__ = ["aperture", "depth", "geometry", "orientation", "pixel", "sign"]

ALIKE = 0.015
"""Share by which a stated semi-angle may differ from that of the disk; or a quarter of a pixel, if more."""

CLEAR = 1.1
"""Margin from which short runs decide by themselves."""

LEAST = 1.02
"""Margin from which they decide together with the sidebands, if both name the same."""

AHEAD = 1.4
"""Margin from which sidebands decide alone where short runs do not tell."""

WIDEST = 25
"""Details across the probe that a landscape tells apart; of wider probes, coarser details are looked at."""

SECTOR = math.radians(48)
"""Farthest rotation that is tried within an orientation: beyond, the neighbouring one takes over."""

SAME = 0.3
"""Rotation in radian below which two candidates are one."""

DEEPER = 1.05
"""Margin by which more slices must explain patterns held out, to be taken."""

WORSE = 0.99
"""Margin below which short fits explain more with the value as given, which is kept."""

ASTRAY = 0.9
"""Margin of any value below which a fit has gone astray, and nothing of it is believed."""


def aperture(scan: Scan4D, known: Known, /) -> Step:
    """The semi-angle, from the disk of the mean pattern and the angle of a pixel."""
    stated = known.semiangle
    try:
        disk = fitted_disk(np.where(scan.mask, scan.mean_pattern(), 0.0), mask=scan.mask)
    except BadInput as problem:
        if stated is None:
            fix = f"is not known, and the mean pattern shows none ({problem.fix}): write probe: focused"
            raise BadInput("preset: calibrate: semi-angle", None, fix) from None
        note = "the mean pattern shows no disk"
        return Step(known, (Finding("semi-angle", _mrad(stated), _mrad(stated), 1.0, False, note=note),))
    unit = math.sqrt(math.prod(scan.geometry.angle))
    found, error = disk.radius * unit, disk.radius_error * unit
    if stated is not None and abs(found - stated) < _coarse(scan, stated) * stated + 3 * error:
        note = f"the disk says {_mrad(found)}"
        return Step(
            known, (Finding("semi-angle", _mrad(stated), _mrad(stated), 1.0, True, _mrad(error), note),)
        )
    given = "nothing" if stated is None else _mrad(stated)
    told = Finding("semi-angle", _mrad(found), given, math.inf, True, _mrad(error), "from the disk")
    return Step(replace(known, semiangle=found), (told,))


def orientation(scan: Scan4D, known: Known, /, *, patterns: int = 100, epochs: int = 6) -> Step:
    """How the detector lies, roughly by which angle the scan is turned, and the defocus, of both signs.

    Sidebands of a thin object try all; short runs judge the best of each orientation and sign. Where counts
    are so few that short runs see no difference, the sidebands decide alone. Only the four orientations that
    patterns can tell apart are tried: `sign` tells them from those turned by 180 degrees. The edge of the
    disk is taken sharp or blurred over a pixel, whichever explains more.
    """
    seen, few = sidebands(middle(scan, 1600), known.semiangle or 0.0), middle(scan, patterns)
    landscape = [_landscape(scan, seen, replace(known, orientation=way)) for way in ORIENTATIONS]
    best = [_climbed(seen, known, rows, side) for rows in landscape for side in (-1, 1)]
    best.sort(key=lambda one: -one[1])
    top, share = best[0]
    soft = _edge(few, top, epochs)
    judged = [short(few, replace(one, soft=soft), epochs=epochs, rates={}) for one, _ in best]
    ahead = share / next(s for one, s in best if not _alike(one, top))
    first, margin, mirrored = _ranked(judged)
    agreed = _alike(top, first.known)
    note = (
        f"sidebands explain {share:.0%} (margin {ahead:.3g}), {'as' if agreed else 'not as'} short runs say"
    )
    decided = margin > (LEAST if agreed else CLEAR)
    if not decided and margin < CLEAR and ahead > AHEAD:
        first, margin, mirrored, decided, note = judged[0], ahead, ahead, True, f"only {note}"
    found = replace(first.known if decided else replace(known, soft=soft), certain=decided)
    if not decided and known.defocus == 0:
        found = replace(
            judged[0].known, orientation=known.orientation, rotation=known.rotation, certain=False
        )
    sides = _side(found.defocus), _side(known.defocus)
    findings = (
        Finding("orientation", found.orientation, known.orientation, margin, decided, note=note),
        Finding("focus side", *sides, mirrored, decided and mirrored > LEAST, note="as laid here"),
    )
    return Step(found, findings, [*(row for rows in landscape for row in rows), *map(_told, judged)])


def sign(scan: Scan4D, known: Known, /, *, patterns: int = 144, epochs: int = 8) -> Step:
    """Which of two twins: patterns are the same for the scan turned by 180 degrees and everything conjugate.

    A stated defocus tells by its sign; else the phase of atoms, which are peaks and never pits for electrons;
    else the orientation stays one of the four that need no turn by 180 degrees.
    """
    stated = known.stated("defocus") or 0.0
    peaks, doubt = 0.0, 1.0
    if scan.geometry.beam == "electron":
        peaks, doubt = _skewness(short(middle(scan, patterns), known, epochs=epochs, rates={}))
    atoms = int(np.sign(peaks)) if abs(peaks) > 3 * doubt else 0
    asked = int(np.sign(stated * known.defocus))
    other = replace(known, orientation=TWIN[known.orientation], defocus=-known.defocus)
    kept = other if (asked or atoms) < 0 else known
    used = "the sign of the stated defocus" if asked else "atoms are peaks of phase" if atoms else "nothing"
    note = f"patterns cannot tell; used: {used}"
    if asked and atoms:
        against = "the opposite: is positive defocus under-focus in what you state?"
        note += f"; atoms as peaks of phase say {'the same' if asked == atoms else against}"
    twin = f"{kept.orientation}, {_side(kept.defocus)}"
    told = Finding("twin", twin, _side(stated), 1.0, bool(asked or atoms), note=note)
    return Step(kept, (told,), [{"skewness of phase": peaks, "its error": doubt}])


def geometry(scan: Scan4D, known: Known, /, *, patterns: int = 1024, epochs: int = 16) -> Step:
    """Defocus, rotation and step together, by gradients of all that explains the patterns.

    Where no lens explains the patterns, the probe is let free. The fit begins again from either side of where
    it ended, until that explains no more. Errors are what fits of half of the patterns differ by, or fits
    from either side that explain the patterns as well, to a part in a thousand. A value that lies within its
    error of the one given is kept as given, and so are rotation and step where the orientation is unknown.
    Margins compare with short fits that hold a value as given; where one of them explains clearly more, the
    fit went astray, and nothing of it is believed.
    """
    few = middle(scan, patterns)
    whole, halved, blurs, free = fitted(few, known, epochs)
    asked = {"rotation": 0.0, "step": 1.0, "defocus": known.stated("defocus")}
    found, findings, base = whole.known, [], held(few, whole.known, "nothing")
    olds = {name: getattr(found, name) if given is None else given for name, given in asked.items()}
    margins = {name: held(few, replace(found, **{name: old}), name) / base for name, old in olds.items()}
    astray = min(margins.values()) < ASTRAY
    for name, given in asked.items():
        value, show, old, margin = getattr(whole.known, name), FINE[name], olds[name], margins[name]
        sure = margin > WORSE and not astray and (known.certain or (name == "defocus" and margin > CLEAR))
        decided = sure and (given is None or abs(value - given) > max(2 * halved[name], blurs[name]))
        found = found if decided else replace(found, **{name: old})
        told = show(value if decided else old), "nothing" if given is None else show(given)
        error = show(max(halved[name], blurs[name]))
        note = "" if decided else f"the fit says {show(value)} +- {error}"
        findings.append(Finding(name, *told, margin, decided, error if decided else "", note))
    row = {"loss": whole.loss, "blurred edge": known.soft, "free probe": free}
    found = replace(found, certain=known.certain and not astray)
    return Step(found, tuple(findings), [row])


def pixel(scan: Scan4D, known: Known, /) -> Step:
    """Whether the step was wrong, or the angle of a pixel: the patterns know only their product.

    A stated semi-angle tells, if the disk has another one by the same factor as the step.
    """
    stated = known.stated("semiangle")
    given = ANGLE.show(scan.geometry.angle[0])
    note = "" if known.step == 1 else "the patterns know only its product with the step, which was changed"
    agreed, square = (
        stated is None or stated == known.semiangle,
        math.isclose(*scan.geometry.angle, rel_tol=1e-6),
    )
    ratio = 1.0 if stated is None else stated / (known.semiangle or stated)
    if agreed or not square or known.step == 1 or abs(known.step / ratio - 1) > _coarse(scan, stated or 1.0):
        if stated is not None and not agreed:
            note = f"the stated semi-angle, {_mrad(stated)}, is not that of the disk; the step tells not why"
        return Step(known, (Finding("pixel", given, given, 1.0, False, note=note),))
    defocus, ratio = known.defocus / known.step**2, known.step
    found = replace(known, angle=ratio, step=1.0, semiangle=stated, defocus=defocus)
    note = "stated semi-angle and stated step agree on it"
    return Step(
        found, (Finding("pixel", ANGLE.show(ratio * scan.geometry.angle[0]), given, ratio, True, note=note),)
    )


def depth(scan: Scan4D, known: Known, /, *, patterns: int = 144, epochs: int = 12) -> Step:
    """Slices and what lies between them: more than one only if they explain patterns held out clearly better.

    Runs of two and of four slices begin with half a depth of focus and refine it.
    """
    thing = known.setting.object.values
    if not known.certain:
        told = f"{int(thing.get('slices') or 1)}"
        note = "nothing so fine is looked for where orientation or geometry are not believed"
        return Step(known, (Finding("slices", told, told, 1.0, False, note=note),))
    given, gap = int(thing.get("slices") or 1), thing.get("thickness") or 0.0
    gap = float(np.mean(gap)) if given > 1 else 0.0
    few, focus = middle(scan, patterns), scan.geometry.wavelength / (known.semiangle or 1.0) ** 2
    wanted = {1: 0.0, 2: focus / 2, 4: focus / 4} | ({given: gap} if given > 1 else {})
    trials = {count: _sliced(few, known, count, apart, epochs) for count, apart in wanted.items()}
    base = trials[given].held
    best = min(trials, key=lambda count: trials[count].held)
    fewest = next(count for count in sorted(trials) if trials[count].held < LEAST * trials[best].held)
    changed = fewest != given and base > DEEPER * trials[fewest].held
    count = fewest if changed else given
    apart = trials[count].known.gap if changed else gap
    focused = trials[count].known.defocus if changed and count > 1 else _entered(known, count, apart)
    found = replace(known, slices=count, gap=apart, defocus=focused)
    value = f"{count}" + (f", {LENGTH.show(apart)} apart" if count > 1 else "")
    old = f"{given}" + (f", {LENGTH.show(gap)} apart" if given > 1 else "")
    rivals = [trial.held for one, trial in trials.items() if one != count]
    margin = (base if changed else min(rivals)) / trials[count].held
    note = "" if count == 1 else f"defocus at the first one {FINE['defocus'](found.defocus)}"
    told = Finding("slices", value, old, margin, margin > LEAST, note=note)
    return Step(
        found, (told,), [{"slices": n, "gap": t.known.gap, "held out": t.held} for n, t in trials.items()]
    )


def _coarse(scan: Scan4D, semiangle: float) -> float:
    """Share by which the disk of so few pixels may differ from what it is."""
    return max(ALIKE, 0.25 * max(scan.geometry.angle) / semiangle)


def _mrad(value: float) -> str:
    return f"{1e3 * value:.4g} mrad"


def _side(defocus: float) -> str:
    return "nothing" if defocus == 0 else "under-focus" if defocus > 0 else "over-focus"


def _told(trial: Trial) -> dict[str, Any]:
    one = trial.known
    where = {"orientation": one.orientation, "rotation": one.rotation, "defocus": one.defocus}
    return where | {"loss": trial.loss}


def _landscape(scan: Scan4D, seen: Sidebands, known: Known) -> list[dict[str, Any]]:
    """Shares explained on a grid of rotations within 45 degrees and of defocus of both signs.

    Its steps move the rim of the probe by the finest detail that is looked at, which is coarser where the
    probe is wide.
    """
    angle = known.semiangle or 0.0
    spacing = math.sqrt(math.prod(np.ptp(scan.positions, axis=0)) / max(len(scan), 1))
    finest = max(spacing, seen.wavelength / (2.4 * angle))
    farthest, away, rows = max(0.9 * reach(scan.geometry, angle), 1.2 * abs(known.defocus)), 0.0, []
    while away <= farthest:
        detail = max(finest, 2 * away * angle / WIDEST)
        bands, sides = seen.strongest(150, 0.5 / detail), np.unique([-away, away])
        width = min(math.radians(9), detail / (2 * angle * max(away, 1e-9)))
        for turn in _middles(math.ceil(math.pi / 2 / width), math.pi / 4):
            shares = bands.explained(replace(known, rotation=turn).frame(), sides).tolist()
            where = {"orientation": known.orientation, "rotation": turn}
            rows += [{**where, "defocus": d, "share": s} for d, s in zip(sides.tolist(), shares, strict=True)]
        away += detail / angle
    return rows


def _middles(count: int, most: float) -> list[float]:
    """The middles of so many equal pieces from ``-most`` to ``most``."""
    return (((np.arange(count) + 0.5) / count * 2 - 1) * most).tolist()


def _climbed(seen: Sidebands, known: Known, rows: Sequence[dict[str, Any]], side: int) -> tuple[Known, float]:
    """The best of a landscape on one side of the focus, from where it goes up to the top."""
    best = max((row for row in rows if row["defocus"] * side >= 0), key=lambda row: row["share"])
    bands, known = seen.strongest(300), replace(known, orientation=best["orientation"])
    unit = seen.wavelength / (known.semiangle or 1.0) ** 2 / 4

    def lack(value: np.ndarray) -> float:
        if value[1] * side < 0 or abs(value[0]) > SECTOR:
            return 0.0
        frame = replace(known, rotation=float(value[0])).frame()
        return -float(bands.explained(frame, np.array([value[1] * unit]))[0])

    first = np.array([best["rotation"], best["defocus"] / unit])
    simplex = first + np.array([[0, 0], [0.05, 0], [0, 0.5]])
    top = minimize(lack, first, method="Nelder-Mead", options={"maxfev": 40, "initial_simplex": simplex})
    turn, defocus = float(top.x[0]), float(top.x[1] * unit)
    return replace(known, rotation=turn, defocus=defocus), -float(top.fun)


def _alike(one: Known, other: Known) -> bool:
    """Whether two candidates are the same, or twins of each other, up to a small rotation."""
    frames = [math.copysign(1, known.defocus) * known.frame() for known in (one, other)]
    return bool(np.abs(frames[0] - frames[1]).max() < SAME)


def _ranked(judged: Sequence[Trial]) -> tuple[Trial, float, float]:
    """The best trial, and its margins to the best of another orientation and of the other side of focus."""
    order = sorted(judged, key=lambda trial: trial.loss)
    first, rivals = order[0], [trial for trial in order if not _alike(trial.known, order[0].known)]
    other = next(t for t in rivals if t.known.orientation != first.known.orientation)
    mirrored = next(t for t in rivals if t.known.defocus * first.known.defocus <= 0)
    return first, other.loss / first.loss, mirrored.loss / first.loss


def _edge(scan: Scan4D, known: Known, epochs: int) -> bool:
    """Whether a blurred edge of the disk explains more than a sharp one."""
    sharp, blurred = (
        short(scan, replace(known, soft=b), epochs=epochs, rates={}).loss for b in (False, True)
    )
    return blurred < sharp


def _skewness(trial: Trial) -> tuple[float, float]:
    """How far the phase of an object leans to peaks, and the error that so many resolved details leave."""
    job = trial.job
    phase = np.angle(job.model.object.transmission().detach().cpu().numpy()[0, 0])
    covered = job.model.coverage()
    lit = covered > 0.5 * covered.max()
    values = remove_ramp(phase, lit)[lit]
    detail = (job.scan.geometry.wavelength / (2 * (trial.known.semiangle or 1.0))) ** 2
    cells = max(1.0, lit.sum() * math.prod(job.scan.geometry.pixel) / detail)
    return float((values**3).mean() / max((values**2).mean(), 1e-30) ** 1.5), math.sqrt(6 / cells)


def _entered(known: Known, count: int, gap: float) -> float:
    """The defocus at the first of several slices, if one slice has found that of their middle."""
    return known.defocus + (count - 1) * gap / 2


def _sliced(scan: Scan4D, known: Known, count: int, gap: float, epochs: int) -> Trial:
    """A run of so many slices, whose distances move, judged by patterns held out.

    One that ends with its first slice at the bottom is done again the right way up.
    """
    start = replace(known, slices=count, gap=gap, defocus=_entered(known, count, gap))
    rates: dict[str, Any] = {"positions": {"rate": 1.0, "start": 4}}
    rates |= {"thickness": {"rate": 0.1, "start": 4}} if count > 1 else {}
    trial = short(scan, start, epochs=epochs, rates=rates, holdout=0.1)
    gap = trial.known.gap
    if gap >= 0:
        return trial
    upright = replace(trial.known, gap=-gap, defocus=trial.known.defocus - (count - 1) * gap)
    return short(scan, upright, epochs=epochs, rates=rates, holdout=0.1)
