"""``ptyrad.reconstruction`` of PtyRAD's tutorial: optimiser, batches, the loop, and a whole run.

The loop is `phaseloom.fitting.loop.fit`; its objective is ``loss_fn`` of what the model predicts.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Dataset

from phaseloom.compat.ptyrad.models import PtychoAD
from phaseloom.compat.ptyrad.results import RunFolder
from phaseloom.compat.ptyrad.schema import check_section, check_tree
from phaseloom.compat.ptyrad.translation.optimizer import scheduled_rates, translate_optimizer
from phaseloom.compat.ptyrad.translation.project import Project
from phaseloom.compat.ptyrad.translation.project_file import translate_project
from phaseloom.compat.ptyrad.utils import vprint
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Epoch, Progress, fit
from phaseloom.fitting.schedule import Every
from phaseloom.fitting.updates import Batches, list_pieces
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.spec import call

__all__ = [
    "EpochBatches",
    "IndicesDataset",
    "create_optimizer",
    "evaluate_results",
    "make_accelerator",
    "parse_sec_to_time_str",
    "prepare_recon",
    "recon_loop",
    "run_inversion",
]


def parse_sec_to_time_str(seconds: float) -> str:
    """A time in words.

    Example:
        >>> parse_sec_to_time_str(3723.5), parse_sec_to_time_str(0.25)
        ('1 h 2 min 3.500 sec', '0.250 sec')
    """
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    words = [f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min")) if count]
    return " ".join([*words, f"{rest:.3f} sec"])


class IndicesDataset(Dataset[int]):
    """Numbers of patterns as a data set of PyTorch, for a ``DataLoader``.

    Example:
        >>> len(IndicesDataset([3, 5])), IndicesDataset([3, 5])[1]
        (2, 5)
    """

    def __init__(self, indices: Sequence[int] | np.ndarray):
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> int:
        return int(self.indices[number])


class EpochBatches(Sequence[np.ndarray]):
    """The batches of the first iteration; `recon_loop` asks for those of any, whose order changes.

    Attributes:
        order: batches of an iteration by its number; one in pieces is a tuple.
    """

    def __init__(self, order: Batches):
        self.order = order
        self._first = [torch.cat(list_pieces(batch)).numpy() for batch in order(1)]

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, number: Any) -> Any:
        return self._first[number]


def make_accelerator() -> Any:
    """The accelerator of ``gpuid="acc"``: one process, or those of ``torchrun`` or ``accelerate launch``.

    Raises:
        MissingExtra: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtra('gpuid="acc"', "accelerate", "cluster") from None
    return Accelerator(cpu=not torch.cuda.is_available())


def create_optimizer(
    optimizer_params: Mapping[str, Any], optimizable_params: Sequence[Mapping[str, Any]]
) -> torch.optim.Optimizer:
    """The optimiser of a section ``optimizer_params``.

    Args:
        optimizer_params: ``name`` and ``configs`` as in PyTorch; L-BFGS searches along lines.
        optimizable_params: groups ``{"params": [...], "lr": ...}``, as `PtychoAD` has them.

    Raises:
        BadInput: an optimiser or a setting that does not exist.

    Example:
        >>> group = {"params": [nn.Parameter(torch.zeros(2))], "lr": 1e-3}
        >>> type(create_optimizer({"name": "Adam"}, [group])).__name__
        'Adam'
    """
    tree = {"model_params": check_section("model_params", {"optimizer_params": dict(optimizer_params)}, [])}
    project = Project(tree, Path())
    node = translate_optimizer(project)
    for note in project.notes:
        vprint(note)
    always = {"start": 1, "stop": None, "shape": None}
    groups = [
        always | {"name": f"part {number}", "base": group["lr"]} | dict(group)
        for number, group in enumerate(optimizable_params, 1)
    ]
    if not groups:
        raise BadInput("optimizable_params", None, "is empty: give one part a learning rate above 0")
    return call("phaseloom.fitting.optimizers", node, "model_params.optimizer_params")(groups)


def prepare_recon(
    model: nn.Module, init: Any, params: Mapping[str, Any]
) -> tuple[np.ndarray, EpochBatches, Path | None]:
    """Numbers of the patterns, their batches, and the folder for results.

    Args:
        model: a `PtychoAD`, or a module with its names.
        init: the `Initializer`, whose scan says where the patterns lie.
        params: all sections; ``GROUP_MODE`` and ``BATCH_SIZE`` say how patterns are put together.

    Returns:
        Indices, batches, and ``output_dir``/title, or ``None`` without ``SAVE_ITERS``.
    """
    recipe = _read_recipe(params)
    corner: Any = model.crop_pos
    indices = np.arange(len(corner))
    positions = corner.cpu().numpy() if init is None or init.scan is None else init.scan.positions
    seed: Any = model.random_seed
    recon = params["recon_params"]
    folder = None if recon["SAVE_ITERS"] is None else Path(recon["output_dir"]) / recipe.title
    return indices, EpochBatches(recipe.batch(indices, seed or 0, positions)), folder


