"""The command line: one command per recipe, and commands that inspect data. Heavy imports are deferred."""

from phaseloom.cli import (  # noqa: F401 - their commands
    data,
    embedding,
    images,
    predict,
    reconstruct,
    restore,
    search,
    simulate,
    steer,
    train,
)
from phaseloom.cli.command import app, main

__all__ = ["app", "main"]
