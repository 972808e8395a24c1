"""A noise model that is blunt in the dark while the model is far from the counts.

Poisson's deviance has the slope ``1 - counts / model``. From a flat object the first steps are then those
of pixels in the dark field where the model has next to no light, and objects of crystals end in a minimum of
half their contrast, with absorption for what is missing. More counts under the fraction give bright pixels
their say.
"""

import math

from phaseloom.fitting.loop import Progress
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.noise import Divergence, raise_floor

__all__ = ["choose_noise"]

MIN_LOSS_OF_EARLY_NOISE = 1.2
"""Loss of an epoch, in units of the noise, below which the noise model is the usual one from then on.

Objects of the races come below it in their first ten epochs. Thin crystals of abTEM, whose light leaves the
detector, stay at 1.3 to 1.8, and end nearer to the truth with the raised floor (decision 054).
"""


MAX_SHARE_OF_EPOCHS = 0.5
"""Of a run, after which the noise model is the usual one in any case: a run ends with its losses, its error
bar and its verdict in the units of the noise that was asked for."""


def choose_noise(
    likelihood: Likelihood, usual: Divergence, floor: float, progress: Progress, /, *, epochs: int
) -> None:
    """Set the noise model of the next epoch by the losses of those before.

    Losses by another noise model are not compared with any more. Objects of several slices keep the usual
    one: with a higher floor their first steps, of a longer memory, overshoot (MoS2 of 80 angstrom: errors of
    0.37 and 0.48 in place of 0.26 and 0.41). So do near fields, which have no dark field.

    Args:
        likelihood: whose noise model is set.
        usual: the noise model of the run.
        floor: counts added to model and counts meanwhile, where the usual model adds less.
        progress: with the history of the run.
        epochs: of the run.
    """
    early = raise_floor(usual, floor)
    is_plain = not len(likelihood.model.propagator.gaps) and not likelihood.model.detector.near
    if early is None or not is_plain or not likelihood.counts_are_whole:
        return
    losses = [(event.get("terms") or {}).get("noise", event["loss"]) for event in progress.history]
    last = math.ceil(MAX_SHARE_OF_EPOCHS * epochs)
    ended = progress.other_noise_epochs or next(
        (n for n, loss in enumerate(losses, 1) if loss < MIN_LOSS_OF_EARLY_NOISE or n >= last), 0
    )
    likelihood.set_noise(usual if ended else early)
    if ended and not progress.other_noise_epochs:
        progress.other_noise_epochs = ended
        progress.best = None
