"""The object of a near-field scan as one material, fitted together with its illumination.

One hologram tells one real number of each frequency, a sum of phase and absorption. With the absorption
proportional to the phase (one material, ``beta / delta``) the phase follows wherever ``sin chi + ratio cos
chi`` is not small; what an illumination with structure shows beyond that tells the ratio. Epochs of Newton
steps by pixels hardly move slow details, whose curvature is ``chi^2`` of that of fast ones: here the hologram
of the object is what is fitted, so that all frequencies have about the same curvature.

The power of the phase, which falls with the third power of the frequency, is its prior: what counts do not
tell is held down. A loss of amplitudes is half of the negative logarithm of their likelihood; so is the
penalty. So the objectives of fits with other ratios, or at other distances, can be compared once they have
ended and the strength of the prior is that of their own image.

The illumination is fitted by its amplitude and its phase on the detector. Holograms show the phase by what
the object displaces alone, some thousand times less than the amplitude: both have their own scale, by
frequency, or fits stop long before their minimum.

Source: contrast of one material: Paganin et al. 2002, doi 10.1046/j.1365-2818.2002.01010.x; L-BFGS: Liu &
Nocedal 1989, doi 10.1007/BF01589116.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.data.scan import Geometry
from phaseloom.physics.fourier import frequencies, shift
from phaseloom.physics.patches import gather
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.runs.progress_lines import report_progress

__all__ = ["OneMaterial", "RatioEvidence", "SlowDetails", "compare_ratios", "fit_one_material"]
__all__ += ["measure_slow_details"]

NUMBERS = ("blur", "heights", "height_scale")
"""Parts of a model that are fitted with the object, where they move."""

MAX_RATIO = 0.2
"""Of ``beta / delta``: gold at 8 keV has 0.1."""

FIRST_RATIO = 0.01
"""Where the search begins. From above, absorption takes over slow details, and hardly gives them back."""

TYPICAL_LOGIT = -2.2
SPREAD_OF_LOGIT = 1.5
"""What is expected of ``log(ratio / (MAX_RATIO - ratio))``, so that nothing runs away where nothing tells."""

MAX_RATIO_STEP = 0.3
"""Of the logit, in a first step."""

ITERATIONS = 40
HISTORY = 20
"""Of L-BFGS."""

EVALUATIONS_OF_END = 20
"""The last ones, which say what a fit still changes."""

STEP_OF_SCALE = 1e-3
MAX_SCALE = 100.0
"""The step by which the scale of the illumination is measured, in its rms, and the largest scale over that of
amplitudes, which every pattern sees. Of six scans it was 15 to 120 across the illumination."""

ITERATIONS_WITHOUT_RATIO = 0.6
"""Share of the iterations after which the ratio is fitted, too: at first it would make up for everything."""

RATIO_STEP = 4.0
ITERATIONS_OF_RATIO = 15
"""Factor by which ratios differ that are compared in the end, and iterations with each."""

MAX_WAVEFRONT_UNIT = 2.0
"""Radian by which the slow phase of an illumination has to change to show: beyond, it is left alone. Scans of
75 to 1300 counts had 0.1 to 0.4, holograms without an object 5."""

PERIOD_OF_WAVEFRONT = 8.0
"""Pixels: faster variations of the illumination's phase on the detector are left to its pixels."""

PATTERNS_AT_ONCE = 16

MIN_SHARE_OF_LIGHT = 0.3
"""Of the strongest light, from which on a place tells the mean phase."""

NUMBER_STEP = 0.02
"""Change of blur and heights, in their natural size, that says how strongly the loss bends along them."""

POSITION_CONTRAST = 0.02
"""Share of the counts by which a pattern tells its place, per square pixel; it only scales first steps."""


@dataclass(frozen=True, eq=False)
class OneMaterial:
    """An object of one material.

    Attributes:
        phase: ``(v, u)``, radian, on the canvas of the model.
        ratio: ``beta / delta``.
        losses: of each evaluation, in units of shot noise, with what the prior adds.
        penalties: what the prior adds.
    """

    phase: Float[Tensor, "v u"]
    ratio: float
    losses: tuple[float, ...]
    penalties: tuple[float, ...]

    @property
    def is_smoothed(self) -> bool:
        """Whether the last steps lowered what the prior adds by more than the loss of the counts."""
        ends = [one[-EVALUATIONS_OF_END:] for one in (self.losses, self.penalties)]
        losses, penalties = (one[0] - one[-1] for one in ends)
        return penalties > losses - penalties


