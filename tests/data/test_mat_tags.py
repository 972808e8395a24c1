"""MATLAB files of version 5 are read by scipy only if all their elements have known types."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from phaseloom.data import formats
from phaseloom.data.formats.vendor.mat_tags import require_known_tags
from phaseloom.errors import BadInput

CONTENT = {
    "dp": np.arange(240.0).reshape(3, 5, 4, 4),
    "p": {"dx": 0.5, "name": "gold", "list": np.array([1, "a"], dtype=object)},
    "z": np.array([1 + 2j, 3]),
    "flag": True,
    "empty": np.zeros((0, 3)),
    "odd": np.arange(3, dtype=np.uint8),
}
KNOBS = {"energy": 8e4, "angle": 1e-3, "step": 0.4, "key": "dp"}


@pytest.mark.parametrize("compressed", [False, True])
def test_whole_files_pass(tmp_path: Path, compressed: bool) -> None:
    savemat(tmp_path / "a.mat", CONTENT, do_compression=compressed)
    require_known_tags(tmp_path / "a.mat")
    assert formats.read(tmp_path / "a.mat", knobs=KNOBS).grid == (3, 5)


def test_a_file_of_version_4_passes(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"a": np.ones((2, 3))}, format="4")
    require_known_tags(tmp_path / "a.mat")


def test_an_element_of_an_unknown_type_is_refused_before_scipy_reads_beyond_its_table(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"dp": CONTENT["dp"]})
    content = bytearray(path.read_bytes())
    content[185] = 0x40  # of the numbers: scipy 1.17 ends with a segmentation fault
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.mat: is damaged \(an element of type 16393\)"):
        formats.read(path, knobs=KNOBS)


def test_an_element_that_is_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"dp": CONTENT["dp"]})
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(BadInput, match="is damaged"):
        formats.read(path, knobs=KNOBS)
