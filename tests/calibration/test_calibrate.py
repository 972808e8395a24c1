"""A calibration finds what was put in, names what cannot be known, and keeps what it cannot decide."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from phaseloom.calibration import estimators
from phaseloom.calibration.calibrate import is_calibration_due
from phaseloom.calibration.orientations import ORIENTATIONS, TWIN_OF, TWINS
from phaseloom.calibration.state import CalibrationState, Estimate, EstimatorResult, ShortRun, select_middle
from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.bright_field import measure_bright_field
from phaseloom.direct.checks import handedness
from phaseloom.direct.explained import compute_explained_share
from phaseloom.direct.transfer import LinearOptics, orientation_matrix
from phaseloom.direct.twin import TwinEvidence
from phaseloom.errors import BadInput
from phaseloom.physics.optics import to_cartesian
from phaseloom.reconstruction import protocol
from phaseloom.reconstruction.protocol import Job, calibrate, run_in_memory
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

PIXEL, WINDOW, GRID, ANGLE, DEFOCUS = 0.2, 32, (11, 12), 0.035, 60.0
WAYS = list(ORIENTATIONS | TWINS)


def recipe(**optics):
    return Reconstruct.of({"probe": {"focused": {"semiangle": f"{1e3 * ANGLE} mrad", **optics}}})


def knowing(stated=None, **more):
    """What is known at the beginning, or right at its end."""
    optics = {} if stated is None else {"defocus": f"{stated} A"}
    return replace(CalibrationState(recipe(**optics), semiangle=ANGLE, run=run_in_memory), **more)


@pytest.fixture(scope="module")
def true():
    """132 patterns as they should have been read; the detector does not say how it lies."""
    margin = (WINDOW // 2 + 6) * PIXEL
    positions = simulate.raster(GRID, 0.6)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    phase = simulate.atoms((int(rows), int(columns)), PIXEL, peak=0.4, seed=2)
    beam = {"energy": 80e3, "semiangle": ANGLE, "defocus": DEFOCUS, "window": WINDOW, "dose": 1e6}
    scan, _ = simulate.electron_scan(phase, PIXEL, positions, **beam)
    return replace(scan, grid=GRID, oriented=False)


def spoilt(scan, truth):
    """The scan that these corrections make right."""
    for call in reversed(CalibrationState(recipe(), orientation=truth.orientation).steps(scan)):
        scan = call(scan)
    return prepare.scale(prepare.rotate(scan, angle=-truth.rotation), factor=1 / truth.step)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_known_of_a_scan_and_what_prepare_makes_of_it_are_the_same(true, way):
    """A quarter turn takes the raster to a raster, so that its frequencies are the same ones."""
    state = knowing(orientation=way, rotation=math.pi / 2, step=1.03)
    lay = replace(state, rotation=0.0, step=1.0).detector_frame().T
    number = next(one for one in range(8) if np.allclose(orientation_matrix(one), lay))
    for defocus in (50.0, -70.0):
        optics = LinearOptics(true.geometry.wavelength, ANGLE, {"C10": -defocus})
        right = compute_explained_share(survey_spectrum(state.apply_to(true)), optics)
        raw = replace(optics, orientation=number, rotation=state.rotation, step=state.step)
        assert compute_explained_share(survey_spectrum(true), raw) == pytest.approx(right, rel=0.02)


def survey_spectrum(scan):
    """The bright field of all pixels about the middle, as the model of a scan that is read rightly has it."""
    middle = (WINDOW // 2, WINDOW // 2)
    radius = ANGLE / scan.geometry.angle[0]
    return measure_bright_field(scan, centre=middle, radius=radius).transform()


def test_twins_explain_a_disk_alike_and_nothing_else_does(true):
    seen = survey_spectrum(true)
    optics = LinearOptics(true.geometry.wavelength, ANGLE, {"C10": -DEFOCUS})
    share = compute_explained_share(seen, optics)
    assert share > 0.4
    assert compute_explained_share(seen, optics.get_twin()) == pytest.approx(share)
    mirrored = replace(optics, aberrations={"C10": DEFOCUS})
    for other in (mirrored, replace(optics, orientation=4)):
        assert compute_explained_share(seen, other) < 0.6 * share


def test_the_orientation_is_found_with_rotation_and_defocus(true):
    truth = knowing(orientation="transposed", rotation=math.radians(8), step=1.02)
    step = estimators.estimate_orientation(
        spoilt(true, truth), knowing(stated=120.0, defocus=120.0), patterns=25, epochs=3
    )
    assert step.state.orientation == "transposed"
    assert step.state.rotation == pytest.approx(truth.rotation, abs=math.radians(3))
    assert step.state.defocus == pytest.approx(DEFOCUS, abs=10)
    assert not step.state.soft
    assert all(estimate.decided and estimate.margin > 1.2 for estimate in step.estimates)


def test_noise_decides_nothing_and_what_was_given_is_kept(true):
    mean = np.broadcast_to(true.mean_pattern(), true.counts.shape)
    noise = replace(true, counts=np.random.default_rng(0).poisson(1e-2 * mean).astype(np.float32))
    given = knowing(stated=-70.0, defocus=-70.0, rotation=0.0)
    step = estimators.estimate_orientation(noise, given, patterns=16, epochs=1)
    (orientation,) = step.estimates
    assert not orientation.decided
    assert orientation.margin < 1.05
    assert "undecided: as given" in orientation.line()
    assert (step.state.orientation, step.state.defocus, step.state.rotation) == ("as given", -70.0, 0.0)
    assert not step.state.certain


def test_few_electrons_are_enough_for_the_linear_model(true):
    """Where short runs see only noise."""
    rng = np.random.default_rng(3)
    few = replace(true, counts=rng.binomial(np.asarray(true.counts).astype(int), 3e-3).astype(np.float32))
    step = estimators.estimate_orientation(prepare.transpose(few), knowing(), patterns=9, epochs=1)
    assert step.state.orientation == "transposed"
    assert step.state.certain
    assert step.state.defocus == pytest.approx(DEFOCUS, abs=10)
    assert "short runs" not in step.estimates[0].note


def test_of_twins_the_sign_of_a_stated_defocus_tells(true):
    state = knowing(stated=-30.0, orientation="transposed", defocus=55.0)
    step = estimators.resolve_twin(true, state)
    (twin,) = step.estimates
    assert (step.state.orientation, step.state.defocus) == (TWIN_OF["transposed"], -55.0)
    assert "the sign of the stated defocus" in twin.note
    assert twin.margin == 1.0


def test_of_twins_atoms_tell_where_no_defocus_is_stated(true):
    turned = prepare.flip(prepare.flip(true, axis="y"), axis="x")
    step = estimators.resolve_twin(turned, knowing(defocus=-DEFOCUS))
    assert (step.state.orientation, step.state.defocus) == (TWIN_OF["as given"], DEFOCUS)
    assert "dark field" in step.estimates[0].note


@pytest.mark.parametrize(
    ("evidence", "is_guess"),
    [(TwinEvidence(6.9, -0.4), True), (TwinEvidence(8.3, -3.9), True), (TwinEvidence(4.0, 3.5), False)],
)
def test_a_twin_that_peaks_alone_decide_is_a_guess(true, monkeypatch, evidence, is_guess):
    monkeypatch.setattr(estimators, "_judge_by_direct_image", lambda scan, state: evidence)
    (twin,) = estimators.resolve_twin(true, knowing(defocus=DEFOCUS)).estimates
    assert twin.decided
    assert twin.is_guess == is_guess
    assert ("a guess" in twin.line()) == is_guess
    (twin,) = estimators.resolve_twin(true, knowing(stated=50.0, defocus=DEFOCUS)).estimates
    assert not twin.is_guess


def test_a_twin_has_the_opposite_astigmatism_and_the_same_coma(true):
    """``chi(k)`` becomes ``-chi(-k)``: terms of even degree change sign, as the linear model has it."""
    state = knowing(
        stated=-30.0, defocus=55.0, aberrations={"C12": 20.0, "phi12": 0.3, "C21": 900.0, "phi21": 1.0}
    )
    found = estimators.resolve_twin(true, state).state
    assert found.aberrations == {"C12": -20.0, "phi12": 0.3, "C21": 900.0, "phi21": 1.0}
    seen = survey_spectrum(true)
    shares = []
    for one in (state, found):
        frame = one.detector_frame()
        number = next(n for n in range(8) if np.allclose(orientation_matrix(n), frame.T))
        named = to_cartesian({"C10": -one.defocus, **one.aberrations})
        optics = LinearOptics(true.geometry.wavelength, ANGLE, named, orientation=number)
        shares.append(compute_explained_share(seen, optics))
    assert shares[0] == pytest.approx(shares[1], rel=1e-6)


def test_atoms_that_contradict_the_stated_sign_are_mentioned(true):
    step = estimators.resolve_twin(true, knowing(stated=-50.0, defocus=DEFOCUS))
    assert step.state.defocus == -DEFOCUS
    assert "says the opposite" in step.estimates[0].note


@pytest.mark.medium
def test_rotation_step_and_defocus_are_found_together_and_what_was_right_stays(true):
    truth = knowing(rotation=math.radians(2), step=1.0)
    start = knowing(stated=DEFOCUS + 60, defocus=DEFOCUS + 8, rotation=math.radians(1))
    step = estimators.refine_geometry(spoilt(true, truth), start, patterns=49, epochs=6)
    rotation, scale, defocus = step.estimates
    assert step.state.rotation == pytest.approx(truth.rotation, abs=math.radians(0.3))
    assert step.state.defocus == pytest.approx(DEFOCUS, abs=3)
    assert step.state.step == pytest.approx(1.0, abs=0.003)
    assert rotation.decided
    assert defocus.decided
    assert defocus.margin > 1.1
    assert scale.margin < 1.05


def test_nothing_is_believed_of_a_fit_that_goes_astray(true, monkeypatch):
    """The defocus as given explains the patterns twice as well as where the fit ended."""
    monkeypatch.setattr(
        estimators, "loss_at_fixed_value", lambda scan, state, name: 0.5 if name == "defocus" else 1.0
    )
    start = knowing(stated=DEFOCUS + 40, defocus=DEFOCUS + 20, rotation=0.1)
    step = estimators.refine_geometry(spoilt(true, knowing(rotation=0.1)), start, patterns=9, epochs=1)
    assert not any(estimate.decided for estimate in step.estimates)
    # what the linear model had found stays
    assert (step.state.rotation, step.state.step, step.state.defocus) == (0.1, 1.0, DEFOCUS + 20)
    assert not step.state.certain
    (slices,) = estimators.estimate_slices(true, step.state).estimates
    assert "not believed" in slices.note


def test_patterns_that_were_flipped_by_hand_are_centred_first(true, tmp_path):
    by_hand = replace(true, counts=np.asarray(true.counts)[..., ::-1].copy())
    asked = Reconstruct.of(
        {"preset": "calibrate", "probe": {"focused": {"semiangle": f"{1e3 * ANGLE} mrad"}}}
    )
    done = calibrate(asked, by_hand, estimators=(estimators.estimate_semiangle,))
    centre = done.estimates[0]
    assert (centre.name, centre.decided) == ("centre", True)
    assert centre.given.endswith("0.00, -1.00 pixels off")
    assert [call.name for call in done.recipe.prepare] == ["center"]
    np.testing.assert_array_equal(done.recipe.scan(by_hand).counts[3], prepare.center(by_hand).counts[3])
    job = Job.begin(done.recipe, tmp_path / "run", scan=by_hand)
    np.testing.assert_array_equal(job.scan.counts[3], prepare.center(by_hand).counts[3])
    assert (
        calibrate(asked, true, estimators=(estimators.estimate_semiangle,)).estimates[0].name == "semi-angle"
    )


def test_a_disk_between_two_pixels_is_centred_to_half_a_pixel(true):
    """Whole pixels leave a half; that is no reason to leave it where it was."""
    counts = np.asarray(true.counts, np.float64)
    between = (np.roll(counts, 1, 1) + np.roll(counts, 2, 1)) / 2
    asked = recipe()
    done = calibrate(asked, replace(true, counts=between), estimators=(estimators.estimate_semiangle,))
    assert "center" in [call.name for call in done.recipe.prepare]


def test_the_disk_tells_the_semi_angle_unless_the_stated_one_agrees(true):
    found = estimators.estimate_semiangle(true, knowing(semiangle=None)).state.semiangle
    assert found == pytest.approx(ANGLE, rel=0.04)  # of a radius of five pixels
    assert estimators.estimate_semiangle(true, knowing(semiangle=0.03)).state.semiangle == found
    assert estimators.estimate_semiangle(true, knowing()).state.semiangle == ANGLE
    dark = replace(true, counts=np.ones(true.counts.shape))
    assert not estimators.estimate_semiangle(dark, knowing()).estimates[0].decided
    with pytest.raises(BadInput, match="semi-angle: is not known, and the mean pattern shows none"):
        estimators.estimate_semiangle(dark, knowing(semiangle=None))


def test_a_stated_semi_angle_tells_the_angle_of_a_pixel():
    """A disk of 20 pixels that is 2 % too small: a tenth of that would be within its error."""
    y, x = np.indices((64, 64)) - 32
    geometry = Geometry(wavelength=0.02, shape=(64, 64), angle=(1e-3, 1e-3), beam="electron")
    counts = np.repeat(100.0 * (np.hypot(y, x) < 20)[None], 4, 0)
    scan = Scan4D(counts=counts, positions=np.eye(4)[:, :2], geometry=geometry)
    step = estimators.estimate_semiangle(scan, knowing(semiangle=0.0204))
    assert step.state.semiangle == 0.0204
    assert step.state.angle == pytest.approx(1.02, abs=0.005)
    assert [one.name for one in step.estimates] == ["semi-angle", "pixel"]
    angle = step.state.apply_to(scan).geometry.angle[0]
    assert angle == pytest.approx(step.state.angle * 1e-3, rel=1e-6)
    assert estimators.estimate_semiangle(scan, knowing(semiangle=0.02005)).state.angle == 1.0


def test_a_coherent_beam_gets_no_other_modes_and_a_stated_number_stays(true):
    step = estimators.estimate_modes(true, knowing(defocus=DEFOCUS))
    assert step.state.modes == 1
    assert not step.state.is_partly_coherent
    assert [row["modes"] for row in step.tried] == [1, 6]
    asked = Reconstruct.of({"probe": {"focused": {"semiangle": "35 mrad", "modes": 4}}})
    stated = estimators.estimate_modes(true, replace(knowing(defocus=DEFOCUS), setting=asked))
    assert (stated.state.modes, stated.tried) == (4, [])
    assert stated.state.recipe(true).probe.values["modes"] == 4


def test_a_source_of_some_size_gets_modes_and_its_geometry_is_left_to_the_whole_run(true):
    """Patterns of neighbours added: a source as wide as a step of the scan."""
    stack = np.asarray(true.counts, np.float64).reshape(*GRID, WINDOW, WINDOW)
    blurred = 0.4 * stack
    for axis in (0, 1):
        blurred = blurred + 0.15 * (np.roll(stack, 1, axis) + np.roll(stack, -1, axis))
    inner = blurred[1:-1, 1:-1].reshape(-1, WINDOW, WINDOW)
    places = true.positions.reshape(*GRID, 2)[1:-1, 1:-1].reshape(-1, 2)
    partial = replace(true, counts=np.round(inner), positions=places, grid=(GRID[0] - 2, GRID[1] - 2))
    step = estimators.estimate_modes(partial, knowing(defocus=DEFOCUS), patterns=81, epochs=8)
    assert step.state.modes > 1
    kept = estimators.refine_geometry(partial, step.state)
    assert kept.state == step.state
    assert [one.name for one in kept.estimates if "the whole run refines it" in one.note] == [
        "rotation",
        "defocus",
    ]
    recipe = step.state.recipe(partial)
    assert recipe.probe.values["modes"] == step.state.modes
    assert recipe.rate_of("rotation") == 0.3


def test_a_calibrated_run_keeps_its_step_unless_a_rate_is_stated(true):
    state = replace(knowing(defocus=DEFOCUS), modes=3)
    assert [state.recipe(true).rate_of(name) for name in ("scale", "affine")] == [0.0, 0.0]
    asked = Reconstruct.of({"probe": {"focused": {"semiangle": "35 mrad"}}, "rates": {"scale": 0.3}})
    assert replace(state, setting=asked).recipe(true).rate_of("scale") == 0.3


@pytest.mark.parametrize(("losses", "count"), [((0.97, 0.99), 1), ((0.97, 0.965), 1), ((1.2, 1.1), 2)])
def test_a_second_slice_that_explains_no_more_is_not_taken(true, monkeypatch, losses, count):
    """Of losses below shot noise the second slice was taken though it explained less."""

    def run(few, state, slices, gap, epochs, entrance=None):
        held = losses[slices - 1]
        return ShortRun(replace(state, slices=slices, gap=gap), held, held, None)

    monkeypatch.setattr(estimators, "_run_with_slices", run)
    assert estimators.estimate_slices(true, knowing(defocus=DEFOCUS)).state.slices == count


@pytest.mark.parametrize(("focus", "held"), [(90.0, 1.1), (150.0, 1.1)])
def test_stated_slices_begin_at_the_defocus_that_explains_more(true, monkeypatch, focus, held):
    """One slice finds the defocus of the middle, or of the first of two far apart; that was not tried."""

    def run(few, state, slices, gap, epochs, entrance=None):
        begun = estimators._defocus_at_entrance(state, slices, gap) if entrance is None else entrance
        loss = held if begun == focus else held + 0.4
        return ShortRun(replace(state, slices=slices, gap=gap, defocus=begun), loss, loss, None)

    monkeypatch.setattr(estimators, "_run_with_slices", run)
    thing = {"pixels": {"slices": 2, "thickness": "12 nm"}}
    setting = Reconstruct.of({"object": thing, "probe": {"focused": {"semiangle": "35 mrad"}}})
    state = replace(knowing(defocus=90.0), setting=setting)
    assert estimators.estimate_slices(true, state).state.defocus == pytest.approx(focus)


@pytest.mark.parametrize(("second", "count"), [(1.02, 2), (1.42, 1)])
def test_a_second_slice_that_explains_some_is_tried_as_found(true, monkeypatch, second, count):
    def run(few, state, slices, gap, epochs, entrance=None):
        loss = 1.5 if slices == 1 else 1.45 if entrance is None else second
        return ShortRun(replace(state, slices=slices, gap=gap, defocus=entrance or 0.0), loss, loss, None)

    monkeypatch.setattr(estimators, "_run_with_slices", run)
    found = estimators.estimate_slices(true, knowing(defocus=90.0)).state
    assert (found.slices, found.defocus) == (count, 90.0)


def test_a_single_slice_that_is_stated_is_not_questioned(true):
    setting = Reconstruct.of(
        {"object": {"pixels": {"slices": 1}}, "probe": {"focused": {"semiangle": "35 mrad"}}}
    )
    state = replace(knowing(defocus=DEFOCUS), setting=setting)
    step = estimators.estimate_slices(true, state, patterns=25, epochs=3)
    assert step.state.slices == 1
    assert [row["slices"] for row in step.tried] == [1]


@pytest.mark.parametrize(
    ("shown", "loss_as_given", "kept"),
    [(None, 1.01, True), (1.0, 1.01, True), (1.038, 0.998, True), (1.038, 1.01, False)],
)
def test_a_step_is_taken_only_where_fits_that_hold_it_say_the_same(
    true, monkeypatch, shown, loss_as_given, kept
):
    """Fits that move it moved right ones by 5 %, and by 1.6 % though they explained less with that."""
    profile = None if shown is None else (shown, 0.004)
    state = replace(knowing(defocus=DEFOCUS), certain=True, rotation=0.0, step=1.0, step_by_profile=profile)
    errors = {"rotation": 0.001, "step": 0.004, "defocus": 1.0}

    def fit(few, start, epochs):
        step = 1.0 if start.step_by_profile is None else 1.04
        return SimpleNamespace(state=replace(start, step=step), loss=1.0), errors, errors, False

    monkeypatch.setattr(estimators, "fit_geometry", fit)
    losses = {"step": loss_as_given}
    monkeypatch.setattr(estimators, "loss_at_fixed_value", lambda few, state, name: losses.get(name, 1.0))
    found = estimators.refine_geometry(true, state)
    assert found.state.step == (1.0 if kept else 1.04)
    (told,) = [one for one in found.estimates if one.name == "step"]
    assert told.decided is not kept


def test_a_thin_object_keeps_its_slice(true):
    step = estimators.estimate_slices(true, knowing(defocus=DEFOCUS), patterns=25, epochs=3)
    assert (step.state.slices, step.state.defocus) == (1, DEFOCUS)
    assert [row["slices"] for row in step.tried] == [1, 2]


def guess(scan, state):
    """An estimator of one's own."""
    found = replace(state, defocus=50.0, orientation="flipped", rotation=0.1, step=0.99, slices=2, gap=9.0)
    return EstimatorResult(found, (Estimate("defocus", "50 A", "nothing", 2.0, True),))


