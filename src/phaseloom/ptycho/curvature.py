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
  detector that nobody sees; scan errors follow from it by the chain rule;
* few numbers (tilt, thickness, defocus, aberrations): from differences of patterns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from scipy.fft import next_fast_len
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.physics.propagate import fly
from phaseloom.ptycho.illumination import Slope
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography

__all__ = ["OFTEN", "Curvature", "crossings", "light"]

DAMPING = 0.1
"""Share of the strongest light that is added everywhere: pixels in the dark move little."""

SHY = 0.05
"""Share of the mean curvature of all positions that is added to each."""

HALFWAY, DOUBT = 2.0, 0.25
"""Loss above the noise at which positions, and at which tilts and thickness, are half believed."""

SLOWLY = 0.1
"""Least share of a step that positions take from the second epoch on."""

OFTEN = 16
"""Updates in an epoch from which on the images keep up with positions, each of which moves but once."""

FARTHEST = 0.2
"""Pixels that a position may move in one step."""

NUDGE = 0.02
"""Step, in the natural size of a number, over which patterns are compared."""

LEAP = 0.1
"""Farthest that a number may move in one step, in its natural size."""

Beams = list[tuple[Complex[Tensor, "slice mode y x"], Int[Tensor, " _"]]]

STIR = 0.03
"""Phase in radian that shot noise may leave in a pixel while steps are as long as usual."""

WHOLE = 3.0
"""Newton steps that an epoch makes in all, however few the electrons."""

USUAL = 0.2
"""The usual rate of the object."""

SOME = 64
"""Patterns from which the curvature of a few numbers is taken."""


@dataclass(frozen=True)
class Rule:
    """A Newton step of a parameter; see `phaseloom.fitting.newton.Rule`."""

    step: Callable[[Tensor, Tensor, int, float, Any], Tensor]
    momentum: bool = True

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Any, /) -> Tensor:
        """The step for a gradient of a mean over ``size`` patterns."""
        return self.step(value, gradient, size, rate, where)


