"""Numbers that judge a reconstruction; what cannot be measured is removed first.

- `phase`: error of a phase image after its gauge (shift, constant, ramp) has been removed.
- `resolution`: Fourier ring correlation of two independent reconstructions.
- `image`: peak signal-to-noise ratio and structural similarity.
- `colour`: underwater image quality and colour without a reference.
- `mixed_states`: entropy, fidelity and error of mixed states, whose modes matter only up to unitary mixing.
- `ensembles`: repeated reconstructions in one gauge, their mean, and what is real in it (PRTF, SSNR).
- `spectral`: correlations in bands of frequency, also of mixed states, and what a scan puts into each.
- `clusters`: groups of rows of numbers, how stable they are, and how they agree with labels.
- `standardise_pair`: reconstructions of halves of the data without trends, registered to one another.
- `scan_area`: the area that a scan has for each position, from which doses per area follow.
- `pattern_misfit`: how much of what differs between diffraction patterns a model explains.

Everything takes numpy arrays, or what `numpy.asarray` accepts, and returns floats, arrays or frozen values;
only `pattern_misfit` takes tensors.
"""

from phaseloom.metrics import (
    clusters,
    colour,
    ensembles,
    image,
    mixed_states,
    phase,
    resolution,
    spectral,
    standardise_pair,
)
from phaseloom.renames import get_renamed, import_renamed

__all__ = ["clusters", "colour", "ensembles", "image", "mixed_states", "phase", "resolution", "spectral"]
__all__ += ["standardise_pair"]

_OLD_NAMES = {
    "repeats": "phaseloom.metrics.ensembles",
    "states": "phaseloom.metrics.mixed_states",
    "halves": "phaseloom.metrics.standardise_pair",
}

__getattr__ = get_renamed(__name__, _OLD_NAMES)
import_renamed(__name__, _OLD_NAMES)
