"""A file format of your own
=========================

A reader is a function from a path to a scan. Once registered, it is a choice of every parameter file and of
`read`.
"""

# %%
# A file of an instrument
# -----------------------
# An imaginary microscope writes text: a header of ``name = value``, and counts of one pattern in each line.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl
from phaseloom.data.scan import wavelength_of

pixel, window = 0.25, 32
places = pl.simulate.raster((10, 10), 0.7) + (window // 2 + 4) * pixel
truth = pl.simulate.atoms((72, 72), pixel, peak=0.4)
optics = {"energy": 80e3, "semiangle": 0.03, "defocus": 50.0, "window": window}
scan, _ = pl.simulate.electron_scan(truth, pixel, places, dose=1e5, **optics)

file = Path(tempfile.mkdtemp()) / "monday.scope"
header = f"kilovolt = 80\nmrad_per_pixel = {1e3 * scan.geometry.angle[0]}\nstep_nm = 0.07\nrows = 10\n---\n"
lines = [" ".join(map(str, pattern.ravel())) for pattern in scan.counts]
file.write_text(header + "\n".join(lines))

# %%
# The reader
# ----------
# Lengths of the package are angstrom, angles radian, energies electronvolt. Keyword arguments become
# settings.


def scope(path: Path, /, *, distortion: float = 1.0) -> pl.Scan4D:
    """A scan in the text files of an imaginary microscope.

    Args:
        path: the file.
        distortion: factor of the step, as its calibration says.
    """
    head, body = path.read_text().split("---\n")
    facts = dict(line.split(" = ") for line in head.splitlines())
    counts = np.array([line.split() for line in body.splitlines()], np.uint16)
    side = round(counts.shape[1] ** 0.5)
    rows = int(facts["rows"])
    grid = (rows, len(counts) // rows)
    angle = float(facts["mrad_per_pixel"]) * 1e-3
    geometry = pl.Geometry(
        wavelength=wavelength_of(float(facts["kilovolt"]) * 1e3, "electron"),
        shape=(side, side),
        angle=(angle, angle),
        beam="electron",
    )
    step = float(facts["step_nm"]) * 10 * distortion
    return pl.Scan4D(
        counts=counts.reshape(-1, side, side),
        positions=pl.simulate.raster(grid, step),
        geometry=geometry,
        grid=grid,
    )


pl.register("formats", scope)
again = pl.read(file, format="scope")
print(len(again), "patterns, wavelength", round(again.geometry.wavelength, 5), "Å")

# %%
# In a recipe
# -----------
# ``read`` names the format and its settings, as a parameter file does.

probe = {"focused": {"semiangle": "30 mrad", "defocus": "50 A", "modes": 1}}
tree = {"file": str(file), "read": {"scope": {}}, "probe": probe, "start": "none", "preset": "none"}
result = pl.reconstruct(pl.Reconstruct.of({**tree, "epochs": 10}))
figure, axis = plt.subplots(figsize=(4, 3.6), layout="constrained")
axis.imshow(result.phase[result.window], cmap="gray")
axis.set_title(f"{again.metadata.get('title', file.name)}")
axis.set_axis_off()

# %%

print(f"loss {result.history[-1]['loss']:.2f}")
np.testing.assert_array_equal(again.counts, scan.counts)
np.testing.assert_allclose(again.geometry.wavelength, scan.geometry.wavelength)
assert result.history[-1]["loss"] < 1.6
