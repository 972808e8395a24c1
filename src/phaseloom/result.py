"""The outcome of a run: images, history, why it stopped, and all that is needed to repeat it."""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import (
    Any,
    NotRequired,  # a dependency of pydantic, which needs its own
)

import numpy as np
from pydantic import ConfigDict, FiniteFloat, PositiveInt, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from phaseloom import plugins
from phaseloom.data import nexus
from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.known_files import KnownFile, identify, purpose_of
from phaseloom.data.own_files.members import Member, describe_form, read_members
from phaseloom.data.own_files.tables import MAPS, RESULT_ABOUT, RESULT_ARRAYS
from phaseloom.data.scan import Geometry, wavelength_of
from phaseloom.data.signals import Axis, Signal, Signals, image_axes
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.metrics.resolution import RingCorrelation
from phaseloom.renames import renamed_attribute
from phaseloom.units import ENERGY, LENGTH

__all__ = ["Drift", "Provenance", "Result", "Uncertainty", "is_result", "load"]

log = logging.getLogger(__name__)

_LINKS = {"object": "/object", "probe": "/probe", "sigma": "/sigma", "coverage": "/coverage"}
"""Images of a file that its NeXus entry only links to."""


@dataclass(frozen=True)
class Provenance:
    """What made a result.

    Attributes:
        versions: of the package and of what it computes with.
        seed: of everything that was drawn.
        data: hash of counts, positions and mask.
        file: name of the data file.
        machine: processor architecture and system.
        finished: date and time, UTC, ISO 8601.
    """

    versions: Mapping[str, str]
    seed: int
    data: str
    file: str
    machine: str
    finished: str

    @classmethod
    def now(cls, *, seed: int, data: str, file: str) -> Provenance:
        """The provenance of something finished at this moment."""
        import datetime
        import importlib.metadata as meta

        versions = {name: meta.version(name) for name in ("phaseloom", "torch", "numpy", "h5py")}
        versions["python"] = platform.python_version()
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(versions, seed, data, file, f"{platform.machine()} {platform.system()}", when)


