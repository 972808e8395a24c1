"""Whether a result can be trusted, in a paragraph for readers from outside of the field."""

import math
from typing import TYPE_CHECKING

import numpy as np

from phaseloom.fitting.outcome import Verdict
from phaseloom.metrics.linear_map import fit_linear_map
from phaseloom.metrics.scan_area import measure_area_per_position
from phaseloom.units import LENGTH

if TYPE_CHECKING:
    from phaseloom.result import Result

__all__ = ["describe_trust"]

LEADS = {
    Verdict.CONVERGED: "The picture can be used.",
    Verdict.LEVELLED: "The picture can be used with care: the model does not explain all that was measured.",
    Verdict.STILL_FALLING: "The picture was still improving when the run ended: a longer run is better.",
    Verdict.DOUBTFUL: "The picture is not confirmed: do not interpret it yet.",
    Verdict.OVERFITTING: "The picture began to show noise as structure: fewer epochs are better.",
    Verdict.WRONG_START: "The picture is probably wrong: something stated about the experiment does not fit.",
    Verdict.STEPS_TOO_LONG: "The picture is not finished: the run did not settle.",
    Verdict.INTERRUPTED: "The run was stopped early: the picture is not finished.",
    Verdict.BROKE_DOWN: "The run failed: the picture means nothing.",
    Verdict.NOTHING_LEARNED: "The run did nothing yet: there is no picture.",
    Verdict.NOT_JUDGED: (
        "The picture could not be judged: the data are not counts of single particles, or too few overlap."
    ),
}
"""What each verdict means for somebody who wants to use the picture."""

UNPROVEN = "The fit is complete, which proves little here."
"""The lead of a fit that has converged to patterns of which counting noise hides the differences, or of too
few epochs for it to be measured."""

MIN_LIKENESS = 0.75
MIN_RESEMBLANCE = 0.4
"""Correlations of two pictures from which they are the same, and similar."""

MIN_SHARE_TO_MISLEAD = 0.5
"""Share explained from which a reader may take a picture for right whatever its verdict is."""

MIN_PLACES_MATTER = 0.4
"""Share by which right positions leave less unexplained, from which they matter."""

MIN_STRETCH = 1.5
"""Per cent by which positions were stretched on the whole, from which it is said."""

MIN_POSITIONS_OF_STRETCH = 16
MIN_WIDTH_OF_STRETCH = 0.1
"""Width of a scan over its length, from which a stretch along both axes can be told."""

MAX_NOISE_OF_PICTURE = 0.5
"""Error bar over what the phase varies by, from which most of the picture may be noise."""


def describe_trust(r: "Result", /) -> str:
    """Verdict, share explained, direct image, halves and error bar of a result, together in plain words.

    Args:
        r: the result; what it does not hold is left out, so that old files have shorter paragraphs.
    """
    if r.verdict_code not in list(Verdict):
        return ""
    verdict = Verdict(r.verdict_code)
    if verdict in (Verdict.BROKE_DOWN, Verdict.NOTHING_LEARNED):
        return LEADS[verdict]
    explained = _describe_explained(r)
    is_unproven = verdict is Verdict.CONVERGED and explained and "explained" not in r.metrics
    parts = [
        _describe_units(r),
        UNPROVEN if is_unproven else LEADS[verdict],
        explained,
        _warn_of_share(r, verdict),
        _describe_places(r),
        _describe_drift(r),
        _describe_stretch(r),
        _describe_sign(r),
        _describe_direct_image(r),
    ]
    parts += [_describe_halves(r), _describe_error_bar(r)]
    return " ".join(part for part in parts if part)


def _describe_explained(r: "Result") -> str:
    share = r.metrics.get("explained")
    if share is None:
        if "hold-out" not in r.metrics or r.geometry.beam != "electron":
            return ""
        measured = [event["explained"] for event in r.history if "explained" in event]
        if not measured or any(measured):
            return "So short a run does not measure how much of what differs between patterns it explains."
        return (
            "The recorded patterns differ from each other by little more than counting noise"
            f"{_describe_dose(r)}, so that they can hardly show whether the picture is right; compare it "
            "with the direct image (phaseloom direct)."
        )
    error = r.metrics.get("error of explained", 0.0)
    unsure = f" ± {100 * error:.0f}" if error >= 0.005 else ""
    return (
        f"Of what differs from pattern to pattern beyond counting noise, the model predicted "
        f"{100 * max(share, 0.0):.0f}{unsure} % in patterns that it had not seen."
    )


def _warn_of_share(r: "Result", verdict: Verdict) -> str:
    """Beside a verdict that names a wrong picture, what a large share is worth."""
    if verdict not in (Verdict.DOUBTFUL, Verdict.WRONG_START):
        return ""
    if r.metrics.get("explained", 0.0) < MIN_SHARE_TO_MISLEAD:
        return ""
    return "That share alone does not show that the picture is right: a free probe can explain as much."


