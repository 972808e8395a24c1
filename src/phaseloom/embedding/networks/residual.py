"""Residual blocks that shrink and grow images to sizes that they are told, and what makes latents of them.

Every convolution is 3 x 3, keeps the size and has a bias; its batch norm is left out where a map is a single
pixel and a batch of one would have no variance. So sizes are free, and parameters do not depend on them.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.learning.feature_sizes import Size, chosen, resized

__all__ = ["ConvBlock", "EmbeddingLayer", "IdentityBlock", "Normed", "ResNetBlock", "ResNetUpBlock"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]]
ACTIVATIONS = {"relu": nn.ReLU, "softplus": nn.Softplus, "none": nn.Identity}


class Normed(nn.Module):
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
            Normed(before, after),
            Normed(after, after),
            Normed(after, after),
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
        self.normed = Normed(before, after)

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
        return self.identity_block(self.conv_block(resized(maps, size or (rows, columns))))


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
        self.activation = chosen("latent_activation", activation, ACTIVATIONS)()

    def forward(self, features: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """Embed."""
        return self.activation(self.linear(features))
