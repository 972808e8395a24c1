"""Start from an earlier result
============================

Of two scans of one sample, the second run starts from the object and the probe of the first. A start that
is near the end needs small steps: with rates of 0.1 for object and probe it is closer to the counts
after its first epoch than a run from a flat object after four.
"""

# %%
# Two scans
# ---------

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import phaseloom as pl

pixel, window = 0.2, 48
truth = pl.simulate.atoms((112, 112), pixel)
optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
scans = []
for seed in (0, 1):
    places = pl.simulate.raster((14, 14), 0.8, jitter=0.08, seed=seed) + (window // 2 + 6) * pixel
    scans.append(pl.simulate.electron_scan(truth, pixel, places, dose=1e5, seed=seed, **optics)[0])

# %%
# The first run, from its optics, and saved
# -----------------------------------------

folder = Path(tempfile.mkdtemp())
probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 1}}
cold = pl.Reconstruct.of({"probe": probe, "start": "none", "preset": "none", "levels": 0, "epochs": 15})
first = pl.reconstruct(cold, scan=scans[0])
first.save(folder / "first.h5")

# %%
# The second, cold and warm
# -------------------------

file = str(folder / "first.h5")
start = {"object": {"from_file": {"path": file}}, "probe": {"from_file": {"path": file}}}
warm = cold.with_settings(start | {"rates": {"object": 0.1, "probe": 0.1}})
runs = {}
for name, recipe in {"cold": cold, "warm": warm}.items():
    result = pl.reconstruct(recipe.with_settings({"epochs": 6}), scan=scans[1])
    runs[name] = [epoch["loss"] for epoch in result.history]

figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
for name, losses in runs.items():
    axis.plot(range(1, len(losses) + 1), losses, "o-", label=name)
axis.set(xlabel="epoch", ylabel="loss")
axis.legend()

# %%

print({name: [round(loss, 2) for loss in losses] for name, losses in runs.items()})
assert runs["warm"][0] < min(runs["cold"][:4])
assert runs["warm"][-1] < min(1.0, runs["cold"][-1])
