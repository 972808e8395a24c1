"""Phases of an object under several angles, ready for tomography: unwrapped, without ramps, on one field."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import ndimage

from phaseloom.data import nexus
from phaseloom.data.formats.files import create_hdf5
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.metrics.phase import remove_plane_wave, remove_ramp
from phaseloom.result import Result

__all__ = ["Projections", "gather_projections", "write_projections"]

MAX_PIXEL_RATIO = 1e-3
"""By which pixels of results may differ."""

MIN_SIDE = 16
"""Pixels a side of the field that all results share, at least."""

PROJECTION = 0
"""Key of a projection among the frames of NXtomo; flat and dark fields have others."""


@dataclass(frozen=True, eq=False)
class Projections:
    """Phases under several angles on one field, for a rotation axis that is vertical (along rows, y).

    The phase is that of the object's transmission ``exp(i phase)``. Of X-rays it is ``-2 pi / wavelength``
    times the integral of the decrement of the refractive index along the beam (delta, from
    ``n = 1 - delta + i beta``), of electrons the interaction constant times that of the potential.

    Attributes:
        phase: ``(n, y, x)`` radian.
        angles: ``(n,)`` of the object about the axis, degrees.
        pixel: (y, x) angstrom.
        origin: position (y, x) of pixel ``[0, 0]`` in the frame of the scans, angstrom.
        wavelength: angstrom.
        energy: eV.
        beam: ``photon`` or ``electron``.
        jumps: ``(n,)`` share of neighbouring pixels whose phases differ by more than pi after unwrapping:
            more than 0.001 means that the phase could not be unwrapped everywhere.
    """

    phase: np.ndarray
    angles: np.ndarray
    pixel: tuple[float, float]
    origin: tuple[float, float]
    wavelength: float
    energy: float
    beam: str
    jumps: np.ndarray


def gather_projections(
    results: Sequence[Result], angles: Sequence[float] | np.ndarray, /, *, air: float = 0.0
) -> Projections:
    """Unwrap the phases of results, take off ramps and constants, and cut them to the field that all share.

    A constant and a ramp of each phase are arbitrary. With ``air`` they are those that make the phase zero at
    the left and the right edge of the field; without, the plane is taken off that most pixels are on, which
    is right where most of the field is empty; an object that fills it needs ``air``.

    Args:
        results: one for each angle.
        angles: degrees.
        air: width of empty field at the left and at the right edge, angstrom.

    Raises:
        BadInput: numbers of results and angles differ, pixels differ, or too little of the field is shared.
        MissingExtra: scikit-image, which unwraps, is not installed.
    """
    turns = np.asarray(angles, float)
    if turns.ndim != 1 or len(turns) != len(results) or not len(turns) or not np.isfinite(turns).all():
        fix = f"must be a number of degrees for each of {len(results)} results"
        raise BadInput("projections: angles", f"{turns.size} angles", fix)
    first = results[0]
    box = _find_common_field(results)
    seen = np.stack([_unwrap_field(one, box, first) for one in results])
    edge = round(air / first.pixel[1])
    if air and not 2 <= edge <= seen.shape[2] // 3:
        fix = f"is {edge} of {seen.shape[2]} columns: take at least 2, and a third at most"
        raise BadInput("projections: air", air, fix)
    weight = np.ones(seen.shape[1:])
    if air:
        weight[:, edge:-edge] = 0
    level = np.stack([remove_ramp(one, weight, robust=not air) for one in seen])
    geometry = first.geometry
    return Projections(
        phase=level.astype(np.float32),
        angles=turns,
        pixel=first.pixel,
        origin=(box[0][0], box[1][0]),
        wavelength=geometry.wavelength,
        energy=geometry.energy,
        beam=geometry.beam,
        jumps=np.array([_count_jumps(one) for one in seen]),
    )


def write_projections(found: Projections, path: Path | str, /, *, title: str = "") -> Path:
    """Write an NXtomo file, in which tomopy, nabu, savu and others find projections and angles.

    ``/entry/data/data`` (or ``/entry/instrument/detector/data``) holds the phases in radian, which are line
    integrals already: reconstruct from them without a logarithm. ``/entry/data/rotation_angle`` is in
    degrees.

    Args:
        found: see `gather_projections`.
        path: of the file.
        title: of the entry.

    Raises:
        BadInput: the folder does not exist.
    """
    with create_hdf5(path) as file:
        nexus.set_root(file)
        entry = _group(file, "entry", "NXentry")
        entry.attrs["default"] = "data"
        nexus.write_text(entry, "definition", "NXtomo")
        nexus.write_text(entry, "title", title or "phase projections")
        instrument = _group(entry, "instrument", "NXinstrument")
        source = _group(instrument, "source", "NXsource")
        nexus.write_text(source, "probe", "electron" if found.beam == "electron" else "x-ray")
        _write(_group(instrument, "beam", "NXbeam"), "incident_wavelength", found.wavelength, "angstrom")
        _write(instrument["beam"], "incident_energy", found.energy, "eV")
        detector = _group(instrument, "detector", "NXdetector")
        _write(detector, "data", found.phase, "rad")
        detector["image_key"] = np.full(len(found.phase), PROJECTION, np.int32)
        for name, size in zip("yx", found.pixel, strict=True):
            _write(detector, f"{name}_pixel_size", size * 1e-10, "m")
        sample = _group(entry, "sample", "NXsample")
        nexus.write_text(sample, "name", title or "sample")
        _write(sample, "rotation_angle", found.angles, "deg")
        data = _group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        data.attrs["axes"] = ["rotation_angle", ".", "."]
        data["data"] = h5py.SoftLink("/entry/instrument/detector/data")
        data["rotation_angle"] = h5py.SoftLink("/entry/sample/rotation_angle")
        data["image_key"] = h5py.SoftLink("/entry/instrument/detector/image_key")
    return Path(path)


Box = tuple[tuple[float, int], tuple[float, int]]
"""Of rows and of columns: position of the first pixel, angstrom, and number of pixels."""


def _find_common_field(results: Sequence[Result]) -> Box:
    """The field that all have scanned, on the pixels of the first."""
    first = results[0]
    pixel = np.array(first.pixel)
    low = []
    high = []
    for number, one in enumerate(results):
        if np.abs(np.array(one.pixel) / pixel - 1).max() > MAX_PIXEL_RATIO:
            sizes = " and ".join(f"{size:.4g} A" for size in (one.pixel[0], first.pixel[0]))
            fix = f"has other pixels than the first one ({sizes}): take runs of one energy and distance"
            raise BadInput("projections", f"result {number}", fix)
        corner = [(w.start, min(w.stop, n)) for w, n in zip(one.window, one.coverage.shape, strict=True)]
        low.append([o + a * p for o, (a, _), p in zip(one.origin, corner, pixel, strict=True)])
        high.append([o + (b - 1) * p for o, (_, b), p in zip(one.origin, corner, pixel, strict=True)])
    origin = np.array(first.origin)
    start = np.ceil((np.max(low, 0) - origin) / pixel - 1e-6)
    count = np.floor((np.min(high, 0) - origin) / pixel + 1e-6) - start + 1
    if count.min() < MIN_SIDE:
        size = " x ".join(str(max(0, int(n))) for n in count)
        fix = f"is all that the results share: {MIN_SIDE} pixels a side are needed"
        raise BadInput("projections", f"{size} pixels", fix)
    place = origin + start * pixel
    return (float(place[0]), int(count[0])), (float(place[1]), int(count[1]))


def _unwrap_field(one: Result, box: Box, first: Result) -> np.ndarray:
    """The unwrapped phase of a result on a field; between pixels by cubic splines."""
    wave = np.prod(remove_plane_wave(one.object, one.coverage_mask.astype(float)), axis=0)
    rows, columns = one.window
    phase = _import_restoration().unwrap_phase(np.angle(wave[rows, columns]).astype(float))
    corner = [o + w.start * p for o, w, p in zip(one.origin, one.window, one.pixel, strict=True)]
    places = [
        (start - at) / p + np.arange(count) * q / p
        for (start, count), at, p, q in zip(box, corner, one.pixel, first.pixel, strict=True)
    ]
    return ndimage.map_coordinates(phase, np.meshgrid(*places, indexing="ij"), order=3, mode="nearest")


def _count_jumps(phase: np.ndarray) -> float:
    """Share of neighbouring pixels whose phases differ by more than pi."""
    jumps = sum(int((np.abs(np.diff(phase, axis=axis)) > np.pi).sum()) for axis in (0, 1))
    return jumps / (2 * phase.size)


def _import_restoration() -> Any:
    try:
        from skimage import restoration
    except ImportError as problem:
        raise MissingExtra("projections", "scikit-image", "restore") from problem
    return restoration


def _group(parent: Any, name: str, kind: str) -> Any:
    group = parent.require_group(name)
    group.attrs["NX_class"] = kind
    return group


def _write(group: Any, name: str, values: Any, unit: str) -> None:
    group[name] = values
    group[name].attrs["units"] = unit
