"""The rungs of a calibration, from what is cheap and far-sighted to what is precise.

Each takes a scan as it was read and what is known so far, and gives what it found, with a margin and what it
tried (`phaseloom.calibration.state`). A better estimator of a quantity takes the place of one.
"""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from phaseloom.calibration.orientations import ORIENTATIONS, TWIN_OF, TWINS, max_defocus
from phaseloom.calibration.refine import FORMATTERS, GEOMETRY_RATES, fit_geometry, loss_at_fixed_value
from phaseloom.calibration.state import (
    CalibrationState,
    Estimate,
    EstimatorResult,
    ShortRun,
    run_short,
    select_middle,
)
from phaseloom.calibration.step_profile import StepProfile, profile_step, refine_profile
from phaseloom.calibration.sweep import sweep
from phaseloom.calibration.twin_of_run import judge_twin_of_run
from phaseloom.data.calibrate import fit_disk
from phaseloom.data.scan import Scan4D
from phaseloom.direct.checks.folding import choose_upsample, may_be_folded
from phaseloom.direct.checks.handedness import fit_optics_and_hand
from phaseloom.direct.reconstruct import IMAGE_BORDER, describe_wrong_step, suggest_step
from phaseloom.direct.solve import reconstruct_image
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics, orientation_matrix, turn_matrix
from phaseloom.direct.twin import TwinEvidence, judge_twin
from phaseloom.errors import BadInput
from phaseloom.physics.optics import to_cartesian, to_polar
from phaseloom.spec import Call
from phaseloom.units import ANGLE, LENGTH

__all__ = [
    "check_by_sweep",
    "estimate_modes",
    "estimate_orientation",
    "estimate_semiangle",
    "estimate_slices",
    "estimate_step",
]
__all__ += ["refine_geometry", "resolve_twin"]

MIN_RADIUS_ERROR = 0.2
"""Detector pixels that the radius of a disk of whole pixels may be off: three times what it scatters by."""

MAX_CORRECTION_OF_PIXEL = 0.05
"""Share by which a stated angle of a pixel may be wrong; a disk farther off contradicts the semi-angle."""

MIN_MARGIN_OF_SHORT_RUNS = 1.1
"""Margin from which short runs decide by themselves."""

MIN_MARGIN_WITH_LINEAR_MODEL = 1.02
"""Margin from which they decide together with the linear model, if both name the same."""

MIN_SHARE_WITHOUT_SWEEP = 0.8
"""Share of the differences between patterns held out that a short run from the linear model explains, from
which no other start is looked for. Wrong ones explained up to 0.4, right ones of faulty scans 0.6 to 0.9."""

MAX_EXCESS_AFTER_SWEEP = 0.7
"""Share of the excess of the loss over shot noise that a swept start may leave of patterns held out, to be
taken in place of the linear model's. 0.98 and more was found of 12 faulty scans, on which the linear model is
right, up to 0.5 of two with few places and a strong object, on which it is wrong."""

MIN_GAIN_OF_SWEEP = 0.01
"""What the loss of patterns held out must fall by, in units of shot noise, to be more than chance."""

PIXELS_OF_DIRECT_IMAGE = 300
"""Bright-field pixels of the image that tells peaks from pits."""

MAX_RIVALS = 3
"""Further optics that short runs judge."""

MODES_OF_FOCAL_SPREAD = 3
"""Of a beam whose focus is spread by more than `MIN_FOCAL_SPREAD`, before those of a source are tried."""

COHERENCE_SETTINGS = ("modes", "shares", "source_size", "focal_spread")
"""Of a probe; where a user states one, nothing of the beam's coherence is looked for."""

MODES_OF_SOURCE = 6
"""Of a source of some size with the focal spread of the linear model."""

SOURCE_TO_TRY = 0.35
"""Standard deviation of that source, in ``wavelength / (2 semiangle)``. Free modes follow from it; from twice
or half of it they explained patterns held out nearly as well, from derivatives of one beam less."""

MAX_EXCESS_OF_SOURCE = 0.7
MIN_GAIN_OF_SOURCE = 0.005
"""Share of the excess of the loss over shot noise that a source may leave of patterns held out, to be taken
in place of one mode (0.75 to 1 was found of coherent scans), and what it must lower that loss by besides:
below 1 a share of its excess says nothing, and modes of a coherent source learn noise."""

