"""How a CDTools model is looked at and saved."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from phaseloom import plot
from phaseloom.compat import _cdtools_saved as saved
from phaseloom.compat import _cdtools_theirs as theirs
from phaseloom.compat._cdtools_datasets import CDataset
from phaseloom.compat._cdtools_experiment import seen
from phaseloom.compat._cdtools_fitted import Fitted
from phaseloom.compat._cdtools_views import Window, losses, pressed
from phaseloom.errors import BadInput
from phaseloom.plot.interactive import View

__all__ = ["CDIModel"]


class CDIModel(Fitted):
    """An experiment that is fitted, looked at and saved the way CDTools does it; see `Experiment`."""

    def inspect(
        self,
        dataset: CDataset | None = None,
        replot_all: bool = False,
        min_interval: float | None = None,
        *,
        update: bool = True,
    ) -> Any:
        """Object, probe and losses in a figure of pyplot that every further call draws anew.

        Args:
            dataset: for CDTools' sake; nothing of it is drawn.
            replot_all: open it again if it was closed.
            min_interval: draw only if so many seconds have passed since the last time.
            update: False opens another figure.
        """
        now = time.monotonic()
        if min_interval is not None and self.window.live and now - self.window.drawn < min_interval:
            return self.window.live.figure
        anew = not update or (replot_all and self.window.closed())
        self.window = Window() if anew else self.window
        return self.window.show(lambda: seen(self), done=self.fit.done or replot_all)

    def plot_loss_history(self, fig: Any = None, clear_fig: bool = True) -> Any:
        """Losses of all epochs on a logarithmic axis, in a figure of pyplot.

        Args:
            fig: draw into this one.
            clear_fig: empty it before.
        """
        return losses(self.fit.losses, fig, clear=clear_fig)

    def save_figures(self, prefix: str = "", extension: str = ".pdf") -> list[Path]:
        """Write the figure that `inspect` draws, as it is now, to ``<prefix>Reconstruction<extension>``."""
        live = self.window.live
        figure = self.inspect() if live is None else live.figure
        if live is not None:
            live.draw()
        path = Path(f"{prefix}Reconstruction{extension}")
        figure.savefig(path, bbox_inches="tight")
        return [path]

    def compare(self, dataset: CDataset | None = None, logarithmic: bool = True) -> View:
        """Measured and modelled patterns side by side, by default of the data fitted last.

        Raises:
            BadInput: a model from a file, and no dataset.
        """
        scan = self.fit.scan if dataset is None else dataset.scan
        if scan is None:
            raise BadInput("compare: dataset", None, "is needed by a model that was loaded: compare(dataset)")
        view = plot.compare(scan, lambda index: self(torch.tensor([index]))[0])
        return view if logarithmic else pressed(view, "l")

    def save_results(self, dataset: CDataset | None = None) -> dict[str, Any]:
        """All that was found as a dict of numpy arrays, numbers and text, fit for pickle."""
        return saved.results(self, None if dataset is None else dataset.scan)

    def save_to_h5(self, filename: str | os.PathLike[str], dataset: CDataset | None = None) -> None:
        """Write `save_results` to an HDF5 file, from which `from_results_h5` makes the model again."""
        saved.write(filename, self.save_results(dataset))

    @classmethod
    def from_results_h5(cls, filename: str | os.PathLike[str], dataset: CDataset | None = None) -> Any:
        """The model of a file of ours or of CDTools; a model class reads its own files, `CDIModel` any.

        Args:
            filename: what `save_to_h5` wrote, here or in CDTools.
            dataset: the patterns, which `SimplePtycho` of CDTools cannot do without: its files hold no
                translations.

        Raises:
            BadInput: a file of another class or of another program, or of a model that is not built yet.
        """
        return cls.from_results_dict(saved.read(filename), dataset)

    @classmethod
    def from_results_dict(cls, results_dict: Mapping[str, Any], dataset: CDataset | None = None) -> Any:
        """The model of what `save_results` gave; see `from_results_h5`."""
        found = dict(results_dict)
        name = saved.text(found.get("model_class", "CDIModel"))
        kind = _named(name, cls)
        if kind is not cls:
            return kind.from_results_dict(found, dataset)
        scan = None if dataset is None else dataset.scan
        if theirs.recognised(found):
            core, options, scan = theirs.rebuilt(found, scan)
        else:
            core, options, scan = saved.rebuilt(found)
        model = cls(core, options, scan, data=dataset is not None)
        model.fit.losses[:] = [float(loss) for loss in found["loss_history"]]
        model.fit.lines[:] = saved.text(found["training_history"]).splitlines()
        return model

    @contextmanager
    def save_on_exception(
        self, filename: str | os.PathLike[str], dataset: CDataset | None = None
    ) -> Iterator[None]:
        """Write results when what is done within ends by an exception or Ctrl-C, which goes on its way."""
        try:
            yield
        except BaseException:
            self.save_to_h5(filename, dataset)
            raise

    @contextmanager
    def save_on_exit(
        self,
        filename: str | os.PathLike[str],
        dataset: CDataset | None = None,
        *,
        exception_filename: str | os.PathLike[str] | None = None,
    ) -> Iterator[None]:
        """Write results when what is done within ends, in whatever way.

        Args:
            filename: where to.
            dataset: see `save_results`.
            exception_filename: where to if it ends by an exception or Ctrl-C; default: the same.
        """
        try:
            yield
        except BaseException:
            self.save_to_h5(exception_filename or filename, dataset)
            raise
        self.save_to_h5(filename, dataset)


def _named(name: str, asked: type[CDIModel]) -> type[CDIModel]:
    """The class of a name: the one that was asked for, one that was made of it, or one of CDTools'."""
    known = {one.__name__: one for one in _all(CDIModel)}
    if name not in known:
        with suppress(AttributeError, ImportError):
            known[name] = getattr(import_module("phaseloom.compat._cdtools_models"), name)
    kind = known.get(name)
    if kind is None or not issubclass(kind, asked):
        raise BadInput("results", name, f"are of another model: use {name}.from_results_h5")
    return kind


def _all(kind: type[CDIModel]) -> Iterator[type[CDIModel]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _all(one)
