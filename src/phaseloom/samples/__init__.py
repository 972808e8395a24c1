"""Measured scans that come with the package, each with its licence beside it."""

from pathlib import Path

__all__ = ["far_field", "near_field"]

FOLDER = Path(__file__).parent


def far_field() -> Path:
    """Siemens star, 516 far-field X-ray patterns of 128 x 128 pixels: a CXI file.

    Velociprobe, Advanced Photon Source, from the tests of tike (UChicago Argonne, LLC; BSD). The file has a
    probe; energy, distance and pixel are nominal.
    """
    return FOLDER / "siemens_star_velociprobe.cxi"


def near_field() -> Path:
    """Siemens star, 200 near-field X-ray holograms of 100 x 100 pixels: a CXI file.

    PETRA III P25, by N. Samadi et al. (CC BY 4.0, doi 10.5281/zenodo.17899482). The focus lies 3.65 mm before
    the sample, which the file does not state.
    """
    return FOLDER / "petra_near_field.cxi"