MIN_GAIN_OF_SOURCE_WITH_SPREAD = 0.001
"""The latter in place of the modes of a focal spread, which tell already that the beam is partly coherent."""

MIN_FOCAL_SPREAD = 0.35
"""Focal spread, in depths of focus (wavelength / semiangle^2), from which a beam is partly coherent. Up to
0.27 was found of coherent thin scans, 0.56 to 0.71 of those with a spread of 20 to 60 angstrom."""

MIN_FOCAL_SPREAD_OF_THICK = 1.0
"""The same from which the object is taken for thick; a depth T spreads the focus by T / sqrt(12)."""

SLICE_IN_DEPTHS_OF_FOCUS = 0.6
"""Distance between slices with which their search begins."""

MAX_SLICES = 12
"""Slices that are tried at most."""

MAX_EXCESS_WITH_MORE_SLICES = 0.8
"""Share of the excess of the loss that more slices may leave of patterns held out, to be taken."""

MIN_GAIN_OF_SLICES = 0.01
"""What they must lower the loss of patterns held out by besides, in units of shot noise: where that is below
1, a share of its excess says nothing."""

MIN_MARGIN_OF_REFINED_VALUE = 0.99
"""Margin below which short fits explain more with the value as given, which is kept."""

MIN_MARGIN_OF_REFINED_STEP = 1.002
"""The same of the step, which fits move to make up for other things: right ones went 0.6, 1.0 and 1.6 %
astray, ten to 25 times their error, with margins of 1.000, 0.996 and 0.998; those that were found had 1.003
and more."""

HOLDOUT_OF_PROFILE = 0.15
"""Share of the patterns that judge the fits of a profile."""

MODES_OF_PROFILE = 3
"""Of the fits of a profile, at most."""

MIN_DEPTH_OF_PROFILE = 0.001
MIN_DEPTH_IN_EXCESS = 0.2
"""What a step 5 % off must cost of the loss, in units of shot noise and of what the model lacks."""

MIN_DEPTH_IN_EXCESS_TO_DOUBT = 0.03
MIN_DEVIATION_TO_DOUBT = 0.035
"""The share of what the model lacks, and of the step, from which another step is not taken but named. A
crystal at 5e5 electrons under a finite source, its step stated 11 % too long, had 0.04 at the true step."""

MAX_ERROR_OF_PROFILE = 0.03
"""Share of the step by which patterns learned from and those held out may disagree, each with their mean. Of
few patterns they do by 0.025, to either side of the true step."""

MIN_ERROR_OF_PROFILE = 0.004
"""Share of the step that a parabola through three fits may be off."""

MAX_DISTANCE_FROM_PROFILE = 0.015
"""Share of the step that one which was fitted may be off the profile: fits moved right ones by 3 to 5 %."""

MIN_WRONG_STEP = 0.03
"""Share by which a stated step must be off to be called wrong."""

MIN_DEVIATION_TO_REFINE = 0.015
"""Share of the step from which a profile is made finer before it is believed."""

MIN_CORRECTION_BY_PROFILE = 0.02
"""Share of the step below which a profile leaves it to `refine_geometry`, or as given. It was up to 2.2 % off
on eleven simulated scans, before it was made finer."""

MAX_CORRECTION_OF_ROTATION = math.radians(5)
MAX_CORRECTION_OF_STEP = 0.05
"""A fit that moves farther from where the linear model puts the scan has diverged."""

MARGIN_OF_DIVERGED_FIT = 0.9
"""Margin of any value below which the fit has diverged and its results are discarded."""


