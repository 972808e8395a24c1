"""Losses of an autoencoder: how well patterns are decoded, and what latents should be.

The functions in `__all__` are the choices of a training file: ``(batch, /, *, weight, ...) -> scalar``, a
mean over the patterns of a batch; those that the file lists are added up.

`ContrastiveLoss` and `DivergenceLoss` follow the first design to the letter, for comparison. With its default
weights the penalty on similarity has no effect (no cosine exceeds its margin of one), and one over a variance
dominates the loss as soon as one latent is dead. `variance_hinge`, `decorrelation` and `cosine` have the same
aim without these faults. Everything is computed in single precision, also under autocast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.learning.layers import disable_autocast, to_full_precision

__all__ = ["ContrastiveLoss", "DecodedBatch", "DivergenceLoss", "decorrelated", "deviance", "hinged"]
__all__ += ["regularised", "squares"]

# Losses that compare the patterns of a batch with one another: they are not means over its patterns.
BATCH_LOSSES = frozenset({"decorrelated", "hinged", "regularised"})


@dataclass(frozen=True)
class DecodedBatch:
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


def squares(batch: DecodedBatch, /, *, weight: float = 1.0) -> Tensor:
    """Mean square error of trusted pixels, in the numbers that the network takes.

    Args:
        batch: see `DecodedBatch`.
        weight: of the loss.

    Example:
        >>> one = torch.zeros(2, 1, 4, 4)
        >>> seen = DecodedBatch(one, one + 3, torch.zeros(2, 2), one, torch.relu, torch.ones(4, 4) > 0)
        >>> squares(seen).item()
        9.0
    """
    return weight * _compute_trusted_mean((batch.again - batch.patterns).square(), batch.good)


def deviance(batch: DecodedBatch, /, *, weight: float = 1.0) -> Tensor:
    """Poisson deviance of the counts in a trusted pixel; near one, or below where few are counted, at best.

    Args:
        batch: see `DecodedBatch`.
        weight: of the loss.
    """
    rate = batch.expected(batch.again)
    good = batch.good.expand_as(batch.counts)
    return weight * poisson_deviance(rate[good], batch.counts[good])


def regularised(
    batch: DecodedBatch, /, *, activity: float = 1e-4, similarity: float = 5e-5, divergence: float = 2e-4
) -> Tensor:
    """The three terms that the first design adds to its mean square error, with its weights.

    The second is always zero, and the third dominates the loss where a latent is dead
    (docs: what fails there).

    Args:
        batch: see `DecodedBatch`.
        activity: weight of the mean absolute latent.
        similarity: weight of cosines above one.
        divergence: weight of the mean inverse variance.
    """
    terms = compute_seed_loss(batch.patterns, batch.again, batch.latents)
    return activity * terms["act"] + similarity * terms["sim"] + divergence * terms["div"]


def hinged(batch: DecodedBatch, /, *, weight: float = 0.01, gamma: float = 1.0) -> Tensor:
    """Keep every latent's spread over a batch above ``gamma``; see `variance_hinge`.

    Args:
        batch: see `DecodedBatch`.
        weight: of the loss.
        gamma: standard deviation that is enough.
    """
    return weight * variance_hinge(batch.latents, gamma=gamma)


def decorrelated(batch: DecodedBatch, /, *, weight: float = 0.01) -> Tensor:
    """Keep latents from saying the same; see `decorrelation`.

    Args:
        batch: see `DecodedBatch`.
        weight: of the loss.
    """
    return weight * decorrelation(batch.latents)


def _compute_trusted_mean(
    values: Float[Tensor, "b 1 y x"], good: Bool[Tensor, "*b y x"]
) -> Float[Tensor, ""]:
    """Over trusted pixels."""
    return (values * good).sum() / good.expand_as(values).sum().clamp(min=1)


VARIANCE_EPSILON = 1e-8  # added to a variance before it is divided by
DEAD_LATENT_VARIANCE = 1e-8  # variance of a latent below which it says nothing
MIN_GRADIENT_VARIANCE = 1e-4  # variance below which the gradient of its inverse does not grow further


class ContrastiveLoss(nn.Module):
    """Mean over pairs of patterns of how far the cosine between their latents is above a margin.

    Args:
        margin: cosine that costs nothing; at the first design's one, no pair ever costs anything.

    Example:
        >>> same = torch.ones(3, 4)
        >>> ContrastiveLoss(margin=0.5)(same).item(), ContrastiveLoss()(same[:1]).item()
        (0.5, 0.0)
    """

    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """Compare; nothing for fewer than two patterns."""
        with disable_autocast(embeddings):
            if len(embeddings) < 2:
                return _make_zero_loss(embeddings)
            return functional.relu(_compute_cosines(to_full_precision(embeddings)) - self.margin).mean()


class DivergenceLoss(nn.Module):
    """Mean over latents of one over their variance within the batch.

    The value is the first design's. Its gradient is too, but for variances below 1e-4: there it stays as
    steep as it is at 1e-4, where it would reach 1e11 and end a training in half precision.

    Example:
        >>> DivergenceLoss()(torch.tensor([[0.0, 0.0], [2.0, 1.0]])).item()
        1.25
    """

    def forward(self, embeddings: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """Invert variances; nothing for fewer than two patterns."""
        with disable_autocast(embeddings):
            if len(embeddings) < 2:
                return _make_zero_loss(embeddings)
            variance = to_full_precision(embeddings).var(0)
            slope = (variance.detach().clamp_min(MIN_GRADIENT_VARIANCE) + VARIANCE_EPSILON) ** -2
            fall = -slope * variance
            return (1 / (variance.detach() + VARIANCE_EPSILON) + fall - fall.detach()).mean()


def compute_misfits(
    rate: Float[Tensor, "n *pixel"], counts: Float[Tensor, "n *pixel"], good: Tensor, /
) -> Float[Tensor, " n"]:
    """Deviance of each pattern over what shot noise alone leaves: 1 where nothing else is left.

    Args:
        rate: expected counts.
        counts: measured.
        good: mask of the pixels that count, as broadcasts with them.

    Example:
        >>> rate = torch.full((2, 40, 40), 3.0)
        >>> counts = torch.poisson(rate, generator=torch.Generator().manual_seed(0))
        >>> compute_misfits(rate, counts, torch.ones(40, 40)).round(decimals=1).tolist()
        [1.0, 1.0]
    """
    pixels = tuple(range(1, rate.ndim))
    noise = (compute_noise_deviance(rate) * good).sum(pixels)
    return (compute_deviances(rate, counts) * good).sum(pixels) / noise.clamp_min(1e-12)


def compute_seed_loss(
    x: Tensor,
    x_hat: Tensor,
    z: Tensor,
    /,
    *,
    lambda_act: float = 1e-4,
    lambda_sim: float = 5e-5,
    lambda_div: float = 2e-4,
) -> dict[str, Tensor]:
    """The loss of the first design and its parts: ``total = mse + lambda_act act + ...``, parts unweighted.

    Args:
        x: patterns as the network was given them.
        x_hat: as it drew them.
        z: ``(b, k)`` their latents.
        lambda_act: weight of the mean magnitude of latents.
        lambda_sim: weight of `ContrastiveLoss`.
        lambda_div: weight of `DivergenceLoss`.

    Raises:
        BadInput: patterns and drawings of different shapes, or of other patterns than the latents.

    Example:
        >>> patterns = torch.zeros(2, 1, 4, 4)
        >>> parts = compute_seed_loss(patterns, patterns + 1, torch.eye(2), lambda_div=0.5)
        >>> {name: round(value.item(), 4) for name, value in parts.items()}
        {'total': 2.0001, 'mse': 1.0, 'act': 0.5, 'sim': 0.0, 'div': 2.0}
    """
    if x.shape != x_hat.shape:
        raise BadInput("loss: x_hat", tuple(x_hat.shape), f"must have the shape of x, {tuple(x.shape)}")
    if z.ndim != 2 or len(z) != len(x):
        raise BadInput("loss: z", tuple(z.shape), f"must be the latents of these {len(x)} patterns, (b, k)")
    with disable_autocast(z):
        mse = (to_full_precision(x_hat) - to_full_precision(x)).square().mean()
        act = to_full_precision(z).abs().mean()
        sim = ContrastiveLoss()(z)
        div = DivergenceLoss()(z)
        total = mse + lambda_act * act + lambda_sim * sim + lambda_div * div
    return {"total": total, "mse": mse, "act": act, "sim": sim, "div": div}


def variance_hinge(embeddings: Float[Tensor, "b k"], /, *, gamma: float = 1.0) -> Float[Tensor, ""]:
    """Mean over latents of what their standard deviation lacks to ``gamma``: at most ``gamma`` itself.

    Args:
        embeddings: of a batch; fewer than two cost nothing.
        gamma: standard deviation that is enough.

    Source: the variance term of VICReg, Bardes et al. 2022, arXiv 2105.04906.

    Example:
        >>> variance_hinge(torch.zeros(5, 3)).item().__round__(3)
        0.99
    """
    with disable_autocast(embeddings):
        if len(embeddings) < 2:
            return _make_zero_loss(embeddings)
        return functional.relu(gamma - (to_full_precision(embeddings).var(0) + 1e-4).sqrt()).mean()


def decorrelation(embeddings: Float[Tensor, "b k"], /) -> Float[Tensor, ""]:
    """Sum of squared covariances between different latents, over their number: no two say the same.

    Source: the covariance term of VICReg, Bardes et al. 2022, arXiv 2105.04906.

    Example:
        >>> decorrelation(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])).item()
        4.0
    """
    with disable_autocast(embeddings):
        if len(embeddings) < 2:
            return _make_zero_loss(embeddings)
        centred = to_full_precision(embeddings) - to_full_precision(embeddings).mean(0)
        covariance = centred.T @ centred / (len(centred) - 1)
        return (covariance.square().sum() - covariance.diagonal().square().sum()) / len(covariance)


def cosine(embeddings: Float[Tensor, "b k"], /) -> Float[Tensor, ""]:
    """Mean square of the cosine between latents of different patterns: zero where they are orthogonal.

    Example:
        >>> cosine(torch.eye(3)).item(), round(cosine(-torch.ones(2, 3)).item(), 4)
        (0.0, 1.0)
    """
    with disable_autocast(embeddings):
        if len(embeddings) < 2:
            return _make_zero_loss(embeddings)
        return _compute_cosines(to_full_precision(embeddings)).square().mean()


def poisson_deviance(rate: Float[Tensor, "*n"], counts: Float[Tensor, "*n"], /) -> Float[Tensor, ""]:
    """Twice the mean of how much likelier counts are at their own rate: about one where rates are right.

    Args:
        rate: expected counts, clamped to at least 1e-6.
        counts: measured.

    Source: McCullagh & Nelder 1989, doi 10.1007/978-1-4899-3242-6, section 2.3.

    Example:
        >>> poisson_deviance(torch.full((3,), 4.0), torch.full((3,), 4.0)).item()
        0.0
    """
    return compute_deviances(rate, counts).mean()


def compute_deviances(rate: Float[Tensor, "*n"], counts: Float[Tensor, "*n"], /) -> Float[Tensor, "*n"]:
    """What each pixel adds to `poisson_deviance`; arguments as there.

    Example:
        >>> compute_deviances(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])).tolist()
        [2.0, 0.0]
    """
    with disable_autocast(rate):
        wanted = to_full_precision(counts)
        found = to_full_precision(rate).clamp_min(1e-6)
        share = torch.where(wanted > 0, wanted / found, torch.ones_like(found))
        return 2 * (wanted * share.log() - (wanted - found))


def compute_noise_deviance(rate: Float[Tensor, "*n"], /) -> Float[Tensor, "*n"]:
    """The mean of `compute_deviances` where counts are Poisson of this rate: what shot noise alone leaves.

    It is one for many counts, 1.09 at three, and falls to nothing where hardly anything is counted, so a
    deviance says how right a rate is only over this.

    Example:
        >>> rates = torch.tensor([0.01, 0.3, 3.0, 100.0])
        >>> [round(value, 2) for value in compute_noise_deviance(rates).tolist()]
        [0.09, 0.84, 1.09, 1.0]
    """
    grid, mean = _tabulate_noise_deviance()
    place = (to_full_precision(rate).clamp(1e-6, 1e3).log10() + 6) * ((len(grid) - 1) / 9)
    low = place.floor().long().clamp(0, len(grid) - 2)
    table = torch.from_numpy(mean).to(place)
    return torch.lerp(table[low], table[low + 1], place - low)


@lru_cache(maxsize=1)
def _tabulate_noise_deviance() -> tuple[np.ndarray, np.ndarray]:
    """Rates from 1e-6 to 1e3, evenly spread on a log scale, and the mean deviance of their counts."""
    from scipy.stats import poisson

    rates = np.logspace(-6, 3, 1801)
    counts = np.arange(1400.0)
    mean = []
    for rate in rates:
        share = np.where(counts > 0, counts, 1.0) / rate
        each = 2 * (counts * np.where(counts > 0, np.log(share), 0.0) - (counts - rate))
        mean.append(float((poisson.pmf(counts, rate) * each).sum()))
    return rates, np.array(mean)


def count_dead_latents(embeddings: Float[Tensor, "b k"], /) -> int:
    """Latents that are the same for all patterns of a batch.

    Example:
        >>> count_dead_latents(torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 2.0]]))
        2
    """
    return int((to_full_precision(embeddings.detach()).var(0, correction=0) < DEAD_LATENT_VARIANCE).sum())


def _make_zero_loss(embeddings: Tensor) -> Tensor:
    """Zero that gradients go through."""
    return to_full_precision(embeddings).sum() * 0


def _compute_cosines(embeddings: Float[Tensor, "b k"]) -> Float[Tensor, " pairs"]:
    """Cosines between the latents of each pair of patterns, each pair once."""
    unit = functional.normalize(embeddings, dim=1, eps=1e-6)
    row, column = torch.triu_indices(len(unit), len(unit), 1, device=unit.device)
    return (unit @ unit.T)[row, column]
