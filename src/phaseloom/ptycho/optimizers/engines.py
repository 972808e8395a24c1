"""The classical engines of ptychography: PIE and its kin, difference map, RAAR, and LSQ-ML.

They work on the same model, batches and epochs as every optimiser, so that a published result can be
repeated and then be compared. All of them impose the measured modulus on the waves at the detector; masked
pixels keep the waves of the model, and a background, shot weights and a flat field are taken into account.
The noise model of a run only measures their loss.

They move the object (complex pixels) and the probe (pixels, any number of incoherent modes), nothing else:
positions stay where they are. A rate is a factor on the step of the paper, 1 by default, and constant.

In the formulas ``P`` is the probe moved to a position, ``O`` the window of the object there, ``psi = P O``
the exit wave and ``psi'`` the nearest exit wave with the measured modulus; ``*`` marks a conjugate. A shift
by part of a pixel moves the probe, so that a sum over positions is taken in its own frame.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.fitting.optimizers import Groups
from phaseloom.physics.detect import intensity
from phaseloom.physics.fourier import shift
from phaseloom.physics.patches import gather, scatter
from phaseloom.physics.propagate import fly
from phaseloom.ptycho.optimizers.exit_waves import Lit, WaveEngine, WindowSum

__all__ = ["difference_map", "epie", "lsq_ml", "mpie", "raar", "rpie"]

MIN_LIGHT = 1e-4
"""Share of the strongest illumination below which a pixel of the overlap projection is damped."""

PATTERNS_AT_ONCE = 64
"""Patterns that the projections of all patterns work on together; any number gives the same step."""

MIN_CURVATURE = 1e-12
"""Relative size of the determinant below which the two steps of LSQ-ML cannot be told apart."""


def epie(moving: Groups, /, *, alpha: float = 1.0, beta: float = 1.0) -> WaveEngine:
    """Extended ptychographical iterative engine: one pattern after the other, in random order.

    ``O <- O + alpha P* (psi' - psi) / max |P|^2`` and ``P <- P + beta O* (psi' - psi) / max |O|^2``, both
    from the same old values (Maiden & Rodenburg 2009, doi 10.1016/j.ultramic.2009.05.012). With several modes
    ``P* psi`` and ``|P|^2`` are sums over them (Thibault & Menzel 2013, doi 10.1038/nature11806; Batey et al.
    2014, doi 10.1016/j.ultramic.2013.12.003). Several slices are updated from the last to the first, each
    handing its change of the wave back to the one before (3PIE: Maiden, Humphry & Rodenburg 2012, doi
    10.1364/JOSAA.29.001606).

    A batch has one pattern. A larger one is parallel PIE: its patterns see the same object and probe, and
    their updates and intensities are added up before the division.

    Args:
        moving: see `phaseloom.fitting.optimizers.groups`.
        alpha: step of the object.
        beta: step of the probe.
    """
    _require("epie", alpha=(alpha, 0, 2), beta=(beta, 0, 2))
    return PIE(moving, "epie", steps=(alpha, beta), regularisation=(1.0, 1.0), back=beta)


def rpie(moving: Groups, /, *, alpha: float = 0.1, beta: float = 1.0) -> WaveEngine:
    """Regularised PIE: as `epie`, but weakly lit pixels are trusted more.

    ``O <- O + P* (psi' - psi) / ((1 - alpha) |P|^2 + alpha max |P|^2)``, and the same for the probe with
    ``beta`` and ``|O|^2`` (Maiden, Johnson & Li 2017, doi 10.1364/OPTICA.4.000736). With ``alpha = beta = 1``
    it is ePIE. Batches and slices as there.

    Args:
        moving: see `phaseloom.fitting.optimizers.groups`.
        alpha: regularisation of the object, 0 to 1.
        beta: regularisation of the probe, 0 to 1.
    """
    _require("rpie", alpha=(alpha, 0, 1), beta=(beta, 0, 1))
    return PIE(moving, "rpie", steps=(1.0, 1.0), regularisation=(alpha, beta))


def mpie(
    moving: Groups,
    /,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    gamma: float = 0.2,
    eta: float = 0.9,
    T: int = 100,
) -> WaveEngine:
    """Momentum-accelerated PIE: `rpie`, and after every ``T`` updates a leap along what they did.

    ``v <- eta v + (O - O_T)`` with the object ``O_T`` of the leap before, then ``O <- O + eta v``; the same
    for the probe (Maiden, Johnson & Li 2017, doi 10.1364/OPTICA.4.000736). With ``eta = 0`` and
    ``gamma = 1`` it is rPIE.

    Args:
        moving: see `phaseloom.fitting.optimizers.groups`.
        alpha: regularisation of the object, 0 to 1.
        beta: regularisation of the probe, 0 to 1.
        gamma: step of object and probe; their rates tell them apart.
        eta: share of the velocity that is kept, 0 up to but not 1.
        T: updates between leaps.
    """
    _require("mpie", alpha=(alpha, 0, 1), beta=(beta, 0, 1), gamma=(gamma, 0, 2))
    _require("mpie", eta=(eta, 0, 0.999), T=(T, 1, 1e9))
    steps = (gamma, gamma)
    return PIE(moving, "mpie", steps=steps, regularisation=(alpha, beta), eta=eta, period=T)


def difference_map(moving: Groups, /, *, beta: float = 1.0) -> WaveEngine:
    """Difference map of all patterns: an exit wave is kept for each of them.

    ``psi <- psi + beta (F(f_O) - O(f_F))`` with the projections ``F`` on the measured modulus and ``O`` on
    waves that overlap consistently, ``f_O = (1 + 1/beta) O(psi) - psi / beta`` and ``f_F = (1 - 1/beta)
    F(psi) + psi / beta`` (Elser 2003, doi 10.1364/JOSAA.20.000040). With ``beta = 1`` that is the one of
    ptychography, ``psi <- psi + F(2 O(psi) - psi) - O(psi)`` (Thibault et al. 2008, doi
    10.1126/science.1158573, and 2009, doi 10.1016/j.ultramic.2008.12.011); with -1 it is `raar` with
    ``beta = 1``.

    The overlap projection is ``O = sum P* psi / sum |P|^2``, then ``P = sum O* psi / sum |O|^2`` with the new
    object, once in every epoch. An epoch is one step, however large its batches; memory and snapshots hold a
    wave for each pattern and mode. One slice.

    Args:
        moving: see `phaseloom.fitting.optimizers.groups`.
        beta: not 0, between -2 and 2; other values than 1 and -1 take twice the transforms.
    """
    _require("difference_map", beta=(beta, -2, 2))
    if beta == 0:
        raise BadInput("optimizer: difference_map: beta", beta, "leaves waves as they are: 1 is usual")
    if beta == 1:

        def step(wave: Tensor, known: Tensor, project: Projection) -> tuple[Tensor, Tensor]:
            new = wave + project(2 * known - wave) - known
            return new, new

        return WaveProjections(moving, "difference_map", step)

    def general(wave: Tensor, known: Tensor, project: Projection) -> tuple[Tensor, Tensor]:
        measured = project(wave)
        kept = wave + beta * (measured if beta == -1 else project((1 + 1 / beta) * known - wave / beta))
        return (1 - 1 / beta) * measured + wave / beta, kept

    return WaveProjections(moving, "difference_map", general, overlap=-beta, settles=True)


def raar(moving: Groups, /, *, beta: float = 0.75) -> WaveEngine:
    """Relaxed averaged alternating reflections of all patterns: an exit wave is kept for each of them.

    ``psi <- beta (O(2 F(psi) - psi) - F(psi) + psi) + (1 - beta) F(psi)`` with the projections of
    `difference_map` (Luke 2005, doi 10.1088/0266-5611/21/1/004; in ptychography Marchesini et al. 2016, doi
    10.1107/S1600576716008074). Batches, memory and slices as there.

    Args:
        moving: see `phaseloom.fitting.optimizers.groups`.
        beta: relaxation, above 0 up to 1; 1 is averaged alternating reflections.
    """
    _require("raar", beta=(beta, 1e-3, 1))

    def step(wave: Tensor, known: Tensor, project: Projection) -> tuple[Tensor, Tensor]:
        del known
        measured = project(wave)
        return 2 * measured - wave, beta * wave + (1 - 2 * beta) * measured

    return WaveProjections(moving, "raar", step, overlap=beta)


def lsq_ml(moving: Groups, /, *, beta: float = 0.9, delta: float = 0.1) -> WaveEngine:
    """Least-squares maximum likelihood: mini-batches, with the step lengths that fit each pattern best.

    With ``chi = psi' - psi``, the directions are ``D_O = sum P* chi / (sum |P|^2 + delta max)`` and ``D_P =
    sum O* chi / (sum |O|^2 + delta max)`` over a batch. For each pattern the real steps ``a, b`` make
    ``|chi - a D_O P - b D_P O|^2`` least; the object moves by their mean weighted with ``|P|^2``, the probe
    by the mean (Odstrcil, Menzel & Guizar-Sicairos 2018, doi 10.1364/OE.26.003108). One slice; the amplitude
    likelihood; positions are not refined.

    Args:
        moving: see `phaseloom.fitting.optimizers.groups`.
        beta: share of the best steps that is made.
        delta: damping of the directions where there is little light.
    """
    _require("lsq_ml", beta=(beta, 0, 2), delta=(delta, 0, 1e3))
    return LSQML(moving, "lsq_ml", beta=beta, delta=delta)


Projection = Callable[[Tensor], Tensor]


class PIE(WaveEngine):
    """See `epie`, `rpie` and `mpie`.

    Attributes:
        steps: of object and probe.
        regularisation: of the denominators of object and probe: 1 is their maximum, 0 their own value.
        back: step of the wave that a slice hands back to the one before.
        eta: share of the velocity that is kept.
        period: updates between leaps.
    """

    batch_size = 1
    takes_slices: ClassVar[bool] = True

    def __init__(
        self,
        moving: Groups,
        name: str,
        *,
        steps: tuple[float, float],
        regularisation: tuple[float, float],
        back: float = 1.0,
        eta: float = 0.0,
        period: int = 1,
    ):
        super().__init__(moving, name)
        self.steps = steps
        self.regularisation = regularisation
        self.back = back
        self.eta = eta
        self.period = period

    @torch.no_grad()
    def update(self, batch: Int[Tensor, " b"], moving: Collection[str], /) -> Mapping[str, Tensor]:
        """One update of object and probe."""
        lit = self.experiment.light(batch)
        measured = self.experiment.measure(lit)
        if self.eta:
            self._begin_leap(moving)
        first = self._update_slices(lit, self.experiment.correct(lit, measured), moving)
        if "probe" in moving:
            square = intensity(lit.windows[None, :, 0])[0]
            change = self.experiment.shift_back(lit.windows[:, 0, None].conj() * first, lit)
            step = self.rate_of("probe") * self.steps[1] / _regularise(square, self.regularisation[1])
            self.experiment.add_to_probe(step * change)
        if self.eta:
            self._leap(moving)
        return measured.terms

    def _update_slices(self, lit: Lit, change: Tensor, moving: Collection[str]) -> Tensor:
        """Update slices from the last to the first; the change of the wave that leaves the first."""
        model = self.experiment.model
        add = WindowSum(lit.corner, (change.shape[-2], change.shape[-1]))
        kernels = self.experiment.kernels(lit.patterns)
        for number in reversed(range(len(lit.waves))):
            wave = lit.waves[number]
            if "object" in moving:
                light = add(intensity(wave))
                step = self.rate_of("object") * self.steps[0] / _regularise(light, self.regularisation[0])
                model.object.wave[0, number][add.inside] += step * add((wave.conj() * change).sum(1))
            if number:
                window = lit.windows[:, number, None]
                damped = _regularise(window.abs().square(), self.regularisation[1])
                incident = self.back * window.conj() * change / damped
                change = fly(incident, kernels[number - 1].conj())
        return change

    def _leaping(self, moving: Collection[str]) -> list[torch.nn.Parameter]:
        return [p for group in self.param_groups if group["name"] in moving for p in group["params"]]

    def _begin_leap(self, moving: Collection[str]) -> None:
        """Remember where parameters are, when they begin to move."""
        for parameter in self._leaping(moving):
            if "before" not in self.state[parameter]:
                start = {"before": parameter.clone(), "velocity": torch.zeros_like(parameter)}
                self.state[parameter].update(start, updates=torch.zeros(()))

    def _leap(self, moving: Collection[str]) -> None:
        """Momentum, when it is due."""
        for parameter in self._leaping(moving):
            state = self.state[parameter]
            state["updates"] += 1
            if int(state["updates"]) % self.period == 0:
                state["velocity"].mul_(self.eta).add_(parameter - state["before"])
                parameter.add_(state["velocity"], alpha=self.eta)
                state["before"].copy_(parameter)


class WaveProjections(WaveEngine):
    """A wave for each pattern, mapped by its projections; see `difference_map` and `raar`.

    Between epochs ``waves`` and the model's own exit waves ``O P`` make the iterate ``waves + overlap O P``.

    Attributes:
        mapping: of an iterate, the model's own exit wave and the projection on the modulus: the wave that
            object and probe are found from, and what is kept.
        overlap: share of the model's own exit waves in the iterate.
        settles: whether the iterate is made up in the epoch, and object and probe are found from it too.
    """

    batch_size = PATTERNS_AT_ONCE

    def __init__(
        self,
        moving: Groups,
        name: str,
        mapping: Callable[[Tensor, Tensor, Projection], tuple[Tensor, Tensor]],
        *,
        overlap: float = 0.0,
        settles: bool = False,
    ):
        super().__init__(moving, name)
        self.mapping = mapping
        self.overlap = overlap
        self.settles = settles
        self._round: list[tuple[Tensor, Tensor | None]] = []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, and forget what an epoch that was broken off has left."""
        super().load_state_dict(state_dict)
        self._round = []

    @torch.no_grad()
    def update(self, batch: Int[Tensor, " b"], moving: Collection[str], /) -> Mapping[str, Tensor]:
        """Map the waves of a batch; object and probe follow at the end of the epoch."""
        del moving
        lit = self.experiment.light(batch)
        measured = self.experiment.measure(lit)
        kept = self._kept(lit)
        share = 0.0 if self.settles else self.overlap
        known = kept["known"][lit.patterns, None, None, None] > 0
        wave = torch.where(known, kept["waves"][lit.patterns] + share * lit.leaving, lit.leaving)
        found, left = self.mapping(
            wave, lit.leaving, lambda one: self.experiment.project(one, lit, measured.target)
        )
        kept["waves"][lit.patterns] = left
        kept["known"][lit.patterns] = 1.0
        self._round.append((lit.patterns, None if found is left else found))
        return measured.terms

    @torch.no_grad()
    def finish_epoch(self, moving: Collection[str], /) -> None:
        """The overlap projection of the waves of all patterns."""
        seen, self._round = self._round, []
        self._find_parts(seen, moving)
        if self.settles:
            waves = self._state()["waves"]
            for index, _ in seen:
                waves[index] += self.overlap * self.experiment.light(index).leaving
            self._find_parts([(index, None) for index, _ in seen], moving)

    def _find_parts(self, seen: list[tuple[Tensor, Tensor | None]], moving: Collection[str]) -> None:
        """Object, then probe, whose exit waves are nearest to given ones; ``None`` stands for those kept."""
        for part, solve in (("object", self._find_object), ("probe", self._find_probe)):
            if part in moving and seen:
                solve(
                    [(index, self._state()["waves"][index] if wave is None else wave) for index, wave in seen]
                )

    def _find_object(self, seen: list[tuple[Tensor, Tensor]]) -> None:
        thing = self.experiment.model.object
        shape = (thing.wave.shape[-2], thing.wave.shape[-1])
        change, light = torch.zeros_like(thing.wave[0, 0]), torch.zeros_like(thing.wave[0, 0].real)
        for index, wave in seen:
            lit = self.experiment.light(index)
            change += scatter((lit.waves[0].conj() * (wave - lit.leaving)).sum(1), lit.corner, shape)
            light += scatter(intensity(lit.waves[0]), lit.corner, shape)
        thing.wave[0, 0] += self.rate_of("object") * change / light.clamp(min=MIN_LIGHT * float(light.max()))

    def _find_probe(self, seen: list[tuple[Tensor, Tensor]]) -> None:
        modes = self.experiment.model.probe.modes()
        change, square = torch.zeros_like(modes), torch.zeros_like(modes[0].real)
        for index, wave in seen:
            lit = self.experiment.light(index)
            change += self.experiment.shift_back(lit.windows.conj() * (wave - lit.leaving), lit)
            square += intensity(lit.windows[None, :, 0])[0]
        step = self.rate_of("probe") / square.clamp(min=MIN_LIGHT * float(square.max()))
        self.experiment.add_to_probe(step * change)

    def _state(self) -> dict[str, Tensor]:
        """What is remembered of all patterns, with the first parameter that moves."""
        return self.state[self.param_groups[0]["params"][0]]

    def _kept(self, lit: Lit) -> dict[str, Tensor]:
        """The same, with room for all patterns of the scan."""
        state = self._state()
        if "waves" not in state:
            start = self.experiment.model.scan.start
            state["waves"] = lit.leaving.new_zeros(len(start), *lit.leaving.shape[1:])
            state["known"] = start.new_zeros(len(start))
        return state


class LSQML(WaveEngine):
    """See `lsq_ml`.

    Attributes:
        beta: share of the best steps that is made.
        delta: damping of the directions.
    """

    def __init__(self, moving: Groups, name: str, *, beta: float, delta: float):
        super().__init__(moving, name)
        self.beta = beta
        self.delta = delta

    @torch.no_grad()
    def update(self, batch: Int[Tensor, " b"], moving: Collection[str], /) -> Mapping[str, Tensor]:
        """One step of object and probe by a mini-batch."""
        lit = self.experiment.light(batch)
        measured = self.experiment.measure(lit)
        wave = lit.waves[0]
        change = self.experiment.correct(lit, measured)
        add = WindowSum(lit.corner, (change.shape[-2], change.shape[-1]))
        light = intensity(wave)
        damped = _damp(add(light), self.delta)
        of_object = add((wave.conj() * change).sum(1)) / damped
        square = _damp(intensity(lit.windows[None, :, 0])[0], self.delta)
        of_probe = self.experiment.shift_back(lit.windows.conj() * change, lit) / square
        along = self._directions(lit, add, of_object, of_probe, moving)
        first, second = best_steps(change, along)
        if "object" in moving:
            step = self.rate_of("object") * self.beta * add(first[:, None, None] * light) / damped
            self.experiment.model.object.wave[0, 0][add.inside] += step * of_object
        if "probe" in moving:
            self.experiment.add_to_probe(self.rate_of("probe") * self.beta * second.mean() * of_probe)
        return measured.terms

    def _directions(
        self, lit: Lit, add: WindowSum, of_object: Tensor, of_probe: Tensor, moving: Collection[str]
    ) -> tuple[Tensor, Tensor]:
        """Changes of the exit waves along the directions of object and probe; zero of what stands still."""
        size = (lit.leaving.shape[-2], lit.leaving.shape[-1])
        still = torch.zeros_like(lit.leaving)
        by_object = lit.waves[0] * gather(of_object, add.corner, size)[:, None]
        by_probe = lit.windows * shift(of_probe, lit.rest[:, None])
        return by_object if "object" in moving else still, by_probe if "probe" in moving else still


CLASSES: Mapping[str, type[WaveEngine]] = {
    **dict.fromkeys(("epie", "rpie", "mpie"), PIE),
    **dict.fromkeys(("difference_map", "raar"), WaveProjections),
    "lsq_ml": LSQML,
}
"""The class of each engine: what an engine can do is known before it is made."""


def best_steps(
    change: Complex[Tensor, "b mode y x"], along: tuple[Tensor, Tensor], /
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Real steps ``a, b`` of each pattern that make ``|change - a first - b second|^2`` least.

    A direction that is zero, or the same as the other, gets no step.

    Example:
        >>> wave = torch.tensor([[[[3.0 + 0j, 4.0]]]])
        >>> best_steps(wave, (torch.tensor([[[[1.0 + 0j, 0]]]]), torch.tensor([[[[0j, 2.0]]]])))
        (tensor([3.]), tensor([2.]))
    """
    first, second = along
    aa, ab, bb = _dot(first, first), _dot(first, second), _dot(second, second)
    ca, cb = _dot(first, change), _dot(second, change)
    determinant = aa * bb - ab.square()
    both = determinant > MIN_CURVATURE * aa * bb
    safe = torch.where(both, determinant, 1.0)
    alone = torch.where(aa > 0, ca / torch.where(aa > 0, aa, 1.0), 0.0)
    other = torch.where((aa == 0) & (bb > 0), cb / torch.where(bb > 0, bb, 1.0), 0.0)
    return torch.where(both, (bb * ca - ab * cb) / safe, alone), torch.where(
        both, (aa * cb - ab * ca) / safe, other
    )


def _dot(one: Tensor, other: Tensor) -> Float[Tensor, " b"]:
    """Real scalar product of the waves of each pattern."""
    return (one.conj() * other).real.sum((1, 2, 3))


def _regularise(square: Tensor, share: float) -> Tensor:
    """``(1 - share) |wave|^2 + share max |wave|^2``; the maximum of each pattern, if there are several."""
    most = square.amax((-2, -1), keepdim=True)
    tiny = torch.finfo(square.dtype).tiny
    return ((1 - share) * square + share * most).clamp(min=tiny)


def _damp(square: Tensor, share: float) -> Tensor:
    return (square + share * square.max()).clamp(min=torch.finfo(square.dtype).tiny)


def _require(name: str, /, **knobs: Any) -> None:
    """Refuse values out of range: of each knob its value, the least and the most."""
    for knob, (value, least, most) in knobs.items():
        if not least <= value <= most:
            raise BadInput(f"optimizer: {name}.{knob}", value, f"must be from {least:g} to {most:g}")
