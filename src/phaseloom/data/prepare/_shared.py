"""What the transforms of a scan have in common."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from phaseloom.data.counts import map_counts
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.free_memory import require_memory

__all__ = [
    "apply_to_detector",
    "cut_middle",
    "float_dtype",
    "make_example",
    "require_number",
    "require_ranges",
    "require_shape",
    "resample_probe",
]
__all__ += ["tilt_probe"]


def make_example() -> Scan4D:
    """Three patterns of 8 x 8 pixels, one count each, for the examples."""
    geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
    positions = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    return Scan4D(counts=np.ones((3, 8, 8)), positions=positions, geometry=geometry)


def apply_to_detector(
    scan: Scan4D, move: Callable[[np.ndarray], np.ndarray], geometry: Geometry, /
) -> Scan4D:
    """Everything that lies on the detector, moved in the same way; the probe is left to the caller."""
    images = {name: getattr(scan, name) for name in ("mask", "background", "flat")}
    moved = {name: None if image is None else move(image) for name, image in images.items()}
    return replace(scan, counts=map_counts(scan.counts, move), geometry=geometry, probe=None, **moved)


def require_shape(scan: Scan4D, to: tuple[int, int], place: str) -> tuple[int, int]:
    """Two positive whole numbers of pixels."""
    whole = len(to) == 2 and all(isinstance(n, (int, np.integer)) and n > 0 for n in to)
    if not whole:
        fix = f"must be two positive whole numbers; the detector has {scan.geometry.shape}"
        raise BadInput(place, to, fix)
    require_detector(scan, (int(to[0]), int(to[1])), place)
    return int(to[0]), int(to[1])


MAX_SIDE = 65_536
"""Pixels along an edge of the largest detector."""


def require_detector(scan: Scan4D, shape: tuple[int, int], place: str) -> None:
    """Refuse a detector whose patterns do not fit into memory, where they are kept there."""
    if max(shape) > MAX_SIDE:
        raise BadInput(place, shape, f"must be at most {MAX_SIDE} pixels along an edge")
    count = len(scan) if isinstance(scan.counts, np.ndarray) else 1
    itemsize = max(4, scan.counts.dtype.itemsize)
    require_memory(count * shape[0] * shape[1] * itemsize, f"{place}: patterns of {shape[0]} x {shape[1]}")


def cut_middle(stack: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The window of this shape around ``[N // 2, N // 2]``, zero where there was nothing."""
    out = np.zeros((*stack.shape[:-2], *shape), stack.dtype)
    inner = []
    outer = []
    for old, new in zip(stack.shape[-2:], shape, strict=True):
        size = min(old, new)
        inner.append(slice(old // 2 - size // 2, old // 2 - size // 2 + size))
        outer.append(slice(new // 2 - size // 2, new // 2 - size // 2 + size))
    out[..., outer[0], outer[1]] = stack[..., inner[0], inner[1]]
    return out


def resample_probe(probe: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same field of view with more or fewer pixels; the unitary transform keeps the counts."""
    axes = (-2, -1)
    far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes), norm="ortho"), axes)
    far = np.fft.ifftshift(cut_middle(far, shape), axes)
    return np.fft.fftshift(np.fft.ifft2(far, norm="ortho"), axes).astype(probe.dtype)


def tilt_probe(probe: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """A probe whose far-field pattern is shifted by this many pixels (y, x)."""
    waves = [
        np.exp(2j * np.pi * s * (np.arange(n) - n // 2) / n)
        for s, n in zip(shift, probe.shape[-2:], strict=True)
    ]
    return (probe * np.outer(*waves)).astype(probe.dtype)


def float_dtype(dtype: np.dtype) -> np.dtype:
    """The type of patterns that stop being whole numbers: single precision unless they had more."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def require_number(
    value: float, place: str, *, least: float | None = None, above: float | None = None
) -> float:
    """A finite number, at least or above some limit."""
    good = isinstance(value, (int, float, np.number)) and np.isfinite(value)
    if not good or (least is not None and value < least) or (above is not None and value <= above):
        limit = "finite" if least is None and above is None else ""
        limit = f"at least {least:g}" if least is not None else limit or f"above {above:g}"
        raise BadInput(place, value, f"must be a number, {limit}")
    return float(value)


def require_ranges(
    lengths: tuple[int, int], wanted: dict[str, tuple[int, int] | None]
) -> list[tuple[int, int]]:
    """For each axis the stretch ``[first, last)`` that is wanted; all of it for ``None``."""
    found = []
    for length, (place, pair) in zip(lengths, wanted.items(), strict=True):
        first, last = (0, length) if pair is None else pair
        whole = all(isinstance(n, (int, np.integer)) for n in (first, last))
        if not (whole and 0 <= first < last <= length):
            raise BadInput(place, pair, f"must be two whole numbers that rise, from 0 to {length}")
        found.append((int(first), int(last)))
    return found
