"""Courses of the loss and the advice that they deserve."""

import numpy as np
import pytest

from phaseloom.fitting.watch import advice

RATES = {"object": 0.02, "probe": 0.01}


def history(losses, late=(), **more):
    """Epochs of a fit; ``late`` holds pairs of a part and its first epoch."""
    out = []
    for number, loss in enumerate(losses, 1):
        rates = RATES | {part: 0.03 for part, start in late if number >= start}
        out.append({"number": number, "loss": float(loss), "rates": rates, "passes": 1.0, "terms": {}} | more)
    return out


FALLING = 1.2 + 5 * np.exp(-np.arange(30) / 4)


def test_says_nothing_when_all_is_well():
    assert advice(history(FALLING), floor=1.0) == []
    assert advice(history(FALLING[:3]), floor=1.0) == []
    assert advice([], floor=1.0) == []


def test_says_nothing_at_the_floor_though_it_stands_still():
    assert advice(history([1.1] * 20), floor=1.0) == []


@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_a_loss_above_its_start_wants_lower_rates(floor):
    (said,) = advice(history([3, 2.5, 6, 9, 9.5, 9]), floor=floor)
    assert "3 times that of the first epoch" in said
    assert "lower the rates (object 0.02 -> 0.007, probe 0.01 -> 0.003)" in said


def test_a_rise_names_its_epoch():
    (said,) = advice(history([*FALLING[:12], 2, 2.2, 2.4, 3]), floor=1.0)
    assert "since epoch 12" in said
    assert "lower" in said


def test_a_part_that_began_then_is_blamed_alone():
    (said,) = advice(history([*FALLING[:12], 2, 2.2, 2.4, 3], late=[("positions", 13)]), floor=1.0)
    assert "when positions began to move" in said
    assert "positions 0.03 -> 0.01" in said
    assert "object" not in said


def test_one_bad_epoch_is_no_trend():
    assert advice(history([*FALLING, 4, 1.2, 1.2]), floor=1.0) == []


def test_a_loss_that_swings_is_told():
    (said,) = advice(history([5, 3, 4, 2.8, 4, 2.9, 4.1, 2.8, 4, 2.7, 4]), floor=1.0)
    assert "swings" in said
    assert "lower the rates (object 0.02 -> 0.01" in said


def test_a_loss_that_hardly_moves_wants_higher_rates():
    (said,) = advice(history(np.linspace(5, 4.9, 20)), floor=1.0)
    assert "only 2.0 % in 20 epochs" in said
    assert "raise the rates (object 0.02 -> 0.06" in said


def test_a_steady_fall_at_the_end_wants_more_epochs():
    (said,) = advice(history(5 * 0.98 ** np.arange(30)), floor=1.0)
    assert "still falls by 2.0 % per epoch" in said
    assert "more epochs" in said


def test_rates_are_those_asked_for_though_they_have_fallen_since():
    course = history(np.linspace(5, 4.9, 20))
    for event in course[10:]:
        event["rates"] = {"object": 0.001, "probe": 0.001}
    assert "object 0.02 -> 0.06" in advice(course, floor=1.0)[0]


def test_a_term_that_came_later_does_not_count():
    course = history(FALLING)
    for event in course:
        event["terms"] = {"noise": event["loss"]}
    for event in course[15:]:
        event["terms"]["tv"] = 7.0
        event["loss"] += 7.0
    assert advice(course, floor=1.0) == []


def test_a_breakdown_wants_lower_rates_but_not_before_the_first_step():
    said = advice(history(FALLING), stopped="the term 'noise' became nan in epoch 31; ...")
    assert said == ["the loss broke down: lower the rates (object 0.02 -> 0.007, probe 0.01 -> 0.003)"]
    assert "lower all rates" in advice([], stopped="the term 'noise' became nan in epoch 1; ...")[0]
    assert advice([], stopped="the term 'noise' became nan before the first step (...) in epoch 1") == []


@pytest.mark.parametrize("more", [{"passes": 5.0}, {"loss": -1.0}])
def test_keeps_silent_where_rates_or_ratios_mean_nothing(more):
    assert advice(history(np.linspace(5, 4.9, 20), **more)) == []
