"""What the beam passes through."""

from pathlib import Path
from typing import Literal

import torch

from phaseloom.errors import BadInput
from phaseloom.ptycho.bandlimited import bandlimited
from phaseloom.ptycho.scans import Canvas
from phaseloom.ptycho.transmission import Kind, PixelObject, gaps_of, shares
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
    gaps = gaps_of(slices, thickness, "object: pixels")
    share = shares(modes, occupancies, "object: pixels.occupancies")
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
    from phaseloom.ptycho import import_parts as stored

    if modes is not None and modes < 1:
        raise BadInput("object: from_file.modes", modes, "must be at least 1")
    found = stored.object_of(path, pixel=canvas.pixel[0])
    wave, gaps = stored.sliced(found, crop=crop, pad=pad, fill=fill, slices=slices, thickness=thickness)
    wave, canvas = stored.laid(wave, found, canvas, ours=stored.is_ours(path))
    count, there = modes or len(wave), len(wave)
    if count > there:
        wave = torch.cat([wave, wave[-1:].repeat(count - there, 1, 1, 1)])
    known = found.occupancies if occupancies is None and count == there else occupancies
    share = shares(count, known, "object: from_file.occupancies")
    return PixelObject(wave[:count].to(torch.complex64), kind, gaps, canvas, share)
