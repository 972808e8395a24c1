"""From a file of patterns to a phase image."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from phaseloom.data.diagnostics import require_order_of_axes
from phaseloom.data.scan import Scan4D
from phaseloom.documents import parse_yaml
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import optimizers
from phaseloom.fitting.distributed import team
from phaseloom.ptycho import objects, scans
from phaseloom.ptycho.likelihood import Penalty
from phaseloom.ptycho.model import Ptychography, scatter_object
from phaseloom.ptycho.optimizers import engines
from phaseloom.ptycho.probes.guesses import read_beam_optics
from phaseloom.reconstruction.start import Start
from phaseloom.result import Result, is_result
from phaseloom.runs import memory as _memory
from phaseloom.runs.scan_recipe import MAX_EPOCHS, ScanRecipe
from phaseloom.runs.steered import SteeredCommand
from phaseloom.spec import Call, call, knobs, part

__all__ = ["Reconstruct"]

log = logging.getLogger(__name__)

SHAPE_MODULE = "phaseloom.fitting.schedule"
"""Where the shapes of rates are."""

OBJECTS_IN_TILES = ("pixels", "from_file")
WHOLE_OPTIMIZERS = ("lbfgs", "adafactor")
"""Optimisers whose steps follow from all pixels together."""

DEFAULT_RATES = {"object": 0.02, "probe": 0.02, "positions": 0.02, "affine": 0.02, "weights": 0.002}
"""Steps relative to the natural size of each part: transmission 1, probe's peak, a pixel, a weight of 1."""


PARTS = (
    *("object", "amplitude", "phase", "probe", "defocus", "semiangle", "positions", "affine", "rotation"),
    *("scale", "lines", "heights", "height_scale", "tilts", "thickness", "shift", "descan", "weights"),
    *("background", "blur", "opr_weights", "energies"),
)
"""All that can have a rate; which of them an experiment has depends on its parts."""


def require_part(name: str, /) -> None:
    """Refuse a change of the rate of something that no model has."""
    if name not in PARTS:
        raise BadInput("changes: part", name, f"is not a part of a model: {nearest(name, PARTS)}")


def _in_current_names(node: Any, place: str) -> Any:
    """The node of a shape with the names of today, which files are written with."""
    if node is None:
        return None
    curve = call(SHAPE_MODULE, node, place)
    return curve.to_tree() if curve.values else curve.name


class ScheduledRate(BaseModel):
    """Rate of a part with the epochs between which it moves."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rate: float
    start: int = Field(1, ge=1)
    stop: int | None = Field(None, ge=1)
    shape: Any = None

    @field_validator("shape")
    @classmethod
    def _in_current_names(cls, node: Any) -> Any:
        return _in_current_names(node, "rates: shape")

    @model_validator(mode="after")
    def _moves_at_all(self) -> Self:
        if self.stop is not None and self.stop < self.start:
            raise BadInput(
                "rates", f"stop: {self.stop}", f"lies before start: {self.start}; write 0 to freeze"
            )
        return self

    def as_rate(self) -> optimizers.Rate:
        """As optimisers want it."""
        if self.shape is None:
            return optimizers.Rate(self.rate, self.start, self.stop)
        curve = call(SHAPE_MODULE, self.shape, "rates: shape").partial()
        return optimizers.Rate(self.rate, self.start, self.stop, curve)


class RateChange(BaseModel):
    """A rate that holds from an epoch on, decided during the run by `Job.rate` or a command.

    ``start`` is a later epoch in which the part begins to move, ``shape`` another shape of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    epoch: int = Field(ge=1, strict=True)
    part: str
    rate: float = Field(ge=0, allow_inf_nan=False)
    stop: int | None = Field(None, ge=1, strict=True)
    start: int | None = Field(default=None, ge=1, strict=True)
    shape: Any = None

    @field_validator("shape")
    @classmethod
    def _in_current_names(cls, node: Any) -> Any:
        return _in_current_names(node, "changes: shape")

    @model_validator(mode="after")
    def _of_a_part(self) -> Self:
        require_part(self.part)
        if self.stop is not None and self.stop < self.epoch:
            fix = f"lies before epoch: {self.epoch}; write rate: 0 to freeze"
            raise BadInput("changes", f"stop: {self.stop}", fix)
        return self

    def for_group(self, start: int, /) -> dict[str, Any]:
        """What changes in a group of an optimiser that moved from an epoch ``start`` on."""
        if not self.rate:
            return {"stop": self.epoch - 1}
        changed = {"base": self.rate, "stop": self.stop, "start": self.start or min(start, self.epoch)}
        if self.shape is not None:
            changed["shape"] = call(SHAPE_MODULE, self.shape, "changes: shape").partial()
        return changed


