"""What a file of bare numbers does not say: the experiment, as keyword arguments of its reader."""

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypedDict

import numpy as np

from phaseloom.data.calibrate import fit_disk, mean_for_disk
from phaseloom.data.counts import Counts, SelectedCounts
from phaseloom.data.formats.arrangement import Arrangement, Axes, Selection, arrange
from phaseloom.data.formats.arrays import Negative, clean_counts
from phaseloom.data.formats.header import (
    Header,
    MissingValues,
    ask_as_xrays,
    join_words,
    list_missing,
    merge,
)
from phaseloom.data.formats.quantities.beam_hints import BeamHints
from phaseloom.data.formats.quantities.masks import MaskOnes, interpret_mask
from phaseloom.data.formats.quantities.near_field import FOCUS_HELP, describe_near_field
from phaseloom.data.formats.quantities.tables import TABLE_SUFFIXES, read_positions_table, read_table
from phaseloom.data.formats.sidecar import compose
from phaseloom.data.growing.unfinished import get_unfinished
from phaseloom.data.scan import Geometry, Scan4D, wavelength_of
from phaseloom.errors import BadInput
from phaseloom.units import ANGLE, Angle, Energy, Length

__all__ = ["Setup", "accept_setup", "build_scan", "convert_positions", "rotate_positions"]

Beam = Literal["electron", "photon"]
Unit = Literal["A", "nm", "um", "mm", "m", "px"]
Columns = tuple[int | str, int | str]
Reader = ParamSpec("Reader")

MAX_RANGE_OF_ANGLES = 2.0
"""Sines of angles across a detector, from -1 to 1."""

ANGSTROM_PER_UNIT = {"A": 1.0, "nm": 10.0, "um": 1e4, "mm": 1e7, "m": 1e10}


class Setup(TypedDict, total=False):
    """Keyword arguments of every reader; those that are left out are as the file or `DEFAULTS` has them.

    One more needs three lines, all in this file: its type, its help, and its default unless that is None.

    Args:
        energy: of a photon, or kinetic energy of an electron, eV.
        beam: what is diffracted; default: what the file says, else electrons.
        angle: radian per detector pixel. Give the sampling once: ``angle``, or ``pixel``, or ``distance``
            with ``detector_pixel``, or ``semiangle``.
        semiangle: of the beam, radian: the radius of the bright-field disk in the mean pattern then gives the
            angle of a pixel.
        pixel: of the object, angstrom (far field).
        distance: object to detector, angstrom.
        detector_pixel: edge of a detector pixel, angstrom.
        focus: focus to object, angstrom, ``inf`` for a parallel beam: the scan is a near-field one.
        field: ``far`` for photons whose geometry looks like a near field, and is none.
        step: of the raster (slow, fast), angstrom, when there are no positions.
        grid: raster as (slow, fast) numbers of patterns; a 4-D array has its own.
        rotation: of the positions, radian, from the row axis towards the column axis; default: what the file
            says, else none.
        positions: a table (`phaseloom.data.formats.quantities.tables`): an ``.npy``, ``.csv`` or ``.txt``
            file beside the data, or an array of the same file where it can hold several; or two of these,
            ``[rows, columns]``, with a number for each pattern.
        columns: the two columns (row, column) of a table of positions, by name or by number from 0; default:
            those named y and x, else the only two.
        positions_unit: of those positions; ``px`` are object pixels; default: what the table says, else A.
        mask: not zero where a pixel is good; a file or an array, as for ``positions``.
        mask_ones: ``good`` or ``bad``: what the pixels are that are not zero in the mask. Default: good,
            unless its name says bad (``badpix``) or they are few and hold few counts; the reader says so.
        selection: a slice for each stored axis, ``"0:64, :, 8:-8"``, or a list of ``null`` and
            ``[start, stop, step]``; nothing else is read.
        permute: the order of the axes after that, as in `numpy.transpose`.
        reshape: the shape after that, with one -1 at most.
        negative: ``clip`` negative values to zero, or ``keep`` them for a later step.
    """

    energy: Energy | None
    beam: Beam | None
    angle: Angle | None
    semiangle: Angle | None
    pixel: Length | None
    distance: Length | None
    detector_pixel: Length | None
    focus: Length | None
    field: Literal["far"] | None
    step: Length | tuple[Length, Length] | None
    grid: tuple[int, int] | None
    rotation: Angle | None
    positions: str | tuple[str, str] | None
    columns: Columns | None
    positions_unit: Unit | None
    mask: str | None
    mask_ones: MaskOnes | None
    selection: Selection | None
    permute: Axes | None
    reshape: Axes | None
    negative: Negative