@dataclass(frozen=True)
class RatioEvidence:
    """Whether patterns tell the ratio of a material.

    Attributes:
        gain: loss with a quarter or four times the ratio, the lower one, less that with it.
        agreement: correlation of the phases, the lower one.
    """

    gain: float
    agreement: float


@dataclass(frozen=True)
class SlowDetails:
    """How much of the slow details of an object holograms show, whose contrast vanishes.

    Attributes:
        correlation: of an image by Wiener's filter with an object whose power falls with the third power of
            the frequency, as strong as this one where it is seen.
        period: details wider than this, in angstrom, are seen by less than half; ``None``: all are seen.
    """

    correlation: float
    period: float | None


def fit_one_material(
    model: Ptychography,
    likelihood: Likelihood,
    geometry: Geometry,
    /,
    *,
    patterns: Int[np.ndarray, " n"] | None = None,
    ratio: float | None = None,
    rounds: Sequence[int] = (ITERATIONS,),
) -> OneMaterial:
    """Fit object, illumination, positions and ratio of a near-field model, and give them to it.

    The point spread of the detector and positions along the beam are fitted, too, where they are to move
    (``rates: {blur: ..., heights: ..., height_scale: ...}``).

    Args:
        model: near field, one slice, a probe of pixels; as some epochs left it.
        likelihood: its objective.
        geometry: of the modelled patterns.
        patterns: index of those that are fitted; default: all.
        ratio: ``beta / delta``, kept; ``None``: it is fitted.
        rounds: iterations of L-BFGS of each round, a little more than one evaluation of all patterns each.
            A round takes the strength of its prior and its scales from what the one before ended with;
            ``losses`` are those of the last.
    """
    found = [
        _fit_round(model, _MaterialFit(model, likelihood, geometry, ratio), patterns, iterations)
        for iterations in rounds
    ]
    return found[-1]


def _fit_round(
    model: Ptychography, fit: "_MaterialFit", patterns: Int[np.ndarray, " n"] | None, iterations: int
) -> OneMaterial:
    """A fit with one prior; the model gets what it finds."""
    if patterns is not None:
        fit.patterns = torch.as_tensor(patterns)
    found = fit.found(fit.run(iterations))
    with torch.no_grad():
        wave = torch.polar(torch.exp(found.ratio * found.phase), found.phase)
        there = model.object.transmission()
        model.object.set_transmission(wave.to(there).expand_as(there))
        model.probe.set_modes(fit.modes().detach())
        model.scan.offsets.add_(fit.moves().detach() / model.scan.step)
    return found


def compare_ratios(
    model: Ptychography,
    likelihood: Likelihood,
    geometry: Geometry,
    ratio: float,
    /,
    *,
    patterns: Int[np.ndarray, " n"] | None = None,
) -> RatioEvidence:
    """How much worse patterns are explained with another ratio of one material; the model stays as it is.

    Args:
        model: as the run left it.
        likelihood: its objective.
        geometry: of the modelled patterns.
        ratio: ``beta / delta`` of the image.
        patterns: index of those that are fitted; default: all.
    """
    losses = {}
    phases = {}
    others = (ratio / RATIO_STEP, min(ratio * RATIO_STEP, MAX_RATIO)) if ratio else (FIRST_RATIO,)
    for one in (ratio, *others):
        fit = _MaterialFit(model, likelihood, geometry, one, moves_numbers=False)
        if patterns is not None:
            fit.patterns = torch.as_tensor(patterns)
        loss = fit.run(ITERATIONS_OF_RATIO)[-1] - fit.penalty
        losses[one] = loss / (len(fit.patterns) * likelihood.floor)
        lit = fit.light > MIN_SHARE_OF_LIGHT * fit.light.max()
        with torch.no_grad():
            phases[one] = fit.object_phase()[lit]
    gain = min(losses[one] for one in others) - losses[ratio]
    agreement = min(float(torch.corrcoef(torch.stack([phases[one], phases[ratio]]))[0, 1]) for one in others)
    return RatioEvidence(gain, agreement)