def estimate_semiangle(scan: Scan4D, state: CalibrationState, /) -> EstimatorResult:
    """The semi-angle, from the disk of the mean pattern and the angle of a pixel.

    A stated one is believed, and tells the angle of a pixel where the disk has a few per cent more or less.
    """
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
    if stated is None or abs(found / stated - 1) > MAX_CORRECTION_OF_PIXEL:
        given = "nothing" if stated is None else _mrad(stated)
        told = Estimate("semi-angle", _mrad(found), given, math.inf, True, _mrad(error), "from the disk")
        return EstimatorResult(replace(state, semiangle=found), (told,))
    note = f"the disk says {_mrad(found)}"
    kept = Estimate("semi-angle", _mrad(stated), _mrad(stated), 1.0, True, _mrad(error), note)
    square = math.isclose(*scan.geometry.angle, rel_tol=1e-6)
    if not square or abs(found - stated) < max(MIN_RADIUS_ERROR * unit, 3 * error):
        return EstimatorResult(state, (kept,))
    angle = stated / found
    before = ANGLE.show(scan.geometry.angle[0])
    after = ANGLE.show(float(f"{angle * scan.geometry.angle[0]:.5g}"))
    pixel = Estimate("pixel", after, before, angle, True, note="from the disk and the stated semi-angle")
    return EstimatorResult(replace(state, angle=angle), (kept, pixel))


def estimate_orientation(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 100, epochs: int = 6
) -> EstimatorResult:
    """How the detector lies, by which angle the scan is turned, defocus, astigmatism and step.

    The linear model of the bright field (`phaseloom.direct.fit`) searches all of them and judges. Where it is
    not clearly ahead with one, short runs of the best ones judge with it. Patterns tell everything but the
    twin: `resolve_twin`. The edge of the disk is taken sharp or blurred over a pixel: what explains more.
    """
    optics = LinearOptics(scan.geometry.wavelength, state.semiangle or 0.0, angle=state.angle)
    farthest = max(0.9 * max_defocus(scan.geometry, state.semiangle or 0.0), 1.2 * abs(state.defocus))
    survey = survey_disk(scan)
    spectrum = survey.measure(scan).transform()
    fit, overruled = fit_optics_and_hand(scan, survey, spectrum, optics, largest_defocus=farthest)
    few = select_middle(scan, patterns)
    top = _state_of(fit.optics, state)
    soft = _has_soft_edge(few, top, epochs)
    rivals = [_state_of(one.optics, state) for one in fit.rivals[:MAX_RIVALS]]
    note = f"a weak object explains {fit.explained:.0%} (margin {fit.margin:.3g})"
    note += f"; {overruled}" if overruled else ""
    rows = [_as_row_of_fit(one.optics, state) | {"share": one.explained} for one in fit.candidates]
    judged: list[ShortRun] = []
    margin = fit.margin
    decided = fit.is_clear
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
    found = replace(top if decided else state, soft=soft, certain=decided, suggested_step=fit.suggested_step)
    if not decided and state.defocus == 0:
        found = replace(found, defocus=top.defocus)
    if fit.is_step_free and decided:
        note += f"; {describe_wrong_step(found.step)}"
    elif fit.suggested_step is not None:
        note += f"; {suggest_step(fit.suggested_step)}"
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
    kept = {one: value + by if one.startswith("phi") else value for one, value in polar.items()}
    return replace(
        state,
        orientation=name,
        rotation=rotation,
        defocus=optics.defocus,
        step=float(optics.step),
        focal_spread=abs(float(optics.focal_spread)),
        aberrations=kept,
    )


def _as_row_of_fit(optics: LinearOptics, state: CalibrationState) -> dict[str, Any]:
    one = _state_of(optics, state)
    return {"orientation": one.orientation, "rotation": one.rotation, "defocus": one.defocus}


_KNOBS_OF_FREE_PROBE: dict[str, Any] = {
    "rates": {**GEOMETRY_RATES, "positions": {"rate": 1.0, "start": 4}},
    "free": True,
    "holdout": 0.1,
}
"""Of short runs that judge orientations and modes: `estimate_modes` takes over those of `check_by_sweep`."""


