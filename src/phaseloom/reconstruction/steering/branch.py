"""A new run from the snapshot of another one, with other settings."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.files import fresh, whole
from phaseloom.fitting import checkpoint
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.steering.settings import change_settings, complete_settings, find_settings_at
from phaseloom.runs.control import require_run_folder
from phaseloom.runs.folder import EVENTS_NAME, list_kept_epochs, path_of_kept, save_events, save_recipe
from phaseloom.runs.lock import OutputLock
from phaseloom.runs.steered import SteeredCommand, list_effective

__all__ = ["branch_run"]


def branch_run(
    folder: Path | str,
    new: Path | str,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    epoch: int | None = None,
) -> Path:
    """Make the folder of a new run that goes on from a snapshot of another one; that one is left alone.

    The other run may be under way, have ended, or have been killed. Resuming the new folder begins the branch
    (`phaseloom.reconstruction.protocol.Job.resume`); its recipe, run from the start, gives the same bits.

    Args:
        folder: of the run.
        new: folder to make.
        settings: other values from here on, by their paths; those that a run under way can change.
        epoch: of a snapshot that was kept; default: the last one.

    Raises:
        BadInput: no snapshot, settings that cannot be changed, no epochs left, a folder that is not empty, or
            that another process writes.
    """
    folder = require_run_folder(folder)
    with OutputLock(fresh(new, "branch")):
        new = fresh(new, "branch")  # another process may have been quicker
        snapshot = _find_snapshot(folder, epoch)
        recorded = Reconstruct.from_path(folder / "run.yaml")
        with whole(new / "snapshot.h5") as short:
            shutil.copyfile(snapshot, short)  # first: a run under way may replace it
            history = checkpoint.read_history(short, events=folder / EVENTS_NAME)
            done = checkpoint.read_epoch(short)
            branch = _branch_recipe(recorded, dict(settings or {}), done, with_own=epoch is None)
        origin = {"run": str(folder.resolve()), "epoch": done}
        branch = branch.model_copy(update={"found": {**branch.found, "branch": origin}})
        save_events(history, new)
        save_recipe(branch, new)  # last: a folder without it holds no run
    return new


def _find_snapshot(folder: Path, epoch: int | None) -> Path:
    """The snapshot of an epoch, or the last one."""
    last = folder / "snapshot.h5"
    path = last if epoch is None else path_of_kept(folder, epoch)
    if path.is_file():
        return path
    if epoch is None:
        raise BadInput("branch", str(folder), "holds no snapshot yet: wait for the first epoch")
    if last.is_file() and checkpoint.read_epoch(last) == epoch:
        return last
    kept = ", ".join(map(str, list_kept_epochs(folder))) or "none"
    raise BadInput("branch: epoch", epoch, f"has no snapshot that was kept; kept are: {kept}")


def _branch_recipe(
    recorded: Reconstruct, settings: dict[str, Any], done: int, *, with_own: bool
) -> Reconstruct:
    """The recipe of the branch: commands up to its epoch, then its own settings.

    Args:
        recorded: recipe of the other run.
        settings: of the branch.
        done: epochs of the snapshot.
        with_own: whether commands that came after the last of these epochs hold too.
    """
    last = done if with_own else done - 1
    kept = [one for one in list_effective(recorded.steered) if one.epoch <= last]
    changes = tuple(one for one in recorded.changes if one.epoch <= last + 1)
    recorded = recorded.model_copy(update={"steered": tuple(kept), "changes": changes})
    now = find_settings_at(recorded, done)
    settings = complete_settings(now, settings)
    changed = change_settings(now, settings, done)
    if changed.epochs <= done:
        fix = f"are all done: give the branch more of them, --set epochs={2 * done}"
        raise BadInput("branch: epochs", changed.epochs, fix)
    own = SteeredCommand(epoch=done, command="set", settings=settings)
    return recorded.model_copy(update={"steered": (*kept, own)})
