"""Courses of the loss, the advice that they deserve, and what a fit is told to have come to."""

import numpy as np
import pytest

from phaseloom.fitting.schedule import cosine
from phaseloom.fitting.verdict import advise_rates, judge_fit
from phaseloom.reconstruction.recipe import Reconstruct

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
    assert advise_rates(history(FALLING), floor=1.0) == []
    assert advise_rates(history(FALLING[:3]), floor=1.0) == []
    assert advise_rates([], floor=1.0) == []


def test_says_nothing_at_the_floor_though_it_stands_still():
    assert advise_rates(history([1.1] * 20), floor=1.0) == []


@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_a_loss_above_its_start_wants_lower_rates(floor):
    (said,) = advise_rates(history([3, 2.5, 6, 9, 9.5, 9]), floor=floor)
    assert "3 times that of the first epoch" in said
    assert "lower the rates (object 0.02 -> 0.007, probe 0.01 -> 0.003)" in said


def test_a_rise_names_its_epoch():
    (said,) = advise_rates(history([*FALLING[:12], 2, 2.2, 2.4, 3]), floor=1.0)
    assert "since epoch 12" in said
    assert "lower" in said


def test_a_part_that_began_then_is_blamed_alone():
    (said,) = advise_rates(history([*FALLING[:12], 2, 2.2, 2.4, 3], late=[("positions", 13)]), floor=1.0)
    assert "when positions began to move" in said
    assert "positions 0.03 -> 0.01" in said
    assert "object" not in said


def test_one_bad_epoch_is_no_trend():
    assert advise_rates(history([*FALLING, 4, 1.2, 1.2]), floor=1.0) == []


def test_a_loss_that_swings_is_told():
    (said,) = advise_rates(history([5, 3, 4, 2.8, 4, 2.9, 4.1, 2.8, 4, 2.7, 4]), floor=1.0)
    assert "swings" in said
    assert "lower the rates (object 0.02 -> 0.01" in said


def test_a_loss_that_hardly_moves_wants_higher_rates():
    (said,) = advise_rates(history(np.linspace(5, 4.9, 20)), floor=1.0)
    assert "only 2.0 % in 20 epochs" in said
    assert "raise the rates (object 0.02 -> 0.06" in said


def test_rates_are_those_asked_for_though_they_have_fallen_since():
    course = history(np.linspace(5, 4.9, 20))
    for event in course[10:]:
        event["rates"] = {"object": 0.001, "probe": 0.001}
    assert "object 0.02 -> 0.06" in advise_rates(course, floor=1.0)[0]


def shared(losses, shares, late=30):
    """Epochs whose rates are shares of a Newton step; a map of the scan waits, its rate being zero."""
    out = history(losses)
    for event in out:
        event["rates"] = {**shares, "affine": 0.1 * (event["number"] >= late)}
    return out


USUAL = {"object": 0.2, "probe": 0.4, "positions": 1.0}


def test_shares_of_a_newton_step_are_never_raised_beyond_the_step():
    stuck = np.linspace(5, 4.9, 20)
    assert advise_rates(shared(stuck, USUAL), floor=1.0, newton=1.0) == []
    (said,) = advise_rates(shared(stuck, {"object": 0.02, "probe": 0.4}), floor=1.0, newton=1.0)
    assert said.endswith("raise the rates (object 0.02 -> 0.06)")


def test_shares_are_lowered_to_a_step_at_most():
    (said,) = advise_rates(shared([3, 2.5, 6, 9, 9.5, 9], {"object": 6.0, "probe": 0.4}), newton=1.0)
    assert said.endswith("lower the rates (object 6 -> 1, probe 0.4 -> 0.1)")
    said = judge_fit(shared([3, 2.5, 6, 9, 9.5, 9], {"object": 6.0}), newton=1.0)
    assert said.endswith("lower the rates (object 6 -> 1)")


def test_a_part_that_its_shape_held_still_is_blamed_when_it_begins():
    (said,) = advise_rates(shared([*FALLING[:12], 2, 2.2, 2.4, 3], USUAL, late=13), floor=1.0, newton=1.0)
    assert "when affine began to move: lower the rate (affine 0.1 -> 0.03)" in said


