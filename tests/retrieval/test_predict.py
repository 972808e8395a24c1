"""A trained network on scans of all shapes: the same phase at the same place, or a refusal with numbers."""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from phaseloom.calibration.raster import fill_empty_places, find_raster
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files
from phaseloom.learning.weight_files import find_network
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.detector_shares import compute_overlaps
from phaseloom.retrieval.networks import recovery
from phaseloom.retrieval.networks.linear import LinearRecovery, linear
from phaseloom.retrieval.networks.stitching import overlap
from phaseloom.retrieval.networks.tiny import tiny
from phaseloom.retrieval.prediction import MAX_SOURCE_GAIN, Prediction, filter_source, predict
from phaseloom.retrieval.preprocessing import PatternPreprocessor
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment, compute_image_shape, encode_conditions
from phaseloom.simulation.scan import Sample, simulate_scan
from phaseloom.units import electron_wavelength

OPTICS = BeamOptics(semiangle=0.02, aberrations={"defocus": 90.0})
EXPERIMENT = Experiment(scan=(12, 12))
STRONG = 9
"""Seed of a specimen that fills the field with strong columns, and has no symmetry there."""


def made(experiment: Experiment, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    return simulate_scan(specimens.prototypes(experiment.box, rng, thickness=(4.0, 8.0)), experiment)


@pytest.fixture(scope="module")
def net() -> LinearRecovery:
    samples = [made(EXPERIMENT, seed) for seed in range(6)]
    patterns = torch.from_numpy(np.stack([sample.patterns for sample in samples]))
    phases = torch.from_numpy(np.stack([sample.phase for sample in samples]))
    net = linear(components=40, doses=(1.0,))
    net.components.calibrate(patterns)
    net.solve(0, [(patterns, phases)], ridge=1e-2)
    return net.eval()


@pytest.fixture(scope="module")
def sample() -> Sample:
    """One that the network has not seen, with fewer rows than columns."""
    return made(replace(EXPERIMENT, scan=(11, 14)), STRONG)


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return {"name": "toy", "experiment": asdict(EXPERIMENT)}


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation without the outermost step."""
    return float(np.corrcoef(one[5:-5, 5:-5].ravel(), other[5:-5, 5:-5].ravel())[0, 1])


def whole(sample: Sample) -> Scan4D:
    """Its scan, dark pixels beyond the band of the simulation taken for measured ones."""
    scan = sample.scan()
    return replace(scan, mask=np.ones_like(scan.mask))


def at(scan: Scan4D, positions: np.ndarray) -> Scan4D:
    return replace(scan, positions=positions)


def known(notes: tuple[str, ...], word: str) -> bool:
    return any(word in note for note in notes)


def test_an_unseen_specimen_is_seen_where_it_is(net, card, sample):
    scan = whole(sample)
    found = predict(net, card, at(scan, scan.positions + np.array([100.0, -30.0])), OPTICS)
    assert found.phase.shape == compute_image_shape((11, 14))
    assert alike(found.phase, sample.phase) > 0.8
    assert alike(found.phase[:, ::-1], sample.phase) < 0.5
    assert alike(found.phase[::-1], sample.phase) < 0.5
    assert alike(found.phase[:61, :61].T, sample.phase[:61, :61]) < 0.5
    assert alike(np.roll(found.phase, 2, 1), sample.phase) < 0.7
    assert found.pixel == pytest.approx((0.4, 0.4))
    assert found.origin == pytest.approx((100.0, -30.0))
    assert found.model == "toy"
    assert abs(found.phase.mean()) < 1e-6


def test_the_network_is_given_what_it_was_trained_on(net, card, sample):
    found = predict(net, card, whole(sample), OPTICS, dose=1e6)
    with torch.no_grad():
        direct = net(torch.from_numpy(sample.patterns)[None], torch.ones(1, 8))[0].numpy()
    assert alike(found.phase, direct) > 0.995
    np.testing.assert_allclose(found.told[:-1], encode_conditions(EXPERIMENT)[:-1], atol=1e-6)


def test_the_beam_is_found_from_the_patterns(net, card, sample):
    view = PatternPreprocessor.of(whole(sample), EXPERIMENT, 0.02, net)
    assert view.beam == pytest.approx(1e6, rel=0.03)
    assert known(view.notes, "dose is not given")
    faint = replace(whole(sample), counts=np.asarray(whole(sample).counts) / 1e6)
    found = predict(net, card, faint, OPTICS)
    assert known(found.notes, "not counts of electrons")
    assert found.told[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("fold", "detector"), [(1, 48), (1, None), (2, 30), (2, 13)])
def test_another_detector_sees_the_same(net, card, sample, fold, detector):
    other = made(replace(sample.experiment, bin=fold, detector=detector), STRONG)
    usual = predict(net, card, whole(sample), OPTICS, dose=1e6)
    found = predict(net, card, whole(other), OPTICS, dose=1e6)
    assert alike(found.phase, usual.phase) > (0.95 if detector == 13 else 0.99)
    assert known(found.notes, "beyond the detector") == (detector == 13)


def test_interpolated_patterns_are_nearly_as_good(net, card, sample):
    found = predict(net, card, prepare.resample(whole(sample), factor=1.37), OPTICS)
    assert alike(found.phase, sample.phase) > 0.75


def test_a_finer_scan_is_parted_and_averaged(net, card):
    fine = made(replace(EXPERIMENT, scan=(23, 24), step=1.0, pixel=0.4), STRONG)
    scan = whole(fine)
    found = predict(net, card, scan, OPTICS)
    rows, columns = found.phase.shape
    assert (rows, columns) == (66, 68)
    assert found.pixel == pytest.approx((0.4, 0.4))
    assert known(found.notes, "2 x 2 times finer")
    few = np.arange(len(scan)).reshape(scan.grid or ())[::2, ::2]
    coarse = predict(net, card, replace(scan.select(few.ravel()), grid=few.shape), OPTICS)
    assert coarse.origin == pytest.approx(found.origin)
    assert alike(found.phase[:66, :66], coarse.phase[:66, :66]) > 0.9
    assert alike(found.phase, fine.phase[:rows, :columns]) > alike(coarse.phase, fine.phase[:66, :66])


def test_all_lengths_may_be_scaled(net, card):
    """The same numbers at 200 keV and 25 mrad: a specimen half as large gives as good an image."""
    length, angle = electron_wavelength(200e3), 0.025
    scale = (length / angle) / (EXPERIMENT.wavelength / 0.02)
    focus = {"defocus": 90.0 * scale * 0.02 / angle}
    other = replace(EXPERIMENT, energy=200e3, semiangle=angle, step=2 * scale, aberrations=focus)
    assert encode_conditions(other) == pytest.approx(encode_conditions(EXPERIMENT), abs=1e-4)
    sample = made(other, STRONG)
    found = predict(net, card, whole(sample), BeamOptics(semiangle=angle, aberrations=focus))
    assert alike(found.phase, sample.phase) > 0.8
    assert found.pixel[0] == pytest.approx(0.4 * scale)
    assert known(found.notes, "lengths are 0.48")


def test_the_order_of_the_patterns_does_not_matter(net, card, sample):
    scan = whole(sample)
    mixed = np.random.default_rng(0).permutation(len(scan))
    shuffled = replace(scan.select(mixed), grid=None)
    usual = predict(net, card, scan, OPTICS, dose=1e6)
    found = predict(net, card, shuffled, OPTICS, dose=1e6)
    np.testing.assert_allclose(found.phase, usual.phase, atol=1e-6)


@pytest.mark.parametrize(
    ("optics", "stretch", "said"),
    [
        (
            BeamOptics(semiangle=0.02, aberrations={"defocus": 130.0}),
            1,
            "defocus: 130 A, but at 20 mrad.*90 A",
        ),
        (BeamOptics(semiangle=0.02, aberrations={"C10": 90.0}), 1, "defocus: -90 A"),
        (
            BeamOptics(semiangle=0.024, aberrations={"defocus": 90.0}),
            1,
            "step: 2 A, but at 24 mrad.* 1.667 A",
        ),
        (BeamOptics(semiangle=0.02, aberrations={"defocus": 90.0, "C12": 40.0}), 1, "C12a: 40 A"),
        (OPTICS, 1.2, "step: 2.4 A.* 2 A .* or a whole number of times finer"),
        (OPTICS, 0.6, "step: 1.2 A.* a whole number of times finer, such as 1 A: .*--model fitted"),
    ],
)
def test_what_the_model_does_not_know_is_refused_by_its_number(net, card, sample, optics, stretch, said):
    scan = whole(sample)
    with pytest.raises(BadInput, match=said):
        predict(net, card, at(scan, scan.positions * stretch), optics)


def test_a_card_may_be_more_tolerant(net, card, sample):
    optics = BeamOptics(semiangle=0.02, aberrations={"defocus": 104.0})
    with pytest.raises(BadInput, match="defocus"):
        predict(net, card, whole(sample), optics)
    wide = {**card, "tolerance": {"defocus": 0.2}}
    assert alike(predict(net, wide, whole(sample), optics).phase, sample.phase) > 0.8
    narrow = {**card, "tolerance": [0.01] * 8}
    with pytest.raises(BadInput, match="defocus"):
        predict(net, narrow, whole(sample), BeamOptics(semiangle=0.02, aberrations={"defocus": 92.0}))


def turned(positions: np.ndarray, degrees: float) -> np.ndarray:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return positions @ np.array([[cosine, sine], [-sine, cosine]])


def test_positions_off_a_raster_are_refused(net, card, sample):
    scan = whole(sample)
    stray = np.random.default_rng(1).uniform(-1.5, 1.5, scan.positions.shape)
    with pytest.raises(BadInput, match=r"not on a raster.*regrid"):
        predict(net, card, at(scan, scan.positions + stray), OPTICS)
    with pytest.raises(BadInput, match=r"not on a raster.*regrid"):
        predict(net, card, scan.select(np.sort(np.random.default_rng(1).permutation(154)[:50])), OPTICS)


def test_a_raster_turned_by_a_right_angle_needs_no_turn(net, card, sample):
    scan = whole(sample)
    square = predict(net, card, at(scan, turned(scan.positions, 90.0)), OPTICS)
    assert square.phase.shape == compute_image_shape((14, 11))
    assert square.rotation == 0.0


@pytest.mark.parametrize("degrees", [30.0, -12.0])
def test_empty_places_of_a_turned_raster_are_filled_where_they_are(sample, degrees):
    scan = whole(sample)
    places = turned(scan.positions, degrees)
    kept = np.setdiff1d(np.arange(len(scan)), [40, 77])
    filled, lattice, _ = fill_empty_places(part := at(scan, places).select(kept), find_raster(part))
    assert abs(lattice.rotation) == pytest.approx(np.deg2rad(abs(degrees)), abs=1e-6)
    np.testing.assert_allclose(np.sort(filled.positions[-2:], 0), np.sort(places[[40, 77]], 0), atol=1e-6)


def test_a_few_empty_places_are_filled_from_their_neighbours(net, card, sample):
    scan = whole(sample)
    kept = np.setdiff1d(np.arange(len(scan)), [0, 40, 41, 153])
    usual = predict(net, card, scan, OPTICS, dose=1e6)
    found = predict(net, card, scan.select(kept), OPTICS, dose=1e6)
    assert known(found.notes, "4 of 154 places of the raster are empty")
    assert found.phase.shape == usual.phase.shape
    assert found.origin == pytest.approx(usual.origin)
    assert alike(found.phase, usual.phase) > 0.98
    weighted = replace(scan, weights=np.linspace(0.9, 1.1, len(scan))).select(kept)
    whole_scan, lattice, _ = fill_empty_places(weighted, find_raster(weighted))
    assert (lattice.index >= 0).all()
    assert len(whole_scan) == 154
    near = whole_scan.counts[np.array([154 - 4])][0]  # the corner, of three neighbours
    np.testing.assert_allclose(near, np.asarray(scan.counts)[[1, 14, 15]].mean(0), rtol=1e-5)


def test_many_empty_places_are_counted(net, card, sample):
    scan = whole(sample)
    kept = np.sort(np.random.default_rng(0).permutation(154)[:140])
    with pytest.raises(BadInput, match="14 of 154 places of the raster are empty"):
        predict(net, card, scan.select(kept), OPTICS)


@pytest.mark.parametrize(("few", "said"), [(slice(14), "14 probes in a line"), (slice(1), "1 probe ")])
def test_a_line_of_probes_is_no_scan(net, card, sample, few, said):
    scan = whole(sample)
    for one in (scan.select(np.arange(154)[few]), scan.select(np.arange(0, 154, 14)[few])):
        with pytest.raises(BadInput, match=f"{said}|11 probes in a line"):
            predict(net, card, one, OPTICS)


def test_a_hot_pixel_is_masked_and_said(net, card, sample):
    scan = whole(sample)
    counts = np.asarray(scan.counts).copy()
    counts[:, 3, 20] = 1e5
    usual = predict(net, card, scan, OPTICS, dose=1e6)
    assert not known(usual.notes, "hot pixel")
    found = predict(net, card, replace(scan, counts=counts), OPTICS)
    assert known(found.notes, "masked: 1 hot pixel at (row, column) (3, 20)")
    assert alike(found.phase, usual.phase) > 0.99
    faint = replace(scan, counts=(counts / 1e6).astype(np.float32))
    assert known(predict(net, card, faint, OPTICS).notes, "(3, 20)")


def test_patterns_without_a_disk_are_refused(net, card, sample):
    scan = whole(sample)
    for counts in (
        np.ones_like(np.asarray(scan.counts)),
        np.asarray(scan.counts).mean((1, 2), keepdims=True),
    ):
        flat = replace(scan, counts=np.broadcast_to(counts, scan.counts.shape))
        with pytest.raises(BadInput, match="no bright disk of 20 mrad"):
            predict(net, card, flat, OPTICS)
    assert predict(net, card, prepare.crop(scan, to=(14, 14)), OPTICS).phase.shape == sample.phase.shape


def test_what_holds_nothing_of_the_beam_is_not_worth_a_word(net, card, sample):
    assert not sample.scan().mask.all()
    assert not known(predict(net, card, sample.scan(), OPTICS).notes, "masked")
    cut = predict(net, card, prepare.crop(whole(sample), to=(22, 22)), OPTICS)
    assert not known(cut.notes, "beyond the detector")


def test_patches_of_windows_are_joined_and_a_stitching_network_is_told(card, sample):
    windows = recovery.small(window=5, width=16, depth=1, heads=2, channels=4)
    found = predict(windows.eval(), card, whole(sample), OPTICS)
    assert found.phase.shape == sample.phase.shape
    assert found.model == "toy"
    with pytest.raises(BadInput, match="a stitching network joins patches and reads no patterns"):
        predict(overlap(), card, whole(sample), OPTICS)


def test_small_errors_of_positions_are_told(net, card, sample):
    scan = whole(sample)
    stray = np.random.default_rng(1).uniform(-0.3, 0.3, scan.positions.shape)
    found = predict(net, card, at(scan, scan.positions + stray), OPTICS)
    assert known(found.notes, "steps off their raster")
    assert found.origin == pytest.approx((0.0, 0.0), abs=0.2)


def test_masked_pixels_are_taken_from_across(net, card, sample):
    mask = np.ones((24, 24), bool)
    mask[10:12, 9:11] = mask[15, 14] = mask[0] = False
    counts = np.where(mask, np.asarray(whole(sample).counts), 1e9).astype(np.float32)
    hurt = replace(whole(sample), mask=mask, counts=counts)
    found = predict(net, card, hurt, OPTICS)
    assert known(found.notes, "5 of the model's pixels are masked: 5 taken as those across")
    assert alike(found.phase, sample.phase) > 0.8


def test_what_was_not_simulated_may_be_masked(net, card, sample):
    assert not sample.scan().mask.all()
    found = predict(net, card, sample.scan())
    assert found.semiangle == pytest.approx(0.02, rel=0.03)
    usual = predict(net, card, whole(sample), OPTICS)
    assert alike(predict(net, card, sample.scan(), OPTICS).phase, usual.phase) > 0.98


def test_background_flat_and_weights_are_undone(net, card, sample):
    scan, rng = whole(sample), np.random.default_rng(2)
    flat, weights = rng.uniform(0.8, 1.2, (24, 24)), rng.uniform(0.9, 1.1, len(scan))
    counts = (np.asarray(scan.counts) * weights[:, None, None] * flat + 70.0).astype(np.float32)
    parts = {"background": np.full((24, 24), 70.0), "flat": flat, "weights": weights}
    usual = predict(net, card, scan, OPTICS, dose=1e6)
    found = predict(net, card, replace(scan, counts=counts, **parts), OPTICS, dose=1e6)
    np.testing.assert_allclose(found.phase, usual.phase, atol=2e-3)


@pytest.mark.parametrize("kind", ["linear", "tiny"])
def test_patterns_read_in_pieces_give_the_whole(net, card, sample, kind):
    if kind == "tiny":
        net = tiny(components=40, width=6, depth=3)
        for value in (*net.parameters(), net.components.intake.mean):
            nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(3))
    scan = made(replace(EXPERIMENT, scan=(31, 4)), 2).scan()
    once = predict(net, card, scan, OPTICS)
    strips = predict(net, card, scan, OPTICS, at_once=12)
    assert np.ptp(once.phase) > 0.05
    np.testing.assert_allclose(strips.phase, once.phase, atol=1e-5 * np.ptp(once.phase) + 1e-6)


def test_what_is_not_given_is_measured_or_assumed_and_said(net, card, sample):
    found = predict(net, card, whole(sample))
    assert found.semiangle == pytest.approx(0.02, rel=0.03)
    assert found.told[0] == pytest.approx(encode_conditions(EXPERIMENT)[0])
    assert known(found.notes, "semiangle is not given")
    assert known(found.notes, "defocus is not given")
    doubted = {**card, "tolerance": [1.0] * 7 + [None]}
    found = predict(net, doubted, whole(sample), replace(OPTICS, semiangle=0.0225))
    assert known(found.notes, "check the calibration")


def test_a_dose_beyond_the_training_is_held_and_said(net, card, sample):
    found = predict(net, {**card, "doses": [1e4, 1e5]}, whole(sample), OPTICS, dose=1e6)
    assert found.told[-1] == pytest.approx(1 / 3)
    with_noise = {**card, "doses": [3e3, None]}
    told = predict(net, with_noise, whole(sample), OPTICS, dose=1e6).told[-1]
    assert told == pytest.approx(np.log10(3e5 / 1e4) / 3)  # more is not believed of a microscope
    assert not known(predict(net, card, whole(sample), OPTICS, dose=1e6).notes, "few for this model")
    dim = replace(whole(sample), counts=np.asarray(whole(sample).counts) / 1e3)
    assert known(predict(net, card, dim, OPTICS).notes, "few for this model, trained for patterns without")


def test_a_weak_phase_blurred_by_a_source_is_restored():
    """A pattern of a source is the mean over places: so is a weak phase, to first order."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(3)
    fine = gaussian_filter(rng.normal(size=(90, 75)), 3.0)
    seen = gaussian_filter(fine, (0.25 / 0.4, 0.25 / 0.3), truncate=8).astype(np.float32)
    found = filter_source(seen, (0.4, 0.3), 0.25, undo=True)
    inner = np.s_[12:-12, 12:-12]
    assert np.abs(found - fine)[inner].max() < 0.02 * np.abs(seen - fine)[inner].max()
    again = filter_source(found, (0.4, 0.3), 0.25, undo=False)
    np.testing.assert_allclose(again[inner], seen[inner], atol=1e-3 * seen.std())


def test_no_frequency_gains_more_than_is_allowed_by_a_wide_source():
    noise = np.random.default_rng(4).normal(size=(64, 64)).astype(np.float32)
    found = filter_source(noise, (0.4, 0.4), 5.0, undo=True)
    assert found[20:-20, 20:-20].std() == pytest.approx(
        MAX_SOURCE_GAIN * noise[20:-20, 20:-20].std(), rel=0.02
    )
    assert filter_source(noise, (0.4, 0.4), 0.0, undo=True) is noise


def test_a_stated_source_is_undone_where_electrons_suffice_and_said(net, card, sample):
    usual = predict(net, card, whole(sample), OPTICS)
    assert known(usual.notes, "a point source is assumed: a wider one makes the phase too weak")
    wide = replace(OPTICS, source_size=0.25)
    found = predict(net, card, whole(sample), wide)
    assert known(found.notes, "the blur by a source of 0.25 A is undone, by 1.5 times at most")
    wanted = filter_source(usual.phase, usual.pixel, 0.25, undo=True)
    np.testing.assert_allclose(found.phase, wanted - wanted.mean(), atol=1e-6)
    assert found.phase.std() > 1.05 * usual.phase.std()
    dim = replace(whole(sample), counts=np.asarray(whole(sample).counts) / 1e2)
    left = predict(net, card, dim, wide)
    assert known(left.notes, "the blur by the source is left: 9.78e+03 electrons in a pattern are too few")
    np.testing.assert_array_equal(left.phase, predict(net, card, dim, OPTICS).phase)
    assert left.source_size == 0


def test_detectors_that_miss_the_beam_or_blur_it_are_refused(net, card, sample):
    with pytest.raises(BadInput, match=r"reach of .* misses .* of the beam"):
        predict(net, card, prepare.crop(whole(sample), to=(12, 12)), OPTICS)
    with pytest.raises(BadInput, match=r"too coarse.* 3.26 mrad"):
        predict(net, card, prepare.bin(whole(sample), factor=3), OPTICS)


def test_what_no_network_is_about_is_refused(net, card, sample):
    scan = whole(sample)
    light = replace(scan, geometry=replace(scan.geometry, beam="photon"))
    with pytest.raises(BadInput, match="photons"):
        predict(net, card, light, OPTICS)
    with pytest.raises(BadInput, match="does not say which experiment"):
        predict(net, {}, scan, OPTICS)
    with pytest.raises(BadInput, match="train it again"):
        predict(net, {"experiment": {"colour": "red"}}, scan, OPTICS)
    with pytest.raises(BadInput, match="dose: -1"):
        predict(net, card, scan, OPTICS, dose=-1.0)


def test_models_are_found_by_name_or_path(tmp_path, monkeypatch):
    (tmp_path / "linear.safetensors").touch()
    with pytest.raises(BadInput, match=r"is a folder without a net.safetensors"):
        find_network(tmp_path)
    (tmp_path / "net.safetensors").touch()
    assert find_network(tmp_path) == tmp_path
    (tmp_path / "scan.npy").touch()
    with pytest.raises(BadInput, match=r"is not a network file"):
        find_network(tmp_path / "scan.npy")
    with pytest.raises(BadInput, match="is neither a file nor"):
        find_network(tmp_path / "nothing.safetensors")
    monkeypatch.setattr(weight_files, "list_shipped", lambda *_: {"linear": tmp_path / "linear.safetensors"})
    assert find_network("linear") == tmp_path / "linear.safetensors"
    with pytest.raises(BadInput, match="did you mean 'linear'"):
        find_network("liner")


def test_overlaps_conserve_what_falls_on_both():
    for many, few, ratio in ((32, 24, 1.0), (41, 10, 2.7), (20, 24, 0.8)):
        shares = compute_overlaps(many, few, ratio)
        inside = abs(np.arange(many) - many // 2) < ratio * (few // 2 - 1)
        np.testing.assert_allclose(shares.sum(0)[inside], 1)
        middle = shares[few // 2]
        assert middle[many // 2 - 1] == pytest.approx(middle[many // 2 + 1])


def test_a_raster_is_found_however_it_was_run(sample):
    scan = whole(sample)
    turned = replace(at(scan, scan.positions[:, ::-1] * [-1, 1]), grid=(11, 14))
    found = find_raster(turned)
    assert found.index.shape == (14, 11)
    assert found.step == pytest.approx((2.0, 2.0))
    assert found.index[0, 0] == 13
    assert isinstance(found.first, tuple)


def test_a_prediction_is_a_value(net, card, sample):
    found = predict(net, card, whole(sample), OPTICS)
    assert isinstance(found, Prediction)
    with pytest.raises(AttributeError):
        found.model = "other"  # type: ignore[misc]
