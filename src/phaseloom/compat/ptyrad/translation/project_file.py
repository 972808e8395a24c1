"""A PtyRAD parameter file as one of ours, and notes on what differs."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.schema import ReconParams, check_tree
from phaseloom.compat.ptyrad.translation.data import translate_preparation, translate_reader
from phaseloom.compat.ptyrad.translation.fit import translate_fit
from phaseloom.compat.ptyrad.translation.model import translate_model
from phaseloom.compat.ptyrad.translation.project import Project

__all__ = ["translate_project"]

_IMAGES = {"objp": "phase", "obja": "amplitude", "probe": "probe"}
_NOT_WRITTEN = {
    "probe_prop": "is not written: a probe between slices is not kept",
    "optim_state": "is in snapshot.h5, which every epoch leaves behind",
    "scheduler_state": "is in snapshot.h5, which every epoch leaves behind",
}


def translate_project(tree: Mapping[str, Any], folder: Path, /) -> tuple[dict[str, Any], list[str]]:
    """The tree of a recipe that does what a PtyRAD file says, and notes on what differs.

    Paths are those of the working folder, else of ``folder``, that of the file.

    Raises:
        BadInput: a file that PtyRAD would not take, or that asks for what is not supported.

    Example:
        >>> init = {"probe_kv": 80, "probe_conv_angle": 24.9, "meas_Npix": 128, "obj_Nlayer": 1}
        >>> init |= {"pos_N_scan_slow": 8, "pos_N_scan_fast": 9, "pos_scan_step_size": 0.4}
        >>> init |= {"obj_slice_thickness": 2, "meas_params": {"path": "scan.npy"}}
        >>> ours, notes = translate_project({"init_params": init}, Path("."))
        >>> ours["epochs"], ours["penalties"]
        (200, [{'relative_gaussian': {'weight': 1.0, 'power': 0.5}}])
    """
    full, notes = check_tree(tree)
    project = Project(full, Path(folder), list(notes))
    ours = {
        **translate_reader(project),
        "prepare": translate_preparation(project),
        **translate_model(project),
        **translate_fit(project),
        "outputs": _translate_outputs(project),
        "title": _make_title(project),
    }
    _note_lost_settings(project)
    return ours, project.notes


def _make_title(project: Project) -> str:
    name = Path(project.init["meas_params"]["path"]).stem
    words = (project.recon["prefix"], name, project.recon["postfix"])
    return "_".join(word for word in words if word)


def _translate_outputs(project: Project) -> list[Any]:
    """Files at the end of a run, as ``save_result`` and ``result_modes`` ask for them."""
    recon = project.recon
    wanted = recon["save_result"]
    step = recon["SAVE_ITERS"]
    if step is None:
        return []
    for key, fix in _NOT_WRITTEN.items():
        if key in wanted:
            project.note(f"recon_params.save_result: {key} {fix}")
    times = {"start": step, "every": step} if step < recon["NITER"] else {}
    outputs: list[Any] = [{"ptyrad": {}} | times] if "model" in wanted else []
    images = [ours for theirs, ours in _IMAGES.items() if theirs in wanted]
    if not images:
        return outputs
    if importlib.util.find_spec("tifffile") is None:
        project.note("recon_params.save_result: images need tifffile: pip install 'phaseloom[formats]'")
        return outputs
    modes = recon["result_modes"]
    for bit in modes["bit"]:
        for view in modes["FOV"]:
            bits = bit if bit == "raw" else int(bit)
            knobs = {"of": images, "dimensions": modes["obj_dim"], "bits": bits, "crop": view == "crop"}
            outputs.append({"stacks": knobs} | times)
    return outputs


def _note_lost_settings(project: Project) -> None:
    """Note what has no counterpart where a file asks for it."""
    recon = project.recon
    if project.tree["hypertune_params"]["if_hypertune"]:
        fix = "the file runs once, as it stands; phaseloom convert also writes its search"
        project.note(f"hypertune_params: {fix}")
    if project.init["meas_export"] is not None:
        project.note("init_params.meas_export: prepared patterns are not exported")
    asked = [
        key
        for key in ("output_dir", "recon_dir_affixes", "prefix_time")
        if recon[key] != ReconParams.model_fields[key].default
    ]
    if asked:
        fix = "name PtyRAD's result folders; ours is DATE-NAME in output_dir, or what --out says"
        project.note(f"recon_params.{', '.join(asked)}: {fix}")
    if recon["selected_figs"] != ReconParams.model_fields["selected_figs"].default:
        project.note("recon_params.selected_figs: every run draws report.png and phase.png")
    if recon["compiler_configs"]["enable"]:
        project.note("recon_params.compiler_configs: nothing is compiled; the result is the same")
