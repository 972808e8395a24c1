"""PtyRAD's files and functions, over our core.

A parameter file of PtyRAD 1.0 or before runs as it is: `is_ptyrad` knows one, `load` reads it (YAML, TOML,
JSON; never Python, since a file must not execute code), and `translated` makes our tree of it, with notes
on what cannot be as it was; `searched` makes a run and a search of its ``hypertune_params``. The functions
of PtyRAD's tutorial are here too, by their names.
"""

import json
import logging
import os
import platform
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import distributed as dist

from phaseloom.compat.ptyrad.engine import CombinedConstraint, CombinedLoss, Initializer, PtychoAD
from phaseloom.compat.ptyrad.legacy import normalised as _normalize_constraint_params
from phaseloom.compat.ptyrad.schema import checked, is_ptyrad
from phaseloom.compat.ptyrad.translate import translated
from phaseloom.compat.ptyrad.translate_search import searched
from phaseloom.errors import BadInput

__all__ = ["CombinedConstraint", "CombinedLoss", "CustomLogger", "Initializer", "PtyRADParams", "PtychoAD"]
__all__ += ["evaluate_results", "is_ptyrad", "load", "load_and_preprocess_data", "print_system_info"]
__all__ += ["run_inversion", "searched", "set_gpu_device", "translated", "vprint"]

log = logging.getLogger(__name__)


