"""An axial scan: planes along the beam
====================================

The sample stays where it is and moves along the beam only. Eight planes behind the focus of a zone plate,
and a known probe, determine the object.
"""

# %%
# Simulate eight planes
# ---------------------

import matplotlib.pyplot as plt
import numpy as np
import torch

import phaseloom as pl
from phaseloom.physics.propagate import angular_spectrum, fly

N, PIXEL, WAVELENGTH, MICROMETRE = 64, 400.0, 1.409, 1e4  # angstrom
y, x = np.mgrid[:N, :N] - N // 2
radius, angle = np.hypot(y, x), np.arctan2(y, x)
spokes = (np.sin(8 * angle) > 0) & (radius > 3) & (radius < 22)
star = (1 - 0.1 * spokes) * np.exp(-0.8j * spokes)

bend = 1.5 * np.cos(2 * angle) * (radius / 17) ** 2 + np.cos(3 * angle) * (radius / 17) ** 3
pupil = ((radius > 6) & (radius < 17)) * np.exp(1j * bend)
focus = torch.as_tensor(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil))))
behind = np.linspace(500, 1700, 8) * MICROMETRE
way = torch.tensor(behind.mean())
probe = fly(focus, angular_spectrum((N, N), (PIXEL, PIXEL), WAVELENGTH, way)).numpy()
places = np.full((len(behind), 2), N // 2 * PIXEL)
scan = pl.simulate.axial_scan(star, PIXEL, places, -behind, probe, wavelength=WAVELENGTH, dose=1e6)

figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for panel, number in zip(axes, (0, 2, 5, 7), strict=True):
    panel.imshow(np.log1p(scan.counts[number]), cmap="magma")
    panel.set_title(f"height {scan.heights[number] / MICROMETRE:.0f} µm")
    panel.set_axis_off()

# %%
# Reconstruct with the known probe
# --------------------------------
# Heights are in the scan, so the model moves the probe along the beam by itself. Eight patterns are one
# batch: a full Newton step per epoch works.

rates = {"object": 1.0, "probe": 0, "positions": 0, "affine": 0}
tree = {"start": "none", "probe": {"stored": {"modes": 1}}, "rates": rates, "epochs": 120, "holdout": 0}
result = pl.reconstruct(pl.Reconstruct.of(tree), scan=scan)
print(result.verdict)

# %%
# Compare where the light is
# --------------------------

first = np.round(np.array(result.origin) / PIXEL).astype(int)
rows, columns = (slice(-a, -a + N) for a in first)
found = result.object[0][rows, columns]
light = np.abs(scan.probe[0]) ** 2
light = light * (light > 0.02 * light.max())
factor = (light * found.conj() * star).sum() / (light * np.abs(found) ** 2).sum()
gap = (light * np.abs(factor * found - star) ** 2).sum() / (light * np.abs(star) ** 2).sum()

figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for panel, image, title in zip(axes, (factor * found, star), ("found", "truth"), strict=True):
    panel.imshow(np.where(light > 0, np.angle(image), np.nan), cmap="gray", vmin=-1, vmax=0.2)
    panel.set_title(title)
    panel.set_axis_off()

# %%

error = float(np.sqrt(gap))
print(f"error of the object {error:.3f}")
assert error < 0.12
