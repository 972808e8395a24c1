"""Networks that restore images: a U of transformer blocks, images out on their own pixels and on finer ones.

`phaseformer` is the published form to the letter, with its limits: the gates on its skips are the constant
1/2 for every image, and it must learn the image itself. `recommended` has its sizes with gates that see the
maps, adds what it finds to the image, and begins as the identity; `narrow` is that in small, for training on
a processor; `agssf1` is the model that came before.

Attention is `plain` where nothing else is asked for. Of images that are sampled finer than their resolution,
as reconstructed phases are, most of what phases compare is noise; two short trainings of `narrow` to denoise
(one seed, images of 64 x 64 pixels) ended within 0.1 dB of one another, and `plain` is the quicker.

Source: M. R. Khan et al., Phaseformer, WACV 2025, arXiv:2412.01456.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.learning.gating import ChannelGate, PhaseGate
from phaseloom.learning.layers import chosen
from phaseloom.learning.weight_files import recorded
from phaseloom.restoration.networks.agssf import agssf1
from phaseloom.restoration.networks.phase_attention import ChannelAttention, TransformerBlock
from phaseloom.restoration.networks.unet import Heads, Plan, Restored, Restorer, UShape, grow
from phaseloom.restoration.pairs.crops import doubled

__all__ = ["TwoScaleUNet", "agssf1", "narrow", "phaseformer", "recommended"]

WIDTHS, BLOCKS, HEADS, REFINE = (16, 32, 64, 128), (2, 3, 3, 4), (1, 2, 4, 8), 4
"""Published sizes."""


GATES: Mapping[str, Callable[[int], nn.Module]]
GATES = {"eca": ChannelGate, "phase": PhaseGate, "none": nn.Identity}


class TwoScaleUNet(Restorer):
    """A U of transformer blocks with attention between channels.

    Where it is residual, the image that came in is added to what comes out, interpolated for the finer one,
    and the last convolution is zero at first: it begins as the identity and as bilinear interpolation.

    Args:
        plan: sizes.
        attention: ``phase``, ``soft`` or ``plain``; see `ChannelAttention`.
        phase_position: ``after`` or ``before``; see there.
        skip_gate: ``eca``, ``phase`` (the constant 1/2) or ``none``.
        residual: whether the image is added.
        high: whether there is the finer output.

    Raises:
        BadInput: a knob that is no choice, two that contradict, or a residual of other channels.

    Example:
        >>> plan = Plan(channels_in=2, channels_out=1, widths=(4, 8), blocks=(1, 1), heads=(1, 2), refine=0)
        >>> low, high = TwoScaleUNet(plan, residual=False)(torch.rand(1, 2, 9, 12))
        >>> low.shape, high.shape
        (torch.Size([1, 1, 9, 12]), torch.Size([1, 1, 18, 24]))
    """

    def __init__(
        self,
        plan: Plan,
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
            raise BadInput("nets: channels", f"{plan.channels_in} in, {plan.channels_out} out", fix)

        def block(width: int, heads: int) -> nn.Module:
            looks = ChannelAttention(width, heads, attention=attention, phase_position=phase_position)
            return TransformerBlock(width, looks)

        self.residual = residual
        self.trunk = UShape(plan, block=block, grow=grow, gate=chosen("skip_gate", skip_gate, GATES))
        self.heads = Heads(plan.widths[0], plan.channels_out, high=high)
        if residual:
            nn.init.zeros_(self.heads.last.weight)

    def draw(self, images: Float[Tensor, "b c y x"]) -> Restored:
        """What the convolutions make of images whose pixels divide by the unit."""
        return self.heads(self.trunk(images))

    def forward(self, images: Tensor) -> Restored:
        """Restore images ``(b, channels_in, y, x)`` of one pixel or more.

        Raises:
            BadInput: other channels, no pixels, or another type than the network's.
        """
        low, high = super().forward(images)
        if not self.residual:
            return Restored(low, high)
        return Restored(images + low, None if high is None else doubled(images) + high)


@recorded("phaseformer")
def phaseformer(
    *, channels_in: int = 3, channels_out: int = 3, high: bool = True, seed: int = 0
) -> TwoScaleUNet:
    """The published form: phases compared after the convolutions, gates of 1/2, no residual.

    What its program holds besides (4,611 parameters of a gate and an upsampling) is never used, and left out.

    Args:
        channels_in: of the images.
        channels_out: of the restored images.
        high: whether there is the finer output.
        seed: of the first weights.

    Example:
        >>> sum(value.numel() for value in phaseformer().parameters())
        1779189
    """
    sizes = {"widths": WIDTHS, "blocks": BLOCKS, "heads": HEADS, "refine": REFINE}
    plan = Plan(channels_in=channels_in, channels_out=channels_out, **sizes)
    return TwoScaleUNet(plan, attention="phase", skip_gate="phase", residual=False, high=high)


@recorded("phaseformer.recommended")
def recommended(  # noqa: PLR0913 - each choice that an ablation would compare
    *,
    channels_in: int = 1,
    channels_out: int = 1,
    widths: Sequence[int] = WIDTHS,
    blocks: Sequence[int] = BLOCKS,
    heads: Sequence[int] = HEADS,
    refine: int = REFINE,
    attention: str = "plain",
    phase_position: str = "after",
    skip_gate: str = "eca",
    residual: bool = True,
    high: bool = True,
    seed: int = 0,
) -> TwoScaleUNet:
    """Published sizes, gates that see the maps, the image added to what is found; every knob of the family.

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
        residual: whether the image is added, and the network begins as the identity.
        high: whether there is the finer output.
        seed: of the first weights.

    Example:
        >>> net = recommended(widths=(4, 8), blocks=(1, 1), heads=(1, 1), refine=1, attention="soft")
        >>> image = torch.rand(1, 1, 7, 10)
        >>> torch.equal(net(image).low, image)
        True
    """
    plan = Plan(
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


@recorded("phaseformer.narrow")
def narrow(
    *,
    channels_in: int = 1,
    channels_out: int = 1,
    attention: str = "plain",
    residual: bool = True,
    high: bool = True,
    seed: int = 0,
) -> TwoScaleUNet:
    """Half the published widths, one block in each place: 0.2 million parameters, to train on a processor.

    Args:
        channels_in: of the images.
        channels_out: of the restored images.
        attention: ``plain``, ``phase`` or ``soft``; see `ChannelAttention`.
        residual: whether the image is added, and the network begins as the identity.
        high: whether there is the finer output.
        seed: of the first weights.

    Example:
        >>> low, high = narrow()(torch.rand(2, 1, 20, 27))
        >>> low.shape, high.shape
        (torch.Size([2, 1, 20, 27]), torch.Size([2, 1, 40, 54]))
    """
    plan = Plan(
        channels_in=channels_in,
        channels_out=channels_out,
        widths=tuple(width // 2 for width in WIDTHS),
        blocks=(1, 1, 1, 1),
        heads=HEADS,
        refine=1,
    )
    return TwoScaleUNet(plan, attention=attention, residual=residual, high=high)
