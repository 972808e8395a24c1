"""CDTools' reconstructors by name."""

from phaseloom.compat.cdtools.reconstructors import base
from phaseloom.compat.cdtools.reconstructors.base import (
    AdamReconstructor,
    LBFGSReconstructor,
    Reconstructor,
    SGDReconstructor,
)

__all__ = ["AdamReconstructor", "LBFGSReconstructor", "Reconstructor", "SGDReconstructor", "base"]
