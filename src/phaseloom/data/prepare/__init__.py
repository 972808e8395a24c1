"""Transforms of a scan before it is modelled: counts, geometry, masks and probe change together.

Zero frequency stays at pixel ``[N // 2, N // 2]``; patterns that are read lazily stay lazy.
"""

from phaseloom.data.prepare._calibration import calibrate, near_field
from phaseloom.data.prepare._detector import bin, center, crop, descan, expect, flip, transpose, window
from phaseloom.data.prepare._intensity import (
    detector_blur,
    mask,
    nonnegative,
    normalise,
    poisson,
    source_size,
    thin,
)
from phaseloom.data.prepare._join import join
from phaseloom.data.prepare._sampling import enlarge, pad, resample
from phaseloom.data.prepare._scan import (
    affine,
    half,
    jitter,
    positions,
    region,
    rotate,
    scale,
    select,
    tilt_sample,
    weights,
    without,
)

__all__ = [
    "affine",
    "bin",
    "calibrate",
    "center",
    "crop",
    "descan",
    "detector_blur",
    "enlarge",
    "expect",
    "flip",
]
__all__ += [
    "half",
    "jitter",
    "join",
    "mask",
    "near_field",
    "nonnegative",
    "normalise",
    "pad",
    "poisson",
    "positions",
    "region",
]
__all__ += ["resample", "rotate", "scale", "select", "source_size", "thin", "tilt_sample", "transpose"]
__all__ += ["weights", "window", "without"]
