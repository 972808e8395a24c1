"""Resolution levels of a reconstruction: model, objective and optimiser on one grid, and the epochs on it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.fitting.engine import Engine
from phaseloom.fitting.loop import Epoch, Progress, fit
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.schedule import Every, Shape, evaluate_shape
from phaseloom.fitting.updates import Batches
from phaseloom.metrics.pattern_misfit import PatternMisfit, measure_pattern_misfit
from phaseloom.ptycho import batches, multigrid
from phaseloom.ptycho.curvature import (
    count_crossings,
    incident_waves,
    sum_illumination,
)
from phaseloom.ptycho.likelihood import CountLoader, Likelihood
from phaseloom.ptycho.model import Ptychography, change_whole, hold_windows, is_in_tiles
from phaseloom.ptycho.newton.preparation import prepare_newton_steps
from phaseloom.ptycho.newton.steps import PixelStep
from phaseloom.ptycho.noise import Divergence
from phaseloom.ptycho.optimizers.exit_waves import WaveEngine
from phaseloom.ptycho.projections import Setting
from phaseloom.ptycho.projections.apply import bind_projection, describe_setting
from phaseloom.ptycho.projections.object_prior import ObjectPower, apply_object_prior
from phaseloom.reconstruction.early_noise import choose_noise, find_early_noise
from phaseloom.reconstruction.recipe import RateChange, Reconstruct
from phaseloom.runs.scan_recipe import keep_part_of_process
from phaseloom.spec import Call

__all__ = ["MIN_PATTERNS_ON_PLACE", "Level", "build_levels", "count_patterns_on_place", "fit_level"]
__all__ += [
    "fit_patterns",
    "last_epochs",
    "limit_batch_size",
    "make_batches",
    "set_batch_size",
    "split_patterns",
]

PROJECTIONS_ON_ANY_GRID = ("one_material",)
"""Those that may be imposed on coarser grids as well."""

COARSE_EPOCHS = 0.6
"""Share of the epochs that is done on coarser grids, where there are any."""

EPOCHS_ON_ALL = 0.1
"""Share of the epochs, at the end, that also learn from the patterns held out before; whole ones only."""

EPOCHS_BETWEEN_MISFITS = 5
"""Epochs after which it is measured what the model explains of patterns held out."""

MIN_ERRORS_OF_EXPLAINED = 3.0
"""Standard errors from which a share explained is more than noise."""

RATES_AFTER_COARSER = 0.5
"""Share of the rates with which a finer level begins after a coarser one."""

MIN_UPDATES_OF_EPOCH = 12
"""Of Newton steps; fewer where batches would have less than `MIN_BATCH` patterns."""

MIN_BATCH = 8
"""Patterns of a batch at least, by default."""

MIN_BATCH_OF_ONE_SLICE = 16
"""The same for objects of one slice in the far field; near fields get worse by it. With 8, high frequencies
keep errors of the first epochs, where patterns are dark. Objects of several slices need many steps (decision
029)."""

UPDATES_WITH_LARGER_BATCHES = 300
"""Updates in a run that batches larger than `MIN_BATCH` leave at least: the short runs of a calibration, of
few epochs and patterns, need their steps."""

MIN_PATTERNS_FOR_HOLDOUT = 20
"""Patterns of a scan below which none is held out."""

MIN_PATTERNS_ON_PLACE = 1.5
"""Patterns that see a place of the object (`count_patterns_on_place`) below which none is held out.

