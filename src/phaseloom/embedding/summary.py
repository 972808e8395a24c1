"""Summary of an autoencoder: its layers and parameters, and how well it reconstructs example patterns."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.embedding.networks.autoencoder import PatternAutoencoder
from phaseloom.errors import BadInput
from phaseloom.metrics.image import psnr, ssim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["calculate_metrics", "comparison", "save_comparison_images", "show"]

MAX_COMPARED_PATTERNS = 6


@dataclass(frozen=True)
class LayerSummary:
    """A module without children; its shape is that of the output, empty if it does not run."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class MeanAndStd:
    """Mean and standard deviation over the patterns."""

    mean: float
    std: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.std:.2g}"


@dataclass(frozen=True)
class PatternMetrics:
    """How close reconstructed patterns are to the input; ``psnr`` (dB) and ``ssim`` refer to ``data_range``.

    ``explained`` is the share of the variance about the mean pattern, None if all patterns are the same.
    """

    mse: MeanAndStd
    psnr: MeanAndStd
    ssim: MeanAndStd
    explained: float | None
    data_range: float

    def __str__(self) -> str:
        share = "none to explain" if self.explained is None else f"{self.explained:.4f}"
        lines = [f"MSE   {self.mse}", f"PSNR  {self.psnr} dB", f"SSIM  {self.ssim}"]
        return "\n".join([*lines, f"explained variance {share}", f"(data range {self.data_range:.4g})"])


@dataclass(frozen=True)
class NetworkSummary:
    """The layers of a network in the order in which they run; as text, a table."""

    name: str
    input_size: tuple[int, ...]
    layers: tuple[LayerSummary, ...]
    total: int
    trainable: int
    metrics: PatternMetrics | None = None
    figure: Path | None = None

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "parameters")]
        rows += [(x.name, x.kind, _format_shape(x.shape), f"{x.parameters:,}") for x in self.layers]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        form = "  ".join([*(f"{{:<{n}}}" for n in wide[:3]), f"{{:>{wide[3]}}}"])
        lines = [form.format(*row) for row in rows]
        lines.insert(1, "-" * len(lines[0]))
        counts = f"{self.total:,} parameters, {self.trainable:,} of them trainable"
        lines += ["", f"{self.name} for patterns of {_format_shape(self.input_size)}: {counts}"]
        return "\n".join([*lines, *(str(part) for part in (self.metrics, self.figure) if part is not None)])


def show(
    model: nn.Module,
    example_input: Tensor | None = None,
    output_dir: Path | str | None = None,
    *,
    input_size: Sequence[int] | None = None,
) -> NetworkSummary:
    """Print layers, shapes and parameters of a network, and with example patterns how it reconstructs them.

    Returns what it prints, as a value.

    Args:
        model: takes ``(b, *input_size)`` and returns the same shape.
        example_input: patterns ``(b, 1, y, x)`` to reconstruct; they set the size.
        output_dir: folder for a figure that compares them.
        input_size: of one pattern, channel first; default: that of the autoencoder, else 1 x 256 x 256.

    Raises:
        BadInput: a folder without example patterns.

    Example:
        >>> from phaseloom.embedding.networks.autoencoder import Autoencoder
        >>> found = show(Autoencoder(latent_dim=32), input_size=(1, 256, 256))  # doctest: +ELLIPSIS
        layer ...
        Autoencoder for patterns of 1 x 256 x 256: 3,914,404 parameters, 3,914,404 of them trainable
        >>> len(found.layers) > 30
        True
    """
    if example_input is None and output_dir is not None:
        raise BadInput("show: output_dir", str(output_dir), "needs patterns to draw: pass example_input too")
    own = (1, *model.out_shape) if isinstance(model, PatternAutoencoder) else (1, 256, 256)
    size = tuple(input_size or own) if example_input is None else tuple(example_input.shape[1:])
    total = sum(value.numel() for value in model.parameters())
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    metrics = figure = None
    if example_input is not None:
        decoded = _reconstruct(model, example_input)
        metrics = calculate_metrics(example_input, decoded)
        if output_dir is not None:
            figure = save_comparison_images(example_input, decoded, Path(output_dir) / "comparison.png")
    layers = tuple(_list_layers(model, size))
    found = NetworkSummary(type(model).__name__, size, layers, total, trainable, metrics, figure)
    sys.stdout.write(f"{found}\n")  # what it is called for, in a script as in a notebook
    return found


