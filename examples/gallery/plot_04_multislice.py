"""Electrons through a thick sample, by depth
==========================================

Where the sample is thicker than the depth of focus, one slice is not enough. Three slices, 40 Å apart, tell
where along the beam the atoms are.
"""

# %%
# Simulate
# --------
# Each slice has a lattice of another orientation.

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl

pixel, window, gap = 0.2, 48, 40.0
places = pl.simulate.raster((14, 14), 0.7, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((106, 106), pixel, slices=3, peak=0.4)
optics = {"energy": 80e3, "semiangle": 0.035, "defocus": 60.0, "window": window, "thickness": gap}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1e6, **optics)
print(f"depth of focus {scan.geometry.wavelength / 0.035**2:.0f} Å, sample {2 * gap:.0f} Å")

# %%
# One slice, then three
# ---------------------
# The loss says which model is right: with one slice it stays far above 1.

results = {}
probe = {"focused": {"semiangle": "35 mrad", "defocus": "60 A", "modes": 1}}
common = {"probe": probe, "start": "none", "preset": "none"}
for slices, epochs in ((1, 8), (3, 16)):
    body = {"pixels": {"slices": slices, "thickness": f"{gap} A"}} if slices > 1 else "pixels"
    recipe = pl.Reconstruct.of({**common, "object": body, "epochs": epochs})
    results[slices] = pl.reconstruct(recipe, scan=scan)
    print(slices, "slices: loss", round(results[slices].history[-1]["loss"], 2))

# %%
# The slices
# ----------
# Every slice shows its own lattice.

result = results[3]
rows, columns = result.window
top, left = np.round(np.array(result.origin) / pixel).astype(int)
known = truth[:, rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]
found = np.angle(result.object)[:, rows, columns]

figure, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for line, images, name in zip(axes, (found, known), ("found", "truth"), strict=True):
    for number, (panel, image) in enumerate(zip(line, images, strict=True)):
        panel.imshow(image - image.mean(), cmap="gray", vmin=-0.25, vmax=0.4)
        panel.set_title(f"{name}, depth {number * gap:.0f} Å")
        panel.set_axis_off()

# %%
# Each slice found is most like the true slice of its own depth.

table = np.array([[np.corrcoef(a.ravel(), b.ravel())[0, 1] for b in known] for a in found])
print(table.round(2))
assert (table.argmax(axis=1) == np.arange(3)).all()
assert results[3].history[-1]["loss"] < results[1].history[-1]["loss"] / 2
