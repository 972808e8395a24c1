"""A number with its unit goes in and comes out; a number without one does not."""

import math

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from phaseloom.errors import BadInput
from phaseloom.units import ANGLE, ENERGY, LENGTH, Angle, Length


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (LENGTH, "3.65 mm", 3.65e7),
        (LENGTH, "12 A", 12.0),
        (LENGTH, "12Å", 12.0),
        (LENGTH, "12 angstrom", 12.0),
        (LENGTH, "-9 nm", -90.0),
        (LENGTH, "+.5 pm", 0.005),
        (LENGTH, " 1e-3 m ", 1e7),
        (LENGTH, "2 um", 2e4),
        (LENGTH, "2 µm", 2e4),
        (LENGTH, 0, 0.0),
        (LENGTH, "0", 0.0),
        (LENGTH, "inf", math.inf),
        (LENGTH, "-inf", -math.inf),
        (LENGTH, math.inf, math.inf),
        (ANGLE, "21.4 mrad", 0.0214),
        (ANGLE, "180 deg", math.pi),
        (ANGLE, "5 µrad", 5e-6),
        (ENERGY, "8.8 keV", 8800.0),
        (ENERGY, "0.3 MeV", 3e5),
    ],
)
def test_text_with_a_unit_is_read(kind, text, value):
    assert kind.parse(text) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ANGLE, 25),
        (ANGLE, "25"),
        (ANGLE, "25 nm"),
        (ANGLE, "twenty mrad"),
        (ANGLE, "25 mrad mrad"),
        (ANGLE, ""),
        (ANGLE, None),
        (ANGLE, True),
        (ANGLE, [1]),
        (LENGTH, "1,5 nm"),
        (LENGTH, "1 NM"),
        (LENGTH, math.nan),
        (LENGTH, "nan nm"),
        (ENERGY, "80 kV"),
        (ENERGY, 80),
    ],
)
def test_what_is_no_number_with_a_unit_is_refused_with_the_units(kind, text):
    with pytest.raises(BadInput) as caught:
        kind.parse(text, "probe")
    article = "a" if kind is LENGTH else "an"
    units = ", ".join(unit for unit, _ in kind.scale)
    assert caught.value.fix == f"is not {article} {kind.name}: write a number and one of {units}"
    assert str(caught.value).startswith("probe: ")


@pytest.mark.parametrize("kind", [LENGTH, ANGLE, ENERGY])
def test_what_is_shown_is_read_back_to_six_digits(kind):
    values = 10 ** np.random.default_rng(0).uniform(-3, 9, 100)
    for value in [*values, *-values, 0.0, math.inf, -math.inf]:
        assert kind.parse(kind.show(float(value))) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (LENGTH, 3.65e7, "3.65 mm"),
        (LENGTH, 12, "1.2 nm"),
        (LENGTH, 1, "1 A"),
        (LENGTH, 0.02, "2 pm"),
        (LENGTH, 0.001, "0.1 pm"),
        (LENGTH, -90, "-9 nm"),
        (LENGTH, 9.9, "9.9 A"),
        (ANGLE, 0.0214, "21.4 mrad"),
        (ENERGY, 8.8e4, "88 keV"),
        (LENGTH, 0, "0"),
        (LENGTH, math.inf, "inf"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_the_trade(kind, value, text):
    assert kind.show(value) == text


def test_tenths_of_a_unit_do_not_gather_rounding():
    assert LENGTH.parse("0.3 nm") == 3.0
    assert ANGLE.parse("24.9 mrad") == 0.0249
    assert LENGTH.parse("1.1 um") == 11000.0


def test_pydantic_reads_units_and_describes_them():
    adapter = TypeAdapter(Length)
    assert adapter.validate_python("1 nm") == 10.0
    with pytest.raises(ValidationError):
        adapter.validate_python("1 rad")
    schema = TypeAdapter(Angle).json_schema()
    assert schema["dimension"] == "angle"
    assert "mrad" in schema["pattern"]


@pytest.mark.parametrize(
    ("kind", "value", "error", "text"),
    [
        (LENGTH, -120.816, 3.79589, "-12.08 +- 0.38 nm"),
        (LENGTH, 63.6, 614.085, "6 +- 61 nm"),
        (LENGTH, 0.0, 2.3831, "0.0 +- 2.4 A"),
        (LENGTH, 1000.0, 0.0, "100 nm"),
        (LENGTH, 1000.0, math.inf, "100 nm"),
        (ANGLE, 0.02436, 0.00007232, "24.360 +- 0.072 mrad"),
    ],
)
def test_a_value_and_its_error_have_one_unit(kind, value, error, text):
    """It was C12: -19.5611 pm +- 2.3831 A."""
    assert kind.show_with_error(value, error) == text
