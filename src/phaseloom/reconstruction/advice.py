"""What a run should make its user do about probe, depth, positions and rates."""

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from phaseloom.fitting import verdict as watch
from phaseloom.fitting.loop import Progress
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.outcome import Advice
from phaseloom.metrics.phase import find_lit
from phaseloom.physics.modes import powers
from phaseloom.ptycho.model import Ptychography, evaluate_whole, is_in_tiles

__all__ = ["InitialProbe", "advise", "rates_above_newton"]

MIN_POWER_OF_PROBE = 0.5
MAX_POWER_OF_PROBE = 2.0
"""Share of its first power below and above which the probe has traded places with the object."""


MIN_WRAPS = 4
"""Pairs of neighbours between which the phase jumps by more than pi, from which it is said."""


class ModelAdvice(StrEnum):
    """What a model as it stands makes its user do."""

    PROBE_LOST_POWER = "probe_lost_power"
    PROBE_GAINED_POWER = "probe_gained_power"
    EMPTY_PROBE_MODE = "empty_probe_mode"
    POSITIONS_OFF_CANVAS = "positions_off_canvas"
    PHASE_WRAPS = "phase_wraps"
    OBJECT_AT_END_OF_DEPTH = "object_at_end_of_depth"
    BEYOND_NEWTON_STEP = "beyond_newton_step"
    BLUR_WITH_FREE_PROBE = "blur_with_free_probe"


@dataclass(frozen=True)
class InitialProbe:
    """What a model was before its first step.

    Attributes:
        power: of the probe, counts, were the object's modulus one.
    """

    power: float

    @classmethod
    @torch.no_grad()
    def of(cls, model: Ptychography, /) -> "InitialProbe":
        """As the model is now."""
        modulus = evaluate_whole(model, lambda whole: float(whole.median_modulus().prod()))
        return cls(float(model.probe.modes().abs().square().sum() * modulus**2))


@torch.no_grad()
def advise(
    model: Ptychography, begun: InitialProbe, progress: Progress, /, *, floor: float = 0.0
) -> list[Advice]:
    """Sentences about a run, worst first; an empty list when there is nothing to do.

    Args:
        model: as it stands.
        begun: as it started.
        progress: the history of the losses.
        floor: loss at which nothing but noise is left.
    """
    newton = 1.0 if isinstance(progress.optimizer, GaussNewton) else math.inf
    rates = watch.advise_rates(progress.history, stopped=progress.stop, floor=floor, newton=newton)
    over = rates_above_newton(progress)
    sentence = f"more than a whole Newton step is asked for ({over}): take 0.1 to 0.5"
    long = [Advice(ModelAdvice.BEYOND_NEWTON_STEP, sentence)] if over else []
    positions = _check_positions(model, progress)
    if is_in_tiles(model):  # the result is judged by the whole object
        return [*positions, *long, *rates]
    return [
        *_check_probe(model, begun),
        *positions,
        *_check_depth(model),
        *_check_wraps(model),
        *_check_blur(model, progress),
        *long,
        *rates,
    ]


def rates_above_newton(progress: Progress, /) -> str:
    """The rates that ask for more than a whole Newton step, by name; empty when none does."""
    if not isinstance(progress.optimizer, GaussNewton):
        return ""
    rates = ((group["name"], group["base"]) for group in progress.optimizer.param_groups)
    return ", ".join(f"{name} {rate:.3g}" for name, rate in rates if rate > 1)


def mean_depth(wave: Tensor, /) -> float | None:
    """Mean slice of the strongest structure; ``None`` for one slice or a flat object."""
    weight = wave.angle().abs().mean(0)
    weight = weight - weight.mean((-2, -1), keepdim=True)
    each = weight.clamp(min=0).square().mean((-2, -1))
    if len(each) < 3 or float(each.sum()) < 1e-10:
        return None
    place = torch.arange(len(each), dtype=each.dtype, device=each.device)
    return float((each * place).sum() / each.sum())


