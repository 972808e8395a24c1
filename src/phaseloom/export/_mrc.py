"""MRC files of 2014, the images of cryo-electron microscopy (https://www.ccpem.ac.uk/mrc_format)."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from phaseloom.data.signals import Axis, Signal, Signals
from phaseloom.errors import BadInput
from phaseloom.export.sources import Exportable, choose_image, resolve_path, to_signals
from phaseloom.files import whole_buffer
from phaseloom.version import __version__

__all__ = ["mrc"]

MODES = {"f": 2, "c": 4}
"""Of float32 and complex64."""

FORMAT_VERSION = 20141
LITTLE_ENDIAN = b"\x44\x44\x00\x00"
LABELS = 10
LABEL_SIZE = 80


def mrc(source: Exportable, path: str | os.PathLike[str], /, *, of: str | None = None) -> Path:
    """Write one image, or a stack of slices or modes, with its cell in angstrom.

    Values are float32 (mode 2), of waves complex64 (mode 4). The first row of the array comes first in the
    file: programs that draw ``y`` upwards show it at the bottom. The header's ten labels say what it is.

    Args:
        source: a result, or images.
        path: the file, or a folder, in which it becomes ``phase.mrc``, or whatever ``of`` is.
        of: ``phase`` (summed over slices, radian of ``exp(+i phase)``), ``phase_slices``, ``amplitude``,
            ``object``, ``probe``, ``sigma`` or ``coverage`` of a result; default: the first image.

    Returns:
        The file.

    Raises:
        BadInput: a scan, an image that is not there, or more than three axes.

    Example:
        >>> axes = (Axis("y", 0.5, 0.0, "A"), Axis("x", 0.4, 0.0, "A"))
        >>> one = Signal("phase", np.ones((2, 3)), axes, "rad")
        >>> mrc(Signals("flat", (one,)), "one.mrc").stat().st_size
        1048
    """
    signals = to_signals(source)
    signal = choose_image(signals, of, "export.mrc")
    path = resolve_path(path, f"{signal.name}.mrc")
    values = np.asarray(signal.values)
    if values.ndim not in (2, 3):
        raise BadInput("export.mrc: of", f"{signal.name} {values.shape}", "does not have two or three axes")
    axes = signal.axes if values.ndim == 3 else (Axis("slice"), *signal.axes)
    stack = np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]))
    stack = stack.astype("<c8" if signal.is_complex else "<f4")
    with whole_buffer(path) as file:
        _write_header(file, stack, axes, _labels(signal, signals), is_volume=axes[0].unit == "A")
        file.write(stack.data)
    return path


def _labels(signal: Signal, signals: Signals) -> list[str]:
    """Ten lines of 80 characters: what, by whom, and of the metadata what there is room for."""
    unit = f" ({signal.unit})" if signal.unit else ""
    lines = [f"Phaseloom {__version__}: {signal.title or signal.name}{unit}", signals.title]
    if signals.energy is not None:
        lines.append(f"{signals.beam}s of {signals.energy / 1e3:.6g} keV")
    lines += [f"{name}: {text}" for name, text in signals.metadata.items() if name != "title"]
    return lines[:LABELS]


def _write_header(
    file: BinaryIO, stack: np.ndarray, axes: tuple[Axis, ...], labels: list[str], *, is_volume: bool
) -> None:
    """The 1024 bytes; the cell is size times step, x first; a stack of single images has space group 0."""
    sections, rows, columns = stack.shape
    lengths = [a.step * n if a.unit == "A" else float(n) for a, n in zip(axes, stack.shape, strict=True)]
    starts = [a.start if a.unit == "A" else 0.0 for a in axes]
    space_group = int(is_volume and sections > 1)
    low, high, mean, rms = _measure_values(stack)
    header = struct.pack("<4i", columns, rows, sections, MODES[stack.dtype.kind])
    header += struct.pack("<3i", 0, 0, 0)
    header += struct.pack("<3i", columns, rows, sections if space_group else 1)
    depth = lengths[0] if space_group else 1.0
    header += struct.pack("<6f", lengths[2], lengths[1], depth, 90.0, 90.0, 90.0)
    header += struct.pack("<3i", 1, 2, 3)
    header += struct.pack("<3f", low, high, mean)
    header += struct.pack("<2i", space_group, 0)
    header += bytes(8) + bytes(4) + struct.pack("<i", FORMAT_VERSION) + bytes(84)
    header += struct.pack("<3f", starts[2], starts[1], starts[0])
    header += b"MAP " + LITTLE_ENDIAN + struct.pack("<f", rms) + struct.pack("<i", len(labels))
    text = b"".join(_fit_label(line) for line in labels).ljust(LABELS * LABEL_SIZE, b"\0")
    file.write(header + text)


def _measure_values(stack: np.ndarray) -> tuple[float, float, float, float]:
    """Lowest, highest, mean and rms deviation of real values; else the standard's marks for not known."""
    known = stack[np.isfinite(stack)]
    if stack.dtype.kind == "c" or not known.size:
        return 0.0, -1.0, -2.0, -1.0
    return (
        float(known.min()),
        float(known.max()),
        float(known.mean(dtype=float)),
        float(known.std(dtype=float)),
    )


def _fit_label(line: str) -> bytes:
    """A line as 80 characters of ASCII."""
    plain = " ".join(line.split()).encode("ascii", "replace")
    return plain[:LABEL_SIZE].ljust(LABEL_SIZE)