def test_a_rung_of_ones_own_takes_the_place_of_others_and_the_recipe_repeats_it(true):
    asked = Reconstruct.of({"probe": "from_patterns", "preset": "calibrate", "prepare": ["nonnegative"]})
    done = calibrate(asked, true, estimators=(estimators.estimate_semiangle, guess))
    again = Reconstruct.of(yaml.safe_load(yaml.safe_dump(done.recipe.to_tree())))
    assert again.preset == "none"
    assert again.start.name == "none"
    assert [call.name for call in again.prepare] == ["nonnegative", "flip", "rotate", "scale"]
    assert again.object.values == {"slices": 2, "thickness": 9.0}
    assert again.probe.values["defocus"] == 50.0
    assert "margin 2" in again.found["calibrate"]["defocus"]
    assert np.array_equal(again.scan(true).positions, done.state.apply_to(true).positions)


def test_a_run_with_the_preset_begins_calibrated_and_its_file_says_so(true, tmp_path, monkeypatch):
    monkeypatch.setattr(
        protocol.calibrate, "__kwdefaults__", {"estimators": (estimators.estimate_semiangle, guess)}
    )
    job = Job.begin(Reconstruct.of({"preset": "calibrate", "epochs": 1}), tmp_path / "run", scan=true)
    kept = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert kept["preset"] == "none"
    assert kept["probe"]["focused"]["defocus"] == "5 nm"
    assert "50 A" in kept["found"]["calibrate"]["defocus"]
    assert np.array_equal(np.asarray(job.scan.counts), np.asarray(prepare.flip(true, axis="y").counts))
    assert len(job.model.propagator.distances()) == 1
    assert Job.resume(tmp_path / "run", scan=true).recipe.preset == "none"


