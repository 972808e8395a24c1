"""The command line: every verb explains itself, starts fast, and leaves what it says it leaves."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from phaseloom import cli
from phaseloom.cli import command
from phaseloom.data.counts import load_counts
from phaseloom.data.formats import native
from phaseloom.fitting.loop import Epoch
from phaseloom.reconstruction.compare import compare_results
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.runs.control import read_events
from phaseloom.runs.state import RunStatus, find_state
from phaseloom.simulation import simulate

VERBS = [
    "look",
    "check",
    "reconstruct",
    "compare",
    "split",
    "describe",
    "demo",
    "simulate",
    "train",
    "predict",
    "embed",
    "virtual",
    "latents",
    "strain",
    "restore",
    "search",
    "calibrate",
    "improve",
    "watch",
    "projections",
    "export",
    "get",
]
PNG = b"\x89PNG"


@pytest.fixture
def works(phaseloom) -> Callable[..., str]:
    """Run a command line that must work; gives what it prints."""

    def call(*argv: object) -> str:
        ended = phaseloom(*argv)
        assert not ended.code, ended.err
        return ended.out

    return call


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """36 electron patterns of 24x24 pixels, on a field wide enough to be compared."""
    margin = 15 * 0.2
    positions = simulate.raster((6, 6), 1.0, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / 0.2).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), 0.2, peak=0.5, seed=2)
    made, _ = simulate.electron_scan(
        truth, 0.2, positions, energy=80e3, semiangle=0.04, defocus=60.0, window=24, dose=1e5
    )
    path = tmp_path_factory.mktemp("cli") / "scan.h5"
    native.write(made, path)
    return path


QUICK = ("-s", "start=none", "-s", "probe.focused={semiangle: 40 mrad, defocus: 60 A, modes: 1}", "-q")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(works, verb):
    assert f"phaseloom {verb}" in works(verb, "--help")


def test_the_help_names_every_verb(works):
    said = works("--help")
    assert all(verb in said for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("simulate", "--out", "x", "--count", "1.5"), "--count: 1.5 must be a whole number. See"),
        (("steer", "run", "back", "--epoch", "0"), "--epoch: 0 must be at least 1. See"),
        (("restore", "train", "--lr_policy", "foo"), "--lr_policy: 'foo' is not one of 'lambda'"),
    ],
)
def test_a_wrong_value_of_an_option_is_told_in_plain_words(phaseloom, words, said):
    ended = phaseloom(*words)
    assert ended.code == 2
    assert said in ended.err


def test_without_words_the_help_is_shown(phaseloom):
    ended = phaseloom()
    assert "reconstruct" in ended.out + ended.err


@pytest.mark.slow
def test_the_module_is_a_command():
    words = [sys.executable, "-m", "phaseloom.cli", "describe", "nothing"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("phaseloom: describe: nothing is not a section: choose one of file, read")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_console_command_is_installed():
    command = Path(sys.executable).with_name("phaseloom")
    if not command.exists():
        pytest.skip("needs the package installed with its command beside this Python")
    done = subprocess.run([command, "describe", "noise"], capture_output=True, text=True, check=True)
    assert "poisson" in done.stdout


def test_help_imports_nothing_heavy():
    heavy = ("torch", "numpy", "h5py", "matplotlib", "pydantic", "yaml", "scipy")
    program = (
        "import sys; sys.argv = ['phaseloom', '--help']\n"
        "from phaseloom import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print('HEAVY', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_look_tells_and_draws(works, scan, tmp_path):
    said = works("look", scan)
    assert "24" in said
    assert f"picture: {Path(scan).name}.look.png" in said
    assert (tmp_path / f"{Path(scan).name}.look.png").read_bytes().startswith(PNG)
    works("look", scan, "--picture", "other.png")
    assert (tmp_path / "other.png").exists()


def test_check_says_what_a_run_would_need(works, scan, tmp_path):
    said = works("check", scan, "-s", "object.pixels={slices: 2, thickness: 3 A}")
    for wanted in ("36 of 24x24", "80 keV", "2 x ", "seconds per epoch"):
        assert wanted in said
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_describe_lists_sections_choices_and_knobs(works):
    said = works("describe")
    for section in Reconstruct.model_fields:
        assert section in said or section == "found"
    assert "focused" in works("describe", "probe")
    said = works("describe", "probe", "focused")
    assert "semiangle            required, angle with a unit" in said
    assert "20" in works("describe", "epochs")
    assert "energy" in works("describe", "read", "npy")


@pytest.mark.parametrize(
    "section", [key for key, info in Reconstruct.model_fields.items() if info.json_schema_extra]
)
def test_every_choice_is_described(works, section):
    from phaseloom.spec import names

    room = Reconstruct.model_fields[section].json_schema_extra["room"]
    for name in names(room):
        said = works("describe", section, name)
        assert said.startswith(f"{section}: {{{name}: ")
        assert len(said.splitlines()[2]) > 10, "the first line of its docstring"


@pytest.mark.parametrize("more", [("-s", "epochs=3"), ("--out", "elsewhere")])
def test_a_run_is_resumed_with_its_own_settings(phaseloom, tmp_path, more):
    (tmp_path / "a").mkdir()
    ended = phaseloom("reconstruct", "a", "--resume", *more)
    assert ended.code
    assert "does not go with --resume: start anew from a/run.yaml" in ended.err


@pytest.mark.slow
def test_reconstruct_resume_repeat_and_compare(works, scan, tmp_path):
    said = works("reconstruct", scan, *QUICK, "-s", "epochs=2", "--out", "a")
    assert "stopped: all 2 epochs done" in said
    for name in ("run.yaml", "events.jsonl", "snapshot.h5", "result.h5", "report.png"):
        assert (tmp_path / "a" / name).stat().st_size > 0
    works("reconstruct", "a", "--resume", "-q")
    works("reconstruct", "a/result.h5", "-q", "--out", "b", "-s", "epochs=3")
    first, second = (Result.load(tmp_path / name / "result.h5") for name in "ab")
    assert [len(result.history) for result in (first, second)] == [2, 3]
    said = works("compare", "a/result.h5", "b/result.h5", "--picture", "two.png", "--difference", "less.tif")
    assert "written: less.tif" in said
    less = compare_results(first, second).difference
    np.testing.assert_allclose(tifffile.imread("less.tif"), less, atol=1e-6)
    assert "setting epochs: 2 against 3" in said
    assert "resolution" in said
    assert (tmp_path / "two.png").read_bytes().startswith(PNG)


def test_a_parameter_file_finds_its_data_beside_itself(works, scan, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "scan.h5").write_bytes(scan.read_bytes())
    (tmp_path / "sub" / "run.yaml").write_text("file: scan.h5\nstart: none")
    assert "36 of 24x24" in works("check", "sub/run.yaml")


@pytest.mark.slow
def test_a_run_without_a_folder_gets_a_new_one_each_time(works, scan, tmp_path):
    for _ in range(2):
        works("reconstruct", scan, *QUICK, "-s", "epochs=1", "-s", "title=a b/c")
    found = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(found) == 2
    assert all("a_b_c" in name for name in found)


def test_the_progress_goes_to_the_other_stream(works, scan):
    assert "epoch/s" not in works("reconstruct", scan, *QUICK[:-1], "-s", "epochs=1")


WAITS = """
import os, sys
from phaseloom.cli import command
command.app = lambda **_: print("torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY"))
command.main()
"""


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "9"}, None)],
)
def test_threads_sleep_while_they_wait_unless_a_user_says_otherwise(given, policy):
    """PyTorch's library reads the variable as it is loaded: it has to stand there before."""
    bare = {name: value for name, value in os.environ.items() if name not in command.WAITS_OF_OPENMP}
    ended = subprocess.run(
        [sys.executable, "-c", WAITS], env=bare | given, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["False", str(policy)]


def test_ctrl_c_while_reading_is_no_traceback(phaseloom, scan, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.reconstruct, "load_recipe", interrupted)
    ended = phaseloom("check", scan)
    assert ended.code == 130
    assert "Traceback" not in ended.err


def test_ctrl_c_between_epochs_keeps_the_result(phaseloom, scan, tmp_path, monkeypatch):
    save_epoch = Job._save_epoch

    def interrupted(running: Job, epoch: Epoch) -> None:
        save_epoch(running, epoch)
        if epoch.number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Job, "_save_epoch", interrupted)
    ended = phaseloom("reconstruct", scan, *QUICK, "-s", "epochs=9", "--out", "a")
    assert ended.code == 130
    assert "stopped: interrupted after epoch 2" in ended.out
    assert "go on with: phaseloom reconstruct --resume a" in ended.out
    result = Result.load(tmp_path / "a" / "result.h5")
    assert len(result.history) == 2
    assert np.isfinite(result.object).all()


