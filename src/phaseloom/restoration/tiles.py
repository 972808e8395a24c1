"""Restore images of any size in tiles, so that memory depends on the tile and not on the image.

Each tile is restored by itself and blended into its neighbours: in the overlap weights go from one to the
other as a squared sine, so that a pixel at an inner edge has weight zero. Tiles begin at multiples of the
network's unit, so that its coarse pixels are the same as in the whole image.

Results differ from those of the whole image, because the attention of a restorer compares channels over its
whole input. In a tile it sees the statistics of the tile; if these differ from those of the image, brightness
may drift from one tile to the next. Choose tiles no smaller than the images of the training and an overlap of
a quarter of a tile. Against the whole image of 250 x 300 pixels, tiles of 64 with 16 in common then came
within 55 dB (peak signal to noise) for a trained `narrow` network, tiles of 128 within 62 dB; networks
without residual output, with random weights, within 31 to 42 dB.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.restoration.networks.unet import Restorer, RestorerOutput

__all__ = ["restore_in_tiles"]


@torch.no_grad()
def restore_in_tiles(
    net: Restorer, images: Tensor, /, *, tile: int = 256, overlap: int = 64
) -> RestorerOutput:
    """Restore images ``(b, c, y, x)`` tile by tile.

    Images of one tile or less are passed to the network as a whole. The output is on the device of the
    images; tiles are moved to the network one at a time, without gradients.

    Args:
        net: the restorer.
        images: as the network takes them.
        tile: pixels along an edge of a tile, a multiple of the network's unit.
        overlap: pixels that neighbours share, a multiple of the unit, at most half a tile.

    Raises:
        BadInput: a tile or an overlap out of range, or images that the network refuses.

    Example:
        >>> from phaseloom.restoration.networks.phaseformer import narrow
        >>> images = torch.rand(1, 1, 40, 75)
        >>> low, high = restore_in_tiles(narrow(), images, tile=32, overlap=16)
        >>> low.shape, high.shape, torch.allclose(low, images)
        (torch.Size([1, 1, 40, 75]), torch.Size([1, 1, 80, 150]), True)
    """
    unit = net.plan.unit
    if not isinstance(tile, int) or tile < 2 * unit or tile % unit:
        raise BadInput("tile", tile, f"must be a multiple of {unit} pixels, {2 * unit} at least")
    if not isinstance(overlap, int) or not 0 < overlap <= tile // 2 or overlap % unit:
        fix = f"must be a multiple of {unit} pixels above zero and at most half a tile"
        raise BadInput("overlap", overlap, fix)
    device = next(net.parameters()).device
    if images.ndim != 4 or not images.numel() or max(images.shape[-2:]) <= tile:
        low, high = net(images.to(device))
        return RestorerOutput(low.to(images.device), None if high is None else high.to(images.device))
    vertical, horizontal = (TileAxis.cover(count, tile, overlap, unit) for count in images.shape[-2:])
    canvases: list[Tensor] = []
    for which, row, column in product(
        range(len(images)), range(len(vertical.spans)), range(len(horizontal.spans))
    ):
        piece = images[which : which + 1, :, slice(*vertical.spans[row]), slice(*horizontal.spans[column])]
        parts = [part.to(images.device) for part in net(piece.to(device)) if part is not None]
        canvases = canvases or [_empty_canvas(part, images, scale) for scale, part in enumerate(parts, 1)]
        for scale, (canvas, part) in enumerate(zip(canvases, parts, strict=True), 1):
            rows, down = vertical.place(row, scale)
            columns, along = horizontal.place(column, scale)
            canvas[which, :, rows, columns] += part[0] * (down[:, None] * along).to(part)
    return RestorerOutput(canvases[0], canvases[1] if len(canvases) > 1 else None)


@dataclass(frozen=True)
class TileAxis:
    """Tiles along one axis of an image.

    Attributes:
        spans: first pixel of each, and the one after its last.
        overlap: pixels that neighbours share, at least.
    """

    spans: tuple[tuple[int, int], ...]
    overlap: int

    @classmethod
    def cover(cls, count: int, tile: int, overlap: int, unit: int) -> "TileAxis":
        """Tiles that cover a number of pixels, beginning at multiples of a unit; the last ends with them.

        Example:
            >>> TileAxis.cover(75, 32, 16, 8).spans
            ((0, 32), (16, 48), (32, 64), (48, 75))
        """
        last = -(-max(0, count - tile) // unit) * unit
        starts = sorted({*range(0, last, tile - overlap), last})
        return cls(tuple((start, min(start + tile, count)) for start in starts), overlap)

    def place(self, which: int, scale: int, /) -> tuple[slice, Float[Tensor, "n"]]:
        """Pixels of a tile in an image on finer pixels, and their weights; those of all tiles sum to one."""
        first, last = (scale * edge for edge in self.spans[which])
        total = torch.zeros(scale * self.spans[-1][1], dtype=torch.float64)
        for span in self.spans:
            total[scale * span[0] : scale * span[1]] += self._window(span, scale)
        return slice(first, last), self._window(self.spans[which], scale) / total[first:last]

    def _window(self, span: tuple[int, int], scale: int) -> Float[Tensor, "n"]:
        """Weights before normalisation: zero at an inner edge, one within."""
        window = torch.ones(scale * (span[1] - span[0]), dtype=torch.float64)
        count = scale * self.overlap
        middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        ramp = (torch.pi / 2 * middle).sin().square()
        if span[0] > 0:
            window[:count] *= ramp
        if span[1] < self.spans[-1][1]:
            window[-count:] *= ramp.flip(0)
        return window


def _empty_canvas(part: Tensor, images: Tensor, scale: int) -> Tensor:
    """Zeros of the size of the images on pixels `scale` times finer."""
    rows, columns = (scale * count for count in images.shape[-2:])
    return part.new_zeros(len(images), part.shape[1], rows, columns)
