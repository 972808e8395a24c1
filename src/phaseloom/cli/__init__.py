"""The command line: one verb for each recipe, and verbs that look. Everything heavy is imported late."""

from phaseloom.cli import embed, latents, predict, reconstruct, simulate, train, virtual  # noqa: F401 - their verbs
from phaseloom.cli.command import app, main

__all__ = ["app", "main"]
