"""Rotation and strain by Bragg disks: laws on patterns that this file makes, faults, bad input."""

from dataclasses import replace

import numpy as np
import pytest

from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.embedding.strain.disk_likelihood import DiskExpansion, DiskState, DiskWindows, expand_disks
from phaseloom.embedding.strain.disk_probe import DiskProbe, correlate_disk, find_peaks
from phaseloom.embedding.strain.lattice import build_turn, find_lattice, list_symmetries, measure_turn
from phaseloom.embedding.strain.lattice_map import map_lattices
from phaseloom.embedding.strain.probe_estimate import estimate_probe
from phaseloom.embedding.strain.strain_figure import plot_strain
from phaseloom.embedding.strain.strain_map import StrainMap, compute_strain, describe_strain, map_strain
from phaseloom.errors import BadInput

GRID, SHAPE = (5, 6), (64, 68)
PLACES = np.indices(GRID).reshape(2, -1).T * 10.0
GEOMETRY = Geometry(wavelength=0.025, shape=SHAPE, angle=(5e-4, 5e-4), beam="electron")
BASIS = np.array([[2.0, 13.0], [14.0, -1.0]])  # columns (row, column): a right angle, nearly
OBLIQUE = np.array([[2.0, 15.0], [14.0, 4.0]])
RADIUS = 3.4
R = range(-3, 4)


def draw(basis: np.ndarray, centre: np.ndarray, *, seed: int = 0, slope: float = 0.3) -> np.ndarray:
    """Disks of random intensities and slopes, an edge of half a pixel, and a background."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SHAPE)
    pattern = 0.002 * np.exp(-np.hypot(y - centre[0], x - centre[1]) / 15)
    for h in range(-3, 4):
        for k in range(-3, 4):
            height = 0.3 * rng.uniform(0.2, 1) * np.exp(-(h * h + k * k) / 6) if h or k else 1.0
            tilt = slope * rng.normal(size=2) / RADIUS
            dy, dx = y - centre[0] - basis[0] @ [h, k], x - centre[1] - basis[1] @ [h, k]
            disk = 1 / (1 + np.exp((np.hypot(dy, dx) - RADIUS) / 0.3))
            pattern = pattern + height * disk * np.clip(1 + tilt[0] * dy + tilt[1] * dx, 0.1, 3)
    return pattern / pattern.sum()


def strain_basis(basis: np.ndarray, turn: float, exx: float, eyy: float, exy: float) -> np.ndarray:
    """Reciprocal lattice of a crystal that is turned and then strained along the axes of the detector."""
    deformation = (np.eye(2) + np.array([[eyy, exy], [exy, exx]])) @ build_turn(turn)
    return np.linalg.inv(deformation).T @ basis


def make_scan(
    turns: np.ndarray,
    strains: np.ndarray,
    electrons: float = 2e4,
    *,
    basis: np.ndarray = OBLIQUE,
    descan: np.ndarray | None = None,
) -> Scan4D:
    rng = np.random.default_rng(1)
    shifts = np.zeros((len(turns), 2)) if descan is None else descan
    middle = np.array([32.3, 33.6])
    rates = [
        draw(strain_basis(basis, turn, *strain), middle + shift, seed=number % 3)
        for number, (turn, strain, shift) in enumerate(zip(turns, strains, shifts, strict=True))
    ]
    counts = rng.poisson(electrons * np.array(rates)).astype(np.uint16)
    return Scan4D(counts=counts, positions=PLACES, geometry=GEOMETRY, grid=GRID)


NONE = np.zeros((30, 3))
RAMP = np.linspace(-1, 1, 30)
STRAINED = np.stack([0.012 * RAMP, 0.008 * RAMP[::-1], 0.006 * np.sin(9 * RAMP)], 1)
TURNS = 3.0 * np.cos(2 * RAMP)


@pytest.fixture(scope="module")
def strained() -> StrainMap:
    descan = 1.2 * PLACES / 50 - 0.5
    return map_strain(make_scan(TURNS, STRAINED, descan=descan))


def errors_of(found: StrainMap, turns: np.ndarray, strains: np.ndarray) -> np.ndarray:
    """Differences from the truth, less their median: the reference is that of the scan."""
    apart = found.values - np.concatenate([turns[:, None], strains], 1)
    period = 360 / found.symmetry
    apart[:, 0] = (apart[:, 0] - apart[found.known, 0][0] + period / 2) % period - period / 2
    return apart - np.median(apart[found.known], 0)


def test_rotation_and_strain_are_those_that_were_made(strained: StrainMap):
    apart = errors_of(strained, TURNS, STRAINED)
    assert strained.known.all()
    rms = np.sqrt((apart**2).mean(0))
    assert rms[0] < 0.15
    assert (rms[1:] < 0.0025).all()
    for column in range(4):  # the signs and sizes: slopes are one
        truth = np.concatenate([TURNS[:, None], STRAINED], 1)[:, column]
        assert np.polyfit(truth, strained.values[:, column], 1)[0] == pytest.approx(1, abs=0.12)


def test_errors_cover_the_truth(strained: StrainMap):
    apart = errors_of(strained, TURNS, STRAINED) / strained.errors
    assert 0.6 < np.sqrt((apart**2).mean()) < 1.6
    assert (np.abs(apart) < 1.96).mean() > 0.85


def test_shifts_of_the_pattern_are_found_and_are_no_strain(strained: StrainMap):
    apart = strained.origins - (np.array([32.3, 33.6]) + 1.2 * PLACES / 50 - 0.5)
    assert np.abs(apart).max() < 0.25


@pytest.mark.medium
def test_strain_goes_with_the_axes_of_the_raster_not_of_the_detector():
    """A raster that runs along the detector's columns has exx and eyy exchanged, and the other sense."""
    scan = make_scan(TURNS, STRAINED)
    crossed = replace(scan, positions=scan.positions[:, ::-1].copy())
    plain, other = map_strain(scan), map_strain(crossed)
    assert np.abs(other.values[:, 1] - plain.values[:, 2]).max() < 1e-9
    assert np.abs(other.values[:, 3] - plain.values[:, 3]).max() < 1e-9
    assert np.abs(other.values[:, 0] + plain.values[:, 0]).max() < 1e-7
    turned = replace(scan, positions=scan.positions @ build_turn(25.0).T)
    found = map_strain(turned)
    assert np.abs(found.values[:, 0] - plain.values[:, 0]).max() < 1e-7
    trace = [one.values[:, 1] + one.values[:, 2] for one in (found, plain)]
    assert np.abs(trace[0] - trace[1]).max() < 1e-9
    assert np.abs(found.values[:, 1] - plain.values[:, 1]).max() > 1e-3


