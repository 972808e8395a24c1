"""The simulated faulty scans: against abTEM, against themselves, and against a direct phase image."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.faulty_scans import (
    DEVELOPMENT,
    FAULTS,
    HELD_BACK,
    SPECIMENS,
    Faults,
    choose_faults,
    draw_case,
    load_truth,
    score_geometry,
    score_image,
    simulate_scan,
    write_scan,
)
from benchmarks.testbed.scan import (
    Grid,
    aberration_phase,
    beam_states,
    diffract,
    orient_patterns,
    orientation_matrix,
    rotation_matrix,
)
from benchmarks.testbed.specimens import Specimen

ORIENTATIONS = [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]


@pytest.fixture(scope="module")
def case():
    """A small scan of a weak specimen at 80 kV, 25 mrad, 15 nm under-focus."""
    known = {"kilovolts": 80.0, "semiangle": 0.025, "pixels": 32, "angle": 2.5e-3, "defocus": 150.0}
    known |= {"step": 0.4, "scan": 24, "electrons": 1e6, "specimen": "layers", "faults": Faults()}
    return replace(draw_case(1002), **known)


@pytest.fixture(scope="module")
def specimen(case):
    """A slice of random Gaussian atoms of 0.1 rad; box of 30 angstrom."""
    pixel = case.wavelength / (96 * case.angle / 2)  # of the grid that the simulator chooses
    rng = np.random.default_rng(5)
    pixels = int(np.ceil(30 / pixel))
    y, x = np.indices((pixels, pixels)) * pixel
    phase = np.zeros((pixels, pixels))
    for row, column in rng.uniform(0, 30, (120, 2)):
        phase += 0.1 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 0.4**2))
    return Specimen(phase[None].astype(np.float32), pixel, 1.0, {})


def simulate(case, specimen, noise=False, **faults):
    return simulate_scan(replace(case, faults=Faults(**faults)), specimen=specimen, noise=noise)


def test_draws_are_repeatable_and_sets_apart():
    assert draw_case(1003) == draw_case(1003)
    assert not set(DEVELOPMENT) & set(HELD_BACK)
    assert [draw_case(seed).specimen for seed in range(1000, 1005)] == list(SPECIMENS)
    for seed in DEVELOPMENT:
        drawn = draw_case(seed)
        window = drawn.wavelength / drawn.angle
        assert 2 * drawn.semiangle * abs(drawn.defocus) <= 0.51 * window
        assert drawn.pixels * drawn.angle / 2 >= 1.29 * drawn.semiangle
        assert 1e3 <= drawn.electrons <= 1e6


def test_faults_are_chosen_by_name():
    faults = draw_case(1000).faults
    assert choose_faults(faults, "none") == Faults()
    assert choose_faults(faults, "all") == replace(faults, saturation=0.0)
    assert choose_faults(faults, "descan").descan_wobble == faults.descan_wobble
    with pytest.raises(ValueError, match="not known"):
        choose_faults(faults, "descann")
    for name in FAULTS:
        assert choose_faults(faults, name) != Faults() or name == "orientation"


@pytest.mark.medium
def test_a_pattern_is_that_of_abtem():
    pytest.importorskip("abtem")
    import abtem

    rng = np.random.default_rng(0)
    case = replace(draw_case(1000), kilovolts=80.0, semiangle=0.020, angle=1.5e-3, pixels=48, defocus=90.0)
    faults = Faults(aberrations=(40.0, 0.4, 300.0, 1.1, 300.0, 0.3, 2e4))
    grid = Grid(192, 1, case.wavelength / (192 * case.angle))
    size = 192 * grid.pixel
    y, x = np.indices((192, 192)) * grid.pixel
    places = rng.uniform(0.2, 0.8, (3, 8, 2)) * size
    phases = np.stack(
        [sum(0.4 * np.exp(-((y - r) ** 2 + (x - c) ** 2) / 0.5) for r, c in layer) for layer in places]
    )
    specimen = Specimen(phases, grid.pixel, 10.0, {})
    place = np.array([[0.45 * size, 0.58 * size]])
    mine = diffract(case, faults, specimen, grid, positions=place, shifts=np.zeros((1, 2)))[0]

    def theirs(defocus):
        volts = phases.transpose(0, 2, 1) / abtem.core.energy.energy2sigma(80e3)
        potential = abtem.potentials.iam.PotentialArray(volts, slice_thickness=10.0, extent=(size, size))
        aberrations = {"C10": -defocus, "C12": 40, "phi12": 0.4, "C21": 300, "phi21": 1.1, "C23": 300}
        aberrations |= {"phi23": 0.3, "C30": 2e4}
        knobs = {"energy": 80e3, "semiangle_cutoff": 20, "soft": False, "aberrations": aberrations}
        probe = abtem.Probe(extent=(size, size), gpts=192, **knobs)
        wave = probe.multislice(potential, scan=abtem.CustomScan([place[0, ::-1]])).compute(
            progress_bar=False
        )
        pattern = np.fft.fftshift(np.abs(np.fft.fft2(np.asarray(wave.array).squeeze())) ** 2)
        return (pattern / pattern.sum())[72:120, 72:120].T

    same = theirs(90.0)
    other = theirs(-90.0)
    assert np.linalg.norm(mine - same) < 1e-3 * np.linalg.norm(same)
    assert np.linalg.norm(mine - other) > 0.03 * np.linalg.norm(other)


def test_states_of_the_beam_have_the_moments_of_a_gaussian():
    for source, spread in ((0.4, 0.0), (0.0, 30.0), (0.4, 30.0)):
        weights, offsets = beam_states(source, spread)
        assert weights.sum() == pytest.approx(1)
        assert weights @ offsets == pytest.approx(np.zeros(3))
        assert weights @ offsets**2 == pytest.approx([source**2, source**2, spread**2])
        assert weights @ offsets**4 == pytest.approx([3 * source**4, 3 * source**4, 3 * spread**4])
        assert weights @ (offsets[:, 0] * offsets[:, 1]) ** 2 == pytest.approx(source**4)


@pytest.mark.medium
def test_electrons_are_kept(case, specimen):
    wide = replace(case, pixels=64, electrons=1.0, scan=4)
    total = simulate(wide, specimen).expected.sum((2, 3))
    assert total == pytest.approx(np.ones((4, 4)), abs=2e-3)
    more = simulate(wide, specimen, background=0.01).expected.sum((2, 3))
    assert more - total == pytest.approx(np.full((4, 4), 0.01), abs=1e-5)


@pytest.mark.medium
def test_the_same_seed_gives_the_same_counts(case, specimen):
    few = replace(case, scan=4, electrons=1e3)
    once = simulate(few, specimen, noise=True, jitter=0.1).counts
    again = simulate(few, specimen, noise=True, jitter=0.1).counts
    other = simulate(replace(few, seed=3), specimen, noise=True, jitter=0.1).counts
    assert once.dtype == np.uint16
    assert (once == again).all()
    assert (once != other).any()


@pytest.mark.medium
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_oriented_detector_only_moves_pixels(case, specimen, orientation):
    few = replace(case, scan=3)
    plain = simulate(few, specimen).expected
    oriented = simulate(few, specimen, orientation=orientation).expected
    wanted = orient_patterns(plain, orientation)
    for axis, flip in zip((2, 3), orientation[1:], strict=True):
        wanted = np.roll(wanted, int(flip), axis)  # the centre stays on n // 2
    inner = (..., slice(2, -2), slice(2, -2))
    assert oriented[inner] == pytest.approx(wanted[inner], rel=1e-3, abs=1e-3 * float(plain.max()))


@pytest.mark.medium
def test_descan_moves_patterns_and_leaves_them_otherwise(case, specimen):
    few = replace(case, scan=3)
    plain = simulate(few, specimen).expected
    moved = simulate(few, specimen, off_centre=(2.0, -1.0), orientation=(True, False, True))
    wanted = np.roll(plain.swapaxes(2, 3)[..., ::-1], 1, 3)
    wanted = np.roll(wanted, (2, -1), (2, 3))
    inner = (..., slice(4, -4), slice(4, -4))
    assert moved.expected[inner] == pytest.approx(wanted[inner], rel=1e-3, abs=1e-3 * float(plain.max()))
    assert moved.truth["pattern_shifts"] == pytest.approx(np.broadcast_to((2.0, -1.0), (3, 3, 2)))


@pytest.mark.medium
def test_geometry_of_the_truth_is_that_of_the_positions(case, specimen):
    scan = simulate(
        replace(case, scan=4), specimen, orientation=(True, True, False), rotation=0.4, step_error=0.02
    )
    turn = orientation_matrix((True, True, False))
    steps = (scan.truth["positions"] - scan.truth["positions"][0, 0]) @ turn.T
    grid = np.stack(np.meshgrid(*[case.step * np.arange(4)] * 2, indexing="ij"), -1)
    assert steps == pytest.approx(grid @ scan.truth["matrix"].T, abs=1e-9)

    right = {"orientation": (True, True, False), "rotation": 0.4, "scale": 1.02, "defocus": 150.0}
    score = score_geometry(right, scan.truth)
    assert score["handed"]
    assert score["twin"] == "none"
    assert [score[name] for name in ("rotation_deg", "scale", "defocus")] == pytest.approx(
        [0, 0, 0], abs=1e-9
    )
    twin = right | {"rotation": 0.4 + np.pi, "defocus": -150.0}
    score = score_geometry(twin, scan.truth)
    assert score["twin"] == "conjugate"
    assert [score[name] for name in ("rotation_deg", "defocus")] == pytest.approx([0, 0], abs=1e-9)
    assert not score_geometry(right | {"orientation": (False, True, False)}, scan.truth)["handed"]


@pytest.mark.medium
def test_bad_pixels_are_where_the_truth_says(case, specimen):
    scan = simulate(replace(case, scan=3), specimen, hot_pixels=3, dead_pixels=2)
    plain = simulate(replace(case, scan=3), specimen).expected
    changed = np.argwhere((scan.expected != plain).any((0, 1)))
    listed = np.concatenate([scan.truth["hot_pixels"], scan.truth["dead_pixels"]])
    assert {*map(tuple, changed.tolist())} == {*map(tuple, listed.tolist())}
    assert (scan.expected[:, :, *scan.truth["dead_pixels"].T] == 0).all()


def reconstruct_by_side_bands(scan, defocus):
    """Phase on the scan's grid by least squares over both side bands; geometry as given."""
    truth = scan.truth
    wavelength = truth["wavelength"]
    size = scan.counts.shape[0]
    pixels = scan.counts.shape[-1]
    line = (np.arange(pixels) - pixels // 2) * truth["true_angle"] / wavelength
    aberrations = [truth[name] for name in ("C12", "phi12", "C21", "phi21", "C23", "phi23", "C30")]

    def probe(y, x):
        chi = aberration_phase(y, x, wavelength, defocus, aberrations)
        return (np.hypot(y, x) <= truth["semiangle"] / wavelength) * np.exp(-1j * chi)

    y, x = np.meshgrid(line, line, indexing="ij")
    disk = np.abs(probe(y, x)) > 0
    y = y[disk]
    x = x[disk]
    bands = scan.counts[:, :, disk] / scan.counts[:, :, disk].mean((0, 1))
    bands = np.fft.fft2(bands, axes=(0, 1))
    scan_line = np.fft.fftfreq(size, truth["true_step"])
    column = scan_line[:, None]
    upper = np.zeros((size, size), complex)
    lower = np.zeros((size, size))
    for row, frequency in enumerate(scan_line):
        one = probe(y, x).conj() * probe(y - frequency, x - column)
        two = probe(y, x) * probe(y + frequency, x + column).conj()
        band = 1j * (one - two)
        upper[row] = (band.conj() * bands[row]).sum(1)
        lower[row] = (np.abs(band) ** 2).sum(1)
    upper[0, 0] = 0
    return np.fft.ifft2(upper / (lower + 1e-3 * lower.max())).real


@pytest.mark.medium
def test_side_bands_recover_a_weak_specimen_with_its_sign(case, specimen):
    scan = simulate(case, specimen, noise=True)
    places = np.indices((case.scan, case.scan)).reshape(2, -1).T
    score = score_image(reconstruct_by_side_bands(scan, case.defocus), scan.truth, places=places)
    assert score["correlation"] > 0.8
    assert score["twin"] == "none"
    assert score["positions"] < 1e-6
    wrong = score_image(reconstruct_by_side_bands(scan, -case.defocus), scan.truth, places=places)
    assert wrong["correlation"] < 0.5


@pytest.mark.medium
def test_the_truth_scores_one_whatever_axes_it_is_shown_in(case, specimen):
    scan = simulate(replace(case, scan=12, step=0.8), specimen)
    truth = scan.truth
    matrix = 0.3 * rotation_matrix(0.7) @ np.diag([1, -1])
    middle = truth["positions"].reshape(-1, 2).mean(0)
    offset = middle - matrix @ (24, 24)
    from benchmarks.testbed.scoring import blur_to_resolution, sample

    at = np.indices((49, 49)).reshape(2, -1).T @ matrix.T + offset
    sharp = blur_to_resolution(truth["phase"], truth["pixel"], 2 * case.semiangle / case.wavelength)
    image = 0.9 * sample(sharp, truth["pixel"], at).reshape(49, 49) + 0.01 * np.arange(49) + 2
    places = (truth["positions"] - offset) @ np.linalg.inv(matrix).T
    score = score_image(image, truth, places=places)
    assert score["correlation"] > 0.98
    assert score["mirrored"]
    assert score["factor"] == pytest.approx(0.9, abs=0.03)
    assert score_image(-image, truth, places=places)["twin"] == "conjugate"
    assert score_image(image, truth, affine=(matrix, offset))["correlation"] > 0.98


@pytest.mark.medium
def test_files_open_with_what_a_microscopist_knows(case, specimen, tmp_path):
    import phaseloom as pl

    scan = simulate(replace(case, scan=4), specimen, noise=True, rotation=0.3)
    path = write_scan(scan, tmp_path, "case")
    opened = pl.read(path)
    assert opened.grid == (4, 4)
    truth = load_truth(tmp_path / "case-truth.npz")
    assert truth["rotation"] == pytest.approx(0.3)
    assert truth["positions"].shape == (4, 4, 2)
    assert "rotation" not in path.with_suffix(".yaml").read_text()
