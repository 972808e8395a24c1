"""Every outcome is a code with a sentence; codes survive files, and sentences of old files are understood."""

import copy
import json
import pickle

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from phaseloom.cli.reconstruct import _print_new_advice
from phaseloom.fitting import checkpoint
from phaseloom.fitting.loop import Progress, fit
from phaseloom.fitting.optimizers import groups, sgd
from phaseloom.fitting.outcome import (
    Advice,
    Judgement,
    RateAdvice,
    Stop,
    StopReason,
    Verdict,
    stop_of_sentence,
)
from phaseloom.fitting.verdict import advise_rates, judge_fit

RATES = {"object": 0.02}
FALL = 1.0 + 9.0 * 0.5 ** np.arange(20)

SENTENCES = {
    "": StopReason.NOT_STOPPED,
    "all 20 epochs done": StopReason.ALL_EPOCHS,
    "one epoch done": StopReason.ALL_EPOCHS,
    "3 of 5 epochs done": StopReason.PART_OF_EPOCHS,
    "converged: the hold-out loss has not fallen for 5 epochs": StopReason.CONVERGED,
    "overfitting: the hold-out loss rises since epoch 7": StopReason.OVERFITTING,
    "interrupted in epoch 1; nothing was learned": StopReason.INTERRUPTED,
    "interrupted after epoch 0": StopReason.INTERRUPTED,
    "stopped after epoch 3 on request": StopReason.REQUESTED,
    "the term 'tv' became nan in epoch 3; the result is that of epoch 2": StopReason.NOT_FINITE,
    "the gradient of 'tv' in 'object' is no longer finite in epoch 3; the result is that of epoch 2": (
        StopReason.NOT_FINITE
    ),
    "the term 'tv' became nan before the first step (check the data) in epoch 1; nothing was learned": (
        StopReason.NOT_FINITE_AT_START
    ),
    "components are fitted, not trained": StopReason.NOT_TRAINED,
    "held-out loss rose": StopReason.OTHER,
}


def events(losses, holdout=None, rates=RATES, **more):
    held = [None] * len(losses) if holdout is None else [float(value) for value in holdout]
    return [
        {"number": n, "loss": float(loss), "holdout": value, "rates": rates, **more}
        for n, (loss, value) in enumerate(zip(losses, held, strict=True), 1)
    ]


JUDGED = {
    Verdict.CONVERGED: (events(FALL), ""),
    Verdict.LEVELLED: (events(FALL + 0.7), ""),
    Verdict.STILL_FALLING: (events([5.0, 4.0]), ""),
    Verdict.DOUBTFUL: (events(FALL, holdout=np.full(20, 1.5)), ""),
    Verdict.OVERFITTING: (
        events(FALL - 0.02 * np.arange(20), holdout=1.1 + np.abs(np.arange(20) - 10) / 20),
        "",
    ),
    Verdict.WRONG_START: (events(np.linspace(9.0, 8.9, 20)), ""),
    Verdict.STEPS_TOO_LONG: (events([5.0, 3.0, 6.0, 7.0, 8.0, 8.0]), ""),
    Verdict.NOT_JUDGED: (events(-FALL), ""),
    Verdict.INTERRUPTED: (events(FALL), "interrupted in epoch 21; the result is that of epoch 20"),
    Verdict.BROKE_DOWN: (events(FALL), "the term 'noise' became nan in epoch 21"),
    Verdict.NOTHING_LEARNED: ([], ""),
}


def progress():
    net = nn.Linear(1, 1, dtype=torch.float64)
    return Progress(net, sgd(groups({"net": [*net.parameters()]}, {"net": 0.01})))


@pytest.mark.parametrize("sentence", SENTENCES)
def test_an_old_sentence_has_its_reason_and_stays_as_it_was(sentence):
    stop = stop_of_sentence(sentence)
    assert stop.reason is SENTENCES[sentence]
    assert str(stop) == sentence


def test_every_reason_has_a_sentence():
    assert set(SENTENCES.values()) == set(StopReason)


