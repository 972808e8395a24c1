"""From waves to counts."""

import math

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.physics.fourier import shift_to_centre, shift_to_corner

__all__ = ["apply_transfer", "area_weights", "bilinear_weights", "blur_patterns", "deflect"]
__all__ += ["draw_counts", "integrate_pixels", "intensity", "project_modulus", "spread_patterns"]

SPREAD_MARGIN = 12
"""Pixels by which patterns are mirrored at the detector's edge before they are spread."""


def intensity(
    wave: Complex[Tensor, "b *state mode y x"], occupancy: Float[Tensor, " state"] | None = None, /
) -> Float[Tensor, "b y x"]:
    """Incoherent sum over modes of the squared modulus.

    Args:
        wave: on the detector; an axis of object states may precede that of the modes.
        occupancy: share of the time that the object spends in each state.

    Example:
        >>> intensity(torch.full((1, 3, 2, 2), 2j))[0, 0, 0].item()
        12.0
    """
    each = (wave.real.square() + wave.imag.square()).sum(-3)
    if each.ndim == 3:
        return each
    if occupancy is None or each.shape[1] == 1:
        return each.sum(1)
    return (occupancy[:, None, None] * each).sum(1)


def project_modulus(
    wave: Complex[Tensor, "b mode y x"],
    target: Float[Tensor, "b y x"],
    mask: Bool[Tensor, "y x"] | None = None,
    /,
    *,
    seen: Float[Tensor, "b y x"] | None = None,
) -> Complex[Tensor, "b mode y x"]:
    """The nearest waves on the detector with the intensity that was measured: the modulus constraint.

    All modes of a pixel get one real factor, so that their phases and their shares of the pixel stay
    (Thibault & Menzel 2013, doi 10.1038/nature11806). A pixel without any wave has no phase and stays dark.

    Args:
        wave: on the detector.
        target: measured intensity, not below zero.
        mask: True where it was measured; elsewhere waves keep what they have.
        seen: the `intensity` of the waves, if it is known already.

    Example:
        >>> wave = torch.full((1, 2, 1, 1), 3j)
        >>> project_modulus(wave, torch.full((1, 1, 1), 2.0)).abs().flatten().tolist()
        [1.0, 1.0]
    """
    now = intensity(wave) if seen is None else seen
    factor = torch.where(now > 0, target / now.clamp(min=torch.finfo(now.dtype).tiny), 1.0).sqrt()
    factor = factor if mask is None else torch.where(mask, factor, 1.0)
    return wave * factor[:, None]


def integrate_pixels(
    wave: Complex[Tensor, "b *state mode y x"],
    occupancy: Float[Tensor, " state"] | None = None,
    /,
    *,
    near: bool = False,
) -> Float[Tensor, "b y x"]:
    """`intensity` as pixels collect it over their whole area, not at their middle alone.

    The wave is known between the pixels, for its transform ends at the edge of the window; its intensity, on
    a grid twice as fine, has all there is to know, and is convolved with the area of a pixel.

    Args:
        wave: see `intensity`; zero frequency in the corner, or as seen if ``near``.
        occupancy: see `intensity`.
        near: the wave is one in a near field.

    Example:
        >>> wave = torch.randn(1, 1, 6, 6, dtype=torch.complex64)
        >>> (integrate_pixels(wave).sum() / intensity(wave).sum()).item() > 0.5
        True
    """
    shape = (wave.shape[-2], wave.shape[-1])
    double = (2 * shape[0], 2 * shape[1])
    waves = torch.fft.fftshift(torch.fft.ifft2(wave), dim=(-2, -1)) if near else torch.fft.ifft2(wave)
    fine = intensity(torch.fft.fft2(waves, s=double), occupancy)
    spectrum = torch.fft.rfft2(fine) * _pixel_transfer(double, fine)
    return torch.fft.irfft2(spectrum, s=double)[..., ::2, ::2].clamp(min=0)


def _pixel_transfer(double: tuple[int, int], like: Tensor) -> Tensor:
    """Transform of a pixel's area on the ``rfft2`` grid of a pattern sampled twice as finely."""
    options = {"dtype": like.dtype, "device": like.device}
    rows = torch.sinc(2 * torch.fft.fftfreq(double[0], **options))
    return rows[:, None] * torch.sinc(2 * torch.fft.rfftfreq(double[1], **options))