@pytest.mark.medium
def test_grains_are_told_by_their_rotation_up_to_the_symmetry():
    turns = np.where(np.arange(30) % 6 < 3, 0.0, 38.0) + 0.3 * RAMP
    found = map_strain(make_scan(turns, NONE))
    assert found.symmetry == 2
    apart = errors_of(found, turns, NONE)
    assert np.sqrt((apart**2).mean(0))[0] < 0.2
    assert np.sqrt((apart[:, 1:] ** 2).mean()) < 0.003


@pytest.mark.medium
def test_a_reference_region_has_no_strain_in_the_mean():
    strains = np.zeros((*GRID, 3))
    strains[:, 3:, 0] = 0.015
    scan = make_scan(np.zeros(30), strains.reshape(-1, 3))
    left, right = map_strain(scan, region=(0, 5, 0, 3)), map_strain(scan, region=(0, 5, 3, 6))
    maps = [one.values[:, 1].reshape(GRID) for one in (left, right)]
    assert np.median(maps[0][:, :3]) == pytest.approx(0, abs=1.5e-3)
    assert np.median(maps[0][:, 3:]) == pytest.approx(0.015, abs=2e-3)
    assert np.median(maps[1][:, :3]) == pytest.approx(-0.015, abs=2e-3)


@pytest.mark.medium
def test_the_error_of_the_reference_is_told_and_shifts_all_places_alike():
    """Few patterns of a reference give the rest an offset of rotation and strain that is no signal."""
    rng, scan = np.random.default_rng(4), make_scan(0 * TURNS, NONE)
    lattices, chosen = map_lattices(scan), np.arange(30) < 9
    covariance = np.linalg.inv(lattices.information)[:, 2:, 2:]
    offsets, told = [], []
    for _ in range(60):
        moved = np.stack([rng.multivariate_normal(np.zeros(4), one) for one in covariance])
        bases = lattices.bases + chosen[:, None, None] * moved.reshape(-1, 2, 2).swapaxes(1, 2)
        found = compute_strain(replace(lattices, bases=bases), scan, chosen)
        offsets.append(found.values[~chosen] * [1, 100, 100, 100])
        note = next(note for note in found.notes if "reference of 9 patterns" in note)
        told.append([float(word) for word in note.replace("%", "").split() if word.startswith("0.")])
    common = np.array(offsets).std(0)
    assert np.ptp(common, axis=0).max() < 0.05 * common.max()  # alike in all places
    turn, strain = np.median(told, 0)
    assert common[:, 0].mean() == pytest.approx(turn, rel=0.25)
    assert np.sqrt((common[:, 1:] ** 2).mean()) == pytest.approx(strain, rel=0.25)
    assert not any("reference of" in note for note in compute_strain(lattices, scan).notes)