DEFAULTS: dict[str, Any] = dict.fromkeys(Setup.__annotations__) | {"negative": "clip"}


def accept_setup(
    *, required: Sequence[str] = (), **defaults: Any
) -> Callable[[Callable[Reader, Scan4D]], Callable[Reader, Scan4D]]:
    """Show the keys of `Setup` in the signature and the help of a reader with ``**setup: Unpack[Setup]``.

    Type checkers know them from the annotation (PEP 692); this tells everything that asks at run time:
    parameter files, side-cars, the help and the documentation. In the docstring they replace the line
    ``**setup: see `Setup`.``

    Args:
        required: keys without a default.
        defaults: of keys whose default is not that of `DEFAULTS`.
    """

    def show(read: Callable[Reader, Scan4D]) -> Callable[Reader, Scan4D]:
        hints = typing.get_type_hints(Setup, include_extras=True)
        shown = []
        for name, hint in hints.items():
            default = defaults.get(name, DEFAULTS[name])
            if default is None and name not in required:
                hint = hint | None  # noqa: PLW2901
            if name in required:
                default = inspect.Parameter.empty
            shown.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            )
        signature = inspect.signature(read)
        path, *own = signature.parameters.values()
        own = [knob for knob in own if knob.kind is not knob.VAR_KEYWORD]
        changes = {
            "__signature__": signature.replace(parameters=[path, *shown, *own]),
            "__annotations__": read.__annotations__ | {knob.name: knob.annotation for knob in shown},
            "__doc__": (read.__doc__ or "").replace("**setup: see `Setup`.", _setup_help()),
        }
        for name, value in changes.items():
            setattr(read, name, value)
        return read

    return show


def _setup_help() -> str:
    """The lines of `Setup`'s docstring on its keys, without the blanks before the first."""
    return (Setup.__doc__ or "").partition("Args:")[2].strip()


def build_scan(
    path: Path,
    source: Any,
    setup: Setup,
    /,
    *,
    header: Header | None = None,
    key: str = "",
    planned: Mapping[str, Any] | None = None,
    read_member: Callable[[str], np.ndarray] | None = None,
    find_hints: Callable[[int], BeamHints] | None = None,
) -> Scan4D:
    """A scan of a stored array, of what the file says of the experiment, and of what the user says.

    What was used, and what of it the file states, is the text ``metadata["setup"]`` of the scan.

    Args:
        path: of the file.
        source: the stored array.
        setup: keyword arguments of the reader; they win over the header.
        header: what the file says.
        key: name of the array in the file, for messages.
        planned: values of the setup as the file or the user states them, where the reader had to change them
            for a file that is not whole; ``None``: neither states one. A side-car gets these.
        read_member: reads an array of the same file by its name; without it tables are files.
        find_hints: gives what a file of so many patterns hints at; asked where something is missing.

    Raises:
        MissingValues: all that nobody says, in one message.
        BadInput: what does not fit.
    """
    if unknown := set(setup) - set(Setup.__annotations__):
        raise TypeError(f"read() got an unexpected keyword argument '{min(unknown)}'")
    header = header or Header()
    known, from_file = merge(setup, header)
    stated = {name: value for name, value in (known | dict(planned or {})).items() if value is not None}
    given: dict[str, Any] = DEFAULTS | {"beam": "electron", "rotation": 0.0} | known
    place = f"{path.name}: {key}" if key else path.name
    counts, raster = arrange(
        source, place, Arrangement(given["selection"], given["permute"], given["reshape"])
    )
    count = 0 if get_unfinished() is not None else counts.shape[0]
    missing = list_missing(known, header, has_raster=raster is not None, count=count)
    if missing:
        holds = _describe_stack(counts, raster, key)
        missing, hints = _ask_by_hints(missing, find_hints and find_hints(count), known)
        raise MissingValues(path, missing, stated, from_file, holds=holds, hints=hints)
    counts, trusted = clean_counts(counts, place, negative=given["negative"])
    trusted &= _read_mask(path, given, header, read_member, counts)
    _require_some(trusted, path.name)
    notes = dict[str, str]()
    if given["semiangle"] is not None:
        given["angle"], notes["detector pixel"] = _fit_angle(given, counts, trusted, path.name)
    own_wavelength = header.wavelength if "energy" in from_file or "energy" not in known else None
    geometry = _build_geometry(given, trusted.shape, path.name, own_wavelength)
    grid = _require_raster(given["grid"], raster, path.name)
    table, given["positions_unit"] = _read_positions(path, given, read_member)
    if table is None and given["step"] is None:
        table = header.positions
    positions, grid = _find_positions(path.name, given, table, geometry, (counts.shape[0], grid))
    if len(positions) < counts.shape[0]:  # of a scan that is not finished: they come after their patterns
        counts = SelectedCounts(counts, np.arange(len(positions)))
    if get_unfinished() is not None:
        header = _cut_to_patterns(header, len(positions))
    if given["field"] is None and (reason := describe_near_field(geometry, positions)):
        missing = {"focus": f"{reason}: {FOCUS_HELP}"}
        raise MissingValues(path, missing, stated, from_file)
    return Scan4D(
        counts=counts,
        positions=positions,
        geometry=geometry,
        mask=trusted,
        background=header.background,
        flat=header.flat,
        weights=header.weights,
        heights=header.heights,
        grid=grid,
        oriented=header.oriented,
        metadata={**header.metadata, **notes, "setup": compose(stated, from_file, Setup.__annotations__)},
    )


