"""What the beam passes through."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.physics.mosaic import Glass, Mosaic, mosaic
from phaseloom.physics.patches import gather
from phaseloom.ptycho import placed
from phaseloom.ptycho.scans import Canvas
from phaseloom.units import Length

if TYPE_CHECKING:
    from phaseloom.ptycho.bandlimited import bandlimited

__all__ = ["bandlimited", "from_file", "pixels"]

Kind = Literal["complex", "amplitude and phase", "phase"]
Filling = Literal["vacuum", "mean", "edge"]


class PixelObject(nn.Module):
    """Transmission of thin slices on a grid of pixels, in one state or several.

    ``forward(corner)`` cuts the windows ``(b, state, slice, y, x)`` of a batch. States are mutually
    incoherent: the object spends a share ``occupancy`` of the time in each (thermal vibration, say).

    Attributes:
        wave: complex transmission ``(state, slice, y, x)`` (kind ``complex``).
        amplitude, phase: its modulus and phase in radian (kind ``amplitude and phase``).
        phase: radian, modulus fixed at one (kind ``phase``).
        gaps: distances between neighbouring slices, angstrom.
        canvas: where the pixels lie.
        occupancy: share of each state; they add to one.
    """

    occupancy: Tensor

    def __init__(
        self,
        start: Complex[Tensor, "state slice y x"],
        kind: Kind,
        gaps: tuple[float, ...],
        canvas: Canvas,
        occupancy: Float[Tensor, " state"] | None = None,
    ):
        super().__init__()
        self.kind, self.gaps, self.canvas, self.window = kind, gaps, canvas, canvas.window
        share = torch.full((len(start),), 1 / len(start)) if occupancy is None else occupancy
        self.register_buffer("occupancy", share)
        self._glass = Glass()
        if kind == "complex":
            self.wave = nn.Parameter(start)
        else:
            self.phase = nn.Parameter(start.angle())
        if kind == "amplitude and phase":
            self.amplitude = nn.Parameter(start.abs())

    @property
    def thickness(self) -> float:
        """Mean distance between neighbouring slices, angstrom."""
        return float(np.mean(self.gaps)) if self.gaps else 0.0

    @property
    def cell(self) -> float:
        """Area of what is free on its own, square angstrom: of a pixel."""
        return self.canvas.pixel[0] * self.canvas.pixel[1]

    def transmission(self) -> Complex[Tensor, "state slice y x"]:
        """The whole object as a complex transmission."""
        if self.kind == "complex":
            return self.wave
        modulus = self.amplitude if self.kind == "amplitude and phase" else torch.ones_like(self.phase)
        return torch.polar(modulus, self.phase)

    def cut(
        self, corner: Int[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b state slice y x"], Float[Tensor, "b state slice y x"]]:
        """Amplitude and phase of the windows with the given top-left pixels."""
        if self.kind == "complex":
            wave = gather(self.wave, corner, self.window)
            return wave.abs(), wave.angle()
        phase = gather(self.phase, corner, self.window)
        free = self.kind == "amplitude and phase"
        return gather(self.amplitude, corner, self.window) if free else torch.ones_like(phase), phase

    def mosaic(self, corner: Int[Tensor, "b 2"]) -> Mosaic:
        """The windows of an object of one state, as `phaseloom.physics.adjoint.far_waves` wants them."""
        leaves = {"complex": ("wave",), "phase": ("phase",)}.get(self.kind, ("amplitude", "phase"))
        return mosaic(tuple(getattr(self, name) for name in leaves), corner, self.window, glass=self._glass)

    def forward(self, corner: Int[Tensor, "b 2"]) -> Complex[Tensor, "b state slice y x"]:
        """Windows of the object with the given top-left pixels."""
        if self.kind == "complex":
            return gather(self.wave, corner, self.window)
        return torch.polar(*self.cut(corner))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined: ``object``, or ``amplitude`` and ``phase``."""
        if self.kind == "complex":
            return {"object": [self.wave]}
        return {name: [parameter] for name, parameter in self.named_parameters()}

    def bend(self, light: Float[Tensor, "slice y x"]) -> Float[Tensor, "slice y x"]:
        """What a light on the canvas bends the loss by, along each number of the object."""
        return light

    @torch.no_grad()
    def put(self, wave: Complex[Tensor, "state slice y x"]) -> None:
        """Take over a complex transmission; phases stay on their branch."""
        if self.kind == "complex":
            self.wave.copy_(wave)
            return
        self.phase += (wave * torch.polar(torch.ones_like(self.phase), -self.phase)).angle()
        if self.kind == "amplitude and phase":
            self.amplitude.copy_(wave.abs())

    @torch.no_grad()
    def lay(
        self,
        wave: Complex[Tensor | np.ndarray, "*slices y x"],
        /,
        *,
        at: placed.Place,
        pixel: tuple[float, float] | None = None,
    ) -> None:
        """Take over a known transmission where it lies in the frame of the scan; around it nothing changes.

        Args:
            wave: ``(y, x)`` for all slices and states, ``(slice, y, x)`` or ``(state, slice, y, x)``.
            at: position (y, x) of its middle pixel ``[N // 2, N // 2]``, angstrom; a window at a position
                of the scan is what the beam saw there.
            pixel: of the array (y, x), angstrom; default: that of the canvas. Between pixels cubic splines
                are taken.

        Raises:
            BadInput: a place off the canvas.

        Example:
            >>> thing = pixels(Canvas((40, 40), (16, 16), (2.0, 2.0), (-30.0, 10.0)))
            >>> thing.lay(torch.full((3, 3), 1j), at=(0.0, 40.0))
            >>> thing.wave[0, 0, 13:18, 15].imag.tolist()
            [0.0, 1.0, 1.0, 1.0, 0.0]
        """
        self.put(placed.laid(self.transmission(), torch.as_tensor(wave), self.canvas, at=at, pixel=pixel))

    @torch.no_grad()
    def under(
        self, at: placed.Place, /, *, shape: tuple[int, int] | None = None
    ) -> Complex[Tensor, "state slice y x"]:
        """The transmission around a position (y, x) of the scan, angstrom, which is at ``[N // 2, N // 2]``.

        Between pixels cubic splines are taken. ``shape`` is that of a pattern unless given.

        Raises:
            BadInput: the window leaves the canvas.
        """
        size = shape or (self.window[0], self.window[1])
        return placed.under(self.transmission(), self.canvas, at=at, shape=size).clone()


