"""The command line: one verb for each recipe, and verbs that look. Everything heavy is imported late."""

from phaseloom.cli import reconstruct  # noqa: F401 - its verbs
from phaseloom.cli.command import app, main

__all__ = ["app", "main"]