No other tells then what one saw, and its loss rises while the object gets better, so that steps were undone
and the run ended early. Of a defocused probe with 44 and 37 % linear overlap the count is 1.25 and 1.16, and
errors were 0.85 in place of 0.09 and 0.15; with 50 and 58 % it is 1.36 and 1.6, and holding out cost nothing.
"""

OWN_OF_PATTERNS = ("positions", "heights", "weights", "descan", "opr_weights")
"""Parts with a value for each pattern, which held-out patterns fit for themselves."""


@dataclass(eq=False)
class Level:
    """What a fit needs on one grid of pixels.

    Attributes:
        scan: its patterns.
        model, likelihood, progress: see `phaseloom.ptycho.model` and `phaseloom.fitting.loop`.
        recipe: whose settings hold on it.
        setting: what projections know of the experiment at its start.
        before, after: what happens before and after each epoch.
        power: of the object, that holds its noise down; ``None``: nothing does.
    """

    scan: Scan4D
    model: Ptychography
    likelihood: Likelihood
    progress: Progress
    recipe: Reconstruct
    setting: Setting
    before: list[Callable[[Progress], None]] = field(default_factory=list)
    after: list[Every] = field(default_factory=list)
    power: ObjectPower | None = None
    _updates: int = 0
    """Batches of the epoch under way."""

    @classmethod
    def of(cls, recipe: Reconstruct, scan: Scan4D, model: Ptychography) -> "Level":
        """Objective, optimiser, preparation and projections around a model."""
        likelihood = _build_likelihood(recipe, scan, model)
        progress = Progress(model, _optimizer(recipe.optimizer, _parameter_groups(recipe, model)))
        setting = describe_setting(model, scan)
        table = recipe.found.get("power")
        power = None if table is None else ObjectPower.of(table)
        level = cls(scan, model, likelihood, progress, recipe, setting, power=power)
        level._prepare_epochs()
        return level

    def with_settings(self, recipe: Reconstruct, /) -> "Level":
        """The same fit with other settings of noise, penalties and projections, between two epochs.

        Raises:
            BadInput: as of `of`; this level can still be used.
        """
        old = self.recipe
        likelihood = self.likelihood
        if (old.noise, old.penalties) != (recipe.noise, recipe.penalties):
            likelihood = _build_likelihood(recipe, self.scan, self.model, self.likelihood.measured)
        level = replace(self, recipe=recipe, likelihood=likelihood)
        if likelihood is not self.likelihood or old.projections != recipe.projections:
            level._prepare_epochs()
        return level

    def with_model(self, model: Ptychography, /) -> "Level":
        """The same fit as another model has it, to look at: one with the whole of an object in tiles."""
        old = self.likelihood
        likelihood = Likelihood(model, self.scan, old.divergence, measured=old.measured)
        return replace(self, model=model, likelihood=likelihood)

    def _prepare_epochs(self) -> None:
        """Bind projections, engines, and the curvatures that an optimiser needs before every epoch."""
        self.after = [
            Every(bind_projection(call.partial(), self.model, self.setting, call.name), **dict(call.when))
            for call in self.recipe.projections
        ]
        optimizer = self.progress.optimizer
        for parameter in self.model.parameters():
            parameter.grad = None  # what was touched of it is forgotten now
        if isinstance(optimizer, WaveEngine):
            optimizer.bind(self.model, self.likelihood)
        self.before = prepare_newton_steps(self.model, self.likelihood, optimizer, braked=not self.after)

    def coarser(self, recipe: Reconstruct) -> "Level | None":
        """The same on pixels twice as wide, or ``None`` where that would lose light."""
        scan = multigrid.coarsen_scan(self.scan, self.model)
        if scan is None:
            return None
        canvas = multigrid.halve_canvas(self.model.object.canvas)
        model = recipe.build_model(scan, canvas).to(self.model.scan.start.device)
        multigrid.transfer_parameters(self.model, model)
        return Level.of(recipe, scan, model)

    def fit(
        self,
        patterns: Batches,
        holdout: Sequence[Any],
        /,
        *,
        first: Callable[[Progress], None] = lambda progress: None,
        **knobs: Any,
    ) -> Iterator[Epoch]:
        """Run a fit (`phaseloom.fitting.loop.fit`) of batches, judged by batches held out.

        ``first`` is called before every epoch, ahead of the preparation of this level.
        """
        tilted = ("tilts",) if len(self.model.propagator.tilt) > 1 else ()

        def count(number: int) -> Sequence[Any]:
            found = patterns(number)
            self._updates = len(found)
            return found

        for epoch in fit(
            self.likelihood,
            count,
            self.progress,
            before=[first, self.choose_noise, *self.before],
            after=[*self.after, Every(self._apply_prior)],
            holdout=holdout,
            judged=self.likelihood.data_terms,
            own=(*OWN_OF_PATTERNS, *tilted),
            **knobs,
        ):
            self.hold_windows()
            yield epoch

    def choose_noise(self, progress: Progress) -> None:
        """Take the noise model that suits how far the model is from the counts by now."""
        if self._early_noise is not None:
            usual = self.recipe.noise_of(self.scan).partial()
            choose_noise(self.likelihood, usual, self._early_noise, progress, epochs=self.recipe.epochs)

    @cached_property
    def _early_noise(self) -> Divergence | None:
        """That of a run far from the counts; ``None`` where it is the usual one."""
        optimizer = self.progress.optimizer
        if not isinstance(optimizer, GaussNewton) or self.recipe.begins_with_known_object:
            return None
        usual = self.recipe.noise_of(self.scan).partial()
        early = find_early_noise(self.likelihood, usual, optimizer.early_floor)
        # where beams hardly overlap, steps by bright pixels alone are slower (0.11 for 0.09 after 40 epochs)
        overlaps = early is not None and count_patterns_on_place(self.model) > MIN_PATTERNS_ON_PLACE
        return early if overlaps else None

    @torch.no_grad()
    def hold_windows(self) -> None:
        """Widen the halos of an object in tiles where windows have moved close to their edge."""
        shapes = {parameter: parameter.shape for parameter in self.model.object.parameters()}
        widen = hold_windows(self.model)
        if widen is None:
            return
        state = self.progress.optimizer.state
        for parameter, shape in shapes.items():
            own = state.get(parameter, {})
            own |= {
                name: widen(value)
                for name, value in own.items()
                if isinstance(value, Tensor) and value.shape == shape
            }
        if self.progress.best is not None:
            best = self.progress.best[2]
            best |= {
                f"object.{name}": widen(best[f"object.{name}"])
                for name, _ in self.model.object.named_parameters()
            }

    @torch.no_grad()
    def measure_misfit(
        self, index: Tensor, /, over: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> PatternMisfit:
        """How much of what differs between some patterns the model explains.

        Args:
            index: of the patterns, those of this process.
            over: makes sums over all patterns of those over the patterns of this process.
        """
        detector = self.model.detector
        pieces = (
            (self.model(part), self.likelihood.measured.load(part, part.device)[1])
            for part in index.to(self.model.scan.start.device).split(32)
            if len(part)
        )
        mask = detector.mask.cpu().numpy().astype(bool)
        return measure_pattern_misfit(pieces, detector.background().cpu(), mask, over)

    def _apply_prior(self) -> None:
        """Weight the spectrum of the object by its power over the noise."""
        if self.power is None:
            return
        history = self.progress.history
        loss = history[-1]["terms"].get("noise", history[-1]["loss"]) if history else 1.0
        knobs = {"excess": max(loss, 1.0), "advance": self._measure_advance()}
        if self.scan.geometry.near:  # as the results of near fields were measured (decision 056)
            knobs |= {"advance": math.inf, "told": 1.0}
        apply = partial(apply_object_prior, power=self.power, **knobs)
        change_whole(self.model, apply) if is_in_tiles(self.model) else apply(self.model)

    def _measure_advance(self) -> float:
        """Newton steps that the object makes in an epoch; infinite of steps that have no such unit."""
        optimizer = self.progress.optimizer
        if not isinstance(optimizer, GaussNewton) or not self._updates:
            return math.inf
        size = round(len(self.scan) / self._updates)
        most = 0.0
        for group in self.groups("object"):
            for rule in map(optimizer.rules.get, group["params"]):
                if not isinstance(rule, PixelStep):
                    return math.inf
                steps = rule.measure_steps(size, optimizer.limit_rate(group, rule))
                done, light = self.model.object.sum_pixels(torch.stack([steps * rule.wide, rule.wide])).sum(1)
                most = max(most, float(done / light))
        return self._updates * most / (1 - optimizer.momentum_in_use)

    def change(self, changes: Sequence[RateChange], number: int) -> None:
        """Give parts the rates that were decided for an epoch or one before it; the last decision holds.

        A rate of 0 ends a part's epochs: momentum would carry it on.
        """
        for one in changes:
            for group in self.groups(one.part) if one.epoch <= number else ():
                group.update(one.for_group(group["start"]))

    def groups(self, part: str) -> list[dict[str, Any]]:
        """What the optimiser knows of a part; that of ``object`` may be amplitude and phase."""
        groups = self.progress.optimizer.param_groups
        found = [group for group in groups if group["name"] == part]
        both = ("amplitude", "phase") if part == "object" and not found else ()
        return found or [group for group in groups if group["name"] in both]

    def follow(self, other: "Level") -> None:
        """Go on from what another stage has found."""
        multigrid.transfer_parameters(other.model, self.model)
        done = other.progress
        self.progress.epoch = done.epoch
        self.progress.history = done.history
        self.progress.coarse_epochs = done.epoch


def build_levels(finest: Level, recipe: Reconstruct, /) -> list[Level]:
    """The levels of a run, from the coarsest grid to that of the data.

    By default one coarser grid is tried first, or, of a near field that is modelled on finer pixels than the
    detector's, all grids down to those; unless penalties or projections might mean pixels (of
    `PROJECTIONS_ON_ANY_GRID` none does) or the object was predicted; and no more grids than have an epoch
    each. An object in tiles has none.
    """
    if recipe.tiles:
        return [finest]
    means_pixels = any(call.name not in PROJECTIONS_ON_ANY_GRID for call in recipe.projections)
    plain = recipe.optimizer.name == "gauss_newton" and not recipe.penalties and not means_pixels
    known = recipe.begins_with_known_object
    known = known or recipe.found.get("direct", {}).get("taken", False)
    known = known or ("holograms" in recipe.found and not multigrid.count_finer_grids(finest.scan))
    plain = plain and not known  # a start that has fine detail already
    usual = max(1, multigrid.count_finer_grids(finest.scan))
    count = plain * usual if recipe.levels is None else recipe.levels
    levels = [finest]
    while len(levels) <= count and _each_has_an_epoch(recipe.epochs, len(levels) + 1):
        coarser = levels[0].coarser(recipe)
        if coarser is None:
            break
        levels.insert(0, coarser)
    return levels


def last_epochs(epochs: int, levels: int, /) -> list[int]:
    """The last epoch on each of so many levels.

    Example:
        >>> last_epochs(20, 2)
        [12, 20]
    """
    return [*(round(COARSE_EPOCHS * epochs * n / (levels - 1)) for n in range(1, levels)), epochs]


def _each_has_an_epoch(epochs: int, levels: int) -> bool:
    """Whether each of so many levels has an epoch."""
    last = [0, *last_epochs(epochs, levels)]
    return all(before < end for before, end in pairwise(last))


def split_patterns(count: int, share: float, seed: int, /) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the patterns to learn from, and of those held out; small scans hold none out."""
    number = round(count * share) if count >= MIN_PATTERNS_FOR_HOLDOUT else 0
    holdout = np.random.default_rng((seed, 7)).choice(count, number, replace=False)
    return np.setdiff1d(np.arange(count), holdout), np.sort(holdout)


