"""Sets of samples: what is written is read again, windows are read alone, strange files are named."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.physics.optics import interaction
from phaseloom.simulation import samples
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.samples import SampleSet, read, write
from phaseloom.simulation.scan import Sample

ABERRATIONS = {"defocus": 90.0, "C12": 3.0, "phi12": 0.7}


def sample(
    scan: tuple[int, int] = (4, 5), dose: float | None = None, seed: int = 0, jitter: float = 0.0
) -> Sample:
    """Patterns of noise: only their keeping is looked at here."""
    rng = np.random.default_rng(seed)
    experiment = Experiment(
        scan=scan, window=16, detector=6, dose=dose, jitter=jitter, aberrations=ABERRATIONS
    )
    patterns = rng.exponential(1 / 36, (*scan, 6, 6)).astype(np.float32)
    if dose is not None:
        patterns = (rng.poisson(patterns * dose).astype(np.float32) / np.float32(dose)).astype(np.float32)
    return Sample(
        patterns=patterns,
        phase=rng.normal(size=experiment.image).astype(np.float32),
        positions=experiment.positions(torch.Generator().manual_seed(seed)).numpy(),
        experiment=experiment,
        specimen="SrTiO3 [001]",
        group="perovskite:O-Sr-Ti",
        thickness=7.5,
    )


def opened(path: Path) -> Any:
    return h5py.File(path, "r")


def same(one: Sample, other: Sample, rtol: float = 0.0) -> None:
    np.testing.assert_allclose(one.patterns, other.patterns, rtol=rtol, atol=1e-12)
    np.testing.assert_array_equal(one.phase, other.phase)
    np.testing.assert_array_equal(one.positions, other.positions)
    for name in ("experiment", "specimen", "group", "thickness"):
        assert getattr(one, name) == getattr(other, name)


def test_a_sample_comes_back_amplitudes_to_half_precision(tmp_path):
    write(sample(jitter=0.2), tmp_path / "000003.h5", number=3, seed=9)
    same(read(tmp_path / "000003.h5"), sample(jitter=0.2), rtol=2e-3)
    with opened(tmp_path / "000003.h5") as file:
        assert file["patterns"].dtype == np.float16
        assert (file.attrs["number"], file.attrs["seed"], file.attrs["version"]) == (3, 9, 1)
        assert set(json.loads(file.attrs["experiment"])) == set(Experiment.__dataclass_fields__)


@pytest.mark.parametrize("dose", [1e4, 1e5, 2e6])
def test_a_scan_of_a_dose_has_whole_counts(dose):
    """Fractions of the dose in single precision gave 26.999998 counts, which cannot be halved."""
    counts = sample(dose=dose).scan().counts
    assert counts.max() > 100
    np.testing.assert_array_equal(counts, np.rint(counts))


@pytest.mark.parametrize(("dose", "kind"), [(1e4, np.uint16), (2e6, np.uint32)])
def test_counts_come_back_exactly(tmp_path, dose, kind):
    write(sample(dose=dose), tmp_path / "a.h5", number=0, seed=0)
    same(read(tmp_path / "a.h5"), sample(dose=dose))
    with opened(tmp_path / "a.h5") as file:
        assert file["patterns"].dtype == kind


def test_a_set_has_its_samples_in_the_order_of_their_numbers(tmp_path):
    for number in (12, 3, 1234567):
        write(sample(seed=number), tmp_path / samples.sample_file_name(number), number=number, seed=0)
    (tmp_path / "run.yaml").write_text("count: 3")
    (tmp_path / ".000004.77.tmp.h5").write_text("half written")
    found = SampleSet(tmp_path)
    assert (len(found), found.numbers) == (3, (3, 12, 1234567))
    assert found.group(0) == "perovskite:O-Sr-Ti"
    assert found.experiment(1) == sample().experiment
    np.testing.assert_array_equal(found.phase(2), sample(seed=1234567).phase)
    assert [one.thickness for one in found] == [7.5] * 3


def test_a_window_of_a_scan_is_that_window(tmp_path):
    write(sample(scan=(14, 23)), tmp_path / "000000.h5", number=0, seed=0)
    found, rows, cols = SampleSet(tmp_path), slice(2, 12), slice(9, 23)
    window = found.patterns(0, rows, cols)
    assert window.dtype == np.float32
    np.testing.assert_array_equal(window, found.patterns(0)[rows, cols])


class Counted(io.FileIO):
    """A file that knows how many bytes were read from it."""

    read_bytes = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        Counted.read_bytes += count or 0
        return count


def bytes_of(path: Path, rows: slice, cols: slice, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that a window of the scan costs to read."""
    original = h5py.File
    with monkeypatch.context() as patch, Counted(path) as counted:
        patch.setattr(samples.h5py, "File", lambda *_: original(counted, "r"))
        Counted.read_bytes = 0
        SampleSet(path.parent).patterns(0, rows, cols)
    return Counted.read_bytes


def test_a_window_reads_only_the_chunks_that_it_touches(tmp_path, monkeypatch):
    path = tmp_path / "000000.h5"
    write(sample(scan=(50, 50)), path, number=0, seed=0)
    with h5py.File(path) as file:
        stored = file["patterns"].id
        chunks = [stored.get_chunk_info(n) for n in range(stored.get_num_chunks())]
        assert len(chunks) == 25
        touched = sum(c.size for c in chunks if c.chunk_offset[0] < 20 and 10 <= c.chunk_offset[1] < 30)
    cost = bytes_of(path, slice(3, 17), slice(13, 27), monkeypatch)
    assert touched <= cost < touched + 16_000
    assert bytes_of(path, slice(None), slice(None), monkeypatch) > 5 * touched


