"""CDTools' names over our core: its scripts run with the import line changed.

    from phaseloom.compat import cdtools as CDTools

Data are those of its CXI files, in metres, with the motion of the sample. What has no part of ours behind it
yet is refused in a sentence that names it. Other than CDTools, optimisers keep their state from call to call,
``compare()`` needs no dataset, and integers and NaN are understood.
"""

from phaseloom.compat import _cdtools_datasets as datasets
from phaseloom.compat import _cdtools_models as models
from phaseloom.errors import BadInput

__all__ = ["datasets", "models"]

ELSEWHERE = {
    "tools": "see phaseloom.metrics and phaseloom.physics",
    "reconstructors": "use model.Adam_optimize",
}
"""CDTools' other rooms, and where to look instead."""


def __getattr__(name: str) -> object:
    if name in ELSEWHERE:
        raise BadInput(f"CDTools.{name}", None, f"is not built yet: {ELSEWHERE[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
