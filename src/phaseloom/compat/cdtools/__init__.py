"""CDTools' names over our core: its scripts run with the import line changed.

    from phaseloom.compat import cdtools as CDTools

Its modules can be imported as well (``from phaseloom.compat.cdtools.tools import analysis``). Data are
those of its CXI files, in metres; translations are those of the beam, as there (files hold the sample's).
What has no counterpart is refused in a sentence that names it. Other than CDTools, optimisers keep their
state from call to call, ``compare()`` needs no dataset, and integers and NaN are understood.

Models and datasets of your own are classes derived from ``models.CDIModel`` and ``datasets.CDataset``.
"""

from importlib.metadata import version

from phaseloom.compat.cdtools import datasets, models, reconstructors, tools

__all__ = ["__version__", "datasets", "models", "reconstructors", "tools"]

__version__ = version("phaseloom")
