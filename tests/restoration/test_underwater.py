"""Light under water obeys its law, and pairs made of it keep scenes apart and repeat to the bit."""

import json
import sys

import numpy as np
import pytest

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.metrics.colour import decode_srgb, encode_srgb
from phaseloom.restoration.pairs.folders import ImagePairs
from phaseloom.restoration.pairs.underwater import draw_dead_leaves, save_pairs, simulate_pairs, split_scenes
from phaseloom.restoration.pairs.water import (
    WATER_TYPES,
    Camera,
    Water,
    add_water,
    draw_range_map,
    draw_water,
    record_image,
)

RNG = np.random.default_rng(2)
LIGHT = RNG.random((3, 15, 22))
RANGES = draw_range_map((15, 22), np.random.default_rng(3))
MURKY = Water(daylight=(0.5, 0.8, 0.9), direct=(0.4, 0.2, 0.1), back=(0.5, 0.2, 0.15), veil=(0.1, 0.3, 0.4))


def hazy(forward: float, blur: float) -> Water:
    return Water(MURKY.kind, 0.0, MURKY.daylight, MURKY.direct, MURKY.back, MURKY.veil, forward, blur)


def test_without_water_a_scene_is_seen_as_it_is():
    np.testing.assert_array_equal(add_water(LIGHT, RANGES, Water()), LIGHT)
    picture = record_image(LIGHT, Camera(), np.random.default_rng(0))
    np.testing.assert_allclose(decode_srgb(picture), LIGHT, atol=1e-6)


def test_from_infinitely_far_only_the_veil_is_seen():
    veil = np.array(MURKY.veil)[:, None, None] * np.ones((15, 22))
    np.testing.assert_allclose(add_water(LIGHT, np.full((15, 22), np.inf), hazy(0.3, 0.5)), veil, rtol=1e-12)
    partly = add_water(LIGHT, np.where(np.arange(22) < 8, np.inf, RANGES), MURKY)
    np.testing.assert_allclose(partly[..., :8], veil[..., :8], rtol=1e-12)
    assert abs(partly[..., 8:] - veil[..., 8:]).min(axis=(1, 2)).max() > 1e-4


def test_without_blur_every_pixel_follows_the_formula_by_itself():
    y, x, colour = 11, 4, 0
    z = RANGES[y, x]
    expected = 0.5 * LIGHT[colour, y, x] * np.exp(-0.4 * z) + 0.1 * (1 - np.exp(-0.5 * z))
    for water in (MURKY, hazy(0.4, 0.0), hazy(0.0, 3.0)):
        assert add_water(LIGHT, RANGES, water)[colour, y, x] == pytest.approx(expected, rel=1e-12)


def test_what_is_farther_is_blurred_more():
    point = np.zeros((3, 41, 81))
    point[:, 20, [20, 60]] = 1.0
    ranges = np.where(np.arange(81) < 40, 1.0, 3.0) * np.ones((41, 1))
    spread = add_water(point, ranges, Water(forward=1.0, blur=1.0))[0]
    for column, width in ((20, 1.0), (60, 3.0)):
        around = spread[:, column - 15 : column + 16]
        place = np.arange(41) - 20
        profile = around.sum(1) / around.sum()
        assert np.sqrt(profile @ place**2) == pytest.approx(width, rel=0.02)
        assert around.sum() == pytest.approx(1, rel=1e-3)


def test_counted_light_has_the_noise_of_its_photons():
    light = np.full((3, 60, 60), 0.2)
    found = decode_srgb(record_image(light, Camera(photons=500.0, read=0.01), np.random.default_rng(1)))
    assert found.mean() == pytest.approx(0.2, abs=1e-3)
    assert found.std() == pytest.approx(np.hypot(np.sqrt(0.2 / 500), 0.01), rel=0.05)


def test_red_light_is_lost_first_in_the_ocean_and_blue_at_the_coast():
    for kind in WATER_TYPES:
        red, _, blue = draw_water(np.random.default_rng(0), types=[kind])[0].daylight
        assert (red < blue) == (kind not in ("5C", "7C", "9C"))


@pytest.fixture(scope="module")
def few():
    return {part: list(simulate_pairs(16, size=16, part=part, seed=3)) for part in ("train", "test")}


def test_the_fine_target_averages_to_the_target_in_light(few):
    for sight in few["test"]:
        light = decode_srgb(sight.pair.fine.astype(np.float64)).reshape(3, 16, 2, 16, 2).mean((2, 4))
        np.testing.assert_allclose(encode_srgb(light), sight.pair.target, atol=1e-6)
        assert sight.pair.fine.std() > sight.pair.target.std()  # and holds detail of its own


def test_no_scene_is_on_both_sides(few):
    sides = {part: {sight.scene for sight in made} for part, made in few.items()}
    assert not sides["train"] & sides["test"]
    assert sides["test"] == set(split_scenes(part="test"))
    assert {scene for scene in sides["train"] if not scene.startswith("leaves")} <= set(split_scenes())


