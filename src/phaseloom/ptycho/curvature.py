"""How strongly the loss bends along each part of a model: what makes a gradient a Newton step.

A batch's loss is ``sum D / (size floor)`` with a divergence ``D`` of about ``k (sqrt(I) - sqrt(m))^2``, so
its Gauss-Newton curvature along anything is ``2 k / floor`` times the mean square slope of the
amplitudes ``sqrt(I)``. For each part it is found, or bounded, as cheaply as it can be:

* a pixel of slice ``s``: by the light that falls on it from all patterns, ``W_s = sum_j |P_s(r - r_j)|^2``,
  with the beam in free flight, times the number of slices (Cauchy and Schwarz). What the waves of a forward
  pass give instead made no difference to the course of the error. A pixel lit by few patterns of a batch
  keeps the bound of a single one;
* the probe: by the mean transmission; the root of a background: amplitudes go no faster than it;
* a position: half of ``sum |P|^2 grad T grad T*`` under the window, for half of a move changes phases on the
  detector that nobody sees; scan errors follow from it by the chain rule. Four times that is its Fisher
  information, which says how far `phaseloom.ptycho.jitter` lets it move;
* few numbers (tilt, thickness, defocus, aberrations): from differences of patterns.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.fitting.newton import Rule
from phaseloom.physics.propagate import fly
from phaseloom.ptycho.jitter import estimate_jitter, fit_affine_part
from phaseloom.ptycho.likelihood import CountLoader, Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.amplitudes import CompiledAmplitudes
from phaseloom.ptycho.newton.steps import (
    CoupledStep,
    NoStep,
    PixelStep,
    PositionPrior,
    PositionStep,
    UniformStep,
    WeightStep,
)

__all__ = [
    "Beams",
    "Contrast",
    "Curvature",
    "PhaseInformation",
    "ScannedArea",
    "count_crossings",
    "fit_contrast",
    "incident_waves",
    "lit_area",
    "measure_phase_information",
    "participation_area",
    "split_by_rings",
    "sum_exit_light",
    "sum_illumination",
]

Beams = list[tuple[Complex[Tensor, "slice mode y x"], Int[Tensor, " _"]]]


class ScannedArea(NamedTuple):
    """The part of the canvas that a scan reaches; work on it does not grow with the canvas.

    Of an object in tiles it is what the patterns reach whose windows meet the pixels of this process.

    Attributes:
        inside: its rows and columns, in pixels of this process.
        lit: the same rows and columns in the area itself, all of it but in tiles.
        room: no smaller than the area, and quick to transform.
        corner: of the windows in it, ``(n, 2)``.
        reaches: ``(n,)`` whether a window lies in it.
    """

    inside: tuple[slice, slice]
    lit: tuple[slice, slice]
    room: tuple[int, int]
    corner: Int[Tensor, "n 2"]
    reaches: Bool[Tensor, " n"]

    @classmethod
    def of(cls, model: Ptychography) -> "ScannedArea":
        """That of all patterns, or of those that meet a tile."""
        corner, _ = model.scan(torch.arange(len(model.scan.start), device=model.scan.start.device))
        room = model.scan.canvas
        held = corner.new_tensor([room.held_corner, room.held_shape])
        window = corner.new_tensor(room.window)
        reaches = ((corner + window > held[0]) & (corner < held.sum(0))).all(1)
        first = corner[reaches].amin(0)
        shape = corner[reaches].amax(0) - first + window
        low = torch.maximum(first, held[0])
        high = torch.minimum(first + shape, held.sum(0))
        lengths = [next_fast_len(n, real=axis == 1) for axis, n in enumerate(shape.tolist())]
        sides = (int(lengths[0]), int(lengths[1]))  # pyright: ignore[reportArgumentType]
        inside = _as_slices(low - held[0], high - held[0])
        return cls(inside, _as_slices(low - first, high - first), sides, corner - first, reaches)


def _cut_with_neighbours(
    field: Complex[Tensor, "*any y x"], inside: tuple[slice, slice]
) -> Complex[Tensor, "*any v u"]:
    """Rows and columns of a field with one more on each side: the neighbours, or at its edge the edge."""
    rows, columns = (
        torch.arange(one.start - 1, one.stop + 1, device=field.device).clamp(0, n - 1)
        for one, n in zip(inside, field.shape[-2:], strict=True)
    )
    return field[..., rows[:, None], columns]


def _as_slices(first: Tensor, end: Tensor) -> tuple[slice, slice]:
    rows, columns = (slice(a, b) for a, b in zip(first.tolist(), end.tolist(), strict=True))
    return rows, columns


@torch.no_grad()
def incident_waves(model: Ptychography, /) -> Beams:
    """The modes in free flight where each slice stands, and the patterns that see them so."""
    out: Beams = []
    for modes, members in model.incident_modes():
        waves = [modes]
        for kernel in model.propagator.gap_kernels(members[:1]):
            waves.append(fly(waves[-1], kernel.reshape(kernel.shape[-2:]).to(modes.dtype)))
        out.append((torch.stack(waves), members))
    return out


@torch.no_grad()
def sum_illumination(
    model: Ptychography,
    waves: Beams,
    /,
    *,
    weights: Float[Tensor, " n"] | None = None,
    reach: ScannedArea | None = None,
) -> Float[Tensor, "slice v u"]:
    """What all patterns together throw on each pixel of the object: sum of ``|wave|^2``.

    The beam is correlated with where it went, each time with a weight of ``weights``, by default one. Of an
    object in tiles it is known where this process holds pixels. ``reach`` is the scanned area, if that is
    known already.
    """
    reach = ScannedArea.of(model) if reach is None else reach
    first = waves[0][0]
    at = reach.corner[:, 0] * reach.room[1] + reach.corner[:, 1]
    out = first.real.new_zeros(len(first), *model.scan.canvas.held_shape)
    for wave, every in waves:
        members = every[reach.reaches[every]]
        hits = first.real.new_zeros(reach.room[0] * reach.room[1])
        each = hits.new_ones(len(members)) if weights is None else weights[members].to(hits)
        hits.index_add_(0, at[members], each)
        beam = torch.fft.rfft2(wave.abs().square().sum(1), s=reach.room)
        lit = torch.fft.irfft2(beam.mul_(torch.fft.rfft2(hits.view(reach.room))), s=reach.room)
        out[(..., *reach.inside)] += lit[(..., *reach.lit)].clamp_(min=0)
    return out


PIXELS_OF_LOCAL_MODULUS = 2.0
"""Standard deviation, pixels, by which the squared modulus of the object is blurred before it weights the
illumination: single pixels of few electrons scatter too much."""


@torch.no_grad()
def sum_exit_light(model: Ptychography, waves: Beams, /) -> Float[Tensor, "slice v u"]:
    """Counts that leave each pixel of each slice in all patterns together.

    It is the illumination, by the intensity of each shot, times the local square of the modulus of the
    object, and times that of the other slices on average: a probe may hold more power than is
    counted, if the object takes it away.
    """
    light = sum_illumination(model, waves, weights=model.detector.weights)
    share = model.object.occupancy[:, None, None, None]
    square = (model.object.transmission().abs().square() * share).sum(0)
    lit = light[0] > 0.5 * light[0].max()
    typical = square[:, lit].median(1).values[:, None, None].clamp(min=1e-30)
    local = [gaussian_filter(one, PIXELS_OF_LOCAL_MODULUS, mode="nearest") for one in square.cpu().numpy()]
    return light * torch.as_tensor(np.stack(local)).to(light) * (typical.prod() / typical)


@torch.no_grad()
def count_crossings(model: Ptychography, /) -> float:
    """Patterns that it takes to light the whole scanned field once: its area over the beam's."""
    waves = [(wave[:1], members) for wave, members in incident_waves(model)]
    areas = [participation_area(wave.abs().square().sum(1)) for wave, _ in waves]
    return lit_area(model, sum_illumination(model, waves)) / (sum(areas) / len(areas))


