"""The unitary Fourier pair and what lives on its grids.

Signs and order, decided once for the whole package:

* forward ``F(f) = sum_r exp(-2 pi i f r) g(r) / sqrt(N)``, inverse with ``+``; both keep the power,
  so the sum of a far-field intensity equals the counts;
* inside, frequencies have zero in the corner ``[0, 0]`` and real-space waves sit in the middle
  ``[N // 2, N // 2]`` of their window; only pictures and files see centred patterns;
* a wave travelling along the beam is ``exp(+i k z)``, a thin object multiplies by ``exp(+i phase)``:
  electrons gain phase in matter, hard X-rays lose it.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

__all__ = [
    "fit_spectrum",
    "fit_window",
    "frequencies",
    "mirror_through_zero",
    "shift_to_centre",
    "shift_to_corner",
]
__all__ += ["ramp", "shift", "to_real", "to_reciprocal"]


def to_reciprocal(wave: Shaped[Tensor, "*batch y x"], /) -> Complex[Tensor, "*batch y x"]:
    """Unitary Fourier transform over the last two axes.

    Example:
        >>> to_reciprocal(torch.ones(1, 4, 4))[0, 0, 0].real.item()
        4.0
    """
    return torch.fft.fft2(wave, norm="ortho")


def to_real(wave: Complex[Tensor, "*batch y x"], /) -> Complex[Tensor, "*batch y x"]:
    """Inverse, and adjoint, of `to_reciprocal`."""
    return torch.fft.ifft2(wave, norm="ortho")


def shift_to_centre(pattern: Shaped[Tensor, "*batch y x"], /) -> Shaped[Tensor, "*batch y x"]:
    """Zero frequency from the corner to ``[N // 2, N // 2]``, for eyes and files."""
    return torch.fft.fftshift(pattern, dim=(-2, -1))


def shift_to_corner(pattern: Shaped[Tensor, "*batch y x"], /) -> Shaped[Tensor, "*batch y x"]:
    """Zero frequency from ``[N // 2, N // 2]`` to the corner, as the engine wants it."""
    return torch.fft.ifftshift(pattern, dim=(-2, -1))


def frequencies(
    shape: tuple[int, int], pixel: tuple[float, float] = (1.0, 1.0), /, *, like: Tensor
) -> tuple[Float[Tensor, "y 1"], Float[Tensor, "1 x"]]:
    """Frequencies of the two axes in cycles per unit of ``pixel``, zero first.

    The precision and the device are those of ``like``; the grid is computed in float64 before it is
    rounded, so that float32 kernels are as good as float32 can be.

    Example:
        >>> frequencies((4, 4), (0.5, 0.5), like=torch.zeros(1))[0].flatten().tolist()
        [0.0, 0.5, -1.0, -0.5]
    """
    dtype = torch.float64 if like.dtype in (torch.float64, torch.complex128) else torch.float32
    y, x = (_axis_frequencies(n, d, like.device, dtype) for n, d in zip(shape, pixel, strict=True))
    return y[:, None], x[None, :]


@lru_cache(maxsize=64)
def _frequency_table(count: int, pixel: float) -> np.ndarray:
    return np.fft.fftfreq(count, pixel)


def _axis_frequencies(count: int, pixel: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Frequencies along one axis; the table itself is nobody's to write to."""
    table = torch.from_numpy(_frequency_table(count, pixel))
    return table.clone() if (device.type, dtype) == ("cpu", table.dtype) else table.to(device, dtype)


def ramp(
    amount: Float[Tensor, "*batch 2"], shape: tuple[int, int], /
) -> tuple[Complex[Tensor, "*batch y 1"], Complex[Tensor, "*batch 1 x"]]:
    """The two separable factors ``exp(-2 pi i f s)`` that move a wave by ``s = (y, x)`` pixels."""
    y, x = frequencies(shape, like=amount)
    angles = (-2 * torch.pi * amount[..., :1, None] * y, -2 * torch.pi * amount[..., 1:, None] * x)
    first, second = (torch.polar(torch.ones_like(angle), angle) for angle in angles)
    return first, second


def shift(
    wave: Complex[Tensor, "*#batch y x"], amount: Float[Tensor, "*#batch 2"], /
) -> Complex[Tensor, "*#batch y x"]:
    """Move a wave by a real number of pixels (y, x): unitary, periodic, differentiable in both.

    Positive amounts move it down and right. Even sizes keep the Nyquist row as it is, so shifts add
    exactly.

    Example:
        >>> spot = torch.zeros(1, 8, 8, dtype=torch.complex64)
        >>> spot[0, 2, 2] = 1
        >>> shift(spot, torch.tensor([[1.0, 3.0]])).abs().argmax().item() == 3 * 8 + 5
        True
    """
    rows, columns = ramp(amount, (wave.shape[-2], wave.shape[-1]))
    return to_real(to_reciprocal(wave) * rows * columns)


def fit_window(wave: Shaped[Tensor, "*batch y x"], shape: tuple[int, int], /) -> Shaped[Tensor, "*batch v u"]:
    """Crop or zero-pad the last two axes; index ``N // 2`` stays index ``M // 2``.

    Cropping is the adjoint of padding.

    Example:
        >>> fit_window(torch.arange(5.0)[None, :].expand(5, 5), (3, 4))[0].tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    for axis, size in zip((-2, -1), shape, strict=True):
        before = size // 2 - wave.shape[axis] // 2
        after = size - wave.shape[axis] - before
        padding = (0, 0, before, after) if axis == -2 else (before, after, 0, 0)
        wave = torch.nn.functional.pad(wave, padding)
    return wave


def fit_spectrum(
    wave: Shaped[Tensor, "*batch y x"], shape: tuple[int, int], /
) -> Complex[Tensor, "*batch v u"]:
    """The same field of view on other pixels: `fit_window` of the spectrum, the middle stays the middle.

    What is padded keeps its power, so a mean falls as the square root of the number of pixels grows.

    Example:
        >>> fine = fit_spectrum(torch.tensor([[1.0, 0.0, -1.0, 0.0, 1.0]]), (1, 20))
        >>> round(fine.abs().square().sum().item(), 4), round(2 * fine[0, 10].real.item(), 4)
        (3.0, -1.0)
    """
    spectrum = shift_to_centre(to_reciprocal(shift_to_corner(wave)))
    return shift_to_centre(to_real(shift_to_corner(fit_window(spectrum, shape))))


def mirror_through_zero(patterns: Tensor, /) -> Tensor:
    """Patterns point-mirrored about zero frequency; zero where the mirrored pixel does not exist.

    Example:
        >>> mirror_through_zero(torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3))[0].tolist()
        [0.0, 4.0, 3.0, 2.0]
    """
    flipped = patterns.flip(-2, -1)
    for axis in (-2, -1):
        if patterns.shape[axis] % 2 == 0:
            flipped = flipped.roll(1, axis)
            flipped.select(axis, 0).zero_()
    return flipped
