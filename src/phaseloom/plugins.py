"""What other packages, and scripts, add to the rooms of this one: readers, noise models, penalties, probes.

A room is known by its last name: ``formats``, ``noise``, ``penalties``, ``projections``, ``probes``, ... An
installed package names its functions as entry points of the group ``phaseloom.<room>``; a script says
`register`. Both are then choices of a parameter file like those of this package, whose own names win.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from phaseloom.errors import BadInput, BadPlugin, nearest

__all__ = ["function", "name_errors_of", "name_plugin_errors", "names", "place", "register", "target"]

ROOMS = (
    "data.formats",
    "data.prepare",
    "reconstruction.start",
    "fitting.optimizers",
    "fitting.schedule",
    "export",
)
ROOMS += tuple(f"ptycho.{room}" for room in ("objects", "probes", "propagators", "detectors", "batches"))
ROOMS += tuple(f"ptycho.{room}" for room in ("noise", "penalties", "projections"))
"""What can be added to."""

FROM_SYSTEMS = {
    ("objects", "predicted"): "phaseloom.retrieval.network_start:predict_object",
    ("prepare", "denoise"): "phaseloom.embedding.embeddings:denoise",
    ("prepare", "register"): "phaseloom.embedding.registration:register",
    ("formats", "simulated"): "phaseloom.simulation.samples:read_scan",
    ("result", "write"): "phaseloom.export.files:write",
    ("result", "describe"): "phaseloom.plot.cards:describe_result",
    ("result", "view"): "phaseloom.web.notebook:view_result",
    ("protocol", "view"): "phaseloom.web.notebook:view_job",
    ("scan", "describe"): "phaseloom.plot.cards:describe_scan",
    ("cli", "open_folder"): "phaseloom.web.page:open_folder",
}
"""Choices of this package that need a system above their room: the room and the name, and where they are.

Imported when they are first used, so that no lower package imports a higher one. This table is the one place
where such an arrow may stand.
"""

Plugin = Callable[..., Any] | ModuleType
_registered: dict[tuple[str, str], Plugin] = {}


def register(room: str, plugin: Plugin, /, *, name: str | None = None) -> None:
    """Make a function, or a module with a function ``read``, a choice of a room for this process.

    A later one of the same name takes its place. A run that uses it is resumed by a program that has
    registered it before.

    Args:
        room: see the module.
        plugin: a function as those of the room are: pipeline values before the ``/``, knobs after the ``*``.
            A reader may have an attribute ``knows(path) -> bool`` that tells its files from others.
        name: by which parameter files call it; default: its own.

    Raises:
        BadInput: no such room, no function, or a name of this package.

    Example:
        >>> def cubic(model, counts, /, *, weight: float = 1.0):
        ...     "Third power of the difference."
        ...     return weight * abs(model - counts) ** 3
        >>> register("noise", cubic)
        >>> from phaseloom.spec import call
        >>> call("phaseloom.ptycho.noise", {"cubic": {"weight": 2}}, "noise")(5.0, 3.0)
        16.0
    """
    homes = {home.rpartition(".")[2]: f"phaseloom.{home}" for home in ROOMS}
    if room not in homes:
        raise BadInput("register", room, f"is not a room: {nearest(room, homes)}")
    label = name or getattr(plugin, "__name__", "").rpartition(".")[2]
    if not label.isidentifier():
        raise BadInput(f"register: {room}", label or plugin, "is not the name of a choice: give name=")
    if label in importlib.import_module(homes[room]).__all__ or (room, label) in FROM_SYSTEMS:
        raise BadInput(f"register: {room}", label, "is a choice of the package already: give another name=")
    _check_function(plugin, f"register: {room}: {label}")
    _registered[room, label] = plugin


def names(room: str, /) -> list[str]:
    """What others have added to a room, given by its module; nothing is loaded for it."""
    group = room.rpartition(".")[2]
    named = [*FROM_SYSTEMS, *_registered]
    return sorted({name for there, name in named if there == group} | set(_entry_points_of(group)))


def target(room: str, name: str, /) -> Plugin:
    """The function or module of a name.

    Raises:
        BadInput: it cannot be loaded, or two packages claim the name.
    """
    group = room.rpartition(".")[2]
    if (group, name) in FROM_SYSTEMS:
        module, _, function = FROM_SYSTEMS[group, name].partition(":")
        return getattr(importlib.import_module(module), function)
    return _registered.get((group, name)) or _load_entry_point(group, name)


def function(room: str, name: str, /) -> Callable[..., Any]:
    """The function of a name: the plugin itself, or ``read`` of a module; errors as of `target`."""
    return _check_function(target(room, name), f"plugin {room.rpartition('.')[2]}: {name}")


def place(room: str, name: str, /) -> str:
    """How sentences call a plugin: its room, its name and the package, or module, that it is of."""
    group = room.rpartition(".")[2]
    if (group, name) in FROM_SYSTEMS:
        return f"{group}: {name}"
    if (plugin := _registered.get((group, name))) is not None:
        return f"plugin {group}: {name}, of {getattr(plugin, '__module__', None) or plugin.__name__}"
    return f"plugin {group}: {name}, of {_origin(_entry_points_of(group)[name][0])}"


@contextmanager
def name_plugin_errors(room: str, name: str, /) -> Iterator[None]:
    """Whatever a plugin raises becomes a sentence that names it; its own sentences stay as they are.

    Raises:
        BadPlugin: it failed.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as problem:  # whatever a stranger's function does
        fix = f"failed ({type(problem).__name__}: {problem}): tell its author, or name another"
        raise BadPlugin(place(room, name), None, " ".join(fix.split())) from problem


