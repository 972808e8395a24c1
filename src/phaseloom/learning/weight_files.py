"""Weight files of networks: written with the call that built the network, and read without running code.

A weight file is a safetensors file whose metadata hold, as JSON, the call that built the network, so that
`load_network` builds it again before it fills it. Nothing is unpickled, and nothing is downloaded unless its
name was given.
"""

import functools
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from phaseloom.documents import parse_json
from phaseloom.errors import BadInput, MissingExtra, nearest
from phaseloom.files import write_bytes

__all__ = ["BUILDERS", "BuilderCall", "find_network", "hash_network", "load_card"]
__all__ += ["list_shipped", "load_network", "record_builder", "require_checksum", "save_network"]

# The call that built a network: the public name of its builder (a key of `BUILDERS`) and its arguments.
BuilderCall = tuple[str, dict[str, Any]]

# Public names of the builders of networks, as weight files hold them, and where each is defined. A file
# keeps its name for ever; the place may change from version to version.
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
    "unrolled": "phaseloom.retrieval.networks.unrolled:unrolled",
}

# Builders as files of version 0.1 name them: by the path of a module, as it was then.
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

CHECKSUM_FILE = "SHA256SUMS"  # of networks that come with the package
NETWORK_FILE = "net.safetensors"  # name of the file where a folder is given
# Arguments that name pretrained weights: a weight file holds their trained values.
PRETRAINED_ARGUMENTS = ("resnet", "vit")

Knobs = ParamSpec("Knobs")
Net = TypeVar("Net", bound=nn.Module)


def record_builder(name: str, /) -> Callable[[Callable[Knobs, Net]], Callable[Knobs, Net]]:
    """Decorate a builder so that the network keeps its call, as ``recipe``, and draws weights from ``seed``.

    The random state of the process is left as it was.

    Args:
        name: public name of the builder, a key of `BUILDERS` for networks that can be saved.

    Example:
        >>> @record_builder("line")
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
            _require_sizes(name, call.arguments)
            with torch.random.fork_rng(devices=[]), _name_allocation(name):
                torch.default_generator.manual_seed(call.arguments.get("seed", 0))
                net = builder(*call.args, **call.kwargs)
            net.recipe = (name, dict(call.arguments))  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            return net

        return build

    return decorate


MAX_SIZE = 65536
"""Largest width, number of channels, or pixels along an edge, of a network."""

MAX_LAYERS = 256
LAYER_COUNTS = ("depth", "blocks", "refine")
"""Knobs that count layers."""


def _require_sizes(network: str, arguments: Mapping[str, Any]) -> None:
    """Refuse numbers that no network has, before memory is taken."""
    for name, value in arguments.items():
        if name == "seed" and not isinstance(value, int):
            raise BadInput(f"{network}: seed", value, "must be a whole number")
        many = value if isinstance(value, list | tuple) else (value,)
        most = MAX_LAYERS if name in LAYER_COUNTS else 2**63 - 1 if name == "seed" else MAX_SIZE
        for one in many:
            if isinstance(one, int) and not 0 <= one <= most:
                raise BadInput(f"{network}: {name}", one, f"must lie between 0 and {most}")


@contextmanager
def _name_allocation(network: str) -> Iterator[None]:
    """Memory that a network cannot have is a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "alloc" not in str(problem):
            raise
        fix = "needs more memory than is free: give it a smaller width or depth"
        raise BadInput(f"network {network}", None, fix) from problem


