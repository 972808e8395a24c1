"""An object whose pixels are larger than those of the probe: fewer unknowns than its windows have pixels.

A probe with finer structure than the object spreads what the object's few pixels hold over the whole
pattern. One pattern, of a probe that is known, can then be enough (randomized probe imaging, Levitan et al.
2020, doi 10.1364/OE.397421); patterns of a scan determine the object all the better.

With ``U`` the interpolation from ``M`` coarse to ``N`` fine pixels, a padding of the spectrum that keeps the
mean, ``U* U = N / M``: so ``U*`` is ``N / M`` times the cropping of a spectrum, and a light ``W`` on fine
pixels bends the loss along coarse ones by ``U* W U``.
"""

from typing import Literal

import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.cache import Kept, constant
from phaseloom.physics.fourier import fit_spectrum
from phaseloom.physics.patches import gather
from phaseloom.physics.windowed_transmission import Mosaic, mosaic
from phaseloom.ptycho.scans import Canvas
from phaseloom.ptycho.transmission import Kind, PixelObject, gaps_of, shares
from phaseloom.units import Length

__all__ = ["BandlimitedObject", "bandlimited", "begun", "resampled"]

Begin = Literal["uniform", "random"]


class BandlimitedObject(PixelObject):
    """Transmission on a grid coarser than the canvas, interpolated without new frequencies.

    The parameters are those of `phaseloom.ptycho.objects.PixelObject` on the coarse grid, which covers the
    canvas periodically; what the beam passes through is `resampled` from it. A phase object has modulus one
    on coarse pixels, not in between.

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
        self._fine: Kept[Tensor] = Kept()

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
        if constant(*leaves):
            return self._fine.of(self._interpolated, *leaves)
        return self._interpolated()

    def cut(
        self, corner: Int[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b state slice v u"], Float[Tensor, "b state slice v u"]]:
        """Amplitude and phase of the windows with the given top-left pixels."""
        wave = self(corner)
        return wave.abs(), wave.angle()

    def mosaic(self, corner: Int[Tensor, "b 2"]) -> Mosaic:
        """The windows of an object of one state."""
        return mosaic((self.transmission(),), corner, self.window)

    def forward(self, corner: Int[Tensor, "b 2"]) -> Complex[Tensor, "b state slice v u"]:
        """Windows of the object with the given top-left pixels."""
        return gather(self.transmission(), corner, self.window)

    def put(self, wave: Complex[Tensor, "state slice v u"]) -> None:
        """Take over a transmission on either grid; frequencies that this object cannot have are left out."""
        super().put(resampled(wave, self.grid))

    def bend(self, light: Float[Tensor, "slice v u"]) -> Float[Tensor, "slice y x"]:
        """Diagonal of ``U* W U`` for a light ``W`` on the canvas, or one number for all of it."""
        (height, width), (rows, columns) = self.canvas.shape, self.grid
        if light.shape[-2:] == (1, 1):
            return light * (height * width / (rows * columns))
        down, right = _spread(rows, height, light), _spread(columns, width, light)
        return down @ light @ right.T

    def _interpolated(self) -> Tensor:
        return resampled(self.coarse(), self.canvas.shape)


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
    gaps = gaps_of(slices, thickness, "object: bandlimited")
    share = shares(modes, occupancies, "object: bandlimited.occupancies")
    pairs = zip(canvas.shape, canvas.pixel, strict=True)
    rows, columns = (min(max(round(n * size / pixel), 1), n) for n, size in pairs)
    return BandlimitedObject(begun(start, (modes, slices, rows, columns), seed), kind, gaps, canvas, share)


def begun(start: Begin, shape: tuple[int, int, int, int], seed: int = 0, /) -> Complex[Tensor, "m s y x"]:
    """A transmission of modulus one to start from; uniform states differ by a faint random phase.

    Example:
        >>> begun("random", (1, 1, 4, 4), 1).abs().mean().item()
        1.0
    """
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    faint = 1e-3 if shape[0] > 1 else 0.0
    phase = (2 * torch.pi if start == "random" else faint) * drawn
    return torch.polar(torch.ones_like(phase), phase)


def resampled(
    field: Shaped[Tensor, "*batch y x"], shape: tuple[int, int], /
) -> Complex[Tensor, "*batch v u"]:
    """The same field on other pixels: its spectrum is padded with zeros, or cropped; the mean stays.

    The middle ``N // 2`` stays in the middle. Frequencies of an even number ``n`` of pixels run from
    ``-n / 2`` to ``n / 2 - 1``. Finer and back is the identity; the adjoint of finer is the ratio of pixel
    numbers times coarser.

    Example:
        >>> fine = resampled(torch.tensor([[1.0, 0.0, -1.0, 0.0, 1.0]]), (1, 9))
        >>> round(fine.real.mean().item(), 4), round(fine[0, 4].real.item(), 4)
        (0.2, -1.0)
    """
    if tuple(field.shape[-2:]) == shape:
        return field + 0j
    ratio = shape[0] * shape[1] / (field.shape[-2] * field.shape[-1])
    return ratio**0.5 * fit_spectrum(field, shape)


def _spread(few: int, many: int, like: Tensor) -> Float[Tensor, "few many"]:
    """Square modulus of what each coarse pixel of an axis becomes on the fine ones."""
    each = torch.eye(few, dtype=torch.float64)[:, None]
    return resampled(each, (1, many))[:, 0].abs().square().to(like)