def _ask_by_hints(
    missing: dict[str, str], hints: BeamHints | None, known: Mapping[str, Any]
) -> tuple[dict[str, str], BeamHints | None]:
    """What is missing, as for X-rays where the file hints at these and the user states no other beam."""
    if hints is None:
        return missing, None
    hints = replace(hints, beam=known.get("beam", hints.beam))
    return ask_as_xrays(missing, hints, known) if hints.beam == "photon" else missing, hints


def _find_positions(
    name: str,
    given: dict[str, Any],
    table: np.ndarray | None,
    geometry: Geometry,
    raster: tuple[int, tuple[int, int] | None],
    /,
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Positions (angstrom) and raster of the patterns that there are, from a table or a step."""
    patterns, grid = raster
    unfinished = get_unfinished()
    if table is None:
        count = patterns if unfinished is None or grid is None else grid[0] * grid[1]
        positions = _raster_positions(given, count, grid, name)
    else:
        place = f"{name}: positions: {given['positions'] or 'of the file'}"
        count = patterns if unfinished is None else np.size(table) // 2
        positions = convert_positions(table, given["positions_unit"], geometry, count, place)
        grid = grid if grid and grid[0] * grid[1] == len(positions) else None
    positions = rotate_positions(positions, given["rotation"])
    return (positions, grid) if unfinished is None else unfinished.cut(patterns, positions, grid)


def _cut_to_patterns(header: Header, count: int) -> Header:
    """A header with the numbers of the first patterns only."""
    parts = {name: getattr(header, name) for name in ("weights", "heights")}
    return replace(header, **{name: None if v is None else v[:count] for name, v in parts.items()})


def _build_geometry(
    given: dict[str, Any], shape: tuple[int, int], name: str, wavelength: float | None
) -> Geometry:
    wavelength = wavelength_of(given["energy"], given["beam"]) if wavelength is None else wavelength
    return Geometry(
        wavelength=wavelength,
        shape=shape,
        angle=_pixel_angle(given, shape, wavelength, name),
        distance=given["distance"],
        focus=given["focus"],
        beam=given["beam"],
    )


def _fit_angle(given: Mapping[str, Any], counts: Counts, trusted: np.ndarray, name: str) -> tuple[float, str]:
    """Radian per detector pixel by the bright-field disk of a beam of known angle, and how that was found."""
    semiangle = given["semiangle"]
    place = f"{name}: semiangle"
    if not (math.isfinite(semiangle) and semiangle > 0):
        raise BadInput(place, semiangle, "must be a positive number")
    both = [] if given["distance"] is None else ["detector_pixel"]
    if stated := [key for key in ("angle", "pixel", *both) if given[key] is not None]:
        fix = f"gives the angle of a pixel, and so does {join_words(stated)}: leave one of them out"
        raise BadInput(place, ANGLE.show(semiangle), fix)
    if given["focus"] is not None:
        raise BadInput(place, ANGLE.show(semiangle), "cannot define a near field: give detector_pixel")
    if get_unfinished() is not None:
        fix = "needs the mean pattern, which a scan that grows does not have yet: give the angle of a pixel"
        raise BadInput(place, ANGLE.show(semiangle), fix)
    try:
        disk = fit_disk(mean_for_disk(counts), mask=trusted)
    except BadInput as problem:
        value = f"{ANGLE.show(semiangle)} (disk: {problem.value})" if problem.value else ANGLE.show(semiangle)
        raise BadInput(place, value, f"{problem.fix} (angle: 0.5 mrad)") from problem
    angle = semiangle / disk.radius
    radius = f"{disk.radius:.2f} +- {disk.radius_error:.2f} pixels"
    how = f"semiangle {ANGLE.show(semiangle)} over the bright-field disk's radius of {radius}"
    return angle, f"{ANGLE.show(float(f'{angle:.4g}'))}: {how}"


def _pixel_angle(
    given: dict[str, Any], shape: tuple[int, int], wavelength: float, name: str
) -> tuple[float, float]:
    """Radian per detector pixel (y, x), from whichever length or angle the user gave."""
    angle, pixel, distance, detector_pixel = (
        given[key] for key in ("angle", "pixel", "distance", "detector_pixel")
    )
    by_distance = distance is not None and detector_pixel is not None
    if (angle is not None) + (pixel is not None) + by_distance != 1:
        fix = "is not clear: give either angle, or pixel, or distance and detector_pixel, or semiangle"
        raise BadInput(f"{name}: sampling", None, fix)
    for key in ("angle", "pixel", "distance", "detector_pixel"):
        value = given[key]
        if value is not None and not (np.isfinite(value).all() and np.min(value) > 0):
            raise BadInput(f"{name}: {key}", value, "must be a positive number")
    if pixel is not None:
        if given["focus"] is not None:
            raise BadInput(f"{name}: pixel", None, "cannot define a near field: give detector_pixel")
        return wavelength / (shape[0] * pixel), wavelength / (shape[1] * pixel)
    if distance is not None and detector_pixel is not None:
        assert detector_pixel is not None  # both or none, checked above
        angle = detector_pixel / distance
    height, width = np.broadcast_to(np.asarray(angle, float), 2).tolist()
    if max(height * shape[0], width * shape[1]) > MAX_RANGE_OF_ANGLES:
        key = "detector_pixel" if given["angle"] is None else "angle"
        value = ANGLE.show(max(height, width))
        fix = f"per pixel of {shape[1]}x{shape[0]} is more than a half-space: check its unit, mrad or µrad"
        raise BadInput(f"{name}: {key}", value, fix)
    return height, width


def _describe_stack(counts: Counts, raster: tuple[int, int] | None, key: str | None) -> str:
    """What is known of patterns without an experiment, such as '784 patterns of 64 x 64 pixels, uint16'."""
    count, height, width = counts.shape
    text = f"{count} patterns of {height} x {width} pixels, {counts.dtype}"
    if raster is not None:
        text += f", {raster[0]} x {raster[1]} of them"
    return text + (f", in the data set {key}" if key else "")


def _require_raster(
    stated: tuple[int, int] | None, raster: tuple[int, int] | None, name: str
) -> tuple[int, int] | None:
    """The raster of the array, or the stated one of an array of three axes."""
    if stated is None or raster is None:
        return raster if stated is None else (stated[0], stated[1])
    if tuple(stated) != raster:
        fix = (
            f"is not the raster {raster[0]}x{raster[1]} of the array: leave grid out, or see permute, reshape"
        )
        raise BadInput(f"{name}: grid", f"{stated[0]}x{stated[1]}", fix)
    return raster


def _raster_positions(
    given: dict[str, Any], count: int, grid: tuple[int, int] | None, name: str
) -> np.ndarray:
    """Positions (angstrom) of a raster, slow axis along rows."""
    assert grid is not None  # or it would be missing
    if grid[0] * grid[1] != count or min(grid) < 1:
        fix = f"does not hold {count} patterns: make slow times fast {count}"
        rows = count // max(grid[1], 1)
        if 0 < rows < grid[0]:
            fix += (
                f"; of an interrupted scan give grid: [{rows}, {grid[1]}] and selection: '0:{rows * grid[1]}'"
            )
        raise BadInput(f"{name}: grid", f"{grid[0]}x{grid[1]}", fix)
    step = np.broadcast_to(np.asarray(given["step"], float), 2)
    if not (np.isfinite(step).all() and (step > 0).all()):
        raise BadInput(f"{name}: step", given["step"], "must be positive")
    return np.indices(grid).reshape(2, -1).T * step


def rotate_positions(positions: np.ndarray, angle: float) -> np.ndarray:
    """Positions (row, column) turned by an angle that takes the row axis towards the column axis.

    Example:
        >>> rotate_positions(np.array([[1.0, 0.0]]), np.pi / 2).round(6).tolist()
        [[0.0, 1.0]]
    """
    c = math.cos(angle)
    s = math.sin(angle)
    return positions @ np.array([[c, s], [-s, c]])


def convert_positions(
    values: np.ndarray, unit: str, geometry: Geometry, count: int, place: str
) -> np.ndarray:
    """Positions ``(n, 2)`` in angstrom from a table in some unit."""
    if values.dtype.kind not in "iuf" or values.ndim < 2 or values.shape[-1] != 2:
        raise BadInput(place, f"shape {values.shape}", "must be numbers in two columns, row and column")
    values = values.reshape(-1, 2).astype(np.float64)
    if len(values) != count:
        raise BadInput(place, f"{len(values)} rows", f"but there are {count} patterns: give one row for each")
    if not np.isfinite(values).all():
        raise BadInput(place, None, "holds positions that are not finite: remove those patterns")
    if unit == "px":
        return values * np.asarray(geometry.pixel)
    if unit not in ANGSTROM_PER_UNIT:
        fix = f"is not known: choose one of {', '.join(ANGSTROM_PER_UNIT)}, px"
        raise BadInput(f"{place}: positions_unit", unit, fix)
    return values * ANGSTROM_PER_UNIT[unit]


def _read_positions(
    path: Path, given: dict[str, Any], read_member: Callable[[str], np.ndarray] | None
) -> tuple[np.ndarray | None, str]:
    """Positions that the user names, and their unit: as stated, else as read with them, else angstrom."""
    name = given["positions"]
    stated = given["positions_unit"] or "A"
    if isinstance(name, (list, tuple)):
        parts = [np.ravel(np.asarray(_read_named_table(path, one, read_member))) for one in name]
        if len(parts[0]) != len(parts[1]):
            fix = "do not belong together: give one number for each pattern in both"
            raise BadInput(
                f"{path.name}: positions", f"{len(parts[0])} rows and {len(parts[1])} columns", fix
            )
        return np.column_stack(parts), stated
    if name is None:
        return None, "A"
    if _is_member(name, read_member):
        return _read_named_table(path, name, read_member), stated
    beside = path.parent / name
    table, unit = read_positions_table(beside if beside.exists() else Path(name), given["columns"])
    return table, given["positions_unit"] or unit


def _is_member(name: str, read_member: Callable[[str], np.ndarray] | None) -> bool:
    return read_member is not None and Path(name).suffix.lower() not in TABLE_SUFFIXES


def _read_named_table(
    path: Path, name: str | None, read_member: Callable[[str], np.ndarray] | None
) -> np.ndarray | None:
    """An array of the data file, or a file: in the folder of the data, or relative to the working folder."""
    if name is None:
        return None
    if read_member is not None and _is_member(name, read_member):
        return np.asarray(read_member(name))
    beside = path.parent / name
    return read_table(beside if beside.exists() else Path(name))


def _read_mask(
    path: Path,
    given: Mapping[str, Any],
    header: Header,
    read_member: Callable[[str], np.ndarray] | None,
    counts: Counts,
) -> np.ndarray:
    """Good pixels by the mask of the user, else by that of the file; all where there is none."""
    _, height, width = counts.shape
    name = given["mask"]
    mask = _read_named_table(path, name, read_member)
    place = f"{path.name}: mask: {name or 'of the file'}"
    if mask is None:
        if header.mask is None:
            return np.ones((height, width), bool)
        mask, name, ones = header.mask, "", "good"
    else:
        ones = given["mask_ones"]
    shape = (height, width)
    return interpret_mask(mask, name, place, shape, ones=ones, mean=lambda: mean_for_disk(counts))


def _require_some(good: np.ndarray, name: str) -> None:
    if not good.any():
        raise BadInput(f"{name}: mask", None, "marks every pixel as bad: is it inverted?")