@dataclass(frozen=True, eq=False)
class Drift:
    """Moves of the positions taken apart, in the order of the scan; angstrom, ``(y, x)``.

    Attributes:
        trend: from the first pattern to the last, of a line through the moves.
        rest: rms length of what the line leaves.
        line: ``(n, 2)``; its mean moves the object with it, so no data can fix that.
    """

    trend: tuple[float, float]
    rest: float
    line: np.ndarray

    @classmethod
    def of(cls, start: np.ndarray, found: np.ndarray, /) -> Drift:
        """From positions ``(n, 2)`` as measured and as found, in the order in which they were taken.

        Example:
            >>> drift = Drift.of(np.zeros((5, 2)), np.arange(5.0)[:, None] * [0.5, 0.0] + [1.0, 0.0])
            >>> [round(length, 6) for length in (*drift.trend, drift.rest)]
            [2.0, 0.0, 0.0]
        """
        move = np.asarray(found, float) - start
        time = np.linspace(-0.5, 0.5, len(move)) if len(move) > 1 else np.zeros(len(move))
        trend = time @ move / max(time @ time, 1e-30)
        line = move.mean(0) + time[:, None] * trend
        rest = float(np.sqrt(((move - line) ** 2).sum(1).mean()))
        return cls((float(trend[0]), float(trend[1])), rest, line)

    def is_large(self, pixel: float, /) -> bool:
        """Whether the trend is more than jitter: drift, or a wrong step or defocus.

        Args:
            pixel: of the object, angstrom.
        """
        return max(abs(part) for part in self.trend) > max(2 * self.rest, 0.5 * pixel)


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """The standard deviation of the phase, or why it is not known (`phaseloom.reconstruction.uncertainty`).

    Attributes:
        sigma: ``(slice, y, x)`` by counting, radian; NaN where no beam went; ``None``: not known.
        pixel: median over the lit core, radian.
        mean: the same of a mean over 5 x 5 pixels.
        kappa: share of the information on the phase that background, masked and missing pixels leave.
        excess: square root of the loss where that is above one: the factor on sigma that covers a model error
            which is spread as noise is.
        reasons: why sigma is a lower bound: clauses by their codes
            (`phaseloom.reconstruction.uncertainty.LowerBound`).
        missing: why there is no map, a clause; empty where there is one.
        missing_code: the same as a code (`phaseloom.reconstruction.uncertainty.NoMap`).
        drawn: ``(slice, y, x)`` standard deviation over draws, smoothed; ``None``: none were asked for.
        draws: number of draws.
        drawn_pixel, drawn_mean: as ``pixel`` and ``mean``, of the draws.
    """

    sigma: np.ndarray | None = None
    pixel: float = math.nan
    mean: float = math.nan
    kappa: float = math.nan
    excess: float = math.nan
    reasons: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""
    missing_code: str = ""
    drawn: np.ndarray | None = None
    draws: int = 0
    drawn_pixel: float = math.nan
    drawn_mean: float = math.nan

    @property
    def scaled(self) -> np.ndarray | None:
        """``sigma`` times ``excess``: the map with the model error, where the loss shows one."""
        return None if self.sigma is None else self.sigma * self.excess

    def __str__(self) -> str:
        """One sentence.

        Example:
            >>> print(Uncertainty(np.full((1, 8, 8), 0.02), 0.02, 0.005, excess=1.0))
            phase ±0.02 rad per pixel, ±0.005 over 5 x 5 pixels
        """
        drawn = (
            f"{self.draws} draws: {_format_sigma(self.drawn_pixel, self.drawn_mean)}" if self.draws else ""
        )
        if self.sigma is None:
            return "; ".join(part for part in (f"phase: no error bar, as {self.missing}", drawn) if part)
        each = " and slice" if len(self.sigma) > 1 else ""
        parts = [f"phase {_format_sigma(self.pixel, self.mean, each)}"]
        if self.excess > EXCESS_TO_SHOW:
            wide = self.pixel * self.excess
            parts.append(f"±{wide:.2g} rad per pixel scaled by the root of the loss")
        parts += [drawn] if drawn else []
        parts += [f"lower bound because {', '.join(self.reasons.values())}"] if self.reasons else []
        return "; ".join(parts)


EXCESS_TO_SHOW = 1.05
"""Factor for a model error from which the scaled sigma is named."""


def _format_sigma(pixel: float, mean: float, each: str = "") -> str:
    return f"±{pixel:.2g} rad per pixel{each}, ±{mean:.2g} over 5 x 5 pixels"


