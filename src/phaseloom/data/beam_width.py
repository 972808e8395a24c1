"""How wide a beam is: four times the standard deviation of its intensity, the diameter of an even disk."""

from collections.abc import Sequence

import numpy as np

from phaseloom.data.scan import Scan4D

__all__ = ["d4sigma", "widest"]


def d4sigma(image: np.ndarray, pixel: Sequence[float] | np.ndarray, /) -> float:
    """D4 sigma of an intensity ``(y, x)``, mean of both axes, in the unit of the pixel.

    Example:
        >>> y, x = np.mgrid[-20:21, -20:21]
        >>> round(d4sigma(np.hypot(y, x) < 10, (2.0, 2.0)) / 2)
        20
    """
    image = np.clip(image, 0, None)
    y, x = ((np.arange(n) - n // 2) * p for n, p in zip(image.shape, pixel, strict=True))
    total = image.sum() or 1.0
    spread = 0.0
    for axis, grid in ((1, y), (0, x)):
        profile = image.sum(axis) / total
        middle = (profile * grid).sum()
        spread += (profile * (grid - middle) ** 2).sum()
    return float(4 * np.sqrt(spread / 2))


def widest(scan: Scan4D, /) -> float | None:
    """The diameter of a stored probe where it is widest in a scan along the beam, angstrom; else ``None``.

    That is at one end of the scan, for the square of the diameter is a parabola of the height.
    """
    if scan.probe is None or scan.heights is None:
        return None
    import torch

    from phaseloom.physics.propagate import angular_spectrum, fly

    geometry, heights = scan.geometry, scan.heights - scan.heights.mean()
    ways = -torch.as_tensor([heights.min(), heights.max()])
    kernels = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, ways)[:, None]
    planes = fly(torch.as_tensor(scan.probe).to(kernels)[None], kernels).abs().square().sum(1).numpy()
    return max(d4sigma(plane, geometry.pixel) for plane in planes)