def assembled(folder: Path, numbers: list[int]) -> list[Path]:
    parts = folder / samples.WAITING_FOLDER
    for number in numbers:
        samples.write(
            sample(seed=number, jitter=0.1),
            parts / samples.sample_file_name(number),
            number=number,
            seed=5,
            layout="seed",
        )
    return samples.assemble_files(folder, parts)


def test_the_seeds_layout_comes_back_without_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLES_PER_FILE", 3)
    files = assembled(tmp_path, [0, 1, 2, 4])
    assert [path.name for path in files] == ["simulation_data1.h5", "simulation_data2.h5"]
    found = SampleSet(tmp_path)
    assert found.numbers == (0, 1, 2, 4)
    same(found.sample(3), sample(seed=4, jitter=0.1))
    np.testing.assert_array_equal(found.patterns(1, slice(1, 3), slice(2)), sample(seed=1).patterns[1:3, :2])
    assert not list((tmp_path / samples.WAITING_FOLDER).glob("*.h5"))
    with opened(files[0]) as file:
        patterns, phase = file["dp_set_1"], file["phase_1"]
        assert (patterns.dtype, patterns.chunks) == (np.float32, (1, 1, 6, 6))
        assert (phase.attrs["unit"], phase.attrs["energy"]) == ("rad", 80e3)
        assert phase.attrs["sigma"] == pytest.approx(1.0087e-3, rel=1e-4)


def test_what_comes_later_is_added_to_a_file_that_is_not_full(tmp_path):
    assembled(tmp_path, [0, 2])
    assembled(tmp_path, [1, 2])
    assert SampleSet(tmp_path).numbers == (0, 1, 2)
    same(SampleSet(tmp_path).sample(1), sample(seed=1, jitter=0.1))


def test_two_that_put_together_at_the_same_time_lose_nothing(tmp_path):
    parts = tmp_path / samples.WAITING_FOLDER
    for number in range(6):
        part = parts / samples.sample_file_name(number)
        samples.write(sample(seed=number), part, number=number, seed=5, layout="seed")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: samples.assemble_files(tmp_path, parts), range(4)))
    assert SampleSet(tmp_path).numbers == tuple(range(6))
    same(SampleSet(tmp_path).sample(5), sample(seed=5))


def test_samples_that_wait_to_be_put_together_are_seen_too(tmp_path):
    assembled(tmp_path, [0])
    part = tmp_path / samples.WAITING_FOLDER / samples.sample_file_name(1)
    samples.write(sample(seed=1), part, number=1, seed=5, layout="seed")
    found = SampleSet(tmp_path)
    assert found.numbers == (0, 1)
    same(found.sample(1), sample(seed=1))


def original(path: Path) -> np.ndarray:
    """A file as the first generator wrote it: projected potential, one slice, and no word about itself."""
    potential = np.random.default_rng(0).uniform(0, 400, (1, 26, 31)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("dp_set_0", data=sample().patterns, compression="gzip")
        file.create_dataset("phase_0", data=potential, compression="gzip")
    return potential


def test_potentials_of_the_first_generator_become_phases_of_an_energy_that_is_told(tmp_path):
    potential = original(tmp_path / "simulation_data1.h5")
    phase = SampleSet(tmp_path, energy=200e3).phase(0)
    np.testing.assert_allclose(phase, interaction(200e3) * potential[0], rtol=1e-6)
    found = SampleSet(tmp_path)
    with pytest.raises(BadInput, match="projected potential in V A: say the energy"):
        found.phase(0)
    with pytest.raises(BadInput, match="says nothing of the experiment of sample 0"):
        found.experiment(0)
    assert found.group(0) == "unknown"


def test_files_of_the_first_generator_are_samples_of_an_experiment_that_is_told(tmp_path):
    potential = original(tmp_path / "simulation_data1.h5")
    experiment = replace(sample().experiment, energy=60e3)
    whole = SampleSet(tmp_path, experiment=experiment).sample(0)
    np.testing.assert_allclose(whole.phase, interaction(60e3) * potential[0], rtol=1e-6)
    np.testing.assert_array_equal(whole.patterns, sample().patterns)
    assert whole.experiment == experiment
    assert whole.positions.shape == (20, 2)


def test_what_is_no_set_of_samples_ends_in_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        SampleSet(tmp_path / "nowhere")
    (tmp_path / "scan.h5").write_text("another file")
    with pytest.raises(BadInput, match="holds no sample"):
        SampleSet(tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        read(tmp_path / "000000.h5")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "000007.h5").write_bytes(b"no HDF5 at all")
    with pytest.raises(BadInput, match=r"000007.h5: cannot be read as HDF5"):
        SampleSet(tmp_path).phase(0)
    (tmp_path / "simulation_data1.h5").write_bytes(b"neither")
    with pytest.raises(BadInput, match=r"simulation_data1.h5: cannot be read as HDF5"):
        SampleSet(tmp_path)
    with pytest.raises(BadInput, match=r"simulation_data1.h5: cannot be read as HDF5"):
        samples.list_numbers(tmp_path / "simulation_data1.h5")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.pop("phase"), "has no phase"),
        (lambda file: file.attrs.update(version=2), "is of version 2"),
        (lambda file: file.attrs.update(experiment='{"scan": [2, 2], "gain": 1}'), "an experiment with gain"),
        (lambda file: file.attrs.pop("experiment"), "says nothing of the experiment"),
    ],
)
def test_files_that_are_no_samples_of_ours_say_why(tmp_path, change, said):
    write(sample(), tmp_path / "000000.h5", number=0, seed=0)
    with h5py.File(tmp_path / "000000.h5", "a") as file:
        change(file)
    with pytest.raises(BadInput, match=said):
        SampleSet(tmp_path).sample(0)
