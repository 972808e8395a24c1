"""One page about a result, and two results side by side."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.metrics.resolution import RingCorrelation
from phaseloom.plot.histories import (
    PANELS_ABREAST,
    QuantityHistory,
    draw_drift,
    draw_histories,
    draw_losses,
    has_noise_losses,
    quantity_histories,
)
from phaseloom.plot.object import SLICES_ABREAST as SLICES
from phaseloom.plot.object import (
    ObjectField,
    draw_amplitude,
    draw_phase,
    draw_slices,
    draw_states,
    slice_depths,
    spread_indices,
)
from phaseloom.plot.probe import draw_modes
from phaseloom.plot.scan import draw_patterns
from phaseloom.plot.scan_maps import are_moved, draw_positions
from phaseloom.plot.style import (
    LINE_COLOURS,
    NORMAL_FONT,
    SMALL_FONT,
    colour_bar,
    frame,
    image,
    limits,
    new_page,
    show_length,
    unit_of,
)
from phaseloom.trust import describe_trust
from phaseloom.units import ENERGY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = ["comparison", "report", "trust_facts"]

PAGE_WIDTH = 15.0
"""Of the page, inch."""

TITLE_HEIGHT = 0.4
"""Height of the title, inch."""

ADVICE_LINE_HEIGHT = 0.19
"""Height of a line of advice, inch."""

FACT_LINE_HEIGHT = 0.142
"""Height of a line of facts, inch."""


def report(r: Result) -> Figure:
    """One page: verdict, object and facts, slices and states, probe, positions, progress, patterns.

    Advice, slices, drift of the positions, ring correlation of halves and what was refined besides the
    images have rows where there are any.
    """
    moved = _changed_quantities(r)
    trusted = _trust_panels(r)
    facts = _facts_text(r)
    verdict = _wrap_lines([r.verdict] if r.verdict else [], "")
    advice = _wrap_lines(r.advice, "▲ ")
    told = [describe_trust(r), "" if r.uncertainty is None else f"Error bar: {r.uncertainty}"]
    advice = [*_wrap_lines([one for one in told if one], ""), *advice]
    heights = {
        "verdict": ADVICE_LINE_HEIGHT * len(verdict) + 0.1 if verdict else 0,
        "advice": ADVICE_LINE_HEIGHT * len(advice) + 0.15 if advice else 0,
        "object": max(4.5, FACT_LINE_HEIGHT * (facts.count("\n") + 1) + 0.4),
        "slices": 2.4 if len(r.object) > 1 or _states(r) > 1 else 0,
        "probe": 3.9,
        "trust": 2.9 if trusted else 0,
        "refined": 2.6 if moved else 0,
        "patterns": 2.2,
    }
    rows = _rows(r.title, {name: height for name, height in heights.items() if height})
    field = ObjectField.of(r)
    _object_row(rows["object"], r, field, facts)
    _middle_row(rows["probe"], r)
    draw_patterns(rows["patterns"], r, strip=True)
    if "verdict" in rows:
        _draw_lines(rows["verdict"], verdict, color="black", fontweight="bold")
    if "advice" in rows:
        _draw_lines(rows["advice"], advice, color=LINE_COLOURS[1])
    if "trust" in rows:
        _trust_row(rows["trust"], r, trusted)
    if "slices" in rows:
        _slices_row(rows["slices"], r, field)
    if "refined" in rows:
        _refined_row(rows["refined"], moved)
    return rows["page"]


def _list_moves_of_scans(r: Result, numbers: np.ndarray) -> list[tuple[str, str]]:
    """How far each of several scans was moved as a whole against the first, where that is a pixel or more."""
    if len(r.positions) != len(r.positions_start):
        return []
    move = np.asarray(r.positions) - r.positions_start
    whole = {number: move[numbers == number].mean(0) for number in np.unique(numbers)}
    first = next(iter(whole.values()))
    moved = {
        number: mean - first for number, mean in whole.items() if np.hypot(*(mean - first)) > min(r.pixel)
    }
    what = "from scan 0 as a whole: its offset, if both show one object"
    return [(f"move of scan {number}", f"{_format_vector(*mean)} {what}") for number, mean in moved.items()]


def _list_energies_of_scans(r: Result) -> list[tuple[str, str]]:
    """Energy of each of several scans, and what was fitted of it."""
    rows = [] if r.scan_energies is None else r.scan_energies.tolist()
    return [
        (
            f"energy of scan {number}",
            f"{energy:.5g} eV: {of_phase:.4g} times the phase of the object shown, "
            f"{of_absorption:.4g} times its absorption",
        )
        for number, (energy, of_phase, of_absorption) in enumerate(rows)
    ]


def trust_facts(r: Result) -> list[tuple[str, str]]:
    """What speaks for a result and against it, by name: chi^2, powers of modes, drift, resolution.

    Chi^2 is the loss of the patterns learned from and of those held out, in units of the shot noise.
    """
    powers = (np.abs(r.probe) ** 2).sum((1, 2))
    shares = 100 * powers / max(float(powers.sum()), 1e-30)
    more = f", and {len(shares) - 6} more" if len(shares) > 6 else ""
    facts = [("power of modes", ", ".join(f"{share:.3g}" for share in shares[:6]) + f" %{more}")]
    if has_noise_losses(r.history) and "loss" in r.metrics:
        held = f", held out {r.metrics['hold-out']:.4g}" if "hold-out" in r.metrics else ""
        facts.insert(0, ("chi^2", f"{r.metrics['loss']:.4g}{held} (1 = shot noise)"))
    if r.scan_numbers is not None:
        facts += _list_moves_of_scans(r, r.scan_numbers) + _list_energies_of_scans(r)
    elif _has_drift(r):
        drift = r.drift
        what = (
            " from first to last: drift, or a wrong step or defocus" if drift.is_large(min(r.pixel)) else ""
        )
        facts += [
            ("trend of moves", _format_vector(*drift.trend) + what),
            ("moves besides", f"{drift.rest:.3g} Å rms"),
        ]
    if r.halves is not None:
        found = {name: r.halves.resolution(name) for name in ("half-bit", "one-seventh")}
        half, seventh = (show_length(v) if np.isfinite(v) else "none" for v in found.values())
        facts.append(("resolution", f"{half} (1/2 bit), {seventh} (1/7)"))
    return facts


def comparison(
    a: Result,
    b: Result,
    correlation: RingCorrelation | None = None,
    difference: np.ndarray | None = None,
) -> Figure:
    """Phases of two results on one scale and, where given, ring correlation and difference of both.

    Args:
        a: a result.
        b: another of the same scene.
        correlation: of the two (`phaseloom.metrics.resolution.ring_correlation`), with the pixel in
            angstrom.
        difference: phase of the first less that of the second ``(y, x)``, radian.
    """
    panels = 2 + (correlation is not None) + (difference is not None)
    figure = new_page(5.4 * panels, 4.6)
    row = figure.subplots(1, panels)
    fields = (ObjectField.of(a), ObjectField.of(b))
    span = limits(np.concatenate([field.phase().ravel() for field in fields]))
    for axes, result, field in zip(row, (a, b), fields, strict=False):
        draw_phase(axes, result, field, span=span)
        axes.set_title(result.title, fontsize=NORMAL_FONT)
    if correlation is not None:
        draw_correlation(row[2], correlation)
    if difference is not None:
        far = max(abs(one) for one in limits(difference))
        title = "Phase of the first less the second"
        axes = row[-1]
        drawn = image(axes, difference, pixel=a.pixel, title=title, cmap="RdBu_r", vmin=-far, vmax=far)
        colour_bar(axes, drawn, "phase (rad)")
    return figure


def draw_correlation(axes: Axes, correlation: RingCorrelation) -> None:
    """Correlation over spatial frequency, with both thresholds and where the curve falls below one."""
    resolution = correlation.resolution()
    unit, scale = unit_of(float(10 / correlation.frequency[-1]))
    x = correlation.frequency * scale
    axes.plot(x, correlation.value, color="tab:blue", linewidth=1.4, label="ring correlation")
    axes.plot(x, correlation.threshold_half_bit, "--", color="tab:red", linewidth=1, label="half bit")
    axes.plot(x, correlation.threshold_one_seventh, ":", color="0.4", linewidth=1, label="1/7")
    if np.isfinite(resolution):
        axes.axvline(scale / resolution, color="tab:red", linewidth=0.8, alpha=0.6)
    never = bool((correlation.value >= correlation.threshold_half_bit)[1:].all())
    found = "none" if not np.isfinite(resolution) else f"{'< ' * never}{resolution / scale:.3g} {unit}"
    frame(axes, title=f"Full-period resolution: {found}", x=f"spatial frequency (1/{unit})", y="correlation")
    axes.set(xlim=(0, x[-1]), ylim=(min(-0.1, correlation.value.min()), 1.05))
    axes.grid(color="0.92", linewidth=0.6)
    axes.legend(fontsize=SMALL_FONT, frameon=False)


def _rows(title: str, heights: Mapping[str, float]) -> dict[str, Any]:
    """The page and its rows by name."""
    heights = {"title": TITLE_HEIGHT, **heights}
    figure = new_page(PAGE_WIDTH, sum(heights.values()))
    rows = figure.subfigures(len(heights), 1, height_ratios=list(heights.values()), squeeze=False)[:, 0]
    figure.suptitle(
        title, fontsize=14, fontweight="bold", x=0.01, y=1 - 0.08 / sum(heights.values()), ha="left"
    )
    return {"page": figure, **dict(zip(heights, rows, strict=True))}


def _wrap_lines(sentences: Sequence[str], mark: str) -> list[str]:
    """Sentences as lines, each begun by a mark."""
    lines: list[str] = []
    for sentence in sentences:
        lines += textwrap.wrap(sentence, 180, initial_indent=mark, subsequent_indent="    ")
    return lines


def _draw_lines(row: FigureBase, lines: Sequence[str], **look: Any) -> None:
    row.text(0.01, 0.98, "\n".join(lines), fontsize=NORMAL_FONT + 1, va="top", linespacing=1.25, **look)


def _has_drift(r: Result) -> bool:
    """Whether any position has moved by more than rounding, in the course of one scan.

    Scans that were joined have no common course.
    """
    return r.scan_numbers is None and are_moved(r.positions_start, r.positions - r.positions_start)


def _format_vector(y: float, x: float) -> str:
    """A vector of lengths, to three figures or a ten-thousandth."""
    y, x = (round(float(f"{length:.3g}"), 4) + 0.0 for length in (y, x))  # no minus zero
    return f"y {y:+g}, x {x:+g} Å".replace("-", "−")


def _trust_panels(r: Result) -> list[Callable[[Axes], None]]:
    """What is drawn about trust, a panel each."""
    panels: list[Callable[[Axes], None]] = []
    if _has_drift(r):
        panels.append(lambda axes: draw_drift(axes, r))
    if (halves := r.halves) is not None:
        panels.append(lambda axes: draw_correlation(axes, halves))
    return panels


def _trust_row(row: FigureBase, r: Result, panels: Sequence[Callable[[Axes], None]]) -> None:
    """Drift and ring correlation of halves, each a third of the row."""
    part = row.subfigures(1, 2, width_ratios=[len(panels), 3 - len(panels)], squeeze=False)[0]
    for axes, draw in zip(part[0].subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)


def _object_row(row: FigureBase, r: Result, field: ObjectField, facts: str) -> None:
    """Phase, amplitude and the facts."""
    left, right = row.subfigures(1, 2, width_ratios=[2.1, 1], squeeze=False)[0]
    phase, amplitude = left.subplots(1, 2)
    draw_phase(phase, r, field)
    draw_amplitude(amplitude, r, field)
    right.text(0.05, 0.96, facts, va="top", family="monospace", fontsize=SMALL_FONT + 0.5)


def _slices_row(row: FigureBase, r: Result, field: ObjectField) -> None:
    """Slices, evenly chosen, and the states of the object: six panels at most."""
    states = _states(r) + 1 if _states(r) > 1 else 0
    shown = spread_indices(len(r.object), max(SLICES - states, 2)) if len(r.object) > 1 else []
    room = max(SLICES - states - len(shown), 1e-3)
    widths = [len(shown) or 1e-3, min(states, SLICES) or 1e-3, room]
    left, middle, _ = row.subfigures(1, 3, width_ratios=widths, squeeze=False)[0]
    if shown:
        draw_slices(left, r, {number: field.phase(number) for number in shown})
    if states:
        draw_states(middle, r)


def _states(r: Result) -> int:
    return 1 if r.object_modes is None else len(r.object_modes)


def _changed_quantities(r: Result) -> list[QuantityHistory]:
    """What moved; nothing, if it was the powers of the modes alone."""
    moved = [course for course in quantity_histories(r.history) if course.moves]
    return moved[:PANELS_ABREAST] if any("Power" not in course.title for course in moved) else []


def _middle_row(row: FigureBase, r: Result) -> None:
    """Probe, positions and progress."""
    few = min(len(r.probe), 6)
    left, right = row.subfigures(1, 2, width_ratios=[0.25 + 0.3 * few, 2], squeeze=False)[0]
    draw_modes(left, r)
    places, losses = right.subplots(1, 2)
    draw_positions(places, r)
    draw_losses(losses, r)


def _refined_row(row: FigureBase, moved: Sequence[QuantityHistory]) -> None:
    """Few panels leave the rest of the row empty instead of growing."""
    part = row.subfigures(
        1, 2, width_ratios=[len(moved), max(PANELS_ABREAST - len(moved), 1e-3)], squeeze=False
    )[0]
    draw_histories(part[0], moved)


def _facts_text(r: Result) -> str:
    """The facts of a result, a line each."""
    blocks = [_run_facts(r), trust_facts(r), _metric_facts(r), _data_facts(r), _found_facts(r)]
    blocks.append(_provenance_facts(r.provenance))
    lines = ["\n".join(f"{name:<19.19} {value}" for name, value in block) for block in blocks if block]
    return "\n\n".join(lines)


def _run_facts(r: Result) -> list[tuple[str, str]]:
    """How the run went."""
    facts = [("stopped", _shorten(r.stopped)), ("epochs", str(len(r.history)))]
    if r.history:
        seconds = sum(row.get("seconds") or 0.0 for row in r.history)
        facts.append(("time", f"{seconds:.1f} s"))
    return facts


def _metric_facts(r: Result) -> list[tuple[str, str]]:
    """The metrics by name, without those that chi^2 shows."""
    shown = ("loss", "hold-out") if has_noise_losses(r.history) else ()
    known = [name for name in r.metrics if name not in shown and not name.startswith("scan ")]
    return [(name, f"{r.metrics[name]:.4g}") for name in known][:8]


def _data_facts(r: Result) -> list[tuple[str, str]]:
    """What was measured and what was reconstructed."""
    rows, columns = r.geometry.shape
    y, x = r.object.shape[-2:]
    pixel = " × ".join(show_length(step) for step in r.pixel)
    facts = [
        ("patterns", f"{len(r.positions)} of {rows}×{columns}"),
        ("beam", f"{r.geometry.beam}, {ENERGY.show(float(f'{r.geometry.energy:.4g}'))}"),
        ("object", f"{len(r.object)} × {y}×{x} pixels"),
        ("pixel", pixel),
    ]
    return facts


def _found_facts(r: Result) -> list[tuple[str, str]]:
    """What was found besides the images."""
    facts = []
    if len(r.object) > 1 and r.thickness > 0:
        whole = show_length(float(slice_depths(r)[-1]))
        facts.append(("slices", f"{show_length(r.thickness)} apart, {whole} from first to last"))
    if r.tilts is not None and len(r.object) > 1 and np.any(r.tilts):
        y, x = 1e3 * np.mean(r.tilts, axis=0)
        facts.append(("tilt", f"y {y:.3g}, x {x:.3g} mrad" + ", mean" * (len(r.tilts) > 1)))
    if r.occupancies is not None:
        shares = ", ".join(f"{100 * share:.3g}" for share in r.occupancies[:6])
        facts.append(("object states", f"{shares} %"))
    if r.weights is not None:
        facts.append(("shots", f"{np.min(r.weights):.3g} to {np.max(r.weights):.3g} of the mean intensity"))
    if r.background is not None:
        facts.append(("background", f"{np.sum(r.background):.4g} counts per pattern"))
    return facts


def _provenance_facts(provenance: object) -> list[tuple[str, str]]:
    """Where a result comes from: a dataclass, a mapping or lines of text."""
    if provenance is None:
        return []
    if dataclasses.is_dataclass(provenance) and not isinstance(provenance, type):
        provenance = {f.name: getattr(provenance, f.name) for f in dataclasses.fields(provenance)}
    if not isinstance(provenance, Mapping):
        lines = provenance if isinstance(provenance, list | tuple) else str(provenance).splitlines()
        provenance = {f"{'from' if not i else ''}{' ' * i}": line for i, line in enumerate(lines)}
    return [
        (str(name), _shorten(value)) for name, value in provenance.items() if value not in (None, "", {}, ())
    ][:10]


def _shorten(value: object) -> str:
    """One short line."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {item}" for name, item in value.items())
    text = " ".join(str(value).split())
    return text if len(text) <= 44 else text[:43] + "…"
