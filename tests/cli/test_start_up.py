"""A command imports what it needs and no more, whatever its options: most of a short one is start-up."""

import gc
import subprocess
import sys

import numpy as np
import pytest

from phaseloom import plugins, spec
from phaseloom.simulation import simulate

AFTER = "\nprint('LOADED', *sorted(sys.modules))"

NOT_FOR_LOOKING = ("torch", "numba", "pydantic.mypy", "scipy.io", "scipy.optimize", "scipy.interpolate")
NOT_FOR_LOOKING += ("matplotlib.pyplot", "phaseloom.reconstruction", "phaseloom.ptycho")

NOT_FOR_A_RUN = ("torch._dynamo", "torch._inductor", "sympy", "matplotlib.pyplot", "pandas", "abtem")
NOT_FOR_A_RUN += ("scipy.stats", "scipy.io", "scipy.interpolate", "transformers", "accelerate", "optuna")
NOT_FOR_A_RUN += ("phaseloom.data.formats.mat", "phaseloom.search", "phaseloom.retrieval.trainer")


def list_loaded(words: list[str], folder) -> set[str]:
    """The modules that a process has imported when a command has ended."""
    program = (
        f"import sys; sys.argv = {['phaseloom', *words]}\n"
        "from phaseloom import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    command = [sys.executable, "-c", program + AFTER]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    return set(line.split())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A raster of electron patterns as a bare array, and what it does not say, as settings."""
    path = tmp_path_factory.mktemp("plain") / "scan.npy"
    truth = simulate.atoms((68, 68), 0.2, peak=0.5, seed=2)
    optics = {"energy": 80e3, "semiangle": 0.04, "defocus": 60.0, "window": 24, "dose": 1e5}
    scan, _ = simulate.electron_scan(truth, 0.2, simulate.raster((12, 12), 0.6) + 3.0, **optics)
    counts = scan.counts[np.arange(len(scan))]
    np.save(path, counts.reshape(12, 12, *counts.shape[1:]))
    said = {"energy": "80 keV", "step": "0.6 A", "pixel": "0.2 A"}
    return path, [f"--set=read.npy.{name}={value}" for name, value in said.items()]


def test_a_scan_with_settings_is_looked_at_without_pytorch(plain):
    path, settings = plain
    loaded = list_loaded(["look", path.name, *settings], path.parent)
    assert (path.parent / "scan.npy.look.png").exists()
    assert "matplotlib.figure" in loaded
    assert not loaded & set(NOT_FOR_LOOKING)


def test_settings_of_a_model_are_still_read_by_its_recipe(phaseloom, plain):
    path, settings = plain
    ended = phaseloom("look", path, *settings, "--set", "probe.focused.no_such=1")
    assert ended.code == 2
    assert "no_such" in ended.err


@pytest.mark.medium
def test_a_run_imports_no_compiler_and_no_other_system(plain, tmp_path):
    path, settings = plain
    words = ["reconstruct", str(path), *settings, "-q", "--out", "run", "-s", "start=none", "-s", "epochs=2"]
    words += ["-s", "probe.focused={semiangle: 40 mrad, defocus: 6 nm}"]
    loaded = list_loaded(words, tmp_path)
    assert {"torch", "matplotlib.figure"} <= loaded
    assert loaded & set(NOT_FOR_A_RUN) == set()
    written = {path.name for path in (tmp_path / "run").iterdir()}
    documented = {"run.yaml", "events.jsonl", "snapshot.h5", "result.h5", "report.png", "phase.png"}
    assert documented | {"direct.png"} <= written


def test_names_of_formats_are_known_without_importing_their_readers(tmp_path):
    program = (
        "import sys; from phaseloom import spec; names = spec.names('phaseloom.data.formats')\n"
        "assert {'mat', 'npy', 'merlin'} <= set(names), names"
    )
    command = [sys.executable, "-c", program + AFTER]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"phaseloom.data.formats.mat", "scipy.io"} & set(done.stdout.split())


@pytest.mark.parametrize("room", [f"phaseloom.{room}" for room in plugins.ROOMS])
def test_every_name_of_a_room_can_be_called(room):
    for name in spec.names(room):
        assert callable(spec.function_of(room, name))


def test_installed_packages_are_searched_for_plugins_once(monkeypatch):
    asked = []
    search = plugins.entry_points
    monkeypatch.setattr(plugins, "entry_points", lambda **which: asked.append(which) or search(**which))
    plugins._list_entry_points.cache_clear()
    for room in plugins.ROOMS:
        plugins.names(f"phaseloom.{room}")
    assert len(asked) == 1


def test_a_command_leaves_the_collector_of_a_program_as_it_was(phaseloom):
    before = gc.get_threshold()
    assert not phaseloom("--version").code
    assert gc.get_threshold() == before
    assert gc.isenabled()


def test_cycles_are_searched_for_seldom_in_a_command_and_not_at_its_end():
    program = (
        "import atexit, gc, sys; from phaseloom.cli import command\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"  # runs after what main registers
        "command.app = lambda **_: print(gc.get_threshold()[0] > 5000)\n"
        "command.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.medium
def test_a_result_is_written_once(finished, monkeypatch):
    """Here the fixture's run; its figures are drawn beside, and a result that is gone is written again."""
    written = []
    monkeypatch.setattr(type(finished.ended), "save", lambda self, path: written.append(path))
    finished.save(finished.ended)
    assert not written
    assert (finished.directory / "report.png").exists()
    finished.save(finished.result())
    assert written == [finished.directory / "result.h5"]


def test_the_native_reader_needs_no_pytorch(files, tmp_path):
    loaded = list_loaded(["look", str(files.native)], tmp_path)
    assert not loaded & {"torch", "scipy.io", "phaseloom.data.formats.mat"}
