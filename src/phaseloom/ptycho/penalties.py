"""Penalties added to the loss of the noise model: each a function of a batch that gives one number.

The names of its positional parameters say what it is given: ``model`` and ``counts``, patterns
``(b, y, x)`` with the zero frequency in the corner; ``amplitude`` and ``phase``, windows
``(b, mode, slice, y, x)`` of the object; ``occupancy``, the share of each object mode. One that takes
``counts`` judges patterns, also those held out. Means run over the batch, so a weight does not
depend on its size.

A new one is one function here and its name in ``__all__``.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.filters import blur as blurred

__all__ = [
    "pacbed",
    "quadratic",
    "relative_gaussian",
    "relative_poisson",
    "similarity",
    "smooth_depth",
    "sparse",
    "tv",
]

MIN_SQUARE = 1e-30
"""Keeps roots differentiable at zero: far below every value that matters, within float32."""


def relative_gaussian(
    model: Float[Tensor, "b y x"],
    counts: Float[Tensor, "b y x"],
    /,
    *,
    weight: float = 1.0,
    power: float = 0.5,
) -> Float[Tensor, ""]:
    """``sqrt(mean((model^p - counts^p)^2)) / mean(counts^p)``: the relative error of a batch.

    The root makes its gradient as large near the end of a fit as at its beginning, and different for
    one large batch and several small ones; `phaseloom.ptycho.noise` has likelihoods.

    Args:
        model: expected counts.
        counts: measured counts.
        weight: factor of the penalty.
        power: the exponent p; one half compares amplitudes.

    Example:
        >>> relative_gaussian(torch.full((1, 2, 2), 9.0), torch.full((1, 2, 2), 4.0)).item()
        0.5
    """
    _check_knobs("relative_gaussian", weight=weight, power=power)
    error = _power_of_model(model, power, counts) - _clip_counts(counts).pow(power)
    return weight * _safe_root(error.square().mean()) / _mean_power(counts, power)


def relative_poisson(
    model: Float[Tensor, "b y x"],
    counts: Float[Tensor, "b y x"],
    /,
    *,
    weight: float = 1.0,
    power: float = 1.0,
    floor: float = 1e-6,
) -> Float[Tensor, ""]:
    """``mean(model - counts^p ln(model + floor)) / mean(counts^p)``: Poisson likelihood per count.

    Its least value is not zero and depends on the unit of the counts; its gradient does
    not, but for ``floor``.

    Args:
        model: expected counts.
        counts: measured counts.
        weight: factor of the penalty.
        power: exponent of the measured counts; only 1 has its least value at the truth.
        floor: counts added to the model inside the logarithm.

    Example:
        >>> relative_poisson(torch.ones(1, 2, 2), torch.full((1, 2, 2), 4.0), floor=0.0).item()
        0.25
    """
    _check_knobs("relative_poisson", weight=weight, power=power)
    if not 0 <= floor < float("inf"):
        raise BadInput("penalties: relative_poisson.floor", floor, "must be a number from zero up")
    logarithm = (model + floor).clamp(min=MIN_SQUARE).log()
    return weight * (model - _clip_counts(counts).pow(power) * logarithm).mean() / _mean_power(counts, power)


def pacbed(
    model: Float[Tensor, "b y x"],
    counts: Float[Tensor, "b y x"],
    /,
    *,
    weight: float = 0.5,
    power: float = 0.2,
) -> Float[Tensor, ""]:
    """Relative error of the batch's mean pattern: position-averaged diffraction, dark parts included.

    ``sqrt(mean((<model>^p - <counts>^p)^2)) / mean(counts^p)`` with the mean ``<>`` over the batch.

    Args:
        model: expected counts.
        counts: measured counts.
        weight: factor of the penalty.
        power: the exponent p; small ones make weak scattering count.

    Source:
        LeBeau et al. 2010, doi 10.1016/j.ultramic.2009.10.001 (the mean pattern as a measure of thickness).

    Example:
        >>> round(pacbed(torch.tensor([[[1.0]], [[7.0]]]), torch.full((2, 1, 1), 4.0)).item(), 6)
        0.0
    """
    _check_knobs("pacbed", weight=weight, power=power)
    error = _power_of_model(model.mean(0), power, counts) - _clip_counts(counts.mean(0)).pow(power)
    return weight * _safe_root(error.square().mean()) / _mean_power(counts, power)


def sparse(
    phase: Float[Tensor, "b mode slice y x"],
    occupancy: Float[Tensor, " mode"],
    /,
    *,
    weight: float = 0.1,
    order: float = 1.0,
) -> Float[Tensor, ""]:
    """``sum_m occupancy_m mean(|phase_m|^n)^(1/n)``: atoms fill little of a crystal.

    Args:
        phase: windows, radian.
        occupancy: of the object modes.
        weight: factor of the penalty.
        order: n, from 1 up; 1 leaves the emptiest object.

    Example:
        >>> phase = torch.tensor([0.0, 0.0, -0.4, 0.0]).reshape(1, 1, 1, 2, 2)
        >>> round(sparse(phase, torch.ones(1), weight=1.0).item(), 6)
        0.1
    """
    _check_knobs("sparse", weight=weight)
    if not 1 <= order < float("inf"):
        raise BadInput("penalties: sparse.order", order, "must be a number from 1 up")
    mean = phase.abs().pow(order).mean((0, 2, 3, 4))
    return weight * (occupancy * (mean if order == 1 else (mean + MIN_SQUARE).pow(1 / order))).sum()


def quadratic(
    amplitude: Float[Tensor, "b mode slice y x"],
    phase: Float[Tensor, "b mode slice y x"],
    occupancy: Float[Tensor, " mode"],
    /,
    *,
    weight: float = 0.1,
    about: Literal["zero", "mean"] = "zero",
) -> Float[Tensor, ""]:
    """``sum_m occupancy_m mean(|T_m - c|^2)`` of the transmission: keeps unlit or undetermined parts small.

    Args:
        amplitude: windows.
        phase: windows, radian.
        occupancy: of the object modes.
        weight: factor of the penalty.
        about: the ``c``: zero, or the mean transmission of each mode, slice and window.

    Example:
        >>> flat = torch.ones(1, 1, 1, 2, 2)
        >>> [quadratic(2 * flat, flat, torch.ones(1), weight=1.0, about=c).item() for c in ("zero", "mean")]
        [4.0, 0.0]
    """
    _check_knobs("quadratic", weight=weight)
    square = (amplitude * amplitude).mean((-2, -1))
    if about == "mean":
        parts = [(amplitude * turn(phase)).mean((-2, -1)) for turn in (torch.cos, torch.sin)]
        square = square - parts[0].square() - parts[1].square()
    return weight * (occupancy * square.mean((0, 2))).sum()


def similarity(
    amplitude: Float[Tensor, "b mode slice y x"],
    phase: Float[Tensor, "b mode slice y x"],
    occupancy: Float[Tensor, " mode"],
    /,
    *,
    weight: float = 0.1,
    of: Literal["both", "amplitude", "phase"] = "both",
    blur: float | None = 1.0,
    taps: int = 5,
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Float[Tensor, ""]:
    """How far object modes differ once blurred: states of one object agree but for fine motion.

    The standard deviation over modes (times their occupancies), mean over everything else, of the
    amplitude plus that of the phase. Zero for a single mode.

    Args:
        amplitude: windows.
        phase: windows, radian.
        occupancy: of the object modes.
        weight: factor of the penalty.
        of: what is compared.
        blur: standard deviation of a Gaussian across the beam, pixels; none leaves it out.
        taps: length of its kernel, odd.
        scale: size (slice, y, x) to which windows are averaged before the comparison, relative.

    Example:
        >>> flat = torch.ones(1, 2, 1, 6, 6)
        >>> similarity(flat, 0 * flat, torch.tensor([0.5, 0.5])).item() < 1e-12
        True
    """
    _check_knobs("similarity", weight=weight, **({} if blur is None else {"blur": blur}))
    _check_knobs("similarity.scale", slice=scale[0], y=scale[1], x=scale[2])
    if taps < 1 or taps % 2 == 0:
        raise BadInput("penalties: similarity.taps", taps, "must be an odd number of pixels, such as 5")
    parts = [part for name, part in (("amplitude", amplitude), ("phase", phase)) if of in ("both", name)]
    total = torch.zeros((), dtype=phase.dtype, device=phase.device)
    for part in parts:
        coarse = part if blur is None else blurred(part, (-2, -1), std=blur, taps=taps)
        total = total + _mean_deviation(_average_boxes(coarse, scale) * occupancy[:, None, None, None])
    return weight * total


def tv(
    phase: Float[Tensor, "b mode slice y x"],
    /,
    *,
    weight: float = 0.1,
    how: Literal["isotropic", "anisotropic"] = "isotropic",
    floor: float = 1e-4,
) -> Float[Tensor, ""]:
    """Total variation across the beam: flat regions with sharp borders.

    The mean of ``sqrt(dy^2 + dx^2 + floor^2) - floor``, or, anisotropic, of the same of ``dy`` plus the
    same of ``dx``; differences to the next pixel, none beyond the last.

    Args:
        phase: windows, radian.
        weight: factor of the penalty.
        how: ``isotropic`` treats all directions alike; ``anisotropic`` favours borders along the axes.
        floor: differences below it, radian, count as squares, which keeps the gradient finite.

    Source:
        Rudin, Osher & Fatemi 1992, doi 10.1016/0167-2789(92)90242-F.

    Example:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 1, 4, 4)
        >>> round(tv(step, weight=1.0).item(), 4)
        0.25
    """
    _check_knobs("tv", weight=weight, floor=floor)
    down = torch.diff(phase, dim=-2, append=phase[..., -1:, :])
    right = torch.diff(phase, dim=-1, append=phase[..., :, -1:])
    squares = [down.square() + right.square()] if how == "isotropic" else [down.square(), right.square()]
    return weight * sum((_smooth_root(square, floor).mean() for square in squares), start=phase.new_zeros(()))


def smooth_depth(phase: Float[Tensor, "b mode slice y x"], /, *, weight: float = 0.1) -> Float[Tensor, ""]:
    """Mean squared difference of the phase of neighbouring slices: couples layers; zero for a single slice.

    Args:
        phase: windows, radian.
        weight: factor of the penalty.

    Example:
        >>> phase = torch.tensor([0.0, 1.0, 3.0]).reshape(1, 1, 3, 1, 1)
        >>> smooth_depth(phase, weight=1.0).item()
        2.5
    """
    _check_knobs("smooth_depth", weight=weight)
    steps = torch.diff(phase, dim=2)
    return weight * steps.square().sum() / max(steps.numel(), 1)


def _check_knobs(name: str, **above_zero: float) -> None:
    """Refuse knobs that are not numbers above zero; a weight may be zero."""
    for knob, value in above_zero.items():
        if not (0 < value < float("inf") or (knob == "weight" and value == 0)):
            least = "zero or above" if knob == "weight" else "above zero"
            raise BadInput(f"penalties: {name}.{knob}", value, f"must be {least}")


def _clip_counts(counts: Tensor) -> Tensor:
    """Counts without what the subtraction of a dark image made negative."""
    return counts.clamp(min=0)


def _power_of_model(model: Tensor, power: float, counts: Tensor) -> Tensor:
    """A power of expected counts, differentiable where next to none are expected."""
    dark = (1e-10 * counts.mean()).clamp(min=MIN_SQUARE)
    return torch.where(model > 0, torch.maximum(model, dark).pow(power), 0.0)


def _mean_power(counts: Tensor, power: float) -> Tensor:
    return _clip_counts(counts).pow(power).mean().clamp(min=MIN_SQUARE)


def _safe_root(square: Tensor) -> Tensor:
    return (square + MIN_SQUARE).sqrt()


def _smooth_root(square: Tensor, floor: float) -> Tensor:
    """``sqrt(square + floor^2) - floor`` without cancelling."""
    return square / ((square + floor**2).sqrt() + floor)


def _average_boxes(windows: Tensor, scale: tuple[float, float, float]) -> Tensor:
    """Means over boxes, so that (slice, y, x) shrink by a scale."""
    if tuple(scale) == (1, 1, 1):
        return windows
    slices, rows, columns = (max(1, int(n * s)) for n, s in zip(windows.shape[-3:], scale, strict=True))
    flat = torch.nn.functional.adaptive_avg_pool3d(windows.flatten(0, 1), (slices, rows, columns))
    return flat.unflatten(0, windows.shape[:2])


def _mean_deviation(windows: Tensor) -> Tensor:
    """Mean of the standard deviation over modes; zero, but differentiable, for one mode."""
    if windows.shape[1] == 1:
        return 0 * windows.mean()
    return _safe_root(windows.var(1)).mean()
