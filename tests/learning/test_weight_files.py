"""Weights of others, and files of ours."""

import importlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from phaseloom.errors import BadInput
from phaseloom.learning.weight_files import (
    BUILDERS,
    BUILDERS_BEFORE_0_2,
    _builder_name,
    load_card,
    load_network,
    save_network,
)
from phaseloom.retrieval.networks import recovery, stitching
from phaseloom.retrieval.networks.backbones import get_blocks, make_resnet, make_transformer
from phaseloom.retrieval.networks.end_to_end import EndToEnd

SIZES = {"widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1)}
VIT = {"window": 3, "width": 8, "depth": 2, "heads": 2}


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> tuple[ResNetModel, str]:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], layer_type="basic"
    )
    net, folder = ResNetModel(config).eval(), str(tmp_path_factory.mktemp("resnet"))
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    net.save_pretrained(folder)
    return net, folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> tuple[ViTModel, str]:
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=48
    )
    net, folder = ViTModel(config).eval(), str(tmp_path_factory.mktemp("vit"))
    net.save_pretrained(folder)
    return net, folder


def tiny(**knobs):
    return recovery.small(**{"window": 3, "width": 8, "depth": 1, "heads": 2, "channels": 2} | knobs)


def test_a_grey_image_gives_what_it_gave_in_colour(colours):
    theirs, folder = colours
    ours, grey = make_resnet(folder, **SIZES).eval(), torch.rand(2, 1, 40, 32)
    told = theirs(grey.expand(-1, 3, -1, -1)).pooler_output
    torch.testing.assert_close(ours(grey).pooler_output, told, atol=1e-5, rtol=1e-4)


def test_every_tensor_of_a_resnet_is_loaded_bit_by_bit(colours):
    theirs, folder = colours
    expected, found = theirs.state_dict(), make_resnet(folder, **SIZES).state_dict()
    assert set(expected) == set(found)
    first = "embedder.embedder.convolution.weight"
    assert torch.equal(found.pop(first), expected.pop(first).sum(1, keepdim=True))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_weights_of_one_channel_stay_as_they_are(tmp_path):
    theirs = make_resnet(None, **SIZES)
    theirs.save_pretrained(tmp_path / "grey")
    found = make_resnet(str(tmp_path / "grey"), **SIZES).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in theirs.state_dict().items())


def test_every_tensor_of_a_vit_is_loaded_bit_by_bit(vit):
    theirs, folder = vit
    expected, found = theirs.state_dict(), make_transformer(folder, **VIT).state_dict()
    assert set(expected) - set(found) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_builder_takes_the_weights_that_are_named(tmp_path):
    """ResNet34 at its true size, once."""
    theirs = ResNetModel(
        ResNetConfig(
            embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[3, 4, 6, 3], layer_type="basic"
        )
    )
    theirs.save_pretrained(tmp_path / "resnet")
    vit = make_transformer(None, window=2, width=64, depth=1, heads=1)
    vit.save_pretrained(tmp_path / "vit")
    net = recovery.base(
        resnet=str(tmp_path / "resnet"), vit=str(tmp_path / "vit"), window=2, width=64, depth=1, channels=2
    )
    ours, expected = net.embedding.body.net.state_dict(), theirs.state_dict()
    first = "embedder.embedder.convolution.weight"
    assert all(torch.equal(value, expected[name]) for name, value in ours.items() if name != first)
    assert torch.equal(net.grid.table, vit.embeddings.position_embeddings)
    assert torch.equal(net.grid.first, vit.embeddings.cls_token)
    assert torch.equal(net.grid.norm.weight, vit.layernorm.weight)
    assert torch.equal(net.grid.blocks[0].mlp.fc1.weight, vit.layers[0].mlp.fc1.weight)
    patch = net(torch.rand(2, 2, 2, 24, 24) / 576, torch.zeros(2, 8), torch.zeros(2, 2))
    assert patch.shape == (2, 16, 16)