def test_ctrl_c_in_the_final_steps_leaves_a_whole_result(phaseloom, scan, tmp_path, monkeypatch):
    judged = iter([KeyboardInterrupt])
    record_end = Job._record_end

    def interrupted(running: Job, steering: object) -> None:
        if problem := next(judged, None):
            raise problem
        record_end(running, steering)

    monkeypatch.setattr(Job, "_record_end", interrupted)
    ended = phaseloom("reconstruct", scan, *QUICK, "-s", "epochs=3", "--halves", "--out", "a")
    assert ended.code == 130
    assert "all 3 epochs done: the final steps (verdict, error bar, report) are finished first" in ended.out
    assert "stopped: all 3 epochs done" in ended.out
    assert "halves" not in ended.out
    result = Result.load(tmp_path / "a" / "result.h5")
    assert (result.stopped, result.verdict_code == "interrupted") == ("all 3 epochs done", False)
    assert find_state(tmp_path / "a", list(read_events(tmp_path / "a"))) is RunStatus.ENDED


def test_a_second_ctrl_c_in_the_final_steps_says_what_finishes_them(phaseloom, scan, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "_record_end", interrupted)
        ended = phaseloom("reconstruct", scan, *QUICK, "-s", "epochs=3", "--out", "a")
    assert ended.code == 130
    assert "all epochs are done and kept, but the final steps were interrupted\n" in ended.out
    assert "go on with: phaseloom reconstruct --resume a" in ended.out
    assert phaseloom("reconstruct", "a", "--resume").code == 0
    assert Result.load(tmp_path / "a" / "result.h5").stopped == "all 3 epochs done"


