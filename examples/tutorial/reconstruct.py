"""Chapter 1 of docs/tutorial.md: a reconstruction script, line by line.

python examples/tutorial/reconstruct.py [--show] [--pictures DIR]
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import phaseloom as pl
from phaseloom import plot
from phaseloom.data.formats import native
from phaseloom.reconstruction.half_data_frc import halves

parser = argparse.ArgumentParser()
parser.add_argument("--show", action="store_true", help="open windows")
parser.add_argument("--pictures", type=Path, help="write pictures to this folder")
options = parser.parse_args()

scan = pl.read(pl.samples.far_field())
print(len(scan), "patterns of", scan.geometry.shape)
for finding in pl.inspect(scan):
    if finding.level != "good" or finding.name in ("overlap", "dose"):
        print(finding.level, finding.name, finding.value)

view = plot.browse(scan, index=258)
if options.show:
    plt.show()

middle = np.median(scan.positions, axis=0)
near = np.abs(scan.positions - middle).max(axis=1) < 3.4e4  # angstrom
part = scan.select(near)
native.write(part, "part.h5")
print(len(part), "patterns in the middle")

recipe = pl.Reconstruct.of({"file": "part.h5", "start": "none", "epochs": 16})
job = pl.Job.begin(recipe)
live = plot.Live(job.images) if options.show else None
for epoch in plot.watching(job):
    print(epoch)
    if live is not None:
        live.update()
first = job.result()
print(first.verdict)

pair = plot.compare(part, job.model.pattern, index=131)
plot.save(pair.figure, "compare.png")

recipe = recipe.with_settings(
    {"rates.background": 0.2, "rates.affine": 0, "rates.probe": {"rate": 0.4, "stop": 12}}
)
job = pl.Job.begin(recipe)
for epoch in job:
    if epoch.number == 10:
        job.rate("object", 0.1)  # half of the usual, from epoch 11 on
        job.rate("positions", 1.0, stop=14)  # frozen from epoch 15 on
    if epoch.number in (1, 11, 16):
        print(epoch, {name: round(rate, 3) for name, rate in epoch.rates.items()})
result = job.result()
print(result.verdict)

both = halves(job)
resolution = both.correlation.resolution()
print(f"half-data resolution {resolution / 10:.0f} nm, pixel {result.pixel[0] / 10:.0f} nm")

result.save("star.h5")
again = pl.load("star.h5")
phase = again.phase[again.window]
low, high = phase.min(), phase.max()
print(f"{phase.shape[0]} x {phase.shape[1]} pixels, phases from {low:.2f} to {high:.2f} rad")
Path("again.yaml").write_text(again.recipe)

if options.pictures:
    drawn = {"look": view.figure, "compare": pair.figure}
    drawn["phase"] = plot.comparison(first, result, both.correlation)
    for name, figure in drawn.items():
        path = options.pictures / f"tutorial-{name}.png"
        plot.save(figure, path, dpi=60)
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
if options.show:
    plt.show()
plt.close("all")