def test_the_verb_writes_a_file_that_runs(true, tmp_path, phaseloom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        protocol.calibrate, "__kwdefaults__", {"estimators": (estimators.estimate_semiangle, guess)}
    )
    native.write(true, tmp_path / "scan.h5")
    ended = phaseloom("calibrate", "scan.h5", "--set", "epochs=3", "--out", "found.yaml")
    assert not ended.code, ended.err
    assert "defocus" in ended.out
    assert "semi-angle" in ended.out
    assert (tmp_path / "found.png").is_file()
    again = Reconstruct.from_path(tmp_path / "found.yaml")
    assert (again.epochs, again.preset, again.probe.values["defocus"]) == (3, "auto", 50.0)
    assert not is_calibration_due(again, again.scan())
    assert len(again.scan()) == len(true)
    ended = phaseloom("calibrate", "scan.h5", "--out", "found.yaml")
    assert (ended.code, ended.err) == (2, "phaseloom: --out: found.yaml exists already: name a new file\n")
    assert phaseloom("calibrate", "scan.h5", "--out", "found.txt").code == 2


def test_what_cannot_be_calibrated_is_refused(true):
    near = replace(true.geometry, distance=1e9, focus=math.inf)
    with pytest.raises(BadInput, match="far-field"):
        calibrate(recipe(), replace(true, geometry=near))
    with pytest.raises(BadInput, match="brings a curvature of its own"):
        calibrate(Reconstruct.of({"probe": "stored"}), true)


