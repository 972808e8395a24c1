"""Pairs of images for training: read as they are, refused with a sentence, cut at one place by a seed."""

import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.restoration.pairs.crops import Crops, crop_pair, double_pixels, iterate_batches, stack_pairs
from phaseloom.restoration.pairs.folders import ImagePairs, Pair, split_pairs

RNG = np.random.default_rng(5)


def places(rows: int, columns: int, factor: int = 1) -> np.ndarray:
    """An image of two channels, row and column of each pixel, in pixels of the coarse image."""
    y, x = ((np.arange(factor * size) + 0.5) / factor for size in (rows, columns))
    return np.stack(np.meshgrid(y, x, indexing="ij")).astype(np.float32)


def pair(name="here", rows=21, columns=34, fine=True) -> Pair:
    where = places(rows, columns)
    return Pair(name, where, where + 100, places(rows, columns, 2) + 100 if fine else None)


def averaged(fine: np.ndarray) -> np.ndarray:
    return fine.reshape(*fine.shape[:-2], fine.shape[-2] // 2, 2, -1, 2).mean((-3, -1))


def dataset(folder, suffix=".npy", names=("a", "b"), sides=("input", "gt"), part="train"):
    for side in sides:
        (folder / part / side).mkdir(parents=True, exist_ok=True)
        for name in names:
            size = (6, 10) if side == "gt_hr" else (3, 5)
            np.save(folder / part / side / f"{name}{suffix}", np.full((2, *size), float(len(side))))
    return folder


def test_a_crop_shows_one_place_in_input_target_and_fine_target_however_it_is_turned():
    seen = set()
    for number in range(60):
        cut = crop_pair(pair(), Crops(size=8), number=number)
        assert cut.input.shape == (2, 8, 8)
        np.testing.assert_array_equal(cut.target, cut.input + 100)
        np.testing.assert_allclose(averaged(cut.fine), cut.target, atol=1e-4)
        steps = cut.input[:, 1, 0] - cut.input[:, 0, 0], cut.input[:, 0, 1] - cut.input[:, 0, 0]
        seen.add(tuple(np.concatenate(steps).astype(int)))
    assert len(seen) == 8


def test_crops_come_from_everywhere_to_the_last_pixel():
    cuts = [crop_pair(pair(rows=9, columns=11), Crops(size=8, turned=False), number=n) for n in range(80)]
    assert {tuple(cut.input[:, 0, 0] - 0.5) for cut in cuts} == {(y, x) for y in (0, 1) for x in (0, 1, 2, 3)}


def test_an_enlarged_batch_still_shows_one_place():
    for scale, edge in ((0.8, 24), (1.2, 40)):
        (batch,) = iterate_batches([pair(rows=40, columns=44)], Crops(size=32, scales=(scale,)), size=1)
        assert batch.input.shape == (1, 2, edge, edge)
        assert batch.fine.shape == (1, 2, 2 * edge, 2 * edge)
        np.testing.assert_allclose(batch.target, batch.input + 100, atol=1e-4)
        inner = (..., slice(2, -2), slice(2, -2))
        np.testing.assert_allclose(averaged(batch.fine.numpy())[inner], batch.target[inner], atol=0.02)


def test_the_same_seed_draws_the_same_bits_and_another_epoch_others():
    pairs = [pair(str(n), rows=16 + n) for n in range(5)]
    crops = Crops(size=16)

    def drawn(**knobs):
        return [batch.input for batch in iterate_batches(pairs, crops, size=2, each=3, **knobs)]

    first, other = drawn(seed=4, epoch=1), drawn(seed=4, epoch=2)
    assert [len(batch) for batch in first] == [2] * 7 + [1]
    assert all(torch.equal(one, two) for one, two in zip(first, drawn(seed=4, epoch=1), strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    resumed = drawn(seed=4, epoch=1, first=5)
    assert all(torch.equal(one, two) for one, two in zip(first[5:], resumed, strict=True))


def test_every_pair_comes_as_often_in_an_epoch():
    pairs = [Pair(str(n), *(np.full((1, 8, 8), n, np.float32),) * 2) for n in range(7)]
    values = torch.cat(
        [batch.input[:, 0, 0, 0] for batch in iterate_batches(pairs, Crops(size=8, scales=(1,)), each=2)]
    )
    assert sorted(values.tolist()) == sorted([*range(7), *range(7)])


def test_the_fine_target_is_the_true_one_where_there_is_one_and_else_bilinear():
    batch = stack_pairs([pair(fine=True), pair(fine=False)])
    np.testing.assert_array_equal(batch.fine[0], pair().fine)
    torch.testing.assert_close(batch.fine[1:], double_pixels(batch.target[1:]))


def test_photographs_are_numbers_of_zero_to_one(tmp_path):
    levels = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    for side in ("input", "gt"):
        (tmp_path / "test" / side).mkdir(parents=True)
    Image.fromarray(levels).save(tmp_path / "test/input/one.png")
    Image.fromarray(np.dstack([levels, np.full((5, 7), 255, np.uint8)])).save(tmp_path / "test/gt/one.png")
    (read,) = ImagePairs.of(tmp_path, part="test")
    assert read.input.dtype == np.float32
    np.testing.assert_array_equal(read.input, np.moveaxis(levels, -1, 0).astype(np.float32) / 255)
    np.testing.assert_array_equal(read.input, read.target)


def test_sixteen_bits_are_kept(tmp_path):
    levels = RNG.integers(0, 65536, (5, 7), np.uint16)
    dataset(tmp_path, names=())
    Image.fromarray(levels).save(tmp_path / "train/input/one.png")
    tifffile.imwrite(tmp_path / "train/gt/one.tiff", levels)
    (read,) = ImagePairs.of(tmp_path)
    np.testing.assert_array_equal(read.input[0], levels / np.float32(65535))
    np.testing.assert_array_equal(read.input, read.target)


@pytest.mark.parametrize("layout", ["planes", "samples"])
def test_floats_of_any_unit_and_any_channels_stay_as_they_are(tmp_path, layout):
    values = (1e4 * RNG.standard_normal((3, 5, 7))).astype(np.float32)
    dataset(tmp_path, names=())
    np.save(tmp_path / "train/input/one.npy", values)
    if layout == "planes":
        tifffile.imwrite(tmp_path / "train/gt/one.tif", values, photometric="minisblack")
    else:
        tifffile.imwrite(tmp_path / "train/gt/one.tif", np.moveaxis(values, 0, -1), photometric="rgb")
    (read,) = ImagePairs.of(tmp_path)
    np.testing.assert_array_equal(read.input, values)
    np.testing.assert_array_equal(read.target, values)


def test_files_are_read_when_they_are_asked_for(tmp_path):
    dataset(tmp_path / "one", sides=("input", "gt", "gt_hr"))
    dataset(tmp_path / "two", names=("c",))
    pairs = ImagePairs.of([tmp_path / "one", tmp_path / "two"])
    assert [name.rpartition(": ")[2] for name in pairs.names] == ["a", "b", "c"]
    assert pairs[0].fine.shape == (2, 6, 10)
    assert pairs[-1].fine is None
    (tmp_path / "one/train/gt/b.npy").write_bytes(b"broken")
    learn, choose = split_pairs(pairs, validation=0.3)
    assert sorted([*learn.numbers, *choose.numbers]) == [0, 1, 2]
    with pytest.raises(BadInput, match=r"b.npy: cannot be read"):
        pairs[1:][0]


def test_groups_stay_together_when_pairs_are_parted():
    pairs = [pair()] * 12
    groups = [f"scene {n % 4}" for n in range(12)]
    learn, choose = split_pairs(pairs, validation=0.25, seed=3, groups=groups)
    assert len(choose) == 3
    assert not {groups[n] for n in learn.numbers} & {groups[n] for n in choose.numbers}
    assert split_pairs(pairs, seed=3, groups=groups)[1] == split_pairs(pairs, seed=3, groups=groups)[1]
    assert {split_pairs(pairs, seed=n)[1].numbers for n in range(9)} != {
        split_pairs(pairs, seed=0)[1].numbers
    }


def test_a_folder_that_is_no_data_set_is_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="does not exist: a data set has train/input"):
        ImagePairs.of(tmp_path)
    with pytest.raises(BadInput, match="need the folder"):
        ImagePairs.of([])
    with pytest.raises(BadInput, match="holds no pair"):
        ImagePairs.of(dataset(tmp_path / "empty", names=()))
    single = dataset(tmp_path / "single")
    np.save(single / "train/gt/late.npy", np.zeros((2, 3, 5)))
    (single / "train/input/Thumbs.db").write_bytes(b"")
    with pytest.raises(BadInput, match=r"1 file lacks a partner .*late.npy"):
        ImagePairs.of(single)
    half = dataset(dataset(tmp_path / "half"), names=("a",), sides=("gt_hr",))
    with pytest.raises(
        BadInput, match=r"2 files lack a partner of their name in input or gt or gt_hr \(b.npy"
    ):
        ImagePairs.of(half)
    twice = dataset(tmp_path / "twice")
    np.save(twice / "train/gt/a.tif", np.zeros(1))
    (twice / "train/gt/a.tif.npy").rename(twice / "train/gt/a.tif")
    with pytest.raises(BadInput, match=r"a.npy and a.tif share a name"):
        ImagePairs.of(twice)


def test_images_that_are_no_pair_are_a_sentence():
    flat = np.zeros((2, 4, 6))
    holes = flat.copy()
    holes[0, 1, 2:5] = np.nan
    cases = {
        r"pair x: target: 4 x 5 pixels must be those of the input, 4 x 6": (flat, flat[..., :5]),
        r"pair x: target: 1 channel but the input has 2": (flat, flat[:1]),
        r"pair x: fine: 4 x 6 pixels must be exactly twice the input, 8 x 12": (flat, flat, flat),
        r"pair x: target: 3 of 48 values are not finite": (flat, holes),
        r"pair x: input: \(4, 6\) must have the axes": (flat[0], flat[0]),
    }
    for sentence, images in cases.items():
        with pytest.raises(BadInput, match=sentence):
            Pair("x", *images)


def test_files_that_would_be_misread_are_a_sentence(tmp_path):
    def refused(sentence, name, save):
        path = tmp_path / name
        save(path)
        with pytest.raises(BadInput, match=sentence):
            ImagePairs(("x",), ((path, path, None),))[0]

    colours = RNG.integers(0, 256, (9, 7, 4), np.uint8)
    refused("transparent", "x.png", lambda path: Image.fromarray(colours).save(path))
    refused("looks like", "x.npy", lambda path: np.save(path, colours))
    refused("mode CMYK", "x.jpg", lambda path: Image.fromarray(colours).convert("CMYK").save(path))
    refused("largest value", "i.npy", lambda path: np.save(path, np.ones((3, 3), int)))
    refused("is not a real image", "c.npy", lambda path: np.save(path, np.ones((3, 3), complex)))
    refused("is not an image", "o.npy", lambda path: np.save(path, np.ones(3)))
    refused("cannot be read", "p.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True))
    refused("cannot be read", "t.tif", lambda path: path.write_bytes(b"II*"))
    head = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
    grey = head + bytes([16, 4, 0, 0, 0])
    refused("grey with transparency, of which only 8", "deep.png", lambda path: path.write_bytes(grey))
    woven = head + bytes([16, 2, 0, 0, 1])
    refused("interlaced, of which only 8", "woven.png", lambda path: path.write_bytes(woven))


def test_tiff_names_its_extra(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.ones((3, 4), np.float32))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtra, match=r"phaseloom\[formats\]"):
        ImagePairs(("x",), ((path, path, None),))[0]


@pytest.mark.parametrize(
    ("sentence", "attempt"),
    [
        ("multiple of 8", lambda: Crops(size=100)),
        ("factors above zero", lambda: Crops(size=8, scales=(0.1,))),
        ("factors above zero", lambda: Crops(scales=())),
        ("smaller than crops of 64", lambda: crop_pair(pair(), Crops(size=64))),
        ("0 or more", lambda: crop_pair(pair(), Crops(size=8), seed=-1)),
        ("batches: size", lambda: list(iterate_batches([pair()], Crops(size=8), size=0))),
        ("batches: pairs", lambda: list(iterate_batches([], Crops(size=8)))),
        ("holds no pair", lambda: stack_pairs([])),
        (
            r"batch: b: has 1 channel of 21 x 34 pixels and here 2 channels",
            lambda: stack_pairs([pair(), Pair("b", *(np.zeros((1, 21, 34)),) * 2)]),
        ),
        ("share between", lambda: split_pairs([pair()] * 3, validation=1.0)),
        ("too few", lambda: split_pairs([pair()])),
        ("too few", lambda: split_pairs([pair()] * 2, groups=["a", "a"])),
        ("but there are 2 pairs", lambda: split_pairs([pair()] * 2, groups=["a"])),
        ("0 or more", lambda: split_pairs([pair()] * 2, seed=-1)),
    ],
)
def test_wishes_that_cannot_be_met_are_a_sentence(sentence, attempt):
    with pytest.raises(BadInput, match=sentence):
        attempt()
