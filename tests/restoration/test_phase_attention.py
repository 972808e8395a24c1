"""Phases of spectra, how channels are compared by them, and the block around."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.restoration.networks.phase_attention import (
    ChannelAttention,
    ChannelNorm,
    GatedFeedForward,
    TransformerBlock,
    spectral_rows,
    whiten_spectrum,
)

SIZES = [(7, 9), (8, 6), (5, 16), (1, 1), (1, 4), (2, 3)]
KINDS = [("plain", "after"), ("soft", "after"), ("soft", "before"), ("phase", "after"), ("phase", "before")]


def drawn(*shape: int, seed: int = 0, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=kind)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
def test_whatever_is_whitened_has_norm_one(size):
    norms = whiten_spectrum(100 * drawn(2, 3, *size)).norm(dim=(-2, -1))
    torch.testing.assert_close(norms, torch.ones(2, 3))


@pytest.mark.parametrize("size", SIZES)
def test_half_a_spectrum_gives_what_the_whole_complex_one_gives(size):
    maps = drawn(3, *size, kind=torch.float64)
    waves = torch.fft.fft2(maps)
    wanted = torch.fft.ifft2(torch.exp(1j * waves.angle()))
    assert wanted.imag.abs().max() < 1e-12
    torch.testing.assert_close(whiten_spectrum(maps), wanted.real, atol=1e-9, rtol=0)


def test_softened_it_keeps_a_power_of_each_amplitude_and_the_phase():
    maps = drawn(2, 8, 9, kind=torch.float64)
    before, after = torch.fft.fft2(maps, norm="ortho"), torch.fft.fft2(whiten_spectrum(maps, exponent=0.5))
    torch.testing.assert_close(after.abs(), before.abs().sqrt(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(after.angle().cos(), before.angle().cos(), atol=1e-9, rtol=0)
    torch.testing.assert_close(whiten_spectrum(maps, exponent=0.0), maps * 72**-0.5)


def test_gain_and_offset_change_no_phase():
    maps = drawn(4, 15, 12) + 0.5 * torch.ones(4, 1, 1)
    maps = maps * maps.mean((-2, -1), keepdim=True).sign()
    gain, offset = torch.tensor([0.02, 1, 7, 300.0])[:, None, None], torch.arange(4.0)[:, None, None]
    torch.testing.assert_close(
        whiten_spectrum(gain * maps + offset), whiten_spectrum(maps), atol=1e-5, rtol=0
    )
    assert (whiten_spectrum(-maps) - whiten_spectrum(maps)).norm() > 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_rows_of_half_spectra_have_the_products_of_whitened_maps(size, exponent):
    maps = drawn(2, 5, *size)
    rows, white = spectral_rows(maps, exponent=exponent), whiten_spectrum(maps, exponent=exponent).flatten(-2)
    white = functional.normalize(white, dim=-1)
    torch.testing.assert_close(rows @ rows.mT, white @ white.mT, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(7, 9), (8, 12)])
def test_a_score_is_the_mean_cosine_of_the_difference_of_phases(size):
    attend, maps = ChannelAttention(6, 2, attention="phase"), drawn(2, 6, *size)
    with torch.no_grad():
        query, key = attend.compare(maps).chunk(2, 1)
        phases = [torch.fft.fft2(part).angle().unflatten(1, (2, 3)) for part in (query, key)]
        wanted = (phases[0][:, :, :, None] - phases[1][:, :, None]).cos().mean((-2, -1))
        torch.testing.assert_close(attend.scores(maps), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "position"), KINDS)
def test_attention_is_what_its_formula_says(kind, position):
    attend, maps = ChannelAttention(6, 3, attention=kind, phase_position=position), drawn(2, 6, 5, 8)
    exponent = {"plain": 0.0, "soft": 0.5, "phase": 1.0}[kind]
    with torch.no_grad():
        attend.temperature.copy_(torch.tensor([0.5, 1, 4])[:, None, None])
        source = whiten_spectrum(maps, exponent=exponent) if position == "before" else maps
        query, key = attend.compare(source).chunk(2, 1)
        if position == "after":
            query, key = whiten_spectrum(query, exponent=exponent), whiten_spectrum(key, exponent=exponent)
        rows, out = attend.value(maps), torch.zeros(2, 6, 40)
        for n in range(2):
            for head, heat in enumerate((0.5, 1, 4)):
                part = slice(2 * head, 2 * head + 2)
                q, k, v = (value[n, part].flatten(1) for value in (query, key, rows))
                cosine = (q @ k.T) / q.norm(dim=1)[:, None] / k.norm(dim=1)
                out[n, part] = torch.softmax(heat * cosine, 1) @ v
        torch.testing.assert_close(attend(maps), attend.leave(out.view(2, 6, 5, 8)), atol=1e-5, rtol=1e-4)


def test_the_place_of_the_phase_matters_and_parameters_stay():
    after, before = (ChannelAttention(4, 2, attention="phase", phase_position=p) for p in ("after", "before"))
    before.load_state_dict(after.state_dict())
    maps = drawn(1, 4, 9, 7)
    assert (after.scores(maps) - before.scores(maps)).abs().max() > 1e-2


@pytest.mark.parametrize(("width", "heads", "wanted"), [(16, 1, 4_293), (64, 4, 54_072), (128, 8, 206_192)])
def test_a_block_has_its_parameters(width, heads, wanted):
    for kind, position in KINDS:
        attend = ChannelAttention(width, heads, attention=kind, phase_position=position)
        assert sum(value.numel() for value in TransformerBlock(width, attend).parameters()) == wanted


def test_the_norm_is_over_the_channels_of_each_pixel():
    maps, norm = 5 * drawn(2, 6, 3, 4) + 2, ChannelNorm(6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6.0))
        norm.bias.fill_(3.0)
        mean, spread = maps.mean(1, keepdim=True), maps.var(1, keepdim=True, unbiased=False)
        wanted = (maps - mean) / (spread + 1e-5).sqrt() * torch.arange(6.0)[:, None, None] + 3
        torch.testing.assert_close(norm(maps), wanted, atol=1e-5, rtol=1e-5)


def test_the_feed_forward_gates_one_half_of_its_maps_with_the_other():
    feed, maps = GatedFeedForward(5), drawn(1, 5, 6, 7)
    with torch.no_grad():
        u, w = feed.enter(maps).chunk(2, 1)
        assert u.shape[1] == 13
        gelu = u * (1 + torch.erf(u / math.sqrt(2))) / 2
        torch.testing.assert_close(feed(maps), feed.leave(gelu * w))


@pytest.mark.parametrize(("kind", "position"), KINDS)
@pytest.mark.parametrize("maps", [torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), 0.7), drawn(1, 4, 1, 1)])
def test_gradients_are_finite_where_a_spectrum_is_empty(kind, position, maps):
    block = TransformerBlock(4, ChannelAttention(4, 2, attention=kind, phase_position=position))
    given = maps.clone().requires_grad_()
    block(given).square().sum().backward()
    for value in (given, *block.parameters()):
        assert value.grad is not None
        assert value.grad.isfinite().all()
    for exponent in (0.5, 1.0):
        bare = maps.clone().requires_grad_()
        whiten_spectrum(bare, exponent=exponent).sum().backward()
        assert bare.grad is not None
        assert bare.grad.isfinite().all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_transforms_in_single(kind):
    maps = drawn(2, 4, 9, 7)
    single = whiten_spectrum(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whiten_spectrum(maps), single)
        assert ChannelAttention(4, 2, attention="phase").scores(maps).dtype == torch.float32
    torch.testing.assert_close(
        whiten_spectrum(maps.to(kind)).float(), whiten_spectrum(maps.to(kind).float()), atol=1e-2, rtol=0
    )
    attend = ChannelAttention(4, 2, attention="phase").to(torch.bfloat16)
    assert attend(maps.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"attention": "fase"}, "did you mean 'phase'"),
        ({"phase_position": "middle"}, "model: phase_position: middle is not a choice"),
        ({"phase_position": "before"}, "has no place in plain attention"),
        ({"heads": 3}, "do not share a width of 4 evenly"),
    ],
)
def test_wrong_knobs_are_refused_in_a_sentence(knobs, words):
    with pytest.raises(BadInput, match=words):
        ChannelAttention(4, **{"heads": 2, **knobs})
