"""PyTorch's optimisers and schedulers, as PtyRAD names them, in our names."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from phaseloom.compat.ptyrad.project import Project
from phaseloom.compat.ptyrad.tables import REQUIRED
from phaseloom.errors import BadInput, nearest

__all__ = ["limits", "optimized", "shaped"]

_ADAM = {"betas": ("momentum", "memory"), "eps": "floor", "weight_decay": "decay"}
_OPTIMIZERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Adam": ("adam", {**_ADAM, "amsgrad": "amsgrad"}),
    "AdamW": ("adamw", {**_ADAM, "amsgrad": "amsgrad"}),
    "NAdam": ("nadam", {**_ADAM, "momentum_decay": "fading", "decoupled_weight_decay": "decoupled"}),
    "RAdam": ("radam", {**_ADAM, "decoupled_weight_decay": "decoupled"}),
    "Adamax": ("adamax", _ADAM),
    "Adadelta": ("adadelta", {"rho": "memory", "eps": "floor", "weight_decay": "decay"}),
    "Adagrad": (
        "adagrad",
        {
            "lr_decay": "fading",
            "initial_accumulator_value": "initial",
            "eps": "floor",
            "weight_decay": "decay",
        },
    ),
    "RMSprop": (
        "rmsprop",
        {
            "alpha": "memory",
            "momentum": "momentum",
            "centered": "centered",
            "eps": "floor",
            "weight_decay": "decay",
        },
    ),
    "Rprop": ("rprop", {"etas": "factors", "step_sizes": "steps"}),
    "ASGD": ("asgd", {"lambd": "fading", "alpha": "power", "t0": "averaged", "weight_decay": "decay"}),
    "Adafactor": (
        "adafactor",
        {"beta2_decay": "memory", "eps": "floor", "d": "longest", "weight_decay": "decay"},
    ),
    "SGD": (
        "sgd",
        {"momentum": "momentum", "nesterov": "nesterov", "dampening": "damping", "weight_decay": "decay"},
    ),
    "LBFGS": ("lbfgs", {"history_size": "history", "max_iter": "inner"}),
}
"""Ours, and our knobs by PyTorch's; two knobs share a pair."""

_COUNT, _FLOOR = "epochs", "share of the rate"
_SHAPES: Mapping[str, tuple[str, Mapping[str, tuple[str, Any, str]]]] = {
    "StepLR": ("step", {"step_size": ("every", REQUIRED, _COUNT), "gamma": ("factor", 0.1, "")}),
    "MultiStepLR": ("multi_step", {"milestones": ("after", REQUIRED, _COUNT), "gamma": ("factor", 0.1, "")}),
    "ConstantLR": ("constant", {"factor": ("factor", 1 / 3, ""), "total_iters": ("epochs", 5, _COUNT)}),
    "LinearLR": (
        "linear",
        {
            "start_factor": ("start", 1 / 3, ""),
            "end_factor": ("end", 1.0, ""),
            "total_iters": ("epochs", 5, _COUNT),
        },
    ),
    "ExponentialLR": ("exponential", {"gamma": ("factor", REQUIRED, "power")}),
    "PolynomialLR": ("polynomial", {"total_iters": ("epochs", 5, _COUNT), "power": ("power", 1.0, "")}),
    "CosineAnnealingLR": (
        "cosine_annealing",
        {"T_max": ("epochs", REQUIRED, _COUNT), "eta_min": ("floor", 0.0, _FLOOR)},
    ),
    "CosineAnnealingWarmRestarts": (
        "warm_restarts",
        {
            "T_0": ("epochs", REQUIRED, _COUNT),
            "T_mult": ("longer", 1, ""),
            "eta_min": ("floor", 0.0, _FLOOR),
        },
    ),
    "ReduceLROnPlateau": (
        "plateau",
        {
            "factor": ("factor", 0.1, ""),
            "patience": ("patience", 10, ""),
            "threshold": ("threshold", 1e-4, ""),
            "threshold_mode": ("relative", "rel", ""),
            "cooldown": ("rest", 0, ""),
            "min_lr": ("floor", 0.0, _FLOOR),
        },
    ),
    "CyclicLR": (
        "cyclic",
        {
            "step_size_up": ("up", 2000, _COUNT),
            "step_size_down": ("down", None, _COUNT),
            "mode": ("shrink", "triangular", ""),
            "gamma": ("factor", 1.0, "power"),
        },
    ),
    "OneCycleLR": (
        "one_cycle",
        {
            "anneal_strategy": ("anneal", "cos", ""),
            "three_phase": ("symmetric", False, ""),
        },
    ),
}
"""Ours, and for each knob of PyTorch's: our knob, the default, and what its value counts."""

