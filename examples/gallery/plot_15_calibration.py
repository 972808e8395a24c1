"""Calibrate a scan with faults
============================

A file says nothing of how its detector lies, the scan is turned by 7 degrees, its step is 2 % off, and the
defocus is unknown. `calibrate` finds these from the counts, one after the other.
"""

# %%
# A faulty scan
# -------------

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl

pixel, window, grid = 0.2, 40, (13, 13)
places = pl.simulate.raster(grid, 0.7) + (window // 2 + 8) * pixel
truth = pl.simulate.atoms((120, 120), pixel, peak=0.4, seed=2)
optics = {"energy": 80e3, "semiangle": 0.03, "defocus": 80.0, "window": window}
right, _ = pl.simulate.electron_scan(truth, pixel, places, dose=3e5, **optics)
right = replace(right, grid=grid, oriented=False)
faulty = pl.prepare.transpose(right)
faulty = pl.prepare.scale(pl.prepare.rotate(faulty, angle=np.deg2rad(-7)), factor=1 / 1.02)

# %%
# Calibrate
# ---------
# Only the semiangle is stated. Each line has what was found, its error, what was given, and a margin: how
# much worse the next best value explains the data.

recipe = pl.Reconstruct.of({"probe": {"focused": {"semiangle": "30 mrad"}}, "preset": "calibrate"})
calibration = pl.calibrate(recipe, faulty)
for line in calibration.lines():
    print(line)

# %%
# Reconstruct with what was found
# -------------------------------

calibrated = calibration.recipe.with_settings({"epochs": 12})
as_given = pl.Reconstruct.of({"probe": {"focused": {"semiangle": "30 mrad"}}, "preset": "none", "epochs": 12})
as_given = as_given.with_settings({"start": "none"})
results = {
    "as given": pl.reconstruct(as_given, scan=faulty),
    "calibrated": pl.reconstruct(calibrated, scan=faulty),
}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for panel, (name, result) in zip(axes, results.items(), strict=True):
    panel.imshow(result.phase[result.window], cmap="gray")
    panel.set_title(f"{name}: loss {result.history[-1]['loss']:.2f}")
    panel.set_axis_off()

# %%

state = calibration.state
print(f"{state.orientation}, turned by {np.rad2deg(state.rotation):.2f} degrees, step x {state.step:.3f}")
print(f"defocus {state.defocus:.0f} Å")
assert state.orientation == "transposed"
assert abs(np.rad2deg(state.rotation) - 7) < 0.5
assert abs(state.defocus - 80) < 10
assert results["calibrated"].history[-1]["loss"] < results["as given"].history[-1]["loss"] / 2
