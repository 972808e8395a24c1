"""Figures of a scan and of a result; every function returns a `matplotlib.figure.Figure`.

Nothing is shown and no global state is touched; `save` writes a figure to a file.

    from phaseloom import plot
    plot.save(plot.report(result), "report.png")
"""

from phaseloom.plot.canvas import save
from phaseloom.plot.report import comparison, report
from phaseloom.plot.result import (
    loss_curves,
    object_amplitude,
    object_phase,
    object_slices,
    patterns,
    positions,
    probe_modes,
)
from phaseloom.plot.scan import scan_overview

__all__ = [
    "comparison",
    "loss_curves",
    "object_amplitude",
    "object_phase",
    "object_slices",
    "patterns",
    "positions",
    "probe_modes",
    "report",
    "save",
    "scan_overview",
]
