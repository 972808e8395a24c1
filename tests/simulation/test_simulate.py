"""Simulating sets: every sample follows from seed and number alone, and no work is lost or done by halves."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from phaseloom import cli
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.simulation import recipe as protocol
from phaseloom.simulation import samples
from phaseloom.simulation.recipe import Simulate, list_missing, simulate, simulate_sample
from phaseloom.simulation.samples import SampleSet

SMALL = {"scan": [4, 5], "window": 16, "detector": 6}
TREE = {"count": 5, "seed": 7, "microscope": {"fixed": SMALL}}


def recipe(**changed: object) -> Simulate:
    return Simulate.of({**TREE, **changed})


Contents = dict[str, dict[str, bytes]]


def contents(folder: Path) -> Contents:
    """The bits of all that are whole: what is still being written has a name with a dot in front."""
    return {path.name: _bits(path) for path in sorted(folder.glob("[!.]*.h5"))}


def _bits(path: Path) -> dict[str, bytes]:
    with h5py.File(path, "r") as file:
        arrays: dict[str, Any] = {str(name): file[str(name)] for name in file}
        told = {name: str(value).encode() for name, value in file.attrs.items()}
        return {name: array[()].tobytes() for name, array in arrays.items()} | told


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """The files of a run that went through, in one process."""
    folder = tmp_path_factory.mktemp("once")
    assert list(simulate(recipe(), folder, workers=1)) == [0, 1, 2, 3, 4]
    return contents(folder)


def test_a_sample_follows_from_seed_and_number_alone(once, tmp_path):
    later = recipe(count=1, first=3, title="another range")
    assert list(simulate(later, tmp_path, workers=1)) == [3]
    assert contents(tmp_path) == {"000003.h5": once["000003.h5"]}
    np.testing.assert_array_equal(simulate_sample(recipe(), 3).phase, simulate_sample(later, 3).phase)
    assert not np.array_equal(simulate_sample(recipe(), 3).phase, simulate_sample(recipe(seed=8), 3).phase)
    assert simulate_sample(recipe(), 2).specimen != simulate_sample(recipe(), 3).specimen


def test_the_number_of_threads_changes_nothing_and_is_left_as_it_was(once, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(simulate(recipe(count=2), tmp_path, workers=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path) == {name: once[name] for name in ("000000.h5", "000001.h5")}


def test_what_is_there_is_not_simulated_again(tmp_path, monkeypatch):
    run = simulate(recipe(), tmp_path, workers=1)
    assert [next(run), next(run)] == [0, 1]
    run.close()
    assert list_missing(recipe(), tmp_path) == [2, 3, 4]
    assert sorted(simulate(recipe(count=4), tmp_path, workers=1)) == [2, 3]
    monkeypatch.setattr(protocol, "simulate_sample", None)
    assert list(simulate(recipe(count=4), tmp_path, workers=1)) == []


@pytest.mark.medium
def test_two_processes_write_the_same_bits_as_one(once, tmp_path):
    assert sorted(simulate(recipe(), tmp_path, workers=2)) == [0, 1, 2, 3, 4]
    assert contents(tmp_path) == once


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with_to_the_same_files(once, tmp_path):
    folder, file = tmp_path / "set", tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(TREE))
    command = [sys.executable, "-m", "phaseloom.cli", "simulate", str(file), "--out", str(folder)]
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(folder.glob("[!.]*.h5"))) < 2 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    process.kill()
    process.wait()
    there = contents(folder)
    assert len(there) >= 2
    assert there == {name: once[name] for name in there}
    list(simulate(recipe(), folder, workers=1))
    assert contents(folder) == once


def test_what_killed_processes_left_is_cleared_away_when_it_is_old(tmp_path):
    old, young = tmp_path / ".000000.1.tmp.h5", tmp_path / ".000001.2.tmp.h5"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (1, 1))
    list(simulate(recipe(count=1), tmp_path, workers=1))
    assert (old.exists(), young.exists()) == (False, True)


def test_a_folder_that_was_begun_with_another_recipe_is_left_alone(tmp_path):
    list(simulate(recipe(count=1), tmp_path, workers=1))
    other = recipe(microscope={"fixed": {**SMALL, "energy": "200 keV"}})
    with pytest.raises(BadInput, match="begun with another microscope"):
        next(simulate(other, tmp_path))
    with pytest.raises(BadInput, match="begun with another layout"):
        next(simulate(recipe(layout="seed"), tmp_path))
    (tmp_path / "run.yaml").unlink()
    with pytest.raises(BadInput, match=r"no run.yaml"):
        next(simulate(recipe(), tmp_path))


def test_the_file_in_the_folder_is_the_recipe(tmp_path):
    wanted = recipe(count=1, microscope={"varied": {"scan": [2, 2], "defocus": ["-3 nm", "12.34567 nm"]}})
    list(simulate(wanted, tmp_path, workers=1))
    assert Simulate.from_path(tmp_path / "run.yaml").to_full_tree() == wanted.to_full_tree()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_specimen_that_fails_names_its_number(tmp_path, workers):
    wrong = recipe(first=41, count=1, specimen={"prototypes": {"families": ["wurzite"]}})
    with pytest.raises(BadInput, match=r"^sample 41: prototypes.*wurtzite"):
        list(simulate(wrong, tmp_path, workers=workers))
    assert not contents(tmp_path)


def test_a_relative_folder_of_crystals_stays_what_it_was(tmp_path, monkeypatch):
    (tmp_path / "crystals").mkdir()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**TREE, "specimen": {"cif": {"folder": "crystals"}}}))
    read = Simulate.from_path(tmp_path / "run.yaml")
    assert read.specimen.values["folder"] == (tmp_path / "crystals").resolve()
    monkeypatch.chdir(tmp_path)
    told = recipe(specimen={"cif": {"folder": "crystals"}})
    with pytest.raises(BadInput, match=r"sample 0: cif.folder.*holds no .cif file"):
        next(simulate(told, tmp_path / "out", workers=1))
    assert str(tmp_path) in (tmp_path / "out" / "run.yaml").read_text()


def test_the_seeds_layout_takes_the_seeds_microscope_unless_another_is_given():
    assert Simulate.of({"count": 1, "layout": "seed"}).microscope.name == "seed"
    assert recipe(layout="seed").microscope.name == "fixed"


def test_files_of_the_seeds_layout_are_put_together_as_they_become_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLES_PER_FILE", 2)
    cell = {"fixed": {"scan": [3, 4], "cell": 32, "window": 32, "bin": 1, "detector": None}}
    wanted = recipe(layout="seed", microscope=cell, count=3)
    run: Iterator[int] = simulate(wanted, tmp_path, workers=1)
    assert [next(run), next(run)] == [0, 1]
    assert list(contents(tmp_path)) == ["simulation_data1.h5"]
    assert list_missing(wanted, tmp_path) == [2]
    assert list(run) == [2]
    assert sorted(contents(tmp_path)) == ["simulation_data1.h5", "simulation_data2.h5"]
    assert list_missing(wanted, tmp_path) == []
    found = SampleSet(tmp_path)
    assert found.numbers == (0, 1, 2)
    expected = simulate_sample(wanted, 2)
    assert expected.patterns.shape == (3, 4, 32, 32)
    np.testing.assert_allclose(found.patterns(2), expected.patterns, rtol=1e-6)
    np.testing.assert_allclose(found.phase(2), expected.phase, rtol=1e-6)


def test_a_scheduler_needs_a_package_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(MissingExtra, match=r"distributed: pip install 'phaseloom\[cluster\]'"):
        list(simulate(recipe(), tmp_path / "set", scheduler="tcp://nowhere:8786"))
    assert not (tmp_path / "set").exists()


class Client:
    """What Dask's client has of an executor, with threads for workers."""

    asked: tuple[str, ...] = ()

    def __init__(self, address: str, timeout: float):
        if "nowhere" in address:
            raise OSError(f"timed out after {timeout}")
        Client.asked += (address,)

    def __enter__(self) -> "Client":
        self.pool = futures.ThreadPoolExecutor(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def get_executor(self, *, pure: bool) -> futures.Executor:
        assert not pure
        return self.pool


@pytest.fixture
def dask(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType("dask.distributed")
    there.Client = Client  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "dask", ModuleType("dask"))
    monkeypatch.setitem(sys.modules, "dask.distributed", there)


@pytest.mark.usefixtures("dask")
def test_the_workers_of_a_scheduler_write_the_same_files(once, tmp_path):
    assert sorted(simulate(recipe(), tmp_path, scheduler="tcp://there:8786")) == [0, 1, 2, 3, 4]
    assert Client.asked == ("tcp://there:8786",)
    assert contents(tmp_path) == once


@pytest.mark.slow
def test_real_workers_write_the_same_files_too(once, tmp_path):
    distributed = pytest.importorskip("distributed")
    few = {"n_workers": 1, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(**few) as cluster:
        done = simulate(recipe(), tmp_path, scheduler=cluster.scheduler_address)
        assert sorted(done) == [0, 1, 2, 3, 4]
        wrong = recipe(count=1, specimen={"prototypes": {"families": ["wurzite"]}})
        with pytest.raises(BadInput, match=r"^sample 0: prototypes"):
            next(simulate(wrong, tmp_path / "other", scheduler=cluster.scheduler_address))
    assert contents(tmp_path) == once


@pytest.mark.usefixtures("dask")
def test_a_scheduler_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(BadInput, match="tcp://nowhere:8786 does not answer"):
        list(simulate(recipe(), tmp_path, scheduler="tcp://nowhere:8786"))


@pytest.mark.usefixtures("dask")
def test_workers_that_write_elsewhere_are_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "_write_sample", lambda *_: "")
    with pytest.raises(BadInput, match="share"):
        list(simulate(recipe(), tmp_path, scheduler="tcp://there:8786"))


@pytest.mark.usefixtures("dask")
def test_a_process_that_is_killed_from_outside_ends_in_a_sentence(tmp_path, monkeypatch):
    def lost(*_: object) -> str:
        raise BrokenProcessPool

    monkeypatch.setattr(protocol, "_write_sample", lost)
    with pytest.raises(BadInput, match="with fewer workers"):
        list(simulate(recipe(), tmp_path, scheduler="tcp://there:8786"))


def test_numbers_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(BadInput, match="workers: 0 must be 1 at least"):
        next(simulate(recipe(), tmp_path, workers=0))
    with pytest.raises(BadInput, match="count: is missing"):
        Simulate.of({})
    with pytest.raises(BadInput, match="count: 0 must be at least 1"):
        Simulate.of({"count": 0})


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["phaseloom", "simulate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_line_simulates_tells_and_goes_on(tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "small.yaml", tmp_path / "set"
    file.write_text(yaml.safe_dump({"microscope": {"fixed": SMALL}}))
    words = [file, "--out", out, "--workers", 1, "--set", "specimen.prototypes.tilt=0"]
    assert command(monkeypatch, *words, "--start_id", 2, "--end_id", 3) == 0
    said = capsys.readouterr().out
    assert sorted(contents(out)) == ["000002.h5", "000003.h5"]
    assert "samples:  2 in" in said
    assert "patterns: 40" in said
    assert command(monkeypatch, *words, "--first", 1, "--count", 3) == 0
    assert "2 of 3 samples are there already" in capsys.readouterr().out
    assert sorted(contents(out)) == ["000001.h5", "000002.h5", "000003.h5"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "count: is missing"),
        (["--start_id", 3], "needs an --end_id"),
        (["--start_id", 3, "--end_id", 2], "needs an --end_id from there on"),
        (["--start_id", 0, "--end_id", 2, "--count", 2], "leave these out"),
        (["--count", 2, "--layout", "mine"], "is not a choice: write 'ours' or 'seed'"),
    ],
)
def test_command_lines_that_mean_nothing_end_in_a_sentence(tmp_path, monkeypatch, capsys, words, said):
    assert command(monkeypatch, "--out", tmp_path / "set", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    original = protocol.simulate_sample

    def interrupted(recipe: Simulate, number: int):
        if number == 2:
            raise KeyboardInterrupt
        return original(recipe, number)

    monkeypatch.setattr(protocol, "simulate_sample", interrupted)
    out = tmp_path / "set"
    setting = f"microscope={{fixed: {yaml.safe_dump(SMALL, default_flow_style=True).strip()}}}"
    assert command(monkeypatch, "--out", out, "--count", 4, "--workers", 1, "--set", setting) == 130
    assert (
        f"go on with: phaseloom simulate {out}/run.yaml --out {out} --first 0 --count 4"
        in capsys.readouterr().out
    )
    assert sorted(contents(out)) == ["000000.h5", "000001.h5"]
    monkeypatch.setattr(protocol, "simulate_sample", original)
    assert (
        command(monkeypatch, out / "run.yaml", "--out", out, "--first", 0, "--count", 4, "--workers", 1) == 0
    )
    assert SampleSet(out).numbers == (0, 1, 2, 3)
    assert samples.list_sample_files(out).keys() == {0, 1, 2, 3}


def test_a_folder_in_which_nothing_came_about_is_not_taken(tmp_path, monkeypatch, capsys):
    out = tmp_path / "set"
    for scan, code in (("[0, 5]", 2), ("[4, 5]", 0)):
        setting = f"microscope={{fixed: {{scan: {scan}, window: 16, detector: 6}}}}"
        words = ("--out", out, "--count", 1, "--workers", 1, "--set", setting)
        assert command(monkeypatch, *words) == code, capsys.readouterr().err
    assert SampleSet(out).experiment(0).scan == (4, 5)
