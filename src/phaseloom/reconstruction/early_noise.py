"""A noise model that is blunt in the dark while the model is far from the counts.

Poisson's deviance has the slope ``1 - counts / model``. From a flat object the first steps are then those
of pixels in the dark field where the model has next to no light, and objects of crystals end in a minimum of
half their contrast, with absorption for what is missing. More counts under the fraction give bright pixels
their say.
"""

from phaseloom.fitting.loop import Progress
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.noise import Divergence, raise_floor

__all__ = ["choose_noise"]

MIN_LOSS_OF_EARLY_NOISE = 1.2
"""Loss of an epoch, in units of the noise, below which the noise model is the usual one from then on.

Objects of the races come below it in their first ten epochs. Thin crystals of abTEM, whose light leaves the
detector, stay at 1.3 to 1.8, and end nearer to the truth with the raised floor (decision 054).
"""


def choose_noise(likelihood: Likelihood, usual: Divergence, floor: float, progress: Progress, /) -> None:
    """Set the noise model of the next epoch by the losses of those before.

    Losses by another noise model are not compared with any more. Objects of several slices keep the usual
    one: with a higher floor their first steps, of a longer memory, overshoot (MoS2 of 80 angstrom: errors of
    0.37 and 0.48 in place of 0.26 and 0.41).

    Args:
        likelihood: whose noise model is set.
        usual: the noise model of the run.
        floor: counts added to model and counts meanwhile, where the usual model adds less.
        progress: with the history of the run.
    """
    early = raise_floor(usual, floor)
    if early is None or len(likelihood.model.propagator.gaps) or not likelihood.counts_are_whole:
        return
    losses = [(event.get("terms") or {}).get("noise", event["loss"]) for event in progress.history]
    near = [number for number, loss in enumerate(losses, 1) if loss < MIN_LOSS_OF_EARLY_NOISE]
    likelihood.set_noise(usual if near else early)
    if near and progress.other_noise_epochs != near[0]:
        progress.other_noise_epochs = near[0]
        progress.best = None
