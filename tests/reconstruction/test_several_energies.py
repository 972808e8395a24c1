"""Scans of one object at two energies as one run, on the simulation of `benchmarks.several_energies`."""

from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks import several_energies as pairs
from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.plot.report import trust_facts
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.result_builder import summary_lines
from phaseloom.result import Result

TREE = {"start": "none", "preset": "none", "device": "cpu", "holdout": 0.0, "epochs": 30}
BEGIN = [f"{one} um" for one in pairs.DEFOCUS]


def run(tree: dict[str, Any]) -> tuple[Any, Any]:
    job = Job.begin(Reconstruct.of(TREE | tree))
    for _ in job:
        pass
    return job, job.result()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("energies")
    rng = np.random.default_rng(11)
    thing = pairs.Material.draw(rng, has_edge=True)
    for number in range(2):
        scan = pairs.record(rng, thing, number, places=6, step=4.0, dose=1e6)
        native.write(scan, folder / f"{number}.h5")
    return folder, thing


def make_tree(folder, **more) -> dict[str, Any]:
    step = {"path": str(folder / "1.h5"), "share": "object"} | more.pop("step", {})
    probe = {"of_each_scan": {"defocus_values": BEGIN, "modes": 1}}
    return {"file": str(folder / "0.h5"), "prepare": [{"join": step}], "probe": probe} | more


@pytest.fixture(scope="module")
def done(pair):
    return run(make_tree(pair[0]))


def test_ratios_across_an_edge_are_found(pair, done):
    whole = done[1]
    np.testing.assert_allclose(whole.scan_energies[0, 1:], pair[1].ratios, rtol=0.05)
    np.testing.assert_allclose(whole.scan_energies[:, 0], pairs.ENERGIES, rtol=1e-6)
    np.testing.assert_array_equal(whole.scan_energies[1, 1:], 1.0)
    start = (pairs.WAVELENGTHS[0] / pairs.WAVELENGTHS[1]) ** 3
    assert abs(start / pair[1].ratios[1] - 1) > 1  # where the absorption began


def test_results_say_the_energy_and_the_ratios_of_each_scan(done, tmp_path):
    done[1].save(tmp_path / "result.h5")
    whole: Any = Result.load(tmp_path / "result.h5")
    np.testing.assert_array_equal(whole.scan_energies, done[1].scan_energies)
    assert whole.metrics["scan 0 energy (eV)"] == pytest.approx(8000)
    for number, row in enumerate(whole.scan_energies):
        kept = whole.scans[number]
        assert [kept[name] for name in ("energy (eV)", "phase ratio", "absorption ratio")] == row.tolist()
        assert kept["verdict"]
    facts = dict(trust_facts(whole))
    assert facts["energy of scan 0"].startswith(f"8000 eV: {whole.scan_energies[0, 1]:.4g} times the phase")
    lines = "\n".join(summary_lines(whole))
    assert "8800 eV" in lines
    assert lines.count("phase ratio") == 0  # once, in words


