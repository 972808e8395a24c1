"""Figures of a scan and of a result; every function returns a `matplotlib.figure.Figure`.

Nothing is shown and no global state is touched; `save` writes a figure to a file.

    from phaseloom import plot
    plot.save(plot.report(result), "report.png")
"""

from phaseloom.plot.canvas import save
from phaseloom.plot.course import losses, refined
from phaseloom.plot.object import object_amplitude, object_modes, object_phase, slices
from phaseloom.plot.patterns import forward
from phaseloom.plot.places import groups, positions, tilts
from phaseloom.plot.probe import probe_modes
from phaseloom.plot.report import comparison, report
from phaseloom.plot.scan import scan_overview

__all__ = [
    "comparison",
    "forward",
    "groups",
    "losses",
    "object_amplitude",
    "object_modes",
    "object_phase",
    "positions",
    "probe_modes",
    "refined",
    "report",
    "save",
    "scan_overview",
    "slices",
    "tilts",
]
