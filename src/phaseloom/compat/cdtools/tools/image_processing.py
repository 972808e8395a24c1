"""CDTools' ``tools.image_processing``: windows, centroids, shifts. Shifts are pixels, (y, x)."""

import math
from typing import Any

import torch
from torch import Tensor

from phaseloom.compat.cdtools.tools._shared import alike, missing, tensor
from phaseloom.errors import BadInput
from phaseloom.physics import fourier
from phaseloom.physics.fourier import fit_spectrum, to_real, to_reciprocal

__all__ = [
    "center",
    "centroid",
    "centroid_sq",
    "convolve_1d",
    "find_pixel_shift",
    "find_shift",
    "find_subpixel_shift",
    "fourier_upsample",
    "hann_window",
    "sinc_subpixel_shift",
]

__getattr__ = missing("image_processing", __all__)


def hann_window(im: Any) -> Any:
    """An image ``(y, x)`` times a Hann window that is zero at all four edges.

    CDTools takes each axis' length for the other's, so an oblong image keeps some edges there.
    """
    values = tensor(im)
    y, x = (torch.hann_window(n, periodic=False, dtype=torch.float64, device=values.device) for n in im.shape)
    return alike(values * (y[:, None] * x).to(values.real.dtype), im)


def centroid(im: Tensor, dims: int = 2) -> Tensor:
    """Centre of mass over the last axes in pixels, ``(..., dims)``."""
    axes = tuple(range(-dims, 0))
    total = im.sum(axes)
    places = []
    for axis in axes:
        place = torch.arange(im.shape[axis], device=im.device, dtype=torch.get_default_dtype())
        others = tuple(other for other in axes if other != axis)
        marginal = im.sum(others) if others else im
        places.append(
            (marginal * place.to(im.real.dtype if im.is_complex() else place.dtype)).sum(-1) / total
        )
    return torch.stack(places, -1)


def centroid_sq(im: Tensor, dims: int = 2, comp: bool = False) -> Tensor:
    """Centre of mass of the square, or with ``comp`` of the squared modulus."""
    return centroid(im.abs().square() if comp else im.square(), dims)


def sinc_subpixel_shift(im: Tensor, shift: Any) -> Tensor:
    """An image moved by any number of pixels towards larger indices, periodic; complex."""
    precise = torch.float64 if im.dtype in (torch.float64, torch.complex128) else torch.float32
    step = torch.stack([tensor(one).to(im.device, precise) for one in shift])
    wave = im.to(torch.promote_types(im.dtype, torch.complex64))
    return fourier.shift(wave, step.expand(*im.shape[:-2], 2))


def find_pixel_shift(im1: Tensor, im2: Tensor) -> Tensor:
    """Whole pixels by which the second image is to be moved onto the first, ``(2)``; phase correlation."""
    height = to_real(_phase_correlation(im1, im2)).abs()
    place = torch.stack(torch.unravel_index(height.argmax(), height.shape))
    half = torch.tensor([n // 2 for n in height.shape], device=place.device)
    size = torch.tensor(height.shape, device=place.device)
    return (place + half) % size - half


def find_subpixel_shift(
    im1: Tensor, im2: Tensor, search_around: Any = (0, 0), resolution: int = 10
) -> Tensor:
    """Shift of the second image onto the first, in steps of ``1 / resolution``, within 15 pixels of a guess.

    The phase correlation is computed at those places exactly, where CDTools interpolates a piece of it;
    both may differ by a step, and images may be smaller than 30 pixels here.
    """
    spectrum = _phase_correlation(im1, im2)
    guess = tensor(search_around).detach().cpu().double()
    steps = torch.arange(-15 * resolution, 15 * resolution, dtype=torch.float64) / resolution
    places = [(centre + steps).to(spectrum.device) for centre in guess]
    rows, columns = (_harmonics(p, n, spectrum) for p, n in zip(places, spectrum.shape, strict=True))
    height = (rows @ spectrum @ columns.T).abs()
    best = torch.unravel_index(height.argmax(), height.shape)
    found = torch.stack([place[index] for place, index in zip(places, best, strict=True)])
    return found.to(spectrum.real.dtype)


def find_shift(im1: Tensor, im2: Tensor, resolution: int = 10) -> Tensor:
    """Shift of the second image onto the first: `find_pixel_shift`, then `find_subpixel_shift` around it."""
    return find_subpixel_shift(im1, im2, find_pixel_shift(im1, im2), resolution)


def convolve_1d(image: Tensor, kernel: Tensor, dim: int = 0, fftshift_kernel: bool = True) -> Tensor:
    """An image convolved along one axis in a circle, complex; the kernel's zero is its middle, or index 0."""
    if fftshift_kernel:
        kernel = torch.fft.ifftshift(kernel, dim=-1)
    spectrum = torch.fft.fft(image.transpose(dim, -1)) * torch.fft.fft(kernel)
    return torch.fft.ifft(spectrum).transpose(dim, -1)


def fourier_upsample(ims: Tensor, upsample_factor: int = 2, preserve_mean: bool = False) -> Tensor:
    """Images on a finer grid over the same field, interpolated by zeros around their spectrum; complex.

    Keeps the sum of squares, or with ``preserve_mean`` the values. Index ``N // 2`` becomes the middle of the
    new grid, also for odd sizes, where CDTools can be off by a fine pixel.
    """
    y, x = (upsample_factor * n for n in ims.shape[-2:])
    fine = fit_spectrum(ims, (y, x))
    return upsample_factor * fine if preserve_mean else fine


def center(image: Tensor, image_dims: int = 2, use_power: bool = True, iterations: int = 4) -> Tensor:
    """Images moved together in a circle until the centre of mass of all is at ``N // 2``.

    CDTools aims at ``N / 2``, between two pixels where ``N`` is odd.
    """
    if image_dims != 2 or image.ndim < 2:
        raise BadInput("center.image_dims", image_dims, "must be 2, the last axes of the image")
    stack = image.reshape(-1, *image.shape[-2:])
    goal = torch.tensor([n // 2 for n in image.shape[-2:]], device=image.device)
    for _ in range(iterations):
        weight = stack.abs().square() if use_power else stack.abs()
        moved = sinc_subpixel_shift(stack, goal - centroid(weight.sum(0)))
        stack = moved if image.is_complex() else moved.real
    return stack.reshape(image.shape)


def _phase_correlation(im1: Tensor, im2: Tensor) -> Tensor:
    """Spectrum of unit modulus of the cross-correlation; what neither image holds counts nothing."""
    cross = to_reciprocal(im1) * to_reciprocal(im2).conj()
    size = cross.abs()
    return torch.where(
        size > 0, cross / size.clamp(min=torch.finfo(size.dtype).tiny), torch.zeros_like(cross)
    )


def _harmonics(place: Tensor, size: int, like: Tensor) -> Tensor:
    """Rows of an inverse Fourier transform at any place, ``(place, frequency)``."""
    frequency = torch.fft.fftfreq(size, dtype=torch.float64, device=place.device)
    angle = 2 * math.pi * place[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle).to(like.dtype)