def recon_loop(  # noqa: PLR0917 - PtyRAD's signature
    model: nn.Module,
    init: Any,
    params: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[..., tuple[Tensor, Any]],
    constraint_fn: Callable[[Any, int], None],
    indices: Sequence[int] | np.ndarray,
    batches: Any,
    output_path: Path | str | None,
    acc: Any = None,
) -> None:
    """All iterations: predict, compare by ``loss_fn``, step, then impose ``constraint_fn``.

    A part moves from its ``start_iter`` to the iteration before its ``end_iter``. Losses, times, thicknesses
    and mean tilts are kept in the model. Every ``SAVE_ITERS`` iterations the files of ``save_result`` are
    written into ``epochs/NNNN``, at the end into the folder itself, with ``result.h5``.

    Args:
        model: a `PtychoAD`, or a module with its names, which may be prepared by an accelerator.
        init: the `Initializer`; ``None`` where the data come from elsewhere.
        params: all sections.
        optimizer: of the model's tensors.
        loss_fn: of predicted and measured patterns, windows of the object and occupancies; its first value
            counts.
        constraint_fn: of the model and the number of the iteration; called after each.
        indices: patterns that may be used.
        batches: of `prepare_recon`, a list of indices, or a ``DataLoader`` of an `IndicesDataset`.
        output_path: folder for results; ``None``: nothing is written.
        acc: the accelerator; several processes share every batch, as from the command line.

    Raises:
        BadInput: settings that cannot be followed.
    """
    _check_unchanged(init, params)
    _check_accelerator(acc, model)
    own: Any = model if acc is None else acc.unwrap_model(model)
    moving = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps what it prepares
    recipe = _read_recipe(params)
    _time_groups(moving, own, params)
    progress = Progress(nn.ParameterList(own.parameters()), moving)
    team().broadcast_parameters(progress.model)
    epochs = fit(
        _LossObjective(own, loss_fn),
        _order_batches(batches, np.asarray(indices), acc),
        progress,
        epochs=recipe.epochs,
        shape=recipe.shape.partial(),
        before=[lambda done: _begin_iteration(own, moving, done.epoch + 1)],
        after=[Every(lambda: constraint_fn(own, progress.epoch + 1))],
    )
    folder = None
    if output_path is not None:
        folder = RunFolder(recipe, own, init, progress, Path(output_path))
    try:
        for epoch in epochs:
            _record(own, epoch)
            if folder is not None:
                folder.record(epoch.number)
        vprint(f"{progress.stopped}, in {parse_sec_to_time_str(sum(own.iter_times))}")
        if folder is not None:
            folder.finish()
    finally:
        if folder is not None:
            folder.close()


def run_inversion(data_context: Mapping[str, Any]) -> dict[str, Any]:
    """Reconstruct what `load_and_preprocess_data` made ready, with what was changed in it since.

    Returns:
        ``model`` (a `PtychoAD`), ``optimizer``, ``output_path`` (or ``None``) and ``logger`` by name.

    Raises:
        BadInput: a change that cannot be followed, see `PtychoAD` and `recon_loop`.
    """
    params = data_context["params"]
    device = data_context["device"]
    logger = data_context["logger"]
    accelerator = data_context["accelerator"]
    if device is None:
        if accelerator is None:
            raise BadInput("device", None, "is missing, and there is no accelerator: name a device")
        device = accelerator.device
    initializer = data_context["initializer"]
    model = PtychoAD(data_context["init_variables"], params["model_params"], device=device)
    optimizer = create_optimizer(model.optimizer_params, model.optimizable_params)
    indices, batches, folder = prepare_recon(model, initializer, params)
    if logger is not None and logger.flush_file and folder is not None and team().is_main:
        logger.flush_to_file(log_dir=folder)
    functions = (data_context["loss_fn"], data_context["constraint_fn"])
    recon_loop(model, initializer, params, optimizer, *functions, indices, batches, folder, acc=accelerator)
    return {"model": model, "optimizer": optimizer, "output_path": folder, "logger": logger}


def evaluate_results(results: Mapping[str, Any]) -> None:
    """End a run: its log is closed, and processes that worked together are let go."""
    vprint("Evaluation and clean-up of", type(results["model"]).__name__)
    logger = results["logger"]
    if logger is not None and getattr(logger, "flush_file", False):
        logger.close()
    if distributed.is_initialized():
        distributed.destroy_process_group()


class _LossObjective:
    """The loss of a batch: what ``loss_fn`` says of a model."""

    def __init__(self, model: Any, loss_fn: Callable[..., tuple[Tensor, Any]]):
        self.model = model
        self.loss_fn = loss_fn

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        expected = self.model(index)
        measured = self.model.get_measurements(index)
        windows = self.model._current_object_patches
        loss, *_ = self.loss_fn(expected, measured, windows, self.model.omode_occu)
        self.model.clear_cache()
        return {"loss": loss}


