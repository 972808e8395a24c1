"""First guesses of a probe: mean patterns, counts, modes and their shares, lenses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.coherence import mix_beams
from phaseloom.physics.fourier import (
    fit_spectrum,
    fit_window,
    shift_to_centre,
    shift_to_corner,
    to_real,
    to_reciprocal,
)
from phaseloom.physics.optics import probe_wave
from phaseloom.ptycho.illumination import Probe, make_weak_modes
from phaseloom.spec import Call

__all__ = ["BeamOptics", "Power", "build_probe", "clean_mean_pattern", "count_beam", "count_modes"]
__all__ += ["cut_central_disk", "enlarge_wave", "lens_wave", "mix_waves", "read_beam_optics", "split_power"]

Power = Literal["mean", "brightest"] | float


def clean_mean_pattern(scan: Scan4D) -> np.ndarray:
    """The mean pattern without background, as by even pixels; what is not trusted is dark (near: grey)."""
    mean = scan.mean_pattern() - (0.0 if scan.background is None else scan.background)
    if scan.flat is not None:
        mean = mean / np.where(scan.flat > 0, scan.flat, 1)
    return np.where(scan.mask, mean, np.median(mean[scan.mask]) if scan.geometry.near else 0.0)


def build_probe(
    scan: Scan4D,
    wave: Tensor,
    modes: int | None,
    *,
    shares: Sequence[float] | None = None,
    relative: bool = True,
    power: Power = "mean",
) -> Probe:
    """Give the guess the counts of the data and the wanted number of modes."""
    count = count_modes(scan, modes)
    stack = wave.reshape(-1, *wave.shape[-2:])[:count]
    if len(stack) < count:
        stack = torch.cat([stack, make_weak_modes(stack[0], count - len(stack))])
    if shares is not None:
        each = stack.abs().square().sum((-2, -1)).clamp(min=1e-300)
        stack = stack * torch.sqrt(split_power(count, shares) / each)[:, None, None]
    total = count_beam(scan, power)
    here = float(stack.abs().square().sum())
    if not total > 0 or not here > 0:
        raise BadInput("scan.counts", None, "hold no intensity that a probe could have")
    light = (stack * math.sqrt(total / here)).to(torch.complex64)
    return Probe(light, scan.window, relative=relative)


def count_beam(scan: Scan4D, power: Power) -> float:
    """Counts of the beam in a pattern."""
    if isinstance(power, float | int):
        if not (math.isfinite(power) and power > 0):
            raise BadInput("probe: power", power, "must be a number of counts above zero, mean or brightest")
        return float(power)
    mean = float(np.maximum(clean_mean_pattern(scan), 0).sum())
    if power == "mean":
        return mean
    sums = [
        (scan.counts[np.arange(i, min(i + 64, len(scan)))] * scan.mask).sum((1, 2))
        for i in range(0, len(scan), 64)
    ]
    each = np.concatenate(sums)
    return mean * float(each.max() / max(each.mean(), 1e-30))


def count_modes(scan: Scan4D, modes: int | None) -> int:
    """Incoherent modes: two in the far field and one in the near field unless said."""
    count = modes if modes is not None else (1 if scan.geometry.near else 2)
    if count < 1:
        raise BadInput("probe: modes", count, "must be at least 1")
    if count > (most := math.prod(scan.window.shape)):
        fix = f"must be at most {most}: patterns of so many pixels tell no more modes apart"
        raise BadInput("probe: modes", count, fix)
    return count


def mix_waves(
    wave: Tensor, geometry: Geometry, *, source_size: float, focal_spread: float, count: int
) -> Tensor:
    """The strongest modes ``(mode, y, x)`` of the partly coherent beam that a coherent one becomes."""
    sizes = {"source_size": source_size, "focal_spread": focal_spread}
    known = {name: torch.tensor(value, dtype=torch.float64) for name, value in sizes.items()}
    pupil = to_reciprocal(shift_to_corner(wave.to(torch.complex128)))
    lit = pupil.abs() > 1e-6 * pupil.abs().max()
    pupils = mix_beams(pupil * lit, geometry.pixel, wavelength=geometry.wavelength, **known, count=count)
    return shift_to_centre(to_real(pupils))


def split_power(count: int, given: Sequence[float] | None) -> Tensor:
    """Powers of the modes that add to one; the last of a short list is that of all the others."""
    few = [0.02] if given is None else list(given)
    if not few or not all(math.isfinite(share) and share > 0 for share in few) or len(few) > count:
        raise BadInput("probe: shares", given, f"must be one to {count} positive numbers")
    weak = few[1:] if len(few) == count else few
    weak = (weak + [weak[-1]] * count)[: count - 1] if weak else []
    main = few[0] if len(few) == count else 1 - sum(weak)
    if main <= 0:
        raise BadInput("probe: shares", given, f"leaves nothing for the first of {count} modes")
    every = torch.tensor([main, *weak], dtype=torch.float64)
    return every / every.sum()


def lens_wave(scan: Scan4D, semiangle: float, named: dict[str, float], soft: bool) -> Tensor:
    """The wave of an aperture with aberrations on the modelled grid, its input checked."""
    if not all(math.isfinite(value) for value in named.values()):
        raise BadInput("probe: focused", None, "has an aberration that is not finite")
    if not 0 < semiangle < math.pi / 2:
        raise BadInput("probe: focused.semiangle", semiangle, "must lie between 0 and 1.57 rad")
    geometry = scan.window
    reach = min(n * a for n, a in zip(geometry.shape, geometry.angle, strict=True)) / 2
    if not geometry.near and semiangle > reach:
        fix = f"rad is larger than the detector's half width of {reach:.4g} rad: check the angle per pixel"
        raise BadInput("probe: focused.semiangle", semiangle, fix)
    return probe_wave(
        geometry.shape,
        geometry.pixel,
        wavelength=geometry.wavelength,
        semiangle=semiangle,
        aberrations=named,
        soft=soft,
        dtype=torch.complex128,
    )


def cut_central_disk(scan: Scan4D, whole: float, inner: float, defocus: float) -> Tensor:
    """The part of a disk's wave that a smaller disk in its middle contributes."""
    geometry = scan.window
    settings: dict[str, Any] = {"wavelength": geometry.wavelength, "aberrations": {"defocus": defocus}}
    settings |= {"soft": True, "dtype": torch.complex128}
    disks = [probe_wave(geometry.shape, geometry.pixel, semiangle=a, **settings) for a in (whole, inner)]
    big, small = (to_reciprocal(disk).abs().max() for disk in disks)
    return disks[1] * (big / small)