class Curvature:
    """The rules of all parts of a model that have one; renewed by calling it with the history of a fit.

    Attributes:
        pull: of amplitudes towards one in objects of several slices, where phase and amplitude of
            neighbouring slices trade places, relative to what the data say.
    """

    def __init__(self, model: Ptychography, likelihood: Likelihood, *, pull: float = 0.1):
        if likelihood.silent:
            fix = "has no curvature without a noise model: name one, or write optimizer: adam"
            raise BadInput("optimizer", "gauss_newton", fix)
        self.model, self.likelihood, self.pull = model, likelihood, pull
        some = torch.linspace(0, len(likelihood.measured) - 1, min(len(likelihood.measured), SOME)).long()
        counts = likelihood.measured[some]
        self.mean = float(counts.sum() / len(counts))
        self.quanta = bool((counts == counts.round()).all())
        self.scale = 2 * _stiffness(likelihood.divergence, counts) / likelihood.floor

    @property
    def momentum(self) -> float:
        """What suits the object: in thick ones slices have to find their shares."""
        return 0.9 if not len(self.model.propagator.gaps) else 0.95

    @torch.no_grad()
    def __call__(self, history: Sequence[Mapping[str, Any]]) -> dict[nn.Parameter, Rule]:
        """The rules for the next epoch."""
        model = self.model
        rules: dict[nn.Parameter, Rule] = {}
        waves = incident(model)
        self._object(rules, waves)
        own, slopes = self._owned(), model.probe.slopes()
        rules |= {p: _alike(slope, self.scale, each=p in own) for p, slope in slopes.items()}
        trust = _trust(history)
        rules |= self._places(waves, trust)
        rules[model.detector.weights] = self._weight()
        rules[model.detector.root] = _alike(float(model.detector.scale) ** 2, self.scale)
        flight = {model.propagator.tilt, model.propagator.stretch}
        shy = _trust(history, DOUBT)
        few = [p for p in self._numbers() if p.requires_grad]
        rules |= {p: self._number(p, shy if p in flight else trust) for p in few}
        return rules

    def _places(self, waves: Beams, trust: float) -> dict[nn.Parameter, Rule]:
        """Positions, and the errors of a scan that move them together."""
        parts = self.model.scan.parts()
        moving = [p for several in parts.values() for p in several if p.requires_grad]
        bends = self._bends(waves) if moving and trust else None
        if bends is None or not bool(bends.any()):
            return dict.fromkeys(moving, Rule(_rest, momentum=False))
        own = self.model.scan.offsets
        together = {p: self._together(p, bends, trust) for p in moving if p is not own}
        return {own: _position(self.scale * self.model.scan.step**2 * bends, trust), **together}

    def _object(self, rules: dict[nn.Parameter, Rule], waves: Beams) -> None:
        model = self.model
        wide = light(model, waves)
        count, many = len(wide), len(model.scan.start)
        calm = self._calm(_area(wide[:1]))
        wide.add_(DAMPING * wide.amax((-2, -1), keepdim=True)).mul_(self.scale * count / many)
        most = torch.stack([wave.abs().square().sum(1).amax((-2, -1)) for wave, _ in waves]).amax(0)
        lone = self.scale * (count + 1) * most[:, None, None]
        share, wide, lone = model.object.occupancy[:, None, None, None], *map(model.object.bend, (wide, lone))
        for name, parameters in model.object.parts().items():
            pull = self.pull if count > 1 and name in ("object", "amplitude") else 0.0
            for parameter in parameters:
                rules[parameter] = _pixels(wide, lone, share, pull, calm)

    def _calm(self, field: float) -> float:
        """Share of the usual step, for each pattern of a batch, that few electrons in a field allow.

        Steps ``r`` with momentum ``m`` leave a variance of ``r / (2 (1 - m))`` times that of one batch,
        which is ``1 / (4 n)`` for ``n`` electrons in a pixel. An epoch makes some whole steps nevertheless.
        Counts that are not whole tell nothing.
        """
        if not self.quanta:
            return math.inf
        calm = STIR**2 * 8 * self.mean / field
        return (1 - self.momentum) / USUAL * max(calm, WHOLE / len(self.model.scan.start))

    def _bends(self, waves: Beams) -> Float[Tensor, "n 2 2"]:
        """Mean square slope of the amplitudes of each pattern along its position."""
        model = self.model
        reach = Reach.of(model)
        share, states = model.object.occupancy, model.object.transmission()[(..., *reach.inside)]
        beams = [torch.fft.rfft2(w[0].abs().square().sum(0), s=reach.room).conj() for w, _ in waves]
        out = states.real.new_zeros(len(reach.corner), 2, 2)
        for weight, state in zip(share, states, strict=True):
            whole = state.prod(0)
            slope = [(whole.roll(-1, axis) - whole.roll(1, axis)) / 2 for axis in (0, 1)]
            for a, b in ((0, 0), (0, 1), (1, 1)):
                map_ = torch.fft.rfft2((slope[a].conj() * slope[b]).real, s=reach.room)
                for beam, (_, members) in zip(beams, waves, strict=True):
                    y, x = reach.corner[members].T
                    out[members, a, b] += 0.5 * weight * torch.fft.irfft2(map_ * beam, s=reach.room)[y, x]
        out[:, 1, 0] = out[:, 0, 1]
        mean = out.diagonal(dim1=1, dim2=2).mean()
        return out + SHY * mean * torch.eye(2, device=out.device, dtype=out.dtype)

    def _together(self, parameter: nn.Parameter, bends: Tensor, trust: float) -> Rule:
        """Numbers that move many positions at once: the chain rule over `_bends`."""
        scan = self.model.scan
        if parameter is scan.lines:
            each = bends.view(len(parameter), -1, 2, 2).sum(1) / len(bends)
            return _solved(self.scale * each, trust, rows=True)
        slopes, before = [], scan.refined()
        flat = parameter.view(-1)
        for place in range(parameter.numel()):
            kept = flat[place].clone()
            flat[place] += 1
            slopes.append(scan.refined() - before)
            flat[place] = kept
        arm = torch.stack(slopes, -1)
        return _solved(self.scale * torch.einsum("nak,nab,nbl->kl", arm, bends, arm) / len(bends), trust)

    def _weight(self) -> Rule:
        """Intensities of the shots: the amplitudes go as their square roots."""
        bend = self.scale * self.mean / 4

        def step(value: Tensor, gradient: Tensor, size: int, rate: float, where: Any) -> Tensor:
            return gradient * (rate * size / bend) * value.square()

        return Rule(step, momentum=False)

    def _numbers(self) -> list[nn.Parameter]:
        """Few numbers that bend all patterns."""
        model = self.model
        known = {"object", "amplitude", "phase", "positions", "affine", "rotation", "scale", "lines"}
        known |= {"weights", "opr_weights"}
        few = [p for name, parts in model.parts().items() if name not in known for p in parts]
        owned = self._owned()
        return [p for p in few if p.numel() <= 64 or p in owned]

    def _owned(self) -> set[nn.Parameter]:
        """Numbers, some for each pattern, that bend that pattern alone."""
        parts, many = self.model.parts(), len(self.model.scan.start)
        names = ("tilts", "descan", "heights", "opr_weights")
        return {p for name in names for p in parts.get(name, ()) if len(p) == many > 1}

    def _number(self, parameter: nn.Parameter, trust: float) -> Rule:
        """From differences of the patterns over small steps."""
        if not trust:
            return Rule(_rest, momentum=False)
        model, each = self.model, parameter in self._owned()
        many = len(model.scan.start)
        some = torch.linspace(0, many - 1, min(many, SOME), device=model.scan.start.device).long()
        values = parameter.view(many, -1) if each else parameter.view(-1)
        columns = [(slice(None), axis) for axis in range(values.shape[-1])]
        places: list[Any] = columns if each else list(range(parameter.numel()))
        slopes, still = [], _amplitudes(model, some)
        for place in places:
            kept = values[place].clone()
            values[place] = kept + NUDGE
            slopes.append((_amplitudes(model, some) - still).flatten() / NUDGE)
            values[place] = kept
        slope = torch.stack(slopes)
        bend = self.scale * (slope @ slope.T) / len(some)
        mean = bend.diagonal().mean()
        if not bool(mean > 0):
            return Rule(_rest, momentum=False)
        bend = bend + 1e-3 * mean * torch.eye(len(bend), device=bend.device, dtype=bend.dtype)
        return _solved(bend, trust, patterns=each)


