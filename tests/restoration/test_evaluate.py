"""What a restorer is worth: scores that follow from the images alone, beside methods that need no network."""

import json
import math
import sys
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.metrics.image import psnr
from phaseloom.restoration.apply import RestoredImage, restore_image
from phaseloom.restoration.baselines import upsample_bilinear
from phaseloom.restoration.evaluate import evaluate_restorer
from phaseloom.restoration.figures import before_after, figure_rows
from phaseloom.restoration.networks.phaseformer import recommended
from phaseloom.restoration.pairs import image_kinds as tasks
from phaseloom.restoration.pairs.folders import Pair

SIZES = {"widths": (4, 8), "blocks": (1, 1), "heads": (1, 1), "refine": 0}


def unlearned(channels: int = 1, **knobs):
    """A network that changes nothing yet."""
    return recommended(channels_in=channels, channels_out=channels, **SIZES, **knobs)


def spoiled(count: int = 3, channels: int = 1, *, fine: bool = False, noise: float = 0.06) -> list[Pair]:
    """Waves between 0.1 and 0.9 under noise, 32 x 27 pixels, each pair of another strength of noise."""
    rng, pairs = np.random.default_rng(3), []
    y, x = np.mgrid[:64, :54] / 2
    for number in range(count):
        waves = [np.sin(y / (3 + n) + number) * np.cos(x / (4 + number)) for n in range(channels)]
        finer = np.stack([0.5 + 0.4 * wave for wave in waves]).astype(np.float32)
        target = finer.reshape(channels, 32, 2, 27, 2).mean((2, 4))
        given = target + (1 + number) * noise * rng.standard_normal(target.shape).astype(np.float32)
        pairs.append(Pair(str(number), given, target, finer if fine else None))
    return pairs


def tilted(pair: Pair, before: float, after: float) -> Pair:
    """The same with a ramp on the input and another one on the target."""
    y, x = np.mgrid[:32, :27].astype(np.float32)
    return Pair(pair.name, pair.input + before * (3 + y - 2 * x), pair.target + after * (x - 7 + y / 2))


def test_a_perfect_network_has_no_error():
    pairs = [Pair(one.name, one.target, one.target) for one in spoiled(2, 3)]
    rating = evaluate_restorer(unlearned(3), tasks.photograph(), pairs)
    assert rating.low["network"]["psnr"] == math.inf
    assert rating.low["network"]["ssim"] == pytest.approx(1, abs=1e-9)
    assert rating.gain == (0.0, "input")
    assert json.loads(json.dumps(rating.as_dict(), allow_nan=False))["low"]["network"]["psnr"] is None


@pytest.mark.parametrize(
    ("task", "channels"), [("photograph", 3), ("photograph", 1), ("phase", 1), ("virtual_detector", 2)]
)
def test_a_network_that_changes_nothing_has_the_scores_of_the_input(task, channels):
    rating = evaluate_restorer(unlearned(channels), getattr(tasks, task)(), spoiled(2, channels, noise=0.02))
    assert rating.low["network"] == pytest.approx(rating.low["input"], rel=1e-4)
    assert {"uiqm", "nmse"} & set(rating.low["input"]) == ({"uiqm"} if channels == 3 else {"nmse"})


def test_scores_do_not_depend_on_the_order_of_pairs():
    pairs, net = spoiled(3, 3, fine=True), unlearned(3)
    one, other = (
        evaluate_restorer(net, tasks.photograph(), some, learned=pairs) for some in (pairs, pairs[::-1])
    )
    assert one == other
    each = [psnr(pair.input, pair.target, peak=1, within=(0, 1)) for pair in pairs]
    assert one.low["input"]["psnr_deviation"] == pytest.approx(np.std(each, ddof=1))


def test_a_ramp_on_a_phase_changes_no_score():
    pairs = spoiled(2)
    flat, leaning = (
        evaluate_restorer(unlearned(), tasks.phase(), some, learned=some)
        for some in (pairs, [tilted(one, 0.05, -0.02) for one in pairs])
    )
    assert "total variation" in flat.low
    for method, scores in flat.low.items():
        assert leaning.low[method] == pytest.approx(scores, rel=1e-3), method


def test_photographs_have_a_peak_of_one_and_values_beyond_their_bounds_are_clipped():
    target = np.full((1, 12, 13), 0.9, np.float32)
    pair = Pair("bright", target + np.where(np.arange(13) % 2, 0.9, 0.02).astype(np.float32), target)
    found = evaluate_restorer(unlearned(), tasks.photograph(), [pair]).low["network"]
    assert found["psnr"] == pytest.approx(psnr(pair.input, target, peak=1, within=(0, 1)), abs=1e-4)
    assert 20 < found["psnr"] < 30
    assert "nmse" not in found


