"""First guesses of what illuminates the object."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import shift_to_centre, shift_to_corner, to_real, to_reciprocal
from phaseloom.physics.optics import coefficients
from phaseloom.physics.propagate import angular_spectrum, fly, matrix_transform
from phaseloom.ptycho.illumination import (
    COHERENCE_NAMES,
    AberratedProbe,
    Illumination,
    Probe,
    PupilProbe,
    Support,
)
from phaseloom.ptycho.probes.guesses import (
    Power,
    build_probe,
    clean_mean_pattern,
    count_beam,
    count_modes,
    count_plane_waves,
    cut_central_disk,
    enlarge_wave,
    lens_wave,
    mix_waves,
    split_power,
)
from phaseloom.ptycho.probes.opr import ProbeOfScans, RelaxedProbe
from phaseloom.units import Aberrations, Angle, Length

__all__ = [
    "aberrated",
    "auto",
    "focused",
    "from_file",
    "from_patterns",
    "limited",
    "of_each_scan",
    "pupil",
    "relaxed",
    "stored",
]
__all__ += ["zone_plate"]


MODES_OF_PARTLY_COHERENT_BEAM = 8


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
    mean = torch.from_numpy(np.maximum(clean_mean_pattern(scan), 0.0)).sqrt()
    geometry = scan.geometry
    if geometry.near:
        flight = torch.tensor(-geometry.flight, dtype=torch.float64)
        kernel = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight)
        wave = fly(mean.to(torch.complex128), kernel)
    else:
        wave = shift_to_centre(to_real(shift_to_corner(mean).to(torch.complex128)))
    return build_probe(scan, fly_by_defocus(enlarge_wave(wave, scan), scan.window, defocus), modes)


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
    source_size: Length = 0.0,
    focal_spread: Length = 0.0,
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
        source_size: standard deviation of a Gaussian source on the object along each axis, angstrom.
        focal_spread: standard deviation of the focus, angstrom.
        modes: incoherent modes; default two in the far field, one in the near field, and eight of a partly
            coherent beam (``source_size`` or ``focal_spread`` above zero), whose strongest they are.
        shares: of the modes in the power, strongest first; default 2 % for each weak one, or what source size
            and focal spread make of them.
        soft: spread the aperture's edge over one pixel.
        relative: rates are relative to the probe's peak; else in square roots of counts.
        power: counts of the beam: those of the mean pattern, of the brightest, or a number.
    """
    named = {"defocus": defocus, "C12": astigmatism, "phi12": astigmatism_angle, "C30": spherical}
    named |= aberrations or {}
    wave = lens_wave(scan, semiangle, named, soft)
    if _is_partly_coherent("focused", source_size, focal_spread):
        modes = MODES_OF_PARTLY_COHERENT_BEAM if modes is None else modes
        sizes = {"source_size": source_size, "focal_spread": focal_spread}
        wave = mix_waves(wave, scan.window, **sizes, count=modes)
    return build_probe(scan, wave, modes, shares=shares, relative=relative, power=power)


def _is_partly_coherent(name: str, source_size: float, focal_spread: float) -> bool:
    """Whether a beam has a source of some size or a spread of focus.

    Raises:
        BadInput: one of them is not plausible.
    """
    for knob, value in {"source_size": source_size, "focal_spread": focal_spread}.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"probe: {name}.{knob}", value, "must be zero or more")
    return source_size > 0 or focal_spread > 0


