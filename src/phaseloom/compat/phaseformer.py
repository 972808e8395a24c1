"""For people who come from the training guide of Phaseformer: its flags in our words, its checkpoints told.

What the guide's program does otherwise than it says is not repeated: `flags` names each flag that means
something else here, in a sentence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from phaseloom.errors import BadInput

__all__ = ["Policy", "checkpoint", "flags", "schedule"]

Policy = Literal["lambda", "step", "plateau", "cosine", "onecycle"]

NITER, NITER_DECAY = 50, 500
"""Epochs of the guide, at the full rate and while it falls; there is one more."""

SIZES = {
    1_783_800: "the network of the guide with two outputs (Phaseformer)",
    1_779_189: "the network of the guide with two outputs (Phaseformer), without its idle parts",
    2_530_193: "the older network with one output (final_model_AGSSF1)",
}
"""Networks by how many parameters they have."""


def schedule(policy: Policy, niter: int, niter_decay: int, /) -> dict[str, Any]:
    """The epochs and the shape of the rate that a policy means, as settings of `phaseloom.restoration.train`.

    Args:
        policy: ``lambda``: the full rate for ``niter`` epochs and one, then down in a line for
            ``niter_decay``; ``step``: a tenth after each 50 epochs; ``plateau``: a fifth after 5 epochs
            without a better validation; ``cosine``: half a cosine over the run; ``onecycle``.
        niter: epochs.
        niter_decay: more of them.

    Raises:
        BadInput: numbers of epochs below zero.

    Example:
        >>> schedule("lambda", 50, 500)["epochs"]
        551
    """
    for flag, value in {"--niter": niter, "--niter_decay": niter_decay}.items():
        if value < 0:
            raise BadInput(flag, value, "must be a number of epochs, 0 or more")
    epochs = niter + niter_decay + 1
    shapes: dict[Policy, Any] = {
        "lambda": {"linear_decay": {"hold": niter, "decay": niter_decay}},
        "step": {"step": {"every": 50}},
        "plateau": {"plateau": {"of": "holdout", "factor": 0.2, "patience": 5}},
        "cosine": {"cosine": {"hold": 0.0, "floor": 0.0}},
        "onecycle": "one_cycle",
    }
    if policy not in shapes:
        raise BadInput("--lr_policy", policy, f"is none: choose one of {', '.join(shapes)}")
    return {"epochs": epochs, "shape": shapes[policy]}


def flags(given: Mapping[str, Any], /) -> tuple[dict[str, Any], list[str]]:
    """Settings of a training from flags of the guide that were given, and what differs, in sentences.

    Args:
        given: by name without dashes; ``None`` where a flag was left out.

    Raises:
        BadInput: a flag that would do harm.

    Example:
        >>> flags({"lr": 1e-4, "threads": 4, "output_dir": "images"})[0]
        {'rate': 0.0001, 'threads': 4}
    """
    known = {name: value for name, value in given.items() if value is not None}
    if known.get("epoch_count"):
        fix = "is not needed: --resume goes on with schedule, optimiser and seed; leave it out"
        raise BadInput("--epoch_count", known["epoch_count"], fix)
    names = {"batch_size": "batch", "lr": "rate", "threads": "threads", "seed": "seed"}
    settings = {ours: known[theirs] for theirs, ours in names.items() if theirs in known}
    if "dataset_path" in known:
        settings["data"] = [str(path) for path in known["dataset_path"]]
    if "beta1" in known:
        settings["optimizer"] = {"adam": {"momentum": known["beta1"], "memory": 0.999}}
    if known.get("cuda"):
        settings["device"] = "cuda"
    if {"lr_policy", "niter", "niter_decay"} & {*known}:
        epochs = (known.get("niter", NITER), known.get("niter_decay", NITER_DECAY))
        settings |= schedule(known.get("lr_policy", "lambda"), *epochs)
    return settings, [NOTES[name] for name in NOTES if name in known]


NOTES = {
    "test_batch_size": "--test_batch_size is not needed: pairs that judge are restored one by one",
    "checkpoint_dir": "--checkpoint_dir: the run keeps its checkpoint in its own folder, see --out",
    "output_dir": "--output_dir: pictures are left in the folder of the run, see --out",
}
"""Flags that are taken and mean nothing here."""


def checkpoint(path: Path, /) -> None:
    """Refuse what the guide's programs saved, in words; anything else is left to others.

    Nothing is unpickled but tensors.

    Raises:
        BadInput: a file of PyTorch.
    """
    if not path.is_file() or path.suffix not in (".pth", ".pt", ".ckpt", ".bin"):
        return
    raise BadInput("--resume", str(path), _told(path))


def _told(path: Path) -> str:
    """What a file of PyTorch holds, and what to do instead."""
    import pickle

    import torch

    anew = "its layers are not those of this package: train anew, which --resume FOLDER can go on with"
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        return f"is damaged or a whole pickled program, whose code would run if it were opened; {anew}"
    if isinstance(held, Mapping):
        inner = next((held[key] for key in ("state_dict", "model", "net_g", "params") if key in held), held)
        tensors = [value for value in dict(inner).values() if isinstance(value, torch.Tensor)]
        count = sum(value.numel() for value in tensors)
        what = SIZES.get(count, f"weights of {count:,} numbers")
        return f"holds {what}, saved by another program, without optimiser and schedule; {anew}"
    return f"holds no weights; {anew}"