def test_channels_of_any_unit_count_the_same():
    pairs = spoiled(2, 2)
    rating = evaluate_restorer(unlearned(2), tasks.virtual_detector(), pairs)
    unit = np.array([1e-3, 200.0], np.float32)[:, None, None]
    scaled = [Pair(one.name, 5 + unit * one.input, 5 + unit * one.target) for one in pairs]
    other = evaluate_restorer(unlearned(2), tasks.virtual_detector(), scaled)
    assert other.low["input"]["psnr"] == pytest.approx(rating.low["input"]["psnr"], rel=1e-3)
    assert other.low["input"]["nmse"] == pytest.approx(rating.low["input"]["nmse"], rel=1e-3)
    wanted = [
        np.square(one.input[n] - one.target[n]).sum() / np.square(one.target[n] - one.target[n].mean()).sum()
        for one in pairs
        for n in (0, 1)
    ]
    assert rating.low["input"]["nmse"] == pytest.approx(np.mean(wanted), rel=1e-4)


def test_finer_pixels_are_judged_where_both_sides_have_them():
    with_, without = spoiled(3, fine=True), spoiled(3)
    mixed = [with_[0], without[1], with_[2]]
    rating = evaluate_restorer(unlearned(), tasks.photograph(), mixed)
    assert (rating.pairs, rating.fine) == (3, 2)
    assert list(rating.high) == ["bilinear of the input", "bilinear of the network", "network"]
    assert rating.high["network"]["psnr"] == pytest.approx(rating.high["bilinear of the input"]["psnr"])
    other, task = unlearned(residual=False, seed=1), tasks.photograph()
    finer, true = restore_image(other, task, with_[0].input), with_[0].fine
    assert true is not None
    found = evaluate_restorer(other, task, with_[:1]).high
    wanted = {"bilinear of the network": upsample_bilinear(finer.low), "network": np.asarray(finer.high)}
    for name, image in wanted.items():
        assert found[name]["psnr"] == pytest.approx(psnr(image, true, peak=1))
    assert found["network"]["psnr"] != found["bilinear of the network"]["psnr"]
    assert not evaluate_restorer(unlearned(), task, without).high
    assert not evaluate_restorer(unlearned(high=False), tasks.photograph(), with_).high


def test_a_matrix_of_colours_beats_a_network_that_has_not_learned():
    matrix = np.array([[0.7, 0.1, 0], [0, 0.6, 0.2], [0.1, 0, 0.8]], np.float32)
    pairs = [Pair(p.name, p.target, np.tensordot(matrix, p.target, 1)) for p in spoiled(4, 3)]
    rating = evaluate_restorer(unlearned(3), tasks.photograph(), pairs[:2], learned=pairs[2:])
    gain, best = rating.gain
    assert list(rating.low) == ["input", "gray world", "stretch", "colour matrix", "network"]
    assert best == "colour matrix"
    assert rating.low["colour matrix"]["psnr"] > 60
    assert gain == rating.low["network"]["psnr"] - rating.low[best]["psnr"] < 0
    assert not rating.notes


def test_denoisers_are_fitted_on_levels_and_say_their_best():
    pairs = spoiled(4)
    bright = [Pair(p.name, 900 * p.input + 5000, 900 * p.target + 5000) for p in pairs]
    rating = evaluate_restorer(unlearned(), tasks.virtual_detector(), bright[:2], learned=bright[2:])
    assert list(rating.low) == ["input", "gaussian", "total variation", "non-local means", "network"]
    assert all(rating.low[name]["psnr"] > rating.low["input"]["psnr"] + 2 for name in list(rating.low)[1:4])
    assert rating.gain[1] in list(rating.low)[1:4]


def test_what_is_left_out_is_said(monkeypatch):
    pairs = spoiled(2)
    (note,) = evaluate_restorer(unlearned(), tasks.phase(), pairs).notes
    assert note.startswith("gaussian, total variation and non-local means are left out")
    (note,) = evaluate_restorer(unlearned(3), tasks.photograph(), spoiled(1, 3)).notes
    assert "colour matrix" in note
    monkeypatch.setitem(sys.modules, "skimage", None)
    rating = evaluate_restorer(unlearned(), tasks.phase(), pairs, learned=pairs)
    assert list(rating.low) == ["input", "gaussian", "network"]
    assert "phaseloom[restore]" in rating.notes[0]


