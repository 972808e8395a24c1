"""The rungs of a calibration, from what is cheap and far-sighted to what is precise.

Each takes a scan as it was read and what is known so far, and gives what it found, with a margin and what it
tried (`phaseloom.calibration.state`). A better estimator of a quantity takes the place of one.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from phaseloom.calibration.orientations import ORIENTATIONS, TWIN_OF, TWINS, max_defocus
from phaseloom.calibration.refine import FORMATTERS, fit_geometry, loss_at_fixed_value
from phaseloom.calibration.state import (
    CalibrationState,
    Estimate,
    EstimatorResult,
    ShortRun,
    run_short,
    select_middle,
)
from phaseloom.data.calibrate import fit_disk
from phaseloom.data.scan import Scan4D
from phaseloom.direct.fit import fit_optics
from phaseloom.direct.reconstruct import IMAGE_BORDER, compute_skewness
from phaseloom.direct.solve import reconstruct_image
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics, orientation_matrix, turn_matrix
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_ramp
from phaseloom.physics.optics import to_cartesian, to_polar
from phaseloom.units import ANGLE, LENGTH

__all__ = ["check_detector_pixel", "estimate_orientation", "estimate_semiangle", "estimate_slices"]
__all__ += ["refine_geometry", "resolve_twin"]

SEMIANGLE_TOLERANCE = 0.015
"""Share by which a stated semi-angle may differ from that of the disk; or a quarter of a pixel, if more."""

MIN_MARGIN_OF_SHORT_RUNS = 1.1
"""Margin from which short runs decide by themselves."""

MIN_MARGIN_WITH_LINEAR_MODEL = 1.02
"""Margin from which they decide together with the linear model, if both name the same."""

MIN_GAIN_OF_LINEAR_MODEL = 60.0
"""Gain in deviance from which the linear model decides alone; the best of pure noise gains up to 40."""

PIXELS_OF_DIRECT_IMAGE = 300
"""Bright-field pixels of the image that tells peaks from pits."""

MAX_RIVALS = 3
"""Further optics that short runs judge."""

MIN_MARGIN_FOR_MORE_SLICES = 1.05
"""Margin by which more slices must explain patterns held out, to be taken."""

MIN_MARGIN_OF_REFINED_VALUE = 0.99
"""Margin below which short fits explain more with the value as given, which is kept."""

MAX_CORRECTION_OF_ROTATION = math.radians(5)
MAX_CORRECTION_OF_STEP = 0.05
"""A fit that moves farther from where the linear model puts the scan has diverged."""

MARGIN_OF_DIVERGED_FIT = 0.9
"""Margin of any value below which the fit has diverged and its results are discarded."""


def estimate_semiangle(scan: Scan4D, state: CalibrationState, /) -> EstimatorResult:
    """The semi-angle, from the disk of the mean pattern and the angle of a pixel."""
    stated = state.semiangle
    try:
        disk = fit_disk(np.where(scan.mask, scan.mean_pattern(), 0.0), mask=scan.mask)
    except BadInput as problem:
        if stated is None:
            fix = f"is not known, and the mean pattern shows none ({problem.fix}): write probe: focused"
            raise BadInput("preset: calibrate: semi-angle", None, fix) from None
        note = "the mean pattern shows no disk"
        return EstimatorResult(
            state, (Estimate("semi-angle", _mrad(stated), _mrad(stated), 1.0, False, note=note),)
        )
    unit = math.sqrt(math.prod(scan.geometry.angle))
    found = disk.radius * unit
    error = disk.radius_error * unit
    if stated is not None and abs(found - stated) < _semiangle_tolerance(scan, stated) * stated + 3 * error:
        note = f"the disk says {_mrad(found)}"
        return EstimatorResult(
            state, (Estimate("semi-angle", _mrad(stated), _mrad(stated), 1.0, True, _mrad(error), note),)
        )
    given = "nothing" if stated is None else _mrad(stated)
    told = Estimate("semi-angle", _mrad(found), given, math.inf, True, _mrad(error), "from the disk")
    return EstimatorResult(replace(state, semiangle=found), (told,))


def estimate_orientation(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 100, epochs: int = 6
) -> EstimatorResult:
    """How the detector lies, by which angle the scan is turned, defocus, astigmatism and step.

    The linear model of the bright field (`phaseloom.direct.fit`) searches all of them and judges. Where it is
    not clearly ahead with one, short runs of the best ones judge with it. Patterns tell everything but the
    twin: `resolve_twin`. The edge of the disk is taken sharp or blurred over a pixel: what explains more.
    """
    optics = LinearOptics(scan.geometry.wavelength, state.semiangle or 0.0)
    farthest = max(0.9 * max_defocus(scan.geometry, state.semiangle or 0.0), 1.2 * abs(state.defocus))
    fit = fit_optics(survey_disk(scan).measure(scan).transform(), optics, largest_defocus=farthest)
    few = select_middle(scan, patterns)
    top = _state_of(fit.optics, state)
    soft = _has_soft_edge(few, top, epochs)
    rivals = [_state_of(one.optics, state) for one in fit.rivals[:MAX_RIVALS]]
    note = f"a weak object explains {fit.explained:.0%} (margin {fit.margin:.3g})"
    rows = [_as_row_of_fit(one.optics, state) | {"share": one.explained} for one in fit.candidates]
    judged: list[ShortRun] = []
    margin = fit.margin
    decided = fit.gain > MIN_GAIN_OF_LINEAR_MODEL
    if not decided and rivals:
        judged = [run_short(few, replace(one, soft=soft), epochs=epochs, rates={}) for one in (top, *rivals)]
        best = min(judged, key=lambda one: one.loss)
        agreed = best is judged[0]
        others = [one.loss for one in judged if one is not best]
        by_runs = min(others) / best.loss
        decided = by_runs > (MIN_MARGIN_WITH_LINEAR_MODEL if agreed else MIN_MARGIN_OF_SHORT_RUNS)
        note += f", {'as' if agreed else 'not as'} short runs say (margin {by_runs:.3g})"
        margin = by_runs if decided else max(1.0, min(margin, by_runs))
        top = top if agreed else best.state
    found = replace(top if decided else state, soft=soft, certain=decided)
    if not decided and state.defocus == 0:
        found = replace(found, defocus=top.defocus)
    value = f"{found.orientation}, turned by {math.degrees(found.rotation):.2f} deg"
    lay = Estimate("orientation", value, state.orientation, margin, decided, note=note)
    return EstimatorResult(found, (lay,), [*rows, *map(_as_row, judged)])


def _state_of(optics: LinearOptics, state: CalibrationState) -> CalibrationState:
    """The optics of a linear fit as what is known of a scan, by the orientation that needs least rotation."""
    choices = []
    for name in ORIENTATIONS | TWINS:
        lay = replace(state, orientation=name, rotation=0.0, step=1.0).detector_frame().T
        turn = turn_matrix(float(optics.rotation)) @ orientation_matrix(optics.orientation).T @ lay
        if np.linalg.det(turn) > 0:
            choices.append((math.atan2(turn[0, 1], turn[0, 0]), name))
    rotation, name = min(choices, key=lambda one: (round(abs(one[0]), 6), list(TWIN_OF).index(one[1])))
    by = float(optics.rotation) - rotation  # the detector is turned by as much as the scan is no longer
    polar = to_polar({one: float(value) for one, value in optics.aberrations.items() if one != "C10"})
    kept = {
        one: value + by if one.startswith("phi") else value
        for one, value in polar.items()
        if one in ("C12", "phi12")
    }
    return replace(
        state,
        orientation=name,
        rotation=rotation,
        defocus=optics.defocus,
        step=float(optics.step),
        aberrations=kept,
    )


def _as_row_of_fit(optics: LinearOptics, state: CalibrationState) -> dict[str, Any]:
    one = _state_of(optics, state)
    return {"orientation": one.orientation, "rotation": one.rotation, "defocus": one.defocus}


def resolve_twin(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 144, epochs: int = 8
) -> EstimatorResult:
    """Which of two twins: patterns are the same for the scan turned by 180 degrees and everything conjugate.

    A stated defocus tells by its sign; else the phase of atoms, which are peaks and never pits for electrons;
    else the orientation stays one of the four that need no turn by 180 degrees. The phase is that of the
    direct image of the whole scan, or where there is no raster, of a short run.
    """
    stated = state.stated_value("defocus") or 0.0
    peaks = 0.0
    doubt = 1.0
    if scan.geometry.beam == "electron":
        if scan.grid is not None:
            peaks, doubt = _direct_skewness(scan, state)
        else:
            peaks, doubt = _phase_skewness(
                run_short(select_middle(scan, patterns), state, epochs=epochs, rates={})
            )
    atoms = int(np.sign(peaks)) if abs(peaks) > 3 * doubt else 0
    asked = int(np.sign(stated * state.defocus))
    other = replace(state, orientation=TWIN_OF[state.orientation], defocus=-state.defocus)
    kept = other if (asked or atoms) < 0 else state
    used = "the sign of the stated defocus" if asked else "atoms are peaks of phase" if atoms else "nothing"
    note = f"patterns cannot tell; used: {used}"
    if asked and atoms:
        against = "the opposite: is positive defocus under-focus in what you state?"
        note += f"; atoms as peaks of phase say {'the same' if asked == atoms else against}"
    twin = f"{kept.orientation}, {_side_of_focus(kept.defocus)}"
    told = Estimate("twin", twin, _side_of_focus(stated), 1.0, bool(asked or atoms), note=note)
    return EstimatorResult(kept, (told,), [{"skewness of phase": peaks, "its error": doubt}])


def refine_geometry(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 1024, epochs: int = 16
) -> EstimatorResult:
    """Defocus, rotation and step together, by gradients of all that explains the patterns.

    Where no lens explains the patterns, the probe is let free. The fit begins again from either side of where
    it ended, until that explains no more. Errors are what fits of half of the patterns differ by, or fits
    from either side that explain the patterns as well, to a part in a thousand. A value that lies within its
    error of the one given is kept as given, and so are rotation and step where the orientation is unknown.
    Margins compare with short fits that hold a value as given; where one of them explains clearly more, the
    fit has diverged and its results are discarded.
    """
    few = select_middle(scan, patterns)
    whole, halved, blurs, free = fit_geometry(few, state, epochs)
    asked = {"rotation": state.rotation, "step": state.step, "defocus": state.stated_value("defocus")}
    if state.certain and state.defocus:
        asked["defocus"] = state.defocus
    found = whole.state
    estimates = []
    base = loss_at_fixed_value(few, whole.state, "nothing")
    olds = {name: getattr(found, name) if given is None else given for name, given in asked.items()}
    margins = {
        name: loss_at_fixed_value(few, replace(found, **{name: old}), name) / base
        for name, old in olds.items()
    }
    turned = abs(whole.state.rotation - state.rotation)
    scaled = abs(whole.state.step / state.step - 1)
    astray = (
        min(margins.values()) < MARGIN_OF_DIVERGED_FIT
        or turned > MAX_CORRECTION_OF_ROTATION
        or scaled > MAX_CORRECTION_OF_STEP
    )
    for name, given in asked.items():
        value = getattr(whole.state, name)
        show = FORMATTERS[name]
        old = olds[name]
        margin = margins[name]
        sure = (
            margin > MIN_MARGIN_OF_REFINED_VALUE
            and not astray
            and (state.certain or (name == "defocus" and margin > MIN_MARGIN_OF_SHORT_RUNS))
        )
        decided = sure and (given is None or abs(value - given) > max(2 * halved[name], blurs[name]))
        found = found if decided else replace(found, **{name: old})
        told = show(value if decided else old), "nothing" if given is None else show(given)
        error = show(max(halved[name], blurs[name]))
        note = "" if decided else f"the fit says {show(value)} +- {error}"
        estimates.append(Estimate(name, *told, margin, decided, error if decided else "", note))
    row = {"loss": whole.loss, "blurred edge": state.soft, "free probe": free}
    found = replace(found, certain=state.certain and not astray)
    return EstimatorResult(found, tuple(estimates), [row])


def check_detector_pixel(scan: Scan4D, state: CalibrationState, /) -> EstimatorResult:
    """Whether the step was wrong, or the angle of a pixel: the patterns know only their product.

    A stated semi-angle tells, if the disk has another one by the same factor as the step.
    """
    stated = state.stated_value("semiangle")
    given = ANGLE.show(scan.geometry.angle[0])
    note = "" if state.step == 1 else "the patterns know only its product with the step, which was changed"
    agreed = stated is None or stated == state.semiangle
    square = math.isclose(*scan.geometry.angle, rel_tol=1e-6)
    ratio = 1.0 if stated is None else stated / (state.semiangle or stated)
    if (
        agreed
        or not square
        or state.step == 1
        or abs(state.step / ratio - 1) > _semiangle_tolerance(scan, stated or 1.0)
    ):
        if stated is not None and not agreed:
            note = f"the stated semi-angle, {_mrad(stated)}, is not that of the disk; the step tells not why"
        return EstimatorResult(state, (Estimate("pixel", given, given, 1.0, False, note=note),))
    defocus = state.defocus / state.step**2
    ratio = state.step
    found = replace(state, angle=ratio, step=1.0, semiangle=stated, defocus=defocus)
    note = "stated semi-angle and stated step agree on it"
    return EstimatorResult(
        found, (Estimate("pixel", ANGLE.show(ratio * scan.geometry.angle[0]), given, ratio, True, note=note),)
    )


def estimate_slices(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 144, epochs: int = 12
) -> EstimatorResult:
    """Slices and what lies between them: more than one only if they explain patterns held out clearly better.

    Runs of two and of four slices begin with half a depth of focus and refine it.
    """
    thing = state.setting.object.values
    if not state.certain:
        told = f"{int(thing.get('slices') or 1)}"
        note = "nothing so fine is looked for where orientation or geometry are not believed"
        return EstimatorResult(state, (Estimate("slices", told, told, 1.0, False, note=note),))
    given = int(thing.get("slices") or 1)
    gap = thing.get("thickness") or 0.0
    gap = float(np.mean(gap)) if given > 1 else 0.0
    few = select_middle(scan, patterns)
    focus = scan.geometry.wavelength / (state.semiangle or 1.0) ** 2
    wanted = {1: 0.0, 2: focus / 2, 4: focus / 4} | ({given: gap} if given > 1 else {})
    short_runs = {
        count: _run_with_slices(few, state, count, apart, epochs) for count, apart in wanted.items()
    }
    base = short_runs[given].held
    best = min(short_runs, key=lambda count: short_runs[count].held)
    fewest = next(
        count
        for count in sorted(short_runs)
        if short_runs[count].held < MIN_MARGIN_WITH_LINEAR_MODEL * short_runs[best].held
    )
    changed = fewest != given and base > MIN_MARGIN_FOR_MORE_SLICES * short_runs[fewest].held
    count = fewest if changed else given
    apart = short_runs[count].state.gap if changed else gap
    focused = (
        short_runs[count].state.defocus
        if changed and count > 1
        else _defocus_at_entrance(state, count, apart)
    )
    found = replace(state, slices=count, gap=apart, defocus=focused)
    value = f"{count}" + (f", {LENGTH.show(apart)} apart" if count > 1 else "")
    old = f"{given}" + (f", {LENGTH.show(gap)} apart" if given > 1 else "")
    rivals = [short_run.held for one, short_run in short_runs.items() if one != count]
    margin = (base if changed else min(rivals)) / short_runs[count].held
    note = "" if count == 1 else f"defocus at the first one {FORMATTERS['defocus'](found.defocus)}"
    told = Estimate("slices", value, old, margin, margin > MIN_MARGIN_WITH_LINEAR_MODEL, note=note)
    return EstimatorResult(
        found, (told,), [{"slices": n, "gap": t.state.gap, "held out": t.held} for n, t in short_runs.items()]
    )


def _semiangle_tolerance(scan: Scan4D, semiangle: float) -> float:
    """Share by which the disk of so few pixels may differ from what it is."""
    return max(SEMIANGLE_TOLERANCE, 0.25 * max(scan.geometry.angle) / semiangle)


def _mrad(value: float) -> str:
    return f"{1e3 * value:.4g} mrad"


def _side_of_focus(defocus: float) -> str:
    return "nothing" if defocus == 0 else "under-focus" if defocus > 0 else "over-focus"


def _as_row(short_run: ShortRun) -> dict[str, Any]:
    one = short_run.state
    where = {"orientation": one.orientation, "rotation": one.rotation, "defocus": one.defocus}
    return where | {"loss": short_run.loss}


def _has_soft_edge(scan: Scan4D, state: CalibrationState, epochs: int) -> bool:
    """Whether a blurred edge of the disk explains more than a sharp one."""
    sharp, blurred = (
        run_short(scan, replace(state, soft=b), epochs=epochs, rates={}).loss for b in (False, True)
    )
    return blurred < sharp


def _direct_skewness(scan: Scan4D, state: CalibrationState) -> tuple[float, float]:
    """How far the phase of the direct image leans to peaks, and the error that so many places leave."""
    ready = state.apply_to(scan)
    bright = survey_disk(ready).measure(ready, pixels=PIXELS_OF_DIRECT_IMAGE)
    named = to_cartesian({"C10": -state.defocus, **state.aberrations})
    optics = LinearOptics(ready.geometry.wavelength, state.semiangle or 0.0, named)
    image = reconstruct_image(optics, bright.transform(border=IMAGE_BORDER), border=IMAGE_BORDER)
    return compute_skewness(image.phase.double().numpy()), math.sqrt(6 / len(scan))


def _phase_skewness(short_run: ShortRun) -> tuple[float, float]:
    """How far the phase of an object leans to peaks, and the error that so many resolved details leave."""
    job = short_run.job
    phase = np.angle(job.model.object.transmission().detach().cpu().numpy()[0, 0])
    covered = job.model.coverage()
    lit = covered > 0.5 * covered.max()
    values = remove_ramp(phase, lit)[lit]
    detail = (job.scan.geometry.wavelength / (2 * (short_run.state.semiangle or 1.0))) ** 2
    cells = max(1.0, lit.sum() * math.prod(job.scan.geometry.pixel) / detail)
    return float((values**3).mean() / max((values**2).mean(), 1e-30) ** 1.5), math.sqrt(6 / cells)


def _defocus_at_entrance(state: CalibrationState, count: int, gap: float) -> float:
    """The defocus at the first of several slices, if one slice has found that of their middle."""
    return state.defocus + (count - 1) * gap / 2


def _run_with_slices(scan: Scan4D, state: CalibrationState, count: int, gap: float, epochs: int) -> ShortRun:
    """A run of so many slices, whose distances move, judged by patterns held out.

    One that ends with its first slice at the bottom is done again the right way up.
    """
    start = replace(state, slices=count, gap=gap, defocus=_defocus_at_entrance(state, count, gap))
    rates: dict[str, Any] = {"positions": {"rate": 1.0, "start": 4}}
    rates |= {"thickness": {"rate": 0.1, "start": 4}} if count > 1 else {}
    short_run = run_short(scan, start, epochs=epochs, rates=rates, holdout=0.1)
    gap = short_run.state.gap
    if gap >= 0:
        return short_run
    upright = replace(short_run.state, gap=-gap, defocus=short_run.state.defocus - (count - 1) * gap)
    return run_short(scan, upright, epochs=epochs, rates=rates, holdout=0.1)
