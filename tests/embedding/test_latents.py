"""Embeddings and what is seen in them: bad frames, clusters, mean patterns, components, traversals."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from phaseloom.data import prepare
from phaseloom.data.counts import MappedCounts
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.embedding import latents as protocol
from phaseloom.embedding.embeddings import ScanEmbedding, embed, embed_patterns, make_objective
from phaseloom.embedding.networks.autoencoder import LinearAutoencoder, pca
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.learning import weight_files as pretrained
from phaseloom.metrics.clusters import fit_kmeans
from phaseloom.plot import style as canvas
from phaseloom.result import Provenance
from phaseloom.runs.scan_recipe import ScanRecipe

GRID, SHAPE = (9, 13), (16, 17)
GEOMETRY = Geometry(wavelength=0.025, shape=SHAPE, angle=(1e-3, 1e-3), beam="electron")
KINDS = (np.arange(117).reshape(GRID) % 13 > 7).astype(int).ravel()


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Pictures of few pixels: they are drawn, not looked at."""
    save = canvas.save
    monkeypatch.setattr(canvas, "save", lambda figure, path: save(figure, path, dpi=20))


@pytest.fixture(scope="module")
def scan() -> Scan4D:
    """Two areas: the disk is up in one and down in the other, with less light; noise of counts."""
    v, u = np.indices(SHAPE) - np.array([8, 8])[:, None, None]
    disks = [30 / (1 + np.exp(2 * (np.hypot(v - shift, u) - 3))) for shift in (-1, 1.5)]
    rate = np.array(disks)[KINDS] * np.where(KINDS, 0.75, 1.0)[:, None, None] + 0.5
    counts = np.random.default_rng(0).poisson(rate).astype(np.uint16)
    places = np.indices(GRID).reshape(2, -1).T * np.array([3.0, 2.0])
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, grid=GRID)


def fitted(scan: Scan4D, latents: int = 3) -> tuple[LinearAutoencoder, dict[str, object]]:
    net = pca(latent_dim=latents)
    objective = make_objective(net, {}, scan)
    objective.begin()
    return net, {"shape": list(SHAPE), "highest": objective.highest}


def embedding(scan: Scan4D) -> ScanEmbedding:
    made = Provenance.now(seed=0, data=scan.digest(), file="scan.h5")
    return ScanEmbedding(*embed_patterns(*fitted(scan), scan), scan.positions, scan.grid, made)


def handmade(misfit: np.ndarray, totals: np.ndarray, positions: np.ndarray) -> ScanEmbedding:
    made = Provenance.now(seed=0, data="", file="")
    return ScanEmbedding(np.zeros((len(misfit), 2)), misfit, totals, positions, None, made)


def lazily(scan: Scan4D) -> Scan4D:
    return replace(scan, counts=MappedCounts(scan.counts, lambda a: a, scan.counts.shape, scan.counts.dtype))


def dead_pixel(scan: Scan4D, value: int) -> Scan4D:
    mask, counts = np.ones(SHAPE, bool), scan.counts.copy()
    mask[3, 4], counts[:, 3, 4] = False, value
    return replace(scan, counts=counts, mask=mask)


