"""NeXus files, which h5web, silx and NeXpy plot at once."""

import os
from pathlib import Path

from phaseloom.data import nexus as layout
from phaseloom.data.formats import native
from phaseloom.data.scan import Scan4D
from phaseloom.export.sources import Exportable, resolve_path
from phaseloom.files import whole_hdf5
from phaseloom.result import Result

__all__ = ["nexus"]


def nexus(source: Exportable, path: str | os.PathLike[str], /) -> Path:
    """Write an HDF5 file with a NeXus entry: NXdata of every image, instrument, process, metadata.

    A result and a scan are written whole, as in ``result.h5`` and in our own format of scans, so that every
    verb reads the file back; those files have the same entry. Lengths are in nm, phases in radian of
    ``exp(+i phase)``; the coordinates of the object are those of the beam positions.

    Args:
        source: a result, a scan, or images.
        path: the file, or a folder, in which it becomes ``phaseloom.nxs``.

    Returns:
        The file.

    Example:
        >>> import h5py
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(5e-3, 5e-3), beam="electron")
        >>> scan = Scan4D(counts=np.ones((2, 8, 8)), positions=np.zeros((2, 2)), geometry=geometry)
        >>> with h5py.File(nexus(scan, "scan.nxs")) as file:
        ...     sorted(file["entry"])
        ['instrument', 'metadata', 'patterns', 'process', 'sample', 'title', 'total']
    """
    path = resolve_path(path, "phaseloom.nxs")
    if isinstance(source, Scan4D):
        native.write(source, path)
    elif isinstance(source, Result):
        source.write(path)
    else:
        with whole_hdf5(path, stream=True) as file:
            layout.write_entry(file, source)
            file.attrs["phaseloom_export"] = "nexus"
    return path
