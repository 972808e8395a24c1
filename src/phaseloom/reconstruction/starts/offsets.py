"""Offsets between scans of one object: what each shows by itself is laid over what the first one shows.

The loss of a joint run says little of an offset: a few pixels are taken up by the probes, which move, and of
more it has no slope. Each scan is therefore reconstructed alone for some epochs, and the objects are
correlated over all shifts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from phaseloom.calibration.calibrate import mask_bad_pixels
from phaseloom.calibration.sweep import Start
from phaseloom.data import formats
from phaseloom.data.scan import MAX_RELATIVE_DIFFERENCE, Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.metrics.linear_map import fit_linear_map
from phaseloom.metrics.parabola import find_vertex
from phaseloom.metrics.phase import remove_plane_wave
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.spec import Call
from phaseloom.units import LENGTH

__all__ = ["ObjectOffset", "find_offsets", "register_objects"]

EPOCHS_ALONE = 40
"""Of the run of each scan by itself."""

MIN_SHARED_FIELD = 0.2
"""Share of the smaller field that both scans must have seen at an offset that is looked at."""

MIN_CORRELATION = 0.4
MIN_LEAD = 3.0
"""Correlation and `ObjectOffset.lead` from which an offset is believed. On twelve pairs of the simulation of
`benchmarks.joined_verdicts`, right offsets had 0.47 to 0.97 and 3.5 to 47 (the lowest of a scan of 1000
photons a pattern), those of other objects 0.27 to 0.35 and 1.0 to 1.5, fields with a tenth in common 0.43
and 1.6."""

SMOOTHING = 0.7
"""Pixels (standard deviation) over which objects are smoothed: single pixels are noise."""

MIN_POWER = 1e-3
"""Share of the largest changes over a shared field, below which there is nothing to compare."""

PIXELS_OF_PEAK = 4
"""Around the best offset, which do not count as another one."""


@dataclass(frozen=True)
class ObjectOffset:
    """Where the object of one result lies on that of another.

    Attributes:
        offset: to be added to the positions (y, x) of the second result, angstrom.
        correlation: of the changes of both objects from pixel to pixel, over what both scanned, 0 to 1.
        lead: log-likelihood of this offset over that of the best one elsewhere.
        shared: share of the smaller field that both scanned.
    """

    offset: tuple[float, float]
    correlation: float
    lead: float
    shared: float

    @property
    def is_clear(self) -> bool:
        """Whether this is the offset and no other."""
        return self.correlation >= MIN_CORRELATION and self.lead >= MIN_LEAD


def find_offsets(
    recipe: Reconstruct, given: Scan4D | None, /, *, run: Callable[[Reconstruct, Scan4D], Any]
) -> Reconstruct:
    """The recipe with a number for each ``join: {share: object, offset: find}``.

    The first scan and the other one are reconstructed alone for `EPOCHS_ALONE` epochs, each with its guess of
    the probe; where its focus is not stated, and ``start`` is left to be found, that is found first, as in a
    run of that scan. Both have the orientation of the detector that the first one finds.

    Args:
        recipe: of several scans, or of one: then nothing is done.
        given: the first scan as it was read, or ``None``: the recipe's file.
        run: all epochs of a short run, which returns the job.

    Raises:
        BadInput: scans that show no common place, or several offsets that fit; scans side by side.
    """
    for at, step in enumerate(recipe.prepare):
        if step.name == "join" and step.values.get("offset") == "find":
            team().require_single_process("join.offset: find")
            recipe = _find_offset(recipe, given, at, run)
    return recipe


def _find_offset(
    recipe: Reconstruct, given: Scan4D | None, at: int, run: Callable[[Reconstruct, Scan4D], Any]
) -> Reconstruct:
    """The recipe with the offset of one of its joins."""
    step = recipe.prepare[at]
    name = Path(step.values["path"]).name
    if step.values.get("share") != "object":
        raise BadInput("join.offset", "find", "is of scans that share their object: write share: object")
    scans, linear = _read_apart(recipe, given, at)
    number = sum(one.name == "join" for one in recipe.prepare[:at]) + 1
    results = _reconstruct_alone(recipe, scans, (0, number), run)
    found = register_objects(*results)
    if found is None or not found.is_clear:
        raise _refuse(name, found, [one.verdict_code.replace("_", " ") for one in results])
    offset = np.linalg.solve(linear.T, np.array(found.offset))
    shown = ", ".join(LENGTH.show(float(f"{one:.4g}")) for one in offset)
    line = f"join: the offset of {name} is [{shown}]: both objects are correlated by {found.correlation:.2f} "
    line += f"over {found.shared:.0%} of the smaller field"
    values = {**step.values, "offset": (round(float(offset[0]), 3), round(float(offset[1]), 3))}
    steps = (*recipe.prepare[:at], replace(step, values=values), *recipe.prepare[at + 1 :])
    lines = [*recipe.found.get("offsets", []), line]
    return recipe.model_copy(update={"prepare": steps, "found": recipe.found | {"offsets": lines}})


def _reconstruct_alone(
    recipe: Reconstruct,
    scans: tuple[Scan4D, Scan4D],
    numbers: tuple[int, int],
    run: Callable[[Reconstruct, Scan4D], Any],
) -> list[Result]:
    """Results of both scans by themselves, in one orientation of the detector."""
    results = list[Result]()
    start: Start | None = None
    for own, scan in zip(numbers, scans, strict=True):
        _, masked, _ = mask_bad_pixels(recipe, scan)
        for step in () if start is None else start.steps():
            masked = step(masked)
        job = run(_simplify(recipe, own, orient=not results), masked)
        start = start or job.start
        results.append(job.result())
    return results


def _refuse(name: str, found: ObjectOffset | None, alone: list[str]) -> BadInput:
    """That no offset is clear, how the best one does, and the verdicts of both scans alone."""
    seen = ""
    if found is not None:
        seen = f" (the best one correlates them by {found.correlation:.2f}, "
        seen += f"log-likelihood {found.lead:.1f} times that of another; "
        seen += f"the first scan alone: {alone[0]}, the other: {alone[1]})"
    fix = f"shows no offset at which {name} sees the object of the first scan{seen}: state the offset, or "
    fix += "check that the fields overlap, and state the probe: that of a finished result of one scan "
    fix += (
        "(probe: {from_file: {path: RUN/result.h5}}), or the defocus of each (of_each_scan: defocus_values)"
    )
    return BadInput("join.offset", "find", fix)


def _read_apart(
    recipe: Reconstruct, given: Scan4D | None, at: int
) -> tuple[tuple[Scan4D, Scan4D], np.ndarray]:
    """The first scan and that of a join, prepared, and the linear map of positions after the join."""
    step = recipe.prepare[at]
    beside = {name: value for name, value in step.values.items() if name not in ("share", "offset")}
    before = recipe.prepare[:at]
    _require_one_energy(recipe.model_copy(update={"prepare": before}).scan(given), Path(step.values["path"]))
    whole = recipe.model_copy(update={"prepare": (*before, replace(step, values=beside))}).scan(given)
    parts = []
    for number in (0, int(whole.scan_numbers.max())):  # pyright: ignore[reportOptionalMemberAccess]
        own = whole.select(whole.scan_numbers == number)
        stage = own.positions - whole.scan_offsets[number]  # pyright: ignore[reportOptionalSubscript]
        weights = own.weights / own.weights.mean()  # pyright: ignore[reportOptionalOperand, reportOptionalMemberAccess]
        parts.append(replace(own, positions=stage, weights=weights, scan_numbers=None, scan_offsets=None))
    joined = list(parts)
    for later in recipe.prepare[at + 1 :]:
        joined = [one if later.name == "join" else later(one) for one in joined]
    return (joined[0], joined[1]), _measure_steps(parts[0].positions, joined[0].positions)


def _require_one_energy(first: Scan4D, path: Path) -> None:
    """Refuse scans whose objects have pixels of different sizes, which are not registered."""
    other = formats.read(path, lazy=True).geometry
    if not np.allclose(first.geometry.wavelength, other.wavelength, rtol=MAX_RELATIVE_DIFFERENCE):
        fix = (
            f"is of scans of one energy, and {path.name} has {other.energy / 1e3:.6g} keV: state the offset "
        )
        fix += "(an error of a few pixels moves a probe, and the image stays right)"
        raise BadInput("join.offset", "find", fix)


def _measure_steps(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What steps make of a distance ``d`` between positions: ``d @ map``."""
    if len(before) != len(after):
        fix = "is not found where later steps leave out patterns: put these before join, or state the offset"
        raise BadInput("join.offset", "find", fix)
    if np.array_equal(before, after):
        return np.eye(2)
    return fit_linear_map(before, after)


