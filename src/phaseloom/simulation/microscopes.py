"""Microscopes to simulate: one that is fixed, one that is drawn anew for each sample, and the seed's.

Each function draws an `Experiment` from a generator of random numbers. Lengths without a range of their own
are drawn in waves at the edge of the aperture, so that the probe keeps its shape at every energy.
"""

from dataclasses import replace

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.physics.atoms import Table
from phaseloom.physics.optics import coefficients, electron_wavelength
from phaseloom.simulation.experiment import BAND_EDGE, PIXELS_PER_STEP, Experiment
from phaseloom.units import Aberrations, Angle, Energy, Length

__all__ = ["fixed", "seed", "varied"]

OVERLAP_IN_WAVES = (0.7, 1.2)
"""Semiangle times step by wavelength: of the default experiment 0.96."""

DEFOCUS_IN_WAVES = (-1.5, 1.5)
"""Defocus times semiangle squared by wavelength: of the default experiment 0.86."""

ASTIGMATISM_IN_WAVES = (0.0, 0.3)
"""C12 times semiangle squared by wavelength."""

COMA_IN_WAVES = (0.0, 0.15)
"""C21 times semiangle cubed by wavelength."""

SPHERICAL_IN_WAVES = (-0.3, 0.3)
"""C30 times semiangle to the fourth by four wavelengths."""

MIN_SHARE_IN_WINDOW = 0.95
"""Share of the probe that its window holds at least."""

MIN_SHARE_OF_FIXED_PROBE = 0.8
"""The same, of a probe that is asked for in numbers."""

MAX_DRAWS = 200
"""Draws of a microscope whose probe fits into the window, before giving up."""

Range = tuple[float, float]


def fixed(  # noqa: PLR0913 - a microscope has as many settings
    rng: np.random.Generator,
    /,
    *,
    scan: tuple[int, int] = (50, 50),
    step: Length = 2.0,
    energy: Energy = 80e3,
    semiangle: Angle = 0.020,
    defocus: Length = 90.0,
    aberrations: Aberrations | None = None,
    focal_spread: Length = 0.0,
    source_size: Length = 0.0,
    pixel: Length | None = None,
    window: int = 64,
    cell: int | None = None,
    bin: int = 2,
    detector: int | None = 24,
    slice_thickness: Length | None = None,
    phonons: int = 0,
    vibration: Length = 0.1,
    jitter: Length = 0.0,
    dose: float | None = None,
    table: Table = "lobato",
) -> Experiment:
    """The same experiment for every sample.

    Args:
        rng: nothing is drawn from it.
        scan: probes (rows, columns).
        step: between probes.
        energy: of the electrons.
        semiangle: of convergence.
        defocus: positive is under-focus.
        aberrations: other than defocus, such as ``{Cs: 1 um, C12: 2 nm, phi12: 30 deg}``.
        focal_spread: standard deviation of the defocus.
        source_size: standard deviation of the source on the specimen.
        pixel: of the potential; none takes a fifth of the step.
        window: pixels of the probe's window.
        cell: pixels of a periodic cell; none takes a field that no window leaves.
        bin: pixels of the window's transform in one of the detector.
        detector: pixels that are kept, the middle part; none keeps all.
        slice_thickness: the largest; none takes one slice.
        phonons: instants of thermal motion that are averaged; 0 takes the average potential.
        vibration: rms displacement of atoms along each axis.
        jitter: rms error of the positions along each axis.
        dose: electrons per pattern; none leaves counting noise out.
        table: of scattering factors.

    Raises:
        BadInput: numbers that no experiment has, or a defocus that is given twice.

    Example:
        >>> fixed(np.random.default_rng()) == Experiment()
        True
    """
    experiment = Experiment(
        scan=scan,
        step=step,
        energy=energy,
        semiangle=semiangle,
        aberrations={"defocus": defocus, **_besides_defocus(aberrations)},
        focal_spread=focal_spread,
        source_size=source_size,
        pixel=pixel,
        window=window,
        cell=cell,
        bin=bin,
        detector=detector,
        slice_thickness=slice_thickness,
        phonons=phonons,
        vibration=vibration,
        jitter=jitter,
        dose=dose,
        table=table,
    )
    if cell is None and (share := _share_in_window(experiment)) < MIN_SHARE_OF_FIXED_PROBE:
        fix = f"holds {100 * share:.0f} % of the probe: take a larger window, or less defocus and aberrations"
        raise BadInput("fixed.window", window, fix)
    return experiment