def enlarge_wave(wave: Tensor, scan: Scan4D) -> Tensor:
    """A wave on the detector's grid, on the grid that patterns are modelled on.

    In the far field finer pixels of the detector are a wider window on the object, more of them finer pixels
    of it; in the near field the object has the window and the pixels of the detector.
    """
    own = scan.geometry
    model = scan.window
    if own.shape == model.shape:
        return wave
    has_finer_pixels = not np.allclose(own.angle, model.angle)
    return (fit_spectrum if has_finer_pixels == own.near else fit_window)(wave, model.shape)


ABERRATION_OF_KNOB = {
    "defocus": "defocus",
    "astigmatism": "C12",
    "astigmatism_angle": "phi12",
    "spherical": "C30",
}
"""Knobs of a probe, and the aberrations that they are."""


@dataclass(frozen=True, kw_only=True)
class BeamOptics:
    """What is known of the beam of a scan.

    Attributes:
        semiangle: of convergence, radian; ``None``: measured on the bright disk.
        aberrations: any names of `phaseloom.physics.optics.coefficients`, angstrom and radian; without a
            defocus, that of the model is assumed, and said.
        source_size: standard deviation of a Gaussian source on the object along each axis, angstrom.
    """

    semiangle: float | None = None
    aberrations: Mapping[str, float] = field(default_factory=dict)
    source_size: float = 0.0


def read_beam_optics(probe: Call, /) -> BeamOptics:
    """What the call of a probe says of the beam.

    Example:
        >>> from phaseloom.spec import call
        >>> said = {"focused": {"semiangle": "20 mrad", "defocus": "9 nm"}}
        >>> read_beam_optics(call("phaseloom.ptycho.probes", said, "probe"))
        BeamOptics(semiangle=0.02, aberrations={'defocus': 90.0}, source_size=0.0)
    """
    given = probe.values
    named = {name: float(given[knob]) for knob, name in ABERRATION_OF_KNOB.items() if knob in given}
    if probe.name not in ("focused", "aberrated"):
        return BeamOptics(aberrations={name: named[name] for name in ("defocus",) if name in named})
    return BeamOptics(
        semiangle=given.get("semiangle"),
        aberrations={**named, **(given.get("aberrations") or {})},
        source_size=given.get("source_size", 0.0),
    )


def count_plane_waves(
    angle: float, wavelength: float, pixel: tuple[float, float], shape: tuple[int, int]
) -> tuple[int, int]:
    """Plane waves on each axis, at most all, that it takes to reach an angle to either side.

    Args:
        angle: from the beam, radian.
        wavelength: angstrom.
        pixel: angstrom (y, x).
        shape: of the window (y, x).

    Example:
        >>> count_plane_waves(10e-3, 0.02, (0.2, 0.2), (64, 64))
        (13, 13)
    """
    steps = (math.floor(angle * n * p / wavelength) for n, p in zip(shape, pixel, strict=True))
    first, second = (min(n, 2 * step + 1) for n, step in zip(shape, steps, strict=True))
    return first, second