def calculate_metrics(
    patterns: Tensor, drawn: Tensor, /, *, data_range: float | None = None
) -> PatternMetrics:
    """Mean squared error, PSNR and SSIM of each pattern, averaged.

    Args:
        patterns: ``(b, 1, y, x)`` as given, at least 11 x 11 pixels.
        drawn: reconstructed, the same shape.
        data_range: largest difference of grey values; default: that of all the patterns.

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
    ratio = [psnr(a, b, peak=peak) for a, b in pairs]
    similarity = [ssim(a, b, peak=peak) for a, b in pairs]
    error = [float(np.mean((a - b) ** 2)) for a, b in pairs]
    variance = float(np.mean((given - given.mean(0)) ** 2))
    share = 1 - float(np.mean(error)) / variance if variance > 0 else None
    return PatternMetrics(_average(error), _average(ratio), _average(similarity), share, peak)


def comparison(patterns: Tensor, drawn: Tensor, /) -> Figure:
    """Some patterns ``(b, 1, y, x)`` and their reconstructions on one scale, and the differences."""
    from phaseloom.plot.style import new_figure

    given, found = (
        part.detach()[:MAX_COMPARED_PATTERNS, 0].float().cpu().numpy() for part in (patterns, drawn)
    )
    reach = float(np.abs(found - given).max()) or 1.0
    grey = {"cmap": "magma", "vmin": float(given.min()), "vmax": float(given.max())}
    signed = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    rows = [("given", given, grey), ("drawn", found, grey), ("difference", found - given, signed)]
    figure = new_figure(2 * len(given) + 1, 6)
    for line, (name, stack, style) in zip(figure.subplots(3, len(given), squeeze=False), rows, strict=True):
        for number, (axes, values) in enumerate(zip(line, stack, strict=True)):
            axes.imshow(values, **style)
            axes.set_title(f"{name} {number}", fontsize=9)
            axes.axis("off")
        figure.colorbar(line[0].images[0], ax=list(line), shrink=0.8)
    return figure


def save_comparison_images(patterns: Tensor, drawn: Tensor, path: Path | str, /) -> Path:
    """Write the figure of `comparison`, creating its folder."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise BadInput("save_comparison_images: path", str(path), "is not an image file: end it with .png")
    from phaseloom.plot.style import save

    save(comparison(patterns, drawn), path)
    return path


def _list_layers(model: nn.Module, size: Sequence[int]) -> Iterator[LayerSummary]:
    """Leaves in the order in which they run, then those that do not, by a pass on the meta device."""
    ghost = copy.deepcopy(model).to("meta").eval()
    names = {part: name for name, part in ghost.named_modules() if not list(part.children())}
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    for part in names:
        part.register_forward_hook(lambda part, _, out: shapes.setdefault(part, tuple(out.shape)) and None)
    with torch.no_grad():
        ghost(torch.empty(1, *size, device="meta", dtype=next(ghost.parameters()).dtype))
    counted: set[nn.Parameter] = set()
    for part in [*shapes, *(part for part in names if part not in shapes)]:
        own = set(part.parameters()) - counted
        counted |= own
        count = sum(value.numel() for value in own)
        yield LayerSummary(names[part], type(part).__name__, shapes.get(part, ()), count)


@torch.no_grad()
def _reconstruct(model: nn.Module, patterns: Tensor) -> Tensor:
    """The output in evaluation mode; every part is left in the mode that it had."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        return model(patterns.to(next(model.parameters()).device))
    finally:
        for part, mode in modes:
            part.training = mode


def _average(values: Sequence[float]) -> MeanAndStd:
    std = float(np.std(values)) if np.isfinite(values).all() else float("nan")
    return MeanAndStd(float(np.mean(values)), std)


def _format_shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "-"
