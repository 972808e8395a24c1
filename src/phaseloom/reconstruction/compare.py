"""Two results of the same object side by side, and one beside the truth."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from phaseloom import plot
from phaseloom.data.signals import Signal, image_axes
from phaseloom.documents import parse_yaml
from phaseloom.errors import BadInput
from phaseloom.export import files as export_files
from phaseloom.metrics.phase import PhaseError, phase_error, remove_plane_wave, sum_phase
from phaseloom.metrics.resolution import (
    USUAL_MARGIN,
    RingCorrelation,
    align,
    cut_edges,
    ring_correlation,
)
from phaseloom.result import Result
from phaseloom.units import LENGTH

__all__ = ["ResultComparison", "TruthComparison", "compare", "compare_results", "compare_with_truth"]
__all__ += ["crop_to_common_field", "find_result", "list_differences"]


MARGIN_OF_DIFFERENCE = 2
"""Pixels cut from each edge of the difference of two phases."""


@dataclass(frozen=True, eq=False)
class ResultComparison:
    """Two results of one object over the field that both scanned.

    Attributes:
        first, second: complex projections ``(y, x)``, the first laid on the second.
        pixel: angstrom (y, x).
        correlation: ring correlation of both.
        likeness: their correlation, 0 to 1.
        difference: phase of the first less that of the second ``(y, x)``, radian, nearer to the edge.
    """

    first: np.ndarray
    second: np.ndarray
    pixel: tuple[float, float]
    correlation: RingCorrelation
    likeness: float
    difference: np.ndarray

    @property
    def difference_rms(self) -> float:
        """Of the phase over the compared field, radian."""
        return float(np.sqrt((np.angle(self.first * np.conj(self.second)) ** 2).mean()))


def compare_results(a: Result, b: Result, /) -> ResultComparison:
    """Lay one result on another and correlate them ring by ring.

    Raises:
        BadInput: other pixels, or too little of the field in common.
    """
    if not np.allclose(a.pixel, b.pixel, rtol=1e-3):
        both = f"{LENGTH.show(a.pixel[0])} and {LENGTH.show(b.pixel[0])}"
        fix = "are different object pixels: reconstruct both on the same detector window"
        files = ["" if one.provenance is None else one.provenance.file for one in (a, b)]
        if all(files) and files[0] != files[1]:
            fix = f"are the object pixels of results of different files, {files[0]} and {files[1]}: compare "
            fix += "results of one scan, or reconstruct both on the same detector window"
        raise BadInput("compare", both, fix)
    *aligned, shift = align(*crop_to_common_field(a, b))
    one, two = (cut_edges(image, shift, USUAL_MARGIN) for image in aligned)
    wide = [cut_edges(image, shift, MARGIN_OF_DIFFERENCE) for image in aligned]
    likeness = abs(np.vdot(one - one.mean(), two - two.mean()))
    likeness /= float(np.linalg.norm(one - one.mean()) * np.linalg.norm(two - two.mean())) + 1e-30
    correlation = ring_correlation(one, two, pixel=a.pixel)
    difference = np.angle(wide[0] * wide[1].conj())
    return ResultComparison(one, two, a.pixel, correlation, float(likeness), difference)


@dataclass(frozen=True, eq=False)
class TruthComparison:
    """A result and the truth over the scanned field.

    Attributes:
        found: phase ``(y, x)`` of the result, summed over slices, radian.
        truth: the same of the truth, on the pixels of the result.
        error: distance of both, without shift, constant and ramp.
    """

    found: np.ndarray
    truth: np.ndarray
    error: PhaseError


def compare_with_truth(
    result: Result,
    truth: ArrayLike,
    /,
    *,
    pixel: tuple[float, float] | None = None,
    origin: tuple[float, float] = (0.0, 0.0),
    margin: int = 8,
    max_shift: int = 6,
) -> TruthComparison:
    """Compare the phase of a result with the true one over the scanned field.

    The truth is interpolated by cubic splines where its pixels are not those of the result.

    Args:
        result: of a scan whose object is known.
        truth: phase ``(y, x)`` or ``(slice, y, x)`` in radian, or complex transmission.
        pixel: of the truth (y, x), angstrom; default: that of the result.
        origin: position (y, x) of the centre of its pixel ``[0, 0]``, in the coordinates of the scan's
            positions.
        margin: pixels at each edge that are not compared.
        max_shift: largest shift looked for, pixels.

    Raises:
        BadInput: the truth does not cover the field, or is not an image.

    Example:
        >>> from phaseloom.reconstruction.protocol import Job
        >>> from phaseloom.reconstruction.recipe import Reconstruct
        >>> from phaseloom.simulation import simulate
        >>> truth = simulate.atoms((64, 64), 0.2, peak=0.2, seed=1)
        >>> beam = {"energy": 80e3, "semiangle": 0.03, "defocus": 60.0, "window": 32, "dose": 1e5}
        >>> scan, _ = simulate.electron_scan(truth, 0.2, simulate.raster((8, 8), 0.8) + 3.5, **beam)
        >>> probe = {"focused": {"semiangle": "30 mrad", "defocus": "6 nm", "modes": 1}}
        >>> job = Job.begin(Reconstruct.of({"probe": probe, "start": "none", "epochs": 20}), scan=scan)
        >>> for _ in job:
        ...     pass
        >>> compare_with_truth(job.result(), truth).error.pearson > 0.95
        True
    """
    from scipy.ndimage import map_coordinates

    phase = _sum_true_phase(np.asarray(truth))
    rows, columns = result.window
    found = result.phase[rows, columns]
    places = [
        (first + step * (np.arange(size) + side.start) - start) / (step if pixel is None else pixel[axis])
        for axis, (first, step, size, side, start) in enumerate(
            zip(result.origin, result.pixel, found.shape, (rows, columns), origin, strict=True)
        )
    ]
    if any(at.min() < -0.5 or at.max() > size - 0.5 for at, size in zip(places, phase.shape, strict=True)):
        both = [
            f"{at.min():.1f} to {at.max():.1f} of {size}"
            for at, size in zip(places, phase.shape, strict=True)
        ]
        fix = "lie beyond the truth: check its pixel and its origin, the position of its pixel [0, 0]"
        raise BadInput("compare_with_truth", f"pixels {' and '.join(both)}", fix)
    known = map_coordinates(phase, np.meshgrid(*places, indexing="ij"), order=3, mode="nearest")
    return TruthComparison(found, known, phase_error(found, known, margin=margin, max_shift=max_shift))


def _sum_true_phase(truth: np.ndarray) -> np.ndarray:
    """Phase ``(y, x)`` over all slices."""
    if truth.ndim not in (2, 3) or not np.isfinite(truth).all():
        fix = "is not a finite phase (y, x) or (slice, y, x) in radian, nor a transmission"
        raise BadInput("compare_with_truth: truth", truth.shape, fix)
    slices = truth if truth.ndim == 3 else truth[None]
    return sum_phase(slices) if np.iscomplexobj(truth) else slices.sum(0).astype(float)


def compare(first: Path, second: Path, picture: Path, difference: Path | None = None, /) -> list[str]:
    """Ring correlation, phase difference and differing settings, as lines; draws the picture.

    Args:
        first: a result or its run folder.
        second: another.
        picture: to be drawn.
        difference: a file for the phase of the first less that of the second, in a format of
            `phaseloom.export` for images.
    """
    a = Result.load(find_result(first))
    b = Result.load(find_result(second))
    found = compare_results(a, b)
    correlation = found.correlation
    plot.save(plot.comparison(a, b, correlation, found.difference), picture)
    written = [] if difference is None else _write_difference(found, a, difference)
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
        for path, x, y in list_differences(*(parse_yaml(one.recipe or "{}", "recipe") for one in (a, b)))
    ]
    return [*lines, *(f"written: {path}" for path in written), f"picture: {picture}"]


def _write_difference(found: ResultComparison, a: Result, path: Path) -> tuple[Path, ...]:
    """The difference of two phases as an image, its first pixel at zero."""
    values = found.difference.astype(np.float32)
    title = "phase of the first less that of the second"
    one = Signal("difference", values, image_axes(found.pixel, (0.0, 0.0)), "rad", title)
    return export_files.write(replace(a.signals(slices=False), signals=(one,), title=title), path)


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
