"""Folders of LSUI and UIEB as they are published, made here: each name is on one side, and stays there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phaseloom.errors import BadInput
from phaseloom.restoration.pairs.folders import ImagePairs
from phaseloom.restoration.pairs.layouts import has_side
from phaseloom.restoration.train import Restore, RestorerTraining

RNG = np.random.default_rng(2)


def photograph(path: Path, *, size: tuple[int, int] = (24, 32), value: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = (
        RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
        if value is None
        else np.full((*size, 3), value, np.uint8)
    )
    Image.fromarray(levels).save(path)


def lsui(folder: Path, count: int = 40) -> Path:
    """``input/1.jpg`` and ``GT/1.jpg``, of sizes that differ from pair to pair."""
    for number in range(1, count + 1):
        for side in ("input", "GT"):
            photograph(folder / side / f"{number}.jpg", size=(24 + 8 * (number % 2), 32), value=number)
    return folder


def uieb(folder: Path, count: int = 40) -> Path:
    """``raw-890/2_img_.png`` and ``reference-890/2_img_.png``, and images without a reference."""
    for number in range(1, count + 1):
        for side in ("raw-890", "reference-890"):
            photograph(folder / side / f"{number}_img_.png", value=number)
    photograph(folder / "challenging-60" / "3.png")
    return folder


@pytest.mark.parametrize("make", [lsui, uieb])
def test_every_pair_is_on_one_side_and_belongs_together(make, tmp_path):
    folder = make(tmp_path / "set")
    train, test = (ImagePairs.of(folder, part=side) for side in ("train", "test"))
    assert len(train) + len(test) == 40
    assert 0 < len(test) < 12
    assert not {*train.names} & {*test.names}
    assert has_side(folder, "test")
    for pairs in (train, test):
        for pair in (pairs[0], pairs[-1]):
            assert pair.fine is None
            np.testing.assert_allclose(pair.input, pair.target, atol=2 / 255)


def test_a_pair_stays_on_its_side_wherever_the_folder_is_and_whatever_else_is_there(tmp_path):
    few, many = lsui(tmp_path / "few", 20), lsui(tmp_path / "elsewhere" / "many", 60)
    first, second = (ImagePairs.of(folder, part="test").names for folder in (few, many))
    assert set(first) < set(second)


def test_a_split_of_ones_own_wins(tmp_path):
    folder = lsui(tmp_path / "set", 8)
    for side in ("input", "gt"):
        photograph(folder / "train" / side / "a.png")
    assert ImagePairs.of(folder).names == ("a",)


def test_a_network_is_trained_on_such_a_folder_and_tested_on_its_other_side(tmp_path):
    folder = uieb(tmp_path / "UIEB")
    sizes = '{"recommended": {"widths": [4, 8], "blocks": [1, 1], "heads": [1, 2], "refine": 0}}'
    recipe = Restore.of({"data": [str(folder)], "epochs": 1, "crops": 16, "model": json.loads(sizes)})
    training = RestorerTraining.begin(recipe)
    assert training.net.plan.channels_in == 3
    for _ in training:
        pass
    tests = recipe.list_test_pairs()
    names = {*recipe.pairs("train").names}
    assert len(tests) > 0
    assert not {pair.name for pair in tests} & names


def test_a_missing_reference_and_a_folder_of_nothing_are_a_sentence(tmp_path):
    folder = uieb(tmp_path / "set")
    (folder / "reference-890" / "7_img_.png").unlink()
    with pytest.raises(
        BadInput, match=r"1 file lacks a partner of their name in raw-890 or reference-890 \(7_img_.png\)"
    ):
        ImagePairs.of(folder)
    with pytest.raises(BadInput, match=r"or input and GT \(LSUI\), or raw-890 and reference-890 \(UIEB\)"):
        ImagePairs.of(tmp_path)
    with pytest.raises(BadInput, match="pairs for test are not there"):
        ImagePairs.of(lsui(tmp_path / "one", 1), part="test")
