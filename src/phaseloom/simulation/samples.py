"""Sets of simulated samples: folders with one HDF5 file for each, or with files of 700.

A file ``000123.h5`` holds ``patterns`` (rows, columns, y, x), either square roots of fractions of the beam
in half precision, or counts where the experiment has a dose; ``phase`` (y, x) in radian; ``positions``
(n, 2) in angstrom; and as attributes what the specimen and the experiment were.

A file ``simulation_data1.h5`` of the seed's layout holds 700 samples, ``dp_set_{i}`` and ``phase_{i}`` by
number, in single precision. It is never written to while it grows: samples wait in files of their own, in
the same layout, and are put together when all are there. What is compressed already is copied as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from phaseloom.data.counts import HDF5Source
from phaseloom.data.formats.files import open_hdf5, require_linked, require_own_storage
from phaseloom.data.own_files.members import Member, describe_form, read_member, read_members
from phaseloom.data.own_files.tables import SAMPLE_ABOUT
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.free_memory import require_memory
from phaseloom.physics.optics import interaction
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import Sample

__all__ = [
    "WAITING_FOLDER",
    "SampleSet",
    "assemble_files",
    "fill_file",
    "is_full",
    "list_numbers",
    "list_sample_files",
    "read",
    "read_scan",
    "sample_file_name",
    "seed_file_name",
    "write",
]

FORMAT = "phaseloom sample"
FORMAT_VERSION = 1

SAMPLES_PER_FILE = 700
"""In a file of the seed's layout."""

PROBES_PER_CHUNK = 10
"""Probes along each axis of the scan in one chunk: what a window of the scan does not need stays unread."""

WAITING_FOLDER = "parts"
"""Folder where samples of the seed's layout wait, each in a file of its own, until 700 are complete."""

UNKNOWN = "unknown"
"""Specimen and group of samples whose files do not say them."""

SAMPLE_FILE = re.compile(r"(\d{6,})\.h5")
SEED_FILE = re.compile(r"simulation_data\d+\.h5")


def sample_file_name(number: int, /) -> str:
    """The name of a sample's file.

    Example:
        >>> sample_file_name(123)
        '000123.h5'
    """
    return f"{number:06d}.h5"


