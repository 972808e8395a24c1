"""Transmission of thin slices on the pixels of a canvas, or on a coarser band-limited grid."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.physics.cache import TensorCache, is_constant
from phaseloom.physics.fourier import fit_spectrum
from phaseloom.physics.patches import gather
from phaseloom.physics.windowed_transmission import TransmissionCache, TransmissionWindows, cut_windows
from phaseloom.ptycho import canvas as placed
from phaseloom.ptycho.canvas import Canvas

__all__ = ["BandlimitedObject", "Kind", "PixelObject", "make_start", "resample_field"]

Kind = Literal["complex", "amplitude and phase", "phase"]


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
        self._transmission_cache = TransmissionCache()
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

    def cut_amplitude_phase(
        self, corner: Int[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b state slice y x"], Float[Tensor, "b state slice y x"]]:
        """Amplitude and phase of the windows with the given top-left pixels."""
        if self.kind == "complex":
            wave = gather(self.wave, corner, self.window)
            return wave.abs(), wave.angle()
        phase = gather(self.phase, corner, self.window)
        free = self.kind == "amplitude and phase"
        return gather(self.amplitude, corner, self.window) if free else torch.ones_like(phase), phase

    def cut_windows(self, corner: Int[Tensor, "b 2"]) -> TransmissionWindows:
        """The windows of an object of one state, as `phaseloom.physics.adjoint.far_waves` wants them."""
        leaves = {"complex": ("wave",), "phase": ("phase",)}.get(self.kind, ("amplitude", "phase"))
        return cut_windows(
            tuple(getattr(self, name) for name in leaves), corner, self.window, cache=self._transmission_cache
        )

    def forward(self, corner: Int[Tensor, "b 2"]) -> Complex[Tensor, "b state slice y x"]:
        """Windows of the object with the given top-left pixels."""
        if self.kind == "complex":
            return gather(self.wave, corner, self.window)
        return torch.polar(*self.cut_amplitude_phase(corner))

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
        (height, width), (rows, columns) = self.canvas.shape, self.grid
        if light.shape[-2:] == (1, 1):
            return light * (height * width / (rows * columns))
        down, right = _interpolation_power(rows, height, light), _interpolation_power(columns, width, light)
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
