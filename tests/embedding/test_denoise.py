"""Denoised patterns: nearer to the truth, read on demand, called from a parameter file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.data.counts import SelectedCounts
from phaseloom.data.scan import Scan4D
from phaseloom.embedding.embeddings import denoise
from phaseloom.embedding.networks.autoencoder import pca
from phaseloom.errors import BadInput
from phaseloom.learning.weight_files import save_network
from phaseloom.metrics.image import psnr
from phaseloom.runs.scan_recipe import ScanRecipe
from tests.embedding.test_train import GEOMETRY


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Disks of two strengths, mixed."""
    v, u = np.mgrid[:16, :16] - 8
    mixed = np.linspace(0, 1, 144).reshape(-1, 1, 1)
    return 6 * (np.hypot(v, u) < 3) * mixed + 4 * (np.hypot(v - 3, u) < 3) * (1 - mixed) + 0.2


@pytest.fixture(scope="module")
def scan(truth) -> Scan4D:
    counts = np.random.default_rng(0).poisson(truth).astype(np.uint16)
    places = np.stack(np.mgrid[:12, :12], -1).reshape(-1, 2) * 2.0
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, grid=(12, 12))


@pytest.fixture
def model(scan, tmp_path):
    net, counts = pca(latent_dim=2), torch.from_numpy(scan.counts.astype(np.float32))[:, None]
    net.scale.calibrate(counts)
    net.begin(net.scale(counts))
    return save_network(net, tmp_path / "net.safetensors", {"shape": [16, 16]})


def test_drawn_patterns_are_nearer_to_the_truth(scan, truth, model):
    drawn = denoise(scan, model=model)
    gain = psnr(drawn.counts, truth, peak=10) - psnr(scan.counts, truth, peak=10)
    assert gain > 6
    assert (drawn.grid, drawn.geometry) == (scan.grid, scan.geometry)


def test_a_scan_in_a_file_is_drawn_when_it_is_read(scan, model):
    lazy = replace(scan, counts=SelectedCounts(scan.counts, np.arange(len(scan))))
    drawn = denoise(lazy, model=model)
    assert not isinstance(drawn.counts, np.ndarray)
    whole = denoise(scan, model=model).counts
    np.testing.assert_allclose(drawn.counts[np.array([100, 3])], whole[[100, 3]], atol=1e-5)
    np.testing.assert_allclose(drawn.counts[np.array(7)], whole[7], atol=1e-5)


def test_pixels_that_are_not_trusted_stay_as_they_are(scan, model):
    mask = np.ones((16, 16), bool)
    mask[2, 3] = False
    counts = scan.counts.copy()
    counts[:, 2, 3] = 999
    drawn = denoise(replace(scan, counts=counts, mask=mask), model=model).counts
    assert (drawn[:, 2, 3] == 999).all()
    np.testing.assert_allclose(drawn[:, mask], denoise(scan, model=model).counts[:, mask], atol=0.5)


def test_a_parameter_file_names_the_network_beside_it(scan, model, tmp_path):
    np.save(tmp_path / "scan.npy", scan.counts.reshape(12, 12, 16, 16))
    text = "file: scan.npy\nread: {npy: {energy: 200 keV, angle: 1 mrad, step: 2 A}}\n"
    (tmp_path / "run.yaml").write_text(text + "prepare: [{denoise: {model: net.safetensors}}]\n")
    found = ScanRecipe.from_path(tmp_path / "run.yaml").scan()
    np.testing.assert_allclose(found.counts[np.array([5])], denoise(scan, model=model).counts[5:6], atol=1e-4)


def test_patterns_of_another_size_are_refused(scan, model):
    geometry = scan.geometry.crop((16, 14))
    small = replace(scan, counts=scan.counts[:, :, 1:15], geometry=geometry, mask=None)
    with pytest.raises(BadInput, match="16 x 14 is not what it learned from, 16 x 16"):
        denoise(small, model=model)
