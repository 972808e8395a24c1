"""Second stage: patches of the phase and their places to one image.

A place is that of a patch's pixel ``[0, 0]`` on the canvas, ``(y, x)`` in pixels, not always whole. Beside
the builders: `list_windows` says which patches cover a scan, and `crop_patch` cuts a patch out of an image.
"""

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.learning.layers import PositionEncoding, UNet, to_full_precision
from phaseloom.learning.weight_files import BuilderCall, record_builder
from phaseloom.physics.fourier import shift
from phaseloom.retrieval.networks.backbones import get_blocks, make_transformer

__all__ = ["overlap", "residual", "seed"]

PAIRS_AT_ONCE = 512  # overlaps of patches that are weighed at a time
MIN_COVER_WEIGHT = 1e-9  # least weight of a pixel that counts as covered
ROUNDING_SHARE = 1e-4  # share of a pixel beyond a patch's edge that is taken for rounding

Shape = tuple[int, int]


def list_windows(rows: int, cols: int, n: int = 14, stride: int = 9) -> list[Shape]:
    """First probes ``(row, col)`` of windows that cover a scan; the last of a row is pulled to the edge.

    Args:
        rows: of the scan.
        cols: of the scan.
        n: probes along an edge of a window.
        stride: probes from a window to the next.

    Raises:
        BadInput: a scan smaller than a window, or a stride that leaves probes out.

    Example:
        >>> [col for row, col in list_windows(50, 50) if row == 0]
        [0, 9, 18, 27, 36]
        >>> [col for row, col in list_windows(14, 30) if row == 0]
        [0, 9, 16]
    """
    if min(rows, cols) < n:
        raise BadInput(
            "scan", f"{rows} x {cols}", f"is smaller than a window of {n} x {n}: use a smaller one"
        )
    if not 1 <= stride <= n:
        raise BadInput("stride", stride, f"leaves probes out: choose 1 to {n}, fewer to have overlaps")
    first = [sorted({*range(0, count - n, stride), count - n}) for count in (rows, cols)]
    return [(row, col) for row in first[0] for col in first[1]]


def crop_patch(
    phase: Float[Tensor, "b y x"], place: tuple[float | int, float | int], size: int, /
) -> Float[Tensor, "b v u"]:
    """A square patch of an image that repeats itself beyond its edges.

    Between pixels it is read off the image's Fourier series, which is exact for what the pixels can hold.

    Args:
        phase: the image.
        place: of the patch's pixel ``[0, 0]``, (y, x) in pixels.
        size: of the patch, pixels.

    Example:
        >>> crop_patch(torch.arange(5.0).expand(1, 5, 5), (1, -1), 3)[0, 0].tolist()
        [4.0, 0.0, 1.0]
    """
    whole = [math.floor(value) for value in place]
    rest = [value - start for value, start in zip(place, whole, strict=True)]
    if any(rest):
        amount = torch.tensor(rest, dtype=to_full_precision(phase).dtype, device=phase.device)
        phase = shift(
            torch.complex(to_full_precision(phase), torch.zeros_like(to_full_precision(phase))), -amount
        ).real
    rows, cols = (
        torch.arange(start, start + size, device=phase.device) % count
        for start, count in zip(whole, phase.shape[-2:], strict=True)
    )
    return phase[..., rows[:, None], cols]


class PhaseStitchingNet(nn.Module):
    """Patches and their places to one image.

    Attributes:
        layout: patches and places to maps of the canvas, or to tokens of it.
        finish: these to the image.
        recipe: the call that built it.
    """

    recipe: BuilderCall

    def __init__(self, layout: nn.Module, finish: nn.Module):
        super().__init__()
        self.layout = layout
        self.finish = finish

    def forward(
        self, patches: Float[Tensor, "b k v u"], places: Float[Tensor, "one m 2"], shape: Shape
    ) -> Float[Tensor, "b y x"]:
        """Stitch.

        Args:
            patches: phases, each but for a constant.
            places: (y, x) of each patch's pixel ``[0, 0]``, pixels; those of one scan serve for a batch.
            shape: pixels (y, x) of the image.
        """
        return self.finish(self.layout(patches, places, shape))


