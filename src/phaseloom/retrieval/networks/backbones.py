"""Backbones from transformers: ResNet and vision transformer, with random or pretrained weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from phaseloom.errors import BadInput, MissingExtra

__all__ = ["get_blocks", "make_resnet", "make_transformer"]

FIRST_CONVOLUTION = "embedder.embedder.convolution.weight"


def make_resnet(
    name: str | None,
    /,
    *,
    widths: tuple[int, ...] = (64, 128, 256, 512),
    depths: tuple[int, ...] = (3, 4, 6, 3),
) -> nn.Module:
    """A ResNet of basic blocks for images of one channel, ResNet34 unless said otherwise.

    Weights for three channels are summed over them, so that a grey image gives what it gave in colour.

    Args:
        name: a local directory or a hub name, or none for random weights.
        widths: channels of its stages.
        depths: blocks of its stages.

    Raises:
        BadInput: weights that cannot be had, or of another network.
        MissingExtra: without transformers.
    """
    hub = _import_transformers("model: a ResNet")
    config = hub.ResNetConfig(
        num_channels=1,
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type="basic",
    )
    net = hub.ResNetModel(config)
    if name is None:
        return net
    state = _load_pretrained_weights(hub.ResNetModel, name, "model: resnet").state_dict()
    if FIRST_CONVOLUTION in state:
        state[FIRST_CONVOLUTION] = state[FIRST_CONVOLUTION].sum(1, keepdim=True)
    try:
        net.load_state_dict(state)
    except RuntimeError as problem:
        fix = (
            f"is not a ResNet of basic blocks, {list(depths)} of them with {list(widths)} channels: pass one"
        )
        raise BadInput("model: resnet", name, f"{fix}, or none") from problem
    return net


def make_transformer(
    name: str | None, /, *, window: int = 14, width: int = 768, depth: int = 12, heads: int = 12
) -> nn.Module:
    """A vision transformer, ViT-B for 14 x 14 tokens and one more unless said otherwise.

    Args:
        name: a local directory or a hub name, or none for random weights.
        window: tokens along an edge.
        width: channels of a token.
        depth: blocks.
        heads: of each block.

    Raises:
        BadInput: weights that cannot be had, or of another network.
        MissingExtra: without transformers.
    """
    hub = _import_transformers("model: a vision transformer")
    if name is None:
        config = hub.ViTConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            image_size=16 * window,
        )
        return hub.ViTModel(config, add_pooling_layer=False)
    net = _load_pretrained_weights(hub.ViTModel, name, "model: vit", add_pooling_layer=False)
    found = (
        *net.embeddings.position_embeddings.shape[1:],
        len(get_blocks(net)),
        net.config.num_attention_heads,
    )
    if found != (window**2 + 1, width, depth, heads):
        wanted = _describe_sizes((window**2 + 1, width, depth, heads))
        raise BadInput(
            "model: vit", name, f"has {_describe_sizes(found)}, not {wanted}: pass one that has, or none"
        )
    return net


def get_blocks(vit: Any, /) -> nn.ModuleList:
    """The blocks of a vision transformer, wherever its version of transformers keeps them."""
    found = getattr(vit, "layers", None)
    return vit.encoder.layer if found is None else found


def _describe_sizes(found: tuple[int, ...]) -> str:
    return "{} places, width {}, {} blocks, {} heads".format(*found)


def _import_transformers(feature: str) -> Any:
    try:
        import transformers
    except ModuleNotFoundError as problem:
        raise MissingExtra(feature, "transformers", "learn") from problem
    return transformers


def _load_pretrained_weights(kind: Any, name: str, place: str, **knobs: Any) -> Any:
    """A network with pretrained weights, none of them missing."""
    from safetensors import SafetensorError

    local = Path(name).is_dir()
    options = {"use_safetensors": True, "output_loading_info": True}
    try:
        with _hide_progress_bars():
            net, report = kind.from_pretrained(name, local_files_only=local, **options, **knobs)
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise BadInput(place, name, "cannot be loaded: pass a local directory, or none") from problem
    if report["missing_keys"]:
        fix = f"lacks {sorted(report['missing_keys'])[0]}: pass a directory of such a network, or none"
        raise BadInput(place, name, fix)
    return net


@contextmanager
def _hide_progress_bars() -> Iterator[None]:
    """Hide the progress bars of transformers."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