def test_targets_without_anything_to_see_are_left_out_and_said():
    y, x = np.mgrid[:32, :27].astype(np.float32)
    ramp = (0.3 * y - 0.1 * x)[None]
    empty = Pair("vacuum", ramp + spoiled(1)[0].input, ramp)
    pairs = spoiled(2)
    rating = evaluate_restorer(unlearned(), tasks.phase(), [*pairs, empty])
    alone = evaluate_restorer(unlearned(), tasks.phase(), pairs)
    assert rating.low == alone.low
    assert rating.pairs == 2
    assert "1 pair left out" in rating.notes[-1]
    with pytest.raises(BadInput, match="the same everywhere"):
        evaluate_restorer(unlearned(), tasks.phase(), [empty])


def test_small_images_have_no_structural_similarity():
    pairs = [Pair(p.name, p.input[:, :9, :9], p.target[:, :9, :9]) for p in spoiled(2, 3)]
    assert set(evaluate_restorer(unlearned(3), tasks.photograph(), pairs).low["network"]) == {
        "psnr",
        "psnr_deviation",
        "uciqe",
    }


def test_pairs_are_in_memory_one_at_a_time():
    class Read(Sequence):
        alive, most = weakref.WeakSet(), 0

        def __len__(self):
            return 4

        def __getitem__(self, index):
            pair = spoiled(4, 3)[index]
            self.alive.add(pair)
            Read.most = max(Read.most, len(self.alive))
            return pair

    evaluate_restorer(unlearned(3), tasks.photograph(), Read())
    assert Read.most == 1


def test_what_cannot_be_judged_is_refused_in_a_sentence():
    pairs, phase = spoiled(1), tasks.phase()
    with pytest.raises(BadInput, match="no pair"):
        evaluate_restorer(unlearned(), phase, [])
    with pytest.raises(BadInput, match="has 1 channel but the network takes 3"):
        evaluate_restorer(unlearned(3), tasks.photograph(), pairs)
    several = recommended(channels_in=1, channels_out=2, residual=False, **SIZES)
    with pytest.raises(BadInput, match="has 1 channel but the network gives 2"):
        evaluate_restorer(several, phase, pairs)
    with pytest.raises(BadInput, match="rating: 0: has 3 channels but"):
        evaluate_restorer(unlearned(), phase, pairs, learned=spoiled(1, 3))
    with pytest.raises(BadInput, match="tile"):
        evaluate_restorer(unlearned(), phase, pairs, tile=31)
    broken = unlearned()
    torch.nn.init.constant_(broken.heads.last.weight, torch.nan)
    with pytest.raises(BadInput, match="not finite"):
        evaluate_restorer(broken, phase, pairs)


def test_tables_are_aligned_and_end_with_the_gain():
    rating = evaluate_restorer(unlearned(3), tasks.photograph(), spoiled(2, 3, fine=True, noise=0.1))
    lines = rating.lines()
    low, high = lines[:5], lines[6:10]
    assert len({len(line) for line in low}) == len({len(line) for line in high}) == 1
    assert "PSNR (dB)" in low[0]
    assert "2 pairs" in low[0]
    assert [line.split("  ")[0] for line in low[1:]] == ["input", "gray world", "stretch", "network"]
    assert lines[11] == f"network: {-rating.gain[0]:.2f} dB below the best of the others, stretch"


def test_rows_of_a_figure_are_channels_without_their_planes_or_colours():
    phase = tilted(spoiled(1)[0], 0.3, -0.2)
    (row,) = figure_rows(tasks.phase(), phase, RestoredImage(phase.input, None)).values()
    np.testing.assert_allclose(row["network"], row["input"])
    assert abs(row["target"].mean()) < 1e-9
    pair = spoiled(1, 3, fine=True)[0]
    finer = pair.fine
    assert finer is not None
    colours = figure_rows(tasks.photograph(), pair, RestoredImage(pair.target, finer))
    channels = figure_rows(tasks.virtual_detector(), pair, RestoredImage(pair.target, finer))
    assert list(colours) == ["0"]
    assert list(channels) == [f"0, channel {number}" for number in range(3)]
    assert list(colours["0"]) == ["input", "network", "network, finer", "target"]
    for rows in (colours, channels):
        assert before_after([*rows.values()], [*rows]).axes