def check_by_sweep(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 256, epochs: int = 10
) -> EstimatorResult:
    """Whether short runs from other defocus values and orientations explain patterns held out better.

    The linear model fails on few places of a strong object. Where a short run from what it found leaves much
    unexplained, `phaseloom.calibration.sweep` tries others, without rotation and aberrations.
    """
    few = select_middle(scan, patterns)
    knobs: dict[str, Any] = {**_KNOBS_OF_FREE_PROBE, "epochs": epochs}
    modes = _count_fewest_modes(scan, state)
    linear = run_short(few, state, **knobs, modes=modes)
    share = linear.explained
    state = replace(state, held_out={modes: linear.held}, twin=_judge_twin(linear))
    if state.certain and share is not None and share > MIN_SHARE_WITHOUT_SWEEP:
        return EstimatorResult(state)
    probe = Call("phaseloom.ptycho.probes", "focused", {"semiangle": state.semiangle})
    start = sweep(few, probe, state.setting.seed, orientations=True)
    if start is None:
        return EstimatorResult(state)
    plain: dict[str, Any] = {"rotation": 0.0, "step": 1.0, "aberrations": {}, "focal_spread": 0.0}
    plain |= {"certain": True, "held_out": {}}
    other = replace(state, orientation=start.orientation, defocus=start.defocus, **plain)
    swept = run_short(few, other, **knobs, modes=modes)
    rows = [{**_as_row(one), "held out": one.held} for one in (linear, swept)]
    gain = linear.held - swept.held
    if gain < MIN_GAIN_OF_SWEEP or swept.held - 1 > MAX_EXCESS_AFTER_SWEEP * (linear.held - 1):
        return EstimatorResult(state, (), rows)
    side = f"{start.orientation}, focus {FORMATTERS['defocus'](start.defocus)}"
    note = "short runs from a sweep explain patterns held out better than those from the linear model"
    told = Estimate("sweep", side, state.orientation, linear.held / swept.held, True, note=note)
    return EstimatorResult(replace(other, twin=_judge_twin(swept)), (told,), rows)


def _judge_twin(short_run: ShortRun) -> TwinEvidence | None:
    """What the phase of a short run says of its twin; ``None``: it is not of electrons."""
    scan = short_run.job.scan
    if scan.geometry.beam != "electron":
        return None
    return judge_twin_of_run(scan, short_run.job.model, semiangle=short_run.state.semiangle or 1.0)


def resolve_twin(scan: Scan4D, state: CalibrationState, /) -> EstimatorResult:
    """Which of two twins: patterns are the same for the scan turned by 180 degrees and everything conjugate.

    A stated defocus decides by its sign; else the dark field, which is bright where the phase of electrons
    is, and that atoms are peaks of the phase (`phaseloom.direct.twin`), by the short run of `check_by_sweep`
    and the direct image of a raster. Else the orientation stays one of the four that need no turn by 180
    degrees.
    """
    stated = state.stated_value("defocus") or 0.0
    evidence = TwinEvidence(0.0, None)
    if scan.geometry.beam == "electron":
        direct = evidence if scan.grid is None else _judge_by_direct_image(scan, state)
        evidence = direct.combine(state.twin)
    asked = int(np.sign(stated * state.defocus))
    kept = _get_twin(state) if (asked or evidence.sign) < 0 else state
    used = "the sign of the stated defocus" if asked else evidence.describe()
    note = f"the bright field of both is the same; used: {used}"
    if asked and evidence.sign:
        against = "the opposite: is positive defocus under-focus in what you state?"
        agrees = asked == evidence.sign
        note += f"; {evidence.describe()}, which says {'the same' if agrees else against}"
    twin = f"{kept.orientation}, {_side_of_focus(kept.defocus)}"
    decided = bool(asked or evidence.sign)
    is_guess = decided and not asked and not evidence.is_safe
    found = Estimate("twin", twin, _side_of_focus(stated), 1.0, decided, note=note, is_guess=is_guess)
    return EstimatorResult(kept, (found,), [asdict(evidence)])


