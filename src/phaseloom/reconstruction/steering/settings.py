"""Which settings can be changed while a reconstruction is under way, and what its recipe becomes by that."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import RateChange, Reconstruct, ScheduledRate, require_part
from phaseloom.runs.parameter_paths import set_parameters
from phaseloom.runs.steered import list_effective

__all__ = ["CHANGEABLE", "change_settings", "complete_settings", "find_settings_at", "rate_when_on"]

CHANGEABLE = (
    *("rates", "shape", "noise", "penalties", "projections", "batch", "epochs", "patience", "outputs"),
    *("snapshots", "title"),
)
"""Sections of the parameter file that a run under way can change; others make its data, model and state."""


def find_settings_at(recipe: Reconstruct, epoch: int, /) -> Reconstruct:
    """The settings of a run from the end of an epoch on, by the commands that its recipe records.

    Args:
        recipe: as recorded; what is not mentioned by a command stays as it is.
        epoch: epochs that are done.

    Example:
        >>> told = [{"epoch": 3, "command": "set", "settings": {"epochs": 30}}]
        >>> recipe = Reconstruct.of({"file": "scan.cxi", "epochs": 20, "steered": told})
        >>> [find_settings_at(recipe, done).epochs for done in (2, 3)]
        [20, 30]
    """
    for one in list_effective(recipe.steered):
        if one.epoch <= epoch:
            recipe = change_settings(recipe, one.settings, one.epoch)
    return recipe


def change_settings(recipe: Reconstruct, settings: Mapping[str, Any], epoch: int, /) -> Reconstruct:
    """A recipe with other settings from the end of an epoch on; rates become its ``changes``.

    Args:
        recipe: whose settings hold now.
        settings: values by their paths, ``rates.object``, ``penalties.sparse.weight``.
        epoch: epochs that are done.

    Raises:
        BadInput: no such setting, a value that it cannot have, or one that only a new run can change.
    """
    if not settings:
        return recipe
    settings = complete_settings(recipe, settings)
    for path in settings:
        _require_changeable(path)
    parts = dict.fromkeys(path.split(".")[1] for path in settings if path.startswith("rates."))
    for part in parts:
        require_part(part)
    changed = set_parameters(recipe, settings, place="steer")
    if changed.noise != recipe.noise and (
        changed.noise is None or recipe.noise is None or changed.noise.name != recipe.noise.name
    ):
        kept = "the usual one" if recipe.noise is None else recipe.noise.name
        fix = f"would give losses another meaning: this run keeps {kept}, of which values can be changed"
        raise BadInput("steer: noise", getattr(changed.noise, "name", None), fix)
    if changed.epochs <= epoch and changed.epochs != recipe.epochs:
        fix = f"must be above the {epoch} that are done: stop ends the run"
        raise BadInput("steer: epochs", changed.epochs, fix)
    rates = [_describe_rate(changed, part, epoch) for part in parts]
    changes = sorted((*recipe.changes, *rates), key=lambda one: one.epoch)
    return changed.model_copy(update={"changes": tuple(changes)})


def complete_settings(recipe: Reconstruct, settings: Mapping[str, Any], /) -> dict[str, Any]:
    """Settings as they are recorded: of a rate with a schedule each value alone, a batch with its size.

    Example:
        >>> recipe = Reconstruct.of({"file": "a.h5", "rates": {"probe": {"rate": 0.1, "shape": "constant"}}})
        >>> complete_settings(recipe, {"rates": {"probe": 0.2}})
        {'rates.probe.rate': 0.2}
    """
    found = dict[str, Any]()
    for path, value in settings.items():
        first, *rest = path.split(".")
        if first == "rates" and not rest and isinstance(value, Mapping):
            found |= complete_settings(recipe, {f"rates.{part}": rate for part, rate in value.items()})
        elif first == "rates" and len(rest) == 1 and isinstance(value, Mapping):
            found |= {f"{path}.{name}": one for name, one in value.items()}
        elif first == "rates" and len(rest) == 1 and isinstance(recipe.rates.get(rest[0]), ScheduledRate):
            found[f"{path}.rate"] = value
        else:
            found[path] = value
    size = recipe.batch.values.get("size")
    if "batch" in found and size is not None:
        batch = Reconstruct.of({"batch": found["batch"]}).batch
        found["batch"] = replace(batch, values={"size": size, **batch.values}).to_tree()
    return found


def rate_when_on(recipe: Reconstruct, part: str, epoch: int, /) -> float:
    """The rate that a part had before it was switched off.

    Args:
        recipe: as recorded.
        part: of the model.
        epoch: epochs that are done.

    Raises:
        BadInput: it never had one.
    """
    settings = [one.settings for one in list_effective(recipe.steered) if one.epoch <= epoch]
    given = [found for one in settings for path, found in one.items() if path in _rate_paths(part)]
    changed = [one.rate for one in recipe.changes if one.part == part and one.epoch <= epoch + 1]
    for rate in (*reversed(given), *reversed(changed), recipe.rate_of(part)):
        if rate:
            return float(rate)
    raise BadInput("steer on", part, f"has no rate in this run: set rates.{part} to one")


def _rate_paths(part: str) -> tuple[str, str]:
    return f"rates.{part}", f"rates.{part}.rate"


def _require_changeable(path: str) -> None:
    """Refuse a setting that only a new run can change."""
    section = path.partition(".")[0]
    if section in Reconstruct.model_fields and section not in CHANGEABLE:
        fix = "cannot be changed in a run: begin a new one from its run.yaml with this setting"
        raise BadInput("steer", path, fix)


def _describe_rate(recipe: Reconstruct, part: str, epoch: int) -> RateChange:
    """The rate of a part from the end of an epoch on."""
    rate = recipe.rates[part]
    tree: dict[str, Any] = {"epoch": epoch + 1, "part": part, "rate": rate}
    if isinstance(rate, ScheduledRate):
        later = {"start": rate.start} if rate.start > epoch else {}
        tree |= {"rate": rate.rate, "stop": rate.stop, "shape": rate.shape, **later}
    (change,) = Reconstruct.of({"changes": [tree]}).changes
    return change
