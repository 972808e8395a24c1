"""The scan itself: probe, multislice, detector, faults and counts, in numpy and SciPy's FFT.

All signs are stated in `benchmarks.faulty_scans`.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy import fft

from benchmarks.testbed.draw import Case, Faults, choose_faults, draw_case
from benchmarks.testbed.specimens import Specimen, build_specimen

__all__ = ["Scan", "aberration_phase", "beam_states", "diffract", "orient_patterns", "orientation_matrix"]
__all__ += ["probe_spectrum", "rotation_matrix", "simulate_case", "simulate_scan"]

POSITIONS_PER_BATCH = 32
GRID_OVER_DETECTOR = 1.5  # transmission functions are cut at 2/3 of the grid: just what the detector sees
MAX_COST_OF_TWO_SAMPLES = 1.2e9  # positions x beam states x (slices + 1) x pixels of the grid: about 12 s


@dataclass(frozen=True)
class Scan:
    """A simulated scan.

    Attributes:
        counts: as the detector recorded them, ``(slow, fast, ky, kx)``.
        expected: their expectation.
        known: what the microscopist knows.
        truth: what only the simulation knows; arrays and numbers.
    """

    counts: np.ndarray
    expected: np.ndarray
    known: dict
    truth: dict


@dataclass(frozen=True)
class Grid:
    """Of the simulated waves: ``samples`` of them per detector pixel along each side."""

    pixels: int
    samples: int
    pixel: float

    @property
    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns, in cycles per angstrom, zero in the corner."""
        line = fft.fftfreq(self.pixels, self.pixel)
        return line[:, None], line[None, :]


def choose_grid(case: Case, faults: Faults, cost: float) -> Grid:
    """Two samples per detector pixel where that is cheap (a real pixel integrates), otherwise one."""
    angle = case.angle * (1 + faults.angle_error)
    for samples in (2, 1):
        pixels = fft.next_fast_len(int(np.ceil(GRID_OVER_DETECTOR * case.pixels * samples)))
        pixels += pixels % 2
        if samples == 1 or cost * pixels**2 < MAX_COST_OF_TWO_SAMPLES:
            break
    return Grid(pixels, samples, case.wavelength / (pixels * angle / samples))


def aberration_phase(ky, kx, wavelength, defocus, aberrations):
    """Chi in radian; azimuths run from the column axis (x) towards the row axis (y)."""
    C12, phi12, C21, phi21, C23, phi23, C30 = aberrations
    theta = wavelength * np.hypot(ky, kx)
    phi = np.arctan2(ky, kx)
    path = theta**2 / 2 * (-defocus + C12 * np.cos(2 * (phi - phi12)))
    path = path + theta**3 / 3 * (C21 * np.cos(phi - phi21) + C23 * np.cos(3 * (phi - phi23)))
    return 2 * np.pi / wavelength * (path + theta**4 / 4 * C30)


def probe_spectrum(case: Case, faults: Faults, grid: Grid, extra_defocus=0.0):
    """``A exp(-i chi)``, zero in the corner, the sum of its squared modulus is 1."""
    ky, kx = grid.frequencies
    aperture = np.hypot(ky, kx) * case.wavelength <= case.semiangle
    defocus = case.defocus + extra_defocus
    chi = aberration_phase(ky, kx, case.wavelength, defocus, faults.aberrations)
    return aperture / np.sqrt(aperture.sum()) * np.exp(-1j * chi)


def beam_states(source_size: float, focal_spread: float):
    """Incoherent states of the beam: weights and offsets ``(row, column, defocus)`` in angstrom.

    Quadratures of degree 5 of a Gaussian: 7 places for the source, 3 defoci, or both together with the
    centre and the 12 corners of an icosahedron (Stroud, E_3^{r^2} 5-1).
    """
    if source_size and focal_spread:
        golden = (1 + np.sqrt(5)) / 2
        corners = [(0, one, two * golden) for one in (-1, 1) for two in (-1, 1)]
        corners = np.array([np.roll(corner, turn) for corner in corners for turn in range(3)])
        corners = corners * np.sqrt(5 / (1 + golden**2))
        offsets = np.concatenate([np.zeros((1, 3)), corners])
        weights = np.array([0.4] + [0.05] * 12)
    elif source_size:
        angles = np.pi / 3 * np.arange(6)
        ring = 2 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
        offsets = np.concatenate([np.zeros((1, 3)), ring])
        weights = np.array([1 / 2] + [1 / 12] * 6)
    elif focal_spread:
        offsets = np.sqrt(3) * np.array([(0, 0, 0), (0, 0, -1), (0, 0, 1.0)])
        weights = np.array([2 / 3, 1 / 6, 1 / 6])
    else:
        return np.ones(1), np.zeros((1, 3))
    return weights, offsets * (source_size, source_size, focal_spread)


