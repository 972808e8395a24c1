"""CDTools' base of models: what users derive their own from, and what the built-in ones have in common."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom import plot
from phaseloom.compat.cdtools import checkpoints
from phaseloom.compat.cdtools.arguments import accepts, check_path, check_whole, report_write_errors
from phaseloom.compat.cdtools.attributes import FitHistory, ReadOnly, not_available
from phaseloom.compat.cdtools.datasets.base import (
    METRES_PER_ANGSTROM,
    CDataset,
    check_device,
    to_array,
    to_geometry,
)
from phaseloom.compat.cdtools.figures import draw_listed_plots, draw_losses, press_key
from phaseloom.compat.cdtools.fit import Fit
from phaseloom.compat.cdtools.objectives import UserFit
from phaseloom.compat.cdtools.results import as_text, is_of_cdtools, read_results, write_results
from phaseloom.compat.cdtools.tools.data import nested_dict_to_numpy, nested_dict_to_torch
from phaseloom.data.formats.arrays import clean_counts
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot.gui import SteppedView

__all__ = ["STAGES", "CDIModel"]

log = logging.getLogger(__name__)

FilePath = str | os.PathLike[str]
STAGES = ("interaction", "forward_propagator", "measurement", "loss")
"""What a model of one's own is made of, and what a fit calls."""

UNWRITTEN = {
    "from_dataset": "make a model from a dataset, as a classmethod",
    "interaction": "return waves behind the sample from inputs",
    "forward_propagator": "return waves at the detector from those",
    "backward_propagator": "return the inverse of forward_propagator",
    "measurement": "return what the detector reads of waves",
    "loss": "return how far measured patterns are from modelled ones",
    "sim_to_dataset": "return a dataset of modelled patterns",
    "simulate_to_dataset": "call model.sim_to_dataset",
}
"""What a class of a user may define, and what it is to do."""

GEOMETRY_BUFFERS = {"distance": "det_distance", "basis": "det_basis", "corner": "det_corner"}
"""Names of a detector's geometry in the model."""


