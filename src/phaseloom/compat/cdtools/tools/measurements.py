"""CDTools' ``tools.measurements``: from waves on the detector, centred, to counts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from phaseloom.compat.cdtools.tools._shared import missing
from phaseloom.compat.cdtools.tools.propagators import far_field, inverse_far_field
from phaseloom.physics import detect
from phaseloom.physics.fourier import fit_window, shift_to_centre, shift_to_corner

__all__ = ["incoherent_sum", "intensity", "quadratic_background"]

__getattr__ = missing("measurements", __all__)


def intensity(wavefield: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Counts of coherent waves ``(y, x)`` or ``(shot, y, x)``; further arguments as in `incoherent_sum`."""
    return incoherent_sum(wavefield[..., None, :, :], *args, **kwargs)


def incoherent_sum(  # noqa: PLR0917 -- CDTools' arguments
    wavefields: Tensor,
    detector_slice: Any = None,
    epsilon: float = 1e-7,
    saturation: float | None = None,
    oversampling: int = 1,
    simulate_finite_pixels: bool = False,
) -> Tensor:
    """Counts of incoherent modes ``(mode, y, x)`` or ``(shot, mode, y, x)``, with ``epsilon`` added to each.

    ``detector_slice`` are two slices of the window; ``oversampling`` pixels of the wave, each way, are
    averaged in one of the detector. ``simulate_finite_pixels`` is exact for exit waves within the window:
    CDTools' blur is off by half a pixel of the padded window, and wrong for odd or oblong ones.
    """
    waves = wavefields if wavefields.ndim > 3 else wavefields[None]
    counts = _collect_on_area(waves) if simulate_finite_pixels else detect.intensity(waves)
    if oversampling != 1:
        counts = avg_pool2d(counts, int(oversampling))
    if detector_slice is not None:
        counts = counts[(slice(None), *detector_slice)]
    counts = counts + epsilon
    counts = counts if saturation is None else counts.clamp(0, saturation)
    return counts if wavefields.ndim > 3 else counts[0]


def quadratic_background(
    wavefield: Tensor,
    background: Tensor,
    *args: Any,
    detector_slice: Any = None,
    measurement: Callable[..., Tensor] = intensity,
    epsilon: float = 1e-7,
    qe_mask: Tensor | None = None,
    saturation: float | None = None,
    oversampling: int = 1,
    simulate_finite_pixels: bool = False,
) -> Tensor:
    """Counts of a ``measurement`` times the efficiency ``qe_mask``, plus the square of a background.

    ``background`` is ``(y, x)`` of the detector, root of counts; ``saturation`` includes it. Other arguments
    are those of `incoherent_sum`; further ones are passed to the measurement after the wave.
    """
    counts = measurement(
        wavefield,
        *args,
        detector_slice=detector_slice,
        epsilon=epsilon,
        oversampling=oversampling,
        simulate_finite_pixels=simulate_finite_pixels,
    )
    counts = (counts if qe_mask is None else qe_mask * counts) + background**2
    return counts if saturation is None else counts.clamp(0, saturation)


def _collect_on_area(waves: Tensor) -> Tensor:
    """Intensity ``(shot, y, x)`` integrated over the area of each pixel, per area.

    On a grid of half the step the intensity is known in full, for its Fourier transform, the
    autocorrelation of the exit wave, ends within twice the window; a box there is a sinc.
    """
    y, x = waves.shape[-2:]
    fine = 2 * far_field(fit_window(inverse_far_field(waves), (2 * y, 2 * x)))
    rows, columns = (
        torch.sinc(2 * torch.fft.fftfreq(2 * n, device=waves.device, dtype=fine.real.dtype)) for n in (y, x)
    )
    spectrum = torch.fft.fft2(shift_to_corner(detect.intensity(fine))) * rows[:, None] * columns
    counts = shift_to_centre(torch.fft.ifft2(spectrum).real).clamp(min=0)
    return counts[..., y - 2 * (y // 2) :: 2, x - 2 * (x // 2) :: 2]
