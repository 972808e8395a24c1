"""Gates: each channel of what passes is multiplied with a number between zero and one.

Source: Q. Wang et al., ECA-Net, CVPR 2020, doi:10.1109/CVPR42600.2020.01155.
"""

import math

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ChannelGate", "PhaseGate"]


class ChannelGate(nn.Module):
    """Each channel times a number between zero and one that follows from the means of it and its neighbours.

    Args:
        channels: of the maps.

    Example:
        >>> import torch
        >>> gate = ChannelGate(16)
        >>> gate(torch.rand(2, 16, 5, 7)).shape, gate.conv.weight.shape
        (torch.Size([2, 16, 5, 7]), torch.Size([1, 1, 3]))
    """

    def __init__(self, channels: int):
        super().__init__()
        reach = int(abs(math.log2(channels) / 2 + 1 / 2))
        reach += 1 - reach % 2
        self.conv = nn.Conv1d(1, 1, reach, padding=reach // 2, bias=False)

    def pool_channels(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c"]:
        """A number for each channel: its mean."""
        return maps.mean((-2, -1))

    def weights(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c"]:
        """What channels are multiplied with."""
        return self.conv(self.pool_channels(maps)[:, None])[:, 0].sigmoid()

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Multiply."""
        return maps * self.weights(maps)[..., None, None]


class PhaseGate(ChannelGate):
    """The published gate, of means of `whitened` maps: 1/2 but for about one part in the number of pixels.

    The mean of a map is its spectrum at frequency zero over the number of pixels, and of a map whose
    amplitudes are all one that is +1 or -1 over it, by the sign of the sum; so it is written here, without a
    transform. Its weights learn nothing.

    Args:
        channels: of the maps.

    Example:
        >>> import torch
        >>> PhaseGate(8).weights(9 * torch.rand(1, 8, 100, 100)).sub(0.5).abs().max() < 1e-4
        tensor(True)
    """

    def pool_channels(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c"]:
        """The sign of each channel's sum over its number of pixels."""
        return maps.sum((-2, -1)).sign() / maps[0, 0].numel()
