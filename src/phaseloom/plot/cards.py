"""Scans, runs, results and latents as HTML, for notebooks: a few facts and small pictures in one text."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.plot.style import average_blocks, limits
from phaseloom.units import ENERGY

if TYPE_CHECKING:
    from phaseloom.data.scan import Scan4D
    from phaseloom.result import Result

__all__ = ["describe_result", "describe_scan", "draw_waves", "encode_png", "write_card"]

SIDE = 160
"""Pixels a side of a picture."""

STYLE = "display:inline-block;vertical-align:top;margin:4px 12px 4px 0"


def encode_png(values: np.ndarray, /, *, side: int = SIDE, colours: str = "viridis") -> str:
    """An image ``(y, x)`` as the address of a PNG that holds it, no more than some pixels a side.

    Example:
        >>> encode_png(np.eye(4))[:22]
        'data:image/png;base64,'
    """
    from matplotlib import image

    fold = max(1, -(-max(values.shape) // side))
    few = average_blocks(values, fold) if min(values.shape) >= fold else values
    low, high = limits(few)
    buffer = io.BytesIO()
    image.imsave(buffer, np.nan_to_num(few, nan=low), format="png", cmap=colours, vmin=low, vmax=high)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def write_card(title: str, facts: Mapping[str, Any], pictures: Mapping[str, str], /) -> str:
    """The HTML of a title, facts by name, and pictures by their captions.

    Example:
        >>> write_card("Scan", {"patterns": 9}, {})[:31]
        '<div><b>Scan</b><div><div style'
    """
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if str(value)
    )
    drawn = "".join(_write_figure(caption, source) for caption, source in pictures.items())
    table = f'<div style="{STYLE}"><table>{rows}</table></div>'
    return f"<div><b>{html.escape(title)}</b><div>{table}{drawn}</div></div>"


def _write_figure(caption: str, source: str) -> str:
    name = html.escape(caption, quote=True)
    picture = f'<img alt="{name}" width="{SIDE}" src="{source}" style="image-rendering:pixelated">'
    return f'<figure style="{STYLE}">{picture}<figcaption>{name}</figcaption></figure>'


def describe_scan(scan: Scan4D, /) -> str:
    """The HTML of a scan: its geometry, mean pattern (logarithmic), and counts over a raster."""
    from phaseloom.plot.scan import list_facts, read_totals

    facts = {"patterns": f"{len(scan)} of {scan.mask.shape[0]} x {scan.mask.shape[1]}, {scan.counts.dtype}"}
    mean = np.where(scan.mask, scan.mean_pattern(most=500), np.nan)
    positive = mean[mean > 0]
    least = float(np.percentile(positive, 5)) if positive.size else 1.0
    pictures = {"mean pattern, logarithmic": encode_png(np.log(np.maximum(mean, least)), colours="magma")}
    if scan.grid is not None and np.prod(scan.grid) == len(scan) <= MAX_PATTERNS_OF_A_CARD:
        totals, _ = read_totals(scan, np.arange(len(scan)))
        pictures["counts"] = encode_png(totals.reshape(scan.grid))
    return write_card(scan.metadata.get("title") or "Scan4D", facts | dict(list_facts(scan)), pictures)


MAX_PATTERNS_OF_A_CARD = 4096
"""Patterns up to which all are read for a map of counts."""


def describe_result(result: Result, /) -> str:
    """The HTML of a result: verdict, numbers, phase, amplitude, strongest mode of the probe."""
    geometry = result.geometry
    facts = {
        "verdict": result.verdict,
        "beam": f"{geometry.beam}s of {ENERGY.show(float(f'{geometry.energy:.4g}'))}",
        "object": f"{len(result.object)} slices, {len(result.probe)} probe modes",
        "error bar": "" if result.uncertainty is None else str(result.uncertainty),
        **{name: f"{value:.4g}" for name, value in result.metrics.items()},
        "stopped": result.stopped,
    }
    pictures = draw_waves(
        result.phase[result.window], result.object[(slice(None), *result.window)], result.probe
    )
    return write_card(result.title or "Result", facts, pictures)


def draw_waves(phase: np.ndarray, object: np.ndarray, probe: np.ndarray, /) -> dict[str, str]:
    """Pictures of a phase ``(y, x)``, of an object ``(slice, y, x)`` and of a probe ``(mode, y, x)``."""
    strongest = probe[int((np.abs(probe) ** 2).sum((1, 2)).argmax())]
    return {
        "phase": encode_png(phase),
        "amplitude": encode_png(np.abs(object).prod(0), colours="gray"),
        "probe, strongest mode": encode_png(np.abs(strongest), colours="magma"),
    }
