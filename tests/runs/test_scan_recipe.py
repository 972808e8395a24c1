"""One parameter file for several verbs, and what the verbs say of spoiled or strange scans."""

from dataclasses import replace

import numpy as np
import pytest

from phaseloom.cli.files import warn_of_bad_pixels
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.embedding.embeddings import ScanEmbedding
from phaseloom.embedding.latents import require_same_network
from phaseloom.embedding.networks.autoencoder import pca
from phaseloom.embedding.objective import AutoencoderObjective
from phaseloom.embedding.train import Autoencode
from phaseloom.errors import BadInput
from phaseloom.result import Provenance
from phaseloom.runs.scan_recipe import ScanRecipe
from phaseloom.virtual.recipe import Virtual, make_virtual_images

GEOMETRY = Geometry(wavelength=0.025, shape=(24, 24), angle=(1e-3, 1e-3), beam="electron")


@pytest.fixture
def scan() -> Scan4D:
    """A disk that wanders as a parabola of the phase makes it."""
    y, x = np.mgrid[:12, :12]
    v, u = np.mgrid[:24, :24] - 12.0
    away = np.hypot(v - (y[..., None, None] - 5.5) / 8, u)
    rate = 50 / (1 + np.exp(4 * (away - 5)))
    counts = np.random.default_rng(0).poisson(rate.reshape(-1, 24, 24)).astype(np.uint16)
    places = np.stack([y, x], -1).reshape(-1, 2) * 2.0
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, grid=(12, 12))


def test_sections_of_other_recipes_are_passed_over_where_only_the_scan_is_asked_for(tmp_path):
    (tmp_path / "run.yaml").write_text("file: scan.npy\nprepare: [transpose]\nepochs: 3\nlosses: [squares]\n")
    for kind in (ScanRecipe, Virtual):
        found = kind.from_path(tmp_path / "run.yaml")
        assert [step.name for step in found.prepare] == ["transpose"]
    assert Autoencode.from_path(tmp_path / "run.yaml").epochs == 3
    (tmp_path / "wrong.yaml").write_text("file: scan.npy\nepoch: 3\n")
    with pytest.raises(BadInput, match="there is no 'epoch'"):
        ScanRecipe.from_path(tmp_path / "wrong.yaml")


def test_the_plane_of_deflections_is_taken_off_and_said_unless_it_is_wanted(scan):
    asked = Virtual.of({"semiangle": "5 mrad"})
    taken, left = (
        make_virtual_images(asked, scan),
        make_virtual_images(asked.with_settings({"level": False}), scan),
    )
    assert any("parabola" in note for note in taken.notes)
    assert not any("parabola" in note for note in left.notes)
    assert np.ptp(left.phase.mean(1)) > 5 * np.ptp(taken.phase.mean(1))


def test_hot_pixels_are_told(scan):
    counts = scan.counts.copy()
    counts[:, 3, 20] = 60000
    assert warn_of_bad_pixels(scan) == []
    (line,) = warn_of_bad_pixels(replace(scan, counts=counts))
    assert line.startswith("WARN: hot pixels: 1")


def embedding(scan: Scan4D, latents: np.ndarray) -> ScanEmbedding:
    ones = np.ones(len(scan))
    return ScanEmbedding(
        latents, ones, ones, scan.positions, scan.grid, Provenance.now(seed=0, data="", file="")
    )


def test_latents_of_another_network_are_refused(scan):
    lessons = [
        AutoencoderObjective(pca(latent_dim=3, seed=seed), scan, {}, np.arange(144)) for seed in (0, 1)
    ]
    lessons[0].begin()
    found = embedding(scan, lessons[0].reconstruct(np.arange(144))[0].numpy())
    require_same_network(lessons[0], found)
    with pytest.raises(BadInput, match="did not make these embeddings"):
        require_same_network(lessons[1], found)


def test_patterns_side_by_side_are_told_from_single_ones(scan):
    found = embedding(scan, np.zeros((144, 2)))
    assert found.together(np.array([5])) == 0
    assert found.together(np.array([0, 30, 90])) == 0
    assert found.together(np.array([0, 1, 12, 90])) == 3
