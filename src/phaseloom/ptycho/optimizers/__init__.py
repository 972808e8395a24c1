"""All optimisers of a reconstruction: those of any fit, and the engines of ptychography.

Not those of networks, which have no waves to project (`phaseloom.fitting.optimizers`).
"""

from phaseloom.fitting import optimizers
from phaseloom.fitting.optimizers import *  # noqa: F403
from phaseloom.ptycho.optimizers import engines
from phaseloom.ptycho.optimizers.engines import *  # noqa: F403

__all__: list[str] = []
__all__ += optimizers.__all__
__all__ += engines.__all__
