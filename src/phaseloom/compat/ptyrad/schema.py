"""Read a PtyRAD parameter file as PtyRAD would: defaults filled in, mistakes said in a sentence."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Strict, TypeAdapter, ValidationError

from phaseloom.compat.ptyrad.legacy import migrated
from phaseloom.compat.ptyrad.tables import REQUIRED, STORED, TILTS, Group, Knob
from phaseloom.compat.ptyrad.tables_run import SECTIONS
from phaseloom.errors import BadInput, nearest
from phaseloom.findings import describe_error

__all__ = ["checked", "is_ptyrad", "section"]

Tree = dict[str, Any]


def is_ptyrad(tree: Any, /) -> bool:
    """Whether a tree is that of a PtyRAD parameter file.

    Example:
        >>> is_ptyrad({"init_params": {}}), is_ptyrad({"file": "scan.h5"})
        (True, False)
    """
    if not isinstance(tree, Mapping):
        return False
    return "init_params" in tree or len({*SECTIONS, "exp_params", "source_params"} & set(tree)) > 1


def checked(tree: Mapping[str, Any], /) -> tuple[Tree, list[str]]:
    """The whole tree with defaults filled in, and what had to be understood, in words.

    Raises:
        BadInput: an unknown name, a value of the wrong kind, a required one missing, values that clash.

    Example:
        >>> checked({"init_params": {"meas_Npix": 128}})
        Traceback (most recent call last):
        phaseloom.errors.BadInput: init_params.pos_N_scan_slow: is missing: write it
    """
    tree, notes = migrated(tree)
    for name in tree:
        if name not in SECTIONS:
            raise BadInput("PtyRAD parameter file", f"there is no section '{name}';", nearest(name, SECTIONS))
    if not isinstance(tree.get("init_params"), Mapping):
        raise BadInput("init_params", None, "is missing: it holds the data and the experiment")
    full = {name: section(name, tree.get(name), notes) for name in SECTIONS}
    _sources(full["init_params"], notes)
    _legacy_tuning(full["hypertune_params"], notes)
    return full, notes


def section(name: str, given: Any, notes: list[str], /) -> Tree:
    """One section by itself, with its defaults and its rules.

    Example:
        >>> section("loss_params", {"loss_sparse": {"state": True}}, [])["loss_sparse"]["weight"]
        0.1
    """
    full = _group(SECTIONS[name], given, name, notes)
    for where, rule in _RULES:
        if where == name:
            rule(full)
    return full


def _group(group: Group, given: Any, place: str, notes: list[str]) -> Tree:
    """A group with its defaults; names that it does not know are refused."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise BadInput(place, given, "must hold 'name: value' lines")
    for key in given:
        if key in group.knobs:
            continue
        if not group.loose:
            raise BadInput(place, f"there is no '{key}';", nearest(str(key), group.knobs))
        notes.append(f"{place}.{key} means nothing to PtyRAD and is passed over")
    return {
        key: _value(knob, key in given, given.get(key), f"{place}.{key}", notes)
        for key, knob in group.knobs.items()
    }


def _value(knob: Knob | Group, there: bool, given: Any, place: str, notes: list[str]) -> Any:
    if isinstance(knob, Group):
        return _nested(knob, there, given, place, notes)
    if not there:
        if knob.default is REQUIRED:
            raise BadInput(place, None, "is missing: write it")
        return knob.default
    return _valid(knob.kind, given, place)


def _nested(group: Group, there: bool, given: Any, place: str, notes: list[str]) -> Any:
    if place.endswith(".meas_export") and isinstance(given, bool):
        given = {} if given else None
    monitored = place.endswith((".convergence_monitor", ".pruner_params"))
    if given is None and (not group.filled or (there and monitored)):
        return None
    if group.whole and there and isinstance(given, Mapping):
        _complete(given, place, notes)
        given = {"start_iter": None, "lr": 0.0, **given}
    return _group(group, given, place, notes)


def _complete(given: Mapping[str, Any], place: str, notes: list[str]) -> None:
    """A rate that is written out loses PtyRAD's defaults, which few expect."""
    rate = given.get("lr")
    if given.get("start_iter") is None and rate not in (None, 0, 0.0):
        notes.append(
            f"{place} stays fixed, as in PtyRAD, because start_iter is not given: write start_iter: 1"
        )


