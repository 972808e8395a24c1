"""From PtyRAD's rates, losses, constraints and batches to ours."""

from collections.abc import Mapping
from typing import Any

from phaseloom.compat.ptyrad.translation.model import count_slices
from phaseloom.compat.ptyrad.translation.optimizer import (
    scheduled_rates,
    translate_optimizer,
    translate_scheduler,
)
from phaseloom.compat.ptyrad.translation.project import Project

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


def translate_fit(project: Project, /) -> dict[str, Any]:
    """All fields of a recipe that say how it runs."""
    return {
        "noise": "none",
        "penalties": _translate_losses(project),
        "start": "none",
        **({} if project.init["obj_source"] == "simu" else {"compare_starts": False}),
        "rates": _translate_rates(project),
        "optimizer": translate_optimizer(project),
        "shape": translate_scheduler(project),
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
    scheduled = scheduled_rates(project)
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
        knobs = _translate_constraint(theirs, given)
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


def _translate_constraint(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs of a projection; what is null keeps its default."""
    names = {key: _PROJECTION_KNOBS.get(key, key) for key in given}
    names |= {key: knob for key in given if (knob := _PROJECTION_KNOBS.get(f"{name}.{key}"))}
    return {names[key]: value for key, value in given.items() if value is not None}


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
