"""Networks that restore images: U-Nets with an output on the pixels of the input and a finer one.

`phaseformer` is the published form to the letter, with its limits: the gates on its skips are the constant
1/2 for every image, and it must learn the image itself. `recommended` has its sizes with gates that depend on
the maps, adds its output to the image, and starts as the identity; `narrow` is a small version of that, for
training on a CPU; `agssf1` is the older model.

Attention is `plain` by default. For images that are sampled finer than their resolution, as reconstructed
phases are, phases compare mostly noise; two short trainings of `narrow` to denoise (one seed, images of
64 x 64 pixels) ended within 0.1 dB of one another, and `plain` is faster.

Source: M. R. Khan et al., Phaseformer, WACV 2025, arXiv:2412.01456.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.learning.gating import ChannelGate, PhaseGate
from phaseloom.learning.layers import choose_option
from phaseloom.learning.weight_files import record_builder
from phaseloom.restoration.networks.agssf1 import agssf1
from phaseloom.restoration.networks.phase_attention import ChannelAttention, TransformerBlock
from phaseloom.restoration.networks.unet import (
    OutputHeads,
    Restorer,
    RestorerOutput,
    UNetPlan,
    UNetTrunk,
    upsample,
)
from phaseloom.restoration.pairs.crops import double_pixels

__all__ = ["TwoScaleUNet", "agssf1", "narrow", "phaseformer", "recommended"]

SKIP_GATES: Mapping[str, Callable[[int], nn.Module]]
SKIP_GATES = {"eca": ChannelGate, "phase": PhaseGate, "none": nn.Identity}


class TwoScaleUNet(Restorer):
    """A U-Net of transformer blocks with attention between channels.

    If it is residual, the input image is added to the output (interpolated for the finer one), and the last
    convolution is initialised with zeros: it starts as the identity and as bilinear interpolation.

    Args:
        plan: sizes.
        attention: ``phase``, ``soft`` or ``plain``; see `ChannelAttention`.
        phase_position: ``after`` or ``before``; see there.
        skip_gate: ``eca``, ``phase`` (the constant 1/2) or ``none``.
        residual: whether the image is added.
        high: whether there is the finer output.

    Raises:
        BadInput: an unknown choice, two that contradict, or a residual with different channels in and out.

    Example:
        >>> sizes = {"widths": (4, 8), "blocks": (1, 1), "heads": (1, 2), "refine": 0}
        >>> plan = UNetPlan(channels_in=2, channels_out=1, **sizes)
        >>> low, high = TwoScaleUNet(plan, residual=False)(torch.rand(1, 2, 9, 12))
        >>> low.shape, high.shape
        (torch.Size([1, 1, 9, 12]), torch.Size([1, 1, 18, 24]))
    """

    def __init__(
        self,
        plan: UNetPlan,
        /,
        *,
        attention: str = "plain",
        phase_position: str = "after",
        skip_gate: str = "eca",
        residual: bool = True,
        high: bool = True,
    ):
        super().__init__(plan)
        if residual and plan.channels_in != plan.channels_out:
            fix = "cannot be added to one another: ask for as many out as come in, or for residual: false"
            raise BadInput("model: channels", f"{plan.channels_in} in, {plan.channels_out} out", fix)

        def block(width: int, heads: int) -> nn.Module:
            attend = ChannelAttention(width, heads, attention=attention, phase_position=phase_position)
            return TransformerBlock(width, attend)

        self.residual = residual
        gate = choose_option("skip_gate", skip_gate, SKIP_GATES)
        self.trunk = UNetTrunk(plan, block=block, grow=upsample, gate=gate)
        self.heads = OutputHeads(plan.widths[0], plan.channels_out, high=high)
        if residual:
            nn.init.zeros_(self.heads.last.weight)

    def draw(self, images: Float[Tensor, "b c y x"]) -> RestorerOutput:
        """Output of the convolutions for images whose pixels divide by the unit."""
        return self.heads(self.trunk(images))

    def forward(self, images: Tensor) -> RestorerOutput:
        """Restore images ``(b, channels_in, y, x)`` of one pixel or more."""
        low, high = super().forward(images)
        if not self.residual:
            return RestorerOutput(low, high)
        return RestorerOutput(images + low, None if high is None else double_pixels(images) + high)


@record_builder("phaseformer")
def phaseformer(
    *, channels_in: int = 3, channels_out: int = 3, high: bool = True, seed: int = 0
) -> TwoScaleUNet:
    """The published form: phases compared after the convolutions, gates of 1/2, no residual.

    The published program holds 4,611 more parameters, of a gate and an upsampling that are never used; they
    are left out.

    Args:
        channels_in: of the images.
        channels_out: of the restored images.
        high: whether there is the finer output.
        seed: of the initial weights.

    Example:
        >>> sum(value.numel() for value in phaseformer().parameters())
        1779189
    """
    plan = UNetPlan(channels_in=channels_in, channels_out=channels_out)
    return TwoScaleUNet(plan, attention="phase", skip_gate="phase", residual=False, high=high)


@record_builder("phaseformer.recommended")
def recommended(  # noqa: PLR0913 - each choice that an ablation would compare
    *,
    channels_in: int = 1,
    channels_out: int = 1,
    widths: Sequence[int] = UNetPlan.widths,
    blocks: Sequence[int] = UNetPlan.blocks,
    heads: Sequence[int] = UNetPlan.heads,
    refine: int = UNetPlan.refine,
    attention: str = "plain",
    phase_position: str = "after",
    skip_gate: str = "eca",
    residual: bool = True,
    high: bool = True,
    seed: int = 0,
) -> TwoScaleUNet:
    """Published sizes, gates that depend on the maps, residual output; every knob of the family.

    Args:
        channels_in: of the images.
        channels_out: of the restored images.
        widths: channels of each level, the finest first, multiples of four.
        blocks: of each level.
        heads: of the attention of each level.
        refine: blocks after the last level.
        attention: ``plain``, ``phase`` or ``soft``; see `ChannelAttention`.
        phase_position: ``after`` or ``before``; see there.
        skip_gate: ``eca``, ``phase`` (the constant 1/2) or ``none``.
        residual: whether the image is added, and the network starts as the identity.
        high: whether there is the finer output.
        seed: of the initial weights.

    Example:
        >>> net = recommended(widths=(4, 8), blocks=(1, 1), heads=(1, 1), refine=1, attention="soft")
        >>> image = torch.rand(1, 1, 7, 10)
        >>> torch.equal(net(image).low, image)
        True
    """
    plan = UNetPlan(
        channels_in=channels_in,
        channels_out=channels_out,
        widths=widths,
        blocks=blocks,
        heads=heads,
        refine=refine,
    )
    return TwoScaleUNet(
        plan,
        attention=attention,
        phase_position=phase_position,
        skip_gate=skip_gate,
        residual=residual,
        high=high,
    )


@record_builder("phaseformer.narrow")
def narrow(
    *,
    channels_in: int = 1,
    channels_out: int = 1,
    attention: str = "plain",
    residual: bool = True,
    high: bool = True,
    seed: int = 0,
) -> TwoScaleUNet:
    """Half the published widths, one block at each place: 0.2 million parameters, for training on a CPU.

    Args:
        channels_in: of the images.
        channels_out: of the restored images.
        attention: ``plain``, ``phase`` or ``soft``; see `ChannelAttention`.
        residual: whether the image is added, and the network starts as the identity.
        high: whether there is the finer output.
        seed: of the initial weights.

    Example:
        >>> low, high = narrow()(torch.rand(2, 1, 20, 27))
        >>> low.shape, high.shape
        (torch.Size([2, 1, 20, 27]), torch.Size([2, 1, 40, 54]))
    """
    plan = UNetPlan(
        channels_in=channels_in,
        channels_out=channels_out,
        widths=(8, 16, 32, 64),
        blocks=(1, 1, 1, 1),
        refine=1,
    )
    return TwoScaleUNet(plan, attention=attention, residual=residual, high=high)
