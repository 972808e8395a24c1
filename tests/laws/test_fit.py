"""Laws of the loop, on problems small enough to be understood."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.fitting.loop import Progress, fit, load_optimizer_state
from phaseloom.fitting.optimizers import Rate, adam, groups, lbfgs, nadam, sgd
from phaseloom.fitting.schedule import Every, constant, cosine
from phaseloom.ptycho.batches import random

INDEX = np.arange(12)


class Lines(nn.Module):
    """Two parts that together predict a number for each of twelve samples."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.height = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        draw = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(12, 3, dtype=torch.float64, generator=draw)
        self.wanted = self.inputs @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3

    def parts(self):
        return {"slope": [self.slope], "height": [self.height]}

    def __call__(self, index):
        left = self.inputs[index] @ self.slope + self.height - self.wanted[index]
        return {"misfit": left.square().mean()}


class Curve(nn.Module):
    """As many parameters as samples, of which half are never learned from."""

    def __init__(self, noise, samples=40):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        inputs = torch.randn(samples, 20, dtype=torch.float64, generator=draw)
        signal = inputs[:, 0]
        self.inputs = inputs
        self.wanted = signal + noise * torch.randn(samples, dtype=torch.float64, generator=draw)
        self.weight = nn.Parameter(torch.zeros(20, dtype=torch.float64))

    def __call__(self, index):
        return {"misfit": (self.inputs[index] @ self.weight - self.wanted[index]).square().mean()}


def started(model, rates=None, how=sgd, **more):
    parts = model.parts() if isinstance(model, Lines) else {"weight": [model.weight]}
    return Progress(model, how(groups(parts, rates or dict.fromkeys(parts, 0.05)), **more))


def run(progress, epochs, objective=None, size=4, **more):
    return list(fit(objective or progress.model, random(INDEX, size=size), progress, epochs=epochs, **more))