@torch.no_grad()
def measure_slow_details(
    model: Ptychography, likelihood: Likelihood, geometry: Geometry, ratio: float, /
) -> SlowDetails:
    """What shot noise leaves of the slow details of an object of one material; the model stays as it is.

    What an unknown illumination takes away is not counted.

    Args:
        model: as the run left it.
        likelihood: its objective.
        geometry: of the modelled patterns.
        ratio: ``beta / delta``; 0: a phase object.
    """
    fit = _MaterialFit(model, likelihood, geometry, ratio, moves_numbers=False)
    known = fit.inverse_power > 0
    power, chi = 1 / fit.inverse_power[known], fit.chi[known]
    seen = _show(chi, ratio) * _invert(chi, ratio, fit.noise[known])
    hidden = chi[(seen < 0.5) & (chi.abs() < math.pi / 2)].abs()
    reach = math.pi * geometry.wavelength * abs(geometry.flight)
    period = math.sqrt(reach / float(hidden.max())) if len(hidden) else None
    return SlowDetails(math.sqrt(float((seen * power).sum() / power.sum())), period)


def _show(chi: Tensor, ratio: float | Tensor) -> Tensor:
    """Contrast of one material: what a hologram shows of its phase, by frequency."""
    return torch.sin(chi) + ratio * torch.cos(chi)


def _invert(chi: Tensor, ratio: float | Tensor, noise: Tensor) -> Tensor:
    """Wiener filter of the contrast of one material."""
    contrast = _show(chi, ratio)
    return contrast / (contrast.square() + noise)


