"""What is imposed on parts after an epoch: each a function of tensors, applied by the loop.

The names of its positional parameters say which parts it is given, and in that order it returns them
changed: ``probe`` modes, ``object`` (complex transmission), its ``amplitude`` and ``phase``, refined
``offsets`` of positions in pixels, ``tilts`` in radian. A parameter ``setting`` is given and not returned.

A new one is one function, here or in the file of its parts, and its name in ``__all__``.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics import filters, slices
from phaseloom.physics.fourier import to_real, to_reciprocal
from phaseloom.physics.modes import orthogonalise, powers
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.physics.slices import estimate_lean
from phaseloom.ptycho.projections.objects import (
    bounded_amplitude,
    complex_ratio,
    depth_blur,
    lateral_blur,
    low_pass,
    mirrored_amplitude,
    missing_wedge,
    one_material,
    positive,
    require_above_zero,
    require_odd,
    require_share,
    strongest_cosines,
)
from phaseloom.units import Angle, Length

__all__ = [
    "Setting",
    "aperture",
    "bounded",
    "bounded_amplitude",
    "complex_ratio",
    "depth_blur",
    "lateral_blur",
    "low_pass",
    "mirrored_amplitude",
    "missing_wedge",
    "one_material",
    "orthogonal",
    "positive",
    "power",
    "recentre",
    "smooth_tilts",
    "still",
    "strongest_cosines",
    "support",
    "upright",
]


@dataclass(frozen=True)
class Setting:
    """What a projection may need to know of an experiment besides the parts.

    Attributes:
        pixel: of probe and object, angstrom (y, x).
        wavelength: angstrom.
        thickness: gaps between neighbouring slices, angstrom; none for a single slice.
        grid: positions of a raster (slow, fast); ``None`` for other scans.
        power: of the probe that the reconstruction started with.

    Example:
        >>> Setting((0.3, 0.3), 0.0418, (10.0, 10.0), (4, 5), 1e4).grid
        (4, 5)
    """

    pixel: tuple[float, float]
    wavelength: float
    thickness: tuple[float, ...] = ()
    grid: tuple[int, int] | None = None
    power: float = 1.0


def orthogonal(probe: Complex[Tensor, "mode y x"], /) -> Complex[Tensor, "mode y x"]:
    """Modes made orthogonal, strongest first; every pattern stays as it is.

    Each keeps the phase of that mode before of which it holds most, so that modes which are orthogonal
    already stay, and what an optimizer remembers of them holds.

    Example:
        >>> probe = torch.eye(3)[:, None] * torch.tensor([3.0, 2.0, 1.0])[:, None, None] * 1j
        >>> bool((orthogonal(probe) - probe).abs().max() < 1e-6)
        True
    """
    new = orthogonalise(probe)
    overlap = new.flatten(1) @ probe.flatten(1).mH
    most = overlap.gather(1, overlap.abs().argmax(1, keepdim=True))
    return new * most.sgn().conj()[:, :, None]


def power(probe: Complex[Tensor, "mode y x"], setting: Setting, /) -> Complex[Tensor, "mode y x"]:
    """All modes scaled together to the power that the probe started with.

    Example:
        >>> probe = torch.ones(2, 3, 4) + 0j
        >>> power(probe, Setting((1.0, 1.0), 0.02, power=6.0)).abs().square().sum().item()
        6.0
    """
    return probe * (setting.power / probe.abs().square().sum().clamp(min=1e-30)).sqrt()


def aperture(
    probe: Complex[Tensor, "mode y x"],
    /,
    *,
    radius: float = 0.22,
    width: float = 0.05,
    share: float = 0.95,
) -> Complex[Tensor, "mode y x"]:
    """Strong modes cut off softly beyond a radius in the aperture plane; modes sorted again.

    It keeps the probe from taking up structure of the object. The power falls, so `power` should follow.

    Args:
        probe: modes, strongest first.
        radius: where half is let through, as a share of the highest frequency of an axis; must leave the
            whole bright-field disk.
        width: of the soft edge, as a share of the full band; see `phaseloom.physics.filters.sigmoid_window`.
        share: modes are cut off up to that one with which they hold this share of the power.

    Example:
        >>> aperture(torch.ones(2, 8, 9) + 0j, radius=0.5).shape
        torch.Size([2, 8, 9])
    """
    require_above_zero("aperture.radius", radius)
    require_above_zero("aperture.width", width)
    require_share("aperture.share", share)
    window = filters.sigmoid_window(
        (probe.shape[-2], probe.shape[-1]), radius=radius, width=width, like=probe
    )
    return _replace_strong_modes(probe, to_real(to_reciprocal(probe) * window), share)


def support(
    probe: Complex[Tensor, "mode y x"],
    setting: Setting,
    /,
    *,
    radius: float = 0.95,
    order: int = 6,
    share: float = 0.95,
    depths: tuple[Length, Length] = (-500.0, 500.0),
    steps: int = 101,
) -> Complex[Tensor, "mode y x"]:
    """Strong modes cut off softly beyond a radius in the plane where the probe is sharpest; sorted again.

    The probe flies to the depth where the sum of its modes' fourth powers is largest, is multiplied by
    ``exp(-(r / radius)^(2 order) / 2)`` and flies back. The power falls, so `power` should follow.

    Args:
        probe: modes, strongest first.
        setting: see `Setting`.
        radius: of the support; 1 reaches the middles of the window's edges.
        order: how steep the edge is.
        share: see `aperture`.
        depths: where to look for the sharpest plane, first and last.
        steps: number of planes to look at.

    Example:
        >>> support(torch.ones(2, 8, 9) + 0j, Setting((0.5, 0.5), 0.02), steps=3).shape
        torch.Size([2, 8, 9])
    """
    require_above_zero("support.radius", radius)
    require_above_zero("support.order", float(order))
    require_above_zero("support.steps", float(steps))
    require_share("support.share", share)
    planes = torch.linspace(*depths, steps, dtype=torch.float64).tolist()
    sharpest = max(planes, key=lambda z: float(_fly_probe(probe, setting, z).abs().pow(4).sum()))
    shape = (probe.shape[-2], probe.shape[-1])
    window = filters.super_gaussian(shape, radius=radius, order=order, like=probe)
    inside = _fly_probe(_fly_probe(probe, setting, sharpest) * window, setting, -sharpest)
    return _replace_strong_modes(probe, inside, share)


def bounded(
    object: Complex[Tensor, "*mode slice y x"], /, *, most: float = 1.0
) -> Complex[Tensor, "*mode slice y x"]:
    """Transmission whose modulus exceeds ``most`` brought back to it: matter does not amplify."""
    require_above_zero("bounded.most", most)
    modulus = object.abs().clamp(min=1e-12)
    return object * torch.clamp(most / modulus, max=1.0)


def recentre(
    object: Complex[Tensor, "state slice y x"],
    probe: Complex[Tensor, "mode v u"],
    setting: Setting,
    /,
    *,
    percentile: float = 95.0,
    scale: float = 1.0,
    most: float = 10.0,
) -> tuple[Complex[Tensor, "state slice y x"], Complex[Tensor, "mode v u"]]:
    """Object moved to the middle of its slices, and the focus of the probe with it.

    Depth of an object and defocus of its probe cannot be told apart by patterns, so both may drift. What
    leaves the stack at one end enters at the other: leave a slice of vacuum at either.

    Args:
        object: transmission.
        probe: modes.
        setting: see `Setting`; gaps of different size count with their mean.
        percentile: voxels with less phase do not count for the centre.
        scale: part of the shift that is done at once.
        most: largest shift at once, slices.

    Example:
        >>> stack = torch.ones(1, 3, 4, 4) + 0j
        >>> moved, probe = recentre(stack, stack[0, :2], Setting((0.5, 0.5), 0.02, (10.0, 10.0)))
        >>> moved.shape, probe.shape
        (torch.Size([1, 3, 4, 4]), torch.Size([2, 4, 4]))
    """
    require_above_zero("recentre.scale", scale)
    require_above_zero("recentre.most", most)
    if not 0 <= percentile < 100:
        raise BadInput("projections: recentre.percentile", percentile, "must be from 0 to below 100")
    if not setting.thickness:
        return object, probe
    moved, shift = slices.recentre_slices(object, percentile=percentile, scale=scale, most=most)
    gap = sum(setting.thickness) / len(setting.thickness)
    return moved, _fly_probe(probe, setting, -float(shift) * gap)


def still(offsets: Float[Tensor, "n 2"], /, *, relax: float = 0.0) -> Float[Tensor, "n 2"]:
    """Refined offsets less their mean: a common shift belongs to probe and object, not to the scan.

    Args:
        offsets: pixels.
        relax: part of the mean that may stay.

    Example:
        >>> still(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    require_share("still.relax", relax)
    return offsets - (1 - relax) * offsets.mean(0)


def smooth_tilts(
    tilts: Float[Tensor, "n 2"], setting: Setting, /, *, std: float = 2.0, taps: int = 5
) -> Float[Tensor, "n 2"]:
    """Tilts of the positions of a raster blurred over the raster; one common tilt stays as it is.

    Args:
        tilts: radian.
        setting: see `Setting`.
        std: of the Gaussian, scan positions.
        taps: length of the kernel, odd.

    Raises:
        BadInput: the scan is not a raster.

    Example:
        >>> tilts = torch.zeros(12, 2)
        >>> smooth_tilts(tilts, Setting((0.5, 0.5), 0.02, grid=(3, 4))).shape
        torch.Size([12, 2])
    """
    require_above_zero("smooth_tilts.std", std)
    require_odd("smooth_tilts.taps", taps)
    if len(tilts) == 1:
        return tilts
    if setting.grid is None or math.prod(setting.grid) != len(tilts):
        fix = f"is not a full raster of {len(tilts)} positions: leave smooth_tilts out"
        raise BadInput("projections: smooth_tilts", setting.grid, fix)
    field = tilts.reshape(*setting.grid, 2)
    return filters.blur(field, (0, 1), std=std, taps=taps).reshape(tilts.shape)


def upright(
    object: Complex[Tensor, "state slice y x"],
    tilts: Float[Tensor, "n 2"],
    setting: Setting,
    /,
    *,
    share: float = 1.0,
    most: Angle = 10e-3,
) -> tuple[Complex[Tensor, "state slice y x"], Float[Tensor, "n 2"]]:
    """Columns of the object made to stand upright, and the tilt changed to what they leaned by.

    A tilt and a sheared object give the same far-field patterns, so that gradients hardly know the one
    from the other. Among all such pairs this takes the one whose slices lie above each other best: right
    for a specimen of columns, meaningless for slices with nothing in common. A single slice stays.

    Args:
        object: transmission.
        tilts: radian; those of single patterns change by the same amount.
        setting: see `Setting`.
        share: part of the lean that is taken out at once.
        most: largest lean looked for along either axis.

    Example:
        >>> stack, tilts = torch.ones(1, 3, 6, 5) + 0j, torch.zeros(1, 2)
        >>> upright(stack, tilts, Setting((0.5, 0.5), 0.02, (10.0, 10.0)))[1].tolist()
        [[0.0, 0.0]]
    """
    require_share("upright.share", share)
    require_above_zero("upright.most", most)
    if not setting.thickness:
        return object, tilts
    phase = (object * object.mean((-2, -1), keepdim=True).conj()).angle()
    slope = share * torch.tan(estimate_lean(phase, setting.thickness, setting.pixel, most=most))
    straight = slices.shear_slices(object, setting.thickness, setting.pixel, -slope.atan())
    return straight, torch.atan(torch.tan(tilts) + slope.to(tilts))


def _fly_probe(probe: Tensor, setting: Setting, distance: float) -> Tensor:
    """Modes after free flight; the kernel is built in float64."""
    step = torch.tensor(distance, dtype=torch.float64, device=probe.device)
    shape = (probe.shape[-2], probe.shape[-1])
    return fly(probe, angular_spectrum(shape, setting.pixel, setting.wavelength, step).to(probe.dtype))


def _replace_strong_modes(probe: Tensor, changed: Tensor, share: float) -> Tensor:
    """The changed modes where the mode is needed for a share of the power, sorted by power."""
    reached = powers(probe).cumsum(0) >= share
    before = reached.cumsum(0) - reached.long()
    mixed = torch.where((before == 0)[:, None, None], changed, probe)
    return mixed[powers(mixed).argsort(descending=True, stable=True)]