def _simplify(recipe: Reconstruct, number: int, *, orient: bool) -> Reconstruct:
    """The recipe of a short run of one scan; whether it may find the orientation of the detector."""
    probe = recipe.probe
    if probe.name == "of_each_scan":
        known = probe.values
        focus = (known.get("defocus_values") or [])[number : number + 1]
        values = {name: known[name] for name in ("semiangle", "modes") if known.get(name) is not None}
        values |= {"defocus": focus[0]} if focus else {}
        probe = Call(probe.room, "focused" if "semiangle" in values else "from_patterns", values)
    changes: dict[str, Any] = {"probe": probe, "prepare": (), "epochs": EPOCHS_ALONE, "outputs": ()}
    start = Call(recipe.start.room, "none")
    if recipe.start.name == "sweep" and "defocus" not in probe.values:
        known = recipe.start.values if orient else {**recipe.start.values, "orientations": False}
        start = replace(recipe.start, values=known)
    changes |= {"start": start, "preset": "none", "mask": "none"}
    changes |= {"holdout": 0.0, "patience": None, "changes": (), "steered": ()}
    if recipe.begins_with_known_object:  # of the run, not of each scan
        changes["object"] = Call(recipe.object.room, "pixels")
    return recipe.model_copy(update=changes)


def register_objects(first: Result, second: Result, /) -> ObjectOffset | None:
    """Find the offset at which two results show one object; neither phase ramps nor constants matter.

    Changes of the complex object from pixel to pixel, ``O(r + 1) O*(r)``, are correlated at all shifts by
    whole pixels, each over the field that both then share (Padfield 2012, doi 10.1109/TIP.2011.2181402); a
    ramp is a constant phase of them. The best shift is the likeliest one, ``-n log(1 - correlation^2)`` of
    ``n`` shared pixels, refined by a parabola.

    Args:
        first: of which the frame stays.
        second: of the same pixels.

    Returns:
        ``None``: fields too small to share anything.
    """
    parts = [_measure_changes(one) for one in (first, second)]
    shapes = [one[1].shape for one in parts]
    size = (shapes[0][0] + shapes[1][0] - 1, shapes[0][1] + shapes[1][1] - 1)
    correlation, shared = _correlate_everywhere(*parts[0], *parts[1], size)
    if not (shared > 0).any():
        return None
    likelihood = -shared * np.log(1 - np.minimum(correlation, 0.9999) ** 2)
    peak = np.unravel_index(np.argmax(likelihood), size)
    others = likelihood.copy()
    near = [
        (np.arange(-PIXELS_OF_PEAK, PIXELS_OF_PEAK + 1) + at) % n for at, n in zip(peak, size, strict=True)
    ]
    others[np.ix_(*near)] = 0.0
    whole = [
        at - n if at >= shape[0] else at
        for at, n, shape in zip(peak, size, zip(*shapes, strict=True), strict=True)
    ]
    shift = np.array(whole) + _refine_peak(correlation, peak)
    offset = np.array(first.origin) - np.array(second.origin) + shift * np.array(first.pixel)
    smaller = min(one[1].sum() for one in parts)
    return ObjectOffset(
        (float(offset[0]), float(offset[1])),
        float(correlation[peak]),
        float(likelihood[peak] / max(others.max(), 1e-9)),
        float(shared[peak] / smaller),
    )


