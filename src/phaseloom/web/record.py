"""A run as one HTML file that opens without a server and without a network."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.files import write_text
from phaseloom.plot.folder_page import STYLE
from phaseloom.result import Result
from phaseloom.trust import describe_trust
from phaseloom.web.panes.figures import ColourView, CurvesView, ImageView, PointsView
from phaseloom.web.server import require_panel
from phaseloom.web.state.catalogue import RunFacts, read_facts, read_recipe
from phaseloom.web.state.events import EventLog
from phaseloom.web.state.run_images import RunImages, find_newest, open_images

__all__ = ["write_record"]


def write_record(folder: Path | str, path: Path | str | None = None, /) -> str:
    """A page with images to zoom into, losses, positions, numbers and settings of a run.

    Args:
        folder: of the run.
        path: file to write; default: none.

    Raises:
        BadInput: a run without any images.
    """
    require_panel()
    folder = Path(folder)
    text = _compose(folder)
    if path is not None:
        write_text(path, text)
    return text


def _compose(folder: Path) -> str:
    from bokeh.embed import components

    log = EventLog.read_all(folder)
    script, parts = components(_draw(folder, log))
    facts = read_facts(folder, log)
    title = html.escape(facts.title)
    pictures = "".join(f"<div class='figure'>{part}</div>" for part in parts.values())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{STYLE}.figure{{display:inline-block;width:46%;min-width:420px;margin:.5em}}</style>\n"
        f"{_scripts()}\n{script}</head>\n<body><h1>{title}</h1>\n{_words(facts)}\n{pictures}\n"
        f"<h2>Settings</h2><pre>{html.escape(_settings(folder))}</pre></body></html>\n"
    )


def _scripts() -> str:
    """Bokeh itself: its own ``render`` would name files that models of Panel, once loaded, take elsewhere."""
    from bokeh.resources import INLINE

    return "\n".join(f"<script>{text}</script>" for text in INLINE.js_raw)


def _draw(folder: Path, log: EventLog) -> dict[str, Any]:
    """Figures by name."""
    losses = CurvesView("Loss", tuple(log.losses), x="epoch", y="loss", log=True, floor=1.0)
    losses.show(log.losses)
    newest = find_newest(folder)
    pictures = {} if newest is None else _draw_images(open_images(newest))
    return {**pictures, "losses": losses.figure}


def _draw_images(images: RunImages) -> dict[str, Any]:
    found: dict[str, Any] = {}
    phase, amplitude, sigma = images.phase(), images.amplitude(), images.error_bar()
    fields = {"Phase": (phase, "viridis", "rad"), "Amplitude": (amplitude, "gray", "1")}
    if sigma is not None:
        fields["Error bar of the phase"] = (sigma, "magma", "rad")
    first = None
    for name, (field, colours, unit) in fields.items():
        view = ImageView(name, colours=colours, values=unit, linked=first)
        view.show(field.values, pixel=field.pixel, corner=field.corner, title=name)
        first = first or view
        found[name] = view.figure
    if images.probe is not None:
        probe = ColourView("Probe, real space")
        probe.show(images.probe[:8])
        found["probe"] = probe.figure
    places = PointsView("Positions and their moves", values="move (nm)")
    moves = images.moves()
    title = "" if moves.any() else "Positions: not moved"
    places.show(images.positions, 0.1 * np.hypot(*moves.T), moves, title)
    found["positions"] = places.figure
    return found


def _words(facts: RunFacts) -> str:
    """Verdict, numbers and notes."""
    rows = {
        "state": f"{facts.state}, epoch {facts.epoch}",
        **{n: f"{v:.4g}" for n, v in facts.metrics.items()},
    }
    if (facts.folder / "result.h5").is_file():
        result = Result.load(facts.folder / "result.h5")
        rows = {"verdict": result.verdict, "in plain words": describe_trust(result), **rows}
        if result.uncertainty is not None:
            rows["error bar"] = str(result.uncertainty)
    rows |= {"tags": ", ".join(facts.notes.tags), "notes": facts.notes.text}
    cells = [f"<tr><td>{html.escape(n)}</td><td>{html.escape(v)}</td></tr>" for n, v in rows.items() if v]
    return f"<table>{''.join(cells)}</table>"


def _settings(folder: Path) -> str:
    try:
        return (folder / "run.yaml").read_text(encoding="utf-8") if read_recipe(folder) else ""
    except OSError:
        return ""
