"""How a CDTools model is fitted, looked at and saved: generators that yield a loss per epoch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from phaseloom import plot
from phaseloom.compat import _cdtools_saved as saved
from phaseloom.compat._cdtools_build import refuse
from phaseloom.compat._cdtools_datasets import CDataset
from phaseloom.compat._cdtools_experiment import Experiment, seen
from phaseloom.compat._cdtools_fit import chosen, whole
from phaseloom.compat._cdtools_views import Window, pressed
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.plot.interactive import View

__all__ = ["CDIModel"]

Factors = Mapping[str, float] | None


class CDIModel(Experiment):
    """An experiment that is fitted, looked at and saved the way CDTools does it; see `Experiment`."""

    def Adam_optimize(  # noqa: PLR0913 - as CDTools has it
        self,
        iterations: int,
        dataset: CDataset,
        batch_size: int = 15,
        lr: float = 0.005,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: bool = False,
        amsgrad: bool = False,
        subset: Any = None,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
        lr_factors: Factors = None,
    ) -> Iterator[float]:
        """Adam, one item per epoch: the mean loss. A further call goes on with the moments of the one before.

        Args:
            iterations: epochs.
            dataset: the patterns.
            batch_size: patterns per step.
            lr: of every part.
            betas: of the means of gradients and of their squares.
            schedule: divide rates by five when the loss has stood still for ten epochs.
            amsgrad: divide by the largest mean square so far.
            subset: numbers of the patterns to use.
            regularization_factor: not built.
            thread: for CDTools' sake; pictures are drawn between epochs.
            calculation_width: patterns that are modelled at once; default: what fits the caches.
            lr_factors: factors on ``lr`` by name of the part.
        """
        refuse(regularization_factor=regularization_factor)
        return self.fit.run(
            "Adam",
            lambda groups: optimizers.adam(groups, momentum=betas[0], memory=betas[1], amsgrad=amsgrad),
            iterations,
            dataset.scan,
            rates=self.fit.rates(lr, lr_factors),
            size=whole("batch_size", batch_size),
            index=chosen(subset, len(dataset)),
            pieces=None if calculation_width is None else whole("calculation_width", calculation_width),
            plateau=schedule,
            extra={"betas": tuple(betas), "amsgrad": amsgrad},
        )

    def LBFGS_optimize(
        self,
        iterations: int,
        dataset: CDataset,
        lr: float = 0.1,
        *,
        history_size: int = 2,
        subset: Any = None,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
        line_search_fn: str | None = None,
    ) -> Iterator[float]:
        """L-BFGS over all patterns; an epoch makes up to 20 steps, as it does in CDTools.

        Args:
            iterations: epochs.
            dataset: the patterns.
            lr: of every step; of the first one of a search.
            history_size: pairs of vectors kept.
            subset: numbers of the patterns to use.
            regularization_factor: not built.
            thread: see `Adam_optimize`.
            calculation_width: see `Adam_optimize`.
            line_search_fn: ``"strong_wolfe"`` or none.
        """
        refuse(regularization_factor=regularization_factor)
        if self.options.translation_scale != 1 and self.translation_offsets.requires_grad:
            fix = "has no meaning for LBFGS: freeze model.translation_offsets, or make it 1"
            raise BadInput("LBFGS_optimize: translation_scale", self.options.translation_scale, fix)
        index = chosen(subset, len(dataset))
        return self.fit.run(
            "LBFGS",
            lambda groups: optimizers.lbfgs(groups, history=history_size, inner=20),
            iterations,
            dataset.scan,
            rates=self.fit.rates(lr, None),
            size=len(index),
            index=index,
            pieces=None if calculation_width is None else whole("calculation_width", calculation_width),
            extra={"history_size": history_size, "line_search_fn": line_search_fn},
        )

    def SGD_optimize(  # noqa: PLR0913 - as CDTools has it
        self,
        iterations: int,
        dataset: CDataset,
        batch_size: int | None = None,
        lr: float = 5.0,
        *,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        subset: Any = None,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
        lr_factors: Factors = None,
    ) -> Iterator[float]:
        """Gradient descent, on a loss relative to that of no model at all: rates are not those of CDTools.

        Args:
            iterations: epochs.
            dataset: the patterns.
            batch_size: patterns per step; default: all.
            lr: of every part; at most about 20, whatever the dose.
            momentum: share of the last step that is kept.
            dampening: share of the gradient that momentum leaves out.
            weight_decay: pull towards zero.
            nesterov: look ahead.
            subset: numbers of the patterns to use.
            regularization_factor: not built.
            thread: see `Adam_optimize`.
            calculation_width: see `Adam_optimize`.
            lr_factors: see `Adam_optimize`.
        """
        refuse(regularization_factor=regularization_factor)
        index = chosen(subset, len(dataset))
        extra = {"momentum": momentum, "dampening": dampening}
        extra |= {"weight_decay": weight_decay, "nesterov": nesterov}
        return self.fit.run(
            "SGD",
            lambda groups: optimizers.sgd(groups, momentum=momentum, nesterov=False),
            iterations,
            dataset.scan,
            rates=self.fit.rates(lr * self.fit.contrast(dataset.scan), lr_factors, power=2.0),
            size=len(index) if batch_size is None else whole("batch_size", batch_size),
            index=index,
            pieces=None if calculation_width is None else whole("calculation_width", calculation_width),
            extra=extra,
        )

    def inspect(self, dataset: CDataset | None = None, update: bool = True) -> Any:
        """Object, probe and losses in a figure of pyplot that every further call draws anew.

        Args:
            dataset: for CDTools' sake; nothing of it is drawn.
            update: False opens another figure.
        """
        self.window = self.window if update else Window()
        return self.window.show(lambda: seen(self), done=self.fit.done)

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

    def report(self) -> str:
        """The last epoch in a sentence."""
        return self.fit.lines[-1] if self.fit.lines else "No epoch done yet"

    def save_results(self, dataset: CDataset | None = None) -> dict[str, Any]:
        """All that was found as a dict of numpy arrays, numbers and text, fit for pickle."""
        return saved.results(self, None if dataset is None else dataset.scan)

    def save_to_h5(self, filename: str | os.PathLike[str], dataset: CDataset | None = None) -> None:
        """Write `save_results` to an HDF5 file, from which `from_results_h5` makes the model again."""
        saved.write(filename, self.save_results(dataset))

    @classmethod
    def from_results_h5(cls, filename: str | os.PathLike[str]) -> Any:
        """The model of a file; a model class reads its own files, `CDIModel` those of any.

        Raises:
            BadInput: a file of another class, or of another program.
        """
        found = saved.read(filename)
        core, options, scan = saved.rebuilt(found)
        name = found["model_class"]
        kind = {one.__name__: one for one in (cls, *cls.__subclasses__())}.get(name)
        if kind is None:
            raise BadInput(str(filename), None, f"is of another model: use {name}.from_results_h5")
        model = kind(core, options, scan, data=False)
        model.fit.losses[:] = found["loss_history"].tolist()
        model.fit.lines[:] = found["training_history"].splitlines()
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