class CDIModel(nn.Module):
    """A model that you write: ``measurement(forward_propagator(interaction(*inputs)))``.

    Your class says how it is made (``from_dataset``), registers constants as buffers and unknowns as
    ``nn.Parameter``, and defines the three stages and ``loss(measured, modelled)``; a ``mask`` that the model
    has is given to the loss as well. ``regularizer(factors)``, a ``loss_normalizer`` of
    `phaseloom.compat.cdtools.tools.losses`, ``plot_list``, ``plot_panel_list`` and ``from_results_dict`` are
    optional. Losses of an epoch are sums over its pieces of ``calculation_width`` patterns, as in CDTools;
    the optimisers keep their state from call to call.

    Attributes:
        fit: optimisers and history.
        built_in: the class of models that know how to read their results.
        loss_history: of each epoch so far.
        epoch: number of epochs so far.
        training_history: a line of text for each.
        latest_iteration_time: seconds of the last one.
        turn: which job of a chain this is, once `use_checkpoints` was called.
        plot_list: dicts of ``title``, ``plot_func(model, figure)`` or ``plot_func(model, figure, dataset)``,
            and perhaps ``condition(model)``, ``plot_level`` and ``figure_size``.
        plot_panel_list: dicts of ``title``, ``grid`` (rows, columns) and ``plots``, which are as above with
            their ``subplot`` (row, column).
        figs: what `inspect` has drawn.

    Args:
        panel_plot_mode: have panels in one figure each, and not each plot in its own.
        plot_level: draw what has at most this level.

    Example:
        >>> class Speckle(CDIModel):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.wave = nn.Parameter(torch.ones(4, 4, dtype=torch.complex64))
        ...
        ...     def interaction(self, index):
        ...         return self.wave.expand(len(index), 4, 4)
        ...
        ...     def forward_propagator(self, wave):
        ...         return torch.fft.fft2(wave, norm="ortho")
        ...
        ...     def measurement(self, wave):
        ...         return wave.abs() ** 2
        ...
        ...     def loss(self, measured, modelled):
        ...         return (measured - modelled).square().mean()
        >>> Speckle()(torch.arange(2)).shape
        torch.Size([2, 4, 4])
    """

    fit: Fit
    built_in: Any = None
    turn: checkpoints.ChainedJob | None = None
    loss_history: Any = FitHistory("losses", lambda new: [float(loss) for loss in new])
    training_history: Any = FitHistory("lines", lambda new: str(new).splitlines(), "\n".join)
    epoch: Any = FitHistory("losses", read=len)
    latest_iteration_time: Any = ReadOnly(lambda model: model.fit.progress.history[-1]["seconds"])
    plot_list: Any = ()
    plot_panel_list: Any = ()
    loss: Any

    def __init__(self, panel_plot_mode: bool = False, plot_level: float = np.inf):
        super().__init__()
        self.panel_plot_mode = panel_plot_mode
        self.plot_level = plot_level
        self.last_inspected_time: float | None = None
        self.figs: list[Any] = []
        self.fit = UserFit(self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it; a parameter set for one that the class computes gives its values."""
        if isinstance(value, nn.Parameter) and hasattr(getattr(type(self), name, None), "__set__"):
            value = value.detach()
        super().__setattr__(name, value)

    def forward(self, *args: Any) -> Tensor:
        """Modelled patterns from what the dataset gives as inputs."""
        model: Any = self
        return model.measurement(model.forward_propagator(model.interaction(*args)))

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device.

        Raises:
            BadInput: a device that this machine does not have.
        """
        check_device("model.to", *args, **kwargs)
        return super().to(*args, **kwargs)

    @accepts(
        "iterations dataset batch_size lr lr_factors betas schedule amsgrad subset regularization_factor "
        "thread calculation_width",
        lr=0.005,
    )
    def Adam_optimize(self, **given: Any) -> Iterator[float]:
        """Adam, one item per epoch: the mean loss. A further call continues with the moments."""
        return self.fit.start("Adam", given, getattr(self, "regularizer", None))

    @accepts(
        "iterations dataset lr history_size subset regularization_factor thread calculation_width "
        "line_search_fn",
        lr=0.1,
    )
    def LBFGS_optimize(self, **given: Any) -> Iterator[float]:
        """L-BFGS over all patterns; an epoch makes up to 20 steps, as it does in CDTools."""
        return self.fit.start("LBFGS", given, getattr(self, "regularizer", None))

    @accepts(
        "iterations dataset batch_size lr lr_factors momentum dampening weight_decay nesterov subset "
        "regularization_factor thread calculation_width",
        batch_size=None,
    )
    def SGD_optimize(self, **given: Any) -> Iterator[float]:
        """Gradient descent.

        Built-in models descend on a loss relative to that of no model at all: their rates are not those of
        CDTools (default 5, and at most about 20, whatever the dose). A model of your own descends on its own
        loss, by default at 2e-7.
        """
        return self.fit.start("SGD", given, getattr(self, "regularizer", None))

    def report(self) -> str:
        """The last epoch in a sentence."""
        return self.fit.lines[-1] if self.fit.lines else "No epoch done yet"

    def use_checkpoints(self, job_id: int, checkpoint_file_stem: FilePath) -> None:
        """Do one part of a script that `checkpoint` divides; jobs of further numbers do the next ones.

        Job 0 works up to the first `checkpoint`, writes ``<stem>_0.pt`` there and ends the program. Job 1
        passes over all epochs before it, reads the file and works up to the second one, and so on. A chain of
        jobs finds the same bits as a script that is not divided.
        """
        number = check_whole("use_checkpoints: job_id", job_id, 0)
        self.turn = checkpoints.ChainedJob(number, os.fspath(checkpoint_file_stem))
        self.fit.idle = self.skip_computation()

    def skip_computation(self) -> bool:
        """Whether what comes now was done by an earlier job."""
        return self.turn is not None and self.turn.skips

    def checkpoint(self, dataset: CDataset | None = None) -> None:
        """Where one job ends and the next one begins, between calls or within a loop over epochs.

        Raises:
            SystemExit: the file is written, and this job has done its part.
            BadInput: `use_checkpoints` was not called, or the file of the job before does not exist.
        """
        self._checkpoint_file(None)
        assert self.turn is not None
        if self.turn.passed == self.turn.number:
            self.save_checkpoint()
            raise SystemExit(0)
        if self.turn.passed + 1 == self.turn.number:
            self.load_checkpoint()
        self.turn.passed += 1
        self.fit.idle = self.skip_computation()

    def save_checkpoint(
        self, dataset: CDataset | None = None, checkpoint_file: FilePath | None = None
    ) -> None:
        """Write parameters, optimisers, losses and the state of random numbers; by default for this job."""
        checkpoints.write_checkpoint(self.fit, self._checkpoint_file(checkpoint_file))

    def load_checkpoint(self, checkpoint_file: FilePath | None = None) -> None:
        """Continue as if the fit that wrote a file had never stopped; by default that of the job before.

        Raises:
            BadInput: no such file, or one of another model.
        """
        checkpoints.read_checkpoint(self.fit, self._checkpoint_file(checkpoint_file))

    def _checkpoint_file(self, name: FilePath | None) -> FilePath:
        if name is not None:
            return name
        if self.turn is None:
            raise BadInput("checkpoint", None, "needs a file: call model.use_checkpoints first, or name one")
        return self.turn.file

    def save_results(self, *args: Any) -> dict[str, Any]:
        """Parameters and buffers (``state_dict``) and history as a dict of numpy arrays, numbers and text.

        A class of your own may add to it: ``return {**super().save_results(), ...}``.
        """
        loss: Any = getattr(self, "loss", None)
        return {
            "state_dict": nested_dict_to_numpy(self.state_dict()),
            "loss_history": np.array(self.fit.losses),
            "epoch": len(self.fit.losses),
            "training_history": "\n".join(self.fit.lines),
            "loss_function": getattr(getattr(loss, "func", loss), "__name__", str(loss)),
            "model_class": type(self).__name__,
            "phaseloom_version": version("phaseloom"),
        }

    def save_to_h5(self, filename: FilePath, *args: Any) -> None:
        """Write `save_results` of the further arguments to an HDF5 file, for `from_results_h5`."""
        path = check_path("save_to_h5: filename", filename)
        with report_write_errors("save_to_h5", path):
            write_results(path, nested_dict_to_numpy(self.save_results(*args)))

    def _load_results_dict(self, results_dict: Mapping[str, Any]) -> None:
        """Take over parameters, buffers and history of what `save_results` gave."""
        state = nested_dict_to_torch(results_dict["state_dict"])
        missing, unused = self.load_state_dict(state, strict=False)
        if missing or unused:
            log.warning("results: missing %s; not in the model %s", missing or "nothing", unused or "nothing")
        self._load_history(results_dict)

    def _load_history(self, results_dict: Mapping[str, Any]) -> None:
        self.fit.losses[:] = np.asarray(results_dict.get("loss_history", []), float).ravel().tolist()
        self.fit.lines[:] = as_text(results_dict.get("training_history", "")).splitlines()

    @classmethod
    def from_results_h5(cls, filename: FilePath, *args: Any, **kwargs: Any) -> Any:
        """The model of a file of `save_to_h5`, by `from_results_dict`, which takes further arguments."""
        found = read_results(check_path("from_results_h5: filename", filename))
        if not {"state_dict", "model_class"} & set(found):
            fix = "holds no results of a model: a file of data is read by Ptycho2DDataset.from_cxi"
            raise BadInput("from_results_h5", str(filename), fix)
        return cls.from_results_dict(found, *args, **kwargs)

    @classmethod
    def from_results_dict(cls, results_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model of what `save_results` gave; `CDIModel` knows the built-in ones, ours and CDTools'.

        A class of your own makes itself and calls ``model._load_results_dict(results_dict)``.

        Raises:
            BadInput: results of another class, or of one that does not say how it is made.
        """
        if cls is CDIModel and ("options" in results_dict or is_of_cdtools(results_dict)):
            return cls.built_in.from_results_dict(results_dict, *args, **kwargs)
        fix = "is not written: make the model, and call model._load_results_dict(results_dict)"
        raise BadInput(f"{cls.__name__}.from_results_dict", None, fix)

    @contextmanager
    def save_on_exception(self, filename: FilePath, *args: Any) -> Iterator[None]:
        """Write results when the block ends by an exception or Ctrl-C, which is raised again."""
        try:
            yield
        except BaseException:
            self.save_to_h5(filename, *args)
            raise

    @contextmanager
    def save_on_exit(
        self, filename: FilePath, *args: Any, exception_filename: FilePath | None = None
    ) -> Iterator[None]:
        """Write results when the block ends; by an exception to ``exception_filename``, if that is given."""
        with self.save_on_exception(exception_filename or filename, *args):
            yield
        self.save_to_h5(filename, *args)

    def store_detector_geometry(
        self, detector_geometry: Mapping[str, Any], dtype: torch.dtype = torch.float32
    ) -> None:
        """Register ``basis``, ``distance`` and ``corner`` of a dict, metres, as far as it has them."""
        for name, buffer in GEOMETRY_BUFFERS.items():
            if detector_geometry.get(name) is not None:
                self.register_buffer(buffer, torch.as_tensor(detector_geometry[name], dtype=dtype))

    def get_detector_geometry(self) -> dict[str, Tensor]:
        """The dict that `store_detector_geometry` was given, as tensors on the model's device."""
        return {k: getattr(self, buffer) for k, buffer in GEOMETRY_BUFFERS.items() if hasattr(self, buffer)}

    def inspect(
        self, dataset: CDataset | None = None, replot_all: bool = False, min_interval: float | None = None
    ) -> Any:
        """Draw what ``plot_panel_list`` and ``plot_list`` ask for; ``replot_all`` opens closed figures again.

        It draws only if ``min_interval`` seconds have passed since the last time.
        """
        last = self.last_inspected_time
        if min_interval is None or last is None or time.monotonic() - last >= min_interval:
            self.figs = draw_listed_plots(self, dataset, first=last is None, again=replot_all)
            self.last_inspected_time = time.monotonic()
        return self.figs

    def plot_loss_history(self, fig: Any = None, clear_fig: bool = True) -> Any:
        """Losses of all epochs on a logarithmic axis, in a figure of pyplot or in ``fig``."""
        return draw_losses(self.fit.losses, fig, clear=clear_fig)

    def save_figures(self, prefix: str = "", extension: str = ".pdf") -> list[Path]:
        """Write the figures that `inspect` has drawn to ``<prefix><title><extension>``."""
        paths = [Path(f"{prefix}{figure.get_label()}{extension}") for figure in self.figs]
        for path, figure in zip(paths, self.figs, strict=True):
            with report_write_errors("save_figures", path):
                figure.savefig(path, bbox_inches="tight")
        return paths

    def compare(self, dataset: CDataset | None = None, logarithmic: bool = True) -> SteppedView:
        """Measured and modelled patterns side by side, by default of the data fitted last.

        Raises:
            BadInput: a model that was not fitted, and no dataset.
        """
        known = self.fit.data if dataset is None else dataset
        if known is None:
            raise BadInput("compare: dataset", None, "is needed before a fit: compare(dataset)")
        mask = getattr(self, "mask", None)

        @torch.no_grad()
        def model_pattern(index: int) -> np.ndarray:
            inputs, _ = known[index : index + 1]
            pattern = to_array(self(*inputs))
            return pattern[0] if pattern.ndim > 2 else pattern

        view = plot.compare(_to_plain_scan(known, known.mask if mask is None else mask), model_pattern)
        return view if logarithmic else press_key(view, "l")


for _name, _task in UNWRITTEN.items():
    setattr(CDIModel, _name, not_available(_name, f"is not written: {_task}"))


def _to_plain_scan(dataset: CDataset, mask: Any) -> Scan4D:
    """The patterns of any dataset, for figures alone: without positions, with or without a detector."""
    counts, finite = clean_counts(np.array(to_array(dataset[:][1])), "patterns")
    rows, columns = counts.shape[1:]
    geometry = Geometry(wavelength=1.0, shape=(rows, columns), angle=(1e-3, 1e-3))
    if dataset.wavelength is not None and dataset.detector_geometry is not None:
        wavelength = float(dataset.wavelength) / METRES_PER_ANGSTROM
        geometry = to_geometry(dataset.detector_geometry, wavelength, counts.shape[1:])
    good = finite if mask is None else finite & to_array(mask).astype(bool)
    return Scan4D(counts=counts, positions=np.zeros((counts.shape[0], 2)), geometry=geometry, mask=good)