@pytest.mark.medium
def test_few_electrons_give_wide_errors_not_wrong_lattices():
    found = map_strain(make_scan(TURNS, NONE, 250))
    apart = errors_of(found, TURNS, NONE)
    assert found.known.mean() > 0.9
    assert np.nanmedian(np.abs(apart[:, 0])) < 0.8
    assert 0.6 < np.sqrt(np.nanmean((apart / found.errors) ** 2)) < 1.6


@pytest.mark.medium
def test_vacuum_amorphous_and_blank_places_have_no_lattice():
    scan = make_scan(TURNS, NONE)
    rng = np.random.default_rng(3)
    y, x = np.indices(SHAPE)
    rho = np.hypot(y - 32.3, x - 33.6)
    disk = 1 / (1 + np.exp((rho - RADIUS) / 0.3))
    ring = np.exp(-(((rho - 15) / 3) ** 2))
    counts = scan.counts.copy()
    counts[0] = 0
    counts[6] = rng.poisson(2e4 * disk / disk.sum())
    counts[12] = rng.poisson(1e4 * disk / disk.sum() + 1e4 * ring / ring.sum())
    found = map_strain(replace(scan, counts=counts))
    assert np.flatnonzero(~found.known).tolist() == [0, 6, 12]
    assert np.isnan(found.errors[[0, 6, 12]]).all()
    assert any("1 of 30 patterns hold no counts" in note for note in found.notes)
    assert any("2 of 30 patterns show no such lattice" in note for note in found.notes)


@pytest.mark.medium
def test_hot_pixels_are_left_out():
    scan = make_scan(TURNS, STRAINED)
    counts = scan.counts.copy()
    counts[:, 20, 41] = 3000
    counts[:, 50, 12] = 900
    found = map_strain(replace(scan, counts=counts))
    assert any("hot pixels" in note for note in found.notes)
    apart = errors_of(found, TURNS, STRAINED)
    assert np.sqrt((apart**2).mean(0))[0] < 0.15
    assert np.sqrt((apart[:, 1:] ** 2).mean()) < 0.0025


@pytest.mark.medium
def test_a_beam_stop_hides_the_direct_beam_and_nothing_else():
    y, x = np.indices(SHAPE)
    stop = (np.hypot(y - 32, x - 33) < 6) | ((np.abs(x - 33) < 2) & (y > 32))
    scan = make_scan(TURNS, STRAINED)
    found = map_strain(replace(scan, mask=~stop, counts=np.where(stop, 0, scan.counts)))
    apart = errors_of(found, TURNS, STRAINED)
    assert found.known.all()
    assert np.sqrt((apart**2).mean(0))[0] < 0.2
    assert np.sqrt((apart[:, 1:] ** 2).mean()) < 0.003


