"""What a PtyRAD file searches (``hypertune_params``), as a run file and a search file of ours.

Which of our settings a tuned one moves is found by trial: the file is translated with several of its values;
where the translations differ, there is the knob, with its values in our units.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.schema import check_tree
from phaseloom.compat.ptyrad.translation.project_file import translate_project
from phaseloom.errors import BadInput
from phaseloom.spec import knobs as get_knobs

__all__ = ["translate_search"]

Tree = dict[str, Any]
Place = tuple[Any, ...]

_RATES = {
    "plr": "probe",
    "oalr": "obja",
    "oplr": "objp",
    "slr": "probe_pos_shifts",
    "tlr": "obj_tilts",
    "dzlr": "slice_thickness",
}
_AFFINE = ("scale", "asymmetry", "rotation", "shear")
_PLACES: dict[str, Place] = {
    "optimizer": ("model_params", "optimizer_params", "name"),
    "batch_size": ("recon_params", "BATCH_SIZE", "size"),
    "dx": ("init_params", "meas_calibration", "value"),
    "pmode_max": ("init_params", "probe_pmode_max"),
    "conv_angle": ("init_params", "probe_conv_angle"),
    "z_shift": ("init_params", "probe_z_shift"),
    "Nlayer": ("init_params", "obj_Nlayer"),
    "dz": ("init_params", "obj_slice_thickness"),
    **{name: ("init_params", "pos_scan_affine", number) for number, name in enumerate(_AFFINE)},
    "tilt_y": ("init_params", "tilt_params", "init_tilts", 0, 0),
    "tilt_x": ("init_params", "tilt_params", "init_tilts", 0, 1),
    **{name: ("model_params", "update_params", part, "lr") for name, part in _RATES.items()},
}
"""Where a tuned setting stands in a file; all others are aberrations."""

_EMPTY: Tree = {
    "pos_scan_affine": [1.0, 0.0, 0.0, 0.0],
    "tilt_params": {"tilt_type": "all", "init_tilts": [[0.0, 0.0]]},
}
"""What stands there where a file says nothing."""

_ENGINE_NAMES = {
    "nsgaii": "nsga",
    "nsgaiii": "nsga",
    "bruteforce": "grid",
    "successivehalving": "halving",
}
"""Our samplers and pruners where they have another name than Optuna's ``...Sampler`` and ``...Pruner``."""

INNER_SHARES = (0.2, 0.45, 0.7)
"""Values within a range that are tried: a setting may vanish at its ends, as a rotation by zero does."""


def translate_search(tree: Mapping[str, Any], folder: Path, /) -> tuple[Tree, Tree, list[str]]:
    """The trees of a run file and of a search file that do what ``hypertune_params`` says, and notes.

    Args:
        tree: of a PtyRAD file.
        folder: of that file.

    Raises:
        BadInput: a file that PtyRAD would not take, or one that tunes nothing.

    Example:
        >>> init = {"probe_kv": 80, "probe_conv_angle": 24.9, "meas_Npix": 128, "obj_Nlayer": 1}
        >>> init |= {"pos_N_scan_slow": 8, "pos_N_scan_fast": 9, "pos_scan_step_size": 0.4}
        >>> init |= {"obj_slice_thickness": 2, "meas_params": {"path": "scan.npy"}}
        >>> knob = {"state": True, "suggest": "float", "kwargs": {"low": -100, "high": -50}}
        >>> tuned = {"if_hypertune": True, "tune_params": {"C10": knob}}
        >>> translate_search({"init_params": init, "hypertune_params": tuned}, Path("."))[1]["over"]
        {'probe.focused.defocus': {'low': '50 A', 'high': '100 A'}}
    """
    base, _ = check_tree(tree)
    tuned = base["hypertune_params"]
    base = {**base, "hypertune_params": {"if_hypertune": False}}
    notes: list[str] = []
    over: Tree = {}
    fixed: Tree = {}
    for name, one in tuned["tune_params"].items():
        if one is None or not one["state"]:
            continue
        place = f"hypertune_params.tune_params.{name}"
        try:
            base, knob, note, beside = _translate_knob(base, folder, name, one)
        except BadInput as problem:
            notes.append(f"{place} is not searched: {problem}")
            continue
        if note:
            notes.append(f"{place}: {note}")
        over |= knob
        fixed |= beside
    if not over:
        reasons = "; ".join(notes) or "tunes nothing"
        raise BadInput("hypertune_params", None, f"leaves nothing to be searched here: {reasons}")
    run, _ = translate_project(base, folder)
    for path, value in fixed.items():
        _set_leaf(run, path, value)
    return run, {"over": over, **_translate_engine(tuned, notes)}, notes


