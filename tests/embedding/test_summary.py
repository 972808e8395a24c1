"""Tables of layers, and how well an example is drawn."""

import pytest
import torch
from torch import nn

from phaseloom.embedding.networks.autoencoder import Autoencoder, pca, recommended
from phaseloom.embedding.summary import calculate_metrics, comparison, save_comparison_images, show
from phaseloom.errors import BadInput
from phaseloom.metrics.image import psnr, ssim


def small() -> Autoencoder:
    return Autoencoder(3, (16, 16), width=4, decoder_sizes="target")


def test_the_layers_hold_all_parameters_once():
    net = Autoencoder()
    found = show(net, input_size=(1, 256, 256))
    assert sum(layer.parameters for layer in found.layers) == found.total == found.trainable == 3_914_404
    assert len({layer.name for layer in found.layers}) == len(found.layers)


def test_shapes_are_those_of_a_pass_and_nothing_is_left_behind():
    net = small()
    shapes = {layer.name: layer.shape for layer in show(net, input_size=(1, 64, 96)).layers}
    assert shapes["encoder.conv_input.normed.conv"] == (1, 2, 64, 96)
    assert shapes["encoder.blocks.1.conv_block.first.conv"] == (1, 4, 16, 24)
    assert shapes["encoder.embedding.linear"] == (1, 3)
    assert shapes["decoder.conv_final"] == (1, 1, 64, 96)
    assert net.training
    assert not any(part._forward_hooks for part in net.modules())


def test_a_script_shows_the_table(capsys):
    found = show(small(), input_size=(1, 16, 16))
    assert capsys.readouterr().out == f"{found}\n"


def test_what_is_frozen_is_counted_apart():
    net = small()
    net.encoder.requires_grad_(False)
    found = show(net, input_size=(1, 16, 16))
    encoder = sum(value.numel() for value in net.encoder.parameters())
    assert found.total - found.trainable == encoder
    assert f"{found.trainable:,} of them trainable" in str(found)


def test_a_layer_used_twice_is_counted_once():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    found = show(nn.Sequential(layer, nn.ReLU(), layer), input_size=(1, 4, 4))
    assert [each.parameters for each in found.layers] == [10, 0]


def test_a_table_has_one_line_for_each_layer():
    found = show(small(), input_size=(1, 16, 16))
    lines = str(found).splitlines()
    assert len({len(line) for line in lines[: len(found.layers) + 2]}) == 1
    assert lines[0].split() == ["layer", "kind", "output", "parameters"]


def test_an_example_is_drawn_judged_and_shown(tmp_path):
    net, patterns = small(), torch.rand(3, 1, 16, 24)
    found = show(net, patterns, tmp_path / "new")
    assert found.input_size == (1, 16, 24)
    assert found.figure == tmp_path / "new" / "comparison.png"
    assert found.figure.stat().st_size > 1000
    with torch.no_grad():
        drawn = net.eval()(patterns)
    assert found.metrics == calculate_metrics(patterns, drawn)
    assert "SSIM" in str(found)


def test_judging_leaves_the_modes_of_parts_as_they_were():
    net = small()
    net.encoder.eval()
    show(net, torch.rand(2, 1, 16, 16))
    assert net.training
    assert not net.encoder.training
    assert net.decoder.training


def test_metrics_are_means_over_patterns_at_a_stated_range():
    patterns = torch.rand(4, 1, 16, 16)
    drawn = patterns + 0.1 * torch.arange(1, 5)[:, None, None, None]
    found = calculate_metrics(patterns, drawn, data_range=2.0)
    errors = torch.tensor([0.01, 0.04, 0.09, 0.16])
    assert found.mse.mean == pytest.approx(float(errors.mean()), rel=1e-5)
    assert found.mse.std == pytest.approx(float(errors.std(correction=0)), rel=1e-5)
    assert found.data_range == 2.0
    pairs = list(zip(drawn.numpy(), patterns.numpy(), strict=True))
    assert found.psnr.mean == pytest.approx(sum(psnr(a, b, peak=2.0) for a, b in pairs) / 4)
    assert found.ssim.mean == pytest.approx(sum(ssim(a, b, peak=2.0) for a, b in pairs) / 4)


def test_the_mean_pattern_explains_nothing_and_the_patterns_all():
    patterns = torch.rand(5, 1, 16, 16)
    mean = patterns.mean(0, keepdim=True).expand_as(patterns)
    assert calculate_metrics(patterns, mean).explained == pytest.approx(0, abs=1e-6)
    assert calculate_metrics(patterns, patterns).explained == 1
    assert calculate_metrics(patterns, patterns).psnr.mean == float("inf")
    assert calculate_metrics(patterns[:1], mean[:1]).explained is None


def test_a_figure_has_a_panel_for_each_of_few_patterns(tmp_path):
    patterns = torch.rand(9, 1, 16, 24)
    figure = comparison(patterns, patterns)
    assert sum(bool(axes.images) for axes in figure.axes) == 3 * 6
    assert save_comparison_images(patterns, patterns, tmp_path / "a.png").exists()


def test_wrong_calls_are_told():
    with pytest.raises(BadInput, match="needs patterns to draw"):
        show(pca(latent_dim=2), None, "somewhere")
    with pytest.raises(BadInput, match="must have the shape"):
        calculate_metrics(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 17))
    with pytest.raises(BadInput, match="11x11"):
        calculate_metrics(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8))


def test_an_autoencoder_is_shown_in_its_own_size():
    net = recommended(latent_dim=2, out_shape=(24, 20), width=4)
    assert show(net).input_size == (1, 24, 20)
    assert show(net, input_size=(1, 32, 32)).input_size == (1, 32, 32)
