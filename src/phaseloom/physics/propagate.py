"""Multislice and free flight: between slices, to a near detector, to a far one, between tilted planes.

All kernels live in the Fourier domain with zero frequency in the corner and drop the carrier
``exp(i k z)``. The angular spectrum is written as ``exp(i z (kz - k))`` with
``kz - k = -q^2 / (sqrt(k^2 - q^2) + k)``, which does not cancel at small angles, so distances can be
differentiated in float32 (Goodman, Introduction to Fourier Optics, section 3.10).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.fourier import frequencies, to_real, to_reciprocal
from phaseloom.physics.patches import scatter

__all__ = [
    "angular_spectrum",
    "far_field",
    "flight_phase_and_decay",
    "fly",
    "fresnel",
    "fresnel_scaling",
    "illuminate",
    "matrix_transform",
    "multislice",
    "tilt_ramp",
    "tilted_plane_kernel",
    "transmit",
]


def fresnel(
    shape: tuple[int, int], pixel: tuple[float, float], wavelength: float, distance: Tensor, /
) -> Complex[Tensor, "*batch y x"]:
    """Paraxial kernel ``exp(-i pi wavelength z f^2)``.

    Args:
        shape: window (y, x).
        pixel: angstrom (y, x).
        wavelength: angstrom.
        distance: angstrom, any shape ``*batch``; the dtype of the kernel follows it.

    Example:
        >>> h = fresnel((8, 8), (1.0, 1.0), 0.02, torch.tensor(10.0))
        >>> h.shape, h.abs().min().item()
        (torch.Size([8, 8]), 1.0)
    """
    y, x = frequencies(shape, pixel, like=distance)
    angle = -math.pi * wavelength * distance[..., None, None] * (y**2 + x**2)
    return torch.polar(torch.ones_like(angle), angle)


def angular_spectrum(
    shape: tuple[int, int], pixel: tuple[float, float], wavelength: float, distance: Tensor, /
) -> Complex[Tensor, "*batch y x"]:
    """Exact scalar kernel ``exp(i z (kz - k))``; evanescent waves decay in either direction."""
    y, x = frequencies(shape, pixel, like=distance)
    sine = wavelength**2 * (y**2 + x**2)
    k = 2 * math.pi / wavelength
    inside = torch.sqrt(torch.clamp(1 - sine, min=0))
    z = distance[..., None, None]
    phase = -z * k * torch.where(sine < 1, sine / (inside + 1), torch.ones_like(sine))
    decay = torch.exp(-z.abs() * k * torch.sqrt(torch.clamp(sine - 1, min=0)))
    return torch.polar(decay, phase)


def tilt_ramp(
    shape: tuple[int, int], pixel: tuple[float, float], distance: Tensor, tilt: Float[Tensor, "*batch 2"], /
) -> Complex[Tensor, "*batch y x"]:
    """Factor that makes a kernel fly along a tilted axis: ``exp(2 pi i z f . tan(tilt))``.

    Columns of the object lean by ``tilt = (y, x)`` radian: after ``distance`` the next slice lies
    ``z tan(tilt)`` further along the axis, so in its frame the wave moves by the negative amount.

    Source:
        Sha, Cui & Yu 2022, doi 10.1126/sciadv.abn2275.
    """
    y, x = frequencies(shape, pixel, like=tilt)
    step = 2 * math.pi * distance[..., None] * torch.tan(tilt)
    rows = step[..., :1, None] * y
    columns = step[..., 1:, None] * x
    return torch.polar(torch.ones_like(rows), rows) * torch.polar(torch.ones_like(columns), columns)


def fly(
    wave: Complex[Tensor, "*#batch y x"], kernel: Complex[Tensor, "*#batch y x"], /
) -> Complex[Tensor, "*#batch y x"]:
    """Propagate a wave with a kernel; with unit-modulus kernels no power is lost.

    Example:
        >>> spot = torch.zeros(1, 8, 8, dtype=torch.complex64)
        >>> spot[0, 4, 4] = 1
        >>> there = fly(spot, fresnel((8, 8), (1.0, 1.0), 0.5, torch.tensor(3.0))[None])
        >>> round(there.abs().square().sum().item(), 5)
        1.0
    """
    return to_real(to_reciprocal(wave) * kernel)


def far_field(wave: Complex[Tensor, "*batch y x"], /) -> Complex[Tensor, "*batch y x"]:
    """Wave on a distant detector, zero frequency in the corner."""
    return to_reciprocal(wave)


def matrix_transform(count: int, places: int, stretch: float, /) -> Complex[Tensor, "k x"]:
    """Matrix of a Fourier transform to frequencies that lie ``stretch`` times closer than those of an FFT.

    ``exp(-2 pi i k x / (count stretch)) / sqrt(count stretch)`` for ``count`` frequencies ``k`` with zero
    first and places ``x`` from the middle ``places // 2``: what a detector of ``count`` pixels sees of a
    wavelength ``stretch`` times as long as the one for which the places are pixels as an FFT wants them.
    With a window of ``count stretch`` places no power is lost as long as the wave fits on the detector; the
    adjoint then brings waves back.

    Source:
        Soummer et al. 2007, doi 10.1364/OE.15.015935.

    Example:
        >>> wave = torch.randn(8, 8, dtype=torch.complex128)
        >>> one = matrix_transform(8, 8, 1.0)
        >>> torch.allclose((one @ wave @ one.T).abs(), far_field(wave).abs())
        True
    """
    frequency = torch.fft.fftfreq(count, 1 / count, dtype=torch.float64)
    place = torch.arange(places, dtype=torch.float64) - places // 2
    phase = -2 * math.pi / (count * stretch) * frequency[:, None] * place
    return torch.polar(torch.full_like(phase, (count * stretch) ** -0.5), phase)


def fresnel_scaling(focus: float, distance: float, /) -> tuple[float, float]:
    """Magnification and effective distance of a cone beam seen as a parallel one.

    A point source ``focus`` before the object and a detector ``distance`` behind it give the pattern
    of a parallel beam at ``distance / M``, magnified by ``M = (focus + distance) / focus``
    (Paganin, Coherent X-Ray Optics, appendix B).

    Example:
        >>> fresnel_scaling(1.0, 3.0)
        (4.0, 0.75)
    """
    if math.isinf(focus):
        return 1.0, distance
    magnification = (focus + distance) / focus
    return magnification, distance / magnification


def tilted_plane_kernel(
    shape: tuple[int, int],
    basis: Float[Tensor, "3 2"],
    wavelength: float,
    offset: Float[Tensor, " 3"],
    along: Float[Tensor, " 3"] | None = None,
    /,
) -> Complex[Tensor, "y x"]:
    """Kernel that takes a wave from one plane to a parallel one whose grid is moved by a vector.

    The wave is a carrier ``exp(i k p . r)`` times an envelope on the grid ``r = basis @ (row, column)``.
    For a frequency ``q`` of the envelope in the plane, ``K = k p + q`` in the plane and the normal part of
    the wave vector is ``kn = sqrt(k^2 - |K|^2)``, so the envelope at the offset ``d`` is multiplied by
    ``exp(i d . (q + n (kn - k p . n)))``. As in `propagate` the difference is written without cancellation,
    ``kn - k p.n = -(|q|^2 + 2 k p . q) / (kn + k p.n)``. Evanescent waves decay in either direction.

    Args:
        shape: window (y, x).
        basis: step between rows, step between columns, ``(xyz, 2)``; any length, oblique too. Its dtype
            is that of the kernel.
        wavelength: in the same unit.
        offset: from the first plane's grid to the second's, (x, y, z).
        along: direction ``p`` of the carrier; default: the normal of the planes on the side of the offset.

    Returns:
        Zero frequency in the corner; for `propagate.fly`. Differentiable in all vectors.

    Raises:
        BadInput: rows and columns are parallel, or the carrier runs in the plane.

    Example:
        >>> from phaseloom.physics.propagate import angular_spectrum
        >>> upright = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
        >>> kernel = tilted_plane_kernel((6, 5), upright, 0.5, torch.tensor([0.0, 0.0, 40.0]))
        >>> same = angular_spectrum((6, 5), (3.0, 2.0), 0.5, torch.tensor(40.0))
        >>> bool(torch.allclose(kernel, same, atol=1e-4))
        True
    """
    turn, loss = flight_phase_and_decay(shape, basis, wavelength, offset, along)
    return torch.polar(torch.exp(-loss), turn)


def flight_phase_and_decay(
    shape: tuple[int, int],
    basis: Float[Tensor, "3 2"],
    wavelength: float,
    offset: Float[Tensor, " 3"],
    along: Float[Tensor, " 3"] | None = None,
    /,
) -> tuple[Float[Tensor, "y x"], Float[Tensor, "y x"]]:
    """Phase (radian) and decay (exponent) of each frequency of `tilted_plane_kernel`.

    Both are proportional to the length of the offset, so flights of many lengths share one table.

    Example:
        >>> upright = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
        >>> turn, loss = flight_phase_and_decay((6, 5), upright, 0.5, torch.tensor([0.0, 0.0, 40.0]))
        >>> float(turn[0, 0]), bool((turn <= 0).all()), float(loss.max())
        (0.0, True, 0.0)
    """
    normal = torch.linalg.cross(basis[:, 0], basis[:, 1])
    area = normal.norm()
    if not area > 1e-6 * basis.norm(dim=0).prod():
        raise BadInput("oblique.basis", basis.tolist(), "has parallel rows and columns: give two directions")
    normal = normal / area
    side = normal @ (offset if along is None else along)
    normal = torch.where(side < 0, -normal, normal)
    carrier = normal if along is None else along / along.norm()
    k = 2 * math.pi / wavelength
    cosine = carrier @ normal
    if not cosine > 1e-6:
        raise BadInput("oblique.along", carrier.tolist(), "runs in the plane: the wave would never arrive")
    q = _plane_waves(shape, basis)
    flat = k * (carrier - cosine * normal)
    gained = (q.square().sum(0) + 2 * torch.einsum("i,iyx->yx", flat, q)) / k**2
    square = cosine**2 - gained
    flies = square > 0
    one = torch.ones_like(square)
    depth = offset @ normal
    root = torch.where(flies, square, one).sqrt()
    change = torch.where(flies, -gained / (root + cosine), -cosine)
    loss = torch.where(flies, 0.0, k * depth.abs() * torch.where(flies, one, -square).sqrt())
    return torch.einsum("i,iyx->yx", offset, q) + k * depth * change, loss


def _plane_waves(shape: tuple[int, int], basis: Tensor) -> Float[Tensor, "3 y x"]:
    """Wave vectors in the plane that fit a grid, radian per unit length."""
    y, x = (2 * math.pi * torch.fft.fftfreq(n, dtype=basis.dtype, device=basis.device) for n in shape)
    inverse = torch.linalg.pinv(basis).transpose(0, 1)
    return inverse[:, 0, None, None] * y[:, None] + inverse[:, 1, None, None] * x


Flights = Sequence[Tensor] | Tensor | None


def transmit(
    wave: Complex[Tensor, "b *#state mode y x"], slice_: Complex[Tensor, "#b *state y x"], /
) -> Complex[Tensor, "b *state mode y x"]:
    """Multiply every mode by one thin slice, in each state of the object."""
    return wave * slice_.unsqueeze(-3)


def multislice(
    wave: Complex[Tensor, "b *#state mode y x"],
    slices: Complex[Tensor, "b *state slice y x"],
    kernel: Flights,
    /,
) -> Complex[Tensor, "b *state mode y x"]:
    """Exit wave after all slices: transmit, fly, transmit ...; no flight after the last one.

    Args:
        wave: incident modes of each position.
        slices: transmission windows of each position; an object in several states has an axis for them.
        kernel: flight between slices: one for all gaps ``(y, x)``, one per gap ``(gap, y, x)``, or a
            sequence of one tensor per gap that broadcasts against the wave; ``None`` for a single slice.

    Source:
        Cowley & Moodie 1957, doi 10.1107/S0365110X57002194; in ptychography: Maiden, Humphry & Rodenburg
        2012, doi 10.1364/JOSAA.29.001606.

    Example:
        >>> import torch
        >>> wave, slices = torch.ones(1, 2, 4, 4) + 0j, torch.ones(1, 3, 4, 4) + 0j
        >>> multislice(wave, slices, torch.ones(4, 4) + 0j).shape
        torch.Size([1, 2, 4, 4])
    """
    first, *rest = slices.unbind(-3)
    wave = transmit(wave, first)
    for gap, slice_ in enumerate(rest):
        wave = transmit(fly(wave, _kernel_of_gap(kernel, gap)), slice_)
    return wave


@torch.no_grad()
def illuminate(
    light: Float[Tensor, "slice v u"],
    corner: Int[Tensor, "b 2"],
    wave: Complex[Tensor, "b *#state mode y x"],
    slices: Complex[Tensor, "b *state slice y x"],
    kernel: Flights,
    /,
    *,
    share: Float[Tensor, " state"] | None = None,
) -> None:
    """Add to ``light`` what falls on each slice: ``sum |wave|^2`` over patterns and modes, in place.

    Args:
        light: over the whole object.
        corner: top-left pixels of the windows in it.
        wave: see `multislice`.
        slices: see `multislice`.
        kernel: see `multislice`.
        share: of each state of the object.
    """
    first, *rest = slices.unbind(-3)
    for number, slice_ in enumerate((first, *rest)):
        if number:
            wave = fly(wave, _kernel_of_gap(kernel, number - 1))
        power = wave.abs().square().sum(-3)
        if power.ndim == 4:
            same = power.new_full((power.shape[1],), 1 / power.shape[1])
            power = ((same if share is None else share)[:, None, None] * power).sum(1)
        light[number] += scatter(power, corner, (light.shape[-2], light.shape[-1]))
        wave = transmit(wave, slice_)


def _kernel_of_gap(kernel: Flights, gap: int) -> Tensor:
    """Of kernels for all gaps, or one for each."""
    assert kernel is not None
    return kernel if isinstance(kernel, Tensor) and kernel.ndim == 2 else kernel[gap]
