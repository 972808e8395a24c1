"""The flags of Phaseformer's training guide as settings of ours, and a refusal of its checkpoints.

`translate_flags` notes each flag that means something else here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from phaseloom.errors import BadInput

__all__ = ["Policy", "refuse_checkpoint", "translate_flags", "translate_schedule"]

Policy = Literal["lambda", "step", "plateau", "cosine", "onecycle"]

EPOCHS_AT_FULL_RATE = 50
EPOCHS_OF_DECAY = 500
"""Defaults of the guide; there is one epoch more."""

NETWORKS_BY_SIZE = {
    1_783_800: "the network of the guide with two outputs (Phaseformer)",
    1_779_189: "the network of the guide with two outputs (Phaseformer), without its idle parts",
    2_530_193: "the older network with one output (final_model_AGSSF1)",
}
"""Networks of the guide by their number of parameters."""


def translate_schedule(policy: Policy, niter: int, niter_decay: int, /) -> dict[str, Any]:
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
        >>> translate_schedule("lambda", 50, 500)["epochs"]
        551
    """
    for flag, value in {"--niter": niter, "--niter_decay": niter_decay}.items():
        if value < 0:
            raise BadInput(flag, value, "must be a number of epochs, 0 or more")
    epochs = niter + niter_decay + 1
    shapes: dict[Policy, Any] = {
        "lambda": {"linear_decay": {"hold": niter, "decay": niter_decay}},
        "step": {"step": {"step_size": 50}},
        "plateau": {"plateau": {"of": "holdout", "factor": 0.2, "patience": 5}},
        "cosine": {"cosine": {"hold": 0.0, "floor": 0.0}},
        "onecycle": "one_cycle",
    }
    if policy not in shapes:
        raise BadInput("--lr_policy", policy, f"is not a policy: choose one of {', '.join(shapes)}")
    return {"epochs": epochs, "shape": shapes[policy]}


def translate_flags(given: Mapping[str, Any], /) -> tuple[dict[str, Any], list[str]]:
    """Settings of a training from flags of the guide that were given, and what differs, in sentences.

    Args:
        given: by name without dashes; ``None`` where a flag was left out.

    Raises:
        BadInput: a flag that would do harm.

    Example:
        >>> translate_flags({"lr": 1e-4, "threads": 4, "output_dir": "images"})[0]
        {'rate': 0.0001, 'threads': 4, 'model': 'phaseformer'}
    """
    known = {name: value for name, value in given.items() if value is not None}
    if known.get("epoch_count"):
        fix = "is not needed: --resume continues schedule, optimiser and seed; leave it out"
        raise BadInput("--epoch_count", known["epoch_count"], fix)
    names = {"batch_size": "batch", "lr": "rate", "threads": "threads", "seed": "seed"}
    settings = {ours: known[theirs] for theirs, ours in names.items() if theirs in known}
    if "dataset_path" in known:
        settings["data"] = [str(path) for path in known["dataset_path"]]
    if "beta1" in known:
        settings["optimizer"] = {"adam": {"betas": [known["beta1"], 0.999]}}
    if known.get("cuda"):
        settings["device"] = "cuda"
    if {"lr_policy", "niter", "niter_decay"} & {*known}:
        epochs = (known.get("niter", EPOCHS_AT_FULL_RATE), known.get("niter_decay", EPOCHS_OF_DECAY))
        settings |= translate_schedule(known.get("lr_policy", "lambda"), *epochs)
    notes = [note for name, note in NOTES_ON_FLAGS.items() if name in known]
    if FLAGS_OF_ITS_TRAINING & {*known}:
        settings["model"] = "phaseformer"
        notes.append(NOTE_ON_NETWORK)
    return settings, notes


FLAGS_OF_ITS_TRAINING = {"batch_size", "niter", "niter_decay", "lr", "lr_policy", "beta1"}
"""Flags that say how the guide's network is trained; the others are of any training."""

NOTE_ON_NETWORK = (
    "these flags train the guide's network, phaseformer; --set model=narrow: one an eighth as large"
)
NOTES_ON_FLAGS = {
    "test_batch_size": "--test_batch_size is not needed: pairs that judge are restored one by one",
    "checkpoint_dir": "--checkpoint_dir: the run keeps its checkpoint in its own folder, see --out",
    "output_dir": "--output_dir: pictures are left in the folder of the run, see --out",
}
"""Flags that are accepted and have no effect here."""


def refuse_checkpoint(path: Path, /) -> None:
    """Refuse a file of PyTorch, as the guide's programs save them; do nothing for any other path.

    Nothing is unpickled but tensors.

    Raises:
        BadInput: a file of PyTorch.
    """
    if not path.is_file() or path.suffix not in (".pth", ".pt", ".ckpt", ".bin"):
        return
    raise BadInput("--resume", str(path), _describe_checkpoint(path))


def _describe_checkpoint(path: Path) -> str:
    """What a file of PyTorch holds, and what to do instead."""
    import pickle

    import torch

    anew = "its layers are not those of this package: train anew, which --resume FOLDER can go on with"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        return f"is damaged or a whole pickled program, whose code would run if it were opened; {anew}"
    if isinstance(saved, Mapping):
        parts = ("state_dict", "model", "net_g", "params")
        inner = next((saved[key] for key in parts if key in saved), saved)
        tensors = [value for value in dict(inner).values() if isinstance(value, torch.Tensor)]
        count = sum(value.numel() for value in tensors)
        what = NETWORKS_BY_SIZE.get(count, f"weights of {count:,} numbers")
        return f"holds {what}, saved by another program, without optimiser and schedule; {anew}"
    return f"holds no weights; {anew}"