def _check_probe(model: Ptychography, begun: InitialProbe) -> list[Advice]:
    modes = model.probe.modes()
    shared = float(model.median_modulus().prod()) ** 2
    share = shared * float(modes.abs().square().sum()) / max(begun.power, 1e-30)
    if share < MIN_POWER_OF_PROBE:
        sentence = (
            f"the probe has lost {1 - share:.0%} of its power to the object: add the projection 'power', "
            "or bound the object's amplitude"
        )
        return [Advice(ModelAdvice.PROBE_LOST_POWER, sentence)]
    if share > MAX_POWER_OF_PROBE:
        sentence = (
            f"the probe has {share:.1f} times its first power, the object absorbs what is not there: add the "
            "projection 'power', or start the object with less freedom (kind: phase)"
        )
        return [Advice(ModelAdvice.PROBE_GAINED_POWER, sentence)]
    last = powers(modes)
    if len(last) > 1 and float(last[-1]) < 1e-5:
        sentence = (
            f"the weakest of {len(last)} probe modes holds nothing: fewer modes are as good, and faster"
        )
        return [Advice(ModelAdvice.EMPTY_PROBE_MODE, sentence)]
    return []


def _check_positions(model: Ptychography, progress: Progress) -> list[Advice]:
    lost = model.scan.count_outside()
    if not lost:
        return []
    rates = {group["name"]: group["base"] for group in progress.optimizer.param_groups}
    later = ""
    if "positions" in rates:
        one = f"rate: {rates['positions']:g}, start: {1 + max(progress.epoch // 2, 1)}"
        later = f", or freeze positions until the object is good (rates: {{positions: {{{one}}}}})"
    sentence = (
        f"{lost} positions have moved off the object's canvas: check step and rotation of the scan{later}"
    )
    return [Advice(ModelAdvice.POSITIONS_OFF_CANVAS, sentence)]


def _check_blur(model: Ptychography, progress: Progress) -> list[Advice]:
    """A free object and a free illumination of holograms take up most of what a point spread does."""
    rates = {group["name"]: group["base"] for group in progress.optimizer.param_groups}
    if not (model.detector.near and rates.get("blur") and rates.get("probe")):
        return []
    found = " and ".join(f"{one:.2f}" for one in model.detector.blur())
    sentence = (
        f"the blur ({found} pixels) is not told from a free illumination, and the image may be worse for it: "
        "fit it with an illumination that is known and held (probe: stored, rates: {probe: 0}), state it "
        "(detector: counting: blur), or leave it out"
    )
    return [Advice(ModelAdvice.BLUR_WITH_FREE_PROBE, sentence)]


def _check_wraps(model: Ptychography) -> list[Advice]:
    """Phases beyond pi come out as 2 pi less: atoms of a strong object look like holes."""
    phase = model.object.transmission().angle().flatten(0, 1)
    jumps = [(axis, phase.diff(dim=axis).abs() > math.pi) for axis in (-2, -1)]
    if sum(int(jump.sum()) for _, jump in jumps) < MIN_WRAPS:
        return []
    lit = torch.as_tensor(find_lit(model.coverage()), device=phase.device)
    count = 0
    for axis, jump in jumps:
        before, after = (lit.narrow(axis, first, lit.shape[axis] - 1) for first in (0, 1))
        count += int((jump & before & after).sum())
    if count < MIN_WRAPS:
        return []
    sentence = (
        f"the phase passes pi and jumps by 2 pi at {count} pairs of pixels: unwrap it before it is measured, "
        "or share it among more slices (object: pixels: slices)"
    )
    return [Advice(ModelAdvice.PHASE_WRAPS, sentence)]


def _check_depth(model: Ptychography) -> list[Advice]:
    now = mean_depth(model.object.transmission())
    if now is None:
        return []
    last = model.object.transmission().shape[1] - 1
    if 0.15 * last < now < 0.85 * last:
        return []
    side = "first" if now < last / 2 else "last"
    sentence = (
        f"the object has gathered in the {side} slices: its depth trades with the probe's defocus. Add the "
        "projection 'recentre', or correct the defocus"
    )
    return [Advice(ModelAdvice.OBJECT_AT_END_OF_DEPTH, sentence)]