@torch.no_grad()
def incident(model: Ptychography, /) -> "Beams":
    """The modes in free flight where each slice stands, and the patterns that see them so."""
    out: Beams = []
    for modes, members in model.incident():
        waves = [modes]
        for kernel in model.propagator.flights(members[:1]):
            waves.append(fly(waves[-1], kernel.reshape(kernel.shape[-2:]).to(modes.dtype)))
        out.append((torch.stack(waves), members))
    return out


@torch.no_grad()
def light(model: Ptychography, waves: "Beams", /) -> Float[Tensor, "slice v u"]:
    """What all patterns together throw on each pixel of the object: sum of ``|wave|^2``.

    The beam is correlated with where it went.
    """
    reach, first = Reach.of(model), waves[0][0]
    at = reach.corner[:, 0] * reach.room[1] + reach.corner[:, 1]
    out = first.real.new_zeros(len(first), *model.scan.canvas.shape)
    for wave, members in waves:
        hits = first.real.new_zeros(reach.room[0] * reach.room[1])
        hits.index_add_(0, at[members], hits.new_ones(len(members)))
        beam = torch.fft.rfft2(wave.abs().square().sum(1), s=reach.room)
        lit = torch.fft.irfft2(beam.mul_(torch.fft.rfft2(hits.view(reach.room))), s=reach.room)
        out[(..., *reach.inside)] += lit[:, : reach.height, : reach.width].clamp_(min=0)
    return out


class Reach(NamedTuple):
    """The part of the canvas that a scan reaches; work on it does not grow with the canvas.

    Attributes:
        inside: its rows and columns.
        height, width: their numbers.
        room: no smaller, and quick to transform.
        corner: of the windows in it, ``(n, 2)``.
    """

    inside: tuple[slice, slice]
    height: int
    width: int
    room: tuple[int, int]
    corner: Int[Tensor, "n 2"]

    @classmethod
    def of(cls, model: Ptychography) -> "Reach":
        """That of all patterns."""
        corner, _ = model.scan(torch.arange(len(model.scan.start), device=model.scan.start.device))
        first = corner.amin(0)
        top, left = first.tolist()
        shape = (corner.amax(0) - first).tolist()
        height, width = (n + w for n, w in zip(shape, model.scan.canvas.window, strict=True))
        lengths = next_fast_len(height), next_fast_len(width, real=True)
        room = (int(lengths[0]), int(lengths[1]))  # pyright: ignore[reportArgumentType]
        inside = (slice(top, top + height), slice(left, left + width))
        return cls(inside, height, width, room, corner - first)


@torch.no_grad()
def crossings(model: Ptychography, /) -> float:
    """Patterns that it takes to light the whole scanned field once: its area over the beam's.

    Areas are those of participation, ``(sum I)^2 / sum I^2``.
    """
    waves = [(wave[:1], members) for wave, members in incident(model)]
    areas = [_area(wave.abs().square().sum(1)) for wave, _ in waves]
    return _area(light(model, waves)) / (sum(areas) / len(areas))


