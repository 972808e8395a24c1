"""Programs of others as yardsticks: they run in a Python of their own, or are left out.

``PHASELOOM_YARDSTICKS`` may name interpreters, with colons between them, that have what this environment has
not: ``rosettasciio mrcfile silx nexusformat ptychodus emdfile py4DSTEM``.
"""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

INTERPRETERS = [sys.executable, *filter(None, os.environ.get("PHASELOOM_YARDSTICKS", "").split(":"))]


@cache
def find_interpreter(module: str) -> str | None:
    """The first Python that can import a module."""
    for python in INTERPRETERS:
        if not run_in(python, f"import {module}").returncode:
            return python
    return None


def run_in(python: str, program: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [python, "-W", "ignore", "-c", program, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)


def ask(module: str, program: str, *words: object) -> Any:
    """What a program prints as JSON in its last line, run where its module is; else the test is skipped."""
    python = find_interpreter(module)
    if python is None:
        pytest.skip(f"{module} is not installed")
    done = run_in(python, program, *words)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
