"""How far a pattern that was drawn from latents is from the one that they were made of.

A loss is a function ``(drawn, /, *, weight, ...) -> scalar``, a mean over the patterns of a batch; a training
file lists those that are added.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from phaseloom.embedding import losses as embedding_losses

__all__ = ["COMPARING", "Drawn", "decorrelated", "deviance", "hinged", "regularised", "squares"]


COMPARING = frozenset({"decorrelated", "hinged", "regularised"})
"""Losses that compare the patterns of a batch with one another: they are no means over its patterns."""


@dataclass(frozen=True)
class Drawn:
    """A batch after the network.

    Attributes:
        patterns: ``(b, 1, y, x)`` that the network took.
        again: ``(b, 1, y, x)`` that it drew.
        latents: ``(b, k)``.
        counts: ``(b, 1, y, x)`` that the patterns were made of.
        expected: what makes counts of ``again``.
        good: ``(y, x)`` pixels that count, or of each pattern ``(b, 1, y, x)``, of each as many.
    """

    patterns: Float[Tensor, "b 1 y x"]
    again: Float[Tensor, "b 1 y x"]
    latents: Float[Tensor, "b k"]
    counts: Float[Tensor, "b 1 y x"]
    expected: Callable[[Tensor], Tensor]
    good: Bool[Tensor, "*b y x"]


def squares(drawn: Drawn, /, *, weight: float = 1.0) -> Tensor:
    """Mean square error of trusted pixels, in the numbers that the network takes.

    Args:
        drawn: see `Drawn`.
        weight: of the loss.

    Example:
        >>> one = torch.zeros(2, 1, 4, 4)
        >>> seen = Drawn(one, one + 3, torch.zeros(2, 2), one, torch.relu, torch.ones(4, 4) > 0)
        >>> squares(seen).item()
        9.0
    """
    return weight * _mean((drawn.again - drawn.patterns).square(), drawn.good)


def deviance(drawn: Drawn, /, *, weight: float = 1.0) -> Tensor:
    """Poisson deviance of the counts in a trusted pixel; near one, or below where few are counted, at best.

    Args:
        drawn: see `Drawn`.
        weight: of the loss.
    """
    rate, good = drawn.expected(drawn.again), drawn.good.expand_as(drawn.counts)
    return weight * embedding_losses.poisson_deviance(rate[good], drawn.counts[good])


def regularised(
    drawn: Drawn, /, *, activity: float = 1e-4, similarity: float = 5e-5, divergence: float = 2e-4
) -> Tensor:
    """The three terms that the first design adds to its mean square error, with its weights.

    The second is zero whatever the latents are, and the third takes over the loss where a latent is dead
    (docs: what fails there).

    Args:
        drawn: see `Drawn`.
        activity: weight of the mean absolute latent.
        similarity: weight of cosines above one.
        divergence: weight of the mean inverse variance.
    """
    terms = embedding_losses.regularised(drawn.patterns, drawn.again, drawn.latents)
    return activity * terms["act"] + similarity * terms["sim"] + divergence * terms["div"]


def hinged(drawn: Drawn, /, *, weight: float = 0.01, gamma: float = 1.0) -> Tensor:
    """Keep every latent's spread over a batch above ``gamma``; see `embedding_losses.variance_hinge`.

    Args:
        drawn: see `Drawn`.
        weight: of the loss.
        gamma: standard deviation that is enough.
    """
    return weight * embedding_losses.variance_hinge(drawn.latents, gamma=gamma)


def decorrelated(drawn: Drawn, /, *, weight: float = 0.01) -> Tensor:
    """Keep latents from saying the same; see `embedding_losses.decorrelation`.

    Args:
        drawn: see `Drawn`.
        weight: of the loss.
    """
    return weight * embedding_losses.decorrelation(drawn.latents)


def _mean(values: Float[Tensor, "b 1 y x"], good: Bool[Tensor, "*b y x"]) -> Float[Tensor, ""]:
    """Over trusted pixels."""
    return (values * good).sum() / good.expand_as(values).sum().clamp(min=1)
