"""Autoencoders: a diffraction pattern to a few latents, and back.

`seed` is the first design to the letter, with its limits: below 128 pixels all its latents follow from one
number. `recommended` begins as the principal components of the patterns and learns what these miss; `pca` is
these components alone. The last two take patterns that their own ``scale`` has made of counts.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phaseloom.embedding import losses as embedding_losses
from phaseloom.embedding.networks.anscombe import AnscombeScale
from phaseloom.embedding.networks.convolutional import (
    AdaptiveDecoder,
    Decoder,
    Encoder,
    check_patterns,
    check_size,
)
from phaseloom.embedding.networks.linear_skip import LinearSkip
from phaseloom.errors import BadInput
from phaseloom.learning.layers import check_count
from phaseloom.learning.weight_files import BuilderCall, record_builder

__all__ = ["AdaptiveDecoder", "Autoencoder", "Decoder", "Encoder", "LinearAutoencoder", "PatternAutoencoder"]
__all__ += ["pca", "recommended", "seed"]

log = logging.getLogger(__name__)


class PatternAutoencoder(nn.Module):
    """Base of the autoencoders: patterns to latents and back.

    Attributes:
        out_shape: pixels (y, x) of a pattern that `decode` returns by default.
        scale: what makes of counts the numbers that this network takes, saved with its weights, or none.
        recipe: the call that built it.
    """

    recipe: BuilderCall

    def __init__(self, out_shape: Sequence[int], scale: AnscombeScale | None):
        super().__init__()
        self.out_shape = check_size(out_shape)
        self.scale = scale

    def forward(self, x: Tensor) -> Float[Tensor, "b 1 y x"]:
        """Patterns ``(b, 1, y, x)`` as the latents hold them, in the size in which they came.

        Raises:
            BadInput: patterns of another shape, type or size.
        """
        return self.decode(self.embed(x), (x.shape[-2], x.shape[-1]))

    def embed(self, x: Tensor) -> Float[Tensor, "b k"]:
        """Latents of patterns ``(b, 1, y, x)``; errors as of `forward`."""
        raise NotImplementedError

    def decode(self, z: Float[Tensor, "b k"], size: Sequence[int] | None = None) -> Float[Tensor, "b 1 y x"]:
        """Patterns of a size, or of ``out_shape``, from latents."""
        raise NotImplementedError

    def compute_loss(  # noqa: PLR0917 - the first design's signature
        self,
        x: Tensor,
        x_hat: Tensor,
        z: Tensor,
        lambda_act: float = 1e-4,
        lambda_sim: float = 5e-5,
        lambda_div: float = 2e-4,
    ) -> dict[str, Tensor]:
        """The first design's loss: ``total, mse, act, sim, div``; see `embedding_losses.regularised`."""
        weights = {"lambda_act": lambda_act, "lambda_sim": lambda_sim, "lambda_div": lambda_div}
        return embedding_losses.compute_seed_loss(x, x_hat, z, **weights)

    def begin(self, patterns: Tensor, /) -> None:
        """Take the size of typical patterns ``(n, 1, y, x)``, and from them the components of a linear part.

        Raises:
            BadInput: patterns of another shape, type or size, or too few of them.
        """
        self.out_shape = check_size(check_patterns(patterns, self).shape[-2:])
        recipe = getattr(self, "recipe", None)
        if recipe is not None:
            self.recipe = (recipe[0], {**recipe[1], "out_shape": self.out_shape})


