"""Restorers: published counts and limits, any size of image, and what begins as the identity."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.learning.gating import ChannelGate, PhaseGate
from phaseloom.learning.weight_files import load_network, save_network
from phaseloom.restoration.networks.agssf1 import FourierUpsample, agssf1
from phaseloom.restoration.networks.phase_attention import ChannelAttention, whiten_spectrum
from phaseloom.restoration.networks.phaseformer import TwoScaleUNet, narrow, phaseformer, recommended
from phaseloom.restoration.networks.unet import Restorer, UNetPlan, mirror_pad

KNOBS = [
    {},
    {"attention": "phase", "skip_gate": "phase"},
    {"attention": "phase", "phase_position": "before", "skip_gate": "none"},
    {"attention": "soft"},
    {"residual": False, "channels_in": 3, "channels_out": 2},
    {"high": False},
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters())


def small(**knobs: Any) -> TwoScaleUNet:
    """Four levels, each as narrow as can be, with a last convolution that is not zero."""
    sizes = {"widths": (4, 4, 8, 8), "blocks": (1, 1, 1, 1), "heads": (1, 2, 2, 4), "refine": 1}
    net = recommended(**{**sizes, **knobs})
    with torch.no_grad():
        net.heads.last.weight.copy_(0.1 * drawn(*net.heads.last.weight.shape))
    return net


def tiny_legacy() -> Restorer:
    """The legacy model, for images of one channel and a few pixels: it comes in one size."""
    return agssf1(channels_in=1, channels_out=1)


def unreached(net: Restorer, images: Tensor) -> int:
    """Parameters that get no gradient."""
    sum(part.square().mean() for part in net(images) if part is not None).backward()
    return sum(value.numel() for value in net.parameters() if value.grad is None)


# published counts


def test_the_published_network_has_its_parameters_and_uses_each():
    net = phaseformer()
    assert count(net) == 1_779_189
    assert count(net.trunk) + count(net.heads) == 1_779_189
    assert [count(part) for part in net.trunk.encoders] == [8_586, 44_340, 162_216, 824_768]
    assert [count(part) for part in net.trunk.decoders] == [162_216, 44_340, 29_558]
    assert count(net.trunk.refine) == 59_116
    assert count(phaseformer(high=False)) == 1_779_189 - 18_432 - 1_152
    assert unreached(net, drawn(1, 3, 16, 16)) == 0


def test_the_published_network_draws_an_image_and_one_of_twice_the_pixels():
    with torch.no_grad():
        low, high = phaseformer()(drawn(1, 3, 64, 64))
    assert high is not None
    assert (low.shape, high.shape) == ((1, 3, 64, 64), (1, 3, 128, 128))
    assert low.std() > 0


def test_a_tenth_of_the_legacy_model_gets_no_gradient():
    net = agssf1()
    assert count(net) == 2_530_193
    assert unreached(net, drawn(1, 3, 16, 24)) == 272_924
    low, high = net(drawn(2, 3, 9, 20))
    assert low.shape == (2, 3, 9, 20)
    assert high is None


def test_presets_keep_their_sizes():
    assert count(narrow()) == 213_166
    assert count(recommended()) == 1_778_757
    assert unreached(narrow(residual=False), drawn(1, 1, 16, 16)) == 0


def test_the_published_network_compares_phases_after_the_convolutions_and_passes_halves():
    net = phaseformer()
    looks = [part for part in net.modules() if isinstance(part, ChannelAttention)]
    assert len(looks) == 24
    assert {(part.exponent, part.before) for part in looks} == {(1.0, False)}
    assert [type(gate) for gate in net.trunk.gates] == [PhaseGate] * 3
    assert [type(gate) for gate in recommended().trunk.gates] == [ChannelGate] * 3


# gates


def test_the_published_gate_is_a_half_whatever_it_is_shown():
    gate, maps = PhaseGate(16), 50 * drawn(2, 16, 64, 64) + drawn(2, 16, 1, 1)
    with torch.no_grad():
        assert (gate.weights(maps) - 0.5).abs().max() < 1e-4
        gate.conv.weight.fill_(5.0)
        assert (gate.weights(maps) - 0.5).abs().max() < 1e-2
        torch.testing.assert_close(
            gate.pool_channels(maps), whiten_spectrum(maps).mean((-2, -1)), atol=1e-7, rtol=1e-3
        )


def test_a_gate_of_means_sees_the_maps():
    gate, maps = ChannelGate(16), drawn(2, 16, 64, 64) + drawn(2, 16, 1, 1)
    with torch.no_grad():
        weights = gate.weights(maps)
        padded = functional.pad(maps.mean((-2, -1)), (1, 1))
        wanted = (padded.unfold(1, 3, 1) * gate.conv.weight.flatten()).sum(-1).sigmoid()
        torch.testing.assert_close(weights, wanted)
        torch.testing.assert_close(gate(maps), maps * wanted[..., None, None])
    assert weights.std() > 0.02


@pytest.mark.parametrize(("channels", "reach"), [(4, 1), (16, 3), (32, 3), (64, 3), (128, 5)])
def test_a_gate_of_more_channels_reaches_further(channels, reach):
    assert ChannelGate(channels).conv.weight.shape[-1] == reach


# shapes


@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (1, 1), (3, 41)])
def test_images_come_back_in_their_size_and_in_twice_of_it(knobs, size):
    net = small(**knobs)
    low, high = net(drawn(2, net.plan.channels_in, *size))
    assert low.shape == (2, net.plan.channels_out, *size)
    assert low.isfinite().all()
    if high is not None:
        assert high.shape == (2, net.plan.channels_out, 2 * size[0], 2 * size[1])
    assert (high is None) == (knobs.get("high") is False)


def test_images_are_mirrored_to_the_unit_and_cut_back():
    net, images = small(residual=False), drawn(1, 1, 13, 18)
    padded = functional.pad(images, (0, 6, 0, 3), mode="reflect")
    assert torch.equal(mirror_pad(images, 8), padded)
    for found, wanted, scale in zip(net(images), net(padded), (1, 2), strict=True):
        assert torch.equal(found, wanted[..., : 13 * scale, : 18 * scale])
    assert torch.equal(mirror_pad(images[..., :1, :1], 8), images[..., :1, :1].expand(1, 1, 8, 8))


def test_each_image_of_a_batch_is_restored_by_itself():
    net, images = small(attention="phase"), drawn(3, 1, 16, 24)
    for each, one in zip(net(images), net(images[1:2]), strict=True):
        torch.testing.assert_close(each[1:2], one)


def test_levels_see_half_the_pixels_each():
    net, seen = small(), []
    for encoder in net.trunk.encoders:
        encoder.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    net(drawn(1, 1, 16, 24))
    assert seen == [(4, 16, 24), (4, 8, 12), (8, 4, 6), (8, 2, 3)]


def test_two_levels_are_enough():
    net = recommended(widths=(4, 8), blocks=(1, 2), heads=(1, 2), refine=0)
    assert net.plan.unit == 2
    assert net(drawn(1, 1, 5, 6)).high.shape == (1, 1, 10, 12)


# learning


@pytest.mark.parametrize("build", [narrow, recommended])
@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_what_adds_the_image_begins_as_the_identity(build, size):
    images = 10 * drawn(1, 1, *size) + 100
    low, high = build()(images)
    assert torch.equal(low, images)
    assert torch.equal(high, functional.interpolate(images, scale_factor=2, mode="bilinear"))


def test_the_published_network_does_not_begin_as_the_identity():
    images = drawn(1, 1, 16, 16)
    assert (narrow(residual=False)(images).low - images).abs().max() > 0.1
    assert not phaseformer().residual


def test_what_begins_as_the_identity_learns_in_all_its_parts_from_the_second_step_on():
    net, images = recommended(widths=(4, 4, 8, 8), blocks=(1,) * 4, heads=(1, 2, 2, 4)), drawn(2, 1, 16, 16)
    rate, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(6):
        low, high = net(images)
        loss = (low - 0.5 * images).square().mean() + high.square().mean()
        rate.zero_grad()
        loss.backward()
        rate.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert all(bool(value.grad.any()) for value in net.parameters() if value.grad is not None)


@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("level", [0.0, 0.7])
def test_gradients_of_a_constant_image_are_finite(knobs, level):
    net = small(**knobs)
    images = torch.full((1, net.plan.channels_in, 16, 16), level, requires_grad=True)
    sum(part.square().sum() for part in net(images) if part is not None).backward()
    assert all(
        value.grad is not None and value.grad.isfinite().all() for value in (images, *net.parameters())
    )


def test_gradients_of_a_constant_image_are_finite_in_the_legacy_model():
    net = tiny_legacy()
    net(torch.full((1, 1, 8, 8), 0.7)).low.square().sum().backward()
    assert all(value.grad.isfinite().all() for value in net.parameters() if value.grad is not None)


@pytest.mark.parametrize("knobs", [*KNOBS[:4], {"residual": False}])
def test_half_precision_is_near_single(knobs):
    net = small(**knobs)
    images = drawn(2, net.plan.channels_in, 17, 24)
    with torch.no_grad():
        single = net(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = net(images)
    for a, b in zip(single, half, strict=True):
        assert (a - b.float()).norm() < 0.03 * a.norm()


def test_half_precision_is_near_single_in_the_legacy_model():
    net, images = tiny_legacy(), drawn(1, 1, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(images).low.float()
    with torch.no_grad():
        single = net(images).low
    assert (half - single).norm() < 0.1 * single.norm()


def test_a_spectrum_that_is_tiled_is_an_image_with_zeros_between():
    layer, maps = FourierUpsample(2, 3), drawn(1, 2, 5, 4)
    waves = torch.fft.fft2(maps)
    amplitude, phase = layer.amplitude(waves.abs()), layer.phase(waves.angle())
    tiles = torch.polar(amplitude.abs(), phase + torch.pi * (amplitude < 0)).tile(2, 2)
    torch.testing.assert_close(layer(maps), layer.leave(torch.fft.ifft2(tiles).abs()))


# what is refused, and files


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 3, 8, 8), r"\(1, 3, 8, 8\) is not a shape \(b, 1, y, x\)"),
        (torch.zeros(1, 8, 8), "is not a shape"),
        (torch.zeros(0, 1, 8, 8), "of one image or more"),
        (torch.zeros(1, 1, 8, 0), "is not a shape"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.float64), "float64 is not the network's type"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "give torch.float32"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(images, words):
    with pytest.raises(BadInput, match=words):
        small()(images)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"channels_in": 3}, "3 in, 1 out cannot be added"),
        ({"skip_gate": "phse"}, "did you mean 'phase'"),
        ({"attention": "x"}, "model: attention: x is not a choice"),
        ({"widths": (4, 8)}, "one for each of two levels or more"),
        ({"widths": (4, 8, 8, 10)}, "model: widths: 10 must be"),
        ({"heads": (1, 3, 2, 4)}, "do not share a width of 4"),
        ({"blocks": (1, 0, 1, 1)}, "model: blocks: 0"),
        ({"refine": -1}, "refine: -1 must lie between"),
        ({"channels_out": 0}, "model: channels_out: 0"),
    ],
)
def test_wrong_knobs_are_refused_in_a_sentence(knobs, words):
    with pytest.raises(BadInput, match=words):
        small(**knobs)


def test_a_net_in_double_precision_works_in_it():
    net = small(attention="phase").double()
    assert net(drawn(1, 1, 9, 8).double()).low.dtype == torch.float64


@pytest.mark.parametrize(
    "net",
    [
        small(attention="soft", skip_gate="phase"),
        narrow(attention="phase", high=False, residual=False, seed=3),
        tiny_legacy(),
    ],
)
def test_what_is_saved_restores_the_same_when_loaded(net, tmp_path):
    images, back = drawn(1, 1, 10, 12), load_network(save_network(net, tmp_path / "net.safetensors"))
    assert back.recipe == net.recipe
    with torch.no_grad():
        for found, wanted in zip(back(images), net(images), strict=True):
            assert (found is None and wanted is None) or torch.equal(found, wanted)


def test_weights_follow_the_seed():
    first, again, other = (narrow(seed=n).trunk.enter.weight for n in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_plan_is_frozen():
    plan = UNetPlan(channels_in=1, channels_out=1, widths=(4, 8), blocks=(1, 1), heads=(1, 1), refine=0)
    with pytest.raises(AttributeError):
        plan.refine = 2  # pyright: ignore[reportAttributeAccessIssue]
