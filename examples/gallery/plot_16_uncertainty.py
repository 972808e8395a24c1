"""The error bar of the phase
==========================

Every result has a map of the standard deviation that counting leaves in the phase. It is larger where less
light went, and here it is compared with the true error.
"""

# %%
# A scan with an unevenly lit field
# ---------------------------------
# The beam's current falls during the scan: the last rows get a sixth of the electrons of the first.

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

import phaseloom as pl

pixel, window = 0.2, 48
places = pl.simulate.raster((18, 18), 0.8, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((136, 136), pixel)
optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1.5e4, **optics)
current = np.linspace(1, 1 / 6, len(scan))
rng = np.random.default_rng(0)
scan = replace(
    scan, counts=rng.binomial(scan.counts, current[:, None, None]), weights=current / current.mean()
)

# %%
# Reconstruct
# -----------

probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 1}}
tree = {"probe": probe, "start": "none", "preset": "none", "epochs": 30}
result = pl.reconstruct(
    pl.Reconstruct.of({**tree, "rates": {"positions": 0, "affine": 0, "weights": 0}}), scan=scan
)
print(result.verdict)
print(result.uncertainty)

# %%
# Map and true error
# ------------------
# The true error is smoothed over some pixels to be read as a map.


compared = pl.reconstruction.compare.compare_with_truth(result, truth)
found = compared.found
error = pl.metrics.phase.remove_ramp(found - compared.truth)
sigma = result.uncertainty.sigma[0][result.window]

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
maps = {"phase": found, "standard deviation": sigma, "true error": np.sqrt(gaussian_filter(error**2, 4))}
for panel, (name, image) in zip(axes, maps.items(), strict=True):
    limits = {} if name == "phase" else {"vmin": 0, "vmax": 0.05}
    drawn = panel.imshow(image, cmap="gray" if name == "phase" else "viridis", **limits)
    figure.colorbar(drawn, ax=panel, shrink=0.8)
    panel.set_title(f"{name}, rad")
    panel.set_axis_off()

# %%
# The share of pixels within two standard deviations should be 95 %.

inner = (slice(8, -8), slice(8, -8))
within = float((np.abs(error) < 2 * sigma)[inner].mean())
ratio = float(np.sqrt((error**2)[inner].mean() / (sigma**2)[inner].mean()))
print(f"{within:.0%} within two standard deviations; error / sigma {ratio:.2f}")
third = sigma.shape[0] // 3
print(f"sigma at the bottom over that at the top: {np.median(sigma[-third:]) / np.median(sigma[:third]):.2f}")
assert 0.8 < within < 0.99
assert np.median(sigma[-third:]) > 1.3 * np.median(sigma[:third])