def save_network(net: nn.Module, path: Path | str, content: dict[str, Any] | None = None, /) -> Path:
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
        >>> file = save_network(overlap(weight="flat"), "stitch.safetensors", {"step": "2 A"})
        >>> load_network(file).recipe[1], load_card(file)["step"]
        ({'weight': 'flat'}, '2 A')
    """
    _require_safetensors()
    from safetensors.torch import save

    recipe = getattr(net, "recipe", None)
    if not isinstance(recipe, tuple):
        raise BadInput("model: save", type(net).__name__, "has no recipe: make it with a builder of nets")
    metadata = {**_recipe_to_json(recipe), "card": dict(content or {}), "torch": torch.__version__}
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    weights = {name: value.clone() for name, value in weights.items()}
    write_bytes(_get_file(path), save(weights, metadata={"phaseloom": json.dumps(metadata)}))
    return _get_file(path)


def load_network(path: Path | str, /) -> nn.Module:
    """The network of a file, as it was saved, on the CPU and in evaluation mode.

    Args:
        path: the file, or its folder.

    Raises:
        BadInput: a file that is missing, damaged or not written by phaseloom.
        MissingExtra: without safetensors.
    """
    metadata, weights = _read_file(Path(path), weights=True)
    expected = sum(tensor.numel() for tensor in weights.values())
    net = _build_network(metadata, str(path), expected)
    try:
        net.load_state_dict(weights)
    except RuntimeError as problem:
        raise _other_network(str(path)) from problem
    _require_usable(weights, str(path))
    return net.eval()


def _other_network(path: str) -> BadInput:
    fix = "does not fit the network that it names: it was written by another version of phaseloom or"
    return BadInput("network", path, f"{fix} transformers, train it again or go back")


def _require_usable(weights: Mapping[str, torch.Tensor], path: str) -> None:
    """Refuse weights with which everything becomes NaN, or nothing."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            fix = f"holds weights that are not finite ({name}): it is damaged, or its training diverged"
            raise BadInput("network", path, fix)
    real = [tensor for tensor in weights.values() if tensor.is_floating_point()]
    if real and not any(bool(tensor.any()) for tensor in real):
        raise BadInput("network", path, "holds weights that are all zero: it is damaged, or not trained")


def require_checksum(path: Path, /) -> None:
    """Refuse a network of the package that is not the one that was published.

    Its SHA-256 is held against the file ``SHA256SUMS`` beside it; other files are let pass.

    Raises:
        BadInput: another file under its name.
    """
    sums = path.parent / CHECKSUM_FILE
    if path not in list_shipped().values():
        return
    lines = [line.split() for line in sums.read_text("utf-8").splitlines()]
    known = {name: checksum for checksum, name in lines}
    if known.get(path.name) != hashlib.sha256(path.read_bytes()).hexdigest():
        fix = f"is not the network of the package ({CHECKSUM_FILE}): install the package again"
        raise BadInput("network", str(path), fix)


def load_card(path: Path | str, /) -> dict[str, Any]:
    """What was written on the card of a file; errors as of `load_network`."""
    return _read_file(Path(path), weights=False)[0]["card"]


def list_shipped(system: str = "*", /) -> dict[str, Path]:
    """Networks that come with the package, by name; of all systems, or of one (``"retrieval"``)."""
    package = Path(__file__).parent.parent
    return {path.stem: path for path in sorted(package.glob(f"{system}/weights/*.safetensors"))}


def find_network(model: str | Path, /, system: str = "*") -> Path:
    """The file of a network: one that comes with the package, by name, or one of one's own.

    Args:
        model: name or path.
        system: whose networks an unknown name is compared with, as of `list_shipped`.

    Raises:
        BadInput: neither.

    Example:
        >>> find_network("no such network")
        Traceback (most recent call last):
        phaseloom.errors.BadInput: model: no such network is neither a file ...
    """
    known = list_shipped()
    if str(model) in known:
        return known[str(model)]
    path = Path(model)
    ours = "give a .safetensors file that phaseloom has written"
    if not path.exists():
        offered = list_shipped(system)
        way = nearest(str(model), offered) if offered else ours
        raise BadInput("model", str(model), f"is neither a file nor a model of the package: {way}")
    if path.is_dir() and not (path / NETWORK_FILE).is_file():
        raise BadInput(
            "model", str(model), f"is a folder without a {NETWORK_FILE}: name the folder of a training"
        )
    if path.is_file() and path.suffix != ".safetensors":
        raise BadInput("model", str(model), f"is not a network file: {ours}")
    return path