@torch.no_grad()
def count_patterns_on_place(model: Ptychography, /) -> float:
    """How many patterns see a place of the object: the mean over places, weighted by their light.

    The square of all patterns' light over the sum of their squares, each summed over places: 1 where beams do
    not overlap.
    """
    waves = incident_waves(model)
    together = model.object.sum_pixels(sum_illumination(model, waves)[0].square())
    alone = sum(len(members) * wave[0].abs().square().sum(0).square().sum() for wave, members in waves)
    return float(together / alone)


def make_batches(recipe: Reconstruct, level: Level, index: np.ndarray, /) -> Batches:
    """The batches of some patterns on a level, as a function of the epoch's number."""
    order = recipe.batch(index, recipe.seed, level.scan.positions)
    if recipe.penalties:  # a mean over patterns is that of its pieces; a penalty need not be one
        return order
    return batches.split_batches(order, level.likelihood.best_piece_size)


def count_epochs_on_all(recipe: Reconstruct, /) -> int:
    """Epochs at the end of a run that learn from all patterns, if any were held out before.

    Epochs in which a scan was still growing do not count.
    """
    return int(EPOCHS_ON_ALL * (recipe.epochs - recipe.found.get("live", {}).get("epochs", 0)))


def is_misfit_due(recipe: Reconstruct, number: int, /) -> bool:
    """Whether to look after an epoch at what the model explains of patterns held out."""
    last = recipe.epochs - count_epochs_on_all(recipe)
    return number == last or number % EPOCHS_BETWEEN_MISFITS == 0