def estimate_modes(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 256, epochs: int = 10
) -> EstimatorResult:
    """Incoherent modes of the beam: more than one only if they explain patterns held out clearly better.

    One is compared with those of a source of `SOURCE_TO_TRY`, from which the modes of the run follow. A weak
    object looks through a source of some size like a blurred one through a point, so that a run that begins
    with the modes of a point makes its fine details too faint.
    """
    asked = state.setting.probe.values
    stated = asked.get("modes")
    is_stated = any(asked.get(name) is not None for name in COHERENCE_SETTINGS)
    if is_stated or not state.certain:
        why = "stated" if is_stated else "the orientation is not believed"
        kept = "default" if stated is None else f"{int(stated)}"
        found = state if stated is None else replace(state, modes=int(stated))
        return EstimatorResult(found, (Estimate("modes", kept, kept, 1.0, stated is not None, note=why),))
    few = select_middle(scan, patterns)
    knobs: dict[str, Any] = {**_KNOBS_OF_FREE_PROBE, "epochs": epochs}
    fewest = _count_fewest_modes(scan, state)
    partial = fewest > 1
    before = state.held_out.get(fewest)  # a run that `check_by_sweep` has made alike is not made again
    if before is None:
        before = run_short(few, state, **knobs, modes=fewest).held
    size = SOURCE_TO_TRY * scan.geometry.wavelength / (2 * (state.semiangle or 1.0))
    source = replace(state, source_size=size)
    held = run_short(few, source, **knobs, modes=MODES_OF_SOURCE).held
    least = MIN_GAIN_OF_SOURCE_WITH_SPREAD if partial else MIN_GAIN_OF_SOURCE
    is_source = before - held > least and (partial or held - 1 < MAX_EXCESS_OF_SOURCE * max(before - 1, 0))
    found = replace(source, modes=MODES_OF_SOURCE) if is_source else replace(state, modes=fewest)
    notes = []
    if found.is_partly_coherent:
        notes.append("the beam is partly coherent: the whole run refines the rotation")
    if is_source:
        notes.append(f"a source of {_show_length(size)} is assumed, its size is not measured")
    if partial:
        notes.append(f"the focus is spread by {_show_length(state.focal_spread)}, or the object thick")
    margin = before / held if is_source else held / before
    told = Estimate("modes", f"{found.modes}", "nothing", margin, True, note="; ".join(notes))
    tried = {fewest: before, MODES_OF_SOURCE: held}
    return EstimatorResult(found, (told,), [{"modes": n, "held out": value} for n, value in tried.items()])


def _count_fewest_modes(scan: Scan4D, state: CalibrationState) -> int:
    """One, or those of a focal spread where the linear model sees one."""
    partial = state.focal_spread > MIN_FOCAL_SPREAD * state.depth_of_focus(scan)
    return MODES_OF_FOCAL_SPREAD if partial else 1


def _show_length(size: float) -> str:
    """A length with three digits, as a line tells it."""
    return LENGTH.show(float(f"{size:.3g}"))


def estimate_step(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 256, epochs: int = 30
) -> EstimatorResult:
    """The step of all positions, by short fits from a flat object that hold it.

    It is found where a step a little off explains patterns seen and patterns held out worse, by more than a
    part of what the model lacks (`phaseloom.calibration.step_profile`). A value that lies within its error of
    the one given is kept as given.
    """
    if not state.certain:
        return EstimatorResult(state)
    few = select_middle(scan, patterns)
    knobs: dict[str, Any] = {"epochs": epochs, "rates": {"rotation": GEOMETRY_RATES["rotation"]}}
    knobs |= {"free": True, "holdout": HOLDOUT_OF_PROFILE, "modes": min(state.modes or 1, MODES_OF_PROFILE)}
    fitted: dict[float, ShortRun] = {}

    def fit(shift: float) -> tuple[float, float]:
        fitted[shift] = one = run_short(few, replace(state, step=state.step * math.exp(shift)), **knobs)
        return one.loss, one.held

    profile = profile_step(fit)
    if _is_clear(profile) and abs(profile.minimum or 0.0) > MIN_DEVIATION_TO_REFINE:
        profile = refine_profile(profile, fit)
    rows = [asdict(point) | {"defocus": fitted[point.shift].state.defocus} for point in profile.points]
    show = FORMATTERS["step"]
    minimum, error = profile.minimum, profile.error
    if minimum is None or not _is_clear(profile):
        doubted = _find_doubted_step(profile)
        note = "the patterns do not show the step by themselves"
        if doubted is not None:
            note = f"short fits explain more with {show(state.step * doubted)}, too little to take it"
        new = _return_to_stated_step(replace(state, step_by_profile=None, doubted_step=doubted))
        kept = Estimate("step profile", show(new.step), show(new.step), 1.0, False, note=note)
        kept = replace(kept, is_of_linear_model=_is_of_linear_model(new, "step"))
        return EstimatorResult(new, (kept,), rows)
    found = state.step * math.exp(minimum)
    best = profile.points[profile.best]
    margin = next(one.held for one in profile.points if one.shift == 0) / best.held
    is_other = abs(minimum) > max(MIN_CORRECTION_BY_PROFILE, error)
    spread = found * max(error, MIN_ERROR_OF_PROFILE)
    note = describe_wrong_step(found) if is_other and abs(found - 1) > MIN_WRONG_STEP else ""
    told = Estimate("step profile", show(found), show(state.step), margin, True, show(spread), note)
    told = replace(told, is_of_linear_model=_is_of_linear_model(state, "step"))
    new = replace(state, step_by_profile=(found, spread))
    if not is_other:  # it decides between the step stated and that of the linear model
        new = _return_to_stated_step(new) if abs(found - 1) < abs(found - state.step) else new
        return EstimatorResult(new, (told,), rows)
    shifts = [one.shift for one in profile.points]
    focus = float(np.interp(minimum, shifts, [fitted[one].state.defocus for one in shifts]))
    return EstimatorResult(
        replace(new, step=found, defocus=focus, suggested_step=None, held_out={}), (told,), rows
    )


