"""A start of far fields of photons where the search ends far from the noise: by a difference map.

Steps downhill end in the nearest minimum. Where the first guess of the probe is far off (a diffuser), or the
object is so strong that vortices lie in its phase, that is a wrong one. The difference map leaves minima, but
never settles; so what it found is fitted for a few epochs and compared with the start as it was.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from scipy.ndimage import center_of_mass
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.verdict import MIN_LEVEL_OF_COUNTS
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.multigrid import transfer_parameters
from phaseloom.ptycho.objects import PixelObject
from phaseloom.reconstruction.level import Level, build_levels, fit_patterns
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.start import Start
from phaseloom.reconstruction.starts.start_race import (
    FLAT,
    choose,
    describe_race,
    find_block,
    race,
)
from phaseloom.runs.progress_lines import name_step, report_progress

__all__ = ["DUE_LOSS", "describe_difference_map", "is_difference_map_due", "use_difference_map"]

DUE_LOSS = 2.0
"""Of a start, in units of shot noise, from which a difference map is tried."""

DUE_SHARE = 0.03
"""Of the loss of the mean pattern, that a start leaves, from which one is tried where values are not counts.

Such values have no shot noise, and multiplied by anything they are the same scan. Without noise, searches
that end well leave about 0.01, others 0.05 to 0.4 (decision 074).
"""

EPOCHS = 80
"""Of the difference map. Samples of PtyLab are out of their wrong minimum after 60."""

PATIENCE = 20
"""Epochs after the best one with which it ends, once its loss is below `WELL_BELOW` of its first."""

WELL_BELOW = 0.1

MAX_PATTERNS = 128
"""Patterns of the difference map: it keeps a wave of each, and few are enough for the probe."""

MAX_MODULUS = 1.5
"""Of the object, in units of its median: what is hardly lit would grow, and the probe with it."""

MIN_LIGHT = 0.05
"""Share of the strongest illumination below which an object that was found is left out."""

PROBE, BOTH = "probe", "probe and object"
"""Names of what a difference map found, beside `FLAT`: the start as it was, without an object."""


def is_difference_map_due(level: Level, start: Start | None, /) -> bool:
    """Whether a run should compare its start with what a difference map finds.

    Args:
        level: of the data, before its first epoch.
        start: as it was found; ``None``: none was looked for.
    """
    if start is None:
        return False
    model, geometry = level.model, level.scan.geometry
    thing = model.object
    is_plain = thing.kind == "complex" and thing.transmission().shape[:2] == (1, 1)
    is_plain = is_plain and level.scan.heights is None and level.scan.scan_numbers is None
    is_far = geometry.beam == "photon" and not geometry.near
    by_newton = isinstance(level.progress.optimizer, GaussNewton) and team().world_size == 1
    if not (is_plain and is_far and by_newton):
        return False
    if level.likelihood.counts_are_whole or MIN_LEVEL_OF_COUNTS <= start.loss < DUE_LOSS:
        return start.loss >= DUE_LOSS  # with a dark level taken off, counts are not whole
    return start.unexplained >= DUE_SHARE


def use_difference_map(level: Level, recipe: Reconstruct, holdout: np.ndarray, /) -> Reconstruct:
    """Begin with the probe, or probe and object, of a difference map if these are better than the start.

    Args:
        level: of the data, before its first epoch.
        recipe: settled, of the run; one that says what was taken takes that again.
        holdout: indices of the patterns that are held out.

    Returns:
        the recipe with what was taken.
    """
    said = recipe.found.get("difference_map")
    if said is not None and said["taken"] == FLAT:
        return recipe
    coarsest = build_levels(level, recipe)[0]  # a quarter of the pixels tells as much
    with name_step("start far from the noise: difference map"):
        states = _find_states(coarsest, recipe)
    if len(states) == 1:
        return recipe
    if said is None:
        comparison = race(coarsest, recipe, states, is_held_out=bool(len(holdout)))
        said = describe_race(comparison, FLAT if comparison is None else choose(comparison))
    if said["taken"] != FLAT:
        coarsest.model.load_state_dict(states[said["taken"]])
        if coarsest is not level:
            transfer_parameters(coarsest.model, level.model)
    return recipe.model_copy(update={"found": recipe.found | {"difference_map": said}})


def describe_difference_map(found: Mapping[str, Any], /) -> str:
    """A sentence on what was taken, from what `use_difference_map` recorded.

    Example:
        >>> losses = {"flat": 52.4, "probe": 78.8, "probe and object": 4.28}
        >>> describe_difference_map({"taken": "probe and object", "losses": losses, "epochs": 5})
        ... # doctest: +NORMALIZE_WHITESPACE
        'start: far from the noise; begins with probe and object of a difference map (loss after 5 epochs:
        52.4 as found, 78.8 with its probe, 4.28 with its probe and object)'
    """
    words = {FLAT: "as found", PROBE: "with its probe", BOTH: "with its probe and object"}
    losses = ", ".join(f"{loss:.4g} {words[name]}" for name, loss in found.get("losses", {}).items())
    taken = found["taken"]
    begins = "begins as found, not with" if taken == FLAT else f"begins with {taken} of"
    after = f" (loss after {found['epochs']} epochs: {losses})" if losses else ""
    return f"start: far from the noise; {begins} a difference map{after}"


def _find_states(level: Level, recipe: Reconstruct) -> dict[str, dict[str, Tensor]]:
    """Parameters of the model as it is, with the probe of a difference map, and with its object too."""
    model = level.model
    states = {FLAT: deepcopy(model.state_dict())}
    found = run_difference_map(level, recipe)
    if found is None:
        return states
    with torch.no_grad():
        model.probe.set_modes(found[0])
        states[PROBE] = deepcopy(model.state_dict())
        model.object.set_transmission(found[1])
        states[BOTH] = deepcopy(model.state_dict())
    model.load_state_dict(states[FLAT])
    return states


def run_difference_map(
    level: Level, recipe: Reconstruct, /
) -> tuple[Complex[Tensor, "mode y x"], Complex[Tensor, "1 1 y x"]] | None:
    """Probe and object of a difference map on patterns around the middle of a scan; ``None`` where it fails.

    Those of the epoch of the lowest loss, the probe where the one of the start lies. It fails where it
    diverges, or cannot do what the model has: a probe that changes, a blur.

    Args:
        level: of the data, before its first epoch; it is not changed.
        recipe: of the run.
    """
    index = find_block(level.scan.positions, MAX_PATTERNS)
    scan = level.scan.select(index)
    changed = {"optimizer": {"difference_map": {}}, "epochs": EPOCHS, "holdout": 0.0, "shape": "constant"}
    plain = Reconstruct.of(changed)
    own = ("optimizer", "epochs", "holdout", "shape", "rates", "batch", "projections", "penalties", "changes")
    short = recipe.model_copy(update={name: getattr(plain, name) for name in own})
    try:
        model = short.build_model(scan, level.model.object.canvas).to(level.model.scan.start.device)
        with torch.no_grad():
            model.probe.set_modes(level.model.probe.modes())
        trial = Level.of(short, scan, model)
    except BadInput:
        return None
    pace = {"epochs": EPOCHS, "horizon": EPOCHS, "shape": short.shape.partial()}
    everything = np.arange(len(scan)), np.arange(0)
    losses: list[float] = []
    best = deepcopy(model.state_dict())
    for epoch in fit_patterns(trial, short, everything, tuple, **pace):
        _limit_modulus(model.object)
        report_progress(f"epoch {epoch.number} of {EPOCHS}")
        losses.append(epoch.loss)  # of the state before the epoch
        if epoch.loss == min(losses):
            best = deepcopy(model.state_dict())
        since = len(losses) - 1 - int(np.argmin(losses))
        if since >= PATIENCE and min(losses) < WELL_BELOW * losses[0]:
            break
    if not np.isfinite(losses).all():
        return None
    model.load_state_dict(best)
    return _settle(model, level.model.probe.modes())


@torch.no_grad()
def _limit_modulus(thing: PixelObject) -> None:
    """Keep an object below a multiple of its median modulus."""
    modulus = thing.wave.abs()
    most = MAX_MODULUS * modulus.median()
    thing.wave.mul_(torch.where(modulus > most, most / modulus, 1.0))


@torch.no_grad()
def _settle(model: Ptychography, start: Tensor) -> tuple[Tensor, Tensor]:
    """Probe and object with the median modulus at one and the probe where that of the start is."""
    light = model.coverage()
    scale = float(model.median_modulus(light)[0])
    lit = torch.as_tensor(light > MIN_LIGHT * light.max(), device=start.device)
    wave = model.object.transmission() / scale
    wave = torch.where(lit, wave, torch.ones_like(wave))
    modes = model.probe.modes() * scale
    wanted, found = (center_of_mass(one.abs().square().sum(0).cpu().numpy()) for one in (start, modes))
    move = np.round(np.subtract(wanted, found)).astype(int).tolist()
    return modes.roll(move, (-2, -1)), wave.roll(move, (-2, -1))
