"""Figures of a scan and of a result; most functions return a `matplotlib.figure.Figure`.

Nothing is shown and no global state is touched; `save` writes a figure to a file.

    from phaseloom import plot
    plot.save(plot.report(result), "report.png")

Interactive ones (`browse`, `compare`, `slide`, `Live`) belong to pyplot, whose ``plt.show()`` shows them
in windows, or with ipympl in a notebook; the first three return an `interactive.View`.
"""

from phaseloom.plot.browse import browse, compare
from phaseloom.plot.canvas import save
from phaseloom.plot.course import losses, refined
from phaseloom.plot.events import watching
from phaseloom.plot.interactive import slide
from phaseloom.plot.live import Live
from phaseloom.plot.object import object_amplitude, object_modes, object_phase, slices
from phaseloom.plot.patterns import forward
from phaseloom.plot.places import groups, positions, tilts
from phaseloom.plot.probe import probe_modes
from phaseloom.plot.report import comparison, report
from phaseloom.plot.scan import scan_overview
from phaseloom.plot.virtual import save_stem_visualization, virtual_images

__all__ = [
    "Live",
    "browse",
    "compare",
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
    "save_stem_visualization",
    "scan_overview",
    "slices",
    "slide",
    "tilts",
    "virtual_images",
    "watching",
]
