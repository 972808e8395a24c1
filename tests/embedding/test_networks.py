"""Patterns to latents and back: the first design's counts and limits, and a network that begins as PCA."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.embedding.losses import count_dead_latents
from phaseloom.embedding.networks.autoencoder import (
    AdaptiveDecoder,
    Autoencoder,
    Decoder,
    Encoder,
    pca,
    recommended,
    seed,
)
from phaseloom.embedding.networks.convolutional import (
    ConvBlock,
    EmbeddingLayer,
    IdentityBlock,
    ResNetBlock,
    ResNetUpBlock,
    count_effective_features,
)
from phaseloom.embedding.networks.linear_skip import fit_principal_components
from phaseloom.embedding.summary import show
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained

CHOICES = [
    {},
    {"pooling": "ladder"},
    {"decoder_sizes": "target"},
    {"output": "softplus", "latent_activation": "softplus"},
    {"output": "linear", "latent_activation": "none", "head_channels": 3},
    {"output": "linear", "latent_activation": "none", "linear_skip": True},
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters() if value.requires_grad)


def small(latent_dim: int = 3, **knobs: Any) -> Autoencoder:
    """Narrow and cheap, but otherwise as asked for."""
    return Autoencoder(latent_dim, (16, 16), **{"width": 4, "decoder_sizes": "target", **knobs})


def begun(latent_dim: int = 4, **knobs: Any) -> tuple[Autoencoder, Tensor]:
    net, patterns = recommended(latent_dim=latent_dim, width=4, **knobs), drawn(30, 1, 16, 24)
    net.begin(patterns)
    return net, patterns


# the first design


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_the_first_design_has_its_parameters_at_any_size(size):
    assert count(Autoencoder(latent_dim=32, out_shape=(size, size))) == 3_914_404


@pytest.mark.parametrize(
    ("latent_dim", "wanted"), [(16, 3_881_364), (64, 3_980_484), (128, 4_112_644), (256, 4_376_964)]
)
def test_a_latent_more_is_2065_parameters_more(latent_dim, wanted):
    assert count(Autoencoder(latent_dim)) == wanted == 3_914_404 + 2065 * (latent_dim - 32)


def test_the_parts_have_their_shares():
    net = Autoencoder()
    assert (count(net.encoder), count(net.decoder)) == (1_924_003, 1_990_401)
    assert sum(value.numel() for value in net.buffers()) == 6_686
    assert count(ConvBlock(128, 128)) == 3 * 147_840
    assert count(IdentityBlock(64, 128)) == 73_856 + 256
    assert count(ResNetBlock(128)) == count(ResNetUpBlock(128)) == 591_360
    assert count(EmbeddingLayer(16, 32)) == 544
    assert AdaptiveDecoder is Decoder


@pytest.mark.parametrize(
    "knobs", [{"pooling": "ladder"}, {"decoder_sizes": "target"}, {"output": "softplus"}]
)
def test_sizes_between_cost_no_parameter(knobs):
    assert count(Autoencoder(**knobs)) == 3_914_404


def test_the_documented_calls_run_as_they_stand():
    model = Autoencoder(latent_dim=32, out_shape=(256, 256)).eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        z, x_hat = model.embed(x), model(x)
    parts = model.compute_loss(x, x_hat, z, lambda_act=1e-4, lambda_sim=5e-5, lambda_div=2e-4)
    assert z.shape == (1, 32)
    assert x_hat.shape == x.shape
    assert all(torch.isfinite(value) for value in parts.values())


@pytest.mark.parametrize(("size", "rank"), [(32, 1), (64, 1), (128, 4), (256, 16)])
def test_the_first_designs_latents_follow_from_few_numbers(size, rank):
    encoder = alive(Encoder(32, width=4))
    with torch.no_grad():
        features = torch.cat([encoder.features(drawn(4, 1, size, size, seed=n)) for n in range(6)])
    assert (
        int(torch.linalg.matrix_rank(features, rtol=1e-5)) == rank == count_effective_features((size, size))
    )


def alive(encoder: Encoder) -> Encoder:
    """The last map of a small pattern is one number, and may be dead: lift it above zero."""
    nn.init.constant_(encoder.conv_final.conv.bias, 3.0)
    nn.init.constant_(encoder.conv_final.bn.bias, 3.0)
    return encoder


@pytest.mark.parametrize("size", [16, 64, 90])
def test_the_recommended_latents_follow_from_at_least_as_many_numbers_as_there_are(size):
    net = recommended(latent_dim=16, width=4)
    with torch.no_grad():
        features = net.encoder.features(drawn(40, 1, size, size))
    assert (
        features.shape[1] == count_effective_features((size, size), pooling="ladder", head_channels=8) == 128
    )
    assert int(torch.linalg.matrix_rank(features, rtol=1e-4)) >= 16


def test_the_first_design_says_how_little_its_latents_hold(caplog):
    with caplog.at_level(logging.WARNING, logger="phaseloom"):
        net = seed(latent_dim=8, out_shape=(64, 64))
    assert "the seed's 8 latents follow from 1 number up to 64 pixels" in caplog.text
    assert count(net) == 3_914_404 - 24 * 2065


def test_the_sigmoid_comes_before_the_last_interpolation():
    decoder = Decoder(3, width=4)
    with torch.no_grad():
        z = drawn(2, 3)
        whole, half = decoder(z, (256, 256)), decoder(z, (128, 128))
    torch.testing.assert_close(half, functional.avg_pool2d(whole, 2))


def test_the_first_design_computes_what_its_table_says():
    net = Autoencoder(3, width=8).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean, part.running_var = 0.1 * drawn(*part.weight.shape), 0.1 * part.weight.detach()
    alive(net.encoder)
    nn.init.constant_(net.encoder.embedding.linear.bias, 1.0)
    x = drawn(2, 1, 64, 32)
    z = torch.relu(net.encoder.embedding.linear(tabled_features(net.encoder, x)))
    maps = net.decoder.conv_initial(net.decoder.linear(z).view(2, 8, 4, 4))
    for block in net.decoder.blocks:
        maps = tabled_block(block, functional.interpolate(maps, scale_factor=4, mode="bilinear"))
    whole = torch.sigmoid(net.decoder.conv_final(maps))
    assert z.max() > 0.1
    assert whole.std() > 0.01
    torch.testing.assert_close(net.embed(x), z)
    torch.testing.assert_close(net(x), functional.interpolate(whole, (64, 32), mode="bilinear"))


def tabled_features(encoder: Encoder, x: Tensor) -> Tensor:
    maps = x
    for part in (encoder.conv_input, encoder.conv_pre):
        maps = torch.relu(part.normed.bn(part.normed.conv(maps)))
    for block in encoder.blocks:
        maps = tabled_block(block, maps)
        shrunk = [max(1, n // 4) for n in maps.shape[-2:]]
        maps = functional.adaptive_avg_pool2d(maps, shrunk)
    assert maps.shape[-2:] == (1, 1)
    maps = torch.relu(encoder.conv_post.normed.conv(maps))
    return torch.relu(encoder.conv_final.conv(maps)).flatten(1).expand(-1, 16)


def tabled_block(block: Any, maps: Tensor) -> Tensor:
    def norm(part: Any, values: Tensor) -> Tensor:
        out = part.conv(values)
        return part.bn(out) if out.shape[-1] > 1 or out.shape[-2] > 1 else out

    parts = block.conv_block
    inner = torch.relu(norm(parts.first, maps))
    inner = norm(parts.third, torch.relu(norm(parts.second, inner)))
    return torch.relu(norm(block.identity_block.normed, torch.relu(inner + maps)))


# shapes


@pytest.mark.parametrize(
    ("knobs", "wanted"),
    [
        ({"decoder_sizes": "seed"}, [64, 16, 4, 16, 64, 256]),
        ({"pooling": "ladder", "decoder_sizes": "target"}, [64, 25, 10, 10, 25, 64]),
    ],
)
def test_blocks_work_in_the_sizes_that_were_chosen(knobs, wanted):
    shapes = {layer.name: layer.shape for layer in show(small(**knobs), input_size=(1, 64, 64)).layers}
    names = [f"{half}.blocks.{n}.conv_block.second.conv" for half in ("encoder", "decoder") for n in range(3)]
    assert [shapes[name][-1] for name in names] == wanted


@pytest.mark.parametrize("knobs", CHOICES)
@pytest.mark.parametrize("size", [(16, 16), (17, 40), (64, 32)])
def test_patterns_come_back_in_their_size(knobs, size):
    net = small(**knobs)
    x = drawn(2, 1, *size)
    assert net(x).shape == x.shape
    assert net.embed(x).shape == (2, 3)
    assert torch.isfinite(net(x)).all()


def test_the_largest_patterns_come_back_in_their_size():
    with torch.no_grad():
        assert small(width=2, pooling="ladder")(drawn(1, 1, 1024, 16)).shape == (1, 1, 1024, 16)
        net = Autoencoder(3, width=2)
        assert net(drawn(1, 1, 16, 1024)).shape == (1, 1, 16, 1024)
        assert net.decode(drawn(1, 3)).shape == (1, 1, 256, 256)
        assert net.decode(drawn(1, 3), (20, 30)).shape == (1, 1, 20, 30)


@pytest.mark.parametrize("number", [1, 4, 8, 16])
@pytest.mark.parametrize("latent_dim", [16, 32, 64, 128])
def test_any_batch_and_any_number_of_latents(number, latent_dim):
    net = small(latent_dim).eval()
    x = drawn(number, 1, 16, 16)
    assert net.embed(x).shape == (number, latent_dim)
    assert net(x).shape == x.shape


def test_axes_are_pooled_each_by_its_own_size():
    encoder = Encoder(3, width=4)
    maps = drawn(1, 4, 64, 256)
    assert encoder.blocks[0](maps).shape == (1, 4, 16, 64)
    assert count_effective_features((64, 256)) == 4


def test_a_pattern_on_its_side_is_drawn_on_its_side():
    net = small(pooling="ladder").eval()
    for name, value in net.named_parameters():
        if value.ndim == 4:
            value.data = (value + value.mT) / 2
        if name.endswith("embedding.linear.weight"):
            value.data = symmetric(value.data)
        if name == "decoder.linear.weight":
            value.data = symmetric(value.data.T).T
        if name == "decoder.linear.bias":
            value.data = symmetric(value.data[None])[0]
    x = drawn(2, 1, 24, 40)
    torch.testing.assert_close(net(x).mT, net(x.mT), atol=1e-5, rtol=1e-4)


def symmetric(rows: Tensor) -> Tensor:
    maps = rows.unflatten(-1, (-1, 4, 4))
    return ((maps + maps.mT) / 2).flatten(-3)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 16, 16), r"\(2, 16, 16\) is not of shape"),
        (torch.zeros(2, 3, 16, 16), "stack patterns with one channel"),
        (torch.zeros(0, 1, 16, 16), "is not of shape"),
        (torch.zeros(1, 1, 15, 16), "are not 16 to 1024 pixels"),
        (torch.zeros(1, 1, 16, 1025), "crop, bin or pad"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.int32), "give torch.float32"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.float64), "float64 is not the network's type"),
    ],
)
@pytest.mark.parametrize("net", [small(), pca(latent_dim=2)])
def test_what_is_no_pattern_is_refused_in_a_sentence(x, words, net):
    for call in (net, net.embed, net.begin):
        with pytest.raises(BadInput, match=words):
            call(x)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"pooling": "lader"}, "did you mean 'ladder'"),
        ({"decoder_sizes": "x"}, "model: decoder_sizes: x is not a choice"),
        ({"output": "tanh"}, "model: output: tanh is not a choice"),
        ({"latent_activation": "gelu"}, "model: latent_activation"),
        ({"width": 5}, "a multiple of 2"),
        ({"latent_dim": 0}, "model: latent_dim: 0 must be"),
        ({"head_channels": 0}, "model: head_channels"),
        ({"linear_skip": True}, "cannot have a linear part"),
    ],
)
def test_wrong_knobs_are_refused_in_a_sentence(knobs, words):
    with pytest.raises(BadInput, match=words):
        small(**knobs)


def test_wrong_latents_and_sizes_are_refused_in_a_sentence():
    with pytest.raises(BadInput, match="where this network has 3"):
        small().decode(drawn(2, 4))
    with pytest.raises(BadInput, match="pixels along y and x"):
        small().decode(drawn(2, 3), (16, 16, 16))
    with pytest.raises(BadInput, match="pixels along y and x"):
        Autoencoder(3, (8, 64))
    with pytest.raises(BadInput, match="is more than the 256 pixels"):
        pca(latent_dim=300, out_shape=(16, 16))


# latents and gradients


def test_latents_of_the_first_design_are_not_negative_and_signed_ones_are():
    assert small(16).embed(drawn(8, 1, 16, 16)).min() >= 0
    assert small(16, latent_activation="softplus").embed(drawn(8, 1, 16, 16)).min() > 0
    assert begun()[0].embed(drawn(8, 1, 16, 24)).min() < 0


def test_signed_latents_see_both_signs_of_the_last_map():
    x = drawn(8, 1, 16, 16)
    assert small(latent_activation="none").encoder.features(x).min() < 0
    assert small().encoder.features(x).min() >= 0


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("knobs", [*CHOICES, {"pooling": "ladder", "head_channels": 8}])
def test_gradients_are_finite_and_reach_most_parameters(number, mixed, knobs):
    net, x = small(**knobs), drawn(number, 1, 24, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        z = net.embed(x)
        loss = net.compute_loss(x, net.decode(z, x.shape[-2:]), z)["total"]
    loss.backward()
    reached = [
        value.grad is not None and bool(torch.isfinite(value.grad).all()) for value in net.parameters()
    ]
    assert torch.isfinite(loss)
    assert sum(reached) >= len(reached) / 2
    assert all(value.grad is None or torch.isfinite(value.grad).all() for value in net.parameters())


def test_no_latent_is_dead_in_any_of_twenty_initialisations():
    x = drawn(6, 1, 64, 64)
    with torch.no_grad():
        nets = [recommended(latent_dim=8, width=4, seed=n) for n in range(20)]
        assert [count_dead_latents(net.embed(x)) for net in nets] == [0] * 20
        for net in nets:
            nn.init.normal_(net.encoder.embedding.linear.weight, std=0.1)
        assert [count_dead_latents(net.encoder(x)) for net in nets] == [0] * 20


def test_weights_follow_the_seed_and_leave_the_process_alone():
    before = torch.random.get_rng_state()
    first, again, other = (recommended(width=4, seed=n) for n in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    weight = "encoder.conv_pre.normed.conv.weight"
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


# the linear part


@pytest.mark.parametrize("count", [1, 5, 29])
def test_untrained_it_is_principal_components(count):
    x = drawn(30, 1, 16, 24) * torch.linspace(0.2, 2, 24) + 1
    rows = x.flatten(1).double().numpy()
    mean = rows.mean(0)
    u, s, v = np.linalg.svd(rows - mean, full_matrices=False)
    wanted = torch.from_numpy((u[:, :count] * s[:count]) @ v[:count] + mean).view_as(x).float()
    for net in (recommended(latent_dim=count, width=4), pca(latent_dim=count)):
        net.begin(x)
        for mode in (net.train(), net.eval()):
            torch.testing.assert_close(mode(x), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(net.embed(x).std(0), torch.from_numpy(s[:count]).float() / 29**0.5)


def test_half_precision_leaves_the_linear_part_exact():
    net, x = begun()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(x)
    torch.testing.assert_close(found, net(x), atol=1e-6, rtol=1e-6)


def test_long_tables_have_the_same_components_from_a_random_subspace(monkeypatch):
    rows = drawn(60, 6) * torch.tensor([9.0, 7, 5, 3, 2, 1]) @ drawn(6, 80, seed=1) + 0.01 * drawn(
        60, 80, seed=2
    )
    mean, basis = fit_principal_components(rows, 5)
    monkeypatch.setattr("phaseloom.embedding.networks.linear_skip.MAX_EXACT_SIZE", 10)
    state = torch.random.get_rng_state()
    again = fit_principal_components(rows, 5)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(again, (mean, basis), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5), atol=1e-5, rtol=0)


def test_patterns_of_another_size_pass_the_linear_part_interpolated():
    net, x = pca(latent_dim=3), functional.avg_pool2d(drawn(20, 1, 44, 60), 13, stride=1)
    net.begin(x)
    fine = functional.interpolate(x, (64, 96), mode="bilinear")
    assert net(fine).shape == (20, 1, 64, 96)
    off = net.embed(fine) - net.embed(x)
    assert off.square().mean() < 0.01 * net.embed(x).var()


def test_begin_takes_the_size_and_needs_enough_patterns():
    net, _ = begun()
    assert net.out_shape == (16, 24) == net.recipe[1]["out_shape"]
    assert net.decode(drawn(2, 4)).shape == (2, 1, 16, 24)
    with pytest.raises(BadInput, match="too few for 4 components"):
        net.begin(drawn(4, 1, 16, 16))
    with pytest.raises(BadInput, match="not a finite number"):
        net.begin(torch.full((9, 1, 16, 16), torch.nan))


def test_it_learns_what_principal_components_miss():
    place = torch.rand(48, generator=torch.Generator().manual_seed(0))[:, None, None] * 10 - 5
    y, x = torch.meshgrid(torch.arange(16.0) - 8, torch.arange(16.0) - 8, indexing="ij")
    patterns = torch.exp(-((y - place) ** 2 + (x - place.cos()) ** 2) / 8)[:, None]
    patterns = (patterns - patterns.mean()) / patterns.std()
    net = recommended(latent_dim=2, width=4)
    net.begin(patterns)
    before = (net(patterns) - patterns).square().mean().item()
    step = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(30):
        step.zero_grad()
        loss = (net(patterns) - patterns).square().mean()
        loss.backward()
        step.step()
    assert loss.item() < before / 2


# files


@pytest.mark.parametrize(
    "net",
    [
        begun()[0],
        pca(latent_dim=2, out_shape=(16, 18)),
        Autoencoder(3, (16, 20), width=4, pooling="ladder", head_channels=2, output="softplus"),
        Autoencoder(3, (16, 16), width=4, output="linear", latent_activation="none", linear_skip=True),
    ],
)
def test_a_saved_network_is_loaded_to_the_same_bits(net, tmp_path):
    x = drawn(3, 1, *net.out_shape)
    if net.scale is not None:
        net.scale.calibrate(x.abs())
    net(x)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.01)
    file = pretrained.save_network(net, tmp_path, {"data": "none"})
    again = pretrained.load_network(file)
    assert type(again) is type(net)
    assert again.recipe == net.recipe
    state, wanted = again.state_dict(), net.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert torch.equal(again(x), net.eval()(x))


def test_the_first_design_is_loaded_by_its_name(tmp_path):
    file = pretrained.save_network(seed(latent_dim=2), tmp_path)
    assert count(pretrained.load_network(file)) == 3_914_404 - 30 * 2065
