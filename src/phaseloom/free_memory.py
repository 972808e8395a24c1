"""How much memory this process may still take, looked at before it is taken."""

import sys
from pathlib import Path

from phaseloom.errors import BadInput

__all__ = ["measure_free_memory", "require_memory"]

_SYSTEM_MEMORY = Path("/proc/meminfo")
_PROCESS_STATUS = Path("/proc/self/status")

SMALL = 64_000_000
"""Bytes that are taken without looking."""


def measure_free_memory() -> float | None:
    """Bytes that the computer, and limits of this process (``ulimit``), leave; ``None``: not known."""
    found = [_read_kibibytes(_SYSTEM_MEMORY, "MemAvailable")] if _SYSTEM_MEMORY.exists() else []
    if sys.platform != "win32" and _PROCESS_STATUS.exists():
        import resource

        for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            most = resource.getrlimit(limit)[0]
            if most != resource.RLIM_INFINITY:
                found.append(most - _read_kibibytes(_PROCESS_STATUS, used))
    return max(0.0, min(found)) if found else None


def require_memory(size: float, place: str, /) -> None:
    """Refuse to take more memory than is free.

    Args:
        size: bytes that will be taken.
        place: what takes them, for the message.

    Raises:
        BadInput: not so much is free.

    Example:
        >>> require_memory(1e18, "scan.npz: patterns")
        Traceback (most recent call last):
        phaseloom.errors.BadInput: scan.npz: patterns: needs 1e+09 GB of memory, but ... GB are free: ...
    """
    if size <= SMALL:
        return
    free = measure_free_memory()
    if free is not None and size > free:
        fix = f"needs {size / 1e9:.3g} GB of memory, but {free / 1e9:.3g} GB are free: close other programs"
        raise BadInput(place, None, f"{fix}, raise the limit (ulimit), or take less")


def _read_kibibytes(path: Path, name: str) -> float:
    lines = path.read_text().splitlines()
    return 1024.0 * next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
