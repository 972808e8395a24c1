"""A reconstruction that starts from a predicted object: in its place, only if the data agree, and faster.

Without a trial of both starts (`test_start_race`).
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from phaseloom import cli
from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.networks.linear import NOISELESS_DOSE_NUMBER, linear
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import Sample, simulate_scan

EXPERIMENT = Experiment(scan=(14, 14))
TREE: dict[str, Any] = {
    "prepare": [{"enlarge": {"to": [64, 64], "match": "resample"}}],
    "probe": {"focused": {"semiangle": "20 mrad", "defocus": "90 A", "modes": 1, "soft": True}},
    "start": "none",
    "compare_starts": False,
    "epochs": 3,
    "device": "cpu",
}
WILD = {"optimizer": "adam", "rates": {"object": 0.3, "probe": 0.3, "positions": 0, "affine": 0}}


def made(seed: int, experiment: Experiment) -> Sample:
    rng = np.random.default_rng(seed)
    return simulate_scan(specimens.prototypes(experiment.box, rng, thickness=(4.0, 8.0)), experiment)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A network, one that says the opposite three times as loud, and a scan that neither has seen."""
    folder, samples = tmp_path_factory.mktemp("warm"), [made(seed, EXPERIMENT) for seed in range(12)]
    patterns = torch.from_numpy(np.stack([sample.patterns for sample in samples]))
    net = linear(components=40, doses=(NOISELESS_DOSE_NUMBER,))
    net.components.calibrate(patterns)
    net.solve(0, [(patterns, torch.from_numpy(np.stack([s.phase for s in samples])))], ridge=1e-3)
    card = {"experiment": asdict(EXPERIMENT)}
    good = pretrained.save_network(net, folder / "good.safetensors", card)
    net.weight.data *= -3
    wrong = pretrained.save_network(net, folder / "wrong.safetensors", card)
    sample = made(9, replace(EXPERIMENT, scan=(13, 15), detector=None))
    native.write(sample.scan(), folder / "scan.h5")
    return SimpleNamespace(good=good, wrong=wrong, sample=sample, file=folder / "scan.h5")


def tree(there: SimpleNamespace, model: Path | None, **more: Any) -> dict[str, Any]:
    start = {} if model is None else {"object": {"predicted": {"model": str(model)}}}
    return {**TREE, "file": str(there.file), **start, **more}


def begun(there: SimpleNamespace, model: Path | None, folder: Path | None = None, **more: Any) -> Job:
    return Job.begin(Reconstruct.of(tree(there, model, **more)), folder)


def ended(job: Job) -> Job:
    for _ in job:
        pass
    return job


def transmission(job: Job) -> torch.Tensor:
    return job.model.object.transmission().detach().clone()


