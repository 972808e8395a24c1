"""How the losses of restored images become one number.

Terms come by branch and name, ``{"low": {"charbonnier": ..., "similarity": ...}, "high": {...}}``; those
that are absent from a batch (an output that a network lacks, a loss that is off) take no part in it.

`uncertainty` gives each term of each branch the weight one over its own size, whatever its unit. `softmax` is
the first design as it was described: weights that are learned, of the terms within a branch and of the
branches. They can only collapse: with ``w = softmax(a)`` and ``L = sum w l``, ``dL/da = w (l - L)``, so every
loss that is smaller than the mean gains until the smallest has all. A floor keeps something for the others.
`softmax_frozen` is the first design as it was programmed: the same weights, random and never learned. `fixed`
takes the user's numbers.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from phaseloom.embedding.losses import alone
from phaseloom.errors import BadInput, nearest
from phaseloom.learning.layers import full

__all__ = [
    "Fixed",
    "Softmax",
    "Uncertainty",
    "Weighting",
    "fixed",
    "softmax",
    "softmax_frozen",
    "uncertainty",
]

log = logging.getLogger(__name__)

Terms = Mapping[str, Mapping[str, Tensor]]
"""Losses by branch and name."""

BOUND = 8.0
"""Largest logarithm of a size that `Uncertainty` reckons with: sizes from 1/3000 to 3000."""

LONE = 0.9
"""Weight of one term above which the others are all but lost."""


class Weighting(nn.Module):
    """Losses of branches to one number: ``sum_b v_b sum_i w_bi l_bi``.

    Its parameters, if it has any, belong into the optimiser; see `groups`. Its state tells the names of its
    terms, and is not taken by a weighting of others.

    Args:
        names: of the losses that there may be.
        branches: that there may be.

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
        self.names, self.branches = tuple(names), tuple(branches)
        present = torch.ones(len(branches), len(names), dtype=torch.bool)
        self.register_buffer("present", present, persistent=False)
        text = f"{', '.join(names)} in {', '.join(branches)}"
        self.register_buffer("order", torch.tensor(list(text.encode()), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_refuse_others)

    def forward(self, terms: Terms) -> Float[Tensor, ""]:
        """Weigh the losses of a batch.

        Raises:
            BadInput: a branch or loss that it was not told of, or no losses.
        """
        losses = self._placed(terms)
        with alone(losses):
            return self.total(losses)

    def total(self, losses: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """One number of losses, zero where there are none."""
        return (self.of_branches()[:, None] * self.of_terms() * losses).sum()

    @torch.no_grad()
    def begin(self, terms: Terms, /) -> None:
        """Take from losses what the weights begin with, before any of them is learned from.

        Errors as of calling it.
        """
        self._placed(terms)

    def of_terms(self) -> Float[Tensor, "b k"]:
        """Weights of the terms within each branch; zero for what the last batch did not have."""
        raise NotImplementedError

    def of_branches(self) -> Float[Tensor, " b"]:
        """Weights of the branches."""
        return self.present.any(1).float()

    @property
    def weights(self) -> dict[str, float]:
        """For a log: ``low``, weight of a branch, and ``low.charbonnier``, that of a loss within it."""
        with torch.no_grad():
            rows, shares = self.of_terms().tolist(), self.of_branches().tolist()
        found = {}
        for branch, share, row, there in zip(self.branches, shares, rows, self.present.tolist(), strict=True):
            inner = {f"{branch}.{n}": w for n, w, t in zip(self.names, row, there, strict=True) if t}
            found |= {branch: share, **inner} if inner else {}
        return found

    def groups(self, rate: float, /) -> list[dict[str, Any]]:
        """The group of its parameters for an optimiser, without decay; none where nothing is learned.

        Args:
            rate: of learning: weights need a larger one than a network.
        """
        moving = [value for value in self.parameters() if value.requires_grad]
        return [{"params": moving, "lr": rate, "weight_decay": 0.0}] if moving else []

    def _placed(self, terms: Terms) -> Float[Tensor, "b k"]:
        """Losses in their places, and a note of which places are filled."""
        given = {branch: row for branch, row in terms.items() if row}
        _known("branch", given, self.branches)
        for row in given.values():
            _known("loss", row, self.names)
        if not given:
            raise BadInput("weighting", None, "has no losses to weigh: list at least one that is on")
        nothing = full(next(iter(next(iter(given.values())).values()))).new_zeros(())
        rows = [[given.get(branch, {}).get(name) for name in self.names] for branch in self.branches]
        there = [[value is not None for value in row] for row in rows]
        self.present = torch.tensor(there, device=nothing.device)
        return torch.stack(
            [torch.stack([nothing if one is None else full(one) for one in row]) for row in rows]
        )


class Uncertainty(Weighting):
    """``sum exp(-s) l + s`` with an ``s`` for each loss of each branch, least at ``exp(-s) = 1 / l``.

    So it makes the sum of the losses' logarithms small: a change of unit changes nothing, and neither does a
    ``weight`` of a loss. Every ``s`` begins as the logarithm of the first loss that comes with a gradient,
    and stays within +-8. The number itself may be negative, and is of no use to compare trainings by. A first
    batch unlike all others costs time: Adam at a rate of 0.01 takes 400 steps back from a loss 100 times as
    large.

    Source: Kendall, Gal & Cipolla 2018, arXiv 1705.07115.
    """

    begun: Tensor

    def __init__(self, names: Sequence[str], branches: Sequence[str], /):
        super().__init__(names, branches)
        self.sizes = nn.Parameter(torch.zeros(len(branches), len(names)))
        self.register_buffer("begun", torch.zeros(len(branches), len(names), dtype=torch.bool))

    def total(self, losses: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """One number, after a look at losses that come for the first time.

        Raises:
            BadInput: a first loss below zero.
        """
        if torch.is_grad_enabled():
            self._begin(losses.detach())
        return super().total(losses) + (self.sizes * self.present).sum()

    def begin(self, terms: Terms, /) -> None:
        """Take the size of each loss."""
        self._begin(self._placed(terms))

    def of_terms(self) -> Float[Tensor, "b k"]:
        """One over the size of each loss, as far as it is known."""
        return torch.exp(-self.sizes) * self.present

    @torch.no_grad()
    def _begin(self, losses: Tensor) -> None:
        """Sizes of new losses, and all back within their bounds: in the formula a clamp would hold them."""
        new = self.present & ~self.begun & losses.isfinite()
        if (losses[new] < 0).any():
            fix = "is no loss that begins below zero: 'uncertainty' needs positive ones, 'fixed' takes any"
            raise BadInput("weighting", float(losses[new].min()), fix)
        first = losses.clamp_min(math.exp(-BOUND)).log().to(self.sizes.dtype)
        self.sizes.copy_(torch.where(new, first, self.sizes).clamp(-BOUND, BOUND))
        self.begun |= new


class Softmax(Weighting):
    """Shares of one: ``floor + (1 - K floor) softmax(a)`` of the ``K`` terms present, and of the branches.

    All branches share the ``a`` of the terms, which begin as random numbers from zero to one.

    Args:
        names: of the losses that there may be.
        branches: that there may be.
        floor: share that each keeps.
        seed: of the first ``a``.

    Raises:
        BadInput: a floor that leaves nothing to share.
    """

    def __init__(self, names: Sequence[str], branches: Sequence[str], /, *, floor: float, seed: int):
        super().__init__(names, branches)
        most = max(len(names), len(branches))
        if not 0 <= floor * most < 1:
            fix = f"leaves nothing for {most} terms to share: give a number from zero to below {1 / most:.2g}"
            raise BadInput("weighting: softmax.floor", floor, fix)
        generator = torch.Generator().manual_seed(seed)
        self.terms = nn.Parameter(torch.rand(len(names), generator=generator))
        self.parts = nn.Parameter(torch.rand(len(branches), generator=generator))
        self.floor, self.told = floor, False

    def total(self, losses: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """One number; where one loss has nearly all the weight, a message says so, once."""
        if self.terms.requires_grad and torch.is_grad_enabled() and not self.told:
            self._look()
        return super().total(losses)

    def of_terms(self) -> Float[Tensor, "b k"]:
        """Shares of the terms."""
        return _shares(self.terms.expand(len(self.branches), -1), self.present, self.floor)

    def of_branches(self) -> Float[Tensor, " b"]:
        """Shares of the branches."""
        return _shares(self.parts, self.present.any(1), self.floor)

    def _look(self) -> None:
        several = self.present.sum(1, keepdim=True) > 1, self.present.any(1).sum() > 1
        with torch.no_grad():
            shares = torch.cat([several[1] * self.of_branches()[:, None], several[0] * self.of_terms()], 1)
        if (lone := (shares > LONE).nonzero()).numel():
            row, column = lone[0].tolist()
            place = ".".join([self.branches[row], *self.names[column - 1 : column]])
            text = "weighting: softmax: %s has %.2f of the weight: the others are all but lost; take %s"
            log.warning(text, place, float(shares[row, column]), "'uncertainty', or a floor")
            self.told = True


class Fixed(Weighting):
    """The user's numbers.

    Args:
        names: of the losses that there may be.
        branches: that there may be.
        numbers: weights of the losses, in their order.
        parts: weights of the branches, in theirs.

    Raises:
        BadInput: more or fewer numbers than losses or branches, or one that is no weight.
    """

    numbers: Tensor
    parts: Tensor

    def __init__(
        self,
        names: Sequence[str],
        branches: Sequence[str],
        /,
        *,
        numbers: Sequence[float],
        parts: Sequence[float],
    ):
        super().__init__(names, branches)
        for knob, kind, values in (("numbers", names, numbers), ("parts", branches, parts)):
            place = f"weighting: fixed.{knob}"
            if len(values) != len(kind):
                raise BadInput(place, list(values), f"must be one number for each of {', '.join(kind)}")
            if not all(0 <= value < float("inf") for value in values) or not any(values):
                raise BadInput(place, list(values), "must be finite numbers from zero up, not all zero")
            self.register_buffer(knob, torch.tensor(values, dtype=torch.float32))

    def of_terms(self) -> Float[Tensor, "b k"]:
        """The numbers."""
        return self.numbers * self.present

    def of_branches(self) -> Float[Tensor, " b"]:
        """The numbers of the branches."""
        return self.parts * self.present.any(1)


USUAL = {"charbonnier": 0.03, "perceptual": 0.025, "gradient": 0.02, "similarity": 0.01}
"""Spectroformer's numbers."""
USUAL["perceptual_random"] = USUAL["perceptual"]


def uncertainty(names: Sequence[str], branches: Sequence[str], /) -> Weighting:
    """Each loss over its own size; see `Uncertainty`.

    Args:
        names: of the losses.
        branches: of the network.

    Example:
        >>> weigh = uncertainty(["charbonnier", "similarity"], ["low"])
        >>> terms = {"charbonnier": torch.tensor(0.25), "similarity": torch.tensor(0.5, requires_grad=True)}
        >>> round(weigh({"low": terms}).item(), 4)  # 1 + 1 + log 0.25 + log 0.5
        -0.0794
        >>> {name: round(weight, 3) for name, weight in weigh.weights.items()}
        {'low': 1.0, 'low.charbonnier': 4.0, 'low.similarity': 2.0}
    """
    return Uncertainty(names, branches)


def softmax(
    names: Sequence[str], branches: Sequence[str], /, *, floor: float = 0.05, seed: int = 0
) -> Weighting:
    """Shares that are learned, as the first design is described; see `Softmax`.

    Args:
        names: of the losses.
        branches: of the network.
        floor: share that each keeps; at zero, the first design: weights collapse onto the smallest loss.
        seed: of the first shares.
    """
    return Softmax(names, branches, floor=floor, seed=seed)


def softmax_frozen(names: Sequence[str], branches: Sequence[str], /, *, seed: int = 0) -> Weighting:
    """Random shares that stay, as the first design was programmed: its optimiser never had them.

    Args:
        names: of the losses.
        branches: of the network.
        seed: of the shares.

    Example:
        >>> weigh = softmax_frozen(["charbonnier", "gradient"], ["low", "high"], seed=3)
        >>> weigh.groups(1e-3), round(weigh.weights["low"] + weigh.weights["high"], 6)
        ([], 1.0)
    """
    return Softmax(names, branches, floor=0.0, seed=seed).requires_grad_(False)


def fixed(
    names: Sequence[str],
    branches: Sequence[str],
    /,
    *,
    numbers: tuple[float, ...] | None = None,
    parts: tuple[float, ...] | None = None,
) -> Weighting:
    """Numbers of the user's, which are not scaled to any sum.

    Args:
        names: of the losses.
        branches: of the network.
        numbers: one for each loss, in the order in which the training file lists them; the default is
            Spectroformer's: 0.03 for `charbonnier`, 0.025 `perceptual`, 0.02 `gradient`, 0.01 `similarity`.
        parts: one for each branch; default: one.

    Example:
        >>> weigh = fixed(["charbonnier", "gradient"], ["low"], numbers=(1.0, 0.5))
        >>> weigh({"low": {"charbonnier": torch.tensor(2.0), "gradient": torch.tensor(4.0)}}).item()
        4.0
    """
    if numbers is None:
        missing = [name for name in names if name not in USUAL]
        if missing:
            fix = "has no usual number: give numbers, one for each loss"
            raise BadInput("weighting: fixed.numbers", missing[0], fix)
        numbers = tuple(USUAL[name] for name in names)
    return Fixed(names, branches, numbers=numbers, parts=(1.0,) * len(branches) if parts is None else parts)


def _known(kind: str, given: Mapping[str, object], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise BadInput("weighting", f"there is no {kind} '{name}';", nearest(name, known))


def _shares(logits: Tensor, present: Bool[Tensor, "*b k"], floor: float) -> Float[Tensor, "*b k"]:
    """Shares of what is present, along the last axis; zero elsewhere."""
    soft = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(-1)
    return present * (floor + (1 - floor * present.sum(-1, keepdim=True)) * soft)


def _refuse_others(module: Weighting, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """A state of other losses, or of these in another order, would put weights where they do not belong."""
    saved, own = (_text(order) for order in (state.get(f"{prefix}order", module.order), module.order))
    if saved != own:
        raise BadInput("weighting", f"of {saved}", f"cannot be continued with {own}: list the same losses")


def _text(order: Tensor) -> str:
    return bytes(order.tolist()).decode()
