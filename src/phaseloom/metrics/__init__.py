"""Numbers that judge a reconstruction; what cannot be measured is removed first.

- `phase`: error of a phase image after its gauge (shift, constant, ramp) has been removed.
- `resolution`: Fourier ring correlation of two independent reconstructions.
- `image`: peak signal-to-noise ratio and structural similarity.
- `states`: entropy, fidelity and error of mixed states, whose modes matter only up to unitary mixing.
- `repeats`: repeated reconstructions in one gauge, their mean, and what is real in it (PRTF, SSNR).

Everything takes numpy arrays, or what `numpy.asarray` accepts, and returns floats, arrays or frozen values.
"""

from phaseloom.metrics import image, phase, repeats, resolution, states

__all__ = ["image", "phase", "repeats", "resolution", "states"]
