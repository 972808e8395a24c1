"""How a CDTools model is fitted: generators that yield a loss per epoch, and jobs that may be cut short."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from phaseloom.compat.cdtools import checkpoints
from phaseloom.compat.cdtools.datasets import CDataset
from phaseloom.compat.cdtools.fit import Course, Fit, chosen
from phaseloom.compat.cdtools.validate import asked, data_of, number, whole
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers

__all__ = ["Fitted"]

Factors = Mapping[str, float] | None


class Fitted(nn.Module):
    """A model with CDTools' optimisers and its checkpoints for jobs of limited time.

    Attributes:
        fit: optimisers and history.
        turn: which part of a chain of jobs this is, once `use_checkpoints` was called.
    """

    fit: Fit
    turn: checkpoints.Turn | None = None

    @asked
    def Adam_optimize(  # noqa: PLR0913, PLR0917 - as CDTools has it
        self,
        iterations: int,
        dataset: CDataset,
        batch_size: int = 15,
        lr: float = 0.005,
        lr_factors: Factors = None,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: bool = False,
        amsgrad: bool = False,
        subset: Any = None,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
    ) -> Iterator[float]:
        """Adam, one item per epoch: the mean loss. A further call goes on with the moments of the one before.

        Args:
            iterations: epochs.
            dataset: the patterns.
            batch_size: patterns per step.
            lr: of every part.
            lr_factors: factors on ``lr`` by name of the part.
            betas: of the means of gradients and of their squares.
            schedule: divide rates by five when the loss has stood still for ten epochs.
            amsgrad: divide by the largest mean square so far.
            subset: numbers of the patterns to use.
            regularization_factor: what the model's ``regularizer`` is given, if it has one.
            thread: for CDTools' sake; pictures are drawn between epochs.
            calculation_width: patterns that are modelled at once; default: what fits the caches, and 10 for a
                model of your own.
        """
        index, betas = self._index(iterations, dataset, subset), _betas(betas)
        return self.fit.run(
            "Adam",
            lambda groups: optimizers.adam(groups, betas=betas, amsgrad=amsgrad),
            iterations,
            dataset,
            Course(
                index,
                whole("batch_size", batch_size),
                _pieces(calculation_width),
                plateau=schedule,
                penalty=self._penalty(regularization_factor),
            ),
            rates=self.fit.rates(lr, lr_factors),
            extra={"betas": betas, "amsgrad": amsgrad},
        )

    @asked
    def LBFGS_optimize(  # noqa: PLR0917 - as CDTools has it
        self,
        iterations: int,
        dataset: CDataset,
        lr: float = 0.1,
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
            regularization_factor: what the model's ``regularizer`` is given, if it has one.
            thread: see `Adam_optimize`.
            calculation_width: see `Adam_optimize`.
            line_search_fn: ``"strong_wolfe"`` or none.
        """
        index = self._index(iterations, dataset, subset)
        whole("history_size", history_size)
        if line_search_fn not in (None, "strong_wolfe"):
            raise BadInput("optimize: line_search_fn", line_search_fn, "must be 'strong_wolfe' or None")
        return self.fit.run(
            "LBFGS",
            lambda groups: optimizers.lbfgs(groups, history_size=history_size, max_iter=20),
            iterations,
            dataset,
            Course(
                index,
                len(index),
                _pieces(calculation_width),
                penalty=self._penalty(regularization_factor),
            ),
            rates=self.fit.rates(lr, None),
            extra={"history_size": history_size, "line_search_fn": line_search_fn},
        )

    @asked
    def SGD_optimize(  # noqa: PLR0913, PLR0917 - as CDTools has it
        self,
        iterations: int,
        dataset: CDataset,
        batch_size: int | None = None,
        lr: float | None = None,
        lr_factors: Factors = None,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        subset: Any = None,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
    ) -> Iterator[float]:
        """Gradient descent.

        Models that are ready descend on a loss relative to that of no model at all: their rates are not those
        of CDTools. A model of your own descends on its own loss.

        Args:
            iterations: epochs.
            dataset: the patterns.
            batch_size: patterns per step; default: all.
            lr: of every part; default: 5, and at most about 20, whatever the dose; 2e-7 for a model of your
                own.
            lr_factors: see `Adam_optimize`.
            momentum: share of the last step that is kept.
            dampening: share of the gradient that momentum leaves out.
            weight_decay: pull towards zero.
            nesterov: look ahead.
            subset: numbers of the patterns to use.
            regularization_factor: what the model's ``regularizer`` is given, if it has one.
            thread: see `Adam_optimize`.
            calculation_width: see `Adam_optimize`.
        """
        index = self._index(iterations, dataset, subset)
        lr = None if lr is None else number("optimize: lr", lr, 0)
        extra = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        extra = {name: number(f"optimize: {name}", value, 0) for name, value in extra.items()}
        extra |= {"nesterov": nesterov}
        return self.fit.run(
            "SGD",
            lambda groups: optimizers.sgd(groups, momentum=momentum, nesterov=False),
            iterations,
            dataset,
            Course(
                index,
                len(index) if batch_size is None else whole("batch_size", batch_size),
                _pieces(calculation_width),
                penalty=self._penalty(regularization_factor),
            ),
            rates=self.fit.rates(self.fit.slope(dataset, lr), lr_factors),
            extra=extra,
        )

    def _index(self, iterations: int, dataset: CDataset, subset: Any) -> np.ndarray:
        """The patterns of a call that can be meant."""
        whole("iterations", iterations, 0)
        return chosen(subset, len(data_of("optimize", dataset)))

    def _penalty(self, factors: Any) -> Callable[[], Tensor] | None:
        """The model's own regulariser with its factors.

        Raises:
            BadInput: factors for a model without one.
        """
        if factors is None:
            return None
        regularizer = getattr(self, "regularizer", None)
        if regularizer is None:
            fix = f"is given, but {type(self).__name__} has no regularizer: leave it out"
            raise BadInput("optimize: regularization_factor", factors, fix)
        return lambda: regularizer(factors)

    def report(self) -> str:
        """The last epoch in a sentence."""
        return self.fit.lines[-1] if self.fit.lines else "No epoch done yet"

    def use_checkpoints(self, job_id: int, checkpoint_file_stem: str | os.PathLike[str]) -> None:
        """Do one part of a script that `checkpoint` divides; jobs of further numbers do the next ones.

        Job 0 works up to the first `checkpoint`, writes a file there and ends the program. Job 1 passes over
        all epochs before it, reads the file and works up to the second one, and so on. A chain of jobs finds
        the same bits as a script that is not divided.

        Args:
            job_id: number of this job, from 0 up.
            checkpoint_file_stem: files are named ``<stem>_<number>.pt``.
        """
        if isinstance(job_id, bool) or not isinstance(job_id, int) or job_id < 0:
            raise BadInput("use_checkpoints: job_id", job_id, "must be a whole number from 0 up")
        self.turn = checkpoints.Turn(job_id, os.fspath(checkpoint_file_stem))
        self.fit.idle = self.skip_computation()

    def skip_computation(self) -> bool:
        """Whether what comes now was done by an earlier job."""
        return self.turn is not None and self.turn.skips

    def checkpoint(self, dataset: CDataset | None = None) -> None:
        """Where one job ends and the next one begins, between calls or within a loop over epochs.

        Raises:
            SystemExit: the file is written, and this job has done its part.
            BadInput: `use_checkpoints` was not called, or the file of the job before is not there.
        """
        turn = checkpoints.begun(self.turn)
        if turn.passed == turn.job:
            self.save_checkpoint()
            raise SystemExit(0)
        if turn.passed + 1 == turn.job:
            self.load_checkpoint()
        turn.passed += 1
        self.fit.idle = self.skip_computation()

    def save_checkpoint(
        self, dataset: CDataset | None = None, checkpoint_file: str | os.PathLike[str] | None = None
    ) -> None:
        """Write parameters, optimisers, losses and the state of random numbers; by default for this job."""
        checkpoints.write(self, checkpoint_file or checkpoints.begun(self.turn).file)

    def load_checkpoint(self, checkpoint_file: str | os.PathLike[str] | None = None) -> None:
        """Go on as if the fit that wrote a file had never stopped; by default that of the job before.

        Raises:
            BadInput: no such file, or one of another model.
        """
        checkpoints.read(self, checkpoint_file or checkpoints.begun(self.turn).file)


def _pieces(width: int | None) -> int | None:
    return None if width is None else whole("calculation_width", width)


def _betas(betas: Any) -> tuple[float, float]:
    """Two shares below one."""
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise BadInput("optimize: betas", betas, "must be two numbers")
    first, second = (number("optimize: betas", beta, 0, 1 - 1e-9) for beta in betas)
    return first, second