def test_every_job_of_the_demo_begins_in_a_folder_that_is_not_there(tmp_path):
    from phaseloom.cli import demo

    jobs = [job for _, job in demo.begin_jobs(tmp_path / "new" / "demo")]
    assert [job.directory.name for job in jobs] == ["xray", "electron"]


def test_a_demo_takes_the_place_of_an_older_one(tmp_path):
    from phaseloom.cli import demo

    for _ in range(2):
        _, job = next(demo.begin_jobs(tmp_path))
        assert (tmp_path / "xray" / "run.yaml").is_file()
        (tmp_path / "xray" / "old").touch()
    assert job.directory == tmp_path / "xray"


STARTS_AT_ONCE = [
    "--set",
    "start=none",
    "--set",
    "probe={focused: {semiangle: 25 mrad, defocus: 80 A, modes: 1}}",
]


def write_dark(folder):
    """A scan with a dark current of ten counts."""
    positions = simulate.raster((8, 8), 0.8) + 5.0
    truth = simulate.atoms((80, 80), 0.2, peak=0.3, seed=2)
    optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": 24, "dose": 1e4}
    data, _ = simulate.electron_scan(truth, 0.2, positions, **optics)
    dark = np.random.default_rng(0).poisson(10.0, data.counts.shape)
    native.write(replace(data, counts=load_counts(data.counts) + dark, probe=None), folder / "dark.h5")


def test_improve_writes_a_file_that_runs_or_says_that_nothing_helped(works, phaseloom, tmp_path, monkeypatch):
    """A dark current of ten counts: the background is found, and the file that is written reconstructs."""
    write_dark(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = works("improve", "dark.h5", *STARTS_AT_ONCE, "--epochs", "12")
    assert re.search(r"helped: .*background", said)
    assert "background: 0.2" in (tmp_path / "improved.yaml").read_text()
    again = phaseloom("improve", "dark.h5", *STARTS_AT_ONCE)
    assert ("exists already" in again.err, "reading" in again.out) == (True, False)  # before any work
    works("reconstruct", "improved.yaml", "--set", "epochs=1", "--out", "run", "--quiet")
    (tmp_path / "improved.yaml").unlink()
    lines = works("improve", "run", "--epochs", "12").splitlines()
    assert not any(line.startswith("background ") for line in lines)  # the run has one


@pytest.mark.medium
def test_improve_keeps_what_it_has_found_when_a_signal_interrupts_it(tmp_path):
    """SIGINT, as Ctrl-C sends it, once the background is kept: the file is written, the exit code is that."""
    write_dark(tmp_path)
    command = [sys.executable, "-m", "phaseloom.cli", "improve", "dark.h5", *STARTS_AT_ONCE]
    with subprocess.Popen(
        [*command, "--epochs", "30"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - as a terminal has it
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("kept: background"):
                process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    said = "".join(lines)
    assert process.returncode == 130, said + errors
    assert "Traceback" not in errors
    assert "interrupted: what was found until then follows" in said
    assert "background: 0.2" in (tmp_path / "improved.yaml").read_text()


def test_improve_names_what_is_no_folder_of_a_run(phaseloom, tmp_path):
    (tmp_path / "empty").mkdir()
    refused = phaseloom("improve", tmp_path / "empty", "--out", tmp_path / "better.yaml")
    assert refused.code == 2
    assert "empty: holds no run.yaml: name the folder of a run" in refused.err


def test_improve_refuses_scans_that_are_too_small(phaseloom, scan, tmp_path):
    refused = phaseloom("improve", scan, *STARTS_AT_ONCE, "--out", tmp_path / "better.yaml")
    assert refused.code == 2
    assert "36 patterns are too few to judge models by" in refused.err