def aberrated(  # noqa: PLR0913 - one knob for each thing that a lens can do
    scan: Scan4D,
    /,
    *,
    semiangle: Angle,
    defocus: Length = 0.0,
    aberrations: Aberrations | None = None,
    refine: list[str] = ["C10", "C12", "C21", "C23", "C30"],  # noqa: B006
    source_size: Length = 0.0,
    focal_spread: Length = 0.0,
    modes: int | None = None,
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
            components; ``source_size`` and ``focal_spread`` too.
        source_size: standard deviation of a Gaussian source on the object along each axis, angstrom.
        focal_spread: standard deviation of the focus, angstrom.
        modes: incoherent modes; default one, or eight of a partly coherent beam, which keep nearly all of its
            power. Without source size and focal spread, the weak ones are derivatives of the strong one.
        shares: of the modes in the power; those of a partly coherent beam follow from its numbers.
        soft: spread the aperture's edge over one pixel, as a detector's pixels do, and let the semiangle be
            refined; else pixels are in or out, as in simulations.
        stop: half-angle of a central stop (zone plates), radian.
    """
    named = coefficients({"defocus": defocus} | (aberrations or {}))
    lens_wave(scan, semiangle, named, soft)
    numbers = dict.fromkeys((name for name in refine if name not in COHERENCE_NAMES), 0.0)
    unknown = [name for name in numbers if name not in coefficients(numbers)]
    if unknown:
        raise BadInput("probe: aberrated.refine", unknown[0], "write coefficients as C10, C12, C21 ...")
    partial = _is_partly_coherent("aberrated", source_size, focal_spread) or len(numbers) < len(refine)
    if partial and shares is not None:
        fix = "follow from source size and focal spread: leave out one or the other"
        raise BadInput("probe: aberrated.shares", shares, fix)
    if not 0 <= stop < semiangle:
        raise BadInput("probe: aberrated.stop", stop, f"must lie between 0 and the semiangle, {semiangle:g}")
    power = float(np.maximum(clean_mean_pattern(scan), 0).sum())
    usual = MODES_OF_PARTLY_COHERENT_BEAM if partial else 1
    share = split_power(count_modes(scan, usual if modes is None else modes), shares)
    free: dict[str, Any] = {"refine": refine, "shares": share, "power": power, "soft": soft, "stop": stop}
    return AberratedProbe(scan.window, semiangle, named, coherence=(source_size, focal_spread), **free)


def pupil(
    scan: Scan4D,
    /,
    *,
    semiangle: Angle | None = None,
    stop: Angle = 0.0,
    defocus: Length = 0.0,
    aberrations: Aberrations | None = None,
    soft: bool = True,
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
        soft: see `aberrated`.
    """
    geometry = scan.window
    if semiangle is None:
        wave = from_patterns(scan, defocus=defocus, modes=1).modes()[0]
        return PupilProbe(to_reciprocal(shift_to_corner(wave)).detach())
    if not 0 <= stop < semiangle:
        raise BadInput("probe: pupil.stop", stop, f"must lie between 0 and the semiangle, {semiangle:g} rad")
    wave = lens_wave(scan, semiangle, {"defocus": defocus} | (aberrations or {}), soft)
    spectrum = to_reciprocal(shift_to_corner(wave))
    if stop:
        sizes = zip(geometry.shape, geometry.pixel, strict=True)
        y, x = (geometry.wavelength * torch.fft.fftfreq(n, p, dtype=torch.float64) for n, p in sizes)
        spectrum = spectrum * (torch.hypot(y[:, None], x[None]) >= stop)
    spectrum = spectrum * math.sqrt(count_beam(scan, "mean") / float(spectrum.abs().square().sum()))
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
        raise BadInput(
            "probe: zone_plate",
            f"diameter {diameter:g}, beamstop {beamstop:g}",
            "is not a ring: the beamstop must be smaller than the plate",
        )
    geometry = scan.window
    focal = diameter * outermost_zone / geometry.wavelength
    wave = lens_wave(scan, diameter / 2 / focal, {"defocus": defocus}, True)
    if beamstop:
        wave = wave - cut_central_disk(scan, diameter / 2 / focal, beamstop / 2 / focal, defocus)
    return build_probe(scan, wave, modes, shares=shares, relative=relative, power=power)


def limited(
    scan: Scan4D,
    /,
    *,
    radius: Length | None = None,
    semiangle: Angle | None = None,
    spectrum: bool = False,
    defocus: Length = 0.0,
    modes: int | None = None,
) -> Probe:
    """The probe of `auto` that stays within a disk of its window and within a cone of angles at every step.

    Args:
        scan: the data.
        radius: of the disk in real space; default: the whole window.
        semiangle: radian; default: all angles.
        spectrum: steps are those of plane waves instead of pixels.
        defocus: of the first guess, angstrom; positive: under-focus.
        modes: incoherent modes; default two in the far field, one in the near field.
    """
    start = _start(scan, defocus, modes)
    return Probe(start, scan.window, support=_support(scan, radius, semiangle, spectrum))


def relaxed(
    scan: Scan4D,
    /,
    *,
    basis: int = 3,
    modes: int = 1,
    radius: Length | None = None,
    semiangle: Angle | None = None,
    spectrum: bool = False,
    defocus: Length = 0.0,
    path: Path | None = None,
) -> RelaxedProbe:
    """A probe that changes from pattern to pattern (orthogonal probe relaxation), from that of `auto`.

    Each pattern has modes of its own, mixed from a common basis; ``rates: {opr_weights: ...}`` are those of
    the mixtures. For beams that drift, breathe or jump during a scan.

    Args:
        scan: the data.
        basis: modes in common, of which patterns take mixtures.
        modes: incoherent modes of each pattern, at most as many as the basis has.
        radius: see `limited`.
        semiangle: see `limited`.
        spectrum: see `limited`.
        defocus: of the first guess, angstrom; positive: under-focus.
        path: a result of such a probe, to go on from: its basis and mixtures come before ``basis``, ``modes``
            and the first guess.

    Raises:
        BadInput: more modes than the basis has, a basis as large as the scan, a file of no such result.
    """
    support = _support(scan, radius, semiangle, spectrum)
    if path is not None:
        from phaseloom.ptycho import import_parts

        wave = fly_by_defocus(import_parts.read_probe(path, scan.window), scan.window, defocus).to(
            torch.complex64
        )
        return RelaxedProbe(wave, scan.window, import_parts.read_mixtures(path, len(scan)), support=support)
    if not 1 <= modes <= basis:
        raise BadInput("probe: relaxed.modes", modes, f"must lie between 1 and the {basis} of the basis")
    if basis > max(len(scan) // 2, 1):
        raise BadInput(
            "probe: relaxed.basis", basis, f"is too many modes for {len(scan)} patterns: take fewer"
        )
    start = _start(scan, defocus, basis)
    mixture = torch.eye(modes, basis, dtype=start.dtype).repeat(len(scan), 1, 1)
    return RelaxedProbe(start, scan.window, mixture, support=support)


def of_each_scan(
    scan: Scan4D,
    /,
    *,
    defocus_values: list[Length] | None = None,
    semiangle: Angle | None = None,
    modes: int | None = None,
) -> ProbeOfScans:
    """A probe for each of several scans of one object (`phaseloom.data.prepare.join`, ``share: object``).

    Args:
        scan: the data; each of its scans gives the first guess of its own probe.
        defocus_values: of the first guesses, one for each scan, angstrom; positive: the focus lies behind the
            object (under-focus). Default: none.
        semiangle: of a lens, radian; default: the amplitude of the mean pattern, with a flat phase.
        modes: incoherent modes of each scan; default two in the far field, one in the near field.

    Raises:
        BadInput: a scan that was not joined, or another number of defocus values.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> places, numbers = np.indices((2, 2)).reshape(2, -1).T * 10.0, np.array([0, 0, 1, 1])
        >>> known = {"positions": places, "geometry": geometry, "scan_numbers": numbers}
        >>> both = Scan4D(counts=np.ones((4, 8, 8)), **known)
        >>> probe = of_each_scan(both, defocus_values=[0.0, 300.0], semiangle=3e-3, modes=1)
        >>> first, last = (probe.modes_of(torch.tensor([n]))[0, 0].abs().max().item() for n in (0, 3))
        >>> first > last
        True
    """
    place = "probe: of_each_scan"
    if scan.scan_numbers is None:
        raise BadInput(place, None, "needs several scans: prepare: [{join: {path: ..., share: object}}]")
    numbers, index = np.unique(scan.scan_numbers, return_inverse=True)
    values = [0.0] * len(numbers) if defocus_values is None else defocus_values
    if len(values) != len(numbers):
        fix = f"must have one value for each of the {len(numbers)} scans"
        raise BadInput(f"{place}.defocus_values", values, fix)
    guesses = []
    for number, focus in zip(numbers, values, strict=True):
        own = _cut_scan(scan, int(number))
        if semiangle is None:
            guess = from_patterns(own, defocus=focus, modes=modes)
        else:
            guess = focused(own, semiangle=semiangle, defocus=focus, modes=modes)
        guesses.append(_fit_pixels(guess.modes().detach(), own.window, scan.window))
    return ProbeOfScans(torch.stack(guesses), scan.window, torch.from_numpy(index))


def _cut_scan(scan: Scan4D, number: int) -> Scan4D:
    """One of several scans, with its own wavelength."""
    assert scan.scan_numbers is not None
    own = replace(scan.select(scan.scan_numbers == number), scan_numbers=None, probe=None)
    if scan.scan_wavelengths is None:
        return own
    geometry = replace(own.geometry, wavelength=float(scan.scan_wavelengths[number]))
    return replace(own, geometry=geometry, scan_wavelengths=None)


def _fit_pixels(
    modes: Complex[Tensor, "mode y x"], own: Geometry, common: Geometry
) -> Complex[Tensor, "mode v u"]:
    """Modes on the pixels of a shorter wavelength, in its window."""
    if own.shape == common.shape:
        return modes
    stretch = own.wavelength / common.wavelength
    sides = zip(own.shape, common.shape, strict=True)
    rows, columns = (matrix_transform(count, places, stretch).to(modes.dtype) for count, places in sides)
    return rows.mH @ to_reciprocal(shift_to_corner(modes)) @ columns.conj()


def _start(scan: Scan4D, defocus: float, modes: int | None) -> Tensor:
    make = from_patterns if scan.probe is None else stored
    return make(scan, defocus=defocus, modes=modes).modes().detach()


def _support(scan: Scan4D, radius: float | None, angle: float | None, spectrum: bool) -> Support | None:
    """Where a probe may have light, in pixels and plane waves."""
    for name, value in {"radius": radius, "semiangle": angle}.items():
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"probe: {name}", value, "must be above zero")
    if radius is None and angle is None and not spectrum:
        return None
    one = scan.window
    band = None if angle is None else count_plane_waves(angle, one.wavelength, one.pixel, one.shape)
    disk = None if radius is None else (radius / one.pixel[0], radius / one.pixel[1])
    return Support(one.shape, radius=disk, band=band, spectrum=spectrum)


def stored(scan: Scan4D, /, *, defocus: Length = 0.0, modes: int | None = None) -> Illumination:
    """The probe that came with the data, propagated by a defocus if wanted.

    Raises:
        BadInput: the file holds none.
    """
    if scan.probe is None:
        raise BadInput("probe: stored", None, "the data file holds no probe: use from_patterns or focused")
    wave = torch.from_numpy(np.asarray(scan.probe, np.complex128))
    return build_probe(scan, fly_by_defocus(enlarge_wave(wave, scan), scan.window, defocus), modes)


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
            ptychodus, PtychoShelves or py4DSTEM.
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
    from phaseloom.ptycho import import_parts

    wave = import_parts.read_probe(path, scan.window)
    moved = fly_by_defocus(wave, scan.window, defocus - forward)
    if power == "own":
        power = float(wave.abs().square().sum()) if import_parts.is_ours(path) else "mean"
    return build_probe(scan, moved, modes or len(wave), shares=shares, relative=relative, power=power)


def fly_by_defocus(
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