def _describe_dose(r: "Result") -> str:
    """Electrons per square angstrom, as `phaseloom look` has them."""
    area = measure_area_per_position(r.positions)
    return f" ({float((np.abs(r.probe) ** 2).sum()) / area:.2g} electrons per Å²)" if area else ""


def _describe_places(r: "Result") -> str:
    matter = r.metrics.get("places matter")
    if matter is None:
        return ""
    if matter < MIN_PLACES_MATTER:
        return "It did hardly better than with the beam positions exchanged at random."
    times = 1 / max(1 - matter, 1e-3)
    return f"With the beam positions exchanged at random, {times:.2g} times as much stayed unexplained."


def _describe_drift(r: "Result") -> str:
    """That moves with time are a part of a drift alone: probe and object make up for the rest of it."""
    if r.scan_numbers is not None or len(r.positions) != len(r.positions_start):
        return ""  # scans that were joined have no common time
    if not (drift := r.drift).is_large(min(r.pixel)):
        return ""
    far = LENGTH.show(float(f"{math.hypot(*drift.trend):.2g}"))
    return (
        f"From the first to the last the positions moved by {far}, which may be a part of a drift alone: "
        "lengths and angles in the picture may be off by several per cent."
    )


def _spans_less_than_a_pixel(r: "Result") -> bool:
    span = np.ptp(r.positions_start, axis=0) / r.pixel
    return r.heights is None and 0 < float(span.max()) < 1


def _describe_units(r: "Result") -> str:
    """That a unit is wrong, which everything else that is said follows from."""
    if not _spans_less_than_a_pixel(r):
        return ""
    return (
        "All stated positions lie within one pixel of the picture, which no scan does: a unit of the "
        "positions, the distance or the energy is probably 1000 times off. Mend that before anything else is "
        "believed."
    )


def _describe_stretch(r: "Result") -> str:
    """How the positions were stretched on the whole, where it is more than an ordinary error of a step."""
    if len(r.positions) != len(r.positions_start) or len(r.positions) < MIN_POSITIONS_OF_STRETCH:
        return ""
    if _spans_less_than_a_pixel(r):
        return ""
    start = r.positions_start - r.positions_start.mean(0)
    if np.linalg.matrix_rank(start, tol=MIN_WIDTH_OF_STRETCH * np.abs(start).max()) < 2:
        return ""
    matrix = fit_linear_map(r.positions_start, r.positions)
    rows, columns = (100 * (matrix[at, at] - 1) for at in (0, 1))
    if max(abs(rows), abs(columns)) < MIN_STRETCH:
        return ""
    return (
        f"The positions were stretched by {rows:+.1f} % along y and {columns:+.1f} % along x against those "
        "given, and lengths in the picture with them. A wrong defocus or an astigmatic beam does so as well: "
        "if the step is known better, hold the positions (rates: {positions: 0, affine: 0}) and compare."
    )


def _describe_sign(r: "Result") -> str:
    if r.geometry.beam != "photon" or "sign is a guess" not in r.metrics:
        return ""
    return (
        "Nothing told how the detector lies: the sign of the phase is a guess, and the picture that of the "
        "conjugate object if it is wrong."
    )


def _describe_direct_image(r: "Result") -> str:
    likeness = r.metrics.get("direct image")
    if likeness is None:
        lacks_witness = r.geometry.beam == "electron" and not r.geometry.near and "explained" in r.metrics
        return "No second picture by another method was there to compare it with." if lacks_witness else ""
    if likeness > MIN_LIKENESS:
        looks = "shows the same"
    else:
        looks = "is similar" if likeness > MIN_RESEMBLANCE else "looks different"
    return f"A second picture, made in one step by another method, {looks} (correlation {likeness:.2f})."


def _describe_halves(r: "Result") -> str:
    if r.halves is None:
        return ""
    finest = r.halves.resolution("half-bit")
    if not math.isfinite(finest):
        return "Two pictures from half of the data each do not agree in any detail."
    return f"Two pictures from half of the data each agree down to details of {finest:.3g} Å."


def _describe_error_bar(r: "Result") -> str:
    found = r.uncertainty
    if found is None or found.sigma is None or not math.isfinite(found.pixel):
        return ""
    phase = np.angle(r.object).sum(0)
    lit = np.isfinite(found.sigma).all(0)
    varies = float(phase[lit].std()) if lit.any() else math.nan
    sigma = found.pixel * math.sqrt(len(found.sigma))
    is_held = bool({"prior", "amplitude_bias"} & set(found.reasons))  # what these take is in the bar
    lead = "Each pixel of the phase is" if is_held else "Counting alone leaves each pixel of the phase"
    text = f"{lead} uncertain by ±{sigma:.2g} rad"
    if math.isfinite(varies) and varies > 0:
        text += f", where the picture varies by {varies:.2g} rad"
        if sigma > MAX_NOISE_OF_PICTURE * varies:
            lost = "contrast is lost, or is noise" if is_held else "finest detail is noise"
            text += f" (much of the {lost})"
    bound = "; the true error may be larger." if is_held else "; the true error is larger."
    return text + (bound if found.reasons else ".")
