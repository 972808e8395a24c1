"""VGG19 has its published sizes and names, takes torchvision's files, and says what other files lack."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.restoration.networks import vgg

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


@pytest.fixture(scope="module")
def net():
    return vgg.random_vgg(seed=4)


def empty():
    """Weights of the right names and shapes that take no room: each is one number, repeated."""
    return {name: torch.zeros(1).expand(value.shape) for name, value in vgg.VGG19().state_dict().items()}


def test_names_and_numbers_are_torchvisions(net):
    names = [f"features.{number}.{kind}" for number in CONVOLUTIONS for kind in ("weight", "bias")]
    weights = net.state_dict()
    assert list(weights) == names
    assert sum(value.numel() for value in weights.values()) == 20_024_384
    assert weights["features.34.weight"].shape == (512, 512, 3, 3)


def test_it_is_sixteen_convolutions_and_the_last_is_not_rectified(net):
    image = torch.rand(1, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    out, weights = image, net.state_dict()
    for number in CONVOLUTIONS:
        if number in (5, 10, 19, 28):
            out = functional.max_pool2d(out, 2)
        out = functional.conv2d(
            out, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], padding=1
        )
        out = out if number == 34 else out.relu()
    torch.testing.assert_close(net(image), out)
    assert (out < 0).any()


def test_it_is_never_trained_and_lets_gradients_through(net):
    image = torch.rand(1, 3, 16, 16).requires_grad_()
    net(image).sum().backward()
    assert image.grad.any()
    assert not net.training
    assert all(value.grad is None and not value.requires_grad for value in net.parameters())


def test_random_weights_follow_from_the_seed_and_keep_the_size_of_what_goes_through(net):
    again, other = vgg.random_vgg(seed=4).state_dict(), vgg.random_vgg(seed=5).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in net.state_dict().items())
    assert not torch.equal(again["features.34.weight"], other["features.34.weight"])
    out = net(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert 0.2 < out.std() < 5


def test_images_without_a_pixel_for_the_last_level_are_refused(net):
    with pytest.raises(BadInput, match=r"\(15, 40\) pixels are too few for VGG19: give 16 or more"):
        net(torch.zeros(1, 3, 15, 40))


def test_a_file_of_torchvisions_old_kind_is_read_and_its_classifier_left_aside(net):
    weights = dict(net.state_dict()) | {"classifier.0.weight": torch.ones(3, 3)}
    torch.save(weights, "vgg19.pth", _use_new_zipfile_serialization=False)
    again = vgg.load_vgg("vgg19.pth")
    assert torch.equal(again.features[34].weight, net.features[34].weight)
    assert not any(value.requires_grad for value in again.parameters())


def test_a_file_of_safetensors_in_half_precision_is_read_as_single(net):
    save_file({name: value.half() for name, value in net.state_dict().items()}, "vgg19.safetensors")
    weight = vgg.load_vgg("vgg19.safetensors").features[0].weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, net.features[0].weight, rtol=1e-3, atol=1e-4)


def without(name):
    return {key: value for key, value in empty().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (without("features.16.bias"), "lacks features.16.bias: not a file of VGG19 without batch norms"),
        ({"state_dict": empty()}, "lacks features.0.weight"),
        (
            empty() | {"features.2.weight": torch.zeros(64, 3, 3, 3)},
            r"has features.2.weight of shape \(64, 3",
        ),
        (empty() | {"features.0.bias": torch.full((64,), torch.nan)}, "are not finite: fetch the file again"),
        (empty() | {"features.0.bias": "text"}, "lacks features.0.bias"),
        ([1, 2], "holds more than tensors by their names"),
        (Exception, "holds more than tensors by their names"),
    ],
)
def test_a_file_of_something_else_says_what_is_wrong(weights, sentence):
    torch.save(weights, "other.pth")
    with pytest.raises(BadInput, match=sentence):
        vgg.load_vgg("other.pth")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(40)])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_damaged_file_says_so(tmp_path, content, ending):
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        vgg.load_vgg(path)


def test_a_file_that_is_not_there_says_which_is_wanted():
    with pytest.raises(BadInput, match=r"none.pth does not exist: name torchvision's vgg19-dcbb9e9d.pth"):
        vgg.load_vgg("none.pth")
