"""How counts scatter about what is expected: each model is a divergence per pixel, zero at equality.

A divergence is turned into a loss by dividing its sum by the sum that pure shot noise would leave
(`shot_noise`), so that 1 means "as good as the counts allow" for every model and every dose.
A new noise model is one function here and its name in ``__all__``. Its slope is left to autograd, unless it
stands in `with_slope`.
"""

import inspect
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.adjoint import (
    AmplitudeDivergence,
    DivergenceWithSlope,
    differentiate_divergence,
)
from phaseloom.physics.engine.misfit import PixelNoise

__all__ = ["amplitude", "gaussian", "none", "poisson"]

Divergence = Callable[[Tensor, Tensor], Tensor]

MAX_LOG_RATIO = 60.0
"""Logarithm of counts over the model, in single precision, beyond which no count is."""


def amplitude(
    model: Float[Tensor, "*pattern"], counts: Float[Tensor, "*pattern"], /, *, floor: float = 1e-2
) -> Float[Tensor, "*pattern"]:
    """``(sqrt(model + floor) - sqrt(counts + floor))^2``: variance-stabilised Gaussian.

    Args:
        model: expected counts.
        counts: measured counts.
        floor: counts added under both roots, which keeps the gradient finite in the dark.

    Source:
        Godard et al. 2012, doi 10.1364/OE.20.025914.

    Example:
        >>> amplitude(torch.tensor([4.0]), torch.tensor([9.0]), floor=0.0).item()
        1.0
    """
    _check_knob("amplitude.floor", floor, least=0.0)
    return ((model + floor).sqrt() - (counts + floor).sqrt()).square()


def gaussian(
    model: Float[Tensor, "*pattern"], counts: Float[Tensor, "*pattern"], /, *, power: float = 1.0
) -> Float[Tensor, "*pattern"]:
    """``(model^p - counts^p)^2``; ``p = 1`` compares intensities, ``p = 0.5`` amplitudes.

    Args:
        model: expected counts.
        counts: measured counts.
        power: the exponent p.
    """
    tiny = 1e-6
    _check_knob("gaussian.power", power, least=1e-3)
    return ((model + tiny).pow(power) - (counts + tiny).pow(power)).square()


def none(model: Float[Tensor, "*pattern"], counts: Float[Tensor, "*pattern"], /) -> Float[Tensor, "*pattern"]:
    """Zero whatever is measured: penalties that take counts, such as `relative_gaussian`, judge instead.

    Args:
        model: expected counts.
        counts: measured counts.

    Example:
        >>> none(torch.tensor([4.0]), torch.tensor([9.0])).item()
        0.0
    """
    return 0 * model


def poisson(
    model: Float[Tensor, "*pattern"],
    counts: Float[Tensor, "*pattern"],
    /,
    *,
    floor: float = 0.01,
    limit: float = 20.0,
) -> Float[Tensor, "*pattern"]:
    """Negative log-likelihood of Poisson counts less that of a perfect model: half the deviance.

    The floor is added to both, so that the model that agrees with the counts on average stays the best one.
    Where the model is darker than the counts by more than ``limit`` standard deviations, which no noise does,
    the deviance goes on as the square of a difference of amplitudes, with the same value and slope there:
    its own slope ``1 - counts / model`` grows without bound towards a dark model, and throws the first steps
    from a start that is far from the object.

    Args:
        model: expected counts.
        counts: measured counts.
        floor: counts added to model and counts, which keeps the slope finite where the model is dark.
        limit: standard deviations; ``inf``: the deviance everywhere.

    Source:
        Thibault & Guizar-Sicairos 2012, doi 10.1088/1367-2630/14/6/063004.

    Example:
        >>> poisson(torch.tensor([1.0]), torch.tensor([900.0])).item() < 3300
        True
        >>> round(poisson(torch.tensor([1.0]), torch.tensor([900.0]), limit=math.inf).item())
        5214
    """
    _check_knob("poisson.floor", floor, least=0.0)
    _check_limit(limit)
    rate = (model + floor).clamp(min=1e-30)
    counts = counts + floor
    each = rate - counts + torch.xlogy(counts, counts.clamp(min=1e-30) / rate)
    if math.isinf(limit):
        return each
    is_rare = floor * math.exp(MAX_LOG_RATIO) > limit**2 / 2  # what lies beyond then has a high deviance
    if each.requires_grad or not is_rare:
        return _limit_by_amplitude(rate, counts, each, limit)
    some = _find_pixels_to_limit(each, limit)
    if some is not None:
        each[some] = _limit_by_amplitude(rate[some], counts[some], each[some], limit)
    return each


