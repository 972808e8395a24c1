"""A constraint of your own
========================

A projection changes a part after an epoch. Its positional arguments say which part: this one takes the
phase, and keeps the atoms of few electrons and nothing else.
"""

# %%
# A scan of few electrons
# -----------------------

import matplotlib.pyplot as plt
from torch import Tensor

import phaseloom as pl

pixel, window = 0.2, 48
places = pl.simulate.raster((14, 14), 0.8, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((112, 112), pixel)
optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1.5e3, **optics)

# %%
# The function
# ------------
# Potentials of atoms are positive. Phases below the background are shrunk towards it, softly: the
# background itself is the median, as a constant phase means nothing.


def above_background(phase: Tensor, /, *, keep: float = 0.3) -> Tensor:
    """Phase whose part below the median of its slice is shrunk to ``keep`` times itself."""
    middle = phase.flatten(-2).median(-1).values[..., None, None]
    return middle + (phase - middle).clamp(min=0) + keep * (phase - middle).clamp(max=0)


pl.register("projections", above_background)

# %%
# With and without
# ----------------

probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 1}}
kind = {"pixels": {"kind": "amplitude and phase"}}  # the constraint acts on the phase alone
common = {"probe": probe, "object": kind, "start": "none", "preset": "none", "optimizer": "adam"}
common |= {"epochs": 20, "holdout": 0}
lists = {"without": [], "with": [{"above_background": {"keep": 0.3}}]}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
errors = {}
for panel, (name, projections) in zip(axes, lists.items(), strict=True):
    result = pl.reconstruct(pl.Reconstruct.of({**common, "projections": projections}), scan=scan)
    compared = pl.reconstruction.compare.compare_with_truth(result, truth)
    errors[name] = compared.error
    panel.imshow(compared.found, cmap="gray", vmin=-0.2, vmax=0.4)
    panel.set_title(f"{name}: correlation {errors[name].pearson:.3f}")
    panel.set_axis_off()

# %%
# The constraint is prior knowledge: it helps where it is true, and biases where it is not.

print({name: round(error.pearson, 3) for name, error in errors.items()})
assert errors["with"].pearson > errors["without"].pearson + 0.01