@dataclass(frozen=True, eq=False)
class Result:
    """A reconstruction as a value; lengths in angstrom, phases in radian.

    Attributes:
        object: complex ``(slice, y, x)`` transmission; of an object in several states, their mean.
        probe: complex ``(mode, y, x)``, orthogonal, strongest first, in square roots of counts.
        positions: ``(n, 2)`` refined beam positions (row, column).
        positions_start: the same as measured.
        pixel: object pixel (y, x).
        origin: position (y, x) of the centre of object pixel ``[0, 0]``.
        coverage: ``(y, x)`` counts of beam that each object pixel saw.
        geometry: of the data.
        thickness: mean distance between slices.
        gaps: distance between neighbouring slices, one for each gap, refined.
        object_modes: ``(state, slice, y, x)``, the incoherent states of the object, if several.
        occupancies: share of each state, if several.
        tilts: ``(1, 2)``, or ``(n, 2)`` with one for each pattern: lean of the object's columns (y, x),
            radian.
        descan: ``(n, 2)`` shift of each pattern (y, x), pixels of the modelled grid, if any was refined.
        heights: ``(n,)`` refined positions along the beam, angstrom, where they were modelled.
        heights_start: the same as measured.
        opr_weights: complex ``(n, mode, basis)``: what each pattern's own modes are of those of ``probe``,
            where they were free to change from pattern to pattern.
        grid: (slow, fast) when the positions are a raster.
        scan_numbers: ``(n,)`` of which of several scans each pattern is, from 0, where some were joined.
        scan_offsets: ``(scan, 2)`` what was added to the positions of each of them (`split` takes it off).
        scan_energies: ``(scan, 3)`` energy (eV) of each of them, where these differ, and the ratios of phase
            and absorption (the logarithm of the modulus) to those of ``object``, which is that of the highest
            energy.
        scans: of each of them its ``file``, ``loss``, ``hold-out``, ``explained``, ``verdict`` and
            ``verdict_code``; empty where they were not measured.
        weights: ``(n,)`` intensity of each shot, refined.
        background: ``(y, x)`` counts, centred like the patterns.
        history: one dict per epoch.
        stopped: why the run ended, in a sentence.
        stop_reason: the same as a code (`phaseloom.fitting.outcome.StopReason`); empty in old files.
        verdict: how far it may be trusted, in a sentence (`phaseloom.fitting.verdict.judge_fit`).
        verdict_code: the same as a code (`phaseloom.fitting.outcome.Verdict`); empty in old files.
        metrics: numbers about the whole data.
        recipe: text of the parameter file that repeats the run.
        provenance: see `Provenance`.
        start: what the automatic start tried and chose.
        title: for figures.
        examples: some measured and modelled patterns, for figures, and which of their pixels count.
        advice: what the run should make its user do, in sentences.
        halves: ring correlation of two reconstructions from half of the counts each, if asked for.
        uncertainty: of the phase; ``None`` in results of earlier versions.
        metadata: of the scan, text by name: instrument, date, ``setup`` (what was known of the experiment,
            and what of it the file states), ``original header``.
    """

    object: np.ndarray
    probe: np.ndarray
    positions: np.ndarray
    positions_start: np.ndarray
    pixel: tuple[float, float]
    origin: tuple[float, float]
    coverage: np.ndarray
    geometry: Geometry
    thickness: float = 0.0
    gaps: tuple[float, ...] = ()
    object_modes: np.ndarray | None = None
    occupancies: np.ndarray | None = None
    tilts: np.ndarray | None = None
    descan: np.ndarray | None = None
    heights: np.ndarray | None = None
    heights_start: np.ndarray | None = None
    opr_weights: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    scan_numbers: np.ndarray | None = None
    scan_offsets: np.ndarray | None = None
    scan_energies: np.ndarray | None = None
    scans: list[dict[str, Any]] = field(default_factory=list)
    weights: np.ndarray | None = None
    background: np.ndarray | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    stop_reason: str = ""
    verdict: str = ""
    verdict_code: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""
    provenance: Provenance | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    examples: Mapping[str, np.ndarray] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)
    halves: RingCorrelation | None = None
    uncertainty: Uncertainty | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def sigma(self) -> np.ndarray | None:
        """Standard deviation of the phase by counting ``(slice, y, x)``, radian; ``None``: not known.

        A lower bound where ``uncertainty.reasons`` has any.
        """
        return None if self.uncertainty is None else self.uncertainty.sigma

    @property
    def potential(self) -> np.ndarray:
        """Projected potential ``(slice, y, x)`` in volt angstrom, of electrons: phase over `interaction`.

        Raises:
            BadInput: a scan with photons, which feel no potential.
        """
        from phaseloom.physics.optics import interaction

        if self.geometry.beam != "electron":
            raise BadInput("result.potential", self.geometry.beam, "is not an electron: use the phase")
        return self._phase_of_slices() / interaction(self.geometry.energy)

    def _phase_of_slices(self) -> np.ndarray:
        """Phase ``(slice, y, x)`` in radian, of each slice without constant and ramp."""
        from phaseloom.metrics.phase import remove_plane_wave

        return np.angle(remove_plane_wave(self.object, self.coverage_mask.astype(float)))

    @property
    def coverage_mask(self) -> np.ndarray:
        """``(y, x)``: where the object was lit well enough to be trusted."""
        return self.coverage > 0.05 * np.percentile(self.coverage[self.coverage > 0], 90)

    covered = renamed_attribute("covered", "coverage_mask")

    def metadata_text(self) -> str:
        """The metadata as lines ``name: text``, as ImageJ has them in the information on an image."""
        return "\n".join(f"{name}: {text.strip()}" for name, text in self.metadata.items())

    @property
    def drift(self) -> Drift:
        """How the refined positions moved over the scan."""
        return Drift.of(self.positions_start, self.positions)

    @property
    def phase(self) -> np.ndarray:
        """Phase ``(y, x)`` in radian summed over slices; a constant and a ramp are arbitrary."""
        from phaseloom.metrics.phase import remove_plane_wave, remove_ramp, sum_phase

        covered = self.coverage_mask.astype(float)
        return remove_ramp(sum_phase(remove_plane_wave(self.object, covered)), covered, robust=True)

    def split(self) -> list[Result]:
        """A result for each of several scans that were joined, in the frame of its own positions.

        Each has the part of the object that its beam saw, at its own energy (where phases span less than
        2 pi), and its own probe where each scan had one, with its own loss, hold-out loss, share explained
        and verdict (`scans`). The history is that of all scans
        together, as are verdict and numbers where a run was too short to measure them. A part has no
        parameter file that would repeat it.

        Raises:
            BadInput: the result of one scan.
        """
        if self.scan_numbers is None:
            fix = "is of one scan: only what prepare: join made one is split"
            raise BadInput("result", self.title or None, fix)
        return [_cut_scan(self, int(number)) for number in np.unique(self.scan_numbers)]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the scanned field: where beam centres went."""
        places = (self.positions - np.array(self.origin)) / np.array(self.pixel)
        low = np.floor(places.min(0)).astype(int)
        high = np.ceil(places.max(0)).astype(int) + 1
        rows, columns = (slice(max(int(a), 0), int(b)) for a, b in zip(low, high, strict=True))
        return rows, columns

    def signals(self, *, slices: bool = True) -> Signals:
        """All images with their axes, the summed phase first.

        ``phase``, ``phase_slices`` and ``amplitude`` (the product over slices) are of the scanned field
        (`window`); ``object``, ``coverage`` and ``sigma`` are whole. Coordinates are those of the beam
        positions; of the probe they are from the middle of its window, ``[N // 2, N // 2]``.

        Args:
            slices: whether to give the phase of every slice, which takes as long as the summed one.
        """
        window = self.window
        corner = [o + w.start * p for o, w, p in zip(self.origin, window, self.pixel, strict=True)]
        field_axes = image_axes(self.pixel, (corner[0], corner[1]))
        whole_axes = image_axes(self.pixel, self.origin)
        middle = [-(n // 2) * p for n, p in zip(self.probe.shape[-2:], self.pixel, strict=True)]
        depth = Axis("slice", self.thickness, 0.0, "A") if self.thickness else Axis("slice")
        amplitude = np.abs(np.prod(self.object, axis=0))
        probe_axes = (Axis("mode"), *image_axes(self.pixel, (middle[0], middle[1])))
        found = [
            Signal("phase", self.phase[window].astype(np.float32), field_axes, "rad", "phase"),
            Signal("amplitude", amplitude[window].astype(np.float32), field_axes, "", "amplitude"),
            Signal("object", self.object, (depth, *whole_axes), "", "transmission of the object"),
            Signal("probe", self.probe, probe_axes, "sqrt(counts)", "probe"),
            Signal("coverage", self.coverage, whole_axes, "counts", "counts of beam on each pixel"),
        ]
        if slices and len(self.object) > 1:
            stack = self._phase_of_slices()[(slice(None), *window)].astype(np.float32)
            found.insert(1, Signal("phase_slices", stack, (depth, *field_axes), "rad", "phase of each slice"))
        if self.sigma is not None:
            title = "standard deviation of the phase"
            found.append(Signal("sigma", self.sigma, (depth, *whole_axes), "rad", title))
        return Signals(
            title=self.title or "Phaseloom reconstruction",
            signals=tuple(found),
            kind="result",
            beam=self.geometry.beam,
            wavelength=self.geometry.wavelength,
            energy=self.geometry.energy,
            distance=self.geometry.distance,
            angle=self.geometry.angle,
            metadata=dict(self.metadata),
            process=self._process(),
        )

    def _process(self) -> dict[str, str]:
        """What made the result, in texts."""
        made = self.provenance
        known = {"recipe": self.recipe, "verdict": self.verdict, "stopped": self.stopped}
        known["uncertainty"] = "" if self.uncertainty is None else str(self.uncertainty)
        if made is None:
            return known
        return known | {
            "version": made.versions.get("phaseloom", ""),
            "date": made.finished,
            "data_file": made.file,
            "data_hash": made.data,
        }

    def __repr__(self) -> str:
        """Title, object, probe, patterns, beam and verdict in a line; `verdict` says more."""
        slices, rows, columns = self.object.shape
        pixel = " x ".join(LENGTH.show(one, digits=4) for one in self.pixel)
        facts = [
            *([self.title] if self.title else []),
            f"{slices} slice{'s' * (slices > 1)} of {rows} x {columns} pixels",
            f"object pixel {pixel}",
            f"{len(self.probe)} probe mode{'s' * (len(self.probe) > 1)}",
            f"{len(self.positions)} patterns",
            f"{self.geometry.beam}s of {ENERGY.show(self.geometry.energy, digits=4)}",
            self.verdict_code.replace("_", " ") or "no verdict",
        ]
        return f"Result({'; '.join(facts)})"

    def _repr_html_(self) -> str:
        describe: Any = plugins.target("phaseloom.result", "describe")
        return describe(self)

    def view(self) -> Any:
        """Panes that show the result in a notebook: images, contrast, slices, probe, losses, positions.

        Raises:
            MissingExtra: Panel is not installed.
        """
        view: Any = plugins.target("phaseloom.result", "view")
        return view(self)

    def save(self, path: Path | str, /) -> None:
        """Write by ending: ``.h5`` (everything), or a format of `phaseloom.export` (``.nxs``, ``.cxi``,
        ``.emd``, ``.hspy``, ``.mrc``, ``.tif``).

        A folder that is missing is made.

        Raises:
            BadInput: an ending of another kind, or a file that cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".h5", ".hdf5"):
                self.write(path)
                return
            write: Any = plugins.target("phaseloom.result", "write")
            write(self, path)
        except BadInput:
            raise
        except OSError as problem:
            fix = f"cannot be written ({problem.strerror or problem}): name a folder that can be written to"
            raise BadInput(str(path), None, fix) from problem

    def write(self, path: Path | str, /) -> None:
        """Write everything as HDF5 with a NeXus entry (`signals`), whatever the ending."""
        _write_h5(self, Path(path))

    @classmethod
    def load(cls, path: Path | str, /) -> Result:
        """Read a result written as ``.h5``.

        Raises:
            BadInput: no file, or not a result of ours.
        """
        if not Path(path).is_file():
            raise BadInput(str(path), None, "does not exist: give the result.h5 of a run")
        kind = identify(Path(path))
        if kind not in (None, KnownFile.RESULT):
            purpose = purpose_of(kind)
            raise BadInput(str(path), None, f"is not a Phaseloom result but {purpose.what}: {purpose.use}")
        if kind is None:
            raise BadInput(str(path), None, "is not a Phaseloom result: give a result.h5")
        with open_hdf5(Path(path)) as file:
            return _read(file, str(path))


