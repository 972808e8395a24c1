"""From a data file to a predicted phase in a folder, on the command line."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.data.scan import Scan4D
from phaseloom.learning import weight_files as pretrained
from phaseloom.ptycho.probes.guesses import BeamOptics, read_beam_optics
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.networks.linear import linear
from phaseloom.retrieval.networks.tiny import tiny
from phaseloom.retrieval.predict_scans import measure_misfit, predict_missing, predict_scan, write_prediction
from phaseloom.retrieval.prediction import Prediction, predict
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import Sample, simulate_scan

EXPERIMENT = Experiment(scan=(12, 12))
PROBE = {"focused": {"semiangle": "20 mrad", "defocus": "90 A"}}
OPTICS = BeamOptics(semiangle=0.02, aberrations={"defocus": 90.0})


def made(seed: int, experiment: Experiment = EXPERIMENT) -> Sample:
    rng = np.random.default_rng(seed)
    return simulate_scan(specimens.prototypes(experiment.box, rng, thickness=(4.0, 8.0)), experiment)


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> SimpleNamespace:
    """A trained network and a scan that it has not seen, as files."""
    folder = tmp_path_factory.mktemp("predict")
    samples = [made(seed) for seed in range(6)]
    patterns = torch.from_numpy(np.stack([sample.patterns for sample in samples]))
    first, net = linear(components=40, doses=(1.0,)), tiny(components=40, width=4, depth=1)
    first.components.calibrate(patterns)
    first.solve(0, [(patterns, torch.from_numpy(np.stack([s.phase for s in samples])))], ridge=1e-2)
    net.begin(first)
    card = {"name": "toy", "experiment": asdict(EXPERIMENT)}
    path, sample = pretrained.save_network(net, folder / "toy.safetensors", card), made(9)
    native.write(sample.scan(), folder / "scan.h5")
    return SimpleNamespace(model=path, data=folder / "scan.h5", sample=sample, net=net.eval(), card=card)


def recipe(there: SimpleNamespace) -> Reconstruct:
    return Reconstruct.of({"file": str(there.data), "probe": PROBE, "title": "toy scan"})


def test_the_outcome_is_in_the_folder(there, tmp_path):
    outcome = predict_scan(recipe(there), model=there.model)
    paths = write_prediction(outcome, tmp_path / "new")
    assert {path.name for path in paths} == {"prediction.h5", "prediction.png", "prediction.tif"}
    with h5py.File(paths[0]) as opened:
        file: Any = opened
        phase, texts = file["phase"][()], ("card", "notes", "misfit", "recipe")
        card, notes, fit, text = (file[name].asstr()[()] for name in texts)
        np.testing.assert_allclose(file["pixel"][()], 0.4)
        np.testing.assert_allclose(file["origin"][()], 0.0, atol=1e-6)
        assert (file.attrs["model"], len(file["told"])) == ("toy", 8)
    assert np.corrcoef(phase.ravel(), there.sample.phase.ravel())[0, 1] > 0.8
    assert json.loads(card)["experiment"]["step"] == 2.0
    assert json.loads(fit)["predicted"] < json.loads(fit)["flat"]
    assert json.loads(notes) == list(outcome.prediction.notes)
    assert Reconstruct.of(yaml.safe_load(text)).title == "toy scan"
    import tifffile

    assert tifffile.imread(paths[2]).dtype == np.float32


def test_the_truth_explains_the_patterns_and_a_prediction_nearly_so(there):
    scan, truth = there.sample.scan(), there.sample.phase
    found = predict(there.net, there.card, scan, OPTICS)
    own, best = (measure_misfit(replace(found, phase=phase), scan, most=25) for phase in (found.phase, truth))
    opposite = measure_misfit(replace(found, phase=-truth), scan, most=25)
    assert best.predicted < 0.1 * best.flat
    assert own.predicted < 0.35 * own.flat
    assert opposite.predicted > 0.8 * own.flat
    assert measure_misfit(replace(found, phase=0 * truth), scan).predicted == pytest.approx(
        measure_misfit(found, scan).flat
    )


def test_a_stated_source_changes_the_phase_and_neither_its_misfit_nor_its_warnings(there):
    tree = {"focused": {**PROBE["focused"], "source_size": "0.2 A"}}
    wide = Reconstruct.of({"file": str(there.data), "probe": tree, "title": "toy scan"})
    usual, found = (predict_scan(one, model=there.model) for one in (recipe(there), wide))
    assert found.prediction.source_size == 0.2
    assert found.prediction.phase.std() > 1.03 * usual.prediction.phase.std()
    assert found.misfit.explained == pytest.approx(usual.misfit.explained, abs=5e-3)
    assert found.repeatability == pytest.approx(usual.repeatability, abs=5e-3)


def counted(scan: Scan4D, dose: float) -> Scan4D:
    """The same with fewer electrons, and their noise."""
    clean = np.asarray(scan.counts, np.float64)
    rng = np.random.default_rng(0)
    return replace(scan, counts=rng.poisson(clean * (dose / 1e6)).astype(np.float32))


def test_what_is_explained_does_not_depend_on_counting_noise(there):
    scan, truth = there.sample.scan(), there.sample.phase
    found = replace(predict(there.net, there.card, scan, OPTICS), phase=truth)
    clean = measure_misfit(found, replace(scan, counts=np.asarray(scan.counts) / 1e6))
    assert clean.explained is not None
    assert clean.explained > 0.95
    for dose in (1e5, 1e4):
        noisy = measure_misfit(found, counted(scan, dose))
        assert noisy.explained == pytest.approx(clean.explained, abs=0.005 + 4 * (noisy.error or 0))
        assert noisy.flat == pytest.approx(clean.flat, rel=0.1)
        assert (noisy.error or 1) < 0.05
    assert "explains 9" in str(clean) or "explains 100" in str(clean)
    silent = measure_misfit(found, counted(scan, 100.0))
    assert silent.explained is None
    assert "counting noise only" in str(silent)


@pytest.mark.parametrize("dose", [1e6, 2e4])
def test_a_detector_that_lies_wrongly_is_warned_of_and_one_that_lies_rightly_not(there, tmp_path, dose):
    """Old residuals of roots were those of noise here."""
    scan, said = counted(there.sample.scan(), dose), {}
    counts = np.asarray(scan.counts)
    ways = {
        "right": counts,
        "turned": counts[:, ::-1, ::-1],
        "mirrored": counts[:, :, ::-1],
        "transposed": counts.transpose(0, 2, 1),
    }
    for name, seen in ways.items():
        whole = replace(scan, counts=np.ascontiguousarray(seen), mask=np.ones((24, 24), bool))
        native.write(whole, tmp_path / f"{name}.h5")
        one = Reconstruct.of({"file": str(tmp_path / f"{name}.h5"), "probe": PROBE})
        said[name] = predict_scan(one, model=there.model).warnings
    assert not said.pop("right")
    for warnings in said.values():
        assert "explains" in warnings[0]
        assert "orientation of the detector" in warnings[0]


def explained(found: Prediction, scan: Scan4D) -> float:
    share = measure_misfit(found, scan).explained
    assert share is not None
    return share


def test_a_prediction_at_a_wrong_defocus_explains_less(there):
    scan = there.sample.scan()
    found = predict(there.net, there.card, scan, OPTICS)
    shares = [explained(replace(found, aberrations={"defocus": z}), scan) for z in (90.0, 60.0, -90.0)]
    assert shares[0] > 0.9 > shares[1] > shares[2]


def test_a_small_detector_and_a_hot_pixel_do_not_spoil_the_judgement(there):
    scan, truth = there.sample.scan(), there.sample.phase
    found = replace(predict(there.net, there.card, scan, OPTICS), phase=truth)
    counts = np.asarray(scan.counts).copy()
    counts[:, 8, 15] = 1e6
    assert explained(found, replace(scan, counts=counts)) > 0.95
    assert explained(found, prepare.crop(scan, to=(14, 14))) > 0.9


def test_the_place_of_a_prediction_counts(there):
    scan, truth = there.sample.scan(), there.sample.phase
    found = predict(there.net, there.card, scan, OPTICS)
    moved = replace(found, phase=truth, origin=(found.origin[0] + 0.4, found.origin[1]))
    assert (
        measure_misfit(moved, scan, most=25).predicted
        > 2 * measure_misfit(replace(found, phase=truth), scan, most=25).predicted
    )


def test_a_prediction_worse_than_nothing_is_warned_of(there, tmp_path):
    net, generator = tiny(components=4, width=4, depth=1), torch.Generator().manual_seed(0)
    for value in (net.estimate.weight, net.components.basis):
        torch.nn.init.normal_(value, std=0.3, generator=generator)
    path = pretrained.save_network(net, tmp_path / "wild.safetensors", there.card)
    outcome = predict_scan(recipe(there), model=path)
    assert "no better than no object" in outcome.warnings[0]
    assert not predict_scan(recipe(there), model=there.model).warnings


def test_what_a_parameter_file_says_of_the_beam_is_taken():
    values = {"semiangle": "20 mrad", "astigmatism": "4 A", "aberrations": {"C30": "1 um"}}
    found = read_beam_optics(Reconstruct.of({"probe": {"focused": values}}).probe)
    assert found == BeamOptics(semiangle=0.02, aberrations={"C12": 4.0, "C30": 1e4})
    assert read_beam_optics(Reconstruct.of({}).probe) == BeamOptics()
    guess = Reconstruct.of({"probe": {"from_patterns": {"defocus": "9 nm"}}})
    assert read_beam_optics(guess.probe) == BeamOptics(aberrations={"defocus": 90.0})


def test_the_verb_predicts(there, phaseloom, tmp_path):
    (tmp_path / "run.yaml").write_text(f"file: {there.data}\nprobe: {json.dumps(PROBE)}\n")
    done = phaseloom("predict", "scan", "run.yaml", "--model", there.model, "--out", "here", "--dose", "1e6")
    assert done.code == 0, done.err
    assert "phase: 66 x 66 pixels of 0.4 A" in done.out
    assert "misfit 0.0" in done.out
    assert "of what differs from pattern to pattern" in done.out
    assert "(flat object 0.1" in done.out
    assert "WARN" not in done.out
    assert Path("here/prediction.h5").exists()
    assert Path("here/prediction.png").read_bytes()[:4] == b"\x89PNG"
    again = phaseloom("predict", "scan", "run.yaml", "--model", there.model, "--out", "here")
    assert again.code == 2
    assert "holds a prediction already" in again.err


def test_the_verb_ends_in_a_sentence(there, phaseloom):
    wrong = phaseloom(
        "predict",
        "scan",
        there.data,
        "-m",
        there.model,
        "-s",
        "probe.focused={semiangle: 20 mrad, defocus: 130 A}",
    )
    assert wrong.code == 2
    assert wrong.err.startswith("phaseloom: defocus: 130 A, but at 20 mrad and 80 keV")
    none = phaseloom("predict", "scan", there.data, "-m", "no such")
    assert none.code == 2
    assert "is neither a file nor a model of the package" in none.err
    assert "scan" in phaseloom("predict", "--help").out


def several(there: SimpleNamespace, folder: Path) -> list[Path]:
    """Two scans, and a file that is none."""
    paths = [folder / f"{name}.h5" for name in ("one", "two", "none")]
    for path in paths[:2]:
        path.write_bytes(there.data.read_bytes())
    paths[2].write_bytes(b"no scan")
    return paths


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_many_scans_are_predicted_and_what_is_there_is_left_alone(phaseloom, there, tmp_path, workers):
    paths, out = several(there, tmp_path), tmp_path / "out"
    words = ["--model", there.model, "--out", out, "--workers", workers]
    words += [f"--set=probe.focused.{knob}={value}" for knob, value in PROBE["focused"].items()]
    done = phaseloom("predict", "scans", *paths, *words)
    assert done.code == 2
    assert "1 of 3 scans could not be predicted" in done.err
    assert "one.h5: done" in done.out
    alone = predict_scan(recipe(there), model=there.model).prediction.phase
    with h5py.File(out / "two" / "prediction.h5") as file:
        np.testing.assert_array_equal(file["phase"][()], alone)
    with h5py.File(out / "two" / "prediction.h5", "a") as file:
        file["warnings"][()] = json.dumps(["doubt it"])
    before = (out / "one" / "prediction.h5").stat().st_mtime_ns
    again = phaseloom("predict", "scans", *paths[:2], *words)
    assert not again.code, again.err
    assert "2 of 2 predictions are there already" in again.out
    assert (out / "one" / "prediction.h5").stat().st_mtime_ns == before
    assert "two.h5: kept WARN doubt it" in again.out
    (out / "two" / "asked.json").unlink()  # as a process leaves it that was killed
    again = phaseloom("predict", "scans", *paths[:2], *words)
    assert "1 of 2 predictions are there already" in again.out
    assert "two.h5: done" in again.out
    other = phaseloom("predict", "scans", *paths[:2], *words, "--dose", 500)
    assert "one holds a prediction of another value of dose: name another --out" in other.err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "one.h5").write_bytes(paths[0].read_bytes())
    other = phaseloom("predict", "scans", tmp_path / "other" / "one.h5", *words)
    assert "one holds a prediction of another value of file, data: name another --out" in other.err


@pytest.mark.slow
def test_workers_of_a_cluster_predict_the_same(there, tmp_path):
    distributed = pytest.importorskip("distributed")
    scans = [Reconstruct.of({"file": str(p), "probe": PROBE}) for p in several(there, tmp_path)]
    few = {"n_workers": 1, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(**few) as cluster:
        told = {"model": str(there.model), "scheduler": cluster.scheduler_address}
        said = dict(predict_missing(scans, tmp_path / "out", **told))
    assert [bool(said[scan.file]) for scan in scans] == [False, False, True]
    alone = predict_scan(recipe(there), model=there.model).prediction.phase
    with h5py.File(tmp_path / "out" / "two" / "prediction.h5") as file:
        np.testing.assert_array_equal(file["phase"][()], alone)


def test_two_scans_of_one_name_are_refused(phaseloom, there, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [several(there, tmp_path)[0], several(there, tmp_path / "other")[0]]
    ended = phaseloom("predict", "scans", *paths, "--out", tmp_path / "out")
    assert "would share a folder" in ended.err
