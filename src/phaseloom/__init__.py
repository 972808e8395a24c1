"""Phaseloom turns diffraction patterns into phase images.

Everything public is here and is imported on first use, so that ``import phaseloom`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from phaseloom.version import __version__

if TYPE_CHECKING:
    from phaseloom import metrics, physics, plot, ptycho
    from phaseloom.data import prepare
    from phaseloom.data.diagnostics import inspect
    from phaseloom.data.formats import read
    from phaseloom.data.scan import Geometry, Scan4D
    from phaseloom.errors import BadInput
    from phaseloom.fitting import optimizers
    from phaseloom.fitting.loop import Progress, fit
    from phaseloom.plugins import register
    from phaseloom.ptycho import batches, noise, objects, probes
    from phaseloom.ptycho.likelihood import Likelihood, Misfit
    from phaseloom.ptycho.model import Ptychography
    from phaseloom.ptycho.noise import shot_noise
    from phaseloom.ptycho.scans import depth_of_focus
    from phaseloom.reconstruction.job import Job
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.result import Result, load
    from phaseloom.simulation import simulate

_HOMES = {
    "data.formats": ["read"],
    "data.diagnostics": ["inspect"],
    "data.scan": ["Geometry", "Scan4D"],
    "errors": ["BadInput"],
    "fitting.loop": ["Progress", "fit"],
    "plugins": ["register"],
    "ptycho.scans": ["depth_of_focus"],
    "ptycho.likelihood": ["Likelihood", "Misfit"],
    "ptycho.model": ["Ptychography"],
    "ptycho.noise": ["shot_noise"],
    "reconstruction.job": ["Job"],
    "reconstruction.recipe": ["Reconstruct"],
    "result": ["Result", "load"],
}
"""Modules and the public names that live in them."""

_ROOMS = ["metrics", "physics", "plot", "ptycho", "data.prepare", "simulation.simulate", "fitting.optimizers"]
_ROOMS += ["ptycho.batches", "ptycho.noise", "ptycho.objects", "ptycho.probes"]
"""Modules that are public as a whole, under their last name."""

__all__ = ["BadInput", "Geometry", "Job", "Likelihood", "Misfit", "Progress", "Ptychography", "Reconstruct"]
__all__ += ["Result", "Scan4D", "batches", "depth_of_focus", "fit", "inspect", "load", "metrics", "noise"]
__all__ += ["objects", "optimizers", "physics", "plot", "prepare", "probes", "ptycho", "read", "register"]
__all__ += ["__version__", "shot_noise", "simulate"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if room := next((room for room in _ROOMS if room.split(".")[-1] == name), None):
        return importlib.import_module(f"phaseloom.{room}")
    if home := next((home for home, names in _HOMES.items() if name in names), None):
        return getattr(importlib.import_module(f"phaseloom.{home}"), name)
    raise AttributeError(f"module 'phaseloom' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