def test_a_term_that_came_later_does_not_count():
    course = history(FALLING)
    for event in course:
        event["terms"] = {"noise": event["loss"]}
    for event in course[15:]:
        event["terms"]["tv"] = 7.0
        event["loss"] += 7.0
    assert advise_rates(course, floor=1.0) == []


def test_a_breakdown_wants_lower_rates_but_not_before_the_first_step():
    said = advise_rates(history(FALLING), stopped="the term 'noise' became nan in epoch 31; ...")
    assert said == ["the loss broke down: lower the rates (object 0.02 -> 0.007, probe 0.01 -> 0.003)"]
    assert "lower all rates" in advise_rates([], stopped="the term 'noise' became nan in epoch 1; ...")[0]
    assert (
        advise_rates([], stopped="the term 'noise' became nan before the first step (...) in epoch 1") == []
    )


@pytest.mark.parametrize("more", [{"passes": 5.0}, {"loss": -1.0}])
def test_keeps_silent_where_rates_or_ratios_mean_nothing(more):
    assert advise_rates(history(np.linspace(5, 4.9, 20), **more)) == []


def annealed(law, epochs=30, held=None, quiet=0.0, shape=cosine, first=1):
    """Epochs under falling rates: a law of the rates' sum, and steps that add ``quiet`` times the rate."""
    paces = [shape(n / max(epochs - 1, 1)) for n in range(epochs)]
    out = []
    for n, (pace, time) in enumerate(zip(paces, np.cumsum(paces), strict=True)):
        loss = float(law(time) + quiet * pace)
        event = {
            "number": n + first,
            "loss": loss,
            "terms": {"noise": loss},
            "rates": {"object": 0.02 * pace},
        }
        out.append(event | {"holdout": None if held is None else float(held[n]), "passes": 1.0})
    return out


def approach(left, start=8.0, pace=2.5):
    """A law: what is left in the end, the loss at first, epochs for a fall to a third."""
    return lambda time: left + (start - left) * np.exp(-time / pace)


def kind(events, **more):
    return judge_fit(events, **more).split(":")[0]


def constant(share):
    return 1.0


@pytest.mark.parametrize("shape", [cosine, constant])
@pytest.mark.parametrize("left", [0.9, 1.03, 1.6, 4.0])
def test_a_loss_that_has_levelled_has_converged_with_falling_rates_or_without(shape, left):
    said = judge_fit(annealed(approach(left, start=20 * left), 40, shape=shape))
    word = "levelled" if left > 1.5 else "converged"
    assert said.startswith(f"{word}: what is left is {left:g} times shot noise")
    assert ("the model lacks something" in said) == (left > 1.5)


@pytest.mark.parametrize("left", [0.95, 1.2, 1.4])
def test_a_run_with_something_left_to_explain_names_the_search_for_it(left):
    said = judge_fit(annealed(approach(left, start=20 * left), 40))
    assert said.startswith("converged")
    assert ("phaseloom improve" in said) == (left > 1.3)


@pytest.mark.parametrize("left", [1.2, 1.6, 4.0])
def test_quieter_steps_at_falling_rates_are_no_sign_of_more_to_come(left):
    events = annealed(approach(left, start=20 * left, pace=1.0), 40, quiet=0.3 * left)
    assert events[-1]["loss"] < 0.9 * events[15]["loss"]
    assert events[-1]["loss"] < events[-3]["loss"]
    assert kind(events) == ("levelled" if left > 1.5 else "converged")


def test_a_part_that_waits_says_nothing_of_the_pace_before_it_moves():
    events = annealed(approach(1.2, start=24.0, pace=1.0), 40, quiet=0.36)
    waiting = [
        event | {"rates": event["rates"] | {"affine": 0.1 * (n > 19)}} for n, event in enumerate(events)
    ]
    assert judge_fit(waiting) == judge_fit(events)