class OverlapMean(nn.Module):
    """The weighted mean of patches where they overlap, after each got the constant that fits it best.

    The constants are the least squares solution over all overlaps whose sum is zero (of every group of
    patches that hang together). On pixels, patches are copied; between them they are interpolated linearly,
    which costs a row and a column.

    ``forward`` gives three maps ``(b, 3, y, x)``: the mean, the sum of weights, and the variance between
    patches.
    """

    def __init__(self, weight: Literal["hann", "flat"]):
        super().__init__()
        self.weight = weight

    def forward(
        self, patches: Float[Tensor, "b k v u"], places: Float[Tensor, "one m 2"], shape: Shape
    ) -> Float[Tensor, "b 3 y x"]:
        """Lay out; without autocast, whose half precision would show at the seams."""
        if patches.shape[:2] != (len(patches), places.shape[1]) or len(places) not in (1, len(patches)):
            fix = f"do not go with patches of {tuple(patches.shape)}: give (y, x) for each"
            raise BadInput("patches: places", tuple(places.shape), fix)
        with torch.autocast(patches.device.type, enabled=False):
            return self._stitch(
                to_full_precision(patches),
                to_full_precision(places).to(to_full_precision(patches).dtype),
                shape,
            )

    def _stitch(self, patches: Tensor, places: Tensor, shape: Shape) -> Tensor:
        corner = places.detach().floor()
        rest = places - corner
        corner = corner.long()
        window = self._window(patches)
        known = _shift_by_fraction(torch.ones_like(window).expand(*places.shape[:2], *window.shape), rest)
        weight = _shift_by_fraction(window.expand(*places.shape[:2], *window.shape), rest)
        weight = weight * (known > 1 - ROUNDING_SHARE) * _find_inside(corner, weight.shape[-1], shape)
        picture = _shift_by_fraction(patches, rest) / known.clamp_min(ROUNDING_SHARE)
        at = _pixel_numbers(corner, weight.shape[-1], shape)
        cover = _add_patches(weight, at, shape)
        safe = torch.where(cover > MIN_COVER_WEIGHT, cover, 1.0)
        away = weight * (picture - _take_patches(_add_patches(weight * picture, at, shape) / safe, at))
        solved = _solve_constants(weight.detach(), at, corner, safe.detach())
        picture = picture - (solved @ away.sum((-2, -1))[..., None])[..., None]
        mean = _add_patches(weight * picture, at, shape) / safe
        spread = _add_patches(weight * (picture - _take_patches(mean, at)).square(), at, shape) / safe
        return torch.stack([mean, cover.expand_as(mean), spread], 1)

    def _window(self, patches: Tensor) -> Tensor:
        axes = [
            torch.arange(1, n + 1, device=patches.device).to(patches.dtype) / (n + 1)
            for n in patches.shape[-2:]
        ]
        if self.weight == "flat":
            axes = [torch.ones_like(axis) for axis in axes]
        else:
            axes = [(torch.pi * axis).sin().square() for axis in axes]
        return axes[0][:, None] * axes[1]