def participation_area(intensity: Tensor, /) -> float:
    """``(sum I)^2 / sum I^2``, pixels."""
    return float(intensity.sum() ** 2 / intensity.square().sum())


def lit_area(model: Ptychography, light: Float[Tensor, "1 y x"], /) -> float:
    """`participation_area` of a light on the canvas, pixels, also of one in tiles.

    Args:
        model: whose canvas it is.
        light: where this process holds pixels.
    """
    total, square = model.object.sum_pixels(torch.stack([light[0], light[0].square()]))
    return float(total**2 / square)


RING_EDGES = (0.0, 1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 7 / 16, 1.0)
"""Borders of rings of frequencies, cycles per object pixel; the last one holds the corners."""

PATTERNS_FOR_INFORMATION = 16
"""Patterns from which the information on the phase is taken; 8 and 128 give sigma of S to 0.4 %."""

PHASE_STEP = 0.02
"""Radian (rms) by which the object is changed in either sense, to see how much patterns change."""


class PhaseInformation(NamedTuple):
    """Fisher information of patterns on the phase by rings of frequencies, over ``2 W v^2``.

    ``W`` is the light that leaves a pixel (`sum_exit_light`) and ``v`` a random change of phase of these
    frequencies: an ideal detector with a defocused probe has about 1 in every ring but the lowest.

    Attributes:
        edges: of the rings, cycles per object pixel, ``(ring + 1,)``.
        ideal: ``(ring,)`` of counts without background in all pixels: ``sum (dI)^2 / I``.
        counted: ``(ring,)`` of what is counted and compared: ``sum (dI)^2 / (I + b)``, without masked pixels.
        used: ``(ring,)`` what a likelihood with a floor makes of it, ``H^2 / J``: ``H`` is its curvature,
            ``J`` the variance of its slope (the sandwich of Huber 1967).
    """

    edges: Float[Tensor, " edge"]
    ideal: Float[Tensor, " ring"]
    counted: Float[Tensor, " ring"]
    used: Float[Tensor, " ring"]

    @property
    def kappa(self) -> float:
        """Share of the information that background, masked and missing pixels leave; 1 without any."""
        share = float(self.counted.sum() / self.ideal.sum().clamp(min=1e-30))
        return min(share, 1.0)


