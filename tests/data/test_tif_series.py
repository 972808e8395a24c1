"""A scan in files of one pattern each, `frame_1.tif`, `frame_2.tif`, ..., as many cameras save it."""

from pathlib import Path

import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.folder_survey import survey_folder
from phaseloom.errors import BadInput

tifffile = pytest.importorskip("tifffile")

PATTERNS = np.random.default_rng(0).poisson(9, (12, 8, 6)).astype(np.uint16)
KNOBS = {"energy": 200e3, "angle": 1e-3, "step": 1.2, "grid": [3, 4]}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve files, whose order by name (1, 10, 11, 12, 2, ...) is not that of their numbers."""
    for number, pattern in enumerate(PATTERNS, 1):
        tifffile.imwrite(tmp_path / f"frame_{number}.tif", pattern)
    return tmp_path


@pytest.mark.parametrize("name", ["frame_1.tif", "frame_10.tif"])
def test_one_numbered_file_of_one_pattern_stands_for_all_in_the_order_of_their_numbers(name, folder):
    tifffile.imwrite(folder / "other_1.tif", PATTERNS[0])
    scan = formats.read(folder / name, knobs=KNOBS)
    assert scan.grid == (3, 4)
    np.testing.assert_array_equal(scan.counts[np.arange(12)], PATTERNS)
    np.testing.assert_array_equal(scan.counts[np.array([7, 2])], PATTERNS[[7, 2]])
    assert scan.metadata["remarks"] == f"{name}: read as one scan with all 12 files from frame_1.tif on"


def test_a_series_is_cut_like_a_stack(folder):
    knobs = {**KNOBS, "selection": "::2, 1:, ::3", "grid": [2, 3]}
    scan = formats.read(folder / "frame_1.tif", knobs=knobs)
    np.testing.assert_array_equal(scan.counts[np.arange(6)], PATTERNS[::2, 1:, ::3])


def test_missing_numbers_of_a_series_are_told(folder):
    (folder / "frame_4.tif").unlink()
    (folder / "frame_9.tif").unlink()
    scan = formats.read(folder / "frame_1.tif", knobs={**KNOBS, "grid": [2, 5]})
    assert (
        "2 numbers between the first and the last file are missing, the first of them is 4"
        in (scan.metadata["remarks"])
    )


def test_a_pattern_of_names_joins_rows_and_columns(tmp_path):
    for number, pattern in enumerate(PATTERNS):
        tifffile.imwrite(tmp_path / f"row{number // 4 + 8}_{number % 4}.tif", pattern)
    one_row = formats.read(tmp_path / "row8_0.tif", knobs={**KNOBS, "grid": [1, 4]})
    assert len(one_row) == 4
    scan = formats.read(tmp_path / "row8_0.tif", knobs={**KNOBS, "series": "row*.tif"})
    np.testing.assert_array_equal(scan.counts[np.arange(12)], PATTERNS)
    with pytest.raises(BadInput, match=r"series: a\*\.tif matches no TIFF file beside this one"):
        formats.read(tmp_path / "row8_0.tif", knobs={**KNOBS, "series": "a*.tif"})


def test_files_of_other_shapes_are_named(folder):
    tifffile.imwrite(folder / "frame_5.tif", PATTERNS[0, 1:])
    fix = "frame_5.tif: 7 x 6 pixels of uint16 is not 8 x 6 pixels of uint16 of frame_1.tif: move it away"
    with pytest.raises(BadInput, match=fix):
        formats.read(folder / "frame_1.tif", knobs=KNOBS)
    tifffile.imwrite(folder / "frame_5.tif", PATTERNS)
    with pytest.raises(BadInput, match=r"frame_5\.tif: shape \(12, 8, 6\) is not one pattern"):
        formats.read(folder / "frame_1.tif", knobs=KNOBS)


def test_a_numbered_stack_is_read_by_itself(folder):
    tifffile.imwrite(folder / "frame_5.tif", PATTERNS[::-1])
    scan = formats.read(folder / "frame_5.tif", knobs=KNOBS)
    np.testing.assert_array_equal(scan.counts[np.arange(12)], PATTERNS[::-1])


def test_a_series_is_one_line_of_a_folder_and_stacks_are_lines_of_their_own(folder):
    for number in (1, 2):
        tifffile.imwrite(folder / f"stack_{number}.tif", PATTERNS)
    found = {one.path.name: one.note for one in survey_folder(folder)}
    assert set(found) == {"frame_1.tif", "stack_1.tif", "stack_2.tif"}
    assert "missing: energy, angle or pixel" in found["frame_1.tif"]
