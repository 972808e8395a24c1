"""Two processes on one folder: one does its work, the other is told who does, and nothing is mixed."""

import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from phaseloom.files import LOCK_NAME
from phaseloom.runs.lock import Holder
from tests.hostile.fork_server import Case
from tests.hostile.verbs import VERBS, check_files, read_arrays

HOLD = """
import time
from phaseloom.runs import lock
take = lock._take
def take_and_wait(file):
    is_new = file not in lock._held
    take(file)
    time.sleep({seconds} * is_new)
lock._take = take_and_wait
"""
"""The lock is held a while before the work begins, so that the other process surely meets it."""

LOCKED = [verb for verb in VERBS if verb.argv.split()[0] not in ("simulate", "look")]
"""Those but `simulate`, whose folder several machines share, and `look`, which draws single files."""

FEW = [verb for verb in LOCKED if verb.name in ("reconstruct", "convert", "export figures", "search")]


def wait_for_lock(folder: Path, case: Case) -> Path:
    """The lock of a command that has just begun."""
    for _ in range(600):
        found = [path for path in folder.rglob(f"*{LOCK_NAME}") if path.stat().st_size]
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no lock: {case.wait()}")


def run_two(server, inputs, folder, verb):
    words = verb.words(inputs, folder)
    first = server.start(words, folder, before=HOLD.format(seconds=4))
    wait_for_lock(folder, first)
    second = server.run(words, folder)
    assert (second.code, second.has_traceback) == (2, False), second.err
    found = re.search(r"is being written by process (\d+) on \S+ \(phaseloom .*\) since", second.sentence)
    assert found, second.err
    assert int(found[1]) == first.pid
    outcome = first.wait()
    assert outcome.code == 0, outcome.err
    check_files(folder)


@pytest.mark.medium
@pytest.mark.parametrize("verb", FEW, ids=lambda verb: verb.name)
def test_the_second_is_told_who_writes(server, inputs, tmp_path, verb):
    run_two(server, inputs, tmp_path, verb)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [verb for verb in LOCKED if verb not in FEW], ids=lambda verb: verb.name)
def test_the_second_is_told_of_every_verb(server, inputs, tmp_path, verb):
    run_two(server, inputs, tmp_path, verb)


@pytest.mark.medium
def test_two_that_resume_one_run_do_not_both_write(server, inputs, tmp_path):
    words = f"reconstruct {inputs.run} --out o -q -s epochs=400".split()
    case = server.start(words, tmp_path)
    for _ in range(600):
        if (tmp_path / "o" / "snapshot.h5").exists():
            break
        time.sleep(0.05)
    second = server.run(["reconstruct", "--resume", "o", "-q"], tmp_path)
    assert second.code == 2
    assert f"process {case.pid} on" in second.sentence
    case.kill(signal.SIGINT)
    assert case.wait().code == 130


@pytest.mark.medium
def test_four_runs_at_once_get_folders_of_their_own(server, inputs, tmp_path):
    words = f"reconstruct {inputs.run} -q -s epochs=1".split()
    cases = [server.start(words, tmp_path) for _ in range(4)]
    outcomes = [case.wait() for case in cases]
    assert [one.code for one in outcomes] == [0] * 4
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 4
    assert all((folder / "result.h5").is_file() for folder in folders)


def test_the_lock_of_a_dead_process_is_taken_over(server, inputs, tmp_path):
    case = server.start(
        ["convert", str(inputs.theirs), "--out", "o.yaml"], tmp_path, before=HOLD.format(seconds=60)
    )
    wait_for_lock(tmp_path, case)
    case.kill()
    assert case.wait().code == -signal.SIGKILL
    outcome = server.run(["convert", str(inputs.theirs), "--out", "o.yaml"], tmp_path)
    assert outcome.code == 0, outcome.err
    check_files(tmp_path)


