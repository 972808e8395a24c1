"""A noise model of your own
=========================

Stray counts (cosmic rays, a flickering pixel) pull a Poisson likelihood far off. A noise model is one
function; this one ignores what is too bright to be shot noise.
"""

# %%
# A scan with stray counts
# ------------------------
# One pixel in a thousand has up to 3000 counts too many.

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import phaseloom as pl

pixel, window = 0.2, 48
places = pl.simulate.raster((12, 12), 0.8, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((104, 104), pixel)
optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1e5, **optics)
rng = np.random.default_rng(2)
counts = scan.counts.astype(np.int64)
hit = rng.random(counts.shape) < 0.001
counts[hit] += rng.integers(200, 3000, hit.sum())
scan = replace(scan, counts=counts)

# %%
# The function
# ------------
# It takes the model and the counts, returns a divergence for each pixel, and its keyword arguments are its
# settings in a parameter file. It is that of amplitudes where they are near, and constant beyond ``width``.


def robust(model: Tensor, counts: Tensor, /, *, width: float = 2.0) -> Tensor:
    """Squared difference of amplitudes that levels off (Welsch)."""
    square = (torch.sqrt(model + 0.01) - torch.sqrt(counts + 0.01)).square()
    return width**2 * (1 - torch.exp(-square / width**2))


pl.register("noise", robust)

# %%
# Three runs
# ----------

probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 1}}
tree = {"probe": probe, "start": "none", "preset": "none", "mask": "none", "epochs": 12, "holdout": 0}
results = {}
for noise in ("gaussian", "amplitude", "robust"):
    results[noise] = pl.reconstruct(pl.Reconstruct.of({**tree, "noise": noise}), scan=scan)

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="compressed")
errors = {}
for panel, (name, result) in zip(axes, results.items(), strict=True):
    compared = pl.reconstruction.compare.compare_with_truth(result, truth)
    errors[name] = compared.error.nrmse
    panel.imshow(compared.found, cmap="gray", vmin=-0.2, vmax=0.3)
    panel.set_title(f"{name}: error {errors[name]:.2f}")
    panel.set_axis_off()

# %%

print({name: round(error, 3) for name, error in errors.items()})
assert errors["robust"] < 0.8 * errors["amplitude"]
assert errors["robust"] < 0.3
