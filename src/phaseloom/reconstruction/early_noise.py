"""A noise model that is blunt in the dark while the model is far from the counts.

Poisson's deviance has the slope ``1 - counts / model``. From a flat object the first steps are then those
of pixels in the dark field where the model has next to no light, and objects of crystals end in a minimum of
half their contrast, with absorption for what is missing. More counts under the fraction give bright pixels
their say; so does the slope ``1 - sqrt(counts / model)`` of a difference of amplitudes.
"""

import math

from phaseloom.fitting.loop import Progress, shorten_steps
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.noise import Divergence, compare_amplitudes, raise_floor

__all__ = ["choose_noise", "find_early_noise"]

MIN_LOSS_OF_EARLY_NOISE = 1.2
"""Loss of an epoch, in units of the noise, below which the noise model is the usual one from then on.

Objects of the races come below it in their first ten epochs. Thin crystals of abTEM, whose light leaves the
detector, stay at 1.3 to 1.8, and end nearer to the truth with the raised floor (decision 054).
"""

MAX_SHARE_OF_EPOCHS = 0.5
"""Of a run, after which the noise model is the usual one in any case: a run ends with its losses, its error
bar and its verdict in the units of the noise that was asked for."""


def find_early_noise(likelihood: Likelihood, usual: Divergence, floor: float, /) -> Divergence | None:
    """The noise model of a run far from the counts; ``None`` where it is the usual one.

    Objects of several slices compare amplitudes: with more counts under the fraction their first steps, of a
    longer memory, overshoot (MoS2 of 80 angstrom: errors of 0.37 and 0.48 where the usual model leaves 0.26
    and 0.41). Near fields, which have no dark field, keep the usual model.

    Args:
        likelihood: of the run.
        usual: its noise model.
        floor: counts added to model and counts meanwhile, of one slice and where the usual model adds less;
            0: the usual model from the first epoch on.
    """
    if not floor or likelihood.model.detector.near or not likelihood.counts_are_whole:
        return None
    is_thick = bool(len(likelihood.model.propagator.gaps))
    return compare_amplitudes(usual) if is_thick else raise_floor(usual, floor)


BRAKES_FAR_FROM_COUNTS = 2
"""How often the longest steps are halved where the usual noise model begins with a loss far above the noise.

Pixels in the dark then hold more counts than the model will ever have for them, and whole steps on their
slopes swing the image and stretch the positions (decision 054).
"""


def choose_noise(
    likelihood: Likelihood, usual: Divergence, early: Divergence, progress: Progress, /, *, epochs: int
) -> None:
    """Set the noise model of the next epoch by the losses of those before.

    Losses by another noise model are not compared with any more. Steps are shorter from the change on where
    the model is still far from the counts.

    Args:
        likelihood: whose noise model is set.
        usual: the noise model of the run.
        early: that of a run far from the counts.
        progress: with the history of the run.
        epochs: of the run.
    """
    if not progress.other_noise_epochs:
        last = math.ceil(MAX_SHARE_OF_EPOCHS * epochs)
        for number, event in enumerate(progress.history, 1):
            loss = (event.get("terms") or {}).get("noise", event["loss"])
            is_near = loss < MIN_LOSS_OF_EARLY_NOISE
            if is_near or number >= last:
                progress.other_noise_epochs = number
                progress.best = None
                for _ in range(0 if is_near else BRAKES_FAR_FROM_COUNTS):
                    shorten_steps(progress.optimizer)
                break
    likelihood.set_noise(usual if progress.other_noise_epochs else early)
