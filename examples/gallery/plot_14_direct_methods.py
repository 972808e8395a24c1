"""Direct methods side by side
===========================

A phase image without iterations, by seven ways of weighting the pixels of the bright-field disk. All read
the same transformed scan.
"""

# %%
# A scan with known optics
# ------------------------
# A direct image has one pixel for each position, so that the object needs to be coarse against the steps.

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl
from phaseloom.direct.reconstruct import reconstruct_scan

pixel, window, grid, step = 0.3, 48, (24, 24), 0.9
places = pl.simulate.raster(grid, step) + (window // 2 + 2) * pixel
truth = pl.simulate.atoms((124, 124), pixel, peak=0.2, spacing=4.0)
optics = {"energy": 80e3, "semiangle": 0.022, "defocus": 150.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=3e4, **optics)
scan = replace(scan, grid=grid)
index = np.round(places / pixel).astype(int)
known = truth.sum(0)[index[:, 0], index[:, 1]].reshape(grid)

# %%
# Seven methods
# -------------
# ``fit=True`` would find orientation and aberrations from the data; here they are stated.

methods = ("wiener", "least_squares", "obf", "ssb", "parallax", "dpc", "wdd")
figure, axes = plt.subplots(2, 4, figsize=(10, 5.2), layout="constrained")
found = {}
for panel, method in zip(axes.flat, methods, strict=False):
    made = reconstruct_scan(scan, semiangle=0.022, aberrations={"C10": -150.0}, method=method, fit=False)
    image = made.image.phase.numpy()
    found[method] = pl.metrics.phase.phase_error(image, known, margin=3, max_shift=2).pearson
    panel.imshow(image, cmap="gray")
    panel.set_title(f"{method}: {found[method]:.2f}")
    panel.set_axis_off()
axes.flat[-1].imshow(known, cmap="gray")
axes.flat[-1].set_title("truth")
axes.flat[-1].set_axis_off()

# %%
# Correlations with the truth: deconvolving by the transfer beats the centre of mass, which the defocus
# blurs.

print({name: round(value, 3) for name, value in found.items()})
assert found["wiener"] > 0.8
assert found["wiener"] > found["dpc"]
