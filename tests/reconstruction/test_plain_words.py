"""The paragraph on a result for readers from outside of the field."""

from dataclasses import replace

import numpy as np
import pytest

from phaseloom.data.scan import Geometry
from phaseloom.fitting.outcome import Verdict
from phaseloom.metrics.resolution import RingCorrelation
from phaseloom.reconstruction.result_builder import summary_lines
from phaseloom.result import Result, Uncertainty
from phaseloom.trust import LEADS, describe_trust
from phaseloom.units import LENGTH


@pytest.fixture
def result() -> Result:
    phase = np.random.default_rng(0).normal(0, 0.2, (1, 24, 24))
    geometry = Geometry(wavelength=0.04, shape=(16, 16), angle=(1e-3, 1e-3), beam="electron")
    return Result(
        object=np.exp(1j * phase),
        probe=np.full((1, 16, 16), 10.0 + 0j),
        positions=np.zeros((9, 2)),
        positions_start=np.zeros((9, 2)),
        pixel=(0.5, 0.5),
        origin=(0.0, 0.0),
        coverage=np.ones((24, 24)),
        geometry=geometry,
        verdict="converged: what is left is 1 times shot noise",
        verdict_code="converged",
        metrics={
            "hold-out": 1.02,
            "explained": 0.913,
            "error of explained": 0.018,
            "direct image": 0.97,
            "places matter": 0.8,
        },
        uncertainty=Uncertainty(np.full((1, 24, 24), 0.02), 0.02, 0.005, excess=1.0),
    )


def test_all_evidence_is_told_together(result):
    assert describe_trust(result) == (
        "The picture can be used. Of what differs from pattern to pattern beyond counting noise, the model "
        "predicted 91 ± 2 % in patterns that it had not seen. With the beam positions exchanged at random, 5 "
        "times as much stayed unexplained. A second picture, made in one step by another method, shows the "
        "same (correlation 0.97). Counting alone leaves each pixel of the phase uncertain by ±0.02 rad, "
        "where the picture varies by 0.2 rad."
    )
    assert f"in plain words: {describe_trust(result)}" in summary_lines(result)


def test_halves_and_a_lower_bound_are_told(result):
    value = np.array([1.0, 0.9, 0.6, 0.01, 0.0])
    half = np.full(5, 0.3)
    curve = RingCorrelation(np.arange(5) / 8, value, half, half, counts=np.full(5, 40.0))
    sigma = replace(result.uncertainty, reasons={"focused_probe": "x"}, pixel=0.15)
    text = describe_trust(replace(result, halves=curve, uncertainty=sigma))
    assert f"agree down to details of {curve.resolution('half-bit'):.3g} Å" in text
    assert "much of the finest detail is noise" in text
    assert text.endswith("the true error is larger.")


def test_an_error_bar_of_what_a_prior_takes_is_not_called_that_of_counting(result):
    sigma = replace(result.uncertainty, reasons={"prior": "the object is held"}, pixel=0.15)
    text = describe_trust(replace(result, uncertainty=sigma))
    assert "Each pixel of the phase is uncertain by ±0.15 rad" in text
    assert "much of the contrast is lost, or is noise" in text
    assert text.endswith("the true error may be larger.")


def test_an_error_bar_that_holds_the_bias_of_amplitudes_is_not_called_that_of_counting(result):
    sigma = replace(result.uncertainty, reasons={"amplitude_bias": "amplitude is biased"}, pixel=0.15)
    text = describe_trust(replace(result, uncertainty=sigma))
    assert "Each pixel of the phase is uncertain by ±0.15 rad" in text
    assert text.endswith("the true error may be larger.")


