"""Shapes of rates follow PyTorch's schedulers, epoch by epoch."""

import functools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from phaseloom.errors import BadInput
from phaseloom.fitting import schedule
from phaseloom.fitting.schedule import evaluate_shape
from phaseloom.spec import call, names

ROOM = "phaseloom.fitting.schedule"
RATE, EPOCHS = 0.3, 31


def of_torch(kind, **knobs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = kind(optimizer, **knobs)
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"] / RATE)
        optimizer.step()
        scheduler.step()
    return rates


PAIRS = [
    ("step", {"step_size": 7, "gamma": 0.3}, lr_scheduler.StepLR, {"step_size": 7, "gamma": 0.3}),
    (
        "multi_step",
        {"milestones": (3, 10, 11), "gamma": 0.5},
        lr_scheduler.MultiStepLR,
        {"milestones": [3, 10, 11], "gamma": 0.5},
    ),
    (
        "constant",
        {"factor": 0.25, "total_iters": 6},
        lr_scheduler.ConstantLR,
        {"factor": 0.25, "total_iters": 6},
    ),
    ("exponential", {"gamma": 0.9}, lr_scheduler.ExponentialLR, {"gamma": 0.9}),
    (
        "linear",
        {"start_factor": 0.2, "end_factor": 0.7, "total_iters": 9},
        lr_scheduler.LinearLR,
        {"start_factor": 0.2, "end_factor": 0.7, "total_iters": 9},
    ),
    (
        "polynomial",
        {"power": 1.7, "total_iters": 12},
        lr_scheduler.PolynomialLR,
        {"power": 1.7, "total_iters": 12},
    ),
    (
        "cosine_annealing",
        {"T_max": 8, "floor": 0.1},
        lr_scheduler.CosineAnnealingLR,
        {"T_max": 8, "eta_min": 0.1 * RATE},
    ),
    (
        "cosine",
        {"floor": 0.1, "hold": 0.0},
        lr_scheduler.CosineAnnealingLR,
        {"T_max": EPOCHS - 1, "eta_min": 0.1 * RATE},
    ),
    (
        "warm_restarts",
        {"T_0": 4, "T_mult": 2, "floor": 0.1},
        lr_scheduler.CosineAnnealingWarmRestarts,
        {"T_0": 4, "T_mult": 2, "eta_min": 0.1 * RATE},
    ),
    (
        "warm_restarts",
        {"T_0": 6},
        lr_scheduler.CosineAnnealingWarmRestarts,
        {"T_0": 6},
    ),
]
PAIRS += [
    (
        "cyclic",
        {"step_size_up": 4, "step_size_down": 3, "low": 0.2, "mode": mode, "gamma": 0.95},
        lr_scheduler.CyclicLR,
        {
            "base_lr": 0.2 * RATE,
            "max_lr": RATE,
            "step_size_up": 4,
            "step_size_down": 3,
            "mode": mode,
            "gamma": 0.95,
            "cycle_momentum": False,
        },
    )
    for mode in ("triangular", "triangular2", "exp_range")
]


@pytest.mark.parametrize(("name", "knobs", "kind", "theirs"), PAIRS)
def test_falls_as_the_scheduler_of_pytorch(name, knobs, kind, theirs):
    shape = call(ROOM, {name: knobs}, "shape").partial()
    ours = [evaluate_shape(shape, number, EPOCHS) for number in range(1, EPOCHS + 1)]
    assert ours == pytest.approx(of_torch(kind, **theirs), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_is_that_of_pytorch_where_its_turns_fall_on_epochs(anneal, three_phase):
    """PyTorch counts a phase of ``pct_start * steps - 1``; ours are shares of the run."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=RATE,
        total_steps=EPOCHS,
        pct_start=10 / EPOCHS,
        anneal_strategy=anneal,
        cycle_momentum=False,
        three_phase=three_phase,
    )
    theirs = []
    for number in range(EPOCHS):
        theirs.append(optimizer.param_groups[0]["lr"] / RATE)
        optimizer.step()
        if number < EPOCHS - 1:
            scheduler.step()
    shape = call(
        ROOM,
        {"one_cycle": {"pct_start": 9 / 30, "anneal_strategy": anneal, "three_phase": three_phase}},
        "shape",
    )
    ours = [evaluate_shape(shape.partial(), number, EPOCHS) for number in range(1, EPOCHS + 1)]
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 2])
def test_a_plateau_is_that_of_pytorch(mode, cooldown):
    losses = [3, 2, 1.9, 1.9, 1.89, 1.95, 1.9, 1.2, 1.2, 1.21, 1.2, 1.2, 1.2, 1.2, 1.2, 1.0, *[1.0] * 15]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=0.3,
        patience=2,
        threshold=0.02,
        threshold_mode=mode,
        cooldown=cooldown,
        min_lr=0.02 * RATE,
        eps=0.0,
    )
    shape = call(
        ROOM,
        {
            "plateau": {
                "factor": 0.3,
                "patience": 2,
                "threshold": 0.02,
                "threshold_mode": mode,
                "cooldown": cooldown,
                "floor": 0.02,
            }
        },
        "shape",
    ).partial()
    history = []
    for number, loss in enumerate(losses, 1):
        assert evaluate_shape(shape, number, len(losses), history) == pytest.approx(
            optimizer.param_groups[0]["lr"] / RATE
        )
        history.append({"loss": loss, "holdout": None})
        optimizer.step()
        scheduler.step(loss)
    assert evaluate_shape(shape, 1, 1, history) == pytest.approx(0.02)


def test_a_plateau_of_the_hold_out_needs_one():
    with pytest.raises(BadInput, match="held out"):
        schedule.plateau(0.0, 2, [{"loss": 1.0, "holdout": None}], of="holdout")


def test_warm_up_rises_in_a_line_and_then_falls():
    values = [schedule.warm_up(share / 20, start=0.1, rise=0.2, hold=0.0) for share in range(21)]
    assert values[:5] == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0])
    assert values[4:] == sorted(values[4:], reverse=True)
    assert values[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("name", [n for n in names(ROOM) if n not in ("step", "multi_step")])
def test_every_shape_is_a_share_of_the_rate(name):
    needed = {"cosine_annealing": {"T_max": 4}, "warm_restarts": {"T_0": 4}}
    knobs = (needed | {"linear_decay": {"hold": 2, "decay": 5}}).get(name, {})
    shape = call(ROOM, {name: knobs}, "shape").partial()
    history = [{"loss": 1.0, "holdout": 1.0}] * 3
    for epochs in (1, 2, 9):
        values = [evaluate_shape(shape, number, epochs, history) for number in range(1, epochs + 1)]
        assert all(0 <= value <= 1 and math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("node", "word"),
    [
        ({"step": {"step_size": 0}}, "step_size"),
        ({"exponential": {"gamma": 0}}, "gamma"),
        ({"cyclic": {"low": 2}}, "low"),
        ({"one_cycle": {"pct_start": 0.7, "three_phase": True}}, "three_phase"),
        ({"linear": {"total_iters": 0}}, "total_iters"),
        ({"cosine_annealing": {"T_max": -1}}, "T_max"),
    ],
)
def test_impossible_knobs_are_told(node, word):
    with pytest.raises(BadInput, match=word):
        evaluate_shape(call(ROOM, node, "shape").partial(), 1, 5)


OLD = {
    "constant": ({"factor": 0.3, "epochs": 4}, {"factor": 0.3, "total_iters": 4}),
    "step": ({"every": 2, "factor": 0.7}, {"step_size": 2, "gamma": 0.7}),
    "multi_step": ({"after": [1, 3], "factor": 0.7}, {"milestones": [1, 3], "gamma": 0.7}),
    "exponential": ({"factor": 0.9}, {"gamma": 0.9}),
    "linear": (
        {"start": 0.3, "end": 0.9, "epochs": 5},
        {"start_factor": 0.3, "end_factor": 0.9, "total_iters": 5},
    ),
    "polynomial": ({"power": 1.3, "epochs": 7}, {"power": 1.3, "total_iters": 7}),
    "cosine_annealing": ({"epochs": 4}, {"T_max": 4}),
    "warm_restarts": ({"epochs": 2, "longer": 2}, {"T_0": 2, "T_mult": 2}),
    "cyclic": (
        {"up": 3, "down": 2, "shrink": "halve", "factor": 0.9},
        {"step_size_up": 3, "step_size_down": 2, "mode": "triangular2", "gamma": 0.9},
    ),
    "one_cycle": (
        {"rise": 0.2, "anneal": "cosine", "symmetric": True},
        {"pct_start": 0.2, "anneal_strategy": "cos", "three_phase": True},
    ),
    "plateau": (
        {"factor": 0.5, "relative": False, "rest": 1},
        {"factor": 0.5, "threshold_mode": "abs", "cooldown": 1},
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_knobs_of_an_earlier_version_mean_the_same(name):
    old, new = (call(ROOM, {name: knobs}, "shape") for knobs in OLD[name])
    assert old == new
    history = [{"loss": 1.0, "holdout": 1.0}] * 20
    with pytest.warns(DeprecationWarning, match=name):
        first = evaluate_shape(functools.partial(getattr(schedule, name), **OLD[name][0]), 6, 10, history)
    assert first == evaluate_shape(new.partial(), 6, 10, history)


class TestPaced:
    def test_gives_a_function_what_it_takes(self):
        assert evaluate_shape(lambda: 0.3, 2, 5) == 0.3
        assert evaluate_shape(lambda share: share, 2, 5) == 0.25
        assert evaluate_shape(lambda share, epoch: epoch, 2, 5) == 2
        assert evaluate_shape(lambda share, epoch, past: len(past), 2, 5, [{}]) == 1

    def test_a_default_is_a_knob_and_no_place_for_the_epoch(self):
        assert evaluate_shape(lambda share, power=2: (1 - share) ** power, 3, 5) == 0.25