def parameters(progress):
    return {name: value.detach().clone() for name, value in progress.model.named_parameters()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class TestLearning:
    @pytest.mark.parametrize("how", [adam, sgd, lbfgs])
    def test_lowers_the_loss(self, how):
        epochs = run(started(Lines(), how=how), 15)
        assert [epoch.number for epoch in epochs] == list(range(1, 16))
        assert epochs[-1].loss < 0.5 * epochs[0].loss

    def test_says_that_all_epochs_are_done(self):
        progress = started(Lines())
        run(progress, 3)
        assert "3 epochs done" in progress.stopped
        assert [entry["number"] for entry in progress.history] == [1, 2, 3]

    def test_says_that_the_one_epoch_is_done(self):
        progress = started(Lines())
        run(progress, 1)
        assert progress.stopped == "one epoch done"

    def test_says_how_many_of_a_longer_run_are_done(self):
        progress = started(Lines())
        run(progress, 3, horizon=5)
        assert progress.stopped == "3 of 5 epochs done"

    def test_has_nothing_to_do_when_all_epochs_are_past(self):
        progress = started(Lines())
        run(progress, 3)
        before = parameters(progress)
        assert run(progress, 3) == []
        assert equal(parameters(progress), before)

    def test_an_epoch_tells_updates_passes_and_terms(self):
        (epoch,) = run(started(Lines()), 1)
        assert epoch.updates == 3
        assert epoch.passes == 1
        assert epoch.terms == {"misfit": epoch.loss}
        assert epoch.holdout is None

    def test_the_loss_is_a_mean_over_samples_though_batches_differ(self):
        progress = started(Lines(), {"slope": 1e-12}, momentum=0.0)
        whole = progress.model(torch.arange(12))["misfit"].item()
        (epoch,) = run(progress, 1, size=5)
        assert epoch.loss == pytest.approx(whole)

    def test_lbfgs_beats_gradient_descent_on_a_quadratic(self):
        first, second = (run(started(Lines(), how=how), 6) for how in (sgd, lbfgs))
        assert second[-1].loss < 1e-3 * first[-1].loss
        assert all(epoch.passes > 1 for epoch in second[:2])

    def test_a_clipped_step_is_no_longer_than_asked(self):
        progress = started(Lines(), {"slope": 1.0, "height": 1.0}, momentum=0.0)
        run(progress, 1, size=12, clip=0.01)
        moved = torch.cat([p.detach() for p in progress.model.parameters()]).norm().item()
        assert moved == pytest.approx(0.01, rel=1e-3)


class TestParts:
    def test_a_part_without_a_rate_does_not_move(self):
        progress = started(Lines(), {"slope": 0.05})
        before = parameters(progress)
        run(progress, 3)
        assert torch.equal(progress.model.height, before["height"])
        assert not torch.equal(progress.model.slope, before["slope"])

    @pytest.mark.parametrize("how", [adam, sgd, lbfgs])
    def test_what_the_user_froze_stays_frozen(self, how):
        model = Lines()
        model.height.requires_grad_(False)
        progress = started(model, how=how)
        before = parameters(progress)
        run(progress, 3)
        assert not model.height.requires_grad
        assert torch.equal(model.height, before["height"])
        assert not torch.equal(model.slope, before["slope"])

    @pytest.mark.parametrize("how", [adam, sgd])
    def test_moves_between_its_first_and_last_epoch_only(self, how):
        progress = started(Lines(), {"slope": 0.05, "height": Rate(0.05, start=3, stop=5)}, how=how)
        seen, moved = parameters(progress)["height"], []
        for epoch in fit(progress.model, random(INDEX, size=4), progress, epochs=7):
            now = parameters(progress)["height"]
            if not torch.equal(now, seen):
                moved.append(epoch.number)
            assert ("height" in epoch.rates) == (3 <= epoch.number <= 5)
            seen = now
        assert moved == [3, 4, 5]

    def test_active_counts_both_ends(self):
        rate = Rate(1.0, start=2, stop=4)
        assert [epoch for epoch in range(1, 7) if rate.is_active(epoch)] == [2, 3, 4]

    @pytest.mark.parametrize(
        ("rates", "word"),
        [
            ({"slop": 1.0}, "slope"),
            ({"slope": -1.0}, "zero"),
            ({"slope": math.nan}, "zero"),
            ({"slope": 0.0}, "freeze"),
        ],
    )
    def test_impossible_rates_are_told(self, rates, word):
        with pytest.raises(BadInput, match=word):
            groups(Lines().parts(), rates)


class TestRepeatable:
    @pytest.mark.parametrize("how", [adam, sgd])
    def test_two_calls_are_one(self, how):
        straight, halves = started(Lines(), how=how), started(Lines(), how=how)
        run(straight, 10)
        run(halves, 5)
        run(halves, 10)
        assert equal(parameters(straight), parameters(halves))
        assert [e["loss"] for e in straight.history] == [e["loss"] for e in halves.history]

    def test_batches_depend_on_seed_and_epoch_alone(self):
        def order(seed, epoch):
            return torch.cat(random(INDEX, seed, size=5)(epoch)).tolist()

        assert order(0, 3) == order(0, 3)
        assert order(0, 3) != order(0, 4)
        assert order(0, 3) != order(1, 3)

    def test_every_sample_comes_once_in_batches_of_like_size(self):
        pieces = random(np.arange(3, 50), 2, size=10)(1)
        assert sorted(torch.cat(pieces).tolist()) == list(range(3, 50))
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1

    def test_drawing_elsewhere_changes_nothing(self):
        first = torch.cat(random(INDEX, size=5)(1))
        np.random.rand(3)
        torch.rand(3)
        assert torch.equal(first, torch.cat(random(INDEX, size=5)(1)))


class TestMishaps:
    """The third epoch goes wrong in its second batch."""

    def broken(self, model, mishap):
        calls = iter(range(1, 1000))

        def objective(index):
            return mishap(model(index)) if next(calls) == 8 else model(index)

        return objective

    def after_two_epochs(self):
        progress = started(Lines(), how=adam)
        run(progress, 2)
        return parameters(progress)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_what_is_not_finite_is_named_and_undone(self, bad):
        progress = started(Lines(), how=adam)
        epochs = run(
            progress, 9, self.broken(progress.model, lambda terms: terms | {"tv": terms["misfit"] * bad})
        )
        assert len(epochs) == progress.epoch == 2
        assert "'tv'" in progress.stopped
        assert "epoch 3" in progress.stopped
        assert equal(parameters(progress), self.after_two_epochs())

    def test_what_is_wrong_before_any_step_is_not_blamed_on_rates(self):
        progress = started(Lines(), how=adam)
        before = parameters(progress)

        def bad(index):
            return progress.model(index) | {"tv": progress.model.height.sum() / 0}

        assert run(progress, 9, bad) == []
        assert "'tv' became" in progress.stopped
        assert "before the first step" in progress.stopped
        assert progress.stopped.endswith("nothing was learned")
        assert equal(parameters(progress), before)

    def test_a_state_put_back_keeps_its_dtypes(self):
        progress = started(Lines(), how=nadam)
        run(progress, 2)
        load_optimizer_state(progress.optimizer, copy.deepcopy(progress.optimizer.state_dict()))
        state = progress.optimizer.state[progress.model.slope]
        assert state["mu_product"].dtype == torch.float32
        assert state["exp_avg"].dtype == torch.float64

    def test_an_interruption_keeps_the_last_epoch(self):
        def interrupt(terms):
            raise KeyboardInterrupt

        progress = started(Lines(), how=adam)
        epochs = run(progress, 9, self.broken(progress.model, interrupt))
        assert len(epochs) == progress.epoch == 2
        assert "interrupted" in progress.stopped
        assert "of epoch 2" in progress.stopped
        assert equal(parameters(progress), self.after_two_epochs())

    @pytest.mark.parametrize(
        ("held", "result", "other_noise", "wanted"),
        [
            ([5.0, 4.0, 3.0], None, 0, 3.0),
            ([5.0, 4.0, None], None, 0, 4.0),  # the last epochs learn from all
            ([5.0, 2.0, 3.0], 2, 0, 2.0),  # the result is that of the best epoch
            ([9.0, None], None, 1, None),  # the losses of another noise model do not compare
            ([9.0, 8.0], None, 2, 8.0),  # but a fit that ends with it has nothing else
            ([5.0, 4.0], 0, 0, None),
            ([], None, 0, None),
        ],
    )
    def test_the_hold_out_loss_is_that_of_the_result(self, held, result, other_noise, wanted):
        progress = started(Lines())
        progress.history = [{"number": n, "holdout": loss} for n, loss in enumerate(held, 1)]
        progress.result_epoch, progress.other_noise_epochs = result, other_noise
        assert progress.holdout_loss == wanted

    def test_a_programming_mistake_is_not_hidden(self):
        def slip(terms):
            raise ZeroDivisionError

        progress = started(Lines())
        with pytest.raises(ZeroDivisionError):
            run(progress, 9, self.broken(progress.model, slip))

    @pytest.mark.parametrize("size", [4, 12])
    def test_gradients_that_are_not_finite_do_not_spoil_the_result(self, size):
        """A loss of exactly zero under a root: the value is fine, the slope is not."""
        progress = started(Lines(), how=adam)

        def objective(index):
            zero = (progress.model.slope - progress.model.slope.detach()).square().sum()
            return progress.model(index) | {"root": zero.sqrt()}

        run(progress, 3, objective, size=size)
        assert all(p.isfinite().all() for p in progress.model.parameters())


class TestHoldout:
    learned, held = random(np.arange(20), size=20), [torch.arange(20, 40)]

    def run(self, noise, epochs, **more):
        progress = started(Curve(noise), {"weight": 0.02})
        kept = {}
        for epoch in fit(progress.model, self.learned, progress, epochs=epochs, holdout=self.held, **more):
            kept[epoch.number] = parameters(progress)
        return progress, kept

    def test_rising_means_overfitting_and_the_best_epoch_is_given_back(self):
        progress, kept = self.run(2.0, 400, patience=20)
        assert progress.epoch < 400
        assert "overfitting" in progress.stopped
        best = progress.best[0]
        assert f"epoch {best}" in progress.stopped
        assert progress.best[1] == min(entry["holdout"] for entry in progress.history)
        assert equal(parameters(progress), kept[best])

    def test_without_patience_the_last_word_is_the_same(self):
        progress, kept = self.run(2.0, 150)
        assert progress.stopped.startswith("all 150 epochs done; the result is that of epoch")
        assert equal(parameters(progress), kept[progress.best[0]])

    def test_standing_still_means_converged(self):
        progress = started(Lines(), {"height": 0.1})
        held = [torch.arange(6, 12)]
        list(
            fit(progress.model, random(np.arange(6), size=6), progress, epochs=500, holdout=held, patience=10)
        )
        assert progress.epoch < 500
        assert "converged" in progress.stopped or "overfitting" in progress.stopped

    def test_a_solved_problem_converges(self):
        """Both halves share one minimum that is not zero."""
        point = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        model = nn.Module()
        model.point = point
        progress = Progress(model, sgd(groups({"point": [point]}, {"point": 0.1}), momentum=0.0))

        def objective(index):
            return {"misfit": (point - 1).square().sum() + 0.3}

        list(fit(objective, self.learned, progress, epochs=500, holdout=self.held, patience=10))
        assert progress.epoch < 100
        assert progress.stopped.startswith("converged")
        assert point.item() == pytest.approx(1, abs=0.05)

    def test_patterns_given_back_cannot_stop_it(self):
        progress, _ = self.run(0.0, 10)
        for event in progress.history:
            event["holdout"] = 1.0
        list(fit(progress.model, self.learned, progress, epochs=15, patience=3))
        assert progress.epoch == 15

    def test_one_rise_is_no_overfitting(self):
        progress, _ = self.run(2.0, 5)
        assert "overfitting" not in progress.stopped

    def test_falling_goes_on_to_the_end(self):
        progress, _ = self.run(0.0, 30, patience=5)
        assert progress.epoch == 30
        assert "30 epochs done" in progress.stopped

    def test_held_out_samples_are_not_learned_from(self):
        one, other = Curve(2.0), Curve(2.0)
        other.wanted[20:] += 100
        results = []
        for model in (one, other):
            progress = started(model, {"weight": 0.02})
            next(fit(model, self.learned, progress, epochs=5, holdout=self.held))
            results.append(parameters(progress))
        assert equal(*results)

    def test_only_the_terms_that_judge_make_its_loss(self):
        model = Curve(2.0)
        progress = started(model, {"weight": 0.02})

        def objective(index):
            return model(index) | {"penalty": 100 + model.weight.square().sum()}

        for epoch in fit(objective, self.learned, progress, epochs=2, holdout=self.held, judged=["misfit"]):
            assert epoch.holdout == pytest.approx(model(self.held[0])["misfit"].item())
            assert epoch.loss > 100

    def test_a_judge_that_is_no_term_is_told(self):
        progress = started(Curve(2.0), {"weight": 0.02})
        with pytest.raises(BadInput, match="misfit"):
            next(fit(progress.model, self.learned, progress, epochs=1, holdout=self.held, judged=["noise"]))


class TestPieces:
    """Twelve samples in one batch of three pieces; a term is a mean over the samples of its piece."""

    def pieces(self, epoch):
        return [torch.arange(12).split([5, 6, 1])]

    @pytest.mark.parametrize("how", [adam, sgd, lbfgs])
    def test_unequal_pieces_make_the_step_of_the_whole(self, how):
        whole, parts = started(Lines(), how=how), started(Lines(), how=how)
        for progress, batches in ((whole, lambda epoch: [torch.arange(12)]), (parts, self.pieces)):
            list(fit(progress.model, batches, progress, epochs=4))
        for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert [e["loss"] for e in whole.history] == pytest.approx([e["loss"] for e in parts.history])
        assert [e["updates"] for e in whole.history] == [e["updates"] for e in parts.history]

    def test_clipping_looks_at_the_sum(self):
        progress = started(Lines(), {"slope": 1.0, "height": 1.0}, momentum=0.0)
        list(fit(progress.model, self.pieces, progress, epochs=1, clip=0.01))
        moved = torch.cat([p.detach() for p in progress.model.parameters()]).norm().item()
        assert moved == pytest.approx(0.01, rel=1e-3)

    def test_held_out_batches_may_be_in_pieces(self):
        one, other = started(Lines()), started(Lines())
        for progress, held in ((one, [torch.arange(12)]), (other, self.pieces(1))):
            list(fit(progress.model, random(INDEX, size=4), progress, epochs=2, holdout=held))
        assert one.history[1]["holdout"] == pytest.approx(other.history[1]["holdout"])


class TestSchedule:
    def test_events_come_from_start_to_stop_each_so_often(self):
        event = Every(lambda: None, start=3, stop=9, every=2)
        assert [epoch for epoch in range(1, 13) if event.is_due(epoch)] == [3, 5, 7, 9]

    def test_the_loop_lets_them_happen_after_the_epoch(self):
        progress = started(Lines())
        seen = []
        events = [Every(lambda: seen.append(progress.epoch + 1), start=2, every=3)]
        run(progress, 9, after=events)
        assert seen == [2, 5, 8]

    def test_a_projection_holds_at_the_end_of_every_epoch(self):
        progress = started(Lines())
        project = Every(lambda: progress.model.height.data.clamp_(max=0.5))
        for _ in fit(progress.model, random(INDEX, size=4), progress, epochs=8, after=[project]):
            assert progress.model.height.item() <= 0.5

    def test_rates_follow_the_shape(self):
        epochs = run(started(Lines(), {"slope": 0.2}), 5, shape=lambda share: 1 - share)
        assert [epoch.rates["slope"] for epoch in epochs] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0])

    def test_cosine_falls_from_one_to_its_floor(self):
        values = [cosine(share, floor=0.1, hold=0.25) for share in np.linspace(0, 1, 21)]
        assert values[:6] == [1] * 6
        assert values[-1] == pytest.approx(0.1)
        assert (np.diff(values) <= 0).all()
        assert constant(0.7) == 1


