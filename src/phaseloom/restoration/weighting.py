"""Combine the losses of restored images to one number.

Terms come by branch and name, ``{"low": {"charbonnier": ..., "similarity": ...}, "high": {...}}``; those
that are absent from a batch (an output that a network lacks, a loss that is off) are left out.

`uncertainty` weights each term of each branch by one over its own size, whatever its unit. `softmax` is the
first design as it was described: learned weights, of the terms within a branch and of the branches. They can
only collapse: with ``w = softmax(a)`` and ``L = sum w l``, ``dL/da = w (l - L)``, so every loss smaller than
the mean gains until the smallest has all. A floor keeps a share for the others. `softmax_frozen` is the first
design as it was programmed: the same weights, random and never learned. `fixed` takes the user's numbers.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from phaseloom.embedding.losses import disable_autocast
from phaseloom.errors import BadInput, nearest
from phaseloom.learning.layers import to_full_precision

__all__ = ["FixedWeighting", "SoftmaxWeighting", "UncertaintyWeighting", "Weighting", "fixed", "softmax"]
__all__ += ["softmax_frozen", "uncertainty"]

log = logging.getLogger(__name__)

Terms = Mapping[str, Mapping[str, Tensor]]
"""Losses by branch and name."""

MAX_LOG_SIZE = 8.0
"""Bound of the logarithm of a size in `UncertaintyWeighting`: sizes from 1/3000 to 3000."""

DOMINANT_SHARE = 0.9
"""Weight of one term above which the others are practically lost."""

SPECTROFORMER_NUMBERS = {
    "charbonnier": 0.03,
    "perceptual": 0.025,
    "perceptual_random": 0.025,
    "gradient": 0.02,
    "similarity": 0.01,
}


class Weighting(nn.Module):
    """Losses of branches to one number: ``sum_b v_b sum_i w_bi l_bi``.

    Its parameters, if it has any, belong into the optimiser; see `groups`. Its state holds the names of its
    terms, and is refused by a weighting of others.

    Args:
        names: of all possible losses.
        branches: of all possible branches.

    Attributes:
        present: ``(branch, term)`` which of them the last batch had.

    Raises:
        BadInput: no names, or one twice.
    """

    present: Tensor
    order: Tensor

    def __init__(self, names: Sequence[str], branches: Sequence[str], /):
        super().__init__()
        for kind, given in (("losses", names), ("branches", branches)):
            if not given or len(set(given)) < len(given):
                raise BadInput(f"weighting: {kind}", list(given), "must be one or more different names")
        self.names = tuple(names)
        self.branches = tuple(branches)
        present = torch.ones(len(branches), len(names), dtype=torch.bool)
        self.register_buffer("present", present, persistent=False)
        text = f"{', '.join(names)} in {', '.join(branches)}"
        self.register_buffer("order", torch.tensor(list(text.encode()), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_refuse_other_terms)

    def forward(self, terms: Terms) -> Float[Tensor, ""]:
        """Combine the losses of a batch.

        Raises:
            BadInput: an unknown branch or loss, or no losses.
        """
        losses = self._stack(terms)
        with disable_autocast(losses):
            return self.total(losses)

    def total(self, losses: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """The number, of losses that are zero if absent."""
        return (self.branch_weights()[:, None] * self.term_weights() * losses).sum()

    @torch.no_grad()
    def begin(self, terms: Terms, /) -> None:
        """Initialise the weights by the losses of a first batch, before training; errors as of calling it."""
        self._stack(terms)

    def term_weights(self) -> Float[Tensor, "b k"]:
        """Weights of the terms within each branch; zero for those absent from the last batch."""
        raise NotImplementedError

    def branch_weights(self) -> Float[Tensor, " b"]:
        """Weights of the branches."""
        return self.present.any(1).float()

    @property
    def weights(self) -> dict[str, float]:
        """For a log: ``low``, weight of a branch, and ``low.charbonnier``, that of a loss within it."""
        with torch.no_grad():
            rows = self.term_weights().tolist()
            shares = self.branch_weights().tolist()
        found = {}
        for branch, share, row, there in zip(self.branches, shares, rows, self.present.tolist(), strict=True):
            inner = {f"{branch}.{n}": w for n, w, t in zip(self.names, row, there, strict=True) if t}
            found |= {branch: share, **inner} if inner else {}
        return found

    def groups(self, rate: float, /) -> list[dict[str, Any]]:
        """Parameter group for an optimiser, without weight decay; empty if nothing is learned.

        Args:
            rate: learning rate: weights need a larger one than a network.
        """
        learned = [value for value in self.parameters() if value.requires_grad]
        return [{"params": learned, "lr": rate, "weight_decay": 0.0}] if learned else []

    def _stack(self, terms: Terms) -> Float[Tensor, "b k"]:
        """Losses as a table, zero if absent; `present` is updated."""
        given = {
            (branch, name): to_full_precision(loss)
            for branch, row in terms.items()
            for name, loss in row.items()
        }
        for branch, name in given:
            for kind, word, known in (("branch", branch, self.branches), ("loss", name, self.names)):
                if word not in known:
                    raise BadInput("weighting", f"there is no {kind} '{word}';", nearest(word, known))
        if not given:
            raise BadInput("weighting", None, "has no losses to weigh: list at least one that is on")
        zero = next(iter(given.values())).new_zeros(())
        places = [[(branch, name) for name in self.names] for branch in self.branches]
        self.present = torch.tensor([[place in given for place in row] for row in places], device=zero.device)
        return torch.stack([torch.stack([given.get(place, zero) for place in row]) for row in places])


class UncertaintyWeighting(Weighting):
    """See `uncertainty`."""

    begun: Tensor

    def __init__(self, names: Sequence[str], branches: Sequence[str], /):
        super().__init__(names, branches)
        self.sizes = nn.Parameter(torch.zeros(len(branches), len(names)))
        self.register_buffer("begun", torch.zeros(len(branches), len(names), dtype=torch.bool))

    def total(self, losses: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """The number; losses that come for the first time set their sizes.

        Raises:
            BadInput: a first loss below zero.
        """
        if torch.is_grad_enabled():
            self._initialise(losses.detach())
        return super().total(losses) + (self.sizes * self.present).sum()

    def begin(self, terms: Terms, /) -> None:
        """Initialise the sizes."""
        self._initialise(self._stack(terms))

    def term_weights(self) -> Float[Tensor, "b k"]:
        """One over the size of each loss."""
        return torch.exp(-self.sizes) * self.present

    @torch.no_grad()
    def _initialise(self, losses: Tensor) -> None:
        """Set the sizes of new losses, and clip all (a clamp in the formula would trap them)."""
        new = self.present & ~self.begun & losses.isfinite()
        if (losses[new] < 0).any():
            fix = "is below zero, for a first loss: 'uncertainty' needs positive ones, 'fixed' takes any"
            raise BadInput("weighting", float(losses[new].min()), fix)
        first = losses.clamp_min(math.exp(-MAX_LOG_SIZE)).log().to(self.sizes.dtype)
        self.sizes.copy_(torch.where(new, first, self.sizes).clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE))
        self.begun |= new


class SoftmaxWeighting(Weighting):
    """See `softmax`."""

    def __init__(self, names: Sequence[str], branches: Sequence[str], /, *, floor: float, seed: int):
        super().__init__(names, branches)
        count = max(len(names), len(branches))
        if not 0 <= floor * count < 1:
            fix = (
                f"leaves nothing for {count} terms to share: give a number from zero to below {1 / count:.2g}"
            )
            raise BadInput("weighting: softmax.floor", floor, fix)
        generator = torch.Generator().manual_seed(seed)
        self.terms = nn.Parameter(torch.rand(len(names), generator=generator))
        self.parts = nn.Parameter(torch.rand(len(branches), generator=generator))
        self.floor = floor
        self.warned = False

    def total(self, losses: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """The number; a collapse onto one loss is logged, once."""
        if self.terms.requires_grad and torch.is_grad_enabled() and not self.warned:
            self._warn_of_collapse()
        return super().total(losses)

    def term_weights(self) -> Float[Tensor, "b k"]:
        """Shares of the terms."""
        return _shares(self.terms.expand(len(self.branches), -1), self.present, self.floor)

    def branch_weights(self) -> Float[Tensor, " b"]:
        """Shares of the branches."""
        return _shares(self.parts, self.present.any(1), self.floor)

    def _warn_of_collapse(self) -> None:
        several_terms = self.present.sum(1, keepdim=True) > 1
        several_branches = self.present.any(1).sum() > 1
        with torch.no_grad():
            branches = several_branches * self.branch_weights()[:, None]
            shares = torch.cat([branches, several_terms * self.term_weights()], 1)
        if (dominant := (shares > DOMINANT_SHARE).nonzero()).numel():
            row, column = dominant[0].tolist()
            place = ".".join([self.branches[row], *self.names[column - 1 : column]])
            text = "weighting: softmax: %s has %.2f of the weight: the others are all but lost; take %s"
            log.warning(text, place, float(shares[row, column]), "'uncertainty', or a floor")
            self.warned = True


class FixedWeighting(Weighting):
    """See `fixed`."""

    numbers: Tensor
    parts: Tensor

    def __init__(
        self,
        names: Sequence[str],
        branches: Sequence[str],
        numbers: Sequence[float],
        parts: Sequence[float],
        /,
    ):
        super().__init__(names, branches)
        for knob, kind, values in (("numbers", names, numbers), ("parts", branches, parts)):
            place = f"weighting: fixed.{knob}"
            if len(values) != len(kind):
                raise BadInput(place, list(values), f"must be one number for each of {', '.join(kind)}")
            if not all(0 <= value < float("inf") for value in values) or not any(values):
                raise BadInput(place, list(values), "must be finite numbers from zero up, not all zero")
            self.register_buffer(knob, torch.tensor(values, dtype=torch.float32))

    def term_weights(self) -> Float[Tensor, "b k"]:
        """The numbers."""
        return self.numbers * self.present

    def branch_weights(self) -> Float[Tensor, " b"]:
        """The numbers of the branches."""
        return self.parts * self.present.any(1)


def uncertainty(names: Sequence[str], branches: Sequence[str], /) -> Weighting:
    """Each loss over its own size, which is learned: ``sum exp(-s) l + s``, least at ``exp(-s) = 1 / l``.

    This minimises the sum of the losses' logarithms: neither a change of unit nor a ``weight`` of a loss
    changes anything. There is an ``s`` for each loss of each branch; it begins as the logarithm of the first
    loss that comes with a gradient, and stays within +-8. The number may be negative and does not compare
    trainings. An atypical first batch costs time: Adam at a rate of 0.01 takes 400 steps back from a loss 100
    times as large.

    Source: Kendall, Gal & Cipolla 2018, arXiv 1705.07115.

    Example:
        >>> weigh = uncertainty(["charbonnier", "similarity"], ["low"])
        >>> terms = {"charbonnier": torch.tensor(0.25), "similarity": torch.tensor(0.5, requires_grad=True)}
        >>> round(weigh({"low": terms}).item(), 4)  # 1 + 1 + log 0.25 + log 0.5
        -0.0794
        >>> {name: round(weight, 3) for name, weight in weigh.weights.items()}
        {'low': 1.0, 'low.charbonnier': 4.0, 'low.similarity': 2.0}
    """
    return UncertaintyWeighting(names, branches)


def softmax(
    names: Sequence[str], branches: Sequence[str], /, *, floor: float = 0.05, seed: int = 0
) -> Weighting:
    """Learned shares of one, of the terms and of the branches: the first design as described.

    ``floor + (1 - K floor) softmax(a)`` of ``K`` terms. All branches share the ``a`` of the terms, which
    begin as random numbers from zero to one.

    Args:
        names: of the losses.
        branches: of the network.
        floor: minimum share of each; at zero, the first design: weights collapse onto the smallest loss.
        seed: of the initial shares.

    Raises:
        BadInput: a floor that leaves nothing to share.
    """
    return SoftmaxWeighting(names, branches, floor=floor, seed=seed)


def softmax_frozen(names: Sequence[str], branches: Sequence[str], /, *, seed: int = 0) -> Weighting:
    """Constant random shares, as the first design was programmed: its optimiser never had them.

    Args:
        names: of the losses.
        branches: of the network.
        seed: of the shares.

    Example:
        >>> weigh = softmax_frozen(["charbonnier", "gradient"], ["low", "high"], seed=3)
        >>> weigh.groups(1e-3), round(weigh.weights["low"] + weigh.weights["high"], 6)
        ([], 1.0)
    """
    return SoftmaxWeighting(names, branches, floor=0.0, seed=seed).requires_grad_(False)


def fixed(
    names: Sequence[str],
    branches: Sequence[str],
    /,
    *,
    numbers: tuple[float, ...] | None = None,
    parts: tuple[float, ...] | None = None,
) -> Weighting:
    """The user's numbers, which are not scaled to any sum.

    Args:
        names: of the losses.
        branches: of the network.
        numbers: one for each loss, in the order in which the training file lists them; the default is
            Spectroformer's: 0.03 for `charbonnier`, 0.025 `perceptual`, 0.02 `gradient`, 0.01 `similarity`.
        parts: one for each branch; default: one.

    Raises:
        BadInput: more or fewer numbers than losses or branches, or negative or infinite ones.

    Example:
        >>> weigh = fixed(["charbonnier", "gradient"], ["low"], numbers=(1.0, 0.5))
        >>> weigh({"low": {"charbonnier": torch.tensor(2.0), "gradient": torch.tensor(4.0)}}).item()
        4.0
    """
    missing = [name for name in names if name not in SPECTROFORMER_NUMBERS]
    if numbers is None and missing:
        fix = "has no default number: give numbers, one for each loss"
        raise BadInput("weighting: fixed.numbers", missing[0], fix)
    numbers = tuple(SPECTROFORMER_NUMBERS[name] for name in names) if numbers is None else numbers
    parts = (1.0,) * len(branches) if parts is None else parts
    return FixedWeighting(names, branches, numbers, parts)


def _shares(logits: Tensor, present: Bool[Tensor, "*b k"], floor: float) -> Float[Tensor, "*b k"]:
    """Shares of the present terms, along the last axis; zero elsewhere."""
    soft = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(-1)
    return present * (floor + (1 - floor * present.sum(-1, keepdim=True)) * soft)


def _refuse_other_terms(module: Weighting, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a state of other losses, or of these in another order: its weights would be misassigned."""
    orders = (state.get(f"{prefix}order", module.order), module.order)
    saved, own = (bytes(order.tolist()).decode() for order in orders)
    if saved != own:
        raise BadInput("weighting", f"of {saved}", f"cannot be continued with {own}: list the same losses")
