"""The command line: one verb for each recipe, and verbs that look. Everything heavy is imported late."""

from phaseloom.cli import (  # noqa: F401 - their verbs
    calibrate,
    embed,
    latents,
    predict,
    reconstruct,
    restore,
    search,
    simulate,
    train,
    virtual,
)
from phaseloom.cli.command import app, main

__all__ = ["app", "main"]
