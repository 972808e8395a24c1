"""From PtyRAD's rates, optimisers, schedulers, losses, constraints and batches to ours."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from phaseloom.compat.ptyrad.project import Project
from phaseloom.compat.ptyrad.translate_model import count_slices
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import optimizers
from phaseloom.spec import knobs as get_knobs

__all__ = ["PENALTIES", "translate_constraints", "translate_fit", "translate_loss"]

_PARTS = {
    "obja": "amplitude",
    "objp": "phase",
    "probe": "probe",
    "probe_pos_shifts": "positions",
    "obj_tilts": "tilts",
    "slice_thickness": "thickness",
}
_PROJECTIONS = {
    "probe_mask_k": "aperture",
    "probe_mask_r": "support",
    "ortho_pmode": "orthogonal",
    "fix_probe_int": "power",
    "obj_rblur": "lateral_blur",
    "obj_zblur": "depth_blur",
    "kr_filter": "low_pass",
    "kz_filter": "missing_wedge",
    "kr_thresh": "strongest_cosines",
    "complex_ratio": "complex_ratio",
    "mirrored_amp": "mirrored_amplitude",
    "obj_z_recenter": "recentre",
    "obja_thresh": "bounded_amplitude",
    "objp_postiv": "positive",
    "pos_recenter": "still",
    "tilt_smooth": "smooth_tilts",
}
"""Our projections by PtyRAD's constraints, in the order in which PtyRAD applies them."""

_PROJECTION_KNOBS = {
    "obj_type": "of",
    "power_thresh": "share",
    "z_range": "depths",
    "z_steps": "steps",
    "kernel_size": "taps",
    "max_shift": "most",
    "kr_thresh.thresh": "keep",
    "obj_z_recenter.thresh": "percentile",
    "obja_thresh.thresh": "between",
}
PENALTIES = {
    "loss_single": "relative_gaussian",
    "loss_poissn": "relative_poisson",
    "loss_pacbed": "pacbed",
    "loss_sparse": "sparse",
    "loss_simlar": "similarity",
}
"""Our penalties by PtyRAD's losses."""

_PENALTY_KNOBS = {
    "dp_pow": "power",
    "eps": "floor",
    "ln_order": "order",
    "blur_std": "blur",
    "scale_factor": "scale",
    "obj_type": "of",
}
_OPTIMIZER_KNOBS: Mapping[str, Any] = {
    "betas": ("momentum", "memory"),
    "eps": "floor",
    "weight_decay": "decay",
    "decoupled_weight_decay": "decoupled",
    "momentum_decay": "fading",
    "lr_decay": "fading",
    "lambd": "fading",
    "rho": "memory",
    "beta2_decay": "memory",
    "RMSprop.alpha": "memory",
    "ASGD.alpha": "power",
    "d": "longest",
    "initial_accumulator_value": "initial",
    "etas": "factors",
    "step_sizes": "steps",
    "t0": "averaged",
    "dampening": "damping",
    "history_size": "history",
    "max_iter": "inner",
}
"""Our optimisers' knobs by PyTorch's settings, where an optimiser lacks PyTorch's name."""

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
_SCHEDULE_KNOBS = {
    "step_size": "every",
    "milestones": "after",
    "gamma": "factor",
    "total_iters": "epochs",
    "T_max": "epochs",
    "T_0": "epochs",
    "T_mult": "longer",
    "eta_min": "floor",
    "min_lr": "floor",
    "start_factor": "start",
    "end_factor": "end",
    "threshold_mode": "relative",
    "cooldown": "rest",
    "step_size_up": "up",
    "step_size_down": "down",
    "mode": "shrink",
    "anneal_strategy": "anneal",
    "three_phase": "symmetric",
}
_SCHEDULE_WORDS = {
    "triangular": "never",
    "triangular2": "halve",
    "exp_range": "decay",
    "cos": "cosine",
    "rel": True,
    "abs": False,
}
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