_WORDS = {
    "triangular": "never",
    "triangular2": "halve",
    "exp_range": "decay",
    "cos": "cosine",
    "rel": True,
    "abs": False,
}


def optimized(project: Project, /) -> dict[str, Any]:
    """The field ``optimizer`` of a recipe, PyTorch's defaults written out."""
    given = project.tree["model_params"]["optimizer_params"]
    name, place = given["name"], "model_params.optimizer_params"
    if given["load_state"]:
        project.note(
            f"{place}.load_state is not used: the optimiser starts anew (resume a run with --resume)"
        )
    name = "NAdam" if name == "Nadam" else name
    if name not in _OPTIMIZERS:
        fix = "cannot move these parts, here or in PtyRAD: choose Adam"
        raise BadInput(f"{place}.name", name, fix)
    ours, renamed = _OPTIMIZERS[name]
    known = _defaults(getattr(torch.optim, name))
    configs = _numbers(given["configs"] or {})
    _known(configs, known, place)
    for key in configs:
        if key not in renamed and key not in ("lr", "line_search_fn") and configs[key] != known[key]:
            project.note(f"{place}.configs.{key} is not used: it changes speed, or has no counterpart here")
    knobs: dict[str, Any] = {}
    for key, knob in renamed.items():
        value = configs.get(key, known[key])
        pair = isinstance(knob, tuple)
        knobs |= dict(zip(knob, value, strict=True)) if pair else {knob: value}
    return {ours: _mended(project, name, knobs)}


def shaped(project: Project, /) -> Any:
    """The field ``shape`` of a recipe: how a scheduler changes the rates."""
    given = project.tree["model_params"]["scheduler_params"]
    if given is None:
        return "constant"
    if project.tree["model_params"]["optimizer_params"]["name"] == "LBFGS":
        project.note("model_params.scheduler_params is passed over, as in PtyRAD: LBFGS has no schedule")
        return "constant"
    name, place = given["name"], "model_params.scheduler_params"
    if name not in _SHAPES:
        raise BadInput(f"{place}.name", name, "needs a function, which a file cannot hold: choose another")
    if given["load_state"]:
        project.note(f"{place}.load_state is not used: the schedule starts anew (resume a run with --resume)")
    configs = _numbers(given["configs"] or {})
    _known(configs, _defaults(getattr(torch.optim.lr_scheduler, name)), place)
    knobs: dict[str, Any] = {}
    for key, (knob, default, counts) in _SHAPES[name][1].items():
        value = configs.get(key, default)
        if value is REQUIRED:
            raise BadInput(f"{place}.configs.{key}", None, f"is missing: {name} needs it")
        if value is not None:
            knobs[knob] = _counted(project, value, counts)
    return {_SHAPES[name][0]: knobs | _cycles(project, name, configs)}


def limits(project: Project, /) -> Mapping[str, float]:
    """Rates that a cyclic schedule sets itself, by PtyRAD's names of the parts; empty for others."""
    given = project.tree["model_params"]["scheduler_params"]
    if given is None or given["name"] not in ("CyclicLR", "OneCycleLR"):
        return {}
    highest = _numbers(given["configs"] or {}).get("max_lr")
    if highest is None:
        raise BadInput(
            "model_params.scheduler_params.configs.max_lr", None, f"is missing: {given['name']} needs it"
        )
    moved = [name for name, part in project.tree["model_params"]["update_params"].items() if part["lr"]]
    values = highest if isinstance(highest, list) else [highest] * len(moved)
    if len(values) != len(moved):
        fix = f"must be {len(moved)} numbers, one for each part that moves"
        raise BadInput("model_params.scheduler_params.configs.max_lr", highest, fix)
    project.note(
        f"model_params.scheduler_params: {given['name']} sets the rates; lr of update_params is not used"
    )
    return dict(zip(moved, values, strict=True))