@pytest.mark.parametrize("shape", [cosine, constant])
def test_a_run_cut_short_still_falls_though_its_rates_are_nearly_zero(shape):
    events = annealed(approach(1.0, start=20.0, pace=12.0), 12, shape=shape)
    said = judge_fit(events, stopped="all 12 epochs done")
    assert said.startswith("still falling: by ")
    assert "give it more epochs (24 instead of 12)" in said
    assert ("before the rates fell" in said) == (shape is cosine)


def test_the_rate_per_epoch_is_told():
    said = judge_fit(history(5 * 0.98 ** np.arange(30)))
    assert said.startswith("still falling: by 2 % per epoch, at 2.78 times shot noise")


def test_few_epochs_tell_little():
    assert kind(history([5.0])) == "still falling"
    assert kind(history([5.0, 4.9])) == "still falling"
    assert judge_fit([]) == "nothing was learned: no epoch was done"


def semiconvergent(rise, scatter=0.0, epochs=40):
    """A hold-out loss that falls until epoch 12 and then rises in a line."""
    n = np.arange(epochs)
    noise = scatter * np.random.default_rng(3).normal(size=epochs)
    return 1.1 + 2 * np.exp(-n / 2) + rise * np.maximum(n - 11, 0) / epochs + noise


def test_overfitting_is_told_with_its_epoch_and_whose_the_result_is():
    events = annealed(lambda t: 1.1 + 3 * np.exp(-t / 2) - 0.02 * t, 40, held=semiconvergent(0.2))
    said = judge_fit(events)
    assert said.startswith("overfitting: the hold-out loss rises since epoch 12 while the loss falls to 0.")
    assert "take fewer epochs" in said
    said = judge_fit(events, stopped="all 40 epochs done; overfitting: ...; the result is that of epoch 12")
    assert said.endswith("the result is that of epoch 12")


def test_a_hold_out_loss_that_only_scatters_is_no_overfitting():
    for scatter in (0.0, 0.01, 0.05):
        events = annealed(approach(1.0), 40, held=semiconvergent(0.0, scatter))
        assert kind(events) == "converged"


def test_noise_that_is_described_without_patterns_held_out_is_told():
    assert "no pattern was held out" in judge_fit(annealed(approach(0.7)))
    assert "hold patterns out" not in judge_fit(annealed(approach(0.7), held=np.full(30, 1.1)))
    assert "(1.1 in patterns held out)" in judge_fit(annealed(approach(0.7), held=np.full(30, 1.1)))


@pytest.mark.parametrize("held", [None, np.concatenate([np.linspace(9, 7, 10), np.linspace(7, 7.6, 20)])])
def test_a_loss_far_above_the_noise_that_hardly_moves_is_a_wrong_start(held):
    said = judge_fit(annealed(approach(5.5, start=11.0), held=held))
    assert said.startswith("wrong start: the loss stays at 5.5 times shot noise: check")
    for cause in ("defocus", "orientation", "pixel size", "step", "start: sweep"):
        assert cause in said


@pytest.mark.parametrize(("level", "begins"), [(5.5, "levelled"), (40.0, "wrong start")])
def test_a_start_that_other_evidence_confirms_is_not_called_wrong_for_a_moderate_loss(level, begins):
    history = annealed(approach(level, start=2 * level))
    assert judge_fit(history).startswith("wrong start")
    assert judge_fit(history, is_start_confirmed=True).startswith(begins)


@pytest.mark.parametrize(("each", "begins"), [(0.01, "wrong start"), (0.06, "still falling")])
def test_a_slow_fall_far_above_the_noise_is_a_wrong_start_unless_the_noise_is_in_reach(each, begins):
    assert kind(history(15 * np.exp(-each * np.arange(20)))) == begins


@pytest.mark.parametrize("epochs", [1, 2, 20])
def test_a_loss_far_below_the_noise_does_not_ask_for_more_epochs(epochs):
    said = judge_fit(history(1e-3 * 0.8 ** np.arange(epochs)))
    assert said.startswith("not judged")
    assert "few patterns overlap" in said
    assert "epochs" not in said


