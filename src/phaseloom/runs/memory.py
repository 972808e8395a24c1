"""How much memory this process and its tensors hold, and have held at most."""

import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from phaseloom.free_memory import measure_free_memory

__all__ = ["Ledger", "available", "forget_highest", "highest", "resident", "tensors"]

_PROCESS_STATUS = Path("/proc/self/status")


class Ledger(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is entered, gradients' included.

    A storage counts once however many tensors look at it, from its making until it is freed. What a
    kernel needs for itself is not seen.

    Attributes:
        now: bytes alive.
        most: the highest value of ``now``.

    Example:
        >>> with Ledger() as ledger:
        ...     total = (torch.ones(1000) + torch.ones(1000)).sum()
        >>> ledger.most, ledger.now
        (12000, 4)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note what an operation takes and gives."""
        kwargs = kwargs or {}
        self._note((args, kwargs), new=False)
        out = func(*args, **kwargs)
        self._note(out, new=True)
        return out

    def _note(self, tree: Any, *, new: bool) -> None:
        for tensor in tree_iter(tree):
            if isinstance(tensor, Tensor):
                self._enter(tensor.untyped_storage(), new)

    def _enter(self, storage: Any, new: bool) -> None:
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes() if new else 0

        def forget(_: Any) -> None:
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, forget)
        self.now += size
        self.most = max(self.most, self.now)


def tensors(tree: Any, /) -> int:
    """Bytes of all tensors in nested containers.

    Example:
        >>> tensors({"a": [torch.ones(2), torch.ones(3)], "b": 1.0})
        20
    """
    return sum(x.numel() * x.element_size() for x in tree_iter(tree) if isinstance(x, Tensor))


def highest() -> float:
    """Largest resident set of this process so far, or since `forget_highest`, bytes."""
    if _PROCESS_STATUS.exists():
        return _kibibytes(_PROCESS_STATUS, "VmHWM")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)


def resident() -> float:
    """Resident set of this process now, bytes."""
    return _kibibytes(_PROCESS_STATUS, "VmRSS") if _PROCESS_STATUS.exists() else highest()


def forget_highest() -> None:
    """Let `highest` start anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def available() -> float | None:
    """Memory that this computer and the limits of this process leave, bytes; ``None``: not known."""
    return measure_free_memory()


def _kibibytes(path: Path, name: str) -> float:
    lines = path.read_text().splitlines()
    return 1024.0 * next(float(line.split()[1]) for line in lines if line.startswith(name))
