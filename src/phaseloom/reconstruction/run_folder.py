"""The folder of a reconstruction: what is written into it, and when."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, WriteFailed
from phaseloom.fitting import checkpoint
from phaseloom.fitting.loop import Progress
from phaseloom.ptycho.illumination import Probe
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.runs.folder import EVENTS_NAME, SNAPSHOT_NAME, append_event, keep_snapshot
from phaseloom.runs.lock import OutputLock

__all__ = [
    "check_arguments",
    "hash_setup",
    "list_fixed_settings",
    "save_epoch",
    "save_figures",
    "save_result",
    "save_snapshot",
]

log = logging.getLogger(__name__)


def check_arguments(recipe: Any, folder: Any, scan: Any, /, *, place: str = "Job.begin") -> OutputLock | None:
    """The lock of the folder of a new run, after a check of what `Job.begin`, or another place, was given.

    Raises:
        BadInput: something of the wrong kind, or a folder that holds a run, or that another process writes.
    """
    if not isinstance(recipe, Reconstruct):
        fix = "is not a recipe: make one, Reconstruct.of({...}) or Reconstruct.from_path(file)"
        raise BadInput(f"{place}: recipe", type(recipe).__name__, fix)
    if isinstance(folder, Scan4D):
        raise BadInput("Job.begin: directory", "a scan", "goes by its name: Job.begin(recipe, scan=scan)")
    if not isinstance(scan, Scan4D | None):
        fix = "is not a scan: make one, Scan4D(counts=..., positions=..., geometry=...)"
        raise BadInput(f"{place}: scan", type(scan).__name__, fix)
    if folder is None:
        return None
    if not isinstance(folder, str | Path):
        raise BadInput("Job.begin: directory", type(folder).__name__, "is not the path of a folder")
    path = Path(folder)
    fix = "exists already: name a new folder, or use Job.resume to continue the run in it"
    if path.exists() and not path.is_dir():
        raise BadInput("Job.begin: directory", str(path), fix)
    lock = OutputLock(path)
    if (path / "run.yaml").exists():
        lock.release()
        raise BadInput("Job.begin: directory", str(path), fix)
    return lock


FREE_SETTINGS = frozenset(
    {"file", "read", "epochs", "patience", "rates", "changes", "steered", "shape", "snapshots", "outputs"}
    | {"device", "title", "compare_starts"}
)
"""Settings that may be others when a run is resumed; the model and what is known of the scan stay."""


def list_fixed_settings(recipe: Reconstruct, /) -> dict[str, Any]:
    """The settings that a snapshot depends on, as a JSON tree."""
    tree = {key: value for key, value in recipe.to_full_tree().items() if key not in FREE_SETTINGS}
    tree["found"] = {key: value for key, value in tree["found"].items() if key not in ("branch", "fitted")}
    return json.loads(json.dumps(tree, default=str))


def save_snapshot(
    progress: Progress, folder: Path, /, *, coarsening: float, settings: Mapping[str, Any] | None = None
) -> None:
    """Write the state of a fit.

    Args:
        progress: to go on from.
        folder: of the run.
        coarsening: pixel of the level under way over that of the finest one.
        settings: see `list_fixed_settings`.
    """
    of = {"level": round(math.log2(coarsening)), "settings": settings, "events": folder / EVENTS_NAME}
    checkpoint.save(progress, folder / SNAPSHOT_NAME, **of, facts=_describe_model(progress.model))


def _describe_model(model: Any) -> dict[str, Any]:
    """What viewers need besides parameters: where pixels lie, whether the probe's numbers are its pixels."""
    room = model.object.canvas
    facts = {"pixel": _measure_pixel(model), "canvas": room.shape, "window": room.window}
    facts |= {"canvas pixel": room.pixel, "origin": room.origin}
    return facts | {"probe is pixels": isinstance(model.probe, Probe) and model.probe.support is None}


def _measure_pixel(model: Any) -> tuple[float, float]:
    """Pixel of the numbers of an object (y, x), angstrom: coarser than the canvas if it is band-limited."""
    canvas = model.object.canvas
    if canvas.tiling is not None:
        return canvas.pixel
    grid = next(iter(model.object.parameters())).shape[-2:]
    height, width = (
        side * many / few for side, many, few in zip(canvas.pixel, canvas.shape, grid, strict=True)
    )
    return height, width


def save_epoch(
    progress: Progress,
    folder: Path,
    /,
    *,
    coarsening: float,
    settings: Mapping[str, Any] | None = None,
    keep_every: int = 0,
) -> None:
    """Write the snapshot of an epoch, and its line of ``events.jsonl``.

    Args:
        progress: whose history ends with the epoch.
        folder: of the run.
        coarsening: see `save_snapshot`.
        settings: see `list_fixed_settings`.
        keep_every: epochs after which the snapshot is kept; 0: never.
    """
    save_snapshot(progress, folder, coarsening=coarsening, settings=settings)
    if keep_every and progress.epoch % keep_every == 0:
        keep_snapshot(folder, progress.epoch)
    append_event(progress.history[-1], folder)


def save_result(result: Result, folder: Path, /) -> None:
    """Write ``result.h5``: the one place that does."""
    result.save(folder / "result.h5")


def save_figures(result: Result, folder: Path, /) -> None:
    """Draw ``report.png``, ``phase.png`` and, where sigma is known, ``sigma.png``.

    One that cannot be written is left out with a warning: a run does not end for a picture.
    """
    from phaseloom import plot

    drawn = {"report.png": plot.report, "phase.png": plot.object_phase}
    drawn |= {} if result.sigma is None else {"sigma.png": plot.object_sigma}
    for name, draw in drawn.items():
        try:
            plot.save(draw(result), folder / name)
        except WriteFailed as problem:
            log.warning("%s", problem)


DIGITS_OF_SETUP = 9
"""Of the numbers of a geometry that are compared: distances that are corrected twice are rounded otherwise
than by the one step of `prepare` that a run which is resumed takes in their place."""


def hash_setup(scan: Scan4D, /, digits: int | None = DIGITS_OF_SETUP) -> str:
    """A hash of what `Scan4D.digest` leaves out: geometry, first guesses and corrections.

    Args:
        scan: of a run.
        digits: of the numbers of the geometry; ``None``: all, as in earlier versions.
    """
    grids = [_round_numbers(asdict(one), digits) for one in (scan.geometry, scan.window)]
    text = json.dumps(grids, default=lambda value: value.tolist())
    found = hashlib.blake2b(text.encode(), digest_size=16)
    for name in ("probe", "weights", "background", "flat", "descan"):
        value = getattr(scan, name)
        found.update(name.encode() + (b"" if value is None else np.ascontiguousarray(value).tobytes()))
    return found.hexdigest()


def _round_numbers(value: Any, digits: int | None) -> Any:
    """Nested values with numbers of so many digits."""
    if digits is None:
        return value
    if isinstance(value, Mapping):
        return {name: _round_numbers(one, digits) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return _round_numbers(value.tolist(), digits)
    if isinstance(value, list | tuple):
        return [_round_numbers(one, digits) for one in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