@pytest.mark.medium
def test_an_elliptical_detector_is_in_the_reference_too():
    distort = np.eye(2) + 0.02 * np.array([[1, 0.5], [0.5, -1]])
    scan = make_scan(0 * TURNS, STRAINED, basis=distort @ OBLIQUE)
    apart = errors_of(map_strain(scan), 0 * TURNS, STRAINED)
    assert np.sqrt((apart[:, 1:] ** 2).mean()) < 0.0025


@pytest.mark.medium
def test_two_grains_in_one_pattern_are_seen_by_the_misfit():
    scan = make_scan(0 * TURNS, NONE)
    other = make_scan(0 * TURNS + 25, NONE)
    counts = scan.counts.copy()
    counts[14] = (counts[14] + other.counts[14]) // 2
    found = map_strain(replace(scan, counts=counts))
    rest = np.delete(found.misfit, 14)
    assert found.misfit[14] > 1.3 * rest.max()


@pytest.mark.medium
def test_pixels_that_are_not_square_are_allowed_for():
    wide = np.diag([1.0, 1.25])
    scan = make_scan(TURNS, STRAINED, basis=OBLIQUE)
    stretched = [
        draw(
            np.linalg.inv(wide) @ strain_basis(OBLIQUE, turn, *strain),
            np.array([32.3, 33.6]),
            seed=number % 3,
        )
        for number, (turn, strain) in enumerate(zip(TURNS, STRAINED, strict=True))
    ]
    counts = np.random.default_rng(2).poisson(2e4 * np.array(stretched))
    geometry = replace(GEOMETRY, angle=(5e-4, 6.25e-4))
    found = map_strain(replace(scan, counts=counts, geometry=geometry))
    apart = errors_of(found, TURNS, STRAINED)
    assert np.sqrt((apart**2).mean(0))[0] < 0.2
    assert np.sqrt((apart[:, 1:] ** 2).mean()) < 0.003


@pytest.mark.parametrize("electrons", [100, 400])
def test_the_radius_of_a_disk_does_not_depend_on_the_dose(electrons):
    """The fit had ended at 3.9 pixels, with twice the deviance, and errors of strain grew tenfold."""
    y, x = np.indices((64, 64))
    rate = sum(
        np.exp(-np.hypot(h, k)) / (1 + np.exp((np.hypot(y - 32 - 14 * h, x - 32 - 13 * k) - 3) / 0.3))
        for h in R
        for k in R
    )
    counts = np.random.default_rng(0).poisson(electrons * rate, (30, 64, 64))
    probe = estimate_probe(counts, np.ones((64, 64), bool))
    assert probe is not None
    assert probe.radius == pytest.approx(3, abs=0.1)
    assert probe.width == pytest.approx(0.3 * np.pi / np.sqrt(3), abs=0.15)  # deviation of the logistic edge


def test_a_slope_of_a_disk_is_not_a_shift():
    """The centre of mass of such a disk is off by 0.4 pixels, its edge is not."""
    probe = DiskProbe(4.0, 0.5)
    fine = (np.indices((21 * 8, 21 * 8)) + 0.5) / 8 - 0.5
    y, x = fine[0] - 10.2, fine[1] - 9.7
    disk = (np.hypot(y, x) < 4) * np.clip(1 + 0.1 * y + 0.05 * x, 0, None)
    from scipy.ndimage import gaussian_filter

    image = gaussian_filter(disk, 8 * 0.5).reshape(21, 8, 21, 8).mean((1, 3)) * 500 + 5
    rows, columns = np.indices((21, 21))
    centre = np.array([10.0, 10.0])
    state = None
    for _ in range(12):
        windows = DiskWindows(
            image[None], np.ones((1, 21, 21), bool), rows[None] - centre[0], columns[None] - centre[1]
        )
        state = state or DiskState.begin(windows, probe)
        step = expand_disks(windows, probe, state)
        moved = np.linalg.solve(step.information, step.score[..., None])[..., 0]
        centre, state = centre + moved[0], step.update(moved)
    mass = np.array([(rows * (image - 5)).sum(), (columns * (image - 5)).sum()]) / (image - 5).sum()
    assert np.abs(mass - [10.2, 9.7]).max() > 0.3
    assert np.abs(centre - [10.2, 9.7]).max() < 0.03


