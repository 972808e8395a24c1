"""CDTools' reconstructors by name: a model, its data and what is set once, over ``model.*_optimize``."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from phaseloom.compat.cdtools.datasets import CDataset
from phaseloom.compat.cdtools.fit import chosen
from phaseloom.compat.cdtools.fitted import Fitted
from phaseloom.compat.cdtools.validate import asked, data_of
from phaseloom.errors import BadInput

__all__ = ["AdamReconstructor", "LBFGSReconstructor", "Reconstructor", "SGDReconstructor"]


class Reconstructor:
    """A model with the data that it is fitted to; optimisers are those that the model keeps.

    Attributes:
        model: what is fitted.
        dataset: the patterns.
        subset: numbers of the patterns to use, or ``None``: all.
        lr_factors: factors on the rate by name of the part.
    """

    kind = ""

    def __init__(
        self,
        model: Fitted,
        dataset: CDataset,
        subset: Any = None,
        lr_factors: Mapping[str, float] | None = None,
    ):
        chosen(subset, len(data_of(type(self).__name__, dataset)))
        model.fit.rates(1.0, lr_factors)
        self.model, self.dataset, self.subset = model, dataset, subset
        self.lr_factors = dict(lr_factors or {})

    @property
    def optimizer(self) -> Any:
        """The optimiser of PyTorch that goes on when `optimize` is called again; ``None`` before."""
        return self.model.fit.optimizer(self.kind)

    def print_lrs(self) -> None:
        """Show the rate of each part on standard output."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        lines = [f"{group['name']}: {group['lr']:.6g}" for group in groups] or [
            "no rates before the first epoch"
        ]
        sys.stdout.write("\n".join(lines) + "\n")

    def _given(self, custom_data_loader: Any, shuffle: bool, **more: Any) -> dict[str, Any]:
        """What is passed on; an order of one's own is not."""
        if custom_data_loader is not None:
            raise BadInput(
                "optimize: custom_data_loader", custom_data_loader, "is not built: use subset and batch_size"
            )
        if not shuffle:
            raise BadInput(
                "optimize: shuffle", shuffle, "is not built: the order is the same in every run as it is"
            )
        return {"subset": self.subset, **more}


class AdamReconstructor(Reconstructor):
    """Adam; `optimize` may be called again with other settings, and goes on with the moments."""

    kind = "Adam"

    @asked
    def optimize(  # noqa: PLR0913, PLR0917 - as CDTools has it
        self,
        iterations: int,
        batch_size: int = 15,
        lr: float = 0.005,
        betas: tuple[float, float] = (0.9, 0.999),
        lr_factors: Mapping[str, float] | None = None,
        custom_data_loader: Any = None,
        schedule: bool = False,
        amsgrad: bool = False,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
        shuffle: bool = True,
    ) -> Iterator[float]:
        """See `Fitted.Adam_optimize`; ``lr_factors`` that are given here stay for later calls."""
        self.lr_factors = self.lr_factors if lr_factors is None else dict(lr_factors)
        given = self._given(custom_data_loader, shuffle, schedule=schedule, amsgrad=amsgrad)
        return self.model.Adam_optimize(
            iterations,
            self.dataset,
            batch_size,
            lr,
            betas=betas,
            lr_factors=self.lr_factors,
            regularization_factor=regularization_factor,
            calculation_width=calculation_width,
            **given,
        )


class SGDReconstructor(Reconstructor):
    """Gradient descent; rates of models that are ready are not those of CDTools."""

    kind = "SGD"

    @asked
    def optimize(  # noqa: PLR0913, PLR0917 - as CDTools has it
        self,
        iterations: int,
        batch_size: int = 15,
        lr: float | None = None,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        lr_factors: Mapping[str, float] | None = None,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
        shuffle: bool = True,
    ) -> Iterator[float]:
        """See `Fitted.SGD_optimize`; ``lr_factors`` that are given here stay for later calls."""
        self.lr_factors = self.lr_factors if lr_factors is None else dict(lr_factors)
        steps = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        return self.model.SGD_optimize(
            iterations,
            self.dataset,
            batch_size,
            lr,
            lr_factors=self.lr_factors,
            regularization_factor=regularization_factor,
            calculation_width=calculation_width,
            **self._given(None, shuffle, nesterov=nesterov, **steps),
        )


class LBFGSReconstructor(Reconstructor):
    """L-BFGS over all patterns; an epoch makes up to 20 steps, as it does in CDTools."""

    kind = "LBFGS"

    def __init__(self, model: Fitted, dataset: CDataset, subset: Any = None):
        super().__init__(model, dataset, subset)

    @asked
    def optimize(  # noqa: PLR0917 - as CDTools has it
        self,
        iterations: int,
        lr: float = 0.1,
        history_size: int = 2,
        regularization_factor: Any = None,
        thread: bool = True,
        calculation_width: int | None = None,
        line_search_fn: str | None = None,
    ) -> Iterator[float]:
        """See `Fitted.LBFGS_optimize`."""
        return self.model.LBFGS_optimize(
            iterations,
            self.dataset,
            lr,
            history_size=history_size,
            regularization_factor=regularization_factor,
            calculation_width=calculation_width,
            line_search_fn=line_search_fn,
            subset=self.subset,
        )