@pytest.mark.slow
def test_the_first_design_takes_a_resnet34_and_a_vit_b_bit_by_bit(tmp_path):
    """Both at their true sizes, from directories."""
    stages = {"hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3]}
    resnet = ResNetModel(ResNetConfig(embedding_size=64, layer_type="basic", **stages))
    vit = ViTModel(ViTConfig())  # 12 layers of 768 numbers, 14 x 14 tokens of 224 x 224 pixels
    resnet.save_pretrained(tmp_path / "resnet")
    vit.save_pretrained(tmp_path / "vit")
    net = recovery.seed(resnet=str(tmp_path / "resnet"), vit=str(tmp_path / "vit"))
    ours, theirs = net.embedding.body.net.state_dict(), resnet.state_dict()
    first = "embedder.embedder.convolution.weight"
    assert torch.equal(ours.pop(first), theirs.pop(first).sum(1, keepdim=True))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    found, told = make_transformer(str(tmp_path / "vit")).state_dict(), vit.state_dict()
    assert all(torch.equal(value, told[name]) for name, value in found.items())
    assert len(net.grid.blocks) == 12
    for here, there in zip(net.grid.blocks, vit.layers, strict=True):
        pairs = zip(here.state_dict().values(), there.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert torch.equal(net.grid.table, vit.embeddings.position_embeddings)


def test_weights_of_another_size_are_refused_in_a_sentence(colours, vit):
    with pytest.raises(BadInput, match=r"model: resnet: .* is not a ResNet of basic blocks.*or none"):
        make_resnet(colours[1])
    with pytest.raises(
        BadInput, match="has 10 places, width 8, 2 blocks, 2 heads, not 197 places, width 768"
    ):
        make_transformer(vit[1])


def test_weights_of_another_kind_are_refused_in_a_sentence(colours):
    with pytest.raises(BadInput, match="model: vit"):
        make_transformer(colours[1], **VIT)


@pytest.mark.parametrize("name", ["nobody/no-such-net", "./no/such/folder"])
def test_a_hub_name_without_a_network_is_refused_in_a_sentence(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="cannot be loaded: pass a local directory, or none"):
        recovery.base(vit=name, width=64, depth=1)


def test_a_damaged_file_of_weights_is_refused_in_a_sentence(vit, tmp_path):
    theirs, _ = vit
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match="pass a local directory, or none"):
        make_transformer(str(tmp_path), **VIT)


def test_nothing_is_loaded_unless_it_is_named(monkeypatch):
    def never(*_, **__):
        raise AssertionError("asked for weights")

    monkeypatch.setattr(ViTModel, "from_pretrained", never)
    monkeypatch.setattr(ResNetModel, "from_pretrained", never)
    with torch.device("meta"):
        recovery.base(width=64, depth=1)


class Old(torch.nn.Module):
    """A vision transformer as transformers before version 5 laid it out."""

    def __init__(self, vit: torch.nn.Module):
        super().__init__()
        self.embeddings, self.layernorm = vit.embeddings, vit.layernorm
        self.encoder = torch.nn.Module()
        self.encoder.layer = torch.nn.ModuleList(Tupled(layer) for layer in vit.layers)


class Tupled(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layer(tokens),)


def test_both_layouts_of_a_vit_give_the_same():
    """A tuple's first is the tokens; the first of a tensor would be the first of the batch."""
    new = make_transformer(None, window=3, width=8, depth=2, heads=2).eval()
    outs = []
    for vit in (new, Old(new)):
        films = torch.nn.ModuleList(recovery.NoConditioning() for _ in get_blocks(vit))
        grid = recovery._make_grid(vit, films, 2.0)
        grid.entry = torch.nn.Identity()
        torch.nn.init.zeros_(grid.places.gain)
        outs.append(grid(torch.ones(2, 3, 3, 8), torch.zeros(2, 8), torch.zeros(2, 2)))
    torch.testing.assert_close(*outs)
    vit = new
    state = torch.cat([vit.embeddings.cls_token.expand(2, -1, -1), torch.ones(2, 9, 8)], 1)
    state = state + vit.embeddings.position_embeddings
    for layer in vit.layers:
        state = layer(state)
    torch.testing.assert_close(outs[0].flatten(1, 2), vit.layernorm(state)[:, 1:])


def test_a_saved_net_is_the_same_when_loaded():
    net = tiny(step=3.0)
    net.calibrate(torch.rand(9, 24, 24) / 576)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    file = save_network(net, "net.safetensors", {"trained": {"scans": 3}})
    state = torch.get_rng_state()
    back = load_network(file)
    assert torch.equal(torch.get_rng_state(), state)
    assert back.recipe == net.recipe
    assert not back.training
    given = torch.rand(2, 3, 3, 24, 24) / 576, torch.rand(2, 8), torch.rand(2, 2)
    assert torch.equal(back(*given), net.eval()(*given))
    assert load_card(file) == {"trained": {"scans": 3}}


def test_a_folder_holds_one_net_and_a_trained_pair_comes_back_whole():
    net = EndToEnd(tiny(), stitching.residual(width=8, depth=1), stride=2).eval()
    file = save_network(net, "somewhere/deep")
    assert file.name == "net.safetensors"
    back, given = load_network("somewhere/deep"), (torch.rand(1, 5, 4, 24, 24) / 576, torch.rand(1, 8))
    assert isinstance(back, EndToEnd)
    assert back.stride == 2
    assert torch.equal(back(*given), net(*given))
    assert back.stitching.recipe == ("stitching.residual", net.stitching.recipe[1])


def test_a_file_says_in_words_how_its_net_was_built():
    with safe_open(save_network(tiny(), "net.safetensors"), framework="pt") as file:
        said = json.loads(file.metadata()["phaseloom"])
    assert said["network"] == "recovery.small"
    assert said["knobs"]["window"] == 3


def test_a_net_made_from_weights_of_others_is_loaded_without_them(tmp_path):
    make_transformer(None, window=2, width=64, depth=1, heads=1).save_pretrained(tmp_path / "vit")
    net = recovery.base(vit=str(tmp_path / "vit"), window=2, width=64, depth=1, channels=2)
    file = save_network(net, tmp_path / "ours")
    (tmp_path / "vit" / "model.safetensors").unlink()
    assert torch.equal(load_network(file).grid.table, net.grid.table)


def broken(path, said) -> None:
    save_file({"a": torch.zeros(2)}, path, metadata={"phaseloom": said})


GOOD = {"network": "recovery.small", "knobs": {}, "card": {}}
OLD = {"room": "phaseloom.nets.recovery", "builder": "small", "knobs": {}, "card": {}}


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_name_of_a_network_leads_to_its_builder(name):
    module, _, function = BUILDERS[name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(("old", "new"), sorted(BUILDERS_BEFORE_0_2.items()))
def test_files_that_name_a_module_of_version_0_1_are_still_read(old, new):
    assert new in BUILDERS
    room, _, builder = old.rpartition(".")
    assert _builder_name({"room": room, "builder": builder}) == new


def test_a_file_of_version_0_1_gives_the_same_network(tmp_path):
    net = EndToEnd(tiny(), stitching.residual(width=8, depth=1), stride=2).eval()
    file = save_network(net, tmp_path / "net.safetensors")
    with safe_open(file, framework="pt") as opened:
        said = json.loads(opened.metadata()["phaseloom"])
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    old = {new: name.rpartition(".") for name, new in BUILDERS_BEFORE_0_2.items()}
    for node in (said, said["knobs"]["recovery"], said["knobs"]["stitching"]):
        room, _, builder = old[node.pop("network")]
        node.update(room=room, builder=builder)
    save_file(weights, file, metadata={"phaseloom": json.dumps(said)})
    back, given = load_network(file), (torch.rand(1, 5, 4, 24, 24) / 576, torch.rand(1, 8))
    assert torch.equal(back(*given), net(*given))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("no json", "does not say how its network is built"),
        ("[1]", "does not say how its network is built"),
        (json.dumps(GOOD | {"knobs": 3}), "does not say how its network is built"),
        (
            json.dumps(OLD | {"room": "os", "builder": "system"}),
            "os.system, which this version does not have",
        ),
        (json.dumps(OLD | {"room": "phaseloom.nets.pretrained", "builder": "load"}), "does not have"),
        (json.dumps(OLD | {"room": "phaseloom.nets.nothing"}), "which this version does not have"),
        (json.dumps(OLD | {"builder": "extent"}), "which this version does not have"),
        (json.dumps(GOOD | {"network": "os:system"}), "which this version does not have"),
        (json.dumps(GOOD | {"network": 3}), "does not say how its network is built"),
        (json.dumps(GOOD | {"knobs": {"speed": 3}}), "which this version does not have"),
        (json.dumps(GOOD | {"knobs": {"heads": 5}}), "choose a divisor"),
        (json.dumps(GOOD | {"knobs": {"depth": 1, "width": 8, "heads": 1}}), "does not fit the network"),
    ],
)
def test_a_file_that_names_no_net_of_ours_is_refused_in_a_sentence(said, sentence):
    broken("net.safetensors", said)
    with pytest.raises(BadInput, match=sentence):
        load_network("net.safetensors")


def test_foreign_damaged_and_missing_files_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        load_network(tmp_path / "nothing")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(BadInput, match="does not say how"):
        load_network(tmp_path / "foreign.safetensors")
    file = save_network(tiny(), tmp_path / "cut.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(BadInput, match="is damaged"):
        load_network(file)
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.safetensors")
    with pytest.raises(BadInput, match="is damaged"):
        load_network(tmp_path / "pickle.safetensors")


def test_a_net_without_a_recipe_is_not_saved():
    with pytest.raises(BadInput, match="make it with a builder"):
        save_network(torch.nn.Linear(2, 2), "net.safetensors")