def __getattr__(name: str) -> Any:
    if name == "bandlimited":  # of a file that builds on this one
        from phaseloom.ptycho.bandlimited import bandlimited

        return bandlimited
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    gaps = _gaps(slices, thickness, "object: pixels")
    share = _shares(modes, occupancies, "object: pixels.occupancies")
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
    from phaseloom.ptycho import stored

    if modes is not None and modes < 1:
        raise BadInput("object: from_file.modes", modes, "must be at least 1")
    found = stored.object_of(path, pixel=canvas.pixel[0])
    wave, gaps = stored.sliced(found, crop=crop, pad=pad, fill=fill, slices=slices, thickness=thickness)
    wave, canvas = stored.laid(wave, found, canvas, ours=stored.is_ours(path))
    count, there = modes or len(wave), len(wave)
    if count > there:
        wave = torch.cat([wave, wave[-1:].repeat(count - there, 1, 1, 1)])
    known = found.occupancies if occupancies is None and count == there else occupancies
    share = _shares(count, known, "object: from_file.occupancies")
    return PixelObject(wave[:count].to(torch.complex64), kind, gaps, canvas, share)


def _gaps(slices: int, thickness: float | Sequence[float], place: str) -> tuple[float, ...]:
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


def _shares(count: int, given: Any, place: str) -> Tensor:
    if count < 1:
        raise BadInput("object: modes", count, "must be at least 1")
    share = torch.full((count,), 1 / count) if given is None else torch.tensor(list(given))
    if len(share) != count or not bool((share > 0).all() and share.isfinite().all()):
        raise BadInput(place, given, f"must be {count} positive numbers, one for each state")
    return (share / share.sum()).float()
