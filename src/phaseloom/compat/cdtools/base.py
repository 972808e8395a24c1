"""CDTools' base of models: what users write their own on, and what those that are ready have in common."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom import plot
from phaseloom.compat.cdtools import saved
from phaseloom.compat.cdtools.cdtools_results import recognised
from phaseloom.compat.cdtools.data import CDataset, device_of
from phaseloom.compat.cdtools.fitted import Fitted
from phaseloom.compat.cdtools.pictures import modelled, pictures, shots
from phaseloom.compat.cdtools.tools.data import nested_dict_to_numpy, nested_dict_to_torch
from phaseloom.compat.cdtools.user_models import OwnFit
from phaseloom.compat.cdtools.validate import path_of, writing
from phaseloom.compat.cdtools.views import losses, pressed
from phaseloom.errors import BadInput
from phaseloom.plot.gui import View

__all__ = ["STAGES", "CDIModel", "Told", "unwritten"]

log = logging.getLogger(__name__)

Path_ = str | os.PathLike[str]
BUFFERS = {"distance": "det_distance", "basis": "det_basis", "corner": "det_corner"}
"""Names of a detector's geometry in the model."""


@dataclass(frozen=True)
class Told:
    """What a model tells and does not let be changed."""

    tell: Callable[[Any], Any]
    name: str = ""

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Its value now."""
        return self if owner is None else self.tell(owner)

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        object.__setattr__(self, "name", name)

    def __set__(self, owner: Any, value: Any) -> None:
        """Refuse what would have no effect."""
        fix = "cannot be set, for it follows from data and options: make the model anew"
        raise BadInput(f"model.{self.name}", None, fix)


@dataclass(frozen=True)
class Past:
    """What a model has done, as its fit knows it; may be set, as a class does that loads results."""

    tell: Callable[[Any], Any]
    take: Callable[[Any, Any], None]

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Its value now."""
        return self if owner is None else self.tell(owner.fit)

    def __set__(self, owner: Any, value: Any) -> None:
        """Replace it."""
        self.take(owner.fit, value)


def _put(kept: list[Any], new: Any) -> None:
    kept[:] = list(new)


def _counted(fit: Any, new: Any) -> None:
    """Epochs are counted by their losses."""
    if int(new) != len(fit.losses):
        fix = f"but there are {len(fit.losses)} losses: set loss_history first"
        raise BadInput("model.epoch", int(new), fix)


def unwritten(name: str, meaning: str) -> Callable[..., Any]:
    """A method that a class does not define, and that says so when it is called.

    Example:
        >>> unwritten("loss", "is not written: return a number")(None)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: model.loss: is not written: return a number
    """

    def absent(*args: Any, **kwargs: Any) -> Any:
        raise BadInput(f"model.{name}", None, meaning)

    return absent


LACKS = "is not written: "
STAGES = ("interaction", "forward_propagator", "measurement", "loss")
"""What a model of one's own is made of, and what a fit calls."""


