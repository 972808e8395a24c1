"""A measured Siemens star
=======================

516 far-field X-ray patterns of a Siemens star (Velociprobe, Advanced Photon Source) come with the package.
This example takes the middle of the scan, which is enough for an image in seconds.
"""

# %%
# Read and look
# -------------
# The reader finds energy, distance, detector pixel and positions in the CXI file. `inspect` lists what is
# worth knowing before a reconstruction, with a level for each finding.

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl

scan = pl.read(pl.samples.far_field())
middle = np.median(scan.positions, axis=0)
part = scan.select(np.abs(scan.positions - middle).max(axis=1) < 3.4e4)  # angstrom
for finding in pl.inspect(part):
    print(f"{finding.level:8s} {finding.name:20s} {finding.value}")

# %%
# The patterns hold the shadow of the zone plate's central stop; the scan covers the middle of the star.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
axes[0].imshow(np.log1p(part.counts[len(part) // 2]), cmap="magma")
axes[0].set_title("log of the counts of one pattern")
axes[1].plot(*(part.positions[:, ::-1] / 1e4).T, ".")
axes[1].set(title="positions, µm", aspect="equal")
axes[1].invert_yaxis()

# %%
# Reconstruct
# -----------
# The file has a first probe, so no search for a start is needed. Twelve epochs are few, and enough here.

recipe = pl.Reconstruct.of({"start": "none", "epochs": 12})
result = pl.reconstruct(recipe, scan=part)
print(result.verdict)
print(f"loss of the patterns held out: {result.metrics['hold-out']:.2f} (1 is shot noise)")

# %%
# Phase and probe
# ---------------
# Gold retards hard X-rays less than vacuum does, so the spokes have a negative phase (see the page on
# conventions).

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
image = axes[0].imshow(result.phase[result.window], cmap="gray")
figure.colorbar(image, ax=axes[0], label="phase, rad")
axes[1].imshow(np.abs(result.probe[0]), cmap="viridis")
axes[1].set_title("modulus of the strongest probe mode")
for panel in axes:
    panel.set_axis_off()

# %%
# The spokes are much darker than the gaps: the phase has a wide range, and the held-out patterns are
# explained.

phase = result.phase[result.window]
contrast = np.percentile(phase, 95) - np.percentile(phase, 5)
print(f"contrast {contrast:.2f} rad")
assert contrast > 0.3
assert result.metrics["hold-out"] < 3
