"""What a PtyRAD file searches (``hypertune_params``), as a run file and a search file of ours.

Which of our settings a tuned one moves is not looked up but found out: the file is translated with several
of its values, and where the translations differ, there is the knob, with its values in our units.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.schema import checked
from phaseloom.compat.ptyrad.translate import translated
from phaseloom.errors import BadInput

__all__ = ["searched"]

Tree = dict[str, Any]

_RATES = {"plr": "probe", "oalr": "obja", "oplr": "objp", "slr": "probe_pos_shifts"}
_RATES |= {"tlr": "obj_tilts", "dzlr": "slice_thickness"}

_PLACES: dict[str, tuple[Any, ...]] = {
    "optimizer": ("model_params", "optimizer_params", "name"),
    "batch_size": ("recon_params", "BATCH_SIZE", "size"),
    "dx": ("init_params", "meas_calibration", "value"),
    "pmode_max": ("init_params", "probe_pmode_max"),
    "conv_angle": ("init_params", "probe_conv_angle"),
    "z_shift": ("init_params", "probe_z_shift"),
    "Nlayer": ("init_params", "obj_Nlayer"),
    "dz": ("init_params", "obj_slice_thickness"),
    **{
        name: ("init_params", "pos_scan_affine", number)
        for number, name in enumerate(("scale", "asymmetry", "rotation", "shear"))
    },
    "tilt_y": ("init_params", "tilt_params", "init_tilts", 0, 0),
    "tilt_x": ("init_params", "tilt_params", "init_tilts", 0, 1),
    **{name: ("model_params", "update_params", part, "lr") for name, part in _RATES.items()},
}
"""Where a tuned setting stands in a file; all others are aberrations."""

_EMPTY: dict[str, Any] = {
    "pos_scan_affine": [1.0, 0.0, 0.0, 0.0],
    "tilt_params": {"tilt_type": "all", "init_tilts": [[0.0, 0.0]]},
}
"""What stands there where a file says nothing."""

_SAMPLERS = {
    **{"RandomSampler": "random", "TPESampler": "tpe", "GPSampler": "gp", "CmaEsSampler": "cmaes"},
    **{"NSGAIISampler": "nsga", "NSGAIIISampler": "nsga", "GridSampler": "grid", "BruteForceSampler": "grid"},
    "QMCSampler": "qmc",
}
_PRUNERS = {
    **{"MedianPruner": "median", "PatientPruner": "patient", "PercentilePruner": "percentile"},
    **{"SuccessiveHalvingPruner": "halving", "HyperbandPruner": "hyperband", "ThresholdPruner": "threshold"},
}


def searched(tree: Mapping[str, Any], folder: Path, /) -> tuple[Tree, Tree, list[str]]:
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
        >>> searched({"init_params": init, "hypertune_params": tuned}, Path("."))[1]["over"]
        {'probe.focused.defocus': {'low': '50 A', 'high': '100 A'}}
    """
    base, _ = checked(tree)
    tuned, notes, over, stays = base["hypertune_params"], list[str](), Tree(), Tree()
    base = {**base, "hypertune_params": {"if_hypertune": False}}
    wanted = {name: one for name, one in tuned["tune_params"].items() if one is not None and one["state"]}
    for name, one in wanted.items():
        place = f"hypertune_params.tune_params.{name}"
        try:
            base, knob, said, kept = _knob(base, folder, name, one)
        except BadInput as problem:
            notes.append(f"{place} is not searched: {problem}")
            continue
        notes += [f"{place}: {said}"] if said else []
        over, stays = over | knob, stays | kept
    if not over:
        said = "; ".join(notes) or "tunes nothing"
        raise BadInput("hypertune_params", None, f"leaves nothing to be searched here: {said}")
    run = translated(base, folder)[0]
    for path, value in stays.items():
        _laid(run, path, value)
    return run, {"over": over, **_engine(tuned, notes)}, notes


