"""Files that are never half written, and errors that name the file that was asked for."""

import errno
from pathlib import Path

import h5py
import pytest

from phaseloom.errors import WriteFailed
from phaseloom.files import whole


def test_an_error_of_the_folder_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(WriteFailed) as caught, whole(path) as short:
        raise PermissionError(errno.EACCES, "Permission denied", str(short))
    assert (caught.value.filename, caught.value.errno) == (str(path), errno.EACCES)
    with pytest.raises(OSError, match="another") as other, whole(path):
        raise OSError(errno.EIO, "another", "b.yaml")
    assert other.value.filename == "b.yaml"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files")
def test_an_error_of_hdf5_names_the_file_and_not_the_temporary_one() -> None:
    with pytest.raises(OSError, match=r"a\.h5") as caught, whole("/proc/a.h5") as short:
        h5py.File(short, "w")
    assert caught.value.filename == "/proc/a.h5"
    assert "tmp" not in str(caught.value)
    assert caught.value.strerror
