"""Numbers that judge a reconstruction; what cannot be measured is removed first.

- `phase`: error of a phase image after its gauge (shift, constant, ramp) has been removed.
- `resolution`: Fourier ring correlation of two independent reconstructions.
- `image`: peak signal-to-noise ratio and structural similarity.
- `colour`: underwater image quality and colour without a reference.
- `states`: entropy, fidelity and error of mixed states, whose modes matter only up to unitary mixing.
- `repeats`: repeated reconstructions in one gauge, their mean, and what is real in it (PRTF, SSNR).
- `spectral`: correlations in bands of frequency, also of mixed states, and what a scan puts into each.
- `clusters`: groups of rows of numbers, how stable they are, and how they agree with labels.
- `halves`: reconstructions of halves of the data without trends, laid on one another.

Everything takes numpy arrays, or what `numpy.asarray` accepts, and returns floats, arrays or frozen values.
"""

from phaseloom.metrics import clusters, colour, image, phase, resolution, spectral
from phaseloom.metrics import ensembles as repeats
from phaseloom.metrics import mixed_states as states
from phaseloom.metrics import standardise_pair as halves

__all__ = ["clusters", "colour", "halves", "image", "phase", "repeats", "resolution", "spectral", "states"]
