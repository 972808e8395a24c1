"""A small convolutional network over a whole scan, on top of the linear estimate."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.learning.layers import OPTICS_NUMBERS, PIXELS_PER_STEP
from phaseloom.learning.weight_files import record_builder
from phaseloom.retrieval.networks.linear import (
    NEIGHBOURHOOD_PROBES,
    LinearRecovery,
    ScanRecovery,
    tokens_to_image,
)

__all__ = ["TinyRecovery", "tiny"]


class TinyRecovery(ScanRecovery):
    """Principal components of the patterns, a linear estimate, and what convolutions add to it.

    Any scan of at least two by two probes is taken as it is: there are no windows and no seams.

    Attributes:
        patterns: pixels along an edge of a pattern.
        estimate: the linear part.
        trunk: blocks conditioned on the optics and the dose.
    """

    def __init__(self, patterns: int, components: int, width: int, depth: int):
        super().__init__(patterns, components)
        self.patterns = patterns
        self.estimate = nn.Conv2d(self.components.count, PIXELS_PER_STEP**2, NEIGHBOURHOOD_PROBES)
        self.enter = nn.Conv2d(self.components.count, width, 3, padding=1)
        self.trunk = nn.ModuleList(ConditionedBlock(width) for _ in range(depth))
        self.leave = nn.Conv2d(width, PIXELS_PER_STEP**2, 3, padding=1)
        for part in (self.estimate, self.leave):
            for value in part.parameters():
                nn.init.zeros_(value)

    def draw(
        self, each: Float[Tensor, "b k rows cols"], optics: Float[Tensor, "b 8"]
    ) -> Float[Tensor, "b v u"]:
        """The image from what `Components` has found of each pattern."""
        features = functional.pad(self.components.join(each), (2, 2, 2, 2), mode="replicate")
        state = self.enter(features)
        for block in self.trunk:
            state = block(state, optics)
        return tokens_to_image(self.estimate(features) + self.leave(state)[..., 1:-1, 1:-1])

    @torch.no_grad()
    def begin(self, linear: LinearRecovery, /) -> None:
        """Start from a linear estimate with as many components, fitted without noise."""
        self.components.load_state_dict(linear.components.state_dict())
        last = linear.weight[-1]
        count = linear.components.count
        self.estimate.weight.copy_(
            last[:, 1:].unflatten(1, (count, NEIGHBOURHOOD_PROBES, NEIGHBOURHOOD_PROBES))
        )
        assert self.estimate.bias is not None
        self.estimate.bias.copy_(last[:, 0])


class ConditionedBlock(nn.Module):
    """Two convolutions added to what came in, scaled and shifted by what the optics are."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.read = nn.Linear(OPTICS_NUMBERS, 2 * width)
        for value in self.read.parameters():
            nn.init.zeros_(value)

    def forward(
        self, state: Float[Tensor, "b d y x"], optics: Float[Tensor, "b 8"]
    ) -> Float[Tensor, "b d y x"]:
        """Convolve."""
        gain, offset = self.read(optics.to(self.read.weight.dtype))[..., None, None].chunk(2, 1)
        inner = self.first(functional.gelu(state)) * (1 + gain) + offset
        return state + self.second(functional.gelu(inner))


@record_builder("tiny")
def tiny(
    *, patterns: int = 24, components: int = 72, width: int = 64, depth: int = 3, seed: int = 0
) -> TinyRecovery:
    """A third of a million parameters that start from `linear` and train on a processor.

    Args:
        patterns: pixels along an edge of a pattern.
        components: of a pattern, as many as of the linear estimate that it starts from.
        width: channels of a token.
        depth: blocks of two convolutions.
        seed: of the first weights.

    Example:
        >>> net = tiny(components=4, width=8, depth=1)
        >>> net(torch.full((1, 5, 6, 24, 24), 1 / 576), torch.ones(1, 8)).shape
        torch.Size([1, 31, 36])
    """
    return TinyRecovery(patterns, components, width, depth)
