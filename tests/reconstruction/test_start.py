"""The automatic start leaves alone what it cannot judge."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from phaseloom.calibration.calibrate import mask_bad_pixels
from phaseloom.calibration.orientations import ORIENTATIONS, TWINS
from phaseloom.calibration.sweep import Start, _Candidate
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction.protocol import find_start
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.start import sweep
from phaseloom.retrieval.recipe import SampleSimulator, Train
from phaseloom.spec import Call, call


def test_near_focus_the_right_defocus_is_told_from_a_wider_beam():
    """Steps as wide as the probe: patterns hardly overlap, and those of a wider beam are sooner explained."""
    recipe = Train.of({"microscope": {"fixed": {"scan": [10, 10], "defocus": "90 A"}}})
    sample = SampleSimulator(recipe.specimen, recipe.microscope, 5)(1)
    fractions = sample.patterns.reshape(-1, *sample.patterns.shape[2:]).clip(min=0)
    counts = np.random.default_rng(0).poisson(1e5 * fractions).astype(np.float32)
    probe = call("phaseloom.ptycho.probes", {"focused": {"semiangle": "20 mrad", "defocus": "90 A"}}, "probe")
    found = sweep(replace(sample.scan(), counts=counts), probe, 0, steps=7, orientations=False)
    assert found is not None
    assert min(found.tried, key=lambda one: one["loss"])["defocus"] == found.defocus == 90.0
    assert found.loss < 1.3


@pytest.mark.parametrize(("ratio", "kept"), [(1.9, 90.0), (2.1, 130.0)])
def test_a_stated_defocus_is_given_up_where_another_halves_the_loss(monkeypatch, ratio, kept):
    def advance(candidate, epochs, seed):
        candidate.loss = ratio if candidate.defocus == 90.0 else 1.0 + abs(candidate.defocus - 130) / 100

    monkeypatch.setattr(_Candidate, "advance", advance)
    monkeypatch.setattr(_Candidate, "measure_unexplained", lambda candidate: candidate.loss)
    probe = call("phaseloom.ptycho.probes", {"focused": {"semiangle": "20 mrad", "defocus": "90 A"}}, "probe")
    found = sweep(draw_scan(), probe, 0, span=80.0, steps=5, orientations=False)
    assert found is not None
    assert found.defocus == kept


def draw_scan(side=32, *, defocus=0.0, plain=False):
    """Photons through an object, by a lens with aberrations (``plain``: in focus, without); with the probe.

    ``defocus``: of the probe in the scan against the right one, in units of that.
    """
    rng = np.random.default_rng(2)
    angle, wavelength = 4e-5, 1.55
    pixel = wavelength / (side * angle)
    q = (np.arange(side) - side // 2) * angle
    square = q[:, None] ** 2 + q**2
    rough = gaussian_filter(rng.normal(size=square.shape), side / 6)
    pupil = (square < (side / 5 * angle) ** 2) * np.exp(1j * (not plain) * rough / rough.std())
    far = 0.0 if plain else 0.15 * side * pixel / (side / 5 * angle)

    def focus(defocus):
        wave = pupil * np.exp(-1j * np.pi / wavelength * defocus * square)
        return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave), norm="ortho"))

    probe, known = (focus(one) * np.sqrt(2e4) / np.linalg.norm(pupil) for one in (far, (1 + defocus) * far))
    places = np.indices((6, 6)).reshape(2, -1).T * (2 if plain else 4) + rng.integers(0, 2, (36, 2))
    thing = gaussian_filter(rng.normal(size=(side + 24,) * 2), 1.5)
    thing = np.exp(0.5j * thing / thing.std())
    waves = [probe * thing[y : y + side, x : x + side] for y, x in places]
    far_field = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(waves, (1, 2)), norm="ortho"), (1, 2))
    geometry = Geometry(wavelength=wavelength, shape=(side, side), angle=(angle, angle), beam="photon")
    return Scan4D(
        counts=rng.poisson(abs(far_field) ** 2).astype(np.float32),
        positions=(places + side // 2) * pixel,
        geometry=geometry,
        probe=known[None].astype(np.complex64),
        oriented=False,
    )


STORED = Call("phaseloom.ptycho.probes", "stored", {})


@pytest.mark.parametrize("way", [*ORIENTATIONS, *TWINS])
def test_the_probe_of_a_file_tells_all_eight_ways_of_the_detector(way):
    scan = draw_scan()
    laid = scan
    for name, given in reversed((ORIENTATIONS | TWINS)[way]):  # undone by the steps of that name
        laid = getattr(prepare, name)(laid, **given)
    found = sweep(replace(laid, probe=scan.probe), STORED, 0)
    assert found is not None
    assert (found.orientation, found.tells_sign) == (way, True)
    assert found.loss < 1.3
    assert len(found.tried) < 14
    assert not any("sign of the phase" in line for line in found.lines(sign_is_known=False))


def test_a_probe_that_is_its_own_conjugate_leaves_the_twin_open():
    scan = draw_scan(plain=True)
    assert scan.probe is not None
    assert np.abs(scan.probe.imag).max() < 1e-3 * np.abs(scan.probe).max()
    found = sweep(scan, STORED, 0)
    assert found is not None
    assert (found.orientation, found.tells_sign) == ("as given", False)
    assert any("sign of the phase" in line for line in found.lines(sign_is_known=False))


def test_the_probe_of_a_file_is_focused_again_where_it_was_seen_elsewhere():
    right, off = (sweep(draw_scan(defocus=part), STORED, 0) for part in (0.0, -0.8))
    assert right is not None
    assert off is not None
    assert right.defocus == 0
    at_rest = next(
        one["loss"] for one in off.tried if one["defocus"] == 0 and one["orientation"] == "as given"
    )
    assert off.loss < 0.9 * at_rest
    assert -3.5e7 < off.defocus < -1e7


@pytest.mark.parametrize(("defocus", "says"), [(-30.0, "at the end of the range"), (10.0, "clear")])
def test_a_best_value_at_the_end_of_the_range_is_not_called_clear(defocus, says):
    tried = [
        {"orientation": "as given", "defocus": value, "epochs": 12, "loss": 1.0 + (value != defocus)}
        for value in (-30.0, -10.0, 10.0, 30.0)
    ]
    (line,) = Start(defocus, "as given", 1.0, 2.0, tried).lines(sign_is_known=True)
    assert says in line
    assert ("clear" in line) == (says == "clear")


def test_a_rival_with_a_lower_loss_is_named():
    tried = [
        {"orientation": "as given", "defocus": 90.0, "epochs": 12, "loss": 1.0},
        {"orientation": "transposed", "defocus": 120.0, "epochs": 12, "loss": 0.9},
        {"orientation": "as given", "defocus": 100.0, "epochs": 3, "loss": 0.5},
    ]
    (line,) = Start(100.0, "as given", 1.0, 0.9, tried).lines(sign_is_known=True)
    assert "kept, though a loss lower by 10 % was found in 12 epochs with: focus 12 nm behind" in line
    assert "detector transposed" in line


@pytest.mark.parametrize("place", [(4, 27), (16, 18)])
def test_hot_pixels_of_photons_are_masked_unless_they_may_be_the_beam(place):
    scan = draw_scan()
    counts = np.array(scan.counts)
    counts[:, place[0], place[1]] = 5000.0
    hot = replace(scan, counts=counts)
    recipe, masked, found = mask_bad_pixels(Reconstruct(), hot)
    is_far = place == (4, 27)
    assert len(found) == is_far
    assert masked.mask[place] != is_far
    assert masked.mask.sum() == scan.mask.sum() - is_far
    assert len(recipe.prepare) == is_far
    assert not mask_bad_pixels(Reconstruct(), scan)[2]


@pytest.mark.parametrize(
    ("oriented", "plain", "is_guess"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_a_guessed_sign_is_kept_with_the_run(oriented, plain, is_guess):
    scan = replace(draw_scan(plain=plain), oriented=oriented)
    settled, _, _ = find_start(Reconstruct.of({"device": "cpu"}), scan)
    assert ("sign" in settled.found) == is_guess
