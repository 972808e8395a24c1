"""CDTools' names over our core: its scripts run with the import line changed.

    from phaseloom.compat import cdtools as CDTools

Its rooms can be imported from as well (``from phaseloom.compat.cdtools.tools import analysis``). Data are
those of its CXI files, in metres; translations are those of the beam, as there (files hold the sample's).
What has no part of ours behind it yet is refused in a sentence that names it. Other than CDTools, optimisers
keep their state from call to call, ``compare()`` needs no dataset, and integers and NaN are understood.

Models and datasets of your own are classes derived from ``models.CDIModel`` and ``datasets.CDataset``.
"""

import sys

from phaseloom.compat.cdtools import base as _base
from phaseloom.compat.cdtools import data as _data
from phaseloom.compat.cdtools import datasets, models, reconstructors, tools

__all__ = ["datasets", "models", "reconstructors", "tools"]

for _room, _first in ((datasets, _data), (models, _base), (reconstructors, reconstructors), (tools, None)):
    _name = f"{__name__}.{_room.__name__.rpartition('.')[2]}"
    sys.modules[_name] = _room
    if _first is not None:
        sys.modules[f"{_name}.base"] = _first
        setattr(_room, "base", _first)  # noqa: B010 - it is no name of the room's own
