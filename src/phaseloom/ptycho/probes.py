"""First guesses of what illuminates the object."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import centred, cornered, fit_window, to_real, to_reciprocal
from phaseloom.physics.optics import coefficients, probe_wave
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.ptycho.illumination import AberratedProbe, Illumination, Probe, PupilProbe, subdominant
from phaseloom.units import Aberrations, Angle, Length

__all__ = ["aberrated", "auto", "focused", "from_file", "from_patterns", "pupil", "stored", "zone_plate"]

Power = Literal["mean", "brightest"] | float


def auto(scan: Scan4D, /, *, modes: int | None = None) -> Illumination:
    """The probe that came with the data, else one from the patterns.

    Args:
        scan: the data.
        modes: incoherent modes; default two in the far field, one in the near field.
    """
    if scan.probe is not None:
        return stored(scan, modes=modes)
    return from_patterns(scan, modes=modes)


def from_patterns(scan: Scan4D, /, *, defocus: Length = 0.0, modes: int | None = None) -> Illumination:
    """A probe whose far (or near) field has the mean pattern's amplitude and a flat phase.

    Args:
        scan: the data.
        defocus: angstrom; positive: the focus lies behind the object (under-focus).
        modes: incoherent modes; default two in the far field, one in the near field.
    """
    mean = torch.from_numpy(np.maximum(_clean_mean(scan), 0.0)).sqrt()
    geometry = scan.geometry
    if geometry.near:
        flight = torch.tensor(-geometry.flight, dtype=torch.float64)
        kernel = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight)
        wave = fly(mean.to(torch.complex128), kernel)
    else:
        wave = centred(to_real(cornered(mean).to(torch.complex128)))
    return _built(scan, defocused(_enlarged(wave, scan), scan.window, defocus), modes)


def focused(  # noqa: PLR0913 - one knob for each thing that a lens can do
    scan: Scan4D,
    /,
    *,
    semiangle: Angle,
    defocus: Length = 0.0,
    astigmatism: Length = 0.0,
    astigmatism_angle: Angle = 0.0,
    spherical: Length = 0.0,
    aberrations: Aberrations | None = None,
    modes: int | None = None,
    shares: list[float] | None = None,
    soft: bool = False,
    relative: bool = True,
    power: Power = "mean",
) -> Illumination:
    """A probe from optics: an aperture of a convergence semiangle, and aberrations.

    Args:
        scan: the data; its counts give the power.
        semiangle: radian.
        defocus: angstrom; positive: under-focus.
        astigmatism: C12, angstrom, along ``astigmatism_angle`` (radian from +x to +y).
        astigmatism_angle: see there.
        spherical: C30, angstrom.
        aberrations: any others by name (``C21``, ``phi21``, ``A2``, ``Cs`` ...), up to fifth order.
        modes: incoherent modes; default two in the far field, one in the near field.
        shares: of the modes in the power, strongest first; default 2 % for each weak one.
        soft: spread the aperture's edge over one pixel.
        relative: rates are relative to the probe's peak; else in square roots of counts.
        power: counts of the beam: those of the mean pattern, of the brightest, or a number.
    """
    named = {"defocus": defocus, "C12": astigmatism, "phi12": astigmatism_angle, "C30": spherical}
    named |= aberrations or {}
    wave = _optics(scan, semiangle, named, soft)
    return _built(scan, wave, modes, shares=shares, relative=relative, power=power)


def aberrated(
    scan: Scan4D,
    /,
    *,
    semiangle: Angle,
    defocus: Length = 0.0,
    aberrations: Aberrations | None = None,
    refine: list[str] = ["C10", "C12", "C21", "C23", "C30"],  # noqa: B006
    modes: int = 1,
    shares: list[float] | None = None,
    soft: bool = True,
    stop: Angle = 0.0,
) -> AberratedProbe:
    """A probe that stays what a lens can make: its aberrations and its semiangle are refined, not pixels.

    Args:
        scan: the data; its counts give the power.
        semiangle: radian.
        defocus: angstrom; positive: under-focus.
        aberrations: by name, as for `focused`.
        refine: the coefficients that are free; those of no rotational symmetry bring both their
            components.
        modes: incoherent modes; the weak ones are derivatives of the strong one (a source of finite size).
        shares: of the modes in the power.
        soft: spread the aperture's edge over one pixel, as a detector's pixels do, and let the semiangle be
            refined; else pixels are in or out, as in simulations.
        stop: half-angle of a central stop (zone plates), radian.
    """
    named = coefficients({"defocus": defocus} | (aberrations or {}))
    _optics(scan, semiangle, named, soft)
    unknown = [name for name in refine if name not in coefficients(dict.fromkeys(refine, 0.0))]
    if unknown:
        raise BadInput("probe: aberrated.refine", unknown[0], "write coefficients as C10, C12, C21 ...")
    if not 0 <= stop < semiangle:
        raise BadInput("probe: aberrated.stop", stop, f"must lie between 0 and the semiangle, {semiangle:g}")
    power, share = float(np.maximum(_clean_mean(scan), 0).sum()), _shares(_count(scan, modes), shares)
    free: dict[str, Any] = {"refine": refine, "shares": share, "power": power, "soft": soft, "stop": stop}
    return AberratedProbe(scan.window, semiangle, named, **free)


def pupil(
    scan: Scan4D,
    /,
    *,
    semiangle: Angle | None = None,
    stop: Angle = 0.0,
    defocus: Length = 0.0,
    aberrations: Aberrations | None = None,
) -> PupilProbe:
    """A probe from a pupil of known amplitude, whose phase is refined and nothing else.

    Between a free probe and one of few aberrations: what a scan along the beam without lateral steps can
    still tell, if not as well as `aberrated`.

    Args:
        scan: the data; its counts give the power.
        semiangle: of an evenly lit round pupil, radian; default: the amplitude is that of the mean pattern,
            which a weak object hardly changes.
        stop: half-angle of a central stop, radian.
        defocus: angstrom; positive: under-focus.
        aberrations: first guesses by name, as for `focused`.
    """
    geometry = scan.window
    if semiangle is None:
        wave = from_patterns(scan, defocus=defocus, modes=1).modes()[0]
        return PupilProbe(to_reciprocal(cornered(wave)).detach())
    if not 0 <= stop < semiangle:
        raise BadInput("probe: pupil.stop", stop, f"must lie between 0 and the semiangle, {semiangle:g} rad")
    wave = _optics(scan, semiangle, {"defocus": defocus} | (aberrations or {}), True)
    spectrum = to_reciprocal(cornered(wave))
    if stop:
        sizes = zip(geometry.shape, geometry.pixel, strict=True)
        y, x = (geometry.wavelength * torch.fft.fftfreq(n, p, dtype=torch.float64) for n, p in sizes)
        spectrum = spectrum * (torch.hypot(y[:, None], x[None]) >= stop)
    spectrum = spectrum * math.sqrt(_total(scan, "mean") / float(spectrum.abs().square().sum()))
    return PupilProbe(spectrum.to(torch.complex64))


def zone_plate(
    scan: Scan4D,
    /,
    *,
    diameter: Length,
    outermost_zone: Length,
    beamstop: Length = 0.0,
    defocus: Length = 0.0,
    modes: int | None = None,
    shares: list[float] | None = None,
    relative: bool = True,
    power: Power = "mean",
) -> Illumination:
    """The first order of a Fresnel zone plate with a central stop.

    The focal length is ``diameter * outermost_zone / wavelength``; the pupil is a ring from
    ``beamstop / 2`` to ``diameter / 2`` at that distance.

    Args:
        scan: the data.
        diameter: of the zone plate.
        outermost_zone: width of its outermost zone.
        beamstop: diameter of the central stop.
        defocus: positive: the focus lies behind the object.
        modes: incoherent modes; default two in the far field, one in the near field.
        shares: of the modes in the power.
        relative: see `focused`.
        power: see `focused`.
    """
    if not 0 <= beamstop < diameter or not outermost_zone > 0:
        raise BadInput("probe: zone_plate", f"diameter {diameter:g}, beamstop {beamstop:g}", "is no ring")
    geometry = scan.window
    focal = diameter * outermost_zone / geometry.wavelength
    wave = _optics(scan, diameter / 2 / focal, {"defocus": defocus}, True)
    if beamstop:
        wave = wave - _disk_part(scan, diameter / 2 / focal, beamstop / 2 / focal, defocus)
    return _built(scan, wave, modes, shares=shares, relative=relative, power=power)


def stored(scan: Scan4D, /, *, defocus: Length = 0.0, modes: int | None = None) -> Illumination:
    """The probe that came with the data, propagated by a defocus if wanted.

    Raises:
        BadInput: the file holds none.
    """
    if scan.probe is None:
        raise BadInput("probe: stored", None, "the data file holds no probe: use from_patterns or focused")
    wave = torch.from_numpy(np.asarray(scan.probe, np.complex128))
    return _built(scan, defocused(_enlarged(wave, scan), scan.window, defocus), modes)


def from_file(
    scan: Scan4D,
    /,
    *,
    path: Path,
    defocus: Length = 0.0,
    forward: Length = 0.0,
    modes: int | None = None,
    shares: list[float] | None = None,
    relative: bool = True,
    power: Power | Literal["own"] = "own",
) -> Illumination:
    """A probe from a ``.npy`` array, or of an earlier run of ours or of another program.

    It is padded or cropped to the window, interpolated where its pixel is known and differs, and gets
    the counts of the data.

    Args:
        scan: the data.
        path: a complex array ``(y, x)`` or ``(mode, y, x)``, or a result of ours, of PtyRAD,
            PtychoShelves or py4DSTEM.
        defocus: angstrom; positive: back towards the source.
        forward: distance by which the probe is moved along the beam: the opposite of ``defocus``.
        modes: incoherent modes; default: as many as the file has.
        shares: of the modes in the power; default: those of the file.
        relative: see `focused`.
        power: see `focused`; ``own`` is that of the file where it is a result of ours, in counts, else
            that of the mean pattern.

    Raises:
        BadInput: not a complex array of two or three axes.
    """
    from phaseloom.ptycho import stored as earlier

    wave = earlier.probe_of(path, scan.window)
    moved = defocused(wave, scan.window, defocus - forward)
    if power == "own":
        power = float(wave.abs().square().sum()) if earlier.is_ours(path) else "mean"
    return _built(scan, moved, modes or len(wave), shares=shares, relative=relative, power=power)


def defocused(
    wave: Complex[Tensor, "*mode y x"], geometry: Geometry, defocus: float, /
) -> Complex[Tensor, "*mode y x"]:
    """The wave at the object when it is moved upstream of the focus by ``defocus`` angstrom."""
    if defocus == 0:
        return wave
    if not math.isfinite(defocus):
        raise BadInput("probe: defocus", defocus, "must be finite")
    flight = torch.tensor(-defocus, dtype=torch.float64)
    return fly(
        wave, angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight).to(wave.dtype)
    )


def _clean_mean(scan: Scan4D) -> np.ndarray:
    mean = scan.mean_pattern() - (0.0 if scan.background is None else scan.background)
    if scan.flat is not None:
        mean = mean / np.where(scan.flat > 0, scan.flat, 1)
    return np.where(scan.mask, mean, np.median(mean[scan.mask]) if scan.geometry.near else 0.0)


def _built(
    scan: Scan4D,
    wave: Tensor,
    modes: int | None,
    *,
    shares: Sequence[float] | None = None,
    relative: bool = True,
    power: Power = "mean",
) -> Probe:
    """Give the guess the counts of the data and the wanted number of modes."""
    count = _count(scan, modes)
    stack = wave.reshape(-1, *wave.shape[-2:])[:count]
    if len(stack) < count:
        stack = torch.cat([stack, subdominant(stack[0], count - len(stack))])
    if shares is not None:
        each = stack.abs().square().sum((-2, -1)).clamp(min=1e-300)
        stack = stack * torch.sqrt(_shares(count, shares) / each)[:, None, None]
    total, here = _total(scan, power), float(stack.abs().square().sum())
    if not total > 0 or not here > 0:
        raise BadInput("scan.counts", None, "hold no intensity that a probe could have")
    light = (stack * math.sqrt(total / here)).to(torch.complex64)
    return Probe(light, scan.window, relative=relative)


def _total(scan: Scan4D, power: Power) -> float:
    """Counts of the beam in a pattern."""
    if isinstance(power, float | int):
        if not (math.isfinite(power) and power > 0):
            raise BadInput("probe: power", power, "must be a number of counts above zero, mean or brightest")
        return float(power)
    mean = float(np.maximum(_clean_mean(scan), 0).sum())
    if power == "mean":
        return mean
    sums = [
        (scan.counts[np.arange(i, min(i + 64, len(scan)))] * scan.mask).sum((1, 2))
        for i in range(0, len(scan), 64)
    ]
    each = np.concatenate(sums)
    return mean * float(each.max() / max(each.mean(), 1e-30))


def _count(scan: Scan4D, modes: int | None) -> int:
    count = modes if modes is not None else (1 if scan.geometry.near else 2)
    if count < 1:
        raise BadInput("probe: modes", count, "must be at least 1")
    return count


def _shares(count: int, given: Sequence[float] | None) -> Tensor:
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


def _optics(scan: Scan4D, semiangle: float, named: dict[str, float], soft: bool) -> Tensor:
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


def _disk_part(scan: Scan4D, whole: float, inner: float, defocus: float) -> Tensor:
    """The part of a disk's wave that a smaller disk in its middle contributes."""
    geometry = scan.window
    settings: dict[str, Any] = {"wavelength": geometry.wavelength, "aberrations": {"defocus": defocus}}
    settings |= {"soft": True, "dtype": torch.complex128}
    disks = [probe_wave(geometry.shape, geometry.pixel, semiangle=a, **settings) for a in (whole, inner)]
    big, small = (to_reciprocal(disk).abs().max() for disk in disks)
    return disks[1] * (big / small)


def _enlarged(wave: Tensor, scan: Scan4D) -> Tensor:
    """A wave on the detector's grid, on the grid that patterns are modelled on."""
    own, model = scan.geometry, scan.window
    if own.shape == model.shape:
        return wave
    if not np.allclose(own.angle, model.angle):
        return fit_window(wave, model.shape)
    return centred(to_real(cornered(fit_window(centred(to_reciprocal(cornered(wave))), model.shape))))