def _translate_knob(base: Tree, folder: Path, name: str, one: Tree) -> tuple[Tree, Tree, str, Tree]:
    """A base in which the knob of ours that a setting moves exists; the knob; a note on it.

    And values by their paths which the run file needs to have the knob, and which leave the run as it is.
    """
    kwargs = one["kwargs"]
    whole = one["suggest"] == "int"

    def translate(value: Any) -> Tree:
        return translate_project(_set_setting(base, name, value), folder)[0]

    if one["suggest"] == "cat":
        return base, _find_choices(kwargs["choices"], translate), "", {}
    low = kwargs["low"]
    high = kwargs["high"]
    step = int(kwargs.get("step") or 1)
    values = [high, max(low, high - step)] if whole else [low + s * (high - low) for s in INNER_SHARES]
    leaves = [_get_leaves(translate(value)) for value in values]
    moved = [path for path in leaves[0] if any(tree.get(path) != leaves[0][path] for tree in leaves[1:])]
    if len(moved) > 1 and whole:
        return base, _find_choices(range(low, high + 1, step), translate), "", {}
    if len(moved) != 1:
        fix = f"it changes {', '.join(moved) or 'nothing'}: search one of ours instead"
        raise BadInput("here", None, fix)
    (path,) = moved
    found = [tree.get(path) for tree in leaves]
    ends = [_get_leaves(translate(value)).get(path) for value in (low, high)]
    knob, note = _find_range(values, found, ends, kwargs)
    section = path.split(".")[0]
    present = _get_leaves(translate_project(base, folder)[0])
    new = {key: value for key, value in leaves[0].items() if key not in present}
    beside = {key: value for key, value in new.items() if key.split(".")[0] == section}
    if path in beside:
        beside = {path: _find_neutral_value(base, name, values, found)}
        base = _set_setting(base, name, values[0])
    return base, {path: knob}, note, beside


def _find_neutral_value(base: Tree, name: str, values: Sequence[float], found: Sequence[Any]) -> Any:
    """Our value for a setting that the file leaves at what changes nothing."""
    plain: Any = base
    for step in _get_place(name):
        inner = plain.get(step) if isinstance(plain, dict) else plain[int(step)]
        plain = _EMPTY.get(str(step)) if inner is None else inner
        if plain is None:
            break
    ours, unit = _parse_values(found)
    slope = (ours[1] - ours[0]) / (values[1] - values[0])
    return _format_value(ours[0] + slope * (float(plain or 0) - values[0]), unit, whole=False)


def _find_range(
    values: Sequence[float], found: Sequence[Any], ends: Sequence[Any], kwargs: Tree
) -> tuple[Tree, str]:
    """A range of ours for one of theirs, by its ends; where these vanish, by a line through inner values."""
    ours, unit = _parse_values(found)
    slope = (ours[1] - ours[0]) / (values[1] - values[0])
    line = [ours[0] + slope * (value - values[0]) for value in values]
    straight = all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(line, ours, strict=True))
    if None not in ends:
        limits = _parse_values(ends)[0]
    elif straight:
        limits = [ours[0] + slope * (kwargs[end] - values[0]) for end in ("low", "high")]
    else:
        fix = "it means another number, not in proportion: search ours instead"
        raise BadInput("here", None, fix)
    whole = all(float(number).is_integer() for number in limits) and isinstance(values[0], int)
    low, high = (_format_value(number, unit, whole=whole) for number in sorted(limits))
    knob: Tree = {"low": low, "high": high} | ({"log": True} if kwargs.get("log") else {})
    step = abs(slope) * float(kwargs.get("step") or 0)
    if step and straight and not (whole and step == 1):
        knob["step"] = _format_value(step, unit, whole=whole)
    return knob, "" if straight else "is drawn evenly in another quantity here, without a step"


