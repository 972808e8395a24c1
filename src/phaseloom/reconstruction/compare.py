"""Two results of the same object side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom import plot
from phaseloom.documents import parse_yaml
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_plane_wave
from phaseloom.metrics.resolution import RingCorrelation, register, ring_correlation
from phaseloom.result import Result
from phaseloom.units import LENGTH

__all__ = ["ResultComparison", "compare", "compare_results", "crop_to_common_field", "find_result"]
__all__ += ["list_differences"]


@dataclass(frozen=True, eq=False)
class ResultComparison:
    """Two results of one object over the field that both scanned.

    Attributes:
        first, second: complex projections ``(y, x)``, the first laid on the second.
        pixel: angstrom (y, x).
        correlation: ring correlation of both.
        likeness: their correlation, 0 to 1.
    """

    first: np.ndarray
    second: np.ndarray
    pixel: tuple[float, float]
    correlation: RingCorrelation
    likeness: float

    @property
    def difference(self) -> np.ndarray:
        """Phase of the first less that of the second ``(y, x)``, radian."""
        return np.angle(self.first * np.conj(self.second))

    @property
    def difference_rms(self) -> float:
        """Of the phase, radian."""
        return float(np.sqrt((self.difference**2).mean()))


def compare_results(a: Result, b: Result, /) -> ResultComparison:
    """Lay one result on another and correlate them ring by ring.

    Raises:
        BadInput: other pixels, or too little of the field in common.
    """
    if not np.allclose(a.pixel, b.pixel, rtol=1e-3):
        both = f"{LENGTH.show(a.pixel[0])} and {LENGTH.show(b.pixel[0])}"
        raise BadInput(
            "compare", both, "are different object pixels: reconstruct both on the same detector window"
        )
    one, two = register(*crop_to_common_field(a, b))
    likeness = abs(np.vdot(one - one.mean(), two - two.mean()))
    likeness /= float(np.linalg.norm(one - one.mean()) * np.linalg.norm(two - two.mean())) + 1e-30
    return ResultComparison(one, two, a.pixel, ring_correlation(one, two, pixel=a.pixel), float(likeness))


def compare(first: Path, second: Path, picture: Path, /) -> list[str]:
    """Ring correlation, phase difference and differing settings, as lines; draws the picture."""
    a = Result.load(find_result(first))
    b = Result.load(find_result(second))
    found = compare_results(a, b)
    correlation = found.correlation
    plot.save(plot.comparison(a, b, correlation), picture)
    lines = [
        f"compared field:                      {found.first.shape[0]} x {found.first.shape[1]} pixels",
        f"correlation:                         {found.likeness:.3f}",
        f"resolution (half-bit, full period):  {_format_length(correlation.resolution('half-bit'))}",
        f"resolution (1/7, full period):       {_format_length(correlation.resolution('one-seventh'))}",
        f"phase difference, rms:               {found.difference_rms:.4f} rad",
    ]
    lines += [
        f"error bar of the {name}:{' ' * (22 - len(name))}{one.uncertainty}"
        for name, one in (("first", a), ("second", b))
        if one.uncertainty is not None
    ]
    if found.likeness < 0.5:
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
        for path, x, y in list_differences(parse_yaml(a.recipe, "recipe"), parse_yaml(b.recipe, "recipe"))
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


def list_differences(a: Any, b: Any, /, path: str = "") -> list[tuple[str, Any, Any]]:
    """Settings of two recipes that differ: path and both values.

    Example:
        >>> list_differences({"probe": {"modes": 1}}, {"probe": {"modes": 2}})
        [('probe.modes', 1, 2)]
    """
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if path or key not in ("file", "found", "version")]
        return [
            row
            for key in keys
            for row in list_differences(a.get(key), b.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if a == b else [(path, a, b)]
