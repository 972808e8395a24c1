"""The functions and objects of PtyRAD's tutorial by their names, over our core."""

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from phaseloom.compat.ptyrad.model import PtychoAD, get_init_variables, get_scan
from phaseloom.compat.ptyrad.project import Project
from phaseloom.compat.ptyrad.schema import check_section, check_tree
from phaseloom.compat.ptyrad.translate import translate_project
from phaseloom.compat.ptyrad.translate_fit import PENALTIES, translate_constraints, translate_loss
from phaseloom.data.scan import Scan4D
from phaseloom.documents import parse_json, parse_toml, parse_yaml, read_text, require_plain
from phaseloom.errors import BadInput
from phaseloom.fitting.schedule import Every
from phaseloom.ptycho import penalties
from phaseloom.ptycho.projections.apply import bind_projection, describe_setting
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.lock import OutputLock
from phaseloom.spec import call

__all__ = [
    "CombinedConstraint",
    "CombinedLoss",
    "CustomLogger",
    "Initializer",
    "PtyRADParams",
    "evaluate_results",
    "load",
    "print_system_info",
    "run_inversion",
    "set_gpu_device",
    "vprint",
]

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
    name = Path(path).name
    suffix = Path(path).suffix.lower()
    if suffix == ".py":
        raise BadInput(name, None, "is a program, and a file must not run code: save its settings as .yaml")
    readers = {".yaml": parse_yaml, ".yml": parse_yaml, ".toml": parse_toml, ".json": parse_json}
    if suffix not in readers:
        raise BadInput(
            name, None, "is not a parameter file: its name must end in .yaml, .yml, .toml or .json"
        )
    tree = readers[suffix](read_text(Path(path)), name)
    if not isinstance(tree, Mapping):
        raise BadInput(name, tree, "must hold sections such as init_params")
    return dict(require_plain(tree, name))


class PtyRADParams:
    """A PtyRAD parameter set, checked and with its defaults: sections in, sections out.

    Attributes:
        notes: what had to be understood, in words.
    """

    def __init__(self, **sections: Any):
        self._tree, self.notes = check_tree(sections)

    def model_dump(self) -> dict[str, Any]:
        """The full tree, as plain dicts."""
        return json.loads(json.dumps(self._tree))


class CustomLogger(MemoryHandler):
    """Keeps what is logged until the folder of the run is known, and writes it there from then on.

    Attributes:
        flush_file: whether a file is written.
    """

    def __init__(
        self,
        log_file: str | None = "ptyrad_log.txt",
        log_dir: str = "auto",
        prefix_time: str | bool | None = "datetime",
        show_timestamp: bool = True,
    ):
        super().__init__(capacity=0, flushLevel=logging.INFO)  # each line goes to the file once there is one
        self.setLevel(logging.INFO)
        self.log_dir = log_dir
        self.flush_file = log_file is not None
        formats = {"date": "%Y%m%d_", "time": "%H%M%S_", "datetime": "%Y%m%d_%H%M%S_", True: "%Y%m%d_"}
        self.log_file = datetime.now().strftime(formats.get(prefix_time or "", "")) + (log_file or "")
        self.setFormatter(logging.Formatter(f"{'%(asctime)s ' if show_timestamp else ''}%(message)s"))
        logging.getLogger("phaseloom").addHandler(self)

    def flush_to_file(self, log_dir: Path | str | None = None) -> None:
        """Write what was kept into a folder, and go on writing there."""
        folder = Path(log_dir or (self.log_dir if self.log_dir != "auto" else "logs"))
        folder.mkdir(parents=True, exist_ok=True)
        target = logging.FileHandler(folder / self.log_file, mode="w", encoding="utf-8")
        target.setFormatter(self.formatter)
        self.setTarget(target)
        self.flush()

    def close(self) -> None:
        """Stop listening."""
        logging.getLogger("phaseloom").removeHandler(self)
        target = self.target
        super().close()
        if target is not None:
            target.close()


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


