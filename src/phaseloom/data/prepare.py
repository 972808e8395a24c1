"""Transforms of a scan before it is modelled: counts, geometry, masks and probe change together.

Zero frequency stays at pixel ``[N // 2, N // 2]``; patterns that are read lazily stay lazy.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from phaseloom.data.counts import mapped
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.units import Angle

__all__ = ["bin", "center", "crop", "flip", "half", "mask", "pad", "rotate", "scale", "select", "transpose"]


def crop(scan: Scan4D, /, *, to: tuple[int, int]) -> Scan4D:
    """Keep the middle of the detector, ``to`` = (y, x) pixels.

    In the far field the object pixel grows and the field of view stays; a probe that came with the
    data loses its high frequencies. In the near field the window shrinks.

    Raises:
        BadInput: ``to`` is not between 1 and the size of the detector.

    Example:
        >>> crop(_example(), to=(4, 6)).counts.shape
        (3, 4, 6)
    """
    shape = _size(scan, to, "crop.to")
    if any(new > old for new, old in zip(shape, scan.geometry.shape, strict=True)):
        raise BadInput("crop.to", shape, f"is larger than the detector {scan.geometry.shape}: use pad")
    return _windowed(scan, shape)


def pad(scan: Scan4D, /, *, to: tuple[int, int]) -> Scan4D:
    """Surround the detector with unmeasured (masked) pixels up to ``to`` = (y, x).

    In the far field the object pixel shrinks; a probe that came with the data is interpolated.

    Raises:
        BadInput: ``to`` is smaller than the detector.

    Example:
        >>> padded = pad(_example(), to=(12, 12))
        >>> padded.counts.shape, int(padded.mask.sum())
        ((3, 12, 12), 64)
    """
    shape = _size(scan, to, "pad.to")
    if any(new < old for new, old in zip(shape, scan.geometry.shape, strict=True)):
        raise BadInput("pad.to", shape, f"is smaller than the detector {scan.geometry.shape}: use crop")
    return _windowed(scan, shape)


def bin(scan: Scan4D, /, *, factor: int) -> Scan4D:
    """Add the counts of ``factor`` x ``factor`` pixels; surplus pixels at the edge are dropped.

    A binned pixel is good when all of its parts are. In the far field the window shrinks, so a probe
    that came with the data is cropped and keeps its power; where an even factor puts zero frequency
    half a pixel beside the middle, the probe gets the tilt that says so.

    Raises:
        BadInput: a factor below 1, or one that leaves less than two pixels.

    Example:
        >>> bin(_example(), factor=2).counts[0, 0, 0]
        np.float64(4.0)
    """
    small = min(scan.geometry.shape)
    if not (isinstance(factor, (int, np.integer)) and 1 <= factor <= small // 2):
        raise BadInput("bin.factor", factor, f"must be a whole number from 1 to {small // 2}")
    blocks = partial(_blocks, factor=int(factor))
    flat, background = scan.flat, scan.background
    return replace(
        scan,
        counts=mapped(scan.counts, partial(_summed, factor=int(factor))),
        geometry=scan.geometry.binned(int(factor)),
        mask=blocks(scan.mask).all((-3, -1)),
        background=None if background is None else blocks(background).sum((-3, -1)),
        flat=None if flat is None else blocks(flat).mean((-3, -1)),
        probe=None if scan.probe is None else _binned_probe(scan, int(factor)),
    )


def flip(scan: Scan4D, /, *, axis: Literal["y", "x"]) -> Scan4D:
    """Correct a detector that was read out upside down (``y``) or mirrored (``x``).

    Patterns, mask, background, flat and probe change; positions stay, for they were right. In the far
    field zero frequency stays where it is, so the first row of an even number keeps its place.

    Raises:
        BadInput: an axis other than y and x.

    Example:
        >>> flip(_example(), axis="y").positions.tolist() == _example().positions.tolist()
        True
    """
    if axis not in ("y", "x"):
        raise BadInput("flip.axis", axis, "is not an axis: choose y or x")
    which = -2 if axis == "y" else -1
    mirror = partial(_mirrored, axis=which, keep=not scan.geometry.near)
    return replace(
        _through(scan, mirror, scan.geometry), probe=None if scan.probe is None else mirror(scan.probe)
    )


def transpose(scan: Scan4D, /) -> Scan4D:
    """Correct a detector whose rows were read out as columns; positions stay.

    Example:
        >>> transpose(crop(_example(), to=(4, 6))).counts.shape
        (3, 6, 4)
    """
    geometry = scan.geometry.transposed()
    probe = None if scan.probe is None else _swapped(scan.probe)
    return replace(_through(scan, _swapped, geometry), probe=probe)


def rotate(scan: Scan4D, /, *, angle: Angle) -> Scan4D:
    """Turn the positions by an angle that takes the row axis (y) towards the column axis (x).

    Raises:
        BadInput: an angle that is not finite.

    Example:
        >>> rotate(_example(), angle=np.pi / 2).positions[1].round(6).tolist()
        [0.0, 1.0]
    """
    if not np.isfinite(angle):
        raise BadInput("rotate.angle", angle, "must be finite")
    c, s = np.cos(angle), np.sin(angle)
    return replace(scan, positions=scan.positions @ np.array([[c, s], [-s, c]]))


def scale(scan: Scan4D, /, *, factor: float | tuple[float, float]) -> Scan4D:
    """Multiply the positions by a factor, or by one for each of (y, x), to correct a step or a mirrored axis.

    Raises:
        BadInput: a factor that is zero or not finite.

    Example:
        >>> scale(_example(), factor=(-2.0, 1.0)).positions[1].tolist()
        [-2.0, 0.0]
    """
    factors = np.asarray(factor, np.float64)
    if factors.shape not in ((), (2,)) or not (np.isfinite(factors).all() and factors.all()):
        raise BadInput("scale.factor", factor, "must be a number other than zero, or two of them")
    return replace(scan, positions=scan.positions * factors)


def mask(
    scan: Scan4D,
    /,
    *,
    path: str | None = None,
    saturated: float | None = None,
    radius: float | None = None,
    beamstop: float | None = None,
) -> Scan4D:
    """Mark more pixels as not to be trusted.

    Args:
        scan: the scan.
        path: an ``.npy``, ``.csv`` or ``.txt`` file ``(y, x)``, not zero where a pixel is good.
        saturated: pixels that reach this many counts in any pattern.
        radius: pixels farther than this from zero frequency, in pixels.
        beamstop: pixels nearer than this to zero frequency, in pixels.

    Raises:
        BadInput: a file that does not fit, or no pixel left.

    Example:
        >>> int(mask(_example(), radius=1).mask.sum())
        5
    """
    good = scan.mask.copy()
    if path is not None:
        good &= _stored(path, scan.geometry.shape)
    if saturated is not None:
        good &= _highest(scan) < saturated
    y, x = (np.arange(n) - n // 2 for n in scan.geometry.shape)
    away = np.hypot(y[:, None], x[None, :])
    if radius is not None:
        good &= away <= radius
    if beamstop is not None:
        good &= away >= beamstop
    if not good.any():
        raise BadInput("mask", None, "leaves no pixel: loosen saturated, radius or beamstop")
    return replace(scan, mask=good)


def select(scan: Scan4D, /, *, start: int = 0, stop: int | None = None, every: int = 1) -> Scan4D:
    """Every ``every``-th pattern from ``start`` up to, but without, ``stop``.

    Raises:
        BadInput: no pattern is left, or ``every`` is less than 1.

    Example:
        >>> len(select(_example(), every=2))
        2
    """
    if every < 1:
        raise BadInput("select.every", every, "must be 1 or more")
    return scan.select(np.arange(len(scan))[start:stop:every])


def half(scan: Scan4D, /, *, which: Literal[0, 1], seed: int = 0) -> Scan4D:
    """One of two random halves without a common pattern, to compare two reconstructions.

    Raises:
        BadInput: fewer than two patterns, or a half other than 0 and 1.

    Example:
        >>> len(half(_example(), which=0)), len(half(_example(), which=1))
        (1, 2)
    """
    if which not in (0, 1) or len(scan) < 2:
        raise BadInput(
            "half.which", which, f"is no half of {len(scan)} patterns: choose 0 or 1 of two or more"
        )
    order = np.random.default_rng(seed).permutation(len(scan))
    cut = len(scan) // 2
    return scan.select(np.sort(order[cut:] if which else order[:cut]))


def center(scan: Scan4D, /) -> Scan4D:
    """Shift the patterns by whole pixels: the mean's centre of mass comes to ``[N // 2, N // 2]``.

    Pixels that come from outside the detector are masked; a probe that came with the data is tilted.

    Raises:
        BadInput: a near-field scan (its patterns have no zero frequency), or no counts.

    Example:
        >>> spot = np.zeros((1, 8, 8)); spot[0, 2, 5] = 9
        >>> int(center(replace(_example().select(np.array([0])), counts=spot)).counts[0, 4, 4])
        9
    """
    if scan.geometry.near:
        raise BadInput("center", None, "needs far-field patterns: a hologram has no zero frequency")
    mean = np.clip(scan.mean_pattern() * scan.mask, 0, None)
    if not mean.sum() > 0:
        raise BadInput("center", None, "finds no counts in the good pixels: check mask and data")
    grid = np.indices(mean.shape)
    shift = tuple(
        n // 2 - round(float((g * mean).sum() / mean.sum())) for g, n in zip(grid, mean.shape, strict=True)
    )
    moved = _through(scan, partial(_shifted, shift=shift), scan.geometry)
    if scan.probe is None:
        return moved
    tilt = [
        np.exp(2j * np.pi * s * (np.arange(n) - n // 2) / n) for s, n in zip(shift, mean.shape, strict=True)
    ]
    return replace(moved, probe=(scan.probe * np.outer(*tilt)).astype(scan.probe.dtype))


def _example() -> Scan4D:
    """Three patterns of 8 x 8 pixels, one count each, for the examples."""
    geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
    positions = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    return Scan4D(counts=np.ones((3, 8, 8)), positions=positions, geometry=geometry)


def _through(scan: Scan4D, move: Callable[[np.ndarray], np.ndarray], geometry: Geometry, /) -> Scan4D:
    """Everything that lies on the detector, moved in the same way; the probe is left to the caller."""
    images = {name: getattr(scan, name) for name in ("mask", "background", "flat")}
    moved = {name: None if image is None else move(image) for name, image in images.items()}
    return replace(scan, counts=mapped(scan.counts, move), geometry=geometry, **moved)


def _size(scan: Scan4D, to: tuple[int, int], place: str) -> tuple[int, int]:
    whole = len(to) == 2 and all(isinstance(n, (int, np.integer)) and n > 0 for n in to)
    if not whole:
        raise BadInput(
            place, to, f"must be two positive whole numbers; the detector has {scan.geometry.shape}"
        )
    return int(to[0]), int(to[1])


def _windowed(scan: Scan4D, shape: tuple[int, int]) -> Scan4D:
    move = partial(_middle, shape=shape)
    geometry = scan.geometry.cropped(shape)
    probe = scan.probe
    if probe is not None:
        probe = move(probe) if scan.geometry.near else _resampled(probe, shape)
    return replace(_through(scan, move, geometry), probe=probe)


def _middle(stack: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The window of this shape around ``[N // 2, N // 2]``, zero where there was nothing."""
    out = np.zeros((*stack.shape[:-2], *shape), stack.dtype)
    inner, outer = [], []
    for old, new in zip(stack.shape[-2:], shape, strict=True):
        size = min(old, new)
        inner.append(slice(old // 2 - size // 2, old // 2 - size // 2 + size))
        outer.append(slice(new // 2 - size // 2, new // 2 - size // 2 + size))
    out[..., outer[0], outer[1]] = stack[..., inner[0], inner[1]]
    return out


def _resampled(probe: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same field of view with more or fewer pixels; the unitary transform keeps the counts."""
    axes = (-2, -1)
    far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes), norm="ortho"), axes)
    far = np.fft.ifftshift(_middle(far, shape), axes)
    return np.fft.fftshift(np.fft.ifft2(far, norm="ortho"), axes).astype(probe.dtype)


def _blocks(stack: np.ndarray, factor: int) -> np.ndarray:
    """Axes ``(..., y, factor, x, factor)``; the block of zero frequency is the middle one.

    Where the blocks reach over the edge they go on at the other side, as frequencies do.
    """
    sizes = [n // factor for n in stack.shape[-2:]]
    for axis, size in zip((-2, -1), sizes, strict=True):
        n = stack.shape[axis]
        start = n // 2 - factor * (size // 2) - (factor - 1) // 2
        stack = np.take(stack, np.arange(start, start + factor * size) % n, axis)
    return stack.reshape(*stack.shape[:-2], sizes[0], factor, sizes[1], factor)


def _summed(stack: np.ndarray, factor: int) -> np.ndarray:
    small = stack.dtype.kind == "u" and stack.dtype.itemsize <= 2
    kept = stack.dtype if stack.dtype.kind == "f" else (np.uint32 if small else None)
    return _blocks(stack, factor).sum((-3, -1), dtype=kept)


def _binned_probe(scan: Scan4D, factor: int) -> np.ndarray:
    probe = np.asarray(scan.probe)
    shape = scan.geometry.binned(factor).shape
    if scan.geometry.near:
        return _resampled(_middle(probe, (shape[0] * factor, shape[1] * factor)), shape)
    if factor % 2 == 0:
        tilt = [np.exp(-1j * np.pi * (np.arange(n) - n // 2) / n) for n in probe.shape[-2:]]
        probe = probe * np.outer(*tilt)
    small = _middle(probe, shape)
    power, left = (abs(probe) ** 2).sum(), (abs(small) ** 2).sum()
    return (small * np.sqrt(power / left if left > 0 else 1.0)).astype(np.asarray(scan.probe).dtype)


def _mirrored(stack: np.ndarray, axis: int, keep: bool) -> np.ndarray:
    flipped = np.flip(stack, axis)
    return np.roll(flipped, 1, axis) if keep and stack.shape[axis] % 2 == 0 else flipped


def _swapped(stack: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(stack, -2, -1))


def _shifted(stack: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    moved = np.roll(stack, shift, (-2, -1))
    for axis, s in zip((-2, -1), shift, strict=True):
        outside = slice(0, s) if s > 0 else slice(moved.shape[axis] + s, None)
        moved[(..., outside, slice(None)) if axis == -2 else (..., outside)] = 0
    return moved


def _stored(path: str, shape: tuple[int, int]) -> np.ndarray:
    from phaseloom.data.formats._arrays import table

    stored = table(Path(path))
    if stored.shape != shape or stored.dtype.kind not in "biuf":
        raise BadInput(
            f"mask.path: {path}", f"shape {stored.shape}", f"does not fit: make it {shape}, 1 = good"
        )
    return stored.astype(bool)


def _highest(scan: Scan4D) -> np.ndarray:
    highest = np.zeros(scan.geometry.shape)
    for start in range(0, len(scan), 64):
        stack = scan.counts[np.arange(start, min(start + 64, len(scan)))]
        highest = np.maximum(highest, stack.max(0))
    return highest
