"""Near-field holograms of PETRA III
=================================

200 holograms of a Siemens star in a cone beam (P25, PETRA III) come with the package. The distance from the
focus to the sample is not in the file: it is stated when the file is read.
"""

# %%
# Read
# ----
# Without ``focus`` the reader refuses the file, because the steps are too wide for a far field, and says
# what to write.

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl

try:
    pl.read(pl.samples.near_field())
except pl.BadInput as problem:
    print(problem)

scan = pl.read(pl.samples.near_field(), knobs={"focus": "3.65 mm"})
print(len(scan), "holograms; magnification", round(scan.geometry.magnification, 1))

# %%
# Reconstruct
# -----------
# The probe starts as the mean hologram, propagated back to the sample.

result = pl.reconstruct(pl.Reconstruct.of({"epochs": 40}), scan=scan)
print(result.verdict)
print([round(epoch["loss"], 2) for epoch in result.history])

# %%
# The beam of the holograms is uneven; in the phase it is gone, as it is the same in all of them.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
axes[0].imshow(scan.counts[100], cmap="gray")
axes[0].set_title("one hologram")
image = axes[1].imshow(result.phase[result.window], cmap="gray")
axes[1].set_title("phase, rad")
figure.colorbar(image, ax=axes[1])
for panel in axes:
    panel.set_axis_off()

# %%
# The loss falls from 6.7 times shot noise after the first epoch to 4.6; the image shows the star.
# Most of what is left is finer than a pixel: with ``probe: {from_patterns: {modes: 3}}`` and pixels half as
# wide (``prepare: [{enlarge: {to: [200, 200], match: resample}}]``) it is half of that.

losses = [epoch["loss"] for epoch in result.history]
phase = result.phase[result.window]
print(f"loss {losses[0]:.1f} to {losses[-1]:.1f}, spread of the phase {phase.std():.2f} rad")
assert losses[-1] < 0.75 * losses[0]
assert losses[-1] < 4.75
assert np.ptp(np.percentile(phase, [5, 95])) > 0.2
