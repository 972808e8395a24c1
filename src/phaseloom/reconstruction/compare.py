"""Two results of the same object side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from phaseloom import plot
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_plane_wave
from phaseloom.metrics.resolution import register, ring_correlation
from phaseloom.result import Result
from phaseloom.units import LENGTH

__all__ = ["compare", "crop_to_common_field", "find_result"]


def compare(first: Path, second: Path, picture: Path, /) -> list[str]:
    """Ring correlation, phase difference and differing settings, as lines; draws the picture."""
    a = Result.load(find_result(first))
    b = Result.load(find_result(second))
    if not np.allclose(a.pixel, b.pixel, rtol=1e-3):
        both = f"{LENGTH.show(a.pixel[0])} and {LENGTH.show(b.pixel[0])}"
        raise BadInput(
            "compare", both, "are different object pixels: reconstruct both on the same detector window"
        )
    one, two = register(*crop_to_common_field(a, b))
    correlation = ring_correlation(one, two, pixel=a.pixel)
    difference = np.angle(one * np.conj(two))
    likeness = abs(np.vdot(one - one.mean(), two - two.mean()))
    likeness /= float(np.linalg.norm(one - one.mean()) * np.linalg.norm(two - two.mean())) + 1e-30
    plot.save(plot.comparison(a, b, correlation), picture)
    lines = [
        f"compared field:                      {one.shape[0]} x {one.shape[1]} pixels",
        f"correlation:                         {likeness:.3f}",
        f"resolution (half-bit, full period):  {_format_length(correlation.resolution('half-bit'))}",
        f"resolution (1/7, full period):       {_format_length(correlation.resolution('one-seventh'))}",
        f"phase difference, rms:               {float(np.sqrt((difference**2).mean())):.4f} rad",
    ]
    lines += [
        f"error bar of the {name}:{' ' * (22 - len(name))}{one.uncertainty}"
        for name, one in (("first", a), ("second", b))
        if one.uncertainty is not None
    ]
    if likeness < 0.5:
        lines.append(
            "NOTE the pictures hardly agree: is one of them transposed, flipped or of another place?"
        )
    lines += [
        f"{name}: {a.metrics[name]:.4g} against {b.metrics[name]:.4g}"
        for name in a.metrics
        if name in b.metrics
    ]
    lines += [
        f"setting {path}: {x!r} against {y!r}"
        for path, x, y in _differences(yaml.safe_load(a.recipe), yaml.safe_load(b.recipe))
    ]
    return [*lines, f"picture: {picture}"]


def find_result(path: Path, /) -> Path:
    """The result of a run folder, or the file itself.

    Raises:
        BadInput: a folder without a result.
    """
    if not path.is_dir():
        return path
    if not (path / "result.h5").is_file():
        raise BadInput(str(path), None, "is a folder without a result.h5: give that of a finished run")
    return path / "result.h5"


def crop_to_common_field(a: Result, b: Result, /) -> tuple[np.ndarray, np.ndarray]:
    """Complex projections (product of slices) of the field that both scanned, on whole pixels.

    Raises:
        BadInput: the scans do not overlap.
    """
    places = [np.round(np.array(r.origin) / np.array(r.pixel)).astype(int) for r in (a, b)]
    ends = [
        [(w.start + o, w.stop + o) for w, o in zip(r.window, p, strict=True)]
        for r, p in zip((a, b), places, strict=True)
    ]
    box = [(max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(*ends, strict=True)]
    if any(stop - start < 24 for start, stop in box):
        raise BadInput("compare", None, "the two results share too little of the field to be compared")
    cut = []
    for r, p in zip((a, b), places, strict=True):
        whole = np.prod(remove_plane_wave(r.object, r.coverage_mask.astype(float)), axis=0)
        cut.append(whole[tuple(slice(start - o, stop - o) for (start, stop), o in zip(box, p, strict=True))])
    return cut[0], cut[1]


def _format_length(length: float) -> str:
    return LENGTH.show(float(length)) if np.isfinite(length) else "none: the correlation never reaches it"


def _differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if path or key not in ("file", "found", "version")]
        return [
            row for key in keys for row in _differences(a.get(key), b.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if a == b else [(path, a, b)]
