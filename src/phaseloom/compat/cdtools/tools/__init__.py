"""CDTools' ``tools`` over our core: its rooms, names, arguments and return values.

    from phaseloom.compat import cdtools as CDTools

    freqs, frc, threshold = CDTools.tools.analysis.calc_frc(one, two, basis)

Lengths are metres, bases ``(xyz, 2)`` with the step between rows first, and far fields centred, as there.
Where CDTools' number is a convention it is returned; where it is an error ours is, and the docstring says so.
Other than there, precision follows the input.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from phaseloom.errors import nearest

if TYPE_CHECKING:
    from phaseloom.compat.cdtools.tools import (
        analysis,
        data,
        image_processing,
        initializers,
        interactions,
        losses,
        measurements,
        plotting,
        propagators,
    )

__all__ = [
    "analysis",
    "data",
    "image_processing",
    "initializers",
    "interactions",
    "losses",
    "measurements",
    "plotting",
    "propagators",
]


def __getattr__(name: str) -> ModuleType:
    """Import a room when it is first asked for."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"CDTools.tools.{name}: {nearest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
