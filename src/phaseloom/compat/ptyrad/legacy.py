"""Older spellings of PtyRAD's parameter files and notations of aberrations, as PtyRAD 1.0 has them."""

import math
import re
from collections.abc import Mapping
from typing import Any

from phaseloom.errors import BadInput

__all__ = ["migrate", "normalise_times", "to_krivanek"]

_OLD_SECTIONS = ("exp_params", "source_params")
_OLD_LENSES = {
    "probe_defocus": ("defocus", ("defocus", "C1", "C10")),
    "probe_c3": ("C30", ("C30", "C3", "Cs")),
    "probe_c5": ("C50", ("C50", "C5")),
}
"""Keys of before 1.0, what they are called now, and the names that win over them."""

_HAIDER = {
    "C1": ("10", 1.0),
    "A1": ("12", 1.0),
    "B2": ("21", 3.0),
    "A2": ("23", 1.0),
    "C3": ("30", 1.0),
    "S3": ("32", 4.0),
    "A3": ("34", 1.0),
    "B4": ("41", 4.0),
    "D4": ("43", 4.0),
    "A4": ("45", 1.0),
    "C5": ("50", 1.0),
    "S5": ("52", 6.0),
    "R5": ("54", 6.0),
    "A5": ("56", 1.0),
    "Cs": ("30", 1.0),
    "defocus": ("10", -1.0),
}
"""Krivanek's indices and the factor of the length; angles are the same."""

_KRIVANEK = re.compile(r"(C|phi)(\d)(\d+)([ab]?)$")


def migrate(tree: Mapping[str, Any], /) -> tuple[dict[str, Any], list[str]]:
    """The tree in the spelling of PtyRAD 1.0, and what was respelt, in words. The tree itself stays.

    Example:
        >>> tree, notes = migrate({"init_params": {"probe_defocus": 50}})
        >>> tree["init_params"]["probe_aberrations"]
        {'C10': -50.0}
    """
    for name in _OLD_SECTIONS:
        if name in tree:
            fix = "is a section of PtyRAD before 0.1.0b8: write its keys into init_params"
            raise BadInput(name, None, fix)
    out = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    out.pop("params_path", None)
    notes: list[str] = []
    if isinstance(out.get("init_params"), dict):
        _move_lenses(out["init_params"], notes)
    if isinstance(out.get("constraint_params"), dict):
        _move_times(out, notes)
    for section, key in (("model_params", "obj_preblur_std"), ("recon_params", "if_quiet")):
        if isinstance(out.get(section), dict) and key in out[section]:
            out[section].pop(key)
            notes.append(f"{section}.{key} has no meaning since PtyRAD 0.1.0b13 and is passed over")
    return out, notes


def normalise_times(constraints: Mapping[str, Any], /) -> dict[str, Any]:
    """Every constraint with ``start_iter``, ``step`` and ``end_iter``; the older ``freq`` is a step.

    As in PtyRAD, one that is written without a start is off.

    Example:
        >>> normalise_times({"tv": {"freq": 10, "alpha": 0.1}})
        {'tv': {'start_iter': 1, 'step': 10, 'end_iter': None, 'alpha': 0.1}}
    """
    return {name: _normalise(given) for name, given in constraints.items()}


def to_krivanek(named: Mapping[str, Any], /) -> dict[str, float]:
    """Aberrations as ``Cnm`` in angstrom and ``phinm`` in degrees, from any notation PtyRAD knows.

    Krivanek's polar and cartesian (``C21a``, ``C21b``), Haider's (``B2``, ``B2phi``), ``Cs`` and
    ``defocus``, which is -C10. Terms of no size are left out; three decimals are kept.

    Raises:
        BadInput: an unknown name, a value that is not a number, or a term that is given twice.

    Example:
        >>> to_krivanek({"defocus": 100, "B2": 10, "B2phi": 30})
        {'C10': -100.0, 'C21': 30.0, 'phi21': 30.0}
    """
    terms: dict[str, dict[str, float]] = {}
    for name, value in named.items():
        term, part, factor = _parse_name(str(name))
        place = f"init_params.probe_aberrations.{name}"
        parts = terms.setdefault(term, {})
        if part in parts or ({part, *parts} & {"a", "b"} and {part, *parts} & {"C", "phi"}):
            raise BadInput(place, value, "is said twice in two notations: keep one of them")
        parts[part] = factor * _parse_number(value, place)
    polar: dict[str, float] = {}
    for term in sorted(terms):
        size, angle = _to_polar(terms[term], int(term[1:]))
        if size != 0:
            polar[f"C{term}"] = round(size, 3)
            polar |= {f"phi{term}": round(angle, 3)} if term[1:] != "0" else {}
    return polar


