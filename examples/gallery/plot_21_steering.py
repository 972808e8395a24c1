"""Steer a run
===========

A run reads commands from its folder between two epochs: a rate is changed, an epoch is taken back, and the
run is branched. Other programs and ``phaseloom steer`` send the same commands.
"""

# %%
# A run in a folder
# -----------------
# ``snapshots: 4`` keeps every fourth state to go back to.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl
from phaseloom.data.formats import native
from phaseloom.runs.control import read_answers, send_command

folder = Path(tempfile.mkdtemp())
pixel, window = 0.2, 32
places = pl.simulate.raster((10, 10), 0.7, jitter=0.05) + (window // 2 + 6) * pixel
truth = pl.simulate.atoms((84, 84), pixel, peak=0.4)
optics = {"energy": 80e3, "semiangle": 0.035, "defocus": 60.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1e5, **optics)
native.write(scan, folder / "scan.h5")

probe = {"focused": {"semiangle": "35 mrad", "defocus": "60 A", "modes": 1}}
tree = {"file": str(folder / "scan.h5"), "probe": probe, "start": "none", "preset": "none", "levels": 0}
recipe = pl.Reconstruct.of({**tree, "epochs": 16, "snapshots": 4, "rates": {"object": 0.4}})

# %%
# Commands
# --------
# After eight epochs the run is taken back to the fourth, and goes on with smaller steps of the object. Here
# the commands come from the same program; ``phaseloom steer RUN back 4`` sends the same line.

job = pl.Job.begin(recipe, folder / "run")
sent = False
for epoch in job:
    print(epoch)
    if epoch.number == 8 and not sent:
        sent = True
        send_command(folder / "run", "back", epoch=4)
        send_command(folder / "run", "set", {"rates.object": 0.2})
result = job.result()
for answer in read_answers(folder / "run").values():
    print(answer.command, answer.accepted, answer.reason)

# %%
# What is recorded
# ----------------
# The parameter file of the run has the commands, so that it repeats them.

text = (folder / "run" / "run.yaml").read_text()
print(text[text.index("steered") :].split("snapshots")[0])

again = pl.reconstruct(pl.Reconstruct.from_path(folder / "run" / "run.yaml"))

figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
axis.semilogy(
    [event["number"] for event in result.history], [event["loss"] for event in result.history], "o-"
)
axis.set(xlabel="epoch", ylabel="loss")

# %%
# A run from this file comes to the same bits.

answers = read_answers(folder / "run").values()
assert all(answer.accepted for answer in answers)
np.testing.assert_array_equal(again.object, result.object)
print(f"last loss {result.history[-1]['loss']:.3f}, the same in the repeated run")
assert result.history[-1]["loss"] < 1.3