def _amplitudes(model: Ptychography, some: Tensor) -> Tensor:
    seen = torch.cat([model(part) for part in some.split(16)])
    return seen.clamp(min=0).sqrt() * model.detector.mask


def _area(intensity: Tensor) -> float:
    return float(intensity.sum() ** 2 / intensity.square().sum())


def _pixels(wide: Tensor, lone: Tensor, share: Tensor, pull: float, calm: float) -> Rule:
    """Pixels of the object; ``wide`` bounds a scan's curvature of each, ``lone`` that of one pattern.

    Rates are lowered to a share ``calm`` for each pattern of a batch, if that is less than one.
    """

    @lru_cache(maxsize=2)
    def inverse(size: int, rate: float) -> Tensor:
        bend = torch.maximum(wide / rate, lone / size)
        return (bend * share if len(share) > 1 else bend).reciprocal_()

    def step(value: Tensor, gradient: Tensor, size: int, rate: float, where: Any) -> Tensor:
        rate *= min(1.0, calm * size)
        out = gradient * inverse(size, rate)[(..., *where)]
        if not pull:
            return out
        beyond = value - torch.sgn(value) if value.is_complex() else value - 1
        return out.add_(beyond, alpha=rate * pull)

    return Rule(step)


def _alike(slope: Slope, scale: float, *, each: bool = False) -> Rule:
    """A curvature that is the same for all batches, of a mean over patterns or of each one's own numbers."""

    def step(value: Tensor, gradient: Tensor, size: int, rate: float, where: Any) -> Tensor:
        share = (size * rate if each else rate) / scale
        return slope(gradient) * share if callable(slope) else gradient * (share / slope)

    return Rule(step, momentum=not each)


def _rest(value: Tensor, gradient: Tensor, size: int, rate: float, where: Any) -> Tensor:
    """No step: nothing is known yet that could tell where to."""
    return torch.zeros_like(gradient)


def _position(bends: Tensor, trust: float) -> Rule:
    """Each pattern's own step, no longer than `FARTHEST`, and shorter where batches are few."""
    inverse = trust * torch.linalg.inv(bends)

    def step(value: Tensor, gradient: Tensor, size: int, rate: float, where: Any) -> Tensor:
        share = min(size, len(bends) / OFTEN)
        move = (inverse @ gradient[:, :, None])[:, :, 0] * (share * rate)
        return move.clamp(-FARTHEST, FARTHEST)

    return Rule(step, momentum=False)


def _solved(bend: Tensor, trust: float, *, rows: bool = False, patterns: bool = False) -> Rule:
    """Numbers that hang together: a small linear system, one for each row where there are ``rows``."""
    inverse = trust * torch.linalg.pinv(bend, rtol=1e-6, hermitian=True)  # a scan of one place feels no map

    def step(value: Tensor, gradient: Tensor, size: int, rate: float, where: Any) -> Tensor:
        if rows:
            move = rate * (inverse @ gradient[:, :, None])[:, :, 0]
        elif patterns:
            move = rate * size * (gradient.view(len(gradient), -1) @ inverse).view(gradient.shape)
        else:
            move = rate * (inverse @ gradient.reshape(-1)).view(gradient.shape)
        return move.clamp(-LEAP, LEAP)

    return Rule(step, momentum=True)


def _trust(history: Sequence[Mapping[str, Any]], halfway: float = HALFWAY) -> float:
    """How far positions may be believed: little while the patterns are explained badly.

    Where they stay so, the positions may be why: they then move, but slowly.
    """
    if not history:
        return 0.0
    last = history[-1]
    loss = last["holdout"] if last.get("holdout") is not None else last["loss"]
    excess = max(0.0, loss - 1.0)
    return max(1 / (1 + (excess / halfway) ** 2), SLOWLY if len(history) > 1 else 0.0)


def _stiffness(divergence: Callable[[Tensor, Tensor], Tensor], counts: Tensor) -> float:
    """``k`` of ``D = k (sqrt(I) - sqrt(m))^2`` where counts are, weighted by them."""
    counts = counts[counts > 0].double()
    root, step = counts.sqrt(), 0.05
    above = divergence((root + step).square(), counts)
    below = divergence((root - step).clamp(min=0).square(), counts)
    stiff = float((counts * (above + below)).sum() / (2 * step**2 * counts.sum()))
    return stiff if math.isfinite(stiff) and stiff > 0 else 1.0
