"""Parts of earlier reconstructions, made to fit the scan at hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.data import importers as models
from phaseloom.data.importers import Imported
from phaseloom.data.scan import Geometry
from phaseloom.errors import BadInput
from phaseloom.physics import slices as depth
from phaseloom.physics.fourier import fit_window
from phaseloom.ptycho.canvas import Canvas

__all__ = ["fit_slices", "is_ours", "lay_on_canvas", "read_object", "read_probe", "read_tilts"]

PIXEL_TOLERANCE = 2e-3
"""Relative difference of two pixels that are taken for the same."""


def read_object(path: Path, /, *, pixel: float | None = None) -> Imported:
    """The object of a file with what is known of its place.

    Args:
        path: the file.
        pixel: angstrom, for files that do not say theirs.

    Raises:
        BadInput: a file without one.
    """
    path = Path(path)
    if path.suffix == ".npy":
        array = _read_array(path, "object: from_file.path", least=2, most=4)
        return Imported(source=path.name, object=array.reshape((1,) * (4 - array.ndim) + array.shape))
    found = models.read(path, pixel=pixel)
    if found.object is None:
        raise BadInput("object: from_file.path", str(path), "holds no object")
    return found


def fit_slices(
    found: Imported,
    /,
    *,
    crop: tuple[int, int] | None = None,
    pad: tuple[int, int] = (0, 0),
    fill: Any = "vacuum",
    slices: int | None = None,
    thickness: float | Sequence[float] | None = None,
) -> tuple[Complex[Tensor, "state slice y x"], tuple[float, ...]]:
    """The object cropped, resampled, padded along the beam, and the gaps that it then has."""
    wave = torch.from_numpy(np.asarray(found.object).astype(np.complex64))
    gaps = _known_gaps(found, wave.shape[1], thickness)
    if crop is not None:
        if not 0 <= crop[0] < crop[1] <= wave.shape[1]:
            fix = f"is not a range of the {wave.shape[1]} slices: write [first, one after the last]"
            raise BadInput("object: from_file.crop", list(crop), fix)
        wave = depth.crop_slices(wave, *crop)
        gaps = gaps[crop[0] :][: wave.shape[1] - 1]
    if slices is not None or (thickness is not None and found.thickness is not None):
        onto = _wanted_gaps(gaps, slices, thickness)
        wave = depth.resample_slices(wave, gaps, onto)
        gaps = onto
    if any(pad):
        each = gaps[0] if gaps else _require_thickness(thickness)
        wave = depth.pad_slices(wave, *pad, fill=fill)
        gaps = (each,) * pad[0] + tuple(gaps) + (gaps[-1] if gaps else each,) * pad[1]
    return wave, tuple(gaps)


def lay_on_canvas(
    wave: Complex[Tensor, "state slice y x"], found: Imported, canvas: Canvas, *, ours: bool
) -> tuple[Complex[Tensor, "state slice v u"], Canvas]:
    """The object on the canvas of a scan, vacuum where it knows nothing, and that canvas.

    Where pixels agree the canvas moves by part of one so that no value is interpolated.

    Args:
        wave: the object.
        found: its place.
        canvas: of the scan at hand.
        ours: positions of the file are in the frame of its data; else the middles of the scans are laid
            on one another.
    """
    pixel = np.array(found.pixel if found.pixel is not None else canvas.pixel)
    first = _first_pixel(found, pixel, wave.shape[-2:], canvas, ours=ours)
    if found.rotation == 0.0 and np.allclose(pixel, canvas.pixel, rtol=PIXEL_TOLERANCE):
        steps = (np.array(canvas.origin) - first) / canvas.pixel
        whole = np.floor(steps + 1e-6).astype(int)
        moved = replace(
            canvas,
            origin=tuple((first + whole * canvas.pixel).tolist()),
            shape=(canvas.shape[0] + 1, canvas.shape[1] + 1),
        )
        return _copy_window(wave, whole, moved.shape), moved
    return _interpolate_onto(wave, first, pixel, canvas, rotation=found.rotation), canvas


def is_ours(path: Path, /) -> bool:
    """Whether a file's positions are in the frame of its data, as in results of ours."""
    return Path(path).suffix != ".npy" and models.find_program(path) == "ours"


def read_probe(path: Path, geometry: Geometry, /) -> Complex[Tensor, "mode y x"]:
    """The probe of a file on the grid of a geometry; its power is that of the file.

    Raises:
        BadInput: a file without one.
    """
    path = Path(path)
    place = "probe: from_file.path"
    pixel = None
    if path.suffix == ".npy":
        array: np.ndarray | None = _read_array(path, place, least=2, most=3)
    else:
        found = models.read(path, pixel=geometry.pixel[0])
        array = found.probe
        pixel = found.pixel
    if array is None:
        raise BadInput(place, str(path), "holds no probe")
    wave = torch.from_numpy(np.asarray(array).astype(np.complex128))
    wave = wave.reshape(-1, *wave.shape[-2:])
    if pixel is not None and not np.allclose(pixel, geometry.pixel, rtol=PIXEL_TOLERANCE):
        wave = _rescale_probe(wave, np.array(pixel), geometry)
    return fit_window(wave, geometry.shape)


