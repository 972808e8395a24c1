"""The phase of a reconstruction through a restorer, held against the diffraction patterns before and after.

A restored phase looks better than the one that was measured; whether it is truer, the patterns tell as far as
they can: the object that was found, with its phase as it was restored, goes through the model of the run
again. A network that only takes noise off leaves a misfit that is hardly higher. One that invents raises it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.metrics.phase import remove_ramp
from phaseloom.metrics.resolution import RingCorrelation, register, ring_correlation
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.result_builder import images_of
from phaseloom.restoration.apply import STAMP, Mended, mended
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.image_kinds import Task
from phaseloom.result import Result, load

__all__ = ["MendedPhase", "Misfits", "correlations", "is_run", "phase_of"]

SAME = 0.02
"""Relative difference of two objects that are taken for the same."""


@dataclass(frozen=True)
class Misfits:
    """Poisson deviance in a pixel with counts, over all patterns: 1 if nothing but shot noise is left.

    Attributes:
        measured: of the reconstruction.
        restored: with its phase restored.
        empty: without an object.
    """

    measured: float
    restored: float
    empty: float

    def __str__(self) -> str:
        """As a line of a report."""
        said = f"misfit of the patterns: {self.measured:.4g} as reconstructed, {self.restored:.4g} restored"
        return f"{said}, {self.empty:.4g} without an object (Poisson deviance per pixel)"


@dataclass(frozen=True, eq=False)
class MendedPhase:
    """A phase that was restored, over the scanned field, in radian.

    Attributes:
        measured: ``(y, x)`` of the reconstruction, summed over slices.
        restored: ``(y, x)``.
        finer: ``(2y, 2x)``, or ``None``.
        pixel: (y, x), angstrom.
        misfits: of the patterns, if the run is at hand.
        notes: what could not be done, in sentences.
    """

    measured: np.ndarray
    restored: np.ndarray
    finer: np.ndarray | None
    pixel: tuple[float, float]
    misfits: Misfits | None
    notes: tuple[str, ...] = ()

    def write(self, path: Path, model: str, /) -> Path:
        """Leave all in an HDF5 file with the stamp.

        Args:
            path: to write.
            model: that restored.
        """
        import h5py

        images = {"measured": self.measured, "restored": self.restored, "finer": self.finer}
        with whole(path) as short, h5py.File(short, "w") as file:
            for name, image in images.items():
                if image is not None:
                    made = file.create_dataset(name, data=image.astype(np.float32))
                    half = 2 if name == "finer" else 1
                    made.attrs.update({"units": "radian", "pixel": np.array(self.pixel) / half})
                    made.attrs["stamp"] = "as reconstructed" if name == "measured" else STAMP
            file.attrs.update({"stamp": STAMP, "model": model, "pixel_units": "angstrom"})
            file.attrs["misfits"] = "" if self.misfits is None else json.dumps(asdict(self.misfits))
            file.attrs["notes"] = "\n".join(self.notes)
        return path


def is_run(path: Path, /) -> bool:
    """Whether a path is a reconstruction: its file, or the folder of its run."""
    return (path / "result.h5").is_file() if path.is_dir() else path.suffix in (".h5", ".hdf5")


def phase_of(net: Restorer, task: Task, path: Path, /, *, tile: int = 256, overlap: int = 64) -> MendedPhase:
    """Restore the phase of a reconstruction, and hold it against its patterns where the run is beside it.

    Args:
        net: of the task ``phase`` with one channel.
        task: of the network.
        path: ``result.h5``, or the folder of a run.
        tile: pixels along an edge of what the network is shown at once.
        overlap: pixels that neighbouring tiles share.

    Raises:
        BadInput: no result, or a network of another task.
    """
    file = path / "result.h5" if path.is_dir() else path
    if task.name != "phase":
        fix = f"restores a {task.name}, and this is a phase: train one with task: phase"
        raise BadInput("--model", None, fix)
    result = load(file)
    window = result.window
    seen = result.phase[window]
    found: Mended = mended(net, task, seen[None], tile=tile, overlap=overlap)
    change = np.zeros(result.object.shape[-2:])
    change[window] = found.low[0] - seen
    misfits, note = _held(result, change, file.parent)
    finer = None if found.high is None else found.high[0]
    return MendedPhase(seen, found.low[0], finer, result.pixel, misfits, note)


def correlations(first: MendedPhase, second: MendedPhase, /) -> tuple[RingCorrelation, RingCorrelation]:
    """Ring correlation of two halves as they were measured, and as they were restored.

    The second is no measure of resolution: two images that one network restored agree in what it has learned,
    too. It is worth something only where the first one is high as well.

    Args:
        first: from one half of the counts.
        second: from the other.

    Raises:
        BadInput: fields that are too small.
    """
    pairs: Sequence[tuple[np.ndarray, np.ndarray]]
    pairs = (first.measured, second.measured), (first.restored, second.restored)
    laid = (register(remove_ramp(a), remove_ramp(b), max_shift=8) for a, b in pairs)
    one, two = (ring_correlation(a, b, pixel=first.pixel) for a, b in laid)
    return one, two


def _held(result: Result, change: np.ndarray, folder: Path) -> tuple[Misfits | None, tuple[str, ...]]:
    """Misfits with a change of the phase, shared among slices; or why there are none."""
    if not (folder / "run.yaml").is_file() or not (folder / "snapshot.h5").is_file():
        return None, ("no run beside the result: the misfit of the patterns is not known",)
    try:
        job = Job.resume(folder)
    except BadInput as problem:
        return None, (f"the patterns cannot be modelled again: {problem}",)
    if not _is_of(job, result):
        return None, ("the run beside the result is another one: the misfit of the patterns is not known",)
    thing, likelihood = job.model.object, job.level.likelihood
    kept = thing.transmission().detach().clone()
    turn = torch.from_numpy(change / kept.shape[-3]).to(kept.real)
    numbers = []
    for wave in (kept, kept * torch.polar(torch.ones_like(turn), turn), torch.ones_like(kept)):
        thing.put(wave)
        numbers.append(likelihood.remaining()["poisson"])
    return Misfits(*numbers), ()


def _is_of(job: Job, result: Result) -> bool:
    """Whether a run holds the object of a result, now or as its best epoch."""
    if _off(job, result) <= SAME:
        return True
    if job.progress.best is None:
        return False
    job.progress.restore_best()
    return _off(job, result) <= SAME


def _off(job: Job, result: Result) -> float:
    """How far two objects differ, in parts of the one of the result."""
    found = images_of(job.model)["object"]
    if found.shape != result.object.shape:
        return float("inf")
    return float(np.linalg.norm(found - result.object) / np.linalg.norm(result.object))
