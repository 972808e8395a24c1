"""What a network consists of, and how well it draws patterns: tables, numbers and a figure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.embedding.networks.autoencoder import PatternAutoencoder
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.metrics import image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Layer",
    "Metrics",
    "Spread",
    "Summary",
    "calculate_metrics",
    "comparison",
    "save_comparison_images",
]
__all__ += ["show"]

FIGURE = "comparison.png"

MOST = 6
"""Patterns that are drawn side by side."""


@dataclass(frozen=True)
class Layer:
    """A part of a network that has no parts.

    Attributes:
        name: path to it.
        kind: of layer.
        shape: of what leaves it when it runs first, the batch at its head; empty where it does not run.
        parameters: numbers in it, those that it shares with a layer before left out.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the patterns."""

    mean: float
    std: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.std:.2g}"


@dataclass(frozen=True)
class Metrics:
    """How close drawn patterns come to those given.

    Attributes:
        mse: mean squared error.
        psnr: decibel below ``data_range``.
        ssim: structural similarity at ``data_range``.
        explained: share of the variance around the mean pattern that is drawn; the mean pattern itself has
            zero, where its other numbers may look fine. None for patterns that are all the same.
        data_range: largest difference of grey values that psnr and ssim refer to.
    """

    mse: Spread
    psnr: Spread
    ssim: Spread
    explained: float | None
    data_range: float

    def __str__(self) -> str:
        lines = [f"MSE   {self.mse}", f"PSNR  {self.psnr} dB", f"SSIM  {self.ssim}"]
        share = "none to explain" if self.explained is None else f"{self.explained:.4f}"
        return "\n".join([*lines, f"explained variance {share}", f"(data range {self.data_range:.4g})"])


@dataclass(frozen=True)
class Summary:
    """A network's layers in the order in which they run; as text, a table.

    Attributes:
        name: of the network's class.
        input_size: of one pattern, the channel first.
        layers: the leaves.
        total: parameters.
        trainable: those that gradients reach.
        metrics: of an example, or none.
        figure: file of the comparison, or none.
    """

    name: str
    input_size: tuple[int, ...]
    layers: tuple[Layer, ...]
    total: int
    trainable: int
    metrics: Metrics | None = None
    figure: Path | None = None

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters")
        rows = [(x.name, x.kind, _by(x.shape), f"{x.parameters:,}") for x in self.layers]
        wide = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                [*(cell.ljust(n) for cell, n in zip(row, wide[:3], strict=False)), row[3].rjust(wide[3])]
            )
            for row in [head, *rows]
        ]
        lines.insert(1, "-" * len(lines[0]))
        lines += ["", f"{self.name} for patterns of {_by(self.input_size)}: {self.total:,} parameters, "]
        lines[-1] += f"{self.trainable:,} of them trainable"
        lines += [str(part) for part in (self.metrics, self.figure) if part is not None]
        return "\n".join(lines)


def show(
    model: nn.Module,
    example_input: Tensor | None = None,
    output_dir: Path | str | None = None,
    *,
    input_size: Sequence[int] | None = None,
) -> Summary:
    """Layers, shapes and parameters of a network; with an example, also how well it is drawn.

    Without an example nothing is computed: shapes are followed through a copy without weights.

    Args:
        model: takes ``(b, *input_size)`` and gives the same shape.
        example_input: patterns ``(b, 1, y, x)`` to draw, which then say the size.
        output_dir: folder for a figure of them and what is drawn.
        input_size: of one pattern, the channel first; default: what an autoencoder is made for, else
            1 x 256 x 256.

    Returns:
        A value to print.

    Raises:
        BadInput: a folder without an example; what the network says of its input.

    Example:
        >>> from phaseloom.embedding.networks.autoencoder import Autoencoder
        >>> print(str(show(Autoencoder(latent_dim=32), input_size=(1, 256, 256))).splitlines()[-1])
        Autoencoder for patterns of 1 x 256 x 256: 3,914,404 parameters, 3,914,404 of them trainable
    """
    if example_input is None and output_dir is not None:
        raise BadInput("show: output_dir", str(output_dir), "needs patterns to draw: pass example_input too")
    own = (1, *model.out_shape) if isinstance(model, PatternAutoencoder) else (1, 256, 256)
    size = tuple(input_size or own) if example_input is None else tuple(example_input.shape[1:])
    counts = [value.numel() for value in model.parameters()]
    free = sum(value.numel() for value in model.parameters() if value.requires_grad)
    metrics = figure = None
    if example_input is not None:
        drawn = _drawn(model, example_input)
        metrics = calculate_metrics(example_input, drawn)
        if output_dir is not None:
            figure = save_comparison_images(example_input, drawn, Path(output_dir) / FIGURE)
    return Summary(
        type(model).__name__, size, tuple(_layers(model, size)), sum(counts), free, metrics, figure
    )


def calculate_metrics(patterns: Tensor, drawn: Tensor, /, *, data_range: float | None = None) -> Metrics:
    """Error, peak signal-to-noise ratio and structural similarity of each pattern, averaged.

    Args:
        patterns: ``(b, 1, y, x)`` as given, at least 11 x 11 pixels.
        drawn: the same shape.
        data_range: largest difference of grey values; default: that of all the patterns. State it with the
            numbers: without it they mean nothing.

    Raises:
        BadInput: shapes differ, patterns are too small, or all the same and no range is given.

    Example:
        >>> patterns = torch.zeros(2, 1, 16, 16)
        >>> print(calculate_metrics(patterns, patterns + 0.1, data_range=1.0).psnr)
        20 ± 0
    """
    given, found = (torch.as_tensor(part).detach().double().cpu().numpy() for part in (patterns, drawn))
    peak = float(np.ptp(given)) if data_range is None else data_range
    pairs = list(zip(found, given, strict=False)) if found.shape == given.shape else [(found, given)]
    ratio = [image.psnr(a, b, peak=peak) for a, b in pairs]
    alike = [image.ssim(a, b, peak=peak) for a, b in pairs]
    error = [float(np.mean((a - b) ** 2)) for a, b in pairs]
    variance = float(np.mean((given - given.mean(0)) ** 2))
    share = 1 - float(np.mean(error)) / variance if variance > 0 else None
    return Metrics(_spread(error), _spread(ratio), _spread(alike), share, peak)


def comparison(patterns: Tensor, drawn: Tensor, /) -> Figure:
    """Some patterns, what was drawn of each, on one scale, and the difference on its own.

    Args:
        patterns: ``(b, 1, y, x)``.
        drawn: the same shape.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    given, found = (part.detach()[:MOST, 0].float().cpu().numpy() for part in (patterns, drawn))
    off = found - given
    reach = float(np.abs(off).max()) or 1.0
    grey = {"cmap": "magma", "vmin": float(given.min()), "vmax": float(given.max())}
    looks: tuple[dict[str, Any], ...] = (grey, grey, {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach})
    figure = Figure(figsize=(2 * len(given) + 1, 6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, len(given), squeeze=False)
    names = ("given", "drawn", "difference")
    for row, stack, look, name in zip(grid, (given, found, off), looks, names, strict=True):
        for number, (axes, values) in enumerate(zip(row, stack, strict=True)):
            shown = axes.imshow(values, **look)
            axes.set_title(f"{name} {number}", fontsize=9)
            axes.axis("off")
        figure.colorbar(shown, ax=list(row), shrink=0.8)
    return figure


def save_comparison_images(patterns: Tensor, drawn: Tensor, path: Path | str, /) -> Path:
    """Write the figure of `comparison`, and make the folder that it goes to."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise BadInput("save_comparison_images: path", str(path), "is no name of a picture: end it with .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as short:
        comparison(patterns, drawn).savefig(short, dpi=130)
    return path


def _layers(model: nn.Module, size: Sequence[int]) -> Iterator[Layer]:
    """Leaves, those that run in their order and then the others, by a pass without numbers."""
    ghost = copy.deepcopy(model).to("meta").eval()
    names = {part: name for name, part in ghost.named_modules() if not list(part.children())}
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    for part in names:
        part.register_forward_hook(lambda part, _, out: shapes.setdefault(part, tuple(out.shape)) and None)
    dtype = next(ghost.parameters()).dtype
    with torch.no_grad():
        ghost(torch.empty(1, *size, device="meta", dtype=dtype))
    seen: set[nn.Parameter] = set()
    for part in [*shapes, *(part for part in names if part not in shapes)]:
        own = set(part.parameters()) - seen
        seen |= own
        yield Layer(names[part], type(part).__name__, shapes.get(part, ()), sum(x.numel() for x in own))


@torch.no_grad()
def _drawn(model: nn.Module, patterns: Tensor) -> Tensor:
    with _judged(model):
        where = next(model.parameters())
        return model(patterns.to(where.device))


@contextmanager
def _judged(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and each part afterwards as it was."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _spread(values: Sequence[float]) -> Spread:
    finite = np.isfinite(values).all()
    return Spread(float(np.mean(values)), float(np.std(values)) if finite else float("nan"))


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "-"
