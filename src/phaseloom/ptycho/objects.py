"""What the beam passes through: thin slices on the pixels of a canvas, or on a coarser band-limited grid."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.fitting.tiles import Tiling, put_in_tiles
from phaseloom.physics.cache import TensorCache, is_constant
from phaseloom.physics.fourier import fit_spectrum
from phaseloom.physics.patches import Box, bounding_boxes, gather
from phaseloom.physics.windowed_transmission import TransmissionCache, TransmissionWindows, cut_windows
from phaseloom.ptycho import canvas as placed
from phaseloom.ptycho.canvas import Canvas
from phaseloom.units import Length

__all__ = ["bandlimited", "from_file", "pixels"]

Kind = Literal["complex", "amplitude and phase", "phase"]


class PixelObject(nn.Module):
    """Transmission of thin slices on a grid of pixels, in one state or several.

    ``forward(corner)`` cuts the windows ``(b, state, slice, y, x)`` of a batch. States are mutually
    incoherent: the object spends a share ``occupancy`` of the time in each (thermal vibration, say).

    On a canvas in tiles (``canvas.tiling``) the arrays hold the pixels of this process alone; corners are in
    pixels of the whole canvas.

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
        self.kind: Kind = kind
        self.gaps = gaps
        self.canvas = canvas
        self.window = canvas.window
        share = torch.full((len(start),), 1 / len(start)) if occupancy is None else occupancy
        self.register_buffer("occupancy", share)
        self._transmission_cache = TransmissionCache()
        if kind == "complex":
            self.wave = nn.Parameter(start)
        else:
            self.phase = nn.Parameter(start.angle())
        if kind == "amplitude and phase":
            self.amplitude = nn.Parameter(start.abs())
        if canvas.tiling is not None:
            put_in_tiles(self.parameters(), canvas.tiling)

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

    def cut_amplitude_phase(
        self, corner: Int[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b state slice y x"], Float[Tensor, "b state slice y x"]]:
        """Amplitude and phase of the windows with the given top-left pixels."""
        corner = self._find_in_tile(corner)
        if self.kind == "complex":
            wave = gather(self.wave, corner, self.window)
            return wave.abs(), wave.angle()
        phase = gather(self.phase, corner, self.window)
        free = self.kind == "amplitude and phase"
        return gather(self.amplitude, corner, self.window) if free else torch.ones_like(phase), phase

    def cut_windows(self, corner: Int[Tensor, "b 2"]) -> TransmissionWindows:
        """The windows of an object of one state, as `phaseloom.physics.adjoint.far_waves` wants them."""
        leaves = {"complex": ("wave",), "phase": ("phase",)}.get(self.kind, ("amplitude", "phase"))
        corner = self._find_in_tile(corner)
        return cut_windows(
            tuple(getattr(self, name) for name in leaves), corner, self.window, cache=self._transmission_cache
        )

    def forward(self, corner: Int[Tensor, "b 2"]) -> Complex[Tensor, "b state slice y x"]:
        """Windows of the object with the given top-left pixels."""
        if self.kind == "complex":
            return gather(self.wave, self._find_in_tile(corner), self.window)
        return torch.polar(*self.cut_amplitude_phase(corner))

    def _find_in_tile(self, corner: Int[Tensor, "b 2"]) -> Int[Tensor, "b 2"]:
        """Corners in pixels of this process."""
        if self.canvas.tiling is None:
            return corner
        top, left = self.canvas.held_corner
        here = torch.stack([corner[:, 0] - top, corner[:, 1] - left], 1)  # nothing is sent to a device
        if here.device.type == "cpu" and len(here):
            room = [n - w for n, w in zip(self.canvas.held_shape, self.window, strict=True)]
            low, high = here.amin(0).tolist(), here.amax(0).tolist()
            if min(low) < 0 or high[0] > room[0] or high[1] > room[1]:
                raise LookupError("a window is held by another process")  # a mistake of the program
        return here

    @torch.no_grad()
    def hold_tiles(self, tiling: Tiling) -> None:
        """Hold other pixels around the same core from now on."""
        old = self.canvas.tiling
        assert old is not None
        for parameter in self.parameters():
            parameter.grad = None
            parameter.data = tiling.moved(parameter.data, old)
            if (touched := getattr(parameter, "touched", None)) is not None:
                touched.clear()
        put_in_tiles(self.parameters(), tiling)
        self.canvas = replace(self.canvas, tiling=tiling)

    def window_boxes(self, corner: Int[Tensor, "b 2"]) -> list[Box]:
        """Rectangles of the canvas that hold the windows with the given top-left pixels."""
        return bounding_boxes(corner, self.window, self.canvas.shape)

    def sum_pixels(self, field: Float[Tensor, "*any y x"]) -> Float[Tensor, " *any"]:
        """The sum over the canvas of a field that is known where this process holds pixels."""
        tiling = self.canvas.tiling
        if tiling is None:
            return field.sum((-2, -1))
        return team().all_reduce(field[(..., *tiling.core)].sum((-2, -1)))

    def largest_pixel(self, field: Float[Tensor, "*any y x"]) -> Float[Tensor, "*any 1 1"]:
        """The largest value on the canvas of a field that is known where this process holds pixels."""
        most = field.amax((-2, -1), keepdim=True)
        return most if self.canvas.tiling is None else team().all_reduce_max(most)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be refined: ``object``, or ``amplitude`` and ``phase``."""
        if self.kind == "complex":
            return {"object": [self.wave]}
        return {name: [parameter] for name, parameter in self.named_parameters()}

    def curvature(self, light: Float[Tensor, "slice y x"]) -> Float[Tensor, "slice y x"]:
        """What a light on the canvas bends the loss by, along each number of the object."""
        return light

    @torch.no_grad()
    def set_transmission(self, wave: Complex[Tensor, "state slice y x"]) -> None:
        """Take over a complex transmission; phases stay on their branch."""
        if self.kind == "complex":
            self.wave.copy_(wave)
            return
        self.phase += (wave * torch.polar(torch.ones_like(self.phase), -self.phase)).angle()
        if self.kind == "amplitude and phase":
            self.amplitude.copy_(wave.abs())

    @torch.no_grad()
    def place_window(
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
            >>> from phaseloom.ptycho.objects import pixels
            >>> part = pixels(Canvas((40, 40), (16, 16), (2.0, 2.0), (-30.0, 10.0)))
            >>> part.place_window(torch.full((3, 3), 1j), at=(0.0, 40.0))
            >>> part.wave[0, 0, 13:18, 15].imag.tolist()
            [0.0, 1.0, 1.0, 1.0, 0.0]
        """
        self.set_transmission(
            placed.lay_window(self.transmission(), torch.as_tensor(wave), self.canvas, at=at, pixel=pixel)
        )

    @torch.no_grad()
    def read_window(
        self, at: placed.Place, /, *, shape: tuple[int, int] | None = None
    ) -> Complex[Tensor, "state slice y x"]:
        """The transmission around a position (y, x) of the scan, angstrom, which is at ``[N // 2, N // 2]``.

        Between pixels cubic splines are taken. ``shape`` is that of a pattern unless given.

        Raises:
            BadInput: the window leaves the canvas.
        """
        size = shape or (self.window[0], self.window[1])
        return placed.read_window(self.transmission(), self.canvas, at=at, shape=size).clone()


Begin = Literal["uniform", "random"]


class BandlimitedObject(PixelObject):
    """Transmission on a grid coarser than the canvas, interpolated without new frequencies.

    The parameters are those of `phaseloom.ptycho.objects.PixelObject` on the coarse grid, which covers the
    canvas periodically; the beam passes through its interpolation (`resample_field`). A phase object has
    modulus one on coarse pixels, not in between.

    Attributes:
        grid: coarse pixels (y, x).
        support: ``(y, x)`` on them: the object is zero where it is; ``None``: it is one everywhere.
    """

    support: Tensor | None

    def __init__(  # noqa: PLR0917 - those of an object of pixels, and one more
        self,
        start: Complex[Tensor, "state slice y x"],
        kind: Kind,
        gaps: tuple[float, ...],
        canvas: Canvas,
        occupancy: Float[Tensor, " state"] | None = None,
        support: Float[Tensor, "y x"] | None = None,
    ):
        super().__init__(start, kind, gaps, canvas, occupancy)
        self.grid = (start.shape[-2], start.shape[-1])
        if any(few > many for few, many in zip(self.grid, canvas.shape, strict=True)):
            fix = f"must have no more pixels than its canvas, {canvas.shape}"
            raise BadInput("object: bandlimited", self.grid, fix)
        self.register_buffer("support", support)
        self._interpolation_cache: TensorCache[Tensor] = TensorCache()

    @property
    def cell(self) -> float:
        """Area of a pixel of the coarse grid, square angstrom."""
        many, few = (shape[0] * shape[1] for shape in (self.canvas.shape, self.grid))
        return super().cell * many / few

    def coarse(self) -> Complex[Tensor, "state slice y x"]:
        """The transmission on its own pixels."""
        wave = super().transmission()
        return wave if self.support is None else wave * self.support

    def transmission(self) -> Complex[Tensor, "state slice v u"]:
        """The transmission on the pixels of the canvas."""
        leaves = tuple(self.parameters())
        if is_constant(*leaves):
            return self._interpolation_cache.get(self._interpolate, *leaves)
        return self._interpolate()

    def cut_amplitude_phase(
        self, corner: Int[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b state slice v u"], Float[Tensor, "b state slice v u"]]:
        """Amplitude and phase of the windows with the given top-left pixels."""
        wave = self(corner)
        return wave.abs(), wave.angle()

    def cut_windows(self, corner: Int[Tensor, "b 2"]) -> TransmissionWindows:
        """The windows of an object of one state."""
        return cut_windows((self.transmission(),), corner, self.window)

    def forward(self, corner: Int[Tensor, "b 2"]) -> Complex[Tensor, "b state slice v u"]:
        """Windows of the object with the given top-left pixels."""
        return gather(self.transmission(), corner, self.window)

    def set_transmission(self, wave: Complex[Tensor, "state slice v u"]) -> None:
        """Take over a transmission on either grid; frequencies that this object cannot have are left out."""
        super().set_transmission(resample_field(wave, self.grid))

    def curvature(self, light: Float[Tensor, "slice v u"]) -> Float[Tensor, "slice y x"]:
        """Diagonal of ``U* W U`` for a light ``W`` on the canvas, or one number for all of it."""
        (height, width) = self.canvas.shape
        (rows, columns) = self.grid
        if light.shape[-2:] == (1, 1):
            return light * (height * width / (rows * columns))
        down = _interpolation_power(rows, height, light)
        right = _interpolation_power(columns, width, light)
        return down @ light @ right.T

    def _interpolate(self) -> Tensor:
        return resample_field(self.coarse(), self.canvas.shape)


def make_start(
    start: Begin, shape: tuple[int, int, int, int], seed: int = 0, /
) -> Complex[Tensor, "m s y x"]:
    """A transmission of modulus one to start from; uniform states differ by a faint random phase.

    Example:
        >>> make_start("random", (1, 1, 4, 4), 1).abs().mean().item()
        1.0
    """
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    faint = 1e-3 if shape[0] > 1 else 0.0
    phase = (2 * torch.pi if start == "random" else faint) * drawn
    return torch.polar(torch.ones_like(phase), phase)


@torch.no_grad()
def remove_slow_variations(
    wave: Complex[Tensor, "*any y x"], pixel: Sequence[float], period: float, /
) -> Complex[Tensor, "*any y x"]:
    """A transmission without variations of its phase that are slower than a period, of which half is left.

    The phase of the transmission as smoothed by a Gaussian is taken away, so that phases may be wrapped.

    Args:
        wave: on a canvas, one around the scan.
        pixel: (y, x), angstrom.
        period: angstrom.

    Example:
        >>> slow = torch.polar(torch.ones(1, 64), 0.3 * torch.cos(torch.arange(64) * 2 * torch.pi / 32)[None])
        >>> remove_slow_variations(slow, (1.0, 1.0), 8.0).angle().abs().max().item() < 0.02
        True
    """
    sides = zip(wave.shape[-2:], pixel, strict=True)
    rows, columns = (torch.fft.fftfreq(n, p, dtype=wave.real.dtype, device=wave.device) for n, p in sides)
    kernel = 0.5 ** ((rows[:, None] ** 2 + columns**2) * period**2)
    smooth = torch.fft.ifft2(torch.fft.fft2(wave) * kernel)
    return wave * torch.polar(torch.ones_like(smooth.real), -smooth.angle())


def resample_field(
    field: Shaped[Tensor, "*batch y x"], shape: tuple[int, int], /
) -> Complex[Tensor, "*batch v u"]:
    """The same field on other pixels: its spectrum is padded with zeros, or cropped; the mean stays.

    The middle ``N // 2`` stays in the middle. Frequencies of an even number ``n`` of pixels run from
    ``-n / 2`` to ``n / 2 - 1``. Finer and back is the identity; the adjoint of finer is the ratio of pixel
    numbers times coarser.

    Example:
        >>> fine = resample_field(torch.tensor([[1.0, 0.0, -1.0, 0.0, 1.0]]), (1, 9))
        >>> round(fine.real.mean().item(), 4), round(fine[0, 4].real.item(), 4)
        (0.2, -1.0)
    """
    if tuple(field.shape[-2:]) == shape:
        return field + 0j
    ratio = shape[0] * shape[1] / (field.shape[-2] * field.shape[-1])
    return ratio**0.5 * fit_spectrum(field, shape)


def _interpolation_power(few: int, many: int, like: Tensor) -> Float[Tensor, "few many"]:
    """Square modulus of what each coarse pixel of an axis becomes on the fine ones."""
    each = torch.eye(few, dtype=torch.float64)[:, None]
    return resample_field(each, (1, many))[:, 0].abs().square().to(like)


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
    start = torch.ones(modes, slices, *canvas.held_shape, dtype=torch.complex64)
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
        path: a result or a prediction of ours, a result of PtyRAD, ptychodus, PtychoShelves or py4DSTEM, or
            a complex ``.npy`` array ``(y, x)``, ``(slice, y, x)`` or ``(state, slice, y, x)``.
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
    count = modes or len(wave)
    there = len(wave)
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