@torch.no_grad()
def measure_phase_information(
    model: Ptychography, /, *, floor: float = 0.0, seed: int = 0
) -> PhaseInformation:
    """Measure by random probes what the patterns of a model tell of the phase of its object.

    The phase of all slices is changed by a random image of the frequencies of a ring, differently in each
    slice, and the change of some patterns is compared with their noise, that of Poisson counts. The model is
    the same afterwards.

    Args:
        model: as it stands.
        floor: counts that the likelihood adds to model and counts.
        seed: of the random images.
    """
    many = len(model.scan.start)
    some = torch.linspace(0, many - 1, min(many, PATTERNS_FOR_INFORMATION)).long().to(model.scan.start.device)
    waves = [(wave, members[torch.isin(members, some)]) for wave, members in incident_waves(model)]
    light = sum_exit_light(model, waves)
    generator = torch.Generator().manual_seed(seed)
    expected = _model_in_pieces(model, some)
    rows = []
    for low, high in pairwise(RING_EDGES):
        change = _draw_ring(light.shape, low, high, generator).to(light.device)
        slope = _pattern_slopes(model, some, change)
        unit = 2 * (light.double() * change.square()).sum().clamp(min=1e-30)
        rows.append(torch.stack(_sum_information(model, expected, slope, floor)) / unit)
    ideal, counted, used = torch.stack(rows).float().cpu().T
    return PhaseInformation(torch.tensor(RING_EDGES), ideal, counted, used)


