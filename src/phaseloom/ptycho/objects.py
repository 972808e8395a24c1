"""What the beam passes through."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.ptycho.canvas import Canvas
from phaseloom.ptycho.object_models import BandlimitedObject, Begin, Kind, PixelObject, make_start
from phaseloom.units import Length

__all__ = ["bandlimited", "from_file", "pixels"]

Filling = Literal["vacuum", "mean", "edge"]


def pixels(
    canvas: Canvas,
    /,
    *,
    slices: int = 1,
    thickness: Length | list[Length] = 0.0,
    kind: Kind = "complex",
    modes: int = 1,
    occupancies: list[float] | None = None,
) -> PixelObject:
    """A flat object of pixels: transmission one everywhere.

    Args:
        canvas: see `phaseloom.ptycho.scans.canvas`.
        slices: number of slices along the beam.
        thickness: distance between neighbouring slices, angstrom; a list gives one for each gap.
        kind: ``complex`` leaves amplitude and phase free together; ``amplitude and phase`` gives each
            its own rate; ``phase`` fixes the amplitude at one.
        modes: mutually incoherent states of the object; they start with a faint random phase, for
            equal ones would stay equal.
        occupancies: share of the time spent in each; default: all equal.

    Raises:
        BadInput: no slices, or several without a distance between them; shares that do not fit.

    Example:
        >>> room = Canvas((40, 40), (16, 16), (1.0, 1.0), (0.0, 0.0))
        >>> pixels(room, slices=2, thickness=10.0, kind="phase").phase.shape
        torch.Size([1, 2, 40, 40])
    """
    gaps = list_gaps(slices, thickness, "object: pixels")
    share = normalise_shares(modes, occupancies, "object: pixels.occupancies")
    start = torch.ones(modes, slices, *canvas.shape, dtype=torch.complex64)
    if modes > 1:
        generator = torch.Generator().manual_seed(modes)
        faint = 1e-3 * torch.rand(start.shape, generator=generator)
        start = torch.polar(torch.ones_like(faint), faint)
    return PixelObject(start, kind, gaps, canvas, share)


def from_file(
    canvas: Canvas,
    /,
    *,
    path: Path,
    kind: Kind = "complex",
    crop: tuple[int, int] | None = None,
    pad: tuple[int, int] = (0, 0),
    fill: Filling | tuple[Filling, Filling] = "vacuum",
    slices: int | None = None,
    thickness: Length | list[Length] | None = None,
    modes: int | None = None,
    occupancies: list[float] | None = None,
) -> PixelObject:
    """The object of an earlier run, of ours or of another program, as a start.

    It is laid where it was, when both files know their positions, else middle on middle; its pixels
    are interpolated when they differ. Along the beam it is cropped, then resampled, then padded.

    Args:
        canvas: see `phaseloom.ptycho.scans.canvas`.
        path: a result of ours, of PtyRAD, PtychoShelves or py4DSTEM, or a complex ``.npy`` array
            ``(y, x)``, ``(slice, y, x)`` or ``(state, slice, y, x)``.
        kind: see `pixels`.
        crop: first slice to keep, and the one after the last.
        pad: slices to add before and after.
        fill: what the added slices hold: vacuum, the mean of each slice, or the neighbour's values; two
            of them for before and after.
        slices: number of slices to resample to; the total phase stays.
        thickness: distance between slices, angstrom; default: what the file says.
        modes: incoherent states; default: as many as the file holds.
        occupancies: share of each; default: what the file says.

    Raises:
        BadInput: no such file, or nothing in it that fits.
    """
    from phaseloom.ptycho import import_parts

    if modes is not None and modes < 1:
        raise BadInput("object: from_file.modes", modes, "must be at least 1")
    found = import_parts.read_object(path, pixel=canvas.pixel[0])
    wave, gaps = import_parts.fit_slices(
        found, crop=crop, pad=pad, fill=fill, slices=slices, thickness=thickness
    )
    wave, canvas = import_parts.lay_on_canvas(wave, found, canvas, ours=import_parts.is_ours(path))
    count, there = modes or len(wave), len(wave)
    if count > there:
        wave = torch.cat([wave, wave[-1:].repeat(count - there, 1, 1, 1)])
    known = found.occupancies if occupancies is None and count == there else occupancies
    share = normalise_shares(count, known, "object: from_file.occupancies")
    return PixelObject(wave[:count].to(torch.complex64), kind, gaps, canvas, share)


def bandlimited(
    canvas: Canvas,
    /,
    *,
    pixel: Length,
    start: Begin = "uniform",
    seed: int = 0,
    slices: int = 1,
    thickness: Length | list[Length] = 0.0,
    kind: Kind = "complex",
    modes: int = 1,
    occupancies: list[float] | None = None,
) -> BandlimitedObject:
    """An object whose pixels are larger than those of the probe.

    Args:
        canvas: see `phaseloom.ptycho.scans.canvas`.
        pixel: of the object, angstrom, about: a whole number of them covers the canvas.
        start: ``uniform``: transmission one; ``random``: modulus one, any phase, drawn by ``seed``.
        seed: of what is drawn.
        slices: see `phaseloom.ptycho.objects.pixels`, also for the following.
        thickness: see there.
        kind: see there.
        modes: see there.
        occupancies: see there.

    Raises:
        BadInput: a pixel that is none, or what `pixels` refuses.

    Source:
        Levitan et al. 2020, doi 10.1364/OE.397421.

    Example:
        >>> room = Canvas((41, 40), (16, 16), (1.0, 1.0), (0.0, 0.0))
        >>> one = bandlimited(room, pixel=2.5)
        >>> one.coarse().shape, one.transmission().shape
        (torch.Size([1, 1, 16, 16]), torch.Size([1, 1, 41, 40]))
    """
    low = min(canvas.pixel)
    high = min(n * p for n, p in zip(canvas.shape, canvas.pixel, strict=True)) / 4
    if not low <= pixel <= high:
        fix = f"A must lie between the probe's pixel, {low:.4g}, and a quarter of the field, {high:.4g}"
        raise BadInput("object: bandlimited.pixel", pixel, fix)
    gaps = list_gaps(slices, thickness, "object: bandlimited")
    share = normalise_shares(modes, occupancies, "object: bandlimited.occupancies")
    pairs = zip(canvas.shape, canvas.pixel, strict=True)
    rows, columns = (min(max(round(n * size / pixel), 1), n) for n, size in pairs)
    return BandlimitedObject(
        make_start(start, (modes, slices, rows, columns), seed), kind, gaps, canvas, share
    )


def list_gaps(slices: int, thickness: float | Sequence[float], place: str) -> tuple[float, ...]:
    """One distance for each gap."""
    if slices < 1:
        raise BadInput(f"{place}.slices", slices, "must be at least 1")
    many = list(thickness) if isinstance(thickness, Sequence) else [float(thickness)] * (slices - 1)
    if len(many) == slices and slices > 1:
        many = many[:-1]  # thicknesses of slices: the last one has no flight behind it
    if len(many) != slices - 1:
        fix = f"gives {len(many)} distances, but {slices} slices have {slices - 1} gaps"
        raise BadInput(f"{place}.thickness", thickness, fix)
    if not all(math.isfinite(gap) and gap > 0 for gap in many):
        raise BadInput(f"{place}.thickness", thickness, "must be above zero when there are several slices")
    return tuple(many)


def normalise_shares(count: int, given: Any, place: str) -> Tensor:
    """Shares of states that add to one; all the same unless given."""
    if count < 1:
        raise BadInput("object: modes", count, "must be at least 1")
    share = torch.full((count,), 1 / count) if given is None else torch.tensor(list(given))
    if len(share) != count or not bool((share > 0).all() and share.isfinite().all()):
        raise BadInput(place, given, f"must be {count} positive numbers, one for each state")
    return (share / share.sum()).float()
