"""Projections of the amplitude and the phase of an object; `phaseloom.ptycho.projections` lists them.

Those that filter take ``of``: whether amplitude, phase or both are changed. Both are returned.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics import filters

__all__ = ["bounded_amplitude", "complex_ratio", "depth_blur", "lateral_blur", "low_pass"]
__all__ += ["mirrored_amplitude", "missing_wedge", "one_material", "positive", "require_above_zero"]
__all__ += ["require_odd", "require_share", "strongest_cosines"]

ChangedParts = Literal["both", "amplitude", "phase"]
AmplitudeAndPhase = tuple[Float[Tensor, "mode slice y x"], Float[Tensor, "mode slice y x"]]


def lateral_blur(
    amplitude: Float[Tensor, "mode slice y x"],
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    of: ChangedParts = "both",
    std: float = 0.4,
    taps: int = 5,
) -> AmplitudeAndPhase:
    """Every slice blurred by a Gaussian, mirrored at the edges.

    Args:
        amplitude: of the transmission.
        phase: of the transmission, radian.
        of: what is blurred.
        std: of the Gaussian, pixels.
        taps: length of the kernel, odd.

    Example:
        >>> amplitude, phase = lateral_blur(torch.ones(1, 2, 5, 4), torch.zeros(1, 2, 5, 4))
        >>> amplitude.shape
        torch.Size([1, 2, 5, 4])
    """
    require_above_zero("lateral_blur.std", std)
    require_odd("lateral_blur.taps", taps)
    return _change_parts(amplitude, phase, of, lambda part: filters.blur(part, (-2, -1), std=std, taps=taps))


def depth_blur(
    amplitude: Float[Tensor, "mode slice y x"],
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    of: ChangedParts = "both",
    std: float = 1.0,
    taps: int = 5,
) -> AmplitudeAndPhase:
    """Neighbouring slices blurred into each other by a Gaussian along the beam (the ``r_z`` filter).

    Steadies the depth without joining the ends: beyond the first and the last slice the object goes on
    as it is there, so that nothing of the top appears at the bottom, as it does with `missing_wedge`.

    Args:
        amplitude: of the transmission.
        phase: of the transmission, radian.
        of: what is blurred.
        std: of the Gaussian, slices.
        taps: length of the kernel, odd.

    Example:
        >>> phase = torch.zeros(1, 4, 1, 1)
        >>> phase[:, 0] = 1
        >>> [round(v, 3) for v in depth_blur(phase, phase, taps=3)[1].flatten().tolist()]
        [0.726, 0.274, 0.0, 0.0]
    """
    require_above_zero("depth_blur.std", std)
    require_odd("depth_blur.taps", taps)

    def change(part: Tensor) -> Tensor:
        return filters.blur(part, (-3,), std=std, taps=taps, edge="replicate")

    return _change_parts(amplitude, phase, of, change)


def low_pass(
    amplitude: Float[Tensor, "mode slice y x"],
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    of: ChangedParts = "both",
    radius: float = 0.15,
    width: float = 0.05,
) -> AmplitudeAndPhase:
    """Fine detail of every slice removed beyond a radius in frequency, softly.

    Args:
        amplitude: of the transmission.
        phase: of the transmission, radian.
        of: what is filtered.
        radius: where half is left, as a share of the highest frequency (half a cycle per pixel).
        width: of the soft edge, as a share of the full band; see `phaseloom.physics.filters.sigmoid_window`.

    Example:
        >>> amplitude, phase = low_pass(torch.ones(1, 2, 8, 9), torch.rand(1, 2, 8, 9))
        >>> bool(phase.std() < 0.2)
        True
    """
    require_above_zero("low_pass.radius", radius)
    require_above_zero("low_pass.width", width)
    shape = (phase.shape[-2], phase.shape[-1])
    window = filters.sigmoid_window(shape, radius=radius, width=width, like=phase)
    return _change_parts(amplitude, phase, of, lambda part: filters.apply_window(part, window))


def missing_wedge(
    amplitude: Float[Tensor, "mode slice y x"],
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    of: ChangedParts = "both",
    beta: float = 1.0,
    alpha: float = 1.0,
    floor: float = 1e-3,
    relax: float = 0.1,
    padded: bool = False,
) -> AmplitudeAndPhase:
    """Frequencies damped that vary along the beam but hardly across it (the ``k_z`` filter).

    ``(1 - 2/pi atan(beta^2 kz^2 / (kx^2 + ky^2 + floor))) exp(-alpha (kx^2 + ky^2))`` in cycles per
    slice and per pixel; ``alpha = 0`` gives the wedge alone. A stack is periodic to a Fourier
    transform, so structure of the first slices appears faintly in the last ones, and the other way round:
    use ``padded``, or `depth_blur`, where top and bottom differ.

    Args:
        amplitude: of the transmission.
        phase: of the transmission, radian.
        of: what is filtered.
        beta: strength along the beam.
        alpha: strength of the damping of fine detail, pixels squared.
        floor: keeps the lowest frequencies, (cycles per pixel) squared.
        relax: how far the filtered amplitude is drawn towards 1.
        padded: filter the stack together with its mirror image, which joins equal ends.

    Source:
        Chen et al. 2021, doi 10.1126/science.abg2533, supplement.

    Example:
        >>> phase = torch.zeros(1, 4, 1, 1)
        >>> phase[:, 0] = 1
        >>> [round(v, 2) for v in missing_wedge(phase, phase, beta=0.03)[1].flatten().tolist()]
        [0.95, 0.04, -0.02, 0.04]
    """
    for name, value in (("beta", beta), ("alpha", alpha), ("floor", floor)):
        require_above_zero(f"missing_wedge.{name}", value, zero=name != "floor")
    require_share("missing_wedge.relax", relax)
    slices = phase.shape[-3] * (2 if padded else 1)
    shape = (slices, phase.shape[-2], phase.shape[-1])
    window = filters.wedge_window(shape, beta=beta, alpha=alpha, floor=floor, like=phase)

    def change(part: Tensor) -> Tensor:
        whole = torch.cat([part, part.flip(-3)], dim=-3) if padded else part
        return filters.apply_window(whole, window)[..., : part.shape[-3], :, :]

    amplitude_, phase_ = _change_parts(amplitude, phase, of, change)
    return amplitude_ if of == "phase" else relax + (1 - relax) * amplitude_, phase_


def strongest_cosines(
    amplitude: Float[Tensor, "mode slice y x"],
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    of: ChangedParts = "both",
    keep: float = 0.05,
) -> AmplitudeAndPhase:
    """Only the strongest cosines of all slices together are kept: an object of few waves.

    Args:
        amplitude: of the transmission.
        phase: of the transmission, radian.
        of: what is reduced.
        keep: share of the coefficients that stay.

    Example:
        >>> amplitude, phase = strongest_cosines(torch.ones(1, 2, 8, 9), torch.rand(1, 2, 8, 9), keep=1.0)
        >>> bool((amplitude - 1).abs().max() < 1e-6)
        True
    """
    require_share("strongest_cosines.keep", keep, zero=False)
    return _change_parts(
        amplitude,
        phase,
        of,
        lambda part: filters.inverse_cosine_transform(
            filters.keep_strongest(filters.cosine_transform(part), keep)
        ),
    )


def complex_ratio(
    amplitude: Float[Tensor, "mode slice y x"],
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    of: ChangedParts = "both",
    alpha1: float = 1.0,
    alpha2: float = 0.0,
) -> AmplitudeAndPhase:
    """Absorption and phase drawn to a common ratio, as in matter of one kind.

    With ``C = sum |ln A| / sum |phase|`` the new logarithm of the amplitude is ``(1 - alpha1) ln A - alpha1 C
    phase`` and the new phase ``(1 - alpha2) phase - (alpha2 / C) ln A``: electrons are advanced where they
    are lost. Amplitudes at or below zero count as 1e-6. Objects without any absorption or phase stay.

    Args:
        amplitude: of the transmission.
        phase: of the transmission, radian.
        of: what is changed.
        alpha1: how far the amplitude goes; 1 makes it a function of the phase.
        alpha2: how far the phase goes.

    Source:
        Clark et al. 2010, doi 10.1364/OE.18.001981.

    Example:
        >>> phase = torch.tensor([0.1, 0.3]).reshape(1, 1, 1, 2)
        >>> amplitude, _ = complex_ratio(torch.full((1, 1, 1, 2), 0.9), phase)
        >>> [round(v, 3) for v in amplitude.flatten().tolist()]
        [0.949, 0.854]
    """
    require_share("complex_ratio.alpha1", alpha1)
    require_share("complex_ratio.alpha2", alpha2)
    depth = amplitude.clamp(min=1e-6).log()
    absorbed = depth.abs().sum()
    advanced = phase.abs().sum()
    if absorbed == 0 or advanced == 0:
        return amplitude, phase
    ratio = absorbed / advanced
    new = torch.exp((1 - alpha1) * depth - alpha1 * ratio * phase)
    turned = (1 - alpha2) * phase - alpha2 / ratio * depth
    return amplitude if of == "phase" else new, phase if of == "amplitude" else turned


def one_material(
    object: Complex[Tensor, "mode slice y x"], /, *, ratio: float | None = None, slow: float = 6.0
) -> Complex[Tensor, "mode slice y x"]:
    """Details of the absorption made those of the phase, as in matter of one kind; slow absorption stays.

    With a transmission ``exp(a + i phase)`` the new ``a`` is ``ratio phase`` and the slow part of ``a - ratio
    phase``. So details have one unknown a pixel in place of two. Unlike `complex_ratio` it is for waves that
    matter delays or advances, needs no zero of the phase, and leaves errors of slow absorption to the
    patterns. For phases within half a turn.

    Args:
        object: its transmission.
        ratio: ``beta / delta`` of the material for X-rays, where the phase is negative; 0: details of the
            phase alone. Default: fitted to the details of the middle half of the object, the noise of whose
            amplitude does not bias it.
        slow: standard deviation of the Gaussian whose average is slow, pixels.

    Example:
        >>> phase = torch.tensor([0.0, -0.4]).repeat(4, 4).reshape(1, 1, 4, 8)
        >>> after = one_material(torch.polar(torch.ones_like(phase), phase), ratio=0.1)
        >>> round(float((after[..., 0].abs() / after[..., 1].abs()).log().mean()), 3)
        0.04
    """
    if ratio is not None:
        require_above_zero("one_material.ratio", ratio, zero=True)
    require_above_zero("one_material.slow", slow)
    phase = object.angle()
    depth = object.abs().clamp(min=1e-6).log()
    share = _fit_ratio(depth, phase, slow) if ratio is None else ratio
    slow_rest = _average_gaussian(depth - share * phase, slow)
    return torch.polar((share * phase + slow_rest).exp(), phase)


def _fit_ratio(depth: Tensor, phase: Tensor, slow: float) -> Tensor:
    """Slope of the absorption against the phase, by details of the middle half; smooth ones tell most."""
    rows, columns = (slice(n // 4, n - n // 4) for n in phase.shape[-2:])
    fine = (phase - _average_gaussian(phase, slow))[..., rows, columns]
    smooth = (_average_gaussian(phase, 1.0) - _average_gaussian(phase, slow))[..., rows, columns]
    seen = (depth - _average_gaussian(depth, slow))[..., rows, columns]
    power = (smooth * fine).sum()
    return torch.where(power > 0, (smooth * seen).sum() / power.clamp(min=1e-30), 0.0).clamp(min=0)


def _average_gaussian(field: Tensor, std: float) -> Tensor:
    """Average with the weights of a Gaussian, which wraps round at the edges."""
    rows, columns = (torch.fft.fftfreq(n, dtype=field.dtype, device=field.device) for n in field.shape[-2:])
    square = rows[:, None].square() + columns[: field.shape[-1] // 2 + 1].square()
    spectrum = torch.fft.rfft2(field) * (-2 * (torch.pi * std) ** 2 * square).exp()
    return torch.fft.irfft2(spectrum, s=field.shape[-2:])


def mirrored_amplitude(
    amplitude: Float[Tensor, "mode slice y x"],
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    relax: float = 0.1,
    scale: float = 0.03,
    power: float = 4.0,
) -> AmplitudeAndPhase:
    """Amplitude drawn to ``1 - scale max(phase, 0)^power``: dark where much matter is.

    Args:
        amplitude: of the transmission.
        phase: of the transmission, radian; stays.
        relax: part of the old amplitude that stays.
        scale: how strong one radian absorbs.
        power: how steeply it grows.

    Example:
        >>> phase = torch.full((1, 1, 1, 1), 2.0)
        >>> round(mirrored_amplitude(torch.ones_like(phase), phase, relax=0.0)[0].item(), 4)
        0.52
    """
    require_share("mirrored_amplitude.relax", relax)
    require_above_zero("mirrored_amplitude.power", power)
    require_above_zero("mirrored_amplitude.scale", scale, zero=True)
    mirrored = 1 - scale * phase.clamp(min=0).pow(power)
    return relax * amplitude + (1 - relax) * mirrored, phase


def bounded_amplitude(
    amplitude: Float[Tensor, "mode slice y x"],
    /,
    *,
    relax: float = 0.0,
    between: tuple[float, float] = (0.96, 1.04),
) -> Float[Tensor, "mode slice y x"]:
    """Amplitude brought back between two bounds.

    Args:
        amplitude: of the transmission.
        relax: part of what lies beyond that may stay.
        between: least and most.

    Example:
        >>> bounded_amplitude(torch.tensor([0.5, 1.0]).reshape(1, 1, 1, 2), between=(0.75, 1.1)).tolist()
        [[[[0.75, 1.0]]]]
    """
    require_share("bounded_amplitude.relax", relax)
    least, most = between
    if not least <= most:
        raise BadInput("projections: bounded_amplitude.between", list(between), "must be [least, most]")
    return relax * amplitude + (1 - relax) * amplitude.clamp(least, most)


def positive(
    phase: Float[Tensor, "mode slice y x"],
    /,
    *,
    relax: float = 0.0,
    how: Literal["clip", "subtract minimum"] = "clip",
) -> Float[Tensor, "mode slice y x"]:
    """Phase without negative values, as potentials of atoms are.

    Args:
        phase: of the transmission, radian.
        relax: part of the old phase that stays.
        how: ``clip`` makes negative phase zero; ``subtract minimum`` makes the least phase zero.

    Example:
        >>> positive(torch.tensor([-0.5, 1.0]).reshape(1, 1, 1, 2)).tolist()
        [[[[0.0, 1.0]]]]
    """
    require_share("positive.relax", relax)
    new = phase.clamp(min=0) if how == "clip" else phase - phase.min()
    return relax * phase + (1 - relax) * new


def require_above_zero(name: str, value: float, *, zero: bool = False) -> None:
    """Refuse a knob that is not above zero, or from zero up."""
    if not (0 < value < float("inf") or (zero and value == 0)):
        raise BadInput(f"projections: {name}", value, f"must be {'zero or ' if zero else ''}above zero")


def require_share(name: str, value: float, *, zero: bool = True) -> None:
    """Refuse a knob that is not between 0 and 1."""
    if not (0 < value <= 1 or (zero and value == 0)):
        raise BadInput(
            f"projections: {name}",
            value,
            f"must be {'between' if zero else 'above'} 0 and {'' if zero else 'at most '}1",
        )


def require_odd(name: str, value: int) -> None:
    """Refuse a kernel without a middle."""
    if value < 1 or value % 2 == 0:
        raise BadInput(f"projections: {name}", value, "must be an odd number of pixels, such as 5")


def _change_parts(
    amplitude: Tensor, phase: Tensor, of: ChangedParts, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Amplitude and phase, each changed where ``of`` says so."""
    return (
        amplitude if of == "phase" else change(amplitude),
        phase if of == "amplitude" else change(phase),
    )
