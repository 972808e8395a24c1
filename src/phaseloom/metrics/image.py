"""How close an image comes to a reference whose grey values count."""

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput

__all__ = ["psnr", "ssim"]

# Gaussian weights of the structural similarity: an 11x11 window, as Wang et al. (2004).
WINDOW_SIGMA = 1.5
WINDOW_REACH = 5


def psnr(
    image: ArrayLike,
    reference: ArrayLike,
    /,
    *,
    peak: float | int | None = None,
    within: tuple[float | int, float | int] | None = None,
) -> float:
    """Peak signal-to-noise ratio, ``10 log10(peak^2 / mean squared error)``, in decibel.

    Args:
        image: any shape, real; all values of all channels count the same.
        reference: the same shape.
        peak: largest possible difference of grey values; default: the reference's range.
        within: lowest and highest value that the image is clipped to first, as a file or a screen would,
            such as ``(0, 1)``; default: it is taken as it is.

    Raises:
        BadInput: shapes differ, or the reference is constant and no peak is given.

    Example:
        >>> psnr(np.full((4, 4), 0.1), np.zeros((4, 4)), peak=1.0).__round__(6)
        20.0
    """
    values, wanted, peak = _check_images(image, reference, peak, within)
    error = np.mean((values - wanted) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(
    image: ArrayLike,
    reference: ArrayLike,
    /,
    *,
    peak: float | int | None = None,
    within: tuple[float | int, float | int] | None = None,
) -> float:
    """Mean structural similarity, 1 for equal images.

    Gaussian weights (sigma 1.5, 11x11), ``K1 = 0.01``, ``K2 = 0.03``; the mean leaves out five pixels
    at each edge (Wang et al. 2004, doi 10.1109/TIP.2003.819861).

    Args:
        image: ``(..., y, x)``, real; each image of the leading axes, such as colours, is compared by itself,
            and all count the same.
        reference: the same shape.
        peak: largest possible difference of grey values; default: the reference's range.
        within: lowest and highest value that the image is clipped to first, as a file or a screen would,
            such as ``(0, 1)``; default: it is taken as it is.

    Raises:
        BadInput: shapes differ, images smaller than 11x11, or a constant reference without peak.

    Example:
        >>> ssim(np.eye(16), np.eye(16)).__round__(6)
        1.0
    """
    values, wanted, peak = _check_images(image, reference, peak, within)
    if values.ndim < 2 or min(values.shape[-2:]) <= 2 * WINDOW_REACH:
        raise BadInput("ssim", values.shape, "must be at least 11x11 pixels")
    mean = _blur_image(values)
    target = _blur_image(wanted)
    variance = _blur_image(values**2) - mean**2 + _blur_image(wanted**2) - target**2
    covariance = _blur_image(values * wanted) - mean * target
    c1 = (0.01 * peak) ** 2
    c2 = (0.03 * peak) ** 2
    luminance = (2 * mean * target + c1) / (mean**2 + target**2 + c1)
    structure = (2 * covariance + c2) / (variance + c2)
    return float((luminance * structure)[..., WINDOW_REACH:-WINDOW_REACH, WINDOW_REACH:-WINDOW_REACH].mean())


def _blur_image(values: np.ndarray) -> np.ndarray:
    """Local mean with Gaussian weights along the last two axes."""
    from scipy.ndimage import correlate1d

    weights = np.exp(-0.5 * (np.arange(-WINDOW_REACH, WINDOW_REACH + 1) / WINDOW_SIGMA) ** 2)
    weights /= weights.sum()
    return correlate1d(correlate1d(values, weights, axis=-1), weights, axis=-2)


def _check_images(
    image: ArrayLike,
    reference: ArrayLike,
    peak: float | int | None,
    within: tuple[float | int, float | int] | None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Both images in double precision, and the range of grey values."""
    values = np.asarray(image, float)
    wanted = np.asarray(reference, float)
    if values.shape != wanted.shape:
        raise BadInput("metrics.image", values.shape, f"must have the shape of the reference, {wanted.shape}")
    peak = float(np.ptp(wanted)) if peak is None else float(peak)
    if peak <= 0:
        raise BadInput("metrics.image.peak", peak, "must be positive: give the range of grey values")
    return values if within is None else np.clip(values, *within), wanted, peak
