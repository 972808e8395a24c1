"""One image of a result as a TIFF file that ImageJ opens with its scale."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.signals import Signal, Signals
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.export.sources import Exportable, choose_image, resolve_path, to_signals
from phaseloom.files import whole_buffer

__all__ = ["tiff"]

AXES_BY_DIMENSIONS = {2: "YX", 3: "ZYX"}


def tiff(source: Exportable, path: str | os.PathLike[str], /, *, of: str | None = None) -> Path:
    """Write one image, or a stack of slices, as 32-bit float with pixel and distance of slices in nm.

    The metadata of the scan are the image's *Info* in ImageJ. `phaseloom.export.stacks` writes several images
    of a result, in 8 and 16 bit too, and the modes of a probe.

    Args:
        source: a result, or images.
        path: the file, or a folder, in which it becomes ``phase.tif``, or whatever ``of`` is.
        of: ``phase`` (summed over slices, radian of ``exp(+i phase)``), ``phase_slices``, ``amplitude``,
            ``sigma`` or ``coverage`` of a result; default: the first image.

    Returns:
        The file.

    Raises:
        BadInput: a scan, an image that is not there, or complex waves.
        MissingExtra: tifffile is not installed.

    Example:
        >>> from phaseloom.data.signals import Axis
        >>> axes = (Axis("y", 0.5, 0.0, "A"), Axis("x", 0.4, 0.0, "A"))
        >>> one = Signal("phase", np.ones((2, 3)), axes, "rad")
        >>> tiff(Signals("flat", (one,)), "one.tif").name
        'one.tif'
    """
    try:
        import tifffile
    except ImportError:
        raise MissingExtra("export.tiff", "tifffile", "formats") from None
    signals = to_signals(source)
    signal = choose_image(signals, of, "export.tiff")
    if signal.is_complex or signal.values.ndim not in AXES_BY_DIMENSIONS:
        fix = "is not a real image or stack: use of: phase or amplitude, or stacks: {of: [probe]}"
        raise BadInput("export.tiff: of", signal.name, fix)
    path = resolve_path(path, f"{signal.name}.tif")
    height, width = (abs(axis.to("nm").step) or 1.0 for axis in signal.axes[-2:])
    with whole_buffer(path) as buffer:
        tifffile.imwrite(
            buffer,
            np.nan_to_num(np.asarray(signal.values, np.float32), posinf=0.0, neginf=0.0),
            imagej=True,
            resolution=(1 / width, 1 / height),
            metadata=_describe_image(signal, signals),
        )
    return path


def _describe_image(signal: Signal, signals: Signals) -> dict[str, Any]:
    """What ImageJ reads: unit, distance of slices, origin in pixels, and lines of text."""
    lines = [f"title: {signals.title}", f"values: {signal.title or signal.name} {signal.unit}".strip()]
    if signals.energy is not None:
        lines.append(f"energy: {signals.energy / 1e3:.6g} keV ({signals.beam})")
    lines += [f"{name}: {text}" for name, text in signals.metadata.items() if name != "title"]
    y, x = signal.axes[-2:]
    described: dict[str, Any] = {
        "axes": AXES_BY_DIMENSIONS[signal.values.ndim],
        "unit": y.to("nm").unit or "pixel",
    }
    described |= {"xorigin": -x.start / x.step, "yorigin": -y.start / y.step}
    if signal.values.ndim == 3 and signal.axes[0].unit == "A":
        described["spacing"] = signal.axes[0].to("nm").step
    return described | {"Info": "\n".join(lines)}