def _mended(project: Project, name: str, knobs: dict[str, Any]) -> dict[str, Any]:
    """Where our knob does not mean quite the same."""
    if name == "Adafactor":
        knobs["memory"], knobs["floor"] = -knobs["memory"], knobs["floor"][1]
    if name == "LBFGS":
        project.note(
            "LBFGS chooses its step lengths by a line search over all patterns; lr and batches do not matter"
        )
        knobs["search"] = True
    return knobs


def _cycles(project: Project, name: str, configs: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs of the two schedules that set rates themselves."""
    if name == "CyclicLR":
        low, high = configs.get("base_lr"), configs.get("max_lr")
        if low is None or high is None:
            key = "base_lr" if low is None else "max_lr"
            raise BadInput(
                f"model_params.scheduler_params.configs.{key}", None, "is missing: CyclicLR needs it"
            )
        pair = (low[0] if isinstance(low, list) else low, high[0] if isinstance(high, list) else high)
        return {"low": pair[0] / pair[1]}
    if name != "OneCycleLR":
        return {}
    first, last = configs.get("div_factor", 25.0), configs.get("final_div_factor", 1e4)
    _whole_run(project, configs)
    many = project.tree["recon_params"]["NITER"] * _steps(project)
    rise = (configs.get("pct_start", 0.3) * many - 1) / max(many - 1, 1)
    return {"rise": max(rise, 0.0), "start": 1 / first, "end": 1 / (first * last)}


def _whole_run(project: Project, configs: Mapping[str, Any]) -> None:
    total = configs.get("total_steps") or configs.get("epochs", 0) * configs.get("steps_per_epoch", 0)
    niter = project.tree["recon_params"]["NITER"]
    if total and round(total / _steps(project)) != niter:
        project.note(f"model_params.scheduler_params: OneCycleLR goes once through the run of {niter} epochs")


def _counted(project: Project, value: Any, counts: str) -> Any:
    """A value of a scheduler in our unit: epochs, or a share of the rate."""
    if counts == _COUNT and isinstance(value, list):
        return [_counted(project, each, counts) for each in value]
    if counts == _COUNT:
        return max(1, round(value / _steps(project)))
    if counts == "power":
        return value ** _steps(project)
    if counts == _FLOOR and value:
        largest = max(part["lr"] for part in project.tree["model_params"]["update_params"].values())
        project.note("model_params.scheduler_params: the smallest rate is taken relative to the largest lr")
        return min(value / largest, 1.0)
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _steps(project: Project) -> int:
    """Calls of the scheduler in an epoch."""
    given = project.tree["model_params"]["scheduler_params"]
    if given["step_unit"] == "iter" or given["name"] == "ReduceLROnPlateau":
        return 1
    batch = project.tree["recon_params"]["BATCH_SIZE"]
    slow, fast = project.scan()
    groups = max(1, slow * fast // batch["size"])
    project.note("model_params.scheduler_params: steps of batches are counted in whole epochs")
    return max(1, -(-groups // batch["grad_accumulation"]))


def _known(configs: Mapping[str, Any], known: Mapping[str, Any], place: str) -> None:
    for key in configs:
        if key not in known:
            raise BadInput(f"{place}.configs", f"there is no '{key}';", nearest(key, known))


def _defaults(kind: Any) -> dict[str, Any]:
    """Settings of a class of PyTorch with their defaults."""
    parameters = inspect.signature(kind).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("params", "optimizer")}


def _numbers(configs: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that YAML took for text (``1e-4``) as numbers."""
    return {key: _number(value) for key, value in configs.items()}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(each) for each in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
