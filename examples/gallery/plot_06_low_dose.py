"""Few electrons
=============

The same scan with 3e4, 3e3 and 3e2 electrons in each pattern, and what the number of electrons costs.
"""

# %%
# One truth, three doses
# ----------------------

import matplotlib.pyplot as plt

import phaseloom as pl

pixel, window = 0.2, 48
places = pl.simulate.raster((14, 14), 0.8, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((112, 112), pixel)
optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=3e4, **optics)
scans = {3e4: scan}
for dose in (3e3, 3e2):
    scans[dose] = pl.prepare.poisson(scan, dose=dose)  # thinned, as a shorter exposure would

# %%
# Reconstruct each
# ----------------
# The noise model is Poisson's, the default for electrons. Hold-out patterns stop a run that begins to fit
# noise.

probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 1}}
recipe = pl.Reconstruct.of({"probe": probe, "start": "none", "preset": "none", "epochs": 10})
results = {dose: pl.reconstruct(recipe, scan=part) for dose, part in scans.items()}

# %%
# Error and error bar
# -------------------
# ``result.uncertainty`` has the standard deviation of the phase that counting leaves.

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="compressed")
errors = {}
for panel, (dose, result) in zip(axes, results.items(), strict=True):
    compared = pl.reconstruction.compare.compare_with_truth(result, truth)
    errors[dose] = compared.error
    print(f"{dose:.0e} electrons: correlation {errors[dose].pearson:.3f}; {result.uncertainty}")
    panel.imshow(compared.found, cmap="gray")
    panel.set_title(f"{dose:.0e} electrons: {errors[dose].pearson:.2f}")
    panel.set_axis_off()

# %%

ranked = [errors[dose].nrmse for dose in (3e4, 3e3, 3e2)]
print("error at 3e4, 3e3 and 3e2 electrons:", *(f"{one:.2f}" for one in ranked))
assert ranked == sorted(ranked)
assert errors[3e4].pearson > 0.97
assert errors[3e3].pearson > 0.8
