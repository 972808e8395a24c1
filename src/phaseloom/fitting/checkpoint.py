"""Everything a fit needs to go on as if it had never stopped, in one HDF5 file that is never half written."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import (
    Any,
    NotRequired,  # a dependency of pydantic, which needs its own
)

import h5py
import numpy as np
import torch
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict

from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.own_files.members import Member, describe_form, read_group, read_member, read_members
from phaseloom.data.own_files.tables import SNAPSHOT
from phaseloom.documents import parse_json_lines
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.fitting.loop import Progress, load_optimizer_state
from phaseloom.fitting.outcome import Stop, stop_of_sentence
from phaseloom.fitting.tiles import Tiling, find_tile
from phaseloom.physics.patches import Box

__all__ = [
    "give_tiles",
    "load",
    "read_epoch",
    "read_history",
    "read_level",
    "read_model",
    "read_parts",
    "read_settings",
    "save",
]


def save(
    progress: Progress,
    path: Path,
    /,
    *,
    level: int = 0,
    settings: Mapping[str, Any] | None = None,
    events: Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write model, optimiser, history and best state.

    Args:
        progress: to go on from.
        path: of the file.
        level: which of several models it is.
        settings: of the run that must be the same when it is resumed, as a JSON tree.
        events: a file of lines that has, or gets next, the epochs of the history: the snapshot then holds
            the last one only, for the whole of it in each snapshot would grow with the square of the epochs.
        facts: numbers and words for those who look at the file.
    """
    best = progress.best and {"epoch": progress.best[0], "loss": progress.best[1]}
    model, optimizer, best_state = _list_states(progress)
    tree = {
        "model": model,
        "optimizer": optimizer,
        "epoch": progress.epoch,
        "history": progress.history if events is None else progress.history[-1:],
        "events": None if events is None else len(progress.history),
        "settings": dict(settings or {}),
        "stopped": progress.stopped,
        "stop": asdict(progress.stop),
        "shown": progress.result_epoch,
        "since": progress.coarse_epochs,
        "other_noise": progress.other_noise_epochs,
        "level": level,
        "facts": dict(facts or {}),
        "best": {**best, "state": best_state} if best else None,
    }
    tensors: list[Tensor | _TilePixels] = []
    text = json.dumps(_pack(tree, tensors))
    with whole_hdf5(path) as file:
        file.attrs["phaseloom_snapshot"] = 1
        file["state"] = text
        for number, tensor in enumerate(tensors):
            if isinstance(tensor, _TilePixels):
                tensor.write(file, f"tensors/{number}")
            else:
                file[f"tensors/{number}"] = tensor.detach().cpu().resolve_conj().numpy()


def give_tiles(progress: Progress, /) -> None:
    """Send the tiles of this process to the main one, which is in `save`; nothing without tiles."""
    tensors: list[Tensor | _TilePixels] = []
    model, optimizer, best = _list_states(progress)
    _pack({"model": model, "optimizer": optimizer, "best": best}, tensors)
    for tensor in tensors:
        if isinstance(tensor, _TilePixels):
            tensor.tiling.collect(tensor.pixels, lambda box, core: None)


@dataclass(frozen=True, eq=False)
class _TilePixels:
    """What this process holds of an array of the canvas, which a file holds whole."""

    pixels: Tensor
    tiling: Tiling

    def write(self, file: h5py.File, name: str) -> None:
        """Write the whole array tile by tile, as processes send them."""

        def place(box: Box, core: Tensor) -> None:
            values = core.resolve_conj().numpy()
            made = file.require_dataset(name, (*values.shape[:-2], *self.tiling.shape), values.dtype)
            made[..., box[0] : box[1], box[2] : box[3]] = values

        self.tiling.collect(self.pixels, place)


def _list_states(progress: Progress) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """States of model, optimiser and best model, in which arrays in tiles are `_TilePixels`."""
    tilings = _find_tilings(progress)
    model = _mark_tiles(progress.model.state_dict(), tilings)
    best = None if progress.best is None else _mark_tiles(progress.best[2], tilings)
    optimizer = _without_shapes(progress.optimizer.state_dict())
    moving = [parameter for group in progress.optimizer.param_groups for parameter in group["params"]]
    state = dict(optimizer["state"])
    for number, kept in state.items():
        if (tile := find_tile(moving[number])) is not None:
            here = {n: v for n, v in kept.items() if _is_like(v, moving[number])}
            state[number] = {**kept, **{n: _TilePixels(v, tile.tiling) for n, v in here.items()}}
    return model, {**optimizer, "state": state}, best


