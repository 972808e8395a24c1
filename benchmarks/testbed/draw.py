"""Random cases: which specimen, microscope, scan and faults, with their distributions.

Lengths in angstrom, angles in radian unless a name says otherwise. Every number of a case comes from
its seed alone. The faults of a case are drawn once; switching some off does not change the others.

| quantity | distribution |
|---|---|
| specimen | seed modulo 5: thin crystal, thick crystal, 2D material, nanoparticle, biological blobs |
| voltage | thin {80, 200, 300}, thick {200, 300}, 2D {60, 80}, particle {80, 200, 300}, blobs {300} kV |
| semi-angle | 60-80 kV: 24-35, 200-300 kV: 17-28, blobs 4-6 mrad |
| detector | 48, 64, 80 or 96 pixels (thick: 48 or 56, particle: 48 or 64, blobs: 80 or 96) |
| range of it | to 1.3-2.5 times the semi-angle (blobs 1.3-1.7) |
| defocus | exactly 0 for one case in five, else uniform in +-300 (blobs: +-2000 to +-10000), cut so that |
| | the geometric beam fills at most half of the window of a detector pixel |
| step | 0.15-0.3 times the beam's diameter, at most 1.2 times wavelength / (2 semi-angle) (blobs: twice) |
| scan | 32, 40, 48 or 64 positions along each side, at most 40 with more than 64 pixels (thick: 32, |
| | particle: at most 48, blobs: 40) |
| electrons per pattern | log-uniform 1e3-1e6 (blobs 1e3-3e4) |
| stated defocus | the true one times 0.7-1.3; within +-30 of an exact focus |
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["DEVELOPMENT", "FAULTS", "HELD_BACK", "SPECIMENS", "Case", "Faults", "choose_faults", "draw_case"]
__all__ += ["electron_wavelength"]

SPECIMENS = ("thin", "thick", "layers", "particle", "blobs")

DEVELOPMENT = range(1000, 1025)
"""Seeds for development: look at them as often as you like."""

HELD_BACK = range(7000, 7025)
"""Seeds of the verdict: they must not be simulated or run before the code that they judge is frozen."""

FAULTS = (
    "orientation",
    "rotation",
    "step_error",
    "angle_error",
    "jitter",
    "drift",
    "source_size",
    "focal_spread",
    "aberrations",
    "descan",
    "off_centre",
    "bad_pixels",
    "background",
    "beam_drift",
    "saturation",
)
"""Names of faults. ``all`` means all but ``saturation``, which must be asked for by its name."""


@dataclass(frozen=True)
class Faults:
    """What is wrong; the defaults are an ideal instrument.

    Attributes:
        orientation: ``(transpose, flip rows, flip columns)`` of recorded patterns, in this order.
        rotation: of scan positions against the detector before ``orientation``, from rows to columns.
        step_error: true step over nominal step, minus one.
        angle_error: true angle per pixel over nominal angle, minus one.
        jitter: of each position along each axis, standard deviation.
        drift: ``(row, column)`` of the specimen's drift from first to last pattern.
        drift_curve: share of the drift that is quadratic in time.
        source_size: standard deviation of the Gaussian source on the specimen, along each axis.
        focal_spread: standard deviation of the defocus.
        aberrations: ``C12, phi12, C21, phi21, C23, phi23, C30``.
        descan: 2 x 2 pixels over the whole scan: shift (row, column) by scan (row, column).
        descan_wobble: standard deviation of the shift of a scan line, pixels.
        off_centre: shift of all patterns in pixels as recorded, (row, column).
        hot_pixels, dead_pixels: how many of them.
        background: electrons of the uniform background over those of the beam.
        beam_drift: change of the beam current over the scan, peak to peak.
        saturation: counts are cut at this share of the largest expected one, or 0 for no limit.
    """

    orientation: tuple[bool, bool, bool] = (False, False, False)
    rotation: float = 0.0
    step_error: float = 0.0
    angle_error: float = 0.0
    jitter: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    drift_curve: float = 0.0
    source_size: float = 0.0
    focal_spread: float = 0.0
    aberrations: tuple[float, ...] = (0.0,) * 7
    descan: tuple[float, float, float, float] = (0.0,) * 4
    descan_wobble: float = 0.0
    off_centre: tuple[float, float] = (0.0, 0.0)
    hot_pixels: int = 0
    dead_pixels: int = 0
    background: float = 0.0
    beam_drift: float = 0.0
    saturation: float = 0.0


FIELDS_OF_FAULTS = {
    "drift": ("drift", "drift_curve"),
    "descan": ("descan", "descan_wobble"),
    "bad_pixels": ("hot_pixels", "dead_pixels"),
}


@dataclass(frozen=True)
class Case:
    """A scan before its faults.

    Attributes:
        seed: of everything.
        specimen: one of `SPECIMENS`.
        kilovolts: of the beam.
        semiangle: of the aperture, radian.
        pixels: of the detector along each side.
        angle: per detector pixel as the microscopist states it, radian.
        defocus: positive is under-focus, of the entrance face; C10 is its negative.
        stated_defocus: what the microscopist believes.
        step: nominal.
        scan: positions along each side.
        electrons: incident per pattern.
        faults: as drawn; see `choose_faults`.
    """

    seed: int
    specimen: str
    kilovolts: float
    semiangle: float
    pixels: int
    angle: float
    defocus: float
    stated_defocus: float
    step: float
    scan: int
    electrons: float
    faults: Faults

    @property
    def wavelength(self) -> float:
        """In angstrom."""
        return electron_wavelength(self.kilovolts)

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.specimen}-{self.seed}"


def electron_wavelength(kilovolts: float) -> float:
    """Relativistic: ``h c / sqrt(E (E + 2 m c^2))``, in angstrom."""
    energy = kilovolts * 1e3
    return 12398.41984 / np.sqrt(energy * (energy + 2 * 510998.95))


VOLTAGES = {
    "thin": (80, 200, 300),
    "thick": (200, 300),
    "layers": (60, 80),
    "particle": (80, 200, 300),
    "blobs": (300,),
}

DETECTORS = {
    "thin": (48, 64, 80, 96),
    "thick": (48, 56),
    "layers": (48, 64, 80, 96),
    "particle": (48, 64),
    "blobs": (80, 96),
}
SCANS = {
    "thin": (32, 40, 48, 64),
    "thick": (32,),
    "layers": (32, 40, 48, 64),
    "particle": (32, 40, 48),
    "blobs": (40,),
}
# Many pixels, many positions and many slices together would take minutes.


def draw_case(seed: int) -> Case:
    """The case of a seed, with all faults; see the table of the module.

    Example:
        >>> draw_case(1000) == draw_case(1000), draw_case(1001).specimen
        (True, 'thick')
    """
    rng = np.random.default_rng([seed, 1])
    specimen = SPECIMENS[seed % len(SPECIMENS)]
    blobs = specimen == "blobs"
    kilovolts = float(rng.choice(VOLTAGES[specimen]))
    wavelength = electron_wavelength(kilovolts)
    limits = (4, 6) if blobs else (24, 35) if kilovolts < 100 else (17, 28)
    semiangle = rng.uniform(*limits) * 1e-3
    pixels = int(rng.choice(DETECTORS[specimen]))
    reach = rng.uniform(1.3, 1.7 if blobs else 2.5) * semiangle
    angle = 2 * reach / pixels
    window = wavelength / angle

    defocus = rng.uniform(2000, 10000) * rng.choice((-1, 1)) if blobs else rng.uniform(-300, 300)
    if rng.uniform() < 0.2 and not blobs:
        defocus = 0.0
    most = 0.5 * window / (2 * semiangle)
    defocus = float(np.clip(defocus, -most, most))
    beam = np.hypot(1.22 * wavelength / semiangle, 2 * semiangle * defocus)
    longest = (2.0 if blobs else 1.2) * wavelength / (2 * semiangle)
    step = min(rng.uniform(0.15, 0.3) * beam, longest)
    scan = int(rng.choice(SCANS[specimen]))
    if pixels > 64:  # keeps a case within its time
        scan = min(scan, 40)
    electrons = 10 ** rng.uniform(3, 4.5 if blobs else 6)
    stated = defocus * rng.uniform(0.7, 1.3) if defocus else rng.uniform(-30, 30)
    return Case(
        seed=seed,
        specimen=specimen,
        kilovolts=kilovolts,
        semiangle=round(semiangle, 6),
        pixels=pixels,
        angle=round(angle, 9),
        defocus=round(defocus, 2),
        stated_defocus=round(stated, 1),
        step=round(step, 4),
        scan=scan,
        electrons=float(round(electrons)),
        faults=draw_faults(np.random.default_rng([seed, 2]), step, defocus, semiangle, wavelength),
    )


def draw_faults(
    rng: np.random.Generator, step: float, defocus: float, semiangle: float, wavelength: float
) -> Faults:
    """All faults: uniform in the ranges of the code, any of the eight orientations, any rotation.

    Aberrations are bounded by the phase that they make at the edge of the aperture (C12: 2.5 rad, others
    1 rad) as well as by their size, so that blobs at 5 mrad get as much of them as crystals at 30 mrad.
    """
    coarse = semiangle < 0.01
    length = 6.0 if coarse else 1.0  # a source seen at low magnification is larger
    wave_number = 2 * np.pi / wavelength
    astigmatism = rng.uniform(0, 2.5) / (wave_number * semiangle**2 / 2)
    coma = rng.uniform(0, 1) / (wave_number * semiangle**3 / 3)
    threefold = rng.uniform(0, 1) / (wave_number * semiangle**3 / 3)
    spherical = rng.uniform(-1, 1) / (wave_number * semiangle**4 / 4)
    azimuths = rng.uniform(-np.pi, np.pi, 3) / (2, 1, 3)
    drift = rng.uniform(0.5, 2) * step
    heading = rng.uniform(-np.pi, np.pi)
    plane = rng.uniform(-1, 1, 4)
    plane *= rng.uniform(0.5, 1.5) / np.abs(plane).max()
    orientation = [bool(bit) for bit in rng.integers(0, 2, 3)]
    return Faults(
        orientation=(orientation[0], orientation[1], orientation[2]),
        rotation=rng.uniform(-np.pi, np.pi),
        step_error=rng.uniform(-0.03, 0.03),
        angle_error=rng.uniform(-0.02, 0.02),
        jitter=min(rng.uniform(0.05, 0.2) * length, 0.3 * step),
        drift=(drift * np.cos(heading), drift * np.sin(heading)),
        drift_curve=rng.uniform(0, 0.5),
        source_size=min(rng.uniform(0.2, 0.5) * length, 0.5 * wavelength / (2 * semiangle)),
        focal_spread=rng.uniform(20, 60),
        aberrations=(astigmatism, azimuths[0], coma, azimuths[1], threefold, azimuths[2], spherical),
        descan=tuple(plane.tolist()),
        descan_wobble=rng.uniform(0.02, 0.15),
        off_centre=tuple(rng.uniform(-2, 2, 2).tolist()),
        hot_pixels=3,
        dead_pixels=2,
        background=0.01,
        beam_drift=0.05,
        saturation=rng.uniform(0.4, 0.8),
    )


def choose_faults(faults: Faults, names: str) -> Faults:
    """Keep the faults that are named: ``all``, ``none``, or names of `FAULTS` with commas between.

    Example:
        >>> choose_faults(draw_case(1000).faults, "rotation, background").background
        0.01
    """
    if names == "none":
        wanted = set()
    elif names == "all":
        wanted = set(FAULTS) - {"saturation"}
    else:
        wanted = {name.strip() for name in names.split(",")}
    unknown = wanted - set(FAULTS)
    if unknown:
        message = f"faults: {sorted(unknown)} are not known: write all, none, or some of {FAULTS}"
        raise ValueError(message)
    fields = [field for name in wanted for field in FIELDS_OF_FAULTS.get(name, (name,))]
    return Faults(**{field: getattr(faults, field) for field in fields})
