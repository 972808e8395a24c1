"""Links of CXI files to what is not there, and arrays that declare more than any scan has."""

import shutil
from pathlib import Path

import h5py
import pytest

import phaseloom as pl
from phaseloom.data import formats


@pytest.mark.parametrize("name", ["mask", "basis_vectors"])
def test_broken_links_of_cxi_are_sentences(name: str, tmp_path: Path) -> None:
    path = tmp_path / "scan.cxi"
    shutil.copy(pl.samples.far_field(), path)
    with h5py.File(path, "a") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        if name in detector:
            del detector[name]
        detector[name] = h5py.ExternalLink("other.h5", f"/{name}")
    with pytest.raises(
        pl.errors.BadInput, match=f"{name}: is a link to /{name} in other.h5, which is missing"
    ):
        formats.read(path)


def test_a_distance_that_declares_billions_of_numbers_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "scan.cxi"
    shutil.copy(pl.samples.far_field(), path)
    with h5py.File(path, "a") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        del detector["distance"]
        detector.create_dataset("distance", (1000, 1000, 1000), "f4", chunks=(1, 1000, 1000))
    with pytest.raises(pl.errors.BadInput, match=r"distance: shape .* is not plausible here"):
        formats.read(path)