def test_the_lock_of_another_machine_stays_until_somebody_removes_it(server, inputs, tmp_path):
    (tmp_path / ".o.yaml.phaseloom.lock").write_text('{"host": "elsewhere", "pid": 3, "began": 1.0}')
    outcome = server.run(["convert", str(inputs.theirs), "--out", "o.yaml"], tmp_path)
    assert outcome.code == 2
    assert "process 3 on elsewhere" in outcome.sentence
    assert outcome.sentence.endswith("remove " + str(tmp_path / ".o.yaml.phaseloom.lock"))


def test_the_lock_of_another_container_of_this_machine_stays_too(server, inputs, tmp_path):
    """Its processes are not seen from here, and are not dead for that."""
    other = replace(Holder.here(), pid=2**30, space="1")
    (tmp_path / ".o.yaml.phaseloom.lock").write_text(other.to_text())
    outcome = server.run(["convert", str(inputs.theirs), "--out", "o.yaml"], tmp_path)
    assert outcome.code == 2
    assert outcome.sentence.endswith("remove " + str(tmp_path / ".o.yaml.phaseloom.lock"))


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "words", "another record"])
def test_a_lock_that_is_none_is_refused_and_nothing_behind_it_is_touched(server, inputs, tmp_path, kind):
    """A folder may come from somebody else: a lock in it that is a link would have its target overwritten."""
    target = tmp_path / "target"
    lock = tmp_path / "work" / ".o.yaml.phaseloom.lock"
    lock.parent.mkdir()
    make = {
        "link": lambda: (target.write_text("precious"), lock.symlink_to(target)),
        "dangling link": lambda: lock.symlink_to(target),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
        "words": lambda: lock.write_text("mine\n"),
        "another record": lambda: lock.write_text('{"host": "elsewhere", "pid": 1}'),
    }
    make[kind]()
    outcome = server.run(["convert", str(inputs.theirs), "--out", "o.yaml"], lock.parent, seconds=20)
    assert outcome.code == 2, outcome.err
    assert str(lock) in outcome.sentence
    assert "remove it" in outcome.sentence
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "precious"
    assert not (lock.parent / "o.yaml").exists()


@pytest.mark.parametrize("text", ["", '{"host": "a', '{"host": "a", "pid": 3, "began'])
def test_a_lock_that_a_crash_has_cut_is_taken_over(server, inputs, tmp_path, text):
    (tmp_path / ".o.yaml.phaseloom.lock").write_text(text)
    outcome = server.run(["convert", str(inputs.theirs), "--out", "o.yaml"], tmp_path)
    assert outcome.code == 0, outcome.err
    check_files(tmp_path)


def test_simulations_share_a_folder_but_not_with_another_recipe(server, inputs, tmp_path):
    verb = next(verb for verb in VERBS if verb.name == "simulate")
    words = [*verb.words(inputs, tmp_path), "--count", "3"]
    both = [server.start(words, tmp_path) for _ in range(2)]
    outcomes = [case.wait() for case in both]
    assert [one.code for one in outcomes] == [0, 0], outcomes
    other = server.run([*words, "--seed", "7"], tmp_path)
    assert (other.code, "was begun with another seed" in other.err) == (2, True)
    alone = server.run(words, tmp_path / "alone")
    assert alone.code == 0
    mixed, straight = (read_arrays(folder / "o") for folder in (tmp_path, tmp_path / "alone"))
    assert {name: value.tobytes() for name, value in mixed.items()} == {
        name: value.tobytes() for name, value in straight.items()
    }


def test_two_recipes_do_not_begin_in_one_folder(server, inputs, tmp_path):
    wait = """
import time
from phaseloom.simulation import recipe as one
make = one.simulate_sample
def late(*given):
    time.sleep(3)
    return make(*given)
one.simulate_sample = late
"""
    verb = next(verb for verb in VERBS if verb.name == "simulate")
    words = verb.words(inputs, tmp_path)
    first = server.start(words, tmp_path, before=wait)
    for _ in range(200):
        if (tmp_path / "o" / ".phaseloom.simulating").exists():
            break
        time.sleep(0.05)
    second = server.run([*words, "--seed", "7"], tmp_path)
    assert (second.code, f"is being filled by process {first.pid}" in second.sentence) == (2, True), (
        second.err
    )
    assert first.wait().code == 0
    assert check_files(tmp_path) == 2