def _limit_by_amplitude(rate: Tensor, counts: Tensor, each: Tensor, limit: float) -> Tensor:
    """The deviance ``each``, or its continuation where the model is too dark."""
    edge = _log_ratio_at_limit(counts, limit)
    far = counts > rate * edge.exp()
    beyond = rate - 2 * (edge / 2).exp() * rate.sqrt() * counts.sqrt() + counts * (1 + edge)
    return torch.where(far, beyond, each)


def _log_ratio_at_limit(counts: Tensor, limit: float) -> Tensor:
    """Logarithm of counts over the model at which these differ by so many standard deviations.

    It is at least the ``L`` of ``counts (L - 1 + exp(-L)) = limit^2 / 2``, and near it for many counts.
    """
    excess = (limit**2 / 2) / counts.clamp(min=1e-30)
    return (excess + (2 * excess).sqrt()).clamp(max=MAX_LOG_RATIO)


def with_slope(divergence: Divergence, /) -> DivergenceWithSlope:
    """Sum and slope of a divergence at once: by formula for those of this file, else by autograd."""
    function = divergence
    knobs: dict[str, float] = {}
    if isinstance(divergence, partial) and not divergence.args:
        function = divergence.func
        knobs = divergence.keywords
    if function is amplitude:
        return AmplitudeDivergence(**knobs)
    if function is gaussian:
        return partial(_gaussian_with_slope, **knobs)
    if function is poisson:
        return partial(_poisson_with_slope, **knobs)
    return differentiate_divergence(divergence)


def _gaussian_with_slope(
    model: Tensor, counts: Tensor, mask: Tensor | None, /, *, power: float = 1.0
) -> tuple[Tensor, Tensor]:
    tiny = 1e-6
    gap = (model + tiny).pow(power) - (counts + tiny).pow(power)
    gap = gap if mask is None else gap.mul_(mask)
    return _square_sum(gap), 2 * power * gap * (model + tiny).pow(power - 1)


def _poisson_with_slope(
    model: Tensor, counts: Tensor, mask: Tensor | None, /, *, floor: float = 0.01, limit: float = 20.0
) -> tuple[Tensor, Tensor]:
    rate = (model + floor).clamp_(min=1e-30)
    counts = counts + floor
    ratio = counts / rate
    log_ratio = ratio.log() if floor else ratio.clamp(min=1e-30).log_()
    each = (log_ratio * counts).add_(rate).sub_(counts)
    slope = ratio.neg_().add_(1)
    some = None if math.isinf(limit) else _find_pixels_to_limit(each, limit)
    if some is not None:
        few = tuple(one[some] for one in (counts, rate, log_ratio))
        far, value, limited = _continue_as_amplitude(*few, limit=limit)
        each[some] = torch.where(far, value, each[some])
        slope[some] = torch.where(far, limited, slope[some])
    if not floor:
        slope = torch.where(model < 1e-30, 0.0, slope)
    return (each.sum(), slope) if mask is None else (each.mul_(mask).sum(), slope.mul_(mask))


def _find_pixels_to_limit(divergence: Tensor, limit: float) -> Any:
    """An index of pixels that may lie beyond a limit, if any; of all on a GPU, which would have to wait."""
    if divergence.device.type != "cpu":
        return ...
    some = divergence > limit**2 / 2
    return some if bool(some.any()) else None


