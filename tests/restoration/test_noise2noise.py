"""Pairs of few and of many counts of one scan: their laws, their files, and what is refused."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import find_shift, remove_ramp, shift_image
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.pairs.folders import ImagePairs
from phaseloom.restoration.pairs.noise2noise import (
    PairRecipe,
    ScanPair,
    _register,
    make_pairs,
    make_pairs_of_scan,
    save_pairs,
)
from phaseloom.simulation import simulate, specimens
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import simulate_scan
from phaseloom.virtual.recipe import Virtual, make_virtual_images

GEOMETRY = Geometry(wavelength=0.025, shape=(14, 16), angle=(1e-3, 1e-3), beam="electron")
GRID = (8, 11)
BEAM = Virtual.of({"semiangle": "3.5 mrad", "centre": [7, 8]})


def disk(seed: int, *, dose: float = 200.0, grid: tuple[int, int] = GRID) -> Scan4D:
    """A bright disk that wanders and scatters a little over a raster."""
    y, x = np.stack(np.indices(grid), -1).reshape(-1, 2, 1, 1).T.reshape(2, -1, 1, 1) / 5
    v, u = np.indices((14, 16)) - np.array([7, 8]).reshape(2, 1, 1)
    away = np.hypot(v - np.sin(y + seed), u - np.cos(x))
    rate = 1 / (1 + np.exp(4 * (away - 3.5))) + 0.05 * (1 + np.sin(x + y))
    counts = np.random.default_rng(seed).poisson(rate * dose / rate.sum((1, 2)).mean()).astype(np.uint16)
    places = np.stack(np.indices(grid), -1).reshape(-1, 2) * 2.0
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, grid=grid, oriented=True)


def stored(folder: Path, count: int = 4) -> list[str]:
    """Parameter files of films, which say where the beam is."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        native.write(disk(number), folder / f"film {number}.h5")
        text = f"{{file: film {number}.h5, semiangle: 3.5 mrad, centre: [7, 8]}}"
        (folder / f"{number}.yaml").write_text(text)
    return [str(folder / f"{number}.yaml") for number in range(count)]


def recipe(**changes) -> PairRecipe:
    return PairRecipe.of({"by": "integrate", "draws": 2, "share": 0.2, **changes})


def seen(one: PairRecipe, scan: Scan4D) -> list[ScanPair]:
    return list(make_pairs_of_scan(one, BEAM, scan))


def test_input_and_target_in_parts_of_their_share_are_the_image_of_all_counts():
    scan = disk(0)
    for made in seen(recipe(task="virtual_detector", share=0.3), scan):
        found = make_virtual_images(BEAM, scan).survey
        whole = np.stack([found.image(name) for name in made.channels])
        np.testing.assert_allclose(0.3 * made.pair.input + 0.7 * made.pair.target, whole, rtol=1e-5)
        assert made.channels[:2] == ("BF", "ABF")
        assert made.pair.size == GRID


@pytest.mark.parametrize(("target", "expected"), [("rest", 0.0), ("all", np.sqrt(0.3))])
def test_noise_of_input_and_rest_is_independent_and_all_counts_hold_a_share_of_it(target, expected):
    scan = disk(0, grid=(40, 40))
    flat = np.full(scan.counts.shape, 0.05)
    flat[:, 4:11, 5:12] = 4.0
    scan = replace(scan, counts=np.random.default_rng(3).poisson(flat).astype(np.uint16))
    (made,) = seen(recipe(task="virtual_detector", share=0.3, draws=1, target=target), scan)
    noises = [(one[0] - one[0].mean()).ravel() for one in (made.pair.input, made.pair.target)]
    assert np.corrcoef(*noises)[0, 1] == pytest.approx(expected, abs=4 / np.sqrt(1600))


def test_few_counts_give_more_noise_and_the_beam_of_all_of_them_is_taken():
    scan = disk(1, dose=2000)
    whole = make_virtual_images(BEAM, scan).phase
    assert whole is not None
    errors = []
    for share in (0.5, 0.02):
        (made,) = seen(recipe(share=share, draws=1), scan)
        assert made.told["shift"] == [0.0, 0.0]
        assert made.told["pixel"] == pytest.approx([2.0, 2.0])
        errors.append(np.std(made.pair.input[0] - whole))
    assert errors[1] > 3 * errors[0]