def load(path: Path | str, /) -> Result:
    """Read a result; see `Result.load`."""
    return Result.load(path)


def is_result(path: Path, /) -> bool:
    """Whether a file is a result of ours, whatever its ending."""
    return identify(path) is KnownFile.RESULT


@with_config(ConfigDict(extra="allow"))
class _EpochRecord(TypedDict):
    """What is read of an epoch in the history of a run."""

    number: NotRequired[int]
    loss: float
    holdout: NotRequired[float | None]
    terms: NotRequired[dict[str, float]]
    rates: NotRequired[dict[str, float]]
    seconds: NotRequired[float]


@with_config(ConfigDict(extra="allow"))
class _ScanRecord(TypedDict):
    """What is kept of one of several scans that were joined."""

    number: int
    file: str
    loss: float
    verdict: str
    verdict_code: str


class _UncertaintyNumbers(TypedDict, total=False):
    """An `Uncertainty` without its maps."""

    pixel: float
    mean: float
    kappa: float
    excess: float
    reasons: dict[str, str]
    missing: str
    missing_code: str
    draws: int
    drawn_pixel: float
    drawn_mean: float


_JSON = (
    Member("history", "json", form=list[_EpochRecord]),
    Member("metrics", "json", form=dict[str, float]),
    Member("provenance", "json", form=Provenance | None),
    Member("geometry", "json", form=dict[str, Any]),
    Member("start", "json", form=dict[str, Any]),
    Member("advice", "json", form=list[str], optional=True),
    Member("gaps", "json", form=tuple[FiniteFloat, ...], optional=True),
    Member("grid", "json", form=tuple[PositiveInt, PositiveInt] | None, optional=True),
    Member("metadata", "json", form=dict[str, str], optional=True),
    Member("scans", "json", form=list[_ScanRecord], optional=True),
)
_LATER = {"advice": [], "gaps": (), "grid": None, "metadata": {}, "scans": []}
"""What files of earlier versions lack, with what stands for it."""