def varied(  # noqa: PLR0913 - a microscope has as many settings
    rng: np.random.Generator,
    /,
    *,
    scan: tuple[int, int] = (50, 50),
    step: tuple[Length, Length] = (1.6, 2.4),
    energy: tuple[Energy, Energy] = (60e3, 300e3),
    energies: list[Energy] | None = None,
    semiangle: tuple[Angle, Angle] | None = None,
    defocus: tuple[Length, Length] | None = None,
    astigmatism: tuple[Length, Length] | None = None,
    coma: tuple[Length, Length] | None = None,
    spherical: tuple[Length, Length] | None = None,
    focal_spread: tuple[Length, Length] = (0.0, 0.0),
    source_size: tuple[Length, Length] = (0.0, 0.0),
    jitter: tuple[Length, Length] = (0.0, 0.0),
    dose: tuple[float, float] | None = None,
    window: int = 64,
    bin: int = 2,
    detector: int | None = 24,
    slice_thickness: Length | None = None,
    phonons: int = 0,
    vibration: Length = 0.1,
) -> Experiment:
    """An experiment drawn from ranges (smallest, largest), for networks that take the probe as an input.

    All are drawn evenly, the dose evenly in its logarithm. Directions of astigmatism and coma are any. What
    is drawn is drawn again where the probe's aperture lies beyond the band of the pixels, or where more than
    5 % of the probe fall out of its window. Without ranges of their own ``a`` (semiangle), ``df``, ``C12``,
    ``C21`` and ``C30`` follow from step and wavelength ``l``: ``a step / l`` from 0.7 to 1.2,
    ``a^2 df / l`` from -1.5 to 1.5, ``a^2 C12 / l`` to 0.3, ``a^3 C21 / l`` to 0.15 and
    ``a^4 C30 / 4 l`` from -0.3 to 0.3.

    Args:
        rng: what is drawn comes from here.
        scan: probes (rows, columns).
        step: between probes.
        energy: of the electrons.
        energies: to choose from, instead of a range.
        semiangle: of convergence.
        defocus: positive is under-focus.
        astigmatism: C12, twofold.
        coma: C21, axial.
        spherical: Cs.
        focal_spread: standard deviation of the defocus.
        source_size: standard deviation of the source on the specimen.
        jitter: rms error of the positions along each axis.
        dose: electrons per pattern; none leaves counting noise out.
        window: pixels of the probe's window, each a fifth of a step.
        bin: pixels of the window's transform in one of the detector.
        detector: pixels that are kept, the middle part; none keeps all.
        slice_thickness: the largest; none takes one slice.
        phonons: instants of thermal motion that are averaged; 0 takes the average potential.
        vibration: rms displacement of atoms along each axis.

    Raises:
        BadInput: a range that is none, or 200 draws of which no probe fits.

    Example:
        >>> drawn = varied(np.random.default_rng(1), energies=[80e3, 200e3])
        >>> drawn.energy in (80e3, 200e3), 0.7 < drawn.semiangle * drawn.step / drawn.wavelength < 1.2
        (True, True)
    """
    lens = {"defocus": defocus, "astigmatism": astigmatism, "coma": coma, "spherical": spherical}
    spreads = {"focal_spread": focal_spread, "source_size": source_size, "jitter": jitter}
    given = {"step": step, "energy": energy, "semiangle": semiangle, "dose": dose, **lens, **spreads}
    _require_ranges(given, above_zero=("step", "energy", "semiangle", "dose"), from_zero=tuple(spreads))
    if energies is not None and not energies:
        raise BadInput("varied.energies", None, "is empty: list one energy at least, or leave it out")
    for _ in range(MAX_DRAWS):
        volts = float(rng.choice(energies)) if energies else rng.uniform(*energy)
        pace = rng.uniform(*step)
        wavelength = electron_wavelength(volts)
        angle = _draw_value(semiangle, OVERLAP_IN_WAVES, wavelength / pace, rng)
        table = _draw_aberrations(lens, angle, wavelength, rng)
        others = {name: rng.uniform(*limits) for name, limits in spreads.items()}
        electrons = None if dose is None else float(np.exp(rng.uniform(*np.log(dose))))
        if angle > BAND_EDGE * wavelength * PIXELS_PER_STEP / (2 * pace):
            continue
        drawn = Experiment(
            scan=scan,
            step=pace,
            energy=volts,
            semiangle=angle,
            aberrations=table,
            dose=electrons,
            window=window,
            bin=bin,
            detector=detector,
            slice_thickness=slice_thickness,
            phonons=phonons,
            vibration=vibration,
            focal_spread=others["focal_spread"],
            source_size=others["source_size"],
            jitter=others["jitter"],
        )
        if _share_in_window(drawn) >= MIN_SHARE_IN_WINDOW:
            return drawn
    fix = f"of {MAX_DRAWS} draws left no probe within the pixels' band and the window: take smaller angles, "
    raise BadInput("microscope: varied", None, fix + "defocus and aberrations, or a larger window")


