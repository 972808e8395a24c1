"""Weights: those of others to start from, and files of ours that are read without running their code.

A file of ours is a safetensors file whose metadata hold, as JSON, the call that built the network, so that
`load` builds it again before it fills it. Nothing is unpickled, and nothing is fetched from anywhere unless
its name was given.
"""

import functools
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from phaseloom.errors import BadInput, MissingExtra, nearest
from phaseloom.files import whole

__all__ = [
    "BUILDERS",
    "Recipe",
    "blocks",
    "card",
    "find",
    "fingerprint",
    "load",
    "recorded",
    "residual",
    "save",
]
__all__ += ["shipped", "transformer"]

Recipe = tuple[str, dict[str, Any]]
"""The call that built a network: the public name of its builder (a key of `BUILDERS`) and its arguments."""

BUILDERS = {
    "agssf1": "phaseloom.restoration.networks.agssf1:agssf1",
    "autoencoder": "phaseloom.embedding.networks.autoencoder:Autoencoder",
    "autoencoder.pca": "phaseloom.embedding.networks.autoencoder:pca",
    "autoencoder.recommended": "phaseloom.embedding.networks.autoencoder:recommended",
    "autoencoder.seed": "phaseloom.embedding.networks.autoencoder:seed",
    "end_to_end": "phaseloom.retrieval.networks.end_to_end:EndToEnd",
    "linear": "phaseloom.retrieval.networks.linear:linear",
    "phaseformer": "phaseloom.restoration.networks.phaseformer:phaseformer",
    "phaseformer.narrow": "phaseloom.restoration.networks.phaseformer:narrow",
    "phaseformer.recommended": "phaseloom.restoration.networks.phaseformer:recommended",
    "recovery.base": "phaseloom.retrieval.networks.recovery:base",
    "recovery.seed": "phaseloom.retrieval.networks.recovery:seed",
    "recovery.small": "phaseloom.retrieval.networks.recovery:small",
    "stitching.overlap": "phaseloom.retrieval.networks.stitching:overlap",
    "stitching.residual": "phaseloom.retrieval.networks.stitching:residual",
    "stitching.seed": "phaseloom.retrieval.networks.stitching:seed",
    "tiny": "phaseloom.retrieval.networks.tiny:tiny",
}
"""Public names of the builders of networks, as weight files hold them, and where each is defined.

A file keeps its name for ever; the place may change from version to version.
"""

BUILDERS_BEFORE_0_2 = {
    "phaseloom.nets.agssf.agssf1": "agssf1",
    "phaseloom.nets.autoencoder.Autoencoder": "autoencoder",
    "phaseloom.nets.autoencoder.pca": "autoencoder.pca",
    "phaseloom.nets.autoencoder.recommended": "autoencoder.recommended",
    "phaseloom.nets.autoencoder.seed": "autoencoder.seed",
    "phaseloom.nets.endtoend.EndToEnd": "end_to_end",
    "phaseloom.nets.linear.linear": "linear",
    "phaseloom.nets.phaseformer.narrow": "phaseformer.narrow",
    "phaseloom.nets.phaseformer.phaseformer": "phaseformer",
    "phaseloom.nets.phaseformer.recommended": "phaseformer.recommended",
    "phaseloom.nets.recovery.base": "recovery.base",
    "phaseloom.nets.recovery.seed": "recovery.seed",
    "phaseloom.nets.recovery.small": "recovery.small",
    "phaseloom.nets.stitching.overlap": "stitching.overlap",
    "phaseloom.nets.stitching.residual": "stitching.residual",
    "phaseloom.nets.stitching.seed": "stitching.seed",
    "phaseloom.nets.tiny.tiny": "tiny",
}
"""Builders as files of version 0.1 name them: by the path of a module, as it was then."""

FILE = "net.safetensors"
"""Name of the file where a folder is given."""

STARTS = ("resnet", "vit")
"""Knobs that name weights to start from: a file of ours holds what has become of them."""

FIRST = "embedder.embedder.convolution.weight"

Knobs = ParamSpec("Knobs")
Net = TypeVar("Net", bound=nn.Module)


def recorded(name: str, /) -> Callable[[Callable[Knobs, Net]], Callable[Knobs, Net]]:
    """Decorate a builder so that the network keeps its call, as ``recipe``, and draws weights from ``seed``.

    The random state of the process is left as it was.

    Args:
        name: public name of the builder, a key of `BUILDERS` for networks that can be saved.

    Example:
        >>> @recorded("line")
        ... def line(*, width: int = 2, seed: int = 0):
        ...     return torch.nn.Linear(width, 1)
        >>> line(width=3).recipe, bool((line().weight == line().weight).all())
        (('line', {'width': 3, 'seed': 0}), True)
    """

    def decorate(builder: Callable[Knobs, Net]) -> Callable[Knobs, Net]:
        @functools.wraps(builder)
        def build(*args: Knobs.args, **knobs: Knobs.kwargs) -> Net:
            call = inspect.signature(builder).bind(*args, **knobs)
            call.apply_defaults()
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(call.arguments.get("seed", 0))
                net = builder(*call.args, **call.kwargs)
            net.recipe = (name, dict(call.arguments))  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            return net

        return build

    return decorate