_TEXTS = (
    Member("@title", "text"),
    Member("@stopped", "text"),
    Member("@verdict", "text", optional=True),
    Member("@stop_reason", "text", optional=True),
    Member("@verdict_code", "text", optional=True),
    Member("recipe", "text"),
    Member("uncertainty", "json", form=_UncertaintyNumbers, optional=True),
)
_EXAMPLES = (
    Member("examples/index", "integer", "example", optional=True),
    Member("examples/measured", "real", "example row column", optional=True),
    Member("examples/modelled", "real", "example row column", optional=True),
    Member("examples/good", "integer", "row column", optional=True),
)
_HALVES = tuple(
    Member(f"halves/{one.name}", "real", "ring", finite=False, optional=True)
    for one in fields(RingCorrelation)
)


def _cut_scan(result: Result, number: int) -> Result:
    """What a result has of one of its scans."""
    assert result.scan_numbers is not None
    own = result.scan_numbers == number
    offset = np.zeros(2) if result.scan_offsets is None else result.scan_offsets[number]
    places = (result.positions[own] - np.array(result.origin)) / np.array(result.pixel)
    reach = np.array(result.probe.shape[-2:]) // 2 + 1
    low = np.maximum(np.floor(places.min(0)).astype(int) - reach, 0)
    high = np.ceil(places.max(0)).astype(int) + reach + 1
    window = (..., slice(low[0], high[0]), slice(low[1], high[1]))
    corner = np.array(result.origin) + low * result.pixel - offset
    cut = {
        name: value[window]
        for name in ("object", "object_modes", "coverage")
        if (value := getattr(result, name)) is not None
    }
    for name in ("weights", "tilts", "descan", "heights", "heights_start", "opr_weights"):
        value = getattr(result, name)
        cut[name] = value[own] if value is not None and len(value) == len(own) else value
    mixed = cut["opr_weights"]
    if mixed is not None and np.allclose(mixed, mixed[:1]):  # one probe for this scan
        cut |= {"probe": np.einsum("mk,kyx->myx", mixed[0], result.probe), "opr_weights": None}
    bars = result.uncertainty
    if bars is not None:
        maps = {name: None if (one := getattr(bars, name)) is None else one[window] for name in _SIGMA_MAPS}
        cut["uncertainty"] = replace(bars, **maps)
    if result.scan_energies is not None:
        cut |= _convert_to_energy(result, cut, result.scan_energies[number])
    return replace(
        result,
        positions=result.positions[own] - offset,
        positions_start=result.positions_start[own] - offset,
        origin=(float(corner[0]), float(corner[1])),
        title=f"{result.title}, scan {number}",
        recipe="",
        scans=[],
        **_cut_numbers(result, number),
        scan_numbers=None,
        scan_offsets=None,
        scan_energies=None,
        examples={},
        **cut,
    )


