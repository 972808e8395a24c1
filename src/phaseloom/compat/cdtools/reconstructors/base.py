"""CDTools' reconstructors: a model, its data and what is set once, over ``model.*_optimize``."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from phaseloom.compat.cdtools.arguments import accepts
from phaseloom.compat.cdtools.datasets.base import CDataset, check_dataset
from phaseloom.compat.cdtools.fit import choose_patterns
from phaseloom.compat.cdtools.models.base import CDIModel
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
        model: CDIModel,
        dataset: CDataset,
        subset: Any = None,
        lr_factors: Mapping[str, float] | None = None,
    ):
        choose_patterns(subset, len(check_dataset(type(self).__name__, dataset)))
        model.fit.rates(1.0, lr_factors)
        self.model = model
        self.dataset = dataset
        self.subset = subset
        self.lr_factors = dict(lr_factors or {})

    @property
    def optimizer(self) -> Any:
        """The optimiser of PyTorch that continues when `optimize` is called again; ``None`` before."""
        return self.model.fit.optimizer(self.kind)

    def print_lrs(self) -> None:
        """Show the rate of each part on standard output."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        lines = [f"{group['name']}: {group['lr']:.6g}" for group in groups]
        sys.stdout.write("\n".join(lines or ["no rates before the first epoch"]) + "\n")

    def _optimize(self, given: dict[str, Any]) -> Iterator[float]:
        """Call the model; ``lr_factors`` that are given stay for later calls."""
        if given.pop("custom_data_loader", None) is not None:
            fix = "is not supported: use subset and batch_size"
            raise BadInput("optimize: custom_data_loader", None, fix)
        if not given.pop("shuffle", True):
            fix = "is not supported: the order is the same in every run as it is"
            raise BadInput("optimize: shuffle", False, fix)
        if "lr_factors" in given:
            if given["lr_factors"] is not None:
                self.lr_factors = dict(given["lr_factors"])
            given["lr_factors"] = self.lr_factors
        optimize = getattr(self.model, f"{self.kind}_optimize")
        return optimize(dataset=self.dataset, subset=self.subset, **given)


class AdamReconstructor(Reconstructor):
    """Adam; `optimize` may be called again with other settings, and continues with the moments."""

    kind = "Adam"

    @accepts(
        "iterations batch_size lr betas lr_factors custom_data_loader schedule amsgrad "
        "regularization_factor thread calculation_width shuffle",
        lr=0.005,
    )
    def optimize(self, **given: Any) -> Iterator[float]:
        """See `CDIModel.Adam_optimize`."""
        return self._optimize(given)


class SGDReconstructor(Reconstructor):
    """Gradient descent; rates of built-in models are not those of CDTools."""

    kind = "SGD"

    @accepts(
        "iterations batch_size lr momentum dampening weight_decay nesterov lr_factors regularization_factor "
        "thread calculation_width shuffle"
    )
    def optimize(self, **given: Any) -> Iterator[float]:
        """See `CDIModel.SGD_optimize`."""
        return self._optimize(given)


class LBFGSReconstructor(Reconstructor):
    """L-BFGS over all patterns; an epoch makes up to 20 steps, as it does in CDTools."""

    kind = "LBFGS"

    def __init__(self, model: CDIModel, dataset: CDataset, subset: Any = None):
        super().__init__(model, dataset, subset)

    @accepts(
        "iterations lr history_size regularization_factor thread calculation_width line_search_fn",
        lr=0.1,
    )
    def optimize(self, **given: Any) -> Iterator[float]:
        """See `CDIModel.LBFGS_optimize`."""
        return self._optimize(given)