def test_a_bad_frame_is_found_and_nothing_else(scan):
    assert len(embedding(scan).unusual()) == 0
    net, card = fitted(scan)
    for wrong in (lambda p: np.roll(p, 4, axis=1), lambda p: p // 2, lambda p: p * 2):
        counts = scan.counts.copy()
        counts[50] = wrong(counts[50])
        bad = replace(scan, counts=counts)
        made = Provenance.now(seed=0, data="", file="")
        found = ScanEmbedding(*embed_patterns(net, card, bad), bad.positions, bad.grid, made)
        assert found.unusual().tolist() == [50]


@pytest.mark.parametrize("rate", [20, 2000])
def test_noise_of_counts_alarms_nobody(rate):
    rng = np.random.default_rng(1)
    places = rng.uniform(0, 100, (20000, 2))
    totals = rng.poisson(rate * np.where(places[:, 0] > 60, 0.5, 1.0)).astype(float)
    found = handmade(rng.chisquare(300, 20000) / 300, totals, places)
    assert len(found.unusual()) == 0
    assert len(found.unusual(threshold=2)) > 0


def test_rows_of_bad_frames_and_lost_numbers_stand_out_and_areas_do_not():
    places = np.indices(GRID).reshape(2, -1).T * 2.0
    totals = np.random.default_rng(2).poisson(np.where(KINDS, 3000, 9000)).astype(float)
    totals[66:71] = 0
    misfit = np.ones(117)
    misfit[3] = np.nan
    misfit[90] = 0.1  # drawn too well is no fault
    np.testing.assert_array_equal(handmade(misfit, totals, places).unusual(), [3, *range(66, 71)])
    still = handmade(misfit, totals, np.zeros((117, 2)))  # in time
    assert 3 in still.unusual()
    with pytest.raises(BadInput, match="threshold: 0 must be a number above zero"):
        still.unusual(threshold=0)


@pytest.mark.parametrize("name", ["a.h5", "a.npz"])
def test_what_is_written_is_loaded_again(scan, tmp_path, name):
    for data in (scan, scan.select(np.arange(100))):
        made = embedding(data)
        again = ScanEmbedding.load(made.write(tmp_path / name))
        for field in ("latents", "misfit", "totals", "positions"):
            np.testing.assert_array_equal(getattr(again, field), getattr(made, field))
        assert (again.grid, again.provenance) == (made.grid, made.provenance)


def test_other_files_are_refused_in_a_sentence(scan, tmp_path):
    native.write(scan, tmp_path / "scan.h5")
    np.savez(tmp_path / "more.npz", latents=np.ones(3))
    (tmp_path / "text.h5").write_text("no")
    for name in ("scan.h5", "more.npz"):
        with pytest.raises(BadInput, match=f"{name}: holds no embedding"):
            ScanEmbedding.load(tmp_path / name)
    with pytest.raises(BadInput, match=r"text\.h5: is not an HDF5 file"):
        ScanEmbedding.load(tmp_path / "text.h5")
    with pytest.raises(BadInput, match="does not exist"):
        ScanEmbedding.load(tmp_path / "nowhere.h5")
    odd = replace(embedding(scan), misfit=np.ones(116))
    odd = replace(odd, totals=odd.totals)
    with h5py.File(embedding(scan).write(tmp_path / "odd.h5"), "r+") as file:
        del file["misfit"]
        file["misfit"] = np.ones(5)
    with pytest.raises(BadInput, match="does not fit"):
        ScanEmbedding.load(tmp_path / "odd.h5")


def test_unusual_patterns_are_left_out_by_the_file_that_names_them(scan, tmp_path):
    counts = scan.counts.copy()
    counts[50], counts[8] = 0, 2 * counts[8]
    files = {"file": str(tmp_path / "scan.h5")}
    native.write(replace(scan, counts=counts), tmp_path / "scan.h5")
    net, card = fitted(scan)
    pretrained.save_network(net, tmp_path / "net.safetensors", card)
    found = embed(ScanRecipe.of(files), tmp_path / "net.safetensors")
    assert (len(found), found.unusual().tolist()) == (116, [8])  # the blank one is out already
    path = found.write(tmp_path / "embeddings.h5")
    left = ScanRecipe.of(files | {"prepare": [{"without": {"path": str(path)}}]}).scan()
    np.testing.assert_array_equal(left.positions, np.delete(scan.positions, [8, 50], axis=0))


def test_untrusted_pixels_do_not_matter(scan):
    dark, hot = dead_pixel(scan, 0), dead_pixel(scan, 60000)
    net, card = fitted(dark)
    for one, other in zip(embed_patterns(net, card, dark), embed_patterns(net, card, hot), strict=True):
        np.testing.assert_array_equal(one, other)
    assert embedding(dark).totals[7] == (scan.counts[7] * dark.mask).sum()
    for look in (
        lambda s: protocol.compute_mean_patterns(s, KINDS).patterns,
        lambda s: protocol.compute_mean_patterns(s, KINDS).profile.mean,
        lambda s: protocol.compute_principal_components(s, 2).scores,
        lambda s: protocol.compute_nonnegative_factors(s, 2).scores,
        lambda s: protocol.compute_nonnegative_factors(s, 2).images,
        lambda s: protocol.select_samples(make_objective(net, card, s), np.arange(117.0)).measured,
    ):
        np.testing.assert_array_equal(look(dark), look(hot))


def test_a_scan_in_a_file_gives_the_same_as_one_in_memory(scan):
    lazy = lazily(scan)
    net, card = fitted(scan)
    for one, other in zip(embed_patterns(net, card, scan), embed_patterns(net, card, lazy), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        protocol.compute_mean_patterns(scan, KINDS).patterns,
        protocol.compute_mean_patterns(lazy, KINDS).patterns,
    )
    for find in (protocol.compute_principal_components, protocol.compute_nonnegative_factors):
        np.testing.assert_array_equal(find(scan, 3).scores, find(lazy, 3).scores)


def test_means_of_clusters_weighted_by_their_sizes_are_the_mean_of_all(scan):
    labels = np.random.default_rng(3).choice([0, 1, 3], 117)  # nobody in 2
    found = protocol.compute_mean_patterns(scan, labels)
    assert found.sizes.tolist() == np.bincount(labels).tolist()
    weighted = (found.sizes[:, None, None] * np.nan_to_num(found.patterns)).sum(0) / 117
    np.testing.assert_allclose(weighted, scan.mean_pattern(), rtol=1e-12)
    np.testing.assert_allclose(found.mean, scan.mean_pattern(), rtol=1e-12)
    np.testing.assert_allclose(found.patterns[3], scan.counts[labels == 3].mean(0))
    assert np.isnan(found.patterns[2]).all()
    assert found.profile.mean.shape[0] == 5


def test_areas_are_found_by_latents_and_by_components(scan):
    found = embedding(scan)
    kinds, tried = protocol.find_clusters(found.latents, None, scan.positions, truth=KINDS)
    assert tried.suggested_count == 2
    assert [kind.agreement.mean for kind in kinds] == [1, 1, 1]
    assert [kind.stability.mean for kind in kinds] == [1, 1, 1]
    for one in (
        protocol.compute_principal_components(scan, 3),
        protocol.compute_nonnegative_factors(scan, 3),
    ):
        assert one.scores.shape == (117, 3)
        assert one.images.shape == (3, *SHAPE)
        assert fit_kmeans(one.scores, 2, truth=KINDS).agreement.mean == 1
    factors = protocol.compute_nonnegative_factors(scan, 2)
    assert (factors.scores.min(), factors.images.min()) >= (0, 0)
    drawn = np.einsum("nk,kyx->nyx", factors.scores, factors.images)
    assert (
        np.sqrt(np.mean((drawn - np.sqrt(scan.counts)) ** 2)) < 0.65
    )  # of counts alone it is 0.5, or a bit more
    assert protocol.compute_principal_components(scan.select(np.arange(4)), 9).scores.shape == (4, 3)


def test_a_traversal_of_components_is_a_straight_line_along_one_of_them(scan):
    net, card = fitted(scan)
    latents = embed_patterns(net, card, scan)[0]
    rows = protocol.make_traversal(latents, 1, steps=5)
    low, high = np.percentile(latents[:, 1], [1, 99])
    np.testing.assert_allclose(rows[[0, -1], 1], [low, high])
    drawn = net.decode(torch.from_numpy(rows).float())[:, 0].detach().numpy()
    along = net.skip.basis[1].detach().numpy()
    np.testing.assert_allclose(
        np.diff(drawn, axis=0), np.broadcast_to((high - low) / 4 * along, (4, *SHAPE)), atol=1e-5
    )
    centred = protocol.make_traversal(latents - np.median(latents, axis=0), 1, steps=5)
    through = net.decode(torch.from_numpy(centred).float())[:, 0].detach().numpy()
    share = centred[:, 1][:, None, None]
    np.testing.assert_allclose(through, net.skip.mean.numpy() + share * along, atol=1e-5)


def test_what_latents_generate_is_what_is_drawn_of_their_pattern(scan):
    net, card = fitted(scan)
    index = np.array([4, 77])
    latents, drawn = make_objective(net, card, scan).reconstruct(index)
    again = protocol.generate_patterns(net, card, latents.numpy())
    np.testing.assert_allclose(again, drawn[:, 0].numpy(), rtol=1e-5, atol=1e-5)
    parted = {**card, "halves": True}
    np.testing.assert_allclose(protocol.generate_patterns(net, parted, latents.numpy()), 2 * again)
    with pytest.raises(BadInput, match="latents: 5 numbers are not as many"):
        protocol.generate_patterns(net, card, np.ones((2, 5)))
    with pytest.raises(BadInput, match="latent 3 of 3 cannot be varied"):
        protocol.make_traversal(np.ones((4, 3)), 3)


def test_samples_are_the_worst_and_typical_ones(scan):
    net, card = fitted(scan)
    misfit = np.linspace(1, 2, 117)
    misfit[13] = 9
    found = protocol.select_samples(make_objective(net, card, scan), misfit)
    assert found.names[:3] == ("worst: 13", "worst: 116", "worst: 115")
    np.testing.assert_array_equal(found.measured[0], scan.counts[13])
    numbers = [int(name.split()[-1]) for name in found.names[3:]]
    assert all(abs(misfit[number] - np.median(misfit)) < 0.02 for number in numbers)
    residual = np.abs(found.drawn - found.measured).mean()
    assert residual < 0.8 * np.abs(found.measured - found.measured.mean(0)).mean()


@pytest.mark.parametrize("raster", [True, False])
def test_all_figures_and_the_file_are_there_on_a_raster_and_off(scan, tmp_path, raster):
    rng = np.random.default_rng(4)
    data = scan if raster else replace(scan, positions=rng.uniform(0, 30, (117, 2)), grid=None)
    found, (net, card) = embedding(data), fitted(data)
    kinds, _ = protocol.find_clusters(found.latents, 3, data.positions)
    patterns, varied = protocol.generate_traversals(net, card, found.latents)
    report = protocol.LatentReport(
        found,
        kinds,
        means=tuple(protocol.compute_mean_patterns(data, kind.labels) for kind in kinds),
        components=(
            protocol.compute_principal_components(data, 3),
            protocol.compute_nonnegative_factors(data, 3),
        ),
        samples=protocol.select_samples(make_objective(net, card, data), found.misfit),
        traversals=patterns,
        varied=varied,
        places=found.latents[10:, :2],
        placed=np.arange(10, 117),
    )
    names = [path.name for path in protocol.write_report(report, tmp_path / "out")]
    pictures = [
        "latents",
        "clusters",
        "means_field",
        "means_mixture",
        "means_k-means",
        "components",
        "samples",
    ]
    assert names == ["clusters.h5", *(f"{name}.png" for name in [*pictures, "traversals", "umap"])]
    with h5py.File(tmp_path / "out" / "clusters.h5") as file:
        np.testing.assert_array_equal(file["mixture/labels"][()], kinds[1].labels)
        np.testing.assert_array_equal(file["k-means/patterns"][()], report.means[2].patterns)
        np.testing.assert_array_equal(file["positions"][()], data.positions)
        assert file["components/principal components/scores"].shape == (117, 3)
        assert file["mixture"].attrs["stability"][0] == kinds[1].stability.mean
        np.testing.assert_array_equal(file["field/probability"][()], kinds[0].spatial.probability)
        assert file["field"].attrs["coupling"] == kinds[0].spatial.coupling
        assert ("grid" in file) == raster


def test_a_map_of_clusters_says_how_stable_they_are(scan):
    kinds, _ = protocol.find_clusters(np.random.default_rng(6).normal(size=(117, 2)), 2, scan.positions)
    report = protocol.LatentReport(replace(embedding(scan), grid=None), kinds)
    axes = protocol.plot_report(report)["clusters"].axes
    assert [
        f"stability {kind.stability}" in one.get_title() for kind, one in zip(kinds, axes, strict=True)
    ] == [True, True, True]


def test_a_map_has_a_length_and_dots_have_places(scan):
    from phaseloom.embedding import figures as plot

    rows = np.random.default_rng(5).normal(size=(117, 2))
    raster = plot.plot_maps({"latents": rows}, scan.positions, GRID)
    assert raster.axes[0].images[0].get_extent() == [0, 26, 27, 0]  # angstrom
    dots = plot.plot_maps({"latents": rows}, scan.positions, None)
    np.testing.assert_allclose(dots.axes[0].collections[0].get_offsets(), scan.positions[:, ::-1])


def test_umap_keeps_areas_apart(scan):
    pytest.importorskip("umap")
    places, numbers = protocol.compute_umap(embedding(scan).latents)
    assert fit_kmeans(places, 2, truth=KINDS[numbers]).agreement.mean == 1


def test_without_umap_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(MissingExtra, match=r"pip install 'phaseloom\[umap\]'"):
        protocol.compute_umap(np.zeros((9, 2)))


@pytest.fixture
def work(scan, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    counts = scan.counts.copy()
    counts[50] //= 3
    native.write(replace(scan, counts=counts), tmp_path / "scan.h5")
    net, card = fitted(scan)
    pretrained.save_network(net, tmp_path / "net.safetensors", card)
    np.save("labels.npy", KINDS.reshape(GRID))
    return tmp_path


def test_the_commands_find_write_and_say_what_to_do_next(phaseloom, work):
    done = phaseloom("embed", "scan.h5", "--model", "net.safetensors", "--set", "prepare=[{flip: {axis: y}}]")
    line = next(text for text in done.out.splitlines() if text.startswith("prepare: "))
    assert "unusual: 1 patterns" in done.out
    assert "pattern 50: misfit" in done.out
    assert f"{{without: {{path: {work / 'embeddings.h5'}}}}}]" in line
    assert "flip" in line
    (work / "next.yaml").write_text(f"file: scan.h5\n{line}\n")
    assert len(ScanRecipe.from_path(work / "next.yaml").scan()) == 116


def test_latents_are_clustered_as_they_are_unless_whitening_is_asked_for(phaseloom, work):
    assert phaseloom("embed", "scan.h5", "--model", "net.safetensors").code == 0
    groups = {}
    for name, more in {"usual": (), "raw": ("--raw",), "whitened": ("--whiten",)}.items():
        words = ("--out", name, "--clusters", "4", "--seeds", "2", *more)
        assert phaseloom("latents", "embeddings.h5", *words).code == 0
        with h5py.File(f"{name}/clusters.h5") as file:
            found = []
            file.visititems(
                lambda path, one, into=found: into.append(one[()]) if hasattr(one, "shape") else None
            )
        groups[name] = np.concatenate([np.ravel(one) for one in found if np.asarray(one).dtype.kind in "iu"])
    np.testing.assert_array_equal(groups["usual"], groups["raw"])
    assert not np.array_equal(groups["usual"], groups["whitened"])


def test_the_verb_prints_a_table_and_writes_what_it_can(phaseloom, work):
    assert phaseloom("embed", "scan.h5", "--model", "net.safetensors").code == 0
    alone = phaseloom("latents", "embeddings.h5", "--out", "alone", "--clusters", "2", "--raw")
    assert alone.code == 0, alone.err
    assert "k-means, 2 clusters: stability 1.000 ± 0.000" in alone.out
    assert {path.name for path in Path("alone").iterdir()} == {"clusters.h5", "clusters.png", "latents.png"}
    words = ("--scan", "scan.h5", "--model", "net.safetensors", "--labels", "labels.npy", "--out", "all")
    all_ = phaseloom("latents", "embeddings.h5", "--seeds", "2", *words)
    assert all_.code == 0, all_.err
    assert "<- suggested" in all_.out
    assert "agreement with labels" in all_.out
    assert Path("all/traversals.png").exists()
    assert Path("all/samples.png").exists()
    wrong = {
        "prepared alike": ("--scan", "scan.h5", "--set", "prepare=[{select: {every: 2}}]"),
        "is not the scan of these embeddings": (
            "--scan",
            "scan.h5",
            "--set",
            "prepare=[{scale: {factor: 2}}]",
        ),
        "is not a number of clusters": ("--clusters", "many"),
        "5 labels but there are 117": ("--labels", "five.npy"),
        "exists already": ("--out", "all"),
    }
    np.save("five.npy", np.arange(5))
    for sentence, more in wrong.items():
        out = () if "--out" in more else ("--out", "no")
        end = phaseloom("latents", "embeddings.h5", "--clusters", "2", *out, *more)
        assert (end.code, sentence in end.err) == (2, True), end.err


def test_leaving_out_nothing_is_refused_by_name(scan):
    with pytest.raises(BadInput, match="without: needs numbers"):
        prepare.without(scan)


def test_a_frame_behind_a_blank_one_is_called_by_its_number_in_the_file(scan, tmp_path, phaseloom):
    counts = scan.counts.copy()
    counts[50], counts[80] = 0, 2 * counts[80]
    native.write(replace(scan, counts=counts), tmp_path / "scan.h5")
    net, card = fitted(scan)
    model = pretrained.save_network(net, tmp_path / "net.safetensors", card)
    out = tmp_path / "embeddings.h5"
    done = phaseloom("embed", tmp_path / "scan.h5", "--model", model, "--out", out)
    assert done.code == 0, done.err
    assert "pattern 80: misfit" in done.out
    found = ScanEmbedding.load(out)
    assert [found.number(index) for index in found.unusual()] == [80]
    steps = {"file": str(tmp_path / "scan.h5"), "prepare": [{"without": {"numbers": [80]}}]}
    left = ScanRecipe.of(steps).scan()
    np.testing.assert_array_equal(left.positions, np.delete(scan.positions, [50, 80], axis=0))


def test_labels_of_a_whole_scan_leave_out_its_blank_pattern_by_its_number_in_the_file(
    scan, tmp_path, phaseloom, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    counts = scan.counts.copy()
    counts[50] = 0
    native.write(replace(scan, counts=counts), tmp_path / "scan.h5")
    net, card = fitted(scan)
    model = pretrained.save_network(net, tmp_path / "net.safetensors", card)
    done = phaseloom("embed", "scan.h5", "--model", model, "--out", "embeddings.h5")
    assert done.code == 0, done.err
    np.save("labels.npy", KINDS)
    np.save("known.npy", np.where(np.arange(117) % 5, -1, KINDS[0] == KINDS))
    words = ("--out", "all", "--clusters", "2", "--labels", "labels.npy", "--known", "known.npy")
    found = phaseloom("latents", "embeddings.h5", *words)
    assert found.code == 0, found.err
    assert "labels.npy: labels of blank or saturated patterns are left out: 50\n" in found.out
    assert "k-means, 2 clusters: stability 1.000 ± 0.000, agreement with labels 1.000" in found.out
    np.save("short.npy", KINDS[:-2])
    short = phaseloom("latents", "embeddings.h5", "--out", "no", "--clusters", "2", "--labels", "short.npy")
    assert (short.code, "115 labels but there are 116 patterns" in short.err) == (2, True), short.err