def _convert_to_energy(result: Result, cut: Mapping[str, Any], row: np.ndarray) -> dict[str, Any]:
    """A part of an object, its error bars and the geometry, at the energy of a row of ``scan_energies``."""
    from phaseloom.metrics.phase import sum_phase

    energy, of_phase, of_absorption = row.tolist()
    wave, bars = cut["object"], cut.get("uncertainty")
    turned = np.exp(1j * of_phase * sum_phase(wave))
    found: dict[str, Any] = {"object": (np.abs(wave) ** of_absorption * turned).astype(wave.dtype)}
    if bars is not None:
        names = [*_SIGMA_MAPS, "pixel", "mean", "drawn_pixel", "drawn_mean"]
        scaled = {name: of_phase * one for name in names if (one := getattr(bars, name)) is not None}
        found["uncertainty"] = replace(bars, **scaled)
    wavelength = wavelength_of(energy, result.geometry.beam)
    return found | {"geometry": replace(result.geometry, wavelength=wavelength)}


MEASURED_OF_SCANS = ("loss", "hold-out", "explained", "error of explained")
MEASURED_OF_SCANS += ("energy (eV)", "phase ratio", "absorption ratio")
"""Numbers of a result that each of several scans has for itself."""


def _cut_numbers(result: Result, number: int) -> dict[str, Any]:
    """Verdict and numbers of one of the scans; those of all, where none were measured."""
    own = next((one for one in result.scans if one["number"] == number), None)
    if own is None:
        return {"verdict": f"{result.verdict} (of all joined scans together, not of this one)"}
    others = {name: value for name, value in result.metrics.items() if name == "move rms (A)"}
    measured = {name: own[name] for name in MEASURED_OF_SCANS if name in own}
    codes = {"verdict": own["verdict"], "verdict_code": own["verdict_code"]}
    return codes | {"metrics": measured | others, "halves": None, "advice": []}


