"""Convolutional encoder and decoder: patterns of any size to latents, and latents to patterns."""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.learning.feature_sizes import (
    BASE_PIXELS,
    LEVEL_COUNT,
    Size,
    check_count,
    check_patterns,
    check_size,
    choose_option,
    divide_by_four,
    divide_evenly,
    multiply_by_four,
    multiply_evenly,
    resize_images,
)

__all__ = ["AdaptiveDecoder", "ConvBlock", "Decoder", "EmbeddingLayer", "Encoder", "IdentityBlock"]
__all__ += ["NormedConvolution", "ResNetBlock", "ResNetUpBlock", "count_effective_features"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]]
ACTIVATIONS = {"relu": nn.ReLU, "softplus": nn.Softplus, "none": nn.Identity}


class NormedConvolution(nn.Module):
    """A convolution and its batch norm, which a map of one pixel goes without.

    Args:
        before: channels.
        after: channels.
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Convolve and norm."""
        out = self.conv(maps)
        return self.bn(out) if max(out.shape[-2:]) > 1 else out


class ConvBlock(nn.Module):
    """Three convolutions added to what came in.

    Args:
        before: channels.
        after: channels; where they differ, a 1 x 1 convolution brings what came in to as many.

    Example:
        >>> ConvBlock(2, 3)(torch.rand(1, 2, 5, 7)).shape
        torch.Size([1, 3, 5, 7])
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.first, self.second, self.third = (
            NormedConvolution(before, after),
            NormedConvolution(after, after),
            NormedConvolution(after, after),
        )
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Convolve and add."""
        inner = functional.relu(self.second(functional.relu(self.first(maps))))
        return functional.relu(self.third(inner) + self.skip(maps))


class IdentityBlock(nn.Module):
    """One convolution, its batch norm, and what is negative cut off.

    Args:
        before: channels.
        after: channels.
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.normed = NormedConvolution(before, after)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Convolve."""
        return functional.relu(self.normed(maps))