@pytest.mark.parametrize("expected", Verdict)
def test_every_verdict_has_a_sentence(expected):
    history, stopped = JUDGED[expected]
    said = judge_fit(history, stopped=stopped)
    assert said.verdict is expected
    assert len(said) > 20
    assert copy.deepcopy(said).verdict is pickle.loads(pickle.dumps(said)).verdict is expected


def test_a_verdict_needs_no_sentence_of_the_fit():
    stop = Stop(StopReason.NOT_FINITE, "words that say nothing")
    assert judge_fit(events(FALL), stopped=stop).verdict is Verdict.BROKE_DOWN
    assert advise_rates(events(FALL), stopped=stop)[0].code is RateAdvice.BROKE_DOWN


def test_what_was_given_up_says_whose_the_result_is():
    stop = stop_of_sentence("interrupted in epoch 9; the result is that of epoch 8")
    assert (stop.result_epoch, stop.is_without_epochs) == (8, False)
    stop = stop_of_sentence("interrupted in epoch 1; nothing was learned")
    assert (stop.result_epoch, stop.is_without_epochs) == (0, True)
    assert not Stop.after_interruption(0).is_without_epochs


@pytest.mark.parametrize("reason", StopReason)
def test_a_snapshot_keeps_the_reason(reason, tmp_path):
    kept = progress()
    kept.stop = Stop(reason, "words that say nothing", "more of them", 4)
    checkpoint.save(kept, tmp_path / "a.h5")
    loaded = progress()
    checkpoint.load(loaded, tmp_path / "a.h5")
    assert loaded.stop == kept.stop


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_snapshot_without_a_reason_is_understood(sentence, tmp_path):
    kept = progress()
    kept.stopped = sentence
    checkpoint.save(kept, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        tree = json.loads(file["state"].asstr()[()])
        tree["pairs"] = [pair for pair in tree["pairs"] if pair[0] != "stop"]
        del file["state"]
        file["state"] = json.dumps(tree)
    loaded = progress()
    checkpoint.load(loaded, tmp_path / "a.h5")
    assert loaded.stop == kept.stop
    assert loaded.stopped == sentence


def test_the_loop_gives_a_reason():
    one = progress()
    data = [torch.ones(1, 1, dtype=torch.float64)]

    def objective(batch):
        return {"misfit": one.model(batch).square().mean()}

    list(fit(objective, lambda number: data, one, epochs=2, horizon=3))
    assert one.stop.reason is StopReason.PART_OF_EPOCHS
    list(fit(objective, lambda number: data, one, epochs=3))
    assert one.stop.reason is StopReason.ALL_EPOCHS
    list(fit(lambda batch: {"misfit": one.model(batch).mean() * np.nan}, lambda number: data, one, epochs=4))
    assert one.stop.reason is StopReason.NOT_FINITE
    assert one.stop.result_epoch == 3


def test_advice_is_told_once_whatever_its_numbers_are():
    printed: list[str] = []
    first = Advice(RateAdvice.LOSS_RISES, "the loss has risen by 30 % since epoch 3")
    again = Advice(RateAdvice.LOSS_RISES, "the loss stands at 1.3 times that of the first epoch")
    printed_codes: set[str] = set()
    _print_new_advice([first], printed_codes, printed.append)
    _print_new_advice(
        [again, Advice(RateAdvice.LOSS_STANDS, "the loss has fallen by 1 %")], printed_codes, printed.append
    )
    assert printed == [f"WARN {first}", "WARN the loss has fallen by 1 %"]


def test_a_verdict_on_steps_includes_the_advice_on_them():
    rising = events([5.0, 3.0, 6.0, 7.0, 8.0, 8.0])
    said, (advised,) = judge_fit(rising), advise_rates(rising)
    assert said.includes(advised)
    assert not Judgement(Verdict.LEVELLED, "levelled").includes(advised)
    assert not said.includes(Advice(RateAdvice.LOSS_STANDS, "stands"))
