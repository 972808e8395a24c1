"""A PtyRAD parameter file as one of ours, and in words what cannot be as it was."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.project import Project
from phaseloom.compat.ptyrad.schema import checked
from phaseloom.compat.ptyrad.tables_run import SECTIONS
from phaseloom.compat.ptyrad.translate_data import prepared, read
from phaseloom.compat.ptyrad.translate_fit import fitted
from phaseloom.compat.ptyrad.translate_model import modelled

__all__ = ["translated"]


def translated(tree: Mapping[str, Any], folder: Path, /) -> tuple[dict[str, Any], list[str]]:
    """The tree of a recipe that does what a PtyRAD file says, and notes on what differs.

    Paths are those of the working folder, else of ``folder``, that of the file.

    Raises:
        BadInput: a file that PtyRAD would not take, or that asks for what nobody can do.

    Example:
        >>> init = {"probe_kv": 80, "probe_conv_angle": 24.9, "meas_Npix": 128, "obj_Nlayer": 1}
        >>> init |= {"pos_N_scan_slow": 8, "pos_N_scan_fast": 9, "pos_scan_step_size": 0.4}
        >>> init |= {"obj_slice_thickness": 2, "meas_params": {"path": "scan.npy"}}
        >>> ours, notes = translated({"init_params": init}, Path("."))
        >>> ours["epochs"], ours["penalties"]
        (200, [{'relative_gaussian': {'weight': 1.0, 'power': 0.5}}])
    """
    full, notes = checked(tree)
    project = Project(full, Path(folder), list(notes))
    ours = {**read(project), "prepare": prepared(project), **modelled(project), **fitted(project)}
    ours |= {"outputs": _outputs(project), "title": _title(project)}
    _unmatched(project)
    return ours, project.notes


def _title(project: Project) -> str:
    recon = project.tree["recon_params"]
    name = Path(project.init["meas_params"]["path"]).stem
    return "_".join(word for word in (recon["prefix"], name, recon["postfix"]) if word)


def _unmatched(project: Project) -> None:
    """What has no counterpart, told only when a file asks for it."""
    if project.tree["hypertune_params"]["if_hypertune"]:
        project.note(
            "hypertune_params: the file runs once, as it stands; phaseloom convert also writes its search"
        )
    if project.init["meas_export"] is not None:
        project.note("init_params.meas_export: prepared patterns are not exported")
    recon, plain = project.tree["recon_params"], SECTIONS["recon_params"].knobs
    asked = [key for key in ("output_dir", "recon_dir_affixes", "prefix_time") if _differs(recon, plain, key)]
    if asked:
        fix = "name PtyRAD's result folders; ours is runs/DATE-NAME, or what --out says"
        project.note(f"recon_params.{', '.join(asked)}: {fix}")
    if _differs(recon, plain, "selected_figs"):
        project.note("recon_params.selected_figs: every run draws report.png and phase.png")
    if recon["compiler_configs"]["enable"]:
        project.note("recon_params.compiler_configs: nothing is compiled; the result is the same")


def _outputs(project: Project) -> list[Any]:
    """Files at the end of a run, as ``save_result`` and ``result_modes`` ask for them."""
    recon = project.tree["recon_params"]
    wanted, modes = recon["save_result"], recon["result_modes"]
    if recon["SAVE_ITERS"] is None:
        return []
    for key, fix in _KEPT.items():
        if key in wanted:
            project.note(f"recon_params.save_result: {key} {fix}")
    every = (
        {"start": recon["SAVE_ITERS"], "every": recon["SAVE_ITERS"]}
        if recon["SAVE_ITERS"] < recon["NITER"]
        else {}
    )
    out: list[Any] = [{"ptyrad": {}} | every] if "model" in wanted else []
    images = [ours for theirs, ours in _IMAGES.items() if theirs in wanted]
    if not images:
        return out
    if importlib.util.find_spec("tifffile") is None:
        project.note("recon_params.save_result: images need tifffile: pip install 'phaseloom[formats]'")
        return out
    for bit in modes["bit"]:
        for view in modes["FOV"]:
            bits = bit if bit == "raw" else int(bit)
            knobs = {"of": images, "dimensions": modes["obj_dim"], "bits": bits, "crop": view == "crop"}
            out.append({"stacks": knobs} | every)
    return out


_IMAGES = {"objp": "phase", "obja": "amplitude", "probe": "probe"}
_KEPT = {
    "probe_prop": "is not written: a probe between slices is not kept",
    "optim_state": "is in snapshot.h5, which every epoch leaves behind",
    "scheduler_state": "is in snapshot.h5, which every epoch leaves behind",
}


def _differs(given: Mapping[str, Any], plain: Mapping[str, Any], key: str) -> bool:
    knob = plain[key]
    default = (
        {name: inner.default for name, inner in knob.knobs.items()}
        if hasattr(knob, "knobs")
        else knob.default
    )
    return given[key] != default