class MeanMap(nn.Module):
    """The first of the maps: overlap and no more."""

    def forward(self, maps: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b y x"]:
        """Pick it."""
        return maps[:, 0]


class ResidualCorrection(nn.Module):
    """The mean and what a `UNet` adds to it, given where patches lie and disagree.

    A constant in all patches is a constant in the image.
    """

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.net = UNet(3, width=width, depth=depth)

    def forward(self, maps: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b y x"]:
        """Correct the mean."""
        mean = maps[:, 0]
        level = mean.mean((-2, -1), keepdim=True)
        return mean + self.net(torch.stack([mean - level, maps[:, 1], maps[:, 2]], 1))[:, 0]


class PatchTokens(nn.Module):
    """Patches to five by five tokens of the canvas, as in the seed.

    A patch is pooled to 768 numbers; a learned table adds its number in the sequence, an encoding the place
    of its middle; a vision transformer follows.
    """

    def __init__(self, vit: Any):
        super().__init__()
        widths = (1, 64, 128, 256, 512)
        layers = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.encode = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 768))
        self.first = vit.embeddings.cls_token
        self.table = nn.Parameter(torch.randn(1, 26, 768) * 0.02)
        self.places = PositionEncoding(768, shortest=20.0, longest=2000.0)
        self.blocks = get_blocks(vit)
        self.norm = vit.layernorm

    def forward(
        self, patches: Float[Tensor, "b m v u"], places: Float[Tensor, "one m 2"], shape: Shape
    ) -> Float[Tensor, "b 768 5 5"]:
        """Lay out."""
        if patches.shape[1] != 25 or tuple(shape) != (256, 256):
            found = f"{patches.shape[1]} for {shape[0]} x {shape[1]} pixels"
            raise BadInput(
                "patches", found, "where seed takes 25 for 256 x 256: stitch with residual or overlap"
            )
        inner = self.encode(patches.flatten(0, 1)[:, None]).unflatten(0, patches.shape[:2])
        inner = inner + self.places(places + patches.shape[-1] / 2)
        state = torch.cat([self.first.expand(len(inner), -1, -1), inner], 1) + self.table
        for block in self.blocks:
            out = block(state)
            state = out[0] if isinstance(out, tuple) else out
        return self.norm(state)[:, 1:].unflatten(1, (5, 5)).movedim(-1, 1)


class ImageDecoder(nn.Module):
    """Five by five tokens to 256 by 256 pixels by transposed convolutions, as in the seed."""

    def __init__(self):
        super().__init__()
        widths = (768, 512, 256, 128, 64, 32, 16)
        layers = []
        for number, (before, after) in enumerate(pairwise(widths)):
            padding = 3 if number == 1 else 1  # 10 pixels become 16, not 20
            step = nn.ConvTranspose2d(before, after, 4, stride=2, padding=padding)
            layers += [step, nn.BatchNorm2d(after), nn.ReLU()]
        self.draw = nn.Sequential(*layers, nn.Conv2d(16, 1, 3, padding=1))

    def forward(self, tokens: Float[Tensor, "b 768 5 5"]) -> Float[Tensor, "b 256 256"]:
        """Draw the image."""
        return self.draw(tokens)[:, 0]


@record_builder("stitching.overlap")
def overlap(*, weight: Literal["hann", "flat"] = "hann") -> PhaseStitchingNet:
    """The weighted mean of patches where they overlap, constants fitted: exact where patches are.

    Args:
        weight: how much a pixel of a patch counts: less towards its edge, or all the same.

    Example:
        >>> patches, places = torch.zeros(1, 2, 4, 4), torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
        >>> patches[0, 1] = 1.0
        >>> overlap()(patches, places, (4, 6)).unique().tolist()
        [0.5]
    """
    return PhaseStitchingNet(OverlapMean(weight), MeanMap())


@record_builder("stitching.residual")
def residual(
    *, width: int = 32, depth: int = 3, weight: Literal["hann", "flat"] = "hann", seed: int = 0
) -> PhaseStitchingNet:
    """`overlap` and a U-Net that corrects it, given where patches lie and disagree; zero correction at first.

    Args:
        width: channels of the U-Net at full size.
        depth: times it halves the size.
        weight: as of `overlap`.
        seed: of the first weights.

    Example:
        >>> net = residual(width=8, depth=1)
        >>> net(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 2), (4, 4)).unique().tolist()
        [1.0]
    """
    return PhaseStitchingNet(OverlapMean(weight), ResidualCorrection(width, depth))


@record_builder("stitching.seed")
def seed(*, vit: str | None = None, seed: int = 0) -> PhaseStitchingNet:
    """The first design: each of 25 patches pooled to a token, ViT-B, transposed convolutions to 256 x 256.

    96,110,562 parameters: one more than the design has, a gain of the coordinates, which came in nowhere.
    No patch is ever copied to its place; it is here to be compared with.

    Args:
        vit: a local directory or a hub name of a ViT-B to start from, or none.
        seed: of the first weights.

    Raises:
        BadInput: weights that cannot be had, or of another network.
        MissingExtra: without transformers.
    """
    return PhaseStitchingNet(PatchTokens(make_transformer(vit)), ImageDecoder())


