"""First stage: the patterns of a window of a scan, and its place, to a patch of the phase.

Every pattern is embedded by itself, so that a scan is embedded once however its windows overlap; a
transformer relates the patterns of a window; a decoder computes the patch. Five pixels are a
step of the scan, and the patch reaches five pixels beyond the first probe and the last:
``5 (n - 1) + 11`` pixels for ``n`` probes, 76 for 14.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.learning.layers import (
    PIXELS_PER_STEP,
    AttentionBlock,
    FiLM,
    NoConditioning,
    PatternEmbedding,
    PatternIntake,
    ScanTransformer,
)
from phaseloom.learning.weight_files import BuilderCall, record_builder
from phaseloom.retrieval.networks.backbones import get_blocks, make_resnet, make_transformer
from phaseloom.retrieval.networks.linear import linear
from phaseloom.retrieval.networks.tiny import tiny
from phaseloom.units import Length

__all__ = ["base", "linear", "seed", "small", "tiny"]


class PatchRecoveryNet(nn.Module):
    """Patterns of a square window of a scan to the phase under it, in radian.

    Attributes:
        embedding: one pattern to ``D`` numbers.
        grid: attention between the tokens of a window.
        decoder: these to the patch.
        recipe: the call that built it.
    """

    recipe: BuilderCall

    def __init__(self, embedding: PatternEmbedding, grid: ScanTransformer, decoder: nn.Module):
        super().__init__()
        self.embedding = embedding
        self.grid = grid
        self.decoder = decoder

    @property
    def window(self) -> int:
        """Probes along an edge of a window."""
        return self.grid.window

    @property
    def step(self) -> float:
        """Step of the scan, angstrom."""
        return self.grid.step

    def calibrate(self, patterns: Float[Tensor, "*batch y x"], /) -> None:
        """Take mean and spread of the input from typical patterns; see `PatternIntake.calibrate`."""
        self.embedding.intake.calibrate(patterns)

    def embed(self, patterns: Float[Tensor, "b rows cols y x"], /) -> Float[Tensor, "b rows cols d"]:
        """Each pattern by itself, from fractions of the incident beam."""
        return self.embedding(patterns.flatten(0, 2)).unflatten(0, patterns.shape[:3])

    def recover(
        self,
        tokens: Float[Tensor, "b n n d"],
        optics: Float[Tensor, "b 8"],
        coordinates: Float[Tensor, "b 2"],
        /,
    ) -> Float[Tensor, "b v u"]:
        """Patches from embedded patterns.

        Args:
            tokens: of the windows.
            optics: what the probe and the dose are, as numbers of order one.
            coordinates: (y, x) of the first probe of each window from the first of its scan, angstrom.

        Raises:
            BadInput: a window of another size.
        """
        return self.decoder(self.grid(tokens, optics, coordinates))

    def forward(
        self,
        patterns: Float[Tensor, "b n n y x"],
        optics: Float[Tensor, "b 8"],
        coordinates: Float[Tensor, "b 2"],
    ) -> Float[Tensor, "b v u"]:
        """Embed and recover."""
        return self.recover(self.embed(patterns), optics, coordinates)


class StepDecoder(nn.Module):
    """Tokens to pixels such that each token owns the five by five pixels around its probe.

    The window is padded by one token, every token becomes its pixels, and what is more than the patch is
    cut off: moving the tokens by one moves the patch by five pixels.

    Args:
        width: channels of a token.
        channels: of each pixel before two convolutions refine it.
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.spread = nn.Conv2d(width, PIXELS_PER_STEP**2 * channels, 3, padding=2)
        self.refine = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, tokens: Float[Tensor, "b n n d"]) -> Float[Tensor, "b v u"]:
        """Draw the patch."""
        fine = functional.pixel_shuffle(self.spread(tokens.movedim(-1, 1)), PIXELS_PER_STEP)[..., 2:-2, 2:-2]
        fine = functional.gelu(fine)
        fine = fine + functional.gelu(self.refine(fine))
        return self.leave(fine)[:, 0]