def test_every_second_scene_to_learn_from_is_invented_and_there_only_once(few):
    scenes = [sight.scene for sight in few["train"]]
    assert [scene.startswith("leaves") for scene in scenes[:4]] == [False, True, False, True]
    assert len({scene for scene in scenes if scene.startswith("leaves")}) == len(scenes) // 2


def test_leaves_have_edges_and_colours_and_one_seed_makes_one_scene():
    scenes = [draw_dead_leaves(64, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(scenes[0], scenes[1])
    assert abs(scenes[0] - scenes[2]).mean() > 0.05
    steps = abs(np.diff(scenes[0], axis=-1))
    assert np.quantile(steps, 0.99) > 8 * np.median(steps)  # flat, then an edge
    assert np.std(scenes[0], 0).mean() > 0.01


def test_photographs_of_a_folder_stay_on_their_side_when_others_come(tmp_path):
    for number in range(9):
        np.save(tmp_path / f"{number}.npy", np.full((3, 40, 33), number / 10, np.float32))
    held = split_scenes(tmp_path, part="test", share=0.3)
    assert len(held) == 3
    assert sorted([*held, *split_scenes(tmp_path, share=0.3)]) == [f"{number}.npy" for number in range(9)]
    assert split_scenes(tmp_path, part="test", share=0.3) == held
    (made,) = simulate_pairs(1, size=16, part="test", folder=tmp_path)
    assert made.scene in split_scenes(tmp_path, part="test")
    assert np.ptp(made.pair.target) < 1e-6


def test_the_same_seed_makes_the_same_bits_whatever_else_is_made(few):
    again = list(simulate_pairs(3, size=16, part="test", seed=3))
    for one, two in zip(few["test"], again, strict=False):
        assert (one.scene, one.water, one.camera) == (two.scene, two.water, two.camera)
        np.testing.assert_array_equal(one.pair.input, two.pair.input)
        np.testing.assert_array_equal(one.pair.fine, two.pair.fine)
    other = next(simulate_pairs(1, size=16, part="test", seed=4))
    assert other.water != again[0].water


def test_under_water_images_are_worse_but_not_lost(few):
    errors = [np.mean((sight.pair.input - sight.pair.target) ** 2) for sight in few["train"]]
    assert 12 < -10 * np.log10(np.mean(errors)) < 22
    assert all(sight.water.kind in WATER_TYPES and sight.ranges.max() < 8.1 for sight in few["train"])


def test_a_data_set_on_disk_is_the_one_in_memory(tmp_path, few):
    told = json.loads(save_pairs(tmp_path / "set", size=16, train=2, test=1, seed=3).read_text())
    assert sorted(told["pairs"]) == [
        "test/00000_chelsea.png",
        "train/00000_astronaut.png",
        "train/00001_leaves00001.png",
    ]
    drawn = told["pairs"]["train/00001_leaves00001.png"]
    assert (drawn["scene"], drawn["kind"]) == ("leaves00001", few["train"][1].water.kind)
    for part, count in (("train", 2), ("test", 1)):
        pairs = ImagePairs.of(tmp_path / "set", part=part)
        assert len(pairs) == count
        for stored, sight in zip(pairs, few[part], strict=False):
            assert stored.name == sight.pair.name
            for one, two in ((stored.input, sight.pair.input), (stored.fine, sight.pair.fine)):
                np.testing.assert_allclose(one, two, atol=0.5 / 255 + 1e-6)
    with pytest.raises(BadInput, match="not empty"):
        save_pairs(tmp_path / "set")


def test_without_scikit_image_its_extra_is_named(monkeypatch):
    from phaseloom.restoration.pairs import underwater

    underwater._load_picture.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtra, match=r"phaseloom\[restore\]"):
        next(simulate_pairs(1))


def test_wishes_that_cannot_be_met_are_a_sentence(tmp_path):
    np.save(tmp_path / "grey.npy", np.zeros((2, 40, 40), np.float32))
    np.save(tmp_path / "deep.npy", np.full((3, 40, 40), 7, np.float32))
    cases = {
        "chelsea: 300 x 451 pixels is smaller than twice the size of 200": {"size": 200, "part": "test"},
        "size: 4 must be 8 or more": {"size": 4},
        "seed: -1 must be": {"seed": -1},
        "types: ICC is not a type of water": {"types": ["ICC"]},
        "types: are missing": {"types": []},
        "is not a folder": {"folder": tmp_path / "nowhere"},
        "(grey|deep).npy: . channels of .* is not a photograph in colour": {"folder": tmp_path},
    }
    for sentence, knobs in cases.items():
        with pytest.raises(BadInput, match=sentence):
            next(simulate_pairs(1, **knobs))
    with pytest.raises(BadInput, match="cannot be parted"):
        split_scenes(tmp_path, share=1.5)
