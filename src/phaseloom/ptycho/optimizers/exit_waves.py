"""The experiment as projections see it: waves that enter and leave the object, and the measured counts.

What the engines of `phaseloom.ptycho.optimizers.engines` have in common: a batch is lit, its waves are
brought to the detector, changed there so that they have the measured modulus, and brought back.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.fitting.engine import Engine
from phaseloom.physics.detect import intensity, project_modulus
from phaseloom.physics.fourier import ramp, to_real, to_reciprocal
from phaseloom.physics.patches import scatter
from phaseloom.physics.propagate import fly
from phaseloom.ptycho.illumination import Illumination, Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject

__all__ = ["Lit", "Measured", "WaveEngine", "WaveModel", "WindowSum"]

PARTS = ("object", "probe")
"""What engines move."""

MIN_GAIN = 1e-6
"""Counts per intensity below which a pixel is taken to count nothing."""

MAX_POWER_LOSS = 1e-3
"""Of any frequency in the flight to a near detector, whose adjoint must be its inverse."""


class Lit(NamedTuple):
    """A batch in the light of the probe.

    Attributes:
        patterns: their numbers in the scan.
        corner: top-left pixels of its windows in the object.
        rest: shift of the probe from there, pixels.
        windows: transmission ``(b, slice, y, x)``.
        waves: modes that fall on each slice, ``(b, mode, y, x)`` each.
        leaving: modes behind the last slice.
    """

    patterns: Int[Tensor, " b"]
    corner: Int[Tensor, "b 2"]
    rest: Float[Tensor, "b 2"]
    windows: Complex[Tensor, "b slice y x"]
    waves: list[Tensor]
    leaving: Complex[Tensor, "b mode y x"]


class Measured(NamedTuple):
    """A batch on the detector.

    Attributes:
        seen: modes there.
        now: their intensity.
        target: intensity that the counts ask for.
        terms: the loss of the batch as it is.
    """

    seen: Complex[Tensor, "b mode y x"]
    now: Float[Tensor, "b y x"]
    target: Float[Tensor, "b y x"]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class WaveModel:
    """A model and its data, for steps that are made by waves."""

    model: Ptychography
    likelihood: Likelihood

    def light(self, index: Int[Tensor, " b"], /) -> Lit:
        """The waves of a batch up to the exit of the object."""
        model = self.model
        index = index.to(model.scan.start.device)
        corner, rest = model.scan(index)
        windows = model.object(corner)[:, 0]
        waves = [model.probe(rest, None, index)]
        for number, kernel in enumerate(self.kernels(index)):
            waves.append(fly(waves[-1] * windows[:, number, None], kernel))
        return Lit(index, corner, rest, windows, waves, waves[-1] * windows[:, -1, None])

    def kernels(self, index: Int[Tensor, " b"], /) -> list[Tensor]:
        """Flights between slices, of a shape that goes with ``(b, mode, y, x)``."""
        return [one[:, 0] if one.ndim == 5 else one for one in self.model.propagator.gap_kernels(index)]

    def measure(self, lit: Lit, /) -> Measured:
        """Compare a batch with its counts."""
        detector = self.model.detector
        index, counts = self.likelihood.measured.load(lit.patterns, lit.corner.device)
        seen = self.model.propagator.to_detector(lit.leaving, lit.rest, index)
        now = intensity(seen)
        fields = detector.fields()
        dark, flat, mask = (fields[name] for name in ("background", "flat", "mask"))
        gain = detector.weights[index, None, None]
        gain = gain if flat is None else gain * flat
        counts = counts.to(now.dtype)
        expected = gain * now if dark is None else gain * now + dark
        each = self.likelihood.divergence(expected, counts)
        loss = (each if mask is None else each * mask).sum() / (len(index) * self.likelihood.floor)
        target = (counts if dark is None else counts - dark).clamp(min=0) / gain.clamp(min=MIN_GAIN)
        if flat is not None:  # a pixel that counts nothing says nothing
            target = torch.where(gain > MIN_GAIN, target, now)
        return Measured(seen, now, target, {"noise": loss})

    def correct(self, lit: Lit, measured: Measured, /) -> Complex[Tensor, "b mode y x"]:
        """The least change of the exit waves after which they have the measured modulus."""
        mask = self.model.detector.fields()["mask"]
        change = project_modulus(measured.seen, measured.target, mask, seen=measured.now) - measured.seen
        return self.model.propagator.from_detector(change, lit.rest, lit.patterns)

    def project(
        self, leaving: Complex[Tensor, "b mode y x"], lit: Lit, target: Float[Tensor, "b y x"], /
    ) -> Complex[Tensor, "b mode y x"]:
        """The nearest exit waves with the measured modulus on the detector."""
        seen = self.model.propagator.to_detector(leaving, lit.rest, lit.patterns)
        there = project_modulus(seen, target, self.model.detector.fields()["mask"])
        return self.model.propagator.from_detector(there, lit.rest, lit.patterns)

    def shift_back(self, wave: Complex[Tensor, "b mode y x"], lit: Lit, /) -> Complex[Tensor, "mode y x"]:
        """Waves in the frame of the probe, added up: the adjoint of moving it to each position."""
        rows, columns = ramp(lit.rest[:, None], (wave.shape[-2], wave.shape[-1]))
        return to_real((to_reciprocal(wave) * (rows * columns).conj()).sum(0))

    def add_to_probe(self, change: Complex[Tensor, "mode y x"], /) -> None:
        """Change the modes; what a support does not allow is left out."""
        self.model.probe.set_modes(self.model.probe.modes() + change)


@dataclass
class WindowSum:
    """Windows of a batch added up in the rectangle of the canvas that holds them."""

    corner: Int[Tensor, "b 2"]
    window: tuple[int, int]
    inside: tuple[slice, slice] = field(init=False)

    def __post_init__(self) -> None:
        first = self.corner.amin(0)
        last = self.corner.amax(0) + torch.tensor(self.window, device=first.device)
        (top, left), (bottom, right) = first.tolist(), last.tolist()
        self.inside = (slice(top, bottom), slice(left, right))
        self.corner = self.corner - first

    def __call__(self, windows: Tensor, /) -> Tensor:
        """The sum."""
        rows, columns = self.inside
        return scatter(windows, self.corner, (rows.stop - rows.start, columns.stop - columns.start))


class WaveEngine(Engine):
    """An engine of ptychography: bound to a model and its data before the first epoch.

    Attributes:
        name: as parameter files have it.
        experiment: what it works on.
        takes_slices: whether objects of several slices are supported.
    """

    takes_slices: ClassVar[bool] = False
    experiment: WaveModel

    def __init__(self, moving: Any, name: str):
        super().__init__(moving)
        self.name = name

    def bind(self, model: Ptychography, likelihood: Likelihood, /) -> None:
        """Take the model and the data to work on.

        Raises:
            BadInput: something in the experiment that the engine cannot do.
        """
        place = f"optimizer: {self.name}"
        team().require_single_process(place)
        self.check_slices(self.name, len(model.object.gaps) + 1)
        if likelihood.penalties:
            fix = f"needs gradients, which {self.name} does not have: leave it out, or use gauss_newton"
            raise BadInput("penalties", ", ".join(likelihood.penalties), fix)
        for found, part, fix in self._list_obstacles(model):
            if found:
                raise BadInput(place, part, f"{fix}, or use gauss_newton")
        for group in self.param_groups:
            if group["name"] not in PARTS:
                fix = f"cannot be moved by {self.name}: write 0, or use gauss_newton"
                raise BadInput(f"rates.{group['name']}", group["base"], fix)
        self.experiment = WaveModel(model, likelihood)

    @classmethod
    def check_slices(cls, name: str, slices: int, /) -> None:
        """Refuse several slices, where the engine of this name does not take them.

        Raises:
            BadInput: too many slices.
        """
        if slices > 1 and not cls.takes_slices:
            fix = "needs one slice: write slices: 1, take epie, rpie or mpie, or use gauss_newton"
            raise BadInput(f"optimizer: {name}", f"{slices} slices", fix)

    def _list_obstacles(self, model: Ptychography) -> list[tuple[bool, str, str]]:
        """What the model may have that projections do not know of, and what to do about it."""
        thing, probe, detector, onward = model.object, model.probe, model.detector, model.propagator.onward
        plain = type(thing).forward is PixelObject.forward and getattr(thing, "kind", "") == "complex"
        own = type(probe).forward is Illumination.forward and type(probe).modes_of is Illumination.modes_of
        fixed = all(group["name"] != "probe" for group in self.param_groups)
        loses = onward is not None and bool((onward.abs() - 1).abs().max() > MAX_POWER_LOSS)
        return [
            (not plain, "object", "needs complex pixels: write object: {pixels: {kind: complex}}"),
            (len(thing.occupancy) > 1, "object: modes", "needs an object in one state: write modes: 1"),
            (not own, "probe", "needs one probe for all patterns: leave relaxed out"),
            (not (fixed or isinstance(probe, Probe)), "probe", "needs a probe of pixels to move: freeze it"),
            (not detector.counts_plainly(), "detector", "needs pixels without blur, area or saturation"),
            (model.heights is not None, "axial", "has no positions along the beam: write axial: false"),
            (
                model.scan.motion is not None,
                "fly",
                "has no beam that moves: leave it out",
            ),
            (loses, "propagator", "needs a flight to the detector that loses no waves: take larger pixels"),
        ]
