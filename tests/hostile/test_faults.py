"""The n-th write, fsync, rename, mkdir or creation fails, for n = 1, 2, ... until a run passes clean.

After each the command has ended with one sentence, and every file is whole. All calls of all verbs take hours
(`make hours`); shorter forms take some. Numbers are printed for docs/reliability.md.
"""

import errno
import shutil
from pathlib import Path

import pytest

from tests.hostile.fork_server import FAULT_KINDS, Fault, ForkServer, build_faults
from tests.hostile.verbs import VERBS, Inputs, Verb, check_ending, check_files

pytestmark = pytest.mark.skipif(build_faults() is None, reason="needs Linux and a C compiler")

MAX_CALLS = 10_000
"""Calls of a kind after which a loop is taken for endless."""

MAX_IN_A_ROW = 24
"""Calls that fail one by one; of more, as HDF5 makes them, every seventh."""

QUICK = [verb for verb in VERBS if verb.name in ("convert", "export mrc", "export scan emd", "simulate")]


def run_loop(
    server: ForkServer, inputs: Inputs, folder: Path, verb: Verb, kind: str, error: int, *, step: int = 1
) -> int:
    """Let call after call fail until a run passes clean; the number of faults."""
    faults = 0
    n = 1
    while n < MAX_CALLS:
        place = folder / f"{kind}-{error}-{n}"
        fault = Fault(n, (kind,), error, lasting=error == errno.ENOSPC)
        outcome = server.run(verb.words(inputs, place), place, fault=fault, whole_exit=step == 1)
        what = f"{verb.name}: {kind} {n} of {outcome.calls}: {errno.errorcode[error]}"
        if outcome.calls < n:
            assert outcome.code == 0, f"{what}: {outcome.err}"
            check_files(place)
            return faults
        check_ending(outcome, what)
        check_files(place)
        if outcome.code == 0:
            assert "cannot be written" in outcome.out + outcome.err, f"{what}: not a word of it"
        _go_on(server, inputs, place, verb, what)
        shutil.rmtree(place)
        faults += 1
        n += step if n < MAX_IN_A_ROW else 7 * step
    raise AssertionError(f"{verb.name}: more than {MAX_CALLS} calls of {kind}")


def _go_on(server: ForkServer, inputs: Inputs, place: Path, verb: Verb, what: str) -> None:
    """The command that the sentence names works, where it is one that goes on."""
    if verb.again and (place / verb.begun).exists():
        outcome = server.run(verb.words(inputs, place), place)
        assert outcome.code == 0, f"{what}, then {verb.again}: {outcome.err}"
        check_files(place)


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_no_call_of_a_quick_verb_is_left_without_a_sentence(server, inputs, tmp_path, kind):
    faults = sum(
        run_loop(server, inputs, tmp_path / verb.name, verb, kind, errno.ENOSPC, step=3) for verb in QUICK
    )
    print(f"faults: {kind}: {faults} in {len(QUICK)} verbs")
    assert faults >= len(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_some_writes_of_each_verb_fail(server, inputs, tmp_path, verb):
    print(f"faults: {verb.name}: {run_loop(server, inputs, tmp_path, verb, 'write', errno.ENOSPC, step=8)}")


@pytest.mark.slow
@pytest.mark.hours
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_no_call_is_left_without_a_sentence(server, inputs, tmp_path, verb, kind, error):
    faults = run_loop(server, inputs, tmp_path, verb, kind, error)
    print(f"faults: {verb.name}: {kind} {errno.errorcode[error]}: {faults}")