def is_explained(share: tuple[float, float] | None, /) -> bool:
    """Whether a model explains more of the differences between patterns than counting noise could.

    Args:
        share: explained, and its standard error; ``None``: patterns differ by noise only.
    """
    return share is not None and share[0] > MIN_ERRORS_OF_EXPLAINED * share[1]


def fit_level(
    level: Level,
    recipe: Reconstruct,
    patterns: tuple[np.ndarray, np.ndarray],
    last: int,
    /,
    *,
    rate_factor: float = 1.0,
    changes: Callable[[], Sequence[RateChange]] = tuple,
) -> Iterator[Epoch]:
    """The epochs of a level from where it is to the last one.

    The last tenth of the epochs of a run learns from all patterns, so that none is missing in the result.

    Args:
        level: under way.
        recipe: of the run.
        patterns: indices to learn from, and indices held out (see `split_patterns`).
        last: number of the last epoch on this level.
        rate_factor: on all rates.
        changes: gives the changes of rates that hold by now; asked before every epoch, for a user may
            change a rate while the run is under way.
    """
    progress = level.progress
    holdout = patterns[1]
    shape = _shift_shape(recipe.shape.partial(), progress.coarse_epochs, last, rate_factor)
    on_all = count_epochs_on_all(recipe) if last == recipe.epochs and len(holdout) else 0
    if progress.epoch < last - on_all:
        pace = {"epochs": last - on_all, "horizon": last, "shape": shape}
        yield from fit_patterns(level, recipe, patterns, changes, **pace)
    if on_all and last - on_all <= progress.epoch < last and progress.result_epoch is None:
        everything = np.sort(np.concatenate(patterns))
        pace = {"epochs": last, "horizon": last, "shape": shape}
        yield from fit_patterns(level, recipe, (everything, holdout[:0]), changes, **pace)


