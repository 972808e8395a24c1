"""The command line, as a user runs it."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from phaseloom import cli


@pytest.fixture
def phaseloom(monkeypatch, capsys) -> Callable[..., SimpleNamespace]:
    """Run a command line; gives code, output and complaints."""

    def call(*argv: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["phaseloom", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return SimpleNamespace(code=end.value.code or 0, out=said.out, err=said.err)

    return call
