"""Electrons through a thin sample
===============================

The simplest electron experiment: one slice, a defocused probe of known semiangle, and a known truth.
"""

# %%
# Simulate a scan
# ---------------
# Atoms on a disturbed lattice, 14 x 14 positions 0.8 Å apart with an error of 0.05 Å, and 1e5 electrons in
# each pattern of 48 x 48 pixels.

import matplotlib.pyplot as plt

import phaseloom as pl

pixel, window = 0.2, 48
places = pl.simulate.raster((14, 14), 0.8, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((112, 112), pixel)
optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1e5, **optics)

# %%
# Reconstruct
# -----------
# Stating the optics as ``probe`` and ``start: none`` skips every search. The loss is that of counting
# noise: 1 means that nothing is left to explain.

probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 1}}
recipe = pl.Reconstruct.of({"probe": probe, "start": "none", "preset": "none", "epochs": 15})
job = pl.Job.begin(recipe, scan=scan)
for epoch in job:
    if epoch.number % 5 == 0:
        print(epoch)
result = job.result()
print(result.verdict)

# %%
# Beside the truth
# ----------------
# The field that the beam's centre crossed is compared. A constant and a ramp of the phase cannot be
# measured: `compare_with_truth` removes both for the error.

compared = pl.reconstruction.compare.compare_with_truth(result, truth)

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for panel, image, title in zip(axes, (compared.found, compared.truth), ("found", "truth"), strict=True):
    drawn = panel.imshow(image - image.mean(), cmap="gray", vmin=-0.2, vmax=0.3)
    panel.set_title(title)
    panel.set_axis_off()
figure.colorbar(drawn, ax=axes, label="phase, rad")

# %%

error = compared.error
print(f"error {error.nrmse:.3f} of the contrast, correlation {error.pearson:.3f}")
assert error.nrmse < 0.15
assert error.pearson > 0.98
