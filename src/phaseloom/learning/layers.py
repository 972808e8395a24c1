"""Layers that networks share: input of patterns, positions of tokens, conditioning on the optics."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import device

__all__ = ["AttentionBlock", "FiLM", "NoConditioning", "PatternEmbedding", "PatternIntake", "check_count"]
__all__ += ["PositionEncoding", "ScanTransformer", "UNet", "choose_option", "count_image_pixels"]
__all__ += ["to_full_precision"]

PIXELS_PER_STEP = 5  # pixels of the image to a step of the scan
MARGIN_PIXELS = 5  # pixels of the image beyond the first probe, and the last
OPTICS_NUMBERS = 8  # numbers that tell a network of the optics and the dose
PIXELS_AT_ONCE = 2**22  # pixels of patterns that are embedded at a time where memory is to be saved
# Share of the mean spread below which no pixel is spread out further: dark ones hold noise alone.
MIN_SPREAD_SHARE = 0.1

Option = TypeVar("Option")


def count_image_pixels(probes: int, /) -> int:
    """Pixels of the image of so many probes in a row.

    Example:
        >>> count_image_pixels(14), count_image_pixels(50)
        (76, 256)
    """
    return PIXELS_PER_STEP * (probes - 1) + 2 * MARGIN_PIXELS + 1


class PatternIntake(nn.Module):
    """Patterns as fractions of the incident beam, made numbers of order one.

    A pixel holds ``sqrt(fraction * pixels)``, the amplitude relative to a beam spread evenly over the
    detector, less a stored mean and over a stored spread. Counting noise is then about as strong everywhere.

    Args:
        patterns: pixels along an edge of a pattern.

    Attributes:
        mean, spread: ``(y, x)``; zero and one until `calibrate`.

    Example:
        >>> PatternIntake(4)(torch.full((1, 4, 4), 1 / 16)).unique().tolist()
        [1.0]
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, patterns: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(patterns, patterns))
        self.register_buffer("spread", torch.ones(patterns, patterns))

    def amplitude(self, patterns: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """Root of the fraction times the number of pixels; what noise left below zero counts as nothing.

        Raises:
            BadInput: patterns of another size.
        """
        if patterns.shape[-2:] != self.mean.shape:
            fix = f"pixels each, where this network takes {tuple(self.mean.shape)}: build it for them"
            raise BadInput("patterns", tuple(patterns.shape[-2:]), fix)
        fraction = patterns.to(self.mean.dtype)
        return (fraction * self.mean.numel()).clamp_min(1e-12).sqrt()

    def forward(self, patterns: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
        """Amplitudes less their mean, over their spread."""
        return (self.amplitude(patterns) - self.mean) / self.spread

    @torch.no_grad()
    def calibrate(self, patterns: Float[Tensor, "*batch y x"]) -> None:
        """Take mean and spread from typical patterns.

        Raises:
            BadInput: patterns that hold more than the incident beam, or no two of them.
        """
        share = float(patterns.sum((-2, -1)).mean())
        if not 0 < share < 1.1:
            raise BadInput("patterns", share, "of the beam in each: give fractions of the incident beam")
        amplitude = self.amplitude(patterns).reshape(-1, *self.mean.shape)
        if len(amplitude) < 2:
            raise BadInput("patterns", len(amplitude), "is too few to calibrate with: give two or more")
        spread = amplitude.std(0)
        if not spread.any():
            raise BadInput("patterns", None, "are all the same: calibrate with patterns of specimens")
        self.mean.copy_(amplitude.mean(0))
        self.spread.copy_(spread.clamp_min(MIN_SPREAD_SHARE * float(spread.square().mean().sqrt())))


class PatternEmbedding(nn.Module):
    """One pattern to ``D`` numbers: a `PatternIntake`, and a body that takes images of one channel.

    With ``frugal`` patterns are embedded some at a time and their activations are computed again in the
    backward pass. Batch norms then see the patterns that go together as their batch; their running means
    are moved once.
    """

    def __init__(self, intake: PatternIntake, body: nn.Module, *, frugal: bool):
        super().__init__()
        self.intake = intake
        self.body = body
        self.frugal = frugal

    def forward(self, patterns: Float[Tensor, "m y x"]) -> Float[Tensor, "m d"]:
        """Embed each pattern by itself."""
        images = self.intake(patterns)[:, None]
        graph = torch.is_grad_enabled()
        if graph and not self.frugal:
            return self.body(images)
        chunks = images.split(max(1, PIXELS_AT_ONCE // images[0].numel()))
        return torch.cat([self._again(chunk) if graph else self.body(chunk) for chunk in chunks])

    def _again(self, images: Tensor) -> Tensor:
        contexts = lambda: (nullcontext(), _freeze_running_means(self.body))  # noqa: E731 - what checkpoint asks for
        out = checkpoint(self.body, images, use_reentrant=False, context_fn=contexts)
        assert isinstance(out, Tensor)
        return out


@contextmanager
def _freeze_running_means(body: nn.Module) -> Iterator[None]:
    """Running means stay as they are: a pass that is repeated must not move them twice."""
    norms = [(part, part.momentum) for part in body.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum


class PositionEncoding(nn.Module):
    """Sines and cosines of places in a plane, ``width`` numbers each, times a learned gain.

    A quarter of the numbers are sines along y, and so on; wavelengths go from ``shortest`` to ``longest``
    geometrically, so that neighbours differ and far places do not repeat.

    Args:
        width: a multiple of four.
        shortest: wavelength, in the unit of the places.
        longest: wavelength.

    Example:
        >>> PositionEncoding(8, shortest=4.0, longest=400.0)(torch.zeros(5, 2)).shape
        torch.Size([5, 8])
    """

    waves: Tensor

    def __init__(self, width: int, *, shortest: float, longest: float):
        super().__init__()
        if width % 4:
            raise BadInput("model: width", width, "is not a multiple of four: choose one")
        lengths = torch.logspace(math.log10(shortest), math.log10(longest), width // 4)
        self.register_buffer("waves", 2 * torch.pi / lengths)
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, places: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch d"]:
        """Embed places (y, x)."""
        angle = places.to(self.waves.dtype)[..., None] * self.waves
        return self.gain * torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)


class FiLM(nn.Module):
    """What the optics do to tokens: each channel is scaled and shifted. Nothing, before it has learned.

    Args:
        width: channels of a token.
        hidden: width of the layer between.
    """

    def __init__(self, width: int, *, hidden: int = 64):
        super().__init__()
        self.read = nn.Linear(OPTICS_NUMBERS, hidden)
        self.write = nn.Linear(hidden, 2 * width)
        for value in self.write.parameters():
            nn.init.zeros_(value)

    def forward(self, tokens: Float[Tensor, "b t d"], optics: Float[Tensor, "b 8"]) -> Float[Tensor, "b t d"]:
        """Scale and shift."""
        hidden = functional.silu(self.read(optics.to(self.read.weight.dtype)))
        gain, offset = self.write(hidden)[:, None].chunk(2, -1)
        return tokens * (1 + gain) + offset


class NoConditioning(nn.Module):
    """In place of `FiLM` where a network is not told of the optics."""

    def forward(self, tokens: Float[Tensor, "b t d"], optics: Float[Tensor, "b 8"]) -> Float[Tensor, "b t d"]:
        """The tokens as they are."""
        return tokens


class AttentionBlock(nn.Module):
    """Attention and a perceptron, each after a layer norm and added to what came in.

    Args:
        width: channels of a token.
        heads: that share the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise BadInput("model: heads", heads, f"do not share a width of {width} evenly: choose a divisor")
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.after = nn.LayerNorm(width)
        self.look = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Attention between all tokens of a window."""
        wide = self.look(self.before(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = wide.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.join(attended.transpose(1, 2).flatten(-2))
        return tokens + self.think(self.after(tokens))


class ScanTransformer(nn.Module):
    """A transformer over the tokens of a square window of a scan, after one token without a place.

    Each token is given its place in the window by a learned table, and its place in the scan, in angstrom.

    Args:
        entry: from the width of embeddings to that of the blocks.
        first: the token before the others ``(1, 1, d)``.
        table: of places in the window ``(1, 1 + n * n, d)``.
        films: one for each block, `FiLM` or `NoConditioning`.
        blocks: tokens in, tokens (or a tuple of them) out.
        norm: over what leaves the last block.
        step: of the scan, angstrom.
    """

    def __init__(
        self,
        entry: nn.Module,
        first: nn.Parameter,
        table: nn.Parameter,
        /,
        *,
        films: nn.ModuleList,
        blocks: nn.ModuleList,
        norm: nn.Module,
        step: float,
    ):
        super().__init__()
        self.entry = entry
        self.first = first
        self.table = table
        self.films = films
        self.blocks = blocks
        self.norm = norm
        self.step = step
        self.window = math.isqrt(table.shape[1] - 1)
        self.places = PositionEncoding(table.shape[-1], shortest=2 * step, longest=200 * step)

    def forward(
        self,
        tokens: Float[Tensor, "b n n d"],
        optics: Float[Tensor, "b 8"],
        coordinates: Float[Tensor, "b 2"],
    ) -> Float[Tensor, "b n n e"]:
        """Tokens that know of one another.

        Raises:
            BadInput: a window of another size.
        """
        n = self.window
        if tokens.shape[1:3] != (n, n):
            fix = f"probes, where this network takes {n} x {n}: cut windows of that size"
            raise BadInput("patterns: a window", tuple(tokens.shape[1:3]), fix)
        axis = torch.arange(n, device=coordinates.device) * self.step
        places = coordinates[:, None] + torch.cartesian_prod(axis, axis)
        inner = self.entry(tokens.flatten(1, 2)) + self.places(places)
        state = torch.cat([self.first.expand(len(tokens), -1, -1), inner], 1) + self.table
        for film, block in zip(self.films, self.blocks, strict=True):
            out = block(film(state, optics))
            state = out[0] if isinstance(out, tuple) else out
        return self.norm(state)[:, 1:].unflatten(1, (n, n))


class UNet(nn.Module):
    """Maps in, one map of the same size out: zero everywhere before it has learned.

    Args:
        maps: that come in.
        width: channels of the finest level; each coarser one has twice as many.
        depth: times the size is halved.

    Example:
        >>> UNet(3, width=8, depth=2)(torch.rand(1, 3, 21, 34)).shape
        torch.Size([1, 1, 21, 34])
    """

    def __init__(self, maps: int, *, width: int, depth: int):
        super().__init__()
        wide = [width * 2**level for level in range(depth + 1)]
        self.enter = _make_double_convolution(maps, width)
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 2, stride=2), _make_double_convolution(b, b))
            for a, b in pairwise(wide)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, stride=2) for a in wide[-2::-1])
        self.join = nn.ModuleList(_make_double_convolution(2 * a, a) for a in wide[-2::-1])
        self.leave = nn.Conv2d(width, 1, 3, padding=1)
        for value in self.leave.parameters():
            nn.init.zeros_(value)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 1 y x"]:
        """Sizes that cannot be halved so often are padded with zeros first."""
        height, width = maps.shape[-2:]
        unit = 2 ** len(self.down)
        state = self.enter(functional.pad(maps, (0, -width % unit, 0, -height % unit)))
        skips = [state]
        for down in self.down:
            skips.append(state := down(state))
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            state = join(torch.cat([up(state), skips.pop()], 1))
        return self.leave(state)[..., :height, :width]


def _make_double_convolution(before: int, after: int) -> nn.Sequential:
    first = nn.Conv2d(before, after, 3, padding=1)
    second = nn.Conv2d(after, after, 3, padding=1)
    norms = [nn.GroupNorm(math.gcd(8, after), after) for _ in range(2)]
    return nn.Sequential(first, norms[0], nn.GELU(), second, norms[1], nn.GELU())


def to_full_precision(value: Tensor, /) -> Tensor:
    """At least single precision: what sums over overlaps and transforms needs, also under autocast."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def disable_autocast(values: Tensor, /) -> AbstractContextManager[object]:
    """A context without autocast: sums of squares need more than half precision."""
    kind = values.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def use_precision(
    net: nn.Module, precision: Literal["float32", "bfloat16"], /
) -> AbstractContextManager[object]:
    """A context in which a network runs in a precision; its parameters stay in single precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.device_of(net).type, dtype=torch.bfloat16)


def choose_option(knob: str, name: str, choices: Mapping[str, Option], /) -> Option:
    """The value of an option.

    Raises:
        BadInput: another name.
    """
    if name not in choices:
        raise BadInput(f"model: {knob}", name, f"is not a choice: {nearest(name, choices)}")
    return choices[name]


def check_count(knob: str, value: int, /, *, multiple: int = 1) -> int:
    """A whole number of at least one, a multiple of ``multiple``.

    Raises:
        BadInput: another value.
    """
    if not isinstance(value, int) or value < 1 or value % multiple:
        raise BadInput(
            f"model: {knob}", value, f"must be a whole number above zero, a multiple of {multiple}"
        )
    return value
