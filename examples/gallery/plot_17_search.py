"""Search for a setting
====================

The defocus of a scan is searched by short trials of one parameter file. The folder of a search holds all
trials, and the best file.
"""

# %%
# The scan and the base file
# --------------------------
# The probe is held fixed in the search, since a free one makes up for a wrong defocus.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import phaseloom as pl
from phaseloom.data.formats import native
from phaseloom.search.recipe import Plan, Search
from phaseloom.search.runner import Searching

folder = Path(tempfile.mkdtemp())
pixel, window = 0.2, 32
places = pl.simulate.raster((9, 9), 0.7, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((80, 80), pixel, peak=0.4)
optics = {"energy": 80e3, "semiangle": 0.035, "defocus": 60.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1e5, **optics)
native.write(scan, folder / "scan.h5")

probe = {"focused": {"semiangle": "35 mrad", "defocus": "0 A", "modes": 1}}
rates = {"probe": 0, "positions": 0, "affine": 0}
base = pl.Reconstruct.of(
    {
        "file": str(folder / "scan.h5"),
        "probe": probe,
        "rates": rates,
        "start": "none",
        "preset": "none",
        "epochs": 8,
    }
)

# %%
# Search
# ------
# The path of a knob is that of the file. Lengths have units.

over = {"probe.focused.defocus": {"low": "20 A", "high": "100 A"}}
search = Search.of({"over": over, "trials": 14, "epochs": 8, "objective": "loss", "finals": 1})
searching = Searching(Plan.begin(base, search, folder / "find"))
trials = []
for trial in searching:
    trials.append(trial)
    print(trial)
report, *_ = searching.write_report()
print((folder / "find" / "best.yaml").read_text()[:200])

# %%
# Values and losses
# -----------------
# Trials that were given up early by the pruner have no final value.

done = [trial for trial in trials if trial.value is not None and trial.part == "trials"]
values = [trial.params["probe.focused.defocus"] for trial in done]
losses = [trial.value for trial in done]
figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
axis.semilogy(values, losses, "o")
axis.axvline(60, color="0.6", label="truth")
axis.set(xlabel="defocus, Å", ylabel="loss")
axis.legend()

# %%

best = values[losses.index(min(losses))]
print(f"best defocus {best:.1f} Å")
assert abs(best - 60) < 8