def test_a_fit_is_at_the_maximum_of_the_likelihood():
    """Where the score vanishes, the deviance with all else fitted is least, and curved as the information."""
    probe, rng = DiskProbe(3.0, 0.6), np.random.default_rng(0)
    rows, columns = np.indices((13, 13))
    rate = 3 + 60 * probe.sample(np.hypot(rows - 6.2, columns - 5.7))[0]
    counts = rng.poisson(rate)[None].astype(float)

    def fit(centre: np.ndarray, *, free: bool) -> tuple[np.ndarray, DiskExpansion]:
        state = None
        for _ in range(30):
            good = np.ones((1, 13, 13), bool)
            windows = DiskWindows(counts, good, rows[None] - centre[0], columns[None] - centre[1])
            state = state or DiskState.begin(windows, probe)
            step = expand_disks(windows, probe, state)
            moved = np.linalg.solve(step.information, step.score[..., None])[..., 0] * free
            centre, state = centre + moved[0], step.update(moved)
        return centre, step

    best, step = fit(np.array([6.0, 6.0]), free=True)
    assert np.abs(best - [6.2, 5.7]).max() < 4 / np.sqrt(np.linalg.eigvalsh(step.information[0])[0])
    for direction in (np.array([0.1, 0.0]), np.array([0.0, 0.1])):
        away = [fit(best + sign * direction, free=False)[1].deviance[0] for sign in (1, -1)]
        bend = (sum(away) - 2 * step.deviance[0]) / 2
        assert min(away) > step.deviance[0]
        assert bend == pytest.approx(direction @ step.information[0] @ direction, rel=0.35)


def test_lattices_of_peaks_and_their_symmetry():
    orders = np.array([[h, k] for h in (-2, -1, 0, 1, 2) for k in (-1, 0, 1) if h or k])
    places = orders @ OBLIQUE.T + np.random.default_rng(0).normal(0, 0.1, (14, 2))
    found = find_lattice(np.concatenate([places, [[7.0, 9.0]]]), tolerance=1.0, least=5.0)
    assert found is not None
    numbers = np.linalg.solve(found[0], OBLIQUE)
    assert np.abs(numbers - np.rint(numbers)).max() < 0.05
    assert abs(abs(np.linalg.det(numbers)) - 1) < 0.05
    assert find_lattice(np.random.default_rng(1).uniform(-30, 30, (5, 2)), tolerance=0.5, least=5.0) is None
    hexagonal = 14 * np.array([[0, np.sqrt(0.75)], [1, 0.5]])
    sizes = [len(list_symmetries(one)) for one in (OBLIQUE, 14 * np.eye(2), hexagonal)]
    assert sizes == [2, 4, 6]
    assert float(measure_turn(build_turn(31.0))) == pytest.approx(31)


def test_correlation_is_in_standard_deviations_of_shot_noise():
    rng = np.random.default_rng(0)
    flat = rng.poisson(4.0, (20, 40, 40))
    found = correlate_disk(flat, DiskProbe(3.0), np.ones((40, 40), bool))[:, 8:-8, 8:-8]
    assert found.std() == pytest.approx(1, abs=0.1)
    image = rng.poisson(1 + 30 * DiskProbe(3.0).sample(np.hypot(*(np.indices((40, 40)) - 20.3)))[0])
    places, _ = find_peaks(correlate_disk(image[None], DiskProbe(3.0), np.ones((40, 40), bool))[0], 6, 3)
    assert np.abs(places[0] - 20.3).max() < 0.3


def test_files_hold_all_of_it(strained: StrainMap, tmp_path):
    again = StrainMap.load(strained.write(tmp_path / "strain.h5"))
    for name in ("values", "errors", "misfit", "bases", "origins", "reference"):
        assert np.array_equal(getattr(again, name), getattr(strained, name), equal_nan=True)
    assert (again.grid, again.symmetry, again.notes) == (strained.grid, strained.symmetry, strained.notes)
    assert again.provenance == strained.provenance
    assert len(plot_strain(again).axes) == 6
    assert sum("error" in line for line in describe_strain(again)) == 4
    (tmp_path / "other.h5").write_bytes(b"x")
    with pytest.raises(BadInput):
        StrainMap.load(tmp_path / "other.h5")
    with pytest.raises(BadInput, match=r"is not an \.h5 file"):
        strained.write(tmp_path / "strain.txt")


