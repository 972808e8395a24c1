"""Virtual detectors, centre of mass and radial profiles of a scan.

Public names are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseloom.virtual.annuli import VirtualDetector, make_annulus, make_segments, make_standard_detectors
    from phaseloom.virtual.figures import plot_virtual_images, save_stem_visualization
    from phaseloom.virtual.images import compute_profiles, find_beam, integrate_phase, measure_scan
    from phaseloom.virtual.radial import RadialProfile, compute_radial_profile
    from phaseloom.virtual.recipe import Virtual, VirtualImages, make_virtual_images

_HOMES = {
    "annuli": ["VirtualDetector", "make_annulus", "make_segments", "make_standard_detectors"],
    "figures": ["plot_virtual_images", "save_stem_visualization"],
    "images": ["compute_profiles", "find_beam", "integrate_phase", "measure_scan"],
    "radial": ["RadialProfile", "compute_radial_profile"],
    "recipe": ["Virtual", "VirtualImages", "make_virtual_images"],
}
__all__ = ["RadialProfile", "Virtual", "VirtualDetector", "VirtualImages", "compute_profiles"]
__all__ += ["compute_radial_profile", "find_beam", "integrate_phase", "make_annulus", "make_segments"]
__all__ += ["make_standard_detectors", "make_virtual_images", "measure_scan", "plot_virtual_images"]
__all__ += ["save_stem_visualization"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