def test_the_middle_of_a_scan_is_a_smaller_raster_without_dark_margins():
    geometry = Geometry(wavelength=0.04, shape=(128, 128), angle=(1e-3, 1e-3), beam="electron")
    counts = np.zeros((30, 128, 128), np.uint16)
    counts[:, 60:70, 60:70] = 5
    places = np.stack(np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij"), -1).reshape(-1, 2)
    scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=(5, 6))
    few = select_middle(scan, 9)
    assert (few.grid, few.geometry.shape) == ((3, 3), (64, 64))
    assert np.array_equal(np.unique(few.positions[:, 0]), [1, 2, 3])
    assert len(select_middle(replace(scan, grid=None), 7)) == 7


@pytest.mark.slow
def test_a_strong_object_with_everything_wrong_is_put_right():
    """The case that `benchmarks/calibrate.py` begins with, of 60 seconds."""
    from benchmarks.calibrate import measured

    row = measured("S", 0, None, unstated=False)
    assert row["right"], row["lines"]
    assert row["cpu_s"] < 600


@pytest.mark.slow
def test_a_thick_crystal_gets_slices_and_about_its_thickness():
    """Four slices over 60 angstrom; two explain them nearly as well."""
    from benchmarks.calibrate import spoilt as random_case

    case = random_case("thick", 1, None)
    middle_of_it = case.truth.defocus - 30.0
    setting = case.recipe(unstated=False)
    state = replace(case.truth, setting=setting, run=run_in_memory, slices=1, gap=0.0, defocus=middle_of_it)
    found = estimators.estimate_slices(case.scan, state).state
    assert found.slices > 1
    assert found.slices * found.gap == pytest.approx(80.0, rel=0.15)
    assert found.defocus - (found.slices - 1) * found.gap / 2 == pytest.approx(middle_of_it, abs=5)
    assert (found.rotation, found.step) == (state.rotation, state.step)