DEFAULT_NEWTON_RATES = {
    "object": 0.2,
    "probe": 0.4,
    "positions": ScheduledRate(rate=1.0, start=1, stop=None, shape="constant"),
    "affine": ScheduledRate(rate=0.1, start=1, stop=None, shape="late"),
}
"""The same for ``optimizer: gauss_newton``: shares of the Newton step. That of a position is its own
pattern's, so it does not have to fall for the sake of the others. A map of all positions makes up for a
probe that is not found yet, and hardly comes back from that: it waits."""


DEFAULT_ENERGY_RATE = ScheduledRate(rate=0.1, start=5, stop=None)
"""Of the ratios of phase and absorption at several energies, where the scans have these; before, the first
images would move them far. On three pairs with few updates 0.02 was too slow, and 0.2 no better."""


NOISE_OF_ENERGIES = "poisson"
"""Of scans of several energies: amplitudes are biased where counts are few, and absorption ratios by that."""


DEFAULT_ENGINE_RATES = {"object": 1.0, "probe": 1.0}
"""Factors on the steps of the classical engines, which move nothing else."""


PATIENCE_OF_PREDICTED_OBJECT = 5
"""Epochs without improvement that a run from a predicted object waits for: noise is all that is left soon."""


class Reconstruct(ScanRecipe):
    """A ptychographic reconstruction: its parameters are those of the file ``run.yaml``.

    Attributes:
        file: the measured patterns; ``in memory`` where a program hands them over (`Job.begin`).
        read: format and what the file does not say; default: found out.
        prepare: transforms of the scan, in order.
        mask: hot and dead pixels are found and masked (``auto``), or not (``none``).
        object: the grid that the phase is found on: slices, and what is free in them.
        probe: the first guess of the illumination.
        propagator: how waves fly, exact or paraxial, and how the object is tilted.
        detector: what becomes of the waves: blur, transfer, pixels.
        noise: how counts are compared with the model; default: poisson for electrons and for scans of several
            energies, amplitude for other photons.
        penalties: what else the loss asks for.
        start: how the first guess is settled.
        rates: how far parts move: shares of a Newton step, or natural sizes (docs/parameters.md).
        changes: rates that hold from an epoch on, as decided in the middle of a run.
        steered: commands that the run has followed (docs/steering.md), which one that repeats it follows too.
        snapshots: epochs after which a snapshot is kept to go back to; 0: the last one alone.
        optimizer: how steps are made.
        shape: how rates change over the run; with a classical engine ``cosine`` without knobs means constant.
        projections: what is imposed after epochs.
        object_prior: what holds down noise that few electrons leave in the object: its power as the direct
            image of an electron scan shows it (``direct``), or nothing (``none``); ``auto``: the former after
            a calibration.
        compare_starts: whether an object that is known before the first epoch (a prediction, one from a file,
            a direct image of a far field) is compared with a flat one in a short trial; ``false``: a
            prediction or direct image is taken if it explains the patterns better than no object, a file
            always, and no difference map is tried for photons whose start is far from the noise.
        batch: how patterns are grouped; with gauss_newton their overlap gives the size.
        outputs: files written besides result and report.
        epochs: at most.
        axial: whether positions along the beam are modelled; default: where they differ by a tenth of
            the depth of focus.
        fly: share of the time between two positions in which the shutter is open while the beam moves (a fly
            scan): 1 for continuous exposure; default: the beam stands still.
        levels: coarser grids that the run begins on; default: one, where that loses no light; in a near field
            that is modelled on finer pixels than the detector has (`enlarge`), all down to the detector's.
        holdout: share of the patterns that tell when to stop; the last tenth of the epochs learns from all.
        patience: epochs without improvement of the hold-out loss before stopping.
        seed: of everything that is drawn.
        device: where to compute.
        tiles: whether each of several processes holds a part of the object only, which its patterns see, so
            that an object may be larger than the memory of a GPU (docs/scaling.md); such a run begins with a
            flat object or one of a file, on the grid of the data.
        preset: what is found before the run begins: orientation, optics and geometry of an electron scan
            (``calibrate``, `phaseloom.calibration.calibrate`), or nothing (``none``); ``auto``: the former
            where neither file nor ``prepare`` says how the detector lies, ``start`` is left open, and the
            mean pattern has a clear bright disk.
        title: for figures and files.

    Example:
        >>> Reconstruct.of({"file": "scan.cxi", "epochs": 30}).epochs
        30
    """

    strict: ClassVar[bool] = True

    mask: Literal["auto", "none"] = "auto"
    object: Call = part("phaseloom.ptycho.objects", "pixels")
    probe: Call = part("phaseloom.ptycho.probes", "auto")
    propagator: Call = part("phaseloom.ptycho.propagators", "exact")
    detector: Call = part("phaseloom.ptycho.detectors", "counting")
    noise: Call | None = part("phaseloom.ptycho.noise", None)
    penalties: tuple[Call, ...] = part("phaseloom.ptycho.penalties", ())
    start: Call = part("phaseloom.reconstruction.start", "sweep")
    rates: Mapping[str, float | ScheduledRate] = Field(default_factory=dict)
    changes: tuple[RateChange, ...] = ()
    steered: tuple[SteeredCommand, ...] = ()
    snapshots: int = Field(0, ge=0, strict=True)
    optimizer: Call = part("phaseloom.ptycho.optimizers", "gauss_newton")
    shape: Call = part(SHAPE_MODULE, "cosine")
    projections: tuple[Call, ...] = part("phaseloom.ptycho.projections", ())
    object_prior: Literal["auto", "direct", "none"] = "auto"
    compare_starts: bool = Field(True, strict=True)
    batch: Call = part("phaseloom.ptycho.batches", "random")
    outputs: tuple[Call, ...] = part("phaseloom.export", ())
    epochs: int = Field(20, ge=1, le=MAX_EPOCHS, strict=True)
    axial: bool | None = None
    fly: float | None = Field(None, ge=0, le=1)
    levels: int | None = Field(None, ge=0, le=4, strict=True)
    holdout: float = Field(0.05, ge=0, lt=0.9)
    patience: int | None = Field(15, ge=1, strict=True)
    seed: int = Field(0, ge=0, lt=2**63, strict=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tiles: bool = Field(False, strict=True)
    preset: Literal["auto", "calibrate", "none"] = "auto"
    title: str = ""
    found: dict[str, Any] = Field(default_factory=dict)

    @field_validator("preset", mode="before")
    @classmethod
    def _none_as_word(cls, node: Any) -> Any:
        return "none" if node is None else node

    @field_validator("rates", mode="before")
    @classmethod
    def _rates_are_numbers(cls, node: Any) -> Any:
        """Refuse rates of unknown parts, and the truth values that YAML reads yes and no as (1 and 0)."""
        for name, rate in node.items() if isinstance(node, Mapping) else ():
            if name not in PARTS:
                raise BadInput("rates", name, f"is not a part of the model: {nearest(name, PARTS)}")
            if isinstance(rate, bool):
                fix = "is not a rate: write a number such as 1.0, or 0 for a part that stands still"
                raise BadInput(f"rates.{name}", rate, fix)
        return node

    @model_validator(mode="after")
    def _masks_or_not(self) -> Self:
        if self.mask == "none" and self.finds_outliers:
            fix = "contradicts prepare: {mask: {outliers: true}}, which an earlier run may have written:"
            raise BadInput("mask", "none", f"{fix} remove that step, or leave mask out")
        return self

    @property
    def finds_outliers(self) -> bool:
        """Whether a step of `prepare` masks hot and dead pixels."""
        return any(step.name == "mask" and step.values.get("outliers") for step in self.prepare)

    @classmethod
    def from_path(cls, path: Path | str, settings: Mapping[str, Any] | None = None, /) -> Self:
        """A recipe for a data file, from a parameter file, or out of a result, with settings changed."""
        path = Path(path)
        if path.suffix in (".yaml", ".yml") or not is_result(path):
            return super().from_path(path, settings)
        text = Result.load(path).recipe
        if not text:
            fix = "has no parameter file of its own, as a part of joined scans: write one for that scan alone"
            raise BadInput(path.name, None, fix)
        recipe = cls.of(parse_yaml(text, f"{path}: recipe")).with_paths_from(path.parent)
        return recipe.with_given_settings(settings)

    def scan(self, given: Scan4D | None = None, /) -> Scan4D:
        """The data, read or handed over, and prepared."""
        scan = super().scan(given)
        if min(scan.geometry.shape) < 2:
            fix = "are too few to reconstruct from: bin less, or check the axes of the data set"
            raise BadInput(self.file.name, f"patterns of {scan.geometry.shape} pixels", fix)
        scan = replace(scan, heights=None) if self.axial is False else scan
        if self.tiles:
            self._require_tileable(scan)
        return scan

    def check_whole(self, whole: Scan4D, /) -> None:
        """Refuse a file that has the axes of the detector before those of the scan."""
        require_order_of_axes(whole, self.file.name)

    def _require_tileable(self, scan: Scan4D) -> None:
        """Refuse what has to see the whole object at once.

        Raises:
            BadInput: a near field, or an object, optimizer or coarser grid of that kind.
        """
        refused = {
            f"object: {self.object.name}": self.object.name not in OBJECTS_IN_TILES,
            f"optimizer: {self.optimizer.name}": self.optimizer.name in WHOLE_OPTIMIZERS or self.uses_engine,
            f"levels: {self.levels}": bool(self.levels),
            "a near field": scan.geometry.near,
            "positions along the beam (axial)": scan.heights is not None,
        }
        if found := [what for what, is_refused in refused.items() if is_refused]:
            fix = "cannot be shared in tiles yet: write tiles: false, in which each process holds the object"
            raise BadInput("tiles", found[0], fix)

    def settle(self, scan: Scan4D, /) -> tuple[Self, Start | None]:
        """The recipe with what was left open decided from the data: probe, defocus, orientation."""
        if scan.scan_wavelengths is not None:
            return self._suit_energies().settle(replace(scan, scan_wavelengths=None))
        probe = self.probe
        if probe.name == "auto":
            name = "stored" if scan.probe is not None else "from_patterns"
            probe = replace(probe, name=name)
        found = self.start(scan, probe, self.seed)
        changed: dict[str, Any] = {
            "rates": self.all_rates(),
            "probe": probe,
            "start": Call("phaseloom.reconstruction.start", "none"),
        }
        changed["noise"] = self.noise_of(scan)
        if self.uses_engine and self.shape == Call(SHAPE_MODULE, "cosine"):  # the default of a file
            changed["shape"] = Call(SHAPE_MODULE, "constant")
        is_forced = self.object.name == "predicted" and not self.compare_starts
        if is_forced and "patience" not in self.model_fields_set:
            changed["patience"] = PATIENCE_OF_PREDICTED_OBJECT
        if found is not None:
            if "defocus" in knobs(probe.room, probe.name) and not scan.geometry.near:
                changed["probe"] = replace(probe, values={**probe.values, "defocus": found.defocus})
            changed["prepare"] = (*self.prepare, *found.steps())
        return self.model_copy(update=changed), found

    def _suit_energies(self) -> Self:
        """The recipe with what scans of several energies want, as far as it is left open.

        Raises:
            BadInput: what they cannot have.
        """
        refused = {
            f"optimizer: {self.optimizer.name}": self.uses_engine,
            f"probe: {self.probe.name}": self.probe.name not in ("auto", "of_each_scan"),
            f"object: {self.object.name}": self.object.name not in ("pixels", "from_file"),
            "tiles": self.tiles,
        }
        if found := [what for what, is_refused in refused.items() if is_refused]:
            fix = "is not supported with scans of several energies: leave it out, or reconstruct one by one"
            raise BadInput(found[0], None, fix)
        probe = replace(self.probe, name="of_each_scan") if self.probe.name == "auto" else self.probe
        values = {"kind": "amplitude and phase", **self.object.values}
        usual = DEFAULT_ENERGY_RATE if self.optimizer.name == "gauss_newton" else DEFAULT_ENERGY_RATE.rate
        rates = {"energies": usual, **self.rates}
        changed = {"probe": probe, "object": replace(self.object, values=values), "rates": rates}
        changed |= {"noise": self.noise or Call("phaseloom.ptycho.noise", NOISE_OF_ENERGIES)}
        return self.model_copy(update=changed)

    @property
    def begins_with_known_object(self) -> bool:
        """Whether the object is a prediction, or that of a file."""
        return self.object.name in ("predicted", "from_file")

    def with_usual_noise(self) -> Self:
        """The same with one noise model from the first epoch on: losses of short runs are compared."""
        call = self.optimizer
        if call.name != "gauss_newton":
            return self
        return self.model_copy(
            update={"optimizer": replace(call, values={**call.values, "early_floor": 0.0})}
        )

    def noise_of(self, scan: Scan4D, /) -> Call:
        """The noise model given, or the usual one of the scan's beam."""
        usual = "amplitude" if scan.geometry.beam == "photon" else "poisson"
        return self.noise or Call("phaseloom.ptycho.noise", usual)

    def lowest_count(self, scan: Scan4D, /) -> float | None:
        """Value that the noise model can take: minus the floor of those with roots and logarithms."""
        noise = self.noise_of(scan)
        floor = knobs(noise.room, noise.name).get("floor")
        return None if floor is None else -float(noise.values.get("floor", floor.default))

    def build_model(self, scan: Scan4D, room: scans.Canvas | None = None, /) -> Ptychography:
        """The model of a scan with its first guesses, on a canvas of its own or the one given."""
        coarse = room is not None
        room = room or scans.canvas(scan)
        if self.tiles and team().world_size > 1:
            return self._build_tile(scan, room)
        if self.uses_engine:  # before slices are asked for their thickness
            engines.CLASSES[self.optimizer.name].check_slices(self.optimizer.name, self._count_slices())
        self._check_memory(room)
        return self._build_around(_build_object(self, room, scan, coarse=coarse), scan)

    def _build_tile(self, scan: Scan4D, room: scans.Canvas) -> Ptychography:
        """The model with what this process holds of the object."""
        is_flat = self.object.name == "pixels" and self.object.values.get("modes", 1) == 1
        whole = None if is_flat or not team().is_main else _build_object(self, room, scan, coarse=False)
        room = team().broadcast(None if whole is None else whole.canvas) or room
        tiled = scans.put_canvas_in_tiles(room, scan, count=team().world_size, rank=team().rank)
        self._check_memory(tiled)
        if is_flat:
            return self._build_around(self.object(tiled), scan)
        kind = team().broadcast(None if whole is None else (whole.kind, whole.gaps, whole.occupancy))
        assert kind is not None
        modes, slices = len(kind[2]), len(kind[1]) + 1
        start = torch.ones(modes, slices, *tiled.held_shape, dtype=torch.complex64)
        model = self._build_around(objects.PixelObject(start, kind[0], kind[1], tiled, kind[2]), scan)
        scatter_object(model, whole)
        return model

    def _build_around(self, thing: objects.PixelObject, scan: Scan4D) -> Ptychography:
        """The model with all parts but the object, which is given."""
        if scan.scan_wavelengths is not None:
            self._suit_energies()
        model = Ptychography.of(
            scan,
            object=thing,
            probe=self.probe(scan),
            flight=self.propagator.partial(),
            detector=self.detector(scan),
            axial=self.axial,
            fly=self.fly,
        )
        if self.rate_of("background") and scan.background is None:
            model.detector.start_background(_estimate_background(scan))
        if self.rate_of("blur"):
            model.detector.start_blur()
        return model

    def _count_slices(self) -> int:
        """Slices that the object is asked for."""
        return int(self.object.values.get("slices") or 1)

    def _check_memory(self, room: scans.Canvas) -> None:
        """Refuse an object that could never be kept: six numbers for each voxel."""
        slices = self._count_slices()
        modes = int(self.object.values.get("modes") or 1)
        need = 6 * 8 * float(np.prod(room.held_shape)) * slices * modes
        there = _memory.available()
        if there is not None and need > there:
            size = f"{modes} x {slices} x {room.held_shape[0]} x {room.held_shape[1]} voxels"
            fix = (
                f"need {need / 2**30:.3g} GiB of memory, but {there / 2**30:.3g} are free: take fewer slices"
            )
            raise BadInput("object", size, fix)

    def named_penalties(self) -> dict[str, Penalty]:
        """The penalties by the names under which their values are reported."""
        out: dict[str, Penalty] = {}
        for one in self.penalties:
            name = one.name.replace("_", " ")
            again = sum(known.split(" #")[0] == name for known in out)
            out[f"{name} #{again + 1}" if again else name] = one.partial()
        return out

    def all_rates(self) -> dict[str, "float | ScheduledRate"]:
        """Rates of all parts, given or default."""
        usual = dict(DEFAULT_NEWTON_RATES if self.optimizer.name == "gauss_newton" else DEFAULT_RATES)
        if self.uses_engine:
            usual = dict(DEFAULT_ENGINE_RATES)
        if self.probe.name == "relaxed":
            usual["opr_weights"] = usual["probe"]
        return {**usual, **self.rates}

    @property
    def uses_engine(self) -> bool:
        """Whether the optimiser is an engine of ptychography (`phaseloom.ptycho.optimizers.engines`)."""
        return self.optimizer.name in engines.__all__

    def rate_of(self, name: str, /) -> float:
        """Rate of a part, given or default."""
        given = self.all_rates().get(name, 0.0)
        return given.rate if isinstance(given, ScheduledRate) else given

    def optimizer_rates(
        self, parts: Mapping[str, Sequence[torch.nn.Parameter]], /
    ) -> dict[str, optimizers.Rate | float]:
        """Rates of the parts of a model; that of ``object`` is also that of its amplitude and phase.

        Raises:
            BadInput: a rate for something that does not exist, or that this model does not have.
        """
        given = self.all_rates()
        whole = given["object"]
        if "object" not in parts:
            given = {**{name: whole for name in ("amplitude", "phase") if name in parts}, **given}
            del given["object"]
        for name, rate in given.items():
            if not parts.get(name) and (rate.rate if isinstance(rate, ScheduledRate) else rate):
                raise BadInput(
                    f"rates.{name}", rate, f"has nothing to move: {_LACKS.get(name, 'leave it out')}"
                )
        kept = {name: rate for name, rate in given.items() if parts.get(name)}
        return {
            name: rate.as_rate() if isinstance(rate, ScheduledRate) else rate for name, rate in kept.items()
        }


_LACKS = {
    "object": "this object has amplitude and phase instead",
    "amplitude": "write object: {pixels: {kind: amplitude and phase}}",
    "phase": "write object: {pixels: {kind: amplitude and phase}}",
    "tilts": "an object of one slice does not feel a tilt",
    "thickness": "an object of one slice has no gap",
    "lines": "the positions are no whole raster",
    "heights": "no positions along the beam are modelled: give them, and axial: true",
    "height_scale": "no positions along the beam are modelled: give them, and axial: true",
    "defocus": "this probe has its defocus among its aberrations",
    "semiangle": "only probe: aberrated has an aperture that moves",
    "opr_weights": "write probe: {relaxed: {basis: 3}}",
    "shift": "only a far field can be shifted",
    "descan": "only a far field can be shifted",
    "blur": "no point spread was prepared",
    "energies": "all scans have the same energy",
}
"""Why a part may be missing, as the end of a sentence."""


def _build_object(recipe: Reconstruct, room: scans.Canvas, scan: Scan4D, *, coarse: bool) -> Any:
    """The object; on a coarse grid, which takes over what the fine one has, nothing is predicted."""
    if coarse and recipe.object.name == "predicted":
        kept = {name: value for name, value in recipe.object.values.items() if name == "kind"}
        return Call(recipe.object.room, "pixels", kept)(room)
    return recipe.object(room, scan, read_beam_optics(recipe.probe))


def _estimate_background(scan: Scan4D) -> float:
    """Mean counts of the darkest pixels, which a background that is the same everywhere cannot exceed."""
    return float(np.percentile(scan.mean_pattern(most=500)[scan.mask], 2))