def _knob(base: Tree, folder: Path, name: str, one: Tree) -> tuple[Tree, Tree, str, Tree]:
    """A base in which the knob of ours that a setting moves is there; the knob; what is to be said of it.

    And values by their paths which the run file needs to have the knob, and which leave the run as it is.
    """
    kwargs, whole = one["kwargs"], one["suggest"] == "int"
    made = lambda value: translated(_put(base, name, value), folder)[0]  # noqa: E731 - said in a line
    if one["suggest"] == "cat":
        return base, _choices([made(value) for value in kwargs["choices"]]), "", {}
    values = _inner(kwargs, whole=whole)
    trees = [_leaves(made(value)) for value in values]
    moved = [path for path in trees[0] if any(tree.get(path) != trees[0][path] for tree in trees[1:])]
    if len(moved) > 1 and whole:
        step = int(kwargs.get("step") or 1)
        return base, _choices([made(n) for n in range(kwargs["low"], kwargs["high"] + 1, step)]), "", {}
    if len(moved) != 1:
        raise BadInput(
            "here", None, f"it changes {', '.join(moved) or 'nothing'}: search one of ours instead"
        )
    (path,), ends = moved, [_leaves(made(kwargs[end])).get(moved[0]) for end in ("low", "high")]
    found, there = [tree.get(path) for tree in trees], _leaves(translated(base, folder)[0])
    knob, said = _range(values, found, ends, kwargs)
    section = path.split(".")[0]
    kept = {
        key: value for key, value in trees[0].items() if key.split(".")[0] == section and key not in there
    }
    if path in kept:
        base, kept = _put(base, name, values[0]), {path: _as_it_is(base, name, values, found)}
    return base, {path: knob}, said, kept


def _as_it_is(base: Tree, name: str, values: Sequence[float], found: Sequence[Any]) -> Any:
    """Our value for a setting that the file leaves at what changes nothing."""
    plain: Any = base
    for step in _way(name):
        inner = plain.get(step) if isinstance(plain, dict) else plain[int(step)]
        plain = _EMPTY.get(str(step)) if inner is None else inner
        if plain is None:
            break
    (ours, units) = zip(*map(_number, found), strict=True)
    slope = (ours[1] - ours[0]) / (values[1] - values[0])
    return _shown(ours[0] + slope * (float(plain or 0) - values[0]), units[0], whole=False)


def _laid(tree: Any, path: str, value: Any) -> None:
    """Set a value of a tree at its path."""
    *above, last = path.split(".")
    for step in above:
        tree = tree[int(step) if isinstance(tree, list) else step]
    tree[int(last) if isinstance(tree, list) else last] = value


def _inner(kwargs: Tree, *, whole: bool) -> list[float]:
    """Values within a range; a setting may vanish at its ends, as a rotation by zero does."""
    low, high = kwargs["low"], kwargs["high"]
    if whole:
        return [high, max(low, high - int(kwargs.get("step") or 1))]
    return [low + share * (high - low) for share in (0.2, 0.45, 0.7)]


def _range(
    values: Sequence[float], found: Sequence[Any], ends: Sequence[Any], kwargs: Tree
) -> tuple[Tree, str]:
    """A range of ours for one of theirs: its ends, or where these vanish, a line through values within."""
    (ours, units), low_high = zip(*map(_number, found), strict=True), (kwargs["low"], kwargs["high"])
    slope = (ours[1] - ours[0]) / (values[1] - values[0])
    line = [ours[0] + slope * (value - values[0]) for value in (*values, *low_high)]
    straight = all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(line[: len(ours)], ours, strict=True))
    if None in ends and not straight:
        raise BadInput("here", None, "it means another number, not in proportion: search ours instead")
    exact = line[-2:] if None in ends else [_number(end)[0] for end in ends]
    whole = all(float(number).is_integer() for number in exact) and isinstance(values[0], int)
    low, high = (_shown(number, units[0], whole=whole) for number in sorted(exact))
    knob: Tree = {"low": low, "high": high} | ({"log": True} if kwargs.get("log") else {})
    step = abs(slope) * float(kwargs.get("step") or 0)
    if step and straight and not (whole and step == 1):
        knob["step"] = _shown(step, units[0], whole=whole)
    return knob, "" if straight else "is drawn evenly in another quantity here, without a step"


