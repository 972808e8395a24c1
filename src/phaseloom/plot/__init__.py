"""Figures of a scan and of a result; most functions return a `matplotlib.figure.Figure`.

Nothing is shown and no global state is touched; `save` writes a figure to a file.

    from phaseloom import plot
    plot.save(plot.report(result), "report.png")

Interactive ones (`browse`, `compare`, `slide`, `Live`) belong to pyplot, whose ``plt.show()`` shows them
in windows, or with ipympl in a notebook; the first three return an `phaseloom.plot.gui.SteppedView`.
"""

from phaseloom.plot.browse import browse, compare
from phaseloom.plot.gui import slide, watching
from phaseloom.plot.histories import losses, refined_parameters
from phaseloom.plot.live import Live
from phaseloom.plot.object import object_amplitude, object_modes, object_phase, object_sigma, slices
from phaseloom.plot.probe import probe_modes
from phaseloom.plot.report import comparison, report
from phaseloom.plot.scan import forward, scan_overview
from phaseloom.plot.scan_maps import groups, positions, tilts
from phaseloom.plot.style import save
from phaseloom.renames import get_renamed

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
    "object_sigma",
    "positions",
    "probe_modes",
    "refined_parameters",
    "report",
    "save",
    "scan_overview",
    "slices",
    "slide",
    "tilts",
    "watching",
]


_OLD_NAMES = {
    "save_stem_visualization": "phaseloom.virtual.save_stem_visualization",
    "virtual_images": "phaseloom.virtual.plot_virtual_images",
    "refined": "phaseloom.plot.refined_parameters",
}

__getattr__ = get_renamed(__name__, _OLD_NAMES)
