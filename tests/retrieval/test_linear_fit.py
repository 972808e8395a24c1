"""A linear network for the probe at hand: simulated for the scan's own microscope, solved, and used on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.evaluate import evaluate_network, predict_image
from phaseloom.retrieval.linear_fit import fit_linear_network, get_microscope, solve_linear
from phaseloom.retrieval.networks.linear import NOISELESS_DOSE_NUMBER, LinearRecovery, linear
from phaseloom.retrieval.prediction import predict
from phaseloom.retrieval.recipe import Train
from phaseloom.retrieval.training_samples import TrainingScan
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import Sample, simulate_scan

OWN = Experiment(
    scan=(12, 13),
    step=2.2,
    energy=100e3,
    semiangle=0.018,
    aberrations={"defocus": 80.0, "C12": 15.0, "phi12": 0.4},
    detector=None,
)
LENS = {"defocus": "80 A", "aberrations": {"C12": "15 A", "phi12": "0.4 rad"}}
PROBE = {"focused": {"semiangle": "18 mrad", **LENS}}
FEW = {"model": {"linear": {"components": 30}}, "microscope": {"fixed": {"scan": [12, 12]}}}
FEW |= {"scans": 6, "unseen": 2}


def made(seed: int, experiment: Experiment) -> Sample:
    rng = np.random.default_rng(seed)
    return simulate_scan(specimens.prototypes(experiment.box, rng, thickness=(4.0, 8.0)), experiment)


@pytest.fixture(scope="module")
def own() -> Sample:
    return made(9, OWN)


@pytest.fixture
def file(own, tmp_path) -> Path:
    native.write(own.scan(), tmp_path / "scan.h5")
    return tmp_path / "scan.h5"


def asked(file: Path, probe: Any) -> Reconstruct:
    return Reconstruct.of({"file": str(file), "probe": probe})


def test_the_microscope_is_that_of_the_scan(file):
    recipe = Train.of({"model": "linear", "microscope": get_microscope(asked(file, PROBE))})
    found = recipe.microscope(np.random.default_rng(0))
    assert found.energy == pytest.approx(100e3)
    assert found.semiangle == pytest.approx(0.018)
    assert found.step == pytest.approx(2.2)
    assert found.aberrations["defocus"] == pytest.approx(80.0)
    assert found.aberrations["C12"] == pytest.approx(15.0)
    assert found.aberrations["phi12"] == pytest.approx(0.4)


def test_a_semiangle_that_is_not_said_is_measured(file):
    found = get_microscope(asked(file, {"from_patterns": {"defocus": "80 A"}}))["fixed"]
    assert float(found["semiangle"].split()[0]) == pytest.approx(18, abs=1)


@pytest.mark.parametrize("probe", [{"focused": {"semiangle": "18 mrad"}}, "auto"])
def test_a_defocus_that_nobody_says_is_asked_for(probe, file):
    with pytest.raises(BadInput, match=r"defocus: is not said.*--set"):
        get_microscope(asked(file, probe))


def test_steps_that_differ_are_refused(own, tmp_path):
    scan = own.scan()
    scan.positions[:, 1] *= 1.1
    native.write(scan, tmp_path / "wide.h5")
    with pytest.raises(BadInput, match="differ along rows and columns"):
        get_microscope(asked(tmp_path / "wide.h5", PROBE))


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    said: list[str] = []
    path, card = fit_linear_network(Train.of(FEW), tmp_path_factory.mktemp("fit") / "new", said=said.append)
    return path, card, said


def test_a_fit_leaves_a_network_that_reads_unseen_scans(fit):
    path, card, said = fit
    assert [name.name for name in sorted(path.parent.iterdir())] == ["net.safetensors", "run.yaml"]
    net, sample = pretrained.load_network(path), made(9, Experiment(scan=(11, 14)))
    found = predict(net, pretrained.load_card(path), sample.scan(), BeamOptics(aberrations={"defocus": 90.0}))
    inner = (slice(8, -8), slice(8, -8))
    assert np.corrcoef(found.phase[inner].ravel(), sample.phase[inner].ravel())[0, 1] > 0.6
    assert (said, card["fit"]["cpu_seconds"] > 0) == (
        [f"solved in {card['fit']['cpu_seconds']:.1f} CPU seconds"],
        True,
    )
    assert card["fit"]["scans"] == {"1e+03": 6, "1e+04": 6, "1e+05": 6, "1e+06": 6, "1e+07": 6}
    assert card["tolerance"]["step"] == pytest.approx(0.05)


def test_the_same_recipe_gives_the_same_bits(fit, tmp_path):
    again, _ = fit_linear_network(Train.of(FEW), tmp_path / "again")
    first = pretrained.load_network(fit[0]).state_dict()
    assert all(
        torch.equal(value, first[name]) for name, value in pretrained.load_network(again).state_dict().items()
    )


def test_a_fit_for_noise_is_better_in_noise_than_one_without(fit):
    net, scene = pretrained.load_network(fit[0]), TrainingScan.of(made(9, Experiment(scan=(12, 12))))
    assert isinstance(net, LinearRecovery)
    clean = linear(components=30, doses=(NOISELESS_DOSE_NUMBER,))
    clean.components.load_state_dict(net.components.state_dict())
    clean.weight.data = net.weight.data[-1:].clone()
    told, bare = (evaluate_network(one, [scene], doses=(1e7, 3e3)) for one in (net, clean))
    assert told["noiseless"] == bare["noiseless"]
    assert told["3000"]["nmse"] < 0.7 * bare["3000"]["nmse"]


def test_scores_follow_from_their_seed_and_leave_out_the_rim(fit):
    net, scene = pretrained.load_network(fit[0]), TrainingScan.of(made(9, Experiment(scan=(12, 12))))
    found = evaluate_network(net, [scene], doses=(1e4,), seed=3)
    assert (
        found
        == evaluate_network(net, [scene], doses=(1e4,), seed=3)
        != evaluate_network(net, [scene], doses=(1e4,), seed=4)
    )
    seen, true = predict_image(net, scene, 1e4, seed=3), scene.phase.numpy()
    off, true = ((part - part[8:-8, 8:-8].mean())[8:-8, 8:-8] for part in (seen, true))
    assert found["10000"]["nmse"] == pytest.approx(((off - true) ** 2).mean() / true.var(), rel=1e-4)


def test_a_fit_is_of_the_scans_it_is_given():
    scenes = [TrainingScan.of(made(seed, Experiment(scan=(10, 10)))) for seed in range(4)]
    net = linear(components=30, doses=(NOISELESS_DOSE_NUMBER,))
    assert solve_linear(net, scenes)["scans"] == {"1e+07": 4}
    optics = torch.ones(1, 8)
    with torch.no_grad():
        found = net(scenes[0].roots.float().square()[None], optics)[0].numpy()
    assert np.corrcoef(found[8:-8, 8:-8].ravel(), scenes[0].phase.numpy()[8:-8, 8:-8].ravel())[0, 1] > 0.95


def test_what_cannot_be_fitted_is_refused(fit, tmp_path):
    with pytest.raises(BadInput, match="is not solved but trained: train patches"):
        fit_linear_network(Train.of({**FEW, "model": "tiny"}), tmp_path / "new")
    with pytest.raises(BadInput, match="holds a run: name a new folder"):
        fit_linear_network(Train.of(FEW), fit[0].parent)


def given(*settings: str) -> list[str]:
    return [part for text in settings for part in ("--set", text)]


def test_on_the_command_line_a_scan_is_fitted_for_and_settings_hold(phaseloom, file, own):
    probe = f"probe={yaml.safe_dump(PROBE, default_flow_style=True).strip()}"
    sets = given(probe, "scans=6", "unseen=2", "microscope.fixed.scan=[12, 12]", "model.linear.components=30")
    ended = phaseloom("train", "linear", "--for", file, *sets, "--out", "new")
    assert ended.code == 0, ended.err
    assert "simulating 6 scans of fixed microscopes" in ended.out
    assert f"phaseloom predict scan FILE --model {Path('new') / 'net.safetensors'}" in ended.out
    recipe = Train.from_path("new/run.yaml")
    assert (recipe.scans, recipe.unseen) == (6, 2)
    experiment = recipe.microscope(np.random.default_rng(0))
    assert (experiment.scan, experiment.step, experiment.energy) == ((12, 12), 2.2, 100e3)
    net, card = pretrained.load_network("new"), pretrained.load_card("new")
    lens = {name: OWN.aberrations[name] for name in ("defocus", "C12", "phi12")}
    found = predict(net, card, own.scan(), BeamOptics(semiangle=0.018, aberrations=lens))
    assert np.corrcoef(found.phase[8:-8, 8:-8].ravel(), own.phase[8:-8, 8:-8].ravel())[0, 1] > 0.65


def test_on_the_command_line_a_file_says_how_many_scans(phaseloom, file):
    Path("train.yaml").write_text("{scans: 5, unseen: 1, model: {linear: {components: 30}}}")
    sets = given(
        "probe.focused.semiangle=18 mrad", "probe.focused.defocus=80 A", "microscope.fixed.scan=[9, 9]"
    )
    ended = phaseloom("train", "linear", "train.yaml", "--for", file, *sets, "--out", "new")
    assert ended.code == 0, ended.err
    recipe = Train.from_path("new/run.yaml")
    assert (recipe.scans, recipe.unseen) == (5, 1)
    assert recipe.model.values["components"] == 30


def test_on_the_command_line_a_network_is_trained_for_a_scan(phaseloom, file):
    Path("train.yaml").write_text(
        "{scans: 3, unseen: 1, views: 2, epochs: 1, model: {tiny: {components: 12, width: 4, depth: 1}},"
        " microscope: {fixed: {scan: [9, 9], aberrations: {Cs: 1 mm}}}}"
    )
    sets = given("probe.focused.semiangle=18 mrad", "probe.focused.defocus=80 A", "seed=3")
    ended = phaseloom("train", "patches", "train.yaml", "--for", file, *sets, "--out", "new", "-q")
    assert ended.code == 0, ended.err
    experiment = Train.from_path("new/run.yaml").microscope(np.random.default_rng(0))
    assert (experiment.scan, experiment.step, experiment.energy) == ((9, 9), 2.2, 100e3)
    assert experiment.aberrations == {"defocus": 80.0}  # those of the scan, and no others
    assert pretrained.load_card("new")["experiment"]["semiangle"] == pytest.approx(0.018)
    again = phaseloom("train", "patches", "new", "--resume", "--for", file)
    assert (again.code, "a run that is resumed has its probe" in again.err) == (2, True)


def test_on_the_command_line_a_scan_without_a_defocus_is_one_sentence(phaseloom, file):
    ended = phaseloom("train", "linear", "--for", file)
    assert ended.code == 2
    assert "probe: defocus: is not said" in ended.err
    assert "Traceback" not in ended.err
