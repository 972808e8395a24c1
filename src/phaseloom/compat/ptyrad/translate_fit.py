"""From PtyRAD's rates, losses, constraints and batches to ours."""

from collections.abc import Mapping
from typing import Any

from phaseloom.compat.ptyrad.optimizers import limits, optimized, shaped
from phaseloom.compat.ptyrad.project import Project
from phaseloom.compat.ptyrad.translate_model import slices

__all__ = ["PENALTIES", "fitted", "knobs_of", "projections"]

_PARTS = {
    "obja": "amplitude",
    "objp": "phase",
    "probe": "probe",
    "probe_pos_shifts": "positions",
    "obj_tilts": "tilts",
    "slice_thickness": "thickness",
}
_OBJECTWISE: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "probe_mask_k": ("aperture", {"radius": "radius", "width": "width", "power_thresh": "share"}),
    "probe_mask_r": (
        "support",
        {
            "radius": "radius",
            "order": "order",
            "power_thresh": "share",
            "z_range": "depths",
            "z_steps": "steps",
        },
    ),
    "ortho_pmode": ("orthogonal", {}),
    "fix_probe_int": ("power", {}),
    "obj_rblur": ("lateral_blur", {"obj_type": "of", "std": "std", "kernel_size": "taps"}),
    "obj_zblur": ("depth_blur", {"obj_type": "of", "std": "std", "kernel_size": "taps"}),
    "kr_filter": ("low_pass", {"obj_type": "of", "radius": "radius", "width": "width"}),
    "kz_filter": ("missing_wedge", {"obj_type": "of", "beta": "beta", "alpha": "alpha"}),
    "kr_thresh": ("strongest_cosines", {"obj_type": "of", "thresh": "keep"}),
    "complex_ratio": ("complex_ratio", {"obj_type": "of", "alpha1": "alpha1", "alpha2": "alpha2"}),
    "mirrored_amp": ("mirrored_amplitude", {"relax": "relax", "scale": "scale", "power": "power"}),
    "obj_z_recenter": ("recentre", {"thresh": "percentile", "scale": "scale", "max_shift": "most"}),
    "obja_thresh": ("bounded_amplitude", {"relax": "relax", "thresh": "between"}),
    "objp_postiv": ("positive", {"relax": "relax"}),
    "pos_recenter": ("still", {"relax": "relax"}),
    "tilt_smooth": ("smooth_tilts", {"std": "std"}),
}
"""Constraints in the order in which PtyRAD applies them: our projection, and its knobs by theirs."""

PENALTIES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "loss_single": ("relative_gaussian", {"weight": "weight", "dp_pow": "power"}),
    "loss_poissn": ("relative_poisson", {"weight": "weight", "dp_pow": "power", "eps": "floor"}),
    "loss_pacbed": ("pacbed", {"weight": "weight", "dp_pow": "power"}),
    "loss_sparse": ("sparse", {"weight": "weight", "ln_order": "order"}),
    "loss_simlar": (
        "similarity",
        {"weight": "weight", "blur_std": "blur", "scale_factor": "scale", "obj_type": "of"},
    ),
}
"""Losses: our penalty, and its knobs by theirs."""


def fitted(project: Project, /) -> dict[str, Any]:
    """All fields of a recipe that say how it runs."""
    recon = project.tree["recon_params"]
    return {
        "noise": "none",
        "penalties": _penalties(project),
        "start": "none",
        "rates": _rates(project),
        "optimizer": optimized(project),
        "shape": shaped(project),
        "projections": projections(project),
        "batch": _batch(project),
        "epochs": recon["NITER"],
        "holdout": 0,
        "patience": None,
        "seed": project.init["random_seed"] or 0,
    }


def _penalties(project: Project) -> list[Any]:
    out = []
    for name, (ours, _) in PENALTIES.items():
        given = project.tree["loss_params"][name]
        if not given["state"]:
            continue
        if name == "loss_simlar" and project.init["obj_omode_max"] == 1:
            project.note("loss_params.loss_simlar is left out: it compares object modes, and there is one")
            continue
        out.append({ours: knobs_of(name, given)})
    return out