def test_rates_that_never_fell_are_named_where_noise_is_left_over():
    events = annealed(approach(1.3, start=26.0), 40, shape=constant)
    # the plain cosine of a classical engine is constant: the advice has to change the rates of any optimizer
    assert "let the rates fall (shape: {cosine: {floor: 0.05}})" in judge_fit(events)
    advised = {"optimizer": "rpie", "shape": {"cosine": {"floor": 0.05}}}
    assert Reconstruct.of(advised).shape.values == {"floor": 0.05}
    assert "let the rates fall" not in judge_fit(annealed(approach(1.3, start=26.0), 40))


def test_patterns_held_out_and_given_back_are_told_by_their_last_loss():
    events = annealed(approach(1.0), 30, held=np.linspace(1.4, 1.1, 30))
    for event in events[-3:]:
        event["holdout"] = None
    assert "(1.13 in patterns held out until learned from)" in judge_fit(events)


def test_a_great_fall_to_far_above_the_noise_is_no_wrong_start():
    said = judge_fit(annealed(approach(5.5, start=400.0, pace=1.5)))
    assert said.startswith("levelled: what is left is 5.5 times shot noise: the model lacks something")


def test_a_rise_means_steps_that_are_too_long():
    rising = [5.0, 3.0, 2.0, 1.5, 1.6, 1.7, 1.8, 1.9]
    said = judge_fit(history(rising), stopped="overfitting: the hold-out loss rises since epoch 4")
    assert said.startswith("steps too long: the loss has risen by 20 % since epoch 4: lower the rates")
    assert "object 0.02 -> 0.007" in said


def test_a_rise_that_annealing_cured_is_forgiven():
    cured = [5.0, 3.0, 2.0, 1.5, 1.6, 1.7, 1.6, 1.4, 1.2, 1.1, 1.04, 1.03]
    assert kind(history(cured)) == "converged"


@pytest.mark.parametrize(
    ("stopped", "begins"),
    [
        (
            "interrupted in epoch 9; the result is that of epoch 8",
            "interrupted in epoch 9: the loss still fell by 2 %",
        ),
        ("interrupted after epoch 8", "interrupted after epoch 8: the loss still fell"),
        (
            "the term 'noise' became nan in epoch 9; the result is that of epoch 8",
            "broke down: the term 'noise'",
        ),
    ],
)
def test_a_fit_that_ended_early_says_so_first(stopped, begins):
    assert judge_fit(history(5 * 0.98 ** np.arange(8)), stopped=stopped).startswith(begins)


def test_a_breakdown_is_cured_by_lower_rates_but_not_before_the_first_step():
    assert judge_fit(history(FALLING), stopped="the loss became inf in epoch 31").endswith("lower the rates")
    first = judge_fit([], stopped="the term 'noise' became nan before the first step (...) in epoch 1")
    assert first.startswith("broke down")
    assert "rates" not in first


def test_the_finer_of_two_grids_is_judged_by_itself():
    coarse = annealed(approach(1.5, start=9.0), 12, held=np.full(12, 1.0))
    fine = annealed(approach(1.02, start=1.9), 12, first=13, held=np.linspace(1.4, 1.1, 12))
    assert kind(coarse + fine) == "overfitting"
    assert kind(coarse + fine, since=12) == "converged"
    stuck = annealed(approach(1.4, start=1.9, pace=9.0), 12, first=13, held=np.linspace(1.9, 1.6, 12))
    assert kind(coarse + stuck, since=12) == "still falling"
    assert kind(coarse + stuck[:1], since=12) == kind(coarse + stuck[:1])


def test_a_wrong_start_is_one_on_the_finer_grid_too():
    coarse = annealed(approach(5.5, start=11.0), 12)
    fine = annealed(approach(5.45, start=5.5), 12, first=13)
    assert kind(coarse + fine, since=12) == "wrong start"


def test_the_number_is_that_of_the_epoch_whose_the_result_is():
    events = annealed(approach(1.0), 30, held=np.full(30, 1.2))
    events[19]["terms"]["noise"] = 1.01
    assert "is 1.01 times" in judge_fit(
        events, stopped="all 30 epochs done; the result is that of epoch 20, ..."
    )