def _write_h5(result: Result, path: Path) -> None:

    with whole_hdf5(path) as file:
        file.attrs["phaseloom_result"] = 1
        file.attrs["title"] = result.title
        file.attrs["stopped"] = result.stopped
        file.attrs["verdict"] = result.verdict
        file.attrs["stop_reason"] = result.stop_reason
        file.attrs["verdict_code"] = result.verdict_code
        file.attrs["thickness"] = result.thickness
        file.attrs["pixel"] = result.pixel
        file.attrs["origin"] = result.origin
        for name in (member.name for member in RESULT_ARRAYS):
            if (array := getattr(result, name)) is not None:
                compression = "gzip" if array.size > 10_000 else None
                file.create_dataset(name, data=array, compression=compression)
        for name, unit in {
            "positions": "angstrom",
            "positions_start": "angstrom",
            "probe": "sqrt(counts)",
        }.items():
            file[name].attrs["units"] = unit
        for name in (member.name for member in _JSON):
            value = getattr(result, name)
            plain = asdict(value) if hasattr(value, "__dataclass_fields__") else value
            file[name] = json.dumps(plain, default=_plain)
        file["recipe"] = result.recipe
        for name, array in result.examples.items():
            file.create_dataset(f"examples/{name}", data=array, compression="gzip")
        for name, array in ({} if result.halves is None else vars(result.halves)).items():
            file.create_dataset(f"halves/{name}", data=array)
        if result.uncertainty is not None:
            _write_uncertainty(result.uncertainty, file)
        _write_entry(result, file)