def _find_choices(values: Sequence[Any], translate: Callable[[Any], Tree]) -> Tree:
    """The section, or the value in it, that differs between translations, with what it can be."""
    trees = [translate(value) for value in values]
    leaves = [_get_leaves(tree) for tree in trees]
    paths = {path for tree in leaves for path in tree}
    moved = {path for path in paths if len({str(tree.get(path)) for tree in leaves}) > 1}
    sections = {path.split(".")[0] for path in moved}
    if len(sections) != 1:
        what = f"change {', '.join(sorted(sections))} at once" if sections else "change nothing"
        raise BadInput("its choices", None, f"{what} here: search one of ours instead")
    if len(moved) == 1 and all(path in tree for tree in leaves for path in moved):
        (path,) = moved
        return {path: [tree[path] for tree in leaves]}
    (section,) = sections
    return {section: [tree[section] for tree in trees]}


def _get_place(name: str) -> Place:
    return _PLACES.get(name, ("init_params", "probe_aberrations", name))


def _set_setting(tree: Tree, name: str, value: Any) -> Tree:
    """A PtyRAD file with another value of a tuned setting."""
    changed = deepcopy(tree)
    *above, last = _get_place(name)
    node: Any = changed
    for step in above:
        if isinstance(node, dict) and node.get(step) is None:
            node[step] = deepcopy(_EMPTY.get(step, {}))
        node = node[step]
    node[last] = value
    if name == "dx":
        node["mode"] = "dx"
    return changed


def _get_leaves(tree: Any) -> Tree:
    """Values by their paths."""
    return dict(_walk(tree, ""))


def _walk(tree: Any, above: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict | list):
        yield above, tree
        return
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _walk(value, f"{above}.{name}" if above else str(name))


def _set_leaf(tree: Any, path: str, value: Any) -> None:
    *above, last = path.split(".")
    for step in above:
        tree = tree[int(step) if isinstance(tree, list) else step]
    tree[int(last) if isinstance(tree, list) else last] = value


def _parse_values(values: Sequence[Any]) -> tuple[list[float], str]:
    """Numbers, and the unit of the first."""
    pairs = [_parse_value(value) for value in values]
    return [number for number, _ in pairs], pairs[0][1]


def _parse_value(value: Any) -> tuple[float, str]:
    found = re.fullmatch(r"([-+.\deE]+)(?: (\S+))?", str(value))
    if isinstance(value, bool) or found is None:
        raise BadInput("here", None, f"it becomes {value}, which is not a number: search one of ours instead")
    return float(found[1]), found[2] or ""


def _format_value(number: float, unit: str, *, whole: bool) -> Any:
    text = f"{0.0 if abs(number) < 1e-12 else number:.10g}"
    if unit:
        return f"{text} {unit}"
    return round(number) if whole else float(text)


def _translate_engine(tuned: Tree, notes: list[str]) -> Tree:
    """Sampler, pruner, objective and how many trials."""
    search: Tree = {"trials": tuned["n_trials"], "objective": tuned["error_metric"]}
    if tuned["timeout"] is not None:
        search["seconds"] = tuned["timeout"]
    for kind in ("sampler", "pruner"):
        given = tuned[f"{kind}_params"]
        name = "none" if given is None else given["name"].lower().removesuffix(kind)
        name = _ENGINE_NAMES.get(name, name)
        configs = {} if given is None else given["configs"] or {}
        if kind == "pruner" and search["objective"] == "contrast" and name != "none":
            notes.append("hypertune_params.pruner_params: contrast is known at the end only: none")
            name = "none"
            configs = {}
        search[kind] = {name: _translate_configs(name, configs, kind, notes)}
    if tuned["storage_path"] != "sqlite:///hypertune.sqlite3":
        search["storage"] = tuned["storage_path"]
    if tuned["study_name"] != "study":
        search["study"] = tuned["study_name"]
    return search


def _translate_configs(name: str, configs: Tree, kind: str, notes: list[str]) -> Tree:
    """The arguments that our sampler or pruner has."""
    known = get_knobs(f"phaseloom.search.{kind}s", name)
    missing = sorted(set(configs) - set(known))
    if missing:
        notes.append(f"hypertune_params.{kind}_params.configs: {', '.join(missing)} of {name} are left out")
    return {key: value for key, value in configs.items() if key in known}