@pytest.mark.parametrize(
    ("region", "words"),
    [((0, 9, 0, 2), "is not within the 5 x 6 places"), ((3, 3, 0, 2), "is not within")],
)
def test_regions_outside_are_refused(region, words):
    with pytest.raises(BadInput, match=words):
        map_strain(make_scan(TURNS, NONE), region=region)


@pytest.mark.medium
def test_lattices_that_have_nothing_to_compare_with_are_refused():
    """Of overlapping disks one pattern of 64 had a lattice, and no strain against itself."""
    lattices = map_lattices(make_scan(TURNS, STRAINED))
    lost = np.where(np.arange(30)[:, None, None] > 1, np.nan, lattices.bases)
    with pytest.raises(BadInput, match="finds a lattice in 2 of 30 patterns"):
        compute_strain(replace(lattices, bases=lost), make_scan(TURNS, STRAINED))


def test_patterns_without_a_lattice_are_refused():
    empty = np.zeros((30, *SHAPE), np.uint16)
    scan = Scan4D(counts=empty, positions=PLACES, geometry=GEOMETRY, grid=GRID)
    with pytest.raises(BadInput, match="finds no counts"):
        map_strain(scan)
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match="finds no disks or spots"):
        map_strain(replace(scan, counts=rng.poisson(0.5, empty.shape)))
    y, x = np.indices(SHAPE)
    disk = 1.0 * (np.hypot(y - 32.3, x - 33.6) < RADIUS)
    with pytest.raises(BadInput, match="finds no lattice"):
        map_strain(replace(scan, counts=rng.poisson(300 * disk + 0.1, empty.shape)))
    wide = [
        np.exp(-np.hypot(h, k) / 2) * (np.hypot(y - 32 - 9 * h, x - 33 - 9 * k) < 4.8) for h in R for k in R
    ]
    with pytest.raises(BadInput, match="overlap"):
        map_strain(replace(scan, counts=rng.poisson(20 * sum(wide) + 0.1, empty.shape)))
    near = replace(GEOMETRY, distance=1e8, focus=np.inf)
    with pytest.raises(BadInput, match="has no Bragg disks"):
        map_strain(replace(scan, geometry=near))


@pytest.mark.medium
def test_the_command_writes_maps_and_a_picture(phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    native.write(make_scan(TURNS, STRAINED), "film.h5")
    ended = phaseloom("strain", "film.h5", "--region", "0,5,0,2", "--out", "map.h5")
    assert not ended.code, ended.err
    assert "known up to multiples of 180 degrees" in ended.out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert StrainMap.load("map.h5").values.shape == (30, 4)
    for words, said in (
        (("--region", "0,5"), "is not four numbers"),
        (("--region", "0,50,0,2"), "is not within the 5 x 6 places"),
        (("--semiangle", "3"), "not an angle"),
        (("--centre", "a,b"), "is not two numbers"),
        (("--out", "map.txt"), "is not an .h5 file"),
    ):
        ended = phaseloom("strain", "film.h5", *(("--out", "new.h5") if "--out" not in words else ()), *words)
        assert ended.code
        assert said in " ".join(ended.err.split())


@pytest.mark.medium
def test_an_orientation_that_the_settings_state_is_known(phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    native.write(replace(make_scan(TURNS, STRAINED), oriented=False), "film.h5")
    note = "does not say how the detector lies"
    left = phaseloom("strain", "film.h5", "--out", "left.h5")
    assert note in " ".join(left.out.split()), left.err
    stated = phaseloom("strain", "film.h5", "--set", "prepare=[transpose]", "--out", "stated.h5")
    assert not stated.code, stated.err
    assert note not in " ".join(stated.out.split())
