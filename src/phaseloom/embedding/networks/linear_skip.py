"""Principal components of patterns as a layer: the linear part of an autoencoder."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.embedding.networks.convolutional import Size, check_patterns
from phaseloom.errors import BadInput
from phaseloom.learning.layers import disable_autocast, to_full_precision

__all__ = ["LinearSkip", "fit_principal_components"]

# Patterns, or pixels, up to which components are found in closed form; beyond it takes minutes.
MAX_EXACT_SIZE = 512

# Of the randomised subspace where there are more patterns and pixels.
EXTRA_DIRECTIONS = 16
POWER_ITERATIONS = 8


class LinearSkip(nn.Module):
    """Latents as projections on images that are orthonormal at first, and patterns as sums of these images.

    It works in one size; patterns of another are interpolated to it and back. Autocast leaves it in single
    precision, so that it is exactly what was fitted.

    Args:
        latent_dim: images.
        size: pixels (y, x) of the images.

    Attributes:
        mean: ``(y, x)`` what is taken off first.
        basis: ``(k, y, x)`` images: random until `begin`.
        spread: ``(k,)`` standard deviations of the latents, one until `begin`.

    Example:
        >>> skip = LinearSkip(2, (16, 16))
        >>> patterns = (torch.randn(9, 2) @ torch.randn(2, 256) + 7).view(9, 1, 16, 16)
        >>> skip.begin(patterns)
        >>> torch.allclose(skip.decode(skip.embed(patterns)), patterns, atol=1e-4)
        True
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, latent_dim: int, size: Size):
        super().__init__()
        if latent_dim > size[0] * size[1]:
            raise BadInput("model: latent_dim", latent_dim, f"is more than the {size[0] * size[1]} pixels")
        basis = torch.empty(latent_dim, size[0] * size[1])
        self.basis = nn.Parameter(nn.init.orthogonal_(basis).unflatten(1, size).contiguous())
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(latent_dim))

    def embed(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b k"]:
        """Latents of patterns."""
        with disable_autocast(x):
            images = _resize_images(to_full_precision(x), self.mean.shape)
            return (images[:, 0] - self.mean).flatten(1) @ to_full_precision(self.basis).flatten(1).T

    def decode(self, z: Float[Tensor, "b k"], size: Size | None = None) -> Float[Tensor, "b 1 y x"]:
        """Patterns of a size from latents."""
        with disable_autocast(z):
            images = (to_full_precision(z) @ to_full_precision(self.basis).flatten(1)).unflatten(
                1, self.mean.shape
            ) + self.mean
            return _resize_images(images[:, None], size or self.mean.shape)

    @torch.no_grad()
    def begin(self, patterns: Float[Tensor, "n 1 y x"], /) -> None:
        """Take size, mean and principal components from typical patterns.

        Latents are in the order of their variance. Some thousands of patterns say as much as all of them.

        Raises:
            BadInput: no more patterns than latents, or patterns that are not finite.
        """
        rows = check_patterns(patterns, self).flatten(1)
        size = patterns.shape[-2:]
        count = len(self.basis)
        if not count < len(rows) or count > rows.shape[1]:
            fix = f"are too few for {count} components: give more of them, or ask for fewer latents"
            raise BadInput("patterns", f"{len(rows)} of {rows.shape[1]} pixels", fix)
        if not torch.isfinite(rows).all():
            raise BadInput("patterns", None, "hold what is not a finite number: mask it first")
        mean, basis = fit_principal_components(rows, count)
        found = [mean.unflatten(0, size), basis.unflatten(1, size), ((rows - mean) @ basis.T).std(0)]
        self.mean, basis, self.spread = (part.to(self.basis).contiguous() for part in found)
        self.spread.clamp_min_(1e-3 * self.spread.max().clamp_min(1e-6))
        self.basis = nn.Parameter(basis)


def fit_principal_components(
    rows: Float[Tensor, "n p"], count: int, /
) -> tuple[Float[Tensor, " p"], Float[Tensor, "k p"]]:
    """Mean and the directions of largest variance, orthonormal, the largest first.

    The largest entry of each direction is positive. Where both axes are long, directions come from a
    randomised subspace (Halko et al. 2011, doi 10.1137/090771806), always the same one.

    Args:
        rows: one observation each.
        count: directions.

    Example:
        >>> mean, basis = fit_principal_components(torch.tensor([[1.0, 5.0], [4.0, 5.0]]), 1)
        >>> mean.tolist(), basis.tolist()
        ([2.5, 5.0], [[1.0, 0.0]])
    """
    values = rows.detach().cpu().double()
    mean = values.mean(0)
    centred = values - mean
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if min(centred.shape) <= MAX_EXACT_SIZE:
            basis = torch.linalg.svd(centred, full_matrices=False)[2][:count]
        else:
            basis = torch.svd_lowrank(
                centred, min(count + EXTRA_DIRECTIONS, *centred.shape), niter=POWER_ITERATIONS
            )[2].T[:count]
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return mean.to(rows), (basis * largest.sign()).to(rows)


def _resize_images(images: Float[Tensor, "b 1 y x"], size: tuple[int, ...]) -> Float[Tensor, "b 1 v u"]:
    """Images of another size; what becomes one pixel is averaged, not sampled."""
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=True)