class ResNetBlock(nn.Module):
    """Four convolutions, then means over what becomes one pixel.

    Args:
        channels: of the maps.
        pool_size: factor by which each axis shrinks where no size is told.

    Example:
        >>> ResNetBlock(2)(torch.rand(1, 2, 3, 9)).shape
        torch.Size([1, 2, 1, 2])
    """

    def __init__(self, channels: int, pool_size: int = 4):
        super().__init__()
        self.conv_block, self.identity_block = (
            ConvBlock(channels, channels),
            IdentityBlock(channels, channels),
        )
        self.pool_size = pool_size

    def forward(self, maps: Float[Tensor, "b c y x"], size: Size | None = None) -> Float[Tensor, "b c v u"]:
        """Shrink to a size."""
        out = self.identity_block(self.conv_block(maps))
        rows, columns = (max(1, n // self.pool_size) for n in out.shape[-2:])
        return functional.adaptive_avg_pool2d(out, size or (rows, columns))


class ResNetUpBlock(nn.Module):
    """Bilinear interpolation, then four convolutions.

    Args:
        channels: of the maps.
        scale: factor by which each axis grows where no size is told.

    Example:
        >>> ResNetUpBlock(2)(torch.rand(1, 2, 1, 2)).shape
        torch.Size([1, 2, 4, 8])
    """

    def __init__(self, channels: int, scale: int = 4):
        super().__init__()
        self.conv_block, self.identity_block = (
            ConvBlock(channels, channels),
            IdentityBlock(channels, channels),
        )
        self.scale = scale

    def forward(self, maps: Float[Tensor, "b c y x"], size: Size | None = None) -> Float[Tensor, "b c v u"]:
        """Grow to a size."""
        rows, columns = (n * self.scale for n in maps.shape[-2:])
        return self.identity_block(self.conv_block(resize_images(maps, size or (rows, columns))))


class EmbeddingLayer(nn.Module):
    """Features of a pattern to its latents, by a matrix.

    Args:
        features: numbers that come in.
        latent_dim: latents.
        activation: ``relu`` (none is negative), ``softplus`` or ``none`` (signed).

    Raises:
        BadInput: another activation.

    Example:
        >>> bool((EmbeddingLayer(16, 4)(torch.randn(8, 16)) >= 0).all())
        True
    """

    def __init__(self, features: int, latent_dim: int, activation: str = "relu"):
        super().__init__()
        self.linear = nn.Linear(features, latent_dim)
        self.activation = choose_option("latent_activation", activation, ACTIVATIONS)()

    def forward(self, features: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """Embed."""
        return self.activation(self.linear(features))


POOLING = {"seed": divide_by_four, "ladder": divide_evenly}  # pixels after each block of an encoder
GROWING = {"seed": multiply_by_four, "target": multiply_evenly}  # pixels after each block of a decoder
# What the last map of an encoder passes, by the activation of the latents: signed ones see both signs.
HEADS = {"relu": nn.ReLU, "softplus": nn.ReLU, "none": nn.Identity}
OUTPUTS = {"sigmoid": nn.Sigmoid, "linear": nn.Identity, "softplus": nn.Softplus}


def count_effective_features(size: Sequence[int], /, *, pooling: str = "seed", head_channels: int = 1) -> int:
    """Numbers that all latents of a pattern follow from, however many latents there are.

    Args:
        size: pixels (y, x) of the patterns.
        pooling: of an `Encoder`.
        head_channels: of an `Encoder`.

    Example:
        >>> [count_effective_features((n, n)) for n in (32, 64, 128, 256, 512)]
        [1, 1, 4, 16, 16]
        >>> count_effective_features((64, 64), pooling="ladder", head_channels=8)
        128
    """
    rows, columns = (
        min(BASE_PIXELS, choose_option("pooling", pooling, POOLING)(n)[-1]) for n in check_size(size)
    )
    return rows * columns * head_channels


class Encoder(nn.Module):
    """Patterns to latents: two convolutions, three residual blocks that shrink, two convolutions, a matrix.

    Args:
        latent_dim: latents.
        width: channels of the blocks.
        pooling: ``seed`` divides by four each time, which leaves one pixel of a small pattern; ``ladder``
            leaves 4 x 4 of every pattern.
        head_channels: of the last map.
        latent_activation: ``relu``, ``softplus`` or ``none``.

    Example:
        >>> Encoder(5, width=8)(torch.rand(2, 1, 32, 48)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        latent_dim: int = 32,
        *,
        width: int = 128,
        pooling: str = "seed",
        head_channels: int = 1,
        latent_activation: str = "relu",
    ):
        super().__init__()
        for knob, value in (("latent_dim", latent_dim), ("head_channels", head_channels)):
            check_count(knob, value)
        check_count("width", width, multiple=2)
        self.sizes = choose_option("pooling", pooling, POOLING)
        self.conv_input, self.conv_pre = IdentityBlock(1, width // 2), IdentityBlock(width // 2, width)
        self.blocks = nn.ModuleList(ResNetBlock(width) for _ in range(LEVEL_COUNT))
        self.conv_post, self.conv_final = (
            IdentityBlock(width, width // 2),
            NormedConvolution(width // 2, head_channels),
        )
        self.head = choose_option("latent_activation", latent_activation, HEADS)()
        self.embedding = EmbeddingLayer(BASE_PIXELS**2 * head_channels, latent_dim, latent_activation)

    def features(self, x: Tensor) -> Float[Tensor, "b n"]:
        """All that the latents are made of: the pixels of a 4 x 4 map of each channel."""
        maps = self.conv_pre(self.conv_input(x))
        for block, *size in zip(self.blocks, *(self.sizes(n) for n in x.shape[-2:]), strict=True):
            maps = block(maps, tuple(size))
        maps = self.head(self.conv_final(self.conv_post(maps)))
        return functional.adaptive_avg_pool2d(maps, BASE_PIXELS).flatten(1)

    def forward(self, x: Tensor) -> Float[Tensor, "b k"]:
        """Embed patterns ``(b, 1, y, x)``.

        Raises:
            BadInput: patterns of another shape, type or size.
        """
        return self.embedding(self.features(check_patterns(x, self)))


class Decoder(nn.Module):
    """Latents to patterns: a matrix to 4 x 4 pixels, a convolution, three residual blocks that grow, another.

    Parameters are the same whatever the size.

    Args:
        latent_dim: latents.
        out_shape: pixels (y, x) that are drawn where none are told.
        width: channels of the blocks.
        decoder_sizes: ``seed`` grows to 256 x 256 and interpolates; ``target`` grows to what is wanted.
        output: ``sigmoid``, ``linear`` or ``softplus``.

    Example:
        >>> Decoder(5, (32, 48), width=8, decoder_sizes="target")(torch.rand(2, 5)).shape
        torch.Size([2, 1, 32, 48])
    """

    def __init__(
        self,
        latent_dim: int = 32,
        out_shape: Sequence[int] = (256, 256),
        *,
        width: int = 128,
        decoder_sizes: str = "seed",
        output: str = "sigmoid",
    ):
        super().__init__()
        check_count("latent_dim", latent_dim)
        check_count("width", width)
        self.out_shape, self.sizes = (
            check_size(out_shape),
            choose_option("decoder_sizes", decoder_sizes, GROWING),
        )
        self.linear = nn.Linear(latent_dim, width * BASE_PIXELS**2)
        self.conv_initial = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResNetUpBlock(width) for _ in range(LEVEL_COUNT))
        self.conv_final = nn.Conv2d(width, 1, 3, padding=1)
        self.output = choose_option("output", output, OUTPUTS)()

    def forward(self, z: Float[Tensor, "b k"], size: Sequence[int] | None = None) -> Float[Tensor, "b 1 y x"]:
        """Draw.

        Raises:
            BadInput: another number of latents, or a size that is none.
        """
        if z.shape[-1] != self.linear.in_features:
            fix = f"in each pattern, where this network has {self.linear.in_features}"
            raise BadInput("latents", z.shape[-1], fix)
        wanted = self.out_shape if size is None else check_size(size)
        maps = self.conv_initial(self.linear(z).unflatten(1, (-1, BASE_PIXELS, BASE_PIXELS)))
        for block, *rung in zip(self.blocks, *(self.sizes(n) for n in wanted), strict=True):
            maps = block(maps, tuple(rung))
        return resize_images(self.output(self.conv_final(maps)), wanted)


AdaptiveDecoder = Decoder
"""The first design's second name for it."""
