"""Results and scans for other programs: each function writes files of one kind.

from phaseloom import export
export.nexus(result, "phase.nxs")
export.stacks(result, "images", bits=16)

A new format is a function ``(source, path, /, *, knobs) -> Path`` in a module of its own, with its name in
``__all__`` and its ending, if one stands for it, in `phaseloom.export.files.FORMAT_OF_ENDING`.
"""

from phaseloom.export._cxi import cxi
from phaseloom.export._emd import emd
from phaseloom.export._figures import figures
from phaseloom.export._hspy import hspy
from phaseloom.export._mrc import mrc
from phaseloom.export._nexus import nexus
from phaseloom.export._ptychodus import ptychodus
from phaseloom.export._ptyrad import ptyrad
from phaseloom.export._stacks import stacks
from phaseloom.export._tiff import tiff

__all__ = ["cxi", "emd", "figures", "hspy", "mrc", "nexus", "ptychodus", "ptyrad", "stacks", "tiff"]
