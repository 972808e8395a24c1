"""Sets of simulated samples: folders with one HDF5 file for each, or with the seed's five files.

A file ``000123.h5`` holds ``patterns`` (rows, columns, y, x), either square roots of fractions of the beam
in half precision, or counts where the experiment has a dose; ``phase`` (y, x) in radian; ``positions``
(n, 2) in angstrom; and as attributes what the specimen and the experiment were.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.physics.optics import interaction
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import Sample

__all__ = ["PARTS", "SampleSet", "described", "name_of", "named", "read", "write"]

FORMAT, VERSION = "phaseloom sample", 1

TOGETHER = 10
"""Probes along each axis of the scan in one chunk: what a window of the scan does not need stays unread."""

PARTS = "parts"
"""Folder where samples of the seed's layout wait, each in a file of its own, until 700 can join."""

UNTOLD = "unknown"
"""Specimen and group of samples that come without a word about them."""

_OURS, _SEEDS = re.compile(r"(\d{6,})\.h5"), re.compile(r"simulation_data\d+\.h5")


def name_of(number: int, /) -> str:
    """The name of a sample's file.

    Example:
        >>> name_of(123)
        '000123.h5'
    """
    return f"{number:06d}.h5"


def named(folder: Path, /) -> dict[int, Path]:
    """The files of samples in a folder, by number, in order."""
    found = ((_OURS.fullmatch(path.name), path) for path in Path(folder).glob("*.h5"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def write(sample: Sample, path: Path, /, *, number: int, seed: int) -> None:
    """Write a sample as one file, whole or not at all.

    Half precision keeps an amplitude to 5e-4 of itself; counts are exact.

    Args:
        sample: as `phaseloom.simulation.experiment.simulated` gives it.
        path: of the file.
        number: of the sample in its set.
        seed: of the set.
    """
    rows, columns = sample.patterns.shape[:2]
    chunks = (min(TOGETHER, rows), min(TOGETHER, columns), *sample.patterns.shape[2:])
    with whole(path) as short, h5py.File(short, "w") as file:
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        file.create_dataset("patterns", data=_stored(sample), chunks=chunks, **packed)
        phase = file.create_dataset("phase", data=sample.phase.astype(np.float32))
        phase.attrs["unit"] = "rad"
        file.create_dataset("positions", data=sample.positions.astype(np.float64)).attrs["unit"] = "A"
        file.attrs.update(described(sample, number=number, seed=seed))


def read(path: Path, /) -> Sample:
    """The sample of a file that `write` left.

    Raises:
        BadInput: no such file, or one that is no sample.
    """
    return _sample(_Place.of(Path(path)))


def described(sample: Sample, /, *, number: int, seed: int) -> dict[str, Any]:
    """What a file says of a sample besides its numbers, as attributes."""
    experiment = replace(sample.experiment, aberrations=dict(sample.experiment.aberrations))
    told = {"specimen": sample.specimen, "group": sample.group, "thickness": float(sample.thickness)}
    return {
        "format": FORMAT,
        "version": VERSION,
        **told,
        "seed": seed,
        "number": number,
        "experiment": json.dumps(asdict(experiment), default=float),
    }


class SampleSet:
    """The samples of a folder, read bit by bit: indices count what is there, ``numbers`` says what it is.

    A folder of ours holds ``000000.h5`` and so on. A folder of the seed's layout holds
    ``simulation_data1.h5`` to ``simulation_data5.h5`` with ``dp_set_{i}`` (50, 50, 256, 256) fractions of
    the beam and ``phase_{i}`` (256, 256) or (slice, 256, 256). Those that we write say all that ours say.
    Those that the original generator wrote hold projected potential in V angstrom instead of radian, and
    nothing about the microscope: it has to be told. Every call opens its file and closes it again, so a set
    may be handed to other processes.

    Args:
        folder: that holds the files.
        energy: of the electrons, eV, for phases of files that do not say it.
        experiment: of files that do not say it; its energy counts if no other is given.

    Raises:
        BadInput: no such folder, or no samples in it.
    """

    def __init__(
        self, folder: Path | str, /, *, energy: float | None = None, experiment: Experiment | None = None
    ):
        self.folder, self._experiment = Path(folder), experiment
        self._energy = experiment.energy if energy is None and experiment is not None else energy
        self._places = _places(self.folder)
        self.numbers = tuple(place.number for place in self._places)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._places)

    def __getitem__(self, index: int, /) -> Sample:
        """The same as `sample`."""
        return self.sample(index)

    def experiment(self, index: int, /) -> Experiment:
        """The experiment that made a sample."""
        with _opened(self._places[index]) as (file, place):
            return _experiment(file, place, self._experiment)

    def group(self, index: int, /) -> str:
        """Family and elements of a specimen, by which sets are split; ``unknown`` if nothing is said."""
        with _opened(self._places[index]) as (file, place):
            return str(file[place.told].attrs.get("group", UNTOLD))

    def phase(self, index: int, /) -> np.ndarray:
        """Phase ``(y, x)``, radian, single precision.

        Raises:
            BadInput: a projected potential, and nobody says of which electrons.
        """
        with _opened(self._places[index]) as (file, place):
            return _phase(file, place, self._energy)

    def patterns(self, index: int, /, rows: slice = slice(None), cols: slice = slice(None)) -> np.ndarray:
        """Patterns ``(rows, columns, y, x)`` of a part of the scan, fractions of the beam.

        Args:
            index: of the sample.
            rows: of the scan.
            cols: columns of the scan; only the chunks that hold these probes are read.
        """
        with _opened(self._places[index]) as (file, place):
            return _fractions(file, place, rows, cols)

    def sample(self, index: int, /) -> Sample:
        """All of a sample."""
        return _sample(self._places[index], self._experiment, self._energy)


@dataclass(frozen=True)
class _Place:
    """Where a sample lies: a file, and what its parts are called there."""

    number: int
    path: Path
    patterns: str = "patterns"
    phase: str = "phase"
    positions: str = "positions"
    told: str = "/"

    @classmethod
    def of(cls, path: Path) -> "_Place":
        match = _OURS.fullmatch(path.name)
        return cls(int(match[1]) if match else 0, path)


def _places(folder: Path) -> list[_Place]:
    """All samples of a folder in the order of their numbers."""
    if not folder.is_dir():
        raise BadInput("samples", str(folder), "is no folder: name the one that samples were written to")
    waiting = [_seeds(number, path) for number, path in named(folder / PARTS).items()]
    ours = [_Place(number, path) for number, path in named(folder).items()]
    files = sorted(path for path in folder.iterdir() if _SEEDS.fullmatch(path.name))
    places = [*waiting, *ours, *(place for path in files for place in _inside(path))]
    if not places:
        fix = "holds no sample (000000.h5, or simulation_data1.h5): simulate some, or name another folder"
        raise BadInput("samples", str(folder), fix)
    each = {place.number: place for place in places}
    return [each[number] for number in sorted(each)]


def _inside(path: Path) -> list[_Place]:
    """The samples of a file of the seed's layout."""
    with _file(path) as file:
        numbers = [int(name[7:]) for name in file if re.fullmatch(r"dp_set_\d+", name)]
    return [_seeds(number, path) for number in numbers]


def _seeds(number: int, path: Path) -> _Place:
    phase = f"phase_{number}"
    return _Place(number, path, f"dp_set_{number}", phase, f"positions_{number}", told=phase)


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise BadInput("samples", str(path), "does not exist: was it moved?")
    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        fix = "cannot be read as HDF5: remove it and simulate its numbers again"
        raise BadInput(f"samples: {path.name}", None, fix) from problem
    with file:
        yield file


@contextmanager
def _opened(place: _Place) -> Iterator[tuple[Any, _Place]]:
    """The open file of a sample that has all its parts."""
    with _file(place.path) as file:
        missing = [name for name in (place.patterns, place.phase) if name not in file]
        if missing:
            raise BadInput(
                f"samples: {place.path.name}", None, f"has no {missing[0]}: it is no sample of ours"
            )
        version = int(file[place.told].attrs.get("version", VERSION))
        if version > VERSION:
            fix = f"is of version {version}, this program reads up to {VERSION}: update it"
            raise BadInput(f"samples: {place.path.name}", None, fix)
        yield file, place


def _sample(place: _Place, given: Experiment | None = None, energy: float | None = None) -> Sample:
    with _opened(place) as (file, _):
        attributes = file[place.told].attrs
        experiment = _experiment(file, place, given)
        if place.positions in file:
            positions = file[place.positions][()]
        else:
            positions = replace(experiment, jitter=0.0).positions(torch.Generator()).numpy()
        return Sample(
            patterns=_fractions(file, place, slice(None), slice(None)),
            phase=_phase(file, place, energy),
            positions=positions,
            experiment=experiment,
            specimen=str(attributes.get("specimen", UNTOLD)),
            group=str(attributes.get("group", UNTOLD)),
            thickness=float(attributes.get("thickness", np.nan)),
        )


def _experiment(file: Any, place: _Place, given: Experiment | None) -> Experiment:
    text = file[place.told].attrs.get("experiment")
    if text is None:
        if given is not None:
            return given
        fix = (
            f"says nothing of the experiment of sample {place.number}: give it, SampleSet(.., experiment=..)"
        )
        raise BadInput(f"samples: {place.path.name}", None, fix)
    tree = json.loads(text)
    known = {field.name for field in fields(Experiment)}
    if set(tree) - known:
        fix = f"has an experiment with {min(set(tree) - known)}, which this program does not know: update it"
        raise BadInput(f"samples: {place.path.name}", None, fix)
    return Experiment(**{**tree, "scan": tuple(tree["scan"])})


def _phase(file: Any, place: _Place, energy: float | None) -> np.ndarray:
    node = file[place.phase]
    unit = node.attrs.get("unit", "V A")
    phase = node[()].astype(np.float32)
    phase = phase.sum(0) if phase.ndim == 3 else phase
    if unit == "rad":
        return phase
    energy = float(node.attrs["energy"]) if "energy" in node.attrs else energy
    if energy is None:
        fix = "is a projected potential in V A: say the energy of the electrons, SampleSet(.., energy=80e3)"
        raise BadInput(f"samples: {place.path.name}: {place.phase}", None, fix)
    return phase * np.float32(interaction(energy))


def _fractions(file: Any, place: _Place, rows: slice, cols: slice) -> np.ndarray:
    """What is stored as fractions of the beam: amplitudes are squared, counts divided by the dose."""
    node = file[place.patterns]
    values = node[rows, cols]
    if node.dtype == np.float16:
        return np.square(values.astype(np.float32))
    if node.dtype.kind == "u":
        dose = _experiment(file, place, None).dose
        return values.astype(np.float32) / np.float32(dose or 1.0)
    return values.astype(np.float32)


def _stored(sample: Sample) -> np.ndarray:
    """Patterns as a file keeps them: amplitudes in half precision, or counts."""
    dose = sample.experiment.dose
    if dose is None:
        return np.sqrt(sample.patterns.clip(0)).astype(np.float16)
    counts = np.rint(sample.patterns.astype(np.float64) * dose)
    return counts.astype(np.uint16 if counts.max(initial=0) < 2**16 else np.uint32)
