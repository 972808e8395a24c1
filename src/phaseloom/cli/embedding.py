"""Verbs of embeddings: encode each pattern into a few latents, and analyse these; rotation and strain."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseloom.cli.command import app
from phaseloom.cli.files import DataFile, Set, lock_output, parse_settings
from phaseloom.cli.images import read_numbers, require_new_file
from phaseloom.cli.runner import check_new, echo_lines
from phaseloom.errors import BadInput

__all__ = ["embed", "latents", "strain"]

MAX_MEDIAN_MISFIT = 3.0
"""Median misfit above which a warning says that the network does not fit these patterns."""

MAX_PRINTED_PATTERNS = 8
"""Unusual patterns that are printed; the file holds all."""


@app.command()
def embed(
    file: DataFile,
    settings: Set = None,
    *,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="file or run folder of an autoencoder")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="pca|nmf", help="components of this scan, no network; nmf without --model"),
    ] = None,
    count: Annotated[int, typer.Option("--latents", min=1, help="components of --method")] = 8,
    aligned: Annotated[
        bool,
        typer.Option("--aligned/--as-measured", help="align patterns and make them equally bright, or not"),
    ] = True,
    out: Annotated[Path, typer.Option(help="file to write, .h5 or .npz")] = Path("embeddings.h5"),
) -> None:
    """Encode every pattern of a scan: latents, misfits, counts and positions in a file.

    Without --model by components of this scan, without training; --latents and --aligned are for these.
    The scan is read and prepared as in its parameter file; settings of the training do not apply to it.
    """
    from phaseloom.embedding import component_embedding
    from phaseloom.embedding import embeddings as protocol
    from phaseloom.runs.scan_recipe import ScanRecipe

    check_new(protocol.require_writable(out))
    recipe = ScanRecipe.from_path(file, parse_settings(settings or []))
    if model is not None and method is not None:
        raise BadInput("--method", method, "and --model are two ways to embed: give one of them")
    typer.echo(f"reading {recipe.require_file()}")
    if model is not None:
        found = protocol.embed(recipe, model)
    else:
        found = component_embedding.embed_by_components(
            recipe, method=method or "nmf", latents=count, aligned=aligned
        )
    count, latents = found.latents.shape
    typer.echo(f"latents: {latents} of {count} patterns")
    median = sorted(found.misfit)[count // 2]
    typer.echo(f"misfit:  median {median:.3g} (1: nothing but shot noise is left)")
    if median > MAX_MEDIAN_MISFIT:
        cause = "the network did not learn from such patterns" if model else "more latents would say more"
        typer.echo(f"WARN: {cause}, or the patterns are faulty: phaseloom look")
    typer.echo(f"written: {found.write(out)}")
    echo_lines(_describe_unusual(found, recipe, out))


def _describe_unusual(found: Any, recipe: Any, out: Path) -> Iterator[str]:
    """The unusual patterns, and the setting that leaves them out."""
    import yaml

    from phaseloom.embedding.embeddings import OUTLIER_THRESHOLD

    numbers = found.unusual()
    far = f"more than {OUTLIER_THRESHOLD:g} robust spreads from their neighbours"
    yield f"unusual: {len(numbers)} patterns, {far}"
    median = sorted(found.totals)[len(found) // 2]
    for number in numbers[:MAX_PRINTED_PATTERNS]:
        share = f"{100 * found.totals[number] / median:.0f} % of the median"
        yield f"  pattern {found.number(number)}: misfit {found.misfit[number]:.3g}, counts {share}"
    if beside := found.together(numbers):
        fix = "a region of the specimen, perhaps; look at its map first"
        yield f"  {beside} of them lie side by side: {fix}"
    if len(numbers) > MAX_PRINTED_PATTERNS:
        yield f"  and {len(numbers) - MAX_PRINTED_PATTERNS} more: 'unusual' in {out}"
    if len(numbers):
        steps = [*recipe.to_tree().get("prepare", []), {"without": {"path": str(out.resolve())}}]
        line = yaml.safe_dump({"prepare": steps}, default_flow_style=True, width=10**6).strip()
        yield f"to leave them out, write in the parameter file:\n{line[1:-1]}"


@app.command()
def latents(  # noqa: PLR0913 - each an option of the command line
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
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="true labels of the patterns, .npy, to compare with")
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(help="labels of some patterns, .npy of 0, 1, ... and -1 where none is known; kept"),
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

    check_new(lock_output(out) / "clusters.h5", what="folder")
    count = _read_count(clusters)
    found = ScanEmbedding.load(embeddings)
    truth, given = (None if path is None else _load_labels(path, found) for path in (labels, known))
    net = _load_net(model)
    data = _read_same_scan(found, scan, parse_settings(settings or []))
    rows = standardise_columns(found.latents) if whiten else found.latents
    if unusual := len(found.unusual()):
        fix = "see phaseloom embed on how to leave them out"
        typer.echo(f"{unusual} unusual patterns are among them: {fix}")
    kinds, tried = protocol.find_clusters(rows, count, found.positions, known=given, seeds=seeds, truth=truth)
    if tried is not None:
        echo_lines(_compare_counts(tried))
    echo_lines(kinds)
    figures = _examine(found, kinds, data, *net)
    if umap:
        figures["places"], figures["placed"] = protocol.compute_umap(rows)
    echo_lines(protocol.write_report(protocol.LatentReport(found, kinds, **figures), out), "written: ")


def _read_count(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 2:
        raise BadInput("--clusters", text, "is not a number of clusters: write 2 or more, or auto")
    return int(text)


def _load_labels(path: Path, found: Any) -> Any:
    """A label for each pattern that was embedded; those of patterns that were left out are named."""
    import numpy as np

    from phaseloom.data.counts import list_numbers
    from phaseloom.data.formats.arrays import load_npy
    from phaseloom.data.formats.files import require_file

    labels = load_npy(require_file(path)).ravel()
    if len(labels) == len(found) or found.numbers is None or len(labels) <= found.numbers.max():
        return labels
    blank = list_numbers(np.setdiff1d(np.arange(len(labels)), found.numbers))
    typer.echo(f"{path.name}: labels of blank or saturated patterns are left out: {blank}")
    return labels[found.numbers]


def _compare_counts(tried: Any) -> Iterator[str]:
    """A table of the numbers of clusters, with the suggested one."""
    yield "clusters          BIC"
    for count, bic in zip(tried.counts, tried.bic, strict=True):
        mark = "  <- suggested" if count == tried.suggested_count else ""
        yield f"{count:8d}  {bic:11.1f}{mark}"
    yield "a suggestion: the smallest number with 85 % of what more clusters gain; see the maps"


def _load_net(model: Path | None) -> tuple[Any, dict[str, Any]]:
    """The autoencoder and its card, if one was given."""
    from phaseloom.embedding import embeddings as embed

    return (None, {}) if model is None else embed.load_autoencoder(model)


def _read_same_scan(found: Any, scan: Path | None, settings: dict[str, Any]) -> Any:
    """The scan of the embeddings, if it was given; read before clusters are sought, which takes a while."""
    from phaseloom.embedding import latents as protocol
    from phaseloom.runs.scan_recipe import ScanRecipe

    if scan is None:
        return None
    recipe = ScanRecipe.from_path(scan, settings)
    typer.echo(f"reading {recipe.require_file()}")
    data = recipe.scan()
    protocol.require_same_scan(found, data)
    return data


def _examine(found: Any, kinds: Any, data: Any, net: Any, card: dict[str, Any]) -> dict[str, Any]:
    """Results that need the scan, the network, or both."""
    from phaseloom.embedding import embeddings as embed
    from phaseloom.embedding import latents as protocol

    figures: dict[str, Any] = {}
    if net is not None:
        figures["traversals"], figures["varied"] = protocol.generate_traversals(net, card, found.latents)
    if data is None:
        return figures
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


@app.command()
def strain(
    file: DataFile,
    settings: Set = None,
    *,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,ROW,COLUMN,COLUMN",
            help="from and to, of the unstrained reference; default: the median lattice of the scan",
        ),
    ] = None,
    semiangle: Annotated[
        str | None, typer.Option(help="of the beam, e.g. '2 mrad'; default: estimated from the disks")
    ] = None,
    centre: Annotated[
        str | None, typer.Option(help="pixel ROW,COLUMN of the beam; default: the centre of symmetry")
    ] = None,
    out: Annotated[Path, typer.Option(help="file to write, .h5, with a picture beside it")] = Path(
        "strain.h5"
    ),
) -> None:
    """Map rotation and strain of a crystal from its Bragg disks, with errors; no structure is needed."""
    from phaseloom import plot
    from phaseloom.embedding.strain import strain_map as protocol
    from phaseloom.embedding.strain.strain_figure import plot_strain
    from phaseloom.runs.scan_recipe import ScanRecipe
    from phaseloom.units import ANGLE

    picture = require_new_file(out)
    wanted = None if region is None else _read_region(region)
    middle = None if centre is None else read_numbers("--centre", centre, 2)
    angle = None if semiangle is None else ANGLE.parse(semiangle, "--semiangle")
    recipe = ScanRecipe.from_path(file, parse_settings(settings or []))
    typer.echo(f"reading {recipe.require_file()}")
    data = recipe.scan_with_blanks()
    data = replace(data, oriented=data.oriented or recipe.states_orientation)
    found = protocol.map_strain(
        data,
        region=wanted,
        radius=None if angle is None else angle / (sum(data.geometry.angle) / 2),
        centre=None if middle is None else (middle[0], middle[1]),
        name=recipe.file.name,
    )
    echo_lines(found.notes, "  - ")
    echo_lines(protocol.describe_strain(found))
    typer.echo(f"written: {found.write(out)}")
    plot.save(plot_strain(found), picture)
    typer.echo(f"written: {picture}")


def _read_region(text: str) -> tuple[int, int, int, int]:
    top, bottom, left, right = (int(number) for number in read_numbers("--region", text, 4))
    return top, bottom, left, right