def seed(
    rng: np.random.Generator,
    /,
    *,
    energy: Energy = 80e3,
    semiangle: Angle = 0.020,
    defocus: Length = 90.0,
    Cs: Length = 0.0,
    phonons: int = 10,
    vibration: Length = 0.1,
) -> Experiment:
    """The layout of the first simulations for this task: full windows of a periodic cell of 100 angstrom.

    256 pixels to the cell, 50 by 50 probes in steps of 2 angstrom from its corner, every pixel of the
    transform kept, one slice whatever the thickness of the specimen. A step is 5.12 pixels there.

    Args:
        rng: nothing is drawn from it.
        energy: of the electrons.
        semiangle: of convergence; at 80 keV the pixels carry 35 mrad, at 300 keV 16.
        defocus: positive is under-focus.
        Cs: spherical aberration.
        phonons: instants of thermal motion that are averaged.
        vibration: rms displacement of atoms along each axis.

    Raises:
        BadInput: an aperture beyond the band of the pixels.

    Example:
        >>> layout = seed(np.random.default_rng())
        >>> layout.image, layout.detector_shape, layout.box
        ((256, 256), (256, 256), (100.0, 100.0))
    """
    return Experiment(
        scan=(50, 50),
        step=2.0,
        energy=energy,
        semiangle=semiangle,
        aberrations={"defocus": defocus, **({"Cs": Cs} if Cs else {})},
        pixel=100 / 256,
        window=256,
        cell=256,
        bin=1,
        detector=None,
        phonons=phonons,
        vibration=vibration,
    )


def _besides_defocus(aberrations: dict[str, float] | None) -> dict[str, float]:
    """The table, refused where it holds what another knob says."""
    table = aberrations or {}
    if "C10" in coefficients(table):
        fix = "hold a defocus, which has a line of its own: leave it out here"
        raise BadInput("fixed.aberrations", ", ".join(table), fix)
    return table


def _require_ranges(
    ranges: dict[str, Range | None], *, above_zero: tuple[str, ...], from_zero: tuple[str, ...]
):
    for name, limits in ranges.items():
        if limits is None:
            continue
        least = min(limits)
        if not limits[0] <= limits[1] < np.inf:
            raise BadInput(f"varied.{name}", list(limits), "is not a range: write [smallest, largest]")
        if (name in above_zero and least <= 0) or (name in from_zero and least < 0):
            raise BadInput(f"varied.{name}", list(limits), "holds what cannot be: raise the smallest")


def _draw_value(limits: Range | None, waves: Range, unit: float, rng: np.random.Generator) -> float:
    """A value of a range, or of the usual range of a number without a unit."""
    return rng.uniform(*waves) * unit if limits is None else rng.uniform(*limits)


def _draw_aberrations(
    lens: dict[str, Range | None], angle: float, wavelength: float, rng: np.random.Generator
) -> dict[str, float]:
    return {
        "defocus": _draw_value(lens["defocus"], DEFOCUS_IN_WAVES, wavelength / angle**2, rng),
        "C12": _draw_value(lens["astigmatism"], ASTIGMATISM_IN_WAVES, wavelength / angle**2, rng),
        "phi12": rng.uniform(0, np.pi),
        "C21": _draw_value(lens["coma"], COMA_IN_WAVES, wavelength / angle**3, rng),
        "phi21": rng.uniform(0, 2 * np.pi),
        "C30": _draw_value(lens["spherical"], SPHERICAL_IN_WAVES, 4 * wavelength / angle**4, rng),
    }


def _share_in_window(experiment: Experiment) -> float:
    """Share of the probe that its window holds, of all that four times the window holds."""
    size = experiment.window
    wide = replace(experiment, window=4 * size, bin=1, detector=None, focal_spread=0.0, source_size=0.0)
    light = wide.probe().abs().square().sum(0)
    edge = 2 * size - size // 2
    return float(light[edge : edge + size, edge : edge + size].sum() / light.sum())