def seen(job: Job, first: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    """Phase of the object from a place (y, x) of the scan on, angstrom."""
    canvas = job.model.scan.canvas
    y, x = (round((a - o) / p) for a, o, p in zip(first, canvas.origin, canvas.pixel, strict=True))
    return transmission(job)[0, 0].angle().numpy()[y : y + shape[0], x : x + shape[1]]


def alike(one: np.ndarray, other: np.ndarray) -> float:
    inner = (slice(8, -8), slice(8, -8))
    return float(np.corrcoef(one[inner].ravel(), other[inner].ravel())[0, 1])


@pytest.mark.parametrize("offset", [(0.0, 0.0), (104.0, -30.8)])
def test_the_object_lies_where_the_scan_does(there, offset):
    scan, true = there.sample.scan(), there.sample.phase
    moved = replace(scan, positions=scan.positions + np.array(offset))
    recipe = Reconstruct.of(tree(there, there.good))
    job = Job.begin(recipe, scan=moved)
    assert job.model.scan.canvas.pixel == pytest.approx((0.4, 0.4))
    found = seen(job, offset, true.shape)  # the truth's first pixel is at zero
    assert alike(found, true) > 0.8
    for wrong in (found[::-1], found[:, ::-1], np.roll(found, 2, 0), np.roll(found, 2, 1)):
        assert alike(wrong, true) < 0.75
    square = min(true.shape)
    assert alike(found[:square, :square].T, true[:square, :square]) < 0.5


def test_around_the_scan_there_is_vacuum(there):
    outer = transmission(begun(there, there.good))[0, 0]
    assert (outer.abs() - 1).abs().max() < 1e-3
    assert outer[:10].angle().abs().max() < 1e-6


def test_a_prediction_that_explains_the_patterns_is_taken(there):
    job = begun(there, there.good)
    worth = job.recipe.found["start"]
    assert worth["predicted"] < 0.2 * worth["empty"]
    assert job.progress.best is not None
    assert job.progress.best[0] == 0
    assert transmission(job).angle().std() > 0.05


def test_one_that_is_taken_although_it_explains_little_is_doubted(there, caplog):
    """A mirrored detector: better than no object, and wrong."""
    scan = there.sample.scan()
    recipe = Reconstruct.of(tree(there, there.good))
    assert Job.begin(recipe, scan=scan).progress.best is not None
    assert not [text for text in caplog.messages if "object: predicted" in text]
    mirrored = replace(scan, counts=np.ascontiguousarray(across(np.asarray(scan.counts))))
    job = Job.begin(recipe, scan=mirrored)
    doubts = [text for text in caplog.messages if "object: predicted: explains" in text]
    assert (job.progress.best is not None) == bool(doubts)
    assert doubts


def across(counts: np.ndarray) -> np.ndarray:
    """Patterns whose columns are turned about zero frequency."""
    return np.roll(counts[:, :, ::-1], 1 - counts.shape[-1] % 2, axis=2)


def test_a_prediction_that_does_not_is_left_out(there):
    job = begun(there, there.wrong)
    worth = job.recipe.found["start"]
    assert worth["predicted"] >= worth["empty"]
    assert (transmission(job) == 1).all()
    assert job.progress.best is None


@pytest.mark.slow
def test_one_that_is_left_out_changes_nothing(there):
    left, none = ended(begun(there, there.wrong)), ended(begun(there, None))
    losses = [[event["loss"] for event in job.progress.history] for job in (left, none)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_run_that_only_harms_ends_with_the_prediction(there):
    job = begun(there, there.good, **WILD)
    start = transmission(job)
    ended(job)
    held = [event["holdout"] for event in job.progress.history]
    assert job.progress.best is not None
    assert min(held) > 1.01 * job.progress.best[1]
    assert job.progress.result_epoch == 0
    assert "the result is that of epoch 0" in job.progress.stopped
    assert torch.equal(transmission(job), start)


def test_what_the_result_explains_is_known_though_later_epochs_were_measured(there):
    job = ended(begun(there, there.good, **{**WILD, "epochs": 5}))
    assert job.progress.result_epoch == 0
    assert [event["number"] for event in job.progress.history if "explained" in event] == [5]
    assert job.result().metrics["explained"] == job.measure_explained()[0]


@pytest.mark.parametrize("more", [{"epochs": 2}, {"epochs": 2, **WILD}])
def test_an_interrupted_run_goes_on_to_the_same_bits(there, tmp_path, more):
    straight = ended(begun(there, there.good, tmp_path / "straight", **more))
    for _ in begun(there, there.good, tmp_path / "broken", **more):
        break
    resumed = ended(Job.resume(tmp_path / "broken"))
    assert torch.equal(transmission(resumed), transmission(straight))
    assert resumed.progress.result_epoch == straight.progress.result_epoch
    assert resumed.progress.stopped == straight.progress.stopped
    assert resumed.recipe.found == straight.recipe.found


def test_what_remains_is_noise_soon_so_patience_is_short(there):
    assert begun(there, there.good).recipe.patience == 5
    assert begun(there, there.good, patience=12).recipe.patience == 12
    assert begun(there, None).recipe.patience == 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["phase", "amplitude and phase"])
def test_objects_of_other_kinds_start_from_it_too(there, kind):
    start = {"predicted": {"model": str(there.good), "kind": kind}}
    job = Job.begin(Reconstruct.of({**TREE, "file": str(there.file), "object": start}))
    torch.testing.assert_close(
        transmission(job).angle(), transmission(begun(there, there.good)).angle(), atol=1e-4, rtol=0
    )
    assert job.recipe.found["start"]["predicted"] < job.recipe.found["start"]["empty"]


@pytest.mark.slow
def test_without_a_start_it_takes_twice_the_epochs_at_least(there):
    warm = ended(begun(there, there.good, epochs=4, shape="constant"))
    flat = ended(begun(there, None, epochs=8, shape="constant"))
    reached = warm.progress.history[-1]["holdout"]
    assert min(event["holdout"] for event in flat.progress.history) > reached


@pytest.mark.slow
def test_the_result_is_nearer_to_the_truth_than_without_a_start(there):
    true = there.sample.phase
    warm, flat = (ended(begun(there, model)) for model in (there.good, None))
    assert alike(seen(warm, (0.0, 0.0), true.shape), true) > 0.85
    assert alike(seen(flat, (0.0, 0.0), true.shape), true) < alike(seen(warm, (0.0, 0.0), true.shape), true)


def test_a_network_for_another_probe_is_refused_with_the_difference(there):
    probe = {"focused": {"semiangle": "20 mrad", "defocus": "-90 A", "modes": 1}}
    with pytest.raises(BadInput, match=r"defocus: -90 A, .*trained for 90 A"):
        begun(there, there.good, probe=probe)
    with pytest.raises(BadInput, match="is neither a file nor a model of the package"):
        begun(there, Path("nothing"))


@pytest.mark.parametrize(("model", "said"), [("good", "taken as the start"), ("wrong", "left out")])
def test_on_the_command_line_the_start_is_told(there, model, said, monkeypatch, capsys):
    Path("run.yaml").write_text(yaml.safe_dump(tree(there, getattr(there, model), epochs=1)))
    monkeypatch.setattr(sys, "argv", ["phaseloom", "reconstruct", "run.yaml", "--out", "new"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    assert (end.value.code or 0) == 0, told.err
    assert f"start: predicted object {said}" in told.out + told.err
    assert (Path("new") / "result.h5").is_file()
