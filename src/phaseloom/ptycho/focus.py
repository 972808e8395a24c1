"""How far a scan may be moved along the beam before its patterns change."""

import torch

from phaseloom.data.scan import Scan4D
from phaseloom.ptycho import axial as heights
from phaseloom.ptycho import probes

__all__ = ["depth_of_focus"]


def depth_of_focus(scan: Scan4D, /) -> float:
    """``wavelength / angle^2`` of the cone that holds 95 % of a scan's beam, angstrom.

    In a near field it is that of details of four pixels, if less.

    The beam is the probe that came with the data, else the first guess of one. Errors of heights and of the
    distance to the focus are natural in units of this; `Ptychography` models heights that differ by a tenth.

    Example:
        >>> import numpy as np
        >>> import phaseloom as pl
        >>> wave = pl.physics.optics.probe_wave((64, 64), (1.0, 1.0), wavelength=0.02, semiangle=2e-3)
        >>> geometry = pl.Geometry(wavelength=0.02, shape=(64, 64), angle=(0.02 / 64, 0.02 / 64))
        >>> data = {"counts": np.ones((1, 64, 64)), "positions": np.zeros((1, 2)), "geometry": geometry}
        >>> scan = pl.Scan4D(**data, probe=wave.numpy()[None])
        >>> 4500 < pl.depth_of_focus(scan) < 5600  # 0.02 / (2e-3)^2 = 5000
        True
    """
    if scan.probe is None:
        return heights.depth(probes.auto(scan).modes(), scan.window)
    return heights.depth(torch.as_tensor(scan.probe), scan.geometry)
