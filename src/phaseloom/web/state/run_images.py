"""The images of a run as its folder holds them: of its result, or of the snapshot of its last epoch.

Nothing of the run is built, and its data are not read: what a viewer asks for is read from HDF5 when it is
asked for, so that a page opens in a moment and a run that is written meanwhile is not disturbed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.errors import BadInput
from phaseloom.fitting import checkpoint
from phaseloom.metrics.phase import remove_plane_wave, remove_ramp, sum_phase
from phaseloom.plot.scan_maps import are_moved

__all__ = ["Field", "RunImages", "find_newest", "images_of", "open_images"]

MAX_PLANE_PIXELS = 700
"""Pixels a side that are enough to find the plane wave of an object."""

MAX_FIT_PIXELS = 120
"""Pixels a side that are enough to fit the ramp of a phase."""


@dataclass(frozen=True, eq=False)
class Field:
    """Values over the scanned field.

    Attributes:
        values: ``(y, x)``.
        pixel: angstrom (y, x), or pixels where ``in_pixels``.
        corner: place (y, x) of the outer corner of the first pixel, in the frame of the scan.
        in_pixels: whether lengths are not known (snapshots of older versions).
    """

    values: np.ndarray
    pixel: tuple[float, float]
    corner: tuple[float, float]
    in_pixels: bool = False


@dataclass(eq=False)
class RunImages:
    """What a run has to show.

    Attributes:
        slices: number of them.
        load_object: reads the complex ``(slice, y, x)`` of the scanned field, and a margin of some pixels.
        pixel, corner, in_pixels: see `Field`.
        probe: complex ``(mode, y, x)``; ``None``: it cannot be told without the model.
        positions, positions_start: ``(n, 2)``, in the unit of the pixel.
        epoch: that they are of; ``None``: the result of the run.
        load_sigma: reads ``(slice, y, x)`` in radian, of the same field; ``None``: not known.
        facts: title and verdict of a result.
        ready: the summed phase, where the file holds it as it is.
    """

    slices: int
    load_object: Callable[[], np.ndarray]
    pixel: tuple[float, float]
    corner: tuple[float, float]
    probe: np.ndarray | None
    positions: np.ndarray
    positions_start: np.ndarray
    epoch: int | None
    in_pixels: bool = False
    load_sigma: Callable[[], np.ndarray] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    ready: Field | None = None

    @cached_property
    def object(self) -> np.ndarray:
        """Complex ``(slice, y, x)`` of the scanned field, read when it is first asked for."""
        return self.load_object()

    @cached_property
    def sigma(self) -> np.ndarray | None:
        """Standard deviation of the phase ``(slice, y, x)``, radian; ``None``: not known."""
        return None if self.load_sigma is None else self.load_sigma()

    def phase(self, slice: int | None = None, /) -> Field:
        """Phase of a slice, or summed over all, free of constant and ramp, radian."""
        if slice is None:
            return self.ready or self._field(self._summed_phase)
        return self._field(_flatten(np.angle(self._levelled[slice])))

    def amplitude(self, slice: int | None = None, /) -> Field:
        """Amplitude of a slice, or the product over all."""
        chosen = self.object if slice is None else self.object[slice : slice + 1]
        return self._field(np.abs(chosen).prod(0))

    def error_bar(self, slice: int | None = None, /) -> Field | None:
        """Sigma of a slice, or the root of the sum of squares over all, radian; ``None``: not known."""
        if self.sigma is None:
            return None
        chosen = self.sigma if slice is None else self.sigma[slice : slice + 1]
        return self._field(np.sqrt(np.square(chosen).sum(0)))

    def moves(self) -> np.ndarray:
        """How positions moved ``(n, 2)``, less the mean, which nothing can fix; zero where it is rounding."""
        moved = self.positions - self.positions_start
        moved = moved - moved.mean(0)
        return moved if are_moved(self.positions_start, moved) else np.zeros_like(moved)

    @cached_property
    def _levelled(self) -> np.ndarray:
        return np.stack([_remove_plane_wave(one) for one in self.object])

    @cached_property
    def _summed_phase(self) -> np.ndarray:
        return _flatten(sum_phase(self._levelled))

    def _field(self, values: np.ndarray) -> Field:
        return Field(values, self.pixel, self.corner, self.in_pixels)


def images_of(
    source: Mapping[str, Any],
    /,
    *,
    positions: np.ndarray,
    positions_start: np.ndarray,
    origin: tuple[float, float],
    epoch: int | None,
    sigma: np.ndarray | None = None,
    facts: Mapping[str, Any] | None = None,
) -> RunImages:
    """The images of a run in memory, as `phaseloom.reconstruction.protocol.Job.images` has them.

    Args:
        source: with ``object``, ``probe`` and ``pixel``.
        positions: ``(n, 2)``, angstrom.
        positions_start: as they were measured.
        origin: place of the middle of the first pixel of the object, angstrom.
        epoch: see `RunImages`.
        sigma: of the whole object.
        facts: see `RunImages`.
    """
    pixel = source["pixel"]
    window = _find_window(positions, pixel, origin, source["object"].shape[1:])
    cut = (slice(None), *window)
    return RunImages(
        slices=len(source["object"]),
        load_object=lambda: source["object"][cut],
        pixel=pixel,
        corner=_corner(window, pixel, origin),
        probe=source["probe"],
        positions=positions,
        positions_start=positions_start,
        epoch=epoch,
        load_sigma=None if sigma is None else lambda: sigma[cut],
        facts=facts or {},
    )


def find_newest(folder: Path, /) -> Path | None:
    """The file that shows a run as it stands: its result, unless a later snapshot says that it went on.

    ``None``: neither is there yet.
    """
    found = [path for name in ("result.h5", "snapshot.h5") if (path := folder / name).is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name == "result.h5"), default=None)


def open_images(path: Path, /) -> RunImages:
    """Read the images of a result or a snapshot.

    Raises:
        BadInput: neither, damaged, or of a model that has no object of pixels.
    """
    try:
        with h5py.File(path) as file:
            if "phaseloom_result" in file.attrs:
                return _read_result(file)
    except (OSError, KeyError, ValueError) as problem:
        raise BadInput(str(path), None, "cannot be read: it is damaged, or being replaced") from problem
    return _read_snapshot(path)


def _read_result(file: Any) -> RunImages:
    pixel, origin = ((float(y), float(x)) for y, x in (file.attrs["pixel"], file.attrs["origin"]))
    positions = file["positions"][()]
    window = _find_window(positions, pixel, origin, file["object"].shape[1:])
    facts = {name: str(file.attrs.get(name, "")) for name in ("title", "verdict", "verdict_code", "stopped")}
    path = Path(file.filename)
    cut = (slice(None), *window)
    return RunImages(
        slices=len(file["object"]),
        load_object=partial(_read_part, path, "object", cut),
        pixel=pixel,
        corner=_corner(window, pixel, origin),
        probe=file["probe"][()],
        positions=positions,
        positions_start=file["positions_start"][()],
        epoch=None,
        load_sigma=partial(_read_part, path, "sigma", cut) if "sigma" in file else None,
        facts=facts,
        ready=_read_phase(file, positions, pixel, origin),
    )


def _read_part(path: Path, name: str, part: tuple[slice, ...]) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file[name])[part]


def _read_phase(file: Any, positions: np.ndarray, pixel: Any, origin: Any) -> Field | None:
    """The summed phase of the NeXus entry of a result, which is of `phaseloom.result.Result.window`."""
    if "entry/phase/phase" not in file:
        return None
    window = _find_window(positions, pixel, origin, file["object"].shape[1:], margin=0)
    return Field(file["entry/phase/phase"][()], pixel, _corner(window, pixel, origin))


def _read_snapshot(path: Path) -> RunImages:
    model, about = checkpoint.read_model(path)
    if "scan.start" not in model or not {"object.wave", "object.phase"} & set(model):
        raise BadInput(str(path), None, "holds no object of pixels: its images come with the result")
    object_ = _compose_object(model)
    facts = about["facts"]
    shape = tuple(facts.get("canvas", object_.shape[1:]))
    coarse, pixel, origin = (facts.get(name, default) for name, default in _UNKNOWN_PLACE.items())
    start, found = _place_positions(model, shape, pixel, origin, facts.get("window", (1, 1)))
    window = _find_window(found, coarse, origin, object_.shape[1:])
    part = object_[(slice(None), *window)]
    return RunImages(
        slices=len(part),
        load_object=lambda: part,
        pixel=coarse,
        corner=_corner(window, coarse, origin),
        probe=model["probe.relative"] * model["probe.scale"] if facts.get("probe is pixels") else None,
        positions=found,
        positions_start=start,
        epoch=int(about["epoch"]),
        in_pixels="canvas pixel" not in facts,
    )


_UNKNOWN_PLACE = {"pixel": (1.0, 1.0), "canvas pixel": (1.0, 1.0), "origin": (0.0, 0.0)}
"""Facts of a snapshot that those of older versions lack."""


def _compose_object(model: Mapping[str, np.ndarray]) -> np.ndarray:
    """Complex ``(slice, y, x)`` of the parameters; several states as their mean."""
    if "object.wave" in model:
        states = model["object.wave"]
    else:
        states = np.exp(1j * model["object.phase"]) * model.get("object.amplitude", np.float32(1))
    if "object.support" in model:
        states = states * model["object.support"]
    share = model["object.occupancy"]
    whole = states[0] if len(states) == 1 else np.einsum("s,szyx->zyx", share, states)
    return whole.astype(np.complex64, copy=False)


def _place_positions(
    model: Mapping[str, np.ndarray], shape: Any, pixel: Any, origin: Any, window: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Positions as measured and as refined, by the module that the model itself has."""
    import torch

    from phaseloom.ptycho.scans import Canvas, Positions

    own = {name.removeprefix("scan."): torch.from_numpy(np.asarray(value)) for name, value in model.items()}
    own = {name: value for name, value in own.items() if f"scan.{name}" in model}
    count = len(own["start"])
    lines = len(own["lines"])
    grid = (lines, count // lines) if lines else None
    scan = Positions(own["start"], Canvas(shape, window, pixel, origin), grid)
    scan.load_state_dict(own)
    start = own["start"].double().numpy() * np.array(pixel) + np.array(origin)
    return start, scan.angstrom()


def _find_window(
    positions: np.ndarray, pixel: Any, origin: Any, shape: Any, *, margin: int = 2
) -> tuple[slice, slice]:
    """Rows and columns where beam centres went, some pixels more on each side."""
    places = (positions - np.array(origin)) / np.array(pixel)
    low = np.floor(places.min(0)).astype(int) - margin
    high = np.ceil(places.max(0)).astype(int) + 1 + margin
    rows, columns = (
        slice(min(max(int(a), 0), n - 1), max(min(int(b), n), 1))
        for a, b, n in zip(low, high, shape, strict=True)
    )
    return rows, columns


def _corner(window: tuple[slice, slice], pixel: Any, origin: Any) -> tuple[float, float]:
    y, x = (o + (part.start - 0.5) * p for part, p, o in zip(window, pixel, origin, strict=True))
    return y, x


def _remove_plane_wave(wave: np.ndarray) -> np.ndarray:
    """`phaseloom.metrics.phase.remove_plane_wave` of a slice, found on few pixels and fast sides.

    2053 is a prime number: its transform takes eight times as long as that of 2048.
    """
    fold = max(1, max(wave.shape) // MAX_PLANE_PIXELS)
    few = wave[::fold, ::fold]
    few = few[tuple(slice(_find_fast_length(size)) for size in few.shape)]
    plane = remove_plane_wave(few) * few.conj()  # the conjugate wave, weighted by the intensity
    rise = float(np.angle(np.vdot(plane[:-1], plane[1:]))) / fold
    run = float(np.angle(np.vdot(plane[:, :-1], plane[:, 1:]))) / fold
    rows, columns = (
        np.exp(1j * slope * np.arange(n)) for slope, n in zip((rise, run), wave.shape, strict=True)
    )
    fitted = np.outer(rows[::fold][: len(few)], columns[::fold][: few.shape[1]])
    rows = rows * np.exp(1j * np.angle(np.vdot(fitted, plane)))
    return wave * np.outer(rows.astype(np.complex64), columns.astype(np.complex64))


def _find_fast_length(size: int) -> int:
    """The largest length up to a size whose transform is fast; no more than a tenth is lost."""
    from scipy.fft import next_fast_len

    return max((n for n in range(max(size * 9 // 10, 1), size + 1) if next_fast_len(n) == n), default=size)


def _flatten(phase: np.ndarray) -> np.ndarray:
    """A phase without constant and ramp, fitted to few of its pixels."""
    fold = max(1, max(phase.shape) // MAX_FIT_PIXELS)
    few = phase[::fold, ::fold]
    if min(few.shape) < 2:
        return phase - np.median(phase)
    plane = few - remove_ramp(few, robust=True)
    rise = (plane[1, 0] - plane[0, 0]) / fold
    run = (plane[0, 1] - plane[0, 0]) / fold
    y, x = (np.arange(size) for size in phase.shape)
    return phase - (plane[0, 0] + rise * y[:, None] + run * x)
