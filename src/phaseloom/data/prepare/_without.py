"""The transform that leaves single patterns out: bad frames, found by hand or by an embedding."""

from pathlib import Path

import numpy as np

from phaseloom.data.prepare._shared import example as _example  # noqa: F401 - for the examples
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["without"]


def without(scan: Scan4D, /, *, numbers: tuple[int, ...] = (), path: Path | None = None) -> Scan4D:
    """Leave patterns out; the others are then on no raster.

    Patterns are counted from zero, of the scan as it is at this step. A file of ``phaseloom embed`` names
    those that stand out with their places. Where it knows fewer patterns than there are here (blank ones
    were left out before it was made), they are found by these places.

    Args:
        scan: the scan.
        numbers: of patterns.
        path: embeddings (.h5 .npz), or a list of numbers (.txt .csv .npy).

    Raises:
        BadInput: neither of both, a number that no pattern has, a file of something else or of another
            scan, or no pattern that is left.

    Example:
        >>> without(_example(), numbers=(1,)).positions[:, 0].tolist()
        [0.0, 2.0]
    """
    if path is None and not numbers:
        raise BadInput("without", None, "needs numbers of patterns, or the path of a file with them")
    named = np.asarray(numbers, np.int64) if path is None else np.append(_of(Path(path), scan), numbers)
    wrong = named[(named < 0) | (named >= len(scan))]
    if len(wrong):
        raise BadInput(
            "without", int(wrong[0]), f"is no pattern of this scan: count from 0 to {len(scan) - 1}"
        )
    kept = np.ones(len(scan), bool)
    kept[named.astype(np.int64)] = False
    return scan.select(np.flatnonzero(kept))


def _of(path: Path, scan: Scan4D) -> np.ndarray:
    """Numbers of the patterns that a file names."""
    from phaseloom.data.formats.arrays import read_table

    if path.suffix in (".h5", ".hdf5", ".npz"):
        return _standing_out(path, scan)
    values = np.ravel(read_table(path))
    if values.dtype.kind not in "iuf" or not (values == np.round(values)).all():
        raise BadInput(f"without.path: {path}", None, "must hold whole numbers of patterns and nothing else")
    return values.astype(np.int64)


def _standing_out(path: Path, scan: Scan4D) -> np.ndarray:
    named, places = _read(path)
    place = f"without.path: {path}"
    if len(places) == len(scan):
        if not np.allclose(places, scan.positions, rtol=0, atol=_near(scan)):
            fix = "is of a scan with other positions: let this be the step after those that it was made with"
            raise BadInput(place, None, fix)
        return named
    from scipy.spatial import KDTree

    tree, near = KDTree(scan.positions), _near(scan)
    away, numbers = tree.query(places)
    alone = all(len(one) == 1 for one in tree.query_ball_point(places[named], near))
    if (away > near).any() or (np.diff(numbers) < 1).any() or not alone:
        fix = f"but there are {len(scan)} here, not one at each of their places: embed this scan again"
        raise BadInput(place, f"is of {len(places)} patterns", fix)
    return np.asarray(numbers)[named]


def _near(scan: Scan4D) -> float:
    """A distance that is none, angstrom."""
    return 1e-6 * max(1.0, *scan.extent)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of patterns that stand out, and places of all, of embeddings."""
    from phaseloom.data.formats.files import READ_ERRORS, require_file

    try:
        if require_file(path).suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return file["unusual"].astype(np.int64), file["positions"]
        import h5py

        with h5py.File(path) as file:
            return np.asarray(file["unusual"], np.int64), np.asarray(file["positions"])
    except BadInput:
        raise
    except READ_ERRORS as problem:
        fix = "names no patterns that stand out: give a file of phaseloom embed"
        raise BadInput(f"without.path: {path}", None, fix) from problem
