"""Images of a result as TIFF files that ImageJ opens with their scales."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import make_folder, whole_buffer
from phaseloom.metrics.phase import remove_plane_wave
from phaseloom.result import Result

__all__ = ["Bits", "Image", "stacks"]

Image = Literal["phase", "amplitude", "sigma", "probe"]
Bits = Literal[8, 16, 32, "raw"]
Dimensions = Literal[2, 3, 4]

AXES_BY_DIMENSIONS = {2: "YX", 3: "ZYX", 4: "TZYX"}


def _check_name_end(text: object) -> str:
    """Text that stays within the name of a file, and so within its folder."""
    if not isinstance(text, str) or not re.fullmatch(r"[\w .,+=@()-]{0,100}", text):
        fix = "is not the end of a file's name: write letters, digits and any of _ - . , + = @ ( )"
        raise BadInput("export.stacks: suffix", text, fix)
    return text


NameEnd = Annotated[str, BeforeValidator(_check_name_end)]


def stacks(
    result: Result,
    folder: str | os.PathLike[str],
    /,
    *,
    of: tuple[Image, ...] = ("phase",),
    dimensions: tuple[Dimensions, ...] = (2, 3),
    bits: Bits = "raw",
    crop: bool = True,
    suffix: NameEnd = "",
) -> tuple[Path, ...]:
    """Write images whose names say what they hold, as ``phase_slices_crop_16bit.tif``.

    The file knows the pixel and the distance of slices (nm), and for 8 and 16 bit the line that leads back
    to radians: ImageJ shows true values.

    Args:
        result: a finished run.
        folder: created where it does not exist.
        of: ``phase`` and ``amplitude`` of the object, ``sigma`` (standard deviation of the phase, always a
            stack of slices), or ``probe``: amplitude and phase of its modes.
        dimensions: 2: one image, phases summed (free of ramp) and amplitudes multiplied over slices; 3: a
            stack of slices; 4: ``(mode, slice, y, x)``, modes as time. Up to 3, modes of an object are
            averaged by their occupancy.
        bits: ``8`` or ``16``: lowest to highest value over the whole range of integers; ``32``: over 0 to 1
            as float; ``raw``: values as they are, 32-bit float.
        crop: only where beam centres went, instead of the whole object; probes stay whole.
        suffix: of the names, ``_iter0010`` for instance.

    Returns:
        The files.

    Raises:
        BadInput: dimensions other than 2, 3 and 4, or ``sigma`` of a result without it.
        MissingExtra: tifffile is not installed.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(5e-3, 5e-3), beam="electron")
        >>> one = Result(
        ...     object=np.ones((3, 20, 20)) + 0j, probe=np.ones((2, 8, 8)) + 0j,
        ...     positions=np.array([[2.0, 2.0], [6.0, 5.0]]), positions_start=np.zeros((2, 2)),
        ...     pixel=geometry.pixel, origin=(0.0, 0.0), coverage=np.ones((20, 20)), geometry=geometry)
        >>> [path.name for path in stacks(one, "images", of=("amplitude",), bits=8)]
        ['amplitude_product_crop_08bit.tif', 'amplitude_slices_crop_08bit.tif']
    """
    wrong = [number for number in dimensions if number not in AXES_BY_DIMENSIONS]
    if wrong:
        raise BadInput("export.stacks: dimensions", wrong, "are not supported: choose from 2, 3 and 4")
    folder = make_folder(folder)
    end = ("" if bits == "raw" else f"_{bits:02d}bit") + _check_name_end(suffix)
    field = "_crop" if crop else ""
    paths = []
    for kind in of:
        if kind == "probe":
            images = _probe_images(result)
        elif kind == "sigma":
            images = _sigma_images(result, crop)
        else:
            images = _object_images(result, kind, dimensions, crop)
        for name, image, unit in images:
            path = folder / f"{name}{'' if kind == 'probe' else field}{end}.tif"
            _write_image(path, image, unit, result, bits)
            paths.append(path)
    return tuple(paths)


def _object_images(
    result: Result, kind: Image, dimensions: Sequence[int], crop: bool
) -> Iterator[tuple[str, np.ndarray, str]]:
    """Name, image and unit of value for each number of dimensions."""
    window = result.window if crop else (slice(None), slice(None))
    phase = kind == "phase"
    for number in sorted(set(dimensions)):
        if number == 2:
            image = result.phase if phase else np.prod(_average_modes(result, kind), axis=0)
        else:
            image = _average_modes(result, kind) if number == 3 else _object_values(result, kind)
        name = {2: "sum" if phase else "product", 3: "slices", 4: "modes"}[number]
        yield f"{kind}_{name}", image[(..., *window)], "rad" if phase else ""


def _object_values(result: Result, kind: Image) -> np.ndarray:
    """Phase, free of constant and ramp, or amplitude ``(mode, slice, y, x)``."""
    states = result.object[None] if result.object_modes is None else result.object_modes
    if kind == "amplitude":
        return np.abs(states)
    return np.angle(remove_plane_wave(states, result.coverage_mask.astype(float)))


def _average_modes(result: Result, kind: Image) -> np.ndarray:
    """The same ``(slice, y, x)`` averaged over modes."""
    each = _object_values(result, kind)
    weights = np.ones(len(each)) if result.occupancies is None else result.occupancies
    return np.average(each, axis=0, weights=weights)


def _sigma_images(result: Result, crop: bool) -> Iterator[tuple[str, np.ndarray, str]]:
    """The standard deviation of the phase of each slice; zero where no beam went."""
    if result.sigma is None:
        raise BadInput("export.stacks: of", "sigma", "is not known of this result: leave it out")
    window = result.window if crop else (slice(None), slice(None))
    yield "sigma_slices", np.nan_to_num(result.sigma[(..., *window)], posinf=0.0), "rad"


def _probe_images(result: Result) -> Iterator[tuple[str, np.ndarray, str]]:
    yield "probe_amplitude_modes", np.abs(result.probe)[:, None], ""
    yield "probe_phase_modes", np.angle(result.probe)[:, None], "rad"


def _write_image(path: Path, image: np.ndarray, unit: str, result: Result, bits: Bits) -> None:
    try:
        import tifffile
    except ImportError:
        raise MissingExtra("export.stacks", "tifffile", "formats") from None
    values, low, step = _scale(image, bits)
    metadata: dict[str, Any] = {"axes": AXES_BY_DIMENSIONS[image.ndim], "unit": "nm"}
    if image.ndim > 2 and result.thickness:
        metadata["spacing"] = float(result.thickness) / 10
    if bits in (8, 16):  # ImageJ's line from stored numbers to values
        metadata |= {"cf": 0, "c0": low, "c1": step, "vunit": unit or "Gray Value"}
    value = f"value = {low:.9g} + {step:.9g} * stored {unit}".strip()
    metadata["Info"] = "\n".join([value, result.metadata_text()]).strip()
    height, width = result.pixel
    with whole_buffer(path) as buffer:
        tifffile.imwrite(buffer, values, imagej=True, resolution=(10 / width, 10 / height), metadata=metadata)


def _scale(image: np.ndarray, bits: Bits) -> tuple[np.ndarray, float, float]:
    """Numbers to store, and the value of 0 and of a step of one."""
    if bits == "raw":
        return image.astype(np.float32), 0.0, 1.0
    low = float(image.min())
    high = float(image.max())
    top = {8: 255, 16: 65535, 32: 1}[bits]
    part = (image - low) / ((high - low) or 1.0)
    step = (high - low) / top
    if bits == 32:
        return part.astype(np.float32), low, step
    return np.round(part * top).astype(np.uint8 if bits == 8 else np.uint16), low, step
