"""A twisted bilayer, layer by layer
=================================

Two hexagonal layers, turned by 8 degrees against each other and 60 Å apart. A sum over depth shows their
moiré; two slices show each layer.
"""

# %%
# Two layers
# ----------

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl

pixel, window, gap, size = 0.2, 48, 60.0, 112
y, x = (np.mgrid[:size, :size] - size / 2) * pixel


def layer(angle: float, spacing: float = 2.6) -> np.ndarray:
    """Phase of a hexagonal lattice of round atoms, at an angle in degrees."""
    directions = np.deg2rad(angle + np.array([0, 60, 120]))
    waves = [np.cos(2 * np.pi / spacing * (x * np.cos(t) + y * np.sin(t))) for t in directions]
    return 0.25 * np.exp(1.5 * (np.sum(waves, axis=0) / 3 - 1))


truth = np.stack([layer(0), layer(8)])
places = pl.simulate.raster((15, 15), 0.75, jitter=0.05) + (window // 2 + 6) * pixel
optics = {"energy": 80e3, "semiangle": 0.035, "defocus": 50.0, "window": window, "thickness": gap}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1e6, **optics)

# %%
# Reconstruct two slices
# ----------------------

probe = {"focused": {"semiangle": "35 mrad", "defocus": "50 A", "modes": 1}}
tree = {"probe": probe, "start": "none", "preset": "none", "epochs": 20}
tree["object"] = {"pixels": {"slices": 2, "thickness": f"{gap} A"}}
result = pl.reconstruct(pl.Reconstruct.of(tree), scan=scan)
print(result.verdict)

# %%
# The layers and their spectra
# ----------------------------
# The six spots of each layer's spectrum give its orientation.

found = np.angle(result.object)[:, *result.window]


def orientation(phase: np.ndarray) -> float:
    """Angle of the strongest lattice spot, in degrees modulo 60, on a fine grid of frequencies."""
    rows, columns = (np.arange(n) * pixel for n in phase.shape)
    taper = np.hanning(phase.shape[0])[:, None] * np.hanning(phase.shape[1])
    image = (phase - phase.mean()) * taper
    angles = np.deg2rad(np.arange(-30, 30, 0.25))
    power = []
    for t in angles:
        wave = np.exp(2j * np.pi / 2.6 * (columns[None] * np.cos(t) + rows[:, None] * np.sin(t)))
        power.append(abs((image * wave).sum()))
    return float(np.rad2deg(angles[np.argmax(power)]))


figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="compressed")
titles = ("first slice", "second slice", "sum")
for panel, image, title in zip(axes, (*found, found.sum(0)), titles, strict=True):
    panel.imshow(image, cmap="gray")
    panel.set_title(title)
    panel.set_axis_off()

# %%

angles = [orientation(image) for image in found]
print(f"orientations {angles[0]:.2f} and {angles[1]:.2f} degrees: twisted by {angles[1] - angles[0]:.2f}")
assert abs(angles[1] - angles[0] - 8) < 1
