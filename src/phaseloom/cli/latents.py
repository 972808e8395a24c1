"""The verb that looks at embeddings: maps, clusters, mean patterns, what a network draws."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import Set, settings_of
from phaseloom.errors import BadInput

__all__ = ["latents"]


@app.command()
def latents(
    embeddings: Annotated[Path, typer.Argument(help="file of phaseloom embed, .h5 or .npz")],
    settings: Set = None,
    *,
    out: Annotated[Path, typer.Option(help="new folder for figures and clusters.h5")],
    scan: Annotated[
        Path | None, typer.Option(help="the scan, data or parameter file: mean patterns, components")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="the autoencoder: what it draws and generates")
    ] = None,
    clusters: Annotated[str, typer.Option(metavar="N|auto", help="how many; auto: a suggestion")] = "auto",
    seeds: Annotated[int, typer.Option(min=2, help="beginnings that are compared")] = 5,
    whiten: Annotated[
        bool, typer.Option("--whiten/--raw", help="each latent over its standard deviation, or as it is")
    ] = True,
    labels: Annotated[
        Path | None, typer.Option(help="true labels of the patterns, .npy, to compare with")
    ] = None,
    umap: Annotated[bool, typer.Option("--umap", help="lay patterns out in a plane (extra umap)")] = False,
) -> None:
    """Group the patterns of a scan by their latents, and draw what the groups are.

    Without --scan and --model only what the embeddings hold: maps and clusters.
    """
    from phaseloom.embedding import latents as protocol
    from phaseloom.embedding.embeddings import Embedding
    from phaseloom.metrics.clusters import whitened

    if (out / "clusters.h5").exists() or out.is_file():
        raise BadInput("--out", str(out), "exists already: name a new folder")
    count = _count(clusters)
    found = Embedding.load(embeddings)
    truth = None if labels is None else _labels(labels)
    rows = whitened(found.latents) if whiten else found.latents
    if len(odd := found.unusual()):
        typer.echo(
            f"{len(odd)} unusual patterns are among them: see phaseloom embed on how to leave them out"
        )
    kinds, tried = protocol.grouped(rows, count, seeds=seeds, truth=truth)
    if tried is not None:
        _tried(tried)
    for kind in kinds:
        typer.echo(str(kind))
    seen = _seen(found, kinds, scan, model, settings_of(settings or []))
    if umap:
        seen["places"], seen["placed"] = protocol.umapped(rows)
    for path in protocol.write(protocol.Report(found, kinds, **seen), out):
        typer.echo(f"written: {path}")


def _count(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 2:
        raise BadInput("--clusters", text, "is no number of clusters: write 2 or more, or auto")
    return int(text)


def _labels(path: Path) -> Any:
    from phaseloom.data.formats._arrays import load_array
    from phaseloom.data.formats._files import checked

    return load_array(checked(path)).ravel()


def _tried(tried: Any) -> None:
    """The numbers of clusters side by side, and which one is taken."""
    typer.echo("clusters  stability  silhouette          BIC")
    table = zip(tried.counts, tried.stability, tried.silhouette, tried.bic, strict=True)
    for count, stability, silhouette, bic in table:
        mark = "  <- suggested" if count == tried.suggested else ""
        typer.echo(f"{count:8d}  {stability:9.3f}  {silhouette:10.3f}  {bic:11.1f}{mark}")
    typer.echo("a suggestion: of the stablest numbers (within 0.05) that of largest silhouette; see the maps")


def _seen(found: Any, kinds: Any, scan: Path | None, model: Path | None, settings: dict[str, Any]) -> Any:
    """What needs the scan, the network, or both."""
    from phaseloom.embedding import embed
    from phaseloom.embedding import latents as protocol
    from phaseloom.runs.scan_recipe import ScanRecipe

    seen: dict[str, Any] = {}
    net, card = embed.autoencoder(model) if model is not None else (None, {})
    if net is not None:
        seen["traversals"], seen["varied"] = protocol.traversals(net, card, found.latents)
    if scan is None:
        return seen
    recipe = ScanRecipe.from_path(scan, settings)
    typer.echo(f"reading {recipe.there()}")
    data = recipe.scan()
    protocol.same(found, data)
    count = found.latents.shape[1]
    seen["means"] = tuple(protocol.means(data, kind.labels) for kind in kinds)
    seen["components"] = (protocol.principal(data, count), protocol.nonnegative(data, count))
    if net is not None:
        lesson = embed.lesson_of(net, card, data)
        protocol.drawn_by(lesson, found)
        seen["samples"] = protocol.samples(lesson, found.misfit)
    return seen