def _return_to_stated_step(state: CalibrationState) -> CalibrationState:
    """The state with the step that was stated, unless the linear model has shown that to be wrong altogether.

    Short fits show the step or not; that of the linear model is off by as much as one stated is, and by up to
    a per cent where patterns are bright.
    """
    if abs(state.step - 1) > MIN_WRONG_STEP:
        return state
    doubted = None if state.doubted_step is None else state.doubted_step * state.step
    # details of the bright field move by the defocus times an angle, in units of the step
    return replace(state, step=1.0, defocus=state.defocus / state.step, doubted_step=doubted, held_out={})


def _is_clear(profile: StepProfile, share: float = MIN_DEPTH_IN_EXCESS) -> bool:
    """Whether a profile has a minimum that neither noise nor what the model lacks could make."""
    excess = max(profile.points[profile.best].mean - 1, 0.0)
    least = max(MIN_DEPTH_OF_PROFILE, share * excess)
    return profile.error < MAX_ERROR_OF_PROFILE and profile.depth > least


def _find_doubted_step(profile: StepProfile) -> float | None:
    """The factor on the step that explains more, though not by enough to be taken, if any."""
    minimum = profile.minimum
    if minimum is None or not _is_clear(profile, MIN_DEPTH_IN_EXCESS_TO_DOUBT):
        return None
    return math.exp(minimum) if abs(minimum) > max(MIN_DEVIATION_TO_DOUBT, profile.error) else None


def refine_geometry(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 400, epochs: int = 10
) -> EstimatorResult:
    """Defocus, rotation and step together, by gradients of all that explains the patterns.

    Where no lens explains the patterns, the probe is let free. The fit begins again from either side of where
    it ended, until that explains no more. Errors are what fits of half of the patterns differ by, or fits
    from either side that explain the patterns as well, to a part in a thousand. A value that lies within its
    error of the one given is kept as given, and so are rotation and step where the orientation is unknown.
    Margins compare with short fits that hold a value as given; where one of them explains clearly more, the
    fit has diverged and its results are discarded. The step moves only where `estimate_step` has shown it,
    and no farther than that allows.
    """
    if state.is_partly_coherent:
        kept = {name: FORMATTERS[name](getattr(state, name)) for name in ("rotation", "step", "defocus")}
        notes = dict.fromkeys(kept, "from the linear model; the whole run refines it")
        notes["step"] = "as stated" if state.step == 1 else "from the linear model"
        if state.step_by_profile is not None:
            notes["step"] = (
                f"within {100 * MIN_CORRECTION_BY_PROFILE:g} % of what short fits that hold it show"
            )
        lines = [Estimate(name, value, value, 1.0, True, note=notes[name]) for name, value in kept.items()]
        return EstimatorResult(state, tuple(lines))
    few = select_middle(scan, patterns)
    whole, halved, blurs, free = _fit_geometry_near_profile(few, state, epochs)
    asked = {"rotation": state.rotation, "step": state.step, "defocus": state.stated_value("defocus")}
    if state.certain and state.defocus:
        asked["defocus"] = state.defocus
    found = replace(whole.state, step_by_profile=state.step_by_profile)
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
            margin > (MIN_MARGIN_OF_REFINED_STEP if name == "step" else MIN_MARGIN_OF_REFINED_VALUE)
            and not astray
            and (name != "step" or state.step_by_profile is not None)
            and (state.certain or (name == "defocus" and margin > MIN_MARGIN_OF_SHORT_RUNS))
        )
        decided = sure and (given is None or abs(value - given) > max(2 * halved[name], blurs[name]))
        found = found if decided else replace(found, **{name: old})
        told = show(value if decided else old), "nothing" if given is None else show(given)
        error = show(max(halved[name], blurs[name]))
        note = "" if decided else f"the fit says {show(value)} +- {error}"
        one = Estimate(name, *told, margin, decided, error if decided else "", note)
        estimates.append(replace(one, is_of_linear_model=_is_of_linear_model(state, name)))
    row = {"loss": whole.loss, "blurred edge": state.soft, "free probe": free}
    found = replace(found, certain=state.certain and not astray)
    return EstimatorResult(found, tuple(estimates), [row])