def list_sample_files(folder: Path, /) -> dict[int, Path]:
    """The files of samples in a folder, by number, in order."""
    found = ((SAMPLE_FILE.fullmatch(path.name), path) for path in Path(folder).glob("*.h5"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def seed_file_name(number: int, /) -> str:
    """The name of the file of the seed's layout that a sample belongs to.

    Example:
        >>> seed_file_name(699), seed_file_name(700)
        ('simulation_data1.h5', 'simulation_data2.h5')
    """
    return f"simulation_data{number // SAMPLES_PER_FILE + 1}.h5"


def write(
    sample: Sample, path: Path, /, *, number: int, seed: int, layout: Literal["ours", "seed"] = "ours"
) -> None:
    """Write a sample as one file, whole or not at all.

    Half precision keeps an amplitude to 5e-4 of itself; counts are exact.

    Args:
        sample: as `phaseloom.simulation.scan.simulate_scan` gives it.
        path: of the file.
        number: of the sample in its set.
        seed: of the set.
        layout: ``ours``, or ``seed``: single precision, a chunk for each pattern.
    """
    ours = layout == "ours"
    place = _Location(number, path) if ours else _Location.of_seed(number, path)
    patterns = _encode_patterns(sample) if ours else sample.patterns.astype(np.float32)
    probes = tuple(min(PROBES_PER_CHUNK, n) for n in patterns.shape[:2]) if ours else (1, 1)
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with whole_hdf5(path) as file:
        file.create_dataset(place.patterns, data=patterns, chunks=(*probes, *patterns.shape[2:]), **packed)
        phase = file.create_dataset(place.phase, data=sample.phase.astype(np.float32))
        positions = file.create_dataset(place.positions, data=sample.positions.astype(np.float64))
        file[place.attributes].attrs.update(_describe_sample(sample, number=number, seed=seed))
        phase.attrs["unit"] = "rad"
        if ours:
            positions.attrs["unit"] = "A"
        else:
            energy = sample.experiment.energy
            phase.attrs.update({"sigma": interaction(energy), "energy": energy})


def read(path: Path, /) -> Sample:
    """The sample of a file that `write` left.

    Raises:
        BadInput: no such file, or one that is not a sample.
    """
    return _read_sample(_Location.of(Path(path)))


def read_scan(path: Path | str, /, *, number: int | None = None) -> Scan4D:
    """A simulated scan as a measurement would give it: counts, nominal positions, energy and angles.

    Patterns without counting noise become counts of 1e6 electrons. The truth, phase and positions, is in the
    file, but not in the scan.

    Args:
        path: ``000123.h5``, or a file of the seed's layout.
        number: of the sample in a file of the seed's layout; default: the only one.

    Raises:
        BadInput: no such file or sample, or one that does not say its experiment.
    """
    path = Path(path)
    numbers = sorted(list_numbers(path))
    if not numbers:
        if number not in (None, _Location.of(path).number):
            raise BadInput(f"{path.name}: number", number, "is not the sample of this file: leave it out")
        return _read_named_scan(_Location.of(path))
    if number is None and len(numbers) > 1:
        knob = f"--set read='{{simulated: {{number: {numbers[0]}}}}}'"
        raise BadInput(path.name, None, f"holds {len(numbers)} samples: choose one with {knob}")
    chosen = numbers[0] if number is None else number
    if chosen not in numbers:
        raise BadInput(
            f"{path.name}: number", chosen, f"is not there: choose one of {_show_numbers(numbers)}"
        )
    return _read_named_scan(_Location.of_seed(chosen, path))


def _show_numbers(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 8 else ", ".join(map(str, numbers))


def _read_named_scan(place: _Location) -> Scan4D:
    sample = _read_sample(place)
    known = {"title": f"simulated scan {place.number}", "sample": sample.specimen}
    if not np.isnan(sample.thickness):
        known["thickness"] = f"{sample.thickness:.6g} A"
    return replace(sample.scan(), metadata=known)


def _describe_sample(sample: Sample, *, number: int, seed: int) -> dict[str, Any]:
    """What a file says of a sample besides its arrays, as attributes."""
    experiment = replace(sample.experiment, aberrations=dict(sample.experiment.aberrations))
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "specimen": sample.specimen,
        "group": sample.group,
        "thickness": float(sample.thickness),
        "seed": seed,
        "number": number,
        "experiment": json.dumps(asdict(experiment), default=float),
    }


def list_numbers(path: Path, /) -> set[int]:
    """Numbers of the samples in a file of the seed's layout; none if the file does not exist.

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


def _list_waiting(path: Path, parts: Path, /) -> dict[int, Path]:
    """Samples that wait for a file, by number."""
    return {
        number: part
        for number, part in list_sample_files(parts).items()
        if seed_file_name(number) == path.name
    }


def is_full(path: Path, parts: Path, /) -> bool:
    """Whether all samples of a file are there, in it or waiting."""
    return len(list_numbers(path).union(_list_waiting(path, parts))) >= SAMPLES_PER_FILE


def assemble_files(folder: Path, parts: Path, /) -> list[Path]:
    """Put samples that wait in files of their own into the files they belong to, and remove the former.

    Args:
        folder: of ``simulation_data1.h5`` and so on.
        parts: folder of files ``000123.h5``, as `write` leaves them.

    Returns:
        The files that samples waited for.
    """
    files = [
        folder / name for name in sorted({seed_file_name(number) for number in list_sample_files(parts)})
    ]
    for path in files:
        fill_file(path, parts)
    return files


def fill_file(path: Path, parts: Path, /) -> None:
    """Add the samples that wait for a file to it, which is written anew, and remove their own files.

    Others may do the same at the same time: one after the other, they add to what is there.
    """
    with _lock_folder(parts):
        mine = _list_waiting(path, parts)
        there = list_numbers(path)
        fresh = {number: part for number, part in mine.items() if number not in there}
        if fresh:
            with whole_hdf5(path, stream=True) as file:
                if there:
                    _copy_samples(path, there, file)
                for number, part in fresh.items():
                    _copy_samples(part, [number], file)
        for part in mine.values():
            part.unlink(missing_ok=True)


def _copy_samples(path: Path, numbers: Iterable[int], file: h5py.File) -> None:
    with h5py.File(path, "r") as source:
        for number in sorted(numbers):
            for name in (f"{kind}_{number}" for kind in ("dp_set", "phase", "positions")):
                source.copy(name, file)


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder against others who do the same; the system lets go when a process dies."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: there, one process at a time
        yield
        return
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class SampleSet:
    """The samples of a folder, read bit by bit: indices count what is there, ``numbers`` says what it is.

    A folder of ours holds ``000000.h5`` and so on. A folder of the seed's layout holds
    ``simulation_data1.h5`` to ``simulation_data5.h5`` with ``dp_set_{i}`` (50, 50, 256, 256) fractions of
    the beam and ``phase_{i}`` (256, 256) or (slice, 256, 256). Those that we write say all that ours say.
    Those that the original generator wrote hold projected potential in V angstrom instead of radian, and
    nothing about the microscope: give it as ``experiment``. Every call opens its file and closes it
    again, so a set may be handed to other processes.

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
        self.folder = Path(folder)
        self._experiment = experiment
        self._energy = experiment.energy if energy is None and experiment is not None else energy
        self._places = _locate_samples(self.folder)
        self.numbers = tuple(place.number for place in self._places)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._places)

    def __getitem__(self, index: int, /) -> Sample:
        """The same as `sample`."""
        return self.sample(index)

    def experiment(self, index: int, /) -> Experiment:
        """The experiment that made a sample."""
        with _open_sample(self._places[index]) as (file, place):
            return _read_experiment(file, place, self._experiment)

    def group(self, index: int, /) -> str:
        """Family and elements of a specimen, by which sets are split; ``unknown`` if nothing is said."""
        with _open_sample(self._places[index]) as (file, place):
            return str(file[place.attributes].attrs.get("group", UNKNOWN))

    def phase(self, index: int, /) -> np.ndarray:
        """Phase ``(y, x)``, radian, single precision.

        Raises:
            BadInput: a projected potential, and nobody says of which electrons.
        """
        with _open_sample(self._places[index]) as (file, place):
            return _read_phase(file, place, self._energy)

    def patterns(self, index: int, /, rows: slice = slice(None), cols: slice = slice(None)) -> np.ndarray:
        """Patterns ``(rows, columns, y, x)`` of a part of the scan, fractions of the beam.

        Args:
            index: of the sample.
            rows: of the scan.
            cols: columns of the scan; only the chunks that hold these probes are read.
        """
        with _open_sample(self._places[index]) as (file, place):
            return _read_fractions(file, place, rows, cols)

    def sample(self, index: int, /) -> Sample:
        """All of a sample."""
        return _read_sample(self._places[index], self._experiment, self._energy)


@dataclass(frozen=True)
class _Location:
    """Where a sample lies: a file, and what its parts are called there."""

    number: int
    path: Path
    patterns: str = "patterns"
    phase: str = "phase"
    positions: str = "positions"
    attributes: str = "/"

    @classmethod
    def of(cls, path: Path) -> "_Location":
        match = SAMPLE_FILE.fullmatch(path.name)
        return cls(int(match[1]) if match else 0, path)

    @classmethod
    def of_seed(cls, number: int, path: Path) -> "_Location":
        """In a file of the seed's layout, whole or of one sample."""
        phase = f"phase_{number}"
        return cls(number, path, f"dp_set_{number}", phase, f"positions_{number}", attributes=phase)


def _locate_samples(folder: Path) -> list[_Location]:
    """All samples of a folder in the order of their numbers."""
    if not folder.is_dir():
        raise BadInput("samples", str(folder), "is not a folder: name the one that samples were written to")
    waiting = [
        _Location.of_seed(number, path) for number, path in list_sample_files(folder / WAITING_FOLDER).items()
    ]
    ours = [_Location(number, path) for number, path in list_sample_files(folder).items()]
    files = sorted(path for path in folder.iterdir() if SEED_FILE.fullmatch(path.name))
    places = [*waiting, *ours, *(place for path in files for place in _locate_in_seed_file(path))]
    if not places:
        fix = "holds no sample (000000.h5, or simulation_data1.h5): simulate some, or name another folder"
        raise BadInput("samples", str(folder), fix)
    each = {place.number: place for place in places}
    return [each[number] for number in sorted(each)]


def _locate_in_seed_file(path: Path) -> list[_Location]:
    """The samples of a file of the seed's layout."""
    with _open_file(path) as file:
        numbers = [int(name[7:]) for name in file if re.fullmatch(r"dp_set_\d+", name)]
    return [_Location.of_seed(number, path) for number in numbers]


@contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise BadInput("samples", str(path), "does not exist: was it moved?")
    if not h5py.is_hdf5(path):
        fix = "cannot be read as HDF5: remove it and simulate its numbers again"
        raise BadInput(f"samples: {path.name}", None, fix)
    try:
        with open_hdf5(path) as file:
            yield file
    except BadInput as problem:
        raise BadInput(f"samples: {problem.place}", problem.value, problem.fix) from problem


@contextmanager
def _open_sample(place: _Location) -> Iterator[tuple[Any, _Location]]:
    """The open file of a sample that has all its parts."""
    with _open_file(place.path) as file:
        name = place.path.name
        for member in (place.patterns, place.phase):
            require_linked(file, member, name)
            if not isinstance(file.get(member), h5py.Dataset):
                raise BadInput(name, None, f"has no {member}: it is not a sample of ours")
        _require_shapes(file, place)
        about = read_members(file[place.attributes], SAMPLE_ABOUT, name)
        version = about["version"] or FORMAT_VERSION
        if version > FORMAT_VERSION:
            fix = f"is of version {version}, this program reads up to {FORMAT_VERSION}: update it"
            raise BadInput(name, None, fix)
        yield file, place


def _require_shapes(file: h5py.File, place: _Location) -> None:
    """Refuse patterns and phases of other kinds or axes than samples have."""
    for member, axes, kinds in ((place.patterns, (4,), "fu"), (place.phase, (2, 3), "fiu")):
        data: Any = file[member]
        if data.shape is None or len(data.shape) not in axes or data.dtype.kind not in kinds or not data.size:
            shown = f"shape {data.shape} of {data.dtype}"
            fix = f"must be numbers of {' or '.join(map(str, axes))} axes: simulate the sample again"
            raise BadInput(f"{place.path.name}: {member}", shown, fix)
        require_own_storage(data, f"{place.path.name}: {member}")


def _read_sample(place: _Location, given: Experiment | None = None, energy: float | None = None) -> Sample:
    with _open_sample(place) as (file, _):
        about = read_members(file[place.attributes], SAMPLE_ABOUT, place.path.name)
        experiment = _read_experiment(file, place, given)
        stored = Member(place.positions, "real", "pattern 2", optional=True)
        positions = read_member(file, stored, place.path.name)
        if positions is None:
            positions = replace(experiment, jitter=0.0).positions(torch.Generator()).numpy()
        _require_experiment_fits(file[place.patterns].shape, experiment, place)
        return Sample(
            patterns=_read_fractions(file, place, slice(None), slice(None)),
            phase=_read_phase(file, place, energy),
            positions=positions,
            experiment=experiment,
            specimen=UNKNOWN if about["specimen"] is None else about["specimen"],
            group=UNKNOWN if about["group"] is None else about["group"],
            thickness=math.nan if about["thickness"] is None else about["thickness"],
        )


def _require_experiment_fits(shape: tuple[int, ...], experiment: Experiment, place: _Location) -> None:
    wanted = (*experiment.scan, *experiment.detector_shape)
    if shape != wanted:
        fix = f"does not fit the experiment of the file, {wanted}: simulate the sample again"
        raise BadInput(f"{place.path.name}: {place.patterns}", f"shape {shape}", fix)


def _read_experiment(file: Any, place: _Location, given: Experiment | None) -> Experiment:
    stored = Member("@experiment", "json", form=dict[str, Any], optional=True)
    tree = read_member(file[place.attributes], stored, place.path.name)
    if tree is None:
        if given is not None:
            return given
        fix = (
            f"says nothing of the experiment of sample {place.number}: give it, SampleSet(.., experiment=..)"
        )
        raise BadInput(f"samples: {place.path.name}", None, fix)
    known = {field.name for field in fields(Experiment)}
    if set(tree) - known:
        fix = f"has an experiment with {min(set(tree) - known)}, which this program does not know: update it"
        raise BadInput(f"samples: {place.path.name}", None, fix)
    try:
        return TypeAdapter(Experiment).validate_python(tree)
    except ValidationError as problem:
        raise describe_form(problem, f"samples: {place.path.name}: experiment") from None


_ABOUT_PHASE = (
    Member("@unit", "text", optional=True),
    Member("@energy", "real", positive=True, optional=True),
)


def _read_phase(file: Any, place: _Location, energy: float | None) -> np.ndarray:
    about = read_members(file[place.phase], _ABOUT_PHASE, place.path.name)
    phase = read_member(file, Member(place.phase, "real", None), place.path.name).astype(np.float32)
    phase = phase.sum(0) if phase.ndim == 3 else phase
    if about["unit"] == "rad":
        return phase
    energy = energy if about["energy"] is None else about["energy"]
    if energy is None:
        fix = "is a projected potential in V A: say the energy of the electrons, SampleSet(.., energy=80e3)"
        raise BadInput(f"samples: {place.path.name}: {place.phase}", None, fix)
    return phase * np.float32(interaction(energy))


def _read_fractions(file: Any, place: _Location, rows: slice, cols: slice) -> np.ndarray:
    """What is stored as fractions of the beam: amplitudes are squared, counts divided by the dose."""
    node = file[place.patterns]
    lengths = (len(range(n)[s]) for n, s in zip(node.shape, (rows, cols), strict=False))
    size = math.prod(lengths) * math.prod(node.shape[2:]) * 4
    require_memory(size, f"{place.path.name}: {place.patterns}")
    values = HDF5Source(place.path, place.patterns, node.shape, node.dtype)[rows, cols]
    if node.dtype == np.float16:
        return np.square(values.astype(np.float32))
    if node.dtype.kind == "u":
        dose = _read_experiment(file, place, None).dose
        return values.astype(np.float32) / np.float32(dose or 1.0)
    return values.astype(np.float32)


def _encode_patterns(sample: Sample) -> np.ndarray:
    """Patterns as a file keeps them: amplitudes in half precision, or counts."""
    dose = sample.experiment.dose
    if dose is None:
        return np.sqrt(sample.patterns.clip(0)).astype(np.float16)
    counts = np.rint(sample.patterns.astype(np.float64) * dose)
    return counts.astype(np.uint16 if counts.max(initial=0) < 2**16 else np.uint32)