class Spoiled(Lines):
    """Some samples have no finite loss, others no finite gradient."""

    def __init__(self, loss=(), slope=()):
        super().__init__()
        self.loss, self.steep = set(loss), set(slope)

    def __call__(self, index):
        misfit = super().__call__(index)["misfit"]
        if self.loss & set(index.tolist()):
            misfit = misfit * math.nan
        if self.steep & set(index.tolist()):
            misfit = misfit + (self.slope.sum() * 0).sqrt()  # zero, with an infinite gradient
        return {"misfit": misfit}


def in_order(number):
    return [INDEX[start : start + 3] for start in range(0, 12, 3)]


def test_batches_without_finite_numbers_are_skipped_and_named(caplog):
    model, twin = Spoiled(loss=[4], slope=[10]), Lines()
    progress, other = started(model), started(twin)
    list(fit(model, in_order, progress, epochs=3, spare=1))
    list(fit(twin, lambda number: in_order(number)[::2], other, epochs=3))
    torch.testing.assert_close(model.slope, twin.slope)
    losses = [[event["loss"] for event in one.history] for one in (progress, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    named = [record.getMessage() for record in caplog.records]
    assert "epoch 1, batch 2 ([3 4 5]): the term 'misfit' became nan: skipped" in named
    assert sum("batch 4" in text and "gradient" in text for text in named) == 3


def test_too_many_of_them_in_a_row_end_the_fit():
    model = Spoiled(loss=[4, 7])
    progress = started(model)
    assert list(fit(model, in_order, progress, epochs=3, spare=1)) == []
    assert "in 2 batches one after the other" in progress.stopped


def test_groups_that_say_so_are_not_clipped():
    model = Lines()
    progress = started(model)
    progress.optimizer.param_groups[1]["clip"] = False
    list(fit(model, in_order, progress, epochs=1, clip=1e-9))
    assert float(model.slope.detach().abs().max()) < 1e-8
    assert float(model.height.detach().abs().max()) > 1e-3