def _write_entry(result: Result, file: Any) -> None:
    """The NeXus entry; a result whose phase cannot be computed is kept without one."""
    try:
        signals = result.signals(slices=False)  # the object has them
    except (ValueError, IndexError, np.linalg.LinAlgError) as problem:
        log.warning("result: no phase to show in NeXus viewers: %s", problem)
        return
    nexus.write_entry(file, signals, links=_LINKS)


_SIGMA_MAPS = {"sigma": "sigma", "drawn": "sigma_of_draws"}
"""Attributes of an uncertainty that are data sets of a file, and their names there."""


def _write_uncertainty(uncertainty: Uncertainty, file: Any) -> None:
    """Maps beside the object, everything else as text; a map has the numbers that belong to it."""
    about = {f.name: getattr(uncertainty, f.name) for f in fields(uncertainty) if f.name not in _SIGMA_MAPS}
    file["uncertainty"] = json.dumps(about, default=_plain)
    for name, place in _SIGMA_MAPS.items():
        if (array := getattr(uncertainty, name)) is None:
            continue
        stored = file.create_dataset(place, data=array, compression="gzip" if array.size > 10_000 else None)
        stored.attrs["units"] = "rad"
    if uncertainty.sigma is not None:
        about = {"kappa": uncertainty.kappa, "excess": uncertainty.excess}
        file["sigma"].attrs.update(about | {"lower_bound": [*uncertainty.reasons]})


def _read(file: Any, name: str) -> Result:
    """Everything of an open file; what does not fit is refused."""
    stored = read_members(file, (*RESULT_ARRAYS, *MAPS, *RESULT_ABOUT, *_TEXTS, *_EXAMPLES, *_HALVES), name)
    known: dict[str, Any] = {member.name: stored[member.name] for member in RESULT_ARRAYS}
    known |= {key: _LATER.get(key) if value is None else value for key, value in _read_json(file, name)}
    known |= {key: stored[key] or "" for key in ("verdict", "stop_reason", "verdict_code")}
    known |= {key: stored[key] for key in ("title", "stopped", "thickness", "recipe")}
    known |= {key: tuple(map(float, stored[key])) for key in ("pixel", "origin")}
    known["geometry"] = _read_geometry(known["geometry"], name)
    if known["grid"] is not None and math.prod(known["grid"]) != len(known["positions"]):
        fix = f"does not fit: there are {len(known['positions'])} positions"
        raise BadInput(f"{name}: /grid", known["grid"], fix)
    known["uncertainty"] = _read_uncertainty(stored)
    known["examples"] = _read_parts(stored, "examples/")
    halves = _read_parts(stored, "halves/")
    known["halves"] = RingCorrelation(**halves) if halves else None
    return Result(**known)


def _read_json(file: Any, name: str) -> Iterable[tuple[str, Any]]:
    return read_members(file, _JSON, name).items()


def _read_parts(stored: Mapping[str, Any], above: str) -> dict[str, Any]:
    """Members of a group by their names: all of them, or nothing."""
    parts = {key.removeprefix(above): value for key, value in stored.items() if key.startswith(above)}
    return {} if any(value is None for value in parts.values()) else parts


def _read_uncertainty(stored: Mapping[str, Any]) -> Uncertainty | None:
    if stored["uncertainty"] is None:
        return None
    maps = {name: stored[place] for name, place in _SIGMA_MAPS.items()}
    return Uncertainty(**stored["uncertainty"], **maps)


def _read_geometry(stored: dict[str, Any], name: str) -> Geometry:
    """The geometry of a table of its fields; those of a later version are left."""
    known = {one.name for one in fields(Geometry)}
    try:
        return TypeAdapter(Geometry).validate_python(
            {key: value for key, value in stored.items() if key in known}
        )
    except ValidationError as problem:
        raise describe_form(problem, f"{name}: /geometry") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple | np.ndarray) else dict(value)