def _read_recipe(params: Mapping[str, Any]) -> Reconstruct:
    """The recipe of all sections; `Initializer` has logged what differs in the data."""
    tree, _ = translate_project(params, Path(params.get("params_path") or ".").parent)
    return Reconstruct.of(tree | {"device": "cpu"})


def _check_unchanged(init: Any, params: Mapping[str, Any]) -> None:
    """Refuse a section ``init_params`` that was changed after the data were made ready."""
    if init is None or init.init_params == dict(params["init_params"]):
        return
    changed = [name for name, value in params["init_params"].items() if init.init_params.get(name) != value]
    fix = "was changed after the data were made ready: change init_variables, or load the file again"
    raise BadInput("params['init_params']", ", ".join(changed), fix)


def _check_accelerator(acc: Any, model: nn.Module) -> None:
    """Refuse what an accelerator is asked for and a fit in single precision does not do."""
    if acc is None:
        return
    if acc.mixed_precision not in (None, "no"):
        fix = "is not supported: patterns and waves need single precision, write 'no'"
        raise BadInput("accelerator.mixed_precision", acc.mixed_precision, fix)
    if acc.gradient_accumulation_steps != 1:
        fix = "is not followed: write recon_params.BATCH_SIZE.grad_accumulation"
        raise BadInput("accelerator.gradient_accumulation_steps", acc.gradient_accumulation_steps, fix)
    device = next(model.parameters()).device
    if device.type != acc.device.type:
        fix = f"is not that of the model, {device}: build the model there, or leave the accelerator out"
        raise BadInput("accelerator.device", str(acc.device), fix)


def _time_groups(optimizer: torch.optim.Optimizer, model: Any, params: Mapping[str, Any]) -> None:
    """Names, rates and times of an optimiser's groups, from those of the parts that they hold."""
    tree, _ = check_tree(params)
    scheduled = scheduled_rates(Project(tree, Path()))
    for number, group in enumerate(optimizer.param_groups, 1):
        names = [
            name
            for name, tensor in model.optimizable_tensors.items()
            if any(tensor is one for one in group["params"])
        ]
        starts = [_start_of(model, name, optimizer) for name in names] or [1]
        ends = [model.end_iter.get(name) for name in names]
        group["name"] = "+".join(names) or f"part {number}"
        group["base"] = next((scheduled[name] for name in names if name in scheduled), group["lr"])
        group["start"] = min(starts)
        group["stop"] = None if None in ends or not ends else max(end for end in ends if end is not None) - 1
        group["shape"] = None


def _start_of(model: Any, name: str, optimizer: torch.optim.Optimizer) -> int:
    """The iteration in which a part begins to move; with L-BFGS parts move together, or not at all."""
    start = model.start_iter.get(name, 1)
    late = isinstance(optimizer, torch.optim.LBFGS) and start is not None and start > 1
    return NEVER if start is None or late else max(start, 1)


NEVER = 2**31
"""The iteration in which a part begins that does not move."""


def _begin_iteration(model: Any, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Let the parts that begin to move have a gradient."""
    for name, tensor in model.optimizable_tensors.items():
        if model.lr_params.get(name) and number >= _start_of(model, name, optimizer):
            tensor.requires_grad_(True)


def _order_batches(batches: Any, indices: np.ndarray, acc: Any) -> Batches:
    """Batches by the number of the iteration; what loaders of several processes have is put together."""
    collect: Callable[[Tensor], Tensor] = lambda batch: batch  # noqa: E731
    if acc is not None and acc.num_processes > 1 and isinstance(batches, DataLoader):
        collect = acc.gather

    def of(number: int) -> Sequence[Any]:
        if isinstance(batches, EpochBatches):
            order = batches.order(number)
        else:
            order = [collect(torch.as_tensor(batch)) for batch in batches]
        used = torch.cat([piece.cpu() for batch in order for piece in list_pieces(batch)]).numpy()
        if not np.isin(used, indices).all():
            raise BadInput("batches", None, "hold patterns that are not among indices: prepare both together")
        return order

    return of


def _record(model: Any, epoch: Epoch) -> None:
    """Keep in the model what an iteration has found."""
    number = epoch.number
    model.loss_iters.append((number, epoch.loss))
    model.iter_times.append(epoch.seconds)
    if model.lr_params.get("slice_thickness"):
        model.dz_iters.append((number, float(model.opt_slice_thickness.detach())))
    if model.lr_params.get("obj_tilts"):
        model.avg_tilt_iters.append((number, model.opt_obj_tilts.detach().mean(0).cpu().numpy()))
    vprint(f"Iter: {number}, Total Loss: {epoch.loss:.4f}, in {parse_sec_to_time_str(epoch.seconds)}")
