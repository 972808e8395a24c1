"""Every optimiser moves a small ptychography model, complex or in two real parts, and only what may move."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.fitting import checkpoint, optimizers
from phaseloom.fitting.loop import Progress, fit
from phaseloom.fitting.optimizers import Rate, groups
from phaseloom.fitting.schedule import cyclic, plateau, step
from phaseloom.ptycho.batches import compact, random, sparse
from phaseloom.spec import call, knobs, names, old_knobs

ROOM = "phaseloom.fitting.optimizers"
NAMES = names(ROOM)
RATES = {"adadelta": 1.0, "asgd": 0.02, "sgd": 0.01, "radam": 0.1}
DECAYING = ["adam", "adamw", "nadam", "radam", "adamax", "adadelta", "adagrad", "rmsprop", "asgd", "sgd"]
CORNERS = torch.tensor([(y, x) for y in range(0, 5, 2) for x in range(0, 7, 2)])


class Tiny(nn.Module):
    """Two slices, two probe modes, an oblong window, a background: the sentence in a few lines."""

    def __init__(self, real=False):
        super().__init__()
        draw = torch.Generator().manual_seed(3)

        def noise(*shape):
            return torch.randn(shape, generator=draw, dtype=torch.complex128)

        self.real = real
        probe = noise(2, 5, 4)
        with torch.no_grad():
            self.object, self.probe = torch.exp(0.4j * noise(2, 9, 10).real), probe
            self.root = torch.full((1,), 0.3, dtype=torch.float64)
            self.counts = self(torch.arange(len(CORNERS)))
        self.object = self.part(torch.ones(2, 9, 10, dtype=torch.complex128))
        self.probe = self.part(probe + 0.2 * noise(2, 5, 4))
        self.root = nn.Parameter(torch.full((1,), 0.1, dtype=torch.float64))

    def part(self, value):
        return nn.Parameter(torch.view_as_real(value).movedim(-1, 0).clone() if self.real else value)

    def whole(self, value):
        return torch.complex(*value) if isinstance(value, nn.Parameter) and self.real else value

    def forward(self, index):
        thing, probe = self.whole(self.object), self.whole(self.probe)
        windows = torch.stack([thing[:, y : y + 5, x : x + 4] for y, x in CORNERS[index].tolist()])
        wave = torch.fft.ifft2(torch.fft.fft2(probe * windows[:, None, 0]) * 1j) * windows[:, None, 1]
        return torch.fft.fft2(wave, norm="ortho").abs().square().sum(1) + self.root.square()

    def loss(self, index):
        return {"noise": (self(index).sqrt() - self.counts[index].sqrt()).square().sum() / len(index)}

    def parts(self):
        return {"object": [self.object], "probe": [self.probe], "root": [self.root]}


def started(name, rates=None, real=False, **knobs):
    model, rate = Tiny(real), RATES.get(name, 0.02)
    given = {part: rate for part in ("object", "probe", "root")} | (rates or {})
    return Progress(model, call(ROOM, {name: knobs}, "optimizer")(groups(model.parts(), given)))


def run(progress, epochs, size=3, batches=None, **more):
    batches = batches or random(np.arange(len(CORNERS)), size=size)
    return list(fit(progress.model.loss, batches, progress, epochs=epochs, **more))


def values(progress):
    return {name: value.detach().clone() for name, value in progress.model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
class TestAll:
    def test_lowers_the_loss(self, name):
        epochs = run(started(name), 25, size=12 if name == "rprop" else 3)
        assert epochs[-1].loss < 0.5 * epochs[0].loss

    def test_moves_complex_numbers_as_two_real_ones(self, name):
        complex_, real = started(name), started(name, real=True)
        for progress in (complex_, real):
            run(progress, 3)
        for part in ("object", "probe"):
            ours, theirs = getattr(complex_.model, part), getattr(real.model, part)
            torch.testing.assert_close(torch.view_as_real(ours).movedim(-1, 0), theirs, rtol=1e-7, atol=1e-9)
            assert ours.imag.abs().max() > 0

    def test_a_run_that_stopped_and_resumed_is_the_straight_one(self, name, tmp_path):
        straight, first, second = (started(name) for _ in range(3))
        run(straight, 6)
        run(first, 3)
        checkpoint.save(first, tmp_path / "snapshot.h5")
        checkpoint.load(second, tmp_path / "snapshot.h5")
        run(second, 6)
        for part, value in values(straight).items():
            assert torch.equal(value, values(second)[part])

    def test_pieces_add_up_to_the_large_batch(self, name):
        index = np.arange(len(CORNERS))
        large, pieces = started(name), started(name)
        run(large, 3, batches=random(index, size=6))
        run(pieces, 3, batches=random(index, size=2, accumulate=3))
        for one, other in zip(_numbers(large), _numbers(pieces), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        losses = [[event["loss"] for event in progress.history] for progress in (large, pieces)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def _numbers(progress):
    """Parameters and all that the optimiser remembers."""
    found = list(values(progress).values())
    for state in progress.optimizer.state_dict()["state"].values():
        found += [torch.as_tensor(v) for v in state.values() if isinstance(v, torch.Tensor | float | int)]
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lbfgs"])
def test_a_part_rests_outside_its_epochs(name):
    decay = {"weight_decay": 0.1} if name in DECAYING else {}
    progress = started(name, {"probe": Rate(RATES.get(name, 0.02), start=2, stop=3)}, **decay)
    seen, moved = values(progress)["probe"], []
    for epoch in fit(
        progress.model.loss, random(np.arange(len(CORNERS)), size=5), progress, epochs=5, holdout=[], own=()
    ):
        now = values(progress)["probe"]
        if not torch.equal(now, seen):
            moved.append(epoch.number)
        seen = now
    assert moved == [2, 3]


@pytest.mark.parametrize("name", DECAYING)
def test_decay_pulls_to_zero(name):
    free, pulled = started(name, weight_decay=0.0), started(name, weight_decay=0.5)
    for progress in (free, pulled):
        run(progress, 4)
    assert pulled.model.object.abs().mean() < free.model.object.abs().mean()


@pytest.mark.parametrize("batch", [random, sparse, compact])
@pytest.mark.parametrize("shape", [step, cyclic, plateau])
def test_batches_and_shapes_resume_too(batch, shape, tmp_path):
    knobs = {
        "step": {"step_size": 2, "gamma": 0.5},
        "cyclic": {"step_size_up": 2},
        "plateau": {"patience": 0},
    }
    own = Rate(0.05, start=2, shape=lambda share, epoch: 1 / epoch)

    def on(progress, epochs):
        batches = batch(np.arange(len(CORNERS)), 4, CORNERS.numpy(), size=3, accumulate=2)
        follow = call("phaseloom.fitting.schedule", {shape.__name__: knobs[shape.__name__]}, "shape")
        run(progress, epochs, batches=batches, shape=follow.partial())

    straight, first, second = (started("nadam", {"probe": own}) for _ in range(3))
    for progress, epochs in ((straight, 3), (first, 3)):
        on(progress, epochs)
    checkpoint.save(first, tmp_path / "snapshot.h5")
    checkpoint.load(second, tmp_path / "snapshot.h5")
    for progress in (straight, second):
        on(progress, 6)
    assert all(torch.equal(v, values(second)[k]) for k, v in values(straight).items())
    assert [e["rates"] for e in straight.history] == [e["rates"] for e in second.history]


class TestOwnShape:
    def test_runs_from_start_to_stop(self):
        rates = {"probe": Rate(0.1, start=2, stop=4, shape=lambda share: 1 - share / 2)}
        epochs = run(started("adam", rates), 6, shape=lambda share, epoch: 1 / epoch)
        assert [epoch.rates.get("probe") for epoch in epochs] == [
            None,
            0.1,
            pytest.approx(0.075),
            0.05,
            None,
            None,
        ]
        assert [epoch.rates["object"] for epoch in epochs] == pytest.approx([0.02 / n for n in range(1, 7)])

    def test_a_plateau_looks_at_the_losses_since_the_start(self):
        rates = {"root": Rate(0.1, start=3, shape=lambda share, epoch, past: 1 / (1 + len(past)))}
        epochs = run(started("adam", rates), 5)
        assert [epoch.rates.get("root") for epoch in epochs] == [
            None,
            None,
            0.1,
            0.05,
            pytest.approx(0.1 / 3),
        ]


class TestLbfgs:
    def test_sees_the_loss_of_the_whole_data(self):
        progress = started("lbfgs")
        whole = progress.model.loss(torch.arange(len(CORNERS)))["noise"].item()
        epochs = run(progress, 4, size=5)
        assert max(epoch.loss for epoch in epochs) <= whole
        now = progress.model.loss(torch.arange(len(CORNERS)))["noise"].item()
        assert now == pytest.approx(epochs[-1].loss, rel=1e-9)

    def test_leaves_alone_what_the_loss_does_not_touch(self):
        progress = started("lbfgs")
        before = values(progress)
        model = progress.model
        model.forward = lambda index: Tiny.forward(model, index) - model.root.detach().square() * 0
        model.root.requires_grad_(False)
        epochs = run(progress, 4)
        assert epochs[-1].loss < epochs[0].loss
        assert torch.equal(values(progress)["root"], before["root"])

    @pytest.mark.parametrize("rate", [Rate(1.0, start=2), Rate(1.0, stop=5), Rate(1.0, shape=math.sqrt)])
    def test_refuses_parts_with_times_of_their_own(self, rate):
        with pytest.raises(BadInput, match="by itself"):
            started("lbfgs", {"probe": rate})


def test_adafactor_keeps_rows_and_columns_only():
    progress = started("adafactor")
    run(progress, 1)
    state = progress.optimizer.state[progress.model.object]
    assert state["row_var"].shape == (2, 2, 9, 1)
    assert state["col_var"].shape == (2, 2, 1, 10)
    assert set(progress.optimizer.state) == set(progress.model.parameters())


def test_every_optimiser_of_pytorch_is_here_or_named():
    left = {
        name
        for name in dir(torch.optim)
        if isinstance(getattr(torch.optim, name), type) and name.lower() not in NAMES and name != "Optimizer"
    }
    assert all(name in (optimizers.__doc__ or "") for name in left)


@pytest.mark.parametrize("rates", [{}, {"object": 0.0}, {"probe": Rate(0.0)}])
def test_rates_that_freeze_every_part_freeze_none(rates):
    model = Tiny()
    with pytest.raises(BadInput, match="rates: freeze every part"):
        groups(model.parts(), rates)
    assert all(one.requires_grad for part in model.parts().values() for one in part)


ADAM = {"momentum": 0.8, "memory": 0.95, "floor": 1e-7, "decay": 0.1}
TORCH_ADAM = {"betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.1}
OLD = {
    "adam": (ADAM, TORCH_ADAM),
    "adamw": (ADAM, TORCH_ADAM),
    "adamax": (ADAM, TORCH_ADAM),
    "nadam": (
        ADAM | {"fading": 0.01, "decoupled": True},
        TORCH_ADAM | {"momentum_decay": 0.01, "decoupled_weight_decay": True},
    ),
    "radam": (ADAM | {"decoupled": True}, TORCH_ADAM | {"decoupled_weight_decay": True}),
    "adadelta": (
        {"memory": 0.8, "floor": 1e-5, "decay": 0.1},
        {"rho": 0.8, "eps": 1e-5, "weight_decay": 0.1},
    ),
    "adagrad": (
        {"fading": 0.1, "initial": 0.2, "floor": 1e-8, "decay": 0.1},
        {"lr_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-8, "weight_decay": 0.1},
    ),
    "rmsprop": ({"memory": 0.9, "momentum": 0.5}, {"alpha": 0.9, "momentum": 0.5}),
    "rprop": (
        {"factors": (0.4, 1.1), "steps": (1e-5, 1.0)},
        {"etas": (0.4, 1.1), "step_sizes": (1e-5, 1.0)},
    ),
    "asgd": ({"fading": 1e-3, "power": 0.5, "averaged": 3.0}, {"lambd": 1e-3, "alpha": 0.5, "t0": 3.0}),
    "adafactor": (
        {"memory": 0.7, "floor": 1e-2, "longest": 1.5},
        {"beta2_decay": -0.7, "eps": (None, 1e-2), "d": 1.5},
    ),
    "sgd": (
        {"momentum": 0.5, "damping": 0.1, "decay": 0.1},
        {"momentum": 0.5, "dampening": 0.1, "weight_decay": 0.1},
    ),
    "lbfgs": (
        {"history": 5, "inner": 2, "search": False},
        {"history_size": 5, "max_iter": 2, "line_search_fn": None},
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_knobs_of_an_earlier_version_give_the_same_bits(name):
    old, new = OLD[name]
    assert call(ROOM, {name: old}, "optimizer") == call(ROOM, {name: new}, "optimizer")
    one, other = started(name, **old), started(name, **new)
    run(one, 2)
    run(other, 2)
    assert all(torch.equal(value, values(other)[part]) for part, value in values(one).items())
    model = Tiny()
    with pytest.warns(DeprecationWarning, match=f"{name}: "):
        made = getattr(optimizers, name)(groups(model.parts(), dict.fromkeys(model.parts(), 0.1)), **old)
    assert made.defaults == one.optimizer.defaults


def test_every_optimiser_with_old_knobs_is_compared():
    room = {name: old_knobs(ROOM, name) for name in NAMES}
    assert {name for name, old in room.items() if old} == set(OLD)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gauss_newton"])
def test_knobs_are_those_of_pytorch(name):
    (kind,) = (getattr(torch.optim, one) for one in dir(torch.optim) if one.lower() == name and one != name)
    assert set(knobs(ROOM, name)) <= set(inspect.signature(kind).parameters)