@pytest.mark.parametrize(
    ("settings", "changed", "due"),
    [
        ({}, {}, True),
        ({"probe": {"focused": {"semiangle": f"{1e3 * ANGLE} mrad", "defocus": "4 nm"}}}, {}, True),
        ({"preset": "calibrate", "start": "none"}, {}, True),
        ({"preset": "none"}, {}, False),
        ({"preset": None}, {}, False),
        ({"start": "none"}, {}, False),
        ({"start": {"sweep": {"steps": 5}}}, {}, False),
        ({"prepare": ["transpose"]}, {}, False),
        ({"probe": "stored"}, {}, False),
        ({}, {"oriented": True}, False),
        ({}, {"grid": None}, False),
        ({}, {"grid": (4, 33)}, False),
    ],
)
def test_a_run_calibrates_where_nothing_says_how_the_detector_lies(true, settings, changed, due):
    assert is_calibration_due(Reconstruct.of(settings), replace(true, **changed)) == due


def test_photons_and_patterns_without_a_disk_are_not_calibrated_unasked(true):
    photons = replace(true, geometry=replace(true.geometry, beam="photon"))
    assert not is_calibration_due(Reconstruct.of({}), photons)
    y, x = np.indices(true.geometry.shape) - WINDOW // 2
    hill = np.broadcast_to(100 * np.exp(-np.hypot(y, x) / 6), true.counts.shape)
    assert not is_calibration_due(Reconstruct.of({}), replace(true, counts=hill))


