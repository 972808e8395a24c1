"""Solve the linear model for the object: a pass over columns and data, then a small system per frequency.

All methods weight the same sum over bright-field pixels. Only `least_squares` and `wiener` give radian; the
others have a transfer of their own, which depends on the aberrations. Those that solve nothing are in
`phaseloom.direct.methods`.

An image may be finer than the scan: a scan knows frequencies only up to multiples of its own grid, but each
pixel of the bright field sees them differently, so that the equations hold all of these aliases side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.direct import methods
from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.conjugate_gradients import MixedEquations
from phaseloom.direct.grid import border_weights
from phaseloom.direct.transfer import LinearOptics, compute_columns
from phaseloom.errors import BadInput

__all__ = [
    "DirectImage",
    "DirectMethod",
    "NormalEquations",
    "PowerRing",
    "build_normal_equations",
    "check_options",
    "list_aliases",
    "reconstruct_image",
]

RIDGE_SHARE = 1e-5
"""Share of the diagonal that is added to it: float32 rounds below 1e-6; it tells slices of a few angstrom."""

DECONVOLUTION_RIDGE = 1e-2
"""Ridge of a Wigner distribution deconvolution: for 1e4 electrons per square angstrom; 1e-3 for 1e5."""

MAX_UPSAMPLE = 4

MAX_ELEMENTS_AT_ONCE = 1_000_000
"""Columns that are computed at once: frequencies times pixels."""

MAX_WEIGHTS_AT_ONCE = 500_000
"""The same for weights: deconvolution needs eight numbers or more on its padded detector for each."""

MIN_RING_FREQUENCIES = 64
"""Frequencies that a ring of the prior holds at least."""

MAX_RINGS_MERGED = 8
"""Neighbouring rings that are taken together until their power is seen."""

PRIOR_ITERATIONS = 30

MIN_PRIOR_SIGNIFICANCE = 4.0
"""Standard errors by which the power of a ring has to exceed its noise, to be shown."""


class DirectMethod(StrEnum):
    """How bright-field pixels are weighted."""

    WIENER = "wiener"
    LEAST_SQUARES = "least_squares"
    OPTIMUM_BRIGHT_FIELD = "obf"
    MATCHED_FILTER = "matched_filter"
    SINGLE_SIDEBAND = "ssb"
    PARALLAX = "parallax"
    CENTRE_OF_MASS = "dpc"
    WIGNER_DECONVOLUTION = "wdd"

    @property
    def is_in_radian(self) -> bool:
        """Whether the image is a phase in radian, whatever the aberrations."""
        return self in (DirectMethod.WIENER, DirectMethod.LEAST_SQUARES)


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """The sums of a linear model over pixels, in units of the noise: ``matrix @ object = right``.

    Attributes:
        matrix: ``(frequency, column, column)``; its inverse is the covariance of the object by counting.
        right: ``(frequency, column)``.
        energy: ``(frequency,)`` what is to be explained.
        pixels: of the bright field.
    """

    matrix: Complex[Tensor, "frequency column column"]
    right: Complex[Tensor, "frequency column"]
    energy: Float[Tensor, " frequency"]
    pixels: int

    def solve(self, *, ridge: float = RIDGE_SHARE) -> Complex[Tensor, "frequency column"]:
        """The object by least squares; 0 where no pixel sees it."""
        scale, matrix = self._scale(ridge)
        return torch.linalg.solve(matrix, (self.right / scale)[..., None])[..., 0] / scale

    def variance(self, *, ridge: float = RIDGE_SHARE) -> Float[Tensor, "frequency column"]:
        """Variance of each component by counting."""
        scale, matrix = self._scale(ridge)
        diagonal = torch.linalg.inv(matrix).diagonal(dim1=-2, dim2=-1).real
        return (diagonal / scale.square()).clamp_min(1e-30)

    def explained(self, *, ridge: float = RIDGE_SHARE) -> Float[Tensor, " frequency"]:
        """What the object explains of `energy`; counting alone makes 1 for each column."""
        return (self.right.conj() * self.solve(ridge=ridge)).sum(-1).real

    def add(self, other: NormalEquations, /) -> NormalEquations:
        """The sums over the pixels of both."""
        return NormalEquations(
            self.matrix + other.matrix,
            self.right + other.right,
            self.energy + other.energy,
            self.pixels + other.pixels,
        )

    def find_ridge(self, *, ridge: float = RIDGE_SHARE) -> Float[Tensor, "frequency column"]:
        """What `solve` adds to the diagonal."""
        diagonal = self.matrix.diagonal(dim1=-2, dim2=-1).real
        return ridge * diagonal.clamp_min(1e-12 * float(diagonal.max()))

    def count(self) -> Int[Tensor, " frequency"]:
        """Columns that any pixel sees."""
        diagonal = self.matrix.diagonal(dim1=-2, dim2=-1).real
        return (diagonal > 1e-12 * diagonal.max()).sum(-1)

    def _scale(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Roots of the diagonal, and the matrix scaled to ones there, with the ridge."""
        diagonal = self.matrix.diagonal(dim1=-2, dim2=-1).real
        scale = diagonal.clamp_min(1e-12 * float(diagonal.detach().max())).sqrt()
        scaled = self.matrix / (scale[..., :, None] * scale[..., None, :])
        return scale, scaled + ridge * torch.eye(scale.shape[-1], dtype=scaled.dtype)


