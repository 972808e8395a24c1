"""From PyTorch's optimisers and schedulers, as PtyRAD names them, to ours."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from phaseloom.compat.ptyrad.translation.project import Project
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import optimizers
from phaseloom.spec import knobs as get_knobs

__all__ = ["scheduled_rates", "translate_optimizer", "translate_scheduler"]

_SCHEDULES = {
    "StepLR": "step",
    "MultiStepLR": "multi_step",
    "ConstantLR": "constant",
    "LinearLR": "linear",
    "ExponentialLR": "exponential",
    "PolynomialLR": "polynomial",
    "CosineAnnealingLR": "cosine_annealing",
    "CosineAnnealingWarmRestarts": "warm_restarts",
    "ReduceLROnPlateau": "plateau",
    "CyclicLR": "cyclic",
    "OneCycleLR": "one_cycle",
}
_SCHEDULE_KNOBS = {"eta_min": "floor", "min_lr": "floor"}
"""Our knobs by PyTorch's where they differ: ours are relative to the rate."""

_COUNTS_OF_STEPS = (
    "step_size",
    "milestones",
    "total_iters",
    "T_max",
    "T_0",
    "step_size_up",
    "step_size_down",
)
_OPTIMIZER_PLACE = "model_params.optimizer_params"
_SCHEDULER_PLACE = "model_params.scheduler_params"


def translate_optimizer(project: Project, /) -> dict[str, Any]:
    """The field ``optimizer`` of a recipe, PyTorch's defaults written out."""
    given = project.model["optimizer_params"]
    _note_state(project, given, "optimiser", _OPTIMIZER_PLACE)
    name = "NAdam" if given["name"] == "Nadam" else given["name"]
    ours = name.lower()
    if ours not in optimizers.__all__:
        fix = "cannot move these parts, here or in PtyRAD: choose Adam"
        raise BadInput(f"{_OPTIMIZER_PLACE}.name", name, fix)
    defaults = _get_defaults(getattr(torch.optim, name))
    configs = _read_configs(given["configs"], defaults, _OPTIMIZER_PLACE)
    known = get_knobs("phaseloom.fitting.optimizers", ours)
    knobs: dict[str, Any] = {}
    for key, default in defaults.items():
        value = configs.get(key, default)
        if key in known and key != "line_search_fn":
            knobs[key] = value
        elif key not in ("lr", "line_search_fn") and value != default:
            fix = f"configs.{key} is not used: it changes speed, or has no counterpart here"
            project.note(f"{_OPTIMIZER_PLACE}.{fix}")
    if name == "LBFGS":
        fix = "by a line search over all patterns; lr and batches do not matter"
        project.note(f"LBFGS chooses its step lengths {fix}")
        knobs["line_search_fn"] = "strong_wolfe"
    return {ours: knobs}


def translate_scheduler(project: Project, /) -> Any:
    """The field ``shape`` of a recipe: how a scheduler changes the rates."""
    given = project.model["scheduler_params"]
    if given is None:
        return "constant"
    if project.model["optimizer_params"]["name"] == "LBFGS":
        project.note(f"{_SCHEDULER_PLACE} is passed over, as in PtyRAD: LBFGS has no schedule")
        return "constant"
    name = given["name"]
    if name not in _SCHEDULES:
        fix = "needs a function, which a file cannot hold: choose another"
        raise BadInput(f"{_SCHEDULER_PLACE}.name", name, fix)
    _note_state(project, given, "schedule", _SCHEDULER_PLACE)
    defaults = _get_defaults(getattr(torch.optim.lr_scheduler, name))
    configs = _read_configs(given["configs"], defaults, _SCHEDULER_PLACE)
    known = get_knobs("phaseloom.fitting.schedule", _SCHEDULES[name])
    knobs: dict[str, Any] = {}
    for key, default in defaults.items():
        knob = _SCHEDULE_KNOBS.get(key, key)
        value = configs.get(key, default)
        if knob in known and value is not None:
            knobs[knob] = _convert_schedule_value(project, name, key, value)
    if name == "CyclicLR":
        knobs |= _cyclic(configs)
    elif name == "OneCycleLR":
        knobs |= _one_cycle(project, configs)
    return {_SCHEDULES[name]: knobs}


