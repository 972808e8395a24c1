"""Where the truth of a window of a scan lies on a phase image: exactly, or by the rule of the seed.

The scan of the seed's layout has 5.12 pixels to a step, so no window of pixels belongs to a window of the
scan. Exactly, the phase is read off its Fourier series on pixels of a fifth of a step. The seed rounds
instead, and is off by up to half a pixel, by another amount for every window.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.simulation.experiment import PIXELS_PER_STEP, Experiment, compute_image_shape

__all__ = ["Geometry", "compute_seed_centre", "crop_as_seed", "measure_bright_area", "resample_to_steps"]

Geometry = Literal["exact", "seed"]


def resample_to_steps(phase: Tensor, experiment: Experiment, /) -> Tensor:
    """The phase of a periodic cell on pixels of a fifth of a step, the first probe at pixel (5, 5).

    Read off the Fourier series of the cell, which is exact for what its pixels can hold.

    Args:
        phase: ``(y, x)`` of the cell, whose pixel (0, 0) is where the first probe stands.
        experiment: with a ``cell``.

    Example:
        >>> cell = Experiment(scan=(3, 4), pixel=0.4, cell=64, window=64)
        >>> resample_to_steps(torch.arange(64.0).expand(64, 64), cell)[0, 5:9].round().int().tolist()
        [0, 1, 2, 3]
    """
    axes = []
    for count, size in zip(compute_image_shape(experiment.scan), phase.shape, strict=True):
        place = (
            (torch.arange(count, dtype=torch.float64) - PIXELS_PER_STEP) * experiment.step / PIXELS_PER_STEP
        )
        cycles = (place / (size * experiment.spacing))[:, None] * (torch.fft.fftfreq(size) * size)
        axes.append(torch.polar(torch.ones_like(cycles), 2 * math.pi * cycles))
    spectrum = torch.fft.fft2(phase.double(), norm="forward")
    return (axes[0] @ spectrum @ axes[1].T).real.float()


def measure_bright_area(
    experiment: Experiment, probes: tuple[int, int], /, *, share: float = 0.05
) -> tuple[int, int]:
    """Pixels (y, x) across the area that a window of probes lights up: the size of its patch.

    A pixel is bright where some probe of the window has more than ``share`` of the largest intensity of a
    probe. That is why the seed's patches have 76 pixels: at 80 keV, 20 mrad and 90 A of under-focus a probe
    is 9 pixels wide at 5 %, and the first and the last of 14 probes are 13 steps of 5.12 pixels apart, 67 to
    the nearest pixel.

    Args:
        experiment: probe, step and pixel.
        probes: of the window (rows, columns).
        share: of the largest intensity, between 0 and 1.

    Raises:
        BadInput: a share that is none.

    Example:
        >>> from phaseloom.simulation import microscopes
        >>> measure_bright_area(microscopes.seed(np.random.default_rng()), (14, 14))
        (76, 76)
    """
    if not 0 < share < 1:
        raise BadInput("measure_bright_area: share", share, "must lie between 0 and 1")
    intensity = experiment.probe().abs().square().sum(0)
    bright = torch.nonzero(intensity > share * intensity.max())
    widths = (bright.max(0).values - bright.min(0).values + 1).tolist()
    steps = (round((count - 1) * experiment.step / experiment.spacing) for count in probes)
    height, width = (between + own for between, own in zip(steps, widths, strict=True))
    return height, width


def compute_seed_centre(start: float, /) -> int:
    """Pixel of the middle of a window whose first probe stands at ``start`` angstrom, by the seed's rule.

    Example:
        >>> [compute_seed_centre(2.0 * index) for index in (0, 9, 18, 27, 36)]
        [33, 79, 125, 172, 218]
    """
    return round((start + 13) * 2.56)


def crop_as_seed(phase: Tensor, row: int, col: int, /) -> Tensor:
    """The patch that the seed takes for the truth of a window: up to half a pixel off its place.

    Args:
        phase: images ``(..., 256, 256)`` of 100 angstrom, which repeat themselves.
        row: of the window's first probe in a scan of 2 angstrom steps.
        col: of that probe.

    Example:
        >>> crop_as_seed(torch.zeros(256, 256), 0, 9).shape
        torch.Size([76, 76])
    """
    middle = [size // 2 for size in phase.shape[-2:]]
    amount = [m - compute_seed_centre(2.0 * start) for m, start in zip(middle, (row, col), strict=True)]
    rolled = torch.roll(phase, amount, (-2, -1))
    return rolled[..., middle[0] - 38 : middle[0] + 38, middle[1] - 38 : middle[1] + 38]