def test_without_a_floor_losses_are_told_as_they_are():
    assert judge_fit(history(0.2 * FALLING), floor=0.0).startswith(
        "converged: what is left is a loss of 0.24"
    )
    assert kind(history([-1.0] * 9), floor=0.0) == "not judged"


def test_a_gap_to_the_patterns_held_out_is_a_doubt():
    known = annealed(approach(1.17), 20, held=np.full(20, 1.48))
    assert judge_fit(known).startswith("doubtful: what is left is 1.")
    assert "1.48 in patterns held out" in judge_fit(known)
    assert kind(annealed(approach(1.0), 20, held=np.full(20, 1.1))) == "converged"
    assert kind(annealed(approach(1.17), 20, held=np.full(20, 1.3))) == "converged"


def test_a_gap_that_noise_which_is_described_does_not_explain_is_a_doubt():
    # fitted numbers lower the loss learned by their share of the data and raise the one held out by as much
    said = judge_fit(annealed(approach(0.949), 40, held=np.full(40, 1.158)))
    assert said.startswith("doubtful: what is left is 0.9")
    assert "1.16 in patterns held out" in said
    assert "1.05 from noise alone" in said
    assert kind(annealed(approach(0.9), 40, held=np.full(40, 1.11))) == "converged"
    assert kind(annealed(approach(0.95), 40, held=np.full(40, 1.08))) == "converged"


def test_a_wide_gap_far_above_the_noise_is_a_wrong_start():
    assert kind(annealed(approach(11.0, start=300.0), 20, held=np.full(20, 18.0))) == "wrong start"


def test_a_wide_gap_near_the_noise_or_on_the_way_down_is_but_a_doubt():
    assert kind(annealed(approach(1.66, start=60.0), 20, held=np.full(20, 2.4))) == "doubtful"
    falling = [7.0 * 1.35 ** (14 - n) for n in range(15)]
    paces = annealed(lambda time: 1.0, 15, held=1.5 * np.array(falling), shape=constant)
    events = [e | {"loss": loss, "terms": {"noise": loss}} for e, loss in zip(paces, falling, strict=True)]
    assert kind(events) == "doubtful"


def test_counts_that_are_no_quanta_are_named():
    assert "single quanta" in judge_fit(annealed(approach(0.02), 20, held=np.full(20, 0.02)))
    many = annealed(approach(1e4, start=1e6), 20)
    assert kind(many) == "wrong start"
    assert "single quanta" in judge_fit(many)


def test_a_doubt_is_about_the_epoch_whose_the_result_is():
    events = annealed(approach(1.0), 20, held=np.linspace(1.3, 1.6, 20))
    said = judge_fit(events, stopped="all 20 epochs done; the result is that of epoch 10, ...")
    number = events[9]["loss"]
    assert not said.startswith("doubtful") or f"{number:.3g}" in said
    fine = annealed(approach(1.0), 20, held=[1.1] * 12 + [1.7] * 8)
    assert "doubtful" not in judge_fit(
        fine, stopped="all 20 epochs done; the result is that of epoch 12, ..."
    )


def test_one_epoch_is_told_as_one():
    assert "one epoch tells too little" in judge_fit(history([3.0]))


def test_patterns_that_their_mean_explains_as_well_are_doubtful():
    events = annealed(approach(0.93), 20, held=np.full(20, 1.06))
    assert judge_fit(events, mean_pattern_loss=1.0).startswith(
        "doubtful: patterns held out are explained no better than by"
    )
    assert "(1.06 against 1 times" in judge_fit(events, mean_pattern_loss=1.0)
    assert judge_fit(events, mean_pattern_loss=1.2).startswith("converged")
    assert judge_fit(events).startswith("converged")


def test_few_steps_tell_too_little():
    events = [{**event, "updates": 1} for event in annealed(approach(1.0), 20)]
    assert judge_fit(events).startswith(
        "still falling: 20 steps tell too little, at 1.04 times shot noise: more"
    )
    assert kind([{**event, "updates": 3} for event in events]) == "converged"


def test_a_loss_far_below_the_noise_is_not_judged():
    assert kind(annealed(approach(0.02), 20)) == "not judged"