def name_errors_of(room: str, name: str, function: Callable[..., Any], /) -> Callable[..., Any]:
    """A function of a room as a run calls it: errors of a plugin name it (`name_plugin_errors`)."""
    group = room.rpartition(".")[2]
    is_own = name in importlib.import_module(room).__all__ or (group, name) in FROM_SYSTEMS
    if is_own or name not in names(room):
        return function

    @wraps(function)
    def named(*values: Any, **knobs: Any) -> Any:
        with name_plugin_errors(room, name):
            return function(*values, **knobs)

    return named


def _check_function(plugin: Plugin, place: str) -> Callable[..., Any]:
    call = getattr(plugin, "read", None) if isinstance(plugin, ModuleType) else plugin
    if not inspect.isfunction(call):
        raise BadInput(place, plugin, "is not a function or a module with a function read: name one")
    return call


def _entry_points_of(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points of a room by their names."""
    return _list_entry_points().get(f"phaseloom.{group}", {})


@lru_cache(maxsize=1)
def _list_entry_points() -> dict[str, dict[str, list[EntryPoint]]]:
    """Those of all rooms: the files of all packages that are installed are gone through once."""
    every = entry_points()
    found: dict[str, dict[str, list[EntryPoint]]] = {}
    for group in every.groups:
        for point in every.select(group=group) if group.startswith("phaseloom.") else ():
            found.setdefault(group, {}).setdefault(point.name, []).append(point)
    return found


@lru_cache(maxsize=256)
def _load_entry_point(group: str, name: str) -> Plugin:
    points = _entry_points_of(group)[name]
    place = f"plugin {group}: {name}"
    origins = sorted({_origin(point) for point in points})
    if len(origins) > 1:
        raise BadInput(place, None, f"is claimed by {' and '.join(origins)}: uninstall one of them")
    try:
        return points[0].load()
    except Exception as problem:  # whatever a stranger's module does when it is imported
        fix = f"cannot be loaded ({type(problem).__name__}: {problem}): repair or uninstall it"
        raise BadInput(f"{place}, of {origins[0]}", None, " ".join(fix.split())) from problem


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
