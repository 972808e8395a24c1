"""CDTools' names over our core: its scripts run with the import line changed.

    from phaseloom.compat import cdtools as CDTools

Its rooms can be imported from as well (``from phaseloom.compat.cdtools.tools import analysis``). Data are
those of its CXI files, in metres; translations are those of the beam, as there (files hold the sample's).
What has no part of ours behind it yet is refused in a sentence that names it. Other than CDTools, optimisers
keep their state from call to call, ``compare()`` needs no dataset, and integers and NaN are understood.
"""

import sys

from phaseloom.compat import _cdtools_datasets as datasets
from phaseloom.compat import _cdtools_models as models
from phaseloom.compat import _cdtools_reconstructors as reconstructors
from phaseloom.compat import _cdtools_tools as tools

__all__ = ["datasets", "models", "reconstructors", "tools"]

for _room in (datasets, models, reconstructors, tools):
    sys.modules[f"{__name__}.{_room.__name__.rpartition('_')[2]}"] = _room