def residual(
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
    hub = _transformers("nets: a ResNet")
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
    state = _fetched(hub.ResNetModel, name, "nets: resnet").state_dict()
    if FIRST in state:
        state[FIRST] = state[FIRST].sum(1, keepdim=True)
    try:
        net.load_state_dict(state)
    except RuntimeError as problem:
        fix = (
            f"is not a ResNet of basic blocks, {list(depths)} of them with {list(widths)} channels: pass one"
        )
        raise BadInput("nets: resnet", name, f"{fix}, or none") from problem
    return net


def transformer(
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
    hub = _transformers("nets: a vision transformer")
    if name is None:
        config = hub.ViTConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            image_size=16 * window,
        )
        return hub.ViTModel(config, add_pooling_layer=False)
    net = _fetched(hub.ViTModel, name, "nets: vit", add_pooling_layer=False)
    found = (*net.embeddings.position_embeddings.shape[1:], len(blocks(net)), net.config.num_attention_heads)
    if found != (window**2 + 1, width, depth, heads):
        wanted = _sizes((window**2 + 1, width, depth, heads))
        raise BadInput("nets: vit", name, f"has {_sizes(found)}, not {wanted}: pass one that has, or none")
    return net


def blocks(vit: nn.Module, /) -> nn.ModuleList:
    """The blocks of a vision transformer, wherever its version of transformers keeps them."""
    found = getattr(vit, "layers", None)
    return vit.encoder.layer if found is None else found  # type: ignore[union-attr, return-value]


def save(net: nn.Module, path: Path | str, content: dict[str, Any] | None = None, /) -> Path:
    """Write a network: its weights and the call that built it.

    Args:
        net: with a ``recipe``, as the builders of networks leave it.
        path: a ``.safetensors`` file, or a folder for one.
        content: of its card: what it was trained on, what it reached. Anything that JSON can say.

    Returns:
        The file.

    Raises:
        BadInput: a network that no builder made.
        MissingExtra: without safetensors.

    Example:
        >>> from phaseloom.retrieval.networks.stitching import overlap
        >>> file = save(overlap(weight="flat"), "stitch.safetensors", {"step": "2 A"})
        >>> load(file).recipe[1], card(file)["step"]
        ({'weight': 'flat'}, '2 A')
    """
    _safetensors()
    from safetensors.torch import save_file

    recipe = getattr(net, "recipe", None)
    if not isinstance(recipe, tuple):
        raise BadInput("nets: save", type(net).__name__, "has no recipe: make it with a builder of nets")
    said = {**_to_json(recipe), "card": dict(content or {}), "torch": torch.__version__}
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    weights = {name: value.clone() for name, value in weights.items()}
    with whole(_file(path)) as short:
        save_file(weights, short, metadata={"phaseloom": json.dumps(said)})
    return _file(path)


def load(path: Path | str, /) -> nn.Module:
    """The network of a file, as it was saved, on the CPU and in evaluation mode.

    Args:
        path: the file, or its folder.

    Raises:
        BadInput: a file that is missing, damaged or not of ours.
        MissingExtra: without safetensors.
    """
    said, weights = _read(Path(path), weights=True)
    net = _build(said, str(path))
    try:
        net.load_state_dict(weights)
    except RuntimeError as problem:
        fix = "does not fit the network that it names: it was written by another version of phaseloom or"
        raise BadInput("nets: load", str(path), f"{fix} transformers, train it again or go back") from problem
    return net.eval()


def card(path: Path | str, /) -> dict[str, Any]:
    """What was written on the card of a file; errors as of `load`."""
    return _read(Path(path), weights=False)[0]["card"]


def shipped() -> dict[str, Path]:
    """Networks that come with the package, by name."""
    package = Path(__file__).parent.parent
    return {path.stem: path for path in sorted(package.glob("*/weights/*.safetensors"))}


def find(model: str | Path, /) -> Path:
    """The file of a network: one that comes with the package, by name, or one of one's own.

    Raises:
        BadInput: neither.

    Example:
        >>> find("no such network")
        Traceback (most recent call last):
        phaseloom.errors.BadInput: model: no such network is neither a file ...
    """
    known = shipped()
    if str(model) in known:
        return known[str(model)]
    path, ours = Path(model), "give a .safetensors file that phaseloom has written"
    if not path.exists():
        way = nearest(str(model), known) if known else ours
        raise BadInput("model", str(model), f"is neither a file nor a model of the package: {way}")
    if path.is_dir() and not (path / FILE).is_file():
        raise BadInput("model", str(model), f"is a folder without a {FILE}: name the folder of a training")
    if path.is_file() and path.suffix != ".safetensors":
        raise BadInput("model", str(model), f"is no file of a network: {ours}")
    return path


def fingerprint(model: str | Path, /) -> str:
    """A hash of a network's file, which tells it from another of the same name.

    Args:
        model: see `find`, whose errors it raises.
    """
    path = find(model)
    weights = path / FILE if path.is_dir() else path
    return hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()


def _sizes(found: tuple[int, ...]) -> str:
    return "{} places, width {}, {} blocks, {} heads".format(*found)


def _to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as metadata hold it; an argument may be a recipe of its own."""
    name, knobs = recipe
    parts = {key for key, value in knobs.items() if isinstance(value, tuple) and isinstance(value[-1], dict)}
    return {
        "network": name,
        "knobs": {key: _to_json(value) if key in parts else value for key, value in knobs.items()},
    }


def _build(said: dict[str, Any], path: str) -> nn.Module:
    """The network that metadata describe.

    Only builders of the table are ever imported: a file must not choose what code runs.
    """
    name = _builder_name(said)
    foreign = BadInput("nets: load", path, f"names the network {name}, which this version does not have")
    if name not in BUILDERS:
        raise foreign
    module, _, function = BUILDERS[name].partition(":")
    knobs = {key: _knob(key, value, path) for key, value in said["knobs"].items()}
    try:
        return getattr(importlib.import_module(module), function)(**knobs)
    except TypeError as problem:
        raise foreign from problem


def _builder_name(said: dict[str, Any]) -> str:
    """The public name of a builder, also in files of version 0.1, which name a module instead."""
    if "network" in said:
        return str(said["network"])
    old = f"{said.get('room')}.{said.get('builder')}"
    return BUILDERS_BEFORE_0_2.get(old, old)


def _knob(name: str, value: Any, path: str) -> Any:
    if name in STARTS:
        return None
    if isinstance(value, list):
        return tuple(value)
    nested = isinstance(value, dict) and ("network" in value or "builder" in value)
    return _build(value, path) if nested else value


def _read(path: Path, *, weights: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a file says of itself, and its tensors."""
    _safetensors()
    from safetensors import SafetensorError, safe_open

    file = _file(path)
    if not file.is_file():
        lack = f"is a folder without {FILE}" if path.is_dir() else "is no network that phaseloom has saved"
        raise BadInput("nets: load", str(path), lack if path.exists() else "does not exist")
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get("phaseloom", "")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()} if weights else {}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        fix = "is damaged, or no file of weights: pass one that phaseloom has saved"
        raise BadInput("nets: load", str(file), fix) from problem
    said = _said(text)
    if said is None:
        fix = "does not say how its network is built: pass one that phaseloom has saved"
        raise BadInput("nets: load", str(file), fix)
    return said, tensors


