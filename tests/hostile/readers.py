"""Damaged files read in process: the scan, or a sentence."""

import os
import shutil
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from phaseloom.data import formats
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from tests.hostile.materials import Format, make_formats
from tests.hostile.oracle import Verdict, is_sentence


@cache
def known_formats() -> dict[str, Format]:
    return make_formats()


def make_case(name: str, number: int, whole: Path, folder: Path) -> Path:
    """A damaged copy of a format's file; ``whole`` keeps the good one."""
    one = known_formats()[name]
    if not whole.is_dir():
        whole.mkdir(parents=True)
        path = one.write(whole)
        (whole / ".name").write_text(path.name)
    original = (whole / ".name").read_text()
    shutil.copytree(whole, folder)
    (folder / ".name").unlink()
    path = folder / original
    one.damage(path, np.random.default_rng([number, zlib.crc32(name.encode())]))
    return path


def read_case(name: str, path: Path) -> tuple[Verdict, str]:
    """What reading a file comes to; an error that is not `BadInput` is raised."""
    one = known_formats()[name]
    here = Path.cwd()
    os.chdir(path.parent)  # knobs may name files beside it
    try:
        scan = formats.read(path.name if path.exists() else path, format=one.reader, knobs=one.knobs)
        assert isinstance(scan, Scan4D)
        for number in sorted({0, len(scan) // 2, len(scan) - 1}):
            if not np.isfinite(scan.counts[np.array([number])]).all():
                return Verdict.NOT_FINITE, f"pattern {number}"
        if not np.isfinite(scan.positions).all():
            return Verdict.NOT_FINITE, "positions"
    except BadInput as problem:
        return (Verdict.REFUSED if is_sentence(str(problem)) else Verdict.WORDS), str(problem)
    finally:
        os.chdir(here)
    return Verdict.ACCEPTED, ""
