"""Checkpoints of CDTools models: all that the rest of a fit follows from, in a file never half written."""

import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phaseloom.compat.cdtools.fit import Fit
from phaseloom.errors import BadInput
from phaseloom.files import whole_buffer

__all__ = ["ChainedJob", "read_checkpoint", "write_checkpoint"]


@dataclass
class ChainedJob:
    """Which job of a chain this is.

    Attributes:
        number: of the job.
        stem: of the names of files.
        passed: checkpoints that the script has passed.

    Example:
        >>> job = ChainedJob(1, "jobs/scan")
        >>> job.skips, job.file
        (True, 'jobs/scan_0.pt')
    """

    number: int
    stem: str
    passed: int = 0

    @property
    def skips(self) -> bool:
        """Whether what comes now was done by an earlier job."""
        return self.passed != self.number

    @property
    def file(self) -> str:
        """The file of the next checkpoint."""
        return f"{self.stem}_{self.passed}.pt"


def write_checkpoint(fit: Fit, path: str | os.PathLike[str], /) -> None:
    """Everything that changes in a fit, random numbers included."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    state = {
        "phaseloom_checkpoint": 1,
        "model": fit.core.state_dict(),
        "fit": fit.state(),
        "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
    }
    with whole_buffer(Path(path)) as buffer:
        torch.save(state, buffer)


def read_checkpoint(fit: Fit, path: str | os.PathLike[str], /) -> None:
    """Bring the fit of a model made of the same data by the same call to the state of a file.

    Raises:
        BadInput: no such file, not one of ours, or one of another model.
    """
    state = _load(Path(path))
    try:
        fit.core.load_state_dict(state["model"])
        fit.load(state["fit"])
    except (RuntimeError, ValueError, KeyError) as error:
        fix = "is of another model: make it from the same dataset with the same options"
        raise BadInput("load_checkpoint", str(path), fix) from error
    torch.set_rng_state(state["random"]["cpu"])
    if len(state["random"]["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["random"]["cuda"])


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        fix = "does not exist: run the job before, or check the stem of use_checkpoints"
        raise BadInput("load_checkpoint", str(path), fix)
    try:
        with zipfile.ZipFile(path):  # else torch takes it for a pickle
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        fix = "cannot be read: it is damaged, or not a checkpoint"
        raise BadInput("load_checkpoint", str(path), fix) from error
    if not isinstance(state, dict) or "phaseloom_checkpoint" not in state:
        raise BadInput("load_checkpoint", str(path), "is not a checkpoint of this package")
    return state