def _shift_by_fraction(values: Float[Tensor, "*batch v u"], rest: Float[Tensor, "*#batch 2"]) -> Tensor:
    """Values moved down and right by part of a pixel, on one more row and column."""
    y = rest[..., 0, None, None]
    x = rest[..., 1, None, None]
    pad = nn.functional.pad
    rows = (1 - y) * pad(values, (0, 0, 0, 1)) + y * pad(values, (0, 0, 1, 0))
    return (1 - x) * pad(rows, (0, 1)) + x * pad(rows, (1, 0))


def _pixel_coordinates(corner: Int[Tensor, "#b k 2"], size: int) -> tuple[Tensor, Tensor]:
    step = torch.arange(size, device=corner.device)
    return (corner[..., :1] + step)[..., :, None], (corner[..., 1:] + step)[..., None, :]


def _find_inside(corner: Int[Tensor, "#b k 2"], size: int, shape: Shape) -> Tensor:
    """Which pixels of patches lie on the canvas."""
    y, x = _pixel_coordinates(corner, size)
    return (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])


def _pixel_numbers(corner: Int[Tensor, "#b k 2"], size: int, shape: Shape) -> Int[Tensor, "b k v u"]:
    """Numbers of the canvas pixels of patches; what lies outside is counted to the edge."""
    y, x = _pixel_coordinates(corner, size)
    return y.clamp(0, shape[0] - 1) * shape[1] + x.clamp(0, shape[1] - 1)


def _add_patches(values: Float[Tensor, "b k v u"], at: Int[Tensor, "#b k v u"], shape: Shape) -> Tensor:
    """Patches added to an empty canvas."""
    canvas = values.new_zeros(len(values), shape[0] * shape[1])
    places = at.expand(len(values), *at.shape[1:]).flatten(1)
    return canvas.scatter_add(1, places, values.flatten(1)).unflatten(1, shape)


def _take_patches(canvas: Float[Tensor, "b y x"], at: Int[Tensor, "#b k v u"]) -> Tensor:
    """The canvas where patches lie."""
    places = at.expand(len(canvas), *at.shape[1:])
    return canvas.flatten(1).gather(1, places.flatten(1)).view(places.shape)


def _solve_constants(
    weight: Float[Tensor, "b k v v"], at: Int[Tensor, "b k v v"], corner: Int[Tensor, "#b k 2"], cover: Tensor
) -> Float[Tensor, "b k k"]:
    """The matrix from the excess of patches over the mean to the constants to subtract from them.

    The squares of all differences in overlaps are least where ``(diag(w) - W) c = -away``, ``W`` holding the
    products of two patches' weights over the cover; its smallest solution adds up to zero.
    """
    size = weight.shape[-1]
    near = (corner[:, :, None] - corner[:, None]).abs().amax(-1) < size
    batch, one, other = near.nonzero(as_tuple=True)
    share = weight / _take_patches(cover, at)
    shared = torch.zeros_like(near, dtype=weight.dtype)
    y, x = _pixel_coordinates(corner, size)
    for part in torch.arange(len(batch), device=batch.device).split(PAIRS_AT_ONCE):
        b = batch[part]
        k = one[part]
        m = other[part]
        rows = y[b, k] - corner[b, m, 0, None, None]
        cols = x[b, k] - corner[b, m, 1, None, None]
        there = (rows >= 0) & (rows < size) & (cols >= 0) & (cols < size)
        place = rows.clamp(0, size - 1) * size + cols.clamp(0, size - 1)
        second = weight[b, m].flatten(1).gather(1, place.flatten(1)).view(place.shape)
        shared[b, k, m] = (share[b, k] * second * there).sum((-2, -1))
    normal = torch.diag_embed(shared.sum(-1)) - shared
    return torch.linalg.pinv((normal + normal.mT) / 2, rtol=1e-5, hermitian=True)