def hash_network(model: str | Path, /) -> str:
    """A hash of a network's file, which tells it from another of the same name.

    Args:
        model: see `find_network`, whose errors it raises.
    """
    path = find_network(model)
    weights = path / NETWORK_FILE if path.is_dir() else path
    return hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()


def _recipe_to_json(recipe: BuilderCall) -> dict[str, Any]:
    """A recipe as metadata hold it; an argument may be a recipe of its own."""
    name, knobs = recipe
    parts = {key for key, value in knobs.items() if isinstance(value, tuple) and isinstance(value[-1], dict)}
    return {
        "network": name,
        "knobs": {key: _recipe_to_json(value) if key in parts else value for key, value in knobs.items()},
    }


def _build_network(metadata: dict[str, Any], path: str, expected: int) -> nn.Module:
    """The network that metadata describe.

    Only builders of the table are ever imported: a file must not choose what code runs. The network is built
    without memory for its weights first, so that a file cannot ask for more of them than it has.

    Args:
        metadata: of the file.
        path: of the file, for messages.
        expected: weights in the file.
    """
    name = _builder_name(metadata)
    foreign = BadInput("network", path, f"names the network {name}, which this version does not have")
    if name not in BUILDERS:
        raise foreign
    module, _, function = BUILDERS[name].partition(":")
    knobs = {key: _read_argument(key, value, path, expected) for key, value in metadata["knobs"].items()}
    builder = getattr(importlib.import_module(module), function)
    try:
        with torch.device("meta"):
            count = sum(tensor.numel() for tensor in builder(**knobs).state_dict().values())
        if count > expected:
            raise _other_network(path)
        return builder(**knobs)
    except BadInput:
        raise
    except TypeError as problem:
        raise foreign from problem
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, ValueError) as problem:
        said = " ".join(str(problem).split())[:120]
        raise BadInput("network", path, f"asks for a {name} that cannot be built ({said})") from problem


def _builder_name(metadata: dict[str, Any]) -> str:
    """The public name of a builder, also in files of version 0.1, which name a module instead."""
    if "network" in metadata:
        return str(metadata["network"])
    old = f"{metadata.get('room')}.{metadata.get('builder')}"
    return BUILDERS_BEFORE_0_2.get(old, old)


def _read_argument(name: str, value: Any, path: str, expected: int) -> Any:
    if name in PRETRAINED_ARGUMENTS:
        return None
    if isinstance(value, list):
        return tuple(value)
    nested = isinstance(value, dict) and ("network" in value or "builder" in value)
    return _build_network(value, path, expected) if nested else value


def _read_file(path: Path, *, weights: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The metadata of a file, and its tensors."""
    _require_safetensors()
    from safetensors import SafetensorError, safe_open

    file = _get_file(path)
    if not file.is_file():
        lack = (
            f"is a folder without {NETWORK_FILE}"
            if path.is_dir()
            else "is not a network that phaseloom has saved"
        )
        raise BadInput("network", str(path), lack if path.exists() else "does not exist")
    require_checksum(file)
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get("phaseloom", "")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()} if weights else {}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError, KeyError, AttributeError, RuntimeError) as problem:
        fix = "is damaged, or no file of weights: pass one that phaseloom has saved"
        raise BadInput("network", str(file), fix) from problem
    metadata = _read_metadata(text)
    if metadata is None:
        fix = "does not say how its network is built: pass one that phaseloom has saved"
        raise BadInput("network", str(file), fix)
    return metadata, tensors


def _read_metadata(text: str) -> dict[str, Any] | None:
    """What metadata say, if that is all that must be said."""
    try:
        metadata = parse_json(text, "metadata")
    except BadInput:
        return None
    if not isinstance(metadata, dict):
        return None
    kinds = {"network": str} if "network" in metadata else {"room": str, "builder": str}
    kinds |= {"knobs": dict, "card": dict}
    complete = all(isinstance(metadata.get(key), kind) for key, kind in kinds.items())
    return metadata if complete else None


def _get_file(path: Path | str) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / NETWORK_FILE


def _require_safetensors() -> None:
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as problem:
        raise MissingExtra("model: weights in files", "safetensors", "learn") from problem