def test_parts_have_their_own_energy_and_make_the_same_patterns(done, tmp_path):
    job, whole = done
    for number, written in enumerate(whole.split()):
        written.save(tmp_path / f"{number}.h5")
        part: Any = Result.load(tmp_path / f"{number}.h5")
        assert part.geometry.energy == pytest.approx(pairs.ENERGIES[number])
        assert part.scan_energies is None
        side = part.probe.shape[-1]
        place = (part.positions[5] - np.array(part.origin)) / np.array(part.pixel)
        corner = np.round(place).astype(int) - side // 2
        window = part.object[0][corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        rows, columns = (np.fft.fftfreq(side) * one for one in place - np.round(place))
        moved = np.fft.ifft2(np.fft.fft2(part.probe) * np.exp(-2j * np.pi * (rows[:, None] + columns)))
        angles = (np.arange(pairs.SIDE) - pairs.SIDE // 2) * pairs.ANGLE
        grid = (np.arange(side) - side // 2) * part.pixel[0] / pairs.WAVELENGTHS[number]
        waves = np.exp(-2j * np.pi * np.outer(angles, grid))
        waves *= np.sqrt(pairs.ANGLE * part.pixel[0] / pairs.WAVELENGTHS[number])
        made = (abs(waves @ (moved * window) @ waves.T) ** 2).sum(0) * part.weights[5]
        wanted = job.model.pattern(36 * number + 5)
        assert abs(made - wanted).sum() < 1e-3 * wanted.sum()


def test_the_object_is_that_of_its_energy(pair, done):
    for number, part in enumerate(done[1].split()):
        correlation, _ = pairs.score(part, pair[1], number)
        assert correlation > 0.995


@pytest.mark.medium
def test_two_weak_scans_show_more_together(tmp_path):
    rng = np.random.default_rng(12)
    thing = pairs.Material.draw(rng, has_edge=False)
    for number in range(2):
        scan = pairs.record(rng, thing, number, places=4, step=8.0, dose=1e5)
        native.write(scan, tmp_path / f"{number}.h5")
    _, whole = run(make_tree(tmp_path, epochs=60))
    for number, part in enumerate(whole.split()):
        probe = {"from_patterns": {"defocus": BEGIN[number], "modes": 1}}
        tree = {"file": str(tmp_path / f"{number}.h5"), "probe": probe, "noise": "poisson", "epochs": 60}
        alone = pairs.score(run(tree)[1], thing, number)[0]
        assert 1 - pairs.score(part, thing, number)[0] < 0.5 * (1 - alone)


def test_what_is_left_open_is_settled_and_repeated(done):
    tree = yaml.safe_load(done[1].recipe)
    assert tree["object"]["pixels"]["kind"] == "amplitude and phase"
    assert "poisson" in tree["noise"]
    assert tree["rates"]["energies"]["start"] == 5
    again = Job.begin(Reconstruct.of(tree | {"epochs": 1}))
    assert again.model.parts()["energies"][0].requires_grad


def test_a_probe_left_open_is_one_of_each_scan_and_ratios_can_be_kept(pair):
    tree = make_tree(pair[0], epochs=1, rates={"energies": 0}) | {"probe": "auto"}
    job, _ = run(tree)
    assert job.recorded.probe.name == "of_each_scan"
    ratio = pairs.WAVELENGTHS[0] / pairs.WAVELENGTHS[1]
    np.testing.assert_allclose(job.model.propagator.ratios.detach()[0], [ratio, ratio**3], rtol=1e-5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"probe": "from_patterns"}, "probe: from_patterns: is not supported with scans of several energies"),
        ({"optimizer": "epie"}, "optimizer: epie: is not supported"),
        ({"object": {"bandlimited": {"pixel": "50 nm"}}}, "object: bandlimited: is not supported"),
        (
            {"object": {"pixels": {"slices": 2, "thickness": "1 um"}}},
            "at several energies: give the object",
        ),
        ({"detector": {"counting": {"bandwidth": 0.01}}}, "bandwidth and spectrum are not supported"),
        (
            {"step": {"offset": "find"}},
            r"offset: find is of scans of one energy, and 1\.h5 has 8\.8 keV",
        ),
        ({"step": {"share": "probe"}}, "have no probe in common: write share: object"),
    ],
)
def test_what_several_energies_cannot_have_is_refused(pair, more, words):
    with pytest.raises(BadInput, match=words):
        Job.begin(Reconstruct.of(TREE | make_tree(pair[0], **more)))


def test_look_and_check_name_the_energies(pair, tmp_path, phaseloom):
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(TREE | make_tree(pair[0])))
    for verb in ("look", "check"):
        shown = phaseloom(verb, path)
        assert not shown.code, shown.err
        lines = [line for line in shown.out.splitlines() if "scan 0 " in line or "scan 1 " in line]
        assert [line.split(", ")[-1].strip() for line in lines] == ["8 keV", "8.8 keV"]
