"""SIGKILL at the n-th call that writes: no file is half written, and what goes on comes to the same bits."""

import csv
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hostile.fork_server import FAULT_KINDS, Fault, ForkServer, build_faults
from tests.hostile.verbs import VERBS, Inputs, Verb, check_files, read_arrays

pytestmark = pytest.mark.skipif(build_faults() is None, reason="needs Linux and a C compiler")

ALL = tuple(FAULT_KINDS)
CONTINUED = [verb for verb in VERBS if verb.again or verb.name == "simulate"]
ONCE = [verb for verb in VERBS if verb not in CONTINUED]
MAX_KILLS = 40
MIN_KILLS = 30
REFUSALS = ("is not empty", "holds a run", "holds a prediction", "exists")
"""Why a command does not write where another one has begun to."""

RNG = np.random.default_rng(2026)


def read_outcome(folder: Path) -> dict[str, Any]:
    """What is compared: arrays to the bit, and of a search all values and the best file."""
    found = {name: value.tobytes() for name, value in read_arrays(folder).items()}
    for table in folder.rglob("trials.csv"):
        with table.open() as file:
            rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
        found["trials"] = rows
        found["best"] = (table.parent / "best.yaml").read_text()
    return found


def run_chain(server: ForkServer, inputs: Inputs, folder: Path, verb: Verb, first: int, step: int) -> int:
    """Kill a command again and again, ever later, until it comes to its end; the number of kills."""
    for kills in range(MAX_KILLS):
        fault = Fault(first + kills * step, ALL)
        outcome = server.run(verb.words(inputs, folder), folder, fault=fault)
        check_files(folder, strays=False)
        if outcome.code != -signal.SIGKILL:
            assert outcome.code == 0, f"{verb.name}, after {kills} kills: {outcome.err}"
            return kills
    outcome = server.run(verb.words(inputs, folder), folder)
    assert outcome.code == 0, f"{verb.name}, after {MAX_KILLS} kills: {outcome.err}"
    return MAX_KILLS


def compare_chain(server, inputs, folder, verb, first, step) -> int:
    kills = run_chain(server, inputs, folder / "killed", verb, first, step)
    straight = server.run(verb.argv_of(inputs), folder / "straight")
    assert straight.code == 0
    assert read_outcome(folder / "killed") == read_outcome(folder / "straight")
    check_files(folder / "killed")
    print(f"kills: {verb.name}: {kills}")
    return kills


@pytest.mark.medium
@pytest.mark.parametrize("verb", CONTINUED[:1] + CONTINUED[1:2], ids=lambda verb: verb.name)
def test_a_killed_command_comes_to_the_same_bits(server, inputs, tmp_path, verb):
    assert compare_chain(server, inputs, tmp_path, verb, 8, 9) >= 1


@pytest.mark.medium
def test_a_killed_search_ends_as_an_undisturbed_one(server, inputs, tmp_path):
    (search,) = (verb for verb in VERBS if verb.name == "search")
    assert compare_chain(server, inputs, tmp_path, search, 40, 31) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("first", [5, *(pytest.param(n, marks=pytest.mark.hours) for n in (3, 11))])
@pytest.mark.parametrize("verb", CONTINUED, ids=lambda verb: verb.name)
def test_chains_of_kills_come_to_the_same_bits(server, inputs, tmp_path, verb, first):
    step = 13 if verb.name == "search" else 3
    compare_chain(server, inputs, tmp_path, verb, first, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.hours)])
@pytest.mark.parametrize("verb", ONCE, ids=lambda verb: verb.name)
def test_a_kill_at_any_call_leaves_no_half_file(server, inputs, tmp_path, verb, step):
    kills = 0
    n = 1
    while was_killed := kill_and_repeat(server, inputs, tmp_path / str(n), verb, n):
        kills += was_killed
        n += step * (1 if n < 24 else 7)
    last = n
    while step == 1 and kills < MIN_KILLS:  # of few calls: killed at one, and the repeated command at another
        first, second = RNG.integers(1, last, 2)
        kills += kill_and_repeat(server, inputs, tmp_path / f"{kills}-twice", verb, first, second)
    print(f"kills: {verb.name}: {kills}")


def kill_and_repeat(server: ForkServer, inputs: Inputs, folder: Path, verb: Verb, *at: int) -> int:
    """Kill a command at calls, one time after the other; each leaves whole files, and it works once more."""
    kills = 0
    for n in at:
        outcome = server.run(verb.words(inputs, folder), folder, fault=Fault(int(n), ALL))
        check_files(folder, strays=False)
        if outcome.code != -signal.SIGKILL:
            break
        kills += 1
    else:
        outcome = server.run(verb.words(inputs, folder), folder)
    is_refused = outcome.code == 2 and any(text in outcome.sentence for text in REFUSALS)
    assert not outcome.code or is_refused, f"{verb.name}, killed at {at}: {outcome.err}"
    check_files(folder, strays=not is_refused)
    shutil.rmtree(folder)
    return kills
