"""Files that lead a reader in circles or make it wait, and numbers that nobody measures."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.direct.survey import survey_disk
from phaseloom.errors import BadInput
from tests.conftest import electrons
from tests.hostile.materials import KNOBS


@pytest.mark.parametrize("sources", [("a.h5",), ("b.h5", "a.h5"), (".",)])
def test_a_virtual_data_set_made_of_itself_is_refused(tmp_path: Path, sources: tuple[str, ...]) -> None:
    """HDF5 follows it until the stack ends, and the process with it."""
    names = ["a.h5", *sources[:-1]]
    for name, source in zip(names, sources, strict=True):
        with h5py.File(tmp_path / name, "w") as file:
            layout = h5py.VirtualLayout((9, 4, 4), "f4")
            layout[:] = h5py.VirtualSource(source, "d", shape=(9, 4, 4))
            file.create_virtual_dataset("d", layout)
    with pytest.raises(BadInput, match="is a virtual data set made of itself"):
        formats.read(tmp_path / "a.h5", knobs=KNOBS)


def test_a_virtual_data_set_of_virtual_ones_is_read(tmp_path: Path) -> None:
    counts = np.arange(9 * 16, dtype=np.float32).reshape(9, 4, 4)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["d"] = counts
    for name, source in (("b.h5", "c.h5"), ("a.h5", "b.h5")):
        with h5py.File(tmp_path / name, "w") as file:
            layout = h5py.VirtualLayout((9, 4, 4), "f4")
            layout[:] = h5py.VirtualSource(source, "d", shape=(9, 4, 4))
            file.create_virtual_dataset("d", layout)
    scan = formats.read(tmp_path / "a.h5", knobs={**KNOBS, "grid": (3, 3)})
    assert np.array_equal(scan.counts[np.arange(9)], counts)


@pytest.mark.parametrize("name", ["pipe", "pipe.h5", "linked.h5"])
def test_a_pipe_is_not_waited_for(server: Any, tmp_path: Path, name: str) -> None:
    for pipe in ("pipe", "pipe.h5"):
        os.mkfifo(tmp_path / pipe)
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["d"] = h5py.ExternalLink("pipe", "d")
    outcome = server.run(["look", name], tmp_path, seconds=20)
    assert (outcome.code, outcome.has_traceback, outcome.timed_out) == (2, False, False)


@pytest.mark.parametrize(
    ("counts", "step", "code"),
    [(1.0, "1e-300 A", 0), (2.0**60, "1 A", 0), (1e30, "1 A", 0)],
    ids=["tiny step", "many counts", "too many counts"],
)
def test_look_says_what_it_can_of_absurd_numbers(
    server: Any, tmp_path: Path, counts: float, step: str, code: int
) -> None:
    np.save(tmp_path / "a.npy", np.full((9, 4, 4), counts))
    side_car = f"energy: 80 keV\nangle: 1 mrad\nstep: {step}\ngrid: [3, 3]\n"
    (tmp_path / "a.npy.phaseloom.yaml").write_text(side_car)
    outcome = server.run(["look", "a.npy"], tmp_path)
    assert (outcome.code, outcome.has_traceback) == (code, False), outcome.err


def test_a_direct_image_of_impossible_counts_is_refused() -> None:
    scan = electrons()
    with pytest.raises(BadInput, match="cannot be computed with in single precision"):
        survey_disk(replace(scan, counts=np.asarray(scan.counts, np.float64) * 1e30))


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_a_sidecar_that_is_no_file_is_not_overlooked(tmp_path: Path, kind: str) -> None:
    """What it says of the scan would be missing without a word."""
    beside = tmp_path / "scan.npy.phaseloom.yaml"
    np.save(tmp_path / "scan.npy", np.ones((9, 4, 4), np.float32))
    make = {
        "folder": beside.mkdir,
        "dangling link": lambda: beside.symlink_to(tmp_path / "moved.yaml"),
        "pipe": lambda: os.mkfifo(beside),
    }
    make[kind]()
    with pytest.raises(BadInput, match=r"has the name of a side-car of scan.npy but is not a file"):
        formats.read(tmp_path / "scan.npy", knobs={**KNOBS, "grid": (3, 3)})