class Initializer:
    """Data and first guesses of a PtyRAD section ``init_params``.

    Attributes:
        scan: the data, read and prepared; after `init_all`.
        init_variables: arrays by PtyRAD's names, lengths in angstrom; after `init_all`.
    """

    def __init__(self, init_params: Mapping[str, Any], seed: int | None = None, folder: Path | str = "."):
        self.init_params = dict(init_params)
        self.folder = Path(folder)
        self.seed = self.init_params.get("random_seed") if seed is None else seed
        self.scan: Scan4D | None = None
        self.init_variables: dict[str, Any] = {}

    def init_all(self) -> "Initializer":
        """Read the data, prepare it, and make the first guesses."""
        init = self.init_params | {"random_seed": self.seed}
        tree, notes = translate_project({"init_params": init}, self.folder)
        for note in notes:
            vprint(note)
        recipe = Reconstruct.of(tree)
        self.scan = recipe.scan()
        self.init_variables = get_init_variables(recipe.build_model(self.scan), self.scan, init)
        return self


class CombinedLoss:
    """PtyRAD's losses as one function: their sum, and each of them."""

    def __init__(self, loss_params: Mapping[str, Any], device: Any = "cuda"):
        self.loss_params = check_section("loss_params", loss_params, [])
        self.device = device

    def __call__(
        self, model_DP: Tensor, measured_DP: Tensor, object_patches: Tensor, omode_occu: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Sum and list, in the order single, poissn, pacbed, sparse, simlar; what is off is zero.

        ``object_patches`` is what `PtychoAD.get_obj_patches` gives.
        """
        amplitude, phase = object_patches.unbind(-1)
        of_object = {"loss_sparse": (phase, omode_occu), "loss_simlar": (amplitude, phase, omode_occu)}
        losses = []
        for name, ours in PENALTIES.items():
            given = self.loss_params[name]
            if not given["state"] or (name == "loss_simlar" and amplitude.shape[1] == 1):
                losses.append(model_DP.new_zeros(()))
                continue
            values = of_object.get(name, (model_DP, measured_DP))
            losses.append(getattr(penalties, ours)(*values, **translate_loss(given)))
        return torch.stack(losses).sum(), losses


class CombinedConstraint:
    """PtyRAD's constraints as one function of a model and the number of the iteration."""

    def __init__(self, constraint_params: Mapping[str, Any], device: Any = "cuda", verbose: bool = True):
        self.constraint_params = check_section("constraint_params", constraint_params, [])
        self.device = device
        self.verbose = verbose
        tree = {"constraint_params": self.constraint_params, "init_params": {"probe_illum_type": "electron"}}
        nodes = translate_constraints(Project(tree, Path()))
        self.calls = [call("phaseloom.ptycho.projections", node, "constraint_params") for node in nodes]
        self.events: tuple[PtychoAD, Sequence[Every]] | None = None

    def __call__(self, model: PtychoAD, niter: int) -> None:
        """Change the model as its constraints ask for after an iteration."""
        if self.events is None or self.events[0] is not model:
            where = describe_setting(model.core, get_scan(model.core))
            actions = [bind_projection(one.partial(), model.core, where, one.name) for one in self.calls]
            pairs = zip(actions, self.calls, strict=True)
            self.events = (model, [Every(action, **dict(one.when)) for action, one in pairs])
        for event in self.events[1]:
            if event.is_due(niter):
                event.action()


def run_inversion(data_context: Mapping[str, Any]) -> dict[str, Any]:
    """Reconstruct what `load_and_preprocess_data` made ready.

    Returns:
        ``model`` (a `PtychoAD`), ``optimizer``, ``output_path`` (or ``None``) and ``logger`` by name.
    """
    params = data_context["params"]
    device = data_context["device"]
    logger = data_context["logger"]
    variables = data_context["init_variables"]
    tree, _ = translate_project(params, Path(params.get("params_path", ".")).parent)
    tree["device"] = "cuda" if str(device).startswith("cuda") else "cpu"
    recipe = Reconstruct.of(tree)
    recon = params["recon_params"]
    output = None if recon["SAVE_ITERS"] is None else Path(recon["output_dir"]) / recipe.title
    lock = None if output is None else OutputLock(output)
    job = Job(recipe, data_context["initializer"].scan, None, lock)
    with torch.no_grad():
        there = job.model.object.phase.device
        job.model.object.set_transmission(torch.as_tensor(variables["obj"], device=there))
        job.model.probe.set_modes(torch.as_tensor(variables["probe"], device=there))
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