def translate_fit(project: Project, /) -> dict[str, Any]:
    """All fields of a recipe that say how it runs."""
    return {
        "noise": "none",
        "penalties": _translate_losses(project),
        "start": "none",
        "rates": _translate_rates(project),
        "optimizer": _translate_optimizer(project),
        "shape": _translate_scheduler(project),
        "projections": translate_constraints(project),
        "batch": _translate_batches(project),
        "epochs": project.recon["NITER"],
        "holdout": 0,
        "patience": None,
        "seed": project.init["random_seed"] or 0,
    }


def _translate_losses(project: Project) -> list[Any]:
    penalties = []
    for name, ours in PENALTIES.items():
        given = project.tree["loss_params"][name]
        if not given["state"]:
            continue
        if name == "loss_simlar" and project.init["obj_omode_max"] == 1:
            project.note("loss_params.loss_simlar is left out: it compares object modes, and there is one")
            continue
        penalties.append({ours: translate_loss(given)})
    return penalties


def translate_loss(given: Mapping[str, Any], /) -> dict[str, Any]:
    """The knobs of our penalty that a loss asks for.

    Example:
        >>> translate_loss({"weight": 0.2, "ln_order": 1})
        {'weight': 0.2, 'order': 1}
    """
    knobs = {_PENALTY_KNOBS.get(key, key): value for key, value in given.items() if key != "state"}
    if knobs.get("blur") == 0:
        knobs["blur"] = None
    return knobs


def _translate_rates(project: Project) -> dict[str, Any]:
    """Rates in the units of our parts; what PtyRAD does not refine stays fixed."""
    rates: dict[str, Any] = {"affine": 0.0, "weights": 0.0}
    count, thickness = count_slices(project)
    scheduled = _scheduled_rates(project)
    for theirs, ours in _PARTS.items():
        rate = _translate_rate(project, theirs, scheduled.get(theirs))
        if rate["rate"] and ours in ("tilts", "thickness") and count == 1:
            project.note(f"model_params.update_params.{theirs} is left out: a single slice has no depth")
            continue
        if ours == "thickness":  # ours is relative
            rate["rate"] /= thickness / (1e10 if project.xray else 1.0)
        if rate["rate"] or ours in ("amplitude", "phase", "probe", "positions"):
            rates[ours] = rate if rate["rate"] and len(rate) > 1 else rate["rate"]
    return rates


def _translate_rate(project: Project, name: str, scheduled: float | None) -> dict[str, Any]:
    """Rate of a part with its first and last epoch; PtyRAD's end is the first epoch without it."""
    given = project.model["update_params"][name]
    start = given["start_iter"]
    end = given["end_iter"]
    lbfgs = project.model["optimizer_params"]["name"] == "LBFGS"
    if start is None or (end is not None and end <= start) or (lbfgs and start > 1):
        return {"rate": 0.0}
    if lbfgs and end is not None:
        fix = "end_iter is not used: with LBFGS parts move together"
        project.note(f"model_params.update_params.{name}.{fix}")
        end = None
    rate: dict[str, Any] = {"rate": given["lr"] if scheduled is None else scheduled}
    if start > 1:
        rate["start"] = start
    if end is not None:
        rate["stop"] = end - 1
    return rate