@pytest.mark.medium
@pytest.mark.parametrize("knows_folding", [True, False])
def test_few_places_of_a_strong_object_are_calibrated(knows_folding, monkeypatch):
    """The linear model prefers a wrong defocus here, with a runner-up that explains nearly as much.

    With all frequencies that the raster folds it finds the right one; without, short runs do.
    """
    if not knows_folding:
        monkeypatch.setattr(handedness, "fit_folded_optics", lambda spectrum, found, *_, **__: found)
    truth = simulate.atoms((192, 192), PIXEL, peak=1.0, seed=1)
    beam = {"energy": 80e3, "semiangle": 0.025, "defocus": -100.0, "window": 64, "dose": 1e6}
    places = simulate.raster((12, 12), 1.2) + 8.0
    scan, _ = simulate.electron_scan(truth, PIXEL, places, **beam)
    scan = replace(prepare.transpose(scan), oriented=False, grid=(12, 12))
    two = (estimators.estimate_semiangle, estimators.estimate_orientation)
    found = calibrate(Reconstruct.of({}), scan, estimators=two)
    assert found.state.orientation in ("transposed", "transposed and turned")
    assert abs(found.state.defocus) == pytest.approx(100.0, abs=5.0)
    said = "told them apart" if knows_folding else "not as short runs say"
    assert said in found.estimates[-1].note
    wrong = replace(found.state, defocus=144.0, held_out={})
    swept = estimators.check_by_sweep(scan, wrong)
    assert swept.estimates[-1].name == "sweep"
    assert swept.state.orientation in ("transposed", "transposed and turned")
    assert abs(swept.state.defocus) == pytest.approx(100.0, abs=50.0)
    assert swept.estimates[-1].margin > 2


def test_what_nobody_gave_is_not_left_as_given():
    left = Estimate("defocus", "-1.19 µm", "nothing", 1.0, False)
    assert "undecided: nobody gave it" in left.line()
    assert "as given" not in left.line()
    assert "undecided: as given" in replace(left, given="-1 µm").line()


def test_a_value_of_the_linear_model_is_not_called_given():
    one = estimators.Estimate("step", "1.0092", "1.0092", 1.0, False, is_of_linear_model=True)
    assert "(linear model 1.0092; margin 1, undecided: as the linear model has it)" in one.line()
    state = knowing(step=1.0092, rotation=0.0)
    assert estimators._is_of_linear_model(state, "step")
    assert not estimators._is_of_linear_model(state, "rotation")
    assert not estimators._is_of_linear_model(replace(state, step_by_profile=(1.0092, 0.001)), "step")
    assert not estimators._is_of_linear_model(knowing(step=1.0), "step")
