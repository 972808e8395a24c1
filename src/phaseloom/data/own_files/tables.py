"""What is accepted of the members of our own HDF5 files, as tables (`phaseloom.data.own_files.members`).

Values that a type of a higher package describes (history, provenance) are in the table of that package.
"""

from typing import Any, Literal

from pydantic import ConfigDict, PositiveFloat, with_config
from typing_extensions import TypedDict  # a dependency of pydantic, which needs its own

from phaseloom.data.own_files.members import Member

__all__ = [
    "DIRECT",
    "EMBEDDING",
    "IMAGE_TEXTS",
    "MAPS",
    "PREDICTION",
    "RESULT_ABOUT",
    "RESULT_ARRAYS",
    "SAMPLE_ABOUT",
    "SCAN",
    "SCAN_GEOMETRY",
    "SNAPSHOT",
    "VIRTUAL",
]


@with_config(ConfigDict(extra="allow"))
class _Beam(TypedDict, total=False):
    """What files of images say of the beam of their scan."""

    beam: Literal["photon", "electron"]
    energy: PositiveFloat
    wavelength: PositiveFloat


RESULT_ARRAYS = (
    Member("object", "complex", "slice y x"),
    Member("probe", "complex", "mode window_y window_x"),
    Member("positions", "real", "pattern 2"),
    Member("positions_start", "real", "pattern 2"),
    Member("coverage", "real", "y x"),
    Member("weights", "real", "pattern", optional=True),
    Member("background", "real", "_ _", optional=True),
    Member("object_modes", "complex", "state slice y x", optional=True),
    Member("occupancies", "real", "state", optional=True),
    Member("tilts", "real", "_ 2", optional=True),
    Member("descan", "real", "pattern 2", optional=True),
    Member("heights", "real", "pattern", optional=True),
    Member("heights_start", "real", "pattern", optional=True),
    Member("opr_weights", "complex", "pattern _ _", optional=True),
    Member("scan_numbers", "integer", "pattern", optional=True),
    Member("scan_offsets", "real", "_ 2", optional=True),
    Member("scan_energies", "real", "_ 3", optional=True),
)
"""Arrays of ``result.h5``."""

MAPS = (
    Member("sigma", "real", "slice y x", finite=False, optional=True),
    Member("sigma_of_draws", "real", "slice y x", finite=False, optional=True),
)
"""Error bars of ``result.h5``; NaN where no beam went."""

RESULT_ABOUT = (
    Member("@thickness", "real"),
    Member("@pixel", "real", "2", positive=True),
    Member("@origin", "real", "2"),
)
"""Where the object of ``result.h5`` lies, angstrom."""

SCAN = (
    Member("positions", "real", "pattern 2"),
    Member("mask", "real", "y x", finite=False, optional=True),
    Member("background", "real", "y x", optional=True),
    Member("flat", "real", "y x", optional=True),
    Member("weights", "real", "pattern", optional=True),
    Member("heights", "real", "pattern", optional=True),
    Member("probe", "complex", "mode _ _", optional=True),
    Member("@grid", "integer", "2", positive=True, optional=True),
    Member("@oriented", "bool", optional=True),
)
"""A scan (`phaseloom.data.formats.native`) but for its patterns."""

SCAN_GEOMETRY = (
    Member("@wavelength", "real", positive=True),
    Member("@shape", "integer", "2", positive=True),
    Member("@angle", "real", "2", positive=True),
    Member("@basis", "real", "3 2"),
    Member("@beam", "text", optional=True),
    Member("@distance", "real", optional=True),
    Member("@focus", "real", optional=True, finite=False),
    Member("@normal", "real", "3", optional=True),
)
"""The group ``geometry`` of a scan."""

PREDICTION = (
    Member("phase", "real", "y x"),
    Member("error", "real", "y x", optional=True),
    Member("pixel", "real", "2", positive=True),
    Member("origin", "real", "2"),
    Member("rotation", "real", "", optional=True),
    Member("@model", "text", optional=True),
)

DIRECT = (
    Member("phase", "real", "y x", finite=False),
    Member("amplitude_loss", "real", "y x", finite=False, optional=True),
)

VIRTUAL = (
    Member("positions", "real", "pattern 2"),
    Member("@grid", "integer", "2", positive=True, optional=True),
    Member("phase", "real", "y x", finite=False, optional=True),
)
"""Virtual images but for the images."""

IMAGE_TEXTS = (
    Member("@notes", "text", optional=True),
    Member("recipe", "text", optional=True),
    Member("provenance", "json", form=dict[str, Any], optional=True),
    Member("beam", "json", form=_Beam, optional=True),
    Member("metadata", "json", form=dict[str, Any], optional=True),
)
"""What files of images say of their scan and of what made them."""

EMBEDDING = (
    Member("latents", "real", "pattern latent"),
    Member("misfit", "real", "pattern", finite=False),
    Member("totals", "real", "pattern", finite=False),
    Member("positions", "real", "pattern 2"),
    Member("grid", "integer", "2", positive=True, optional=True),
    Member("numbers", "integer", "pattern", optional=True),
    Member("displaced", "real", "pattern 2", finite=False, optional=True),
)

SAMPLE_ABOUT = (
    Member("@version", "integer", optional=True),
    Member("@specimen", "text", optional=True),
    Member("@group", "text", optional=True),
    Member("@thickness", "real", finite=False, optional=True),
)
"""Attributes of a simulated sample."""

SNAPSHOT = (Member("state", "json", form=dict[str, Any]),)
"""The state of a fit but for its tensors."""
