"""The restorer that comes with the package, on scenes that it has not seen."""

import pytest

from phaseloom.restoration.apply import load_restorer
from phaseloom.restoration.evaluate import Evaluation, evaluate_restorer
from phaseloom.restoration.pairs.underwater import simulate_pairs


def judged(count: int, learned: int) -> Evaluation:
    net, task, _ = load_restorer("underwater")
    few = [sight.pair for sight in simulate_pairs(learned, size=128, invented=0.1)]
    tests = [sight.pair for sight in simulate_pairs(count, size=128, part="test")]
    return evaluate_restorer(net, task, tests, learned=few)


def better(found: Evaluation, decibels: float) -> None:
    gain, best = found.gain
    assert best == "colour matrix"
    assert gain > decibels
    assert found.low["network"]["ssim"] > found.low["colour matrix"]["ssim"]
    assert found.high["network"]["ssim"] > found.high["bilinear of the network"]["ssim"]


@pytest.mark.medium
def test_it_beats_what_needs_no_network():
    better(judged(24, 80), 1.0)


@pytest.mark.slow
def test_it_beats_the_best_of_these_by_one_and_a_half_decibels():
    found = judged(60, 240)
    better(found, 1.5)
    assert found.high["network"]["psnr"] > found.high["bilinear of the network"]["psnr"]


def test_its_card_says_how_it_was_made():
    _, task, card = load_restorer("underwater")
    assert task.name == "photograph"
    assert card["scores"]["gain"]["psnr"] > 1.5
    assert card["scores"]["pairs"] == 120
    assert "restore train" in card["commands"][1]