def _sum_information(
    model: Ptychography, expected: Tensor, slope: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of `PhaseInformation` over patterns, before they are divided by the illumination."""
    square = slope.square()
    background = model.detector.background()
    rate = expected.clamp(min=1e-12)
    ideal = (square / (expected - background).clamp(min=1e-12)).sum()
    square = square * model.detector.mask
    curvature = (square / (rate + floor)).sum()
    variance = (square * rate / (rate + floor).square()).sum().clamp(min=1e-30)
    return ideal, (square / rate).sum(), curvature.square() / variance


PATTERNS_FOR_CONTRAST = 32
"""Patterns by whose counts the contrast of an object is judged."""

STEPS_OF_CONTRAST = 12
"""Newton steps at most; up to six were needed where three quarters of the contrast were missing."""

MAX_STEP_OF_CONTRAST = 0.7
"""By which a factor on the phase changes at most in a step."""

CONTRAST_TOLERANCE = (0.02, 0.2)
"""Change of a factor in a step below which it is found: itself, and as a share of its standard error."""

SPREAD_OF_GAINS = 1.0
"""Standard deviation of gains that is expected: far fields hardly tell of less than a period in the beam."""


class Contrast(NamedTuple):
    """What counts say of the contrast of an object and of the dose, whatever loss these were fitted by.

    Attributes:
        gains: ``(ring,)`` by which share the phase of these frequencies should be stronger.
        dose: counts over those of the model.
        converged: whether Newton's steps came to an end.
    """

    gains: Float[np.ndarray, " ring"]
    dose: float
    converged: bool


def split_by_rings(images: Float[np.ndarray, "slice y x"], /) -> Float[np.ndarray, "ring slice y x"]:
    """Parts of images by the rings of frequencies of `PhaseInformation`; they add up to all but the constant.

    Example:
        >>> image = np.random.default_rng(0).normal(size=(1, 9, 12))
        >>> bool(np.allclose(split_by_rings(image).sum(0), image - image.mean()))
        True
    """
    rows, columns = (np.fft.fftfreq(n) for n in images.shape[-2:])
    frequency = np.hypot(rows[:, None], columns)
    rings = [(frequency >= low) & (frequency < high) & (frequency > 0) for low, high in pairwise(RING_EDGES)]
    return np.fft.ifft2(np.fft.fft2(images) * np.stack(rings)[:, None]).real


@torch.no_grad()
def fit_contrast(
    model: Ptychography,
    measured: CountLoader,
    parts: Float[np.ndarray, "ring slice y x"],
    /,
    *,
    floor: float,
) -> Contrast:
    """The factors on parts of an object's phase, and on the dose, for which Poisson counts are most likely.

    Some numbers are told by all counts together, so that their noise is small where that of each pixel is
    not. A loss that is biased at few counts, such as a difference of amplitudes, shows here by how much. The
    model is the same afterwards.

    Args:
        model: as it stands.
        measured: counts of all its patterns, laid as the model has them.
        parts: of the phase, such as `split_by_rings` gives; those that are zero have no gain.
        floor: counts that are added to model and counts.
    """
    many = len(model.scan.start)
    some = torch.linspace(0, many - 1, min(many, PATTERNS_FOR_CONTRAST)).long()
    mask = model.detector.mask
    device = model.scan.start.device
    counts = measured[some].to(device).double()[:, mask].flatten() + floor
    some = some.to(device)
    phases = torch.as_tensor(parts, device=device)

    def expect(gains: Tensor) -> Tensor:
        change = torch.tensordot(gains[:-1].to(phases), phases, 1)
        with _turn_object(model, change):
            expected = _model_in_pieces(model, some)[:, mask].flatten()
        return expected * gains[-1].exp()

    gains = torch.zeros(len(parts) + 1, dtype=torch.float64, device=device)
    converged = False
    for _ in range(STEPS_OF_CONTRAST):
        step, error = _step_contrast(expect, gains, counts, floor)
        gains = gains + step
        least, share = CONTRAST_TOLERANCE
        if converged := bool((step.abs() < (share * error).clamp(min=least)).all()):
            break
    found = gains.cpu().numpy()
    return Contrast(found[:-1], math.exp(found[-1]), converged)


def _step_contrast(
    expect: Callable[[Tensor], Tensor], gains: Tensor, counts: Tensor, floor: float, *, width: float = 0.02
) -> tuple[Float[Tensor, " gain"], Float[Tensor, " gain"]]:
    """A step of Fisher scoring on Poisson counts, by differences of patterns; and the standard errors."""
    here = expect(gains)
    rate = here.clamp(min=1e-12) + floor
    moves = width * torch.eye(len(gains)).to(gains)
    slopes = torch.stack([(expect(gains + one) - here) / width for one in moves])
    weighted = slopes / rate
    prior = torch.full_like(gains, SPREAD_OF_GAINS**-2)
    prior[-1] = 0.0  # the dose is told by all counts
    information = weighted @ slopes.T + prior.diag()
    step = torch.linalg.solve(information, weighted @ (counts - rate) - prior * gains)
    error = torch.linalg.inv(information).diag().clamp(min=0).sqrt()
    return step.clamp(-MAX_STEP_OF_CONTRAST, MAX_STEP_OF_CONTRAST), error


@contextmanager
def _turn_object(model: Ptychography, change: Float[Tensor, "slice v u"]) -> Iterator[None]:
    """The object with another phase as long as it is needed, the same change in all of its states."""
    kept = [parameter.clone() for parameter in model.object.parameters()]
    wave = model.object.transmission().clone()
    turn = torch.polar(torch.ones_like(change), change).to(wave.dtype)
    model.object.set_transmission(wave * turn)
    try:
        yield
    finally:
        for parameter, value in zip(model.object.parameters(), kept, strict=True):
            parameter.copy_(value)


def _pattern_slopes(model: Ptychography, index: Tensor, change: Float[Tensor, "slice v u"]) -> Tensor:
    """Derivative of expected counts along a change of phase, the same in all states of the object."""
    seen = []
    for sign in (PHASE_STEP, -PHASE_STEP):
        with _turn_object(model, sign * change):
            seen.append(_model_in_pieces(model, index))
    return (seen[0] - seen[1]) / (2 * PHASE_STEP)


def _model_in_pieces(model: Ptychography, index: Tensor) -> Tensor:
    """Expected counts in double precision; few patterns at once, for memory."""
    return torch.cat([model(part).double() for part in index.split(8)])


def _draw_ring(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Random images ``(slice, y, x)`` of mean square one with the frequencies of a ring, zero left out."""
    rows, columns = (torch.fft.fftfreq(n) for n in shape[-2:])
    frequency = torch.hypot(rows[:, None], columns[None])
    ring = (frequency >= low) & (frequency < high) & (frequency > 0)
    drawn = torch.fft.ifft2(torch.fft.fft2(torch.randn(tuple(shape), generator=generator)) * ring).real
    return drawn / drawn.square().mean().sqrt().clamp(min=1e-12)


# The tuned numbers below were found on the electron and X-ray cases of benchmarks/; those that hold steps
# back in thick or noisy cases are explained in docs/decisions/012-brakes-and-late-parts.md.

LIGHT_DAMPING = 0.1
"""Share of the strongest light that is added everywhere, so that pixels in the dark move little."""

POSITION_DAMPING = 0.05
"""Share of the mean curvature of all positions that is added to each."""

POSITION_HALF_TRUST = 2.0
"""Loss above the noise at which positions take half of their step."""

FLIGHT_HALF_TRUST = 0.25
"""The same for tilts and thickness, which mislead more while the images are poor (decision 012)."""

MIN_POSITION_TRUST = 0.1
"""Least share of a step that positions take from the second epoch on, however high the loss."""

OBJECT_ADAPTATION = 1.5
"""Variance of the best shift of a position times its Fisher information: above one, as the object follows.

Of ten scans of 1e3 electrons a pattern, those whose counts tell the least of positions keep their object with
it, to 0.001 of the correlation; with 1 they lose up to 0.004, with 2 positions hardly move on any of them."""

MIN_TRUST_FOR_PRIOR = 0.5
"""Trust in positions below which nothing holds them: the model limits them then, not the counts."""

MIN_JITTER = 1e-4
"""Standard deviation of the jitter, object pixels, that is always thought possible."""

MIN_LOSS = 1e-3
"""Loss to which that of counts in an unknown unit is raised: simulations without noise come to nothing."""

DIFFERENCE_STEP = 0.02
"""Step, in the natural size of a number, over which patterns are compared."""

MAX_NOISE_PHASE = 0.03
"""Phase noise (radian) that steps of the usual length may leave in a pixel (decision 012)."""

MIN_STEPS_PER_EPOCH = 3.0
"""Newton steps that an epoch makes at least, however few the electrons (decision 012)."""

MIN_LOSS_OF_WHOLE_STEPS = 3.0
"""Loss above which few electrons do not shorten the steps of the object: what is not found yet outweighs
their noise. At 2 the thick crystal of benchmarks/cases.py gets worse (decision 029)."""

USUAL_OBJECT_RATE = 0.2
"""Rate of the object in the default recipe, to which `MAX_NOISE_PHASE` refers."""

MAX_COUPLED_NUMBERS = 64
"""Real numbers of a parameter up to which the full matrix of their curvature is taken."""

PATTERNS_FOR_DIFFERENCES = 64
"""Patterns from which the curvature of a few numbers is taken."""


class Curvature:
    """The rules of all parts of a model that have one; renewed by calling it with the history of a fit.

    Attributes:
        pull: strength, relative to the data, of the prior that draws amplitudes of objects of several
            slices to one; without it neighbouring slices exchange phase and amplitude.
        position_prior: whether positions move only as far as counts allow (`phaseloom.ptycho.jitter`).
    """

    def __init__(
        self, model: Ptychography, likelihood: Likelihood, *, pull: float = 0.1, position_prior: bool = True
    ):
        if not likelihood.has_noise_model:
            fix = "has no curvature without a noise model: name one, or write optimizer: adam"
            raise BadInput("optimizer", "gauss_newton", fix)
        self.model = model
        self.likelihood = likelihood
        self.pull = pull
        self.position_prior = position_prior
        some = torch.linspace(
            0, len(likelihood.measured) - 1, min(len(likelihood.measured), PATTERNS_FOR_DIFFERENCES)
        ).long()
        counts = likelihood.measured[some]
        self.mean_counts = float(counts.sum() / len(counts))
        self.counts_are_whole = bool((counts == counts.round()).all())
        self.some = some
        self._compiled_amplitudes = CompiledAmplitudes(model)
        self._set_scale(counts)

    @property
    def momentum(self) -> float:
        """What suits the object: in thick ones slices have to find their shares."""
        return 0.9 if not len(self.model.propagator.gaps) else 0.95

    @torch.no_grad()
    def __call__(self, history: Sequence[Mapping[str, Any]]) -> dict[nn.Parameter, Rule]:
        """The rules for the next epoch."""
        model = self.model
        if self.likelihood.divergence is not self._scaled_for:
            self._set_scale(self.likelihood.measured[self.some])
        rules: dict[nn.Parameter, Rule] = {}
        waves = incident_waves(model)
        loss = _read_noise_term(history[-1]) if history else self._measure_loss()
        reach = ScannedArea.of(model)
        self._make_object_rules(rules, waves, loss, reach)
        own = self._list_pattern_numbers()
        slopes = model.probe.square_slopes()
        rules |= {p: UniformStep(slope, self.scale, each=p in own) for p, slope in slopes.items()}
        trust = _estimate_trust(history)
        rules |= self._make_position_rules(waves, trust, self._measure_excess_noise(history), reach)
        rules[model.detector.weights] = WeightStep(self.scale * self.mean_counts / 4)
        rules[model.detector.root] = UniformStep(float(model.detector.scale) ** 2, self.scale)
        flight = {model.propagator.tilt, model.propagator.stretch}
        flight_trust = _estimate_trust(history, FLIGHT_HALF_TRUST)
        trusts = {p: flight_trust if p in flight else trust for p in self._list_numbers() if p.requires_grad}
        still = self._expect_amplitudes() if any(trusts.values()) else None
        rules |= {p: self._make_number_rule(p, trust, still) for p, trust in trusts.items()}
        return rules

    def _set_scale(self, counts: Tensor) -> None:
        """Curvature of the loss by the square slope of amplitudes, for the noise model as it is now."""
        self._scaled_for = self.likelihood.divergence
        self.scale = 2 * _fit_stiffness(self._scaled_for, counts) / self.likelihood.floor

    def _measure_loss(self) -> float:
        """Loss of some patterns before the first step."""
        index = self.some.to(self.model.scan.start.device)
        pieces = self.likelihood.select_own(index).split(16)
        found = [float(self.likelihood(piece)["noise"]) * len(piece) for piece in pieces if len(piece)]
        total = torch.tensor(sum(found), dtype=torch.float64, device=index.device)
        return float(self.likelihood.sum_over_tiles(total)) / len(index)

    def _make_position_rules(
        self, waves: Beams, trust: float, excess: float, reach: ScannedArea
    ) -> dict[nn.Parameter, Rule]:
        """Positions, and the errors of a scan that move them together."""
        parts = self.model.scan.parts()
        moving = [p for several in parts.values() for p in several if p.requires_grad]
        bends = self._position_curvatures(waves, reach) if moving and trust else None
        if bends is None or not bool(bends.any()):
            return dict.fromkeys(moving, NoStep())
        own = self.model.scan.offsets
        together = {p: self._make_shared_rule(p, bends, trust) for p in moving if p is not own}
        bends = self.model.scan.step**2 * bends
        known = self.position_prior and trust >= MIN_TRUST_FOR_PRIOR
        prior = self._make_position_prior(4 * bends / excess, self.scale * excess / 4) if known else None
        return {own: PositionStep.of(self.scale * bends, trust, prior), **together}

    def _measure_excess_noise(self, history: Sequence[Mapping[str, Any]]) -> float:
        """Variance of best shifts over that from counts alone: errors of model and object add to it.

        Counts that are not whole may be in any unit: the variance of theirs is then the whole loss.
        """
        if not history:
            return OBJECT_ADAPTATION
        loss = _read_noise_term(history[-1])
        return OBJECT_ADAPTATION * max(loss, 1.0 if self.counts_are_whole else MIN_LOSS)

    def _make_position_prior(self, information: Float[Tensor, "n 2 2"], unit: float) -> PositionPrior | None:
        """The jitter as the positions show it by now; ``None`` before they have moved.

        ``unit`` turns a log-likelihood into the loss of a pattern.
        """
        scan = self.model.scan
        if not bool(scan.offsets.any()):
            return None
        centre = fit_affine_part(scan.offsets, scan.start)
        jitter = estimate_jitter(scan.offsets - centre, torch.linalg.eigvalsh(information))
        return PositionPrior(centre, unit / max(float(jitter), MIN_JITTER**2))

    def _make_object_rules(
        self, rules: dict[nn.Parameter, Rule], waves: Beams, loss: float, reach: ScannedArea
    ) -> None:
        model = self.model
        wide = sum_illumination(model, waves, reach=reach)
        count = len(wide)
        many = len(model.scan.start)
        calm = math.inf if loss > MIN_LOSS_OF_WHOLE_STEPS else self._limit_noise(lit_area(model, wide[:1]))
        wide.add_(LIGHT_DAMPING * model.object.largest_pixel(wide)).mul_(self.scale * count / many)
        most = torch.stack([wave.abs().square().sum(1).amax((-2, -1)) for wave, _ in waves]).amax(0)
        lone = self.scale * (count + 1) * most[:, None, None]
        share = model.object.occupancy[:, None, None, None]
        wide = model.object.curvature(wide)
        lone = model.object.curvature(lone)
        for name, parameters in model.object.parts().items():
            pull = self.pull if count > 1 and name in ("object", "amplitude") else 0.0
            for parameter in parameters:
                rules[parameter] = PixelStep(wide, lone, share, pull, calm)

    def _limit_noise(self, field: float) -> float:
        """Share of the usual step, for each pattern of a batch, that few electrons in a field allow.

        Steps ``r`` with momentum ``m`` leave a variance of ``r / (2 (1 - m))`` times that of one batch,
        which is ``1 / (4 n)`` for ``n`` electrons in a pixel. An epoch makes some whole steps nevertheless.
        Counts that are not whole tell nothing.
        """
        if not self.counts_are_whole:
            return math.inf
        calm = MAX_NOISE_PHASE**2 * 8 * self.mean_counts / field
        return (
            (1 - self.momentum)
            / USUAL_OBJECT_RATE
            * max(calm, MIN_STEPS_PER_EPOCH / len(self.model.scan.start))
        )

    def _position_curvatures(self, waves: Beams, reach: ScannedArea) -> Float[Tensor, "n 2 2"]:
        """Mean square slope of the amplitudes of each pattern along its position."""
        model = self.model
        share = model.object.occupancy
        states = _cut_with_neighbours(model.object.transmission(), reach.inside)
        beams = [torch.fft.rfft2(w[0].abs().square().sum(0), s=reach.room).conj() for w, _ in waves]
        out = states.real.new_zeros(len(reach.corner), 2, 2)
        own = torch.zeros_like(reach.reaches)
        own[self.likelihood.select_own(torch.arange(len(own), device=own.device))] = True
        for weight, state in zip(share, states, strict=True):
            whole = state[0] if len(state) == 1 else state.prod(0)
            parts = torch.stack([whole.real, whole.imag])  # side by side: quicker than complex products
            down = parts[:, 2:, 1:-1] - parts[:, :-2, 1:-1]
            right = parts[:, 1:-1, 2:] - parts[:, 1:-1, :-2]
            pairs = ((down, down), (down, right), (right, right))
            here = parts.new_zeros(len(pairs), *reach.room)
            here[:, *reach.lit] = torch.stack([a[0] * b[0] + a[1] * b[1] for a, b in pairs])
            maps = torch.fft.rfft2(here)
            for beam, (_, every) in zip(beams, waves, strict=True):
                members = every[own[every]]
                y, x = reach.corner[members].T
                each = torch.fft.irfft2(maps * beam, s=reach.room)[:, y, x]
                matrix = torch.stack([each[0], each[1], each[1], each[2]], 1).view(-1, 2, 2)
                out[members] += (weight / 8) * matrix
        out = self.likelihood.sum_over_tiles(out)
        mean = out.diagonal(dim1=1, dim2=2).mean()
        return out + POSITION_DAMPING * mean * torch.eye(2, device=out.device, dtype=out.dtype)

    def _make_shared_rule(self, parameter: nn.Parameter, bends: Tensor, trust: float) -> Rule:
        """Numbers that move many positions at once: the chain rule over `_bends`."""
        scan = self.model.scan
        if parameter is scan.lines:
            each = bends.view(len(parameter), -1, 2, 2).sum(1) / len(bends)
            return CoupledStep.of(self.scale * each, trust, rows=True)
        if parameter is scan.affine:
            lever = scan.split_map()
            unit = lever.arm / lever.reach
            pairs = (unit[:, :, None] * unit[:, None]).flatten(1)
            bend = (bends.flatten(1).T @ pairs).view(2, 2, 2, 2).transpose(1, 2).reshape(4, 4)
            return CoupledStep.of(self.scale * bend / len(bends), trust)
        slopes = []
        before = scan.current_positions()
        flat = parameter.view(-1)
        for place in range(parameter.numel()):
            kept = flat[place].clone()
            flat[place] += 1
            slopes.append(scan.current_positions() - before)
            flat[place] = kept
        arm = torch.stack(slopes, -1)
        return CoupledStep.of(
            self.scale * torch.einsum("nak,nab,nbl->kl", arm, bends, arm) / len(bends), trust
        )

    def _list_numbers(self) -> list[nn.Parameter]:
        """Few numbers that bend all patterns."""
        model = self.model
        known = {"object", "amplitude", "phase", "positions", "affine", "rotation", "scale", "lines"}
        known |= {"weights", "opr_weights"}
        few = [p for name, parts in model.parts().items() if name not in known for p in parts]
        owned = self._list_pattern_numbers()
        return [p for p in few if not p.is_complex() and (p.numel() <= MAX_COUPLED_NUMBERS or p in owned)]

    def _list_pattern_numbers(self) -> set[nn.Parameter]:
        """Numbers, some for each pattern, that bend that pattern alone."""
        parts = self.model.parts()
        many = len(self.model.scan.start)
        names = ("tilts", "descan", "heights", "opr_weights")
        return {p for name in names for p in parts.get(name, ()) if len(p) == many > 1}

    def _expect_amplitudes(self) -> Float[Tensor, "some y x"]:
        """Roots of the expected counts of some patterns, those of this process, pixels in any order."""
        model = self.model
        many = len(model.scan.start)
        some = torch.linspace(
            0, many - 1, min(many, PATTERNS_FOR_DIFFERENCES), device=model.scan.start.device
        ).long()
        own = self.likelihood.select_own(some)
        if not len(own):
            return model.detector.mask.new_zeros(0, *model.detector.mask.shape).to(model.scan.start)
        if (compiled := self._compiled_amplitudes(own)) is not None:
            return compiled
        return model.expect_amplitudes(own, self.likelihood.best_piece_size)

    def _make_number_rule(self, parameter: nn.Parameter, trust: float, still: Tensor | None) -> Rule:
        """From differences of the patterns over small steps."""
        if not trust or still is None:
            return NoStep()
        each = parameter in self._list_pattern_numbers()
        many = len(self.model.scan.start)
        values = parameter.view(many, -1) if each else parameter.view(-1)
        columns = [(slice(None), axis) for axis in range(values.shape[-1])]
        fixed = self.model.probe.fixed_numbers().get(parameter)
        free = range(parameter.numel()) if fixed is None else torch.nonzero(~fixed)[:, 0].tolist()
        places: list[Any] = columns if each else list(free)
        if not places:
            return NoStep()
        change = still.new_empty(len(places), still.numel())
        for place, row in zip(places, change, strict=True):
            kept = values[place].clone()
            values[place] = kept + DIFFERENCE_STEP
            torch.sub(self._expect_amplitudes().flatten(), still.flatten(), out=row)
            values[place] = kept
        some = min(many, PATTERNS_FOR_DIFFERENCES)
        products = self.likelihood.sum_over_tiles(change @ change.T)
        bend = self.scale / (some * DIFFERENCE_STEP**2) * products
        if fixed is not None:
            bend = torch.zeros(2 * fixed.shape, dtype=bend.dtype, device=bend.device).index_put_(
                torch.meshgrid(torch.tensor(places), torch.tensor(places), indexing="ij"), bend
            )
        mean = bend.diagonal().mean()
        if not bool(mean > 0):
            return NoStep()
        # a little of the mean keeps combinations that no pattern feels from long steps
        bend = bend + 1e-3 * mean * torch.eye(len(bend), device=bend.device, dtype=bend.dtype)
        return CoupledStep.of(bend, trust, patterns=each)


def _read_noise_term(event: Mapping[str, Any]) -> float:
    """Loss of an epoch without penalties."""
    return (event.get("terms") or {}).get("noise", event["loss"])


def _estimate_trust(history: Sequence[Mapping[str, Any]], halfway: float = POSITION_HALF_TRUST) -> float:
    """Share of a step that positions take: small while the loss is high.

    It never stays zero, for wrong positions may be why the loss is high.
    """
    if not history:
        return 0.0
    last = history[-1]
    loss = last["holdout"] if last.get("holdout") is not None else last["loss"]
    excess = max(0.0, loss - 1.0)
    return max(1 / (1 + (excess / halfway) ** 2), MIN_POSITION_TRUST if len(history) > 1 else 0.0)


def _fit_stiffness(divergence: Callable[[Tensor, Tensor], Tensor], counts: Tensor) -> float:
    """``k`` of ``D = k (sqrt(I) - sqrt(m))^2`` where counts are, weighted by them."""
    counts = counts[counts > 0].double()
    root = counts.sqrt()
    step = 0.05
    above = divergence((root + step).square(), counts)
    below = divergence((root - step).clamp(min=0).square(), counts)
    stiff = float((counts * (above + below)).sum() / (2 * step**2 * counts.sum()))
    return stiff if math.isfinite(stiff) and stiff > 0 else 1.0
