"""Apply a restorer to the phase of a reconstruction, and compare with the diffraction patterns.

A restored phase looks better than the measured one; the patterns show how far it is right: the reconstructed
object, with its phase restored, is passed through the forward model of the run again. A network that only
removes noise leaves a misfit that is hardly higher. One that invents structure raises it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.metrics.phase import remove_ramp
from phaseloom.metrics.resolution import RingCorrelation, register, ring_correlation
from phaseloom.reconstruction.half_data_frc import run_quietly
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.result_builder import build_images
from phaseloom.restoration.apply import STAMP, restore_image
from phaseloom.restoration.half_data_network import restore_by_halves
from phaseloom.restoration.half_phases import reconstruct_half_phases
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.image_kinds import ImageKind
from phaseloom.result import Result, load

__all__ = ["PatternMisfits", "RestoredPhase", "compare_with_patterns", "correlate_halves", "is_run"]
__all__ += ["restore_phase"]

MAX_OBJECT_DIFFERENCE = 0.02
"""Relative difference of two objects that are considered the same."""


MAX_LOSS_OF_RESTORED = 0.05
"""Share of what the object explains that a restored phase may lose; filters lost 0.02 at most on a few."""


@dataclass(frozen=True)
class PatternMisfits:
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
        text = f"misfit of the patterns: {self.measured:.4g} as reconstructed, {self.restored:.4g} restored"
        text = f"{text}, {self.empty:.4g} without an object (Poisson deviance per pixel)"
        lost = self.restored - self.measured > MAX_LOSS_OF_RESTORED * max(self.empty - self.measured, 0.0)
        return (
            f"{text}. The patterns contradict the restored phase: keep the one as reconstructed"
            if lost
            else text
        )


@dataclass(frozen=True, eq=False)
class RestoredPhase:
    """A restored phase, over the scanned field, in radian.

    Attributes:
        measured: ``(y, x)`` of the reconstruction, summed over slices.
        restored: ``(y, x)``.
        finer: ``(2y, 2x)``, or ``None``.
        pixel: (y, x), angstrom.
        misfits: of the patterns, if the run is available.
        notes: what could not be done, in sentences.
        stamp: mark of what was restored.
    """

    measured: np.ndarray
    restored: np.ndarray
    finer: np.ndarray | None
    pixel: tuple[float, float]
    misfits: PatternMisfits | None
    notes: tuple[str, ...] = ()
    stamp: str = STAMP

    def write(self, path: Path, model: str, /) -> Path:
        """Write everything to an HDF5 file, with the stamp.

        Args:
            path: to write.
            model: the restorer, or the filter.
        """
        arrays = {"measured": self.measured, "restored": self.restored, "finer": self.finer}
        with whole_hdf5(path) as file:
            for name, image in arrays.items():
                if image is not None:
                    made = file.create_dataset(name, data=image.astype(np.float32))
                    factor = 2 if name == "finer" else 1
                    made.attrs.update({"units": "radian", "pixel": np.array(self.pixel) / factor})
                    made.attrs["stamp"] = "as reconstructed" if name == "measured" else self.stamp
            file.attrs.update({"stamp": self.stamp, "model": model, "pixel_units": "angstrom"})
            file.attrs["misfits"] = "" if self.misfits is None else json.dumps(asdict(self.misfits))
            file.attrs["notes"] = "\n".join(self.notes)
        return path


def is_run(path: Path, /) -> bool:
    """Whether a path is a reconstruction: its file, or the folder of its run."""
    return _find_result(path).is_file() if path.is_dir() else path.suffix in (".h5", ".hdf5")


def _find_result(path: Path) -> Path:
    """The file of a result, or that in the folder of a run."""
    return path / "result.h5" if path.is_dir() else path


def restore_phase(
    net: Restorer,
    kind: ImageKind,
    path: Path,
    /,
    *,
    by_halves: bool = False,
    tile: int = 256,
    overlap: int = 64,
    drive: Callable[[Job], Any] = run_quietly,
) -> RestoredPhase:
    """Restore the phase of a reconstruction, and compare with its patterns if the run is beside it.

    Args:
        net: of the task ``phase`` with one channel.
        kind: of the network's images.
        path: ``result.h5``, or the folder of a run.
        by_halves: whether the network is one of `phaseloom.restoration.half_data_network`, which costs two
            more runs, on half of the counts each.
        tile: pixels along an edge of the network's input.
        overlap: pixels that neighbouring tiles share.
        drive: runs the job of a half to its end; default: in silence.

    Raises:
        BadInput: no result, a network of another task, or halves as of `reconstruct_half_phases`.
        KeyboardInterrupt: the run of a half was interrupted.
    """
    file = _find_result(path)
    if kind.name != "phase":
        fix = f"restores a {kind.name}, and this is a phase: train one with task: phase"
        raise BadInput("--model", None, fix)
    result = load(file)
    window = result.window
    measured = result.phase[window]
    tiles = {"tile": tile, "overlap": overlap}
    if by_halves:
        halves = reconstruct_half_phases(file.parent, result, drive=drive)
        found = restore_by_halves(net, kind, measured, *halves, **tiles)
    else:
        found = restore_image(net, kind, measured[None], **tiles)
    restored = found.low[0]
    change = np.zeros(result.object.shape[-2:])
    change[window] = restored - measured
    misfits, notes = compare_with_patterns(result, change, file.parent)
    finer = None if found.high is None else found.high[0]
    return RestoredPhase(measured, restored, finer, result.pixel, misfits, notes)


def check_halves(first: Path, second: Path, /) -> None:
    """Refuse two results that cannot be of two halves of the counts.

    Args:
        first: ``result.h5``, or the folder of a run.
        second: the other.

    Raises:
        BadInput: results of the same counts, or of scans with different positions.
    """
    one, two = (load(_find_result(path)) for path in (first, second))
    if one.provenance and two.provenance and one.provenance.data == two.provenance.data:
        fix = f"is of the same counts as {first}, so that their noise is one: give a result of each half"
        raise BadInput("--halves", str(second), fix)
    if one.positions_start.shape != two.positions_start.shape or not np.allclose(one.pixel, two.pixel, 0.05):
        fix = f"has {len(two.positions)} patterns and pixels of {two.pixel[0]:.3g} A, {first} has"
        fix += f" {len(one.positions)} and {one.pixel[0]:.3g} A: give results of two halves of one scan"
        raise BadInput("--halves", str(second), fix)


def correlate_halves(
    first: RestoredPhase, second: RestoredPhase, /
) -> tuple[RingCorrelation, RingCorrelation]:
    """Ring correlation of two halves as measured, and as restored.

    The second does not measure resolution: two images restored by one network agree in what it has learned,
    too. It is meaningful only where the first one is high as well.

    Args:
        first: from one half of the counts.
        second: from the other.

    Raises:
        BadInput: fields that are too small.
    """

    def correlate(one: np.ndarray, two: np.ndarray) -> RingCorrelation:
        registered = register(remove_ramp(one), remove_ramp(two), max_shift=8)
        return ring_correlation(*registered, pixel=first.pixel)

    return correlate(first.measured, second.measured), correlate(first.restored, second.restored)


def compare_with_patterns(
    result: Result, change: np.ndarray, folder: Path, /
) -> tuple[PatternMisfits | None, tuple[str, ...]]:
    """Misfits with a change of the phase, divided among slices; or a note why there are none.

    Args:
        result: of a run.
        change: ``(y, x)`` of the phase of the whole object, radian.
        folder: of the run.
    """
    if not (folder / "run.yaml").is_file() or not (folder / "snapshot.h5").is_file():
        return None, ("no run beside the result: the misfit of the patterns is not known",)
    try:
        job = Job.load(folder)
    except BadInput as problem:
        return None, (f"the patterns cannot be modelled again: {problem}",)
    if not _holds_object(job, result):
        return None, ("the run beside the result is another one: the misfit of the patterns is not known",)
    sample = job.model.object
    measured = sample.transmission().detach().clone()
    turn = torch.from_numpy(change / measured.shape[-3]).to(measured.real)
    misfits = []
    for wave in (measured, measured * torch.polar(torch.ones_like(turn), turn), torch.ones_like(measured)):
        sample.set_transmission(wave)
        misfits.append(job.level.likelihood.measure_residuals()["poisson"])
    return PatternMisfits(*misfits), ()


def _holds_object(job: Job, result: Result) -> bool:
    """Whether a run holds the object of a result, now or as its best epoch."""
    if _relative_difference(job, result) <= MAX_OBJECT_DIFFERENCE:
        return True
    if job.progress.best is None:
        return False
    job.progress.restore_best()
    return _relative_difference(job, result) <= MAX_OBJECT_DIFFERENCE


def _relative_difference(job: Job, result: Result) -> float:
    """Difference of two objects, in parts of the one of the result."""
    found = build_images(job.model)["object"]
    if found.shape != result.object.shape:
        return float("inf")
    return float(np.linalg.norm(found - result.object) / np.linalg.norm(result.object))