class TransposedDecoder(nn.Module):
    """Fourteen by fourteen tokens to 76 by 76 pixels by transposed convolutions, as in the seed."""

    def __init__(self, width: int):
        super().__init__()
        self.enter = nn.Linear(width, 512)
        self.draw = nn.Sequential(
            *(nn.ConvTranspose2d(512, 256, 4, stride=2, padding=1), nn.BatchNorm2d(256), nn.ReLU()),
            *(nn.ConvTranspose2d(256, 128, 4, stride=2, padding=1), nn.BatchNorm2d(128), nn.ReLU()),
            nn.ConvTranspose2d(128, 1, 21),
        )

    def forward(self, tokens: Float[Tensor, "b n n d"]) -> Float[Tensor, "b v u"]:
        """Draw the patch."""
        return self.draw(self.enter(tokens).movedim(-1, 1))[:, 0]


class ConvolutionalEncoder(nn.Module):
    """A pattern to ``width`` numbers by four convolutions; the last sees the whole of it.

    Nothing is averaged over the pattern: it matters where in the disc the intensity lies.
    """

    def __init__(self, patterns: int, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
        left = -(-patterns // 8)
        self.layers = nn.Sequential(*layers, nn.Conv2d(128, width, left), nn.Flatten(), nn.LayerNorm(width))

    def forward(self, images: Float[Tensor, "m 1 y x"]) -> Float[Tensor, "m d"]:
        """Embed."""
        return self.layers(images)


class PooledBackbone(nn.Module):
    """A network of transformers that ends in a mean over the image."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net

    def forward(self, images: Float[Tensor, "m 1 y x"]) -> Float[Tensor, "m d"]:
        """Embed."""
        return self.net(images).pooler_output.flatten(1)


@record_builder("recovery.small")
def small(
    *,
    patterns: int = 24,
    window: int = 14,
    width: int = 192,
    depth: int = 6,
    heads: int = 6,
    channels: int = 16,
    step: Length = 2.0,
    checkpoint: bool = False,
    seed: int = 0,
) -> PatchRecoveryNet:
    """Four convolutions, a transformer conditioned on the optics in every block, a decoder.

    3.9 million parameters for patterns of 24 pixels. No batch norm: the output does not depend on the
    rest of the batch.

    Args:
        patterns: pixels along an edge of a pattern.
        window: probes along an edge of a window.
        width: numbers that a pattern becomes, and of each token.
        depth: blocks of the transformer.
        heads: of each block.
        channels: of a pixel of the patch before the last convolutions.
        step: of the scan; a pixel of the patch is a fifth of it.
        checkpoint: embed some patterns at a time and again in the backward pass, to save memory.
        seed: of the first weights.

    Example:
        >>> net = small(window=3, width=16, depth=1, heads=2, channels=4)
        >>> net(torch.zeros(2, 3, 3, 24, 24), torch.zeros(2, 8), torch.zeros(2, 2)).shape
        torch.Size([2, 21, 21])
    """
    embedding = PatternEmbedding(
        PatternIntake(patterns), ConvolutionalEncoder(patterns, width), frugal=checkpoint
    )
    table = nn.Parameter(torch.randn(1, window**2 + 1, width) * 0.02)
    grid = ScanTransformer(
        nn.Linear(width, width),
        nn.Parameter(torch.randn(1, 1, width) * 0.02),
        table,
        films=nn.ModuleList(FiLM(width) for _ in range(depth)),
        blocks=nn.ModuleList(AttentionBlock(width, heads) for _ in range(depth)),
        norm=nn.LayerNorm(width),
        step=step,
    )
    return PatchRecoveryNet(embedding, grid, StepDecoder(width, channels))


@record_builder("recovery.base")
def base(
    *,
    patterns: int = 24,
    window: int = 14,
    width: int = 768,
    depth: int = 12,
    channels: int = 32,
    step: Length = 2.0,
    resnet: str | None = None,
    vit: str | None = None,
    checkpoint: bool = False,
    seed: int = 0,
) -> PatchRecoveryNet:
    """ResNet34, a ViT-B conditioned on the optics in every block, and the decoder of `small`.

    113.6 million parameters. Meant for patterns of 32 to 64 pixels.

    Args:
        patterns: pixels along an edge of a pattern.
        window: probes along an edge of a window.
        width: of a token; heads have 64 channels each.
        depth: blocks of the transformer.
        channels: of a pixel of the patch before the last convolutions.
        step: of the scan; a pixel of the patch is a fifth of it.
        resnet: a local directory or a hub name of a ResNet34 to start from, or none.
        vit: the same of a vision transformer of this size.
        checkpoint: embed some patterns at a time and again in the backward pass, to save memory.
        seed: of the first weights.

    Raises:
        BadInput: weights that cannot be had, or of another network.
        MissingExtra: without transformers.

    Example:
        >>> with torch.device("meta"):
        ...     net = base(width=64, depth=1)
        >>> len(net.grid.blocks), net.window
        (1, 14)
    """
    body = PooledBackbone(make_resnet(resnet))
    embedding = PatternEmbedding(PatternIntake(patterns), body, frugal=checkpoint)
    heads = max(1, width // 64)
    encoder = make_transformer(vit, window=window, width=width, depth=depth, heads=heads)
    films = nn.ModuleList(FiLM(width) for _ in range(depth))
    return PatchRecoveryNet(embedding, _make_grid(encoder, films, step), StepDecoder(width, channels))


@record_builder("recovery.seed")
def seed(
    *,
    resnet: str | None = None,
    vit: str | None = None,
    patterns: int = 256,
    step: Length = 2.0,
    checkpoint: bool = False,
    seed: int = 0,
) -> PatchRecoveryNet:
    """The first design: ResNet34 on each pattern, ViT-B on 14 x 14 of them, convolutions to 76 x 76.

    109,953,218 parameters: 1,536 more than the code it follows, whose final layer norm never ran, and one
    gain of the coordinates, which never came in there. The class token and the 197 places are those of the
    pretrained ViT; patterns are made numbers of order one before the first batch norm. The optics are not
    looked at: the design has no place for them.

    Args:
        resnet: a local directory or a hub name of a ResNet34 to start from, or none.
        vit: the same of a ViT-B of 14 x 14 tokens.
        patterns: pixels along an edge of a pattern.
        step: of the scan.
        checkpoint: embed some patterns at a time and again in the backward pass, to save memory: a window of
            256 x 256 pixels otherwise keeps 8 GB.
        seed: of the first weights.

    Raises:
        BadInput: weights that cannot be had, or of another network.
        MissingExtra: without transformers.

    Example:
        >>> with torch.device("meta"):
        ...     net = seed()
        >>> sum(value.numel() for value in net.parameters())
        109953218
    """
    embedding = PatternEmbedding(
        PatternIntake(patterns), PooledBackbone(make_resnet(resnet)), frugal=checkpoint
    )
    encoder = make_transformer(vit)
    films = nn.ModuleList(NoConditioning() for _ in get_blocks(encoder))
    return PatchRecoveryNet(embedding, _make_grid(encoder, films, step), TransposedDecoder(768))


def _make_grid(vit: Any, films: nn.ModuleList, step: float) -> ScanTransformer:
    """The parts of a vision transformer that do not depend on tokens being patches of an image."""
    table = vit.embeddings.position_embeddings
    return ScanTransformer(
        nn.Linear(512, table.shape[-1]),
        vit.embeddings.cls_token,
        table,
        films=films,
        blocks=get_blocks(vit),
        norm=vit.layernorm,
        step=step,
    )
