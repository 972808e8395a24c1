"""`phaseloom doctor` examines healthy and broken installations, and mends caches."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from phaseloom import doctor
from phaseloom.doctor import Diagnosis, Problem, diagnose, mend


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The verb in a process of its own."""
    command = [sys.executable, "-m", "phaseloom.cli", "doctor", *words]
    known = {**os.environ, **environment}
    return subprocess.run(command, env=known, capture_output=True, text=True, check=False, timeout=300)


def examine(name: str, folder: Path) -> tuple[list[Problem], list[str]]:
    said: list[str] = []
    return list(doctor.EXAMINATIONS[name](folder, said)), said


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A path of imports where HDF5 has lost its library, and SciPy ends the process."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "h5py.py").write_text("raise ImportError('libhdf5.so: no such file')")
    (folder / "scipy.py").write_text("import os; os.abort()")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@pytest.mark.medium
def test_a_healthy_installation_is_ready(tmp_path):
    done = run(str(tmp_path / "runs"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "ready to run"
    subjects = {line.split()[0] for line in lines if line[:1].strip()}
    assert {"versions", "packages", "extras", "devices", "engine", "folder", "figures"} <= subjects
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_a_broken_installation_is_told_in_sentences(broken, tmp_path):
    done = run("--json", str(tmp_path), PYTHONPATH=broken, MPLBACKEND="no_such", WORLD_SIZE="three")
    assert done.returncode == 1
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert not told["can_run"]
    stopping = [one["sentence"] for one in told["problems"] if one["stops"]]
    for start in ("h5py: ", "scipy: ", "MPLBACKEND: ", "WORLD_SIZE: 'three'"):
        assert any(one.startswith(start) for one in stopping), start
    assert not any(one.startswith(("numpy", "torch", "pydantic")) for one in stopping)


def test_the_line_of_a_package_says_how_to_mend_it(broken, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", broken)
    failed = dict(doctor._try_imports(["json", "scipy", "h5py", "ast"]))
    assert failed == {
        "scipy": "it ended the process",
        "h5py": "ImportError: libhdf5.so: no such file",
    }


def test_it_needs_the_standard_library_alone():
    code = "import sys, phaseloom.doctor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "h5py", "typer", "pydantic", "yaml"} & set(done.stdout.split())


def test_missing_extras_are_named_with_what_brings_them(monkeypatch, tmp_path):
    lines = ["numpy>=1", "numba>=0.60; extra == 'fast'", "zarr<4,>=3; extra == 'formats'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    versions = {"numba": "0.61", "zarr": None}
    monkeypatch.setattr(doctor, "_version", versions.get)
    problems, said = examine("extras", tmp_path)
    assert problems == []
    assert said == ["fast         installed", "formats      needs zarr: pip install 'phaseloom[formats]'"]
    versions["zarr"] = "2.18"
    problems, _ = examine("extras", tmp_path)
    assert "zarr 2.18 (needs <4,>=3)" in problems[0].sentence
    assert not problems[0].stops


def test_a_package_of_another_version_stops_a_run(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["packaging>=9999", "no-such-package>=1"])
    problems, _ = examine("packages", tmp_path)
    assert [one.sentence.split(":")[0] for one in problems] == ["no-such-package", "packaging"]
    assert all(one.stops for one in problems)


def test_a_folder_that_takes_no_files_stops_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    problems, said = examine("folder", tmp_path / "file" / "runs")
    assert said[0].endswith("cannot be written")
    assert [one.stops for one in problems] == [True]
    assert "Not a directory" in problems[0].sentence


def test_a_full_disk_stops_a_run(monkeypatch, tmp_path):
    usage = doctor.shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    problems, _ = examine("folder", tmp_path / "runs")
    assert [one.sentence.split(":")[1] for one in problems] == [" 5 MB are free on its disk"]


@pytest.mark.parametrize(
    ("name", "value", "stops"),
    [
        ("OMP_NUM_THREADS", "many", False),
        ("OMP_NUM_THREADS", "9999", False),
        ("OMP_NUM_THREADS", "0", False),
        ("OMP_NUM_THREADS", "-3", False),
        ("OMP_NUM_THREADS", "", False),
        ("OMP_NUM_THREADS", "1,0", False),
        ("MKL_NUM_THREADS", "1,1", False),
        ("NUMBA_NUM_THREADS", "0", True),
        ("RANK", "-1", True),
        ("WORLD_SIZE", "0", True),
        ("WORLD_SIZE", "4", True),
        ("HDF5_USE_FILE_LOCKING", "maybe", False),
        ("HDF5_USE_FILE_LOCKING", "false", False),
    ],
)
def test_values_of_the_environment_that_are_not_plausible(monkeypatch, tmp_path, name, value, stops):
    for one in (*doctor.LEAST_OF_COUNT, "HDF5_USE_FILE_LOCKING", *doctor.CACHE_FOLDERS, "MASTER_ADDR"):
        monkeypatch.delenv(one, raising=False)
    assert examine("environment", tmp_path)[0] == []
    monkeypatch.setenv(name, value)
    problems, said = examine("environment", tmp_path)
    assert f"{name}={value}" in said
    assert [(one.sentence.split(":")[0], one.stops) for one in problems] == [(name, stops)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_NUM_THREADS", "1,1"),
        ("OMP_NUM_THREADS", " 1"),
        ("RANK", "0"),
        ("HDF5_USE_FILE_LOCKING", "FALSE"),
    ],
)
def test_values_of_the_environment_that_are_plausible(monkeypatch, tmp_path, name, value):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(name, value)
    assert examine("environment", tmp_path)[0] == []


def test_a_number_below_one_is_not_called_no_number(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "-3")
    (problem,) = examine("environment", tmp_path)[0]
    assert "'-3' is not a whole number of 1 or more" in problem.sentence


def test_a_compiler_that_is_switched_off_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("PHASELOOM_NUMBA", raising=False)
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    (problem,) = examine("engine", tmp_path)[0]
    assert problem.sentence.startswith("NUMBA_DISABLE_JIT: ")
    assert not problem.stops
    monkeypatch.setenv("PHASELOOM_NUMBA", "0")  # ours, and so meant
    assert examine("engine", tmp_path)[0] == []


@pytest.mark.medium
def test_an_unknown_backend_is_one_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    (problem,) = diagnose(tmp_path, subjects=["packages", "figures"]).problems
    assert problem.sentence.startswith("MPLBACKEND: matplotlib does not know 'nonsense'")


def test_a_missing_folder_of_a_cache_is_made(monkeypatch, tmp_path):
    folder = tmp_path / "some" / "cache"
    monkeypatch.setenv("MPLCONFIGDIR", str(folder))
    problems, _ = examine("environment", tmp_path)
    (line,) = mend(Diagnosis({}, tuple(problems)))
    assert line.startswith("mended: MPLCONFIGDIR")
    assert folder.is_dir()


def test_what_cannot_be_mended_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    problem = Problem("a cache: is missing", remedy=(tmp_path / "file" / "cache").mkdir)
    assert mend(Diagnosis({}, (problem, Problem("other")))) == [
        "not mended (Not a directory): a cache: is missing"
    ]


def write_cache(folder: Path, name: str) -> tuple[Path, Path]:
    """An index and its code as numba writes them: version and table, and one pickle."""
    index, code = folder / f"{name}-1.py311.nbi", folder / f"{name}-1.py311.1.nbc"
    index.write_bytes(pickle.dumps("0.61") + pickle.dumps((1, {"key": code.name})))
    code.write_bytes(pickle.dumps(b"x" * 1000))
    return index, code


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("length", [0, 5, 20])
def test_files_of_compiled_code_that_were_cut_are_found(tmp_path, which, length):
    whole = write_cache(tmp_path, "whole.kernel")
    cut = write_cache(tmp_path, "cut.kernel")
    assert list(doctor._find_damaged(tmp_path)) == []
    cut[which].write_bytes(cut[which].read_bytes()[:length])
    damaged = list(doctor._find_damaged(tmp_path))
    assert damaged == [cut[which]]
    doctor._remove_with_index(damaged)
    assert sorted(tmp_path.iterdir()) == sorted(whole)


@pytest.mark.medium
def test_a_damaged_cache_of_kernels_stops_a_run_and_is_mended(monkeypatch, tmp_path):
    pytest.importorskip("numba")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("PHASELOOM_NUMBA", raising=False)
    assert examine("engine", tmp_path)[1][0] == "compiled kernels: work"
    for index in (tmp_path / "cache").rglob("*.nbi"):
        index.write_bytes(index.read_bytes()[:20])
    problems, said = examine("engine", tmp_path)
    assert said[0] == "compiled kernels: do not work"
    assert [one.stops for one in problems] == [True]
    assert "damaged" in problems[0].sentence
    assert mend(Diagnosis({}, tuple(problems)))[0].startswith("mended")
    assert examine("engine", tmp_path) == ([], examine("engine", tmp_path)[1])
    assert examine("engine", tmp_path)[1][0] == "compiled kernels: work"


def test_an_examination_that_fails_does_not_hide_the_others(monkeypatch):
    def fail(folder: Path, said: list[str]):
        said.append("begun")
        yield Problem("first")
        raise RuntimeError("odd")

    others = {"odd": fail, "environment": doctor.EXAMINATIONS["environment"]}
    monkeypatch.setattr(doctor, "EXAMINATIONS", others)
    found = diagnose()
    assert found.facts["odd"] == ["begun"]
    sentences = [one.sentence for one in found.problems]
    assert "first" in sentences
    assert any("could not be examined (RuntimeError: odd)" in one for one in sentences)
    assert found.can_run


@pytest.mark.parametrize("found", [None, "13.0.3"])
def test_a_gpu_without_the_compiler_of_its_kernels_is_told(monkeypatch, found):
    told = {"built": "13.0", "cuda": ["cuda 0: a card"], "mps": False, "threads": 1}
    monkeypatch.setattr(doctor, "_run", lambda *_: ([told], ""))
    monkeypatch.setattr(doctor, "_version", lambda name: found if name == "cuda-bindings" else "1")
    problems = [str(one) for one in doctor._examine_devices(Path(), [])]
    assert len(problems) == (found is None)
    assert all("pip install 'phaseloom[gpu]'" in one for one in problems)


def test_what_other_packages_add_is_listed_and_tried(monkeypatch, tmp_path):
    site = tmp_path / "site"
    for name, source in (
        ("goodlab", "def robust(model, counts, /): ...\n"),
        ("badlab", "import nothing_so_named\n"),
    ):
        (info := site / f"{name}-1.2.dist-info").mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[phaseloom.noise]\n{name[:-3]} = {name}:robust\n")
        (site / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    found = diagnose(tmp_path, subjects=["plugins"])
    assert {"noise: bad, of badlab 1.2", "noise: good, of goodlab 1.2"} <= set(found.facts["plugins"])
    (problem,) = [one for one in found.problems if "badlab" in one.sentence]
    assert problem.sentence.startswith("plugin noise: bad, of badlab 1.2: cannot be imported (")
    assert not problem.stops
    assert not any("goodlab" in one.sentence for one in found.problems)
