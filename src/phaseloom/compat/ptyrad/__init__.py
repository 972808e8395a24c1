"""PtyRAD's files and functions, over our core.

A parameter file of PtyRAD 1.0 or before runs as it is: `is_ptyrad` recognises one, `load` reads it (YAML,
TOML, JSON; never Python, since a file must not execute code), and `translate_project` makes our tree of it,
with notes on what differs; `translate_search` makes a run and a search of its ``hypertune_params``. The
functions of PtyRAD's tutorial are here too, by their names, in modules of the same names (``utils``,
``initialization``, ``losses``, ``constraints``, ``params``, ``forward``, ``reconstruction``).
"""

import os
from pathlib import Path
from typing import Any

from phaseloom.compat.ptyrad.constraints import CombinedConstraint
from phaseloom.compat.ptyrad.initialization import Initializer
from phaseloom.compat.ptyrad.legacy import normalise_times as _normalize_constraint_params
from phaseloom.compat.ptyrad.losses import CombinedLoss
from phaseloom.compat.ptyrad.models import PtychoAD
from phaseloom.compat.ptyrad.params import PtyRADParams, load
from phaseloom.compat.ptyrad.reconstruction import evaluate_results, make_accelerator, run_inversion
from phaseloom.compat.ptyrad.schema import is_ptyrad
from phaseloom.compat.ptyrad.translation.project_file import translate_project
from phaseloom.compat.ptyrad.translation.search import translate_search
from phaseloom.compat.ptyrad.utils import CustomLogger, print_system_info, set_gpu_device, vprint

__all__ = ["CombinedConstraint", "CombinedLoss", "CustomLogger", "Initializer", "PtyRADParams", "PtychoAD"]
__all__ += ["evaluate_results", "is_ptyrad", "load", "load_and_preprocess_data", "print_system_info"]
__all__ += ["run_inversion", "set_gpu_device", "translate_project", "translate_search", "vprint"]


# It is defined here because the tests of PtyRAD's tutorial replace names of the module that they import.
def load_and_preprocess_data(params_path: str, gpuid: int | str = 0) -> dict[str, Any]:
    """Everything that a run of a PtyRAD file needs, made ready.

    Args:
        params_path: a parameter file of PtyRAD.
        gpuid: number of a GPU, ``cpu``, or ``acc``: where accelerate puts it, in one process or several.

    Returns:
        ``params``, ``device``, ``logger``, ``initializer``, ``init_variables``, ``loss_fn``,
        ``constraint_fn`` and ``accelerator`` by name. What is changed in them counts in `run_inversion`.
    """
    logger = CustomLogger(
        log_file="ptyrad_log.txt", log_dir="auto", prefix_time="datetime", show_timestamp=True
    )
    print_system_info()
    device = set_gpu_device(gpuid=gpuid)
    if not os.path.exists(params_path):
        raise FileNotFoundError(f"{params_path} does not exist: give the path of a parameter file")
    raw = load(params_path)
    if raw.get("constraint_params") is not None:
        raw["constraint_params"] = _normalize_constraint_params(raw["constraint_params"])
    params = PtyRADParams(**raw).model_dump()
    params["params_path"] = params_path
    folder = Path(params_path).parent
    initializer = Initializer(params["init_params"], seed=None, folder=folder).init_all()
    return {
        "params": params,
        "device": device,
        "logger": logger,
        "initializer": initializer,
        "init_variables": initializer.init_variables,
        "loss_fn": CombinedLoss(params["loss_params"], device=device),
        "constraint_fn": CombinedConstraint(params["constraint_params"], device=device, verbose=True),
        "accelerator": make_accelerator() if device is None else None,
    }