def _continue_as_amplitude(
    counts: Tensor, rate: Tensor, log_ratio: Tensor, *, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels lie beyond the limit of `poisson`, and divergence and slope there."""
    edge = _log_ratio_at_limit(counts, limit)
    root = edge.add(log_ratio).mul_(0.5).exp_()
    return log_ratio > edge, rate * (1 - 2 * root) + counts * (1 + edge), 1 - root


def _square_sum(gap: Tensor) -> Tensor:
    return gap.square().sum()


def shot_noise(divergence: Divergence, counts: Float[Tensor, "n y x"], mask: Bool[Tensor, "y x"], /) -> float:
    """What shot noise alone is expected to leave of a divergence, per pattern, from the counts alone.

    Pixels that see a fifth of a count or more on average use ``u(n)``, a function of each count whose
    mean over Poisson counts is the mean divergence at the true rate. Darker pixels, where no such
    function exists, use the mean divergence at their rate averaged over the scan. Good to a few per cent, to
    ten or so for Poisson deviance in patterns that are dark and speckled at once.

    Example:
        >>> rate = torch.full((50, 8, 8), 0.3)
        >>> counts = torch.poisson(rate, generator=torch.Generator().manual_seed(0))
        >>> left = poisson(rate, counts).sum() / 50
        >>> 0.9 < left.item() / shot_noise(poisson, counts, torch.ones(8, 8, dtype=torch.bool)) < 1.1
        True
    """
    mean = counts.mean(0, dtype=torch.float64)
    dark = mean < 0.2
    lit = mask & ~dark
    bright = _sum_expected_divergence(divergence, counts[:, lit])
    return bright / len(counts) + float(mean_divergence(divergence, mean[mask & dark]).sum())


def check_divergence(divergence: Divergence, /) -> None:
    """Try a noise model that is not of this package on a few counts.

    Raises:
        BadInput: it does not give a finite number that is not negative for each pixel.

    Example:
        >>> check_divergence(lambda model, counts: (model - counts).square())
        >>> check_divergence(lambda model, counts: (model - counts).square().mean())
        Traceback (most recent call last):
        ...
        phaseloom.errors.BadInput: noise: <lambda> returns () for counts of (2, 3): return one value a pixel
    """
    model = torch.tensor([[0.5, 3.0, 100.0], [2.0, 30.0, 1e-3]], requires_grad=True)
    counts = torch.tensor([[0.0, 3.0, 120.0], [4.0, 20.0, 0.0]])
    name = getattr(getattr(divergence, "func", divergence), "__name__", "noise model")
    with torch.enable_grad():
        found = divergence(model, counts)
    if not isinstance(found, Tensor) or found.shape != counts.shape or found.is_complex():
        kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        fix = f"returns {kind} for counts of {tuple(counts.shape)}: return one value a pixel"
        raise BadInput("noise", name, fix)
    if not found.requires_grad:
        fix = "has no gradient: compute with PyTorch all the way (no detach, no NumPy)"
        raise BadInput("noise", name, fix)
    for wrong, text in ((~found.isfinite(), "is not finite"), (found < -1e-4, "is negative")):
        if wrong.any():
            row, column = (int(one) for one in wrong.nonzero()[0])
            where = f"for {counts[row, column]:g} counts where {model[row, column]:g} are expected"
            fix = f"{text} {where}: a divergence is zero where they agree, and positive elsewhere"
            raise BadInput("noise", name, fix)


def mean_divergence(divergence: Divergence, rate: Float[Tensor, " pixel"], /) -> Float[Tensor, " pixel"]:
    """Expected divergence between a true rate below a few counts and the counts that it gives."""
    n = torch.arange(40, dtype=rate.dtype, device=rate.device)
    true, seen = torch.broadcast_tensors(rate[:, None], n)
    chance = torch.exp(torch.xlogy(seen, true) - true - torch.lgamma(seen + 1))
    return (chance * divergence(true, seen)).sum(1)


def find_floor(divergence: Divergence, /) -> float | None:
    """Counts that `poisson` or `amplitude` adds to model and counts; ``None`` of another noise model.

    Example:
        >>> find_floor(partial(amplitude, floor=0.375)), find_floor(poisson), find_floor(gaussian)
        (0.375, 0.01, None)
    """
    form = find_compiled_form(divergence)
    return None if form is None else float(form.floor)


def find_compiled_form(divergence: Divergence, /) -> PixelNoise | None:
    """What `phaseloom.physics.engine` takes for a noise model; ``None`` of those that it does not know.

    Example:
        >>> find_compiled_form(partial(poisson, limit=5.0))
        PixelNoise(kind='poisson', floor=0.01, limit=5.0)
    """
    function: Any = divergence
    knobs: dict[str, float] = {}
    if isinstance(divergence, partial) and not divergence.args:
        function = divergence.func
        knobs = divergence.keywords
    if function not in (amplitude, poisson):
        return None
    kind = "amplitude" if function is amplitude else "poisson"
    return PixelNoise(kind, **{"limit": math.inf, **_list_knobs(function), **knobs})


@lru_cache(maxsize=32)
def _get_divergence(form: PixelNoise) -> Divergence:
    """The same function for the same numbers: every run has a partial function of its own."""
    if form.kind == "amplitude":
        return partial(amplitude, floor=form.floor)
    return partial(poisson, floor=form.floor, limit=form.limit)


@lru_cache(maxsize=8)
def _list_knobs(function: Divergence) -> dict[str, float]:
    """Keyword arguments of a divergence and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def raise_floor(divergence: Divergence, floor: float, /) -> Divergence | None:
    """`poisson` with more counts added to model and counts; ``None`` of others, or if it adds as many.

    Example:
        >>> find_floor(raise_floor(poisson, 1.0)), raise_floor(amplitude, 1.0)
        (1.0, None)
    """
    form = find_compiled_form(divergence)
    if form is None or form.kind != "poisson" or form.floor >= floor:
        return None
    return _get_divergence(form._replace(floor=floor))


def compare_amplitudes(divergence: Divergence, /) -> Divergence | None:
    """`amplitude` with the floor of a `poisson`; ``None`` of others.

    Example:
        >>> is_amplitude(compare_amplitudes(poisson)), find_floor(compare_amplitudes(poisson))
        (True, 0.01)
    """
    form = find_compiled_form(divergence)
    if form is None or form.kind != "poisson":
        return None
    return _get_divergence(form._replace(kind="amplitude"))


def is_amplitude(divergence: Divergence, /) -> bool:
    """Whether a noise model compares amplitudes."""
    return (divergence.func if isinstance(divergence, partial) else divergence) is amplitude


def _check_knob(name: str, value: float, *, least: float) -> None:
    if not least <= value < float("inf"):
        raise BadInput(f"noise: {name}", value, f"must be a number from {least} up")


def _check_limit(limit: float) -> None:
    if not limit > 0:
        raise BadInput("noise: poisson.limit", limit, "must be a number above zero, or inf")


MAX_TABULATED_COUNT = 1_000_000
"""Largest whole count up to which the pixels that hold a count are numbered, in place of a sum over all."""


def _sum_expected_divergence(divergence: Divergence, counts: Float[Tensor, "n pixel"]) -> float:
    """Sum of ``u(n)`` over pixels; of whole counts each number is computed once."""
    whole = counts.numel() and not counts.is_complex() and bool((counts >= 0).all())
    if whole and float(counts.max()) <= MAX_TABULATED_COUNT:
        numbers = counts.long()
        if bool((numbers == counts).all()):
            hits = torch.bincount(numbers.flatten())
            (seen,) = hits.nonzero(as_tuple=True)
            return float(_expected_divergence(divergence, seen.double()) @ hits[seen].double())
    return sum(float(_expected_divergence(divergence, few.double()).sum()) for few in counts.split(16))


def _expected_divergence(divergence: Divergence, counts: Tensor) -> Tensor:
    """``u(n)``: tabulated for few counts, from the curvature of the divergence for many."""
    form = find_compiled_form(divergence)
    values = _tabulate_expectation(divergence if form is None else _get_divergence(form))
    table = torch.as_tensor(values, dtype=counts.dtype, device=counts.device)
    place = counts.clamp(0, len(table) - 1)
    low = place.floor().long().clamp(max=len(table) - 2)
    few = torch.lerp(table[low], table[low + 1], place - low)
    many = counts.clamp(min=1.0)
    spread = many.sqrt()
    above = (divergence(many, many + spread) + divergence(many, (many - spread).clamp(min=0))) / 2
    return torch.where(counts < len(table) - 1, few, above)


@lru_cache(maxsize=32)
def _tabulate_expectation(divergence: Divergence, size: int = 120, fitted: int = 24) -> np.ndarray:
    """``u(n)`` for few counts: least squares in the relative error over many rates."""
    from scipy.optimize import lsq_linear

    rates = np.geomspace(0.1, 60, 240)
    n = np.arange(size + 200)
    chance = _poisson_law(n[None], rates[:, None])
    grid = torch.as_tensor(np.broadcast_to(rates[:, None], chance.shape).copy())
    seen = torch.as_tensor(np.broadcast_to(n.astype(float)[None], chance.shape).copy())
    wanted = (divergence(grid, seen).numpy() * chance).sum(1)
    exact = (
        _poisson_law(n[None], np.maximum(n[:, None], 1e-9))
        * divergence(
            torch.as_tensor(np.repeat(n[:, None].astype(float), len(n), 1)),
            torch.as_tensor(np.repeat(n[None].astype(float), len(n), 0)),
        ).numpy()
    )
    tail = exact.sum(1)
    left = (
        wanted - chance[:, fitted:size] @ tail[fitted:size] - chance[:, size:] @ np.full(200, tail[size - 1])
    )
    matrix = np.vstack(
        [chance[:, :fitted] / wanted[:, None], 2e-2 / tail[fitted] * np.diff(np.eye(fitted), 2, axis=0)]
    )
    target = np.concatenate([left / wanted, np.zeros(fitted - 2)])
    table = lsq_linear(matrix, target, bounds=(0.0, np.inf)).x
    return np.concatenate([table, tail[fitted:size]])


def _poisson_law(counts: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Probabilities of counts; `scipy.stats` has them too, and takes a quarter of a second to import."""
    from scipy.special import gammaln, xlogy

    return np.exp(xlogy(counts, rate) - rate - gammaln(counts + 1))
