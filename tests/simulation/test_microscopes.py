"""Microscopes: fixed ones are what they say, drawn ones can be simulated and cover what nets must know."""

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.physics.optics import coefficients
from phaseloom.simulation import microscopes
from phaseloom.simulation.experiment import BAND_EDGE, Experiment, encode_conditions
from phaseloom.spec import call, knobs

ROOM = "phaseloom.simulation.microscopes"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_a_word_the_fixed_one_is_the_default_experiment():
    assert microscopes.fixed(rng()) == Experiment()


def test_every_field_of_an_experiment_is_a_knob_of_the_fixed_one():
    fields = set(Experiment.__dataclass_fields__)
    assert set(knobs(ROOM, "fixed")) == fields | {"defocus"}


def test_a_parameter_file_may_write_units():
    node = {
        "fixed": {"energy": "200 keV", "defocus": "-5 nm", "aberrations": {"Cs": "1 um", "phi12": "30 deg"}}
    }
    drawn = call(ROOM, node, "microscope")(rng())
    assert drawn.energy == 200e3
    expected = {"defocus": -50.0, "Cs": 1e4, "phi12": pytest.approx(np.pi / 6)}
    assert drawn.aberrations == expected


@pytest.mark.parametrize("name", ["defocus", "C10", "C1"])
def test_a_defocus_is_given_once(name):
    with pytest.raises(BadInput, match="defocus, which has a line of its own"):
        microscopes.fixed(rng(), aberrations={name: 10.0})


def test_drawn_probes_fit_the_pixels_the_window_and_the_numbers_of_nets():
    for number in range(40):
        drawn = microscopes.varied(rng(number))
        numbers = encode_conditions(drawn)
        limits = [1.5, 1.2, 0.3, 0.3, 0.3, 0.15, 0.15]
        assert (np.abs(numbers[:7]) <= np.array(limits) + 1e-6).all()
        assert numbers[1] >= 0.7 - 1e-6
        assert drawn.semiangle <= BAND_EDGE * drawn.wavelength / 2 / drawn.spacing
        assert microscopes._share_in_window(drawn) >= microscopes.MIN_SHARE_IN_WINDOW
        assert 60e3 <= drawn.energy <= 300e3


def test_the_same_generator_draws_the_same_microscope_and_another_one_another():
    assert microscopes.varied(rng(3)) == microscopes.varied(rng(3))
    assert microscopes.varied(rng(3)) != microscopes.varied(rng(4))


def test_ranges_that_are_given_are_kept():
    for number in range(5):
        drawn = microscopes.varied(
            rng(number),
            energies=[80e3],
            step=(2.0, 2.0),
            semiangle=(0.019, 0.021),
            defocus=(80.0, 100.0),
            astigmatism=(0.0, 0.0),
            jitter=(0.1, 0.2),
            dose=(1e3, 1e5),
        )
        given = coefficients(drawn.aberrations)
        assert (drawn.energy, drawn.step, given["C12"]) == (80e3, pytest.approx(2.0), 0.0)
        assert 0.019 <= drawn.semiangle <= 0.021
        assert -100 <= given["C10"] <= -80
        assert 0.1 <= drawn.jitter <= 0.2
        assert drawn.dose is not None
        assert 1e3 <= drawn.dose <= 1e5


def test_doses_are_drawn_evenly_in_their_logarithm():
    doses = [microscopes.varied(rng(n), dose=(1e2, 1e6)).dose or 0 for n in range(60)]
    assert 0.25 < np.mean(np.array(doses) < 1e4) < 0.75


@pytest.mark.parametrize(
    ("knobs", "place"),
    [
        ({"step": (3.0, 2.0)}, "varied.step"),
        ({"energy": (0.0, 80e3)}, "varied.energy"),
        ({"jitter": (-1.0, 0.0)}, "varied.jitter"),
        ({"dose": (0.0, 10.0)}, "varied.dose"),
        ({"defocus": (0.0, float("nan"))}, "varied.defocus"),
        ({"energies": []}, "varied.energies"),
    ],
)
def test_what_is_no_range_is_refused_by_name(knobs, place):
    with pytest.raises(BadInput, match=place):
        microscopes.varied(rng(), **knobs)


@pytest.mark.parametrize(
    "knobs", [{"semiangle": (0.2, 0.3)}, {"defocus": (3000.0, 4000.0), "window": 16, "bin": 1}]
)
def test_probes_that_never_fit_end_in_a_sentence(knobs, monkeypatch):
    monkeypatch.setattr(microscopes, "MAX_DRAWS", 5)
    with pytest.raises(BadInput, match="of 5 draws left no probe"):
        microscopes.varied(rng(), detector=None, **knobs)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"jitter": -1.0}, "experiment: jitter: -1.0 must be zero or above"),
        ({"phonons": -2}, "experiment: phonons: -2 must be zero or above"),
        ({"slice_thickness": 0.0}, "experiment: slice_thickness: 0.0 must be above zero"),
        ({"defocus": 3e4}, "fixed.window: 64 holds . % of the probe"),
    ],
)
def test_numbers_without_meaning_are_refused(knobs, said):
    with pytest.raises(BadInput, match=said):
        microscopes.fixed(rng(), **knobs)


def test_the_layout_of_the_seed_has_its_shapes():
    layout = microscopes.seed(rng(), Cs=1e4)
    assert (layout.scan, layout.image, layout.detector_shape) == ((50, 50), (256, 256), (256, 256))
    assert layout.box == (100.0, 100.0)
    assert layout.phonons == 10
    assert layout.aberrations["Cs"] == 1e4


def test_the_seeds_own_numbers_are_beyond_its_pixels_and_that_is_said():
    with pytest.raises(BadInput, match="beyond the 16"):
        microscopes.seed(rng(), energy=300e3, semiangle=0.030)