def knobs_of(name: str, given: Mapping[str, Any], /) -> dict[str, Any]:
    """The knobs of our penalty that a loss asks for.

    Example:
        >>> knobs_of("loss_sparse", {"weight": 0.2, "ln_order": 1})
        {'weight': 0.2, 'order': 1}
    """
    knobs = {knob: given[theirs] for theirs, knob in PENALTIES[name][1].items()}
    return knobs | ({"blur": None} if knobs.get("blur") == 0 else {})


def _rates(project: Project) -> dict[str, Any]:
    """Rates in the units of our parts; what PtyRAD does not refine stays fixed."""
    rates: dict[str, Any] = {"affine": 0.0, "weights": 0.0}
    count, thickness = slices(project)
    own = limits(project)
    for theirs, ours in _PARTS.items():
        moves = _moves(project, theirs, own.get(theirs))
        if moves["rate"] and ours in ("tilts", "thickness") and count == 1:
            project.note(f"model_params.update_params.{theirs} is left out: a single slice has no depth")
            continue
        if ours == "thickness":
            moves["rate"] /= thickness / (1e10 if project.xray else 1.0)
        if moves["rate"] or ours in ("amplitude", "phase", "probe", "positions"):
            rates[ours] = moves if moves["rate"] and len(moves) > 1 else moves["rate"]
    return rates


def _moves(project: Project, name: str, own: float | None) -> dict[str, Any]:
    """Rate of a part with its first and last epoch; PtyRAD's end is the first epoch without it."""
    given = project.tree["model_params"]["update_params"][name]
    start, end = given["start_iter"], given["end_iter"]
    whole = project.tree["model_params"]["optimizer_params"]["name"] == "LBFGS"
    if start is None or (end is not None and end <= start) or (whole and start > 1):
        return {"rate": 0.0}
    if whole and end is not None:
        project.note(
            f"model_params.update_params.{name}.end_iter is not used: with LBFGS parts move together"
        )
        end = None
    first = {"start": start} if start > 1 else {}
    return {"rate": given["lr"] if own is None else own, **first} | ({} if end is None else {"stop": end - 1})


def projections(project: Project, /) -> list[Any]:
    """The constraints that are on, as projections with their times, in PtyRAD's order."""
    out = []
    for theirs, (ours, renamed) in _OBJECTWISE.items():
        given = project.tree["constraint_params"][theirs]
        start, end, every = given["start_iter"], given["end_iter"], given["step"] or 1
        if start is None or (end is not None and end <= start):
            continue
        knobs = {knob: given[name] for name, knob in renamed.items() if given[name] is not None}
        if "taps" in knobs and not _kernel(project, theirs, knobs):
            continue
        if theirs == "probe_mask_r":
            knobs["depths"] = [project.length("z_range", depth) for depth in knobs["depths"]]
        if theirs == "kr_thresh":
            project.note(
                "constraint_params.kr_thresh is applied with the true inverse of the cosine transform"
            )
        when = {"start": start, "every": every} | ({} if end is None else {"stop": end - 1})
        out.append({ours: knobs} | {key: value for key, value in when.items() if value != 1 or key == "stop"})
    return out


def _kernel(project: Project, name: str, knobs: dict[str, Any]) -> bool:
    """Make the kernel odd; one without width does nothing."""
    if knobs["taps"] % 2 == 0:
        knobs["taps"] += 1
        project.note(f"constraint_params.{name}.kernel_size is made odd: {knobs['taps']}")
    return knobs["std"] > 0 and knobs["taps"] > 1


def _batch(project: Project) -> dict[str, Any]:
    recon = project.tree["recon_params"]
    knobs: dict[str, Any] = {"size": recon["BATCH_SIZE"]["size"]}
    if recon["BATCH_SIZE"]["grad_accumulation"] > 1:
        knobs["accumulate"] = recon["BATCH_SIZE"]["grad_accumulation"]
    mode = recon["GROUP_MODE"]
    if mode in ("random", "compact"):
        return {mode: knobs}
    return {"sparse": knobs | {"ordering": {"fps": "farthest", "hilbert": "hilbert", "sparse": "auto"}[mode]}}