def test_a_network_shows_both_parts_between_the_first_probe_and_the_last():
    experiment = Experiment(scan=(12, 14))
    specimen = specimens.prototypes(experiment.box, np.random.default_rng(1), thickness=(8.0, 9.0))
    sample = simulate_scan(specimen, experiment)
    scan = prepare.poisson(sample.scan(), dose=1e6)
    one = Reconstruct.of({"probe": {"focused": {"semiangle": "20 mrad", "defocus": "90 A"}}})
    (made,) = make_pairs_of_scan(recipe(by="predict", draws=1), one, scan)
    truth = remove_ramp(sample.phase[5:-5, 5:-5])
    assert made.pair.size == truth.shape == (56, 66)
    for image in (made.pair.input[0], made.pair.target[0]):
        assert np.corrcoef(remove_ramp(image).ravel(), truth.ravel())[0, 1] > 0.8
    assert made.told["pixel"] == pytest.approx([0.4, 0.4])


def test_a_target_that_lies_aside_is_moved_and_the_input_stays_as_it_is():
    y, x = np.mgrid[:61, :70]
    wave = (np.sin(y * 0.35 + 0.004 * x**2) * np.cos(x * 0.3))[None]
    aside = shift_image(wave[0], (2.3, -1.6))[None] + 0.02 * y
    before, after, shift = _register(wave, aside)
    assert shift == pytest.approx((-2.3, 1.6), abs=0.05)
    np.testing.assert_array_equal(before, wave[:, 3:-3, 2:-2])
    assert np.std(remove_ramp((after - before)[0])[8:-8, 8:-8]) < 0.03


def atoms() -> Scan4D:
    """Overlapping probes on atoms."""
    positions = simulate.raster((9, 8), 1.3, seed=0)
    positions += 6.0 - positions.min(0)
    truth = simulate.atoms((100, 96), 0.25, peak=0.6, spacing=3.0, seed=1)
    optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 60.0, "window": 24}
    scan, _ = simulate.electron_scan(truth, 0.25, positions, **optics, dose=5e4)
    return scan


def test_reconstructions_of_both_parts_lie_on_the_same_pixels(caplog):
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "60 A"}}
    one = Reconstruct.of(
        {"probe": probe, "start": "none", "epochs": 3, "levels": 0, "device": "cpu", "seed": 3}
    )
    with caplog.at_level(logging.WARNING):
        (made,) = make_pairs_of_scan(recipe(by="reconstruct", draws=1), one, atoms())
    before, after = made.pair.input[0], made.pair.target[0]
    assert before.shape == after.shape
    assert np.hypot(*find_shift(after, before, max_shift=5)) < 0.1
    assert made.told["likeness"] > 0.8
    assert made.told["counts"] == pytest.approx(1e4, rel=0.02)
    assert not [record for record in caplog.records if "blank" in record.message]


def test_patterns_left_without_a_count_are_left_out_of_both(caplog):
    scan = atoms()
    dark = np.array(scan.counts)
    dark[:8] = 0  # a row with one count in each pattern: it is in one part or in the other
    dark[:8, 12, 12] = 1
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "60 A"}}
    one = Reconstruct.of({"probe": probe, "start": "none", "epochs": 1, "levels": 0, "device": "cpu"})
    (made,) = make_pairs_of_scan(recipe(by="reconstruct", draws=1), one, replace(scan, counts=dark))
    assert made.told["counts"] == pytest.approx(0.2 * dark[8:].sum() / 64, rel=0.02)
    assert "blank" not in caplog.text


def test_the_same_seed_draws_the_same_pairs_and_several_shares_are_all_drawn():
    one, scan = recipe(share=[0.1, 0.4], draws=12), disk(2, grid=(6, 7))
    first, again, other = seen(one, scan), seen(one, scan), seen(one.with_settings({"seed": 1}), scan)
    assert {made.told["share"] for made in first} == {0.1, 0.4}
    assert len({made.told["seed"] for made in first}) == 12
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.pair.input, b.pair.input)
        assert a.told == b.told
        assert a.told["seed"] != c.told["seed"]


def test_a_data_set_is_written_whose_test_is_of_other_scans(tmp_path):
    names, told = stored(tmp_path / "scans"), []
    path = save_pairs(
        recipe(files=names, test=0.4), tmp_path / "pairs", each=lambda made: told.append(made.part)
    )
    meta = json.loads(path.read_text())
    assert (meta["task"], meta["unit"], meta["channels"]) == ("phase", "radian", ["phase"])
    scenes = {}
    for part, count in (("train", 4), ("test", 4)):
        found = ImagePairs.of(tmp_path / "pairs", part=part)
        assert len(found) == count == told.count(part)
        assert found[0].input.dtype == np.float32
        said = {meta["pairs"][f"{part}/{name}.npy"]["scene"] for name in found.names}
        assert said == {scene.split(": ")[-1] for scene in found.scenes or ()}
        scenes[part] = said
    assert not scenes["train"] & scenes["test"]
    assert {"share", "seed", "file", "counts", "pixel", "shift", "likeness"} < set(meta["pairs"].popitem()[1])
    assert PairRecipe.of(yaml.safe_load(meta["recipe"])).draws == 2


