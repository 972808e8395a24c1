"""Compare two runs
================

Are two results the same, and up to which detail? `compare_results` lays one on the other and correlates
them ring by ring; `list_differences` names the settings that differ.
"""

# %%
# Two halves of the electrons, two settings
# -----------------------------------------
# ``thin`` tosses a coin for each count: the halves have independent noise.

import matplotlib.pyplot as plt

import phaseloom as pl
from phaseloom.reconstruction.compare import compare_results, list_differences

pixel, window = 0.2, 48
places = pl.simulate.raster((14, 14), 0.8, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((112, 112), pixel)
optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=2e4, **optics)
halves = [pl.prepare.thin(scan, which=which) for which in (0, 1)]

probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 1}}
recipe = pl.Reconstruct.of({"probe": probe, "start": "none", "preset": "none", "epochs": 12})
other = recipe.with_settings({"noise": "amplitude", "epochs": 8})
for path, a, b in list_differences(recipe.to_tree(), other.to_tree()):
    print(path, a, "->", b)

# %%
# Reconstruct
# -----------

first, second = (pl.reconstruct(recipe, scan=half) for half in halves)
third = pl.reconstruct(other, scan=halves[0])
pairs = {"other counts": compare_results(first, second), "other settings": compare_results(first, third)}

# %%
# Ring by ring
# ------------
# Where the correlation of independent halves falls below the threshold, there is noise. Two runs on the
# same counts agree far beyond that: they share the noise, so their agreement is no resolution.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, pair in pairs.items():
    axes[0].plot(pair.correlation.frequency, pair.correlation.value, label=name)
axes[0].plot(pair.correlation.frequency, pair.correlation.threshold_one_seventh, "k:", label="1/7")
axes[0].set(xlabel="frequency, 1/Å", ylabel="ring correlation")
axes[0].legend()
drawn = axes[1].imshow(pairs["other counts"].difference, cmap="coolwarm", vmin=-0.1, vmax=0.1)
axes[1].set_title("difference of the halves, rad")
axes[1].set_axis_off()
figure.colorbar(drawn, ax=axes[1])

# %%

for name, pair in pairs.items():
    print(f"{name}: likeness {pair.likeness:.4f}, phases differ by {pair.difference_rms:.3f} rad rms")
resolution = pairs["other counts"].correlation.resolution("one-seventh")
print(f"half-data resolution {resolution:.2f} Å")
assert pairs["other settings"].difference_rms < pairs["other counts"].difference_rms
assert 2 * pixel <= resolution < 2
