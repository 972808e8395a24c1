"""Every file that a reader is for is in the list of its folder: it opens, or one note says what it lacks."""

import numpy as np
import pytest

from phaseloom.data.folder_survey import ASSUMED, FileFacts, survey_folder
from phaseloom.data.formats import ASKED, guess
from tests.data import hdf5_files, vendor_files

GRID = (3, 5)
PATTERNS = np.random.default_rng(7).integers(1, 60, (15, 4, 4)).astype(np.uint16)
KNOWN_MISSING = {*ASSUMED, "grid", "angle or pixel"}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileFacts]:
    """The list of a folder with a file of every format and kind, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("all")
    for name, write in vendor_files.WRITERS.items():
        (folder / name).mkdir()
        write(folder / name, PATTERNS, GRID)
    for number, case in enumerate(hdf5_files.CASES):
        place = folder / f"{number}-{case.kind}"
        place.mkdir()
        case.write(place / case.file, PATTERNS, GRID)
    return {one.path.parent.relative_to(folder).parts[0]: one for one in survey_folder(folder)}


def test_every_file_is_listed_once_with_its_format(listed: dict[str, FileFacts]) -> None:
    assert len(listed) == len(vendor_files.WRITERS) + len(hdf5_files.CASES)
    assert {one.format for one in listed.values()} >= {*ASKED} - {"rosettasciio", "cxi"}
    for one in listed.values():
        assert one.format == guess(one.path)


def test_a_file_opens_or_its_note_says_which_values_are_missing(listed: dict[str, FileFacts]) -> None:
    opened = 0
    for name, one in listed.items():
        opened += one.is_open
        if one.is_open:
            assert one.shape[-2:] in ((4, 4), (128, 128)), name
            continue
        assert one.note.startswith("missing: "), (name, one.note)
        words = one.note.removeprefix("missing: ").partition(";")[0].split(", ")
        assert {*words} <= KNOWN_MISSING, (name, one.note)
    assert opened > 8


@pytest.mark.parametrize("number", range(len(hdf5_files.CASES)))
def test_what_is_listed_as_missing_is_what_the_kind_lacks(listed: dict[str, FileFacts], number: int) -> None:
    case = hdf5_files.CASES[number]
    one = listed[f"{number}-{case.kind}"]
    wanted = {"angle or pixel" if name == "angle" else name for name in case.missing}
    words = one.note.removeprefix("missing: ").partition(";")[0].split(", ") if not one.is_open else []
    assert {*words} == wanted