def read_mixtures(path: Path, count: int, /) -> Complex[Tensor, "n mode basis"]:
    """What the modes of each of so many patterns are in terms of the probe of a result.

    Raises:
        BadInput: a file without any, or with those of another number of patterns.
    """
    place = "probe: relaxed.path"
    found = models.read(Path(path)).opr_weights
    if found is None:
        raise BadInput(place, str(path), "holds no opr_weights: it is not a result of a relaxed probe")
    if len(found) != count:
        raise BadInput(place, str(path), f"has weights of {len(found)} patterns, but there are {count}")
    return torch.from_numpy(np.asarray(found).astype(np.complex64))


def read_tilts(path: Path, /) -> np.ndarray:
    """Tilts ``(1, 2)`` or ``(n, 2)`` in radian, of a result or of a table in milliradian."""
    path = Path(path)
    place = "propagator: tilts"
    if path.suffix in (".npy", ".csv", ".txt"):
        from phaseloom.data.formats.quantities.tables import read_table

        values = np.atleast_2d(read_table(path)) * 1e-3
    else:
        found = models.read(path).tilts
        if found is None:
            raise BadInput(place, str(path), "holds no tilts")
        values = np.asarray(found, float)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise BadInput(place, f"{path} with shape {values.shape}", "must hold rows of two numbers (y, x)")
    return values


def _read_array(path: Path, place: str, *, least: int, most: int) -> np.ndarray:
    if not path.is_file():
        raise BadInput(place, str(path), "does not exist")
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise BadInput(place, path.name, "is not a plain numpy array") from error
    if not (least <= array.ndim <= most and np.iscomplexobj(array) and np.isfinite(array).all()):
        fix = f"is not a complex array of {least} to {most} axes, (y, x) last"
        raise BadInput(place, f"{path.name} with {array.dtype}{array.shape}", fix)
    return array


def _known_gaps(found: Imported, slices: int, thickness: Any) -> tuple[float, ...]:
    if found.thickness is not None:
        return tuple(float(gap) for gap in found.thickness)
    if slices == 1:
        return ()
    if thickness is None:
        raise BadInput("object: from_file.thickness", None, f"is missing: {found.source} does not say it")
    many = list(thickness) if isinstance(thickness, Sequence) else [thickness] * (slices - 1)
    return tuple(map(float, many[: slices - 1]))


def _wanted_gaps(gaps: Sequence[float], slices: int | None, thickness: Any) -> tuple[float, ...]:
    if isinstance(thickness, Sequence):
        return tuple(thickness)[: slices - 1 if slices else None]
    return depth.equal_gaps(gaps, slices=slices, thickness=thickness)


def _require_thickness(thickness: Any) -> float:
    if thickness is None or isinstance(thickness, Sequence):
        raise BadInput("object: from_file.thickness", thickness, "is needed to pad an object of one slice")
    return float(thickness)


def _first_pixel(
    found: Imported, pixel: np.ndarray, shape: Sequence[int], canvas: Canvas, *, ours: bool
) -> np.ndarray:
    """Position of the object's pixel ``[0, 0]`` in the frame of the scan, angstrom."""
    if found.origin is None:
        middle = np.array(canvas.origin) + (np.array(canvas.shape) // 2) * canvas.pixel
        return middle - (np.array(shape) // 2) * pixel
    first = np.array(found.origin)
    if ours or found.positions is None or canvas.middle is None:
        return first
    return first + np.array(canvas.middle) - found.positions.mean(0)


def _copy_window(wave: Tensor, start: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """The window of a shape that begins at ``start``, one where there was nothing."""
    out = wave.new_ones(*wave.shape[:2], *shape)
    inner = []
    outer = []
    for begin, size, old in zip(start.tolist(), shape, wave.shape[-2:], strict=True):
        low = max(begin, 0)
        high = min(begin + size, old)
        inner.append(slice(low, max(high, low)))
        outer.append(slice(low - begin, max(high, low) - begin))
    out[..., outer[0], outer[1]] = wave[..., inner[0], inner[1]]
    return out


def _interpolate_onto(
    wave: Tensor, first: np.ndarray, pixel: np.ndarray, canvas: Canvas, *, rotation: float
) -> Tensor:
    from scipy.ndimage import map_coordinates

    axes = [
        o + np.arange(n) * p - f
        for o, n, p, f in zip(canvas.origin, canvas.shape, canvas.pixel, first, strict=True)
    ]
    y, x = np.meshgrid(*axes, indexing="ij")
    cosine, sine = np.cos(rotation), np.sin(rotation)
    places = ((cosine * y + sine * x) / pixel[0], (cosine * x - sine * y) / pixel[1])
    flat = wave.reshape(-1, *wave.shape[-2:]).numpy() - 1
    parts = [[map_coordinates(part, places, order=3) for part in (one.real, one.imag)] for one in flat]
    out = np.stack([real + 1j * imag for real, imag in parts]) + 1
    return torch.from_numpy(out.astype(np.complex64)).reshape(*wave.shape[:2], *canvas.shape)


def _rescale_probe(wave: Tensor, pixel: np.ndarray, geometry: Geometry) -> Tensor:
    """A probe on pixels of another size, middle on middle."""
    from scipy.ndimage import map_coordinates

    axes = [
        (np.arange(n) - n // 2) * p / q + m // 2
        for n, p, q, m in zip(geometry.shape, geometry.pixel, pixel, wave.shape[-2:], strict=True)
    ]
    places = np.meshgrid(*axes, indexing="ij")
    parts = [[map_coordinates(x, places, order=3) for x in (one.real, one.imag)] for one in wave.numpy()]
    return torch.from_numpy(np.stack([real + 1j * imag for real, imag in parts]))
