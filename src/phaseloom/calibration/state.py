"""The state of a calibration: what is known of a scan so far, estimates, and short reconstructions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from phaseloom.calibration.orientations import ORIENTATIONS, TWINS, lay_detector, select_neighbours
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.transfer import turn_matrix
from phaseloom.direct.twin import TwinEvidence
from phaseloom.fitting.loop import Progress
from phaseloom.metrics.linear_map import find_turn_and_scale, fit_linear_map
from phaseloom.metrics.pattern_misfit import PatternMisfit
from phaseloom.physics.fourier import shift_to_corner, to_real, to_reciprocal
from phaseloom.physics.optics import probe_wave
from phaseloom.ptycho.illumination import AberratedProbe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.multigrid import has_empty_outer_half
from phaseloom.spec import Call

__all__ = ["CalibrationState", "Estimate", "Estimator", "EstimatorResult", "FinishedRun", "RunReconstruction"]
__all__ += ["ShortRun", "run_short", "select_middle"]


RATES_OF_CALIBRATED_GEOMETRY = {"affine": 0.0, "scale": 0.0}
"""A calibrated scan keeps its step: on 13 faulty scans a free one ended as far off (2.3 %, kept 2.0 %), and
scans of biological specimens shrank by up to 70 % (decision 022)."""

RATES_OF_UNREFINED_ROTATION = {"rotation": 0.3}
"""Share of a Newton step by which a whole run refines a rotation that no short run could."""


class FinishedRun(Protocol):
    """What a calibration reads of a reconstruction that has ended."""

    @property
    def scan(self) -> Scan4D:
        """The data."""
        ...

    @property
    def model(self) -> Ptychography:
        """The model as it ended."""
        ...

    @property
    def progress(self) -> Progress:
        """The history of the losses."""
        ...

    def measure_held_out_misfit(self) -> PatternMisfit | None:
        """What the model explains of patterns held out, if any were."""
        ...


RunReconstruction = Callable[[Any, Scan4D], FinishedRun]
"""Reconstructs a scan by a recipe, from the first to the last epoch, writing nothing."""


@dataclass(frozen=True)
class CalibrationState:
    """What is known so far of a scan and its optics; every estimator returns a better one.

    Attributes:
        setting: the recipe (`phaseloom.reconstruction.recipe.Reconstruct`) to be completed; short runs take
            its noise, detector, propagator, seed and device.
        semiangle: of the disk as the detector's angles have it, radian; ``None``: not known yet.
        defocus: angstrom; positive: under-focus.
        orientation: how the detector has to be laid, a key of ``ORIENTATIONS`` or ``TWINS`` of
            `phaseloom.reconstruction.start`.
        rotation: by which positions have to be turned, radian, from the row axis towards the column axis.
        step: factor on all positions.
        angle: factor on what a detector pixel sees.
        slices: of the object.
        gap: between slices, angstrom.
        aberrations: besides the defocus, polar (``C12``, ``phi12``), angstrom and radian, in the frame of
            the detector so laid.
        focal_spread: of the linear model, angstrom; it takes the depth of a thick object for one too.
        source_size: of the source that modes begin with, standard deviation, angstrom; 0: a point.
        modes: of the beam: more than one where it is partly coherent; ``None``: not looked for.
        held_out: loss of patterns held out by short runs that began here, by their number of modes.
        twin: what the phase of a short run that began here says of the twin.
        suggested_step: factor that the linear model would rather have than what was stated; it was not taken.
        step_by_profile: factor on all positions that short fits with a step held show, and its error;
            ``None``: they do not show it.
        doubted_step: factor on the present step with which these explain more, though too little to take it.
        soft: whether the edge of the disk is blurred over a pixel.
        certain: whether the orientation was decided, and its fit went well: else nothing finer is believed.
        run: how a short reconstruction is run.
    """

    setting: Any
    semiangle: float | None = None
    defocus: float = 0.0
    orientation: str = "as given"
    rotation: float = 0.0
    step: float = 1.0
    angle: float = 1.0
    slices: int = 1
    gap: float = 0.0
    aberrations: Mapping[str, float] = field(default_factory=dict)
    focal_spread: float = 0.0
    source_size: float = 0.0
    modes: int | None = None
    held_out: Mapping[int, float] = field(default_factory=dict)
    twin: TwinEvidence | None = None
    suggested_step: float | None = None
    step_by_profile: tuple[float, float] | None = None
    doubted_step: float | None = None
    soft: bool = False
    certain: bool = True
    run: RunReconstruction | None = None

    def depth_of_focus(self, scan: Scan4D, /) -> float:
        """``wavelength / semiangle^2``, angstrom."""
        return scan.geometry.wavelength / (self.semiangle or 1.0) ** 2

    @property
    def is_partly_coherent(self) -> bool:
        """Whether the beam has several modes, so that fits with one are biased."""
        return (self.modes or 1) > 1

    def coherence(self) -> dict[str, float]:
        """Source size and focal spread of the beam, as calls of probes take them; nothing for a point."""
        if not self.source_size:
            return {}
        sizes = {"source_size": self.source_size, "focal_spread": self.focal_spread}
        return {name: _round_digits(size) for name, size in sizes.items()}

    def stated_value(self, name: str, /) -> float | None:
        """What the recipe said of the probe before the ladder began."""
        value = self.setting.probe.values.get(name)
        return None if value is None else float(value)

    def detector_frame(self) -> np.ndarray:
        """Takes row vectors of frequency in the frame of the scan to the detector as it was read."""
        return turn_matrix(self.rotation) @ lay_detector(self.orientation).T / self.step

    def steps(self, scan: Scan4D, /) -> tuple[Call, ...]:
        """What has to be done to a scan as it was read and prepared."""
        room = prepare.__name__
        (seen, other) = scan.geometry.angle
        calls = [Call(room, name, given) for name, given in (ORIENTATIONS | TWINS)[self.orientation]]
        if self.angle != 1 and math.isclose(seen, other, rel_tol=1e-6):
            calls.append(Call(room, "calibrate", {"angle": _round_digits(self.angle * seen)}))
        if self.rotation:
            calls.append(Call(room, "rotate", {"angle": _round_digits(self.rotation)}))
        if self.step != 1:
            calls.append(Call(room, "scale", {"factor": _round_digits(self.step)}))
        return tuple(calls)

    def apply_to(self, scan: Scan4D, /) -> Scan4D:
        """The scan as it should have been read."""
        for step in self.steps(scan):
            scan = step(scan)
        return scan

    def probe(self) -> Call:
        """The call of a first guess with what is known of the optics."""
        asked = self.setting.probe
        values: dict[str, Any] = {
            "semiangle": _round_digits(self.semiangle or 0.0),
            "defocus": _round_digits(self.defocus),
        }
        if asked.name == "aberrated" or self.soft:
            values["soft"] = self.soft
        if self.aberrations:
            known = {name: _round_digits(value) for name, value in self.aberrations.items()}
            values["aberrations"] = {**(asked.values.get("aberrations") or {}), **known}
        if self.modes is not None:
            values |= {"modes": self.modes, **self.coherence()}
        if asked.name in ("focused", "aberrated"):
            return replace(asked, values={**asked.values, **values} | _stated_modes(asked))
        return Call(asked.room, "focused", values | _stated_modes(asked))

    def recipe(self, scan: Scan4D, /) -> Any:
        """The recipe of a run with everything that was found written into it, and nothing left to find."""
        thing = self.setting.object
        update = {}
        if thing.name == "pixels" and (self.slices > 1 or thing.values.get("slices", 1) > 1):
            depth = {"slices": self.slices} | (
                {"thickness": _round_digits(self.gap)} if self.slices > 1 else {}
            )
            kept = {
                name: value for name, value in thing.values.items() if name not in ("slices", "thickness")
            }
            update["object"] = replace(thing, values={**kept, **depth})
        update["prepare"] = (*self.setting.prepare, *self.steps(scan))
        turning = RATES_OF_UNREFINED_ROTATION if self.is_partly_coherent else {}
        update |= {
            "rates": {**RATES_OF_CALIBRATED_GEOMETRY, **turning, **self.setting.rates},
            "probe": self.probe(),
            "start": Call("phaseloom.reconstruction.start", "none"),
            "preset": "none",
        }
        return self.setting.model_copy(update=update)


GIVEN_BY_NOBODY = ("nothing", "default", "none")
"""What an `Estimate` says was given where nothing was."""


@dataclass(frozen=True)
class Estimate:
    """One quantity that a rung looked for.

    Attributes:
        name: of the quantity.
        value: found, or kept, in words.
        given: what it was before, in words.
        margin: loss of the runner-up, or of the value as given, over that of the one found; 1: undecided;
            infinite: there was no other.
        decided: whether the data, or a prior that the note names, told; else what was given is kept.
        error: of the value, in words: what fits of half of the patterns differ by.
        note: what was used, what disagrees.
        is_guess: whether it was decided by a prior that is wrong now and then.
        is_of_linear_model: whether ``given`` is what the linear model has found, not what was stated.
    """

    name: str
    value: str
    given: str
    margin: float
    decided: bool
    error: str = ""
    note: str = ""
    is_guess: bool = False
    is_of_linear_model: bool = False

    def line(self) -> str:
        """The finding in a line."""
        off = f" +- {self.error}" if self.error else ""
        source, left = "given", "as given" if self.given not in GIVEN_BY_NOBODY else "nobody gave it"
        if self.is_of_linear_model:
            source, left = "linear model", "as the linear model has it"
        kept = ", a guess" if self.is_guess else "" if self.decided else f", undecided: {left}"
        note = f"; {self.note}" if self.note else ""
        margin = f"margin {self.margin:.3g}" if math.isfinite(self.margin) else "no rival"
        return f"{self.name:12s} {self.value}{off} ({source} {self.given}; {margin}{kept}){note}"


@dataclass(frozen=True)
class EstimatorResult:
    """What a rung hands on.

    Attributes:
        known: with what the rung found.
        findings: a line each.
        tried: candidates with their numbers.
    """

    state: CalibrationState
    estimates: tuple[Estimate, ...] = ()
    tried: list[dict[str, Any]] = field(default_factory=list)


Estimator = Callable[[Scan4D, CalibrationState], EstimatorResult]
"""A rung: the scan as it was read and prepared, and what is known so far, in."""


@dataclass(frozen=True, eq=False)
class ShortRun:
    """A short reconstruction, and where it went.

    Attributes:
        known: with the defocus, rotation and step that it ended at.
        loss: of its last epoch, 1 being shot noise.
        held: loss of patterns held out, or that of the others where none were.
        job: the run.
    """

    state: CalibrationState
    loss: float
    held: float
    job: FinishedRun

    @property
    def gain(self) -> float:
        """By which share the last epoch lowered the loss."""
        before, after = [math.inf, *(event["loss"] for event in self.job.progress.history)][-2:]
        return before / after - 1

    @property
    def explained(self) -> float | None:
        """Share of the differences between patterns held out; ``None`` where these are counting noise."""
        misfit = self.job.measure_held_out_misfit()
        return None if misfit is None else misfit.explained


def run_short(
    scan: Scan4D,
    state: CalibrationState,
    /,
    *,
    epochs: int,
    rates: dict[str, Any],
    refine: tuple[str, ...] = ("C10", "C12"),
    free: bool = False,
    holdout: float = 0.0,
    modes: int = 1,
) -> ShortRun:
    """Reconstruct shortly from what is known.

    Args:
        scan: as it was read; patterns of the field that is looked at.
        state: where to begin.
        epochs: how many.
        rates: of positions, rotation, scale, thickness.
        refine: aberrations that move.
        free: the probe is one of free pixels, not one that a lens can make.
        holdout: share of patterns that judge.
        modes: of the probe.
    """
    data = state.apply_to(scan)
    usual = {"positions": 0.0, "affine": 0.0}
    optics: dict[str, Any] = {"semiangle": state.semiangle, "defocus": state.defocus, "modes": modes}
    if state.aberrations:
        optics["aberrations"] = dict(state.aberrations)
    if free and modes > 1:
        optics |= state.coherence()
    rest = {"soft": state.soft} | ({} if free else {"refine": list(refine)})
    depth = {"slices": state.slices} | ({"thickness": state.gap} if state.slices > 1 else {})
    kind = {"kind": "phase"} if scan.geometry.beam == "electron" else {}
    tree = {
        "rates": {**usual, **rates},
        "epochs": epochs,
        "holdout": holdout,
        "patience": None,
        "levels": 0,
        "mask": "none",
    }
    name = "focused" if free else "aberrated"
    parts = {
        "probe": Call("phaseloom.ptycho.probes", name, {**optics, **rest}),
        "object": Call("phaseloom.ptycho.objects", "pixels", {**depth, **kind}),
        "start": Call("phaseloom.reconstruction.start", "none"),
        **{one: getattr(state.setting, one) for one in ("detector", "propagator", "noise", "seed", "device")},
    }
    if state.run is None:
        raise ValueError("a calibration that runs reconstructions needs state.run")
    recipe = type(state.setting).of(tree).model_copy(update=parts)
    with torch.random.fork_rng(devices=[]):
        job = state.run(recipe, data)
    last = job.progress.history[-1] if job.progress.history else {"loss": math.inf, "holdout": None}
    loss = last["loss"] if math.isfinite(last["loss"]) else math.inf
    held = [event["holdout"] for event in job.progress.history if event["holdout"] is not None]
    return ShortRun(_state_after(job, state), loss, held[-1] if held else loss, job)


def select_middle(scan: Scan4D, count: int, /) -> Scan4D:
    """Neighbours around the middle of a scan, without the outer half of the detector where that is empty."""
    few = replace(select_neighbours(scan, count), probe=None)
    while has_empty_outer_half(few):
        few = prepare.crop(few, to=(few.geometry.shape[0] // 2, few.geometry.shape[1] // 2))
    return few


def _state_after(job: FinishedRun, state: CalibrationState) -> CalibrationState:
    """Where the optics and the map of the positions ended."""
    before = job.scan.positions
    after = job.model.scan.angstrom()
    turn, scale = find_turn_and_scale(fit_linear_map(before, after))
    probe = job.model.probe
    others = dict(state.aberrations)
    if isinstance(probe, AberratedProbe):
        ended = probe.aberrations()
        defocus = -ended.get("C10", -state.defocus)
        others = {name: ended.get(name, value) for name, value in others.items()}
    else:
        defocus = _fit_defocus(job.model.probe.modes().detach()[0].cpu(), job.scan.window, state)
    gaps = job.model.propagator.distances().detach().cpu().double().numpy()
    gap = float(gaps.mean()) if len(gaps) else state.gap
    return replace(
        state,
        defocus=defocus,
        rotation=state.rotation + turn,
        step=state.step * scale,
        gap=gap,
        aberrations=others,
    )


@torch.no_grad()
def _fit_defocus(mode: Tensor, geometry: Geometry, state: CalibrationState) -> float:
    """Defocus of the lens that a free probe resembles most, wherever in its window it lies."""
    angle = state.semiangle or 0.0
    far = to_reciprocal(shift_to_corner(mode))
    unit = geometry.wavelength / angle**2
    places = (state.defocus + torch.linspace(-1, 1, 81, dtype=torch.float64) * unit).tolist()
    like = []
    for defocus in places:
        optics = {"wavelength": geometry.wavelength, "semiangle": angle, "aberrations": {"defocus": defocus}}
        lens = to_reciprocal(shift_to_corner(probe_wave(geometry.shape, geometry.pixel, **optics)))
        like.append(float(to_real(far * lens.conj()).abs().max()))
    best = min(max(1, int(np.argmax(like))), len(like) - 2)
    before, at, after = like[best - 1 : best + 2]
    bend = before - 2 * at + after
    return places[best] + (0.5 * (before - after) / bend if bend < 0 else 0.0) * (places[1] - places[0])


def _stated_modes(asked: Call) -> dict[str, Any]:
    """What a recipe says itself of the modes of its probe."""
    return {"modes": asked.values["modes"]} if asked.values.get("modes") is not None else {}


def _round_digits(value: float) -> float:
    """What a parameter file says in few digits."""
    return float(f"{value:.7g}")
