"""The fork server tells apart all ways in which a command may end."""

import errno
import os
import signal

import pytest

from tests.hostile.fork_server import Fault, build_faults

needs_compiler = pytest.mark.skipif(build_faults() is None, reason="needs Linux and a C compiler")


def test_a_command_ends_with_its_code_and_sentence(server, tmp_path):
    outcome = server.run(["look", "missing.h5"], tmp_path)
    assert (outcome.code, outcome.has_traceback, outcome.timed_out) == (2, False, False)
    assert outcome.sentence.startswith("phaseloom: missing.h5: does not exist")


def test_a_traceback_a_signal_a_hang_and_a_lack_of_memory_are_told_apart(server, tmp_path):
    assert server.run([], tmp_path, program="1 / 0").has_traceback
    killed = server.run([], tmp_path, program="import os; os.kill(os.getpid(), 11)")
    assert (killed.code, killed.has_traceback) == (-signal.SIGSEGV, False)
    assert server.run([], tmp_path, program="while True: pass", seconds=0.3).timed_out
    greedy = server.run([], tmp_path, program="bytearray(2**30)", memory=2**28)
    assert greedy.sentence.startswith("MemoryError")
    modest = server.run([], tmp_path, program="import numpy; numpy.ones(2**25)")
    assert 2**27 < modest.memory < 2**29


def test_cases_run_beside_each_other_and_know_nothing_of_each_other(server, tmp_path):
    program = "import os, time; open('mine', 'x').close(); time.sleep({}); print(os.getcwd())"
    slow = server.start([], tmp_path / "a", program=program.format(30))
    quick = server.run([], tmp_path / "b", program=program.format(0))
    slow.kill(signal.SIGTERM)
    assert quick.out.strip() == os.path.realpath(tmp_path / "b")
    assert slow.wait().code == -signal.SIGTERM


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "program"),
    [
        ("write", "import os; os.write(os.open('a', os.O_CREAT | os.O_WRONLY), b'a')"),
        ("write", "import h5py; h5py.File('a.h5', 'w')"),
        (
            "write",
            "import torch; from safetensors.torch import save_file; save_file({'a': torch.ones(9)}, 'a')",
        ),
        ("fsync", "import os; os.fsync(os.open('.', os.O_RDONLY))"),
        ("rename", "import os; open('a', 'x').close(); os.replace('a', 'b')"),
        ("mkdir", "import os; os.mkdir('a')"),
        ("create", "open('a', 'w')"),
    ],
)
def test_the_first_call_of_each_kind_fails(server, tmp_path, kind, program):
    assert server.run([], tmp_path, program=program, fault=Fault(0, (kind,))).calls >= 1
    for path in tmp_path.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    outcome = server.run([], tmp_path, program=program, fault=Fault(1, (kind,), errno.ENOSPC))
    assert "No space left on device" in outcome.err
    elsewhere = Fault(1, (kind,), errno.ENOSPC, folder="/nowhere")
    for path in tmp_path.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    assert server.run([], tmp_path, program=program, fault=elsewhere).code == 0
    killed = server.run([], tmp_path / "other", program=program, fault=Fault(1, (kind,)))
    assert killed.code == -signal.SIGKILL
