"""Tiles: the whole image where a network looks at pixels, near it where it looks at all of the image."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.restoration.networks.agssf1 import agssf1
from phaseloom.restoration.networks.phaseformer import TwoScaleUNet, narrow
from phaseloom.restoration.networks.unet import Restorer, RestorerOutput, UNetPlan
from phaseloom.restoration.tiles import TileAxis, restore_in_tiles

PLAN = UNetPlan(channels_in=2, channels_out=2, widths=(4, 4, 4, 4), blocks=(1,) * 4, heads=(1,) * 4, refine=0)


class Local(Restorer):
    """What sees one pixel: its square, and the same on finer pixels."""

    def __init__(self):
        super().__init__(PLAN)
        self.gain, self.seen = nn.Parameter(torch.tensor(3.0)), []

    def draw(self, images: Tensor) -> RestorerOutput:
        self.seen.append(tuple(images.shape))
        low = self.gain * images.square()
        return RestorerOutput(low, functional.interpolate(low, scale_factor=2))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scene(rows: int, columns: int) -> Tensor:
    """An image between zero and one with structure of all sizes."""
    waves = torch.fft.rfft2(drawn(1, 1, rows, columns))
    y, x = torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)
    image = torch.fft.irfft2(waves / (y.square() + x.square() + 1e-3).sqrt(), s=(rows, columns))
    return (image - image.min()) / (image.max() - image.min())


def alive(net: TwoScaleUNet, image: Tensor) -> TwoScaleUNet:
    """A network that changes the image by a tenth of its range, as one might that has learned."""
    with torch.no_grad():
        net.heads.last.weight.copy_(drawn(*net.heads.last.weight.shape))
        net.heads.last.weight.mul_(0.1 / (net(image).low - image).std())
    return net


def decibels(found: Tensor, wanted: Tensor) -> float:
    return float(-10 * torch.log10((found - wanted).square().mean()))


@pytest.mark.parametrize("size", [(64, 64), (33, 90), (75, 16), (100, 41)])
@pytest.mark.parametrize("overlap", [8, 16])
def test_what_sees_a_pixel_gives_the_whole_image(size, overlap):
    net, images = Local(), drawn(2, 2, *size)
    found, wanted = restore_in_tiles(net, images, tile=32, overlap=overlap), net(images)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["plain", "phase"])
def test_tiles_are_near_the_whole_image(attention):
    image = scene(83, 108)
    net = alive(narrow(attention=attention), image)
    with torch.no_grad():
        whole = net(image)
    found = restore_in_tiles(net, image, tile=64, overlap=32)
    assert (whole.low - image).std() > 0.09
    assert decibels(found.low, whole.low) > 38
    assert decibels(found.high, whole.high) > 38
    assert not torch.equal(found.low, whole.low)


def test_an_image_of_one_tile_is_restored_at_once():
    image = scene(32, 24)
    net = alive(narrow(), image)
    with torch.no_grad():
        for a, b in zip(restore_in_tiles(net, image, tile=32, overlap=8), net(image), strict=True):
            assert torch.equal(a, b)


def test_the_network_never_sees_more_than_a_tile():
    net = Local()
    restore_in_tiles(net, drawn(3, 2, 130, 70), tile=32, overlap=16)
    assert {shape[:2] for shape in net.seen} == {(1, 2)}
    assert max(max(shape[2:]) for shape in net.seen) == 32
    assert len(net.seen) == 3 * 8 * 4


def test_one_output_alone_is_tiled_too():
    with torch.no_grad():
        low, high = restore_in_tiles(agssf1(channels_in=1, channels_out=1), scene(16, 24), tile=16, overlap=8)
    assert low.shape == (1, 1, 16, 24)
    assert high is None


def test_no_gradient_is_kept():
    assert not restore_in_tiles(Local(), drawn(1, 2, 40, 40), tile=32, overlap=8).low.requires_grad


@pytest.mark.parametrize("count", [17, 64, 75, 200])
@pytest.mark.parametrize("scale", [1, 2])
def test_weights_sum_to_one_and_go_smoothly(count, scale):
    axis = TileAxis.cover(count, 32, 16, 8)
    total = torch.zeros(scale * count, dtype=torch.float64)
    for which, span in enumerate(axis.spans):
        where, weight = axis.place(which, scale)
        total[where] += weight
        assert span[0] % 8 == 0
        assert (weight >= 0).all()
        assert weight.diff().abs().max() < 0.3 if len(weight) > 1 else True
    torch.testing.assert_close(total, torch.ones_like(total))
    assert axis.spans[-1][1] == count


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"tile": 30}, "tile: 30 must be a multiple of 8"),
        ({"tile": 8}, "16 at least"),
        ({"overlap": 0}, "overlap: 0 must be"),
        ({"overlap": 12}, "a multiple of 8"),
        ({"overlap": 24}, "at most half a tile"),
    ],
)
def test_wrong_tiles_are_refused_in_a_sentence(knobs, words):
    with pytest.raises(BadInput, match=words):
        restore_in_tiles(Local(), drawn(1, 2, 64, 64), **{"tile": 32, "overlap": 8, **knobs})


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (2, 64, 64), (0, 2, 64, 64)])
def test_what_is_no_image_is_refused_in_a_sentence(shape):
    with pytest.raises(BadInput, match="is not a shape"):
        restore_in_tiles(Local(), torch.zeros(shape), tile=32, overlap=8)