def _is_of_linear_model(state: CalibrationState, name: str) -> bool:
    """Whether the linear model has moved a value of the geometry that nothing has moved since."""
    usual = {"rotation": 0.0, "step": 1.0}
    if name not in usual or (name == "step" and state.step_by_profile is not None):
        return False
    show = FORMATTERS[name]
    return show(getattr(state, name)) != show(usual[name])


def _fit_geometry_near_profile(
    few: Scan4D, state: CalibrationState, epochs: int
) -> tuple[ShortRun, dict[str, float], dict[str, float], bool]:
    """The fit of a geometry; with the step held, if it left the one that fits with a step held have shown."""
    found = fit_geometry(few, state, epochs)
    shown = state.step_by_profile
    if shown is None or abs(found[0].state.step / shown[0] - 1) < MAX_DISTANCE_FROM_PROFILE:
        return found
    return fit_geometry(few, replace(state, step_by_profile=None), epochs)


def estimate_slices(
    scan: Scan4D, state: CalibrationState, /, *, patterns: int = 144, epochs: int = 12
) -> EstimatorResult:
    """Slices and what lies between them: more than one only if they explain patterns held out clearly better.

    Two are tried, or as many as the depth that a large focal spread of the linear model stands for; the run
    refines the distance between them. A number of slices that the recipe states is kept.
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
    stated, entrance = _run_with_stated_slices(few, state, given, gap, epochs)
    short_runs = {given: stated}
    count = given
    wanted = _count_slices_to_try(scan, state) if thing.get("slices") is None else given
    if wanted != given:
        excess = MAX_EXCESS_WITH_MORE_SLICES * max(stated.held - 1, 0.0)
        limit = min(stated.held - MIN_GAIN_OF_SLICES, 1 + excess)
        apart = _space_slices(state, wanted, state.depth_of_focus(scan))
        short_runs[wanted] = _run_with_slices(few, state, wanted, apart, epochs)
        if limit <= short_runs[wanted].held < stated.held - MIN_GAIN_OF_SLICES:
            as_found = _run_with_slices(few, state, wanted, apart, epochs, entrance=state.defocus)
            short_runs[wanted] = min(short_runs[wanted], as_found, key=lambda one: one.held)
        count = wanted if short_runs[wanted].held < limit else given
    changed = count != given
    apart = short_runs[count].state.gap if changed else gap
    focused = short_runs[count].state.defocus if changed else entrance
    found = replace(state, slices=count, gap=apart, defocus=focused)
    value = f"{count}" + (f", {LENGTH.show(apart)} apart" if count > 1 else "")
    old = f"{given}" + (f", {LENGTH.show(gap)} apart" if given > 1 else "")
    rivals = [short_run.held for one, short_run in short_runs.items() if one != count]
    margin = min(rivals) / short_runs[count].held if rivals else 1.0
    note = "" if count == 1 else f"defocus at the first one {FORMATTERS['defocus'](found.defocus)}"
    told = Estimate("slices", value, old, margin, True, note=note)
    return EstimatorResult(
        found, (told,), [{"slices": n, "gap": t.state.gap, "held out": t.held} for n, t in short_runs.items()]
    )


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


def _get_twin(state: CalibrationState) -> CalibrationState:
    """The state that explains the patterns alike: ``chi(k)`` becomes ``-chi(-k)``."""
    opposite = {
        name: -value if name.startswith("C") and int(name[1]) % 2 else value
        for name, value in state.aberrations.items()
    }
    turned = TWIN_OF[state.orientation]
    return replace(state, orientation=turned, defocus=-state.defocus, aberrations=opposite)


def _judge_by_direct_image(scan: Scan4D, state: CalibrationState) -> TwinEvidence:
    """What phase and dark field say of the state's twin, by the direct image of the whole scan."""
    ready = state.apply_to(scan)
    survey = survey_disk(ready)
    bright = survey.measure(ready, pixels=PIXELS_OF_DIRECT_IMAGE)
    named = to_cartesian({"C10": -state.defocus, **state.aberrations})
    optics = LinearOptics(ready.geometry.wavelength, state.semiangle or 0.0, named)
    spectrum = bright.transform(border=IMAGE_BORDER)
    upsample = choose_upsample(spectrum, optics) if may_be_folded(spectrum, optics) else 1
    image = reconstruct_image(optics, spectrum, border=IMAGE_BORDER, upsample=upsample)
    return judge_twin(ready, survey, optics, image.phase.double().numpy())


