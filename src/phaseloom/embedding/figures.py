"""Figures of latents: maps, clusters, mean patterns, components, reconstructions, traversals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.data.signals import scan_steps
from phaseloom.plot.style import (
    LINE_COLOURS,
    LINE_DASHES,
    SMALL_FONT,
    colour_bar,
    draw_map,
    frame,
    image,
    limits,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    from phaseloom.virtual.radial import RadialProfile

__all__ = ["plot_clusters", "plot_components", "plot_maps", "plot_mean_patterns", "plot_plane"]
__all__ += ["plot_samples", "plot_traversals"]

MAX_TILES = 32  # maps of a kind that are shown at most, those of largest variance
ROOT_STYLE: dict[str, Any] = {"cmap": "magma"}


def plot_maps(
    kinds: Mapping[str, np.ndarray], positions: np.ndarray, grid: tuple[int, int] | None, /
) -> Figure:
    """Numbers over the scan, one map and one scale of colours each, kinds side by side.

    Args:
        kinds: ``(n, k)`` by name; of more than 32, those of largest variance.
        positions: ``(n, 2)`` angstrom.
        grid: rows and columns of the scan, or none: dots.

    Example:
        >>> places = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), -1).reshape(-1, 2)
        >>> rows = np.random.default_rng(0).normal(size=(12, 2))
        >>> len(plot_maps({"latents": rows, "components": rows}, places, None).axes)
        4
    """
    selected = {name: _select_strongest(np.asarray(rows)) for name, rows in kinds.items()}
    across = [max(1, round(math.sqrt(len(some) / 1.6))) for some in selected.values()]
    down = max(-(-len(some) // wide) for some, wide in zip(selected.values(), across, strict=True))
    figure = new_figure(1.75 * sum(across) + 0.4, 1.5 * down + 0.5)
    blocks = _make_blocks(figure, 1, len(selected), width_ratios=across)
    for block, (name, some), wide in zip(blocks, selected.items(), across, strict=True):
        rows = np.asarray(kinds[name])
        rest = f", {len(some)} of {rows.shape[1]}" if len(some) < rows.shape[1] else ""
        block.suptitle(f"{name}{rest}", fontsize=11)
        for number, axes in enumerate(np.ravel(block.subplots(down, wide))):
            if number >= len(some):
                axes.axis("off")
                continue
            values = rows[:, some[number]]
            look = {"cmap": "viridis", "vmin": limits(values)[0], "vmax": limits(values)[1]}
            artist = _draw_tile(
                axes, values, positions, grid, bar=number == 0, title=str(some[number]), **look
            )
            colour_bar(axes, artist, "")
            axes.child_axes[-1].tick_params(labelsize=5.5, pad=1, length=2)
    return figure


def plot_clusters(
    labelled: Mapping[str, np.ndarray], positions: np.ndarray, grid: tuple[int, int] | None, /
) -> Figure:
    """Clusters over the scan, one map for each method; the shares of all patterns are in the key.

    Args:
        labelled: labels ``(n,)`` from zero, by the words of the title.
        positions: ``(n, 2)`` angstrom.
        grid: rows and columns of the scan, or none: dots.

    Example:
        >>> places = np.random.default_rng(0).uniform(0, 50, (9, 2))
        >>> len(plot_clusters({"k-means": np.arange(9) % 2}, places, None).axes)
        1
    """
    figure = new_figure(5.6 * len(labelled), 5.0)
    for axes, (title, labels) in zip(
        np.ravel(figure.subplots(1, len(labelled))), labelled.items(), strict=True
    ):
        count = int(labels.max()) + 1
        if grid is not None and math.prod(grid) == len(labels):
            colours = _make_colours(count)(labels.reshape(grid))[..., :3]
            image(axes, colours, pixel=scan_steps(positions, grid), title=_break_title(title))
        else:
            look = {"cmap": _make_colours(count), "vmin": -0.5, "vmax": count - 0.5}
            draw_map(axes, labels, positions, None, title=_break_title(title), **look)
        _draw_key(axes, labels, count)
    return figure


def plot_mean_patterns(
    means: np.ndarray,
    mean: np.ndarray,
    sizes: np.ndarray,
    profile: RadialProfile | None,
    /,
    *,
    title: str = "",
) -> Figure:
    """Mean pattern of each cluster, its difference from the mean of all, and radial profiles.

    Args:
        means: ``(k, y, x)`` counts.
        mean: ``(y, x)`` of all.
        sizes: ``(k,)`` patterns of each cluster.
        profile: of the means and, last, of the mean of all, or none.
        title: above all.

    Example:
        >>> mean = np.random.default_rng(0).random((2, 5, 7))
        >>> len(plot_mean_patterns(mean, mean.mean(0), np.array([3, 1]), None).axes)
        4
    """
    count = len(means)
    figure = new_figure(max(1.9 * count, 5.0), 4.6 if profile is None else 8.0)
    figure.suptitle(title, fontsize=11)
    parts = [4.0] if profile is None else [4.0, 3.2]
    blocks = _make_blocks(figure, len(parts), 1, height_ratios=parts)
    upper, lower = blocks[0].subplots(2, count, squeeze=False)
    differences = means - mean
    reach = limits(np.abs(differences))[1]
    high = limits(np.sqrt(np.append(means, mean[None], 0).clip(0)))[1]
    for number in range(count):
        share = 100 * sizes[number] / max(1, sizes.sum())
        image(
            upper[number],
            np.sqrt(means[number].clip(0)),
            pixel=(1, 1),
            title=f"{number}: {share:.1f} %",
            dimension=None,
            vmin=0,
            vmax=high,
            **ROOT_STYLE,
        )
        look = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
        image(lower[number], differences[number], pixel=(1, 1), dimension=None, **look)
    colour_bar(upper[-1], upper[-1].images[0], "root of mean counts")
    colour_bar(lower[-1], lower[-1].images[0], "less mean of all (counts)")
    if profile is not None:
        _draw_profiles(blocks[1].subplots(), profile, count)
    return figure


def plot_components(kinds: Mapping[str, np.ndarray], /) -> Figure:
    """Images of components, each on a scale of its own; those with signs are white at zero.

    Args:
        kinds: ``(k, y, x)`` by name.

    Example:
        >>> len(plot_components({"one": np.ones((3, 4, 5)), "other": -np.ones((2, 4, 5))}).axes)
        16
    """
    wide = 8
    rows = [-(-min(len(images), MAX_TILES) // wide) for images in kinds.values()]
    figure = new_figure(1.25 * wide, 1.4 * sum(rows) + 0.4 * len(rows))
    blocks = _make_blocks(figure, len(kinds), 1, height_ratios=rows)
    for block, (name, images), down in zip(blocks, kinds.items(), rows, strict=True):
        block.suptitle(name, fontsize=11)
        for number, axes in enumerate(np.ravel(block.subplots(down, wide))):
            if number >= min(len(images), MAX_TILES):
                axes.axis("off")
                continue
            reach = limits(np.abs(images[number]))[1]
            signed = bool((images[number] < 0).any())
            look = {"cmap": "RdBu_r", "vmin": -reach} if signed else {"cmap": "magma", "vmin": 0}
            image(axes, images[number], pixel=(1, 1), title=str(number), dimension=None, vmax=reach, **look)
    return figure


def plot_samples(measured: np.ndarray, drawn: np.ndarray, names: Sequence[str], /) -> Figure:
    """Patterns, and below them what is drawn of each: denoised; roots of counts, a column on one scale.

    Args:
        measured: ``(m, y, x)`` counts.
        drawn: ``(m, y, x)`` expected counts.
        names: of the columns.

    Example:
        >>> len(plot_samples(np.ones((2, 4, 5)), np.ones((2, 4, 5)), ("worst: 3", "typical: 4")).axes)
        4
    """
    figure = new_figure(1.9 * len(names), 4.3)
    upper, lower = figure.subplots(2, len(names), squeeze=False)
    for number, name in enumerate(names):
        high = limits(np.sqrt(measured[number].clip(0)), 0.1)[1]
        for axes, values, title in ((upper, measured, name), (lower, drawn, "as drawn")):
            roots = np.sqrt(values[number].clip(0))
            look = {"vmin": 0, "vmax": high, **ROOT_STYLE}
            image(axes[number], roots, pixel=(1, 1), title=title, dimension=None, **look)
    figure.suptitle("Patterns and their reconstructions (roots of counts)", fontsize=11)
    return figure


def plot_traversals(rows: np.ndarray, varied: Sequence[int], /) -> Figure:
    """Patterns of latents that are varied from their 1st to their 99th percentile, one in each row.

    Beside each row stands what changes: its last pattern less its first.

    Args:
        rows: ``(latent, step, y, x)`` counts.
        varied: numbers of the latents.

    Example:
        >>> len(plot_traversals(np.ones((2, 3, 4, 5)), (0, 7)).axes)
        8
    """
    count, wide = rows.shape[:2]
    figure = new_figure(1.15 * (wide + 1) + 0.3, 1.2 * count + 0.6)
    high = limits(np.sqrt(rows.clip(0)), 0.1)[1]
    for axes, patterns_, which in zip(
        figure.subplots(count, wide + 1, squeeze=False), rows, varied, strict=True
    ):
        for place, pattern in zip(axes, np.sqrt(patterns_.clip(0)), strict=False):
            image(place, pattern, pixel=(1, 1), dimension=None, vmin=0, vmax=high, **ROOT_STYLE)
        change = patterns_[-1] - patterns_[0]
        reach = limits(np.abs(change))[1]
        look = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
        image(axes[-1], change, pixel=(1, 1), dimension=None, title="change", **look)
        axes[0].set_title(f"latent {which}", fontsize=SMALL_FONT, y=1.0, pad=4)
    figure.suptitle(
        "One latent from its 1st to its 99th percentile, the others at their medians", fontsize=10
    )
    return figure


def plot_plane(places: np.ndarray, labels: np.ndarray, title: str, /) -> Figure:
    """Patterns laid out in a plane, in the colours of their clusters.

    Args:
        places: ``(m, 2)``.
        labels: ``(m,)`` from zero.
        title: what the colours are.

    Example:
        >>> len(plot_plane(np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) % 3, "k-means").axes)
        1
    """
    figure = new_figure(5.8, 5.4)
    axes = figure.subplots()
    count = int(labels.max()) + 1
    frame(axes, title=_break_title(f"UMAP of latents; {title}"), x="", y="")
    look: dict[str, Any] = {"cmap": _make_colours(count), "vmin": -0.5, "vmax": count - 0.5}
    axes.scatter(*places.T, c=labels, s=float(np.clip(20000 / len(labels), 1, 20)), linewidths=0, **look)
    axes.set_xticks([])
    axes.set_yticks([])
    _draw_key(axes, labels, count)
    return figure


def _draw_tile(
    axes: Axes,
    values: np.ndarray,
    positions: np.ndarray,
    grid: tuple[int, int] | None,
    *,
    bar: bool,
    **look: Any,
) -> Any:
    """A small map; a scale bar, or axes with ticks, on the first of a kind alone."""
    if grid is not None and math.prod(grid) == len(values):
        known = {} if bar else {"dimension": None}
        return image(axes, values.reshape(grid), pixel=scan_steps(positions, grid), **known, **look)
    artist = draw_map(axes, values, positions, None, **look)
    artist.set_sizes([float(np.clip(2000 / len(values), 0.5, 12))])
    axes.tick_params(labelsize=5.5, pad=1, length=2)
    axes.set_xlabel(axes.get_xlabel(), fontsize=6)
    axes.set_ylabel(axes.get_ylabel(), fontsize=6)
    if not bar:
        axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
    return artist


def _make_blocks(figure: Figure, down: int, across: int, **ratios: Any) -> list[Any]:
    found: Any = figure.subfigures(down, across, squeeze=False, **ratios)
    return list(found.ravel())


def _select_strongest(rows: np.ndarray) -> np.ndarray:
    """Numbers of the columns that are shown, ascending."""
    return np.sort(np.argsort(-rows.var(0), kind="stable")[:MAX_TILES])


def _make_colours(count: int) -> ListedColormap:
    import matplotlib
    from matplotlib.colors import ListedColormap

    if count <= len(LINE_COLOURS):
        return ListedColormap(LINE_COLOURS[:count])
    return ListedColormap([matplotlib.colormaps["turbo"]((at + 0.5) / count) for at in range(count)])


def _draw_key(axes: Axes, labels: np.ndarray, count: int) -> None:
    """Colours of the clusters and their shares of all patterns."""
    from matplotlib.patches import Patch

    colours = _make_colours(count)
    sizes = np.bincount(labels, minlength=count)
    parts = [
        Patch(color=colours(number), label=f"{number}: {100 * size / len(labels):.1f} %")
        for number, size in enumerate(sizes)
    ]
    axes.legend(
        handles=parts, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL_FONT, frameon=False
    )


def _draw_profiles(axes: Axes, profile: RadialProfile, count: int) -> None:
    """Radial profiles of the clusters, and that of all dashed."""
    colours = _make_colours(count)
    angle = 1e3 * profile.angle
    for number in range(count):
        style = {
            "color": colours(number),
            "linestyle": LINE_DASHES[number // len(LINE_COLOURS) % len(LINE_DASHES)],
        }
        axes.plot(angle, profile.mean[number], label=str(number), linewidth=1.2, **style)
    axes.plot(angle, profile.mean[-1], "--", color="0.5", linewidth=1, label="all")
    frame(axes, title="Radial profiles", x="angle (mrad)", y="mean counts per pixel")
    if (profile.mean[np.isfinite(profile.mean)] > 0).any():
        axes.set_yscale("log")
    axes.legend(fontsize=SMALL_FONT, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _break_title(title: str) -> str:
    """A title in two lines, at its colon."""
    return title.replace(": ", ":\n", 1)