class Saved(Fitted):
    """A model whose parameters, buffers and history are saved and loaded."""

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

    def save_to_h5(self, filename: Path_, *args: Any) -> None:
        """Write `save_results` of the further arguments to an HDF5 file, for `from_results_h5`."""
        path = path_of("save_to_h5: filename", filename)
        with writing("save_to_h5", path):
            saved.write(path, nested_dict_to_numpy(self.save_results(*args)))

    def _load_results_dict(self, results_dict: Mapping[str, Any]) -> None:
        """Take over parameters, buffers and history of what `save_results` gave."""
        state = nested_dict_to_torch(results_dict["state_dict"])
        missing, beyond = self.load_state_dict(state, strict=False)
        if missing or beyond:
            log.warning("results: without %s; beside the model %s", missing or "nothing", beyond or "nothing")
        self.fit.losses[:] = np.asarray(results_dict.get("loss_history", [])).ravel().tolist()
        self.fit.lines[:] = saved.text(results_dict.get("training_history", "")).splitlines()

    @classmethod
    def from_results_h5(cls, filename: Path_, *args: Any, **kwargs: Any) -> Any:
        """The model of a file that `save_to_h5` wrote, by `from_results_dict`."""
        found = saved.read(path_of("from_results_h5: filename", filename))
        if not {"state_dict", "model_class"} & set(found):
            fix = "holds no results of a model: a file of data is read by Ptycho2DDataset.from_cxi"
            raise BadInput("from_results_h5", str(filename), fix)
        return cls.from_results_dict(found, *args, **kwargs)

    @classmethod
    def from_results_dict(cls, results_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model of what `save_results` gave; `CDIModel` knows those that are ready, or were CDTools'.

        A class of your own makes itself and calls ``model._load_results_dict(results_dict)``.

        Raises:
            BadInput: results of another class, or of one that does not say how it is made.
        """
        if cls is CDIModel and ("options" in results_dict or recognised(results_dict)):
            ready = import_module("phaseloom.compat.cdtools.experiment").Experiment
            return ready.from_results_dict(results_dict, *args, **kwargs)
        fix = "is not written: make the model, and call model._load_results_dict(results_dict)"
        raise BadInput(f"{cls.__name__}.from_results_dict", None, fix)

    @contextmanager
    def save_on_exception(self, filename: Path_, *args: Any) -> Iterator[None]:
        """Write results when what is done within ends by an exception or Ctrl-C, which goes on its way."""
        try:
            yield
        except BaseException:
            self.save_to_h5(filename, *args)
            raise

    @contextmanager
    def save_on_exit(
        self, filename: Path_, *args: Any, exception_filename: Path_ | None = None
    ) -> Iterator[None]:
        """Write results when what is done within ends, in whatever way.

        Args:
            filename: where to.
            *args: see `save_results`.
            exception_filename: where to if it ends by an exception or Ctrl-C; default: the same.
        """
        try:
            yield
        except BaseException:
            self.save_to_h5(exception_filename or filename, *args)
            raise
        self.save_to_h5(filename, *args)


class CDIModel(Saved):
    """A model that you write: ``measurement(forward_propagator(interaction(*inputs)))``.

    Your class says how it is made (``from_dataset``), registers constants as buffers and unknowns as
    ``nn.Parameter``, and defines the three stages and ``loss(measured, modelled)``; a ``mask`` that the model
    has is given to the loss as well. ``regularizer(factors)``, a ``loss_normalizer`` of
    `phaseloom.compat.cdtools.tools.losses`, ``plot_list``, ``plot_panel_list`` and ``from_results_dict`` are
    optional. Losses of an epoch are sums over its pieces of ``calculation_width`` patterns, as in CDTools;
    the optimisers keep their state from call to call.

    Attributes:
        loss_history: of each epoch so far.
        epoch: number of epochs so far.
        training_history: a line of text for each.
        latest_iteration_time: seconds of the last one.
        plot_list: dicts of ``title``, ``plot_func(model, figure)`` or ``plot_func(model, figure, dataset)``,
            and perhaps ``condition(model)``, ``plot_level`` and ``figure_size``.
        plot_panel_list: dicts of ``title``, ``grid`` (rows, columns) and ``plots``, which are as above with
            their ``subplot`` (row, column).
        figs: what `inspect` has drawn.

    Args:
        panel_plot_mode: have panels in one figure each, and not each picture in its own.
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

    loss_history: Any = Past(lambda fit: fit.losses, lambda fit, new: _put(fit.losses, map(float, new)))
    training_history: Any = Past(
        lambda fit: "\n".join(fit.lines), lambda fit, new: _put(fit.lines, str(new).splitlines())
    )
    epoch: Any = Past(lambda fit: len(fit.losses), _counted)
    latest_iteration_time: Any = Told(lambda model: model.fit.progress.history[-1]["seconds"])
    plot_list: Any = ()
    plot_panel_list: Any = ()

    from_dataset: Any = unwritten("from_dataset", f"{LACKS}make a model from a dataset, as a classmethod")
    interaction: Any = unwritten("interaction", f"{LACKS}return waves behind the sample from inputs")
    forward_propagator: Any = unwritten(
        "forward_propagator", f"{LACKS}return waves at the detector from those"
    )
    backward_propagator: Any = unwritten(
        "backward_propagator", f"{LACKS}return the inverse of forward_propagator"
    )
    measurement: Any = unwritten("measurement", f"{LACKS}return what the detector reads of waves")
    loss: Any = unwritten("loss", f"{LACKS}return how far measured patterns are from modelled ones")
    sim_to_dataset: Any = unwritten("sim_to_dataset", f"{LACKS}return a dataset of modelled patterns")
    simulate_to_dataset: Any = unwritten("simulate_to_dataset", f"{LACKS}call model.sim_to_dataset")

    def __init__(self, panel_plot_mode: bool = False, plot_level: float = np.inf):
        super().__init__()
        self.panel_plot_mode, self.plot_level = panel_plot_mode, plot_level
        self.last_inspected_time: float | None = None
        self.figs: list[Any] = []
        self.fit = OwnFit(self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it; a parameter set for one that the class computes gives its values."""
        if isinstance(value, nn.Parameter) and hasattr(getattr(type(self), name, None), "__set__"):
            value = value.detach()
        super().__setattr__(name, value)

    def forward(self, *args: Any) -> Tensor:
        """Modelled patterns from what the dataset gives as inputs."""
        return self.measurement(self.forward_propagator(self.interaction(*args)))

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device.

        Raises:
            BadInput: there is no such device here.
        """
        wanted = kwargs.get("device", args[0] if args and isinstance(args[0], str | int) else None)
        if wanted is not None:
            device_of(wanted, "model.to")
        return super().to(*args, **kwargs)

    def store_detector_geometry(
        self, detector_geometry: Mapping[str, Any], dtype: torch.dtype = torch.float32
    ) -> None:
        """Register ``basis``, ``distance`` and ``corner`` of a dict, metres, as far as it has them."""
        for name, buffer in BUFFERS.items():
            if detector_geometry.get(name) is not None:
                self.register_buffer(buffer, torch.as_tensor(detector_geometry[name], dtype=dtype))

    def get_detector_geometry(self) -> dict[str, Tensor]:
        """The dict that `store_detector_geometry` was given, as tensors on the model's device."""
        return {name: getattr(self, buffer) for name, buffer in BUFFERS.items() if hasattr(self, buffer)}

    def inspect(
        self, dataset: CDataset | None = None, replot_all: bool = False, min_interval: float | None = None
    ) -> Any:
        """Draw what ``plot_panel_list`` and ``plot_list`` ask for; figures that were closed stay closed.

        Args:
            dataset: for pictures that show something of it.
            replot_all: open them again.
            min_interval: draw only if so many seconds have passed since the last time.
        """
        now, last = time.monotonic(), self.last_inspected_time
        if min_interval is None or last is None or now - last >= min_interval:
            self.figs = pictures(self, dataset, first=last is None, again=replot_all)
            self.last_inspected_time = time.monotonic()
        return self.figs

    def plot_loss_history(self, fig: Any = None, clear_fig: bool = True) -> Any:
        """Losses of all epochs on a logarithmic axis, in a figure of pyplot.

        Args:
            fig: draw into this one.
            clear_fig: empty it before.
        """
        return losses(self.fit.losses, fig, clear=clear_fig)

    def save_figures(self, prefix: str = "", extension: str = ".pdf") -> list[Path]:
        """Write the figures that `inspect` has drawn to ``<prefix><title><extension>``."""
        paths = [Path(f"{prefix}{figure.get_label()}{extension}") for figure in self.figs]
        for path, figure in zip(paths, self.figs, strict=True):
            with writing("save_figures", path):
                figure.savefig(path, bbox_inches="tight")
        return paths

    def compare(self, dataset: CDataset | None = None, logarithmic: bool = True) -> View:
        """Measured and modelled patterns side by side, by default of the data fitted last.

        Raises:
            BadInput: a model that was not fitted, and no dataset.
        """
        known = self.fit.data if dataset is None else dataset
        if known is None:
            raise BadInput("compare: dataset", None, "is needed before anything was fitted: compare(dataset)")
        mask = getattr(self, "mask", None)
        scan = shots(known, known.mask if mask is None else mask)
        view = plot.compare(scan, lambda index: modelled(self, known, index))
        return view if logarithmic else pressed(view, "l")