def fit_patterns(
    level: Level,
    recipe: Reconstruct,
    patterns: tuple[np.ndarray, np.ndarray],
    changes: Callable[[], Sequence[RateChange]],
    /,
    **pace: Any,
) -> Iterator[Epoch]:
    """Epochs that learn from some patterns and are judged by others.

    Args:
        level: under way.
        recipe: of the run.
        patterns: indices to learn from, and indices held out.
        changes: see `fit_level`.
        **pace: ``epochs``, ``horizon`` and ``shape`` of `phaseloom.fitting.loop.fit`.
    """
    training, holdout = patterns
    if level.progress.stop.is_settled:
        return
    order = make_batches(recipe, level, training)
    judges = list(torch.as_tensor(holdout).split(batches.largest_piece(order(1)))) if len(holdout) else []

    def change_rates(progress: Progress) -> None:
        level.change(changes(), progress.epoch + 1)

    yield from level.fit(order, judges, first=change_rates, patience=recipe.patience, **pace)


def _shift_shape(shape: Shape, since: int, last: int, factor: float) -> Shape:
    """A shape that runs from the epoch after ``since`` to ``last``, and a factor on it."""

    def shifted(share: float, number: int, history: Sequence[Mapping[str, Any]]) -> float:
        return factor * evaluate_shape(shape, number - since, last - since, history[since:])

    return shifted


def set_batch_size(recipe: Reconstruct, level: Level) -> Call:
    """The call for batches with their size: that of an engine, or such that it lights most of the field once.

    Then a Newton step sees each pixel about once, and an epoch has as many steps as patterns overlap.
    """
    call = recipe.batch
    if call.values.get("size") is not None:
        return call
    optimizer = level.progress.optimizer
    if isinstance(optimizer, Engine) and optimizer.batch_size is not None:
        return replace(call, values={**call.values, "size": optimizer.batch_size})
    if not isinstance(optimizer, GaussNewton):
        return call
    model = level.model
    count = len(model.scan.start)
    is_thin_far_field = model.propagator.onward is None and not len(model.propagator.gaps)
    most = MIN_BATCH_OF_ONE_SLICE if is_thin_far_field else MIN_BATCH
    least = min(max(recipe.epochs * count // UPDATES_WITH_LARGER_BATCHES, MIN_BATCH), most)
    size = max(round(0.6 * count_crossings(model)), least)
    return limit_batch_size(replace(call, values={**call.values, "size": min(size, 512)}), count)


def limit_batch_size(call: Call, count: int, /) -> Call:
    """Batches no larger than leave a dozen updates in an epoch, of a run on ``count`` patterns."""
    size = call.values.get("size")
    if size is None:
        return call
    return replace(
        call, values={**call.values, "size": min(size, max(MIN_BATCH, count // MIN_UPDATES_OF_EPOCH))}
    )


def _build_likelihood(
    recipe: Reconstruct, scan: Scan4D, model: Ptychography, measured: CountLoader | None = None
) -> Likelihood:
    """The objective of a recipe.

    Raises:
        BadInput: one that does not look at the data.
    """
    tiling = model.scan.canvas.tiling
    own = keep_part_of_process(scan, owners=None if tiling is None else tiling.owners)
    noise = recipe.noise_of(scan).partial()
    likelihood = Likelihood(model, own, noise, recipe.named_penalties(), measured=measured)
    if not likelihood.data_terms:
        fix = "leaves nothing that compares with the data: add a penalty that does"
        raise BadInput("noise", "none", fix)
    return likelihood


def _parameter_groups(recipe: Reconstruct, model: Ptychography) -> list[dict[str, Any]]:
    """Parameter groups; what has no rate is frozen, and costs no gradient."""
    parts = model.parts()
    rates = recipe.optimizer_rates(parts)
    model.requires_grad_(False)
    groups = optimizers.groups({name: parts[name] for name in rates}, rates)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


def _optimizer(call: Call, moving: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a call, its own complaints as sentences."""
    try:
        return call(moving)
    except BadInput:
        raise
    except ValueError as problem:
        raise BadInput(f"optimizer: {call.name}", dict(call.values), f"cannot be used: {problem}") from None