def _find_tilings(progress: Progress) -> dict[str, Tiling]:
    """Tilings of the parameters that are in tiles, by name."""
    tiles = {name: find_tile(parameter) for name, parameter in progress.model.named_parameters()}
    return {name: tile.tiling for name, tile in tiles.items() if tile is not None}


def _mark_tiles(state: Mapping[str, Tensor], tilings: Mapping[str, Tiling]) -> dict[str, Any]:
    return {n: _TilePixels(v, tilings[n]) if n in tilings else v for n, v in state.items()}


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def load(progress: Progress, path: Path, /, *, events: Path | None = None) -> None:
    """Bring a freshly built `Progress` to the state of a file.

    Args:
        progress: with the model and the optimiser of the run.
        path: of the file.
        events: the lines of epochs that the snapshot was saved with.

    Raises:
        BadInput: no snapshot, one of another model, or one whose epochs are missing in ``events``.
    """
    tree = _read(path, next(iter(_find_tilings(progress).values()), None))
    try:
        progress.model.load_state_dict(tree["model"])
        load_optimizer_state(progress.optimizer, _with_shapes(tree["optimizer"], progress.optimizer))
    except (RuntimeError, ValueError) as error:
        fix = "belongs to a run with other data or other settings: resume with the run's own run.yaml"
        raise BadInput("snapshot", str(path), fix) from error
    progress.epoch, last, stopped, best = tree["rest"]
    progress.history = _complete_history(last, tree.get("events"), events)
    stop = tree.get("stop")  # old files hold the sentence alone
    progress.stop = stop_of_sentence(stopped) if stop is None else stop
    progress.result_epoch = tree.get("shown")
    progress.coarse_epochs = tree.get("since", 0)
    progress.other_noise_epochs = tree.get("other_noise", 0)
    progress.best = None if best is None else (best["epoch"], best["loss"], best["state"])


def read_model(path: Path, /) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parameters and buffers of the model of a file by name, and what it says besides tensors.

    Nothing else is read, so that a viewer need not wait for the state of an optimiser. What it says has
    ``epoch``, ``level`` and ``facts`` (as they were saved; empty in older files).

    Raises:
        BadInput: not a snapshot.
    """
    with _open(path) as (file, parts):
        numbers = {name: item["tensor"] for name, item in parts["model"]["pairs"]}
        model = {name: np.asarray(file[f"tensors/{number}"]) for name, number in numbers.items()}
        facts = _unpack(parts.get("facts", {"pairs": []}), [])
        return model, {"epoch": int(parts["epoch"]), "level": parts.get("level", 0), "facts": facts}


def read_history(path: Path, /, *, events: Path | None = None) -> list[dict[str, Any]]:
    """All epochs up to that of a file; its tensors are not read.

    Args:
        path: of the file.
        events: the lines of epochs that it was saved with.

    Raises:
        BadInput: not a snapshot, or one whose epochs are missing in ``events``.
    """
    with _open(path) as (_, parts):
        last, count = _unpack(parts["history"], []), parts.get("events")
    return _complete_history(last, count, events)


def _complete_history(last: list[dict[str, Any]], count: int | None, events: Path | None) -> list[Any]:
    """All epochs: those of the lines of a file, and the last, whose line may not have been written."""
    if count is None:  # the snapshot has them all
        return last
    earlier = [] if events is None else _read_epochs(events)[: count - len(last)]
    if len(earlier) + len(last) == count:
        return earlier + last
    fix = f"lacks epochs before {len(earlier) + 1} of {count}" if not earlier else f"ends at {len(earlier)}"
    fix = f"{fix}: put the whole file back, or begin anew in another folder"
    raise BadInput(str(events or "events"), None, fix)


def _read_epochs(path: Path) -> list[dict[str, Any]]:
    """Epochs of a file of lines, as far as they are whole and in order."""
    epochs: list[dict[str, Any]] = []
    if not path.is_file():
        return epochs
    for event in parse_json_lines(path.read_bytes()):
        if event.get("number") == len(epochs) + 1:
            epochs.append(event)
    return epochs


def read_settings(path: Path, /) -> dict[str, Any]:
    """The settings that a file was saved with; old files know the seed alone, or nothing.

    Its tensors are not read.

    Raises:
        BadInput: not a snapshot.
    """
    with _open(path) as (_, parts):
        if "settings" not in parts:
            return {} if parts.get("seed") is None else {"seed": parts["seed"]}
        return _unpack(parts["settings"], [])


def read_level(path: Path, /) -> int:
    """Which of several models a file is of; its tensors are not read."""
    with _open(path) as (_, parts):
        return int(parts.get("level", 0))


def read_epoch(path: Path, /) -> int:
    """How many epochs were done in a file; its tensors are not read."""
    with _open(path) as (_, parts):
        return int(parts["epoch"])


def read_parts(file: h5py.File, /) -> dict[str, Any]:
    """What an open file holds by name, as it is packed: a tensor is ``{"tensor": number}``."""
    return dict(read_members(file, SNAPSHOT, "snapshot")["state"]["pairs"])


@contextmanager
def _open(path: Path) -> Iterator[tuple[h5py.File, dict[str, Any]]]:
    """An open file and its parts; whatever is wrong in the block is a damage of the file."""
    place = "snapshot"
    try:
        with open_hdf5(path) as file:
            yield file, read_parts(file)
    except BadInput as problem:
        if problem.place.startswith(f"{place}: "):
            raise
        fix = f"is not a snapshot of ours, or is damaged ({problem}): begin the run again"
        raise BadInput(place, str(path), fix) from problem
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        fix = "is not a snapshot of ours, or is damaged: begin the run again"
        raise BadInput(place, str(path), fix) from error


@with_config(ConfigDict(arbitrary_types_allowed=True, extra="allow"))
class _Best(TypedDict):
    epoch: NonNegativeInt
    loss: float
    state: dict[str, Tensor]


@with_config(ConfigDict(arbitrary_types_allowed=True, extra="allow"))
class _State(TypedDict):
    """The state of a fit, as a snapshot must hold it."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    epoch: NonNegativeInt
    history: list[dict[str, Any]]
    stopped: str
    best: _Best | None
    stop: NotRequired[Stop]
    shown: NotRequired[int | None]
    since: NotRequired[NonNegativeInt]
    level: NotRequired[NonNegativeInt]
    seed: NotRequired[int | None]
    settings: NotRequired[dict[str, Any]]
    events: NotRequired[NonNegativeInt | None]
    facts: NotRequired[dict[str, Any]]


