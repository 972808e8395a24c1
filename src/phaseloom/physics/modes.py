"""Incoherent modes of a beam: their powers, unitary mixing, and the caustic around a focus."""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.physics.propagate import angular_spectrum, fly

__all__ = ["Caustic", "measure_caustic", "orthogonalise", "powers"]


def orthogonalise(modes: Complex[Tensor, "mode y x"], /) -> Complex[Tensor, "mode y x"]:
    """Orthogonal modes with the same incoherent sum everywhere, strongest first.

    A unitary mixing of the modes (left singular vectors): the density matrix, and with it every
    pattern behind any object, stays the same (Thibault & Menzel 2013, doi 10.1038/nature11806).

    Example:
        >>> m = torch.randn(3, 8, 8, dtype=torch.complex64)
        >>> (orthogonalise(m).abs().square().sum(0) - m.abs().square().sum(0)).abs().max().item() < 1e-4
        True
    """
    flat = modes.flatten(1)
    left, _, _ = torch.linalg.svd(flat, full_matrices=False)
    return (left.mH @ flat).reshape(modes.shape)


def powers(modes: Complex[Tensor, "mode y x"], /) -> Float[Tensor, " mode"]:
    """Share of each mode in the total power; they add to one."""
    power = modes.abs().square().sum((-2, -1))
    return power / power.sum()


@dataclass(frozen=True, eq=False)
class Caustic:
    """Intensity of a beam around its focus; lengths in the unit of the pixel.

    Attributes:
        distances: ``(z)``, positive downstream of the plane the modes were given in.
        cut_y: ``(z, y)`` intensity along y, through the centre of mass at each distance.
        cut_x: ``(z, x)`` the same along x.
        centre: ``(z, 2)`` centre of mass (y, x), from the middle pixel ``[N // 2, N // 2]``.
        width: ``(z, 2)`` root-mean-square width (y, x) of the intensity. Four times it is the beam
            diameter D4sigma of ISO 11146, twice it the radius ``w`` of a Gaussian beam.
        waist: distance at which ``width`` squared, summed over both axes, is smallest.
        line_foci: (y, x) the same for each axis; they differ if the beam is astigmatic.
    """

    distances: Float[Tensor, " z"]
    cut_y: Float[Tensor, "z y"]
    cut_x: Float[Tensor, "z x"]
    centre: Float[Tensor, "z 2"]
    width: Float[Tensor, "z 2"]
    waist: float
    line_foci: tuple[float, float]


def measure_caustic(
    modes: Complex[Tensor, "mode y x"],
    pixel: tuple[float, float],
    wavelength: float,
    distances: Float[Tensor, " z"],
    /,
) -> Caustic:
    """Propagate incoherent modes to many distances (angular spectrum) and measure the beam at each.

    The waist lies between the given distances: squared widths of any beam, coherent or not, are a
    parabola of distance as long as angles are small (Siegman 1990, doi 10.1117/12.18425), which is laid
    through the three smallest neighbours; a beam narrowest at an end has its waist there. Second moments
    see everything in the window, which is periodic: it must hold the beam at every distance
    (`fourier.fit_window` widens it), and the tails of a hard aperture count.

    Args:
        modes: waves in one plane.
        pixel: (y, x), for instance angstrom.
        wavelength: the same unit.
        distances: the same unit, ascending, three or more for a waist between them; its precision is
            that of the kernels.

    Example:
        >>> y, x = torch.meshgrid(*(torch.arange(64.0) - 32,) * 2, indexing="ij")
        >>> focus = torch.exp(-(y**2 + x**2) / 16).to(torch.complex64)[None]
        >>> beam = measure_caustic(focus, (1.0, 1.0), 0.1, torch.linspace(-90.0, 150.0, 9))
        >>> abs(beam.waist) < 0.1, [round(width, 3) for width in beam.width[3].tolist()]
        (True, [2.0, 2.0])
    """
    rows, columns = modes.shape[-2:]
    distances = distances.to(modes.device)
    axes = [(torch.arange(n).to(distances) - n // 2) * d for n, d in zip((rows, columns), pixel, strict=True)]
    cuts_y = []
    cuts_x = []
    centres = []
    widths = []
    for distance in distances:
        kernel = angular_spectrum((rows, columns), pixel, wavelength, distance)
        intensity = fly(modes, kernel).abs().square().sum(0)
        moments = [_moments(intensity.sum(1), axes[0]), _moments(intensity.sum(0), axes[1])]
        centres.append(torch.stack([mean for mean, _ in moments]))
        widths.append(torch.stack([width for _, width in moments]))
        y, x = (int((a - c).abs().argmin()) for a, c in zip(axes, centres[-1], strict=True))
        cuts_y.append(intensity[:, x])
        cuts_x.append(intensity[y])
    width = torch.stack(widths)
    spread = width.double().square().cpu()
    waist, *foci = (
        _parabola_vertex(distances, squared) for squared in (spread.sum(1), spread[:, 0], spread[:, 1])
    )
    return Caustic(
        distances=distances,
        cut_y=torch.stack(cuts_y),
        cut_x=torch.stack(cuts_x),
        centre=torch.stack(centres),
        width=width,
        waist=waist,
        line_foci=(foci[0], foci[1]),
    )


def _moments(profile: Float[Tensor, " n"], place: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a distribution along one axis."""
    share = profile / profile.sum()
    mean = (share * place).sum()
    return mean, (share * (place - mean).square()).sum().sqrt()


def _parabola_vertex(distances: Float[Tensor, " z"], squared: Float[Tensor, " z"]) -> float:
    """Vertex of the parabola through the smallest value and its neighbours."""
    z = distances.detach().double().cpu()
    best = int(squared.argmin())
    if best in (0, len(z) - 1):
        return float(z[best])
    before = z[best - 1] - z[best]
    after = z[best + 1] - z[best]
    down = squared[best - 1] - squared[best]
    up = squared[best + 1] - squared[best]
    bend = up * before - down * after
    return float(z[best] + (0.5 * (up * before**2 - down * after**2) / bend if bend != 0 else 0))
