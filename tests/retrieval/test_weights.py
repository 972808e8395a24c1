"""The networks that come with the package do what their cards say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.weight_files import find_network, list_shipped
from phaseloom.metrics.phase import measure_agreement
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.evaluate import RIM_PIXELS, predict_image
from phaseloom.retrieval.prediction import predict
from phaseloom.retrieval.recipe import SampleSimulator, Train
from phaseloom.retrieval.training_samples import NOISELESS_DOSE, TrainingScan
from phaseloom.simulation.experiment import Experiment

OPTICS = BeamOptics(semiangle=0.02, aberrations={"defocus": 90.0})


@pytest.fixture(scope="module")
def samples():
    """Scans of materials that training never draws; with 32 pixels of the detector, for reconstructions."""
    recipe = Train.of({"microscope": {"fixed": {"scan": [20, 22], "detector": None}}})
    making = SampleSimulator(recipe.specimen, recipe.microscope, 1000)
    return [making(-1 - number) for number in range(6)]


def test_they_are_there_and_small():
    assert set(list_shipped()) == {"linear", "low_dose", "tiny", "underwater", "unrolled"}
    for system, names in ("retrieval", "linear, tiny, unrolled"), ("restoration", "low_dose, underwater"):
        with pytest.raises(BadInput, match=f"a model of the package: choose one of {names}$"):
            find_network("nothing", system)
    assert sum(list_shipped()[name].stat().st_size for name in ("linear", "tiny")) < 2 * 2**20
    assert list_shipped()["unrolled"].stat().st_size < 3 * 2**20
    for name in ("low_dose", "underwater"):
        assert list_shipped()[name].stat().st_size < 10**6


@pytest.mark.parametrize("name", ["linear", "tiny"])
def test_their_cards_tell_probe_recipe_and_scores(name):
    card = pretrained.load_card(find_network(name))
    assert card["experiment"]["semiangle"] == 0.02
    assert card["experiment"]["aberrations"] == {"defocus": 90.0}
    assert name in card["recipe"]
    assert card["scores"]["noiseless"]["correlation"] > 0.96


@pytest.mark.parametrize(("name", "clean", "noisy"), [("linear", 0.95, 0.80), ("tiny", 0.97, 0.88)])
def test_they_read_unseen_materials(samples, name, clean, noisy):
    net = pretrained.load_network(find_network(name))
    middle = slice(4, 28)
    scenes = [TrainingScan.of(replace(s, patterns=s.patterns[:, :, middle, middle])) for s in samples]
    for dose, least in ((NOISELESS_DOSE, clean), (1e4, noisy)):
        found = [
            measure_agreement(predict_image(net, s, dose), s.phase.numpy(), rim=RIM_PIXELS).correlation
            for s in scenes
        ]
        assert np.mean(found) > least


@pytest.mark.parametrize("name", ["linear", "tiny"])
def test_they_predict_a_scan_and_refuse_another_probe(samples, name):
    net, card = pretrained.load_network(find_network(name)), pretrained.load_card(find_network(name))
    seen = predict(net, card, samples[0].scan(), OPTICS)
    assert measure_agreement(seen.phase, samples[0].phase, rim=RIM_PIXELS).correlation > 0.93
    with pytest.raises(ValueError, match="defocus: 130 A, but"):
        predict(net, card, samples[0].scan(), replace(OPTICS, aberrations={"defocus": 130.0}))


def started(sample, thing, dose, epochs, **settings):
    """A reconstruction with known optics, and the agreement of its phase with the truth."""
    scan = sample.scan()
    if dose is not None:
        counts = np.random.default_rng(1).poisson(np.asarray(scan.counts) * dose / 1e6)
        scan = replace(scan, counts=counts.astype(np.uint32))
    probe = {"semiangle": "20 mrad", "defocus": "90 A", "modes": 1, "soft": True}
    tree = {"object": thing, "probe": {"focused": probe}, "start": "none", "epochs": epochs, **settings}
    tree["prepare"] = [{"enlarge": {"to": [64, 64], "match": "resample"}}]
    job = Job.begin(Reconstruct.of(tree), scan=scan)
    losses = [epoch.loss for epoch in job]
    canvas = job.model.object.canvas
    first = np.round(-np.array(canvas.origin) / canvas.pixel).astype(int)
    rows, columns = (slice(f, f + n) for f, n in zip(first, sample.phase.shape, strict=True))
    phase = job.model.object.transmission()[0, 0].angle().detach().numpy()[rows, columns]
    y, x = np.mgrid[: phase.shape[0], : phase.shape[1]]
    inner = tuple(slice(RIM_PIXELS, n - RIM_PIXELS) for n in phase.shape)
    table = np.stack([np.ones(phase.size), y.ravel(), x.ravel()], 1).reshape(*phase.shape, 3)
    error = (phase - sample.phase)[inner].ravel()
    plane = np.linalg.lstsq(table[inner].reshape(-1, 3), error, rcond=None)[0]
    return losses, measure_agreement(phase - table @ plane, sample.phase, rim=RIM_PIXELS).nmse


def test_two_thirds_of_the_epochs_lead_from_a_prediction_to_the_residual_of_a_flat_start(samples):
    flat, far = started(samples[0], "pixels", None, 12)
    warm, near = started(samples[0], {"predicted": {"model": "tiny"}}, None, 8)
    assert min(warm) < min(flat)
    assert near < far


@pytest.mark.slow
def test_at_few_electrons_a_start_from_a_prediction_beats_it_and_beats_ptychography_alone(samples):
    """Both with the short steps of `compare_starts: false`; with the trial of starts the flat start alone.

    Errors of four samples: flat 0.36, 0.40, 0.23, 0.29; predicted 0.17, 0.18, 0.11, 0.11; begun from it 0.18,
    0.22, 0.08, 0.12, with the short steps 0.13, 0.14, 0.09, 0.10.
    """
    net = pretrained.load_network(find_network("tiny"))
    beaten = 0
    for sample in samples[:4]:
        _, alone = started(sample, "pixels", 1e4, 20)
        _, tried = started(sample, {"predicted": {"model": "tiny"}}, 1e4, 20)
        assert tried < 0.7 * alone
        _, both = started(sample, {"predicted": {"model": "tiny"}}, 1e4, 20, compare_starts=False)
        middle = slice(4, 28)
        scene = TrainingScan.of(replace(sample, patterns=sample.patterns[:, :, middle, middle]))
        read = measure_agreement(predict_image(net, scene, 1e4), sample.phase, rim=RIM_PIXELS).nmse
        beaten += both < min(alone, 1.02 * read)
    assert beaten >= 3


def test_the_default_experiment_is_theirs():
    assert Experiment().semiangle == 0.02
    assert torch.get_num_threads() == 1