def _convert_schedule_value(project: Project, name: str, key: str, value: Any) -> Any:
    """A value of a scheduler in our unit: epochs, or a share of the rate."""
    if value is inspect.Parameter.empty:
        raise _missing_config(name, key)
    if key in _COUNTS_OF_STEPS:
        steps = _steps_per_epoch(project)
        if isinstance(value, list):
            return [max(1, round(each / steps)) for each in value]
        return max(1, round(value / steps))
    if key == "gamma" and name in ("ExponentialLR", "CyclicLR"):  # applied at every step
        return value ** _steps_per_epoch(project)
    if key in ("eta_min", "min_lr") and value:
        largest = max(part["lr"] for part in project.model["update_params"].values())
        project.note(f"{_SCHEDULER_PLACE}: the smallest rate is taken relative to the largest lr")
        return min(value / largest, 1.0)
    return value


def scheduled_rates(project: Project, /) -> Mapping[str, float]:
    """Rates that a cyclic scheduler sets itself, by PtyRAD's names of the parts; empty for others."""
    given = project.model["scheduler_params"]
    if given is None or given["name"] not in ("CyclicLR", "OneCycleLR"):
        return {}
    highest = _parse_numbers((given["configs"] or {}).get("max_lr"))
    if highest is None:
        raise _missing_config(given["name"], "max_lr")
    moved = [name for name, part in project.model["update_params"].items() if part["lr"]]
    rates = highest if isinstance(highest, list) else [highest] * len(moved)
    if len(rates) != len(moved):
        fix = f"must be {len(moved)} numbers, one for each part that moves"
        raise BadInput(f"{_SCHEDULER_PLACE}.configs.max_lr", highest, fix)
    fix = f"{given['name']} sets the rates; lr of update_params is not used"
    project.note(f"{_SCHEDULER_PLACE}: {fix}")
    return dict(zip(moved, rates, strict=True))


def _cyclic(configs: Mapping[str, Any]) -> dict[str, Any]:
    """The lowest rate of CyclicLR relative to its highest."""
    ends = []
    for key in ("base_lr", "max_lr"):
        rate = configs.get(key)
        if rate is None:
            raise _missing_config("CyclicLR", key)
        ends.append(rate[0] if isinstance(rate, list) else rate)
    return {"low": ends[0] / ends[1]}


def _one_cycle(project: Project, configs: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs of OneCycleLR, which goes once through the run."""
    epochs = project.recon["NITER"]
    steps = _steps_per_epoch(project)
    total = configs.get("total_steps") or configs.get("epochs", 0) * configs.get("steps_per_epoch", 0)
    if total and round(total / steps) != epochs:
        project.note(f"{_SCHEDULER_PLACE}: OneCycleLR goes once through the run of {epochs} epochs")
    first = configs.get("div_factor", 25.0)
    last = configs.get("final_div_factor", 1e4)
    count = epochs * steps
    rise = (configs.get("pct_start", 0.3) * count - 1) / max(count - 1, 1)
    return {"pct_start": max(rise, 0.0), "start": 1 / first, "end": 1 / (first * last)}


def _steps_per_epoch(project: Project) -> int:
    """Calls of the scheduler in an epoch."""
    given = project.model["scheduler_params"]
    if given["step_unit"] == "iter" or given["name"] == "ReduceLROnPlateau":
        return 1
    batch = project.recon["BATCH_SIZE"]
    slow, fast, _, _ = project.cropped_shape()
    batches = max(1, slow * fast // batch["size"])
    project.note(f"{_SCHEDULER_PLACE}: steps of batches are counted in whole epochs")
    return max(1, -(-batches // batch["grad_accumulation"]))


def _note_state(project: Project, given: Mapping[str, Any], what: str, place: str) -> None:
    if given["load_state"]:
        fix = f"is not used: the {what} starts anew (resume a run with --resume)"
        project.note(f"{place}.load_state {fix}")


def _missing_config(name: str, key: str) -> BadInput:
    return BadInput(f"{_SCHEDULER_PLACE}.configs.{key}", None, f"is missing: {name} needs it")


def _read_configs(given: Mapping[str, Any] | None, known: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Settings of a class of PyTorch, all of names that it has."""
    for key in given or {}:
        if key not in known:
            raise BadInput(f"{place}.configs", f"there is no '{key}';", nearest(key, known))
    return {key: _parse_numbers(value) for key, value in (given or {}).items()}


def _get_defaults(kind: Any) -> dict[str, Any]:
    """Settings of a class of PyTorch with their defaults."""
    parameters = inspect.signature(kind).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("params", "optimizer")}


def _parse_numbers(value: Any) -> Any:
    """Numbers that YAML took for text (``1e-4``) as numbers."""
    if isinstance(value, list):
        return [_parse_numbers(each) for each in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