def _said(text: str) -> dict[str, Any] | None:
    """What metadata say, if that is all that must be said."""
    try:
        said = json.loads(text)
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    kinds = {"network": str} if "network" in said else {"room": str, "builder": str}
    kinds |= {"knobs": dict, "card": dict}
    complete = all(isinstance(said.get(key), kind) for key, kind in kinds.items())
    return said if complete else None


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE


def _safetensors() -> None:
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as problem:
        raise MissingExtra("nets: weights in files", "safetensors", "learn") from problem


def _transformers(feature: str) -> Any:
    try:
        import transformers
    except ModuleNotFoundError as problem:
        raise MissingExtra(feature, "transformers", "learn") from problem
    return transformers


def _fetched(kind: Any, name: str, place: str, **knobs: Any) -> Any:
    """A network with weights of others, all of them found."""
    from safetensors import SafetensorError

    local, options = Path(name).is_dir(), {"use_safetensors": True, "output_loading_info": True}
    try:
        with _quiet():
            net, report = kind.from_pretrained(name, local_files_only=local, **options, **knobs)
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise BadInput(place, name, "cannot be loaded: pass a local directory, or none") from problem
    if report["missing_keys"]:
        fix = f"lacks {sorted(report['missing_keys'])[0]}: pass a directory of such a network, or none"
        raise BadInput(place, name, fix)
    return net


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars from a library inside of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
