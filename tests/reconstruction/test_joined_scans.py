"""Several scans as one run: its models and results are those of each scan; NumPy makes the patterns."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.export import ptyrad
from phaseloom.fitting.outcome import Judgement, Verdict
from phaseloom.ptycho import noise, probes
from phaseloom.reconstruction.evidence import JoinedScanFit, doubt_scans
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.result_builder import summary_lines
from phaseloom.reconstruction.starts.offsets import find_offsets, register_objects
from phaseloom.result import Result
from phaseloom.spec import Call

SIDE, ANGLE, WAVELENGTH = 32, 1e-4, 1.24
PIXEL = WAVELENGTH / (SIDE * ANGLE)
DEFOCUS = (60.0, 100.0)  # micrometre
TREE = {"start": "none", "preset": "none", "device": "cpu", "holdout": 0.0, "epochs": 40}


def make_object(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :90]
    phase = np.zeros(y.shape)
    for at in rng.uniform(0, 90, (250, 2)):
        phase += rng.uniform(0.2, 0.6) * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 6)
    return np.exp(1j * phase)


def make_probe(defocus: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q = (np.arange(SIDE) - SIDE // 2) * ANGLE
    square = q[:, None] ** 2 + q**2
    pupil = (square < (9 * ANGLE) ** 2) * np.exp(1j * np.pi / WAVELENGTH * 1e4 * defocus * square)
    pupil = pupil * np.exp(0.3j * rng.normal(size=pupil.shape))
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))
    return probe / np.sqrt((abs(probe) ** 2).sum())


def make_scan(
    thing: np.ndarray, probe: np.ndarray, seed: int, *, at: float = 12.0, dose: float = 3e5
) -> Scan4D:
    rng = np.random.default_rng(seed)
    raster = np.indices((4, 4)).reshape(2, -1).T * 6
    corners = np.round(raster + rng.uniform(-1, 1, raster.shape) + at).astype(int)
    waves = [probe * thing[y : y + SIDE, x : x + SIDE] for y, x in corners]
    far = [np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave), norm="ortho")) for wave in waves]
    geometry = Geometry(wavelength=WAVELENGTH, shape=(SIDE, SIDE), angle=(ANGLE, ANGLE), distance=1e10)
    counts = rng.poisson(dose * np.abs(far) ** 2).astype(np.float32)
    return Scan4D(counts=counts, positions=(corners + SIDE // 2) * PIXEL, geometry=geometry)


def run(tree) -> tuple[Any, Any]:
    job = Job.begin(Reconstruct.of(TREE | tree))
    for _ in job:
        pass
    return job, job.result()


def correlate(result: Result, thing: np.ndarray, scan: Scan4D) -> float:
    """Of the object with the truth over the scanned field, at the shift by pixels where it is largest."""
    wanted_at = np.round(scan.positions / PIXEL).astype(int)
    low, high = wanted_at.min(0), wanted_at.max(0)
    wanted = thing[low[0] : high[0], low[1] : high[1]]
    places = (result.positions - np.array(result.origin)) / np.array(result.pixel)
    first = np.round((places - scan.positions / PIXEL).mean(0)).astype(int) + low
    best = 0.0
    for move in np.indices((7, 7)).reshape(2, -1).T - 3:
        top, left = first + move
        found = result.object[0][top : top + wanted.shape[0], left : left + wanted.shape[1]]
        spectrum = np.fft.fft2(found * wanted.conj(), (256, 256))
        best = max(best, abs(spectrum).max() / np.sqrt((abs(found) ** 2).sum() * (abs(wanted) ** 2).sum()))
    return best


def overlap(wave: np.ndarray, number: int) -> float:
    """Of a probe with one of the true ones, wherever it lies."""
    true = make_probe(DEFOCUS[number], number)
    product = np.fft.ifft2(np.fft.fft2(wave) * np.fft.fft2(true).conj())
    return abs(product).max() / np.sqrt((abs(wave) ** 2).sum())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    things = [make_object(1), make_object(2)]
    beams = [make_probe(one, seed) for seed, one in enumerate(DEFOCUS)]
    scans = {
        "first": make_scan(things[0], beams[0], 1),
        "same object": make_scan(things[0], beams[1], 2, at=14.0),
        "other object": make_scan(things[1], beams[0], 3, dose=1e5),
    }
    for name, scan in scans.items():
        native.write(scan, folder / f"{name}.h5")
    return folder, scans, things


def share_object(files) -> dict:
    folder, _, _ = files
    values = [f"{one} um" for one in DEFOCUS]
    return {
        "file": str(folder / "first.h5"),
        "prepare": [{"join": {"path": str(folder / "same object.h5"), "share": "object"}}],
        "probe": {"of_each_scan": {"defocus_values": values, "modes": 1}},
    }


def share_probe(files) -> dict:
    folder, _, _ = files
    return {
        "file": str(folder / "first.h5"),
        "prepare": [{"join": {"path": str(folder / "other object.h5")}}],
        "probe": {"from_patterns": {"defocus": f"{DEFOCUS[0]} um", "modes": 1}},
    }


def test_patterns_of_a_scan_are_those_of_its_own_probe_and_no_other(files):
    model: Any = Job.begin(Reconstruct.of(TREE | share_object(files))).model
    before = model(torch.arange(32)).detach().clone()
    with torch.no_grad():
        model.probe.relative[1] *= 1.5
    after = model(torch.arange(32)).detach()
    assert torch.equal(before[:16], after[:16])
    torch.testing.assert_close(after[16:], 2.25 * before[16:], rtol=1e-3, atol=1e-2)
    assert "opr_weights" not in model.parts()


def test_guesses_of_probes_are_those_of_each_scan_by_itself(files):
    _, scans, _ = files
    both = Reconstruct.of(TREE | share_object(files)).scan()
    found = probes.of_each_scan(both, defocus_values=[6e5, 1e6], modes=2)
    for number, (name, focus) in enumerate((("first", 6e5), ("same object", 1e6))):
        own = probes.from_patterns(scans[name], defocus=focus, modes=2).modes()
        mixed = found.modes_of(torch.tensor([16 * number + 3]))[0]
        torch.testing.assert_close(mixed, own, rtol=1e-5, atol=1e-5)


@pytest.mark.medium
def test_two_probes_show_one_object_better_than_either(files):
    folder, scans, things = files
    _, whole = run(share_object(files))
    parts = whole.split()
    for part, name, focus in zip(parts, ("first", "same object"), DEFOCUS, strict=True):
        probe = {"from_patterns": {"defocus": f"{focus} um", "modes": 1}}
        _, alone = run({"file": str(folder / f"{name}.h5"), "probe": probe})
        together = correlate(part, things[0], scans[name])
        assert 1 - together < 0.5 * (1 - correlate(alone, things[0], scans[name]))
        assert part.probe.shape == (1, SIDE, SIDE)
    for part, own, other in zip(parts, (0, 1), (1, 0), strict=True):
        assert overlap(part.probe[0], own) > overlap(part.probe[0], other) + 0.02


def test_two_samples_under_one_probe_come_apart_in_their_own_frames(files, tmp_path):
    _, scans, things = files
    job, whole = run(share_probe(files))
    whole.save(tmp_path / "result.h5")
    parts: list[Any] = Result.load(tmp_path / "result.h5").split()
    assert job.scan.scan_numbers is not None
    for part, name, thing in zip(parts, ("first", "other object"), things, strict=True):
        np.testing.assert_allclose(part.positions_start, scans[name].positions, atol=1e-6)
        assert correlate(part, thing, scans[name]) > 0.9
        assert part.coverage.shape == part.object.shape[1:]
        assert len(part.weights) == 16
        again = tmp_path / f"{name}.h5"
        part.save(again)
        assert Result.load(again).scan_numbers is None
    ratio = parts[1].weights.mean() / parts[0].weights.mean()
    assert ratio == pytest.approx(1 / 3, rel=0.1)  # of the doses


def test_a_result_of_one_scan_is_not_split_and_a_single_scan_has_one_probe(files):
    folder, _, _ = files
    job = Job.begin(Reconstruct.of(TREE | share_probe(files) | {"epochs": 1}))
    for _ in job:
        pass
    one = replace(job.result(), scan_numbers=None)
    with pytest.raises(BadInput, match="is of one scan"):
        one.split()
    alone = {"file": str(folder / "first.h5"), "probe": {"of_each_scan": {}}}
    with pytest.raises(BadInput, match="probe: of_each_scan: needs several scans"):
        Job.begin(Reconstruct.of(TREE | alone))
    wrong = share_object(files) | {"probe": {"of_each_scan": {"defocus_values": ["1 um"]}}}
    with pytest.raises(BadInput, match=r"of_each_scan\.defocus_values.* each of the 2 scans"):
        Job.begin(Reconstruct.of(TREE | wrong))


def test_the_command_writes_a_result_for_each_scan_and_overwrites_none(files, tmp_path, phaseloom):
    _, whole = run(share_probe(files) | {"epochs": 2})
    whole.save(tmp_path / "run" / "result.h5")
    done = phaseloom("split", tmp_path / "run")
    assert not done.code, done.err
    assert [Result.load(tmp_path / "run" / f"scan-{n}.h5").title[-6:] for n in (0, 1)] == ["scan 0", "scan 1"]
    again = phaseloom("split", tmp_path / "run")
    assert again.code == 2
    assert "exists already" in again.err


def test_parts_say_whose_verdict_they_have_and_do_not_repeat_the_whole(files, tmp_path):
    _, whole = run(share_probe(files) | {"epochs": 1})
    whole.split()[1].save(tmp_path / "part.h5")
    part = Result.load(tmp_path / "part.h5")
    assert "of all joined scans together, not of this one" in part.verdict
    with pytest.raises(BadInput, match=r"part\.h5: has no parameter file of its own"):
        Reconstruct.from_path(tmp_path / "part.h5")


@pytest.fixture(scope="module")
def weak_scan(files):
    """Ten times fewer photons per pattern than in the first scan, at positions of other patterns."""
    folder, _, things = files
    scan = make_scan(things[1], make_probe(DEFOCUS[0], 0), 5, dose=1e4)
    order = np.random.default_rng(0).permutation(len(scan))
    native.write(replace(scan, positions=scan.positions[order]), folder / "weak.h5")
    return folder / "weak.h5"


def test_a_bad_scan_among_good_ones_is_named_and_its_part_has_its_own_verdict(files, weak_scan, tmp_path):
    _, whole = run(share_probe(files) | {"prepare": [{"join": {"path": str(weak_scan)}}]})
    assert whole.verdict_code in ("doubtful", "wrong_start")
    assert "scan 1 (weak.h5)" in whole.verdict
    whole.save(tmp_path / "result.h5")
    good, bad = Result.load(tmp_path / "result.h5").split()
    assert bad.verdict_code in ("doubtful", "wrong_start")
    assert good.verdict_code not in ("doubtful", "wrong_start")
    assert [part.metrics["loss"] for part in (good, bad)] == [one["loss"] for one in whole.scans]
    assert good.metrics["loss"] != bad.metrics["loss"]
    lines = "\n".join(summary_lines(whole))
    assert f"scan 1 (weak.h5)                 {bad.verdict_code.replace('_', ' ')}, chi^2" in lines


def test_losses_of_scans_are_those_of_all_and_of_patterns_held_out(files):
    job, whole = run(share_object(files) | {"holdout": 0.2})
    likelihood = job.level.likelihood
    for number, one in enumerate(whole.scans):
        own = torch.arange(16) + 16 * number
        floor = noise.shot_noise(likelihood.divergence, likelihood.measured[own], job.model.detector.mask)
        with torch.no_grad():
            terms = float(likelihood(own)["noise"])
        assert one["loss"] == pytest.approx(terms * likelihood.floor / floor, rel=1e-3)
        assert one["hold-out"] > one["loss"]
    assert [one["file"] for one in whole.scans] == ["first.h5", "same object.h5"]


def test_an_offset_of_the_wrong_sign_is_doubted(files, tmp_path):
    _, scans, _ = files
    move = np.array([4.0, -5.0]) * PIXEL
    away = replace(scans["same object"], positions=scans["same object"].positions - move)
    native.write(away, tmp_path / "away.h5")
    tree = share_object(files)
    for sign, right in ((1, True), (-1, False)):
        offset = [f"{sign * one} A" for one in move]
        step = {"join": {"path": str(tmp_path / "away.h5"), "share": "object", "offset": offset}}
        _, whole = run(tree | {"prepare": [step]})
        assert (whole.verdict_code in ("doubtful", "wrong_start")) != right
        assert ("offset of join" in whole.verdict) != right


def lay_on_grid(result: Result, thing: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> Result:
    """A result that shows a cut of an object, with a phase ramp of its own, in the frame of that object."""
    y, x = corner
    seen = thing[y : y + size[0], x : x + size[1]]
    ramp = np.exp(1j * (0.7 + 0.02 * np.arange(size[0])[:, None] - 0.03 * np.arange(size[1])))
    origin = (y * result.pixel[0], x * result.pixel[1])
    return replace(result, object=(seen * ramp)[None], coverage=np.ones(size), origin=origin)


@pytest.mark.parametrize("corner", [(3, 11), (20, 0), (0, 26)])
def test_objects_are_registered_whatever_their_ramps_sizes_and_brightness(files, corner):
    _, whole = run(share_probe(files) | {"epochs": 1})
    thing = make_object(1)
    first = lay_on_grid(whole, thing, (8, 9), (41, 52))
    second = lay_on_grid(whole, 0.3 * thing, corner, (47, 43))
    stage = np.array([5.25, -2.5]) * np.array(whole.pixel)  # by which the second one reads too little
    origin = tuple(np.array(second.origin) - stage)
    found = register_objects(first, replace(second, origin=origin))
    assert found is not None
    assert found.is_clear
    np.testing.assert_allclose(found.offset, stage, atol=0.05 * whole.pixel[0])
    other = lay_on_grid(whole, make_object(7), corner, (47, 43))
    mistaken = register_objects(first, other)
    assert mistaken is None or not mistaken.is_clear


def test_a_lattice_has_no_clear_offset(files):
    _, whole = run(share_probe(files) | {"epochs": 1})
    y, x = np.mgrid[:90, :90]
    lattice = np.exp(0.4j * np.cos(2 * np.pi * y / 9) * np.cos(2 * np.pi * x / 9))
    found = register_objects(
        lay_on_grid(whole, lattice, (0, 0), (50, 50)), lay_on_grid(whole, lattice, (13, 4), (50, 50))
    )
    assert found is None or not found.is_clear


def test_the_offset_of_a_shared_object_is_found_and_said_and_written(files, tmp_path):
    _, scans, things = files
    move = np.array([5.0, -7.0]) * PIXEL
    away = replace(scans["same object"], positions=scans["same object"].positions - move)
    native.write(away, tmp_path / "away.h5")
    step = {"join": {"path": str(tmp_path / "away.h5"), "share": "object", "offset": "find"}}
    job, whole = run(share_object(files) | {"prepare": [step]})
    found = np.array(job.recorded.prepare[0].values["offset"])
    np.testing.assert_allclose(found, move, atol=2 * PIXEL)  # the probes may lie off their centres
    assert "join: the offset of away.h5 is [" in job.start_lines()[0]
    assert "find" not in Reconstruct.of(yaml.safe_load(whole.recipe)).to_text()
    assert whole.verdict_code not in ("doubtful", "wrong_start")
    assert correlate(whole.split()[0], things[0], scans["first"]) > 0.98


def test_an_offset_is_found_in_the_frame_before_later_steps(files, tmp_path):
    _, scans, _ = files
    move = np.array([5.0, -7.0]) * PIXEL
    for name, shift in (
        ("one", 0.0 * move),
        ("two", move),
    ):  # the stage counts x the other way, in half steps
        places = (scans["first"].positions - shift) * [1, -0.5]
        native.write(replace(scans["first"], positions=places), tmp_path / f"{name}.h5")
    steps = [
        {"join": {"path": str(tmp_path / "two.h5"), "share": "object", "offset": "find"}},
        {"scale": {"factor": [1.0, -2.0]}},
    ]
    probe = {"from_patterns": {"defocus": f"{DEFOCUS[0]} um", "modes": 1}}
    tree = TREE | {"file": str(tmp_path / "one.h5"), "prepare": steps, "probe": probe, "epochs": 1}
    job = Job.begin(Reconstruct.of(tree))
    np.testing.assert_allclose(job.recorded.prepare[0].values["offset"], move * [1, -0.5], atol=0.3 * PIXEL)


def test_scans_without_a_common_place_are_refused_by_a_sentence(files):
    folder, _, _ = files
    step = {"join": {"path": str(folder / "other object.h5"), "share": "object", "offset": "find"}}
    tree = share_object(files) | {"prepare": [step]}
    with pytest.raises(BadInput, match=r"join\.offset: find shows no offset at which other object\.h5 sees"):
        Job.begin(Reconstruct.of(TREE | tree))
    step["join"]["share"] = "probe"
    with pytest.raises(BadInput, match="write share: object"):
        Job.begin(Reconstruct.of(TREE | tree | {"prepare": [step]}))
    with pytest.raises(BadInput, match=r"run\.yaml: run that, or state a number"):
        Reconstruct.of(TREE | share_object(files) | {"prepare": [step]}).scan()


def test_scans_that_no_probe_explains_are_a_wrong_start_whatever_the_losses_did():
    pair = [
        JoinedScanFit(0, "a.h5", 9.4, 12.6, 13.6, None, True),
        JoinedScanFit(1, "b.h5", 9.2, 12.7, 12.0, None, True),
    ]
    said = Judgement(Verdict.OVERFITTING, "overfitting: the hold-out loss rises")
    doubts = doubt_scans(pair, said, 60)
    assert {one.verdict for one in doubts} == {Verdict.WRONG_START}
    assert "defocus_values" in doubts[0].sentence
    broken = Judgement(Verdict.BROKE_DOWN, "broke down")
    assert not doubt_scans(pair, broken, 60)
    good = [replace(one, loss=1.1, holdout=1.2) for one in pair]
    assert not doubt_scans(good, said, 60)


def test_a_weak_scan_of_which_nothing_is_explained_is_doubted_and_a_weak_one_near_the_noise_is_not():
    said = Judgement(Verdict.CONVERGED, "converged: what is left is 0.95 times shot noise")
    bright = JoinedScanFit(0, "a.h5", 0.91, 6.4, 1.03, (0.98, 0.004))
    mirrored = JoinedScanFit(1, "b.h5", 1.07, 1.32, 1.11, (-0.43, 0.16))
    doubts = doubt_scans([bright, mirrored], said, 60)
    assert [one.verdict for one in doubts] == [Verdict.DOUBTFUL]
    assert "scan 1 (b.h5)" in doubts[0].sentence
    assert "patterns held out show nothing of the object" in doubts[0].sentence
    for holdout, explained in ((0.98, (0.14, 0.15)), (1.11, (0.5, 0.16)), (1.04, (0.03, 0.13))):
        right = replace(mirrored, loss=0.92, holdout=holdout, explained=explained)
        assert not doubt_scans([bright, right], said, 60)


def test_a_weak_scan_beside_a_bright_one_is_weighted_as_alone_where_its_offset_is_looked_for(files, tmp_path):
    _, _, things = files
    native.write(make_scan(things[0], make_probe(DEFOCUS[1], 1), 2, dose=1e4), tmp_path / "weak.h5")
    step = {"join": {"path": str(tmp_path / "weak.h5"), "share": "object", "offset": "find"}}
    _, done = run(share_probe(files) | {"epochs": 1})
    means = []

    def note(recipe: Reconstruct, scan: Scan4D) -> Any:
        means.append(scan.weights.mean())  # pyright: ignore[reportOptionalMemberAccess]
        return SimpleNamespace(result=lambda: done, start=None)

    recipe = Reconstruct.of(TREE | share_object(files) | {"prepare": [step]})
    find_offsets(recipe, None, run=note)
    assert means == pytest.approx([1, 1])


@pytest.mark.parametrize("is_oriented", [True, False])
def test_the_start_of_each_scan_alone_is_found_where_it_is_left_open(files, tmp_path, is_oriented):
    _, scans, _ = files
    for name in ("first", "same object"):
        counts = np.array(scans[name].counts)
        counts[:, :, 20:23] = 0  # between modules, in no mask
        native.write(replace(scans[name], counts=counts, oriented=is_oriented), tmp_path / f"{name}.h5")
    step = {"join": {"path": str(tmp_path / "same object.h5"), "share": "object", "offset": "find"}}
    seen = []
    start = SimpleNamespace(steps=lambda: (Call("phaseloom.data.prepare", "transpose"),))

    def note(recipe: Reconstruct, scan: Scan4D) -> Any:
        seen.append((recipe.start, np.flatnonzero((~scan.mask).all(0)), np.flatnonzero((~scan.mask).all(1))))
        if len(seen) == 2:
            raise InterruptedError
        return SimpleNamespace(result=lambda: None, start=None if is_oriented else start)

    tree = TREE | {"file": str(tmp_path / "first.h5"), "prepare": [step]}
    with pytest.raises(InterruptedError):
        find_offsets(Reconstruct.of(tree | {"start": "sweep"}), None, run=note)
    (first, columns, _), (second, *other) = seen
    assert first.name == second.name == "sweep"
    assert "orientations" not in first.values
    assert second.values["orientations"] is False  # both in the orientation of the first one
    assert columns.tolist() == [20, 21, 22]
    assert other[0 if is_oriented else 1].tolist() == [20, 21, 22]
    seen.clear()
    probe = {"of_each_scan": {"defocus_values": ["60 um", "100 um"]}}
    with pytest.raises(InterruptedError):
        find_offsets(Reconstruct.of(tree | {"start": "sweep", "probe": probe}), None, run=note)
    assert [one[0].name for one in seen] == ["none", "none"]


def test_weights_of_frames_of_very_different_brightness_stay_positive_and_approach_it(tmp_path):
    scan = make_scan(make_object(1), make_probe(DEFOCUS[0], 0), 1)
    counts: np.ndarray = np.array(scan.counts)
    counts[::7] = make_scan(make_object(1), make_probe(DEFOCUS[0], 0), 1, dose=1.5e7).counts[
        np.arange(0, 16, 7)
    ]
    native.write(replace(scan, counts=counts), tmp_path / "scan.h5")
    probe = {"from_patterns": {"defocus": f"{DEFOCUS[0]} um", "modes": 1}}
    _, whole = run({"file": str(tmp_path / "scan.h5"), "probe": probe, "rates": {"weights": 0.3}})
    assert whole.verdict_code != "broke_down"
    weights: Any = whole.weights
    assert weights.min() > 0
    assert weights[::7].min() > 3 * np.delete(weights, np.arange(0, 16, 7)).max()


def test_look_and_check_show_each_scan(files, tmp_path, phaseloom):
    tree = share_probe(files)
    (tmp_path / "joined.yaml").write_text(yaml.safe_dump(TREE | tree), encoding="utf-8")
    seen = phaseloom("look", tmp_path / "joined.yaml", "--picture", tmp_path / "look.png")
    assert not seen.code, seen.err
    lines = [line for line in seen.out.splitlines() if line.strip().startswith("scan ")]
    assert len(lines) == 2
    assert "16 patterns of 32 x 32 pixels" in lines[0]
    assert "3e+05 counts each" in lines[0]
    assert "1e+05 counts each" in lines[1]


def test_export_to_ptyrad_says_what_it_loses(files, tmp_path, caplog):
    _, whole = run(share_object(files) | {"epochs": 1})
    ptyrad(whole, tmp_path)
    assert "one probe for all patterns" in caplog.text
    assert "phaseloom split" in caplog.text
    caplog.clear()
    ptyrad(whole.split()[0], tmp_path / "part.hdf5")
    assert "one probe" not in caplog.text
