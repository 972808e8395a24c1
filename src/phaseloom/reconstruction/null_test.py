"""Whether places matter: what short fits explain with the places of a run, and with those of other patterns.

A free probe explains much of what differs between patterns wherever they were taken: 0.1 to 0.6 of it on
crystals, layers and particles. What a model explains of patterns held out has to be compared with that, not
with nothing.
"""

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import torch

from phaseloom.calibration.orientations import select_nearest
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.fitting import device
from phaseloom.fitting.distributed import team
from phaseloom.metrics.pattern_misfit import PatternMisfit
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction.level import Level, fit_level, split_patterns
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["NullTest", "shuffle_places"]

EPOCHS = 6
"""Of each of the two fits."""

HOLDOUT = 0.15
"""Share of the patterns that judge them."""

MAX_PATTERNS = 256
MIN_PATTERNS = 100
"""Patterns that are fitted, neighbours in the middle of the scan."""

MAX_SHARE_OF_RUN = 0.08
"""Work of both fits over that of the run."""

FIXED_PARTS = ("positions", "affine", "rotation", "scale")
"""What a short fit keeps: positions that move make up for places that are wrong."""


@dataclass(frozen=True)
class NullTest:
    """What two short fits explain of the differences between patterns held out.

    Attributes:
        explained: share with the places as the run has them.
        shuffled: share with the places exchanged among the patterns.
        patterns: number of patterns in each fit.
    """

    explained: float
    shuffled: float
    patterns: int

    @property
    def left(self) -> float:
        """What the right places leave unexplained over what wrong ones leave; 1: places do not matter."""
        return (1 - self.explained) / max(1 - self.shuffled, 1e-9)


def shuffle_places(recipe: Reconstruct, scan: Scan4D, model: Ptychography, epochs: int, /) -> NullTest | None:
    """Fit some patterns twice from a flat object and the probe of a run, once with their places exchanged.

    Args:
        recipe: settled, of the run.
        scan: as the run models it.
        model: as it ended; it stays as it is.
        epochs: that the run took, for what the test may cost.

    Returns:
        ``None``: a run too short for it, one in several processes or with an object of its own kind, or
        patterns that differ by counting noise only.
    """
    count = min(MAX_PATTERNS, int(MAX_SHARE_OF_RUN * len(scan) * epochs / (2 * EPOCHS)))
    if count < MIN_PATTERNS or team().world_size > 1 or recipe.object.name != "pixels":
        return None
    few = _select_middle(replace(scan, positions=model.scan.angstrom()), count)
    order = np.random.default_rng(recipe.seed).permutation(len(few))
    mixed = replace(few, positions=few.positions[order], grid=None)
    right, wrong = (_fit(recipe, one, model) for one in (few, mixed))
    if right.explained is None or wrong.explained is None:
        return None
    return NullTest(right.explained, wrong.explained, len(few))


def _select_middle(scan: Scan4D, count: int) -> Scan4D:
    """Neighbours in the middle of a scan, in memory."""
    if scan.grid is None:
        few = select_nearest(scan, count)
    else:
        sides = np.minimum(scan.grid, max(2, math.isqrt(count)))
        first = (np.array(scan.grid) - sides) // 2
        rows, columns = ((int(a), int(a + n)) for a, n in zip(first, sides, strict=True))
        few = prepare.region(scan, rows=rows, columns=columns)
    return replace(few, counts=np.asarray(few.counts[np.arange(len(few))]))


def _fit(recipe: Reconstruct, scan: Scan4D, model: Ptychography) -> PatternMisfit:
    """What a short fit explains of patterns held out."""
    still = dict.fromkeys(FIXED_PARTS, 0.0)
    changes = {"epochs": EPOCHS, "patience": None, "changes": (), "rates": {**recipe.rates, **still}}
    short = recipe.model_copy(update=changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        fitted = short.build_model(scan).to(device.choose_device(recipe.device))
        probe = model.probe.state_dict()
        own = fitted.probe.state_dict()
        if {name: one.shape for name, one in probe.items()} == {name: one.shape for name, one in own.items()}:
            fitted.probe.load_state_dict(probe)
        level = Level.of(short, scan, fitted)
        patterns = split_patterns(len(scan), HOLDOUT, recipe.seed)
        deque(fit_level(level, short, patterns, EPOCHS), maxlen=0)
    return level.measure_misfit(torch.as_tensor(patterns[1]))