class Autoencoder(PatternAutoencoder):
    """The convolutional network; as it is built here without knobs, the first design: 3,914,404 parameters.

    With a linear part, latents are ``W (x - mean) + encoder(x)`` and patterns ``mean + W^T z + decoder(z)``
    with both corrections zero at first, so that the network begins as principal components. The decoder is
    given latents over their spread, numbers of order one.

    Args:
        latent_dim: latents.
        out_shape: pixels (y, x) of a pattern that `decode` returns by default, and in which a linear
            part works; `begin` replaces it.
        pooling: ``seed`` or ``ladder``; see `Encoder`.
        decoder_sizes: ``seed`` or ``target``; see `Decoder`.
        output: ``sigmoid``, ``linear`` or ``softplus``.
        head_channels: maps of 4 x 4 pixels that latents are made of.
        latent_activation: ``relu``, ``softplus`` or ``none``.
        width: channels of the blocks, an even number.
        linear_skip: with a linear part, which asks for signed latents and a linear output.

    Raises:
        BadInput: an unknown option, or two that contradict.

    Example:
        >>> net = Autoencoder(latent_dim=4, width=8, decoder_sizes="target")
        >>> patterns = torch.rand(2, 1, 32, 48)
        >>> net(patterns).shape, net.embed(patterns).shape
        (torch.Size([2, 1, 32, 48]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        latent_dim: int = 32,
        out_shape: Sequence[int] = (256, 256),
        *,
        pooling: str = "seed",
        decoder_sizes: str = "seed",
        output: str = "sigmoid",
        head_channels: int = 1,
        latent_activation: str = "relu",
        width: int = 128,
        linear_skip: bool = False,
    ):
        super().__init__(out_shape, AnscombeScale() if linear_skip else None)
        if linear_skip and (latent_activation, output) != ("none", "linear"):
            fix = (
                "cannot have a linear part: choose latents with 'none' and a 'linear' output, or leave it out"
            )
            raise BadInput(
                "model: linear_skip", f"latents with {latent_activation!r}, output {output!r}", fix
            )
        inner: dict[str, Any] = {
            "head_channels": head_channels,
            "latent_activation": latent_activation,
            "pooling": pooling,
        }
        outer = {"decoder_sizes": decoder_sizes, "output": output}
        self.encoder = Encoder(latent_dim, width=width, **inner)
        self.decoder = Decoder(latent_dim, self.out_shape, width=width, **outer)
        self.skip = LinearSkip(latent_dim, self.out_shape) if linear_skip else None
        if linear_skip:
            for layer in (self.encoder.embedding.linear, self.decoder.conv_final):
                for value in layer.parameters():
                    nn.init.zeros_(value)
        knobs = {"latent_dim": latent_dim, "out_shape": self.out_shape, "width": width}
        knobs |= {**inner, **outer, "linear_skip": linear_skip}
        self.recipe = ("autoencoder", knobs)

    def embed(self, x: Tensor) -> Float[Tensor, "b k"]:
        """Latents of patterns ``(b, 1, y, x)``.

        Raises:
            BadInput: patterns of another shape, type or size.
        """
        z = self.encoder(x)
        return z if self.skip is None else self.skip.embed(x) + z

    def decode(self, z: Float[Tensor, "b k"], size: Sequence[int] | None = None) -> Float[Tensor, "b 1 y x"]:
        """Patterns of a size, or of ``out_shape``, from latents.

        Raises:
            BadInput: another number of latents, or a size that is none.
        """
        wanted = self.out_shape if size is None else check_size(size)
        if self.skip is None:
            return self.decoder(z, wanted)
        return self.skip.decode(z, wanted) + self.decoder(z / self.skip.spread, wanted)

    def begin(self, patterns: Tensor, /) -> None:
        """Take the size of patterns, and the components of a linear part; see `LinearSkip.begin`."""
        super().begin(patterns)
        if self.skip is not None:
            self.skip.begin(patterns)


class LinearAutoencoder(PatternAutoencoder):
    """Principal components alone: what every deeper network has to beat.

    Args:
        latent_dim: components.
        out_shape: pixels (y, x) of a pattern; `begin` replaces it.
    """

    def __init__(self, latent_dim: int, out_shape: Sequence[int]):
        super().__init__(out_shape, AnscombeScale())
        self.skip = LinearSkip(check_count("latent_dim", latent_dim), self.out_shape)

    def embed(self, x: Tensor) -> Float[Tensor, "b k"]:
        """Latents of patterns ``(b, 1, y, x)``, the one of largest variance first."""
        return self.skip.embed(check_patterns(x, self))

    def decode(self, z: Float[Tensor, "b k"], size: Sequence[int] | None = None) -> Float[Tensor, "b 1 y x"]:
        """Patterns of a size, or of ``out_shape``, from latents."""
        return self.skip.decode(z, self.out_shape if size is None else check_size(size))

    def begin(self, patterns: Tensor, /) -> None:
        """Take size and components from patterns; see `LinearSkip.begin`. There is nothing more to learn."""
        super().begin(patterns)
        self.skip.begin(patterns)


@record_builder("autoencoder.seed")
def seed(*, latent_dim: int = 32, out_shape: Sequence[int] = (256, 256), seed: int = 0) -> Autoencoder:
    """The first design: sigmoid output, latents that are not negative, 3,914,404 parameters for 32 of them.

    Its encoder divides by four three times, whatever the size, so that all latents follow from 1 number of
    patterns up to 64 pixels, 4 at 128, and 16 from 256 pixels on
    (`phaseloom.embedding.networks.convolutional.count_effective_features`); a warning says so. It takes
    patterns between zero and one.

    Args:
        latent_dim: latents.
        out_shape: pixels (y, x) of the patterns.
        seed: of the first weights.

    Example:
        >>> sum(value.numel() for value in seed().parameters())
        3914404
    """
    warning = "autoencoder: the seed's %d latents follow from 1 number up to 64 pixels, 4 at 128, "
    log.warning(
        warning + "16 from 256 on: take the recommended network where they should say more", latent_dim
    )
    return Autoencoder(latent_dim, out_shape)


@record_builder("autoencoder.recommended")
def recommended(
    *,
    latent_dim: int = 32,
    out_shape: Sequence[int] = (64, 64),
    width: int = 16,
    head_channels: int = 8,
    seed: int = 0,
) -> Autoencoder:
    """Signed latents of 128 features on top of principal components, a linear output in the patterns' size.

    Call ``net.scale.calibrate`` with counts and `PatternAutoencoder.begin` with what ``net.scale`` makes of
    them, then train: it starts as `pca`, and is not worse as long as held-out patterns decide when
    training stops.

    Args:
        latent_dim: latents.
        out_shape: pixels (y, x) of the patterns; `begin` replaces it.
        width: channels of the blocks; multiples of 16 are quickest.
        head_channels: maps of 4 x 4 features that latents are made of.
        seed: of the first weights.

    Example:
        >>> net, counts = recommended(latent_dim=4, width=8), torch.poisson(9 * torch.rand(20, 1, 16, 24))
        >>> net.scale.calibrate(counts)
        >>> net.begin(net.scale(counts))
        >>> net.scale.inverse(net(net.scale(counts))).shape
        torch.Size([20, 1, 16, 24])
    """
    net = Autoencoder(
        latent_dim,
        out_shape,
        pooling="ladder",
        decoder_sizes="target",
        output="linear",
        head_channels=head_channels,
        latent_activation="none",
        width=width,
        linear_skip=True,
    )
    # 1.4 times as fast on a processor
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@record_builder("autoencoder.pca")
def pca(*, latent_dim: int = 32, out_shape: Sequence[int] = (64, 64), seed: int = 0) -> LinearAutoencoder:
    """Principal components with the methods of an autoencoder: fitted by `begin` in seconds, no training.

    Args:
        latent_dim: components.
        out_shape: pixels (y, x) of the patterns; `begin` replaces it.
        seed: of the components before they are fitted.

    Example:
        >>> net, patterns = pca(latent_dim=2), torch.randn(20, 1, 16, 16)
        >>> net.begin(patterns)
        >>> net.embed(patterns).shape, net(patterns).shape
        (torch.Size([20, 2]), torch.Size([20, 1, 16, 16]))
    """
    return LinearAutoencoder(latent_dim, out_shape)