def _shown(number: float, unit: str, *, whole: bool) -> Any:
    text = f"{0.0 if abs(number) < 1e-12 else number:.10g}"
    return f"{text} {unit}" if unit else round(number) if whole else float(text)


def _choices(trees: Sequence[Tree]) -> Tree:
    """The section, or the value in it, that differs between translations, with what it can be."""
    moved = {path for tree in map(_leaves, trees) for path in tree}
    moved = {path for path in moved if len({str(_leaves(tree).get(path)) for tree in trees}) > 1}
    sections = {path.split(".")[0] for path in moved}
    if len(sections) != 1:
        what = f"change {', '.join(sorted(sections))} at once" if sections else "change nothing"
        raise BadInput("its choices", None, f"{what} here: search one of ours instead")
    if len(moved) == 1 and all(path in _leaves(tree) for tree in trees for path in moved):
        (path,) = moved
        return {path: [_leaves(tree)[path] for tree in trees]}
    (section,) = sections
    return {section: [tree[section] for tree in trees]}


def _way(name: str) -> tuple[Any, ...]:
    """Where a tuned setting stands in a file."""
    return _PLACES.get(name, ("init_params", "probe_aberrations", name))


def _put(tree: Tree, name: str, value: Any) -> Tree:
    """A PtyRAD file with another value of a tuned setting."""
    out = deepcopy(tree)
    way = _way(name)
    node: Any = out
    for step in way[:-1]:
        if isinstance(node, dict) and node.get(step) is None:
            node[step] = deepcopy(_EMPTY.get(step, {}))
        node = node[step]
    node[way[-1]] = value
    if name == "dx":
        node["mode"] = "dx"
    return out


def _leaves(tree: Any, above: str = "") -> dict[str, Any]:
    """Values by their paths."""
    return dict(_walked(tree, above))


def _walked(tree: Any, above: str) -> Iterator[tuple[str, Any]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if inner is None:
        yield above, tree
        return
    for name, value in inner:
        yield from _walked(value, f"{above}.{name}" if above else str(name))


def _number(value: Any) -> tuple[float, str]:
    """A number and its unit."""
    found = re.fullmatch(r"([-+.\deE]+)(?: (\S+))?", str(value))
    if isinstance(value, bool) or found is None:
        raise BadInput("here", None, f"it becomes {value}, which is no number: search one of ours instead")
    return float(found[1]), found[2] or ""


def _engine(tuned: Tree, notes: list[str]) -> Tree:
    """Sampler, pruner, objective and how many trials."""
    out: Tree = {"trials": tuned["n_trials"], "objective": tuned["error_metric"]}
    if tuned["timeout"] is not None:
        out["seconds"] = tuned["timeout"]
    for kind, names in (("sampler", _SAMPLERS), ("pruner", _PRUNERS)):
        given = tuned[f"{kind}_params"]
        name = "none" if given is None or not given["name"] else names[given["name"]]
        if kind == "pruner" and out["objective"] == "contrast" and name != "none":
            notes.append("hypertune_params.pruner_params: contrast is known at the end only: none")
            name, given = "none", None
        out[kind] = {name: _known(name, (given or {}).get("configs") or {}, kind, notes)}
    plain = {"storage_path": "sqlite:///hypertune.sqlite3", "study_name": "study"}
    for key, ours in {"storage_path": "storage", "study_name": "study"}.items():
        if tuned[key] != plain[key]:
            out[ours] = tuned[key]
    return out


def _known(name: str, configs: Tree, kind: str, notes: list[str]) -> Tree:
    """The arguments that our sampler or pruner has."""
    from phaseloom.spec import knobs

    there = knobs(f"phaseloom.search.{kind}s", name)
    ours = {key: value for key, value in configs.items() if key in there}
    if lost := sorted(key for key in configs if key not in there):
        notes.append(f"hypertune_params.{kind}_params.configs: {', '.join(lost)} of {name} are left out")
    return ours
