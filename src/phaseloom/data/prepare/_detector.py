"""Transforms of the detector: fewer, more, larger, turned pixels; geometry and probe follow."""

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from phaseloom.data.calibrate import fit_disk
from phaseloom.data.counts import map_counts
from phaseloom.data.descan import fit_descan, measure_deflections
from phaseloom.data.prepare._shared import (
    apply_to_detector,
    cut_middle,
    require_ranges,
    require_shape,
    resample_probe,
    tilt_probe,
)
from phaseloom.data.prepare._shared import make_example as _example  # noqa: F401 - for the examples
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.pattern_middle import find_middle

__all__ = ["bin", "center", "crop", "descan", "expect", "flip", "transpose", "window"]


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
    shape = require_shape(scan, to, "crop.to")
    if any(new > old for new, old in zip(shape, scan.geometry.shape, strict=True)):
        raise BadInput("crop.to", shape, f"is larger than the detector {scan.geometry.shape}: use pad")
    return _crop_window(scan, shape)


def window(
    scan: Scan4D, /, *, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None
) -> Scan4D:
    """Keep detector rows and columns ``[first, last)``: a crop that need not lie in the middle.

    Zero frequency is taken to be in the middle of what is kept, at ``[N // 2, N // 2]`` of the new
    pattern; a probe that came with the data is tilted and cropped accordingly.

    Raises:
        BadInput: rows or columns that the detector does not have.

    Example:
        >>> window(_example(), rows=(0, 6), columns=(1, 8)).counts.shape
        (3, 6, 7)
    """
    ranges = require_ranges(scan.geometry.shape, {"window.rows": rows, "window.columns": columns})
    cut = tuple(slice(*pair) for pair in ranges)
    shape = (ranges[0][1] - ranges[0][0], ranges[1][1] - ranges[1][0])
    kept = apply_to_detector(scan, partial(_cut_window, cut=cut), scan.geometry.crop(shape))
    if scan.probe is None or scan.geometry.near:
        return replace(kept, probe=None if scan.probe is None else _cut_window(scan.probe, cut))
    pairs = zip(scan.geometry.shape, ranges, shape, strict=True)
    y, x = (old // 2 - first - new // 2 for old, (first, _), new in pairs)
    return replace(kept, probe=resample_probe(tilt_probe(scan.probe, (y, x)), shape))


def bin(
    scan: Scan4D,
    /,
    *,
    factor: int,
    about: Literal["zero frequency", "detector"] = "zero frequency",
) -> Scan4D:
    """Add the counts of ``factor`` x ``factor`` pixels; surplus pixels at the edge are dropped.

    A binned pixel is good when all of its parts are. In the far field the window shrinks, so a probe
    that came with the data is cropped and keeps its power; where zero frequency comes to lie beside the
    middle, as with every even factor, the probe gets the tilt that says so.

    Args:
        scan: the scan.
        factor: pixels of a block along each axis.
        about: where blocks begin: so that ``zero frequency`` lies in the middle one, or at the first row and
            column of the ``detector``, where zero frequency is up to a block beside the middle.

    Raises:
        BadInput: a factor below 1, or one that leaves less than two pixels; another word for ``about``.

    Example:
        >>> bin(_example(), factor=2).counts[0, 0, 0]
        np.float64(4.0)
    """
    small = min(scan.geometry.shape)
    if not (isinstance(factor, (int, np.integer)) and 1 <= factor <= small // 2):
        raise BadInput("bin.factor", factor, f"must be a whole number from 1 to {small // 2}")
    _check_about("bin.about", about)
    blocks = partial(_split_into_blocks, factor=int(factor), about=about)
    flat = scan.flat
    background = scan.background
    return replace(
        scan,
        counts=map_counts(scan.counts, partial(_sum_blocks, factor=int(factor), about=about)),
        geometry=scan.geometry.bin(int(factor)),
        mask=blocks(scan.mask).all((-3, -1)),
        background=None if background is None else blocks(background).sum((-3, -1)),
        flat=None if flat is None else blocks(flat).mean((-3, -1)),
        probe=None if scan.probe is None else _bin_probe(scan, int(factor), about),
        descan=None if scan.descan is None else scan.descan / int(factor),
    )


def flip(
    scan: Scan4D,
    /,
    *,
    axis: Literal["y", "x"],
    about: Literal["zero frequency", "detector"] = "zero frequency",
) -> Scan4D:
    """Correct a detector that was read out upside down (``y``) or mirrored (``x``).

    Patterns, mask, background, flat and probe change; positions stay, for they were right.

    Args:
        scan: the scan.
        axis: that changes its direction.
        about: what stays where it is. In the far field zero frequency does, so the first row of an even
            number keeps its place; about the ``detector`` its middle does, as `numpy.flip` has it, and
            zero frequency of an even number moves by a pixel (a probe is tilted accordingly).

    Raises:
        BadInput: an axis other than y and x.

    Example:
        >>> flip(_example(), axis="y").positions.tolist() == _example().positions.tolist()
        True
    """
    if axis not in ("y", "x"):
        raise BadInput("flip.axis", axis, "is not an axis: choose y or x")
    _check_about("flip.about", about)
    which = -2 if axis == "y" else -1
    far = not scan.geometry.near
    keep = far and about == "zero frequency"
    flipped = apply_to_detector(scan, partial(_mirror, axis=which, keep=keep), scan.geometry)
    if scan.descan is not None:
        flipped = replace(flipped, descan=scan.descan * ([-1, 1] if axis == "y" else [1, -1]))
    if scan.probe is None:
        return flipped
    probe = _mirror(scan.probe, which, far)
    if far and not keep and scan.geometry.shape[which] % 2 == 0:
        probe = tilt_probe(probe, (-1, 0) if axis == "y" else (0, -1))
    return replace(flipped, probe=probe)


def expect(scan: Scan4D, /, *, pattern: tuple[int, int]) -> Scan4D:
    """The scan as it is, if its patterns have so many pixels (y, x).

    Raises:
        BadInput: they have another size: a wrong file, or a calibration made for another detector.

    Example:
        >>> expect(_example(), pattern=(8, 8)).counts.shape
        (3, 8, 8)
    """
    if tuple(pattern) != scan.geometry.shape:
        fix = (
            f"but the patterns are {scan.geometry.shape[0]} x {scan.geometry.shape[1]}: is it the right file?"
        )
        raise BadInput("expect.pattern", list(pattern), fix)
    return scan


def transpose(scan: Scan4D, /) -> Scan4D:
    """Correct a detector whose rows were read out as columns; positions stay.

    Example:
        >>> transpose(crop(_example(), to=(4, 6))).counts.shape
        (3, 6, 4)
    """
    geometry = scan.geometry.transpose()
    probe = None if scan.probe is None else _swap_axes(scan.probe)
    larger = None if scan.modelled is None else scan.modelled.transpose()
    bare = replace(scan, modelled=None, probe=None)
    shift = None if scan.descan is None else scan.descan[:, ::-1].copy()
    return replace(apply_to_detector(bare, _swap_axes, geometry), probe=probe, modelled=larger, descan=shift)


def center(scan: Scan4D, /, *, by: Literal["mass", "disk"] = "mass") -> Scan4D:
    """Shift the patterns by whole pixels: the middle of the mean pattern comes to ``[N // 2, N // 2]``.

    Pixels that come from outside the detector are masked; a probe that came with the data is tilted.

    Args:
        scan: a far-field scan.
        by: what is taken for the middle: the centre of mass, or the bright disk, which a background and the
            edge of the detector do not pull.

    Raises:
        BadInput: a near-field scan (its patterns have no zero frequency), no counts, or no disk.

    Example:
        >>> spot = np.zeros((1, 8, 8)); spot[0, 2, 5] = 9
        >>> int(center(replace(_example().select(np.array([0])), counts=spot)).counts[0, 4, 4])
        9
    """
    if scan.geometry.near:
        raise BadInput("center", None, "needs far-field patterns: a hologram has no zero frequency")
    if by not in ("mass", "disk"):
        raise BadInput("center.by", by, "is not known: write mass or disk")
    mean = np.clip(scan.mean_pattern() * scan.mask, 0, None)
    if not mean.sum() > 0:
        raise BadInput("center", None, "finds no counts in the good pixels: check mask and data")
    if by == "disk":
        middle = fit_disk(mean, mask=scan.mask).centre
    else:
        found = find_middle(mean, scan.mask)
        assert found is not None  # there is light
        y, x = found
        middle = (y, x)
    shift = tuple(n // 2 - round(at) for at, n in zip(middle, mean.shape, strict=True))
    moved = apply_to_detector(scan, partial(_shift_patterns, shift=shift), scan.geometry)
    probe = None if scan.probe is None else tilt_probe(scan.probe, shift)
    return replace(moved, probe=probe)


def descan(scan: Scan4D, /) -> Scan4D:
    """Measure how the disk moves over the detector during the scan, for the model to move with it.

    The patterns stay as they are. A plane over the scan is taken, where it is significant (a mean slope and a
    parabola of the object's phase cannot be told from descan), and of a raster the shift of each line against
    its neighbours, as far as it exceeds what the object makes of it. Blank patterns tell nothing.

    Args:
        scan: a far-field scan with a bright disk.

    Raises:
        BadInput: a near field, or no disk.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> y, x = np.indices((32, 32))
        >>> spots = [1.0 * (np.hypot(y - 16 - d, x - 16) < 6) for d in (-1, -0.5, 0, 0.5, 1)] * 5
        >>> places = np.array([[i % 5, i // 5] for i in range(25)], float)
        >>> geometry = Geometry(wavelength=0.02, shape=(32, 32), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=100 * np.stack(spots), positions=places, geometry=geometry)
        >>> descan(scan).descan[:5, 0].round(1).tolist()
        [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if scan.geometry.near:
        raise BadInput("descan", None, "needs far-field patterns with a bright disk: leave it out")
    mean = scan.mean_pattern()
    disk = fit_disk(np.where(scan.mask, mean, 0.0), mask=scan.mask)
    found = measure_deflections(scan, centre=disk.centre, radius=disk.radius, mean=mean)
    plane = fit_descan(found, scan.positions, scan.find_raster_places())
    if plane is None:
        return scan
    finer = np.divide(scan.geometry.angle, scan.window.angle)
    return replace(scan, descan=(plane - plane.mean(0)) * finer)


def _crop_window(scan: Scan4D, shape: tuple[int, int]) -> Scan4D:
    probe = scan.probe
    if probe is not None:
        probe = cut_middle(probe, shape) if scan.geometry.near else resample_probe(probe, shape)
    return replace(
        apply_to_detector(scan, partial(cut_middle, shape=shape), scan.geometry.crop(shape)), probe=probe
    )


def _cut_window(stack: np.ndarray, cut: tuple[slice, ...]) -> np.ndarray:
    return stack[(..., *cut)]


def _check_about(place: str, about: str) -> None:
    if about not in ("zero frequency", "detector"):
        raise BadInput(place, about, "is not known: write zero frequency or detector")


def _split_into_blocks(stack: np.ndarray, factor: int, about: str) -> np.ndarray:
    """Axes ``(..., y, factor, x, factor)``.

    Where blocks about zero frequency reach over the edge they go on at the other side, as frequencies do.
    """
    sizes = [n // factor for n in stack.shape[-2:]]
    for axis, blocks in zip((-2, -1), sizes, strict=True):
        n = stack.shape[axis]
        start = _find_first_pixel(n, factor, about)
        stack = np.take(stack, np.arange(start, start + factor * blocks) % n, axis)
    return stack.reshape(*stack.shape[:-2], sizes[0], factor, sizes[1], factor)


def _find_first_pixel(size: int, factor: int, about: str) -> int:
    """Where the first block begins; the middle one holds zero frequency in the middle, or just before it."""
    if about == "detector":
        return 0
    return size // 2 - factor * (size // factor // 2) - (factor - 1) // 2


def _sum_blocks(stack: np.ndarray, factor: int, about: str) -> np.ndarray:
    small = stack.dtype.kind == "u" and stack.dtype.itemsize <= 2
    kept = stack.dtype if stack.dtype.kind == "f" else (np.uint32 if small else None)
    return _split_into_blocks(stack, factor, about).sum((-3, -1), dtype=kept)


def _bin_probe(scan: Scan4D, factor: int, about: str) -> np.ndarray:
    probe = np.asarray(scan.probe)
    shape = scan.geometry.bin(factor).shape
    if scan.geometry.near:
        return resample_probe(cut_middle(probe, (shape[0] * factor, shape[1] * factor)), shape)
    tilt = list[np.ndarray]()
    for n in probe.shape[-2:]:
        middle = _find_first_pixel(n, factor, about) + factor * (n // factor // 2) + (factor - 1) / 2
        tilt.append(np.exp(2j * np.pi * (n // 2 - middle) * (np.arange(n) - n // 2) / n))
    small = cut_middle(probe * np.outer(*tilt), shape)
    power = (abs(probe) ** 2).sum()
    left = (abs(small) ** 2).sum()
    return (small * np.sqrt(power / left if left > 0 else 1.0)).astype(np.asarray(scan.probe).dtype)


def _mirror(stack: np.ndarray, axis: int, keep: bool) -> np.ndarray:
    flipped = np.flip(stack, axis)
    return np.roll(flipped, 1, axis) if keep and stack.shape[axis] % 2 == 0 else flipped


def _swap_axes(stack: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(stack, -2, -1))


def _shift_patterns(stack: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    moved = np.roll(stack, shift, (-2, -1))
    for axis, s in zip((-2, -1), shift, strict=True):
        outside = slice(0, s) if s > 0 else slice(moved.shape[axis] + s, None)
        moved[(..., outside, slice(None)) if axis == -2 else (..., outside)] = 0
    return moved