def _measure_changes(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Changes of the object along both axes ``(2, y, x)``, and where they are known."""
    seen = result.coverage_mask.astype(float)
    whole = np.prod(remove_plane_wave(result.object, seen), axis=0)
    smooth = gaussian_filter(whole.real, SMOOTHING) + 1j * gaussian_filter(whole.imag, SMOOTHING)
    changes = np.stack([smooth[1:, :-1], smooth[:-1, 1:]]) * smooth[:-1, :-1].conj()
    known = seen[1:, :-1] * seen[:-1, 1:] * seen[:-1, :-1]
    return changes * known, known


def _correlate_everywhere(
    first: np.ndarray, seen: np.ndarray, second: np.ndarray, seen_too: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of two stacks at each shift, and pixels that both know there; 0: too few."""

    def spectrum(values: np.ndarray) -> Any:
        return np.fft.fft2(values, size)

    def total(one: Any, other: Any) -> Any:
        return np.fft.ifft2(one * other.conj())

    mask, mask_too = spectrum(seen), spectrum(seen_too)
    shared = np.round(total(mask, mask_too).real)
    enough = shared >= MIN_SHARED_FIELD * min(seen.sum(), seen_too.sum())
    count = np.maximum(shared, 1)
    sums, power, power_too = np.zeros((3, *size))
    for one, other in zip(first, second, strict=True):
        a, b = spectrum(one), spectrum(other)
        mean, mean_too = total(a, mask_too), total(mask, b)
        sums = sums + abs(total(a, b) - mean * mean_too / count)
        power = power + total(spectrum(abs(one) ** 2), mask_too).real - abs(mean) ** 2 / count
        power_too = power_too + total(mask, spectrum(abs(other) ** 2)).real - abs(mean_too) ** 2 / count
    least = [MIN_POWER * one.max() + 1e-30 for one in (power, power_too)]  # flat parts show nothing
    root = np.sqrt(np.maximum(power, least[0]) * np.maximum(power_too, least[1]))
    return np.where(enough, np.minimum(sums / root, 1.0), 0.0), np.where(enough, shared, 0.0)


def _refine_peak(values: np.ndarray, peak: tuple[Any, ...]) -> np.ndarray:
    """What a parabola through the neighbours adds to a peak, along each axis, pixels; none at an edge."""
    step = np.zeros(2)
    for axis in range(2):
        below, at, above = (np.roll(values, -n, axis)[peak] for n in (-1, 0, 1))
        vertex = find_vertex(-below, -at, -above)
        if min(below, above) > 0 and np.isfinite(vertex):
            step[axis] = np.clip(vertex, -0.5, 0.5)
    return step
