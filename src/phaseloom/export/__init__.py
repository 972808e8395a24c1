"""Results for other programs: each function writes files of one kind into a folder.

from phaseloom import export
export.stacks(result, "images", bits=16)
"""

from phaseloom.export._figures import figures
from phaseloom.export._ptyrad import ptyrad
from phaseloom.export._stacks import stacks

__all__ = ["figures", "ptyrad", "stacks"]