class _MaterialFit:
    """What is fitted, scaled so that its curvatures are about one."""

    def __init__(
        self,
        model: Ptychography,
        likelihood: Likelihood,
        geometry: Geometry,
        ratio: float | None,
        *,
        moves_numbers: bool = True,
    ):
        self.model = model
        self.geometry = geometry
        self.likelihood = likelihood
        self.stated = ratio
        self.patterns = torch.arange(len(model.scan.start))
        self.first = FIRST_RATIO if ratio is None else ratio
        self.penalty = 0.0
        self.penalties: list[float] = []  # by evaluation
        self.weight: float | None = None  # of the prior: less where values are no counts, and far below noise
        self.start = model.probe.modes().detach().clone()
        self.light = torch.as_tensor(model.coverage()).to(model.scan.start)
        self._split_phase()
        count = len(model.scan.start)
        real = self.light
        self.hologram = real.new_zeros(real.shape).requires_grad_(True)
        self.offsets = real.new_zeros(count, 2).requires_grad_(True)
        self.logit = real.new_zeros(()).requires_grad_(ratio is None)
        self.unit = 1 / torch.sqrt(2 * (real + 0.02 * real.max()))
        self.move_unit = 1 / math.sqrt(POSITION_CONTRAST * float(self.start.abs().square().sum()))
        lit = real > MIN_SHARE_OF_LIGHT * real.max()
        share = 5 / math.sqrt(2 * float((real * self.phase.square())[lit].sum()) + 1e-30)
        self.logit_unit = min(share / max(self.first, 1e-4), MAX_RATIO_STEP)
        moving = self._list_numbers() if moves_numbers else []
        before = model.expect_amplitudes(self.patterns, PATTERNS_AT_ONCE) if moving else real
        self.numbers = [_Number.of(self, one, before) for one in moving]

    def _list_numbers(self) -> list[Tensor]:
        """What else is to move: point spread, heights."""
        parts = self.model.parts()
        known = [one for name in NUMBERS for one in parts.get(name, [])]
        return [one for one in known if one.requires_grad]

    def _split_phase(self) -> None:
        """The phase of the model, as what its hologram shows and the rest."""
        model = self.model
        wave = model.object.transmission().detach().prod(1)[0]
        lit = self.light > MIN_SHARE_OF_LIGHT * self.light.max()
        self.phase = (wave * wave[lit].mean().conj()).angle()
        room = model.scan.canvas
        y, x = frequencies((room.shape[0], room.shape[1]), room.pixel, like=self.phase.double())
        square = y.square() + x.square()
        reach = self.geometry.wavelength * self.geometry.flight
        self.chi = (math.pi * reach * square).to(self.phase)
        wide = max(n * p for n, p in zip(self.phase.shape, room.pixel, strict=True))
        slope = (square + wide**-2) ** -1.5
        taper = (self.light / (MIN_SHARE_OF_LIGHT * self.light.max())).clamp(0, 1)
        power = torch.fft.fft2(self.phase * taper).abs().square() / taper.square().sum()
        seen = (square > 0) & (square < (0.15 / max(room.pixel)) ** 2)
        strength = torch.exp((torch.log(power[seen] + 1e-12) - torch.log(slope[seen])).mean())
        bright = float(np.percentile(self.light[self.light > 0].cpu().numpy(), 90))
        strength = strength.clamp(min=1e-3 / (4 * bright * float(slope[seen].mean())))  # of a flat object
        self.noise = (1 / (4 * bright * strength * slope)).clamp(1e-5, 10).to(self.phase)
        self.inverse_power = (1 / (strength * slope * self.phase.numel())).to(self.phase)
        self.inverse_power[0, 0] = 0
        self.shown = torch.fft.ifft2(_show(self.chi, self.first) * torch.fft.fft2(self.phase)).real
        known = torch.fft.ifft2(_invert(self.chi, self.first, self.noise) * torch.fft.fft2(self.shown)).real
        self.rest = self.phase - known

    def ratio(self) -> Tensor:
        """``beta / delta`` as it stands."""
        if self.stated is not None:
            return self.light.new_tensor(self.stated)
        start = math.log(self.first / (MAX_RATIO - self.first))
        return MAX_RATIO * torch.sigmoid(start + self.logit_unit * self.logit)

    def contrast(self) -> Tensor:
        """What the hologram shows."""
        return self.shown + self.unit * self.hologram

    @torch.no_grad()
    def found(self, losses: tuple[float, ...]) -> OneMaterial:
        """What the fit ended with."""
        pixels = len(self.patterns) * self.likelihood.floor
        each = tuple(one / pixels for one in losses)
        ratio = float(self.ratio())
        penalties = tuple(one / pixels for one in self.penalties)
        return OneMaterial(self.object_phase(), ratio, each, penalties)

    def object_phase(self) -> Tensor:
        """The phase under the hologram and the ratio as they stand."""
        filtered = _invert(self.chi, self.ratio(), self.noise) * torch.fft.fft2(self.contrast())
        return self.rest + torch.fft.ifft2(filtered).real

    def modes(self) -> Tensor:
        """The illumination, by its amplitude and its phase on the detector, and by its slow phase."""
        along, across = (
            torch.fft.ifft2(scale * torch.fft.fft2(change)).real
            for scale, change in zip(self.scales, (self.amplitude, self.across), strict=True)
        )
        far = self.far + self.direction * torch.complex(along, across)
        if self.wavefront_unit:
            slow = torch.fft.ifft2(self.wavefront_filter * torch.fft.fft2(self.wavefront)).real
            far = far * torch.polar(torch.ones_like(slow), self.wavefront_unit * slow)
        return fly(far, self.onward.conj())

    @torch.no_grad()
    def _split_illumination(self) -> None:
        """The illumination on the detector, with changes of its amplitude, across it, and of its slow phase.

        Their scales are such that the loss bends by about one along them.
        """
        model, geometry = self.model, self.geometry
        flight = torch.tensor(geometry.flight, dtype=torch.float64)
        self.onward = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, flight)
        self.onward = self.onward.to(self.start)
        self.far = fly(self.start, self.onward)
        self.direction = torch.polar(torch.ones_like(self.far.real), self.far.angle())
        self.amplitude = torch.zeros_like(self.far.real).requires_grad_(True)
        self.across = torch.zeros_like(self.far.real).requires_grad_(True)
        self.wavefront = self.light.new_zeros(geometry.shape).requires_grad_(True)
        model.probe.set_modes(self.start)
        self.probed = torch.arange(len(model.scan.start))
        before = model.expect_amplitudes(self.probed, PATTERNS_AT_ONCE)
        y, x = frequencies(geometry.shape, (1.0, 1.0), like=self.light.double())
        square = y.square() + x.square()
        least = 1 / math.sqrt(2 * len(self.probed))  # of amplitudes, which every pattern sees
        self.scales = [self._scale_illumination(square.sqrt(), turn, before) for turn in (1.0, 1.0j)]
        self.scales = [one.clamp(max=MAX_SCALE * least) for one in self.scales]
        self._scale_wavefront(square, before)
        model.probe.set_modes(self.start)

    def _scale_illumination(self, frequency: Tensor, turn: complex, before: Tensor) -> Tensor:
        """One over the root of how the loss bends by frequency, along the illumination or across it."""
        generator = torch.Generator().manual_seed(0)
        size = STEP_OF_SCALE * float(self.far.abs().square().mean().sqrt())
        octaves = range(1, max(2, int(math.log2(min(self.geometry.shape) / 2))))
        edges = [0.0, *(2.0**one / min(self.geometry.shape) for one in octaves), 1.0]
        units: list[float] = []
        for low, high in pairwise(edges):
            noise = torch.randn(self.far.shape, generator=generator, dtype=torch.float64)
            band = (frequency >= low) & (frequency < high)
            step = torch.fft.ifft2(band * torch.fft.fft2(noise.to(frequency))).real.to(self.light)
            step *= size / step.square().mean().sqrt()
            bend = self._bend(self.far + turn * self.direction * step, before)
            units.append(math.sqrt(float(step.square().sum()) / (bend + 1e-30)))
        middles = [math.log((low or high / 2) * high) / 2 for low, high in pairwise(edges)]
        places = np.log(frequency.clamp(min=1e-9).cpu().numpy())
        scale = np.exp(np.interp(places, middles, np.log(units)))
        return torch.as_tensor(scale).to(self.light)

    def _bend(self, far: Tensor, before: Tensor) -> float:
        """How much amplitudes change with another illumination on the detector; the model keeps that."""
        self.model.probe.set_modes(fly(far, self.onward.conj()))
        change = self.model.expect_amplitudes(self.probed, PATTERNS_AT_ONCE) - before
        return 2 * float(change.square().sum())

    def _scale_wavefront(self, square: Tensor, before: Tensor) -> None:
        """Scale the slow phase of the illumination on the detector.

        It shows by how it displaces the hologram, by its slope: what is fitted is the slope, smooth over
        some pixels.
        """
        shape = self.geometry.shape
        kept = torch.exp(-square * PERIOD_OF_WAVEFRONT**2)
        self.wavefront_filter = (kept / torch.sqrt(square + max(shape) ** -2)).to(self.light)
        self.wavefront_filter[0, 0] = 0
        generator = torch.Generator().manual_seed(0)
        step = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.light)
        slow = STEP_OF_SCALE * torch.fft.ifft2(self.wavefront_filter * torch.fft.fft2(step)).real
        bend = self._bend(self.far * torch.polar(torch.ones_like(slow), slow), before)
        unit = STEP_OF_SCALE * math.sqrt(float(step.square().sum()) / (bend + 1e-30))
        self.wavefront_unit = unit if unit < MAX_WAVEFRONT_UNIT else 0.0

    def moves(self) -> Tensor:
        """Of the positions, pixels."""
        return self.move_unit * self.offsets

    def run(self, iterations: int) -> tuple[float, ...]:
        """Fit, first with the ratio as it is; the losses."""
        self._split_illumination()
        losses: list[float] = []
        images = [self.hologram, self.amplitude, self.across, self.offsets, self.wavefront]
        images += [one.change for one in self.numbers]
        alone = iterations if self.stated is not None else round(ITERATIONS_WITHOUT_RATIO * iterations)
        self._minimise(images, alone, losses)
        if self.stated is None:
            self._minimise([*images, self.logit], iterations - alone, losses)
        return tuple(losses)

    def _minimise(self, parameters: list[Tensor], iterations: int, losses: list[float]) -> None:
        expected = len(losses) + iterations
        options = {"max_iter": iterations, "history_size": HISTORY, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS(parameters, tolerance_grad=0, tolerance_change=0, **options)

        def evaluate() -> float:
            optimizer.zero_grad()
            losses.append(self._evaluate())
            self.penalties.append(self.penalty)
            loss = losses[-1] / (len(self.patterns) * self.likelihood.floor)
            report_progress(f"evaluation {len(losses)} of about {expected}, loss {loss:.3f}")
            return losses[-1]

        optimizer.step(evaluate)

    def _evaluate(self) -> float:
        """The loss, with its gradients left behind."""
        model = self.model
        phase = self.object_phase()
        wave = torch.polar(torch.exp(self.ratio() * phase), phase)
        modes = self.modes()
        for number in self.numbers:
            number.move()
        whole = (wave, modes)
        leaf_wave, leaf_modes = (one.detach().requires_grad_(True) for one in whole)
        moves = self.moves()
        total = 0.0
        for piece in self.patterns.to(phase.device).split(PATTERNS_AT_ONCE):
            index, counts = self.likelihood.measured.load(piece, phase.device)
            place, rest = model.scan(index)
            rest = rest.detach() + moves[index]
            window = gather(leaf_wave[None, None], place, model.object.window)
            way = None if model.heights is None else model.heights(index)
            if model.heights is not None:
                window, rest = model.heights.resample_windows(window, rest, index)
            beam = shift(leaf_modes[None], rest[:, None])
            beam = (beam if way is None else fly(beam, way))[:, None]
            flown = model.propagator(beam, window, rest, index, way)
            noise = self.likelihood.divergence
            loss = model.detector.misfit(flown, counts, index, noise, model.object.occupancy)
            loss.backward(retain_graph=True)
            total += float(loss.detach())
        penalty = self._penalise(phase, total)
        total += self.penalty
        slopes = [leaf_wave.grad, leaf_modes.grad, torch.ones_like(penalty)]
        torch.autograd.backward([*whole, penalty], slopes)
        for number in self.numbers:
            number.return_slope()
        if self.stated is None:
            logit = torch.logit(self.ratio() / MAX_RATIO)
            expected = ((logit - TYPICAL_LOGIT) / SPREAD_OF_LOGIT).square() / 4
            expected.backward()
            total += float(expected.detach())
        return total

    def _penalise(self, phase: Tensor, loss: float) -> Tensor:
        """What the prior adds to the loss of the data."""
        if self.weight is None:
            self.weight = min(1.0, loss / (len(self.patterns) * self.likelihood.floor))
        unlikely = (self.inverse_power * torch.fft.fft2(phase).abs().square()).sum()
        penalty = self.weight / 4 * unlikely
        self.penalty = float(penalty.detach())
        return penalty


@dataclass(eq=False)
class _Number:
    """A few numbers of a model, or some of each pattern, scaled so that the loss bends by about one.

    Attributes:
        parameter: of the model.
        start: what it was.
        change: what is fitted, in units of ``unit``.
    """

    parameter: Tensor
    start: Tensor
    change: Tensor
    unit: float

    @classmethod
    @torch.no_grad()
    def of(cls, fit: _MaterialFit, parameter: Tensor, before: Tensor) -> "_Number":
        """Where it is, with the curvature that a small step from the amplitudes ``before`` shows."""
        parameter += NUMBER_STEP
        slope = (fit.model.expect_amplitudes(fit.patterns, PATTERNS_AT_ONCE) - before) / NUMBER_STEP
        parameter -= NUMBER_STEP
        bend = 2 * float(slope.square().sum())
        if parameter.ndim == 1 and len(parameter) == len(fit.model.scan.start):
            bend /= len(fit.patterns)
        change = torch.zeros_like(parameter).requires_grad_(True)
        return cls(parameter, parameter.detach().clone(), change, 1 / math.sqrt(bend + 1e-30))

    @torch.no_grad()
    def move(self) -> None:
        """Give the model the numbers as they stand; the mean of numbers of each pattern stays."""
        self.parameter.copy_(self.start + self.unit * self._centre(self.change))
        self.parameter.grad = None

    @torch.no_grad()
    def return_slope(self) -> None:
        """Take the slope of the loss from the model."""
        slope = self.parameter.grad
        assert slope is not None
        self.change.grad = self.unit * self._centre(slope)
        self.parameter.grad = None

    def _centre(self, values: Tensor) -> Tensor:
        """Values of each pattern about their mean; others as they are."""
        return values - values.mean() if values.ndim == 1 and len(values) > 2 else values
