"""Third stage: a whole scan to an image; each of its patterns is embedded once."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.learning.layers import PIXELS_PER_STEP, count_image_pixels
from phaseloom.learning.weight_files import BuilderCall
from phaseloom.retrieval.networks.recovery import PatchRecoveryNet
from phaseloom.retrieval.networks.stitching import PhaseStitchingNet, list_windows, overlap

__all__ = ["EndToEnd", "join_stages", "make_scan_network"]


class EndToEnd(nn.Module):
    """The patterns of a scan to its phase: windows overlap, but patterns are embedded once for all of them.

    A scan of ``rows x cols`` probes has an image of ``5 (rows - 1) + 11`` by ``5 (cols - 1) + 11`` pixels;
    its first probe is at pixel (5, 5).

    Args:
        recovery: patterns of a window to a patch.
        stitching: patches to an image.
        stride: probes from a window to the next.
        chunk: windows that are recovered at a time, to save memory.

    Example:
        >>> from phaseloom.retrieval.networks import recovery
        >>> from phaseloom.retrieval.networks import stitching
        >>> part = recovery.small(window=3, width=16, depth=1, heads=2, channels=4)
        >>> net = EndToEnd(part, stitching.overlap(), stride=2)
        >>> net(torch.zeros(1, 5, 4, 24, 24), torch.zeros(1, 8)).shape
        torch.Size([1, 31, 26])
    """

    recipe: BuilderCall

    def __init__(
        self, recovery: PatchRecoveryNet, stitching: PhaseStitchingNet, *, stride: int = 9, chunk: int = 256
    ):
        super().__init__()
        if chunk < 1:
            raise BadInput("model: chunk", chunk, "must be one window or more")
        self.recovery = recovery
        self.stitching = stitching
        self.stride = stride
        self.chunk = chunk
        parts = {"recovery": recovery.recipe, "stitching": stitching.recipe}
        self.recipe = ("end_to_end", {**parts, "stride": stride, "chunk": chunk})

    def patches(
        self, patterns: Float[Tensor, "b rows cols y x"], optics: Float[Tensor, "b 8"], /
    ) -> tuple[Float[Tensor, "b k v v"], Float[Tensor, "b k 2"]]:
        """The patches that the first stage recovers from a scan, and their places on the image, pixels.

        Args:
            patterns: fractions of the incident beam.
            optics: what the probe and the dose are, as numbers of order one.

        Raises:
            BadInput: a scan smaller than a window.
        """
        net = self.recovery
        n = self.recovery.window
        rows, cols = patterns.shape[1:3]
        first = list_windows(rows, cols, n, self.stride)
        tokens = net.embed(patterns)
        cut = torch.stack([tokens[:, row : row + n, col : col + n] for row, col in first], 1).flatten(0, 1)
        corner = torch.tensor(first, dtype=torch.float32, device=patterns.device)
        places = corner.expand(len(patterns), -1, -1)
        rest = optics.repeat_interleave(len(first), 0), places.flatten(0, 1) * net.step
        parts = zip(*(part.split(self.chunk) for part in (cut, *rest)), strict=True)
        recovered = torch.cat([net.recover(some, one, where) for some, one, where in parts])
        return recovered.unflatten(0, (len(patterns), len(first))), places * PIXELS_PER_STEP

    def forward(
        self, patterns: Float[Tensor, "b rows cols y x"], optics: Float[Tensor, "b 8"]
    ) -> Float[Tensor, "b v u"]:
        """Recover and stitch; arguments and errors as of `patches`."""
        patches, places = self.patches(patterns, optics)
        rows, cols = patterns.shape[1:3]
        return self.stitching(patches, places[:1], (count_image_pixels(rows), count_image_pixels(cols)))


def join_stages(first: PatchRecoveryNet, second: PhaseStitchingNet, /) -> EndToEnd:
    """Both networks in one; windows overlap by a third, those of 14 probes by 5."""
    return EndToEnd(first, second, stride=max(1, 2 * first.window // 3))


def make_scan_network(net: nn.Module, /) -> nn.Module:
    """A network for whole scans: one for windows is completed by the overlap of its patches.

    Raises:
        BadInput: a stitching network, which does not take patterns.
    """
    if isinstance(net, PhaseStitchingNet):
        fix = "joins patches and reads no patterns: take that of phaseloom train end-to-end, or of patches"
        raise BadInput("model", "a stitching network", fix)
    return join_stages(net, overlap()).eval() if isinstance(net, PatchRecoveryNet) else net
