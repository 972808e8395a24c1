"""Networks of the package on detectors of all sorts, and scans of an independent simulator."""

import numpy as np
import pytest

from phaseloom.data.prepare import flip
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files
from phaseloom.learning.weight_files import find_network
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.predict_scans import (
    check_prediction,
    measure_misfit,
    measure_noise,
    measure_repeatability,
    predict_halves,
)
from phaseloom.retrieval.prediction import Prediction, predict
from tests.retrieval.independent import DEFOCUS, SEMIANGLE, STEP, Detector, record

OPTICS = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": DEFOCUS})


def read(detector: Detector, model: str = "tiny", electrons: float | None = 1e6):
    scan, truth = record(detector, electrons=electrons)
    path = find_network(model)
    return predict(weight_files.load_network(path), weight_files.load_card(path), scan, OPTICS), truth, scan


def alike(found: Prediction, truth: np.ndarray, rotation: float = 0.0) -> float:
    """Correlation on the pixels of the truth, without the outermost step."""
    scan = (len(truth) - 11) // 5 + 1
    line = STEP * (np.arange(len(truth)) / 5 - 1 - (scan - 1) / 2)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    cosine, sine = np.cos(rotation), np.sin(rotation)
    image = found.sample(places @ np.array([[cosine, sine], [-sine, cosine]]))
    return float(np.corrcoef(image[5:-5, 5:-5].ravel(), truth[5:-5, 5:-5].ravel())[0, 1])


@pytest.mark.parametrize("model", ["tiny", "linear"])
@pytest.mark.parametrize(
    "detector",
    [
        Detector(24, 2.95e-3),  # to 35 mrad, where the training ends
        Detector(26, 2.95e-3),  # to 38 mrad
        Detector(40, 3.1e-3),  # to 62 mrad
        Detector(80, 1.5e-3),
        Detector(31, 1.9e-3),  # to 29 mrad
    ],
    ids=lambda one: f"{1e3 * one.angle * (one.pixels // 2):.0f} mrad in {one.pixels}" if one else "",
)
def test_the_reach_of_the_detector_does_not_matter(model, detector):
    found, truth, _ = read(detector, model)
    assert alike(found, truth) > (0.93 if model == "tiny" else 0.85)


@pytest.mark.parametrize("offset", [(1.3, -0.6), (-2.0, 0.25)])
def test_an_offset_centre_is_found_and_corrected(offset):
    centred, truth, _ = read(Detector(40, 2.4e-3))
    found, _, scan = read(Detector(40, 2.4e-3, offset=offset))
    assert found.offset == pytest.approx(offset, abs=0.1)
    assert any("which is corrected" in note for note in found.notes)
    assert alike(found, truth) > alike(centred, truth) - 0.03
    assert (measure_misfit(found, scan).explained or 0) > 0.9


@pytest.mark.parametrize("degrees", [30.0, -12.0, 100.0])
def test_patterns_are_turned_with_a_raster_that_is_turned(degrees):
    angle = float(np.deg2rad(degrees))
    found, truth, scan = read(Detector(40, 2.2e-3, rotation=angle))
    assert found.rotation % (np.pi / 2) == pytest.approx(angle % (np.pi / 2), abs=1e-6)
    assert any("turned" in note for note in found.notes)
    assert alike(found, truth, angle) > 0.92
    level = found.align()
    assert level.rotation == 0.0
    assert alike(level, truth, angle) > 0.92
    assert (measure_misfit(found, scan).explained or 0) > 0.9


def test_the_dose_is_found_where_it_is_not_given():
    found, truth, _ = read(Detector(), electrons=3e4)
    assert any("dose is not given: taken as 3" in note or "taken as 2.9" in note for note in found.notes)
    assert alike(found, truth) > 0.9


def test_a_detector_coarser_than_the_networks_is_refused():
    with pytest.raises(
        BadInput, match=r"detector pixel: 4 mrad is too coarse .* 3.26 mrad: .* without a network"
    ):
        read(Detector(24, 4.0e-3))


def test_what_repeats_with_the_scan_is_left_out():
    """The aperture of this probe is hard, that of the training soft: all patterns differ alike."""
    found, truth, _ = read(Detector(), electrons=None)
    fine = (found.phase - found.phase.mean())[5:80, 5:80].reshape(15, 5, 15, 5)
    assert fine.mean((0, 2)).std() < 0.1 * found.phase.std()
    assert alike(found, truth) > 0.93


def warnings_of(detector: Detector, electrons: float, *, mirrored: bool = False) -> list[str]:
    scan, _ = record(detector, electrons=electrons)
    if mirrored:
        scan = flip(scan, axis="x")
    path = find_network("tiny")
    net, card = weight_files.load_network(path), weight_files.load_card(path)
    again = measure_repeatability(net, card, scan, OPTICS)
    return check_prediction(predict(net, card, scan, OPTICS), scan, again)[1]


def test_a_good_prediction_is_accepted_and_others_are_warned_of():
    assert warnings_of(Detector(), 1e6) == []
    assert "orientation of the detector" in warnings_of(Detector(), 1e6, mirrored=True)[0]
    assert "halves of the electrons agree by" in warnings_of(Detector(), 300)[-1]


@pytest.mark.medium
def test_the_noise_of_a_prediction_is_told_by_frequency():
    """Against the spread of the predictions of the same specimen from independent counts."""
    path = find_network("tiny")
    net, card = weight_files.load_network(path), weight_files.load_card(path)
    scans = [record(Detector(), electrons=1e4, noise=seed)[0] for seed in range(4)]
    told = [measure_noise(*predict_halves(net, card, scan, OPTICS)) for scan in scans]
    phases = np.stack([predict(net, card, scan, OPTICS).phase[8:-8, 8:-8] for scan in scans])
    true = np.sqrt(((phases - phases.mean(0)) ** 2).sum(0).mean() / (len(scans) - 1))
    total = np.mean([np.sqrt(np.square(one["noise"]).sum()) for one in told])
    assert total == pytest.approx(true, rel=0.35)
    assert told[0]["frequency"] == sorted(told[0]["frequency"])
    richer = record(Detector(), electrons=1e6)[0]
    less = measure_noise(*predict_halves(net, card, richer, OPTICS))
    assert np.square(less["noise"]).sum() < 0.3 * total**2


def test_counts_that_are_no_electrons_have_no_halves():
    scan, _ = record(Detector())
    path = find_network("tiny")
    net, card = weight_files.load_network(path), weight_files.load_card(path)
    assert measure_repeatability(net, card, scan, OPTICS) is None