def rotation_matrix(angle: float):
    """Turns ``(row, column)`` from the row axis towards the column axis."""
    return np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])


def orientation_matrix(orientation):
    """What `orient_patterns` does to a vector ``(row, column)`` of the detector."""
    transpose, flip_rows, flip_columns = orientation
    matrix = np.array([(0.0, 1), (1, 0)]) if transpose else np.eye(2)
    return np.diag([-1.0 if flip_rows else 1.0, -1.0 if flip_columns else 1.0]) @ matrix


def orient_patterns(patterns, orientation):
    """Transpose, then flip rows, then flip columns, of the last two axes."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        patterns = np.swapaxes(patterns, -1, -2)
    if flip_rows:
        patterns = patterns[..., ::-1, :]
    if flip_columns:
        patterns = patterns[..., ::-1]
    return patterns


def scan_positions(case: Case, faults: Faults):
    """Places of the beam on the specimen ``(slow, fast, 2)`` about the origin, and nominal ones."""
    rng = np.random.default_rng([case.seed, 4])
    line = case.step * (np.arange(case.scan) - (case.scan - 1) / 2)
    nominal = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    true = nominal * (1 + faults.step_error) @ rotation_matrix(faults.rotation).T
    time = np.linspace(0, 1, case.scan**2).reshape(case.scan, case.scan, 1)
    course = (1 - faults.drift_curve) * time + faults.drift_curve * time**2
    true = true + course * np.array(faults.drift) + faults.jitter * rng.normal(size=true.shape)
    return true, nominal


def pattern_shifts(case: Case, faults: Faults):
    """Where patterns lie as recorded, in pixels off ``[n // 2, n // 2]``: ``(slow, fast, 2)``."""
    rng = np.random.default_rng([case.seed, 5])
    line = np.linspace(-0.5, 0.5, case.scan)
    place = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    plane = place @ np.reshape(faults.descan, (2, 2)).T
    wobble = faults.descan_wobble * rng.normal(size=(case.scan, 1, 2))
    return plane + wobble + np.array(faults.off_centre)


def limit_band(slices, pixel, grid: Grid):
    """Transmission functions without frequencies above 2/3 of the grid's."""
    ky = fft.fftfreq(slices.shape[-2], pixel)[:, None]
    kx = fft.fftfreq(slices.shape[-1], pixel)[None, :]
    keep = np.hypot(ky, kx) <= 2 / 3 * 0.5 / pixel
    return fft.ifft2(fft.fft2(np.exp(1j * slices)) * keep).astype(np.complex64)


def diffract(case: Case, faults: Faults, specimen: Specimen, grid: Grid, *, positions, shifts):
    """Patterns of an electron each ``(position, ky, kx)`` before `orient_patterns`.

    Arguments: ``positions (position, 2)`` in angstrom from the specimen's first pixel, ``shifts`` of
    patterns in detector pixels.
    """
    ky, kx = grid.frequencies
    keep = np.hypot(ky, kx) <= 2 / 3 * 0.5 / grid.pixel
    flight = np.exp(-1j * np.pi * case.wavelength * specimen.spacing * (ky**2 + kx**2)) * keep
    flight = flight.astype(np.complex64)
    slices = limit_band(specimen.phases, specimen.pixel, grid)
    weights, offsets = beam_states(faults.source_size, faults.focal_spread)
    spectra = [probe_spectrum(case, faults, grid, offset[2]).astype(np.complex64) for offset in offsets]
    patterns = np.zeros((len(positions), case.pixels, case.pixels), np.float32)
    for start in range(0, len(positions), POSITIONS_PER_BATCH):
        part = slice(start, start + POSITIONS_PER_BATCH)
        corner = np.round(positions[part] / grid.pixel).astype(int) - grid.pixels // 2
        rest = positions[part] - corner * grid.pixel
        seen = cut_windows(slices, corner, grid.pixels)
        ramp = detector_ramp(shifts[part], grid)
        for weight, offset, spectrum in zip(weights, offsets, spectra, strict=True):
            wave = shift_probe(spectrum, rest + offset[:2], grid)
            for index, window in enumerate(seen):
                if index:
                    wave = fft.ifft2(fft.fft2(wave) * flight)
                wave = wave * window
            far = fft.fft2(wave * ramp, norm="ortho")
            patterns[part] += np.float32(weight) * collect(far, case.pixels, grid)
    return patterns


def cut_windows(slices, corner, pixels):
    """Windows ``(slice, position, y, x)`` of periodic slices."""
    rows = (corner[:, :1] + np.arange(pixels)) % slices.shape[-2]
    columns = (corner[:, 1:] + np.arange(pixels)) % slices.shape[-1]
    return slices[:, rows[:, :, None], columns[:, None, :]]


def shift_probe(spectrum, places, grid: Grid):
    """Probes at ``places (position, 2)`` in angstrom from the window's first pixel."""
    ky, kx = grid.frequencies
    rows = np.exp(-2j * np.pi * ky.ravel() * places[:, :1]).astype(np.complex64)
    columns = np.exp(-2j * np.pi * kx.ravel() * places[:, 1:]).astype(np.complex64)
    return fft.ifft2(spectrum * rows[:, :, None] * columns[:, None, :], norm="ortho")


def detector_ramp(shifts, grid: Grid):
    """Factor of the exit wave that moves patterns by ``shifts`` in detector pixels."""
    bins = grid.samples * shifts + (grid.samples - 1) / 2  # the middle of a detector pixel
    turns = 2j * np.pi * np.arange(grid.pixels) / grid.pixels
    rows = np.exp(turns * bins[:, :1]).astype(np.complex64)
    columns = np.exp(turns * bins[:, 1:]).astype(np.complex64)
    return rows[:, :, None] * columns[:, None, :]


def collect(far, pixels, grid: Grid):
    """Intensity on detector pixels, the centre of the grid on pixel ``n // 2``."""
    start = grid.pixels // 2 - pixels // 2 * grid.samples
    line = (np.arange(start, start + pixels * grid.samples) - grid.pixels // 2) % grid.pixels
    far = far[:, line[:, None], line]
    power = far.real**2 + far.imag**2
    return power.reshape(-1, pixels, grid.samples, pixels, grid.samples).sum((2, 4))


def shifts_before_orientation(shifts, orientation, pixels):
    """Shifts of patterns that come out as ``shifts`` after `orient_patterns`, the centre on ``n // 2``."""
    transpose, *flips = orientation
    before = shifts.copy()
    for axis, flip in enumerate(flips):
        if flip:
            # flipped, pixel n // 2 - 1 of an even number becomes n // 2
            before[..., axis] = -shifts[..., axis] - (pixels + 1) % 2
    return before[..., ::-1] if transpose else before


def simulate_case(seed: int, faults: str = "all", *, noise: bool = True) -> Scan:
    """The scan of a seed with ``all`` faults, ``none``, or those named with commas between.

    Example:
        >>> simulate_case(1002, "rotation, descan").counts.ndim  # doctest: +SKIP
        4
    """
    case = draw_case(seed)
    return simulate_scan(replace(case, faults=choose_faults(case.faults, faults)), noise=noise)


def simulate_scan(case: Case, *, specimen: Specimen | None = None, noise: bool = True) -> Scan:
    """The scan of a case with its faults; ``specimen`` overrules that of the seed and gives the grid."""
    faults = case.faults
    positions, nominal = scan_positions(case, faults)
    states = len(beam_states(faults.source_size, faults.focal_spread)[0])
    slices = {"thick": 20, "particle": 6, "thin": 4, "blobs": 3, "layers": 1}[case.specimen]
    grid = choose_grid(case, faults, case.scan**2 * states * (slices + 1))
    if specimen is None:
        specimen = build_specimen(case, grid.pixel)
    middle = specimen.pixel * np.array(specimen.phases.shape[-2:]) / 2
    positions = positions + middle
    recorded = pattern_shifts(case, faults)
    shifts = shifts_before_orientation(recorded, faults.orientation, case.pixels)
    flat = {"positions": positions.reshape(-1, 2), "shifts": shifts.reshape(-1, 2)}
    patterns = orient_patterns(diffract(case, faults, specimen, grid, **flat), faults.orientation)
    patterns = patterns.reshape(case.scan, case.scan, case.pixels, case.pixels)
    expected, bad = spoil_counts(case, faults, patterns)
    counts = count_electrons(case, expected) if noise else expected
    if faults.saturation:
        counts = np.minimum(counts, counts.dtype.type(faults.saturation * expected.max()))
    truth = list_truth(case, specimen, grid, positions=positions, nominal=nominal, shifts=recorded) | bad
    return Scan(counts, expected, list_known(case), truth)


def spoil_counts(case: Case, faults: Faults, patterns):
    """Expected counts with beam drift, background and bad pixels, and a list of the latter."""
    rng = np.random.default_rng([case.seed, 6])
    time = np.linspace(0, 1, case.scan**2).reshape(case.scan, case.scan)
    current = 1 + faults.beam_drift / 2 * np.sin(np.pi * (time - 0.5) + rng.uniform(-0.3, 0.3))
    expected = patterns * (case.electrons * current[:, :, None, None]).astype(np.float32)
    expected += np.float32(case.electrons * faults.background / case.pixels**2)
    radius = case.semiangle / case.angle
    angles = rng.uniform(-np.pi, np.pi, 2)
    inside = case.pixels / 2 + 0.6 * radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    elsewhere = rng.integers(0, case.pixels, (3, 2))
    places = np.concatenate([inside[:1].astype(int), elsewhere[:2], inside[1:].astype(int), elsewhere[2:]])
    hot = places[: faults.hot_pixels]
    dead = places[3 : 3 + faults.dead_pixels]
    in_disk = case.electrons / (np.pi * radius**2)
    levels = np.maximum(rng.uniform(3, 20, len(hot)) * in_disk, 20)
    for (row, column), level in zip(hot, levels, strict=True):
        expected[:, :, row, column] += np.float32(level)
    for row, column in dead:
        expected[:, :, row, column] = 0
    return expected, {"hot_pixels": hot, "dead_pixels": dead, "beam_current": current}


def count_electrons(case: Case, expected):
    """Poisson counts in the smallest type that holds them."""
    rng = np.random.default_rng([case.seed, 7])
    counts = np.empty(expected.shape, np.uint32)
    for row, line in zip(counts, expected, strict=True):
        row[...] = rng.poisson(line)
    return counts.astype(np.uint16) if counts.max() < 2**16 else counts


def list_known(case: Case) -> dict:
    """What the microscopist writes down; only the first four are needed to open the file."""
    return {
        "energy": f"{case.kilovolts:g} keV",
        "angle": f"{case.angle * 1e3:.6g} mrad",
        "step": f"{case.step:.6g} A",
        "grid": [case.scan, case.scan],
        "semiangle": f"{case.semiangle * 1e3:.6g} mrad",
        "defocus": f"{case.stated_defocus:.6g} A",
    }


def list_truth(case: Case, specimen: Specimen, grid: Grid, *, positions, nominal, shifts) -> dict:
    """Everything of the simulation under one flat set of names; see `benchmarks.faulty_scans`."""
    faults = case.faults
    names = ("C12", "phi12", "C21", "phi21", "C23", "phi23", "C30")
    turn = orientation_matrix(faults.orientation)
    matrix = (1 + faults.step_error) * turn @ rotation_matrix(faults.rotation)
    numbers = {key: value for key, value in asdict(case).items() if key != "faults"}
    numbers |= {
        key: value
        for key, value in asdict(faults).items()
        if key not in {"aberrations", "hot_pixels", "dead_pixels"}
    }
    return numbers | {
        "wavelength": case.wavelength,
        "phase": specimen.phases.sum(0),
        "pixel": specimen.pixel,
        "slices": len(specimen.phases),
        "spacing": specimen.spacing,
        "specimen_is": str(specimen.about),
        "positions": positions,
        "nominal_positions": nominal,
        "matrix": matrix,
        "true_step": case.step * (1 + faults.step_error),
        "true_angle": case.angle * (1 + faults.angle_error),
        "C10": -case.defocus,
        **dict(zip(names, faults.aberrations, strict=True)),
        "pattern_shifts": shifts,
        "probe_spectrum": probe_spectrum(case, faults, grid).astype(np.complex64),
        "grid_pixels": grid.pixels,
        "samples_per_detector_pixel": grid.samples,
    }