def _read(path: Path, tiling: Tiling | None) -> dict[str, Any]:
    with _open(path) as (file, parts):
        tensors = _read_tensors(file, path.name) if tiling is None else _read_tile(file, path.name, tiling)
        try:
            tree = dict(TypeAdapter(_State).validate_python(_unpack({"pairs": [*parts.items()]}, tensors)))
        except ValidationError as problem:
            raise describe_form(problem, f"snapshot: {path}") from None
    _require_finite(tree, path)
    return {**tree, "rest": [tree[name] for name in ("epoch", "history", "stopped", "best")]}


def _read_tensors(file: h5py.File, name: str) -> list[Tensor]:
    stored = read_group(file, "tensors", Member("", "complex", None, finite=False), name)
    return [torch.from_numpy(np.asarray(stored[str(number)])) for number in range(len(stored))]


def _read_tile(file: h5py.File, name: str, tiling: Tiling) -> list[Tensor]:
    """The same, but of arrays of the canvas only what this process holds: no others are as large."""
    group = file["tensors"]
    top, bottom, left, right = tiling.box
    tensors = []
    for number in range(len(group)):  # pyright: ignore[reportArgumentType]
        stored: Any = group[str(number)]  # pyright: ignore[reportIndexIssue]
        if stored.shape[-2:] == tiling.shape:
            tensors.append(torch.from_numpy(stored[..., top:bottom, left:right]))
        else:
            value = read_member(group, Member(str(number), "complex", None, finite=False), name)
            tensors.append(torch.from_numpy(np.asarray(value)))
    return tensors


def _require_finite(tree: dict[str, Any], path: Path) -> None:
    for name, tensor in tree["model"].items():
        if not torch.isfinite(tensor).all():
            fix = f"holds {name} that is not finite: it is damaged, begin the run again"
            raise BadInput("snapshot", str(path), fix)


def _without_shapes(state: dict[str, Any]) -> dict[str, Any]:
    """Shapes of rates are functions: they come from the recipe, not from the file."""
    groups = [{k: v for k, v in group.items() if k != "shape"} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def _with_shapes(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    shapes = [group.get("shape") for group in optimizer.param_groups]
    if len(shapes) != len(state["param_groups"]):
        raise ValueError("other groups")
    groups = [{**group, "shape": shape} for group, shape in zip(state["param_groups"], shapes, strict=True)]
    return {**state, "param_groups": groups}


def _pack(value: Any, tensors: list[Any]) -> Any:
    """The tree with tensors replaced by their number, keys of any kind kept as pairs."""
    if isinstance(value, Tensor | _TilePixels):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        return {"pairs": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {key: _unpack(item, tensors) for key, item in value["pairs"]}