def _parse_name(name: str) -> tuple[str, str, float]:
    """Indices ``nm``, part (``C``, ``phi``, ``a`` or ``b``) and factor of a name."""
    if name in _HAIDER:
        return _HAIDER[name][0], "C", _HAIDER[name][1]
    if name.endswith("phi") and name[:-3] in _HAIDER and not _HAIDER[name[:-3]][0].endswith("0"):
        return _HAIDER[name[:-3]][0], "phi", 1.0
    found = _KRIVANEK.fullmatch(name)
    if found is None or not _is_aberration(*found.groups()):
        fix = "is not an aberration: write C10, C12 with phi12, C21a with C21b, A1 with A1phi, Cs, defocus"
        raise BadInput("init_params.probe_aberrations", name, fix)
    return f"{int(found[2])}{int(found[3])}", found[4] or found[1], 1.0


def _is_aberration(letter: str, order: str, fold: str, component: str) -> bool:
    n = int(order)
    m = int(fold)
    if n < 1 or m > n + 1 or (n + m) % 2 == 0:
        return False
    rotational = m == 0 and (letter == "phi" or component)  # it has no angle
    return not rotational and not (letter == "phi" and component)


def _to_polar(parts: Mapping[str, float], fold: int) -> tuple[float, float]:
    if "a" in parts or "b" in parts:
        a = parts.get("a", 0.0)
        b = parts.get("b", 0.0)
        return math.hypot(a, b), math.degrees(math.atan2(b, a) / fold)
    return parts.get("C", 0.0), parts.get("phi", 0.0)


def _parse_number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput(place, value, "must be a number, in angstrom or degrees") from None
    if not math.isfinite(number):
        raise BadInput(place, value, "must be a finite number")
    return number


def _move_lenses(init: dict[str, Any], notes: list[str]) -> None:
    """The three lens keys of before, into ``probe_aberrations``, which win where both are given."""
    given = init.get("probe_aberrations")
    if given is not None and not isinstance(given, Mapping):
        raise BadInput("init_params.probe_aberrations", given, "must hold 'name: value' lines")
    lenses = dict(given or {})
    for old, (new, winners) in _OLD_LENSES.items():
        if old not in init:
            continue
        value = init.pop(old)
        if any(name in lenses for name in winners):
            notes.append(f"init_params.{old} is passed over: probe_aberrations says it too")
        elif value is not None:
            lenses[new] = value
            notes.append(f"init_params.{old} is read as probe_aberrations: {{{new}: {value}}}")
    init["probe_aberrations"] = to_krivanek(lenses)


def _move_times(tree: dict[str, Any], notes: list[str]) -> None:
    """Constraints with their times written out; notes on what is off without being asked, and on ``freq``."""
    constraints: dict[str, Mapping[str, Any]] = {}
    for name, value in tree["constraint_params"].items():
        place = f"constraint_params.{name}"
        if not isinstance(value, Mapping | None):
            raise BadInput(place, value, "must hold 'name: value' lines")
        if value is None:
            notes.append(f"{place}: null is taken for off")
        elif value.get("freq") is not None:
            notes.append(f"{place}.freq is read as step: {value['freq']}, from start_iter 1")
        elif "start_iter" not in value:
            fix = (
                "is off, as in PtyRAD, because it is written without start_iter: add start_iter: 1 to have it"
            )
            notes.append(f"{place} {fix}")
        constraints[name] = value or {}
    tree["constraint_params"] = normalise_times(constraints)


def _normalise(given: Mapping[str, Any]) -> dict[str, Any]:
    freq = given.get("freq")
    times = {"start_iter": None if freq is None else 1, "step": 1 if freq is None else freq, "end_iter": None}
    return times | {key: value for key, value in given.items() if key != "freq"}
