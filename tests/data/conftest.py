"""What tests of several formats read."""

import pytest

import phaseloom as pl
from phaseloom.data.scan import Scan4D


@pytest.fixture(scope="module")
def simulated() -> Scan4D:
    """A scan of electrons over an object that looks different from every side."""
    pixel, window = 0.4, 16
    places = pl.simulate.raster((6, 8), 1.0) + (window // 2 + 2) * pixel
    truth = pl.simulate.atoms((40, 48), pixel)
    scan, _ = pl.simulate.electron_scan(
        truth, pixel, places, energy=200e3, semiangle=0.02, window=window, dose=3e3, seed=1
    )
    return scan
