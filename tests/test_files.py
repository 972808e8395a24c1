"""Files that are never half written, and errors that name the file that was asked for."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from phaseloom.errors import WriteFailed
from phaseloom.files import whole, write_text


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


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    with whole(tmp_path / "sub" / "a.yaml") as short:
        short.write_text("1")
        host, own, _ = short.name[2:].partition(f"-{os.getpid()}-")
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
    for folder in (tmp_path, tmp_path / "sub"):
        for who in (f"{host}-{dead.pid}-0", f"{host}{own}1", f".other-{dead.pid}-0"):
            (folder / f".b{who}.tmp.h5").touch()
    write_text(tmp_path / "c.txt", "1")
    kept = {f".b.other-{dead.pid}-0.tmp.h5", f".b{host}{own}1.tmp.h5"}
    assert {path.name for path in tmp_path.glob(".b*")} == kept
    assert len(list((tmp_path / "sub").glob(".b*"))) == 3  # it was looked through before
