"""Writing the seed's layout: files of 700 samples, ``dp_set_{i}`` and ``phase_{i}`` by number.

A file of 700 is never written to while it grows: samples wait in files of their own, in the same layout, and
are put together when all are there. What is compressed already is copied as it is.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.physics.optics import interaction
from phaseloom.simulation.samples import described, named
from phaseloom.simulation.scan import Sample

__all__ = ["IN_FILE", "assembled", "file_of", "fill", "held", "is_full", "waiting", "write"]

IN_FILE = 700
"""Samples in a file."""


def file_of(number: int, /) -> str:
    """The name of the file that a sample belongs to.

    Example:
        >>> file_of(699), file_of(700)
        ('simulation_data1.h5', 'simulation_data2.h5')
    """
    return f"simulation_data{number // IN_FILE + 1}.h5"


def write(sample: Sample, path: Path, /, *, number: int, seed: int) -> None:
    """Write a sample as a file of one, whole or not at all: single precision, a chunk for each pattern."""
    chunks = (1, 1, *sample.patterns.shape[2:])
    energy = sample.experiment.energy
    with whole(path) as short, h5py.File(short, "w") as file:
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        patterns = sample.patterns.astype(np.float32)
        file.create_dataset(f"dp_set_{number}", data=patterns, chunks=chunks, **packed)
        phase = file.create_dataset(f"phase_{number}", data=sample.phase.astype(np.float32))
        phase.attrs.update(described(sample, number=number, seed=seed))
        file.create_dataset(f"positions_{number}", data=sample.positions.astype(np.float64))
        phase.attrs.update({"unit": "rad", "sigma": interaction(energy), "energy": energy})


def held(path: Path, /) -> set[int]:
    """Numbers of the samples that a file holds; none if there is no such file.

    Raises:
        BadInput: a file that cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            names = [str(name) for name in file]
    except FileNotFoundError:
        return set()
    except OSError as problem:
        fix = "cannot be read as HDF5: move it away, and its samples are simulated again"
        raise BadInput(str(path), None, fix) from problem
    return {int(name[7:]) for name in names if name.startswith("dp_set_") and name[7:].isdigit()}


def waiting(path: Path, parts: Path, /) -> dict[int, Path]:
    """Samples that wait for a file, by number."""
    return {number: part for number, part in named(parts).items() if file_of(number) == path.name}


def is_full(path: Path, parts: Path, /) -> bool:
    """Whether all samples of a file are there, in it or waiting."""
    return len(held(path).union(waiting(path, parts))) >= IN_FILE


def assembled(folder: Path, parts: Path, /) -> list[Path]:
    """Put samples that wait in files of their own into the files they belong to, and remove the former.

    Args:
        folder: of ``simulation_data1.h5`` and so on.
        parts: folder of files ``000123.h5``, as `write` leaves them.

    Returns:
        The files that samples waited for.
    """
    files = [folder / name for name in sorted({file_of(number) for number in named(parts)})]
    for path in files:
        fill(path, parts)
    return files


def fill(path: Path, parts: Path, /) -> None:
    """Add the samples that wait for a file to it, which is written anew, and remove their own files.

    Others may do the same at the same time: one after the other, they add to what is there.
    """
    with _alone(parts):
        mine, there = waiting(path, parts), held(path)
        fresh = {number: part for number, part in mine.items() if number not in there}
        if fresh:
            with whole(path) as short, h5py.File(short, "w") as file:
                if there:
                    _copied(path, there, file)
                for number, part in fresh.items():
                    _copied(part, [number], file)
        for part in mine.values():
            part.unlink(missing_ok=True)


def _copied(path: Path, numbers: Iterable[int], file: h5py.File) -> None:
    with h5py.File(path, "r") as source:
        for number in sorted(numbers):
            for name in (f"{kind}_{number}" for kind in ("dp_set", "phase", "positions")):
                source.copy(name, file)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against others who do the same; the system lets go when a process dies."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: there, one process at a time
        yield
        return
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