def translate_constraints(project: Project, /) -> list[Any]:
    """The constraints that are on, as projections with their times, in PtyRAD's order."""
    projections = []
    for theirs, ours in _PROJECTIONS.items():
        given = dict(project.tree["constraint_params"][theirs])
        start = given.pop("start_iter")
        step = given.pop("step")
        end = given.pop("end_iter")
        if start is None or (end is not None and end <= start):
            continue
        names = {
            key: _PROJECTION_KNOBS.get(f"{theirs}.{key}", _PROJECTION_KNOBS.get(key, key)) for key in given
        }
        knobs = {names[key]: value for key, value in given.items() if value is not None}
        if "taps" in knobs and not _fix_kernel(project, theirs, knobs):
            continue
        if theirs == "probe_mask_r":
            knobs["depths"] = [project.format_length("z_range", depth) for depth in knobs["depths"]]
        if theirs == "kr_thresh":
            fix = "is applied with the true inverse of the cosine transform"
            project.note(f"constraint_params.kr_thresh {fix}")
        times = {"start": start, "every": step or 1}
        node: dict[str, Any] = {ours: knobs} | {key: value for key, value in times.items() if value != 1}
        if end is not None:
            node["stop"] = end - 1
        projections.append(node)
    return projections


def _fix_kernel(project: Project, name: str, knobs: dict[str, Any]) -> bool:
    """Make the size of a kernel odd; false for a kernel that does nothing."""
    if knobs["taps"] % 2 == 0:
        knobs["taps"] += 1
        project.note(f"constraint_params.{name}.kernel_size is made odd: {knobs['taps']}")
    return knobs["std"] > 0 and knobs["taps"] > 1


def _translate_batches(project: Project) -> dict[str, Any]:
    given = project.recon["BATCH_SIZE"]
    knobs: dict[str, Any] = {"size": given["size"]}
    if given["grad_accumulation"] > 1:
        knobs["accumulate"] = given["grad_accumulation"]
    mode = project.recon["GROUP_MODE"]
    if mode in ("random", "compact"):
        return {mode: knobs}
    ordering = {"fps": "farthest", "hilbert": "hilbert", "sparse": "auto"}[mode]
    return {"sparse": knobs | {"ordering": ordering}}


def _translate_optimizer(project: Project) -> dict[str, Any]:
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
    knobs: dict[str, Any] = {}
    for key, knob in _name_knobs(name, ours, defaults).items():
        value = configs.get(key, defaults[key])
        if isinstance(knob, tuple):
            knobs |= dict(zip(knob, value, strict=True))
        elif knob is not None:
            knobs[knob] = value
        elif key not in ("lr", "line_search_fn") and value != defaults[key]:
            fix = f"configs.{key} is not used: it changes speed, or has no counterpart here"
            project.note(f"{_OPTIMIZER_PLACE}.{fix}")
    if name == "Adafactor":  # PyTorch's pair of epsilons begins with one that is not used
        knobs["memory"] = -knobs["memory"]
        knobs["floor"] = knobs["floor"][1]
    if name == "LBFGS":
        fix = "by a line search over all patterns; lr and batches do not matter"
        project.note(f"LBFGS chooses its step lengths {fix}")
        knobs["search"] = True
    return {ours: knobs}


def _name_knobs(name: str, ours: str, settings: Iterable[str]) -> dict[str, Any]:
    """Our knobs by PyTorch's settings: a name, a pair of names, or ``None`` without a counterpart."""
    known = get_knobs("phaseloom.fitting.optimizers", ours)
    knobs = {}
    for key in settings:
        knob = key if key in known else _OPTIMIZER_KNOBS.get(f"{name}.{key}", _OPTIMIZER_KNOBS.get(key))
        knobs[key] = knob if isinstance(knob, tuple) or knob in known else None
    return knobs


def _translate_scheduler(project: Project) -> Any:
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
    return _SCHEDULE_WORDS.get(value, value) if isinstance(value, str) else value


def _scheduled_rates(project: Project) -> Mapping[str, float]:
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
    return {"rise": max(rise, 0.0), "start": 1 / first, "end": 1 / (first * last)}


def _steps_per_epoch(project: Project) -> int:
    """Calls of the scheduler in an epoch."""
    given = project.model["scheduler_params"]
    if given["step_unit"] == "iter" or given["name"] == "ReduceLROnPlateau":
        return 1
    batch = project.recon["BATCH_SIZE"]
    slow, fast = project.scan_shape()
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
