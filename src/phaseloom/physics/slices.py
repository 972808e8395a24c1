"""Stacks of slices along the beam: cropped, padded, resampled, moved, sheared, and how they lean.

Objects are complex transmissions ``(mode, slice, y, x)``, the first slice where the beam enters. Gaps are
the distances between the middles of neighbouring slices, angstrom, one less than there are slices; each
slice stands for the matter around it, up to half-way to its neighbours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.filters import apply_window
from phaseloom.physics.fourier import frequencies, ramp, to_real, to_reciprocal

__all__ = [
    "Fill",
    "centre_of_phase",
    "crop_slices",
    "equal_gaps",
    "estimate_lean",
    "pad_slices",
    "recentre_slices",
    "resample_slices",
    "shear_slices",
    "shift_slices",
]

Fill = Literal["vacuum", "mean", "edge"]


def crop_slices(
    object: Complex[Tensor, "mode slice y x"], start: int, stop: int | None, /
) -> Complex[Tensor, "mode part y x"]:
    """The slices from ``start`` up to, but not with, ``stop``; negative numbers count from the end.

    Raises:
        BadInput: no slice is left.

    Example:
        >>> crop_slices(torch.ones(1, 5, 2, 3) + 0j, 1, -1).shape
        torch.Size([1, 3, 2, 3])
    """
    part = object[:, start:stop]
    if part.shape[1] == 0:
        fix = f"leaves none of {object.shape[1]} slices: let the first be before the last"
        raise BadInput("crop", [start, stop], fix)
    return part


def pad_slices(
    object: Complex[Tensor, "mode slice y x"],
    before: int,
    after: int,
    /,
    *,
    fill: Fill | tuple[Fill, Fill] = "vacuum",
) -> Complex[Tensor, "mode more y x"]:
    """More slices before the first one and after the last one.

    Args:
        object: transmission.
        before: slices added where the beam enters.
        after: slices added where it leaves.
        fill: ``vacuum`` (1 everywhere), ``mean`` (mean amplitude and mean phase of all slices) or ``edge``
            (the outermost slice again); two of them for before and after.

    Raises:
        BadInput: a negative number.

    Example:
        >>> pad_slices(torch.ones(1, 2, 2, 3) * 0.5j, 1, 2)[0, :, 0, 0].abs().tolist()
        [1.0, 0.5, 0.5, 1.0, 1.0]
    """
    if before < 0 or after < 0:
        raise BadInput("pad", [before, after], "is negative: use crop to take slices away")
    first, last = (fill, fill) if isinstance(fill, str) else fill
    return torch.cat(
        [_make_filling(object, first, 0, before), object, _make_filling(object, last, -1, after)], 1
    )


def _make_filling(object: Tensor, fill: Fill, edge: int, count: int) -> Tensor:
    """So many slices beside one edge."""
    if fill == "vacuum":
        slice_ = torch.ones_like(object[:, :1])
    elif fill == "mean":
        slice_ = torch.polar(object.abs().mean(1, keepdim=True), object.angle().mean(1, keepdim=True))
    else:
        slice_ = object[:, edge].unsqueeze(1)
    return slice_.expand(-1, count, -1, -1)


def equal_gaps(
    gaps: Sequence[float], /, *, slices: int | None = None, thickness: float | None = None
) -> tuple[float, ...]:
    """Equal gaps for so many slices, or for slices about so thick, in the depth that is there.

    A thickness alone is rounded so that a whole number of slices fills the depth; number and thickness
    together are taken as they are.

    Args:
        gaps: those that are there, angstrom; none for a single slice, whose depth is not known.
        slices: number wanted.
        thickness: of a slice, angstrom.

    Raises:
        BadInput: the depth of a single slice would be needed, or numbers are not positive.

    Example:
        >>> equal_gaps((20.0, 20.0), slices=6)
        (10.0, 10.0, 10.0, 10.0, 10.0)
        >>> equal_gaps((20.0, 20.0), thickness=29.0)
        (30.0,)
    """
    if slices is None and thickness is None:
        return tuple(gaps)
    for name, value in (("slices", slices), ("thickness", thickness)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise BadInput(name, value, "must be a positive number")
    if slices is None or thickness is None:
        if not gaps and slices != 1:
            raise BadInput(
                "thickness", None, "of a single slice is not known: give both slices and thickness"
            )
        edges = _slice_edges(gaps) if gaps else [0.0, 1.0]
        depth = edges[-1] - edges[0]
        slices = slices or max(1, round(depth / (thickness or depth)))
        thickness = depth / slices
    return (float(thickness),) * (slices - 1)


def resample_slices(
    object: Complex[Tensor, "mode slice y x"], gaps: Sequence[float], onto: Sequence[float], /
) -> Complex[Tensor, "mode new y x"]:
    """The same matter in other slices: sum of phase and product of amplitude stay at every pixel.

    Phase and logarithm of the amplitude of a slice go to the new slices in proportion to the depth that
    they share. The middles of both depths coincide; what would lie outside the new depth goes to the
    outermost new slices. Phases are those of one slice, between -pi and pi.

    Args:
        object: transmission.
        gaps: between its slices, angstrom; none for a single slice, which fills any depth evenly.
        onto: gaps of the new slices; see `equal_gaps`.

    Raises:
        BadInput: gaps that do not fit the object, or are not positive.

    Example:
        >>> thick = torch.polar(torch.ones(1, 1, 2, 3), torch.full((1, 1, 2, 3), 0.6))
        >>> resample_slices(thick, (), (5.0, 5.0))[0, :, 0, 0].angle()
        tensor([0.2000, 0.2000, 0.2000])
    """
    if len(gaps) != object.shape[1] - 1:
        fix = f"does not fit {object.shape[1]} slices: give one gap less than there are slices"
        raise BadInput("gaps", f"{len(gaps)} gaps", fix)
    phase = object.angle()
    amplitude = object.abs()
    share = torch.as_tensor(_overlap_shares(gaps, onto), dtype=phase.dtype, device=phase.device)
    depth = amplitude.clamp(min=torch.finfo(amplitude.dtype).tiny).log()
    parts = (torch.einsum("ns,msyx->mnyx", share, one) for one in (depth, phase))
    return torch.polar(next(parts).exp(), next(parts))


def _slice_edges(gaps: Sequence[float]) -> list[float]:
    """Where each slice's matter begins, and where the last one's ends."""
    if not all(math.isfinite(gap) and gap > 0 for gap in gaps):
        raise BadInput("gaps", list(gaps), "must be positive lengths")
    edges = [-gaps[0] / 2, gaps[0] / 2]
    for before, gap in pairwise(gaps):
        edges.append(edges[-1] + (before + gap) / 2)
    return [*edges, edges[-1] + gaps[-1]]


def _overlap_shares(gaps: Sequence[float], onto: Sequence[float]) -> list[list[float]]:
    """Part of each old slice (column) that goes to each new one (row); columns add to one."""
    if not gaps or not onto:
        return [[1.0 / (len(onto) + 1) if onto else 1.0] * (len(gaps) + 1)] * (len(onto) + 1)
    old = _slice_edges(gaps)
    new = _slice_edges(onto)
    move = (old[0] + old[-1] - new[0] - new[-1]) / 2
    new = [-math.inf, *(edge + move for edge in new[1:-1]), math.inf]
    return [[max(0.0, min(b, d) - max(a, c)) / (b - a) for a, b in pairwise(old)] for c, d in pairwise(new)]


def shift_slices(
    object: Complex[Tensor, "mode slice y x"], shift: Float[Tensor, ""] | float, /
) -> Complex[Tensor, "mode slice y x"]:
    """The object moved along the beam by any number of slices; positive is downstream.

    A phase ramp in the Fourier domain of the slices: the power stays, and what leaves at one end enters at
    the other.

    Example:
        >>> stack = torch.arange(4.0).reshape(1, 4, 1, 1) + 0j
        >>> shift_slices(stack, 1.0).real.round().flatten().tolist()
        [3.0, 0.0, 1.0, 2.0]
    """
    shift = torch.as_tensor(shift, dtype=object.real.dtype, device=object.device)
    cycles = torch.fft.fftfreq(object.shape[1], dtype=object.real.dtype, device=object.device)
    angle = (-2 * math.pi * shift * cycles)[:, None, None]
    return torch.fft.ifft(torch.fft.fft(object, dim=1) * torch.polar(torch.ones_like(angle), angle), dim=1)


def centre_of_phase(
    phase: Float[Tensor, "mode slice y x"], /, *, percentile: float = 95.0
) -> Float[Tensor, ""]:
    """Mean slice number of the strong phase: voxels below a percentile, and negative ones, do not count.

    Without any positive phase it is the middle slice.

    Args:
        phase: radian.
        percentile: of all voxels, from 0 to 100.

    Example:
        >>> phase = torch.zeros(1, 5, 2, 2)
        >>> phase[0, 3] = 0.1
        >>> centre_of_phase(phase).item()
        3.0
    """
    if not 0 <= percentile <= 100:
        raise BadInput("percentile", percentile, "must be between 0 and 100")
    strong = phase.clamp(min=0)
    strong = torch.where(strong >= _percentile(strong.detach(), percentile), strong, 0)
    weight = strong.sum((0, 2, 3))
    place = torch.arange(len(weight), dtype=phase.dtype, device=phase.device)
    total = weight.sum()
    if total <= 0:
        return place.mean()
    return (place * weight).sum() / total


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """Percentile with linear interpolation; unlike `torch.quantile` of any number of values."""
    flat = values.flatten()
    place = percentile / 100 * (flat.numel() - 1)
    low = flat.kthvalue(math.floor(place) + 1).values
    high = flat.kthvalue(math.ceil(place) + 1).values
    return torch.lerp(low, high, place - math.floor(place))


def recentre_slices(
    object: Complex[Tensor, "mode slice y x"],
    /,
    *,
    percentile: float = 95.0,
    scale: float = 1.0,
    most: float = 10.0,
) -> tuple[Complex[Tensor, "mode slice y x"], Float[Tensor, ""]]:
    """The object with its `centre_of_phase` at the middle slice, and the shift that was needed, in slices.

    Moving an object by a distance and the focus of the probe by the same distance changes no pattern: fly
    the probe by minus the shift times the thickness of a slice.

    Args:
        object: transmission.
        percentile: see `centre_of_phase`.
        scale: part of the shift that is done.
        most: largest shift, slices; never more than half the depth.

    Example:
        >>> stack = torch.ones(1, 5, 2, 2) + 0j
        >>> stack[0, 3] *= torch.exp(torch.tensor(0.3j))
        >>> moved, shift = recentre_slices(stack)
        >>> round(shift.item(), 4), moved.angle().sum((0, 2, 3)).argmax().item()
        (-1.0, 2)
    """
    middle = (object.shape[1] - 1) / 2
    limit = min(most, middle)
    shift = scale * (middle - centre_of_phase(object.angle(), percentile=percentile))
    shift = shift.clamp(-limit, limit)
    return shift_slices(object, shift), shift


def shear_slices(
    object: Inexact[Tensor, "*state slice y x"],
    gaps: Sequence[float],
    pixel: tuple[float, float],
    lean: Float[Tensor, "2"],
    /,
) -> Inexact[Tensor, "*state slice y x"]:
    """Columns made to lean: slice ``s`` moves by ``z_s tan(lean)``, ``z_s`` its depth below the first one.

    Free flight does not care where it happens, so far-field patterns cannot tell a shear of the object
    from a tilt: an object upon a tilt gives those of the object sheared by it upon none, with the same probe
    at the same positions, for the slice where the beam enters stays. Slices are moved by Fourier
    shifts: the power stays, and what leaves at one side enters at the other.

    Args:
        object: transmission, or a real field.
        gaps: between its slices, angstrom.
        pixel: angstrom (y, x).
        lean: radian (y, x).

    Example:
        >>> stack = torch.zeros(1, 3, 5, 4)
        >>> stack[..., 1, 1] = 1
        >>> moved = shear_slices(stack, (10.0, 10.0), (1.0, 1.0), torch.tensor([0.1, 0.0]).atan())
        >>> moved[0, :, :, 1].argmax(1).tolist()
        [1, 2, 3]
    """
    depth = depths_of_slices(gaps, object)
    amount = depth[:, None] * torch.tan(lean) / depth.new_tensor(pixel)
    rows, columns = ramp(amount, (object.shape[-2], object.shape[-1]))
    moved = to_real(to_reciprocal(object) * rows * columns)
    return moved if object.is_complex() else moved.real


def depths_of_slices(gaps: Sequence[float], object: Tensor) -> Tensor:
    """Depth of each slice below the first one, in the precision of the object."""
    if len(gaps) != object.shape[-3] - 1:
        fix = f"does not fit {object.shape[-3]} slices: give one gap less than there are slices"
        raise BadInput("gaps", f"{len(gaps)} gaps", fix)
    return torch.tensor([0.0, *accumulate(gaps)], dtype=object.real.dtype, device=object.device)


MAX_TAPER_ROUNDS = 4
"""Rounds of tapering in `estimate_lean`: under one taper displaced slices look less displaced."""


def estimate_lean(
    phase: Float[Tensor, "*state slice y x"],
    gaps: Sequence[float],
    pixel: tuple[float, float],
    /,
    *,
    most: float = 10e-3,
    band: tuple[float, float] = (1.0, 4.0),
) -> Float[Tensor, "2"]:
    """How the columns of an object lean: the direction in which its slices add up to the strongest picture.

    The power of the sum of all slices, sheared upright, is that of each and the agreement of every pair.
    Its maximum is looked for on a grid, then by Newton's method; slow changes of phase, which slices
    share out among them as it happens, are left out. Exact for columns; an object whose slices have
    nothing in common has no lean, and what is found then means nothing.

    Args:
        phase: radian.
        gaps: between its slices, angstrom.
        pixel: angstrom (y, x).
        most: largest lean looked for along either axis, radian.
        band: the phase is compared after a blur by the first, less a blur by the second (std, pixels).

    Returns:
        (y, x), radian; zero for a single slice, or without any structure.

    Example:
        >>> from phaseloom.physics.slices import shear_slices
        >>> place = [torch.arange(n) - n / 2 for n in (25, 26)]
        >>> spot = torch.exp(-0.2 * (place[0][:, None] ** 2 + place[1] ** 2))[None]
        >>> gaps = (50.0, 50.0)
        >>> column = shear_slices(spot.expand(3, -1, -1), gaps, (0.5, 0.5), torch.tensor([3e-3, -2e-3]))
        >>> [round(1e3 * value, 1) for value in estimate_lean(column, gaps, (0.5, 0.5)).tolist()]
        [3.0, -2.0]
    """
    if phase.shape[-3] < 2:
        return phase.new_zeros(2)
    fine = _band_pass(phase.double(), band)
    taper = _taper_window(fine)
    slope = _ShearSearch.of(fine * taper, gaps, pixel).search_grid(math.tan(most))
    for _ in range(MAX_TAPER_ROUNDS):
        upright = shear_slices(fine, gaps, pixel, -slope.atan())
        slope = slope + _ShearSearch.of(upright * taper, gaps, pixel).climb(math.tan(most) / 4)
    return slope.atan().to(phase.dtype)


@dataclass(frozen=True)
class _ShearSearch:
    """Slices as frequencies, for the power of their sum along slopes ``(dy/dz, dx/dz)``.

    Attributes:
        waves: Fourier transforms ``(..., slice, y, x)``, of unit power together.
        depth: of each slice, ``(slice, 1, 1)``.
        axes: ``2 pi f`` along y ``(y, 1)`` and x ``(1, x)``.
    """

    waves: Tensor
    depth: Tensor
    axes: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, field: Tensor, gaps: Sequence[float], pixel: tuple[float, float]) -> "_ShearSearch":
        y, x = frequencies((field.shape[-2], field.shape[-1]), pixel, like=field)
        waves = torch.fft.fft2(field)
        power = waves.abs().square().sum().clamp(min=1e-300)
        return cls(
            waves / power.sqrt(),
            depths_of_slices(gaps, field)[:, None, None],
            (2 * math.pi * y, 2 * math.pi * x),
        )

    def shear_back(self, slope: Tensor) -> Tensor:
        """The slices sheared back."""
        angles = [self.depth * axis * step for axis, step in zip(self.axes, slope, strict=True)]
        rows, columns = (torch.polar(torch.ones_like(angle), angle) for angle in angles)
        return self.waves * rows * columns

    def search_grid(self, most: float) -> Tensor:
        """The best of 9 by 9 slopes, the least of those that are equal."""
        axis = torch.linspace(-most, most, 9, dtype=torch.float64, device=self.waves.device)
        grid = sorted(torch.cartesian_prod(axis, axis), key=lambda slope: float(slope.norm()))
        return max(grid, key=lambda slope: float(self.shear_back(slope).sum(-3).abs().square().sum()))

    def climb(self, most: float) -> Tensor:
        """The top nearest to upright, by Newton's method with steps of at most ``most``."""
        slope = torch.zeros(2, dtype=torch.float64, device=self.waves.device)
        for _ in range(5):
            first, second = self.derivatives(slope)
            curve, ways = torch.linalg.eigh(second)
            step = ways @ (ways.T @ first / curve.abs().clamp(min=1e-12))
            slope = slope + step * torch.clamp(most / step.norm().clamp(min=1e-300), max=1.0)
        return slope

    def derivatives(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivatives of the power by the slope."""
        waves = self.shear_back(slope)
        sum_, once, twice = ((waves * self.depth**order).sum(-3) for order in range(3))
        tug = -2 * (sum_.conj() * once).imag
        pull = 2 * (once.abs().square() - (sum_.conj() * twice).real)
        first = torch.stack([(axis * tug).sum() for axis in self.axes])
        second = torch.stack([(a * b * pull).sum() for a in self.axes for b in self.axes])
        return first, second.reshape(2, 2)


def _band_pass(phase: Tensor, band: tuple[float, float]) -> Tensor:
    """Phase between two blurs, the few strongest values (wraps, dark borders) brought to the others."""
    y, x = frequencies((phase.shape[-2], phase.shape[-1]), like=phase)
    narrow, wide = (torch.exp(-2 * (math.pi * std) ** 2 * (y**2 + x**2)) for std in band)
    fine = apply_window(phase, narrow - wide)
    most = fine.abs().flatten().kthvalue(math.ceil(0.995 * fine.numel())).values
    return fine.clamp(-most, most)


def _taper_window(field: Tensor, share: float = 0.02) -> Tensor:
    """A window, falling over its outer quarters, on the rectangle with all power but a share at each end."""
    power = field.square().sum(tuple(range(field.ndim - 2)))
    sides = []
    for profile in (power.sum(1), power.sum(0)):
        held = profile.cumsum(0) / profile.sum().clamp(min=1e-300)
        first = int((held < share).sum())
        last = int((held < 1 - share).sum())
        place = torch.arange(len(profile), dtype=profile.dtype, device=profile.device)
        hann = torch.sin(math.pi * ((place - first + 1) / (last - first + 2)).clamp(0, 1)).square()
        sides.append((2 * hann).clamp(max=1))
    return sides[0][:, None] * sides[1]