def _defocus_at_entrance(state: CalibrationState, count: int, gap: float) -> float:
    """The defocus at the first of several slices, if one slice has found that of their middle."""
    return state.defocus + (count - 1) * gap / 2


def _count_slices_to_try(scan: Scan4D, state: CalibrationState) -> int:
    """Two, or what the depth needs that the linear model takes for a spread of focus."""
    in_focus = state.focal_spread / state.depth_of_focus(scan)
    if in_focus < MIN_FOCAL_SPREAD_OF_THICK:
        return 2
    return min(MAX_SLICES, math.ceil(math.sqrt(12) * in_focus / SLICE_IN_DEPTHS_OF_FOCUS))


def _space_slices(state: CalibrationState, count: int, depth_of_focus: float) -> float:
    """Distance of so many slices, in angstrom, to begin with."""
    if count <= 2:
        return SLICE_IN_DEPTHS_OF_FOCUS * depth_of_focus
    least = 2 * SLICE_IN_DEPTHS_OF_FOCUS * depth_of_focus
    return max(math.sqrt(12) * state.focal_spread, least) / count


def _run_with_stated_slices(
    scan: Scan4D, state: CalibrationState, count: int, gap: float, epochs: int
) -> tuple[ShortRun, float]:
    """A run of the slices that a recipe states, and its defocus at the first one.

    One slice finds the defocus of the middle of several, or that of the one by which patterns differ most.
    """
    entrance = _defocus_at_entrance(state, count, gap)
    short_run = _run_with_slices(scan, state, count, gap, epochs)
    if count > 1:
        as_found = _run_with_slices(scan, state, count, gap, epochs, entrance=state.defocus)
        if as_found.held < short_run.held:
            return as_found, state.defocus
    return short_run, entrance


def _run_with_slices(
    scan: Scan4D,
    state: CalibrationState,
    count: int,
    gap: float,
    epochs: int,
    *,
    entrance: float | None = None,
) -> ShortRun:
    """A run of so many slices, whose distances move, judged by patterns held out.

    One that ends with its first slice at the bottom is done again the right way up. Without a defocus at the
    ``entrance`` the one of the state is that of the middle.
    """
    defocus = _defocus_at_entrance(state, count, gap) if entrance is None else entrance
    start = replace(state, slices=count, gap=gap, defocus=defocus)
    rates: dict[str, Any] = {"positions": {"rate": 1.0, "start": 4}}
    rates |= {"thickness": {"rate": 0.1, "start": 4}} if count > 1 else {}
    modes = state.modes or 1
    knobs: dict[str, Any] = {"epochs": epochs, "rates": rates, "holdout": 0.1}
    knobs |= {"modes": modes, "free": modes > 1}
    short_run = run_short(scan, start, **knobs)
    gap = short_run.state.gap
    if gap >= 0:
        return short_run
    upright = replace(short_run.state, gap=-gap, defocus=short_run.state.defocus - (count - 1) * gap)
    return run_short(scan, upright, **knobs)