def load(path: Path | str, /) -> dict[str, Any]:
    r"""The tree of a parameter file in YAML, TOML or JSON.

    Raises:
        BadInput: a file of another kind, one that cannot be read, or one that holds no sections.

    Example:
        >>> _ = Path("p.toml").write_text('[init_params]\nprobe_kv = 80')
        >>> load("p.toml")
        {'init_params': {'probe_kv': 80}}
    """
    name, suffix = Path(path).name, Path(path).suffix.lower()
    if suffix == ".py":
        raise BadInput(name, None, "is a program, and a file must not run code: save its settings as .yaml")
    readers = {".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".toml": tomllib.loads, ".json": json.loads}
    if suffix not in readers:
        raise BadInput(name, None, "is no parameter file: its name must end in .yaml, .yml, .toml or .json")
    try:
        with open(path, encoding="utf-8") as file:
            tree = readers[suffix](file.read())
    except OSError as error:
        raise BadInput(str(path), None, "cannot be read: is the name right?") from error
    except (yaml.YAMLError, tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise BadInput(name, None, f"is not {suffix[1:].upper()}: {said[:120]}") from None
    if not isinstance(tree, Mapping):
        raise BadInput(name, tree, "must hold sections such as init_params")
    return dict(tree)


class PtyRADParams:
    """A PtyRAD parameter set, checked and with its defaults: sections in, sections out.

    Attributes:
        notes: what had to be understood, in words.
    """

    def __init__(self, **sections: Any):
        self._tree, self.notes = checked(sections)

    def model_dump(self) -> dict[str, Any]:
        """The full tree, as plain dicts."""
        return json.loads(json.dumps(self._tree))


class CustomLogger(logging.Handler):
    """Keeps what is logged until it is known where the run's file lies.

    Attributes:
        flush_file: whether there is to be a file.
    """

    def __init__(
        self,
        log_file: str | None = "ptyrad_log.txt",
        log_dir: str = "auto",
        prefix_time: str | bool | None = "datetime",
        show_timestamp: bool = True,
    ):
        super().__init__(logging.INFO)
        self.log_dir, self.flush_file, self.lines = log_dir, log_file is not None, []
        formats = {"date": "%Y%m%d_", "time": "%H%M%S_", "datetime": "%Y%m%d_%H%M%S_", True: "%Y%m%d_"}
        self.log_file = datetime.now().strftime(formats.get(prefix_time or "", "")) + (log_file or "")
        self.setFormatter(logging.Formatter(f"{'%(asctime)s ' if show_timestamp else ''}%(message)s"))
        self.path: Path | None = None
        logging.getLogger("phaseloom").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, and write it once there is a file."""
        line = self.format(record)
        self.lines.append(line)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def flush_to_file(self, log_dir: Path | str | None = None) -> None:
        """Write what was kept into a folder, and go on writing there."""
        folder = Path(log_dir or (self.log_dir if self.log_dir != "auto" else "logs"))
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / self.log_file
        self.path.write_text("".join(line + "\n" for line in self.lines), encoding="utf-8")

    def close(self) -> None:
        """Stop listening."""
        logging.getLogger("phaseloom").removeHandler(self)
        super().close()


def vprint(*words: object) -> None:
    """Log a line."""
    log.info("%s", " ".join(map(str, words)))


def print_system_info() -> None:
    """Log what this runs on."""
    vprint("Python", platform.python_version(), "on", platform.system(), platform.machine())
    vprint("PyTorch", torch.__version__, "with", torch.cuda.device_count(), "CUDA devices")


def set_gpu_device(gpuid: int | str | None = 0) -> str | None:
    """The device of a number; ``cpu`` where there is none, ``None`` for ``"acc"``.

    Example:
        >>> set_gpu_device("cpu")
        'cpu'
    """
    if gpuid == "acc":
        return None
    if gpuid in ("cpu", None) or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(gpuid)}"


def load_and_preprocess_data(params_path: str, gpuid: int | str = 0) -> dict[str, Any]:
    """Everything that a run of a PtyRAD file needs, made ready.

    Args:
        params_path: a parameter file of PtyRAD.
        gpuid: number of a GPU, ``cpu`` or ``acc``.

    Returns:
        ``params``, ``device``, ``logger``, ``initializer``, ``init_variables``, ``loss_fn``,
        ``constraint_fn`` and ``accelerator`` by name.
    """
    print_system_info()
    logger = CustomLogger(
        log_file="ptyrad_log.txt", log_dir="auto", prefix_time="datetime", show_timestamp=True
    )
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
        "accelerator": None,
    }


def run_inversion(data_context: Mapping[str, Any]) -> dict[str, Any]:
    """Reconstruct what `load_and_preprocess_data` made ready.

    Returns:
        ``model`` (a `PtychoAD`), ``optimizer``, ``output_path`` (or ``None``) and ``logger`` by name.
    """
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    params, device, logger = (data_context[key] for key in ("params", "device", "logger"))
    variables = data_context["init_variables"]
    tree, _ = translated(params, Path(params.get("params_path", ".")).parent)
    tree["device"] = "cuda" if str(device).startswith("cuda") else "cpu"
    recipe, recon = Reconstruct.of(tree), params["recon_params"]
    output = None if recon["SAVE_ITERS"] is None else Path(recon["output_dir"]) / recipe.title
    job = Job(recipe, data_context["initializer"].scan, None, output)
    with torch.no_grad():
        job.model.object.put(torch.as_tensor(variables["obj"]).to(job.model.object.phase.device))
        job.model.probe.put(torch.as_tensor(variables["probe"]).to(job.model.object.phase.device))
    model = PtychoAD(variables, params["model_params"], device=device, core=job.model)
    if logger is not None and logger.flush_file and output is not None:
        logger.flush_to_file(log_dir=output)
    for epoch in job:
        model.loss_iters.append((epoch.number, epoch.loss))
        model.iter_times.append(epoch.seconds)
        vprint(f"Iter: {epoch.number}, Total Loss: {epoch.loss:.4f}, in {epoch.seconds:.3f} sec")
    if output is not None:
        job.result().save(output / "result.h5")
    return {"model": model, "optimizer": job.progress.optimizer, "output_path": output, "logger": logger}


def evaluate_results(results: Mapping[str, Any]) -> None:
    """End a run: its log is closed, and processes that worked together are let go."""
    vprint("Evaluation and clean-up of", type(results["model"]).__name__)
    logger = results["logger"]
    if logger is not None and getattr(logger, "flush_file", False):
        logger.close()
    if dist.is_initialized():
        dist.destroy_process_group()