def test_noise_that_hides_everything_is_told_with_its_dose(result):
    metrics = {"hold-out": 1.0, "places matter": 0.1, "direct image": 0.2}
    few = replace(result, metrics=metrics, uncertainty=None, history=[{"number": 5, "explained": None}])
    still = describe_trust(replace(few, verdict_code="doubtful"))
    assert "than counting noise, so that" in still
    places = np.indices((3, 3)).reshape(2, -1).T * 4.0
    text = describe_trust(replace(few, verdict_code="doubtful", positions=places))
    assert f"({100 * 256 / 4.0**2:.2g} electrons per Å²)" in text
    assert "do not interpret it yet" in text
    assert "can be used" not in describe_trust(replace(few, verdict_code="converged"))
    assert "hardly better than with the beam positions exchanged" in text
    assert "looks different (correlation 0.20)" in text


def test_a_run_of_few_epochs_does_not_speak_of_noise(result):
    """What patterns show is measured every few epochs; before, nothing is known of it."""
    few = replace(result, metrics={"hold-out": 1.0}, history=[{"number": 3}])
    text = describe_trust(few)
    assert "counting noise (" not in text
    assert "does not measure how much" in text
    assert "can be used" not in text


def test_a_share_that_was_measured_later_than_the_result_is_no_noise(result):
    few = replace(result, metrics={"hold-out": 1.0}, history=[{"number": 5, "explained": [0.98, 0.01]}])
    assert "counting noise (" not in describe_trust(few)
    assert "than counting noise" not in describe_trust(few)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_words_of_its_own(result, verdict):
    assert describe_trust(replace(result, verdict_code=verdict.value)).startswith(LEADS[verdict])
    assert len(set(LEADS.values())) == len(LEADS)


def test_old_results_have_shorter_paragraphs(result):
    assert describe_trust(replace(result, verdict_code="")) == ""
    bare = replace(result, metrics={}, uncertainty=None)
    assert describe_trust(bare) == "The picture can be used."


@pytest.mark.parametrize("verdict", [Verdict.DOUBTFUL, Verdict.WRONG_START, Verdict.CONVERGED])
@pytest.mark.parametrize("share", [0.96, 0.2])
def test_a_large_share_beside_a_verdict_against_the_picture_is_put_right(result, verdict, share):
    """The verdict may speak of 0 % of other fits in the same breath."""
    changed = replace(result, verdict_code=verdict.value, metrics={**result.metrics, "explained": share})
    is_against = verdict is not Verdict.CONVERGED
    said = "That share alone does not show that the picture is right" in describe_trust(changed)
    assert said == (is_against and share > 0.5)


def test_a_drift_of_the_positions_warns_of_lengths(result):
    time = np.linspace(0, 1, len(result.positions))[:, None]
    still = replace(result, positions=result.positions_start)
    assert "lengths and angles" not in describe_trust(still)
    moved = replace(still, positions=result.positions_start + time * [0.6, -0.8] * min(result.pixel) * 2)
    far = LENGTH.show(float(f"{2 * min(result.pixel):.2g}"))
    assert f"the positions moved by {far}, which may be a part of a drift" in describe_trust(moved)


def test_a_run_of_electrons_without_a_witness_says_so(result):
    alone = {name: value for name, value in result.metrics.items() if name != "direct image"}
    says = "No second picture by another method was there to compare it with."
    assert says in describe_trust(replace(result, metrics=alone))
    assert says not in describe_trust(result)
    photons = replace(result.geometry, beam="photon")
    assert says not in describe_trust(replace(result, metrics=alone, geometry=photons))


@pytest.mark.parametrize(("stretch", "is_said"), [(1.04, True), (1.005, False)])
def test_a_stretch_of_the_positions_is_told(result, stretch, is_said):
    start = 10.0 * np.indices((5, 5)).reshape(2, -1).T
    found = start * [1.0, stretch] + np.random.default_rng(0).normal(0, 0.01, start.shape)
    text = describe_trust(replace(result, positions_start=start, positions=found))
    assert ("stretched by" in text) == is_said
    assert ("+4.0 % along x" in text) == is_said


def test_a_guessed_sign_of_photons_is_told_beside_the_verdict(result):
    photons = replace(result, geometry=replace(result.geometry, beam="photon"))
    guess = result.metrics | {"sign is a guess": 1.0}
    assert "the sign of the phase is a guess" in describe_trust(replace(photons, metrics=guess))
    assert "sign" not in describe_trust(photons)
