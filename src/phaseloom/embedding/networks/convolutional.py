"""Convolutional encoder and decoder: patterns of any size to latents, and latents to patterns."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.learning.layers import check_count, choose_option

__all__ = ["AdaptiveDecoder", "ConvBlock", "Decoder", "EmbeddingLayer", "Encoder", "IdentityBlock"]
__all__ += ["NormedConvolution", "ResNetBlock", "ResNetUpBlock", "check_patterns", "check_size"]
__all__ += ["count_effective_features"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]]
ACTIVATIONS = {"relu": nn.ReLU, "softplus": nn.Softplus, "none": nn.Identity}
Size = tuple[int, int]  # pixels along y and x
BASE_PIXELS = 4  # pixels along an edge of the map that stands next to the latents, on either side
LEVEL_COUNT = 3  # blocks of an encoder or decoder
MIN_PATTERN_PIXELS = 16
MAX_PATTERN_PIXELS = 1024


def resize_images(images: Float[Tensor, "b c y x"], size: Size, /) -> Float[Tensor, "b c v u"]:
    """Images of another size, by bilinear interpolation between centres of pixels."""
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", align_corners=False)


def divide_by_four(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that divides them by four, the first design's way.

    Example:
        >>> divide_by_four(64), divide_by_four(256)
        ((16, 4, 1), (64, 16, 4))
    """
    return tuple(max(1, pixels // BASE_PIXELS**level) for level in range(1, LEVEL_COUNT + 1))


def divide_evenly(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that divides them by one ratio, such that four are left.

    Example:
        >>> divide_evenly(64), divide_evenly(256)
        ((25, 10, 4), (64, 16, 4))
    """
    return tuple(
        round(pixels * (BASE_PIXELS / pixels) ** (level / LEVEL_COUNT)) for level in range(1, LEVEL_COUNT + 1)
    )


def multiply_by_four(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that multiplies them by four, independent of the wanted size.

    Example:
        >>> multiply_by_four(64)
        (16, 64, 256)
    """
    return tuple(BASE_PIXELS ** (level + 1) for level in range(1, LEVEL_COUNT + 1))


def multiply_evenly(pixels: int, /) -> tuple[int, ...]:
    """The `divide_evenly` from its lower end: four pixels grow by one ratio to what is wanted.

    Example:
        >>> multiply_evenly(64), multiply_evenly(256)
        ((10, 25, 64), (16, 64, 256))
    """
    return (*divide_evenly(pixels)[-2::-1], pixels)


def check_patterns(x: Tensor, net: nn.Module, /) -> Tensor:
    """Patterns that a network can take.

    Raises:
        BadInput: another shape, type or size.
    """
    if x.ndim != 4 or x.shape[1] != 1 or not len(x):
        raise BadInput(
            "patterns", tuple(x.shape), "is not of shape (b, 1, y, x): stack patterns with one channel"
        )
    check_size(x.shape[-2:])
    wanted = next(net.parameters()).dtype
    mixed = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    if x.dtype != wanted and not (mixed and x.dtype in (torch.float32, torch.bfloat16, torch.float16)):
        raise BadInput("patterns", str(x.dtype), f"is not the network's type: give {wanted}")
    return x


def check_size(size: Sequence[int], /) -> Size:
    """Pixels along y and x of a pattern that can be taken.

    Raises:
        BadInput: other than two whole numbers, or beyond the limits.
    """
    given = tuple(size) if isinstance(size, Sequence) else (size,)
    good = [n for n in given if isinstance(n, int) and MIN_PATTERN_PIXELS <= n <= MAX_PATTERN_PIXELS]
    if len(good) != 2 or len(given) != 2:
        limits = f"{MIN_PATTERN_PIXELS} to {MAX_PATTERN_PIXELS}"
        fix = f"are not {limits} pixels along y and x: crop, bin or pad the patterns"
        raise BadInput("patterns: size", given, fix)
    return good[0], good[1]


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
        self.first = NormedConvolution(before, after)
        self.second = NormedConvolution(after, after)
        self.third = NormedConvolution(after, after)
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
        pool_size: factor by which each axis shrinks by default.

    Example:
        >>> ResNetBlock(2)(torch.rand(1, 2, 3, 9)).shape
        torch.Size([1, 2, 1, 2])
    """

    def __init__(self, channels: int, pool_size: int = 4):
        super().__init__()
        self.conv_block = ConvBlock(channels, channels)
        self.identity_block = IdentityBlock(channels, channels)
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
        scale: factor by which each axis grows by default.

    Example:
        >>> ResNetUpBlock(2)(torch.rand(1, 2, 1, 2)).shape
        torch.Size([1, 2, 4, 8])
    """

    def __init__(self, channels: int, scale: int = 4):
        super().__init__()
        self.conv_block = ConvBlock(channels, channels)
        self.identity_block = IdentityBlock(channels, channels)
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
        self.conv_input = IdentityBlock(1, width // 2)
        self.conv_pre = IdentityBlock(width // 2, width)
        self.blocks = nn.ModuleList(ResNetBlock(width) for _ in range(LEVEL_COUNT))
        self.conv_post = IdentityBlock(width, width // 2)
        self.conv_final = NormedConvolution(width // 2, head_channels)
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

    The parameters do not depend on the size.

    Args:
        latent_dim: latents.
        out_shape: pixels (y, x) that are drawn by default.
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
        self.out_shape = check_size(out_shape)
        self.sizes = choose_option("decoder_sizes", decoder_sizes, GROWING)
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