@pytest.mark.parametrize(("count", "test", "tested"), [(1, 0.9, 0), (2, 0.9, 1), (4, 0.01, 1), (4, 0.99, 3)])
def test_one_scan_at_least_is_on_either_side(tmp_path, count, test, tested):
    one = recipe(files=stored(tmp_path, count), test=test, draws=1)
    assert sum(made.part == "test" for made in make_pairs(one)) == tested


def test_a_parameter_file_says_what_is_done_to_a_scan(tmp_path):
    stored(tmp_path, 1)
    (tmp_path / "run.yaml").write_text(
        "{file: film 0.h5, prepare: [{bin: {factor: 2}}], semiangle: 4 mrad, annuli: [[0.2, 0.9]]}"
    )
    (made,) = make_pairs(recipe(files=[str(tmp_path / "run.yaml")], task="virtual_detector", draws=1))
    assert "0.2-0.9" in made.channels
    assert made.told["scene"] == "000_film_0"


def test_files_that_say_nothing_share_what_is_said_of_them(tmp_path):
    stored(tmp_path, 1)
    said = {"semiangle": "3.5 mrad", "centre": [7, 8], "annuli": [[0.2, 0.9]]}
    one = recipe(files=[str(tmp_path / "film 0.h5")], scan=said, task="virtual_detector", draws=1)
    (made,) = make_pairs(one.with_settings({"scan.annuli": [[0.2, 0.8]]}))
    assert "0.2-0.8" in made.channels


def test_what_is_done_stays_when_a_later_scan_fails(tmp_path):
    names = stored(tmp_path, 2)
    spoiled = disk(1).counts.astype(np.float32)
    spoiled[1, 3, 4] = 0.5
    native.write(replace(disk(1), counts=spoiled), tmp_path / "film 1.h5")
    with pytest.raises(BadInput, match=r"film 1\.h5: counts: '?0\.5'? is not a number of counts"):
        save_pairs(recipe(files=names), tmp_path / "pairs")
    meta = json.loads((tmp_path / "pairs" / "meta.json").read_text())
    assert len(meta["pairs"]) == 2
    assert len(list((tmp_path / "pairs").rglob("*.npy"))) == 4


def test_counts_that_are_none_are_refused_before_anything_is_written(tmp_path):
    names = stored(tmp_path, 2)
    (tmp_path / "b.yaml").write_text("{file: film 1.h5, prepare: [normalise]}")
    with pytest.raises(BadInput, match="cannot be split: leave out steps of prepare"):
        save_pairs(recipe(files=[names[0], str(tmp_path / "b.yaml")]), tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_what_cannot_be_is_said(tmp_path):
    names = stored(tmp_path, 1)
    native.write(replace(disk(0), grid=None), tmp_path / "loose.h5")
    native.write(replace(disk(0), counts=disk(0).counts.astype(np.uint16)), tmp_path / "other.h5")
    (tmp_path / "wide.yaml").write_text("{file: other.h5, semiangle: 4 mrad, annuli: [[0.2, 0.6]]}")
    wide = str(tmp_path / "wide.yaml")
    refused = {
        "names no scan": {},
        "is given twice": {"files": [*names, *names]},
        r"loose\.h5: positions: needs a raster": {"files": [str(tmp_path / "loose.h5")]},
        "does not exist": {"files": [str(tmp_path / "none.h5")]},
        "but 000_film_0 has BF, ABF": {"files": [*names, wide], "task": "virtual_detector"},
    }
    for sentence, knobs in refused.items():
        with pytest.raises(BadInput, match=sentence):
            list(make_pairs(recipe(**knobs)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").touch()
    with pytest.raises(BadInput, match="is not empty: name a new folder"):
        save_pairs(recipe(files=names), tmp_path / "full")


@pytest.mark.parametrize("share", [0, 1, 1.5, [], [0.1, 1.0], "much"])
def test_a_share_that_leaves_one_part_empty_is_refused(share):
    with pytest.raises(BadInput, match="share"):
        recipe(share=share)