def _valid(kind: Any, value: Any, place: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as problem:
        first = max(problem.errors(), key=lambda error: _SERIOUS.get(error["type"], 1))
        fix = "is of the wrong kind" if first["type"] == "none_required" else describe_error(first)
        raise BadInput(place, value, fix) from None


_SERIOUS = {"none_required": -1, "literal_error": 2, "greater_than_equal": 2, "greater_than": 2}


def _illumination(init: Tree) -> None:
    """What each kind of beam needs; what belongs to the other one is passed over, as in PtyRAD."""
    xray = init["probe_illum_type"] == "xray"
    photons = ("beam_kev", "probe_dRn", "probe_Rn", "probe_D_H", "probe_D_FZP", "probe_Ls")
    electrons = ("probe_kv", "probe_conv_angle")
    for key in photons if xray else electrons:
        if init[key] is None:
            beam = "xray" if xray else "electron"
            raise BadInput(f"init_params.{key}", None, f"is missing: probe_illum_type {beam} needs it")
    for key in (*electrons, "probe_aberrations") if xray else photons:
        init[key] = None
    if xray and init["meas_calibration"]["mode"] in ("RBF", "fitRBF", "n_alpha"):
        fix = "needs an electron probe: calibrate X-rays by dx, dk, kMax, da or angleMax"
        raise BadInput("init_params.meas_calibration.mode", init["meas_calibration"]["mode"], fix)


def _wanted_values(init: Tree) -> None:
    needs = {
        "meas_calibration": ("dx", "dk", "kMax", "da", "angleMax", "n_alpha", "RBF"),
        "meas_remove_neg_values": ("subtract_value", "clip_value"),
        "meas_normalization": ("divide_const",),
        "probe_normalization": ("target_intensity",),
    }
    for key, modes in needs.items():
        if init[key]["mode"] in modes and init[key]["value"] is None:
            raise BadInput(f"init_params.{key}.value", None, f"is missing: mode {init[key]['mode']} needs it")
    if init["meas_normalization"]["mode"] == "divide_const" and init["meas_normalization"]["value"] <= 0:
        raise BadInput("init_params.meas_normalization.value", None, "must be above 0 to divide by it")


def _scan(init: Tree) -> None:
    expected = init["pos_N_scan_slow"] * init["pos_N_scan_fast"]
    if init["pos_N_scans"] is None:
        init["pos_N_scans"] = expected
    if init["pos_N_scans"] != expected:
        fix = f"is not pos_N_scan_slow x pos_N_scan_fast = {expected}: make them agree"
        raise BadInput("init_params.pos_N_scans", init["pos_N_scans"], fix)


def _modes(init: Tree) -> None:
    powers, count = init["probe_pmode_init_pows"], init["probe_pmode_max"]
    place = "init_params.probe_pmode_init_pows"
    if not powers or (len(powers) > 1 and len(powers) != count):
        raise BadInput(place, powers, f"must be one number, or {count}, one for each mode (probe_pmode_max)")
    if len(powers) > 1 and not math.isclose(sum(powers), 1.0, rel_tol=1e-4):
        raise BadInput(place, powers, "must add to 1")
    share, states = init["obj_omode_init_occu"], init["obj_omode_max"]
    if share["occu_type"] == "custom" and len(share["init_occu"] or ()) != states:
        fix = f"must be {states} numbers, one for each object mode (obj_omode_max)"
        raise BadInput("init_params.obj_omode_init_occu.init_occu", share["init_occu"], fix)


def _depth(init: Tree) -> None:
    crop, resample = init["obj_z_crop"], init["obj_z_resample"]
    if crop is not None and crop[0] >= crop[1]:
        raise BadInput("init_params.obj_z_crop", crop, "must be [first, one after the last]")
    if resample and resample["mode"] == "target_Nlayer" and resample["value"] != int(resample["value"]):
        raise BadInput("init_params.obj_z_resample.value", resample["value"], "must be a whole number")


def _grid(init: Tree) -> None:
    if init["simu_Npix"] not in (None, init["meas_Npix"]) and init["simu_match_mode"] is None:
        plain = init["meas_crop"] is None and init["meas_pad"] is None and init["meas_resample"] is None
        if plain:
            fix = "is missing: write crop or resample to say how simu_Npix meets the detector"
            raise BadInput("init_params.simu_match_mode", None, fix)


def _updates(model: Tree) -> None:
    starts = []
    for name, given in model["update_params"].items():
        place = f"model_params.update_params.{name}"
        given["lr"] = given["lr"] or 0.0
        if given["start_iter"] is not None:
            starts.append(given["start_iter"])
            if given["lr"] == 0:
                raise BadInput(
                    f"{place}.lr", 0, "must not be zero when start_iter is given: write null there"
                )
    if not starts:
        raise BadInput("model_params.update_params", None, "moves nothing: give one part a start_iter of 1")
    if min(starts) > 1:
        fix = "moves nothing at first: let one part have start_iter: 1"
        raise BadInput("model_params.update_params", None, fix)


def _losses(loss: Tree) -> None:
    if not any(loss[name]["state"] for name in ("loss_single", "loss_poissn", "loss_pacbed")):
        fix = "has no term that looks at the data: switch loss_single, loss_poissn or loss_pacbed on"
        raise BadInput("loss_params", None, fix)


def _running(recon: Tree) -> None:
    stamp = recon["prefix_time"]
    if isinstance(stamp, str) and stamp not in ("date", "time", "datetime") and not stamp.startswith("%"):
        fix = "is no choice: write true, false, date, time, datetime or a format such as %Y%m%d"
        raise BadInput("recon_params.prefix_time", stamp, fix)
    monitor = recon["convergence_monitor"]
    if monitor is not None:
        low, high = monitor["percentile_range"]
        if not 0 <= low < high <= 100:
            place = "recon_params.convergence_monitor.percentile_range"
            raise BadInput(place, [low, high], "must rise from 0 at least to 100 at most")


def _tuning(tuned: Tree) -> None:
    for name, given in tuned["tune_params"].items():
        if given is None:
            continue
        place, kwargs = f"hypertune_params.tune_params.{name}.kwargs", given["kwargs"]
        wanted = ("choices",) if given["suggest"] == "cat" else ("low", "high")
        for key in wanted:
            if key not in kwargs:
                raise BadInput(f"{place}.{key}", None, f"is missing: suggest {given['suggest']} needs it")
        for key, kind in {"low": float, "high": float, "step": float | None, "log": bool}.items():
            if key in kwargs and given["suggest"] != "cat":
                _valid(Annotated[kind, Strict()], kwargs[key], f"{place}.{key}")
        logged = kwargs.get("log") is True and given["suggest"] != "cat"
        if logged and kwargs.get("step") not in (None, *((1,) if given["suggest"] == "int" else ())):
            raise BadInput(place, kwargs, "has both step and log: keep one of them")


_RULES: tuple[tuple[str, Callable[[Tree], None]], ...] = (
    ("init_params", _illumination),
    ("init_params", _wanted_values),
    ("init_params", _scan),
    ("init_params", _modes),
    ("init_params", _depth),
    ("init_params", _grid),
    ("model_params", _updates),
    ("loss_params", _losses),
    ("recon_params", _running),
    ("hypertune_params", _tuning),
)
"""What values must have in common, beyond each being right by itself."""


def _sources(init: Tree, notes: list[str]) -> None:
    """Check that each ``..._params`` is what its ``..._source`` reads."""
    place = "init_params.meas_params"
    if init["meas_source"] == "custom":
        _no_arrays("meas")
    init["meas_params"] = _stored(init["meas_params"], place, notes)
    for part in ("probe", "pos", "obj", "tilt"):
        source, given = init[f"{part}_source"], init[f"{part}_params"]
        place = f"init_params.{part}_params"
        if source == "custom":
            _no_arrays(part)
        elif source == "simu":
            init[f"{part}_params"] = _simulated(part, given, place, notes)
        elif source == "file":
            init[f"{part}_params"] = _stored(given, place, notes)
        elif not isinstance(given, str) or not given:
            raise BadInput(place, given, f"must be the name of a file: {part}_source is {source}")


def _stored(given: Any, place: str, notes: list[str]) -> Tree:
    if not isinstance(given, Mapping):
        raise BadInput(place, given, "must be {path: ..., key: ...}")
    return _group(STORED, given, place, notes)


def _simulated(part: str, given: Any, place: str, notes: list[str]) -> Any:
    if part == "tilt":
        tilts = _group(TILTS, given, place, notes)
        return {"tilt_type": tilts["tilt_type"] or "all", "init_tilts": tilts["init_tilts"] or [[0.0, 0.0]]}
    if part == "obj" and given is not None:
        shape = _valid(list[int], given, place)
        if len(shape) != 4 or min(shape) < 1:
            raise BadInput(place, given, "must be [modes, slices, rows, columns], or null")
        return shape
    if given is not None:
        raise BadInput(place, given, f"must be null: {part}_source is simu")
    return None


def _no_arrays(part: str) -> None:
    fix = "needs an array in memory, which a file cannot hold: save it and name the file"
    raise BadInput(f"init_params.{part}_source", "custom", fix)


def _legacy_tuning(tuned: Tree, notes: list[str]) -> None:
    for old, new in (("defocus", "C10"), ("c3", "C30"), ("c5", "C50")):
        given = tuned["tune_params"].pop(old, None)
        if given is not None and given["state"]:
            minus = ", and is minus the defocus: turn low and high round" if old == "defocus" else ""
            fix = f"is called {new} since 0.1.0b13{minus}"
            raise BadInput(f"hypertune_params.tune_params.{old}", None, fix)
        if given is not None:
            notes.append(f"hypertune_params.tune_params.{old} is off and is passed over: it is {new} now")
