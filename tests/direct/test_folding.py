"""A raster too wide for its object: details are folded, and a direct image says so, and claims nothing."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from phaseloom.data.scan import Scan4D
from phaseloom.direct.reconstruct import describe_folding, reconstruct_scan
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics
from phaseloom.direct.twin import TWINS
from phaseloom.errors import BadInput
from phaseloom.simulation import simulate

PIXEL, GRID, SEMIANGLE = 0.2, (24, 24), 0.022


def scan_of(step: float, blur: float) -> Scan4D:
    """Atoms, or a soft object, on a raster without rotation; the aperture resolves 0.95 angstrom."""
    positions = simulate.raster(GRID, step) + 8.0
    side = int((positions.max() + 8.0) / PIXEL) + 2
    phase = simulate.atoms((side, side), PIXEL, peak=0.25, seed=1)
    if blur:
        soft = gaussian_filter(np.random.default_rng(2).normal(size=(side, side)), blur / PIXEL)
        phase = (0.2 * soft / soft.std())[None]
    beam = {"energy": 80e3, "semiangle": SEMIANGLE, "defocus": 120.0, "window": 64, "dose": 1e5}
    scan, _ = simulate.electron_scan(phase, PIXEL, positions, **beam)
    return replace(scan, grid=GRID, oriented=False, probe=None)


@pytest.mark.medium
def test_folded_details_are_said_and_nothing_is_claimed() -> None:
    lines = reconstruct_scan(scan_of(2.0, 0.0)).lines()
    (folded,) = [line for line in lines if "too wide for the details of this object" in line]
    assert "step of 2 angstrom" in folded
    assert "steps of 0.94 angstrom or less" in folded  # wavelength / (2 semiangle) of the disk
    (turned,) = [line for line in lines if line.startswith("detector: ")]
    assert turned.endswith("error not determined")
    assert not any("+-" in line for line in lines if line.startswith(("defocus", "C12", "step")))
    (twin,) = [line for line in lines if line.startswith(TWINS)]
    assert "not decided" in twin


@pytest.mark.parametrize(
    ("step", "blur", "is_folded"), [(2.0, 0.0, True), (0.6, 0.0, False), (2.0, 3.0, False)]
)
def test_fine_steps_and_soft_objects_are_not_folded(step: float, blur: float, is_folded: bool) -> None:
    scan = scan_of(step, blur)
    survey = survey_disk(scan)
    optics = LinearOptics(scan.geometry.wavelength, SEMIANGLE, {})
    bright = survey.measure(scan)
    for upsample in (1, 2):
        line = describe_folding(bright.transform(border=0.06, upsample=upsample), optics)
        assert (line is not None) == is_folded


def test_photons_without_a_disk_are_sent_to_a_reconstruction() -> None:
    scan = scan_of(0.6, 0.0)
    rng = np.random.default_rng(0)
    speckle = rng.poisson(3, (len(scan), 16, 16)).astype(np.uint16)
    geometry = replace(scan.geometry, beam="photon", shape=(16, 16))
    scan = replace(scan, counts=speckle, geometry=geometry, mask=np.ones((16, 16), bool))
    with pytest.raises(BadInput, match=r"scan of photons: use phaseloom reconstruct"):
        reconstruct_scan(scan)
    with pytest.raises(BadInput, match=r"detector columns\?$"):
        reconstruct_scan(replace(scan, geometry=replace(geometry, beam="electron")))
