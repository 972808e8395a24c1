"""Kinds of HDF5 files (and of Zarr stores and Nion's archives): tables of where each keeps what."""

from phaseloom.data.formats.kinds.electrons import ELECTRONS
from phaseloom.data.formats.kinds.kind import Kind, find_kind
from phaseloom.data.formats.kinds.photons import PHOTONS
from phaseloom.data.formats.kinds.reading import read_kind
from phaseloom.data.formats.kinds.tree import Tree

__all__ = ["KINDS", "Kind", "Tree", "find_kind", "read_kind"]

KINDS: tuple[Kind, ...] = (*ELECTRONS, *PHOTONS)
"""All kinds, in the order in which files are asked."""
