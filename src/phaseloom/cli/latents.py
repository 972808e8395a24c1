"""The command that analyses embeddings: maps, clusters, mean patterns, decoded latents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, parse_settings
from phaseloom.cli.runner import check_new, echo_lines
from phaseloom.errors import BadInput

__all__ = ["latents"]


@app.command()
def latents(
    embeddings: Annotated[Path, typer.Argument(help="file of phaseloom embed, .h5 or .npz")],
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="new folder for figures and clusters.h5")],
    scan: Annotated[
        Path | None,
        typer.Option(help="data or parameter file of the scan; adds mean patterns and components"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="the autoencoder; adds decoded and generated patterns"),
    ] = None,
    clusters: Annotated[
        str, typer.Option(metavar="N|auto", help="number of clusters; auto: a suggestion")
    ] = "auto",
    seeds: Annotated[int, typer.Option(min=2, help="number of random starts to compare")] = 5,
    whiten: Annotated[
        bool, typer.Option("--whiten/--raw", help="divide each latent by its standard deviation, or not")
    ] = True,
    labels: Annotated[
        Path | None, typer.Option(help="true labels of the patterns, .npy, to compare with")
    ] = None,
    umap: Annotated[
        bool, typer.Option("--umap", help="also a map of the latents by UMAP (extra umap)")
    ] = False,
) -> None:
    """Cluster the patterns of a scan by their latents, and draw the clusters.

    Without --scan and --model, only maps and clusters are drawn.
    """
    from phaseloom.embedding import latents as protocol
    from phaseloom.embedding.embeddings import ScanEmbedding
    from phaseloom.metrics.clusters import standardise_columns

    check_new(out / "clusters.h5", what="folder")
    if out.is_file():
        check_new(out, what="folder")
    count = _read_count(clusters)
    found = ScanEmbedding.load(embeddings)
    truth = None if labels is None else _load_labels(labels)
    rows = standardise_columns(found.latents) if whiten else found.latents
    if unusual := len(found.unusual()):
        fix = "see phaseloom embed on how to leave them out"
        typer.echo(f"{unusual} unusual patterns are among them: {fix}")
    kinds, tried = protocol.find_clusters(rows, count, seeds=seeds, truth=truth)
    if tried is not None:
        echo_lines(_compare_counts(tried))
    echo_lines(kinds)
    figures = _examine(found, kinds, scan, model, parse_settings(settings or []))
    if umap:
        figures["places"], figures["placed"] = protocol.compute_umap(rows)
    echo_lines(protocol.write_report(protocol.LatentReport(found, kinds, **figures), out), "written: ")


def _read_count(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 2:
        raise BadInput("--clusters", text, "is not a number of clusters: write 2 or more, or auto")
    return int(text)


def _load_labels(path: Path) -> Any:
    from phaseloom.data.formats.arrays import load_npy
    from phaseloom.data.formats.files import require_file

    return load_npy(require_file(path)).ravel()


def _compare_counts(tried: Any) -> Iterator[str]:
    """A table of the numbers of clusters, with the suggested one."""
    yield "clusters  stability  silhouette          BIC"
    table = zip(tried.counts, tried.stability, tried.silhouette, tried.bic, strict=True)
    for count, stability, silhouette, bic in table:
        mark = "  <- suggested" if count == tried.suggested_count else ""
        yield f"{count:8d}  {stability:9.3f}  {silhouette:10.3f}  {bic:11.1f}{mark}"
    yield "a suggestion: of the stablest numbers (within 0.05) that of largest silhouette; see the maps"


def _examine(
    found: Any, kinds: Any, scan: Path | None, model: Path | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """Results that need the scan, the network, or both."""
    from phaseloom.embedding import embeddings as embed
    from phaseloom.embedding import latents as protocol
    from phaseloom.runs.scan_recipe import ScanRecipe

    figures: dict[str, Any] = {}
    net, card = embed.load_autoencoder(model) if model is not None else (None, {})
    if net is not None:
        figures["traversals"], figures["varied"] = protocol.generate_traversals(net, card, found.latents)
    if scan is None:
        return figures
    recipe = ScanRecipe.from_path(scan, settings)
    typer.echo(f"reading {recipe.require_file()}")
    data = recipe.scan()
    protocol.require_same_scan(found, data)
    count = found.latents.shape[1]
    figures["means"] = tuple(protocol.compute_mean_patterns(data, kind.labels) for kind in kinds)
    figures["components"] = (
        protocol.compute_principal_components(data, count),
        protocol.compute_nonnegative_factors(data, count),
    )
    if net is not None:
        objective = embed.make_objective(net, card, data)
        protocol.require_same_network(objective, found)
        figures["samples"] = protocol.select_samples(objective, found.misfit)
    return figures
