"""Trainings of autoencoders: they begin as principal components, learn, stop, and are gone on with."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.embedding.embeddings import embed_patterns
from phaseloom.embedding.evaluate import evaluate_components, evaluate_objective, finish_training
from phaseloom.embedding.losses import compute_deviances, compute_noise_deviance
from phaseloom.embedding.train import Autoencode, AutoencoderTraining
from phaseloom.errors import BadInput
from phaseloom.fitting.updates import HoldOut, measure_holdout
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.weight_files import find_network

GEOMETRY = Geometry(wavelength=0.025, shape=(16, 16), angle=(1e-3, 1e-3), beam="electron")
SMALL = {"recommended": {"latent_dim": 3, "width": 8, "head_channels": 2}}


@pytest.fixture(scope="module")
def scan() -> Scan4D:
    """A disk that wanders over the scan, of a strength that changes: three numbers, none of them linear."""
    y, x = np.mgrid[:24, :24] / 23
    centre = np.stack([np.sin(5 * x), np.cos(4 * y)], -1).reshape(-1, 2, 1, 1)
    v, u = np.mgrid[:16, :16] - 8
    away = np.hypot(v - 3 * centre[:, 0], u - 3 * centre[:, 1])
    rate = (20 + 10 * x * y).reshape(-1, 1, 1) / (1 + np.exp(3 * (away - 3)))
    places = np.stack([y, x], -1).reshape(-1, 2) * 46
    return Scan4D(
        counts=np.random.default_rng(0).poisson(rate).astype(np.uint16), positions=places, geometry=GEOMETRY
    )


@pytest.fixture
def files(scan, tmp_path) -> Path:
    np.save(tmp_path / "scan.npy", scan.counts.reshape(24, 24, 16, 16))
    (tmp_path / "scan.npy.yaml").write_text("{energy: 200 keV, angle: 1 mrad, step: 2 A}")
    return tmp_path / "scan.npy"


def recipe(**changes) -> Autoencode:
    return Autoencode.of({"model": SMALL, "block": 4, "epochs": 2, "device": "cpu", **changes})


def judged(training: AutoencoderTraining) -> float:
    holdout = HoldOut(training.list_holdout_batches())
    return measure_holdout(training.objective, holdout, training.progress.optimizer, 1) or 0.0


@pytest.mark.medium
def test_it_begins_as_principal_components_and_learns_more(scan):
    training = AutoencoderTraining.begin(recipe(epochs=8), scan=scan)
    components = AutoencoderTraining.begin(recipe(model={"pca": {"latent_dim": 3}}), scan=scan)
    assert judged(training) == pytest.approx(judged(components), rel=1e-4)
    epochs = list(training)
    assert epochs[-1].holdout < 0.9 * judged(components)


def test_nothing_that_is_held_out_is_learned_from(scan):
    training = AutoencoderTraining.begin(recipe(), scan=scan)
    learned = np.concatenate([*training.batches(1)])
    np.testing.assert_array_equal(np.sort(learned), training.parts.train)
    others = np.concatenate([*training.list_holdout_batches(), training.parts.test])
    assert not set(learned) & set(others)


def test_pixels_that_are_not_trusted_change_nothing(scan):
    mask = np.ones((16, 16), bool)
    mask[4, 7] = False
    hot = scan.counts.copy()
    hot[:, 4, 7] = np.random.default_rng(1).integers(0, 60000, len(hot))
    ends = []
    for counts in (scan.counts, hot):
        training = AutoencoderTraining.begin(recipe(), scan=replace(scan, counts=counts, mask=mask))
        index = training.parts.test
        ends.append(training.objective.counts(index))
    good = torch.from_numpy(mask)
    torch.testing.assert_close(ends[0][..., good], ends[1][..., good])
    there = ends[1][..., 4, 7]
    assert (there == there[0]).all()
    assert 0 < float(there[0]) < 60  # as the pixel across, not as the hot one


@pytest.mark.medium
def test_a_training_that_was_stopped_ends_as_a_straight_one(files, tmp_path):
    tree = {"file": str(files), "epochs": 3}
    straight = AutoencoderTraining.begin(recipe(**tree), tmp_path / "straight")
    losses = [epoch.loss for epoch in straight]
    for epoch in AutoencoderTraining.begin(recipe(**tree), tmp_path / "stopped"):
        if epoch.number == 1:
            break
    again = AutoencoderTraining.resume(tmp_path / "stopped")
    assert [epoch.loss for epoch in again] == losses[1:]
    for name, value in straight.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], value), name


@pytest.mark.slow
def test_the_first_design_is_trained_by_its_own_losses(scan):
    training = AutoencoderTraining.begin(
        recipe(model={"seed": {"latent_dim": 2}}, losses=["squares", "regularised"], epochs=1, batch=2),
        scan=scan,
    )
    terms = training.objective(training.parts.train[:2])
    assert set(terms) == {"squares", "regularised"}
    assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.medium
def test_it_is_examined_on_what_it_never_saw_beside_as_many_components(scan, tmp_path):
    training = AutoencoderTraining.begin(recipe(epochs=8), tmp_path / "run", scan=scan)
    began = evaluate_objective(training.objective, training.parts.test)
    assert began.explained == pytest.approx(
        evaluate_components(training.objective, training.parts.test).explained, abs=1e-4
    )
    for _ in training:
        pass
    path, card = finish_training(training)
    assert card["scores"]["network"]["explained"] > began.explained + 0.05
    assert card["scores"]["pca"]["explained"] == pytest.approx(began.explained, abs=1e-4)
    assert 0.8 < card["scores"]["network"]["deviance"] < began.deviance
    net = pretrained.load_network(path)
    counts = training.objective.counts(training.parts.test[:3])
    torch.testing.assert_close(net.embed(net.scale(counts)), training.net.embed(training.net.scale(counts)))


@pytest.mark.medium
def test_embeddings_are_those_of_the_training_and_bad_frames_stand_out(scan, tmp_path):
    training = AutoencoderTraining.begin(recipe(epochs=6), tmp_path / "run", scan=scan)
    for _ in training:
        pass
    path, card = finish_training(training)
    counts = scan.counts.copy()
    counts[77] = np.roll(counts[77], 8, axis=0)
    latents, misfits, _ = embed_patterns(pretrained.load_network(path), card, replace(scan, counts=counts))
    assert misfits.argmax() == 77
    index = np.array([5, 300])
    with torch.no_grad():
        expected = training.net.eval().embed(
            training.objective.scale_counts(training.objective.counts(index))
        )
    np.testing.assert_allclose(latents[index], expected.numpy(), atol=1e-5)
    narrow = replace(GEOMETRY, shape=(16, 8))
    half = Scan4D(counts=counts[..., 4:12], positions=scan.positions, geometry=narrow)
    with pytest.raises(BadInput, match="16 x 8 is not what it learned from, 16 x 16"):
        embed_patterns(pretrained.load_network(path), card, half)


def test_the_command_trains_says_scores_and_goes_on(phaseloom, files):
    small = "model={recommended: {latent_dim: 3, width: 8, head_channels: 2}}"
    words = ("--set", small, "--set", "block=4", "--set", "epochs=1", "-q")
    ended = phaseloom("train", "autoencoder", files, *words, "--out", "run")
    assert ended.code == 0, ended.err
    assert "network  explained variance" in ended.out
    assert "pca      explained variance" in ended.out
    again = phaseloom("train", "autoencoder", "run", "--resume", "-q")
    assert (again.code, "all 1 epochs were done before" in again.out) == (0, True), again.err
    taken = phaseloom("train", "autoencoder", files, *words, "--out", "run")
    assert taken.code == 2
    done = phaseloom("embed", files, "--model", "run", "--out", "latents.h5")
    assert done.code == 0, done.err
    assert "latents: 3 of 576 patterns" in done.out
    with h5py.File("latents.h5") as file:
        assert file["latents"].shape == (576, 3)
        assert file["positions"].attrs["units"] == "angstrom"
    wrong = phaseloom("embed", files, "--model", find_network("tiny"), "--out", "more.npz")
    assert (wrong.code, "which embeds nothing" in wrong.err) == (2, True)
    stranger = phaseloom("train", "patches", "run", "--resume")
    assert "is not a run of this kind of training" in stranger.err
    assert "latent" in phaseloom("describe", "model", "recommended", "--of", "autoencoder").out


def test_bad_input_is_a_sentence(scan):
    with pytest.raises(BadInput, match="losses: must be one at least"):
        AutoencoderTraining.begin(recipe(losses=[]), scan=scan)
    with pytest.raises(BadInput, match="leave none to learn from"):
        AutoencoderTraining.begin(recipe(block=100), scan=scan)
    with pytest.raises(BadInput, match="does not exist"):
        AutoencoderTraining.begin(recipe(file=str(Path("nowhere.npy"))))


def test_a_run_of_a_relative_path_is_resumed(files, monkeypatch):
    monkeypatch.chdir(files.parent)
    for _ in AutoencoderTraining.begin(Autoencode.of({**recipe().to_tree(), "file": files.name}), "run"):
        break
    monkeypatch.chdir(files.parent.parent)
    again = AutoencoderTraining.resume(files.parent / "run")
    assert [epoch.number for epoch in again] == [2]


def test_a_run_is_not_resumed_on_other_data(files, tmp_path):
    for _ in AutoencoderTraining.begin(Autoencode.of({**recipe().to_tree(), "file": str(files)}), "run"):
        break
    np.save(files, np.load(files)[:, ::-1])
    with pytest.raises(BadInput, match=r"scan\.npy has changed since the training began: begin a new one"):
        AutoencoderTraining.resume("run")
    np.save(tmp_path / "moved.npy", np.load(files)[:, ::-1])
    (tmp_path / "moved.npy.yaml").write_text(files.with_name("scan.npy.yaml").read_text())
    moved = AutoencoderTraining.resume("run", changes={"file": str(tmp_path / "moved.npy")})
    assert moved.progress.epoch == 1


def test_components_are_not_trained(scan):
    training = AutoencoderTraining.begin(recipe(model={"pca": {"latent_dim": 3}}), scan=scan)
    assert list(training) == []
    assert "not trained" in training.progress.stopped


def test_the_command_fits_components(phaseloom, files):
    words = ("--set", "model={pca: {latent_dim: 3}}", "--set", "block=4", "-q", "--out", "run")
    ended = phaseloom("train", "autoencoder", files, *words)
    assert ended.code == 0, ended.err
    assert "components are fitted, not trained" in ended.out
    assert (Path("run") / "net.safetensors").is_file()


@pytest.mark.parametrize("dose", [0.02, 1.0, 40.0])
def test_a_deviance_of_one_is_shot_noise_at_any_dose(scan, dose):
    rate = np.linspace(0.5, 1.5, 16) * dose + np.zeros(scan.counts.shape)
    counts = np.random.default_rng(2).poisson(rate).astype(float)
    found = compute_deviances(torch.from_numpy(rate), torch.from_numpy(counts)).sum()
    noise = compute_noise_deviance(torch.from_numpy(rate)).sum()
    assert float(found / noise) == pytest.approx(1, abs=0.02)
