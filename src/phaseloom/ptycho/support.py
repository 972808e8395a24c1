"""Where a probe may have light: within a disk of its window, within a cone of angles."""

import math

import torch
from jaxtyping import Complex
from torch import Tensor, nn

from phaseloom.physics.fourier import centred, cornered, fit_window, to_real, to_reciprocal

__all__ = ["Support", "within"]


class Support(nn.Module):
    """A linear map from a probe's free numbers to its modes, which are what it allows at every step.

    The numbers are pixels, or plane waves (``spectrum``), each of which takes steps of its own; either way
    their power is that of the modes. With a ``band`` there are fewer: the pixels of a coarser grid over
    the same window, or the waves in the middle of the spectrum.

    Args:
        shape: of the modes (y, x).
        radius: of the disk along each axis, pixels (y, x); default: no disk.
        band: see below; default: all.
        spectrum: see below.

    Attributes:
        band: plane waves that are kept on each axis (y, x), around that along the beam.
        spectrum: the free numbers are plane waves, zero frequency in their middle.
        disk: ``(y, x)`` real, one where modes may be bright; it is the last to act, so that a disk and a band
            together let a little light out of the band.

    Example:
        >>> support = Support((8, 8), band=(4, 4))
        >>> wave = torch.randn(1, 8, 8, dtype=torch.complex64)
        >>> support.free(wave).shape, support(support.free(wave)).shape
        (torch.Size([1, 4, 4]), torch.Size([1, 8, 8]))
    """

    disk: Tensor | None

    def __init__(
        self,
        shape: tuple[int, int],
        /,
        *,
        radius: tuple[float, float] | None = None,
        band: tuple[int, int] | None = None,
        spectrum: bool = False,
    ):
        super().__init__()
        self.shape, self.spectrum = shape, spectrum
        self.band = shape if band is None else band
        self.register_buffer("disk", None if radius is None else _disk(shape, radius))

    def forward(self, free: Complex[Tensor, "*b v u"]) -> Complex[Tensor, "*b y x"]:
        """The modes of free numbers."""
        wave = free
        if self.spectrum or self.band != self.shape:
            waves = free if self.spectrum else _waves(free)
            wave = _pixels(fit_window(waves, self.shape))
        return wave if self.disk is None else wave * self.disk

    def free(self, wave: Complex[Tensor, "*b y x"]) -> Complex[Tensor, "*b v u"]:
        """The free numbers of modes, without what is not allowed: the adjoint of `forward`."""
        wave = wave if self.disk is None else wave * self.disk
        if not self.spectrum and self.band == self.shape:
            return wave
        waves = fit_window(_waves(wave), self.band)
        return waves if self.spectrum else _pixels(waves)


def _disk(shape: tuple[int, int], radius: tuple[float, float]) -> Tensor:
    y, x = ((torch.arange(n, dtype=torch.float32) - n // 2) / r for n, r in zip(shape, radius, strict=True))
    return (torch.hypot(y[:, None], x[None]) < 1).float()


def _waves(wave: Tensor) -> Tensor:
    """Plane waves of pixels, the middle of the window at phase zero; no power is lost."""
    return centred(to_reciprocal(cornered(wave)))


def _pixels(waves: Tensor) -> Tensor:
    return centred(to_real(cornered(waves)))


def within(
    angle: float, wavelength: float, pixel: tuple[float, float], shape: tuple[int, int]
) -> tuple[int, int]:
    """Plane waves on each axis, at most all, that it takes to reach an angle to either side.

    Args:
        angle: from the beam, radian.
        wavelength: angstrom.
        pixel: angstrom (y, x).
        shape: of the window (y, x).

    Example:
        >>> within(10e-3, 0.02, (0.2, 0.2), (64, 64))
        (13, 13)
    """
    steps = (math.floor(angle * n * p / wavelength) for n, p in zip(shape, pixel, strict=True))
    first, second = (min(n, 2 * step + 1) for n, step in zip(shape, steps, strict=True))
    return first, second
