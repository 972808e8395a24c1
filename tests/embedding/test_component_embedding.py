"""Components on aligned patterns: descan and flicker are taken off, jumps of the beam are bad frames."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.embedding.component_embedding import compute_component_embedding, embed_by_components
from phaseloom.embedding.embeddings import ScanEmbedding
from phaseloom.embedding.registration import measure_registration, register
from phaseloom.errors import BadInput
from phaseloom.metrics.clusters import fit_mixture
from phaseloom.runs.scan_recipe import ScanRecipe

GRID, SHAPE = (12, 14), (26, 28)
PLACES = np.indices(GRID).reshape(2, -1).T * 4.0
KINDS = (np.indices(GRID)[1].ravel() > 6).astype(int)
GEOMETRY = Geometry(wavelength=0.025, shape=SHAPE, angle=(1e-3, 1e-3), beam="electron")
RAMP = 1.5 * (np.indices(GRID).reshape(2, -1).T / np.array(GRID) - 0.5)


def disk(y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    return 1 / (1 + np.exp(2.5 * (np.hypot(rows - y, columns - x) - radius)))


def make_scan(electrons: float = 2000, *, shifts: np.ndarray = RAMP, seed: int = 0) -> Scan4D:
    """Two kinds that differ by weak reflections, descan, and a beam that flickers by 10 %."""
    rng = np.random.default_rng(seed)
    patterns = []
    for kind, (dy, dx), current in zip(KINDS, shifts, rng.normal(1, 0.1, len(KINDS)), strict=True):
        y, x = 13 + dy, 14 + dx
        spots = ((-7, 0), (7, 0)) if kind else ((0, -7), (0, 7))
        rate = disk(y, x, 2.6) + 0.06 * sum(disk(y + a, x + b, 2.6) for a, b in spots) + 1e-4
        patterns.append(current * electrons * rate / rate.sum())
    counts = rng.poisson(np.array(patterns)).astype(np.uint16)
    return Scan4D(counts=counts, positions=PLACES, geometry=GEOMETRY, grid=GRID)


def test_shifts_are_measured_to_a_part_of_a_pixel():
    found = measure_registration(make_scan())
    error = found.shifts - found.shifts.mean(0) - (RAMP - RAMP.mean(0))
    assert np.sqrt((error**2).mean()) < 0.03
    assert abs(np.polyfit(RAMP[:, 0], found.shifts[:, 0], 1)[0] - 1) < 0.02  # the sign and the size


def test_clusters_do_not_follow_descan_or_the_beam():
    scan = make_scan(400)
    scores = [
        fit_mixture(
            compute_component_embedding(scan, "pca", latents=4, aligned=way).latents, 2, truth=KINDS
        ).agreement.mean
        for way in (True, False)
    ]
    assert scores[0] > 0.95
    assert scores[1] < scores[0] - 0.1


def test_patterns_are_as_they_were_after_undoing():
    scan = make_scan(1e5)
    found = measure_registration(scan)
    again = found.undo(found.apply(scan).counts, np.arange(len(scan)))
    inner = (slice(None), slice(3, -3), slice(3, -3))
    smooth = np.abs(again - scan.counts)[inner].mean() / scan.counts[inner].mean()
    wrong = np.abs(np.roll(again, 1, 0) - scan.counts)[inner].mean() / scan.counts[inner].mean()
    assert smooth < 0.7 * wrong
    np.testing.assert_allclose(again.sum((1, 2)), scan.counts.sum((1, 2)), rtol=0.01)


@pytest.mark.parametrize("method", ["pca", "nmf"])
def test_misfits_are_those_of_the_measured_patterns(method):
    found = compute_component_embedding(make_scan(), method, latents=4)
    assert found.latents.shape == (168, 4)
    assert 0.7 < np.median(found.misfit) < 1.3
    np.testing.assert_array_equal(found.totals, make_scan().counts.sum((1, 2)))


def test_a_jump_of_the_beam_is_a_bad_frame_and_steady_descan_is_not(tmp_path):
    shifts = RAMP.copy()
    assert len(compute_component_embedding(make_scan()).unusual()) == 0
    shifts[77] += (3, -3)
    found = compute_component_embedding(make_scan(shifts=shifts))
    assert found.unusual().tolist() == [77]
    again = ScanEmbedding.load(found.write(tmp_path / "embeddings.h5"))
    np.testing.assert_array_equal(again.displaced, found.displaced)
    assert again.unusual().tolist() == [77]


def test_blank_patterns_are_left_out_and_others_keep_their_numbers(tmp_path):
    scan = make_scan()
    counts = scan.counts.copy()
    counts[5] = 0
    native.write(replace(scan, counts=counts), tmp_path / "scan.h5")
    found = embed_by_components(ScanRecipe.of({"file": str(tmp_path / "scan.h5")}), latents=3)
    assert len(found) == 167
    assert (found.number(4), found.number(5)) == (4, 6)


def test_untrusted_pixels_and_near_fields():
    scan = make_scan()
    mask, counts = np.ones(SHAPE, bool), scan.counts.copy()
    mask[4, 5], counts[:, 4, 5] = False, 60000
    masked = replace(scan, counts=counts, mask=mask)
    np.testing.assert_allclose(
        measure_registration(masked).shifts, measure_registration(scan).shifts, atol=0.01
    )
    with pytest.raises(BadInput, match="finds no counts"):
        register(replace(scan, counts=np.zeros_like(counts)))


def test_bad_settings_are_refused_in_a_sentence():
    with pytest.raises(BadInput, match="--method: ica is not known: write pca or nmf"):
        compute_component_embedding(make_scan(), "ica")
    with pytest.raises(BadInput, match="--latents: 0 must be 1 component"):
        compute_component_embedding(make_scan(), latents=0)


def test_the_commands_embed_without_a_model_and_keep_known_labels(phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    native.write(make_scan(400), "scan.h5")
    done = phaseloom("embed", "scan.h5", "--latents", "4")
    assert (done.code, "latents: 4 of 168 patterns" in done.out) == (0, True), done.err
    known = np.full(168, -1)
    known[[0, 1]], known[[10, 11]] = 1, 0  # the other way round than by size or order
    np.save("known.npy", known)
    words = ("--clusters", "2", "--seeds", "2", "--known", "known.npy", "--out", "groups")
    done = phaseloom("latents", "embeddings.h5", *words)
    assert done.code == 0, done.err
    assert "coupling of neighbours" in done.out
    with h5py.File("groups/clusters.h5") as file:
        assert ((1 - np.asarray(file["field/labels"])) == KINDS).mean() > 0.95
        assert np.asarray(file["field/probability"]).min() >= 0.5
    both = phaseloom("embed", "scan.h5", "--method", "pca", "--model", "net", "--out", "more.h5")
    assert (both.code, "two ways to embed" in both.err) == (2, True)
    other = phaseloom("embed", "scan.h5", "--method", "umap", "--out", "more.h5")
    assert (other.code, "write pca or nmf" in other.err) == (2, True)


def test_more_components_than_patterns_or_pixels_are_refused():
    scan = make_scan().select(np.arange(30))
    with pytest.raises(BadInput, match="5000 are more than 30 patterns of 728 pixels determine: at most 30"):
        compute_component_embedding(scan, "pca", latents=5000)
    few = np.zeros(SHAPE, bool)
    few[10:14, 10:15] = True
    with pytest.raises(BadInput, match="at most 20"):
        compute_component_embedding(replace(scan, mask=few), "pca", latents=21, aligned=False)


def test_latents_of_a_scan_file_asks_for_an_embedding_first(phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    native.write(make_scan(), tmp_path / "scan.h5")
    np.save("scan.npy", np.ones((4, 4, 8, 8)))
    np.savez("scan.npz", counts=np.ones((4, 4, 8, 8)))
    for name in ("scan.h5", "scan.npy", "scan.npz"):
        end = phaseloom("latents", name, "--out", "groups")
        assert (end.code, f"phaseloom embed {name} --out embeddings.h5" in end.err) == (2, True), end.err


def test_a_wrong_scan_of_latents_is_refused_before_clusters_are_sought(phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    native.write(make_scan(), tmp_path / "scan.h5")
    native.write(make_scan(seed=1), tmp_path / "other.h5")
    assert phaseloom("embed", "scan.h5", "--method", "pca", "--latents", "3").code == 0
    for other, says in {
        "other.h5": "is not the scan of these embeddings",
        "none.h5": "does not exist",
    }.items():
        end = phaseloom("latents", "embeddings.h5", "--scan", other, "--out", "groups")
        assert (end.code, says in end.err, "cluster" in end.out) == (2, True, False), (end.out, end.err)
