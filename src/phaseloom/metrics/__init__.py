"""Numbers that judge a reconstruction; what cannot be measured is removed first.

- `phase`: error of a phase image after its gauge (shift, constant, ramp) has been removed.
- `resolution`: Fourier ring correlation of two independent reconstructions.
- `image`: peak signal-to-noise ratio and structural similarity.

Everything takes numpy arrays, or what `numpy.asarray` accepts, and returns floats, arrays or frozen values.
"""

from phaseloom.metrics import image, phase, resolution

__all__ = ["image", "phase", "resolution"]