def deflect(
    wave: Complex[Tensor, "b *modes y x"], shift: Float[Tensor, "#b 2"], /
) -> Complex[Tensor, "b *modes y x"]:
    """Exit wave whose far field is moved by ``shift`` = (y, x) pixels of its grid: a phase ramp.

    Example:
        >>> from phaseloom.physics.propagate import far_field
        >>> flat = far_field(deflect(torch.ones(1, 1, 4, 4) + 0j, torch.tensor([[1.0, 0.0]])))
        >>> flat.abs().argmax().item()
        4
    """
    lead = (len(shift),) + (1,) * (wave.ndim - 3)
    for axis, size in ((-2, wave.shape[-2]), (-1, wave.shape[-1])):
        place = (torch.arange(size, device=shift.device, dtype=shift.dtype) - size // 2) / size
        angle = 2 * math.pi * shift[:, axis].reshape(*lead, 1) * place
        phasor = torch.polar(torch.ones_like(angle), angle)
        wave = wave * (phasor[..., None] if axis == -2 else phasor[..., None, :])
    return wave


def blur_patterns(
    pattern: Float[Tensor, "b y x"], std: float, /, *, near: bool = False
) -> Float[Tensor, "b y x"]:
    """Patterns after a Gaussian point spread of ``std`` pixels.

    The kernel ends at three ``std``, but has five taps at least, and the detector's edge reflects.

    Args:
        pattern: zero frequency in the corner, or as seen if ``near``.
        std: standard deviation, pixels.
        near: the patterns are of a near field.

    Example:
        >>> spot = torch.zeros(1, 8, 8)
        >>> spot[0, 0, 0] = 3
        >>> round(blur_patterns(spot, 0.8).sum().item(), 4)
        3.0
    """
    if std == 0:
        return pattern
    half = max(5, 2 * round(3 * std) + 1) // 2
    place = torch.arange(-half, half + 1, dtype=pattern.dtype, device=pattern.device)
    taps = torch.exp(-0.5 * (place / std).square())
    taps = taps / taps.sum()
    seen = pattern if near else shift_to_centre(pattern)
    wide = functional.pad(seen[:, None], (half, half, half, half), mode="reflect")
    rows = functional.conv2d(wide, taps[None, None, :, None])
    blurred = functional.conv2d(rows, taps[None, None, None, :])[:, 0]
    return blurred if near else shift_to_corner(blurred)


def spread_patterns(
    pattern: Float[Tensor, "b y x"], variance: Float[Tensor, "2"], /, *, near: bool = False
) -> Float[Tensor, "b y x"]:
    """Patterns after a Gaussian point spread, differentiable in its variance, also at zero.

    The transform is multiplied by ``exp(-2 pi^2 (vy fy^2 + vx fx^2))``; the detector's edge reflects.

    Args:
        pattern: zero frequency in the corner, or as seen if ``near``.
        variance: along (y, x), square pixels.
        near: the patterns are of a near field.

    Example:
        >>> place = torch.arange(32) - 16.0
        >>> line = torch.exp(-(place**2) / 8)  # a variance of 4
        >>> spread = spread_patterns(torch.outer(line, line)[None], torch.tensor([0.5, 2.0]), near=True)[0]
        >>> [round((spread.sum(axis) @ place**2 / spread.sum()).item(), 1) for axis in (1, 0)]
        [4.5, 6.0]
    """
    seen = pattern if near else shift_to_centre(pattern)
    height, width = seen.shape[-2:]
    y, x = (min(SPREAD_MARGIN, n - 1) for n in (height, width))
    wide = functional.pad(seen[:, None], (x, x, y, y), mode="reflect")[:, 0]
    shape = (wide.shape[-2], wide.shape[-1])
    like = {"dtype": pattern.dtype, "device": pattern.device}
    rows = torch.exp(-2 * math.pi**2 * variance[0] * torch.fft.fftfreq(shape[0], **like).square())
    columns = torch.exp(-2 * math.pi**2 * variance[1] * torch.fft.rfftfreq(shape[1], **like).square())
    spread = torch.fft.irfft2(torch.fft.rfft2(wide) * rows[:, None] * columns, s=shape)
    spread = spread[..., y : y + height, x : x + width].clamp(min=0)
    return spread if near else shift_to_corner(spread)


def apply_transfer(
    pattern: Float[Tensor, "b y x"], transfer: Float[Tensor, "y half"], /
) -> Float[Tensor, "b y x"]:
    """Patterns after a detector whose modulation transfer function is ``transfer`` (an ``rfft2`` grid).

    What rings below zero is cut off there: no detector counts less than nothing.
    """
    shape = (pattern.shape[-2], pattern.shape[-1])
    return torch.fft.irfft2(torch.fft.rfft2(pattern) * transfer, s=shape).clamp(min=0)


def area_weights(many: int, few: int, /) -> Float[Tensor, "few many"]:
    """Shares of fine pixels in coarse ones over the same range, for axes with zero at ``n // 2``.

    A coarse pixel collects what falls onto its area; zero frequency stays zero frequency.

    Example:
        >>> area_weights(4, 2)[1].tolist()
        [0.0, 0.5, 1.0, 0.5]
    """
    ratio = many / few
    coarse = (torch.arange(few, dtype=torch.float64) - few // 2)[:, None] * ratio
    fine = (torch.arange(many, dtype=torch.float64) - many // 2)[None]
    low = torch.maximum(coarse - ratio / 2, fine - 0.5)
    high = torch.minimum(coarse + ratio / 2, fine + 0.5)
    return (high - low).clamp(min=0).float()


def bilinear_weights(many: int, few: int, /) -> Float[Tensor, "few many"]:
    """Linear interpolation between pixels aligned at their outer edges, times ``many / few``.

    Zero frequency moves by part of a pixel, which is why `area_weights` is the better choice; this one
    is what image resizing does, and so what other programs do.
    """
    ratio = many / few
    place = ((torch.arange(few, dtype=torch.float64) + 0.5) * ratio - 0.5).clamp(0, many - 1)[:, None]
    fine = torch.arange(many, dtype=torch.float64)[None]
    return ((1 - (place - fine).abs()).clamp(min=0) * ratio).float()


def block_weights(many: int, few: int, /) -> Float[Tensor, "few many"]:
    """Sums of as many fine pixels as go into a coarse one, from the first on.

    Zero frequency moves by ``(many / few - 1) / 2`` fine pixels; other programs bin so.

    Example:
        >>> block_weights(4, 2).tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    """
    if many % few:
        raise BadInput(
            "collect", "blocks", f"needs a whole number of pixels, but {many} are not {few} times one"
        )
    return torch.eye(few).repeat_interleave(many // few, dim=1)


def draw_counts(
    expected: Float[Tensor, "*batch y x"], /, *, generator: torch.Generator
) -> Float[Tensor, "*batch y x"]:
    """Poisson counts of an expected intensity, reproducible through the generator."""
    return torch.poisson(expected, generator=generator)