def list_aliases(
    spectrum: Spectrum, upsample: int, /
) -> tuple[Float[Tensor, "frequency tile 2"], Int[Tensor, "frequency tile 2"]]:
    """Frequencies of a finer image that add up at each frequency of a scan, and their indices in its FFT.

    Args:
        spectrum: of a raster.
        upsample: places of the image for each place of the scan, along each axis.

    Example:
        >>> index = torch.cartesian_prod(torch.fft.fftfreq(3), torch.fft.rfftfreq(3))
        >>> raster = Spectrum(torch.zeros(6, 1), index, index[:1], index[:1, 0], 0.0, (3, 2), (3, 3))
        >>> frequency, place = list_aliases(raster, 2)
        >>> (3 * frequency[1]).round().tolist(), place[1].tolist()
        ([[0.0, 1.0], [0.0, -2.0], [-3.0, 1.0], [-3.0, -2.0]], [[0, 1], [0, 4], [3, 1], [3, 4]])
    """
    rows, columns = _require_raster(spectrum)
    grid = torch.tensor([rows, columns])
    index = torch.cartesian_prod(torch.arange(rows), torch.arange(columns // 2 + 1))
    tiles = torch.cartesian_prod(torch.arange(upsample), torch.arange(upsample)) * grid
    place = index[:, None] + tiles
    fine = grid * upsample
    signed = place - fine * (place > (fine - 1) // 2)
    by_index = spectrum.frequency.reshape(rows, -1, 2)
    unit = torch.stack([by_index[1, 0] / torch.fft.fftfreq(rows)[1], by_index[0, 1] * columns])
    return (signed / grid).to(unit.dtype) @ unit, place


def _require_raster(spectrum: Spectrum) -> tuple[int, int]:
    if spectrum.shape is None or spectrum.grid is None:
        raise ValueError("an image needs the spectrum of a raster: spectrum.shape")
    return spectrum.grid


def build_normal_equations(
    optics: LinearOptics,
    spectrum: Spectrum,
    /,
    *,
    amplitude: bool = True,
    aliases: Float[Tensor, "frequency tile 2"] | None = None,
) -> NormalEquations:
    """Sum columns and data over the bright-field pixels; differentiable in the numbers of ``optics``.

    Args:
        optics: the model.
        spectrum: the data.
        amplitude: whether the object has an amplitude of its own.
        aliases: frequencies of the object that add up at each frequency of the data, see `list_aliases`;
            default: that of the data. Columns of the first come first.

    Example:
        >>> optics = LinearOptics.of(wavelength=0.02, semiangle=0.02, aberrations={"defocus": 200.0})
        >>> place = torch.tensor([[0.1, 0.2], [-0.3, 0.1], [0.4, -0.4]])
        >>> frequency = torch.tensor([[0.2, 0.1]])
        >>> values = compute_columns(optics, place, frequency)[..., 0] * 0.5
        >>> data = Spectrum(values, frequency, place, torch.ones(3), 0.0)
        >>> found = build_normal_equations(optics, data, amplitude=False)
        >>> round(float(found.solve().abs()), 3)
        0.5
    """
    aliases = spectrum.frequency[:, None] if aliases is None else aliases
    parts = []
    for values, tiles in _split(spectrum, aliases, MAX_ELEMENTS_AT_ONCE):
        columns = compute_columns(
            optics, spectrum.place, tiles.flatten(0, 1), edge=spectrum.edge, amplitude=amplitude
        )
        columns = columns.unflatten(0, tiles.shape[:2]).transpose(1, 2).flatten(2)
        weighted = (columns.conj() * spectrum.counts[:, None]).mT
        parts.append(
            (
                weighted @ columns,
                (weighted @ values[..., None])[..., 0],
                (values.abs().square() * spectrum.counts).sum(-1),
            )
        )
    matrix, right, energy = (torch.cat(one) for one in zip(*parts, strict=True))
    return NormalEquations(matrix, right, energy, len(spectrum.place))


def _sum_weighted(
    spectrum: Spectrum, aliases: Tensor, weight: Callable[[Tensor], Tensor], shares: Tensor
) -> Complex[Tensor, "set frequency tile column"]:
    """Sum over pixels with the weights that a function has for frequencies, each alias by itself.

    ``shares`` are further factors ``(set, pixel)``: weights are computed once for all sets of pixels.
    """
    parts = []
    for values, tiles in _split(spectrum, aliases, MAX_WEIGHTS_AT_ONCE):
        weights = weight(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2])
        parts.append(torch.einsum("ftpc,sfp->sftc", weights, values * shares[:, None]))
    return torch.cat(parts, 1)


def _share_pixels(spectrum: Spectrum) -> Float[Tensor, "set pixel"]:
    """Factors of pixels in an image of all, and in those of two halves."""
    colour = methods.colour_pixels(spectrum.place)
    shares = torch.stack([torch.ones_like(colour), 2 * (colour == 0), 2 * (colour == 1)])
    return shares.to(spectrum.counts.dtype)


def _split(spectrum: Spectrum, aliases: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Values and frequencies in pieces that fit the memory."""
    count = max(1, most // max(1, len(spectrum.place) * aliases.shape[1]))
    return zip(spectrum.values.split(count), aliases.split(count), strict=True)


class PowerRing(NamedTuple):
    """Power of the phase on a ring of its spectrum.

    Attributes:
        frequency: mean of the ring, cycles per angstrom.
        power: square of a component, radian squared: white noise has its variance per place of the scan,
            whatever ``upsample`` is.
    """

    frequency: float
    power: float


@dataclass(frozen=True, eq=False)
class DirectImage:
    """A direct image of a raster scan.

    Attributes:
        phase: ``(slow, fast)`` at the places of the scan, or ``upsample`` times finer along each axis, from
            the same first place; radian if ``method.is_in_radian``.
        amplitude: loss of amplitude ``-log |object|`` at the same places, or ``None``.
        method: how it was made.
        explained: share of what changes, beyond counting noise, that the linear model explains; NaN where
            nothing is seen to change but by counting.
        upsample: places of the image for each place of the scan, along each axis.
        halves: two phases, each from half of the pixels, faded out at the borders, if they were asked for.
        rings: of a Wiener filter, those with more power than noise alone would show; below the first one, the
            most likely power.
    """

    phase: Float[Tensor, "slow fast"]
    amplitude: Float[Tensor, "slow fast"] | None
    method: DirectMethod
    explained: float
    upsample: int = 1
    halves: tuple[Tensor, Tensor] | None = None
    rings: tuple[PowerRing, ...] = ()


def check_options(method: DirectMethod, upsample: int, ridge: float, high_pass: float | None, /) -> None:
    """Refuse options of an image that a method cannot have.

    Args:
        method: see `DirectMethod`.
        upsample: see `reconstruct_image`, as the others.
        ridge: of a deconvolution.
        high_pass: angstrom.

    Raises:
        BadInput: such an option.
    """
    if not 1 <= upsample <= MAX_UPSAMPLE:
        raise BadInput("upsample", upsample, f"is not supported: write a number from 1 to {MAX_UPSAMPLE}")
    if upsample > 1 and method == DirectMethod.CENTRE_OF_MASS:
        fix = "is not possible with dpc, which has one deflection at each place: use wiener or parallax"
        raise BadInput("upsample", upsample, fix)
    if not 0 < ridge < 1:
        raise BadInput("ridge", ridge, "is not between 0 and 1: write for example 0.01")
    if high_pass is not None and not high_pass > 0:
        raise BadInput("high_pass", high_pass, "is not above zero: write the longest period, such as 5 nm")


def reconstruct_image(
    optics: LinearOptics,
    spectrum: Spectrum,
    /,
    *,
    method: DirectMethod | str = DirectMethod.WIENER,
    border: float = 0.0,
    upsample: int = 1,
    ridge: float = DECONVOLUTION_RIDGE,
    high_pass: float | None = None,
    flip: bool = True,
    halves: bool = False,
) -> DirectImage:
    """The object of a raster scan by one of the direct methods.

    Args:
        optics: the model.
        spectrum: of a raster, with the same ``border``.
        method: see `DirectMethod`.
        border: share of the scan that was faded out on each side.
        upsample: places of the image for each place of the scan, along each axis, 1 to 4. Wiener, least
            squares and optimum bright field solve for all aliases of a frequency together, others take each
            by itself.
        ridge: of ``wdd``, a share of the largest overlap.
        high_pass: period at which ``dpc`` leaves half of the phase, angstrom; default: the shorter side of
            the scan.
        flip: multiply the transfer of ``parallax`` by its sign.
        halves: also make images of two halves of the pixels.

    Raises:
        ValueError: a scan that is no raster, or an unknown method.
        BadInput: an option that the method cannot have.
    """
    method = DirectMethod(method)
    check_options(method, upsample, ridge, high_pass)
    grid = _require_raster(spectrum)
    frequency, place = list_aliases(spectrum, upsample if spectrum.sampling is None else 1)
    length = optics.turn_frequencies(frequency).norm(dim=-1)
    inside = length < 2 * float(optics.semiangle) / optics.wavelength
    if spectrum.sampling is not None and method.is_in_radian:
        inside &= spectrum.sampling.find_distinct()[:, None]
    used = torch.nonzero(inside.any(-1) & (spectrum.frequency.norm(dim=-1) > 0))[:, 0]
    sets = (spectrum, *(methods.split_checkerboard(spectrum) if halves else ()))
    every, *parts = (one.select(used) for one in sets)
    some = [build_normal_equations(optics, one, aliases=frequency[used]) for one in parts or (every,)]
    rings: tuple[PowerRing, ...] = ()
    equations = some[0].add(some[1]) if halves else some[0]
    share = _compute_explained_share(equations, equations.energy - equations.explained())
    if method == DirectMethod.CENTRE_OF_MASS:
        period = high_pass or 1 / float(max(length[1, 0], length[spectrum.frequency.shape[0] // grid[0], 0]))
        objects = [
            methods.integrate_deflections(optics, one, high_pass=period)[:, None] for one in (every, *parts)
        ]
    elif (weight := _choose_weights(method, ridge, flip)) is not None:
        shares = _share_pixels(every)[: 1 + len(parts)]
        objects = _sum_weighted(every, frequency[used], partial(weight, optics, every), shares)
    else:
        blocks = (equations, *(some if halves else ()))
        if spectrum.sampling is not None and method.is_in_radian:
            mixed = [MixedEquations.of(optics, one, used) for one in sets]
            objects, rings, share = _solve_mixed(mixed, blocks, length[used], inside[used], method)
        else:
            objects, rings = _solve_blocks(blocks, method, length[used], inside[used])
    drawing = _Drawing.of(spectrum, upsample, border, method)
    objects = [one * inside[used][..., None] for one in objects]
    # divided out, the fading would spread what both halves share over all frequencies
    drawings = (drawing, *[drawing.without_fading()] * len(parts))
    images = [each.draw(one, place[used]) for each, one in zip(drawings, objects, strict=True)]
    if method == DirectMethod.WIGNER_DECONVOLUTION:
        images = [torch.atan2(one[0], 1 - one[1])[None] for one in images]
    return DirectImage(
        phase=images[0][0],
        amplitude=images[0][1] if method.is_in_radian else None,
        method=method,
        explained=share,
        upsample=upsample,
        halves=(images[1][0], images[2][0]) if halves else None,
        rings=rings,
    )


def _choose_weights(method: DirectMethod, ridge: float, flip: bool) -> Callable[..., Tensor] | None:
    """What weights pixels without a system of equations."""
    return {
        DirectMethod.MATCHED_FILTER: methods.weight_by_transfer,
        DirectMethod.SINGLE_SIDEBAND: methods.weight_by_sideband,
        DirectMethod.PARALLAX: partial(methods.weight_by_parallax, flip=flip),
        DirectMethod.WIGNER_DECONVOLUTION: partial(methods.weight_by_deconvolution, ridge=ridge),
    }.get(method)


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What makes an image from its spectrum.

    Attributes:
        gain: of the image.
        fade: ``(slow, fast)`` by which it was faded, 0 where there is no data.
    """

    gain: float
    fade: Float[Tensor, "slow fast"]

    @classmethod
    def of(cls, spectrum: Spectrum, upsample: int, border: float, method: DirectMethod) -> _Drawing:
        if (sampling := spectrum.sampling) is not None:
            return cls(sampling.gain if method.is_in_radian else sampling.weighted_gain, sampling.window)
        grid = _require_raster(spectrum)
        norm = torch.outer(*(border_weights(n, border) for n in grid)).square().sum().sqrt()
        fade = torch.outer(*(border_weights(n, border, upsample=upsample) for n in grid))
        return cls(float(norm) * upsample**2, fade)

    def without_fading(self) -> _Drawing:
        """For an image that stays as faded as the data."""
        return replace(self, fade=(self.fade > 0).to(self.fade.dtype))

    def draw(
        self, values: Complex[Tensor, "frequency tile column"], place: Int[Tensor, "frequency tile 2"]
    ) -> Float[Tensor, "column slow fast"]:
        """Real images from half of their frequencies; 0 where there is no data."""
        full = values.new_zeros(values.shape[-1], *self.fade.shape)
        known = torch.zeros(full.shape[1:], dtype=torch.bool)
        full[:, place[..., 0], place[..., 1]] = values.movedim(-1, 0)
        known[place[..., 0], place[..., 1]] = True
        opposite = full.conj().flip((-2, -1)).roll((1, 1), (-2, -1))
        images = torch.fft.ifft2(torch.where(known, full, opposite)).real
        divisor = torch.where(self.fade > 0, self.gain / self.fade.clamp_min(0.25), 0.0)
        return images * divisor.to(images.dtype)


def _compute_explained_share(equations: NormalEquations, left: Tensor) -> float:
    """See `DirectImage.explained`."""
    noise = float(equations.count().sum())
    signal = float((equations.energy - equations.pixels).sum())
    numbers = equations.pixels * len(equations.energy)
    seen = signal > 5 * math.sqrt(numbers)  # else nothing but counting is seen to change
    return (float((equations.energy - left).sum()) - noise) / signal if seen else math.nan


def _solve_blocks(
    blocks: Sequence[NormalEquations], method: DirectMethod, length: Tensor, inside: Tensor
) -> tuple[list[Tensor], tuple[PowerRing, ...]]:
    """Objects of all pixels and of two halves with the same prior, and the rings of the prior."""
    prior, rings = None, ()
    if method == DirectMethod.WIENER:
        prior, rings = estimate_prior(blocks[0], length, inside)
    return [weight_object(one, method, prior) for one in blocks], rings


def _solve_mixed(
    mixed: Sequence[MixedEquations],
    blocks: Sequence[NormalEquations],
    length: Tensor,
    inside: Tensor,
    method: DirectMethod,
) -> tuple[list[Tensor], tuple[PowerRing, ...], float]:
    """Objects of positions off a raster, of all pixels and of two halves; rings and share explained.

    ``blocks`` are the equations as if it were a raster.
    """
    wiener = method == DirectMethod.WIENER
    ratio = mixed[0].sampling.weighted_gain / mixed[0].sampling.gain
    count = 1 if wiener else len(mixed)
    objects = []
    for one, block in zip(mixed[:count], blocks[:count], strict=True):
        ridge = block.find_ridge()
        objects.append(one.solve(ridge, partial(_filter, block, ridge), ratio * block.solve()))
    fit = mixed[0].measure(objects[0])
    whole = replace(blocks[0], energy=fit.energy)
    share = _compute_explained_share(whole, fit.left)
    rings: tuple[PowerRing, ...] = ()
    if wiener:
        prior, rings = _build_prior(whole, objects[0], _estimate_noise(whole, fit.left), length, inside)
        objects = [
            one.solve(prior, partial(_filter, block, prior), ratio * apply_wiener_filter(block, prior))
            for one, block in zip(mixed, blocks, strict=True)
        ]
    return [one.unflatten(-1, (-1, 2)) for one in objects], rings, share


def _filter(equations: NormalEquations, prior: Tensor, right: Tensor) -> Tensor:
    return apply_wiener_filter(replace(equations, right=right), prior)


def weight_object(
    equations: NormalEquations, method: DirectMethod, prior: Float[Tensor, "frequency column"] | None, /
) -> Complex[Tensor, "frequency tile column"]:
    """The object's spectrum by a method that solves the equations; components that it does not give are 0.

    Args:
        equations: sums over pixels.
        method: how they are weighted.
        prior: of a Wiener filter, see `estimate_prior`.
    """
    if prior is not None:
        found = apply_wiener_filter(equations, prior)
    elif method == DirectMethod.LEAST_SQUARES:
        found = equations.solve()
    else:
        found = equations.solve() / equations.variance().sqrt() / math.sqrt(equations.pixels)
    return found.unflatten(-1, (-1, 2))


def estimate_prior(
    equations: NormalEquations, length: Float[Tensor, "frequency tile"], inside: Tensor, /
) -> tuple[Float[Tensor, "frequency column"], tuple[PowerRing, ...]]:
    """Noise over power of each component of the object, as a Wiener filter adds it; infinite: no power.

    Args:
        equations: sums over pixels.
        length: of the frequencies.
        inside: which of them the model sees.

    Returns:
        the prior, and the power of the phase by rings.
    """
    noise = _estimate_noise(equations, equations.energy - equations.explained())
    return _build_prior(equations, equations.solve(), noise, length, inside)


def _build_prior(
    equations: NormalEquations, objects: Tensor, noise: float, length: Tensor, inside: Tensor
) -> tuple[Float[Tensor, "frequency column"], tuple[PowerRing, ...]]:
    """The same from an object by least squares, and what is left of the data."""
    found = objects.unflatten(-1, (-1, 2))[inside]
    variance = (noise * equations.variance()).unflatten(-1, (-1, 2))
    radius = length[inside]
    power = torch.zeros_like(variance)
    columns = [fit_rings(found[:, one], variance[inside][:, one], radius) for one in range(found.shape[-1])]
    for one, rings in enumerate(columns):
        values = torch.zeros_like(radius, dtype=power.dtype)
        for index, level in rings:
            values[index] = level
        power[..., one][inside] = values
    shown = tuple(PowerRing(float(radius[index].mean()), level) for index, level in columns[0])
    if shown:
        below = _extend_down(found[:, 0], variance[inside][:, 0], radius, columns[0][0][0])
        shown = (*below, *shown[1:])
    prior = torch.where(power > 0, noise / power.clamp_min(1e-30), torch.inf)
    return prior.flatten(1), shown


def apply_wiener_filter(
    equations: NormalEquations, prior: Float[Tensor, "frequency column"], /
) -> Complex[Tensor, "frequency column"]:
    """The most likely object of a power.

    Args:
        equations: sums over pixels.
        prior: see `estimate_prior`.
    """
    shown = torch.isfinite(prior)
    matrix = equations.matrix + torch.diag_embed(torch.where(shown, prior, 0.0)).to(equations.matrix.dtype)
    # a component without power is left out: its row and column become those of the identity
    both = shown[..., :, None] & shown[..., None, :]
    identity = torch.diag_embed((~shown).to(matrix.real.dtype)).to(matrix.dtype)
    matrix = torch.where(both, matrix, torch.zeros((), dtype=matrix.dtype)) + identity
    right = torch.where(shown, equations.right, torch.zeros((), dtype=matrix.dtype))
    return torch.linalg.solve(matrix, right[..., None])[..., 0]


def _estimate_noise(equations: NormalEquations, left: Tensor) -> float:
    """What is left per pixel and frequency, in units of counting noise: the median over frequencies."""
    free = (equations.pixels - equations.count()).clamp_min(1)
    return max(float((left.clamp_min(0) / free).median()), 1e-12)


def fit_rings(
    found: Complex[Tensor, " frequency"],
    variance: Float[Tensor, " frequency"],
    length: Float[Tensor, " frequency"],
    /,
) -> list[tuple[Int[Tensor, " some"], float]]:
    """Rings of a spectrum where more than noise is seen: which frequencies, and their most likely power.

    Args:
        found: a component of the object by least squares.
        variance: of it by noise.
        length: of the frequencies.
    """
    order = torch.argsort(length)
    size = max(8, min(MIN_RING_FREQUENCIES, len(order) // 8))
    first = 0
    rings: list[tuple[Tensor, float]] = []
    for last in [*range(size, len(order) - size, size), len(order)]:
        index = order[first:last]
        level, error = _fit_power(found[index].abs().square(), variance[index])
        if level > MIN_PRIOR_SIGNIFICANCE * error:
            rings.append((index, level))
            first = last
        elif last - first >= MAX_RINGS_MERGED * size:  # a ring that stays dark is left out
            first = last
    return rings


EXPONENTS = torch.linspace(0.0, 4.0, 9, dtype=torch.float64)
"""With which the power of an object may fall towards the first ring where it is seen."""

USUAL_EXPONENT = 2.0
"""Of the power of natural images (doi 10.1364/JOSAA.4.002379); 1 is its standard deviation."""


def _extend_down(
    found: Complex[Tensor, " frequency"],
    variance: Float[Tensor, " frequency"],
    length: Float[Tensor, " frequency"],
    ring: Int[Tensor, " some"],
    /,
) -> list[PowerRing]:
    """Most likely power from the lowest frequency to the first ring that is seen, by two power laws.

    A ring holds frequencies over which power and noise differ by orders of magnitude; its mean is that of the
    highest ones.

    Args:
        found: a component of the object by least squares, as the others of `fit_rings`.
        variance: of it by noise.
        length: of the frequencies.
        ring: the first one.
    """
    below = length <= length[ring].max()
    squares = found[below].abs().square().double()
    noise = variance[below].double()
    first, last = float(length.min()), float(length[ring].mean())
    middle = math.sqrt(first * last)
    decades = (length[below].double() / last).log()
    bend = math.log(middle / last)
    upper, lower = decades.clamp_min(bend), decades.clamp_max(bend) - bend
    laws = torch.cartesian_prod(EXPONENTS, EXPONENTS)
    shapes = torch.exp(-laws @ torch.stack([upper, lower]))
    doubt = (laws - USUAL_EXPONENT).square().sum(-1) / 2
    levels = float(squares.mean()) * torch.logspace(-4, 1, 61, dtype=torch.float64)
    costs = torch.stack([_compare(shapes * one + noise, squares) + doubt for one in levels])
    at = divmod(int(costs.argmin()), len(laws))
    level, (high, low) = float(levels[at[0]]), laws[at[1]].tolist()
    bent = level * (last / middle) ** high
    rings = [
        PowerRing(first, bent * (middle / first) ** low),
        PowerRing(middle, bent),
        PowerRing(last, level),
    ]
    return rings if first < last else rings[-1:]


def _compare(expected: Tensor, squares: Tensor) -> Tensor:
    """Negative logarithm of the likelihood of squares of normal complex numbers."""
    return (expected.log() + squares / expected).sum(-1)


def _fit_power(squares: Tensor, noise: Tensor) -> tuple[float, float]:
    """The most likely power of some components, and its standard error if there were none."""
    level = torch.zeros_like(noise[0])
    for _ in range(PRIOR_ITERATIONS):
        weight = (level + noise).square().reciprocal()
        level = ((squares - noise) * weight).sum() / weight.sum()
        level = level.clamp_min(0)
    return float(level), float(noise.square().reciprocal().sum().rsqrt())
